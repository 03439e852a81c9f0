//! Follows the MUPDATE master and asks it for names: joins [`mupdate`](crate::mupdate) and
//! [`replica`](crate::replica) with sockets, TLS, a thread and a clock.
//!
//! * [`Upstream`] is the site's MUPDATE servers and how to log in to them.
//! * [`Asker`] asks for names, over a connection of its own: a stream allows no questions.
//! * [`ReplicaFollower`] keeps a replica current: a task reads the stream, whatever the disk does, and a
//!   thread writes.
//! * [`MasterClient`] is all of that as one [`Master`].
//! * [`Visit`] is one connection for all questions of a command, the whole list among them.
//!
//! A failed connection is made anew after a growing backoff; several servers are tried in turn.

pub(crate) mod barrier;
pub mod client;
pub mod confirmer;
pub(crate) mod connection;
mod follower;
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
pub use query::{Asker, AskerStatus};
use upstream::Clock;
pub use upstream::Upstream;
pub use visit::Visit;

use crate::config::ReplicaSettings;
use crate::master::client::{Asking, Impossible, Master, MasterView};
use crate::model::doubt::{Doubt, Doubtful};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::mupdate::{Finding, Need};
use crate::routing::confirm::master_answers::{AbsenceDoubt, MasterAnswers, weigh_absent};

/// The MUPDATE servers, and the replica if there is one.
#[derive(Debug)]
pub struct MasterClient {
    asker: Asker,
    replica: Option<ReplicaFollower>,
    clock: Clock,
    answers: Mutex<MasterAnswers>,
}

impl MasterClient {
    /// A client that only asks for names. `need`: whether a slave will do. Must be called within a
    /// tokio runtime.
    pub fn to_ask(upstream: Upstream, need: Need) -> Self {
        let upstream = Arc::new(upstream);
        Self::new(&upstream, Asker::new(Arc::clone(&upstream), need), None)
    }

    fn new(upstream: &Upstream, asker: Asker, replica: Option<ReplicaFollower>) -> Self {
        let answers = Mutex::new(MasterAnswers::new(upstream.negative_cache()));
        Self { asker, replica, clock: upstream.clock(), answers }
    }

    /// A client that follows the master into a replica, and asks it for names as well. Must be called
    /// within a tokio runtime.
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

    fn answers(&self) -> MutexGuard<'_, MasterAnswers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the master, unless the configuration makes that unnecessary.
    async fn finding(&self, name: &MailboxName) -> Result<Finding, Impossible> {
        if self.needs_no_question(name) {
            return Ok(Finding::Absent);
        }
        let (asked, timeout) = (self.clock.now(), self.answers().timeout());
        let answer = self.asker.find(name, timeout).await;
        let mut answers = self.answers();
        match answer {
            Some(answer) => {
                let now = self.clock.now();
                answers.answered(name, answer.as_ref().ok(), asked, now);
                answer
            }
            None => {
                answers.unanswered();
                Ok(self.asker.no_answer(timeout))
            }
        }
    }

    async fn ask(&self, name: &MailboxName) -> Result<Finding, Impossible> {
        let finding = self.finding(name).await?;
        let Some(replica) = &self.replica else { return Ok(finding) };
        if finding != Finding::Absent {
            return Ok(finding);
        }
        let asked = self.asker.up();
        let (since, server) = asked.unzip();
        Ok(match weigh_absent(server.as_deref(), replica.followed(since)) {
            Ok(()) => Finding::Absent,
            Err(doubt) => {
                if let AbsenceDoubt::OtherServer { .. } = doubt {
                    self.asker.leave();
                }
                Finding::Unsure(Doubt::new(doubt.doubt_kind(), doubt))
            }
        })
    }
}

impl MasterView for MasterClient {
    fn is_listed(&self, name: &MailboxName) {
        self.answers().is_listed(name);
    }

    fn needs_no_question(&self, name: &MailboxName) -> bool {
        let (up, now) = (self.asker.up().map(|(since, _)| since), self.clock.now());
        self.answers().is_absent(name, up, || self.deleted_lately(name), now)
    }

    fn deleted_lately(&self, name: &MailboxName) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.deleted_lately(name))
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
}

impl Master for MasterClient {
    fn find<'a>(&'a self, name: &'a MailboxName) -> Asking<'a, Result<Finding, Impossible>> {
        Box::pin(self.ask(name))
    }

    fn caught_up(&self) -> Asking<'_, Result<(), Doubt>> {
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

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.asker.key_generation()
    }
}

/// A random number from 0 to 1: the hosts of a site must not all act at the same time.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // Each RandomState has keys of its own.
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}
