//! The `mailboxes.db` of this host as a [`MailboxList`].

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwapOption, Guard};

use crate::cyrusdb::error::Error;
use crate::cyrusdb::skip::position::Walked;
use crate::cyrusdb::skip::sparse_index::{BuildProgress, IndexSize, SparseIndexBuilder};
use crate::cyrusdb::skip::window::Scratch;
use crate::cyrusdb::{Engine, value};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::mod_time::ModTime;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::model::shown::Shown;

use super::index_view::{IndexView, busy};
use super::inspection::Suspects;
use super::keys;
use super::lock::{Ranges, SharedLock, left_of};
use super::mark_file::{Kept, MarkFile};
use super::other_servers::Elsewhere;
use super::skip_view::SkipView;
use super::view::{self, Identity, ListFile, Search, View};
use crate::model::loss_guard::{HighWater, Loss, LossGuard};
use crate::os::pinned_path::PinnedPath;

/// So old may be a record that is found, and what is known of the file's length.
pub(crate) const HIT_AGE: Duration = Duration::from_millis(2);

/// How patient a [`FileList`] is, and how careful.
#[derive(Debug, Clone)]
pub struct Options {
    /// A record that is found may be so much older than the file. What is not found never is.
    pub hit_age: Duration,
    /// How long a lookup that may wait waits for a lock.
    pub lock_patience: Duration,
    /// So many lookups go with a few shortcuts, or none, and without a map, before many are collected,
    /// which takes as long as some thousand lookups without them, in a list of 1,000,000 names, and up to
    /// 8 MB.
    pub shortcuts_after: u32,
    /// Where the number of its names is kept over restarts.
    pub mark: Option<MarkFile>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hit_age: HIT_AGE,
            lock_patience: Duration::from_secs(1),
            shortcuts_after: 0,
            mark: None,
        }
    }
}

/// What is known of a list, for the postmaster.
#[derive(Debug, Clone)]
pub struct Status {
    /// `twoskip`, `twom`, `skiplist` or `flat`.
    pub engine: &'static str,
    /// Which generation of Cyrus wrote the keys; `None`: not to be told from the keys it has.
    pub key_generation: Option<KeyGeneration>,
    /// Keys in the list, those that are no mailboxes included.
    pub records: u64,
    /// Length of the file in bytes.
    pub size: u64,
    /// Inode of the file.
    pub inode: u64,
    /// When the file was written last; late for twom, which writes through a map.
    pub modified: Option<SystemTime>,
    /// A transaction is under way, or a writer died in one.
    pub dirty: bool,
}

/// How often a look without a lock is tried again: a torn read is over in microseconds.
pub(crate) const ATTEMPTS: u32 = 6;

/// So often in a row a walk may find nothing new and yet a changed list.
pub(crate) const PATIENCE: u32 = 1000;

/// A lookup that may not wait reads no more bytes than this of a file that must be read whole.
const AT_ONCE: u64 = 256 << 10;

/// Least time between two maps of a file that loses pages.
const RENEW: Duration = Duration::from_secs(10);

/// So many fingers are collected on the way of one lookup: about a millisecond.
const PIECE: usize = 2048;

/// After so many lookups that had none, a few are.
const FEW_AFTER: u32 = 128;

/// Cyrus' own list of mailboxes, read in place.
///
/// Reads only, by `pread` or through a guarded map, and follows the file by itself:
/// commits, repacks, replacement by another engine's file, absence and return. A lookup says [`Lookup::Absent`] only if, after the
/// search, the path still led to the file that was searched and nothing had been committed since;
/// and only if the list has not shrunk suspiciously, see [`Self::trust`].
///
/// Any number of threads look up at once. Memory: some 8 MB for a twoskip or twom file of any size.
#[derive(Debug)]
pub struct FileList {
    at: Arc<PinnedPath>,
    options: Options,
    created: Instant,
    /// Read for every lookup of every thread: without a counter that they would all write to.
    current: ArcSwapOption<View>,
    /// When `current` was last seen to be what the file is, in nanoseconds since `created`.
    checked: AtomicU64,
    /// What the clock said then, in seconds since 1970.
    clock: AtomicU64,
    /// How many lookups there were, up to [`Options::shortcuts_after`].
    lookups: AtomicU32,
    elsewhere: Elsewhere,
    /// When a torn map may be made anew, in nanoseconds since `created`.
    renew_at: AtomicU64,
    /// A name that could not be looked up, and where a walk that looks for damage has come to.
    pub(crate) suspects: Suspects,
    work: Mutex<Work>,
}

/// What one thread at a time does.
#[derive(Debug, Default)]
struct Work {
    builder: Option<SparseIndexBuilder>,
    guard: LossGuard,
    /// What was kept last, and when.
    kept: Option<(HighWater, Duration)>,
}

/// The number of names is kept at least so often while it changes.
const KEEP_EVERY: Duration = Duration::from_secs(60);

thread_local! {
    static SCRATCH: RefCell<(Scratch, Vec<u8>)> = RefCell::default();
}

impl FileList {
    /// Returns the list at this path with default options. The file need not exist or be readable now.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::open(path, Options::default())
    }

    /// A list at this path. The file need not be there, or be readable, now.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Self {
        Self::open_at(Arc::new(PinnedPath::at(path.into())), options)
    }

    /// The same for a file whose directory may have been opened before.
    pub(crate) fn open_at(at: Arc<PinnedPath>, options: Options) -> Self {
        let mut work = Work::default();
        if let Some(Kept::Mark(mark)) = options.mark.as_ref().and_then(MarkFile::load) {
            work.guard = LossGuard::restored(mark, Duration::ZERO);
        }
        Self {
            at,
            options,
            created: Instant::now(),
            current: ArcSwapOption::empty(),
            checked: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            lookups: AtomicU32::new(0),
            elsewhere: Elsewhere::default(),
            renew_at: AtomicU64::new(0),
            suspects: Suspects::default(),
            work: Mutex::new(work),
        }
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// As [`MailboxList::lookup`], but says [`Lookup::Busy`] where that would wait for a lock or
    /// read a whole file.
    pub fn lookup_now(&self, name: &MailboxName) -> Lookup {
        self.look_up(name, false).0
    }

    /// `Err` says, for the postmaster, why this list makes nobody unknown at present: it cannot be
    /// read, it is damaged, it is empty, or it has lost more than 10 % and more than 100 names compared with the
    /// most it had within the last one to two hours.
    pub fn trust(&self) -> Result<(), String> {
        self.believe(&*self.check_patiently(&mut Scratch::default())?)?;
        self.doubt_of_suspects()
    }

    /// Whether the list is complete by itself, as that of a single server is; `Err` says why not: it
    /// has records of other servers, or could not be read. `None`: it would have to be read for that.
    pub fn known_complete(&self) -> Option<Result<(), String>> {
        self.elsewhere.known().map(|server| self.complete(server))
    }

    /// The same, and reads the list if need be.
    pub fn is_complete(&self) -> Result<(), String> {
        self.complete(self.elsewhere.find(&|visit| self.each(b"", visit))?)
    }

    fn complete(&self, server: Option<&str>) -> Result<(), String> {
        let Some(server) = server else { return Ok(()) };
        Err(self.say(format_args!(
            "has mailboxes of other servers ({}) but no MUPDATE server is configured to confirm \
             misses; set `mupdate_server` in imapd.conf or `servers` in [mupdate], or \
             `misses = \"final\"` if the list is complete by itself",
            Shown(server)
        )))
    }

    /// What the list is now.
    pub fn status(&self) -> Result<Status, String> {
        let view = self.check_patiently(&mut Scratch::default())?;
        let metadata = self.at.standing().map_err(|error| self.say(error))?;
        let (engine, dirty) = match &*view {
            View::Skip(view) => (view.header().engine(), view.header().dirty),
            View::Index(index) => (index.engine(), !index.is_current(&metadata)),
        };
        Ok(Status {
            engine,
            key_generation: view.key_generation(),
            records: view.records(),
            size: metadata.len(),
            inode: metadata.ino(),
            modified: metadata.modified().ok(),
            dirty,
        })
    }

    /// Looks at the file, and keeps the number of its names over restarts, if they are to be. Blocks
    /// for the disk.
    ///
    /// # Errors
    ///
    /// Why the number cannot be kept, in words.
    pub fn keep_mark(&self) -> Result<(), String> {
        let Some(file) = &self.options.mark else { return Ok(()) };
        let accepted = file.load() == Some(Kept::Accepted);
        if accepted {
            let mut work = self.work();
            (work.guard, work.kept) = (LossGuard::default(), None);
        }
        if let Ok(view) = self.check_patiently(&mut Scratch::default()) {
            let (names, now) = (view.records(), self.created.elapsed());
            self.work().guard.seen(names, now);
        }
        let now = self.created.elapsed();
        let (mark, kept) = {
            let work = self.work();
            (work.guard.high_water(), work.kept)
        };
        let Some(mark) = mark else { return Ok(()) };
        let is_due = kept.is_none_or(|(kept, at)| {
            kept.distrusted != mark.distrusted
                || (kept.names != mark.names && now.saturating_sub(at) >= KEEP_EVERY)
        });
        if !is_due {
            return Ok(());
        }
        file.store(mark).map_err(|error| {
            let path = file.path().display();
            format!(
                "{path}: cannot keep how many names the list has: {error}; after a restart a list that \
                 has lost names is believed"
            )
        })?;
        self.work().kept = Some((mark, now));
        Ok(())
    }

    pub(crate) fn say(&self, what: impl std::fmt::Display) -> String {
        format!("{}: {what}", self.path().display())
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(|poisoned| {
            // A thread that panicked may have followed half of the log; that half must not be
            // followed again.
            let mut work = poisoned.into_inner();
            work.builder = None;
            self.remember(None);
            self.work.clear_poison();
            work
        })
    }

    /// Whether what is not in it is absent.
    fn believe(&self, view: &View) -> Result<(), String> {
        if let Some(why) = view.incomplete() {
            return Err(self.say(why));
        }
        if view.key_generation().is_none() {
            return Err(self.say("there is no user's mailbox in it: is it Cyrus' mailbox list?"));
        }
        match self.work().guard.distrust() {
            None => Ok(()),
            Some(Loss { had, lost }) if lost < had => Err(self.say(format!(
                "the list has lost {lost} of {had} names; until they are back no miss is believed; \
                 if that is meant: murder-route replica accept"
            ))),
            Some(_) => Err(self.say("the list is empty")),
        }
    }

    /// As [`MailboxList::lookup_dated`]; `may_wait`: for a lock, or until a whole file is read.
    pub(crate) fn look_up(&self, name: &MailboxName, may_wait: bool) -> (Lookup, bool) {
        let (found, date) = SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => {
                let (scratch, key) = &mut *scratch;
                self.look_up_with(name, may_wait, scratch, key)
            }
            Err(_) => self.look_up_with(name, may_wait, &mut Scratch::default(), &mut Vec::new()),
        });
        // By the clock that Cyrus dates its records by, as it stood when the file was looked at.
        let clock = || UNIX_EPOCH + Duration::from_secs(self.clock.load(Relaxed));
        (found, date.is_lately(clock))
    }

    fn look_up_with(
        &self,
        name: &MailboxName,
        may_wait: bool,
        scratch: &mut Scratch,
        key: &mut Vec<u8>,
    ) -> Dated<Lookup> {
        let unsure = |error: Error| match error {
            Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => undated(Lookup::Busy),
            error => {
                self.suspects.failed(name);
                undated(Lookup::Unsure(self.say(error)))
            }
        };
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            pause(attempt, may_wait);
            attempt += 1;
            let view = match self.recent(attempt > 1, may_wait, scratch) {
                Ok(view) => view,
                Err(Error::Corrupt { .. }) => continue,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    let known = self.known_behind_lock(name, scratch, key);
                    return known.unwrap_or_else(|| unsure(error.into()));
                }
                Err(error) => return unsure(error),
            };
            let Some(view) = &*view else { continue };
            match self.attempt(view, name, may_wait, scratch, key) {
                Ok(Some(answer)) => {
                    self.collect(view, scratch);
                    return answer;
                }
                Ok(None) | Err(Error::Corrupt { .. }) => {}
                Err(Error::Io(error)) if is_of_the_disk(&error) => attempt = ATTEMPTS,
                Err(error) => return unsure(error),
            }
        }
        match self.look_up_anew(name, scratch, key) {
            Ok(Some(answer)) => return answer,
            Ok(None) | Err(Error::Corrupt { .. }) => {}
            Err(error) => return unsure(error),
        }
        if !may_wait {
            return undated(Lookup::Busy);
        }
        self.look_up_locked(name, scratch, key).unwrap_or_else(unsure)
    }

    /// Looks up in the file as it is opened anew: what is remembered of it may be to blame for what
    /// failed before, after a disk that could not be read, or another list that was written over this
    /// one. `None`: the file is read whole, or changes.
    fn look_up_anew(
        &self,
        name: &MailboxName,
        scratch: &mut Scratch,
        key: &mut Vec<u8>,
    ) -> Result<Option<Dated<Lookup>>, Error> {
        let (file, engine) = view::open(&self.at)?;
        if matches!(engine, Engine::Skiplist | Engine::Flat) {
            return Ok(None);
        }
        let view = View::Skip(SkipView::open(file, scratch)?);
        // An error once more, and what is remembered is as good as this.
        search(&view, name, scratch, key)?;
        let view = self.remember_new(view, &mut self.work())?;
        self.attempt(&view, name, false, scratch, key)
    }

    /// Who was in a skiplist file before a writer took its lock for long, as a MUPDATE resync does.
    fn known_behind_lock(
        &self,
        name: &MailboxName,
        scratch: &mut Scratch,
        key: &mut Vec<u8>,
    ) -> Option<Dated<Lookup>> {
        let view = self.remembered();
        // Only what is in memory may be searched without a look at the file.
        let view = view.as_ref().filter(|view| matches!(***view, View::Index(_)))?;
        let same = self.at.standing().ok()?;
        match search(view, name, scratch, key).ok()? {
            Search::Found(Ok((record, date)))
                if record.accepts_mail(name) && Identity::of(&same) == view.identity() =>
            {
                Some((Lookup::Present(record), date))
            }
            _ => None,
        }
    }

    /// One search. `None`: the file has changed meanwhile, look again.
    fn attempt(
        &self,
        view: &Arc<View>,
        name: &MailboxName,
        may_wait: bool,
        scratch: &mut Scratch,
        key: &mut Vec<u8>,
    ) -> Result<Option<Dated<Lookup>>, Error> {
        let state = view.state();
        let answer = match search(view, name, scratch, key)? {
            Search::Found(Ok((record, date))) if record.accepts_mail(name) => {
                self.note(view, state, key, scratch);
                return Ok(Some((Lookup::Present(record), date)));
            }
            Search::Found(Ok((record, date))) => (Lookup::Present(record), date),
            Search::Found(Err(why)) => return Ok(Some(undated(Lookup::Unsure(self.say(why))))),
            Search::Overwritten => {
                self.forget(view);
                return Ok(None);
            }
            Search::Absent => undated(Lookup::Absent),
        };
        // What may refuse a letter for good is never older than the file, nor of a list in doubt.
        let now = self.check(may_wait, scratch)?;
        if !Arc::ptr_eq(&now, view) || now.state() != state {
            return Ok(None);
        }
        Ok(Some(self.believe(view).map_or_else(|why| undated(Lookup::Unsure(why)), |()| answer)))
    }

    /// Remembers where a record was found, unless the list is being followed just now or has been
    /// since: what was found is then of an older state.
    fn note(&self, view: &View, state: u64, key: &[u8], scratch: &Scratch) {
        if let View::Skip(skip) = view
            && let Some(at) = scratch.found_at()
            && let Ok(_following) = self.work.try_lock()
            && view.state() == state
        {
            skip.remember(key, at);
        }
    }

    /// The same with Cyrus' writers kept out, for the case that they never leave a moment's peace,
    /// or that it is not they who make the file unreadable.
    fn look_up_locked(
        &self,
        name: &MailboxName,
        scratch: &mut Scratch,
        key: &mut Vec<u8>,
    ) -> Result<Dated<Lookup>, Error> {
        for attempt in 0..ATTEMPTS {
            pause(attempt, true);
            let (file, engine) = view::open(&self.at)?;
            let locked = file.try_clone()?;
            let _lock = match engine {
                Engine::Twoskip | Engine::Skiplist => {
                    self.lock(&locked, Ranges::WholeFile, true)?
                }
                Engine::Twom => self.lock(&locked, Ranges::Twom, true)?,
                Engine::Flat => return Err(Error::corrupt(0, "changed all the time")),
            };
            let view = match self.load_locked(file, engine, scratch) {
                Err(Error::Corrupt { .. }) if attempt + 1 < ATTEMPTS => continue,
                view => view?,
            };
            if let Some(answer) = self.attempt(&view, name, true, scratch, key)? {
                return Ok(answer);
            }
        }
        Err(Error::corrupt(0, "replaced again and again while it was read"))
    }

    /// Locks a file that has been opened for this alone.
    fn lock<'f>(
        &self,
        file: &'f File,
        ranges: Ranges,
        may_wait: bool,
    ) -> Result<SharedLock<'f>, Error> {
        if self.at.is_shared() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "cannot be locked: this process may no more open it",
            )
            .into());
        }
        let patience = if may_wait { left_of(self.options.lock_patience) } else { Duration::ZERO };
        match SharedLock::take(file, ranges, patience)? {
            Some(lock) => Ok(lock),
            None if may_wait => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("locked by a writer for more than {patience:?}"),
            )
            .into()),
            None => Err(busy()),
        }
    }

    fn since_created(&self) -> u64 {
        self.created.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
    }

    fn remembered(&self) -> Guard<Option<Arc<View>>> {
        self.current.load()
    }

    fn remembers(&self, view: &Arc<View>) -> bool {
        self.remembered().as_ref().is_some_and(|now| Arc::ptr_eq(now, view))
    }

    fn remember(&self, view: Option<Arc<View>>) {
        self.current.store(view);
    }

    fn forget(&self, view: &Arc<View>) {
        let mut work = self.work();
        if self.remembers(view) {
            work.builder = None;
            self.remember(None);
        }
    }

    /// The remembered view, if it was checked a moment ago.
    fn just_checked(&self) -> Option<Guard<Option<Arc<View>>>> {
        let checked = self.checked.load(Relaxed);
        let age = self.since_created().saturating_sub(checked);
        let lately = checked != 0 && Duration::from_nanos(age) <= self.options.hit_age;
        lately.then(|| self.remembered()).filter(|view| view.is_some())
    }

    /// The same, or else a checked one.
    fn recent(
        &self,
        must_check: bool,
        may_wait: bool,
        scratch: &mut Scratch,
    ) -> Result<Guard<Option<Arc<View>>>, Error> {
        if !must_check && let Some(view) = self.just_checked() {
            return Ok(view);
        }
        Ok(Guard::from_inner(Some(self.check(may_wait, scratch)?)))
    }

    /// Makes sure that the view is what the path leads to, at its present end.
    fn check(&self, may_wait: bool, scratch: &mut Scratch) -> Result<Arc<View>, Error> {
        let now = self.since_created().max(1);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.clock.store(clock.as_secs(), Relaxed);
        let checked = self.check_file(may_wait, scratch);
        self.checked.store(if checked.is_ok() { now } else { 0 }, Relaxed);
        checked
    }

    /// The same, patiently.
    fn check_patiently(&self, scratch: &mut Scratch) -> Result<Arc<View>, String> {
        self.checked(scratch).map_err(|error| self.say(error))
    }

    pub(crate) fn checked(&self, scratch: &mut Scratch) -> Result<Arc<View>, Error> {
        let mut attempt = 0;
        loop {
            pause(attempt, true);
            attempt += 1;
            match self.check(true, scratch) {
                Err(Error::Corrupt { .. }) if attempt < ATTEMPTS => {}
                checked => return checked,
            }
        }
    }

    fn check_file(&self, may_wait: bool, scratch: &mut Scratch) -> Result<Arc<View>, Error> {
        let Some(view) = self.current.load_full() else { return self.load(may_wait, scratch) };
        // The header before the length: a file only grows, so what is committed fits into it.
        let header = match &*view {
            View::Skip(skip) => Some(skip.header_now()),
            View::Index(_) => None,
        };
        let metadata = self.at.standing()?;
        if Identity::of(&metadata) != view.identity() {
            return self.load(may_wait, scratch);
        }
        if let View::Skip(skip) = &*view {
            skip.seen(&metadata);
        }
        let skip = match &*view {
            View::Index(index) if index.is_current(&metadata) => return Ok(view),
            View::Index(_) => return self.load(may_wait, scratch),
            View::Skip(skip) => skip,
        };
        if let Some(header) = header {
            let header = match header {
                Ok(header) => header,
                Err(torn @ Error::Corrupt { .. }) => return Err(torn),
                Err(_) => return self.load(may_wait, scratch),
            };
            header.check_size(metadata.len())?;
            if skip.is_torn() && self.may_renew() {
                return self.load(may_wait, scratch);
            }
            if skip.is_at(header) {
                return Ok(view);
            }
        }
        // One thread follows, the others then see it.
        let mut work = self.work();
        let now = skip.header_now()?;
        if self.remembers(&view) {
            if skip.follow(now, work.builder.as_ref(), scratch) {
                work.guard.seen(now.records, self.created.elapsed());
                return Ok(view);
            }
            // What has followed half of the log would follow that half twice.
            work.builder = None;
            self.remember(None);
        }
        drop(work);
        self.load(may_wait, scratch)
    }

    /// Whether it is time to map a file anew whose map has lost pages. A disk that cannot read one of
    /// them may do the same to the next map, and with each the shortcuts are collected again.
    fn may_renew(&self) -> bool {
        let now = self.since_created();
        let due = now >= self.renew_at.load(Relaxed);
        if due {
            let pause = u64::try_from(RENEW.as_nanos()).unwrap_or(u64::MAX);
            self.renew_at.store(now.saturating_add(pause), Relaxed);
        }
        due
    }

    /// Begins anew with the file that the path leads to.
    fn load(&self, may_wait: bool, scratch: &mut Scratch) -> Result<Arc<View>, Error> {
        let (file, engine) = view::open(&self.at)?;
        let size = file.metadata()?.len();
        match engine {
            Engine::Twoskip | Engine::Twom => self.load_locked(file, engine, scratch),
            Engine::Flat if may_wait || size <= AT_ONCE => {
                let before = self.current.load_full();
                let before = same_index(before.as_ref(), &file.metadata()?);
                let view = View::Index(IndexView::flat(file, before)?);
                self.remember_new(view, &mut self.work())
            }
            Engine::Skiplist => {
                let known = self.remembered();
                let known = known.as_ref().filter(|view| {
                    file.metadata().is_ok_and(|now| Identity::of(&now) == view.identity())
                });
                let new = size.saturating_sub(known.map_or(0, |view| view.state()));
                if !may_wait && new > AT_ONCE {
                    return Err(busy());
                }
                let locked = file.try_clone()?;
                let _lock = self.lock(&locked, Ranges::WholeFile, may_wait)?;
                self.load_locked(file, engine, scratch)
            }
            Engine::Flat => Err(busy()),
        }
    }

    /// Begins anew with this file, or goes on with it. The lock of a skiplist file is held; those
    /// of twoskip and twom are not needed.
    fn load_locked(
        &self,
        file: File,
        engine: Engine,
        scratch: &mut Scratch,
    ) -> Result<Arc<View>, Error> {
        let mut work = self.work();
        if engine != Engine::Skiplist {
            let view = View::Skip(SkipView::open(file, scratch)?);
            return self.remember_new(view, &mut work);
        }
        let metadata = file.metadata()?;
        let file = ListFile::new(file);
        let before = self.current.load_full();
        let index = same_index(before.as_ref(), &metadata);
        if let (Some(view), Some(index)) = (&before, index)
            && index.follow(&file, &metadata)
        {
            work.guard.seen(view.records(), self.created.elapsed());
            return Ok(Arc::clone(view));
        }
        let view = View::Index(IndexView::skiplist(&file, &metadata, index)?);
        self.remember_new(view, &mut work)
    }

    fn remember_new(&self, view: View, work: &mut Work) -> Result<Arc<View>, Error> {
        if Identity::of(&self.at.standing()?) != view.identity() {
            return Err(Error::corrupt(0, "the file was replaced while it was opened"));
        }
        let view = Arc::new(view);
        work.guard.seen(view.records(), self.created.elapsed());
        work.builder = None;
        self.remember(Some(Arc::clone(&view)));
        Ok(view)
    }

    /// Visits the names whose keys begin with `start`, as far as they begin with `prefix`. Where a
    /// writer overtakes the walk, it goes on behind the last name, in the state there is then.
    fn each_under(
        &self,
        generation: KeyGeneration,
        start: &[u8],
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
        scratch: &mut Scratch,
    ) -> Result<ControlFlow<()>, String> {
        let mut last: Option<Vec<u8>> = None;
        let mut attempt = 0;
        loop {
            pause(attempt, true);
            let view = self.check_patiently(scratch)?;
            let view = match &*view {
                View::Skip(view) => view,
                View::Index(index) => {
                    let rows = self.rows_of(index, generation, prefix)?;
                    let visit = |row: &(MailboxName, Record)| visit(&row.0, &row.1).is_break();
                    let stopped = rows.iter().any(visit);
                    return Ok(if stopped {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    });
                }
            };
            let in_order = view.surely_raw();
            let from = match &last {
                Some(key) => key.clone(),
                None if in_order => start.to_vec(),
                None => Vec::new(),
            };
            let end = view.header().end;
            let mut outcome = Ok(ControlFlow::Continue(()));
            let walked = view.walk(&from, scratch, &mut |key, value| {
                if last.as_deref() == Some(key) {
                    return true;
                }
                attempt = 0;
                if !key.starts_with(start) {
                    last = Some(key.to_vec());
                    return !in_order;
                }
                if let Some(name) = MailboxName::from_key(generation, key)
                    && name.as_bytes().starts_with(prefix)
                {
                    outcome = read_record(&name, value).map(|record| visit(&name, &record));
                }
                let last = last.get_or_insert_default();
                last.clear();
                last.extend_from_slice(key);
                matches!(outcome, Ok(ControlFlow::Continue(())))
            });
            attempt += 1;
            match walked {
                Ok(Walked::Stopped) => return outcome.map_err(|why| self.say(why)),
                // A walk that a writer has overtaken may seem to be at the end.
                Ok(Walked::ToEnd) if view.header_now().is_ok_and(|now| now.end == end) => {
                    return outcome.map_err(|why| self.say(why));
                }
                Ok(Walked::ToEnd) if attempt < PATIENCE => {}
                Ok(Walked::ToEnd) => return Err(self.say("changed all the time")),
                Err(error) if attempt >= ATTEMPTS => return Err(self.say(error)),
                Ok(Walked::OtherOrder) | Err(_) => {}
            }
        }
    }

    /// The rows of an index whose names begin with `prefix`; copies, since the visitor may take its
    /// time, and may look up.
    fn rows_of(
        &self,
        index: &IndexView,
        generation: KeyGeneration,
        prefix: &[u8],
    ) -> Result<Vec<(MailboxName, Record)>, String> {
        let mut rows = Vec::new();
        let mut wrong = None;
        index.each(&mut |key, value| {
            if let Some(name) = MailboxName::from_key(generation, key)
                && name.as_bytes().starts_with(prefix)
            {
                match read_record(&name, value) {
                    Ok(record) => rows.push((name, record)),
                    Err(why) => wrong = Some(why),
                }
            }
        });
        match wrong.or_else(|| Some(index.incomplete()?.to_string())) {
            Some(why) => Err(self.say(why)),
            None => Ok(rows),
        }
    }

    /// Whether searches are shortened so much.
    #[cfg(test)]
    pub(crate) fn has_shortcuts(&self, amount: IndexSize) -> bool {
        let view = self.remembered();
        matches!(view.as_deref(), Some(View::Skip(skip)) if !skip.wants_fingers(amount))
    }

    /// Whether its map has lost pages; `None`: there is no view that could have one.
    #[cfg(test)]
    pub(crate) fn is_torn(&self) -> Option<bool> {
        match self.remembered().as_deref() {
            Some(View::Skip(skip)) => Some(skip.is_torn()),
            _ => None,
        }
    }

    /// Collects some fingers, if they are missing and nobody else is at it.
    fn collect(&self, view: &Arc<View>, scratch: &mut Scratch) {
        let View::Skip(skip) = &**view else { return };
        let lookups = self.lookups.load(Relaxed);
        if lookups < self.options.shortcuts_after {
            self.lookups.store(lookups + 1, Relaxed);
        }
        let amount = match lookups {
            _ if lookups >= self.options.shortcuts_after => IndexSize::Many,
            FEW_AFTER.. => IndexSize::Few,
            _ => return,
        };
        if !skip.wants_fingers(amount) {
            return;
        }
        let Ok(mut work) = self.work.try_lock() else { return };
        if !self.remembers(view) {
            return;
        }
        work.builder.take_if(|builder| builder.amount() != amount);
        let builder = work.builder.get_or_insert_with(|| skip.builder(amount));
        match skip.collect(builder, PIECE, scratch) {
            Ok(BuildProgress::More | BuildProgress::OtherOrder) => {}
            Ok(BuildProgress::Done) => {
                if let Some(builder) = work.builder.take() {
                    let skip = skip.with_fingers(builder.into_fingers());
                    self.remember(Some(Arc::new(View::Skip(skip))));
                }
            }
            Err(_) => work.builder = None,
        }
    }
}

/// The index of the same file, if that is what is remembered.
fn same_index<'v>(view: Option<&'v Arc<View>>, metadata: &Metadata) -> Option<&'v IndexView> {
    match view.map(|view| &**view) {
        Some(View::Index(index)) if index.identity == Identity::of(metadata) => Some(index),
        _ => None,
    }
}

/// Lets a writer finish what it is at, before this attempt.
pub(crate) fn pause(attempt: u32, may_wait: bool) {
    match attempt {
        0 | 1 => {}
        2 | 3 => thread::yield_now(),
        _ if may_wait => thread::sleep(left_of(Duration::from_millis(1))),
        _ => thread::yield_now(),
    }
}

/// Whether a look may fail otherwise in a moment, or in the file as it is opened anew.
fn is_of_the_disk(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Searches for a name at this header's end.
fn search(
    view: &View,
    name: &MailboxName,
    scratch: &mut Scratch,
    key: &mut Vec<u8>,
) -> Result<Search<Result<Dated<Record>, String>>, Error> {
    // The other one as well: what one key has shown must not make all others unknown.
    let generations = match view.key_generation() {
        Some(KeyGeneration::Internal) => [KeyGeneration::Internal, KeyGeneration::Separated],
        _ => [KeyGeneration::Separated, KeyGeneration::Internal],
    };
    for generation in generations {
        key.clear();
        name.push_key(generation, key);
        let found = view.find(key, scratch, |value| read_dated(name, value))?;
        if !matches!(found, Search::Absent) {
            return Ok(found);
        }
    }
    Ok(Search::Absent)
}

/// What was found, and when this host wrote it.
type Dated<T> = (T, ModTime);

fn undated<T>(found: T) -> Dated<T> {
    (found, ModTime::NOT_LATELY)
}

fn read_dated(name: &MailboxName, value: &[u8]) -> Result<Dated<Record>, String> {
    value::parse_dated(value).map_err(|error| format!("record of {name}: {error}"))
}

pub(crate) fn read_record(name: &MailboxName, value: &[u8]) -> Result<Record, String> {
    read_dated(name, value).map(|(record, _)| record)
}

impl MailboxList for FileList {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.look_up(name, true).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        self.look_up(name, true)
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        match &*self.remembered() {
            Some(view) => view.key_generation(),
            None => self.check(false, &mut Scratch::default()).ok()?.key_generation(),
        }
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), String> {
        self.walk_past(prefix, visit)
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let mut scratch = Scratch::default();
        let view = self.check_patiently(&mut scratch)?;
        let both = [KeyGeneration::Separated, KeyGeneration::Internal];
        for generation in both {
            if view.key_generation().is_some_and(|decided| decided != generation) {
                continue;
            }
            for start in keys::key_prefixes(generation, prefix) {
                if self.each_under(generation, &start, prefix, visit, &mut scratch)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
