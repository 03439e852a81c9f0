//! Names and replies of `lmtpd`, by option and release.

use super::*;

/// Rules of a typical murder: Cyrus 3.6 with two domains.
fn site() -> Rules {
    Rules {
        virtdomains: true,
        defaultdomain: Some("example.org".to_owned()),
        ..Rules::defaults(Release::V3_6)
    }
}

fn target(rules: &Rules, key: &str) -> Result<Target, NoTarget> {
    rules.target(&Recipient::parse(key.as_bytes()).unwrap())
}

/// Returns the reply of `lmtpd`: `user.jane`, `shared news`, `501`, `550` or `451`.
fn lmtpd_reply(rules: &Rules, key: &str) -> String {
    match target(rules, key) {
        Ok(target) => {
            let names: Vec<_> = target.names().map(ToString::to_string).collect();
            let kind = if target.kind == TargetKind::Shared { "shared " } else { "" };
            format!("{kind}{}", names.join(" or "))
        }
        Err(NoTarget::Refused(_)) => "501".to_owned(),
        Err(NoTarget::Nobody(_)) => "550".to_owned(),
        Err(NoTarget::Doubtful(_)) => "451".to_owned(),
    }
}

fn check(rules: &Rules, table: &[(&str, &str, &str)]) {
    for (key, expected, why) in table {
        assert_eq!(lmtpd_reply(rules, key), *expected, "{key}: {why}");
    }
}

#[test]
fn virtual_domain_is_prefixed_to_the_name() {
    let rules = site();
    check(
        &rules,
        &[
            ("jane@example.org", "user.jane", "the defaultdomain has no prefix"),
            ("jane@Example.ORG", "user.jane", "in any case (lmtpd 3.0-3.4 misses it)"),
            ("bob@x.org", "x.org!user.bob", "another domain has one"),
            ("bob@X.org", "x.org!user.bob", "in lower case"),
            ("jane", "user.jane", "no domain is like the defaultdomain"),
            ("jane@x.org.", "x.org.!user.jane", "lmtpd keeps a final dot"),
            ("jane@sub.example.org", "sub.example.org!user.jane", "no parent domains"),
            ("jane@[127.0.0.1]", "[127.0.0.1]!user.jane", "an address literal is a domain"),
            ("jane@", "550", "an empty domain is none"),
            ("jane@x_y.org", "501", "lmtpd: no underscore in a domain"),
            ("jane@[IPv6:::1]", "501", "lmtpd: digits and dots only"),
            ("jane@m\u{fc}ller.de", "xn--mller-kva.de!user.jane", "the list has the A-label"),
            ("jane@a\u{200e}b.de", "451", "no A-label: the domain is doubtful"),
        ],
    );
    let off = Rules { virtdomains: false, ..site() };
    check(
        &off,
        &[
            ("jane@example.org", "user.jane", "off"),
            ("bob@x.org", "user.bob", "every domain is ignored"),
            ("bob@", "user.bob", "even none"),
            ("bob@x_y.org", "501", "but its syntax matters"),
            ("jane@m\u{fc}ller.de", "user.jane", "the A-label would be ignored as well"),
        ],
    );
    let none = Rules { virtdomains: true, ..Rules::defaults(Release::V2_5) };
    check(&none, &[("bob@internal", "internal!user.bob", "2.x has no defaultdomain unless set")]);
    let internal = Rules { virtdomains: true, ..Rules::defaults(Release::V3_0) };
    check(&internal, &[("bob@internal", "user.bob", "3.x: the default is `internal`")]);
}

#[test]
fn defaultdomain_is_found_in_any_case() {
    let spelled = Rules { defaultdomain: Some("Example.org".to_owned()), ..site() };
    check(
        &spelled,
        &[
            ("dora@example.org", "example.org!user.dora or user.dora", "lmtpd 3.x: another domain"),
            ("dora@EXAMPLE.org", "example.org!user.dora or user.dora", "after folding too"),
            ("dora@Example.org", "user.dora", "the same spelling"),
            ("+news@example.org", "shared example.org!news or news", "shared folders as well"),
            (
                "+a&b@example.org",
                "shared example.org!a&-b or example.org!a&b or a&-b or a&b",
                "each in both",
            ),
        ],
    );
    let old = Rules { release: Release::V3_0, ..site() };
    check(
        &old,
        &[
            ("dora@Example.org", "example.org!user.dora or user.dora", "3.0 folds too late"),
            ("dora@example.org", "user.dora", "the same spelling"),
        ],
    );
    let older = Rules { release: Release::V2_5, ..spelled };
    check(&older, &[("dora@EXAMPLE.ORG", "user.dora", "2.x knows that domains have no case")]);
}

#[test]
fn dot_in_user_becomes_caret_or_folder() {
    for release in [Release::V3_0, Release::V3_6] {
        for unixhierarchysep in [false, true] {
            let rules = Rules { unixhierarchysep, ..Rules::defaults(release) };
            check(
                &rules,
                &[
                    ("jane.doe@x", "user.jane^doe", "3.x: in either setting"),
                    ("jane^doe@x", "user.jane^doe", "the same mailbox"),
                    ("jane/doe@x", "user.jane/doe", "a slash is nothing special"),
                    ("jane..doe.@x", "user.jane^^doe^", "every dot counts"),
                ],
            );
        }
    }
    let dots = Rules::defaults(Release::V2_5);
    check(
        &dots,
        &[
            ("jane.doe@x", "user.jane.doe", "2.x, off: the folder doe of jane"),
            ("jane/doe@x", "user.jane/doe", "and no slash is a separator"),
        ],
    );
    let slashes = Rules { unixhierarchysep: true, ..dots };
    check(
        &slashes,
        &[
            ("jane.doe@x", "user.jane^doe", "2.x, on: one component"),
            ("jane/doe@x", "user.jane.doe", "and the slash makes the folder"),
        ],
    );
}

#[test]
fn case_of_user_matters_only_without_downcase() {
    let rules = site();
    check(
        &rules,
        &[
            ("Jane@x.org", "x.org!user.jane", "default since 2.5"),
            ("JANE+Work@example.org", "user.jane", "the detail is not in the name"),
        ],
    );
    let exact = Rules { downcase: false, ..site() };
    check(
        &exact,
        &[
            ("Jane@example.org", "user.Jane", "off: as typed"),
            ("jane@X.org", "X.org!user.jane or x.org!user.jane", "a domain has no case (RFC 5321)"),
            ("jane@Example.org", "Example.org!user.jane or user.jane", "nor the default"),
        ],
    );
    check(&Rules::defaults(Release::V2_4), &[("Jane@x", "user.Jane", "default up to 2.4")]);
}

#[test]
fn postuser_addresses_shared_folders() {
    let rules = site();
    check(
        &rules,
        &[
            ("+news@example.org", "shared news", "an empty local part is the default postuser"),
            ("+news/comp@example.org", "shared news.comp", "`/` separates"),
            ("+news.comp@example.org", "shared news^comp", "a dot does not"),
            ("+News/Comp@example.org", "shared News.Comp", "a detail keeps its case"),
            ("+/news//comp/@example.org", "shared news.comp", "empty folders are dropped"),
            ("+news@x.org", "shared x.org!news", "in its domain"),
            ("+a+b@example.org", "shared a+b", "the first + only"),
            ("+user/jane@example.org", "shared user.jane", "an INBOX as a shared folder"),
            ("+@example.org", "550", "no folder"),
            ("+/@example.org", "550", "only separators"),
            ("bb+news@example.org", "user.bb", "bb is a user here"),
            ("+R&D@example.org", "shared R&-D or R&D", "3.4 to 3.12 encode, others do not"),
            ("+Entw&APw-rfe@x.org", "shared x.org!Entw&-APw-rfe or x.org!Entw&APw-rfe", "so too"),
        ],
    );
    let earlier = Rules { release: Release::V3_0, ..site() };
    check(
        &earlier,
        &[("+R&D@example.org", "shared R&D or R&-D", "before 3.4 that is the likelier name")],
    );
    let dots = Rules { unixhierarchysep: false, ..site() };
    check(
        &dots,
        &[
            ("+news.comp@example.org", "shared news.comp", "`.` separates"),
            ("+news/comp@example.org", "shared news/comp", "`/` does not"),
            ("+x.org!news@example.org", "shared x.org!news", "lmtpd takes the domain from there"),
        ],
    );
    let bb = Rules { postuser: "bb".to_owned(), ..site() };
    check(
        &bb,
        &[
            ("bb+news@example.org", "shared news", "postuser"),
            ("BB+news@example.org", "shared news", "after lower-casing"),
            ("bb+news@x.org", "shared x.org!news", "in its domain"),
            ("bb@example.org", "550", "no folder"),
            ("+news@example.org", "550", "no user, and no longer the postuser"),
            ("bbb+news@example.org", "user.bbb", "the whole word"),
        ],
    );
    let upper = Rules { postuser: "BB".to_owned(), ..site() };
    check(&upper, &[("BB+news@example.org", "user.bb", "lmtpd does not fold the option")]);
    let exact = Rules { downcase: false, ..upper };
    check(&exact, &[("BB+news@example.org", "shared news", "unless nothing is folded")]);
    let old = Rules { unixhierarchysep: true, ..Rules::defaults(Release::V2_5) };
    check(
        &old,
        &[
            ("+news/comp.x@x", "shared news.comp^x", "2.x translates the whole local part"),
            ("+news//comp@x", "shared news..comp", "and drops nothing"),
            ("+R&-D@x", "shared R&-D", "and encodes nothing"),
            ("+@x", "550", "no folder"),
        ],
    );
    let dotted = Rules { postuser: "b.b".to_owned(), ..old };
    check(&dotted, &[("b.b+news@x", "user.b^b", "2.x compares after translating")]);
    let dotted = Rules { release: Release::V3_0, ..dotted };
    check(&dotted, &[("b.b+news@x", "shared news", "3.x before")]);
}

#[test]
fn quotes_are_handled_as_by_lmtpd() {
    check(
        &site(),
        &[
            ("\"jane\"@example.org", "user.jane", "needless quotes mean nothing (RFC 5321)"),
            ("\"jane..doe\"@example.org", "user.jane^^doe", "lmtpd would take it unquoted"),
            ("jane..doe@example.org", "user.jane^^doe", "as here"),
            ("\"jane doe\"@example.org", "550", "3.x looks for the quotes in the name"),
            ("jane doe@example.org", "550", "the same in internal form"),
            ("\"jane@home\"@example.org", "550", "quoted @"),
            ("\"\"@example.org", "550", "no user"),
        ],
    );
    check(
        &Rules::defaults(Release::V2_5),
        &[
            ("\"jane doe\"@x", "user.jane doe", "2.x takes quotes away"),
            ("jane doe@x", "user.jane doe", "the same in internal form"),
            ("\"jane@home\"@x", "user.jane@home", "a quoted @ does not end the local part"),
            ("\"\"@x", "550", "no user"),
        ],
    );
}

#[test]
fn invalid_mailbox_names_are_unknown_or_refused() {
    let rules = site();
    let long = format!("{}@example.org", "a".repeat(506));
    let fits = format!("{}@example.org", "a".repeat(505));
    check(
        &rules,
        &[
            ("jane!bob@example.org", "550", "`!` would make jane a domain"),
            ("jane!bob@x.org", "550", "or stand twice"),
            ("j\u{e4}ne@example.org", "501", "8 bit"),
            ("jane+\u{e4}@example.org", "501", "8 bit in the detail as well"),
            (&long, "550", "a name of 511 bytes"),
            (&fits, &format!("user.{}", "a".repeat(505)), "one of 510"),
        ],
    );
    let lax = Rules { strict: false, ..site() };
    check(
        &lax,
        &[
            ("j\u{e4}ne@example.org", "user.jxxne", "lmtp_strict_rfc2821 off: each byte an X"),
            ("jane+\u{e4}@example.org", "user.jane", "which a detail does not show"),
        ],
    );
}

#[test]
fn catchall_is_read_as_a_user() {
    let table = [
        (Release::V3_6, "lost.mail", Some("user.lost^mail")),
        (Release::V3_6, "lost@example.org", Some("user.lost")),
        (Release::V3_6, "Lost@x.org", Some("x.org!user.Lost")),
        (Release::V2_5, "lost.mail", Some("user.lost.mail")),
        (Release::V2_5, "lost@x.org", Some("user.lost@x.org")),
        (Release::V3_6, "", None),
    ];
    for (release, catchall, expected) in table {
        let rules = Rules { release, catchall: Some(catchall.to_owned()), ..site() };
        let name = rules.catchall_target().map(|target| target.name.to_string());
        assert_eq!(name.as_deref(), expected, "{catchall}");
    }
    assert_eq!(site().catchall_target(), None);
}

#[test]
fn canonical_form_is_one_the_backend_accepts() {
    let rules = site();
    let spelled = Rules { defaultdomain: Some("Example.org".to_owned()), ..site() };
    let exact = Rules { downcase: false, ..site() };
    let table: &[(&Rules, &str, &str)] = &[
        (&rules, "Jane+Work@Example.org", "jane+Work@example.org"),
        (&rules, "Jane.Doe@X.org", "jane.doe@x.org"),
        (&rules, "+News/Comp@X.org", "+News/Comp@x.org"),
        (&rules, "\"jane\"@x.org", "jane@x.org"),
        (&rules, "\"Jane Doe\"@x.org", "\"jane doe\"@x.org"),
        (&rules, "Jane", "jane"),
        (&rules, "Jane+a..b@x.org", "jane@x.org"),
        (&rules, "jane+.@x.org", "jane@x.org"),
        (&rules, ".jane+Work@x.org", "\".jane+Work\"@x.org"),
        (&spelled, "jane@EXAMPLE.ORG", "jane@Example.org"),
        (&exact, "Jane@X.org", "Jane@x.org"),
    ];
    for (rules, key, expected) in table {
        let parsed = Recipient::parse(key.as_bytes()).unwrap();
        let found = rules.target(&parsed).map_or_else(
            |_| MailboxName::new("user.jane").unwrap(),
            |target| target.names().last().unwrap().clone(),
        );
        let canonical = rules.canonical(&parsed, &found);
        assert_eq!(std::str::from_utf8(&canonical).unwrap(), *expected);
    }
    // Quoted, it is not the wildcard key of Postfix' tables.
    let star = Recipient::parse(b"\\*").unwrap();
    let found = MailboxName::new("user.*").unwrap();
    assert_eq!(Rules::defaults(Release::V3_6).canonical(&star, &found), b"\"*\"");
    // The backend must get the original recipient, even if the catch-all gets the message.
    let caught = MailboxName::new("y.org!user.everybody").unwrap();
    let nobody = Recipient::parse(b"Nobody@X.org").unwrap();
    assert_eq!(rules.canonical(&nobody, &caught), b"nobody@x.org");
}

proptest::proptest! {
    // The form for the backend must lead to the mailbox that was looked up.
    #[test]
    fn canonical_form_leads_to_the_same_mailbox(
        key in "[ -~]{1,20}(@([aA][bB]|[xX]\\.org))?",
        virtdomains: bool, unixhierarchysep: bool, downcase: bool,
        release in proptest::sample::select(vec![Release::V2_5, Release::V3_0, Release::V3_6]),
    ) {
        let rules = Rules {
            virtdomains, unixhierarchysep, downcase, release,
            defaultdomain: Some("Ab".to_owned()),
            ..site()
        };
        if let Ok(parsed) = Recipient::parse(key.as_bytes())
            && let Ok(target) = rules.target(&parsed)
        {
            for found in target.names() {
                let canonical = rules.canonical(&parsed, found);
                let again = Recipient::parse(&canonical).unwrap();
                let target = rules.target(&again).unwrap();
                proptest::prop_assert_eq!(rules.canonical(&again, found), canonical.clone());
                // `lmtpd` itself must find it: the first name, or with `&` one of the two.
                let found_by_lmtpd = target.name == *found || key.contains('&');
                proptest::prop_assert!(found_by_lmtpd, "{} {}", found, target.name);
            }
        }
    }
}
