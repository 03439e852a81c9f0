//! The daemon's sockets, connections and sessions.
//!
//! [`Server`] listens, detects the protocol of a connection by its first bytes, splits the stream into
//! requests ([`crate::wire`]) and passes them to a [`Responder`], which decides. It guarantees to the
//! mail server: one answer for each request, in order and within a deadline, whatever the responder
//! does; connections may stay idle forever; listeners survive every error of the system.
//!
//! Rare work runs on tokio: accepting, reloading, stopping, answers that have to wait. The work for
//! every recipient, one read and one write, blocks in a thread of its own.

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
mod sockets;
pub mod source_watch;
pub mod status;
mod stream;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

pub use self::connection::Connections;
use self::connection::Shared;
use self::connection_limit::ConnectionLimit;
use self::listener::{CLOSE_GRACE, Listener};
pub use self::sockets::ListenError;
use self::sockets::{NewSocket, OwnSockets, PlacedSocket, Socket, SystemdSockets, same_place};
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::rcpt::RcptVerdict;
use crate::wire::socketmap::Reply;

/// Answers requests. Many connections call it at a time, and each connection has one request at a time.
///
/// A panic in it becomes a temporary answer; the connection stays open. An implementation that is
/// replaced while the server runs does so inside, for instance with `ArcSwap`.
pub trait Responder: Send + Sync + 'static {
    /// The answer if it needs no waiting: within microseconds, without network and without a lock that
    /// may be held for long. After `None` the server calls [`Responder::in_time`].
    fn at_once(&self, map: &str, key: &[u8]) -> Option<Reply>;

    /// The answer, with waiting. It must not block its thread: the server notices only between two
    /// polls of the future that the time is up. After [`Limits::request`] the mail server gets a
    /// temporary answer, and the future is dropped.
    fn in_time(&self, map: &str, key: &[u8]) -> impl Future<Output = Reply> + Send;

    /// Verdict on a recipient, as [`Responder::at_once`].
    fn rcpt_at_once(&self, recipient: &[u8]) -> Option<RcptVerdict>;

    /// Verdict on a recipient, as [`Responder::in_time`].
    fn rcpt_in_time(&self, recipient: &[u8]) -> impl Future<Output = RcptVerdict> + Send;
}

/// Limits of connections, and timeouts.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum number of connections of one client at one listening socket. A client is a user of this
    /// host, or another host. All clients together have a third more, and the last of those are for
    /// clients that hold few. Further connections wait; if many wait, they are closed. Where clients
    /// have connected without a request, the oldest such connection is closed instead.
    ///
    /// Each socket counts for itself, so that no host on the network can crowd out the local mail
    /// server. A connection takes a file descriptor and a thread (`LimitNOFILE=`, `TasksMax=`); when
    /// these run out first, the server waits until some are free.
    pub connections: usize,
    /// Descriptors that this process may open. If they are too few for [`Limits::connections`], there
    /// are fewer connections, and some descriptors stay for other uses. `None`: enough.
    pub descriptors: Option<usize>,
    /// Timeout of one answer. Postfix gives up after 100 s and then fails every lookup of the session,
    /// so this must be far below; and its queue manager waits for nothing else meanwhile.
    pub request: Duration,
    /// Timeout for a client to read its answers.
    pub write: Duration,
    /// Time that a stopping server grants a client that has just connected for its first request. A
    /// later client waits in the kernel's queue for the next server, if systemd keeps the socket open;
    /// an accepted one cannot go back there.
    pub first_question: Duration,
    /// Time that a stopping server grants the answers in flight.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 2000,
            descriptors: None,
            request: Duration::from_secs(5),
            write: Duration::from_secs(10),
            // Clients connect when they have a request.
            first_question: Duration::from_millis(500),
            // A little more than an answer may take.
            drain: Duration::from_secs(6),
        }
    }
}

/// Listeners and connections.
///
/// Needs a tokio runtime, for accepting and for the deadlines of answers that have to wait. A
/// single-threaded one is enough (`new_current_thread`), as long as its main task waits and
/// does not block: each connection has a thread of its own, and answers there.
///
/// Dropping it ends everything without waiting; use [`Server::shutdown`] to let answers in flight reach
/// their mail servers.
pub struct Server<R> {
    shared: Arc<Shared<R>>,
    inherited: SystemdSockets,
    open: Vec<(Listen, Vec<Listener>)>,
    /// Connection limit of one client at one socket that was logged last.
    allotted: usize,
    /// Becomes true at the end. Each connection holds a receiver, which tells when all are gone.
    stop: watch::Sender<bool>,
}

impl<R: Responder> Server<R> {
    /// A server without listeners.
    ///
    /// # Errors
    ///
    /// If the environment names sockets of systemd that are not there.
    pub fn new(responder: Arc<R>, limits: Limits) -> io::Result<Self> {
        Ok(Server {
            allotted: limits.connections,
            shared: Arc::new(Shared { responder, limits, connections: Arc::default() }),
            inherited: SystemdSockets::take().map_err(io::Error::other)?,
            open: Vec::new(),
            stop: watch::Sender::new(false),
        })
    }

    /// Listens at these endpoints and no others: unchanged ones stay open and keep their queue, new ones
    /// are opened, others are closed. Connections stay open in any case. Of several endpoints at one
    /// address or path the first counts.
    ///
    /// # Errors
    ///
    /// If one endpoint cannot be opened. Nothing has changed then.
    pub async fn reconcile(&mut self, wanted: &[Listen]) -> Result<(), ListenError> {
        let wanted = without_duplicates(wanted);
        let opened = self.open_missing(&wanted).await?;
        self.take_over(&wanted, opened).await?;
        self.allot();
        for name in self.inherited.names() {
            let answers = |listen: &&Listen| listen.endpoint == Endpoint::Systemd(name.to_owned());
            if !wanted.iter().any(answers) {
                tracing::warn!(
                    "{name}: socket opened by systemd is not served; its clients wait; listen at \
                     systemd:{name} too, or stop that socket unit"
                );
            }
        }
        Ok(())
    }

    /// Gives each socket its share of the descriptors.
    fn allot(&mut self) {
        let sockets = || self.open.iter().flat_map(|(_, listeners)| listeners).map(|l| &l.limit);
        let limits = &self.shared.limits;
        let limit = limits.descriptors.map_or(limits.connections, |all| {
            let each = descriptors::for_connections(all) / sockets().count().max(1);
            limits.connections.min(connection_limit::limit_for(each))
        });
        for socket in sockets() {
            socket.set_limit(limit);
        }
        if limit < limits.connections && limit != self.allotted {
            tracing::warn!(
                "open files limit of {} is too low for `max-connections` = {}; at each socket, \
                 {limit} connections of one client are served; raise LimitNOFILE= of the service, or \
                 `ulimit -n`",
                limits.descriptors.unwrap_or(usize::MAX),
                limits.connections
            );
        }
        self.allotted = limit;
    }

    /// Opens the wanted sockets that are not there. Clients notice nothing yet.
    async fn open_missing(&self, wanted: &[&Listen]) -> Result<Vec<OpenedEndpoint>, ListenError> {
        let listeners = || self.open.iter().flat_map(|(_, listeners)| listeners);
        let ours = OwnSockets {
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
                let sockets = sockets::open(&listen.endpoint, &listen.options, &ours).await?;
                opened.push((listen.clone(), sockets));
            }
        }
        Ok(opened)
    }

    /// Serves at the opened sockets, and closes those that are not wanted. A directory may have
    /// changed since the sockets were opened, and some paths cannot be replaced even in a directory
    /// of ours: a file system may be mounted on the name, or another user may own the file (a
    /// sticky directory). Then the sockets placed before give their paths back.
    async fn take_over(
        &mut self,
        wanted: &[&Listen],
        opened: Vec<OpenedEndpoint>,
    ) -> Result<(), ListenError> {
        let mut placed: Vec<(Listen, Vec<Socket<PlacedSocket>>)> = Vec::new();
        for (listen, sockets) in opened {
            match sockets.into_iter().map(Socket::place).collect() {
                Ok(sockets) => placed.push((listen, sockets)),
                Err(why) => return Err(ListenError { endpoint: listen.endpoint, why }),
            }
        }
        // From here on no step can fail.
        let start = |(listen, sockets): (Listen, Vec<Socket<PlacedSocket>>)| {
            // The replacement of a socket continues to count its connections.
            let same = |(open, _): &&(Listen, _)| open.endpoint == listen.endpoint;
            let old = self.open.iter().find(same).and_then(|(_, listeners)| listeners.first());
            let limit = old.map(|listener| Arc::clone(&listener.limit));
            let limit = || limit.clone().unwrap_or_else(|| ConnectionLimit::new(self.allotted));
            let start = |socket| {
                let stop = self.stop.subscribe();
                let is_systemds = |address| self.inherited.has_at(address);
                Listener::start(socket, limit(), listen.protocols, &self.shared, stop, is_systemds)
            };
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
            listener.close(CLOSE_GRACE).await;
        }
        Ok(())
    }

    /// Returns the open connections, for the status.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.shared.connections)
    }

    /// Returns the endpoints of all listeners, for TCP with the actual address and port.
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

    /// Closes the listeners, removes their sockets, closes idle connections (those without any request
    /// after [`Limits::first_question`]), and waits until all requests that were read are answered, at
    /// most for [`Limits::drain`].
    pub async fn shutdown(mut self) {
        for listener in self.open.drain(..).flat_map(|(_, listeners)| listeners) {
            listener.close(Duration::ZERO).await;
        }
        self.stop.send_replace(true);
        self.shared.connections.end_input_where_asked();
        let _ = timeout(self.shared.limits.first_question, self.stop.closed()).await;
        self.shared.connections.end_input();
        if timeout(self.shared.limits.drain, self.stop.closed()).await.is_err() {
            let left = self.stop.receiver_count();
            tracing::warn!(
                "{left} connections closed with a request in progress; the mail server retries"
            );
        }
    }
}

/// An endpoint with its opened sockets, not served yet.
type OpenedEndpoint = (Listen, Vec<Socket<NewSocket>>);

fn without_duplicates(wanted: &[Listen]) -> Vec<&Listen> {
    let mut distinct: Vec<&Listen> = Vec::new();
    for listen in wanted {
        let first = distinct.iter().find(|first| same_place(&first.endpoint, &listen.endpoint));
        match first {
            None => distinct.push(listen),
            Some(first) if *first == listen => {}
            Some(first) => tracing::warn!(
                "{}: duplicate [[listen]] ignored; the first one, {}, is used",
                listen.endpoint,
                first.endpoint
            ),
        }
    }
    distinct
}

impl<R> Drop for Server<R> {
    fn drop(&mut self) {
        // In this order: a connection that is just being registered sees one or the other.
        self.stop.send_replace(true);
        self.shared.connections.end_input();
    }
}
