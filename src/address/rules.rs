//! The options of `imapd.conf` that make a mailbox name of a recipient.

use std::fmt;

use super::autocreate::Autocreate;
use super::recipient::{Recipient, is_dot_string, push_quoted};
use crate::model::name::MailboxName;

/// The families of Cyrus releases that name mailboxes alike and have the same defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// 2.2 to 2.4.
    V2_4,
    /// 2.5: `lmtp_downcase_rcpt` is on, and there is `lmtp_catchall_mailbox`.
    V2_5,
    /// 3.0 to 3.4: `unixhierarchysep` is on, the hierarchy separator no longer matters in a user,
    /// quotes around a local part stay.
    V3_0,
    /// 3.6 to 3.12: the keys of `mailboxes.db` changed; the names are those of 3.0.
    V3_6,
    /// From 3.13: the fuzzy match takes no siblings (3.13.1, `41b5144dc4`).
    V3_13,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Release::V2_4 => "2.2 to 2.4",
            Release::V2_5 => "2.5",
            Release::V3_0 => "3.0 to 3.4",
            Release::V3_6 => "3.6 to 3.12",
            Release::V3_13 => "3.13 and later",
        })
    }
}

/// The options of `imapd.conf` that matter here, each under its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Whose rules these are.
    pub release: Release,
    /// `virtdomains` is `userid` or `on` (the same for `lmtpd`). Off: domains are ignored.
    pub virtdomains: bool,
    /// `defaultdomain`: its mailboxes have no domain in their names. Kept as it is spelled.
    pub defaultdomain: Option<String>,
    /// `unixhierarchysep`: `/`, not `.`, separates folders in a detail.
    pub unixhierarchysep: bool,
    /// `postuser`: the local part that stands for shared folders. Empty unless set.
    pub postuser: String,
    /// `lmtp_downcase_rcpt`: the case of the local part, less its detail, does not matter.
    pub downcase: bool,
    /// `lmtp_strict_rfc2821`: 8-bit characters in a local part are refused. Off: each 8-bit byte
    /// becomes an `X`.
    pub strict: bool,
    /// `lmtp_catchall_mailbox`: who gets what is for nobody.
    pub catchall: Option<String>,
    /// `lmtp_fuzzy_mailbox_match`: a shared folder may be named nearly right ([`super::Fuzzy`]).
    pub fuzzy: bool,
    /// `autocreate_post`: a mailbox is made for a user that has none.
    pub autocreate: Option<Autocreate>,
}

/// What a recipient addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A user's INBOX. The detail does not matter for the way; no right is needed.
    Inbox,
    /// A shared folder. The sender needs the right `p`.
    Shared,
}

/// The mailbox a recipient stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is.
    pub kind: Kind,
    /// The name to look up.
    pub name: MailboxName,
    /// The names to look up, in this order, if there is no such mailbox. Empty but for two cases:
    ///
    /// * `lmtpd` compares a domain with `defaultdomain` byte by byte (3.x) and keeps its case
    ///   without `lmtp_downcase_rcpt`; a domain has no case (RFC 5321 §2.4), so what follows from
    ///   that is looked up as well.
    /// * A shared folder with a `&` in its address: 3.0, 3.2 and 3.13.4 take it as modified UTF-7,
    ///   3.4 to 3.13.3 encode the `&` (Cyrus 33776ac558). The list does not tell which one reads
    ///   it.
    pub others: Vec<MailboxName>,
}

impl Target {
    /// Every name to look up; the first mailbox that is there is the one.
    pub fn names(&self) -> impl Iterator<Item = &MailboxName> {
        std::iter::once(&self.name).chain(&self.others)
    }

    /// A target with one name.
    pub fn by_name(kind: Kind, name: MailboxName) -> Self {
        Self { kind, name, others: Vec::new() }
    }

    fn new(kind: Kind, name: Vec<u8>) -> Result<Self, NoTarget> {
        let name = MailboxName::new(name).map_err(|_| NoTarget::Nobody(UNNAMEABLE))?;
        Ok(Self::by_name(kind, name))
    }

    fn or_in_domain(&mut self, domain: Option<&[u8]>) {
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

/// Why a recipient stands for no mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// `lmtpd` refuses such an address as bad syntax (501 5.5.4), whoever exists. Not even the
    /// catch-all gets it.
    #[error("{0}")]
    Refused(&'static str),
    /// No mailbox can have the name (550 5.1.1). The catch-all, if there is one, gets it.
    #[error("{0}")]
    Nobody(&'static str),
    /// It cannot be told which mailbox is meant. The answer must be temporary.
    #[error("{0}")]
    Doubtful(&'static str),
}

impl Rules {
    /// The rules of an `imapd.conf` that sets none of the options (`lib/imapoptions`).
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

    /// The mailbox the recipient stands for.
    pub fn target(&self, recipient: &Recipient<'_>) -> Result<Target, NoTarget> {
        let domain = self.domain_in_name(recipient)?;
        self.target_in(domain, recipient, self.is_postuser(recipient.user()))
    }

    /// What else the recipient may stand for, if it was folded to lower case on its way here: as it was
    /// typed it may have been the `postuser`, or not, and may not have been in the `defaultdomain`. The
    /// names are in lower case too: where [`Rules::case_matters`], each stands for all its spellings.
    pub fn folded_targets(&self, recipient: &Recipient<'_>) -> Vec<Target> {
        let Ok(domain) = self.domain_in_name(recipient) else { return Vec::new() };
        let mut domains = vec![domain];
        // lmtpd 3.x compares byte by byte, and 3.0 to 3.4 before they fold.
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
                _ => Target::new(Kind::Inbox, name)?,
            }
        };
        if domain.caseless != domain.lmtpd {
            target.or_in_domain(domain.caseless);
        }
        Ok(target)
    }

    /// Who gets mail for nobody (`lmtp_catchall_mailbox`), if anybody does.
    ///
    /// Not to be asked after [`NoTarget::Refused`], nor for a mailbox that is there and cannot take
    /// mail now: Cyrus 3 does the latter, and delivers to the catch-all what would have found its
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
        Target::new(Kind::Inbox, name).ok()
    }

    /// The recipient as the backend must be given it, in external form; `found` is the name under
    /// which its mailbox was found.
    ///
    /// `lmtpproxyd` passes on a recipient in lower case; a backend given `jane+Work@Example.org`
    /// refuses it (3.2) or dies of a failed assertion (3.6, 3.10). So: the domain as the name has
    /// it, or as `defaultdomain` is spelled, for `lmtpd` compares byte by byte, else in lower case;
    /// the local part in lower case with `lmtp_downcase_rcpt`; the detail untouched, unless the
    /// mail server would have to put it in quotes (`jane+a..b`), within which `lmtpd` knows nobody:
    /// then without it.
    pub fn canonical(&self, recipient: &Recipient<'_>, found: &MailboxName) -> Vec<u8> {
        let mut local = recipient.local().to_vec();
        if self.downcase {
            local[..recipient.user().len()].make_ascii_lowercase();
        }
        let user = recipient.user();
        if !recipient.needs_quotes() && !is_dot_string(&local) && is_dot_string(user) {
            local.truncate(user.len());
        }
        let mut address = Vec::with_capacity(local.len() + 32);
        push_quoted(&local, recipient.domain().is_none(), &mut address);
        if let Some(domain) = recipient.domain() {
            address.push(b'@');
            address.extend_from_slice(match (found.domain(), &self.defaultdomain) {
                (Some(found), _) if found.eq_ignore_ascii_case(domain) => found,
                (_, Some(default)) if self.is_defaultdomain(domain) => default.as_bytes(),
                _ => domain,
            });
        }
        address
    }

    /// A domain that [`Rules::canonical`] writes with capital letters even where it is given without,
    /// because imapd.conf has it so. `None`: whatever is in lower case stays so.
    pub fn respelled_domain(&self) -> Option<String> {
        let catchall = self.catchall_target();
        let catchall = catchall.as_ref().and_then(|target| target.name.domain());
        let default = self.defaultdomain.as_deref().map(str::as_bytes);
        let spelled = |domain: &&[u8]| domain.iter().any(u8::is_ascii_uppercase);
        let domain = default.into_iter().chain(catchall).find(spelled)?;
        Some(String::from_utf8_lossy(domain).into_owned())
    }

    /// Whether recipients of this kind that differ in case only stand for different mailboxes: the
    /// detail is never folded, a user only by `lmtp_downcase_rcpt`.
    pub fn case_matters(&self, kind: Kind) -> bool {
        kind == Kind::Shared || !self.downcase
    }

    /// The same of recipients that differ in case only from this one.
    pub fn case_matters_for(&self, recipient: &Recipient<'_>) -> bool {
        !self.downcase || self.target(recipient).is_ok_and(|target| target.kind == Kind::Shared)
    }

    /// The domain that stands before the `!` of the mailbox name.
    pub(super) fn domain_in_name<'r>(
        &self,
        recipient: &'r Recipient<'_>,
    ) -> Result<DomainInName<'r>, NoTarget> {
        const NONE: DomainInName<'_> = DomainInName { lmtpd: None, caseless: None };
        let (Some(folded), Some(typed)) = (recipient.domain(), recipient.typed_domain()) else {
            return Ok(NONE);
        };
        if !folded.is_ascii() {
            // A U-label would be an A-label by now; lmtpd takes only those.
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
            // Before folding; the key is made of the name after it, and that drops it again.
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

    /// Cyrus 3 looks for a mailbox whose name has the quotes in it; nobody can create one.
    pub(super) fn keeps_quotes(&self) -> bool {
        self.release >= Release::V3_0
    }

    /// Makes the internal form of a user, in lmtpd's order: the X of an 8-bit byte is folded too.
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

    /// Cyrus 2 translates `/` and `.` anywhere in the local part (`mboxname_hiersep_tointernal`);
    /// without `unixhierarchysep` it leaves both, and `jane.doe` is the folder `doe` of `jane`.
    fn old_separator(&self, b: u8) -> u8 {
        match b {
            b'/' if self.unixhierarchysep => b'.',
            b'.' if self.unixhierarchysep => b'^',
            b => b,
        }
    }

    /// Whether `lmtpd` takes this user for the `postuser`.
    fn is_postuser(&self, typed: &[u8]) -> bool {
        let postuser = self.postuser.as_bytes();
        typed.len() == postuser.len()
            && typed.iter().zip(postuser).all(|(t, p)| self.as_compared(*t) == *p)
    }

    /// The same of another spelling of this user than the one given.
    fn is_postuser_in_another_case(&self, typed: &[u8]) -> bool {
        let postuser = self.postuser.as_bytes();
        typed.len() == postuser.len()
            && typed.iter().any(u8::is_ascii_alphabetic)
            && typed.iter().zip(postuser).all(|(t, p)| self.as_compared(*t).eq_ignore_ascii_case(p))
    }

    /// Cyrus 2 compares after the translation of separators, Cyrus 3 before.
    fn as_compared(&self, b: u8) -> u8 {
        let folded = |b: u8| if self.downcase { b.to_ascii_lowercase() } else { b };
        match self.release {
            Release::V2_4 | Release::V2_5 if !b.is_ascii() => self.old_separator(folded(b'X')),
            Release::V2_4 | Release::V2_5 => self.old_separator(folded(b)),
            Release::V3_0 | Release::V3_6 | Release::V3_13 => folded(b),
        }
    }

    /// The shared folder of this detail; `name` has the domain already.
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
        // The likelier name first: what 3.6 to 3.12 make of it, and 3.0 to 3.2.
        let (name, other) = match encoded {
            Some(encoded) if self.release >= Release::V3_6 => (encoded, Some(name)),
            encoded => (name, encoded),
        };
        let mut target = Target::new(Kind::Shared, name)?;
        target.others.extend(other.and_then(|other| MailboxName::new(other).ok()));
        Ok(target)
    }

    /// Cyrus 3 splits the detail at the separator, drops what is empty and joins the rest with
    /// dots.
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

pub(super) const EIGHT_BIT: &str =
    "lmtpd takes no 8-bit characters before the `@` (lmtp_strict_rfc2821)";
pub(super) const QUOTED: &str =
    "lmtpd looks for a mailbox with the quotes in its name, and there is none";
pub(super) const BAD_DOMAIN: &str = "lmtpd takes only letters, digits, `-` and `.` in a domain";
pub(super) const U_LABEL: &str =
    "the domain is not ASCII and has no A-label (xn--…), under which mailboxes are listed";
const EMPTY_DOMAIN: &str = "nothing after the `@`";
const NO_USER: &str = "no user before the `+`";
const NO_FOLDER: &str = "no folder after the `+`";
const UNNAMEABLE: &str = "no mailbox can have this name";

/// The domain before the `!` in two readings.
#[derive(Debug, Clone, Copy)]
pub(super) struct DomainInName<'r> {
    /// What `lmtpd` looks up.
    pub(super) lmtpd: Option<&'r [u8]>,
    /// What it would look up if it knew that domains have no case.
    pub(super) caseless: Option<&'r [u8]>,
}

/// `domain!`, with room for as much more.
fn begin_name(domain: Option<&[u8]>, room: usize) -> Vec<u8> {
    let mut name = Vec::with_capacity(domain.map_or(0, |domain| domain.len() + 1) + room);
    if let Some(domain) = domain {
        name.extend_from_slice(domain);
        name.push(b'!');
    }
    name
}

/// A dot inside a component of an internal name is written `^`.
fn caret_for_dot(b: u8) -> u8 {
    if b == b'.' { b'^' } else { b }
}

/// What `parseaddr` takes after the `@`.
fn lmtpd_takes_domain(domain: &[u8]) -> bool {
    match domain {
        [b'[', literal @ .., b']'] => literal.iter().all(|b| b.is_ascii_digit() || *b == b'.'),
        name => name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3.6 with two domains, as most murders are set up.
    fn site() -> Rules {
        Rules {
            virtdomains: true,
            defaultdomain: Some("example.org".to_owned()),
            ..Rules::defaults(Release::V3_6)
        }
    }

    fn target(rules: &Rules, key: &str) -> Result<Target, NoTarget> {
        rules.target(&Recipient::parse(key.as_bytes()).unwrap())
    }

    /// `user.jane`, `shared news`, `501 …`, `550 …`, `45x …`: what `lmtpd` would do.
    fn said(rules: &Rules, key: &str) -> String {
        match target(rules, key) {
            Ok(target) => {
                let names: Vec<_> = target.names().map(ToString::to_string).collect();
                let kind = if target.kind == Kind::Shared { "shared " } else { "" };
                format!("{kind}{}", names.join(" or "))
            }
            Err(NoTarget::Refused(_)) => "501".to_owned(),
            Err(NoTarget::Nobody(_)) => "550".to_owned(),
            Err(NoTarget::Doubtful(_)) => "451".to_owned(),
        }
    }

    fn check(rules: &Rules, table: &[(&str, &str, &str)]) {
        for (key, expected, why) in table {
            assert_eq!(said(rules, key), *expected, "{key}: {why}");
        }
    }

    #[test]
    fn a_virtual_domain_stands_before_the_name() {
        let rules = site();
        check(
            &rules,
            &[
                ("jane@example.org", "user.jane", "the defaultdomain has no prefix"),
                ("jane@Example.ORG", "user.jane", "in any case (lmtpd 3.0-3.4 misses it)"),
                ("bob@x.org", "x.org!user.bob", "another domain has one"),
                ("bob@X.org", "x.org!user.bob", "in lower case"),
                ("jane", "user.jane", "no domain is like the defaultdomain"),
                ("jane@x.org.", "x.org.!user.jane", "lmtpd keeps a final dot"),
                ("jane@sub.example.org", "sub.example.org!user.jane", "no parent domains"),
                ("jane@[127.0.0.1]", "[127.0.0.1]!user.jane", "an address literal is a domain"),
                ("jane@", "550", "an empty domain is none"),
                ("jane@x_y.org", "501", "lmtpd: no underscore in a domain"),
                ("jane@[IPv6:::1]", "501", "lmtpd: digits and dots only"),
                ("jane@m\u{fc}ller.de", "xn--mller-kva.de!user.jane", "the list has the A-label"),
                ("jane@a\u{200e}b.de", "451", "there is none: what is meant is a doubt"),
            ],
        );
        let off = Rules { virtdomains: false, ..site() };
        check(
            &off,
            &[
                ("jane@example.org", "user.jane", "off"),
                ("bob@x.org", "user.bob", "any domain will do"),
                ("bob@", "user.bob", "even none"),
                ("bob@x_y.org", "501", "but its syntax matters"),
                ("jane@m\u{fc}ller.de", "user.jane", "the A-label would be ignored as well"),
            ],
        );
        let none = Rules { virtdomains: true, ..Rules::defaults(Release::V2_5) };
        check(
            &none,
            &[("bob@internal", "internal!user.bob", "2.x has no defaultdomain unless set")],
        );
        let internal = Rules { virtdomains: true, ..Rules::defaults(Release::V3_0) };
        check(&internal, &[("bob@internal", "user.bob", "3.x: the default is `internal`")]);
    }

    #[test]
    fn the_case_of_the_defaultdomain_costs_nobody_his_mail() {
        let spelled = Rules { defaultdomain: Some("Example.org".to_owned()), ..site() };
        check(
            &spelled,
            &[
                (
                    "dora@example.org",
                    "example.org!user.dora or user.dora",
                    "lmtpd 3.x: another domain",
                ),
                ("dora@EXAMPLE.org", "example.org!user.dora or user.dora", "after folding too"),
                ("dora@Example.org", "user.dora", "the same spelling"),
                ("+news@example.org", "shared example.org!news or news", "shared folders as well"),
                (
                    "+a&b@example.org",
                    "shared example.org!a&-b or example.org!a&b or a&-b or a&b",
                    "each in both",
                ),
            ],
        );
        let old = Rules { release: Release::V3_0, ..site() };
        check(
            &old,
            &[
                ("dora@Example.org", "example.org!user.dora or user.dora", "3.0 folds too late"),
                ("dora@example.org", "user.dora", "the same spelling"),
            ],
        );
        let older = Rules { release: Release::V2_5, ..spelled };
        check(&older, &[("dora@EXAMPLE.ORG", "user.dora", "2.x knows that domains have no case")]);
    }

    #[test]
    fn a_dot_in_a_user_is_a_caret_or_a_folder() {
        for release in [Release::V3_0, Release::V3_6] {
            for unixhierarchysep in [false, true] {
                let rules = Rules { unixhierarchysep, ..Rules::defaults(release) };
                check(
                    &rules,
                    &[
                        ("jane.doe@x", "user.jane^doe", "3.x: in either setting"),
                        ("jane^doe@x", "user.jane^doe", "the same mailbox"),
                        ("jane/doe@x", "user.jane/doe", "a slash is nothing special"),
                        ("jane..doe.@x", "user.jane^^doe^", "every dot counts"),
                    ],
                );
            }
        }
        let dots = Rules::defaults(Release::V2_5);
        check(
            &dots,
            &[
                ("jane.doe@x", "user.jane.doe", "2.x, off: the folder doe of jane"),
                ("jane/doe@x", "user.jane/doe", "and no slash is a separator"),
            ],
        );
        let slashes = Rules { unixhierarchysep: true, ..dots };
        check(
            &slashes,
            &[
                ("jane.doe@x", "user.jane^doe", "2.x, on: one component"),
                ("jane/doe@x", "user.jane.doe", "and the slash makes the folder"),
            ],
        );
    }

    #[test]
    fn the_case_of_a_user_matters_only_without_downcase() {
        let rules = site();
        check(
            &rules,
            &[
                ("Jane@x.org", "x.org!user.jane", "default since 2.5"),
                ("JANE+Work@example.org", "user.jane", "the detail is not in the name"),
            ],
        );
        let exact = Rules { downcase: false, ..site() };
        check(
            &exact,
            &[
                ("Jane@example.org", "user.Jane", "off: as typed"),
                (
                    "jane@X.org",
                    "X.org!user.jane or x.org!user.jane",
                    "a domain has no case (RFC 5321)",
                ),
                ("jane@Example.org", "Example.org!user.jane or user.jane", "nor the default"),
            ],
        );
        check(&Rules::defaults(Release::V2_4), &[("Jane@x", "user.Jane", "default up to 2.4")]);
    }

    #[test]
    fn the_postuser_stands_for_shared_folders() {
        let rules = site();
        check(
            &rules,
            &[
                ("+news@example.org", "shared news", "an empty local part is the default postuser"),
                ("+news/comp@example.org", "shared news.comp", "`/` separates"),
                ("+news.comp@example.org", "shared news^comp", "a dot does not"),
                ("+News/Comp@example.org", "shared News.Comp", "a detail keeps its case"),
                ("+/news//comp/@example.org", "shared news.comp", "empty folders are dropped"),
                ("+news@x.org", "shared x.org!news", "in its domain"),
                ("+a+b@example.org", "shared a+b", "the first + only"),
                ("+user/jane@example.org", "shared user.jane", "an INBOX as a shared folder"),
                ("+@example.org", "550", "no folder"),
                ("+/@example.org", "550", "only separators"),
                ("bb+news@example.org", "user.bb", "bb is a user here"),
                ("+R&D@example.org", "shared R&-D or R&D", "3.4 to 3.12 encode, others do not"),
                (
                    "+Entw&APw-rfe@x.org",
                    "shared x.org!Entw&-APw-rfe or x.org!Entw&APw-rfe",
                    "so too",
                ),
            ],
        );
        let earlier = Rules { release: Release::V3_0, ..site() };
        check(
            &earlier,
            &[("+R&D@example.org", "shared R&D or R&-D", "before 3.4 that is the likelier name")],
        );
        let dots = Rules { unixhierarchysep: false, ..site() };
        check(
            &dots,
            &[
                ("+news.comp@example.org", "shared news.comp", "`.` separates"),
                ("+news/comp@example.org", "shared news/comp", "`/` does not"),
                (
                    "+x.org!news@example.org",
                    "shared x.org!news",
                    "lmtpd takes the domain from there",
                ),
            ],
        );
        let bb = Rules { postuser: "bb".to_owned(), ..site() };
        check(
            &bb,
            &[
                ("bb+news@example.org", "shared news", "postuser"),
                ("BB+news@example.org", "shared news", "after lower-casing"),
                ("bb+news@x.org", "shared x.org!news", "in its domain"),
                ("bb@example.org", "550", "no folder"),
                ("+news@example.org", "550", "no user, and no longer the postuser"),
                ("bbb+news@example.org", "user.bbb", "the whole word"),
            ],
        );
        let upper = Rules { postuser: "BB".to_owned(), ..site() };
        check(&upper, &[("BB+news@example.org", "user.bb", "lmtpd does not fold the option")]);
        let exact = Rules { downcase: false, ..upper };
        check(&exact, &[("BB+news@example.org", "shared news", "unless nothing is folded")]);
        let old = Rules { unixhierarchysep: true, ..Rules::defaults(Release::V2_5) };
        check(
            &old,
            &[
                ("+news/comp.x@x", "shared news.comp^x", "2.x translates the whole local part"),
                ("+news//comp@x", "shared news..comp", "and drops nothing"),
                ("+R&-D@x", "shared R&-D", "and encodes nothing"),
                ("+@x", "550", "no folder"),
            ],
        );
        let dotted = Rules { postuser: "b.b".to_owned(), ..old };
        check(&dotted, &[("b.b+news@x", "user.b^b", "2.x compares after translating")]);
        let dotted = Rules { release: Release::V3_0, ..dotted };
        check(&dotted, &[("b.b+news@x", "shared news", "3.x before")]);
    }

    #[test]
    fn quotes_are_as_lmtpd_has_them() {
        check(
            &site(),
            &[
                ("\"jane\"@example.org", "user.jane", "needless quotes mean nothing (RFC 5321)"),
                ("\"jane..doe\"@example.org", "user.jane^^doe", "lmtpd would take it unquoted"),
                ("jane..doe@example.org", "user.jane^^doe", "as here"),
                ("\"jane doe\"@example.org", "550", "3.x looks for the quotes in the name"),
                ("jane doe@example.org", "550", "the same in internal form"),
                ("\"jane@home\"@example.org", "550", "quoted @"),
                ("\"\"@example.org", "550", "nobody"),
            ],
        );
        check(
            &Rules::defaults(Release::V2_5),
            &[
                ("\"jane doe\"@x", "user.jane doe", "2.x takes quotes away"),
                ("jane doe@x", "user.jane doe", "the same in internal form"),
                ("\"jane@home\"@x", "user.jane@home", "a quoted @ does not end the local part"),
                ("\"\"@x", "550", "nobody"),
            ],
        );
    }

    #[test]
    fn what_can_be_no_mailbox_is_for_nobody() {
        let rules = site();
        let long = format!("{}@example.org", "a".repeat(506));
        let fits = format!("{}@example.org", "a".repeat(505));
        check(
            &rules,
            &[
                ("jane!bob@example.org", "550", "`!` would make jane a domain"),
                ("jane!bob@x.org", "550", "or stand twice"),
                ("j\u{e4}ne@example.org", "501", "8 bit"),
                ("jane+\u{e4}@example.org", "501", "8 bit in the detail as well"),
                (&long, "550", "a name of 511 bytes"),
                (&fits, &format!("user.{}", "a".repeat(505)), "one of 510"),
            ],
        );
        let lax = Rules { strict: false, ..site() };
        check(
            &lax,
            &[
                ("j\u{e4}ne@example.org", "user.jxxne", "lmtp_strict_rfc2821 off: each byte an X"),
                ("jane+\u{e4}@example.org", "user.jane", "which a detail does not show"),
            ],
        );
    }

    #[test]
    fn the_catch_all_is_a_user() {
        let table = [
            (Release::V3_6, "lost.mail", Some("user.lost^mail")),
            (Release::V3_6, "lost@example.org", Some("user.lost")),
            (Release::V3_6, "Lost@x.org", Some("x.org!user.Lost")),
            (Release::V2_5, "lost.mail", Some("user.lost.mail")),
            (Release::V2_5, "lost@x.org", Some("user.lost@x.org")),
            (Release::V3_6, "", None),
        ];
        for (release, catchall, expected) in table {
            let rules = Rules { release, catchall: Some(catchall.to_owned()), ..site() };
            let name = rules.catchall_target().map(|target| target.name.to_string());
            assert_eq!(name.as_deref(), expected, "{catchall}");
        }
        assert_eq!(site().catchall_target(), None);
    }

    #[test]
    fn a_backend_gets_the_spelling_that_does_not_kill_it() {
        let rules = site();
        let spelled = Rules { defaultdomain: Some("Example.org".to_owned()), ..site() };
        let exact = Rules { downcase: false, ..site() };
        let table: &[(&Rules, &str, &str)] = &[
            (&rules, "Jane+Work@Example.org", "jane+Work@example.org"),
            (&rules, "Jane.Doe@X.org", "jane.doe@x.org"),
            (&rules, "+News/Comp@X.org", "+News/Comp@x.org"),
            (&rules, "\"jane\"@x.org", "jane@x.org"),
            (&rules, "\"Jane Doe\"@x.org", "\"jane doe\"@x.org"),
            (&rules, "Jane", "jane"),
            (&rules, "Jane+a..b@x.org", "jane@x.org"),
            (&rules, "jane+.@x.org", "jane@x.org"),
            (&rules, ".jane+Work@x.org", "\".jane+Work\"@x.org"),
            (&spelled, "jane@EXAMPLE.ORG", "jane@Example.org"),
            (&exact, "Jane@X.org", "Jane@x.org"),
        ];
        for (rules, key, expected) in table {
            let parsed = Recipient::parse(key.as_bytes()).unwrap();
            let found = rules.target(&parsed).map_or_else(
                |_| MailboxName::new("user.jane").unwrap(),
                |target| target.names().last().unwrap().clone(),
            );
            let canonical = rules.canonical(&parsed, &found);
            assert_eq!(std::str::from_utf8(&canonical).unwrap(), *expected);
        }
        // The wildcard key of Postfix' tables is no recipient.
        let star = Recipient::parse(b"\\*").unwrap();
        let found = MailboxName::new("user.*").unwrap();
        assert_eq!(Rules::defaults(Release::V3_6).canonical(&star, &found), b"\"*\"");
        // The backend must not be told of another recipient, whoever gets the letter.
        let caught = MailboxName::new("y.org!user.everybody").unwrap();
        let nobody = Recipient::parse(b"Nobody@X.org").unwrap();
        assert_eq!(rules.canonical(&nobody, &caught), b"nobody@x.org");
    }

    proptest::proptest! {
        // What the backend is given must lead to the mailbox that was looked up.
        #[test]
        fn the_canonical_form_means_the_same_mailbox(
            key in "[ -~]{1,20}(@([aA][bB]|[xX]\\.org))?",
            virtdomains: bool, unixhierarchysep: bool, downcase: bool,
            release in proptest::sample::select(vec![Release::V2_5, Release::V3_0, Release::V3_6]),
        ) {
            let rules = Rules {
                virtdomains, unixhierarchysep, downcase, release,
                defaultdomain: Some("Ab".to_owned()),
                ..site()
            };
            if let Ok(parsed) = Recipient::parse(key.as_bytes())
                && let Ok(target) = rules.target(&parsed)
            {
                for found in target.names() {
                    let canonical = rules.canonical(&parsed, found);
                    let again = Recipient::parse(&canonical).unwrap();
                    let target = rules.target(&again).unwrap();
                    proptest::prop_assert_eq!(rules.canonical(&again, found), canonical.clone());
                    // `lmtpd` itself must find it: the first name, or with `&` one of the two.
                    let found_by_lmtpd = target.name == *found || key.contains('&');
                    proptest::prop_assert!(found_by_lmtpd, "{} {}", found, target.name);
                }
            }
        }
    }
}
