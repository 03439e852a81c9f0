//! Accepting connections at one listening socket.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net as unix;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Responder;
use super::connection::{self, Shared};
use super::connection_limit::{self, Admission, ConnectionLimit, Permit};
use super::log::RateLimit;
use super::sockets::{PlacedSocket, Socket, SocketFile};
use super::stream::{ClientStream, OpenConnection, Peer};
use crate::wire::protocol::Protocols;

/// Time for which a socket still accepts after its path is removed or leads to another socket: a client
/// may have resolved the path before and be about to connect.
pub(super) const CLOSE_GRACE: Duration = Duration::from_millis(200);

/// Pause after an error of accept(2), which would repeat at once.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A listening socket with the task that accepts at it.
pub(super) struct Listener {
    pub(super) file: Option<SocketFile>,
    pub(super) address: Option<SocketAddr>,
    /// Whether the socket ends with this process. One of systemd keeps its queue for the next server.
    ours: bool,
    pub(super) limit: Arc<ConnectionLimit>,
    /// Protocols for connections accepted from now on.
    pub(super) protocols: watch::Sender<Protocols>,
    close: oneshot::Sender<Closing>,
    task: JoinHandle<()>,
}

/// How to close a socket.
struct Closing {
    /// Whether clients in its queue are still served.
    drain: bool,
    /// Time for which it still accepts.
    grace: Duration,
    closed: oneshot::Sender<()>,
}

impl Listener {
    /// Starts to accept at a socket. `is_systemds` tells whether systemd owns this address.
    pub(super) fn start<R: Responder>(
        socket: Socket<PlacedSocket>,
        limit: Arc<ConnectionLimit>,
        protocols: Protocols,
        shared: &Arc<Shared<R>>,
        stop: watch::Receiver<bool>,
        is_systemds: impl FnOnce(Option<SocketAddr>) -> bool,
    ) -> Self {
        let protocols = watch::Sender::new(protocols);
        let (close, closing) = oneshot::channel();
        let acceptor = Acceptor {
            shared: shared.clone(),
            limit: Arc::clone(&limit),
            protocols: protocols.subscribe(),
            stop,
            waiting: VecDeque::new(),
        };
        let (file, address, ours, task) = match socket {
            Socket::Unix(listener, file) => {
                let ours = file.is_some();
                let task = tokio::spawn(acceptor.serve(listener, closing));
                (file.and_then(PlacedSocket::keep), None, ours, task)
            }
            Socket::Tcp(listener) => {
                let address = listener.local_addr().ok();
                // A socket of systemd outlives this process, which has a copy of it.
                let ours = !is_systemds(address);
                (None, address, ours, tokio::spawn(acceptor.serve(listener, closing)))
            }
        };
        Listener { file, address, ours, limit, protocols, close, task }
    }

    /// Whether the path still leads to this socket: someone may have removed the file.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(SocketFile::is_in_place)
    }

    /// Removes the path, then closes the socket. Clients in its queue by then are served, unless the
    /// queue is systemd's. A unix socket accepts for `grace` longer; this does not wait for it.
    pub(super) async fn close(self, grace: Duration) {
        let Listener { file, ours, close, mut task, .. } = self;
        let grace = if file.is_some() { grace } else { Duration::ZERO };
        drop(file);
        let (closed, is_closed) = oneshot::channel();
        let _ = close.send(Closing { drain: ours, grace, closed });
        if grace.is_zero() {
            tokio::select! {
                // An error means that the task has ended.
                _ = is_closed => {}
                _ = &mut task => {}
            }
        }
    }
}

/// A listening socket, unix or TCP.
trait ListeningSocket: Send + Sync + 'static {
    fn accept(&self) -> impl Future<Output = io::Result<ClientStream>> + Send;

    /// Takes all connections in the queue without waiting for more, and closes the socket.
    fn drain(self, take: impl FnMut(ClientStream)) -> io::Result<()>;
}

impl ListeningSocket for UnixListener {
    async fn accept(&self) -> io::Result<ClientStream> {
        let (stream, _) = UnixListener::accept(self).await?;
        stream.into_std().map(ClientStream::Unix)
    }

    fn drain(self, take: impl FnMut(ClientStream)) -> io::Result<()> {
        let listener: unix::UnixListener = self.into_std()?;
        drain_queue(|| listener.accept().map(|(stream, _)| ClientStream::Unix(stream)), take)
    }
}

impl ListeningSocket for TcpListener {
    async fn accept(&self) -> io::Result<ClientStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.into_std().map(ClientStream::Tcp)
    }

    fn drain(self, take: impl FnMut(ClientStream)) -> io::Result<()> {
        let listener = self.into_std()?;
        drain_queue(|| listener.accept().map(|(stream, _)| ClientStream::Tcp(stream)), take)
    }
}

/// Maximum number of connections taken out of a queue at its end: it holds no more (`somaxconn`).
const MAX_QUEUE: usize = 4096;

fn drain_queue(
    accept: impl Fn() -> io::Result<ClientStream>,
    mut take: impl FnMut(ClientStream),
) -> io::Result<()> {
    for _ in 0..MAX_QUEUE {
        match accept() {
            Ok(stream) => take(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Task that accepts at one listening socket and starts its connections.
struct Acceptor<R> {
    shared: Arc<Shared<R>>,
    limit: Arc<ConnectionLimit>,
    protocols: watch::Receiver<Protocols>,
    stop: watch::Receiver<bool>,
    /// Accepted connections that wait for a slot. The client is known only after accept(2), so none can
    /// be left in the kernel's queue: the mail server may stand behind it.
    waiting: VecDeque<(Peer, OpenConnection)>,
}

impl<R: Responder> Acceptor<R> {
    /// Accepts until the server stops or the socket is closed. There is no cancellation point between
    /// an accepted connection and its thread, or its place in `waiting`.
    async fn serve(
        mut self,
        listener: impl ListeningSocket,
        mut closing: oneshot::Receiver<Closing>,
    ) {
        let (mut freed, mut stop) = (self.limit.freed(), self.stop.clone());
        let closing = loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                // An error means that the server was dropped, which ends this task too.
                closing = &mut closing => match closing {
                    Ok(closing) => break closing,
                    Err(_) => return,
                },
                Ok(()) = freed.changed(), if !self.waiting.is_empty() => self.serve_waiting(),
                accepted = listener.accept() => self.accepted(accepted).await,
            }
        };
        let over = sleep(closing.grace);
        tokio::pin!(over);
        while !over.is_elapsed() && !closing.grace.is_zero() {
            tokio::select! {
                () = &mut over => {}
                accepted = listener.accept() => self.accepted(accepted).await,
            }
        }
        if closing.drain {
            // An error means that the system has no descriptor left; the client reconnects.
            let _ = listener.drain(|stream| self.arrived(stream));
        } else {
            drop(listener);
        }
        let _ = closing.closed.send(());
        while !self.waiting.is_empty() {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                Ok(()) = freed.changed() => self.serve_waiting(),
            }
        }
    }

    async fn accepted(&mut self, accepted: io::Result<ClientStream>) {
        match accepted {
            Ok(stream) => self.arrived(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of file descriptors or memory. That is no reason to stop listening, and without a
                // pause the error would repeat immediately and forever.
                warn_not_accepted(&error);
                sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }

    /// Serves a client, makes it wait, or closes its connection.
    fn arrived(&mut self, stream: ClientStream) {
        let (peer, open) = (stream.client(), OpenConnection::new(stream));
        match self.admit(peer, &open) {
            Some(permit) => self.begin(open, permit),
            None => {
                let limit = self.limit.limit();
                let waits = self.waiting.len() < connection_limit::waiting_limit(limit);
                static FULL: RateLimit = RateLimit::new();
                if let Some(more) = FULL.admit(Instant::now()) {
                    let outcome = if waits { "waits" } else { "is closed" };
                    tracing::warn!(
                        "{peer}: has reached its limit of {limit} connections; the next connection \
                         {outcome}; raise `max-connections` if this client is your mail server{more}"
                    );
                }
                if waits {
                    self.waiting.push_back((peer, open));
                }
            }
        }
    }

    fn admit(&self, peer: Peer, open: &OpenConnection) -> Option<Permit> {
        match self.limit.admit(peer, open) {
            Admission::Free(permit) => Some(permit),
            Admission::InPlaceOf(evicted, permit) => {
                static EVICTED: RateLimit = RateLimit::new();
                if let Some(more) = EVICTED.admit(Instant::now()) {
                    tracing::warn!(
                        "{evicted}: oldest connection without a request closed, to admit a \
                         connection of {peer}{more}"
                    );
                }
                Some(permit)
            }
            Admission::Full => None,
        }
    }

    /// Starts the waiting connections that get a slot, in the order of their arrival.
    fn serve_waiting(&mut self) {
        for (peer, open) in std::mem::take(&mut self.waiting) {
            match self.admit(peer, &open) {
                Some(permit) => self.begin(open, permit),
                None => self.waiting.push_back((peer, open)),
            }
        }
    }

    fn begin(&self, open: OpenConnection, permit: Permit) {
        let (protocols, stop) = (*self.protocols.borrow(), self.stop.clone());
        if let Err(error) = connection::spawn(&self.shared, open, protocols, Some(permit), stop) {
            warn_not_accepted(&error);
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server was dropped.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn warn_not_accepted(error: &io::Error) {
    static FAILED: RateLimit = RateLimit::new();
    if let Some(more) = FAILED.admit(Instant::now()) {
        tracing::warn!("cannot accept a connection: {error}; the mail server retries{more}");
    }
}
