//! Files that are truncated while a process without a SIGBUS handler reads them, as a host of the library
//! is. Touching a lost page of a map would kill that process, so nothing is mapped.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::cyrusdb::order::Order;
use crate::cyrusdb::skip::node::Layout;
use crate::lists::*;
use crate::model::list::{Lookup, MailboxList};
use crate::model::mod_time::ModTime;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::{AnonymousRights, Record, State};
use crate::replica::store::{LocklessReplica, ReplicaWriter};
use crate::replica::{ReplicaMeta, Transaction as _};
use crate::testing::cyrus_writer::{Write, Writer};
use crate::testing::random::Random;

const LAYOUTS: [Layout; 2] = [Layout::Twoskip, Layout::Twom { checksums: true }];

/// Runs a test of this module in a process of its own, without the SIGBUS handler of other tests.
fn alone(test: &str, run: impl FnOnce()) {
    if std::env::var_os("MURDER_ROUTE_ALONE").is_some() {
        return run();
    }
    let name = format!("lists::mailboxes_db::cut_tests::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&name, "--exact", "--nocapture"])
        .env("MURDER_ROUTE_ALONE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{why}", output.status);
    assert!(said.contains("1 passed"), "{said}");
}

fn name(n: u64) -> MailboxName {
    MailboxName::new(format!("user.u{n:05}")).unwrap()
}

struct Site {
    folder: tempfile::TempDir,
    writer: Writer,
}

impl Site {
    /// Returns a list with this many names.
    fn with(layout: Layout, names: u64) -> Self {
        let writer = Writer::new(layout, Random(7), 1, |a, b| Order::Raw.compare(a, b));
        let mut site = Self { folder: tempfile::tempdir().unwrap(), writer };
        (0..names).for_each(|n| site.put(n, "be1"));
        site.writer.commit();
        site.replace();
        site
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mailboxes.db")
    }

    fn put(&mut self, n: u64, server: &str) {
        let mut key = Vec::new();
        name(n).push_key(KeyGeneration::Separated, &mut key);
        self.writer.put(&key, format!("%(T er P default S {server})").as_bytes());
    }

    /// Replaces the file by another one, as after a repack.
    fn replace(&mut self) {
        let new = self.path().with_extension("NEW");
        fs::write(&new, &self.writer.file).unwrap();
        fs::rename(new, self.path()).unwrap();
        self.writer.journal.clear();
    }

    /// Applies the latest writes of the writer to the file.
    fn write(&mut self) {
        use std::os::unix::fs::FileExt;
        let file = File::options().write(true).open(self.path()).unwrap();
        for write in self.writer.journal.drain(..) {
            match write {
                Write::At(offset, bytes) => file.write_all_at(&bytes, offset).unwrap(),
                Write::Truncate(size) => file.set_len(size).unwrap(),
            }
        }
    }

    /// Returns the list as a process of the library with few lookups reads it.
    fn list(&self) -> FileList {
        let options = FileListOptions { max_hit_age: Duration::ZERO, ..FileListOptions::default() };
        FileList::open(self.path(), options)
    }
}

fn server(found: Lookup) -> String {
    match found {
        Lookup::Present(record) => record.server.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn lengths(len: u64) -> [u64; 7] {
    [0, 1, 64, 4096, 5000, len / 2, len / 4 * 3]
}

#[test]
fn list_truncated_in_place_is_unsure_without_sigbus() {
    alone("list_truncated_in_place_is_unsure_without_sigbus", || {
        for layout in LAYOUTS {
            let site = Site::with(layout, 3000);
            let whole = fs::read(site.path()).unwrap();
            let list = site.list();
            let file = File::options().write(true).open(site.path()).unwrap();
            for len in lengths(whole.len() as u64) {
                for n in 0..3000 {
                    assert_eq!(server(list.lookup(&name(n))), "be1");
                }
                file.set_len(len).unwrap();
                for n in [0, 1, 1500, 2999, 3000] {
                    let found = list.lookup(&name(n));
                    assert!(matches!(found, Lookup::Unsure(_)), "{layout:?} {len}: {found:?}");
                    let found = list.lookup_now(&name(n));
                    let known = matches!(found, Lookup::Present(_) | Lookup::Absent);
                    assert!(!known, "{layout:?} {len}: {found:?}");
                }
                assert!(list.each(b"", &mut |_, _| ControlFlow::Continue(())).is_err());
                assert!(list.trust().is_err() && list.status().is_err());
                fs::write(site.path(), &whole).unwrap();
            }
            assert_eq!(list.lookup(&name(3000)), Lookup::Absent);
        }
    });
}

#[test]
fn few_lookups_of_a_truncated_list_raise_no_sigbus() {
    alone("few_lookups_of_a_truncated_list_raise_no_sigbus", || {
        for layout in LAYOUTS {
            let site = Site::with(layout, 3000);
            // No lookup checks the length of the file before a search.
            let options = FileListOptions {
                max_hit_age: Duration::from_secs(3600),
                index_after: 2000,
                ..FileListOptions::default()
            };
            let list = FileList::open(site.path(), options);
            assert_eq!(server(list.lookup(&name(1))), "be1");
            File::options().write(true).open(site.path()).unwrap().set_len(4096).unwrap();
            for n in 0..1000 {
                let found = list.lookup(&name(n));
                assert!(!matches!(found, Lookup::Absent | Lookup::Busy), "{layout:?}: {found:?}");
            }
            assert!(matches!(list.lookup(&name(1500)), Lookup::Unsure(_)), "{layout:?}");
        }

        let folder = tempfile::tempdir().unwrap();
        fill(&mut ReplicaWriter::open(folder.path()).unwrap(), 0..5000, "be1");
        let (list, file) = replica(&folder, Duration::from_secs(3600));
        assert_eq!(server(list.lookup(&name(1))), "be1");
        file.set_len(8192).unwrap();
        for n in 0..1000 {
            let found = list.lookup(&name(n));
            assert!(matches!(found, Lookup::Unsure(_)), "{found:?}");
        }
    });
}

#[test]
fn list_truncated_during_a_walk_is_an_error_without_sigbus() {
    alone("list_truncated_during_a_walk_is_an_error_without_sigbus", || {
        for layout in LAYOUTS {
            let site = Site::with(layout, 20_000);
            let list = site.list();
            assert_eq!(server(list.lookup(&name(1))), "be1");
            let file = File::options().write(true).open(site.path()).unwrap();
            let mut seen = 0;
            let walked = list.each(b"", &mut |_, _| {
                seen += 1;
                if seen == 100 {
                    file.set_len(8192).unwrap();
                }
                ControlFlow::Continue(())
            });
            assert!(walked.is_err() && seen < 20_000, "{walked:?} {seen}");
        }
    });
}

#[test]
fn list_that_grows_or_is_replaced_is_followed_without_a_map() {
    alone("list_that_grows_or_is_replaced_is_followed_without_a_map", || {
        for layout in LAYOUTS {
            let mut site = Site::with(layout, 1000);
            let list = site.list();
            assert_eq!(server(list.lookup(&name(1))), "be1");
            assert_eq!(list.lookup(&name(1000)), Lookup::Absent);
            // To many times the length that was mapped.
            for round in 0..40 {
                (round * 200..round * 200 + 300).for_each(|n| site.put(n, "be2"));
                site.writer.commit();
                site.write();
                for n in round * 200..round * 200 + 300 {
                    assert_eq!(server(list.lookup(&name(n))), "be2", "{layout:?} {n}");
                }
                assert_eq!(server(list.lookup(&name(999))), if round < 4 { "be1" } else { "be2" });
            }
            site.writer = site.writer.repack();
            site.replace();
            for n in 0..8100 {
                assert_eq!(server(list.lookup(&name(n))), "be2", "{layout:?} {n}");
            }
            // By `cp`, with another one that is shorter.
            let other = Site::with(layout, 7500);
            fs::copy(other.path(), site.path()).unwrap();
            for n in 0..7500 {
                assert_eq!(server(list.lookup(&name(n))), "be1", "{layout:?} {n}");
            }
            assert_eq!(list.lookup(&name(7500)), Lookup::Absent);
        }
    });
}

/// Returns a replica with these names.
fn fill(place: &mut ReplicaWriter, names: std::ops::Range<u64>, server: &str) {
    let mut change = place.begin().unwrap();
    for n in names {
        let record = Record {
            state: State::Active,
            server: Some(server.into()),
            partition: "default".into(),
            anonymous: AnonymousRights::default(),
        };
        change.put(&name(n), &record, ModTime::NOT_LATELY).unwrap();
    }
    let synchronised = Some(std::time::SystemTime::now());
    change.set_about(&ReplicaMeta { synchronised, ..ReplicaMeta::default() }).unwrap();
    change.commit().unwrap();
}

fn replica(folder: &tempfile::TempDir, max_hit_age: Duration) -> (LocklessReplica, File) {
    let data = folder.path().join("data.mdb");
    let at = Arc::new(crate::os::pinned_path::PinnedPath::at(data.clone()));
    (LocklessReplica::at(at, max_hit_age), File::options().write(true).open(data).unwrap())
}

#[test]
fn replica_truncated_in_place_is_unsure_without_sigbus() {
    alone("replica_truncated_in_place_is_unsure_without_sigbus", || {
        let folder = tempfile::tempdir().unwrap();
        let mut place = ReplicaWriter::open(folder.path()).unwrap();
        fill(&mut place, 0..5000, "be1");
        drop(place);
        let (list, file) = replica(&folder, Duration::ZERO);
        let whole = fs::read(folder.path().join("data.mdb")).unwrap();
        for len in lengths(whole.len() as u64) {
            for n in 0..5000 {
                assert_eq!(server(list.lookup(&name(n))), "be1");
            }
            assert_eq!(list.lookup(&name(5000)), Lookup::Absent);
            file.set_len(len).unwrap();
            let mut unsure = 0;
            for n in (0..5000).step_by(if len < 8192 { 2500 } else { 1 }) {
                match list.lookup(&name(n)) {
                    Lookup::Present(_) => {}
                    Lookup::Unsure(_) => unsure += 1,
                    other => panic!("{len}: {other:?}"),
                }
            }
            assert!(unsure > 0, "{len}");
            assert!(list.each(b"", &mut |_, _| ControlFlow::Continue(())).is_err());
            fs::write(folder.path().join("data.mdb"), &whole).unwrap();
        }
    });
}

#[test]
fn replica_that_grows_or_is_replaced_is_followed_without_a_map() {
    alone("replica_that_grows_or_is_replaced_is_followed_without_a_map", || {
        let folder = tempfile::tempdir().unwrap();
        let mut place = ReplicaWriter::open(folder.path()).unwrap();
        fill(&mut place, 0..100, "be1");
        let (list, _) = replica(&folder, Duration::ZERO);
        for round in 0..40 {
            fill(&mut place, round * 200..round * 200 + 300, "be2");
            for n in round * 200..round * 200 + 300 {
                assert_eq!(server(list.lookup(&name(n))), "be2", "{n}");
            }
            assert_eq!(list.lookup(&name(round * 200 + 300)), Lookup::Absent);
        }
        let other = tempfile::tempdir().unwrap();
        fill(&mut ReplicaWriter::open(other.path()).unwrap(), 0..9000, "be3");
        fs::rename(other.path().join("data.mdb"), folder.path().join("data.mdb")).unwrap();
        for n in 0..9000 {
            assert_eq!(server(list.lookup(&name(n))), "be3", "{n}");
        }
    });
}
