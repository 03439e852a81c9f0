//! The shipped table in `postfix/` that Postfix consults before our map `canonical`. No address that it holds
//! back may need another form, with any imapd.conf and any list.

use std::cell::Cell;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use murder_route::address::{Release, Rules};
use murder_route::model::backend::Backends;
use murder_route::model::domains::Domains;
use murder_route::model::doubt::Doubt;
use murder_route::model::list::{Lookup, MailboxList};
use murder_route::model::name::{KeyGeneration, MailboxName};
use murder_route::model::record::{AnonymousRights, Record, State};
use murder_route::routing::evidence::MissTrust;
use murder_route::routing::maps::{Map, Maps};
use murder_route::routing::route::Decision;
use murder_route::routing::router::{Router, Verdict};
use murder_route::wire::socketmap::Reply;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::string::string_regex;
use proptest::test_runner::TestRunner;
use regex::bytes::Regex;

/// Pattern of the addresses that are held back. The file has no other rule.
static HELD_BACK: LazyLock<Regex> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("postfix/murder-route-canonical");
    let text = fs::read_to_string(path).unwrap();
    let rules: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let [condition, all, "endif"] = rules[..] else { panic!("{rules:?}") };
    assert_eq!(all, "/^(.+)$/   ${1}");
    // Without `i` a table of Postfix ignores case, and a slash ends a pattern.
    let pattern = condition.strip_prefix("if !/").and_then(|rest| rest.strip_suffix("/i")).unwrap();
    // Constructs that POSIX or Postfix read differently than this engine.
    assert!(!pattern.contains("[:") && !pattern.contains('/') && !pattern.contains("(?"));
    Regex::new(&format!("(?-u){pattern}")).unwrap()
});

/// A list with half of all names, a different half for each seed.
struct Half {
    seed: u64,
    generation: Option<KeyGeneration>,
}

impl MailboxList for Half {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        let mut hasher = DefaultHasher::new();
        (self.seed, name.as_bytes()).hash(&mut hasher);
        match hasher.finish() % 2 {
            0 => Lookup::Present(record()),
            _ => Lookup::Absent,
        }
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.generation
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        for folder in [&b"Info"[..], b"News.Other", b"shared"] {
            if let Ok(name) = MailboxName::new([prefix, folder].concat())
                && visit(&name, &record()).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

fn record() -> Record {
    Record {
        state: State::Active,
        server: Some("be1.example.org".to_owned()),
        partition: "default".to_owned(),
        anonymous: AnonymousRights { lookup: true, post: true },
    }
}

fn key() -> impl Strategy<Value = String> {
    let domain = "@(example\\.(org|net)|[eE]xample\\.(ORG|net)|[a-z.-]{1,6}|\\[127\\.0\\.0\\.1\\]|\u{fc}\\.org)";
    let address = |text: String| string_regex(&text).unwrap();
    prop_oneof![
        4 => address(format!("[a-z0-9_-]{{1,6}}(\\.[a-z.]{{1,3}})?(\\+[A-Za-z0-9_.=+-]{{0,6}})?({domain})?")),
        1 => address(format!("[a-zA-Z.+]{{1,8}}{domain}")),
        1 => address(format!("\"[ -~]{{0,8}}\"{domain}")),
        1 => address(format!("[ -~\u{e4}\u{c4}]{{1,12}}{domain}")),
        1 => address("[ -~]{1,20}".to_owned()),
    ]
}

fn domain() -> impl Strategy<Value = Option<String>> {
    // Addresses with capitals are not held back, so most have none.
    let spelled = ["example.org", "example.net", "org", "EXAMPLE.NET"];
    proptest::option::of(select(spelled.map(str::to_owned).to_vec()))
}

prop_compose! {
    fn rules()(
        release in select(vec![Release::V2_4, Release::V2_5, Release::V3_0, Release::V3_6, Release::V3_13]),
        virtdomains: bool,
        defaultdomain in domain(),
        unixhierarchysep: bool,
        postuser in select(vec!["", "post", "Post"]),
        downcase: bool,
        strict: bool,
        catchall_domain in domain(),
        catchall: bool,
        fuzzy: bool,
    ) -> Rules {
        let catchall = catchall.then(|| match catchall_domain {
            Some(domain) => format!("Catch.All@{domain}"),
            None => "Catch.All".to_owned(),
        });
        let postuser = postuser.to_owned();
        Rules {
            release, virtdomains, defaultdomain, unixhierarchysep, postuser, downcase, strict, catchall,
            fuzzy, autocreate: None,
        }
    }
}

/// The map's answer for a key.
fn canonical(router: &Router, list: &Half, key: &str) -> (Decision, Reply) {
    let Verdict::Final(route) = router.route(key.as_bytes(), list, &MissTrust::Believed, None)
    else {
        panic!("{key}: misses are believed")
    };
    let reply = Maps::default().reply(Map::Canonical, router, key, &route);
    (route.decision, reply)
}

#[test]
fn held_back_address_needs_no_other_form() {
    let (held_back, changed) = (Cell::new(0), Cell::new(0));
    let generation =
        select(vec![None, Some(KeyGeneration::Internal), Some(KeyGeneration::Separated)]);
    let cases = (key(), rules(), proptest::option::of(rules()), any::<u64>(), generation);
    // A failing case is printed in its smallest form.
    let config =
        ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let checked = runner.run(&cases, |(key, rules, older, seed, generation)| {
        let router = Router {
            domains: Domains::new(["*"]).unwrap(),
            rules,
            older: older.into_iter().collect(),
            backends: Backends::default(),
        };
        // There postfix-config makes Postfix ask about every recipient.
        if router.respelled_domain().is_some() {
            return Ok(());
        }
        let (decision, reply) = canonical(&router, &Half { seed, generation }, &key);
        if HELD_BACK.is_match(key.as_bytes()) {
            prop_assert!(!matches!(reply, Reply::Ok(_)), "{}: {}", key, reply);
            if let Decision::Deliver(_) = decision {
                prop_assert_eq!(reply, Reply::NotFound);
                held_back.set(held_back.get() + 1);
            }
        } else if let Reply::Ok(_) = reply {
            changed.set(changed.get() + 1);
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    // The test is meaningless without enough of both.
    assert!(held_back.get() > 300 && changed.get() > 300, "{held_back:?} {changed:?}");
}

#[test]
fn only_plain_addresses_are_held_back() {
    for plain in [
        "jane@example.org",
        "max.muster@sub.example.org",
        "o_brien-2+Work.Later@example.org",
        "jane+a=b@example.org",
    ] {
        assert!(HELD_BACK.is_match(plain.as_bytes()), "{plain}");
    }
    for other in [
        "Jane@example.org",
        "jane@Example.org",
        "jane..doe@example.org",
        "jane+a..b@example.org",
        ".jane@example.org",
        "jane.@example.org",
        "\"jane\"@example.org",
        "ja\\ne@example.org",
        "jane doe@example.org",
        "j\u{e4}ne@example.org",
        "jane@\u{fc}.org",
        "@relay:jane@example.org",
        "jane@example.org\n",
    ] {
        assert!(!HELD_BACK.is_match(other.as_bytes()), "{other}");
    }
}

#[test]
fn domain_with_capitals_in_imapd_conf_changes_lower_case() {
    let site = Rules { virtdomains: true, ..Rules::defaults(Release::V3_6) };
    let respelled = Some("Example.org".to_owned());
    let catchall = Some("jane@Example.org".to_owned());
    for rules in [
        Rules { defaultdomain: respelled.clone(), ..site.clone() },
        Rules { catchall, defaultdomain: None, ..site },
    ] {
        let router = Router {
            domains: Domains::new(["*"]).unwrap(),
            rules,
            older: Vec::new(),
            backends: Backends::default(),
        };
        assert_eq!(router.respelled_domain(), respelled);
        let mut spelled = (0..20).map(|seed| {
            let list = Half { seed, generation: Some(KeyGeneration::Separated) };
            canonical(&router, &list, "max@example.org").1
        });
        assert!(spelled.any(|reply| reply == Reply::Ok("max@Example.org".to_owned())));
    }
}
