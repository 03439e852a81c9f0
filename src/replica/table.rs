//! A [`Batch`] in memory, for tests.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::{About, Batch, Put};
use crate::changes::Changed;
use crate::mailbox::{MailboxName, Record};

/// A replica in memory. A clone of it that is put back is a transaction that was aborted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Table {
    pub(crate) records: BTreeMap<Vec<u8>, (Record, Changed)>,
    pub(crate) about: About,
}

impl Batch for Table {
    type Error = Infallible;

    fn get(&self, name: &MailboxName) -> Result<Option<Record>, Infallible> {
        Ok(self.records.get(name.as_bytes()).map(|(record, _)| record.clone()))
    }

    fn put(
        &mut self,
        name: &MailboxName,
        record: &Record,
        changed: Changed,
    ) -> Result<Put, Infallible> {
        let put = match self.records.get(name.as_bytes()) {
            Some((before, _)) if before == record => return Ok(Put::Same),
            Some(_) => Put::Changed,
            None => Put::New,
        };
        self.records.insert(name.as_bytes().to_vec(), (record.clone(), changed));
        Ok(put)
    }

    fn delete(&mut self, name: &MailboxName) -> Result<bool, Infallible> {
        Ok(self.records.remove(name.as_bytes()).is_some())
    }

    fn retain(&mut self, keep: &mut dyn FnMut(&[u8]) -> bool) -> Result<u64, Infallible> {
        let before = self.records.len();
        self.records.retain(|name, _| keep(name));
        Ok((before - self.records.len()) as u64)
    }

    fn names(&self) -> Result<u64, Infallible> {
        Ok(self.records.len() as u64)
    }

    fn about(&self) -> Result<About, Infallible> {
        Ok(self.about.clone())
    }

    fn set_about(&mut self, about: &About) -> Result<(), Infallible> {
        self.about = about.clone();
        Ok(())
    }
}
