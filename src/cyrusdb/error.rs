//! What can be wrong with a file.

use std::io;

/// Why a file could not be read as a mailbox list. Every one of them makes a lookup temporary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system could not read it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The bytes at this offset cannot be what the format has there. On a file that is being
    /// written this may be a torn read that a retry cures.
    #[error("offset {offset}: {what}")]
    Corrupt {
        /// Offset in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A kind of file that is known but not read here.
    #[error("{0} is not supported: convert it with cvt_cyrusdb(8)")]
    Unsupported(&'static str),
    /// Neither a known engine nor text that could be the flat engine's.
    #[error("not a Cyrus mailbox list: unknown first bytes")]
    Unknown,
    /// A file of no bytes: Cyrus creates the header lazily, so this says nothing of any mailbox.
    #[error("the file is empty: Cyrus has not written it yet, or somebody emptied it")]
    Empty,
}

impl Error {
    /// A [`Error::Corrupt`].
    pub fn corrupt(offset: u64, what: impl Into<String>) -> Self {
        Error::Corrupt { offset, what: what.into() }
    }
}

/// The result of reading a file.
pub type Result<T> = std::result::Result<T, Error>;
