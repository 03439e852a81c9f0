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
mod connection;
mod connection_limit;
mod counters;
pub mod descriptors;
pub mod list_watch;
mod listener;
pub mod log;
pub mod notify;
mod session;
pub mod source_watch;
pub mod status;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::unix::net as unix;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub use self::connection::Connections;
use self::connection::{Open, Shared, Stream};
use self::connection_limit::{Entered, Peer, Room, Ticket};
pub use self::listener::ListenError;
pub(crate) use self::listener::owner;
use self::listener::{Inherited, NewSocket, Ours, Placed, Socket, SocketFile, same_place};
use self::log::RateLimit;
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::protocol::Protocols;
use crate::wire::rcpt::RcptVerdict;
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
    fn rcpt_at_once(&self, recipient: &[u8]) -> Option<RcptVerdict>;

    /// Whether to take a recipient, as [`Answer::in_time`].
    fn rcpt_in_time(&self, recipient: &[u8]) -> impl Future<Output = RcptVerdict> + Send;
}

/// What one client, or many, may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of one client at one listening socket: a user of this host, or another host. For
    /// all clients together there are a third more, and of those the last ones are for clients that
    /// have few. Further ones wait; if there are many, they are closed. Where somebody has connected
    /// and never asked, the oldest such connection is closed instead.
    ///
    /// Each socket has its own count, so that nobody on the network can crowd out the local mail
    /// server. A connection takes a file descriptor and a thread (`LimitNOFILE=`, `TasksMax=`); when
    /// these run out first, the server waits for some to come free.
    pub connections: usize,
    /// Descriptors that this process may open. Where they are too few for [`Limits::connections`],
    /// there are fewer connections, and some descriptors are left for other things. `None`: enough.
    pub descriptors: Option<usize>,
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
            descriptors: None,
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
    /// Most connections of one client at one socket, as it was said last.
    allotted: usize,
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
            allotted: limits.connections,
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
        self.allot();
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

    /// Gives each socket its part of the descriptors.
    fn allot(&mut self) {
        let rooms = || self.open.iter().flat_map(|(_, listeners)| listeners).map(|l| &l.room);
        let limits = &self.shared.limits;
        let limit = limits.descriptors.map_or(limits.connections, |all| {
            let each = descriptors::for_connections(all) / rooms().count().max(1);
            limits.connections.min(connection_limit::limit_for(each))
        });
        for room in rooms() {
            room.set_limit(limit);
        }
        if limit < limits.connections && limit != self.allotted {
            tracing::warn!(
                "this process may open {} files, too few for `max-connections` = {}: at each socket, \
                 {limit} connections of one client are served; raise LimitNOFILE= of the service, or \
                 `ulimit -n`",
                limits.descriptors.unwrap_or(usize::MAX),
                limits.connections
            );
        }
        self.allotted = limit;
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
            // A socket that is replaced hands its connections on.
            let same = |(open, _): &&(Listen, _)| open.endpoint == listen.endpoint;
            let old = self.open.iter().find(same).and_then(|(_, listeners)| listeners.first());
            let room = old.map(|listener| Arc::clone(&listener.room));
            let room = || room.clone().unwrap_or_else(|| Room::new(self.allotted));
            let start = |socket| self.start(socket, room(), listen.protocols);
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
            listener.close(GRACE).await;
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
            listener.close(Duration::ZERO).await;
        }
        self.stop.send_replace(true);
        self.shared.connections.end_input_of_those_who_asked();
        let _ = timeout(self.shared.limits.first_question, self.stop.closed()).await;
        self.shared.connections.end_input();
        if timeout(self.shared.limits.drain, self.stop.closed()).await.is_err() {
            let left = self.stop.receiver_count();
            tracing::warn!("{left} connections were still busy at the end");
        }
    }

    fn start(&self, socket: Socket<Placed>, room: Arc<Room>, protocols: Protocols) -> Listener {
        let protocols = watch::Sender::new(protocols);
        let (close, closing) = oneshot::channel();
        let gate = Gate {
            shared: self.shared.clone(),
            room: Arc::clone(&room),
            protocols: protocols.subscribe(),
            stop: self.stop.subscribe(),
            waiting: VecDeque::new(),
        };
        let (file, address, ours, task) = match socket {
            Socket::Unix(listener, file) => {
                let ours = file.is_some();
                let task = tokio::spawn(gate.serve(listener, closing));
                (file.and_then(Placed::keep), None, ours, task)
            }
            Socket::Tcp(listener) => {
                let address = listener.local_addr().ok();
                // One of systemd outlives us: this is only our copy of it.
                let ours = !self.inherited.has_at(address);
                (None, address, ours, tokio::spawn(gate.serve(listener, closing)))
            }
        };
        Listener { file, address, ours, room, protocols, close, task }
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

/// How long a socket whose name is gone or leads to another takes connections: of a client that has
/// looked the name up before, and is about to connect.
const GRACE: Duration = Duration::from_millis(200);

/// A socket that is being accepted from.
struct Listener {
    file: Option<SocketFile>,
    address: Option<std::net::SocketAddr>,
    /// Whether it ends with us. One of systemd keeps its queue for the next server.
    ours: bool,
    room: Arc<Room>,
    /// Those that it speaks with who comes from now on.
    protocols: watch::Sender<Protocols>,
    close: oneshot::Sender<Closing>,
    task: JoinHandle<()>,
}

/// How a socket is to be closed.
struct Closing {
    /// Whether who is in its queue is still served.
    drain: bool,
    /// How long it goes on before.
    grace: Duration,
    closed: oneshot::Sender<()>,
}

impl Listener {
    /// Whether clients still find it: someone may have removed the file.
    fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(SocketFile::is_in_place)
    }

    /// The name goes first, then the socket. Who is in its queue by then is served, unless the queue is
    /// systemd's. A unix socket lives on for as long as `grace`, which is not waited for.
    async fn close(self, grace: Duration) {
        let Listener { file, ours, close, mut task, .. } = self;
        let grace = if file.is_some() { grace } else { Duration::ZERO };
        drop(file);
        let (closed, is_closed) = oneshot::channel();
        let _ = close.send(Closing { drain: ours, grace, closed });
        if grace.is_zero() {
            tokio::select! {
                // An error means the same: the task is over.
                _ = is_closed => {}
                _ = &mut task => {}
            }
        }
    }
}

/// A listening socket, unix or TCP.
trait Accept: Send + Sync + 'static {
    fn accept(&self) -> impl Future<Output = io::Result<Stream>> + Send;

    /// All who are in its queue, without waiting for more; then it is closed.
    fn drain(self, take: impl FnMut(Stream)) -> io::Result<()>;
}

impl Accept for UnixListener {
    async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = UnixListener::accept(self).await?;
        stream.into_std().map(Stream::Unix)
    }

    fn drain(self, take: impl FnMut(Stream)) -> io::Result<()> {
        let listener: unix::UnixListener = self.into_std()?;
        queue(|| listener.accept().map(|(stream, _)| Stream::Unix(stream)), take)
    }
}

impl Accept for TcpListener {
    async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.into_std().map(Stream::Tcp)
    }

    fn drain(self, take: impl FnMut(Stream)) -> io::Result<()> {
        let listener = self.into_std()?;
        queue(|| listener.accept().map(|(stream, _)| Stream::Tcp(stream)), take)
    }
}

/// Most connections that are taken out of a queue at its end: it holds no more (`somaxconn`).
const QUEUE: usize = 4096;

fn queue(accept: impl Fn() -> io::Result<Stream>, mut take: impl FnMut(Stream)) -> io::Result<()> {
    for _ in 0..QUEUE {
        match accept() {
            Ok(stream) => take(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is between a listening socket and its connections.
struct Gate<A> {
    shared: Arc<Shared<A>>,
    room: Arc<Room>,
    protocols: watch::Receiver<Protocols>,
    stop: watch::Receiver<bool>,
    /// Those who were accepted and wait for a place. It is known only of an accepted connection whose
    /// it is, so nobody can be left in the kernel's queue: the mail server may stand behind him.
    waiting: VecDeque<(Peer, Open)>,
}

impl<A: Answer> Gate<A> {
    /// Accepts until the server ends or the socket is to be closed. Between an accepted connection and
    /// its thread, or its place among those who wait, there is no point where this can be cancelled.
    async fn serve(mut self, listener: impl Accept, mut closing: oneshot::Receiver<Closing>) {
        let (mut freed, mut stop) = (self.room.freed(), self.stop.clone());
        let closing = loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                // An error means that the server was dropped: then it ends as well.
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
            // An error means that the system has no descriptor left; the client connects anew.
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

    async fn accepted(&mut self, accepted: io::Result<Stream>) {
        match accepted {
            Ok(stream) => self.arrived(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // No file descriptor or memory left: that is no reason to stop listening, and
                // without a pause the error would come again at once and for ever.
                failed(&error);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Serves a client, has him wait, or closes.
    fn arrived(&mut self, stream: Stream) {
        let (peer, open) = (stream.client(), Open::new(stream));
        match self.enter(peer, &open) {
            Some(ticket) => self.begin(open, ticket),
            None => {
                let limit = self.room.limit();
                let waits = self.waiting.len() < connection_limit::waiting_limit(limit);
                static FULL: RateLimit = RateLimit::new();
                if let Some(more) = FULL.admit(Instant::now()) {
                    let what = if waits { "waits" } else { "is closed" };
                    tracing::warn!(
                        "{peer} has all connections that one client may have, of {limit} \
                         (`max-connections`): the next one {what}{more}"
                    );
                }
                if waits {
                    self.waiting.push_back((peer, open));
                }
            }
        }
    }

    fn enter(&self, peer: Peer, open: &Open) -> Option<Ticket> {
        match self.room.enter(peer, open) {
            Entered::Free(ticket) => Some(ticket),
            Entered::InPlaceOf(gone, ticket) => {
                static CROWDED: RateLimit = RateLimit::new();
                if let Some(more) = CROWDED.admit(Instant::now()) {
                    tracing::warn!(
                        "{gone} has connections that never asked: the oldest is closed for the next \
                         one of {peer}{more}"
                    );
                }
                Some(ticket)
            }
            Entered::Full => None,
        }
    }

    /// Those for whom there is a place by now, in the order in which they came.
    fn serve_waiting(&mut self) {
        for (peer, open) in std::mem::take(&mut self.waiting) {
            match self.enter(peer, &open) {
                Some(ticket) => self.begin(open, ticket),
                None => self.waiting.push_back((peer, open)),
            }
        }
    }

    fn begin(&self, open: Open, ticket: Ticket) {
        let (protocols, stop) = (*self.protocols.borrow(), self.stop.clone());
        if let Err(error) = connection::spawn(&self.shared, open, protocols, Some(ticket), stop) {
            failed(&error);
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn failed(error: &io::Error) {
    static FAILED: RateLimit = RateLimit::new();
    if let Some(more) = FAILED.admit(Instant::now()) {
        tracing::warn!("cannot accept a connection: {error}{more}");
    }
}
