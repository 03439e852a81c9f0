use proptest::prelude::*;

use super::*;
use crate::model::record::{AnonymousRights, State};
use crate::mupdate::wire::{MAX_ACL, MAX_LOCATION, MAX_NAME, MAX_SKIPPED};

fn stream() -> Stream {
    let mut stream = Stream::new(session(Role::Master), Timings::default(), at(0.));
    assert_eq!(take(&mut stream), "U1 UPDATE\r\n");
    stream
}

/// Returns a stream whose list was empty and complete at 1 s.
fn listed() -> Stream {
    let mut stream = stream();
    stream.receive(b"U1 OK \"streaming starts\"\r\n", at(1.));
    assert_eq!(stream.next(), Ok(Some(Event::Listed)));
    assert_eq!(take(&mut stream), "N1 NOOP\r\n");
    stream
}

fn take(stream: &mut Stream) -> String {
    String::from_utf8(std::mem::take(stream.output())).unwrap()
}

fn all(stream: &mut Stream) -> (Vec<Event>, Option<Failure>) {
    let mut events = Vec::new();
    loop {
        match stream.next() {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, None),
            Err(failure) => {
                assert_eq!(stream.next(), Err(failure.clone()), "a failure stays");
                return (events, Some(failure));
            }
        }
    }
}

/// Returns all events of a stream that receives only these pieces.
fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Failure>) {
    let mut stream = stream();
    let mut events = Vec::new();
    for piece in pieces {
        stream.receive(piece, at(1.));
        let (more, failure) = all(&mut stream);
        events.extend(more);
        if failure.is_some() {
            return (events, failure);
        }
    }
    (events, None)
}

fn record(state: State, server: &str, partition: &str, rights: (bool, bool)) -> Record {
    Record {
        state,
        server: (!server.is_empty()).then(|| server.to_owned()),
        partition: partition.to_owned(),
        anonymous: AnonymousRights { lookup: rights.0, post: rights.1 },
    }
}

fn active(of: &str, server: &str, partition: &str) -> Event {
    Event::Record(name(of), record(State::Active, server, partition, (false, false)))
}

/// Checks the events of `said` at every split.
fn check_at_every_split(said: &str, expected: &(Vec<Event>, Option<Failure>)) {
    for pieces in cuts(said.as_bytes()) {
        let first = pieces[0].len();
        assert_eq!(&events(pieces), expected, "cut after {first} bytes");
    }
}

#[test]
fn list_changes_and_barrier_are_read_at_every_split() {
    let bob = |server| mailbox("U1", "user.bob", server, "bob\tlrswipkxtecda\t");
    let said = [
        mailbox(
            "U1",
            "example.org!user.o^brien",
            "be1.example.org!default",
            "o.brien@example.org\tlrswipkxtecda\t",
        ),
        bob("be1.example.org!default"),
        mailbox("U1", "news.comp", "be1.example.org!default", "anyone\tlrsp\t"),
        reserve("U1", "user.jane", "be2.example.org!default"),
        "U1 OK \"streaming starts\"\r\n".into(),
        bob("be2.example.org!default"),
        bob("be2.example.org!default"),
        format!("U1 DELETE {}\r\n", literal("user.ren")),
        mailbox("U1", "user.ren2", "be1.example.org!", "ren\tlrswipkxtecda\t"),
        "N1 OK \"Noop done\"\r\n".into(),
    ]
    .concat();
    let (be1, be2) = ("be1.example.org", "be2.example.org");
    let expected = vec![
        active("example.org!user.o^brien", be1, "default"),
        active("user.bob", be1, "default"),
        Event::Record(name("news.comp"), record(State::Active, be1, "default", (true, true))),
        Event::Record(name("user.jane"), record(State::Reserved, be2, "default", (false, false))),
        Event::Listed,
        active("user.bob", be2, "default"),
        active("user.bob", be2, "default"),
        Event::Deleted(name("user.ren")),
        active("user.ren2", be1, ""),
        Event::Current { asked: at(1.) },
    ];
    check_at_every_split(&said, &(expected, None));
}

#[test]
fn strings_have_three_forms_and_words_any_case() {
    let said = "U1 MAILBOX user.a be1!default \"\"\r\n\
        U1 mailbox \"user.b\" \"be1!default\" \"anyone\tlp\t\"\r\n\
        u1 Mailbox {6}\r\nuser.c {11+}\r\nbe1!default {0+}\r\n\r\n\
        * MAILBOX   user.d \"be1!default\"   {0}\r\n  \r\n\
        N9 MAILBOX \"user.\\\"e\\\\\" be1!default \"\"\n\
        U1 reserve user.f be1!default \"\"\r\n\
        U1 ok {4+}\r\ndone\r\n\
        U1 delete user.f\r\n";
    let expected = vec![
        active("user.a", "be1", "default"),
        Event::Record(name("user.b"), record(State::Active, "be1", "default", (true, true))),
        active("user.c", "be1", "default"),
        active("user.d", "be1", "default"),
        active("user.\"e\\", "be1", "default"),
        Event::Record(name("user.f"), record(State::Reserved, "be1", "default", (false, false))),
        Event::Listed,
        Event::Deleted(name("user.f")),
    ];
    check_at_every_split(said, &(expected, None));
}

#[test]
fn location_may_have_a_port_no_partition_or_no_server() {
    for (location, server, partition) in [
        ("be1.example.org!default", "be1.example.org", "default"),
        ("be1.example.org:2004!default", "be1.example.org:2004", "default"),
        ("be1.example.org!", "be1.example.org", ""),
        ("default", "", "default"),
        ("be1!a!b", "be1", "a!b"),
    ] {
        let said = mailbox("U1", "user.jane", location, "");
        assert_eq!(
            events([said.as_bytes()]),
            (vec![active("user.jane", server, partition)], None),
            "{location}"
        );
    }
}

#[test]
fn unusable_location_is_neither_unknown_nor_routed() {
    let mut stream = stream();
    for location in ["!default", "be 1!default", "be\u{e9}!default", "be1!a\tb"] {
        let said = mailbox("U1", "user.jane", location, "anyone\tlp\t");
        stream.receive(said.as_bytes(), at(0.));
        let doubt = record(State::Reserved, "", "", (false, false));
        assert_eq!(stream.next(), Ok(Some(Event::Record(name("user.jane"), doubt))), "{location}");
    }
    assert_eq!((stream.doubtful(), stream.skipped()), (4, 0));
}

#[test]
fn invalid_name_is_skipped() {
    let mut stream = listed();
    let long = "x".repeat(600);
    let bad = ["", "user.a\x1fb", "a!b!c", "example.org!", long.as_str()];
    for bad in bad {
        stream.receive(mailbox("U1", bad, "be1!default", "").as_bytes(), at(1.));
        stream.receive(format!("U1 DELETE {}\r\n", literal(bad)).as_bytes(), at(1.));
    }
    stream.receive(mailbox("U1", "user.jane", "be1!default", "").as_bytes(), at(1.));
    assert_eq!(all(&mut stream), (vec![active("user.jane", "be1", "default")], None));
    assert_eq!(stream.skipped(), 10);
}

#[test]
fn deletion_within_a_list_is_a_failure() {
    let (events, failure) = events([&b"U1 DELETE user.jane\r\n"[..]]);
    assert_eq!(events, []);
    assert_eq!(failure.unwrap().kind(), FailureKind::Protocol);
}

#[test]
fn noops_are_sent_at_once_then_2_5_s_after_the_last() {
    let mut stream = listed();
    assert_eq!(stream.deadline(), Some(at(11.)));
    stream.receive(b"N1 OK \"Noop done\"\r\n", at(1.2));
    assert_eq!(stream.next(), Ok(Some(Event::Current { asked: at(1.) })));
    assert_eq!(take(&mut stream), "");
    assert_eq!(stream.deadline(), Some(at(3.5)));
    stream.tick(at(3.4));
    assert_eq!(take(&mut stream), "");
    stream.tick(at(3.6));
    assert_eq!(take(&mut stream), "N2 NOOP\r\n");
    assert_eq!(stream.deadline(), Some(at(13.6)));
    // A late answer: exactly one NOOP follows at once.
    stream.receive(b"N2 OK \"Noop done\"\r\n", at(9.));
    assert_eq!(stream.next(), Ok(Some(Event::Current { asked: at(3.6) })));
    assert_eq!(stream.deadline(), Some(at(9.)));
    stream.tick(at(9.));
    stream.tick(at(9.));
    assert_eq!(take(&mut stream), "N3 NOOP\r\n");
}

#[test]
fn continuous_flow_delays_no_barrier_and_no_timeout() {
    let mut stream = listed();
    stream.receive(b"N1 OK \"Noop done\"\r\n", at(1.2));
    let mut asked = 0;
    for tenth in 12..100 {
        let change = mailbox("U1", "user.a", "be1!default", "");
        stream.receive(change.as_bytes(), at(f64::from(tenth) / 10.));
        while stream.next().unwrap().is_some() {}
        if take(&mut stream).ends_with(" NOOP\r\n") {
            asked += 1;
            let answer = format!("N{} OK \"Noop done\"\r\n", asked + 1);
            stream.receive(answer.as_bytes(), at(f64::from(tenth) / 10.));
            assert!(matches!(stream.next(), Ok(Some(Event::Current { .. }))));
        }
    }
    assert_eq!(asked, 3);

    let mut stream = self::stream();
    let failed = (0..3600).find(|second| {
        let record = mailbox("U1", &format!("user.u{second}"), "be1!default", "");
        stream.receive(record.as_bytes(), at(f64::from(*second)));
        stream.next().is_err()
    });
    assert_eq!(failed, Some(1800));
}

#[test]
fn unanswered_noop_ends_the_stream_despite_other_data() {
    let mut stream = listed();
    for second in 2..11 {
        stream
            .receive(mailbox("U1", "user.a", "be1!default", "").as_bytes(), at(f64::from(second)));
        assert!(stream.next().is_ok());
        stream.tick(at(f64::from(second)));
    }
    assert_eq!(stream.next(), Ok(None));
    stream.tick(at(11.));
    let failure = stream.next().unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Network);
    assert!(matches!(failure, Failure::Timeout(_)));
    assert_eq!(stream.deadline(), None);
}

#[test]
fn only_the_answer_to_a_noop_is_a_barrier() {
    for said in [
        "N2 OK \"Noop done\"\r\n",
        "U1 OK \"streaming starts\"\r\n",
        "N01x OK done\r\n",
        "N1 NO \"not now\"\r\n",
        "N1 BAD no\r\n",
        "* BAD \"Need command\"\r\n",
    ] {
        let mut stream = listed();
        stream.receive(said.as_bytes(), at(2.));
        let (events, failure) = all(&mut stream);
        assert_eq!((events, failure.unwrap().kind()), (vec![], FailureKind::Protocol), "{said}");
    }
}

#[test]
fn silent_list_times_out_after_30_s() {
    let mut stream = stream();
    assert_eq!(stream.deadline(), Some(at(30.)));
    stream.receive(b"U1 MAILBOX {9+}\r\nuser.", at(20.));
    assert_eq!(stream.next(), Ok(None));
    stream.tick(at(49.));
    assert_eq!(stream.next(), Ok(None));
    stream.tick(at(50.));
    assert!(matches!(stream.next(), Err(Failure::Timeout(why)) if why.contains("fell silent")));
}

#[test]
fn slow_trickle_of_a_list_times_out_after_30_min() {
    let mut stream = stream();
    let mut now = 0.;
    while now < 3600. {
        now += 9.;
        stream.receive(b"x", at(now));
        stream.tick(at(now));
        if let Err(failure) = stream.next() {
            assert!(matches!(failure, Failure::Timeout(why) if why.contains("to the end")));
            break;
        }
    }
    assert!((1800. ..1810.).contains(&now), "{now}");
}

#[test]
fn bye_ends_the_stream_with_its_text() {
    for (said, text) in [
        ("* BYE \"no longer ready for connections\"\r\n\0", "no longer ready for connections"),
        ("* BYE idle for too long\r\n", "idle for too long"),
        ("U1 BYE {2+}\r\nxx\r\n", "xx"),
        ("* BYE\r\n", ""),
    ] {
        check_at_every_split(said, &(vec![], Some(Failure::Bye(text.into()))));
    }
}

#[test]
fn truncated_record_at_the_end_is_not_reported() {
    let whole = mailbox("U1", "user.jane", "be1!default", "jane\tlrs\t");
    for length in 0..whole.len() {
        let mut stream = stream();
        stream.receive(&whole.as_bytes()[..length], at(1.));
        assert_eq!(stream.next(), Ok(None));
        stream.closed();
        assert!(matches!(stream.next(), Err(Failure::Closed(_))));
    }
}

#[test]
fn complete_records_before_the_end_are_reported() {
    let mut stream = stream();
    stream.receive(mailbox("U1", "user.jane", "be1!default", "").as_bytes(), at(1.));
    stream.closed();
    let (events, failure) = all(&mut stream);
    assert_eq!(events, [active("user.jane", "be1", "default")]);
    assert!(matches!(failure, Some(Failure::Closed(_))));
}

#[test]
fn oversized_literal_is_refused_when_announced() {
    for said in [
        format!("U1 MAILBOX {{{}+}}\r\n", MAX_SKIPPED + 1),
        "U1 MAILBOX {99999999999999999999999999+}\r\n".into(),
        format!("U1 MAILBOX user.a {{{}}}\r\n", MAX_SKIPPED + 1),
        format!("U1 MAILBOX user.a be1!x {{{}+}}\r\n", MAX_SKIPPED + 1),
        format!("U1 DELETE {{{}+}}\r\n", MAX_SKIPPED + 1),
        format!("U1 NO {{{}+}}\r\n", MAX_NAME + 1),
        "x".repeat(MAX_LINE + 1),
        format!("U1 OK {}\r\n", "x".repeat(MAX_LINE)),
        format!("U1 MAILBOX {{1+}}\r\nx{}", "x".repeat(MAX_LINE + 1)),
    ] {
        let (events, failure) = events([said.as_bytes()]);
        let begin = &said[..said.len().min(60)];
        assert_eq!(events, [], "{begin}");
        assert_eq!(failure.map(|failure| failure.kind()), Some(FailureKind::Protocol), "{begin}");
    }
}

/// Encodes a record with strings of these lengths, as literals or quoted.
fn long(name: &str, location: usize, acl: usize, literal: bool) -> String {
    let string = |text: String| match literal {
        true => format!("{{{}+}}\r\n{text}", text.len()),
        false => format!("\"{text}\""),
    };
    let location = format!("be1!{}", "l".repeat(location));
    let acl = format!("a\t{}\t", "r".repeat(acl));
    format!("U1 MAILBOX {} {} {}\r\n", string(name.into()), string(location), string(acl))
}

#[test]
fn oversized_record_does_not_block_the_others() {
    let (normal, line) = (long("user.z", 3, 3, true), 30_000);
    for (record, is_told) in [
        (long("user.a", MAX_LOCATION + 1, 3, true), true),
        (long("user.a", 5 << 20, 3, true), true),
        (long("user.a", MAX_LOCATION + 1, 3, false), true),
        (long("user.a", line, 3, false), true),
        (long("user.a", 3, MAX_ACL + 1, true), true),
        (long("user.a", 2 * MAX_LOCATION, 2 * MAX_ACL, true), true),
        (long(&"n".repeat(MAX_NAME + 1), 3, 3, true), false),
        (long(&"n".repeat(MAX_NAME + 1), 2 * MAX_LOCATION, 3, false), false),
        (format!("U1 DELETE {{5000+}}\r\n{}\r\n", "n".repeat(5000)), false),
    ] {
        let said = match record.contains("DELETE") {
            true => format!("{normal}U1 OK \"x\"\r\n{record}{normal}"),
            false => format!("{normal}{record}{normal}U1 OK \"x\"\r\n"),
        };
        for piece in [7_919, said.len()] {
            let mut stream = stream();
            let (mut told, mut failed) = (Vec::new(), None);
            for piece in said.as_bytes().chunks(piece) {
                stream.receive(piece, at(0.));
                let (events, failure) = all(&mut stream);
                told.extend(events);
                failed = failed.or(failure);
            }
            let begin = &record[..30];
            assert_eq!(failed, None, "{begin}");
            let normal = active("user.z", "be1", "lll");
            let mut records = told.iter().filter(|event| matches!(event, Event::Record(..)));
            assert_eq!(records.next(), Some(&normal), "{begin}");
            if is_told {
                let Some(Event::Record(name, record)) = records.next() else { panic!("{begin}") };
                assert_eq!((name.as_bytes(), record.state), (&b"user.a"[..], State::Reserved));
                assert_eq!(stream.first_doubtful(), Some(name));
            }
            assert_eq!(records.collect::<Vec<_>>(), [&normal], "{begin}");
            assert!(told.contains(&Event::Listed), "{begin}");
            let counts = (stream.doubtful(), stream.skipped());
            assert_eq!(counts, (u64::from(is_told), u64::from(!is_told)), "{begin}");
        }
    }
}

#[test]
fn endless_list_is_a_failure() {
    let record = mailbox("U1", "user.jane", "be1!default", "");
    let limit = Limit { names: 100, bytes: 1 << 20 };
    let mut limited = stream().limited(limit);
    for _ in 0..100 {
        limited.receive(record.as_bytes(), at(0.));
        assert_eq!(all(&mut limited).1, None);
    }
    let mut endless = stream().limited(limit);
    limited.receive(record.as_bytes(), at(0.));
    let failure = all(&mut limited).1.unwrap();
    assert_eq!(failure, Failure::TooLong { what: "names", limit: 100 });
    assert!(failure.to_string().contains("max-names"));
    // A record that is never complete.
    endless.receive(b"U1 MAILBOX user.jane {60000000+}\r\n", at(0.));
    let failure = (0..100).find_map(|_| {
        endless.receive(&[b'x'; 65_536], at(0.));
        all(&mut endless).1
    });
    assert_eq!(failure, Some(Failure::TooLong { what: "bytes", limit: 1 << 20 }));
    // The limit does not apply after the list.
    let mut listed = stream().limited(limit);
    listed.receive(b"U1 OK \"x\"\r\n", at(0.));
    for _ in 0..200 {
        listed.receive(record.as_bytes(), at(0.));
        assert_eq!(all(&mut listed).1, None);
    }
}

#[test]
fn list_limit_grows_with_the_present_list() {
    assert_eq!(Limit::by_present(0).names, 10_000_000);
    assert_eq!(Limit::by_present(3_000_000).names, 30_000_000);
    assert_eq!(Limit::of_names(u64::MAX).bytes, u64::MAX);
}

#[test]
fn invalid_record_is_a_failure() {
    for said in [
        "U1 MAILBOX\r\n",
        "U1 MAILBOX user.a\r\n",
        "U1 MAILBOX user.a be1!default\r\n",
        "U1 MAILBOX user.a be1!default \"\" more\r\n",
        "U1 MAILBOX {x}\r\n",
        "U1 MAILBOX {}\r\n",
        "U1 MAILBOX {+}\r\n",
        "U1 MAILBOX {-1+}\r\n",
        "U1 MAILBOX {3+} x\r\n",
        "U1 MAILBOX \"user.a be1!default\r\n",
        "U1 MAILBOX \"user.a\\\r\n",
        "U1 DELETE\r\n",
        "U1 DELETE a b\r\n",
        "U1 RESERVE {1+}\r\nab c\r\n",
        "U1 MAILBOX\0 user.a be1!default \"\"\r\n",
        "U1 MAILBOXES user.a be1!default \"\"\r\n",
        "\0\r\n",
        "U1\r\n",
        "X9 OK fine\r\n",
    ] {
        let (events, failure) = events([said.as_bytes()]);
        assert_eq!(events, [], "{said:?}");
        let kind = failure.map(|failure| failure.kind());
        assert_eq!(kind, Some(FailureKind::Protocol), "{said:?}");
    }
}

#[test]
fn unknown_word_of_known_length_is_a_failure() {
    for said in [
        "U1 REMOVE user.jane\r\n",
        "U1 RENAMED user.jane be1!default\r\n",
        "N1 YE \"done\"\r\n",
        "N1 ABC \"done\"\r\n",
    ] {
        let mut stream = listed();
        stream.receive(said.as_bytes(), at(2.));
        let (events, failure) = all(&mut stream);
        assert_eq!((events, failure.unwrap().kind()), (vec![], FailureKind::Protocol), "{said}");
    }
}

#[test]
fn unsolicited_notices_are_skipped() {
    let said =
        "* CAPABILITY \"X\"\r\n+ go ahead\r\n\r\n* OK \"still here\"\r\n* OK {2+}\r\n\r\n\r\n";
    let record = mailbox("U1", "user.jane", "be1!default", "");
    check_at_every_split(
        &format!("{said}{record}"),
        &(vec![active("user.jane", "be1", "default")], None),
    );
}

/// Encodes a string in one of the forms of the wire. Returns the string with its encoding.
fn encoded(string: &[u8], how: u8) -> Vec<u8> {
    let atom = !string.is_empty() && string.iter().all(u8::is_ascii_graphic);
    match how {
        0 if atom && !b"{\"".contains(&string[0]) => string.to_vec(),
        1 if !string.contains(&b'\n') => {
            let mut quoted = vec![b'"'];
            for byte in string {
                if b"\"\\".contains(byte) {
                    quoted.push(b'\\');
                }
                quoted.push(*byte);
            }
            quoted.push(b'"');
            quoted
        }
        2 => [format!("{{{}}}\r\n", string.len()).as_bytes(), string].concat(),
        _ => [format!("{{{}+}}\r\n", string.len()).as_bytes(), string].concat(),
    }
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff], 1..40)
        .prop_filter("a name", |name| MailboxName::new(name.clone()).is_ok())
}

proptest! {
    #[test]
    fn any_encoding_is_read_back_at_every_split(
        records in prop::collection::vec(
            (any_name(), "[!-~&&[^!]]{1,20}", "[!-~]{0,12}", prop::bool::ANY, 0u8..4, 0u8..4, 0u8..4),
            0..12,
        ),
        piece in 1usize..200,
    ) {
        let mut said = Vec::new();
        let mut expected = Vec::new();
        for (of, server, partition, post, a, b, c) in &records {
            said.extend_from_slice(b"U1 MAILBOX ");
            said.extend(encoded(of, *a));
            said.push(b' ');
            said.extend(encoded(format!("{server}!{partition}").as_bytes(), *b));
            said.push(b' ');
            let acl: &[u8] = if *post { b"jane\tlrs\tanyone\tp\t" } else { b"jane\tlrsp\t" };
            said.extend(encoded(acl, *c));
            said.extend_from_slice(b"\r\n");
            expected.push(Event::Record(
                MailboxName::new(of.clone()).unwrap(),
                record(State::Active, server, partition, (false, *post)),
            ));
        }
        prop_assert_eq!(events(said.chunks(piece)), (expected, None));
    }

    #[test]
    fn any_bytes_are_read_alike_at_every_split(
        parts in prop::collection::vec(
            prop_oneof![
                Just(b"U1 MAILBOX ".to_vec()),
                Just(b"U1 RESERVE ".to_vec()),
                Just(b"U1 DELETE ".to_vec()),
                Just(b"U1 OK ".to_vec()),
                Just(b"* BYE ".to_vec()),
                Just(b"{3+}\r\n".to_vec()),
                Just(b"{3}\r\n".to_vec()),
                Just(b"\"a\" ".to_vec()),
                Just(b" ".to_vec()),
                Just(b"\r\n".to_vec()),
                prop::collection::vec(any::<u8>(), 0..6),
            ],
            0..30,
        ),
        piece in 1usize..30,
    ) {
        let said = parts.concat();
        let at_once = events([said.as_slice()]);
        prop_assert_eq!(events(said.chunks(piece)), at_once.clone());
        prop_assert_eq!(events(said.chunks(1)), at_once);
    }
}
