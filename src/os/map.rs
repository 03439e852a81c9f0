//! A list's file in memory, read without a system call, and what keeps it from killing us.
//!
//! A map of a file has one danger: a page that the file no longer has raises SIGBUS when it is
//! touched. Cyrus never cuts off what was committed (twoskip, twom), nor does LMDB, and nothing else is
//! read through the map; but an administrator may empty the file or copy another one over it. There
//! are two ways to meet that, see [`Danger`]:
//!
//! * A program calls [`guard`]: its handler puts an empty page where one has gone and marks the map as
//!   torn, the file is read by `pread` from then on, and mapped anew when it is whole again.
//! * The library is in somebody else's process and must not have handlers. There nothing is touched
//!   past the length that the file had when somebody looked last, which is before a
//!   search, and no longer ago than a hit may be old (2 ms). Who looks up less often, as a mail server
//!   does, looks right before each search. What is left: a file that is cut off in these
//!   milliseconds, and a disk that cannot read a page, which is a SIGBUS as well. Cyrus' own
//!   processes, and Postfix with its `lmdb:`, map their files and look at nothing.
//!
//! Whatever takes longer than a search of one key, or a piece of the shortcuts, reads by `pread`.

#![expect(unsafe_code, reason = "mmap and sigaction have no safe form; this is the fence")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use nix::libc;

/// So many files may be mapped at a time; any more are read by `pread`. A list has one map, and for a
/// moment a second one after a repack.
const SLOTS: usize = 64;

/// A range of addresses that is ours, for the handler to see. All of it is atomic, because a handler
/// may use nothing else.
struct Slot {
    /// 0: the slot is free. 1: it is being filled.
    begin: AtomicUsize,
    len: AtomicUsize,
    torn: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot { begin: AtomicUsize::new(0), len: AtomicUsize::new(0), torn: AtomicBool::new(false) }
}; SLOTS];

/// What handled SIGBUS before; set before our handler can be called.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Whether our handler is in place.
static GUARDED: AtomicBool = AtomicBool::new(false);

/// Lets this process map lists: installs a handler for SIGBUS, once. A SIGBUS that is not about one
/// of our maps goes to the handler that was there before. Called by programs, never by the library.
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
    // address that was touched. errno is put back as it was. The page that MAP_FIXED replaces lies
    // within a range that is ours, since it stands in the table, and holds nothing: it is the one
    // that could not be touched. Otherwise the old action is put back, and the instruction that
    // raised the signal raises it again, for that one.
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

/// The least a page can be. A page that is larger is replaced by several of these, each when it is
/// touched, or not at all where the system refuses; then the signal takes its old course.
const PAGE: usize = 4096;

/// A free slot, where there is a handler to look at it.
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

/// A file's map that somebody else has made, for reading only, and reads by himself. Where there is a
/// handler it does the same for that, so who reads may find pages of nothing but zeros, and must ask
/// afterwards whether the map is [torn](Self::torn).
#[derive(Debug)]
pub(crate) struct Watch {
    slot: Option<usize>,
}

impl Watch {
    /// Watches nothing yet.
    pub(crate) fn new() -> Self {
        Self { slot: take_slot() }
    }

    /// Whether there is a handler, and a place in its table.
    pub(crate) fn can_watch(&self) -> bool {
        self.slot.is_some()
    }

    /// Watches this range of addresses from now on; `None`: nothing. What is watched must be mapped,
    /// read only, until it is not watched any more.
    pub(crate) fn set(&self, range: Option<(usize, usize)>) {
        match (self.slot, range) {
            (Some(slot), Some((begin, len))) if begin > 1 => fill_slot(slot, begin, len),
            (Some(slot), _) => TABLE[slot].begin.store(1, SeqCst),
            (None, _) => {}
        }
    }

    /// Whether the file has lost some of what was mapped and read.
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

/// How a process meets the danger of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Danger {
    /// By a [`guard`]; without one it has no maps.
    #[default]
    Guarded,
    /// By looking at the length of the file before it is searched. What is left of it is told above.
    Looked,
}

/// The map has pages that the file had lost when they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Torn;

/// The first bytes of a file, as they are now and as they become.
#[derive(Debug)]
pub(crate) struct Map {
    slot: Option<usize>,
    begin: usize,
    len: usize,
    /// What lies behind this offset is not touched.
    end: AtomicUsize,
}

impl Map {
    /// Maps a file that has `len` bytes, and room for it to grow. `None`: this process must have a
    /// [`guard`] and has none, or the system has no room; the file is then read otherwise.
    pub(crate) fn new(file: &File, len: u64, danger: Danger) -> Option<Self> {
        let end = usize::try_from(len).ok().filter(|len| *len > 0)?;
        let len = end.checked_mul(2)?;
        let slot = take_slot();
        if slot.is_none() && danger == Danger::Guarded {
            return None;
        }
        // SAFETY: a new mapping at an address of the system's choice touches no memory of ours.
        let begin = unsafe {
            let (fd, null) = (file.as_raw_fd(), ptr::null_mut());
            libc::mmap(null, len, libc::PROT_READ, libc::MAP_SHARED, fd, 0)
        };
        if begin == libc::MAP_FAILED {
            if let Some(slot) = slot {
                TABLE[slot].begin.store(0, SeqCst);
            }
            return None;
        }
        if let Some(slot) = slot {
            fill_slot(slot, begin as usize, len);
        }
        Some(Self { slot, begin: begin as usize, len, end: AtomicUsize::new(end) })
    }

    /// Somebody has looked: the file has `len` bytes now. It may have grown, or have been cut off.
    pub(crate) fn reaches(&self, len: u64) {
        let end = usize::try_from(len).unwrap_or(usize::MAX);
        self.end.store(end.min(self.len), Relaxed);
    }

    /// Whether the file has lost some of what was mapped, and a search came to it.
    pub(crate) fn is_torn(&self) -> bool {
        self.slot.is_some_and(|slot| TABLE[slot].torn.load(SeqCst))
    }

    /// Copies the bytes at `offset`. `None`: they are not all within the map. An error: the map is
    /// [torn](Self::is_torn), and what was copied may be of an empty page.
    #[inline]
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Option<Result<(), Torn>> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(buf.len())? > self.end.load(Relaxed) {
            return None;
        }
        // SAFETY: the range is within the mapping, which lives as long as `self`. Pages that the
        // file has lost are replaced by the handler; without one the file had this range when somebody
        // looked last, and what that leaves open, see above, is a signal and no wrong memory. Others
        // may write to the file meanwhile: the bytes are copied without a reference to them ever
        // being made, and nobody relies on what was copied before its checksum matches, or before it
        // was seen that nothing has been committed meanwhile.
        unsafe {
            let from = (self.begin + offset) as *const u8;
            ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len());
        }
        Some(if self.is_torn() { Err(Torn) } else { Ok(()) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // Out of the handler's sight first: once it is gone, the addresses may be another's.
        if let Some(slot) = self.slot {
            TABLE[slot].begin.store(1, SeqCst);
        }
        // SAFETY: the mapping was made by `new`, and only `read_at` touches it, which borrows `self`.
        unsafe {
            libc::munmap(self.begin as *mut _, self.len);
        }
        if let Some(slot) = self.slot {
            TABLE[slot].begin.store(0, SeqCst);
        }
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
    fn a_file_cut_off_under_its_map_is_an_error_and_no_sigbus() {
        guard();
        let file = file_of(100_000);
        let map = Map::new(&file, 100_000, Danger::Guarded).unwrap();
        let mut bytes = [0; 100];
        assert!(map.read_at(99_900, &mut bytes).unwrap().is_ok());
        assert_eq!(bytes, [7; 100]);
        assert!(map.read_at(99_901, &mut bytes).is_none());
        assert!(map.read_at(u64::MAX, &mut bytes).is_none());
        file.set_len(0).unwrap();
        assert!(map.read_at(50_000, &mut bytes).unwrap().is_err());
        // For good: what else was read through it may have been of an empty page.
        file.set_len(100_000).unwrap();
        assert!(map.read_at(10, &mut bytes).unwrap().is_err());
        let again = Map::new(&file, 100_000, Danger::Guarded).unwrap();
        assert!(again.read_at(10, &mut bytes).unwrap().is_ok());
    }

    #[test]
    fn maps_beyond_the_table_are_refused_and_their_places_come_back() {
        guard();
        let file = file_of(10);
        let map = || Map::new(&file, 10, Danger::Guarded);
        let maps: Vec<Map> = std::iter::from_fn(map).take(SLOTS + 1).collect();
        assert!(maps.len() <= SLOTS);
        drop(maps);
        assert!(map().is_some());
    }

    #[test]
    fn nothing_is_touched_past_the_length_that_was_seen_last() {
        let file = file_of(50_000);
        let map = Map::new(&file, 50_000, Danger::Looked).unwrap();
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
        // More than there was room for.
        map.reaches(1 << 40);
        assert!(map.read_at(100_000, &mut bytes).is_none());
    }
}
