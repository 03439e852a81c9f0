//! The LMTP dialogue with a backend's lmtpd, as a state machine: lines in, lines out, [`Facts`] at the
//! end.
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
//! It has no DATA, so no message can result.

use std::time::Duration;

use super::one_line;
pub use crate::lmtp::{LINE_LIMIT, LmtpReply};
use crate::lmtp::{NotLmtp, ReplyReader, auth_mechanisms, offers};

/// Result of STARTTLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsOutcome {
    /// Encrypted, with the mechanisms offered then.
    Up(Vec<String>),
    /// Offered, but not supported by the TLS of this program, unlike that of a mail server: ciphers
    /// without ECDHE, versions before 1.2, unusual certificates.
    Untestable(String),
    /// Offered, but failed.
    Failed(String),
}

/// Result of the login that Postfix would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// Not tried, for this reason.
    Skipped(String),
    /// Successful.
    In(String),
    /// Refused.
    Refused(crate::lmtp::LmtpFailure),
    /// The connection was lost.
    Lost(String),
}

/// Result of a connection as `murder-route lmtp` makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// Configured without TLS and login for this backend.
    Plain,
    /// Successful.
    Ready(String),
    /// Refused.
    Failed {
        /// The reason.
        why: String,
        /// Whether a later try may succeed.
        temporary: bool,
    },
}

/// Observations of a backend.
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
    /// Result of STARTTLS, if offered.
    pub tls: Option<TlsOutcome>,
    /// The certificate chain, its own first, in DER.
    pub chain: Vec<Vec<u8>>,
    /// Time of the handshake, since 1970.
    pub at: Duration,
    /// Result of the login that Postfix would make.
    pub tried: Option<Tried>,
    /// Result of a connection as `murder-route lmtp` makes it.
    pub own: Option<Own>,
    /// LmtpReply to MAIL FROM:<>.
    pub mail: Option<LmtpReply>,
    /// LmtpReply to RCPT TO, if there was a recipient and MAIL was accepted.
    pub rcpt: Option<LmtpReply>,
    /// Failure that ended the dialogue early.
    pub failure: Option<ProbeFailure>,
}

impl Facts {
    /// Whether it accepts nothing before a login: 430 unless `soft_noauth: off` (imap/lmtpengine.c).
    pub fn wants_login(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| matches!(mail.code, 430 | 530))
    }
}

/// Reason for an early end of the dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeFailure {
    /// No connection.
    Connect(String),
    /// An unexpected reply, and the step.
    Refused(&'static str, LmtpReply),
    /// It does not speak LMTP.
    NotLmtp(String),
    /// The connection ended, or a reply timed out: the step and the reason.
    Lost(&'static str, String),
}

/// Next action of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStep {
    /// Send [`LmtpProbe::output`], and read a line.
    Line,
    /// Begin TLS, then call [`LmtpProbe::tls`].
    StartTls,
    /// Send the output and close.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbePhase {
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

impl ProbePhase {
    fn as_str(self) -> &'static str {
        match self {
            ProbePhase::Greeting => "the greeting",
            ProbePhase::Lhlo | ProbePhase::LhloUnderTls => "LHLO",
            ProbePhase::Mail => "MAIL FROM",
            ProbePhase::Rcpt => "RCPT TO",
            ProbePhase::Rset => "RSET",
            ProbePhase::StartTls => "STARTTLS",
            ProbePhase::Handshake => "the TLS handshake",
            ProbePhase::Quit | ProbePhase::Over => "QUIT",
        }
    }
}

/// An LMTP dialogue.
#[derive(Debug)]
pub struct LmtpProbe {
    us: String,
    recipient: Option<String>,
    phase: ProbePhase,
    reader: ReplyReader,
    output: Vec<u8>,
    facts: Facts,
}

impl LmtpProbe {
    /// Begins the dialogue with a backend that has just accepted the connection. `us`: the name of this
    /// host. A name or recipient that is invalid in LMTP is left out.
    pub fn new(us: &str, recipient: Option<&str>) -> Self {
        let fits = |text: &&str| text.bytes().all(|b| b > b' ' && b != 0x7f) && text.len() < 500;
        let plain = |text: &&str| text.bytes().all(|b| b >= b' ' && b != 0x7f) && text.len() < 500;
        Self {
            us: Some(us).filter(fits).unwrap_or("localhost").to_owned(),
            recipient: recipient.filter(plain).map(str::to_owned),
            phase: ProbePhase::Greeting,
            reader: ReplyReader::default(),
            output: Vec::new(),
            facts: Facts::default(),
        }
    }

    /// Output to send. The caller removes what it sends.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Next action of the caller.
    pub fn step(&self) -> ProbeStep {
        match self.phase {
            ProbePhase::Over => ProbeStep::Over,
            ProbePhase::Handshake => ProbeStep::StartTls,
            _ => ProbeStep::Line,
        }
    }

    /// Takes a line without its end.
    pub fn line(&mut self, line: &[u8]) {
        match self.reader.line(line) {
            Ok(Some(reply)) => self.reply(reply),
            Ok(None) => {}
            Err(NotLmtp(text)) => self.fail(ProbeFailure::NotLmtp(text)),
        }
    }

    /// Takes the result of the handshake: the certificate chain, or the failure.
    pub fn tls(&mut self, outcome: Result<Vec<Vec<u8>>, TlsOutcome>) {
        if self.phase != ProbePhase::Handshake {
            return;
        }
        match outcome {
            Ok(chain) => {
                self.facts.chain = chain;
                self.lhlo(ProbePhase::LhloUnderTls);
            }
            // The stream is unusable after that.
            Err(outcome) => {
                self.facts.tls = Some(outcome);
                self.phase = ProbePhase::Over;
            }
        }
    }

    /// Takes the end of the connection, or a timeout.
    pub fn lost(&mut self, why: &str) {
        let waited_for = self.phase.as_str();
        match self.phase {
            // The dialogue was complete.
            ProbePhase::Quit | ProbePhase::Over => {}
            ProbePhase::StartTls | ProbePhase::Handshake | ProbePhase::LhloUnderTls => {
                self.facts.tls =
                    Some(TlsOutcome::Failed(format!("{waited_for}: {}", one_line(why))));
            }
            _ => self.facts.failure = Some(ProbeFailure::Lost(waited_for, one_line(why))),
        }
        self.phase = ProbePhase::Over;
    }

    /// The observations.
    pub fn facts(self) -> Facts {
        self.facts
    }

    fn say(&mut self, command: &str, phase: ProbePhase) {
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.phase = phase;
    }

    fn lhlo(&mut self, phase: ProbePhase) {
        let command = format!("LHLO {}", self.us);
        self.say(&command, phase);
    }

    fn fail(&mut self, failure: ProbeFailure) {
        self.facts.failure = Some(failure);
        self.say("QUIT", ProbePhase::Over);
    }

    fn reply(&mut self, reply: LmtpReply) {
        match self.phase {
            ProbePhase::Greeting if reply.code == 220 => {
                let greeting = reply.lines.first().map_or("", String::as_str);
                self.facts.greeting = greeting.split_whitespace().next().map(one_line);
                self.facts.release = release(greeting);
                self.lhlo(ProbePhase::Lhlo);
            }
            ProbePhase::Lhlo if reply.is_ok() => {
                let first = reply.lines.first();
                let name = first.and_then(|line| line.split_whitespace().next());
                self.facts.name = name.map(one_line);
                self.facts.starttls = offers(&reply, "STARTTLS");
                self.facts.smtputf8 = offers(&reply, "SMTPUTF8");
                self.facts.auth = auth_mechanisms(&reply);
                self.say("MAIL FROM:<>", ProbePhase::Mail);
            }
            // An SMTP server has no LHLO (RFC 2033, 4.1).
            ProbePhase::Lhlo if (500..=504).contains(&reply.code) => {
                self.fail(ProbeFailure::NotLmtp(reply.to_string()));
            }
            ProbePhase::Mail => {
                let taken = reply.is_ok();
                self.facts.mail = Some(reply);
                match self.recipient.take().filter(|_| taken) {
                    Some(recipient) => {
                        self.say(&format!("RCPT TO:<{recipient}>"), ProbePhase::Rcpt)
                    }
                    None => self.say("RSET", ProbePhase::Rset),
                }
            }
            ProbePhase::Rcpt => {
                self.facts.rcpt = Some(reply);
                self.say("RSET", ProbePhase::Rset);
            }
            ProbePhase::Rset if self.facts.starttls => self.say("STARTTLS", ProbePhase::StartTls),
            ProbePhase::Rset => self.say("QUIT", ProbePhase::Quit),
            ProbePhase::StartTls if reply.is_ok() => self.phase = ProbePhase::Handshake,
            ProbePhase::StartTls => {
                self.facts.tls = Some(TlsOutcome::Failed(reply.to_string()));
                self.say("QUIT", ProbePhase::Quit);
            }
            ProbePhase::LhloUnderTls => {
                self.facts.tls = Some(TlsOutcome::Up(auth_mechanisms(&reply)));
                self.say("QUIT", ProbePhase::Quit);
            }
            ProbePhase::Quit | ProbePhase::Handshake | ProbePhase::Over => {
                self.phase = ProbePhase::Over
            }
            phase @ (ProbePhase::Greeting | ProbePhase::Lhlo) => {
                self.fail(ProbeFailure::Refused(phase.as_str(), reply));
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

    /// Runs a dialogue with these replies. Returns the commands and the observations.
    fn talk(recipient: Option<&str>, replies: &[&str]) -> (String, Facts) {
        let mut conversation = LmtpProbe::new("mx.example.org", recipient);
        let mut said = String::new();
        let mut replies = replies.iter();
        loop {
            let output = std::mem::take(conversation.output());
            said += std::str::from_utf8(&output).unwrap();
            match conversation.step() {
                ProbeStep::Over => break,
                ProbeStep::StartTls => conversation.tls(Ok(Vec::new())),
                ProbeStep::Line => match replies.next() {
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
    fn pre_authorised_backend_is_asked_up_to_rcpt_only() {
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
        // A close without a reply to QUIT is no failure.
        let (_, facts) = talk(Some("jane@example.org"), &replies[..5]);
        assert_eq!((facts.rcpt.unwrap().code, facts.failure), (250, None));
    }

    #[test]
    fn backend_that_wants_a_login_is_not_asked_for_the_recipient() {
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
        assert_eq!(facts.tls, Some(TlsOutcome::Up(vec!["PLAIN".into(), "LOGIN".into()])));
        assert_eq!((facts.mail.unwrap().code, facts.rcpt), (430, None));
    }

    #[test]
    fn failure_is_kept_with_its_step() {
        let failure = |replies: &[&str]| talk(None, replies).1.failure.unwrap();
        assert!(matches!(failure(&[]), ProbeFailure::Lost("the greeting", _)));
        assert!(matches!(failure(&[GREETING]), ProbeFailure::Lost("LHLO", _)));
        assert!(matches!(failure(&["SSH-2.0-x"]), ProbeFailure::NotLmtp(_)));
        assert!(matches!(failure(&["220", "500 5.5.1 what"]), ProbeFailure::NotLmtp(_)));
        let ProbeFailure::Refused(at, reply) = failure(&["421 4.3.2 going down"]) else { panic!() };
        assert!(at == "the greeting" && reply.is_temporary());
        let later =
            ProbeFailure::Refused("LHLO", LmtpReply { code: 421, lines: vec!["later".into()] });
        assert_eq!(failure(&[GREETING, "421 later"]), later);
        let refused = [GREETING, CLOSED, "430 no", "250 ok", "454 no TLS", "221"];
        assert_eq!(talk(None, &refused).1.tls, Some(TlsOutcome::Failed("454 no TLS".into())));
        let lost = [GREETING, CLOSED, "430 no", "250 ok"];
        assert!(matches!(talk(None, &lost).1.tls, Some(TlsOutcome::Failed(_))));
    }

    #[test]
    fn input_cannot_inject_a_command_into_the_dialogue() {
        let odd = "a@b>\r\nDATA";
        let (said, _) = talk(Some(odd), &[GREETING, OPEN, "250 ok", "250 ok", "221 bye"]);
        assert_eq!(said, "LHLO mx.example.org|MAIL FROM:<>|RSET|QUIT|");
        let mut conversation = LmtpProbe::new("mx\r\nDATA", None);
        conversation.line(b"220 x");
        assert_eq!(conversation.output(), b"LHLO localhost\r\n");
    }

    #[test]
    fn endless_reply_is_given_up() {
        let mut conversation = LmtpProbe::new("mx", None);
        for _ in 0..100 {
            conversation.line(b"220-again");
        }
        assert_eq!(conversation.step(), ProbeStep::Over);
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
