//! A complete decision as one line of text: the answer of the map `decision`. A client of the
//! daemon gets all facts that a lookup in its own process would give.
//!
//! ```text
//! outcome=deliver transport=lmtp backend=inet:be1.example.org:2003 mailbox=user.jane server=be1.example.org partition=default
//! outcome=deferred cause=list reason=the%20mailbox%20list%20is%20busy
//! ```
//!
//! A member that does not apply is omitted. Values are percent-encoded except for printable
//! ASCII other than `%`. A reader skips members it does not know, and treats an unknown outcome
//! as *deferred*, so that the two ends may be of different releases.

use crate::model::backend::{Backend, LmtpAddress};
use crate::model::name::MailboxName;
use crate::routing::route::{Cause, Decision, Refusal, Route};

/// Returns the line for a route.
pub fn encode(route: &Route) -> String {
    let mut line = format!("outcome={}", route.decision.as_str());
    let mut put = |name: &str, value: &[u8]| {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        push_encoded(&mut line, value);
    };
    match &route.decision {
        Decision::Deliver(backend) => {
            put("transport", backend.transport.as_bytes());
            put("backend", backend.address.to_string().as_bytes());
        }
        Decision::Deferred(Cause::Mailbox) => put("cause", b"mailbox"),
        Decision::Deferred(Cause::List) => put("cause", b"list"),
        Decision::Refused(Refusal::NoPost) => put("refusal", b"no-post"),
        Decision::Refused(Refusal::Syntax) => put("refusal", b"syntax"),
        Decision::Unknown | Decision::Foreign => {}
    }
    if let Some(mailbox) = &route.mailbox {
        put("mailbox", mailbox.as_bytes());
    }
    if let Some(server) = &route.server {
        put("server", server.as_bytes());
    }
    if let Some(partition) = &route.partition {
        put("partition", partition.as_bytes());
    }
    if !route.reason.is_empty() {
        put("reason", route.reason.as_bytes());
    }
    line
}

/// Parses a line into its route. `None`: the line is invalid.
pub fn decode(line: &str) -> Option<Route> {
    let mut members = line.split(' ').filter_map(|member| member.split_once('='));
    let (_, outcome) = members.next().filter(|(name, _)| *name == "outcome")?;
    let members: Vec<(&str, Vec<u8>)> =
        members.map(|(name, value)| Some((name, decoded(value)?))).collect::<Option<_>>()?;
    let member = |name: &str| {
        members.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_slice())
    };
    let text = |name: &str| match member(name) {
        Some(value) => String::from_utf8(value.to_vec()).map(Some).ok(),
        None => Some(None),
    };
    let decision = match outcome {
        "deliver" => Decision::Deliver(Backend {
            transport: text("transport")??.into(),
            address: place(&text("backend")??)?,
        }),
        "unknown" => Decision::Unknown,
        "foreign" => Decision::Foreign,
        "refused" => Decision::Refused(match member("refusal")? {
            b"no-post" => Refusal::NoPost,
            b"syntax" => Refusal::Syntax,
            _ => return None,
        }),
        _ => Decision::Deferred(match member("cause") {
            Some(b"mailbox") => Cause::Mailbox,
            _ => Cause::List,
        }),
    };
    let mailbox = match member("mailbox") {
        Some(name) => Some(MailboxName::new(name).ok()?),
        None => None,
    };
    Some(Route {
        decision,
        mailbox,
        server: text("server")?,
        partition: text("partition")?,
        reason: text("reason")?.unwrap_or_default().into(),
    })
}

fn place(text: &str) -> Option<LmtpAddress> {
    // Port 0 is invalid: the writer always has a port.
    LmtpAddress::parse(text.strip_prefix("inet:").unwrap_or(text), 0).ok()
}

fn push_encoded(line: &mut String, value: &[u8]) {
    for &byte in value {
        if byte.is_ascii_graphic() && byte != b'%' {
            line.push(char::from(byte));
        } else {
            line.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            value.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        value.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(decision: Decision) -> Route {
        Route { decision, mailbox: None, server: None, partition: None, reason: "".into() }
    }

    fn deliver(place: &str) -> Decision {
        let place = LmtpAddress::parse(place, 2003).unwrap();
        Decision::Deliver(Backend { transport: "lmtp".into(), address: place })
    }

    #[test]
    fn decision_is_the_line_in_the_manual() {
        let jane = Route {
            mailbox: Some(MailboxName::new("user.jane").unwrap()),
            server: Some("be1.example.org".into()),
            partition: Some("default".into()),
            ..route(deliver("be1.example.org"))
        };
        assert_eq!(
            encode(&jane),
            "outcome=deliver transport=lmtp backend=inet:be1.example.org:2003 mailbox=user.jane \
             server=be1.example.org partition=default"
        );
        let busy = Route::deferred("the mailbox list is busy");
        assert_eq!(
            encode(&busy),
            "outcome=deferred cause=list reason=the%20mailbox%20list%20is%20busy"
        );
    }

    #[test]
    fn decision_survives_the_line_unchanged() {
        for decision in [
            deliver("be1"),
            deliver("[::1]:24"),
            deliver("unix:/run/cyrus/lmtp"),
            Decision::Unknown,
            Decision::Deferred(Cause::Mailbox),
            Decision::Deferred(Cause::List),
            Decision::Refused(Refusal::NoPost),
            Decision::Refused(Refusal::Syntax),
            Decision::Foreign,
        ] {
            let route = route(decision);
            assert_eq!(decode(&encode(&route)), Some(route));
        }
    }

    #[test]
    fn invalid_line_never_delivers_or_makes_unknown() {
        for line in [
            "",
            "outcome",
            "unknown",
            "reason=a outcome=unknown",
            "outcome=deliver",
            "outcome=deliver transport=lmtp",
            "outcome=deliver transport=lmtp backend=inet:be1",
            "outcome=deliver transport=lmtp backend=inet:be1:0",
            "outcome=unknown mailbox=%",
            "outcome=unknown mailbox=%G0",
            "outcome=unknown mailbox=",
            "outcome=unknown server=%FF",
            "outcome=refused",
            "outcome=refused refusal=else",
        ] {
            assert_eq!(decode(line), None, "{line}");
        }
        let later = decode("outcome=quarantined by=someone reason=why").unwrap();
        assert_eq!(later, Route::deferred("why"));
    }

    proptest! {
        #[test]
        fn arbitrary_names_and_texts_survive_the_line(
            name in proptest::collection::vec(any::<u8>(), 1..40),
            server in proptest::option::of(".{0,20}"),
            partition in proptest::option::of(".{0,20}"),
            reason in ".{0,40}",
        ) {
            let mailbox = MailboxName::new(name).ok();
            let reason = reason.into();
            let route = Route { decision: Decision::Unknown, mailbox, server, partition, reason };
            let line = encode(&route);
            prop_assert!(line.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert_eq!(decode(&line), Some(route));
        }

        #[test]
        fn arbitrary_line_decodes_without_panic(line in ".*") {
            let _ = decode(&line);
        }
    }
}
