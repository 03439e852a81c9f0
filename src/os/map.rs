//! Memory maps of list files, guarded against SIGBUS. For programs only: the library has no maps.
//!
//! Touching a page that the file no longer has raises SIGBUS. Cyrus never truncates committed data
//! (twoskip, twom), nor does LMDB, and nothing else is read through a map. But an administrator may
//! truncate the file or copy another one over it, and a disk may fail to read a page.
//!
//! A program calls [`guard`] at its start. The handler puts an empty page in the place of a lost one
//! and marks the map as torn. The file is then read by `pread`, and mapped again once it is whole.
//!
//! A process without the guard maps nothing and reads by `pread`. The shared library is such a process:
//! it must not install handlers in its host, and must not be able to kill it.
//!
//! Reads longer than the search for one key, or for a part of the sparse index, use `pread`.

#![expect(unsafe_code, reason = "mmap and sigaction have no safe form; this is the fence")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use nix::libc;

/// Maximum number of files mapped at a time; further files are read by `pread`. A list has one map, and
/// briefly a second one after a repack.
const SLOTS: usize = 64;

/// A range of mapped addresses, as the signal handler sees it. Every member is atomic, since a handler
/// may use nothing else.
struct MapSlot {
    /// First address. 0: the slot is free. 1: the slot is being filled.
    begin: AtomicUsize,
    len: AtomicUsize,
    torn: AtomicBool,
}

static TABLE: [MapSlot; SLOTS] = [const {
    MapSlot { begin: AtomicUsize::new(0), len: AtomicUsize::new(0), torn: AtomicBool::new(false) }
}; SLOTS];

/// Action for SIGBUS before ours; set before our handler can be called.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Whether our handler is in place.
static GUARDED: AtomicBool = AtomicBool::new(false);

/// Allows this process to map lists: installs a handler for SIGBUS, once. A SIGBUS outside our maps
/// goes to the previous handler. Programs call this, the library never does.
pub fn guard() {
    // SAFETY: both structures are plain data for which zero is a value, and are ours; `handle` has
    // the signature that SA_SIGINFO asks for and does only what signal-safety(7) permits, and mmap,
    // which on Linux is a bare system call. The old action is never freed, so the handler may read
    // it at any time.
    unsafe {
        let before = Box::into_raw(Box::new(std::mem::zeroed::<libc::sigaction>()));
        let null = ptr::null_mut();
        if libc::sigaction(libc::SIGBUS, ptr::null(), before) != 0
            || BEFORE.compare_exchange(null, before, SeqCst, SeqCst).is_err()
        {
            drop(Box::from_raw(before));
            return;
        }
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        let installed = libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) == 0;
        GUARDED.store(installed, SeqCst);
    }
}

extern "C" fn handle(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo with SA_SIGINFO, and for SIGBUS its si_addr is the
    // address that was touched. errno is restored. The page that MAP_FIXED replaces lies within a
    // range of ours, since the table has it, and holds nothing: it is the page that could not be
    // touched. Otherwise the previous action is restored, and the instruction that raised the signal
    // raises it again, for that action.
    unsafe {
        let errno = *libc::__errno_location();
        let at = (*info).si_addr() as usize;
        let ours = TABLE.iter().find(|slot| {
            let begin = slot.begin.load(SeqCst);
            begin > 1 && at >= begin && at - begin < slot.len.load(SeqCst)
        });
        let replaced = ours.is_some_and(|slot| {
            slot.torn.store(true, SeqCst);
            let page = at & !(PAGE - 1);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let empty = libc::mmap(page as *mut _, PAGE, libc::PROT_READ, flags, -1, 0);
            empty != libc::MAP_FAILED
        });
        if !replaced {
            libc::sigaction(libc::SIGBUS, BEFORE.load(SeqCst), ptr::null_mut());
        }
        *libc::__errno_location() = errno;
    }
}

/// Smallest page size in bytes. A larger page is replaced by several of these, each when it is
/// touched, or not at all where the system refuses; the signal then goes to the previous action.
const PAGE: usize = 4096;

/// Takes a free slot; `None`: there is no handler, or all slots are taken.
fn take_slot() -> Option<usize> {
    if !GUARDED.load(SeqCst) {
        return None;
    }
    TABLE.iter().position(|slot| slot.begin.compare_exchange(0, 1, SeqCst, SeqCst).is_ok())
}

fn fill_slot(slot: usize, begin: usize, len: usize) {
    TABLE[slot].torn.store(false, SeqCst);
    TABLE[slot].len.store(len, SeqCst);
    TABLE[slot].begin.store(begin, SeqCst);
}

/// Guard of a map that other code, such as LMDB, has made and reads. Where the handler is installed, a
/// reader may find pages of zeros and must check afterwards whether the map is [torn](Self::torn).
#[derive(Debug)]
pub(crate) struct Watch {
    slot: Option<usize>,
}

impl Watch {
    /// A guard that watches nothing yet.
    pub(crate) fn new() -> Self {
        Self { slot: take_slot() }
    }

    /// Whether the handler is installed and a slot was free.
    pub(crate) fn can_watch(&self) -> bool {
        self.slot.is_some()
    }

    /// Sets the range of addresses (begin, length) to watch; `None`: nothing. A watched range must stay
    /// mapped read-only until the guard is dropped or set to another range.
    pub(crate) fn set(&self, range: Option<(usize, usize)>) {
        match (self.slot, range) {
            (Some(slot), Some((begin, len))) if begin > 1 => fill_slot(slot, begin, len),
            (Some(slot), _) => TABLE[slot].begin.store(1, SeqCst),
            (None, _) => {}
        }
    }

    /// Whether a page that the file had lost was read.
    pub(crate) fn torn(&self) -> bool {
        self.slot.is_some_and(|slot| TABLE[slot].torn.load(SeqCst))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            TABLE[slot].torn.store(false, SeqCst);
            TABLE[slot].begin.store(0, SeqCst);
        }
    }
}

/// Error of a read from a map that has lost pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Torn;

/// Shared read-only map of a file from its start.
#[derive(Debug)]
pub(crate) struct MemoryMap {
    slot: usize,
    begin: usize,
    len: usize,
    /// Known length of the file; nothing beyond this offset is touched.
    end: AtomicUsize,
}

impl MemoryMap {
    /// Maps a file of `len` bytes, with room for it to grow. `None`: this process has no [`guard`], or
    /// all slots are taken, or the system has no room; read the file by `pread` then.
    pub(crate) fn new(file: &File, len: u64) -> Option<Self> {
        let end = usize::try_from(len).ok().filter(|len| *len > 0)?;
        let len = end.checked_mul(2)?;
        let slot = take_slot()?;
        // SAFETY: a new mapping at an address of the system's choice touches no memory of ours.
        let begin = unsafe {
            let (fd, null) = (file.as_raw_fd(), ptr::null_mut());
            libc::mmap(null, len, libc::PROT_READ, libc::MAP_SHARED, fd, 0)
        };
        if begin == libc::MAP_FAILED {
            TABLE[slot].begin.store(0, SeqCst);
            return None;
        }
        fill_slot(slot, begin as usize, len);
        Some(Self { slot, begin: begin as usize, len, end: AtomicUsize::new(end) })
    }

    /// Sets the length that the file was seen to have; it may have grown or been truncated.
    pub(crate) fn reaches(&self, len: u64) {
        let end = usize::try_from(len).unwrap_or(usize::MAX);
        self.end.store(end.min(self.len), Relaxed);
    }

    /// Whether a page that the file had lost was read.
    pub(crate) fn is_torn(&self) -> bool {
        TABLE[self.slot].torn.load(SeqCst)
    }

    /// Copies the bytes at `offset`. `None`: the range is not wholly within the map.
    ///
    /// # Errors
    ///
    /// [`Torn`] if the map is [torn](Self::is_torn); the copied bytes may be those of an empty page.
    #[inline]
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Option<Result<(), Torn>> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(buf.len())? > self.end.load(Relaxed) {
            return None;
        }
        // SAFETY: the range is within the mapping, which lives as long as `self`. The handler replaces
        // pages that the file has lost. Other processes may write to the file meanwhile: the bytes are
        // copied without ever making a reference to them, and callers rely on the copy only after its
        // checksum matches, or after they have seen that nothing was committed meanwhile.
        unsafe {
            let from = (self.begin + offset) as *const u8;
            ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len());
        }
        Some(if self.is_torn() { Err(Torn) } else { Ok(()) })
    }
}

impl Drop for MemoryMap {
    fn drop(&mut self) {
        // Hide the range from the handler first: once unmapped, the addresses may be reused.
        TABLE[self.slot].begin.store(1, SeqCst);
        // SAFETY: the mapping was made by `new`, and only `read_at` touches it, which borrows `self`.
        unsafe {
            libc::munmap(self.begin as *mut _, self.len);
        }
        TABLE[self.slot].begin.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file_of(len: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; len]).unwrap();
        file
    }

    #[test]
    fn truncated_file_is_an_error_and_no_sigbus() {
        guard();
        let file = file_of(100_000);
        let map = MemoryMap::new(&file, 100_000).unwrap();
        let mut bytes = [0; 100];
        assert!(map.read_at(99_900, &mut bytes).unwrap().is_ok());
        assert_eq!(bytes, [7; 100]);
        assert!(map.read_at(99_901, &mut bytes).is_none());
        assert!(map.read_at(u64::MAX, &mut bytes).is_none());
        file.set_len(0).unwrap();
        assert!(map.read_at(50_000, &mut bytes).unwrap().is_err());
        // Permanently: other bytes read through it may have come from an empty page.
        file.set_len(100_000).unwrap();
        assert!(map.read_at(10, &mut bytes).unwrap().is_err());
        let again = MemoryMap::new(&file, 100_000).unwrap();
        assert!(again.read_at(10, &mut bytes).unwrap().is_ok());
    }

    #[test]
    fn maps_beyond_the_table_are_refused_until_slots_are_free() {
        guard();
        let file = file_of(10);
        let map = || MemoryMap::new(&file, 10);
        let maps: Vec<MemoryMap> = std::iter::from_fn(map).take(SLOTS + 1).collect();
        assert!(maps.len() <= SLOTS);
        drop(maps);
        assert!(map().is_some());
    }

    #[test]
    fn nothing_is_read_past_the_known_length() {
        guard();
        let file = file_of(50_000);
        let map = MemoryMap::new(&file, 50_000).unwrap();
        let mut bytes = [0; 100];
        assert!(map.read_at(49_901, &mut bytes).is_none());
        file.set_len(90_000).unwrap();
        assert!(map.read_at(80_000, &mut bytes).is_none());
        map.reaches(90_000);
        assert!(map.read_at(80_000, &mut bytes).unwrap().is_ok());
        assert_eq!(bytes, [0; 100]);
        map.reaches(4000);
        assert!(map.read_at(80_000, &mut bytes).is_none());
        assert!(map.read_at(3900, &mut bytes).unwrap().is_ok());
        assert_eq!(bytes, [7; 100]);
        // More than the mapped range.
        map.reaches(1 << 40);
        assert!(map.read_at(100_000, &mut bytes).is_none());
    }
}
