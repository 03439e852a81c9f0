//! Users that get a mailbox from `lmtpd` when mail for them arrives (`autocreate_post`).
//!
//! Sources: Cyrus `imap/lmtpd.c:autocreate_inbox` and `imap/autocreate.c:autocreate_user`, 2.5 to
//! 3.13.

use super::target::{Target, TargetKind};

/// `autocreate_post` with an `autocreate_quota` of 0 or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autocreate {
    /// `autocreate_users`: user names, `anyone`, `group:NAME`.
    pub users: Vec<String>,
    /// `admins` and `proxyservers`: they get no mailbox.
    pub except: Vec<String>,
}

impl Autocreate {
    /// Whether `lmtpd` creates this mailbox if it does not exist. Also true for a
    /// user whose group memberships would decide, because they are not available here.
    pub fn makes(&self, target: &Target) -> bool {
        self.makes_if(target, |entry, user| entry == user, |entry, user| entry == user)
    }

    /// Like [`makes`](Self::makes), for a user in unknown case: whether some spelling gets a
    /// mailbox.
    pub fn makes_in_some_case(&self, target: &Target) -> bool {
        self.makes_if(
            target,
            <[u8]>::eq_ignore_ascii_case,
            // Another spelling of the user is excepted by no name.
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
    fn mailboxes_are_created_for_users_but_not_for_admins() {
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
