//! Repair of a file that is shorter than it should be.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};

use heed::EnvFlags;

use super::env::{OpenEnv, ReplicaEnv};
use super::error::Error;
use super::lmdb::{self, Records};
use super::permissions::{create_file, create_lock};
use super::value;
use crate::model::name::MailboxName;

impl OpenEnv {
    /// Reads everything. Returns whether all of it is valid.
    pub(super) fn is_whole(&self) -> heed::Result<bool> {
        let txn = self.env.read_txn()?;
        let mut rows = 0;
        for row in self.records.iter(&txn)? {
            let (key, value) = row?;
            rows += 1;
            let good = match key {
                value::ABOUT_KEY => value::about(value).is_ok(),
                _ => MailboxName::new(key).is_ok() && value::row(value).is_ok(),
            };
            if !good {
                return Ok(false);
            }
        }
        Ok(rows == self.records.len(&txn)? && !self.watch.torn())
    }
}

impl ReplicaEnv {
    /// Replaces a file that has all records, but perhaps not all of LMDB's own data, by a new one with
    /// a copy of the records.
    pub(super) fn mend(&self, open: OpenEnv) -> Result<(), Error> {
        let lmdb = |error| Error::lmdb(self.dir(), error);
        let (aside, lock) = (self.dir().join("new"), self.dir().join("lock.mdb"));
        let new = aside.join("data.mdb");
        let err = |source| Error::Io { path: new.clone(), source };
        let _ = fs::remove_dir_all(&aside);
        fs::create_dir(&aside).map_err(err)?;
        create_file(&new, 0o640)?;
        // A file that root mends still belongs to the daemon.
        let owner = fs::metadata(self.data_path()).map_err(err)?;
        let _ = chown(&new, Some(owner.uid()), Some(owner.gid()));
        let size = open.env.info().map_size;
        let copy = lmdb::open(&aside, EnvFlags::empty(), size, 0).map_err(lmdb)?;
        let (from, mut to) = (open.env.read_txn().map_err(lmdb)?, copy.write_txn().map_err(lmdb)?);
        let records: Records = copy.create_database(&mut to, None).map_err(lmdb)?;
        for row in open.records.iter(&from).map_err(lmdb)? {
            let (key, value) = row.map_err(lmdb)?;
            records.put(&mut to, key, value).map_err(lmdb)?;
        }
        drop(from);
        to.commit().map_err(lmdb)?;
        drop((copy, open));
        // The table of readers counts the transactions of the replaced file.
        fs::remove_file(&lock).map_err(err)?;
        create_lock(self.dir(), &owner);
        fs::rename(&new, self.data_path()).map_err(err)?;
        fs::remove_dir_all(&aside).map_err(err)
    }
}
