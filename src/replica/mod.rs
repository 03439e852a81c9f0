//! The logic of a replica of the master's mailbox list, without I/O: what a full list, a change, a
//! barrier and a lost connection do to it, and how far it may be believed.
//!
//! Where it is kept is a [`Batch`]'s care.

use std::time::SystemTime;

use crate::mailbox::{MailboxName, Record};

/// One write transaction on the place where a replica is kept. Nobody sees anything of it before it
/// is committed, and then all of it; dropped, it leaves nothing behind.
pub trait Batch {
    /// Why the place cannot be read or written, in words.
    type Error: std::fmt::Display;

    /// The record of a name, as this transaction has left it.
    fn get(&self, name: &MailboxName) -> Result<Option<Record>, Self::Error>;
    /// Gives a name this record.
    fn put(&mut self, name: &MailboxName, record: &Record) -> Result<(), Self::Error>;
    /// Takes a name's record away. Whether it had one.
    fn delete(&mut self, name: &MailboxName) -> Result<bool, Self::Error>;
    /// Takes away the records of all names for which `keep` is false. How many there were.
    fn retain(&mut self, keep: &mut dyn FnMut(&MailboxName) -> bool) -> Result<u64, Self::Error>;
    /// How many names have a record.
    fn names(&self) -> Result<u64, Self::Error>;
    /// What is known of the replica as a whole.
    fn about(&self) -> Result<About, Self::Error>;
    /// Replaces that.
    fn set_about(&mut self, about: &About) -> Result<(), Self::Error>;
}

/// What is kept beside the records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// When the last full list was taken over; `None`: never, so the replica holds nothing.
    pub synchronised: Option<SystemTime>,
    /// The master it came from, as its banner names it (`servername`).
    pub master: String,
    /// The master's release, as its banner has it (`3.6.1-Debian-…`).
    pub release: String,
    /// A full list that lost so much that it was not taken over.
    pub held_back: Option<HeldBack>,
}

/// A list that is held back: until somebody accepts it, or a second one some time later says the
/// same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// When the first such list came.
    pub since: SystemTime,
    /// How many names the replica had then.
    pub had: u64,
    /// How many of them the list did not have.
    pub lost: u64,
    /// Whether somebody has said that it is right (`murder-route replica accept`).
    pub accepted: bool,
}
