//! `murder-route check`: what the configuration means, and what will hurt.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::services::need;
use super::{Common, Exit};
use crate::config::{DEFAULT_SOCKET, Mupdate, ReplicaSettings, Settings, SourceName};
use crate::doctor::shown;
use crate::lists::user_deny::UserDeny;
use crate::lists::{FileList, Options, Status};
use crate::master::client::{Impossible, Master};
use crate::master::{Upstream, Visit};
use crate::model::backend::{Override, folded};
use crate::model::list::MailboxList;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::mupdate::{FailureKind, Finding, Mechanism, WhenTls};
use crate::os::kick::kick;
use crate::os::regular_file;
use crate::replica::store::{Error, ReplicaList};
use crate::replica::utc;
use crate::routing::confirm::ConfirmVia;
use crate::routing::maps::UnknownPolicy;
use crate::server::owner;
use crate::wire::endpoint::{DEFAULT_MODE, Endpoint};
use crate::wire::protocol::Protocols;

/// Read the configuration and say what it means and what will hurt.
///
/// Run it as the user of the daemon, who may see less than you.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 the configuration can be used, whatever warnings there are; \
                        64 usage, 77 the MUPDATE server does not let us in, 78 configuration, or no \
                        domains."
)]
pub(super) struct Check {
    #[command(flatten)]
    common: Common,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Exit> {
        let settings = Settings::load(&self.common.overrides(&[])).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Config
        })?;
        let report = Report::new(&settings, &|| Asked::by_itself(&settings));
        super::say(&report)?;
        report.exit.map_or(Ok(()), Err)
    }
}

/// What [`Check`] warns of. `ask`: what came of a question to the MUPDATE server.
pub(super) fn warnings(settings: &Settings, ask: Ask<'_>) -> Vec<String> {
    Report::new(settings, ask).warnings
}

/// Asks the MUPDATE server once. `None`: there is none, or it cannot be tried. `Err`: nothing starts with
/// the configuration.
type Ask<'a> = &'a dyn Fn() -> Option<Result<Asked, String>>;

/// What came of a question to the MUPDATE server.
pub(super) struct Asked {
    finding: Result<Finding, Impossible>,
    /// As it calls itself, if it let us in.
    server: Option<String>,
    failure: Option<FailureKind>,
    /// Its release, if the end of a connection harms it.
    harmed: Option<String>,
}

impl Asked {
    /// Asks for a name, which need not be there, as the daemon does for a miss.
    pub(super) async fn by(visit: &Visit) -> Option<Self> {
        let name = MailboxName::new("user.root").ok()?;
        Some(Self {
            finding: visit.find(&name).await,
            server: visit.servername(),
            failure: visit.failure().map(|failure| failure.kind()),
            harmed: visit.is_harmed(),
        })
    }

    /// The same over a connection for this alone.
    fn by_itself(settings: &Settings) -> Option<Result<Self, String>> {
        let upstream = match Upstream::new(settings.mupdate.as_ref()?) {
            Ok(upstream) => upstream,
            Err(why) => return Some(Err(why)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(async {
            let visit = Visit::new(upstream, need(settings));
            let asked = Self::by(&visit).await;
            visit.end().await;
            asked.map(Ok)
        })
    }
}

/// What is said, and warned of.
#[derive(Default)]
struct Report {
    lines: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    /// The servers of the lists that could be read whole.
    servers: BTreeSet<String>,
    /// A list could not be read, so the servers are not all known.
    unread: bool,
    /// With what the command ends, if not well.
    exit: Option<Exit>,
}

impl Report {
    fn new(settings: &Settings, ask: Ask<'_>) -> Self {
        let mut report = Self { warnings: settings.warnings.clone(), ..Self::default() };
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

    fn say(&mut self, what: &'static str, text: impl Into<String>) {
        self.lines.push((what, text.into()));
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    fn fail(&mut self, why: &str) {
        self.exit = Some(Exit::Config);
        self.warn(format!("nothing starts with this: {why}"));
    }

    fn files(&mut self, settings: &Settings) {
        let shown = |path: &Option<std::path::PathBuf>| match path {
            Some(path) => path.display().to_string(),
            None => "none".into(),
        };
        self.say("configuration", shown(&settings.file));
        self.say("imapd.conf", shown(&settings.imapd_conf));
    }

    fn sources(&mut self, settings: &Settings) {
        for source in &settings.sources {
            match (source, &settings.mailboxes_db) {
                (SourceName::MailboxesDb, Some(path)) => self.file(path, settings),
                (SourceName::MailboxesDb, None) => {}
                (SourceName::Replica, _) => self.replica(&settings.replica),
                (SourceName::Find, _) => {
                    self.say("source", "find: the MUPDATE master is asked for every recipient")
                }
            }
        }
    }

    fn file(&mut self, path: &Path, settings: &Settings) {
        let list = FileList::open(path, Options::default());
        let path = path.display();
        match list.status() {
            Ok(status) => {
                self.say("mailbox list", format!("{path}: {}", in_words(&status)));
                if status.key_generation == Some(KeyGeneration::Internal)
                    && !settings.router.older.is_empty()
                {
                    self.warn(
                        "the list is of Cyrus 3.4 or older: set `cyrus-release`, so that names are \
                         made as that release does (until then those of 2.x and 3.0 are tried as well)",
                    );
                }
            }
            Err(why) => {
                self.say("mailbox list", format!("{path}: cannot be read"));
                let whom = match settings.sources.len() {
                    1 => "every recipient is deferred",
                    _ => "nobody is called unknown",
                };
                self.warn(format!("{whom}: {why}"));
            }
        }
        if let (Ok(_), Err(why)) = (list.status(), list.trust()) {
            self.warn(format!("nobody is called unknown: {why}"));
        }
        self.servers_of(&list);
    }

    /// Notes the servers of a list.
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
                self.say("replica", format!("{directory}: {names} names, {as_of}"));
                if let Err(why) = about.misses(names) {
                    self.warn(format!("nobody is called unknown: {why}"));
                }
            }
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                self.say("replica", format!("{directory}: not there yet"));
                self.warn("nobody is known until the daemon has read the master's list: start it");
            }
            Err(why) => {
                self.say("replica", format!("{directory}: cannot be read"));
                self.warn(format!("nobody is called unknown until it can be: {why}"));
            }
        }
    }

    fn unknown(&mut self, settings: &Settings, ask: Ask<'_>) {
        if let Some(mupdate) = &settings.mupdate {
            self.mupdate(mupdate);
        }
        match &settings.proof {
            ConfirmVia::Master { slave } => {
                self.say("unknown is", "what the MUPDATE master confirms, name by name");
                self.master(ask, slave.as_deref());
            }
            ConfirmVia::Slave(socket) => {
                self.say(
                    "unknown is",
                    format!(
                        "what the MUPDATE slave of this host confirms, at {}",
                        socket.display()
                    ),
                );
                if let Err(why) = kick(socket, Duration::from_secs(4)) {
                    self.warn(format!("the list may be stale, so nobody is called unknown: {why}"));
                }
            }
            ConfirmVia::Complete => {
                self.say("unknown is", "what the list does not hold (there is no MUPDATE server)");
                let path = settings.mailboxes_db.as_deref().unwrap_or(Path::new(""));
                let list = FileList::open(path, Options::default());
                if let (Ok(()), Err(why)) = (list.trust(), list.is_complete()) {
                    self.warn(format!("unknown recipients are deferred: {why}"));
                }
            }
            ConfirmVia::List => self.say(
                "unknown is",
                "what the list does not hold, unconfirmed (misses = \"final\"): a lagging list can \
                 reject valid recipients",
            ),
        }
    }

    fn master(&mut self, ask: Ask<'_>, slave: Option<&Path>) {
        let Asked { finding: asked, server, failure, harmed } = match ask() {
            Some(Ok(asked)) => asked,
            Some(Err(why)) => return self.fail(&why),
            None => return,
        };
        if let Some(release) = harmed {
            self.warn(format!(
                "the MUPDATE server is Cyrus {}, whose mupdate may die when a connection under TLS ends, \
                 and each check, doctor, lookup and restart of the daemon ends one: upgrade it, or do \
                 without TLS (`tls = \"off\"`, with SCRAM) where the network is yours",
                shown(&release)
            ));
        }
        if matches!(failure, Some(FailureKind::Login | FailureKind::Config)) {
            self.exit.get_or_insert(Exit::NoPermission);
        }
        match (asked, slave) {
            (Ok(Finding::Found(_) | Finding::Absent), _) => {
                let server = server.unwrap_or_default();
                self.say("login", format!("worked: the server calls itself {}", shown(&server)));
            }
            (Ok(Finding::Unsure(why)), _) => self.warn(format!("nobody is called unknown: {why}")),
            (Err(why), Some(socket)) => {
                self.warn(format!(
                    "the master cannot be asked, so unknown is what the MUPDATE slave of this host \
                     confirms, at {}: {why}",
                    socket.display()
                ));
            }
            (Err(why), None) => self.warn(format!("nobody is called unknown: {why}")),
        }
    }

    fn mupdate(&mut self, mupdate: &Mupdate) {
        let servers: Vec<String> = mupdate.servers.iter().map(ToString::to_string).collect();
        self.say("MUPDATE server", servers.join(", then "));
        let mut text = match mupdate.tls.when {
            WhenTls::Off => "off",
            WhenTls::IfOffered => "where the server offers it",
            WhenTls::Required => "required",
        }
        .to_owned();
        if mupdate.tls.when != WhenTls::Off {
            match &mupdate.tls.ca_file {
                Some(path) => {
                    let _ = write!(text, ", verified by {}", path.display());
                }
                None => text += ", verified by the authorities of the system",
            }
            if let Some(name) = &mupdate.tls.name {
                let _ = write!(text, " as {name}");
            }
        }
        self.say("TLS", text);
        for path in
            mupdate.tls.ca_file.iter().chain(
                mupdate.tls.client.iter().flat_map(|client| [&client.certificate, &client.key]),
            )
        {
            if let Err(e) = regular_file::open(path) {
                self.warn(format!("{}: {e}", path.display()));
            }
        }
        let name = mupdate.credentials.name();
        self.say(
            "login as",
            format!(
                "{} ({})",
                if name.is_empty() { "the certificate's name" } else { name },
                mechanisms(mupdate)
            ),
        );
        if mupdate.allow_plaintext {
            self.warn(
                "allow-plaintext: whoever listens on the way to the MUPDATE server can read the \
                 password of an admin of the murder",
            );
        }
    }

    fn names(&mut self, settings: &Settings) {
        let domains = &settings.router.domains;
        if domains.is_empty() {
            self.exit = Some(Exit::Config);
            self.warn(
                "no `domains`: every recipient is foreign, so nothing is routed; set \
                 domains = [\"example.org\"]",
            );
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

    fn blocked(&mut self, settings: &Settings) {
        let Some((path, service)) = &settings.user_deny else { return };
        match UserDeny::open(path, service).status() {
            Ok(0) => {}
            Ok(users) => {
                let text = format!("{}: {users} users blocked from some service", path.display());
                self.say("blocked users", format!("{text}; those from {service} are deferred"));
            }
            Err(why) => self.warn(format!("{why}; users blocked by `cyr_deny` get mail")),
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
        if settings.router.rules.autocreate.is_some() {
            match (&backends.autocreate, &settings.maps.fallback) {
                (Some(server), _) => self.say("new users", format!("made on {server}")),
                (None, Some(fallback)) => self.say("new users", format!("left to {fallback}")),
                (None, None) => {}
            }
        }
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
        // An empty set: no list is kept here, or it is told of elsewhere that there is nothing in it.
        if !self.unread && !self.servers.is_empty() {
            for name in backends.unlisted(self.servers.iter().map(String::as_str)) {
                let long = self.servers.iter().find(|server| is_short_for(name, server));
                let meant = match long {
                    Some(long) => format!("the list has `{}`: name it so", shown(long)),
                    None => "if it is to be there, name it as the list does".to_owned(),
                };
                self.warnings.push(format!(
                    "[backends.servers] names {}, and no mailbox of the list is on a server of this \
                     name, so what is set for it (as `drain` or `address`) has no effect: {meant}",
                    shown(name)
                ));
            }
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
                if let Err(why) = owner(&listen.options) {
                    self.fail(&why);
                }
            }
            if let Endpoint::Inet { host, .. } = &listen.endpoint
                && !is_loopback(host)
            {
                self.warn(format!(
                    "{}: whoever reaches this port can ask who has a mailbox here; listen at a unix \
                     socket or at 127.0.0.1, or have a firewall let mail servers through only",
                    listen.endpoint
                ));
            }
            if listen.protocols != Protocols::ALL {
                let _ = write!(text, " for {} only", listen.protocols);
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

/// Whether only this host reaches an address; a name other than localhost may be anything.
fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Whether one is the other without its domain, or with another port.
fn is_short_for(name: &str, listed: &str) -> bool {
    let host = |text: &str| {
        let text = folded(text);
        text.split(':').next().unwrap_or_default().to_owned()
    };
    let (name, listed) = (host(name), host(listed));
    let label = |host: &str| host.split('.').next().unwrap_or_default().to_owned();
    name == listed
        || ((name == label(&name) || listed == label(&listed)) && label(&name) == label(&listed))
}

/// The mechanisms that could be used, best first; the server's choice is not known here.
fn mechanisms(mupdate: &Mupdate) -> String {
    let usable = |mechanism: &Mechanism| match mechanism {
        Mechanism::External => mupdate.tls.client.is_some(),
        _ => mupdate.credentials.password().is_some(),
    };
    let in_words = |mechanism: Mechanism| match mechanism {
        Mechanism::Plain if !mupdate.allow_plaintext => "PLAIN under TLS",
        mechanism => mechanism.as_str(),
    };
    let wanted = mupdate.mechanisms.as_deref().unwrap_or(&Mechanism::ALL);
    wanted.iter().copied().filter(usable).map(in_words).collect::<Vec<_>>().join(", ")
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
