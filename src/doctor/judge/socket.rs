//! Requests for a socket of the daemon, and the meaning of its answers.

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

/// Maximum length of an answer in line protocols, in bytes. The daemon's answers are far shorter; that of
/// `status` in a netstring has a limit of its own.
const MAX_LINE_ANSWER: usize = 16_384;

/// A request that changes nothing and that the daemon answers without a lookup.
pub fn request(protocol: Protocol) -> Vec<u8> {
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
        // Version 6 with all actions and steps, as Postfix offers them.
        Protocol::Milter => {
            let offer = [6u32, 0x1ff, 0x1f_ffff].map(u32::to_be_bytes).concat();
            [&13u32.to_be_bytes()[..], b"O", &offer].concat()
        }
    }
}

/// The outcome, once the answer is complete. `None`: more bytes are needed.
pub fn answer(protocol: Protocol, came: &[u8]) -> Option<SocketOutcome> {
    let other = |why: String| Some(SocketOutcome::Odd { why });
    let said = || one_line(&String::from_utf8_lossy(came));
    if came.len() > REPLY_LIMIT.saturating_add(16) {
        return other("its answer is too long".into());
    }
    match protocol {
        Protocol::Socketmap => {
            let mut frames = Decoder::new(REPLY_LIMIT);
            frames.push(came);
            let frame = frames.next_frame()?;
            match frame.map(Reply::parse) {
                Ok(Reply::Ok(status)) => Some(SocketOutcome::Answered { status: Some(status) }),
                Ok(Reply::Temp(why)) => other(format!("it has no status: {}", one_line(&why))),
                Ok(Reply::NotFound) => Some(SocketOutcome::Answered { status: None }),
                Err(e) => other(format!("it does not speak socketmap: {e}")),
            }
        }
        Protocol::Line => {
            let line =
                came.strip_suffix(b"\n").or((came.len() > MAX_LINE_ANSWER).then_some(came))?;
            match line.strip_prefix(b"OK ") {
                Some(status) => {
                    let status = String::from_utf8_lossy(status).into_owned();
                    Some(SocketOutcome::Answered { status: Some(status) })
                }
                None => other(format!("it answers `{}`", said())),
            }
        }
        Protocol::Policy if came.starts_with(b"action=") => {
            came.ends_with(b"\n\n").then_some(SocketOutcome::Answered { status: None })
        }
        Protocol::Policy if came.len() < 7 && b"action=".starts_with(came) => None,
        Protocol::Policy => other(format!("it answers `{}`", said())),
        Protocol::Milter => match came.get(4) {
            None => None,
            Some(b'O') => Some(SocketOutcome::Answered { status: None }),
            Some(_) => other("it does not speak milter".into()),
        },
    }
}

/// Outcome of a request at a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum SocketOutcome {
    /// An answer, with the status if the program has one.
    Answered {
        /// JSON, if it is a murder-route.
        status: Option<String>,
    },
    /// An answer for a recipient.
    RecipientReply {
        /// The answer.
        answer: String,
    },
    /// There is no such socket.
    Missing,
    /// There is a socket, but no program listens.
    Refused,
    /// The user may not search a directory of the path, or not write to the socket.
    Closed {
        /// The directory, or the socket itself.
        at: String,
    },
    /// No answer in time.
    Silent,
    /// An invalid answer, or the connection was closed.
    Odd {
        /// The details.
        why: String,
    },
    /// It could not be tried in this way.
    NotTried {
        /// The reason.
        why: String,
    },
}

impl SocketOutcome {
    /// The status of the daemon, if a murder-route answered.
    pub fn status(&self) -> Option<Value> {
        let SocketOutcome::Answered { status: Some(text) } = self else { return None };
        let status: Value = serde_json::from_str(text).ok()?;
        status["version"].is_string().then_some(status)
    }

    /// Describes the outcome in a sentence about the socket.
    pub(super) fn describe(&self) -> String {
        match self {
            SocketOutcome::Answered { .. } | SocketOutcome::RecipientReply { .. } => {
                "it answers".into()
            }
            SocketOutcome::Missing => "there is no such socket".into(),
            SocketOutcome::Refused => "no program listens there".into(),
            SocketOutcome::Closed { at } => format!("this user has no access to {at}"),
            SocketOutcome::Silent => "it accepts connections and does not answer".into(),
            SocketOutcome::Odd { why } | SocketOutcome::NotTried { why } => why.clone(),
        }
    }
}

/// The user and root directory of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requester {
    /// The user.
    pub user: String,
    /// The root directory, if changed.
    pub chroot: Option<String>,
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chroot {
            Some(chroot) => write!(f, "as {} in the chroot {chroot}", self.user),
            None => write!(f, "as {}", self.user),
        }
    }
}

/// Judges a socket of the configuration.
pub fn of_listener(
    endpoint: &Endpoint,
    protocol: Protocol,
    requester: &Requester,
    outcome: &SocketOutcome,
) -> Finding {
    judge(&endpoint.to_string(), endpoint, protocol, requester, outcome)
}

/// Judges a socket that Postfix uses. `ours`: whether it is one of the daemon's. `None`: another program's,
/// which answers.
pub fn of_use(
    u: &Use,
    requester: &Requester,
    outcome: &SocketOutcome,
    ours: bool,
) -> Option<Finding> {
    let place = format!("{} `{}`", u.place(), u.text);
    if matches!(outcome, SocketOutcome::Answered { .. }) && !ours {
        return None;
    }
    let found = judge(&place, &u.endpoint, u.protocol, requester, outcome);
    let Endpoint::Unix(path) = &u.endpoint else { return Some(found) };
    let lost = matches!(outcome, SocketOutcome::Missing | SocketOutcome::Refused);
    if !(u.chroot && lost) {
        return Some(found);
    }
    let (service, path) = (&u.service, path.display());
    let chroot = requester.chroot.as_deref().unwrap_or("the queue directory");
    let mend = match u.protocol {
        Protocol::Socketmap => format!(
            "use `proxy:{}`, or add a [[listen]] with a socket below {chroot} to murder-route.toml \
             and name it relative to that directory",
            u.text
        ),
        _ => format!(
            "add a [[listen]] with a socket below {chroot} to murder-route.toml and name it relative to \
             that directory, or run {service} without a chroot"
        ),
    };
    let what = format!(
        "{service} is chrooted to {chroot} (column 5 of master.cf), where {path} does not exist"
    );
    Some(Finding::error(found.check, place, what).mend(mend))
}

fn judge(
    place: &str,
    endpoint: &Endpoint,
    protocol: Protocol,
    requester: &Requester,
    outcome: &SocketOutcome,
) -> Finding {
    const CHECK: &str = "socket/answer";
    let error = |what: String| Finding::error(CHECK, place, format!("{what} ({requester})"));
    let serve = "start murder-route, and check that `endpoint` in its configuration is this one";
    match outcome {
        SocketOutcome::Answered { .. }
            if matches!(protocol, Protocol::Socketmap | Protocol::Line)
                && outcome.status().is_none() =>
        {
            error("another program answers there: it has no map `status`".into()).mend(
                "stop that program, or move its socket, and start murder-route; replace an older \
                 murder-route",
            )
        }
        SocketOutcome::Answered { .. } | SocketOutcome::RecipientReply { .. } => {
            Finding::ok(CHECK, place, format!("answers {} ({requester})", protocol.as_str()))
        }
        SocketOutcome::Missing => error("there is no such socket".into()).mend(serve),
        SocketOutcome::Refused => error("no program listens there".into()).mend(serve),
        SocketOutcome::Closed { at } => {
            let user = &requester.user;
            let socket = match endpoint {
                // In a chroot the path begins at the queue directory.
                Endpoint::Unix(path) => at != "/" && path.ends_with(at.trim_start_matches('/')),
                _ => false,
            };
            match socket {
                true => error(format!("{user} may not write to it")).mend(
                    "set `mode`, or `owner` and `group`, in [[listen]] so that this user may write",
                ),
                false => error(format!("{user} may not search {at}")).mend(format!(
                    "give this user search permission on {at} (chmod o+x, or its group)"
                )),
            }
        }
        SocketOutcome::Silent => error("it accepts connections and does not answer".into())
            .mend("read the log of murder-route, and restart it"),
        SocketOutcome::Odd { why } => error(why.clone()).mend(format!(
            "check that murder-route listens there, and that `protocols` of its [[listen]] has {}",
            protocol.as_str()
        )),
        SocketOutcome::NotTried { why } => {
            Finding::untested(CHECK, place, format!("{why} ({requester})"))
        }
    }
}

/// Judges the status of the daemon.
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
                .mend("read its log"),
        );
    }
    if let Some(trouble) = text(&status["trouble"]) {
        findings.push(
            Finding::error(CHECK, place, format!("misses cannot be confirmed: {trouble}"))
                .mend("unknown recipients are deferred until the cause is removed"),
        );
    }
    let version = text(&status["version"]).unwrap_or_default();
    if version != env!("CARGO_PKG_VERSION") {
        let ours = env!("CARGO_PKG_VERSION");
        let what = format!("the daemon is murder-route {version}, this program is {ours}");
        findings.push(Finding::warning(CHECK, place, what).mend("restart the daemon"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, place, format!("the daemon is healthy: {state}")));
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
    fn answer_is_recognised_once_it_is_complete() {
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
    fn other_protocols_are_not_taken_for_an_answer() {
        for (protocol, bytes) in [
            (Protocol::Socketmap, &b"HTTP/1.1 400 Bad Request\r\n"[..]),
            (Protocol::Socketmap, b"12:TEMP no list,"),
            (Protocol::Line, b"500 no\n"),
            (Protocol::Policy, b"5:hello,"),
            (Protocol::Policy, b"5:h"),
            (Protocol::Milter, b"hello"),
            (Protocol::Line, &[b'x'; MAX_LINE_ANSWER + 1]),
            // An endless answer is not waited for.
            (Protocol::Policy, &[b"action=", &[b'x'; REPLY_LIMIT + 10][..]].concat()),
        ] {
            let outcome = answer(protocol, bytes);
            assert!(
                matches!(outcome, Some(SocketOutcome::Odd { .. })),
                "{protocol:?}: {outcome:?}"
            );
        }
        // Another socketmap server has no `status`.
        let other = answer(Protocol::Socketmap, b"9:NOTFOUND ,").unwrap();
        assert_eq!((&other, other.status()), (&SocketOutcome::Answered { status: None }, None));
    }

    #[test]
    fn each_failure_names_its_correction() {
        let [_, settings, _] = sites();
        let table = "socketmap:unix:/run/murder-route:lmtp";
        let settings = settings.with("transport_maps", table);
        let all = uses(&settings);
        let requester =
            Requester { user: "postfix".into(), chroot: Some("/var/spool/postfix".into()) };
        let found = of_use(&all[0], &requester, &SocketOutcome::Missing, true).unwrap();
        assert!(found.what.contains("rewrite is chrooted to /var/spool/postfix"), "{found:?}");
        assert!(found.mend.unwrap().contains(&format!("proxy:{table}")));

        // The chroot is named only if it is the cause.
        let free = Use { chroot: false, ..all[0].clone() };
        for (u, outcome, what) in [
            (&free, SocketOutcome::Missing, "no such socket"),
            (&free, SocketOutcome::Refused, "no program listens"),
            (&all[0], SocketOutcome::Silent, "does not answer"),
            (&all[0], SocketOutcome::Closed { at: "/run".into() }, "may not search /run"),
        ] {
            let found = of_use(u, &requester, &outcome, true).unwrap();
            assert!(found.what.contains(what), "{found:?}");
            assert!(!found.mend.unwrap().contains("proxy:"));
        }

        let open = Requester { user: "postfix".into(), chroot: None };
        let endpoint = Endpoint::Unix(Path::new("/run/murder/s").into());
        for (outcome, what, mend) in [
            (SocketOutcome::Missing, "no such socket", "start"),
            (SocketOutcome::Refused, "no program listens", "start"),
            (SocketOutcome::Closed { at: "/run/murder/s".into() }, "may not write", "mode"),
            (SocketOutcome::Closed { at: "/murder/s".into() }, "may not write", "mode"),
            (SocketOutcome::Closed { at: "/".into() }, "may not search /", "chmod"),
            (
                SocketOutcome::Closed { at: "/run/murder".into() },
                "may not search /run/murder",
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
        // A socketmap of another program is not judged while it answers.
        let answers = SocketOutcome::Answered { status: None };
        assert_eq!(of_use(&all[0], &requester, &answers, false), None);
        assert!(of_use(&all[0], &requester, &SocketOutcome::Refused, false).is_some());
    }

    #[test]
    fn status_of_the_daemon_is_judged() {
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
