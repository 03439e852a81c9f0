//! Mailbox list: the trait of all sources, and the result of a lookup.

use std::ops::ControlFlow;

use crate::model::doubt::Doubt;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;

/// Result of a lookup of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The record of the name.
    Present(Record),
    /// The list is readable and has no record of the name.
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
    /// Looks up one mailbox.
    fn lookup(&self, name: &MailboxName) -> Lookup;

    /// Like [`lookup`](Self::lookup), and returns whether the name changed recently, as far as the
    /// list knows. A recently changed record may be about to change again.
    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        (self.lookup(name), false)
    }

    /// Returns the generation of the keys, as far as it is known without reading the list.
    fn key_generation(&self) -> Option<KeyGeneration> {
        None
    }

    /// Returns the result for a name whose record does not count because the master lacks the name:
    /// [`Lookup::Absent`], unless a part of the list is in doubt or must be waited for.
    fn lookup_without_record(&self, _name: &MailboxName) -> Lookup {
        Lookup::Absent
    }

    /// Whether the owner of this INBOX accepts no mail now, regardless of the record (`cyr_deny`).
    fn denies(&self, _inbox: &MailboxName) -> bool {
        false
    }

    /// Calls `visit` for every mailbox whose internal name begins with `prefix` (all, if empty), in
    /// no particular order, until it breaks.
    ///
    /// # Errors
    ///
    /// The list cannot be read to its end.
    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt>;

    /// Like [`each`](Self::each), but skips names on request, which an ordered list does not read.
    /// `visit` may get a name twice or one that it asked to skip. It must not look up in this list.
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

/// Position at which a walk continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkStep {
    /// The next name.
    On,
    /// The first name that does not begin with this many bytes of the current one.
    Past(usize),
    /// The end of the walk.
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

/// Returns a key after all keys that begin with the first `length` bytes of this one, in both sort
/// orders of a list. It relies on names of Cyrus (modified UTF-7), which do not contain such bytes.
pub(crate) fn behind_all(key: &[u8], length: usize) -> Vec<u8> {
    let mut behind = key.get(..length).unwrap_or(key).to_vec();
    behind.extend_from_slice(&[0xff; 4]);
    behind
}
