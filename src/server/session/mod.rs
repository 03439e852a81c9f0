//! What is said on one connection: requests in, answers out, one after the other.
//!
//! The first bytes tell the protocol, once; then a loop of that protocol alone reads and answers.

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

use super::connection::Stream;
use super::log::RateLimit;
use super::{Answer, Limits};
use crate::wire::protocol::{BEGINNING, Protocol, Protocols};
use crate::wire::rcpt::{RcptVerdict, rewritten};

/// Read at most so much at once, in bytes, where a request is a name. A mail server waits for each
/// answer, so one request of some 40 bytes is what comes; and the less a connection spreads over its
/// stack, the more of them fit into the processor's caches.
const PIECE: usize = 512;

/// The same where a request of some 1,000 bytes comes.
const LARGE_PIECE: usize = 4096;

const _: () = assert!(BEGINNING <= PIECE);

/// Answers to pipelined requests are sent when they are so many bytes.
const FLUSH_AT: usize = 16 * 1024;

/// A connection with nothing to send keeps no more memory for it than this, in bytes.
const KEEP: usize = 512;

/// How long and how much is read from a client that was told of its protocol error, so that the
/// answer reaches it: closing a TCP socket with unread input discards what was sent.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 1024 * 1024);

/// A connection and what it takes to answer on it.
pub(super) struct Conversation<'a, A> {
    pub(super) answer: &'a A,
    pub(super) limits: &'a Limits,
    pub(super) stream: Arc<Stream>,
    /// Set with the first whole request, for [`super::connection::Connections`] and [`super::connection_limit`].
    pub(super) asked: Arc<AtomicBool>,
    pub(super) protocols: Protocols,
    pub(super) runtime: Handle,
    pub(super) stop: watch::Receiver<bool>,
}

/// One protocol's part of a conversation.
trait Talk {
    /// Its name.
    const PROTOCOL: Protocol;

    /// Takes what was read, and answers into `out` every request that is whole.
    fn hear<A: Answer>(
        &mut self,
        with: &Conversation<'_, A>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Heard>;

    /// Whether no request is half there.
    fn is_between(&self) -> bool;

    /// Appends the last answer before a close, where the protocol has one for it.
    fn refuse(&self, why: &str, out: &mut Vec<u8>);
}

/// What came of a piece of input.
enum Heard {
    /// The client may go on.
    More,
    /// The client said that it was all.
    End,
    /// It cannot be told any more where a request begins, for this reason.
    Garbage(String),
}

impl<A: Answer> Conversation<'_, A> {
    /// Goes on until the client closes or breaks the protocol, or until the end of the server.
    pub(super) fn hold(&self) {
        if let Err(error) = self.begin() {
            self.lost(&error);
        }
    }

    fn begin(&self) -> io::Result<()> {
        self.stream.prepare(self.limits)?;
        let mut beginning = [0; PIECE];
        let mut filled = 0;
        // Also when the server ends meanwhile, which ends the input too: a client that was accepted in
        // its last moment may have asked already.
        loop {
            let read = self.stream.read(beginning.get_mut(filled..).unwrap_or_default())?;
            if read == 0 {
                if filled > 0 {
                    self.left_in_the_middle();
                }
                return Ok(());
            }
            filled += read;
            let heard = beginning.get(..filled).unwrap_or_default();
            let Some(protocol) = Protocol::of(heard) else { continue };
            return match protocol {
                Protocol::Socketmap => self.talk::<PIECE, _>(socketmap::Talker::default(), heard),
                Protocol::Policy => self.talk::<LARGE_PIECE, _>(policy::Talker::default(), heard),
                Protocol::Line => self.talk::<PIECE, _>(line::Talker::default(), heard),
                Protocol::Milter => self.talk::<PIECE, _>(milter::Talker::default(), heard),
            };
        }
    }

    /// Not inlined: the buffers of one protocol would take stack from the others.
    #[inline(never)]
    fn talk<const N: usize, T: Talk>(&self, mut talk: T, beginning: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        let mut piece = [0; N];
        if !self.protocols.contains(T::PROTOCOL) {
            static ELSEWHERE: RateLimit = RateLimit::new();
            let name = T::PROTOCOL.as_str();
            if let Some(more) = ELSEWHERE.admit(Instant::now()) {
                let peer = self.stream.peer();
                tracing::warn!("{peer} speaks {name} at a socket that is not for it{more}");
            }
            talk.refuse(&format!("this socket does not speak {name}"), &mut out);
            self.send(&mut out)?;
            return self.linger(&mut piece);
        }
        let mut heard = talk.hear(self, beginning, &mut out)?;
        loop {
            // An answer that needed nobody's decision is in there.
            if !out.is_empty() {
                self.has_asked();
            }
            if let Heard::Garbage(why) = &heard {
                static GARBAGE: RateLimit = RateLimit::new();
                if let Some(more) = GARBAGE.admit(Instant::now()) {
                    let (peer, name) = (self.stream.peer(), T::PROTOCOL.as_str());
                    tracing::warn!("{peer} does not speak {name}: {why}{more}");
                }
                talk.refuse(&format!("protocol error: {why}"), &mut out);
            }
            self.send(&mut out)?;
            match heard {
                // A client that always has a next request must not hold up the end.
                Heard::More if self.is_over() => return Ok(()),
                Heard::More => {}
                Heard::End => return Ok(()),
                Heard::Garbage(_) => return self.linger(&mut piece),
            }
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                if !talk.is_between() {
                    self.left_in_the_middle();
                }
                return Ok(());
            }
            heard = talk.hear(self, piece.get(..read).unwrap_or_default(), &mut out)?;
        }
    }

    fn has_asked(&self) {
        // A store for each request would have other processors fetch the line anew.
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the server ends. One that is gone without a word is an end as well.
    fn is_over(&self) -> bool {
        self.stop.has_changed().unwrap_or(true)
    }

    /// One answer, at once or in time, or in place of it what `failed` makes of the reason. What is
    /// in `out` is sent before it has to be waited for.
    fn answered<R, F: Future<Output = R>>(
        &self,
        out: &mut Vec<u8>,
        at_once: impl FnOnce() -> Option<R>,
        in_time: impl FnOnce() -> F,
        failed: impl FnOnce(String) -> R,
    ) -> io::Result<R> {
        self.has_asked();
        let bug = || "a bug in murder-route, see its log".to_owned();
        // What a panic leaves behind is the implementation's care: many threads call it anyway.
        match catch_unwind(AssertUnwindSafe(at_once)) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(_) => return Ok(failed(bug())),
        }
        self.send(out)?;
        let limit = self.limits.request;
        // An answer that would come after the limit is dropped with its future: nobody can send it.
        let in_time = || self.runtime.block_on(async { timeout(limit, in_time()).await });
        Ok(match catch_unwind(AssertUnwindSafe(in_time)) {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => failed(format!("no answer within {} s", limit.as_secs_f32())),
            Err(_) => failed(bug()),
        })
    }

    /// What to do with a recipient.
    fn at_rcpt(&self, typed: &[u8], out: &mut Vec<u8>) -> io::Result<RcptVerdict> {
        let recipient = &*rewritten(typed);
        let at_once = || self.answer.rcpt_at_once(recipient);
        self.answered(
            out,
            at_once,
            || self.answer.rcpt_in_time(recipient),
            |why| {
                // The client is not told: it would tell the sender.
                static FAILED: RateLimit = RateLimit::new();
                if let Some(more) = FAILED.admit(Instant::now()) {
                    tracing::warn!(
                        "a recipient of {} is deferred: {why}{more}",
                        self.stream.peer()
                    );
                }
                RcptVerdict::FAILED
            },
        )
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

    /// Sends what is in `out` if that is much.
    fn send_if_much(&self, out: &mut Vec<u8>) -> io::Result<()> {
        if out.len() >= FLUSH_AT { self.send(out) } else { Ok(()) }
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

    fn left_in_the_middle(&self) {
        tracing::debug!("{} left in the middle of a request", self.stream.peer());
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
