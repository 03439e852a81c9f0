//! Parsing and encoding of lines and strings (RFC 3656 section 3, which is based on ACAP).
//!
//! A response is a line, but a string in it may be a literal, `{n}` or `{n+}`: n arbitrary bytes,
//! after which the line continues. A response is parsed only once it is complete, in one piece of
//! memory. Until then the missing part is recorded, so that a response that arrives byte by byte is
//! not parsed again for each byte. A limit is checked against the announced length before anything
//! is stored. A string of a record above its limit is skipped, so that one such record does not
//! block the rest of the list.

use std::borrow::Cow;
use std::io::Write;

use memchr::{memchr, memchr2};

/// Maximum length of a mailbox name on the wire, in bytes. Cyrus' own limit is 490 to 510.
pub const MAX_NAME: usize = 4096;
/// Maximum length of `server!partition`, in bytes.
pub const MAX_LOCATION: usize = 4096;
/// Maximum length of an ACL, in bytes.
pub const MAX_ACL: usize = 1 << 20;
/// Maximum length of a string of a record that is skipped, in bytes.
pub const MAX_SKIPPED: usize = 64 << 20;
/// Maximum length of a line, in bytes without its literals.
pub const MAX_LINE: usize = 64 * 1024;
/// Maximum length of a line before the login is over (banners, SASL challenges), in bytes.
pub const MAX_LOGIN_LINE: usize = 8 * 1024;

/// Capacity above which a drained buffer is freed, in bytes.
const KEEP: usize = 256 * 1024;

/// Violation of the MUPDATE syntax. The beginning of the next line is unknown after it, so the
/// connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The line does not end within the limit, in bytes.
    #[error("a line of more than {0} bytes")]
    LineTooLong(usize),
    /// A string exceeds its limit, in bytes.
    #[error("a string of more than {0} bytes")]
    StringTooLong(usize),
    /// A string is missing.
    #[error("a line with too few strings")]
    NoString,
    /// A quoted string is not closed in its line.
    #[error("a quoted string without its end")]
    Unclosed,
    /// The length of a literal is not a number in braces.
    #[error("a literal without a length")]
    BadLiteral,
    /// Data follow the last string of the line.
    #[error("a line with too many strings")]
    Surplus,
}

/// Input needed before parsing can continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// This number of bytes, counted from the beginning of the response.
    Bytes(usize),
    /// The end of the line that begins at `line`. The bytes up to `seen` have been searched.
    Newline { line: usize, seen: usize },
    /// The end of a skipped literal at `at`, of which `left` bytes are missing.
    Skipped { at: usize, left: usize },
}

/// Reason why parsing stopped.
#[derive(Debug)]
pub(super) enum Stop {
    More(Wanting),
    Bad(WireError),
}

/// Opaque [`Wanted`] for other modules.
#[derive(Debug)]
pub(super) struct Wanting(Wanted);

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Stop::Bad(error)
    }
}

/// Received bytes that are not parsed yet: at most one incomplete response and the piece pushed
/// last, if all complete responses are taken before the next push.
#[derive(Debug)]
pub struct Input {
    bytes: Vec<u8>,
    /// Offset of the first byte not yet parsed.
    start: usize,
    wanted: Wanted,
    max_line: usize,
    /// Offsets of skipped literals, counted as in [`Wanted`].
    skipped: Vec<usize>,
    /// Whether a literal must be skipped now.
    again: bool,
}

const FRESH: Wanted = Wanted::Newline { line: 0, seen: 0 };

impl Input {
    /// Creates an input with lines of at most `max_line` bytes.
    pub fn new(max_line: usize) -> Self {
        let (bytes, skipped) = (Vec::new(), Vec::new());
        Self { bytes, start: 0, wanted: FRESH, max_line, skipped, again: false }
    }

    pub(super) fn set_max_line(&mut self, max_line: usize) {
        self.max_line = max_line;
    }

    /// Takes received bytes.
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

    /// Skips input after [`next`](Self::next) has returned nothing. Returns whether to call it again
    /// at once.
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

    /// Whether all input is parsed.
    pub fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }

    /// Discards the remaining input.
    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
        self.start = 0;
        self.wanted = FRESH;
        self.skipped.clear();
        self.again = false;
    }

    /// Parses one response, once it is complete.
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
                // `again` skips the bytes that have arrived.
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

/// Parsing position in a response.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    max_line: usize,
    skipped: &'a [usize],
    is_long: bool,
}

impl<'a> Cursor<'a> {
    /// Whether a [`long_string`](Self::long_string) exceeded its limit.
    pub(super) fn is_long(&self) -> bool {
        self.is_long
    }

    /// Parses a space and a string. A string longer than `max`, but not than [`MAX_SKIPPED`], is
    /// returned empty, and [`is_long`](Self::is_long) is set.
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

    /// Returns the offset and length of the literal's content.
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
        // Lengths above the limits were refused before, so nothing overflows.
        let mut content = self.at + line.len();
        content += if self.bytes.get(content) == Some(&b'\r') { 2 } else { 1 };
        Ok((content, length))
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Returns the rest of the line without its CR LF (LF alone is accepted), and does not consume
    /// it.
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

    /// Skips the rest of the line and its end.
    pub(super) fn skip_line(&mut self) -> Result<(), Stop> {
        self.at += self.line()?.len();
        self.at += if self.rest().first() == Some(&b'\r') { 2 } else { 1 };
        Ok(())
    }

    /// Consumes the end of the line. Other bytes before it are an error.
    pub(super) fn end(&mut self) -> Result<(), Stop> {
        if !self.line()?.trim_ascii().is_empty() {
            return Err(WireError::Surplus.into());
        }
        self.skip_line()
    }

    /// Parses a space and a string: quoted, a literal or bare.
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

    /// Parses `{n}` or `{n+}`, the end of the line, and n bytes.
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

/// Parses a number of bytes. On overflow it returns the maximum, which exceeds every limit.
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

/// Parses the quoted string at the beginning of `line`. Returns it with its length in the line.
/// `None`: it does not end. RFC 3656 has no escapes; ACAP, to which it refers, has `\"` and `\\`.
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

/// Appends a string as a client may send it: quoted if it needs no escape, otherwise as `{n+}`.
pub(super) fn push_string(string: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if string.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(string);
        out.push(b'"');
    } else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{{{}+}}\r\n", string.len());
        out.extend_from_slice(string);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_in_single_bytes_is_not_parsed_again_for_each() {
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
    fn memory_is_limited_to_one_response_and_freed() {
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
    fn announced_literal_allocates_nothing() {
        let mut input = Input::new(MAX_LINE);
        input.push(format!(" {{{MAX_ACL}+}}\r\n").as_bytes());
        assert_eq!(input.next(|cursor| cursor.string(MAX_ACL).map(|acl| acl.len())), Ok(None));
        assert!(input.bytes.capacity() < 100);
    }

    #[test]
    fn overflowing_number_exceeds_every_limit() {
        assert_eq!(number(b"18446744073709551616"), Some(usize::MAX));
        assert_eq!(number(b"00000000000000000000000000000000007"), Some(7));
        assert_eq!((number(b""), number(b"-1"), number(b"0x1")), (None, None, None));
    }
}
