//! A backend's replies on their way to a mail server that would bounce on some of them.
//!
//! A mailbox can move between the look-up and the delivery, and its old backend then says
//! `550 5.1.1 User unknown`, for good (`imap/lmtpd.c:verify_user`). To the mail server that must look
//! temporary: it asks again, is told the new backend, and is told of no backend if the mailbox is
//! really gone.
//!
//! Neither may a refusal of the mail server itself end a message: the recipient exists, and the
//! configuration will be mended. Those are `530 Authentication required` (RFC 4954 section 4; lmtpd
//! with `soft_noauth: off`, `imap/lmtpengine.c`), and any refusal in the greeting or of LHLO, as by a
//! server that speaks SMTP at this port. Every other reply stays as it is, also the `550 5.7.1` of a
//! Sieve script's reject.

/// The most that one reply may have, in bytes: some 60 times the longest of Cyrus'.
pub const REPLY_LIMIT: usize = 16 * 1024;

/// The reply has more than [`REPLY_LIMIT`] bytes, so its end is not known, and so not what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reply of more than {REPLY_LIMIT} bytes")]
pub struct TooLong;

/// Hands whole replies on. LMTP puts the status (RFC 3463) into the last line of several.
#[derive(Debug, Default)]
pub struct ReplyFilter {
    /// A reply, as far as it came.
    reply: Vec<u8>,
    /// Where its unfinished line begins.
    line: usize,
    /// Whole replies before it, up to [`BEFORE_MAIL`].
    replies: usize,
    /// Whether the reply to LHLO shall offer neither TLS nor a login.
    is_logged_in: bool,
}

/// The greeting and the reply to LHLO, which come before any reply about a message (RFC 2033).
const BEFORE_MAIL: usize = 2;

impl ReplyFilter {
    /// For a connection whose greeting has been handed on and that is under TLS or logged in, as far as
    /// that is wanted: the mail server is to try neither.
    pub fn after_login() -> Self {
        Self { replies: 1, is_logged_in: true, ..Self::default() }
    }

    /// Takes what came next, and appends to `out` every reply that is whole with it. What is not, at
    /// the end of the connection, is never handed on.
    pub fn hear(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.reply.len() + piece.len() > REPLY_LIMIT {
                return Err(TooLong);
            }
            self.reply.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                continue;
            }
            let line = self.reply.get(self.line..).unwrap_or_default();
            if line.get(3) == Some(&b'-') {
                self.line = self.reply.len();
                continue;
            }
            let refuses_us = self.replies < BEFORE_MAIL || line.starts_with(b"530");
            if line.starts_with(b"5") && (refuses_us || is_unknown(line)) {
                soften(&mut self.reply);
            }
            if self.is_logged_in && self.replies < BEFORE_MAIL {
                self.reply = without_login(&self.reply);
            }
            out.append(&mut self.reply);
            self.line = 0;
            self.replies = BEFORE_MAIL.min(self.replies + 1);
        }
        Ok(())
    }
}

/// A reply to LHLO without STARTTLS and AUTH.
fn without_login(reply: &[u8]) -> Vec<u8> {
    let offers_login = |line: &[u8]| {
        let keyword = line.get(4..).unwrap_or_default();
        let end = keyword.iter().position(|b| b.is_ascii_whitespace() || *b == b'=');
        let keyword = keyword.get(..end.unwrap_or(keyword.len())).unwrap_or_default();
        keyword.eq_ignore_ascii_case(b"STARTTLS") || keyword.eq_ignore_ascii_case(b"AUTH")
    };
    let mut kept = Vec::with_capacity(reply.len());
    let mut last = 0;
    // The first line has the server's name.
    for (nth, line) in reply.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if nth == 0 || !offers_login(line) {
            last = kept.len();
            kept.extend_from_slice(line);
        }
    }
    if let Some(separator @ b'-') = kept.get_mut(last + 3) {
        *separator = b' ';
    }
    kept
}

/// `xyz 5.1.1 …`
fn is_unknown(line: &[u8]) -> bool {
    let rest = line.get(4..).and_then(|text| text.strip_prefix(b"5.1.1"));
    rest.is_some_and(|rest| !rest.first().is_some_and(u8::is_ascii_digit))
}

/// Makes each line of a reply temporary, with its status.
fn soften(reply: &mut [u8]) {
    for line in reply.split_mut(|byte| *byte == b'\n') {
        let status = line.get(4..).is_some_and(|text| text.starts_with(b"5."));
        for at in if status { &[0, 4][..] } else { &[0] } {
            if let Some(class) = line.get_mut(*at) {
                *class = b'4';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, Result<(), TooLong>) {
        let (mut softener, mut out) = (ReplyFilter::default(), Vec::new());
        let mut said = Ok(());
        for piece in pieces {
            said = said.and(softener.hear(piece, &mut out));
        }
        (String::from_utf8(out).unwrap(), said)
    }

    /// The refusal of lmtpd 3.6.1, between replies that must stay.
    const SESSION: &str = "220 be1 LMTP Cyrus ready\r\n250-be1\r\n250-PIPELINING\r\n250 Ok\r\n\
        250 2.1.0 ok\r\n\
        550-Mailbox unknown.  Either there is no mailbox associated with this\r\n\
        550-name or you do not have authorization to see it.\r\n\
        550 5.1.1 User unknown\r\n\
        550-5.1.1 No such\r\n550 5.1.1 mailbox\r\n\
        550 5.7.1 Permission denied\r\n550 5.1.10 no mail\r\n550 Unknown 5.1.1\r\n550 5.1.1\r\n\
        452 4.2.2 Over quota\r\n250 5.1.1 odd\r\n421 4.4.1 bye\r\n";

    const SOFTENED: &str = "220 be1 LMTP Cyrus ready\r\n250-be1\r\n250-PIPELINING\r\n250 Ok\r\n\
        250 2.1.0 ok\r\n\
        450-Mailbox unknown.  Either there is no mailbox associated with this\r\n\
        450-name or you do not have authorization to see it.\r\n\
        450 4.1.1 User unknown\r\n\
        450-4.1.1 No such\r\n450 4.1.1 mailbox\r\n\
        550 5.7.1 Permission denied\r\n550 5.1.10 no mail\r\n550 Unknown 5.1.1\r\n450 4.1.1\r\n\
        452 4.2.2 Over quota\r\n250 5.1.1 odd\r\n421 4.4.1 bye\r\n";

    #[test]
    fn unknown_user_of_a_backend_becomes_temporary_and_nothing_else() {
        let session = SESSION.as_bytes();
        let expected = (SOFTENED.to_owned(), Ok(()));
        assert_eq!(heard([session]), expected);
        assert_eq!(heard(session.chunks(1)), expected, "byte by byte");
        for at in 0..session.len() {
            assert_eq!(heard([&session[..at], &session[at..]]), expected, "split at {at}");
        }
    }

    #[test]
    fn a_refusal_of_the_mail_server_itself_is_temporary() {
        let hello = "220 be1 LMTP\r\n250 be1\r\n";
        for (session, softened) in [
            ("530 Authentication required\r\n", "430 Authentication required\r\n"),
            ("530 5.7.0 Authentication required\n", "430 4.7.0 Authentication required\n"),
            ("530-5.7.0 Log\r\n530 5.7.0 in\r\n", "430-4.7.0 Log\r\n430 4.7.0 in\r\n"),
            ("503 5.5.1 Need MAIL command\r\n", "503 5.5.1 Need MAIL command\r\n"),
            ("550 5.7.1 530 is no code here\r\n", "550 5.7.1 530 is no code here\r\n"),
        ] {
            let (said, _) = heard([[hello, session].concat().as_bytes()]);
            assert_eq!(said, [hello, softened].concat());
        }
        for (session, softened) in [
            ("554 5.7.1 No\r\n", "454 4.7.1 No\r\n"),
            ("220 mx ESMTP\r\n500 5.5.2 what\r\n", "220 mx ESMTP\r\n400 4.5.2 what\r\n"),
        ] {
            assert_eq!(heard([session.as_bytes()]), (softened.to_owned(), Ok(())));
        }
    }

    #[test]
    fn connection_that_is_logged_in_offers_no_login() {
        for (reply, handed_on) in [
            (
                "250-be1\r\n250-STARTTLS\r\n250-SIZE\r\n250-AUTH PLAIN\r\n250 Ok\r\n",
                "250-be1\r\n250-SIZE\r\n250 Ok\r\n",
            ),
            ("250-be1\r\n250-SIZE\r\n250 AUTH=PLAIN\r\n", "250-be1\r\n250 SIZE\r\n"),
            ("250-be1\r\n250 starttls\r\n", "250 be1\r\n"),
            ("250 AUTH\r\n", "250 AUTH\r\n"),
            ("250-be1\r\n250-AUTHX\r\n250 X\r\n", "250-be1\r\n250-AUTHX\r\n250 X\r\n"),
            ("550 5.5.1 no\r\n", "450 4.5.1 no\r\n"),
        ] {
            let (mut softener, mut out) = (ReplyFilter::after_login(), Vec::new());
            let later = "250-2.1.0 ok\r\n250 AUTH is no offer here\r\n550 5.7.1 no\r\n";
            softener.hear([reply, later].concat().as_bytes(), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), [handed_on, later].concat());
        }
    }

    #[test]
    fn half_a_reply_is_never_handed_on() {
        let half = "250 2.1.0 ok\r\n550-Mailbox unknown.\r\n550 5.1";
        assert_eq!(heard([half.as_bytes()]), ("250 2.1.0 ok\r\n".to_owned(), Ok(())));
    }

    #[test]
    fn a_reply_without_end_is_an_error() {
        let endless = b"250-a line of it\r\n".repeat(REPLY_LIMIT / 16);
        assert_eq!(heard([&endless[..]]), (String::new(), Err(TooLong)));
        assert_eq!(heard([&[b'x'; REPLY_LIMIT + 1][..]]), (String::new(), Err(TooLong)));
        let longest = "x".repeat(REPLY_LIMIT - 1) + "\n";
        assert_eq!(heard([longest.as_bytes()]), (longest, Ok(())));
    }
}
