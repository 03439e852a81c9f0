//! `murder-route check`: what the configuration means, and what will hurt.

use std::fmt::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::{Common, Exit};
use crate::backend::Override;
use crate::config::{DEFAULT_SOCKET, Settings};
use crate::endpoint::{DEFAULT_MODE, Endpoint};
use crate::mailbox::KeyGeneration;
use crate::mailbox_list::kick::kick;
use crate::mailbox_list::{FileList, Options, Status};
use crate::maps::UnknownPolicy;

/// Read the configuration and say what it means and what will hurt.
///
/// Run it as the user of the daemon, who may see less than you.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 the configuration can be used, whatever warnings there are; \
                        64 usage, 78 configuration."
)]
pub(super) struct Check {
    #[command(flatten)]
    common: Common,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Exit> {
        let settings = Settings::load(&self.common.overrides(&[])).map_err(|e| {
            eprintln!("murder-route: {e}");
            Exit::Config
        })?;
        super::say(&Report::new(&settings))
    }
}

/// What is said, and warned of.
#[derive(Default)]
struct Report {
    lines: Vec<(&'static str, String)>,
    warnings: Vec<String>,
}

impl Report {
    fn new(settings: &Settings) -> Self {
        let mut report = Self { warnings: settings.warnings.clone(), ..Self::default() };
        report.files(settings);
        report.list(settings);
        report.names(settings);
        report.backends(settings);
        report.answers(settings);
        report.sockets(settings);
        report
    }

    fn say(&mut self, what: &'static str, text: impl Into<String>) {
        self.lines.push((what, text.into()));
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    fn files(&mut self, settings: &Settings) {
        let shown = |path: &Option<std::path::PathBuf>| match path {
            Some(path) => path.display().to_string(),
            None => "none".into(),
        };
        self.say("configuration", shown(&settings.file));
        self.say("imapd.conf", shown(&settings.imapd_conf));
        if settings.imapd_conf.is_none() {
            self.warn(
                "no imapd.conf: names are made as if it set nothing, and a miss is believed \
                 although the list may lag; give `imapd-conf` on a host of a murder",
            );
        }
    }

    fn list(&mut self, settings: &Settings) {
        let list = FileList::open(&settings.mailboxes_db, Options::default());
        let path = settings.mailboxes_db.display();
        match list.status() {
            Ok(status) => {
                self.say("mailbox list", format!("{path}: {}", in_words(&status)));
                if status.key_generation == Some(KeyGeneration::Internal)
                    && !settings.router.older.is_empty()
                {
                    self.warn(
                        "the list is of Cyrus 3.4 or older: set `cyrus-release`, so that names are \
                         made as that release does (until then those of 2.x are tried as well)",
                    );
                }
            }
            Err(why) => {
                self.say("mailbox list", format!("{path}: cannot be read"));
                self.warn(format!("every recipient is deferred: {why}"));
            }
        }
        if let (Ok(_), Err(why)) = (list.status(), list.trust()) {
            self.warn(format!("nobody is called unknown: {why}"));
        }
        match (&settings.mupdate_server, &settings.kick_socket) {
            (Some(server), Some(socket)) => {
                self.say(
                    "unknown is",
                    format!(
                        "what the MUPDATE slave of this host confirms, at {} (master: {server})",
                        socket.display()
                    ),
                );
                if let Err(why) = kick(socket, Duration::from_secs(4)) {
                    self.warn(format!("the list may be stale, so nobody is called unknown: {why}"));
                }
            }
            _ => self.say("unknown is", "what the list does not hold (there is no MUPDATE server)"),
        }
    }

    fn names(&mut self, settings: &Settings) {
        let domains = &settings.router.domains;
        if domains.is_empty() {
            self.warn("no `domains`: every recipient is foreign, so nothing is routed");
        }
        let named = match domains.is_every() {
            true => "every domain".to_owned(),
            false => domains.names().join(", "),
        };
        self.say("domains", if named.is_empty() { "none".into() } else { named });
        let rules = &settings.router.rules;
        let mut text = format!("virtdomains {}", if rules.virtdomains { "on" } else { "off" });
        if let Some(domain) = &rules.defaultdomain {
            let _ = write!(text, ", defaultdomain {domain}");
        }
        let separator = if rules.unixhierarchysep { "/" } else { "." };
        let _ = write!(text, ", folders separated by `{separator}`");
        if rules.downcase {
            text += ", upper and lower case are one";
        }
        self.say("names", text);
        self.say("shared folders", format!("`{}+FOLDER`", rules.postuser));
        if let Some(catchall) = &rules.catchall {
            self.say("catch-all", catchall.clone());
        }
        if rules.fuzzy {
            self.say("fuzzy", "a shared folder may be named nearly right");
        }
    }

    fn backends(&mut self, settings: &Settings) {
        let backends = &settings.router.backends;
        self.say(
            "backends",
            format!(
                "transport {}, port {} unless the list says so",
                backends.transport, backends.port
            ),
        );
        for (server, Override { place, transport, drain }) in backends.overrides() {
            let mut text = format!("{server}:");
            if let Some(place) = place {
                let _ = write!(text, " at {place}");
            }
            if let Some(transport) = transport {
                let _ = write!(text, " transport {transport}");
            }
            if *drain {
                text += " drained: its letters wait";
            }
            self.say("", text);
        }
        self.say(
            "local mailboxes",
            match &backends.local {
                Some(place) => format!("at {place}"),
                None => "their letters are deferred".into(),
            },
        );
    }

    fn answers(&mut self, settings: &Settings) {
        let maps = &settings.maps;
        self.say("maps", maps.names().collect::<Vec<_>>().join(", "));
        self.say(
            "unknown users",
            match maps.unknown {
                UnknownPolicy::Reject => "rejected",
                UnknownPolicy::NotFound => "NOTFOUND: left to the mail server",
                UnknownPolicy::Defer => "deferred",
            },
        );
        if let Some(fallback) = &maps.fallback {
            self.say("fallback", format!("{fallback} gets what we would not deliver"));
        }
    }

    fn sockets(&mut self, settings: &Settings) {
        if settings.listeners.is_empty() {
            self.say("listening at", format!("unix:{DEFAULT_SOCKET}, or systemd's socket"));
        }
        for listen in &settings.listeners {
            let mut text = listen.endpoint.to_string();
            if let Endpoint::Unix(path) = &listen.endpoint {
                let _ = write!(text, " mode {:04o}", listen.options.mode.unwrap_or(DEFAULT_MODE));
                for (what, who) in
                    [("owner", &listen.options.owner), ("group", &listen.options.group)]
                {
                    if let Some(who) = who {
                        let _ = write!(text, " {what} {who}");
                    }
                }
                self.socket_directory(path);
            }
            self.say("listening at", text);
        }
    }

    fn socket_directory(&mut self, socket: &Path) {
        let Some(directory) = socket.parent() else { return };
        match directory.metadata() {
            Ok(metadata) if metadata.mode() & 0o002 != 0 => self.warn(format!(
                "{} is writable by everybody: anyone could put a socket of his own there",
                directory.display()
            )),
            Ok(_) => {}
            Err(e) => self.warn(format!("{}: {e}", directory.display())),
        }
    }
}

fn in_words(status: &Status) -> String {
    let keys = match status.key_generation {
        Some(KeyGeneration::Internal) => "keys as up to Cyrus 3.4",
        Some(KeyGeneration::Separated) => "keys as from Cyrus 3.6 on",
        None => "keys of either generation",
    };
    let dirty = if status.dirty { ", a transaction is open" } else { "" };
    format!("{}, {} records, {keys}, {} bytes{dirty}", status.engine, status.records, status.size)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, text) in &self.lines {
            writeln!(f, "{what:<16}{text}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
