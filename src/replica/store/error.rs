//! Errors of the store.

use std::io;
use std::path::{Path, PathBuf};

use heed::MdbError;

use super::value::{self, BadValue};
use crate::model::doubt::{Doubt, DoubtKind, Doubtful};

/// Why a replica cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the system.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The directory, or the file in it.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
    /// Another process follows the master into this directory.
    #[error("{path}: another murder-route follows the master into this directory", path = .0.display())]
    InUse(PathBuf),
    /// Something that is no regular file has the name of one.
    #[error(
        "{path}: not a regular file; recipients that only the replica knows are deferred; remove it, \
         and serve begins anew",
        path = .0.display()
    )]
    NotRegular(PathBuf),
    /// The file has no bytes.
    #[error(
        "{path}: the file is empty; recipients that only the replica knows are deferred; start serve, \
         which fetches the list from the master",
        path = .0.display()
    )]
    Empty(PathBuf),
    /// The database belongs to another program.
    #[error("{path}: data.mdb is another program's: name a directory of the replica's own", path = .0.display())]
    NotOurs(PathBuf),
    /// The replica is damaged.
    #[error(
        "{path}: the replica is damaged: {why}; move the directory away, or let serve begin anew",
        path = path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// Reason.
        why: String,
    },
    /// Another version of murder-route wrote it.
    #[error(
        "{path}: the replica was written as version {found}, and this murder-route reads version \
         {version}; use that release, or let serve of this one begin anew",
        path = path.display(), version = value::VERSION
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u8,
    },
    /// The file had to grow. It has room now: the transaction may be tried again.
    #[error("{path}: the replica has outgrown its file, which has room again now: try again", path = .0.display())]
    Full(PathBuf),
    /// The file was removed, or another one has its path.
    #[error("{path}: the replica's file was removed or replaced", path = .0.display())]
    Replaced(PathBuf),
    /// A record that the store cannot hold.
    #[error("{path}: {source}", path = path.display())]
    Value {
        /// The directory.
        path: PathBuf,
        /// Reason.
        source: BadValue,
    },
}

impl Doubtful for Error {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Self::Io { source, .. } => source.doubt_kind(),
            Self::Empty(_) => DoubtKind::Empty,
            Self::Damaged { .. } => DoubtKind::Damaged,
            Self::Value { source, .. } => source.doubt_kind(),
            _ => DoubtKind::Unreadable,
        }
    }
}

impl From<Error> for Doubt {
    fn from(error: Error) -> Self {
        Self::new(error.doubt_kind(), error)
    }
}

impl Error {
    /// An error of LMDB in this directory.
    pub(super) fn lmdb(dir: &Path, error: heed::Error) -> Self {
        let path = dir.to_owned();
        match error {
            heed::Error::Io(source) => Error::Io { path, source },
            heed::Error::Mdb(MdbError::MapFull) => Error::Full(path),
            heed::Error::EnvAlreadyOpened => Error::Replaced(path),
            heed::Error::Mdb(
                MdbError::Corrupted
                | MdbError::PageNotFound
                | MdbError::Invalid
                | MdbError::VersionMismatch
                | MdbError::Incompatible,
            ) => Error::Damaged { path, why: error.to_string() },
            error => Error::Io { path, source: io::Error::other(error.to_string()) },
        }
    }

    /// A bad value in this directory.
    pub(super) fn value(dir: &Path, error: BadValue) -> Self {
        let path = dir.to_owned();
        match error {
            BadValue::Damaged => Error::Damaged { path, why: error.to_string() },
            BadValue::Version(found) => Error::Version { path, found },
            BadValue::TooLong => Error::Value { path, source: error },
        }
    }

    /// Whether this program can no longer use what is stored.
    pub(super) fn is_beyond_use(&self) -> bool {
        matches!(self, Error::Damaged { .. } | Error::Version { .. })
    }
}
