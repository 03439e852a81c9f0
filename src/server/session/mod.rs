//! One client connection speaking one protocol: requests in, answers out, in order.
//!
//! The first bytes select the protocol; after that a loop for this protocol alone reads and answers.

mod line;
mod milter;
mod policy;
mod socketmap;

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use self::line::Line;
use self::milter::Milter;
use self::policy::Policy;
use self::socketmap::Socketmap;
use super::log::RateLimit;
use super::stream::ClientStream;
use super::{Limits, Responder};
use crate::wire::protocol::{BEGINNING, Protocol, Protocols};
use crate::wire::rcpt::{RcptVerdict, rewritten};

/// Read buffer size in bytes for protocols whose request is a name. A mail server waits for each answer,
/// so one request of some 40 bytes arrives at a time; and the less stack a connection touches, the more
/// connections fit into the processor's caches.
const READ_SIZE: usize = 512;

/// Read buffer size in bytes for protocols whose request has some 1,000 bytes.
const LARGE_READ_SIZE: usize = 4096;

const _: () = assert!(BEGINNING <= READ_SIZE);

/// Size in bytes at which answers to pipelined requests are sent.
const FLUSH_SIZE: usize = 16 * 1024;

/// Maximum capacity in bytes of an empty output buffer.
const MAX_IDLE_OUTPUT: usize = 512;

/// Maximum time and number of bytes read from a client after a protocol error was reported to it. Closing
/// a TCP socket with unread input discards what was sent.
const LINGER_LIMIT: (Duration, usize) = (Duration::from_secs(1), 1024 * 1024);

/// A session: one client connection speaking one protocol.
pub(super) struct Session<'a, R> {
    pub(super) responder: &'a R,
    pub(super) limits: &'a Limits,
    pub(super) stream: Arc<ClientStream>,
    /// Set with the first complete request, for [`super::connection::Connections`] and
    /// [`super::connection_limit`].
    pub(super) asked: Arc<AtomicBool>,
    pub(super) protocols: Protocols,
    pub(super) runtime: Handle,
    pub(super) stop: watch::Receiver<bool>,
}

/// The protocol of a session.
trait SessionProtocol {
    const PROTOCOL: Protocol;

    /// Takes input, and appends the answer to each complete request to `out`.
    fn feed<R: Responder>(
        &mut self,
        session: &Session<'_, R>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Progress>;

    /// Whether no request is incomplete.
    fn is_between(&self) -> bool;

    /// Appends the last answer before a close, if the protocol has one for it.
    fn refuse(&self, why: &str, out: &mut Vec<u8>);
}

/// State of a session after a piece of input.
enum Progress {
    /// The client may send more.
    Continue,
    /// The client ended the session.
    End,
    /// The input breaks the protocol, for this reason: the next request cannot be found.
    Garbage(String),
}

impl<R: Responder> Session<'_, R> {
    /// Runs until the client closes or breaks the protocol, or until the server stops.
    pub(super) fn run(&self) {
        if let Err(error) = self.begin() {
            self.lost(&error);
        }
    }

    fn begin(&self) -> io::Result<()> {
        self.stream.prepare(self.limits.write)?;
        let mut beginning = [0; READ_SIZE];
        let mut filled = 0;
        // Also while the server stops, which ends the input too: a client accepted just before may have
        // sent a request.
        loop {
            let read = self.stream.read(beginning.get_mut(filled..).unwrap_or_default())?;
            if read == 0 {
                if filled > 0 {
                    self.log_incomplete_request();
                }
                return Ok(());
            }
            filled += read;
            let read = beginning.get(..filled).unwrap_or_default();
            let Some(protocol) = Protocol::of(read) else { continue };
            return match protocol {
                Protocol::Socketmap => self.speak::<READ_SIZE, _>(Socketmap::default(), read),
                Protocol::Policy => self.speak::<LARGE_READ_SIZE, _>(Policy::default(), read),
                Protocol::Line => self.speak::<READ_SIZE, _>(Line::default(), read),
                Protocol::Milter => self.speak::<READ_SIZE, _>(Milter::default(), read),
            };
        }
    }

    /// Serves the client in one protocol. Not inlined: the buffers of one protocol would take stack from
    /// the others.
    #[inline(never)]
    fn speak<const N: usize, P: SessionProtocol>(
        &self,
        mut protocol: P,
        beginning: &[u8],
    ) -> io::Result<()> {
        let mut out = Vec::new();
        let mut piece = [0; N];
        if !self.protocols.contains(P::PROTOCOL) {
            static NOT_SPOKEN: RateLimit = RateLimit::new();
            let name = P::PROTOCOL.as_str();
            if let Some(more) = NOT_SPOKEN.admit(Instant::now()) {
                let peer = self.stream.peer();
                tracing::warn!(
                    "{peer}: speaks {name} at a socket that does not allow it; connection closed; \
                     see `protocols` of its [[listen]]{more}"
                );
            }
            protocol.refuse(&format!("this socket does not speak {name}"), &mut out);
            self.send(&mut out)?;
            return self.linger(&mut piece);
        }
        let mut progress = protocol.feed(self, beginning, &mut out)?;
        loop {
            // `out` includes answers without a decision.
            if !out.is_empty() {
                self.has_asked();
            }
            if let Progress::Garbage(why) = &progress {
                static GARBAGE: RateLimit = RateLimit::new();
                if let Some(more) = GARBAGE.admit(Instant::now()) {
                    let (peer, name) = (self.stream.peer(), P::PROTOCOL.as_str());
                    tracing::warn!("{peer}: {name} protocol error: {why}; connection closed{more}");
                }
                protocol.refuse(&format!("protocol error: {why}"), &mut out);
            }
            self.send(&mut out)?;
            match progress {
                // A client that always has a next request must not delay the end.
                Progress::Continue if self.is_stopping() => return Ok(()),
                Progress::Continue => {}
                Progress::End => return Ok(()),
                Progress::Garbage(_) => return self.linger(&mut piece),
            }
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                if !protocol.is_between() {
                    self.log_incomplete_request();
                }
                return Ok(());
            }
            progress = protocol.feed(self, piece.get(..read).unwrap_or_default(), &mut out)?;
        }
    }

    fn has_asked(&self) {
        // A store for each request would make other processors fetch the cache line again.
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the server stops. A dropped one counts as well.
    fn is_stopping(&self) -> bool {
        self.stop.has_changed().unwrap_or(true)
    }

    /// One answer: at once, else in time, else the one that `failed` makes of the reason. Sends `out`
    /// before it waits.
    fn respond<T, F: Future<Output = T>>(
        &self,
        out: &mut Vec<u8>,
        at_once: impl FnOnce() -> Option<T>,
        in_time: impl FnOnce() -> F,
        failed: impl FnOnce(String) -> T,
    ) -> io::Result<T> {
        self.has_asked();
        let bug = || "a bug in murder-route, see its log".to_owned();
        // The responder is unwind safe: many threads call it anyway.
        match catch_unwind(AssertUnwindSafe(at_once)) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(_) => return Ok(failed(bug())),
        }
        self.send(out)?;
        let limit = self.limits.request;
        // An answer after the limit is dropped with its future: it could not be sent any more.
        let in_time = || self.runtime.block_on(async { timeout(limit, in_time()).await });
        Ok(match catch_unwind(AssertUnwindSafe(in_time)) {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => failed(format!("no answer within {} s", limit.as_secs_f32())),
            Err(_) => failed(bug()),
        })
    }

    /// Returns the verdict on a recipient.
    fn at_rcpt(&self, typed: &[u8], out: &mut Vec<u8>) -> io::Result<RcptVerdict> {
        let recipient = &*rewritten(typed);
        let at_once = || self.responder.rcpt_at_once(recipient);
        self.respond(
            out,
            at_once,
            || self.responder.rcpt_in_time(recipient),
            |why| {
                // Not for the client, which would pass it on to the sender.
                static FAILED: RateLimit = RateLimit::new();
                if let Some(more) = FAILED.admit(Instant::now()) {
                    let peer = self.stream.peer();
                    tracing::warn!("{peer}: a recipient is deferred: {why}{more}");
                }
                RcptVerdict::FAILED
            },
        )
    }

    /// Sends `out` and empties it.
    fn send(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut rest = out.as_slice();
        // The clock is read only if the socket does not take everything at once.
        let mut began = None;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // The socket's own timeout is for each write, and a slow reader would never reach it.
            if !rest.is_empty()
                && began.get_or_insert_with(Instant::now).elapsed() > self.limits.write
            {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        out.clear();
        if out.capacity() > MAX_IDLE_OUTPUT {
            *out = Vec::new();
        }
        Ok(())
    }

    /// Sends `out` if it is large.
    fn send_if_much(&self, out: &mut Vec<u8>) -> io::Result<()> {
        if out.len() >= FLUSH_SIZE { self.send(out) } else { Ok(()) }
    }

    /// Ends a session whose client may still be sending.
    fn linger(&self, piece: &mut [u8]) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let (time, mut rest) = LINGER_LIMIT;
        let time = time.min(self.limits.write);
        let began = Instant::now();
        while let Some(left) = time.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            self.stream.set_read_timeout(left)?;
            match self.stream.read(piece) {
                Ok(read) if read > 0 && read < rest => rest -= read,
                // Time out, byte limit or end of input: all end the session.
                _ => break,
            }
        }
        Ok(())
    }

    fn log_incomplete_request(&self) {
        tracing::debug!("{}: closed within a request", self.stream.peer());
    }

    /// Logs the reason for the end of the connection.
    fn lost(&self, error: &io::Error) {
        let peer = self.stream.peer();
        if error.kind() == io::ErrorKind::WouldBlock {
            static UNREAD: RateLimit = RateLimit::new();
            if let Some(more) = UNREAD.admit(Instant::now()) {
                tracing::warn!("{peer}: does not read its answers; connection closed{more}");
            }
        } else {
            tracing::debug!("{peer}: connection lost: {error}");
        }
    }
}
