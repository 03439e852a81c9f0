//! The loss guard: distrusts the misses of a list that has lost many names.
//!
//! After an upgrade from Cyrus 3.4 to 3.6, a frontend has a valid but empty list until the first
//! MUPDATE resync has filled it, and a failed resync removes existing accounts. Both look like
//! deletions.

use std::time::Duration;

/// A loss of more names than this and of more than one in [`ONE_IN`] is sharp.
const NAMES: u64 = 100;
/// See [`NAMES`].
const ONE_IN: u64 = 10;
/// In a short list, a loss of more than one in this number of names is sharp.
const ONE_IN_FEW: u64 = 4;
/// Maximum loss that is ordinary in any list, however short: the mailboxes of one user.
const FEW: u64 = 2;
/// Period of the guard. The number of names is compared with the greatest of one to two periods.
const PERIOD: Duration = Duration::from_secs(3600);

/// Default time that a held-back loss waits for its confirmation (`accept-after`).
pub const ACCEPT_AFTER: Duration = Duration::from_secs(600);

/// Whether a loss of `lost` names of `had` is sharp: more than is ordinary.
pub(crate) fn is_sharp(had: u64, lost: u64) -> bool {
    let one_in = if lost > NAMES { ONE_IN } else { ONE_IN_FEW };
    lost > FEW && lost > had / one_in
}

/// Time without a new name after which a list that has regained most of its loss is trusted:
/// backends announce their names to an emptied master one after the other.
const SETTLED: Duration = Duration::from_secs(600);

/// A loss of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Number of names that the list had.
    pub(crate) had: u64,
    /// Number of names lost. An empty list has lost all names that it had, possibly 0 of 0.
    pub(crate) lost: u64,
}

/// State of a [`LossGuard`] stored for the next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HighWater {
    /// Number of names that the present number is compared with.
    pub names: u64,
    /// Whether the list is distrusted.
    pub distrusted: bool,
}

/// Watches the number of names in a list.
///
/// The number is compared with the greatest one of the last one to two hours, so that a slow loss is
/// noticed and an ordinary decline over weeks is not. While a list is distrusted, the reference
/// number stays. Distrust ends when all names are back, or when the loss is ordinary again and no
/// further name has come back for [`SETTLED`].
#[derive(Debug, Default)]
pub(crate) struct LossGuard {
    /// Greatest numbers of this period and of the previous one.
    greatest: [u64; 2],
    last: u64,
    period: u32,
    distrust: Option<Loss>,
    /// Time at which a distrusted list gained its last name.
    settled: Duration,
}

impl LossGuard {
    /// Continues with the stored state of another process.
    pub(crate) fn restored(kept: HighWater, now: Duration) -> Self {
        let HighWater { names, distrusted } = kept;
        Self {
            greatest: [names; 2],
            last: names,
            period: period(now),
            distrust: distrusted.then_some(Loss { had: names, lost: names }),
            settled: now,
        }
    }

    /// Returns the state for the next process. `None`: no list was seen.
    pub(crate) fn high_water(&self) -> Option<HighWater> {
        let distrusted = self.distrust.is_some();
        (self.mark() > 0).then_some(HighWater { names: self.mark(), distrusted })
    }

    fn mark(&self) -> u64 {
        self.greatest[0].max(self.greatest[1])
    }

    /// Records that the list has `names` names at `now`, a time since a fixed origin.
    pub(crate) fn seen(&mut self, names: u64, now: Duration) {
        let period = period(now);
        if self.distrust.is_none() && period != self.period {
            // After a time without updates, the last number counts.
            let before = if period == self.period + 1 { self.greatest[0] } else { self.last };
            self.greatest = [self.last, before];
        }
        self.period = period;
        let mark = self.mark();
        let lost = mark.saturating_sub(names);
        if self.distrust.is_none_or(|before| lost < before.lost) {
            self.settled = now;
        }
        let sharp = names == 0 || is_sharp(mark, lost);
        let is_back = lost == 0 || now.saturating_sub(self.settled) >= SETTLED;
        let distrusted = sharp || (self.distrust.is_some() && !is_back);
        if !distrusted && self.distrust.is_some() {
            // Names that have not come back are no longer expected.
            self.greatest = [names; 2];
        }
        self.distrust = distrusted.then_some(Loss { had: mark, lost });
        if !distrusted {
            self.greatest[0] = self.greatest[0].max(names);
            self.last = names;
        }
    }

    /// Returns the loss for which the list is distrusted.
    pub(crate) fn distrust(&self) -> Option<Loss> {
        self.distrust
    }
}

fn period(now: Duration) -> u32 {
    (now.as_secs() / PERIOD.as_secs()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[test]
    fn empty_list_is_always_distrusted() {
        let mut guard = LossGuard::default();
        guard.seen(0, minutes(0));
        assert!(guard.distrust().is_some());
        guard.seen(1, minutes(0));
        assert_eq!(guard.distrust(), None);
    }

    #[test]
    fn loss_is_sharp_above_a_tenth_or_a_quarter_of_a_short_list() {
        for (before, after, believed) in [
            (1000, 900, true),
            (1000, 899, false),
            (10_000, 9_000, true),
            (10_000, 8_999, false),
            (400, 300, true),
            (400, 299, false),
            (130, 65, false),
            (100, 75, true),
            (100, 74, false),
            (100, 1, false),
            (9, 6, false),
            (8, 6, true),
            (5, 3, true),
            (5, 2, false),
        ] {
            let mut guard = LossGuard::default();
            guard.seen(before, minutes(0));
            guard.seen(after, minutes(1));
            assert_eq!(guard.distrust().is_none(), believed, "{before} to {after}");
        }
    }

    #[test]
    fn slow_loss_is_noticed() {
        let mut guard = LossGuard::default();
        let distrusted = (0..90).find(|minute| {
            guard.seen(10_000 - 50 * minute, minutes(*minute));
            guard.distrust().is_some()
        });
        assert_eq!(distrusted, Some(21));
    }

    #[test]
    fn loss_across_two_periods_is_noticed() {
        let mut guard = LossGuard::default();
        guard.seen(10_000, minutes(50));
        guard.seen(9_500, minutes(59));
        assert_eq!(guard.distrust(), None);
        guard.seen(8_900, minutes(61));
        assert_eq!(guard.distrust(), Some(Loss { had: 10_000, lost: 1_100 }));
    }

    #[test]
    fn ordinary_decline_over_weeks_is_trusted() {
        let mut guard = LossGuard::default();
        for hour in 0..500 {
            guard.seen(10_000 - 15 * hour, minutes(60 * hour));
            assert_eq!(guard.distrust(), None, "after {hour} hours");
        }
    }

    #[test]
    fn number_before_a_time_without_updates_still_counts() {
        let mut guard = LossGuard::default();
        guard.seen(10_000, minutes(0));
        guard.seen(500, minutes(60 * 12));
        assert!(guard.distrust().is_some());
    }

    #[test]
    fn distrust_lasts_until_all_names_are_back() {
        let mut guard = LossGuard::default();
        guard.seen(10_000, minutes(0));
        for hour in 1..100 {
            guard.seen(5_000, minutes(60 * hour));
            assert!(guard.distrust().is_some(), "after {hour} hours");
        }
        for (names, minute) in [(8_999, 6001), (9_500, 6002), (9_999, 6003)] {
            guard.seen(names, minutes(minute));
            assert!(guard.distrust().is_some(), "{names}");
        }
        guard.seen(10_000, minutes(6004));
        assert_eq!(guard.distrust(), None);
    }

    #[test]
    fn distrust_lasts_while_names_come_back() {
        let mut guard = LossGuard::default();
        guard.seen(1_200, minutes(0));
        guard.seen(0, minutes(1));
        for backend in 1..12 {
            guard.seen(100 * backend, minutes(9 * backend));
            guard.seen(100 * backend, minutes(9 * backend + 8));
            assert!(guard.distrust().is_some(), "{backend} of 12");
        }
        guard.seen(1_100, minutes(99 + 10));
        assert_eq!(guard.distrust(), None, "the last one stays away");
        guard.seen(1_000, minutes(99 + 11));
        assert_eq!(guard.distrust(), None, "and is not missed again");
    }

    #[test]
    fn loss_is_noticed_across_a_restart() {
        let mut guard = LossGuard::default();
        assert_eq!(guard.high_water(), None);
        guard.seen(130, minutes(3));
        let kept = guard.high_water().unwrap();
        assert_eq!(kept, HighWater { names: 130, distrusted: false });
        let mut after = LossGuard::restored(kept, minutes(0));
        after.seen(65, minutes(0));
        assert_eq!(after.distrust(), Some(Loss { had: 130, lost: 65 }));
        let kept = after.high_water().unwrap();
        assert_eq!(kept, HighWater { names: 130, distrusted: true });
        // Most names are back before the next restart.
        let mut again = LossGuard::restored(kept, minutes(0));
        again.seen(120, minutes(0));
        assert!(again.distrust().is_some());
        again.seen(130, minutes(1));
        assert_eq!(again.distrust(), None);
        let mut whole = LossGuard::restored(guard.high_water().unwrap(), minutes(0));
        whole.seen(129, minutes(0));
        assert_eq!(whole.distrust(), None);
    }
}
