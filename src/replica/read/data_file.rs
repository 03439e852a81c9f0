//! The file `data.mdb`, read by `pread`, and its errors.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::model::doubt::{DoubtKind, Doubtful};
use crate::os::file_id::FileId;
use crate::os::pinned_path::PinnedPath;

/// Why the file cannot be read as a replica. All are temporary errors of a lookup.
#[derive(Debug)]
pub(crate) enum FileError {
    /// The system cannot read it.
    Io(io::Error),
    /// It has no bytes.
    Empty,
    /// A directory has its name.
    Directory,
    /// Its bytes are not those of a replica. Where a transaction is being written this may be a torn
    /// read, which a retry cures.
    Damaged {
        /// Offset in the file, in bytes.
        offset: u64,
        /// Reason.
        what: &'static str,
    },
}

impl Doubtful for FileError {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Self::Io(error) => Doubtful::doubt_kind(error),
            Self::Empty => DoubtKind::Empty,
            Self::Directory => DoubtKind::Unreadable,
            Self::Damaged { .. } => DoubtKind::Damaged,
        }
    }
}

impl fmt::Display for FileError {
    /// Says what it means and what to do; the path stands before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DEFERRED: &str = "recipients that only the replica knows are deferred";
        const SERVE: &str = "start or restart murder-route serve";
        match self {
            Self::Io(error) => return error.fmt(f),
            Self::Empty => {
                return write!(
                    f,
                    "the file is empty; {DEFERRED}; {SERVE}, which fetches the list from the master"
                );
            }
            Self::Directory => f.write_str("not a replica, or damaged: a directory")?,
            Self::Damaged { offset, what } => {
                write!(f, "not a replica, or damaged: offset {offset}: {what}")?;
            }
        }
        write!(f, "; {DEFERRED}; {SERVE}, which sets it aside and begins anew")
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct DataFile {
    file: File,
    pub(super) id: FileId,
}

impl DataFile {
    /// Opens the file. A FIFO, a device or a socket in its place is not waited for.
    pub(super) fn open(at: &PinnedPath) -> Result<Self, FileError> {
        let file = at.open()?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(FileError::Directory);
        }
        if !metadata.is_file() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(error.into());
        }
        Ok(Self { file, id: FileId::of(&metadata) })
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
