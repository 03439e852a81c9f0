//! Processes that are killed, and processes that run at the same time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::{AnonymousRights, Record, State};
use crate::replica::{FullSync, HeldBack, SyncContext, Transaction as _};
use crate::testing::random::Random;

type Model = BTreeMap<Vec<u8>, Record>;

fn name(n: u64) -> MailboxName {
    MailboxName::new(format!("user.u{n:04}")).unwrap()
}

fn record(server: &str) -> Record {
    Record {
        state: State::Active,
        server: Some(server.into()),
        partition: "default".into(),
        anonymous: AnonymousRights::default(),
    }
}

/// The name whose record holds the number of the last transaction.
fn last() -> MailboxName {
    MailboxName::new("user.last").unwrap()
}

/// The changes of transaction `n`: every tenth is a full list.
fn transaction(n: u64) -> (bool, Vec<(MailboxName, Option<Record>)>) {
    let mut random = Random(n);
    let full = n.is_multiple_of(10);
    let mut rows = vec![(last(), Some(record(&n.to_string())))];
    for i in 0..if full { 300 } else { 1 + random.below(40) } {
        let name = name(if full { i } else { random.below(300) });
        let gone = random.below(20) == 0;
        rows.push((name, (!gone).then(|| record(&format!("be{}", random.below(4))))));
    }
    (full, rows)
}

fn model(through: u64) -> Model {
    let mut model = Model::new();
    for n in through / 10 * 10..=through {
        for (name, record) in transaction(n).1 {
            match record {
                Some(record) => model.insert(name.as_bytes().to_vec(), record),
                None => model.remove(name.as_bytes()),
            };
        }
    }
    model
}

fn last_transaction(list: &ReplicaList) -> Option<u64> {
    match list.lookup(&last()) {
        Lookup::Present(record) => Some(record.server?.parse().unwrap()),
        _ => None,
    }
}

/// The part of a test that runs in a child process.
#[test]
#[ignore = "the other tests run it"]
fn child() {
    let Ok(what) = std::env::var("REPLICA_CHILD") else { return };
    let dir = PathBuf::from(std::env::var("REPLICA_DIR").unwrap());
    crate::os::map::guard();
    match &*what {
        "write" => write_until_killed(&dir),
        "hang" => hang(&dir),
        _ => answer(&dir),
    }
}

fn write_until_killed(dir: &Path) {
    let mut place = ReplicaWriter::open(dir).unwrap();
    let first = last_transaction(&place.list()).map_or(0, |last| last + 1);
    let mut out = std::io::stdout();
    for n in first.. {
        let (full, rows) = transaction(n);
        let mut change = place.begin().unwrap();
        if full {
            let mut listing = FullSync::begin(&change).unwrap();
            for (name, record) in &rows {
                if let Some(record) = record {
                    listing.record(&mut change, name, record, UNIX_EPOCH).unwrap();
                }
            }
            listing.finish(&mut change, &heard(UNIX_EPOCH), Duration::ZERO).unwrap();
        } else {
            for (name, record) in &rows {
                match record {
                    Some(record) => drop(change.put(name, record, ModTime::NOT_LATELY).unwrap()),
                    None => drop(change.delete(name).unwrap()),
                }
            }
        }
        writeln!(out, "\nbegun {n}").unwrap();
        if full {
            change.commit_to_disk().unwrap()
        } else {
            change.commit().unwrap()
        }
        writeln!(out, "done {n}").unwrap();
    }
}

/// Answers lookups of the names on standard input.
fn answer(dir: &Path) {
    let list = ReplicaList::open(dir).unwrap();
    println!("\nready");
    for line in std::io::stdin().lines() {
        match list.lookup(&MailboxName::new(line.unwrap()).unwrap()) {
            Lookup::Present(record) => println!("present {}", record.server.unwrap()),
            Lookup::Absent => println!("absent"),
            other => println!("unsure {other:?}"),
        }
    }
}

/// Stops in the middle of a lookup.
fn hang(dir: &Path) {
    let store = super::env::ReplicaEnv::of(dir).unwrap();
    let read = store.read(|_, _| {
        println!("\nready");
        std::io::stdin().lines().for_each(drop);
        Ok(())
    });
    read.unwrap();
}

fn spawn(what: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "replica::store::crash_tests::child", "--ignored", "--nocapture"])
        .env("REPLICA_CHILD", what)
        .env("REPLICA_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The child's answers.
struct Reader(Child, BufReader<std::process::ChildStdout>);

impl Reader {
    fn spawn(what: &str, dir: &Path) -> Self {
        let mut child = spawn(what, dir);
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line != "ready\n" {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0);
        }
        Self(child, reader)
    }

    fn ask(&mut self, name: &MailboxName) -> String {
        writeln!(self.0.stdin.as_ref().unwrap(), "{name}").unwrap();
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn writer_killed_at_any_time_leaves_one_commit_or_the_next() {
    let seed = UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let list = ReplicaList::open(dir.path()).unwrap();
    for round in 0..25 {
        let mut child = spawn("write", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut begun, mut done) = (None, None);
        let mut see = |line: std::io::Result<String>| {
            let line = line.unwrap();
            if let Some(n) = line.strip_prefix("begun ") {
                begun = Some(n.parse::<u64>().unwrap());
            } else if let Some(n) = line.strip_prefix("done ") {
                done = Some(n.parse::<u64>().unwrap());
            }
        };
        // Past the output of the test runner, and the first transaction.
        for _ in 0..8 + random.below(60) {
            see(lines.next().expect("the child has ended by itself"));
        }
        // Somewhere within a transaction.
        std::thread::sleep(Duration::from_micros(random.below(2000)));
        child.kill().unwrap();
        lines.for_each(&mut see);
        child.wait().unwrap();
        let (begun, done) = (begun.unwrap(), done.unwrap());

        let now = last_transaction(&list);
        let now = now.unwrap_or_else(|| panic!("round {round}: {:?}", list.lookup(&last())));
        assert!((done..=begun).contains(&now), "round {round}: {done} {now} {begun}");
        let mut found = Model::new();
        let each = list.each(b"", &mut |name, record| {
            found.insert(name.as_bytes().to_vec(), record.clone());
            ControlFlow::Continue(())
        });
        each.unwrap();
        assert_eq!(found, model(now), "round {round}, after {now}");
    }
}

fn heard(now: SystemTime) -> SyncContext<'static> {
    SyncContext { master: "m", release: "3.6.1", now, passed: Duration::ZERO }
}

/// A full list with this number of names, all on this server.
fn write(place: &mut ReplicaWriter, names: u64, server: &str) -> Result<(), Error> {
    let mut change = place.begin()?;
    let mut listing = FullSync::begin(&change)?;
    for n in 0..names {
        listing.record(&mut change, &name(n), &record(server), SystemTime::now())?;
    }
    listing.finish(&mut change, &heard(SystemTime::now()), Duration::ZERO)?;
    change.commit()
}

#[test]
fn reader_in_another_process_follows_when_the_file_outgrows_map() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open_sized(dir.path(), 256 << 10).unwrap();
    write(&mut place, 100, "be1").unwrap();
    let mut reader = Reader::spawn("read", dir.path());
    assert_eq!(reader.ask(&name(7)), "present be1");
    assert_eq!(reader.ask(&name(9999)), "absent");
    write(&mut place, 100, "be2").unwrap();
    assert_eq!(reader.ask(&name(7)), "present be2");
    while let Err(error) = write(&mut place, 10_000, "be3") {
        assert!(matches!(error, Error::Full(_)), "{error}");
    }
    assert_eq!(reader.ask(&name(9999)), "present be3");
    assert_eq!(reader.ask(&name(7)), "present be3");
}

#[test]
fn reader_killed_in_a_lookup_does_not_keep_old_pages() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    let len = || std::fs::metadata(dir.path().join("data.mdb")).unwrap().len();
    let grow = |place: &mut ReplicaWriter| {
        let before = len();
        for n in 0..10 {
            write(place, 2000, &format!("be{n}")).unwrap();
        }
        len() - before
    };
    grow(&mut place);
    let reader = Reader::spawn("hang", dir.path());
    assert!(grow(&mut place) > 0, "it is kept for the readers");
    drop(reader);
    drop(place);
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    grow(&mut place);
    assert_eq!(grow(&mut place), 0);
}

#[test]
fn loss_is_accepted_from_another_process_beside_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    assert!(accept(dir.path()).is_err());
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    assert_eq!(accept(dir.path()).unwrap(), Accepted::default());
    let now = SystemTime::now();
    let (began, last, accepted) = (Duration::ZERO, Duration::ZERO, false);
    let held_back = HeldBack { since: now, began, last, had: 10, lost: 10, lacked: None, accepted };
    let mut change = place.begin().unwrap();
    let mut about = change.about().unwrap();
    about.held_back = Some(held_back);
    change.set_about(&about).unwrap();
    change.commit().unwrap();
    assert!(accept(dir.path()).unwrap().held_back.unwrap().accepted);
    let (about, _) = place.about().unwrap();
    assert!(about.held_back.as_ref().unwrap().accepted);
    assert!(about.wants_list(Duration::from_secs(600)));
}
