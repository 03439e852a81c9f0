//! The two calls of LMDB that have no safe form, and facts about an environment.

#![expect(unsafe_code, reason = "opening and resizing a map have no safe form; this is the fence")]

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};

/// Maximum number of concurrent read transactions, of all processes together. Each takes 64 bytes in
/// `lock.mdb`.
const MAX_READERS: u32 = 4096;

/// Keys and values are bytes; see [`value`](super::value).
pub(super) type Records = Database<Bytes, Bytes>;

/// Opens an environment. `size` is the maximum size of its file, or 0: as it was written. `map` is the
/// least size of its map.
pub(super) fn open(dir: &Path, flags: EnvFlags, size: usize, map: usize) -> heed::Result<Env> {
    let mut options = EnvOpenOptions::new();
    options.map_size(size).max_readers(MAX_READERS);
    // SAFETY: The map equals the file as long as only LMDB changes it; its directory is for that alone,
    // and the page of the module `store` says what follows from a change by another program.
    // NO_META_SYNC leaves the file whole at any time (see there). The environment is open once in this
    // process: `ReplicaEnv` holds the only one of a directory, and heed refuses a second one. The new
    // environment has no transactions when it is resized.
    unsafe {
        let env = options.flags(flags).open(dir)?;
        if env.info().map_size < map {
            env.resize(map)?;
        }
        Ok(env)
    }
}

/// Sets the maximum size of the file; 0: as another process has set it.
///
/// # Safety
///
/// No transaction of this process may be under way in the environment.
pub(super) unsafe fn resize(env: &Env, map: usize) -> heed::Result<()> {
    // SAFETY: as the caller promises.
    unsafe { env.resize(map) }
}

/// Length that the file should have for LMDB to find all its pages.
pub(super) fn needed_length(env: &Env) -> u64 {
    let pages = (env.info().last_page_number as u64).saturating_add(1);
    pages.saturating_mul(env.stat().page_size.into())
}

/// Address and length of LMDB's map of the data in a directory. LMDB does not report them, so they are
/// read from `/proc/self/maps`.
pub(super) fn mapped_range(dir: &Path) -> Option<(usize, usize)> {
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
