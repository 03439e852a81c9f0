//! Memory of the strings in a decision, reply or status of a C program.

use std::ffi::{c_char, c_void};
use std::ptr;

/// Strings, each ended by NUL, one after the other in one allocation, which is reused. A struct of C owns it
/// as a bare pointer.
#[derive(Debug, Default)]
pub(super) struct Memory {
    bytes: Vec<u8>,
}

/// Maximum number of bytes kept for the next use.
const KEEP: usize = 4096;

impl Memory {
    /// Replaces the strings by these, each given in pieces, and returns their addresses for C, valid until the
    /// next call; a string without pieces is NULL. Control characters, which would end a string or forge a
    /// log line, become `?`.
    pub(super) fn keep<const N: usize>(&mut self, strings: [&[&[u8]]; N]) -> [*const c_char; N] {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        let ranges = strings.map(|pieces| {
            let start = self.bytes.len();
            for piece in pieces {
                self.bytes.extend_from_slice(piece);
            }
            let end = self.bytes.len();
            // Placeholder of the NUL, which is set after the control characters are replaced.
            self.bytes.push(b' ');
            (start, end)
        });
        for byte in &mut self.bytes {
            *byte = if *byte < 0x20 || *byte == 0x7f { b'?' } else { *byte };
        }
        for (_, end) in ranges {
            self.bytes[end] = 0;
        }
        let mut places = [ptr::null(); N];
        for ((place, pieces), (start, _)) in places.iter_mut().zip(strings).zip(ranges) {
            if !pieces.is_empty() {
                *place = self.bytes[start..].as_ptr().cast();
            }
        }
        places
    }

    /// Turns it into a bare pointer, for the module that owns the struct to take back.
    pub(super) fn into_raw(self: Box<Self>) -> *mut c_void {
        Box::into_raw(self).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_neither_end_early_nor_overlap() {
        let mut memory = Memory::default();
        memory.keep([&[b"longer than what comes next, and gone by then"]]);
        let strings: [&[&[u8]]; 4] = [&[b"a\0b\x7f"], &[], &[b"c\n", b"", b"d"], &[b""]];
        let places = memory.keep(strings);
        assert_eq!(memory.bytes, b"a?b?\0\0c?d\0\0");
        let at = |place: *const c_char| place.addr().checked_sub(memory.bytes.as_ptr().addr());
        assert_eq!(places.map(at), [Some(0), None, Some(6), Some(10)]);
    }
}
