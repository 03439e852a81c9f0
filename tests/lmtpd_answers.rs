//! What the real lmtpd of Cyrus 3.6.1 answered to a table of recipients, against our rules.
//!
//! `tests/data/recipients/README.md` says how the files are written and the answers were got.

use murder_route::address::{Fuzzy, Kind, NoTarget, Recipient, Release, Rules, Target};
use murder_route::mailbox::MailboxName;
use std::collections::{BTreeMap, BTreeSet};

const ANSWERS: &str = include_str!("data/recipients/answers-3.6.1.txt");
const DIFFERENCES: &str = include_str!("data/recipients/differences.txt");
const MAILBOXES: &str = include_str!("data/recipients/mailboxes.txt");
const RECIPIENTS: &str = include_str!("data/recipients/recipients.txt");
const VARIANTS: &str = include_str!("data/recipients/variants.txt");

/// Variant, recipient, and the classes of lmtpd's answer and of ours.
type Case = (&'static str, &'static str, &'static str, &'static str);

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.is_empty() && *line != "#" && !line.starts_with("# "))
}

fn variants() -> BTreeMap<&'static str, Rules> {
    let mut variants = BTreeMap::new();
    let mut current = "";
    for line in lines(VARIANTS) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            variants.insert(name, Rules::defaults(Release::V3_6));
            current = name;
            continue;
        }
        let rules = variants.get_mut(current).unwrap();
        let (option, value) = line.split_once(": ").unwrap();
        let on = value == "on";
        match option {
            "virtdomains" => rules.virtdomains = value != "off",
            "defaultdomain" => rules.defaultdomain = Some(value.to_owned()),
            "unixhierarchysep" => rules.unixhierarchysep = on,
            "postuser" => rules.postuser = value.to_owned(),
            "lmtp_downcase_rcpt" => rules.downcase = on,
            "lmtp_strict_rfc2821" => rules.strict = on,
            "lmtp_catchall_mailbox" => rules.catchall = Some(value.to_owned()),
            "lmtp_fuzzy_mailbox_match" => rules.fuzzy = on,
            other => panic!("unknown option {other} in variants.txt"),
        }
    }
    variants
}

struct Row {
    letters: &'static str,
    lookup: bool,
    post: bool,
}

fn mailboxes() -> BTreeMap<&'static str, Row> {
    let rights = |acl: &str, id: &str| {
        let mut words = acl.split(' ');
        std::iter::from_fn(|| Some((words.next()?, words.next()?)))
            .filter(|(who, _)| *who == id)
            .map(|(_, rights)| rights.to_owned())
            .collect::<String>()
    };
    lines(MAILBOXES)
        .map(|line| {
            let [name, _, _, letters, acl] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not five columns: {line}");
            };
            let given = rights(acl, "anyone") + &rights(acl, "anonymous");
            let taken = rights(acl, "-anyone");
            let has = |right| given.contains(right) && !taken.contains(right);
            (name, Row { letters, lookup: has('l'), post: has('p') })
        })
        .collect()
}

/// `deliver`, `unknown`, `refused` or `temporary`, as a router would say of one mailbox.
fn look_up(list: &BTreeMap<&str, Row>, kind: Kind, name: &MailboxName) -> &'static str {
    let Some(row) = list.get(std::str::from_utf8(name.as_bytes()).unwrap()) else {
        return "unknown";
    };
    match row.letters {
        letters if letters.contains(['z', 'm']) => "temporary",
        letters if letters.contains(['d', 'i']) => "unknown",
        _ if kind == Kind::Inbox || row.post => "deliver",
        _ if row.lookup => "refused",
        _ => "unknown",
    }
}

fn is_there(row: &Row) -> bool {
    !row.letters.contains(['d', 'i'])
}

fn find(rules: &Rules, list: &BTreeMap<&str, Row>, target: &Target) -> &'static str {
    let exists = |name: &MailboxName| {
        list.get(std::str::from_utf8(name.as_bytes()).unwrap()).is_some_and(is_there)
    };
    for name in target.names() {
        if exists(name) {
            return look_up(list, target.kind, name);
        }
    }
    let Some(mut fuzzy) = Fuzzy::new(rules, target) else { return "unknown" };
    for name in list.iter().filter(|(_, row)| is_there(row)).map(|(name, _)| *name) {
        if name.as_bytes().starts_with(fuzzy.prefix()) {
            fuzzy.offer(&MailboxName::new(name).unwrap());
        }
    }
    fuzzy.best().map_or("unknown", |name| look_up(list, target.kind, &name))
}

fn ours(rules: &Rules, list: &BTreeMap<&str, Row>, key: &str) -> &'static str {
    let Ok(recipient) = Recipient::parse(key.as_bytes()) else { return "unknown" };
    let found = match rules.target(&recipient) {
        Ok(target) => find(rules, list, &target),
        Err(NoTarget::Refused(_)) => return "unknown",
        Err(NoTarget::Doubtful(_)) => return "temporary",
        Err(NoTarget::Nobody(_)) => "unknown",
    };
    match (found, rules.catchall_target()) {
        ("unknown" | "refused", Some(target)) => find(rules, list, &target),
        (found, _) => found,
    }
}

fn theirs(reply: &str) -> &'static str {
    match reply {
        "250 2.1.5" => "deliver",
        "550 5.1.1" | "501 5.5.4" => "unknown",
        "550 5.7.1" => "refused",
        "451 4.2.1" => "temporary",
        other => panic!("reply {other:?} is not expected"),
    }
}

fn cases() -> Vec<Case> {
    let variants = variants();
    let list = mailboxes();
    lines(ANSWERS)
        .map(|line| {
            let [variant, key, reply] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not three columns: {line}");
            };
            (variant, key, theirs(reply), ours(&variants[variant], &list, key))
        })
        .collect()
}

#[test]
fn nobody_to_whom_lmtpd_delivers_is_refused() {
    for (variant, key, lmtpd, ours) in cases() {
        let safe = match lmtpd {
            "deliver" | "temporary" => matches!(ours, "deliver" | "temporary"),
            _ => true,
        };
        assert!(safe, "{variant}: {key}: {lmtpd}, ours {ours}");
    }
}

#[test]
fn our_rules_differ_from_lmtpd_only_where_it_is_documented() {
    let documented: BTreeSet<Case> = lines(DIFFERENCES)
        .map(|line| {
            let [variant, key, lmtpd, ours, _why] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not five columns: {line}");
            };
            (variant, key, lmtpd, ours)
        })
        .collect();
    let mut seen = BTreeSet::new();
    let mut surprises = Vec::new();
    for (variant, key, lmtpd, ours) in cases().into_iter().filter(|case| case.2 != case.3) {
        let wanted = [variant, "*"].map(|variant| (variant, key, lmtpd, ours));
        match wanted.iter().find(|case| documented.contains(case)) {
            Some(difference) => _ = seen.insert(*difference),
            None => surprises.push(format!("{variant}\t{key}\t{lmtpd}\t{ours}")),
        }
    }
    assert!(surprises.is_empty(), "not documented:\n{}", surprises.join("\n"));
    let stale: Vec<_> = documented.difference(&seen).collect();
    assert!(stale.is_empty(), "documented, but no difference: {stale:?}");
}

#[test]
fn every_recipient_was_asked_under_every_variant() {
    let asked: BTreeSet<(&str, &str)> = lines(ANSWERS)
        .filter_map(|line| {
            let mut columns = line.split('\t');
            Some((columns.next()?, columns.next()?))
        })
        .collect();
    for variant in variants().keys() {
        for recipient in lines(RECIPIENTS) {
            assert!(asked.contains(&(*variant, recipient)), "{variant}: {recipient}");
        }
    }
    assert_eq!(asked.len(), variants().len() * lines(RECIPIENTS).count());
}
