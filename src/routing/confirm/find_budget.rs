//! Budget of FINDs for names that the lists do not have.
//!
//! Remote clients choose the number of such names. The master answers FINDs between the changes
//! that it receives, so a flood of FINDs would delay changes, and new accounts would be known
//! late.

use std::time::Duration;

/// Average number of FINDs a second.
const RATE: u32 = 200;

/// Maximum number of FINDs at once after a pause.
const BURST: u32 = 200;

/// Maximum wait for a turn. The caller has a deadline, and the answer takes time as well.
const WAIT_LIMIT: Duration = Duration::from_secs(1);

/// Turns to send a FIND.
#[derive(Debug, Default)]
pub struct FindBudget {
    /// Time of the next turn, without saved turns.
    next: Option<Duration>,
}

impl FindBudget {
    /// Takes the next turn and returns its time. `None`: it is beyond the maximum wait.
    pub fn turn(&mut self, now: Duration) -> Option<Duration> {
        let interval = Duration::from_secs(1) / RATE;
        // Times here are later by the savings limit, so that none is below zero.
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
    fn flood_is_limited_and_few_questions_never_wait() {
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
        // Turns saved in a pause are available at once; a few a second never wait.
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
