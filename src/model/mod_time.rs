//! Modification time of a name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time for which a name counts as recently changed. During this time it may change again before the
/// list has the change: the stream is up to 5 s behind (Cyrus `imap/mupdate.c`, `update_wait`), and
/// one operation consists of several changes. Only XFER of the largest mailboxes has a minute
/// between two of them.
pub const LATELY: Duration = Duration::from_secs(60);

/// Time of a name's last change, by the clock of this host, stored beside its record: whole seconds
/// since 1970, up to the year 2106.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModTime(u32);

impl ModTime {
    /// Not recently changed, as far as is known.
    pub const NOT_LATELY: Self = Self(0);

    /// Creates a time from seconds since 1970.
    pub const fn seconds(since_1970: u32) -> Self {
        Self(since_1970)
    }

    /// Converts a system time.
    pub fn at(clock: SystemTime) -> Self {
        let since_1970 = clock.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since_1970.as_secs()).unwrap_or(u32::MAX))
    }

    /// Returns the seconds since 1970; 0 for [`NOT_LATELY`](Self::NOT_LATELY).
    pub const fn since_1970(self) -> u32 {
        self.0
    }

    /// Returns the system time.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.into())
    }

    /// Whether the change is less than [`LATELY`] in the past or in the future, because clocks are
    /// corrected. The clock is read only if the time is known.
    pub fn is_lately(self, clock: impl FnOnce() -> SystemTime) -> bool {
        self != Self::NOT_LATELY
            && u64::from(Self::at(clock()).0.abs_diff(self.0)) <= LATELY.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_is_recent_for_a_minute_despite_clock_steps() {
        for start in [61_000, 1_795_536_000_000, 1_795_536_000_999] {
            let start = UNIX_EPOCH + Duration::from_millis(start);
            let changed = ModTime::at(start);
            for later in [0, 1, 30_000, 60_000] {
                let later = Duration::from_millis(later);
                assert!(changed.is_lately(|| start + later), "{start:?} + {later:?}");
                assert!(changed.is_lately(|| start - later), "{start:?} - {later:?}");
            }
            assert!(!changed.is_lately(|| start + Duration::from_millis(61_001)));
            assert!(!changed.is_lately(|| start - Duration::from_secs(61)));
            assert_eq!(ModTime::seconds(changed.since_1970()), changed);
        }
    }

    #[test]
    fn unknown_time_is_never_recent() {
        for seconds in [0, 1, 60] {
            let clock = || UNIX_EPOCH + Duration::from_secs(seconds);
            assert!(!ModTime::NOT_LATELY.is_lately(clock));
        }
        assert!(!ModTime::NOT_LATELY.is_lately(|| unreachable!("an unknown time needs no clock")));
        // A time before 1970 is unknown as well.
        assert_eq!(ModTime::at(UNIX_EPOCH - Duration::from_secs(5)), ModTime::NOT_LATELY);
        assert_eq!(ModTime::at(UNIX_EPOCH + Duration::from_secs(1 << 33)).since_1970(), u32::MAX);
    }
}
