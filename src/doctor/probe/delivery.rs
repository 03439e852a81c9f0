//! Talks LMTP with the backends, and logs in there as Postfix and as `murder-route lmtp` would.

use std::collections::BTreeSet;

use super::Examination;
use super::conversation::{self, BackendTarget};
use super::login::{self, LoginTrial};
use super::postconf::Postfix;
use crate::address::Recipient;
use crate::config::{self, BackendAccess};
use crate::doctor::judge::backend::{Client, judge};
use crate::doctor::judge::comparison::Comparison;
use crate::doctor::judge::lmtp::{Facts, Own, Tried};
use crate::doctor::judge::login::{LoginPlan, plan};
use crate::doctor::judge::{Finding, one_line};
use crate::model::backend::{Backend, NoBackend};
use crate::routing::route::Decision;

impl Examination<'_> {
    /// Probes the backends. Returns the targets and the observations.
    pub(super) fn backends(
        &mut self,
        list: Option<&Comparison>,
    ) -> (Vec<BackendTarget>, Vec<Facts>) {
        const CHECK: &str = "backend/lmtp";
        let mut servers: BTreeSet<Option<String>> = match &*self.options.backends {
            [] => list.map(|list| list.backends().keys().cloned().collect()).unwrap_or_default(),
            named => named.iter().cloned().map(Some).collect(),
        };
        if list.is_none() && self.options.backends.is_empty() {
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
                Ok(Backend { address: place, .. }) => {
                    let asked = of_recipient.as_ref().filter(|(of, _)| *of == server);
                    let recipient = asked.map(|(_, recipient)| recipient.clone());
                    wanted.push(BackendTarget { server, place, recipient });
                }
                Err(NoBackend::Draining(_)) => {
                    let why = "it is drained; its messages wait";
                    self.findings.push(Finding::skipped(CHECK, one_line(&named), why));
                }
                Err(NoBackend::Local) => self.findings.push(
                    Finding::warning(CHECK, named, "the list has some; their messages wait")
                        .mend("set `local` in [backends] if this host accepts them by LMTP"),
                ),
                Err(odd) => self.findings.push(
                    Finding::error(CHECK, one_line(&named), format!("{odd}; its messages wait"))
                        .mend("set its `address` in [backends.servers]"),
                ),
            }
        }
        if wanted.is_empty() {
            let why = "no server is known; name one with --backend";
            self.findings.push(Finding::skipped(CHECK, "backends", why));
        }
        let us = self.lhlo_name();
        let mut facts = self.runtime.block_on(conversation::run_all(&us, &wanted));
        let clients: Vec<Option<Client>> =
            wanted.iter().map(|wanted| self.client(wanted.server.as_deref())).collect();
        self.log_in(&us, &wanted, &clients, &mut facts);
        for ((wanted, client), facts) in wanted.iter().zip(&clients).zip(&facts) {
            let BackendTarget { server, place, recipient } = wanted;
            // Findings about a transport are the same for every backend.
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

    /// Tries the login of Postfix, and that of `murder-route lmtp` if configured.
    fn log_in(
        &mut self,
        us: &str,
        wanted: &[BackendTarget],
        clients: &[Option<Client>],
        facts: &mut [Facts],
    ) {
        let access = config::backends_access(self.options.config.as_deref());
        let mut trials = Vec::new();
        for ((BackendTarget { place, .. }, client), facts) in
            wanted.iter().zip(clients).zip(&mut *facts)
        {
            let reached = facts.failure.is_none();
            let attempt = match client.as_ref().map(|client| plan(facts, client)) {
                Some(LoginPlan::Try(attempt)) => Some(attempt),
                Some(LoginPlan::Skip(why)) => {
                    facts.tried = Some(Tried::Skipped(why));
                    None
                }
                Some(LoginPlan::Nothing) | None => None,
            };
            // An unreadable configuration is reported elsewhere.
            let own = access.as_ref().ok().map(|access| access.of(place));
            if self.postfix.is_none() && own.as_ref().is_some_and(BackendAccess::is_plain) {
                facts.own = Some(Own::Plain);
            }
            let access = own.filter(|access| reached && !access.is_plain());
            trials.push(LoginTrial { attempt, access });
        }
        let outcomes = self.runtime.block_on(login::try_all(us, wanted, trials));
        for (facts, outcome) in facts.iter_mut().zip(outcomes) {
            facts.tried = outcome.tried.or(facts.tried.take());
            facts.own = outcome.own.or(facts.own.take());
            if facts.rcpt.is_none() {
                facts.rcpt = outcome.rcpt;
            }
        }
    }

    /// The behaviour of Postfix' transport for a server.
    fn client(&self, server: Option<&str>) -> Option<Client> {
        let postfix = self.postfix.as_ref()?;
        let Backend { transport, address: place } =
            self.resolver.router.backends.resolve(server).ok()?;
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

    /// The server of the given recipient, and its canonical address there.
    fn recipient(&mut self) -> Option<(Option<String>, String)> {
        const CHECK: &str = "recipient/route";
        let named = self.options.recipient.as_deref()?;
        let resolver = &self.resolver;
        let route = self.route(named);
        let what = format!("{}: {}", route.decision.as_str(), one_line(&route.why()));
        let place = one_line(named);
        let finding = match &route.decision {
            Decision::Deliver(_) => Finding::ok(CHECK, place, what),
            Decision::Deferred(_) => Finding::untested(CHECK, place, what),
            Decision::Unknown | Decision::Refused(_) | Decision::Foreign => {
                Finding::error(CHECK, place, what)
                    .mend("run murder-route lookup --explain to see the steps of the decision")
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
}
