//! The stream of an UPDATE: the whole list, then every change, with periodic barriers.

use std::time::Duration;

#[cfg(any(test, feature = "testing"))]
use super::banner::Banner;
use super::command::{Command, Tag};
use super::failure::Failure;
use super::response::{Response, Status, printable, unasked, unknown};
use super::wire::Input;
use super::{Event, Session, Timings};
use crate::cyrusdb::value;
use crate::model::name::MailboxName;
use crate::model::record::{AnonymousRights, Record, State};

const UPDATE: Tag = Tag::new('U', 1);

/// An UPDATE in progress.
///
/// After each [`receive`](Self::receive), take all events of [`next`](Self::next), then send
/// [`output`](Self::output). When [`deadline`](Self::deadline) is reached, receive what has arrived,
/// then call [`tick`](Self::tick). Call [`closed`](Self::closed) at the end of the connection.
/// Memory is bounded by one response and one piece, if the pieces are bounded.
///
/// After [`Event::Listed`] a NOOP is sent every [`Timings::noop_every`]. It makes the master send
/// its changes at once instead of every 5 s. A silent stream would also occupy one of the master's
/// workers for as long as it is silent (Cyrus `lib/prot.c:prot_fill`).
#[derive(Debug)]
pub struct Stream {
    #[cfg(any(test, feature = "testing"))]
    banner: Banner,
    timings: Timings,
    input: Input,
    output: Vec<u8>,
    state: Phase,
    now: Duration,
    ended: bool,
    noops: u64,
    skipped: u64,
    doubtful: u64,
    first_doubtful: Option<MailboxName>,
    limit: Limit,
    /// Size of the list received.
    listed: Limit,
}

/// Limit for the size of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Maximum number of records.
    pub names: u64,
    /// Maximum number of bytes.
    pub bytes: u64,
}

/// Default maximum number of names in a list; a long present list raises it.
const MAX_NAMES: u64 = 10_000_000;

/// Maximum number of bytes per name of the limit. A record of Cyrus has some hundred bytes.
const BYTES_PER_NAME: u64 = 512;

impl Limit {
    /// Returns the limit for this number of names.
    pub fn of_names(names: u64) -> Self {
        Self { names, bytes: names.saturating_mul(BYTES_PER_NAME) }
    }

    /// Returns the default limit: ten times the present list, at least 10,000,000 names.
    pub fn by_present(names: u64) -> Self {
        Self::of_names(names.saturating_mul(10).max(MAX_NAMES))
    }
}

#[derive(Debug)]
enum Phase {
    FullSync { began: Duration, heard: Duration },
    Listed { noop: Noop },
    Failed(Failure),
}

#[derive(Debug, Clone, Copy)]
enum Noop {
    Due(Duration),
    Asked(Tag, Duration),
}

impl Stream {
    /// Requests the list.
    pub fn new(session: Session, timings: Timings, now: Duration) -> Self {
        let Session { input, .. } = session;
        let mut output = Vec::new();
        Command::Update.encode(UPDATE, &mut output);
        Self {
            #[cfg(any(test, feature = "testing"))]
            banner: session.banner,
            timings,
            input,
            output,
            state: Phase::FullSync { began: now, heard: now },
            now,
            ended: false,
            noops: 0,
            skipped: 0,
            doubtful: 0,
            first_doubtful: None,
            limit: Limit::by_present(0),
            listed: Limit { names: 0, bytes: 0 },
        }
    }

    /// Sets another limit for the list.
    #[must_use]
    pub fn limited(mut self, limit: Limit) -> Self {
        self.limit = limit;
        self
    }

    /// Returns the first name whose location cannot be used.
    pub fn first_doubtful(&self) -> Option<&MailboxName> {
        self.first_doubtful.as_ref()
    }

    /// Returns the banner of the server.
    #[cfg(any(test, feature = "testing"))]
    pub fn banner(&self) -> &Banner {
        &self.banner
    }

    /// Returns the number of records skipped because their name is invalid. No recipient has such a
    /// name.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Returns the number of records whose location cannot be used. They are reported as reserved,
    /// so that their names are neither unknown nor routed.
    pub fn doubtful(&self) -> u64 {
        self.doubtful
    }

    /// Takes received bytes, in pieces of any size.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        self.now = self.now.max(now);
        // Deadlines also apply to a continuous flow, in which the caller never waits for one.
        match &mut self.state {
            Phase::Failed(_) => return,
            Phase::FullSync { heard, .. } => {
                *heard = self.now;
                self.tick(now);
                self.listed.bytes = self.listed.bytes.saturating_add(bytes.len() as u64);
                if self.listed.bytes > self.limit.bytes {
                    self.fail(Failure::TooLong { what: "bytes", limit: self.limit.bytes });
                }
            }
            Phase::Listed { noop: Noop::Due(_) } => self.tick(now),
            Phase::Listed { .. } => {}
        }
        if !matches!(self.state, Phase::Failed(_)) {
            self.input.push(bytes);
        }
    }

    /// Records that the server closed the connection. [`next`](Self::next) reports it after all
    /// complete responses.
    pub fn closed(&mut self) {
        self.ended = true;
    }

    /// Returns the next event. `None`: more bytes are needed. An error is permanent.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Event>, Failure> {
        if let Phase::Failed(failure) = &self.state {
            return Err(failure.clone());
        }
        match self.read() {
            Ok(None) if self.ended => {
                let closed = Failure::Closed(match self.state {
                    Phase::FullSync { .. } => "while it sent its list",
                    _ => "while it streamed its changes",
                });
                self.fail(closed.clone());
                Err(closed)
            }
            Ok(event) => Ok(event),
            Err(failure) => {
                self.fail(failure.clone());
                Err(failure)
            }
        }
    }

    /// Returns the bytes to send; the caller removes those it has sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Appends LOGOUT, the last command.
    pub fn log_out(&mut self) {
        Command::Logout.encode(Tag::new('Q', 1), &mut self.output);
    }

    /// Returns the time at which [`tick`](Self::tick) must be called.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            Phase::FullSync { began, heard } => {
                Some((heard + self.timings.list_silence).min(began + self.timings.list))
            }
            Phase::Listed { noop: Noop::Due(due) } => Some(due),
            Phase::Listed { noop: Noop::Asked(_, asked) } => Some(asked + self.timings.noop_answer),
            Phase::Failed(_) => None,
        }
    }

    /// Updates the clock.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.deadline().is_none_or(|deadline| self.now < deadline) {
            return;
        }
        match self.state {
            Phase::FullSync { heard, .. } => {
                let silent = self.now >= heard + self.timings.list_silence;
                self.fail(Failure::Timeout(if silent {
                    "the MUPDATE master fell silent in the middle of its list"
                } else {
                    "the MUPDATE master does not come to the end of its list"
                }));
            }
            Phase::Listed { noop: Noop::Due(_) } => self.ask(),
            Phase::Listed { .. } => {
                self.fail(Failure::Timeout("the MUPDATE master did not answer a NOOP in time"));
            }
            Phase::Failed(_) => {}
        }
    }

    fn ask(&mut self) {
        self.noops += 1;
        let tag = Tag::new('N', self.noops);
        Command::Noop.encode(tag, &mut self.output);
        self.state = Phase::Listed { noop: Noop::Asked(tag, self.now) };
    }

    fn fail(&mut self, failure: Failure) {
        if !matches!(self.state, Phase::Failed(_)) {
            self.state = Phase::Failed(failure);
            self.input.clear();
            self.output.clear();
        }
    }

    fn read(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            let Some(response) = Response::read(&mut self.input)? else {
                if self.input.again() {
                    continue;
                }
                return Ok(None);
            };
            match response {
                Response::Record { state, name, location, acl, is_long, .. } => {
                    if matches!(self.state, Phase::FullSync { .. }) {
                        self.listed.names += 1;
                        if self.listed.names > self.limit.names {
                            let limit = self.limit.names;
                            return Err(Failure::TooLong { what: "names", limit });
                        }
                    }
                    let Ok(name) = MailboxName::new(name) else {
                        self.skipped += 1;
                        continue;
                    };
                    let record = match value::of_location(state, &location, &acl) {
                        Ok(record) if !is_long => record,
                        _ => {
                            self.doubtful += 1;
                            self.first_doubtful.get_or_insert_with(|| name.clone());
                            doubtful()
                        }
                    };
                    return Ok(Some(Event::Record(name, record)));
                }
                Response::Deleted { name, .. } => {
                    if matches!(self.state, Phase::FullSync { .. }) {
                        return Err(Failure::protocol("DELETE in the middle of the list"));
                    }
                    match MailboxName::new(name) {
                        Ok(name) => return Ok(Some(Event::Deleted(name))),
                        Err(_) => self.skipped += 1,
                    }
                }
                Response::Status { status: Status::Bye, text, .. } => {
                    return Err(Failure::Bye(printable(&text)));
                }
                Response::Status { status: Status::Ok, tag, text } => match self.state {
                    Phase::FullSync { .. } if UPDATE.is(tag) => {
                        self.ask();
                        return Ok(Some(Event::Listed));
                    }
                    Phase::Listed { noop: Noop::Asked(noop, asked) } if noop.is(tag) => {
                        let due = self.now.max(asked + self.timings.noop_every);
                        self.state = Phase::Listed { noop: Noop::Due(due) };
                        return Ok(Some(Event::Current { asked }));
                    }
                    _ if tag == b"*" => {}
                    _ => return Err(unasked(&text)),
                },
                Response::Status { text, .. } => {
                    return Err(Failure::protocol(format!("it refused: `{}`", printable(&text))));
                }
                Response::Other(line) => unknown(line)?,
            }
        }
    }
}

/// Returns the record of a mailbox that exists at an unknown location.
pub(super) fn doubtful() -> Record {
    Record {
        state: State::Reserved,
        server: None,
        partition: String::new(),
        anonymous: AnonymousRights::default(),
    }
}
