//! The search for a shared folder of nearly the wanted name (`lmtp_fuzzy_mailbox_match`).

use super::rules::{Kind, Release, Rules, Target};
use crate::mailbox::MailboxName;

/// Finds the mailbox `lmtpd` takes for a shared folder that does not exist: case does not matter,
/// and space, `-` and `_` are one (`fuzzyeq`).
///
/// The caller offers every mailbox that is there (no tombstones, no intermediate names), in any
/// order; a walk over [`Fuzzy::prefix`] is enough. Cyrus 2 takes the wanted folder or the closest
/// of its parents. Cyrus 3 takes the mailbox that shares the most leading components, so perhaps a
/// sibling; of several, the first in the order of the list.
#[derive(Debug)]
pub struct Fuzzy<'a> {
    wanted: &'a MailboxName,
    release: Release,
    best: Option<(usize, MailboxName)>,
}

impl<'a> Fuzzy<'a> {
    /// A search for `target`; `None` if the rules have none for it.
    pub fn new(rules: &Rules, target: &'a Target) -> Option<Self> {
        let wanted = &target.name;
        // Cyrus 3 compares the folders of users without their users, and so finds none.
        let of_user = rules.release >= Release::V3_0 && is_users(wanted);
        (rules.fuzzy && target.kind == Kind::Shared && !of_user).then_some(Self {
            wanted,
            release: rules.release,
            best: None,
        })
    }

    /// What the internal name of every mailbox that matters begins with.
    pub fn prefix(&self) -> &'a [u8] {
        let name = self.wanted.as_bytes();
        &name[..name.len() - self.wanted.without_domain().len()]
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

    /// The mailbox to look up instead of the wanted one.
    pub fn best(self) -> Option<MailboxName> {
        self.best.map(|(_, name)| name)
    }

    /// How many leading components are those of the wanted name; 0: not to be taken.
    fn depth(&self, name: &MailboxName) -> usize {
        if name.domain() != self.wanted.domain() {
            return 0;
        }
        let wanted = self.wanted.without_domain().split(|b| *b == b'.');
        let have = name.without_domain().split(|b| *b == b'.');
        let depth = wanted.clone().zip(have.clone()).take_while(|(w, h)| nearly(w, h)).count();
        if self.release >= Release::V3_0 {
            return if is_users(name) { 0 } else { depth };
        }
        // Cyrus 2: a parent or the folder itself; in a user's folders, his own name exactly.
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

/// Where a name stands in the list: a parent before its folders.
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
        let mut forth = Fuzzy::new(&rules, &target)?;
        let mut back = Fuzzy::new(&rules, &target)?;
        list.iter().for_each(|name| forth.offer(&MailboxName::new(*name).unwrap()));
        list.iter().rev().for_each(|name| back.offer(&MailboxName::new(*name).unwrap()));
        let found = forth.best();
        assert_eq!(found, back.best(), "the order of the list must not matter");
        found.map(|name| name.to_string())
    }

    #[test]
    fn nearly_right_names_find_the_folder_lmtpd_finds() {
        use Release::{V2_5, V3_6};
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
            (V2_5, "+user.jane.info", Some("user.jane.Info"), "2.x: below a user"),
            (V2_5, "+user.Jane.info", None, "whose own name must be right"),
            (V2_5, "+user.jane.nothing", None, "and whose INBOX is no parent of them"),
        ];
        for (release, recipient, found, why) in table {
            assert_eq!(best(*release, recipient, &list).as_deref(), *found, "{recipient}: {why}");
        }
    }

    #[test]
    fn nothing_is_fuzzy_unless_the_site_says_so() {
        let rules = Rules::defaults(Release::V3_6);
        let target = rules.target(&Recipient::parse(b"+news").unwrap()).unwrap();
        assert!(Fuzzy::new(&rules, &target).is_none());
        let rules = Rules { fuzzy: true, ..rules };
        let target = rules.target(&Recipient::parse(b"jane").unwrap()).unwrap();
        assert!(Fuzzy::new(&rules, &target).is_none(), "an INBOX is never fuzzy");
    }
}
