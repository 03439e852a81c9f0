//! Client of the daemon: blocking socketmap requests with a deadline.

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
use crate::os::pinned_path::Root;
use crate::os::unix_connect::connect_to;
use crate::routing::decision_line;
use crate::routing::route::Route;
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::map_name::DECISION_MAP;
use crate::wire::netstring::Decoder;
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::{REPLY_LIMIT, REQUEST_LIMIT, Reply, Request};

/// Number of requests sent before their answers are read. The answers fit into the socket's buffer, so the
/// daemon never waits for the client to read while the client waits for it.
const AHEAD: usize = 64;

/// Maximum number of idle connections kept. A mail server's process needs one.
const KEPT: usize = 8;

/// Longest backoff after the daemon did not answer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Client of the daemon, with the addresses of its sockets.
#[derive(Debug)]
pub(super) struct DaemonClient {
    places: Vec<DaemonAddress>,
    /// Reasons why other endpoints cannot be used.
    unusable: Vec<String>,
}

/// Address of one of the daemon's sockets.
#[derive(Debug)]
enum DaemonAddress {
    Unix {
        path: PathBuf,
        /// The path as seen from each of its directories, for a process whose root that is.
        inside: Vec<(Root, PathBuf)>,
    },
    Inet(Vec<SocketAddr>),
}

/// Connections of one process to the daemon.
#[derive(Debug, Default)]
pub(super) struct ConnectionPool {
    /// Idle connections.
    idle: Mutex<Vec<OwnedFd>>,
    /// Set after the daemon did not answer.
    backoff: Mutex<Option<Backoff>>,
}

/// Pause after the daemon did not answer, as long as the wait was. So calls lose at most half of their time
/// to a daemon that hangs, and a call with a short deadline hardly affects others.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    waited: Duration,
    until: Instant,
}

impl DaemonClient {
    /// A client of the daemon at the first of these endpoints that accepts a connection.
    pub(super) fn at(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let (mut places, mut unusable) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            match DaemonAddress::of(endpoint) {
                Ok(place) => places.push(place),
                Err(why) => unusable.push(why),
            }
        }
        Self { places, unusable }
    }

    /// Reasons why endpoints of the configuration cannot be used, for the postmaster.
    pub(super) fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// Whether there is a usable endpoint.
    pub(super) fn is_configured(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether the daemon answers within this time, also during a backoff.
    pub(super) fn ping(&self, pool: &ConnectionPool, limit: Duration) -> Result<(), String> {
        pool.answered();
        // The empty recipient is foreign everywhere, so no list is asked.
        let answer = self.ask(pool, &[b""], limit).pop();
        answer.unwrap_or_else(|| Err("no answer".into())).map(drop)
    }

    /// The endpoints of a configuration that speak socketmap.
    pub(super) fn endpoints(listeners: Vec<Listen>) -> Vec<Endpoint> {
        let default = || Endpoint::Unix(DEFAULT_SOCKET.into());
        if listeners.is_empty() {
            return vec![default()];
        }
        let asked = |listen: &Listen| listen.protocols.contains(Protocol::Socketmap);
        let endpoint = |listen: Listen| match listen.endpoint {
            // Only systemd knows this address; our unit ships with the default path.
            Endpoint::Systemd(_) => default(),
            endpoint => endpoint,
        };
        listeners.into_iter().filter(asked).map(endpoint).collect()
    }

    /// The daemon's decisions for these recipients, in their order; `Err`: the reason why there is none.
    /// Takes no longer than `limit` for all of them.
    pub(super) fn ask(
        &self,
        pool: &ConnectionPool,
        recipients: &[&[u8]],
        limit: Duration,
    ) -> Vec<Result<Route, String>> {
        let mut answers = Vec::with_capacity(recipients.len());
        if let Err(why) = pool.may_ask(limit) {
            answers.resize(recipients.len(), Err(why));
            return answers;
        }
        let deadline = Instant::now() + limit;
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
                    conversed.map_err(|error| say(&error, limit))
                }
                Err(why) => Err(why),
            };
            // After a restart of the daemon each kept connection fails at once.
            let again = was_kept && answers.len() == before && Instant::now() < deadline;
            if result.is_err() && !again {
                break;
            }
        }
        if answers.is_empty() && Instant::now() >= deadline {
            pool.waited_in_vain(limit);
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
            // An address that accepts no connection leaves the others their share of the time.
            let share = left(deadline) / (self.places.len() - at).try_into().unwrap_or(u32::MAX);
            match place.connect(Instant::now() + share) {
                Ok(socket) => return Ok(socket),
                Err((at, error)) => why = format!("the daemon at {at}: {error}"),
            }
        }
        Err(why)
    }
}

fn say(error: &io::Error, limit: Duration) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let seconds = limit.as_secs_f32();
            format!("the daemon has not answered within {seconds} s")
        }
        io::ErrorKind::UnexpectedEof => "the daemon hung up".into(),
        _ => format!("asking the daemon: {error}"),
    }
}

impl DaemonAddress {
    /// `Err` says why the endpoint cannot be used.
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
                Ok(DaemonAddress::Unix { inside: inside.collect(), path })
            }
            Endpoint::Inet { ref host, port } => match host.parse::<IpAddr>() {
                _ if port == 0 => Err(unusable(&endpoint, &"the port may be any free one")),
                Ok(address) => Ok(DaemonAddress::Inet(vec![(address, port).into()])),
                // Resolved now, since a chroot takes the resolver away.
                Err(_) => match (&**host, port).to_socket_addrs() {
                    Ok(addresses) => Ok(DaemonAddress::Inet(addresses.collect())),
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
            DaemonAddress::Unix { path, inside } => {
                let root = Root::now();
                let within = inside.iter().find(|(above, _)| *above == root);
                let path = within.map_or(path, |(_, path)| path);
                let socket = connect_to(path, left(deadline)).map(OwnedFd::from);
                socket.map_err(|error| (path.display().to_string(), error.into()))
            }
            DaemonAddress::Inet(addresses) => {
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

impl ConnectionPool {
    /// Takes an idle connection on which the daemon has neither sent anything nor hung up.
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

    /// `Err` says why the daemon may not be asked at present.
    fn may_ask(&self, limit: Duration) -> Result<(), String> {
        if limit.is_zero() {
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

/// Sends requests for all recipients, and adds their answers as they come. After an error the connection is
/// unusable: an answer may still be under way.
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
        // A daemon that has ended must not raise SIGPIPE in the host process.
        match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Shortest timeout. Zero would mean no timeout.
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
mod tests;
