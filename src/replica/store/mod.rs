//! Where a replica of the master's list is kept: an LMDB environment in a directory of its own.
//!
//! | file | mode | what |
//! |---|---|---|
//! | `data.mdb` | 0640 | the records, see [`value`] |
//! | `lock.mdb` | 0660 | LMDB's table of readers |
//! | `lock` | 0640 | locked (`flock`) by the one who follows the master |
//! | `names` | 0600 | hashes of the names of a long list while that comes; removed at once, and open |
//! | `*.set-aside` | | a store that was damaged, or of another version, when the daemon began anew |
//!
//! One process follows the master and writes, through a [`ReplicaWriter`]. Any number of processes read,
//! through a [`ReplicaList`], and neither waits for the other. A reader must be able to write to
//! `lock.mdb`, where it says what it is reading: it runs as the daemon's user or in its group.
//!
//! # What survives what
//!
//! A killed process leaves the last commit as it was, and its place in the table of readers is taken
//! back by the next one that writes. A write goes to pages that no commit refers to. A commit brings
//! them to the disk before it writes the page that refers to them; that page itself follows with the
//! next commit, or at once after a full list (`MDB_NOMETASYNC`; LMDB does not reuse what the commit
//! before the last refers to). So a power failure can undo the last change, which the next full list
//! brings back, and never harms the rest.
//!
//! A file that is shorter than its head says has either been cut off, or LMDB left pages at its end
//! off that were in nobody's use, and its writer was killed before it filled the file up. Who opens
//! it reads all of it to tell; the writer then copies the records to a new file.
//!
//! # Limits
//!
//! Local file systems only. The file is read through a map: who cuts `data.mdb` off while it is in use
//! kills the processes that read it, unless they have a [`guard`](crate::os::map::guard). Removing
//! it or replacing it by renaming is noticed within a second, and at once before a miss is reported.
//! An open replica must not be used in a child after fork. The shared library, whose processes can do
//! with none of this, reads the file without LMDB, and looks at its length first.

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
