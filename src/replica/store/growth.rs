//! Growth of the file.

#![expect(unsafe_code, reason = "resizing a map has no safe form")]

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use super::env::{OpenEnv, ReplicaEnv};
use super::error::Error;
use super::lmdb;

/// Maximum size of the file at first; it takes addresses, not memory. [`ReplicaEnv::make_room`] raises
/// it.
pub(super) const INITIAL_MAP: usize = 1 << 30;

impl OpenEnv {
    /// Extends the file to its full length. LMDB omits pages at the end that a transaction has
    /// taken and given back. Without them the file could not be distinguished from a truncated one.
    pub(super) fn fill_up(&self) -> heed::Result<()> {
        let (file, needed) = (self.env.try_clone_inner_file()?, lmdb::needed_length(&self.env));
        if file.metadata()?.len() < needed {
            file.set_len(needed)?;
        }
        Ok(())
    }
}

impl ReplicaEnv {
    /// Raises the maximum size of the file if a transaction has found no room, or if the next one might find
    /// none: it may write everything anew. Only the writer may call this, between two transactions.
    pub(super) fn make_room(&self) -> Result<(), Error> {
        let map = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let Some(open) = &*open else { return Err(Error::Replaced(self.dir().to_owned())) };
            let (info, stat) = (open.env.info(), open.env.stat());
            let pages = info.last_page_number.saturating_add(1);
            let used = pages.saturating_mul(stat.page_size as usize);
            if used <= info.map_size / 2 && !self.full.load(Relaxed) {
                return Ok(());
            }
            info.map_size.saturating_mul(4)
        };
        self.resize(map)?;
        self.full.store(false, Relaxed);
        Ok(())
    }

    /// Sets the maximum size of the file; 0: as the writer has set it in another process.
    pub(super) fn resize(&self, map: usize) -> Result<(), Error> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let Some(now) = &*open else { return Ok(()) };
        now.watch.set(None);
        // SAFETY: no transaction of this process is under way. Read transactions hold `open` for
        // reading. Where there is a writer, only that calls this, between its transactions: no other
        // process sets a greater size then, so no reader here has to follow it.
        let resized = unsafe { lmdb::resize(&now.env, map) };
        now.watch.set(lmdb::mapped_range(now.env.path()));
        resized.map_err(|error| {
            // The old map is gone.
            *open = None;
            Error::lmdb(self.dir(), error)
        })
    }
}
