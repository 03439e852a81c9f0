//! Reasons why a name is certain neither to exist nor to be absent.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Cause of a [`Doubt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DoubtKind {
    /// The list cannot be opened, read or locked.
    Unreadable,
    /// The list, or the record of the name, is damaged.
    Damaged,
    /// The list has no user's mailbox. An empty list makes no recipient unknown.
    Empty,
    /// The list lost more names than the loss guard allows.
    LostNames,
    /// The list has records of other servers, and no MUPDATE server is configured to confirm a miss.
    Incomplete,
    /// The replica was never synchronised with the master.
    NeverSynchronised,
    /// A full sync that lost too many names is held back.
    HeldBack,
    /// Later changes of the master may be missing.
    Stale,
    /// The name was reserved or known, and is gone from the list without a DELETE.
    Unsettled,
    /// There is no connection to the MUPDATE server or to the slave's kick socket.
    Unreachable,
    /// The MUPDATE server or the slave did not answer in time.
    TimedOut,
    /// The MUPDATE server refused the request, or its answer was not understood.
    Refused,
    /// Too many requests are queued, or the client no longer waits for the answer.
    GivenUp,
}

/// Reason why a name is certain neither to exist nor to be absent. Its recipient is deferred.
///
/// Displays a text for the postmaster. Doubts are built from the errors of the modules, each of
/// which has its texts in one place. Callers match on the [`kind`](Self::kind).
#[derive(Clone, PartialEq, Eq)]
pub struct Doubt {
    kind: DoubtKind,
    text: Arc<str>,
}

impl Doubt {
    /// Creates a doubt with the text of an error.
    pub fn new(kind: DoubtKind, text: impl fmt::Display) -> Self {
        Self { kind, text: text.to_string().into() }
    }

    /// Returns the cause.
    pub fn kind(&self) -> DoubtKind {
        self.kind
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.kind, self.text)
    }
}

impl std::error::Error for Doubt {}

/// Error that leaves a name in doubt.
pub(crate) trait Doubtful: fmt::Display {
    /// Returns the cause.
    fn doubt_kind(&self) -> DoubtKind;
}

impl Doubtful for Doubt {
    fn doubt_kind(&self) -> DoubtKind {
        self.kind
    }
}

impl Doubtful for io::Error {
    fn doubt_kind(&self) -> DoubtKind {
        match self.kind() {
            io::ErrorKind::TimedOut => DoubtKind::TimedOut,
            _ => DoubtKind::Unreadable,
        }
    }
}

#[cfg(test)]
impl Doubt {
    /// Whether the text contains this substring.
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

#[cfg(test)]
impl From<&str> for Doubt {
    fn from(text: &str) -> Self {
        Self::new(DoubtKind::Unreadable, text)
    }
}
