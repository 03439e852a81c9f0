//! Policy delegation of Postfix (`check_policy_service`, SMTPD_POLICY_README).
//!
//! ```text
//! request=smtpd_access_policy        one attribute a line, in any order
//! protocol_state=RCPT
//! recipient=Joe+Ext@example.org      as typed, in internal form
//!                                    an empty line ends the request
//!
//! action=550 5.1.1 User unknown
//!                                    and another one ends the answer
//! ```
//!
//! Unknown attributes are ignored: each release of Postfix adds some.

use super::framing::{FrameSplitter, SKIP_LIMIT};
use super::rcpt::RcptVerdict;

/// Maximum length of a request, in bytes. A request of Postfix has about 1,000, and the SMTP lines
/// in it are bounded (`line_length_limit`, 2,048).
pub const REQUEST_LIMIT: usize = 32_768;

/// Violation of the policy protocol. No answer is sent: Postfix repeats the request once, then
/// defers the message (`smtpd_policy_service_default_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The request does not end.
    #[error("request of more than {SKIP_LIMIT} bytes")]
    TooLong,
    /// A line is not `name=value`.
    #[error("a line without an attribute")]
    NoAttribute,
    /// A known attribute occurs twice.
    #[error("the attribute {0} comes twice")]
    Twice(&'static str),
    /// A required attribute is missing.
    #[error("the attribute {0} is missing")]
    Missing(&'static str),
    /// The request is of another kind.
    #[error("a request that is not smtpd_access_policy")]
    OtherKind,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Recipient, if the SMTP state is RCPT. `None`: another state, in which every request passes.
    pub at_rcpt: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// Parses the lines of a request, without the empty line.
    pub fn parse(lines: &'a [u8]) -> Result<Self, BadRequest> {
        let (mut kind, mut state, mut recipient) = (None, None, None);
        for line in split(lines) {
            let (name, value) = memchr::memchr(b'=', line)
                .and_then(|at| line.split_at_checked(at))
                .filter(|(name, _)| !name.is_empty())
                .ok_or(BadRequest::NoAttribute)?;
            let (slot, name) = match name {
                b"request" => (&mut kind, "request"),
                b"protocol_state" => (&mut state, "protocol_state"),
                b"recipient" => (&mut recipient, "recipient"),
                _ => continue,
            };
            if slot.replace(value.get(1..).unwrap_or_default()).is_some() {
                return Err(BadRequest::Twice(name));
            }
        }
        if kind.ok_or(BadRequest::Missing("request"))? != b"smtpd_access_policy" {
            return Err(BadRequest::OtherKind);
        }
        let at_rcpt = match state.ok_or(BadRequest::Missing("protocol_state"))? {
            b"RCPT" => Some(recipient.ok_or(BadRequest::Missing("recipient"))?),
            _ => None,
        };
        Ok(Request { at_rcpt })
    }
}

/// Splits a request into lines. It has about thirty, of which three matter.
fn split(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr::memchr_iter(b'\n', lines).chain([lines.len()]).map(move |end| {
        let line = lines.get(begin..end).unwrap_or_default();
        begin = end.saturating_add(1);
        line
    })
}

/// Splits a stream into requests. Pieces may have any size. The first error is permanent. Take all
/// complete requests before the next push; then memory is bounded by [`REQUEST_LIMIT`] and one
/// piece.
#[derive(Debug)]
pub struct Decoder(FrameSplitter<BadRequest>);

impl Default for Decoder {
    fn default() -> Self {
        Decoder(FrameSplitter::new(b"\n\n", REQUEST_LIMIT, BadRequest::TooLong))
    }
}

impl Decoder {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// Returns the next complete request; the inner `None` stands for one longer than
    /// [`REQUEST_LIMIT`]. Outer `None`: more bytes are needed.
    pub fn next_request(&mut self) -> Option<Result<Option<Request<'_>>, BadRequest>> {
        // The recipient was not read. A client must not pass a restriction by means of a long
        // attribute.
        self.0.next(|lines| Request::parse(lines).map(Some), |_| None)
    }

    /// Whether the stream ends between two requests.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends the answer. [`RcptVerdict::Pass`] is `DUNNO`: `OK` would disable the later restrictions.
pub fn encode_into(out: &mut Vec<u8>, answer: RcptVerdict) {
    let (action, text) = match answer {
        RcptVerdict::Pass => ("DUNNO", ""),
        // Applied after the other restrictions, if none of them rejects.
        RcptVerdict::Defer(text) => ("DEFER_IF_PERMIT ", text),
        // `REJECT` would be 554 (`access_map_reject_code`).
        RcptVerdict::Reject(text) => ("550 ", text),
    };
    for part in ["action=", action, text, "\n\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Recorded request of Postfix 3.7.11.
    const RECORDED: &str = "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n\
        client_address=127.0.0.1\nclient_name=localhost\nclient_port=40288\n\
        reverse_client_name=localhost\nserver_address=127.0.0.1\nserver_port=25\n\
        helo_name=mx.example.net\nsender=bounce=x@example.net\nrecipient=Joe+Ext@example.org\n\
        recipient_count=0\nqueue_id=\ninstance=1f3a.6a1e\nsize=120\netrn_domain=\nstress=\n\
        sasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\n\
        ccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=\n\
        encryption_cipher=\nencryption_keysize=0\npolicy_context=\n\n";

    /// Recipients of the requests (`None` in other states), the error, and whether the end is clean.
    type Confirmation = (Vec<Option<Vec<u8>>>, Option<BadRequest>, bool);

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Confirmation {
        let mut decoder = Decoder::default();
        let mut requests = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(next) = decoder.next_request() {
                match next {
                    Ok(request) => {
                        requests.push(request.and_then(|r| r.at_rcpt).map(<[u8]>::to_vec))
                    }
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
    fn postfix_request_is_the_same_at_every_split() {
        let stream = RECORDED.repeat(2);
        let joe = || Some(b"Joe+Ext@example.org".to_vec());
        let whole = (vec![joe(), joe()], None, true);
        assert_eq!(decode([stream.as_bytes()]), whole);
        for at in 0..stream.len() {
            let (first, second) = stream.as_bytes().split_at(at);
            assert_eq!(decode([first, second]), whole, "split at {at}");
        }
        assert_eq!(decode(stream.as_bytes().chunks(1)), whole, "byte by byte");
        for cut in 1..RECORDED.len() {
            assert_eq!(
                decode([&RECORDED.as_bytes()[..cut]]),
                (vec![], None, false),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn attributes_are_read_by_name_in_any_order() {
        let rcpt = |recipient: &str| Some(recipient.as_bytes().to_vec());
        for (request, at_rcpt) in [
            (
                "recipient=a=b@c\nunknown=\nprotocol_state=RCPT\nrequest=smtpd_access_policy",
                rcpt("a=b@c"),
            ),
            (
                "request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=a b@c\ntls_sni==",
                rcpt("a b@c"),
            ),
            ("request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=", rcpt("")),
            ("request=smtpd_access_policy\nprotocol_state=DATA\nrecipient=a@b", None),
            ("request=smtpd_access_policy\nprotocol_state=END-OF-MESSAGE\nrecipient=a@b", None),
            ("request=smtpd_access_policy\nprotocol_state=VRFY\nrecipient=a@b", None),
            ("request=smtpd_access_policy\nprotocol_state=CONNECT", None),
            ("request=smtpd_access_policy\nprotocol_state=rcpt\nrecipient=a@b", None),
        ] {
            let stream = format!("{request}\n\n");
            assert_eq!(decode([stream.as_bytes()]), (vec![at_rcpt], None, true), "{request}");
        }
    }

    #[test]
    fn invalid_request_ends_the_stream() {
        use BadRequest::*;
        for (stream, error) in [
            ("request=smtpd_access_policy\nprotocol_state=RCPT\n\n", Missing("recipient")),
            ("request=smtpd_access_policy\n\n", Missing("protocol_state")),
            ("protocol_state=RCPT\nrecipient=a@b\n\n", Missing("request")),
            ("request=junk\nprotocol_state=RCPT\nrecipient=a@b\n\n", OtherKind),
            ("request=smtpd_access_policy\nrecipient=a\nrecipient=b\n\n", Twice("recipient")),
            ("a=b\nHost: x\n\n", NoAttribute),
            ("=x\n\n", NoAttribute),
            ("\n\n", NoAttribute),
            ("\nrequest=smtpd_access_policy\nprotocol_state=DATA\n\n", NoAttribute),
        ] {
            for piece in [stream.len(), 1] {
                let said = decode(stream.as_bytes().chunks(piece));
                assert_eq!(said, (vec![], Some(error), false), "{stream:?}");
            }
        }
    }

    #[test]
    fn oversized_request_is_skipped_and_the_stream_continues() {
        let begin = "a=".to_owned() + &"x".repeat(REQUEST_LIMIT - 4);
        let whole = begin.clone() + "\n\n";
        assert_eq!(decode([whole.as_bytes()]).1, Some(BadRequest::Missing("request")));
        for piece in [1, 512, REQUEST_LIMIT] {
            let longer = begin.clone() + "xx\n\n";
            let mut decoder = Decoder::default();
            let next = "request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=a@b\n\n";
            let mut seen = Vec::new();
            for bytes in [longer.as_bytes(), next.as_bytes()].concat().chunks(piece) {
                decoder.push(bytes);
                while let Some(request) = decoder.next_request() {
                    let recipient = request.unwrap().and_then(|request| request.at_rcpt);
                    seen.push(recipient.map(<[u8]>::to_vec));
                }
            }
            assert_eq!(seen, [None, Some(b"a@b".to_vec())], "{piece}");
        }
        let endless = "x".repeat(2 * SKIP_LIMIT);
        assert_eq!(decode(endless.as_bytes().chunks(4096)).1, Some(BadRequest::TooLong));
    }

    #[test]
    fn answers_are_the_bytes_postfix_reads() {
        for (answer, bytes) in [
            (RcptVerdict::Pass, "action=DUNNO\n\n"),
            (RcptVerdict::Reject("5.1.1 User unknown"), "action=550 5.1.1 User unknown\n\n"),
            (RcptVerdict::Defer("4.3.0 Later"), "action=DEFER_IF_PERMIT 4.3.0 Later\n\n"),
        ] {
            let mut out = Vec::new();
            encode_into(&mut out, answer);
            assert_eq!(out, bytes.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_alike_at_every_split(
            stream in prop::collection::vec(
                prop_oneof![
                    Just(b"\n".to_vec()), Just(b"=".to_vec()), Just(b"recipient".to_vec()),
                    Just(b"request=smtpd_access_policy\n".to_vec()),
                    Just(b"protocol_state=RCPT\n".to_vec()),
                    prop::collection::vec(any::<u8>(), 0..5),
                ],
                0..40,
            ),
            piece in 1usize..50,
        ) {
            let stream = stream.concat();
            prop_assert_eq!(decode(stream.chunks(piece)), decode([stream.as_slice()]));
        }
    }
}
