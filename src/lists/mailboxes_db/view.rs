//! One opened file of a mailbox list.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::OnceLock;

use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::skip::window::Scratch;
use crate::cyrusdb::source::ByteSource;
use crate::cyrusdb::{self, Engine};
use crate::model::name::KeyGeneration;

use super::index_view::IndexView;
use super::skip_view::SkipView;
use crate::os::map::{Map, Torn};
use crate::os::pinned_path::PinnedPath;

/// An open file, read by `pread`.
#[derive(Debug)]
pub(crate) struct ListFile(File);

/// The same for searches: read through a [`Map`] from [`Self::map`] on, where this process may have one.
///
/// Until then by `pread` too. To a process that has not been there, a fault for a page costs more than
/// several of these, and a search looks at places all over the file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) file: ListFile,
    map: OnceLock<Option<Map>>,
}

impl ListFile {
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }

    /// Who searches it looks first how long it [is](MappedFile::reaches) then.
    pub(crate) fn mapping(self) -> MappedFile {
        MappedFile { file: self, map: OnceLock::new() }
    }
}

impl MappedFile {
    /// There will be many searches.
    pub(crate) fn map(&self) {
        self.map.get_or_init(|| Map::new(&self.file.0, self.size().ok()?));
    }

    fn mapped(&self) -> Option<&Map> {
        self.map.get()?.as_ref()
    }

    /// Whether the map has lost pages: to a file that was cut, or to a disk that cannot read them. The
    /// file is read by `pread` then, which tells what has become of each page since.
    pub(crate) fn is_torn(&self) -> bool {
        self.mapped().is_some_and(Map::is_torn)
    }

    /// The file was seen to have `len` bytes.
    pub(crate) fn reaches(&self, len: u64) {
        if let Some(map) = self.mapped() {
            map.reaches(len);
        }
    }
}

impl ByteSource for MappedFile {
    #[inline]
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.mapped().and_then(|map| map.read_at(offset, buf)) {
            Some(Ok(())) => Ok(buf.len()),
            Some(Err(Torn)) | None => self.file.read_at(offset, buf),
        }
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

impl ByteSource for ListFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    dev: u64,
    pub(crate) ino: u64,
}

impl Identity {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { dev: metadata.dev(), ino: metadata.ino() }
    }
}

/// Opens the file to read it. A FIFO, a device or a socket in its place is not waited for.
pub(crate) fn open_regular(at: &PinnedPath) -> Result<(File, Metadata)> {
    let file = at.open()?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(cyrusdb::DIRECTORY);
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file").into());
    }
    Ok((file, metadata))
}

/// Opens the file to read it, and tells its engine.
pub(crate) fn open(at: &PinnedPath) -> Result<(File, Engine)> {
    let (file, _) = open_regular(at)?;
    let file = ListFile::new(file);
    let mut head = vec![0; cyrusdb::HEAD];
    let len = file.read_at(0, &mut head)?;
    let engine = cyrusdb::detect(&head[..len])?;
    Ok((file.0, engine))
}

/// How one lookup in a [`View`] can end.
pub(crate) enum Search<T> {
    Found(T),
    Absent,
    /// The file is not the one that is remembered: forget the view.
    Overwritten,
}

/// What is remembered of a file between two lookups.
#[derive(Debug)]
pub(crate) enum View {
    /// twoskip, twom: searched in the file, from fingers in memory.
    Skip(SkipView),
    /// skiplist, flat: all of it in memory.
    Index(IndexView),
}

impl View {
    pub(crate) fn identity(&self) -> Identity {
        match self {
            View::Skip(view) => view.identity,
            View::Index(view) => view.identity,
        }
    }

    /// The generations of keys that a name is to be looked up by.
    pub(crate) fn key_generation(&self) -> Option<KeyGeneration> {
        match self {
            View::Skip(view) => view.keys(),
            View::Index(view) => view.key_generation(),
        }
    }

    /// How many keys the list has, those that are no mailboxes included.
    pub(crate) fn records(&self) -> u64 {
        match self {
            View::Skip(view) => view.header().records,
            View::Index(view) => view.records(),
        }
    }

    /// Which of the states of this file it is that is known.
    pub(crate) fn state(&self) -> u64 {
        match self {
            View::Skip(view) => view.header().end,
            View::Index(view) => view.state(),
        }
    }

    /// Looks a key up and hands its value to `take`.
    pub(crate) fn find<T>(
        &self,
        key: &[u8],
        scratch: &mut Scratch,
        take: impl Fn(&[u8]) -> T,
    ) -> Result<Search<T>> {
        match self {
            View::Skip(view) => view.find(key, scratch, take),
            View::Index(view) => Ok(match view.find(key, take) {
                Some(found) => Search::Found(found),
                None => Search::Absent,
            }),
        }
    }

    /// Why a key that is not in it may be missing, if it is not whole.
    pub(crate) fn incomplete(&self) -> Option<Error> {
        match self {
            View::Skip(_) => None,
            View::Index(view) => view.incomplete(),
        }
    }
}
