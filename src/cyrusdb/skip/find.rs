//! Searches for one key.

use super::header::SkipHeader;
use super::node::{Layout, NodeKind};
use super::position::Edge;
use super::reader::SnapshotReader;
use super::sparse_index::SparseIndex;
use super::window::Scratch;
use crate::cyrusdb::error::Result;
use crate::cyrusdb::source::ByteSource;

/// Result of a search for one key.
#[derive(Debug, PartialEq, Eq)]
pub enum KeySearch<V> {
    /// The value.
    Value(V),
    /// There is no such key at this header's end.
    Absent,
    /// The search has met two neighbours that prove that the file is in the other order.
    OtherOrder,
    /// The finger at which the search began names another record than before: the file has been
    /// overwritten, and everything cached of it is worthless.
    Moved,
}

impl<V> KeySearch<V> {
    /// Converts the value.
    pub fn map<T>(self, take: impl FnOnce(V) -> T) -> KeySearch<T> {
        match self {
            KeySearch::Value(value) => KeySearch::Value(take(value)),
            KeySearch::Absent => KeySearch::Absent,
            KeySearch::OtherOrder => KeySearch::OtherOrder,
            KeySearch::Moved => KeySearch::Moved,
        }
    }
}

impl<S: ByteSource + ?Sized> SnapshotReader<'_, S> {
    /// Searches for `key`. The index, if any, must have been followed to the end of this reader's header
    /// or further; it is used only if it is in the same order.
    pub fn find(&mut self, key: &[u8], index: Option<&SparseIndex>) -> Result<KeySearch<&[u8]>> {
        self.scratch.found_at = 0;
        let end = self.snapshot.header.end;
        if let Some(offset) = index.and_then(|index| index.cached_position(key, end))
            && self.is_at(offset, key)?
        {
            return Ok(KeySearch::Value(self.ahead_value()?));
        }
        let start = index.filter(|index| index.order() == self.order).and_then(|index| {
            let SkipHeader { layout, end, .. } = self.snapshot.header;
            index.start(key, end, layout == Layout::Twoskip, &mut self.scratch.start_key)
        });
        if let Some(start) = start.filter(|start| start.is_wanted) {
            if !self.is_at(start.offset, key)? {
                return Ok(KeySearch::Moved);
            }
            self.scratch.found_at = start.offset;
            return Ok(KeySearch::Value(self.ahead_value()?));
        }
        match self.position(key, start)? {
            Edge::At { equal: true, deleted: false } => {
                self.scratch.found_at = self.scratch.ahead.offset;
                Ok(KeySearch::Value(self.ahead_value()?))
            }
            Edge::OtherOrder => Ok(KeySearch::OtherOrder),
            Edge::Moved => Ok(KeySearch::Moved),
            // The keys on the way were compared without their checksums. If a damaged key has misled the
            // search, it is now one of the two around the gap.
            edge => {
                self.check_tail()?;
                if edge != Edge::End {
                    self.ahead_value()?;
                }
                Ok(KeySearch::Absent)
            }
        }
    }

    /// Whether the record at `offset` has this key; it is then `ahead`.
    fn is_at(&mut self, offset: u64, key: &[u8]) -> Result<bool> {
        // Most records are shorter.
        const MOST: usize = 256;
        let len = MOST.min(usize::try_from(self.snapshot.header.end - offset).unwrap_or(0));
        self.scratch.main.load(self.snapshot.source, offset, len)?;
        self.look(offset)?;
        let Scratch { main, side, ahead, .. } = &mut *self.scratch;
        Ok(ahead.kind == NodeKind::Record
            && Scratch::key(main, side, &self.snapshot, ahead)? == key)
    }
}
