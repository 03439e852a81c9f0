//! Our side: what `follow` and `master::confirmer` do with their tasks, thread and sockets, as one
//! loop over a clock that is told. All that decides is the crate's: the protocol, the replica's
//! logic, the router over the lists with what was found out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use murder_route::address::{Release, Rules};
use murder_route::lists::combined::{Lists, Source};
use murder_route::model::backend::Backends;
use murder_route::model::domains::Domains;
use murder_route::model::list::{Lookup, MailboxList};
use murder_route::model::name::MailboxName;
use murder_route::model::record::{Record, State};
use murder_route::mupdate::{Event, Failure, Finder, Finding, Stream, Ticket};
use murder_route::replica::writer_logic::{CommittedMeta, Now, Publish, StreamInput};
use murder_route::replica::{
    HeldBack, ReplicaDoubt, ReplicaMeta, ReplicaSource, ReplicaState, SourceTrust, SyncReport,
};
use murder_route::resolver::Resolver;
use murder_route::routing::confirm::{ConfirmVia, KNOWN_NAME_TIMEOUT};
use murder_route::routing::evidence::Confirmation;
use murder_route::routing::inquiry::{Ask, Inquiry, Step, Why};
use murder_route::routing::route::{Decision, Route};
use murder_route::routing::router::Router;

use crate::link::Link;
use crate::network::{Line, Network, Piece};
use crate::random::Random;
use crate::schedule::Name;
use crate::store::Store;
use crate::writer::Writer;

/// How long a loss waits for its confirmation.
pub(crate) const ACCEPT_AFTER: Duration = Duration::from_secs(60);

/// Longest wait for the answer to a question (`master::query`).
const PATIENCE: Duration = Duration::from_secs(4);

/// How long the answer for somebody whom the replica has waits for the master, and how long the
/// master is not asked for such once he did not answer (`master::confirmer`).
pub(crate) const SOON: Duration = KNOWN_NAME_TIMEOUT;
const SILENCE: Duration = Duration::from_secs(5);

/// Between the two questions for a name that was deleted a moment ago (`master::confirmer`).
const RENAME_GAP: Duration = Duration::from_secs(1);

/// What the clock on the wall says that was set this many seconds wrong.
fn clock(now: Duration, wrong: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_536_000_u64.saturating_add_signed(wrong)) + now
}

/// What all parts of the process share.
pub(crate) struct Shared {
    store: Arc<Mutex<Store>>,
    standing: Mutex<ReplicaState>,
    /// A full sync that is held back is wanted again.
    sync_wanted: AtomicBool,
    /// In milliseconds.
    now: AtomicU64,
    /// By how many seconds the clock on the wall is wrong.
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

    /// What the clock on the wall says.
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
    ) -> Result<(), String> {
        Err("nobody walks here".into())
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
    /// When it was asked for.
    pub(crate) since: Duration,
    pub(crate) route: Route,
    /// Whether a list was held back then.
    pub(crate) held_back: bool,
    /// How many names the stream alone had taken away from the replica.
    pub(crate) lost: u64,
    /// Up to when the replica had everything.
    pub(crate) complete_to: Option<Duration>,
    /// Whether the master was asked.
    pub(crate) found: bool,
    /// Whether the stream was up.
    pub(crate) streaming: bool,
    /// Whether the replica had the mailbox, as an active one, when it was asked for.
    pub(crate) known: bool,
    /// Whether the name had changed a moment before it was asked for, and the master could be asked.
    pub(crate) to_ask_again: bool,
    /// Whether he was, and did not answer.
    pub(crate) gave_up: bool,
}

struct Question {
    name: Name,
    since: Duration,
    inquiry: Inquiry<'static>,
    found: bool,
    known: bool,
    to_ask_again: bool,
    gave_up: bool,
    /// What is being found out.
    ask: Option<Ask>,
    /// Whether the replica has it, so that nobody waits for long.
    soon: bool,
    state: Asking,
}

enum Asking {
    Asked {
        ticket: Ticket,
        at: Duration,
        again: bool,
    },
    /// Before the second question.
    Waits {
        until: Duration,
    },
}

/// The process.
pub(crate) struct Daemon {
    shared: Arc<Shared>,
    resolver: Resolver,
    random: Random,
    stream: Link<Stream>,
    told_of: bool,
    asker: Link<Finder>,
    pub(crate) writer: Writer,
    questions: Vec<Question>,
    answers: Vec<Answered>,
    /// Until when the master is not asked for whom the replica has.
    silent: Duration,
}

impl Question {
    fn name(&self) -> MailboxName {
        self.ask.as_ref().unwrap().name.clone()
    }

    fn patience(&self) -> Duration {
        if self.soon { SOON } else { PATIENCE }
    }
}

impl Daemon {
    /// The process starts, on what the last one left.
    pub(crate) fn new(
        store: &Arc<Mutex<Store>>,
        sasl: bool,
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
        let resolver = Resolver {
            router,
            maps: Default::default(),
            lists: Lists::new(vec![Source::Replica(ReplicaSource { list, trust })]),
            proof: ConfirmVia::Master { slave: None },
            vital: Default::default(),
            accept_after: ACCEPT_AFTER,
        };
        Self {
            shared,
            resolver,
            random,
            stream: Link::new(sasl, now),
            told_of: false,
            asker: Link::new(sasl, now),
            writer: Writer::new(committed.about, disk, now),
            questions: Vec::new(),
            answers: Vec::new(),
            silent: Duration::ZERO,
        }
    }

    /// The connections it has.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        self.stream.line().into_iter().chain(self.asker.line())
    }

    pub(crate) fn answers(&mut self) -> Vec<Answered> {
        std::mem::take(&mut self.answers)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// When there is something to do.
    pub(crate) fn next(&self) -> Option<Duration> {
        let questions = self.questions.iter().map(|question| match question.state {
            Asking::Asked { at, .. } => at + question.patience(),
            Asking::Waits { until } => until,
        });
        let others = [self.stream.next(), self.asker.next(), self.writer.next()];
        questions.chain(others.into_iter().flatten()).min()
    }

    /// Does what is due.
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

    /// Something has come over a line.
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
        if std::mem::take(&mut self.told_of) {
            self.writer.inputs.push_back(StreamInput::Disconnected);
        }
    }

    /// As `master::stream`: tells the writer what has come.
    fn after_stream(&mut self, so_far: Result<(), Failure>, net: &mut Network, now: Duration) {
        let mut failed = so_far.err();
        let mut bunch = Vec::new();
        let mut worked = false;
        if let Some(stream) = self.stream.talk() {
            if !std::mem::replace(&mut self.told_of, true) {
                let banner = stream.banner();
                let (master, release) = (banner.server.clone(), banner.release.clone());
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

    /// As `master::query`: answers those who wait.
    fn after_asker(&mut self, so_far: Result<(), Failure>, net: &mut Network, now: Duration) {
        let mut failed = so_far.err();
        let mut answers = HashMap::new();
        if let Some(finder) = self.asker.talk() {
            failed = loop {
                match finder.next() {
                    Ok(Some((ticket, _, finding))) => drop(answers.insert(ticket, finding)),
                    Ok(None) => break failed,
                    Err(failure) => break Some(failure),
                }
            };
            self.asker.worked();
        }
        let mut at = 0;
        while let Some(question) = self.questions.get(at) {
            match question.state {
                Asking::Asked { ticket, again, at: asked } if answers.contains_key(&ticket) => {
                    let question = self.questions.swap_remove(at);
                    let finding = answers[&ticket].clone();
                    self.found(question, finding, asked, again, net, now);
                    // What that put behind is of another ticket.
                    at = 0;
                }
                _ => at += 1,
            }
        }
        if failed.is_some() {
            self.asker.failed(net, &mut self.random, now);
        }
        self.asker.send(net, now);
    }

    /// Questions whose time has come.
    fn hurry(&mut self, net: &mut Network, now: Duration) {
        let mut at = 0;
        while let Some(question) = self.questions.get(at) {
            match question.state {
                Asking::Asked { at: asked, .. } if asked + question.patience() <= now => {
                    let question = self.questions.swap_remove(at);
                    if question.soon {
                        self.silent = now + SILENCE;
                    }
                    let finding = Finding::Unsure("no answer in time".into());
                    self.learn(question, finding, net, now);
                    at = 0;
                }
                Asking::Waits { until } if until <= now => {
                    let question = self.questions.swap_remove(at);
                    self.find(question, true, net, now);
                    at = 0;
                }
                _ => at += 1,
            }
        }
        self.asker.send(net, now);
    }

    /// A mail server asks.
    pub(crate) fn ask(&mut self, name: Name, net: &mut Network, now: Duration) {
        self.shared.now.store(now.as_millis() as u64, Relaxed);
        let mailbox = MailboxName::new(crate::schedule::text(name)).unwrap();
        let lately = self.shared.store().changed_lately(&mailbox, now);
        let known = match self.shared.lookup(&mailbox) {
            Lookup::Present(record) => record.state == State::Active,
            _ => false,
        };
        let evidence = self.resolver.evidence(None).ask_again();
        let recipient = format!("u{name}@example.org");
        let question = Question {
            to_ask_again: lately && self.asker.talk().is_some() && self.silent <= now,
            gave_up: false,
            known,
            soon: false,
            name,
            since: now,
            inquiry: Inquiry::new(recipient.as_bytes(), &evidence).into_owned(),
            found: false,
            ask: None,
            state: Asking::Waits { until: now },
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
                question.soon = ask.why == Why::Changed;
                question.ask = Some(ask);
                return match question.soon && self.silent > now {
                    false => self.find(question, false, net, now),
                    true => self.learn(question, Finding::Unsure("silent".into()), net, now),
                };
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
        });
    }

    fn find(&mut self, mut question: Question, again: bool, net: &mut Network, now: Duration) {
        let asked = match self.asker.talk() {
            Some(finder) => finder.ask(question.name(), now),
            None => Err(Finding::Unsure("there is no connection to the MUPDATE master".into())),
        };
        match asked {
            Ok(ticket) => {
                question.state = Asking::Asked { ticket, at: now, again };
                self.questions.push(question);
            }
            Err(finding) => self.learn(question, finding, net, now),
        }
    }

    /// As `master::MasterClient` and `master::confirmer`: what an answer of the master is worth.
    fn found(
        &mut self,
        mut question: Question,
        mut finding: Finding,
        asked: Duration,
        again: bool,
        net: &mut Network,
        now: Duration,
    ) {
        if finding == Finding::Absent
            && let Some(doubt) = self.doubts_absent(asked, now)
        {
            finding = Finding::Unsure(doubt);
        }
        if finding == Finding::Absent && question.soon {
            question.soon = false;
            return self.find(question, false, net, now);
        }
        let lately = self.deleted_lately(&question.name(), now);
        if finding == Finding::Absent && !again && lately {
            question.state = Asking::Waits { until: now + RENAME_GAP };
            self.questions.push(question);
            return;
        }
        self.learn(question, finding, net, now);
    }

    fn learn(
        &mut self,
        mut question: Question,
        finding: Finding,
        net: &mut Network,
        now: Duration,
    ) {
        question.gave_up |= matches!(finding, Finding::Unsure(_));
        if let Some(mut ask) = question.ask.take() {
            if !question.soon {
                ask.within = None;
            }
            question.inquiry.learn(ask, Confirmation::Master(finding), None);
        }
        self.look(question, net, now);
    }

    /// As `master::Replica::deleted_lately`.
    fn deleted_lately(&self, name: &MailboxName, now: Duration) -> bool {
        !matches!(self.shared.lookup(name), Lookup::Absent)
            || self.shared.standing().lately_deleted(name, now)
    }

    /// As `master::Replica::doubts_absent`.
    fn doubts_absent(&self, _asked: Duration, now: Duration) -> Option<String> {
        if let Err(why) = self.shared.standing().misses(now) {
            return Some(why.to_string());
        }
        let behind = !self.shared.standing().has_barrier_since(self.asker.since());
        behind.then(|| ReplicaDoubt::StreamBehind.to_string())
    }
}

/// The server that an answer names.
pub(crate) fn server(route: &Route) -> Option<&str> {
    match route.decision {
        Decision::Deliver(_) => route.server.as_deref(),
        _ => None,
    }
}
