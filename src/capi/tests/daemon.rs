//! Recipients for which the library asks the daemon.

use super::*;

#[test]
fn recently_changed_record_is_answered_with_or_without_daemon() {
    asked_of_the_daemon_and_answered_without_it(Origin::MailboxesDb);
    asked_of_the_daemon_and_answered_without_it(Origin::Replica);
}

fn asked_of_the_daemon_and_answered_without_it(origin: Origin) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let library = library_with_jane(origin, directory.path(), 5, &socket);
    // No daemon listens.
    let told = library.look_up(b"jane@example.org");
    assert_eq!((server(&told), told.origin), (Some("be1.example.org"), origin));
    // A daemon with a newer record, which then hangs.
    let listener = UnixListener::bind(&socket).unwrap();
    let answer = b"108:OK outcome=deliver transport=lmtp backend=inet:be2.example.org:2003 \
                   mailbox=user.jane server=be2.example.org,";
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let daemon = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut heard = [0; 100];
        assert_ne!(stream.read(&mut heard).unwrap(), 0);
        stream.write_all(answer).unwrap();
        wait.recv().unwrap();
    });
    let told = library.look_up(b"jane@example.org");
    assert_eq!((server(&told), told.origin), (Some("be2.example.org"), Origin::Daemon));
    let told = library.look_up(b"jane@example.org");
    assert_eq!((server(&told), told.origin), (Some("be1.example.org"), origin));
    over.send(()).unwrap();
    daemon.join().unwrap();
}

#[test]
fn record_that_did_not_change_recently_is_not_forwarded() {
    for origin in [Origin::MailboxesDb, Origin::Replica] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let library = library_with_jane(origin, directory.path(), 3600, &socket);
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let told = library.look_up(b"jane@example.org");
        assert_eq!((server(&told), told.origin), (Some("be1.example.org"), origin));
        assert!(listener.accept().is_err());
    }
}

/// A daemon that gives these answers to one question after the other.
fn daemon_saying(
    socket: &Path,
    said: &'static [&'static str],
) -> std::thread::JoinHandle<std::io::Result<()>> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let mut stream = listener.accept()?.0;
        for said in said {
            let mut heard = [0; 100];
            assert_ne!(stream.read(&mut heard)?, 0);
            write!(stream, "{}:{said},", said.len())?;
        }
        Ok(())
    })
}

#[test]
fn foreign_or_deferred_answer_of_the_daemon_becomes_a_deferral() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let library = library_with_jane(Origin::MailboxesDb, directory.path(), 5, &socket);
    let said = &["OK outcome=foreign", "OK outcome=deferred cause=list", "NOTFOUND ", "OK x"];
    let daemon = daemon_saying(&socket, said);
    for said in said {
        let told = library.look_up(b"nobody@example.org");
        assert_eq!(told.route.decision.as_str(), "deferred", "{said}: {told:?}");
    }
    daemon.join().unwrap().unwrap();
}

#[test]
fn daemon_in_doubt_does_not_delay_a_recently_changed_recipient() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let library = library_with_jane(Origin::MailboxesDb, directory.path(), 5, &socket);
    let daemon = daemon_saying(
        &socket,
        &[
            "OK outcome=deferred cause=list",
            "OK outcome=foreign",
            "OK outcome=deferred cause=mailbox mailbox=user.jane",
        ],
    );
    for _ in 0..2 {
        let told = library.look_up(b"jane@example.org");
        assert_eq!((server(&told), told.origin), (Some("be1.example.org"), Origin::MailboxesDb));
    }
    // But if the master has the mailbox as reserved, a backend would refuse the message permanently.
    let told = library.look_up(b"jane@example.org");
    assert_eq!((told.route.decision.as_str(), told.origin), ("deferred", Origin::Daemon));
    daemon.join().unwrap().unwrap();
}

/// A recipient of the skiplist that has a backend.
const KNOWN: &[u8] = b"a-b95@example.net";

/// A library over a skiplist that Cyrus' writer has locked, in a murder whose daemon hangs at the
/// socket; with the lock and the socket, which must be kept.
fn locked_and_hung(directory: &Path, limit: Duration) -> (Library, File, UnixListener) {
    let list = directory.join("mailboxes.db");
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mailboxes/current-keys");
    fs::copy(format!("{fixture}/skiplist.db"), &list).unwrap();
    let writer = File::options().write(true).open(&list).unwrap();
    lock::hold_for_writing(&writer);
    let config = directory.join("murder-route.toml");
    let text = "configdirectory: /nonexistent\nvirtdomains: userid\ndefaultdomain: example.org\n";
    fs::write(directory.join("imapd.conf"), text).unwrap();
    let text = "domains = [\"example.net\"]\nmailboxes-db = \"mailboxes.db\"\n\
                imapd-conf = \"imapd.conf\"\n[mupdate]\nservers = [\"127.0.0.1:1\"]\npassword-file = \"/nonexistent\"\n";
    fs::write(&config, text).unwrap();
    let socket = directory.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let given = Overrides { config: Some(config), ..Overrides::default() };
    let daemon = Some(vec![Endpoint::Unix(socket)]);
    (Library::open(given, daemon, limit).unwrap(), writer, listener)
}

#[test]
fn deadline_counts_once_for_a_batch_with_locks_and_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let (library, _writer, listener) = locked_and_hung(directory.path(), LONG);
    let recipients = vec![KNOWN; 200];
    let begun = Instant::now();
    let told = library.look_up_all(&recipients);
    // A wait for each of them would take 200 s or more, for locks alone.
    assert!(begun.elapsed() < 10 * LONG, "{:?}", begun.elapsed());
    for told in &told {
        assert!(matches!(told.route.decision, Decision::Deferred(_)), "{told:?}");
        assert!(told.route.reason.contains("locked"), "{told:?}");
    }
    // All of them went over one connection.
    assert!(listener.accept().is_ok());
    assert!(listener.accept().is_err());
}

#[test]
fn call_without_time_takes_neither_a_lock_nor_a_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (library, writer, listener) = locked_and_hung(directory.path(), LONG);
    let told = library.look_up_within(KNOWN, Duration::ZERO);
    assert_eq!(told.route.decision, Decision::Deferred(Cause::List), "{told:?}");
    assert!(told.route.reason.contains("may wait no longer"), "{told:?}");
    let health = library.check(Duration::ZERO);
    assert_eq!((health.overall, health.daemon.state), (Health::Unchecked, Health::Unchecked));
    assert_eq!(health.mailboxes_db.state, Health::Bad);
    assert!(listener.accept().is_err());
    // A free lock needs no wait.
    drop(writer);
    let told = library.look_up_within(KNOWN, Duration::ZERO);
    assert_eq!(told.route.decision.as_str(), "deliver", "{told:?}");
    assert_eq!(library.check(Duration::ZERO).mailboxes_db.state, Health::Good);
    let told = library.look_up_within(b"nobody@example.net", Duration::ZERO);
    assert!(matches!(told.route.decision, Decision::Deferred(_)), "{told:?}");
    assert!(listener.accept().is_err());
}

#[test]
fn calls_after_a_silent_daemon_are_answered_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (library, writer, listener) = locked_and_hung(directory.path(), LONG);
    drop(writer);
    for _ in 0..100 {
        let told = library.look_up(b"nobody@example.net");
        assert!(matches!(told.route.decision, Decision::Deferred(_)), "{told:?}");
        assert!(!told.route.reason.is_empty());
        assert_eq!(library.look_up(KNOWN).route.decision.as_str(), "deliver");
    }
    let mut connections = 0;
    while listener.accept().is_ok() {
        connections += 1;
    }
    // More than one only on a machine that needs seconds for a look-up.
    assert!(connections < 10, "{connections}");
    let health = library.check(Duration::from_millis(10));
    assert_eq!((health.overall, health.daemon.state), (Health::HitsOnly, Health::Bad));
}
