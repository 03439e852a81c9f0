//! Dispatch between the two formats.

use super::header::SkipHeader;
use super::node::{Layout, Node};
use super::{twom, twoskip};
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::source::ByteSource;

impl SkipHeader {
    /// Reads and checks the header with one read.
    ///
    /// # Errors
    ///
    /// A checksum that does not match may be that of a header that is just being written.
    pub fn read<S: ByteSource + ?Sized>(source: &S) -> Result<Self> {
        let mut bytes = [0; twom::HEADER];
        let len = source.read_at(0, &mut bytes)?;
        let bytes = &bytes[..len];
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        let header = if bytes.starts_with(twoskip::MAGIC) {
            twoskip::header(bytes)?
        } else if bytes.starts_with(twom::MAGIC) {
            twom::header(bytes)?
        } else {
            return Err(Error::Unknown);
        };
        if header.end < header.layout.first() || !header.end.is_multiple_of(8) {
            return Err(Error::corrupt(
                0,
                format!("the header puts the end of the list at {}", header.end),
            ));
        }
        Ok(header)
    }
}

impl Layout {
    /// Minimum length of a record in both formats.
    pub(crate) const MIN_HEAD: usize = 24;

    /// Returns the offset of the dummy, right behind the header.
    pub(crate) fn dummy(self) -> u64 {
        match self {
            Layout::Twoskip => twoskip::HEADER as u64,
            Layout::Twom { .. } => twom::HEADER as u64,
        }
    }

    /// Returns the offset of the first record after the dummy.
    pub(crate) fn first(self) -> u64 {
        self.dummy() + 272
    }

    /// Decodes the head that `bytes` begin with, which stand at `offset` in a list that ends at
    /// `end`; checks its checksum and its lengths. Returns `false` if it takes more bytes.
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

    /// Returns the checksum of a tail.
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
