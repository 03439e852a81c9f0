use super::*;
use crate::routing::route::Decision;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

const UNKNOWN: &[u8] = b"18:OK outcome=unknown,";

/// A daemon that accepts this number of connections, one after the other, and a client of it.
fn daemon(
    talks: Vec<Box<dyn FnOnce(UnixStream) + Send>>,
    ask: impl FnOnce(&DaemonClient, &ConnectionPool),
) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        for talk in talks {
            talk(listener.accept().unwrap().0);
        }
    });
    let at = [Endpoint::Unix("/nonexistent/socket".into()), Endpoint::Unix(path)];
    ask(&DaemonClient::at(at), &ConnectionPool::default());
    thread.join().unwrap();
}

/// Reads one question.
fn hear(stream: &mut UnixStream) {
    let mut heard = Vec::new();
    while heard.last() != Some(&b',') {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        heard.push(byte[0]);
    }
}

fn saying(answer: &'static [u8]) -> Box<dyn FnOnce(UnixStream) + Send> {
    Box::new(move |mut stream| {
        hear(&mut stream);
        stream.write_all(answer).unwrap();
    })
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn restarted_daemon_is_asked_again() {
    daemon(vec![saying(UNKNOWN), saying(UNKNOWN)], |daemon, pool| {
        for _ in 0..2 {
            let answer = daemon.ask(pool, &[b"a@b"], LONG).remove(0).unwrap();
            assert_eq!(answer.decision, Decision::Unknown);
        }
    });
}

#[test]
fn many_recipients_asked_at_once_each_get_their_own_answer() {
    const MANY: usize = 500;
    let echo: Box<dyn FnOnce(UnixStream) + Send> = Box::new(|mut stream| {
        let mut decoder = Decoder::new(REQUEST_LIMIT);
        let (mut piece, mut answered) = ([0; 1000], 0);
        while answered < MANY {
            let read = stream.read(&mut piece).unwrap();
            assert_ne!(read, 0);
            decoder.push(&piece[..read]);
            while let Some(frame) = decoder.next_frame() {
                let key = String::from_utf8_lossy(Request::parse(frame.unwrap()).key).into_owned();
                let mut out = Vec::new();
                Reply::Ok(format!("outcome=unknown reason={key}")).encode_into(&mut out);
                stream.write_all(&out).unwrap();
                answered += 1;
            }
        }
    });
    daemon(vec![echo], |daemon, pool| {
        let mut asked: Vec<Vec<u8>> = (0..MANY).map(|n| format!("u{n}").into_bytes()).collect();
        asked[100] = vec![b'a'; REQUEST_LIMIT];
        let questions: Vec<&[u8]> = asked.iter().map(Vec::as_slice).collect();
        let answers = daemon.ask(pool, &questions, LONG);
        assert_eq!(answers.len(), MANY);
        for (n, answer) in answers.iter().enumerate() {
            match answer {
                Ok(route) => assert_eq!(route.reason, format!("u{n}")),
                Err(why) => assert!(n == 100 && why.contains("too long"), "{n}: {why}"),
            }
        }
    });
}

#[test]
fn invalid_answer_of_the_daemon_makes_no_recipient_unknown() {
    for (said, why, good) in [
        (&b""[..], "hung up", false),
        (b"18:OK outcome=unk", "hung up", false),
        (b"x", "netstring", false),
        (b"99999999:", "netstring", false),
        (b"9:NOTFOUND ,", "another release", true),
        (b"9:OK hello!,", "another release", true),
        (b"10:TEMP later,", "later", true),
    ] {
        daemon(vec![saying(said)], |daemon, pool| {
            let told = daemon.ask(pool, &[b"a@b"], LONG).remove(0).unwrap_err();
            assert!(told.contains(why), "{told}");
            let kept = pool.idle.lock().unwrap().len();
            assert_eq!(kept == 1, good, "{}", said.escape_ascii());
        });
    }
}

#[test]
fn surplus_answer_is_not_taken_for_the_next_question() {
    let twice = b"18:OK outcome=unknown,18:OK outcome=unknown,";
    daemon(vec![saying(twice)], |daemon, pool| {
        assert!(daemon.ask(pool, &[b"a@b"], LONG).remove(0).is_ok());
        assert!(pool.take().is_none());
    });
}

#[test]
fn hanging_daemon_is_not_waited_for_beyond_the_deadline() {
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let hang: Box<dyn FnOnce(UnixStream) + Send> = Box::new(move |mut stream| {
        hear(&mut stream);
        // A byte now and then does not extend the deadline.
        while wait.recv_timeout(Duration::from_millis(5)).is_err() {
            let _ = stream.write_all(b"1");
        }
    });
    daemon(vec![hang], |daemon, pool| {
        let answers = daemon.ask(pool, &[b"a@b", b"c@d"], Duration::from_millis(100));
        over.send(()).unwrap();
        assert!(answers.iter().all(Result::is_err), "{answers:?}");
        assert!(pool.take().is_none());
    });
}

#[test]
fn missing_daemon_is_reported_with_its_address() {
    let at = [Endpoint::Unix("/nonexistent/socket".into())];
    let asked = |daemon: &DaemonClient| {
        daemon.ask(&ConnectionPool::default(), &[b"a@b"], LONG).remove(0).unwrap_err()
    };
    let told = asked(&DaemonClient::at(at));
    assert!(told.contains("/nonexistent/socket"), "{told}");
    let told = asked(&DaemonClient::at([]));
    assert!(told.contains("no daemon is configured"), "{told}");
}

#[test]
fn endpoint_that_cannot_be_used_is_named_with_its_reason() {
    // No name has a label that long, so no name server is asked.
    let host = format!("inet:{}.invalid:10026", "x".repeat(64));
    let at = [host.as_str(), "inet:127.0.0.1:0", "systemd:x.socket"];
    let daemon = DaemonClient::at(at.map(|at| at.parse().unwrap()));
    assert!(!daemon.is_configured());
    assert_eq!(daemon.unusable().len(), at.len());
    for (why, at) in daemon.unusable().iter().zip(at) {
        assert!(why.contains(at), "{why}");
    }
    let told = daemon.ask(&ConnectionPool::default(), &[b"a@b"], LONG).remove(0).unwrap_err();
    assert!(told.contains("systemd:x.socket"), "{told}");
}

#[test]
fn silent_daemon_is_not_asked_again_during_the_backoff() {
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let hang: Box<dyn FnOnce(UnixStream) + Send> = Box::new(move |stream| {
        let _ = wait.recv();
        drop(stream);
    });
    daemon(vec![hang, saying(UNKNOWN), saying(UNKNOWN)], |daemon, pool| {
        let limit = Duration::from_millis(300);
        let why = daemon.ask(pool, &[b"a@b"], limit).remove(0).unwrap_err();
        assert!(why.contains("not answered within 0.3 s"), "{why}");
        // A second connection would be answered.
        over.send(()).unwrap();
        let waited = pool.backoff().unwrap().waited;
        assert_eq!(waited, limit);
        // Long enough that the backoff does not end on a slow machine.
        pool.backoff().as_mut().unwrap().until += LONG;
        for limit in [LONG, Duration::from_millis(1)] {
            let asked = daemon.ask(pool, &[b"a@b", b"c@d"], limit);
            assert!(asked.iter().all(Result::is_err), "{asked:?}");
        }
        // A health check asks during the backoff, and ends it with the answer.
        daemon.ping(pool, LONG).unwrap();
        assert!(pool.backoff().is_none());
        pool.idle.lock().unwrap().clear();
        assert!(daemon.ask(pool, &[b"a@b"], LONG).remove(0).is_ok());
    });
}

#[test]
fn endpoint_that_accepts_nothing_leaves_time_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let full = dir.path().join("full");
    // A queue for one connection, which is taken: the next one waits for ever.
    let listening = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(listening.as_raw_fd(), &UnixAddr::new(&full).unwrap()).unwrap();
    listen(&listening, Backlog::new(0).unwrap()).unwrap();
    let _waiting = UnixStream::connect(&full).unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || saying(UNKNOWN)(listener.accept().unwrap().0));
    let daemon = DaemonClient::at([Endpoint::Unix(full), Endpoint::Unix(path)]);
    let answer =
        daemon.ask(&ConnectionPool::default(), &[b"a@b"], Duration::from_secs(4)).remove(0);
    assert_eq!(answer.unwrap().decision, Decision::Unknown);
    thread.join().unwrap();
}

#[test]
fn daemon_is_not_asked_without_any_time() {
    daemon(vec![], |daemon, pool| {
        let why = daemon.ask(pool, &[b"a@b"], Duration::ZERO).remove(0).unwrap_err();
        assert!(why.contains("may wait no longer"), "{why}");
        assert!(pool.backoff().is_none());
    });
}

#[test]
fn daemon_is_asked_where_it_listens() {
    let listen = |endpoint: &str, protocols: &[Protocol]| Listen {
        protocols: protocols.iter().copied().collect(),
        ..Listen::at(endpoint.parse().unwrap())
    };
    let asked = |listeners: Vec<Listen>| {
        DaemonClient::endpoints(listeners).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let usual = [format!("unix:{DEFAULT_SOCKET}")];
    assert_eq!(asked(vec![]), usual);
    assert_eq!(asked(vec![listen("systemd:murder-route.socket", &Protocol::ALL)]), usual);
    let milter = listen("unix:/run/milter", &[Protocol::Milter]);
    let other = listen("inet:127.0.0.1:10028", &[Protocol::Line, Protocol::Socketmap]);
    assert_eq!(asked(vec![milter, other]), ["inet:127.0.0.1:10028"]);
}
