//! Checks that Postfix accepts messages for our domains, and that murder-route decides about their
//! recipients.

use super::tables::by_library;
use super::uses::Use;
use super::{PostfixQueries, PostfixSettings, words};
use crate::doctor::judge::{Finding, one_line};
use crate::model::domains::Domains;

/// Address classes in the order of Postfix (ADDRESS_CLASS_README), with the parameter that lists the
/// recipients of each.
const CLASSES: [(&str, &str); 4] = [
    ("mydestination", "local_recipient_maps"),
    ("virtual_alias_domains", "virtual_alias_maps"),
    ("virtual_mailbox_domains", "virtual_mailbox_maps"),
    ("relay_domains", "relay_recipient_maps"),
];

/// Findings about the domains and their recipients. `ours`: the tables that use the daemon.
pub fn examine(
    settings: &PostfixSettings,
    ours: &[Use],
    domains: &Domains,
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    const CHECK: &str = "postfix/domains";
    let mut findings = vec![delimiter(settings)];
    if domains.is_every() {
        let why = "every domain is served; there is nothing to compare";
        findings.push(Finding::skipped(CHECK, "relay_domains", why));
        return findings;
    }
    let mut fine = Vec::new();
    for domain in domains.names() {
        let before = findings.len();
        let mut classes = Vec::new();
        for (class, recipients) in CLASSES {
            match contains(settings, class, &domain, ask) {
                Ok(true) => classes.push((class, recipients)),
                Ok(false) => {}
                Err(why) => findings.push(Finding::untested(
                    CHECK,
                    class,
                    format!("cannot determine whether {domain} is in it: {why}"),
                )),
            }
        }
        match &classes[..] {
            [] if findings.len() > before => {}
            [] => findings.push(
                Finding::error(
                    CHECK,
                    "relay_domains",
                    format!("Postfix accepts no messages for {domain}, which is in `domains`"),
                )
                .mend(format!("add {domain} to relay_domains")),
            ),
            [(class, recipients), more @ ..] => {
                if let [(second, _), ..] = more {
                    findings.push(
                        Finding::warning(
                            CHECK,
                            *class,
                            format!("{domain} is also in {second}; the first one counts"),
                        )
                        .mend("keep it in one of them"),
                    );
                }
                findings.extend(recipients_of(settings, ours, &domain, class, recipients));
            }
        }
        if findings.len() == before {
            fine.push(domain);
        }
    }
    if !fine.is_empty() {
        let what = format!("Postfix accepts messages for {}", fine.join(", "));
        findings.push(Finding::ok(CHECK, "relay_domains", what));
    }
    findings.extend(foreign(settings, domains));
    findings.extend(subdomains(settings, domains, ask));
    findings
}

/// By default relay_domains includes the subdomains of each domain
/// (`parent_domain_matches_subdomains`). The maps have no answer for those: Postfix accepts the
/// message, looks for an MX and bounces it.
fn subdomains(
    settings: &PostfixSettings,
    domains: &Domains,
    ask: &dyn PostfixQueries,
) -> Option<Finding> {
    const CLASS: &str = "relay_domains";
    // Unlisted recipients are refused.
    if words(settings.main("relay_recipient_maps")).next().is_some() {
        return None;
    }
    let taken = |domain: &str| {
        let below = format!("no-such-host.{domain}");
        contains(settings, CLASS, &below, ask) == Ok(true)
    };
    let taken: Vec<String> = domains
        .names()
        .iter()
        .filter(|domain| taken(domain))
        .map(|domain| format!("*.{domain}"))
        .collect();
    if taken.is_empty() {
        return None;
    }
    let parameter = "parent_domain_matches_subdomains";
    let matched: Vec<&str> = words(settings.main(parameter)).collect();
    let (place, mend) = match matched.contains(&CLASS) {
        true => {
            let rest: Vec<&str> = matched.into_iter().filter(|name| *name != CLASS).collect();
            (parameter, format!("{parameter} = {}", rest.join(", ")))
        }
        false => (CLASS, "remove the entries with a leading dot".to_owned()),
    };
    let what = format!(
        "Postfix also accepts messages for {}; murder-route serves none of them, and they bounce to \
         possibly forged senders",
        taken.join(", ")
    );
    Some(Finding::warning("postfix/subdomains", place, what).mend(mend))
}

/// Cyrus' lmtpd splits addresses at `+` only. Postfix splits for its own tables.
fn delimiter(settings: &PostfixSettings) -> Finding {
    let delimiter = settings.main("recipient_delimiter");
    let place = format!("recipient_delimiter = {delimiter}");
    let mend = "recipient_delimiter = +";
    const CHECK: &str = "postfix/delimiter";
    match delimiter {
        "+" => Finding::ok(CHECK, place, "as in Cyrus"),
        "" => Finding::warning(
            CHECK,
            place,
            "Cyrus splits jane+folder, Postfix does not; aliases of jane do not apply to it",
        )
        .mend(mend),
        odd if odd.contains('+') => Finding::warning(
            CHECK,
            place,
            "Cyrus splits at `+` only; an address with another of these belongs to another user there",
        )
        .mend(mend),
        _ => Finding::error(
            CHECK,
            place,
            "Cyrus and murder-route split at `+`, Postfix elsewhere; addresses that it splits are unknown",
        )
        .mend(mend),
    }
}

/// The authority for recipients of a domain in this class.
fn recipients_of(
    settings: &PostfixSettings,
    ours: &[Use],
    domain: &str,
    class: &str,
    recipients: &str,
) -> Option<Finding> {
    const CHECK: &str = "postfix/recipients";
    if class == "virtual_alias_domains" {
        let what =
            format!("{domain}: Postfix expects aliases there; mailboxes are unknown recipients");
        let mend = format!("move {domain} to relay_domains");
        return Some(Finding::error(CHECK, class, what).mend(mend));
    }
    let listed = settings.main(recipients);
    let by_us = ours.iter().any(|u| u.parameter == recipients)
        || by_library(settings, recipients).is_some();
    if words(listed).next().is_none() || by_us {
        return None;
    }
    let what = format!(
        "{domain} is in {class}, whose recipients are listed in `{}`; other recipients are refused, even \
         with a mailbox",
        one_line(listed)
    );
    let mend = match class {
        "mydestination" => format!("move {domain} to relay_domains"),
        _ => format!("leave {recipients} empty, or add the map `recipient` to it"),
    };
    Some(match class {
        // The default is the users of this host, which have no mailboxes.
        "mydestination" => Finding::error(CHECK, recipients, what).mend(mend),
        _ => Finding::warning(CHECK, recipients, what).mend(mend),
    })
}

/// Warns of domains that Postfix relays and that are not in `domains`: of another machine, or
/// forgotten.
fn foreign(settings: &PostfixSettings, domains: &Domains) -> Option<Finding> {
    let own = words(settings.main("mydestination")).collect::<Vec<_>>();
    let plain = |word: &&str| !word.contains([':', '/', '!', '*']) && !own.contains(word);
    let others: Vec<&str> = words(settings.main("relay_domains"))
        .filter(plain)
        .filter(|word| !domains.contains(word.to_ascii_lowercase().as_bytes()))
        .collect();
    if others.is_empty() {
        return None;
    }
    let what = format!("{} are not in `domains` and are not routed", others.join(", "));
    Some(
        Finding::warning("postfix/domains", "relay_domains", what)
            .mend("add those that have mailboxes in the murder to `domains`"),
    )
}

/// Whether the domain list of a parameter has this domain.
pub(super) fn contains(
    settings: &PostfixSettings,
    list: &str,
    domain: &str,
    ask: &dyn PostfixQueries,
) -> Result<bool, String> {
    let parents = words(settings.main("parent_domain_matches_subdomains")).any(|name| name == list);
    matches(settings.main(list), domain, parents, ask, 0)
}

/// postconf(5), `mydestination` and `relay_domains`: domains, `/file/name` with more entries, and
/// `type:table`. The first match counts; `!` before it negates.
fn matches(
    list: &str,
    domain: &str,
    parents: bool,
    ask: &dyn PostfixQueries,
    depth: u8,
) -> Result<bool, String> {
    let mut doubt = None;
    for word in words(list) {
        let (no, word) = match word.strip_prefix('!') {
            Some(word) => (true, word),
            None => (false, word),
        };
        let matched = if word.starts_with('/') {
            if depth > 3 {
                return Err(format!("{word}: files nested too deeply"));
            }
            let text = ask.file(word);
            text.and_then(|text| matches(&uncommented(&text), domain, parents, ask, depth + 1))
        } else if word.contains(':') && !word.starts_with('[') {
            keys(domain, parents)
                .try_fold(false, |found, key| Ok(found || ask.table(word, &key)?.is_some()))
        } else {
            Ok(names(word, domain, parents))
        };
        match matched {
            Ok(true) => return Ok(!no),
            Ok(false) => {}
            Err(why) => doubt = Some(why),
        }
    }
    doubt.map_or(Ok(false), Err)
}

fn uncommented(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

fn names(word: &str, domain: &str, parents: bool) -> bool {
    let word = word.to_ascii_lowercase();
    let below = |parent: &str| {
        let head = domain.strip_suffix(parent);
        head.is_some_and(|head| head.ends_with('.'))
    };
    match word.strip_prefix('.') {
        Some(parent) => below(parent),
        None => word == domain || (parents && below(&word)),
    }
}

/// The lookup keys of a table: the domain, then its parents.
fn keys(domain: &str, parents: bool) -> impl Iterator<Item = String> {
    let dot = if parents { "" } else { "." };
    let above = domain.match_indices('.').filter_map(move |(at, _)| domain.get(at + 1..));
    let above = above.map(move |parent| format!("{dot}{parent}"));
    std::iter::once(domain.to_owned()).chain(above).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::settings::tests::sites;
    use super::super::uses::uses;
    use super::*;
    use crate::doctor::judge::Severity;

    /// Tables and files by name. Others cannot be read.
    struct Tables(HashMap<&'static str, &'static [&'static str]>);

    impl PostfixQueries for Tables {
        fn table(&self, table: &str, key: &str) -> Result<Option<String>, String> {
            let keys = self.0.get(table).ok_or("no such table")?;
            Ok(keys.contains(&key).then(|| "OK".to_owned()))
        }

        fn file(&self, path: &str) -> Result<String, String> {
            self.0.get(path).map(|lines| lines.join("\n")).ok_or("no such file".into())
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            None
        }
    }

    fn findings(change: impl Fn(PostfixSettings) -> PostfixSettings) -> Vec<Finding> {
        let tables = Tables(HashMap::from([
            ("hash:/etc/relay", &["example.org", "example.net"][..]),
            ("hash:/etc/parents", &["org", "net"]),
            ("/etc/file", &["# example.com", "example.org", "hash:/etc/relay"]),
            ("/etc/itself", &["/etc/itself"]),
        ]));
        let domains = Domains::new(["example.org", "example.net"]).unwrap();
        let [a, b, c] = sites().map(|settings| {
            let settings = change(settings);
            examine(&settings, &uses(&settings), &domains, &tables)
        });
        assert_eq!((&a, &b), (&b, &c));
        a
    }

    fn after(change: impl Fn(PostfixSettings) -> PostfixSettings) -> Vec<(&'static str, Severity)> {
        let found = findings(change);
        let bad = found.iter().filter(|finding| finding.severity != Severity::Ok);
        bad.map(|finding| (finding.check, finding.severity)).collect()
    }

    const DOMAINS: &str = "postfix/domains";
    const RECIPIENTS: &str = "postfix/recipients";

    #[test]
    fn domain_is_found_however_it_is_listed() {
        for list in [
            "example.org, example.net",
            "Example.ORG example.NET",
            "hash:/etc/relay",
            "hash:/etc/parents",
            "/etc/file",
            "org net",
            "missing:/table example.org example.net",
        ] {
            let parents =
                |s: PostfixSettings| s.with("parent_domain_matches_subdomains", "relay_domains");
            let mut found = after(|settings| parents(settings).with("relay_domains", list));
            found.retain(|(check, _)| *check == DOMAINS);
            // `org` and `net` themselves are foreign domains.
            let expected: &[_] =
                if list == "org net" { &[(DOMAINS, Severity::Warning)] } else { &[] };
            assert_eq!(found, expected, "{list}");
        }
    }

    #[test]
    fn own_domain_that_postfix_does_not_accept_is_an_error() {
        for list in ["example.org", "example.org !example.net net", "example.org .example.net"] {
            let found = after(|settings| settings.with("relay_domains", list));
            assert!(found.contains(&(DOMAINS, Severity::Error)), "{list}: {found:?}");
        }
        let found = after(|settings| settings.with("relay_domains", "example.org missing:/table"));
        assert_eq!(found, [(DOMAINS, Severity::Untested)]);
        let found =
            after(|settings| settings.with("relay_domains", "example.org example.net example.com"));
        assert_eq!(found, [(DOMAINS, Severity::Warning)]);
        let found = after(|settings| settings.with("relay_domains", "/etc/itself"));
        assert_eq!(found, [(DOMAINS, Severity::Untested); 2]);
    }

    #[test]
    fn parent_domain_counts_only_in_the_lists_configured_for_it() {
        let both = [(DOMAINS, Severity::Error); 2];
        for lists in ["", "mydestination, smtpd_access_maps"] {
            let found = after(|s| {
                s.with("parent_domain_matches_subdomains", lists).with("relay_domains", "org net")
            });
            assert_eq!(found[..2], both, "{lists}: {found:?}");
        }
        let found = after(|s| s.with("relay_domains", "").with("mydestination", "org net"));
        assert_eq!(found, both);
    }

    #[test]
    fn subdomains_that_postfix_accepts_too_are_named() {
        const SUBDOMAINS: [(&str, Severity); 1] = [("postfix/subdomains", Severity::Warning)];
        const PARENTS: &str = "parent_domain_matches_subdomains";
        let by_default =
            |s: PostfixSettings| s.with(PARENTS, "mynetworks,relay_domains,smtpd_access_maps");
        assert_eq!(after(by_default), SUBDOMAINS);
        let found = findings(by_default);
        let finding = found.iter().find(|finding| finding.check == SUBDOMAINS[0].0).unwrap();
        assert!(finding.what.contains("*.example.net, *.example.org;"), "{finding:?}");
        let mend = "parent_domain_matches_subdomains = mynetworks, smtpd_access_maps";
        assert_eq!(finding.mend.as_deref(), Some(mend));
        for (name, value, expected) in [
            ("mydestination", "", &SUBDOMAINS[..]),
            (PARENTS, "mynetworks", &[]),
            ("relay_recipient_maps", "socketmap:unix:/run/murder-route:recipient", &[]),
        ] {
            assert_eq!(after(|s| by_default(s).with(name, value)), expected, "{name}");
        }
        let dotted = "example.org example.net .example.net";
        let dotted = |s: PostfixSettings| s.with("relay_domains", dotted);
        assert!(after(dotted).contains(&SUBDOMAINS[0]));
    }

    #[test]
    fn only_a_domain_that_postfix_accepts_is_reported_as_ok() {
        for (list, well) in [
            ("example.org example.net", Some("for example.net, example.org")),
            ("example.net", Some("for example.net")),
            ("", None),
        ] {
            let found = findings(|settings| settings.with("relay_domains", list));
            let found: Vec<_> = found
                .iter()
                .filter(|finding| finding.severity == Severity::Ok && finding.check == DOMAINS)
                .collect();
            assert_eq!(found.len(), usize::from(well.is_some()), "{list}: {found:?}");
            let ends = |well| found.iter().all(|finding| finding.what.ends_with(well));
            assert!(well.is_none_or(ends), "{list}: {found:?}");
        }
    }

    #[test]
    fn domain_in_two_classes_is_looked_up_in_the_wrong_place() {
        let local = |s: PostfixSettings| s.with("mydestination", "example.org, localhost");
        assert_eq!(after(local), [(DOMAINS, Severity::Warning), (RECIPIENTS, Severity::Error)]);
        // The users of this host stay the recipients of its own name.
        let mend = |change: &dyn Fn(PostfixSettings) -> PostfixSettings| {
            let found = findings(change);
            found.into_iter().find(|finding| finding.check == RECIPIENTS).unwrap().mend.unwrap()
        };
        assert_eq!(mend(&local), "move example.org to relay_domains");
        let all = |s: PostfixSettings| local(s).with("local_recipient_maps", "");
        assert_eq!(after(all), [(DOMAINS, Severity::Warning)]);
        let ours = |s: PostfixSettings| {
            local(s).with("local_recipient_maps", "socketmap:unix:/run/murder-route:recipient")
        };
        assert_eq!(after(ours), [(DOMAINS, Severity::Warning)]);
        let aliases = |s: PostfixSettings| s.with("virtual_alias_domains", "example.net");
        assert_eq!(after(aliases), [(DOMAINS, Severity::Warning), (RECIPIENTS, Severity::Error)]);
    }

    #[test]
    fn recipients_that_only_a_static_table_knows_are_refused() {
        let table = |s: PostfixSettings| s.with("relay_recipient_maps", "hash:/etc/relay");
        let expected = [(RECIPIENTS, Severity::Warning); 2];
        assert_eq!(after(table), expected);
        let found = findings(table);
        let mend = found.iter().find_map(|finding| finding.mend.as_deref());
        assert_eq!(
            mend,
            Some("leave relay_recipient_maps empty, or add the map `recipient` to it")
        );
    }

    #[test]
    fn delimiter_other_than_that_of_cyrus_is_reported() {
        for (delimiter, severity) in [
            ("-", Some(Severity::Error)),
            ("+-", Some(Severity::Warning)),
            ("", Some(Severity::Warning)),
            ("+", None),
        ] {
            let found = after(|settings| settings.with("recipient_delimiter", delimiter));
            let expected: Vec<_> = severity.map(|s| ("postfix/delimiter", s)).into_iter().collect();
            assert_eq!(found, expected, "{delimiter}");
        }
    }
}
