//! The replica as a [`MailboxList`], read through LMDB.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::env::{OpenEnv, ReplicaEnv};
use super::error::Error;
use super::value::{self, BadValue, Row};
use crate::model::doubt::{Doubt, DoubtKind, Doubtful};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::replica::read::walk::{KeyedRow, PIECE, walk};
use crate::replica::{ReplicaDoubt, ReplicaMeta, generation};

/// A replica, read in place, in the process that writes it or in any other.
///
/// It is opened by the first lookup, and need not exist before. Any number of threads look up at once
/// without waiting for the writer; each lookup sees the last commit. A miss says what is stored,
/// however old: [`Lookup::Absent`] is confirmed by [`ReplicaState`](crate::replica::ReplicaState), which
/// knows how fresh the replica is, and by the master. In a replica that was never synchronised, or
/// cannot be read, every name is [`Lookup::Unsure`].
#[derive(Debug, Clone)]
pub struct ReplicaList {
    env: Arc<ReplicaEnv>,
}

/// Result of one transaction for a name.
enum StoredRow {
    Row(Result<Row, BadValue>),
    Absent,
    NeverSynchronised,
    BadMeta(BadValue),
    /// Absent from a file that is no longer at its path.
    Replaced,
}

impl ReplicaList {
    /// The replica in a directory.
    ///
    /// # Errors
    ///
    /// If the path is empty, or relative to a current directory that is gone.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self { env: ReplicaEnv::of(dir)? })
    }

    pub(super) fn of(env: Arc<ReplicaEnv>) -> Self {
        Self { env }
    }

    #[cfg(test)]
    pub(super) fn env(&self) -> &ReplicaEnv {
        &self.env
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.env.dir()
    }

    /// Returns the metadata and the number of names.
    ///
    /// # Errors
    ///
    /// If the replica cannot be read.
    pub fn about(&self) -> Result<(ReplicaMeta, u64), Error> {
        let read = self.env.read(|open, txn| {
            let names = open.records.len(txn)?;
            Ok((open.records.get(txn, value::ABOUT_KEY)?.map(value::about), names))
        })?;
        match read {
            (Some(about), names) => {
                let about = about.map_err(|bad| Error::value(self.dir(), bad))?;
                let names = names.saturating_sub(1).saturating_sub(about.missing);
                Ok((about, names))
            }
            (None, _) => Ok((ReplicaMeta::default(), 0)),
        }
    }

    /// Reads a piece of the names that begin with `prefix` and come after the key `last`.
    fn piece(&self, prefix: &[u8], last: Option<&[u8]>) -> Result<Vec<KeyedRow>, Error> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        // LMDB has no empty key; `ABOUT_KEY` comes before all names.
        let from = match last {
            Some(last) => Excluded(last),
            None if prefix.is_empty() => Excluded(value::ABOUT_KEY),
            None => Included(prefix),
        };
        self.env.read(|open, txn| {
            let mut rows = Vec::new();
            for row in open.records.range(txn, &(from, Unbounded))? {
                let (key, value) = row?;
                if !key.starts_with(prefix) || rows.len() == PIECE {
                    break;
                }
                rows.push((key.to_vec(), value::row(value)));
            }
            Ok(rows)
        })
    }

    fn stored_row(
        &self,
        open: &OpenEnv,
        txn: &heed::RoTxn<'_>,
        name: &MailboxName,
    ) -> heed::Result<StoredRow> {
        if let Some(value) = open.records.get(txn, name.as_bytes())? {
            return Ok(StoredRow::Row(value::row(value)));
        }
        let Some(about) = open.records.get(txn, value::ABOUT_KEY)? else {
            return Ok(StoredRow::NeverSynchronised);
        };
        Ok(match value::synchronised_release(about) {
            Err(bad) => StoredRow::BadMeta(bad),
            Ok((false, _)) => StoredRow::NeverSynchronised,
            Ok((true, _)) if !self.env.is_current(open) => StoredRow::Replaced,
            Ok((true, _)) => StoredRow::Absent,
        })
    }
}

impl ReplicaList {
    fn never_synchronised(&self) -> Doubt {
        let text = format_args!("{}: {}", self.dir().display(), ReplicaDoubt::NeverSynchronised);
        Doubt::new(DoubtKind::NeverSynchronised, text)
    }
}

impl MailboxList for ReplicaList {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lookup_dated(name).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let mut found = self.env.read(|open, txn| self.stored_row(open, txn, name));
        if matches!(found, Ok(StoredRow::Replaced)) {
            self.env.check_soon();
            found = self.env.read(|open, txn| self.stored_row(open, txn, name));
        }
        let dir = self.dir().display();
        let doubt = match found {
            Ok(StoredRow::Row(Ok(Row::Record(record, changed)))) => {
                return (Lookup::Present(record), changed.is_lately(SystemTime::now));
            }
            Ok(StoredRow::Row(Ok(Row::Missing(missing)))) => missing.doubt(name),
            Ok(StoredRow::Absent) => return (Lookup::Absent, false),
            Ok(StoredRow::NeverSynchronised) => self.never_synchronised(),
            Ok(StoredRow::Row(Err(bad))) => {
                Doubt::new(bad.doubt_kind(), format_args!("{dir}: record of {name}: {bad}"))
            }
            Ok(StoredRow::BadMeta(bad)) => Error::value(self.dir(), bad).into(),
            Ok(StoredRow::Replaced) => Error::Replaced(self.dir().to_owned()).into(),
            Err(error) => error.into(),
        };
        (Lookup::Unsure(doubt), false)
    }

    /// By the release of the master.
    fn key_generation(&self) -> Option<KeyGeneration> {
        let read = self.env.read(|open, txn| {
            let about = open.records.get(txn, value::ABOUT_KEY)?;
            let read = about.and_then(|about| value::synchronised_release(about).ok());
            Ok(read.and_then(|(_, release)| generation(release)))
        });
        read.ok().flatten()
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        self.each_past(prefix, &mut |name, record| visit(name, record).into())
    }

    /// Walks in pieces, without a transaction while `visit` runs.
    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), Doubt> {
        let (about, _) = self.about()?;
        if about.synchronised.is_none() {
            return Err(self.never_synchronised());
        }
        let piece = |last: Option<&[u8]>| self.piece(prefix, last).map_err(Doubt::from);
        walk(self.dir(), piece, visit)
    }
}
