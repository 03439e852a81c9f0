//! A full list being read into the replica.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use super::{Fate, HeldBack, Mark, PutOutcome, Transaction};
use crate::model::loss_guard::is_sharp;
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// So many of the names that a list changes are taken for changed lately. If there are more, the replica
/// was of another day or of another site: nearly all of them changed long ago, and the master, from whom
/// all of his readers may just have got their lists, is not to be asked again for each of a million names.
/// What the others lose by it is what every name lacks while a list comes: the backend's word that a
/// mailbox has moved on is softened, and the letter comes again.
const MOST_LATELY: u64 = 10_000;

/// Maximum number of vanished names that an [`SyncReport`] names.
const MAX_EXAMPLES: usize = 5;

/// What a master says of itself, and when its list was complete.
#[derive(Debug, Clone)]
pub struct SyncContext<'a> {
    /// As in [`ReplicaMeta::master`](super::ReplicaMeta::master).
    pub master: &'a str,
    /// As in [`ReplicaMeta::release`](super::ReplicaMeta::release).
    pub release: &'a str,
    /// The clock of this host.
    pub now: SystemTime,
    /// What [`ReplicaMeta::followed`](super::ReplicaMeta::followed) has grown by since it was stored.
    pub passed: Duration,
}

/// What a full list has done to the replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// How many names the list had.
    pub listed: u64,
    /// How many of them the replica did not have.
    pub new: u64,
    /// How many of them had been missing.
    pub back: u64,
    /// How many of them had another record in it.
    pub changed: u64,
    /// How many names were removed.
    pub removed: u64,
    /// How many names went missing.
    pub missed: u64,
    /// Some of those.
    pub examples: Vec<MailboxName>,
    /// Set if the list was not taken over: nothing was removed, and no miss may be believed.
    pub held_back: Option<HeldBack>,
    /// A loss was held back before, and is not any more.
    pub released: bool,
}

/// Reads a full list into one [`Transaction`], whatever its order. Writes only what differs from what
/// stands there.
///
/// What came is remembered by hashes, whose seed is new each time. A name that is gone and has the hash
/// of one that came stays until the next list. They take 8 bytes for every name, 8 MB for a million, in
/// memory only once the list is complete: see [`Transaction::note`].
#[derive(Debug)]
pub struct FullSync {
    hasher: RandomState,
    /// Sorted; empty until the list is complete.
    came: Vec<u64>,
    /// The replica was synchronised before.
    again: bool,
    had: u64,
    new: u64,
    back: u64,
    changed: u64,
}

impl FullSync {
    /// Begins with what the batch has. Nothing but the list may be put there until it is finished.
    pub fn begin<B: Transaction>(batch: &B) -> Result<Self, B::Error> {
        let (had, again) = (batch.names()?, batch.about()?.synchronised.is_some());
        let (hasher, came) = (RandomState::new(), Vec::new());
        Ok(Self { hasher, came, again, had, new: 0, back: 0, changed: 0 })
    }

    /// One record of the list, which came when the clock said this.
    pub fn record<B: Transaction>(
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
        let changed = match self.again && self.new + self.back + self.changed < MOST_LATELY {
            true => ModTime::at(clock),
            false => ModTime::NOT_LATELY,
        };
        match batch.put(name, record, changed)? {
            PutOutcome::New => self.new += 1,
            PutOutcome::Back => self.back += 1,
            PutOutcome::Changed => self.changed += 1,
            PutOutcome::Same => {}
        }
        batch.note(self.hasher.hash_one(name.as_bytes()))
    }

    /// The list is complete. Names that did not come go missing, or the loss is held back.
    ///
    /// A loss is confirmed by a list `accept_after` later that has lost about as much; one that
    /// leaves nothing never is. The names of a confirmed loss are removed if both lists, of the same
    /// master, lacked the very same names; else they go missing, and wait for themselves. Those of an
    /// accepted loss are removed.
    pub fn finish<B: Transaction>(
        mut self,
        batch: &mut B,
        context: &SyncContext<'_>,
        accept_after: Duration,
    ) -> Result<SyncReport, B::Error> {
        self.came = batch.noted()?;
        self.came.sort_unstable();
        self.came.dedup();
        let listed = self.came.len() as u64;
        let mut about = batch.about()?;
        about.followed += context.passed;
        let followed = about.followed;
        // All that came is there, so the rest of what is there did not come.
        let surplus = batch.names()?.saturating_sub(listed);
        let before = about.held_back.take();
        // What is held back is measured by what there was before it.
        let had = before.as_ref().map_or(self.had, |before| self.had.max(before.had));
        let lost = surplus.max(had.saturating_sub(listed));
        let sharp = is_sharp(had, lost) || (listed == 0 && had > 0);
        let lacked = match sharp || before.is_some() {
            true => Some(self.lacked(batch)?),
            false => None,
        };
        let (since, began, last) = (context.now, followed, followed);
        let loss = HeldBack { since, began, last, had, lost, lacked, accepted: false };
        let was_held = before.is_some();
        // Only the master that had the names is believed, and only of those that it lacked before.
        let believed = before.as_ref().is_some_and(|before| {
            let same = lacked.is_some() && before.lacked == lacked;
            before.accepted || (same && about.master == context.master)
        });
        about.held_back = match before {
            None => sharp.then_some(loss),
            // All names are back, and no great number was deleted meanwhile.
            Some(_) if surplus == 0 && !sharp => None,
            Some(before) => loss.unless_confirmed(before, listed, accept_after),
        };
        let mut report = SyncReport {
            listed,
            new: self.new,
            back: self.back,
            changed: self.changed,
            held_back: about.held_back.clone(),
            released: was_held && about.held_back.is_none(),
            ..SyncReport::default()
        };
        if about.held_back.is_none() {
            if surplus > 0 || about.missing > 0 {
                let since = ModTime::at(context.now);
                let mark = Mark { since, at: followed, master: about.master.clone() };
                let (came, hasher) = (&self.came, &self.hasher);
                let (examples, mut oldest) = (&mut report.examples, None);
                let mut judge = |name: &[u8], missing: Option<&Mark>| {
                    if missing.is_none() && came.binary_search(&hasher.hash_one(name)).is_ok() {
                        return Fate::Keep;
                    }
                    let over = |mark: &Mark| mark.is_over(context.master, followed, accept_after);
                    if missing.map_or(believed || over(&mark), over) {
                        return Fate::Remove;
                    }
                    let mark = missing.unwrap_or(&mark);
                    if mark.master == context.master {
                        oldest =
                            Some(oldest.map_or(mark.at, |oldest: Duration| oldest.min(mark.at)));
                    }
                    if missing.is_none() && examples.len() < MAX_EXAMPLES {
                        examples.extend(MailboxName::new(name));
                    }
                    Fate::Miss
                };
                let swept = batch.sweep(&mark, &mut judge)?;
                (report.missed, report.removed) = (swept.missed, swept.removed);
                about.oldest = oldest;
            }
            about.synchronised = Some(context.now);
            about.as_of = Some(context.now);
            context.master.clone_into(&mut about.master);
            context.release.clone_into(&mut about.release);
        }
        batch.set_about(&about)?;
        Ok(report)
    }
}

impl FullSync {
    /// A checksum over the names that did not come.
    fn lacked<B: Transaction>(&self, batch: &mut B) -> Result<u64, B::Error> {
        let mut lacked = 0u64;
        let mut judge = |name: &[u8], missing: Option<&Mark>| {
            let came = || self.came.binary_search(&self.hasher.hash_one(name)).is_ok();
            if missing.is_none() && !came() {
                lacked = lacked.wrapping_add(checksum(name));
            }
            Fate::Keep
        };
        batch.sweep(&Mark::default(), &mut judge)?;
        Ok(lacked)
    }
}

/// FNV-1a, which is the same in every process.
fn checksum(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl HeldBack {
    /// What is still held back, now that a list has lost this, and `before` was held back.
    fn unless_confirmed(
        self,
        before: HeldBack,
        listed: u64,
        accept_after: Duration,
    ) -> Option<HeldBack> {
        // Whoever accepts a loss, or waits for its confirmation, does not mean a greater one; and
        // least of all does an acceptance of some loss mean an empty list.
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
            return Some(Self { since: before.since, ..self });
        }
        let waited = self.last.saturating_sub(before.began);
        match waited >= accept_after && listed > 0 {
            true => None,
            false => {
                let HeldBack { since, began, .. } = before;
                let lacked = self.lacked.filter(|_| self.lacked == before.lacked);
                Some(Self { since, began, lacked, ..self })
            }
        }
    }
}
