//! The strings that a decision or a reply of a C program points to.

use std::ffi::{c_char, c_void};
use std::ptr;

/// Strings, each ended by NUL, one after the other in one piece of memory, which is kept for the next
/// ones. A struct of C owns it, as a bare pointer.
#[derive(Debug, Default)]
pub(super) struct Memory {
    bytes: Vec<u8>,
}

/// Where a string begins; pointers are made when all strings are there, since the memory may move
/// until then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start(Option<usize>);

/// Memory above this is given back before the next use, in bytes.
const KEEP: usize = 4096;

impl Memory {
    /// Forgets what was there.
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
    }

    /// Adds a string; control characters, which would end it or forge a line of a log, become `?`.
    pub(super) fn push(&mut self, text: Option<&[u8]>) -> Start {
        text.map_or(Start(None), |text| self.push_pieces([text]))
    }

    /// The same for one that is in pieces.
    pub(super) fn push_pieces<P: AsRef<[u8]>, const N: usize>(&mut self, pieces: [P; N]) -> Start {
        let start = self.bytes.len();
        for piece in pieces {
            self.bytes.extend_from_slice(piece.as_ref());
        }
        for byte in self.bytes.get_mut(start..).unwrap_or_default() {
            *byte = if *byte < 0x20 || *byte == 0x7f { b'?' } else { *byte };
        }
        self.bytes.push(0);
        Start(Some(start))
    }

    /// Where C finds a string, until the next [`Self::begin`] or [`Self::push`].
    pub(super) fn at(&self, start: Start) -> *const c_char {
        let bytes = start.0.and_then(|start| self.bytes.get(start..));
        bytes.map_or(ptr::null(), |bytes| bytes.as_ptr().cast())
    }

    /// As a bare pointer, to be taken back by the module that keeps it.
    pub(super) fn into_raw(self: Box<Self>) -> *mut c_void {
        Box::into_raw(self).cast()
    }
}
