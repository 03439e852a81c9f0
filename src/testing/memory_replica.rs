//! A replica in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::replica::{Fate, Mark, Missing, PutOutcome, ReplicaMeta, Swept, Transaction};

/// [`Transaction`] over maps in memory. To abort a transaction, clone the table before it and put the clone
/// back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Records by mailbox name.
    pub records: BTreeMap<Vec<u8>, (Record, ModTime)>,
    /// Missing names with their last records.
    pub missing: BTreeMap<Vec<u8>, Missing>,
    /// Facts about the replica as a whole.
    pub about: ReplicaMeta,
    /// Numbers noted and not yet taken.
    pub notes: Vec<u64>,
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
