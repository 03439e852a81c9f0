//! Files that are damaged, truncated, replaced, or of another program.

use std::ops::ControlFlow;
use std::path::Path;

use super::tests::{all, list_of, name, record};
use super::*;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::mod_time::ModTime;
use crate::os::map;
use crate::replica::Transaction as _;

/// Damages a replica of 2000 names, then returns the error of opening it and checks that it can be begun
/// anew; the damaged file must be kept beside it.
fn damaged(damage: impl FnOnce(&Path)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..2000, 0);
    let list = place.list();
    drop((place, list));
    let data = dir.path().join("data.mdb");
    damage(&data);
    let bytes = std::fs::read(&data).unwrap();

    map::guard();
    let list = ReplicaList::open(dir.path()).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    let error = ReplicaWriter::open(dir.path()).unwrap_err();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    assert_eq!(std::fs::read(&data).unwrap(), bytes);

    let (mut place, why) = ReplicaWriter::open_or_begin_anew(dir.path()).unwrap();
    assert_eq!(why.unwrap().to_string(), error.to_string());
    assert_eq!(std::fs::read(dir.path().join("data.mdb.set-aside")).unwrap(), bytes);
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    list_of(&mut place, 0..10, 0);
    assert!(matches!(list.lookup(&name(1)), Lookup::Present(_)));
    assert_eq!(list.lookup(&name(11)), Lookup::Absent);
    drop(place);
    // A working replica is not set aside.
    let (_place, why) = ReplicaWriter::open_or_begin_anew(dir.path()).unwrap();
    assert!(why.is_none());
    error
}

#[test]
fn damaged_file_is_an_error_and_can_be_begun_anew() {
    for damage in [
        &(|path: &Path| std::fs::write(path, b"not LMDB's").unwrap()) as &dyn Fn(&Path),
        &|path| std::fs::write(path, [0; 100_000]).unwrap(),
        &|path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        },
        &|path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..8192]).unwrap();
        },
        &|path| {
            // The table of databases: LMDB finds an invalid page.
            let mut bytes = std::fs::read(path).unwrap();
            bytes[8192..].fill(0);
            std::fs::write(path, &bytes).unwrap();
        },
    ] {
        let error = damaged(damage);
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}

#[test]
fn damage_found_later_makes_no_name_absent_and_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..10_000, 0);
    drop(place);
    let data = dir.path().join("data.mdb");
    let mut bytes = std::fs::read(&data).unwrap();
    let at = bytes.len() / 2 / 4096 * 4096;
    bytes[at..at + 4096].fill(0);
    std::fs::write(&data, &bytes).unwrap();

    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    let list = place.list();
    let mut unsure = 0;
    for n in 0..10_000 {
        match list.lookup(&name(n)) {
            Lookup::Present(_) => {}
            Lookup::Unsure(_) => unsure += 1,
            wrong => panic!("{wrong:?}"),
        }
    }
    assert!((1..1000).contains(&unsure), "{unsure}");
    let mut change = place.begin().unwrap();
    let damaged =
        (0..10_000).find_map(|n| change.put(&name(n), &record("be2"), ModTime::NOT_LATELY).err());
    assert!(matches!(damaged, Some(Error::Damaged { .. })), "{damaged:?}");
    drop(change);
    drop(place);
    assert!(matches!(list.lookup(&name(1)), Lookup::Present(_)));
    let (mut place, why) = ReplicaWriter::open_or_begin_anew(dir.path()).unwrap();
    assert!(why.is_some());
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    list_of(&mut place, 0..10_000, 0);
    assert_eq!(all(&list).len(), 10_000);
    drop(place);
    assert!(ReplicaWriter::open_or_begin_anew(dir.path()).unwrap().1.is_none());
}

#[test]
fn file_without_its_free_tail_is_mended_and_keeps_its_records() {
    map::guard();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.mdb");
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..2000, 0);
    // As if LMDB had not written the pages at the end: they are free.
    let mut change = place.begin().unwrap();
    for n in 10_000..12_000 {
        change.put(&name(n), &record("be1"), ModTime::NOT_LATELY).unwrap();
    }
    change.commit().unwrap();
    for _ in 0..2 {
        let mut change = place.begin().unwrap();
        for n in 10_000..12_000 {
            change.delete(&name(n)).unwrap();
        }
        change.put(&name(1), &record("be7"), ModTime::NOT_LATELY).unwrap();
        change.commit().unwrap();
    }
    drop(place);
    let before = std::fs::metadata(&data).unwrap().len();
    let list = ReplicaList::open(dir.path()).unwrap();
    let model = all(&list);
    let mut mended = 0;
    for pages in 1..40 {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(&data, dir.path().join("data.mdb")).unwrap();
        let file = std::fs::File::options().write(true).open(dir.path().join("data.mdb")).unwrap();
        file.set_len(before - 4096 * pages).unwrap();
        let list = ReplicaList::open(dir.path()).unwrap();
        let whole = matches!(list.lookup(&name(1)), Lookup::Present(_));
        let opened = ReplicaWriter::open(dir.path());
        assert_eq!(opened.is_ok(), whole);
        let Ok(mut place) = opened else { continue };
        assert_eq!(all(&list), model);
        list_of(&mut place, 0..3000, 0);
        assert_eq!(all(&list).len(), 3000);
        mended += 1;
    }
    assert!(mended > 0);
}

/// Rewrites the metadata, below the trait.
fn rewrite_about(data: &Path, value: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let store = super::env::ReplicaEnv::of(data.parent().unwrap()).unwrap();
    let open = store.open_to_write(0, false).unwrap();
    let mut txn = open.env.write_txn().unwrap();
    let about = open.records.get(&txn, value::ABOUT_KEY).unwrap().unwrap().to_vec();
    open.records.put(&mut txn, value::ABOUT_KEY, &value(about)).unwrap();
    txn.commit().unwrap();
}

#[test]
fn replica_of_another_version_is_an_error_and_can_be_begun_anew() {
    let error = damaged(|path| {
        rewrite_about(path, |mut about| {
            about[14] = 9;
            about
        });
    });
    assert!(matches!(error, Error::Version { found: 9, .. }), "{error}");
    assert!(error.to_string().contains("version 9"), "{error}");
    let error = damaged(|path| rewrite_about(path, |about| about[..20].to_vec()));
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

/// The format of murder-route before records had a time of change.
#[test]
fn replica_of_version_1_defers_all_until_it_is_made_anew() {
    let error = damaged(|path| {
        let store = super::env::ReplicaEnv::of(path.parent().unwrap()).unwrap();
        let open = store.open_to_write(0, false).unwrap();
        let mut txn = open.env.write_txn().unwrap();
        for n in 0..2000 {
            let name = name(n);
            let value = open.records.get(&txn, name.as_bytes()).unwrap().unwrap();
            let value = value[4..].to_vec();
            open.records.put(&mut txn, name.as_bytes(), &value).unwrap();
        }
        txn.commit().unwrap();
        rewrite_about(path, |mut about| {
            about[14] = 1;
            about
        });
        drop((open, store));
        {
            let at = std::sync::Arc::new(crate::os::pinned_path::PinnedPath::at(path.into()));
            let list = LocklessReplica::at(at, crate::replica::read::reader::HIT_AGE);
            for n in [1, 3000] {
                let found = list.lookup(&name(n));
                let Lookup::Unsure(why) = &found else { panic!("{found:?}") };
                assert!(why.contains("written as version 1"), "{why}");
            }
        }
    });
    assert!(matches!(error, Error::Version { found: 1, .. }), "{error}");
}

#[test]
fn database_of_another_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let place = ReplicaWriter::open(dir.path()).unwrap();
    let mut txn = place.open.env.write_txn().unwrap();
    place.open.records.put(&mut txn, b"alias", b"somebody").unwrap();
    place.open.records.delete(&mut txn, value::ABOUT_KEY).unwrap();
    txn.commit().unwrap();
    drop(place);
    let before = std::fs::read(dir.path().join("data.mdb")).unwrap();
    let error = ReplicaWriter::open_or_begin_anew(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NotOurs(_)), "{error}");
    let list = ReplicaList::open(dir.path()).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    assert_eq!(std::fs::read(dir.path().join("data.mdb")).unwrap(), before);
}

#[test]
fn damaged_value_is_no_absence() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..10, 0);
    let mut txn = place.open.env.write_txn().unwrap();
    place.open.records.put(&mut txn, name(5).as_bytes(), b"?").unwrap();
    txn.commit().unwrap();
    let list = place.list();
    assert!(matches!(list.lookup(&name(5)), Lookup::Unsure(_)));
    assert!(matches!(list.lookup(&name(4)), Lookup::Present(_)));
    assert!(list.each(b"", &mut |_, _| ControlFlow::Continue(())).is_err());
    // The next list repairs it.
    assert_eq!(list_of(&mut place, 0..10, 1).changed, 1);
    assert!(matches!(list.lookup(&name(5)), Lookup::Present(_)));
}

#[test]
fn directory_that_disappears_and_returns_makes_no_name_absent() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let mut place = ReplicaWriter::open(&here).unwrap();
    list_of(&mut place, 0..10, 0);
    let list = place.list();
    assert_eq!(list.lookup(&name(11)), Lookup::Absent);
    std::fs::rename(&here, &there).unwrap();
    assert!(matches!(list.lookup(&name(11)), Lookup::Unsure(_)));
    assert!(matches!(place.begin(), Err(Error::Replaced(_))));
    // Another replica in its place, while the writer still has the old one open.
    std::fs::create_dir(&here).unwrap();
    std::fs::copy(there.join("data.mdb"), here.join("data.mdb")).unwrap();
    assert!(matches!(list.lookup(&name(11)), Lookup::Unsure(_)));
    assert!(matches!(place.begin(), Err(Error::Replaced(_))));
    drop(place);
    assert_eq!(list.lookup(&name(11)), Lookup::Absent);
    let mut place = ReplicaWriter::open(&here).unwrap();
    list_of(&mut place, 0..12, 0);
    assert!(matches!(list.lookup(&name(11)), Lookup::Present(_)));
}

#[test]
fn file_truncated_in_use_is_an_error_and_no_sigbus() {
    map::guard();
    for len in [0, 4096, 8192, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let mut place = ReplicaWriter::open(dir.path()).unwrap();
        list_of(&mut place, 0..10_000, 0);
        let list = place.list();
        assert_eq!(list.lookup(&name(10_000)), Lookup::Absent);
        let file = std::fs::File::options().write(true).open(dir.path().join("data.mdb")).unwrap();
        file.set_len(len).unwrap();
        let mut unsure = 0;
        for n in 0..10_001 {
            match list.lookup(&name(n)) {
                Lookup::Present(_) if n < 10_000 => {}
                Lookup::Unsure(_) => unsure += 1,
                wrong => panic!("{len}: {n}: {wrong:?}"),
            }
        }
        assert!(unsure > 0, "{len}");
        let begun = place.begin();
        assert!(matches!(begun, Err(Error::Damaged { .. } | Error::Replaced(_))));
        drop(begun);
        drop(place);
        let (mut place, why) = ReplicaWriter::open_or_begin_anew(dir.path()).unwrap();
        assert_eq!(why.is_some(), len > 0, "{len}");
        list_of(&mut place, 0..10, 0);
        assert!(matches!(list.lookup(&name(9)), Lookup::Present(_)));
    }
}

type Spoil<'s> = &'s dyn Fn(&Path);

/// Kinds of things other than files that can have a file's name.
const NO_FILES: [(&str, Spoil<'static>); 3] = [
    ("a FIFO", &|path| {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    }),
    ("a directory", &|path| std::fs::create_dir(path).unwrap()),
    ("a device", &|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
];

fn remove(path: &Path) {
    let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path));
}

fn why(found: Lookup) -> String {
    match found {
        Lookup::Unsure(why) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn non_file_in_the_place_of_a_file_never_blocks_and_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..10, 0);
    drop(place);
    for (file, readers) in [("data.mdb", true), ("lock.mdb", true), ("lock", false)] {
        for (what, spoil) in NO_FILES {
            let (path, aside) = (dir.path().join(file), dir.path().join("aside"));
            std::fs::rename(&path, &aside).unwrap();
            spoil(&path);
            let error = ReplicaWriter::open(dir.path()).map(drop).unwrap_err().to_string();
            assert!(error.contains(file), "{file}, {what}: {error}");
            if readers {
                let list = ReplicaList::open(dir.path()).unwrap();
                let why = why(list.lookup(&name(1)));
                assert!(why.contains(file) && why.contains("not a regular file"), "{why}");
                remove(&path);
                std::fs::rename(&aside, &path).unwrap();
                assert!(matches!(list.lookup(&name(1)), Lookup::Present(_)), "{file}, {what}");
            } else {
                remove(&path);
                std::fs::rename(&aside, &path).unwrap();
            }
            ReplicaWriter::open(dir.path()).unwrap();
        }
    }
}

#[test]
fn file_of_an_open_replica_may_become_a_fifo_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = ReplicaWriter::open(dir.path()).unwrap();
    list_of(&mut place, 0..10, 0);
    drop(place);
    let list = ReplicaList::open(dir.path()).unwrap();
    assert_eq!(list.lookup(&name(11)), Lookup::Absent);
    let (data, aside) = (dir.path().join("data.mdb"), dir.path().join("aside"));
    std::fs::rename(&data, &aside).unwrap();
    NO_FILES[0].1(&data);
    for n in [1, 11] {
        assert!(!matches!(list.lookup(&name(n)), Lookup::Absent | Lookup::Busy));
    }
    remove(&data);
    std::fs::rename(&aside, &data).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Present(_)));
    assert_eq!(list.lookup(&name(11)), Lookup::Absent);
}

#[test]
fn empty_or_foreign_file_is_reported_in_terms_of_the_replica() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.mdb");
    for (bytes, said) in [(&b""[..], "the file is empty"), (b"user.jane\t0 default \n", "damaged")]
    {
        std::fs::write(&data, bytes).unwrap();
        let list = ReplicaList::open(dir.path()).unwrap();
        let judge = |told: String| {
            assert!(told.contains(said) && told.contains("serve"), "{told}");
            assert!(!told.contains("Cyrus"), "{told}");
        };
        judge(why(list.lookup(&name(1))));
        {
            let at = std::sync::Arc::new(crate::os::pinned_path::PinnedPath::at(data.clone()));
            let list = LocklessReplica::at(at, std::time::Duration::ZERO);
            judge(why(list.lookup(&name(1))));
            judge(list.about().unwrap_err().to_string());
        }
    }
}

#[test]
fn path_with_newline_or_non_utf8_bytes_is_guarded() {
    use std::os::unix::ffi::OsStrExt;
    map::guard();
    for folder in [&b"with a\nline"[..], b"with\\012", b"with \xff\xfe"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join(std::ffi::OsStr::from_bytes(folder));
        let mut place = ReplicaWriter::open(&dir).unwrap();
        list_of(&mut place, 0..2000, 0);
        let list = place.list();
        assert!(matches!(list.lookup(&name(1)), Lookup::Present(_)));
        let data = std::fs::File::options().write(true).open(dir.join("data.mdb")).unwrap();
        data.set_len(8192).unwrap();
        // Without the guard, this kills the process.
        let found = list.lookup(&name(1999));
        assert!(matches!(found, Lookup::Unsure(_)), "{}: {found:?}", folder.escape_ascii());
    }
}
