use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::testing::cyrus_lists;

type Rows = BTreeMap<String, String>;

/// Writer of skiplist files as Cyrus writes them, with pointers that lead nowhere.
struct Writer(Vec<u8>);

impl Writer {
    /// Returns a file of these records, as a checkpoint leaves it.
    fn new(records: &[(&str, &str)]) -> Self {
        let mut writer = Self(super::super::SKIPLIST_MAGIC.to_vec());
        writer.words(&[1, 2, MAX_LEVEL, 1, 0, 0, 0, DUMMY, 0, 0]);
        writer.words(&[0xdead_0000; MAX_LEVEL as usize]);
        writer.words(&[NO_MORE_POINTERS]);
        for (key, value) in records {
            writer.record(INORDER, key, value);
        }
        let logstart = writer.0.len() as u32;
        writer.set(LOGSTART_AT, logstart);
        writer
    }

    fn words(&mut self, words: &[u32]) -> &mut Self {
        self.0.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        self
    }

    fn set(&mut self, at: usize, word: u32) {
        self.0[at..at + 4].copy_from_slice(&word.to_be_bytes());
    }

    /// Returns the offset.
    fn record(&mut self, kind: u32, key: &str, value: &str) -> u32 {
        let at = self.0.len() as u32;
        self.words(&[kind]);
        for text in [key, value] {
            self.words(&[text.len() as u32]);
            self.0.extend_from_slice(text.as_bytes());
            self.0.resize(self.0.len().next_multiple_of(4), 0);
        }
        self.words(&[0xdead_0000, 0, NO_MORE_POINTERS]);
        at
    }

    fn add(&mut self, key: &str, value: &str) -> u32 {
        self.record(ADD, key, value)
    }

    fn delete(&mut self, record: u32) -> &mut Self {
        self.words(&[DELETE, record])
    }

    fn commit(&mut self) -> &mut Self {
        self.words(&[COMMIT])
    }
}

fn replayed(bytes: &[u8]) -> Result<Replay> {
    let mut replay = Replay::new();
    replay.follow(bytes, bytes.len() as u64).map(|()| replay)
}

fn rows(replay: &Replay) -> Rows {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    replay.iter().map(|(key, value)| (text(key), text(value))).collect()
}

fn offset_of(error: Error) -> u64 {
    match error {
        Error::Corrupt { offset, .. } => offset,
        other => panic!("{other}"),
    }
}

#[test]
fn files_of_cyrus_and_of_a_killed_writer_are_read() {
    for list in cyrus_lists::lists() {
        for (name, killed) in [("skiplist.db", false), ("skiplist-killed.db", true)] {
            let bytes = list.file(name);
            let replay = replayed(&bytes).unwrap();
            list.check(replay.iter());
            for (key, value) in replay.iter() {
                assert_eq!(replay.get(key), Some(value));
            }
            for key in list.absent() {
                assert_eq!(replay.get(key), None, "{}", key.escape_ascii());
            }
            assert_eq!(replay.committed() < bytes.len() as u64, killed);

            let mut seen = 0;
            let problems = verify(&bytes, bytes.len() as u64, &mut |_| seen += 1);
            assert_eq!(seen, replay.len());
            assert_eq!(problems.len(), usize::from(killed), "{problems:?}");
        }
    }
}

#[test]
fn records_of_users_are_told_from_others() {
    for list in cyrus_lists::lists() {
        let bytes = list.file("skiplist.db");
        let mut replay = Replay::new();
        let _ = replay.follow(&bytes, bytes.len() as u64 / 3);
        replay.follow(&bytes, bytes.len() as u64).unwrap();
        let mut damaged = bytes.clone();
        damaged[9000..9100].fill(0);
        for replay in [replay, left_of(&damaged).unwrap()] {
            let others: Vec<_> = replay.iter().filter(|(key, _)| !is_users(key)).collect();
            assert_eq!(replay.others().count(), others.len());
            assert!(replay.others().all(|row| others.contains(&row)));
            assert!(replay.of_users().is_some_and(|(key, _)| is_users(key)));
        }
    }
}

#[test]
fn appended_records_are_followed_from_any_length() {
    for list in cyrus_lists::lists() {
        let bytes = list.file("skiplist.db");
        let size = bytes.len() as u64;
        for first in (0..size).step_by(452) {
            let mut replay = Replay::new();
            // A file cut inside a record is an error; the next call still continues.
            let _ = replay.follow(&bytes, first);
            replay.follow(&bytes, size).unwrap();
            list.check(replay.iter());
        }
    }
}

#[test]
fn uncommitted_transaction_is_not_seen() {
    let mut writer = Writer::new(&[("a", "1"), ("b", "2")]);
    let c = writer.add("c", "3");
    writer.commit();
    let committed = writer.0.len() as u64;
    writer.delete(c).add("d", "4");
    let mut replay = replayed(&writer.0).unwrap();
    assert_eq!(replay.committed(), committed);
    assert_eq!((replay.get(b"c"), replay.get(b"d")), (Some(&b"3"[..]), None));

    // Another writer aborts it and commits something else in its place.
    writer.0.truncate(committed as usize);
    writer.add("e", "5");
    writer.commit();
    replay.follow(&writer.0, writer.0.len() as u64).unwrap();
    assert_eq!(rows(&replay).into_values().collect::<String>(), "1235");
}

#[test]
fn file_without_records_is_an_empty_list() {
    let replay = replayed(&Writer::new(&[]).0).unwrap();
    assert!(replay.is_empty() && replay.committed() == 144);
    assert!(matches!(replayed(&[]), Err(Error::Empty)));
}

#[test]
fn truncated_file_is_no_empty_list() {
    let writer = Writer::new(&[("a", "1")]);
    let mut replay = replayed(&writer.0).unwrap();
    assert_eq!(offset_of(replay.follow(&writer.0[..0], 0).unwrap_err()), 0);
    assert_eq!(replay.get(b"a"), Some(&b"1"[..]));
}

#[test]
fn overwritten_file_is_noticed() {
    let mut replay = replayed(&Writer::new(&[("a", "1")]).0).unwrap();
    let other = Writer::new(&[("a", "2"), ("b", "2")]);
    assert!(replay.follow(&other.0, other.0.len() as u64).is_err());
}

#[test]
fn every_malformation_is_an_error_with_its_offset() {
    type Harm = fn(&mut Writer) -> u32;
    let table: &[(&str, Harm)] = &[
        ("not the magic", |w| {
            w.0[5] = b'x';
            0
        }),
        ("unknown version 2", |w| {
            w.set(20, 2);
            20
        }),
        ("21 levels", |w| {
            w.set(28, 21);
            28
        }),
        ("0 levels", |w| {
            w.set(28, 0);
            28
        }),
        ("not the DUMMY", |w| {
            w.set(52, 1);
            48
        }),
        ("log does not begin at 148", |w| {
            w.set(LOGSTART_AT, 148);
            LOGSTART_AT as u32
        }),
        ("log does not begin at 0", |w| {
            w.set(LOGSTART_AT, 0);
            LOGSTART_AT as u32
        }),
        ("type 255 before the log", |w| {
            let end = w.0.len() as u32;
            w.set(LOGSTART_AT, end + 8);
            w.commit();
            end
        }),
        ("type 1 in the log", |w| w.record(INORDER, "x", "y")),
        ("unknown type 3", |w| w.record(3, "x", "y")),
        ("zeros", |w| {
            let end = w.0.len() as u32;
            w.words(&[0, COMMIT]);
            end
        }),
        ("past the end", |w| {
            let at = w.add("x", "y");
            w.set(at as usize + 4, u32::MAX);
            at
        }),
        ("past the end", |w| {
            let at = w.add("x", "y");
            w.set(at as usize + 12, u32::MAX - 2);
            at
        }),
        ("past the end", |w| {
            let at = w.add("x", "y");
            w.0.truncate(w.0.len() - 2);
            at
        }),
        ("empty key", |w| w.add("", "y")),
        ("without pointers", |w| {
            let at = w.0.len() as u32;
            w.words(&[ADD, 1, 0, 0, NO_MORE_POINTERS]);
            at
        }),
        ("more than 20 levels", |w| {
            let at = w.0.len() as u32;
            w.words(&[ADD, 1, 0, 0]).words(&[8; 21]).words(&[NO_MORE_POINTERS]);
            at
        }),
        ("there already", |w| {
            let at = w.add("a", "y");
            w.commit();
            at
        }),
        ("DELETE of offset 148", |w| {
            let at = w.0.len() as u32;
            w.delete(148).commit();
            at
        }),
        ("DELETE of offset 4294967295", |w| {
            let at = w.0.len() as u32;
            w.delete(u32::MAX).commit();
            at
        }),
        ("DELETE of offset 144", |w| {
            w.delete(144);
            let second = w.0.len() as u32;
            w.delete(144).commit();
            second
        }),
    ];
    for (words, harm) in table {
        let mut writer = Writer::new(&[("a", "1"), ("b", "2")]);
        let at = harm(&mut writer);
        let mut replay = Replay::new();
        let error = replay.follow(&writer.0, writer.0.len() as u64).expect_err(words);
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(offset_of(error), u64::from(at), "{words}");
        // The records before the log remain, or none: never half a transaction.
        let left: Vec<String> = rows(&replay).into_keys().collect();
        assert!(left.is_empty() || left == ["a", "b"], "{words}: {left:?}");
    }
}

/// Returns a small file with all types of records, and its contents at each COMMIT.
fn small() -> (Vec<u8>, Vec<(usize, Rows)>) {
    let mut writer = Writer::new(&[("user.a", "1"), ("user.b", "22222")]);
    let mut states = Vec::new();
    let mut state = |writer: &Writer, text: &str| {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        let rows = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        states.push((writer.0.len(), rows));
    };
    state(&writer, "user.a=1 user.b=22222");
    let c = writer.add("user.cc", "3");
    writer.commit();
    state(&writer, "user.a=1 user.b=22222 user.cc=3");
    writer.delete(144).add("user.a", "4");
    writer.delete(c).commit();
    state(&writer, "user.a=4 user.b=22222");
    writer.add("user.d", "5");
    (writer.0, states)
}

#[test]
fn truncated_file_is_an_error_or_an_earlier_commit() {
    let (bytes, states) = small();
    for length in 0..bytes.len() {
        let Ok(replay) = replayed(&bytes[..length]) else { continue };
        let committed = states.iter().rev().find(|(at, _)| *at <= length);
        let (at, state) = committed.expect("a file without its last INORDER record");
        assert_eq!((replay.committed(), &rows(&replay)), (*at as u64, state), "{length}");
    }
    assert_eq!(replayed(&bytes).unwrap().committed(), states[2].0 as u64);
}

#[test]
fn no_flipped_byte_is_a_panic_or_a_loop() {
    let real = cyrus_lists::lists()[0].file("skiplist-killed.db");
    for (whole, step) in [(small().0, 1), (real, 149)] {
        for at in (0..whole.len()).step_by(step) {
            for flip in [0x01, 0x04, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                if let Ok(replay) = replayed(&bytes) {
                    assert_eq!(replay.iter().count(), replay.len());
                }
                verify(&bytes, bytes.len() as u64, &mut |row| assert!(!row.key.is_empty()));
            }
        }
    }
}

#[test]
fn broken_pointers_are_reported_and_not_followed() {
    let list = &cyrus_lists::lists()[0];
    let whole = list.file("skiplist.db");
    let size = whole.len() as u64;
    let first = word_at(&whole, 60).unwrap();
    let key = key_at(&whole, first).unwrap().len() as u32;
    let value_at = first as usize + 8 + padded(key) as usize;
    let own = value_at + 4 + padded(word_at(&whole, value_at).unwrap()) as usize;
    for (pointer, to, what) in
        [(own, first, "loop"), (60, 0, "ends after 0"), (60, first + 4, "no record stands")]
    {
        let mut bytes = whole.clone();
        bytes[pointer..pointer + 4].copy_from_slice(&to.to_be_bytes());
        let problems = verify(&bytes, size, &mut |_| ());
        assert!(problems[0].what.contains(what), "{problems:?}");
        list.check(replayed(&bytes).unwrap().iter());
    }
}

/// A sparse file of 4 GiB: a header, then zeros.
struct Endless {
    head: Vec<u8>,
    read: Cell<u64>,
}

impl ByteSource for Endless {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        buf.fill(0);
        self.read.set(self.read.get() + buf.len() as u64);
        self.head.as_slice().read_at(offset, buf)?;
        Ok(buf.len())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(u32::MAX.into())
    }
}

#[test]
fn giant_file_costs_no_more_than_its_good_part() {
    let source = Endless { head: Writer::new(&[]).0, read: Cell::new(0) };
    let mut replay = Replay::new();
    assert_eq!(offset_of(replay.follow(&source, u32::MAX.into()).unwrap_err()), 144);
    assert!(source.read.get() <= 2 * CHUNK);
    let error = Replay::new().follow(&source, 1 << 32).unwrap_err();
    assert!(error.to_string().contains("4 GiB"));
}

#[test]
fn file_truncated_while_read_is_an_error() {
    let writer = Writer::new(&[("a", "1")]);
    let size = writer.0.len() as u64;
    assert!(Replay::new().follow(&writer.0[..size as usize - 4], size).is_err());
}

proptest! {
    #[test]
    fn any_history_leaves_what_a_map_would_have(
        start in proptest::collection::btree_map("[a-e]{1,3}", "[x-z]{0,9}", 0..5),
        history in proptest::collection::vec(
            (proptest::collection::vec(("[a-e]{1,2}", "[x-z]{0,9}", any::<bool>()), 0..5), any::<bool>()),
            0..8,
        ),
    ) {
        let records: Vec<(&str, &str)> =
            start.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut writer = Writer::new(&records);
        let mut at: BTreeMap<String, u32> = BTreeMap::new();
        let mut offset = 144;
        for (key, value) in &start {
            at.insert(key.clone(), offset);
            offset += 24 + padded(key.len() as u32) as u32 + padded(value.len() as u32) as u32;
        }
        let mut model = start.clone();
        let mut replay = replayed(&writer.0).unwrap();
        for (changes, commits) in history {
            let (length, old_at, old_model) = (writer.0.len(), at.clone(), model.clone());
            for (key, value, puts) in changes {
                if let Some(record) = at.remove(&key) {
                    writer.delete(record);
                    model.remove(&key);
                }
                if puts {
                    at.insert(key.clone(), writer.add(&key, &value));
                    model.insert(key, value);
                }
            }
            if commits {
                writer.commit();
                replay.follow(&writer.0, writer.0.len() as u64).unwrap();
            } else {
                replay.follow(&writer.0, writer.0.len() as u64).unwrap();
                writer.0.truncate(length);
                (at, model) = (old_at, old_model);
            }
            prop_assert_eq!(&rows(&replay), &model);
        }
        prop_assert_eq!(&rows(&replayed(&writer.0).unwrap()), &model);
    }
}

fn left_of(bytes: &[u8]) -> Option<Replay> {
    let size = bytes.len() as u64;
    let refused = match replayed(bytes) {
        Ok(replay) => replay.leads_past(size)?,
        Err(Error::Corrupt { offset, what }) => Problem { offset, what },
        Err(_) => return None,
    };
    Replay::of_damaged(bytes, size, refused).ok()
}

/// A lost part may have had the deletion or the successor of a record: every remaining record must be as
/// it is in the whole file.
#[test]
fn file_with_a_lost_part_keeps_most_records_and_none_stale() {
    for list in cyrus_lists::lists() {
        let whole = list.file("skiplist.db");
        let all = replayed(&whole).unwrap();
        let (mut tried, mut left) = (0, 0);
        for length in [4, 52, 512, 4096] {
            for at in (HEADER..whole.len()).step_by(length) {
                // Other bytes in the middle of a text cannot be detected.
                for byte in if length < 512 { &[0][..] } else { &[0, b'x'] } {
                    let mut bytes = whole.clone();
                    let end = bytes.len().min(at + length);
                    bytes[at..end].fill(*byte);
                    let Some(replay) = left_of(&bytes) else { continue };
                    assert!(!replay.damage().is_empty());
                    for (key, value) in replay.iter() {
                        assert_eq!(all.get(key), Some(value), "{at} {length}");
                        assert_eq!(replay.get(key), Some(value));
                    }
                    let problem = &replay.damage()[0];
                    assert!(problem.offset < end as u64, "{at}: {problem:?}");
                    if length == 52 {
                        (tried, left) = (tried + all.len(), left + replay.len());
                    }
                }
            }
        }
        eprintln!("{left} of {tried}");
        assert!(left * 100 >= tried * 90, "{left} of {tried}");
    }
}

#[test]
fn truncated_file_has_no_stale_record() {
    for list in cyrus_lists::lists() {
        let whole = list.file("skiplist.db");
        let all = replayed(&whole).unwrap();
        for length in (0..whole.len()).step_by(4) {
            let Some(replay) = left_of(&whole[..length]) else { continue };
            for (key, value) in replay.iter() {
                assert_eq!(all.get(key), Some(value), "{length}");
            }
        }
    }
}

#[test]
fn file_truncated_behind_a_commit_shows_by_its_pointers() {
    for list in cyrus_lists::lists() {
        let whole = list.file("skiplist.db");
        let (mut shown, mut cuts) = (0, 0);
        for length in (HEADER..whole.len()).step_by(4) {
            let Ok(replay) = replayed(&whole[..length]) else { continue };
            cuts += 1;
            shown += usize::from(replay.leads_past(length as u64).is_some());
        }
        eprintln!("{shown} of {cuts}");
        assert!(replayed(&whole).unwrap().leads_past(whole.len() as u64).is_none());
    }
}

#[test]
fn damaged_file_is_followed_as_it_grows() {
    let mut writer = Writer::new(&[("user.a", "1"), ("user.b", "2"), ("user.c", "3")]);
    let lost = writer.0.len() - 60;
    writer.0[lost..lost + 4].fill(0);
    let mut replay = left_of(&writer.0).unwrap();
    let before = rows(&replay);
    assert!(!before.is_empty() && before.len() < 3, "{before:?}");
    assert!(replay.continues(&writer.0, writer.0.len() as u64));
    writer.add("user.d", "4");
    writer.commit();
    replay.follow(&writer.0, writer.0.len() as u64).unwrap();
    assert_eq!(replay.get(b"user.d"), Some(&b"4"[..]));
    assert_eq!(replay.len(), before.len() + 1);
    assert!(!replay.damage().is_empty());
    writer.0[100] ^= 1;
    writer.set(RECOVERED_AT, 7);
    assert!(!replay.continues(&writer.0, writer.0.len() as u64));
}

#[test]
fn verify_lists_every_loss_and_reads_the_rest() {
    let list = &cyrus_lists::lists()[0];
    let whole = list.file("skiplist.db");
    let mut bytes = whole.clone();
    for at in [2000, 6000, 12_000] {
        bytes[at..at + 52].fill(0);
    }
    let mut seen = 0;
    let problems = verify(&bytes, bytes.len() as u64, &mut |_| seen += 1);
    assert!((2..=6).contains(&problems.len()), "{problems:?}");
    assert!(seen * 2 > replayed(&whole).unwrap().len(), "{seen}");
}
