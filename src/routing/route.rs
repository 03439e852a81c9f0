//! The decision for one recipient.

use std::borrow::Cow;

use crate::model::backend::Backend;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// The decision for one recipient, with all facts for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The decision.
    pub decision: Decision,
    /// The mailbox that was looked up; `None` if no lookup was made.
    pub mailbox: Option<MailboxName>,
    /// The server of the list's record.
    pub server: Option<String>,
    /// The partition of the record.
    pub partition: Option<String>,
    /// The reason, as text for the postmaster.
    pub reason: Cow<'static, str>,
}

/// Outcome for a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The message goes to this backend.
    Deliver(Backend),
    /// The recipient does not exist. Uncertain misses are [`Decision::Deferred`].
    Unknown,
    /// Try again later.
    Deferred(Cause),
    /// The message is refused, regardless of the list.
    Refused(Refusal),
    /// The domain is not served.
    Foreign,
}

/// Subject of a deferral: whether the postmaster has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This mailbox or this recipient: a transient state.
    Mailbox,
    /// The mailbox list as a whole: the postmaster may have to act.
    List,
}

/// Reason for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The shared folder takes no mail from clients that are not logged in (`lmtpd`: 550 5.7.1).
    NoPost,
    /// `lmtpd` does not accept such an address (501 5.5.4).
    Syntax,
}

impl Decision {
    /// Returns its name in `lookup --json` and in the log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Decision::Deliver(_) => "deliver",
            Decision::Unknown => "unknown",
            Decision::Deferred(_) => "deferred",
            Decision::Refused(_) => "refused",
            Decision::Foreign => "foreign",
        }
    }
}

impl Route {
    pub(super) fn about(
        name: &MailboxName,
        record: Option<Record>,
        decision: Decision,
        reason: Cow<'static, str>,
    ) -> Self {
        let (server, partition) = match record {
            Some(record) => (record.server, Some(record.partition)),
            None => (None, None),
        };
        Self { decision, mailbox: Some(name.clone()), server, partition, reason }
    }

    pub(super) fn without_mailbox(decision: Decision, reason: Cow<'static, str>) -> Self {
        Self { decision, mailbox: None, server: None, partition: None, reason }
    }

    /// Returns the reason as text, also for a decision without one.
    pub fn why(&self) -> String {
        String::from_utf8_lossy(&self.why_in_pieces().concat()).into_owned()
    }

    /// Returns the parts of the reason, for a caller that combines them.
    pub(crate) fn why_in_pieces(&self) -> [Cow<'_, [u8]>; 3] {
        match (&self.decision, &self.mailbox, &self.server) {
            (Decision::Deliver(_), Some(mailbox), Some(server)) => {
                [mailbox.escaped(), b" is on ".into(), server.as_bytes().into()]
            }
            (Decision::Deliver(_), Some(mailbox), None) => {
                [mailbox.escaped(), b" is on this host".into(), b"".into()]
            }
            _ => [self.reason.as_bytes().into(), b"".into(), b"".into()],
        }
    }

    /// Creates a deferral made outside the router: a deadline, a panic, a missing list.
    pub fn deferred(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::without_mailbox(Decision::Deferred(Cause::List), reason.into())
    }
}
