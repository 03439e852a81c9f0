//! Checks whether smtpd caches refusals, and whether it refuses unknown recipients.
//!
//! smtpd asks trivial-rewrite for each recipient and caches the answer, without a time limit, until its
//! process ends (`smtpd_resolve.c`). If that answer is from murder-route, a user created after a
//! refusal stays refused, whatever else verifies recipients.

use super::tables::by_library;
use super::uses::Use;
use super::{PostfixSettings, Service, words};
use crate::doctor::judge::Finding;
use crate::routing::maps::{Maps, UnknownPolicy};
use crate::wire::protocol::Protocol;

/// The recipient tables of smtpd.
const RECIPIENTS: [&str; 3] =
    ["relay_recipient_maps", "virtual_mailbox_maps", "local_recipient_maps"];

/// Findings about the recipient checks of smtpd. `ours`: the tables that use the daemon.
pub fn examine(settings: &PostfixSettings, ours: &[Use], maps: &Maps) -> Vec<Finding> {
    if maps.unknown != UnknownPolicy::Reject || maps.fallback.is_some() {
        return Vec::new();
    }
    let mut checked = settings.running("smtpd").filter(|smtpd| is_checked(settings, smtpd));
    let by_service: Vec<(&Service, bool)> =
        checked.by_ref().map(|smtpd| (smtpd, is_told(settings, ours, smtpd))).collect();
    let asks_us = by_library(settings, "transport_maps").is_some()
        || ours.iter().any(|u| u.parameter == "transport_maps");
    let mut findings = missing(settings);
    if !asks_us {
        return findings;
    }
    let named = |told: bool| -> Vec<&str> {
        let of = by_service.iter().filter(|(_, is_told)| *is_told == told);
        of.map(|(smtpd, _)| smtpd.name.as_str()).collect()
    };
    let keeping = named(true);
    if !keeping.is_empty() {
        let what = format!(
            "smtpd ({}) caches the answers of transport_maps while it runs: a user created after a refusal \
             stays refused",
            keeping.join(", ")
        );
        let mend = "follow `The pieces` in postfix/README.md: a service smtpd-rewrite, \
                    rewrite_service_name for each smtpd, and relay_recipient_maps with the map `rcpt`";
        findings.push(Finding::warning("postfix/kept", "rewrite_service_name", what).mend(mend));
    }
    let neutral = named(false);
    if !neutral.is_empty() && !is_verified(settings, ours) {
        let what = format!(
            "smtpd ({}) does not check recipients: it accepts messages for unknown ones, and Postfix bounces \
             them to possibly forged senders",
            neutral.join(", ")
        );
        let mend = "set relay_recipient_maps to the map `rcpt`";
        findings.push(Finding::error("postfix/unlisted", "relay_recipient_maps", what).mend(mend));
    }
    findings
}

/// Postfix offers SMTPUTF8 to clients and then needs it at the backend. A backend without it makes
/// Postfix bounce the message (5.6.7), even for an existing recipient. `without`: whether a backend
/// without it was seen.
pub fn smtputf8(settings: &PostfixSettings, without: bool) -> Option<Finding> {
    let offers = |smtpd: &Service| settings.of(smtpd, "smtputf8_enable") == "yes";
    if !without || !settings.running("smtpd").any(offers) {
        return None;
    }
    let what = "smtpd offers SMTPUTF8 and a backend does not: messages that need it are accepted and \
                bounced";
    Some(
        Finding::error("postfix/smtputf8", "smtputf8_enable = yes", what)
            .mend("smtputf8_enable = no"),
    )
}

/// smtpd waits without end for a missing service (`resolve_clnt.c`).
fn missing(settings: &PostfixSettings) -> Vec<Finding> {
    let is_there =
        |name: &str| settings.running("trivial-rewrite").any(|service| service.name == name);
    let lost = |smtpd: &Service| {
        let asked = settings.of(smtpd, "rewrite_service_name");
        let what = format!(
            "smtpd ({}) asks the service `{asked}`, which is not in master.cf; every session hangs at MAIL",
            smtpd.name
        );
        (!is_there(asked)).then(|| {
            Finding::error("postfix/kept", "rewrite_service_name", what)
                .mend("add what `murder-route postfix-config master.cf` prints to master.cf")
        })
    };
    settings.running("smtpd").filter_map(lost).collect()
}

/// A service behind a content filter accepts recipients checked before.
fn is_checked(settings: &PostfixSettings, smtpd: &Service) -> bool {
    let exempt = words(settings.of(smtpd, "receive_override_options"))
        .any(|option| option == "no_unknown_recipient_checks");
    !exempt && settings.of(smtpd, "smtpd_reject_unlisted_recipient") != "no"
}

/// Whether the trivial-rewrite of this smtpd uses the daemon or the library.
fn is_told(settings: &PostfixSettings, ours: &[Use], smtpd: &Service) -> bool {
    let asked = settings.of(smtpd, "rewrite_service_name");
    let mut rewrites = settings.running("trivial-rewrite");
    let Some(rewrite) = rewrites.find(|service| service.name == asked) else { return false };
    words(settings.of(rewrite, "transport_maps")).any(|word| {
        let names_us = |u: &Use| u.parameter == "transport_maps" && u.text == word;
        word.starts_with("murder:") || ours.iter().any(names_us)
    })
}

/// Whether any table or service refuses recipients in our domains. A table of the site counts as one.
fn is_verified(settings: &PostfixSettings, ours: &[Use]) -> bool {
    let by_us = |u: &Use| match u.protocol {
        Protocol::Policy | Protocol::Milter => true,
        Protocol::Socketmap | Protocol::Line => RECIPIENTS.contains(&u.parameter),
    };
    !settings.main("relay_recipient_maps").is_empty() || ours.iter().any(by_us)
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::sites;
    use super::super::uses::uses;
    use super::*;
    use crate::doctor::judge::Severity;

    fn after(
        maps: &Maps,
        change: impl Fn(PostfixSettings) -> PostfixSettings,
    ) -> Vec<(&'static str, Severity, String)> {
        let [a, b, c] = sites().map(|settings| {
            let settings = change(settings);
            let found = examine(&settings, &uses(&settings), maps);
            found.into_iter().map(|found| (found.check, found.severity, found.what)).collect()
        });
        assert_eq!((&a, &b), (&b, &c));
        a
    }

    /// Every smtpd uses a trivial-rewrite without our maps.
    fn own_rewrite(settings: PostfixSettings) -> PostfixSettings {
        let line = "smtpd-rewrite unix - - n - - trivial-rewrite";
        let mut settings =
            settings.with_new_service(line).with_service("smtpd-rewrite", |service| {
                service.overrides.insert("transport_maps".into(), String::new());
            });
        for smtpd in ["smtp", "submission"] {
            settings = settings.with_service(smtpd, |service| {
                service.overrides.insert("rewrite_service_name".into(), "smtpd-rewrite".into());
            });
        }
        settings
    }

    const RCPT: &str = "proxy:socketmap:unix:/run/murder-route:rcpt";

    #[test]
    fn smtpd_caches_the_answers_of_murder_route() {
        let usual = Maps::default();
        let found = after(&usual, |settings| settings);
        assert_eq!((found.len(), found[0].0, found[0].1), (1, "postfix/kept", Severity::Warning));
        assert!(found[0].2.contains("(smtp, submission)"), "{found:?}");
        // A policy service does not help: smtpd also uses its cache.
        let policy = "check_policy_service unix:/run/murder-route";
        let found = after(&usual, |settings| settings.with("smtpd_recipient_restrictions", policy));
        assert_eq!(found[0].0, "postfix/kept");
        let library = |settings: PostfixSettings| {
            settings.with("transport_maps", "hash:/etc/x murder:/etc/murder-route.toml")
        };
        assert_eq!(after(&usual, library)[0].0, "postfix/kept");
        for maps in [
            Maps::new(UnknownPolicy::Defer, None),
            Maps::new(UnknownPolicy::NotFound, None),
            Maps::new(UnknownPolicy::Reject, Some("fallback:unix:/s".into())),
        ] {
            assert_eq!(after(&maps, |settings| settings), [], "{maps:?}");
        }
    }

    #[test]
    fn smtpd_with_its_own_rewrite_needs_another_way_to_refuse() {
        let usual = Maps::default();
        let found = after(&usual, own_rewrite);
        assert_eq!((found.len(), found[0].0, found[0].1), (1, "postfix/unlisted", Severity::Error));
        for (parameter, value) in [
            ("relay_recipient_maps", RCPT),
            ("relay_recipient_maps", "hash:/etc/recipients"),
            ("smtpd_recipient_restrictions", "check_policy_service unix:/run/murder-route"),
            ("smtpd_milters", "unix:/run/murder-route"),
        ] {
            let found = after(&usual, |settings| own_rewrite(settings).with(parameter, value));
            assert_eq!(found, [], "{parameter} = {value}");
        }
    }

    #[test]
    fn missing_rewrite_service_is_an_error() {
        let found = after(&Maps::default(), |settings| {
            let recipients = settings.with("relay_recipient_maps", RCPT);
            own_rewrite(recipients).with_service("submission", |service| {
                service.overrides.insert("rewrite_service_name".into(), "smtpd-rewite".into());
            })
        });
        assert_eq!((found.len(), found[0].0, found[0].1), (1, "postfix/kept", Severity::Error));
        assert!(found[0].2.contains("(submission) asks the service `smtpd-rewite`"), "{found:?}");
    }

    #[test]
    fn smtputf8_that_no_backend_supports_is_an_error() {
        for settings in sites() {
            let found = smtputf8(&settings, true).unwrap();
            assert_eq!((found.check, found.severity), ("postfix/smtputf8", Severity::Error));
            assert_eq!(smtputf8(&settings, false), None);
            assert_eq!(smtputf8(&settings.with("smtputf8_enable", "no"), true), None);
        }
    }

    #[test]
    fn one_smtpd_of_several_is_named() {
        let found = after(&Maps::default(), |settings| {
            own_rewrite(settings)
                .with("relay_recipient_maps", RCPT)
                .with_service("submission", |service| {
                    drop(service.overrides.remove("rewrite_service_name"))
                })
        });
        assert_eq!(found.len(), 1);
        assert!(found[0].2.contains("(submission)"), "{found:?}");
        let exempt = after(&Maps::default(), |settings| {
            own_rewrite(settings).with("relay_recipient_maps", RCPT).with_service(
                "submission",
                |service| {
                    service.overrides.remove("rewrite_service_name");
                    let checks = "no_unknown_recipient_checks";
                    service.overrides.insert("receive_override_options".into(), checks.into());
                },
            )
        });
        assert_eq!(exempt, []);
    }
}
