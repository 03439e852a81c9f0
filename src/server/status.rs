//! How the daemon is, for `murder-route status`.

use std::time::Duration;

use serde::Serialize;

use super::counters::Counted;
use crate::lists::Inspection;
use crate::lists::combined::Source;
use crate::master::client::Master;
use crate::model::daemon_state::is_healthy;
use crate::model::unsettled::Stuck;
use crate::replica::utc;
use crate::resolver::Resolver;
use crate::routing::confirm::ConfirmVia;

/// What [`STATUS_MAP`](crate::routing::maps::STATUS_MAP) answers. A member that does not apply is `null`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: &'static str,
    /// That of the source which is worst off: see [`SourceStatus::state`].
    pub state: String,
    /// The names of the sources, separated by commas, as `--source` takes them.
    pub source: String,
    /// The sources, in the order in which they are asked.
    pub sources: Vec<SourceStatus>,
    /// When the replica's last full list was taken over (RFC 3339).
    pub synchronised: Option<String>,
    /// Since when changes may be missing (RFC 3339), if they may.
    pub stale_since: Option<String>,
    /// How old the last barrier is, in seconds: the replica has every change from before it.
    pub barrier_age: Option<f64>,
    /// The master, as its banner names it.
    pub master: Option<String>,
    /// Why the master, or the slave of this host where that stands in for him, cannot be asked who is
    /// unknown, if that is so.
    pub trouble: Option<String>,
    /// How many names the replica, or else the list of this host, holds.
    pub names: Option<u64>,
    /// How many names have vanished from the master's list without being deleted, and are deferred.
    pub missing: Option<u64>,
    /// How many records of the master's last list could not be used; their mail is deferred.
    pub unusable: Option<u64>,
    /// How many mailboxes are reserved or moving.
    pub reserved: usize,
    /// Those of them that have been so for the longest time.
    pub waiting: Vec<WaitingStatus>,
    /// Mailboxes that two backends claim in turn.
    pub flipping: Vec<FlipStatus>,
    /// Open connections of mail servers.
    pub connections: usize,
    /// Lines of the log that were lost since the daemon began: it could not be written, or not fast
    /// enough.
    pub log_lines_lost: u64,
    /// What was answered since the daemon began.
    pub counters: Counted,
}

/// Maximum number of mailboxes named in a status.
const MAX_NAMED: usize = 20;

/// A mailbox that is reserved or moving.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingStatus {
    /// Its name.
    pub mailbox: String,
    /// `reserved` or `moving`.
    pub state: &'static str,
    /// The server of its record.
    pub server: Option<String>,
    /// For how many seconds it has been seen so, at least.
    pub seconds: u64,
}

/// A mailbox that two backends claim in turn.
#[derive(Debug, Clone, Serialize)]
pub struct FlipStatus {
    /// Its name.
    pub mailbox: String,
    /// The backends.
    pub servers: [String; 2],
    /// How often its location went back within a day.
    pub times: u32,
}

/// How one source is.
#[derive(Debug, Clone, Serialize)]
pub struct SourceStatus {
    /// `mailboxes-db`, `replica` or `find`.
    pub source: &'static str,
    /// The replica is `fresh`, `stale`, `never` synchronised or `held-back`; the list of this host
    /// is a `file`, `doubted` because it has shrunk, is damaged or is empty, or `unreadable`; with `find`, the
    /// master is `connected` or `unconnected`.
    pub state: String,
    /// Why this source makes nobody unknown, if that is so.
    pub doubt: Option<String>,
}

impl Status {
    /// What can be said now. Waits for locks if it must. `slave_trouble`: what came of asking the
    /// slave of this host, where that stands in for the master.
    pub fn of(
        resolver: &Resolver,
        master: Option<&dyn Master>,
        slave_trouble: Option<String>,
        connections: usize,
        counters: Counted,
    ) -> Self {
        let trouble = match (&resolver.proof, master) {
            (ConfirmVia::Master { .. }, None) => {
                Some("there is no connection to the master".to_owned())
            }
            (ConfirmVia::Master { slave: Some(_) }, Some(master)) if master.is_impossible() => {
                slave_trouble
            }
            (ConfirmVia::Master { .. }, Some(master)) => master.trouble(),
            (ConfirmVia::List | ConfirmVia::Complete | ConfirmVia::Slave(_), _) => slave_trouble,
        };
        let mut status = Self {
            version: env!("CARGO_PKG_VERSION"),
            state: String::new(),
            source: String::new(),
            sources: Vec::new(),
            synchronised: None,
            stale_since: None,
            barrier_age: None,
            master: master.and_then(Master::servername),
            trouble,
            names: None,
            missing: None,
            unusable: None,
            reserved: 0,
            waiting: Vec::new(),
            flipping: Vec::new(),
            connections,
            log_lines_lost: super::log::lost(),
            counters,
        };
        for source in resolver.lists.sources() {
            let said = match source {
                Source::File(list) => status.file(list),
                Source::Replica(replica) => status.replica(replica.trust.status()),
            };
            status.sources.push(said);
        }
        if status.sources.is_empty() {
            let state = if status.trouble.is_some() { "unconnected" } else { "connected" };
            let doubt = status.trouble.clone();
            status.sources.push(SourceStatus { source: "find", state: state.into(), doubt });
        }
        let named: Vec<&str> = status.sources.iter().map(|source| source.source).collect();
        status.source = named.join(",");
        let worst = status.sources.iter().find(|source| !is_healthy(&source.state));
        let worst = worst.or(status.sources.first());
        status.state = worst.map_or_else(String::new, |source| source.state.clone());
        status
    }

    /// Names the mailboxes that are reserved or moving, and for how long.
    pub(super) fn wait(&mut self, waiting: &[(Stuck, Duration)]) {
        self.reserved = waiting.len();
        let named = waiting.iter().take(MAX_NAMED).map(|(waiting, age)| WaitingStatus {
            mailbox: waiting.name.to_string(),
            state: waiting.state.as_str(),
            server: waiting.server.clone(),
            seconds: age.as_secs(),
        });
        self.waiting = named.collect();
    }

    fn file(&mut self, list: &crate::lists::FileList) -> SourceStatus {
        let read = list.status();
        if let Ok(read) = &read {
            self.names = self.names.or(Some(read.records));
        }
        let (state, doubt) = match (read, list.inspect()) {
            (Err(why), _) | (_, Inspection::Unreadable(why)) => ("unreadable", Some(why)),
            (Ok(_), Inspection::Doubted(why)) => ("doubted", Some(why)),
            (Ok(_), Inspection::Well | Inspection::Locked) => ("file", None),
        };
        SourceStatus { source: "mailboxes-db", state: state.into(), doubt }
    }

    fn replica(&mut self, said: Option<crate::replica::Status>) -> SourceStatus {
        let Some(said) = said else {
            let doubt = Some("the replica is not open".into());
            return SourceStatus { source: "replica", state: "never".into(), doubt };
        };
        let stale = said.state == "stale";
        self.synchronised = said.synchronised.map(utc);
        let now = std::time::SystemTime::now();
        self.stale_since = said.age.filter(|_| stale).and_then(|age| now.checked_sub(age)).map(utc);
        // To the millisecond, which is more than anybody needs.
        self.barrier_age = said.age.map(|age| (age.as_secs_f64() * 1000.0).round() / 1000.0);
        self.names = Some(said.names);
        self.missing = Some(said.missing);
        self.unusable = said.unusable;
        let flipping = said.flipping.into_iter().take(MAX_NAMED).map(|flip| FlipStatus {
            mailbox: flip.name.to_string(),
            servers: flip.servers,
            times: flip.times,
        });
        self.flipping = flipping.collect();
        if !said.master.is_empty() {
            self.master = Some(said.master);
        }
        SourceStatus {
            source: "replica",
            state: said.state.into(),
            doubt: said.doubt.map(|d| d.to_string()),
        }
    }
}
