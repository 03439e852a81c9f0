use super::*;
use crate::model::record::State;

fn finder(role: Role) -> Finder {
    Finder::new(session(role), Timings::default(), at(0.))
}

fn slave() -> Role {
    Role::Slave("mupdate://mu.example.org".into())
}

fn take(finder: &mut Finder) -> String {
    String::from_utf8(std::mem::take(finder.output())).unwrap()
}

fn ask(finder: &mut Finder, of: &str, now: f64) -> Ticket {
    finder.ask(name(of), at(now)).unwrap()
}

fn all(finder: &mut Finder) -> (Vec<(Ticket, MailboxName, Finding)>, Option<Failure>) {
    let mut answers = Vec::new();
    loop {
        match finder.next() {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return (answers, None),
            Err(failure) => return (answers, Some(failure)),
        }
    }
}

fn found(state: State, server: &str) -> Finding {
    Finding::Found(Record {
        state,
        server: Some(server.into()),
        partition: "default".into(),
        anonymous: Default::default(),
    })
}

fn text(finding: &Finding) -> &str {
    match finding {
        Finding::Unsure(doubt) => doubt.as_str(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn hit_miss_and_reservation_are_read_at_every_split() {
    let said = [
        mailbox("F1", "user.jane", "mail1!default", "jane\tlrs\t").as_str(),
        "F1 OK \"Search completed\"\r\nF2 OK \"Search completed\"\r\n",
        &reserve("F3", "user.being-made", "mail1!default"),
        "F3 OK \"Search completed\"\r\n",
    ]
    .concat();
    for pieces in cuts(said.as_bytes()) {
        let mut finder = finder(Role::Master);
        let names = ["user.jane", "user.nobody", "user.being-made"];
        let tickets = names.map(|of| ask(&mut finder, of, 0.));
        assert_eq!(
            take(&mut finder),
            "F1 FIND \"user.jane\"\r\nF2 FIND \"user.nobody\"\r\nF3 FIND \"user.being-made\"\r\n"
        );
        let mut answers = Vec::new();
        for piece in pieces {
            finder.receive(piece, at(0.1));
            let (more, failure) = all(&mut finder);
            assert_eq!(failure, None);
            answers.extend(more);
        }
        let expected =
            [found(State::Active, "mail1"), Finding::Absent, found(State::Reserved, "mail1")];
        let expected: Vec<_> =
            (0..3).map(|nth| (tickets[nth], name(names[nth]), expected[nth].clone())).collect();
        assert_eq!(answers, expected);
        assert_eq!(finder.open(), 0);
    }
}

#[test]
fn request_is_coalesced_with_a_queued_one_only() {
    let mut finder = finder(Role::Master);
    let first = ask(&mut finder, "user.jane", 0.);
    assert_eq!(ask(&mut finder, "user.jane", 0.), first);
    assert_eq!(take(&mut finder), "F1 FIND \"user.jane\"\r\n");
    // The server may have looked already.
    let second = ask(&mut finder, "user.jane", 0.);
    assert_ne!(second, first);
    assert_eq!(ask(&mut finder, "user.jane", 0.), second);
    assert_eq!(take(&mut finder), "F2 FIND \"user.jane\"\r\n");
    finder.receive(b"F1 OK \"Search completed\"\r\n", at(0.1));
    assert_eq!(all(&mut finder), (vec![(first, name("user.jane"), Finding::Absent)], None));
    let said = mailbox("F2", "user.jane", "be1!default", "") + "F2 OK \"Search completed\"\r\n";
    finder.receive(said.as_bytes(), at(0.1));
    let answer = (second, name("user.jane"), found(State::Active, "be1"));
    assert_eq!(all(&mut finder), (vec![answer], None));
}

#[test]
fn requests_in_flight_and_queued_are_limited() {
    let mut finder = finder(Role::Master);
    for nth in 0..MAX_QUEUED {
        ask(&mut finder, &format!("user.u{nth}"), 0.);
    }
    let refused = finder.ask(name("user.more"), at(0.)).unwrap_err();
    assert!(text(&refused).contains("4096"), "{refused:?}");
    // A request for a queued name is coalesced.
    ask(&mut finder, "user.u7", 0.);
    assert_eq!(take(&mut finder).lines().count(), MAX_IN_FLIGHT);
    assert_eq!(take(&mut finder), "");
    finder.receive(b"F1 OK done\r\nF2 OK done\r\n", at(0.1));
    assert_eq!(all(&mut finder).0.len(), 2);
    assert_eq!(take(&mut finder).lines().count(), 2);
    assert_eq!(finder.open(), MAX_QUEUED - 2);
}

#[test]
fn miss_of_a_slave_is_unsure() {
    let mut finder = finder(slave());
    ask(&mut finder, "user.jane", 0.);
    ask(&mut finder, "user.bob", 0.);
    take(&mut finder);
    let said = mailbox("F1", "user.jane", "be1!default", "") + "F1 OK done\r\nF2 OK done\r\n";
    finder.receive(said.as_bytes(), at(0.1));
    let (answers, _) = all(&mut finder);
    assert_eq!(answers[0].2, found(State::Active, "be1"));
    assert!(text(&answers[1].2).contains("slave of `mupdate://mu.example.org`"));
}

#[test]
fn refused_name_does_not_affect_the_others() {
    let mut finder = finder(Role::Master);
    ask(&mut finder, "user.odd", 0.);
    ask(&mut finder, "user.bob", 0.);
    take(&mut finder);
    finder.receive(b"F1 BAD Badly formed arguments\r\nF2 OK done\r\n", at(0.1));
    let (answers, failure) = all(&mut finder);
    assert!(text(&answers[0].2).contains("`Badly formed arguments`"));
    assert_eq!((&answers[1].2, failure), (&Finding::Absent, None));
}

#[test]
fn unusable_record_is_not_a_miss() {
    let mut finder = finder(Role::Master);
    ask(&mut finder, "user.jane", 0.);
    take(&mut finder);
    let said = mailbox("F1", "user.jane", "!default", "") + "F1 OK done\r\n";
    finder.receive(said.as_bytes(), at(0.1));
    assert!(text(&all(&mut finder).0[0].2).contains("user.jane"));
}

#[test]
fn answer_that_matches_no_request_is_a_failure() {
    let other = mailbox("F1", "user.bob", "be1!default", "");
    let twice = mailbox("F1", "user.jane", "be1!default", "").repeat(2);
    let untagged = mailbox("*", "user.jane", "be1!default", "");
    let early = mailbox("F2", "user.ann", "be1!default", "");
    for said in [
        other.as_str(),
        &twice,
        &untagged,
        &early,
        "F2 OK done\r\n",
        "F3 OK done\r\n",
        "F1 DELETE user.jane\r\n",
        "F1 FOUND user.jane\r\n",
        "* BAD \"Need command\"\r\n",
        "x\r\n",
    ] {
        let mut finder = finder(Role::Master);
        ask(&mut finder, "user.jane", 0.);
        ask(&mut finder, "user.ann", 0.);
        take(&mut finder);
        finder.receive(format!("{said}F1 OK x\r\nF2 OK x\r\n").as_bytes(), at(0.1));
        let (answers, failure) = all(&mut finder);
        assert_eq!(failure.unwrap().kind(), FailureKind::Protocol, "{said:?}");
        assert_eq!(answers.len(), 2, "{said:?}");
        assert!(answers.iter().all(|(_, _, finding)| matches!(finding, Finding::Unsure(_))));
    }
}

#[test]
fn lost_connection_leaves_every_open_request_unsure() {
    let mut finder = finder(Role::Master);
    for nth in 0..300 {
        ask(&mut finder, &format!("user.u{nth}"), 0.);
    }
    take(&mut finder);
    let late = ask(&mut finder, "user.u0", 0.);
    finder.receive(b"F1 OK done\r\nF2 MAILBOX {7+}\r\nuser", at(0.1));
    assert_eq!(finder.next().unwrap().unwrap().2, Finding::Absent);
    finder.closed();
    let (answers, failure) = all(&mut finder);
    assert_eq!(answers.len(), 300);
    assert_eq!(answers.last().unwrap().0, late);
    for (_, _, finding) in &answers {
        assert!(text(finding).contains("closed the connection"));
    }
    assert!(matches!(failure, Some(Failure::Closed(_))));
    // The failure is permanent.
    assert!(matches!(finder.ask(name("user.x"), at(1.)), Err(Finding::Unsure(_))));
    assert_eq!((take(&mut finder), finder.open(), finder.deadline()), (String::new(), 0, None));
    assert!(finder.next().is_err());
}

#[test]
fn missing_answer_ends_the_connection_after_4_s() {
    let mut finder = finder(Role::Master);
    ask(&mut finder, "user.jane", 1.);
    take(&mut finder);
    ask(&mut finder, "user.bob", 3.);
    take(&mut finder);
    assert_eq!(finder.deadline(), Some(at(5.)));
    finder.receive(b"F1 OK done\r\n", at(4.9));
    assert_eq!(all(&mut finder).0.len(), 1);
    assert_eq!(finder.deadline(), Some(at(7.)));
    finder.receive(b"F2 O", at(6.9));
    finder.tick(at(7.));
    let (answers, failure) = all(&mut finder);
    assert!(matches!(failure, Some(Failure::Timeout(_))));
    assert!(matches!(answers[0].2, Finding::Unsure(_)));
}

#[test]
fn idle_connection_is_tested_every_5_s() {
    let mut finder = finder(Role::Master);
    finder.tick(at(4.9));
    assert_eq!(take(&mut finder), "");
    finder.tick(at(5.));
    assert_eq!(take(&mut finder), "N1 NOOP\r\n");
    finder.receive(b"N1 OK \"Noop done\"\r\n", at(5.1));
    assert_eq!(all(&mut finder), (vec![], None));
    assert_eq!(finder.deadline(), Some(at(10.1)));
    finder.tick(at(10.1));
    ask(&mut finder, "user.jane", 10.2);
    assert_eq!(take(&mut finder), "N2 NOOP\r\nF3 FIND \"user.jane\"\r\n");
    finder.tick(at(14.2));
    assert!(matches!(all(&mut finder).1, Some(Failure::Timeout(_))));
}

#[test]
fn name_is_quoted_if_plain_and_a_literal_otherwise() {
    for (of, sent) in [
        (&b"user.jane"[..], &b"F1 FIND \"user.jane\"\r\n"[..]),
        (b"user.bob.Entw&APw-rfe x", b"F1 FIND \"user.bob.Entw&APw-rfe x\"\r\n"),
        (b"user.\"", b"F1 FIND {6+}\r\nuser.\"\r\n"),
        (b"user.\\", b"F1 FIND {6+}\r\nuser.\\\r\n"),
        (b"user.\xc3\xa9", b"F1 FIND {7+}\r\nuser.\xc3\xa9\r\n"),
    ] {
        let mut finder = finder(Role::Master);
        finder.ask(MailboxName::new(of).unwrap(), at(0.)).unwrap();
        assert_eq!(finder.output(), sent);
    }
}

#[test]
fn list_and_lookups_share_a_connection() {
    let said = [
        mailbox("L1", "user.jane", "mail1!default", "jane\tlrs\t").as_str(),
        &reserve("L1", "user.max", "mail2!default"),
        &mailbox("L1", "user.odd", "be 1!default", ""),
        "L1 OK \"list complete\"\r\n",
        "F1 OK \"Search completed\"\r\n",
    ]
    .concat();
    for pieces in cuts(said.as_bytes()) {
        let mut finder = finder(Role::Master);
        finder.ask_for_list(at(1.)).unwrap();
        assert_eq!(take(&mut finder), "L1 LIST \"\"\r\n");
        let (mut names, mut ended) = (Vec::new(), false);
        for piece in pieces {
            finder.receive(piece, at(1.));
            while !ended {
                match finder.next_listed().unwrap() {
                    Listed::Record(name, record) => names.push((name.to_string(), record.state)),
                    Listed::End => ended = true,
                    Listed::More => break,
                }
            }
        }
        // A mailbox with an unusable location exists at an unknown one.
        let expected = [
            ("user.jane".to_owned(), State::Active),
            ("user.max".to_owned(), State::Reserved),
            ("user.odd".to_owned(), State::Reserved),
        ];
        assert!(ended && names == expected, "{names:?}");
        let ticket = ask(&mut finder, "user.nobody", 2.);
        assert_eq!(take(&mut finder), "F1 FIND \"user.nobody\"\r\n");
        let (answers, failure) = all(&mut finder);
        assert_eq!(answers, [(ticket, name("user.nobody"), Finding::Absent)]);
        assert_eq!(failure, None);
    }
}

#[test]
fn refused_or_mixed_list_is_a_failure() {
    for said in [
        "L1 NO \"no\"\r\n".to_owned(),
        "L1 BAD \"what\"\r\n".to_owned(),
        "* BYE \"gone\"\r\n".to_owned(),
        mailbox("U1", "user.jane", "mail1!default", "jane\tlrs\t"),
    ] {
        let mut finder = finder(Role::Master);
        finder.ask_for_list(at(1.)).unwrap();
        finder.receive(said.as_bytes(), at(1.));
        let failure = finder.next_listed().unwrap_err();
        assert_eq!(finder.next_listed(), Err(failure.clone()), "an error stays");
        assert_eq!(finder.ask_for_list(at(2.)), Err(failure));
    }
    let mut finder = finder(Role::Master);
    ask(&mut finder, "user.jane", 1.);
    assert!(finder.ask_for_list(at(1.)).is_err(), "a question is open");
}
