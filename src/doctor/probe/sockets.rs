//! Asks at the sockets, as the mail server does, for the status and for recipients.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{User, geteuid};

use super::Examination;
use super::postconf::Postfix;
use super::socket::SocketProbe;
use crate::doctor::judge::comparison::Comparison;
use crate::doctor::judge::postfix::PostfixQueries as _;
use crate::doctor::judge::postfix::uses::{Use, uses_with};
use crate::doctor::judge::recipients::{self, RecipientAnswer};
use crate::doctor::judge::socket::{Requester, SocketOutcome, daemon, of_listener, of_use};
use crate::doctor::judge::{Finding, waiting};
use crate::master::client::Master;
use crate::master::confirmer::Confirmer;
use crate::model::name::MailboxName;
use crate::resolver::Resolver;
use crate::routing::inquiry::{Ask, Inquiry};
use crate::routing::maps::BUILT_IN;
use crate::routing::route::{Decision, Route};
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::protocol::Protocol;

/// A socket that answers, with user, chroot, protocol and map.
pub(super) struct SocketTarget {
    place: String,
    user: Option<String>,
    chroot: Option<PathBuf>,
    endpoint: Endpoint,
    protocol: Protocol,
    map: Option<String>,
}

impl SocketTarget {
    fn probe(&self) -> SocketProbe<'_> {
        SocketProbe {
            user: self.user.as_deref(),
            chroot: self.chroot.as_deref(),
            endpoint: &self.endpoint,
            protocol: self.protocol,
        }
    }
}

/// A recipient, with its route by the configuration.
pub(super) struct RecipientProbe {
    pub(super) recipient: String,
    route: Route,
}

/// Maximum number of users that sockets are asked for.
const MAX_USERS: usize = 10;

/// Maximum number of domains that sockets are asked about.
const MAX_DOMAINS: usize = 5;

impl Examination<'_> {
    /// Tries the sockets as the mail server would. Returns the places in Postfix' settings that use the
    /// daemon's.
    pub(super) fn sockets(&mut self) -> Vec<Use> {
        let queue = self.queue();
        let user = self.user();
        let name = user.clone().unwrap_or_else(present_user);
        let mut tried: HashMap<(String, Protocol, bool), SocketOutcome> = HashMap::new();
        let mut ask = |endpoint: &Endpoint, protocol: Protocol, chroot: Option<&Path>| {
            let key = (endpoint.to_string(), protocol, chroot.is_some());
            let probe = SocketProbe { user: user.as_deref(), chroot, endpoint, protocol };
            tried.entry(key).or_insert_with(|| probe.ask()).clone()
        };
        let mut targets = Vec::new();
        let mut known = false;
        for listen in self.listeners.clone() {
            let Listen { endpoint, protocols, .. } = &listen;
            // The allowed protocol with the most informative answer.
            let order = [Protocol::Socketmap, Protocol::Line, Protocol::Policy, Protocol::Milter];
            let Some(protocol) = order.into_iter().find(|p| protocols.contains(*p)) else {
                continue;
            };
            let outcome = ask(endpoint, protocol, None);
            let requester = Requester { user: name.clone(), chroot: None };
            self.findings.push(of_listener(endpoint, protocol, &requester, &outcome));
            if outcome.status().is_some() {
                targets.push(SocketTarget {
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
                let requester = Requester { user: name.clone(), chroot };
                self.findings.push(of_listener(endpoint, protocol, &requester, &outcome));
            }
        }
        let (Some(Postfix { settings, .. }), Some(queue)) = (&self.postfix, &queue) else {
            self.targets = targets;
            return Vec::new();
        };
        let mut ours = Vec::new();
        let mut found = Vec::new();
        let read = |path: &str| self.postfix.as_ref()?.file(path).ok();
        for u in uses_with(settings, &read) {
            let means_us = self.listeners.iter().any(|listen| u.means(&listen.endpoint, queue));
            // Policy services and milters do not identify themselves.
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
            // The answer identifies the program. Without an answer, the name of a map of ours decides.
            let named = u.map.as_deref().is_some_and(|map| self.resolver.maps.get(map).is_some());
            let means_us = match &outcome {
                SocketOutcome::Answered { .. } => means_us || outcome.status().is_some(),
                _ => means_us || named,
            };
            let chroot = u.chroot.then(|| queue.display().to_string());
            let requester = Requester { user: name.clone(), chroot };
            found.extend(of_use(&u, &requester, &outcome, means_us));
            if means_us {
                // A program without the map `status` is reported already.
                let speaks = matches!(outcome, SocketOutcome::Answered { .. });
                if speaks && (u.map.is_none() || outcome.status().is_some()) {
                    targets.push(SocketTarget {
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
        self.targets = targets;
        ours
    }

    /// Asks for a few recipients at each answering socket, and compares the answers.
    pub(super) fn recipients(&mut self, list: Option<&Comparison>) {
        self.probes = self.choose(list);
        let Resolver { router, maps, .. } = &self.resolver;
        let mut findings = Vec::new();
        for target in &self.targets {
            let expected = |recipient: &str, route: &Route| {
                let map = target.map.as_deref();
                recipients::expected(target.protocol, map, maps, router, recipient, route)
            };
            let wanted: Vec<(&RecipientProbe, String)> = self
                .probes
                .iter()
                .filter_map(|probe| Some((probe, expected(&probe.recipient, &probe.route)?)))
                .collect();
            let named: Vec<&str> = wanted.iter().map(|(probe, _)| &*probe.recipient).collect();
            let ask = |named: &[&str]| target.probe().ask_for(target.map.as_deref(), named);
            let mut asked: Vec<RecipientAnswer> = ask(&named)
                .into_iter()
                .zip(wanted)
                .map(|(outcome, (probe, expected))| RecipientAnswer {
                    recipient: probe.recipient.clone(),
                    expected,
                    outcome,
                })
                .collect();
            // The list may have changed meanwhile.
            for asked in asked.iter_mut().filter(|asked| !asked.agrees()) {
                let route = self.route(&asked.recipient);
                let again = expected(&asked.recipient, &route);
                let (Some(expected), [outcome]) = (again, &ask(&[&asked.recipient])[..]) else {
                    continue;
                };
                (asked.expected, asked.outcome) = (expected, outcome.clone());
            }
            findings.extend(recipients::judge(&target.place, &asked));
        }
        self.findings.extend(findings);
    }

    /// The recipients to ask for: the given one, a user of each server, and postmaster of each domain,
    /// existing or not.
    fn choose(&self, list: Option<&Comparison>) -> Vec<RecipientProbe> {
        let router = &self.resolver.router;
        let mut probes: Vec<RecipientProbe> = Vec::new();
        let mut add = |recipient: String, of: Option<&MailboxName>| -> bool {
            let route = self.route(&recipient);
            let is_its = of.is_none_or(|name| {
                matches!(route.decision, Decision::Deliver(_))
                    && route.mailbox.as_ref() == Some(name)
            });
            let is_new = probes.iter().all(|probe| probe.recipient != recipient);
            if is_its && is_new {
                probes.push(RecipientProbe { recipient, route });
            }
            is_its
        };
        if let Some(named) = &self.options.recipient {
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

    /// Decides for a recipient as the daemon would.
    pub(super) fn route(&self, recipient: &str) -> Route {
        let confirmer = {
            let _inside = self.runtime.enter();
            let master = self.visit.clone().map(|visit| visit as Arc<dyn Master>);
            Confirmer::without_pause(&self.resolver, master)
        };
        let evidence = self.resolver.evidence(confirmer.key_generation());
        let mut confirm = |ask: &Ask| {
            let confirmation = self.runtime.block_on(confirmer.confirm(ask));
            (confirmation, confirmer.key_generation())
        };
        let inquiry = Inquiry::new(recipient.as_bytes(), &evidence).without_time_limit();
        self.resolver.route(inquiry, None, &mut confirm)
    }

    /// The user to ask as. `None`: the current user.
    fn user(&mut self) -> Option<String> {
        const CHECK: &str = "socket/user";
        let of_postfix = self.postfix.as_ref().map(|postfix| postfix.settings.main("mail_owner"));
        let wanted = match (&self.options.user, of_postfix) {
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
                format!("the sockets are tried as {present} and without a chroot"),
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
}

fn present_user() -> String {
    let uid = geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    }
}
