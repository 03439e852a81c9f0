//! Files that are truncated, overwritten or damaged in place while they are read, and then repaired.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cyrusdb::order::Order;
use crate::cyrusdb::skip::node::Layout;
use crate::lists::*;
use crate::model::list::{Lookup, MailboxList};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::testing::cyrus_writer::Writer;
use crate::testing::random::Random;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mailboxes/current-keys");

struct Site {
    folder: tempfile::TempDir,
    whole: Vec<u8>,
    names: Vec<MailboxName>,
}

impl Site {
    fn new(whole: Vec<u8>) -> Self {
        crate::os::map::guard();
        let site = Self { folder: tempfile::tempdir().unwrap(), whole, names: Vec::new() };
        fs::write(site.path(), &site.whole).unwrap();
        let names = names(&site.list());
        assert!(names.len() >= 100);
        // A lookup in a damaged file takes a while.
        let step = names.len() / 100;
        Self { names: names.into_iter().step_by(step).collect(), ..site }
    }

    /// Returns one site for each engine, with its name.
    fn all() -> Vec<(&'static str, Self)> {
        let layouts = [("twoskip", Layout::Twoskip), ("twom", Layout::Twom { checksums: true })];
        let written = layouts.map(|(engine, layout)| (engine, Self::new(written(layout, "be1"))));
        let read = ["skiplist", "flat"].map(|engine| {
            let file = fs::read(format!("{FIXTURE}/{engine}.db")).unwrap();
            (engine, Self::new(file))
        });
        written.into_iter().chain(read).collect()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mailboxes.db")
    }

    fn list(&self) -> FileList {
        let options = FileListOptions {
            max_hit_age: Duration::ZERO,
            lock_timeout: Duration::from_millis(30),
            ..FileListOptions::default()
        };
        FileList::open(self.path(), options)
    }

    /// Returns the number of names that a list has; asserts that no name is absent.
    fn found(&self, list: &FileList) -> usize {
        let found = self.names.iter().map(|name| match list.lookup(name) {
            Lookup::Present(_) => 1,
            Lookup::Unsure(_) | Lookup::Busy => 0,
            Lookup::Absent => panic!("{name} is absent"),
        });
        found.sum()
    }
}

fn written(layout: Layout, server: &str) -> Vec<u8> {
    let mut writer = Writer::new(layout, Random(7), 1, |a, b| Order::Raw.compare(a, b));
    for n in 0..3000 {
        let mut key = Vec::new();
        name(&format!("user.u{n:05}")).push_key(KeyGeneration::Separated, &mut key);
        writer.put(&key, format!("%(T er P default S {server})").as_bytes());
    }
    writer.commit();
    writer.repack().file
}

fn name(name: &str) -> MailboxName {
    MailboxName::new(name).unwrap()
}

fn names(list: &FileList) -> Vec<MailboxName> {
    let mut names = Vec::new();
    list.each(b"", &mut |name, _| {
        names.push(name.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    names
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn list_truncated_and_repaired_in_place_answers_at_once() {
    for (engine, site) in Site::all() {
        let list = site.list();
        let all = site.names.len();
        let size = site.whole.len() as u64;
        for (round, len) in
            [0, 1, 64, 4096, 5000, size / 2, size / 4 * 3, size - 1, 0].into_iter().enumerate()
        {
            // Reads through the map, where it has one.
            assert_eq!(site.found(&list), all, "{engine} {round}");
            let file = File::options().write(true).open(site.path()).unwrap();
            file.set_len(len).unwrap();
            assert!(site.found(&list) < all, "{engine} {len}");
            assert!(list.trust().is_err(), "{engine} {len}");
            fs::write(site.path(), &site.whole).unwrap();
            assert_eq!(site.found(&list), all, "{engine} {len}");
            let strangers = list.lookup(&name("user.nobody"));
            assert!(!matches!(strangers, Lookup::Present(_) | Lookup::Busy), "{strangers:?}");
            list.status().unwrap();
        }
    }
}

#[test]
fn lost_pages_that_come_back_are_noticed() {
    for (engine, site) in Site::all() {
        let list = site.list();
        let all = site.names.len();
        assert_eq!(site.found(&list), all);
        for at in (4096..site.whole.len() as u64).step_by(4096 * 7) {
            let lost = &site.whole[at as usize..site.whole.len().min(at as usize + 4096)];
            overwrite(&site.path(), at, &vec![0; lost.len()]);
            assert!(site.found(&list) <= all);
            overwrite(&site.path(), at, lost);
            assert_eq!(site.found(&list), all, "{engine}, page at {at}");
        }
    }
}

#[test]
fn torn_map_is_replaced_by_a_new_map() {
    let site = Site::new(written(Layout::Twoskip, "be1"));
    // No lookup checks the length of the file before a search.
    let options =
        FileListOptions { max_hit_age: Duration::from_secs(3600), ..FileListOptions::default() };
    let list = FileList::open(site.path(), options);
    assert_eq!(site.found(&list), site.names.len());
    assert_eq!(list.is_torn(), Some(false));
    File::options().write(true).open(site.path()).unwrap().set_len(4096).unwrap();
    site.found(&list);
    assert_eq!(list.is_torn(), Some(true));
    fs::write(site.path(), &site.whole).unwrap();
    assert_eq!(site.found(&list), site.names.len());
    assert_eq!(list.is_torn(), Some(false));
}

#[test]
fn skiplist_overwritten_with_one_of_equal_size_is_read_anew() {
    let whole = fs::read(format!("{FIXTURE}/skiplist.db")).unwrap();
    let site = Site::new(whole.clone());
    let list = site.list();
    assert_eq!(site.found(&list), site.names.len());
    let servers = |list: &FileList| {
        let mut servers = Vec::new();
        list.each(b"", &mut |_, record| {
            servers.extend(record.server.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
        servers
    };
    let old = servers(&list);
    assert!(old.iter().any(|server| server.starts_with("be1.")));
    let mut other = whole;
    for at in 0..other.len() {
        if other[at..].starts_with(b"be1.") {
            other[at + 2] = b'X';
        }
    }
    fs::write(site.path(), &other).unwrap();
    let new = servers(&list);
    assert_eq!(new.len(), old.len());
    assert!(!new.iter().any(|server| server.starts_with("be1.")));
}

#[test]
fn flat_list_being_copied_over_is_unsure() {
    let site = Site::new(fs::read(format!("{FIXTURE}/flat.db")).unwrap());
    let list = site.list();
    assert_eq!(list.lookup(&name("user.nobody")), Lookup::Absent);
    // To the end of a line: nothing in the file shows that the copy is incomplete.
    let half = site.whole.len() / 2;
    let end = half + site.whole[half..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(site.path(), &site.whole[..end]).unwrap();
    let found = site.found(&list);
    assert!(found > 0 && found < site.names.len());
    fs::write(site.path(), &site.whole).unwrap();
    assert_eq!(site.found(&list), site.names.len());
    // A new file, as Cyrus writes it, is trusted at once.
    let new = site.path().with_extension("NEW");
    fs::write(&new, &site.whole).unwrap();
    fs::rename(&new, site.path()).unwrap();
    assert_eq!(list.lookup(&name("user.nobody")), Lookup::Absent);
}
#[test]
fn lost_page_costs_few_names_and_makes_none_absent() {
    for (engine, site) in Site::all() {
        let (mut found, mut asked) = (0, 0);
        for at in (4096..site.whole.len() as u64 - 4096).step_by(4096 * 13) {
            overwrite(&site.path(), at, &[0; 4096]);
            let list = site.list();
            found += site.found(&list);
            asked += site.names.len();
            let stranger = list.lookup(&name("user.u01500x"));
            assert!(!matches!(stranger, Lookup::Present(_)), "{engine} {at}: {stranger:?}");
            overwrite(&site.path(), at, &site.whole[at as usize..at as usize + 4096]);
        }
        // A page is a fifth of the short files that were recorded.
        let least = if matches!(engine, "twoskip" | "twom") { 90 } else { 60 };
        assert!(found * 100 >= asked * least, "{engine}: {found} of {asked}");
    }
}

/// Returns the answer for a missing name, with this many bytes in the middle of the list overwritten.
#[test]
fn damage_is_reported_with_its_offset() {
    for (engine, site) in Site::all() {
        if matches!(engine, "twoskip" | "twom") {
            continue;
        }
        overwrite(&site.path(), 6000, &[0; 300]);
        let list = site.list();
        let Lookup::Unsure(why) = list.lookup(&name("user.nobody")) else { panic!("{engine}") };
        assert!(why.contains("mailboxes.db: offset ") && why.contains("verify"), "{why}");
        assert_eq!(engine == "flat", why.contains(": line "), "{why}");
        assert!(list.trust().unwrap_err().contains("offset"), "{engine}");
        let report = super::verify::file(&site.path());
        assert!(!report.problems.is_empty() && report.records > 50, "{engine}: {report}");
    }
}

#[test]
fn fifo_or_directory_in_place_of_the_list_is_not_waited_for() {
    for (engine, site) in Site::all() {
        let list = site.list();
        assert_eq!(site.found(&list), site.names.len());
        let path = site.path();
        let spoil: [&dyn Fn(); 3] = [
            &|| {
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap()
            },
            &|| fs::create_dir(&path).unwrap(),
            &|| std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
        ];
        for spoil in spoil {
            let aside = path.with_extension("ASIDE");
            fs::rename(&path, &aside).unwrap();
            spoil();
            for list in [&list, &site.list()] {
                assert_eq!(site.found(list), 0, "{engine}");
                assert!(list.status().is_err() && list.trust().is_err(), "{engine}");
            }
            assert!(!super::verify::file(&path).problems.is_empty());
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            fs::rename(&aside, &path).unwrap();
            assert_eq!(site.found(&list), site.names.len(), "{engine}");
        }
    }
}

#[test]
fn flat_list_loaded_by_many_threads_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailboxes.db");
    let replace = |n: usize| {
        let rows = |n| format!("user.u{n:05}\t1 be1.example.org!default anyone\tp\t\n");
        let new = path.with_extension("NEW");
        fs::write(&new, (0..2000 + n).map(rows).collect::<String>()).unwrap();
        // Held open, so that no later file gets this inode.
        let file = File::open(&new).unwrap();
        fs::rename(new, &path).unwrap();
        file
    };
    let first = replace(0);
    let options = FileListOptions { max_hit_age: Duration::ZERO, ..FileListOptions::default() };
    let list = FileList::open(&path, options);
    let nobody = MailboxName::new("user.nobody").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Lookup::Unsure(why) = list.lookup(&nobody) {
                        assert!(!why.to_string().contains("overwritten"), "{why}");
                    }
                }
            });
        }
        let others: Vec<File> = (1..100).map(replace).collect();
        drop((first, others));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
