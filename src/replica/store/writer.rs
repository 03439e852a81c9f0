//! The writer of a replica and its transactions.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use heed::RwTxn;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::env::{OpenEnv, ReplicaEnv};
use super::error::Error;
use super::growth::INITIAL_MAP;
use super::list::ReplicaList;
use super::notes::Notes;
use super::permissions::{WriterRole, explained};
use super::value::{self, BadValue};
use crate::model::mod_time::ModTime;
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::replica::writer_logic::CommittedMeta;
use crate::replica::{Fate, HeldBack, Mark, PutOutcome, ReplicaMeta, Swept, Transaction};

/// Maximum number of names that a sweep collects before it changes them.
const SWEEP_PIECE: usize = 4096;

/// Interval at which the places of killed readers are freed, in seconds.
const STALE_READERS_INTERVAL: u64 = 60;

/// A replica, open for writing by the process that follows the master. No other process can open it
/// for writing meanwhile.
///
/// An error leaves the last commit as it is. After [`Error::Full`] the transaction may be tried again;
/// after any other error, drop the writer and open it anew.
#[derive(Debug)]
pub struct ReplicaWriter {
    env: Arc<ReplicaEnv>,
    pub(super) open: OpenEnv,
    checked: Instant,
    _lock: Flock<File>,
}

impl ReplicaWriter {
    /// Opens the replica in a directory for writing; creates it if it is missing.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] if another process follows the master into it. [`Error::Damaged`] and
    /// [`Error::Version`] if the replica cannot be used: see [`Self::open_or_begin_anew`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_sized(dir, INITIAL_MAP)
    }

    /// Opens the replica in a directory for writing. If it cannot be used, or a transaction of this
    /// process has found damage, sets it aside as `data.mdb.set-aside` and begins with an empty
    /// replica. Then also returns why, for the log.
    pub fn open_or_begin_anew(dir: &Path) -> Result<(Self, Option<Error>), Error> {
        let why = match Self::open(dir) {
            Ok(place) if place.env.take_damaged() => {
                drop(place);
                let (path, why) = (dir.to_owned(), "a transaction has found a damaged page".into());
                Error::Damaged { path, why }
            }
            Ok(place) => return Ok((place, None)),
            Err(why) if why.is_beyond_use() => why,
            Err(error) => return Err(error),
        };
        let anew =
            Self::begin_anew(dir).map_err(|error| explained(dir, WriterRole::Follower, error));
        Ok((anew?, Some(why)))
    }

    /// Sets the replica aside as `data.mdb.set-aside` and begins with an empty one: every answer is
    /// temporary until the first full sync.
    fn begin_anew(dir: &Path) -> Result<Self, Error> {
        let (env, lock) = Self::prepare(dir)?;
        env.close();
        for name in ["data.mdb", "lock.mdb"] {
            let path = env.dir().join(name);
            let aside = env.dir().join(format!("{name}.set-aside"));
            match fs::rename(&path, aside) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed.map_err(|source| Error::Io { path, source })?,
            }
        }
        let open = env.open_to_write(INITIAL_MAP, true)?;
        Ok(Self::new(env, open, lock))
    }

    /// As [`Self::open`], with an initial maximum of `map` bytes for the file.
    pub(super) fn open_sized(dir: &Path, map: usize) -> Result<Self, Error> {
        let open = || {
            let (env, lock) = Self::prepare(dir)?;
            let open = env.open_to_write(map, true)?;
            Ok(Self::new(env, open, lock))
        };
        open().map_err(|error| explained(dir, WriterRole::Follower, error))
    }

    fn new(env: Arc<ReplicaEnv>, open: OpenEnv, lock: Flock<File>) -> Self {
        Self { env, open, checked: Instant::now(), _lock: lock }
    }

    fn prepare(dir: &Path) -> Result<(Arc<ReplicaEnv>, Flock<File>), Error> {
        let err = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(err(dir))?;
        }
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        // A FIFO in its place is not waited for.
        options.write(true).create(true).truncate(false).mode(0o640).custom_flags(libc::O_NONBLOCK);
        let file = options.open(&path).map_err(err(&path))?;
        if !file.metadata().map_err(err(&path))?.is_file() {
            return Err(Error::NotRegular(path));
        }
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(Error::InUse(dir.to_owned())),
            Err((_, errno)) => return Err(err(&path)(errno.into())),
        };
        Ok((ReplicaEnv::of(dir).map_err(err(dir))?, lock))
    }

    /// The replica, for reading.
    pub fn list(&self) -> ReplicaList {
        ReplicaList::of(Arc::clone(&self.env))
    }

    /// Returns the metadata and the number of names, in a short read that does not wait for
    /// [`accept`].
    pub fn about(&self) -> Result<(ReplicaMeta, u64), Error> {
        self.list().about()
    }

    /// Begins a transaction. Waits for one of [`accept`].
    ///
    /// # Errors
    ///
    /// [`Error::Replaced`] if the file is no longer at its path: drop the writer and open it anew.
    pub fn begin(&mut self) -> Result<WriteTxn<'_>, Error> {
        if !self.env.is_current(&self.open) {
            return Err(Error::Replaced(self.env.dir().to_owned()));
        }
        if self.checked.elapsed().as_secs() >= STALE_READERS_INTERVAL {
            let _ = self.open.env.clear_stale_readers();
            self.checked = Instant::now();
        }
        self.env.make_room()?;
        WriteTxn::begin(&self.env, &self.open)
    }
}

impl CommittedMeta for ReplicaWriter {
    type Error = Error;

    fn committed_meta(&self) -> Result<ReplicaMeta, Error> {
        Ok(self.about()?.0)
    }
}

/// A transaction of a [`ReplicaWriter`]. Dropped, it leaves nothing behind.
pub struct WriteTxn<'p> {
    env: &'p ReplicaEnv,
    open: &'p OpenEnv,
    txn: RwTxn<'p>,
    value: Vec<u8>,
    /// Change of the number of missing names.
    missing: i64,
    notes: Notes,
}

impl<'p> WriteTxn<'p> {
    fn begin(env: &'p ReplicaEnv, open: &'p OpenEnv) -> Result<Self, Error> {
        let txn = open.env.write_txn().map_err(|error| Error::lmdb(env.dir(), error))?;
        env.check_torn(open)?;
        let notes = Notes::new(env.dir().join("names"));
        Ok(Self { env, open, txn, value: Vec::new(), missing: 0, notes })
    }

    /// Makes the changes visible. They survive the end of the process; the module says what a power
    /// failure can undo.
    pub fn commit(mut self) -> Result<(), Error> {
        if self.missing != 0 {
            // Stores their number.
            let about = self.about()?;
            self.set_about(&about)?;
        }
        let Self { env, open, txn, .. } = self;
        env.check_torn(open)?;
        txn.commit()
            .and_then(|()| open.fill_up())
            .map_err(|error| env.failed(Error::lmdb(env.dir(), error)))
    }

    /// Commits, and waits until no power failure can undo it. For full syncs.
    pub fn commit_to_disk(self) -> Result<(), Error> {
        let (env, open) = (self.env, self.open);
        self.commit()?;
        open.env.force_sync().map_err(|error| Error::lmdb(env.dir(), error))
    }

    fn bad(&self, bad: BadValue) -> Error {
        self.env.failed(Error::value(self.env.dir(), bad))
    }

    fn err(&self) -> impl Fn(heed::Error) -> Error + use<'p> {
        let env = self.env;
        move |error| env.failed(Error::lmdb(env.dir(), error))
    }
}

impl Transaction for WriteTxn<'_> {
    type Error = Error;

    fn get(&self, name: &MailboxName) -> Result<Option<Record>, Error> {
        let value = self.open.records.get(&self.txn, name.as_bytes()).map_err(self.err())?;
        let value = value.filter(|value| !value::is_missing(value));
        value.map(value::record).transpose().map_err(|bad| self.bad(bad))
    }

    fn put(
        &mut self,
        name: &MailboxName,
        record: &Record,
        changed: ModTime,
    ) -> Result<PutOutcome, Error> {
        let err = self.err();
        self.value.clear();
        value::push_record(record, changed, &mut self.value).map_err(|bad| self.bad(bad))?;
        let (records, name) = (&self.open.records, name.as_bytes());
        // Descends the tree once for a name that is new or unchanged.
        match records.get_or_put(&mut self.txn, name, &self.value).map_err(&err)? {
            None => Ok(PutOutcome::New),
            Some(value) if value::is_same_record(value, &self.value) => Ok(PutOutcome::Same),
            Some(value) => {
                let put = match value::is_missing(value) {
                    true => PutOutcome::Back,
                    false => PutOutcome::Changed,
                };
                records.put(&mut self.txn, name, &self.value).map_err(err)?;
                self.missing -= i64::from(put == PutOutcome::Back);
                Ok(put)
            }
        }
    }

    fn delete(&mut self, name: &MailboxName) -> Result<bool, Error> {
        let err = self.err();
        let (records, name) = (&self.open.records, name.as_bytes());
        let value = records.get(&self.txn, name).map_err(&err)?;
        let (is_there, missing) = (value.is_some(), value.is_some_and(value::is_missing));
        if is_there {
            records.delete(&mut self.txn, name).map_err(err)?;
        }
        self.missing -= i64::from(missing);
        Ok(is_there && !missing)
    }

    fn sweep(
        &mut self,
        mark: &Mark,
        judge: &mut dyn FnMut(&[u8], Option<&Mark>) -> Fate,
    ) -> Result<Swept, Error> {
        use std::ops::Bound::{Excluded, Unbounded};
        let err = self.err();
        let mut last = value::ABOUT_KEY.to_vec();
        let mut swept = Swept::default();
        loop {
            let mut names: Vec<(Vec<u8>, bool, Fate)> = Vec::new();
            let range = (Excluded(&*last), Unbounded);
            for row in self.open.records.range(&self.txn, &range).map_err(&err)? {
                let (key, value) = row.map_err(&err)?;
                let missing = value::mark(value).map_err(|bad| self.bad(bad))?;
                let fate = judge(key, missing.as_ref());
                if fate == Fate::Remove || (fate == Fate::Miss && missing.is_none()) {
                    names.push((key.to_vec(), missing.is_some(), fate));
                    if names.len() == SWEEP_PIECE {
                        break;
                    }
                }
            }
            for (name, missing, fate) in &names {
                if *fate == Fate::Miss {
                    swept.missed += u64::from(self.miss_key(name, mark)?);
                } else {
                    self.open.records.delete(&mut self.txn, name).map_err(&err)?;
                    self.missing -= i64::from(*missing);
                    swept.removed += 1;
                }
            }
            match names.pop() {
                Some((name, ..)) if names.len() + 1 == SWEEP_PIECE => last = name,
                _ => return Ok(swept),
            }
        }
    }

    fn names(&self) -> Result<u64, Error> {
        let all = self.open.records.len(&self.txn).map_err(self.err())?;
        // Less the metadata, which are always there.
        Ok(all.saturating_sub(1).saturating_sub(self.about()?.missing))
    }

    fn about(&self) -> Result<ReplicaMeta, Error> {
        let mut about = self.stored_about()?;
        about.missing = about.missing.saturating_add_signed(self.missing);
        Ok(about)
    }

    fn set_about(&mut self, about: &ReplicaMeta) -> Result<(), Error> {
        let err = self.err();
        let missing = self.about()?.missing;
        let about = ReplicaMeta { missing, ..about.clone() };
        let value = value::of_about(&about).map_err(|bad| self.bad(bad))?;
        self.open.records.put(&mut self.txn, value::ABOUT_KEY, &value).map_err(err)?;
        self.missing = 0;
        Ok(())
    }

    fn note(&mut self, number: u64) -> Result<(), Error> {
        self.notes.push(number)
    }

    fn noted(&mut self) -> Result<Vec<u64>, Error> {
        self.notes.take()
    }
}

impl WriteTxn<'_> {
    fn stored_about(&self) -> Result<ReplicaMeta, Error> {
        match self.open.records.get(&self.txn, value::ABOUT_KEY).map_err(self.err())? {
            Some(about) => value::about(about).map_err(|bad| self.bad(bad)),
            None => Ok(ReplicaMeta::default()),
        }
    }

    fn miss_key(&mut self, name: &[u8], mark: &Mark) -> Result<bool, Error> {
        let err = self.err();
        let records = &self.open.records;
        let value = records.get(&self.txn, name).map_err(&err)?;
        let Some(last) = value.filter(|value| !value::is_missing(value)) else { return Ok(false) };
        self.value.clear();
        let pushed = value::push_missing(mark, last, &mut self.value);
        pushed.map_err(|bad| self.bad(bad))?;
        records.put(&mut self.txn, name, &self.value).map_err(err)?;
        self.missing += 1;
        Ok(true)
    }
}

/// Result of [`accept`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The loss that was held back.
    pub held_back: Option<HeldBack>,
    /// Number of missing names that were removed.
    pub missing: u64,
}

/// Accepts losses: missing names are removed. If a full sync is held back, the process that follows the
/// master requests the next one as soon as it sees the acceptance, and applies it. Waits during a full
/// sync.
///
/// Works beside a running daemon and without one. Needs the right to write to the files.
pub fn accept(dir: &Path) -> Result<Accepted, Error> {
    let env = ReplicaEnv::of(dir).map_err(|source| Error::Io { path: dir.to_owned(), source })?;
    let open = env.open_to_write(0, false);
    let open = open.map_err(|error| explained(env.dir(), WriterRole::Guest, error))?;
    let mut change = WriteTxn::begin(&env, &open)?;
    let mut missing = 0;
    if change.about()?.missing > 0 {
        let mut judge = |_: &[u8], mark: Option<&Mark>| match mark {
            Some(_) => Fate::Remove,
            None => Fate::Keep,
        };
        missing = change.sweep(&Mark::default(), &mut judge)?.removed;
    }
    let mut about = change.about()?;
    if let Some(held_back) = &mut about.held_back {
        held_back.accepted = true;
    }
    let accepted = Accepted { held_back: about.held_back.clone(), missing };
    if accepted != Accepted::default() {
        about.oldest = None;
        change.set_about(&about)?;
        change.commit_to_disk()?;
    }
    Ok(accepted)
}
