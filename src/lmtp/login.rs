//! Login to a backend: from the greeting to a connection that accepts messages.

use std::fmt;

use super::reply::{
    LINE_LIMIT, LmtpReply, NotLmtp, ReplyReader, auth_mechanisms, offers, printable,
};
use crate::mupdate::{Circumstances, Credentials, Exchange, Mechanism, WhenTls, choose};

/// Maximum number of challenges of a login.
const MAX_CHALLENGES: u32 = 8;

/// Maximum length of an AUTH command with an initial response, in bytes (RFC 4954 section 4: the limit of a command
/// of RFC 5321). A longer response follows a challenge.
const MAX_COMMAND: usize = 500;

/// How to log in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LmtpPolicy {
    /// When to use STARTTLS.
    pub tls: WhenTls,
    /// Whether PLAIN may go over an unencrypted connection.
    pub allow_plaintext: bool,
    /// Credentials; `None`: no login.
    pub credentials: Option<Credentials>,
    /// The mechanisms that may be used, the best one first. `None`: [`Mechanism::ALL`].
    pub mechanisms: Option<Vec<Mechanism>>,
}

/// The next action of the caller of a [`LmtpLogin`].
#[derive(Debug)]
pub enum LmtpStep {
    /// Send the output, then pass on received bytes.
    Wait,
    /// Begin TLS, with the certificate verified, and call [`LmtpLogin::tls_is_up`].
    StartTls,
    /// Messages can be sent.
    Ready(Ready),
    /// Close the connection.
    Failed(LmtpFailure),
}

/// A connection that accepts messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The greeting as received.
    pub greeting: Vec<u8>,
    /// The last reply to LHLO.
    pub lhlo: LmtpReply,
    /// Whether it uses TLS.
    pub tls: bool,
    /// The mechanism of the login; `None`: the server offered none, as a pre-authorised one does.
    pub mechanism: Option<Mechanism>,
}

/// Why a connection accepts no messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LmtpFailure {
    /// The server refused a step other than the login.
    #[error("the server refused {0}: `{1}`")]
    Refused(&'static str, LmtpReply),
    /// The other end does not speak LMTP.
    #[error("not an LMTP server: `{0}`")]
    NotLmtp(String),
    /// The server violates the protocol.
    #[error("the server violates the protocol: {0}")]
    Protocol(String),
    /// The server closed the connection.
    #[error("the server closed the connection at {0}")]
    Closed(&'static str),
    /// The server does not offer STARTTLS, which the configuration requires.
    #[error(
        "TLS is required, and the server does not offer STARTTLS; set its certificate (tls_server_cert; \
         from Cyrus 3.8.6, 3.10.2 and 3.12.1 on also `allowstarttls: yes`); `lmtpd -a` never offers it"
    )]
    NoTls,
    /// The server refused to start TLS.
    #[error("the server offers STARTTLS and refused it: `{0}`")]
    StartTlsRefused(LmtpReply),
    /// The TLS handshake failed; the text is that of the caller.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The certificate is not trusted; the text is that of the caller.
    #[error("TLS failed: {0}")]
    Untrusted(String),
    /// Both sides have no mechanism in common.
    #[error("no common SASL mechanism: {0}")]
    NoMechanism(String),
    /// The login was refused.
    #[error(
        "the server refused the login of `{name}` with {mechanism} (`{said}`): the password is wrong, or \
         `{name}` is not in `lmtp_admins` (or `admins`) of its imapd.conf"
    )]
    LoginRefused {
        /// The name of the login.
        name: String,
        /// The mechanism.
        mechanism: Mechanism,
        /// The reply of the server.
        said: LmtpReply,
    },
    /// The server did not prove that it knows the password.
    #[error("the server did not prove that it knows the password ({0}); check its address")]
    FalseServer(String),
}

impl LmtpFailure {
    /// Whether another attempt may succeed without a change.
    pub fn is_temporary(&self) -> bool {
        match self {
            LmtpFailure::Refused(_, said)
            | LmtpFailure::StartTlsRefused(said)
            | LmtpFailure::LoginRefused { said, .. } => said.is_temporary(),
            LmtpFailure::Closed(_) => true,
            _ => false,
        }
    }
}

/// A login in progress.
///
/// After each call send the [`output`](Self::output), then take the next [`step`](Self::step).
pub struct LmtpLogin {
    us: String,
    policy: LmtpPolicy,
    state: LoginState,
    reader: ReplyReader,
    /// The incomplete last line.
    line: Vec<u8>,
    output: Vec<u8>,
    greeting: Vec<u8>,
    tls: bool,
}

enum LoginState {
    Greeting,
    Lhlo,
    StartTls,
    Handshake,
    Auth { lhlo: LmtpReply, exchange: Box<Exchange>, initial: Option<String>, challenges: u32 },
    Ready(Ready),
    Gone,
    Failed(LmtpFailure),
}

impl LoginState {
    fn as_str(&self) -> &'static str {
        match self {
            LoginState::Greeting => "the greeting",
            LoginState::Lhlo => "LHLO",
            LoginState::StartTls => "STARTTLS",
            LoginState::Handshake => "the TLS handshake",
            LoginState::Auth { .. } => "AUTH",
            LoginState::Ready(_) | LoginState::Gone | LoginState::Failed(_) => "QUIT",
        }
    }
}

impl LmtpLogin {
    /// Begins with the greeting of a new connection. `us`: the name of this host; `localhost` if it
    /// cannot be part of a command.
    pub fn new(us: &str, policy: LmtpPolicy) -> Self {
        let fits = |us: &&str| us.bytes().all(|b| b > b' ' && b < 0x7f) && us.len() < 256;
        let us = Some(us).filter(|us| !us.is_empty()).filter(fits);
        Self {
            us: us.unwrap_or("localhost").to_owned(),
            policy,
            state: LoginState::Greeting,
            reader: ReplyReader::default(),
            line: Vec::new(),
            output: Vec::new(),
            greeting: Vec::new(),
            tls: false,
        }
    }

    /// Bytes to send. The caller removes those that it has sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Name of the reply that is awaited.
    pub fn waits_for(&self) -> &'static str {
        self.state.as_str()
    }

    /// The next action. [`LmtpStep::Ready`] is returned once.
    pub fn step(&mut self) -> LmtpStep {
        match std::mem::replace(&mut self.state, LoginState::Gone) {
            LoginState::Failed(failure) => {
                self.state = LoginState::Failed(failure.clone());
                LmtpStep::Failed(failure)
            }
            LoginState::Ready(ready) => LmtpStep::Ready(ready),
            state => {
                let handshake = matches!(state, LoginState::Handshake);
                self.state = state;
                if handshake { LmtpStep::StartTls } else { LmtpStep::Wait }
            }
        }
    }

    /// Processes received bytes, in pieces of any size.
    pub fn receive(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match self.state {
                LoginState::Failed(_) | LoginState::Gone => return,
                // Before TLS an attacker may have sent them, and after the login no reply is due.
                LoginState::Handshake | LoginState::Ready(_) => {
                    return self.fail(LmtpFailure::Protocol("unsolicited bytes".into()));
                }
                _ => {}
            }
            if self.line.len() + piece.len() > LINE_LIMIT {
                return self.fail(LmtpFailure::NotLmtp("endless line".into()));
            }
            self.line.extend_from_slice(piece);
            if self.line.last() != Some(&b'\n') {
                return;
            }
            let line = std::mem::take(&mut self.line);
            if let LoginState::Greeting = self.state {
                self.greeting.extend_from_slice(&line);
            }
            match self.reader.line(line.strip_suffix(b"\n").unwrap_or(&line)) {
                Ok(Some(reply)) => self.reply(reply),
                Ok(None) => {}
                Err(NotLmtp(text)) => self.fail(LmtpFailure::NotLmtp(text)),
            }
        }
    }

    /// The TLS handshake is complete, and the certificate is verified.
    pub fn tls_is_up(&mut self) {
        if matches!(self.state, LoginState::Handshake) {
            self.tls = true;
            self.lhlo();
        }
    }

    /// The server closed the connection.
    pub fn closed(&mut self) {
        self.fail(LmtpFailure::Closed(self.state.as_str()));
    }

    fn fail(&mut self, failure: LmtpFailure) {
        if !matches!(self.state, LoginState::Failed(_) | LoginState::Gone) {
            self.state = LoginState::Failed(failure);
            self.output.clear();
        }
    }

    fn send(&mut self, command: &str) {
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn lhlo(&mut self) {
        self.send(&format!("LHLO {}", self.us));
        self.state = LoginState::Lhlo;
    }

    fn reply(&mut self, reply: LmtpReply) {
        let at = self.state.as_str();
        match std::mem::replace(&mut self.state, LoginState::Gone) {
            LoginState::Greeting if reply.code == 220 => self.lhlo(),
            LoginState::Lhlo if reply.is_ok() => match self.greeted(reply) {
                Ok(state) => self.state = state,
                Err(failure) => self.state = LoginState::Failed(failure),
            },
            // A server of SMTP knows no LHLO (RFC 2033, 4.1).
            LoginState::Lhlo if (500..=504).contains(&reply.code) => {
                self.state = LoginState::Failed(LmtpFailure::NotLmtp(reply.to_string()));
            }
            LoginState::StartTls if reply.is_ok() => self.state = LoginState::Handshake,
            LoginState::StartTls => {
                self.state = LoginState::Failed(LmtpFailure::StartTlsRefused(reply))
            }
            LoginState::Auth { lhlo, exchange, initial, challenges } => {
                let next = self.authenticating(reply, lhlo, exchange, initial, challenges);
                self.state = next.unwrap_or_else(LoginState::Failed);
            }
            _ => self.state = LoginState::Failed(LmtpFailure::Refused(at, reply)),
        }
        if matches!(self.state, LoginState::Failed(_)) {
            self.output.clear();
        }
    }

    /// After LHLO: TLS, the login, or nothing more.
    fn greeted(&mut self, lhlo: LmtpReply) -> Result<LoginState, LmtpFailure> {
        if !self.tls && self.policy.tls != WhenTls::Off {
            if offers(&lhlo, "STARTTLS") {
                self.send("STARTTLS");
                return Ok(LoginState::StartTls);
            }
            if self.policy.tls == WhenTls::Required {
                return Err(LmtpFailure::NoTls);
            }
        }
        let offered = auth_mechanisms(&lhlo);
        // `lmtpd -a` offers EXTERNAL and accepts messages without a login; a server that wants a login and
        // offers none answers MAIL with 430, or 530 (imap/lmtpengine.c).
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
        let mechanism = mechanism.map_err(from_sasl)?;
        let (exchange, first) = Exchange::start(mechanism, credentials).map_err(from_sasl)?;
        // RFC 4954 section 4: an empty response is written `=`.
        let response = if first.is_empty() { "=" } else { &first };
        let command = format!("AUTH {mechanism} {response}");
        let initial = match command.len() > MAX_COMMAND {
            true => {
                self.send(&format!("AUTH {mechanism}"));
                Some(first)
            }
            false => {
                self.send(&command);
                None
            }
        };
        Ok(LoginState::Auth { lhlo, exchange: Box::new(exchange), initial, challenges: 0 })
    }

    fn authenticating(
        &mut self,
        reply: LmtpReply,
        lhlo: LmtpReply,
        mut exchange: Box<Exchange>,
        initial: Option<String>,
        challenges: u32,
    ) -> Result<LoginState, LmtpFailure> {
        let mechanism = exchange.mechanism();
        if reply.is_ok() {
            exchange.check_success().map_err(from_sasl)?;
            return Ok(self.ready(lhlo, Some(mechanism)));
        }
        if reply.code != 334 {
            let name = self.policy.credentials.as_ref().map_or("", Credentials::name).to_owned();
            return Err(LmtpFailure::LoginRefused { name, mechanism, said: reply });
        }
        if challenges == MAX_CHALLENGES {
            return Err(LmtpFailure::Protocol("endless login".into()));
        }
        let answer = match initial {
            Some(initial) => initial,
            None => exchange.challenge(reply.text().trim().as_bytes()).map_err(from_sasl)?,
        };
        self.send(&answer);
        Ok(LoginState::Auth { lhlo, exchange, initial: None, challenges: challenges + 1 })
    }

    fn ready(&mut self, lhlo: LmtpReply, mechanism: Option<Mechanism>) -> LoginState {
        let greeting = std::mem::take(&mut self.greeting);
        LoginState::Ready(Ready { greeting, lhlo, tls: self.tls, mechanism })
    }
}

/// Converts failures of SASL, which MUPDATE uses as well.
fn from_sasl(failure: crate::mupdate::Failure) -> LmtpFailure {
    use crate::mupdate::Failure as Sasl;
    match failure {
        Sasl::NoMechanism(text) => LmtpFailure::NoMechanism(text),
        Sasl::FalseServer(text) => LmtpFailure::FalseServer(text),
        Sasl::Protocol(text) => LmtpFailure::Protocol(printable(&text)),
        Sasl::NoCredentials => {
            LmtpFailure::NoMechanism("no name and password are configured".into())
        }
        other => LmtpFailure::Protocol(other.to_string()),
    }
}

// The output holds the password.
impl fmt::Debug for LmtpLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LmtpLogin").field("at", &self.state.as_str()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
