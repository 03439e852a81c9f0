//! A full sync.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use super::{Fate, HeldBack, Mark, PutOutcome, Transaction};
use crate::model::loss_guard::is_sharp;
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// Maximum number of names that one full sync marks as recently changed. If it changes more, the replica
/// was of another day or of another site: nearly all of them changed long ago, and the master, which may
/// just have sent its list to all its readers, is not to be asked again for each of a million names.
/// The other names lack the protection that every name lacks during a full sync: a backend's reply that
/// a mailbox has moved becomes temporary, and the message is tried again.
const MAX_RECENT: u64 = 10_000;

/// Maximum number of vanished names that an [`SyncReport`] names.
const MAX_EXAMPLES: usize = 5;

/// Origin of a full sync: the master, and when its list was complete.
#[derive(Debug, Clone)]
pub struct SyncContext<'a> {
    /// As in [`ReplicaMeta::master`](super::ReplicaMeta::master).
    pub master: &'a str,
    /// As in [`ReplicaMeta::release`](super::ReplicaMeta::release).
    pub release: &'a str,
    /// The clock of this host.
    pub now: SystemTime,
    /// Growth of [`ReplicaMeta::followed`](super::ReplicaMeta::followed) since it was stored.
    pub passed: Duration,
}

/// Result of a full sync.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// Number of names in the list.
    pub listed: u64,
    /// Number of them that the replica did not have.
    pub new: u64,
    /// Number of them that had been missing.
    pub back: u64,
    /// Number of them that had another record in the replica.
    pub changed: u64,
    /// Number of names removed.
    pub removed: u64,
    /// Number of names that went missing.
    pub missed: u64,
    /// Examples of missing names.
    pub examples: Vec<MailboxName>,
    /// Set if the list was held back: nothing was removed, and no miss is believed.
    pub held_back: Option<HeldBack>,
    /// A loss that was held back before is no longer.
    pub released: bool,
}

/// A full sync: reads a full list, in any order, into one [`Transaction`]. Writes only differences.
///
/// The names of the list are kept as hashes, with a new seed each time. A vanished name with the hash
/// of a listed one stays until the next full sync. The hashes take 8 bytes for each name, 8 MB for a
/// million, in memory only once the list is complete: see [`Transaction::note`].
#[derive(Debug)]
pub struct FullSync {
    hasher: RandomState,
    /// Hashes of the listed names, sorted; empty until the list is complete.
    came: Vec<u64>,
    /// The replica was synchronised before.
    again: bool,
    had: u64,
    new: u64,
    back: u64,
    changed: u64,
}

impl FullSync {
    /// Begins on what the transaction has. Only the list may be written to it until [`Self::finish`].
    pub fn begin<B: Transaction>(batch: &B) -> Result<Self, B::Error> {
        let (had, again) = (batch.names()?, batch.about()?.synchronised.is_some());
        let (hasher, came) = (RandomState::new(), Vec::new());
        Ok(Self { hasher, came, again, had, new: 0, back: 0, changed: 0 })
    }

    /// Writes one record of the list, received at the time `clock`.
    pub fn record<B: Transaction>(
        &mut self,
        batch: &mut B,
        name: &MailboxName,
        record: &Record,
        clock: SystemTime,
    ) -> Result<(), B::Error> {
        // A new name is treated like one with another record: it may have been deleted and created
        // again while there was no connection, and have had a record before. But in the first full sync
        // all names are new, whenever they changed, and no message was ever routed by an older record.
        let changed = match self.again && self.new + self.back + self.changed < MAX_RECENT {
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
    /// leaves nothing never is. The names of a confirmed loss are removed if both lists, of one master,
    /// lacked exactly these names; else they go missing, and each waits for itself. The names of an
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
        // All listed names are stored, so the rest of the stored names is not in the list.
        let surplus = batch.names()?.saturating_sub(listed);
        let before = about.held_back.take();
        // A loss that is held back is measured by the number of names before it.
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
        // Only the master that had the names counts, and only for names that it lacked before.
        let believed = before.as_ref().is_some_and(|before| {
            let same = lacked.is_some() && before.lacked == lacked;
            before.accepted || (same && about.master == context.master)
        });
        about.held_back = match before {
            None => sharp.then_some(loss),
            // All names are back, and not many were deleted meanwhile.
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
    /// Checksum of the stored names that are not in the list.
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

/// FNV-1a: equal in all processes.
fn checksum(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl HeldBack {
    /// The loss that is held back after a list with this loss, where `before` was held back.
    fn unless_confirmed(
        self,
        before: HeldBack,
        listed: u64,
        accept_after: Duration,
    ) -> Option<HeldBack> {
        // An acceptance or a confirmation does not cover a greater loss; and least of all does an
        // acceptance of some loss cover an empty list.
        let greater =
            self.lost > before.lost + before.lost / 10 || (listed == 0 && before.lost < before.had);
        if greater {
            return Some(self);
        }
        if before.accepted {
            return None;
        }
        // A master that gets its names back, as when its backends are started one after the other
        // (`ctl_mboxlist -m`), does not confirm the loss of the others: the wait begins anew.
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
