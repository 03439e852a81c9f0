//! The mailbox that a recipient addresses.

use crate::model::name::MailboxName;

/// The kind of mailbox that a recipient addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// The INBOX of a user. The detail does not matter for routing; no right is needed.
    Inbox,
    /// A shared folder. The sender needs the right `p`.
    Shared,
}

/// The mailbox that a recipient addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Kind of the mailbox.
    pub kind: TargetKind,
    /// Name to look up.
    pub name: MailboxName,
    /// Further names to look up, in this order, if the first mailbox does not exist. Empty except in
    /// two cases:
    ///
    /// * `lmtpd` compares a domain with `defaultdomain` byte by byte (3.x) and keeps its case
    ///   without `lmtp_downcase_rcpt`. Domains are case-insensitive (RFC 5321 §2.4), so the names
    ///   with the other results of the comparison are looked up as well.
    /// * A shared folder with a `&` in its address: 3.0, 3.2 and 3.13.4 read it as modified UTF-7,
    ///   3.4 to 3.13.3 encode the `&` (Cyrus 33776ac558). The list does not show which release
    ///   reads it.
    pub others: Vec<MailboxName>,
}

/// Reason why a recipient addresses no mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// `lmtpd` refuses the address as invalid syntax (501 5.5.4), regardless of the mailboxes that
    /// exist. The catch-all does not get the message either.
    #[error("{0}")]
    Refused(&'static str),
    /// No mailbox can have the name (550 5.1.1). The catch-all gets the message, if there is one.
    #[error("{0}")]
    Nobody(&'static str),
    /// The mailbox cannot be determined. The answer must be temporary.
    #[error("{0}")]
    Doubtful(&'static str),
}

pub(super) const EIGHT_BIT: &str =
    "lmtpd takes no 8-bit characters before the `@` (lmtp_strict_rfc2821)";
pub(super) const QUOTED: &str =
    "lmtpd looks for a mailbox with the quotes in its name, and no mailbox can have it";
pub(super) const BAD_DOMAIN: &str = "lmtpd takes only letters, digits, `-` and `.` in a domain";
pub(super) const U_LABEL: &str =
    "the domain is not ASCII and has no A-label (xn--…), under which mailboxes are listed";
pub(super) const EMPTY_DOMAIN: &str = "nothing after the `@`";
pub(super) const NO_USER: &str = "no user before the `+`";
pub(super) const NO_FOLDER: &str = "no folder after the `+`";
pub(super) const UNNAMEABLE: &str = "no mailbox can have this name";

impl Target {
    /// Returns every name to look up; the first mailbox that exists is the target.
    pub fn names(&self) -> impl Iterator<Item = &MailboxName> {
        std::iter::once(&self.name).chain(&self.others)
    }

    /// Creates a target with one name.
    pub fn by_name(kind: TargetKind, name: MailboxName) -> Self {
        Self { kind, name, others: Vec::new() }
    }

    pub(super) fn new(kind: TargetKind, name: Vec<u8>) -> Result<Self, NoTarget> {
        let name = MailboxName::new(name).map_err(|_| NoTarget::Nobody(UNNAMEABLE))?;
        Ok(Self::by_name(kind, name))
    }

    /// Adds each name with another domain.
    pub(super) fn or_in_domain(&mut self, domain: Option<&[u8]>) {
        let others: Vec<_> = self
            .names()
            .filter_map(|name| {
                let mut other = begin_name(domain, name.as_bytes().len());
                other.extend_from_slice(name.without_domain());
                MailboxName::new(other).ok()
            })
            .collect();
        self.others.extend(others);
    }
}

/// Returns `domain!`, with capacity for `room` more bytes.
pub(super) fn begin_name(domain: Option<&[u8]>, room: usize) -> Vec<u8> {
    let mut name = Vec::with_capacity(domain.map_or(0, |domain| domain.len() + 1) + room);
    if let Some(domain) = domain {
        name.extend_from_slice(domain);
        name.push(b'!');
    }
    name
}
