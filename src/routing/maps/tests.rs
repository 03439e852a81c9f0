//! The answer of each map to each decision.

use super::*;
use crate::address::{Release, Rules};
use crate::model::backend::{Backend, Backends};
use crate::model::domains::Domains;
use crate::routing::route::Refusal;

fn router() -> Router {
    let mut rules = Rules::defaults(Release::V3_6);
    rules.virtdomains = true;
    rules.defaultdomain = Some("example.org".into());
    Router {
        domains: Domains::new(["*"]).unwrap(),
        rules,
        older: Vec::new(),
        backends: Backends::default(),
    }
}

fn route(decision: Decision) -> Route {
    Route {
        decision,
        mailbox: MailboxName::new("user.jane").ok(),
        server: Some("be1".into()),
        partition: Some("default".into()),
        reason: "because".into(),
    }
}

fn deliver() -> Decision {
    let place = LmtpAddress::parse("be1.example.org:2003", 24).unwrap();
    Decision::Deliver(Backend { transport: "lmtp".into(), address: place })
}

fn reply(maps: &Maps, map: &str, recipient: &str, decision: Decision) -> String {
    maps.reply(maps.get(map).unwrap(), &router(), recipient, &route(decision)).to_string()
}

#[test]
fn every_map_answers_every_decision() {
    let maps = Maps::default();
    let mailbox = || Decision::Deferred(Cause::Mailbox);
    let list = || Decision::Deferred(Cause::List);
    let jane = "jane@example.org";
    for (map, decision, expected) in [
        ("lmtp", deliver(), "OK lmtp:inet:be1.example.org:2003"),
        ("lmtp", Decision::Unknown, "OK error:5.1.1 User unknown"),
        ("lmtp", mailbox(), "OK retry:4.3.0 Mailbox is temporarily unavailable"),
        ("lmtp", list(), "TEMP because"),
        (
            "lmtp",
            Decision::Refused(Refusal::NoPost),
            "OK error:5.7.1 Posting to this mailbox is not permitted",
        ),
        ("lmtp", Decision::Refused(Refusal::Syntax), "OK error:5.1.3 Bad recipient address syntax"),
        ("lmtp", Decision::Foreign, "NOTFOUND "),
        ("recipient", deliver(), "OK jane@example.org"),
        ("recipient", Decision::Unknown, "NOTFOUND "),
        ("recipient", mailbox(), "TEMP because"),
        ("recipient", list(), "TEMP because"),
        ("recipient", Decision::Refused(Refusal::NoPost), "OK jane@example.org"),
        ("recipient", Decision::Foreign, "NOTFOUND "),
        ("rcpt", deliver(), "OK jane@example.org"),
        ("rcpt", Decision::Unknown, "NOTFOUND "),
        ("rcpt", mailbox(), "TEMP because"),
        ("rcpt", list(), "TEMP because"),
        // smtpd does not see the answer of `lmtp`.
        ("rcpt", Decision::Refused(Refusal::NoPost), "NOTFOUND "),
        ("rcpt", Decision::Refused(Refusal::Syntax), "NOTFOUND "),
        ("rcpt", Decision::Foreign, "NOTFOUND "),
        ("host", deliver(), "OK be1.example.org"),
        ("host", Decision::Unknown, "NOTFOUND "),
        ("host", mailbox(), "TEMP because"),
        ("host", Decision::Foreign, "NOTFOUND "),
        ("exim", deliver(), "OK be1.example.org:2003"),
        ("exim", Decision::Unknown, "OK :fail:550 5.1.1 User unknown"),
        ("exim", mailbox(), "OK :defer:451 4.3.0 Mailbox is temporarily unavailable"),
        ("exim", list(), "TEMP because"),
        (
            "exim",
            Decision::Refused(Refusal::NoPost),
            "OK :fail:550 5.7.1 Posting to this mailbox is not permitted",
        ),
        (
            "exim",
            Decision::Refused(Refusal::Syntax),
            "OK :fail:550 5.1.3 Bad recipient address syntax",
        ),
        ("exim", Decision::Foreign, "NOTFOUND "),
        ("canonical", deliver(), "NOTFOUND "),
        ("canonical", Decision::Unknown, "NOTFOUND "),
        ("canonical", list(), "TEMP because"),
        ("canonical", Decision::Foreign, "NOTFOUND "),
    ] {
        assert_eq!(reply(&maps, map, jane, decision.clone()), expected, "{map} {decision:?}");
    }
}

#[test]
fn canonical_folds_the_user_and_keeps_the_detail() {
    let maps = Maps::default();
    let canonical = |recipient| reply(&maps, "canonical", recipient, deliver());
    assert_eq!(canonical("Jane+Work@Example.ORG"), "OK jane+Work@example.org");
    assert_eq!(canonical("jane@EXAMPLE.net"), "OK jane@example.net");
    assert_eq!(canonical("jane+Work@example.org"), "NOTFOUND ");
    assert_eq!(reply(&maps, "canonical", "Nobody@Example.org", Decision::Unknown), "NOTFOUND ");
}

#[test]
fn sendmail_answers_host_port_and_recipient_or_an_error() {
    let maps = Maps::default();
    for (decision, expected) in [
        (deliver(), "OK lmtp:be1.example.org:2003!jane+Work@example.org"),
        (Decision::Unknown, "OK error:5.1.1:550 User unknown"),
        (
            Decision::Deferred(Cause::Mailbox),
            "OK error:4.3.0:451 Mailbox is temporarily unavailable",
        ),
        (Decision::Deferred(Cause::List), "TEMP because"),
        (
            Decision::Refused(Refusal::NoPost),
            "OK error:5.7.1:550 Posting to this mailbox is not permitted",
        ),
        (Decision::Foreign, "NOTFOUND "),
    ] {
        for map in ["sendmail", "sendmail_now"] {
            let said = reply(&maps, map, "Jane+Work@Example.ORG", decision.clone());
            assert_eq!(said, expected, "{map}");
        }
    }
    let at = |place, recipient| {
        let place = LmtpAddress::parse(place, 2003).unwrap();
        let decision = Decision::Deliver(Backend { transport: "lmtp".into(), address: place });
        reply(&maps, "sendmail", recipient, decision)
    };
    let jane = "jane@example.org";
    assert_eq!(at("[2001:db8::1]:24", jane), "OK lmtp:[2001:db8::1]:24!jane@example.org");
    assert_eq!(at("unix:/run/lmtp", jane), "OK lmtp:unix:/run/lmtp!jane@example.org");
    let quoted = "\"jane: [doe] @ <home>\"@example.org";
    assert_eq!(at("192.0.2.1", quoted), format!("OK lmtp:192.0.2.1:2003!{quoted}"));
    for odd in ["j\u{e4}ne@example.org", "\"ja\tne\"@example.org", "\"ja\u{7f}ne\"@example.org"] {
        assert!(at("192.0.2.1", odd).starts_with("TEMP "), "{odd:?}");
    }
}

#[test]
fn sendmail_answer_is_never_mistaken_for_none() {
    let deferred = [Decision::Deferred(Cause::List), Decision::Deferred(Cause::Mailbox)];
    let ours = [Decision::Unknown, Decision::Refused(Refusal::Syntax)];
    for decision in deferred.into_iter().chain(ours) {
        for unknown in [UnknownPolicy::Reject, UnknownPolicy::Defer] {
            let maps = Maps { unknown, ..Maps::default() };
            let said = reply(&maps, "sendmail", "x@example.org", decision.clone());
            assert!(said.starts_with("OK error:") || said.starts_with("TEMP "), "{said}");
        }
        let maps = Maps { fallback: Some("lmtp:inet:old:24".into()), ..Maps::default() };
        assert_eq!(reply(&maps, "sendmail", "x@example.org", decision), "NOTFOUND ");
    }
    let maps = Maps { unknown: UnknownPolicy::NotFound, ..Maps::default() };
    assert_eq!(reply(&maps, "sendmail", "x@example.org", Decision::Unknown), "NOTFOUND ");
}

#[test]
fn unknown_recipient_gets_the_configured_answer() {
    let maps = |unknown| Maps { unknown, ..Maps::default() };
    let unknown = |policy, map| reply(&maps(policy), map, "x@example.org", Decision::Unknown);
    assert_eq!(unknown(UnknownPolicy::NotFound, "lmtp"), "NOTFOUND ");
    assert!(unknown(UnknownPolicy::Defer, "lmtp").starts_with("OK retry:4.3.0 "));
    assert!(unknown(UnknownPolicy::Defer, "recipient").starts_with("TEMP "));
    assert_eq!(unknown(UnknownPolicy::NotFound, "exim"), "NOTFOUND ");
    assert!(unknown(UnknownPolicy::Defer, "exim").starts_with("OK :defer:451 4.3.0 "));
}

#[test]
fn exim_answer_has_no_ambiguous_colons() {
    for (place, answer) in [
        ("[2001:db8::1]:24", "OK [2001:db8::1]:24"),
        ("192.0.2.1", "OK 192.0.2.1:2003"),
        ("unix:/run/lmtp", "OK unix:/run/lmtp"),
    ] {
        let place = LmtpAddress::parse(place, 2003).unwrap();
        let deliver = Decision::Deliver(Backend { transport: "lmtp".into(), address: place });
        assert_eq!(reply(&Maps::default(), "exim", "jane@example.org", deliver), answer);
    }
}

#[test]
fn exim_is_never_left_to_a_router_it_may_not_have() {
    let maps = Maps { fallback: Some("lmtp:inet:old:24".into()), ..Maps::default() };
    for decision in [Decision::Unknown, Decision::Deferred(Cause::Mailbox)] {
        assert!(reply(&maps, "exim", "x@example.org", decision).starts_with("OK :"));
    }
}

#[test]
fn fallback_gets_exactly_our_undelivered_messages() {
    let maps = Maps { fallback: Some("lmtp:inet:old:24".into()), ..Maps::default() };
    for decision in [
        Decision::Unknown,
        Decision::Deferred(Cause::List),
        Decision::Deferred(Cause::Mailbox),
        Decision::Refused(Refusal::NoPost),
    ] {
        assert_eq!(reply(&maps, "lmtp", "x@example.org", decision.clone()), "OK lmtp:inet:old:24");
        assert_eq!(reply(&maps, "canonical", "X@example.org", decision.clone()), "NOTFOUND ");
        assert_eq!(reply(&maps, "recipient", "x@example.org", decision), "OK x@example.org");
    }
    assert_eq!(reply(&maps, "lmtp", "x@e", deliver()), "OK lmtp:inet:be1.example.org:2003");
    assert_eq!(reply(&maps, "lmtp", "x@e", Decision::Foreign), "NOTFOUND ");
}

#[test]
fn template_of_the_site_is_filled() {
    let mut maps = Maps::default();
    let own = Templates {
        deliver: Template::parse("OK murder:{host}|{port}|{mailbox}|{{{recipient}}}").unwrap(),
        unknown: Template::parse("NOTFOUND").unwrap(),
        deferred: Template::parse("TEMP {reason}").unwrap(),
        refused: Template::parse("OK error:5.7.1 {server} {partition}").unwrap(),
    };
    maps.add("mine", own).unwrap();
    let reply = |decision| reply(&maps, "mine", "Jane@example.org", decision);
    assert_eq!(reply(deliver()), "OK murder:be1.example.org|2003|user.jane|{Jane@example.org}");
    assert_eq!(reply(Decision::Unknown), "NOTFOUND ");
    assert_eq!(reply(Decision::Deferred(Cause::List)), "TEMP because");
    assert_eq!(reply(Decision::Refused(Refusal::NoPost)), "OK error:5.7.1 be1 default");
}

#[test]
fn template_with_empty_fields_never_gives_a_bare_ok() {
    // Sendmail 8.17 crashes on it; Postfix treats it as an error.
    let mut maps = Maps::default();
    let own = Templates {
        deliver: Template::parse("OK {host}").unwrap(),
        unknown: Template::parse("NOTFOUND").unwrap(),
        deferred: Template::parse("TEMP {reason}").unwrap(),
        refused: Template::parse("NOTFOUND").unwrap(),
    };
    maps.add("mine", own).unwrap();
    let place = LmtpAddress::parse("unix:/run/cyrus/socket/lmtp", 0).unwrap();
    let local = Decision::Deliver(Backend { transport: "lmtp".into(), address: place });
    let reply = reply(&maps, "mine", "jane@example.org", local);
    assert_eq!(reply, "TEMP the map's template came out empty for this recipient");
}

#[test]
fn invalid_template_is_refused() {
    for (text, error) in [
        ("", BadTemplate::Reply("".into())),
        ("{host}", BadTemplate::Reply("{host}".into())),
        ("PERM no", BadTemplate::Reply("PERM no".into())),
        ("NOTFOUND x", BadTemplate::Reply("NOTFOUND x".into())),
        ("OK", BadTemplate::BareOk),
        ("OK ", BadTemplate::BareOk),
        ("OK {hots}", BadTemplate::Field("hots".into())),
        ("OK {host", BadTemplate::Brace),
        ("OK host}", BadTemplate::Brace),
    ] {
        assert_eq!(Template::parse(text), Err(error), "{text:?}");
    }
    let templates = Templates {
        deliver: Template::parse("OK x").unwrap(),
        unknown: Template::parse("NOTFOUND").unwrap(),
        deferred: Template::parse("TEMP x").unwrap(),
        refused: Template::parse("NOTFOUND").unwrap(),
    };
    for name in ["lmtp", "sendmail_now", "", "a b", "a:b"] {
        assert!(Maps::default().add(name, templates.clone()).is_err(), "{name:?}");
    }
}

#[test]
fn at_rcpt_answers_as_the_map_lmtp() {
    let refused = Decision::Refused;
    let deferred = Decision::Deferred;
    let pass = RcptVerdict::Pass;
    for (unknown, fallback, decision, expected) in [
        (UnknownPolicy::Reject, false, deliver(), pass),
        (UnknownPolicy::Reject, false, Decision::Foreign, pass),
        (
            UnknownPolicy::Reject,
            false,
            Decision::Unknown,
            RcptVerdict::Reject("5.1.1 User unknown"),
        ),
        (
            UnknownPolicy::Defer,
            false,
            Decision::Unknown,
            RcptVerdict::Defer("4.3.0 User unknown, try again later"),
        ),
        (UnknownPolicy::NotFound, false, Decision::Unknown, pass),
        (UnknownPolicy::Reject, true, Decision::Unknown, pass),
        (UnknownPolicy::Reject, true, deferred(Cause::List), pass),
        (UnknownPolicy::Reject, true, refused(Refusal::NoPost), pass),
        (
            UnknownPolicy::NotFound,
            false,
            deferred(Cause::Mailbox),
            RcptVerdict::Defer("4.3.0 Mailbox is temporarily unavailable"),
        ),
        (UnknownPolicy::NotFound, false, deferred(Cause::List), RcptVerdict::FAILED),
        (
            UnknownPolicy::Reject,
            false,
            refused(Refusal::NoPost),
            RcptVerdict::Reject("5.7.1 Posting to this mailbox is not permitted"),
        ),
        (
            UnknownPolicy::Reject,
            false,
            refused(Refusal::Syntax),
            RcptVerdict::Reject("5.1.3 Bad recipient address syntax"),
        ),
    ] {
        let fallback = fallback.then(|| "lmtp:inet:old:24".to_owned());
        let maps = Maps { unknown, fallback, ..Maps::default() };
        let said = maps.at_rcpt(&decision);
        assert_eq!(said, expected, "{decision:?}");
        // The mail server acts equally on both.
        let map = reply(&maps, "lmtp", "x@example.org", decision);
        match said {
            RcptVerdict::Reject(text) => assert_eq!(map, format!("OK error:{text}")),
            RcptVerdict::Defer(text) => {
                assert!(map == format!("OK retry:{text}") || map == "TEMP because")
            }
            RcptVerdict::Pass => {
                assert!(map == "NOTFOUND " || map.starts_with("OK lmtp:"), "{map}")
            }
        }
    }
}
