//! Filter for replies of a backend that would make the mail server bounce a message.
//!
//! A mailbox can move between the lookup and the delivery. Its old backend then answers
//! `550 5.1.1 User unknown`, a permanent error (`imap/lmtpd.c:verify_user`). The filter makes it
//! temporary: the mail server looks the recipient up again, and gets the new backend, or none if the
//! mailbox is really gone.
//!
//! A refusal of the mail server itself must not bounce a message either: the recipient exists, and the
//! configuration will be repaired. These are `530 Authentication required` (RFC 4954 section 4; lmtpd
//! with `soft_noauth: off`, `imap/lmtpengine.c`), and any refusal in the greeting or of LHLO, as by a
//! server that speaks SMTP at this port. Every other reply passes unchanged, also the `550 5.7.1` of a
//! Sieve script's reject.

/// Maximum size of one reply, in bytes: some 60 times the longest reply of Cyrus.
pub const REPLY_LIMIT: usize = 16 * 1024;

/// A reply has more than [`REPLY_LIMIT`] bytes: without its end, its meaning is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reply of more than {REPLY_LIMIT} bytes")]
pub struct TooLong;

/// Passes complete replies on. LMTP puts the status (RFC 3463) into the last of several lines.
#[derive(Debug, Default)]
pub struct ReplyFilter {
    /// The incomplete reply.
    reply: Vec<u8>,
    /// Offset of its incomplete line.
    line: usize,
    /// Number of complete replies before it, up to [`BEFORE_MAIL`].
    replies: usize,
    /// Whether the reply to LHLO must offer neither TLS nor a login.
    is_logged_in: bool,
}

/// Number of replies before any about a message: the greeting and the reply to LHLO (RFC 2033).
const BEFORE_MAIL: usize = 2;

impl ReplyFilter {
    /// A filter for a connection with a completed login, whose greeting has been passed on. The mail server
    /// is offered neither TLS nor a login.
    pub fn after_login() -> Self {
        Self { replies: 1, is_logged_in: true, ..Self::default() }
    }

    /// Processes received bytes, and appends each complete reply to `out`. A reply that is incomplete at
    /// the end of the connection is never passed on.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
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
    // The first line holds the name of the server.
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

    fn filtered<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, Result<(), TooLong>) {
        let (mut filter, mut out) = (ReplyFilter::default(), Vec::new());
        let mut said = Ok(());
        for piece in pieces {
            said = said.and(filter.feed(piece, &mut out));
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

    const FILTERED: &str = "220 be1 LMTP Cyrus ready\r\n250-be1\r\n250-PIPELINING\r\n250 Ok\r\n\
        250 2.1.0 ok\r\n\
        450-Mailbox unknown.  Either there is no mailbox associated with this\r\n\
        450-name or you do not have authorization to see it.\r\n\
        450 4.1.1 User unknown\r\n\
        450-4.1.1 No such\r\n450 4.1.1 mailbox\r\n\
        550 5.7.1 Permission denied\r\n550 5.1.10 no mail\r\n550 Unknown 5.1.1\r\n450 4.1.1\r\n\
        452 4.2.2 Over quota\r\n250 5.1.1 odd\r\n421 4.4.1 bye\r\n";

    #[test]
    fn only_unknown_user_becomes_temporary() {
        let session = SESSION.as_bytes();
        let expected = (FILTERED.to_owned(), Ok(()));
        assert_eq!(filtered([session]), expected);
        assert_eq!(filtered(session.chunks(1)), expected, "byte by byte");
        for at in 0..session.len() {
            assert_eq!(filtered([&session[..at], &session[at..]]), expected, "split at {at}");
        }
    }

    #[test]
    fn refusal_of_the_mail_server_becomes_temporary() {
        let hello = "220 be1 LMTP\r\n250 be1\r\n";
        for (session, filtered_session) in [
            ("530 Authentication required\r\n", "430 Authentication required\r\n"),
            ("530 5.7.0 Authentication required\n", "430 4.7.0 Authentication required\n"),
            ("530-5.7.0 Log\r\n530 5.7.0 in\r\n", "430-4.7.0 Log\r\n430 4.7.0 in\r\n"),
            ("503 5.5.1 Need MAIL command\r\n", "503 5.5.1 Need MAIL command\r\n"),
            ("550 5.7.1 530 is no code here\r\n", "550 5.7.1 530 is no code here\r\n"),
        ] {
            let (said, _) = filtered([[hello, session].concat().as_bytes()]);
            assert_eq!(said, [hello, filtered_session].concat());
        }
        for (session, filtered_session) in [
            ("554 5.7.1 No\r\n", "454 4.7.1 No\r\n"),
            ("220 mx ESMTP\r\n500 5.5.2 what\r\n", "220 mx ESMTP\r\n400 4.5.2 what\r\n"),
        ] {
            assert_eq!(filtered([session.as_bytes()]), (filtered_session.to_owned(), Ok(())));
        }
    }

    #[test]
    fn completed_login_is_not_offered_again() {
        for (reply, passed_on) in [
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
            let (mut filter, mut out) = (ReplyFilter::after_login(), Vec::new());
            let later = "250-2.1.0 ok\r\n250 AUTH is no offer here\r\n550 5.7.1 no\r\n";
            filter.feed([reply, later].concat().as_bytes(), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), [passed_on, later].concat());
        }
    }

    #[test]
    fn incomplete_reply_is_not_passed_on() {
        let half = "250 2.1.0 ok\r\n550-Mailbox unknown.\r\n550 5.1";
        assert_eq!(filtered([half.as_bytes()]), ("250 2.1.0 ok\r\n".to_owned(), Ok(())));
    }

    #[test]
    fn endless_reply_is_an_error() {
        let endless = b"250-a line of it\r\n".repeat(REPLY_LIMIT / 16);
        assert_eq!(filtered([&endless[..]]), (String::new(), Err(TooLong)));
        assert_eq!(filtered([&[b'x'; REPLY_LIMIT + 1][..]]), (String::new(), Err(TooLong)));
        let longest = "x".repeat(REPLY_LIMIT - 1) + "\n";
        assert_eq!(filtered([longest.as_bytes()]), (longest, Ok(())));
    }
}
