//! The file formats of `mailboxes.db`, read-only, over any [`source::ByteSource`].
//!
//! Each engine is a map from key to value, both bytes.

pub mod error;
pub mod source;

use std::fmt;

/// A storage engine of Cyrus that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// The default of Cyrus 2.5 and later.
    Twoskip,
    /// By choice from the development series 3.13 on.
    Twom,
    /// The default of Cyrus up to 2.4.
    Skiplist,
    /// A sorted text file.
    Flat,
}

impl Engine {
    /// The name as `mboxlist_db` in imapd.conf has it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Twoskip => "twoskip",
            Engine::Twom => "twom",
            Engine::Skiplist => "skiplist",
            Engine::Flat => "flat",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something wrong in a file, found by reading all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, in bytes from the beginning of the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}
