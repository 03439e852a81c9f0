//! Names that were known and went without a word.

use std::fmt;
use std::time::Duration;

use super::utc;
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::model::shown::Shown;

/// A name that was known and is in the master's list no more, although nobody has told that it was
/// deleted. A master that starts, for instance, removes reserved names (`ctl_cyrusdb -r`), also those
/// in the middle of an XFER. Its mail is deferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its last record.
    pub record: Record,
    /// How it went missing.
    pub mark: Mark,
}

/// When and where a name went missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// By the clock of this host: to be shown.
    pub since: ModTime,
    /// As [`ReplicaMeta::followed`](super::ReplicaMeta::followed).
    pub at: Duration,
    /// The master that had the name, as its banner names it. Only this one can say that the name is
    /// gone: another one may never have heard of it.
    pub master: String,
}

impl Mark {
    /// Whether `master`, which still lacks the name, is believed by now.
    pub(super) fn is_over(&self, master: &str, followed: Duration, accept_after: Duration) -> bool {
        self.master == master && followed.saturating_sub(self.at) >= accept_after
    }
}

impl Missing {
    /// Why the mail of `name` is deferred.
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

/// What becomes of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Keep,
    /// It goes missing; it stays as it is if it is missing already.
    Miss,
    /// It is removed.
    Remove,
}

/// What a sweep has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many names went missing.
    pub missed: u64,
    /// How many names were removed.
    pub removed: u64,
}
