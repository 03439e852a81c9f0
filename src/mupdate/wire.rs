//! Bytes to lines and strings, and strings to bytes (RFC 3656 section 3, on the ground of ACAP).
//!
//! What a server says is a line, but a string in it may be a literal, `{n}` or `{n+}`, which brings
//! any bytes and lets the line go on after them. A response is read only once it is there as a
//! whole, in one piece of memory; what is missing until then is remembered, so that a response that
//! comes byte by byte is not read anew for each of them. A limit is checked against the announced
//! length, before anything is kept for it. The strings of a record may be longer than their limit: they
//! are passed over, so that one such record does not keep the rest of the list away.

use std::borrow::Cow;
use std::io::Write;

use memchr::{memchr, memchr2};

/// Longest mailbox name that is read off the wire, in bytes. Cyrus' own limit is 490 to 510.
pub const MAX_NAME: usize = 4096;
/// Longest `server!partition`, in bytes.
pub const MAX_LOCATION: usize = 4096;
/// Longest ACL, in bytes.
pub const MAX_ACL: usize = 1 << 20;
/// Longest string of a record that is passed over, in bytes.
pub const MAX_SKIPPED: usize = 64 << 20;
/// Longest line, in bytes without its literals.
pub const MAX_LINE: usize = 64 * 1024;
/// Longest line before the login is over, in bytes: banners and SASL challenges.
pub const MAX_LOGIN_LINE: usize = 8 * 1024;

/// Above this a drained buffer gives its memory back, in bytes.
const KEEP: usize = 256 * 1024;

/// Why the bytes are no MUPDATE. Where the next line begins is not known after one of these, so the
/// connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No end of the line within the limit, in bytes.
    #[error("a line of more than {0} bytes")]
    LineTooLong(usize),
    /// A string above its limit, in bytes.
    #[error("a string of more than {0} bytes")]
    StringTooLong(usize),
    /// No string where one belongs.
    #[error("a line with too few strings")]
    NoString,
    /// A quoted string that its line does not close.
    #[error("a quoted string without its end")]
    Unclosed,
    /// The length of a literal is no number in braces.
    #[error("a literal without a length")]
    BadLiteral,
    /// Something after the last string of the line.
    #[error("a line with too many strings")]
    Surplus,
}

/// What has to come before it makes sense to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// This many bytes, counted from the beginning of the response.
    Bytes(usize),
    /// The end of the line that begins at `line`; up to `seen` there is none.
    Newline { line: usize, seen: usize },
    /// The end of the content of a literal of this length at `at`, of which nothing is kept.
    Skipped { at: usize, left: usize },
}

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Stop {
    More(Wanting),
    Bad(WireError),
}

/// [`Wanted`], for this module alone to look into.
#[derive(Debug)]
pub(super) struct Wanting(Wanted);

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Stop::Bad(error)
    }
}

/// What has come and is not read yet: at most one unfinished response and the piece that was pushed
/// last, if everything that is whole is taken out before the next push.
#[derive(Debug)]
pub struct Input {
    bytes: Vec<u8>,
    /// What is before this has been read.
    start: usize,
    wanted: Wanted,
    max_line: usize,
    /// Where the contents of literals were that have been passed over, counted as in [`Wanted`].
    skipped: Vec<usize>,
    /// One has to be passed over now.
    again: bool,
}

const FRESH: Wanted = Wanted::Newline { line: 0, seen: 0 };

impl Input {
    /// Reads lines of at most `max_line` bytes.
    pub fn new(max_line: usize) -> Self {
        let (bytes, skipped) = (Vec::new(), Vec::new());
        Self { bytes, start: 0, wanted: FRESH, max_line, skipped, again: false }
    }

    pub(super) fn set_max_line(&mut self, max_line: usize) {
        self.max_line = max_line;
    }

    /// Takes the next bytes of the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        }
        let mut bytes = bytes;
        if let Wanted::Skipped { at, left } = self.wanted {
            let now = left.min(bytes.len());
            bytes = bytes.get(now..).unwrap_or_default();
            self.wanted = match left - now {
                0 => Wanted::Bytes(at),
                left => Wanted::Skipped { at, left },
            };
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// To be called when [`next`](Self::next) has read nothing. Whether that is to be called again at
    /// once.
    pub(super) fn again(&mut self) -> bool {
        let Wanted::Skipped { at, left } = self.wanted else { return false };
        if !std::mem::take(&mut self.again) {
            return false;
        }
        let from = self.bytes.len().min(self.start + at);
        let there = left.min(self.bytes.len() - from);
        self.bytes.drain(from..from + there);
        self.skipped.push(at);
        self.wanted = match left - there {
            0 => Wanted::Bytes(at),
            left => Wanted::Skipped { at, left },
        };
        left == there
    }

    /// Whether nothing is left to read.
    pub fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }

    /// Throws away what is left and starts anew.
    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
        self.start = 0;
        self.wanted = FRESH;
        self.skipped.clear();
        self.again = false;
    }

    /// Reads one response, if it is there as a whole.
    pub(super) fn next<'a, T>(
        &'a mut self,
        read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Stop>,
    ) -> Result<Option<T>, WireError> {
        if self.wanted == FRESH {
            self.skipped.clear();
        }
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        match self.wanted {
            Wanted::Skipped { .. } => return Ok(None),
            Wanted::Bytes(bytes) if rest.len() < bytes => return Ok(None),
            Wanted::Bytes(_) => {}
            Wanted::Newline { line, seen } => {
                if memchr(b'\n', rest.get(seen..).unwrap_or_default()).is_none() {
                    if rest.len() - line > self.max_line {
                        return Err(WireError::LineTooLong(self.max_line));
                    }
                    self.wanted = Wanted::Newline { line, seen: rest.len() };
                    return Ok(None);
                }
            }
        }
        let skipped = &self.skipped;
        let mut cursor =
            Cursor { bytes: rest, at: 0, max_line: self.max_line, skipped, is_long: false };
        match read(&mut cursor) {
            Ok(value) => {
                self.start += cursor.at;
                self.wanted = FRESH;
                Ok(Some(value))
            }
            Err(Stop::More(Wanting(Wanted::Skipped { at, left }))) => {
                // What has come of it is passed over by `again`.
                self.wanted = Wanted::Skipped { at, left };
                self.again = true;
                Ok(None)
            }
            Err(Stop::More(Wanting(wanted))) => {
                self.wanted = wanted;
                Ok(None)
            }
            Err(Stop::Bad(error)) => Err(error),
        }
    }
}

/// Where reading stands in a response.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    max_line: usize,
    skipped: &'a [usize],
    is_long: bool,
}

impl<'a> Cursor<'a> {
    /// Whether a [`long_string`](Self::long_string) was longer than its limit.
    pub(super) fn is_long(&self) -> bool {
        self.is_long
    }

    /// A space and a string; one that is longer than `max`, but not than [`MAX_SKIPPED`], is empty, and
    /// [`is_long`](Self::is_long) says so.
    pub(super) fn long_string(&mut self, max: usize) -> Result<Cow<'a, [u8]>, Stop> {
        let spaces = self.rest().iter().take_while(|byte| **byte == b' ').count();
        if spaces > 0 && self.rest().get(spaces) == Some(&b'{') {
            self.at += spaces;
            return self.long_literal(max).map(Cow::Borrowed);
        }
        let string = self.string(self.max_line)?;
        if string.len() <= max {
            return Ok(string);
        }
        self.is_long = true;
        Ok(Cow::default())
    }

    fn long_literal(&mut self, max: usize) -> Result<&'a [u8], Stop> {
        let (content, length) = self.announced(MAX_SKIPPED)?;
        if length <= max {
            return self.literal(max);
        }
        if !self.skipped.contains(&content) {
            return Err(Stop::More(Wanting(Wanted::Skipped { at: content, left: length })));
        }
        self.at = content;
        self.is_long = true;
        Ok(&[])
    }

    /// Where the content of the literal begins, and its length.
    fn announced(&self, max: usize) -> Result<(usize, usize), Stop> {
        let line = self.line()?;
        let digits = line
            .strip_prefix(b"{")
            .and_then(|line| line.strip_suffix(b"}"))
            .map(|line| line.strip_suffix(b"+").unwrap_or(line))
            .ok_or(WireError::BadLiteral)?;
        let length = number(digits).ok_or(WireError::BadLiteral)?;
        if length > max {
            return Err(WireError::StringTooLong(max).into());
        }
        // From the number on, no more than the limits: nothing can overflow.
        let mut content = self.at + line.len();
        content += if self.bytes.get(content) == Some(&b'\r') { 2 } else { 1 };
        Ok((content, length))
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The rest of the line without its CR LF (LF alone will do), not yet read over.
    pub(super) fn line(&self) -> Result<&'a [u8], Stop> {
        let rest = self.rest();
        match memchr(b'\n', rest) {
            Some(end) if end > self.max_line => Err(WireError::LineTooLong(self.max_line).into()),
            Some(end) => {
                let line = &rest[..end];
                Ok(line.strip_suffix(b"\r").unwrap_or(line))
            }
            None if rest.len() > self.max_line => Err(WireError::LineTooLong(self.max_line).into()),
            None => {
                Err(Stop::More(Wanting(Wanted::Newline { line: self.at, seen: self.bytes.len() })))
            }
        }
    }

    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Reads over the rest of the line and its end.
    pub(super) fn skip_line(&mut self) -> Result<(), Stop> {
        self.at += self.line()?.len();
        self.at += if self.rest().first() == Some(&b'\r') { 2 } else { 1 };
        Ok(())
    }

    /// The end of the line, and nothing before it.
    pub(super) fn end(&mut self) -> Result<(), Stop> {
        if !self.line()?.trim_ascii().is_empty() {
            return Err(WireError::Surplus.into());
        }
        self.skip_line()
    }

    /// A space and a string: quoted, a literal or bare.
    pub(super) fn string(&mut self, max: usize) -> Result<Cow<'a, [u8]>, Stop> {
        let spaces = self.rest().iter().take_while(|byte| **byte == b' ').count();
        self.at += spaces;
        match self.rest().first() {
            _ if spaces == 0 => {
                self.line()?;
                Err(WireError::NoString.into())
            }
            Some(b'{') => self.literal(max).map(Cow::Borrowed),
            Some(b'"') => self.quoted(max),
            _ => self.bare(max).map(Cow::Borrowed),
        }
    }

    /// `{n}` or `{n+}`, the end of the line, and n bytes.
    pub(super) fn literal(&mut self, max: usize) -> Result<&'a [u8], Stop> {
        let (content, length) = self.announced(max)?;
        match self.bytes.get(content..content + length) {
            Some(bytes) => {
                self.at = content + length;
                Ok(bytes)
            }
            None => Err(Stop::More(Wanting(Wanted::Bytes(content + length)))),
        }
    }

    fn quoted(&mut self, max: usize) -> Result<Cow<'a, [u8]>, Stop> {
        let line = self.line()?;
        let (string, used) = unquote(line).ok_or(WireError::Unclosed)?;
        if string.len() > max {
            return Err(WireError::StringTooLong(max).into());
        }
        self.at += used;
        Ok(string)
    }

    fn bare(&mut self, max: usize) -> Result<&'a [u8], Stop> {
        let line = self.line()?;
        let atom = &line[..memchr(b' ', line).unwrap_or(line.len())];
        if atom.is_empty() {
            return Err(WireError::NoString.into());
        }
        if atom.len() > max {
            return Err(WireError::StringTooLong(max).into());
        }
        self.at += atom.len();
        Ok(atom)
    }
}

/// A number of bytes; so large that no limit is above it where it does not fit.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    let mut number = 0usize;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
    }
    Some(number)
}

/// The quoted string at the beginning of `line`, and how many bytes it takes there. `None`: it does
/// not end. RFC 3656 has no escapes, ACAP, which it refers to, has `\"` and `\\`.
pub(super) fn unquote(line: &[u8]) -> Option<(Cow<'_, [u8]>, usize)> {
    let inner = line.strip_prefix(b"\"")?;
    let first = memchr2(b'"', b'\\', inner)?;
    if inner[first] == b'"' {
        return Some((Cow::Borrowed(&inner[..first]), first + 2));
    }
    let mut string = inner[..first].to_vec();
    let mut bytes = inner.iter().enumerate().skip(first);
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some((Cow::Owned(string), at + 2)),
            b'\\' => string.push(*bytes.next()?.1),
            byte => string.push(byte),
        }
    }
    None
}

/// Appends a string as a client may send it: quoted where that needs no escape, otherwise as `{n+}`.
pub(super) fn push_string(string: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if string.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(string);
        out.push(b'"');
    } else {
        // Writing to a Vec does not fail.
        let _ = write!(out, "{{{}+}}\r\n", string.len());
        out.extend_from_slice(string);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_that_comes_byte_by_byte_is_not_read_anew_for_each_byte() {
        let long = "x".repeat(4000);
        let said = format!("{long} {{4000+}}\r\n{long} {{4000+}}\r\n{long}\r\n");
        let mut input = Input::new(MAX_LINE);
        let mut reads = 0;
        let mut whole = 0;
        for byte in said.as_bytes() {
            input.push(&[*byte]);
            let read = input.next(|cursor| {
                reads += 1;
                cursor.line()?;
                cursor.skip(4000);
                let strings = (cursor.string(4000)?, cursor.string(4000)?);
                cursor.end()?;
                Ok(strings.0.len() + strings.1.len())
            });
            whole += read.unwrap().unwrap_or_default();
        }
        assert_eq!((whole, input.is_empty()), (8000, true));
        assert!(reads < 8, "{reads}");
    }

    #[test]
    fn memory_is_that_of_one_response_and_given_back() {
        let acl = "x".repeat(MAX_ACL);
        let record = format!(" {{{MAX_ACL}+}}\r\n{acl}\r\n");
        let mut input = Input::new(MAX_LINE);
        let mut most = 0;
        for _ in 0..5 {
            for piece in record.as_bytes().chunks(16 * 1024) {
                input.push(piece);
                while input
                    .next(|cursor| {
                        cursor.string(MAX_ACL)?;
                        cursor.end()
                    })
                    .unwrap()
                    .is_some()
                {}
                most = most.max(input.bytes.capacity());
            }
        }
        assert!(most <= 4 * MAX_ACL, "{most}");
        input.push(b" x");
        assert!(input.bytes.capacity() <= KEEP);
    }

    #[test]
    fn nothing_is_kept_for_a_literal_that_is_only_announced() {
        let mut input = Input::new(MAX_LINE);
        input.push(format!(" {{{MAX_ACL}+}}\r\n").as_bytes());
        assert_eq!(input.next(|cursor| cursor.string(MAX_ACL).map(|acl| acl.len())), Ok(None));
        assert!(input.bytes.capacity() < 100);
    }

    #[test]
    fn a_number_that_fits_nowhere_is_larger_than_every_limit() {
        assert_eq!(number(b"18446744073709551616"), Some(usize::MAX));
        assert_eq!(number(b"00000000000000000000000000000000007"), Some(7));
        assert_eq!((number(b""), number(b"-1"), number(b"0x1")), (None, None, None));
    }
}
