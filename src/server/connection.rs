//! One connection of a mail server: requests in, answers out, one after the other.
//!
//! Each connection has a thread that blocks in `read`. That is the fastest way to answer a client
//! that waits for each answer, as mail servers do: one read and one write, and nobody to be woken in
//! between. An event loop costs a third system call and its own bookkeeping for every request
//! (measured: `benches/socketmap.rs`). A mail server has at most a few hundred connections, and one
//! that is idle costs some pages of stack.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::log::RateLimit;
use super::{Answer, Limits};
use crate::wire::netstring::Decoder;
use crate::wire::socketmap::{REQUEST_LIMIT, Reply, Request};

/// Read at most so much at once, in bytes. A mail server waits for each answer, so one request of
/// some 40 bytes is what comes; and the less a connection spreads over its stack, the more of them
/// fit into the processor's caches.
const PIECE: usize = 512;

/// Answers to pipelined requests are sent when they are so many bytes.
const FLUSH_AT: usize = 16 * 1024;

/// A connection with nothing to send keeps no more memory for it than this, in bytes.
const KEEP: usize = 512;

/// The stack of a connection, in bytes: address space, of which only what is used takes memory.
const STACK: usize = 256 * 1024;

/// After so many idle seconds the kernel asks whether a TCP client's host is still there.
const KEEP_IDLE: u32 = 300;

/// How long and how much is read from a client that was told of its protocol error, so that the
/// answer reaches it: closing a TCP socket with unread input discards what was sent.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 1024 * 1024);

/// What all connections share.
pub(super) struct Shared<A> {
    pub(super) answer: Arc<A>,
    pub(super) limits: Limits,
    pub(super) connections: Arc<Connections>,
}

/// The open connections, so that those which wait for a request can be ended.
#[derive(Default)]
pub struct Connections(Mutex<(u64, HashMap<u64, Arc<Stream>>)>);

impl Connections {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().1.len()
    }

    /// Ends the input of all connections: what was read is still answered.
    pub(super) fn end_input(&self) {
        for stream in self.lock().1.values() {
            // An error means that the client was quicker.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<Stream>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, stream: &Arc<Stream>) -> Entry {
        let mut table = self.lock();
        table.0 += 1;
        let number = table.0;
        table.1.insert(number, stream.clone());
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
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
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

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(bytes),
            Stream::Tcp(stream) => (&*stream).write(bytes),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.shutdown(how),
            Stream::Tcp(stream) => stream.shutdown(how),
        }
    }

    /// Makes the stream ready for blocking use: tokio accepts it for its own.
    fn prepare(&self, limits: &Limits) -> io::Result<()> {
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

    fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    /// The other end, for the log.
    fn peer(&self) -> String {
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
    stream: Stream,
    permit: Option<OwnedSemaphorePermit>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let (shared, runtime, stream) = (shared.clone(), Handle::current(), Arc::new(stream));
    // Before the thread runs: a server that stops must find it.
    let entry = shared.connections.enter(&stream);
    let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK);
    thread.spawn(move || {
        let _held = (permit, entry);
        let answer = &*shared.answer;
        let mut connection = Connection { answer, limits: &shared.limits, stream, runtime, stop };
        if let Err(error) = connection.converse() {
            connection.lost(&error);
        }
    })?;
    Ok(())
}

struct Connection<'a, A> {
    answer: &'a A,
    limits: &'a Limits,
    stream: Arc<Stream>,
    runtime: Handle,
    stop: watch::Receiver<bool>,
}

impl<A: Answer> Connection<'_, A> {
    fn converse(&mut self) -> io::Result<()> {
        self.stream.prepare(self.limits)?;
        let mut requests = Decoder::new(REQUEST_LIMIT);
        let mut out = Vec::new();
        let mut piece = [0; PIECE];
        // A client that always has a next request must not hold up the end. A server that is gone
        // without a word is an end as well.
        while !self.stop.has_changed().unwrap_or(true) {
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                if !requests.is_empty() {
                    tracing::debug!("{} left in the middle of a request", self.stream.peer());
                }
                break;
            }
            requests.push(piece.get(..read).unwrap_or_default());
            while let Some(frame) = requests.next_frame() {
                let payload = match frame {
                    Ok(payload) => payload,
                    Err(error) => {
                        static GARBAGE: RateLimit = RateLimit::new();
                        if let Some(more) = GARBAGE.admit(Instant::now()) {
                            let peer = self.stream.peer();
                            tracing::warn!("{peer} does not speak socketmap: {error}{more}");
                        }
                        Reply::Temp(format!("protocol error: {error}")).encode_into(&mut out);
                        self.send(&mut out)?;
                        return self.linger(&mut piece);
                    }
                };
                self.reply(Request::parse(payload), &mut out)?.encode_into(&mut out);
                if out.len() >= FLUSH_AT {
                    self.send(&mut out)?;
                }
            }
            self.send(&mut out)?;
        }
        Ok(())
    }

    /// The reply to one request. What is in `out` is sent before it has to be waited for.
    fn reply(&self, request: Request<'_>, out: &mut Vec<u8>) -> io::Result<Reply> {
        let Ok(map) = std::str::from_utf8(request.map) else {
            return Ok(Reply::Temp("the name of the map is not UTF-8".to_owned()));
        };
        let bug = || Reply::Temp("a bug in murder-route, see its log".to_owned());
        // What a panic leaves behind is the implementation's care: many threads call it anyway.
        let at_once = || self.answer.at_once(map, request.key);
        match catch_unwind(AssertUnwindSafe(at_once)) {
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) => {}
            Err(_) => return Ok(bug()),
        }
        self.send(out)?;
        let limit = self.limits.request;
        let in_time = || {
            self.runtime.block_on(async {
                // An answer that would come after the limit is dropped with its future: nobody can
                // send it.
                timeout(limit, self.answer.in_time(map, request.key)).await
            })
        };
        Ok(match catch_unwind(AssertUnwindSafe(in_time)) {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Reply::Temp(format!("no answer within {} s", limit.as_secs_f32())),
            Err(_) => bug(),
        })
    }

    /// Sends what is in `out` and empties it.
    fn send(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut rest = out.as_slice();
        // Read only when the socket does not take everything at once.
        let mut began = None;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // The socket's own limit is for each write, and a trickle would never reach it.
            if !rest.is_empty()
                && began.get_or_insert_with(Instant::now).elapsed() > self.limits.write
            {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        out.clear();
        if out.capacity() > KEEP {
            *out = Vec::new();
        }
        Ok(())
    }

    /// Ends a conversation whose client may still be sending.
    fn linger(&self, piece: &mut [u8]) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let (time, mut rest) = LINGER;
        let time = time.min(self.limits.write);
        let began = Instant::now();
        while let Some(left) = time.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            self.stream.set_read_timeout(left)?;
            match self.stream.read(piece) {
                Ok(read) if read > 0 && read < rest => rest -= read,
                // Whether the time, the bytes or the client comes to an end does not matter.
                _ => break,
            }
        }
        Ok(())
    }

    /// Says why the connection ended.
    fn lost(&self, error: &io::Error) {
        let peer = self.stream.peer();
        if error.kind() == io::ErrorKind::WouldBlock {
            static UNREAD: RateLimit = RateLimit::new();
            if let Some(more) = UNREAD.admit(Instant::now()) {
                tracing::warn!("{peer} does not read its answers: connection closed{more}");
            }
        } else {
            tracing::debug!("connection of {peer} lost: {error}");
        }
    }
}
