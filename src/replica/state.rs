//! State of the replica: how fresh it is, and what of it is believed.

use std::time::{Duration, SystemTime};

use super::recent_deletions::RecentDeletions;
use super::{HeldBack, ReplicaDoubt, ReplicaMeta};
use crate::model::name::MailboxName;
use crate::model::unsettled::Flip;

/// Maximum age of the last barrier of a fresh replica. They are requested every 2 to 3 seconds.
const MAX_BARRIER_AGE: Duration = Duration::from_secs(10);

/// Maximum time between DELETE and RESERVE of a rename, in which neither name exists (Cyrus
/// `mboxlist_renamemailbox`).
const RENAME_WINDOW: Duration = Duration::from_secs(10);

/// Freshness of the replica. Times are those of [`ReplicaState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Never synchronised.
    Never,
    /// It has every change that the master had at `as_of`, a few seconds ago.
    Fresh {
        /// When the last answered barrier was sent.
        as_of: Duration,
    },
    /// Changes since then may be missing.
    Stale {
        /// When the last answered barrier was sent; `None` if there was none since the start: then at
        /// [`ReplicaMeta::as_of`].
        since: Option<Duration>,
    },
}

/// State of the replica in memory, beside the stored metadata. One thread updates it in this order:
///
/// 1. [`deleted`](Self::deleted), [`listed`](Self::listed) and [`held_back`](Self::held_back), before
///    the transaction with the deletion, the full sync or the loss is committed;
/// 2. [`stored`](Self::stored), after it is;
/// 3. [`current`](Self::current), when everything before the barrier is committed.
#[derive(Debug)]
pub struct ReplicaState {
    /// Wall clock time of the moment since which durations are counted.
    epoch: SystemTime,
    about: ReplicaMeta,
    names: u64,
    connected: bool,
    /// When the last connection was lost.
    lost: Option<Duration>,
    /// When the last answered barrier was sent, since the start.
    as_of: Option<Duration>,
    deleted: RecentDeletions,
}

/// Snapshot of the state, for the `status` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// `never`, `held-back`, `fresh` or `stale`.
    pub state: &'static str,
    /// Reason why misses are not believed; `None`: misses are believed.
    pub doubt: Option<ReplicaDoubt>,
    /// Time of the last full sync.
    pub synchronised: Option<SystemTime>,
    /// Time since the last answered barrier was sent, by this process or one before it.
    pub age: Option<Duration>,
    /// Number of names.
    pub names: u64,
    /// Name of the master, from its banner; empty: none yet.
    pub master: String,
    /// Release of the master, from its banner.
    pub release: String,
    /// The loss that is held back.
    pub held_back: Option<HeldBack>,
    /// Number of missing names.
    pub missing: u64,
    /// Number of records of the last full sync that could not be used; `None`: unknown.
    pub unusable: Option<u64>,
    /// Mailboxes that two backends claim in turn.
    pub flipping: Vec<Flip>,
}

impl ReplicaState {
    /// State of a replica that was opened, before the first connection. `epoch` is the wall clock time
    /// of the moment since which durations are counted.
    pub fn new(about: ReplicaMeta, names: u64, epoch: SystemTime) -> Self {
        let deleted = RecentDeletions::new(RENAME_WINDOW);
        Self { epoch, about, names, connected: false, lost: None, as_of: None, deleted }
    }

    /// A transaction that is about to be committed holds this loss back. Once it is visible, no miss may
    /// be believed.
    pub fn held_back(&mut self, loss: &HeldBack) {
        self.about.held_back = Some(loss.clone());
    }

    /// A transaction with this metadata was committed.
    pub fn stored(&mut self, about: ReplicaMeta, names: u64) {
        self.about = about;
        self.names = names;
    }

    /// The stream reported the deletion of this name.
    pub fn deleted(&mut self, name: &MailboxName, now: Duration) {
        self.deleted.put(name, now);
    }

    /// A full sync is about to be committed. A name that it lacks may be in the middle of a rename whose
    /// deletion was in no stream: the name may even have been created while there was no connection.
    pub fn listed(&mut self, now: Duration) {
        self.deleted.put_all(now);
    }

    /// The barrier sent at `asked` was answered, and everything before it is committed. The connection
    /// is up then, unless the barrier is of an earlier one: the thread that commits may be far behind.
    pub fn current(&mut self, asked: Duration) {
        self.connected |= Some(asked) > self.lost;
        self.as_of = self.as_of.max(Some(asked));
    }

    /// The connection is gone.
    pub fn lost(&mut self, now: Duration) {
        self.connected = false;
        self.lost = Some(now);
    }

    /// Metadata of the last commit.
    pub fn about(&self) -> &ReplicaMeta {
        &self.about
    }

    /// Number of names.
    pub fn names(&self) -> u64 {
        self.names
    }

    /// Freshness at `now`.
    pub fn freshness(&self, now: Duration) -> Freshness {
        if self.about.synchronised.is_none() {
            return Freshness::Never;
        }
        match self.as_of {
            Some(as_of) if self.connected && now.saturating_sub(as_of) <= MAX_BARRIER_AGE => {
                Freshness::Fresh { as_of }
            }
            since => Freshness::Stale { since },
        }
    }

    /// Whether a miss may be believed once the master confirms it.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn misses(&self, now: Duration) -> Result<(), ReplicaDoubt> {
        self.about.misses(self.names)?;
        match self.freshness(now) {
            Freshness::Fresh { .. } => Ok(()),
            _ => Err(self.stale(now)),
        }
    }

    /// Whether the name was deleted so recently that it may be in the middle of a rename: the master is
    /// then asked for it twice, with a gap. After very many deletions or a full sync this holds for all
    /// names.
    pub fn lately_deleted(&self, name: &MailboxName, now: Duration) -> bool {
        self.deleted.has(name, now)
    }

    /// Whether a hit may be believed, with this maximum age; `None`: any age.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn positives(&self, now: Duration, max_age: Option<Duration>) -> Result<(), ReplicaDoubt> {
        match max_age {
            Some(max_age) if self.age(now).is_none_or(|age| age > max_age) => Err(self.stale(now)),
            _ => Ok(()),
        }
    }

    /// Whether a barrier was answered that was sent after `moment`; `None`: never.
    pub fn has_barrier_since(&self, moment: Option<Duration>) -> bool {
        moment.is_some() && self.as_of > moment
    }

    /// Time since the last answered barrier was sent.
    pub fn age(&self, now: Duration) -> Option<Duration> {
        match self.as_of {
            Some(as_of) => Some(now.saturating_sub(as_of)),
            None => {
                let clock = self.epoch + now;
                Some(clock.duration_since(self.about.as_of?).unwrap_or_default())
            }
        }
    }

    /// Snapshot for the `status` command.
    pub fn status(&self, now: Duration) -> ReplicaStatus {
        let state = match self.freshness(now) {
            _ if self.about.held_back.is_some() => "held-back",
            Freshness::Never => "never",
            Freshness::Fresh { .. } => "fresh",
            Freshness::Stale { .. } => "stale",
        };
        ReplicaStatus {
            state,
            doubt: self.misses(now).err(),
            synchronised: self.about.synchronised,
            age: self.age(now),
            names: self.names,
            master: self.about.master.clone(),
            release: self.about.release.clone(),
            held_back: self.about.held_back.clone(),
            missing: self.about.missing,
            unusable: None,
            flipping: Vec::new(),
        }
    }

    fn stale(&self, now: Duration) -> ReplicaDoubt {
        let since = match self.as_of {
            Some(as_of) => Some(self.epoch + as_of),
            None => self.about.as_of,
        };
        let Some(since) = since else { return ReplicaDoubt::NeverSynchronised };
        let age = Some(self.age(now).unwrap_or_default());
        ReplicaDoubt::Stale { since, age, disconnected: !self.connected }
    }
}
