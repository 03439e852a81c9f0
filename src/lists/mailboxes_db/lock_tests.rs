//! A [`FileList`] whose file a writer has locked.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::time::Duration;

use super::tests::*;
use super::*;

#[test]
fn wait_for_a_writer_ends_at_the_timeout() {
    let site = Site::with(TWOSKIP, some(30));
    let list = site.list();
    // Broken: only the lock can tell whether a writer is at work.
    let mut bytes = site.writer.file.clone();
    let at = bytes.windows(5).position(|w| w == b"u0020").unwrap();
    bytes[at] ^= 1;
    fs::write(site.path(), &bytes).unwrap();
    let name = name("user.u0020");
    let writer = File::options().write(true).open(site.path()).unwrap();
    super::lock::hold_for_writing(&writer);
    assert_eq!(list.lookup_now(&name), Lookup::Busy);
    let Lookup::Unsure(why) = list.lookup(&name) else { panic!() };
    assert!(why.contains("locked by a writer"), "{why}");
    drop(writer);
    let Lookup::Unsure(why) = list.lookup(&name) else { panic!() };
    assert!(why.contains("mailboxes.db: offset "), "{why}");
}

#[test]
fn skiplist_torn_behind_its_last_commit_answers_hits_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailboxes.db");
    let whole =
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mailboxes/current-keys/skiplist.db");
    let whole = fs::read(whole).unwrap();
    fs::write(&path, &whole).unwrap();
    let list = FileList::open(&path, strict());
    let mut names = Vec::new();
    list.each(b"", &mut |name, _| {
        names.push(name.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(names.len(), 120);
    // Only the beginning of an ADD, for a list that was read before and for a new one.
    fs::write(&path, [&whole[..], b"\0\0\0\x02\0\0\0\x20Nuser\x1fnew"].concat()).unwrap();
    for list in [&list, &FileList::open(&path, strict())] {
        assert!(names.iter().all(|name| matches!(list.lookup(name), Lookup::Present(_))));
        assert!(matches!(list.lookup(&name("user.nobody")), Lookup::Unsure(_)));
    }
    // Cyrus truncates the rest before it writes again.
    fs::write(&path, &whole).unwrap();
    assert_eq!(list.lookup(&name("user.nobody")), Lookup::Absent);
}

#[test]
fn long_skiplist_transaction_does_not_defer_known_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailboxes.db");
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mailboxes/current-keys");
    let clean = fs::read(format!("{fixture}/skiplist.db")).unwrap();
    fs::write(&path, &clean).unwrap();
    let list = FileList::open(&path, strict());
    let mut known = None;
    list.each(b"", &mut |name, _| {
        known = Some(name.clone());
        ControlFlow::Break(())
    })
    .unwrap();
    let known = known.unwrap();
    assert!(matches!(list.lookup(&known), Lookup::Present(_)));
    let mut writer = File::options().append(true).open(&path).unwrap();
    super::lock::hold_for_writing(&writer);
    writer.write_all(b"\0\0\0\x02").unwrap();
    assert!(matches!(list.lookup(&known), Lookup::Present(_)));
    let Lookup::Unsure(why) = list.lookup(&name("user.nobody")) else { panic!() };
    assert!(why.contains("locked by a writer"), "{why}");
}

#[test]
fn lookup_now_waits_for_no_writer_and_reads_no_long_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mailboxes.db");
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mailboxes/current-keys");
    fs::write(&path, fs::read(format!("{fixture}/skiplist.db")).unwrap()).unwrap();
    let writer = File::options().write(true).open(&path).unwrap();
    super::lock::hold_for_writing(&writer);
    // A lookup that waits would run into the time limit of the test.
    let list = FileList::open(
        &path,
        FileListOptions {
            lock_timeout: Duration::from_secs(1 << 20),
            ..FileListOptions::default()
        },
    );
    assert_eq!(list.lookup_now(&name("user.nobody")), Lookup::Busy);
    drop(writer);
    assert_eq!(list.lookup_now(&name("user.nobody")), Lookup::Absent);

    let long: String = (0..10_000)
        .map(|n| format!("user.u{n:05}\t1 be1.example.org!default anyone\tp\t\n"))
        .collect();
    assert!(long.len() > 256 << 10);
    replace(&path, long.as_bytes());
    let list = FileList::open(&path, strict());
    assert_eq!(list.lookup_now(&name("user.u00001")), Lookup::Busy);
    assert!(server(list.lookup(&name("user.u00001"))).is_some());
    assert!(server(list.lookup_now(&name("user.u00001"))).is_some());
}
