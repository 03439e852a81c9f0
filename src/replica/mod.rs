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
//! Three kinds of time: what is said to somebody is a [`SystemTime`]; what is waited for is a
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
mod full_sync;
#[cfg(test)]
mod losses_tests;
mod missing;
pub mod read;
mod recent_deletions;
mod state;
pub mod store;
#[cfg(test)]
mod tests;
mod utc;

use std::time::{Duration, SystemTime};

use crate::model::mod_time::ModTime;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::mupdate::banner::family;

pub use apply::ChangeApplier;
pub use full_sync::{FullSync, Heard, Outcome};
pub use missing::{Fate, Mark, Missing, Swept};
pub use state::{Freshness, ReplicaState, Status};
pub use utc::utc;

/// How long a loss that is held back waits for its confirmation (`accept-after`), unless configured
/// otherwise.
pub const ACCEPT_AFTER: Duration = Duration::from_secs(600);

/// One write transaction on the place where a replica is kept. Nobody sees anything of it before it
/// is committed, and then all of it; dropped, it leaves nothing behind.
///
/// After an error the transaction can only be dropped.
pub trait Transaction {
    /// Why the place cannot be read or written, in words.
    type Error: std::fmt::Display;

    /// The record of a name, as this transaction has left it.
    fn get(&self, name: &MailboxName) -> Result<Option<Record>, Self::Error>;
    /// Gives a name this record, and notes when it changed. Writes nothing, nor that, if it has this
    /// record already.
    fn put(
        &mut self,
        name: &MailboxName,
        record: &Record,
        changed: ModTime,
    ) -> Result<Put, Self::Error>;
    /// Removes a name, whether it has a record or is missing. Whether it had a record.
    fn delete(&mut self, name: &MailboxName) -> Result<bool, Self::Error>;
    /// Asks `judge` what becomes of each name, in internal form, with its mark if it is missing.
    /// Names that go missing now get `mark`.
    fn sweep(
        &mut self,
        mark: &Mark,
        judge: &mut dyn FnMut(&[u8], Option<&Mark>) -> Fate,
    ) -> Result<Swept, Self::Error>;
    /// How many names have a record.
    fn names(&self) -> Result<u64, Self::Error>;
    /// What is known of the replica as a whole.
    fn about(&self) -> Result<ReplicaMeta, Self::Error>;
    /// Replaces that, except [`ReplicaMeta::missing`], which the batch counts itself. Times may lose what
    /// is below a millisecond.
    fn set_about(&mut self, about: &ReplicaMeta) -> Result<(), Self::Error>;
    /// Notes a number for [`Self::noted`]. Any count of them takes little memory.
    fn note(&mut self, number: u64) -> Result<(), Self::Error>;
    /// Takes all numbers that were noted.
    fn noted(&mut self) -> Result<Vec<u64>, Self::Error>;
}

/// What became of a record that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The name was not known.
    New,
    /// The name was [`Missing`].
    Back,
    /// The name had another.
    ModTime,
    /// The name had it already.
    Same,
}

/// What is kept beside the records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaMeta {
    /// When the last full list was taken over; `None`: never.
    pub synchronised: Option<SystemTime>,
    /// Up to when every change of the master is in it, give or take [`ChangeApplier`]'s minute.
    pub as_of: Option<SystemTime>,
    /// The master it came from, as its banner names it (`servername`).
    pub master: String,
    /// The master's release, as its banner has it (`3.6.1-Debian-…`).
    pub release: String,
    /// A loss that is too great to be believed at once.
    pub held_back: Option<HeldBack>,
    /// For how long the replica has been followed, by monotonic clocks, over all processes together.
    /// Time without a process does not count.
    pub followed: Duration,
    /// How many names are [`Missing`].
    pub missing: u64,
    /// When the first name went missing that only waits for its time, as [`followed`](Self::followed).
    pub oldest: Option<Duration>,
}

impl ReplicaMeta {
    /// The generation of names that the master's release makes of recipients: its lists were, or
    /// are, written like that. `None` if the release cannot be told.
    pub fn key_generation(&self) -> Option<KeyGeneration> {
        generation(&self.release)
    }

    /// Whether the replica by itself, however fresh, lets a miss be believed. `Err` says why not.
    pub fn misses(&self, names: u64) -> Result<(), String> {
        if let Some(held_back) = &self.held_back {
            return Err(held_back.to_string());
        }
        if self.synchronised.is_none() {
            return Err("the replica has never been synchronised with the master".into());
        }
        if names == 0 {
            return Err("the master's list is empty, which is not believed of anybody".into());
        }
        Ok(())
    }

    /// Whether it is time to ask the master for the full list again because one is held back: the
    /// loss is accepted, or has waited for `accept_after`.
    pub fn wants_list(&self, accept_after: Duration) -> bool {
        self.held_back.as_ref().is_some_and(|held| {
            held.accepted || self.followed.saturating_sub(held.last) >= accept_after
        })
    }

    /// Whether a missing name may have waited for long enough.
    fn wants_sweep(&self, accept_after: Duration) -> bool {
        let waited = |oldest| self.followed.saturating_sub(oldest) >= accept_after;
        self.missing > 0 && self.oldest.is_some_and(waited)
    }
}

/// The generation of a release, as a banner has it.
pub(crate) fn generation(release: &str) -> Option<KeyGeneration> {
    match family(release)? < (3, 6) {
        true => Some(KeyGeneration::Internal),
        false => Some(KeyGeneration::Separated),
    }
}

/// A loss of names that is held back: until all names are back, until somebody accepts it, or until
/// a full list confirms it after a wait. Meanwhile no miss is believed.
///
/// Names that a list lacks are kept until then. Names that the master has told to be deleted are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// When the first such list came, by the clock of this host: to be shown.
    pub since: SystemTime,
    /// When the wait began, as [`ReplicaMeta::followed`].
    pub began: Duration,
    /// When the latest such list came, as [`ReplicaMeta::followed`].
    pub last: Duration,
    /// How many names the replica had before.
    pub had: u64,
    /// How many of them were lost.
    pub lost: u64,
    /// A checksum over the names that every list has lacked since the wait began; `None`: some may
    /// have been back meanwhile, or have gone later.
    pub lacked: Option<u64>,
    /// Whether somebody has said that it is right (`murder-route replica accept`).
    pub accepted: bool,
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { had, lost, since, .. } = self;
        write!(f, "the master's list has lost {lost} of {had} names, held back since ")?;
        write!(f, "{}; if that is meant: murder-route replica accept", utc(*since))
    }
}
