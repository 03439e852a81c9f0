//! Display of external text in messages.

use std::fmt::{self, Write as _};

/// Writes text on one line, without terminal control characters.
///
/// Unlike Rust's `Debug`, it does not escape quotation marks and backslashes: they are harmless to a
/// terminal and occur in names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\'' | '"' | '\\' => f.write_char(c),
            c => write!(f, "{}", c.escape_debug()),
        })
    }
}

/// Writes bytes in ASCII; all others are escaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShownBytes<'a>(pub(crate) &'a [u8]);

impl fmt::Display for ShownBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| match b {
            b' '..=b'~' => f.write_char(char::from(*b)),
            b => write!(f, "{}", b.escape_ascii()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_text_is_written_unchanged_on_one_line() {
        for (text, expected) in [
            ("o'brien@example.org says \"no\"", "o'brien@example.org says \"no\""),
            (r"user.m\xc3\xbcller", r"user.m\xc3\xbcller"),
            ("two\nlines\t\r\0\u{1b}[2J\u{202e}", r"two\nlines\t\r\0\u{1b}[2J\u{202e}"),
            ("müller", "müller"),
        ] {
            assert_eq!(Shown(text).to_string(), expected);
        }
        let bytes = ShownBytes("o'brien\\ \"müller\"\n\u{1b}".as_bytes());
        assert_eq!(bytes.to_string(), r#"o'brien\ "m\xc3\xbcller"\n\x1b"#);
    }
}
