//! Visits all names with a common prefix.

use std::ops::ControlFlow;

use crate::cyrusdb::skip::position::Walked;
use crate::cyrusdb::skip::window::Scratch;
use crate::model::doubt::Doubt;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;

use super::error::{ReadError, WaitPolicy};
use super::index_view::IndexView;
use super::lookup::{ATTEMPTS, pause, read_record};
use super::skip_view::SkipView;
use super::view::View;
use super::{FileList, keys};

/// Maximum number of attempts in a row in which a walk finds nothing new in a list that keeps changing.
pub(super) const MAX_IDLE_ATTEMPTS: u32 = 1000;

/// Visitor of one name.
type NameVisitor<'v> = dyn FnMut(&MailboxName, &Record) -> ControlFlow<()> + 'v;

/// Names of one walk.
pub(super) struct KeyRange<'r> {
    pub(super) generation: KeyGeneration,
    /// Prefix of the keys.
    pub(super) start: &'r [u8],
    /// Prefix of the names.
    pub(super) prefix: &'r [u8],
}

impl KeyRange<'_> {
    /// Returns the name of a key, if it is one of this range.
    pub(super) fn name(&self, key: &[u8]) -> Option<MailboxName> {
        let name = MailboxName::from_key(self.generation, key)?;
        name.as_bytes().starts_with(self.prefix).then_some(name)
    }
}

impl FileList {
    /// See [`MailboxList::each`](crate::model::list::MailboxList::each).
    pub(super) fn walk(&self, prefix: &[u8], visit: &mut NameVisitor<'_>) -> Result<(), Doubt> {
        let mut scratch = Scratch::default();
        let view = self.check_with_retries(&mut scratch);
        let view = view.map_err(|error| self.describe(error))?;
        for generation in [KeyGeneration::Separated, KeyGeneration::Internal] {
            if view.key_generation().is_some_and(|decided| decided != generation) {
                continue;
            }
            for start in keys::key_prefixes(generation, prefix) {
                let range = KeyRange { generation, start: &start, prefix };
                if self.walk_range(&range, visit, &mut scratch)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Visits one range. If a writer overtakes the walk, it continues behind the last name, in the state
    /// of that time.
    fn walk_range(
        &self,
        range: &KeyRange<'_>,
        visit: &mut NameVisitor<'_>,
        scratch: &mut Scratch,
    ) -> Result<ControlFlow<()>, Doubt> {
        let mut last: Option<Vec<u8>> = None;
        let mut attempt = 0;
        loop {
            pause(attempt, WaitPolicy::Allowed);
            let view = self.check_with_retries(scratch).map_err(|error| self.describe(error))?;
            let view: &SkipView = match &*view {
                View::Skip(view) => view,
                View::Index(index) => return self.walk_index(index, range, visit),
            };
            let in_order = view.surely_raw();
            let from = match &last {
                Some(key) => key.clone(),
                None if in_order => range.start.to_vec(),
                None => Vec::new(),
            };
            let end = view.header().end;
            let mut outcome = Ok(ControlFlow::Continue(()));
            let walked = view.walk(&from, scratch, &mut |key, value| {
                if last.as_deref() == Some(key) {
                    return true;
                }
                attempt = 0;
                if !key.starts_with(range.start) {
                    last = Some(key.to_vec());
                    return !in_order;
                }
                if let Some(name) = range.name(key) {
                    outcome = read_record(&name, value).map(|record| visit(&name, &record));
                }
                let last = last.get_or_insert_default();
                last.clear();
                last.extend_from_slice(key);
                matches!(outcome, Ok(ControlFlow::Continue(())))
            });
            attempt += 1;
            match walked {
                Ok(Walked::Stopped) => return outcome.map_err(|why| self.describe(why)),
                // A walk that a writer has overtaken may seem to be at the end.
                Ok(Walked::ToEnd) if view.header_now().is_ok_and(|now| now.end == end) => {
                    return outcome.map_err(|why| self.describe(why));
                }
                Ok(Walked::ToEnd) if attempt < MAX_IDLE_ATTEMPTS => {}
                Ok(Walked::ToEnd) => {
                    return Err(self.describe(ReadError::Changing("changed all the time")));
                }
                Err(error) if attempt >= ATTEMPTS => return Err(self.describe(error)),
                Ok(Walked::OtherOrder) | Err(_) => {}
            }
        }
    }

    fn walk_index(
        &self,
        index: &IndexView,
        range: &KeyRange<'_>,
        visit: &mut NameVisitor<'_>,
    ) -> Result<ControlFlow<()>, Doubt> {
        let rows = self.rows_of(index, range)?;
        let stopped = rows.iter().any(|(name, record)| visit(name, record).is_break());
        Ok(if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Returns copies of the rows of a range, since the visitor may be slow, and may look up.
    fn rows_of(
        &self,
        index: &IndexView,
        range: &KeyRange<'_>,
    ) -> Result<Vec<(MailboxName, Record)>, Doubt> {
        let mut rows = Vec::new();
        let mut damaged = None;
        index.each(&mut |key, value| {
            if let Some(name) = range.name(key) {
                match read_record(&name, value) {
                    Ok(record) => rows.push((name, record)),
                    Err(bad) => damaged = Some(self.describe(bad)),
                }
            }
        });
        match damaged.or_else(|| Some(self.describe(index.incomplete()?))) {
            Some(doubt) => Err(doubt),
            None => Ok(rows),
        }
    }
}
