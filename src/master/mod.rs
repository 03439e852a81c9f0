//! Follows the MUPDATE master and asks it: what [`mupdate`](crate::mupdate) and
//! [`replica`](crate::replica) know, with sockets, TLS, a thread and a clock.
//!
//! * [`Upstream`] is the site's MUPDATE servers and how to log in to them.
//! * [`Asker`] asks for names, over a connection of its own: a stream allows no questions.
//! * [`ReplicaFollower`] keeps a replica current: a task reads the stream, whatever the disk does, and a
//!   thread writes.
//! * [`MasterClient`] is all of that as one [`Master`].
//! * [`Visit`] is one connection for all questions of a command, the whole list among them.
//!
//! A connection that fails is made anew, after a pause that grows; several servers are tried in
//! turn.

pub(crate) mod barrier;
mod canaries;
pub mod client;
pub mod confirmer;
pub(crate) mod connection;
pub(crate) mod find_budget;
mod follower;
mod negative_cache;
mod query;
mod retry;
mod state;
mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod upstream;
mod visit;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use follower::ReplicaFollower;
use negative_cache::NegativeCache;
pub use query::{Asker, AskerStatus};
use upstream::Clock;
pub use upstream::Upstream;
pub use visit::Visit;

use crate::config::ReplicaSettings;
use crate::master::client::{Asking, Impossible, Master};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::mupdate::{Finding, Need};

/// The MUPDATE servers, and the replica if there is one.
#[derive(Debug)]
pub struct MasterClient {
    asker: Asker,
    replica: Option<ReplicaFollower>,
    clock: Clock,
    /// Only where the site wants it: `negative-cache` in `[mupdate]`.
    absences: Option<Mutex<NegativeCache>>,
}

impl MasterClient {
    /// Asks for names, and nothing else. `need`: whether a slave will do. Must be called within a
    /// tokio runtime.
    pub fn to_ask(upstream: Upstream, need: Need) -> Self {
        let upstream = Arc::new(upstream);
        Self::new(&upstream, Asker::new(Arc::clone(&upstream), need), None)
    }

    fn new(upstream: &Upstream, asker: Asker, replica: Option<ReplicaFollower>) -> Self {
        let absences = upstream.negative_cache().map(|keep| Mutex::new(NegativeCache::new(keep)));
        Self { asker, replica, clock: upstream.clock(), absences }
    }

    /// Follows the master into a replica, and asks it for names as well. Must be called within a
    /// tokio runtime.
    pub fn to_follow(
        upstream: Upstream,
        options: &ReplicaSettings,
    ) -> Result<Self, crate::replica::store::Error> {
        let upstream = Arc::new(upstream);
        let replica = ReplicaFollower::follow(&upstream, options)?;
        let asker = Asker::beside_a_replica(Arc::clone(&upstream));
        Ok(Self::new(&upstream, asker, Some(replica)))
    }

    /// The replica.
    pub fn replica(&self) -> Option<&ReplicaFollower> {
        self.replica.as_ref()
    }

    /// The connection for questions.
    #[cfg(test)]
    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Ends all connections and closes the replica, so that it can be opened anew.
    pub async fn stop(self) {
        if let Some(replica) = self.replica {
            replica.stop().await;
        }
    }

    fn absences(&self) -> Option<MutexGuard<'_, NegativeCache>> {
        Some(self.absences.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the site lets us say, without asking again, that the master does not have this name.
    /// Any event of the stream for the name ends that.
    fn lately_absent(&self, name: &MailboxName) -> bool {
        let Some((up, _)) = self.absences.as_ref().and_then(|_| self.asker.up()) else {
            return false;
        };
        let kept = self.absences().is_some_and(|kept| kept.has(name, up, self.clock.now()));
        kept && !self.deleted_lately(name)
    }

    /// Asks the master, unless the site lets us do without.
    async fn finding(&self, name: &MailboxName) -> Result<Finding, Impossible> {
        if self.lately_absent(name) {
            return Ok(Finding::Absent);
        }
        let asked = self.clock.now();
        let finding = self.asker.find(name).await?;
        if let Some(mut absences) = self.absences() {
            match finding {
                Finding::Absent => absences.put(name, asked, self.clock.now()),
                Finding::Found(_) => absences.forget(name),
                Finding::Unsure(_) => {}
            }
        }
        Ok(finding)
    }

    async fn ask(&self, name: &MailboxName) -> Result<Finding, Impossible> {
        let finding = self.finding(name).await?;
        let Some(replica) = &self.replica else { return Ok(finding) };
        if finding != Finding::Absent {
            return Ok(finding);
        }
        let asked = self.asker.up();
        let followed = replica.link().server;
        if let (Some((_, asked)), Some(followed)) = (&asked, followed)
            && *asked != followed
        {
            // What the one has been looked at for says nothing of the other.
            self.asker.leave();
            let doubt =
                format!("the MUPDATE server `{asked}` was asked, and `{followed}` is followed");
            return Ok(Finding::Unsure(doubt));
        }
        let doubt = replica.doubts_absent(asked.map(|(since, _)| since));
        Ok(doubt.map_or(Finding::Absent, |doubt| Finding::Unsure(doubt.to_string())))
    }
}

impl Master for MasterClient {
    fn find<'a>(&'a self, name: &'a MailboxName) -> Asking<'a, Result<Finding, Impossible>> {
        Box::pin(self.ask(name))
    }

    fn is_listed(&self, name: &MailboxName) {
        if let Some(mut absences) = self.absences() {
            absences.forget(name);
        }
    }

    fn needs_no_question(&self, name: &MailboxName) -> bool {
        self.lately_absent(name)
    }

    fn deleted_lately(&self, name: &MailboxName) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.deleted_lately(name))
    }

    fn caught_up(&self) -> Asking<'_, Result<(), String>> {
        Box::pin(async {
            match &self.replica {
                Some(replica) => replica.caught_up().await,
                None => Ok(()),
            }
        })
    }

    fn servername(&self) -> Option<String> {
        self.asker.status().server
    }

    fn trouble(&self) -> Option<String> {
        let AskerStatus { server, failure, .. } = self.asker.status();
        let none = || "there is no connection to the MUPDATE server".to_owned();
        server.is_none().then(|| failure.unwrap_or_else(none))
    }

    fn is_connecting(&self) -> bool {
        let AskerStatus { server, failure, .. } = self.asker.status();
        server.is_none() && failure.is_none()
    }

    fn is_impossible(&self) -> bool {
        self.asker.status().impossible
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.asker.key_generation()
    }
}

/// A number from 0 to 1, another one each time: hosts of a site must not do everything together.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // Each RandomState has keys of its own.
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}
