//! Functions of the fuzz targets. Their input is hostile, and they must not panic, loop or contradict
//! themselves. `fuzz/` runs these functions with nightly and libFuzzer, `fuzz_seeds.rs` with the seeds
//! alone.

// A fuzz target uses one of them.
#![allow(dead_code)]

mod seal;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use murder_route::cyrusdb::order::Order;
use murder_route::cyrusdb::skip::find::KeySearch;
use murder_route::cyrusdb::skip::header::SkipHeader;
use murder_route::cyrusdb::skip::reader::SnapshotReader;
use murder_route::cyrusdb::skip::window::Scratch;
use murder_route::cyrusdb::{Engine, Problem, detect, dlist, flat, skiplist, value};
use murder_route::imapd_conf::ImapdConf;
use murder_route::lmtp::reply_filter::{REPLY_LIMIT, ReplyFilter};
use murder_route::model::name::MailboxName;
use murder_route::model::record::Record;
use murder_route::mupdate::wire::{Input, MAX_LINE};
use murder_route::mupdate::{
    Banner, BannerReader, Event, Failure, Finder, Finding, Role, Session, Stream, Timings,
};
use murder_route::wire::protocol::Protocol;
use murder_route::wire::socketmap::Reply;
use murder_route::wire::{line, milter, netstring, policy};

/// Accepts any bytes; a panic is a bug.
pub(crate) type Target = fn(&[u8]);

/// All targets, by the names of their binaries and seed folders.
pub(crate) const TARGETS: [(&str, Target); 12] = [
    ("twoskip", twoskip),
    ("twom", twom),
    ("skiplist", skiplist),
    ("flat", flat),
    ("record", record),
    ("imapd_conf", imapd_conf),
    ("netstring", netstring),
    ("policy", policy),
    ("line", line),
    ("milter", milter),
    ("mupdate", mupdate),
    ("lmtp_replies", lmtp_replies),
];

/// A twoskip file.
pub(crate) fn twoskip(file: &[u8]) {
    snapshot(file, Engine::Twoskip);
}

/// A twom file.
pub(crate) fn twom(file: &[u8]) {
    snapshot(file, Engine::Twom);
}

fn snapshot(file: &[u8], engine: Engine) {
    search(file, engine);
    search(&seal::sealed(file), engine);
}

/// Walks and searches in both orders. A file that contradicts itself may give either answer, but a walk
/// must ascend and end, and all that it yields is in the file.
fn search(file: &[u8], engine: Engine) {
    let Ok(header) = SkipHeader::read(file) else { return };
    assert_eq!(detect(file).map(Engine::name).ok(), Some(header.engine()));
    if header.engine() != engine.name() {
        return;
    }
    let mut scratch = Scratch::default();
    for order in [Order::Raw, Order::Mbox] {
        let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let _ =
            SnapshotReader::new(file, header, order, &mut scratch).walk(b"", &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                true
            });
        assert!(rows.len() <= file.len() / 24);
        assert!(rows.is_sorted_by(|(a, _), (b, _)| order.compare(a, b).is_lt()));
        let wanted = rows.iter().map(|(key, _)| key.as_slice());
        for key in wanted.chain([&b""[..], b"user.jane", b"Nuser\x1fjane", b"\xff\xff"]) {
            let mut reader = SnapshotReader::new(file, header, order, &mut scratch);
            if let Ok(KeySearch::Value(value)) = reader.find(key, None) {
                assert!(key.len() + value.len() <= file.len());
            }
        }
    }
}

/// A skiplist file.
pub(crate) fn skiplist(file: &[u8]) {
    let size = file.len() as u64;
    let mut whole = skiplist::Replay::new();
    let outcome = whole.follow(file, size);
    if outcome.is_ok() {
        assert_eq!(detect(file).unwrap(), Engine::Skiplist);
    }
    assert!(whole.committed() <= size);
    let rows: BTreeMap<&[u8], &[u8]> = whole.iter().collect();
    assert_eq!(rows.len(), whole.len());
    for (key, value) in &rows {
        assert_eq!(whole.get(key), Some(*value));
    }

    // A file that grows while it is read gives the same result in the end.
    let mut grown = skiplist::Replay::new();
    for part in 1..3 {
        let _ = grown.follow(file, size * part / 3);
    }
    assert_eq!(grown.follow(file, size).is_ok(), outcome.is_ok());
    assert_eq!(grown.iter().collect::<BTreeMap<_, _>>(), rows);

    if outcome.is_ok() {
        assert!(whole.continues(file, size));
    }

    let refused = Problem { offset: 0, what: "refused".into() };
    let left = skiplist::Replay::of_damaged(file, size, refused);
    if let Ok(left) = &left {
        assert!(!left.damage().is_empty() && !left.is_empty() && left.committed() <= size);
        let rows: BTreeMap<&[u8], &[u8]> = left.iter().collect();
        assert_eq!(rows.len(), left.len());
        assert!(rows.iter().all(|(key, value)| left.get(key) == Some(*value)));
    }
    let mut visited = 0;
    let problems = skiplist::verify(file, size, &mut |row| {
        if outcome.is_ok() {
            assert_eq!(rows.get(row.key), Some(&row.value));
        }
        visited += 1;
    });
    match (&outcome, &left) {
        (Ok(()), _) => assert_eq!(visited, rows.len()),
        (Err(_), Ok(left)) => assert_eq!(visited, left.len()),
        (Err(_), Err(_)) => {}
    }
    assert!(outcome.is_ok() || !problems.is_empty());
}

/// A flat file.
pub(crate) fn flat(file: &[u8]) {
    let table = flat::FlatTable::read(file.to_vec());
    let mut visited = 0;
    let problems = flat::verify(file.to_vec(), &mut |_| visited += 1);
    match table {
        Ok(table) => {
            assert_eq!(visited, table.len());
            // Also where the order is not Cyrus'.
            assert!(table.problems().iter().all(|problem| problems.contains(problem)));
            assert!(problems.len() <= table.problems().len() + 1);
            let mut before: Option<&[u8]> = None;
            for (key, value) in table.iter() {
                assert!(before < Some(key), "in order, and none twice");
                assert_eq!(table.get(key), Some(value));
                before = Some(key);
            }
            if problems.is_empty() {
                assert_eq!(detect(file).unwrap(), Engine::Flat);
            }
        }
        Err(_) => assert!(!problems.is_empty()),
    }
}

/// A record's value.
pub(crate) fn record(value: &[u8]) {
    let skipped = {
        let mut reader = dlist::DlistReader::new(value);
        reader.skip().and_then(|()| reader.finish())
    };
    let walked = {
        let mut reader = dlist::DlistReader::new(value);
        walk(&mut reader).and_then(|()| reader.finish())
    };
    assert_eq!(skipped, walked);
    if let Err(error) = skipped {
        assert!(error.at <= value.len());
    }
    if let Ok(record) = value::parse(value) {
        assert!(skipped.is_ok() || value[0] != b'%');
        let server = record.server.as_deref().unwrap_or("local");
        assert!(!server.is_empty());
        assert!(server.bytes().chain(record.partition.bytes()).all(|b| b.is_ascii_graphic()));
    }
}

fn walk(reader: &mut dlist::DlistReader<'_>) -> Result<(), dlist::Malformed> {
    match reader.kind() {
        dlist::ItemKind::Text => assert!(reader.text()?.bytes().len() < 1 << 20),
        dlist::ItemKind::List => {
            reader.enter_list()?;
            while reader.more()? {
                walk(reader)?;
            }
        }
        dlist::ItemKind::Map => {
            reader.enter_map()?;
            while reader.key()?.is_some() {
                walk(reader)?;
            }
        }
    }
    Ok(())
}

/// An imapd.conf named `0`, and after each line `---` a file that it may include: `1`, `2`, …
pub(crate) fn imapd_conf(text: &[u8]) {
    let mut files: Vec<Vec<u8>> = vec![Vec::new()];
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line {
            b"---\n" => files.push(Vec::new()),
            line => files.last_mut().unwrap().extend_from_slice(line),
        }
    }
    let mut read = |path: &Path| {
        let number = path.to_str().and_then(|name| name.parse::<usize>().ok());
        let file = number.and_then(|number| files.get(number));
        file.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    match ImapdConf::parse(Path::new("0"), &mut read) {
        Ok((conf, warnings)) => {
            assert!(warnings.iter().all(|warning| warning.place.line != Some(0)));
            assert!(conf.get("configdirectory").is_some());
            match conf.options() {
                Ok(options) => assert!(options.umask <= 0o777),
                Err(error) => assert!(error.place.line >= Some(1)),
            }
        }
        Err(error) => assert!(!error.what.is_empty() && error.place.line != Some(0)),
    }
}

/// Requests of a mail server, in one piece and byte by byte.
pub(crate) fn netstring(stream: &[u8]) {
    const LIMIT: usize = 1000;
    let mut at_once = Vec::new();
    let mut decoder = netstring::Decoder::new(LIMIT);
    decoder.push(stream);
    while let Some(frame) = decoder.next_frame() {
        let frame = frame.map(<[u8]>::to_vec);
        let failed = frame.is_err();
        at_once.push(frame);
        if failed {
            break;
        }
    }

    let mut bytewise = Vec::new();
    let mut decoder = netstring::Decoder::new(LIMIT);
    for byte in stream {
        decoder.push(&[*byte]);
        if let Some(frame) = decoder.next_frame() {
            let frame = frame.map(<[u8]>::to_vec);
            let failed = frame.is_err();
            bytewise.push(frame);
            if failed {
                break;
            }
        }
    }
    assert_eq!(at_once, bytewise);

    let mut again = Vec::new();
    for frame in at_once.iter().flatten() {
        assert!(frame.len() <= LIMIT);
        netstring::encode_into(&mut again, &[frame]);
    }
    assert!(stream.starts_with(&again));
}

/// All results of a decoder for a stream in pieces of this length, as text, up to the first error.
fn said(
    stream: &[u8],
    piece: usize,
    push: &mut dyn FnMut(&[u8]),
    next: &mut dyn FnMut() -> Option<Result<String, String>>,
) -> Vec<Result<String, String>> {
    let mut said = Vec::new();
    for bytes in stream.chunks(piece) {
        push(bytes);
        while let Some(one) = next() {
            let failed = one.is_err();
            said.push(one);
            if failed {
                // Nothing after that is accepted.
                push(b"x\n");
                assert_eq!(next().as_ref(), said.last());
                return said;
            }
        }
    }
    said
}

/// The beginning selects one protocol, however it is split.
fn beginning(stream: &[u8]) {
    let told = Protocol::of(stream);
    let first = (1..=stream.len()).find_map(|end| Protocol::of(&stream[..end]));
    assert_eq!(told, first);
}

/// Requests of Postfix to a policy service, in one piece and byte by byte.
pub(crate) fn policy(stream: &[u8]) {
    beginning(stream);
    let outcomes = [stream.len().max(1), 1, 7].map(|piece| {
        let decoder = std::cell::RefCell::new(policy::Decoder::default());
        said(stream, piece, &mut |bytes| decoder.borrow_mut().push(bytes), &mut || {
            let mut decoder = decoder.borrow_mut();
            let request = decoder.next_request()?;
            Some(request.map(|request| format!("{request:?}")).map_err(|e| e.to_string()))
        })
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
}

/// Lines of either form, in one piece and byte by byte. Every answer is one line.
pub(crate) fn line(stream: &[u8]) {
    beginning(stream);
    let outcomes = [stream.len().max(1), 1, 7].map(|piece| {
        let decoder = std::cell::RefCell::new(line::Decoder::default());
        said(stream, piece, &mut |bytes| decoder.borrow_mut().push(bytes), &mut || {
            let mut decoder = decoder.borrow_mut();
            let request = decoder.next_request()?;
            Some(request.map(|request| format!("{request:?}")).map_err(|e| e.to_string()))
        })
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    let text = String::from_utf8_lossy(stream).into_owned();
    for reply in [Reply::Ok(text.clone()), Reply::Temp(text)] {
        for form in [line::Form::Table, line::Form::Map] {
            let mut out = Vec::new();
            form.encode_into(&mut out, &reply);
            assert_eq!(out.iter().position(|b| *b == b'\n'), Some(out.len() - 1));
            assert!(form == line::Form::Map || out.len() <= line::LINE_LIMIT);
        }
    }
}

/// Packets of an MTA to its filter, in one piece and byte by byte.
pub(crate) fn milter(stream: &[u8]) {
    beginning(stream);
    let outcomes = [stream.len().max(1), 1, 7].map(|piece| {
        let decoder = std::cell::RefCell::new(milter::Decoder::default());
        said(stream, piece, &mut |bytes| decoder.borrow_mut().push(bytes), &mut || {
            let mut decoder = decoder.borrow_mut();
            let command = decoder.next_command()?;
            if let Ok(milter::Command::Negotiate(offer)) = command {
                let mut out = Vec::new();
                offer.encode_into(&mut out);
                assert_eq!(out.len(), 17);
                let [.., a, b, c, d] = out[..] else { return None };
                assert_eq!(u32::from_be_bytes([a, b, c, d]) & !offer.steps, 0);
            }
            Some(command.map(|command| format!("{command:?}")).map_err(|e| e.to_string()))
        })
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
}

/// Replies of a backend, in one piece and byte by byte. No reply is lost or held back, and only that of an
/// unknown user is changed.
pub(crate) fn lmtp_replies(replies: &[u8]) {
    let outcomes = [replies.len().max(1), 1, 7].map(|piece| {
        let (mut filter, mut out) = (ReplyFilter::default(), Vec::new());
        let said = replies.chunks(piece).try_for_each(|piece| filter.feed(piece, &mut out));
        (out, said)
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    let [(out, said), ..] = outcomes;

    let ends = |line: &&[u8]| line.ends_with(b"\n") && line.get(3) != Some(&b'-');
    let rest = &replies[out.len()..];
    match said {
        Ok(()) => assert!(!rest.split_inclusive(|b| *b == b'\n').any(|line| ends(&line))),
        Err(_) => assert!(rest.len() > REPLY_LIMIT),
    }
    let mut at = 0;
    let mut lines = Vec::new();
    for line in out.split_inclusive(|b| *b == b'\n') {
        let before = &replies[at..at + line.len()];
        at += line.len();
        lines.push((before, line));
        if !ends(&line) {
            continue;
        }
        let refused = |line: &[u8]| {
            let mut words = line.splitn(2, |b| b.is_ascii_whitespace());
            let code = words.next().unwrap_or_default();
            let text = words.next().unwrap_or_default();
            let longer = text.get(5).is_some_and(u8::is_ascii_digit);
            code.len() == 3 && code[0] == b'5' && text.starts_with(b"5.1.1") && !longer
        };
        assert!(!refused(line));
        for (before, after) in lines.drain(..) {
            let changed = before.iter().zip(after).enumerate().filter(|(_, (b, a))| b != a);
            let mut changed = changed.map(|(at, (_, after))| (at, *after));
            assert!(changed.all(|change| matches!(change, (0 | 4, b'4'))));
            if before == after && ends(&before) {
                assert!(!refused(before));
            }
        }
    }
    assert!(lines.is_empty());
    // Replies that may differ from the backend's: those with 5.1.1 or 530, and each refusal before a
    // message, in the greeting or of LHLO.
    let unknown = replies.windows(5).any(|text| text == b"5.1.1");
    let mut ended = replies.split_inclusive(|b| *b == b'\n').filter(ends);
    let before_mail = ended.clone().take(2).any(|line| line.starts_with(b"5"));
    let no_login = ended.any(|line| line.starts_with(b"530"));
    assert!(unknown || before_mail || no_login || replies.starts_with(&out));
}

/// Responses of a MUPDATE server, in one piece and byte by byte: to a login and the stream after it, and to
/// questions.
pub(crate) fn mupdate(said: &[u8]) {
    let pieces = [said.len().max(1), 1, 7];
    let mut outcomes = pieces.map(|piece| stream(None, said, piece)).into_iter();
    let at_once = outcomes.next();
    assert!(outcomes.all(|outcome| Some(outcome) == at_once));
    let mut outcomes = pieces.map(|piece| find(said, piece)).into_iter();
    let at_once = outcomes.next();
    assert!(outcomes.all(|outcome| Some(outcome) == at_once));
    banner(said);
    #[cfg(feature = "daemon")]
    login::login(said);
}

fn session() -> Session {
    let banner = Banner {
        server: String::new(),
        implementation: String::new(),
        release: String::new(),
        role: Role::Master,
        mechanisms: Vec::new(),
        starttls: false,
        compress: false,
    };
    Session::new(banner, "", false, Input::new(MAX_LINE))
}

fn usable(record: &Record) {
    let server = record.server.as_deref().unwrap_or("local");
    assert!(!server.is_empty());
    assert!(server.bytes().chain(record.partition.bytes()).all(|b| b.is_ascii_graphic()));
}

/// The events, and the reason of their end.
fn stream(session_: Option<Session>, said: &[u8], piece: usize) -> (Vec<Event>, Failure) {
    let session = session_.unwrap_or_else(session);
    let mut stream = Stream::new(session, Timings::default(), Duration::ZERO);
    let mut events = Vec::new();
    let mut listed = false;
    for said in said.chunks(piece).chain([&[][..]]) {
        stream.receive(said, Duration::ZERO);
        if said.is_empty() {
            stream.closed();
        }
        loop {
            match stream.next() {
                Ok(Some(event)) => {
                    match &event {
                        Event::Record(_, record) => usable(record),
                        Event::Listed => assert!(!std::mem::replace(&mut listed, true)),
                        Event::Deleted(_) | Event::Current { .. } => assert!(listed),
                    }
                    events.push(event);
                }
                Ok(None) => break,
                Err(failure) => {
                    assert_eq!(stream.next(), Err(failure.clone()));
                    assert_eq!(stream.deadline(), None);
                    return (events, failure);
                }
            }
        }
    }
    unreachable!("the end is a failure, too");
}

/// The answers to three questions, one for each.
fn find(said: &[u8], piece: usize) -> (Vec<Finding>, Failure) {
    let mut finder = Finder::new(session(), Timings::default(), Duration::ZERO);
    for name in ["user.jane", "user.nobody", "user.bob"] {
        finder.ask(MailboxName::new(name).unwrap(), Duration::ZERO).unwrap();
    }
    finder.output().clear();
    let mut findings = Vec::new();
    for said in said.chunks(piece).chain([&[][..]]) {
        finder.receive(said, Duration::ZERO);
        if said.is_empty() {
            finder.closed();
        }
        loop {
            match finder.next() {
                Ok(Some((_, _, finding))) => {
                    if let Finding::Found(record) = &finding {
                        usable(record);
                    }
                    findings.push(finding);
                }
                Ok(None) => break,
                Err(failure) => {
                    assert_eq!((findings.len(), finder.open()), (3, 0));
                    return (findings, failure);
                }
            }
        }
    }
    unreachable!("the end is a failure, too");
}

fn banner(said: &[u8]) {
    use murder_route::mupdate::response::Response;
    let mut input = Input::new(1000);
    input.push(said);
    let mut reader = BannerReader::default();
    while let Ok(Some(response)) = Response::read(&mut input) {
        match reader.take(&response) {
            Ok(None) => {}
            Ok(Some(banner)) => {
                assert!(banner.mechanisms.len() <= 64);
                break;
            }
            Err(_) => break,
        }
    }
}

#[cfg(feature = "daemon")]
mod login {
    use std::time::Duration;

    use murder_route::model::secret::Secret;
    use murder_route::mupdate::{Credentials, Login, Policy, Step, WhenTls};

    fn logged_in(said: &[u8], piece: usize, tls: WhenTls) -> String {
        let credentials = Credentials {
            authname: "router".into(),
            password: Some(Secret::new("geheim")),
            ..Credentials::default()
        };
        let policy = Policy { tls, allow_plaintext: true, ..Policy::default() };
        let mut login = Login::new(policy, credentials, Duration::ZERO);
        let mut pieces = said.chunks(piece);
        loop {
            match login.step() {
                Step::Wait => match pieces.next() {
                    Some(said) => login.receive(said, Duration::ZERO),
                    None => login.closed(),
                },
                Step::StartTls => login.tls_is_up(Duration::ZERO, true),
                Step::In(session) => {
                    let rest: Vec<u8> = pieces.flatten().copied().collect();
                    let banner = session.banner.clone();
                    let stream = super::stream(Some(session), &rest, piece);
                    return format!("{banner:?} {stream:?}");
                }
                Step::Failed(failure) => {
                    let shown = format!("{failure:?} {failure}");
                    assert!(!shown.contains("geheim"));
                    return shown;
                }
            }
        }
    }

    pub(super) fn login(said: &[u8]) {
        let at_once = logged_in(said, said.len().max(1), WhenTls::Off);
        assert_eq!(logged_in(said, 1, WhenTls::Off), at_once);
        // In one piece the rest is an attack, since it comes before TLS.
        logged_in(said, said.len().max(1), WhenTls::IfOffered);
        logged_in(said, 1, WhenTls::IfOffered);
    }
}
