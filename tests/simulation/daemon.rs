//! The daemon: stream, FINDs, replica and confirmations in one loop with a simulated clock. All
//! decisions are the crate's: the protocol, the replica's logic, the [`Inquiry`], the
//! [`Policy`] of confirmations and the weight of the [`MasterAnswers`]. This file only executes
//! them.

use std::convert::Infallible;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use murder_route::address::{Release, Rules};
use murder_route::lists::combined::{Lists, Source};
use murder_route::model::backend::Backends;
use murder_route::model::domains::Domains;
use murder_route::model::doubt::{Doubt, DoubtKind};
use murder_route::model::list::{Lookup, MailboxList};
use murder_route::model::name::MailboxName;
use murder_route::model::record::{Record, State};
use murder_route::mupdate::{Event, Failure, Finding, Stream};
use murder_route::replica::writer_logic::{CommittedMeta, Now, Publish, StreamInput};
use murder_route::replica::{
    HeldBack, ReplicaDoubt, ReplicaMeta, ReplicaSource, ReplicaState, SourceTrust, SyncReport,
};
use murder_route::resolver::Resolver;
use murder_route::routing::confirm::ConfirmVia;
use murder_route::routing::confirm::find_session::{FindSession, Waiter};
use murder_route::routing::confirm::master_answers::{Followed, MasterAnswers, weigh_absent};
use murder_route::routing::confirm::question::{self, Action, MasterView, Policy};
use murder_route::routing::evidence::Confirmation;
use murder_route::routing::inquiry::{Inquiry, Step};
use murder_route::routing::route::{Decision, Route};
use murder_route::routing::router::Router;

use crate::link::Link;
use crate::network::{Line, Network, Piece};
use crate::random::Random;
use crate::schedule::{Name, Schedule};
use crate::slave::Slave;
use crate::store::Store;
use crate::writer::Writer;

/// Time for which a loss waits for its confirmation.
pub(crate) const ACCEPT_AFTER: Duration = Duration::from_secs(60);

/// The time of a wall clock that is wrong by this number of seconds.
fn clock(now: Duration, wrong: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_536_000_u64.saturating_add_signed(wrong)) + now
}

/// State that all parts of the process share.
pub(crate) struct Shared {
    store: Arc<Mutex<Store>>,
    standing: Mutex<ReplicaState>,
    /// Set when a full sync that was held back is wanted again.
    sync_wanted: AtomicBool,
    /// Current time in milliseconds.
    now: AtomicU64,
    /// Error of the wall clock, in seconds.
    pub(crate) wrong: AtomicI64,
}

impl Shared {
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    pub(crate) fn standing(&self) -> MutexGuard<'_, ReplicaState> {
        self.standing.lock().unwrap()
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now.load(Relaxed))
    }

    /// The time of the wall clock.
    pub(crate) fn clock(&self, now: Duration) -> SystemTime {
        clock(now, self.wrong.load(Relaxed))
    }
}

impl Shared {
    pub(crate) fn now_by_both(&self, now: Duration) -> Now {
        Now { monotonic: now, clock: self.clock(now) }
    }
}

impl CommittedMeta for Shared {
    type Error = Infallible;

    fn committed_meta(&self) -> Result<ReplicaMeta, Infallible> {
        Ok(self.store().committed().about.clone())
    }
}

/// As `master::state::FollowerState`.
impl Publish for Shared {
    fn changing(&self, events: &[Event]) {
        for event in events {
            if let Event::Deleted(name) = event {
                self.standing().deleted(name, self.now());
            }
        }
    }

    fn replacing(&self, _name: &MailboxName, _before: Option<&Record>, _record: &Record) {}

    fn synchronising(&self, report: &SyncReport) {
        let mut standing = self.standing();
        standing.listed(self.now());
        if let Some(loss) = &report.held_back {
            standing.held_back(loss);
        }
    }

    fn holding_back(&self, loss: &HeldBack) {
        self.standing().held_back(loss);
    }

    fn committed(&self, meta: &ReplicaMeta, names: u64) {
        self.standing().stored(meta.clone(), names);
    }

    fn barrier(&self, asked: Duration) {
        self.standing().current(asked);
        self.store().is_complete_to(asked);
    }

    fn wants_full_sync(&self) {
        self.sync_wanted.store(true, Relaxed);
    }
}

impl MailboxList for Shared {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lookup_dated(name).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let (found, changed) = self.store().look_up(name);
        (found, changed.is_lately(|| self.clock(self.now())))
    }

    fn each(
        &self,
        _prefix: &[u8],
        _visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        Err(unreachable("nobody walks here"))
    }
}

impl SourceTrust for Shared {
    fn hits(&self) -> Result<(), ReplicaDoubt> {
        self.standing().positives(self.now(), None)
    }

    fn misses(&self) -> Result<(), ReplicaDoubt> {
        self.standing().misses(self.now())
    }
}

/// An answer to a mail server.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) name: Name,
    /// Time of the request.
    pub(crate) since: Duration,
    pub(crate) route: Route,
    /// Whether a list was held back then.
    pub(crate) held_back: bool,
    /// Number of names that the stream alone had removed from the replica.
    pub(crate) lost: u64,
    /// Time up to which the replica was complete.
    pub(crate) complete_to: Option<Duration>,
    /// Whether the master was asked.
    pub(crate) found: bool,
    /// Whether the stream was up.
    pub(crate) streaming: bool,
    /// Whether the replica had the mailbox, as an active one, at the time of the request.
    pub(crate) known: bool,
    /// Whether the name had changed recently at the time of the request, and the master could be
    /// asked.
    pub(crate) to_ask_again: bool,
    /// Whether the master was asked for it and did not answer.
    pub(crate) gave_up: bool,
    /// Whether the negative cache was used.
    pub(crate) cached: bool,
    /// Time before this request when the master last left a known name unanswered.
    pub(crate) known_unanswered: Option<Duration>,
    /// Time before this request when a FIND was last given up.
    pub(crate) silent: Option<Duration>,
    /// Time before this answer when the last FIND was answered.
    pub(crate) heard: Option<Duration>,
}

struct Question {
    id: u64,
    name: Name,
    since: Duration,
    inquiry: Inquiry<'static>,
    found: bool,
    known: bool,
    to_ask_again: bool,
    gave_up: bool,
    cached: bool,
    known_unanswered: Option<Duration>,
    silent: Option<Duration>,
    /// The confirmation in progress.
    open: Option<question::Question>,
    waits: Waits,
}

#[derive(Clone)]
enum Waits {
    Until(Duration),
    Find {
        #[expect(dead_code, reason = "dropped when the question is given up")]
        alive: Arc<()>,
        sent: Duration,
        /// The time limit of the FIND.
        limit: Duration,
        /// Whether the first connection was being made.
        connecting: bool,
        /// The time limit of the confirmation.
        by: Option<Duration>,
    },
}

/// A question that waits for the answer to a FIND.
#[derive(Debug)]
pub(crate) struct Waiting {
    id: u64,
    alive: Weak<()>,
}

impl Waiter for Waiting {
    fn is_gone(&self) -> bool {
        self.alive.strong_count() == 0
    }
}

/// The daemon's process.
pub(crate) struct Daemon {
    shared: Arc<Shared>,
    resolver: Resolver,
    random: Random,
    stream: Link<Stream>,
    told_of: bool,
    /// The server whose stream is followed.
    followed: Option<String>,
    asker: Link<FindSession<Waiting>>,
    asker_failure: Option<String>,
    /// FINDs that wait for the connection.
    queued: Vec<(MailboxName, Waiting)>,
    pub(crate) writer: Writer,
    questions: Vec<Question>,
    asked: u64,
    answers: Vec<Answered>,
    policy: Policy,
    worth: Arc<Mutex<MasterAnswers>>,
    known_unanswered: Option<Duration>,
    silent: Option<Duration>,
    heard: Option<Duration>,
    /// FINDs that had more than one waiter.
    pub(crate) shared_finds: u64,
}

/// The master, as the policy sees it.
struct View {
    shared: Arc<Shared>,
    worth: Arc<Mutex<MasterAnswers>>,
    up: Option<Duration>,
    failure: Option<String>,
    now: Duration,
}

impl MasterView for View {
    fn is_listed(&self, name: &MailboxName) {
        self.worth.lock().unwrap().is_listed(name);
    }

    fn needs_no_question(&self, name: &MailboxName) -> bool {
        let deleted = || self.deleted_lately(name);
        self.worth.lock().unwrap().is_absent(name, self.up, deleted, self.now)
    }

    /// As `master::Replica::deleted_lately`.
    fn deleted_lately(&self, name: &MailboxName) -> bool {
        !matches!(self.shared.lookup(name), Lookup::Absent)
            || self.shared.standing().lately_deleted(name, self.now)
    }

    fn trouble(&self) -> Option<String> {
        let none = || "there is no connection to the MUPDATE server".to_owned();
        self.up.is_none().then(|| self.failure.clone().unwrap_or_else(none))
    }

    fn is_connecting(&self) -> bool {
        self.up.is_none() && self.failure.is_none()
    }
}

impl Daemon {
    /// Starts the process with the store that the previous one left.
    pub(crate) fn new(
        store: &Arc<Mutex<Store>>,
        schedule: &Schedule,
        slave: Option<&Arc<Slave>>,
        disk: u64,
        random: Random,
        now: Duration,
        wrong: i64,
    ) -> Self {
        let committed = store.lock().unwrap().begin();
        let names = store.lock().unwrap().committed_names();
        let shared = Arc::new(Shared {
            store: Arc::clone(store),
            standing: Mutex::new(ReplicaState::new(
                committed.about.clone(),
                names,
                clock(Duration::ZERO, wrong),
            )),
            sync_wanted: AtomicBool::new(false),
            now: AtomicU64::new(now.as_millis() as u64),
            wrong: wrong.into(),
        });
        let (list, trust): (Arc<dyn MailboxList>, Arc<dyn SourceTrust>) =
            (shared.clone(), shared.clone());
        let router = Router {
            domains: Domains::new(["example.org"]).unwrap(),
            rules: Rules::defaults(Release::V3_6),
            older: Vec::new(),
            backends: Backends::default(),
        };
        let replica = Source::Replica(ReplicaSource { list, trust });
        let mut sources = vec![replica];
        if let Some(slave) = slave {
            let (list, trust): (Arc<dyn MailboxList>, Arc<dyn SourceTrust>) =
                (slave.clone(), slave.clone());
            let at = usize::from(!slave.is_first());
            sources.insert(at, Source::Replica(ReplicaSource { list, trust }));
        }
        let via = ConfirmVia::Master { slave: None };
        let resolver = Resolver {
            router,
            maps: Default::default(),
            lists: Lists::new(sources),
            proof: via.clone(),
            vital: Default::default(),
            accept_after: ACCEPT_AFTER,
        };
        Self {
            shared,
            resolver,
            random,
            stream: Link::new(schedule.login, now),
            told_of: false,
            followed: None,
            asker: Link::new(schedule.login, now),
            asker_failure: None,
            queued: Vec::new(),
            writer: Writer::new(committed.table.about, disk, now),
            questions: Vec::new(),
            asked: 0,
            answers: Vec::new(),
            policy: Policy::new(&via, true),
            worth: Arc::new(Mutex::new(MasterAnswers::new(schedule.negative_cache()))),
            known_unanswered: None,
            silent: None,
            heard: None,
            shared_finds: 0,
        }
    }

    /// Returns its connections.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        self.stream.line().into_iter().chain(self.asker.line())
    }

    pub(crate) fn answers(&mut self) -> Vec<Answered> {
        std::mem::take(&mut self.answers)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Time of the next action.
    pub(crate) fn next(&self) -> Option<Duration> {
        let questions = self.questions.iter().map(|question| match &question.waits {
            Waits::Find { limit, by, .. } => by.map_or(*limit, |by| by.min(*limit)),
            Waits::Until(until) => *until,
        });
        let others = [self.stream.next(), self.asker.next(), self.writer.next()];
        questions.chain(others.into_iter().flatten()).min()
    }

    /// Performs the actions that are due.
    pub(crate) fn run(&mut self, net: &mut Network, now: Duration) {
        self.shared.now.store(now.as_millis() as u64, Relaxed);
        while self.next().is_some_and(|at| at <= now) {
            if self.stream.next().is_some_and(|at| at <= now) {
                let ran = self.stream.run(net, now);
                self.after_stream(ran, net, now);
            }
            if self.asker.next().is_some_and(|at| at <= now) {
                let ran = self.asker.run(net, now);
                self.after_asker(ran, net, now);
            }
            if self.writer.next().is_some_and(|at| at <= now) {
                self.writer.run(&self.shared, &mut self.random, now);
            }
            if self.shared.sync_wanted.swap(false, Relaxed) && self.stream.talk().is_some() {
                if let Some(stream) = self.stream.talk() {
                    stream.log_out();
                }
                self.stream.send(net, now);
                self.stream.failed(net, &mut self.random, now);
                self.stream_is_gone(now);
            }
            self.hurry(net, now);
        }
    }

    /// Handles input of a connection.
    pub(crate) fn arrived(&mut self, line: Line, piece: &Piece, net: &mut Network, now: Duration) {
        self.shared.now.store(now.as_millis() as u64, Relaxed);
        if self.stream.line() == Some(line) {
            let arrived = self.stream.arrived(piece, net, now);
            self.after_stream(arrived, net, now);
        } else if self.asker.line() == Some(line) {
            let arrived = self.asker.arrived(piece, net, now);
            self.after_asker(arrived, net, now);
        }
        self.run(net, now);
    }

    fn stream_is_gone(&mut self, now: Duration) {
        self.shared.standing().lost(now);
        self.followed = None;
        if std::mem::take(&mut self.told_of) {
            self.writer.inputs.push_back(StreamInput::Disconnected);
        }
    }

    /// As `master::stream`: passes the input to the writer.
    fn after_stream(&mut self, so_far: Result<(), Failure>, net: &mut Network, now: Duration) {
        let mut failed = so_far.err();
        let mut bunch = Vec::new();
        let mut worked = false;
        if let Some(stream) = self.stream.talk() {
            if !std::mem::replace(&mut self.told_of, true) {
                let banner = stream.banner();
                let (master, release) = (banner.server.clone(), banner.release.clone());
                self.followed = Some(master.clone());
                self.writer.inputs.push_back(StreamInput::Connected { master, release });
            }
            failed = loop {
                match stream.next() {
                    Ok(Some(event)) => {
                        worked |= matches!(event, Event::Current { .. });
                        bunch.push(event);
                    }
                    Ok(None) => break failed,
                    Err(failure) => break Some(failure),
                }
            };
        }
        if worked {
            self.stream.worked();
        }
        if !bunch.is_empty() {
            self.writer.inputs.push_back(StreamInput::Events(bunch));
        }
        if failed.is_some() {
            self.stream.failed(net, &mut self.random, now);
            self.stream_is_gone(now);
        }
        self.stream.send(net, now);
    }

    /// As `master::query`: answers the waiters.
    fn after_asker(&mut self, so_far: Result<(), Failure>, net: &mut Network, now: Duration) {
        let mut failed = so_far.err();
        let mut answers = Vec::new();
        if let Some(finds) = self.asker.talk() {
            self.asker_failure = None;
            for (name, waiting) in self.queued.drain(..) {
                finds.ask(name, waiting, now);
            }
            failed = loop {
                match finds.next(now) {
                    Ok(Some((waiting, finding))) => {
                        self.shared_finds += u64::from(waiting.len() > 1);
                        answers.extend(waiting.into_iter().map(|waiter| (waiter, finding.clone())));
                    }
                    Ok(None) => break failed,
                    Err(failure) => break Some(failure),
                }
            };
            self.asker.worked();
        }
        if let Some(failure) = &failed {
            let why = unsure(format_args!("the MUPDATE server cannot be asked: {failure}"));
            self.asker_failure = Some(failure.to_string());
            let waiting = self.asker.end().map(|finds| finds.end().1).unwrap_or_default();
            let queued = self.queued.drain(..).map(|(_, waiting)| waiting);
            answers.extend(waiting.into_iter().chain(queued).map(|waiter| (waiter, why.clone())));
            self.asker.failed(net, &mut self.random, now);
        }
        for (waiting, finding) in answers {
            self.answered(&waiting, finding, net, now);
        }
        self.asker.send(net, now);
    }

    /// As `master::MasterClient`: handles an answer in time.
    fn answered(&mut self, waiting: &Waiting, finding: Finding, net: &mut Network, now: Duration) {
        let at = self.questions.iter().position(|question| question.id == waiting.id);
        let Some(at) = at.filter(|_| !waiting.is_gone()) else { return };
        let question = self.questions.swap_remove(at);
        let Waits::Find { sent, .. } = question.waits else { return };
        if let Some(open) = &question.open {
            self.worth.lock().unwrap().answered(open.name(), Some(&finding), sent, now);
        }
        self.heard = Some(now);
        self.found(question, finding, net, now);
    }

    /// As `master::MasterClient`: weighs the finding.
    fn found(
        &mut self,
        question: Question,
        mut finding: Finding,
        net: &mut Network,
        now: Duration,
    ) {
        if finding == Finding::Absent
            && let Err(doubt) = weigh_absent(self.asker.server(), self.followed(now))
        {
            finding = unsure(doubt);
        }
        self.event(question, question::Event::Found(Ok(finding)), net, now);
    }

    /// As `master::state::FollowerState::doubts_absent`.
    fn followed(&self, now: Duration) -> Followed<ReplicaDoubt> {
        let standing = self.shared.standing();
        let behind = || !standing.has_barrier_since(self.asker.since());
        let doubt = standing.misses(now).err();
        let doubt = doubt.or_else(|| behind().then_some(ReplicaDoubt::StreamBehind));
        Followed { server: self.followed.clone(), doubt }
    }

    fn view(&self, now: Duration) -> View {
        let (shared, worth) = (Arc::clone(&self.shared), Arc::clone(&self.worth));
        let (up, failure) = (self.asker.since(), self.asker_failure.clone());
        View { shared, worth, up, failure, now }
    }

    /// Handles questions whose time has come.
    fn hurry(&mut self, net: &mut Network, now: Duration) {
        loop {
            let is_due = |question: &Question| match &question.waits {
                Waits::Find { limit, by, .. } => by.map_or(*limit, |by| by.min(*limit)) <= now,
                Waits::Until(until) => *until <= now,
            };
            let Some(at) = self.questions.iter().position(is_due) else { break };
            let question = self.questions.swap_remove(at);
            match question.waits {
                Waits::Until(_) => self.event(question, question::Event::Reached, net, now),
                Waits::Find { by: Some(by), connecting, .. } if by <= now => {
                    if !connecting {
                        self.known_unanswered = Some(now);
                    }
                    self.event(question, question::Event::Reached, net, now);
                }
                Waits::Find { .. } => {
                    self.worth.lock().unwrap().unanswered();
                    self.silent = Some(now);
                    let finding = unsure("no answer in time");
                    self.event(question, question::Event::Found(Ok(finding)), net, now);
                }
            }
        }
        self.asker.send(net, now);
    }

    /// Handles a mail server's request.
    pub(crate) fn ask(&mut self, name: Name, net: &mut Network, now: Duration) {
        self.shared.now.store(now.as_millis() as u64, Relaxed);
        let mailbox = MailboxName::new(crate::schedule::text(name)).unwrap();
        // A second list that lags may have the name where the replica has none.
        let recent = self.shared.store().changed_lately(&mailbox, now)
            && matches!(self.shared.lookup(&mailbox), Lookup::Present(_));
        let is_active = |found| match found {
            Lookup::Present(Record { state, .. }) => state == State::Active,
            _ => false,
        };
        let known = is_active(self.shared.lookup(&mailbox))
            && is_active(self.resolver.lists.lookup(&mailbox));
        let evidence = self.resolver.evidence(None).ask_again();
        let recipient = format!("u{name}@example.org");
        self.asked += 1;
        let question = Question {
            id: self.asked,
            // As documented: not within 5 s after the master left such a question unanswered.
            to_ask_again: recent
                && self.asker.talk().is_some()
                && self.known_unanswered.is_none_or(|at| at + Duration::from_secs(5) <= now),
            gave_up: false,
            known,
            name,
            since: now,
            inquiry: Inquiry::new(recipient.as_bytes(), &evidence).into_owned(),
            found: false,
            cached: false,
            known_unanswered: self.known_unanswered,
            silent: self.silent,
            open: None,
            waits: Waits::Until(now),
        };
        self.look(question, net, now);
        self.asker.send(net, now);
    }

    fn look(&mut self, mut question: Question, net: &mut Network, now: Duration) {
        let route = match self.resolver.step(&question.inquiry, None) {
            Step::Done(route) => route,
            Step::WouldBlock => panic!("a replica never waits"),
            Step::Ask(ask) => {
                question.found = true;
                let view = self.view(now);
                let (open, action) = self.policy.begin(ask, Some(&view), now);
                question.open = Some(open);
                return self.act(question, action, net, now);
            }
        };
        let store = self.shared.store();
        let committed = store.committed();
        self.answers.push(Answered {
            name: question.name,
            since: question.since,
            route,
            held_back: committed.about.held_back.is_some(),
            lost: store.lost(),
            complete_to: committed.complete_to,
            found: question.found,
            streaming: self.stream.since().is_some(),
            known: question.known,
            to_ask_again: question.to_ask_again,
            gave_up: question.gave_up,
            cached: question.cached,
            known_unanswered: question.known_unanswered,
            silent: question.silent,
            heard: self.heard,
        });
    }

    fn event(
        &mut self,
        mut question: Question,
        event: question::Event,
        net: &mut Network,
        now: Duration,
    ) {
        let view = self.view(now);
        let open = question.open.as_mut().expect("a confirmation is under way");
        let action = self.policy.event(open, event, Some(&view), now);
        self.act(question, action, net, now);
    }

    /// As `master::confirmer` and `master::MasterClient`: executes an action.
    fn act(&mut self, mut question: Question, action: Action, net: &mut Network, now: Duration) {
        match action {
            Action::Done(said) => {
                question.gave_up |= matches!(said, Confirmation::Master(Finding::Unsure(_)));
                if let Some(open) = question.open.take() {
                    question.inquiry.learn(open.into_ask(), said, None);
                }
                self.look(question, net, now);
            }
            Action::WaitUntil(until) => {
                question.waits = Waits::Until(until);
                self.questions.push(question);
            }
            Action::Find { by } => {
                let name = question.open.as_ref().map(|open| open.name().clone());
                let name = name.expect("a confirmation is under way");
                if self.view(now).needs_no_question(&name) {
                    question.cached = true;
                    return self.found(question, Finding::Absent, net, now);
                }
                let (alive, sent) = (Arc::new(()), now);
                let limit = now + self.worth.lock().unwrap().timeout();
                let waiting = Waiting { id: question.id, alive: Arc::downgrade(&alive) };
                let connecting = self.view(now).is_connecting();
                question.waits = Waits::Find { alive, sent, limit, connecting, by };
                self.questions.push(question);
                if let Some(finds) = self.asker.talk() {
                    finds.ask(name, waiting, now);
                } else if self.asker.pauses() {
                    let why = "there is no connection to the MUPDATE server";
                    self.answered(&waiting, unsure(why), net, now);
                } else {
                    self.queued.push((name, waiting));
                }
            }
            Action::CatchUp | Action::Kick => panic!("neither a search nor so many strangers"),
        }
    }
}

/// Returns the server that an answer names.
pub(crate) fn server(route: &Route) -> Option<&str> {
    match route.decision {
        Decision::Deliver(_) => route.server.as_deref(),
        _ => None,
    }
}

fn unreachable(why: impl fmt::Display) -> Doubt {
    Doubt::new(DoubtKind::Unreachable, why)
}

fn unsure(why: impl fmt::Display) -> Finding {
    Finding::Unsure(unreachable(why))
}
