//! Weight of the master's answers, and timeouts for them.

use std::time::Duration;

use super::negative_cache::NegativeCache;
use super::{FIND_TIMEOUT, SHORT_FIND_TIMEOUT};
use crate::model::doubt::{DoubtKind, Doubtful};
use crate::model::name::MailboxName;
use crate::mupdate::Finding;

/// State shared by all FINDs of one client.
#[derive(Debug, Default)]
pub struct MasterAnswers {
    /// Present only if the site sets `negative-cache` in `[mupdate]`.
    negative_cache: Option<NegativeCache>,
    /// Whether the last FIND had no answer in time.
    silent: bool,
}

impl MasterAnswers {
    /// Creates the state before any FIND. `keep`: `negative-cache`.
    pub fn new(keep: Option<Duration>) -> Self {
        Self { negative_cache: keep.map(NegativeCache::new), silent: false }
    }

    /// Whether a cached answer says that the master does not have this name. `up`: time since which
    /// the connection is up. Any event of the stream for the name ends that (`deleted_recently`).
    pub fn is_absent(
        &self,
        name: &MailboxName,
        up: Option<Duration>,
        deleted_recently: impl FnOnce() -> bool,
        now: Duration,
    ) -> bool {
        let (Some(cache), Some(up)) = (&self.negative_cache, up) else { return false };
        cache.has(name, up, now) && !deleted_recently()
    }

    /// Timeout for a FIND that is sent now. It is short after a FIND without an answer: lookups of
    /// a mail server queue behind each other, and unknown recipients must not delay known ones.
    pub fn timeout(&self) -> Duration {
        if self.silent { SHORT_FIND_TIMEOUT } else { FIND_TIMEOUT }
    }

    /// Records a timely answer to a FIND that was sent at `asked`.
    pub fn answered(
        &mut self,
        name: &MailboxName,
        finding: Option<&Finding>,
        asked: Duration,
        now: Duration,
    ) {
        self.silent = false;
        match (&mut self.negative_cache, finding) {
            (Some(cache), Some(Finding::Absent)) => cache.put(name, asked, now),
            (Some(cache), Some(Finding::Found(_))) => cache.forget(name),
            (Some(_), Some(Finding::Unsure(_)) | None) | (None, _) => {}
        }
    }

    /// Records that a FIND had no timely answer.
    pub fn unanswered(&mut self) {
        self.silent = true;
    }

    /// Records that a list has this name.
    pub fn is_listed(&mut self, name: &MailboxName) {
        if let Some(cache) = &mut self.negative_cache {
            cache.forget(name);
        }
    }
}

/// The replica beside the connection for FINDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed<D> {
    /// Name of the followed server, as it calls itself.
    pub server: Option<String>,
    /// The replica's doubt of "absent" over that connection, if any.
    pub doubt: Option<D>,
}

/// Reason for not believing "absent".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AbsenceDoubt<D> {
    /// The stream comes from another server: a check of one list says nothing about the other.
    #[error("the MUPDATE server `{asked}` was asked, and `{followed}` is followed")]
    OtherServer {
        /// The server that was asked.
        asked: String,
        /// The server whose stream is followed.
        followed: String,
    },
    /// The replica's own doubt.
    #[error("{0}")]
    Replica(D),
}

impl<D: Doubtful> Doubtful for AbsenceDoubt<D> {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Self::OtherServer { .. } => DoubtKind::Stale,
            Self::Replica(doubt) => doubt.doubt_kind(),
        }
    }
}

/// Weighs "absent" beside a replica. `asked`: the server of the connection for FINDs.
///
/// # Errors
///
/// The reason for not believing it.
pub fn weigh_absent<D>(asked: Option<&str>, followed: Followed<D>) -> Result<(), AbsenceDoubt<D>> {
    match (asked, followed.server, followed.doubt) {
        (Some(asked), Some(followed), _) if asked != followed => {
            Err(AbsenceDoubt::OtherServer { asked: asked.to_owned(), followed })
        }
        (.., Some(doubt)) => Err(AbsenceDoubt::Replica(doubt)),
        (.., None) => Ok(()),
    }
}
