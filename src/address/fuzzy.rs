//! Search for a shared folder with a similar name (`lmtp_fuzzy_mailbox_match`).

use super::release::Release;
use super::rules::Rules;
use super::target::{Target, TargetKind};
use crate::model::name::MailboxName;

/// Finds the mailbox that `lmtpd` uses in place of a missing shared folder. The comparison is
/// case-insensitive, and space, `-` and `_` are equal (`fuzzyeq`).
///
/// The caller offers every existing mailbox (no tombstones, no intermediate names), in any order; a
/// walk over [`Fuzzy::prefix`] is enough. Cyrus 2 selects the wanted folder or the closest of its
/// parents, and compares the domain like a folder. Cyrus 3 selects the mailbox with the most leading
/// components in common, which may be a sibling; of several, the first in the order of the list.
/// Cyrus 3.13 and later select the common components only, whether or not such a mailbox exists.
#[derive(Debug)]
pub struct Fuzzy<'a> {
    wanted: &'a MailboxName,
    release: Release,
    best: Option<(usize, MailboxName)>,
}

impl<'a> Fuzzy<'a> {
    /// Creates a search for each name of `target`; empty if the rules have no fuzzy match for it.
    pub fn all(rules: &Rules, target: &'a Target) -> Vec<Self> {
        target.names().filter_map(|wanted| Self::new(rules, target.kind, wanted)).collect()
    }

    fn new(rules: &Rules, kind: TargetKind, wanted: &'a MailboxName) -> Option<Self> {
        // Cyrus 3 compares the folders of users without their users, and so finds none.
        let of_user = rules.release >= Release::V3_0 && is_users(wanted);
        (rules.fuzzy && kind == TargetKind::Shared && !of_user).then_some(Self {
            wanted,
            release: rules.release,
            best: None,
        })
    }

    /// Returns the missing name.
    pub fn wanted(&self) -> &'a MailboxName {
        self.wanted
    }

    /// Returns the common prefix of the internal names of all mailboxes that matter.
    pub fn prefix(&self) -> &'a [u8] {
        let name = self.wanted.as_bytes();
        if self.release < Release::V3_0 {
            // Below a user, whose own name must match exactly; the domain need not.
            let mut dots = memchr::memchr_iter(b'.', name);
            return match (is_users(self.wanted), self.wanted.domain(), dots.nth(1)) {
                (true, None, Some(dot)) => &name[..=dot],
                _ => b"",
            };
        }
        &name[..name.len() - self.wanted.without_domain().len()]
    }

    /// Returns the length of a prefix of this name, in bytes. All names with this prefix may be
    /// skipped. `None`: the next name may matter.
    pub fn passes(&self, name: &MailboxName) -> Option<usize> {
        let local = name.as_bytes().len() - name.without_domain().len();
        if name.domain().is_some() && !self.is_in_domain(name) {
            return Some(local);
        }
        // In lists up to 3.4, a name with this beginning may also be the folder of a domain.
        let may_be_domain = self.wanted.domain().is_some_and(|domain| {
            self.release < Release::V3_0
                && domain.get(..5).is_some_and(|begin| nearly(begin, b"user."))
        });
        if may_be_domain && name.domain().is_none() {
            return None;
        }
        // Folders of users are never selected, except those of Cyrus 2 that are wanted by name.
        let first = self.wanted.without_domain().split(|b| *b == b'.').next().unwrap_or_default();
        let users = self.release < Release::V3_0 && nearly(first, b"user");
        (is_users(name) && !users).then_some(local + b"user.".len())
    }

    /// Considers one mailbox of the list.
    pub fn offer(&mut self, name: &MailboxName) {
        let depth = self.depth(name);
        let better = match &self.best {
            _ if depth == 0 => false,
            None => true,
            Some((best, _)) if depth != *best => depth > *best,
            Some((_, best)) => order(name).lt(order(best)),
        };
        if better {
            self.best = Some((depth, name.clone()));
        }
    }

    /// Returns the mailbox to look up instead of the wanted one.
    pub fn best(self) -> Option<MailboxName> {
        let prefix = self.prefix();
        let (depth, found) = self.best?;
        if self.release < Release::V3_13 {
            return Some(found);
        }
        let mut name = prefix.to_vec();
        let shared = found.without_domain().split(|b| *b == b'.').take(depth);
        name.extend(shared.collect::<Vec<_>>().join(&b'.'));
        MailboxName::new(name).ok()
    }

    fn is_in_domain(&self, name: &MailboxName) -> bool {
        match (name.domain(), self.wanted.domain()) {
            (Some(have), Some(wanted)) if self.release < Release::V3_0 => nearly(have, wanted),
            (have, wanted) => have == wanted,
        }
    }

    /// Returns the number of leading components in common with the wanted name; 0: not selected.
    fn depth(&self, name: &MailboxName) -> usize {
        if !self.is_in_domain(name) {
            return 0;
        }
        let wanted = self.wanted.without_domain().split(|b| *b == b'.');
        let have = name.without_domain().split(|b| *b == b'.');
        let depth = wanted.clone().zip(have.clone()).take_while(|(w, h)| nearly(w, h)).count();
        if self.release >= Release::V3_0 {
            return if is_users(name) { 0 } else { depth };
        }
        // Cyrus 2: a parent or the folder itself; among a user's folders, the user's name must be
        // exact.
        let whole = depth == have.clone().count();
        let own = !is_users(self.wanted) || (depth > 2 && wanted.take(2).eq(have.take(2)));
        if whole && own { depth } else { 0 }
    }
}

fn is_users(name: &MailboxName) -> bool {
    name.without_domain().starts_with(b"user.")
}

fn nearly(a: &[u8], b: &[u8]) -> bool {
    let blank = |b: u8| b"- _".contains(&b);
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.eq_ignore_ascii_case(b) || (blank(*a) && blank(*b)))
}

/// Returns the sort key of a name in the list: a parent sorts before its folders.
fn order(name: &MailboxName) -> impl Iterator<Item = u8> {
    name.as_bytes().iter().map(|b| match b {
        b'.' => 0x1f,
        b'^' => b'.',
        b => *b,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Recipient;
    use super::*;

    fn best(release: Release, recipient: &str, list: &[&str]) -> Option<String> {
        let rules = Rules { fuzzy: true, virtdomains: true, ..Rules::defaults(release) };
        let target = rules.target(&Recipient::parse(recipient.as_bytes()).unwrap()).unwrap();
        let mut forth = Fuzzy::all(&rules, &target).pop()?;
        let mut back = Fuzzy::all(&rules, &target).pop()?;
        list.iter().for_each(|name| forth.offer(&MailboxName::new(*name).unwrap()));
        list.iter().rev().for_each(|name| back.offer(&MailboxName::new(*name).unwrap()));
        let found = forth.best();
        assert_eq!(found, back.best(), "the order of the list must not matter");
        found.map(|name| name.to_string())
    }

    #[test]
    fn similar_names_find_the_folder_that_lmtpd_finds() {
        use Release::{V2_5, V3_6, V3_13};
        let list = [
            "News.Big Event",
            "News.Other",
            "example.org!Info",
            "user.jane",
            "user.jane.Info",
            "Team",
        ];
        // (release, recipient, found, why)
        type Row = (Release, &'static str, Option<&'static str>, &'static str);
        let table: &[Row] = &[
            (V3_6, "+news/big_event", Some("News.Big Event"), "case, and blanks are one"),
            (V3_6, "+news/BIG-EVENT/x", Some("News.Big Event"), "the closest parent"),
            (V3_6, "+news/nothing", Some("News.Big Event"), "3.x takes the first sibling"),
            (V3_6, "+news", Some("News.Big Event"), "and the first child"),
            (V3_6, "+news/other/x", Some("News.Other"), "the closest, wherever in the list"),
            (V3_6, "+tea-", None, "a blank is like a blank only"),
            (V3_6, "+info", None, "a user's folder is no shared folder"),
            (V3_6, "+info@example.org", Some("example.org!Info"), "only in its domain"),
            (V3_6, "+team@example.org", None, "not in another"),
            (V3_6, "+teams", None, "no prefix of a component"),
            (V3_6, "+user/jane/info", None, "3.x never matches below a user"),
            (V2_5, "+news.big_event.x", Some("News.Big Event"), "2.x: parents"),
            (V2_5, "+news.nothing", None, "2.x: no siblings"),
            (V2_5, "+info@Example.ORG", Some("example.org!Info"), "2.x: the domain like a folder"),
            (V2_5, "+team@example.org", None, "but it must be there"),
            (V2_5, "+info", None, "or not"),
            (V3_13, "+news/big_event", Some("News.Big Event"), "3.13: the folder itself"),
            (V3_13, "+news/nothing", Some("News"), "3.13: only what is shared"),
            (V3_13, "+team/x", Some("Team"), "3.13: so the closest parent"),
            (V3_13, "+info/x@example.org", Some("example.org!Info"), "3.13: in its domain"),
            (V3_13, "+other", None, "3.13: or nothing"),
            (V2_5, "+user.jane.info", Some("user.jane.Info"), "2.x: below a user"),
            (V2_5, "+user.Jane.info", None, "whose own name must be right"),
            (V2_5, "+user.jane.nothing", None, "and whose INBOX is no parent of them"),
        ];
        for (release, recipient, found, why) in table {
            assert_eq!(best(*release, recipient, &list).as_deref(), *found, "{recipient}: {why}");
        }
    }

    #[test]
    fn fuzzy_match_is_off_unless_configured() {
        let rules = Rules::defaults(Release::V3_6);
        let target = rules.target(&Recipient::parse(b"+news").unwrap()).unwrap();
        assert!(Fuzzy::all(&rules, &target).is_empty());
        let rules = Rules { fuzzy: true, ..rules };
        let target = rules.target(&Recipient::parse(b"jane").unwrap()).unwrap();
        assert!(Fuzzy::all(&rules, &target).is_empty(), "an INBOX is never fuzzy");
    }
}
