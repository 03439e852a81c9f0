//! The bytes of twom, an engine of Cyrus 3.13.1 and later (`lib/twom.c`, format version 1). All
//! integers are little-endian; checksums are the low 32 bits of XXH3-64, or 0 in a file without.
//!
//! SkipHeader, 96 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 16 | magic |
//! | 16 | 16 | UUID, kept across repacks |
//! | 32 | 4 | version, 1 |
//! | 36 | 4 | flags: bit 0 dirty, 27 no checksums, 28 XXH3, 29 foreign checksum, 30 foreign order |
//! | 40 | 8 | generation: 1 when created, one more with each repack |
//! | 48 | 8 | live records |
//! | 56 | 8 | commits |
//! | 64 | 8 | bytes that superseded records waste |
//! | 72 | 8 | repack size |
//! | 80 | 8 | current size: the end of the last committed transaction |
//! | 88 | 4 | highest level seen |
//! | 92 | 4 | checksum of the bytes before |
//!
//! Records, aligned to 8; byte 0 is the type, byte 1 the level L:
//!
//! | type | | between the first two bytes and the pointers | pointers at |
//! |---|---|---|---|
//! | 1 | dummy, L = 31 | | 8 |
//! | 2 | add | key length (2 bytes at 2), value length (4 at 4) | 8 |
//! | 3 | fat add | key length (8 at 8), value length (8 at 16) | 24 |
//! | 4 | replace | as add, ancestor (8 at 8) | 16 |
//! | 5 | fat replace | as fat add, ancestor (8 at 24) | 32 |
//! | 6 | delete | ancestor (8 at 8), checksum of 16 bytes (4 at 16) | |
//! | 7 | commit | start of its transaction (8 at 8), checksum of 16 bytes (4 at 16) | |
//!
//! 1 + L pointers: two alternatives of list 0, then lists 1 to L - 1. Then the checksum of the head
//! and that of the tail, the key, a zero, the value, a zero, zeros up to a multiple of 8.
//!
//! A deleted record stays in its lists; in list 0 alone a delete precedes it. The file is
//! longer than the current size (grown in steps, filled with zeros).

use super::header::SkipHeader;
use super::node::{self, MAX_LEVEL, Node, NodeKind, pad8, word};
use crate::cyrusdb::error::{Error, Result};

/// The first bytes of the file.
pub(crate) const MAGIC: &[u8; 16] = b"\xa1\x02\x8b\x0dtwomfile\0\0\0\0";

/// Length of the header; the dummy follows.
pub(crate) const HEADER: usize = 96;

const DIRTY: u32 = 1;
const XXH3: u32 = 1 << 28;
const FOREIGN_CHECKSUM: u32 = 1 << 29;
const FOREIGN_ORDER: u32 = 1 << 30;

/// Checksum of `bytes` in a file that has checksums or not.
pub(crate) fn checksum(checksums: bool, bytes: &[u8]) -> u32 {
    // Cyrus calls it XXH64 in its names; the function is XXH3.
    if checksums { xxhash_rust::xxh3::xxh3_64(bytes) as u32 } else { 0 }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(word(bytes, at))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(word(bytes, at))
}

/// Reads a header; `bytes` begins with the magic.
pub(crate) fn header(bytes: &[u8]) -> Result<SkipHeader> {
    let Some(bytes) = bytes.get(..HEADER) else {
        return Err(Error::corrupt(bytes.len() as u64, "the file ends within its header"));
    };
    let flags = le32(bytes, 36);
    if flags & FOREIGN_CHECKSUM != 0 {
        return Err(Error::Unsupported("a twom file with checksums of another kind"));
    }
    if flags & FOREIGN_ORDER != 0 {
        return Err(Error::Unsupported("a twom file in another order"));
    }
    let checksums = flags & XXH3 != 0;
    if checksum(checksums, &bytes[..92]) != le32(bytes, 92) {
        return Err(Error::corrupt(92, "checksum of the header does not match"));
    }
    let version = le32(bytes, 32);
    if version != 1 {
        return Err(Error::corrupt(32, format!("twom version {version}: only 1 is known")));
    }
    Ok(SkipHeader {
        layout: node::Layout::Twom { checksums },
        generation: le64(bytes, 40),
        records: le64(bytes, 48),
        repack_size: le64(bytes, 72),
        end: le64(bytes, 80),
        dirty: flags & DIRTY != 0,
    })
}

/// See [`node::Layout::decode`].
pub(crate) fn decode(bytes: &[u8], offset: u64, checksums: bool, node: &mut Node) -> Result<bool> {
    let Some((start, _)) = bytes.split_first_chunk::<8>() else { return Ok(false) };
    let [kind, level, key_0, key_1, value @ ..] = *start;
    let level = usize::from(level);
    // Second element: offset of the word with the ancestor, or with the start of the transaction.
    let (node_kind, target_at, pointers_at, levels) = match kind {
        1 => (NodeKind::Dummy, None, 8, MAX_LEVEL..=MAX_LEVEL),
        2 => (NodeKind::Record, None, 8, 1..=MAX_LEVEL),
        3 => (NodeKind::Record, None, 24, 1..=MAX_LEVEL),
        4 => (NodeKind::Record, Some(8), 16, 1..=MAX_LEVEL),
        5 => (NodeKind::Record, Some(24), 32, 1..=MAX_LEVEL),
        6 => (NodeKind::Delete, Some(8), 16, 0..=0),
        7 => (NodeKind::Commit, Some(8), 16, 0..=0),
        _ => return Err(Error::corrupt(offset, "no record begins here")),
    };
    if !levels.contains(&level) {
        return Err(Error::corrupt(offset, format!("record with an impossible level {level}")));
    }
    let pointers = if level == 0 { 0 } else { level + 1 };
    let covered = pointers_at + 8 * pointers;
    let Some((head, rest)) = bytes.split_at_checked(covered) else { return Ok(false) };
    let Some((sums, _)) = rest.split_first_chunk::<8>() else { return Ok(false) };
    if checksum(checksums, head) != le32(sums, 0) {
        return Err(Error::corrupt(offset, "checksum of the record's head does not match"));
    }
    let (key, value) = match kind {
        2 | 4 => (u16::from_le_bytes([key_0, key_1]).into(), u32::from_le_bytes(value).into()),
        3 | 5 => (le64(head, 8), le64(head, 16)),
        _ => (0, 0),
    };
    let (key_len, value_len) = node::tail_lengths(offset, key, value)?;

    node.offset = offset;
    node.kind = node_kind;
    node.level = level;
    for (next, pointer) in node.next.iter_mut().zip(head[pointers_at..].as_chunks().0) {
        *next = u64::from_le_bytes(*pointer);
    }
    node.target = target_at.map_or(0, |at| le64(head, at));
    let head_len = (covered + 8) as u64;
    node.key_at = offset + head_len;
    node.key_len = key_len;
    node.value_at = node.key_at + key_len as u64 + 1;
    node.value_len = value_len;
    node.tail_len = if node_kind == NodeKind::Record { pad8(key_len + value_len + 2) } else { 0 };
    node.tail_checksum = le32(sums, 4);
    node.len = head_len + node.tail_len as u64;
    Ok(true)
}
