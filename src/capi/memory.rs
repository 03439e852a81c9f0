//! The strings that a decision or a reply of a C program points to.

use std::ffi::{c_char, c_void};
use std::ptr;

/// Strings, each ended by NUL, one after the other in one piece of memory, which is kept for the next
/// ones. A struct of C owns it, as a bare pointer.
#[derive(Debug, Default)]
pub(super) struct Memory {
    bytes: Vec<u8>,
}

/// Memory above this is given back before the next use, in bytes.
const KEEP: usize = 4096;

impl Memory {
    /// Takes these strings, each in pieces, instead of those that were there, and tells where C finds
    /// them until the next call; one without pieces is NULL. Control characters, which would end a
    /// string or forge a line of a log, become `?`.
    pub(super) fn keep<const N: usize>(&mut self, strings: [&[&[u8]]; N]) -> [*const c_char; N] {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        let ranges = strings.map(|pieces| {
            let start = self.bytes.len();
            for piece in pieces {
                self.bytes.extend_from_slice(piece);
            }
            let end = self.bytes.len();
            // In the place of the NUL, which is no character of a string.
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

    /// As a bare pointer, to be taken back by the module that keeps it.
    pub(super) fn into_raw(self: Box<Self>) -> *mut c_void {
        Box::into_raw(self).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_string_ends_early_or_forges_a_line_and_none_begins_in_another() {
        let mut memory = Memory::default();
        memory.keep([&[b"longer than what comes next, and gone by then"]]);
        let strings: [&[&[u8]]; 4] = [&[b"a\0b\x7f"], &[], &[b"c\n", b"", b"d"], &[b""]];
        let places = memory.keep(strings);
        assert_eq!(memory.bytes, b"a?b?\0\0c?d\0\0");
        let at = |place: *const c_char| place.addr().checked_sub(memory.bytes.as_ptr().addr());
        assert_eq!(places.map(at), [Some(0), None, Some(6), Some(10)]);
    }
}
