//! Damaged and hostile twoskip and twom files: a search returns an error or the truth, and always ends.

use std::collections::BTreeMap;

use super::error::Result;
use super::order::Order;
use super::skip::find::KeySearch;
use super::skip::header::SkipHeader;
use super::skip::node::Layout;
use super::skip::reader::SnapshotReader;
use super::skip::sparse_index::{BuildProgress, IndexSize, SparseIndex, SparseIndexBuilder};
use super::skip::window::Scratch;
use crate::testing::cyrus_writer::Writer;
use crate::testing::random::Random;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(i: u64) -> Vec<u8> {
    format!("user.{i:02}").into_bytes()
}

/// Returns a list with some history, and its records.
fn list(layout: Layout, random: &mut Random, changes: u64) -> (Vec<u8>, Map) {
    let seed = Random(random.below(u64::MAX));
    let mut writer = Writer::new(layout, seed, 1, |a, b| a.cmp(b));
    let mut map = Map::new();
    for i in 0..changes {
        let key = key(random.below(30));
        if random.below(4) == 0 {
            writer.delete(&key);
            map.remove(&key);
        } else {
            let value = vec![b'v'; random.below(20) as usize];
            writer.put(&key, &value);
            map.insert(key, value);
        }
        if i % 4 == 3 {
            writer.commit();
        }
    }
    writer.commit();
    (writer.file, map)
}

fn fingers(file: &Vec<u8>) -> Result<Option<SparseIndex>> {
    let header = SkipHeader::read(file)?;
    let mut scratch = Scratch::default();
    let mut builder = SparseIndexBuilder::at_list(Order::Raw, IndexSize::Large, 1);
    let reader = SnapshotReader::new(file, header, Order::Raw, &mut scratch);
    Ok((builder.collect(reader, 1000)? == BuildProgress::Done).then(|| builder.into_index()))
}

/// Searches for all keys. Returns the number of searches without an error.
fn truths(file: &Vec<u8>, map: &Map, fingers: Option<&SparseIndex>) -> usize {
    let Ok(header) = SkipHeader::read(file) else { return 0 };
    let mut scratch = Scratch::default();
    let mut truths = 0;
    for i in 0..30 {
        let key = key(i);
        let mut reader = SnapshotReader::new(file, header, Order::Raw, &mut scratch);
        match reader.find(&key, fingers) {
            Ok(KeySearch::Value(value)) => {
                assert_eq!(Some(value), map.get(&key).map(Vec::as_slice))
            }
            Ok(KeySearch::Absent) => assert_eq!(None, map.get(&key)),
            Ok(KeySearch::OtherOrder | KeySearch::Moved) | Err(_) => continue,
        }
        truths += 1;
    }
    truths
}

const LAYOUTS: [Layout; 2] = [Layout::Twoskip, Layout::Twom { checksums: true }];

#[test]
fn damaged_byte_never_makes_an_answer_wrong() {
    for layout in LAYOUTS {
        let (mut file, map) = list(layout, &mut Random(5), 60);
        let good = fingers(&file).unwrap();
        assert_eq!(truths(&file, &map, good.as_ref()), 30);
        let mut random = Random(6);
        for at in 0..file.len() {
            let flip = 1 << random.below(8);
            file[at] ^= flip;
            truths(&file, &map, None);
            // With an index collected before the damage, and after.
            truths(&file, &map, good.as_ref());
            if let Ok(Some(bad)) = fingers(&file) {
                truths(&file, &map, Some(&bad));
            }
            file[at] ^= flip;
        }
    }
}

#[test]
fn truncated_file_never_makes_an_answer_wrong() {
    for layout in LAYOUTS {
        let (file, map) = list(layout, &mut Random(5), 60);
        let good = fingers(&file).unwrap();
        for len in 0..file.len() {
            let cut = file[..len].to_vec();
            truths(&cut, &map, good.as_ref());
            truths(&cut, &map, None);
        }
    }
}

#[test]
fn wrong_pointers_with_good_checksums_end_every_search() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    for layout in LAYOUTS {
        for _ in 0..300 {
            let (mut file, _) = list(layout, &mut random, 40);
            let end = SkipHeader::read(&file).unwrap().end;
            let mut offsets = Vec::new();
            let problems = super::skip::verify::verify(&file, &mut |row| offsets.push(row.offset));
            assert_eq!(problems, []);
            offsets.push(layout.dummy());
            for _ in 0..1 + random.below(3) {
                let at = offsets[random.below(offsets.len() as u64) as usize];
                let to = match random.below(3) {
                    0 => random.below(end + 100),
                    _ => offsets[random.below(offsets.len() as u64) as usize],
                };
                redirect(layout, &mut file, at as usize, random.below(4) as usize, to);
            }
            let header = SkipHeader::read(&file).unwrap();
            let mut scratch = Scratch::default();
            let fingers = fingers(&file).ok().flatten();
            for i in 0..30 {
                let mut reader = SnapshotReader::new(&file, header, Order::Raw, &mut scratch);
                let _ = reader.find(&key(i), fingers.as_ref());
            }
            let mut visited = 0;
            let mut reader = SnapshotReader::new(&file, header, Order::Raw, &mut scratch);
            let _ = reader.walk(b"", &mut |_, _| {
                visited += 1;
                true
            });
            assert!(visited <= 30);
            super::skip::verify::verify(&file, &mut |_| ());
        }
    }
}

/// Rewrites one pointer of the record at `at`, checksum included.
fn redirect(layout: Layout, file: &mut [u8], at: usize, slot: usize, to: u64) {
    let level = usize::from(file[at + 1]);
    let slot = slot.min(level);
    let first = match (layout, file[at]) {
        (Layout::Twom { .. }, 4) => 16,
        _ => 8,
    };
    let sum = at + first + 8 * (level + 1);
    let word = at + first + 8 * slot;
    if layout == Layout::Twoskip {
        file[word..word + 8].copy_from_slice(&to.to_be_bytes());
        let crc = layout.checksum(&file[at..sum]).to_be_bytes();
        file[sum..sum + 4].copy_from_slice(&crc);
    } else {
        file[word..word + 8].copy_from_slice(&to.to_le_bytes());
        let crc = layout.checksum(&file[at..sum]).to_le_bytes();
        file[sum..sum + 4].copy_from_slice(&crc);
    }
}
