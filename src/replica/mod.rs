//! The logic of a replica of the master's mailbox list, without I/O: what a full list, a change, a
//! barrier and a lost connection do to it, and how far it may be believed.
//!
//! Where it is kept is a [`Transaction`]'s care. One thread writes, with these:
//!
//! * [`FullSync`] reads a full list into one batch and takes away what did not come, unless that is
//!   so much that the list is [held back](HeldBack).
//! * [`ChangeApplier`] applies the changes that come after it, any number to a batch.
//!
//! All others read [`ReplicaState`]: how fresh the replica is, and whether a miss in it may be believed.
//!
//! Three kinds of time: what is said to somebody is a `SystemTime`; what is waited for is a
//! [`Duration`] since a moment of the caller's choice, which only grows; and what is waited for over
//! restarts is measured by [`ReplicaMeta::followed`], which no clock step changes.
//!
//! # Names that were known
//!
//! | how the name went | what becomes of it |
//! |---|---|
//! | `DELETE` in the stream | its record is removed |
//! | not in a full list | [`Missing`] |
//! | not in a full list that has lost much | its record stays: the list is [held back](HeldBack) |
//!
//! The mail of a missing name is deferred. That ends when the name is told again, when it is told
//! to be deleted, by `replica accept`, or after `accept-after`, if the master that had the name
//! still lacks it.

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
