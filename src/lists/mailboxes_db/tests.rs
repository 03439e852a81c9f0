//! A [`FileList`] over a file that other processes write, replace and damage.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crate::cyrusdb::order::Order;
use crate::cyrusdb::skip::node::Layout;
use crate::cyrusdb::skip::sparse_index::IndexSize;
use crate::lists::*;
use crate::model::list::{Lookup, MailboxList};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::State;
use crate::testing::cyrus_writer::{Write, Writer};
use crate::testing::random::Random;

/// Options without stale hits.
pub(super) fn strict() -> FileListOptions {
    FileListOptions {
        max_hit_age: Duration::ZERO,
        lock_timeout: Duration::from_millis(30),
        ..FileListOptions::default()
    }
}

pub(super) fn name(name: &str) -> MailboxName {
    MailboxName::new(name).unwrap()
}

pub(super) fn key(name: &str, generation: KeyGeneration) -> Vec<u8> {
    let mut key = Vec::new();
    self::name(name).push_key(generation, &mut key);
    key
}

pub(super) fn value(server: &str) -> Vec<u8> {
    format!("%(T er P default S {server} M 1700000000 A %(anyone p))").into_bytes()
}

/// Name to server.
type Map = BTreeMap<String, String>;

pub(super) struct Site {
    folder: tempfile::TempDir,
    generation: KeyGeneration,
    pub(super) writer: Writer,
}

impl Site {
    pub(super) fn new(layout: Layout, generation: KeyGeneration) -> Self {
        Self::in_order(layout, generation, Order::Raw)
    }

    pub(super) fn in_order(layout: Layout, generation: KeyGeneration, order: Order) -> Self {
        let compare = match order {
            Order::Raw => |a: &[u8], b: &[u8]| Order::Raw.compare(a, b),
            Order::Mbox => |a: &[u8], b: &[u8]| Order::Mbox.compare(a, b),
        };
        let writer = Writer::new(layout, Random(7), 1, compare);
        let site = Self { folder: tempfile::tempdir().unwrap(), generation, writer };
        site.replace();
        site
    }

    pub(super) fn with(layout: Layout, names: impl Iterator<Item = String>) -> Self {
        let mut site = Self::new(layout, KeyGeneration::Separated);
        for name in names {
            site.put(&name, "be1.example.org");
        }
        site.writer.commit();
        site.replace();
        site
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("mailboxes.db")
    }

    /// Returns a list read through a map, as programs do; tests/cyrusdb.rs reads by `pread`, as the library
    /// does.
    pub(super) fn list(&self) -> FileList {
        crate::os::map::guard();
        FileList::open(self.path(), strict())
    }

    pub(super) fn put(&mut self, name: &str, server: &str) {
        self.writer.put(&key(name, self.generation), &value(server));
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.writer.delete(&key(name, self.generation));
    }

    /// Replaces the file by a new one with all writes of the writer.
    pub(super) fn replace(&self) {
        replace(&self.path(), &self.writer.file);
    }

    /// Applies the latest writes of the writer to the file.
    pub(super) fn write(&mut self) {
        let mut file = File::options().write(true).open(self.path()).unwrap();
        for write in self.writer.journal.drain(..) {
            write_one(&mut file, &write);
        }
    }
}

pub(super) fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("NEW");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

pub(super) fn write_one(file: &mut File, write: &Write) {
    match write {
        Write::At(offset, bytes) => {
            file.seek(SeekFrom::Start(*offset)).unwrap();
            file.write_all(bytes).unwrap();
        }
        Write::Truncate(size) => file.set_len(*size).unwrap(),
    }
}

pub(super) fn server(lookup: Lookup) -> Option<String> {
    match lookup {
        Lookup::Present(record) => Some(record.server.unwrap()),
        Lookup::Absent => None,
        other => panic!("{other:?}"),
    }
}

pub(super) fn is_unsure(lookup: &Lookup) -> bool {
    matches!(lookup, Lookup::Unsure(_))
}

fn all(list: &FileList, prefix: &str) -> Map {
    let mut map = Map::new();
    list.each(prefix.as_bytes(), &mut |name, record| {
        let old = map.insert(name.to_string(), record.server.clone().unwrap());
        assert_eq!(old, None, "{name} is visited once");
        ControlFlow::Continue(())
    })
    .unwrap();
    map
}

pub(super) const TWOSKIP: Layout = Layout::Twoskip;
pub(super) const TWOM: Layout = Layout::Twom { checksums: true };

pub(super) fn some(n: usize) -> impl Iterator<Item = String> {
    (0..n).map(|i| format!("user.u{i:04}"))
}

#[test]
fn committed_list_is_seen_between_any_two_writes() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    for (layout, seed) in [(TWOSKIP, 1), (TWOSKIP, seed), (TWOM, 2), (TWOM, seed)] {
        println!("{layout:?} seed {seed}");
        let mut random = Random(seed);
        let mut some_name = move || format!("user.u{}", random.below(40));
        let mut random = Random(seed ^ 1);
        let mut site = Site::with(layout, some(20));
        let list = site.list();
        let mut committed: Map = some(20).map(|name| (name, "be1.example.org".into())).collect();
        for transaction in 0..40 {
            let mut pending = committed.clone();
            site.writer.journal.clear();
            for _ in 0..1 + random.below(5) {
                let name = some_name();
                if random.below(3) == 0 {
                    site.delete(&name);
                    pending.remove(&name);
                } else {
                    let server = format!("be{}.example.org", random.below(9));
                    site.put(&name, &server);
                    pending.insert(name, server);
                }
            }
            let rolled_back = random.below(5) == 0;
            if rolled_back {
                site.writer.abort();
            } else {
                site.writer.commit();
            }
            let writes: Vec<Write> = site.writer.journal.drain(..).collect();
            let mut file = File::options().write(true).open(site.path()).unwrap();
            for (i, write) in writes.iter().enumerate() {
                write_one(&mut file, write);
                if i + 1 == writes.len() && !rolled_back {
                    committed.clone_from(&pending);
                }
                for _ in 0..3 {
                    let name = some_name();
                    let found = server(list.lookup(&self::name(&name)));
                    assert_eq!(found.as_ref(), committed.get(&name), "{name}");
                }
            }
            assert_eq!(all(&list, ""), committed);
            if transaction % 10 == 9 {
                site.writer = site.writer.repack();
                site.replace();
                let name = some_name();
                let found = server(list.lookup(&self::name(&name)));
                assert_eq!(found.as_ref(), committed.get(&name), "{name} after a repack");
            }
        }
    }
}

#[test]
fn missing_list_is_unsure_until_it_appears() {
    let site = Site::with(TWOSKIP, some(5));
    let path = site.path();
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let list = site.list();
    for _ in 0..2 {
        let Lookup::Unsure(why) = list.lookup(&name("user.u0001")) else { panic!() };
        assert!(why.contains("mailboxes.db: No such file"), "{why}");
        assert!(list.status().is_err() && list.trust().is_err());
        fs::rename(&away, &path).unwrap();
        assert!(server(list.lookup(&name("user.u0001"))).is_some());
        assert_eq!(list.lookup(&name("user.x")), Lookup::Absent);
        // Removed again while it is cached.
        fs::rename(&path, &away).unwrap();
        assert!(is_unsure(&list.lookup(&name("user.x"))));
    }
}

#[test]
fn other_file_in_place_of_the_list_is_unsure() {
    let good = Site::with(TWOSKIP, some(30));
    let bytes = &good.writer.file;
    let mut torn = bytes.clone();
    torn[50] ^= 1;
    let sqlite = b"SQLite format 3\0".to_vec();
    for (what, content) in [
        ("empty", vec![]),
        ("garbage", b"garbage".repeat(1000)),
        ("zeros", vec![0; bytes.len()]),
        ("a torn header", torn),
        ("SQLite", sqlite),
        ("the header alone", bytes[..64].to_vec()),
        ("cut within the list", bytes[..bytes.len() / 2].to_vec()),
    ] {
        for in_place in [false, true] {
            let list = good.list();
            let present = name("user.u0007");
            assert!(server(list.lookup(&present)).is_some());
            if in_place {
                fs::write(good.path(), &content).unwrap();
            } else {
                replace(&good.path(), &content);
            }
            let now = list.lookup(&name("user.nobody"));
            assert!(is_unsure(&now), "{what}: {now:?}");
            let now = list.lookup(&present);
            assert!(matches!(now, Lookup::Unsure(_) | Lookup::Present(_)), "{what}: {now:?}");
            assert!(matches!(list.lookup_now(&name("user.no")), Lookup::Unsure(_) | Lookup::Busy));
            if in_place {
                fs::write(good.path(), bytes).unwrap();
            } else {
                good.replace();
            }
            assert!(server(list.lookup(&present)).is_some(), "{what}");
            assert_eq!(list.lookup(&name("user.nobody")), Lookup::Absent, "{what}");
        }
    }
    let list = good.list();
    fs::remove_file(good.path()).unwrap();
    fs::create_dir(good.path()).unwrap();
    let Lookup::Unsure(why) = list.lookup(&name("user.u0007")) else { panic!() };
    assert!(why.contains("zeroskip"), "{why}");
}

#[test]
fn replaced_list_is_answered_from_the_new_file_at_once() {
    let mut site = Site::with(TWOSKIP, some(30));
    // Hits may be stale; misses must still be right.
    let list = FileList::open(
        site.path(),
        FileListOptions { max_hit_age: Duration::from_secs(3600), ..FileListOptions::default() },
    );
    for name in some(30) {
        assert!(server(list.lookup(&self::name(&name))).is_some());
    }
    site.put("user.new", "be2.example.org");
    site.writer.commit();
    site.writer = site.writer.repack();
    site.replace();
    assert_eq!(server(list.lookup(&name("user.new"))).as_deref(), Some("be2.example.org"));

    // A file of another engine.
    let other = Site::with(TWOM, ["user.twom".to_owned()].into_iter().chain(some(30)));
    replace(&site.path(), &other.writer.file);
    assert!(server(list.lookup(&name("user.twom"))).is_some());
    assert_eq!(list.status().unwrap().engine, "twom");
    assert_eq!(list.lookup(&name("user.new")), Lookup::Absent);

    let flat = b"user.flat\t1 be3.example.org!default anyone\tp\t\n";
    replace(&site.path(), flat);
    assert_eq!(server(list.lookup(&name("user.flat"))).as_deref(), Some("be3.example.org"));
    assert_eq!(list.status().unwrap().engine, "flat");
}

#[test]
fn list_overwritten_with_one_of_equal_size_is_noticed() {
    let make = |prefix: &str| {
        let names: Vec<String> = (0..50).map(|i| format!("user.{prefix}{i:04}")).collect();
        Site::with(TWOSKIP, names.into_iter())
    };
    let (a, b) = (make("a"), make("b"));
    assert_eq!(a.writer.file.len(), b.writer.file.len());
    let list = a.list();
    for i in 0..50 {
        assert!(server(list.lookup(&name(&format!("user.a{i:04}")))).is_some());
    }
    fs::write(a.path(), &b.writer.file).unwrap();
    for i in 0..50 {
        assert!(server(list.lookup(&name(&format!("user.b{i:04}")))).is_some(), "{i}");
        assert_eq!(list.lookup(&name(&format!("user.a{i:04}"))), Lookup::Absent, "{i}");
    }
}

#[test]
fn large_index_is_built_only_after_enough_lookups() {
    for layout in [TWOSKIP, TWOM] {
        let mut site = Site::with(layout, some(300));
        let list = FileList::open(site.path(), FileListOptions { index_after: 100, ..strict() });
        for (n, of) in some(300).take(150).enumerate() {
            assert_eq!(list.has_index(IndexSize::Large), n > 100, "{n}");
            assert!(server(list.lookup(&name(&of))).is_some());
        }
        // After a repack a long-lived process is not slow again.
        site.writer = site.writer.repack();
        site.replace();
        assert!(server(list.lookup(&name("user.u0007"))).is_some());
        assert!(list.has_index(IndexSize::Large));
    }
}

#[test]
fn moves_and_deletions_are_seen_with_any_size_of_index() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    for layout in [TWOSKIP, TWOM] {
        let names: Vec<String> = some(2000).collect();
        let mut site = Site::with(layout, names.iter().cloned());
        let mut model: Map =
            names.iter().map(|name| (name.clone(), "be1.example.org".to_owned())).collect();
        let list = FileList::open(site.path(), FileListOptions { index_after: 900, ..strict() });
        let mut some_name = || &names[random.below(2000) as usize];
        for round in 0..450 {
            let (moved, gone) = (some_name(), some_name());
            let server = format!("be{}.example.org", round % 9);
            site.put(moved, &server);
            model.insert(moved.clone(), server);
            if round % 3 == 0 && model.remove(gone).is_some() {
                site.delete(gone);
            }
            site.writer.commit();
            site.write();
            for name in [moved, gone, some_name()] {
                let found = self::server(list.lookup(&self::name(name)));
                assert_eq!(found.as_ref(), model.get(name), "{name} in round {round}");
            }
            // Three lookups a round; a small index comes after 128 lookups, in one piece.
            if matches!(round, 10 | 100) {
                let has = [IndexSize::Small, IndexSize::Large].map(|size| list.has_index(size));
                assert_eq!(has, [round == 100, false], "round {round}");
            }
        }
        assert!(list.has_index(IndexSize::Large));
    }
}

#[test]
fn list_that_lost_many_names_is_unsure() {
    let whole = Site::with(TWOSKIP, some(300));
    let part = Site::with(TWOSKIP, some(150));
    let list = whole.list();
    let stranger = name("user.stranger");
    assert_eq!(list.lookup(&stranger), Lookup::Absent);
    replace(&whole.path(), &part.writer.file);
    let Lookup::Unsure(why) = list.lookup(&stranger) else { panic!() };
    assert!(why.contains("lost 150 of 300"), "{why}");
    assert!(list.trust().is_err());
    assert!(is_unsure(&list.lookup(&name("user.u0200"))));
    assert!(server(list.lookup(&name("user.u0100"))).is_some());
    whole.replace();
    assert_eq!(list.lookup(&stranger), Lookup::Absent);
    assert_eq!(list.trust(), Ok(()));

    replace(&whole.path(), &Site::new(TWOSKIP, KeyGeneration::Separated).writer.file);
    assert!(is_unsure(&list.lookup(&stranger)));
}

#[test]
fn legacy_list_is_searched_in_either_order() {
    let names = || {
        (0..80).flat_map(|i| {
            ["", ".Sent", "-x", ".Sent.a", "^y"].map(|end| format!("user.u{}{end}", i % 40))
        })
    };
    for order in [Order::Raw, Order::Mbox] {
        let mut site = Site::in_order(TWOSKIP, KeyGeneration::Internal, order);
        for name in names().step_by(2) {
            site.put(&name, "be1.example.org");
        }
        site.writer.commit();
        site.replace();
        let present: Vec<String> = names().step_by(2).collect();
        let list = site.list();
        for _ in 0..2 {
            for name in names() {
                let found = server(list.lookup(&self::name(&name))).is_some();
                assert_eq!(found, present.contains(&name), "{order:?} {name}");
            }
            assert_eq!(list.lookup(&name("user.nobody")), Lookup::Absent);
        }
        let mut expected = present.clone();
        expected.sort();
        expected.dedup();
        assert_eq!(all(&list, "").into_keys().collect::<Vec<_>>(), expected, "{order:?}");
        let of_one = all(&list, "user.u3.").into_keys().collect::<Vec<_>>();
        expected.retain(|name| name.starts_with("user.u3."));
        assert_eq!(of_one, expected, "{order:?}");
        assert_eq!(list.status().unwrap().key_generation, Some(KeyGeneration::Internal));
    }
}

#[test]
fn list_of_unknown_generation_is_searched_by_both_keys() {
    for generation in [KeyGeneration::Internal, KeyGeneration::Separated] {
        let mut site = Site::new(TWOSKIP, generation);
        site.put("news", "be1.example.org");
        site.put("News", "be2.example.org");
        site.writer.commit();
        site.replace();
        let list = site.list();
        assert_eq!(list.status().unwrap().key_generation, None);
        assert_eq!(server(list.lookup(&name("news"))).as_deref(), Some("be1.example.org"));
        assert_eq!(server(list.lookup(&name("News"))).as_deref(), Some("be2.example.org"));
        // No user's mailbox: this may be any other database.
        assert!(matches!(list.lookup(&name("user.jane")), Lookup::Unsure(_)));
        // Until a key shows it.
        site.put("user.jane", "be3.example.org");
        site.writer.commit();
        site.write();
        assert_eq!(server(list.lookup(&name("user.jane"))).as_deref(), Some("be3.example.org"));
        assert_eq!(list.status().unwrap().key_generation, Some(generation));
    }
}

#[test]
fn lookups_of_threads_are_right_during_commits_and_repacks() {
    for layout in [TWOSKIP, TWOM] {
        // Enough names that a loss of a hundred is below the limit.
        let mut site = Site::with(layout, some(600));
        let list = FileList::open(site.path(), FileListOptions::default());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3u64)
                .map(|thread| {
                    let (list, done) = (&list, &done);
                    scope.spawn(move || {
                        let mut random = Random(thread);
                        let mut lookups = 0;
                        while !done.load(Relaxed) || lookups < 2000 {
                            let i = random.below(100);
                            let steady = name(&format!("user.u{:04}", 2 * i));
                            assert!(server(list.lookup(&steady)).is_some(), "{steady}");
                            let never = name(&format!("user.v{i:04}"));
                            assert_eq!(list.lookup(&never), Lookup::Absent);
                            // The name comes and goes: a hit and a miss are right, a doubt is not.
                            server(list.lookup(&name(&format!("user.u{:04}", 2 * i + 1))));
                            lookups += 3;
                        }
                    })
                })
                .collect();
            let mut random = Random(9);
            for transaction in 0..300 {
                site.writer.journal.clear();
                for _ in 0..1 + random.below(4) {
                    let changing = format!("user.u{:04}", 2 * random.below(100) + 1);
                    match random.below(2) {
                        0 => site.delete(&changing),
                        _ => site.put(&changing, "be2.example.org"),
                    }
                    let steady = format!("user.u{:04}", 2 * random.below(100));
                    site.put(&steady, "be3.example.org");
                }
                if transaction % 7 == 3 {
                    site.writer.abort()
                } else {
                    site.writer.commit()
                }
                site.write();
                if transaction % 50 == 49 {
                    site.writer = site.writer.repack();
                    site.replace();
                }
            }
            done.store(true, Relaxed);
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

#[test]
fn record_that_refuses_mail_is_never_stale() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailboxes.db");
    let write = |state: &str, rights: &str| {
        let value = format!("%(T {state} P default S be1.example.org A %(anyone {rights}))");
        let list = format!("Nshared\t{value}\nNuser\x1fjane\t{value}\n");
        replace(&path, list.as_bytes());
    };
    write("der", "l");
    let options =
        FileListOptions { max_hit_age: Duration::from_secs(3600), ..FileListOptions::default() };
    let list = FileList::open(&path, options);
    let record = |of: &str| match list.lookup(&name(of)) {
        Lookup::Present(record) => record,
        other => panic!("{of}: {other:?}"),
    };
    assert_eq!(record("user.jane").state, State::Deleted);
    write("er", "l");
    assert_eq!(record("user.jane").state, State::Active);
    assert!(!record("shared").anonymous.post);
    write("er", "lp");
    assert!(record("shared").anonymous.post);
}

#[test]
fn other_database_is_not_an_empty_mailbox_list() {
    for rows in ["alpha\tone\n", "/vendor/cmu/x\ty\n", "AS\x1e\tx\n", "$RACL\tx\n"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("annotations.db");
        fs::write(&path, rows).unwrap();
        let list = FileList::open(&path, strict());
        assert!(matches!(list.lookup(&name("user.jane")), Lookup::Unsure(_)), "{rows:?}");
    }
}

#[test]
fn record_counts_as_recent_for_a_minute() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let names = ["user.old", "user.older", "user.new", "user.later"];
    let dates = [now - 70, 1_700_000_000, now - 40, now + 40];
    for layout in [TWOSKIP, TWOM] {
        let mut site = Site::new(layout, KeyGeneration::Separated);
        for (of, date) in names.iter().zip(dates) {
            let value = format!("%(T er P default S be1.example.org M {date})");
            site.writer.put(&key(of, site.generation), value.as_bytes());
        }
        site.writer.commit();
        site.replace();
        let list = site.list();
        let recent = names.map(|of| {
            let (found, recent) = list.lookup_dated(&name(of));
            assert!(server(found).is_some());
            recent
        });
        assert_eq!(recent, [false, false, true, true]);
    }
}
