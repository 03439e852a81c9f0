//! Names that vanished without a deletion.

use std::fmt;
use std::time::Duration;

use super::utc;
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::model::shown::Shown;

/// A name that vanished from the master's list without a deletion in the stream. A master that starts,
/// for instance, removes reserved names (`ctl_cyrusdb -r`), also those in the middle of an XFER. Its
/// mail is deferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its last record.
    pub record: Record,
    /// When and where it went missing.
    pub mark: Mark,
}

/// When and where a name went missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// Time by the clock of this host: to be shown.
    pub since: ModTime,
    /// Time by [`ReplicaMeta::followed`](super::ReplicaMeta::followed).
    pub at: Duration,
    /// Name of the master that had it, from its banner. Only this master can confirm that the name is
    /// gone: another one may never have had it.
    pub master: String,
}

impl Mark {
    /// Whether the wait is over for `master`, which still lacks the name.
    pub(super) fn is_over(&self, master: &str, followed: Duration, accept_after: Duration) -> bool {
        self.master == master && followed.saturating_sub(self.at) >= accept_after
    }
}

impl Missing {
    /// Returns the reason why the mail of `name` is deferred.
    pub fn doubt(&self, name: &MailboxName) -> Doubt {
        let text = format_args!("{name} {self}; if that is meant: murder-route replica accept");
        Doubt::new(DoubtKind::Unsettled, text)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record, mark } = self;
        let since = utc(mark.since.time());
        let server = Shown(record.server.as_deref().unwrap_or("an unknown server"));
        let state = record.state.as_str();
        write!(f, "vanished from the master's list without being deleted ({state} on {server}")?;
        write!(f, " until {since})")
    }
}

/// Verdict of a sweep on one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Keep,
    /// It goes missing; it stays as it is if it is missing already.
    Miss,
    /// It is removed.
    Remove,
}

/// Result of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Number of names that went missing.
    pub missed: u64,
    /// Number of names removed.
    pub removed: u64,
}
