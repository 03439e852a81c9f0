//! How long one call may wait.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

/// Longest wait of any call.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for locks, of the half of a call's time that is for locks.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The time that one call has, for all its recipients, for locks and for the daemon together.
///
/// Half of it is for locks, so that a locked list leaves the daemon time to answer. The clock is read
/// when something may have to be waited for.
#[derive(Debug)]
pub(super) struct Waiting {
    patience: Duration,
    started: OnceCell<Instant>,
}

impl Waiting {
    /// A call that may wait for this long, [`PATIENCE`] at most.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience: patience.min(PATIENCE), started: OnceCell::new() }
    }

    fn started(&self) -> Instant {
        *self.started.get_or_init(Instant::now)
    }

    /// When the last lock must have been had.
    pub(super) fn locks_until(&self) -> Instant {
        self.started() + (self.patience / 2).min(LOCK_PATIENCE)
    }

    /// What is left for the daemon.
    pub(super) fn left(&self) -> Duration {
        self.patience.saturating_sub(self.started().elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_time_is_for_locks_and_none_of_none() {
        for (patience, locks) in [(5000, 1000), (100, 50), (60_000, 1000), (0, 0)] {
            let waiting = Waiting::new(Duration::from_millis(patience));
            let started = waiting.started();
            assert_eq!(waiting.locks_until() - started, Duration::from_millis(locks));
            assert!(waiting.left() <= Duration::from_millis(patience).min(PATIENCE));
        }
    }
}
