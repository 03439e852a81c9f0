//! Compares the answers for recipients at a socket with the configuration. They differ if the daemon runs
//! with an older configuration, or if another program listens.

use super::socket::SocketOutcome;
use super::{Finding, one_line};
use crate::model::domains::Domains;
use crate::model::name::MailboxName;
use crate::routing::maps::{BUILT_IN, Maps, UnknownPolicy};
use crate::routing::route::{Decision, Route};
use crate::routing::router::Router;
use crate::wire::netstring::Decoder;
use crate::wire::policy;
use crate::wire::protocol::Protocol;
use crate::wire::rcpt::RcptVerdict;
use crate::wire::socketmap::{REPLY_LIMIT, Reply, Request};

/// Maximum length of an answer in lines or packets, in bytes. The daemon's are far shorter.
const ANSWER_LIMIT: usize = 16_384;

/// Expected answer of the map `lmtp` where only the daemon can decide.
const DEFERRED: &str = "deferred";

/// Answer of the map `lmtp` for a foreign recipient.
const FOREIGN: &str = "NOTFOUND ";

/// Answer of a milter for a recipient that passes.
const CONTINUE: &str = "continue";

/// The request for a recipient. `map`: the map to ask, if the protocol has maps.
pub fn request(protocol: Protocol, map: Option<&str>, recipient: &str) -> Vec<u8> {
    let map = map.unwrap_or_default();
    match protocol {
        Protocol::Socketmap => {
            let mut out = Vec::new();
            Request { map: map.as_bytes(), key: recipient.as_bytes() }.encode_into(&mut out);
            out
        }
        Protocol::Line => format!("{map} {recipient}\n").into_bytes(),
        Protocol::Policy => format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n\
             recipient={recipient}\n\n"
        )
        .into_bytes(),
        Protocol::Milter => {
            let mut out = super::socket::request(Protocol::Milter);
            let data = [b"R<", recipient.as_bytes(), b">\0"].concat();
            out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(&data);
            out
        }
    }
}

/// The outcome, once the answer is complete. `None`: more bytes are needed.
pub fn answer(protocol: Protocol, came: &[u8]) -> Option<SocketOutcome> {
    let said = |text: &[u8]| {
        Some(SocketOutcome::RecipientReply { answer: String::from_utf8_lossy(text).into() })
    };
    let odd = |why: &str| Some(SocketOutcome::Odd { why: why.to_owned() });
    if came.len() > REPLY_LIMIT.saturating_add(16) {
        return odd("its answer is too long");
    }
    match protocol {
        Protocol::Socketmap => {
            let mut frames = Decoder::new(REPLY_LIMIT);
            frames.push(came);
            match frames.next_frame()? {
                Ok(payload) => said(Reply::parse(payload).to_string().as_bytes()),
                Err(_) => odd("it does not speak socketmap"),
            }
        }
        Protocol::Line => match came.strip_suffix(b"\n") {
            Some(line) => said(line),
            None if came.len() > ANSWER_LIMIT => odd("its line is too long"),
            None => None,
        },
        Protocol::Policy => match came.strip_suffix(b"\n\n") {
            Some(action) => said(action),
            None if came.len() > ANSWER_LIMIT => odd("its answer is too long"),
            None => None,
        },
        Protocol::Milter => milter(came),
    }
}

/// The packet after the negotiation.
fn milter(came: &[u8]) -> Option<SocketOutcome> {
    let odd = || Some(SocketOutcome::Odd { why: "it does not speak milter".into() });
    let (negotiation, rest) = match packet(came) {
        Packet::Whole(packet, rest) => (packet, rest),
        Packet::Cut => return None,
        Packet::TooLong => return odd(),
    };
    if !negotiation.starts_with(b"O") {
        return odd();
    }
    match packet(rest) {
        Packet::Cut => None,
        Packet::Whole([b'c'], _) => Some(SocketOutcome::RecipientReply { answer: CONTINUE.into() }),
        Packet::Whole([b'y', text @ ..], _) => {
            let text = text.strip_suffix(b"\0").unwrap_or(text);
            Some(SocketOutcome::RecipientReply { answer: String::from_utf8_lossy(text).into() })
        }
        Packet::Whole(..) | Packet::TooLong => odd(),
    }
}

enum Packet<'a> {
    Whole(&'a [u8], &'a [u8]),
    Cut,
    TooLong,
}

fn packet(came: &[u8]) -> Packet<'_> {
    let Some((length, rest)) = came.split_first_chunk() else { return Packet::Cut };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > ANSWER_LIMIT {
        return Packet::TooLong;
    }
    rest.split_at_checked(length).map_or(Packet::Cut, |(packet, rest)| Packet::Whole(packet, rest))
}

/// The answer for a recipient by the configuration. `None`: the socket may answer differently.
pub fn expected(
    protocol: Protocol,
    map: Option<&str>,
    maps: &Maps,
    router: &Router,
    recipient: &str,
    route: &Route,
) -> Option<String> {
    // The daemon may know more than a command does, but it serves the same domains: see `agrees`.
    if matches!(route.decision, Decision::Deferred(_)) {
        let distinguishable = map == Some(BUILT_IN[0]) && maps.unknown != UnknownPolicy::NotFound;
        return (distinguishable && maps.fallback.is_none()).then(|| DEFERRED.to_owned());
    }
    match protocol {
        Protocol::Socketmap | Protocol::Line => {
            Some(maps.reply(maps.get(map?)?, router, recipient, route).to_string())
        }
        Protocol::Policy => {
            let mut out = Vec::new();
            policy::encode_into(&mut out, maps.at_rcpt(&route.decision));
            Some(String::from_utf8_lossy(&out).trim_end().to_owned())
        }
        // It need not refuse a client that skips the SMTP steps before RCPT.
        Protocol::Milter => {
            let passes = maps.at_rcpt(&route.decision) == RcptVerdict::Pass;
            passes.then(|| CONTINUE.to_owned())
        }
    }
}

/// A recipient with its expected and its actual answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientAnswer {
    /// The recipient.
    pub recipient: String,
    /// The answer by the configuration.
    pub expected: String,
    /// The answer at the socket.
    pub outcome: SocketOutcome,
}

impl RecipientAnswer {
    /// Whether both agree. Where the configuration defers, any other answer for a recipient in our domains
    /// may be right.
    pub fn agrees(&self) -> bool {
        let SocketOutcome::RecipientReply { answer } = &self.outcome else { return false };
        *answer == self.expected || (self.expected == DEFERRED && *answer != FOREIGN)
    }
}

/// Judges the answers at one socket.
pub fn judge(place: &str, asked: &[RecipientAnswer]) -> Option<Finding> {
    const CHECK: &str = "socket/recipient";
    asked.first()?;
    let mut differ = asked.iter().filter(|asked| !asked.agrees());
    let Some(first) = differ.next() else {
        let what = format!("answers {} recipients as configured", asked.len());
        return Some(Finding::ok(CHECK, place, what));
    };
    let more = match differ.count() {
        0 => String::new(),
        more => format!(", and {more} others differ"),
    };
    let of = one_line(&first.recipient);
    let expected = one_line(&first.expected);
    Some(match &first.outcome {
        SocketOutcome::RecipientReply { answer } if is_deferral(answer) => {
            let what = format!(
                "defers {of} (`{}`); by the configuration it is `{expected}`{more}",
                one_line(answer)
            );
            Finding::untested(CHECK, place, what)
                .mend("read the log of murder-route, and run `murder-route status`")
        }
        SocketOutcome::RecipientReply { answer } => {
            let what = format!(
                "answers `{}` for {of}; by the configuration it is `{expected}`{more}",
                one_line(answer)
            );
            Finding::error(CHECK, place, what).mend(
                "reload murder-route if its configuration changed since it started; check that \
                 murder-route listens there",
            )
        }
        other => {
            let what = format!("asked for {of}: {}", other.describe());
            Finding::error(CHECK, place, what)
                .mend("check that murder-route listens there, and read its log")
        }
    })
}

fn is_deferral(answer: &str) -> bool {
    ["TEMP ", "OK retry:", "action=DEFER", "4"].iter().any(|begin| answer.starts_with(begin))
}

/// Possible addresses of the user of an INBOX. Empty if it is no INBOX, or if mail servers quote its name.
pub fn addresses(name: &MailboxName, router: &Router) -> Vec<String> {
    let user = name.without_domain().strip_prefix(b"user.").unwrap_or_default();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_^".contains(b);
    if user.is_empty() || !user.iter().all(plain) || user.starts_with(b"^") || user.ends_with(b"^")
    {
        return Vec::new();
    }
    // If the separator is a dot, `^` is the only form of a dot in the user name.
    let user = String::from_utf8_lossy(user).replace('^', ".");
    let own = name.domain().map(|domain| String::from_utf8_lossy(domain).into_owned());
    let domains: Vec<String> = match own {
        Some(domain) => vec![domain],
        None => {
            let default = router.rules.defaultdomain.clone();
            let named = router.domains.names().into_iter().map(|domain| domain.into_owned());
            default.into_iter().chain(named).collect()
        }
    };
    let is_ours = |domain: &String| is_ours(&router.domains, domain);
    domains.into_iter().filter(is_ours).map(|domain| format!("{user}@{domain}")).collect()
}

fn is_ours(domains: &Domains, domain: &str) -> bool {
    domains.contains(domain.to_ascii_lowercase().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::judge::Severity;
    use crate::model::backend::{Backend, LmtpAddress};
    use crate::routing::route::{Cause, Refusal};

    fn route(decision: Decision) -> Route {
        Route { decision, mailbox: None, server: None, partition: None, reason: "".into() }
    }

    fn router() -> Router {
        let settings = crate::config::Settings::load(&crate::config::Overrides {
            config: Some("/dev/null".into()),
            mailboxes_db: Some("/nonexistent".into()),
            domains: vec!["example.org".into(), "example.net".into()],
            ..crate::config::Overrides::default()
        });
        settings.unwrap().router
    }

    /// The expected answers are those of the daemon's own side of the protocols.
    #[test]
    fn answers_of_the_daemon_are_the_expected_ones() {
        let (maps, router) = (Maps::default(), router());
        let place = LmtpAddress::parse("be1", 2003).unwrap();
        let deliver = Decision::Deliver(Backend { transport: "lmtp".into(), address: place });
        for decision in
            [deliver, Decision::Unknown, Decision::Foreign, Decision::Refused(Refusal::NoPost)]
        {
            let route = route(decision);
            let at_rcpt = maps.at_rcpt(&route.decision);
            let of =
                |protocol, map| expected(protocol, map, &maps, &router, "a@example.org", &route);
            let reply = maps.reply(maps.get("lmtp").unwrap(), &router, "a@example.org", &route);
            let mut socketmap = Vec::new();
            reply.encode_into(&mut socketmap);
            let mut policy = Vec::new();
            policy::encode_into(&mut policy, at_rcpt);
            let mut milter = [0, 0, 0, 13, b'O'].to_vec();
            milter.extend_from_slice(&[0; 12]);
            crate::wire::milter::encode_into(&mut milter, at_rcpt);
            for (protocol, map, came) in [
                (Protocol::Socketmap, Some("lmtp"), socketmap),
                (Protocol::Line, Some("lmtp"), format!("{reply}\n").into_bytes()),
                (Protocol::Policy, None, policy),
                (Protocol::Milter, None, milter),
            ] {
                for end in 0..came.len() {
                    assert_eq!(answer(protocol, &came[..end]), None, "{protocol:?} {end}");
                }
                let Some(SocketOutcome::RecipientReply { answer }) = answer(protocol, &came) else {
                    panic!()
                };
                match of(protocol, map) {
                    Some(expected) => assert_eq!(answer, expected, "{protocol:?}"),
                    None => assert!(protocol == Protocol::Milter && answer.starts_with('5')),
                }
            }
        }
        let deferred = route(Decision::Deferred(Cause::List));
        let of = |maps: &Maps, map| {
            expected(Protocol::Socketmap, Some(map), maps, &router, "a@example.org", &deferred)
        };
        assert_eq!(of(&maps, "recipient"), None);
        assert_eq!(of(&maps, "lmtp").as_deref(), Some(DEFERRED));
        assert_eq!(of(&Maps::new(UnknownPolicy::NotFound, None), "lmtp"), None);
        assert_eq!(of(&Maps::new(UnknownPolicy::Reject, Some("a:b".into())), "lmtp"), None);
    }

    #[test]
    fn invalid_answer_is_odd_and_never_waited_for_endlessly() {
        for (protocol, came) in [
            (Protocol::Socketmap, b"HTTP/1.1 400\r\n".to_vec()),
            (Protocol::Milter, b"HTTP/1.1 400\r\n".to_vec()),
            (Protocol::Milter, b"\0\0\0\x01c".to_vec()),
            (Protocol::Policy, vec![b'x'; REPLY_LIMIT + 17]),
            (Protocol::Line, vec![b'x'; ANSWER_LIMIT + 1]),
        ] {
            let outcome = answer(protocol, &came);
            assert!(
                matches!(outcome, Some(SocketOutcome::Odd { .. })),
                "{protocol:?}: {outcome:?}"
            );
        }
    }

    #[test]
    fn another_answer_than_that_of_the_configuration_is_an_error() {
        let asked = |outcome| RecipientAnswer {
            recipient: "jane@example.org".into(),
            expected: "OK lmtp:inet:be1:2003".into(),
            outcome,
        };
        let said = |answer: &str| asked(SocketOutcome::RecipientReply { answer: answer.into() });
        let fine = said("OK lmtp:inet:be1:2003");
        assert_eq!(judge("s", &[]), None);
        for (outcome, severity) in [
            (fine.clone(), Severity::Ok),
            (said("NOTFOUND "), Severity::Error),
            (said("OK lmtp:inet:be2:2003"), Severity::Error),
            (said("OK error:5.1.1 User unknown"), Severity::Error),
            (said("TEMP the list is busy"), Severity::Untested),
            (said("action=DEFER_IF_PERMIT 4.3.0 later"), Severity::Untested),
            (asked(SocketOutcome::Silent), Severity::Error),
        ] {
            let found = judge("s", &[fine.clone(), outcome.clone()]).unwrap();
            assert_eq!(found.severity, severity, "{outcome:?}");
            let named = severity == Severity::Ok || found.what.contains("jane@example.org");
            assert!(named, "{found:?}");
        }
        // If it cannot be decided here, the daemon must still serve the domain.
        for (answer, severity) in [
            ("OK lmtp:inet:be2:2003", Severity::Ok),
            ("OK error:5.1.1 User unknown", Severity::Ok),
            ("TEMP busy", Severity::Ok),
            ("NOTFOUND ", Severity::Error),
        ] {
            let deferred = RecipientAnswer { expected: DEFERRED.into(), ..said(answer) };
            assert_eq!(judge("s", &[deferred]).unwrap().severity, severity, "{answer}");
        }
        let found = judge("s", &[said("NOTFOUND "), said("NOTFOUND "), fine]).unwrap();
        assert!(found.what.ends_with("and 1 others differ"), "{found:?}");
    }

    #[test]
    fn user_has_an_address_in_one_of_our_domains() {
        let router = router();
        let of = |name: &str| addresses(&MailboxName::new(name).unwrap(), &router);
        assert_eq!(of("user.jane^doe"), ["jane.doe@example.net", "jane.doe@example.org"]);
        assert_eq!(of("example.net!user.anna"), ["anna@example.net"]);
        let none = ["example.com!user.anna", "user.jane.Sent", "shared", "user.^a", "user.a b"];
        assert!(none.into_iter().all(|name| of(name).is_empty()));
    }
}
