//! Whether a list may call a name absent.

use crate::cyrusdb::skip::window::Scratch;
use crate::model::doubt::Doubt;
use crate::model::list::MailboxList as _;
use crate::model::loss_guard::{Loss, LossGuard};
use std::time::Duration;

use super::FileList;
use super::error::ListDoubt;
use super::mark_file::StoredMark;
use super::view::View;

/// Minimum interval at which a changing number of names is stored.
const STORE_INTERVAL: Duration = Duration::from_secs(60);

/// Whether a list holds all mailboxes of its site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// It has no records of other servers, as the list of a single server has none.
    Complete,
    /// It has records of other servers, or could not be read; the text says so.
    Incomplete(Doubt),
    /// It has to be read for the answer.
    Unread,
}

impl FileList {
    /// Checks that a missing name may be called absent.
    ///
    /// # Errors
    ///
    /// The reason why no name may be called absent at present: the list cannot be read, it is damaged, it
    /// is empty, or it has lost more than 10 % and more than 100 names compared with the maximum within
    /// the last one to two hours.
    pub fn trust(&self) -> Result<(), Doubt> {
        let view = self.check_with_retries(&mut Scratch::default());
        let view = view.map_err(|error| self.describe(error))?;
        if let Some(doubt) = self.doubt(&view) {
            return Err(self.describe(doubt));
        }
        self.doubt_of_suspects()
    }

    /// Returns the reason why a miss in this view proves nothing.
    pub(super) fn doubt(&self, view: &View) -> Option<ListDoubt> {
        if let Some(damage) = view.incomplete() {
            return Some(ListDoubt::Incomplete(damage));
        }
        if view.key_generation().is_none() {
            return Some(ListDoubt::NoUsers);
        }
        match self.work().guard.distrust()? {
            Loss { had, lost } if lost < had => Some(ListDoubt::Lost { had, lost }),
            _ => Some(ListDoubt::Empty),
        }
    }

    /// Whether the list is complete by itself, as far as that is known without reading it.
    pub fn known_completeness(&self) -> Completeness {
        match self.remote_records.known() {
            Some(server) => self.completeness(server),
            None => Completeness::Unread,
        }
    }

    /// Whether the list is complete by itself. Reads the list if need be.
    ///
    /// # Errors
    ///
    /// If it has records of other servers, or cannot be read.
    pub fn is_complete(&self) -> Result<(), Doubt> {
        let server = self.remote_records.find(&|visit| self.each(b"", visit))?;
        match self.completeness(server) {
            Completeness::Incomplete(why) => Err(why),
            Completeness::Complete | Completeness::Unread => Ok(()),
        }
    }

    fn completeness(&self, server: Option<&str>) -> Completeness {
        let Some(server) = server else { return Completeness::Complete };
        Completeness::Incomplete(self.describe(ListDoubt::OtherServers(server.to_owned())))
    }

    /// Checks the file, and stores the number of its names if it is to survive restarts. Blocks for the
    /// disk.
    ///
    /// # Errors
    ///
    /// If the number cannot be stored.
    pub fn keep_mark(&self) -> Result<(), String> {
        let Some(file) = &self.options.mark else { return Ok(()) };
        if file.load() == Some(StoredMark::Accepted) {
            let mut work = self.work();
            (work.guard, work.stored) = (LossGuard::default(), None);
        }
        if let Ok(view) = self.check_with_retries(&mut Scratch::default()) {
            let (names, now) = (view.records(), self.clock.now());
            self.work().guard.seen(names, now);
        }
        let now = self.clock.now();
        let (mark, stored) = {
            let work = self.work();
            (work.guard.high_water(), work.stored)
        };
        let Some(mark) = mark else { return Ok(()) };
        let is_due = stored.is_none_or(|(stored, at)| {
            stored.distrusted != mark.distrusted
                || (stored.names != mark.names && now.saturating_sub(at) >= STORE_INTERVAL)
        });
        if !is_due {
            return Ok(());
        }
        file.store(mark).map_err(|error| {
            let path = file.path().display();
            format!(
                "{path}: cannot store the number of names in the list: {error}; after a restart a list \
                 that has lost names is trusted"
            )
        })?;
        self.work().stored = Some((mark, now));
        Ok(())
    }
}
