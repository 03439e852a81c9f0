//! The replica for processes without a place in LMDB's table of readers.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwapOption, Guard};

use super::data_file::{DataFile, FileError};
use super::pages::{self, Commit, CommitReader};
use super::walk::{KeyedRow, PIECE, walk};
use crate::model::doubt::{Doubt, Doubtful};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::os::pinned_path::PinnedPath;
use crate::replica::store::value::{self, BadValue, Row};
use crate::replica::{ReplicaDoubt, ReplicaMeta, generation};

/// Default for how long a hit may come from a file that has been replaced.
pub(crate) const HIT_AGE: Duration = Duration::from_millis(2);

/// Maximum number of attempts of a read that commits interrupt. A read takes microseconds, and the
/// fastest writer needs some hundred of them for a commit.
const MAX_ATTEMPTS: usize = 1000;

/// Maximum number of attempts to read the meta pages.
const MAX_META_ATTEMPTS: usize = 20;

/// Maximum age of the cached metadata, from which the age of the replica and the release of its master come.
const META_AGE: Duration = Duration::from_millis(100);

/// A replica, read while the daemon writes it. Any number of threads look up at once.
///
/// It gives the same answers as [`ReplicaList`](crate::replica::store::ReplicaList). It needs to read
/// `data.mdb`, and nothing else. A child after fork opens its own, because the fork may catch another
/// thread halfway through a change.
#[derive(Debug)]
pub(crate) struct LocklessReplica {
    at: Arc<PinnedPath>,
    started: Instant,
    /// Interval at which a hit checks whether the file is still the one at its path. A miss always
    /// does.
    hit_age: Duration,
    opened: ArcSwapOption<OpenedReplica>,
    /// Nanoseconds since `started` until which the file is taken for the one at its path.
    good_until: AtomicU64,
    /// Metadata, with the nanoseconds since `started` at which it was read.
    meta: ArcSwapOption<(u64, ReplicaMeta)>,
}

/// The file as it was opened.
#[derive(Debug)]
struct OpenedReplica {
    file: DataFile,
    page_size: u64,
    /// The last commit that was read.
    last: ArcSwapOption<Commit>,
}

thread_local! {
    /// Buffer for a page.
    static PAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl LocklessReplica {
    /// The replica whose `data.mdb` is at this path. A hit may come from a file that was replaced up
    /// to `hit_age` ago.
    pub(crate) fn at(at: Arc<PinnedPath>, hit_age: Duration) -> Self {
        Self {
            at,
            hit_age,
            started: Instant::now(),
            opened: ArcSwapOption::empty(),
            good_until: AtomicU64::new(0),
            meta: ArcSwapOption::empty(),
        }
    }

    /// Adds the path in front of a message.
    fn describe(&self, error: impl Doubtful) -> Doubt {
        Doubt::new(error.doubt_kind(), format_args!("{}: {error}", self.at.path().display()))
    }

    /// Nanoseconds since the reader was created.
    fn now(&self) -> u64 {
        nanoseconds(self.started.elapsed())
    }

    /// The file at the path, if that was checked recently.
    fn recently_opened(&self) -> Option<Guard<Option<Arc<OpenedReplica>>>> {
        let recently = self.now() < self.good_until.load(Relaxed);
        recently.then(|| self.opened.load()).filter(|opened| opened.is_some())
    }

    /// The file at the path; `check`: whether to check that now.
    fn opened(&self, check: bool) -> Result<Arc<OpenedReplica>, FileError> {
        if !check && let Some(Some(known)) = self.recently_opened().as_deref() {
            return Ok(Arc::clone(known));
        }
        let known = self.opened.load_full();
        let now = self.now();
        let is_old = |meta: &(u64, _)| now.saturating_sub(meta.0) > nanoseconds(META_AGE);
        if self.meta.load().as_deref().is_some_and(is_old) {
            self.meta.store(None);
        }
        let file = DataFile::open(&self.at)?;
        let opened = match known {
            Some(known) if known.file.id == file.id => known,
            _ => {
                let page_size = pages::page_size(&file)?;
                let last = ArcSwapOption::empty();
                let opened = Arc::new(OpenedReplica { file, page_size, last });
                self.opened.store(Some(Arc::clone(&opened)));
                opened
            }
        };
        self.good_until.store(now.saturating_add(nanoseconds(self.hit_age)), Relaxed);
        Ok(opened)
    }

    /// Calls `look` with the last commit, and repeats that until nothing was committed meanwhile.
    fn read<T>(
        &self,
        opened: &OpenedReplica,
        mut look: impl FnMut(&CommitReader<'_>, &mut Vec<u8>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        // Taken out, so that nothing is borrowed while `look` runs.
        let mut page = PAGE.with(RefCell::take);
        let mut known = opened.last.load_full();
        for attempt in 0..MAX_ATTEMPTS {
            let looked = match known.take() {
                Some(last) => Ok(last),
                None => Commit::last(&opened.file, opened.page_size).map(|commit| {
                    let last = Arc::new(commit);
                    opened.last.store(Some(Arc::clone(&last)));
                    last
                }),
            }
            .and_then(|commit| {
                let looked = look(&CommitReader::of(&opened.file, &commit), &mut page);
                let is_last = commit.is_last(&opened.file)?;
                Ok(is_last.then_some(looked))
            });
            match looked {
                Ok(Some(looked)) => {
                    PAGE.set(page);
                    return looked;
                }
                Ok(None) => {}
                // The writer may be in the middle of a meta page.
                Err(FileError::Damaged { .. }) if attempt < MAX_META_ATTEMPTS => {
                    std::thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
        // A damaged meta page is the better explanation.
        Commit::last(&opened.file, opened.page_size)?;
        let why = "a commit during every attempt to read; recipients are deferred";
        Err(io::Error::other(why).into())
    }

    /// Looks a name up in an opened file. Returns also whether its record changed recently.
    fn look_up(
        &self,
        opened: &OpenedReplica,
        name: &MailboxName,
    ) -> Result<(Lookup, bool), FileError> {
        self.read(opened, |commit, page| {
            let row = commit.get(name.as_bytes(), page)?.map(value::row);
            let bad = match row {
                Some(Ok(Row::Record(record, changed))) => {
                    return Ok((Lookup::Present(record), changed.is_lately(SystemTime::now)));
                }
                Some(Ok(Row::Missing(missing))) => {
                    return Ok((Lookup::Unsure(missing.doubt(name)), false));
                }
                Some(Err(bad)) => Some(bad),
                None => None,
            };
            let meta = commit.get(value::ABOUT_KEY, page)?.map(value::synchronised_release);
            let found = match (meta, bad) {
                // Each record of another version looks damaged.
                (Some(Err(bad @ BadValue::Version(_))), _) => Lookup::Unsure(self.describe(bad)),
                (_, Some(bad)) => {
                    let path = self.at.path().display();
                    let text = format_args!("{path}: record of {name}: {bad}");
                    Lookup::Unsure(Doubt::new(bad.doubt_kind(), text))
                }
                (Some(Ok((true, _))), None) => Lookup::Absent,
                (None | Some(Ok((false, _))), None) => {
                    Lookup::Unsure(self.describe(ReplicaDoubt::NeverSynchronised))
                }
                (Some(Err(bad)), None) => Lookup::Unsure(self.describe(bad)),
            };
            Ok((found, false))
        })
    }

    /// Returns the metadata and the number of names.
    pub(crate) fn about(&self) -> Result<(ReplicaMeta, u64), Doubt> {
        let read = || {
            let opened = self.opened(false)?;
            self.read(&opened, |commit, page| {
                let meta = commit.get(value::ABOUT_KEY, page)?.map(value::about);
                Ok((meta, commit.commit.entries.saturating_sub(1)))
            })
        };
        let (meta, names) = read().map_err(|error: FileError| self.describe(error))?;
        let meta = match meta {
            Some(meta) => meta.map_err(|bad| self.describe(bad))?,
            None => ReplicaMeta::default(),
        };
        let names = names.saturating_sub(meta.missing);
        Ok((meta, names))
    }

    /// Returns a part of the metadata, which may be cached for [`META_AGE`].
    pub(crate) fn cached_meta<T>(&self, take: impl FnOnce(&ReplicaMeta) -> T) -> Result<T, Doubt> {
        if let Some((_, meta)) = self.meta.load().as_deref() {
            return Ok(take(meta));
        }
        let meta = (self.now(), self.about()?.0);
        let part = take(&meta.1);
        self.meta.store(Some(Arc::new(meta)));
        Ok(part)
    }

    /// Reads a piece of the names that begin with `prefix` and come after the key `last`.
    fn piece(&self, prefix: &[u8], last: Option<&[u8]>) -> Result<Vec<KeyedRow>, FileError> {
        let opened = self.opened(false)?;
        self.read(&opened, |commit, _page| {
            let mut rows = Vec::new();
            let from = last.unwrap_or(prefix);
            commit.walk(from, &mut |key, value| {
                if !key.starts_with(prefix) || rows.len() == PIECE {
                    return ControlFlow::Break(());
                }
                if key != value::ABOUT_KEY && last.is_none_or(|last| last != key) {
                    rows.push((key.to_vec(), value::row(value)));
                }
                ControlFlow::Continue(())
            })?;
            Ok(rows)
        })
    }
}

impl MailboxList for LocklessReplica {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lookup_dated(name).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let look = || {
            let opened = self.opened(false)?;
            let found = self.look_up(&opened, name);
            if matches!(found, Ok((Lookup::Present(_), _))) {
                return found;
            }
            // A miss or an error never comes from a file that has been replaced.
            let now = self.opened(true)?;
            match now.file.id == opened.file.id {
                true => found,
                false => self.look_up(&now, name),
            }
        };
        look().unwrap_or_else(|error: FileError| (Lookup::Unsure(self.describe(error)), false))
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.cached_meta(|meta| generation(&meta.release)).ok()?
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        self.each_past(prefix, &mut |name, record| visit(name, record).into())
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), Doubt> {
        if self.about()?.0.synchronised.is_none() {
            return Err(self.describe(ReplicaDoubt::NeverSynchronised));
        }
        let piece =
            |last: Option<&[u8]>| self.piece(prefix, last).map_err(|error| self.describe(error));
        walk(self.at.path(), piece, visit)
    }
}
