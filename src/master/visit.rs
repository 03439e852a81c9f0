//! One connection to a MUPDATE server for all questions of a command.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::connection::Connection;
use super::upstream::{self, PIECE, Upstream};
use crate::master::client::{Asking, Impossible, Master, MasterView};
use crate::model::doubt::{Doubt, Doubtful};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::mupdate::{Failure, FailureKind, Finder, Finding, Listed, Need, Session, family};
use crate::replica::generation;

/// A connection that is made once, at the first question, and ended by [`end`](Self::end). It is not
/// repeated after a failure: `mupdate` of Cyrus 3.2 and 3.6 may die of each connection under TLS that
/// ends, and a diagnosis of a site must not damage it further.
pub struct Visit {
    upstream: Upstream,
    need: Need,
    state: tokio::sync::Mutex<State>,
    known: Mutex<Known>,
}

enum State {
    Before,
    In(Box<Connection>, Box<Finder>),
    Failed(Failure),
}

#[derive(Debug, Default)]
struct Known {
    server: Option<String>,
    release: String,
    tls: bool,
    failure: Option<Failure>,
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visit").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl Visit {
    /// A visit without a connection yet. `need`: whether a slave will do.
    pub fn new(upstream: Upstream, need: Need) -> Self {
        let (state, known) = (tokio::sync::Mutex::new(State::Before), Mutex::default());
        Self { upstream, need, state, known }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects and logs in, unless that was tried before.
    async fn entered(&self) -> tokio::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().await;
        if !matches!(*state, State::Before) {
            return state;
        }
        let mut last = Failure::Network("no MUPDATE server is configured".into());
        for server in 0..self.upstream.servers().len() {
            match self.upstream.log_in(server, self.need).await {
                Err(failure) => last = failure,
                Ok((connection, session)) => {
                    *state = self.logged_in(connection, session);
                    return state;
                }
            }
        }
        self.fail(&mut state, last);
        state
    }

    fn logged_in(&self, connection: Connection, session: Session) -> State {
        let mut known = self.known();
        known.server = Some(session.banner.server.clone());
        known.release.clone_from(&session.banner.release);
        known.tls = session.tls;
        let timings = self.upstream.timings();
        let finder = Finder::new(session, timings, self.upstream.clock().now());
        State::In(Box::new(connection), Box::new(finder))
    }

    fn fail(&self, state: &mut State, failure: Failure) {
        let mut known = self.known();
        known.failure = Some(failure.clone());
        *state = State::Failed(failure);
    }

    /// Reason why there is no connection, if one was tried.
    pub fn failure(&self) -> Option<Failure> {
        self.known().failure.clone()
    }

    /// Release of the server, if it may die of a connection under TLS that ends, as this one will.
    pub fn is_harmed(&self) -> Option<String> {
        let known = self.known();
        let harmed = matches!(family(&known.release), Some((3, 2..=6)));
        (known.tls && harmed).then(|| known.release.clone())
    }

    /// Reads the whole list, record by record.
    ///
    /// # Errors
    ///
    /// The reason why the list is incomplete; the records read until then must not be used.
    pub async fn list(
        &self,
        each: &mut (dyn FnMut(MailboxName, Record) + Send),
    ) -> Result<(), Failure> {
        let mut state = self.entered().await;
        let (connection, finder) = match &mut *state {
            State::In(connection, finder) => (connection, finder),
            State::Failed(failure) => return Err(failure.clone()),
            State::Before => return Err(Failure::Network("there is no connection".into())),
        };
        let read = read_list(&self.upstream, connection, finder, each).await;
        if let Err(failure) = &read {
            self.fail(&mut state, failure.clone());
        }
        read
    }

    /// Says goodbye, if there is a connection.
    pub async fn end(&self) {
        let mut state = self.state.lock().await;
        if let State::In(connection, finder) = &mut *state {
            finder.log_out();
            let goodbye = std::mem::take(finder.output());
            // A failure is harmless: this was the last command.
            let _ = upstream::send(connection, &goodbye).await;
            *state = State::Failed(Failure::Closed("as we asked it to"));
        }
    }

    async fn ask(&self, name: &MailboxName) -> Result<Finding, Impossible> {
        let mut state = self.entered().await;
        let failure = match &mut *state {
            State::In(connection, finder) => {
                match find(&self.upstream, connection, finder, name).await {
                    Ok(finding) => return Ok(finding),
                    Err(failure) => failure,
                }
            }
            State::Failed(failure) => failure.clone(),
            State::Before => Failure::Network("there is no connection".into()),
        };
        self.fail(&mut state, failure.clone());
        match failure.kind() {
            FailureKind::Config => Err(Impossible(failure.to_string())),
            _ => {
                let text = format_args!("{}: {failure}", self.upstream.named());
                Ok(Finding::Unsure(Doubt::new(failure.doubt_kind(), text)))
            }
        }
    }
}

impl MasterView for Visit {
    fn trouble(&self) -> Option<String> {
        self.known().failure.as_ref().map(ToString::to_string)
    }

    fn is_impossible(&self) -> bool {
        self.known().failure.as_ref().is_some_and(|f| f.kind() == FailureKind::Config)
    }
}

impl Master for Visit {
    fn find<'a>(&'a self, name: &'a MailboxName) -> Asking<'a, Result<Finding, Impossible>> {
        Box::pin(self.ask(name))
    }

    fn servername(&self) -> Option<String> {
        self.known().server.clone()
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        generation(&self.known().release)
    }
}

/// Asks for one name.
async fn find(
    upstream: &Upstream,
    connection: &mut Connection,
    finder: &mut Finder,
    name: &MailboxName,
) -> Result<Finding, Failure> {
    let clock = upstream.clock();
    let ticket = match finder.ask(name.clone(), clock.now()) {
        Ok(ticket) => ticket,
        Err(finding) => return Ok(finding),
    };
    let mut piece = vec![0; PIECE];
    loop {
        // The answer to an abandoned question comes first.
        while let Some((answered, _, finding)) = finder.next()? {
            if answered == ticket {
                return Ok(finding);
            }
        }
        let output = std::mem::take(finder.output());
        upstream::send(connection, &output).await?;
        tokio::select! {
            biased;
            read = connection.read(&mut piece) => {
                match read.map_err(|e| Failure::Network(e.to_string()))? {
                    0 => finder.closed(),
                    read => finder.receive(upstream::bytes(&piece, read), clock.now()),
                }
            }
            () = clock.reach(finder.deadline()) => finder.tick(clock.now()),
        }
    }
}

async fn read_list(
    upstream: &Upstream,
    connection: &mut Connection,
    finder: &mut Finder,
    each: &mut (dyn FnMut(MailboxName, Record) + Send),
) -> Result<(), Failure> {
    let clock = upstream.clock();
    finder.ask_for_list(clock.now())?;
    let output = std::mem::take(finder.output());
    upstream::send(connection, &output).await?;
    let mut piece = vec![0; PIECE];
    let end = clock.now() + upstream.timings().list;
    loop {
        loop {
            match finder.next_listed()? {
                Listed::Record(name, record) => each(name, record),
                Listed::End => return Ok(()),
                Listed::More => break,
            }
        }
        let silent = clock.now() + upstream.timings().list_silence;
        tokio::select! {
            biased;
            read = connection.read(&mut piece) => {
                match read.map_err(|e| Failure::Network(e.to_string()))? {
                    0 => return Err(Failure::Closed("while it sent its list")),
                    read => finder.receive(upstream::bytes(&piece, read), clock.now()),
                }
            }
            () = clock.reach(Some(silent.min(end))) => {
                return Err(Failure::Timeout(
                    "the MUPDATE server does not come to the end of its list",
                ));
            }
        }
    }
}
