//! Cache of the offsets of recent hits, so that a frequent recipient is found with one read.
//!
//! A mail server asks for one recipient several times, and for some recipients far more often than for
//! others. An entry names the record of its key at the committed end to which the log was followed. A new
//! record of a key removes the entry of that key. A deletion removes all entries, since a deletion of
//! twoskip does not name its key. A reader compares the key in the record with the wanted key.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Number of groups. With 64 bytes each they take 4 MB of memory once all are in use.
const GROUPS: usize = 1 << 16;

/// Offsets are kept in units of 8, the alignment of all records.
const UNIT: u64 = 8;

/// Entries by the hash of their key: 32 bits of the hash, and the offset in units of 8; 0 if empty.
///
/// Clients choose the keys, so the hash has a random seed. Two keys with equal hashes cost no more than a
/// search for one of them. Any number of threads read; one thread at a time writes, the one that follows
/// the log.
#[derive(Debug)]
pub(crate) struct PositionCache {
    seed: u64,
    /// Allocated with the first entry.
    groups: OnceLock<Box<[Group]>>,
    used: AtomicBool,
}

/// Entries of keys that share some bits of their hashes, the latest first. A group fills one line of the
/// processor's caches, so that one wait for memory brings all of it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Group([AtomicU64; 8]);

impl Default for PositionCache {
    fn default() -> Self {
        // The standard library's source of random numbers.
        let seed = RandomState::new().hash_one(());
        Self { seed, groups: OnceLock::new(), used: AtomicBool::new(false) }
    }
}

/// Returns the bits of a hash that an entry keeps.
fn mark(hash: u64) -> u64 {
    hash & !u64::from(u32::MAX)
}

impl PositionCache {
    /// Returns the group of a key, and the mark of its entry.
    fn group<'g>(&self, groups: &'g [Group], key: &[u8]) -> (&'g [AtomicU64; 8], u64) {
        let hash = xxh3_64_with_seed(key, self.seed);
        (&groups[hash as usize % GROUPS].0, mark(hash))
    }

    /// Returns the offset at which the record of this key may be.
    pub(crate) fn get(&self, key: &[u8]) -> Option<u64> {
        let (group, wanted) = self.group(self.groups.get()?, key);
        let mut places = group.iter().map(|place| place.load(Relaxed));
        let place = places.find(|place| *place != 0 && mark(*place) == wanted)?;
        Some((place ^ wanted) * UNIT)
    }

    /// Caches the offset of the record of this key.
    pub(crate) fn put(&self, key: &[u8], offset: u64) {
        // Past 32 GB nothing is cached.
        let Ok(offset) = u32::try_from(offset / UNIT) else { return };
        let groups = self.groups.get_or_init(|| (0..GROUPS).map(|_| Group::default()).collect());
        let (group, wanted) = self.group(groups, key);
        // Entries before the old entry of this key, or before an empty one, move on by one. If there is
        // neither, all move and the last one is dropped.
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

    /// Removes the entry of a key, which has a new record.
    pub(crate) fn forget(&self, key: &[u8]) {
        let Some(groups) = self.groups.get() else { return };
        let (group, wanted) = self.group(groups, key);
        for place in group {
            if mark(place.load(Relaxed)) == wanted {
                place.store(0, Relaxed);
            }
        }
    }

    /// Removes all entries, since some key is deleted.
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
    fn replaced_or_deleted_keys_lose_their_entries() {
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
    fn users_of_a_large_site_hardly_evict_each_other() {
        const USERS: u64 = 200_000;
        let recent = PositionCache::default();
        let place = |user: u64| 1024 + user * UNIT;
        (0..USERS).for_each(|user| recent.put(&user.to_be_bytes(), place(user)));
        let known = |user: &u64| recent.get(&user.to_be_bytes()) == Some(place(*user));
        let known = (0..USERS).filter(known).count() as u64;
        assert!(known > USERS / 100 * 98, "{known}");
    }
}
