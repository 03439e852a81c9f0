//! Reading the committed state of a twoskip or twom file while Cyrus writes it.
//!
//! The header names the end of the last committed transaction. Everything before that offset is
//! the list as it was committed, if pointers are read by this rule: of the two alternatives of
//! list 0 the larger one below the end counts, since a writer overwrites the one that the last
//! commit does not need; in the lists above, a pointer at or past the end counts as "nothing more
//! here", and the search goes on one list below. That holds while a transaction is under way,
//! after its writer was killed, and after it was rolled back: those lists then still lead along
//! committed records only, in order of their keys.
//!
//! A reader may also be late: its end is then an older one. A record that it finds was in the list at that
//! end, since a record that is linked now and stands before the end was linked then. But it may
//! miss: two transactions on, a record may have lost the alternative that counted, which shows as
//! an error, or, if the second one was rolled back, as the end of the list. So a miss, or the end of a
//! walk, is an answer only if the header is still the same afterwards, and the path still leads to this
//! file. The caller checks both.
//!
//! Bounds: offsets and lengths stay below the end, levels below 32, every step leads to a strictly
//! greater key, and a search makes at most [`MAX_STEPS`](super::position::MAX_STEPS) of them.

use std::cmp::Ordering;

use super::header::SkipHeader;
use super::node::{Layout, MAX_HEAD, Node, NodeKind};
use super::window::{Scratch, Snapshot};
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::order::Order;
use crate::cyrusdb::source::ByteSource;

/// Result of a step along a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListStep {
    /// The next record; in twom its key may be deleted.
    To {
        deleted: bool,
    },
    End,
    /// Two neighbours stand in the other order: that is the order of this file.
    OtherOrder,
}

/// Whether the key of a record is greater than that of the record before. `false`: it would be in the
/// other order.
pub(super) fn ascends(order: Order, from: &Node, key: &[u8], next: &[u8]) -> Result<bool> {
    if from.kind == NodeKind::Dummy || order.compare(key, next) == Ordering::Less {
        Ok(true)
    } else if order.other().compare(key, next) == Ordering::Less {
        Ok(false)
    } else {
        let what = "leads to a key that is not greater: a loop, or a broken list";
        Err(Error::corrupt(from.offset, what))
    }
}

/// Reader of one committed state.
pub struct SnapshotReader<'a, S: ?Sized> {
    pub(super) snapshot: Snapshot<'a, S>,
    pub(super) order: Order,
    pub(super) scratch: &'a mut Scratch,
}

impl<'a, S: ByteSource + ?Sized> SnapshotReader<'a, S> {
    /// Returns a reader of the state that `header` names.
    pub fn new(source: &'a S, header: SkipHeader, order: Order, scratch: &'a mut Scratch) -> Self {
        // Bytes read by an earlier search may have changed since.
        scratch.main.clear();
        scratch.side.clear();
        Self {
            snapshot: Snapshot { source, header, ahead: 0, keys_checked: false },
            order,
            scratch,
        }
    }

    /// Verifies the checksum of every key that is compared, so that a damaged key does not mislead a
    /// search. Cyrus checks a key only together with a value that it returns.
    pub(crate) fn checking_keys(mut self) -> Self {
        self.snapshot.keys_checked = true;
        self
    }

    /// Reads ahead where the records stand in order, for walks along a list.
    pub(crate) fn along_lists(mut self) -> Self {
        self.snapshot.ahead = self.snapshot.header.repack_size;
        self
    }

    /// Reads ahead everywhere, for reading the file as a log.
    pub(crate) fn along_file(mut self) -> Self {
        self.snapshot.ahead = self.snapshot.header.end;
        self
    }

    pub(crate) fn header(&self) -> &SkipHeader {
        &self.snapshot.header
    }

    /// Returns the current node: the one that [`Self::load`], [`Self::step`] or [`Self::step_in_list`]
    /// reached.
    pub(crate) fn cur(&self) -> &Node {
        &self.scratch.cur
    }

    /// Returns the key of the current node.
    pub(crate) fn cur_key(&self) -> &[u8] {
        &self.scratch.key
    }

    /// Reads the node at `offset` into `ahead`.
    pub(super) fn look(&mut self, offset: u64) -> Result<()> {
        self.look_at_head(offset)?;
        if self.snapshot.keys_checked && self.scratch.ahead.kind == NodeKind::Record {
            self.ahead_value()?;
        }
        Ok(())
    }

    fn look_at_head(&mut self, offset: u64) -> Result<()> {
        let header = &self.snapshot.header;
        let layout = header.layout;
        if offset < layout.dummy()
            || !offset.is_multiple_of(8)
            || header.end.saturating_sub(offset) < Layout::MIN_HEAD as u64
        {
            return Err(Error::corrupt(
                self.scratch.cur.offset,
                format!("pointer to {offset}, where no record can be"),
            ));
        }
        let end = header.end;
        let Scratch { main, side, ahead, .. } = &mut *self.scratch;
        // Most records are in the run that the search has begun with.
        if layout.decode(main.run(offset), offset, end, ahead)?
            || layout.decode(side.run(offset), offset, end, ahead)?
        {
            return Ok(());
        }
        let len = MAX_HEAD.min(usize::try_from(end - offset).unwrap_or(MAX_HEAD));
        Scratch::bytes(main, side, &self.snapshot, offset, len)?;
        let bytes = main.get(offset, len).or_else(|| side.get(offset, len)).unwrap_or_default();
        if !layout.decode(bytes, offset, end, ahead)? {
            return Err(Error::corrupt(offset, "record passes the end of the list"));
        }
        Ok(())
    }

    /// Makes `ahead` the current node.
    pub(super) fn advance(&mut self) -> Result<()> {
        let Scratch { main, side, cur, ahead, key, .. } = &mut *self.scratch;
        key.clear();
        key.extend_from_slice(Scratch::key(main, side, &self.snapshot, ahead)?);
        std::mem::swap(cur, ahead);
        Ok(())
    }

    /// Makes `ahead` the current node, if its key is greater than that of the current node. Returns
    /// `false` if it would be greater in the other order only.
    pub(super) fn ascend(&mut self) -> Result<bool> {
        let Scratch { main, side, cur, ahead, key, .. } = &mut *self.scratch;
        let next = Scratch::key(main, side, &self.snapshot, ahead)?;
        Ok(ascends(self.order, cur, key, next)? && {
            self.advance()?;
            true
        })
    }

    /// Goes to the node at `offset`, which is the dummy or a record.
    pub(crate) fn load(&mut self, offset: u64) -> Result<()> {
        self.look(offset)?;
        let expected = if offset == self.snapshot.header.layout.dummy() {
            NodeKind::Dummy
        } else {
            NodeKind::Record
        };
        if self.scratch.ahead.kind != expected {
            return Err(Error::corrupt(offset, "a record of another type is expected here"));
        }
        self.advance()
    }

    /// Returns the successor of the current node in list 0 by the rule of the snapshot; 0 at the end.
    pub(super) fn successor0(&self) -> Result<u64> {
        let (cur, end) = (&self.scratch.cur, self.snapshot.header.end);
        let [a, b] = cur.alternatives();
        match (a < end, b < end) {
            (true, true) => Ok(a.max(b)),
            (true, false) => Ok(a),
            (false, true) => Ok(b),
            (false, false) => Err(Error::corrupt(
                cur.offset,
                "both pointers of the lowest list pass the end of the list",
            )),
        }
    }

    /// Reads the successor in list 0 into `ahead`. Returns `None` at the end, else whether its key is
    /// deleted.
    pub(super) fn look0(&mut self) -> Result<Option<bool>> {
        let next = self.successor0()?;
        if next == 0 {
            return Ok(None);
        }
        self.look(next)?;
        let mut deleted = false;
        if self.scratch.ahead.kind == NodeKind::Delete {
            let target = self.scratch.ahead.target;
            match self.snapshot.header.layout {
                // The next live record, which is the end of the list if there is none.
                Layout::Twoskip if target == 0 => return Ok(None),
                Layout::Twoskip => {}
                // The record whose key is gone; the list goes on behind it.
                Layout::Twom { .. } => deleted = true,
            }
            if target >= next {
                return Err(Error::corrupt(next, "a deletion names a record that came later"));
            }
            self.look(target)?;
        }
        if self.scratch.ahead.kind != NodeKind::Record {
            let at = self.scratch.ahead.offset;
            return Err(Error::corrupt(at, "a record of another type is linked into the list"));
        }
        Ok(Some(deleted))
    }

    /// Reads the successor in a list above 0 into `ahead`. Returns `false` if this state has no more.
    pub(super) fn look_above(&mut self, list: usize) -> Result<bool> {
        let next = self.scratch.cur.successor(list);
        if next == 0 || next >= self.snapshot.header.end {
            return Ok(false);
        }
        self.look(next)?;
        let ahead = &self.scratch.ahead;
        if ahead.kind != NodeKind::Record || ahead.level <= list {
            return Err(Error::corrupt(
                self.scratch.cur.offset,
                format!("list {list} leads to {next}, which is no member of it"),
            ));
        }
        Ok(true)
    }

    /// Checks the tail of `ahead` and returns its value.
    pub(super) fn ahead_value(&mut self) -> Result<&[u8]> {
        std::mem::swap(&mut self.scratch.cur, &mut self.scratch.ahead);
        let result = self.check_tail();
        std::mem::swap(&mut self.scratch.cur, &mut self.scratch.ahead);
        result?;
        let Scratch { main, side, ahead, .. } = &*self.scratch;
        let (at, len) = (ahead.value_at, ahead.value_len);
        Ok(main.get(at, len).or_else(|| side.get(at, len)).unwrap_or_default())
    }

    /// Checks key and value of the current node by their checksum. Its bytes are in memory afterwards.
    pub(crate) fn check_tail(&mut self) -> Result<()> {
        let Scratch { main, side, cur, .. } = &mut *self.scratch;
        let (at, len) = (cur.key_at, cur.tail_len);
        Scratch::bytes(main, side, &self.snapshot, at, len)?;
        let tail = main.get(at, len).or_else(|| side.get(at, len)).unwrap_or_default();
        // twom stores 0 for a tail of no bytes, twoskip the CRC of none, which is 0 too.
        let sum = if tail.is_empty() { 0 } else { self.snapshot.header.layout.checksum(tail) };
        if sum != cur.tail_checksum {
            return Err(Error::corrupt(cur.offset, "checksum of key and value does not match"));
        }
        Ok(())
    }

    /// Goes to the next record in list 0.
    pub(crate) fn step(&mut self) -> Result<ListStep> {
        match self.look0()? {
            None => Ok(ListStep::End),
            Some(deleted) if self.ascend()? => Ok(ListStep::To { deleted }),
            Some(_) => Ok(ListStep::OtherOrder),
        }
    }

    /// Goes to the next record in list 0, whatever the order of the keys. The caller watches for loops.
    pub(crate) fn step_anyhow(&mut self) -> Result<ListStep> {
        match self.look0()? {
            None => Ok(ListStep::End),
            Some(deleted) => {
                self.advance()?;
                Ok(ListStep::To { deleted })
            }
        }
    }

    /// Returns key and value of the current record, after [`Self::check_tail`].
    pub(crate) fn cur_row(&self) -> (&[u8], &[u8]) {
        let Scratch { main, side, cur, key, .. } = &*self.scratch;
        let (at, len) = (cur.value_at, cur.value_len);
        (key, main.get(at, len).or_else(|| side.get(at, len)).unwrap_or_default())
    }

    /// Goes to the next record in this list, or in a lower one while a transaction under way hides this
    /// one.
    pub(crate) fn step_in_list(&mut self, list: usize) -> Result<ListStep> {
        let end = self.snapshot.header.end;
        let mut list = list.min(self.scratch.cur.level.saturating_sub(1));
        while list > 0 && self.scratch.cur.successor(list) >= end {
            list -= 1;
        }
        if list == 0 {
            return self.step();
        }
        if !self.look_above(list)? {
            return Ok(ListStep::End);
        }
        Ok(if self.ascend()? { ListStep::To { deleted: false } } else { ListStep::OtherOrder })
    }

    /// Goes to the record at `offset`, of whatever type, for reading the file as a log. Returns `false`
    /// for eight bytes of filler.
    pub(crate) fn load_log(&mut self, offset: u64) -> Result<bool> {
        let header = self.snapshot.header;
        {
            let Scratch { main, side, .. } = &mut *self.scratch;
            if header.end.saturating_sub(offset) < 8 {
                return Err(Error::corrupt(offset, "no record fits before the end of the list"));
            }
            Scratch::bytes(main, side, &self.snapshot, offset, 8)?;
            let word = main.get(offset, 8).or_else(|| side.get(offset, 8)).unwrap_or_default();
            if header.layout.is_blank(word) {
                return Ok(false);
            }
        }
        self.look(offset)?;
        self.advance()?;
        Ok(true)
    }
}
