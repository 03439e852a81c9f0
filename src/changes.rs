//! Which names changed a short while ago.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::mailbox::MailboxName;

/// What changed no longer ago may be about to change again, and the list may not have heard of it
/// yet: the stream is up to 5 s behind (Cyrus `imap/mupdate.c`, `update_wait`), and an operation is
/// several changes. XFER lets a minute pass between two of them only for the largest mailboxes.
pub const LATELY: Duration = Duration::from_secs(60);

/// So many moments are kept, 256 kB of them once there is one.
const SLOTS: usize = 1 << 16;

/// Remembers when names changed last, one moment for all the names of a hash.
///
/// So it may take a name for one that changed, of which there are few: with 600 changes a minute 1 in
/// 100. It never forgets one too soon. Shared by threads, none of which ever waits.
#[derive(Debug)]
pub struct Changes {
    seed: u64,
    /// In whole seconds, 0 for never. Made when there is something to put there.
    moments: OnceLock<Box<[AtomicU32]>>,
}

impl Default for Changes {
    fn default() -> Self {
        // The standard library's source of chance.
        let seed = RandomState::new().hash_one(());
        Self { seed, moments: OnceLock::new() }
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl Changes {
    fn slot(&self, name: &MailboxName) -> usize {
        xxh3_64_with_seed(name.as_bytes(), self.seed) as usize % SLOTS
    }

    /// The name changed at this moment.
    pub fn put(&self, name: &MailboxName, at: Duration) {
        let moments = self.moments.get_or_init(|| (0..SLOTS).map(|_| AtomicU32::new(0)).collect());
        if let Some(moment) = moments.get(self.slot(name)) {
            moment.fetch_max(seconds(at).max(1), Relaxed);
        }
    }

    /// Whether it was within the last [`LATELY`], or will be as soon: clocks are put right. `now` is
    /// read only if there ever was a change.
    pub fn has(&self, name: &MailboxName, now: impl FnOnce() -> Duration) -> bool {
        let moment = self.moments.get().and_then(|moments| moments.get(self.slot(name)));
        match moment.map_or(0, |moment| moment.load(Relaxed)) {
            0 => false,
            moment => seconds(now()).abs_diff(moment) <= seconds(LATELY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> MailboxName {
        MailboxName::new(text).unwrap()
    }

    #[test]
    fn a_change_is_remembered_for_a_minute_whenever_it_was() {
        for start in [0, 400, 59_900, 1_795_536_000_000] {
            let (start, changes) = (Duration::from_millis(start), Changes::default());
            let has = |of, later| changes.has(&name(of), || start + Duration::from_millis(later));
            assert!(!has("user.a", 0));
            changes.put(&name("user.a"), start);
            for later in [0, 1, 30_000, 60_000] {
                assert!(has("user.a", later), "{start:?} + {later}");
            }
            assert!(!has("user.a", 62_000));
            changes.put(&name("user.a"), start + LATELY);
            changes.put(&name("user.a"), start);
            assert!(has("user.a", 119_000), "the last one counts");
        }
    }

    #[test]
    fn of_those_that_did_not_change_few_count_as_if_they_had() {
        let changes = Changes::default();
        for n in 0..650 {
            changes.put(&name(&format!("user.changed{n}")), LATELY);
        }
        let taken =
            (0..10_000).filter(|n| changes.has(&name(&format!("user.u{n}")), || LATELY)).count();
        assert!(taken < 200, "{taken} of 10000");
    }
}
