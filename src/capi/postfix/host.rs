//! Postfix' interface for tables: the first members of its `DICT`, and its functions.
//!
//! Postfix installs no headers, and the library must also load without Postfix. So the layout of
//! Postfix 3.5 to 3.12 on 64-bit Linux (`util/dict.h`) is declared here, and the functions are looked up
//! in the program that loaded the library when a table is opened.

#![expect(unsafe_code, reason = "C functions are found by name; this is the fence")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::{offset_of, transmute};

use nix::libc;

/// The members that all releases have, in order. Some are declared only for the offsets of the others.
#[repr(C)]
pub(super) struct Dict {
    kind: *mut c_char,
    name: *mut c_char,
    pub(super) flags: c_int,
    pub(super) lookup: unsafe extern "C" fn(*mut Dict, *const c_char) -> *const c_char,
    update: *const c_void,
    delete: *const c_void,
    sequence: *const c_void,
    lock: *const c_void,
    pub(super) close: unsafe extern "C" fn(*mut Dict),
    lock_type: c_int,
    lock_fd: c_int,
    pub(super) stat_fd: c_int,
    pub(super) mtime: libc::time_t,
    fold_buf: *mut c_void,
    owner_status: c_int,
    owner_uid: c_uint,
    pub(super) error: c_int,
    jbuf: *mut c_void,
}

/// Number of bytes reserved for Postfix' part, which has 152 bytes up to 3.10 and 168 in 3.11.
pub(super) const DICT_SIZE: usize = 1024;

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
const _: () = {
    assert!(offset_of!(Dict, flags) == 16);
    assert!(offset_of!(Dict, lookup) == 24);
    assert!(offset_of!(Dict, close) == 64);
    assert!(offset_of!(Dict, stat_fd) == 80);
    assert!(offset_of!(Dict, mtime) == 88);
    assert!(offset_of!(Dict, error) == 112);
    assert!(size_of::<Dict>() == 128 && DICT_SIZE.is_multiple_of(align_of::<Dict>()));
};

/// `flags` of a [`Dict`].
pub(super) struct Flags;

impl Flags {
    /// Keys are matched as a whole: Postfix does not look up parts of an address.
    pub(super) const PATTERN: c_int = 1 << 5;
    /// Only a replaced file makes the process restart, not one that is written to.
    pub(super) const MULTI_WRITER: c_int = 1 << 18;
}

/// `error` of a [`Dict`].
pub(super) struct Error;

impl Error {
    /// No error: a key that was not found has no entry.
    pub(super) const NONE: c_int = 0;
    /// Try again later.
    pub(super) const RETRY: c_int = -1;
}

type DictAlloc = unsafe extern "C" fn(*const c_char, *const c_char, libc::ssize_t) -> *mut Dict;
type DictFree = unsafe extern "C" fn(*mut Dict);
type DictSurrogate = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    c_int,
    c_int,
    *const c_char,
    ...
) -> *mut Dict;
type MsgWarn = unsafe extern "C" fn(*const c_char, ...);

/// The functions of Postfix that a table needs; all of them are in `libpostfix-util.so`.
#[derive(Clone, Copy)]
pub(super) struct Host {
    dict_alloc: DictAlloc,
    dict_free: DictFree,
    dict_surrogate: DictSurrogate,
    msg_warn: MsgWarn,
}

impl Host {
    /// Finds the functions in this program; `None`: some are missing.
    pub(super) fn find() -> Option<Self> {
        // SAFETY: the types are those of Postfix' `dict.h` and `msg.h`, in all releases above.
        unsafe {
            Some(Self {
                dict_alloc: transmute::<*mut c_void, DictAlloc>(symbol(c"dict_alloc")?),
                dict_free: transmute::<*mut c_void, DictFree>(symbol(c"dict_free")?),
                dict_surrogate: transmute::<*mut c_void, DictSurrogate>(symbol(c"dict_surrogate")?),
                msg_warn: transmute::<*mut c_void, MsgWarn>(symbol(c"msg_warn")?),
            })
        }
    }

    /// # Safety
    ///
    /// `name` is a string.
    pub(super) unsafe fn alloc(self, kind: &CStr, name: *const c_char, size: usize) -> *mut Dict {
        let size = libc::ssize_t::try_from(size).unwrap_or(libc::ssize_t::MAX);
        // SAFETY: both are strings, which Postfix copies.
        unsafe { (self.dict_alloc)(kind.as_ptr(), name, size) }
    }

    /// # Safety
    ///
    /// `dict` is from [`Self::alloc`], and must not be used afterwards.
    pub(super) unsafe fn free(self, dict: *mut Dict) {
        // SAFETY: guaranteed by the caller.
        unsafe { (self.dict_free)(dict) }
    }

    /// Returns a table whose look-ups fail, for this reason, which is logged now and at each look-up. A program
    /// that only reads tables, such as postmap, exits.
    ///
    /// # Safety
    ///
    /// `name` is a string.
    pub(super) unsafe fn surrogate(
        self,
        kind: &CStr,
        name: *const c_char,
        open_flags: c_int,
        dict_flags: c_int,
        why: &CStr,
    ) -> *mut Dict {
        let kind = kind.as_ptr();
        // SAFETY: all are strings, which Postfix copies, and the format takes one.
        unsafe {
            let format = c"%s".as_ptr();
            (self.dict_surrogate)(kind, name, open_flags, dict_flags, format, why.as_ptr())
        }
    }

    /// Writes a warning to the mail log.
    pub(super) fn warn(self, why: &CStr) {
        // SAFETY: the format takes one string.
        unsafe { (self.msg_warn)(c"%s".as_ptr(), why.as_ptr()) }
    }
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a string; the result is an address or NULL.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}
