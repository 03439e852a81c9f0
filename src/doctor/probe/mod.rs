//! Observes a deployment: configuration, sockets, list, backends, Postfix. The judges of
//! [`super::judge`] turn the observations into findings. Nothing is changed.

pub(crate) mod configuration;
mod conversation;
mod delivery;
mod list;
mod login;
mod postconf;
pub(crate) mod socket;
mod sockets;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Runtime;

use self::configuration::MasterAnswer;
use self::conversation::BackendTarget;
use self::postconf::{NoPostfix, Postfix};
use self::sockets::{RecipientProbe, SocketTarget};
use super::judge::comparison::Comparison;
use super::judge::lmtp::Facts;
use super::judge::postfix::transports::TransportAnswer;
use super::judge::postfix::uses::Use;
use super::judge::postfix::{domains, fallback, kept, lookups, tables, transports};
use super::judge::report::DoctorReport;
use super::judge::{Finding, one_line};
use crate::config::{DEFAULT_SOCKET, Settings};
use crate::master::Visit;
use crate::mupdate::FailureKind;
use crate::replica::ReplicaSource;
use crate::resolver::Resolver;
use crate::routing::confirm::ConfirmVia;
use crate::routing::route::{Decision, Route};
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::socketmap::Reply;

/// Scope of an examination.
#[derive(Debug, Default)]
pub(crate) struct ExaminationOptions {
    /// The configuration file, if not the default one.
    pub(crate) config: Option<PathBuf>,
    /// The user that asks at the sockets. Default: mail_owner of Postfix.
    pub(crate) user: Option<String>,
    /// The directory of main.cf, if not the default one.
    pub(crate) postfix_config: Option<PathBuf>,
    /// A recipient to ask its backend for.
    pub(crate) recipient: Option<String>,
    /// The only servers of the list to connect to. Empty: all.
    pub(crate) backends: Vec<String>,
    /// Skips the comparison with the master's list.
    pub(crate) no_master: bool,
}

/// Examines a deployment with these settings.
pub(crate) fn examine(
    options: &ExaminationOptions,
    runtime: &Runtime,
    settings: Settings,
    visit: Result<Option<Arc<Visit>>, String>,
    replica: Result<Option<ReplicaSource>, String>,
) -> DoctorReport {
    let ask = || match &visit {
        Ok(visit) => runtime.block_on(MasterAnswer::by(visit.as_deref()?)).map(Ok),
        // Reported by `login`.
        Err(_) => None,
    };
    let mut report = DoctorReport { findings: configuration(&settings, &ask) };
    report.findings.extend(login(&settings, &visit));
    let visit = visit.unwrap_or_default();
    Examination::new(options, runtime, settings, visit.clone(), replica, &mut report.findings)
        .run();
    if let Some(visit) = visit {
        runtime.block_on(visit.end());
    }
    report
}

/// Reports a permanent login failure at the MUPDATE server. A daemon with an older connection does not
/// notice it until that ends.
fn login(settings: &Settings, visit: &Result<Option<Arc<Visit>>, String>) -> Option<Finding> {
    const CHECK: &str = "list/master";
    let failure = match visit {
        Ok(visit) => visit.as_ref()?.failure()?,
        Err(why) => {
            let mend = "the daemon does not start; correct the named file";
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
            Some(Finding::error(CHECK, place, format!("{failure}; unknown recipients are deferred")).mend(
                "correct [mupdate] or imapd.conf; a connected daemon works until its connection ends",
            ))
        }
        _ => None,
    }
}

/// The warnings of `check`.
fn configuration(settings: &Settings, ask: configuration::AskMaster<'_>) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let place = match &settings.file {
        Some(path) => path.display().to_string(),
        None => "options".into(),
    };
    let warnings = configuration::warnings(settings, ask);
    if warnings.is_empty() {
        return vec![Finding::ok(CHECK, place, "no warnings")];
    }
    warnings.into_iter().map(|warning| Finding::warning(CHECK, place.clone(), warning)).collect()
}

/// An examination in progress.
struct Examination<'a> {
    options: &'a ExaminationOptions,
    runtime: &'a Runtime,
    findings: &'a mut Vec<Finding>,
    listeners: Vec<Listen>,
    resolver: Resolver,
    visit: Option<Arc<Visit>>,
    postfix: Option<Postfix>,
    /// Sockets that answer.
    targets: Vec<SocketTarget>,
    /// Recipients to look up there.
    probes: Vec<RecipientProbe>,
}

impl<'a> Examination<'a> {
    fn new(
        options: &'a ExaminationOptions,
        runtime: &'a Runtime,
        settings: Settings,
        visit: Option<Arc<Visit>>,
        replica: Result<Option<ReplicaSource>, String>,
        findings: &'a mut Vec<Finding>,
    ) -> Self {
        const LIST: &str = "list/readable";
        let replica = replica.unwrap_or_else(|why| {
            findings.push(
                Finding::error(LIST, "the replica", why)
                    .mend("check `replica` and its permissions"),
            );
            None
        });
        let listeners = listeners(&settings);
        let resolver = Resolver::new(settings, replica);
        let postfix = match Postfix::read(options.postfix_config.as_deref()) {
            Ok(postfix) => Some(postfix),
            Err(NoPostfix::Missing) => {
                let why = "there is no postconf here; Postfix was not checked";
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
        let (targets, probes) = (Vec::new(), Vec::new());
        Self { options, runtime, findings, listeners, resolver, visit, postfix, targets, probes }
    }

    fn run(mut self) {
        let ours = self.sockets();
        let list = self.list();
        self.recipients(list.as_ref());
        let (wanted, facts) = self.backends(list.as_ref());
        self.postfix(&ours, &wanted, &facts);
        self.comparison(list);
    }

    /// Reads the mailbox list, if there is one.
    fn list(&mut self) -> Option<Comparison> {
        const CHECK: &str = "list/readable";
        let place = self.resolver.lists.to_string();
        if self.resolver.lists.sources().is_empty() {
            let why = "there is no list here; the master is asked for each name";
            self.findings.push(Finding::skipped(CHECK, place, why));
            return None;
        }
        match list::read(&self.resolver.lists) {
            Ok(list) if list.names() == 0 => {
                self.findings.push(
                    Finding::error(CHECK, place, "it has no mailboxes").mend(
                        "check that the list is kept up to date, and that it is the right one",
                    ),
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
                    Finding::error(CHECK, place, format!("cannot be read: {why}")).mend(
                        "run it as root or as the user of the daemon; otherwise repair the list",
                    ),
                );
                None
            }
        }
    }

    /// Applies the rules for Postfix' settings.
    fn postfix(&mut self, ours: &[Use], wanted: &[BackendTarget], facts: &[Facts]) {
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

    /// The answers that tell Postfix where to deliver, of each map that it uses for that.
    fn answers(
        &self,
        ours: &[Use],
        by_library: Option<&str>,
        wanted: &[BackendTarget],
    ) -> BTreeSet<TransportAnswer> {
        let Resolver { router, maps, .. } = &self.resolver;
        let in_transports = ours.iter().filter(|u| u.parameter == "transport_maps");
        let named = in_transports.filter_map(|u| u.map.as_deref()).chain(by_library);
        let named: BTreeSet<&str> = named.collect();
        let domain =
            router.domains.names().first().map_or("example.org".into(), ToString::to_string);
        let recipient = format!("postmaster@{domain}");
        let mut answers = BTreeSet::new();
        for BackendTarget { server, .. } in wanted {
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
                    let place = format!("the map {name} for {}", one_line(server));
                    answers.insert(TransportAnswer { place, text });
                }
            }
        }
        if let Some(way) = &maps.fallback {
            answers
                .insert(TransportAnswer { place: transports::FALLBACK.into(), text: way.clone() });
        }
        answers
    }

    fn comparison(&mut self, list: Option<Comparison>) {
        let place = self.resolver.lists.to_string();
        let skipped = |why: &str| vec![Finding::skipped("list/comparison", place.clone(), why)];
        let found = match (list, &self.visit) {
            _ if self.options.no_master => skipped("--no-master"),
            (_, None) => skipped("no MUPDATE master is configured to compare with"),
            (None, _) => skipped("there is no list here to compare"),
            (Some(list), Some(visit)) => {
                self.runtime.block_on(list::compare(&self.resolver.lists, list, visit))
            }
        };
        self.findings.extend(found);
    }
}

/// The endpoints of the daemon, as far as known here.
fn listeners(settings: &Settings) -> Vec<Listen> {
    let default = || Endpoint::Unix(DEFAULT_SOCKET.into());
    if settings.listeners.is_empty() {
        return vec![Listen::at(default())];
    }
    let known = settings.listeners.iter().map(|listen| match listen.endpoint {
        // Only systemd knows its path; the shipped unit has this one.
        Endpoint::Systemd(_) => Listen { endpoint: default(), ..listen.clone() },
        _ => listen.clone(),
    });
    known.collect()
}
