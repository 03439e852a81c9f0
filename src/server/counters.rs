//! What was answered, counted.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use serde::Serialize;

use crate::routing::router::Decision;

/// So many sets of counters there are. Each thread counts in one of them, so that two that answer at
/// the same time do not fight for a cache line.
const SHARDS: usize = 16;

/// A set of its own cache lines: processors fetch two of 64 bytes at a time.
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

/// Counts since the daemon began. Shared by threads.
#[derive(Debug, Default)]
pub(super) struct Counters([Shard; SHARDS]);

/// What the counters say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Answers: the sum of the next five.
    pub requests: u64,
    /// Recipients with a backend.
    pub deliver: u64,
    /// Recipients who do not exist.
    pub unknown: u64,
    /// Recipients to be tried later.
    pub deferred: u64,
    /// Recipients who take no mail.
    pub refused: u64,
    /// Recipients of other domains, and keys that are no addresses.
    pub foreign: u64,
    /// Names that the master or the slave was asked to confirm.
    pub confirmations: u64,
    /// Names that the lists have and that changed a moment ago, for which the master was asked.
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

    /// One more answer.
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

    /// One more name to be confirmed.
    pub(super) fn confirming(&self) {
        self.mine().confirmations.fetch_add(1, Relaxed);
    }

    /// One more name that changed a moment ago.
    pub(super) fn asking_again(&self) {
        self.mine().asked_again.fetch_add(1, Relaxed);
    }

    /// The sums.
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
