//! The daemon's writer, as `master::writer`: it takes what the stream tells, bunch by bunch, and each
//! commit takes its time. The places where a process may die are where it waits.

use std::collections::VecDeque;
use std::time::Duration;

use murder_route::mupdate::Event;
use murder_route::replica::{
    ChangeApplier, FullSync, Heard, Outcome, ReplicaMeta, Transaction as _,
};

use crate::daemon::{ACCEPT_AFTER, Shared};
use crate::random::Random;
use crate::store::Table;

/// What the stream tells the writer.
pub(crate) enum Told {
    Connected { master: String, release: String },
    Events(Vec<Event>),
    Lost,
}

pub(crate) struct Writer {
    pub(crate) told: VecDeque<Told>,
    follower: ChangeApplier,
    phase: Phase,
    commit: Option<Commit>,
    /// A list is wanted again.
    pub(crate) relist: bool,
    /// Longest time of a commit, in milliseconds.
    pub(crate) disk: u64,
}

enum Phase {
    Waiting,
    FullSync { listing: Box<FullSync>, batch: Box<Table>, master: String, release: String },
    Following,
}

/// A commit under way.
struct Commit {
    /// When the next half of it is done: first everybody sees the batch, then it is said of it that
    /// it is there.
    at: Duration,
    batch: Option<Table>,
    about: ReplicaMeta,
    names: u64,
    asked: Option<Duration>,
    /// Of a full list.
    outcome: Option<Outcome>,
    /// What came after the list.
    rest: Vec<Event>,
}

impl Writer {
    pub(crate) fn new(disk: u64, now: Duration) -> Self {
        Self {
            told: VecDeque::new(),
            follower: ChangeApplier::new(ACCEPT_AFTER, now),
            phase: Phase::Waiting,
            commit: None,
            relist: false,
            disk,
        }
    }

    /// Whether somebody else can write now.
    pub(crate) fn is_idle(&self) -> bool {
        self.commit.is_none() && !matches!(self.phase, Phase::FullSync { .. })
    }

    /// Whether a batch would be lost now.
    pub(crate) fn is_in_a_batch(&self) -> bool {
        !self.is_idle()
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        match &self.commit {
            Some(commit) => Some(commit.at),
            None if self.told.is_empty() => None,
            None => Some(Duration::ZERO),
        }
    }

    /// Does one thing, if there is one to do.
    pub(crate) fn run(&mut self, shared: &Shared, random: &mut Random, now: Duration) {
        if let Some(commit) = self.commit.take() {
            if now < commit.at {
                self.commit = Some(commit);
                return;
            }
            return self.committed(commit, shared, random, now);
        }
        match self.told.pop_front() {
            None => {}
            Some(Told::Connected { master, release }) => {
                let batch = shared.store().begin();
                let Ok(listing) = FullSync::begin(&batch);
                let (listing, batch) = (Box::new(listing), Box::new(batch));
                self.phase = Phase::FullSync { listing, batch, master, release };
            }
            Some(Told::Lost) => self.phase = Phase::Waiting,
            Some(Told::Events(events)) => match &self.phase {
                Phase::Waiting => {}
                Phase::FullSync { .. } => self.list(events, shared, random, now),
                Phase::Following => self.apply(&events, shared, random, now),
            },
        }
    }

    fn when(&self, random: &mut Random, now: Duration) -> Duration {
        now + Duration::from_millis(random.below(self.disk + 1))
    }

    fn list(&mut self, events: Vec<Event>, shared: &Shared, random: &mut Random, now: Duration) {
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            match (&mut self.phase, event) {
                (Phase::FullSync { listing, batch, .. }, Event::Record(name, record)) => {
                    let Ok(()) = listing.record(&mut **batch, &name, &record, shared.clock(now));
                }
                (Phase::FullSync { .. }, Event::Listed) => {
                    let phase = std::mem::replace(&mut self.phase, Phase::Following);
                    let Phase::FullSync { listing, mut batch, master, release } = phase else {
                        return;
                    };
                    let passed = self.follower.passed(now);
                    let (master, release) = (&*master, &*release);
                    let heard = Heard { master, release, now: shared.clock(now), passed };
                    let Ok(outcome) = listing.finish(&mut *batch, &heard, ACCEPT_AFTER);
                    shared.standing().listed(now);
                    let (Ok(about), Ok(names)) = (batch.about(), batch.names());
                    self.commit = Some(Commit {
                        at: self.when(random, now),
                        batch: Some(*batch),
                        about,
                        names,
                        asked: None,
                        outcome: Some(outcome),
                        rest: events.collect(),
                    });
                    return;
                }
                _ => {}
            }
        }
    }

    fn apply(&mut self, events: &[Event], shared: &Shared, random: &mut Random, now: Duration) {
        let asked = events.iter().rev().find_map(|event| match event {
            Event::Current { asked } => Some(*asked),
            _ => None,
        });
        let about = shared.standing().about().clone();
        let is_change = |event: &Event| matches!(event, Event::Record(..) | Event::Deleted(_));
        if events.iter().any(is_change)
            || (asked.is_some() && self.follower.wants_stamp(&about, now))
        {
            for event in events {
                if let Event::Deleted(name) = event {
                    shared.standing().deleted(name, now);
                }
            }
            let mut batch = shared.store().begin();
            for event in events {
                let Ok(()) = self.follower.apply(&mut batch, event, shared.clock(now));
            }
            let as_of = asked.map(|asked| shared.clock(asked));
            let Ok((about, names)) =
                self.follower.finish(&mut batch, as_of, now, shared.clock(now));
            if let Some(loss) = &about.held_back {
                shared.standing().held_back(loss);
            }
            let (at, outcome, rest) = (self.when(random, now), None, Vec::new());
            let batch = Some(batch);
            self.commit = Some(Commit { at, batch, about, names, asked, outcome, rest });
        } else if let Some(asked) = asked {
            self.current(asked, shared, now);
        }
    }

    fn committed(
        &mut self,
        mut commit: Commit,
        shared: &Shared,
        random: &mut Random,
        now: Duration,
    ) {
        if let Some(batch) = commit.batch.take() {
            match commit.outcome {
                Some(_) => shared.store().commit_list(batch, now),
                None => shared.store().commit(batch, now),
            }
            commit.at = self.when(random, now);
            self.commit = Some(commit);
            return;
        }
        if let Some(outcome) = &commit.outcome {
            self.follower.listed(outcome, commit.names, now);
        }
        shared.standing().stored(commit.about, commit.names);
        if let Some(asked) = commit.asked {
            self.current(asked, shared, now);
        }
        if commit.outcome.is_some() {
            self.apply(&commit.rest, shared, random, now);
        }
    }

    /// A barrier was answered, and what was told before it is committed.
    fn current(&mut self, asked: Duration, shared: &Shared, now: Duration) {
        shared.current(asked);
        let about = shared.store().committed().about.clone();
        self.relist |= self.follower.wants_list(&about, now);
    }
}
