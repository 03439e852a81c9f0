//! Explains a configuration and warns of its consequences, for `murder-route check` and the doctor.

mod endpoints;
mod mupdate;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;

pub(crate) use self::mupdate::{AskMaster, MasterAnswer};
use crate::config::{ReplicaSettings, Settings, SourceName};
use crate::lists::user_deny::UserDeny;
use crate::lists::{FileList, FileListOptions, FileListStatus};
use crate::model::list::MailboxList;
use crate::model::name::KeyGeneration;
use crate::replica::store::{Error, ReplicaList};
use crate::replica::utc;
use crate::routing::maps::UnknownPolicy;

/// Warnings of [`CheckReport`]. `ask`: see [`CheckReport::new`].
pub(super) fn warnings(settings: &Settings, ask: AskMaster<'_>) -> Vec<String> {
    CheckReport::new(settings, ask).warnings
}

/// Why `check` fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckFailure {
    /// The daemon does not start, or routes nothing.
    Configuration,
    /// The MUPDATE server refuses the login.
    Login,
}

/// Explanation of a configuration, with warnings.
#[derive(Default)]
pub(crate) struct CheckReport {
    lines: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    /// Servers in the lists that could be read completely.
    servers: BTreeSet<String>,
    /// Whether a list could not be read, so that `servers` is incomplete.
    unread: bool,
    /// Set if the configuration cannot be used.
    pub(crate) failure: Option<CheckFailure>,
}

impl CheckReport {
    /// Explains these settings. `ask` asks the MUPDATE server once.
    pub(crate) fn new(settings: &Settings, ask: AskMaster<'_>) -> Self {
        let warnings = settings.warnings.iter().map(ToString::to_string).collect();
        let mut report = Self { warnings, ..Self::default() };
        report.files(settings);
        report.sources(settings);
        report.unknown(settings, ask);
        report.names(settings);
        report.blocked(settings);
        report.backends(settings);
        report.answers(settings);
        report.sockets(settings);
        report
    }

    fn line(&mut self, label: &'static str, text: impl Into<String>) {
        self.lines.push((label, text.into()));
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    fn fail(&mut self, why: &str) {
        self.failure = Some(CheckFailure::Configuration);
        self.warn(format!("the daemon does not start: {why}"));
    }

    fn files(&mut self, settings: &Settings) {
        let path_or_none = |path: &Option<std::path::PathBuf>| match path {
            Some(path) => path.display().to_string(),
            None => "none".into(),
        };
        self.line("configuration", path_or_none(&settings.file));
        self.line("imapd.conf", path_or_none(&settings.imapd_conf));
    }

    fn sources(&mut self, settings: &Settings) {
        for source in &settings.sources {
            match (source, &settings.mailboxes_db) {
                (SourceName::MailboxesDb, Some(path)) => self.file(path, settings),
                (SourceName::MailboxesDb, None) => {}
                (SourceName::Replica, _) => self.replica(&settings.replica),
                (SourceName::Find, _) => {
                    self.line("source", "find: every recipient is looked up at the MUPDATE master")
                }
            }
        }
    }

    fn file(&mut self, path: &Path, settings: &Settings) {
        let list = FileList::open(path, FileListOptions::default());
        let path = path.display();
        match list.status() {
            Ok(status) => {
                self.line("mailbox list", format!("{path}: {}", describe(&status)));
                if status.key_generation == Some(KeyGeneration::Internal)
                    && !settings.router.older.is_empty()
                {
                    self.warn(
                        "the list is of Cyrus 3.4 or older: set `cyrus-release`, so that mailbox names \
                         are formed as by that release (until then names of 2.x and 3.0 are tried too)",
                    );
                }
            }
            Err(why) => {
                self.line("mailbox list", format!("{path}: cannot be read"));
                let deferred = match settings.sources.len() {
                    1 => "all recipients are deferred",
                    _ => "unknown recipients are deferred",
                };
                self.warn(format!("{why}; {deferred}"));
            }
        }
        if let (Ok(_), Err(why)) = (list.status(), list.trust()) {
            self.warn(format!("{why}; unknown recipients are deferred"));
        }
        self.servers_of(&list);
    }

    /// Adds the servers of a list.
    fn servers_of(&mut self, list: &dyn MailboxList) {
        let servers = &mut self.servers;
        let read = list.each(b"", &mut |_, record| {
            if let Some(server) = &record.server
                && !servers.contains(server)
            {
                servers.insert(server.clone());
            }
            ControlFlow::Continue(())
        });
        self.unread |= read.is_err();
    }

    fn replica(&mut self, replica: &ReplicaSettings) {
        let directory = replica.directory.display();
        let opened = ReplicaList::open(&replica.directory)
            .map_err(|source| Error::Io { path: replica.directory.clone(), source });
        match &opened {
            Ok(list) => self.servers_of(list),
            Err(_) => self.unread = true,
        }
        match opened.and_then(|list| list.about()) {
            Ok((about, names)) => {
                let as_of = about.as_of.map_or_else(
                    || "never synchronised".to_owned(),
                    |as_of| format!("of {}, as of {}", about.master, utc(as_of)),
                );
                self.line("replica", format!("{directory}: {names} names, {as_of}"));
                if let Err(why) = about.misses(names) {
                    self.warn(format!("{directory}: {why}; unknown recipients are deferred"));
                }
            }
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                self.line("replica", format!("{directory}: not there yet"));
                self.warn("the replica is empty; all recipients are deferred; start the daemon, which reads the master's list");
            }
            Err(why) => {
                self.line("replica", format!("{directory}: cannot be read"));
                self.warn(format!("{why}; unknown recipients are deferred"));
            }
        }
    }

    fn names(&mut self, settings: &Settings) {
        let domains = &settings.router.domains;
        if domains.is_empty() {
            self.failure = Some(CheckFailure::Configuration);
            self.warn(
                "no `domains`: all recipients are foreign and none is routed; set \
                 domains = [\"example.org\"]",
            );
        }
        let named = match domains.is_every() {
            true => "every domain".to_owned(),
            false => domains.names().join(", "),
        };
        self.line("domains", if named.is_empty() { "none".into() } else { named });
        let rules = &settings.router.rules;
        let mut text = format!("virtdomains {}", if rules.virtdomains { "on" } else { "off" });
        if let Some(domain) = &rules.defaultdomain {
            let _ = write!(text, ", defaultdomain {domain}");
        }
        let separator = if rules.unixhierarchysep { "/" } else { "." };
        let _ = write!(text, ", folders separated by `{separator}`");
        if rules.downcase {
            text += ", case-insensitive";
        }
        self.line("names", text);
        self.line("shared folders", format!("`{}+FOLDER`", rules.postuser));
        if let Some(catchall) = &rules.catchall {
            self.line("catch-all", catchall.clone());
        }
        if rules.fuzzy {
            self.line("fuzzy", "a shared folder is also found by a similar name");
        }
    }

    fn blocked(&mut self, settings: &Settings) {
        let Some((path, service)) = &settings.user_deny else { return };
        match UserDeny::open(path, service).status() {
            Ok(0) => {}
            Ok(users) => {
                let text = format!("{}: {users} users blocked from some service", path.display());
                self.line("blocked users", format!("{text}; those from {service} are deferred"));
            }
            Err(why) => self.warn(format!("{why}; users blocked by `cyr_deny` still get mail")),
        }
    }

    fn answers(&mut self, settings: &Settings) {
        let maps = &settings.maps;
        self.line("maps", maps.names().collect::<Vec<_>>().join(", "));
        self.line(
            "unknown users",
            match maps.unknown {
                UnknownPolicy::Reject => "rejected",
                UnknownPolicy::NotFound => "NOTFOUND: left to the mail server",
                UnknownPolicy::Defer => "deferred",
            },
        );
        if let Some(fallback) = &maps.fallback {
            self.line("fallback", format!("recipients without a mailbox go to {fallback}"));
        }
    }
}

fn describe(status: &FileListStatus) -> String {
    let keys = match status.key_generation {
        Some(KeyGeneration::Internal) => "keys of Cyrus 3.4 or older",
        Some(KeyGeneration::Separated) => "keys of Cyrus 3.6 or newer",
        None => "keys of either generation",
    };
    let dirty = if status.dirty { ", a transaction is open" } else { "" };
    format!("{}, {} records, {keys}, {} bytes{dirty}", status.engine, status.records, status.size)
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (label, text) in &self.lines {
            writeln!(f, "{label:<16}{text}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
