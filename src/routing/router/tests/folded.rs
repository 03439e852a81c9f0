//! Recipients in lower case whose original spelling is unknown.

use crate::model::doubt::Doubt;
use proptest::prelude::*;

use super::*;

/// Believes all misses; the recipient may have been folded.
struct Folded {
    lists_alone: bool,
}

impl NameTrust for Folded {
    fn of(&self, _name: &MailboxName) -> MissTrust<'_> {
        MissTrust::Believed
    }

    fn is_lists_alone(&self) -> bool {
        self.lists_alone
    }

    fn in_any_case(&self) -> bool {
        true
    }
}

fn decided(router: &Router, list: &FakeList, recipient: &str, belief: &dyn NameTrust) -> Route {
    match router.route(recipient.as_bytes(), list, belief, None) {
        Verdict::Final(route) => route,
        open => panic!("{recipient}: {open:?}"),
    }
}

fn folded(router: &Router, list: &FakeList, recipient: &str) -> &'static str {
    decided(router, list, recipient, &Folded { lists_alone: false }).decision.as_str()
}

#[test]
fn postuser_ignores_case_where_users_are_case_sensitive() {
    let list = || {
        FakeList::default()
            .with("News", shared(true, true))
            .with("closed", shared(true, false))
            .with("x.org!Board.Minutes", shared(true, true))
            .with("user.Bb", record(State::Active, Some("be1")))
            .with("user.jane", record(State::Active, Some("be1")))
    };
    let site = |release, postuser: &str| Rules {
        virtdomains: true,
        defaultdomain: Some("example.org".into()),
        unixhierarchysep: true,
        postuser: postuser.into(),
        downcase: false,
        ..Rules::defaults(release)
    };
    let with = |rules: Rules| Router {
        domains: Domains::new(["example.org", "x.org"]).unwrap(),
        rules,
        ..router()
    };
    for release in [Release::V2_4, Release::V2_5, Release::V3_0, Release::V3_6, Release::V3_13] {
        let rules = site(release, "BB");
        let off = with(Rules { virtdomains: false, ..rules.clone() });
        let sensitive = with(rules.clone());
        // With lmtp_downcase_rcpt no user equals a postuser with capitals.
        let insensitive = with(Rules { downcase: true, ..rules.clone() });
        let plain = with(site(release, "bb"));
        let caught = with(Rules { catchall: Some("jane".into()), ..rules });
        for (router, recipient, expected) in [
            (&sensitive, "bb+news@example.org", "deliver"),
            (&sensitive, "bb+board/minutes@x.org", "deliver"),
            (&sensitive, "bb+nobody@x.org", "unknown"),
            (&sensitive, "bbb+news@example.org", "unknown"),
            (&sensitive, "bb@example.org", "deliver"),
            (&off, "bb+news@x.org", "deliver"),
            (&off, "bb+board@x.org", "deliver"),
            (&insensitive, "bb+board/minutes@x.org", "unknown"),
            (&insensitive, "bb+news@example.org", "unknown"),
            // Here the user's name has the capitals.
            (&plain, "bb@example.org", "deliver"),
            (&plain, "bb+closed@example.org", "deliver"),
            (&plain, "bb+closed@x.org", "unknown"),
            (&caught, "bb+nobody@x.org", "deliver"),
        ] {
            let said = folded(router, &list(), recipient);
            assert_eq!(said, expected, "{release:?} {}: {recipient}", router.rules.postuser);
        }
        // The original spelling is not guessed at.
        for (recipient, expected) in
            [("bb+board/minutes@x.org", "unknown"), ("BB+News@example.org", "deliver")]
        {
            let said = decided(&sensitive, &list(), recipient, &MissTrust::Believed);
            assert_eq!(said.decision.as_str(), expected, "{release:?}: {recipient}");
        }
        // The list is of an older release, and the rules are today's.
        let older = Router {
            older: vec![site(release, "BB")],
            ..with(Rules { downcase: true, ..site(Release::V3_6, "BB") })
        };
        let old = FakeList { generation: Some(KeyGeneration::Internal), ..list() };
        assert_eq!(folded(&older, &old, "bb+board/minutes@x.org"), "deliver", "{release:?}");
        let new = FakeList { generation: Some(KeyGeneration::Separated), ..list() };
        assert_eq!(folded(&older, &new, "bb+board/minutes@x.org"), "unknown", "{release:?}");
    }
}

#[test]
fn unconfirmed_name_before_folding_is_deferred() {
    let rules = Rules { postuser: "BB".into(), downcase: false, ..router().rules };
    let router = Router { rules, ..router() };
    struct Doubted(&'static [u8], Doubt);
    impl NameTrust for Doubted {
        fn of(&self, name: &MailboxName) -> MissTrust<'_> {
            if name.as_bytes() == self.0 {
                MissTrust::Doubted(&self.1)
            } else {
                MissTrust::Believed
            }
        }
        fn in_any_case(&self) -> bool {
            true
        }
    }
    for name in [&b"user.bb"[..], b"news"] {
        let said = decided(&router, &list(), "bb+news@example.org", &Doubted(name, "away".into()));
        assert_eq!(said.decision, Decision::Deferred(Cause::Mailbox), "{}", name.escape_ascii());
    }
    let unread = FakeList { trouble: Some(Lookup::Unsure("torn".into())), ..list() };
    let said = decided(&router, &unread, "bb+news@example.org", &Doubted(b"", "away".into()));
    assert_eq!(said.decision, Decision::Deferred(Cause::List));
}

/// A text with some of its letters in capitals.
fn in_some_case(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    (prop::sample::select(texts), any::<u64>(), 0..3_u8).prop_map(|(text, mask, how)| {
        let capital = |nth: usize| match how {
            0 => false,
            1 => mask >> (nth % 64) & 1 == 1,
            _ => nth == 0,
        };
        let spelled = text.chars().enumerate();
        spelled.map(|(n, c)| if capital(n) { c.to_ascii_uppercase() } else { c }).collect()
    })
}

const USERS: &[&str] = &["", "", "jane", "bb", "j.d", "b/b", "b.b", "12", "cyrus"];
const DETAILS: &[&str] = &[
    "",
    "+news",
    "+news/comp",
    "+news.comp",
    "+ne-ws",
    "+user/jane",
    "+user/jane/work",
    "+a&b",
    "+user/max",
    "+user.max",
    "+&aoq-",
    "+ne_ws/co mp",
    "+b/b",
];
const DOMAINS: &[&str] = &["x.org", "example.org"];
const NAMES: &[&str] = &[
    "news",
    "news.comp",
    "news^comp",
    "ne_ws",
    "ne ws.co-mp",
    "a&-b",
    "a&b",
    "&aoq-",
    "b.b",
    "user.max",
    "user^max",
    "user.jane.work",
    "user.jane.wo rk",
];
const INBOXES: &[&str] = &["jane", "bb", "j^d", "j.d", "b/b", "b^b", "12", "cyrus"];

fn any_name() -> impl Strategy<Value = String> {
    let inbox = in_some_case(INBOXES).prop_map(|user| format!("user.{user}"));
    let local = prop_oneof![in_some_case(NAMES), inbox];
    (prop::option::of(in_some_case(DOMAINS)), local).prop_map(|(domain, local)| match domain {
        Some(domain) => format!("{domain}!{local}"),
        None => local,
    })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let release = prop::sample::select(
        &[Release::V2_4, Release::V2_5, Release::V3_0, Release::V3_6, Release::V3_13][..],
    );
    let names = (in_some_case(USERS), prop::option::of(in_some_case(DOMAINS)));
    let users = prop::collection::vec(in_some_case(&["jane", "bb@x.org", "cyrus", "anyone"]), 0..2);
    (release, any::<[bool; 6]>(), names, users).prop_map(
        |(release, on, (postuser, defaultdomain), users)| Rules {
            virtdomains: on[0],
            unixhierarchysep: on[1],
            downcase: on[2],
            fuzzy: on[3],
            autocreate: on[4].then(|| Autocreate { users, except: vec!["cyrus".into()] }),
            catchall: on[5].then(|| "12".into()),
            postuser,
            defaultdomain,
            ..Rules::defaults(release)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// A recipient accepted as typed is not refused after folding.
    #[test]
    fn folding_never_refuses_an_accepted_recipient(
        rules in any_rules(),
        older in prop::collection::vec(any_rules(), 0..2),
        names in prop::collection::vec((any_name(), any::<bool>()), 0..5),
        typed in (in_some_case(USERS), in_some_case(DETAILS), in_some_case(DOMAINS)),
        (lists_alone, post, nearly) in any::<(bool, bool, bool)>(),
        own in prop::option::of(0..4_usize),
    ) {
        let (user, detail, domain) = typed;
        let typed = format!("{user}{detail}@{domain}");
        let router = Router {
            domains: Domains::new(DOMAINS.iter().copied()).unwrap(),
            rules,
            older,
            ..router()
        };
        let recipient = Recipient::parse(typed.as_bytes());
        let targets = |recipient: &Recipient<'_>| {
            let all = std::iter::once(&router.rules).chain(&router.older);
            let targets: Vec<_> = all.filter_map(|rules| rules.target(recipient).ok()).collect();
            targets.iter().flat_map(Target::names).map(ToString::to_string).collect::<Vec<_>>()
        };
        let own = own.and_then(|nth| targets(&recipient.ok()?).get(nth).cloned());
        let own = own.map(|name| (if nearly { name.replace('-', "_") } else { name }, post));
        let generation = Some(KeyGeneration::Internal);
        let list = FakeList { generation, ..FakeList::default() };
        let list = names.iter().chain(&own).fold(list, |list, (name, post)| {
            list.with(name, shared(true, *post))
        });
        let belief = Exact { lists_alone };
        let exactly = decided(&router, &list, &typed, &belief);
        let after = decided(&router, &list, &typed.to_lowercase(), &Folded { lists_alone });
        let lost = matches!(after.decision, Decision::Unknown | Decision::Refused(_));
        let taken = matches!(exactly.decision, Decision::Deliver(_) | Decision::Deferred(_));
        prop_assert!(!(taken && lost), "{typed}: {exactly:?}, folded {after:?}");
    }
}

/// Believes all misses; the recipient is spelled as it was typed.
struct Exact {
    lists_alone: bool,
}

impl NameTrust for Exact {
    fn of(&self, _name: &MailboxName) -> MissTrust<'_> {
        MissTrust::Believed
    }

    fn is_lists_alone(&self) -> bool {
        self.lists_alone
    }
}
