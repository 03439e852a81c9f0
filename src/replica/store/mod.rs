//! The store of a replica: an LMDB environment in a directory of its own.
//!
//! | file | mode | content |
//! |---|---|---|
//! | `data.mdb` | 0640 | the records, see [`value`] |
//! | `lock.mdb` | 0660 | LMDB's table of readers |
//! | `lock` | 0640 | locked (`flock`) by the process that follows the master |
//! | `names` | 0600 | hashes of the names of a long list during a full sync; unlinked at once, and kept open |
//! | `*.set-aside` | | a store that was damaged, or of another version, when the daemon began anew |
//!
//! One process follows the master and writes, through a [`ReplicaWriter`]. Any number of processes read,
//! through a [`ReplicaList`], and neither waits for the other. A reader must be able to write to
//! `lock.mdb`, where it registers what it is reading: it runs as the daemon's user or in its group.
//!
//! # Durability
//!
//! A killed process leaves the last commit as it was, and the next writer takes back its place in the
//! table of readers. A write goes to pages that no commit refers to. A commit brings them to the disk
//! before it writes the page that refers to them; that page itself follows with the next commit, or at
//! once after a full sync (`MDB_NOMETASYNC`; LMDB does not reuse what the commit before the last refers
//! to). So a power failure can undo the last change, which the next full sync brings back, and never
//! harms the rest.
//!
//! A file that is shorter than its header says was truncated, or LMDB left off unused pages at its end
//! and its writer was killed before it filled the file up. The process that opens the file reads all of
//! it to decide; the writer then copies the records to a new file.
//!
//! # Limits
//!
//! Local file systems only. The file is read through a map: truncating `data.mdb` while it is in use
//! kills the processes that read it, unless they have a [`guard`](crate::os::map::guard). Removing or
//! renaming over it is noticed within a second, and at once before a miss is reported. An open replica
//! must not be used in a child after fork. The shared library, whose processes cannot meet these
//! conditions, reads the file without LMDB and without a map.

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
mod env;
mod error;
mod growth;
mod list;
mod lmdb;
mod mend;
mod notes;
mod permissions;
#[cfg(test)]
pub(super) mod tests;
pub mod value;
mod writer;

pub(crate) use crate::replica::read::reader::LocklessReplica;
pub use error::Error;
pub use list::ReplicaList;
pub use writer::{Accepted, ReplicaWriter, accept};
