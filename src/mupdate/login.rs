//! The login, from the first byte of a connection to a session.

use std::fmt;
use std::time::Duration;

use super::banner::{Banner, BannerReader, Role, family};
use super::command::{Command, Tag};
use super::credentials::{Credentials, Mechanism, WhenTls};
use super::failure::Failure;
use super::response::{Response, Status, printable};
use super::sasl::{Circumstances, Exchange, choose};
use super::wire::{Input, MAX_LOGIN_LINE};
use super::{Session, Timings};

/// Maximum number of challenges of a login.
const MAX_CHALLENGES: u32 = 8;

/// First family of Cyrus whose mupdate is known to survive TLS.
const DIES_OF_TLS_BEFORE: (u32, u32) = (3, 10);

const START_TLS: Tag = Tag::new('S', 1);
const AUTHENTICATE: Tag = Tag::new('A', 1);

/// Requirements of a login.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// When to use STARTTLS.
    pub tls: WhenTls,
    /// Whether PLAIN, which sends the password itself, is allowed on an unencrypted connection.
    pub allow_plaintext: bool,
    /// Required `servername` in the banner. It prevents a promoted slave from being mistaken for the
    /// master.
    pub master: Option<String>,
    /// Required role of the server.
    pub need: Need,
    /// Mechanisms allowed, in order of preference. `None`: [`Mechanism::ALL`].
    pub mechanisms: Option<Vec<Mechanism>>,
    /// Timeouts.
    pub timings: Timings,
}

/// Required role of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Need {
    /// The master: only it sends all changes, and only its misses are certain.
    #[default]
    Master,
    /// Master or slave.
    Any,
}

/// Next action for the caller of a [`Login`].
#[derive(Debug)]
pub enum Step {
    /// Send the output and receive more bytes.
    Wait,
    /// Start TLS on the connection, verify the server's certificate, and call [`Login::tls_is_up`].
    StartTls,
    /// The login succeeded.
    In(Session),
    /// Close the connection. The failure is permanent.
    Failed(Failure),
}

/// A login in progress.
///
/// After each call, send [`output`](Self::output), then evaluate [`step`](Self::step). Call
/// [`tick`](Self::tick) when [`deadline`](Self::deadline) is reached, and [`closed`](Self::closed)
/// at the end of the connection.
pub struct Login {
    policy: Policy,
    credentials: Credentials,
    began: Duration,
    state: State,
    input: Input,
    output: Vec<u8>,
    tls: bool,
    client_certificate: bool,
}

#[derive(Debug)]
enum State {
    Banner { reader: BannerReader, began: Duration },
    StartTls,
    Handshake,
    Authenticating { banner: Banner, exchange: Box<Exchange>, challenges: u32 },
    In { banner: Banner, mechanism: Mechanism },
    Gone,
    Failed(Failure),
}

impl Login {
    /// Starts a login on a new connection; the banner comes first.
    pub fn new(policy: Policy, credentials: Credentials, now: Duration) -> Self {
        Self {
            policy,
            credentials,
            began: now,
            state: State::Banner { reader: BannerReader::default(), began: now },
            input: Input::new(MAX_LOGIN_LINE),
            output: Vec::new(),
            tls: false,
            client_certificate: false,
        }
    }

    /// Takes received bytes, in pieces of any size.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        // A slow trickle of bytes does not extend a deadline.
        self.tick(now);
        match self.state {
            State::Failed(_) => return,
            State::Handshake => return self.fail(Failure::Injected),
            _ => self.input.push(bytes),
        }
        if let Err(failure) = self.read() {
            self.fail(failure);
        }
    }

    /// Records that TLS is up and the server's certificate is valid. The server sends a new banner.
    /// `client_certificate`: whether we presented a client certificate.
    pub fn tls_is_up(&mut self, now: Duration, client_certificate: bool) {
        if matches!(self.state, State::Handshake) {
            self.tls = true;
            self.client_certificate = client_certificate;
            self.state = State::Banner { reader: BannerReader::default(), began: now };
        }
    }

    /// Records that the server closed the connection.
    pub fn closed(&mut self) {
        self.fail(Failure::Closed(match self.state {
            State::Banner { .. } => "before its banner was complete",
            State::StartTls | State::Handshake => "in STARTTLS",
            _ => "during the login",
        }));
    }

    /// Returns the bytes to send; the caller removes those it has sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Returns the next action. [`Step::In`] is returned once.
    pub fn step(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Failed(failure) => {
                self.state = State::Failed(failure.clone());
                Step::Failed(failure)
            }
            State::In { banner, mechanism } => {
                let input = std::mem::replace(&mut self.input, Input::new(MAX_LOGIN_LINE));
                Step::In(Session::new(banner, mechanism.as_str(), self.tls, input))
            }
            State::Handshake => {
                self.state = State::Handshake;
                Step::StartTls
            }
            state => {
                self.state = state;
                Step::Wait
            }
        }
    }

    /// Returns the time at which [`tick`](Self::tick) must be called, TLS handshake included.
    pub fn deadline(&self) -> Option<Duration> {
        let whole = self.began + self.policy.timings.login;
        match &self.state {
            State::Banner { began, .. } => Some(whole.min(*began + self.policy.timings.banner)),
            State::In { .. } | State::Gone | State::Failed(_) => None,
            _ => Some(whole),
        }
    }

    /// Updates the clock.
    pub fn tick(&mut self, now: Duration) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.fail(Failure::Timeout(match self.state {
                State::Banner { .. } => {
                    "the MUPDATE server took the connection and did not send its banner in time: \
                     are all its workers busy (mupdate_workers_max)?"
                }
                State::Handshake => "the TLS handshake with the MUPDATE server takes too long",
                _ => "the login to the MUPDATE server takes too long",
            }));
        }
    }

    fn fail(&mut self, failure: Failure) {
        if !matches!(self.state, State::Failed(_) | State::Gone | State::In { .. }) {
            self.state = State::Failed(failure);
            self.input.clear();
            self.output.clear();
        }
    }

    fn read(&mut self) -> Result<(), Failure> {
        while !matches!(
            self.state,
            State::Handshake | State::In { .. } | State::Gone | State::Failed(_)
        ) {
            let Some(response) = Response::read(&mut self.input)? else { break };
            if let Response::Status { tag: b"*", status: Status::Bye, text } = &response {
                return Err(Failure::Bye(printable(text)));
            }
            match &mut self.state {
                State::Banner { reader, .. } => {
                    if let Some(banner) = reader.take(&response)? {
                        self.greeted(banner)?;
                    }
                }
                State::StartTls => match response {
                    Response::Status { tag, status, text } if START_TLS.is(tag) => {
                        if status != Status::Ok {
                            return Err(Failure::StartTlsRefused(printable(&text)));
                        }
                        if !self.input.is_empty() {
                            return Err(Failure::Injected);
                        }
                        self.state = State::Handshake;
                    }
                    _ => return Err(Failure::protocol("no answer to STARTTLS")),
                },
                State::Authenticating { banner, exchange, challenges } => match response {
                    Response::Status { tag, status, text } if AUTHENTICATE.is(tag) => {
                        if status != Status::Ok {
                            let text = printable(&text);
                            let mechanism = exchange.mechanism();
                            return Err(refused(&self.credentials, mechanism, &text));
                        }
                        exchange.check_success()?;
                        let mechanism = exchange.mechanism();
                        self.state = State::In { banner: banner.clone(), mechanism };
                    }
                    Response::Other(line) if !line.contains(&b' ') => {
                        *challenges += 1;
                        if *challenges > MAX_CHALLENGES {
                            return Err(Failure::protocol("a login without an end"));
                        }
                        let answer = exchange.challenge(line)?;
                        self.output.extend_from_slice(answer.as_bytes());
                        self.output.extend_from_slice(b"\r\n");
                    }
                    _ => return Err(Failure::protocol("no answer to AUTHENTICATE")),
                },
                _ => break,
            }
        }
        Ok(())
    }

    /// Handles a complete banner.
    fn greeted(&mut self, banner: Banner) -> Result<(), Failure> {
        if !self.tls && self.policy.tls != WhenTls::Off {
            if banner.starttls && !self.spares(&banner) {
                Command::StartTls.encode(START_TLS, &mut self.output);
                self.state = State::StartTls;
                return Ok(());
            }
            if self.policy.tls == WhenTls::Required {
                return Err(Failure::TlsRequired { server: banner.server });
            }
        }
        if let Some(expected) = &self.policy.master
            && !expected.eq_ignore_ascii_case(&banner.server)
        {
            return Err(Failure::OtherServer { expected: expected.clone(), found: banner.server });
        }
        if let (Need::Master, Role::Slave(master)) = (self.policy.need, &banner.role) {
            let master = if master.is_empty() { "(not said)" } else { master.as_str() };
            return Err(Failure::NotMaster { server: banner.server, master: master.into() });
        }
        let mechanism = self.choose(&banner)?;
        let (exchange, first) = Exchange::start(mechanism, &self.credentials)?;
        Command::Authenticate { mechanism: mechanism.as_str(), initial: Some(&first) }
            .encode(AUTHENTICATE, &mut self.output);
        self.state = State::Authenticating { banner, exchange: Box::new(exchange), challenges: 0 };
        Ok(())
    }
}

impl Login {
    fn choose(&self, banner: &Banner) -> Result<Mechanism, Failure> {
        let circumstances = Circumstances {
            tls: self.tls,
            client_certificate: self.client_certificate,
            allow_plaintext: self.policy.allow_plaintext,
        };
        let wanted = self.policy.mechanisms.as_deref().unwrap_or(&Mechanism::ALL);
        choose(wanted, &banner.mechanisms, &self.credentials, circumstances)
    }

    /// Whether to leave out TLS although the server offers it: it would kill the server, and the
    /// password is safe without. In Cyrus up to 3.6 (3.8 was not tried, 3.10 is unaffected) the end
    /// of a connection under TLS frees the TLS of the whole process (`imap/mupdate.c:conn_free`):
    /// the master dies, and all its connections with it.
    fn spares(&self, banner: &Banner) -> bool {
        self.policy.tls == WhenTls::IfOffered
            && family(&banner.release).is_some_and(|family| family < DIES_OF_TLS_BEFORE)
            && self.choose(banner).is_ok_and(Mechanism::is_scram)
    }
}

// Leaves out the output, which contains the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Returns the failure for a refused login. Cyrus gives one answer for a wrong password and for a
/// user who is no admin (`imap/global.c:mysasl_proxy_policy`).
fn refused(credentials: &Credentials, mechanism: Mechanism, text: &str) -> Failure {
    if mechanism == Mechanism::External {
        return Failure::Refused(format!(
            "the MUPDATE server refused the client certificate (`{text}`): it is none of its \
             tls_client_ca_file, or the name in it is not in `mupdate_admins` (or `admins`) of its \
             imapd.conf; `mechanisms` without EXTERNAL does without it"
        ));
    }
    let hint = match &credentials.realm {
        Some(realm) if !realm.is_empty() && !credentials.name().contains('@') => format!(
            "; {mechanism} sends no realm, so if the account is one of `{realm}`, the name is \
             `{}@{realm}`",
            credentials.name()
        ),
        _ => String::new(),
    };
    Failure::Refused(format!(
        "the MUPDATE server refused the login of `{}` with {mechanism} (`{text}`): either the \
         password is wrong, or `{}` is not in `mupdate_admins` (or `admins`) of the master's \
         imapd.conf; its log says which{hint}",
        credentials.name(),
        credentials.name(),
    ))
}
