//! The changes that come after a full list.

use std::time::{Duration, SystemTime};

use super::{About, Batch, HeldBack, Outcome};
use crate::changes::Changed;
use crate::mupdate::Event;
use crate::shrink::{Loss, ShrinkGuard};

/// So often at least, and with every change, [`About::as_of`] is worth a write.
const STAMP: Duration = Duration::from_secs(60);

/// Applies changes to the replica, any number to one batch, and notices when too many names go.
///
/// A great loss is held back as that of a full list is, except that these names are gone from the
/// replica: the master told of each. [`HeldBack`] then keeps misses from being believed.
#[derive(Debug, Default)]
pub struct Follower {
    guard: ShrinkGuard,
    stamped: Option<Duration>,
    /// So many records were told since the last full list.
    told: u64,
}

impl Follower {
    /// Writes what an event changes, which came when the clock said this. Told twice is as good as told
    /// once; barriers and the end of the list change nothing.
    pub fn apply<B: Batch>(
        &mut self,
        batch: &mut B,
        event: &Event,
        clock: SystemTime,
    ) -> Result<(), B::Error> {
        match event {
            Event::Record(name, record) => {
                self.told = self.told.saturating_add(1);
                batch.put(name, record, Changed::at(clock))?;
            }
            Event::Deleted(name) => drop(batch.delete(name)?),
            Event::Listed | Event::Current { .. } => {}
        }
        Ok(())
    }

    /// To be called before the batch is committed. `as_of` is the time of the last barrier that came
    /// before these changes' end, if one did. What the batch comes to, for
    /// [`Standing::stored`](super::Standing::stored).
    pub fn finish<B: Batch>(
        &mut self,
        batch: &mut B,
        as_of: Option<SystemTime>,
        now: Duration,
        clock: SystemTime,
    ) -> Result<(About, u64), B::Error> {
        let names = batch.names()?;
        let mut about = batch.about()?;
        let before = about.clone();
        if as_of.is_some() {
            about.as_of = as_of;
            self.stamped = Some(now);
        }
        self.guard.seen(names, now);
        if let Some(Loss { had, lost }) = self.guard.distrust().filter(|loss| loss.had > 0)
            && about.held_back.is_none()
        {
            let (since, last, accepted) = (clock, clock, false);
            about.held_back = Some(HeldBack { since, last, had, lost, accepted });
        }
        if about != before {
            batch.set_about(&about)?;
        }
        Ok((about, names))
    }

    /// Whether the time of the last barrier is worth a batch of its own.
    pub fn wants_stamp(&self, now: Duration) -> bool {
        self.stamped.is_none_or(|stamped| now.saturating_sub(stamped) >= STAMP)
    }

    /// Whether so much has been told since a list was held back that the master may have got back what
    /// it lost: it is worth asking for its list again. Backends that are started tell a master which
    /// was emptied of all that they have (`ctl_mboxlist -m`).
    pub fn wants_list(&self, about: &About) -> bool {
        about.held_back.as_ref().is_some_and(|held_back| self.told > held_back.lost / 2)
    }

    /// A full list has been committed, after which the replica has `names` names. If it has confirmed
    /// a loss, losses are counted anew; else they add up over any number of connections.
    pub fn listed(&mut self, outcome: &Outcome, names: u64, now: Duration) {
        self.told = 0;
        if outcome.released {
            self.guard = ShrinkGuard::default();
        }
        self.guard.seen(names, now);
        if self.guard.distrust().is_some() {
            // The first barrier after the list must not make misses believed before that is written.
            self.stamped = None;
        }
    }
}
