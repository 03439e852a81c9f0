//! The conversation with a backend's lmtpd: lines in, lines out, facts in the end.
//!
//! ```text
//! 220 be1.example.org Cyrus LMTP 3.6.1 server ready
//! LHLO mx.example.org          its name, STARTTLS, AUTH
//! MAIL FROM:<>                 430 or 530: it wants us to log in first
//! RCPT TO:<jane@example.org>   if a recipient is given
//! RSET
//! STARTTLS, LHLO               if it offers that: what it offers then
//! QUIT
//! ```
//!
//! There is no DATA here, so no letter can come of it.

use std::time::Duration;

use super::shown;
pub use crate::lmtp::{LINE_LIMIT, Reply};
use crate::lmtp::{NotLmtp, Reader, auth_mechanisms, offers};

/// What STARTTLS came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Encrypted; the mechanisms that are offered then.
    Up(Vec<String>),
    /// It is offered, and the TLS of this program cannot do it as that of a mail server may: ciphers
    /// without ECDHE, versions before 1.2, odd certificates.
    Untestable(String),
    /// It is offered, and did not come about.
    Failed(String),
}

/// What came of the login that Postfix would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It was not tried.
    Skipped(String),
    /// It works.
    In(String),
    /// It does not.
    Refused(crate::lmtp::Failure),
    /// The connection did not last.
    Lost(String),
}

/// What came of a connection as `murder-route lmtp` makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// It has neither TLS nor a login for this backend.
    Plain,
    /// It works.
    Ready(String),
    /// It does not.
    Failed {
        /// Why.
        why: String,
        /// Whether that may be otherwise the next time.
        temporary: bool,
    },
}

/// What was learnt of a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The name in the greeting.
    pub greeting: Option<String>,
    /// The name in the answer to LHLO.
    pub name: Option<String>,
    /// The release of Cyrus, major and minor, if the greeting tells it.
    pub release: Option<(u32, u32)>,
    /// Whether it offers STARTTLS.
    pub starttls: bool,
    /// Whether it offers SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// The mechanisms it offers in the clear.
    pub auth: Vec<String>,
    /// What STARTTLS came to, if it is offered.
    pub tls: Option<Tls>,
    /// The certificates it showed, its own first, in DER.
    pub chain: Vec<Vec<u8>>,
    /// When that was, since 1970.
    pub at: Duration,
    /// What came of the login that Postfix would make.
    pub tried: Option<Tried>,
    /// What came of a connection as `murder-route lmtp` makes it.
    pub own: Option<Own>,
    /// What it said to MAIL FROM:<>.
    pub mail: Option<Reply>,
    /// What it said to RCPT TO, if there was a recipient and MAIL was taken.
    pub rcpt: Option<Reply>,
    /// Where the conversation broke off, if it did.
    pub failure: Option<Failure>,
}

impl Facts {
    /// Whether it takes nothing before a login: 430 unless `soft_noauth: off` (imap/lmtpengine.c).
    pub fn wants_login(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| matches!(mail.code, 430 | 530))
    }
}

/// Why a conversation broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect(String),
    /// It said this instead of what it should have.
    Refused(&'static str, Reply),
    /// It does not speak LMTP.
    NotLmtp(String),
    /// The connection ended, or nothing came in time; what was waited for, and why.
    Lost(&'static str, String),
}

/// What has to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send what [`Conversation::output`] has, and read a line.
    Line,
    /// Begin TLS, then call [`Conversation::tls`].
    StartTls,
    /// Send what is there and close.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Lhlo,
    Mail,
    Rcpt,
    Rset,
    StartTls,
    Handshake,
    LhloUnderTls,
    Quit,
    Over,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Greeting => "the greeting",
            Phase::Lhlo | Phase::LhloUnderTls => "LHLO",
            Phase::Mail => "MAIL FROM",
            Phase::Rcpt => "RCPT TO",
            Phase::Rset => "RSET",
            Phase::StartTls => "STARTTLS",
            Phase::Handshake => "the TLS handshake",
            Phase::Quit | Phase::Over => "QUIT",
        }
    }
}

/// A conversation.
#[derive(Debug)]
pub struct Conversation {
    us: String,
    recipient: Option<String>,
    phase: Phase,
    reader: Reader,
    output: Vec<u8>,
    facts: Facts,
}

impl Conversation {
    /// Begins with a backend that has just taken the connection. `us`: the name of this host. A name
    /// or a recipient that cannot stand in a line of LMTP is left out.
    pub fn new(us: &str, recipient: Option<&str>) -> Self {
        let fits = |text: &&str| text.bytes().all(|b| b > b' ' && b != 0x7f) && text.len() < 500;
        let plain = |text: &&str| text.bytes().all(|b| b >= b' ' && b != 0x7f) && text.len() < 500;
        Self {
            us: Some(us).filter(fits).unwrap_or("localhost").to_owned(),
            recipient: recipient.filter(plain).map(str::to_owned),
            phase: Phase::Greeting,
            reader: Reader::default(),
            output: Vec::new(),
            facts: Facts::default(),
        }
    }

    /// What is to be sent; take out what was.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What has to be done next.
    pub fn step(&self) -> Step {
        match self.phase {
            Phase::Over => Step::Over,
            Phase::Handshake => Step::StartTls,
            _ => Step::Line,
        }
    }

    /// What is waited for, in words.
    pub fn waits_for(&self) -> &'static str {
        self.phase.as_str()
    }

    /// Takes a line without its end.
    pub fn line(&mut self, line: &[u8]) {
        match self.reader.line(line) {
            Ok(Some(reply)) => self.reply(reply),
            Ok(None) => {}
            Err(NotLmtp(text)) => self.fail(Failure::NotLmtp(text)),
        }
    }

    /// The handshake is over; the certificates, or what it came to otherwise.
    pub fn tls(&mut self, outcome: Result<Vec<Vec<u8>>, Tls>) {
        if self.phase != Phase::Handshake {
            return;
        }
        match outcome {
            Ok(chain) => {
                self.facts.chain = chain;
                self.lhlo(Phase::LhloUnderTls);
            }
            // What comes on a connection after that is nobody's language.
            Err(outcome) => {
                self.facts.tls = Some(outcome);
                self.phase = Phase::Over;
            }
        }
    }

    /// The connection ended, or nothing came in time.
    pub fn lost(&mut self, why: &str) {
        let waited_for = self.phase.as_str();
        match self.phase {
            // All was said.
            Phase::Quit | Phase::Over => {}
            Phase::StartTls | Phase::Handshake | Phase::LhloUnderTls => {
                self.facts.tls = Some(Tls::Failed(format!("{waited_for}: {}", shown(why))));
            }
            _ => self.facts.failure = Some(Failure::Lost(waited_for, shown(why))),
        }
        self.phase = Phase::Over;
    }

    /// What was learnt.
    pub fn facts(self) -> Facts {
        self.facts
    }

    fn say(&mut self, command: &str, phase: Phase) {
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.phase = phase;
    }

    fn lhlo(&mut self, phase: Phase) {
        let command = format!("LHLO {}", self.us);
        self.say(&command, phase);
    }

    fn fail(&mut self, failure: Failure) {
        self.facts.failure = Some(failure);
        self.say("QUIT", Phase::Over);
    }

    fn reply(&mut self, reply: Reply) {
        match self.phase {
            Phase::Greeting if reply.code == 220 => {
                let greeting = reply.lines.first().map_or("", String::as_str);
                self.facts.greeting = greeting.split_whitespace().next().map(shown);
                self.facts.release = release(greeting);
                self.lhlo(Phase::Lhlo);
            }
            Phase::Lhlo if reply.is_ok() => {
                let first = reply.lines.first();
                let name = first.and_then(|line| line.split_whitespace().next());
                self.facts.name = name.map(shown);
                self.facts.starttls = offers(&reply, "STARTTLS");
                self.facts.smtputf8 = offers(&reply, "SMTPUTF8");
                self.facts.auth = auth_mechanisms(&reply);
                self.say("MAIL FROM:<>", Phase::Mail);
            }
            // A mail server of SMTP knows no LHLO (RFC 2033, 4.1).
            Phase::Lhlo if (500..=504).contains(&reply.code) => {
                self.fail(Failure::NotLmtp(reply.shown()));
            }
            Phase::Mail => {
                let taken = reply.is_ok();
                self.facts.mail = Some(reply);
                match self.recipient.take().filter(|_| taken) {
                    Some(recipient) => self.say(&format!("RCPT TO:<{recipient}>"), Phase::Rcpt),
                    None => self.say("RSET", Phase::Rset),
                }
            }
            Phase::Rcpt => {
                self.facts.rcpt = Some(reply);
                self.say("RSET", Phase::Rset);
            }
            Phase::Rset if self.facts.starttls => self.say("STARTTLS", Phase::StartTls),
            Phase::Rset => self.say("QUIT", Phase::Quit),
            Phase::StartTls if reply.is_ok() => self.phase = Phase::Handshake,
            Phase::StartTls => {
                self.facts.tls = Some(Tls::Failed(reply.shown()));
                self.say("QUIT", Phase::Quit);
            }
            Phase::LhloUnderTls => {
                self.facts.tls = Some(Tls::Up(auth_mechanisms(&reply)));
                self.say("QUIT", Phase::Quit);
            }
            Phase::Quit | Phase::Handshake | Phase::Over => self.phase = Phase::Over,
            phase @ (Phase::Greeting | Phase::Lhlo) => {
                self.fail(Failure::Refused(phase.as_str(), reply));
            }
        }
    }
}

/// `3.6` of `be1.example.org Cyrus LMTP 3.6.1-Debian-3.6.1-4 server ready`; a site may hide it
/// (`serverinfo`).
fn release(greeting: &str) -> Option<(u32, u32)> {
    let (_, after) = greeting.split_once("Cyrus LMTP")?;
    let number = after.trim_start().trim_start_matches('v');
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next().and_then(|part| part.parse().ok());
    Some((part()?, part()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a backend of these replies talk; what was said to it, and what was learnt.
    fn talk(recipient: Option<&str>, replies: &[&str]) -> (String, Facts) {
        let mut conversation = Conversation::new("mx.example.org", recipient);
        let mut said = String::new();
        let mut replies = replies.iter();
        loop {
            let output = std::mem::take(conversation.output());
            said += std::str::from_utf8(&output).unwrap();
            match conversation.step() {
                Step::Over => break,
                Step::StartTls => conversation.tls(Ok(Vec::new())),
                Step::Line => match replies.next() {
                    Some(reply) => {
                        reply.lines().for_each(|line| conversation.line(line.as_bytes()));
                    }
                    None => conversation.lost("closed"),
                },
            }
        }
        (said.replace("\r\n", "|"), conversation.facts())
    }

    const GREETING: &str =
        "220 be1.example.org Cyrus LMTP 3.6.1-Debian-3.6.1-4+deb12u4 server ready";
    const OPEN: &str = "250-be1.example.org\n250-8BITMIME\n250-ENHANCEDSTATUSCODES\n\
                        250-PIPELINING\n250-SIZE\n250-AUTH EXTERNAL\n250-IGNOREQUOTA\n\
                        250 Ok SESSIONID=<x>";
    const CLOSED: &str =
        "250-be1.example.org\n250-SIZE\n250-STARTTLS\n250-AUTH SCRAM-SHA-1\n250 Ok";

    #[test]
    fn a_pre_authorised_backend_is_asked_up_to_rcpt_and_no_further() {
        let replies = [GREETING, OPEN, "250 2.1.0 ok", "250 2.1.5 ok", "250 2.0.0 ok", "221 bye"];
        let (said, facts) = talk(Some("jane@example.org"), &replies);
        assert_eq!(said, "LHLO mx.example.org|MAIL FROM:<>|RCPT TO:<jane@example.org>|RSET|QUIT|");
        assert_eq!(facts.name.as_deref(), Some("be1.example.org"));
        assert_eq!(facts.greeting, facts.name);
        assert_eq!((facts.release, facts.starttls), (Some((3, 6)), false));
        assert_eq!(facts.auth, ["EXTERNAL"]);
        assert_eq!((facts.mail.unwrap().code, facts.rcpt.unwrap().code), (250, 250));
        assert_eq!(facts.failure, None);
        let (said, _) = talk(None, &replies);
        assert_eq!(said, "LHLO mx.example.org|MAIL FROM:<>|RSET|QUIT|");
        // Who closes without a farewell has said all.
        let (_, facts) = talk(Some("jane@example.org"), &replies[..5]);
        assert_eq!((facts.rcpt.unwrap().code, facts.failure), (250, None));
    }

    #[test]
    fn a_backend_that_wants_a_login_is_not_asked_for_the_recipient() {
        let under_tls = "250-be1.example.org\n250-AUTH PLAIN LOGIN\n250 Ok";
        let replies = [
            GREETING,
            CLOSED,
            "430 Authentication required",
            "250 ok",
            "220 go ahead",
            under_tls,
            "221",
        ];
        let (said, facts) = talk(Some("jane@example.org"), &replies);
        assert_eq!(
            said,
            "LHLO mx.example.org|MAIL FROM:<>|RSET|STARTTLS|LHLO mx.example.org|QUIT|"
        );
        assert_eq!(facts.auth, ["SCRAM-SHA-1"]);
        assert_eq!(facts.tls, Some(Tls::Up(vec!["PLAIN".into(), "LOGIN".into()])));
        assert_eq!((facts.mail.unwrap().code, facts.rcpt), (430, None));
    }

    #[test]
    fn what_goes_wrong_is_kept_with_where() {
        let failure = |replies: &[&str]| talk(None, replies).1.failure.unwrap();
        assert!(matches!(failure(&[]), Failure::Lost("the greeting", _)));
        assert!(matches!(failure(&[GREETING]), Failure::Lost("LHLO", _)));
        assert!(matches!(failure(&["SSH-2.0-x"]), Failure::NotLmtp(_)));
        assert!(matches!(failure(&["220", "500 5.5.1 what"]), Failure::NotLmtp(_)));
        let Failure::Refused(at, reply) = failure(&["421 4.3.2 going down"]) else { panic!() };
        assert!(at == "the greeting" && reply.is_temporary());
        let later = Failure::Refused("LHLO", Reply { code: 421, lines: vec!["later".into()] });
        assert_eq!(failure(&[GREETING, "421 later"]), later);
        let refused = [GREETING, CLOSED, "430 no", "250 ok", "454 no TLS", "221"];
        assert_eq!(talk(None, &refused).1.tls, Some(Tls::Failed("454 no TLS".into())));
        let lost = [GREETING, CLOSED, "430 no", "250 ok"];
        assert!(matches!(talk(None, &lost).1.tls, Some(Tls::Failed(_))));
    }

    #[test]
    fn no_input_can_put_a_command_into_the_conversation() {
        let odd = "a@b>\r\nDATA";
        let (said, _) = talk(Some(odd), &[GREETING, OPEN, "250 ok", "250 ok", "221 bye"]);
        assert_eq!(said, "LHLO mx.example.org|MAIL FROM:<>|RSET|QUIT|");
        let mut conversation = Conversation::new("mx\r\nDATA", None);
        conversation.line(b"220 x");
        assert_eq!(conversation.output(), b"LHLO localhost\r\n");
    }

    #[test]
    fn a_reply_without_end_is_given_up() {
        let mut conversation = Conversation::new("mx", None);
        for _ in 0..100 {
            conversation.line(b"220-again");
        }
        assert_eq!(conversation.step(), Step::Over);
    }

    #[test]
    fn releases_are_read_from_greetings() {
        for (greeting, expected) in [
            ("be1 Cyrus LMTP 3.12.4-Debian server ready", Some((3, 12))),
            ("be1 Cyrus LMTP v2.4.17 server ready", Some((2, 4))),
            ("be1 Cyrus LMTP server ready", None),
            ("be1 LMTP ready", None),
        ] {
            assert_eq!(release(greeting), expected, "{greeting}");
        }
    }
}
