//! Checks that Postfix can deliver by the answers of the maps, and that refusals of backends are
//! temporary.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{PostfixQueries, PostfixSettings, Service, words};
use crate::doctor::judge::{Finding, one_line};

/// A `transport:nexthop` that a map may return.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransportAnswer {
    /// The source of the answer.
    pub place: String,
    /// The answer.
    pub text: String,
}

/// The source of the answer `fallback`.
pub const FALLBACK: &str = "fallback";

/// Postfix' text for the refusal of a backend without the mailbox: lmtpd's lines with the host name
/// (seen with 3.6.1).
pub(super) const REFUSAL: &str = "5.1.1 host be1.example.org[192.0.2.1] said: 550-Mailbox unknown.  Either there is no mailbox \
     associated with this 550-name or you do not have authorization to see it. 550 5.1.1 User \
     unknown (in reply to RCPT TO command)";

/// Refusals that do not concern the recipient, in Postfix' text: of a backend that wants a login
/// (`soft_noauth: off`; seen with 3.6.1), and of a server that does not speak LMTP.
const REFUSALS_OF_US: [(&str, &str); 2] = [
    (
        "530 Authentication required",
        "5.0.0 host be1.example.org[192.0.2.1] said: 530 Authentication required (in reply to MAIL \
         FROM command)",
    ),
    (
        "refusal of LHLO",
        "5.5.2 host be1.example.org[192.0.2.1] refused to talk to me: 502 5.5.2 Error: command not \
         recognized",
    ),
];

/// Findings about the transports of the answers.
pub fn examine<'a>(
    settings: &PostfixSettings,
    answers: impl IntoIterator<Item = &'a TransportAnswer>,
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut transports = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for TransportAnswer { place, text } in answers {
        let (transport, nexthop) = text.split_once(':').unwrap_or((text, ""));
        // These answers of a map name no transport to check.
        if matches!(transport, "error" | "retry" | "discard") {
            continue;
        }
        let Some(service) = settings.transport(transport) else {
            if transports.insert(transport) {
                let what = format!("`{}`: master.cf has no transport {transport}", one_line(text));
                findings.push(Finding::error("postfix/transport", place, what).mend(format!(
                    "add `{transport} unix - - n - - lmtp` to master.cf, or set `transport` in \
                         [backends]"
                )));
            }
            continue;
        };
        // The rules for a backend's transport do not apply to that of the fallback.
        if place != FALLBACK && transports.insert(transport) {
            findings.extend(program(service, place));
            findings.extend(softened(settings, service, ask));
        }
        if service.program != "lmtp" {
            continue;
        }
        match Nexthop::parse(nexthop) {
            Some(Nexthop { host, port }) => {
                if port.is_none() {
                    findings.push(portless(settings, service, place, text));
                }
                if hosts.insert((transport, host)) {
                    findings.extend(lookup(settings, service, host, ask));
                }
            }
            None if nexthop.starts_with("unix:") => {}
            None => findings.push(
                Finding::error(
                    "postfix/nexthop",
                    place,
                    format!("`{}`: no host to deliver to", one_line(text)),
                )
                .mend("write transport:inet:HOST:PORT"),
            ),
        }
    }
    findings
}

/// A nexthop of lmtp(8) that is no unix socket.
struct Nexthop<'a> {
    host: &'a str,
    port: Option<&'a str>,
}

impl<'a> Nexthop<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix("inet:").unwrap_or(text);
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.filter(|port| !port.is_empty());
        (!host.is_empty() && host != "unix").then_some(Self { host, port })
    }
}

fn program(service: &Service, place: &str) -> Option<Finding> {
    let Service { name, program, .. } = service;
    if program == "lmtp" {
        return None;
    }
    let what = format!("the transport {name} is {program}, which does not speak LMTP");
    let mend = format!("run lmtp as {name} in master.cf, or set another `transport` in [backends]");
    Some(Finding::error("postfix/transport", place, what).mend(mend))
}

/// A backend permanently refuses a recipient that has just moved; the next lookup finds the new
/// backend.
fn softened(
    settings: &PostfixSettings,
    service: &Service,
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    const CHECK: &str = "postfix/softening";
    const PARAMETER: &str = "lmtp_delivery_status_filter";
    let place = format!("{PARAMETER} (transport {})", service.name);
    let mend = format!(
        "save the output of `murder-route postfix-config murder-route-status` as FILE, and add \
         `-o {PARAMETER}=regexp:FILE` below {} in master.cf",
        service.name
    );
    let list = settings.of(service, PARAMETER);
    if list.is_empty() {
        let what = "none: messages bounce while their mailbox is moved";
        return vec![Finding::error(CHECK, place, what).mend(mend)];
    }
    // An inline table in braces is one word.
    let tables: Vec<&str> = if list.contains('{') { vec![list] } else { words(list).collect() };
    // The result of the first table that matches a status.
    let filter = |status: &str| -> Result<Option<(&str, String)>, Finding> {
        for table in &tables {
            match ask.table(table, status) {
                Ok(Some(said)) => return Ok(Some((table, said))),
                Ok(None) => {}
                Err(why) => {
                    let what =
                        format!("{table} cannot be asked, so messages wait or bounce: {why}");
                    let kind = table.split(':').next().unwrap_or_default();
                    let mend = match settings.has_type(kind) {
                        true => mend.clone(),
                        false => {
                            format!(
                                "install the Postfix package with the table type {kind}, or {mend}"
                            )
                        }
                    };
                    return Err(Finding::error(CHECK, place.clone(), what).mend(mend));
                }
            }
        }
        Ok(None)
    };
    let mut findings = Vec::new();
    match filter(REFUSAL) {
        Ok(Some((_, said))) if said.starts_with("4.") => {}
        Ok(Some((table, said))) => {
            let what = format!("{table} makes `{}` of a backend's 5.1.1", one_line(&said));
            findings.push(Finding::error(CHECK, place.clone(), what).mend(mend.clone()));
        }
        Ok(None) => {
            let what = format!(
                "`{list}` does not change a backend's 5.1.1; messages bounce during a move"
            );
            findings.push(Finding::error(CHECK, place.clone(), what).mend(mend.clone()));
        }
        Err(unasked) => return vec![unasked],
    }
    let left: Vec<&str> = REFUSALS_OF_US
        .iter()
        .filter(|(_, status)| {
            let said = filter(status).ok().flatten();
            !said.is_some_and(|(_, said)| said.starts_with("4."))
        })
        .map(|(name, _)| *name)
        .collect();
    if !left.is_empty() {
        let what = format!(
            "`{list}` does not change a backend's {}; while a backend refuses this host, for example without \
             a login, its messages bounce",
            left.join(" and ")
        );
        findings.push(Finding::error(CHECK, place.clone(), what).mend(mend));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, place, "a backend's 5.1.1 and 530 are retried"));
    }
    findings
}

fn portless(settings: &PostfixSettings, service: &Service, place: &str, text: &str) -> Finding {
    let port = settings.of(service, "lmtp_tcp_port");
    let what = format!("`{}` has no port; Postfix uses {port}", one_line(text));
    let mend = "add the port; lmtpd of a murder usually listens at 2003";
    match port {
        // lmtpd may listen there, but by convention does not.
        "24" => Finding::error("postfix/port", place, what).mend(mend),
        _ => Finding::warning("postfix/port", place, what).mend(mend),
    }
}

/// lmtp(8) uses the DNS only, by default.
fn lookup(
    settings: &PostfixSettings,
    service: &Service,
    host: &str,
    ask: &dyn PostfixQueries,
) -> Option<Finding> {
    const CHECK: &str = "postfix/host-lookup";
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let lookup = settings.of(service, "lmtp_host_lookup");
    let no_dns = settings.of(service, "disable_dns_lookups") == "yes"
        || settings.of(service, "lmtp_dns_support_level") == "disabled";
    let native = no_dns || words(lookup).any(|way| way == "native");
    let place = format!("lmtp_host_lookup = {lookup} (transport {})", service.name);
    let listed = |file: &str| ask.file(file).is_ok_and(|text| has_host(&text, host));
    if native {
        let queue = settings.main("queue_directory");
        let there =
            !service.chroot || !listed("/etc/hosts") || listed(&format!("{queue}/etc/hosts"));
        if there || ask.in_dns(host) == Some(true) {
            return None;
        }
        let what = format!("{host} is in /etc/hosts, but not in {queue}/etc/hosts of the chroot");
        let mend = format!("copy /etc/hosts there, or run {} without a chroot", service.name);
        return Some(Finding::error(CHECK, place, what).mend(mend));
    }
    let mend =
        "lmtp_host_lookup = dns, native, or an `address` for the server in [backends.servers]";
    match (ask.in_dns(host), listed("/etc/hosts")) {
        // Without any address the backend is unreachable, which is reported elsewhere.
        (Some(true), _) | (_, false) => None,
        (Some(false), true) => {
            let what = format!("{host} is in /etc/hosts only, where Postfix does not look");
            Some(Finding::error(CHECK, place, what).mend(mend))
        }
        (None, true) => {
            let what = format!("{host} is in /etc/hosts, possibly only there");
            Some(Finding::warning(CHECK, place, what).mend(mend))
        }
    }
}

/// Whether a file like /etc/hosts has the host.
fn has_host(text: &str, host: &str) -> bool {
    text.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|name| name.eq_ignore_ascii_case(host))
    })
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::sites;
    use super::*;
    use crate::doctor::judge::Severity;

    struct Asked {
        filter: Result<Option<&'static str>, &'static str>,
        of_us: Result<Option<&'static str>, &'static str>,
        hosts: &'static str,
        /// Whether the chroot has a copy of it.
        copied: bool,
        dns: Option<bool>,
    }

    impl PostfixQueries for Asked {
        fn table(&self, table: &str, key: &str) -> Result<Option<String>, String> {
            assert!(key.starts_with("5.") && !table.is_empty());
            let filter = if key.starts_with("5.1.1 ") { self.filter } else { self.of_us };
            filter.map(|said| said.map(str::to_owned)).map_err(str::to_owned)
        }

        fn file(&self, path: &str) -> Result<String, String> {
            let copy = path == "/var/spool/postfix/etc/hosts" && self.copied;
            let known = path == "/etc/hosts" || copy;
            known.then(|| self.hosts.to_owned()).ok_or("not there".into())
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            self.dns
        }
    }

    const SOUND: Asked = Asked {
        filter: Ok(Some("4.1.1 host said")),
        of_us: Ok(Some("4.7.0 host said")),
        hosts: "127.0.0.1 localhost\n192.0.2.1 be1.example.org be1 # a backend\n",
        copied: false,
        dns: Some(true),
    };

    /// Findings in every release after this change.
    fn found(
        text: &str,
        asked: &Asked,
        change: impl Fn(PostfixSettings) -> PostfixSettings,
    ) -> Vec<(&'static str, Severity)> {
        let answers = [TransportAnswer { place: "the map lmtp".into(), text: text.into() }];
        let [a, b, c] = sites().map(|settings| {
            let found = examine(&change(settings), &answers, asked);
            let bad = found.iter().filter(|finding| finding.severity != Severity::Ok);
            bad.map(|finding| (finding.check, finding.severity)).collect::<Vec<_>>()
        });
        assert_eq!((&a, &b), (&b, &c));
        a
    }

    #[test]
    fn usable_route_is_accepted() {
        for text in [
            "murder:inet:192.0.2.1:2003",
            "murder:inet:[2001:db8::1]:2003",
            "murder:inet:be1.example.org:2003",
            "murder:unix:/run/lmtp",
            "error:5.1.1 User unknown",
        ] {
            assert_eq!(found(text, &SOUND, |s| s), [], "{text}");
        }
    }

    #[test]
    fn backend_without_a_port_is_looked_for_at_24() {
        for text in ["murder:inet:192.0.2.1", "murder:192.0.2.1:", "murder:[2001:db8::1]"] {
            assert_eq!(found(text, &SOUND, |s| s), [("postfix/port", Severity::Error)], "{text}");
        }
        let other = |s: PostfixSettings| s.with("lmtp_tcp_port", "2003");
        let port = [("postfix/port", Severity::Warning)];
        assert_eq!(found("murder:inet:192.0.2.1", &SOUND, other), port);
        let nowhere = [("postfix/nexthop", Severity::Error)];
        assert_eq!(found("murder:", &SOUND, |s| s), nowhere);
    }

    #[test]
    fn fallback_is_checked_for_its_route_only() {
        let judged = |text: &str| {
            let answers = [TransportAnswer { place: FALLBACK.into(), text: text.into() }];
            let [_, settings, _] = sites();
            let found = examine(&settings, &answers, &SOUND);
            found.iter().map(|finding| finding.check).collect::<Vec<_>>()
        };
        // `lmtp` of this site has no status filter, and `smtp` no LMTP.
        assert_eq!(judged("lmtp:inet:192.0.2.1:24"), [""; 0]);
        assert_eq!(judged("smtp:[192.0.2.1]"), [""; 0]);
        assert_eq!(judged("lmtp:inet:192.0.2.1"), ["postfix/port"]);
        assert_eq!(judged("old:inet:192.0.2.1:24"), ["postfix/transport"]);
    }

    #[test]
    fn missing_transport_or_one_that_speaks_smtp_is_an_error() {
        let error = [("postfix/transport", Severity::Error)];
        assert_eq!(found("cyrus:inet:192.0.2.1:2003", &SOUND, |s| s), error);
        assert_eq!(found("be1.example.org", &SOUND, |s| s), error);
        let smtp = |s: PostfixSettings| {
            s.with_service("murder", |service| service.program = "smtp".into())
        };
        assert_eq!(found("murder:inet:192.0.2.1:2003", &SOUND, smtp), error);
    }

    #[test]
    fn refusal_during_a_move_must_not_bounce() {
        let way = "murder:inet:192.0.2.1:2003";
        let softening = |severity| vec![("postfix/softening", severity)];
        let none =
            |s: PostfixSettings| s.with_service("murder", |service| service.overrides.clear());
        assert_eq!(found(way, &SOUND, none), softening(Severity::Error));
        // A filter set for all of lmtp counts as well.
        let all = |s: PostfixSettings| none(s).with("lmtp_delivery_status_filter", "regexp:/etc/f");
        assert_eq!(found(way, &SOUND, all), []);
        for (filter, severity) in [
            (Ok(None), Severity::Error),
            (Ok(Some("5.1.1 still")), Severity::Error),
            (Err("cannot be read"), Severity::Error),
        ] {
            let asked = Asked { filter, ..SOUND };
            assert_eq!(found(way, &asked, |s| s), softening(severity));
        }
        for of_us in [Ok(None), Ok(Some("5.7.0 still")), Err("cannot be read")] {
            let asked = Asked { of_us, ..SOUND };
            assert_eq!(found(way, &asked, |s| s), softening(Severity::Error));
        }
    }

    #[test]
    fn backend_known_only_from_a_file_is_not_found_by_postfix() {
        let way = "murder:inet:be1.example.org:2003";
        let dns = |s: PostfixSettings| {
            s.with_service("murder", |service| drop(service.overrides.remove("lmtp_host_lookup")))
        };
        let error = [("postfix/host-lookup", Severity::Error)];
        let warning = [("postfix/host-lookup", Severity::Warning)];
        let asked = |dns| Asked { dns, ..SOUND };
        assert_eq!(found(way, &asked(None), dns), warning);
        assert_eq!(found(way, &asked(Some(true)), dns), []);
        assert_eq!(found("murder:inet:be2.example.org:2003", &asked(None), dns), []);
        // With `native`, the chroot has no such file.
        assert_eq!(found(way, &asked(Some(false)), |s| s), error);
        let free = |s: PostfixSettings| s.with_service("murder", |service| service.chroot = false);
        assert_eq!(found(way, &asked(Some(false)), free), []);
        let copied = Asked { copied: true, ..asked(Some(false)) };
        assert_eq!(found(way, &copied, |s| s), []);
        // An unknown host is reported elsewhere.
        let unknown = "murder:inet:be2.example.org:2003";
        assert_eq!(found(unknown, &asked(Some(false)), |s| s), []);
        // Without the DNS only files count.
        assert_eq!(found(way, &asked(Some(false)), |s| dns(free(s))), error);
        for (name, value) in
            [("disable_dns_lookups", "yes"), ("lmtp_dns_support_level", "disabled")]
        {
            let files = |s: PostfixSettings| dns(free(s)).with(name, value);
            assert_eq!(found(way, &asked(Some(false)), files), [], "{name}");
        }
    }
}
