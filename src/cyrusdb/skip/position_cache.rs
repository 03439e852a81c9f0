//! Where records were found a while ago, so that who gets mail often is found at once.
//!
//! A mail server asks for one recipient several times, and for some far more often than for others.
//! A place here names a record that was the one of its key at the committed end up to which the log
//! was followed: a new record of a key takes its place away, and any deletion all places, for a
//! deletion of twoskip does not say of which key. The key in the record tells whether it is the wanted one.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Groups of places; with 64 bytes each they take 4 MB of memory once all are in use.
const GROUPS: usize = 1 << 16;

/// Offsets are kept in units of 8, the alignment of all records.
const UNIT: u64 = 8;

/// Places by the hash of their key: 32 bits of it, and the offset in units of 8; 0 if empty.
///
/// Strangers choose the keys, so the hash is seeded by chance; what they could gain by finding two
/// keys with the same hash is that one of them is searched for. Any number of threads ask; only one at
/// a time changes it, and it is the one that follows the log.
#[derive(Debug)]
pub(crate) struct PositionCache {
    seed: u64,
    /// Made when there is something to put there.
    groups: OnceLock<Box<[Group]>>,
    used: AtomicBool,
}

/// The places of keys that share some bits of their hashes, the latest first: a line of the processor's
/// caches, so that one wait for memory brings all of them.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Group([AtomicU64; 8]);

impl Default for PositionCache {
    fn default() -> Self {
        // The standard library's source of chance.
        let seed = RandomState::new().hash_one(());
        Self { seed, groups: OnceLock::new(), used: AtomicBool::new(false) }
    }
}

/// The bits of a hash that a place keeps.
fn mark(hash: u64) -> u64 {
    hash & !u64::from(u32::MAX)
}

impl PositionCache {
    /// The group of a key among these, and its mark in there.
    fn group<'g>(&self, groups: &'g [Group], key: &[u8]) -> (&'g [AtomicU64; 8], u64) {
        let hash = xxh3_64_with_seed(key, self.seed);
        (&groups[hash as usize % GROUPS].0, mark(hash))
    }

    /// Where the record of this key may be found.
    pub(crate) fn get(&self, key: &[u8]) -> Option<u64> {
        let (group, wanted) = self.group(self.groups.get()?, key);
        let mut places = group.iter().map(|place| place.load(Relaxed));
        let place = places.find(|place| *place != 0 && mark(*place) == wanted)?;
        Some((place ^ wanted) * UNIT)
    }

    /// The record of this key was found there.
    pub(crate) fn put(&self, key: &[u8], offset: u64) {
        // Past 32 GB nothing is remembered.
        let Ok(offset) = u32::try_from(offset / UNIT) else { return };
        let groups = self.groups.get_or_init(|| (0..GROUPS).map(|_| Group::default()).collect());
        let (group, wanted) = self.group(groups, key);
        // Those before the key's old place, or an empty one, move on by one, or all of them, and the
        // last one goes.
        let mut moved = wanted | u64::from(offset);
        for place in group {
            let next = place.load(Relaxed);
            place.store(moved, Relaxed);
            if next == 0 || mark(next) == wanted {
                break;
            }
            moved = next;
        }
        self.used.store(true, Relaxed);
    }

    /// The key has a new record.
    pub(crate) fn forget(&self, key: &[u8]) {
        let Some(groups) = self.groups.get() else { return };
        let (group, wanted) = self.group(groups, key);
        for place in group {
            if mark(place.load(Relaxed)) == wanted {
                place.store(0, Relaxed);
            }
        }
    }

    /// Some key is gone.
    pub(crate) fn forget_all(&self) {
        if self.used.swap(false, Relaxed) {
            let groups = self.groups.get().into_iter().flatten();
            groups.flat_map(|group| &group.0).for_each(|place| place.store(0, Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_or_may_be_deleted_is_forgotten() {
        let recent = PositionCache::default();
        assert_eq!(recent.get(b"a"), None);
        recent.put(b"a", 336);
        recent.put(b"b", 8 << 32);
        assert_eq!((recent.get(b"a"), recent.get(b"b")), (Some(336), None));
        recent.put(b"a", 400);
        assert_eq!(recent.get(b"a"), Some(400));
        recent.forget(b"a");
        assert_eq!(recent.get(b"a"), None);
        recent.put(b"a", 336);
        recent.forget_all();
        assert_eq!(recent.get(b"a"), None);
    }

    #[test]
    fn of_as_many_users_as_a_large_site_has_hardly_one_pushes_another_one_out() {
        const USERS: u64 = 200_000;
        let recent = PositionCache::default();
        let place = |user: u64| 1024 + user * UNIT;
        (0..USERS).for_each(|user| recent.put(&user.to_be_bytes(), place(user)));
        let known = |user: &u64| recent.get(&user.to_be_bytes()) == Some(place(*user));
        let known = (0..USERS).filter(known).count() as u64;
        assert!(known > USERS / 100 * 98, "{known}");
    }
}
