//! Whether a list can be read, without a question of a mail server.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cyrusdb::skip::position::Walked;
use crate::cyrusdb::skip::window::Scratch;
use crate::model::doubt::Doubt;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::name::MailboxName;

use super::error::ReadError;
use super::view::View;
use crate::lists::FileList;

/// Records that one look walks along. All of a list with 1,000,000 are looked at within an hour or two.
const PIECE: usize = 1000;

/// The state of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// It answers for every name.
    Well,
    /// Names that are not found, or some that are in it, are deferred; the text says why.
    Doubted(Doubt),
    /// It cannot be read; the text says why.
    Unreadable(Doubt),
    /// A writer has it locked: nothing can be told.
    Locked,
}

/// Where something was wrong in a list, or may be found to be.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<SuspectState>);

#[derive(Debug, Default)]
struct SuspectState {
    /// The last name whose lookup failed.
    failed: Option<MailboxName>,
    /// The key behind which the next walk begins.
    walked_to: Vec<u8>,
}

impl Suspects {
    fn inner(&self) -> MutexGuard<'_, SuspectState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lookup of this name failed, because of the file.
    pub(super) fn failed(&self, name: &MailboxName) {
        self.inner().failed = Some(name.clone());
    }
}

impl FileList {
    /// Looks at the list: whether the file can be read, and the next of its records. Waits for locks, as a
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

    /// Why a name that could not be looked up still cannot.
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

    /// Reads the next piece of a list that is not in memory; at its end, begins anew.
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
