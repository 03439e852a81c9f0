//! A full list being read into the replica.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use super::{Batch, HeldBack, Put};
use crate::changes::Changed;
use crate::mailbox::{MailboxName, Record};
use crate::shrink::is_sharp;

/// So many of the names that a list changes are taken for changed lately. If there are more, the replica
/// was of another day or of another site: nearly all of them changed long ago, and the master, from whom
/// all of his readers may just have got their lists, is not to be asked again for each of a million names.
/// What the others lose by it is what every name lacks while a list comes: the backend's word that a
/// mailbox has moved on is softened, and the letter comes again.
const MOST_LATELY: u64 = 10_000;

/// What a full list has done to the replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// How many names the list had.
    pub listed: u64,
    /// How many of them the replica did not have.
    pub new: u64,
    /// How many of them had another record in it.
    pub changed: u64,
    /// How many names were taken away.
    pub removed: u64,
    /// Set if the list was not taken over: nothing was taken away, and no miss may be believed.
    pub held_back: Option<HeldBack>,
    /// A loss was held back before, and is not any more.
    pub released: bool,
}

/// Reads a full list into one [`Batch`], whatever its order. Writes only what differs from what
/// stands there.
///
/// Takes 8 bytes for every name, 8 MB for a million: what came is remembered by hashes, whose seed
/// is new each time. A name that is gone and has the hash of one that came stays until the next list.
#[derive(Debug)]
pub struct Listing {
    hasher: RandomState,
    came: Vec<u64>,
    /// The replica was synchronised before.
    again: bool,
    had: u64,
    new: u64,
    changed: u64,
}

impl Listing {
    /// Begins with what the batch has. Nothing but the list may be put there until it is finished.
    pub fn begin<B: Batch>(batch: &B) -> Result<Self, B::Error> {
        let (had, again) = (batch.names()?, batch.about()?.synchronised.is_some());
        // Room for what will most likely come, so that it need not grow; bounded, whatever is stored.
        let room = usize::try_from(had + had / 16).unwrap_or(0).min(1 << 24);
        let came = Vec::with_capacity(room);
        Ok(Self { hasher: RandomState::new(), came, again, had, new: 0, changed: 0 })
    }

    /// One record of the list, which came when the clock said this.
    pub fn record<B: Batch>(
        &mut self,
        batch: &mut B,
        name: &MailboxName,
        record: &Record,
        clock: SystemTime,
    ) -> Result<(), B::Error> {
        // A name that is new is no other case than one that has another record: it may have been taken
        // out and put in again while there was no connection, and have more before it. But those that
        // fill a replica for the first time are all new, whenever they changed, and nobody was ever sent
        // by what stood here before.
        let changed = match self.again && self.new + self.changed < MOST_LATELY {
            true => Changed::at(clock),
            false => Changed::NOT_LATELY,
        };
        match batch.put(name, record, changed)? {
            Put::New => self.new += 1,
            Put::Changed => self.changed += 1,
            Put::Same => {}
        }
        self.came.push(self.hasher.hash_one(name.as_bytes()));
        Ok(())
    }

    /// The list is complete. Takes away what did not come, or holds the loss back.
    ///
    /// `master` and `release` are as in [`About`](super::About); `now` is when the list was
    /// complete. A loss is confirmed by a list `accept_after` later that has lost about as much; one
    /// that leaves nothing never is.
    pub fn finish<B: Batch>(
        mut self,
        batch: &mut B,
        master: &str,
        release: &str,
        now: SystemTime,
        accept_after: Duration,
    ) -> Result<Outcome, B::Error> {
        self.came.sort_unstable();
        self.came.dedup();
        let listed = self.came.len() as u64;
        let mut about = batch.about()?;
        // All that came is there, so the rest of what is there did not come.
        let surplus = batch.names()?.saturating_sub(listed);
        let before = about.held_back.take();
        let was_held = before.is_some();
        // What is held back is measured by what there was before it.
        let had = before.as_ref().map_or(self.had, |before| self.had.max(before.had));
        let lost = surplus.max(had.saturating_sub(listed));
        let mut outcome =
            Outcome { listed, new: self.new, changed: self.changed, ..Outcome::default() };
        let loss = HeldBack { since: now, last: now, had, lost, accepted: false };
        about.held_back = match loss.is_sharp(listed) {
            true => loss.unless_confirmed(before, listed, accept_after),
            false => None,
        };
        if about.held_back.is_none() {
            outcome.released = was_held;
            if surplus > 0 {
                let (came, hasher) = (&self.came, &self.hasher);
                let mut keep = |name: &[u8]| came.binary_search(&hasher.hash_one(name)).is_ok();
                outcome.removed = batch.retain(&mut keep)?;
            }
            about.synchronised = Some(now);
            about.as_of = Some(now);
            master.clone_into(&mut about.master);
            release.clone_into(&mut about.release);
        }
        batch.set_about(&about)?;
        outcome.held_back = about.held_back;
        Ok(outcome)
    }
}

impl HeldBack {
    /// Whether a list with so many names has lost too much to be believed at once. An empty one has,
    /// however small the replica is.
    fn is_sharp(&self, listed: u64) -> bool {
        is_sharp(self.had, self.lost) || (listed == 0 && self.had > 0)
    }

    /// What is still held back, now that a list has lost this, and `before` was held back.
    fn unless_confirmed(
        self,
        before: Option<HeldBack>,
        listed: u64,
        accept_after: Duration,
    ) -> Option<HeldBack> {
        let Some(before) = before else { return Some(self) };
        // Who accepts a loss, or waits for its confirmation, does not mean a greater one; and least
        // of all does an acceptance of some loss mean an empty list.
        let greater =
            self.lost > before.lost + before.lost / 10 || (listed == 0 && before.lost < before.had);
        if greater {
            return Some(self);
        }
        if before.accepted {
            return None;
        }
        // A master that gets its names back, as when its backends are started one after the other
        // (`ctl_mboxlist -m`), says nothing of those that are still to come: the wait begins anew.
        let nothing_before = before.lost >= before.had && listed > 0;
        if nothing_before || self.lost < before.lost - before.lost / 10 {
            return Some(self);
        }
        // So does a clock that was put back.
        let Ok(waited) = self.last.duration_since(before.since) else { return Some(self) };
        match waited >= accept_after && listed > 0 {
            true => None,
            false => Some(Self { since: before.since, ..self }),
        }
    }
}
