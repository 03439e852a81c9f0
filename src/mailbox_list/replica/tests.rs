use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::mailbox::{
    AnonymousRights, KeyGeneration, Lookup, MailboxList as _, MailboxName, Record, State,
};
use crate::replica::{ACCEPT_AFTER, Batch as _, Listing, Outcome};

fn name(n: u64) -> MailboxName {
    MailboxName::new(format!("user.u{n:07}")).unwrap()
}

fn record(server: &str) -> Record {
    Record {
        state: State::Active,
        server: Some(server.into()),
        partition: "default".into(),
        anonymous: AnonymousRights { lookup: true, post: false },
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_536_000 + seconds)
}

fn list_of(place: &mut Place, names: impl IntoIterator<Item = u64>, now: u64) -> Outcome {
    let mut change = place.begin().unwrap();
    let mut listing = Listing::begin(&change).unwrap();
    for n in names {
        listing.record(&mut change, &name(n), &record("be1.example.net")).unwrap();
    }
    let outcome = listing.finish(&mut change, "master", "3.6.1", at(now), ACCEPT_AFTER).unwrap();
    change.commit_to_disk().unwrap();
    outcome
}

#[test]
fn nobody_is_absent_before_the_first_list_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("replica");
    let list = ReplicaList::open(&dir).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    let mut place = Place::open(&dir).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    let mut change = place.begin().unwrap();
    change.put(&name(1), &record("be1")).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    change.commit().unwrap();
    assert_eq!(list.lookup(&name(1)), Lookup::Present(record("be1")));
    assert!(matches!(list.lookup(&name(2)), Lookup::Unsure(_)));
    assert_eq!(list.key_generation(), None);
    assert!(list.each(b"", &mut |_, _| ControlFlow::Continue(())).is_err());
    list_of(&mut place, [1], 0);
    assert_eq!(list.lookup(&name(2)), Lookup::Absent);
    assert_eq!(list.key_generation(), Some(KeyGeneration::Separated));
    let (about, names) = list.about().unwrap();
    assert_eq!((about.synchronised, names), (Some(at(0)), 1));
}

/// A number in `/proc/self/…`, in the line that begins with `field`.
fn proc(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Prints figures: `cargo test --release --lib a_million -- --ignored --nocapture`.
#[test]
#[ignore = "takes a while, and says something only in release"]
fn a_million_names_take_less_than_64_mb_beside_the_page_cache() {
    use std::hint::black_box;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Instant;

    const MILLION: u64 = 1_000_000;
    static PEAK: AtomicU64 = AtomicU64::new(0);
    // As long as names and locations are in real murders, and in the order of a real list.
    let name = |n: u64| {
        let folder = ["", ".Archive.2026", ".Drafts", ".Sent"][n as usize % 4];
        let (domain, user) = (n / 200_000, n % 200_000 / 4);
        MailboxName::new(format!("example{domain}.org!user.firstname^n{user:06}{folder}")).unwrap()
    };
    let record = |n: u64| record(&format!("backend{}.mail.example.net", n % 20));
    let dir = tempfile::Builder::new().prefix("replica").tempdir_in("target").unwrap();
    let mut place = Place::open(dir.path()).unwrap();
    std::thread::spawn(|| {
        loop {
            PEAK.fetch_max(proc("status", "RssAnon:"), Relaxed);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    for round in ["the first list", "the same again", "every second one changed"] {
        let before = proc("status", "RssAnon:");
        PEAK.store(0, Relaxed);
        let (written, start) = (proc("io", "write_bytes:"), Instant::now());
        let mut change = place.begin().unwrap();
        let mut listing = Listing::begin(&change).unwrap();
        for n in 0..MILLION {
            let moved = if round.starts_with("every") && n % 2 == 0 { 1 } else { 0 };
            listing.record(&mut change, &name(n), &record(n + moved)).unwrap();
        }
        let took = start.elapsed();
        let outcome = listing.finish(&mut change, "m", "3.6.1", at(0), ACCEPT_AFTER).unwrap();
        change.commit_to_disk().unwrap();
        println!(
            "{round}: {took:?}, complete after {:?}; peak anonymous memory {} kB (before {before}), \
             {} kB written; {outcome:?}",
            start.elapsed(),
            PEAK.load(Relaxed),
            (proc("io", "write_bytes:") - written) / 1024,
        );
        assert!(PEAK.load(Relaxed) - before < 64 << 10);
    }
    println!("file: {} kB", std::fs::metadata(dir.path().join("data.mdb")).unwrap().len() / 1024);
    let list = place.list();
    let some: Vec<_> = (0..MILLION).map(|n| name(n * 7919 % MILLION)).collect();
    let few = &some[..1000];
    for (what, names, rounds) in [("any of a million", &some[..], 1), ("one of 1000", few, 1000)] {
        let start = Instant::now();
        for name in (0..rounds).flat_map(|_| names) {
            black_box(list.lookup(black_box(name)));
        }
        println!("lookup of {what}: {:?}", start.elapsed() / (names.len() * rounds) as u32);
    }
    let absent: Vec<_> = (MILLION..MILLION + 100_000).map(&name).collect();
    let start = Instant::now();
    for name in &absent {
        black_box(list.lookup(name));
    }
    println!("lookup of none: {:?}", start.elapsed() / absent.len() as u32);
    let start = Instant::now();
    for n in 0..1000 {
        let mut change = place.begin().unwrap();
        change.put(&name(n * 991), &record(n * 3 + 1)).unwrap();
        change.commit().unwrap();
    }
    println!("commit of one change: {:?}", start.elapsed() / 1000);
}
