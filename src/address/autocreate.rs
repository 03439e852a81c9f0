//! The users for whom `lmtpd` makes a mailbox when mail for them arrives (`autocreate_post`).
//!
//! Facts: Cyrus `imap/lmtpd.c:autocreate_inbox` and `imap/autocreate.c:autocreate_user`, 2.5 to 3.13.

use super::rules::{Kind, Target};

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
        if target.kind != Kind::Inbox {
            return false;
        }
        let Some(user) = target.name.user() else { return false };
        let named = |entry: &String| entry.as_bytes() == user;
        let admitted =
            |entry: &String| entry == "anyone" || entry.starts_with("group:") || named(entry);
        user != b"anonymous"
            && !self.except.iter().any(|entry| entry == "anyone" || named(entry))
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
