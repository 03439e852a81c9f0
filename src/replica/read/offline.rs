//! The replica in a process that does not follow the master.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::model::doubt::Doubt;
use crate::model::list::MailboxList;
use crate::os::pinned_path::PinnedPath;
use crate::replica::store::ReplicaList;
use crate::replica::{ReplicaDoubt, ReplicaMeta, ReplicaSource, ReplicaStatus, SourceTrust};

/// Trust in a replica by its stored metadata: for a short command, beside the daemon or without one. It
/// does not know how fresh the replica is, so the master confirms each miss; but while a loss is held
/// back no miss is believed.
#[derive(Debug, Clone)]
pub struct OfflineReplica {
    list: Arc<dyn ReplicaInfo>,
    max_age: Option<Duration>,
}

/// Access to the metadata of a replica.
trait ReplicaInfo: std::fmt::Debug + Send + Sync {
    /// Returns the metadata and the number of names.
    fn about(&self) -> Result<(ReplicaMeta, u64), Doubt>;

    /// When the replica was last equal to the master's list. May be cached.
    fn as_of(&self) -> Result<Option<SystemTime>, Doubt> {
        Ok(self.about()?.0.as_of)
    }
}

impl ReplicaInfo for ReplicaList {
    fn about(&self) -> Result<(ReplicaMeta, u64), Doubt> {
        self.about().map_err(Into::into)
    }
}

impl ReplicaInfo for crate::replica::store::LocklessReplica {
    fn about(&self) -> Result<(ReplicaMeta, u64), Doubt> {
        self.about()
    }

    fn as_of(&self) -> Result<Option<SystemTime>, Doubt> {
        self.cached_meta(|about| about.as_of)
    }
}

impl OfflineReplica {
    /// The replica in a directory, which need not exist. Hits are believed up to this age; `None`: any
    /// age.
    ///
    /// # Errors
    ///
    /// If the directory cannot be one: the path is empty, or relative to one that is gone.
    pub fn open(dir: &Path, max_age: Option<Duration>) -> std::io::Result<ReplicaSource> {
        Ok(Self::of(Arc::new(ReplicaList::open(dir)?), max_age))
    }

    /// The replica whose `data.mdb` is at this path, read without LMDB.
    pub(crate) fn lockless(at: Arc<PinnedPath>, max_age: Option<Duration>) -> ReplicaSource {
        Self::of(
            Arc::new(crate::replica::store::LocklessReplica::at(
                at,
                crate::replica::read::reader::HIT_AGE,
            )),
            max_age,
        )
    }

    fn of<L: MailboxList + ReplicaInfo + 'static>(
        list: Arc<L>,
        max_age: Option<Duration>,
    ) -> ReplicaSource {
        let trust = Self { list: Arc::clone(&list) as Arc<dyn ReplicaInfo>, max_age };
        ReplicaSource { list, trust: Arc::new(trust) }
    }
}

/// Time since the replica was equal to the master's list, to some 10 ms; `None`: never.
fn age(as_of: Option<SystemTime>) -> Option<Duration> {
    // A clock that was set back makes the age 0.
    Some(now().duration_since(as_of?).unwrap_or_default())
}

/// Time of the last clock tick: exact enough for an age, and cheap for a hit.
fn now() -> SystemTime {
    let tick = || {
        let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).ok()?;
        let (seconds, rest) = (now.tv_sec().try_into().ok()?, now.tv_nsec().try_into().ok()?);
        UNIX_EPOCH.checked_add(Duration::new(seconds, rest))
    };
    tick().unwrap_or_else(SystemTime::now)
}

impl SourceTrust for OfflineReplica {
    fn hits(&self) -> Result<(), ReplicaDoubt> {
        let Some(max_age) = self.max_age else { return Ok(()) };
        let as_of = self.list.as_of().map_err(ReplicaDoubt::Unreadable)?;
        match (age(as_of), as_of) {
            (Some(age), Some(as_of)) if age > max_age => {
                Err(ReplicaDoubt::Stale { since: as_of, age: None, disconnected: false })
            }
            (None, _) => Err(ReplicaDoubt::NeverSynchronised),
            _ => Ok(()),
        }
    }

    fn misses(&self) -> Result<(), ReplicaDoubt> {
        let (about, names) = self.list.about().map_err(ReplicaDoubt::Unreadable)?;
        about.misses(names)
    }

    fn age(&self) -> Option<Duration> {
        age(self.list.as_of().ok()?)
    }

    fn status(&self) -> Option<ReplicaStatus> {
        let (about, names) = self.list.about().ok()?;
        let state = match (&about.held_back, about.synchronised) {
            (Some(_), _) => "held-back",
            (None, None) => "never",
            (None, Some(_)) => "stale",
        };
        Some(ReplicaStatus {
            state,
            doubt: about.misses(names).err(),
            age: age(about.as_of),
            names,
            synchronised: about.synchronised,
            master: about.master,
            release: about.release,
            missing: about.missing,
            unusable: None,
            flipping: Vec::new(),
            held_back: about.held_back,
        })
    }
}
