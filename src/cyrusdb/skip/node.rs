//! What the records of twoskip and twom have in common.
//!
//! Both files are logs of records that are skip lists at the same time. Lengths, key and value of
//! a record are written once and never change; of its head only the pointer words and their
//! checksum are rewritten in place. [`super::twoskip`] and [`super::twom`] know the bytes;
//! everything above works on [`Node`].

use super::{twom, twoskip};
use crate::cyrusdb::error::{Error, Result};

/// Highest level of a record, and the level of the dummy that begins every list (both formats).
pub(crate) const MAX_LEVEL: usize = 31;

/// More than the head of any record: twom FATREPLACE at level 31 has 296 bytes.
pub(crate) const MAX_HEAD: usize = 304;

/// Key and value together may take this many bytes. Cyrus has no limit; a record of its mailbox
/// list stays below some ten thousand (a long ACL), so more is damage, not data.
pub(crate) const MAX_TAIL: u64 = 16 << 20;

/// Which of the two formats, as far as it matters for finding the way around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `lib/cyrusdb_twoskip.c`, Cyrus 2.5 and later.
    Twoskip,
    /// `lib/twom.c`, Cyrus 3.13.1 and later.
    Twom {
        /// Header flag bit 28; without it all checksums are 0.
        checksums: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Begins every list, holds no key.
    Dummy,
    /// A key and its value.
    Record,
    /// A key is gone. What [`Node::target`] names differs: twoskip the next live record, twom the
    /// record that is gone.
    Delete,
    /// End of a transaction.
    Commit,
}

/// The head of one record.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) offset: u64,
    pub(crate) kind: Kind,
    /// The node is a member of the lists `0..level`.
    pub(crate) level: usize,
    /// `next[0]` and `next[1]` are the two alternatives of list 0; list `i` goes on at
    /// `next[i + 1]`. Words past `level` are left over from another node.
    pub(crate) next: [u64; MAX_LEVEL + 1],
    /// Delete: see [`Kind::Delete`]. Commit: where its transaction begins. twom record: the one of
    /// the same key that it supersedes, or the Delete that had removed that; else 0.
    pub(crate) target: u64,
    /// Where the key stands.
    pub(crate) key_at: u64,
    pub(crate) key_len: usize,
    pub(crate) value_at: u64,
    pub(crate) value_len: usize,
    /// Bytes from `key_at` that `tail_checksum` covers: key, value and padding.
    pub(crate) tail_len: usize,
    pub(crate) tail_checksum: u32,
    /// Length of the whole record.
    pub(crate) len: u64,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            offset: 0,
            kind: Kind::Commit,
            level: 0,
            next: [0; MAX_LEVEL + 1],
            target: 0,
            key_at: 0,
            key_len: 0,
            value_at: 0,
            value_len: 0,
            tail_len: 0,
            tail_checksum: 0,
            len: 0,
        }
    }
}

impl Node {
    /// The two alternatives of list 0.
    pub(crate) fn alternatives(&self) -> [u64; 2] {
        [self.next[0], self.next[1]]
    }

    /// The successor in a list above 0, as it stands in the record.
    pub(crate) fn successor(&self, list: usize) -> u64 {
        self.next.get(list + 1).copied().unwrap_or(0)
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

impl Layout {
    /// Where the dummy stands, right behind the header.
    pub(crate) fn dummy(self) -> u64 {
        match self {
            Layout::Twoskip => twoskip::HEADER as u64,
            Layout::Twom { .. } => twom::HEADER as u64,
        }
    }

    /// Where the first record after the dummy stands.
    pub(crate) fn first(self) -> u64 {
        self.dummy() + 272
    }

    /// No record of either format is shorter than this.
    pub(crate) const MIN_HEAD: usize = 24;

    /// Reads the head that `bytes` begin with, which stand at `offset` in a list that ends at
    /// `end`; checks its checksum and its lengths. `false`: it takes more bytes.
    pub(crate) fn decode(
        self,
        bytes: &[u8],
        offset: u64,
        end: u64,
        node: &mut Node,
    ) -> Result<bool> {
        let whole = match self {
            Layout::Twoskip => twoskip::decode(bytes, offset, node)?,
            Layout::Twom { checksums } => twom::decode(bytes, offset, checksums, node)?,
        };
        if whole && node.len > end.saturating_sub(offset) {
            return Err(Error::corrupt(
                offset,
                format!("record of {} bytes passes the end of the list at {end}", node.len),
            ));
        }
        Ok(whole)
    }

    /// The checksum of a tail.
    pub(crate) fn checksum(self, bytes: &[u8]) -> u32 {
        match self {
            Layout::Twoskip => twoskip::checksum(bytes),
            Layout::Twom { checksums } => twom::checksum(checksums, bytes),
        }
    }

    /// Whether these eight bytes are filler between two records (twoskip since Cyrus 3.2.0).
    pub(crate) fn is_blank(self, word: &[u8]) -> bool {
        self == Layout::Twoskip && word == twoskip::BLANK
    }
}

/// A word out of a header, which is long enough.
pub(crate) fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// `key_len`, `value_len` of a record, within [`MAX_TAIL`].
pub(crate) fn tail_lengths(offset: u64, key: u64, value: u64) -> Result<(usize, usize)> {
    match key.checked_add(value) {
        Some(sum) if sum <= MAX_TAIL => Ok((key as usize, value as usize)),
        _ => Err(Error::corrupt(
            offset,
            format!("key of {key} and value of {value} bytes: more than any mailbox has"),
        )),
    }
}

/// `n` rounded up to a multiple of 8; `n` is far from the end of its type.
pub(crate) fn pad8(n: usize) -> usize {
    n.next_multiple_of(8)
}
