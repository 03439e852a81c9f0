//! Which process this is, without asking the kernel each time.

#![expect(unsafe_code, reason = "mmap and madvise have no safe form; this is the fence")]

use std::ptr;
use std::sync::atomic::{
    AtomicPtr, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use nix::libc;

/// A page of memory that is all zeros again in a child of fork(2), whichever way that was called; NULL:
/// there is none. Never unmapped, and behind no lock: a fork may come at any moment.
static KEPT: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// The number of this process. At the first call in it the kernel is asked, and at each call where it
/// has no [page](keep) for that.
#[inline]
pub(super) fn id() -> u32 {
    // SAFETY: NULL or the page that `keep` made, whose bytes are a number at any time.
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

/// Has [`id`] remember its answer, on Linux 4.14 and later.
pub(super) fn keep() {
    if !KEPT.load(Relaxed).is_null() {
        return;
    }
    // SAFETY: a new mapping at an address of the system's choice touches no memory of ours, and is
    // unmapped only if nobody else was given it. It is aligned to a page, and zeros are a number.
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
    fn a_child_of_a_fork_is_not_taken_for_its_parent() {
        keep();
        assert_eq!((id(), id()), (std::process::id(), std::process::id()));
        // SAFETY: the child does nothing but ask for its number and end.
        let child = unsafe {
            match libc::fork() {
                0 => libc::_exit(i32::from(id() != std::process::id())),
                child => child,
            }
        };
        let mut status = -1;
        // SAFETY: a place for a number.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(id(), std::process::id());
    }
}
