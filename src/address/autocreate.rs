//! The users for whom `lmtpd` makes a mailbox when mail for them arrives (`autocreate_post`).
//!
//! Facts: Cyrus `imap/lmtpd.c:autocreate_inbox` and `imap/autocreate.c:autocreate_user`, 2.5 to 3.13.

use super::target::{Target, TargetKind};

/// `autocreate_post` with an `autocreate_quota` of 0 or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autocreate {
    /// `autocreate_users`: user names, `anyone`, `group:NAME`.
    pub users: Vec<String>,
    /// `admins` and `proxyservers`: no mailbox is made for these.
    pub except: Vec<String>,
}

impl Autocreate {
    /// Whether `lmtpd` makes this mailbox if it is not there. A user of whom that cannot be told,
    /// because groups would have to be asked, counts as one.
    pub fn makes(&self, target: &Target) -> bool {
        self.makes_if(target, |entry, user| entry == user, |entry, user| entry == user)
    }

    /// The same of a user who may have been spelled in another case: there is one that it makes.
    pub fn makes_in_some_case(&self, target: &Target) -> bool {
        self.makes_if(
            target,
            <[u8]>::eq_ignore_ascii_case,
            // Another spelling of the same user is excepted by no name.
            |entry, user| entry == user && !user.iter().any(u8::is_ascii_alphabetic),
        )
    }

    fn makes_if(
        &self,
        target: &Target,
        is_admitted: impl Fn(&[u8], &[u8]) -> bool,
        is_excepted: impl Fn(&[u8], &[u8]) -> bool,
    ) -> bool {
        if target.kind != TargetKind::Inbox {
            return false;
        }
        let Some(user) = target.name.user() else { return false };
        let admitted = |entry: &String| {
            entry == "anyone" || entry.starts_with("group:") || is_admitted(entry.as_bytes(), &user)
        };
        !is_excepted(b"anonymous", &user)
            && !self
                .except
                .iter()
                .any(|entry| entry == "anyone" || is_excepted(entry.as_bytes(), &user))
            && self.users.iter().any(admitted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Recipient, Release, Rules};
    use super::*;

    #[test]
    fn lmtpd_makes_the_mailboxes_of_users_but_not_of_admins() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        // (autocreate_users, admins, recipient, made)
        for (users, admins, recipient, made) in [
            ("anyone", "cyrus", "new@example.org", true),
            ("anyone", "cyrus", "new.one+Work@x.org", true),
            ("anyone", "cyrus", "cyrus@example.org", false),
            ("anyone", "cyrus", "cyrus@x.org", true),
            ("anyone", "root@x.org", "root@x.org", false),
            ("anyone", "cyrus", "anonymous@example.org", false),
            ("anyone", "cyrus", "anonymous@x.org", true),
            ("anyone", "cyrus", "+news@example.org", false),
            ("a.b c@x.org", "", "a.b@example.org", true),
            ("a.b c@x.org", "", "c@x.org", true),
            ("a.b c@x.org", "", "c@example.org", false),
            ("group:staff", "", "new@example.org", true),
            ("", "", "new@example.org", false),
        ] {
            let rules = Rules {
                virtdomains: true,
                defaultdomain: Some("example.org".into()),
                ..Rules::defaults(Release::V3_6)
            };
            let autocreate = Autocreate { users: words(users), except: words(admins) };
            let target = rules.target(&Recipient::parse(recipient.as_bytes()).unwrap()).unwrap();
            assert_eq!(autocreate.makes(&target), made, "{users:?} {admins:?} {recipient}");
        }
    }
}
