//! Asks the master for names, over one connection that all share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::connection::Connection;
use super::retry::{Retry, Trouble};
use super::upstream::{self, PIECE, Upstream};
use super::witnesses::Witnesses;
use crate::mailbox::{KeyGeneration, MailboxName};
use crate::master::Impossible;
use crate::mupdate::{Failure, FailureKind, Finder, Finding, Need, Session, Ticket};
use crate::replica::generation;

/// Longest wait for an answer, the time to connect included. The mail server's own patience is far
/// longer, but each of its lookups has a deadline of 5 s here.
const PATIENCE: Duration = Duration::from_secs(4);

/// The same once nobody got an answer in time, until somebody does: a mail server's lookups queue
/// behind each other, and strangers must not hold up those who are known.
const SHORT_PATIENCE: Duration = Duration::from_millis(500);

/// Most questions that wait for the task.
const MOST_WAITING: usize = 4096;

/// For so long an "absent" is remembered: a mail server asks for a recipient several times within
/// one SMTP command. What a stream tells of the name ends it at once.
const ABSENT_FOR: Duration = Duration::from_secs(1);

/// A master that seems to have lost its list is looked at again so often.
const DOUBT_FOR: Duration = Duration::from_secs(10);

/// So many are remembered at most.
const MOST_ABSENT: usize = 10_000;

type Answer = Result<Finding, Impossible>;

/// A question on its way to the task.
struct Question {
    name: MailboxName,
    answer: oneshot::Sender<Answer>,
}

/// A connection for questions, made when it is wanted and kept. Shared by tasks; dropping it ends
/// the connection.
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

/// What the task tells everybody.
#[derive(Default)]
struct Shared(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Since when there is a connection, and to whom.
    up: Option<(Duration, String)>,
    generation: Option<KeyGeneration>,
    absent: HashMap<MailboxName, Duration>,
    asked: u64,
    /// The last question had no answer in time.
    silent: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the connection for questions stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskerStatus {
    /// The server it is to, as that calls itself; `None`: there is no connection.
    pub server: Option<String>,
    /// How many names were asked for.
    pub asked: u64,
}

impl Asker {
    /// Connects, and again whenever the connection is gone. Must be called within a tokio runtime.
    pub fn new(upstream: Arc<Upstream>, need: Need) -> Self {
        let (questions, arrivals) = mpsc::channel(MOST_WAITING);
        let shared = Arc::new(Shared::default());
        let run = Run {
            retry: Retry::new(upstream.servers().len()),
            upstream: Arc::clone(&upstream),
            need,
            arrivals,
            shared: Arc::clone(&shared),
            witnesses: Witnesses::default(),
            last: None,
        };
        let task = tokio::spawn(run.for_ever()).abort_handle();
        Self { questions, shared, upstream, task }
    }

    /// Asks for a name; see [`Master::find`](crate::master::Master::find).
    pub async fn find(&self, name: &MailboxName) -> Answer {
        let unsure = |why: &str| Ok(Finding::Unsure(format!("{}: {why}", self.upstream.named())));
        let patience = {
            let mut known = self.shared.lock();
            let now = self.upstream.clock().now();
            if known.absent.get(name).is_some_and(|until| now < *until) {
                return Ok(Finding::Absent);
            }
            known.asked += 1;
            if known.silent { SHORT_PATIENCE } else { PATIENCE }
        };
        let (answer, answered) = oneshot::channel();
        if self.questions.try_send(Question { name: name.clone(), answer }).is_err() {
            return unsure("too many questions wait for the MUPDATE server");
        }
        let finding = match timeout(patience, answered).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(_)) => return unsure("the MUPDATE server is not asked any more"),
            Err(_) => {
                self.shared.lock().silent = true;
                return unsure(&format!("no answer within {} s", patience.as_secs_f32()));
            }
        };
        let mut known = self.shared.lock();
        known.silent = false;
        if finding == Ok(Finding::Absent) {
            let now = self.upstream.clock().now();
            if known.absent.len() >= MOST_ABSENT {
                known.absent.retain(|_, until| now < *until);
            }
            if known.absent.len() < MOST_ABSENT {
                known.absent.insert(name.clone(), now + ABSENT_FOR);
            }
        }
        drop(known);
        finding
    }

    /// Forgets that a name was absent: the stream has told something of it.
    pub fn forget(&self, name: &MailboxName) {
        let mut known = self.shared.lock();
        if !known.absent.is_empty() {
            known.absent.remove(name);
        }
    }

    /// Since when there is the connection that is there now.
    pub(super) fn up_since(&self) -> Option<Duration> {
        self.shared.lock().up.as_ref().map(|(since, _)| *since)
    }

    /// What names the server keeps, from its release.
    pub fn key_generation(&self) -> Option<KeyGeneration> {
        self.shared.lock().generation
    }

    /// How it stands.
    pub fn status(&self) -> AskerStatus {
        let known = self.shared.lock();
        AskerStatus {
            server: known.up.as_ref().map(|(_, server)| server.clone()),
            asked: known.asked,
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task behind it.
struct Run {
    upstream: Arc<Upstream>,
    need: Need,
    arrivals: mpsc::Receiver<Question>,
    shared: Arc<Shared>,
    retry: Retry,
    witnesses: Witnesses,
    /// Why there is no connection.
    last: Option<Failure>,
}

/// Those who wait for an answer, by their ticket.
type Waiting = HashMap<Ticket, Vec<oneshot::Sender<Answer>>>;

impl Run {
    async fn for_ever(mut self) {
        loop {
            let clock = self.upstream.clock();
            let (server, at) = self.retry.next(clock.now());
            if !self.refuse_until(at).await {
                return;
            }
            let failure = match self.upstream.log_in(server, self.need).await {
                Ok((connection, session)) => {
                    self.retry.worked(server);
                    self.last = None;
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
                        known.generation = generation.or(known.generation);
                        known.absent.clear();
                    }
                    let failure = self.answer(connection, session).await;
                    self.shared.lock().up = None;
                    match failure {
                        Some(failure) => failure,
                        None => return,
                    }
                }
                Err(failure) => failure,
            };
            if self.last.as_ref() != Some(&failure) {
                warn!("cannot ask the MUPDATE server at {}: {failure}", self.address(server));
            }
            self.retry.failed(server, trouble(&failure), clock.now(), super::chance());
            self.last = Some(failure);
        }
    }

    fn address(&self, server: usize) -> String {
        self.upstream.servers().get(server).map(ToString::to_string).unwrap_or_default()
    }

    /// Between two attempts everybody is told at once that there is no connection. False when
    /// nobody can ask any more.
    async fn refuse_until(&mut self, moment: Duration) -> bool {
        let clock = self.upstream.clock();
        // A timer takes a millisecond even for a moment that is past, and the first question of a
        // command comes sooner.
        while clock.now() < moment {
            tokio::select! {
                biased;
                () = clock.reach(Some(moment)) => return true,
                question = self.arrivals.recv() => match question {
                    Some(question) => {
                        // Who stopped waiting met his deadline.
                        let _ = question.answer.send(self.refusal());
                    }
                    None => return false,
                }
            }
        }
        true
    }

    fn refusal(&self) -> Answer {
        match &self.last {
            Some(failure) => refusal(failure),
            None => Ok(Finding::Unsure("there is no connection to the MUPDATE server".into())),
        }
    }

    /// Answers questions over a connection until it fails. `None`: nobody can ask any more.
    async fn answer(&mut self, mut connection: Connection, session: Session) -> Option<Failure> {
        let clock = self.upstream.clock();
        let mut finder = Finder::new(session, self.upstream.timings(), clock.now());
        let mut waiting = Waiting::new();
        let mut piece = vec![0; PIECE];
        let mut look_again = Some(clock.now());
        loop {
            if look_again.is_some_and(|moment| moment <= clock.now()) {
                self.witnesses.begin();
                for name in self.witnesses.names() {
                    // Nobody waits for it; the answer is for the witnesses.
                    let _ = finder.ask(name, clock.now());
                }
                look_again = None;
            }
            let failed = self.take_answers(&mut finder, &mut waiting);
            if look_again.is_none() && self.witnesses.doubt().is_some() {
                look_again = Some(clock.now() + DOUBT_FOR);
            }
            let output = std::mem::take(finder.output());
            if let Err(failure) = upstream::send(&mut connection, &output).await {
                self.refuse(waiting, &failure);
                return Some(failure);
            }
            if let Some(failure) = failed {
                return Some(failure);
            }
            tokio::select! {
                biased;
                read = connection.read(&mut piece) => match read {
                    Ok(0) => finder.closed(),
                    Ok(read) => finder.receive(upstream::bytes(&piece, read), clock.now()),
                    Err(error) => {
                        let failure = Failure::Network(error.to_string());
                        self.refuse(waiting, &failure);
                        return Some(failure);
                    }
                },
                question = self.arrivals.recv() => {
                    let Question { name, answer } = question?;
                    match finder.ask(name, clock.now()) {
                        Ok(ticket) => waiting.entry(ticket).or_default().push(answer),
                        Err(finding) => drop(answer.send(Ok(finding))),
                    }
                }
                () = clock.reach(finder.deadline()) => finder.tick(clock.now()),
                () = clock.reach(look_again) => {}
            }
        }
    }

    fn take_answers(&mut self, finder: &mut Finder, waiting: &mut Waiting) -> Option<Failure> {
        loop {
            match finder.next() {
                Ok(Some((ticket, name, finding))) => {
                    self.witnesses.heard(&name, &finding);
                    let finding = match (finding, self.witnesses.doubt()) {
                        (Finding::Absent, Some(doubt)) => Finding::Unsure(doubt),
                        (finding, _) => finding,
                    };
                    for answer in waiting.remove(&ticket).unwrap_or_default() {
                        let _ = answer.send(Ok(finding.clone()));
                    }
                }
                Ok(None) => return None,
                Err(failure) => return Some(failure),
            }
        }
    }

    fn refuse(&self, waiting: Waiting, failure: &Failure) {
        for answer in waiting.into_values().flatten() {
            let _ = answer.send(refusal(failure));
        }
    }
}

fn refusal(failure: &Failure) -> Answer {
    match failure.kind() {
        FailureKind::Config => Err(Impossible(failure.to_string())),
        _ => Ok(Finding::Unsure(format!("the MUPDATE server cannot be asked: {failure}"))),
    }
}

/// How long such a failure keeps a server from being tried again.
pub(super) fn trouble(failure: &Failure) -> Trouble {
    match failure.kind() {
        FailureKind::Network | FailureKind::Protocol => Trouble::Network,
        FailureKind::Tls | FailureKind::Login | FailureKind::Config => Trouble::Refused,
    }
}
