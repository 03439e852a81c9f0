//! Real files of all engines, written by Cyrus' own code; see `tests/data/mailboxes/README.md`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use murder_route::lists::{FileList, FileListOptions};
use murder_route::model::list::{Lookup, MailboxList};
use murder_route::model::name::{KeyGeneration, MailboxName};
use serde_json::Value;

struct Expected {
    /// Name, state, server.
    records: Vec<(MailboxName, String, Option<String>)>,
    absent: Vec<MailboxName>,
}

fn folder(generation: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mailboxes").join(generation)
}

fn name(generation: KeyGeneration, key: &Value) -> MailboxName {
    MailboxName::from_key(generation, key.as_str().unwrap().as_bytes()).unwrap()
}

fn expected(folder: &Path, generation: KeyGeneration) -> Expected {
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let records = json["records"].as_array().unwrap().iter().map(|record| {
        let server = record["server"].as_str().map(str::to_owned);
        (name(generation, &record["key"]), record["state"].as_str().unwrap().to_owned(), server)
    });
    let absent = json["absent"].as_array().unwrap().iter().map(|key| name(generation, key));
    Expected { records: records.collect(), absent: absent.collect() }
}

fn check(file: &str, folder_name: &str, generation: KeyGeneration) {
    let folder = folder(folder_name);
    let expected = expected(&folder, generation);
    assert!(expected.records.len() > 100 && expected.absent.len() > 100);
    let list = FileList::open(folder.join(file), FileListOptions::default());
    // Twice: the second time with fingers.
    for _ in 0..2 {
        for (name, state, server) in &expected.records {
            match list.lookup(name) {
                Lookup::Present(record) => {
                    assert_eq!(record.state.as_str(), state, "{file} {name}");
                    assert_eq!(&record.server, server, "{file} {name}");
                }
                other => panic!("{file} {name}: {other:?}"),
            }
        }
        for name in &expected.absent {
            assert_eq!(list.lookup(name), Lookup::Absent, "{file} {name}");
        }
    }
    let mut seen = Vec::new();
    list.each(b"", &mut |name, record| {
        seen.push((name.clone(), record.state.as_str().to_owned(), record.server.clone()));
        ControlFlow::Continue(())
    })
    .unwrap();
    let mut all = expected.records;
    all.sort();
    seen.sort();
    assert_eq!(seen, all, "{file}");
    assert_eq!(list.status().unwrap().key_generation, Some(generation));
}

macro_rules! files {
    ($($test:ident: $file:literal;)*) => {
        $(
            #[test]
            fn $test() {
                check($file, "legacy-keys", KeyGeneration::Internal);
                check($file, "current-keys", KeyGeneration::Separated);
            }
        )*
    };
}

files! {
    twoskip: "twoskip.db";
    twoskip_after_its_writer_was_killed: "twoskip-killed.db";
    skiplist: "skiplist.db";
    skiplist_after_its_writer_was_killed: "skiplist-killed.db";
    flat: "flat.db";
    twom: "twom.db";
    twom_after_its_writer_was_killed: "twom-killed.db";
}
