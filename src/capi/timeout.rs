//! The time limit of one call.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

/// Longest wait of any call.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for locks. A call waits for them for at most half of its time.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The time limit of one call, for all its recipients, for locks and the daemon together.
///
/// Locks get half of it, so that a locked list leaves the daemon time to answer. The clock starts when
/// something may have to be waited for.
#[derive(Debug)]
pub(super) struct CallTimeout {
    limit: Duration,
    started: OnceCell<Instant>,
}

impl CallTimeout {
    /// A call that may wait for `limit`, and never longer than [`MAX_TIMEOUT`].
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit: limit.min(MAX_TIMEOUT), started: OnceCell::new() }
    }

    fn started(&self) -> Instant {
        *self.started.get_or_init(Instant::now)
    }

    /// Deadline for taking locks.
    pub(super) fn locks_until(&self) -> Instant {
        self.started() + (self.limit / 2).min(LOCK_TIMEOUT)
    }

    /// Time left for the daemon.
    pub(super) fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.started().elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_get_half_of_the_time_and_none_of_zero() {
        for (limit, locks) in [(5000, 1000), (100, 50), (60_000, 1000), (0, 0)] {
            let timeout = CallTimeout::new(Duration::from_millis(limit));
            let started = timeout.started();
            assert_eq!(timeout.locks_until() - started, Duration::from_millis(locks));
            assert!(timeout.remaining() <= Duration::from_millis(limit).min(MAX_TIMEOUT));
        }
    }
}
