//! Which names were deleted a short while ago.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::model::name::MailboxName;

/// So many names are remembered of each window. Beyond that every name counts as deleted lately.
const ROOM: usize = 50_000;

/// Remembers names for one to two windows of time, by a hash of 8 bytes with a seed of its own; so
/// some 2 MB at most.
#[derive(Debug)]
pub(crate) struct RecentDeletions {
    hasher: RandomState,
    window: Duration,
    /// The present window and the one before it.
    names: [HashSet<u64>; 2],
    present: u128,
    /// When any number of names was deleted, nobody knows which.
    all: Option<Duration>,
}

impl RecentDeletions {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            hasher: RandomState::new(),
            window,
            names: Default::default(),
            present: 0,
            all: None,
        }
    }

    fn number(&self, now: Duration) -> u128 {
        now.as_nanos() / self.window.as_nanos().max(1)
    }

    /// The name was deleted.
    pub(crate) fn put(&mut self, name: &MailboxName, now: Duration) {
        let number = self.number(now);
        if number > self.present {
            self.names.swap(0, 1);
            self.names[0].clear();
            if number > self.present + 1 {
                self.names[1].clear();
            }
            self.present = number;
        }
        if self.names[0].len() < ROOM {
            self.names[0].insert(self.hasher.hash_one(name.as_bytes()));
        }
    }

    /// Any name may have been deleted.
    pub(crate) fn put_all(&mut self, now: Duration) {
        self.all = Some(now);
    }

    /// Whether it was within the window.
    pub(crate) fn has(&self, name: &MailboxName, now: Duration) -> bool {
        if self.all.is_some_and(|all| now.saturating_sub(all) <= self.window) {
            return true;
        }
        let hash = self.hasher.hash_one(name.as_bytes());
        let windows_since = self.number(now).saturating_sub(self.present);
        let counting = match windows_since {
            0 => &self.names[..],
            1 => &self.names[..1],
            _ => &[],
        };
        counting.iter().any(|names| names.len() >= ROOM || names.contains(&hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> MailboxName {
        MailboxName::new(text).unwrap()
    }

    #[test]
    fn a_name_is_remembered_for_at_least_the_window_and_at_most_for_two() {
        for start in 0..25 {
            for others in [false, true] {
                let mut recent = RecentDeletions::new(10 * SECOND);
                recent.put(&name("user.a"), start * SECOND);
                for later in 0..30 {
                    let now = (start + later) * SECOND;
                    if others {
                        recent.put(&name("user.b"), now);
                    }
                    let has = recent.has(&name("user.a"), now);
                    assert!(has || later > 10, "{start} + {later}, {others}");
                    assert!(!has || later < 20, "{start} + {later}, {others}");
                    assert!(!recent.has(&name("user.c"), now));
                }
            }
        }
    }

    #[test]
    fn where_nobody_knows_which_every_name_counts() {
        let mut recent = RecentDeletions::new(10 * SECOND);
        assert!(!recent.has(&name("user.a"), 5 * SECOND));
        recent.put_all(5 * SECOND);
        assert!(recent.has(&name("user.a"), 15 * SECOND));
        assert!(!recent.has(&name("user.a"), 16 * SECOND));
    }

    #[test]
    fn of_more_names_than_there_is_room_for_every_one_counts() {
        let mut recent = RecentDeletions::new(10 * SECOND);
        for n in 0..2 * ROOM {
            recent.put(&name(&format!("user.u{n}")), SECOND);
        }
        assert!(recent.has(&name(&format!("user.u{}", 2 * ROOM - 1)), 2 * SECOND));
        assert!(recent.has(&name("user.other"), 2 * SECOND));
        assert!(!recent.has(&name("user.other"), 21 * SECOND));
        assert!(recent.names[0].len() <= ROOM);
    }
}
