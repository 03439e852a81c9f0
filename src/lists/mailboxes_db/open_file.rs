//! An opened file of a mailbox list.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::cyrusdb::error::Result;
use crate::cyrusdb::source::ByteSource;
use crate::cyrusdb::{self, Engine};
use crate::os::map::{MemoryMap, Torn};
use crate::os::pinned_path::PinnedPath;

/// An open file, read by `pread`.
#[derive(Debug)]
pub(crate) struct ListFile(File);

/// An open file that searches read through a [`MemoryMap`] from [`Self::map`] on, where this process may
/// have one.
///
/// Until then they read by `pread`. In a process that has not touched a page yet, a page fault costs
/// more than several of these calls, and a search reads at places all over the file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) file: ListFile,
    map: OnceLock<Option<MemoryMap>>,
}

impl ListFile {
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }

    /// Returns the same file, which may be mapped later. Before each search the caller reports the
    /// [length](MappedFile::reaches) of the file.
    pub(crate) fn mapping(self) -> MappedFile {
        MappedFile { file: self, map: OnceLock::new() }
    }
}

impl MappedFile {
    /// Maps the file for many searches.
    pub(crate) fn map(&self) {
        self.map.get_or_init(|| MemoryMap::new(&self.file.0, self.size().ok()?));
    }

    fn mapped(&self) -> Option<&MemoryMap> {
        self.map.get()?.as_ref()
    }

    /// Whether the map has lost pages: the file was truncated, or the disk cannot read them. The file is
    /// then read by `pread`, which returns the present contents or an error for each page.
    pub(crate) fn is_torn(&self) -> bool {
        self.mapped().is_some_and(MemoryMap::is_torn)
    }

    /// Notes that the file has `len` bytes now.
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

/// Opens a regular file for reading. Does not wait for a FIFO, a device or a socket in its place.
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

/// Opens the file for reading, and detects its engine.
pub(super) fn open(at: &PinnedPath) -> Result<(File, Engine)> {
    let (file, _) = open_regular(at)?;
    let file = ListFile::new(file);
    let mut head = vec![0; cyrusdb::HEAD];
    let len = file.read_at(0, &mut head)?;
    let engine = cyrusdb::detect(&head[..len])?;
    Ok((file.0, engine))
}
