//! Lookups of single names on a server (FIND).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use super::banner::{Banner, Role};
use super::command::{Command, Tag};
use super::failure::Failure;
use super::response::{Response, Status, printable, unasked, unknown};
use super::stream::doubtful;
use super::wire::Input;
use super::{Finding, Session, Timings};
use crate::cyrusdb::value;
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// Maximum number of FINDs in flight.
pub(crate) const MAX_IN_FLIGHT: usize = 256;
/// Maximum number of names queued for a FIND.
pub(crate) const MAX_QUEUED: usize = 4096;

/// Request returned by [`Finder::ask`]. Requests with the same ticket share one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Looks up names on a server, several at once.
///
/// Requests for a name that is still queued are coalesced. Once [`output`](Self::output) has
/// returned the FIND, the server may have looked already, so a later request sends a new one.
///
/// After each [`ask`](Self::ask), [`receive`](Self::receive) and [`tick`](Self::tick), take all
/// results of [`next`](Self::next), then send [`output`](Self::output). Call `tick` when
/// [`deadline`](Self::deadline) is reached, and [`closed`](Self::closed) at the end of the
/// connection. After a failure, every open request is answered with [`Finding::Unsure`].
#[derive(Debug)]
pub struct Finder {
    banner: Banner,
    timings: Timings,
    input: Input,
    output: Vec<u8>,
    now: Duration,
    last: u64,
    /// Requests not yet sent, in order.
    queue: VecDeque<(Ticket, MailboxName)>,
    queued: HashMap<MailboxName, Ticket>,
    /// Requests sent, in order.
    flights: VecDeque<Flight>,
    /// Time at which the last command was sent or answered.
    active: Duration,
    ended: bool,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Flight {
    tag: Tag,
    began: Duration,
    what: What,
}

#[derive(Debug)]
enum What {
    Find { ticket: Ticket, name: MailboxName, found: Option<Finding> },
    Noop,
}

/// Next element of a list.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed {
    /// A name and its record.
    Record(MailboxName, Record),
    /// End of the list.
    End,
    /// More bytes are needed.
    More,
}

/// Tag of LIST. Only one is in flight at a time.
const LIST: Tag = Tag::new('L', 1);

impl Finder {
    /// Creates a finder on a session.
    pub fn new(session: Session, timings: Timings, now: Duration) -> Self {
        let Session { banner, input, .. } = session;
        Self {
            banner,
            timings,
            input,
            output: Vec::new(),
            now,
            last: 0,
            queue: VecDeque::new(),
            queued: HashMap::new(),
            flights: VecDeque::new(),
            active: now,
            ended: false,
            failure: None,
        }
    }

    /// Returns the number of requests without an answer.
    #[cfg(any(test, feature = "testing"))]
    pub fn open(&self) -> usize {
        let sent =
            self.flights.iter().filter(|flight| matches!(flight.what, What::Find { .. })).count();
        self.queue.len() + sent
    }

    /// Requests a name. `Err` is the answer if it cannot be requested.
    pub fn ask(&mut self, name: MailboxName, now: Duration) -> Result<Ticket, Finding> {
        self.now = self.now.max(now);
        if let Some(failure) = &self.failure {
            return Err(Finding::Unsure(failure.into()));
        }
        if let Some(ticket) = self.queued.get(&name) {
            return Ok(*ticket);
        }
        if self.queue.len() >= MAX_QUEUED {
            return Err(Finding::Unsure(Doubt::new(
                DoubtKind::GivenUp,
                format_args!("{MAX_QUEUED} questions wait for the MUPDATE server already"),
            )));
        }
        self.last += 1;
        let ticket = Ticket(self.last);
        self.queued.insert(name.clone(), ticket);
        self.queue.push_back((ticket, name));
        Ok(ticket)
    }

    /// Requests the whole list. Take all of [`next_listed`](Self::next_listed) before the next
    /// request; the caller enforces the timeout.
    ///
    /// # Errors
    ///
    /// The connection has failed, or another request is open.
    pub fn ask_for_list(&mut self, now: Duration) -> Result<(), Failure> {
        self.now = self.now.max(now);
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if !self.flights.is_empty() || !self.queue.is_empty() {
            return Err(Failure::protocol("a list was asked for before the last answer had come"));
        }
        Command::List(b"").encode(LIST, &mut self.output);
        Ok(())
    }

    /// Returns the next element of the requested list. An error is permanent.
    pub fn next_listed(&mut self) -> Result<Listed, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let listed = self.read_listed();
        if let Err(failure) = &listed {
            self.fail(failure.clone());
        }
        self.active = self.now;
        listed
    }

    fn read_listed(&mut self) -> Result<Listed, Failure> {
        loop {
            let Some(response) = Response::read(&mut self.input)? else {
                if self.input.again() {
                    continue;
                }
                return Ok(Listed::More);
            };
            match response {
                Response::Record { tag, state, name, location, acl, is_long } if LIST.is(tag) => {
                    // An invalid name belongs to no recipient.
                    let Ok(name) = MailboxName::new(name) else { continue };
                    let record = match value::of_location(state, &location, &acl) {
                        Ok(record) if !is_long => record,
                        _ => doubtful(),
                    };
                    return Ok(Listed::Record(name, record));
                }
                Response::Record { .. } | Response::Deleted { .. } => {
                    return Err(Failure::protocol("a record that was not asked for"));
                }
                Response::Status { status: Status::Bye, text, .. } => {
                    return Err(Failure::Bye(printable(&text)));
                }
                Response::Status { tag, status: Status::Ok, .. } if LIST.is(tag) => {
                    return Ok(Listed::End);
                }
                Response::Status { tag: b"*", status: Status::Ok | Status::No, .. } => {}
                Response::Status { text, .. } => {
                    return Err(Failure::protocol(format!("it refused: `{}`", printable(&text))));
                }
                Response::Other(line) => unknown(line)?,
            }
        }
    }

    /// Takes received bytes, in pieces of any size.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        self.now = self.now.max(now);
        if self.failure.is_none() {
            self.input.push(bytes);
        }
    }

    /// Records that the server closed the connection. [`next`](Self::next) reports it after all
    /// complete answers.
    pub fn closed(&mut self) {
        self.ended = true;
    }

    /// Returns the next answer. `None`: more bytes are needed. An error follows the last answer and
    /// is permanent.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(Ticket, MailboxName, Finding)>, Failure> {
        if self.failure.is_none() {
            match self.read() {
                Ok(None) if self.ended => {
                    self.fail(Failure::Closed("while it was asked for names"));
                }
                Ok(answer) => return Ok(answer),
                Err(failure) => self.fail(failure),
            }
        }
        let Some(failure) = &self.failure else { return Ok(None) };
        let unsure = Finding::Unsure(failure.into());
        while let Some(flight) = self.flights.pop_front() {
            if let What::Find { ticket, name, .. } = flight.what {
                return Ok(Some((ticket, name, unsure)));
            }
        }
        match self.queue.pop_front() {
            Some((ticket, name)) => Ok(Some((ticket, name, unsure))),
            None => Err(failure.clone()),
        }
    }

    /// Returns the bytes to send; the caller removes those it has sent. They include queued
    /// requests, up to the limit in flight.
    pub fn output(&mut self) -> &mut Vec<u8> {
        while self.failure.is_none()
            && self.flights.len() < MAX_IN_FLIGHT
            && let Some((ticket, name)) = self.queue.pop_front()
        {
            self.queued.remove(&name);
            let tag = Tag::new('F', ticket.0);
            Command::Find(&name).encode(tag, &mut self.output);
            self.begin(tag, What::Find { ticket, name, found: None });
        }
        &mut self.output
    }

    /// Appends LOGOUT, the last command.
    pub fn log_out(&mut self) {
        Command::Logout.encode(Tag::new('Q', 1), &mut self.output);
    }

    /// Returns the time at which [`tick`](Self::tick) must be called.
    pub fn deadline(&self) -> Option<Duration> {
        match (&self.failure, self.flights.front()) {
            (Some(_), _) => None,
            (None, Some(first)) => Some(first.began + self.timings.find_answer),
            (None, None) => Some(self.active + self.timings.keep_alive),
        }
    }

    /// Updates the clock.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.deadline().is_none_or(|deadline| self.now < deadline) {
            return;
        }
        if self.flights.is_empty() {
            self.last += 1;
            let tag = Tag::new('N', self.last);
            Command::Noop.encode(tag, &mut self.output);
            self.begin(tag, What::Noop);
        } else {
            self.fail(Failure::Timeout("the MUPDATE server did not answer a question in time"));
        }
    }

    fn begin(&mut self, tag: Tag, what: What) {
        self.active = self.now;
        self.flights.push_back(Flight { tag, began: self.now, what });
    }

    fn fail(&mut self, failure: Failure) {
        if self.failure.is_none() {
            self.failure = Some(failure);
            self.input.clear();
            self.output.clear();
            self.queued.clear();
        }
    }

    fn read(&mut self) -> Result<Option<(Ticket, MailboxName, Finding)>, Failure> {
        loop {
            let Some(response) = Response::read(&mut self.input)? else {
                if self.input.again() {
                    continue;
                }
                return Ok(None);
            };
            let first = self.flights.front_mut();
            match response {
                Response::Record { tag, state, name, location, acl, is_long } => {
                    match first.filter(|flight| flight.tag.is(tag)).map(|flight| &mut flight.what) {
                        Some(What::Find { name: asked, found, .. })
                            if asked.as_bytes() == &*name && found.is_none() =>
                        {
                            *found = Some(match value::of_location(state, &location, &acl) {
                                _ if is_long => damaged(format_args!("{asked} is too long")),
                                Ok(record) => Finding::Found(record),
                                Err(error) => damaged(format_args!("{asked}: {error}")),
                            });
                        }
                        _ => return Err(Failure::protocol("a record that was not asked for")),
                    }
                }
                Response::Status { status: Status::Bye, text, .. } => {
                    return Err(Failure::Bye(printable(&text)));
                }
                Response::Status { tag: b"*", status: Status::Ok | Status::No, .. } => {}
                Response::Other(line) => unknown(line)?,
                Response::Status { tag, status, text } => {
                    if !first.is_some_and(|flight| flight.tag.is(tag)) {
                        return Err(unasked(&text));
                    }
                    let refusal = (status != Status::Ok).then(|| printable(&text));
                    let Some(flight) = self.flights.pop_front() else { continue };
                    self.active = self.now;
                    match flight.what {
                        What::Noop => {}
                        What::Find { ticket, name, found } => {
                            let finding = self.finding(found, refusal);
                            return Ok(Some((ticket, name, finding)));
                        }
                    }
                }
                Response::Deleted { .. } => {
                    return Err(Failure::protocol("DELETE as an answer to FIND"));
                }
            }
        }
    }

    fn finding(&self, found: Option<Finding>, refusal: Option<String>) -> Finding {
        match (found, refusal, &self.banner.role) {
            (_, Some(text), _) => {
                let text = format_args!("the MUPDATE server refused the question: `{text}`");
                Finding::Unsure(Doubt::new(DoubtKind::Refused, text))
            }
            (Some(found), None, _) => found,
            (None, None, Role::Master) => Finding::Absent,
            (None, None, Role::Slave(master)) => Finding::Unsure(Doubt::new(
                DoubtKind::Stale,
                format_args!(
                    "`{}` does not have it, but it is a slave of `{master}`, and a slave may lack what \
                     its master has",
                    self.banner.server
                ),
            )),
        }
    }
}

/// Answer for a record from the server that cannot be used.
fn damaged(record: fmt::Arguments<'_>) -> Finding {
    let text = format_args!("the MUPDATE server's record of {record}");
    Finding::Unsure(Doubt::new(DoubtKind::Damaged, text))
}
