//! Memory of a search: bytes read from the file, and the records decoded from them.

use super::header::SkipHeader;
use super::node::Node;
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::source::ByteSource;

/// Length of a read where nothing is known of what is needed: the usual record with room to spare.
const SIDE: u64 = 512;

/// Length of a read in a walk through that part of the file that is in order.
const AHEAD: u64 = 64 << 10;

/// Committed state that is read, and how.
pub(super) struct Snapshot<'a, S: ?Sized> {
    pub(super) source: &'a S,
    pub(super) header: SkipHeader,
    /// Up to this offset bytes are read in long runs.
    pub(super) ahead: u64,
    /// No key is used without its checksum.
    pub(super) keys_checked: bool,
}

/// A run of bytes of the file.
#[derive(Default)]
pub(super) struct ReadWindow {
    start: u64,
    len: usize,
    buf: Vec<u8>,
}

impl ReadWindow {
    #[inline]
    pub(super) fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.run(offset).get(..len)
    }

    /// Returns all bytes from `offset` on.
    #[inline]
    pub(super) fn run(&self, offset: u64) -> &[u8] {
        let at = offset.wrapping_sub(self.start) as usize;
        self.buf.get(at..self.len).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        (self.start, self.len) = (0, 0);
    }

    pub(super) fn load<S: ByteSource + ?Sized>(
        &mut self,
        source: &S,
        start: u64,
        want: usize,
    ) -> Result<()> {
        self.len = 0;
        if self.buf.len() < want {
            self.buf.resize(want, 0);
        }
        self.start = start;
        self.len = source.read_at(start, &mut self.buf[..want])?.min(want);
        Ok(())
    }
}

/// Buffers of a search. Reusing them saves allocations.
#[derive(Default)]
pub struct Scratch {
    /// Bytes around the start of a search, or the part that a walk is in.
    pub(super) main: ReadWindow,
    /// The last bytes read outside `main`.
    pub(super) side: ReadWindow,
    /// Record at which the search stands.
    pub(super) cur: Box<Node>,
    /// Record that is looked at next.
    pub(super) ahead: Box<Node>,
    /// Key of `cur`.
    pub(super) key: Vec<u8>,
    /// Key expected at the start of a search.
    pub(super) start_key: Vec<u8>,
    /// Offset of the record that the last search found; 0 if that was known before, or nothing was
    /// found.
    pub(super) found_at: u64,
}

impl Scratch {
    /// Returns the offset of the record that the last search found, if caching it is of use.
    pub(crate) fn found_at(&self) -> Option<u64> {
        Some(self.found_at).filter(|at| *at != 0)
    }

    /// Makes sure that one of the windows has these bytes.
    pub(super) fn bytes<S: ByteSource + ?Sized>(
        main: &mut ReadWindow,
        side: &mut ReadWindow,
        snapshot: &Snapshot<'_, S>,
        offset: u64,
        len: usize,
    ) -> Result<()> {
        if main.get(offset, len).is_some() || side.get(offset, len).is_some() {
            return Ok(());
        }
        let rest = snapshot.header.end.saturating_sub(offset);
        let sequential = offset >= main.start && offset < snapshot.ahead;
        let (window, want) = if sequential { (main, AHEAD) } else { (side, SIDE) };
        let want = want.max(len as u64).min(rest);
        window.load(snapshot.source, offset, usize::try_from(want).unwrap_or(0))?;
        if window.len < len {
            return Err(Error::corrupt(offset, "the file ends within the list"));
        }
        Ok(())
    }

    /// Returns the key of a node.
    pub(super) fn key<'w, S: ByteSource + ?Sized>(
        main: &'w mut ReadWindow,
        side: &'w mut ReadWindow,
        snapshot: &Snapshot<'_, S>,
        node: &Node,
    ) -> Result<&'w [u8]> {
        let (at, len) = (node.key_at, node.key_len);
        Scratch::bytes(main, side, snapshot, at, len)?;
        Ok(main.get(at, len).or_else(|| side.get(at, len)).unwrap_or_default())
    }
}
