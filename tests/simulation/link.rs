//! The daemon's connection to the master: login, and reconnect after a pause. Does the work of
//! `master::upstream` and `follow::retry`, without their sockets.

use std::time::Duration;

use murder_route::mupdate::response::Response;
use murder_route::mupdate::wire::{Input, MAX_LOGIN_LINE};
use murder_route::mupdate::{BannerReader, Failure, Session, Stream, Timings};
#[cfg(feature = "daemon")]
use murder_route::mupdate::{Credentials, Login, Policy, Step};

use murder_route::routing::confirm::canaries::Canaries;
use murder_route::routing::confirm::find_session::FindSession;

use crate::daemon::Waiting;
use crate::network::{End, Line, Network, Piece};
use crate::random::Random;

/// Timeout for a server to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A protocol session on a connection after login.
pub(crate) trait Talk: Sized {
    fn begin(session: Session, now: Duration) -> Self;
    fn receive(&mut self, bytes: &[u8], now: Duration);
    fn closed(&mut self);
    fn output(&mut self) -> &mut Vec<u8>;
    fn deadline(&self) -> Option<Duration>;
    fn tick(&mut self, now: Duration);
}

macro_rules! talk {
    ($of:ty) => {
        impl Talk for $of {
            fn begin(session: Session, now: Duration) -> Self {
                Self::new(session, Timings::default(), now)
            }
            fn receive(&mut self, bytes: &[u8], now: Duration) {
                self.receive(bytes, now);
            }
            fn closed(&mut self) {
                self.closed();
            }
            fn output(&mut self) -> &mut Vec<u8> {
                self.output()
            }
            fn deadline(&self) -> Option<Duration> {
                self.deadline()
            }
            fn tick(&mut self, now: Duration) {
                self.tick(now);
            }
        }
    };
}

talk!(Stream);

impl Talk for FindSession<Waiting> {
    fn begin(session: Session, now: Duration) -> Self {
        Self::new(session, Timings::default(), Canaries::none(), now)
    }
    fn receive(&mut self, bytes: &[u8], now: Duration) {
        self.receive(bytes, now);
    }
    fn closed(&mut self) {
        self.closed();
    }
    fn output(&mut self) -> &mut Vec<u8> {
        self.output()
    }
    fn deadline(&self) -> Option<Duration> {
        self.deadline()
    }
    fn tick(&mut self, now: Duration) {
        self.tick(now);
    }
}

pub(crate) struct Link<T> {
    phase: Phase<T>,
    sasl: bool,
    failures: u32,
}

enum Phase<T> {
    Down { again: Duration },
    Connecting { until: Duration },
    LoggingIn { line: Line, login: LoggingIn },
    Up { line: Line, since: Duration, server: String, talk: T },
}

enum LoggingIn {
    /// Banner only: the login is tested elsewhere.
    Short { input: Input, reader: BannerReader, until: Duration },
    #[cfg(feature = "daemon")]
    Whole(Box<Login>),
}

impl<T: Talk> Link<T> {
    pub(crate) fn new(sasl: bool, now: Duration) -> Self {
        Self { phase: Phase::Down { again: now }, sasl, failures: 0 }
    }

    /// Returns the session, if the connection is up.
    pub(crate) fn talk(&mut self) -> Option<&mut T> {
        match &mut self.phase {
            Phase::Up { talk, .. } => Some(talk),
            _ => None,
        }
    }

    /// Returns the time since which it is up.
    pub(crate) fn since(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Up { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// Returns the name that the server gives itself.
    pub(crate) fn server(&self) -> Option<&str> {
        match &self.phase {
            Phase::Up { server, .. } => Some(server),
            _ => None,
        }
    }

    /// Whether it waits before the next attempt.
    pub(crate) fn pauses(&self) -> bool {
        matches!(self.phase, Phase::Down { .. })
    }

    /// Takes the session; call [`failed`](Self::failed) next.
    pub(crate) fn end(&mut self) -> Option<T> {
        let line = self.line()?;
        let login = LoggingIn::new(false, Duration::ZERO);
        match std::mem::replace(&mut self.phase, Phase::LoggingIn { line, login }) {
            Phase::Up { talk, .. } => Some(talk),
            _ => None,
        }
    }

    pub(crate) fn line(&self) -> Option<Line> {
        match &self.phase {
            Phase::LoggingIn { line, .. } | Phase::Up { line, .. } => Some(*line),
            Phase::Down { .. } | Phase::Connecting { .. } => None,
        }
    }

    /// Resets the backoff: the connection has worked.
    pub(crate) fn worked(&mut self) {
        self.failures = 0;
    }

    /// Ends the connection after a failure.
    pub(crate) fn failed(&mut self, net: &mut Network, random: &mut Random, now: Duration) {
        let pause = Duration::from_secs(10).min(Duration::from_secs(1 << self.failures.min(5)));
        self.failures += 1;
        let chance = Duration::from_millis(random.below(pause.as_millis() as u64 / 2));
        if let Some(line) = self.line() {
            net.close(line, End::Client, now);
        }
        self.phase = Phase::Down { again: now + pause + chance };
    }

    /// Time at which [`Self::run`] is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Down { again } => Some(*again),
            Phase::Connecting { until } => Some(*until),
            Phase::LoggingIn { login: LoggingIn::Short { until, .. }, .. } => Some(*until),
            #[cfg(feature = "daemon")]
            Phase::LoggingIn { login: LoggingIn::Whole(login), .. } => login.deadline(),
            Phase::Up { talk, .. } => talk.deadline(),
        }
    }

    /// Performs the actions that are due. Returns whether the connection has come up, or why it
    /// cannot.
    pub(crate) fn run(&mut self, net: &mut Network, now: Duration) -> Result<(), Failure> {
        match &mut self.phase {
            Phase::Down { again } if *again <= now => {
                self.phase = match net.open(now) {
                    Some(line) => Phase::LoggingIn { line, login: LoggingIn::new(self.sasl, now) },
                    None => Phase::Connecting { until: now + CONNECT },
                };
                Ok(())
            }
            Phase::Connecting { until } if *until <= now => {
                Err(Failure::Network("no connection".into()))
            }
            Phase::LoggingIn { login: LoggingIn::Short { until, .. }, .. } if *until <= now => {
                Err(Failure::Timeout("no banner"))
            }
            #[cfg(feature = "daemon")]
            Phase::LoggingIn { login: LoggingIn::Whole(login), .. } => {
                login.tick(now);
                self.log_in(net, now)
            }
            Phase::Up { talk, .. } => {
                talk.tick(now);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Handles input.
    pub(crate) fn arrived(
        &mut self,
        piece: &Piece,
        net: &mut Network,
        now: Duration,
    ) -> Result<(), Failure> {
        match (&mut self.phase, piece) {
            (Phase::Up { talk, .. }, Piece::Bytes(bytes)) => talk.receive(bytes, now),
            (Phase::Up { talk, .. }, Piece::Closed) => talk.closed(),
            (Phase::LoggingIn { login, .. }, Piece::Bytes(bytes)) => {
                match login {
                    LoggingIn::Short { input, .. } => input.push(bytes),
                    #[cfg(feature = "daemon")]
                    LoggingIn::Whole(login) => login.receive(bytes, now),
                }
                return self.log_in(net, now);
            }
            (Phase::LoggingIn { .. }, Piece::Closed) => {
                return Err(Failure::Network("closed before the login".into()));
            }
            _ => {}
        }
        Ok(())
    }

    fn log_in(&mut self, net: &mut Network, now: Duration) -> Result<(), Failure> {
        let Phase::LoggingIn { line, login } = &mut self.phase else { return Ok(()) };
        let line = *line;
        if let Some(session) = login.step(net, line, now)? {
            let server = session.banner.server.clone();
            self.phase = Phase::Up { line, since: now, server, talk: T::begin(session, now) };
        }
        Ok(())
    }

    /// Sends pending output.
    pub(crate) fn send(&mut self, net: &mut Network, now: Duration) {
        if let Phase::Up { line, talk, .. } = &mut self.phase {
            net.send(*line, End::Server, &std::mem::take(talk.output()), now);
        }
    }
}

impl LoggingIn {
    fn new(sasl: bool, now: Duration) -> Self {
        #[cfg(feature = "daemon")]
        if sasl {
            let credentials = Credentials {
                authname: "router".into(),
                password: Some(murder_route::model::secret::Secret::new("geheim")),
                ..Credentials::default()
            };
            let policy = Policy { allow_plaintext: true, ..Policy::default() };
            return LoggingIn::Whole(Box::new(Login::new(policy, credentials, now)));
        }
        let _ = sasl;
        LoggingIn::Short {
            input: Input::new(MAX_LOGIN_LINE),
            reader: BannerReader::default(),
            until: now + Timings::default().banner,
        }
    }

    fn step(
        &mut self,
        net: &mut Network,
        line: Line,
        now: Duration,
    ) -> Result<Option<Session>, Failure> {
        match self {
            LoggingIn::Short { input, reader, .. } => {
                let _ = (net, line, now);
                while let Some(response) = Response::read(input)? {
                    if let Some(banner) = reader.take(&response)? {
                        let input = std::mem::replace(input, Input::new(0));
                        return Ok(Some(Session::new(banner, "NONE", false, input)));
                    }
                }
                Ok(None)
            }
            #[cfg(feature = "daemon")]
            LoggingIn::Whole(login) => {
                net.send(line, End::Server, &std::mem::take(login.output()), now);
                match login.step() {
                    Step::Wait => Ok(None),
                    Step::In(session) => Ok(Some(session)),
                    Step::Failed(failure) => Err(failure),
                    Step::StartTls => panic!("the master does not offer it"),
                }
            }
        }
    }
}
