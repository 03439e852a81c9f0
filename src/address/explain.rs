//! Explanation of the conversion of a recipient to a mailbox name, for `lookup --explain`.

use super::recipient::Recipient;
use super::release::Release;
use super::rules::{DomainInName, Rules};
use super::target::{NoTarget, TargetKind};

use crate::model::shown::ShownBytes;

impl Rules {
    /// Explains, one sentence per step, the rules that produced the mailbox name and their effect.
    /// Only rules that affect this recipient are named, each by its option in `imapd.conf`.
    pub fn explain(&self, recipient: &Recipient<'_>) -> Vec<String> {
        let target = self.target(recipient);
        let mut steps = vec![format!("the recipient is {recipient}")];
        if !matches!(target, Err(NoTarget::Refused(_) | NoTarget::Doubtful(_))) {
            self.explain_domain(recipient, &mut steps);
            self.explain_local(recipient, &mut steps);
        }
        match target {
            Ok(target) => {
                match target.kind {
                    TargetKind::Inbox => {
                        steps.push(format!("the INBOX to look up is {}", target.name))
                    }
                    TargetKind::Shared => {
                        steps.push(format!("the shared folder to look up is {}", target.name));
                    }
                }
                steps.extend(
                    target.others.iter().map(|name| format!("and if it is not there, {name}")),
                );
            }
            Err(why) => {
                steps.push(why.to_string());
                steps.push(match why {
                    NoTarget::Refused(_) => {
                        "so it is refused, whether or not the mailbox exists".to_owned()
                    }
                    NoTarget::Nobody(_) => "so it is for no mailbox".to_owned(),
                    NoTarget::Doubtful(_) => "so the answer is temporary".to_owned(),
                });
            }
        }
        if let (Some(catchall), false) = (self.catchall_target(), self.refuses(recipient)) {
            steps.push(format!("lmtp_catchall_mailbox: if there is none, {}", catchall.name));
        }
        steps
    }

    fn refuses(&self, recipient: &Recipient<'_>) -> bool {
        matches!(self.target(recipient), Err(NoTarget::Refused(_) | NoTarget::Doubtful(_)))
    }

    fn explain_domain(&self, recipient: &Recipient<'_>, steps: &mut Vec<String>) {
        let Some(domain) = recipient.domain().map(ShownBytes) else {
            steps.push("it has no domain".to_owned());
            return;
        };
        steps.push(match self.domain_in_name(recipient) {
            Ok(DomainInName { lmtpd: Some(domain), .. }) => {
                format!("virtdomains: names of this domain begin with {}!", ShownBytes(domain))
            }
            _ if !self.virtdomains => "virtdomains is off: the domain does not matter".to_owned(),
            _ => format!("{domain} is the defaultdomain: its names have no domain"),
        });
    }

    fn explain_local(&self, recipient: &Recipient<'_>, steps: &mut Vec<String>) {
        let user = recipient.user();
        if self.downcase && user.iter().any(u8::is_ascii_uppercase) {
            let folded = user.to_ascii_lowercase();
            steps.push(format!("lmtp_downcase_rcpt: {} is {}", show(user), show(&folded)));
        }
        let shared = self.target(recipient).is_ok_and(|target| target.kind == TargetKind::Shared);
        match recipient.detail() {
            Some(_) if shared && self.postuser.is_empty() => {
                steps
                    .push("nothing before the `+`: a shared folder (postuser is empty)".to_owned());
            }
            Some(_) if shared => {
                steps.push(format!("postuser is {}: a shared folder", self.postuser));
            }
            Some(detail) => {
                steps.push(format!("the detail {} does not matter for the way", show(detail)));
            }
            None => {}
        }
        let separated = if shared { recipient.local() } else { user };
        if separated.contains(&b'.') || separated.contains(&b'/') {
            steps.push(self.separator_sentence(shared).to_owned());
        }
    }

    fn separator_sentence(&self, shared: bool) -> &'static str {
        match (self.release, self.unixhierarchysep, shared) {
            (Release::V2_4 | Release::V2_5, false, _) => {
                "unixhierarchysep is off: a dot separates folders"
            }
            (Release::V2_4 | Release::V2_5, true, _) | (_, true, true) => {
                "unixhierarchysep: `/` separates folders, a dot is written ^"
            }
            (_, false, true) => "unixhierarchysep is off: a dot separates folders",
            (_, _, false) => "a dot in a user is written ^",
        }
    }
}

fn show(text: &[u8]) -> String {
    format!("`{}`", ShownBytes(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(rules: &Rules, key: &str) -> Vec<String> {
        rules.explain(&Recipient::parse(key.as_bytes()).unwrap())
    }

    #[test]
    fn steps_name_the_options_with_an_effect() {
        let rules = Rules {
            virtdomains: true,
            defaultdomain: Some("example.org".to_owned()),
            ..Rules::defaults(Release::V3_6)
        };
        assert_eq!(
            explain(&rules, "Jane.Doe+Work@Example.org"),
            [
                "the recipient is Jane.Doe+Work@example.org",
                "example.org is the defaultdomain: its names have no domain",
                "lmtp_downcase_rcpt: `Jane.Doe` is `jane.doe`",
                "the detail `Work` does not matter for the way",
                "a dot in a user is written ^",
                "the INBOX to look up is user.jane^doe",
            ]
        );
        assert_eq!(
            explain(&rules, "+news/comp@x.org"),
            [
                "the recipient is +news/comp@x.org",
                "virtdomains: names of this domain begin with x.org!",
                "nothing before the `+`: a shared folder (postuser is empty)",
                "unixhierarchysep: `/` separates folders, a dot is written ^",
                "the shared folder to look up is x.org!news.comp",
            ]
        );
        let rules = Rules { catchall: Some("lost".to_owned()), ..rules };
        assert_eq!(
            explain(&rules, "\"jane doe\"@x.org").last().unwrap(),
            "lmtp_catchall_mailbox: if there is none, user.lost"
        );
        assert_eq!(
            explain(&rules, "jane@x_y.org").last().unwrap(),
            "so it is refused, whether or not the mailbox exists"
        );
    }
}
