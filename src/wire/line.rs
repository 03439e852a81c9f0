//! Protocols with one line per request and answer: Postfix' `tcp:` tables, and OpenSMTPD's maps.
//!
//! ```text
//! get jane+x@example.org            tcp_table(5): words are encoded as in URLs
//! 200 lmtp:inet:be1.example.org:2003
//!
//! host jane+x@example.org           the socket map of OpenSMTPD: MAP KEY, unencoded
//! OK be1.example.org
//! ```
//!
//! Scripts and Exim's `${readsocket}` can use either. A table of the first kind has no name; it is
//! answered from the map [`TABLE`].

use std::borrow::Cow;

use super::framing::{FrameSplitter, SKIP_LIMIT};
use super::socketmap::Reply;

/// Maximum length of a line in bytes with its end, as in tcp_table(5); it applies to both forms of a
/// request.
pub const LINE_LIMIT: usize = 4096;

/// Map that answers `get`.
pub const TABLE: &str = "lmtp";

/// Violation of the line protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// The line does not end.
    #[error("line of more than {SKIP_LIMIT} bytes")]
    TooLong,
    /// A control character, CR included: neither form has any.
    #[error("byte {0:#04x} in a line")]
    Control(u8),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// `get KEY`, decoded.
    Get(Cow<'a, [u8]>),
    /// A `get` or `put` that cannot be served, with its answer.
    Never(Refusal),
    /// Longer than [`LINE_LIMIT`], so the key is no address of ours. The answer must have this form.
    Long(Form),
    /// `MAP KEY`. Without a space the key is empty.
    Map {
        /// Map.
        map: &'a [u8],
        /// Key; it may contain spaces.
        key: &'a [u8],
    },
}

fn control(line: &[u8]) -> Option<u8> {
    line.iter().copied().find(u8::is_ascii_control)
}

/// Reason why a request of tcp_table(5) is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `put`: the daemon is read-only.
    ReadOnly,
    /// The key is not encoded as tcp_table(5) requires, so its meaning is unknown.
    Encoding,
}

impl<'a> Request<'a> {
    /// Parses a line without its end.
    pub fn parse(line: &'a [u8]) -> Self {
        let (map, key) = match memchr::memchr(b' ', line).and_then(|at| line.split_at_checked(at)) {
            Some((map, rest)) => (map, rest.get(1..).unwrap_or_default()),
            None => (line, &[][..]),
        };
        match map {
            b"get" => decoded(key).map_or(Request::Never(Refusal::Encoding), Request::Get),
            b"put" => Request::Never(Refusal::ReadOnly),
            map => Request::Map { map, key },
        }
    }

    /// Returns the form that the answer must have.
    pub fn form(&self) -> Form {
        match self {
            Request::Get(_) | Request::Never(_) => Form::Table,
            Request::Map { .. } => Form::Map,
            Request::Long(form) => *form,
        }
    }
}

/// Decodes `%XX`. `None`: the encoding is invalid.
fn decoded(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if text.contains(&b' ') {
        return None;
    }
    if !text.contains(&b'%') {
        return Some(text.into());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(*bytes.next()?)? << 4 | hex(*bytes.next()?)?,
            other => other,
        });
    }
    Some(out.into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `200 …`, `500 …` and `400 …` of tcp_table(5).
    Table,
    /// `OK …`, `NOTFOUND ` and `TEMP …`, the words of the socketmap.
    Map,
}

impl Form {
    /// Appends an answer as a line. An answer that no client can read becomes temporary, as in
    /// [`Reply::encode_into`].
    pub fn encode_into(self, out: &mut Vec<u8>, reply: &Reply) {
        let (status, text) = reply.payload();
        if self == Form::Map {
            out.extend_from_slice(status.as_bytes());
            out.extend_from_slice(&text);
            out.push(b'\n');
            return;
        }
        let begin = out.len();
        let code = match status {
            "OK " => "200 ",
            "NOTFOUND " => "500 not%20found",
            _ => "400 ",
        };
        out.extend_from_slice(code.as_bytes());
        push_encoded(out, &text);
        if out.len() - begin >= LINE_LIMIT {
            out.truncate(begin);
            out.extend_from_slice(b"400 the%20answer%20is%20too%20long%20for%20a%20tcp%20table");
        }
        out.push(b'\n');
    }
}

impl Refusal {
    /// Appends the answer.
    pub fn encode_into(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            // To an update, 500 means that it was not done; it says nothing about a mailbox.
            Refusal::ReadOnly => b"500 read%20only\n",
            Refusal::Encoding => b"400 the%20key%20is%20not%20encoded%20as%20in%20tcp_table(5)\n",
        });
    }
}

fn push_encoded(out: &mut Vec<u8>, text: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(byte);
        } else {
            let digit = |n: u8| DIGITS.get(usize::from(n)).copied().unwrap_or_default();
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Splits a stream into lines. Pieces may have any size. The first error is permanent. Take all
/// complete lines before the next push; then memory is bounded by [`LINE_LIMIT`] and one piece.
#[derive(Debug)]
pub struct Decoder(FrameSplitter<BadLine>);

impl Default for Decoder {
    fn default() -> Self {
        Decoder(FrameSplitter::new(b"\n", LINE_LIMIT, BadLine::TooLong))
    }
}

impl Decoder {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// Returns the next complete request. `None`: more bytes are needed.
    pub fn next_request(&mut self) -> Option<Result<Request<'_>, BadLine>> {
        let read = |line| match control(line) {
            None => Ok(Request::parse(line)),
            Some(byte) => Err(BadLine::Control(byte)),
        };
        self.0.next(read, |head| {
            Request::Long(if head == *b"get " { Form::Table } else { Form::Map })
        })
    }

    /// Whether the stream ends between two lines.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(key: &[u8]) -> Request<'_> {
        Request::Get(key.into())
    }

    #[test]
    fn both_forms_of_a_request_are_parsed() {
        let map = |map, key| Request::Map { map, key };
        for (line, request) in [
            (&b"get jane+x@example.org"[..], get(b"jane+x@example.org")),
            (b"get %22jane%20doe%22@example.org", get(b"\"jane doe\"@example.org")),
            (b"get 100%25@example.org", get(b"100%@example.org")),
            (b"get %C3%bcser@example.org", get(b"\xc3\xbcser@example.org")),
            (b"get %0Aa", get(b"\na")),
            (b"get *", get(b"*")),
            (b"get ", get(b"")),
            (b"get", get(b"")),
            (b"get a b", Request::Never(Refusal::Encoding)),
            (b"get a%", Request::Never(Refusal::Encoding)),
            (b"get a%2", Request::Never(Refusal::Encoding)),
            (b"get a%2g", Request::Never(Refusal::Encoding)),
            (b"get a%+1", Request::Never(Refusal::Encoding)),
            (b"put a b", Request::Never(Refusal::ReadOnly)),
            (b"host jane@example.org", map(b"host", b"jane@example.org")),
            (b"host \"jane doe\"@example.org", map(b"host", b"\"jane doe\"@example.org")),
            (b"host 100%25@example.org", map(b"host", b"100%25@example.org")),
            (b"GET a", map(b"GET", b"a")),
            (b"host", map(b"host", b"")),
            (b"", map(b"", b"")),
        ] {
            assert_eq!(Request::parse(line), request, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn answer_has_the_form_of_its_request() {
        let ok = |text: &str| Reply::Ok(text.to_owned());
        for (reply, table, map) in [
            (ok("lmtp:inet:b1:24"), "200 lmtp:inet:b1:24\n", "OK lmtp:inet:b1:24\n"),
            (
                ok("error:5.1.1 100% unknown \u{fc}"),
                "200 error:5.1.1%20100%25%20unknown%20%C3%BC\n",
                "OK error:5.1.1 100% unknown \u{fc}\n",
            ),
            (Reply::NotFound, "500 not%20found\n", "NOTFOUND \n"),
            (Reply::Temp("no\nlist".into()), "400 no?list\n", "TEMP no?list\n"),
            (Reply::Temp(String::new()), "400 \n", "TEMP \n"),
        ] {
            for (form, expected) in [(Form::Table, table), (Form::Map, map)] {
                let mut out = b"before\n".to_vec();
                form.encode_into(&mut out, &reply);
                assert_eq!(String::from_utf8_lossy(&out), format!("before\n{expected}"));
            }
        }
        for (data, why) in [("", "an%20empty%20answer"), ("a\nb", "several%20lines")] {
            let mut out = Vec::new();
            Form::Table.encode_into(&mut out, &ok(data));
            let out = String::from_utf8(out).unwrap();
            assert!(out.starts_with("400 ") && out.contains(why), "{out}");
        }
    }

    #[test]
    fn answer_longer_than_postfix_reads_is_temporary() {
        for (length, code) in [(4091, "200"), (4092, "400"), (90_000, "400")] {
            let mut out = Vec::new();
            Form::Table.encode_into(&mut out, &Reply::Ok("x".repeat(length)));
            assert!(out.starts_with(code.as_bytes()) && out.len() <= LINE_LIMIT, "{length}");
            assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        }
        // Each answer by itself, also among pipelined ones.
        let mut out = Vec::new();
        (0..3).for_each(|_| Form::Table.encode_into(&mut out, &Reply::Ok("x".repeat(2000))));
        assert_eq!(out.split(|b| *b == b'\n').filter(|line| line.starts_with(b"200 ")).count(), 3);
    }

    /// Returns owned requests, and the error that ended the stream.
    fn decode<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<String>, Option<BadLine>, bool) {
        let mut decoder = Decoder::default();
        let mut requests = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(next) = decoder.next_request() {
                match next {
                    Ok(request) => requests.push(format!("{request:?}")),
                    Err(error) => {
                        assert_eq!(decoder.next_request(), Some(Err(error)));
                        return (requests, Some(error), false);
                    }
                }
            }
        }
        (requests, None, decoder.is_empty())
    }

    #[test]
    fn lines_are_the_same_at_every_split() {
        let stream = b"get jane%20doe@example.org\nhost a b@example.org\n\nput a b\n";
        let whole = decode([&stream[..]]);
        assert_eq!((whole.0.len(), whole.1, whole.2), (4, None, true));
        for at in 0..stream.len() {
            assert_eq!(decode([&stream[..at], &stream[at..]]), whole, "split at {at}");
        }
        assert_eq!(decode(stream.chunks(1)), whole, "byte by byte");
        assert_eq!(decode([&b"get jane@example.or"[..]]), (vec![], None, false));
    }

    #[test]
    fn invalid_line_ends_the_stream() {
        for (stream, error) in [
            (&b"get a\r\n"[..], BadLine::Control(b'\r')),
            (b"get a\0b\nget c\n", BadLine::Control(0)),
            (b"host \x7f\n", BadLine::Control(0x7f)),
        ] {
            for piece in [stream.len(), 1] {
                assert_eq!(decode(stream.chunks(piece)), (vec![], Some(error), false));
            }
        }
        let most = [&[b'x'; LINE_LIMIT - 1][..], b"\n"].concat();
        assert_eq!(decode([&most[..]]).1, None);
        assert_eq!(decode(vec![b'x'; 2 * SKIP_LIMIT].chunks(4096)).1, Some(BadLine::TooLong));
    }

    #[test]
    fn oversized_line_is_answered_and_the_stream_continues() {
        for (begin, form) in [("get ", Form::Table), ("canonical ", Form::Map)] {
            let stream = format!("{begin}{}@example.org\nget a\n", "x".repeat(24_000));
            for piece in [1, 100, 5000, stream.len()] {
                let mut decoder = Decoder::default();
                let mut seen = Vec::new();
                for bytes in stream.as_bytes().chunks(piece) {
                    decoder.push(bytes);
                    while let Some(request) = decoder.next_request() {
                        let request = request.unwrap();
                        seen.push((request == Request::Long(form), request == get(b"a")));
                    }
                }
                assert_eq!(seen, [(true, false), (false, true)], "{begin} {piece}");
            }
        }
    }

    proptest! {
        #[test]
        fn encoded_answer_reads_back(key in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut line = b"get ".to_vec();
            push_encoded(&mut line, &key);
            prop_assert!(line.iter().all(|b| matches!(b, b' '..=b'~')));
            prop_assert_eq!(Request::parse(&line), get(&key));
        }
    }
}
