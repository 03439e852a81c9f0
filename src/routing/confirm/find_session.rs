//! FINDs over one connection to the master: request coalescing, and the check of the canary names.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::DOUBT_INTERVAL;
use super::canaries::Canaries;
use crate::model::name::MailboxName;
use crate::mupdate::{Failure, Finder, Finding, Session, Ticket, Timings};

/// A waiter for the answer to a FIND.
pub trait Waiter {
    /// Whether it has stopped waiting.
    fn is_gone(&self) -> bool;
}

/// The FINDs of a connection, each with its waiters.
///
/// While a FIND for a name is in flight, all further questions for the name share one more
/// FIND: each answer was requested after its question arrived, and the number of questions does
/// not reach the server.
#[derive(Debug)]
pub struct FindSession<W> {
    finder: Finder,
    canaries: Canaries,
    /// Time at which the canary names are asked for.
    check_at: Option<Duration>,
    /// Waiters for each FIND in flight.
    asked: HashMap<Ticket, Vec<W>>,
    /// For each name with a FIND in flight: waiters that came later and must not get its answer.
    later: HashMap<MailboxName, Vec<W>>,
    ready: VecDeque<(Vec<W>, Finding)>,
}

impl<W: Waiter> FindSession<W> {
    /// Starts on a new connection.
    pub fn new(session: Session, timings: Timings, canaries: Canaries, now: Duration) -> Self {
        let mut this = Self {
            finder: Finder::new(session, timings, now),
            canaries,
            check_at: Some(now),
            asked: HashMap::new(),
            later: HashMap::new(),
            ready: VecDeque::new(),
        };
        this.check_canaries(now);
        this
    }

    /// Asks for a name.
    pub fn ask(&mut self, name: MailboxName, waiter: W, now: Duration) {
        if waiter.is_gone() {
            return;
        }
        match self.later.get_mut(&name) {
            Some(later) => {
                if later.len() == later.capacity() {
                    later.retain(|waiter| !waiter.is_gone());
                }
                later.push(waiter);
            }
            None => self.send(name, vec![waiter], now),
        }
    }

    fn send(&mut self, name: MailboxName, waiters: Vec<W>, now: Duration) {
        match self.finder.ask(name.clone(), now) {
            Ok(ticket) => {
                self.asked.entry(ticket).or_default().extend(waiters);
                self.later.insert(name, Vec::new());
            }
            Err(finding) => self.ready.push_back((waiters, finding)),
        }
    }

    /// Returns the next answer with its waiters. `None`: it needs more bytes or time.
    ///
    /// # Errors
    ///
    /// The failure of the connection, after all answers.
    pub fn next(&mut self, now: Duration) -> Result<Option<(Vec<W>, Finding)>, Failure> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Ok(Some(ready));
            }
            let Some((ticket, name, finding)) = self.finder.next()? else {
                self.plan_check(now);
                return Ok(None);
            };
            self.canaries.heard(&name, &finding);
            let finding = match (finding, self.canaries.doubt()) {
                (Finding::Absent, Some(doubt)) => Finding::Unsure(doubt),
                (finding, _) => finding,
            };
            // A name without waiters was asked for as a canary name.
            let Some(waiters) = self.asked.remove(&ticket) else { continue };
            self.ready.push_back((waiters, finding));
            let mut later = self.later.remove(&name).unwrap_or_default();
            later.retain(|waiter| !waiter.is_gone());
            if !later.is_empty() {
                self.send(name, later, now);
            }
        }
    }

    fn plan_check(&mut self, now: Duration) {
        self.check_at = match self.canaries.doubt() {
            Some(_) => self.check_at.or(Some(now + DOUBT_INTERVAL)),
            None => None,
        };
    }

    fn check_canaries(&mut self, now: Duration) {
        if self.check_at.is_some_and(|at| at <= now) {
            self.canaries.begin();
            for name in self.canaries.names() {
                // It has no waiters; the answer is for the canary names.
                let _ = self.finder.ask(name, now);
            }
            self.check_at = None;
        }
    }

    /// Takes bytes from the server.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        self.finder.receive(bytes, now);
    }

    /// The server has closed the connection.
    pub fn closed(&mut self) {
        self.finder.closed();
    }

    /// Returns bytes for the server.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.finder.output()
    }

    /// Time at which [`tick`](Self::tick) is due.
    pub fn deadline(&self) -> Option<Duration> {
        self.finder.deadline().into_iter().chain(self.check_at).min()
    }

    /// Performs the actions that are due.
    pub fn tick(&mut self, now: Duration) {
        if self.finder.deadline().is_some_and(|at| at <= now) {
            self.finder.tick(now);
        }
        self.check_canaries(now);
    }

    /// Ends the session. Returns the canary names for the next one, and all waiters.
    pub fn end(self) -> (Canaries, Vec<W>) {
        let ready = self.ready.into_iter().flat_map(|(waiters, _)| waiters);
        let waiters = self.asked.into_values().chain(self.later.into_values()).flatten();
        (self.canaries, ready.chain(waiters).collect())
    }
}
