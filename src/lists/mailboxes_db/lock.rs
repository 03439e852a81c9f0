//! The shared lock on a mailbox list.
//!
//! Cyrus' writers hold `F_WRLCK` on the whole file (twoskip, skiplist; `lib/lock_fcntl.c`) or on
//! two ranges of it (twom) for the length of a transaction. Ours are locks of the open file
//! description (Linux 3.15): they conflict with those both ways, need no more than `O_RDONLY`, and
//! unlike classic ones they are not lost when another part of the process closes the file, which
//! matters in a library.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

thread_local! {
    /// Time at which this thread stops waiting for locks.
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Ends all waits for locks within `look` at this time, even if several lists wait one after the other. A
/// free lock is taken even after it.
pub(crate) fn until<T>(deadline: Instant, look: impl FnOnce() -> T) -> T {
    /// Restores the previous deadline, even after a panic.
    struct Before(Option<Instant>);
    impl Drop for Before {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
        }
    }
    let _before = Before(DEADLINE.replace(Some(deadline)));
    look()
}

/// Returns the part of this timeout for locks that the [deadline](until) of this thread leaves.
pub(crate) fn left_of(limit: Duration) -> Duration {
    match DEADLINE.get() {
        Some(deadline) => limit.min(deadline.saturating_duration_since(Instant::now())),
        None => limit,
    }
}

/// Ranges of a file that Cyrus locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// twoskip, skiplist.
    WholeFile,
    /// twom: locks the gate (the magic), then the data (the dummy record), then unlocks the gate
    /// (`lib/twom.c`, `read_lock`).
    Twom,
}

/// A shared lock, held until dropped. Its file must have been opened for this lock alone.
#[derive(Debug)]
pub(crate) struct SharedLock<'f> {
    file: &'f File,
}

impl<'f> SharedLock<'f> {
    /// Takes the lock; `None`: a writer kept it until the timeout. A timeout of zero tries once.
    pub(crate) fn take(
        file: &'f File,
        ranges: Ranges,
        limit: Duration,
    ) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + limit;
        let lock = Self { file };
        let taken = match ranges {
            Ranges::WholeFile => poll(file, 0, 0, deadline)?,
            Ranges::Twom => {
                let gate = poll(file, 0, 16, deadline)?;
                let data = gate && poll(file, 96, 272, deadline)?;
                set(file, libc::F_UNLCK, 0, 16)?;
                data
            }
        };
        // If it was not taken, dropping releases the part that may be locked.
        Ok(taken.then_some(lock))
    }
}

impl Drop for SharedLock<'_> {
    fn drop(&mut self) {
        // A failure is harmless: closing the file releases the lock as well.
        let _ = set(self.file, libc::F_UNLCK, 0, 0);
    }
}

/// Tries until the deadline: the kernel's own wait for a lock has no timeout.
fn poll(file: &File, start: i64, len: i64, deadline: Instant) -> io::Result<bool> {
    let mut pause = Duration::from_micros(100);
    loop {
        match set(file, libc::F_RDLCK, start, len) {
            Ok(()) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Ok(false);
        }
        thread::sleep(pause.min(rest));
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn set(file: &File, kind: i32, start: i64, len: i64) -> Result<(), Errno> {
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop)
}

/// Locks the file as a writer of Cyrus does.
#[cfg(test)]
pub(crate) fn hold_for_writing(file: &File) {
    set(file, libc::F_WRLCK, 0, 0).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_for_a_lock_ends_at_the_timeout() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let writer = File::options().write(true).open(path.path()).unwrap();
        hold_for_writing(&writer);
        let reader = File::open(path.path()).unwrap();
        for ranges in [Ranges::WholeFile, Ranges::Twom] {
            let asked = Instant::now();
            let limit = Duration::from_millis(20);
            assert!(SharedLock::take(&reader, ranges, limit).unwrap().is_none());
            assert!(asked.elapsed() >= limit);
        }
        drop(writer);
        assert!(SharedLock::take(&reader, Ranges::WholeFile, Duration::ZERO).unwrap().is_some());
    }

    #[test]
    fn waits_end_at_the_deadline_of_the_thread() {
        let hour = Duration::from_secs(3600);
        until(Instant::now() + hour / 2, || {
            assert!(left_of(hour) <= hour / 2);
            until(Instant::now(), || assert_eq!(left_of(hour), Duration::ZERO));
            let _ = std::panic::catch_unwind(|| until(Instant::now(), || panic!("on purpose")));
            assert_ne!(left_of(hour), Duration::ZERO);
        });
        assert_eq!(left_of(hour), hour);
    }

    #[test]
    fn released_lock_leaves_no_range_locked() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let reader = File::open(path.path()).unwrap();
        let writer = File::options().write(true).open(path.path()).unwrap();
        for ranges in [Ranges::WholeFile, Ranges::Twom] {
            let held = SharedLock::take(&reader, ranges, Duration::ZERO).unwrap();
            assert!(held.is_some());
            assert_eq!(set(&writer, libc::F_WRLCK, 96, 272), Err(Errno::EAGAIN));
            drop(held);
            assert_eq!(set(&writer, libc::F_WRLCK, 0, 0), Ok(()));
            assert_eq!(set(&writer, libc::F_UNLCK, 0, 0), Ok(()));
        }
    }
}
