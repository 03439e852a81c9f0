//! Compares the reader without LMDB with LMDB.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, SystemTime};

use super::reader::HIT_AGE;
use crate::model::list::{Lookup, MailboxList};
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::os::pinned_path::PinnedPath;
use crate::replica::Transaction as _;
use crate::replica::store::tests::{list_of, name, record};
use crate::replica::store::*;
use crate::testing::random::Random;

fn lockless(dir: &Path) -> LocklessReplica {
    LocklessReplica::at(Arc::new(PinnedPath::at(dir.join("data.mdb"))), HIT_AGE)
}

fn all(list: &dyn MailboxList, prefix: &str) -> Vec<(MailboxName, Record)> {
    let mut rows = Vec::new();
    let visit = &mut |name: &MailboxName, record: &Record| {
        rows.push((name.clone(), record.clone()));
        ControlFlow::Continue(())
    };
    list.each(prefix.as_bytes(), visit).unwrap();
    rows
}

#[test]
fn both_readers_agree_on_a_changing_replica() {
    let seed = 7;
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    let (with, without) = (place.list(), lockless(dir.path()));
    assert!(matches!(without.lookup(&name(1)), Lookup::Unsure(_)));
    list_of(&mut place, 0..3000, 0);
    for round in 0..60 {
        let mut change = place.begin().unwrap();
        for _ in 0..random.below(100) {
            let name = name(random.below(4000));
            if random.below(3) == 0 {
                change.delete(&name).unwrap();
            } else {
                // Some values are too long for a page; LMDB keeps those on overflow pages.
                let long = if random.below(20) == 0 { 5000 } else { 30 };
                let server = format!("be{}", "x".repeat(random.below(long) as usize));
                let ago = Duration::from_secs(3600 * random.below(2));
                let changed = ModTime::at(SystemTime::now() - ago);
                change.put(&name, &record(&server), changed).unwrap();
            }
        }
        change.commit().unwrap();
        for _ in 0..200 {
            let name = name(random.below(4100));
            let both = [&without as &dyn MailboxList, &with].map(|list| list.lookup_dated(&name));
            assert_eq!(both[0], both[1], "seed {seed}, round {round}");
        }
    }
    for prefix in ["", "user.u0001", "user.u0002999", "nobody"] {
        assert_eq!(all(&without, prefix), all(&with, prefix), "seed {seed}");
    }
    assert_eq!(without.about().unwrap(), with.about().map_err(|e| e.to_string()).unwrap());
    assert_eq!(without.key_generation(), with.key_generation());
}

#[test]
fn unregistered_reader_never_sees_half_a_commit() {
    const NAMES: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..NAMES, 0);
    // The round that is being committed, and the last committed one.
    let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in 0..3 {
            let (begun, done, over) = (&begun, &done, &over);
            let list = lockless(dir.path());
            scope.spawn(move || {
                let mut random = Random(reader);
                let mut looks = 0u64;
                while over.load(SeqCst) == 0 || looks < 1000 {
                    looks += 1;
                    let before = done.load(SeqCst);
                    let n = random.below(NAMES);
                    let found = list.lookup(&name(n));
                    let after = begun.load(SeqCst);
                    let Lookup::Present(record) = &found else { panic!("{n}: {found:?}") };
                    let server = record.server.as_deref().unwrap();
                    let Some(round) = server.strip_prefix("round-") else { continue };
                    let round: u64 = round.parse().unwrap();
                    assert!((before..=after).contains(&round), "{before} {round} {after}");
                }
            });
        }
        let mut random = Random(99);
        for round in 1..400 {
            begun.store(round, SeqCst);
            let mut change = place.begin().unwrap();
            for n in 0..NAMES {
                let record = record(&format!("round-{round:09}"));
                change.put(&name(n), &record, ModTime::NOT_LATELY).unwrap();
            }
            // Other names come and go, so that pages are taken and given back.
            for _ in 0..random.below(200) {
                let name = |n: u64| name(NAMES + n);
                let other = record("else");
                change.put(&name(random.below(2000)), &other, ModTime::NOT_LATELY).unwrap();
                change.delete(&name(random.below(2000))).unwrap();
            }
            change.commit().unwrap();
            done.store(round, SeqCst);
        }
        over.store(1, SeqCst);
    });
}

#[test]
fn replaced_or_missing_replica_makes_no_name_absent() {
    let dir = tempfile::tempdir().unwrap();
    let list = lockless(dir.path());
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..10, 0);
    assert!(matches!(list.lookup(&name(1)), Lookup::Present(_)));
    assert_eq!(list.lookup(&name(11)), Lookup::Absent);
    let other = tempfile::tempdir().unwrap();
    let mut another = ReplicaWriter::open(other.path()).unwrap();
    list_of(&mut another, 0..20, 0);
    std::fs::rename(other.path().join("data.mdb"), dir.path().join("data.mdb")).unwrap();
    assert!(matches!(list.lookup(&name(11)), Lookup::Present(_)));
    std::fs::remove_file(dir.path().join("data.mdb")).unwrap();
    assert!(matches!(list.lookup(&name(21)), Lookup::Unsure(_)));
}

#[test]
fn damage_is_never_more_than_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..2000, 0);
    drop(place);
    let data = dir.path().join("data.mdb");
    let good = std::fs::read(&data).unwrap();
    let seed = 3;
    let mut random = Random(seed);
    let mut errors = 0;
    for _ in 0..1500 {
        let mut bad = good.clone();
        for _ in 0..1 + random.below(6) {
            // Damages mostly the heads and indexes of pages, where it has the most effect.
            let page = random.below(good.len() as u64 / 4096) * 4096;
            let at =
                page + if random.below(4) == 0 { random.below(4096) } else { random.below(180) };
            bad[at as usize] = random.below(256) as u8;
        }
        bad.truncate(if random.below(5) == 0 {
            random.below(bad.len() as u64) as usize
        } else {
            bad.len()
        });
        let path = dir.path().join("bad.mdb");
        std::fs::write(&path, &bad).unwrap();
        let list = LocklessReplica::at(Arc::new(PinnedPath::at(path)), HIT_AGE);
        for _ in 0..5 {
            if let Lookup::Unsure(_) = list.lookup(&name(random.below(2000))) {
                errors += 1;
            }
        }
        let _ = list.each(b"", &mut |_, _| ControlFlow::Continue(()));
    }
    assert!(errors > 100, "seed {seed}: {errors}");
}
