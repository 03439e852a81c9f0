//! The port to where a replica is kept.

use super::{Fate, Mark, ReplicaMeta, Swept};
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// One write transaction on the place where a replica is kept. Nobody sees anything of it before it
/// is committed, and then all of it; dropped, it leaves nothing behind.
///
/// After an error the transaction can only be dropped.
pub trait Transaction {
    /// Why the place cannot be read or written, in words.
    type Error: std::fmt::Display;

    /// The record of a name, as this transaction has left it.
    fn get(&self, name: &MailboxName) -> Result<Option<Record>, Self::Error>;
    /// Gives a name this record, and notes when it changed. Writes nothing, nor that, if it has this
    /// record already.
    fn put(
        &mut self,
        name: &MailboxName,
        record: &Record,
        changed: ModTime,
    ) -> Result<PutOutcome, Self::Error>;
    /// Removes a name, whether it has a record or is missing. Whether it had a record.
    fn delete(&mut self, name: &MailboxName) -> Result<bool, Self::Error>;
    /// Asks `judge` what becomes of each name, in internal form, with its mark if it is missing.
    /// Names that go missing now get `mark`.
    fn sweep(
        &mut self,
        mark: &Mark,
        judge: &mut dyn FnMut(&[u8], Option<&Mark>) -> Fate,
    ) -> Result<Swept, Self::Error>;
    /// How many names have a record.
    fn names(&self) -> Result<u64, Self::Error>;
    /// What is known of the replica as a whole.
    fn about(&self) -> Result<ReplicaMeta, Self::Error>;
    /// Replaces that, except [`ReplicaMeta::missing`], which the batch counts itself. Times may lose what
    /// is below a millisecond.
    fn set_about(&mut self, about: &ReplicaMeta) -> Result<(), Self::Error>;
    /// Notes a number for [`Self::noted`]. Any count of them takes little memory.
    fn note(&mut self, number: u64) -> Result<(), Self::Error>;
    /// Takes all numbers that were noted.
    fn noted(&mut self) -> Result<Vec<u64>, Self::Error>;
}

/// What became of a record that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The name was not known.
    New,
    /// The name was [`Missing`](super::Missing).
    Back,
    /// The name had another.
    Changed,
    /// The name had it already.
    Same,
}
