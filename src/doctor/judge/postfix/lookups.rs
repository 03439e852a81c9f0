//! Checks that Postfix can query its tables, and that its routes for our recipients come from
//! murder-route.

use std::collections::{BTreeMap, BTreeSet};

use super::domains::contains;
use super::uses::{Use, unproxied};
use super::{PostfixQueries, PostfixSettings, words};
use crate::doctor::judge::{Finding, Severity, one_line};
use crate::model::domains::Domains;

/// Parameters whose tables decide about recipients. Without `local_recipient_maps`: its default files
/// may be missing on a host without local users.
const PARAMETERS: [&str; 6] = [
    "transport_maps",
    "relay_recipient_maps",
    "virtual_mailbox_maps",
    "recipient_canonical_maps",
    "canonical_maps",
    "virtual_alias_maps",
];

/// Table types on another server: a failure may be temporary.
const REMOTE: [&str; 7] = ["ldap", "mysql", "pgsql", "memcache", "tcp", "netinfo", "mongodb"];

/// Maximum number of domains to query.
const MAX_DOMAINS: usize = 20;

/// Findings about the tables of Postfix. `ours`: its uses of murder-route. `recipients`: addresses in our
/// domains that Postfix is asked about; the last part of the judgement needs one.
pub fn examine(
    settings: &PostfixSettings,
    ours: &[Use],
    recipients: &[String],
    domains: &Domains,
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    let mut findings = malformed(settings);
    findings.extend(twice(settings));
    let broken = findings.iter().any(|finding| finding.severity == Severity::Error);
    findings.extend(unopened(settings, ours, domains, ask));
    // An unreadable transport_maps is reported already.
    if !broken && (!ours.is_empty() || by_library(settings)) {
        findings.extend(transports(settings, ours, recipients, domains, ask));
    }
    findings
}

fn by_library(settings: &PostfixSettings) -> bool {
    super::tables::by_library(settings, "transport_maps").is_some()
}

/// The tables of a list: commas and white space separate, except in braces (mystrtokq(3) of Postfix).
fn tables(list: &str) -> Vec<&str> {
    let (mut tables, mut depth, mut start) = (Vec::new(), 0u32, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            c if depth == 0 && (c == ',' || c.is_whitespace()) => {
                tables.extend(list.get(start..at));
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    tables.extend(list.get(start..));
    tables.retain(|table| !table.is_empty());
    tables
}

/// Socket names that Postfix cannot parse. The process that needs one exits, also after each restart:
/// `fatal: need service transport:endpoint` (util/auto_clnt.c, dict_sockmap.c).
fn malformed(settings: &PostfixSettings) -> Vec<Finding> {
    const CHECK: &str = "postfix/table";
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (parameter, service, value) in settings.everything() {
        // Composed of other parameters by default.
        if parameter.starts_with("proxy_") || parameter.starts_with("address_verify_") {
            continue;
        }
        let place = match service {
            Some(service) => format!("{parameter} (master.cf, {service})"),
            None => parameter.to_owned(),
        };
        let list: Vec<&str> = words(value).collect();
        for (at, word) in list.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| list.get(at)).copied().unwrap_or_default();
            let (what, mend) = match odd(parameter, before, word) {
                Some(told) if seen.insert((*word).to_owned()) => told,
                _ => continue,
            };
            findings.push(Finding::error(CHECK, place.clone(), what).mend(mend));
        }
    }
    findings
}

/// The error in a word of a parameter, and its correct form.
fn odd(parameter: &str, before: &str, word: &str) -> Option<(String, String)> {
    let told =
        |what: &str, mend: &str| Some((format!("`{}`: {what}", one_line(word)), mend.to_owned()));
    let (table, _) = unproxied(word);
    if let Some(name) = table.strip_prefix("socketmap:") {
        let write = "write socketmap:unix:PATH:MAP, as socketmap:unix:/run/murder-route:lmtp";
        return match name.rsplit_once(':').map(|(place, _)| place.split_once(':')) {
            Some(Some(("unix" | "local" | "inet", endpoint))) if !endpoint.is_empty() => None,
            Some(Some((kind, _))) if !kind.contains('/') => {
                told("Postfix does not know this socket type, and the process exits", write)
            }
            _ => told(
                "the socket type or the map is missing; the process exits, and no message of this host moves",
                write,
            ),
        };
    }
    if before.ends_with("check_policy_service") && !word.contains(':') {
        return told(
            "no policy service: smtpd defers every recipient (451 4.3.5)",
            "write check_policy_service unix:PATH",
        );
    }
    if matches!(parameter, "smtpd_milters" | "non_smtpd_milters") && word.starts_with('/') {
        return told("no milter: the socket type is missing", "write unix:PATH");
    }
    None
}

/// Warns of parameters that are set more than once in main.cf.
fn twice(settings: &PostfixSettings) -> Vec<Finding> {
    let judged = |name: &&str| {
        let begins = ["lmtp_", "relay_", "recipient_", "smtpd_", "virtual_"];
        let others = [
            "canonical_maps",
            "mydestination",
            "non_smtpd_milters",
            "parent_domain_matches_subdomains",
        ];
        *name == "transport_maps"
            || others.contains(name)
            || begins.iter().any(|begin| name.starts_with(begin))
    };
    let finding = |name: &str| {
        let what = "is set more than once in main.cf; only the last one counts";
        Finding::warning("postfix/twice", name, what).mend("join them into one, or remove one")
    };
    settings.set_twice().filter(judged).map(finding).collect()
}

/// Other tables that cannot be queried.
fn unopened(
    settings: &PostfixSettings,
    ours: &[Use],
    domains: &Domains,
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    const CHECK: &str = "postfix/table";
    let domain = domains.names().first().map_or("example.org".to_owned(), ToString::to_string);
    let key = format!("postmaster@{domain}");
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for parameter in PARAMETERS {
        for named in tables(settings.main(parameter)) {
            let (table, _) = unproxied(named);
            let kind = table.split(':').next().unwrap_or_default();
            if is_ours(ours, parameter, named)
                || kind == "socketmap"
                || table.contains("socketmap:")
                || !seen.insert(table)
            {
                continue;
            }
            let Err(why) = ask.table(table, &key) else { continue };
            let what = format!("`{}` cannot be asked: {why}", one_line(named));
            if REMOTE.contains(&kind) {
                findings.push(Finding::untested(CHECK, parameter, what));
                continue;
            }
            let so = match parameter {
                "transport_maps" => "no message of this host moves",
                _ => "recipients are deferred",
            };
            let mend = match !kind.is_empty() && !settings.has_type(kind) {
                true => format!("install the package of Postfix that brings the type {kind}"),
                false => "create the table (postmap), or remove it".to_owned(),
            };
            findings.push(Finding::error(CHECK, parameter, format!("{what}; {so}")).mend(mend));
        }
    }
    findings
}

/// Whether a table of this parameter is, or contains, one of murder-route.
fn is_ours(ours: &[Use], parameter: &str, table: &str) -> bool {
    unproxied(table).0.starts_with("murder:")
        || ours.iter().any(|u| u.parameter == parameter && table.contains(&u.text))
}

/// Whether transport_maps uses murder-route.
fn transports(
    settings: &PostfixSettings,
    ours: &[Use],
    recipients: &[String],
    domains: &Domains,
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    const PARAMETER: &str = "transport_maps";
    // The one of the queue manager; smtpd may have another.
    let named = settings.main("rewrite_service_name");
    let rewrite = settings.running("trivial-rewrite").find(|service| service.name == named);
    let list = rewrite.map_or(settings.main(PARAMETER), |service| settings.of(service, PARAMETER));
    let tables = tables(list);
    match tables.iter().position(|table| is_ours(ours, PARAMETER, table)) {
        None => not_ours(settings, &tables, domains, ask),
        Some(at) => before_ours(tables.get(..at).unwrap_or_default(), recipients, domains, ask),
    }
}

/// Reports a transport_maps that does not use murder-route although another parameter does.
fn not_ours(
    settings: &PostfixSettings,
    tables: &[&str],
    domains: &Domains,
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    const CHECK: &str = "postfix/route";
    let mut ways: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for domain in domains.names().iter().take(MAX_DOMAINS) {
        let way = way_of(settings, tables, domain, ask);
        ways.entry(way).or_default().push(domain.to_string());
    }
    if ways.is_empty() {
        ways.insert(settings.main("default_transport").to_owned(), vec!["other domains".into()]);
    }
    let finding = |(way, domains): (String, Vec<String>)| {
        let transport = way.split(':').next().unwrap_or_default();
        let program = settings.transport(transport).map(|service| service.program.as_str());
        let what = format!(
            "it has no table of murder-route; messages for {} go to `{}`, not to the backends",
            domains.join(", "),
            one_line(&way)
        );
        let mend = "set transport_maps to the map `lmtp`, as \
                    transport_maps = socketmap:unix:/run/murder-route:lmtp";
        match program {
            // A frontend's lmtpproxyd, or a delivery program: possibly intended.
            Some("lmtp" | "pipe") => Finding::warning(CHECK, "transport_maps", what).mend(mend),
            _ => Finding::error(CHECK, "transport_maps", what).mend(mend),
        }
    };
    ways.into_iter().map(finding).collect()
}

/// The destination of a domain in Postfix, by these tables or by its address class
/// (ADDRESS_CLASS_README).
fn way_of(
    settings: &PostfixSettings,
    tables: &[&str],
    domain: &str,
    ask: &dyn PostfixQueries,
) -> String {
    let found = tables.iter().find_map(|table| ask.table(unproxied(table).0, domain).ok()?);
    if let Some(way) = found {
        return way;
    }
    let classes = [
        ("mydestination", "local_transport"),
        ("virtual_mailbox_domains", "virtual_transport"),
        ("relay_domains", "relay_transport"),
    ];
    let class = classes
        .into_iter()
        .find(|(class, _)| contains(settings, class, domain, ask).unwrap_or(false));
    settings.main(class.map_or("default_transport", |(_, transport)| transport)).to_owned()
}

/// Tables before ours. Postfix looks for the whole address in all tables, then without its extension,
/// then for the domain in all tables (global/mail_addr_find.c): only the first two can win over
/// murder-route.
fn before_ours(
    tables: &[&str],
    recipients: &[String],
    domains: &Domains,
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    const CHECK: &str = "postfix/route";
    let mut findings = Vec::new();
    let said = |table: &str, key: &str| ask.table(unproxied(table).0, key).ok().flatten();
    for table in tables {
        let taken = recipients.iter().find_map(|recipient| {
            let bare = without_extension(recipient);
            let way = said(table, recipient).or_else(|| said(table, &bare?))?;
            Some((recipient, way))
        });
        if let Some((recipient, way)) = taken {
            let what = format!(
                "`{}`, before murder-route's, sends {} to `{}`; murder-route is not asked",
                one_line(table),
                one_line(recipient),
                one_line(&way)
            );
            findings.push(Finding::warning(CHECK, "transport_maps", what).mend(
                "remove the entry, or put murder-route's table first, unless this is intended",
            ));
            continue;
        }
        let named = domains.names();
        let listed =
            named.iter().take(MAX_DOMAINS).find_map(|domain| Some((domain, said(table, domain)?)));
        if let Some((domain, way)) = listed {
            let what = format!(
                "`{}`, before murder-route's, has `{}` for {domain}; murder-route is asked for the whole address \
                 first and wins, so that messages go there only for recipients that it does not know",
                one_line(table),
                one_line(&way)
            );
            findings.push(
                Finding::warning(CHECK, "transport_maps", what)
                    .mend(format!("remove {domain} from that table")),
            );
        }
    }
    findings
}

/// `jane@example.org` of `jane+folder@example.org`.
fn without_extension(recipient: &str) -> Option<String> {
    let (local, domain) = recipient.rsplit_once('@')?;
    let (user, _) = local.split_once('+')?;
    Some(format!("{user}@{domain}"))
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::sites;
    use super::super::uses::uses;
    use super::*;

    /// Tables with one entry each. Others cannot be opened.
    struct Tables(&'static [(&'static str, &'static str, &'static str)]);

    impl PostfixQueries for Tables {
        fn table(&self, table: &str, key: &str) -> Result<Option<String>, String> {
            let mut entries = self.0.iter().filter(|(name, ..)| *name == table).peekable();
            entries.peek().ok_or("open database: No such file or directory")?;
            Ok(entries.find(|(_, known, _)| *known == key).map(|(.., value)| (*value).to_owned()))
        }

        fn file(&self, path: &str) -> Result<String, String> {
            Err(path.into())
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            None
        }
    }

    const OURS: &str = "socketmap:unix:/run/murder-route:lmtp";
    const TABLES: Tables = Tables(&[
        ("hash:/etc/transport", "example.org", "smtp:[192.0.2.77]"),
        ("hash:/etc/cyrus", "example.org", "lmtp:unix:/run/cyrus/lmtp"),
        ("hash:/etc/cyrus", "example.net", "lmtp:unix:/run/cyrus/lmtp"),
        ("hash:/etc/jane", "jane@example.org", "smtp:[192.0.2.7]"),
        ("hash:/etc/other", "example.com", "smtp:[192.0.2.7]"),
    ]);

    /// Findings in every release with these settings.
    fn found(set: &[(&str, &str)]) -> Vec<Finding> {
        let domains = Domains::new(["example.org", "example.net"]).unwrap();
        let recipients = ["jane+work@example.org".to_owned(), "postmaster@example.net".to_owned()];
        let [a, b, c] = sites().map(|mut settings| {
            for (name, value) in set {
                settings = settings.with(name, value);
            }
            examine(&settings, &uses(&settings), &recipients, &domains, &TABLES)
        });
        assert_eq!((&a, &b), (&b, &c));
        a
    }

    fn severities(set: &[(&str, &str)]) -> Vec<(&'static str, Severity)> {
        found(set).iter().map(|finding| (finding.check, finding.severity)).collect()
    }

    #[test]
    fn sound_tables_have_no_findings() {
        assert_eq!(found(&[]), []);
        for list in [
            "hash:/etc/other, proxy:socketmap:unix:/run/murder-route:lmtp",
            "socketmap:inet:127.0.0.1:10028:lmtp",
            "socketmap:unix:/run/murder-route:lmtp hash:/etc/jane",
            "pipemap:{inline:{a=b, c=d},socketmap:unix:/run/murder-route:lmtp}",
            "murder:/etc/murder-route.toml",
        ] {
            assert_eq!(found(&[("transport_maps", list)]), [], "{list}");
        }
    }

    #[test]
    fn table_name_that_postfix_cannot_read_is_an_error() {
        const TABLE: [(&str, Severity); 1] = [("postfix/table", Severity::Error)];
        for list in [
            "socketmap:unix:/run/murder-route",
            "socketmap:/run/murder-route:lmtp",
            "proxy:socketmap:unix:/run/murder-route",
            "socketmap:unixx:/run/murder-route:lmtp",
            "socketmap:unix::lmtp",
            "socketmap:lmtp",
        ] {
            assert_eq!(severities(&[("transport_maps", list)]), TABLE, "{list}");
            assert_eq!(severities(&[("relay_recipient_maps", list)]), TABLE, "{list}");
        }
        for (parameter, value) in [
            ("smtpd_recipient_restrictions", "check_policy_service /run/murder-route"),
            ("smtpd_milters", "/run/murder-route"),
        ] {
            assert_eq!(severities(&[(parameter, value)]), TABLE, "{value}");
        }
        // No other parameter uses murder-route.
        let alone = [
            ("transport_maps", "socketmap:unix:/run/murder-route"),
            ("recipient_canonical_maps", ""),
        ];
        assert_eq!(severities(&alone), TABLE);
    }

    #[test]
    fn table_that_cannot_be_opened_stops_the_whole_host() {
        for list in ["hash:/etc/none", "hash:/etc/none socketmap:unix:/run/murder-route:lmtp"] {
            let found = found(&[("transport_maps", list)]);
            let table = found.iter().find(|finding| finding.check == "postfix/table").unwrap();
            assert_eq!(table.severity, Severity::Error);
            assert!(table.what.contains("no message of this host moves"), "{table:?}");
        }
        let found = found(&[("relay_recipient_maps", "pcre:/etc/none")]);
        assert!(found[0].mend.as_ref().unwrap().contains("the type pcre"), "{found:?}");
        let remote = severities(&[("virtual_alias_maps", "ldap:/etc/none")]);
        assert_eq!(remote, [("postfix/table", Severity::Untested)]);
    }

    #[test]
    fn transport_map_without_murder_route_misdelivers_messages() {
        for (list, severity, way) in [
            ("", Severity::Error, "example.net, example.org go to `relay`"),
            ("hash:/etc/other", Severity::Error, "go to `relay`"),
            ("hash:/etc/cyrus", Severity::Warning, "go to `lmtp:unix:/run/cyrus/lmtp`"),
        ] {
            let found = found(&[("transport_maps", list)]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].check, found[0].severity), ("postfix/route", severity), "{list}");
            assert!(found[0].what.contains(way), "{found:?}");
        }
        let local =
            [("transport_maps", ""), ("mydestination", "example.org"), ("relay_domains", "")];
        let found = found(&local);
        let what: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert!(what.iter().any(|what| what.contains("example.org go to `local:")), "{what:?}");
    }

    #[test]
    fn table_before_ours_that_answers_for_a_recipient_is_named() {
        for (table, what) in [
            ("hash:/etc/jane", "sends jane+work@example.org to `smtp:[192.0.2.7]`"),
            ("proxy:hash:/etc/transport", "has `smtp:[192.0.2.77]` for example.org"),
        ] {
            let found = found(&[("transport_maps", &format!("{table}, {OURS}"))]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].check, found[0].severity), ("postfix/route", Severity::Warning));
            assert!(found[0].what.contains(what), "{found:?}");
        }
    }

    #[test]
    fn parameter_that_is_set_twice_is_named() {
        for mut settings in sites() {
            settings.note(
                "postconf: warning: /etc/postfix/main.cf, line 9: overriding earlier entry: \
                 transport_maps=socketmap:unix:/run/murder-route:lmtp\npostconf: warning: \
                 /etc/postfix/main.cf, line 9: overriding earlier entry: inet_interfaces=all\n\
                 postconf: warning: other\n",
            );
            let domains = Domains::new(["example.org"]).unwrap();
            let found = examine(&settings, &uses(&settings), &[], &domains, &TABLES);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (found[0].check, found[0].place.as_str()),
                ("postfix/twice", "transport_maps")
            );
        }
    }
}
