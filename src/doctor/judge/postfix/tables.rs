//! Checks the table names in Postfix' parameters, and the maps in them.

use super::uses::{Use, unproxied};
use super::{PostfixQueries, PostfixSettings, words};
use crate::doctor::judge::Finding;
use crate::routing::maps::{Map, Maps, UnknownPolicy};
use crate::wire::protocol::Protocol;

/// Findings about the tables that use the daemon. `oldest`: the oldest known Cyrus release of the
/// backends.
pub fn examine(
    settings: &PostfixSettings,
    ours: &[Use],
    maps: &Maps,
    oldest: Option<(u32, u32)>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if by_library(settings, "transport_maps").is_some() {
        let why = "the library answers there, within Postfix; not tried (use postmap -q)";
        findings.push(Finding::skipped("postfix/asked", "transport_maps", why));
    } else if ours.is_empty() {
        findings.push(
            Finding::warning("postfix/asked", "main.cf", "Postfix does not use murder-route")
                .mend("set transport_maps to the map `lmtp` at a socket of murder-route"),
        );
        return findings;
    }
    if ours.iter().any(|u| u.protocol == Protocol::Socketmap) && !settings.has_type("socketmap") {
        findings.push(
            Finding::error(
                "postfix/socketmap",
                "postconf -m",
                "this Postfix has no tables of the type socketmap",
            )
            .mend(
                "install the Postfix package with this table type, or a Postfix that supports it",
            ),
        );
    }
    for u in ours {
        findings.extend(proxy(settings, u));
        findings.extend(map(u, maps));
    }
    findings.extend(canonical(settings, ours, oldest));
    findings.extend(not_by_smtp(ours));
    findings.extend(unlisted(settings, ours, maps));
    findings
}

/// The map of the library, loaded into Postfix, for a parameter: `murder:FILE[:MAP]`.
pub fn by_library<'a>(settings: &'a PostfixSettings, parameter: &str) -> Option<&'a str> {
    let named = words(settings.main(parameter)).find_map(|word| word.strip_prefix("murder:"))?;
    Some(named.rsplit_once(':').map_or("lmtp", |(_, map)| map))
}

/// proxymap answers only for tables in its `proxy_read_maps`, written with `proxy:`. smtpd exits after
/// the refusal, is restarted, and exits again (seen with 3.7.11). Only tables can be proxied.
fn proxy(settings: &PostfixSettings, u: &Use) -> Option<Finding> {
    if !u.proxied {
        return None;
    }
    if u.map.is_none() {
        let what = format!("`{}`: only tables can be asked through proxymap", u.text);
        return Some(
            Finding::error("postfix/proxy", u.place(), what)
                .mend("remove `proxy:`; a chrooted smtpd needs a socket in the queue directory"),
        );
    }
    let (table, _) = unproxied(&u.text);
    let approved = |word: &str| matches!(unproxied(word), (name, true) if name == table);
    let mut proxymaps = settings.running("proxymap").filter(|service| service.name == "proxymap");
    let Some(proxymap) = proxymaps.next() else {
        let what = format!("`{}`: master.cf has no service proxymap", u.text);
        return Some(Finding::error("postfix/proxy", u.place(), what).mend("add it to master.cf"));
    };
    if words(settings.of(proxymap, "proxy_read_maps")).any(approved) {
        return None;
    }
    let what = format!(
        "proxymap may not query `{}`: it is not in proxy_read_maps, and the service that needs it exits \
         again and again",
        u.text
    );
    Some(Finding::error("postfix/proxy", u.place(), what).mend(
        "set the parameter in main.cf, with `proxy:`, or add the table to proxy_read_maps there",
    ))
}

/// The correct map for a parameter.
fn wanted(parameter: &str) -> Option<&'static str> {
    match parameter {
        "transport_maps" => Some("lmtp"),
        "relay_recipient_maps" | "virtual_mailbox_maps" | "local_recipient_maps" => {
            Some("recipient")
        }
        "recipient_canonical_maps" | "canonical_maps" => Some("canonical"),
        _ => None,
    }
}

/// Effect of another map in a parameter.
fn instead(parameter: &str, map: &str) -> &'static str {
    match (parameter, map) {
        (_, "canonical") => "it answers only for recipients with another canonical form",
        ("transport_maps", _) => "its answer is no transport:nexthop",
        ("recipient_canonical_maps" | "canonical_maps", "recipient") => {
            "it answers for every existing recipient, and smtpd then does not check recipients"
        }
        ("recipient_canonical_maps" | "canonical_maps", _) => {
            "messages would be addressed to its answer"
        }
        _ => "it also answers for unknown recipients, so that all are accepted",
    }
}

fn map(u: &Use, maps: &Maps) -> Option<Finding> {
    let named = u.map.as_deref()?;
    let wrong = |what: String| Finding::error("postfix/map", u.place(), what);
    match (maps.get(named), wanted(u.parameter)) {
        (None, wanted) => {
            let known: Vec<&str> = maps.names().collect();
            let what = format!("there is no map `{named}`; every lookup fails");
            let mend = match wanted {
                Some(wanted) => format!("name the map `{wanted}`"),
                None => format!("name one of {}", known.join(", ")),
            };
            Some(wrong(what).mend(mend))
        }
        // Maps of the configuration are not judged.
        (Some(Map::Own(_)), _) | (_, None) => None,
        (Some(_), Some(wanted)) if wanted == named => None,
        (Some(Map::Rcpt), Some("recipient")) => None,
        (Some(_), Some(wanted)) => {
            let what = format!("the map `{named}` there: {}", instead(u.parameter, named));
            Some(wrong(what).mend(format!("name the map `{wanted}`")))
        }
    }
}

/// A backend of up to 3.10 refuses, or crashes on, a recipient whose domain is not in lower case (seen
/// with 3.2.6, 3.6.1 and 3.10.2; 3.12.4 accepts it). lmtpproxyd lower-cases the domain, so a mail
/// server that bypasses it must do so too.
fn canonical(settings: &PostfixSettings, ours: &[Use], oldest: Option<(u32, u32)>) -> Vec<Finding> {
    const CHECK: &str = "postfix/canonical";
    let mut findings = Vec::new();
    if by_library(settings, "recipient_canonical_maps") == Some("canonical") {
        return findings;
    }
    let mend = "set recipient_canonical_maps to the map `canonical` at the socket of \
                transport_maps, and recipient_canonical_classes = envelope_recipient";
    let mut uses = ours.iter().filter(|u| u.map.as_deref() == Some("canonical"));
    let Some(u) = uses.next() else {
        let place = "recipient_canonical_maps";
        let says = "the map `canonical` is missing: a recipient in another spelling reaches the backend as typed";
        findings.push(match oldest {
            Some((major, minor)) if (major, minor) < (3, 12) => Finding::error(
                CHECK,
                place,
                format!("{says}, and lmtpd {major}.{minor} refuses it or crashes"),
            )
            .mend(mend),
            _ => Finding::warning(
                CHECK,
                place,
                format!("{says}, and lmtpd before 3.12 refuses it or crashes"),
            )
            .mend(mend),
        });
        return findings;
    };
    if u.parameter == "canonical_maps" {
        findings.push(
            Finding::warning(CHECK, u.place(), "it also rewrites senders and headers").mend(mend),
        );
    }
    let classes = settings.main("recipient_canonical_classes");
    if u.parameter == "recipient_canonical_maps"
        && !words(classes).any(|class| class == "envelope_recipient")
    {
        let what = format!("`{classes}`: envelope recipients stay as typed");
        findings.push(
            Finding::error(CHECK, "recipient_canonical_classes", what)
                .mend("recipient_canonical_classes = envelope_recipient"),
        );
    }
    if u.parameter == "recipient_canonical_maps"
        && words(classes).any(|class| class == "header_recipient")
    {
        let what = format!(
            "`{classes}`: murder-route is also asked for every address in a header, and a temporary answer \
             delays the whole message"
        );
        findings.push(
            Finding::warning(CHECK, "recipient_canonical_classes", what)
                .mend("recipient_canonical_classes = envelope_recipient"),
        );
    }
    findings
}

/// cleanup emulates SMTP for messages of sendmail(1) and for bounces, and cannot refuse one of several
/// recipients there: it refuses the whole message (cleanup/cleanup_milter.c,
/// `cleanup_milter_emul_rcpt`).
fn not_by_smtp(ours: &[Use]) -> Option<Finding> {
    let u = ours.iter().find(|u| u.parameter == "non_smtpd_milters")?;
    let what = format!(
        "`{}`: a message of this host to several recipients bounces for all of them if one is unknown",
        u.text
    );
    Some(
        Finding::error("postfix/milter", u.place(), what)
            .mend("remove it; smtpd_milters and transport_maps suffice"),
    )
}

/// Checks whether the table before the map `canonical`, in a `pipemap:`, holds back an address with
/// another canonical form. `respelled`: a domain with capitals in canonical recipients although it was
/// given in lower case ([`crate::routing::router::Router::respelled_domain`]).
pub fn held_back(
    settings: &PostfixSettings,
    respelled: Option<&str>,
    ask: &dyn PostfixQueries,
) -> Option<Finding> {
    let parameter = "recipient_canonical_maps";
    let piped = settings.main(parameter).split_once("pipemap:{")?.1.split('}').next()?;
    let mut tables = words(piped);
    let before = tables.next()?;
    let is_ours = |table: &str| {
        let (table, _) = unproxied(table);
        table.ends_with(":canonical")
            && (table.starts_with("socketmap:") || table.starts_with("murder:"))
    };
    if !tables.next().is_some_and(is_ours) {
        return None;
    }
    let finding = |what| {
        Finding::error(
            "postfix/canonical",
            parameter,
            format!("`{before}`, before the map, {what}"),
        )
    };
    let capitals = ["Jane@example.org", "jane@Example.org"].map(str::to_owned);
    let small = respelled.map(|domain| format!("jane@{}", domain.to_ascii_lowercase()));
    for key in capitals.into_iter().chain(small) {
        match ask.table(before, &key) {
            Ok(Some(same)) if same == key => {}
            Ok(None) => {
                let what = format!("holds back {key}, whose canonical form may differ");
                return Some(finding(what).mend(
                    "use the output of `murder-route postfix-config` for main.cf and murder-route-canonical",
                ));
            }
            Ok(Some(other)) => {
                let what = format!("makes `{}` of {key}", super::super::one_line(&other));
                return Some(finding(what).mend(
                    "use the output of `murder-route postfix-config murder-route-canonical`",
                ));
            }
            Err(why) => {
                let what = format!("cannot be queried, and messages wait: {why}");
                return Some(finding(what).mend(
                    "create the file with `murder-route postfix-config murder-route-canonical`",
                ));
            }
        }
    }
    None
}

/// `error:` in a transport map rejects at RCPT only if smtpd rejects unlisted recipients.
fn unlisted(settings: &PostfixSettings, ours: &[Use], maps: &Maps) -> Option<Finding> {
    let asked = |u: &Use| u.map.is_none();
    if maps.unknown != UnknownPolicy::Reject || ours.iter().any(asked) {
        return None;
    }
    let takes_all = settings.running("smtpd").find(|smtpd| {
        let restricted =
            |list| words(settings.of(smtpd, list)).any(|word| word == "reject_unlisted_recipient");
        settings.of(smtpd, "smtpd_reject_unlisted_recipient") == "no"
            && !restricted("smtpd_recipient_restrictions")
            && !restricted("smtpd_relay_restrictions")
    })?;
    let what = format!(
        "smtpd ({}) accepts messages for unknown recipients, and Postfix bounces them to possibly forged \
         senders",
        takes_all.name
    );
    Some(
        Finding::error("postfix/unlisted", "smtpd_reject_unlisted_recipient = no", what)
            .mend("remove it, or add reject_unlisted_recipient to smtpd_recipient_restrictions"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::sites;
    use super::super::uses::uses;
    use super::*;
    use crate::doctor::judge::Severity;

    fn found(
        settings: &PostfixSettings,
        oldest: Option<(u32, u32)>,
    ) -> Vec<(&'static str, Severity)> {
        let findings = examine(settings, &uses(settings), &Maps::default(), oldest);
        findings.iter().map(|finding| (finding.check, finding.severity)).collect()
    }

    /// Findings in every release after this change.
    fn after(change: impl Fn(PostfixSettings) -> PostfixSettings) -> Vec<(&'static str, Severity)> {
        let [a, b, c] = sites().map(|settings| found(&change(settings), Some((3, 6))));
        assert_eq!((&a, &b), (&b, &c));
        a
    }

    #[test]
    fn sound_site_has_no_findings() {
        assert_eq!(after(|settings| settings), []);
    }

    #[test]
    fn table_that_proxymap_refuses_is_reported() {
        let table = "proxy:socketmap:unix:/run/murder-route:recipient";
        let by_override = |settings: PostfixSettings| {
            settings.with_service("submission", |service| {
                service.overrides.insert("relay_recipient_maps".into(), table.into());
            })
        };
        assert_eq!(after(by_override), [("postfix/proxy", Severity::Error)]);
        // Without `proxy:` it is another table.
        for (listed, expected) in
            [(table, vec![]), (&table[6..], vec![("postfix/proxy", Severity::Error)])]
        {
            let settings = |settings: PostfixSettings| {
                let all = format!("{} {listed}", settings.main("proxy_read_maps"));
                by_override(settings.with("proxy_read_maps", &all))
            };
            assert_eq!(after(settings), expected, "{listed}");
        }
        // The settings of the service in use count, not those of others that run the program.
        for (service, expected) in
            [("proxymap", vec![]), ("proxywrite", vec![("postfix/proxy", Severity::Error)])]
        {
            let settings = |settings: PostfixSettings| {
                let all = format!("{} {table}", settings.main("proxy_read_maps"));
                by_override(settings).with_service(service, |service| {
                    service.overrides.insert("proxy_read_maps".into(), all);
                })
            };
            assert_eq!(after(settings), expected, "{service}");
        }
        let policy = "check_policy_service proxy:unix:/run/murder-route";
        let policy =
            |settings: PostfixSettings| settings.with("smtpd_recipient_restrictions", policy);
        assert_eq!(after(policy), [("postfix/proxy", Severity::Error)]);
    }

    #[test]
    fn map_that_does_not_fit_its_parameter_is_named() {
        let at = |map: &str| format!("socketmap:unix:/run/murder-route:{map}");
        for (parameter, map, wrong) in [
            ("transport_maps", "lmtp", false),
            ("transport_maps", "recipient", true),
            ("transport_maps", "lmpt", true),
            ("relay_recipient_maps", "recipient", false),
            ("relay_recipient_maps", "lmtp", true),
            ("virtual_mailbox_maps", "canonical", true),
        ] {
            let expected: &[_] = if wrong { &[("postfix/map", Severity::Error)] } else { &[] };
            let change = |settings: PostfixSettings| settings.with(parameter, &at(map));
            assert_eq!(after(change), expected, "{parameter} {map}");
        }
        for (parameter, map, why) in [
            ("transport_maps", "recipient", "no transport:nexthop"),
            ("transport_maps", "canonical", "another canonical"),
            ("relay_recipient_maps", "lmtp", "unknown recipients, so that all are accepted"),
            ("recipient_canonical_maps", "recipient", "does not check"),
            ("canonical_maps", "lmtp", "addressed to its answer"),
        ] {
            assert!(instead(parameter, map).contains(why), "{parameter} {map}");
        }
        let change = |s: PostfixSettings| s.with("recipient_canonical_maps", &at("recipient"));
        let [map, canonical] = after(change)[..] else { panic!() };
        assert_eq!((map.0, canonical.0), ("postfix/map", "postfix/canonical"));
    }

    #[test]
    fn milter_for_messages_without_smtp_client_is_an_error() {
        let milter = |name: &'static str| {
            move |settings: PostfixSettings| settings.with(name, "unix:/run/murder-route")
        };
        assert_eq!(after(milter("smtpd_milters")), []);
        assert_eq!(after(milter("non_smtpd_milters")), [("postfix/milter", Severity::Error)]);
    }

    #[test]
    fn missing_canonical_map_makes_older_backends_crash() {
        let change = |settings: PostfixSettings| settings.with("recipient_canonical_maps", "");
        assert_eq!(after(change), [("postfix/canonical", Severity::Error)]);
        for settings in sites() {
            for oldest in [Some((3, 12)), None] {
                let found = found(&change(settings.clone()), oldest);
                assert_eq!(found, [("postfix/canonical", Severity::Warning)]);
            }
        }
        let headers = |settings: PostfixSettings| {
            settings.with("recipient_canonical_classes", "header_recipient")
        };
        let expected = [Severity::Error, Severity::Warning].map(|s| ("postfix/canonical", s));
        assert_eq!(after(headers), expected);
        let by_default = |settings: PostfixSettings| {
            let classes = "envelope_recipient, header_recipient";
            settings.with("recipient_canonical_classes", classes)
        };
        assert_eq!(after(by_default), [("postfix/canonical", Severity::Warning)]);
        let both = |s: PostfixSettings| {
            let table = s.main("recipient_canonical_maps").to_owned();
            s.with("recipient_canonical_maps", "").with("canonical_maps", &table)
        };
        // proxymap does not allow it there.
        assert!(after(both).contains(&("postfix/canonical", Severity::Warning)));
    }

    /// The table before ours, with these answers for these keys. An empty answer is an error.
    struct Before(&'static [(&'static str, &'static str)]);

    impl PostfixQueries for Before {
        fn table(&self, table: &str, key: &str) -> Result<Option<String>, String> {
            assert_eq!(table, "regexp:/etc/postfix/murder-route-canonical");
            let found = self.0.iter().find(|(known, _)| *known == key).map(|(_, answer)| *answer);
            match found {
                Some("") => Err("open: No such file or directory".into()),
                found => Ok(found.map(str::to_owned)),
            }
        }

        fn file(&self, path: &str) -> Result<String, String> {
            Err(path.into())
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            None
        }
    }

    #[test]
    fn filter_before_our_table_must_pass_addresses_to_respell() {
        const CAPITALS: [(&str, &str); 2] =
            [("Jane@example.org", "Jane@example.org"), ("jane@Example.org", "jane@Example.org")];
        let piped = |s: PostfixSettings| {
            let table = s.main("recipient_canonical_maps").to_owned();
            let filter = "regexp:/etc/postfix/murder-route-canonical";
            s.with("recipient_canonical_maps", &format!("pipemap:{{{filter},{table}}}"))
        };
        assert_eq!(after(piped), []);
        let held_back = |respelled, before: &'static [_]| {
            let said = sites().map(|s| super::held_back(&piped(s), respelled, &Before(before)));
            let [a, b, c] = said.map(|finding| finding.map(|finding| finding.what));
            assert_eq!((&a, &b), (&b, &c));
            a.unwrap_or_default()
        };
        assert_eq!(held_back(None, &CAPITALS), "");
        let said = held_back(None, &[("Jane@example.org", "Jane@example.org")]);
        assert!(said.contains("holds back jane@Example.org"), "{said}");
        let said = held_back(Some("Example.net"), &CAPITALS);
        assert!(said.contains("holds back jane@example.net"), "{said}");
        let said = held_back(None, &[("Jane@example.org", "")]);
        assert!(said.contains("No such file"), "{said}");
        let said = held_back(None, &[("Jane@example.org", "OK")]);
        assert!(said.contains("makes `OK`"), "{said}");
        for settings in sites() {
            assert_eq!(super::held_back(&settings, None, &Before(&[])), None, "no table is before");
            // Other tables behind a filter are not judged.
            for other in ["socketmap:unix:/s:aliases", "regexp:/etc/x:canonical"] {
                let filter = "regexp:/etc/postfix/murder-route-canonical";
                let piped = format!("pipemap:{{{filter},{other}}}");
                let settings = settings.clone().with("recipient_canonical_maps", &piped);
                assert_eq!(super::held_back(&settings, None, &Before(&[])), None, "{other}");
            }
        }
    }

    #[test]
    fn unknown_recipients_must_not_be_accepted_and_bounced() {
        let no = |s: PostfixSettings| s.with("smtpd_reject_unlisted_recipient", "no");
        assert_eq!(after(no), [("postfix/unlisted", Severity::Error)]);
        let restricted = |s: PostfixSettings| {
            s.with("smtpd_recipient_restrictions", "reject_unlisted_recipient")
                .with_service("submission", |s| s.overrides.clear())
        };
        assert_eq!(after(|s| restricted(no(s))), []);
        // Correct if a policy service refuses them, or if no recipient is refused.
        let policy = |s: PostfixSettings| {
            let policy = "check_policy_service inet:127.0.0.1:10090";
            no(s).with("smtpd_recipient_restrictions", policy)
        };
        assert_eq!(after(policy), []);
        let mut maps = Maps::default();
        maps.unknown = UnknownPolicy::NotFound;
        for settings in sites().map(no) {
            assert_eq!(examine(&settings, &uses(&settings), &maps, Some((3, 6))), []);
        }
    }

    #[test]
    fn table_of_our_library_is_ours_as_well() {
        let library = |s: PostfixSettings| {
            s.with("transport_maps", "murder:/etc/murder-route.toml")
                .with("recipient_canonical_maps", "murder:/etc/murder-route.toml:canonical")
        };
        assert_eq!(after(library), [("postfix/asked", Severity::Skipped)]);
        for settings in sites() {
            let settings = library(settings);
            assert_eq!(by_library(&settings, "transport_maps"), Some("lmtp"));
            assert_eq!(by_library(&settings, "relay_recipient_maps"), None);
        }
    }

    #[test]
    fn postfix_that_never_asks_us_or_cannot_is_reported() {
        let nothing =
            |s: PostfixSettings| s.with("transport_maps", "").with("recipient_canonical_maps", "");
        assert_eq!(after(nothing), [("postfix/asked", Severity::Warning)]);
        let main = "transport_maps = socketmap:unix:/run/murder-route:lmtp\n";
        let master = "rewrite unix - - n - - trivial-rewrite\n";
        let settings = PostfixSettings::parse(main, master, "", "hash\n").unwrap();
        assert!(found(&settings, None).contains(&("postfix/socketmap", Severity::Error)));
    }
}
