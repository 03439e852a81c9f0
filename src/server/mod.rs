//! The daemon's sockets: mail servers ask here, something else decides.
//!
//! [`Server`] listens, tells by the first bytes of a connection which protocol its client speaks, cuts
//! requests out of the streams ([`crate::wire`]) and has them answered by an [`Answer`]. It promises
//! the mail server: one answer to each request and in order, within a deadline, whatever the
//! implementation does; a connection that may stay idle for ever; and listeners that outlive every
//! error of the system.
//!
//! What is rare runs on tokio: accepting, reloading, stopping, an answer that has to be waited for.
//! What happens for every recipient, one read and one write, blocks in a thread of its own.

pub mod answerer;
mod barrier;
pub mod confirmer;
mod connection;
mod conversation;
mod counters;
mod listener;
pub mod log;
pub mod marks;
pub mod notify;
pub mod sources;
pub mod status;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub use self::connection::Connections;
use self::connection::{Shared, Stream};
pub use self::listener::ListenError;
pub(crate) use self::listener::owner;
use self::listener::{Inherited, NewSocket, Ours, Placed, Socket, SocketFile, same_place};
use self::log::RateLimit;
use crate::endpoint::{Endpoint, Listen};
use crate::wire::protocol::Protocols;
use crate::wire::rcpt::AtRcpt;
use crate::wire::socketmap::Reply;

/// What decides. It is asked by many connections at a time, and one connection asks one question
/// at a time.
///
/// A panic in it becomes a temporary answer; the connection lives on. An implementation that is to
/// be exchanged while the server runs does so inside, for instance with `ArcSwap`.
pub trait Answer: Send + Sync + 'static {
    /// The answer, if it can be had without waiting: within microseconds, without network and
    /// without a lock that somebody may hold long. `None` has [`Answer::in_time`] asked.
    fn at_once(&self, map: &str, key: &[u8]) -> Option<Reply>;

    /// The answer, with waiting. It must not block its thread, for only between two steps of the
    /// future can the server see that the time is up: after [`Limits::request`] the mail server
    /// gets a temporary answer, and the future is dropped.
    fn in_time(&self, map: &str, key: &[u8]) -> impl Future<Output = Reply> + Send;

    /// Whether to take a recipient, as [`Answer::at_once`].
    fn rcpt_at_once(&self, recipient: &[u8]) -> Option<AtRcpt>;

    /// Whether to take a recipient, as [`Answer::in_time`].
    fn rcpt_in_time(&self, recipient: &[u8]) -> impl Future<Output = AtRcpt> + Send;
}

/// What one client, or many, may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of one listening socket; further ones wait in the kernel's queue. Each socket has
    /// its own count, so that nobody on the network can crowd out the local mail server. A connection
    /// takes a file descriptor and a thread (`LimitNOFILE=`, `TasksMax=`); when these run out first,
    /// the server waits for some to come free.
    pub connections: usize,
    /// For one answer. Postfix gives up after 100 s and then fails every lookup of the session, so
    /// this has to be far below; and its queue manager waits for nothing else meanwhile.
    pub request: Duration,
    /// For a client to read what it asked for.
    pub write: Duration,
    /// For the first question of who has just connected when the server stops. Who comes later waits
    /// in the kernel's queue for the next server, if systemd keeps the socket open; who was accepted
    /// cannot go back there.
    pub first_question: Duration,
    /// For the answers in flight when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 2000,
            request: Duration::from_secs(5),
            write: Duration::from_secs(10),
            // Clients connect when they have a question.
            first_question: Duration::from_millis(500),
            // A little more than an answer may take.
            drain: Duration::from_secs(6),
        }
    }
}

/// Listeners and connections.
///
/// Needs a tokio runtime, to accept and to time the answers that have to be waited for. One of a
/// single thread is enough (`new_current_thread`), as long as its main task waits and does not
/// block: each connection has a thread of its own, and answers there.
///
/// Dropping it ends everything but waits for nothing; use [`Server::shutdown`] to let answers in
/// flight reach their mail servers.
pub struct Server<A> {
    shared: Arc<Shared<A>>,
    inherited: Inherited,
    open: Vec<(Listen, Vec<Listener>)>,
    /// Becomes true at the end. Each connection holds a receiver, which tells when all are gone.
    stop: watch::Sender<bool>,
}

impl<A: Answer> Server<A> {
    /// A server that listens nowhere yet.
    ///
    /// # Errors
    ///
    /// When the environment speaks of sockets from systemd that are not there.
    pub fn new(answer: Arc<A>, limits: Limits) -> io::Result<Self> {
        Ok(Server {
            shared: Arc::new(Shared { answer, limits, connections: Arc::default() }),
            inherited: Inherited::take().map_err(io::Error::other)?,
            open: Vec::new(),
            stop: watch::Sender::new(false),
        })
    }

    /// Listens at these endpoints and no others: what is unchanged stays open and keeps its queue,
    /// what is new is opened, what is gone is closed. Connections live on in any case. Of several
    /// for one place the first counts.
    ///
    /// # Errors
    ///
    /// If one endpoint cannot be opened, everything stays as it was.
    pub async fn reconcile(&mut self, wanted: &[Listen]) -> Result<(), ListenError> {
        let wanted = one_for_each_place(wanted);
        let opened = self.open_missing(&wanted).await?;
        self.take_over(&wanted, opened).await?;
        for name in self.inherited.names() {
            let answers = |listen: &&Listen| listen.endpoint == Endpoint::Systemd(name.to_owned());
            if !wanted.iter().any(answers) {
                tracing::warn!(
                    "nobody answers at the socket {name} that systemd opened, and who asks there \
                     waits: listen at systemd:{name} too, or stop that unit"
                );
            }
        }
        Ok(())
    }

    /// The sockets that are wanted and not there. Nothing changes for any client.
    async fn open_missing(&self, wanted: &[&Listen]) -> Result<Vec<Opened>, ListenError> {
        let listeners = || self.open.iter().flat_map(|(_, listeners)| listeners);
        let ours = Ours {
            files: listeners().filter_map(|listener| listener.file.as_ref()).collect(),
            ports: listeners().filter_map(|listener| Some(listener.address?.port())).collect(),
            inherited: &self.inherited,
        };
        let mut opened = Vec::new();
        for &listen in wanted {
            let same = |(open, listeners): &(Listen, Vec<Listener>)| {
                open.is_as(listen) && listeners.iter().all(Listener::is_in_place)
            };
            if !self.open.iter().any(same) {
                let sockets = listener::open(&listen.endpoint, &listen.options, &ours).await?;
                opened.push((listen.clone(), sockets));
            }
        }
        Ok(opened)
    }

    /// Serves at what was opened and no more at what is not wanted. A directory may have changed since
    /// the sockets were opened, and some places cannot be taken although the directory is ours: a file
    /// system may be mounted on the name, or its owner may have it for himself (a sticky directory).
    /// Then what was placed before gives its place back.
    async fn take_over(
        &mut self,
        wanted: &[&Listen],
        opened: Vec<Opened>,
    ) -> Result<(), ListenError> {
        let mut placed: Vec<(Listen, Vec<Socket<Placed>>)> = Vec::new();
        for (listen, sockets) in opened {
            match sockets.into_iter().map(Socket::place).collect() {
                Ok(sockets) => placed.push((listen, sockets)),
                Err(why) => return Err(ListenError { endpoint: listen.endpoint, why }),
            }
        }
        // From here on nothing fails.
        let start = |(listen, sockets): (Listen, Vec<Socket<Placed>>)| {
            let start = |socket| self.start(socket, listen.protocols);
            let listeners: Vec<Listener> = sockets.into_iter().map(start).collect();
            (listen, listeners)
        };
        let mut fresh: Vec<_> = placed.into_iter().map(start).collect();
        let (kept, old) = std::mem::take(&mut self.open).into_iter().partition(|(open, _)| {
            let renewed = fresh.iter().any(|(listen, _)| listen.endpoint == open.endpoint);
            !renewed && wanted.iter().any(|listen| listen.endpoint == open.endpoint)
        });
        self.open = kept;
        for (open, listeners) in &mut self.open {
            let wanted = wanted.iter().find(|wanted| wanted.endpoint == open.endpoint);
            let Some(Listen { protocols, .. }) = wanted else { continue };
            open.protocols = *protocols;
            for listener in listeners {
                listener.protocols.send_replace(*protocols);
            }
        }
        self.open.append(&mut fresh);
        for listener in old.into_iter().flat_map(|(_, listeners)| listeners) {
            listener.close().await;
        }
        Ok(())
    }

    /// The open connections, to be counted.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.shared.connections)
    }

    /// Where the server listens: the endpoints, for TCP with the actual address and port.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let endpoints = self.open.iter().flat_map(|(listen, listeners)| {
            listeners.iter().map(|listener| match listener.address {
                Some(address) => {
                    Endpoint::Inet { host: address.ip().to_string(), port: address.port() }
                }
                None => listen.endpoint.clone(),
            })
        });
        endpoints.collect()
    }

    /// Closes the listeners, removes their sockets, closes idle connections (those on which nothing was
    /// asked yet after [`Limits::first_question`]), and waits until the requests that were read are
    /// answered, for [`Limits::drain`] at most.
    pub async fn shutdown(mut self) {
        for listener in self.open.drain(..).flat_map(|(_, listeners)| listeners) {
            listener.close().await;
        }
        self.stop.send_replace(true);
        self.shared.connections.end_input_of_answered();
        let _ = timeout(self.shared.limits.first_question, self.stop.closed()).await;
        self.shared.connections.end_input();
        if timeout(self.shared.limits.drain, self.stop.closed()).await.is_err() {
            let left = self.stop.receiver_count();
            tracing::warn!("{left} connections were still busy at the end");
        }
    }

    fn start(&self, socket: Socket<Placed>, protocols: Protocols) -> Listener {
        let (shared, stop) = (self.shared.clone(), self.stop.subscribe());
        let protocols = watch::Sender::new(protocols);
        let spoken = protocols.subscribe();
        match socket {
            Socket::Unix(listener, file) => Listener {
                file: file.and_then(Placed::keep),
                address: None,
                task: tokio::spawn(accept(listener, shared, spoken, stop)),
                protocols,
            },
            Socket::Tcp(listener) => Listener {
                file: None,
                address: listener.local_addr().ok(),
                task: tokio::spawn(accept(listener, shared, spoken, stop)),
                protocols,
            },
        }
    }
}

/// What is opened for an endpoint, and not yet served.
type Opened = (Listen, Vec<Socket<NewSocket>>);

fn one_for_each_place(wanted: &[Listen]) -> Vec<&Listen> {
    let mut places: Vec<&Listen> = Vec::new();
    for listen in wanted {
        let first = places.iter().find(|first| same_place(&first.endpoint, &listen.endpoint));
        match first {
            None => places.push(listen),
            Some(first) if *first == listen => {}
            Some(first) => tracing::warn!(
                "of two [[listen]] for one place only the first counts: {}, and not {}",
                first.endpoint,
                listen.endpoint
            ),
        }
    }
    places
}

impl<A> Drop for Server<A> {
    fn drop(&mut self) {
        // In this order: a connection that is just being made meets one or the other.
        self.stop.send_replace(true);
        self.shared.connections.end_input();
    }
}

/// A socket that is being accepted from.
struct Listener {
    file: Option<SocketFile>,
    address: Option<std::net::SocketAddr>,
    /// Those that it speaks with who comes from now on.
    protocols: watch::Sender<Protocols>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Whether clients still find it: someone may have removed the file.
    fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(SocketFile::is_in_place)
    }

    /// The name goes first, then the socket.
    async fn close(mut self) {
        self.file.take();
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listening socket, unix or TCP.
trait Accept: Send + 'static {
    fn accept(&self) -> impl Future<Output = io::Result<Stream>> + Send;
}

impl Accept for UnixListener {
    async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = UnixListener::accept(self).await?;
        stream.into_std().map(Stream::Unix)
    }
}

impl Accept for TcpListener {
    async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.into_std().map(Stream::Tcp)
    }
}

/// Accepts for ever. Cancelled by aborting its task: between an accepted connection and its thread
/// there is no point where that could happen.
async fn accept<A: Answer>(
    listener: impl Accept,
    shared: Arc<Shared<A>>,
    protocols: watch::Receiver<Protocols>,
    stop: watch::Receiver<bool>,
) {
    let most = shared.limits.connections;
    let room = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
    loop {
        // Before accepting: a client that cannot be served is better off in the kernel's queue.
        let permit = match room.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                static FULL: RateLimit = RateLimit::new();
                if let Some(more) = FULL.admit(Instant::now()) {
                    tracing::warn!("{most} connections are open; further ones wait{more}");
                }
                // An error would mean that the semaphore was closed, which nobody does.
                room.clone().acquire_owned().await.ok()
            }
        };
        let spawned = match listener.accept().await {
            Ok(stream) => {
                let protocols = *protocols.borrow();
                connection::spawn(&shared, stream, protocols, permit, stop.clone())
            }
            Err(error) => Err(error),
        };
        match spawned {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // No file descriptor, memory or thread left: that is no reason to stop listening,
                // and without a pause the error would come again at once and for ever.
                static FAILED: RateLimit = RateLimit::new();
                if let Some(more) = FAILED.admit(Instant::now()) {
                    tracing::warn!("cannot accept a connection: {error}{more}");
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
