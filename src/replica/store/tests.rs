use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::mod_time::ModTime;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::{AnonymousRights, Record, State};
use crate::mupdate::Event;
use crate::replica::{
    ACCEPT_AFTER, ChangeApplier, FullSync, PutOutcome, SyncContext, SyncReport, Transaction,
};
use crate::testing::memory_replica::Table;
use crate::testing::random::Random;

pub(in crate::replica) fn name(n: u64) -> MailboxName {
    MailboxName::new(format!("user.u{n:07}")).unwrap()
}

pub(in crate::replica) fn record(server: &str) -> Record {
    Record {
        state: State::Active,
        server: Some(server.into()),
        partition: "default".into(),
        anonymous: AnonymousRights { lookup: true, post: false },
    }
}

pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_536_000 + seconds)
}

/// A master of this release whose list is complete at `now`, a second after the previous commit.
pub(super) fn heard(release: &str, now: u64) -> SyncContext<'_> {
    SyncContext { master: "master", release, now: at(now), passed: Duration::from_secs(1) }
}

pub(in crate::replica) fn list_of(
    place: &mut ReplicaWriter,
    names: impl IntoIterator<Item = u64>,
    now: u64,
) -> SyncReport {
    let mut change = place.begin().unwrap();
    let mut listing = FullSync::begin(&change).unwrap();
    for n in names {
        listing.record(&mut change, &name(n), &record("be1.example.net"), at(now)).unwrap();
    }
    let outcome = listing.finish(&mut change, &heard("3.6.1", now), ACCEPT_AFTER).unwrap();
    change.commit_to_disk().unwrap();
    outcome
}

#[test]
fn no_name_is_absent_before_the_first_list_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("replica");
    let list = ReplicaList::open(&dir).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    let mut place = ReplicaWriter::open(&dir).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    let mut change = place.begin().unwrap();
    change.put(&name(1), &record("be1"), ModTime::NOT_LATELY).unwrap();
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

/// All records of a list, and the list's own count.
pub(super) fn all(list: &ReplicaList) -> BTreeMap<Vec<u8>, Record> {
    let mut all = BTreeMap::new();
    let each = list.each(b"", &mut |name, record| {
        all.insert(name.as_bytes().to_vec(), record.clone());
        ControlFlow::Continue(())
    });
    each.unwrap();
    let (about, names) = list.about().unwrap();
    assert_eq!(names + about.missing, all.len() as u64);
    all
}

/// Stored time at which the record of a name changed.
fn changed(list: &ReplicaList, name: &MailboxName) -> Option<ModTime> {
    let value = list.env().read(|open, txn| {
        Ok(open
            .records
            .get(txn, name.as_bytes())?
            .map(|value| value::dated_record(value).unwrap().1))
    });
    value.unwrap()
}

/// Applies a random list or random changes to a batch of any kind.
fn history<B: Transaction>(batch: &mut B, random: &mut Random, now: u64) -> Option<SyncReport>
where
    B::Error: std::fmt::Debug,
{
    let be = |random: &mut Random| record(&format!("be{}", random.below(3)));
    if random.below(3) > 0 {
        let mut follower = ChangeApplier::default();
        for _ in 0..random.below(60) {
            let name = name(random.below(500));
            let event = match random.below(3) {
                0 => Event::Deleted(name),
                _ => Event::Record(name, be(random)),
            };
            follower.apply(batch, &event, at(now)).unwrap();
        }
        follower.finish(batch, Some(at(now)), Duration::from_secs(now), at(now)).unwrap();
        return None;
    }
    let mut listing = FullSync::begin(batch).unwrap();
    let (from, to) = match random.below(8) {
        0 => (0, 0),
        1 => (random.below(500), 500),
        _ => (random.below(30), 500 - random.below(30)),
    };
    for n in from..to {
        if random.below(20) > 0 {
            listing.record(batch, &name(n), &be(random), at(now)).unwrap();
        }
    }
    Some(listing.finish(batch, &heard("3.4.1", now), Duration::from_secs(20)).unwrap())
}

#[test]
fn random_lists_and_changes_agree_in_store_and_memory() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    println!("SEED={seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open_sized(dir.path(), 1 << 20).unwrap();
    let list = place.list();
    let mut model = Table::default();
    for now in 0..200 {
        let mut change = place.begin().unwrap();
        let (mut table, mut again) = (model.clone(), random.clone());
        let outcome = history(&mut change, &mut random, now);
        assert_eq!(outcome, history(&mut table, &mut again, now));
        assert_eq!(change.about().unwrap(), table.about);
        assert_eq!(change.names().unwrap(), table.records.len() as u64);
        match random.below(3) {
            0 => drop(change),
            1 => {
                change.commit().unwrap();
                model = table;
            }
            _ => {
                change.commit_to_disk().unwrap();
                model = table;
            }
        }
        if random.below(10) == 0 {
            drop(place);
            place = ReplicaWriter::open_sized(dir.path(), 1 << 20).unwrap();
        }
        if model.about.synchronised.is_none() {
            continue;
        }
        let records =
            model.records.iter().map(|(name, (record, _))| (name.clone(), record.clone()));
        let missing = model.missing.iter().map(|(name, missing)| {
            (name.clone(), Record { state: State::Reserved, ..missing.record.clone() })
        });
        assert_eq!(all(&list), records.chain(missing).collect());
        for n in 0..20 {
            let name = name(random.below(510) + n);
            match model.records.get(name.as_bytes()) {
                Some((record, _)) => {
                    assert_eq!(list.lookup(&name), Lookup::Present(record.clone()))
                }
                None => match model.missing.get(name.as_bytes()) {
                    Some(missing) => {
                        assert_eq!(list.lookup(&name), Lookup::Unsure(missing.doubt(&name)));
                        continue;
                    }
                    None => assert_eq!(list.lookup(&name), Lookup::Absent),
                },
            }
            assert_eq!(changed(&list, &name), model.records.get(name.as_bytes()).map(|row| row.1));
        }
    }
}

#[test]
fn prefix_yields_its_names_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..2000, 0);
    let mut seen = Vec::new();
    let list = place.list();
    let each = list.each(b"user.u0001", &mut |name, _| {
        // The callback may look up names.
        assert!(matches!(list.lookup(name), Lookup::Present(_)));
        seen.push(name.clone());
        ControlFlow::Continue(())
    });
    each.unwrap();
    assert_eq!(seen, (1000..2000).map(name).collect::<Vec<_>>());
    let mut first = None;
    let each = list.each(b"", &mut |name, _| {
        first = Some(name.clone());
        ControlFlow::Break(())
    });
    each.unwrap();
    assert_eq!(first, Some(name(0)));
    list.each(b"user.v", &mut |_, _| panic!("there is none")).unwrap();
}

#[test]
fn longest_name_fits() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    let name = MailboxName::new(vec![b'a'; crate::model::name::MAX_NAME]).unwrap();
    let (record, at) = (record(&"s".repeat(4096)), ModTime::NOT_LATELY);
    let mut change = place.begin().unwrap();
    assert_eq!(change.put(&name, &record, at).unwrap(), PutOutcome::New);
    assert_eq!(change.get(&name).unwrap(), Some(record.clone()));
    assert!(change.put(&name, &self::record(&"s".repeat(70_000)), at).is_err());
    change.commit().unwrap();
    assert_eq!(place.list().lookup(&name), Lookup::Present(record));
}

#[test]
fn readers_see_the_old_list_until_the_new_one_is_complete() {
    const NAMES: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open_sized(dir.path(), 1 << 20).unwrap();
    let list = place.list();
    // The last list that is certainly committed, and the last one that may be.
    let (sure, begun) = (AtomicU64::new(0), AtomicU64::new(0));
    let write = |place: &mut ReplicaWriter, version: u64| {
        let mut change = place.begin().unwrap();
        let mut listing = FullSync::begin(&change).unwrap();
        for n in 0..NAMES {
            let record = record(&format!("{version}"));
            listing.record(&mut change, &name(n), &record, at(version)).unwrap();
        }
        listing.finish(&mut change, &heard("3.6.1", version), ACCEPT_AFTER).unwrap();
        begun.store(version, SeqCst);
        change.commit().unwrap();
        sure.store(version, SeqCst);
    };
    write(&mut place, 1);
    let done = AtomicBool::new(false);
    let looked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (list, sure, begun, done, looked) = (&list, &sure, &begun, &done, &looked);
            scope.spawn(move || {
                let mut random = Random(thread);
                while !done.load(SeqCst) {
                    let least = sure.load(SeqCst);
                    let found = list.lookup(&name(random.below(NAMES)));
                    let most = begun.load(SeqCst);
                    let Lookup::Present(record) = found else { panic!("{found:?}") };
                    let version: u64 = record.server.unwrap().parse().unwrap();
                    assert!((least..=most).contains(&version), "{least} {version} {most}");
                    looked.fetch_add(1, SeqCst);
                }
            });
        }
        for version in 2..30 {
            write(&mut place, version);
        }
        done.store(true, SeqCst);
    });
    assert!(looked.load(SeqCst) > 0);
}

/// Number of pages of 4 KiB that differ.
fn pages(before: &[u8], after: &[u8]) -> usize {
    let blank: &[u8] = &[];
    let pages = before.len().max(after.len()).div_ceil(4096);
    let page = |file: &[u8], n: usize| file.chunks(4096).nth(n).unwrap_or(blank).to_vec();
    (0..pages).filter(|n| page(before, *n) != page(after, *n)).count()
}

#[test]
fn unchanged_list_writes_next_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..10_000, 0);
    let file = || std::fs::read(dir.path().join("data.mdb")).unwrap();
    let before = file();
    let outcome = list_of(&mut place, 0..10_000, 10);
    assert_eq!((outcome.new, outcome.changed, outcome.removed), (0, 0, 0));
    let after = file();
    assert_eq!(place.about().unwrap().0.synchronised, Some(at(10)));
    assert!(before.len() > 100 * 4096);
    // The time: its page, the pages above it, the free list and a page of LMDB's own.
    assert!((1..=8).contains(&pages(&before, &after)), "{}", pages(&before, &after));
}

#[test]
fn recent_changes_are_visible_to_all_readers_and_after_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..10, 0);
    let event = |n, server| Event::Record(name(n), record(server));
    let apply = |place: &mut ReplicaWriter, event: Event, ago| {
        let mut change = place.begin().unwrap();
        let clock = SystemTime::now() - Duration::from_secs(ago);
        ChangeApplier::default().apply(&mut change, &event, clock).unwrap();
        change.commit().unwrap();
    };
    apply(&mut place, event(1, "be2"), 0);
    apply(&mut place, event(2, "be2"), 70);
    apply(&mut place, event(3, "be1.example.net"), 0);
    apply(&mut place, Event::Deleted(name(4)), 0);
    apply(&mut place, event(4, "be1.example.net"), 5);
    apply(&mut place, event(11, "be2"), 5);
    let recent = || {
        let list = ReplicaList::open(dir.path()).unwrap();
        (0..12).filter(|n| list.lookup_dated(&name(*n)).1).collect::<Vec<_>>()
    };
    assert_eq!(recent(), [1, 4, 11], "told as it was is no change");
    drop(place);
    assert_eq!(recent(), [1, 4, 11]);
}

#[test]
fn years_of_changes_do_not_grow_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..2000, 0);
    let list = place.list();
    let mut random = Random(1);
    let mut len = 0;
    for round in 0..400 {
        let mut change = place.begin().unwrap();
        for _ in 0..3 {
            let record = record(&format!("be{}.example.net", random.below(9)));
            change.put(&name(random.below(2000)), &record, ModTime::at(at(round))).unwrap();
            change.delete(&name(random.below(2000))).unwrap();
        }
        change.commit().unwrap();
        list.lookup(&name(round % 2000));
        if round == 100 {
            len = std::fs::metadata(dir.path().join("data.mdb")).unwrap().len();
        }
    }
    let now = std::fs::metadata(dir.path().join("data.mdb")).unwrap().len();
    assert!(now <= len * 2, "{len} {now}");
}

#[test]
fn list_that_outgrows_the_file_fails_and_fits_when_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open_sized(dir.path(), 256 << 10).unwrap();
    list_of(&mut place, 0..50, 0);
    let list = place.list();
    let mut tries = 0;
    loop {
        let mut change = place.begin().unwrap();
        let mut listing = FullSync::begin(&change).unwrap();
        let put = (0..20_000).try_for_each(|n| {
            listing.record(&mut change, &name(n), &record("be1.example.net"), at(1))
        });
        match put {
            Ok(()) => {
                listing.finish(&mut change, &heard("3.6.1", 1), ACCEPT_AFTER).unwrap();
                change.commit_to_disk().unwrap();
                break;
            }
            Err(error) => assert!(matches!(error, Error::Full(_)), "{error}"),
        }
        drop(change);
        assert!(matches!(list.lookup(&name(7)), Lookup::Present(_)));
        assert_eq!(list.lookup(&name(70)), Lookup::Absent);
        tries += 1;
        assert!(tries < 6);
    }
    assert!(tries > 0);
    assert_eq!(all(&list).len(), 20_000);
}

#[test]
fn second_writer_gets_an_error_until_the_first_has_closed() {
    let dir = tempfile::tempdir().unwrap();
    let place = ReplicaWriter::open(dir.path()).unwrap();
    assert!(matches!(ReplicaWriter::open(dir.path()), Err(Error::InUse(_))));
    assert!(matches!(ReplicaWriter::open_or_begin_anew(dir.path()), Err(Error::InUse(_))));
    drop(place);
    ReplicaWriter::open(dir.path()).unwrap();
}

#[test]
fn files_are_accessible_to_the_daemon_and_its_group_only() {
    let dir = tempfile::tempdir().unwrap();
    let replica = dir.path().join("a/replica");
    let _place = ReplicaWriter::open(&replica).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&replica) & 0o027, 0);
    assert_eq!(mode(&replica.join("data.mdb")), 0o640);
    assert_eq!(mode(&replica.join("lock.mdb")), 0o660);
}

#[test]
fn reader_as_root_leaves_no_file_closed_to_the_daemon() {
    if !nix::unistd::geteuid().is_root() {
        crate::left_out::left_out("only root can give a file away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let replica = dir.path().join("replica");
    drop(ReplicaWriter::open(&replica).unwrap());
    let (data, lock) = (replica.join("data.mdb"), replica.join("lock.mdb"));
    for path in [&replica, &data] {
        std::os::unix::fs::chown(path, Some(12345), Some(12346)).unwrap();
    }
    // As if a copy of data.mdb alone had been restored.
    std::fs::remove_file(&lock).unwrap();
    ReplicaList::open(&replica).unwrap().about().unwrap();
    let lock = std::fs::metadata(lock).unwrap();
    assert_eq!((lock.uid(), lock.gid(), lock.mode() & 0o777), (12345, 12346, 0o660));
    let files = std::fs::read_dir(&replica).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

/// A number in `/proc/self/…`, from the line that begins with `field`.
fn proc(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// CPU time of this thread, in nanoseconds.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Prints figures: `cargo test --release --lib a_million -- --ignored --nocapture`.
#[test]
#[ignore = "takes a while, and says something only in release"]
fn million_names_take_less_than_64_mb_beside_the_page_cache() {
    use std::hint::black_box;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Instant;

    const MILLION: u64 = 1_000_000;
    static PEAK: AtomicU64 = AtomicU64::new(0);
    // Names and locations as long as in real murders, in the order of a real list.
    let name = |n: u64| {
        let folder = ["", ".Archive.2026", ".Drafts", ".Sent"][n as usize % 4];
        let (domain, user) = (n / 200_000, n % 200_000 / 4);
        MailboxName::new(format!("example{domain}.org!user.firstname^n{user:06}{folder}")).unwrap()
    };
    let record = |n: u64| record(&format!("backend{}.mail.example.net", n % 20));
    let dir = tempfile::Builder::new().prefix("replica").tempdir_in("target").unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    std::thread::spawn(|| {
        loop {
            PEAK.fetch_max(proc("status", "RssAnon:"), Relaxed);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    for round in ["the first list", "the same again", "every second one changed"] {
        let before = proc("status", "RssAnon:");
        PEAK.store(0, Relaxed);
        let busy = cpu();
        let (written, start) = (proc("io", "write_bytes:"), Instant::now());
        let mut change = place.begin().unwrap();
        let mut listing = FullSync::begin(&change).unwrap();
        for n in 0..MILLION {
            let moved = if round.starts_with("every") && n % 2 == 0 { 1 } else { 0 };
            listing.record(&mut change, &name(n), &record(n + moved), at(0)).unwrap();
        }
        let took = start.elapsed();
        let outcome = listing.finish(&mut change, &heard("3.6.1", 0), ACCEPT_AFTER).unwrap();
        change.commit_to_disk().unwrap();
        println!(
            "{round}: {took:?}, complete after {:?}, {} ms of CPU; peak anonymous memory {} kB (before {before}), \
             {} kB written; {outcome:?}",
            start.elapsed(),
            (cpu() - busy) / 1_000_000,
            PEAK.load(Relaxed),
            (proc("io", "write_bytes:") - written) / 1024,
        );
        assert!(PEAK.load(Relaxed) - before < 64 << 10);
    }
    // Three in four names are lost, and a later list confirms that.
    let start = Instant::now();
    PEAK.store(0, Relaxed);
    for _ in 0..2 {
        let mut change = place.begin().unwrap();
        let mut listing = FullSync::begin(&change).unwrap();
        for n in (0..MILLION).step_by(4) {
            listing.record(&mut change, &name(n), &record(n), at(0)).unwrap();
        }
        listing.finish(&mut change, &heard("3.6.1", 0), Duration::ZERO).unwrap();
        change.commit_to_disk().unwrap();
    }
    let (took, peak) = (start.elapsed(), PEAK.load(Relaxed));
    println!("{} left after {took:?}, peak {peak} kB", place.about().unwrap().1);
    assert_eq!(place.about().unwrap().1, MILLION / 4);
    let mut change = place.begin().unwrap();
    for n in 0..MILLION {
        change.put(&name(n), &record(n), ModTime::at(at(n))).unwrap();
    }
    change.commit().unwrap();
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
        change.put(&name(n * 991), &record(n * 3 + 1), ModTime::at(at(n))).unwrap();
        change.commit().unwrap();
    }
    println!("commit of one change: {:?}", start.elapsed() / 1000);
}
