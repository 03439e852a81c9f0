//! `murder-route doctor`: tests a deployment from end to end, and changes nothing.

mod backends;
mod lists;
mod logins;
mod postconf;
pub(super) mod socket;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use nix::unistd::{User, geteuid};
use tokio::runtime::{Builder, Runtime};

use self::backends::Wanted;
use self::logins::Trial;
use self::postconf::{NoPostfix, Postfix};
use self::socket::Way;
use super::services::{need, stored};
use super::{Common, Exit, check};
use crate::address::Recipient;
use crate::config::{self, BackendAccess, DEFAULT_SOCKET, Settings};
use crate::doctor::backend::{Client, judge};
use crate::doctor::comparison::Comparison;
use crate::doctor::lmtp::{Facts, Own, Tried};
use crate::doctor::login::{self, Plan};
use crate::doctor::postfix::transports::Answer;
use crate::doctor::postfix::uses::{Use, uses_with};
use crate::doctor::postfix::{Ask as _, domains, fallback, kept, lookups, tables, transports};
use crate::doctor::recipients::{self, Asked};
use crate::doctor::report::Report;
use crate::doctor::socket::{Outcome, Who, daemon, of_listener, of_use};
use crate::doctor::{Finding, Severity, shown, waiting};
use crate::master::client::Master;
use crate::master::confirmer::Confirmer;
use crate::master::{Upstream, Visit};
use crate::model::backend::{Backend, NoBackend};
use crate::model::name::MailboxName;
use crate::mupdate::FailureKind;
use crate::resolver::Resolver;
use crate::routing::confirm::ConfirmVia;
use crate::routing::inquiry::{Ask, Inquiry};
use crate::routing::maps::BUILT_IN;
use crate::routing::router::{Decision, Route};
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::Reply;

/// Test a deployment from end to end and say what to mend.
///
/// Looks at the configuration, the sockets, Postfix' settings, every backend (up to RCPT TO, never a
/// letter) and the master's list. It changes nothing. Run it as root on the mail server: only root
/// can try a socket as user postfix and in Postfix' chroot.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 nothing has to be mended, whatever warnings there are; 1 something \
                        has to be; 75 something could not be tested just now, and nothing else has \
                        to be mended; 64 usage, 78 configuration."
)]
pub(super) struct Doctor {
    #[command(flatten)]
    common: Common,
    /// The user as whom the sockets are tried [default: mail_owner of Postfix]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Where Postfix' main.cf is, if not in the usual place
    #[arg(long, value_name = "DIR")]
    postfix_config: Option<PathBuf>,
    /// Ask the backend of this recipient whether it takes letters for it
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Option<String>,
    /// Talk to this server of the list only; may be given again
    #[arg(long = "backend", value_name = "SERVER")]
    backends: Vec<String>,
    /// Do not compare the list with the master's
    #[arg(long)]
    no_master: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Exit> {
        let settings = Settings::load(&self.common.overrides(&[])).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Config
        })?;
        if let Some(name) = &self.user
            && !User::from_name(name).is_ok_and(|user| user.is_some())
        {
            complain!("murder-route: there is no user {}", shown(name));
            return Err(Exit::Usage);
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| {
            complain!("murder-route: {e}");
            Exit::System
        })?;
        let visit = match settings.mupdate.as_ref().map(Upstream::new).transpose() {
            Ok(upstream) => Ok(upstream.map(|up| Arc::new(Visit::new(up, need(&settings))))),
            Err(why) => Err(why),
        };
        let ask = || match &visit {
            Ok(visit) => runtime.block_on(check::Asked::by(visit.as_deref()?)).map(Ok),
            // That is told of below.
            Err(_) => None,
        };
        let mut report = Report { findings: configuration(&settings, &ask) };
        report.findings.extend(login(&settings, &visit));
        let visit = visit.unwrap_or_default();
        Examination::new(&self, &runtime, settings, visit.clone(), &mut report.findings).all();
        if let Some(visit) = visit {
            runtime.block_on(visit.end());
        }
        match self.json {
            true => super::say(&format_args!("{}\n", report.to_json()))?,
            false => super::say(&report)?,
        }
        match report.worst() {
            Severity::Error => Err(Exit::No),
            Severity::Untested => Err(Exit::Temporary),
            Severity::Ok | Severity::Skipped | Severity::Warning => Ok(()),
        }
    }
}

/// What keeps us out of the MUPDATE server for good. A daemon that has a connection from before does not
/// notice it until that ends.
fn login(settings: &Settings, visit: &Result<Option<Arc<Visit>>, String>) -> Option<Finding> {
    const CHECK: &str = "list/master";
    let failure = match visit {
        Ok(visit) => visit.as_ref()?.failure()?,
        Err(why) => {
            let mend = "the daemon does not start with this: correct the file it names";
            return Some(Finding::error(CHECK, "[mupdate]", why).mend(mend));
        }
    };
    let place = settings.mupdate.as_ref().map_or_else(String::new, |mupdate| {
        mupdate.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    });
    // Where the slave of this host confirms misses, `check` has warned.
    let needed = !matches!(settings.proof, ConfirmVia::Master { slave: Some(_) });
    match failure.kind() {
        FailureKind::Login | FailureKind::Config if needed => {
            Some(Finding::error(CHECK, place, format!("{failure}; nobody is called unknown")).mend(
                "correct [mupdate] or imapd.conf; a daemon that is connected goes on until that \
                 connection ends",
            ))
        }
        _ => None,
    }
}

/// What `check` warns of.
fn configuration(
    settings: &Settings,
    ask: &dyn Fn() -> Option<Result<check::Asked, String>>,
) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let place = match &settings.file {
        Some(path) => path.display().to_string(),
        None => "options".into(),
    };
    let warnings = check::warnings(settings, ask);
    if warnings.is_empty() {
        return vec![Finding::ok(CHECK, place, "nothing to warn of")];
    }
    warnings.into_iter().map(|warning| Finding::warning(CHECK, place.clone(), warning)).collect()
}

/// What everything is looked at with.
struct Examination<'a> {
    asked: &'a Doctor,
    runtime: &'a Runtime,
    findings: &'a mut Vec<Finding>,
    listeners: Vec<Listen>,
    resolver: Resolver,
    visit: Option<Arc<Visit>>,
    postfix: Option<Postfix>,
    /// Where recipients are asked for.
    ways: Vec<Asking>,
    /// The recipients that were chosen.
    probes: Vec<Probe>,
}

/// A socket that answers, and how it is asked.
struct Asking {
    place: String,
    user: Option<String>,
    chroot: Option<PathBuf>,
    endpoint: Endpoint,
    protocol: Protocol,
    map: Option<String>,
}

impl Asking {
    fn way(&self) -> Way<'_> {
        Way {
            user: self.user.as_deref(),
            chroot: self.chroot.as_deref(),
            endpoint: &self.endpoint,
            protocol: self.protocol,
        }
    }
}

/// A recipient, and what the configuration comes to for it.
struct Probe {
    recipient: String,
    route: Route,
}

/// Maximum number of users that sockets are asked for.
const MAX_USERS: usize = 10;

/// Maximum number of domains that sockets are asked about.
const MAX_DOMAINS: usize = 5;

impl<'a> Examination<'a> {
    fn new(
        asked: &'a Doctor,
        runtime: &'a Runtime,
        settings: Settings,
        visit: Option<Arc<Visit>>,
        findings: &'a mut Vec<Finding>,
    ) -> Self {
        const LIST: &str = "list/readable";
        let replica = stored(&settings).unwrap_or_else(|why| {
            findings.push(
                Finding::error(LIST, "the replica", why).mend("see `replica` and its rights"),
            );
            None
        });
        let listeners = listeners(&settings);
        let resolver = Resolver::new(settings, replica);
        let postfix = match Postfix::read(asked.postfix_config.as_deref()) {
            Ok(postfix) => Some(postfix),
            Err(NoPostfix::Missing) => {
                let why = "there is no postconf here, so no Postfix was looked at";
                findings.push(Finding::skipped("postfix/settings", "postconf", why));
                None
            }
            Err(NoPostfix::Failed(why)) => {
                findings.push(
                    Finding::error("postfix/settings", "postconf", why)
                        .mend("correct main.cf or master.cf: Postfix itself cannot read them"),
                );
                None
            }
        };
        let (ways, probes) = (Vec::new(), Vec::new());
        Self { asked, runtime, findings, listeners, resolver, visit, postfix, ways, probes }
    }

    fn all(mut self) {
        let ours = self.sockets();
        let list = self.list();
        self.recipients(list.as_ref());
        let (wanted, facts) = self.backends(list.as_ref());
        self.postfix(&ours, &wanted, &facts);
        self.comparison(list);
    }

    /// The sockets, as those who ask there see them. Postfix' ways that mean one of ours.
    fn sockets(&mut self) -> Vec<Use> {
        let queue = self.queue();
        let user = self.user();
        let name = user.clone().unwrap_or_else(present_user);
        let mut tried: HashMap<(String, Protocol, bool), Outcome> = HashMap::new();
        let mut ask = |endpoint: &Endpoint, protocol: Protocol, chroot: Option<&Path>| {
            let key = (endpoint.to_string(), protocol, chroot.is_some());
            let way = Way { user: user.as_deref(), chroot, endpoint, protocol };
            tried.entry(key).or_insert_with(|| way.ask()).clone()
        };
        let mut ways = Vec::new();
        let mut known = false;
        for listen in self.listeners.clone() {
            let Listen { endpoint, protocols, .. } = &listen;
            // Of those that are spoken, the one that tells most.
            let order = [Protocol::Socketmap, Protocol::Line, Protocol::Policy, Protocol::Milter];
            let Some(protocol) = order.into_iter().find(|p| protocols.contains(*p)) else {
                continue;
            };
            let outcome = ask(endpoint, protocol, None);
            let who = Who { user: name.clone(), chroot: None };
            self.findings.push(of_listener(endpoint, protocol, &who, &outcome));
            if outcome.status().is_some() {
                ways.push(Asking {
                    place: endpoint.to_string(),
                    user: user.clone(),
                    chroot: None,
                    endpoint: endpoint.clone(),
                    protocol,
                    map: Some(BUILT_IN[0].to_owned()),
                });
            }
            if let (Some(status), false) = (outcome.status(), known) {
                self.findings.extend(daemon(&endpoint.to_string(), &status));
                self.findings.extend(waiting::judge(&endpoint.to_string(), &status));
                known = true;
            }
            if let (Endpoint::Unix(path), Some(queue)) = (endpoint, &queue)
                && let Ok(inside) = path.strip_prefix(queue)
                && self.may_change_root()
            {
                let inside = Endpoint::Unix(Path::new("/").join(inside));
                let outcome = ask(&inside, protocol, Some(queue));
                let chroot = Some(queue.display().to_string());
                let who = Who { user: name.clone(), chroot };
                self.findings.push(of_listener(endpoint, protocol, &who, &outcome));
            }
        }
        let (Some(Postfix { settings, .. }), Some(queue)) = (&self.postfix, &queue) else {
            self.ways = ways;
            return Vec::new();
        };
        let mut ours = Vec::new();
        let mut found = Vec::new();
        let read = |path: &str| self.postfix.as_ref()?.file(path).ok();
        for u in uses_with(settings, &read) {
            let means_us = self.listeners.iter().any(|listen| u.means(&listen.endpoint, queue));
            // Policy services and filters do not say who they are.
            if !means_us && u.protocol != Protocol::Socketmap {
                continue;
            }
            let in_chroot = u.chroot && self.may_change_root();
            let (endpoint, inside) = match &u.endpoint {
                Endpoint::Unix(path) if in_chroot => {
                    (Endpoint::Unix(Path::new("/").join(path)), Some(queue))
                }
                endpoint @ Endpoint::Inet { .. } if in_chroot => (endpoint.clone(), Some(queue)),
                _ => (u.socket(queue), None),
            };
            let outcome = ask(&endpoint, u.protocol, inside.map(PathBuf::as_path));
            // Who answers says who he is. Where nobody does, a map with the name of one of ours must do.
            let named = u.map.as_deref().is_some_and(|map| self.resolver.maps.get(map).is_some());
            let means_us = match &outcome {
                Outcome::Answered { .. } => means_us || outcome.status().is_some(),
                _ => means_us || named,
            };
            let chroot = u.chroot.then(|| queue.display().to_string());
            let who = Who { user: name.clone(), chroot };
            found.extend(of_use(&u, &who, &outcome, means_us));
            if means_us {
                // One that does not know our map `status` has been told of.
                let speaks = matches!(outcome, Outcome::Answered { .. });
                if speaks && (u.map.is_none() || outcome.status().is_some()) {
                    ways.push(Asking {
                        place: format!("{} `{}`", u.place(), u.text),
                        user: user.clone(),
                        chroot: inside.cloned(),
                        endpoint,
                        protocol: u.protocol,
                        map: u.map.clone(),
                    });
                }
                ours.push(u);
            }
        }
        self.findings.extend(found);
        self.ways = ways;
        ours
    }

    /// Asks at each socket that answers for a few recipients, and compares.
    fn recipients(&mut self, list: Option<&Comparison>) {
        self.probes = self.choose(list);
        let Resolver { router, maps, .. } = &self.resolver;
        let mut findings = Vec::new();
        for way in &self.ways {
            let expected = |recipient: &str, route: &Route| {
                let map = way.map.as_deref();
                recipients::expected(way.protocol, map, maps, router, recipient, route)
            };
            let wanted: Vec<(&Probe, String)> = self
                .probes
                .iter()
                .filter_map(|probe| Some((probe, expected(&probe.recipient, &probe.route)?)))
                .collect();
            let named: Vec<&str> = wanted.iter().map(|(probe, _)| &*probe.recipient).collect();
            let ask = |named: &[&str]| way.way().ask_for(way.map.as_deref(), named);
            let mut asked: Vec<Asked> = ask(&named)
                .into_iter()
                .zip(wanted)
                .map(|(outcome, (probe, expected))| Asked {
                    recipient: probe.recipient.clone(),
                    expected,
                    outcome,
                })
                .collect();
            // A list changes while it is read.
            for asked in asked.iter_mut().filter(|asked| !asked.agrees()) {
                let route = self.route(&asked.recipient);
                let again = expected(&asked.recipient, &route);
                let (Some(expected), [outcome]) = (again, &ask(&[&asked.recipient])[..]) else {
                    continue;
                };
                (asked.expected, asked.outcome) = (expected, outcome.clone());
            }
            findings.extend(recipients::judge(&way.place, &asked));
        }
        self.findings.extend(findings);
    }

    /// The recipients that sockets are asked for: the one that was named, a user of each server, and
    /// one of each domain whom it may or may not have.
    fn choose(&self, list: Option<&Comparison>) -> Vec<Probe> {
        let router = &self.resolver.router;
        let mut probes: Vec<Probe> = Vec::new();
        let mut add = |recipient: String, of: Option<&MailboxName>| -> bool {
            let route = self.route(&recipient);
            let is_its = of.is_none_or(|name| {
                matches!(route.decision, Decision::Deliver(_))
                    && route.mailbox.as_ref() == Some(name)
            });
            let is_new = probes.iter().all(|probe| probe.recipient != recipient);
            if is_its && is_new {
                probes.push(Probe { recipient, route });
            }
            is_its
        };
        if let Some(named) = &self.asked.recipient {
            add(named.clone(), None);
        }
        for name in list.into_iter().flat_map(Comparison::inboxes).take(MAX_USERS) {
            let mut addresses = recipients::addresses(name, router).into_iter();
            addresses.find(|address| add(address.clone(), Some(name)));
        }
        for domain in router.domains.names().iter().take(MAX_DOMAINS) {
            add(format!("postmaster@{domain}"), None);
        }
        probes
    }

    /// Decides about a recipient as the daemon would.
    fn route(&self, recipient: &str) -> Route {
        let confirmer = {
            let _inside = self.runtime.enter();
            let master = self.visit.clone().map(|visit| visit as Arc<dyn Master>);
            Confirmer::without_pause(&self.resolver, master)
        };
        let evidence = self.resolver.evidence(confirmer.key_generation());
        let mut confirm = |ask: &Ask| {
            let said = self.runtime.block_on(confirmer.confirm(ask));
            (said, confirmer.key_generation())
        };
        let inquiry = Inquiry::new(recipient.as_bytes(), &evidence).patient();
        self.resolver.route(inquiry, None, &mut confirm)
    }

    /// As whom to ask. `None`: as who we are.
    fn user(&mut self) -> Option<String> {
        const CHECK: &str = "socket/user";
        let of_postfix = self.postfix.as_ref().map(|postfix| postfix.settings.main("mail_owner"));
        let wanted = match (&self.asked.user, of_postfix) {
            (Some(user), _) => user.clone(),
            (None, Some(owner)) if !owner.is_empty() => owner.to_owned(),
            (None, _) => "postfix".to_owned(),
        };
        let present = present_user();
        if wanted == present {
            return None;
        }
        let (why, mend) = if !geteuid().is_root() {
            (
                format!("the sockets are tried as {present} and outside of any chroot"),
                format!("run it as root, to try them as {wanted} and in Postfix' chroot"),
            )
        } else if !User::from_name(&wanted).is_ok_and(|user| user.is_some()) {
            (
                format!("there is no user {wanted}: the sockets are tried as {present}"),
                "name the user of the mail server with --user".to_owned(),
            )
        } else {
            return Some(wanted);
        };
        self.findings.push(Finding::skipped(CHECK, "the sockets", why).mend(mend));
        None
    }

    fn may_change_root(&self) -> bool {
        geteuid().is_root()
    }

    fn queue(&self) -> Option<PathBuf> {
        let queue = self.postfix.as_ref()?.settings.main("queue_directory");
        (!queue.is_empty()).then(|| PathBuf::from(queue))
    }

    /// The mailbox list, if there is one that can be read.
    fn list(&mut self) -> Option<Comparison> {
        const CHECK: &str = "list/readable";
        let place = self.resolver.lists.to_string();
        if self.resolver.lists.sources().is_empty() {
            let why = "no list is kept here: the master is asked for each name";
            self.findings.push(Finding::skipped(CHECK, place, why));
            return None;
        }
        match lists::read(&self.resolver.lists) {
            Ok(list) if list.names() == 0 => {
                self.findings.push(
                    Finding::error(CHECK, place, "there is no mailbox in it")
                        .mend("see that what keeps the list runs, and that it is the right one"),
                );
                Some(list)
            }
            Ok(list) => {
                let what = format!("{} names", list.names());
                self.findings.push(Finding::ok(CHECK, place.clone(), what));
                self.findings.extend(list.quoted(&place));
                self.findings.extend(list.beyond_ascii(&place));
                Some(list)
            }
            Err(why) => {
                self.findings.push(
                    Finding::error(CHECK, place, format!("cannot be read: {why}"))
                        .mend("run it as root, or as the user of the daemon; else mend the list"),
                );
                None
            }
        }
    }

    /// Talks to the backends; whom to, and what came of it.
    fn backends(&mut self, list: Option<&Comparison>) -> (Vec<Wanted>, Vec<Facts>) {
        const CHECK: &str = "backend/lmtp";
        let mut servers: BTreeSet<Option<String>> = match &*self.asked.backends {
            [] => list.map(|list| list.backends().keys().cloned().collect()).unwrap_or_default(),
            named => named.iter().cloned().map(Some).collect(),
        };
        if list.is_none() && self.asked.backends.is_empty() {
            let named = self.resolver.router.backends.overrides();
            servers.extend(named.into_iter().map(|(server, _)| Some(server.to_owned())));
        }
        let of_recipient = self.recipient();
        if let Some((server, _)) = &of_recipient {
            servers.insert(server.clone());
        }
        let mut wanted = Vec::new();
        for server in servers {
            let named = server.clone().unwrap_or_else(|| "mailboxes of this host".into());
            match self.resolver.router.backends.resolve(server.as_deref()) {
                Ok(Backend { place, .. }) => {
                    let asked = of_recipient.as_ref().filter(|(of, _)| *of == server);
                    let recipient = asked.map(|(_, recipient)| recipient.clone());
                    wanted.push(Wanted { server, place, recipient });
                }
                Err(NoBackend::Draining(_)) => {
                    let why = "it is drained: its letters wait";
                    self.findings.push(Finding::skipped(CHECK, shown(&named), why));
                }
                Err(NoBackend::Local) => self.findings.push(
                    Finding::warning(CHECK, named, "the list has some, and their letters wait")
                        .mend("set `local` in [backends] if this host takes them by LMTP"),
                ),
                Err(odd) => self.findings.push(
                    Finding::error(CHECK, shown(&named), format!("its letters wait: {odd}"))
                        .mend("set its `address` in [backends.servers]"),
                ),
            }
        }
        if wanted.is_empty() {
            let why = "no server is known to talk to; name one with --backend";
            self.findings.push(Finding::skipped(CHECK, "backends", why));
        }
        let us = self.lhlo_name();
        let mut facts = self.runtime.block_on(backends::talk(&us, &wanted));
        let clients: Vec<Option<Client>> =
            wanted.iter().map(|wanted| self.client(wanted.server.as_deref())).collect();
        self.log_in(&us, &wanted, &clients, &mut facts);
        for ((wanted, client), facts) in wanted.iter().zip(&clients).zip(&facts) {
            let Wanted { server, place, recipient } = wanted;
            // What is wrong with a transport is so for every backend.
            for finding in client.iter().flat_map(|client| &client.findings) {
                if !self.findings.contains(finding) {
                    self.findings.push(finding.clone());
                }
            }
            self.findings.extend(judge(
                server.as_deref(),
                &place.to_string(),
                facts,
                client.as_ref(),
                recipient.as_deref(),
            ));
        }
        (wanted, facts)
    }

    /// Tries the logins: that of Postfix, and that of `murder-route lmtp` where it is configured.
    fn log_in(
        &mut self,
        us: &str,
        wanted: &[Wanted],
        clients: &[Option<Client>],
        facts: &mut [Facts],
    ) {
        let access = config::backends_access(self.asked.common.config.as_deref());
        let mut trials = Vec::new();
        for ((Wanted { place, .. }, client), facts) in wanted.iter().zip(clients).zip(&mut *facts) {
            let reached = facts.failure.is_none();
            let attempt = match client.as_ref().map(|client| login::plan(facts, client)) {
                Some(Plan::Try(attempt)) => Some(attempt),
                Some(Plan::Skip(why)) => {
                    facts.tried = Some(Tried::Skipped(why));
                    None
                }
                Some(Plan::Nothing) | None => None,
            };
            // A configuration that cannot be read has been told of.
            let own = access.as_ref().ok().map(|access| access.of(place));
            if self.postfix.is_none() && own.as_ref().is_some_and(BackendAccess::is_plain) {
                facts.own = Some(Own::Plain);
            }
            let access = own.filter(|access| reached && !access.is_plain());
            trials.push(Trial { attempt, access });
        }
        let outcomes = self.runtime.block_on(logins::try_all(us, wanted, trials));
        for (facts, outcome) in facts.iter_mut().zip(outcomes) {
            facts.tried = outcome.tried.or(facts.tried.take());
            facts.own = outcome.own.or(facts.own.take());
            if facts.rcpt.is_none() {
                facts.rcpt = outcome.rcpt;
            }
        }
    }

    /// What Postfix' transport for a server would do there.
    fn client(&self, server: Option<&str>) -> Option<Client> {
        let postfix = self.postfix.as_ref()?;
        let Backend { transport, place } = self.resolver.router.backends.resolve(server).ok()?;
        let service = postfix.settings.transport(&transport)?;
        let lmtp = service.program == "lmtp";
        lmtp.then(|| Client::of(&postfix.settings, service, &place, postfix))
    }

    fn lhlo_name(&self) -> String {
        let of_postfix = |postfix: &Postfix| {
            let settings = &postfix.settings;
            let names = ["lmtp_lhlo_name", "myhostname"].map(|name| settings.main(name));
            names.into_iter().find(|name| !name.is_empty()).map(str::to_owned)
        };
        let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = self.postfix.as_ref().and_then(of_postfix).or_else(kernel);
        name.map_or_else(|| "localhost".into(), |name| name.trim().to_owned())
    }

    /// The server of the recipient that was named, and the recipient as it must see it.
    fn recipient(&mut self) -> Option<(Option<String>, String)> {
        const CHECK: &str = "recipient/route";
        let named = self.asked.recipient.as_deref()?;
        let resolver = &self.resolver;
        let route = self.route(named);
        let what = format!("{}: {}", route.decision.as_str(), shown(&route.why()));
        let place = shown(named);
        let finding = match &route.decision {
            Decision::Deliver(_) => Finding::ok(CHECK, place, what),
            Decision::Deferred(_) => Finding::untested(CHECK, place, what),
            Decision::Unknown | Decision::Refused(_) | Decision::Foreign => {
                Finding::error(CHECK, place, what)
                    .mend("murder-route lookup --explain shows how it came to that")
            }
        };
        self.findings.push(finding);
        let (Decision::Deliver(_), Some(mailbox)) = (&route.decision, &route.mailbox) else {
            return None;
        };
        let parsed = Recipient::parse(named.as_bytes()).ok()?;
        let canonical = resolver.router.rules_of(&parsed, mailbox).canonical(&parsed, mailbox);
        Some((route.server.clone(), String::from_utf8(canonical).ok()?))
    }

    /// The rules for Postfix' settings.
    fn postfix(&mut self, ours: &[Use], wanted: &[Wanted], facts: &[Facts]) {
        let Some(postfix) = &self.postfix else { return };
        let Resolver { router, maps, .. } = &self.resolver;
        let oldest = facts.iter().filter_map(|facts| facts.release).min();
        let mut findings = tables::examine(&postfix.settings, ours, maps, oldest);
        let probes: Vec<String> = self.probes.iter().map(|probe| probe.recipient.clone()).collect();
        let domains = &router.domains;
        findings.extend(lookups::examine(&postfix.settings, ours, &probes, domains, postfix));
        let respelled = router.respelled_domain();
        findings.extend(kept::examine(&postfix.settings, ours, maps));
        findings.extend(tables::held_back(&postfix.settings, respelled.as_deref(), postfix));
        let by_library = tables::by_library(&postfix.settings, "transport_maps");
        if !ours.is_empty() || by_library.is_some() {
            let without = facts.iter().any(|facts| facts.name.is_some() && !facts.smtputf8);
            findings.extend(kept::smtputf8(&postfix.settings, without));
            let answers = self.answers(ours, by_library, wanted);
            findings.extend(domains::examine(&postfix.settings, ours, &router.domains, postfix));
            findings.extend(transports::examine(&postfix.settings, &answers, postfix));
            if let Some(way) = &maps.fallback {
                findings.extend(fallback::examine(&postfix.settings, way, ours, postfix));
            }
        }
        self.findings.extend(findings);
    }

    /// What Postfix is told to do with letters, by each map that it asks for that.
    fn answers(
        &self,
        ours: &[Use],
        by_library: Option<&str>,
        wanted: &[Wanted],
    ) -> BTreeSet<Answer> {
        let Resolver { router, maps, .. } = &self.resolver;
        let in_transports = ours.iter().filter(|u| u.parameter == "transport_maps");
        let named = in_transports.filter_map(|u| u.map.as_deref()).chain(by_library);
        let named: BTreeSet<&str> = named.collect();
        let domain =
            router.domains.names().first().map_or("example.org".into(), ToString::to_string);
        let recipient = format!("postmaster@{domain}");
        let mut answers = BTreeSet::new();
        for Wanted { server, .. } in wanted {
            let Ok(backend) = router.backends.resolve(server.as_deref()) else { continue };
            for (name, map) in named.iter().filter_map(|name| Some((*name, maps.get(name)?))) {
                let route = Route {
                    decision: Decision::Deliver(backend.clone()),
                    mailbox: None,
                    server: server.clone(),
                    partition: None,
                    reason: "".into(),
                };
                if let Reply::Ok(text) = maps.reply(map, router, &recipient, &route) {
                    let server = server.as_deref().unwrap_or("this host");
                    let place = format!("the map {name} for {}", shown(server));
                    answers.insert(Answer { place, text });
                }
            }
        }
        if let Some(way) = &maps.fallback {
            answers.insert(Answer { place: transports::FALLBACK.into(), text: way.clone() });
        }
        answers
    }

    fn comparison(&mut self, list: Option<Comparison>) {
        let place = self.resolver.lists.to_string();
        let skipped = |why: &str| vec![Finding::skipped("list/comparison", place.clone(), why)];
        let found = match (list, &self.visit) {
            _ if self.asked.no_master => skipped("--no-master"),
            (_, None) => skipped("no MUPDATE master is configured to compare with"),
            (None, _) => skipped("there is no list of ours to compare"),
            (Some(list), Some(visit)) => {
                self.runtime.block_on(lists::compare(&self.resolver.lists, list, visit))
            }
        };
        self.findings.extend(found);
    }
}

/// Where the daemon listens, as far as that can be known here.
fn listeners(settings: &Settings) -> Vec<Listen> {
    let default = || Endpoint::Unix(DEFAULT_SOCKET.into());
    if settings.listeners.is_empty() {
        return vec![Listen::at(default())];
    }
    let known = settings.listeners.iter().map(|listen| match listen.endpoint {
        // It is systemd that knows where this one is; ours ships with this path.
        Endpoint::Systemd(_) => Listen { endpoint: default(), ..listen.clone() },
        _ => listen.clone(),
    });
    known.collect()
}

fn present_user() -> String {
    let uid = geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    }
}
