//! Heads of records, as twoskip and twom have them in common.
//!
//! Both files are logs of records that are skip lists at the same time. Lengths, key and value of
//! a record are written once and never change; of its head only the pointer words and their
//! checksum are rewritten in place. [`super::twoskip`] and [`super::twom`] decode the bytes;
//! all other modules work on [`Node`].

use crate::cyrusdb::error::{Error, Result};

/// Highest level of a record, and the level of the dummy that begins every list (both formats).
pub(crate) const MAX_LEVEL: usize = 31;

/// Upper bound of the length of a head: twom FATREPLACE at level 31 has 296 bytes.
pub(crate) const MAX_HEAD: usize = 304;

/// Maximum length of key and value together, in bytes. Cyrus has no limit; a record of its mailbox
/// list stays below some ten thousand (a long ACL), so a longer one is damage, not data.
pub(crate) const MAX_TAIL: u64 = 16 << 20;

/// Format of a file, as far as navigation needs it.
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

/// Type of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// Begins every list, holds no key.
    Dummy,
    /// A key and its value.
    Record,
    /// Deletes a key. [`Node::target`] differs: twoskip names the next live record, twom the deleted
    /// record.
    Delete,
    /// Ends a transaction.
    Commit,
}

/// Head of one record.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) offset: u64,
    pub(crate) kind: NodeKind,
    /// The node is a member of the lists `0..level`.
    pub(crate) level: usize,
    /// `next[0]` and `next[1]` are the two alternatives of list 0; list `i` goes on at
    /// `next[i + 1]`. Words past `level` are left over from another node.
    pub(crate) next: [u64; MAX_LEVEL + 1],
    /// Delete: see [`NodeKind::Delete`]. Commit: beginning of its transaction. twom record: the record
    /// of the same key that it supersedes, or the Delete that had removed that; else 0.
    pub(crate) target: u64,
    /// Offset of the key.
    pub(crate) key_at: u64,
    pub(crate) key_len: usize,
    pub(crate) value_at: u64,
    pub(crate) value_len: usize,
    /// Number of bytes from `key_at` that `tail_checksum` covers: key, value and padding.
    pub(crate) tail_len: usize,
    pub(crate) tail_checksum: u32,
    /// Length of the whole record.
    pub(crate) len: u64,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            offset: 0,
            kind: NodeKind::Commit,
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
    /// Returns the two alternatives of list 0.
    pub(crate) fn alternatives(&self) -> [u64; 2] {
        [self.next[0], self.next[1]]
    }

    /// Returns the successor in a list above 0, as it stands in the record.
    pub(crate) fn successor(&self, list: usize) -> u64 {
        self.next.get(list + 1).copied().unwrap_or(0)
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// Returns the word at this place of a header, which is long enough.
pub(crate) fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// Returns `key_len` and `value_len` of a record, within [`MAX_TAIL`].
pub(crate) fn tail_lengths(offset: u64, key: u64, value: u64) -> Result<(usize, usize)> {
    match key.checked_add(value) {
        Some(sum) if sum <= MAX_TAIL => Ok((key as usize, value as usize)),
        _ => Err(Error::corrupt(
            offset,
            format!("key of {key} and value of {value} bytes: more than any mailbox has"),
        )),
    }
}

/// Rounds `n` up to a multiple of 8; `n` is far from the end of its type.
pub(crate) fn pad8(n: usize) -> usize {
    n.next_multiple_of(8)
}
