//! The id of this process, without a system call each time.

#![expect(unsafe_code, reason = "mmap and madvise have no safe form; this is the fence")]

use std::ptr;
use std::sync::atomic::{
    AtomicPtr, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use nix::libc;

/// A page of memory that is all zeros in a child of fork(2), however fork was called; NULL: there is none.
/// It is never unmapped and has no lock, since a fork may happen at any time.
static KEPT: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Returns the id of this process. Asks the kernel at the first call in a process, and at each call where there
/// is no [page](keep).
#[inline]
pub(super) fn id() -> u32 {
    // SAFETY: NULL or the page that `keep` made, whose bytes are always a valid number.
    let Some(kept) = (unsafe { KEPT.load(Acquire).as_ref() }) else { return std::process::id() };
    match kept.load(Relaxed) {
        0 => {
            let id = std::process::id();
            kept.store(id, Relaxed);
            id
        }
        id => id,
    }
}

/// Lets [`id`] cache its answer, on Linux 4.14 and later (MADV_WIPEONFORK).
pub(super) fn keep() {
    if !KEPT.load(Relaxed).is_null() {
        return;
    }
    // SAFETY: a new mapping at an address of the system's choice touches no existing memory, and is
    // unmapped only if no other code has it. It is aligned to a page, and zeros are a valid number.
    unsafe {
        let (size, null) = (size_of::<AtomicU32>(), ptr::null_mut());
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(null, size, access, kind, -1, 0);
        if page == libc::MAP_FAILED {
            return;
        }
        if libc::madvise(page, size, libc::MADV_WIPEONFORK) != 0
            || KEPT.compare_exchange(ptr::null_mut(), page.cast(), Release, Relaxed).is_err()
        {
            libc::munmap(page, size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_of_a_fork_has_its_own_id() {
        keep();
        assert_eq!((id(), id()), (std::process::id(), std::process::id()));
        // SAFETY: the child only asks for its id and ends.
        let child = unsafe {
            match libc::fork() {
                0 => libc::_exit(i32::from(id() != std::process::id())),
                child => child,
            }
        };
        let mut status = -1;
        // SAFETY: a pointer to a number.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(id(), std::process::id());
    }
}
