//! Master, network, clock and our side in one simulation, with a check of every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murder_route::replica::{Fate, Freshness, HeldBack, Mark, Transaction as _};
use murder_route::routing::route::Decision;

use crate::daemon::{ACCEPT_AFTER, Answered, Daemon, server};
use crate::master::{Entry, List, Master, Sent};
use crate::network::{End, Line, Network, Piece};
use crate::random::Random;
use crate::schedule::{ACCOUNTS, FILLERS, Name, SERVERS, STRANGER, Schedule, What, text};
use crate::slave::Slave;
use crate::store::Store;
use crate::truth::{GAP, Truth};

/// Maximum time until the replica is fresh in a quiet network: a hung login or list (30 s), a
/// pause (15 s), and the failures that they may meet just before their end.
const QUIET: Duration = Duration::from_secs(60);

/// Age of the last barrier beyond which a replica is stale.
const STALE: Duration = Duration::from_secs(10);

/// Names of the events that occurred.
pub(crate) type Seen = BTreeSet<&'static str>;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A planned event.
#[derive(Debug, Clone, PartialEq)]
enum Plan {
    Step(What),
    /// A backend sends the master a record.
    Put(Name, Entry),
    /// A backend deletes a mailbox at the master.
    Take(Name),
    MasterStarts,
    MasterGoesOn,
    MasterHasRoom,
    DaemonStarts,
    Accept,
}

/// A loss of many names of the master's list at once.
struct Loss {
    since: Duration,
    /// Number of names that the replica had before.
    had: u64,
    names: List,
}

impl Loss {
    /// Whether the documented rules hold back a list of this number of names: more than 100 names
    /// and more than 10 % are lost, or all of them. Includes a margin for changes that have not
    /// reached the replica.
    fn is_sharp(&self, listed: u64) -> bool {
        let lost = self.had.saturating_sub(listed);
        (listed == 0 && self.had > 0) || (lost > 106 && lost * 10 > self.had + 60)
    }
}

/// A name that the replica had, and that the master has lost.
struct Lost {
    entry: Entry,
    since: Duration,
    /// Whether another master lacks the name.
    lasting: bool,
}

pub(crate) struct World {
    schedule: Schedule,
    now: Duration,
    random: Random,
    net: Network,
    master: Master,
    truths: BTreeMap<Name, Truth>,
    store: Arc<Mutex<Store>>,
    daemon: Option<Daemon>,
    slave: Option<Arc<Slave>>,
    /// Duration of a commit on our disk, in milliseconds.
    disk: u64,
    plans: BTreeMap<(Duration, u64), Plan>,
    planned: u64,
    loss: Option<Loss>,
    /// Lost names that the replica had.
    lost: BTreeMap<Name, Lost>,
    /// Start of the wait for what is held back, or somewhat earlier.
    held_since: Duration,
    /// Error of our wall clock, in seconds.
    wrong: i64,
    /// Names that the master lost before their last record reached the replica.
    untold: BTreeSet<Name>,
    copy: List,
    taken_out: List,
    /// Previous value, to detect changes.
    held_back_before: Option<HeldBack>,
    /// Last answer for each name.
    last: BTreeMap<Name, Answered>,
    /// Intervals from request to answer for names answered as unknown, kept while the mailbox may
    /// still come back.
    unknown: BTreeMap<Name, Vec<(Duration, Duration)>>,
    seen: Seen,
    /// The log of events, if wanted.
    pub(crate) log: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(schedule: &Schedule, log: bool) -> Self {
        let seed = schedule.seed;
        let mut world = Self {
            schedule: schedule.clone(),
            now: Duration::ZERO,
            random: Random::new(seed ^ 0x51),
            net: Network::new(Random::new(seed ^ 0x4e)),
            master: Master::start(),
            truths: BTreeMap::new(),
            store: Arc::default(),
            daemon: None,
            slave: schedule.slave.map(|(lag, first)| Arc::new(Slave::new(ms(lag), first))),
            disk: 1,
            plans: BTreeMap::new(),
            planned: 0,
            loss: None,
            lost: BTreeMap::new(),
            held_since: Duration::ZERO,
            wrong: 0,
            untold: BTreeSet::new(),
            copy: List::new(),
            taken_out: List::new(),
            held_back_before: None,
            last: BTreeMap::new(),
            unknown: BTreeMap::new(),
            seen: Seen::new(),
            log: log.then(Vec::new),
        };
        for name in (0..schedule.accounts).chain(FILLERS..FILLERS + schedule.fillers) {
            let entry = Entry { active: true, server: name % SERVERS.len(), partition: "default" };
            world.change(name, Some(entry));
        }
        world.copy = world.master.list.clone();
        world.start();
        let mut at = ms(0);
        for step in &schedule.steps {
            at += ms(step.after);
            world.plan(at, Plan::Step(step.what));
        }
        world
    }

    /// Runs all plans, then checks the final state. `Err`: the failure.
    pub(crate) fn run(&mut self) -> Result<Seen, String> {
        while let Some(((at, _), plan)) = self.plans.pop_first() {
            self.advance(at)?;
            self.carry_out(plan)?;
        }
        self.quiet()?;
        Ok(std::mem::take(&mut self.seen))
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>11.3} s  {}", self.now.as_secs_f64(), what()));
        }
    }

    fn plan(&mut self, at: Duration, plan: Plan) {
        self.planned += 1;
        self.plans.insert((at.max(self.now), self.planned), plan);
    }

    fn later(&mut self, milliseconds: u64, plan: Plan) {
        self.plan(self.now + ms(milliseconds), plan);
    }

    // Time.

    /// Runs all events up to this time that need no plan.
    fn advance(&mut self, until: Duration) -> Result<(), String> {
        loop {
            self.pass_on();
            let daemon = self.daemon.as_ref().and_then(Daemon::next);
            let next = [self.net.next(), self.master.next(), daemon].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            self.set_clocks();
            self.review_loss();
            self.master.run(self.now);
            self.pass_on();
            while let Some((line, end, piece)) = self.net.arrived(self.now) {
                self.arrived(line, end, piece);
            }
            if let Some(daemon) = &mut self.daemon {
                daemon.run(&mut self.net, self.now);
            }
            self.judge()?;
        }
        self.now = self.now.max(until);
        self.review_loss();
        Ok(())
    }

    /// Passes the master's output to the network.
    fn pass_on(&mut self) {
        for sent in self.master.sent() {
            match sent {
                Sent::Bytes(line, bytes) => self.net.send(line, End::Client, &bytes, self.now),
                Sent::Close(line) => self.net.close(line, End::Server, self.now),
            }
        }
    }

    fn arrived(&mut self, line: Line, end: End, piece: Piece) {
        match (end, piece) {
            (End::Server, Piece::Opened) => self.master.opened(line, self.now),
            (End::Server, Piece::Bytes(bytes)) => self.master.received(line, &bytes, self.now),
            (End::Server, Piece::Closed) => self.master.closed(line),
            (End::Client, piece) => {
                if let Some(daemon) = &mut self.daemon {
                    daemon.arrived(line, &piece, &mut self.net, self.now);
                }
            }
        }
        self.pass_on();
    }

    // The murder.

    /// A backend has changed a record at the master.
    fn change(&mut self, name: Name, entry: Option<Entry>) {
        self.lists(name, entry);
        self.master.change(name, entry);
        if let Some(loss) = &mut self.loss {
            loss.names.remove(&name);
        }
        self.lost.remove(&name);
        self.review_loss();
    }

    /// Records the master's present entry for a name.
    fn lists(&mut self, name: Name, entry: Option<Entry>) {
        let truth = self.truths.entry(name).or_default();
        if self.untold.remove(&name) {
            // The change reaches the replica only now.
            truth.is(self.now, None);
        }
        truth.lists(self.now, entry);
        truth.is(self.now, entry);
        if let Some(slave) = &self.slave {
            slave.lists(self.now, name, entry);
        }
    }

    /// Replaces the master's list, without any trace of the old one.
    fn lose(&mut self, list: List, lasting: bool) {
        let (had, held_back, complete_to) = {
            let store = self.store.lock().unwrap();
            let about = &store.committed().about;
            let had = if about.synchronised.is_some() { store.names_at_least() } else { 0 };
            let had = had.min(self.master.list.len() as u64);
            (had, about.held_back.clone(), store.complete_to_at_least())
        };
        let mut since = self.now;
        let mut accepted = false;
        if let Some(held_back) = held_back {
            // The loss counts from there, and a similar loss is accepted as well.
            since = self.held_since.min(since);
            accepted = held_back.accepted;
        }
        let loss = self.loss.get_or_insert_with(|| Loss { since, had, names: List::new() });
        let old = std::mem::replace(&mut self.master.list, list);
        for (name, entry) in &old {
            if !self.master.list.contains_key(name) {
                let truth = self.truths.entry(*name).or_default();
                truth.lists(self.now, None);
                if let Some(slave) = &self.slave {
                    slave.lists(self.now, *name, None);
                }
                let told = complete_to.and_then(|to| truth.unchanged(to, self.now));
                if told.is_none() {
                    self.untold.insert(*name);
                }
                match complete_to.and_then(|to| truth.listed_unchanged(to, self.now)) {
                    Some(_) => {
                        let lost = Lost { entry: *entry, since: self.now, lasting };
                        self.lost.insert(*name, lost);
                    }
                    None => drop(loss.names.insert(*name, *entry)),
                }
            }
        }
        let mut new = Vec::new();
        for (name, entry) in &self.master.list {
            if old.get(name) != Some(entry) {
                loss.names.remove(name);
                self.lost.remove(name);
                new.push((*name, Some(*entry)));
            }
        }
        for (name, entry) in new {
            self.lists(name, entry);
        }
        if accepted {
            self.forgive();
            self.forget(|_| true);
        }
        self.review_loss();
    }

    /// Ends a loss that has become small enough to be intended, or has lasted long enough.
    fn review_loss(&mut self) {
        let listed = self.master.list.len() as u64;
        let counts = |loss: &Loss| {
            loss.is_sharp(listed) && (listed == 0 || self.now < loss.since + ACCEPT_AFTER)
        };
        if self.loss.as_ref().is_some_and(|loss| !counts(loss)) {
            self.forgive();
        }
        let now = self.now;
        self.forget(|lost| !lost.lasting && now >= lost.since + ACCEPT_AFTER);
    }

    /// Ends the existence of names that the master has lost.
    fn forget(&mut self, over: impl Fn(&Lost) -> bool) {
        let (truths, now) = (&mut self.truths, self.now);
        self.lost.retain(|name, lost| {
            let over = over(lost);
            if over {
                truths.entry(*name).or_default().is(now, None);
            }
            !over
        });
    }

    fn forgive(&mut self) {
        for name in self.loss.take().into_iter().flat_map(|loss| loss.names.into_keys()) {
            self.truths.entry(name).or_default().is(self.now, None);
        }
    }

    fn master_dies(&mut self, down: u64) {
        for line in self.master.die() {
            self.net.cut(line, self.now);
        }
        self.master_will_start(down);
    }

    fn master_will_start(&mut self, down: u64) {
        self.plans.retain(|_, plan| {
            !matches!(plan, Plan::MasterStarts | Plan::MasterGoesOn | Plan::MasterHasRoom)
        });
        self.later(down, Plan::MasterStarts);
    }

    /// Whether a change of the name is planned.
    fn is_busy(&self, name: Name) -> bool {
        self.plans.values().any(|plan| match plan {
            Plan::Put(of, _) | Plan::Take(of) => *of == name,
            _ => false,
        })
    }

    fn is_active(&self, name: Name) -> bool {
        self.master.list.get(&name).is_some_and(|entry| entry.active) && !self.is_busy(name)
    }

    fn serves(&self) -> bool {
        self.master.up && !self.master.hung
    }

    // Our side.

    fn start(&mut self) {
        let random = Random::new(self.random.next());
        let (slave, disk, wrong) = (self.slave.as_ref(), self.disk, self.wrong);
        if slave.is_some() {
            self.seen.insert("two sources");
        }
        let daemon = Daemon::new(&self.store, &self.schedule, slave, disk, random, self.now, wrong);
        self.daemon = Some(daemon);
    }

    fn kill(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        self.seen.insert("our process was killed");
        if !daemon.writer.is_idle() {
            self.seen.insert("our process was killed in the middle of a batch");
        }
        for line in daemon.lines() {
            self.net.close(line, End::Client, self.now);
        }
    }

    fn set_clocks(&self) {
        if let Some(slave) = &self.slave {
            slave.set(self.now);
        }
    }

    fn held_back(&self) -> bool {
        self.store.lock().unwrap().committed().about.held_back.is_some()
    }

    fn freshness(&self) -> Option<Freshness> {
        Some(self.daemon.as_ref()?.shared().standing().freshness(self.now))
    }

    fn is_fresh(&self) -> bool {
        matches!(self.freshness(), Some(Freshness::Fresh { .. }))
    }

    fn ask(&mut self, name: Name) {
        self.set_clocks();
        if let Some(daemon) = &mut self.daemon {
            daemon.ask(name, &mut self.net, self.now);
        }
    }

    // Events.

    fn carry_out(&mut self, plan: Plan) -> Result<(), String> {
        if !matches!(plan, Plan::Step(What::Ask(_))) {
            self.say(|| format!("{plan:?}"));
        }
        match plan {
            Plan::Step(what) => self.step(what),
            Plan::Put(..) | Plan::Take(_) if !self.serves() => self.later(300, plan),
            Plan::Put(name, entry) => {
                if !entry.active && !self.is_fresh() {
                    self.seen.insert("mailbox made or moved during an outage");
                }
                self.change(name, Some(entry));
            }
            Plan::Take(name) => {
                if self.master.list.contains_key(&name) {
                    self.change(name, None);
                }
            }
            Plan::MasterStarts => self.master.up = true,
            Plan::MasterGoesOn => {
                self.master.hung = false;
                self.master.run(self.now);
            }
            Plan::MasterHasRoom => self.master.full = false,
            Plan::DaemonStarts => {
                if self.daemon.is_none() {
                    self.start();
                }
            }
            Plan::Accept => {
                if self.daemon.as_ref().is_none_or(|daemon| daemon.writer.is_idle()) {
                    self.accept();
                } else {
                    self.later(50, Plan::Accept);
                }
            }
        }
        self.pass_on();
        self.judge()
    }

    fn accept(&mut self) {
        let mut store = self.store.lock().unwrap();
        let mut batch = store.begin();
        let mut judge = |_: &[u8], mark: Option<&Mark>| match mark {
            Some(_) => Fate::Remove,
            None => Fate::Keep,
        };
        let Ok(swept) = batch.sweep(&Mark::default(), &mut judge);
        batch.about.missing = 0;
        batch.about.oldest = None;
        if let Some(held_back) = &mut batch.about.held_back {
            held_back.accepted = true;
        } else if swept.removed == 0 {
            return;
        }
        store.commit_to_disk(batch);
        drop(store);
        self.seen.insert("loss accepted");
        self.forgive();
        self.forget(|_| true);
    }

    fn step(&mut self, what: What) {
        let entry = |active, server, partition| Entry { active, server, partition };
        match what {
            What::Ask(name) => self.ask(name),
            What::Create { name, server, gap } => {
                // Without the master the backend undoes the creation.
                if self.master.list.contains_key(&name) || self.is_busy(name) || !self.serves() {
                    return;
                }
                self.later(0, Plan::Put(name, entry(false, server, "default")));
                self.later(gap, Plan::Put(name, entry(true, server, "default")));
            }
            What::Delete(name) if self.is_active(name) => self.later(0, Plan::Take(name)),
            What::Rename { name, to, gap } => {
                let free = !self.master.list.contains_key(&to) && !self.is_busy(to);
                if !self.is_active(name) || !free {
                    return;
                }
                if !self.is_fresh() {
                    self.seen.insert("rename during an outage");
                }
                let server = self.master.list[&name].server;
                self.later(0, Plan::Take(name));
                self.later(gap, Plan::Put(to, entry(false, server, "")));
                self.later(gap + 1, Plan::Put(to, entry(true, server, "")));
                self.later(gap + 35, Plan::Put(to, entry(true, server, "default")));
            }
            What::Again { name, gap } if self.is_active(name) => {
                let server = self.master.list[&name].server;
                self.later(0, Plan::Take(name));
                self.later(gap, Plan::Put(name, entry(true, server, "default")));
            }
            What::Move { name, server, gap, fails } if self.is_active(name) => {
                let old = self.master.list[&name].server;
                let new = if fails { old } else { server };
                self.seen.insert("XFER");
                self.later(0, Plan::Put(name, entry(false, old, "default")));
                self.later(gap, Plan::Put(name, entry(true, new, "default")));
                self.later(gap + 3, Plan::Put(name, entry(true, new, "default")));
            }
            What::Touch(name) if self.is_active(name) => {
                let entry = self.master.list[&name];
                self.later(0, Plan::Put(name, entry));
            }
            What::TakeOut { fillers } => {
                let names = FILLERS..FILLERS + fillers.min(self.schedule.fillers);
                for name in names.filter(|name| self.is_active(*name)).collect::<Vec<_>>() {
                    self.taken_out.insert(name, self.master.list[&name]);
                    self.later(1, Plan::Take(name));
                }
            }
            What::PutBack => {
                for (name, entry) in std::mem::take(&mut self.taken_out) {
                    self.later(1, Plan::Put(name, entry));
                }
            }
            What::AskOften { name, times, every } => {
                for n in 0..times {
                    self.later(n * every, Plan::Step(What::Ask(name)));
                }
            }
            What::Lossy(lossy) => self.net.lossy = lossy,
            What::Slowness(slowness) => self.net.slowness = slowness,
            What::CutAll => {
                for line in self.master.lines().collect::<Vec<_>>() {
                    self.net.cut(line, self.now);
                }
            }
            What::Cut(nth) => {
                let line = self.master.lines().nth(nth as usize);
                if let Some(line) = line {
                    self.net.cut(line, self.now);
                }
            }
            What::Block(time) => {
                self.net.blocked_until = self.net.blocked_until.max(self.now + ms(time));
            }
            What::KillMaster { down } | What::Crash { down } if self.master.up => {
                self.seen.insert("master killed");
                self.master_dies(down);
            }
            What::Vanish { down } if self.master.up => {
                self.seen.insert("master's host gone without a close");
                for line in self.master.die() {
                    self.net.vanish(line);
                }
                self.master_will_start(down);
            }
            What::StopMaster { stopped } if self.serves() => {
                self.master.hung = true;
                self.later(stopped, Plan::MasterGoesOn);
            }
            What::FullMaster { full } if self.master.up => {
                self.master.full = true;
                self.later(full, Plan::MasterHasRoom);
            }
            What::Bye if self.serves() => self.master.bye(),
            What::LoseList { down, kept } => {
                self.master_dies(down);
                let mut kept_by = Random::new(self.schedule.seed ^ self.planned);
                let mut list = self.master.list.clone();
                list.retain(|_, _| kept_by.below(100) < kept);
                self.seen.insert(match list.is_empty() {
                    true => "master began anew with an empty list",
                    false => "master began anew with a part of its list",
                });
                self.lose(list, false);
            }
            What::Recover { down } if self.master.up => {
                self.master_dies(down);
                let mut list = self.master.list.clone();
                list.retain(|_, entry| entry.active);
                if list.len() < self.master.list.len() {
                    self.seen.insert("master removed reserved names");
                }
                self.lose(list, false);
            }
            What::Push { server } => {
                let lost = self.lost.iter().map(|(name, lost)| (*name, lost.entry));
                let loss = self.loss.iter().flat_map(|loss| &loss.names);
                let names: List = lost.chain(loss.map(|(name, entry)| (*name, *entry))).collect();
                for (name, entry) in names {
                    if entry.server == server && !self.is_busy(name) {
                        self.seen.insert("backend told the master again");
                        self.later(1, Plan::Put(name, Entry { active: true, ..entry }));
                    }
                }
            }
            What::SetClock(seconds) => {
                self.wrong += seconds;
                if let Some(daemon) = &self.daemon {
                    daemon.shared().wrong.store(self.wrong, Relaxed);
                }
                self.store.lock().unwrap().clock_was_set(self.now);
                if self.held_back() {
                    self.seen.insert("clock set while a list was held back");
                }
            }
            What::FindList { down } => {
                self.master_dies(down);
                let lost = std::mem::take(&mut self.lost).into_iter();
                let loss = self.loss.take().into_iter().flat_map(|loss| loss.names);
                for (name, entry) in lost.map(|(name, lost)| (name, lost.entry)).chain(loss) {
                    self.master.list.entry(name).or_insert(entry);
                    self.lists(name, Some(entry));
                }
            }
            What::Copy => self.copy = self.master.list.clone(),
            What::Promote { down } => {
                self.seen.insert("slave promoted");
                self.master_dies(down);
                self.master.host += 1;
                self.lose(self.copy.clone(), true);
            }
            What::Kill { down } => {
                self.kill();
                self.later(down, Plan::DaemonStarts);
            }
            What::PowerLoss { down } => {
                self.kill();
                if self.random.one_in(2) {
                    self.store.lock().unwrap().lose_power();
                    self.seen.insert("our host lost power");
                }
                self.later(down, Plan::DaemonStarts);
            }
            What::SlowDisk(disk) => {
                self.disk = disk;
                if let Some(daemon) = &mut self.daemon {
                    daemon.writer.disk = disk;
                }
            }
            What::Accept => self.later(0, Plan::Accept),
            _ => {}
        }
    }

    // Checks.

    fn judge(&mut self) -> Result<(), String> {
        self.judge_once_more()?;
        let held_back = self.store.lock().unwrap().committed().about.held_back.clone();
        if held_back != self.held_back_before {
            self.say(|| match &held_back {
                Some(held_back) => format!("  {held_back}"),
                None => "  nothing is held back any more".into(),
            });
            let began = |held: &Option<HeldBack>| held.as_ref().map(|held| held.began);
            if began(&held_back) != began(&self.held_back_before) {
                // Before the commit, which takes up to 8 s.
                self.held_since = self.now.saturating_sub(ms(10_000));
            }
            self.held_back_before = held_back;
            self.seen.insert("list held back");
        }
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        if daemon.shared_finds > 0 {
            self.seen.insert("questions shared a FIND");
        }
        for answered in daemon.answers() {
            self.say(|| {
                let Answered { name, since, route, .. } = &answered;
                let place = server(route).unwrap_or_default();
                let (word, why) = (route.decision.as_str(), &route.reason);
                let asked = since.as_secs_f64();
                format!("  u{name}, asked for at {asked:.3} s: {word} {place} {why}")
            });
            self.judge_one(&answered).map_err(|what| {
                let (name, now) = (text(answered.name), self.now.as_secs_f64());
                format!("{what}: {name} at {now:.3} s: {answered:?}")
            })?;
            self.last.insert(answered.name, answered);
        }
        Ok(())
    }

    /// Checks names answered as unknown whose mailbox has come back.
    fn judge_once_more(&mut self) -> Result<(), String> {
        for (name, unknown) in &mut self.unknown {
            let truth = &self.truths[name];
            if let Some((since, at)) =
                unknown.iter().find(|(since, at)| !truth.was_absent(*since, *at))
            {
                return Err(format!(
                    "a mailbox that exists was unknown: {}, asked for at {:.3} s, answered at {:.3} s",
                    text(*name),
                    since.as_secs_f64(),
                    at.as_secs_f64()
                ));
            }
            unknown.retain(|(_, at)| *at + GAP >= self.now);
        }
        Ok(())
    }

    fn judge_one(&mut self, answered: &Answered) -> Result<(), &'static str> {
        let Answered { name, since, route, held_back, complete_to, found, streaming, lost, .. } =
            answered;
        let cached = &answered.cached;
        let (since, now) = (*since, self.now);
        let fresh = self.is_fresh();
        let truth = self.truths.entry(*name).or_default();
        match &route.decision {
            Decision::Unknown => {
                self.seen.insert("recipient unknown");
                if now - since >= Duration::from_secs(1) {
                    self.seen.insert("recipient unknown after two questions");
                }
                let mut from = since;
                if *cached {
                    // With the negative cache an older absence is enough.
                    from = from.saturating_sub(ms(self.schedule.negative_cache));
                    self.seen.insert("recipient unknown by the negative cache");
                }
                if !truth.was_absent(from, now) {
                    return Err("a mailbox that exists was unknown");
                }
                self.unknown.entry(*name).or_default().push((from, now));
                if !streaming || complete_to.is_none_or(|complete_to| complete_to + STALE < now) {
                    return Err("a replica that is stale made a recipient unknown");
                }
                // There are at most a thousand names, so 10 % of them are fewer.
                if *held_back || *lost > 100 {
                    return Err("a list that is held back made a recipient unknown");
                }
            }
            Decision::Deliver(_) => {
                if !fresh {
                    self.seen.insert("delivered during an outage");
                }
                if *found {
                    self.seen.insert("delivered although the replica did not have the name");
                }
                if self.lost.contains_key(name)
                    || self.loss.as_ref().is_some_and(|loss| loss.names.contains_key(name))
                {
                    self.seen.insert("delivered although the master has lost the name");
                }
                let place = server(route).unwrap_or_default();
                if !truth.was_on(place, Duration::ZERO, now) {
                    return Err("a server that the mailbox never had");
                }
                if answered.to_ask_again && !answered.gave_up {
                    if !truth.was_on(place, since, now) {
                        return Err("where it was, of a name that the master was to be asked for");
                    }
                    self.seen.insert("delivered after the master was asked again");
                }
                if answered.gave_up {
                    self.seen.insert("delivered although the master did not answer");
                }
                let mut complete_to = since.min(complete_to.unwrap_or_default());
                if let Some(slave) = &self.slave {
                    complete_to = complete_to.min(slave.as_of());
                }
                if !held_back && !truth.was_on(place, complete_to, now) {
                    return Err(
                        "a server that the mailbox had no more when the replica was complete",
                    );
                }
            }
            Decision::Deferred(_) => {
                self.seen.insert("recipient deferred");
                if *lost > 100 {
                    self.seen.insert("recipient deferred after the stream removed many names");
                }
            }
            Decision::Refused(_) | Decision::Foreign => return Err("neither refused nor foreign"),
        }
        let waited = now - since;
        // With a margin: a record is confirmed once more if the master has none.
        if answered.known
            && answered.known_unanswered.is_some_and(|at| at < since && since < at + ms(4_900))
        {
            if waited >= ms(250) && answered.gave_up {
                return Err("a known recipient waited again for a master that was silent");
            }
            self.seen.insert("known recipient not delayed again by a silent master");
        }
        if let Some(silent) = answered.silent
            && silent < since
            && answered.heard.is_none_or(|heard| heard < silent)
        {
            if waited > ms(800) {
                return Err("a recipient waited for long for a master that was silent");
            }
            if answered.found && !answered.known {
                self.seen.insert("unknown recipient not delayed again by a silent master");
            }
        }
        // Of a second list that lags, the present record counts.
        let slave = self.slave.as_ref().map(|slave| slave.as_of());
        if let Some(complete_to) = complete_to.map(|to| to.min(slave.unwrap_or(to)))
            && !self.untold.contains(name)
            // Names that the master's list lacked meanwhile may be missing, or dropped after a
            // message of the stream.
            && (answered.known
                || truth.listed_unchanged(since.min(complete_to), now).is_some())
            && let Some(entry) = truth.unchanged(since.min(complete_to), now)
        {
            if server(route) != Some(SERVERS[entry.server]) {
                return Err("a recipient that the replica knew was not answered");
            }
            if answered.known && waited > ms(250) {
                return Err("a recipient that the replica knew had to wait");
            }
        }
        Ok(())
    }

    /// Checks that without further events the state becomes correct.
    fn quiet(&mut self) -> Result<(), String> {
        (self.net.slowness, self.net.lossy, self.disk) = (5, 0, 1);
        if let Some(daemon) = &mut self.daemon {
            daemon.writer.disk = 1;
        } else {
            self.start();
        }
        self.advance(self.now.max(self.net.blocked_until))?;
        self.say(|| "quiet".into());
        let empty = self.master.list.is_empty();
        let began = self.now;
        let mut last_doubt = began;
        // The master's last changes must have reached us before the final checks.
        self.advance(began + Duration::from_secs(10))?;
        let mut held = self.held_back();
        loop {
            self.advance(self.now + Duration::from_secs(1))?;
            if empty && self.now >= began + QUIET {
                break;
            }
            if self.held_back() {
                held = true;
                last_doubt = self.now;
                // An empty list waits until it is accepted.
                if !empty && self.now > began + QUIET + 2 * ACCEPT_AFTER {
                    return Err("a list was never taken over".into());
                }
            } else if self.now > last_doubt + QUIET {
                let freshness = self.freshness();
                return Err(format!("a quiet network did not lead back to fresh: {freshness:?}"));
            }
            self.ask(STRANGER);
            self.judge()?;
            let stranger = self.last.get(&STRANGER).filter(|answered| answered.since > began);
            if self.is_fresh()
                && stranger.is_some_and(|answered| answered.route.decision == Decision::Unknown)
            {
                break;
            }
        }
        if held && !empty && !self.held_back() {
            self.seen.insert("list taken over after its confirmation");
        }
        if empty {
            return self.quiet_and_empty();
        }
        self.last.clear();
        let names = (0..ACCOUNTS).chain(FILLERS..FILLERS + self.schedule.fillers.min(8));
        for name in names.clone() {
            self.ask(name);
        }
        self.judge()?;
        self.advance(self.now + Duration::from_secs(8))?;
        for name in names {
            let Some(answered) = self.last.get(&name) else {
                return Err(format!("{} was never answered", text(name)));
            };
            let right = match (self.master.list.get(&name), &answered.route.decision) {
                (Some(entry), Decision::Deliver(_)) => {
                    entry.active && server(&answered.route) == Some(SERVERS[entry.server])
                }
                (Some(entry), Decision::Deferred(_)) => !entry.active,
                (None, Decision::Unknown) => true,
                // Until its time is over.
                (None, Decision::Deferred(_)) => answered.route.reason.contains(" vanished from "),
                _ => false,
            };
            if let Decision::Deferred(_) = &answered.route.decision
                && !self.master.list.contains_key(&name)
            {
                self.seen.insert("deferred because the master has lost the name");
            }
            if !right {
                let listed = self.master.list.get(&name);
                return Err(format!("after all {listed:?} is answered with {answered:?}"));
            }
        }
        if self.store.lock().unwrap().missing().next().is_some() {
            self.seen.insert("names missing after all");
            self.advance(self.now + ACCEPT_AFTER + QUIET)?;
            let store = self.store.lock().unwrap();
            let master = &store.committed().about.master;
            if let Some((name, _)) = store.missing().find(|(_, had)| had == master) {
                return Err(format!("{} is missing for ever", name.escape_ascii()));
            }
        }
        Ok(())
    }

    /// Checks a master without any name. Its list is not believed, but can be accepted.
    fn quiet_and_empty(&mut self) -> Result<(), String> {
        for accepted in [false, true] {
            self.ask(STRANGER);
            self.advance(self.now + Duration::from_secs(8))?;
            let stranger = self.last.get(&STRANGER).map(|answered| &answered.route.decision);
            if !matches!(stranger, Some(Decision::Deferred(_))) {
                return Err(format!("a master without any name makes a stranger {stranger:?}"));
            }
            if self.held_back() {
                if accepted {
                    return Err("an empty list was accepted and not taken over".into());
                }
                self.later(0, Plan::Accept);
                while let Some(((at, _), plan)) = self.plans.pop_first() {
                    self.advance(at)?;
                    self.carry_out(plan)?;
                }
                self.advance(self.now + QUIET)?;
                self.seen.insert("list taken over after it was accepted");
            }
        }
        if !self.is_fresh() {
            let freshness = self.freshness();
            return Err(format!("a quiet network did not lead back to fresh: {freshness:?}"));
        }
        Ok(())
    }
}
