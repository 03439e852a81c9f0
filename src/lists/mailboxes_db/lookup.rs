//! Looks one name up.
//!
//! In three steps of rising cost: lock-free searches of the cached view, repeated while a writer is at
//! work; a search of the file as it is opened anew; and a search under a shared lock.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::cyrusdb::error::Error;
use crate::cyrusdb::skip::window::Scratch;
use crate::cyrusdb::{Engine, value};
use crate::model::list::Lookup;
use crate::model::mod_time::ModTime;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::os::file_id::FileId;

use super::FileList;
use super::error::{BadRecord, ReadError, WaitPolicy};
use super::lock::{Ranges, left_of};
use super::open_file::open;
use super::skip_view::{KeyInView, SkipView};
use super::view::View;

/// Number of lock-free attempts: a torn read is over in microseconds.
pub(super) const ATTEMPTS: u32 = 6;

/// A value read from the list, with the time at which this host wrote it.
type Dated<T> = (T, ModTime);

fn undated<T>(found: T) -> Dated<T> {
    (found, ModTime::NOT_LATELY)
}

/// Result of one search.
enum SearchAttempt {
    Answered(Dated<Lookup>),
    /// The file has changed meanwhile, or only a lock can tell: look again.
    Again,
}

/// Memory of a lookup, which the next lookup of the thread reuses.
#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    key: Vec<u8>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

impl FileList {
    /// Looks a name up. The flag: the record changed recently.
    pub(crate) fn look_up(&self, name: &MailboxName, wait: WaitPolicy) -> (Lookup, bool) {
        let (found, date) = BUFFERS.with(|buffers| match buffers.try_borrow_mut() {
            Ok(mut buffers) => self.look_up_with(name, wait, &mut buffers),
            Err(_) => self.look_up_with(name, wait, &mut Buffers::default()),
        });
        (found, date.is_lately(|| self.clock.checked_wall()))
    }

    fn look_up_with(
        &self,
        name: &MailboxName,
        wait: WaitPolicy,
        buffers: &mut Buffers,
    ) -> Dated<Lookup> {
        let unsure = |error: ReadError| match error {
            ReadError::WouldWait => undated(Lookup::Busy),
            error => {
                self.suspects.failed(name);
                undated(Lookup::Unsure(self.describe(error)))
            }
        };
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            pause(attempt, wait);
            let view = match attempt {
                0 => self.recent(wait, &mut buffers.scratch),
                _ => self.checked(wait, &mut buffers.scratch),
            };
            attempt += 1;
            let view = match view {
                Ok(view) => view,
                Err(error) if error.may_be_torn() => continue,
                Err(error) if error.is_timeout() => {
                    let known = self.known_behind_lock(name, buffers);
                    return known.unwrap_or_else(|| unsure(error));
                }
                Err(error) => return unsure(error),
            };
            let Some(view) = &*view else { continue };
            match self.attempt(view, name, wait, buffers) {
                Ok(SearchAttempt::Answered(answer)) => {
                    self.collect(view, &mut buffers.scratch);
                    return answer;
                }
                Ok(SearchAttempt::Again) => {}
                Err(error) if error.may_be_torn() => {}
                Err(error) if error.may_pass_by_reopening() => attempt = ATTEMPTS,
                Err(error) => return unsure(error),
            }
        }
        match self.look_up_reopened(name, buffers) {
            Ok(SearchAttempt::Answered(answer)) => return answer,
            Ok(SearchAttempt::Again) => {}
            Err(error) if error.may_be_torn() => {}
            Err(error) => return unsure(error),
        }
        match wait {
            WaitPolicy::Never => undated(Lookup::Busy),
            WaitPolicy::Allowed => self.look_up_locked(name, buffers).unwrap_or_else(unsure),
        }
    }

    /// One search. A miss, or a record that refuses mail, is answered only if the file has not changed
    /// since.
    fn attempt(
        &self,
        view: &Arc<View>,
        name: &MailboxName,
        wait: WaitPolicy,
        buffers: &mut Buffers,
    ) -> Result<SearchAttempt, ReadError> {
        let state = view.state();
        let answer = match search(view, name, buffers)? {
            KeyInView::Found(Ok((record, date))) if record.accepts_mail(name) => {
                self.cache_position(view, state, buffers);
                return Ok(SearchAttempt::Answered((Lookup::Present(record), date)));
            }
            KeyInView::Found(Ok((record, date))) => (Lookup::Present(record), date),
            KeyInView::Found(Err(why)) => {
                let unsure = Lookup::Unsure(self.describe(why));
                return Ok(SearchAttempt::Answered(undated(unsure)));
            }
            KeyInView::Overwritten => {
                self.forget(view);
                return Ok(SearchAttempt::Again);
            }
            KeyInView::Absent => undated(Lookup::Absent),
        };
        // An answer that may refuse a message for good is never older than the file, and never that of a
        // list in doubt.
        let now = self.check(wait, &mut buffers.scratch)?;
        if !Arc::ptr_eq(&now, view) || now.state() != state {
            return Ok(SearchAttempt::Again);
        }
        Ok(SearchAttempt::Answered(match self.doubt(view) {
            None => answer,
            Some(doubt) => undated(Lookup::Unsure(self.describe(doubt))),
        }))
    }

    /// Looks up in the file as it is opened anew. The cached view may be to blame for the failures
    /// before: a disk could not be read, or another list was written over this one.
    fn look_up_reopened(
        &self,
        name: &MailboxName,
        buffers: &mut Buffers,
    ) -> Result<SearchAttempt, ReadError> {
        let (file, engine) = open(&self.at)?;
        if matches!(engine, Engine::Skiplist | Engine::Flat) {
            return Ok(SearchAttempt::Again);
        }
        let view = View::Skip(SkipView::open(file, &mut buffers.scratch)?);
        // After another error the cached view is as good as this one.
        search(&view, name, buffers)?;
        let view = self.cache_new(view, &mut self.work())?;
        self.attempt(&view, name, WaitPolicy::Never, buffers)
    }

    /// Looks up in the copy of a skiplist file that was read before a writer took its lock for long, as a
    /// MUPDATE resync does. Records that accept mail are answered from it.
    fn known_behind_lock(
        &self,
        name: &MailboxName,
        buffers: &mut Buffers,
    ) -> Option<Dated<Lookup>> {
        let view = self.cached();
        // Only contents in memory may be searched without a look at the file.
        let view = view.as_ref().filter(|view| matches!(***view, View::Index(_)))?;
        let same = self.at.standing().ok()?;
        match search(view, name, buffers).ok()? {
            KeyInView::Found(Ok((record, date)))
                if record.accepts_mail(name) && FileId::of(&same) == view.file_id() =>
            {
                Some((Lookup::Present(record), date))
            }
            _ => None,
        }
    }

    /// Slow path: looks up under a shared lock after lock-free attempts failed, because Cyrus' writers
    /// never paused, or because something else makes the file unreadable.
    fn look_up_locked(
        &self,
        name: &MailboxName,
        buffers: &mut Buffers,
    ) -> Result<Dated<Lookup>, ReadError> {
        for attempt in 0..ATTEMPTS {
            pause(attempt, WaitPolicy::Allowed);
            let (file, engine) = open(&self.at)?;
            let locked = file.try_clone()?;
            let ranges = match engine {
                Engine::Twoskip | Engine::Skiplist => Ranges::WholeFile,
                Engine::Twom => Ranges::Twom,
                Engine::Flat => return Err(ReadError::corrupt(0, "changed all the time")),
            };
            let _lock = self.lock(&locked, ranges, WaitPolicy::Allowed)?;
            let view = match self.load_locked(file, engine, &mut buffers.scratch) {
                Err(error) if error.may_be_torn() && attempt + 1 < ATTEMPTS => continue,
                view => view?,
            };
            if let SearchAttempt::Answered(answer) =
                self.attempt(&view, name, WaitPolicy::Allowed, buffers)?
            {
                return Ok(answer);
            }
        }
        Err(ReadError::corrupt(0, "replaced again and again while it was read"))
    }

    /// Caches the position of the record that was found, unless the list is being followed now or has
    /// been since: the position is then of an older state.
    fn cache_position(&self, view: &View, state: u64, buffers: &Buffers) {
        if let View::Skip(skip) = view
            && let Some(at) = buffers.scratch.found_at()
            && let Ok(_following) = self.work.try_lock()
            && view.state() == state
        {
            skip.cache_position(&buffers.key, at);
        }
    }
}

/// Lets a writer finish before this attempt.
pub(super) fn pause(attempt: u32, wait: WaitPolicy) {
    match attempt {
        0 | 1 => {}
        2 | 3 => thread::yield_now(),
        _ if wait == WaitPolicy::Allowed => thread::sleep(left_of(Duration::from_millis(1))),
        _ => thread::yield_now(),
    }
}

/// Searches for a name at the end of the view's header. Leaves the key in the buffers.
fn search(
    view: &View,
    name: &MailboxName,
    buffers: &mut Buffers,
) -> Result<KeyInView<Result<Dated<Record>, BadRecord>>, Error> {
    let Buffers { scratch, key } = buffers;
    // The other generation as well: one key of a wrong generation must not make all names unknown.
    let generations = match view.key_generation() {
        Some(KeyGeneration::Internal) => [KeyGeneration::Internal, KeyGeneration::Separated],
        _ => [KeyGeneration::Separated, KeyGeneration::Internal],
    };
    for generation in generations {
        key.clear();
        name.push_key(generation, key);
        let found = view.find(key, scratch, |value| read_dated(name, value))?;
        if !matches!(found, KeyInView::Absent) {
            return Ok(found);
        }
    }
    Ok(KeyInView::Absent)
}

fn read_dated(name: &MailboxName, value: &[u8]) -> Result<Dated<Record>, BadRecord> {
    value::parse_dated(value).map_err(|error| BadRecord { name: name.clone(), error })
}

/// Reads the record of a name.
pub(super) fn read_record(name: &MailboxName, value: &[u8]) -> Result<Record, BadRecord> {
    read_dated(name, value).map(|(record, _)| record)
}
