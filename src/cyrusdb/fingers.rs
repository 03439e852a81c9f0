//! Shortcuts into a list, in private memory: where to begin a search so that it ends after a few
//! records and, most of the time, one read.
//!
//! A finger is a key and the offset of its record. The fingers of a list are the members of one of
//! its upper lists, some hundred thousand at most, in order; [`Builder`] collects them in pieces.
//! A search begins at the greatest finger whose key is *less* than the wanted one.
//!
//! They outlive commits, because a file only grows between two repacks: `Fingers::follow` reads
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
//!   less than key(n) is dropped, whether it was d or, for nothing, one before.
//! * twom add, replace: as a twoskip record.
//! * twom delete: the record stays linked, only its key is gone. Nothing to do, since a search never
//!   ends at the finger that it begins at.
//!
//! A thread that still searches at an older end sees fingers of the newer one. Those at or past its
//! end it passes over; the others were linked at its end too, for no record ever comes back.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::error::{Error, Result};
use super::node::{Kind, Layout, MAX_LEVEL};
use super::order::Order;
use super::snapshot::{Reader, Start, Step};
use super::source::ByteSource;

/// As many fingers as this or half as many are wanted; with keys of 20 bytes they take 4 MB.
const WANTED: u64 = 128 << 10;

/// The keys of all fingers take no more bytes than this; where they would, there are fewer fingers.
const MOST_KEY_BYTES: usize = 4 << 20;

/// Offsets are kept in units of 8, the alignment of all records.
const UNIT: u64 = 8;

/// A dropped finger.
const DROPPED: u64 = 0;

/// Of so many fingers one is in [`Fingers::tops`] too.
const BLOCK: usize = 16;

/// Keys in order, one after the other in memory.
#[derive(Debug)]
struct Keys {
    bytes: Vec<u8>,
    /// Where each key begins in `bytes`, and where the last one ends.
    starts: Vec<u32>,
}

impl Keys {
    fn new() -> Self {
        Self { bytes: Vec::new(), starts: vec![0] }
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn get(&self, i: usize) -> &[u8] {
        &self.bytes[self.starts[i] as usize..self.starts[i + 1] as usize]
    }

    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.starts.push(self.bytes.len() as u32);
    }

    fn pop(&mut self) {
        self.starts.pop();
        self.bytes.truncate(self.starts.last().map_or(0, |end| *end as usize));
    }

    /// The first one from `low` on, but not after `high`, that is not less than `key`.
    fn rank(&self, order: Order, key: &[u8], mut low: usize, mut high: usize) -> usize {
        while low < high {
            let middle = low + (high - low) / 2;
            if order.compare(self.get(middle), key).is_lt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
        self.starts.shrink_to_fit();
    }
}

/// See the module. Any number of threads may search while one follows.
#[derive(Debug)]
pub struct Fingers {
    order: Order,
    /// The list whose members they are.
    list: usize,
    keys: Keys,
    /// Every sixteenth key again. A search costs what it misses in the processor's caches; these
    /// stay there, and the sixteen it ends among stand together.
    tops: Keys,
    /// Where the record of each key stands, in units of 8; 0 if dropped.
    nodes: Vec<AtomicU32>,
    dropped: AtomicUsize,
}

impl Fingers {
    fn new(order: Order, list: usize) -> Self {
        Self {
            order,
            list,
            keys: Keys::new(),
            tops: Keys::new(),
            nodes: Vec::new(),
            dropped: AtomicUsize::new(0),
        }
    }

    fn push(&mut self, key: &[u8], node: u32) {
        if self.len().is_multiple_of(BLOCK) {
            self.tops.push(key);
        }
        self.keys.push(key);
        self.nodes.push(AtomicU32::new(node));
    }

    fn pop(&mut self) {
        self.nodes.pop();
        self.keys.pop();
        if self.len().is_multiple_of(BLOCK) {
            self.tops.pop();
        }
    }

    /// How many there are, dropped ones too.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether so many were dropped that they are better collected anew.
    pub fn worn_out(&self) -> bool {
        self.dropped.load(Relaxed) > 16 + self.len() / 4
    }

    /// The order they are in.
    pub fn order(&self) -> Order {
        self.order
    }

    fn key(&self, i: usize) -> &[u8] {
        self.keys.get(i)
    }

    /// The number of fingers with lesser keys.
    fn rank(&self, key: &[u8]) -> usize {
        let tops = self.tops.rank(self.order, key, 0, self.tops.len());
        let low = tops.saturating_sub(1) * BLOCK;
        self.keys.rank(self.order, key, low, (tops * BLOCK).min(self.len()))
    }

    fn node(&self, i: usize) -> u64 {
        u64::from(self.nodes[i].load(Relaxed)) * UNIT
    }

    fn set_node(&self, i: usize, offset: u64) {
        // Past 32 GB there are no fingers.
        let node = u32::try_from(offset / UNIT).unwrap_or(0);
        match (self.nodes[i].swap(node, Relaxed), node) {
            (0, 0) => {}
            (0, _) => _ = self.dropped.fetch_sub(1, Relaxed),
            (_, 0) => _ = self.dropped.fetch_add(1, Relaxed),
            _ => {}
        }
    }

    /// Where a search for `key` at this `end` begins; `None`: at the beginning of the list.
    pub(crate) fn before(&self, key: &[u8], end: u64) -> Option<Start<'_>> {
        let usable = |i: usize| Some(self.node(i)).filter(|node| *node != DROPPED && *node < end);
        let rank = self.rank(key);
        let bound = if rank < self.len() { usable(rank) } else { None };
        let (i, offset) = (0..rank).rev().find_map(|i| usable(i).map(|offset| (i, offset)))?;
        // Between two neighbours that are both there, no list above ours has a member that was
        // there when they were collected.
        let list = if bound.is_some() && i + 1 == rank { self.list } else { MAX_LEVEL };
        Some(Start { offset, key: self.key(i), bound: bound.unwrap_or(0), list })
    }

    /// The key has its record at `offset` now.
    fn replace(&self, key: &[u8], offset: u64) {
        let rank = self.rank(key);
        if rank < self.len() && self.key(rank) == key {
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
        reader: Reader<'_, S>,
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
                (_, Kind::Record) => self.replace(reader.cur_key(), reader.cur().offset),
                (Layout::Twoskip, Kind::Delete) => {
                    let rank = match reader.cur().target {
                        0 => self.len(),
                        next => {
                            reader.load(next)?;
                            self.rank(reader.cur_key())
                        }
                    };
                    self.drop_last_of(rank);
                }
                (Layout::Twom { .. }, Kind::Delete) | (_, Kind::Commit) => {}
                (_, Kind::Dummy) => {
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

/// How far a [`Builder`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
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
/// Between two pieces it may follow commits. What it has collected is itself a set of fingers, so
/// the rule of the module holds for it, and it goes on from the last one that is not dropped.
#[derive(Debug)]
pub struct Builder {
    fingers: Fingers,
}

impl Builder {
    /// Begins with nothing, for a list of so many records.
    pub fn new(order: Order, records: u64) -> Self {
        // One record in two has a level above 1, one in four above 2, and so on.
        let mut list = 1;
        while records >> list > WANTED {
            list += 1;
        }
        Self { fingers: Fingers::new(order, list) }
    }

    /// Of a list this small nearly all records become fingers; for tests of the rule above.
    #[cfg(test)]
    pub(crate) fn at_list(order: Order, list: usize) -> Self {
        Self { fingers: Fingers::new(order, list) }
    }

    /// The order it goes by.
    pub fn order(&self) -> Order {
        self.fingers.order
    }

    /// What has been collected.
    pub fn into_fingers(mut self) -> Fingers {
        self.fingers.keys.shrink_to_fit();
        self.fingers.tops.shrink_to_fit();
        self.fingers.nodes.shrink_to_fit();
        self.fingers
    }

    /// As [`Fingers::follow`].
    pub(crate) fn follow<S: ByteSource + ?Sized>(
        &self,
        reader: Reader<'_, S>,
        from: u64,
    ) -> Result<()> {
        self.fingers.follow(reader, from)
    }

    /// Collects up to `count` more.
    pub(crate) fn collect<S: ByteSource + ?Sized>(
        &mut self,
        reader: Reader<'_, S>,
        count: usize,
    ) -> Result<Progress> {
        let mut reader = reader.along_lists();
        let fingers = &mut self.fingers;
        let list = fingers.list;
        // The last that is not dropped; those behind it go, their place is not known any more.
        while fingers.nodes.last_mut().is_some_and(|node| *node.get_mut() == 0) {
            fingers.pop();
            *fingers.dropped.get_mut() -= 1;
        }
        match fingers.len().checked_sub(1) {
            None => reader.load(reader.header().layout.dummy())?,
            Some(last) => {
                reader.load(fingers.node(last))?;
                if reader.cur_key() != fingers.key(last) {
                    return Err(Error::corrupt(reader.cur().offset, "another record than it was"));
                }
            }
        }
        let target = fingers.len() + count;
        // Where a transaction under way hides the upper lists, the way leads along lower ones; of
        // those that are no members of ours one in so many is enough.
        let every = 1usize << list.min(16);
        let mut passed = 0;
        while fingers.len() < target {
            match reader.step_in_list(list)? {
                Step::End => return Ok(Progress::Done),
                Step::OtherOrder => {
                    *fingers = Fingers::new(fingers.order.other(), list);
                    return Ok(Progress::OtherOrder);
                }
                Step::To { .. } => {}
            }
            passed += 1;
            if reader.cur().level <= list && passed < every {
                continue;
            }
            passed = 0;
            let Ok(node) = u32::try_from(reader.cur().offset / UNIT) else {
                // A file of 32 GB: what begins here is searched without fingers.
                return Ok(Progress::Done);
            };
            if fingers.keys.bytes.len() + reader.cur_key().len() > MOST_KEY_BYTES {
                *fingers = Fingers::new(fingers.order, list + 1);
                return Ok(Progress::More);
            }
            fingers.push(reader.cur_key(), node);
        }
        Ok(Progress::More)
    }
}
