//! What is asked at a socket of ours, and what it means if nobody answers.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::postfix::uses::Use;
use super::{Finding, one_line};
use crate::model::daemon_state::is_healthy;
use crate::routing::maps::STATUS_MAP;
use crate::wire::endpoint::Endpoint;
use crate::wire::netstring::Decoder;
use crate::wire::protocol::Protocol;
use crate::wire::socketmap::{REPLY_LIMIT, Reply, Request};

/// Longest answer in the protocols of lines that is waited for, in bytes. Ours are far shorter; that
/// of `status` in a netstring has a limit of its own.
const LINES: usize = 16_384;

/// A question that changes nothing and that we answer without looking anybody up.
pub fn question(protocol: Protocol) -> Vec<u8> {
    match protocol {
        Protocol::Socketmap => {
            let mut out = Vec::new();
            Request { map: STATUS_MAP.as_bytes(), key: b"" }.encode_into(&mut out);
            out
        }
        Protocol::Policy => {
            b"request=smtpd_access_policy\nprotocol_state=CONNECT\nprotocol_name=ESMTP\n\n".to_vec()
        }
        Protocol::Line => format!("{STATUS_MAP} \n").into_bytes(),
        // Version 6, and every action and step, as Postfix offers them.
        Protocol::Milter => {
            let offer = [6u32, 0x1ff, 0x1f_ffff].map(u32::to_be_bytes).concat();
            [&13u32.to_be_bytes()[..], b"O", &offer].concat()
        }
    }
}

/// What came back, once it is whole; `None`: more bytes are needed.
pub fn answer(protocol: Protocol, came: &[u8]) -> Option<SocketOutcome> {
    let other = |why: String| Some(SocketOutcome::Odd { why });
    let said = || one_line(&String::from_utf8_lossy(came));
    if came.len() > REPLY_LIMIT.saturating_add(16) {
        return other("it says more than any answer holds".into());
    }
    match protocol {
        Protocol::Socketmap => {
            let mut frames = Decoder::new(REPLY_LIMIT);
            frames.push(came);
            let frame = frames.next_frame()?;
            match frame.map(Reply::parse) {
                Ok(Reply::Ok(status)) => Some(SocketOutcome::Answered { status: Some(status) }),
                Ok(Reply::Temp(why)) => {
                    other(format!("it cannot tell how it is: {}", one_line(&why)))
                }
                Ok(Reply::NotFound) => Some(SocketOutcome::Answered { status: None }),
                Err(e) => other(format!("no socketmap speaks there: {e}")),
            }
        }
        Protocol::Line => {
            let line = came.strip_suffix(b"\n").or((came.len() > LINES).then_some(came))?;
            match line.strip_prefix(b"OK ") {
                Some(status) => {
                    let status = String::from_utf8_lossy(status).into_owned();
                    Some(SocketOutcome::Answered { status: Some(status) })
                }
                None => other(format!("it says `{}`", said())),
            }
        }
        Protocol::Policy if came.starts_with(b"action=") => {
            came.ends_with(b"\n\n").then_some(SocketOutcome::Answered { status: None })
        }
        Protocol::Policy if came.len() < 7 && b"action=".starts_with(came) => None,
        Protocol::Policy => other(format!("it says `{}`", said())),
        Protocol::Milter => match came.get(4) {
            None => None,
            Some(b'O') => Some(SocketOutcome::Answered { status: None }),
            Some(_) => other("no milter speaks there".into()),
        },
    }
}

/// What came of asking at a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum SocketOutcome {
    /// Somebody answered, with the answer of `status` if he has one.
    Answered {
        /// JSON, if it is one of ours.
        status: Option<String>,
    },
    /// Somebody answered for a recipient.
    RecipientReply {
        /// The answer.
        answer: String,
    },
    /// There is no such socket.
    Missing,
    /// There is a socket, and nobody listens.
    Nobody,
    /// One may not go there, or not write to it.
    Closed {
        /// The directory that is closed, or the socket itself.
        at: String,
    },
    /// No answer in time.
    Silent,
    /// An answer that is none, or the connection was closed.
    Odd {
        /// What.
        why: String,
    },
    /// It could not be tried in that way.
    NotTried {
        /// Why.
        why: String,
    },
}

impl SocketOutcome {
    /// What the daemon says of itself, if it is ours that answered.
    pub fn status(&self) -> Option<Value> {
        let SocketOutcome::Answered { status: Some(text) } = self else { return None };
        let status: Value = serde_json::from_str(text).ok()?;
        status["version"].is_string().then_some(status)
    }

    /// The outcome of a question, in words.
    pub(super) fn in_words(&self) -> String {
        match self {
            SocketOutcome::Answered { .. } | SocketOutcome::RecipientReply { .. } => {
                "it answers".into()
            }
            SocketOutcome::Missing => "there is no such socket".into(),
            SocketOutcome::Nobody => "nobody listens there".into(),
            SocketOutcome::Closed { at } => format!("{at} is closed to this user"),
            SocketOutcome::Silent => "it takes connections and does not answer".into(),
            SocketOutcome::Odd { why } | SocketOutcome::NotTried { why } => why.clone(),
        }
    }
}

/// As whom it was tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// The user.
    pub user: String,
    /// The directory he was shut into.
    pub chroot: Option<String>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chroot {
            Some(chroot) => write!(f, "as {} in the chroot {chroot}", self.user),
            None => write!(f, "as {}", self.user),
        }
    }
}

/// What it means for a socket of our configuration.
pub fn of_listener(
    endpoint: &Endpoint,
    protocol: Protocol,
    who: &Who,
    outcome: &SocketOutcome,
) -> Finding {
    judge(&endpoint.to_string(), endpoint, protocol, who, outcome)
}

/// What it means for somebody in Postfix who asks there. `ours`: whether he means one of our sockets.
/// `None`: he asks somebody else, who answers.
pub fn of_use(u: &Use, who: &Who, outcome: &SocketOutcome, ours: bool) -> Option<Finding> {
    let place = format!("{} `{}`", u.place(), u.text);
    if matches!(outcome, SocketOutcome::Answered { .. }) && !ours {
        return None;
    }
    let found = judge(&place, &u.endpoint, u.protocol, who, outcome);
    let Endpoint::Unix(path) = &u.endpoint else { return Some(found) };
    let lost = matches!(outcome, SocketOutcome::Missing | SocketOutcome::Nobody);
    if !(u.chroot && lost) {
        return Some(found);
    }
    let (service, path) = (&u.service, path.display());
    let chroot = who.chroot.as_deref().unwrap_or("the queue directory");
    let mend = match u.protocol {
        Protocol::Socketmap => format!(
            "write `proxy:{}`, or add a [[listen]] to our configuration with the socket below \
             {chroot} and name it relative to that",
            u.text
        ),
        _ => format!(
            "add a [[listen]] to our configuration with the socket below {chroot} and name it \
             relative to that, or have {service} run without a chroot"
        ),
    };
    let what = format!(
        "{service} is chrooted to {chroot} (column 5 of master.cf), and there is no {path} in there"
    );
    Some(Finding::error(found.check, place, what).mend(mend))
}

fn judge(
    place: &str,
    endpoint: &Endpoint,
    protocol: Protocol,
    who: &Who,
    outcome: &SocketOutcome,
) -> Finding {
    const CHECK: &str = "socket/answer";
    let error = |what: String| Finding::error(CHECK, place, format!("{what} ({who})"));
    let serve = "start murder-route, and see that `endpoint` in its configuration is this one";
    match outcome {
        SocketOutcome::Answered { .. }
            if matches!(protocol, Protocol::Socketmap | Protocol::Line)
                && outcome.status().is_none() =>
        {
            error("another program answers there: it does not know the map `status`".into()).mend(
                "stop that program, or have it listen elsewhere, and start murder-route; an older \
                 murder-route must be replaced",
            )
        }
        SocketOutcome::Answered { .. } | SocketOutcome::RecipientReply { .. } => {
            Finding::ok(CHECK, place, format!("answers {} ({who})", protocol.as_str()))
        }
        SocketOutcome::Missing => error("there is no such socket".into()).mend(serve),
        SocketOutcome::Nobody => error("nobody listens there".into()).mend(serve),
        SocketOutcome::Closed { at } => {
            let user = &who.user;
            let socket = match endpoint {
                // In a chroot the way to it begins at the queue directory.
                Endpoint::Unix(path) => at != "/" && path.ends_with(at.trim_start_matches('/')),
                _ => false,
            };
            match socket {
                true => error(format!("{user} may not write to it")).mend(
                    "set `mode`, or `owner` and `group`, in [[listen]] so that this user may",
                ),
                false => error(format!("{user} may not go into {at}"))
                    .mend(format!("let this user search {at} (chmod o+x, or its group)")),
            }
        }
        SocketOutcome::Silent => error("it takes connections and does not answer".into())
            .mend("see what the log of murder-route says; restart it"),
        SocketOutcome::Odd { why } => error(why.clone()).mend(format!(
            "see that murder-route listens there, and that `protocols` in its [[listen]] has {}",
            protocol.as_str()
        )),
        SocketOutcome::NotTried { why } => {
            Finding::untested(CHECK, place, format!("{why} ({who})"))
        }
    }
}

/// What the daemon says of itself.
pub fn daemon(place: &str, status: &Value) -> Vec<Finding> {
    const CHECK: &str = "socket/daemon";
    let text = |value: &Value| value.as_str().map(one_line);
    let mut findings = Vec::new();
    let state = text(&status["state"]).unwrap_or_default();
    let doubts: Vec<String> = status["sources"].as_array().map_or_else(Vec::new, |sources| {
        sources.iter().filter_map(|source| text(&source["doubt"])).collect()
    });
    if !is_healthy(&state) {
        let why =
            if doubts.is_empty() { String::new() } else { format!(": {}", doubts.join("; ")) };
        findings.push(
            Finding::error(CHECK, place, format!("the daemon is {state}{why}"))
                .mend("see what its log says"),
        );
    }
    if let Some(trouble) = text(&status["trouble"]) {
        findings.push(
            Finding::error(
                CHECK,
                place,
                format!("the daemon cannot ask who is unknown: {trouble}"),
            )
            .mend("until it can, nobody is called unknown"),
        );
    }
    let version = text(&status["version"]).unwrap_or_default();
    if version != env!("CARGO_PKG_VERSION") {
        let ours = env!("CARGO_PKG_VERSION");
        let what = format!("the daemon is murder-route {version}, and this is {ours}");
        findings.push(Finding::warning(CHECK, place, what).mend("restart the daemon"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, place, format!("the daemon is well: {state}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::postfix::settings::tests::sites;
    use super::super::postfix::uses::uses;
    use super::*;
    use crate::doctor::judge::Severity;

    #[test]
    fn an_answer_is_known_once_it_is_whole() {
        let status = "{\"version\":\"0.1.0\"}";
        let payload = format!("OK {status}");
        for (protocol, bytes) in [
            (Protocol::Socketmap, format!("{}:{payload},", payload.len()).into_bytes()),
            (Protocol::Line, format!("{payload}\n").into_bytes()),
            (Protocol::Policy, b"action=DUNNO\n\n".to_vec()),
            (Protocol::Milter, [&[0, 0, 0, 13][..], b"O"].concat()),
        ] {
            let (last, rest) = bytes.split_last().unwrap();
            for end in 0..=rest.len() {
                assert_eq!(answer(protocol, &rest[..end]), None, "{protocol:?}");
            }
            let whole = [rest, &[*last]].concat();
            let outcome = answer(protocol, &whole).unwrap();
            assert!(matches!(outcome, SocketOutcome::Answered { .. }), "{outcome:?}");
            let ours = matches!(protocol, Protocol::Socketmap | Protocol::Line);
            assert_eq!(outcome.status().is_some(), ours);
        }
    }

    #[test]
    fn who_speaks_otherwise_is_not_taken_for_an_answer() {
        for (protocol, bytes) in [
            (Protocol::Socketmap, &b"HTTP/1.1 400 Bad Request\r\n"[..]),
            (Protocol::Socketmap, b"12:TEMP no list,"),
            (Protocol::Line, b"500 no\n"),
            (Protocol::Policy, b"5:hello,"),
            (Protocol::Policy, b"5:h"),
            (Protocol::Milter, b"hello"),
            (Protocol::Line, &[b'x'; LINES + 1]),
            // Who says more and more is not waited for.
            (Protocol::Policy, &[b"action=", &[b'x'; REPLY_LIMIT + 10][..]].concat()),
        ] {
            let outcome = answer(protocol, bytes);
            assert!(
                matches!(outcome, Some(SocketOutcome::Odd { .. })),
                "{protocol:?}: {outcome:?}"
            );
        }
        // Another socketmap server knows no `status`.
        let other = answer(Protocol::Socketmap, b"9:NOTFOUND ,").unwrap();
        assert_eq!((&other, other.status()), (&SocketOutcome::Answered { status: None }, None));
    }

    #[test]
    fn each_way_to_fail_says_what_to_do() {
        let [_, settings, _] = sites();
        let table = "socketmap:unix:/run/murder-route:lmtp";
        let settings = settings.with("transport_maps", table);
        let all = uses(&settings);
        let who = Who { user: "postfix".into(), chroot: Some("/var/spool/postfix".into()) };
        let found = of_use(&all[0], &who, &SocketOutcome::Missing, true).unwrap();
        assert!(found.what.contains("rewrite is chrooted to /var/spool/postfix"), "{found:?}");
        assert!(found.mend.unwrap().contains(&format!("proxy:{table}")));

        // The chroot is named only where it is what is in the way.
        let free = Use { chroot: false, ..all[0].clone() };
        for (u, outcome, what) in [
            (&free, SocketOutcome::Missing, "no such socket"),
            (&free, SocketOutcome::Nobody, "nobody listens"),
            (&all[0], SocketOutcome::Silent, "does not answer"),
            (&all[0], SocketOutcome::Closed { at: "/run".into() }, "may not go into /run"),
        ] {
            let found = of_use(u, &who, &outcome, true).unwrap();
            assert!(found.what.contains(what), "{found:?}");
            assert!(!found.mend.unwrap().contains("proxy:"));
        }

        let open = Who { user: "postfix".into(), chroot: None };
        let endpoint = Endpoint::Unix(Path::new("/run/murder/s").into());
        for (outcome, what, mend) in [
            (SocketOutcome::Missing, "no such socket", "start"),
            (SocketOutcome::Nobody, "nobody listens", "start"),
            (SocketOutcome::Closed { at: "/run/murder/s".into() }, "may not write", "mode"),
            (SocketOutcome::Closed { at: "/murder/s".into() }, "may not write", "mode"),
            (SocketOutcome::Closed { at: "/".into() }, "may not go into /", "chmod"),
            (
                SocketOutcome::Closed { at: "/run/murder".into() },
                "may not go into /run/murder",
                "chmod",
            ),
            (SocketOutcome::Silent, "does not answer", "log"),
            (SocketOutcome::Odd { why: "it closed".into() }, "it closed", "protocols"),
        ] {
            let found = of_listener(&endpoint, Protocol::Socketmap, &open, &outcome);
            assert_eq!(found.severity, Severity::Error);
            assert!(found.what.contains(what), "{found:?}");
            assert!(found.mend.as_ref().unwrap().contains(mend), "{found:?}");
        }
        let untested = SocketOutcome::NotTried { why: "no such user".into() };
        let found = of_listener(&endpoint, Protocol::Socketmap, &open, &untested);
        assert_eq!(found.severity, Severity::Untested);
        // Somebody else's socketmap is not our business while it answers.
        let answers = SocketOutcome::Answered { status: None };
        assert_eq!(of_use(&all[0], &who, &answers, false), None);
        assert!(of_use(&all[0], &who, &SocketOutcome::Nobody, false).is_some());
    }

    #[test]
    fn what_the_daemon_says_of_itself_counts() {
        let version = env!("CARGO_PKG_VERSION");
        let of = |status: Value| {
            let found = daemon("unix:/s", &status);
            found.into_iter().map(|finding| finding.severity).collect::<Vec<_>>()
        };
        assert_eq!(of(json!({"version": version, "state": "fresh"})), [Severity::Ok]);
        let sources = json!([{"doubt": "since noon"}]);
        let stale = json!({"version": version, "state": "stale", "sources": sources});
        assert_eq!(of(stale), [Severity::Error]);
        let trouble = json!({"version": version, "state": "file", "trouble": "no password"});
        assert_eq!(of(trouble), [Severity::Error]);
        assert_eq!(of(json!({"version": "0.0.1", "state": "file"})), [Severity::Warning]);
    }
}
