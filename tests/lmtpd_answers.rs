//! Our router against the answers of the real lmtpd of each Cyrus release to a table of recipients: with
//! the mailboxes of the table in a list, and in a replica filled by a master.
//!
//! `tests/data/recipients/README.md` describes the files and the origin of the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use murder_route::address::Release;
use murder_route::cyrusdb::value;
use murder_route::imapd_conf::ImapdConf;
use murder_route::model::backend::Backends;
use murder_route::model::domains::Domains;
use murder_route::model::doubt::Doubt;
use murder_route::model::list::{Lookup, MailboxList};
use murder_route::model::name::{KeyGeneration, MailboxName};
use murder_route::model::record::{Record, State};
use murder_route::mupdate::wire::{Input, MAX_LINE};
use murder_route::mupdate::{Banner, Event, Role, Session, Stream, Timings};
use murder_route::replica::store::{ReplicaList, ReplicaWriter};
use murder_route::replica::{ACCEPT_AFTER, FullSync, SyncContext};
use murder_route::routing::evidence::MissTrust;
use murder_route::routing::route::{Decision, Refusal};
use murder_route::routing::router::{Router, Verdict};

/// The release as named in differences.txt, its rules, and its answers. 3.10.2 and 3.12.4 give the answers
/// of 3.6.1.
const ANSWERS: [(&str, Release, &str); 5] = [
    ("2.4", Release::V2_4, include_str!("data/recipients/answers-2.4.22.txt")),
    ("2.5", Release::V2_5, include_str!("data/recipients/answers-2.5.17.txt")),
    ("3.2", Release::V3_0, include_str!("data/recipients/answers-3.2.6.txt")),
    ("3.4", Release::V3_0, include_str!("data/recipients/answers-3.4.9.txt")),
    ("3.6", Release::V3_6, include_str!("data/recipients/answers-3.6.1.txt")),
];
const DIFFERENCES: &str = include_str!("data/recipients/differences.txt");
const MAILBOXES: &str = include_str!("data/recipients/mailboxes.txt");
const RECIPIENTS: &str = include_str!("data/recipients/recipients.txt");
const VARIANTS: &str = include_str!("data/recipients/variants.txt");

/// Release, variant, recipient, and the classes of lmtpd's answer and of ours.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str);

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.is_empty() && *line != "#" && !line.starts_with("# "))
}

/// A router for each variant, from its imapd.conf by the rules of a release and, if they find nothing in a
/// list with keys of up to 3.4, by those of older releases.
fn variants(release: Release, older: &[Release]) -> BTreeMap<&'static str, Router> {
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = "";
    for line in lines(VARIANTS) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => {
                texts.insert(name, "configdirectory: /var/lib/cyrus\n".into());
                current = name;
            }
            None => *texts.get_mut(current).unwrap() += &format!("{line}\n"),
        }
    }
    let router = |text: String| {
        let mut read = |_: &Path| Ok(text.clone().into_bytes());
        let (conf, _) = ImapdConf::parse(Path::new("imapd.conf"), &mut read).unwrap();
        let options = conf.options().unwrap();
        Router {
            domains: Domains::new(["*"]).unwrap(),
            rules: options.rules(release),
            older: older.iter().map(|release| options.rules(*release)).collect(),
            backends: Backends::default(),
        }
    };
    texts.into_iter().map(|(name, text)| (name, router(text))).collect()
}

/// The mailboxes of the table, in memory, under keys of 3.6 and later or of up to 3.4.
struct Table(BTreeMap<&'static str, Record>, KeyGeneration);

impl Table {
    fn read() -> Self {
        let record = |line: &'static str| {
            let [name, server, partition, codes, acl] = line.split('\t').collect::<Vec<_>>()[..]
            else {
                panic!("not five columns: {line}");
            };
            let acl = if acl == "-" { "" } else { acl };
            let value = format!("%(T {codes} P {partition} S {server} A %({acl}))");
            (name, value::parse(value.as_bytes()).unwrap())
        };
        Self(lines(MAILBOXES).map(record).collect(), KeyGeneration::Separated)
    }
}

impl MailboxList for Table {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        match self.0.get(std::str::from_utf8(name.as_bytes()).unwrap()) {
            Some(record) => Lookup::Present(record.clone()),
            None => Lookup::Absent,
        }
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        Some(self.1)
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        for (name, record) in &self.0 {
            let is_below = name.as_bytes().starts_with(prefix);
            if is_below && visit(&MailboxName::new(*name).unwrap(), record).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The master's list of these mailboxes. It has no tombstones and no names without a mailbox, and a mailbox
/// that is being moved is reserved (Cyrus `imap/imapd.c:do_xfer`, `imap/mboxlist.c:mboxlist_allmbox`).
fn update() -> String {
    let mut told = String::new();
    for (name, record) in Table::read().0 {
        let word = match record.state {
            State::Active => "MAILBOX",
            State::Reserved | State::Moving => "RESERVE",
            State::Deleted | State::Intermediate => continue,
        };
        let location = format!("{}!{}", record.server.unwrap(), record.partition);
        let rights = [(record.anonymous.lookup, "l"), (record.anonymous.post, "p")];
        let rights: String =
            rights.iter().filter(|(has, _)| *has).map(|(_, right)| *right).collect();
        let acl = if rights.is_empty() { String::new() } else { format!("anyone\t{rights}\t") };
        write!(
            told,
            "U1 {word} {{{}+}}\r\n{name} {{{}+}}\r\n{location}",
            name.len(),
            location.len()
        )
        .unwrap();
        if word == "MAILBOX" {
            write!(told, " {{{}+}}\r\n{acl}", acl.len()).unwrap();
        }
        told += "\r\n";
    }
    told + "U1 OK \"streaming starts\"\r\n"
}

/// The replica filled from it.
fn replica(dir: &Path) -> ReplicaList {
    let banner = Banner {
        server: "mu.example.org".into(),
        implementation: "Cyrus IMAP".into(),
        release: "3.6.1".into(),
        role: Role::Master,
        mechanisms: Vec::new(),
        starttls: false,
        compress: false,
    };
    let session = Session::new(banner, "PLAIN", true, Input::new(MAX_LINE));
    let mut stream = Stream::new(session, Timings::default(), Duration::ZERO);
    stream.receive(update().as_bytes(), Duration::ZERO);
    let mut place = ReplicaWriter::open(dir).unwrap();
    let mut change = place.begin().unwrap();
    let mut listing = FullSync::begin(&change).unwrap();
    while let Some(event) = stream.next().unwrap() {
        if let Event::Record(name, record) = event {
            listing.record(&mut change, &name, &record, SystemTime::UNIX_EPOCH).unwrap();
        }
    }
    let now = SystemTime::now();
    let (master, release, passed) = ("mu.example.org", "3.6.1", Duration::ZERO);
    listing
        .finish(&mut change, &SyncContext { master, release, now, passed }, ACCEPT_AFTER)
        .unwrap();
    change.commit().unwrap();
    place.list()
}

/// The class of our answer; an invalid address is `unknown`.
fn ours(router: &Router, list: &dyn MailboxList, key: &str) -> &'static str {
    match router.route(key.as_bytes(), list, &MissTrust::Believed, None) {
        Verdict::Final(route) => match route.decision {
            Decision::Deliver(_) => "deliver",
            Decision::Deferred(_) => "temporary",
            Decision::Refused(Refusal::NoPost) => "refused",
            Decision::Refused(_) | Decision::Unknown | Decision::Foreign => "unknown",
        },
        open => panic!("{key}: {open:?}"),
    }
}

/// Whether a release matches the name in differences.txt: `3.6`, its family `3`, or any, `*`.
fn is_of(name: &str, named: &str) -> bool {
    name == named || named == "*" || name.split('.').next() == Some(named)
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

fn cases(list: &dyn MailboxList) -> Vec<Case> {
    ANSWERS
        .into_iter()
        .flat_map(|(name, release, answers)| cases_of(list, name, release, answers))
        .collect()
}

fn cases_of(
    list: &dyn MailboxList,
    name: &'static str,
    release: Release,
    answers: &'static str,
) -> Vec<Case> {
    cases_by(list, name, &variants(release, &[]), answers)
}

fn cases_by(
    list: &dyn MailboxList,
    name: &'static str,
    variants: &BTreeMap<&'static str, Router>,
    answers: &'static str,
) -> Vec<Case> {
    lines(answers)
        // An address without a domain is in none of our domains, and no mail server asks about one.
        .filter(|line| line.split('\t').nth(1).is_some_and(|recipient| recipient.contains('@')))
        .map(|line| {
            let [variant, key, reply] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not three columns: {line}");
            };
            (name, variant, key, theirs(reply), ours(&variants[variant], list, key))
        })
        .collect()
}

#[test]
fn no_recipient_that_lmtpd_delivers_to_is_refused() {
    for (release, variant, key, lmtpd, ours) in cases(&Table::read()) {
        let safe = match lmtpd {
            "deliver" | "temporary" => matches!(ours, "deliver" | "temporary"),
            _ => true,
        };
        assert!(safe, "{release}, {variant}: {key}: {lmtpd}, ours {ours}");
    }
}

#[test]
fn unconfigured_release_refuses_no_recipient_of_older_ones() {
    let older = [Release::V3_0, Release::V2_5, Release::V2_4];
    let variants = variants(Release::V3_6, &older);
    let list = Table(Table::read().0, KeyGeneration::Internal);
    for (name, release, answers) in ANSWERS {
        if !older.contains(&release) {
            continue;
        }
        for (_, variant, key, lmtpd, ours) in cases_by(&list, name, &variants, answers) {
            let refused = lmtpd == "deliver" && !matches!(ours, "deliver" | "temporary");
            assert!(!refused, "{name}, {variant}: {key}: {lmtpd}, ours {ours}");
        }
    }
}

#[test]
fn our_rules_differ_from_lmtpd_only_where_it_is_documented() {
    let documented: BTreeSet<Case> = lines(DIFFERENCES)
        .filter(|line| line.split('\t').nth(2).is_some_and(|recipient| recipient.contains('@')))
        .flat_map(|line| {
            let [release, variant, key, lmtpd, ours, _why] =
                line.split('\t').collect::<Vec<_>>()[..]
            else {
                panic!("not six columns: {line}");
            };
            let meant = ANSWERS.iter().filter(move |(name, ..)| is_of(name, release));
            meant.map(move |(name, ..)| (*name, variant, key, lmtpd, ours))
        })
        .collect();
    let mut seen = BTreeSet::new();
    let mut surprises = Vec::new();
    for (release, variant, key, lmtpd, ours) in
        cases(&Table::read()).into_iter().filter(|case| case.3 != case.4)
    {
        let wanted = [variant, "*"].map(|variant| (release, variant, key, lmtpd, ours));
        match wanted.iter().find(|case| documented.contains(case)) {
            Some(difference) => _ = seen.insert(*difference),
            None => surprises.push(format!("{release}\t{variant}\t{key}\t{lmtpd}\t{ours}")),
        }
    }
    assert!(surprises.is_empty(), "not documented:\n{}", surprises.join("\n"));
    let stale: Vec<_> = documented.difference(&seen).collect();
    assert!(stale.is_empty(), "documented, but no difference: {stale:?}");
}

#[test]
fn a_replica_gives_the_answers_of_the_list_it_replicates() {
    let dir = tempfile::tempdir().unwrap();
    let of_replica = cases(&replica(dir.path()));
    let of_list = cases(&Table::read());
    assert_eq!(of_replica.len(), of_list.len());
    for (replicated, listed) in of_replica.iter().zip(&of_list) {
        assert_eq!(replicated, listed);
    }
}

#[test]
fn every_recipient_was_asked_under_every_variant() {
    for (name, release, answers) in ANSWERS {
        let asked: BTreeSet<(&str, &str)> = lines(answers)
            .filter_map(|line| {
                let mut columns = line.split('\t');
                Some((columns.next()?, columns.next()?))
            })
            .collect();
        let variants = variants(release, &[]);
        for variant in variants.keys() {
            for recipient in lines(RECIPIENTS) {
                assert!(asked.contains(&(*variant, recipient)), "{name}, {variant}: {recipient}");
            }
        }
        assert_eq!(asked.len(), variants.len() * lines(RECIPIENTS).count());
    }
}
