//! The notation of record values since Cyrus 2.5: `%(T er P default S be1 A %(jane lrs))`.
//!
//! ```text
//! kvlist = "%(" [ key SP item *( SP key SP item ) ] ")"
//! list   = "("  [ item *( SP item ) ] ")"
//! item   = kvlist / list / string            ; by its first byte
//! string = DQUOTE *( any but DQUOTE and "\" / "\" any ) DQUOTE
//!        / "{" 1*DIGIT ["+"] "}" CRLF <that number of bytes>
//!        / bare            ; up to the next SP; `)` at its end belong to the lists around it
//! ```
//!
//! (Cyrus `imap/dlist.c`, `_parsesax` and `_parseitem`.) A lookup needs two or three fields of one
//! record: [`DlistReader`] reads item by item and allocates nothing for skipped items.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// Maximum depth of nesting. Cyrus writes three levels (the history of an `I` record).
pub const MAX_DEPTH: u32 = 8;

/// Offset of and reason for a syntax error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct Malformed {
    /// Offset in the value, in bytes.
    pub at: usize,
    /// Reason.
    pub what: &'static str,
}

/// A string as it stands in the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text<'a> {
    /// Bytes without delimiters.
    Bare(&'a [u8]),
    /// Bytes between the double quotes, with their backslashes.
    Quoted(&'a [u8]),
    /// The bytes of a literal.
    Literal(&'a [u8]),
}

impl<'a> Text<'a> {
    /// Whether it is the bare word `NIL`, which means "no value".
    #[inline(always)]
    pub fn is_nil(self) -> bool {
        self == Text::Bare(b"NIL")
    }

    /// Returns the unescaped bytes; allocates only if there was a backslash.
    #[inline(always)]
    pub fn bytes(self) -> Cow<'a, [u8]> {
        match self {
            Text::Bare(raw) | Text::Literal(raw) => Cow::Borrowed(raw),
            Text::Quoted(raw) => unescaped(raw),
        }
    }
}

/// Removes the backslashes from the bytes of a quoted string.
fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\\', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut meant = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'\\' => meant.extend(rest.next()),
            byte => meant.push(byte),
        }
    }
    Cow::Owned(meant)
}

/// Type of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// `%(key item …)`.
    Map,
    /// `(item …)`.
    List,
    /// A string.
    Text,
}

/// Reads a value from left to right.
///
/// An item is due at the beginning, and after [`key`](DlistReader::key) or [`more`](DlistReader::more)
/// found one. Then exactly one of [`enter_map`](DlistReader::enter_map), [`enter_list`](DlistReader::enter_list),
/// [`text`](DlistReader::text) and [`skip`](DlistReader::skip) comes next.
#[derive(Debug)]
pub struct DlistReader<'a> {
    rest: &'a [u8],
    length: usize,
    depth: u32,
    /// The list that was entered has had no element yet.
    first: bool,
}

impl<'a> DlistReader<'a> {
    /// Returns a reader of one whole value.
    pub fn new(value: &'a [u8]) -> Self {
        Self { rest: value, length: value.len(), depth: 0, first: false }
    }

    /// Returns the type of the next item.
    #[inline]
    pub fn kind(&self) -> ItemKind {
        match self.rest.first() {
            Some(b'%') => ItemKind::Map,
            Some(b'(') => ItemKind::List,
            _ => ItemKind::Text,
        }
    }

    /// Enters a kvlist: [`key`](DlistReader::key) comes next.
    pub fn enter_map(&mut self) -> Result<(), Malformed> {
        match self.rest.strip_prefix(b"%(") {
            Some(rest) => self.enter(rest),
            None => Err(self.malformed("`%(` expected")),
        }
    }

    /// Enters a list: [`more`](DlistReader::more) comes next.
    pub fn enter_list(&mut self) -> Result<(), Malformed> {
        match self.rest.strip_prefix(b"(") {
            Some(rest) => self.enter(rest),
            None => Err(self.malformed("`(` expected")),
        }
    }

    /// Returns the next key of a kvlist, whose item is then due; `None` at the end of the kvlist, which is
    /// left.
    #[inline(always)]
    pub fn key(&mut self) -> Result<Option<Text<'a>>, Malformed> {
        if !self.more()? {
            return Ok(None);
        }
        let key = self.text()?;
        match self.rest.split_first() {
            Some((b' ', rest)) => self.rest = rest,
            _ => return Err(self.malformed("a space expected after a key")),
        }
        Ok(Some(key))
    }

    /// Whether an item of a list is due; if not, the list is left.
    #[inline(always)]
    pub fn more(&mut self) -> Result<bool, Malformed> {
        let first = std::mem::replace(&mut self.first, false);
        match self.rest.split_first() {
            Some((b')', rest)) if self.depth > 0 => {
                self.rest = rest;
                self.depth -= 1;
                Ok(false)
            }
            _ if first => Ok(true),
            Some((b' ', rest)) => {
                self.rest = rest;
                Ok(true)
            }
            _ => Err(self.malformed("a space or `)` expected")),
        }
    }

    /// Returns an item that is a string.
    #[inline(always)]
    pub fn text(&mut self) -> Result<Text<'a>, Malformed> {
        match self.rest.first() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal(),
            _ => self.bare(),
        }
    }

    /// Skips an item of any type.
    pub fn skip(&mut self) -> Result<(), Malformed> {
        // As deep as the lists are nested, which `enter` bounds.
        match self.kind() {
            ItemKind::Text => self.text().map(drop),
            ItemKind::Map => {
                self.enter_map()?;
                while self.key()?.is_some() {
                    self.skip()?;
                }
                Ok(())
            }
            ItemKind::List => {
                self.enter_list()?;
                while self.more()? {
                    self.skip()?;
                }
                Ok(())
            }
        }
    }

    /// Checks that nothing follows the outermost item.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("something after the end")) }
    }

    fn enter(&mut self, rest: &'a [u8]) -> Result<(), Malformed> {
        if self.depth == MAX_DEPTH {
            return Err(self.malformed("nested too deep"));
        }
        self.rest = rest;
        self.depth += 1;
        self.first = true;
        Ok(())
    }

    #[cold]
    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { at: self.length - self.rest.len(), what }
    }

    #[inline(always)]
    fn bare(&mut self) -> Result<Text<'a>, Malformed> {
        let mut end = self.rest.iter().position(|byte| *byte == b' ').unwrap_or(self.rest.len());
        while end > 0 && self.rest[end - 1] == b')' {
            end -= 1;
        }
        if end == 0 {
            return Err(self.malformed("a string expected"));
        }
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Text::Bare(text))
    }

    fn quoted(&mut self) -> Result<Text<'a>, Malformed> {
        let inside = self.rest.get(1..).unwrap_or_default();
        let mut from = 0;
        while let Some(found) = inside.get(from..).and_then(|tail| memchr2(b'"', b'\\', tail)) {
            let found = from + found;
            if inside[found] == b'"' {
                self.rest = &inside[found + 1..];
                return Ok(Text::Quoted(&inside[..found]));
            }
            from = found + 2;
        }
        Err(self.malformed("a quoted string without an end"))
    }

    fn literal(&mut self) -> Result<Text<'a>, Malformed> {
        let inside = self.rest.get(1..).unwrap_or_default();
        let digits = inside.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, inside) = inside.split_at(digits);
        let inside = inside.strip_prefix(b"+").unwrap_or(inside);
        let Some(inside) = inside.strip_prefix(b"}\r\n") else {
            return Err(self.malformed("a literal begins {n} or {n+} and CR LF"));
        };
        let length = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        let Some((text, rest)) = length.and_then(|length| inside.split_at_checked(length)) else {
            return Err(self.malformed("a literal longer than the value"));
        };
        self.rest = rest;
        Ok(Text::Literal(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Formats a value in one line: `M(`, `L(`, `key:`, `[value]`, `)`.
    fn format_items(value: &[u8]) -> Result<String, Malformed> {
        fn item(reader: &mut DlistReader<'_>, all: &mut String) -> Result<(), Malformed> {
            match reader.kind() {
                ItemKind::Text => {
                    all.push_str(&format!("[{}]", reader.text()?.bytes().escape_ascii()));
                    return Ok(());
                }
                ItemKind::List => {
                    reader.enter_list()?;
                    all.push_str("L(");
                    while reader.more()? {
                        item(reader, all)?;
                    }
                }
                ItemKind::Map => {
                    reader.enter_map()?;
                    all.push_str("M(");
                    while let Some(key) = reader.key()? {
                        all.push_str(&format!("{}:", key.bytes().escape_ascii()));
                        item(reader, all)?;
                    }
                }
            }
            all.push(')');
            Ok(())
        }

        let mut reader = DlistReader::new(value);
        let mut all = String::new();
        item(&mut reader, &mut all)?;
        reader.finish()?;
        Ok(all)
    }

    /// Skips a value. Skipping must find the same errors as reading.
    fn skipped(value: &[u8]) -> Result<(), Malformed> {
        let mut reader = DlistReader::new(value);
        reader.skip()?;
        reader.finish()
    }

    #[test]
    fn values_of_cyrus_are_read() {
        let table: &[(&[u8], &str)] = &[
            (
                b"%(T er P default S be1.example.com M 1795434610 A %(jane lrs))",
                "M(T:[er]P:[default]S:[be1.example.com]M:[1795434610]A:M(jane:[lrs]))",
            ),
            (b"%(A %() P part2)", "M(A:M()P:[part2])"),
            (b"%(T e N \"user\x1fjane\" H ())", "M(T:[e]N:[user\\x1fjane]H:L())"),
            (
                b"%(H (%(N a.b M 1) %(N c)) A %(\"group:a b\" lrs))",
                "M(H:L(M(N:[a.b]M:[1])M(N:[c]))A:M(group:a b:[lrs]))",
            ),
            (b"%(P {3+}\r\na b S {0}\r\n)", "M(P:[a b]S:[])"),
            (b"%(A %({4}\r\n) (% p))", "M(A:M() (%:[p]))"),
            (b"%(P \"a \\\"q\\\" \\\\ b\" S \"\")", "M(P:[a \\\"q\\\" \\\\ b]S:[])"),
            (b"%(P a)b)", "M(P:[a)b])"),
            (b"bare", "[bare]"),
            (b"()", "L()"),
        ];
        for (value, expected) in table {
            // escape_ascii writes quotes and backslashes of the bytes once more escaped.
            assert_eq!(format_items(value).as_deref(), Ok(*expected), "{}", value.escape_ascii());
            assert_eq!(skipped(value), Ok(()), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn malformed_value_is_an_error_with_its_offset() {
        let table: &[(&[u8], usize)] = &[
            (b"", 0),
            (b"%", 0),
            (b"%x", 0),
            (b"%(", 2),
            (b"%(T", 3),
            (b"%(T)", 3),
            (b"%(T e", 5),
            (b"%(T  e)", 4),
            (b"%(T e )", 6),
            (b"%(T e  P x)", 6),
            (b"%(T e) ", 6),
            (b"%(T e))", 6),
            (b"%(T \"e)", 4),
            (b"%(T \"e\\", 4),
            (b"%(T \"e\"x)", 7),
            (b"%(T {4}\r\nab)", 4),
            (b"%(T {3}\nabc)", 4),
            (b"%(T {}\r\n)", 4),
            (b"%(T {99999999999999999999999}\r\na)", 4),
            (b"%(T {-1}\r\na)", 4),
            (b")", 0),
        ];
        for (value, at) in table {
            let error = format_items(value).expect_err(&value.escape_ascii().to_string());
            assert_eq!(error.at, *at, "{}: {error}", value.escape_ascii());
            assert_eq!(skipped(value), Err(error));
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| [b"(".repeat(depth), b")".repeat(depth)].concat();
        assert!(format_items(&nested(MAX_DEPTH as usize)).is_ok());
        assert_eq!(format_items(&nested(9)).unwrap_err().what, "nested too deep");
        assert_eq!(format_items(&nested(100_000)).unwrap_err().at, 8);
    }

    #[test]
    fn whole_item_can_be_skipped() {
        let mut reader = DlistReader::new(b"%(H (%(P old) x) P new)");
        reader.enter_map().unwrap();
        assert_eq!(reader.key(), Ok(Some(Text::Bare(b"H"))));
        reader.skip().unwrap();
        assert_eq!(reader.key(), Ok(Some(Text::Bare(b"P"))));
        reader.skip().unwrap();
        assert_eq!(reader.key(), Ok(None));
        reader.finish().unwrap();
    }

    #[test]
    fn nil_is_bare_only() {
        assert!(Text::Bare(b"NIL").is_nil());
        assert!(!Text::Quoted(b"NIL").is_nil() && !Text::Bare(b"nil").is_nil());
    }
}
