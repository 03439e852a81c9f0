//! One connection of a mail server: requests in, answers out, one after the other.
//!
//! A request that is answered at once costs one read and one write and nothing else: no task, no
//! timer, no channel, no allocation of ours. An idle connection has no read buffer.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::log::RateLimit;
use super::{Answer, Limits};
use crate::wire::netstring::Decoder;
use crate::wire::socketmap::{REQUEST_LIMIT, Reply, Request};

/// Read at most so much at once, in bytes. A mail server waits for each answer, so one request
/// of some 40 bytes is what comes.
const PIECE: usize = 4096;

/// Answers to pipelined requests are sent when they are so many bytes.
const FLUSH_AT: usize = 16 * 1024;

/// A connection with nothing to send keeps no more memory for it than this, in bytes.
const KEEP: usize = 512;

/// How long and how much is read from a client that was told of its protocol error, so that the
/// answer reaches it: closing a TCP socket with unread input discards what was sent.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 1024 * 1024);

/// A stream that can say who is at its other end.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The other end, for the log.
    fn peer(&self) -> String;
}

impl Stream for tokio::net::UnixStream {
    fn peer(&self) -> String {
        match self.peer_cred() {
            Ok(cred) => match cred.pid() {
                Some(pid) => format!("process {pid} of user {}", cred.uid()),
                None => format!("a process of user {}", cred.uid()),
            },
            Err(_) => "a local process".to_owned(),
        }
    }
}

impl Stream for tokio::net::TcpStream {
    fn peer(&self) -> String {
        self.peer_addr().map_or_else(|_| "a client".to_owned(), |address| address.to_string())
    }
}

/// Serves a connection until its client closes it or breaks the protocol, or `stop` becomes true
/// and it has nothing to answer any more. There is no limit to idleness: Postfix' smtpd keeps a
/// connection for a whole session, and may take a close for a failure.
pub(super) async fn serve<A: Answer, S: Stream>(
    answer: &A,
    mut stream: S,
    limits: &Limits,
    stop: watch::Receiver<bool>,
) {
    if let Err(error) = converse(answer, &mut stream, limits, stop).await {
        match error.kind() {
            io::ErrorKind::TimedOut => {
                static UNREAD: RateLimit = RateLimit::new();
                if let Some(more) = UNREAD.admit(Instant::now()) {
                    let peer = stream.peer();
                    tracing::warn!("{peer} does not read its answers: connection closed{more}");
                }
            }
            _ => tracing::debug!("connection of {} lost: {error}", stream.peer()),
        }
    }
}

async fn converse<A: Answer, S: Stream>(
    answer: &A,
    stream: &mut S,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let stopping = stop.clone();
    let mut stopped = pin!(async move {
        // An error means that the server is gone altogether.
        let _ = stop.wait_for(|&stop| stop).await;
    });
    let mut requests = Decoder::new(REQUEST_LIMIT);
    let mut out = Vec::new();
    loop {
        while let Some(frame) = requests.next_frame() {
            let payload = match frame {
                Ok(payload) => payload,
                Err(error) => {
                    static GARBAGE: RateLimit = RateLimit::new();
                    if let Some(more) = GARBAGE.admit(Instant::now()) {
                        let peer = stream.peer();
                        tracing::warn!("{peer} does not speak socketmap: {error}{more}");
                    }
                    Reply::Temp(format!("protocol error: {error}")).encode_into(&mut out);
                    send(stream, &mut out, limits.write).await?;
                    return linger(stream).await;
                }
            };
            let request = Request::parse(payload);
            let reply = match std::str::from_utf8(request.map) {
                Err(_) => Reply::Temp("the name of the map is not UTF-8".to_owned()),
                Ok(map) => match at_once(answer, map, request.key) {
                    Some(reply) => reply,
                    None => {
                        send(stream, &mut out, limits.write).await?;
                        in_time(answer, map, request.key, limits.request).await
                    }
                },
            };
            reply.encode_into(&mut out);
            if out.len() >= FLUSH_AT {
                send(stream, &mut out, limits.write).await?;
            }
        }
        send(stream, &mut out, limits.write).await?;

        // A client that always has a next request would otherwise hold up the end.
        if stopping.has_changed().unwrap_or(true) {
            return Ok(());
        }
        let read = poll_fn(|context| {
            // On the stack of this poll only, so that a waiting task does not contain it.
            let mut piece = [MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut piece);
            match Pin::new(&mut *stream).poll_read(context, &mut piece) {
                Poll::Ready(Ok(())) => {
                    requests.push(piece.filled());
                    Poll::Ready(Ok(piece.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => stopped.as_mut().poll(context).map(|()| Ok(0)),
            }
        });
        if read.await? == 0 {
            if !requests.is_empty() {
                tracing::debug!("{} left in the middle of a request", stream.peer());
            }
            return Ok(());
        }
    }
}

const PANICKED: &str = "a bug in murder-route, see its log";

/// The answer that needs no waiting. A panic on the way is a temporary answer.
fn at_once<A: Answer>(answer: &A, map: &str, key: &[u8]) -> Option<Reply> {
    // What a panic leaves behind is the implementation's care: it is called from many tasks anyway.
    catch_unwind(AssertUnwindSafe(|| answer.at_once(map, key)))
        .unwrap_or_else(|_| Some(Reply::Temp(PANICKED.to_owned())))
}

/// The answer that has to be waited for, or a temporary one after `limit`; what would have come
/// later is dropped with its future, so nobody can send it.
async fn in_time<A: Answer>(answer: &A, map: &str, key: &[u8], limit: Duration) -> Reply {
    // Called inside the block, for the call itself may panic too.
    let mut future = pin!(async { answer.in_time(map, key).await });
    let caught = poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)))
            .unwrap_or_else(|_| Poll::Ready(Reply::Temp(PANICKED.to_owned())))
    });
    match timeout(limit, caught).await {
        Ok(reply) => reply,
        Err(_) => Reply::Temp(format!("no answer within {} s", limit.as_secs_f32())),
    }
}

/// Sends what is in `out` and empties it.
async fn send<S: Stream>(stream: &mut S, out: &mut Vec<u8>, limit: Duration) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    // The first try without a timer: almost always the socket takes the whole answer.
    let sent = poll_fn(|context| match Pin::new(&mut *stream).poll_write(context, out) {
        Poll::Pending => Poll::Ready(Ok(0)),
        ready => ready,
    });
    let sent = sent.await?;
    if let Some(rest) = out.get(sent..).filter(|rest| !rest.is_empty()) {
        timeout(limit, stream.write_all(rest)).await??;
    }
    out.clear();
    if out.capacity() > KEEP {
        *out = Vec::new();
    }
    Ok(())
}

/// Ends a conversation whose client may still be sending.
async fn linger<S: Stream>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let (time, bytes) = LINGER;
    let mut rest = stream.take(bytes);
    let mut sink = tokio::io::sink();
    // Whether the time, the bytes or the client comes to an end first does not matter.
    let _ = timeout(time, tokio::io::copy(&mut rest, &mut sink)).await;
    Ok(())
}
