//! Names that were deleted recently.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::model::name::MailboxName;

/// Maximum number of names kept of each window. Beyond that every name counts as recently deleted.
const MAX_NAMES: usize = 50_000;

/// Keeps names for one to two windows of time, as hashes of 8 bytes with a seed of its own: some 2 MB at
/// most.
#[derive(Debug)]
pub(crate) struct RecentDeletions {
    hasher: RandomState,
    window: Duration,
    /// The present window and the one before it.
    names: [HashSet<u64>; 2],
    present: u128,
    /// When any name may have been deleted.
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

    /// Adds a name that was deleted.
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
        if self.names[0].len() < MAX_NAMES {
            self.names[0].insert(self.hasher.hash_one(name.as_bytes()));
        }
    }

    /// Adds all names: any may have been deleted.
    pub(crate) fn put_all(&mut self, now: Duration) {
        self.all = Some(now);
    }

    /// Whether the name was deleted within the window.
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
        counting.iter().any(|names| names.len() >= MAX_NAMES || names.contains(&hash))
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
    fn name_counts_for_one_to_two_windows() {
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
    fn put_all_makes_every_name_count() {
        let mut recent = RecentDeletions::new(10 * SECOND);
        assert!(!recent.has(&name("user.a"), 5 * SECOND));
        recent.put_all(5 * SECOND);
        assert!(recent.has(&name("user.a"), 15 * SECOND));
        assert!(!recent.has(&name("user.a"), 16 * SECOND));
    }

    #[test]
    fn every_name_counts_beyond_the_limit() {
        let mut recent = RecentDeletions::new(10 * SECOND);
        for n in 0..2 * MAX_NAMES {
            recent.put(&name(&format!("user.u{n}")), SECOND);
        }
        assert!(recent.has(&name(&format!("user.u{}", 2 * MAX_NAMES - 1)), 2 * SECOND));
        assert!(recent.has(&name("user.other"), 2 * SECOND));
        assert!(!recent.has(&name("user.other"), 21 * SECOND));
        assert!(recent.names[0].len() <= MAX_NAMES);
    }
}
