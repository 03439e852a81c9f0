//! Reasons why a list gives no answer.

use std::io;
use std::time::Duration;

use crate::cyrusdb::error::Error;
use crate::cyrusdb::value::RecordError;
use crate::model::doubt::{DoubtKind, Doubtful};
use crate::model::name::MailboxName;
use crate::model::shown::Shown;

/// Whether a lookup may wait for a lock, or until a whole file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitPolicy {
    Allowed,
    Never,
}

/// Reason why the file cannot be read now.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The answer takes a lock or the reading of a whole file, and the caller must not wait.
    #[error("locked by a writer, or to be read whole")]
    WouldWait,
    /// A writer kept its lock until the timeout.
    #[error("locked by a writer for more than {0:?}")]
    Locked(Duration),
    /// The only descriptor is shared, so that a lock on it would not be ours alone.
    #[error("cannot be locked: this process may no longer open it")]
    Unlockable,
    /// Writers changed the file during each attempt.
    #[error("{0}")]
    Changing(&'static str),
    /// The file itself.
    #[error(transparent)]
    File(Error),
}

impl Doubtful for ReadError {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Self::Locked(_) => DoubtKind::TimedOut,
            Self::WouldWait | Self::Unlockable | Self::Changing(_) => DoubtKind::Unreadable,
            Self::File(error) => Doubtful::doubt_kind(error),
        }
    }
}

impl Doubtful for Error {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Self::Io(error) => Doubtful::doubt_kind(error),
            Self::Corrupt { .. } => DoubtKind::Damaged,
            Self::Empty => DoubtKind::Empty,
            Self::Unsupported(_) | Self::Unknown => DoubtKind::Unreadable,
        }
    }
}

/// A record that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("record of {name}: {error}")]
pub(super) struct BadRecord {
    pub(super) name: MailboxName,
    pub(super) error: RecordError,
}

impl Doubtful for BadRecord {
    fn doubt_kind(&self) -> DoubtKind {
        DoubtKind::Damaged
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        match error {
            // open(2) with O_NONBLOCK: another process has a lease on the file.
            Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => Self::WouldWait,
            error => Self::File(error),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Error::from(error).into()
    }
}

impl ReadError {
    /// An inconsistency at this offset, which may be a torn read.
    pub(super) fn corrupt(offset: u64, what: &str) -> Self {
        Self::File(Error::corrupt(offset, what))
    }

    /// Whether a retry may succeed, since a writer may have been at work.
    pub(super) fn may_be_torn(&self) -> bool {
        matches!(self, Self::File(Error::Corrupt { .. }))
    }

    /// Whether a writer's lock, or a network file system, did not answer in time.
    pub(super) fn is_timeout(&self) -> bool {
        match self {
            Self::Locked(_) => true,
            Self::File(Error::Io(error)) => error.kind() == io::ErrorKind::TimedOut,
            _ => false,
        }
    }

    /// Whether the file, opened anew, may be readable.
    pub(super) fn may_pass_by_reopening(&self) -> bool {
        let is_io = matches!(self, Self::Unlockable | Self::File(Error::Io(_)));
        is_io && !self.is_timeout()
    }
}

/// Reason why a list that can be read does not answer misses.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListDoubt {
    /// Records are missing or damaged.
    #[error(transparent)]
    Incomplete(Error),
    /// No key is that of a user's mailbox.
    #[error("there is no user's mailbox in it: is it Cyrus' mailbox list?")]
    NoUsers,
    /// The list lost more names than the loss guard allows.
    #[error(
        "the list has lost {lost} of {had} names; until they are back no miss is believed; \
         if that is meant: murder-route replica accept"
    )]
    Lost { had: u64, lost: u64 },
    /// The list lost all names.
    #[error("the list is empty")]
    Empty,
    /// There are records of other servers, this one among them, and no MUPDATE server.
    #[error(
        "has mailboxes of other servers ({}) but no MUPDATE server is configured to confirm misses; set \
         `mupdate_server` in imapd.conf or `servers` in [mupdate], or `misses = \"final\"` if the list \
         is complete by itself",
        Shown(.0)
    )]
    OtherServers(String),
}

impl Doubtful for ListDoubt {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Self::Incomplete(error) => Doubtful::doubt_kind(error),
            Self::NoUsers | Self::Empty => DoubtKind::Empty,
            Self::Lost { .. } => DoubtKind::LostNames,
            Self::OtherServers(_) => DoubtKind::Incomplete,
        }
    }
}
