//! View of a skiplist or flat file, all of it in memory.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cyrusdb::Problem;
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::flat::FlatTable;
use crate::cyrusdb::skiplist::{Replay, users_prefix};
use crate::model::list::WalkStep;
use crate::model::name::KeyGeneration;
use crate::os::file_id::FileId;

use super::keys;
use super::open_file::ListFile;

/// Resolution of file times: a change within it may leave the time as it was, since the kernel's clock for
/// file times ticks.
const TICK: Duration = Duration::from_millis(50);

/// Time after the last write for which a file written in place may be incomplete.
const COPYING: Duration = Duration::from_secs(10);

/// Maximum number of key prefixes that a walk skips without a call of its visitor.
const MOST_PASSED: usize = 64;

/// The content of one file, for as long as the path leads to it.
#[derive(Debug)]
pub(super) struct IndexView {
    pub(super) file_id: FileId,
    content: RwLock<Content>,
}

#[derive(Debug)]
struct Content {
    kind: IndexEngine,
    keys: Option<KeyGeneration>,
    stamp: Stamp,
    /// It was read in the tick of the last write, so that another write in that tick would not show.
    is_fresh: bool,
    /// Time at which the file was last overwritten in place.
    overwritten: Option<SystemTime>,
}

#[derive(Debug)]
enum IndexEngine {
    /// Grows with the file.
    Skiplist(Replay),
    /// Never changes: Cyrus renames a new file into place.
    Flat(FlatTable),
}

/// Length and time by which a change of a file shows. It is the time of the inode, which no program can
/// set, unlike that of the last modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }

    fn time(self) -> SystemTime {
        let (seconds, rest) = self.changed;
        let since = |seconds: i64, rest: i64| {
            Some(Duration::new(seconds.try_into().ok()?, rest.try_into().ok()?))
        };
        since(seconds, rest).and_then(|since| UNIX_EPOCH.checked_add(since)).unwrap_or(UNIX_EPOCH)
    }

    /// Whether the last change was within this time.
    fn is_within(self, time: Duration) -> bool {
        let now = SystemTime::now();
        let apart = now.duration_since(self.time()).unwrap_or_else(|ahead| ahead.duration());
        apart < time
    }
}

impl Content {
    /// `before`: the view of the same file, which was then written in place.
    fn new(kind: IndexEngine, stamp: Stamp, before: Option<&IndexView>) -> Self {
        let overwritten = before.and_then(|before| {
            let before = before.content();
            // Cyrus truncates the rest of a dead writer, and nothing else.
            let grew = match &before.kind {
                IndexEngine::Skiplist(replay) => replay.committed() <= stamp.size,
                IndexEngine::Flat(_) => false,
            };
            let again = before.is_fresh && before.stamp == stamp;
            if grew || again { before.overwritten } else { Some(stamp.time()) }
        });
        let is_fresh = before.is_some() && stamp.is_within(TICK);
        let mut content = Self { kind, keys: None, stamp, is_fresh, overwritten };
        content.decide();
        content
    }

    fn rows(&self) -> Box<dyn Iterator<Item = (&[u8], &[u8])> + '_> {
        match &self.kind {
            IndexEngine::Skiplist(replay) => Box::new(replay.iter()),
            IndexEngine::Flat(table) => Box::new(table.iter()),
        }
    }

    fn decide(&mut self) {
        if self.keys.is_none() {
            let shown = self.rows().find_map(|(key, _)| keys::generation_shown_by(key));
            self.keys = shown;
        }
    }
}

impl IndexView {
    /// Reads a skiplist file, whose shared lock the caller holds. `before`: the view of the same file
    /// that this one replaces.
    ///
    /// A damaged file, or one without its end (a writer died, or the file was truncated), answers for the
    /// names that remain.
    pub(super) fn skiplist(
        file: &ListFile,
        metadata: &Metadata,
        before: Option<&Self>,
    ) -> Result<Self> {
        let size = metadata.len();
        let mut replay = Replay::new();
        let refused = match replay.follow(file, size) {
            Ok(()) => replay.leads_past(size),
            Err(Error::Corrupt { offset, what }) => Some(Problem { offset, what }),
            Err(error) => return Err(error),
        };
        if let Some(refused) = refused {
            replay = Replay::of_damaged(file, size, refused)?;
        }
        Ok(Self {
            file_id: FileId::of(metadata),
            content: RwLock::new(Content::new(
                IndexEngine::Skiplist(replay),
                Stamp::of(metadata),
                before,
            )),
        })
    }

    /// Reads a flat file. `before`: the view of the same file that this one replaces.
    pub(super) fn flat(mut file: File, before: Option<&Self>) -> Result<Self> {
        let stamp = Stamp::of(&file.metadata()?);
        let mut bytes = Vec::new();
        (&mut file).take(stamp.size.saturating_add(1)).read_to_end(&mut bytes)?;
        let after = file.metadata()?;
        if Stamp::of(&after) != stamp || bytes.len() as u64 != stamp.size {
            return Err(Error::corrupt(0, "the file was changed while it was read"));
        }
        let table = FlatTable::read(bytes)?;
        Ok(Self {
            file_id: FileId::of(&after),
            content: RwLock::new(Content::new(IndexEngine::Flat(table), stamp, before)),
        })
    }

    fn content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn engine(&self) -> &'static str {
        match self.content().kind {
            IndexEngine::Skiplist(_) => "skiplist",
            IndexEngine::Flat(_) => "flat",
        }
    }

    pub(super) fn key_generation(&self) -> Option<KeyGeneration> {
        self.content().keys
    }

    pub(super) fn records(&self) -> u64 {
        match &self.content().kind {
            IndexEngine::Skiplist(replay) => replay.len() as u64,
            IndexEngine::Flat(table) => table.len() as u64,
        }
    }

    pub(super) fn state(&self) -> u64 {
        match &self.content().kind {
            IndexEngine::Skiplist(replay) => replay.committed(),
            IndexEngine::Flat(_) => 0,
        }
    }

    /// Whether this is the present content of the file.
    pub(super) fn is_current(&self, metadata: &Metadata) -> bool {
        let content = self.content();
        let stamp = Stamp::of(metadata);
        content.stamp == stamp && (!content.is_fresh || stamp.is_within(TICK))
    }

    /// Reads the bytes that a skiplist file has grown by; the caller holds its shared lock. Returns `false`
    /// if the file must be read anew.
    pub(super) fn follow(&self, file: &ListFile, metadata: &Metadata) -> bool {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(metadata);
        // Cyrus never truncates committed records, and overwritten ones show by the length.
        if content.is_fresh || stamp.size == content.stamp.size {
            return false;
        }
        let followed = match &mut content.kind {
            IndexEngine::Skiplist(replay) => {
                replay.continues(file, stamp.size) && replay.follow(file, stamp.size).is_ok()
            }
            IndexEngine::Flat(_) => false,
        };
        content.stamp = stamp;
        content.decide();
        followed
    }

    pub(super) fn find<T>(&self, key: &[u8], take: impl Fn(&[u8]) -> T) -> Option<T> {
        match &self.content().kind {
            IndexEngine::Skiplist(replay) => replay.get(key).map(take),
            IndexEngine::Flat(table) => table.get(key).map(take),
        }
    }

    /// Visits all rows. `visit` must not wait for this list.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        for (key, value) in self.content().rows() {
            visit(key, value);
        }
    }

    /// Visits rows whose keys have the prefix `start`, until `visit` stops, without those that it skips.
    /// `visit` must not wait for this list.
    pub(super) fn each_past(&self, start: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> WalkStep) {
        let content = self.content();
        match &content.kind {
            IndexEngine::Flat(table) => {
                let mut from = start.to_vec();
                loop {
                    let mut behind = None;
                    for (key, value) in table.iter_from(&from) {
                        if !key.starts_with(start) {
                            return;
                        }
                        match visit(key, value) {
                            WalkStep::On => {}
                            WalkStep::Stop => return,
                            WalkStep::Past(length) => {
                                behind = Some(crate::model::list::behind_all(key, length));
                                break;
                            }
                        }
                    }
                    match behind {
                        Some(behind) => from = behind,
                        None => return,
                    }
                }
            }
            // In no order: each row is compared with the prefixes to skip.
            IndexEngine::Skiplist(replay) => {
                let mut passed: Vec<Vec<u8>> = Vec::new();
                // Most rows are of users. If the visitor skips one of them, all of them are skipped.
                let is_rest = match replay.of_users() {
                    Some((key, value)) if key.starts_with(start) => match visit(key, value) {
                        WalkStep::Past(length) => {
                            users_prefix(key).is_some_and(|users| length <= users.len())
                        }
                        WalkStep::On => false,
                        WalkStep::Stop => return,
                    },
                    // A walk below one user needs its rows.
                    _ => users_prefix(start).is_none(),
                };
                let rows: Box<dyn Iterator<Item = (&[u8], &[u8])>> = match is_rest {
                    true => Box::new(replay.others()),
                    false => Box::new(replay.iter()),
                };
                for (key, value) in rows.filter(|(key, _)| key.starts_with(start)) {
                    if passed.iter().any(|passed| key.starts_with(passed)) {
                        continue;
                    }
                    match visit(key, value) {
                        WalkStep::On => {}
                        WalkStep::Stop => return,
                        WalkStep::Past(length) if passed.len() < MOST_PASSED => {
                            passed.push(key.get(..length).unwrap_or(key).to_vec());
                        }
                        WalkStep::Past(_) => {}
                    }
                }
            }
        }
    }

    pub(super) fn incomplete(&self) -> Option<Error> {
        let content = self.content();
        let (first, count) = match &content.kind {
            IndexEngine::Skiplist(replay) => (replay.damage().first(), replay.damage().len()),
            IndexEngine::Flat(table) => (table.problems().first(), table.problems().len()),
        };
        if let Some(Problem { offset, what }) = first {
            let more = match count {
                1 => String::new(),
                _ => format!(", and {} more like it", count - 1),
            };
            let advice = "; recipients with a whole record are answered, all others are deferred; run \
                          `murder-route verify`";
            return Some(Error::corrupt(*offset, format!("{what}{more}{advice}")));
        }
        // A copy over the file may have ended so far at the end of a record.
        let overwritten = content.overwritten?;
        let age = SystemTime::now().duration_since(overwritten).unwrap_or_default();
        let what = "the file was overwritten in place seconds ago and may be incomplete";
        (age < COPYING).then(|| Error::corrupt(content.stamp.size, what))
    }
}
