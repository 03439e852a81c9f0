//! The lists in `tests/data/mailboxes`, with the records that Cyrus itself reads from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cyrusdb::value;

/// One list, as a file of each engine.
pub(crate) struct CyrusList {
    folder: PathBuf,
    json: Value,
}

/// Returns all lists.
pub(crate) fn lists() -> [CyrusList; 2] {
    ["legacy-keys", "current-keys"].map(|name| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mailboxes").join(name);
        let json = std::fs::read(folder.join("expected.json")).unwrap();
        CyrusList { folder, json: serde_json::from_slice(&json).unwrap() }
    })
}

impl CyrusList {
    /// Returns the bytes of one of its files.
    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).unwrap()
    }

    /// Returns keys that were deleted.
    pub(crate) fn absent(&self) -> impl Iterator<Item = &[u8]> {
        self.json["absent"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().as_bytes())
    }

    /// Asserts that these rows are exactly the records of the list.
    pub(crate) fn check<'a>(&self, rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        let mut rows: BTreeMap<&[u8], &[u8]> = rows.collect();
        for wanted in self.json["records"].as_array().unwrap() {
            let key = wanted["key"].as_str().unwrap();
            let value = rows.remove(key.as_bytes()).unwrap_or_else(|| panic!("{key} is missing"));
            let found = value::parse(value).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(found.state.as_str(), wanted["state"], "{key}");
            assert_eq!(found.server.as_deref(), wanted["server"].as_str(), "{key}");
        }
        assert!(rows.is_empty(), "unexpected rows: {:?}", rows.keys());
    }
}
