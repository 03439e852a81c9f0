//! Structs that a program allocates and that begin with their size. Only the members that both sides know
//! are read and written.

use std::ffi::{CStr, c_void};
use std::mem::offset_of;
use std::ptr;

use super::super::bindings as c;
use super::super::memory::Memory;

/// Maximum size of a struct in bytes.
const LARGEST: usize = 4096;

/// A struct of the header that a program allocates.
///
/// # Safety
///
/// It begins with its size, any bytes are a valid value, and `memory` returns the address of a member
/// within the first [`FIRST`](Self::FIRST) bytes.
pub(super) unsafe trait Allocated: Copy + 'static {
    /// Size in release 0.1.0, the smallest that a program can have.
    const FIRST: usize;
    /// The value before the first use, with the size of this release.
    const EMPTY: Self;

    /// Address of the member that holds the library's memory; NULL: there is none.
    fn memory(at: *mut Self) -> *mut *mut c_void;

    /// The value with this reason, for a result that was not reached.
    fn with_reason(self, reason: &'static CStr) -> Self;
}

/// Size of a struct in release 0.1.0, by its last member there.
macro_rules! end_of {
    ($of:ty, $member:ident: $type:ty) => {
        offset_of!($of, $member) + size_of::<$type>()
    };
}

// SAFETY: numbers and pointers, the first of which is the size.
unsafe impl Allocated for c::mr_options {
    const FIRST: usize = end_of!(c::mr_options, reserved: u32);
    const EMPTY: Self = Self {
        size: size_of::<Self>(),
        config: ptr::null(),
        imapd_conf: ptr::null(),
        mailboxes_db: ptr::null(),
        replica: ptr::null(),
        sources: ptr::null(),
        domains: ptr::null(),
        daemon: ptr::null(),
        misses: ptr::null(),
        deadline: 0,
        reserved: 0,
        #[cfg(feature = "capi-grown")]
        later: 0,
    };

    fn memory(_at: *mut Self) -> *mut *mut c_void {
        ptr::null_mut()
    }

    fn with_reason(self, _reason: &'static CStr) -> Self {
        self
    }
}

// SAFETY: numbers and pointers, the first of which is the size.
unsafe impl Allocated for c::mr_decision {
    const FIRST: usize = end_of!(c::mr_decision, memory: *mut c_void);
    const EMPTY: Self = Self {
        size: size_of::<Self>(),
        outcome: c::MR_DEFERRED,
        detail: c::MR_DETAIL_NONE,
        source: c::MR_SOURCE_NONE,
        port: 0,
        age: -1,
        recipient: ptr::null(),
        host: ptr::null(),
        socket: ptr::null(),
        transport: ptr::null(),
        mailbox: ptr::null(),
        server: ptr::null(),
        partition: ptr::null(),
        reason: ptr::null(),
        memory: ptr::null_mut(),
        #[cfg(feature = "capi-grown")]
        later: u64::MAX,
    };

    fn memory(at: *mut Self) -> *mut *mut c_void {
        at.wrapping_byte_add(offset_of!(Self, memory)).cast()
    }

    fn with_reason(self, reason: &'static CStr) -> Self {
        Self { reason: reason.as_ptr(), ..self }
    }
}

// SAFETY: numbers and pointers, the first of which is the size.
unsafe impl Allocated for c::mr_reply {
    const FIRST: usize = end_of!(c::mr_reply, memory: *mut c_void);
    const EMPTY: Self = Self {
        size: size_of::<Self>(),
        kind: c::MR_REPLY_TEMPORARY,
        reserved: 0,
        text: ptr::null(),
        memory: ptr::null_mut(),
        #[cfg(feature = "capi-grown")]
        later: u64::MAX,
    };

    fn memory(at: *mut Self) -> *mut *mut c_void {
        at.wrapping_byte_add(offset_of!(Self, memory)).cast()
    }

    fn with_reason(self, reason: &'static CStr) -> Self {
        Self { text: reason.as_ptr(), ..self }
    }
}

// SAFETY: numbers and pointers, the first of which is the size.
unsafe impl Allocated for c::mr_status {
    const FIRST: usize = end_of!(c::mr_status, memory: *mut c_void);
    const EMPTY: Self = Self {
        size: size_of::<Self>(),
        overall: c::MR_STATE_BAD,
        mailboxes_db: c::MR_STATE_NONE,
        replica: c::MR_STATE_NONE,
        daemon: c::MR_STATE_NONE,
        mailboxes_db_records: -1,
        replica_names: -1,
        replica_age: -1,
        mailboxes_db_reason: ptr::null(),
        replica_reason: ptr::null(),
        daemon_reason: ptr::null(),
        memory: ptr::null_mut(),
        #[cfg(feature = "capi-grown")]
        later: u64::MAX,
    };

    fn memory(at: *mut Self) -> *mut *mut c_void {
        at.wrapping_byte_add(offset_of!(Self, memory)).cast()
    }

    fn with_reason(self, reason: &'static CStr) -> Self {
        let reason = reason.as_ptr();
        Self { mailboxes_db_reason: reason, replica_reason: reason, daemon_reason: reason, ..self }
    }
}

/// Whether the address and the size of a struct are possible.
///
/// # Safety
///
/// `at` is NULL, is not aligned, or points to a size at least.
pub(super) unsafe fn is_usable<T: Allocated>(at: *const T) -> bool {
    if at.is_null() || !at.is_aligned() {
        return false;
    }
    // SAFETY: guaranteed by the caller; each of them begins with its size.
    let size = unsafe { *at.cast::<usize>() };
    (T::FIRST..=LARGEST).contains(&size) && size.is_multiple_of(align_of::<T>())
}

/// Reads the members that a program has set; a member that it does not know is empty. `None`: it has set a
/// member that this release does not know.
///
/// # Safety
///
/// `at` [is usable](is_usable) and is as large as its size says.
pub(super) unsafe fn read<T: Allocated>(at: *const T) -> Option<T> {
    let mut known = T::EMPTY;
    // SAFETY: guaranteed by the caller; any bytes are a valid value.
    unsafe {
        let size = *at.cast::<usize>();
        let bytes = std::slice::from_raw_parts(at.cast::<u8>(), size);
        if bytes.iter().skip(size_of::<T>()).any(|byte| *byte != 0) {
            return None;
        }
        let both = size.min(size_of::<T>());
        ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut known).cast::<u8>(), both);
    }
    Some(known)
}

/// Writes the members that the program knows. Its size and its memory stay.
///
/// # Safety
///
/// `at` [is usable](is_usable) and is as large as its size says.
pub(super) unsafe fn write<T: Allocated>(at: *mut T, value: &T) {
    // SAFETY: guaranteed by the caller; no other code uses the struct meanwhile.
    unsafe {
        let (size, memory) = (*at.cast::<usize>(), *T::memory(at));
        let both = size.min(size_of::<T>());
        ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), at.cast::<u8>(), both);
        *at.cast::<usize>() = size;
        *T::memory(at) = memory;
    }
}

/// Resets a struct, except its memory, and sets the reason.
///
/// # Safety
///
/// As [`write()`].
pub(super) unsafe fn reset<T: Allocated>(at: *mut T, reason: &'static CStr) {
    // SAFETY: guaranteed by the caller.
    unsafe { write(at, &T::EMPTY.with_reason(reason)) }
}

/// Frees the memory of a struct and resets it. An unusable struct stays as it is.
///
/// # Safety
///
/// As [`is_usable`]; a usable struct is as large as its size says, and its memory is NULL or was set by
/// [`memory_of`].
pub(super) unsafe fn clear<T: Allocated>(at: *mut T) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if !is_usable(at) {
            return;
        }
        let memory = T::memory(at);
        if !(*memory).is_null() {
            drop(Box::from_raw((*memory).cast::<Memory>()));
            *memory = ptr::null_mut();
        }
        write(at, &T::EMPTY);
    }
}

/// Returns the memory of a struct, and allocates it at the first use.
///
/// # Safety
///
/// As [`write()`], and the memory is NULL or was set by this function.
pub(super) unsafe fn memory_of<'a, T: Allocated>(at: *mut T) -> &'a mut Memory {
    // SAFETY: guaranteed by the caller; no other code uses the struct meanwhile.
    unsafe {
        let memory = T::memory(at);
        if (*memory).is_null() {
            *memory = Box::<Memory>::default().into_raw();
        }
        &mut *(*memory).cast::<Memory>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A decision of a program with a struct of this size, with a mark behind it.
    fn room(size: usize) -> Vec<u64> {
        let mut room = vec![u64::MAX; size / 8 + 1];
        room[0] = size as u64;
        room[(c::mr_decision::FIRST - 8) / 8] = 0;
        room
    }

    #[test]
    fn struct_is_written_as_far_as_both_sides_know_it() {
        let first = c::mr_decision::FIRST;
        for size in [first, first + 8, size_of::<c::mr_decision>(), first + 64, LARGEST] {
            let mut room = room(size);
            let at: *mut c::mr_decision = room.as_mut_ptr().cast();
            // SAFETY: the room is as large as the size says.
            unsafe {
                assert!(is_usable(at), "{size}");
                reset(at, c"why");
                assert_eq!((*at).outcome, c::MR_DEFERRED);
                assert_eq!(CStr::from_ptr((*at).reason), c"why");
                memory_of(at).keep([&[b"text"]]);
                clear(at);
            }
            assert_eq!(room[0], size as u64);
            let both = size.min(size_of::<c::mr_decision>());
            assert!(room[both / 8..].iter().all(|word| *word == u64::MAX), "{size}");
        }
    }

    #[test]
    fn size_that_no_release_has_is_refused() {
        let first = c::mr_decision::FIRST;
        for size in [0, 8, first - 8, first - 1, first + 1, LARGEST + 8, usize::MAX, usize::MAX - 7]
        {
            let mut room = room(LARGEST);
            room[0] = size as u64;
            // SAFETY: it begins with a size.
            assert!(!unsafe { is_usable(room.as_ptr().cast::<c::mr_decision>()) }, "{size}");
        }
        // SAFETY: NULL is allowed.
        assert!(!unsafe { is_usable(ptr::null::<c::mr_decision>()) });
    }

    #[test]
    fn option_of_a_later_release_is_noticed_if_set() {
        let mut room = vec![0_u64; LARGEST / 8];
        let size = size_of::<c::mr_options>() + 8;
        room[0] = size as u64;
        // SAFETY: the room is larger than the size says.
        unsafe {
            assert!(read(room.as_ptr().cast::<c::mr_options>()).is_some());
            room[size / 8 - 1] = 1;
            assert!(read(room.as_ptr().cast::<c::mr_options>()).is_none());
        }
    }
}
