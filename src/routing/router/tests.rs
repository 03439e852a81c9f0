//! The decision for every state of a list.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::*;
use crate::address::{Autocreate, Release};
use crate::model::backend::{LmtpAddress, ServerOverride};
use crate::model::doubt::Doubt;
use crate::model::record::AnonymousRights;

mod folded;

#[derive(Default)]
struct FakeList {
    records: HashMap<Vec<u8>, Record>,
    /// Result for every name, whatever the records.
    trouble: Option<Lookup>,
    generation: Option<KeyGeneration>,
    /// The INBOX of a blocked user.
    denied: Option<String>,
}

impl FakeList {
    fn with(mut self, name: &str, record: Record) -> Self {
        self.records.insert(name.into(), record);
        self
    }
}

impl MailboxList for FakeList {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        if let Some(trouble) = &self.trouble {
            return trouble.clone();
        }
        match self.records.get(name.as_bytes()) {
            Some(record) => Lookup::Present(record.clone()),
            None => Lookup::Absent,
        }
    }

    fn denies(&self, inbox: &MailboxName) -> bool {
        self.denied.as_ref().is_some_and(|denied| denied.as_bytes() == inbox.as_bytes())
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.generation
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        for (name, record) in &self.records {
            let name = MailboxName::new(name.clone()).unwrap();
            if name.as_bytes().starts_with(prefix) && visit(&name, record).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn record(state: State, server: Option<&str>) -> Record {
    Record {
        state,
        server: server.map(str::to_owned),
        partition: "default".into(),
        anonymous: AnonymousRights::default(),
    }
}

fn shared(lookup: bool, post: bool) -> Record {
    Record { anonymous: AnonymousRights { lookup, post }, ..record(State::Active, Some("be1")) }
}

fn router() -> Router {
    let mut backends = Backends::default();
    backends.set("be9", ServerOverride { drain: true, ..ServerOverride::default() });
    Router {
        domains: Domains::new(["example.org"]).unwrap(),
        rules: Rules::defaults(Release::V3_6),
        older: Vec::new(),
        backends,
    }
}

fn list() -> FakeList {
    FakeList::default()
        .with("user.jane", record(State::Active, Some("be1")))
        .with("user.carol", record(State::Reserved, Some("be1")))
        .with("user.moving", record(State::Moving, Some("be2")))
        .with("user.gone", record(State::Deleted, Some("be1")))
        .with("user.parent", record(State::Intermediate, None))
        .with("user.here", record(State::Active, None))
        .with("user.odd", record(State::Active, Some("be 1")))
        .with("user.drained", record(State::Active, Some("be9")))
        .with("info", shared(true, true))
        .with("board", shared(true, false))
        .with("hidden", shared(false, false))
}

fn route(router: &Router, list: &FakeList, recipient: &str, misses: MissTrust<'_>) -> Verdict {
    router.route(recipient.as_bytes(), list, &misses, None)
}

fn decision(recipient: &str, misses: MissTrust<'_>) -> Decision {
    match route(&router(), &list(), recipient, misses) {
        Verdict::Final(route) => route.decision,
        open => panic!("{recipient}: {open:?}"),
    }
}

#[test]
fn user_created_by_lmtpd_is_not_unknown() {
    let autocreate = Autocreate { users: vec!["anyone".into()], except: vec!["cyrus".into()] };
    let mut router = router();
    router.rules.autocreate = Some(autocreate);
    router.rules.catchall = Some("jane".into());
    let decided = |router: &Router, recipient: &str, misses: MissTrust<'_>| match route(
        router,
        &list(),
        recipient,
        misses,
    ) {
        Verdict::Final(route) => route,
        open => panic!("{recipient}: {open:?}"),
    };
    let deferred = Decision::Deferred(Cause::Mailbox);
    for recipient in ["new@example.org", "gone@example.org", "parent@example.org"] {
        let route = decided(&router, recipient, MissTrust::Believed);
        assert_eq!(route.decision, deferred, "{recipient}");
        assert!(route.reason.contains("[backends]"), "{}", route.reason);
    }
    // lmtpd creates none of these, so the catch-all gets them.
    for recipient in ["cyrus@example.org", "anonymous@example.org", "+news@example.org"] {
        let route = decided(&router, recipient, MissTrust::Believed);
        assert_eq!(route.mailbox.unwrap().to_string(), "user.jane", "{recipient}");
    }
    let elsewhere = ServerOverride { drain: true, ..ServerOverride::default() };
    router.backends.autocreate = Some("be3.example.org".into());
    let route = decided(&router, "new+Work@example.org", MissTrust::Believed);
    assert_eq!(route.server.as_deref(), Some("be3.example.org"));
    let place = LmtpAddress::parse("be3.example.org", 2003).unwrap();
    assert!(matches!(route.decision, Decision::Deliver(backend) if backend.address == place));
    // Not before it is confirmed that the mailbox is on no other server.
    let open = router.route(b"new@example.org", &list(), &MissTrust::Unconfirmed, None);
    assert!(matches!(open, Verdict::Confirm(_)), "{open:?}");
    let route =
        decided(&router, "new@example.org", MissTrust::Doubted(&"the master is away".into()));
    assert_eq!(route.decision, deferred);
    router.backends.set("be3.example.org", elsewhere);
    assert_eq!(decided(&router, "new@example.org", MissTrust::Believed).decision, deferred);
}

#[test]
fn blocked_user_is_deferred_and_shared_folder_is_not() {
    let mut list = list();
    list.denied = Some("user.jane".into());
    let deferred = Decision::Deferred(Cause::Mailbox);
    let decide = |list: &FakeList, recipient: &str| match route(
        &router(),
        list,
        recipient,
        MissTrust::Believed,
    ) {
        Verdict::Final(route) => route.decision,
        open => panic!("{recipient}: {open:?}"),
    };
    assert_eq!(decide(&list, "jane+Work@example.org"), deferred);
    // As a shared folder, which lmtpd does not check.
    list = list.with("user.jane", shared(true, true));
    assert!(matches!(decide(&list, "+user/jane@example.org"), Decision::Deliver(_)));
    list.denied = Some("user.nobody".into());
    assert_eq!(decide(&list, "nobody@example.org"), Decision::Unknown);
}

#[test]
fn each_record_state_has_its_decision() {
    let deferred = Decision::Deferred(Cause::Mailbox);
    let trouble = Decision::Deferred(Cause::List);
    for (recipient, expected) in [
        ("carol@example.org", &deferred),
        ("moving@example.org", &deferred),
        ("gone@example.org", &Decision::Unknown),
        ("parent@example.org", &Decision::Unknown),
        ("nobody@example.org", &Decision::Unknown),
        ("here@example.org", &trouble),
        ("odd@example.org", &trouble),
        ("drained@example.org", &deferred),
        ("+board@example.org", &Decision::Refused(Refusal::NoPost)),
        ("+hidden@example.org", &Decision::Unknown),
        ("jane@elsewhere.example", &Decision::Foreign),
    ] {
        assert_eq!(&decision(recipient, MissTrust::Believed), expected, "{recipient}");
    }
    for recipient in ["jane@example.org", "JANE+x@Example.Org", "+info@example.org"] {
        let delivered = decision(recipient, MissTrust::Believed);
        let Decision::Deliver(backend) = delivered else { panic!("{recipient}: {delivered:?}") };
        assert_eq!(backend.address.to_string(), "inet:be1:2003");
    }
}

#[test]
fn foreign_key_never_reaches_the_list() {
    let broken = FakeList { trouble: Some(Lookup::Unsure("gone".into())), ..FakeList::default() };
    for key in ["*", "", "@example.org", "jane", "jane@", "a\0b@example.org", "x@y@example.net"] {
        let verdict = route(&router(), &broken, key, MissTrust::Unconfirmed);
        let Verdict::Final(route) = verdict else { panic!("{key:?}: {verdict:?}") };
        assert_eq!(route.decision, Decision::Foreign, "{key:?}");
    }
    let verdict = router().route(b"j\xffne@example.org", &broken, &MissTrust::Believed, None);
    assert!(matches!(verdict, Verdict::Final(Route { decision: Decision::Foreign, .. })));
}

#[test]
fn unconfirmed_miss_is_never_unknown() {
    for recipient in ["nobody@example.org", "gone@example.org", "parent@example.org"] {
        let verdict = route(&router(), &list(), recipient, MissTrust::Unconfirmed);
        assert!(matches!(verdict, Verdict::Confirm(_)), "{recipient}: {verdict:?}");
        let doubted = decision(recipient, MissTrust::Doubted(&"no master".into()));
        assert_eq!(doubted, Decision::Deferred(Cause::Mailbox), "{recipient}");
    }
    // An existing mailbox needs no confirmation.
    assert!(matches!(decision("jane@example.org", MissTrust::Unconfirmed), Decision::Deliver(_)));
    assert!(matches!(
        decision("jane@example.org", MissTrust::Doubted(&"x".into())),
        Decision::Deliver(_)
    ));
}

#[test]
fn lagging_list_refuses_no_shared_folder() {
    // The right to post may just have been granted.
    for recipient in ["+board@example.org", "+hidden@example.org"] {
        let verdict = route(&router(), &list(), recipient, MissTrust::Unconfirmed);
        assert!(matches!(verdict, Verdict::Confirm(_)), "{recipient}: {verdict:?}");
        let doubted = decision(recipient, MissTrust::Doubted(&"no master".into()));
        assert_eq!(doubted, Decision::Deferred(Cause::Mailbox), "{recipient}");
    }
    assert!(matches!(decision("+info@example.org", MissTrust::Unconfirmed), Decision::Deliver(_)));
}

#[test]
fn mailbox_under_another_name_needs_no_confirmation() {
    let mut router = router();
    router.rules.virtdomains = true;
    router.rules.defaultdomain = Some("Example.org".into());
    let list = list().with("example.org!user.dora", record(State::Active, Some("be2")));
    for misses in
        [MissTrust::Believed, MissTrust::Unconfirmed, MissTrust::Doubted(&"no master".into())]
    {
        for (recipient, mailbox) in
            [("dora@example.org", "example.org!user.dora"), ("jane@example.org", "user.jane")]
        {
            let verdict = route(&router, &list, recipient, misses);
            let Verdict::Final(route) = verdict else { panic!("{recipient}: {verdict:?}") };
            assert_eq!(route.decision.as_str(), "deliver", "{recipient}");
            assert_eq!(route.mailbox.unwrap().to_string(), mailbox);
        }
    }
    let nobody = route(&router, &list, "nobody@example.org", MissTrust::Unconfirmed);
    assert!(matches!(nobody, Verdict::Confirm(_)));
}

#[test]
fn unreadable_list_makes_no_recipient_unknown() {
    for misses in [MissTrust::Believed, MissTrust::Unconfirmed, MissTrust::Doubted(&"x".into())] {
        let list = FakeList { trouble: Some(Lookup::Unsure("torn".into())), ..list() };
        let verdict = route(&router(), &list, "jane@example.org", misses);
        let Verdict::Final(route) = verdict else { panic!("{verdict:?}") };
        assert_eq!(route.decision, Decision::Deferred(Cause::List));
        assert_eq!(route.reason, "torn");
        let busy = FakeList { trouble: Some(Lookup::Busy), ..FakeList::default() };
        assert_eq!(self::route(&router(), &busy, "jane@example.org", misses), Verdict::Wait);
    }
}

#[test]
fn catch_all_gets_no_message_of_a_possible_mailbox() {
    let mut router = router();
    router.rules.catchall = Some("jane".into());
    let decide = |recipient: &str, misses| match route(&router, &list(), recipient, misses) {
        Verdict::Final(route) => Some((route.decision, route.mailbox)),
        _ => None,
    };
    let (caught, mailbox) = decide("nobody@example.org", MissTrust::Believed).unwrap();
    assert!(matches!(caught, Decision::Deliver(_)));
    assert_eq!(mailbox.unwrap().as_bytes(), b"user.jane");
    assert_eq!(decide("nobody@example.org", MissTrust::Unconfirmed), None);
    // As lmtpd 3.x: the catch-all also gets recipients that take no mail from outside.
    for recipient in ["+board@example.org", "+hidden@example.org"] {
        assert!(matches!(decide(recipient, MissTrust::Believed), Some((Decision::Deliver(_), _))));
    }
    for (recipient, misses) in [
        ("carol@example.org", MissTrust::Believed),
        ("moving@example.org", MissTrust::Believed),
        ("nobody@example.org", MissTrust::Doubted(&"no master".into())),
    ] {
        let (decision, _) = decide(recipient, misses).unwrap();
        assert_eq!(decision, Decision::Deferred(Cause::Mailbox), "{recipient}");
    }
}

#[test]
fn mailbox_of_this_host_goes_to_the_local_backend() {
    let mut router = router();
    router.backends.local = Some(LmtpAddress::parse("unix:/run/cyrus/socket/lmtp", 0).unwrap());
    let verdict = route(&router, &list(), "here@example.org", MissTrust::Believed);
    let Verdict::Final(Route { decision: Decision::Deliver(backend), .. }) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(backend.address.to_string(), "unix:/run/cyrus/socket/lmtp");
}

#[test]
fn explaining_does_not_change_the_decision() {
    let (router, list) = (router(), list());
    for recipient in ["jane@example.org", "nobody@example.org", "carol@example.org", "*"] {
        let mut steps = Vec::new();
        let explained =
            router.route(recipient.as_bytes(), &list, &MissTrust::Believed, Some(&mut steps));
        assert_eq!(explained, route(&router, &list, recipient, MissTrust::Believed));
        assert!(!steps.is_empty(), "{recipient}");
    }
}

#[test]
fn list_of_unknown_release_makes_no_recipient_unknown() {
    let router = Router {
        older: vec![Rules::defaults(Release::V2_5), Rules::defaults(Release::V2_4)],
        ..router()
    };
    let mut list = list().with("user.jane doe", record(State::Active, Some("be1")));
    let decide = |list: &FakeList, recipient: &str| match route(
        &router,
        list,
        recipient,
        MissTrust::Believed,
    ) {
        Verdict::Final(route) => route.decision,
        open => panic!("{recipient}: {open:?}"),
    };
    // The list could not be read when its key generation was requested.
    for recipient in ["nobody@example.org", "\"jane doe\"@example.org", "jüne@example.org"] {
        assert_eq!(decide(&list, recipient), Decision::Deferred(Cause::List), "{recipient}");
    }
    assert!(matches!(decide(&list, "jane@example.org"), Decision::Deliver(_)));
    list.generation = Some(KeyGeneration::Internal);
    assert!(matches!(decide(&list, "\"jane doe\"@example.org"), Decision::Deliver(_)));
    assert_eq!(decide(&list, "nobody@example.org"), Decision::Unknown);
    list.generation = Some(KeyGeneration::Separated);
    assert_eq!(decide(&list, "\"jane doe\"@example.org"), Decision::Unknown);
}

#[test]
fn older_name_is_confirmed_before_the_recipient_is_unknown() {
    // Cyrus 3 can have no mailbox with quotes in its name; 2.5 removes the quotes.
    let router = Router { older: vec![Rules::defaults(Release::V2_5)], ..router() };
    let list = FakeList { generation: Some(KeyGeneration::Internal), ..FakeList::default() };
    let jane = MailboxName::new("user.jane doe").unwrap();
    let verdict = route(&router, &list, "\"jane doe\"@example.org", MissTrust::Unconfirmed);
    assert_eq!(verdict, Verdict::Confirm(jane));
    let doubted =
        route(&router, &list, "\"jane doe\"@example.org", MissTrust::Doubted(&"no master".into()));
    let Verdict::Final(route) = doubted else { panic!("{doubted:?}") };
    assert_eq!(route.decision, Decision::Deferred(Cause::Mailbox));
}

#[test]
fn list_of_3_0_to_3_4_keeps_their_defaultdomain_rule() {
    let site = |release| Rules {
        virtdomains: true,
        defaultdomain: Some("example.org".into()),
        ..Rules::defaults(release)
    };
    let router = Router {
        rules: site(Release::V3_6),
        older: vec![site(Release::V3_0), site(Release::V2_5)],
        ..router()
    };
    // 3.0 to 3.4 compare before they fold, and Cyrus kept mailboxes created like that.
    let list = FakeList { generation: Some(KeyGeneration::Internal), ..FakeList::default() }
        .with("example.org!user.jane", record(State::Active, Some("be2")));
    let verdict = route(&router, &list, "jane@Example.org", MissTrust::Believed);
    let Verdict::Final(found) = verdict else { panic!("{verdict:?}") };
    assert_eq!(found.server.as_deref(), Some("be2"));
    // So that name, too, is confirmed before a recipient is unknown.
    let mut asked = Vec::new();
    let absent = |asked: &[MailboxName], name: &MailboxName| asked.contains(name);
    struct Asked<'a>(&'a [MailboxName], fn(&[MailboxName], &MailboxName) -> bool);
    impl NameTrust for Asked<'_> {
        fn of(&self, name: &MailboxName) -> MissTrust<'_> {
            if (self.1)(self.0, name) { MissTrust::Believed } else { MissTrust::Unconfirmed }
        }
    }
    while let Verdict::Confirm(name) =
        router.route(b"bob@Example.org", &list, &Asked(&asked, absent), None)
    {
        asked.push(name);
    }
    let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["user.bob", "example.org!user.bob"]);
}

#[test]
fn folder_similar_to_an_older_releases_name_is_found() {
    let site = |release| Rules { fuzzy: true, ..Rules::defaults(release) };
    let router = Router {
        rules: site(Release::V3_6),
        older: vec![site(Release::V3_0), site(Release::V2_5), site(Release::V2_4)],
        ..router()
    };
    // Without `unixhierarchysep`, which is off in 2.x and on in 3.x, a dot separates folders.
    let mut list = FakeList { generation: Some(KeyGeneration::Internal), ..FakeList::default() }
        .with("News.Big Event", shared(true, true));
    let decide = |list: &FakeList, recipient: &str| match route(
        &router,
        list,
        recipient,
        MissTrust::Believed,
    ) {
        Verdict::Final(route) => route.mailbox.filter(|_| route.decision != Decision::Unknown),
        open => panic!("{recipient}: {open:?}"),
    };
    let found = decide(&list, "+news.big_event@example.org");
    assert_eq!(found.unwrap().to_string(), "News.Big Event");
    assert_eq!(decide(&list, "+old.big_event@example.org"), None);
    list.generation = Some(KeyGeneration::Separated);
    assert_eq!(decide(&list, "+news.big_event@example.org"), None);
}

#[test]
fn catch_all_gets_invalid_names_and_nothing_lmtpd_refuses() {
    let mut router = router();
    router.rules.catchall = Some("jane".into());
    let decide = |router: &Router, recipient: &str| match route(
        router,
        &list(),
        recipient,
        MissTrust::Believed,
    ) {
        Verdict::Final(route) => route.decision,
        open => panic!("{recipient}: {open:?}"),
    };
    let caught = decide(&router, "\"nobody here\"@example.org");
    assert!(matches!(caught, Decision::Deliver(_)), "{caught:?}");
    assert_eq!(decide(&router, "jüne@example.org"), Decision::Refused(Refusal::Syntax));
    // Before 3.0 a folder without the right to post is refused, and no other user gets to read the
    // message.
    router.rules.release = Release::V2_5;
    let barred = Decision::Refused(Refusal::NoPost);
    assert_eq!(decide(&router, "+board@example.org"), barred);
    assert!(matches!(decide(&router, "nobody@example.org"), Decision::Deliver(_)));
}

#[test]
fn of_two_matching_mailboxes_lmtpds_choice_is_used() {
    let mut router = router();
    router.rules.virtdomains = true;
    router.rules.defaultdomain = Some("Example.org".into());
    let list = list().with("example.org!user.jane", record(State::Active, Some("be2")));
    let verdict = route(&router, &list, "jane@example.org", MissTrust::Believed);
    let Verdict::Final(route) = verdict else { panic!("{verdict:?}") };
    assert_eq!(route.server.as_deref(), Some("be2"));
}

#[test]
fn backend_form_follows_the_rules_that_found_the_mailbox() {
    let router = Router { older: vec![Rules::defaults(Release::V2_4)], ..router() };
    let recipient = Recipient::parse(b"Jane.Doe@example.org").unwrap();
    for (found, release) in [
        ("user.jane^doe", Release::V3_6),
        ("user.Jane.Doe", Release::V2_4),
        ("user.catchall", Release::V3_6),
    ] {
        let found = MailboxName::new(found).unwrap();
        assert_eq!(router.rules_of(&recipient, &found).release, release, "{found}");
    }
}

#[test]
fn undated_list_or_missing_master_delays_no_recipient() {
    struct CanAsk;
    impl NameTrust for CanAsk {
        fn of(&self, _name: &MailboxName) -> MissTrust<'_> {
            MissTrust::Believed
        }

        fn can_ask_again(&self, _name: &MailboxName) -> bool {
            true
        }
    }
    /// A list in which every record changed recently.
    struct New(FakeList);
    impl MailboxList for New {
        fn lookup(&self, name: &MailboxName) -> Lookup {
            self.0.lookup(name)
        }

        fn key_generation(&self) -> Option<KeyGeneration> {
            None
        }

        fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
            (self.0.lookup(name), true)
        }

        fn each(
            &self,
            _prefix: &[u8],
            _visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
        ) -> Result<(), Doubt> {
            Ok(())
        }
    }
    let without_times = router().route(b"jane@example.org", &list(), &CanAsk, None);
    let nobody_to_ask =
        router().route(b"jane@example.org", &New(list()), &MissTrust::Believed, None);
    for verdict in [without_times, nobody_to_ask] {
        let Verdict::Final(route) = verdict else { panic!("{verdict:?}") };
        assert_eq!(route.server.as_deref(), Some("be1"));
    }
}

/// Postfix folds the keys of recipient tables. A mailbox with capitals in its name must still
/// be found, and no other mailbox.
#[test]
fn folded_recipient_finds_names_with_capitals() {
    struct Folded;
    impl NameTrust for Folded {
        fn of(&self, _name: &MailboxName) -> MissTrust<'_> {
            MissTrust::Believed
        }
        fn in_any_case(&self) -> bool {
            true
        }
    }
    let list = list()
        .with("News.Comp", shared(true, true))
        .with("news.closed", shared(true, false))
        .with("News.Closed", shared(true, true))
        .with("NEWS.gone", record(State::Deleted, Some("be1")))
        .with("user.Bob", record(State::Active, Some("be1")))
        .with("User.max", record(State::Active, Some("be1")));
    let sensitive = Router { rules: Rules { downcase: false, ..router().rules }, ..router() };
    let older = Router { older: vec![Rules::defaults(Release::V2_4)], ..router() };
    let decide = |router: &Router, recipient: &str, belief: &dyn NameTrust| {
        let generation = Some(KeyGeneration::Internal);
        let list = FakeList { records: list.records.clone(), generation, ..FakeList::default() };
        match router.route(recipient.as_bytes(), &list, belief, None) {
            Verdict::Final(route) => route.decision.as_str(),
            open => panic!("{recipient}: {open:?}"),
        }
    };
    for (recipient, as_typed, folded, sensitively) in [
        ("+news/comp@example.org", "unknown", "deliver", "deliver"),
        ("+news/closed@example.org", "refused", "deliver", "deliver"),
        ("+news/gone@example.org", "unknown", "unknown", "unknown"),
        ("+news/other@example.org", "unknown", "unknown", "unknown"),
        ("bob@example.org", "unknown", "unknown", "deliver"),
        ("jane@example.org", "deliver", "deliver", "deliver"),
        ("max@example.org", "unknown", "unknown", "unknown"),
    ] {
        let usual = router();
        assert_eq!(decide(&usual, recipient, &MissTrust::Believed), as_typed, "{recipient}");
        assert_eq!(decide(&usual, recipient, &Folded), folded, "{recipient}, folded");
        assert_eq!(decide(&sensitive, recipient, &Folded), sensitively, "{recipient}, sensitive");
        assert_eq!(decide(&older, recipient, &Folded), sensitively, "{recipient}, older");
    }
    for (router, recipient, generation, matters) in [
        (&router(), "jane@example.org", None, false),
        (&router(), "+news@example.org", Some(KeyGeneration::Separated), true),
        (&router(), "+user/jane@example.org", Some(KeyGeneration::Separated), true),
        (&sensitive, "jane@example.org", Some(KeyGeneration::Separated), true),
        (&sensitive, "jane@example.com", Some(KeyGeneration::Separated), false),
        (&older, "jane@example.org", Some(KeyGeneration::Separated), false),
        (&older, "jane@example.org", Some(KeyGeneration::Internal), true),
        (&older, "jane@example.org", None, true),
    ] {
        assert_eq!(router.case_matters(recipient.as_bytes(), generation), matters, "{recipient}");
    }
}

#[test]
fn spellings_without_a_matching_prefix_are_not_tried() {
    let list = FakeList::default().with("Aaaaaaaaaaaaaaaaaaaaaaaaaaaa", shared(true, true));
    let wanted = MailboxName::new("a".repeat(400)).unwrap();
    assert_eq!(any_case::other_cases(&list, &wanted, TargetKind::Shared), Ok(vec![]));
    let wanted = MailboxName::new("a".repeat(28)).unwrap();
    assert_eq!(any_case::other_cases(&list, &wanted, TargetKind::Shared).unwrap().len(), 1);
    let torn = FakeList { trouble: Some(Lookup::Unsure("torn".into())), ..list };
    // An unreadable list makes no recipient unknown.
    assert_eq!(any_case::other_cases(&torn, &wanted, TargetKind::Shared).unwrap().len(), 1);
}
