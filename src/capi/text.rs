//! C strings: input, and output into the caller's buffer.

#![expect(unsafe_code, reason = "strings of C are bare pointers; this is the fence")]

use std::ffi::{CStr, CString, c_char};

/// Returns the bytes of a C string; `None`: NULL.
///
/// # Safety
///
/// `text` is NULL, or points to a string that ends with NUL and stays as it is for `'a`.
pub(super) unsafe fn bytes<'a>(text: *const c_char) -> Option<&'a [u8]> {
    if text.is_null() {
        return None;
    }
    // SAFETY: guaranteed by the caller.
    Some(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// Copies the part of a text that fits, ended by NUL; nothing if there is no buffer. Never ends in the middle
/// of a character.
///
/// # Safety
///
/// `buffer` is NULL, or points to `size` bytes that may be written to.
pub(super) unsafe fn copy(text: &str, buffer: *mut c_char, size: usize) {
    let Some(room) = size.checked_sub(1).filter(|_| !buffer.is_null()) else { return };
    let fits = (0..=room.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    // SAFETY: `fits` is below `size` and within the text; the two do not overlap, since our text is not
    // the caller's buffer.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, fits);
        *buffer.add(fits) = 0;
    }
}

/// Returns a text as one line of a mail log.
pub(super) fn line(text: &str) -> CString {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    CString::new(words.join(" ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn text_of_many_lines_becomes_one_log_line() {
        assert_eq!(&*line("TOML error\n  |\n1 | a%s\0b\t"), c"TOML error | 1 | a%s b");
    }
}
