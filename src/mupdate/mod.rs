//! MUPDATE (RFC 3656) as its reader speaks it, without I/O: bytes and time in, events and bytes out.
//!
//! Time is a [`Duration`] since a moment that the caller chose; it only grows.
//!
//! ```text
//! Login ─ Session ─┬─ Stream   UPDATE: the whole list, then every change
//!                  └─ Finder   FIND: single names
//! ```
//!
//! All three are driven alike: give them what came (`receive`) and what time it is (`tick`), send
//! what they have to say (`output`), and take what they found out. [`wire`] has the bytes,
//! [`response`] and [`command`] the lines. Nothing that writes can be said: see
//! [`Command`](command::Command).

use std::time::Duration;

pub mod banner;
pub mod command;
mod credentials;
mod failure;
mod find;
#[cfg(feature = "daemon")]
mod login;
pub mod response;
#[cfg(feature = "daemon")]
mod sasl;
mod session;
mod stream;
#[cfg(all(test, feature = "daemon"))]
pub(crate) mod tests;
pub mod wire;

pub use banner::family;
#[cfg(any(test, feature = "testing"))]
pub use banner::{Banner, BannerReader, Role};
pub use credentials::{Credentials, Mechanism, WhenTls};
pub use failure::{Failure, FailureKind};
pub use find::{Finder, Listed, Ticket};
#[cfg(test)]
pub(crate) use find::{MAX_IN_FLIGHT, MAX_QUEUED};
#[cfg(feature = "daemon")]
pub use login::{Login, Need, Policy, Step};
#[cfg(feature = "daemon")]
pub(crate) use sasl::{Circumstances, Exchange, choose};
pub use session::{Session, Timings};
pub use stream::{Limit, Stream};

use crate::model::doubt::Doubt;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// What an UPDATE brings, in this order: the records of the list, [`Event::Listed`], then changes
/// and barriers for as long as the connection lives.
///
/// Nothing else orders it: a change may be told twice, a deletion may be of a name that was never
/// told (Cyrus `imap/mupdate.c:sendupdates` looks each name up when it sends).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The name has this record: [`State::Active`](crate::model::record::State::Active) (MAILBOX) or
    /// [`State::Reserved`](crate::model::record::State::Reserved) (RESERVE).
    Record(MailboxName, Record),
    /// The name has no record any more. Only after [`Event::Listed`].
    Deleted(MailboxName),
    /// The list is complete.
    Listed,
    /// A NOOP was answered: every change that the master knew when it was sent, at `asked`, has
    /// been told before this.
    Current {
        /// When the NOOP was sent.
        asked: Duration,
    },
}

/// What the master says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It has this record.
    Found(Record),
    /// It has none: certain, for the server is the master.
    Absent,
    /// It could not be asked, or it is no master whose "absent" proves anything. The text says why,
    /// for the one who must act.
    Unsure(Doubt),
}
