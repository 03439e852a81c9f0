//! The connections of mail servers, each with a thread that runs its [`super::session`].
//!
//! The thread blocks in `read`. That is the fastest way to answer a client that waits for each answer,
//! as mail servers do: one read and one write, and no wake-up in between. An event loop costs a third
//! system call and its own bookkeeping for every request (measured: `benches/socketmap.rs`). A mail
//! server has at most a few hundred connections, and an idle one costs some pages of stack.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::connection_limit::Permit;
use super::session::Session;
use super::stream::OpenConnection;
use super::{Limits, Responder};
use crate::wire::protocol::Protocols;

/// Stack size of a connection's thread, in bytes: address space, of which only used pages take memory.
const STACK_SIZE: usize = 256 * 1024;

/// State shared by all connections of a server.
pub(super) struct Shared<R> {
    pub(super) responder: Arc<R>,
    pub(super) limits: Limits,
    pub(super) connections: Arc<Connections>,
}

/// The open connections, so that a stopping server can end their input.
#[derive(Default)]
pub struct Connections(Mutex<(u64, HashMap<u64, OpenConnection>)>);

impl Connections {
    /// Number of open connections.
    pub fn count(&self) -> usize {
        self.lock().1.len()
    }

    /// Ends the input of all connections. Requests that were read are still answered.
    pub(super) fn end_input(&self) {
        self.end_input_if(|_| true);
    }

    /// Ends the input of connections that have sent a request: they only wait for the next message.
    pub(super) fn end_input_where_asked(&self) {
        self.end_input_if(|open| open.asked.load(Ordering::Relaxed));
    }

    fn end_input_if(&self, which: impl Fn(&OpenConnection) -> bool) {
        for open in self.lock().1.values().filter(|open| which(open)) {
            // An error means that the client closed first.
            let _ = open.stream.shutdown(Shutdown::Read);
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, OpenConnection>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(self: &Arc<Self>, open: OpenConnection) -> Registration {
        let mut table = self.lock();
        table.0 += 1;
        let number = table.0;
        table.1.insert(number, open);
        Registration { connections: self.clone(), number }
    }
}

/// Membership in [`Connections`], ended by its drop.
struct Registration {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.lock().1.remove(&self.number);
    }
}

/// Serves a connection in a thread of its own until its client closes it or breaks the protocol, or
/// until `stop` becomes true and its input is ended. Idle connections are never closed: Postfix' smtpd
/// keeps a connection for a whole session, and may take a close for a failure.
///
/// Must be called in the runtime that drives the answers which have to wait.
///
/// # Errors
///
/// If the system has no thread left. The connection is then closed, and the mail server retries.
pub(super) fn spawn<R: Responder>(
    shared: &Arc<Shared<R>>,
    open: OpenConnection,
    protocols: Protocols,
    permit: Option<Permit>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let (shared, runtime) = (shared.clone(), Handle::current());
    // Before the thread runs: a stopping server must find the connection.
    let registration = shared.connections.register(open.clone());
    let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK_SIZE);
    thread.spawn(move || {
        let _held = (permit, registration);
        let OpenConnection { stream, asked } = open;
        let responder = &*shared.responder;
        let limits = &shared.limits;
        Session { responder, limits, stream, asked, protocols, runtime, stop }.run();
    })?;
    Ok(())
}
