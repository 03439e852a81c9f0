//! Asks the master for names, over one shared connection.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::connection::Connection;
use super::retry::{Retry, RetryClass};
use super::upstream::{self, PIECE, Upstream};
use crate::master::client::Impossible;
use crate::model::doubt::{Doubt, DoubtKind, Doubtful};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::mupdate::{Failure, FailureKind, Finding, Need};
use crate::replica::generation;
use crate::routing::confirm::canaries::Canaries;
use crate::routing::confirm::find_session::{FindSession, Waiter};

/// Maximum number of questions that wait for the task.
const MOST_WAITING: usize = 4096;

/// Maximum number of questions taken at once.
const BATCH: usize = 256;

type Answer = Result<Finding, Impossible>;

/// A question on its way to the task.
struct Question {
    name: MailboxName,
    answer: oneshot::Sender<Answer>,
}

/// A connection for questions, kept up. Shared by tasks; dropping it ends the connection.
///
/// It caches nothing: each answer was requested after its question arrived. While a FIND for a name is
/// under way, all further questions for the name wait for one more FIND. So their number does not
/// reach the server.
pub struct Asker {
    questions: mpsc::Sender<Question>,
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    task: AbortHandle,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// State that the task publishes.
#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    /// Notified when the connection is to the wrong server.
    leave: Notify,
}

#[derive(Default)]
struct Known {
    /// Time at which the connection was made, and the name of its server.
    up: Option<(Duration, String)>,
    /// Reason why there is no connection.
    failure: Option<String>,
    /// Whether no server can be asked with this configuration.
    impossible: bool,
    generation: Option<KeyGeneration>,
    asked: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// State of the connection for questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskerStatus {
    /// Name of the connected server, by its banner; `None`: there is no connection.
    pub server: Option<String>,
    /// Reason of the last failure, if there is no connection.
    pub failure: Option<String>,
    /// Whether the next attempt would fail as well, with this configuration.
    pub impossible: bool,
    /// Number of names asked for.
    pub asked: u64,
}

impl Asker {
    /// Connects, and reconnects whenever the connection is lost. `need`: whether a slave will do. Names found
    /// before are asked for again on each connection, to detect a master that has lost its list.
    /// Must be called within a tokio runtime.
    pub fn new(upstream: Arc<Upstream>, need: Need) -> Self {
        Self::with(upstream, need, Canaries::default())
    }

    /// An asker beside a replica of the same master, whose stream detects a lost list.
    pub(super) fn beside_a_replica(upstream: Arc<Upstream>) -> Self {
        Self::with(upstream, Need::Master, Canaries::none())
    }

    fn with(upstream: Arc<Upstream>, need: Need, canaries: Canaries) -> Self {
        let (questions, arrivals) = mpsc::channel(MOST_WAITING);
        let shared = Arc::new(Shared::default());
        let run = Run {
            retry: Retry::new(upstream.servers().len()),
            failures: vec![None; upstream.servers().len()],
            last: 0,
            worked: false,
            upstream: Arc::clone(&upstream),
            need,
            arrivals,
            shared: Arc::clone(&shared),
            canaries,
        };
        let task = tokio::spawn(run.for_ever()).abort_handle();
        Self { questions, shared, upstream, task }
    }

    /// Asks for a name; see [`Master::find`](crate::master::client::Master::find). `None`: no answer within
    /// `limit`.
    pub(super) async fn find(&self, name: &MailboxName, limit: Duration) -> Option<Answer> {
        self.shared.lock().asked += 1;
        let (answer, answered) = oneshot::channel();
        if self.questions.try_send(Question { name: name.clone(), answer }).is_err() {
            return Some(Ok(
                self.unsure(DoubtKind::GivenUp, "too many questions wait for the MUPDATE server")
            ));
        }
        match timeout(limit, answered).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) => Some(Ok(
                self.unsure(DoubtKind::GivenUp, "the MUPDATE server is not asked any more")
            )),
            Err(_) => None,
        }
    }

    /// The result where no answer came within `limit`.
    pub(super) fn no_answer(&self, limit: Duration) -> Finding {
        let silence = format!("no answer within {} s", limit.as_secs_f32());
        let before = self.shared.lock().failure.clone();
        let why = match before {
            Some(failure) => format!("{silence}; before that: {failure}"),
            None => silence,
        };
        self.unsure(DoubtKind::TimedOut, &why)
    }

    fn unsure(&self, kind: DoubtKind, why: &str) -> Finding {
        let text = format_args!("{}: {why}", self.upstream.named());
        Finding::Unsure(Doubt::new(kind, text))
    }

    /// Time at which the present connection was made, and the name of its server.
    pub(super) fn up(&self) -> Option<(Duration, String)> {
        self.shared.lock().up.clone()
    }

    /// Ends the connection, and connects to another server if there is one.
    pub(super) fn leave(&self) {
        // A task that does not wait now is notified when the next question is answered.
        self.shared.leave.notify_waiters();
    }

    /// Kind of names that the server keeps, by its release.
    pub fn key_generation(&self) -> Option<KeyGeneration> {
        self.shared.lock().generation
    }

    /// State of the connection.
    pub fn status(&self) -> AskerStatus {
        let known = self.shared.lock();
        AskerStatus {
            server: known.up.as_ref().map(|(_, server)| server.clone()),
            failure: known.failure.clone(),
            impossible: known.impossible,
            asked: known.asked,
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task behind an [`Asker`].
struct Run {
    upstream: Arc<Upstream>,
    need: Need,
    arrivals: mpsc::Receiver<Question>,
    shared: Arc<Shared>,
    retry: Retry,
    canaries: Canaries,
    /// Last failure of each server, unless it works.
    failures: Vec<Option<Failure>>,
    /// The server that was tried last.
    last: usize,
    /// A login has worked, so a failure of the next one may pass: an expired certificate, or an
    /// attacker on the path that removes STARTTLS.
    worked: bool,
}

impl Waiter for oneshot::Sender<Answer> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

/// Answers these waiters; one that is gone has reached its deadline.
fn answer(waiters: Vec<oneshot::Sender<Answer>>, answer: &Answer) {
    for waiter in waiters {
        let _ = waiter.send(answer.clone());
    }
}

impl Run {
    async fn for_ever(mut self) {
        let clock = self.upstream.clock();
        loop {
            let (server, at) = self.retry.next(clock.now());
            if !self.refuse_until(at).await {
                return;
            }
            let failure = match self.upstream.log_in(server, self.need).await {
                Ok((connection, session)) => {
                    self.retry.worked(server);
                    self.worked = true;
                    self.note(server, None);
                    info!(
                        "asking the MUPDATE server {} for names ({}{})",
                        session.banner.server,
                        session.mechanism,
                        if session.tls { ", TLS" } else { "" }
                    );
                    let generation = generation(&session.banner.release);
                    {
                        let mut known = self.shared.lock();
                        known.up = Some((clock.now(), session.banner.server.clone()));
                        known.failure = None;
                        known.impossible = false;
                        known.generation = generation.or(known.generation);
                    }
                    let (timings, canaries) = (self.upstream.timings(), take(&mut self.canaries));
                    let mut finds = FindSession::new(session, timings, canaries, clock.now());
                    let failure = self.answer(connection, &mut finds).await;
                    self.shared.lock().up = None;
                    let Some(failure) = failure else { return };
                    let (canaries, waiters) = finds.end();
                    self.canaries = canaries;
                    answer(waiters, &Ok(refusal(&failure)));
                    failure
                }
                Err(failure) => failure,
            };
            self.shared.lock().failure = Some(failure.to_string());
            if self.failures.get(server).is_some_and(|last| last.as_ref() != Some(&failure)) {
                let servers = self.upstream.servers();
                let named = servers.get(server).map(ToString::to_string).unwrap_or_default();
                warn!("cannot ask the MUPDATE server at {named}: {failure}");
            }
            self.retry.failed(server, trouble(&failure), clock.now(), super::chance());
            self.note(server, Some(failure));
            self.shared.lock().impossible = self.is_impossible();
        }
    }

    fn note(&mut self, server: usize, failure: Option<Failure>) {
        if let Some(last) = self.failures.get_mut(server) {
            *last = failure;
            self.last = server;
        }
    }

    /// Between two attempts, tells each waiter at once that there is no connection. False if no client
    /// is left that could ask.
    async fn refuse_until(&mut self, moment: Duration) -> bool {
        let clock = self.upstream.clock();
        // A timer takes a millisecond even for a time that is past, and the first question of a command
        // comes sooner.
        while clock.now() < moment {
            tokio::select! {
                biased;
                () = clock.reach(Some(moment)) => {}
                question = self.arrivals.recv() => match question {
                    Some(Question { answer: waits, .. }) => answer(vec![waits], &self.refusal()),
                    None => return false,
                }
            }
        }
        true
    }

    /// Asking is impossible only if it is impossible with every server, and was so from the start: a server
    /// that is down may be the one that works.
    fn is_impossible(&self) -> bool {
        let config = |failure: &Option<Failure>| {
            failure.as_ref().is_some_and(|failure| failure.kind() == FailureKind::Config)
        };
        !self.worked && self.failures.iter().all(config)
    }

    /// The answer while there is no connection.
    fn refusal(&self) -> Answer {
        match self.failures.get(self.last) {
            Some(Some(failure)) if self.is_impossible() => Err(Impossible(failure.to_string())),
            Some(Some(failure)) => Ok(refusal(failure)),
            _ => {
                let text = "there is no connection to the MUPDATE server";
                Ok(Finding::Unsure(Doubt::new(DoubtKind::Unreachable, text)))
            }
        }
    }

    /// Answers questions over a connection until it fails. `None`: no client is left that could ask.
    async fn answer(
        &mut self,
        mut connection: Connection,
        finds: &mut FindSession<oneshot::Sender<Answer>>,
    ) -> Option<Failure> {
        let clock = self.upstream.clock();
        let mut piece = vec![0; PIECE];
        let mut batch = Vec::new();
        loop {
            let failed = loop {
                match finds.next(clock.now()) {
                    Ok(Some((waiters, finding))) => answer(waiters, &Ok(finding)),
                    Ok(None) => break None,
                    Err(failure) => break Some(failure),
                }
            };
            let output = take(finds.output());
            if let Err(failure) = upstream::send(&mut connection, &output).await {
                return Some(failure);
            }
            if let Some(failure) = failed {
                return Some(failure);
            }
            tokio::select! {
                // Received data counts before a deadline, and a deadline before a flood of questions.
                biased;
                read = connection.read(&mut piece) => match read {
                    Ok(0) => finds.closed(),
                    Ok(read) => finds.receive(upstream::bytes(&piece, read), clock.now()),
                    Err(error) => return Some(Failure::Network(error.to_string())),
                },
                () = clock.reach(finds.deadline()) => finds.tick(clock.now()),
                () = self.shared.leave.notified() => {
                    let why = "the stream of changes comes from another server";
                    return Some(Failure::Network(why.into()));
                }
                taken = self.arrivals.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return None;
                    }
                    for Question { name, answer } in batch.drain(..) {
                        finds.ask(name, answer, clock.now());
                    }
                }
            }
        }
    }
}

fn refusal(failure: &Failure) -> Finding {
    let text = format_args!("the MUPDATE server cannot be asked: {failure}");
    Finding::Unsure(Doubt::new(failure.doubt_kind(), text))
}

/// Class of a failure; decides the pause before the next attempt.
pub(super) fn trouble(failure: &Failure) -> RetryClass {
    match failure.kind() {
        FailureKind::Network | FailureKind::Protocol => RetryClass::Network,
        FailureKind::Tls | FailureKind::Login | FailureKind::Config => RetryClass::Refused,
    }
}
