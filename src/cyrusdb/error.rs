//! Errors of reading a file.

use std::io;

/// Reason why a file cannot be read as a mailbox list. Every one of them makes a lookup temporary.
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
        /// Description of the damage.
        what: String,
    },
    /// A known format that is not supported.
    #[error("{0} is not supported: convert it with cvt_cyrusdb(8)")]
    Unsupported(&'static str),
    /// Neither a known engine nor text of the flat engine.
    #[error("not a Cyrus mailbox list: unknown first bytes")]
    Unknown,
    /// An empty file. Cyrus writes the header late, so an empty file proves nothing about any mailbox.
    #[error("the file is empty: Cyrus has not written it yet, or another program truncated it")]
    Empty,
}

impl Error {
    /// Returns an [`Error::Corrupt`].
    pub fn corrupt(offset: u64, what: impl Into<String>) -> Self {
        Error::Corrupt { offset, what: what.into() }
    }
}

/// The result of reading a file.
pub type Result<T> = std::result::Result<T, Error>;
