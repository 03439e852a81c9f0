//! State of a library's lists and of its daemon.

use std::time::Duration;

use super::library::Library;
use super::timeout::CallTimeout;
use crate::lists::FileList;
use crate::lists::combined::Source;
use crate::lists::mailboxes_db::lock;
use crate::model::doubt::Doubt;
use crate::replica::ReplicaSource;

/// State of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not configured, so not needed.
    None,
    /// Answers every recipient.
    Good,
    /// Answers the recipients that it has; its misses are not believed.
    HitsOnly,
    /// Cannot be read, or does not answer.
    Bad,
    /// Not checked, since the call was not allowed to wait.
    Unchecked,
}

/// A state with its reason, for the postmaster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The state.
    pub state: State,
    /// The reason, never empty.
    pub reason: String,
}

/// State of all parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Effect on mail.
    pub overall: State,
    /// Cyrus' mailbox list on this host.
    pub mailboxes_db: Part,
    /// Number of its records, if known.
    pub records: Option<u64>,
    /// The daemon's replica, as this process reads it.
    pub replica: Part,
    /// Number of its names, if known.
    pub names: Option<u64>,
    /// Time since it last agreed with the master's list, if known.
    pub age: Option<Duration>,
    /// The daemon.
    pub daemon: Part,
}

impl Part {
    fn new(state: State, reason: impl Into<String>) -> Self {
        Self { state, reason: reason.into() }
    }

    fn is_read(&self) -> bool {
        matches!(self.state, State::Good | State::HitsOnly)
    }
}

impl Library {
    /// Checks all parts: opens the lists and asks the daemon a question that needs no list. Waits no longer
    /// than `limit`; with zero the daemon is not asked.
    pub fn check(&self, limit: Duration) -> Health {
        let timeout = CallTimeout::new(limit);
        let inner = self.process_state();
        let mut health = Health {
            overall: State::Bad,
            mailboxes_db: Part::new(State::None, "not one of the sources"),
            records: None,
            replica: Part::new(State::None, "not one of the sources"),
            names: None,
            age: None,
            daemon: Part::new(State::None, "no daemon is configured that could be asked"),
        };
        lock::until(timeout.locks_until(), || {
            for source in inner.lists.sources() {
                match source {
                    Source::File(list) => {
                        let complete = self.believes_misses(&inner.lists);
                        health.look_at_file(list, complete);
                    }
                    Source::Replica(replica) => health.look_at_replica(replica),
                }
            }
        });
        if self.daemon.is_configured() {
            health.daemon = match timeout.remaining() {
                _ if limit.is_zero() => {
                    Part::new(State::Unchecked, "not asked: the call may not wait")
                }
                left => match self.daemon.ping(&inner.connections, left) {
                    Ok(()) => Part::new(State::Good, "answers"),
                    Err(why) => Part::new(State::Bad, why.to_string()),
                },
            };
        }
        health.overall = health.summed_up(self.is_murder());
        health
    }
}

impl Health {
    /// `complete`: whether its misses are believed, by the configuration.
    fn look_at_file(&mut self, list: &FileList, complete: Result<(), Doubt>) {
        self.mailboxes_db = match list.status() {
            Err(why) => Part::new(State::Bad, why.to_string()),
            Ok(status) => {
                self.records = Some(status.records);
                match list.trust().and(complete) {
                    Err(why) => Part::new(State::HitsOnly, why.to_string()),
                    Ok(()) => {
                        let text = format!("{}, {} records", status.engine, status.records);
                        Part::new(State::Good, text)
                    }
                }
            }
        };
    }

    fn look_at_replica(&mut self, ReplicaSource { trust, .. }: &ReplicaSource) {
        let (status, misses) = (trust.status(), trust.misses());
        self.names = status.as_ref().map(|status| status.names);
        self.age = trust.age();
        self.replica = match (trust.hits(), misses, status) {
            (Err(why), ..) | (Ok(()), Err(why), None) => Part::new(State::Bad, why.to_string()),
            (Ok(()), Err(why), Some(_)) => Part::new(State::HitsOnly, why.to_string()),
            (Ok(()), Ok(()), status) => {
                let names = status.map_or(0, |status| status.names);
                Part::new(State::Good, format!("{names} names"))
            }
        };
    }

    /// In a Murder a miss needs the daemon; otherwise the list decides.
    fn summed_up(&self, murder: bool) -> State {
        let lists = [&self.mailboxes_db, &self.replica];
        let mut configured = lists.iter().filter(|part| part.state != State::None).peekable();
        let any_list = configured.peek().is_some();
        let all_good = any_list && configured.all(|part| part.state == State::Good);
        match self.daemon.state {
            State::Good => State::Good,
            _ if !murder && all_good => State::Good,
            State::Unchecked => State::Unchecked,
            _ if lists.iter().any(|part| part.is_read()) => State::HitsOnly,
            _ => State::Bad,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overall_state_is_the_effect_on_mail() {
        use State::{Bad, Good, HitsOnly, None, Unchecked};
        for (murder, file, replica, daemon, overall) in [
            (true, Good, None, Good, Good),
            (true, Good, None, Bad, HitsOnly),
            (true, Good, None, None, HitsOnly),
            (true, Good, Good, Unchecked, Unchecked),
            (true, None, Bad, Bad, Bad),
            (true, Bad, None, Good, Good),
            (true, Bad, HitsOnly, Bad, HitsOnly),
            (true, None, None, Good, Good),
            (true, None, None, Bad, Bad),
            (false, Good, None, Bad, Good),
            (false, Good, None, Unchecked, Good),
            (false, HitsOnly, None, Bad, HitsOnly),
            (false, HitsOnly, None, Unchecked, Unchecked),
            (false, Bad, None, Bad, Bad),
        ] {
            let part = |state| Part::new(state, "");
            let health = Health {
                overall: Bad,
                mailboxes_db: part(file),
                records: Option::None,
                replica: part(replica),
                names: Option::None,
                age: Option::None,
                daemon: part(daemon),
            };
            let told = health.summed_up(murder);
            assert_eq!(told, overall, "{murder} {file:?} {replica:?} {daemon:?}");
        }
    }
}
