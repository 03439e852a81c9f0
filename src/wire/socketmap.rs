//! The socketmap protocol of Postfix and Sendmail: the payload of the netstrings.
//!
//! ```text
//! request = map SP key            lmtp User+Ext@Example.ORG
//! reply   = status SP [text]      OK lmtp:inet:b1.example.org:2003
//! ```
//!
//! Sources: Postfix' socketmap_table(5); tests of the reaction of Postfix 3.7 and 3.12 and Sendmail
//! 8.17 to each reply.

use std::borrow::Cow;
use std::fmt;

use super::netstring;

/// Maximum length of a request that is parsed, in bytes. Postfix since 3.12 sends keys of at most
/// 10,000 bytes; an address in SMTP is much shorter.
pub const REQUEST_LIMIT: usize = 10_000;

/// Maximum length of a request that is skipped and answered NOTFOUND, in bytes. A key longer than
/// [`REQUEST_LIMIT`] is no address of ours, but it may stand in a header of a message for another
/// recipient (`header_size_limit` of Postfix, 102,400), and a canonical map is asked for all of it.
/// An error would hold up that message.
pub const SKIPPED_REQUEST_LIMIT: usize = 1_000_000;

/// Maximum length of a reply that Postfix reads, in bytes, status included
/// (`socketmap_max_reply_size`). A longer reply would desynchronise the stream.
pub const REPLY_LIMIT: usize = 100_000;

/// Length at which Postfix truncates the text of a failure in its log, in bytes.
const WHY_LIMIT: usize = 200;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Map: the text after the last `:` of the table's name in main.cf. It selects the form of the
    /// answer.
    pub map: &'a [u8],
    /// Key, as the mail server has it: with its case and quotes, possibly with spaces, and not
    /// always an address (`*`).
    pub key: &'a [u8],
}

impl<'a> Request<'a> {
    /// Parses the payload of one netstring. Any bytes are a request: the first space ends the map,
    /// and without a space the key is empty.
    pub fn parse(payload: &'a [u8]) -> Self {
        match memchr::memchr(b' ', payload).and_then(|space| payload.split_at_checked(space)) {
            Some((map, rest)) => Request { map, key: rest.get(1..).unwrap_or_default() },
            None => Request { map: payload, key: &[] },
        }
    }

    /// Appends the request in the form of a mail server.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        netstring::encode_into(out, &[self.map, b" ", self.key]);
    }
}

/// A reply. `PERM` is not used: Sendmail treats it like `NOTFOUND`, and that bounces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Found. Postfix requires valid UTF-8 without NUL and line ends.
    Ok(String),
    /// The key certainly does not exist.
    NotFound,
    /// Temporary failure; the mail server tries again later. The text appears in its log.
    Temp(String),
}

impl Reply {
    /// Appends the reply as a netstring.
    ///
    /// A reply that no mail server can read becomes `TEMP`: `OK` without data kills Sendmail 8.17
    /// and means *not found* to Postfix up to 3.10.8, a line end or NUL violates the protocol, and
    /// Postfix does not read a reply above [`REPLY_LIMIT`].
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let (status, text) = self.payload();
        netstring::encode_into(out, &[status.as_bytes(), &text]);
    }

    /// Returns the reply, or `TEMP` if no mail server can read it; see [`Self::encode_into`].
    pub(crate) fn fit(self) -> Self {
        match self {
            Reply::Ok(data) => match unfit(&data) {
                None => Reply::Ok(data),
                Some(why) => Reply::Temp(why.to_owned()),
            },
            other => other,
        }
    }

    /// Returns the status word with its space, and the text, in the form to be sent.
    pub(super) fn payload(&self) -> (&'static str, Cow<'_, [u8]>) {
        match self {
            Reply::Ok(data) => match unfit(data) {
                None => ("OK ", data.as_bytes().into()),
                Some(why) => ("TEMP ", why.as_bytes().into()),
            },
            // OpenSMTPD's client and the manual require the space.
            Reply::NotFound => ("NOTFOUND ", Cow::default()),
            Reply::Temp(why) => ("TEMP ", printable(why).into()),
        }
    }

    /// Parses the payload of a reply as Postfix does: the first space ends the status, and every
    /// status other than `OK` and `NOTFOUND` is a failure.
    pub fn parse(payload: &[u8]) -> Self {
        let text = String::from_utf8_lossy(payload);
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("OK", data) => Reply::Ok(data.to_owned()),
            ("NOTFOUND", _) => Reply::NotFound,
            ("TEMP", why) => Reply::Temp(why.to_owned()),
            _ => Reply::Temp(text.into_owned()),
        }
    }
}

/// Writes the reply as a mail server reads it, without its frame.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, text) = self.payload();
        write!(f, "{status}{}", String::from_utf8_lossy(&text))
    }
}

/// Returns the reason why these data are invalid after `OK `.
fn unfit(data: &str) -> Option<&'static str> {
    if data.is_empty() {
        Some("murder-route made an empty answer: please report it")
    } else if data.len() > REPLY_LIMIT - "OK ".len() {
        Some("murder-route made an answer too long for Postfix: please report it")
    } else if data.bytes().any(|b| matches!(b, 0 | b'\n' | b'\r')) {
        Some("murder-route made an answer of several lines: please report it")
    } else {
        None
    }
}

/// Returns one line of printable ASCII, truncated where Postfix truncates it.
fn printable(text: &str) -> Vec<u8> {
    let printable = |c: char| if matches!(c, ' '..='~') { c as u8 } else { b'?' };
    text.chars().map(printable).take(WHY_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: Reply) -> String {
        let mut out = Vec::new();
        reply.encode_into(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn key_keeps_its_spaces_and_quotes() {
        for (payload, map, key) in [
            (&b"lmtp User+Ext@Example.ORG"[..], &b"lmtp"[..], &b"User+Ext@Example.ORG"[..]),
            (b"lmtp \"quoted user\"@example.org", b"lmtp", b"\"quoted user\"@example.org"),
            (b"lmtp  a", b"lmtp", b" a"),
            (b"lmtp *", b"lmtp", b"*"),
            (b"lmtp \xc3\xbcser@example.org", b"lmtp", b"\xc3\xbcser@example.org"),
            (b"lmtp \xff\0\n", b"lmtp", b"\xff\0\n"),
            (b"lmtp ", b"lmtp", b""),
            (b"lmtp", b"lmtp", b""),
            (b" a", b"", b"a"),
            (b"", b"", b""),
        ] {
            assert_eq!(Request::parse(payload), Request { map, key }, "{}", payload.escape_ascii());
        }
    }

    #[test]
    fn request_is_encoded_as_by_postfix() {
        let mut out = Vec::new();
        Request { map: b"lmtp", key: b"User+Ext@Example.ORG" }.encode_into(&mut out);
        assert_eq!(out, b"25:lmtp User+Ext@Example.ORG,");
    }

    #[test]
    fn replies_are_the_bytes_postfix_reads() {
        let ok = Reply::Ok("lmtp:inet:127.0.0.1:12003".into());
        assert_eq!(encoded(ok), "28:OK lmtp:inet:127.0.0.1:12003,");
        assert_eq!(encoded(Reply::NotFound), "9:NOTFOUND ,");
        assert_eq!(encoded(Reply::Temp("try later".into())), "14:TEMP try later,");
        assert_eq!(encoded(Reply::Temp(String::new())), "5:TEMP ,");
    }

    #[test]
    fn empty_ok_is_never_sent() {
        let sent = encoded(Reply::Ok(String::new()));
        assert!(sent.contains(":TEMP murder-route made an empty answer"), "{sent}");
    }

    #[test]
    fn ok_that_would_break_the_stream_becomes_temporary() {
        for data in ["a\nb", "a\rb", "a\0b"] {
            assert!(encoded(Reply::Ok(data.into())).contains(":TEMP "), "{data:?}");
        }
        let most = REPLY_LIMIT - 3;
        assert!(encoded(Reply::Ok("x".repeat(most))).starts_with("100000:OK x"));
        assert!(encoded(Reply::Ok("x".repeat(most + 1))).contains(":TEMP "));
    }

    #[test]
    fn failure_text_cannot_forge_or_flood_the_log() {
        assert_eq!(encoded(Reply::Temp("a\nb\x1b[2Jü".into())), "13:TEMP a?b?[2J?,");
        assert!(encoded(Reply::Temp("ü".repeat(1000))).starts_with("205:TEMP ????"));
    }

    #[test]
    fn displayed_reply_equals_the_sent_one() {
        for reply in [
            Reply::Ok("a b".into()),
            Reply::Ok("a\nb".into()),
            Reply::NotFound,
            Reply::Temp("\u{fc}".repeat(1000)),
        ] {
            let shown = reply.to_string();
            assert_eq!(encoded(reply), format!("{}:{shown},", shown.len()));
        }
    }

    #[test]
    fn encoded_reply_reads_back() {
        for reply in [Reply::Ok("a b".into()), Reply::NotFound, Reply::Temp("why not".into())] {
            let mut out = Vec::new();
            reply.encode_into(&mut out);
            let mut frames = netstring::Decoder::new(REPLY_LIMIT);
            frames.push(&out);
            assert_eq!(Reply::parse(frames.next_frame().unwrap().unwrap()), reply);
        }
        assert_eq!(Reply::parse(b"PERM no such map"), Reply::Temp("PERM no such map".into()));
        assert_eq!(Reply::parse(b"ok a"), Reply::Temp("ok a".into()));
    }
}
