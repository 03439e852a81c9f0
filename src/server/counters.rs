//! Counters of answers.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use serde::Serialize;

use crate::routing::route::Decision;

/// Number of counter sets. Each thread counts in one of them, so that threads do not contend for a cache
/// line.
const SHARDS: usize = 16;

/// A counter set with its own cache lines: processors fetch two lines of 64 bytes at a time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    deliver: AtomicU64,
    unknown: AtomicU64,
    deferred: AtomicU64,
    refused: AtomicU64,
    foreign: AtomicU64,
    confirmations: AtomicU64,
    asked_again: AtomicU64,
}

/// Counters since the start of the daemon. Shared by threads.
#[derive(Debug, Default)]
pub(super) struct Counters([Shard; SHARDS]);

/// Values of the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// All answers: the sum of the next five.
    pub requests: u64,
    /// Recipients with a backend.
    pub deliver: u64,
    /// Recipients that do not exist.
    pub unknown: u64,
    /// Deferred recipients.
    pub deferred: u64,
    /// Recipients whose mailbox accepts no mail.
    pub refused: u64,
    /// Recipients of other domains, and keys that are no addresses.
    pub foreign: u64,
    /// Misses that the master or the slave was asked to confirm.
    pub confirmations: u64,
    /// Recently changed names in the lists for which the master was asked.
    pub asked_again: u64,
}

thread_local! {
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Counters {
    fn mine(&self) -> &Shard {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mine = MINE.get().unwrap_or_else(|| {
            let mine = NEXT.fetch_add(1, Relaxed) % SHARDS;
            MINE.set(Some(mine));
            mine
        });
        self.0.get(mine).unwrap_or(&self.0[0])
    }

    /// Counts an answer.
    pub(super) fn decided(&self, decision: &Decision) {
        let shard = self.mine();
        let counter = match decision {
            Decision::Deliver(_) => &shard.deliver,
            Decision::Unknown => &shard.unknown,
            Decision::Deferred(_) => &shard.deferred,
            Decision::Refused(_) => &shard.refused,
            Decision::Foreign => &shard.foreign,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a confirmation.
    pub(super) fn confirming(&self) {
        self.mine().confirmations.fetch_add(1, Relaxed);
    }

    /// Counts a question about a recently changed name.
    pub(super) fn asking_again(&self) {
        self.mine().asked_again.fetch_add(1, Relaxed);
    }

    /// The sums over all sets.
    pub(super) fn counted(&self) -> Counted {
        let mut sums = Counted::default();
        for shard in &self.0 {
            sums.deliver += shard.deliver.load(Relaxed);
            sums.unknown += shard.unknown.load(Relaxed);
            sums.deferred += shard.deferred.load(Relaxed);
            sums.refused += shard.refused.load(Relaxed);
            sums.foreign += shard.foreign.load(Relaxed);
            sums.confirmations += shard.confirmations.load(Relaxed);
            sums.asked_again += shard.asked_again.load(Relaxed);
        }
        sums.requests = sums.deliver + sums.unknown + sums.deferred + sums.refused + sums.foreign;
        sums
    }
}
