//! Inspects a list regularly, without a request of a mail server.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cyrusdb::skip::position::Walked;
use crate::cyrusdb::skip::window::Scratch;
use crate::model::doubt::Doubt;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::name::MailboxName;

use super::error::ReadError;
use super::view::View;
use crate::lists::FileList;

/// Number of records read by one inspection. A list with 1,000,000 is read whole within an hour or two.
const PIECE: usize = 1000;

/// The state of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// The list answers for every name.
    Well,
    /// Misses, or some names that it has, are deferred; the text says why.
    Doubted(Doubt),
    /// The list cannot be read; the text says why.
    Unreadable(Doubt),
    /// A writer has locked the list: its state is unknown.
    Locked,
}

/// Names and keys at which damage was met, or is looked for.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<SuspectState>);

#[derive(Debug, Default)]
struct SuspectState {
    /// Last name whose lookup failed.
    failed: Option<MailboxName>,
    /// Key behind which the next walk begins.
    walked_to: Vec<u8>,
}

impl Suspects {
    fn inner(&self) -> MutexGuard<'_, SuspectState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a lookup of this name failed because of the file.
    pub(super) fn failed(&self, name: &MailboxName) {
        self.inner().failed = Some(name.clone());
    }
}

impl FileList {
    /// Inspects the list: whether the file can be read, and a piece of its records. Waits for locks, as a
    /// lookup does.
    pub fn inspect(&self) -> Inspection {
        let mut scratch = Scratch::default();
        match self.check_with_retries(&mut scratch) {
            Err(error) if error.is_timeout() => {
                return Inspection::Locked;
            }
            Err(error) => return Inspection::Unreadable(self.describe(error)),
            Ok(_) => {}
        }
        if let Err(why) = self.trust() {
            return Inspection::Doubted(why);
        }
        match self.walk_on(&mut scratch) {
            Ok(()) => Inspection::Well,
            Err(error) => Inspection::Doubted(self.describe(error)),
        }
    }

    /// Looks up the last name that failed.
    ///
    /// # Errors
    ///
    /// If it fails again.
    pub(super) fn doubt_of_suspects(&self) -> Result<(), Doubt> {
        let failed = self.suspects.inner().failed.clone();
        let Some(name) = failed else { return Ok(()) };
        match self.lookup(&name) {
            Lookup::Unsure(why) => Err(why),
            _ => {
                self.suspects.inner().failed = None;
                Ok(())
            }
        }
    }

    /// Reads the next piece of a list that is not in memory. Begins anew at its end.
    fn walk_on(&self, scratch: &mut Scratch) -> Result<(), ReadError> {
        let from = self.suspects.inner().walked_to.clone();
        let view = self.check_with_retries(scratch)?;
        let View::Skip(view) = &*view else { return Ok(()) };
        let header = view.header();
        let mut last = Vec::new();
        let mut left = PIECE;
        let walked = view.walk(&from, scratch, &mut |key, _| {
            last.clear();
            last.extend_from_slice(key);
            left -= 1;
            left > 0
        });
        match walked {
            Ok(Walked::ToEnd) => last.clear(),
            Ok(Walked::Stopped | Walked::OtherOrder) => {}
            // A writer may have overtaken the walk.
            Err(error) => {
                let now = self.check_with_retries(scratch)?;
                let is_same = matches!(&*now, View::Skip(now) if now.is_at(header));
                return if is_same && !header.dirty { Err(error.into()) } else { Ok(()) };
            }
        }
        self.suspects.inner().walked_to = last;
        Ok(())
    }
}
