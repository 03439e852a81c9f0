//! Negative cache: recent "no such mailbox" answers of the master, for sites that accept them
//! for a while without asking again (`negative-cache`).

use std::collections::HashMap;
use std::time::Duration;

use crate::model::name::MailboxName;

/// Maximum number of names kept; beyond it the master is asked.
const MAX_NAMES: usize = 10_000;

/// Names that the master does not have, each kept for a short time from its question on.
#[derive(Debug)]
pub struct NegativeCache {
    keep: Duration,
    /// Time of the question for each name.
    asked: HashMap<MailboxName, Duration>,
}

impl NegativeCache {
    /// Keeps each name for this time.
    pub fn new(keep: Duration) -> Self {
        Self { keep, asked: HashMap::new() }
    }

    /// Adds a name that the master, asked at `asked`, does not have.
    pub fn put(&mut self, name: &MailboxName, asked: Duration, now: Duration) {
        if self.asked.len() >= MAX_NAMES {
            let keep = self.keep;
            self.asked.retain(|_, asked| now.saturating_sub(*asked) < keep);
        }
        if self.asked.len() < MAX_NAMES {
            self.asked.insert(name.clone(), asked);
        }
    }

    /// Removes a name that exists.
    pub fn forget(&mut self, name: &MailboxName) {
        self.asked.remove(name);
    }

    /// Whether the master's last answer for the name was "absent", over the connection that is up
    /// since `up`.
    pub fn has(&self, name: &MailboxName, up: Duration, now: Duration) -> bool {
        let fresh = |asked: &Duration| *asked >= up && now.saturating_sub(*asked) < self.keep;
        self.asked.get(name).is_some_and(fresh)
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
    fn entry_ends_with_its_time_its_connection_or_an_event() {
        let mut absences = NegativeCache::new(2 * SECOND);
        let bob = name("user.bob");
        absences.put(&bob, 10 * SECOND, 10 * SECOND);
        assert!(absences.has(&bob, 9 * SECOND, 11 * SECOND));
        assert!(!absences.has(&bob, 9 * SECOND, 12 * SECOND), "it counts from the question on");
        assert!(!absences.has(&bob, 11 * SECOND, 11 * SECOND), "that was another connection");
        assert!(!absences.has(&name("user.ann"), 9 * SECOND, 11 * SECOND));
        absences.forget(&bob);
        assert!(!absences.has(&bob, 9 * SECOND, 11 * SECOND));
    }

    #[test]
    fn dictionary_attack_neither_fills_memory_nor_blocks_names() {
        let mut absences = NegativeCache::new(SECOND);
        for n in 0..3 * MAX_NAMES {
            absences.put(&name(&format!("user.u{n}")), SECOND, SECOND);
        }
        assert_eq!(absences.asked.len(), MAX_NAMES);
        absences.put(&name("user.bob"), 3 * SECOND, 3 * SECOND);
        assert!(absences.has(&name("user.bob"), SECOND, 3 * SECOND));
        assert_eq!(absences.asked.len(), 1);
    }
}
