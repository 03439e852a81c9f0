//! The decision for one recipient.

use std::borrow::Cow;

use crate::model::backend::Backend;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// The decision for one recipient, with the facts that an answer may contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The decision.
    pub decision: Decision,
    /// The mailbox that was looked up; `None` if the recipient never came that far.
    pub mailbox: Option<MailboxName>,
    /// The record's server, as the list has it.
    pub server: Option<String>,
    /// The record's partition.
    pub partition: Option<String>,
    /// Why, in words for the postmaster.
    pub reason: Cow<'static, str>,
}

/// Outcome for a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The message goes to this backend.
    Deliver(Backend),
    /// The recipient does not exist. That is certain, or it would be [`Decision::Deferred`].
    Unknown,
    /// Try again later.
    Deferred(Cause),
    /// The message may not go there, whatever the list says.
    Refused(Refusal),
    /// The domain is none of ours.
    Foreign,
}

/// Subject of a deferral: whether the postmaster has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This mailbox or this recipient: the state will pass by itself.
    Mailbox,
    /// The mailbox list as a whole: somebody may have to act.
    List,
}

/// Reason for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The shared folder takes no mail from clients that are not logged in (`lmtpd`: 550 5.7.1).
    NoPost,
    /// `lmtpd` takes no such address (501 5.5.4).
    Syntax,
}

impl Decision {
    /// The word for it in `lookup --json` and in the log.
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

    /// The reason in words, also for a decision that needs none.
    pub fn why(&self) -> String {
        String::from_utf8_lossy(&self.why_in_pieces().concat()).into_owned()
    }

    /// The reason in pieces, for a caller that puts it together.
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

    /// A deferral that is not of the router's making: a deadline, a panic, a list that is gone.
    pub fn deferred(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::without_mailbox(Decision::Deferred(Cause::List), reason.into())
    }
}
