//! The maps: the form of an answer. A mail server names the map in each request.
//!
//! | map | delivers | unknown | deferred | refused | foreign |
//! |---|---|---|---|---|---|
//! | `lmtp` | `OK lmtp:inet:HOST:PORT` | `OK error:5.1.1 …` | `OK retry:4.3.0 …`, `TEMP …` | `OK error:5.7.1 …` | `NOTFOUND` |
//! | `recipient` | `OK RECIPIENT` | `NOTFOUND` | `TEMP …` | `OK RECIPIENT` | `NOTFOUND` |
//! | `rcpt` | `OK RECIPIENT` | `NOTFOUND` | `TEMP …` | `NOTFOUND` | `NOTFOUND` |
//! | `host` | `OK HOST` | `NOTFOUND` | `TEMP …` | `NOTFOUND` | `NOTFOUND` |
//! | `canonical` | `OK RECIPIENT`, if its form changes | `NOTFOUND` | `TEMP …` | `NOTFOUND` | `NOTFOUND` |
//! | `exim` | `OK HOST:PORT` | `OK :fail:550 5.1.1 …` | `OK :defer:451 4.3.0 …`, `TEMP …` | `OK :fail:550 5.7.1 …` | `NOTFOUND` |
//! | `sendmail` | `OK lmtp:HOST:PORT!RECIPIENT` | `OK error:5.1.1:550 …` | `OK error:4.3.0:451 …`, `TEMP …` | `OK error:5.7.1:550 …` | `NOTFOUND` |
//! | `decision` | `OK` and all that is known, whatever it is: see [`decision_line`] | | | | |
//!
//! `sendmail_now` answers as `sendmail` does, after asking the master for the present location
//! of the mailbox; without a timely answer of the master the list's record is used.
//!
//! `rcpt` is for `relay_recipient_maps` of an smtpd that does not see the answers of `lmtp`.
//! Postfix folds the key of a recipient table to lower case, so mailboxes whose names differ in
//! case only are found as well.
//!
//! `error:` and `retry:` are transports of Postfix; from `transport_maps` they already reject
//! or defer at RCPT. Where the postmaster must act, deferred is `TEMP`: Postfix writes its text
//! to the mail log and never shows it to the sender. `sendmail` has all that rule set 0 needs
//! in one answer: the destination, and the recipient in the form for the backend; `error:` as
//! in a mailertable.
//!
//! `:fail:` and `:defer:` are actions of Exim's redirect router.
//!
//! `fallback`, if set, is the answer of `lmtp` for every decision but *deliver* and *foreign*,
//! and `recipient` then accepts every recipient that the fallback will decide about. `sendmail`
//! answers `NOTFOUND`, which leaves the recipient to the fallback in Sendmail's own rules: a
//! mailer of Sendmail has another form.
//!
//! Mail servers that only ask whether to accept a recipient get an equivalent answer from
//! [`Maps::at_rcpt`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::address::Recipient;
use crate::model::backend::LmtpAddress;
use crate::model::name::MailboxName;
use crate::model::shown::Shown;
use crate::routing::decision_line;
use crate::routing::route::{Cause, Decision, Refusal, Route};
use crate::routing::router::Router;
pub use crate::wire::map_name::{BUILT_IN, STATUS_MAP};
use crate::wire::map_name::{DECISION_MAP, RCPT_MAP, SENDMAIL_NOW, is_built_in};
use crate::wire::rcpt::RcptVerdict;
use crate::wire::socketmap::Reply;

/// Action for recipients that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownPolicy {
    /// Reject: `error:5.1.1`.
    #[default]
    Reject,
    /// Answer `NOTFOUND`: another map or the mail server's own rules decide.
    NotFound,
    /// Defer: `retry:4.3.0`, for a site that wants to observe before it allows rejections.
    Defer,
}

/// All maps, and the policies they share. Immutable, shared by threads.
#[derive(Debug, Clone, Default)]
pub struct Maps {
    /// Action for unknown recipients.
    pub unknown: UnknownPolicy,
    /// Answer for every decision but *deliver* and *foreign*.
    pub fallback: Option<String>,
    templates: BTreeMap<String, Templates>,
}

/// A map defined by the site: a template for each decision.
#[derive(Debug, Clone)]
pub struct Templates {
    /// The answer for [`Decision::Deliver`].
    pub deliver: Template,
    /// The answer for [`Decision::Unknown`].
    pub unknown: Template,
    /// The answer for [`Decision::Deferred`].
    pub deferred: Template,
    /// The answer for [`Decision::Refused`].
    pub refused: Template,
}

/// A map named in a request.
#[derive(Debug, Clone, Copy)]
pub enum Map<'a> {
    /// `lmtp`, for `transport_maps`.
    Lmtp,
    /// `recipient`, for `relay_recipient_maps`.
    Recipient,
    /// `rcpt`, for `relay_recipient_maps` of an smtpd that does not ask `lmtp`.
    Rcpt,
    /// `host`, only the backend's host.
    Host,
    /// `canonical`, for `recipient_canonical_maps`.
    Canonical,
    /// `exim`, for Exim's routers.
    Exim,
    /// `sendmail`, for rule set 0 of Sendmail.
    Sendmail,
    /// `decision`, the complete decision, for programs.
    Decision,
    /// A map defined by the site.
    Own(&'a Templates),
}

/// Whether recipients in requests to this map may have been folded to lower case.
pub fn is_in_any_case(map: &str) -> bool {
    map == RCPT_MAP
}

/// Whether the master confirms each answer of this map, also for recipients that the lists
/// have.
pub fn is_about_now(map: &str) -> bool {
    map == SENDMAIL_NOW
}

impl Maps {
    /// Creates the built-in maps, with these policies.
    pub fn new(unknown: UnknownPolicy, fallback: Option<String>) -> Self {
        Self { unknown, fallback, templates: BTreeMap::new() }
    }

    /// Adds a map defined by the site. Its name must not be that of a built-in map.
    pub fn add(&mut self, name: &str, templates: Templates) -> Result<(), BadTemplate> {
        let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(named) || is_built_in(name) {
            return Err(BadTemplate::Name(Shown(name).to_string()));
        }
        self.templates.insert(name.to_owned(), templates);
        Ok(())
    }

    /// Returns the map of this name.
    pub fn get(&self, name: &str) -> Option<Map<'_>> {
        Some(match name {
            "lmtp" => Map::Lmtp,
            "recipient" => Map::Recipient,
            RCPT_MAP => Map::Rcpt,
            "host" => Map::Host,
            "canonical" => Map::Canonical,
            "exim" => Map::Exim,
            "sendmail" | SENDMAIL_NOW => Map::Sendmail,
            DECISION_MAP => Map::Decision,
            own => Map::Own(self.templates.get(own)?),
        })
    }

    /// Returns the names of all maps.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        BUILT_IN.into_iter().chain(self.templates.keys().map(String::as_str))
    }

    /// Returns this map's answer for a route. `recipient` is the key as the mail server sent it.
    pub fn reply(&self, map: Map<'_>, router: &Router, recipient: &str, route: &Route) -> Reply {
        let given = || Reply::Ok(recipient.to_owned());
        match (map, &route.decision) {
            (Map::Decision, _) => Reply::Ok(decision_line::encode(route)),
            (_, Decision::Foreign) => Reply::NotFound,
            (Map::Lmtp, decision) => self.lmtp(decision, route),
            (Map::Exim, decision) => self.exim(decision, route),
            (Map::Sendmail, Decision::Deliver(backend)) => {
                sendmail(&backend.address, canonical(router, recipient, route))
            }
            (Map::Sendmail, decision) => self.sendmail_error(decision, route),
            (Map::Recipient, Decision::Deliver(_) | Decision::Refused(_))
            | (Map::Rcpt, Decision::Deliver(_)) => given(),
            (Map::Recipient | Map::Rcpt, _) if self.fallback.is_some() => given(),
            (Map::Host, Decision::Deliver(backend)) => match &backend.address {
                LmtpAddress::Inet { host, .. } => Reply::Ok(host.to_string()),
                LmtpAddress::Unix(path) => {
                    Reply::Temp(format!("the backend is the unix socket {path}, not a host"))
                }
            },
            (Map::Canonical, Decision::Deliver(_)) => match canonical(router, recipient, route) {
                Some(canonical) if canonical != recipient => Reply::Ok(canonical),
                _ => Reply::NotFound,
            },
            // The fallback gets the message unchanged; only our backends need another form.
            (Map::Canonical, _) if self.fallback.is_some() => Reply::NotFound,
            (Map::Own(own), decision) => {
                let template = match decision {
                    Decision::Deliver(_) | Decision::Foreign => &own.deliver,
                    Decision::Unknown => &own.unknown,
                    Decision::Deferred(_) => &own.deferred,
                    Decision::Refused(_) => &own.refused,
                };
                template.fill(recipient, route)
            }
            (_, Decision::Deferred(_)) => Reply::Temp(route.reason.to_string()),
            (Map::Recipient | Map::Rcpt | Map::Host, Decision::Unknown) => match self.unknown {
                UnknownPolicy::Defer => Reply::Temp(route.reason.to_string()),
                UnknownPolicy::Reject | UnknownPolicy::NotFound => Reply::NotFound,
            },
            (_, Decision::Unknown | Decision::Refused(_)) => Reply::NotFound,
        }
    }

    /// Returns the mail server's action at RCPT, equivalent to the answer of `lmtp`.
    pub fn at_rcpt(&self, decision: &Decision) -> RcptVerdict {
        if self.fallback.is_some() { RcptVerdict::Pass } else { self.verdict(decision) }
    }

    fn verdict(&self, decision: &Decision) -> RcptVerdict {
        match decision {
            Decision::Deliver(_) | Decision::Foreign => RcptVerdict::Pass,
            // The sender sees the text: only facts that the sender can act on, and no internals.
            Decision::Deferred(Cause::List) => RcptVerdict::FAILED,
            Decision::Deferred(Cause::Mailbox) => {
                RcptVerdict::Defer("4.3.0 Mailbox is temporarily unavailable")
            }
            Decision::Refused(Refusal::Syntax) => {
                RcptVerdict::Reject("5.1.3 Bad recipient address syntax")
            }
            Decision::Refused(Refusal::NoPost) => {
                RcptVerdict::Reject("5.7.1 Posting to this mailbox is not permitted")
            }
            Decision::Unknown => match self.unknown {
                UnknownPolicy::Reject => RcptVerdict::Reject("5.1.1 User unknown"),
                UnknownPolicy::Defer => RcptVerdict::Defer("4.3.0 User unknown, try again later"),
                UnknownPolicy::NotFound => RcptVerdict::Pass,
            },
        }
    }

    /// As in a mailertable, where the code of the SMTP reply precedes its text.
    fn sendmail_error(&self, decision: &Decision, route: &Route) -> Reply {
        let error = |code: u16, text: &str| {
            let (status, text) = text.split_once(' ').unwrap_or((text, ""));
            Reply::Ok(format!("error:{status}:{code} {text}"))
        };
        match (decision, self.at_rcpt(decision)) {
            (_, RcptVerdict::Pass) => Reply::NotFound,
            (Decision::Deferred(Cause::List), _) => Reply::Temp(route.reason.to_string()),
            (_, RcptVerdict::Defer(text)) => error(451, text),
            (_, RcptVerdict::Reject(text)) => error(550, text),
        }
    }

    fn lmtp(&self, decision: &Decision, route: &Route) -> Reply {
        match (decision, &self.fallback) {
            (Decision::Deliver(backend), _) => Reply::Ok(backend.nexthop()),
            (Decision::Foreign, _) => Reply::NotFound,
            (_, Some(fallback)) => Reply::Ok(fallback.clone()),
            // Postfix logs it and does not show it to the sender.
            (Decision::Deferred(Cause::List), None) => Reply::Temp(route.reason.to_string()),
            (_, None) => match self.at_rcpt(decision) {
                RcptVerdict::Pass => Reply::NotFound,
                RcptVerdict::Defer(text) => Reply::Ok(format!("retry:{text}")),
                RcptVerdict::Reject(text) => Reply::Ok(format!("error:{text}")),
            },
        }
    }

    /// The fallback is a transport of Postfix and does not apply here: Exim's next router would
    /// have to handle it. Without such a router the recipient is *unrouteable* and the message
    /// bounces.
    fn exim(&self, decision: &Decision, route: &Route) -> Reply {
        match (decision, self.verdict(decision)) {
            (Decision::Deliver(backend), _) => Reply::Ok(backend.address.host_and_port()),
            // The sender would see it.
            (Decision::Deferred(Cause::List), _) => Reply::Temp(route.reason.to_string()),
            (_, RcptVerdict::Pass) => Reply::NotFound,
            (_, RcptVerdict::Defer(text)) => Reply::Ok(format!(":defer:451 {text}")),
            (_, RcptVerdict::Reject(text)) => Reply::Ok(format!(":fail:550 {text}")),
        }
    }
}

/// The recipient in the form for its backend.
fn canonical(router: &Router, recipient: &str, route: &Route) -> Option<String> {
    let parsed = Recipient::parse(recipient.as_bytes()).ok()?;
    let found = route.mailbox.as_ref()?;
    String::from_utf8(router.rules_of(&parsed, found).canonical(&parsed, found)).ok()
}

/// In the form of a UUCP path: no backend has a `!`, and the recipient is unchanged.
fn sendmail(place: &LmtpAddress, canonical: Option<String>) -> Reply {
    // Sendmail reserves bytes above 0x7f for internal use in a rule, and ends a text at a control
    // character.
    match canonical.filter(|canonical| canonical.bytes().all(|b| matches!(b, b' '..=b'~'))) {
        Some(canonical) => Reply::Ok(format!("lmtp:{}!{canonical}", place.host_and_port())),
        None => Reply::Temp("the recipient is not printable ASCII".into()),
    }
}

/// A reply with fields in `{…}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    kind: Kind,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ok,
    NotFound,
    Temp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Transport,
    Nexthop,
    Host,
    Port,
    Server,
    Partition,
    Mailbox,
    Recipient,
    Reason,
}

const FIELDS: [(&str, Field); 9] = [
    ("transport", Field::Transport),
    ("nexthop", Field::Nexthop),
    ("host", Field::Host),
    ("port", Field::Port),
    ("server", Field::Server),
    ("partition", Field::Partition),
    ("mailbox", Field::Mailbox),
    ("recipient", Field::Recipient),
    ("reason", Field::Reason),
];

/// Reason for rejecting a site's map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// The map's name is taken or invalid.
    #[error(
        "`{0}` cannot name a map: letters, digits, `-`, `_` and `.`, and none of {BUILT_IN:?} or {STATUS_MAP:?}"
    )]
    Name(String),
    /// The first word is not a reply.
    #[error("`{0}`: an answer begins with `OK `, `NOTFOUND` or `TEMP `")]
    Reply(String),
    /// An unknown field.
    #[error("`{{{0}}}` is not known here; there are {names}", names = field_names())]
    Field(String),
    /// An unbalanced brace.
    #[error("a single `{{` or `}}`: double it if it is meant as a character")]
    Brace,
    /// `OK` without any text: Sendmail 8.17 crashes on it; Postfix treats it as an error.
    #[error("`OK` needs something after it")]
    BareOk,
}

fn field_names() -> String {
    FIELDS.map(|(name, _)| format!("{{{name}}}")).join(", ")
}

impl Template {
    /// Parses `OK text`, `TEMP text` or `NOTFOUND`; `{{` and `}}` stand for braces.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let kind = match word {
            "OK" => Kind::Ok,
            "NOTFOUND" if rest.is_empty() => Kind::NotFound,
            "TEMP" => Kind::Temp,
            _ => return Err(BadTemplate::Reply(Shown(text).to_string())),
        };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = rest.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.next_if_eq(&c).is_some() => literal.push(c),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => return Err(BadTemplate::Brace),
                        }
                    }
                    let field = FIELDS.iter().find(|(known, _)| *known == name);
                    let (_, field) = field.ok_or(BadTemplate::Field(name))?;
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Field(*field));
                }
                '}' => return Err(BadTemplate::Brace),
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if kind == Kind::Ok && parts.is_empty() {
            return Err(BadTemplate::BareOk);
        }
        Ok(Self { kind, parts })
    }

    fn fill(&self, recipient: &str, route: &Route) -> Reply {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Field(field) => text.push_str(&field.value(recipient, route)),
            }
        }
        match self.kind {
            Kind::Ok if text.is_empty() => {
                Reply::Temp("the map's template came out empty for this recipient".into())
            }
            Kind::Ok => Reply::Ok(text),
            Kind::NotFound => Reply::NotFound,
            Kind::Temp => Reply::Temp(text),
        }
    }
}

impl Field {
    fn value<'a>(self, recipient: &'a str, route: &'a Route) -> Cow<'a, str> {
        let backend = match &route.decision {
            Decision::Deliver(backend) => Some(backend),
            _ => None,
        };
        let host_and_port = match backend.map(|backend| &backend.address) {
            Some(LmtpAddress::Inet { host, port }) => Some((host, port)),
            _ => None,
        };
        match self {
            Field::Recipient => recipient.into(),
            Field::Mailbox => {
                let name = route.mailbox.as_ref().map_or(&b""[..], MailboxName::as_bytes);
                String::from_utf8_lossy(name)
            }
            Field::Transport => backend.map_or("", |backend| &backend.transport).into(),
            Field::Nexthop => backend.map_or(String::new(), |b| b.address.to_string()).into(),
            Field::Host => host_and_port.map_or("", |(host, _)| host).into(),
            Field::Port => host_and_port.map_or(String::new(), |(_, port)| port.to_string()).into(),
            Field::Server => route.server.as_deref().unwrap_or_default().into(),
            Field::Partition => route.partition.as_deref().unwrap_or_default().into(),
            Field::Reason => (*route.reason).into(),
        }
    }
}

#[cfg(test)]
mod tests;
