//! The replica of the master's mailbox list: its logic, its store and its readers.
//!
//! The logic does no I/O and reads no clock; a [`Transaction`] is its port to the store. One thread
//! writes, driven by [`writer_logic`]:
//!
//! * [`FullSync`] reads a full list into one transaction and removes what the list lacks, unless that is
//!   so much that the list is [held back](HeldBack).
//! * [`ChangeApplier`] applies the changes after it, any number in one transaction.
//!
//! All others read [`ReplicaState`]: how fresh the replica is, and whether a miss in it is believed.
//!
//! Three kinds of time: a time that is shown is a `SystemTime`; a wait is measured by a `Duration` since
//! a moment of the caller's choice, which only grows; and a wait over restarts is measured by
//! [`ReplicaMeta::followed`], which no clock step changes.
//!
//! # Names that vanish
//!
//! | how the name went | what happens |
//! |---|---|
//! | `DELETE` in the stream | its record is removed |
//! | not in a full sync | [`Missing`] |
//! | not in a full sync that has lost much | its record stays: the full sync is [held back](HeldBack) |
//!
//! The mail of a missing name is deferred. That ends when the stream has the name again, when it has its
//! deletion, by `replica accept`, or after `accept-after`, if the master that had the name still lacks
//! it.

mod apply;
mod doubt;
mod full_sync;
#[cfg(test)]
mod losses_tests;
mod meta;
mod missing;
pub mod read;
mod recent_deletions;
mod source;
mod state;
pub mod store;
#[cfg(test)]
mod tests;
mod transaction;
mod utc;
pub mod writer_logic;

pub use apply::ChangeApplier;
pub use doubt::ReplicaDoubt;
pub use full_sync::{FullSync, SyncContext, SyncReport};
pub(crate) use meta::generation;
pub use meta::{HeldBack, ReplicaMeta};
pub use missing::{Fate, Mark, Missing, Swept};
pub use source::{ReplicaSource, SourceTrust};
#[cfg(any(test, feature = "testing"))]
pub use state::Freshness;
pub use state::{ReplicaState, ReplicaStatus};
pub use transaction::{PutOutcome, Transaction};
pub use utc::utc;

pub use crate::model::loss_guard::ACCEPT_AFTER;
