//! The clock of one list.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since a list was opened, and when its file was checked last. Shared by threads.
#[derive(Debug)]
pub(super) struct ListClock {
    opened: Instant,
    /// When the view was last seen to be the state of the file, in nanoseconds since `opened`; 0: never.
    checked: AtomicU64,
    /// Time of day at that check, in seconds since 1970.
    checked_wall: AtomicU64,
}

impl Default for ListClock {
    fn default() -> Self {
        Self { opened: Instant::now(), checked: AtomicU64::new(0), checked_wall: AtomicU64::new(0) }
    }
}

impl ListClock {
    /// Returns the time since the list was opened.
    pub(super) fn now(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Returns that time in nanoseconds.
    pub(super) fn nanos(&self) -> u64 {
        self.now().as_nanos().try_into().unwrap_or(u64::MAX)
    }

    /// Runs a check of the file, and notes when it began if it succeeded.
    pub(super) fn check<T, E>(&self, check: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let began = self.nanos().max(1);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.checked_wall.store(wall.as_secs(), Relaxed);
        let checked = check();
        self.checked.store(if checked.is_ok() { began } else { 0 }, Relaxed);
        checked
    }

    /// Whether the last check succeeded and began no longer ago than `age`.
    pub(super) fn was_checked_within(&self, age: Duration) -> bool {
        let checked = self.checked.load(Relaxed);
        let since = self.nanos().saturating_sub(checked);
        checked != 0 && Duration::from_nanos(since) <= age
    }

    /// Returns the time of day at the last check. Cyrus dates its records by that clock.
    pub(super) fn checked_wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.checked_wall.load(Relaxed))
    }
}
