//! Runs every fuzz target on its seeds, real files and broken ones, without a nightly toolchain.

mod fuzz;

use std::fs;
use std::path::Path;

use murder_route::cyrusdb::order::Order;
use murder_route::cyrusdb::skip::header::SkipHeader;
use murder_route::cyrusdb::skip::position::Walked;
use murder_route::cyrusdb::skip::reader::SnapshotReader;
use murder_route::cyrusdb::skip::window::Scratch;
use murder_route::cyrusdb::skiplist::Replay;

/// Runs a target on its seeds, and on truncated and changed copies of each.
fn run(name: &str, target: fuzz::Target) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        // Printed first, so that the name is visible if the target panics.
        println!("{}", path.display());
        let seed = fs::read(&path).unwrap();
        target(&seed);
        let step = seed.len() / 40 + 1;
        for at in (0..seed.len()).step_by(step) {
            target(&seed[..at]);
            for flip in [0x01, 0x20, 0xff] {
                let mut broken = seed.clone();
                broken[at] ^= flip;
                target(&broken);
            }
        }
        seeds += 1;
    }
    assert!(seeds >= 3, "{} has {seeds} seeds", folder.display());
}

#[test]
fn no_seed_is_a_panic_or_a_contradiction() {
    for (name, target) in fuzz::TARGETS {
        run(name, target);
    }
}

/// alpha=one, beta=two, alpha=three, beta deleted, gamma=x y: without a valid file, the broken ones made
/// from it would prove nothing.
#[test]
fn the_seeds_made_by_hand_are_good_files() {
    let seed = |path: &str| {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(path)).unwrap()
    };
    let expected = [(b"alpha".to_vec(), b"three".to_vec()), (b"gamma".to_vec(), b"x y".to_vec())];
    for path in ["twoskip/five-operations", "twoskip/dirty", "twom/five-operations", "twom/dirty"] {
        let file = seed(path);
        let header = SkipHeader::read(&file).unwrap();
        let mut rows = Vec::new();
        let mut scratch = Scratch::default();
        let walked = SnapshotReader::new(&file, header, Order::Raw, &mut scratch).walk(
            b"",
            &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                true
            },
        );
        assert_eq!(walked.unwrap(), Walked::ToEnd, "{path}");
        assert_eq!(rows, expected, "{path}");
    }
    for path in ["skiplist/log", "skiplist/log-uncommitted"] {
        let file = seed(path);
        let mut replay = Replay::new();
        replay.follow(&file, file.len() as u64).unwrap();
        let mut rows: Vec<_> =
            replay.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        rows.sort();
        assert_eq!(rows, expected, "{path}");
    }
}

#[test]
fn every_target_can_be_fuzzed_and_every_fuzz_target_is_tested() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| {
        let mut names: Vec<String> = fs::read_dir(fuzz.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let mut targets = fuzz::TARGETS.map(|(name, _)| name.to_owned()).to_vec();
    targets.sort();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("seeds"), targets);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
    }
}
