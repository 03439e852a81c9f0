//! The daemon's writer thread, as `master::writer`: drives the crate's [`WriterLogic`] over the
//! simulated store. Each commit takes time. The process may end wherever it waits.

use std::collections::VecDeque;
use std::time::Duration;

use murder_route::replica::ReplicaMeta;
use murder_route::replica::writer_logic::{Next, StreamInput, Write, WriterLogic};

use crate::daemon::{ACCEPT_AFTER, Shared};
use crate::random::Random;
use crate::store::Snapshot;

pub(crate) struct Writer {
    /// Inputs that wait in the channel.
    pub(crate) inputs: VecDeque<StreamInput>,
    logic: WriterLogic,
    /// The transaction under way.
    txn: Option<Snapshot>,
    commit: Option<Commit>,
    /// Longest time of a commit, in milliseconds.
    pub(crate) disk: u64,
}

/// A commit under way.
struct Commit {
    /// Time at which its next half is done: first the transaction becomes visible, then the writer
    /// is notified of the commit.
    at: Duration,
    to_disk: bool,
    txn: Option<Snapshot>,
}

impl Writer {
    pub(crate) fn new(meta: ReplicaMeta, disk: u64, now: Duration) -> Self {
        Self {
            inputs: VecDeque::new(),
            logic: WriterLogic::new(ACCEPT_AFTER, meta, now),
            txn: None,
            commit: None,
            disk,
        }
    }

    /// Whether another process can write now.
    pub(crate) fn is_idle(&self) -> bool {
        self.commit.is_none() && self.txn.is_none()
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        match &self.commit {
            Some(commit) => Some(commit.at),
            None if self.inputs.is_empty() && !self.logic.has_input() => None,
            None => Some(Duration::ZERO),
        }
    }

    /// Runs up to the next wait: for an input or for the disk.
    pub(crate) fn run(&mut self, shared: &Shared, random: &mut Random, now: Duration) {
        if let Some(commit) = self.commit.take() {
            return match now < commit.at {
                true => self.commit = Some(commit),
                false => self.committed(commit, shared, random, now),
            };
        }
        while let Some(receives) = self.step(shared, random, now) {
            if receives && !self.receive() {
                return;
            }
        }
    }

    /// Performs the next step. Returns whether the step after it needs an input; `None`: a commit
    /// is under way.
    fn step(&mut self, shared: &Shared, random: &mut Random, now: Duration) -> Option<bool> {
        let time = shared.now_by_both(now);
        let Some(mut txn) = self.txn.take() else {
            let Ok(next) = self.logic.next(shared, time, shared);
            if next == Next::Begin {
                self.txn = Some(shared.store().begin());
            }
            return Some(next == Next::Receive);
        };
        let Ok(written) = self.logic.write(&mut txn.table, time, shared);
        match written {
            Write::Drop => Some(false),
            Write::Receive => {
                self.txn = Some(txn);
                Some(true)
            }
            Write::Commit { to_disk } => {
                let at = self.when(random, now);
                self.commit = Some(Commit { at, to_disk, txn: Some(txn) });
                None
            }
        }
    }

    fn receive(&mut self) -> bool {
        let Some(input) = self.inputs.pop_front() else { return false };
        self.logic.feed(input);
        while self.logic.has_room()
            && let Some(input) = self.inputs.pop_front()
        {
            self.logic.feed(input);
        }
        true
    }

    fn when(&self, random: &mut Random, now: Duration) -> Duration {
        now + Duration::from_millis(random.below(self.disk + 1))
    }

    fn committed(
        &mut self,
        mut commit: Commit,
        shared: &Shared,
        random: &mut Random,
        now: Duration,
    ) {
        if let Some(txn) = commit.txn.take() {
            match commit.to_disk {
                true => shared.store().commit_list(txn, now),
                false => shared.store().commit(txn, now),
            }
            commit.at = self.when(random, now);
            self.commit = Some(commit);
            return;
        }
        let Ok(_) = self.logic.committed(shared, now, shared);
    }
}
