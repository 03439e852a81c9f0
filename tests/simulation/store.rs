//! A replica store in memory, with the effect of a crash on one on disk. A process that dies
//! loses the current batch. A host that loses power also loses the last batch that was only
//! committed and not synchronised to the disk (see `replica::store`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use murder_route::model::list::Lookup;
use murder_route::model::mod_time::ModTime;
use murder_route::model::name::MailboxName;
use murder_route::model::record::Record;
use murder_route::replica::{
    Fate, Mark, Missing, PutOutcome, ReplicaDoubt, ReplicaMeta, Swept, Transaction,
};

/// One state of the replica. A modified copy is a batch; a copy that replaces it is committed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Table {
    records: BTreeMap<Vec<u8>, (Record, ModTime)>,
    missing: BTreeMap<Vec<u8>, Missing>,
    pub(crate) about: ReplicaMeta,
    /// For the checks: contains every change that the master had at this time.
    pub(crate) complete_to: Option<Duration>,
    /// For the checks: the largest number of names since a full list was applied.
    most: u64,
    /// For the checks: time of the last change of each name.
    changed: BTreeMap<Vec<u8>, Duration>,
    notes: Vec<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    committed: Table,
    /// The state that a power failure leaves.
    on_disk: Table,
    /// Time at which the wall clock was last set.
    clock_set: Option<Duration>,
}

impl Store {
    pub(crate) fn begin(&self) -> Table {
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

    fn note_changes(&self, batch: &mut Table, now: Duration) {
        let had = &self.committed.records;
        if self.committed.about.synchronised.is_none() {
            return;
        }
        for (name, (record, _)) in &batch.records {
            if had.get(name).is_none_or(|(had, _)| had != record) {
                batch.changed.insert(name.clone(), now);
            }
        }
    }

    pub(crate) fn commit(&mut self, mut batch: Table, now: Duration) {
        self.note_changes(&mut batch, now);
        batch.most = batch.most.max(batch.records.len() as u64);
        self.on_disk = std::mem::replace(&mut self.committed, batch);
    }

    /// For a full list.
    pub(crate) fn commit_list(&mut self, mut batch: Table, now: Duration) {
        self.note_changes(&mut batch, now);
        if batch.about.held_back.is_none() {
            batch.most = batch.records.len() as u64;
        }
        self.commit_to_disk(batch);
    }

    pub(crate) fn commit_to_disk(&mut self, batch: Table) {
        self.on_disk = batch.clone();
        self.committed = batch;
    }

    /// The committed state contains everything that the master had at `asked`.
    pub(crate) fn is_complete_to(&mut self, asked: Duration) {
        self.committed.complete_to = self.committed.complete_to.max(Some(asked));
    }

    pub(crate) fn committed(&self) -> &Table {
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

impl Transaction for Table {
    type Error = Infallible;

    fn get(&self, name: &MailboxName) -> Result<Option<Record>, Infallible> {
        Ok(self.records.get(name.as_bytes()).map(|(record, _)| record.clone()))
    }

    fn put(
        &mut self,
        name: &MailboxName,
        record: &Record,
        changed: ModTime,
    ) -> Result<PutOutcome, Infallible> {
        let key = name.as_bytes();
        let put = match self.records.get(key) {
            Some((before, _)) if before == record => return Ok(PutOutcome::Same),
            Some(_) => PutOutcome::Changed,
            None if self.missing.contains_key(key) => PutOutcome::Back,
            None => PutOutcome::New,
        };
        self.missing.remove(key);
        self.records.insert(key.to_vec(), (record.clone(), changed));
        Ok(put)
    }

    fn delete(&mut self, name: &MailboxName) -> Result<bool, Infallible> {
        self.missing.remove(name.as_bytes());
        Ok(self.records.remove(name.as_bytes()).is_some())
    }

    fn sweep(
        &mut self,
        mark: &Mark,
        judge: &mut dyn FnMut(&[u8], Option<&Mark>) -> Fate,
    ) -> Result<Swept, Infallible> {
        let mut swept = Swept::default();
        let was_missing = self.missing.len();
        self.missing.retain(|name, missing| judge(name, Some(&missing.mark)) != Fate::Remove);
        swept.removed = (was_missing - self.missing.len()) as u64;
        for name in self.records.keys().cloned().collect::<Vec<_>>() {
            match judge(&name, None) {
                Fate::Keep => {}
                Fate::Miss => {
                    swept.missed += 1;
                    if let Some((record, _)) = self.records.remove(&name) {
                        self.missing.insert(name, Missing { record, mark: mark.clone() });
                    }
                }
                Fate::Remove => {
                    swept.removed += 1;
                    self.records.remove(&name);
                }
            }
        }
        Ok(swept)
    }

    fn names(&self) -> Result<u64, Infallible> {
        Ok(self.records.len() as u64)
    }

    fn about(&self) -> Result<ReplicaMeta, Infallible> {
        Ok(ReplicaMeta { missing: self.missing.len() as u64, ..self.about.clone() })
    }

    fn set_about(&mut self, about: &ReplicaMeta) -> Result<(), Infallible> {
        self.about = ReplicaMeta { missing: self.missing.len() as u64, ..about.clone() };
        Ok(())
    }

    fn note(&mut self, number: u64) -> Result<(), Infallible> {
        self.notes.push(number);
        Ok(())
    }

    fn noted(&mut self) -> Result<Vec<u64>, Infallible> {
        Ok(std::mem::take(&mut self.notes))
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
