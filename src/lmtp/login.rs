//! From the first byte of a connection to one that takes messages.

use std::fmt;

use super::reply::{LINE_LIMIT, NotLmtp, Reader, Reply, auth_mechanisms, offers, shown};
use crate::mupdate::{Circumstances, Credentials, Exchange, Mechanism, WhenTls, choose};

/// Maximum number of challenges of a login.
const MAX_CHALLENGES: u32 = 8;

/// Longest AUTH command with an initial response, in bytes (RFC 4954 section 4: the limit of a command
/// of RFC 5321). A longer response follows a challenge.
const MAX_COMMAND: usize = 500;

/// How to log in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// When to use STARTTLS.
    pub tls: WhenTls,
    /// Whether PLAIN may go over an unencrypted connection.
    pub allow_plaintext: bool,
    /// As whom to log in; `None`: not at all.
    pub credentials: Option<Credentials>,
    /// The mechanisms that may be used, the best one first. `None`: [`Mechanism::ALL`].
    pub mechanisms: Option<Vec<Mechanism>>,
}

/// What the caller of a [`Login`] has to do next.
#[derive(Debug)]
pub enum Step {
    /// Send the output and bring what comes.
    Wait,
    /// Begin TLS, with the certificate verified, and call [`Login::tls_is_up`].
    StartTls,
    /// Messages can be sent.
    Ready(Ready),
    /// Close the connection.
    Failed(Failure),
}

/// A connection that takes messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The greeting, as it came.
    pub greeting: Vec<u8>,
    /// The last reply to LHLO.
    pub lhlo: Reply,
    /// Whether it is under TLS.
    pub tls: bool,
    /// The mechanism of the login; `None`: the server offered none, as a pre-authorised one does.
    pub mechanism: Option<Mechanism>,
}

/// Why a connection takes no messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A refusal that is none of the login.
    #[error("at {0} it said `{shown}`", shown = .1.shown())]
    Refused(&'static str, Reply),
    /// No LMTP.
    #[error("no LMTP is spoken there: `{0}`")]
    NotLmtp(String),
    /// It did not keep to the protocol.
    #[error("it does not keep to the protocol: {0}")]
    Protocol(String),
    /// The server closed the connection.
    #[error("it closed the connection at {0}")]
    Closed(&'static str),
    /// It does not offer what the configuration demands.
    #[error(
        "TLS is required, and it does not offer STARTTLS: give it a certificate (tls_server_cert; from \
         Cyrus 3.8.6, 3.10.2 and 3.12.1 on also `allowstarttls: yes`); `lmtpd -a` never offers it"
    )]
    NoTls,
    /// It refused to begin TLS.
    #[error("it offers STARTTLS and refused it: `{shown}`", shown = .0.shown())]
    StartTlsRefused(Reply),
    /// TLS did not come about; the text is the caller's.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The certificate is not trusted; the text is the caller's.
    #[error("TLS failed: {0}")]
    Untrusted(String),
    /// No mechanism that both sides take.
    #[error("no common SASL mechanism: {0}")]
    NoMechanism(String),
    /// The login was refused.
    #[error(
        "it refused the login of `{name}` with {mechanism} (`{shown}`): the password is wrong, or \
         `{name}` is not in `lmtp_admins` (or `admins`) of its imapd.conf",
        shown = .said.shown()
    )]
    LoginRefused {
        /// Who logs in.
        name: String,
        /// By what.
        mechanism: Mechanism,
        /// What it said.
        said: Reply,
    },
    /// The server does not know the password itself.
    #[error("it did not prove that it knows the password ({0}): is it the right server?")]
    FalseServer(String),
}

impl Failure {
    /// Whether another try may do better with nothing changed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Failure::Refused(_, said)
            | Failure::StartTlsRefused(said)
            | Failure::LoginRefused { said, .. } => said.is_temporary(),
            Failure::Closed(_) => true,
            _ => false,
        }
    }
}

/// A login in progress.
///
/// After each call send what [`output`](Self::output) has, then look at [`step`](Self::step).
pub struct Login {
    us: String,
    policy: Policy,
    state: State,
    reader: Reader,
    /// The line that is not whole yet.
    line: Vec<u8>,
    output: Vec<u8>,
    greeting: Vec<u8>,
    tls: bool,
}

enum State {
    Greeting,
    Lhlo,
    StartTls,
    Handshake,
    Auth { lhlo: Reply, exchange: Box<Exchange>, initial: Option<String>, challenges: u32 },
    Ready(Ready),
    Gone,
    Failed(Failure),
}

impl State {
    fn as_str(&self) -> &'static str {
        match self {
            State::Greeting => "the greeting",
            State::Lhlo => "LHLO",
            State::StartTls => "STARTTLS",
            State::Handshake => "the TLS handshake",
            State::Auth { .. } => "AUTH",
            State::Ready(_) | State::Gone | State::Failed(_) => "QUIT",
        }
    }
}

impl Login {
    /// Waits for the greeting of a connection that was just made. `us`: the name of this host; one that
    /// cannot stand in a command is left out.
    pub fn new(us: &str, policy: Policy) -> Self {
        let fits = |us: &&str| us.bytes().all(|b| b > b' ' && b < 0x7f) && us.len() < 256;
        let us = Some(us).filter(|us| !us.is_empty()).filter(fits);
        Self {
            us: us.unwrap_or("localhost").to_owned(),
            policy,
            state: State::Greeting,
            reader: Reader::default(),
            line: Vec::new(),
            output: Vec::new(),
            greeting: Vec::new(),
            tls: false,
        }
    }

    /// What is to be sent; take out what was.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What is waited for, in words.
    pub fn waits_for(&self) -> &'static str {
        self.state.as_str()
    }

    /// What to do next. [`Step::Ready`] comes once.
    pub fn step(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Failed(failure) => {
                self.state = State::Failed(failure.clone());
                Step::Failed(failure)
            }
            State::Ready(ready) => Step::Ready(ready),
            state => {
                let handshake = matches!(state, State::Handshake);
                self.state = state;
                if handshake { Step::StartTls } else { Step::Wait }
            }
        }
    }

    /// Takes what came, in pieces of any size.
    pub fn receive(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match self.state {
                State::Failed(_) | State::Gone => return,
                // Before TLS it would be somebody else's, and after the login nothing was asked.
                State::Handshake | State::Ready(_) => {
                    return self.fail(Failure::Protocol("bytes that nobody asked for".into()));
                }
                _ => {}
            }
            if self.line.len() + piece.len() > LINE_LIMIT {
                return self.fail(Failure::NotLmtp("a line without end".into()));
            }
            self.line.extend_from_slice(piece);
            if self.line.last() != Some(&b'\n') {
                return;
            }
            let line = std::mem::take(&mut self.line);
            if let State::Greeting = self.state {
                self.greeting.extend_from_slice(&line);
            }
            match self.reader.line(line.strip_suffix(b"\n").unwrap_or(&line)) {
                Ok(Some(reply)) => self.reply(reply),
                Ok(None) => {}
                Err(NotLmtp(text)) => self.fail(Failure::NotLmtp(text)),
            }
        }
    }

    /// The connection is under TLS, and the certificate is the right one.
    pub fn tls_is_up(&mut self) {
        if matches!(self.state, State::Handshake) {
            self.tls = true;
            self.lhlo();
        }
    }

    /// The server closed the connection.
    pub fn closed(&mut self) {
        self.fail(Failure::Closed(self.state.as_str()));
    }

    fn fail(&mut self, failure: Failure) {
        if !matches!(self.state, State::Failed(_) | State::Gone) {
            self.state = State::Failed(failure);
            self.output.clear();
        }
    }

    fn say(&mut self, command: &str) {
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn lhlo(&mut self) {
        self.say(&format!("LHLO {}", self.us));
        self.state = State::Lhlo;
    }

    fn reply(&mut self, reply: Reply) {
        let at = self.state.as_str();
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Greeting if reply.code == 220 => self.lhlo(),
            State::Lhlo if reply.is_ok() => match self.greeted(reply) {
                Ok(state) => self.state = state,
                Err(failure) => self.state = State::Failed(failure),
            },
            // A server of SMTP knows no LHLO (RFC 2033, 4.1).
            State::Lhlo if (500..=504).contains(&reply.code) => {
                self.state = State::Failed(Failure::NotLmtp(reply.shown()));
            }
            State::StartTls if reply.is_ok() => self.state = State::Handshake,
            State::StartTls => self.state = State::Failed(Failure::StartTlsRefused(reply)),
            State::Auth { lhlo, exchange, initial, challenges } => {
                let next = self.authenticating(reply, lhlo, exchange, initial, challenges);
                self.state = next.unwrap_or_else(State::Failed);
            }
            _ => self.state = State::Failed(Failure::Refused(at, reply)),
        }
        if matches!(self.state, State::Failed(_)) {
            self.output.clear();
        }
    }

    /// After LHLO: TLS, the login, or nothing more.
    fn greeted(&mut self, lhlo: Reply) -> Result<State, Failure> {
        if !self.tls && self.policy.tls != WhenTls::Off {
            if offers(&lhlo, "STARTTLS") {
                self.say("STARTTLS");
                return Ok(State::StartTls);
            }
            if self.policy.tls == WhenTls::Required {
                return Err(Failure::NoTls);
            }
        }
        let offered = auth_mechanisms(&lhlo);
        // `lmtpd -a` offers EXTERNAL and takes messages as it is; whoever wants a login and offers
        // none answers MAIL with 430, or 530 (imap/lmtpengine.c).
        let asks = offered.iter().any(|mechanism| mechanism != "EXTERNAL");
        let Some(credentials) = self.policy.credentials.as_ref().filter(|_| asks) else {
            return Ok(self.ready(lhlo, None));
        };
        let circumstances = Circumstances {
            tls: self.tls,
            client_certificate: false,
            allow_plaintext: self.policy.allow_plaintext,
        };
        let wanted = self.policy.mechanisms.as_deref().unwrap_or(&Mechanism::ALL);
        let mechanism = choose(wanted, &offered, credentials, circumstances);
        let mechanism = mechanism.map_err(of_sasl)?;
        let (exchange, first) = Exchange::start(mechanism, credentials).map_err(of_sasl)?;
        // RFC 4954 section 4: an empty response is written `=`.
        let response = if first.is_empty() { "=" } else { &first };
        let command = format!("AUTH {mechanism} {response}");
        let initial = match command.len() > MAX_COMMAND {
            true => {
                self.say(&format!("AUTH {mechanism}"));
                Some(first)
            }
            false => {
                self.say(&command);
                None
            }
        };
        Ok(State::Auth { lhlo, exchange: Box::new(exchange), initial, challenges: 0 })
    }

    fn authenticating(
        &mut self,
        reply: Reply,
        lhlo: Reply,
        mut exchange: Box<Exchange>,
        initial: Option<String>,
        challenges: u32,
    ) -> Result<State, Failure> {
        let mechanism = exchange.mechanism();
        if reply.is_ok() {
            exchange.check_success().map_err(of_sasl)?;
            return Ok(self.ready(lhlo, Some(mechanism)));
        }
        if reply.code != 334 {
            let name = self.policy.credentials.as_ref().map_or("", Credentials::name).to_owned();
            return Err(Failure::LoginRefused { name, mechanism, said: reply });
        }
        if challenges == MAX_CHALLENGES {
            return Err(Failure::Protocol("a login without end".into()));
        }
        let answer = match initial {
            Some(initial) => initial,
            None => exchange.challenge(reply.text().trim().as_bytes()).map_err(of_sasl)?,
        };
        self.say(&answer);
        Ok(State::Auth { lhlo, exchange, initial: None, challenges: challenges + 1 })
    }

    fn ready(&mut self, lhlo: Reply, mechanism: Option<Mechanism>) -> State {
        let greeting = std::mem::take(&mut self.greeting);
        State::Ready(Ready { greeting, lhlo, tls: self.tls, mechanism })
    }
}

/// Failures of SASL, which MUPDATE carries as well.
fn of_sasl(failure: crate::mupdate::Failure) -> Failure {
    use crate::mupdate::Failure as Sasl;
    match failure {
        Sasl::NoMechanism(text) => Failure::NoMechanism(text),
        Sasl::FalseServer(text) => Failure::FalseServer(text),
        Sasl::Protocol(text) => Failure::Protocol(shown(&text)),
        Sasl::NoCredentials => Failure::NoMechanism("no name and password are configured".into()),
        other => Failure::Protocol(other.to_string()),
    }
}

// What is to be sent has the password in it.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("at", &self.state.as_str()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
