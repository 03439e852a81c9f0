//! The LMDB environment of a directory, shared by all that use it in a process.
//!
//! LMDB must not be opened twice in a process (its `fcntl` locks would be lost). So the daemon's writer
//! and all lists share a [`ReplicaEnv`], which opens the environment when it is first needed, and anew
//! when its file has been replaced.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Instant;

use heed::{Env, EnvFlags, MdbError, RoTxn, WithTls};

use super::error::Error;
use super::lmdb::{self, Records, mapped_range, needed_length};
use super::permissions::{check_files, create_file, create_lock, refused};
use super::value;
use crate::os::file_id::FileId;
use crate::os::map::Watch;
use crate::replica::ReplicaMeta;

/// Milliseconds between two checks whether the file is still the one at its path.
const CHECK_INTERVAL: u64 = 1000;

/// Maximum number of bytes that may be missing at the end of a file whose writer was killed between its
/// commit and [`OpenEnv::fill_up`]. If more are missing, the file may have been truncated, and is not
/// read without a handler for SIGBUS.
const MAX_UNFILLED: u64 = 1 << 18;

/// Maximum number of attempts to read while the environment is unusable.
const MAX_ATTEMPTS: u32 = 3;

/// An open environment.
#[derive(Debug, Clone)]
pub(super) struct OpenEnv {
    /// First, so that it is dropped before the map.
    pub(super) watch: Arc<Watch>,
    pub(super) env: Env,
    pub(super) records: Records,
    /// Identity of `data.mdb`.
    file: FileId,
    /// Greatest length seen; LMDB never shortens the file.
    len: Arc<AtomicU64>,
    writable: bool,
}

/// A directory with its environment, if that is open.
#[derive(Debug)]
pub(super) struct ReplicaEnv {
    dir: PathBuf,
    /// Locked for reading while a transaction reads, so that the map is moved or closed only without
    /// any.
    pub(super) open: RwLock<Option<OpenEnv>>,
    started: Instant,
    /// Milliseconds since `started` at which the next check of the file is due.
    check_at: AtomicU64,
    /// A transaction has found no room.
    pub(super) full: AtomicBool,
    /// A transaction has found damage.
    damaged: AtomicBool,
}

static ENVS: Mutex<BTreeMap<PathBuf, Weak<ReplicaEnv>>> = Mutex::new(BTreeMap::new());

impl ReplicaEnv {
    /// The environment of a directory, which need not exist.
    pub(super) fn of(dir: &Path) -> io::Result<Arc<Self>> {
        let dir = std::path::absolute(dir)?;
        let mut envs = ENVS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(env) = envs.get(&dir).and_then(Weak::upgrade) {
            return Ok(env);
        }
        envs.retain(|_, env| env.strong_count() > 0);
        let env = Arc::new(Self {
            dir: dir.clone(),
            open: RwLock::new(None),
            started: Instant::now(),
            check_at: AtomicU64::new(0),
            full: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        });
        envs.insert(dir, Arc::downgrade(&env));
        Ok(env)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of the records.
    pub(super) fn data_path(&self) -> PathBuf {
        self.dir.join("data.mdb")
    }

    /// Opens the environment for writing; `create`: creates the file if it is missing. No write
    /// transaction may be under way.
    pub(super) fn open_to_write(&self, map: usize, create: bool) -> Result<OpenEnv, Error> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*open
            && open.writable
            && self.is_current(open)
            && !open.watch.torn()
            // After a write to it has failed, an environment can only be closed.
            && open.env.read_txn().is_ok()
        {
            return Ok(open.clone());
        }
        // LMDB allows one: what is open for reading is closed first.
        *open = None;
        if create {
            create_file(&self.data_path(), 0o640)?;
        }
        let opened = self.open_env(map, true)?;
        Ok(open.insert(opened).clone())
    }

    fn open_env(&self, map: usize, writable: bool) -> Result<OpenEnv, Error> {
        let lmdb = |error| Error::lmdb(&self.dir, error);
        let data = self.data_path();
        let metadata = fs::metadata(&data).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => refused(&self.dir, heed::Error::Io(error)),
            _ => Error::Io { path: data, source: error },
        })?;
        create_lock(&self.dir, &metadata);
        check_files(&self.dir, &metadata, writable)?;
        let flags = if writable { EnvFlags::NO_META_SYNC } else { EnvFlags::READ_ONLY };
        let size = if metadata.len() == 0 { map } else { 0 };
        let env = lmdb::open(&self.dir, flags, size, map).map_err(|e| refused(&self.dir, e))?;
        let _ = env.clear_stale_readers();
        let watch = Arc::new(Watch::new());
        watch.set(mapped_range(env.path()));
        let (len, needed) = (env.real_disk_size().map_err(lmdb)?, needed_length(&env));
        let cut_off = || {
            let why = format!("data.mdb has {len} bytes and should have {needed}");
            Error::Damaged { path: self.dir.clone(), why }
        };
        // Before anything is read: a read behind the end kills a process without a handler.
        if !watch.can_watch() && len.saturating_add(MAX_UNFILLED) < needed {
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
        let file = FileId::of(&metadata);
        let open = OpenEnv { watch, env, records, file, len: Arc::new(len.into()), writable };
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

    /// Whether the open file is still at its path, and was not truncated.
    pub(super) fn is_current(&self, open: &OpenEnv) -> bool {
        let Ok(now) = fs::metadata(self.data_path()) else { return false };
        FileId::of(&now) == open.file && open.len.fetch_max(now.len(), Relaxed) <= now.len()
    }

    /// Closes the environment, unless the writer has it open as well.
    pub(super) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Records what an error of a write transaction calls for.
    pub(super) fn failed(&self, error: Error) -> Error {
        match error {
            Error::Full(_) => self.full.store(true, Relaxed),
            Error::Damaged { .. } => self.damaged.store(true, Relaxed),
            _ => {}
        }
        error
    }

    /// Returns whether a transaction has found damage, and clears that.
    pub(super) fn take_damaged(&self) -> bool {
        self.damaged.swap(false, Relaxed)
    }

    /// Calls `read` with a read transaction, which must be short: the file keeps all pages that it can
    /// see. It may be called again after an error.
    pub(super) fn read<T>(
        &self,
        mut read: impl FnMut(&OpenEnv, &RoTxn<'_, WithTls>) -> heed::Result<T>,
    ) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            let open = self.opened()?;
            let Some(now) = &*open else { return Err(Error::Replaced(self.dir.clone())) };
            let read = now.env.read_txn().and_then(|txn| match now.watch.torn() {
                // LMDB would stop at a root that is zeros.
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
                // The writer, in another process, has raised the maximum size.
                heed::Error::Mdb(MdbError::MapResized) if attempt < MAX_ATTEMPTS => {
                    self.resize(0)?
                }
                // A write failed: only a new environment can be used.
                heed::Error::Mdb(MdbError::Panic) if attempt < MAX_ATTEMPTS => self.close(),
                error => return Err(Error::lmdb(&self.dir, error)),
            }
        }
    }

    /// The error of a read that may have touched pages that were not there.
    fn torn(&self) -> Error {
        let why = "data.mdb was truncated while it was read".into();
        Error::Damaged { path: self.dir.clone(), why }
    }

    /// Fails if a write transaction may have read pages that were not there.
    pub(super) fn check_torn(&self, open: &OpenEnv) -> Result<(), Error> {
        if open.watch.torn() { Err(self.torn()) } else { Ok(()) }
    }

    /// The environment; opened if it is not, and anew if its file is no longer the one at the path.
    fn opened(&self) -> Result<RwLockReadGuard<'_, Option<OpenEnv>>, Error> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = &*open
            && (!self.is_check_due() || self.is_current(now))
        {
            return Ok(open);
        }
        drop(open);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if !open.as_ref().is_some_and(|now| self.is_current(now)) {
            *open = None;
            *open = Some(self.open_env(0, false)?);
        }
        drop(open);
        Ok(self.open.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the next read check whether the file is still the one at its path.
    pub(super) fn check_soon(&self) {
        self.check_at.store(0, Relaxed);
    }

    fn is_check_due(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = now >= self.check_at.load(Relaxed);
        if due {
            self.check_at.store(now.saturating_add(CHECK_INTERVAL), Relaxed);
        }
        due
    }
}
