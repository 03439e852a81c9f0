//! The reading side of MUPDATE (RFC 3656), without I/O: bytes and time in, events and bytes out.
//!
//! Time is a [`Duration`] since an origin that the caller chose. It is monotonic.
//!
//! ```text
//! Login ─ Session ─┬─ Stream   UPDATE: the whole list, then every change
//!                  └─ Finder   FIND: single names
//! ```
//!
//! All three have the same interface: pass in received bytes (`receive`) and the time (`tick`), send
//! the `output`, and take the results. [`wire`] parses bytes, [`response`] and [`command`] lines. No
//! command writes: see [`Command`](command::Command).

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

/// Event of an UPDATE, in this order: the records of the list, [`Event::Listed`], then changes and
/// barriers until the connection ends.
///
/// No other order is guaranteed: a change may be sent twice, and a deletion may name a mailbox that
/// was never sent (Cyrus `imap/mupdate.c:sendupdates` looks each name up when it sends).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The name has this record: [`State::Active`](crate::model::record::State::Active) (MAILBOX) or
    /// [`State::Reserved`](crate::model::record::State::Reserved) (RESERVE).
    Record(MailboxName, Record),
    /// The name no longer has a record. Only after [`Event::Listed`].
    Deleted(MailboxName),
    /// The list is complete.
    Listed,
    /// A barrier: a NOOP was answered. Every change that the master knew at `asked` precedes this
    /// event.
    Current {
        /// Time at which the NOOP was sent.
        asked: Duration,
    },
}

/// Answer of the server for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The name has this record.
    Found(Record),
    /// The name has no record. Certain, because the server is the master.
    Absent,
    /// The server could not be asked, or it is not a master, so its miss is not certain. The text
    /// gives the reason for the postmaster.
    Unsure(Doubt),
}
