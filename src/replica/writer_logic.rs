//! The decisions of the one thread that writes the replica, without I/O and without a clock.
//!
//! [`WriterLogic`] takes the inputs from the master's stream ([`StreamInput`]) and decides what is
//! written in which transaction, and what is published before a commit and after it ([`Publish`]).
//! Its caller receives, begins, commits and drops:
//!
//! | returned | the caller |
//! |---|---|
//! | [`Next::Receive`], [`Write::Receive`] | feeds the next input |
//! | [`Next::Begin`] | begins a transaction and calls [`WriterLogic::write`] with it |
//! | [`Write::Commit`] | commits it and calls [`WriterLogic::committed`] |
//! | [`Write::Drop`] | drops it |
//!
//! After an error of the store the caller calls [`WriterLogic::abandon`] and has the stream connect
//! again: every connection begins with a full sync.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::{ChangeApplier, FullSync, HeldBack, ReplicaMeta, SyncContext, SyncReport, Transaction};
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::mupdate::Event;

/// Number of waiting events from which on no more inputs are added to a transaction.
const BATCH: usize = 8192;

/// An input from the stream, in the order of the connection.
#[derive(Debug)]
pub enum StreamInput {
    /// A connection was made. A full sync follows, up to [`Event::Listed`].
    Connected {
        /// Name of the master, from its banner.
        master: String,
        /// Release of the master, from its banner.
        release: String,
    },
    /// Events of the connection.
    Events(Vec<Event>),
    /// The connection is gone. A full sync under way is dropped.
    Disconnected,
}

/// The time of a step, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic clock.
    pub monotonic: Duration,
    /// Wall clock.
    pub clock: SystemTime,
}

impl Now {
    /// Wall clock time of an earlier moment, by the wall clock as it is set now.
    fn clock_at(&self, moment: Duration) -> SystemTime {
        let ago = self.monotonic.saturating_sub(moment);
        self.clock.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Read access to what is committed.
pub trait CommittedMeta {
    /// Why the store cannot be read.
    type Error;

    /// Returns the metadata as it is committed. Other processes may have changed it (`replica
    /// accept`).
    fn committed_meta(&self) -> Result<ReplicaMeta, Self::Error>;
}

/// Publishes the writer's progress to the lookups.
///
/// The first four come before their commit, so that no lookup that sees the commit can believe a miss
/// that it causes. The others come after it.
pub trait Publish {
    /// These changes are about to be committed.
    fn changing(&self, events: &[Event]);
    /// A record of the stream is about to replace another one.
    fn replacing(&self, name: &MailboxName, before: Option<&Record>, record: &Record);
    /// A full sync is about to be committed.
    fn synchronising(&self, report: &SyncReport);
    /// A loss is about to be committed as held back.
    fn holding_back(&self, loss: &HeldBack);
    /// A transaction was committed.
    fn committed(&self, meta: &ReplicaMeta, names: u64);
    /// The barrier requested at `asked` was answered, and all events before it are committed.
    fn barrier(&self, asked: Duration);
    /// The full sync that is held back is wanted again.
    fn wants_full_sync(&self);
}

/// The caller's next action outside of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Feed an input.
    Receive,
    /// Begin a transaction.
    Begin,
}

/// The caller's next action within a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Feed an input, and write again.
    Receive,
    /// Commit the transaction.
    Commit {
        /// Wait until a power failure cannot undo it.
        to_disk: bool,
    },
    /// Drop the transaction.
    Drop,
}

#[derive(Debug)]
enum Phase {
    /// No connection, or one that is of no use. Events are discarded.
    Idle,
    /// A full sync in one transaction; `sync` is set once that has begun.
    FullSync { sync: Option<Box<FullSync>>, context: (String, String) },
    /// Changes after the full sync.
    Following,
}

/// A complete transaction that is not committed yet.
#[derive(Debug)]
struct Uncommitted {
    meta: ReplicaMeta,
    names: u64,
    /// Set for a full sync, with the master's name.
    report: Option<(SyncReport, String)>,
    /// The last barrier among the events.
    asked: Option<Duration>,
}

/// State machine of the writer.
#[derive(Debug)]
pub struct WriterLogic {
    accept_after: Duration,
    applier: ChangeApplier,
    phase: Phase,
    inputs: VecDeque<StreamInput>,
    /// Changes of the transaction that is due or under way.
    batch: Vec<Event>,
    /// The transaction has been repeated.
    repeated: bool,
    uncommitted: Option<Uncommitted>,
    /// Metadata of the last commit.
    meta: ReplicaMeta,
}

impl WriterLogic {
    /// Follows a master from `now` on. `meta` is what the store has.
    pub fn new(accept_after: Duration, meta: ReplicaMeta, now: Duration) -> Self {
        Self {
            accept_after,
            applier: ChangeApplier::new(accept_after, now),
            phase: Phase::Idle,
            inputs: VecDeque::new(),
            batch: Vec::new(),
            repeated: false,
            uncommitted: None,
            meta,
        }
    }

    /// Adds an input.
    pub fn feed(&mut self, input: StreamInput) {
        self.inputs.push_back(input);
    }

    /// Whether inputs that wait may be fed before the next step: one transaction writes several.
    pub fn has_room(&self) -> bool {
        let waiting = |input: &StreamInput| match input {
            StreamInput::Events(events) => Some(events.len()),
            StreamInput::Connected { .. } | StreamInput::Disconnected => None,
        };
        let waiting: Option<usize> = self.inputs.iter().map(waiting).sum();
        matches!(self.phase, Phase::Following) && waiting.is_some_and(|events| events < BATCH)
    }

    /// Whether inputs wait for a step.
    pub fn has_input(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// Takes inputs up to the next transaction.
    ///
    /// # Errors
    ///
    /// If the metadata cannot be read.
    pub fn next<S: CommittedMeta>(
        &mut self,
        store: &S,
        now: Now,
        publish: &impl Publish,
    ) -> Result<Next, S::Error> {
        if !self.batch.is_empty() {
            // Not committed yet: the transaction is repeated.
            return Ok(Next::Begin);
        }
        while let Some(input) = self.inputs.pop_front() {
            match (input, &self.phase) {
                (StreamInput::Connected { master, release }, _) => {
                    self.phase = Phase::FullSync { sync: None, context: (master, release) };
                    return Ok(Next::Begin);
                }
                (StreamInput::Disconnected, _) => self.phase = Phase::Idle,
                (StreamInput::Events(events), Phase::Following) => {
                    let events = self.with_waiting(events);
                    if self.is_worth_a_transaction(&events, now.monotonic) {
                        (self.batch, self.repeated) = (events, false);
                        return Ok(Next::Begin);
                    }
                    if let Some(asked) = last_barrier(&events) {
                        self.barrier(asked, store, now.monotonic, publish)?;
                    }
                }
                (StreamInput::Events(_), _) => {}
            }
        }
        Ok(Next::Receive)
    }

    /// Writes into a transaction: the next inputs of a full sync, or a batch of changes.
    ///
    /// # Errors
    ///
    /// An error of the transaction, which must be dropped.
    pub fn write<T: Transaction>(
        &mut self,
        txn: &mut T,
        now: Now,
        publish: &impl Publish,
    ) -> Result<Write, T::Error> {
        match self.phase {
            Phase::Idle => Ok(Write::Drop),
            Phase::FullSync { .. } => self.write_full_sync(txn, now, publish),
            Phase::Following => self.write_changes(txn, now, publish),
        }
    }

    fn write_full_sync<T: Transaction>(
        &mut self,
        txn: &mut T,
        now: Now,
        publish: &impl Publish,
    ) -> Result<Write, T::Error> {
        let Phase::FullSync { sync, context: (master, release) } = &mut self.phase else {
            return Ok(Write::Drop);
        };
        let mut reading = match sync.take() {
            Some(reading) => reading,
            None => Box::new(FullSync::begin(txn)?),
        };
        while let Some(input) = self.inputs.pop_front() {
            let StreamInput::Events(events) = input else {
                self.inputs.push_front(input);
                self.phase = Phase::Idle;
                return Ok(Write::Drop);
            };
            let mut events = events.into_iter();
            while let Some(event) = events.next() {
                match event {
                    Event::Record(name, record) => {
                        reading.record(txn, &name, &record, now.clock)?
                    }
                    Event::Listed => {
                        let passed = self.applier.passed(now.monotonic);
                        let context = SyncContext { master, release, now: now.clock, passed };
                        let report = reading.finish(txn, &context, self.accept_after)?;
                        publish.synchronising(&report);
                        let (meta, names) = (txn.about()?, txn.names()?);
                        let report = Some((report, std::mem::take(master)));
                        self.uncommitted = Some(Uncommitted { meta, names, report, asked: None });
                        self.inputs.push_front(StreamInput::Events(events.collect()));
                        return Ok(Write::Commit { to_disk: true });
                    }
                    // The stream has neither before the end of its list.
                    Event::Deleted(_) | Event::Current { .. } => {}
                }
            }
        }
        *sync = Some(reading);
        Ok(Write::Receive)
    }

    fn write_changes<T: Transaction>(
        &mut self,
        txn: &mut T,
        now: Now,
        publish: &impl Publish,
    ) -> Result<Write, T::Error> {
        publish.changing(&self.batch);
        for event in &self.batch {
            if let Event::Record(name, record) = event {
                publish.replacing(name, txn.get(name)?.as_ref(), record);
            }
            self.applier.apply(txn, event, now.clock)?;
        }
        let asked = last_barrier(&self.batch);
        let as_of = asked.map(|asked| now.clock_at(asked));
        let (meta, names) = self.applier.finish(txn, as_of, now.monotonic, now.clock)?;
        if let Some(loss) = &meta.held_back {
            publish.holding_back(loss);
        }
        self.uncommitted = Some(Uncommitted { meta, names, report: None, asked });
        Ok(Write::Commit { to_disk: false })
    }

    /// Whether a transaction of changes that found the store full is repeated. A full sync is not:
    /// its events are gone.
    pub fn may_repeat(&mut self) -> bool {
        let may = !self.batch.is_empty() && !self.repeated;
        self.repeated = true;
        may
    }

    /// The transaction is committed. Returns the report of a full sync, with the master's name.
    ///
    /// # Errors
    ///
    /// If the metadata cannot be read.
    pub fn committed<S: CommittedMeta>(
        &mut self,
        store: &S,
        now: Duration,
        publish: &impl Publish,
    ) -> Result<Option<(SyncReport, String)>, S::Error> {
        self.batch.clear();
        let Some(Uncommitted { meta, names, report, asked }) = self.uncommitted.take() else {
            return Ok(None);
        };
        if let Some((report, _)) = &report {
            self.applier.listed(report, names, now);
            self.phase = Phase::Following;
        }
        publish.committed(&meta, names);
        self.meta = meta;
        if let Some(asked) = asked {
            self.barrier(asked, store, now, publish)?;
        }
        Ok(report)
    }

    /// The store failed. Inputs are discarded up to the next connection.
    pub fn abandon(&mut self) {
        (self.phase, self.uncommitted) = (Phase::Idle, None);
        self.batch.clear();
        let connects = |input: &StreamInput| matches!(input, StreamInput::Connected { .. });
        let next = self.inputs.iter().position(connects);
        self.inputs.drain(..next.unwrap_or(self.inputs.len()));
    }

    /// Adds the events that wait behind these, as many as one transaction may have.
    fn with_waiting(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        while events.len() < BATCH {
            match self.inputs.pop_front() {
                Some(StreamInput::Events(more)) => events.extend(more),
                Some(other) => {
                    self.inputs.push_front(other);
                    break;
                }
                None => break,
            }
        }
        events
    }

    fn is_worth_a_transaction(&self, events: &[Event], now: Duration) -> bool {
        let is_change = |event: &Event| matches!(event, Event::Record(..) | Event::Deleted(_));
        events.iter().any(is_change)
            || (last_barrier(events).is_some() && self.applier.wants_stamp(&self.meta, now))
    }

    /// A barrier was answered, and all events before it are committed.
    fn barrier<S: CommittedMeta>(
        &mut self,
        asked: Duration,
        store: &S,
        now: Duration,
        publish: &impl Publish,
    ) -> Result<(), S::Error> {
        publish.barrier(asked);
        if self.applier.wants_list(&store.committed_meta()?, now) {
            publish.wants_full_sync();
        }
        Ok(())
    }
}

fn last_barrier(events: &[Event]) -> Option<Duration> {
    events.iter().rev().find_map(|event| match event {
        Event::Current { asked } => Some(*asked),
        _ => None,
    })
}
