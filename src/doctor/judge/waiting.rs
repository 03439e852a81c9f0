//! Mailboxes whose mail waits for long, or is at risk, from the `status` of the daemon.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Finding, one_line};
use crate::model::unsettled::LONG;

/// Judges the members `waiting` and `flipping` of a status. An older daemon has neither.
pub fn judge(place: &str, status: &Value) -> Vec<Finding> {
    let mut findings = reserved(place, status);
    findings.extend(flipping(place, status));
    findings
}

/// Mailboxes that stay reserved or moving: one finding for each server, where they are repaired.
fn reserved(place: &str, status: &Value) -> Vec<Finding> {
    const CHECK: &str = "list/reserved";
    let Some(waiting) = status["waiting"].as_array() else { return Vec::new() };
    let seconds = |mailbox: &Value| mailbox["seconds"].as_u64().unwrap_or_default();
    let mut servers: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for mailbox in waiting.iter().filter(|mailbox| seconds(mailbox) >= LONG.as_secs()) {
        let text = |member: &str| one_line(mailbox[member].as_str().unwrap_or_default());
        let named =
            format!("{} ({} for {})", text("mailbox"), text("state"), age(seconds(mailbox)));
        servers.entry(mailbox["server"].as_str().map(one_line)).or_default().push(named);
    }
    let count = status["reserved"].as_u64().unwrap_or_default();
    if servers.is_empty() {
        let minutes = LONG.as_secs() / 60;
        let what = format!("{count} mailboxes are reserved or moving, none for {minutes} minutes");
        return vec![Finding::ok(CHECK, place, what)];
    }
    let unnamed = match count.saturating_sub(waiting.len() as u64) {
        0 => String::new(),
        more => format!("; {more} more are reserved or moving, see murder-route dump"),
    };
    let found = servers.into_iter().map(|(server, mailboxes)| {
        let named = mailboxes.join(", ");
        let (on, there) = match &server {
            Some(server) => (format!("on {server}"), format!("run on {server}")),
            None => ("on no named server".into(), "run on the backend that has it".into()),
        };
        let what =
            format!("mailboxes stay reserved or moving {on}: {named}; their mail is deferred");
        Finding::error(CHECK, place, what + &unnamed)
            .mend(format!("unless a move is still in progress, {there}: ctl_mboxlist -m"))
    });
    found.collect()
}

/// Mailboxes that two backends claim in turn.
fn flipping(place: &str, status: &Value) -> Option<Finding> {
    let flipping = status["flipping"].as_array().filter(|flipping| !flipping.is_empty())?;
    let named = flipping.iter().map(|flip| {
        let [mailbox, one, other] = [&flip["mailbox"], &flip["servers"][0], &flip["servers"][1]]
            .map(|value| one_line(value.as_str().unwrap_or_default()));
        format!("{mailbox} ({one} and {other})")
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let what = format!(
        "two backends claim the same mailbox in turn: {named}; mail alternates between them, and \
         ctl_mboxlist -m deletes one of the two with its mail"
    );
    Some(Finding::error("list/flipping", place, what).mend(
        "compare both mailboxes and copy the mail of the one to be deleted, before you run \
         ctl_mboxlist -m on either backend",
    ))
}

fn age(seconds: u64) -> String {
    match seconds {
        0..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Severity;
    use super::*;

    fn waiting(mailbox: &str, state: &str, server: Option<&str>, seconds: u64) -> Value {
        json!({"mailbox": mailbox, "state": state, "server": server, "seconds": seconds})
    }

    fn of(waiting: &[Value], flipping: &[Value]) -> Vec<Finding> {
        let status = json!({"reserved": waiting.len(), "waiting": waiting, "flipping": flipping});
        judge("unix:/s", &status)
    }

    #[test]
    fn long_reserved_mailboxes_are_named_by_server_with_age_and_fix() {
        let found = of(
            &[
                waiting("user.c", "reserved", Some("be2"), 3 * 86_400),
                waiting("user.a", "reserved", Some("be1"), 3 * 3600),
                waiting("user.b", "moving", Some("be1"), 600),
                waiting("user.d", "moving", None, 601),
                // A move of today.
                waiting("user.young", "moving", Some("be3"), 599),
            ],
            &[],
        );
        let expected = [
            ("on no named server: user.d (moving for 10 minutes);", "on the backend that has it"),
            (
                "on be1: user.a (reserved for 3 hours), user.b (moving for 10 minutes);",
                "on be1: ctl_mboxlist -m",
            ),
            ("on be2: user.c (reserved for 3 days);", "on be2: ctl_mboxlist -m"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (what, mend)) in found.iter().zip(expected) {
            assert_eq!((found.severity, found.check), (Severity::Error, "list/reserved"));
            assert!(found.what.contains(what), "{found:?}");
            assert!(found.what.ends_with("deferred"), "{found:?}");
            assert!(found.mend.as_ref().unwrap().contains(mend), "{found:?}");
        }
    }

    #[test]
    fn mailboxes_that_a_status_does_not_name_are_counted() {
        let named = [waiting("user.a", "reserved", Some("be1"), 700)];
        let status = json!({"reserved": 31, "waiting": named, "flipping": []});
        let found = judge("unix:/s", &status);
        assert!(found[0].what.contains("; 30 more are reserved or moving"), "{found:?}");
    }

    #[test]
    fn moves_that_take_minutes_are_no_problem() {
        for list in [&[][..], &[waiting("user.a", "moving", Some("be1"), 599)]] {
            let found = of(list, &[]);
            assert_eq!((found.len(), found[0].severity), (1, Severity::Ok), "{found:?}");
            assert!(found[0].what.starts_with(&list.len().to_string()), "{found:?}");
        }
        // The status of an older daemon lacks them.
        assert_eq!(judge("unix:/s", &json!({"version": "0.0.1"})), []);
    }

    #[test]
    fn mailbox_that_two_backends_claim_is_named_with_both() {
        let flip = json!({"mailbox": "user.o'b\u{1b}", "servers": ["be1", "be2"], "times": 3});
        let found = of(&[], &[flip]);
        let found = found.iter().find(|found| found.check == "list/flipping").unwrap();
        assert_eq!(found.severity, Severity::Error);
        assert!(found.what.contains(r"user.o'b\u{1b} (be1 and be2)"), "{found:?}");
        assert!(found.what.contains("ctl_mboxlist -m deletes"), "{found:?}");
        assert!(found.mend.as_ref().unwrap().contains("copy the mail"), "{found:?}");
    }
}
