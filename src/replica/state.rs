//! How the replica stands: what of it may be believed.

use std::time::{Duration, SystemTime};

use super::recent_deletions::RecentDeletions;
use super::{HeldBack, ReplicaDoubt, ReplicaMeta};
use crate::model::name::MailboxName;
use crate::model::unsettled::Flip;

/// The last barrier may be so old. They are asked for every 2 to 3 seconds.
const BARRIER: Duration = Duration::from_secs(10);

/// How long a name that was deleted may be on its way to another: between DELETE and RESERVE of a
/// rename neither name exists (Cyrus `mboxlist_renamemailbox`).
const RENAME_WINDOW: Duration = Duration::from_secs(10);

/// How fresh the replica is. Times are as in [`ReplicaState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// No full list has ever been taken over.
    Never,
    /// It has every change that the master knew at `as_of`, a few seconds ago.
    Fresh {
        /// When the last barrier that was answered was sent.
        as_of: Duration,
    },
    /// Changes since then may be missing.
    Stale {
        /// When the last barrier that was answered was sent; `None` if the connection has not been
        /// up since the start: then it was before, at [`ReplicaMeta::as_of`].
        since: Option<Duration>,
    },
}

/// What is known of the replica, in memory, beside what is stored. One thread keeps it up to date,
/// in this order:
///
/// 1. [`deleted`](Self::deleted), [`listed`](Self::listed) and [`held_back`](Self::held_back), before
///    the batch with the deletion, the list or the loss is committed;
/// 2. [`stored`](Self::stored), after it is;
/// 3. [`current`](Self::current), when everything that was told before the barrier is committed.
#[derive(Debug)]
pub struct ReplicaState {
    /// What the clock said at the moment since which durations are counted.
    epoch: SystemTime,
    about: ReplicaMeta,
    names: u64,
    connected: bool,
    /// When the last connection was gone.
    lost: Option<Duration>,
    /// Since the start.
    as_of: Option<Duration>,
    deleted: RecentDeletions,
}

/// How the replica stands, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// `never`, `held-back`, `fresh` or `stale`.
    pub state: &'static str,
    /// Why no miss is believed now, in words; `None` if misses are.
    pub doubt: Option<ReplicaDoubt>,
    /// When the last full list was taken over.
    pub synchronised: Option<SystemTime>,
    /// How long ago the last barrier that was answered was sent, by this process or one before it.
    pub age: Option<Duration>,
    /// How many names there are.
    pub names: u64,
    /// The master, as its banner names it; empty if there has been none.
    pub master: String,
    /// Its release, as its banner has it.
    pub release: String,
    /// The loss that is held back.
    pub held_back: Option<HeldBack>,
    /// How many names are missing.
    pub missing: u64,
    /// How many records of the last list could not be used, as far as that is known.
    pub unusable: Option<u64>,
    /// Mailboxes that two backends claim in turn.
    pub flipping: Vec<Flip>,
}

impl ReplicaState {
    /// Of a replica that has been opened and is not connected. `epoch` is what the clock said at the
    /// moment since which durations are counted.
    pub fn new(about: ReplicaMeta, names: u64, epoch: SystemTime) -> Self {
        let deleted = RecentDeletions::new(RENAME_WINDOW);
        Self { epoch, about, names, connected: false, lost: None, as_of: None, deleted }
    }

    /// A batch that is about to be committed holds this loss back. Who sees the batch must not
    /// believe a miss any more.
    pub fn held_back(&mut self, loss: &HeldBack) {
        self.about.held_back = Some(loss.clone());
    }

    /// This has been committed.
    pub fn stored(&mut self, about: ReplicaMeta, names: u64) {
        self.about = about;
        self.names = names;
    }

    /// The master has said that the name is deleted.
    pub fn deleted(&mut self, name: &MailboxName, now: Duration) {
        self.deleted.put(name, now);
    }

    /// A full list is about to be committed. A name that it does not have may be in the middle of a
    /// rename, and nobody has told of its deletion: it may even have been made while there was no
    /// connection.
    pub fn listed(&mut self, now: Duration) {
        self.deleted.put_all(now);
    }

    /// A barrier that was asked for at `asked` has been answered, and everything that was told before
    /// it is committed. Also says that the connection is up, unless it was asked for over one that is
    /// gone: the thread that commits may be far behind.
    pub fn current(&mut self, asked: Duration) {
        self.connected |= Some(asked) > self.lost;
        self.as_of = self.as_of.max(Some(asked));
    }

    /// The connection is gone.
    pub fn lost(&mut self, now: Duration) {
        self.connected = false;
        self.lost = Some(now);
    }

    /// The stored part, as it was committed last.
    pub fn about(&self) -> &ReplicaMeta {
        &self.about
    }

    /// How many names there are.
    pub fn names(&self) -> u64 {
        self.names
    }

    /// How fresh it is.
    pub fn freshness(&self, now: Duration) -> Freshness {
        if self.about.synchronised.is_none() {
            return Freshness::Never;
        }
        match self.as_of {
            Some(as_of) if self.connected && now.saturating_sub(as_of) <= BARRIER => {
                Freshness::Fresh { as_of }
            }
            since => Freshness::Stale { since },
        }
    }

    /// Whether a miss may be believed, if the master says the same. `Err` says why not.
    pub fn misses(&self, now: Duration) -> Result<(), ReplicaDoubt> {
        self.about.misses(self.names)?;
        match self.freshness(now) {
            Freshness::Fresh { .. } => Ok(()),
            _ => Err(self.stale(now)),
        }
    }

    /// Whether the name was deleted so lately that it may be in the middle of a rename: the master is
    /// then asked for it twice, with a gap. If too many were, or a list has just come, this is so for
    /// all.
    pub fn lately_deleted(&self, name: &MailboxName, now: Duration) -> bool {
        self.deleted.has(name, now)
    }

    /// Whether what is found may be believed, if it may be so old; `None`: however old. `Err` says
    /// why not.
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

    /// How long ago the last barrier that was answered was sent.
    pub fn age(&self, now: Duration) -> Option<Duration> {
        match self.as_of {
            Some(as_of) => Some(now.saturating_sub(as_of)),
            None => {
                let clock = self.epoch + now;
                Some(clock.duration_since(self.about.as_of?).unwrap_or_default())
            }
        }
    }

    /// All of it.
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
