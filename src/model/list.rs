//! The mailbox list: the trait of all its sources, and what a lookup in it finds.

use std::ops::ControlFlow;

use crate::model::doubt::Doubt;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;

/// Result of a lookup of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The record of the name.
    Present(Record),
    /// The list can be read, and no record has this name.
    Absent,
    /// The list cannot tell.
    Unsure(Doubt),
    /// No answer without waiting for a lock or reading a whole file again. Only a list that must not
    /// wait returns this; repeat the lookup in one that may.
    Busy,
}

impl Lookup {
    /// Whether the mailbox exists, or may exist as far as the list can tell.
    pub fn may_exist(&self) -> bool {
        match self {
            Lookup::Present(record) => record.state.exists(),
            Lookup::Absent => false,
            Lookup::Unsure(_) | Lookup::Busy => true,
        }
    }
}

/// A mailbox list: Cyrus' `mailboxes.db` or a replica of it.
///
/// Shared by threads; an implementation looks up concurrently.
pub trait MailboxList: Send + Sync {
    /// Looks one mailbox up.
    fn lookup(&self, name: &MailboxName) -> Lookup;

    /// The same, and whether the name changed a moment ago, as far as the list knows: what it says of
    /// it may then be about to change again.
    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        (self.lookup(name), false)
    }

    /// The generation of its keys, as far as that is known without reading the list.
    fn key_generation(&self) -> Option<KeyGeneration> {
        None
    }

    /// What the list says of a name whose record does not count, since the master does not have it:
    /// [`Lookup::Absent`], unless a part of the list is in doubt or has to be waited for.
    fn lookup_without_record(&self, _name: &MailboxName) -> Lookup {
        Lookup::Absent
    }

    /// Whether the owner of this INBOX takes no mail now, whatever the record says (`cyr_deny`).
    fn denies(&self, _inbox: &MailboxName) -> bool {
        false
    }

    /// Calls `visit` for every mailbox whose internal name begins with `prefix` (all, if empty), in
    /// no particular order, until it breaks.
    ///
    /// # Errors
    ///
    /// If the list cannot be read to its end.
    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt>;

    /// Like [`each`](Self::each), and skips names on request: an ordered list does not read them. `visit`
    /// may get a name twice, or one that it asked to skip, and must not look up in this list.
    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), Doubt> {
        self.each(prefix, &mut |name, record| match visit(name, record) {
            WalkStep::Stop => ControlFlow::Break(()),
            WalkStep::On | WalkStep::Past(_) => ControlFlow::Continue(()),
        })
    }
}

/// Where a walk continues after a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkStep {
    /// At the next name.
    On,
    /// After all names that begin with this many bytes of the name.
    Past(usize),
    /// The walk ends.
    Stop,
}

impl From<ControlFlow<()>> for WalkStep {
    fn from(flow: ControlFlow<()>) -> Self {
        match flow {
            ControlFlow::Continue(()) => WalkStep::On,
            ControlFlow::Break(()) => WalkStep::Stop,
        }
    }
}

/// A key behind all that begin with the first `length` bytes of this one, in both orders that a list
/// can have, as far as names of Cyrus go: it writes none with bytes like these (modified UTF-7).
pub(crate) fn behind_all(key: &[u8], length: usize) -> Vec<u8> {
    let mut behind = key.get(..length).unwrap_or(key).to_vec();
    behind.extend_from_slice(&[0xff; 4]);
    behind
}
