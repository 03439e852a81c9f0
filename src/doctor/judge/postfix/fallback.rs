//! Checks `fallback`: it gets recipients without a mailbox, so it must be able to refuse them, before
//! Postfix accepts a message.

use super::transports::REFUSAL;
use super::uses::{Use, restrictions};
use super::{PostfixQueries, PostfixSettings, Service, words};
use crate::doctor::judge::{Finding, one_line};

const CHECK: &str = "postfix/fallback";

/// Findings about the fallback, a `transport:nexthop`. `ours`: the tables that use the daemon.
pub fn examine(
    settings: &PostfixSettings,
    fallback: &str,
    ours: &[Use],
    ask: &dyn PostfixQueries,
) -> Vec<Finding> {
    let (transport, nexthop) = fallback.split_once(':').unwrap_or((fallback, ""));
    let place = format!("fallback = {}", one_line(fallback));
    // A missing transport is reported with the others.
    let Some(service) = settings.transport(transport) else { return Vec::new() };
    let mut findings = Vec::new();
    findings.extend(softened(settings, service, &place, ask));
    findings.extend(chrooted(settings, service, nexthop, &place, ask));
    findings.extend(unverified(settings, ours, &place, ask));
    if findings.is_empty() {
        let what = "is asked about unknown recipients, and can refuse";
        findings.push(Finding::ok(CHECK, place, what));
    }
    findings
}

/// A status filter makes refusals temporary. That is right for a backend, whose mailbox may have moved
/// recently, and wrong for lmtpproxyd, whose refusal is final.
fn softened(
    settings: &PostfixSettings,
    service: &Service,
    place: &str,
    ask: &dyn PostfixQueries,
) -> Option<Finding> {
    const PARAMETER: &str = "lmtp_delivery_status_filter";
    let list = settings.of(service, PARAMETER);
    let tables: Vec<&str> = if list.contains('{') { vec![list] } else { words(list).collect() };
    // An unreadable table is reported where it is needed.
    let said = tables.iter().find_map(|table| ask.table(table, REFUSAL).ok()?)?;
    if !said.starts_with('4') {
        return None;
    }
    let what = format!(
        "the transport {} has a status filter ({PARAMETER}); permanent refusals of the fallback are retried \
         for days, and then bounce",
        service.name
    );
    Some(
        Finding::error(CHECK, place, what)
            .mend("give it a transport of its own, without the filter (postfix/README.md)"),
    )
}

/// lmtp(8) in a chroot takes the path of a socket from the queue directory.
fn chrooted(
    settings: &PostfixSettings,
    service: &Service,
    nexthop: &str,
    place: &str,
    ask: &dyn PostfixQueries,
) -> Option<Finding> {
    let path = nexthop.strip_prefix("unix:").filter(|path| path.starts_with('/'))?;
    let queue = settings.main("queue_directory");
    if !service.chroot || ask.exists(&format!("{queue}{path}")) {
        return None;
    }
    let what = format!(
        "{} is chrooted to {queue} (column 5 of master.cf), where {path} does not exist; its messages wait",
        service.name
    );
    Some(Finding::error(CHECK, place, what).mend("set column 5 of its line in master.cf to `n`"))
}

/// With a fallback all recipients are accepted: the fallback decides.
fn unverified(
    settings: &PostfixSettings,
    ours: &[Use],
    place: &str,
    ask: &dyn PostfixQueries,
) -> Option<Finding> {
    let is_ours = |table: &str| {
        let by_name = |u: &Use| u.parameter == "relay_recipient_maps" && table.contains(&u.text);
        table.contains("murder:") || ours.iter().any(by_name)
    };
    // A recipient list of the site.
    if words(settings.main("relay_recipient_maps"))
        .any(|table| table.contains(':') && !is_ours(table) && !table.ends_with("map:"))
    {
        return None;
    }
    let read = |path: &str| ask.file(path).ok();
    let asks = |smtpd: &&Service| {
        ["smtpd_recipient_restrictions", "smtpd_relay_restrictions"].iter().any(|list| {
            let all = restrictions(settings, smtpd, list, &read);
            words(&all).any(|word| word.ends_with("reject_unverified_recipient"))
        })
    };
    // Authenticated submitters are known; a bounce to them is correct.
    let submits = |smtpd: &Service| {
        let port = smtpd.name.rsplit(':').next().unwrap_or_default();
        ["submission", "submissions", "smtps", "587", "465"].contains(&port)
    };
    let open = settings.running("smtpd").find(|smtpd| {
        let exempt = words(settings.of(smtpd, "receive_override_options"))
            .any(|option| option == "no_unknown_recipient_checks");
        !submits(smtpd) && !exempt && !asks(smtpd)
    })?;
    let what = format!(
        "smtpd ({}) does not ask it before it accepts a message (reject_unverified_recipient); messages for \
         unknown recipients bounce to possibly forged senders",
        open.name
    );
    Some(
        Finding::error(CHECK, place, what)
            .mend("use the output of `murder-route postfix-config main.cf` for the fallback"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::sites;
    use super::super::uses::uses;
    use super::*;
    use crate::doctor::judge::Severity;

    /// A filter that makes refusals temporary, and one socket in the queue directory.
    struct Asked;

    impl PostfixQueries for Asked {
        fn table(&self, table: &str, key: &str) -> Result<Option<String>, String> {
            let softens = table == "regexp:/etc/soft" && key.starts_with("5.1.1 ");
            Ok(softens.then(|| "4.1.1 said".to_owned()))
        }

        fn file(&self, path: &str) -> Result<String, String> {
            match path {
                "/etc/access" => Ok("example.org reject_unverified_recipient\n".into()),
                path => Err(path.into()),
            }
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            None
        }

        fn exists(&self, path: &str) -> bool {
            path == "/var/spool/postfix/run/lmtp"
        }
    }

    /// Findings in every release after this change.
    fn found(fallback: &str, change: impl Fn(PostfixSettings) -> PostfixSettings) -> Vec<String> {
        let [a, b, c] = sites().map(|settings| {
            let settings = change(settings);
            let found = examine(&settings, fallback, &uses(&settings), &Asked);
            let bad = found.into_iter().filter(|finding| finding.severity != Severity::Ok);
            bad.map(|finding| finding.what).collect::<Vec<_>>()
        });
        assert_eq!((&a, &b), (&b, &c));
        a
    }

    fn sound(settings: PostfixSettings) -> PostfixSettings {
        settings
            .with("smtpd_recipient_restrictions", "reject_unverified_recipient")
            .with_service("lmtp", |service| service.chroot = false)
    }

    const OLD: &str = "lmtp:unix:/run/cyrus/socket/lmtp";

    #[test]
    fn fallback_that_can_refuse_and_is_asked_is_accepted() {
        assert_eq!(found(OLD, sound), [""; 0]);
        for list in [
            "check_recipient_access inline:{{example.org = reject_unverified_recipient}}",
            "permit_mynetworks check_recipient_access hash:/etc/access",
        ] {
            let list = |s: PostfixSettings| sound(s).with("smtpd_recipient_restrictions", list);
            assert_eq!(found(OLD, list), [""; 0]);
        }
        let table = |s: PostfixSettings| {
            sound(s)
                .with("smtpd_recipient_restrictions", "")
                .with("relay_recipient_maps", "hash:/r")
        };
        assert_eq!(found(OLD, table), [""; 0]);
    }

    #[test]
    fn fallback_that_softens_refusals_or_is_unreachable_is_an_error() {
        let only =
            |fallback: &str, change: &dyn Fn(PostfixSettings) -> PostfixSettings| -> String {
                let found = found(fallback, change);
                assert_eq!(found.len(), 1, "{found:?}");
                found[0].clone()
            };
        let soft =
            |s: PostfixSettings| sound(s).with("lmtp_delivery_status_filter", "regexp:/etc/soft");
        assert!(only(OLD, &soft).contains("status filter"));
        let chroot =
            |s: PostfixSettings| sound(s).with_service("lmtp", |service| service.chroot = true);
        assert!(only(OLD, &chroot).contains("is chrooted"));
        assert_eq!(found("lmtp:unix:/run/lmtp", chroot), [""; 0], "it is there");
        assert_eq!(found("lmtp:inet:127.0.0.1:24", chroot), [""; 0]);
        assert_eq!(found("old:unix:/run/lmtp", sound), [""; 0], "told of elsewhere");
    }

    #[test]
    fn fallback_not_asked_before_acceptance_causes_bounces() {
        for maps in ["", "socketmap:unix:/run/murder-route:rcpt"] {
            let open = |s: PostfixSettings| {
                sound(s)
                    .with("smtpd_recipient_restrictions", "reject_unauth_destination")
                    .with("relay_recipient_maps", maps)
            };
            let found = found(OLD, open);
            assert!(
                found.len() == 1 && found[0].contains("smtpd (smtp) does not ask"),
                "{found:?}"
            );
        }
    }
}
