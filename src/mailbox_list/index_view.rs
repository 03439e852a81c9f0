//! A skiplist or flat file, all of it in memory.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::flat::Table;
use crate::cyrusdb::skiplist::Replay;
use crate::mailbox::{KeyGeneration, Moment};

use super::keys;
use super::view::{Identity, ListFile};

/// The content of one file, for as long as the path leads to it.
#[derive(Debug)]
pub(crate) struct IndexView {
    pub(crate) identity: Identity,
    opening: u64,
    content: RwLock<Content>,
}

#[derive(Debug)]
struct Content {
    kind: Kind,
    keys: Option<KeyGeneration>,
}

#[derive(Debug)]
enum Kind {
    /// Grows with the file.
    Skiplist { replay: Replay, torn: Option<Torn> },
    /// Never changes: Cyrus renames a new file into place. Who edits it by hand shows by size or
    /// time.
    Flat { table: Table, size: u64, modified: Option<SystemTime> },
}

/// What stands behind the last transaction of a skiplist file and is none: the rest of a writer that
/// died in the middle of a record, until Cyrus writes the next time, or of a file that was cut off.
/// Who is found before it is answered; who is not may have been behind it.
#[derive(Debug)]
struct Torn {
    /// Length of the file then.
    size: u64,
    offset: u64,
    what: String,
}

impl Content {
    fn new(kind: Kind) -> Self {
        let mut content = Self { kind, keys: None };
        content.decide();
        content
    }

    fn rows(&self) -> Box<dyn Iterator<Item = (&[u8], &[u8])> + '_> {
        match &self.kind {
            Kind::Skiplist { replay, .. } => Box::new(replay.iter()),
            Kind::Flat { table, .. } => Box::new(table.iter()),
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
    /// Reads a skiplist file of `size` bytes, whose shared lock the caller holds.
    pub(crate) fn skiplist(file: &ListFile, metadata: &Metadata) -> Result<Self> {
        let mut replay = Replay::new();
        let size = metadata.len();
        let torn = match replay.follow(file, size) {
            Ok(()) => None,
            Err(Error::Corrupt { offset, what }) if !replay.is_empty() => {
                Some(Torn { size, offset, what })
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            identity: Identity::of(metadata),
            opening: Moment::opening(),
            content: RwLock::new(Content::new(Kind::Skiplist { replay, torn })),
        })
    }

    /// Reads a flat file.
    pub(crate) fn flat(mut file: File) -> Result<Self> {
        let before = file.metadata()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let after = file.metadata()?;
        let (size, modified) = (after.len(), after.modified().ok());
        if (before.len(), before.modified().ok()) != (size, modified) || bytes.len() as u64 != size
        {
            return Err(Error::corrupt(0, "the file was changed while it was read"));
        }
        let table = Table::read(bytes)?;
        Ok(Self {
            identity: Identity::of(&after),
            opening: Moment::opening(),
            content: RwLock::new(Content::new(Kind::Flat { table, size, modified })),
        })
    }

    fn content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn engine(&self) -> &'static str {
        match self.content().kind {
            Kind::Skiplist { .. } => "skiplist",
            Kind::Flat { .. } => "flat",
        }
    }

    pub(crate) fn key_generation(&self) -> Option<KeyGeneration> {
        self.content().keys
    }

    pub(crate) fn records(&self) -> u64 {
        match &self.content().kind {
            Kind::Skiplist { replay, .. } => replay.len() as u64,
            Kind::Flat { table, .. } => table.len() as u64,
        }
    }

    /// The same among the states of all files.
    pub(crate) fn moment(&self) -> Moment {
        Moment::new(self.opening, self.state())
    }

    pub(crate) fn state(&self) -> u64 {
        match &self.content().kind {
            Kind::Skiplist { replay, .. } => replay.committed(),
            Kind::Flat { .. } => 0,
        }
    }

    /// Whether this is all that the file holds. A skiplist file that ends where a transaction was
    /// committed can change only by growing: Cyrus never cuts off what was committed.
    pub(crate) fn is_current(&self, metadata: &Metadata) -> bool {
        match &self.content().kind {
            Kind::Skiplist { replay, torn } => {
                let read = torn.as_ref().map_or(replay.committed(), |torn| torn.size);
                metadata.len() == read
            }
            Kind::Flat { size, modified, .. } => {
                (metadata.len(), metadata.modified().ok()) == (*size, *modified)
            }
        }
    }

    /// Reads what a skiplist file has grown by; the caller holds its shared lock. `false`: this
    /// content cannot be carried on.
    pub(crate) fn follow(&self, file: &ListFile, metadata: &Metadata) -> bool {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let followed = match &mut content.kind {
            Kind::Skiplist { replay, torn } => {
                *torn = None;
                replay.follow(file, metadata.len()).is_ok()
            }
            Kind::Flat { .. } => false,
        };
        content.decide();
        followed
    }

    pub(crate) fn find<T>(&self, key: &[u8], take: impl Fn(&[u8]) -> T) -> Option<T> {
        match &self.content().kind {
            Kind::Skiplist { replay, .. } => replay.get(key).map(take),
            Kind::Flat { table, .. } => table.get(key).map(take),
        }
    }

    /// All rows, for as long as `visit` wants more. It must not wait for this list.
    pub(crate) fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        for (key, value) in self.content().rows() {
            visit(key, value);
        }
    }

    pub(crate) fn incomplete(&self) -> Option<Error> {
        match &self.content().kind {
            Kind::Skiplist { torn, .. } => {
                torn.as_ref().map(|torn| Error::corrupt(torn.offset, torn.what.clone()))
            }
            Kind::Flat { table, .. } => table
                .problems()
                .first()
                .map(|problem| Error::corrupt(problem.offset, problem.what.clone())),
        }
    }
}

/// The error that says that the answer takes waiting or much reading.
pub(crate) fn busy() -> Error {
    io::Error::from(io::ErrorKind::WouldBlock).into()
}
