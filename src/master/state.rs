//! State of a replica that follows the master, shared by the stream, the writer and the lookups.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tracing::info;

use super::upstream::Clock;
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::name::MailboxName;
use crate::model::record::{Record, State};
use crate::model::unsettled::Flips;
use crate::mupdate::{Event, Failure, Limit};
use crate::replica::writer_logic::{Now, Publish};
use crate::replica::{
    HeldBack, ReplicaDoubt, ReplicaMeta, ReplicaState, ReplicaStatus, SourceTrust, SyncReport,
};

/// Longest wait for a barrier.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(4);

/// The connection that the replica follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Name of the master, from its banner; `None`: there is no connection.
    pub server: Option<String>,
    /// Why the last attempt failed, if there is no connection.
    pub failure: Option<String>,
    /// Number of connections made.
    pub connections: u64,
    /// Number of changes received.
    pub changes: u64,
    /// Number of records in the last full sync whose location cannot be used.
    pub doubtful: u64,
    /// Number of records in the last full sync with a name that no mailbox can have.
    pub skipped: u64,
}

/// Why a full sync is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncReason {
    /// One is held back, and its time has come or it was accepted.
    HeldBack,
    /// The replica could not be written.
    Unwritten,
}

/// State of a replica that follows the master.
#[derive(Debug)]
pub(super) struct FollowerState {
    clock: Clock,
    max_age: Option<Duration>,
    /// Limit of the names in a full sync; `None`: by the number of names in the replica.
    max_names: Option<u64>,
    replica: Mutex<ReplicaState>,
    link: Mutex<Link>,
    /// When the last barrier that was answered was requested.
    barrier: watch::Sender<Option<Duration>>,
    sync_request: Mutex<Option<SyncReason>>,
    sync_requested: Notify,
}

#[derive(Debug, Default)]
struct Link {
    server: Option<String>,
    /// How the last connection or attempt failed; cleared by the next barrier.
    failure: Option<Failure>,
    /// Why the replica could not be written; cleared by the next commit.
    disk: Option<String>,
    connections: u64,
    changes: u64,
    doubtful: u64,
    skipped: u64,
    flips: Flips,
}

impl Link {
    /// Why there is no connection, if there is none.
    fn failure_text(&self) -> Option<String> {
        let failure = self.failure.as_ref().filter(|_| self.server.is_none());
        failure.map(ToString::to_string)
    }
}

impl FollowerState {
    pub(super) fn new(clock: Clock, replica: ReplicaState) -> Self {
        Self {
            clock,
            max_age: None,
            max_names: None,
            replica: Mutex::new(replica),
            link: Mutex::default(),
            barrier: watch::Sender::new(None),
            sync_request: Mutex::new(None),
            sync_requested: Notify::new(),
        }
    }

    /// Sets the limits of the configuration.
    pub(super) fn limited(self, max_age: Option<Duration>, max_names: Option<u64>) -> Self {
        Self { max_age, max_names, ..self }
    }

    fn replica(&self) -> MutexGuard<'_, ReplicaState> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time by the monotonic clock.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Time by both clocks.
    pub(super) fn now_by_both(&self) -> Now {
        Now { monotonic: self.now(), clock: SystemTime::now() }
    }

    /// Metadata of the last commit.
    pub(super) fn meta(&self) -> ReplicaMeta {
        self.replica().about().clone()
    }

    /// Reason why misses are not believed, if so, and what keeps the replica from being synchronised.
    fn doubt(&self) -> Option<ReplicaDoubt> {
        let doubt = self.replica().misses(self.now()).err()?;
        let link = self.link();
        match link.disk.clone().or_else(|| link.failure_text()) {
            Some(why) => Some(ReplicaDoubt::Because(Box::new(doubt), why)),
            None => Some(doubt),
        }
    }

    /// Reason why "absent" from a master is not believed, if so. `asker_up`: time at which the connection
    /// that reported it was made.
    ///
    /// A master that was begun anew without its list calls every name absent. Its present list was
    /// examined, and held back if it had lost much, only if the stream has had a barrier since
    /// that connection was made.
    pub(super) fn doubts_absent(&self, asker_up: Option<Duration>) -> Option<ReplicaDoubt> {
        let behind = || !self.replica().has_barrier_since(asker_up);
        self.doubt().or_else(|| behind().then_some(ReplicaDoubt::StreamBehind))
    }

    /// Whether the name was deleted recently, or any name may have been.
    pub(super) fn recently_deleted(&self, name: &MailboxName) -> bool {
        self.replica().lately_deleted(name, self.now())
    }

    /// Snapshot for the `status` command.
    pub(super) fn status(&self) -> ReplicaStatus {
        let status = self.replica().status(self.now());
        let (unusable, flipping) = {
            let link = self.link();
            (link.doubtful + link.skipped, link.flips.all(self.now()))
        };
        ReplicaStatus { doubt: self.doubt(), unusable: Some(unusable), flipping, ..status }
    }

    /// Snapshot of the connection.
    pub(super) fn link_status(&self) -> LinkStatus {
        let link = self.link();
        LinkStatus {
            server: link.server.clone(),
            failure: link.failure_text(),
            connections: link.connections,
            changes: link.changes,
            doubtful: link.doubtful,
            skipped: link.skipped,
        }
    }

    /// A connection to this master was made.
    pub(super) fn connected(&self, server: &str) {
        let mut link = self.link();
        link.server = Some(server.to_owned());
        link.connections += 1;
    }

    /// The connection is gone.
    pub(super) fn disconnected(&self) {
        self.link().server = None;
        self.replica().lost(self.now());
    }

    /// Records why a connection failed. Returns whether that differs from the last failure.
    pub(super) fn failed(&self, failure: &Failure) -> bool {
        let mut link = self.link();
        let new = link.failure.as_ref() != Some(failure);
        link.failure = Some(failure.clone());
        new
    }

    /// Records why the replica cannot be written.
    pub(super) fn set_disk_failure(&self, why: String) {
        self.link().disk = Some(why);
    }

    /// The replica cannot be written: requests a full sync, which is to write it anew.
    pub(super) fn unwritten(&self, why: String) {
        self.set_disk_failure(why);
        self.replica().lost(self.now());
        self.request_sync(SyncReason::Unwritten);
    }

    /// Maximum size of the master's list.
    pub(super) fn list_limit(&self) -> Limit {
        match self.max_names {
            Some(names) => Limit::of_names(names),
            None => Limit::by_present(self.replica().names()),
        }
    }

    /// Records how much of a full sync could not be used.
    pub(super) fn unusable(&self, doubtful: u64, skipped: u64) {
        let mut link = self.link();
        (link.doubtful, link.skipped) = (doubtful, skipped);
    }

    /// Whether a barrier requested since then was answered, and all events before it are committed.
    pub(super) fn current_since(&self, moment: Duration) -> bool {
        self.barrier.borrow().is_some_and(|asked| asked >= moment)
    }

    /// Waits for a barrier that is requested after this call.
    pub(super) async fn caught_up(&self) -> Result<(), Doubt> {
        let now = self.now();
        let mut barrier = self.barrier.subscribe();
        let reached = barrier.wait_for(|asked| asked.is_some_and(|asked| asked >= now));
        match tokio::time::timeout(BARRIER_TIMEOUT, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let limit = BARRIER_TIMEOUT.as_secs();
                let text = format_args!("no barrier was answered within {limit} s");
                Err(Doubt::new(DoubtKind::TimedOut, text))
            }
        }
    }

    fn request_sync(&self, why: SyncReason) {
        *self.sync_request.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.sync_requested.notify_one();
    }

    /// Waits for a request for a full sync.
    pub(super) async fn sync_wanted(&self) -> SyncReason {
        loop {
            if let Some(why) = self.take_sync_request() {
                return why;
            }
            self.sync_requested.notified().await;
        }
    }

    /// Takes a request for a full sync. A new connection, which begins with one, fulfils it.
    pub(super) fn take_sync_request(&self) -> Option<SyncReason> {
        self.sync_request.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Publish for FollowerState {
    fn changing(&self, events: &[Event]) {
        let now = self.now();
        let mut replica = self.replica();
        let mut changes = 0;
        for event in events {
            match event {
                Event::Record(..) => {}
                Event::Deleted(name) => replica.deleted(name, now),
                Event::Listed | Event::Current { .. } => continue,
            }
            changes += 1;
        }
        drop(replica);
        self.link().changes += changes;
    }

    fn replacing(&self, name: &MailboxName, before: Option<&Record>, record: &Record) {
        let now = self.now();
        let mut link = self.link();
        match (before, record) {
            (
                Some(Record { state: State::Active, server: Some(before), .. }),
                Record { state: State::Active, server: Some(server), .. },
            ) => link.flips.changed(name, before, server, now),
            (_, Record { state: State::Active, .. }) => {}
            _ => link.flips.forget(name),
        }
    }

    fn synchronising(&self, report: &SyncReport) {
        let mut replica = self.replica();
        replica.listed(self.now());
        if let Some(loss) = &report.held_back {
            replica.held_back(loss);
        }
    }

    fn holding_back(&self, loss: &HeldBack) {
        self.replica().held_back(loss);
    }

    fn committed(&self, meta: &ReplicaMeta, names: u64) {
        self.replica().stored(meta.clone(), names);
        self.link().disk = None;
    }

    fn barrier(&self, asked: Duration) {
        self.replica().current(asked);
        self.link().failure = None;
        self.barrier.send_replace(Some(asked));
    }

    fn wants_full_sync(&self) {
        info!("MUPDATE master: requesting its list again: the last one is held back");
        self.request_sync(SyncReason::HeldBack);
    }
}

impl SourceTrust for FollowerState {
    fn hits(&self) -> Result<(), ReplicaDoubt> {
        match self.max_age {
            None => Ok(()),
            max_age => self.replica().positives(self.now(), max_age),
        }
    }

    fn misses(&self) -> Result<(), ReplicaDoubt> {
        self.doubt().map_or(Ok(()), Err)
    }

    fn status(&self) -> Option<ReplicaStatus> {
        Some(FollowerState::status(self))
    }
}
