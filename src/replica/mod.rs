//! The logic of a replica of the master's mailbox list, without I/O: what a full list, a change, a
//! barrier and a lost connection do to it, and how far it may be believed.
//!
//! Where it is kept is a [`Batch`]'s care. One thread writes, with these:
//!
//! * [`Listing`] reads a full list into one batch and takes away what did not come, unless that is
//!   so much that the list is [held back](HeldBack).
//! * [`Follower`] applies the changes that come after it, any number to a batch.
//!
//! All others read [`Standing`]: how fresh the replica is, and whether a miss in it may be believed.
//!
//! Two kinds of time: what is stored, or said to somebody, is a [`SystemTime`]; what is waited for
//! is a [`Duration`] since a moment of the caller's choice, which only grows.

mod follower;
mod listing;
mod recent;
mod standing;
#[cfg(test)]
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod utc;

use std::time::{Duration, SystemTime};

use crate::changes::Changed;
use crate::mailbox::{KeyGeneration, MailboxName, Record};
use crate::mupdate::banner::family;

pub use follower::Follower;
pub use listing::{Listing, Outcome};
pub use standing::{Freshness, Standing, Status};
pub use utc::utc;

/// How long a loss that is held back waits for its confirmation (`accept-after`), unless configured
/// otherwise.
pub const ACCEPT_AFTER: Duration = Duration::from_secs(600);

/// One write transaction on the place where a replica is kept. Nobody sees anything of it before it
/// is committed, and then all of it; dropped, it leaves nothing behind.
///
/// After an error the transaction can only be dropped.
pub trait Batch {
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
        changed: Changed,
    ) -> Result<Put, Self::Error>;
    /// Takes a name's record away. Whether it had one.
    fn delete(&mut self, name: &MailboxName) -> Result<bool, Self::Error>;
    /// Takes away the records of all names, in internal form, for which `keep` is false. How many
    /// there were.
    fn retain(&mut self, keep: &mut dyn FnMut(&[u8]) -> bool) -> Result<u64, Self::Error>;
    /// How many names have a record.
    fn names(&self) -> Result<u64, Self::Error>;
    /// What is known of the replica as a whole.
    fn about(&self) -> Result<About, Self::Error>;
    /// Replaces that. Times may lose what is below a millisecond.
    fn set_about(&mut self, about: &About) -> Result<(), Self::Error>;
}

/// What became of a record that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The name had none.
    New,
    /// The name had another.
    Changed,
    /// The name had it already.
    Same,
}

/// What is kept beside the records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// When the last full list was taken over; `None`: never.
    pub synchronised: Option<SystemTime>,
    /// Up to when every change of the master is in it, give or take [`Follower`]'s minute.
    pub as_of: Option<SystemTime>,
    /// The master it came from, as its banner names it (`servername`).
    pub master: String,
    /// The master's release, as its banner has it (`3.6.1-Debian-…`).
    pub release: String,
    /// A loss that is too great to be believed at once.
    pub held_back: Option<HeldBack>,
}

impl About {
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

    /// Whether it is time to ask the master for the full list again because one is held back:
    /// somebody has accepted it, or it has waited for so long.
    pub fn wants_list(&self, now: SystemTime, accept_after: Duration) -> bool {
        self.held_back.as_ref().is_some_and(|held| {
            // A clock that was put back must not keep it waiting.
            let waited = now.duration_since(held.last).unwrap_or(Duration::MAX);
            held.accepted || waited >= accept_after
        })
    }
}

/// The generation of a release, as a banner has it.
pub(crate) fn generation(release: &str) -> Option<KeyGeneration> {
    match family(release)? < (3, 6) {
        true => Some(KeyGeneration::Internal),
        false => Some(KeyGeneration::Separated),
    }
}

/// A loss of names that is held back: until somebody accepts it, or a second full list some time
/// later confirms it. Meanwhile no miss is believed.
///
/// What a list does not have is kept until then. What the master has told to be deleted, name by
/// name, is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// When the first such list came.
    pub since: SystemTime,
    /// When the latest such list came.
    pub last: SystemTime,
    /// How many names the replica had before.
    pub had: u64,
    /// How many of them were lost.
    pub lost: u64,
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
