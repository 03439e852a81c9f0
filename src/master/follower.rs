//! A replica that is kept current: the stream and the writer together, and what is known of both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle as Task, spawn_blocking};

use super::upstream::{Clock, Upstream};
use super::{stream, writer};
use crate::config::ReplicaSettings;
use crate::lists::combined::SourceTrust;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::name::MailboxName;
use crate::model::record::{Record, State};
use crate::model::unsettled::Flips;
use crate::mupdate::{Event, Failure, Limit};
use crate::replica::store::{Error, Place, ReplicaList};
use crate::replica::{HeldBack, Outcome, ReplicaMeta, ReplicaState, Status};

/// So many bunches wait for the writer, each of a thousand events at most.
const QUEUE: usize = 64;

/// How long a barrier is waited for.
const BARRIER: Duration = Duration::from_secs(4);

/// A replica that follows the master until it is dropped.
#[derive(Debug)]
pub struct Replica {
    list: ReplicaList,
    shared: Arc<Shared>,
    stream: Task<()>,
    writer: Option<JoinHandle<()>>,
}

/// How the connection that it follows by stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// The master, as it calls itself; `None`: there is no connection.
    pub server: Option<String>,
    /// Why the last attempt failed, if there is no connection.
    pub failure: Option<String>,
    /// How often the connection was made.
    pub connections: u64,
    /// How many changes the stream has told.
    pub changes: u64,
    /// How many records of the last list had a location that cannot be used.
    pub doubtful: u64,
    /// How many records of the last list had no name that a mailbox can have.
    pub skipped: u64,
}

/// Why the list is wanted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One is held back, and has waited long enough or has been accepted.
    HeldBack,
    /// The replica could not be written.
    Unwritten,
}

/// What stream, writer and those who answer share.
#[derive(Debug)]
pub(super) struct Shared {
    clock: Clock,
    max_age: Option<Duration>,
    /// `None`: by the present list.
    max_names: Option<u64>,
    standing: Mutex<ReplicaState>,
    link: Mutex<Link>,
    /// When the last barrier that was answered was asked for.
    barrier: watch::Sender<Option<Duration>>,
    relist: Mutex<Option<Wanted>>,
    relists: Notify,
}

#[derive(Debug, Default)]
struct Link {
    server: Option<String>,
    /// How the last connection or attempt ended, until one has caught up.
    failure: Option<Failure>,
    /// Why the replica could not be written, until it could.
    disk: Option<String>,
    connections: u64,
    changes: u64,
    doubtful: u64,
    skipped: u64,
    flips: Flips,
}

impl Link {
    /// Why there is no connection, if there is none.
    fn why_none(&self) -> Option<String> {
        let failure = self.failure.as_ref().filter(|_| self.server.is_none());
        failure.map(ToString::to_string)
    }
}

impl Replica {
    /// Opens the replica, or makes it, and follows the master into it. What is there is served at
    /// once, also if it cannot be written just now: that is tried again with each list of the master.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If another process follows the master into it, or the directory cannot be written to and has
    /// no list to serve.
    pub fn follow(upstream: &Arc<Upstream>, options: &ReplicaSettings) -> Result<Self, Error> {
        let (place, list, unwritten) = match Place::open_or_begin_anew(&options.directory) {
            Ok((place, anew)) => {
                if let Some(why) = anew {
                    tracing::warn!("the replica begins anew: {why}");
                }
                let list = place.list();
                (Some(place), list, None)
            }
            // Two daemons by mistake: one has to end, or nobody would notice.
            Err(why @ Error::InUse(_)) => return Err(why),
            Err(why) => match ReplicaList::open(&options.directory) {
                Ok(list) if list.about().is_ok_and(|(about, _)| about.synchronised.is_some()) => {
                    let why = writer::unwritten(&why);
                    tracing::error!("{why}; who is in it is answered as it stands");
                    (None, list, Some(why))
                }
                _ => return Err(why),
            },
        };
        let (about, names) = list.about()?;
        let clock = upstream.clock();
        // What the clock said when durations began.
        let epoch = SystemTime::now().checked_sub(clock.now()).unwrap_or(SystemTime::UNIX_EPOCH);
        let standing = ReplicaState::new(about, names, epoch);
        let shared = Shared::new(clock, standing, options.max_age);
        let shared = Arc::new(Shared { max_names: options.max_names, ..shared });
        shared.link().disk = unwritten;
        let (tell, told) = mpsc::channel(QUEUE);
        let writer = writer::Writer {
            shared: Arc::clone(&shared),
            dir: options.directory.clone(),
            place,
            accept_after: options.accept_after,
            told,
        };
        let thread = std::thread::Builder::new().name("replica".to_owned());
        let writer = thread.spawn(move || writer.run()).map_err(|source| {
            let path = options.directory.clone();
            Error::Io { path, source }
        })?;
        let stream = stream::run(Arc::clone(upstream), Arc::clone(&shared), tell);
        let stream = tokio::spawn(stream);
        Ok(Self { list, shared, stream, writer: Some(writer) })
    }

    /// The list, for lookups.
    pub fn list(&self) -> &ReplicaList {
        &self.list
    }

    /// How far it may be believed, for lookups.
    pub fn trust(&self) -> Arc<dyn SourceTrust> {
        Arc::clone(&self.shared) as Arc<dyn SourceTrust>
    }

    /// Whether a name that the master does not have may be in the middle of a rename: he has told its
    /// deletion a moment ago, or not yet.
    pub fn deleted_lately(&self, name: &MailboxName) -> bool {
        !matches!(self.list.lookup(name), Lookup::Absent)
            || self.shared.standing().lately_deleted(name, self.shared.now())
    }

    /// Why "absent", as the master said over the connection that is up since `asker_up`, is not to
    /// be believed, if it is not.
    ///
    /// A master that was begun anew without its list says it of everybody. The list it has now was
    /// looked at, and held back if it had lost much, only if the stream has had a barrier since
    /// that connection was made.
    pub(super) fn doubts_absent(&self, asker_up: Option<Duration>) -> Option<String> {
        if let Some(why) = self.shared.doubt() {
            return Some(why);
        }
        let barrier = *self.shared.barrier.borrow();
        (asker_up.is_none() || barrier <= asker_up)
            .then(|| "the stream of the MUPDATE master has not caught up yet".into())
    }

    /// Waits for a barrier that is asked for after this call.
    pub async fn caught_up(&self) -> Result<(), String> {
        let now = self.shared.now();
        let mut barrier = self.shared.barrier.subscribe();
        let reached = barrier.wait_for(|asked| asked.is_some_and(|asked| asked >= now));
        match tokio::time::timeout(BARRIER, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("the master has told nothing for {} s", BARRIER.as_secs())),
        }
    }

    /// How the replica stands.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// How the connection stands.
    pub fn link(&self) -> LinkStatus {
        let link = self.shared.link();
        LinkStatus {
            server: link.server.clone(),
            failure: link.why_none(),
            connections: link.connections,
            changes: link.changes,
            doubtful: link.doubtful,
            skipped: link.skipped,
        }
    }

    /// Stops following and closes the place, so that it can be opened anew. Waits for a commit that
    /// is under way.
    pub async fn stop(mut self) {
        self.stream.abort();
        // The writer ends when the stream's end of the channel is dropped, and that is when the task
        // has been. A panic of either has been reported by its hook.
        let _ = (&mut self.stream).await;
        if let Some(writer) = self.writer.take() {
            let _ = spawn_blocking(|| writer.join()).await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stream.abort();
    }
}

impl Shared {
    pub(super) fn new(clock: Clock, standing: ReplicaState, max_age: Option<Duration>) -> Self {
        Self {
            clock,
            max_age,
            max_names: None,
            standing: Mutex::new(standing),
            link: Mutex::default(),
            barrier: watch::Sender::new(None),
            relist: Mutex::new(None),
            relists: Notify::new(),
        }
    }

    fn standing(&self) -> MutexGuard<'_, ReplicaState> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// What the clock said at a moment. By the clock as it is now: it may have been put right since
    /// the start.
    pub(super) fn clock_at(&self, moment: Duration) -> SystemTime {
        let ago = self.now().saturating_sub(moment);
        SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Why no miss is believed, if none is, and what keeps the connection from coming back.
    fn doubt(&self) -> Option<String> {
        let doubt = self.standing().misses(self.now()).err()?;
        let link = self.link();
        match link.disk.clone().or_else(|| link.why_none()) {
            Some(why) => Some(format!("{doubt}: {why}")),
            None => Some(doubt),
        }
    }

    fn status(&self) -> Status {
        let status = self.standing().status(self.now());
        let (unusable, flipping) = {
            let link = self.link();
            (link.doubtful + link.skipped, link.flips.all(self.now()))
        };
        Status { doubt: self.doubt(), unusable: Some(unusable), flipping, ..status }
    }

    /// There is a connection to this master.
    pub(super) fn connected(&self, server: &str) {
        let mut link = self.link();
        link.server = Some(server.to_owned());
        link.connections += 1;
    }

    pub(super) fn disconnected(&self) {
        self.link().server = None;
        self.standing().lost(self.now());
    }

    /// Takes note of a failure. Whether it is another than the last one.
    pub(super) fn failed(&self, failure: &Failure) -> bool {
        let mut link = self.link();
        let new = link.failure.as_ref() != Some(failure);
        link.failure = Some(failure.clone());
        new
    }

    /// The replica cannot be written.
    pub(super) fn unwritten(&self, why: String) {
        self.link().disk = Some(why);
        self.standing().lost(self.now());
        self.relist(Wanted::Unwritten);
    }

    /// What is about to be committed.
    pub(super) fn changed(&self, events: &[Event]) {
        let now = self.now();
        let mut standing = self.standing();
        let mut changes = 0;
        for event in events {
            match event {
                Event::Record(..) => {}
                Event::Deleted(name) => standing.deleted(name, now),
                Event::Listed | Event::Current { .. } => continue,
            }
            changes += 1;
        }
        drop(standing);
        self.link().changes += changes;
    }

    /// A full list is about to be committed, and has done this.
    pub(super) fn listed(&self, outcome: &Outcome) {
        let mut standing = self.standing();
        standing.listed(self.now());
        if let Some(loss) = &outcome.held_back {
            standing.held_back(loss);
        }
    }

    /// A loss is about to be committed as held back.
    pub(super) fn held_back(&self, loss: &HeldBack) {
        self.standing().held_back(loss);
    }

    /// How long the master's list may be.
    pub(super) fn list_limit(&self) -> Limit {
        match self.max_names {
            Some(names) => Limit::of_names(names),
            None => Limit::by_present(self.standing().names()),
        }
    }

    /// What of a list could not be used.
    pub(super) fn odd(&self, doubtful: u64, skipped: u64) {
        let mut link = self.link();
        (link.doubtful, link.skipped) = (doubtful, skipped);
    }

    /// The stream has told where a mailbox is that was active before, if it was.
    pub(super) fn placed(&self, name: &MailboxName, before: Option<&Record>, record: &Record) {
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

    /// What was committed last, as far as this process knows.
    pub(super) fn about(&self) -> ReplicaMeta {
        self.standing().about().clone()
    }

    /// What has been committed.
    pub(super) fn stored(&self, about: ReplicaMeta, names: u64) {
        self.standing().stored(about, names);
        self.link().disk = None;
    }

    /// A barrier was answered, and what was told before it is committed.
    pub(super) fn current(&self, asked: Duration) {
        self.standing().current(asked);
        self.link().failure = None;
        self.barrier.send_replace(Some(asked));
    }

    /// Whether a barrier that was asked for since then was answered, and all before it written.
    pub(super) fn current_since(&self, moment: Duration) -> bool {
        self.barrier.borrow().is_some_and(|asked| asked >= moment)
    }

    /// Asks the stream for the list.
    pub(super) fn relist(&self, why: Wanted) {
        *self.relist.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.relists.notify_one();
    }

    /// Waits until somebody wants the list.
    pub(super) async fn wants_list(&self) -> Wanted {
        loop {
            if let Some(wanted) = self.relisted() {
                return wanted;
            }
            self.relists.notified().await;
        }
    }

    /// The list comes, or is being asked for: whoever wanted it before wants it no more.
    pub(super) fn relisted(&self) -> Option<Wanted> {
        self.relist.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl SourceTrust for Shared {
    fn hits(&self) -> Result<(), String> {
        match self.max_age {
            None => Ok(()),
            max_age => self.standing().positives(self.now(), max_age),
        }
    }

    fn misses(&self) -> Result<(), String> {
        self.doubt().map_or(Ok(()), Err)
    }

    fn status(&self) -> Option<Status> {
        Some(Shared::status(self))
    }
}
