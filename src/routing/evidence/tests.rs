//! The router on a lagging, torn or missing list, with a master to ask.

use std::collections::HashMap;

use super::*;
use crate::address::{Release, Rules};
use crate::model::backend::Backends;
use crate::model::domains::Domains;
use crate::model::doubt::Doubt;
use crate::model::record::{AnonymousRights, State};
use crate::routing::inquiry::MAX_ROUNDS;
use crate::routing::route::{Cause, Decision, Refusal, Route};
use crate::routing::router::{Router, Verdict};

#[derive(Clone, Default)]
struct FakeList {
    records: HashMap<&'static str, Record>,
    torn: Option<&'static str>,
    generation: Option<KeyGeneration>,
    new: Option<&'static str>,
}

impl FakeList {
    fn of(records: &[(&'static str, Record)]) -> Self {
        Self { records: records.iter().cloned().collect(), ..Self::default() }
    }
}

impl MailboxList for FakeList {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        let name = std::str::from_utf8(name.as_bytes()).unwrap();
        match (self.torn, self.records.get(name)) {
            (Some(why), _) => Lookup::Unsure(why.into()),
            (None, Some(record)) => Lookup::Present(record.clone()),
            (None, None) => Lookup::Absent,
        }
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.generation
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let recent = self.new.is_some_and(|new| name.as_bytes() == new.as_bytes());
        (self.lookup(name), recent)
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        for (name, record) in &self.records {
            if name.as_bytes().starts_with(prefix)
                && visit(&MailboxName::new(*name).unwrap(), record).is_break()
            {
                break;
            }
        }
        self.torn.map_or(Ok(()), |why| Err(why.into()))
    }
}

fn on(state: State, server: &str) -> Record {
    Record {
        state,
        server: Some(server.into()),
        partition: "default".into(),
        anonymous: AnonymousRights::default(),
    }
}

fn active(server: &str) -> Record {
    on(State::Active, server)
}

fn router() -> Router {
    Router {
        domains: Domains::new(["example.org"]).unwrap(),
        rules: Rules::defaults(Release::V3_6),
        older: Vec::new(),
        backends: Backends::default(),
    }
}

/// A master with these mailboxes; `None`: it does not answer.
type Master<'a> = Option<&'a FakeList>;

/// Decides with a master to ask. Returns the route, and the names that the master was asked
/// for.
fn decide(
    router: &Router,
    list: &FakeList,
    master: Master<'_>,
    recipient: &str,
) -> (Route, Vec<String>) {
    decide_from(Evidence::ASK_THE_MASTER.ask_again(), router, list, master, recipient)
}

fn decide_from(
    mut findings: Evidence,
    router: &Router,
    list: &FakeList,
    master: Master<'_>,
    recipient: &str,
) -> (Route, Vec<String>) {
    let mut asked = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let verdict = router.route(recipient.as_bytes(), &findings.over(list), &findings, None);
        let name = match verdict {
            Verdict::Final(route) => return (route, asked),
            Verdict::Confirm(name) | Verdict::AskAgain(name) => name,
            Verdict::Wait => panic!("nothing to wait for"),
        };
        asked.push(name.to_string());
        let finding = match master.map(|master| master.lookup(&name)) {
            Some(Lookup::Present(record)) => Finding::Found(record),
            Some(_) => Finding::Absent,
            None => Finding::Unsure("no master".into()),
        };
        findings.learn(name, Confirmation::Master(finding));
    }
    panic!("{recipient}: the master was asked for {asked:?}")
}

fn server(route: &Route) -> Option<&str> {
    match route.decision {
        Decision::Deliver(_) => route.server.as_deref(),
        _ => None,
    }
}

#[test]
fn account_lost_in_a_resync_is_still_routed() {
    let list = FakeList::of(&[("user.anna", active("be1"))]);
    let master = FakeList::of(&[("user.anna", active("be1")), ("user.anna-lena", active("be2"))]);
    let (route, asked) = decide(&router(), &list, Some(&master), "anna-lena@example.org");
    assert_eq!((server(&route), asked), (Some("be2"), vec!["user.anna-lena".to_owned()]));
    // An existing recipient is not asked for.
    let (route, asked) = decide(&router(), &list, None, "anna@example.org");
    assert_eq!((server(&route), asked.len()), (Some("be1"), 0));
}

#[test]
fn silent_master_makes_no_recipient_unknown() {
    let (route, _) = decide(&router(), &FakeList::default(), None, "nobody@example.org");
    assert_eq!(route.decision, Decision::Deferred(Cause::Mailbox));
    assert!(route.reason.contains("no master"), "{}", route.reason);
    let empty = FakeList::default();
    let (route, _) = decide(&router(), &empty, Some(&empty), "nobody@example.org");
    assert_eq!(route.decision, Decision::Unknown);
}

#[test]
fn emptied_master_is_not_believed_beside_a_doubted_list() {
    let list = FakeList { torn: Some("has lost half of its names"), ..FakeList::default() };
    let (route, asked) = decide(&router(), &list, Some(&FakeList::default()), "jane@example.org");
    assert_eq!(route.decision, Decision::Deferred(Cause::List));
    assert_eq!((&*route.reason, asked.len()), ("has lost half of its names", 1));
    // Mail to mailboxes that the master has is delivered.
    let master = FakeList::of(&[("user.jane", active("be1"))]);
    let (route, _) = decide(&router(), &list, Some(&master), "jane@example.org");
    assert_eq!(server(&route), Some("be1"));
}

#[test]
fn slave_makes_no_recipient_unknown_on_a_torn_list() {
    let list = FakeList { torn: Some("torn"), ..FakeList::default() };
    let mut findings = Evidence::ASK_THE_MASTER;
    findings.learn(MailboxName::new("user.jane").unwrap(), Confirmation::Lists(Ok(())));
    let verdict = router().route(b"jane@example.org", &findings.over(&list), &findings, None);
    let Verdict::Final(route) = verdict else { panic!("{verdict:?}") };
    assert_eq!(route.decision, Decision::Deferred(Cause::List));
}

#[test]
fn reserved_in_a_lagging_list_is_delivered_by_the_master() {
    let list = FakeList::of(&[
        ("user.jane", on(State::Reserved, "be1")),
        ("user.carol", on(State::Moving, "be1")),
        ("user.gone", on(State::Reserved, "be1")),
    ]);
    let master =
        FakeList::of(&[("user.jane", active("be2")), ("user.carol", on(State::Reserved, "be1"))]);
    let told = |recipient: &str, master: Master<'_>| decide(&router(), &list, master, recipient).0;
    assert_eq!(server(&told("jane@example.org", Some(&master))), Some("be2"));
    let deferred = Decision::Deferred(Cause::Mailbox);
    assert_eq!(told("carol@example.org", Some(&master)).decision, deferred);
    assert_eq!(told("gone@example.org", Some(&master)).decision, Decision::Unknown);
    for recipient in ["jane@example.org", "carol@example.org", "gone@example.org"] {
        assert_eq!(told(recipient, None).decision, deferred, "{recipient}");
    }
}

#[test]
fn every_miss_behind_unknown_is_confirmed() {
    let mut router = router();
    router.rules.virtdomains = true;
    router.rules.defaultdomain = Some("Example.org".into());
    router.rules.catchall = Some("anybody".into());
    router.older = vec![Rules::defaults(Release::V2_5), Rules::defaults(Release::V2_4)];
    let list = FakeList { generation: Some(KeyGeneration::Internal), ..FakeList::default() };
    let empty = FakeList::default();
    let (route, asked) = decide(&router, &list, Some(&empty), "Jane.Doe@example.org");
    assert_eq!(route.decision, Decision::Unknown);
    // The message goes to whichever of the names the master has.
    for name in &asked {
        let name: &'static str = name.clone().leak();
        let master = FakeList::of(&[(name, active("be3"))]);
        let (route, _) = decide(&router, &list, Some(&master), "Jane.Doe@example.org");
        assert_eq!(server(&route), Some("be3"), "{name}");
    }
    let has = |name: &str| asked.iter().any(|asked| asked == name);
    assert!(has("user.jane^doe") && has("user.jane.doe") && has("user.anybody"), "{asked:?}");
    assert!(has("example.org!user.jane^doe"), "{asked:?}");
}

#[test]
fn new_right_to_post_is_not_refused_by_a_lagging_list() {
    let seen = Record { anonymous: AnonymousRights { lookup: true, post: false }, ..active("be1") };
    let open = Record { anonymous: AnonymousRights { lookup: true, post: true }, ..active("be1") };
    let list = FakeList::of(&[("board", seen)]);
    let master = FakeList::of(&[("board", open)]);
    let (route, _) = decide(&router(), &list, Some(&master), "+board@example.org");
    assert_eq!(server(&route), Some("be1"));
    let (route, _) = decide(&router(), &list, Some(&list), "+board@example.org");
    assert_eq!(route.decision, Decision::Refused(Refusal::NoPost));
    let (route, _) = decide(&router(), &list, None, "+board@example.org");
    assert_eq!(route.decision, Decision::Deferred(Cause::Mailbox));
}

#[test]
fn similar_shared_folder_is_searched_with_the_master() {
    let mut router = router();
    router.rules.fuzzy = true;
    let post = Record { anonymous: AnonymousRights { lookup: true, post: true }, ..active("be1") };
    let list = FakeList::of(&[("Info-Desk", post.clone())]);
    let (route, _) = decide(&router, &list, Some(&list), "+info_desk@example.org");
    assert_eq!(server(&route), Some("be1"));
    // Without a list to walk, as with the source `find`, it is unknown whether there is one.
    let none = FakeList { torn: Some("nothing to walk"), ..FakeList::default() };
    let (route, _) = decide(&router, &none, Some(&list), "+info_desk@example.org");
    assert_eq!(route.decision, Decision::Deferred(Cause::List));
}

#[test]
fn release_of_the_murder_is_learnt_from_the_master() {
    let mut router = router();
    router.older = vec![Rules::defaults(Release::V2_5)];
    let list = FakeList::default();
    let mut findings = Evidence::ASK_THE_MASTER;
    findings.learn(MailboxName::new("user.nobody").unwrap(), Confirmation::Master(Finding::Absent));
    let decide = |findings: &Evidence| {
        router.route(b"nobody@example.org", &findings.over(&list), findings, None)
    };
    let Verdict::Final(route) = decide(&findings) else { panic!("open") };
    assert_eq!(route.decision, Decision::Deferred(Cause::List));
    findings.learn_generation(Some(KeyGeneration::Separated));
    let Verdict::Final(route) = decide(&findings) else { panic!("open") };
    assert_eq!(route.decision, Decision::Unknown);
}

#[test]
fn recently_moved_mailbox_is_confirmed_by_the_master() {
    let mut list = FakeList::of(&[("user.jane", active("be1")), ("user.max", active("be1"))]);
    list.new = Some("user.jane");
    let master = FakeList::of(&[("user.jane", active("be2")), ("user.max", active("be2"))]);
    let (route, asked) = decide(&router(), &list, Some(&master), "jane@example.org");
    assert_eq!((server(&route), &asked[..]), (Some("be2"), &["user.jane".to_owned()][..]));
    let (route, asked) = decide(&router(), &list, Some(&master), "max@example.org");
    assert_eq!((server(&route), asked.len()), (Some("be1"), 0), "no other name is asked for");
    let reserved = FakeList::of(&[("user.jane", on(State::Reserved, "be1"))]);
    let (route, _) = decide(&router(), &list, Some(&reserved), "jane@example.org");
    assert_eq!(route.decision, Decision::Deferred(Cause::Mailbox));
    let (route, _) = decide(&router(), &list, Some(&FakeList::default()), "jane@example.org");
    assert_eq!(route.decision, Decision::Unknown);
}

#[test]
fn similar_folder_is_known_with_the_list_alone() {
    let mut router = router();
    router.rules.fuzzy = true;
    let mut folder = active("be2");
    folder.anonymous.post = true;
    let list = FakeList::of(&[("News.Press Room", folder)]);
    let mut findings = Evidence::LISTS_ALONE;
    let decide = |findings: &Evidence, recipient: &str| {
        router.route(recipient.as_bytes(), &findings.over(&list), findings, None)
    };
    for learnt in [false, true] {
        if learnt {
            let name = MailboxName::new("nothing").unwrap();
            findings.learn(name, Confirmation::Lists(Err("records of other servers".into())));
        }
        let found = decide(&findings, "+news/press_room@example.org");
        assert!(
            matches!(&found, Verdict::Final(route) if server(route) == Some("be2")),
            "{found:?}"
        );
    }
    let missed = decide(&findings, "+other@example.org");
    let Verdict::Final(route) = missed else { panic!("{missed:?}") };
    assert_eq!(route.decision, Decision::Deferred(Cause::Mailbox));
    // If the slave may know of a folder of the exact name, it is asked first.
    let asked = decide(&Evidence::ASK_THE_SLAVE, "+news/press_room@example.org");
    assert!(matches!(asked, Verdict::Confirm(_)), "{asked:?}");
}

#[test]
fn revoked_right_is_confirmed_by_the_slave_without_a_master() {
    let mut list = FakeList::of(&[("board", on(State::Active, "be1"))]);
    list.new = Some("board");
    let mut findings = Evidence::ASK_THE_MASTER.ask_again();
    let verdict = |findings: &Evidence| {
        router().route(b"+board@example.org", &findings.over(&list), findings, None)
    };
    let board = || MailboxName::new("board").unwrap();
    assert_eq!(verdict(&findings), Verdict::AskAgain(board()));
    findings.learn_again(board(), Confirmation::Master(Finding::Unsure("no mechanism".into())));
    // A missing answer is neither a confirmation nor a doubt.
    assert_eq!(verdict(&findings), Verdict::Confirm(board()));
    for (said, decision) in [
        (Confirmation::Lists(Ok(())), Decision::Unknown),
        (Confirmation::Master(Finding::Unsure("hung".into())), Decision::Deferred(Cause::Mailbox)),
        (Confirmation::Lists(Err("no slave".into())), Decision::Deferred(Cause::Mailbox)),
    ] {
        let mut findings = findings.clone();
        findings.learn(board(), said);
        let Verdict::Final(route) = verdict(&findings) else { panic!("{:?}", verdict(&findings)) };
        assert_eq!(route.decision, decision);
    }
}

#[test]
fn recently_moved_mailbox_is_delivered_without_the_master() {
    let mut list = FakeList::of(&[("user.jane", active("be1"))]);
    list.new = Some("user.jane");
    let (route, asked) = decide(&router(), &list, None, "jane@example.org");
    assert_eq!((server(&route), asked.len()), (Some("be1"), 1));
    // Without a master that can be asked soon, or at all.
    for findings in [
        Evidence::ASK_THE_MASTER,
        Evidence::ASK_THE_SLAVE.ask_again(),
        Evidence::NOBODY_TO_ASK.ask_again(),
    ] {
        let verdict = router().route(b"jane@example.org", &findings.over(&list), &findings, None);
        assert!(matches!(&verdict, Verdict::Final(route) if server(route) == Some("be1")));
    }
}

#[test]
fn delivery_asks_the_master_for_unchanged_records_too() {
    let list = FakeList::of(&[("user.jane", active("be1"))]);
    let now = |master: Master<'_>, recipient| {
        let findings = Evidence::ASK_THE_MASTER.ask_for_all();
        decide_from(findings, &router(), &list, master, recipient)
    };
    for (record, expected) in [
        (active("be2"), Some("be2")),
        (on(State::Reserved, "be1"), None),
        (active("be1"), Some("be1")),
    ] {
        let master = FakeList::of(&[("user.jane", record)]);
        let (route, asked) = now(Some(&master), "jane@example.org");
        assert_eq!((server(&route), asked), (expected, vec!["user.jane".to_owned()]));
    }
    // Without an answer the list's record is used. A foreign recipient is not asked for.
    assert_eq!(server(&now(None, "jane@example.org").0), Some("be1"));
    assert_eq!(now(None, "jane@elsewhere.test").1.len(), 0);
}
