//! The task that follows the master, over one connection after another.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::connection::Connection;
use super::query::trouble;
use super::retry::{Retry, RetryClass};
use super::state::{FollowerState, SyncReason};
use super::upstream::{self, PIECE, Upstream};
use crate::mupdate::{Event, Failure, Need, Session, Stream};
use crate::replica::writer_logic::StreamInput;

/// Maximum number of events in one input of the writer.
const MAX_EVENTS: usize = 1024;

/// How one connection ended.
enum ConnectionEnd {
    Failed(Failure),
    /// A full sync is requested.
    SyncWanted(SyncReason),
    /// The writer is gone.
    WriterGone,
}

/// Feeds the writer with the events of the master, until the writer is gone.
pub(super) async fn run(
    upstream: Arc<Upstream>,
    state: Arc<FollowerState>,
    inputs: mpsc::Sender<StreamInput>,
) {
    let clock = upstream.clock();
    let mut retry = Retry::new(upstream.servers().len());
    // A failure of ours must not send us to another server.
    let mut ours = Retry::new(1);
    loop {
        let (server, at) = retry.next(clock.now());
        clock.reach(Some(at.max(ours.next(clock.now()).1))).await;
        let named = upstream.servers().get(server).map(ToString::to_string).unwrap_or_default();
        // A new connection begins with a full sync.
        state.take_sync_request();
        let end = match upstream.log_in(server, Need::Master).await {
            Ok((connection, session)) => {
                info!(
                    "following the MUPDATE master {} at {named} ({}{})",
                    session.banner.server,
                    session.mechanism,
                    if session.tls { ", TLS" } else { "" }
                );
                state.connected(&session.banner.server);
                let began = clock.now();
                let end = follow(connection, session, &upstream, &state, &inputs).await;
                state.disconnected();
                if state.current_since(began) {
                    retry.worked(server);
                    ours.worked(0);
                }
                if inputs.send(StreamInput::Disconnected).await.is_err() {
                    break;
                }
                end
            }
            Err(failure) => ConnectionEnd::Failed(failure),
        };
        match end {
            ConnectionEnd::WriterGone => break,
            ConnectionEnd::SyncWanted(why) => {
                let trouble = match why {
                    SyncReason::HeldBack => RetryClass::Network,
                    SyncReason::Unwritten => RetryClass::Disk,
                };
                ours.failed(0, trouble, clock.now(), super::chance());
            }
            ConnectionEnd::Failed(failure) => {
                if state.failed(&failure) {
                    warn!("cannot follow the MUPDATE master at {named}: {failure}");
                }
                retry.failed(server, trouble(&failure), clock.now(), super::chance());
            }
        }
    }
    error!("the thread that writes the replica has ended: restart murder-route");
}

async fn follow(
    mut connection: Connection,
    session: Session,
    upstream: &Upstream,
    state: &FollowerState,
    inputs: &mpsc::Sender<StreamInput>,
) -> ConnectionEnd {
    let clock = upstream.clock();
    let banner = session.banner.clone();
    let limit = state.list_limit();
    let mut stream = Stream::new(session, upstream.timings(), clock.now()).limited(limit);
    let mut noted = (0, 0);
    let connected = StreamInput::Connected { master: banner.server, release: banner.release };
    if inputs.send(connected).await.is_err() {
        return ConnectionEnd::WriterGone;
    }
    let mut piece = vec![0; PIECE];
    loop {
        let output = std::mem::take(stream.output());
        if let Err(failure) = upstream::send(&mut connection, &output).await {
            return ConnectionEnd::Failed(failure);
        }
        tokio::select! {
            // Received bytes count before a deadline: the writer may have kept us from reading.
            biased;
            wanted = state.sync_wanted() => {
                stream.log_out();
                let goodbye = std::mem::take(stream.output());
                // The connection is closed either way.
                let _ = upstream::send(&mut connection, &goodbye).await;
                return ConnectionEnd::SyncWanted(wanted);
            }
            read = connection.read(&mut piece) => match read {
                Ok(0) => stream.closed(),
                Ok(read) => stream.receive(upstream::bytes(&piece, read), clock.now()),
                Err(error) => return ConnectionEnd::Failed(Failure::Network(error.to_string())),
            },
            () = clock.reach(stream.deadline()) => stream.tick(clock.now()),
        }
        let mut bunch = Vec::new();
        let failed = loop {
            match stream.next() {
                Ok(Some(event)) => {
                    bunch.push(event);
                    if bunch.len() >= MAX_EVENTS
                        && inputs
                            .send(StreamInput::Events(std::mem::take(&mut bunch)))
                            .await
                            .is_err()
                    {
                        return ConnectionEnd::WriterGone;
                    }
                }
                Ok(None) => break None,
                Err(failure) => break Some(failure),
            }
        };
        let odd = (stream.doubtful(), stream.skipped());
        let is_listed = bunch.iter().any(|event| matches!(event, Event::Listed));
        if is_listed && odd != noted {
            noted = odd;
            state.unusable(odd.0, odd.1);
            let first = stream.first_doubtful();
            let example = first.map_or_else(String::new, |name| format!(", the first is {name}"));
            warn!(
                "the list of the MUPDATE master has {} records whose location cannot be used{example}: \
                 their mail is deferred; {} records with no name that a mailbox can have are left out",
                odd.0, odd.1
            );
        }
        if !bunch.is_empty() && inputs.send(StreamInput::Events(bunch)).await.is_err() {
            return ConnectionEnd::WriterGone;
        }
        if let Some(failure) = failed {
            return ConnectionEnd::Failed(failure);
        }
    }
}
