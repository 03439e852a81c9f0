//! The state of a list, for postmasters.

use std::time::SystemTime;

use crate::cyrusdb::skip::window::Scratch;
use crate::model::doubt::Doubt;
use crate::model::name::KeyGeneration;
use crate::os::file_id::FileId;

use super::FileList;
use super::view::View;

/// State of a list.
#[derive(Debug, Clone)]
pub struct FileListStatus {
    /// `twoskip`, `twom`, `skiplist` or `flat`.
    pub engine: &'static str,
    /// Generation of Cyrus that wrote the keys; `None`: no key shows it.
    pub key_generation: Option<KeyGeneration>,
    /// Number of keys in the list, including those that are no mailboxes.
    pub records: u64,
    /// Length of the file in bytes.
    pub size: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Time of the last write to the file; late for twom, which writes through a map.
    pub modified: Option<SystemTime>,
    /// A transaction is under way, or a writer died in one.
    pub dirty: bool,
}

impl FileList {
    /// Returns the present state of the list.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn status(&self) -> Result<FileListStatus, Doubt> {
        let view = self.check_with_retries(&mut Scratch::default());
        let view = view.map_err(|error| self.describe(error))?;
        let metadata = self.at.standing().map_err(|error| self.describe(error))?;
        let (engine, dirty) = match &*view {
            View::Skip(view) => (view.header().engine(), view.header().dirty),
            View::Index(index) => (index.engine(), !index.is_current(&metadata)),
        };
        Ok(FileListStatus {
            engine,
            key_generation: view.key_generation(),
            records: view.records(),
            size: metadata.len(),
            inode: FileId::of(&metadata).ino,
            modified: metadata.modified().ok(),
            dirty,
        })
    }
}
