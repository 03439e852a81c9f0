//! The replica as a [`MailboxList`].

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::env::{Error, Open, Store};
use super::value::{self, BadValue, Row};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::replica::read::walk::{KeyedRow, PIECE, walk};
use crate::replica::{ReplicaDoubt, ReplicaMeta, generation};

/// A replica, read in place, in the process that writes it or in any other.
///
/// It is opened when it is first asked, and need not be there before. Any number of threads look up
/// at once, none waits for the writer, and each lookup sees the last commit. What it says of a miss
/// is what is stored, however old: [`Lookup::Absent`] is to be confirmed by who knows how fresh it
/// is ([`ReplicaState`](crate::replica::ReplicaState)) and by the master. A replica that has never been
/// synchronised is [`Lookup::Unsure`] of every name, as is one that cannot be read.
#[derive(Debug, Clone)]
pub struct ReplicaList {
    store: Arc<Store>,
}

/// What one look into the store says.
enum Found {
    Row(Result<Row, BadValue>),
    Absent,
    Never,
    Bad(BadValue),
    Replaced,
}

impl ReplicaList {
    /// The replica in a directory. An error only if the path is empty, or relative and the current
    /// directory gone.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self { store: Store::of(dir)? })
    }

    pub(super) fn of(store: Arc<Store>) -> Self {
        Self { store }
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        self.store.dir()
    }

    /// What is known of it as a whole, and how many names it has.
    pub fn about(&self) -> Result<(ReplicaMeta, u64), Error> {
        let read = self.store.read(|open, txn| {
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

    /// The names that begin with `prefix` and come after the key `last`, and their values: a piece of them.
    fn piece(&self, prefix: &[u8], last: Option<&[u8]>) -> Result<Vec<KeyedRow>, Error> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        // LMDB has no empty key; `ABOUT_KEY` comes before all names.
        let from = match last {
            Some(last) => Excluded(last),
            None if prefix.is_empty() => Excluded(value::ABOUT_KEY),
            None => Included(prefix),
        };
        self.store.read(|open, txn| {
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

    fn look(&self, open: &Open, txn: &heed::RoTxn<'_>, name: &MailboxName) -> heed::Result<Found> {
        if let Some(value) = open.records.get(txn, name.as_bytes())? {
            return Ok(Found::Row(value::row(value)));
        }
        let Some(about) = open.records.get(txn, value::ABOUT_KEY)? else { return Ok(Found::Never) };
        Ok(match value::synchronised_release(about) {
            Err(bad) => Found::Bad(bad),
            Ok((false, _)) => Found::Never,
            Ok((true, _)) if !self.store.stands(open) => Found::Replaced,
            Ok((true, _)) => Found::Absent,
        })
    }
}

impl MailboxList for ReplicaList {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lookup_dated(name).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let mut found = self.store.read(|open, txn| self.look(open, txn, name));
        if matches!(found, Ok(Found::Replaced)) {
            self.store.look_soon();
            found = self.store.read(|open, txn| self.look(open, txn, name));
        }
        let why = match found {
            Ok(Found::Row(Ok(Row::Record(record, changed)))) => {
                return (Lookup::Present(record), changed.is_lately(SystemTime::now));
            }
            Ok(Found::Row(Ok(Row::Missing(missing)))) => missing.doubt(name),
            Ok(Found::Absent) => return (Lookup::Absent, false),
            Ok(Found::Never) => {
                let dir = self.dir().display();
                format!("{dir}: {}", ReplicaDoubt::NeverSynchronised)
            }
            Ok(Found::Row(Err(bad))) => {
                let dir = self.dir().display();
                format!("{dir}: the replica's record of {name}: {bad}")
            }
            Ok(Found::Bad(bad)) => Error::value(self.dir(), bad).to_string(),
            Ok(Found::Replaced) => Error::Replaced(self.dir().to_owned()).to_string(),
            Err(error) => error.to_string(),
        };
        (Lookup::Unsure(why), false)
    }

    /// As the release of the master is whose list it is.
    fn key_generation(&self) -> Option<KeyGeneration> {
        let read = self.store.read(|open, txn| {
            let about = open.records.get(txn, value::ABOUT_KEY)?;
            let read = about.and_then(|about| value::synchronised_release(about).ok());
            Ok(read.and_then(|(_, release)| generation(release)))
        });
        read.ok().flatten()
    }

    /// In pieces: what the writer commits meanwhile may be seen or not. No transaction is under way
    /// while `visit` runs. A missing name is visited as a reserved one.
    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), String> {
        self.each_past(prefix, &mut |name, record| visit(name, record).into())
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), String> {
        let (about, _) = self.about().map_err(|error| error.to_string())?;
        if about.synchronised.is_none() {
            let dir = self.dir().display();
            return Err(format!("{dir}: {}", ReplicaDoubt::NeverSynchronised));
        }
        let piece = |last: Option<&[u8]>| self.piece(prefix, last).map_err(|e| e.to_string());
        walk(self.dir(), piece, visit)
    }
}
