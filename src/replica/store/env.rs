//! The one LMDB environment that a process has open of a directory.
//!
//! LMDB must not be opened twice in a process (its `fcntl` locks would be lost), so the daemon's
//! writer and all lists share a [`Store`], which opens it when it is first needed and anew
//! when it has been replaced.

#![expect(unsafe_code, reason = "opening and resizing a map have no safe form; this is the fence")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Instant;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, WithTls};

use super::value::{self, BadValue};
use crate::model::name::MailboxName;
use crate::os::map::Watch;
use crate::replica::ReplicaMeta;

/// The greatest size of the file at first; it takes addresses, not memory.
/// [`Store::make_room`] raises it.
pub(super) const MAP: usize = 1 << 30;

/// So many threads may be reading, of all processes together. They take 64 bytes each in `lock.mdb`.
const READERS: u32 = 4096;

/// So many milliseconds later it is looked again whether the file is still the one at its path.
const LOOK: u64 = 1000;

/// So many bytes may be missing at the end of a file whose writer was killed between its commit and
/// [`Open::fill_up`]. If there are more it may have been cut off, and is not read without a handler.
const UNFILLED: u64 = 1 << 18;

/// So often a read is tried that finds the environment unusable.
const ATTEMPTS: u32 = 3;

/// Why a replica cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refuses.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The directory, or the file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process follows the master into this directory.
    #[error("{path}: another murder-route follows the master into this directory", path = .0.display())]
    InUse(PathBuf),
    /// Something else stands in the place of a file.
    #[error(
        "{path}: not a regular file; recipients that only the replica knows are deferred; remove it, \
         and serve begins anew",
        path = .0.display()
    )]
    NoFile(PathBuf),
    /// The file has no bytes.
    #[error(
        "{path}: the file is empty; recipients that only the replica knows are deferred; start serve, \
         which fetches the list from the master",
        path = .0.display()
    )]
    Empty(PathBuf),
    /// What is there is a database, but of somebody else.
    #[error("{path}: data.mdb is another program's: name a directory of the replica's own", path = .0.display())]
    NotOurs(PathBuf),
    /// What is there is damaged.
    #[error(
        "{path}: the replica is damaged: {why}; move the directory away, or let serve begin anew",
        path = path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
    /// Another version of murder-route wrote it.
    #[error(
        "{path}: the replica was written as version {found}, and this murder-route reads version \
         {version}; use that release, or let serve of this one begin anew",
        path = path.display(), version = value::VERSION
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u8,
    },
    /// The file had to grow. It can now: the transaction may be tried again.
    #[error("{path}: the replica has outgrown its file, which has room again now: try again", path = .0.display())]
    Full(PathBuf),
    /// Somebody has removed the file or put another one in its place.
    #[error("{path}: the replica's file was removed or replaced", path = .0.display())]
    Replaced(PathBuf),
    /// A record that cannot be kept.
    #[error("{path}: {source}", path = path.display())]
    Value {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: BadValue,
    },
}

impl Error {
    /// Says where an error of LMDB was.
    pub(super) fn lmdb(dir: &Path, error: heed::Error) -> Self {
        let path = dir.to_owned();
        match error {
            heed::Error::Io(source) => Error::Io { path, source },
            heed::Error::Mdb(MdbError::MapFull) => Error::Full(path),
            heed::Error::EnvAlreadyOpened => Error::Replaced(path),
            heed::Error::Mdb(
                MdbError::Corrupted
                | MdbError::PageNotFound
                | MdbError::Invalid
                | MdbError::VersionMismatch
                | MdbError::Incompatible,
            ) => Error::Damaged { path, why: error.to_string() },
            error => Error::Io { path, source: io::Error::other(error.to_string()) },
        }
    }

    pub(super) fn value(dir: &Path, error: BadValue) -> Self {
        let path = dir.to_owned();
        match error {
            BadValue::Damaged => Error::Damaged { path, why: error.to_string() },
            BadValue::Version(found) => Error::Version { path, found },
            BadValue::TooLong => Error::Value { path, source: error },
        }
    }

    /// Whether what is stored can be of no use to this program any more.
    pub(super) fn is_beyond_use(&self) -> bool {
        matches!(self, Error::Damaged { .. } | Error::Version { .. })
    }
}

/// Keys and values are bytes; see [`value`].
pub(super) type Records = Database<Bytes, Bytes>;

/// What is open.
#[derive(Debug, Clone)]
pub(super) struct Open {
    /// Goes before the map does, which is why it stands first.
    watch: Arc<Watch>,
    pub(super) env: Env,
    pub(super) records: Records,
    /// Device and inode of `data.mdb`.
    file: (u64, u64),
    /// How long it has been; LMDB never makes it shorter.
    len: Arc<AtomicU64>,
    writable: bool,
}

impl Open {
    /// Makes the file as long as it should be. LMDB leaves off pages at its end that it has taken and
    /// given back in one transaction, and then nobody can tell that from a file that was cut off.
    pub(super) fn fill_up(&self) -> heed::Result<()> {
        let (file, needed) = (self.env.try_clone_inner_file()?, needed(&self.env));
        if file.metadata()?.len() < needed {
            file.set_len(needed)?;
        }
        Ok(())
    }

    /// Reads everything there is. Whether all of it is as it should be.
    fn is_whole(&self) -> heed::Result<bool> {
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

/// A directory, and its environment as far as that is open.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// Held for reading while a transaction reads; the map is moved or closed only without any.
    open: RwLock<Option<Open>>,
    started: Instant,
    /// Milliseconds since then at which it is time to look whether the file has been replaced.
    look_at: AtomicU64,
    /// A transaction has not found room.
    full: AtomicBool,
    /// A transaction has found what is there to be damaged.
    damaged: AtomicBool,
}

static STORES: Mutex<BTreeMap<PathBuf, Weak<Store>>> = Mutex::new(BTreeMap::new());

impl Store {
    /// The store of a directory, which need not be there.
    pub(super) fn of(dir: &Path) -> io::Result<Arc<Self>> {
        let dir = std::path::absolute(dir)?;
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&dir).and_then(Weak::upgrade) {
            return Ok(store);
        }
        stores.retain(|_, store| store.strong_count() > 0);
        let store = Arc::new(Self {
            dir: dir.clone(),
            open: RwLock::new(None),
            started: Instant::now(),
            look_at: AtomicU64::new(0),
            full: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        });
        stores.insert(dir, Arc::downgrade(&store));
        Ok(store)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data.mdb")
    }

    /// Opens it for writing, with these files and their modes made if they are missing. Nobody may
    /// have a transaction under way for writing.
    pub(super) fn open_to_write(&self, map: usize, create: bool) -> Result<Open, Error> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*open
            && open.writable
            && self.stands(open)
            && !open.watch.torn()
            // After a write to it has failed, an environment can only be closed.
            && open.env.read_txn().is_ok()
        {
            return Ok(open.clone());
        }
        // LMDB holds no more than one: what reads has to go first.
        *open = None;
        if create {
            create_file(&self.data(), 0o640)?;
        }
        let opened = self.open_env(map, true)?;
        Ok(open.insert(opened).clone())
    }

    fn open_env(&self, map: usize, writable: bool) -> Result<Open, Error> {
        let lmdb = |error| Error::lmdb(&self.dir, error);
        let data = self.data();
        let metadata = fs::metadata(&data).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => self.refused(heed::Error::Io(error)),
            _ => Error::Io { path: data, source: error },
        })?;
        self.make_lock(&metadata);
        self.check_files(&metadata, writable)?;
        let mut options = EnvOpenOptions::new();
        // 0: as it was written.
        options.map_size(if metadata.len() == 0 { map } else { 0 }).max_readers(READERS);
        // SAFETY: The map stays true to the file as long as nobody but LMDB changes it; that is what
        // its directory is for, and the module's page says what else comes of it. NO_META_SYNC leaves
        // the file whole at any time (see there). The environment is open once in this process: `open`
        // holds the only one of this directory, and heed refuses a second one. The new environment
        // has no transactions when it is resized.
        let env = unsafe {
            let flags = if writable { EnvFlags::NO_META_SYNC } else { EnvFlags::READ_ONLY };
            let env = options.flags(flags).open(&self.dir);
            let env = env.map_err(|error| self.refused(error))?;
            if env.info().map_size < map {
                env.resize(map).map_err(lmdb)?;
            }
            env
        };
        let _ = env.clear_stale_readers();
        let watch = Arc::new(Watch::new());
        watch.set(mapped(env.path()));
        let (len, needed) = (env.real_disk_size().map_err(lmdb)?, needed(&env));
        let cut_off = || {
            let why = format!("data.mdb has {len} bytes and should have {needed}");
            Error::Damaged { path: self.dir.clone(), why }
        };
        // Before anything is read: that could be what kills a process without a handler.
        if !watch.can_watch() && len.saturating_add(UNFILLED) < needed {
            return Err(cut_off());
        }
        let txn = env.read_txn().map_err(lmdb)?;
        let Some(records): Option<Records> = env.open_database(&txn, None).map_err(lmdb)? else {
            return Err(Error::NotOurs(self.dir.clone()));
        };
        let is_new = match records.get(&txn, value::ABOUT_KEY).map_err(lmdb)? {
            Some(about) => {
                value::about(about).map_err(|bad| Error::value(&self.dir, bad))?;
                false
            }
            None if records.is_empty(&txn).map_err(lmdb)? => true,
            None => return Err(Error::NotOurs(self.dir.clone())),
        };
        txn.commit().map_err(lmdb)?;
        if is_new && writable {
            let mut txn = env.write_txn().map_err(lmdb)?;
            let about = value::of_about(&ReplicaMeta::default());
            let about = about.map_err(|bad| Error::value(&self.dir, bad))?;
            records.put(&mut txn, value::ABOUT_KEY, &about).map_err(lmdb)?;
            txn.commit().map_err(lmdb)?;
        }
        let file = (metadata.dev(), metadata.ino());
        let open = Open { watch, env, records, file, len: Arc::new(len.into()), writable };
        if len >= needed {
            return Ok(open);
        }
        if !open.watch.can_watch() {
            if writable {
                open.fill_up().map_err(lmdb)?;
            }
            return Ok(open);
        }
        if !open.is_whole().unwrap_or(false) {
            return Err(cut_off());
        }
        if !writable {
            return Ok(open);
        }
        self.mend(open)?;
        self.open_env(map, true)
    }

    /// Makes the table of readers if it is missing, for the one whose the data is: LMDB would make it for
    /// this process' user only, and one that root has made by reading keeps the daemon out. Where that is not
    /// possible, LMDB says why.
    fn make_lock(&self, data: &fs::Metadata) {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o660);
        if let Ok(lock) = options.open(self.dir.join("lock.mdb")) {
            let _ = lock.set_permissions(fs::Permissions::from_mode(0o660));
            let _ = fchown(&lock, Some(data.uid()), Some(data.gid()));
        }
    }

    /// LMDB opens what stands there, and would wait for ever at a FIFO; of a file without a byte it says
    /// that it is invalid.
    fn check_files(&self, data: &fs::Metadata, writable: bool) -> Result<(), Error> {
        let lock = self.dir.join("lock.mdb");
        let is_file = |path: PathBuf, metadata: &fs::Metadata| match metadata.is_file() {
            true => Ok(()),
            false => Err(Error::NoFile(path)),
        };
        is_file(self.data(), data)?;
        match fs::metadata(&lock) {
            Ok(metadata) => is_file(lock, &metadata)?,
            // LMDB says why it cannot make it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { path: lock, source }),
        }
        match data.len() {
            0 if !writable => Err(Error::Empty(self.data())),
            _ => Ok(()),
        }
    }

    /// Replaces a file that has all records, but perhaps not all that LMDB keeps beside them, by one
    /// that the records are copied to.
    fn mend(&self, open: Open) -> Result<(), Error> {
        let lmdb = |error| Error::lmdb(&self.dir, error);
        let (aside, lock) = (self.dir.join("new"), self.dir.join("lock.mdb"));
        let new = aside.join("data.mdb");
        let err = |source| Error::Io { path: new.clone(), source };
        let _ = fs::remove_dir_all(&aside);
        fs::create_dir(&aside).map_err(err)?;
        create_file(&new, 0o640)?;
        // If it is root who mends it, it stays the daemon's.
        let owner = fs::metadata(self.data()).map_err(err)?;
        let _ = chown(&new, Some(owner.uid()), Some(owner.gid()));
        let mut options = EnvOpenOptions::new();
        options.map_size(open.env.info().map_size);
        // SAFETY: nobody else knows of this file.
        let copy = unsafe { options.open(&aside) }.map_err(lmdb)?;
        let (from, mut to) = (open.env.read_txn().map_err(lmdb)?, copy.write_txn().map_err(lmdb)?);
        let records: Records = copy.create_database(&mut to, None).map_err(lmdb)?;
        for row in open.records.iter(&from).map_err(lmdb)? {
            let (key, value) = row.map_err(lmdb)?;
            records.put(&mut to, key, value).map_err(lmdb)?;
        }
        drop(from);
        to.commit().map_err(lmdb)?;
        drop((copy, open));
        // The table of readers counts the transactions of the file that goes.
        fs::remove_file(&lock).map_err(err)?;
        self.make_lock(&owner);
        fs::rename(&new, self.data()).map_err(err)?;
        fs::remove_dir_all(&aside).map_err(err)
    }

    /// Why it could not be opened, in terms of what to do.
    fn refused(&self, error: heed::Error) -> Error {
        match error {
            heed::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let (path, who) = match fs::File::open(self.data()) {
                    Ok(_) => (self.dir.join("lock.mdb"), "be able to write to this file"),
                    Err(_) => (self.data(), "be able to read this file"),
                };
                let why = format!(
                    "whoever reads the replica must {who}: run it as the daemon's user or in its group"
                );
                Error::Io { path, source: io::Error::new(error.kind(), why) }
            }
            error => Error::lmdb(&self.dir, error),
        }
    }

    /// Whether the path still leads to the file that is open, and that has not been cut off.
    pub(super) fn stands(&self, open: &Open) -> bool {
        let Ok(now) = fs::metadata(self.data()) else { return false };
        (now.dev(), now.ino()) == open.file && open.len.fetch_max(now.len(), Relaxed) <= now.len()
    }

    /// Closes what is open, unless the writer has it open as well.
    pub(super) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Remembers what an error of the writer's transaction asks for.
    pub(super) fn failed(&self, error: Error) -> Error {
        match error {
            Error::Full(_) => self.full.store(true, Relaxed),
            Error::Damaged { .. } => self.damaged.store(true, Relaxed),
            _ => {}
        }
        error
    }

    /// Whether a transaction has found what is there to be damaged; not asked twice.
    pub(super) fn take_damaged(&self) -> bool {
        self.damaged.swap(false, Relaxed)
    }

    /// Lets the file grow if a transaction has not found room, or if the next one might not: it may
    /// write everything anew. Only the writer may call this, between two transactions.
    pub(super) fn make_room(&self) -> Result<(), Error> {
        let map = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let Some(open) = &*open else { return Err(Error::Replaced(self.dir.clone())) };
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

    /// Sets the greatest size of the file, or, if that is 0, takes the one that the writer has set in
    /// another process.
    fn resize(&self, map: usize) -> Result<(), Error> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let Some(now) = &*open else { return Ok(()) };
        now.watch.set(None);
        // SAFETY: no transaction of this process is under way. Those that read hold `open` for
        // reading. Where there is a writer, only that calls this, between its transactions: no other
        // process sets a greater size then, so no reader here has to follow it.
        let resized = unsafe { now.env.resize(map) };
        now.watch.set(mapped(now.env.path()));
        resized.map_err(|error| {
            // The old map is gone.
            *open = None;
            Error::lmdb(&self.dir, error)
        })
    }

    /// Calls `read` with a transaction of its own, which must be short: what it can see is kept in
    /// the file meanwhile. It may be called again after an error.
    pub(super) fn read<T>(
        &self,
        mut read: impl FnMut(&Open, &RoTxn<'_, WithTls>) -> heed::Result<T>,
    ) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            let open = self.opened()?;
            let Some(now) = &*open else { return Err(Error::Replaced(self.dir.clone())) };
            let read = now.env.read_txn().and_then(|txn| match now.watch.torn() {
                // LMDB would stop at a root that is none.
                true => Err(heed::Error::Mdb(MdbError::Corrupted)),
                false => read(now, &txn),
            });
            if now.watch.torn() {
                drop(open);
                self.close();
                return Err(self.torn());
            }
            let error = match read {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            drop(open);
            attempt += 1;
            match error {
                // The writer, in another process, has let the file grow.
                heed::Error::Mdb(MdbError::MapResized) if attempt < ATTEMPTS => self.resize(0)?,
                // A write that failed: only a new environment can be used.
                heed::Error::Mdb(MdbError::Panic) if attempt < ATTEMPTS => self.close(),
                error => return Err(Error::lmdb(&self.dir, error)),
            }
        }
    }

    /// That what was read may have been of pages that were not there.
    fn torn(&self) -> Error {
        let why = "somebody has cut data.mdb off while it was read".into();
        Error::Damaged { path: self.dir.clone(), why }
    }

    /// An error if what a transaction of the writer has read may have been of pages that were not
    /// there.
    pub(super) fn whole(&self, open: &Open) -> Result<(), Error> {
        if open.watch.torn() { Err(self.torn()) } else { Ok(()) }
    }

    /// What is open; opened if nothing is, and anew if it is not the file at the path any more.
    fn opened(&self) -> Result<RwLockReadGuard<'_, Option<Open>>, Error> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = &*open
            && (!self.is_time_to_look() || self.stands(now))
        {
            return Ok(open);
        }
        drop(open);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if !open.as_ref().is_some_and(|now| self.stands(now)) {
            *open = None;
            *open = Some(self.open_env(0, false)?);
        }
        drop(open);
        Ok(self.open.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next read looks whether the file is still the one at its path.
    pub(super) fn look_soon(&self) {
        self.look_at.store(0, Relaxed);
    }

    fn is_time_to_look(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = now >= self.look_at.load(Relaxed);
        if due {
            self.look_at.store(now.saturating_add(LOOK), Relaxed);
        }
        due
    }
}

/// How long the file should be, for LMDB to find all its pages.
fn needed(env: &Env) -> u64 {
    let pages = (env.info().last_page_number as u64).saturating_add(1);
    pages.saturating_mul(env.stat().page_size.into())
}

/// Where LMDB has mapped the data of a directory, which it does not tell: address and length.
fn mapped(dir: &Path) -> Option<(usize, usize)> {
    let maps = fs::read("/proc/self/maps").ok()?;
    // Paths need not be UTF-8, and the kernel escapes the end of a line (`show_map_vma`).
    let mut data = Vec::new();
    for byte in dir.join("data.mdb").as_os_str().as_bytes() {
        match byte {
            b'\n' => data.extend_from_slice(b"\\012"),
            byte => data.push(*byte),
        }
    }
    let ours = [b" ", &*data].concat();
    let mut lines = maps.split(|byte| *byte == b'\n');
    let line = lines
        .find(|line| line.ends_with(&ours) && memchr::memmem::find(line, b" r--s ").is_some())?;
    let range = line.split(|byte| *byte == b' ').next()?;
    let (begin, end) = std::str::from_utf8(range).ok()?.split_once('-')?;
    let [begin, end] = [begin, end].map(|address| usize::from_str_radix(address, 16).ok());
    Some((begin?, end?.checked_sub(begin?)?))
}

fn create_file(path: &Path, mode: u32) -> Result<(), Error> {
    let err = |source| Error::Io { path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        // Whatever the umask says: who may read is decided by the directory as well.
        Ok(file) => file.set_permissions(fs::Permissions::from_mode(mode)).map_err(err),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(err(error)),
    }
}
