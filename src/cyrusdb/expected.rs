//! The lists in `tests/data/mailboxes`, and what Cyrus says is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::value;

/// One list: the same records in a file of each engine.
pub(crate) struct Expected {
    folder: PathBuf,
    json: Value,
}

/// All lists.
pub(crate) fn lists() -> [Expected; 2] {
    ["legacy-keys", "current-keys"].map(|name| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mailboxes").join(name);
        let json = std::fs::read(folder.join("expected.json")).unwrap();
        Expected { folder, json: serde_json::from_slice(&json).unwrap() }
    })
}

impl Expected {
    /// The bytes of one of its files.
    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).unwrap()
    }

    /// Keys that were there once and are no more.
    pub(crate) fn absent(&self) -> impl Iterator<Item = &[u8]> {
        self.json["absent"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().as_bytes())
    }

    /// Panics unless these rows are the list, no more and no less.
    pub(crate) fn check<'a>(&self, rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        let mut rows: BTreeMap<&[u8], &[u8]> = rows.collect();
        for wanted in self.json["records"].as_array().unwrap() {
            let key = wanted["key"].as_str().unwrap();
            let value = rows.remove(key.as_bytes()).unwrap_or_else(|| panic!("{key} is missing"));
            let found = value::parse(value).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(found.state.as_str(), wanted["state"], "{key}");
            assert_eq!(found.server.as_deref(), wanted["server"].as_str(), "{key}");
        }
        assert!(rows.is_empty(), "more than there should be: {:?}", rows.keys());
    }
}
