//! The connections of mail servers. What is said on one is in [`super::session`].
//!
//! Each connection has a thread that blocks in `read`. That is the fastest way to answer a client
//! that waits for each answer, as mail servers do: one read and one write, and nobody to be woken in
//! between. An event loop costs a third system call and its own bookkeeping for every request
//! (measured: `benches/socketmap.rs`). A mail server has at most a few hundred connections, and one
//! that is idle costs some pages of stack.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::connection_limit::{Peer, Ticket};
use super::session::Conversation;
use super::{Answer, Limits};
use crate::wire::protocol::Protocols;

/// The stack of a connection, in bytes: address space, of which only what is used takes memory.
const STACK: usize = 256 * 1024;

/// After so many idle seconds the kernel asks whether a TCP client's host is still there.
const KEEP_IDLE: u32 = 300;

/// What all connections share.
pub(super) struct Shared<A> {
    pub(super) answer: Arc<A>,
    pub(super) limits: Limits,
    pub(super) connections: Arc<Connections>,
}

/// The open connections, so that those which wait for a request can be ended.
#[derive(Default)]
pub struct Connections(Mutex<(u64, HashMap<u64, Open>)>);

/// One of them.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) stream: Arc<Stream>,
    /// Whether a whole request came of it.
    pub(super) asked: Arc<AtomicBool>,
}

impl Open {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream: Arc::new(stream), asked: Arc::default() }
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Connections {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().1.len()
    }

    /// Ends the input of all connections: what was read is still answered.
    pub(super) fn end_input(&self) {
        self.end_input_if(|_| true);
    }

    /// Ends that of those who have asked: after the answer, what they wait for is the next letter.
    pub(super) fn end_input_of_those_who_asked(&self) {
        self.end_input_if(|open| open.asked.load(Ordering::Relaxed));
    }

    fn end_input_if(&self, which: impl Fn(&Open) -> bool) {
        for open in self.lock().1.values().filter(|open| which(open)) {
            // An error means that the client was quicker.
            let _ = open.stream.shutdown(Shutdown::Read);
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Open>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, open: Open) -> Entry {
        let mut table = self.lock();
        table.0 += 1;
        let number = table.0;
        table.1.insert(number, open);
        Entry { connections: self.clone(), number }
    }
}

/// A place among the [`Connections`].
struct Entry {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.lock().1.remove(&self.number);
    }
}

/// A blocking stream.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Stream::Unix(stream) => (&*stream).read(buf),
                Stream::Tcp(stream) => (&*stream).read(buf),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(bytes),
            Stream::Tcp(stream) => (&*stream).write(bytes),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.shutdown(how),
            Stream::Tcp(stream) => stream.shutdown(how),
        }
    }

    /// Makes the stream ready for blocking use: tokio accepts it for its own.
    pub(super) fn prepare(&self, limits: &Limits) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_write_timeout(Some(limits.write))
            }
            Stream::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                // Every answer is waited for; none may wait for more to send.
                stream.set_nodelay(true)?;
                // An idle connection is never closed, so that of a host that vanished would keep
                // its place for ever.
                setsockopt(stream, sockopt::KeepAlive, &true)?;
                setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_IDLE)?;
                stream.set_write_timeout(Some(limits.write))
            }
        }
    }

    pub(super) fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    /// The client that places are counted for.
    pub(super) fn client(&self) -> Peer {
        match self {
            Stream::Unix(stream) => getsockopt(stream, sockopt::PeerCredentials)
                .map_or(Peer::Unknown, |peer| Peer::User(peer.uid())),
            Stream::Tcp(stream) => {
                stream.peer_addr().map_or(Peer::Unknown, |address| Peer::host(address.ip()))
            }
        }
    }

    /// The other end, for the log.
    pub(super) fn peer(&self) -> String {
        match self {
            Stream::Unix(stream) => match getsockopt(stream, sockopt::PeerCredentials) {
                Ok(peer) => format!("process {} of user {}", peer.pid(), peer.uid()),
                Err(_) => "a local process".to_owned(),
            },
            Stream::Tcp(stream) => match stream.peer_addr() {
                Ok(address) => address.to_string(),
                Err(_) => "a client".to_owned(),
            },
        }
    }
}

/// Serves a connection in a thread of its own until its client closes it or breaks the protocol, or
/// `stop` becomes true and its input is ended. There is no limit to idleness: Postfix' smtpd keeps a
/// connection for a whole session, and may take a close for a failure.
///
/// Must be called in the runtime that is to drive the answers which have to be waited for.
///
/// # Errors
///
/// If no thread can be had. The connection is closed then, and the mail server tries once more.
pub(super) fn spawn<A: Answer>(
    shared: &Arc<Shared<A>>,
    open: Open,
    protocols: Protocols,
    ticket: Option<Ticket>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let (shared, runtime) = (shared.clone(), Handle::current());
    // Before the thread runs: a server that stops must find it.
    let entry = shared.connections.enter(open.clone());
    let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK);
    thread.spawn(move || {
        let _held = (ticket, entry);
        let Open { stream, asked } = open;
        let answer = &*shared.answer;
        let limits = &shared.limits;
        Conversation { answer, limits, stream, asked, protocols, runtime, stop }.hold();
    })?;
    Ok(())
}
