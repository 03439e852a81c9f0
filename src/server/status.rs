//! Snapshot of the daemon for `murder-route status`.

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

/// Answer of [`STATUS_MAP`](crate::routing::maps::STATUS_MAP). A member that does not apply is `null`.
#[derive(Debug, Clone, Serialize)]
pub struct DaemonStatus {
    /// The daemon's version.
    pub version: &'static str,
    /// State of the worst source: see [`SourceStatus::state`].
    pub state: String,
    /// The names of the sources, separated by commas, as `--source` takes them.
    pub source: String,
    /// The sources, in the order in which they are asked.
    pub sources: Vec<SourceStatus>,
    /// Time of the replica's last full sync (RFC 3339).
    pub synchronised: Option<String>,
    /// Time since which changes may be missing (RFC 3339), if they may.
    pub stale_since: Option<String>,
    /// Age of the last barrier in seconds: the replica has every change from before it.
    pub barrier_age: Option<f64>,
    /// The master, as its banner names it.
    pub master: Option<String>,
    /// Why misses cannot be confirmed by the master, or by the slave of this host in its place, if so.
    pub trouble: Option<String>,
    /// Number of names in the replica, or else in the list of this host.
    pub names: Option<u64>,
    /// Number of names that vanished from the master's list without a DELETE. They are deferred.
    pub missing: Option<u64>,
    /// Number of unusable records in the master's last list. Their mail is deferred.
    pub unusable: Option<u64>,
    /// Number of mailboxes that are reserved or moving.
    pub reserved: usize,
    /// Those reserved or moving for the longest time.
    pub waiting: Vec<WaitingStatus>,
    /// Mailboxes that two backends claim in turn.
    pub flipping: Vec<FlipStatus>,
    /// Open connections of mail servers.
    pub connections: usize,
    /// Number of log lines lost since the start of the daemon: they could not be written, or not fast
    /// enough.
    pub log_lines_lost: u64,
    /// Counters since the start of the daemon.
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
    /// Minimum number of seconds in this state.
    pub seconds: u64,
}

/// A mailbox that two backends claim in turn.
#[derive(Debug, Clone, Serialize)]
pub struct FlipStatus {
    /// Its name.
    pub mailbox: String,
    /// The backends.
    pub servers: [String; 2],
    /// Number of times that its location went back within a day.
    pub times: u32,
}

/// State of one source.
#[derive(Debug, Clone, Serialize)]
pub struct SourceStatus {
    /// `mailboxes-db`, `replica` or `find`.
    pub source: &'static str,
    /// Of the replica: `fresh`, `stale`, `never` synchronised or `held-back`. Of the list of this host:
    /// `file`, `doubted` (it lost many names, is damaged or is empty) or `unreadable`. With `find`:
    /// `connected` or `unconnected`.
    pub state: String,
    /// Why misses in this source are deferred, if they are.
    pub doubt: Option<String>,
}

impl DaemonStatus {
    /// Takes the snapshot. Waits for locks if necessary. `slave_trouble`: why the slave of this host does not
    /// answer, where it replaces the master.
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
            let source = match source {
                Source::File(list) => status.file(list),
                Source::Replica(replica) => status.replica(replica.trust.status()),
            };
            status.sources.push(source);
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

    /// Adds the mailboxes that are reserved or moving, with their ages.
    pub(super) fn set_waiting(&mut self, waiting: &[(Stuck, Duration)]) {
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
        let doubt = doubt.map(|doubt| doubt.to_string());
        SourceStatus { source: "mailboxes-db", state: state.into(), doubt }
    }

    fn replica(&mut self, replica: Option<crate::replica::ReplicaStatus>) -> SourceStatus {
        let Some(replica) = replica else {
            let doubt = Some("the replica is not open".into());
            return SourceStatus { source: "replica", state: "never".into(), doubt };
        };
        let stale = replica.state == "stale";
        self.synchronised = replica.synchronised.map(utc);
        let now = std::time::SystemTime::now();
        self.stale_since =
            replica.age.filter(|_| stale).and_then(|age| now.checked_sub(age)).map(utc);
        // To the millisecond.
        self.barrier_age = replica.age.map(|age| (age.as_secs_f64() * 1000.0).round() / 1000.0);
        self.names = Some(replica.names);
        self.missing = Some(replica.missing);
        self.unusable = replica.unusable;
        let flipping = replica.flipping.into_iter().take(MAX_NAMED).map(|flip| FlipStatus {
            mailbox: flip.name.to_string(),
            servers: flip.servers,
            times: flip.times,
        });
        self.flipping = flipping.collect();
        if !replica.master.is_empty() {
            self.master = Some(replica.master);
        }
        SourceStatus {
            source: "replica",
            state: replica.state.into(),
            doubt: replica.doubt.map(|d| d.to_string()),
        }
    }
}
