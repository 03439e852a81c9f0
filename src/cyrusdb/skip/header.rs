//! The header of a twoskip or twom file.

use super::node::Layout;
use crate::cyrusdb::error::{Error, Result};

/// Fields of the header of a twoskip or twom file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkipHeader {
    pub(crate) layout: Layout,
    /// Grows by one with each repack, which always makes a new file.
    pub generation: u64,
    /// Number of keys in the list. While [`Self::dirty`], one change may be counted in already.
    pub records: u64,
    /// Up to this offset the records stand in the order of their keys.
    pub repack_size: u64,
    /// End of the last committed transaction.
    pub end: u64,
    /// A transaction is under way, or a writer died in one.
    pub dirty: bool,
}

impl SkipHeader {
    /// Checks that a file of `size` bytes can hold the committed records. Cyrus never cuts them off.
    ///
    /// # Errors
    ///
    /// If the file is shorter: another program has cut it.
    pub fn check_size(&self, size: u64) -> Result<()> {
        if size < self.end {
            let what = "the file ends here, but the header puts the end of the list at";
            return Err(Error::corrupt(size, format!("{what} {}", self.end)));
        }
        Ok(())
    }

    /// Returns `twoskip` or `twom`.
    pub fn engine(&self) -> &'static str {
        match self.layout {
            Layout::Twoskip => "twoskip",
            Layout::Twom { .. } => "twom",
        }
    }
}
