//! The skiplist engine, read by replaying its log.
//!
//! ```text
//! header, 48 bytes        0  magic, 20 bytes
//! (all words big-endian) 20  version = 1     24  minor version = 2
//!                        28  maxlevel        32  curlevel
//!                        36  listsize        40  logstart       44  last recovery, Unix time
//! DUMMY (257), at 48      0  0  maxlevel pointers  FFFFFFFF
//! INORDER (1), ADD (2)    key length  key  value length  value  1 to maxlevel pointers  FFFFFFFF
//! DELETE (4)              offset of the record that goes
//! COMMIT (255)
//! ```
//!
//! Every record begins with its type; keys and values are padded to whole words. INORDER records
//! fill the file from the DUMMY to logstart; from there on it is a log of transactions, each
//! ended by a COMMIT. (Cyrus `lib/cyrusdb_skiplist.c`, one format from 2.2 to this day.)
//!
//! The reader ignores the pointers. They are changed in place without any mark and there are no
//! checksums, so they show a transaction that is under way, or that a killed writer left behind,
//! as if it were committed; Cyrus' own readers see it so. Keys, values and offsets of records
//! never change once written. Replaying the log up to the last COMMIT gives the committed state,
//! and later reads need only the bytes appended since.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::error::{Error, Result};
use super::source::ByteSource;
use super::{Problem, RawRecord};

const HEADER: usize = 48;
const VERSION_AT: usize = 20;
const MAXLEVEL_AT: usize = 28;
const LOGSTART_AT: usize = 40;
const RECOVERED_AT: usize = 44;

const DUMMY: u32 = 257;
const INORDER: u32 = 1;
const ADD: u32 = 2;
const DELETE: u32 = 4;
const COMMIT: u32 = 255;
/// Word behind the pointers of a record.
const NO_MORE_POINTERS: u32 = u32::MAX;

/// Cyrus refuses more (`SKIPLIST_MAXLEVEL`).
const MAX_LEVEL: u32 = 20;

/// Length of one read in bytes.
const CHUNK: u64 = 256 * 1024;

/// The committed state of a skiplist file, kept in memory and brought up to date by
/// [`follow`](Replay::follow).
///
/// Takes the size of the file and some 6 bytes for each record. It belongs to one file: a caller that finds
/// another inode at the path creates a new replay.
#[derive(Debug, Default)]
pub struct Replay {
    /// Bytes of the file up to the end of the last COMMIT. Offsets are those of the file.
    bytes: Vec<u8>,
    /// Offsets of the live records, by their keys.
    live: HashTable<u32>,
    hasher: RandomState,
    header: Option<SkiplistHeader>,
    /// Problems before [`Self::committed`], or behind it where the file was truncated.
    damage: Vec<Problem>,
    /// Records of `live` whose keys begin with none of [`USERS`].
    others: HashSet<u32>,
    /// Offsets of the last records read, which identify the file.
    last: Vec<u32>,
}

/// Prefixes of the keys of most records: the mailboxes of users without a domain.
const USERS: [&[u8]; 2] = [b"user.", b"Nuser\x1f"];

/// Returns the member of [`USERS`] that is the prefix of a key.
pub fn users_prefix(key: &[u8]) -> Option<&'static [u8]> {
    USERS.into_iter().find(|start| key.starts_with(start))
}

fn is_users(key: &[u8]) -> bool {
    users_prefix(key).is_some()
}

/// Maximum length of [`Replay::last`].
const LAST: usize = 8;

/// Fields of the header that do not change while the file lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SkiplistHeader {
    maxlevel: u32,
    logstart: u64,
    /// Time at which Cyrus last repaired the pointers or made the file.
    recovered: u32,
}

/// One change of a transaction.
#[derive(Debug, Clone, Copy)]
enum LogChange {
    /// Adds the record at this offset.
    Put(u32),
    /// The DELETE at this offset removes that record.
    Remove { at: u32, record: u32 },
}

impl LogChange {
    fn undone(self) -> Self {
        match self {
            LogChange::Put(record) => LogChange::Remove { at: record, record },
            LogChange::Remove { record, .. } => LogChange::Put(record),
        }
    }
}

impl Replay {
    /// Returns an empty replay.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the transactions committed since the last call, up to `size`, the length of the source.
    ///
    /// The caller holds the shared lock: without it the tail of an aborted transaction can be
    /// overwritten with another one while it is read.
    ///
    /// # Errors
    ///
    /// After an error the replay is at the last COMMIT that could be read; if the error stays, make a new
    /// replay. A source shorter than [`committed`](Replay::committed) is an error: Cyrus empties the old
    /// inode after a checkpoint, and nothing committed is ever cut off otherwise.
    pub fn follow<S: ByteSource + ?Sized>(&mut self, source: &S, size: u64) -> Result<()> {
        if size == 0 && self.header.is_none() {
            return Err(Error::Empty);
        }
        if u32::try_from(size).is_err() {
            return Err(Error::corrupt(size, "larger than a skiplist file can be (4 GiB)"));
        }
        if size < self.committed() {
            let what = format!("shorter than it was: {} bytes were committed", self.committed());
            return Err(Error::corrupt(size, what));
        }
        let header = read_header(source, size)?;
        if *self.header.get_or_insert(header) != header {
            return Err(Error::corrupt(
                0,
                "the header changed: another file was written over this one",
            ));
        }
        let mut committed = self.bytes.len();
        let result =
            self.read_on(&ReplayInput { source, size, maxlevel: header.maxlevel }, &mut committed);
        self.bytes.truncate(committed);
        if committed == 0 {
            self.header = None;
        }
        result
    }

    /// Returns the offset behind the last COMMIT that was read, in bytes; 0 before the first
    /// [`follow`](Replay::follow). A shorter file is another file.
    pub fn committed(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.live.find(self.hasher.hash_one(key), |at| self.key(*at) == Some(key))?;
        self.entry(*found).map(|(_, value)| value)
    }

    /// Returns all keys and values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.live.iter().filter_map(|at| self.entry(*at))
    }

    /// Returns keys and values that are not of users without a domain: keys that begin neither with
    /// `user.` nor with its form from 3.6 on.
    pub fn others(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.others.iter().filter_map(|at| self.entry(*at))
    }

    /// Returns one key and value of a user without a domain.
    pub fn of_users(&self) -> Option<(&[u8], &[u8])> {
        self.iter().find(|(key, _)| is_users(key))
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Reads transactions up to the end of the input. `committed` is moved on with each.
    fn read_on<S>(&mut self, input: &ReplayInput<'_, S>, committed: &mut usize) -> Result<()>
    where
        S: ByteSource + ?Sized,
    {
        let logstart = self.header.map_or(0, |header| header.logstart);
        let mut at = *committed as u64;
        if at == 0 {
            at = self.read_dummy(input)?;
        }
        let mut changes = Vec::new();
        loop {
            if at == logstart && *committed == 0 {
                self.apply(&changes)?;
                changes.clear();
                *committed = at as usize;
            }
            if at == input.size {
                // Without logstart having been passed, the INORDER records did not end there.
                return if *committed == 0 { Err(misplaced_log(logstart)) } else { Ok(()) };
            }
            let in_log = *committed != 0;
            let kind = self.word(input, at, at)?;
            let here = at as u32;
            match kind {
                INORDER if !in_log => {
                    at = self.end_of_record(input, at)?;
                    changes.push(LogChange::Put(here));
                }
                ADD if in_log => {
                    at = self.end_of_record(input, at)?;
                    changes.push(LogChange::Put(here));
                }
                DELETE if in_log => {
                    let record = self.word(input, at, at + 4)?;
                    changes.push(LogChange::Remove { at: here, record });
                    at += 8;
                }
                COMMIT if in_log => {
                    self.apply(&changes)?;
                    changes.clear();
                    at += 4;
                    *committed = at as usize;
                }
                INORDER | ADD | DELETE | COMMIT if at > logstart && !in_log => {
                    return Err(misplaced_log(logstart));
                }
                INORDER | ADD | DELETE | COMMIT => {
                    let side = if in_log { "in the log" } else { "before the log" };
                    return Err(Error::corrupt(at, format!("a record of type {kind} {side}")));
                }
                0 => return Err(Error::corrupt(at, "zeros where a record should begin")),
                kind => return Err(Error::corrupt(at, format!("a record of unknown type {kind}"))),
            }
        }
    }

    fn read_dummy<S>(&mut self, input: &ReplayInput<'_, S>) -> Result<u64>
    where
        S: ByteSource + ?Sized,
    {
        let at = HEADER as u64;
        let pointers = at + 12;
        let end = pointers + 4 * u64::from(input.maxlevel);
        let begins = [self.word(input, at, at)?, self.word(input, at, at + 4)?];
        let ends = [self.word(input, at, at + 8)?, self.word(input, at, end)?];
        if begins != [DUMMY, 0] || ends != [0, NO_MORE_POINTERS] {
            return Err(Error::corrupt(at, "the first record is not the DUMMY of this format"));
        }
        Ok(end + 4)
    }

    /// Returns the offset behind the INORDER or ADD record at `at`.
    fn end_of_record<S>(&mut self, input: &ReplayInput<'_, S>, at: u64) -> Result<u64>
    where
        S: ByteSource + ?Sized,
    {
        let key_length = self.word(input, at, at + 4)?;
        if key_length == 0 {
            return Err(Error::corrupt(at, "a record with an empty key"));
        }
        let value_length_at = at + 8 + padded(key_length);
        let value_length = self.word(input, at, value_length_at)?;
        let pointers = value_length_at + 4 + padded(value_length);
        for level in 0..=input.maxlevel {
            let pointer = pointers + 4 * u64::from(level);
            if self.word(input, at, pointer)? == NO_MORE_POINTERS {
                return match level {
                    0 => Err(Error::corrupt(at, "a record without pointers")),
                    _ => Ok(pointer + 4),
                };
            }
        }
        Err(Error::corrupt(at, format!("a record of more than {} levels", input.maxlevel)))
    }

    /// Returns the word at `offset`, which belongs to the record at `record`. Reads more bytes if needed.
    fn word<S>(&mut self, input: &ReplayInput<'_, S>, record: u64, offset: u64) -> Result<u32>
    where
        S: ByteSource + ?Sized,
    {
        let end = offset + 4;
        if end > input.size {
            return Err(Error::corrupt(record, "a record that runs past the end of the file"));
        }
        while (self.bytes.len() as u64) < end {
            let start = self.bytes.len();
            let want = CHUNK.min(input.size - start as u64) as usize;
            self.bytes.resize(start + want, 0);
            let got = read_full(input.source, start as u64, &mut self.bytes[start..])?;
            if got < want {
                let short = start + got;
                return Err(Error::corrupt(short as u64, "the file got shorter while it was read"));
            }
        }
        Ok(word_at(&self.bytes, offset as usize).unwrap_or(0))
    }

    /// Applies the changes of a transaction, all or none.
    fn apply(&mut self, changes: &[LogChange]) -> Result<()> {
        for (done, change) in changes.iter().enumerate() {
            if let Err(error) = self.change(*change) {
                for change in changes[..done].iter().rev() {
                    // A change that has just been made can be undone.
                    let _ = self.change(change.undone());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn change(&mut self, change: LogChange) -> Result<()> {
        let Self { bytes, live, hasher, damage, last, others, .. } = self;
        match change {
            LogChange::Put(record) => {
                let key = key_at(bytes, record).unwrap_or_default();
                let hash = hasher.hash_one(key);
                let known = live.find_mut(hash, |at| key_at(bytes, *at) == Some(key));
                if let Some(known) = known {
                    // The DELETE before it may be lost.
                    if !damage.is_empty() {
                        if others.remove(known) {
                            others.insert(record);
                        }
                        *known = record;
                        return Ok(());
                    }
                    let what = "a record with a key that is there already";
                    return Err(Error::corrupt(record.into(), what));
                }
                if last.len() == LAST {
                    last.remove(0);
                }
                last.push(record);
                if !is_users(key) {
                    others.insert(record);
                }
                live.insert_unique(hash, record, |at| {
                    hasher.hash_one(key_at(bytes, *at).unwrap_or_default())
                });
            }
            LogChange::Remove { at, record } => {
                // The offset comes from the file. A record begins there only if it is live.
                let key = key_at(bytes, record).unwrap_or_default();
                match live.find_entry(hasher.hash_one(key), |live| *live == record) {
                    Ok(found) => {
                        last.retain(|at| *at != record);
                        others.remove(&record);
                        found.remove();
                    }
                    Err(_) if !damage.is_empty() => {}
                    Err(_) => {
                        let what = format!("a DELETE of offset {record}, where no record stands");
                        return Err(Error::corrupt(at.into(), what));
                    }
                }
            }
        }
        Ok(())
    }

    fn key(&self, record: u32) -> Option<&[u8]> {
        key_at(&self.bytes, record)
    }

    fn entry(&self, record: u32) -> Option<(&[u8], &[u8])> {
        let key = self.key(record)?;
        let value_length_at = record as usize + 8 + padded(key.len() as u32) as usize;
        let length = word_at(&self.bytes, value_length_at)? as usize;
        let value = self.bytes.get(value_length_at + 4..)?.get(..length)?;
        Some((key, value))
    }
}

/// Reads a whole file and returns its problems. Calls `visit` for every committed record.
///
/// Reads the pointers of level 0 too: a Cyrus reader that follows them must reach every live record of
/// the log, and no other.
pub fn verify<S: ByteSource + ?Sized>(
    source: &S,
    size: u64,
    visit: &mut dyn FnMut(RawRecord<'_>),
) -> Vec<Problem> {
    let mut replay = Replay::new();
    let mut problems = Vec::new();
    match replay.follow(source, size) {
        Err(Error::Corrupt { offset, what }) => {
            let refused = Problem { offset, what };
            match Replay::of_damaged(source, size, refused.clone()) {
                Ok(left) => {
                    problems.extend_from_slice(left.damage());
                    replay = left;
                }
                Err(_) => problems.push(refused),
            }
        }
        Err(error) => problems.push(Problem { offset: 0, what: error.to_string() }),
        Ok(()) if replay.committed() < size => {
            let offset = replay.committed();
            let what = format!(
                "{} bytes behind the last COMMIT: a transaction is under way, or its writer died",
                size - offset
            );
            problems.push(Problem { offset, what });
        }
        Ok(()) => problems.extend(replay.broken_chain()),
    }
    for at in &replay.live {
        if let Some((key, value)) = replay.entry(*at) {
            visit(RawRecord { offset: (*at).into(), key, value });
        }
    }
    problems
}

impl Replay {
    /// Returns the first problem of the list that the pointers of level 0 make.
    fn broken_chain(&self) -> Option<Problem> {
        let problem = |offset: usize, what: String| Some(Problem { offset: offset as u64, what });
        let mut pointer = HEADER + 12;
        for passed in 0..=self.len() {
            let next = word_at(&self.bytes, pointer)?;
            if next == 0 {
                return if passed == self.len() {
                    None
                } else {
                    let what = format!("the list ends after {passed} of {} records", self.len());
                    problem(pointer, what)
                };
            }
            let key = self.key(next).unwrap_or_default();
            let Some((key, value)) = self
                .live
                .find(self.hasher.hash_one(key), |at| *at == next)
                .and_then(|at| self.entry(*at))
            else {
                return problem(pointer, format!("a pointer to {next}, where no record stands"));
            };
            let value_at = next as usize + 12 + padded(key.len() as u32) as usize;
            pointer = value_at + padded(value.len() as u32) as usize;
        }
        problem(pointer, "the list of records has a loop".into())
    }
}

/// Source of a replay.
struct ReplayInput<'s, S: ?Sized> {
    source: &'s S,
    size: u64,
    maxlevel: u32,
}

fn read_header<S: ByteSource + ?Sized>(source: &S, size: u64) -> Result<SkiplistHeader> {
    let mut header = [0; HEADER];
    if size < HEADER as u64 || read_full(source, 0, &mut header)? < HEADER {
        return Err(Error::corrupt(0, "too short for a header"));
    }
    if !header.starts_with(super::SKIPLIST_MAGIC) {
        return Err(Error::corrupt(0, "not the magic of a skiplist file"));
    }
    let word = |at| word_at(&header, at).unwrap_or(0);
    let (version, maxlevel) = (word(VERSION_AT), word(MAXLEVEL_AT));
    if version != 1 {
        return Err(Error::corrupt(VERSION_AT as u64, format!("unknown version {version}")));
    }
    if !(1..=MAX_LEVEL).contains(&maxlevel) {
        let what = format!("{maxlevel} levels of pointers, which Cyrus does not write");
        return Err(Error::corrupt(MAXLEVEL_AT as u64, what));
    }
    let recovered = word(RECOVERED_AT);
    Ok(SkiplistHeader { maxlevel, logstart: word(LOGSTART_AT).into(), recovered })
}

fn misplaced_log(logstart: u64) -> Error {
    Error::corrupt(LOGSTART_AT as u64, format!("the log does not begin at {logstart}"))
}

fn read_full<S: ByteSource + ?Sized>(source: &S, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match source.read_at(offset + got as u64, &mut buf[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

/// Rounds a length up to whole words.
fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(4)
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// Returns the key of the record at this offset. At an offset without a record: some bytes or none.
fn key_at(bytes: &[u8], record: u32) -> Option<&[u8]> {
    let record = bytes.get(record as usize..)?;
    let length = word_at(record, 4)?;
    record.get(8..)?.get(..length as usize)
}

mod damage;
#[cfg(test)]
mod tests;
