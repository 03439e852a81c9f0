//! The changes after a full sync.

use std::time::{Duration, SystemTime};

use super::{ACCEPT_AFTER, Fate, HeldBack, Mark, PutOutcome, ReplicaMeta, SyncReport, Transaction};
use crate::model::loss_guard::{Loss, LossGuard};
use crate::model::mod_time::ModTime;
use crate::mupdate::Event;

/// Interval at which [`ReplicaMeta::as_of`] and [`ReplicaMeta::followed`] are written, beside every change.
const STAMP: Duration = Duration::from_secs(60);

/// Interval while a missing name or a loss waits for its time: a restart prolongs the wait by it.
const STAMP_WAITING: Duration = Duration::from_secs(5);

/// Applies changes to the replica, any number in one transaction, and detects great losses.
///
/// A great loss is held back as in a full sync, except that these names are gone from the replica: the
/// master announced each deletion. [`HeldBack`] then keeps misses from being believed.
#[derive(Debug)]
pub struct ChangeApplier {
    accept_after: Duration,
    guard: LossGuard,
    stamped: Option<Duration>,
    /// Time up to which [`ReplicaMeta::followed`] has been counted.
    counted: Duration,
    /// Number of records received since the last full sync.
    told: u64,
    /// A record of this transaction was unchanged: a name that a list lacked may be back.
    repeated: bool,
}

impl Default for ChangeApplier {
    fn default() -> Self {
        Self::new(ACCEPT_AFTER, Duration::ZERO)
    }
}

impl ChangeApplier {
    /// Follows from `now` on.
    pub fn new(accept_after: Duration, now: Duration) -> Self {
        let (guard, stamped) = (LossGuard::default(), None);
        Self { accept_after, guard, stamped, counted: now, told: 0, repeated: false }
    }

    /// Writes the change of an event. A repeated event changes nothing, nor do barriers and the end of
    /// the list.
    pub fn apply<B: Transaction>(
        &mut self,
        batch: &mut B,
        event: &Event,
        clock: SystemTime,
    ) -> Result<(), B::Error> {
        match event {
            Event::Record(name, record) => {
                self.told = self.told.saturating_add(1);
                self.repeated |= batch.put(name, record, ModTime::at(clock))? == PutOutcome::Same;
            }
            Event::Deleted(name) => drop(batch.delete(name)?),
            Event::Listed | Event::Current { .. } => {}
        }
        Ok(())
    }

    /// Returns the time to add to [`ReplicaMeta::followed`] since the last call.
    pub fn passed(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.counted);
        self.counted = self.counted.max(now);
        passed
    }

    /// Completes a transaction before its commit. `as_of` is the time of the last barrier among these
    /// changes, if there is one. Also removes the missing names whose time is over. Returns metadata
    /// and number of names, for [`ReplicaState::stored`](super::ReplicaState::stored).
    pub fn finish<B: Transaction>(
        &mut self,
        batch: &mut B,
        as_of: Option<SystemTime>,
        now: Duration,
        clock: SystemTime,
    ) -> Result<(ReplicaMeta, u64), B::Error> {
        let mut about = batch.about()?;
        about.followed += self.passed(now);
        if as_of.is_some() {
            about.as_of = as_of;
            self.stamped = Some(now);
            // A barrier: the master has announced the names that it got back.
            if about.wants_sweep(self.accept_after) {
                about.oldest = self.sweep(batch, &about)?;
            }
        }
        if let Some(held_back) = about.held_back.as_mut().filter(|_| self.repeated) {
            held_back.lacked = None;
        }
        self.repeated = false;
        let names = batch.names()?;
        self.guard.seen(names, now);
        if let Some(Loss { had, lost }) = self.guard.distrust().filter(|loss| loss.had > 0)
            && about.held_back.is_none()
        {
            let (since, began, last) = (clock, about.followed, about.followed);
            // These names are gone: none of them is lacked.
            let (lacked, accepted) = (None, false);
            about.held_back = Some(HeldBack { since, began, last, had, lost, lacked, accepted });
        }
        batch.set_about(&about)?;
        Ok((batch.about()?, names))
    }

    /// Removes the missing names whose time is over. Returns when the first of the others went missing
    /// that only waits for its time.
    fn sweep<B: Transaction>(
        &self,
        batch: &mut B,
        about: &ReplicaMeta,
    ) -> Result<Option<Duration>, B::Error> {
        let mut oldest = None;
        let mut judge = |_: &[u8], missing: Option<&Mark>| match missing {
            Some(mark) if mark.is_over(&about.master, about.followed, self.accept_after) => {
                Fate::Remove
            }
            Some(mark) if mark.master == about.master => {
                oldest = Some(oldest.map_or(mark.at, |oldest: Duration| oldest.min(mark.at)));
                Fate::Keep
            }
            _ => Fate::Keep,
        };
        batch.sweep(&Mark::default(), &mut judge)?;
        Ok(oldest)
    }

    /// Whether the time of the last barrier is due to be written, if nothing else is.
    pub fn wants_stamp(&self, about: &ReplicaMeta, now: Duration) -> bool {
        let waits = about.held_back.is_some() || about.missing > 0;
        let interval = if waits { STAMP_WAITING } else { STAMP };
        self.stamped.is_none_or(|stamped| now.saturating_sub(stamped) >= interval)
            || self.as_of(about, now).wants_sweep(self.accept_after)
    }

    /// The stored metadata, with the time since it was stored.
    fn as_of(&self, about: &ReplicaMeta, now: Duration) -> ReplicaMeta {
        let followed = about.followed + now.saturating_sub(self.counted);
        ReplicaMeta { followed, ..about.clone() }
    }

    /// Whether to request the held-back list again: its time has come, or enough records (more than half of
    /// the loss) were received since, so that the master may have got back the lost names. Backends that are
    /// started announce all their mailboxes to a master that was emptied (`ctl_mboxlist -m`).
    pub fn wants_list(&self, about: &ReplicaMeta, now: Duration) -> bool {
        self.as_of(about, now).wants_list(self.accept_after)
            || about.held_back.as_ref().is_some_and(|held_back| self.told > held_back.lost / 2)
    }

    /// A full sync was committed, after which the replica has `names` names. If it has confirmed a
    /// loss, losses are counted anew; else they add up over any number of connections.
    pub fn listed(&mut self, report: &SyncReport, names: u64, now: Duration) {
        self.told = 0;
        if report.released {
            self.guard = LossGuard::default();
        }
        self.guard.seen(names, now);
        if self.guard.distrust().is_some() {
            // The loss must be written before the first barrier after the list makes misses believed.
            self.stamped = None;
        }
    }
}
