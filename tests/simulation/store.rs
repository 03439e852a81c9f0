//! A replica store in memory, with the effect of a crash on one on disk. A process that dies
//! loses the current batch. A host that loses power also loses the last batch that was only
//! committed and not synchronised to the disk (see `replica::store`).

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use murder_route::model::list::Lookup;
use murder_route::model::mod_time::ModTime;
use murder_route::model::name::MailboxName;
use murder_route::replica::ReplicaDoubt;
use murder_route::testing::memory_replica::Table;

/// One state of the replica. A modified copy is a batch; a copy that replaces it is committed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) table: Table,
    /// For the checks: contains every change that the master had at this time.
    pub(crate) complete_to: Option<Duration>,
    /// For the checks: the largest number of names since a full list was applied.
    most: u64,
    /// For the checks: time of the last change of each name.
    changed: BTreeMap<Vec<u8>, Duration>,
}

impl Deref for Snapshot {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}

impl DerefMut for Snapshot {
    fn deref_mut(&mut self) -> &mut Table {
        &mut self.table
    }
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    committed: Snapshot,
    /// The state that a power failure leaves.
    on_disk: Snapshot,
    /// Time at which the wall clock was last set.
    clock_set: Option<Duration>,
}

impl Store {
    pub(crate) fn begin(&self) -> Snapshot {
        self.committed.clone()
    }

    /// Whether a different record of the name was committed within the last minute, less the
    /// duration of a commit: the minute begins before the commit.
    pub(crate) fn changed_lately(&self, name: &MailboxName, now: Duration) -> bool {
        let changed = self.committed.changed.get(name.as_bytes());
        // A commit takes up to 8 s after its changes were dated.
        let dated =
            |at: &Duration| self.clock_set.is_none_or(|set| *at > set + Duration::from_secs(8));
        changed.is_some_and(|at| now - *at < Duration::from_secs(50) && dated(at))
    }

    fn note_changes(&self, batch: &mut Snapshot, now: Duration) {
        let had = &self.committed.records;
        if self.committed.about.synchronised.is_none() {
            return;
        }
        for (name, (record, _)) in &batch.table.records {
            if had.get(name).is_none_or(|(had, _)| had != record) {
                batch.changed.insert(name.clone(), now);
            }
        }
    }

    pub(crate) fn commit(&mut self, mut batch: Snapshot, now: Duration) {
        self.note_changes(&mut batch, now);
        batch.most = batch.most.max(batch.records.len() as u64);
        self.on_disk = std::mem::replace(&mut self.committed, batch);
    }

    /// For a full list.
    pub(crate) fn commit_list(&mut self, mut batch: Snapshot, now: Duration) {
        self.note_changes(&mut batch, now);
        if batch.about.held_back.is_none() {
            batch.most = batch.records.len() as u64;
        }
        self.commit_to_disk(batch);
    }

    pub(crate) fn commit_to_disk(&mut self, batch: Snapshot) {
        self.on_disk = batch.clone();
        self.committed = batch;
    }

    /// The committed state contains everything that the master had at `asked`.
    pub(crate) fn is_complete_to(&mut self, asked: Duration) {
        self.committed.complete_to = self.committed.complete_to.max(Some(asked));
    }

    pub(crate) fn committed(&self) -> &Snapshot {
        &self.committed
    }

    pub(crate) fn committed_names(&self) -> u64 {
        self.committed.records.len() as u64
    }

    /// Number of names that the stream alone has removed.
    pub(crate) fn lost(&self) -> u64 {
        self.committed.most.saturating_sub(self.committed_names())
    }

    /// Marks that the wall clock was set: the ages of changes are unknown from now on.
    pub(crate) fn clock_was_set(&mut self, now: Duration) {
        self.clock_set = Some(now);
    }

    /// The missing names, each with the master that had it.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (&[u8], &str)> {
        let missing = self.committed.missing.iter();
        missing.map(|(name, missing)| (&**name, &*missing.mark.master))
    }

    /// Minimum number of names that a crash now would leave.
    pub(crate) fn names_at_least(&self) -> u64 {
        self.committed.records.len().min(self.on_disk.records.len()) as u64
    }

    /// Time up to which a state after a crash now would be complete.
    pub(crate) fn complete_to_at_least(&self) -> Option<Duration> {
        self.committed.complete_to.min(self.on_disk.complete_to)
    }

    pub(crate) fn lose_power(&mut self) {
        self.committed = self.on_disk.clone();
    }
}

/// As `replica::store::ReplicaList`.
impl Store {
    /// The answer for a name, and the time of its change.
    pub(crate) fn look_up(&self, name: &MailboxName) -> (Lookup, ModTime) {
        let found = match self.committed.records.get(name.as_bytes()) {
            Some((record, changed)) => return (Lookup::Present(record.clone()), *changed),
            None if self.committed.about.synchronised.is_none() => {
                Lookup::Unsure(ReplicaDoubt::NeverSynchronised.into())
            }
            None => match self.committed.missing.get(name.as_bytes()) {
                Some(missing) => Lookup::Unsure(missing.doubt(name)),
                None => Lookup::Absent,
            },
        };
        (found, ModTime::NOT_LATELY)
    }
}
