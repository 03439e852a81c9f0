//! How often the MUPDATE master is asked for names that the lists do not have.
//!
//! Strangers choose how many such names there are. The master answers them between the changes that it
//! is told of, so a flood of them would delay those: new accounts would be known late. Pure: the clock
//! comes in.

use std::time::Duration;

/// Questions a second, over a longer time.
const RATE: u32 = 200;

/// Questions that may come at once after a pause.
const BURST: u32 = 200;

/// Longest wait for a turn. Whoever asks has a deadline, and the answer takes time as well.
const WAIT_LIMIT: Duration = Duration::from_secs(1);

/// Turns to ask.
#[derive(Debug, Default)]
pub struct FindBudget {
    /// When the next turn is, if nobody ever saved up any.
    next: Option<Duration>,
}

impl FindBudget {
    /// The moment of the next turn, which is taken by that. `None`: it is too far away.
    pub fn turn(&mut self, now: Duration) -> Option<Duration> {
        let interval = Duration::from_secs(1) / RATE;
        // Times here are later by what can be saved up, so that none is below zero.
        let saving = interval.saturating_mul(BURST);
        let turn = self.next.map_or(now, |next| next.max(now));
        if turn.saturating_sub(now + saving) > WAIT_LIMIT {
            return None;
        }
        self.next = Some(turn + interval);
        Some(turn.saturating_sub(saving).max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_gets_its_rate_and_no_more_and_a_few_never_wait() {
        let mut budget = FindBudget::default();
        let start = Duration::from_secs(3600);
        let (mut turns, mut refused) = (0, 0);
        // 500 a second, for a minute.
        for n in 0..30_000u32 {
            let now = start + Duration::from_millis(2) * n;
            match budget.turn(now) {
                Some(turn) => {
                    assert!(turn >= now && turn - now <= WAIT_LIMIT);
                    turns += 1;
                }
                None => refused += 1,
            }
        }
        assert!((60 * RATE..=62 * RATE + BURST).contains(&turns), "{turns}");
        assert!(refused > 0);
        // What was saved up in a pause comes at once; of a few a second nobody waits.
        let later = start + Duration::from_secs(3600);
        for n in 0..BURST {
            assert_eq!(budget.turn(later), Some(later), "{n}");
        }
        for n in 1..1000 {
            let now = later + Duration::from_millis(10) * n;
            assert_eq!(budget.turn(now), Some(now), "{n}");
        }
    }
}
