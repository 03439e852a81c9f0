//! Asking the daemon: a socketmap client that blocks, with a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::config::DEFAULT_SOCKET;
use crate::os::kick;
use crate::os::pinned_path::Root;
use crate::routing::decision_line;
use crate::routing::maps::DECISION_MAP;
use crate::routing::router::Route;
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::netstring::Decoder;
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::{REPLY_LIMIT, REQUEST_LIMIT, Reply, Request};

/// So many questions are sent before their answers are read. The answers fit into the socket's buffer,
/// so the daemon never waits for us to read while we wait for it.
const AHEAD: usize = 64;

/// So many connections are kept for the next question; a mail server's process needs one.
const KEPT: usize = 8;

/// Longest backoff after a daemon that did not answer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Where the daemon is.
#[derive(Debug)]
pub(super) struct Daemon {
    places: Vec<Place>,
    /// Why other endpoints cannot be asked.
    unusable: Vec<String>,
}

/// One of its sockets.
#[derive(Debug)]
enum Place {
    Unix {
        path: PathBuf,
        /// What the path is called where one of its directories has become the root.
        inside: Vec<(Root, PathBuf)>,
    },
    Inet(Vec<SocketAddr>),
}

/// What one process knows of the daemon.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Connections that nobody is asking on.
    idle: Mutex<Vec<OwnedFd>>,
    /// Set after a daemon that did not answer.
    backoff: Mutex<Option<Backoff>>,
}

/// The daemon is not asked for as long as it was last waited for in vain. So calls lose at most half of
/// their time to a daemon that hangs, and a call with a short deadline hardly hinders patient ones.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    waited: Duration,
    until: Instant,
}

impl Daemon {
    /// The daemon at the first of these endpoints that can be connected to.
    pub(super) fn at(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let (mut places, mut unusable) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            match Place::of(endpoint) {
                Ok(place) => places.push(place),
                Err(why) => unusable.push(why),
            }
        }
        Self { places, unusable }
    }

    /// Why endpoints of the configuration cannot be asked, for the postmaster.
    pub(super) fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// Whether there is an endpoint at which the daemon can be asked.
    pub(super) fn is_configured(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether the daemon answers within this time, also during a backoff.
    pub(super) fn ping(&self, pool: &Pool, patience: Duration) -> Result<(), String> {
        pool.answered();
        // The empty recipient is foreign everywhere, so no list is asked.
        let answer = self.ask(pool, &[b""], patience).pop();
        answer.unwrap_or_else(|| Err("no answer".into())).map(drop)
    }

    /// The endpoints of a configuration at which the daemon can be asked.
    pub(super) fn endpoints(listeners: Vec<Listen>) -> Vec<Endpoint> {
        let default = || Endpoint::Unix(DEFAULT_SOCKET.into());
        if listeners.is_empty() {
            return vec![default()];
        }
        let asked = |listen: &Listen| listen.protocols.contains(Protocol::Socketmap);
        let endpoint = |listen: Listen| match listen.endpoint {
            // It is systemd that knows where this one is; ours ships with this path.
            Endpoint::Systemd(_) => default(),
            endpoint => endpoint,
        };
        listeners.into_iter().filter(asked).map(endpoint).collect()
    }

    /// What the daemon decides for each of these recipients, in their order; `Err` says why it could
    /// not be asked. Takes no longer than `patience`, all together.
    pub(super) fn ask(
        &self,
        pool: &Pool,
        recipients: &[&[u8]],
        patience: Duration,
    ) -> Vec<Result<Route, String>> {
        let mut answers = Vec::with_capacity(recipients.len());
        if let Err(why) = pool.may_ask(patience) {
            answers.resize(recipients.len(), Err(why));
            return answers;
        }
        let deadline = Instant::now() + patience;
        let mut result = Ok(());
        while let Some(rest) = recipients.get(answers.len()..).filter(|rest| !rest.is_empty()) {
            let before = answers.len();
            let kept = pool.take();
            let was_kept = kept.is_some();
            result = match kept.map_or_else(|| self.connect(deadline), Ok) {
                Ok(socket) => {
                    let conversed = converse(&socket, rest, deadline, &mut answers);
                    if conversed.is_ok() {
                        pool.put(socket);
                    }
                    conversed.map_err(|error| say(&error, patience))
                }
                Err(why) => Err(why),
            };
            // The daemon may have been started anew since: then each of the kept ones fails at once.
            let again = was_kept && answers.len() == before && Instant::now() < deadline;
            if result.is_err() && !again {
                break;
            }
        }
        if answers.is_empty() && Instant::now() >= deadline {
            pool.waited_in_vain(patience);
        } else if !answers.is_empty() {
            pool.answered();
        }
        let why = result.err().unwrap_or_default();
        answers.resize(recipients.len(), Err(why));
        answers
    }

    fn connect(&self, deadline: Instant) -> Result<OwnedFd, String> {
        let none = || "no daemon is configured that could be asked".to_owned();
        let mut why = self.unusable.last().cloned().unwrap_or_else(none);
        for (at, place) in self.places.iter().enumerate() {
            // One that takes no connection leaves the others their share of the time.
            let share = left(deadline) / (self.places.len() - at).try_into().unwrap_or(u32::MAX);
            match place.connect(Instant::now() + share) {
                Ok(socket) => return Ok(socket),
                Err((at, error)) => why = format!("the daemon at {at}: {error}"),
            }
        }
        Err(why)
    }
}

fn say(error: &io::Error, patience: Duration) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let seconds = patience.as_secs_f32();
            format!("the daemon has not answered within {seconds} s")
        }
        io::ErrorKind::UnexpectedEof => "the daemon hung up".into(),
        _ => format!("asking the daemon: {error}"),
    }
}

impl Place {
    /// `Err` says why nobody can be asked there.
    fn of(endpoint: Endpoint) -> Result<Self, String> {
        let unusable = |endpoint: &Endpoint, why: &dyn std::fmt::Display| {
            format!("the daemon cannot be asked at {endpoint}: {why}")
        };
        match endpoint {
            Endpoint::Unix(path) => {
                let path = std::path::absolute(&path).unwrap_or(path);
                let above = path.ancestors().skip(1);
                let inside = above.filter_map(|directory| {
                    let within = Path::new("/").join(path.strip_prefix(directory).ok()?);
                    (directory.parent().is_some()).then(|| (Root::of(directory), within))
                });
                Ok(Place::Unix { inside: inside.collect(), path })
            }
            Endpoint::Inet { ref host, port } => match host.parse::<IpAddr>() {
                _ if port == 0 => Err(unusable(&endpoint, &"the port may be any free one")),
                Ok(address) => Ok(Place::Inet(vec![(address, port).into()])),
                // Now, for a resolver is one of the things that a chroot takes away.
                Err(_) => match (&**host, port).to_socket_addrs() {
                    Ok(addresses) => Ok(Place::Inet(addresses.collect())),
                    Err(error) => Err(unusable(&endpoint, &error)),
                },
            },
            Endpoint::Systemd(_) => {
                Err(unusable(&endpoint, &"only systemd knows where this socket is"))
            }
        }
    }

    fn connect(&self, deadline: Instant) -> Result<OwnedFd, (String, io::Error)> {
        match self {
            Place::Unix { path, inside } => {
                let root = Root::now();
                let within = inside.iter().find(|(above, _)| *above == root);
                let path = within.map_or(path, |(_, path)| path);
                let socket = kick::connect_to(path, left(deadline)).map(OwnedFd::from);
                socket.map_err(|error| (path.display().to_string(), error.into()))
            }
            Place::Inet(addresses) => {
                let mut last = ("inet".to_owned(), io::ErrorKind::NotFound.into());
                for (at, address) in addresses.iter().enumerate() {
                    let share =
                        left(deadline) / (addresses.len() - at).try_into().unwrap_or(u32::MAX);
                    match TcpStream::connect_timeout(address, share.max(LEAST)) {
                        Ok(stream) => {
                            let _ = stream.set_nodelay(true);
                            return Ok(stream.into());
                        }
                        Err(error) => last = (address.to_string(), error),
                    }
                }
                Err(last)
            }
        }
    }
}

impl Pool {
    /// One on which the daemon has neither said anything since nor hung up.
    fn take(&self) -> Option<OwnedFd> {
        loop {
            let socket = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            if recv(socket.as_raw_fd(), &mut [0], look) == Err(Errno::EAGAIN) {
                return Some(socket);
            }
        }
    }

    fn put(&self, socket: OwnedFd) {
        let mut kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(socket);
        }
    }

    fn backoff(&self) -> MutexGuard<'_, Option<Backoff>> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Err` says why the daemon is not asked now.
    fn may_ask(&self, patience: Duration) -> Result<(), String> {
        if patience.is_zero() {
            return Err("the daemon was not asked: the call may wait no longer".into());
        }
        let backoff = *self.backoff();
        match backoff.filter(|backoff| Instant::now() < backoff.until) {
            Some(backoff) => Err(format!(
                "the daemon is not asked again yet: it did not answer within {} s",
                backoff.waited.as_secs_f32()
            )),
            None => Ok(()),
        }
    }

    fn waited_in_vain(&self, waited: Duration) {
        let until = Instant::now() + waited.min(LONGEST_BACKOFF);
        *self.backoff() = Some(Backoff { waited, until });
    }

    fn answered(&self) {
        *self.backoff() = None;
    }
}

/// Asks for all recipients, and adds their answers as they come. After an error the connection is of
/// no use: an answer may still be under way.
fn converse(
    socket: &OwnedFd,
    recipients: &[&[u8]],
    deadline: Instant,
    answers: &mut Vec<Result<Route, String>>,
) -> io::Result<()> {
    let mut decoder = Decoder::new(REPLY_LIMIT);
    for some in recipients.chunks(AHEAD) {
        let mut asked = Vec::new();
        for key in some {
            let key = if is_too_long(key) { b"" } else { *key };
            Request { map: DECISION_MAP.as_bytes(), key }.encode_into(&mut asked);
        }
        send_all(socket, &asked, deadline)?;
        for key in some {
            let answer = understood(read_reply(socket, &mut decoder, deadline)?);
            answers.push(match is_too_long(key) {
                true => Err("the recipient is too long to ask the daemon for".into()),
                false => answer,
            });
        }
    }
    match decoder.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other("it says more than it was asked")),
    }
}

fn is_too_long(recipient: &[u8]) -> bool {
    recipient.len() + DECISION_MAP.len() + 1 > REQUEST_LIMIT
}

fn understood(reply: Reply) -> Result<Route, String> {
    match reply {
        Reply::Ok(line) => decision_line::decode(&line).ok_or_else(|| {
            "the daemon's answer is not understood: is it of another release?".into()
        }),
        Reply::NotFound => {
            Err("the daemon knows no map `decision`: is it of another release?".into())
        }
        Reply::Temp(why) => Err(format!("the daemon: {why}")),
    }
}

fn read_reply(socket: &OwnedFd, decoder: &mut Decoder, deadline: Instant) -> io::Result<Reply> {
    let mut piece = [0; 4096];
    loop {
        if let Some(frame) = decoder.next_frame() {
            return frame.map(Reply::parse).map_err(io::Error::other);
        }
        setsockopt(socket, sockopt::ReceiveTimeout, &time_left(deadline)?)?;
        match recv(socket.as_raw_fd(), &mut piece, MsgFlags::empty()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => decoder.push(piece.get(..read).unwrap_or_default()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn send_all(socket: &OwnedFd, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        setsockopt(socket, sockopt::SendTimeout, &time_left(deadline)?)?;
        // A daemon that is gone must not raise SIGPIPE in a process that is not ours.
        match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A timeout is never zero, which would be for ever.
const LEAST: Duration = Duration::from_millis(1);

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(LEAST)
}

fn time_left(deadline: Instant) -> io::Result<TimeVal> {
    if Instant::now() >= deadline {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let left = left(deadline);
    Ok(TimeVal::new(left.as_secs().try_into().unwrap_or(i64::MAX), left.subsec_micros().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::router::Decision;
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
    };
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    const UNKNOWN: &[u8] = b"18:OK outcome=unknown,";

    /// A daemon for so many connections, one after the other, and a client of it.
    fn daemon(talks: Vec<Box<dyn FnOnce(UnixStream) + Send>>, ask: impl FnOnce(&Daemon, &Pool)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            for talk in talks {
                talk(listener.accept().unwrap().0);
            }
        });
        let at = [Endpoint::Unix("/nonexistent/socket".into()), Endpoint::Unix(path)];
        ask(&Daemon::at(at), &Pool::default());
        thread.join().unwrap();
    }

    /// Reads one question.
    fn hear(stream: &mut UnixStream) {
        let mut heard = Vec::new();
        while heard.last() != Some(&b',') {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1);
            heard.push(byte[0]);
        }
    }

    fn saying(answer: &'static [u8]) -> Box<dyn FnOnce(UnixStream) + Send> {
        Box::new(move |mut stream| {
            hear(&mut stream);
            stream.write_all(answer).unwrap();
        })
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_daemon_that_was_started_anew_is_asked_again() {
        daemon(vec![saying(UNKNOWN), saying(UNKNOWN)], |daemon, pool| {
            for _ in 0..2 {
                let answer = daemon.ask(pool, &[b"a@b"], LONG).remove(0).unwrap();
                assert_eq!(answer.decision, Decision::Unknown);
            }
        });
    }

    #[test]
    fn many_are_asked_for_at_once_and_each_gets_his_own_answer() {
        const MANY: usize = 500;
        let echo: Box<dyn FnOnce(UnixStream) + Send> = Box::new(|mut stream| {
            let mut decoder = Decoder::new(REQUEST_LIMIT);
            let (mut piece, mut answered) = ([0; 1000], 0);
            while answered < MANY {
                let read = stream.read(&mut piece).unwrap();
                assert_ne!(read, 0);
                decoder.push(&piece[..read]);
                while let Some(frame) = decoder.next_frame() {
                    let key =
                        String::from_utf8_lossy(Request::parse(frame.unwrap()).key).into_owned();
                    let mut out = Vec::new();
                    Reply::Ok(format!("outcome=unknown reason={key}")).encode_into(&mut out);
                    stream.write_all(&out).unwrap();
                    answered += 1;
                }
            }
        });
        daemon(vec![echo], |daemon, pool| {
            let mut asked: Vec<Vec<u8>> = (0..MANY).map(|n| format!("u{n}").into_bytes()).collect();
            asked[100] = vec![b'a'; REQUEST_LIMIT];
            let questions: Vec<&[u8]> = asked.iter().map(Vec::as_slice).collect();
            let answers = daemon.ask(pool, &questions, LONG);
            assert_eq!(answers.len(), MANY);
            for (n, answer) in answers.iter().enumerate() {
                match answer {
                    Ok(route) => assert_eq!(route.reason, format!("u{n}")),
                    Err(why) => assert!(n == 100 && why.contains("too long"), "{n}: {why}"),
                }
            }
        });
    }

    #[test]
    fn whatever_a_daemon_says_that_is_no_decision_makes_nobody_unknown() {
        for (said, why, good) in [
            (&b""[..], "hung up", false),
            (b"18:OK outcome=unk", "hung up", false),
            (b"x", "netstring", false),
            (b"99999999:", "netstring", false),
            (b"9:NOTFOUND ,", "another release", true),
            (b"9:OK hello!,", "another release", true),
            (b"10:TEMP later,", "later", true),
        ] {
            daemon(vec![saying(said)], |daemon, pool| {
                let told = daemon.ask(pool, &[b"a@b"], LONG).remove(0).unwrap_err();
                assert!(told.contains(why), "{told}");
                let kept = pool.idle.lock().unwrap().len();
                assert_eq!(kept == 1, good, "{}", said.escape_ascii());
            });
        }
    }

    #[test]
    fn an_answer_that_nobody_asked_for_is_not_taken_for_that_to_the_next_question() {
        let twice = b"18:OK outcome=unknown,18:OK outcome=unknown,";
        daemon(vec![saying(twice)], |daemon, pool| {
            assert!(daemon.ask(pool, &[b"a@b"], LONG).remove(0).is_ok());
            assert!(pool.take().is_none());
        });
    }

    #[test]
    fn a_daemon_that_hangs_holds_nobody_up_for_longer_than_the_deadline() {
        let (over, wait) = std::sync::mpsc::channel::<()>();
        let hang: Box<dyn FnOnce(UnixStream) + Send> = Box::new(move |mut stream| {
            hear(&mut stream);
            // A byte now and then does not make it any longer.
            while wait.recv_timeout(Duration::from_millis(5)).is_err() {
                let _ = stream.write_all(b"1");
            }
        });
        daemon(vec![hang], |daemon, pool| {
            let answers = daemon.ask(pool, &[b"a@b", b"c@d"], Duration::from_millis(100));
            over.send(()).unwrap();
            assert!(answers.iter().all(Result::is_err), "{answers:?}");
            assert!(pool.take().is_none());
        });
    }

    #[test]
    fn without_a_daemon_it_is_said_where_it_was_looked_for() {
        let at = [Endpoint::Unix("/nonexistent/socket".into())];
        let asked =
            |daemon: &Daemon| daemon.ask(&Pool::default(), &[b"a@b"], LONG).remove(0).unwrap_err();
        let told = asked(&Daemon::at(at));
        assert!(told.contains("/nonexistent/socket"), "{told}");
        let told = asked(&Daemon::at([]));
        assert!(told.contains("no daemon is configured"), "{told}");
    }

    #[test]
    fn an_endpoint_that_cannot_be_asked_is_named_with_its_reason() {
        // No name has a label that long, so no name server is asked.
        let host = format!("inet:{}.invalid:10026", "x".repeat(64));
        let at = [host.as_str(), "inet:127.0.0.1:0", "systemd:x.socket"];
        let daemon = Daemon::at(at.map(|at| at.parse().unwrap()));
        assert!(!daemon.is_configured());
        assert_eq!(daemon.unusable().len(), at.len());
        for (why, at) in daemon.unusable().iter().zip(at) {
            assert!(why.contains(at), "{why}");
        }
        let told = daemon.ask(&Pool::default(), &[b"a@b"], LONG).remove(0).unwrap_err();
        assert!(told.contains("systemd:x.socket"), "{told}");
    }

    #[test]
    fn daemon_that_hangs_is_not_asked_again_for_as_long_as_it_was_waited_for() {
        let (over, wait) = std::sync::mpsc::channel::<()>();
        let hang: Box<dyn FnOnce(UnixStream) + Send> = Box::new(move |stream| {
            let _ = wait.recv();
            drop(stream);
        });
        daemon(vec![hang, saying(UNKNOWN), saying(UNKNOWN)], |daemon, pool| {
            let patience = Duration::from_millis(300);
            let why = daemon.ask(pool, &[b"a@b"], patience).remove(0).unwrap_err();
            assert!(why.contains("not answered within 0.3 s"), "{why}");
            // The second connection would be answered.
            over.send(()).unwrap();
            let waited = pool.backoff().unwrap().waited;
            assert_eq!(waited, patience);
            // So that a machine that is slow does not end it.
            pool.backoff().as_mut().unwrap().until += LONG;
            for patience in [LONG, Duration::from_millis(1)] {
                let asked = daemon.ask(pool, &[b"a@b", b"c@d"], patience);
                assert!(asked.iter().all(Result::is_err), "{asked:?}");
            }
            // A health check asks all the same, and ends the backoff with the answer.
            daemon.ping(pool, LONG).unwrap();
            assert!(pool.backoff().is_none());
            pool.idle.lock().unwrap().clear();
            assert!(daemon.ask(pool, &[b"a@b"], LONG).remove(0).is_ok());
        });
    }

    #[test]
    fn endpoint_that_takes_no_connection_leaves_time_for_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().join("full");
        // A queue for one connection, which is there: the next one has to wait for ever.
        let listening =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(listening.as_raw_fd(), &UnixAddr::new(&full).unwrap()).unwrap();
        listen(&listening, Backlog::new(0).unwrap()).unwrap();
        let _waiting = UnixStream::connect(&full).unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || saying(UNKNOWN)(listener.accept().unwrap().0));
        let daemon = Daemon::at([Endpoint::Unix(full), Endpoint::Unix(path)]);
        let answer = daemon.ask(&Pool::default(), &[b"a@b"], Duration::from_secs(4)).remove(0);
        assert_eq!(answer.unwrap().decision, Decision::Unknown);
        thread.join().unwrap();
    }

    #[test]
    fn without_any_time_the_daemon_is_not_asked() {
        daemon(vec![], |daemon, pool| {
            let why = daemon.ask(pool, &[b"a@b"], Duration::ZERO).remove(0).unwrap_err();
            assert!(why.contains("may wait no longer"), "{why}");
            assert!(pool.backoff().is_none());
        });
    }

    #[test]
    fn the_daemon_is_asked_where_it_answers_us() {
        let listen = |endpoint: &str, protocols: &[Protocol]| Listen {
            protocols: protocols.iter().copied().collect(),
            ..Listen::at(endpoint.parse().unwrap())
        };
        let asked = |listeners: Vec<Listen>| {
            Daemon::endpoints(listeners).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let usual = [format!("unix:{DEFAULT_SOCKET}")];
        assert_eq!(asked(vec![]), usual);
        assert_eq!(asked(vec![listen("systemd:murder-route.socket", &Protocol::ALL)]), usual);
        let milter = listen("unix:/run/milter", &[Protocol::Milter]);
        let other = listen("inet:127.0.0.1:10028", &[Protocol::Line, Protocol::Socketmap]);
        assert_eq!(asked(vec![milter, other]), ["inet:127.0.0.1:10028"]);
    }
}
