//! The socketmap protocol of Postfix and Sendmail: what is in the netstrings.
//!
//! ```text
//! request = map SP key            lmtp User+Ext@Example.ORG
//! reply   = status SP [text]      OK lmtp:inet:b1.example.org:2003
//! ```
//!
//! Sources: Postfix' socketmap_table(5); what Postfix 3.7 and 3.12 and Sendmail 8.17 do with each
//! reply was tried on them.

use std::borrow::Cow;
use std::fmt;

use super::netstring;

/// The longest request taken, in bytes. Postfix sends keys of at most 10,000 bytes since 3.12; no
/// address that SMTP can carry comes near it.
pub const REQUEST_LIMIT: usize = 10_000;

/// The longest request that is skipped, in bytes, and answered NOTFOUND: what is longer than
/// [`REQUEST_LIMIT`] is no address of ours, but it may stand in a header of a message for somebody
/// else (`header_size_limit` of Postfix, 102,400), and a canonical map is asked for all of it. An error
/// would stop that message.
pub const SKIPPED_REQUEST_LIMIT: usize = 1_000_000;

/// The longest reply that Postfix reads, in bytes, status included (`socketmap_max_reply_size`).
/// A longer one would leave Postfix in the middle of the stream.
pub const REPLY_LIMIT: usize = 100_000;

/// Postfix cuts the text of a failure there when it logs it, in bytes.
const WHY_LIMIT: usize = 200;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The map: what follows the last `:` of the table's name in main.cf. It chooses the form of
    /// the answer.
    pub map: &'a [u8],
    /// What is looked up, as the mail server has it: case kept, quotes kept, spaces possible, not
    /// always an address (`*`).
    pub key: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads the payload of one netstring. Any bytes are a request: the first space ends the map,
    /// and without a space the key is empty.
    pub fn parse(payload: &'a [u8]) -> Self {
        match memchr::memchr(b' ', payload).and_then(|space| payload.split_at_checked(space)) {
            Some((map, rest)) => Request { map, key: rest.get(1..).unwrap_or_default() },
            None => Request { map: payload, key: &[] },
        }
    }

    /// Appends the request as a mail server sends it.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        netstring::encode_into(out, &[self.map, b" ", self.key]);
    }
}

/// An answer. There is no `PERM`: to Sendmail it is the same as `NOTFOUND`, and that bounces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Found. Postfix wants valid UTF-8 without NUL and line ends.
    Ok(String),
    /// Certainly not here.
    NotFound,
    /// Not known now; the mail server tries again later. The text is what its postmaster sees in
    /// the log.
    Temp(String),
}

impl Reply {
    /// Appends the reply as a netstring.
    ///
    /// What no mail server can take becomes `TEMP`: `OK` without data kills Sendmail 8.17 and means
    /// *not found* to Postfix up to 3.10.8, a line end or NUL is against the protocol, and a reply
    /// above [`REPLY_LIMIT`] is not read.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let (status, text) = self.payload();
        netstring::encode_into(out, &[status.as_bytes(), &text]);
    }

    /// The same reply, or `TEMP` in place of what no mail server can take; see [`Self::encode_into`].
    pub(crate) fn fit(self) -> Self {
        match self {
            Reply::Ok(data) => match unfit(&data) {
                None => Reply::Ok(data),
                Some(why) => Reply::Temp(why.to_owned()),
            },
            other => other,
        }
    }

    /// The status word with its space, and the text, as they may be sent.
    pub(super) fn payload(&self) -> (&'static str, Cow<'_, [u8]>) {
        match self {
            Reply::Ok(data) => match unfit(data) {
                None => ("OK ", data.as_bytes().into()),
                Some(why) => ("TEMP ", why.as_bytes().into()),
            },
            // With the space: OpenSMTPD's client and the manual want it.
            Reply::NotFound => ("NOTFOUND ", Cow::default()),
            Reply::Temp(why) => ("TEMP ", printable(why).into()),
        }
    }

    /// Reads the payload of a reply as Postfix does: the first space ends the status, and every
    /// status that is not `OK` or `NOTFOUND` is a failure.
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

/// The reply as a mail server reads it, without its frame.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, text) = self.payload();
        write!(f, "{status}{}", String::from_utf8_lossy(&text))
    }
}

/// Why these data cannot stand after `OK `.
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

/// A text of one printable ASCII line, cut where Postfix cuts it.
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
    fn a_key_keeps_its_spaces_and_quotes() {
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
    fn a_request_is_encoded_as_postfix_does() {
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
    fn an_empty_ok_never_leaves_the_house() {
        let sent = encoded(Reply::Ok(String::new()));
        assert!(sent.contains(":TEMP murder-route made an empty answer"), "{sent}");
    }

    #[test]
    fn an_ok_that_would_break_the_stream_becomes_temporary() {
        for data in ["a\nb", "a\rb", "a\0b"] {
            assert!(encoded(Reply::Ok(data.into())).contains(":TEMP "), "{data:?}");
        }
        let most = REPLY_LIMIT - 3;
        assert!(encoded(Reply::Ok("x".repeat(most))).starts_with("100000:OK x"));
        assert!(encoded(Reply::Ok("x".repeat(most + 1))).contains(":TEMP "));
    }

    #[test]
    fn the_text_of_a_failure_cannot_forge_a_line_or_flood_the_log() {
        assert_eq!(encoded(Reply::Temp("a\nb\x1b[2Jü".into())), "13:TEMP a?b?[2J?,");
        assert!(encoded(Reply::Temp("ü".repeat(1000))).starts_with("205:TEMP ????"));
    }

    #[test]
    fn what_a_person_is_shown_is_what_is_sent() {
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
    fn a_reply_reads_back_as_it_was_meant() {
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
