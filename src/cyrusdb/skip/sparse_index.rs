//! The sparse index (finger search): keys and offsets of sampled records, in private memory. A search
//! that begins at one of them ends after a few records and, most of the time, one read.
//!
//! A finger is a key and the offset of its record. The fingers of a list are the members of one of
//! its upper lists, in order; [`IndexSize`] sets their number. [`SparseIndexBuilder`] collects them in
//! pieces.
//! A search begins at the greatest finger whose key is *less* than the wanted one. In twoskip, where
//! a record that is linked has its key, it is over at once if there is a finger of the wanted key.
//!
//! They outlive commits, because a file only grows between two repacks: `SparseIndex::follow` reads
//! the log from one committed end to the next. The rule that must hold is: **at the end that was
//! followed to, every finger that is not dropped names a record that is linked into list 0.** Then
//! a search from it finds what a search from the beginning finds. It holds after each step of the
//! log if it held before:
//!
//! * twoskip record: its key has a new record, the old one is linked no longer. If there is a finger
//!   of this key, it now names the new one, and else no finger named the old one.
//! * twoskip delete: it names the record n that follows the one that is gone, d. d was the greatest
//!   live key less than key(n) (of all, if n is 0). If d had a finger, that is the greatest finger
//!   less than key(n): another one between them would be a live key there. So the greatest finger
//!   less than key(n) is dropped, whether it was d or, needlessly, one before.
//! * twom add, replace: as a twoskip record.
//! * twom delete: the record stays linked, only its key is gone. Nothing to do, since a search never
//!   ends at the finger that it begins at.
//!
//! A thread that still searches at an older end sees fingers of the newer one. Those at or past its
//! end it passes over; the others were linked at its end too, for no record ever comes back.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::node::{Layout, MAX_LEVEL, NodeKind};
use super::position::Start;
use super::position_cache::PositionCache;
use super::reader::{ListStep, SnapshotReader};
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::order::Order;
use crate::cyrusdb::source::ByteSource;

/// Number of fingers to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexSize {
    /// 512 or half as many, for a process that makes few searches. They save half of the reads among
    /// 1,000,000 records, and cost as much as some dozens of searches.
    Small,
    /// 262,144 or half as many: a search begins some four records before the wanted one. They take some
    /// 3 MB.
    Large,
}

impl IndexSize {
    /// Returns the maximum number of fingers. The minimum is half of it, for a list that is long enough.
    fn wanted(self) -> u64 {
        match self {
            IndexSize::Small => 512,
            IndexSize::Large => 256 << 10,
        }
    }
}

/// Maximum length of the keys of all fingers, in bytes. Where they would take more, there are fewer fingers.
const MOST_KEY_BYTES: usize = 4 << 20;

/// Maximum length of a finger's key in bytes: lengths are kept in a byte.
const LONGEST_KEY: usize = 255;

/// Offsets are kept in units of 8, the alignment of all records.
const UNIT: u64 = 8;

/// A dropped finger.
const DROPPED: u64 = 0;

/// Number of keys in a block. All keys of a block but the first are stored as the difference from the key
/// before.
const BLOCK: usize = 16;

/// Keys in order. Misses in the processor's caches are most of the cost of a search, so the keys are kept
/// small: the first key of each block of [`BLOCK`] is whole, since most of a search compares first keys,
/// and the others are stored by their ends.
#[derive(Debug)]
struct KeyTable {
    count: usize,
    /// First keys of all blocks, one after the other.
    firsts: Vec<u8>,
    /// Offset in `firsts` of each of these keys, and the end of the last one.
    first_at: Vec<u32>,
    /// For each other key: the number of bytes it shares with the key before, the number of bytes that
    /// differ, and these bytes.
    rests: Vec<u8>,
    /// Offset in `rests` at which each block begins.
    rest_at: Vec<u32>,
}

impl KeyTable {
    fn new() -> Self {
        Self {
            count: 0,
            firsts: Vec::new(),
            first_at: vec![0],
            rests: Vec::new(),
            rest_at: Vec::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.firsts.len() + self.rests.len()
    }

    fn first(&self, block: usize) -> &[u8] {
        &self.firsts[self.first_at[block] as usize..self.first_at[block + 1] as usize]
    }

    /// Returns the keys of a block after the first: the number of bytes each shares with the key before,
    /// and its other bytes.
    fn rests(&self, block: usize) -> impl Iterator<Item = (usize, &[u8])> {
        let count = (self.count - block * BLOCK).min(BLOCK) - 1;
        let mut rest = &self.rests[self.rest_at[block] as usize..];
        (0..count).map_while(move |_| {
            let ([shared, len], after) = rest.split_first_chunk()?;
            let (suffix, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            Some((usize::from(*shared), suffix))
        })
    }

    /// Appends a key of at most [`LONGEST_KEY`] bytes, greater than `last`, the one before.
    fn push(&mut self, last: &[u8], key: &[u8]) {
        if self.count.is_multiple_of(BLOCK) {
            self.firsts.extend_from_slice(key);
            self.first_at.push(self.firsts.len() as u32);
            self.rest_at.push(self.rests.len() as u32);
        } else {
            let shared = common(last, key);
            self.rests.push(shared as u8);
            self.rests.push((key.len() - shared) as u8);
            self.rests.extend_from_slice(&key[shared..]);
        }
        self.count += 1;
    }

    /// Writes the key with this number.
    fn get(&self, i: usize, key: &mut Vec<u8>) {
        let block = i / BLOCK;
        key.clear();
        key.extend_from_slice(self.first(block));
        for (shared, suffix) in self.rests(block).take(i % BLOCK) {
            key.truncate(shared);
            key.extend_from_slice(suffix);
        }
    }

    /// Returns the number of keys less than this one, and whether the next one equals it.
    fn rank(&self, order: Order, key: &[u8]) -> (usize, bool) {
        let (mut low, mut high) = (0, self.rest_at.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match order.compare(self.first(middle), key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return (middle * BLOCK, true),
                Ordering::Greater => high = middle,
            }
        }
        let Some(block) = low.checked_sub(1) else { return (0, false) };
        // Number of bytes that the wanted key has in common with the key before the next one.
        let mut matched = common(self.first(block), key);
        for (i, (shared, suffix)) in self.rests(block).enumerate() {
            let rank = block * BLOCK + 1 + i;
            match shared.cmp(&matched) {
                // This key differs from the wanted key at the same place as the key before, which is less.
                Ordering::Greater => continue,
                // This key differs from the wanted key where the key before does not. It is greater than
                // the key before, so it is greater than the wanted key.
                Ordering::Less => return (rank, false),
                Ordering::Equal => {}
            }
            let wanted = &key[matched..];
            match order.compare(suffix, wanted) {
                Ordering::Less => matched += common(suffix, wanted),
                Ordering::Equal => return (rank, true),
                Ordering::Greater => return (rank, false),
            }
        }
        (((block + 1) * BLOCK).min(self.count), false)
    }

    fn shrink_to_fit(&mut self) {
        self.firsts.shrink_to_fit();
        self.first_at.shrink_to_fit();
        self.rests.shrink_to_fit();
        self.rest_at.shrink_to_fit();
    }
}

/// Returns the length of the common beginning of two keys.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The fingers of a list; see the module. Any number of threads may search while one follows.
#[derive(Debug)]
pub struct SparseIndex {
    order: Order,
    size: IndexSize,
    /// Upper list whose members the fingers are.
    list: usize,
    keys: KeyTable,
    /// Offset of the record of each key, in units of 8; 0 if dropped.
    nodes: Vec<AtomicU32>,
    dropped: AtomicUsize,
    positions: PositionCache,
}

impl SparseIndex {
    fn new(order: Order, size: IndexSize, list: usize) -> Self {
        let (keys, nodes, dropped) = (KeyTable::new(), Vec::new(), AtomicUsize::new(0));
        Self { order, size, list, keys, nodes, dropped, positions: PositionCache::default() }
    }

    /// Returns the size that was wanted.
    pub fn size(&self) -> IndexSize {
        self.size
    }

    /// Returns the number of fingers, including dropped ones.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether enough fingers were dropped to collect the index anew.
    pub fn is_worn_out(&self) -> bool {
        self.dropped.load(Relaxed) > 16 + self.len() / 4
    }

    /// Returns the order of the keys.
    pub fn order(&self) -> Order {
        self.order
    }

    fn node(&self, i: usize) -> u64 {
        u64::from(self.nodes[i].load(Relaxed)) * UNIT
    }

    fn set_node(&self, i: usize, offset: u64) {
        // An offset past 32 GB does not fit: the finger is dropped.
        let node = u32::try_from(offset / UNIT).unwrap_or(0);
        match (self.nodes[i].swap(node, Relaxed), node) {
            (0, 0) => {}
            (0, _) => _ = self.dropped.fetch_sub(1, Relaxed),
            (_, 0) => _ = self.dropped.fetch_add(1, Relaxed),
            _ => {}
        }
    }

    /// Returns the start of a search for `key` at this `end`, and writes the key expected there; `None`:
    /// the search begins at the beginning of the list.
    pub(crate) fn start(
        &self,
        key: &[u8],
        end: u64,
        wanted_too: bool,
        start_key: &mut Vec<u8>,
    ) -> Option<Start> {
        let usable = |i: usize| Some(self.node(i)).filter(|node| *node != DROPPED && *node < end);
        let (rank, equal) = self.keys.rank(self.order, key);
        let bound = if rank < self.len() { usable(rank) } else { None };
        if equal
            && wanted_too
            && let Some(offset) = bound
        {
            start_key.clear();
            start_key.extend_from_slice(key);
            return Some(Start { offset, bound: 0, list: MAX_LEVEL, is_wanted: true });
        }
        let (i, offset) = (0..rank).rev().find_map(|i| usable(i).map(|offset| (i, offset)))?;
        self.keys.get(i, start_key);
        // Between two neighbours that are both there, no list above ours has a member that was
        // there when they were collected.
        let list = if bound.is_some() && i + 1 == rank { self.list } else { MAX_LEVEL };
        Some(Start { offset, bound: bound.unwrap_or(0), list, is_wanted: false })
    }

    /// Returns the cached offset of the record of this key, if it is below this `end`.
    pub(crate) fn cached_position(&self, key: &[u8], end: u64) -> Option<u64> {
        self.positions.get(key).filter(|offset| *offset < end)
    }

    /// Caches the offset of the record of this key at the end that was followed to. One thread at a time,
    /// and no thread may follow meanwhile.
    pub(crate) fn put_position(&self, key: &[u8], offset: u64) {
        // A process that makes few searches seldom repeats one.
        if self.size == IndexSize::Large {
            self.positions.put(key, offset);
        }
    }

    /// Notes that the record of this key is at `offset` from now on.
    fn replace(&self, key: &[u8], offset: u64) {
        if let (rank, true) = self.keys.rank(self.order, key) {
            self.set_node(rank, offset);
        }
    }

    /// Drops the greatest of the first `rank` fingers that is not dropped yet.
    fn drop_last_of(&self, rank: usize) {
        if let Some(last) = (0..rank).rev().find(|i| self.node(*i) != DROPPED) {
            self.set_node(last, DROPPED);
        }
    }

    /// Follows the log from the committed end `from` to the end of the header of `reader`.
    ///
    /// One thread at a time, and before others search at the new end. After an error the fingers
    /// must not be used any more.
    pub(crate) fn follow<S: ByteSource + ?Sized>(
        &self,
        reader: SnapshotReader<'_, S>,
        from: u64,
    ) -> Result<()> {
        let mut reader = reader.along_file();
        let (layout, end) = (reader.header().layout, reader.header().end);
        let mut at = from;
        while at < end {
            if !reader.load_log(at)? {
                at += 8;
                continue;
            }
            at = reader.cur().end();
            match (layout, reader.cur().kind) {
                (_, NodeKind::Record) => {
                    self.positions.forget(reader.cur_key());
                    self.replace(reader.cur_key(), reader.cur().offset);
                }
                (Layout::Twoskip, NodeKind::Delete) => {
                    self.positions.forget_all();
                    let [rank, other] = match reader.cur().target {
                        0 => [self.len(); 2],
                        next => {
                            reader.load(next)?;
                            let key = reader.cur_key();
                            [self.order, self.order.other()].map(|o| self.keys.rank(o, key).0)
                        }
                    };
                    self.drop_last_of(rank);
                    // The order may be presumed only, and the file in the other one.
                    if other != rank {
                        self.drop_last_of(other);
                    }
                }
                (Layout::Twom { .. }, NodeKind::Delete) => self.positions.forget_all(),
                (_, NodeKind::Commit) => {}
                (_, NodeKind::Dummy) => {
                    return Err(Error::corrupt(
                        reader.cur().offset,
                        "a second beginning of the list",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Progress of a [`SparseIndexBuilder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildProgress {
    /// There is more to collect.
    More,
    /// The fingers are complete.
    Done,
    /// Two neighbours stand in the other order: that is the order of this file. Nothing has been
    /// collected.
    OtherOrder,
}

/// Collects fingers in pieces.
///
/// Between two pieces it may follow commits. The fingers collected so far are themselves an index, so
/// the rule of the module holds for them, and collecting continues at the last one that is not dropped.
#[derive(Debug)]
pub struct SparseIndexBuilder {
    index: SparseIndex,
}

impl SparseIndexBuilder {
    /// Returns an empty builder for a list of this many records.
    pub fn new(order: Order, size: IndexSize, records: u64) -> Self {
        // One record in two has a level above 1, one in four above 2, and so on.
        let mut list = 1;
        while records >> list > size.wanted() {
            list += 1;
        }
        Self { index: SparseIndex::new(order, size, list) }
    }

    /// Returns a builder that makes nearly all records of a small list fingers; for tests of the rule.
    #[cfg(test)]
    pub(crate) fn at_list(order: Order, size: IndexSize, list: usize) -> Self {
        Self { index: SparseIndex::new(order, size, list) }
    }

    /// Returns the order of the keys.
    pub fn order(&self) -> Order {
        self.index.order
    }

    /// Returns the size of the index that is built.
    pub fn size(&self) -> IndexSize {
        self.index.size
    }

    /// Returns the collected index.
    pub fn into_index(mut self) -> SparseIndex {
        self.index.keys.shrink_to_fit();
        self.index.nodes.shrink_to_fit();
        self.index
    }

    /// As [`SparseIndex::follow`].
    pub(crate) fn follow<S: ByteSource + ?Sized>(
        &self,
        reader: SnapshotReader<'_, S>,
        from: u64,
    ) -> Result<()> {
        self.index.follow(reader, from)
    }

    /// Collects up to `count` more.
    pub(crate) fn collect<S: ByteSource + ?Sized>(
        &mut self,
        reader: SnapshotReader<'_, S>,
        count: usize,
    ) -> Result<BuildProgress> {
        let fingers = &mut self.index;
        let (size, list) = (fingers.size, fingers.list);
        let mut reader = match size {
            // The fingers are far apart: reading ahead would be wasted.
            IndexSize::Small => reader,
            IndexSize::Large => reader.along_lists(),
        };
        // From the last finger that is not dropped; the records of those behind it may have come back.
        let mut last = Vec::new();
        match (0..fingers.len()).rev().find(|i| fingers.node(*i) != DROPPED) {
            None => reader.load(reader.header().layout.dummy())?,
            Some(i) => {
                reader.load(fingers.node(i))?;
                fingers.keys.get(i, &mut last);
                if reader.cur_key() != last {
                    return Err(Error::corrupt(reader.cur().offset, "another record than it was"));
                }
            }
        }
        if let Some(i) = fingers.len().checked_sub(1) {
            fingers.keys.get(i, &mut last);
        }
        let target = fingers.len() + count;
        // While a transaction under way hides the upper lists, the walk uses lower ones. One in `every` of
        // the records that are no members of our list is then enough.
        let every = 1usize << list.min(16);
        let mut passed = 0;
        while fingers.len() < target {
            match reader.step_in_list(list)? {
                ListStep::End => return Ok(BuildProgress::Done),
                ListStep::OtherOrder => {
                    *fingers = SparseIndex::new(fingers.order.other(), size, list);
                    return Ok(BuildProgress::OtherOrder);
                }
                ListStep::To { .. } => {}
            }
            passed += 1;
            if reader.cur().level <= list && passed < every {
                continue;
            }
            passed = 0;
            let Ok(node) = u32::try_from(reader.cur().offset / UNIT) else {
                // Past 32 GB the list is searched without fingers.
                return Ok(BuildProgress::Done);
            };
            let key = reader.cur_key();
            let known = !fingers.is_empty() && fingers.order.compare(key, &last).is_le();
            if known || key.len() > LONGEST_KEY {
                continue;
            }
            if fingers.keys.bytes() + key.len() > MOST_KEY_BYTES {
                *fingers = SparseIndex::new(fingers.order, size, list + 1);
                return Ok(BuildProgress::More);
            }
            fingers.keys.push(&last, key);
            fingers.nodes.push(AtomicU32::new(node));
            last.clear();
            last.extend_from_slice(key);
        }
        Ok(BuildProgress::More)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::random::Random;

    #[test]
    fn compressed_keys_are_equal_and_in_order() {
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        println!("seed {seed}");
        let mut random = Random(seed);
        for order in [Order::Raw, Order::Mbox] {
            for _ in 0..200 {
                // A small alphabet, so that keys are often prefixes of others.
                let mut some_key = || -> Vec<u8> {
                    (0..random.below(7)).map(|_| b".ab-"[random.below(4) as usize]).collect()
                };
                let set: BTreeSet<Vec<u8>> = (0..60).map(|_| some_key()).collect();
                let mut sorted: Vec<Vec<u8>> = set.into_iter().collect();
                sorted.sort_by(|a, b| order.compare(a, b));
                let mut keys = KeyTable::new();
                for (i, key) in sorted.iter().enumerate() {
                    keys.push(i.checked_sub(1).map_or(b"", |last| &sorted[last]), key);
                }
                let mut got = Vec::new();
                for (i, key) in sorted.iter().enumerate() {
                    keys.get(i, &mut got);
                    assert_eq!(&got, key);
                    assert_eq!(keys.rank(order, key), (i, true));
                }
                for _ in 0..60 {
                    let key = some_key();
                    let less = sorted.iter().filter(|k| order.compare(k, &key).is_lt()).count();
                    assert_eq!(keys.rank(order, &key), (less, sorted.contains(&key)));
                }
            }
        }
    }
}
