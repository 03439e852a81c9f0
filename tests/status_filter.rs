//! The shipped delivery status filter in `postfix/`: which refusals of a backend become temporary, and which
//! stay final.

use std::fs;
use std::path::Path;

use regex::Regex;

/// A rule of regexp(5): a pattern without flags, hence case-insensitive, and its result.
struct Rule {
    pattern: Regex,
    result: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| line.starts_with("/^")).collect()
}

fn rules() -> Vec<Rule> {
    let text = read("postfix/murder-route-status");
    let rule = |line: &str| {
        let (pattern, result) = line.strip_prefix('/').unwrap().rsplit_once('/').unwrap();
        // A slash ends a pattern of Postfix, and the others are not POSIX.
        assert!(!pattern.contains('/') && !pattern.contains("(?") && !pattern.contains("\\d"));
        Rule {
            pattern: Regex::new(&format!("(?i){pattern}")).unwrap(),
            result: result.trim().to_owned(),
        }
    };
    lines(&text).into_iter().map(rule).collect()
}

/// The filtered delivery status: the first matching rule decides.
fn filtered(status: &str) -> String {
    let rules = rules();
    let found = rules.iter().find_map(|rule| Some((rule, rule.pattern.captures(status)?)));
    match found {
        None => status.to_owned(),
        Some((rule, captures)) => {
            let mut made = String::new();
            captures.expand(&rule.result, &mut made);
            made
        }
    }
}

const BACKEND: &str = "be1.example.org[192.0.2.1]";

/// In the words of Postfix 3.5 to 3.11.
#[test]
fn refusals_unrelated_to_the_recipient_become_temporary() {
    for (status, said) in [
        (
            "5.1.1",
            "said: 550-Mailbox unknown.  Either … 550 5.1.1 User unknown (in reply to RCPT TO command)",
        ),
        ("5.0.0", "said: 530 Authentication required (in reply to MAIL FROM command)"),
        ("5.7.0", "said: 530 5.7.0 Authentication required (in reply to MAIL FROM command)"),
        ("5.7.0", "said: 530-5.7.0 Log in 530 5.7.0 first (in reply to RCPT TO command)"),
        ("5.7.0", "said: 530 5.7.0 Must issue STARTTLS (in reply to DATA command)"),
        ("5.5.2", "refused to talk to me: 502 5.5.2 Error: command not recognized"),
    ] {
        let filtered = filtered(&format!("{status} host {BACKEND} {said}"));
        let kept = format!("host {BACKEND} {said}");
        assert!(filtered.starts_with("4.") && filtered.ends_with(&kept), "{filtered}");
    }
    let failed =
        "SASL authentication failed; server be1[192.0.2.1] said: 501 5.5.4 undefined error!";
    for status in ["5.5.4", "5.7.8"] {
        assert_eq!(filtered(&format!("{status} {failed}")), format!("4.7.0 {failed}"));
    }
    let socket = "5.7.0 host mx[/run/lmtp] said: 530 No (in reply to MAIL FROM command)";
    assert!(filtered(socket).starts_with("4.7.0 host mx[/run/lmtp]"));
}

#[test]
fn refusals_of_a_recipient_or_a_message_stay_final() {
    for (status, said) in [
        ("5.7.1", "said: 550 5.7.1 Permission denied (in reply to RCPT TO command)"),
        // The text of a Sieve script is under its user's control.
        ("5.7.1", "said: 550 5.7.1 said: 530 MAIL FROM (in reply to end of DATA command)"),
        (
            "5.7.1",
            "said: 550-5.7.1 host x said: 530 a (in reply to MAIL FROM command) 550 5.7.1 b (in reply to end of DATA command)",
        ),
        (
            "5.7.1",
            "said: 550 5.7.1 SASL authentication failed; no (in reply to end of DATA command)",
        ),
        ("5.3.4", "said: 552 5.3.4 Too big (in reply to MAIL FROM command)"),
        ("5.1.10", "said: 550 5.1.10 no mail (in reply to RCPT TO command)"),
        ("5.7.1", "said: 530 5.7.1 no (in reply to end of DATA command)"),
    ] {
        let whole = format!("{status} host {BACKEND} {said}");
        assert_eq!(filtered(&whole), whole);
    }
}

#[test]
fn readme_has_the_same_rules() {
    let (ours, readme) = (read("postfix/murder-route-status"), read("README.md"));
    assert_eq!(lines(&ours), lines(&readme));
}
