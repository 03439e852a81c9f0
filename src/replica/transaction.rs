//! The port to the store of a replica.

use super::{Fate, Mark, ReplicaMeta, Swept};
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// A write transaction on the store of a replica. It becomes visible as a whole when it is committed;
/// dropped, it leaves nothing behind.
///
/// After an error the transaction can only be dropped.
pub trait Transaction {
    /// Why the store cannot be read or written.
    type Error: std::fmt::Display;

    /// Returns the record of a name, with the changes of this transaction.
    fn get(&self, name: &MailboxName) -> Result<Option<Record>, Self::Error>;
    /// Gives a name this record, and stores when it changed. Writes nothing if the name has this record
    /// already.
    fn put(
        &mut self,
        name: &MailboxName,
        record: &Record,
        changed: ModTime,
    ) -> Result<PutOutcome, Self::Error>;
    /// Removes a name that has a record or is missing. Returns whether it had a record.
    fn delete(&mut self, name: &MailboxName) -> Result<bool, Self::Error>;
    /// Asks `judge` for the [`Fate`] of each name, in internal form, with its mark if it is missing.
    /// Names that go missing now get `mark`.
    fn sweep(
        &mut self,
        mark: &Mark,
        judge: &mut dyn FnMut(&[u8], Option<&Mark>) -> Fate,
    ) -> Result<Swept, Self::Error>;
    /// Number of names that have a record.
    fn names(&self) -> Result<u64, Self::Error>;
    /// Returns the metadata.
    fn about(&self) -> Result<ReplicaMeta, Self::Error>;
    /// Replaces the metadata, except [`ReplicaMeta::missing`], which the transaction counts itself. Times
    /// may be rounded to milliseconds.
    fn set_about(&mut self, about: &ReplicaMeta) -> Result<(), Self::Error>;
    /// Stores a number for [`Self::noted`]. Any count of them takes little memory.
    fn note(&mut self, number: u64) -> Result<(), Self::Error>;
    /// Takes all numbers that were stored.
    fn noted(&mut self) -> Result<Vec<u64>, Self::Error>;
}

/// Result of [`Transaction::put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The name is new.
    New,
    /// The name was [`Missing`](super::Missing).
    Back,
    /// The name had another record.
    Changed,
    /// The name had this record already.
    Same,
}
