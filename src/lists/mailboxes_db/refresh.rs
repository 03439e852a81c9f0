//! Keeps the cached view at the present state of the file.
//!
//! A check compares the view with the file that the path leads to. The view then follows the commits
//! that came since, or the file is loaded anew.

use std::fs::{File, Metadata};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::Guard;

use crate::cyrusdb::Engine;
use crate::cyrusdb::skip::header::SkipHeader;
use crate::cyrusdb::skip::window::Scratch;
use crate::os::file_id::FileId;

use super::error::{ReadError, WaitPolicy};
use super::index_view::IndexView;
use super::lock::{Ranges, SharedLock, left_of};
use super::lookup::{ATTEMPTS, pause};
use super::open_file::{ListFile, open};
use super::skip_view::SkipView;
use super::view::View;
use super::{FileList, Work};

/// Maximum number of bytes of a file, which must be read whole, that a lookup reads if it must not wait.
const AT_ONCE: u64 = 256 << 10;

/// Minimum time between two maps of a file that loses pages.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

type ViewGuard = Guard<Option<Arc<View>>>;

impl FileList {
    /// Returns the cached view if it was checked recently, or else a checked one.
    pub(super) fn recent(
        &self,
        wait: WaitPolicy,
        scratch: &mut Scratch,
    ) -> Result<ViewGuard, ReadError> {
        if self.clock.was_checked_within(self.options.max_hit_age) {
            let view = self.cached();
            if view.is_some() {
                return Ok(view);
            }
        }
        self.checked(wait, scratch)
    }

    /// Returns a checked view.
    pub(super) fn checked(
        &self,
        wait: WaitPolicy,
        scratch: &mut Scratch,
    ) -> Result<ViewGuard, ReadError> {
        Ok(Guard::from_inner(Some(self.check(wait, scratch)?)))
    }

    /// Makes sure that the view is what the path leads to, at its present end.
    pub(super) fn check(
        &self,
        wait: WaitPolicy,
        scratch: &mut Scratch,
    ) -> Result<Arc<View>, ReadError> {
        self.clock.check(|| self.check_file(wait, scratch))
    }

    /// Checks again while the file looks torn. Waits for locks.
    pub(super) fn check_with_retries(&self, scratch: &mut Scratch) -> Result<Arc<View>, ReadError> {
        let mut attempt = 0;
        loop {
            pause(attempt, WaitPolicy::Allowed);
            attempt += 1;
            match self.check(WaitPolicy::Allowed, scratch) {
                Err(error) if error.may_be_torn() && attempt < ATTEMPTS => {}
                checked => return checked,
            }
        }
    }

    fn check_file(&self, wait: WaitPolicy, scratch: &mut Scratch) -> Result<Arc<View>, ReadError> {
        let Some(view) = self.current.load_full() else { return self.load(wait, scratch) };
        match &*view {
            View::Index(index) => {
                let metadata = self.at.standing()?;
                if FileId::of(&metadata) == index.file_id && index.is_current(&metadata) {
                    return Ok(view);
                }
                self.load(wait, scratch)
            }
            View::Skip(skip) => self.check_skip(&view, skip, wait, scratch),
        }
    }

    fn check_skip(
        &self,
        view: &Arc<View>,
        skip: &SkipView,
        wait: WaitPolicy,
        scratch: &mut Scratch,
    ) -> Result<Arc<View>, ReadError> {
        // The header before the length: a file only grows, so what is committed fits into it.
        let header = skip.header_now().map_err(ReadError::from);
        let metadata = self.at.standing()?;
        if FileId::of(&metadata) != skip.file_id {
            return self.load(wait, scratch);
        }
        skip.reaches(metadata.len());
        let header: SkipHeader = match header {
            Ok(header) => header,
            Err(torn) if torn.may_be_torn() => return Err(torn),
            Err(_) => return self.load(wait, scratch),
        };
        header.check_size(metadata.len())?;
        if skip.is_torn() && self.may_map_again() {
            return self.load(wait, scratch);
        }
        if skip.is_at(header) {
            return Ok(Arc::clone(view));
        }
        // One thread follows, the others then see it.
        let mut work = self.work();
        let now = skip.header_now()?;
        if self.is_cached(view) {
            if skip.follow(now, work.builder.as_ref(), scratch) {
                work.guard.seen(now.records, self.clock.now());
                return Ok(Arc::clone(view));
            }
            // A view that has followed half of the log would follow that half twice.
            work.builder = None;
            self.cache(None);
        }
        drop(work);
        self.load(wait, scratch)
    }

    /// Whether a file whose map has lost pages may be mapped anew now. A disk that cannot read a page may
    /// do the same to the next map, and with each map the sparse index is collected again.
    fn may_map_again(&self) -> bool {
        let now = self.clock.nanos();
        let due = now >= self.renew_at.load(Relaxed);
        if due {
            let pause = u64::try_from(RENEW_INTERVAL.as_nanos()).unwrap_or(u64::MAX);
            self.renew_at.store(now.saturating_add(pause), Relaxed);
        }
        due
    }

    /// Loads the file that the path leads to.
    fn load(&self, wait: WaitPolicy, scratch: &mut Scratch) -> Result<Arc<View>, ReadError> {
        let may_wait = wait == WaitPolicy::Allowed;
        let (file, engine) = open(&self.at)?;
        let size = file.metadata()?.len();
        match engine {
            Engine::Twoskip | Engine::Twom => self.load_locked(file, engine, scratch),
            Engine::Flat if may_wait || size <= AT_ONCE => {
                let metadata = file.metadata()?;
                let before = self.current.load_full();
                let index = same_index(before.as_ref(), &metadata);
                // Another thread may have loaded it meanwhile. To load it again would look as if the
                // file had been overwritten in place.
                if let (Some(view), Some(index)) = (&before, index)
                    && index.is_current(&metadata)
                {
                    return Ok(Arc::clone(view));
                }
                let view = View::Index(IndexView::flat(file, index)?);
                self.cache_new(view, &mut self.work())
            }
            Engine::Skiplist => {
                let known = self.cached();
                let known = known.as_ref().filter(|view| {
                    file.metadata().is_ok_and(|now| FileId::of(&now) == view.file_id())
                });
                let new = size.saturating_sub(known.map_or(0, |view| view.state()));
                if !may_wait && new > AT_ONCE {
                    return Err(ReadError::WouldWait);
                }
                let locked = file.try_clone()?;
                let _lock = self.lock(&locked, Ranges::WholeFile, wait)?;
                self.load_locked(file, engine, scratch)
            }
            Engine::Flat => Err(ReadError::WouldWait),
        }
    }

    /// Loads this file, or follows it. The caller holds the lock of a skiplist file; twoskip and twom
    /// need none.
    pub(super) fn load_locked(
        &self,
        file: File,
        engine: Engine,
        scratch: &mut Scratch,
    ) -> Result<Arc<View>, ReadError> {
        let mut work = self.work();
        if engine != Engine::Skiplist {
            let view = View::Skip(SkipView::open(file, scratch)?);
            return self.cache_new(view, &mut work);
        }
        let metadata = file.metadata()?;
        let file = ListFile::new(file);
        let before = self.current.load_full();
        let index = same_index(before.as_ref(), &metadata);
        if let (Some(view), Some(index)) = (&before, index)
            && index.follow(&file, &metadata)
        {
            work.guard.seen(view.records(), self.clock.now());
            return Ok(Arc::clone(view));
        }
        let view = View::Index(IndexView::skiplist(&file, &metadata, index)?);
        self.cache_new(view, &mut work)
    }

    /// Caches a new view, if the path still leads to its file.
    pub(super) fn cache_new(&self, view: View, work: &mut Work) -> Result<Arc<View>, ReadError> {
        if FileId::of(&self.at.standing()?) != view.file_id() {
            return Err(ReadError::corrupt(0, "the file was replaced while it was opened"));
        }
        let view = Arc::new(view);
        work.guard.seen(view.records(), self.clock.now());
        work.builder = None;
        self.cache(Some(Arc::clone(&view)));
        Ok(view)
    }

    /// Locks a file that has been opened for this alone.
    pub(super) fn lock<'f>(
        &self,
        file: &'f File,
        ranges: Ranges,
        wait: WaitPolicy,
    ) -> Result<SharedLock<'f>, ReadError> {
        if self.at.is_shared() {
            return Err(ReadError::Unlockable);
        }
        let timeout = match wait {
            WaitPolicy::Allowed => left_of(self.options.lock_timeout),
            WaitPolicy::Never => Duration::ZERO,
        };
        match (SharedLock::take(file, ranges, timeout)?, wait) {
            (Some(lock), _) => Ok(lock),
            (None, WaitPolicy::Allowed) => Err(ReadError::Locked(timeout)),
            (None, WaitPolicy::Never) => Err(ReadError::WouldWait),
        }
    }

    pub(super) fn cached(&self) -> ViewGuard {
        self.current.load()
    }

    pub(super) fn is_cached(&self, view: &Arc<View>) -> bool {
        self.cached().as_ref().is_some_and(|now| Arc::ptr_eq(now, view))
    }

    pub(super) fn cache(&self, view: Option<Arc<View>>) {
        self.current.store(view);
    }

    /// Drops a view whose file was overwritten.
    pub(super) fn forget(&self, view: &Arc<View>) {
        let mut work = self.work();
        if self.is_cached(view) {
            work.builder = None;
            self.cache(None);
        }
    }

    /// Whether the map has lost pages; `None`: no view could have a map.
    #[cfg(test)]
    pub(super) fn is_torn(&self) -> Option<bool> {
        match self.cached().as_deref() {
            Some(View::Skip(skip)) => Some(skip.is_torn()),
            _ => None,
        }
    }
}

/// Returns the cached index, if it is of this file.
fn same_index<'v>(view: Option<&'v Arc<View>>, metadata: &Metadata) -> Option<&'v IndexView> {
    match view.map(|view| &**view) {
        Some(View::Index(index)) if index.file_id == FileId::of(metadata) => Some(index),
        _ => None,
    }
}
