//! What is kept of a replica beside its records.

use std::time::{Duration, SystemTime};

use super::{ReplicaDoubt, utc};
use crate::model::name::KeyGeneration;
use crate::mupdate::banner::family;

/// What is kept beside the records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaMeta {
    /// When the last full list was taken over; `None`: never.
    pub synchronised: Option<SystemTime>,
    /// Up to when every change of the master is in it, give or take [`ChangeApplier`](super::ChangeApplier)'s minute.
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
    /// How many names are [`Missing`](super::Missing).
    pub missing: u64,
    /// When the first name went missing that only waits for its time, as [`followed`](Self::followed).
    pub oldest: Option<Duration>,
}

impl ReplicaMeta {
    /// Whether the replica by itself, however fresh, lets a miss be believed. `Err` says why not.
    pub fn misses(&self, names: u64) -> Result<(), ReplicaDoubt> {
        if let Some(held_back) = &self.held_back {
            return Err(ReplicaDoubt::HeldBack(held_back.clone()));
        }
        if self.synchronised.is_none() {
            return Err(ReplicaDoubt::NeverSynchronised);
        }
        if names == 0 {
            return Err(ReplicaDoubt::Empty);
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
    pub(super) fn wants_sweep(&self, accept_after: Duration) -> bool {
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
