//! Conversion of a recipient to a mailbox name, by the options of `imapd.conf`.

#[cfg(test)]
mod tests;

use super::autocreate::Autocreate;
use super::recipient::Recipient;
use super::release::Release;
use super::target::{
    BAD_DOMAIN, EIGHT_BIT, EMPTY_DOMAIN, NO_FOLDER, NO_USER, NoTarget, QUOTED, Target, TargetKind,
    U_LABEL, UNNAMEABLE, begin_name,
};
use crate::model::name::MailboxName;

/// Options of `imapd.conf` that decide about mailbox names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Releases whose rules apply.
    pub release: Release,
    /// `virtdomains` is `userid` or `on`, which `lmtpd` does not distinguish. Off: domains are
    /// ignored.
    pub virtdomains: bool,
    /// `defaultdomain`: its mailboxes have no domain in their names. In its original spelling.
    pub defaultdomain: Option<String>,
    /// `unixhierarchysep`: `/`, not `.`, separates folders in a detail.
    pub unixhierarchysep: bool,
    /// `postuser`: the local part of shared folders. Empty unless set.
    pub postuser: String,
    /// `lmtp_downcase_rcpt`: the local part without its detail is case-insensitive.
    pub downcase: bool,
    /// `lmtp_strict_rfc2821`: 8-bit characters in a local part are refused. Off: each 8-bit byte
    /// becomes an `X`.
    pub strict: bool,
    /// `lmtp_catchall_mailbox`: the user that gets mail for recipients without a mailbox.
    pub catchall: Option<String>,
    /// `lmtp_fuzzy_mailbox_match`: a shared folder is also found by a similar name ([`super::Fuzzy`]).
    pub fuzzy: bool,
    /// `autocreate_post`: `lmtpd` creates a mailbox for a user without one.
    pub autocreate: Option<Autocreate>,
}

impl Rules {
    /// Returns the rules of an `imapd.conf` that sets none of these options (`lib/imapoptions`).
    pub fn defaults(release: Release) -> Self {
        let v3 = release >= Release::V3_0;
        Self {
            release,
            virtdomains: false,
            defaultdomain: v3.then(|| "internal".to_owned()),
            unixhierarchysep: v3,
            postuser: String::new(),
            downcase: release >= Release::V2_5,
            strict: true,
            catchall: None,
            fuzzy: false,
            autocreate: None,
        }
    }

    /// Returns the mailbox that the recipient addresses.
    pub fn target(&self, recipient: &Recipient<'_>) -> Result<Target, NoTarget> {
        let domain = self.domain_in_name(recipient)?;
        self.target_in(domain, recipient, self.is_postuser(recipient.user()))
    }

    /// Returns the other targets of a recipient that was folded to lower case by the mail server.
    /// The typed form may or may not have been the `postuser`, and may not have been in the
    /// `defaultdomain`. The names are in lower case too: where [`Rules::case_matters`], each
    /// represents all its spellings.
    pub fn folded_targets(&self, recipient: &Recipient<'_>) -> Vec<Target> {
        let Ok(domain) = self.domain_in_name(recipient) else { return Vec::new() };
        let mut domains = vec![domain];
        // lmtpd 3.x compares byte by byte, and 3.0 to 3.4 before folding.
        let by_spelling = match self.release {
            Release::V2_4 | Release::V2_5 => false,
            Release::V3_0 => true,
            Release::V3_6 | Release::V3_13 => !self.downcase,
        };
        if by_spelling && self.virtdomains && domain.lmtpd.is_none() {
            let kept = recipient.domain();
            domains.push(DomainInName { lmtpd: kept, caseless: kept });
        }
        let as_it_came = self.is_postuser(recipient.user());
        let both = !self.downcase && self.is_postuser_in_another_case(recipient.user());
        let mut targets = Vec::new();
        for (nth, domain) in domains.into_iter().enumerate() {
            let kinds = [(as_it_came, nth > 0), (!as_it_came, both)].into_iter();
            for (as_postuser, _) in kinds.filter(|(_, new)| *new) {
                targets.extend(self.target_in(domain, recipient, as_postuser));
            }
        }
        targets
    }

    fn target_in(
        &self,
        domain: DomainInName<'_>,
        recipient: &Recipient<'_>,
        as_postuser: bool,
    ) -> Result<Target, NoTarget> {
        if self.strict && !recipient.local().is_ascii() {
            return Err(NoTarget::Refused(EIGHT_BIT));
        }
        if self.keeps_quotes() && recipient.needs_quotes() {
            return Err(NoTarget::Nobody(QUOTED));
        }
        let mut name = begin_name(domain.lmtpd, b"user.".len() + recipient.local().len());
        let mut target = if as_postuser {
            self.shared(name, recipient.detail().unwrap_or_default())?
        } else {
            name.extend_from_slice(b"user.");
            let before_local = name.len();
            name.extend_from_slice(recipient.user());
            self.make_internal(&mut name[before_local..]);
            match &name[before_local..] {
                [] => return Err(NoTarget::Nobody(NO_USER)),
                user if user.contains(&b'!') => return Err(NoTarget::Nobody(UNNAMEABLE)),
                _ => Target::new(TargetKind::Inbox, name)?,
            }
        };
        if domain.caseless != domain.lmtpd {
            target.or_in_domain(domain.caseless);
        }
        Ok(target)
    }

    /// Returns the mailbox that gets mail for recipients without one (`lmtp_catchall_mailbox`), if
    /// it is set.
    ///
    /// It applies neither after [`NoTarget::Refused`] nor for an existing mailbox that cannot accept
    /// mail now. In the latter case Cyrus 3 uses the catch-all, although the message could reach its
    /// recipient a minute later.
    pub fn catchall_target(&self) -> Option<Target> {
        let user = self.catchall.as_deref().filter(|user| !user.is_empty())?;
        let (user, domain) = match user.rsplit_once('@') {
            Some((user, domain)) if self.release >= Release::V3_0 => (user, Some(domain)),
            _ => (user, None),
        };
        let domain = domain.filter(|domain| self.defaultdomain.as_deref() != Some(domain));
        let mut name = begin_name(domain.map(str::as_bytes), b"user.".len() + user.len());
        name.extend_from_slice(b"user.");
        match self.release {
            Release::V2_4 | Release::V2_5 => name.extend_from_slice(user.as_bytes()),
            Release::V3_0 | Release::V3_6 | Release::V3_13 => {
                name.extend(user.bytes().map(caret_for_dot))
            }
        }
        Target::new(TargetKind::Inbox, name).ok()
    }

    /// Whether recipients of this kind that differ only in case address different mailboxes: the
    /// detail is never folded, a user only with `lmtp_downcase_rcpt`.
    pub fn case_matters(&self, kind: TargetKind) -> bool {
        kind == TargetKind::Shared || !self.downcase
    }

    /// Whether recipients that differ from this one only in case may address other mailboxes.
    pub fn case_matters_for(&self, recipient: &Recipient<'_>) -> bool {
        !self.downcase
            || self.target(recipient).is_ok_and(|target| target.kind == TargetKind::Shared)
    }

    /// Returns the domain before the `!` of the mailbox name.
    pub(super) fn domain_in_name<'r>(
        &self,
        recipient: &'r Recipient<'_>,
    ) -> Result<DomainInName<'r>, NoTarget> {
        const NONE: DomainInName<'_> = DomainInName { lmtpd: None, caseless: None };
        let (Some(folded), Some(typed)) = (recipient.domain(), recipient.typed_domain()) else {
            return Ok(NONE);
        };
        if !folded.is_ascii() {
            // A U-label would have been converted to an A-label; lmtpd accepts only those.
            return if self.virtdomains { Err(NoTarget::Doubtful(U_LABEL)) } else { Ok(NONE) };
        }
        if !lmtpd_takes_domain(folded) {
            return Err(NoTarget::Refused(BAD_DOMAIN));
        }
        if !self.virtdomains {
            return Ok(NONE);
        }
        if folded.is_empty() {
            return Err(NoTarget::Nobody(EMPTY_DOMAIN));
        }
        let kept = if self.downcase { folded } else { typed };
        let default = self.is_defaultdomain(folded);
        let exactly = |domain| self.defaultdomain.as_deref().map(str::as_bytes) == Some(domain);
        let lmtpd_drops_it = match self.release {
            Release::V2_4 | Release::V2_5 => default,
            // Compared before folding; the key is built from the folded name, and drops the domain
            // again.
            Release::V3_0 => exactly(typed),
            Release::V3_6 | Release::V3_13 => exactly(typed) || exactly(kept),
        };
        Ok(DomainInName {
            lmtpd: (!lmtpd_drops_it).then_some(kept),
            caseless: (!default).then_some(folded),
        })
    }

    pub(super) fn is_defaultdomain(&self, domain: &[u8]) -> bool {
        self.defaultdomain.as_ref().is_some_and(|d| d.as_bytes().eq_ignore_ascii_case(domain))
    }

    /// Whether quotes become part of the name: Cyrus 3 looks for such a mailbox, which cannot be
    /// created.
    pub(super) fn keeps_quotes(&self) -> bool {
        self.release >= Release::V3_0
    }

    /// Converts a user to internal form, in lmtpd's order: the X of an 8-bit byte is folded too.
    fn make_internal(&self, user: &mut [u8]) {
        user.iter_mut().filter(|b| !b.is_ascii()).for_each(|b| *b = b'X');
        if self.downcase {
            user.make_ascii_lowercase();
        }
        match self.release {
            Release::V2_4 | Release::V2_5 => {
                user.iter_mut().for_each(|b| *b = self.old_separator(*b));
            }
            Release::V3_0 | Release::V3_6 | Release::V3_13 => {
                user.iter_mut().for_each(|b| *b = caret_for_dot(*b))
            }
        }
    }

    /// Translates a separator as Cyrus 2 does (`mboxname_hiersep_tointernal`): `/` and `.` anywhere
    /// in the local part. Without `unixhierarchysep` both stay, and `jane.doe` is the folder `doe`
    /// of `jane`.
    fn old_separator(&self, b: u8) -> u8 {
        match b {
            b'/' if self.unixhierarchysep => b'.',
            b'.' if self.unixhierarchysep => b'^',
            b => b,
        }
    }

    /// Whether `lmtpd` reads this user as the `postuser`.
    fn is_postuser(&self, typed: &[u8]) -> bool {
        let postuser = self.postuser.as_bytes();
        typed.len() == postuser.len()
            && typed.iter().zip(postuser).all(|(t, p)| self.as_compared(*t) == *p)
    }

    /// Whether `lmtpd` reads another spelling of this user as the `postuser`.
    fn is_postuser_in_another_case(&self, typed: &[u8]) -> bool {
        let postuser = self.postuser.as_bytes();
        typed.len() == postuser.len()
            && typed.iter().any(u8::is_ascii_alphabetic)
            && typed.iter().zip(postuser).all(|(t, p)| self.as_compared(*t).eq_ignore_ascii_case(p))
    }

    /// Returns a byte in the form in which it is compared: Cyrus 2 compares after the translation of
    /// separators, Cyrus 3 before.
    fn as_compared(&self, b: u8) -> u8 {
        let folded = |b: u8| if self.downcase { b.to_ascii_lowercase() } else { b };
        match self.release {
            Release::V2_4 | Release::V2_5 if !b.is_ascii() => self.old_separator(folded(b'X')),
            Release::V2_4 | Release::V2_5 => self.old_separator(folded(b)),
            Release::V3_0 | Release::V3_6 | Release::V3_13 => folded(b),
        }
    }

    /// Returns the shared folder of this detail; `name` contains the domain already.
    fn shared(&self, mut name: Vec<u8>, detail: &[u8]) -> Result<Target, NoTarget> {
        let before = name.len();
        let mut encoded = None;
        match self.release {
            Release::V2_4 | Release::V2_5 => {
                name.extend(detail.iter().map(|b| self.old_separator(*b)));
            }
            Release::V3_0 | Release::V3_6 | Release::V3_13 => {
                if detail.contains(&b'&') {
                    let mut other = name.clone();
                    self.push_folders(detail, true, &mut other);
                    encoded = Some(other);
                }
                self.push_folders(detail, false, &mut name);
            }
        }
        if name.len() == before {
            return Err(NoTarget::Nobody(NO_FOLDER));
        }
        // The likelier name first: that of 3.6 to 3.12, or of 3.0 to 3.2.
        let (name, other) = match encoded {
            Some(encoded) if self.release >= Release::V3_6 => (encoded, Some(name)),
            encoded => (name, encoded),
        };
        let mut target = Target::new(TargetKind::Shared, name)?;
        target.others.extend(other.and_then(|other| MailboxName::new(other).ok()));
        Ok(target)
    }

    /// Splits the detail at the separator, drops empty parts and joins the rest with dots, like
    /// Cyrus 3.
    fn push_folders(&self, detail: &[u8], encode: bool, name: &mut Vec<u8>) {
        let separator = if self.unixhierarchysep { b'/' } else { b'.' };
        let folders = detail.split(|b| *b == separator).filter(|folder| !folder.is_empty());
        for (nth, folder) in folders.enumerate() {
            if nth > 0 {
                name.push(b'.');
            }
            for b in folder {
                match b {
                    0x80.. => name.push(b'X'),
                    b'&' if encode => name.extend_from_slice(b"&-"),
                    b => name.push(caret_for_dot(*b)),
                }
            }
        }
    }
}

/// Domain before the `!`, in two readings.
#[derive(Debug, Clone, Copy)]
pub(super) struct DomainInName<'r> {
    /// Domain that `lmtpd` looks up.
    pub(super) lmtpd: Option<&'r [u8]>,
    /// Domain that `lmtpd` would look up if it compared domains without case.
    pub(super) caseless: Option<&'r [u8]>,
}

/// Writes a dot inside a component of an internal name as `^`.
fn caret_for_dot(b: u8) -> u8 {
    if b == b'.' { b'^' } else { b }
}

/// Whether `parseaddr` accepts this after the `@`.
fn lmtpd_takes_domain(domain: &[u8]) -> bool {
    match domain {
        [b'[', literal @ .., b']'] => literal.iter().all(|b| b.is_ascii_digit() || *b == b'.'),
        name => name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')),
    }
}
