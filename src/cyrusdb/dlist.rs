//! The notation of record values since Cyrus 2.5: `%(T er P default S be1 A %(jane lrs))`.
//!
//! ```text
//! kvlist = "%(" [ key SP item *( SP key SP item ) ] ")"
//! list   = "("  [ item *( SP item ) ] ")"
//! item   = kvlist / list / string            ; by its first byte
//! string = DQUOTE *( any but DQUOTE and "\" / "\" any ) DQUOTE
//!        / "{" 1*DIGIT ["+"] "}" CRLF <so many bytes>
//!        / bare            ; up to the next SP; `)` at its end belong to the lists around it
//! ```
//!
//! (Cyrus `imap/dlist.c`, `_parsesax` and `_parseitem`.) [`Reader`] gives one event after the
//! other and allocates nothing, because a lookup wants two or three of a record's fields.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// Deepest nesting that is read. Cyrus writes three levels (the history of an `I` record).
pub const MAX_DEPTH: u32 = 8;

/// Where and why bytes are not a dlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct Malformed {
    /// Offset in the value, in bytes.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// A string as it stands in the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text<'a> {
    /// Bytes without delimiters.
    Bare(&'a [u8]),
    /// What stands between the double quotes, its backslashes still in it.
    Quoted(&'a [u8]),
    /// The bytes of a literal.
    Literal(&'a [u8]),
}

impl<'a> Text<'a> {
    /// Whether it is the bare word `NIL`, which stands for "no value".
    pub fn is_nil(self) -> bool {
        self == Text::Bare(b"NIL")
    }

    /// The bytes meant; owned only if there was a backslash.
    pub fn bytes(self) -> Cow<'a, [u8]> {
        match self {
            Text::Bare(raw) | Text::Literal(raw) => Cow::Borrowed(raw),
            Text::Quoted(raw) if memchr(b'\\', raw).is_none() => Cow::Borrowed(raw),
            Text::Quoted(raw) => {
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
        }
    }
}

/// What [`Reader::next`] came across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// `%(`: keys and items take turns up to the matching [`Event::Close`].
    OpenMap,
    /// `(`: items follow up to the matching [`Event::Close`].
    OpenList,
    /// A key; its item comes next.
    Key(Text<'a>),
    /// An item that is a string.
    Value(Text<'a>),
    /// `)`.
    Close,
}

/// Reads a value from left to right.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
    /// Bit n is set if the list n levels down from the outside is a kvlist.
    maps: u32,
    expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// An item: at the beginning, and after a key.
    Item,
    /// The first element of a list, or its end.
    FirstOrClose,
    /// A space and the next element, or the end of the list.
    MoreOrClose,
    /// Nothing more.
    End,
}

impl<'a> Reader<'a> {
    /// A reader of one whole value.
    pub fn new(value: &'a [u8]) -> Self {
        Self { bytes: value, at: 0, depth: 0, maps: 0, expect: Expect::Item }
    }

    /// The next event; `None` after the last, which must be the value's last byte too.
    #[expect(clippy::should_implement_trait, reason = "an error ends it; an Iterator would go on")]
    pub fn next(&mut self) -> Result<Option<Event<'a>>, Malformed> {
        let event = match self.expect {
            Expect::Item => self.item()?,
            Expect::FirstOrClose if self.peek() == Some(b')') => self.close(),
            Expect::FirstOrClose => self.element()?,
            Expect::MoreOrClose => match self.peek() {
                Some(b')') => self.close(),
                Some(b' ') => {
                    self.at += 1;
                    self.element()?
                }
                _ => return Err(self.malformed("a space or `)` expected")),
            },
            Expect::End if self.at == self.bytes.len() => return Ok(None),
            Expect::End => return Err(self.malformed("something after the end")),
        };
        Ok(Some(event))
    }

    /// Passes over one item: after a [`Event::Key`], the whole of what belongs to it.
    pub fn skip_item(&mut self) -> Result<(), Malformed> {
        let outside = self.depth;
        loop {
            self.next()?;
            if self.depth <= outside {
                return Ok(());
            }
        }
    }

    /// How far it has come, in bytes.
    pub fn at(&self) -> usize {
        self.at
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }

    fn element(&mut self) -> Result<Event<'a>, Malformed> {
        if self.maps & (1 << self.depth) == 0 {
            return self.item();
        }
        let key = self.text()?;
        if self.peek() != Some(b' ') {
            return Err(self.malformed("a space expected after a key"));
        }
        self.at += 1;
        self.expect = Expect::Item;
        Ok(Event::Key(key))
    }

    fn item(&mut self) -> Result<Event<'a>, Malformed> {
        match self.peek() {
            Some(b'(') => self.open(1, false),
            Some(b'%') => match self.bytes.get(self.at + 1) {
                Some(b'(') => self.open(2, true),
                _ => Err(self.malformed("`(` expected after `%`")),
            },
            _ => {
                let text = self.text()?;
                self.element_done();
                Ok(Event::Value(text))
            }
        }
    }

    fn open(&mut self, width: usize, map: bool) -> Result<Event<'a>, Malformed> {
        if self.depth == MAX_DEPTH {
            return Err(self.malformed("nested too deep"));
        }
        self.at += width;
        self.depth += 1;
        self.maps = self.maps & !(1 << self.depth) | u32::from(map) << self.depth;
        self.expect = Expect::FirstOrClose;
        Ok(if map { Event::OpenMap } else { Event::OpenList })
    }

    /// Only called inside a list: outside of all of them nothing but an item is expected.
    fn close(&mut self) -> Event<'a> {
        self.at += 1;
        self.depth -= 1;
        self.element_done();
        Event::Close
    }

    fn element_done(&mut self) {
        self.expect = if self.depth == 0 { Expect::End } else { Expect::MoreOrClose };
    }

    fn text(&mut self) -> Result<Text<'a>, Malformed> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal(),
            Some(_) => self.bare(),
            None => Err(self.malformed("the value ends here")),
        }
    }

    fn bare(&mut self) -> Result<Text<'a>, Malformed> {
        let rest = self.rest();
        let mut end = memchr(b' ', rest).unwrap_or(rest.len());
        while end > 0 && rest[end - 1] == b')' {
            end -= 1;
        }
        if end == 0 {
            return Err(self.malformed("a string expected"));
        }
        self.at += end;
        Ok(Text::Bare(&rest[..end]))
    }

    fn quoted(&mut self) -> Result<Text<'a>, Malformed> {
        let rest = &self.rest()[1..];
        let mut from = 0;
        while let Some(found) = rest.get(from..).and_then(|tail| memchr2(b'"', b'\\', tail)) {
            let found = from + found;
            if rest[found] == b'"' {
                self.at += found + 2;
                return Ok(Text::Quoted(&rest[..found]));
            }
            from = found + 2;
        }
        Err(self.malformed("a quoted string without an end"))
    }

    fn literal(&mut self) -> Result<Text<'a>, Malformed> {
        let rest = &self.rest()[1..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = rest.split_at(digits);
        let rest = rest.strip_prefix(b"+").unwrap_or(rest);
        let Some(rest) = rest.strip_prefix(b"}\r\n") else {
            return Err(self.malformed("a literal begins {n} or {n+} and CR LF"));
        };
        // The slice is at most as long as the value, so no longer number can be right.
        let length = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        let Some((literal, rest)) = length.and_then(|length| rest.split_at_checked(length)) else {
            return Err(self.malformed("a literal longer than the value"));
        };
        self.at = self.bytes.len() - rest.len();
        Ok(Text::Literal(literal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything in one line: `M(`, `L(`, `k:`, values in brackets, `)`.
    fn shown(value: &[u8]) -> Result<String, Malformed> {
        let mut reader = Reader::new(value);
        let mut all = String::new();
        while let Some(event) = reader.next()? {
            match event {
                Event::OpenMap => all.push_str("M("),
                Event::OpenList => all.push_str("L("),
                Event::Key(text) => all.push_str(&format!("{}:", text.bytes().escape_ascii())),
                Event::Value(text) => all.push_str(&format!("[{}]", text.bytes().escape_ascii())),
                Event::Close => all.push(')'),
            }
        }
        Ok(all)
    }

    #[test]
    fn values_cyrus_wrote_are_read() {
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
            assert_eq!(shown(value).as_deref(), Ok(*expected), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn what_is_not_a_dlist_is_an_error_with_its_place() {
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
            let error = shown(value).expect_err(&value.escape_ascii().to_string());
            assert_eq!(error.at, *at, "{}: {error}", value.escape_ascii());
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| [b"(".repeat(depth), b")".repeat(depth)].concat();
        assert!(shown(&nested(MAX_DEPTH as usize)).is_ok());
        assert_eq!(shown(&nested(9)).unwrap_err().what, "nested too deep");
        assert_eq!(shown(&nested(100_000)).unwrap_err().at, 8);
    }

    #[test]
    fn an_item_can_be_passed_over_whole() {
        let mut reader = Reader::new(b"%(H (%(P old) x) P new)");
        assert_eq!(reader.next(), Ok(Some(Event::OpenMap)));
        assert_eq!(reader.next(), Ok(Some(Event::Key(Text::Bare(b"H")))));
        reader.skip_item().unwrap();
        assert_eq!(reader.next(), Ok(Some(Event::Key(Text::Bare(b"P")))));
        reader.skip_item().unwrap();
        assert_eq!(reader.next(), Ok(Some(Event::Close)));
        assert_eq!(reader.next(), Ok(None));
    }

    #[test]
    fn nil_is_bare_only() {
        assert!(Text::Bare(b"NIL").is_nil());
        assert!(!Text::Quoted(b"NIL").is_nil() && !Text::Bare(b"nil").is_nil());
    }
}
