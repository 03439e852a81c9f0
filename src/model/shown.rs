//! Text from outside in messages for people.

use std::fmt::{self, Write as _};

/// Text in one line and without terminal control characters.
///
/// Quotation marks and backslashes stay as they are, unlike in Rust's own forms: they harm no terminal,
/// and names have them.
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

/// Bytes in ASCII; all others are escaped.
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
    fn text_from_outside_is_shown_in_one_line_and_as_it_is() {
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
