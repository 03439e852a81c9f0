//! Differences between the mailbox list of this host and the master's.

use std::collections::{BTreeMap, HashMap};

use super::Finding;
use crate::model::name::MailboxName;
use crate::model::record::{Record, State};

/// Maximum number of differing names that are checked again. More differences have another cause than
/// changes during the reading.
pub const MAX_RECHECKED: usize = 1000;

/// Maximum number of names reported for each kind of difference.
const MAX_NAMED: usize = 10;

/// Kind of difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Only the master has the name.
    MissingHere,
    /// Only the list has the name.
    MissingThere,
    /// The backends differ.
    OtherServer,
    /// A mailbox in one, only reserved in the other.
    OtherState,
}

impl Difference {
    fn describe(self) -> &'static str {
        match self {
            Difference::MissingHere => "the master has, our list does not",
            Difference::MissingThere => "our list has, the master does not",
            Difference::OtherServer => "are on another backend by the master",
            Difference::OtherState => "are mailboxes in one list and reserved in the other",
        }
    }

    fn mend(self) -> &'static str {
        match self {
            Difference::MissingHere | Difference::OtherServer => {
                "check that the list is kept up to date from this master: by the daemon for a replica, \
                 by Cyrus' mupdate for the list of a frontend (its restart reads the whole list)"
            }
            Difference::MissingThere => {
                "run ctl_mboxlist -m on their backend, which reports them to the master; until then the \
                 master does not know them"
            }
            Difference::OtherState => {
                "a lasting reservation is left over from a failed create or move; read the log of the \
                 backend"
            }
        }
    }
}

/// The compared parts of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListedName {
    /// Number of its server. `None`: a mailbox of this host, whatever the master calls this host.
    server: Option<u32>,
    active: bool,
}

/// The difference between two records. Tombstones and names without a mailbox count as absent; a record
/// without a server is one of this host, and matches any server.
pub fn difference(here: Option<&Record>, there: Option<&Record>) -> Option<Difference> {
    let is_there = |record: &&Record| record.state.exists();
    let server = |record: &Record| record.server.as_deref().map(str::to_ascii_lowercase);
    let active = |record: &Record| record.state == State::Active;
    match (here.filter(is_there), there.filter(is_there)) {
        (None, None) => None,
        (None, Some(_)) => Some(Difference::MissingHere),
        (Some(_), None) => Some(Difference::MissingThere),
        (Some(here), Some(there)) if active(here) != active(there) => Some(Difference::OtherState),
        (Some(here), Some(there)) => {
            let both = server(here).zip(server(there));
            both.is_some_and(|(here, there)| here != there).then_some(Difference::OtherServer)
        }
    }
}

/// Whether it is the INBOX of a user whose name is no dot-atom (RFC 5321 §4.1.2). `^` stands for a dot
/// in the user name.
fn needs_quotes(name: &MailboxName) -> bool {
    let user = name.without_domain().strip_prefix(b"user.").filter(|user| !user.contains(&b'.'));
    let atext = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?_`{|}~".contains(b);
    let atom = |part: &[u8]| !part.is_empty() && part.iter().all(atext);
    user.is_some_and(|user| user.is_ascii() && !user.split(|b| *b == b'^').all(atom))
}

/// Whether it is the INBOX of a user whose name has non-ASCII characters.
fn is_beyond_ascii(name: &MailboxName) -> bool {
    let user = name.without_domain().strip_prefix(b"user.").filter(|user| !user.contains(&b'.'));
    user.is_some_and(|user| !user.is_ascii())
}

/// The first few names as text. `None` if there are none.
fn first_of<'a>(names: impl IntoIterator<Item = &'a MailboxName>) -> Option<String> {
    // Its text form is escaped.
    let mut names = names.into_iter().map(ToString::to_string);
    let first: Vec<String> = names.by_ref().take(MAX_NAMED).collect();
    let dots = if names.next().is_some() { ", …" } else { "" };
    (!first.is_empty()).then(|| format!("{}{dots}", first.join(", ")))
}

/// The list of this host, compared with the master's name by name.
#[derive(Debug, Default)]
pub struct Comparison {
    here: HashMap<MailboxName, ListedName>,
    servers: HashMap<String, u32>,
    /// Number of mailboxes of each server.
    backends: BTreeMap<Option<String>, u64>,
    differ: Vec<MailboxName>,
    more: u64,
    quoted: Vec<MailboxName>,
    beyond_ascii: Vec<MailboxName>,
    /// An INBOX of each server.
    inboxes: BTreeMap<Option<String>, MailboxName>,
}

impl Comparison {
    /// Adds a record of the list.
    ///
    /// Holds each name in memory: some 100 bytes each.
    pub fn here(&mut self, name: &MailboxName, record: &Record) {
        if !record.state.exists() {
            return;
        }
        if record.state == State::Active {
            let count = self.backends.entry(record.server.clone()).or_default();
            *count = count.saturating_add(1);
            let is_inbox = |name: &MailboxName| {
                let user = name.without_domain().strip_prefix(b"user.");
                user.is_some_and(|user| !user.contains(&b'.'))
            };
            if !self.inboxes.contains_key(&record.server) && is_inbox(name) && !needs_quotes(name) {
                self.inboxes.insert(record.server.clone(), name.clone());
            }
        }
        if self.quoted.len() <= MAX_NAMED && needs_quotes(name) {
            self.quoted.push(name.clone());
        }
        if self.beyond_ascii.len() <= MAX_NAMED && is_beyond_ascii(name) {
            self.beyond_ascii.push(name.clone());
        }
        let entry = self.entry(record);
        self.here.insert(name.clone(), entry);
    }

    /// Warns of users whose names have characters that addresses cannot have.
    pub fn beyond_ascii(&self, place: &str) -> Option<Finding> {
        let first = first_of(&self.beyond_ascii)?;
        let what = format!(
            "the names of {first} have non-ASCII characters, which lmtpd accepts in no address \
             (lmtp_strict_rfc2821); messages for them are refused (5.1.3)"
        );
        Some(Finding::warning("list/names", place, what).mend("give them ASCII names or aliases"))
    }

    /// Warns of users whose addresses mail servers quote.
    pub fn quoted(&self, place: &str) -> Option<Finding> {
        let first = first_of(&self.quoted)?;
        let what = format!(
            "mail servers quote the addresses of {first}; lmtpd 3.0 and later does not find quoted \
             addresses; their messages wait and bounce"
        );
        let mend =
            "rename these users: no dot at the beginning or the end, no two in a row, no spaces";
        Some(Finding::warning("list/quotes", place, what).mend(mend))
    }

    fn entry(&mut self, record: &Record) -> ListedName {
        let server = record.server.as_ref().map(|server| {
            let next = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
            *self.servers.entry(server.to_ascii_lowercase()).or_insert(next)
        });
        ListedName { server, active: record.state == State::Active }
    }

    /// The servers of the mailboxes in the list, with the number of mailboxes. `None`: this host.
    pub fn backends(&self) -> &BTreeMap<Option<String>, u64> {
        &self.backends
    }

    /// The INBOX of one user of each server, if there is one.
    pub fn inboxes(&self) -> impl Iterator<Item = &MailboxName> {
        self.inboxes.values()
    }

    /// Number of names in the list.
    pub fn names(&self) -> usize {
        self.here.len()
    }

    /// Whether the list has mailboxes of this host only, as on a backend.
    pub fn is_a_backends(&self) -> bool {
        !self.here.is_empty() && self.here.values().all(|entry| entry.server.is_none())
    }

    /// Whether the list has the name, and the master has not reported it yet.
    pub fn has(&self, name: &MailboxName) -> bool {
        self.here.contains_key(name)
    }

    /// Adds a record of the master's list, after all records of [`here`](Self::here).
    pub fn there(&mut self, name: MailboxName, record: &Record) {
        let entry = self.entry(record);
        let same = self.here.remove(&name).is_some_and(|here| {
            let servers = here.server.is_none() || here.server == entry.server;
            here.active == entry.active && servers
        });
        if !same {
            self.differs(name);
        }
    }

    fn differs(&mut self, name: MailboxName) {
        if self.differ.len() < MAX_RECHECKED {
            self.differ.push(name);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// The names to check again, and the number of those beyond [`MAX_RECHECKED`]. Called after the last
    /// record of the master.
    pub fn differing(mut self) -> Differing {
        let mut rest: Vec<MailboxName> = std::mem::take(&mut self.here).into_keys().collect();
        rest.sort_unstable();
        for name in rest {
            self.differs(name);
        }
        self.differ.sort_unstable();
        Differing { names: self.differ, more: self.more }
    }
}

/// Names that may differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Differing {
    /// The names.
    pub names: Vec<MailboxName>,
    /// Number of further names.
    pub more: u64,
}

/// Findings for the names that still differ when checked again.
pub fn findings(
    place: &str,
    differences: &[(MailboxName, Difference)],
    more: u64,
    names: usize,
) -> Vec<Finding> {
    const CHECK: &str = "list/comparison";
    let mut kinds: BTreeMap<Difference, Vec<&MailboxName>> = BTreeMap::new();
    for (name, difference) in differences {
        kinds.entry(*difference).or_default().push(name);
    }
    let mut findings: Vec<Finding> = kinds
        .into_iter()
        .map(|(kind, names)| {
            let at_least = if more > 0 { "at least " } else { "" };
            let (count, first) = (names.len(), first_of(names).unwrap_or_default());
            let plural = if count == 1 { "name" } else { "names" };
            let what = format!("{at_least}{count} {plural} {}: {first}", kind.describe());
            Finding::error(CHECK, place, what).mend(kind.mend())
        })
        .collect();
    if more > 0 {
        let what = format!(
            "{more} more names differed when the lists were read, and were not checked again"
        );
        findings.push(Finding::error(CHECK, place, what).mend("correct the others first"));
    }
    if findings.is_empty() {
        let what = format!(
            "the list equals the master's ({names} names), after a second check of differing names"
        );
        findings.push(Finding::ok(CHECK, place, what));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::judge::Severity;
    use crate::model::record::AnonymousRights;

    fn name(text: &str) -> MailboxName {
        MailboxName::new(text).unwrap()
    }

    fn record(state: State, server: Option<&str>) -> Record {
        Record {
            state,
            server: server.map(str::to_owned),
            partition: "default".into(),
            anonymous: AnonymousRights::default(),
        }
    }

    fn on(server: &str) -> Record {
        record(State::Active, Some(server))
    }

    #[test]
    fn differences_are_classified() {
        use Difference::*;
        let reserved = record(State::Reserved, Some("be1"));
        let moving = record(State::Moving, Some("be1"));
        let gone = record(State::Deleted, None);
        let local = record(State::Active, None);
        for (here, there, expected) in [
            (None, None, None),
            (Some(&gone), None, None),
            (Some(&on("be1")), Some(&on("BE1")), None),
            (Some(&local), Some(&on("be1")), None),
            (Some(&moving), Some(&reserved), None),
            (None, Some(&on("be1")), Some(MissingHere)),
            (Some(&gone), Some(&reserved), Some(MissingHere)),
            (Some(&on("be1")), None, Some(MissingThere)),
            (Some(&on("be1")), Some(&on("be2")), Some(OtherServer)),
            (Some(&on("be1")), Some(&reserved), Some(OtherState)),
        ] {
            assert_eq!(difference(here, there), expected, "{here:?} {there:?}");
        }
    }

    #[test]
    fn only_names_that_differ_are_looked_at_again() {
        let mut lists = Comparison::default();
        for (text, record) in [
            ("user.same", on("be1")),
            ("user.moved", on("be1")),
            ("user.extra", on("be2")),
            ("user.local", record(State::Active, None)),
            ("user.gone", record(State::Deleted, None)),
            ("user.reserved", record(State::Reserved, Some("be1"))),
        ] {
            lists.here(&name(text), &record);
        }
        let backends: Vec<_> = lists.backends().iter().map(|(s, n)| (s.as_deref(), *n)).collect();
        assert_eq!(backends, [(None, 1), (Some("be1"), 2), (Some("be2"), 1)]);
        assert!(!lists.is_a_backends());
        for (text, record) in [
            ("user.same", on("BE1")),
            ("user.moved", on("be2")),
            ("user.lacking", on("be1")),
            ("user.local", on("fe1")),
            ("user.reserved", record(State::Reserved, Some("be1"))),
        ] {
            lists.there(name(text), &record);
        }
        let differing = lists.differing();
        let names: Vec<_> = ["user.extra", "user.lacking", "user.moved"].map(name).into();
        assert_eq!(differing, Differing { names, more: 0 });
    }

    /// On a backend the mailboxes of other backends would be missing.
    #[test]
    fn list_of_this_host_alone_differs_from_that_of_a_murder() {
        let mut lists = Comparison::default();
        assert!(!lists.is_a_backends(), "an empty list proves nothing");
        lists.here(&name("user.jane"), &record(State::Active, None));
        assert!(lists.is_a_backends());
        assert!(lists.has(&name("user.jane")) && !lists.has(&name("user.max")));
        lists.here(&name("user.max"), &on("be1"));
        lists.here(&name("user.gone"), &record(State::Deleted, None));
        assert!(!lists.is_a_backends() && !lists.has(&name("user.gone")));
        assert_eq!(lists.names(), 2);
        lists.here(&name("user.max.Sent"), &on("be2"));
        lists.here(&name("user.nora"), &on("be2"));
        let inboxes: Vec<_> = lists.inboxes().map(ToString::to_string).collect();
        assert_eq!(inboxes, ["user.jane", "user.max", "user.nora"]);
        lists.there(name("user.jane"), &on("be2"));
        assert!(!lists.has(&name("user.jane")), "the master has reported it");
    }

    #[test]
    fn users_unknown_to_backends_in_quotes_are_named() {
        let mut lists = Comparison::default();
        for fine in ["user.jane", "user.jane^doe", "x.org!user.o'brien", "user.jane..x", "a b"] {
            lists.here(&name(fine), &on("be1"));
        }
        assert_eq!(lists.quoted("list"), None);
        assert_eq!(lists.beyond_ascii("list"), None);
        lists.here(&name("user.müller"), &on("be1"));
        lists.here(&name("user.müller.Sent"), &on("be1"));
        let what = lists.beyond_ascii("list").unwrap().what;
        assert!(what.starts_with(r"the names of user.m\xc3\xbcller have non-ASCII"), "{what}");
        assert_eq!(lists.quoted("list"), None);
        for quoted in ["user.^jane", "x.org!user.jane^", "user.a^^b", "user.jane doe"] {
            lists.here(&name(quoted), &on("be1"));
            lists.here(&name(&format!("{quoted}.folder")), &on("be1"));
        }
        let what = lists.quoted("list").unwrap().what;
        let all = "of user.^jane, x.org!user.jane^, user.a^^b, user.jane doe; lmtpd";
        assert!(what.contains(all), "{what}");
        (0..MAX_NAMED).for_each(|n| lists.here(&name(&format!("user.^{n}")), &on("be1")));
        assert!(lists.quoted("list").unwrap().what.contains("user.^5, …"), "{what}");
    }

    #[test]
    fn list_that_differs_entirely_is_not_checked_name_by_name() {
        let mut lists = Comparison::default();
        for n in 0..MAX_RECHECKED + 7 {
            lists.there(name(&format!("user.u{n}")), &on("be1"));
        }
        let differing = lists.differing();
        assert_eq!((differing.names.len(), differing.more), (MAX_RECHECKED, 7));
        let all: Vec<_> =
            differing.names.into_iter().map(|name| (name, Difference::MissingHere)).collect();
        let found = findings("list", &all, 7, 1007);
        assert_eq!(found.len(), 2);
        assert!(found[0].what.starts_with("at least 1000 names the master has"), "{found:?}");
        assert!(found[0].what.ends_with(", …"));
        assert!(found.iter().all(|finding| finding.severity == Severity::Error));
        assert_eq!(findings("list", &[], 0, 5)[0].severity, Severity::Ok);
        let one = findings("list", &all[..1], 0, 5);
        assert_eq!(one.len(), 1);
        assert!(one[0].what.starts_with("1 name the master has"), "{one:?}");
    }
}
