//! Cyrus' own `mailboxes.db`, read while Cyrus writes it.
//!
//! [`FileList`] is the list. Each of its concerns has a file:
//!
//! * [`lookup`]: finds one name. [`walk`] and [`walk_past`]: visit many.
//! * [`refresh`]: keeps the view at the present state of the file. [`build_index`]: collects the sparse
//!   index during lookups.
//! * [`trust`]: whether the list may call a name absent. [`other_servers`], [`mark_file`] and
//!   [`inspection`] have parts of the answer.
//! * [`view`]: contents of one opened file, as a [`skip_view`] or an [`index_view`];
//!   [`open_file`]: the file itself. [`lock`]: the lock against Cyrus' writers.
//! * [`verify`]: reports everything wrong in a file.

mod build_index;
mod clock;
#[cfg(test)]
mod cut_tests;
mod error;
mod index_view;
mod inspection;
pub(crate) mod keys;
pub(crate) mod lock;
#[cfg(test)]
mod lock_tests;
mod lookup;
pub mod mark_file;
#[cfg(test)]
mod mended_tests;
pub(crate) mod open_file;
mod other_servers;
mod refresh;
mod skip_view;
mod status;
#[cfg(test)]
mod tests;
mod trust;
pub mod verify;
mod view;
mod walk;
mod walk_past;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::cyrusdb::skip::sparse_index::SparseIndexBuilder;
use crate::cyrusdb::skip::window::Scratch;
use crate::model::doubt::{Doubt, Doubtful};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::loss_guard::{HighWater, LossGuard};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::os::pinned_path::PinnedPath;
use clock::ListClock;
use mark_file::{MarkFile, StoredMark};
use other_servers::RemoteRecords;
use view::View;

pub(crate) use error::WaitPolicy;
pub use inspection::Inspection;
pub use status::FileListStatus;
pub use trust::Completeness;

/// Default of [`FileListOptions::max_hit_age`].
const HIT_AGE: Duration = Duration::from_millis(2);

/// Timeouts and caching of a [`FileList`].
#[derive(Debug, Clone)]
pub struct FileListOptions {
    /// Maximum staleness of a hit and of the cached file length. A miss is never stale.
    pub max_hit_age: Duration,
    /// Time for which a lookup that may wait waits for a lock.
    pub lock_timeout: Duration,
    /// Number of lookups before the large sparse index is built and the file is mapped. Until then there
    /// is a small index or none. Building takes as long as some thousand lookups without an index, in a
    /// list of 1,000,000 names, and up to 8 MB.
    pub index_after: u32,
    /// File that keeps the number of names over restarts.
    pub mark: Option<MarkFile>,
}

impl Default for FileListOptions {
    fn default() -> Self {
        Self {
            max_hit_age: HIT_AGE,
            lock_timeout: Duration::from_secs(1),
            index_after: 0,
            mark: None,
        }
    }
}

/// Cyrus' own mailbox list, read in place.
///
/// Reads only, by `pread` or through a guarded map, and follows the file by itself: commits, repacks,
/// replacement by another engine's file, absence and return. A lookup says [`Lookup::Absent`] only if,
/// after the search, the path still led to the file that was searched and nothing had been committed
/// since; and only if the list has not shrunk suspiciously, see [`Self::trust`].
///
/// Any number of threads look up at once. Memory: some 8 MB for a twoskip or twom file of any size.
#[derive(Debug)]
pub struct FileList {
    at: Arc<PinnedPath>,
    options: FileListOptions,
    clock: ListClock,
    /// Cached view. Every lookup of every thread reads it: without a counter that they would all write to.
    current: ArcSwapOption<View>,
    /// Number of lookups, up to [`FileListOptions::index_after`].
    lookups: AtomicU32,
    remote_records: RemoteRecords,
    /// Time from which a torn map may be mapped anew, in nanoseconds of the clock.
    renew_at: AtomicU64,
    suspects: inspection::Suspects,
    work: Mutex<Work>,
}

/// State of the one thread that follows the file or collects the index.
#[derive(Debug, Default)]
struct Work {
    builder: Option<SparseIndexBuilder>,
    guard: LossGuard,
    /// High-water mark that was stored last, and when.
    stored: Option<(HighWater, Duration)>,
}

impl FileList {
    /// Returns the list at this path with default options. The file need not exist or be readable now.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::open(path, FileListOptions::default())
    }

    /// Returns the list at this path. The file need not exist or be readable now.
    pub fn open(path: impl Into<PathBuf>, options: FileListOptions) -> Self {
        Self::open_at(Arc::new(PinnedPath::at(path.into())), options)
    }

    /// Returns the list at a path whose directory may have been opened before.
    pub(crate) fn open_at(at: Arc<PinnedPath>, options: FileListOptions) -> Self {
        let mut work = Work::default();
        if let Some(StoredMark::Mark(mark)) = options.mark.as_ref().and_then(MarkFile::load) {
            work.guard = LossGuard::restored(mark, Duration::ZERO);
        }
        Self {
            at,
            options,
            clock: ListClock::default(),
            current: ArcSwapOption::empty(),
            lookups: AtomicU32::new(0),
            remote_records: RemoteRecords::default(),
            renew_at: AtomicU64::new(0),
            suspects: inspection::Suspects::default(),
            work: Mutex::new(work),
        }
    }

    /// Returns the path it was opened with.
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// Looks up as [`MailboxList::lookup`] does, but returns [`Lookup::Busy`] where that would wait for
    /// a lock or read a whole file.
    pub fn lookup_now(&self, name: &MailboxName) -> Lookup {
        self.look_up(name, WaitPolicy::Never).0
    }

    /// Returns the doubt that an error means; its text begins with the path.
    fn describe(&self, error: impl Doubtful) -> Doubt {
        Doubt::new(error.doubt_kind(), format_args!("{}: {error}", self.path().display()))
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(|poisoned| {
            // A thread that panicked may have followed half of the log; that half must not be
            // followed again.
            let mut work = poisoned.into_inner();
            work.builder = None;
            self.cache(None);
            self.work.clear_poison();
            work
        })
    }
}

impl MailboxList for FileList {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.look_up(name, WaitPolicy::Allowed).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        self.look_up(name, WaitPolicy::Allowed)
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        match &*self.cached() {
            Some(view) => view.key_generation(),
            None => self.check(WaitPolicy::Never, &mut Scratch::default()).ok()?.key_generation(),
        }
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), Doubt> {
        self.walk_past(prefix, visit)
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        self.walk(prefix, visit)
    }
}
