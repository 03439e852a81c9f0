//! Finds the position of a key in the list, and walks from there.

use std::cmp::Ordering;

use super::node::MAX_LEVEL;
use super::reader::{ListStep, SnapshotReader, ascends};
use super::window::Scratch;
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::source::ByteSource;

/// Maximum number of records that one search visits. A search through a million records visits some
/// fifty; it can be longer only while a transaction of a great many changes hides the upper lists.
pub const MAX_STEPS: usize = 20_000;

/// Committed record at which a search begins, instead of at the beginning of the list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// Offset of the record; its key is less than the wanted one.
    pub(crate) offset: u64,
    /// Offset of a record whose key is not less than the wanted one; 0 if none is known.
    pub(crate) bound: u64,
    /// The lists above this one lead from the start past the bound.
    pub(crate) list: usize,
    /// Its key is the wanted one, not a lesser one.
    pub(crate) is_wanted: bool,
}

/// Position at which a search ended: all records before have lesser keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// No record follows.
    End,
    /// `ahead` is the first record whose key is not less than the wanted one.
    At { equal: bool, deleted: bool },
    /// Two neighbours stand in the other order: that is the order of this file.
    OtherOrder,
    /// Another record is at the start of the search: the file has been overwritten.
    Moved,
}

/// See [`SnapshotReader::pass`].
enum Pass {
    Less,
    NotLess(Ordering),
    OtherOrder,
}

/// End of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walked {
    /// The last record has been visited.
    ToEnd,
    /// The visitor wanted no more.
    Stopped,
    /// Two neighbours stand in the other order: that is the order of this file.
    OtherOrder,
}

impl<S: ByteSource + ?Sized> SnapshotReader<'_, S> {
    /// Searches for the first record whose key is not less than `wanted`.
    pub(crate) fn position(&mut self, wanted: &[u8], start: Option<Start>) -> Result<Edge> {
        // A record known to be not less than the wanted one, so that no list needs to look at it
        // again; only the lowest one must, to tell what it is.
        let mut bound = 0;
        let mut highest = MAX_LEVEL;
        match start {
            None => self.load(self.snapshot.header.layout.dummy())?,
            Some(start) => {
                self.neighbourhood(&start)?;
                self.load(start.offset)?;
                if self.scratch.key != self.scratch.start_key {
                    return Ok(Edge::Moved);
                }
                bound = start.bound;
                highest = start.list;
            }
        }
        let mut list = self.scratch.cur.level.saturating_sub(1).min(highest);
        // Set if `ahead` is the record at the bound: how its key compares.
        let mut seen = None;
        for _ in 0..MAX_STEPS {
            let mut deleted = false;
            if list > 0 {
                if self.scratch.cur.successor(list) == bound || !self.look_above(list)? {
                    list -= 1;
                    continue;
                }
            } else {
                if let Some(compared) = seen
                    && self.successor0()? == bound
                {
                    return Ok(Edge::At { equal: compared == Ordering::Equal, deleted });
                }
                match self.look0()? {
                    None => return Ok(Edge::End),
                    Some(gone) => deleted = gone,
                }
            }
            match self.pass(wanted)? {
                Pass::Less => {
                    list = self.scratch.cur.level.saturating_sub(1);
                    seen = None;
                }
                Pass::OtherOrder => return Ok(Edge::OtherOrder),
                Pass::NotLess(compared) if list == 0 => {
                    return Ok(Edge::At { equal: compared == Ordering::Equal, deleted });
                }
                Pass::NotLess(compared) => {
                    bound = self.scratch.ahead.offset;
                    seen = Some(compared);
                    list -= 1;
                }
            }
        }
        Err(Error::corrupt(
            self.scratch.cur.offset,
            format!("the search did not end within {MAX_STEPS} records"),
        ))
    }

    /// Makes `ahead` the current node if its key is less than `wanted`.
    fn pass(&mut self, wanted: &[u8]) -> Result<Pass> {
        let order = self.order;
        let Scratch { main, side, cur, ahead, key, .. } = &mut *self.scratch;
        let next = Scratch::key(main, side, &self.snapshot, ahead)?;
        let compared = order.compare(next, wanted);
        if compared != Ordering::Less {
            return Ok(Pass::NotLess(compared));
        }
        match ascends(order, cur, key, next)? {
            true => {
                key.clear();
                key.extend_from_slice(next);
                std::mem::swap(cur, ahead);
                Ok(Pass::Less)
            }
            false => Ok(Pass::OtherOrder),
        }
    }

    /// Reads in one go what a search from `start` is likely to need: after a repack the records
    /// stand in the order of their keys, up to the one that is known to be too far.
    fn neighbourhood(&mut self, start: &Start) -> Result<()> {
        const MOST: u64 = 4096;
        let end = self.snapshot.header.end;
        let want = match start.bound.checked_sub(start.offset) {
            Some(gap) if gap <= MOST => gap,
            _ => MOST / 2,
        };
        let want = want.min(end.saturating_sub(start.offset));
        self.scratch.main.load(
            self.snapshot.source,
            start.offset,
            usize::try_from(want).unwrap_or(0),
        )
    }

    /// Calls `visit` with each key of the list that is not less than `from`, and its value, in order,
    /// until it returns `false`.
    pub fn walk(
        &mut self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Walked> {
        let mut deleted = match self.position(from, None)? {
            Edge::End => return Ok(Walked::ToEnd),
            Edge::OtherOrder | Edge::Moved => return Ok(Walked::OtherOrder),
            Edge::At { deleted, .. } => {
                self.advance()?;
                deleted
            }
        };
        loop {
            if !deleted {
                self.check_tail()?;
                let (key, value) = self.cur_row();
                if !visit(key, value) {
                    return Ok(Walked::Stopped);
                }
            }
            match self.step()? {
                ListStep::To { deleted: gone } => deleted = gone,
                ListStep::End => return Ok(Walked::ToEnd),
                ListStep::OtherOrder => return Ok(Walked::OtherOrder),
            }
        }
    }
}
