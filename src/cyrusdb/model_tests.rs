//! Compares a list with a map over random histories, between any two writes of its writer.

use std::collections::BTreeMap;

use super::order::Order;
use super::skip::find::KeySearch;
use super::skip::header::SkipHeader;
use super::skip::node::Layout;
use super::skip::position::Walked;
use super::skip::reader::SnapshotReader;
use super::skip::sparse_index::{BuildProgress, IndexSize, SparseIndex, SparseIndexBuilder};
use super::skip::window::Scratch;
use crate::testing::cyrus_writer::{Write, Writer, apply};
use crate::testing::random::Random;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A reader with a cached header and index, as [`crate::lists`] has it.
struct ChangeApplier {
    order: Order,
    header: SkipHeader,
    fingers: Option<SparseIndex>,
    builder: Option<SparseIndexBuilder>,
    scratch: Scratch,
    /// State before that, which another thread may still be searching.
    before: Option<(SkipHeader, Map)>,
    /// Number of searches that began at a finger.
    used: usize,
}

impl ChangeApplier {
    fn new(file: &Vec<u8>, order: Order) -> Self {
        Self {
            order,
            header: SkipHeader::read(file).unwrap(),
            fingers: None,
            builder: None,
            scratch: Scratch::default(),
            before: None,
            used: 0,
        }
    }

    /// Follows the file to the header that stands in it; until now the list was `model`.
    fn follow(&mut self, file: &Vec<u8>, model: &Map, random: &mut Random) {
        let now = SkipHeader::read(file).unwrap();
        assert_eq!(now.generation, self.header.generation);
        if now.end != self.header.end {
            self.before = Some((self.header, model.clone()));
        }
        let from = self.header.end;
        if let Some(builder) = &self.builder {
            builder
                .follow(SnapshotReader::new(file, now, self.order, &mut self.scratch), from)
                .unwrap();
        }
        if let Some(fingers) = &self.fingers {
            fingers
                .follow(SnapshotReader::new(file, now, self.order, &mut self.scratch), from)
                .unwrap();
        }
        self.header = now;
        if self.fingers.as_ref().is_none_or(SparseIndex::is_worn_out) {
            let list = random.below(3) as usize;
            let size = [IndexSize::Small, IndexSize::Large][random.below(2) as usize];
            let new = || SparseIndexBuilder::at_list(self.order, size, list);
            let builder = self.builder.get_or_insert_with(new);
            let reader = SnapshotReader::new(file, now, self.order, &mut self.scratch);
            match builder.collect(reader, 1 + random.below(6) as usize).unwrap() {
                BuildProgress::More => {}
                BuildProgress::Done => {
                    self.fingers = self.builder.take().map(SparseIndexBuilder::into_index)
                }
                BuildProgress::OtherOrder => panic!("the order is right"),
            }
        }
    }

    fn check_key(&mut self, file: &Vec<u8>, key: &[u8], model: &Map) {
        for fingers in [self.fingers.as_ref(), None] {
            self.used += fingers.map_or(0, |f| {
                usize::from(f.start(key, self.header.end, false, &mut Vec::new()).is_some())
            });
            let mut reader = SnapshotReader::new(file, self.header, self.order, &mut self.scratch);
            let found = reader.find(key, fingers).unwrap();
            match model.get(key) {
                Some(value) => assert_eq!(found, KeySearch::Value(&value[..])),
                None => assert_eq!(found, KeySearch::Absent, "{}", key.escape_ascii()),
            }
        }
    }

    /// Searches at an older end with the fingers of the newer one: a hit is right; the search may fail or
    /// miss.
    fn check_before(&mut self, file: &Vec<u8>, key: &[u8]) {
        let Some((header, model)) = &self.before else { return };
        let mut reader = SnapshotReader::new(file, *header, self.order, &mut self.scratch);
        if let Ok(KeySearch::Value(value)) = reader.find(key, self.fingers.as_ref()) {
            let expected = model.get(key).map(Vec::as_slice);
            assert_eq!(Some(value), expected, "{} at an older end", key.escape_ascii());
        }
    }

    fn check_all(&mut self, file: &Vec<u8>, model: &Map) {
        let mut seen = Map::new();
        let mut reader =
            SnapshotReader::new(file, self.header, self.order, &mut self.scratch).along_lists();
        let walked = reader.walk(b"", &mut |key, value| {
            seen.insert(key.to_vec(), value.to_vec());
            true
        });
        assert_eq!(walked.unwrap(), Walked::ToEnd);
        assert_eq!(&seen, model);
    }
}

fn some_key(random: &mut Random) -> Vec<u8> {
    let mut key = b"user.".to_vec();
    key.extend(random.below(60).to_string().bytes());
    match random.below(4) {
        0 => key.extend(b".Sent"),
        1 => key.extend(b"-x"),
        _ => {}
    }
    key
}

/// Runs one history. Returns the number of searches that began at a finger.
fn history(layout: Layout, order: Order, seed: u64, transactions: usize) -> usize {
    let mut random = Random(seed);
    let compare = match order {
        Order::Raw => |a: &[u8], b: &[u8]| Order::Raw.compare(a, b),
        Order::Mbox => |a: &[u8], b: &[u8]| Order::Mbox.compare(a, b),
    };
    let mut writer = Writer::new(layout, Random(random.below(u64::MAX)), 1, compare);
    let mut file = writer.file.clone();
    let mut follower = ChangeApplier::new(&file, order);
    let mut used = 0;
    let mut committed = Map::new();
    for transaction in 0..transactions {
        writer.journal.clear();
        let mut pending = committed.clone();
        for _ in 0..1 + random.below(8) {
            let key = some_key(&mut random);
            if random.below(3) == 0 {
                writer.delete(&key);
                pending.remove(&key);
            } else {
                let value = vec![b'v'; random.below(40) as usize];
                writer.put(&key, &value);
                pending.insert(key, value);
            }
        }
        // Sometimes the writer rolls back, or is killed at any of its writes and the next writer rolls back.
        let mut writes: Vec<Write> = Vec::new();
        let outcome = random.below(5);
        if outcome == 0 {
            let kept = random.below(writer.journal.len() as u64 + 1) as usize;
            writer.journal.truncate(kept);
            writer.file.clone_from(&file);
            for write in &writer.journal {
                apply(write, &mut writer.file);
            }
            writer.abort();
        } else {
            writer.commit();
        }
        writes.append(&mut writer.journal);
        for (i, write) in writes.iter().enumerate() {
            apply(write, &mut file);
            let done = i + 1 == writes.len() && outcome != 0;
            // Sometimes the reader has not yet noticed that a transaction has been committed.
            let late = done && random.below(2) == 0;
            if !late {
                follower.follow(&file, &committed, &mut random);
            }
            if done && !late {
                committed.clone_from(&pending);
            }
            for _ in 0..4 {
                follower.check_before(&file, &some_key(&mut random));
                follower.check_key(&file, &some_key(&mut random), &committed);
            }
            if random.below(16) == 0 {
                follower.check_all(&file, &committed);
            }
        }
        follower.follow(&file, &committed, &mut random);
        if outcome != 0 {
            committed = pending;
        }
        follower.check_all(&file, &committed);
        assert_eq!(follower.header.records, committed.len() as u64);
        if transaction % 64 == 63 {
            writer = writer.repack();
            file.clone_from(&writer.file);
            used += follower.used;
            follower = ChangeApplier::new(&file, order);
            follower.check_all(&file, &committed);
        }
    }
    used + follower.used
}

fn histories(layout: Layout, order: Order) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = match seed {
        Some(seed) => vec![seed],
        None => {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
            (0..2).chain([now]).collect()
        }
    };
    for seed in seeds {
        println!("SEED={seed}");
        assert!(history(layout, order, seed, 130) > 1000, "fingers are put to the test");
    }
}

#[test]
fn twoskip_reads_committed_state_after_every_write() {
    histories(Layout::Twoskip, Order::Raw);
}

#[test]
fn twoskip_in_mbox_order_reads_committed_state() {
    histories(Layout::Twoskip, Order::Mbox);
}

#[test]
fn twom_reads_committed_state_after_every_write() {
    histories(Layout::Twom { checksums: true }, Order::Raw);
}
