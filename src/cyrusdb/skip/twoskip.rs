//! The bytes of twoskip, the default engine of Cyrus 2.5 and later (`lib/cyrusdb_twoskip.c`,
//! format version 1 in every release). All integers are big-endian; checksums are CRC-32 as in
//! zlib.
//!
//! SkipHeader, 64 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 20 | magic |
//! | 20 | 4 | version, 1 |
//! | 24 | 8 | generation: 1 when created, one more with each repack |
//! | 32 | 8 | live records |
//! | 40 | 8 | repack size: the size right after the last repack; up to there in order of keys |
//! | 48 | 8 | current size: the end of the last committed transaction |
//! | 56 | 4 | flags; bit 0 dirty: a transaction is under way, or its writer died |
//! | 60 | 4 | CRC of the bytes before |
//!
//! Record, aligned to 8:
//!
//! | size | field |
//! |---|---|
//! | 1 | type: `=` dummy, `+` record, `-` delete, `$` commit |
//! | 1 | level L: 31 in the dummy, 1 to 31 in a record, 0 in the others |
//! | 2 | length of the key; FFFF: it stands in 8 more bytes |
//! | 4 | length of the value; FFFFFFFF: it stands in 8 more bytes |
//! | 8 (L + 1) | pointers: two alternatives of list 0, then lists 1 to L - 1 |
//! | 4 | CRC of the head up to here |
//! | 4 | CRC of key, value and padding |
//! | | key, value, zeros up to a multiple of 8 |
//!
//! A delete's pointer names the *next live* record, not the one that is gone; a commit's names the
//! beginning of its transaction. Since 3.2.0 words of filler stand between records, so that a head
//! does not cross a 512-byte block.

use super::header::SkipHeader;
use super::node::{self, MAX_LEVEL, Node, NodeKind, pad8, word};
use crate::cyrusdb::error::{Error, Result};

/// The first bytes of the file.
pub(crate) const MAGIC: &[u8; 20] = b"\xa1\x02\x8b\x0dtwoskip file\0\0\0\0";

/// Length of the header; the dummy follows.
pub(crate) const HEADER: usize = 64;

/// Filler between records.
pub(crate) const BLANK: &[u8; 8] = b" BLANK\x07\xa0";

const DIRTY: u32 = 1;

pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(word(bytes, at))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(word(bytes, at))
}

/// Reads a header; `bytes` begins with the magic.
pub(crate) fn header(bytes: &[u8]) -> Result<SkipHeader> {
    let Some(bytes) = bytes.get(..HEADER) else {
        return Err(Error::corrupt(bytes.len() as u64, "the file ends within its header"));
    };
    if checksum(&bytes[..60]) != be32(bytes, 60) {
        return Err(Error::corrupt(60, "checksum of the header does not match"));
    }
    let version = be32(bytes, 20);
    if version != 1 {
        return Err(Error::corrupt(20, format!("twoskip version {version}: only 1 is known")));
    }
    Ok(SkipHeader {
        layout: node::Layout::Twoskip,
        generation: be64(bytes, 24),
        records: be64(bytes, 32),
        repack_size: be64(bytes, 40),
        end: be64(bytes, 48),
        dirty: be32(bytes, 56) & DIRTY != 0,
    })
}

/// See [`node::Layout::decode`].
pub(crate) fn decode(bytes: &[u8], offset: u64, node: &mut Node) -> Result<bool> {
    let Some((start, mut rest)) = bytes.split_first_chunk::<8>() else { return Ok(false) };
    let [kind, level, key_0, key_1, value @ ..] = *start;
    let level = usize::from(level);
    let (kind, levels) = match kind {
        b'=' => (NodeKind::Dummy, MAX_LEVEL..=MAX_LEVEL),
        b'+' => (NodeKind::Record, 1..=MAX_LEVEL),
        b'-' => (NodeKind::Delete, 0..=0),
        b'$' => (NodeKind::Commit, 0..=0),
        _ => return Err(Error::corrupt(offset, "no record begins here")),
    };
    if !levels.contains(&level) {
        return Err(Error::corrupt(offset, format!("record with an impossible level {level}")));
    }
    let mut key = u64::from(u16::from_be_bytes([key_0, key_1]));
    let mut value = u64::from(u32::from_be_bytes(value));
    for (length, escape) in [(&mut key, 0xffff), (&mut value, 0xffff_ffff)] {
        if *length == escape {
            let Some((long, after)) = rest.split_first_chunk() else { return Ok(false) };
            *length = u64::from_be_bytes(*long);
            rest = after;
        }
    }
    let Some((pointers, sums)) = rest.split_at_checked(8 * (level + 1)) else { return Ok(false) };
    let Some((sums, _)) = sums.split_first_chunk::<8>() else { return Ok(false) };
    let [head_sum, tail_sum] =
        [[sums[0], sums[1], sums[2], sums[3]], [sums[4], sums[5], sums[6], sums[7]]];
    let covered = bytes.len() - rest.len() + pointers.len();
    if checksum(&bytes[..covered]) != u32::from_be_bytes(head_sum) {
        return Err(Error::corrupt(offset, "checksum of the record's head does not match"));
    }
    let (key_len, value_len) = node::tail_lengths(offset, key, value)?;

    node.offset = offset;
    node.kind = kind;
    node.level = level;
    for (next, pointer) in node.next.iter_mut().zip(pointers.as_chunks().0) {
        *next = u64::from_be_bytes(*pointer);
    }
    node.target = if level == 0 { node.next[0] } else { 0 };
    let head_len = (covered + 8) as u64;
    node.key_at = offset + head_len;
    node.key_len = key_len;
    node.value_at = node.key_at + key_len as u64;
    node.value_len = value_len;
    node.tail_len = pad8(key_len + value_len);
    node.tail_checksum = u32::from_be_bytes(tail_sum);
    node.len = head_len + node.tail_len as u64;
    Ok(true)
}
