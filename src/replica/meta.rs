//! Metadata of a replica.

use std::time::{Duration, SystemTime};

use super::{ReplicaDoubt, utc};
use crate::model::name::KeyGeneration;
use crate::mupdate::banner::family;

/// Metadata of a replica, stored beside its records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaMeta {
    /// Time of the last full sync; `None`: never.
    pub synchronised: Option<SystemTime>,
    /// Time up to which it has every change of the master, less the minute that
    /// [`ChangeApplier`](super::ChangeApplier) may wait.
    pub as_of: Option<SystemTime>,
    /// Name of the master, from its banner (`servername`).
    pub master: String,
    /// Release of the master, from its banner (`3.6.1-Debian-…`).
    pub release: String,
    /// A loss that is held back.
    pub held_back: Option<HeldBack>,
    /// Time for which a process followed the master, by monotonic clocks, summed over all processes.
    /// Time without a process does not count.
    pub followed: Duration,
    /// Number of names that are [`Missing`](super::Missing).
    pub missing: u64,
    /// When the first name went missing that only waits for its time, by [`followed`](Self::followed).
    pub oldest: Option<Duration>,
}

impl ReplicaMeta {
    /// Whether a miss may be believed, apart from freshness.
    ///
    /// # Errors
    ///
    /// Why not.
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

    /// Whether a full sync that is held back is to be requested again: its loss was accepted, or has
    /// waited for `accept_after`.
    pub fn wants_list(&self, accept_after: Duration) -> bool {
        self.held_back.as_ref().is_some_and(|held| {
            held.accepted || self.followed.saturating_sub(held.last) >= accept_after
        })
    }

    /// Whether a missing name may have waited for `accept_after`.
    pub(super) fn wants_sweep(&self, accept_after: Duration) -> bool {
        let waited = |oldest| self.followed.saturating_sub(oldest) >= accept_after;
        self.missing > 0 && self.oldest.is_some_and(waited)
    }
}

/// Generation of keys of a release, as a banner has it.
pub(crate) fn generation(release: &str) -> Option<KeyGeneration> {
    match family(release)? < (3, 6) {
        true => Some(KeyGeneration::Internal),
        false => Some(KeyGeneration::Separated),
    }
}

/// A loss of names that is held back: until all names are back, until the postmaster accepts it, or
/// until a full sync confirms it after a wait. Meanwhile no miss is believed.
///
/// Names that a list lacks are kept until then. Names whose deletion the master has announced are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// Time of the first such list, by the clock of this host: to be shown.
    pub since: SystemTime,
    /// When the wait began, by [`ReplicaMeta::followed`].
    pub began: Duration,
    /// When the latest such list came, by [`ReplicaMeta::followed`].
    pub last: Duration,
    /// Number of names before the loss.
    pub had: u64,
    /// Number of them that were lost.
    pub lost: u64,
    /// Checksum of the names that every list has lacked since the wait began; `None`: some may have been
    /// back meanwhile, or have gone later.
    pub lacked: Option<u64>,
    /// Whether the postmaster has accepted it (`murder-route replica accept`).
    pub accepted: bool,
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { had, lost, since, .. } = self;
        write!(f, "the master's list has lost {lost} of {had} names, held back since ")?;
        write!(f, "{}; if that is meant: murder-route replica accept", utc(*since))
    }
}
