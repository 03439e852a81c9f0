//! Reads a whole list and reports everything wrong in it: `murder-route verify`.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::keys::generation_shown_by;
use super::open_file::open_regular;
use crate::cyrusdb::skip::verify::verify;
use crate::cyrusdb::{Engine, Problem, RawRecord, detect, error, flat, skiplist, value};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::os::pinned_path::PinnedPath;

/// Contents and problems of a whole list.
#[derive(Debug)]
pub struct VerifyReport {
    /// The file.
    pub path: PathBuf,
    /// Its engine; `None`: unknown.
    pub engine: Option<Engine>,
    /// Generation of its keys, if one of them shows it.
    pub keys: Option<KeyGeneration>,
    /// Number of its records.
    pub records: u64,
    /// Problems, in the order in which they were met.
    pub problems: Vec<Problem>,
}

/// Reads the whole file without a lock: a list that is being written may show problems that are only writes
/// in progress. Takes as much memory as the file has bytes.
pub fn file(path: &Path) -> VerifyReport {
    let mut report = VerifyReport {
        path: path.to_owned(),
        engine: None,
        keys: None,
        records: 0,
        problems: Vec::new(),
    };
    match read(path) {
        Ok(bytes) => report.read(bytes),
        Err(error) => report.problem(error),
    }
    report
}

fn read(path: &Path) -> error::Result<Vec<u8>> {
    let (mut file, metadata) = open_regular(&PinnedPath::at(path.to_owned()))?;
    let mut bytes = Vec::new();
    // Bytes appended meanwhile are not read.
    (&mut file).take(metadata.len()).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl VerifyReport {
    fn problem(&mut self, error: error::Error) {
        self.problems.push(error.into());
    }

    fn read(&mut self, bytes: Vec<u8>) {
        let engine = match detect(&bytes) {
            Ok(engine) => engine,
            Err(error) => return self.problem(error),
        };
        self.engine = Some(engine);
        let mut odd = Vec::new();
        let size = bytes.len() as u64;
        let mut rows = |row: RawRecord<'_>| {
            self.records += 1;
            self.keys = self.keys.or_else(|| generation_shown_by(row.key));
            let generation = self.keys.unwrap_or(KeyGeneration::Separated);
            if MailboxName::from_key(generation, row.key).is_none() {
                return;
            }
            if let Err(error) = value::parse(row.value) {
                let what = format!("the record of {}: {error}", row.key.escape_ascii());
                odd.push(Problem { offset: row.offset, what });
            }
        };
        let problems = match engine {
            Engine::Skiplist => skiplist::verify(&bytes, size, &mut rows),
            Engine::Flat => flat::verify(bytes, &mut rows),
            Engine::Twoskip | Engine::Twom => verify(&bytes, &mut rows),
        };
        self.problems = problems;
        self.problems.extend(odd);
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = self.engine.map_or("unknown", Engine::name);
        let keys = match self.keys {
            Some(KeyGeneration::Internal) => "up to Cyrus 3.4",
            Some(KeyGeneration::Separated) => "Cyrus 3.6 and later",
            None => "of either generation",
        };
        writeln!(f, "file      {}", self.path.display())?;
        writeln!(f, "engine    {engine}")?;
        writeln!(f, "keys      {keys}")?;
        writeln!(f, "records   {}", self.records)?;
        for Problem { offset, what } in &self.problems {
            writeln!(f, "problem   at offset {offset}: {what}")?;
        }
        writeln!(f, "problems  {}", self.problems.len())
    }
}
