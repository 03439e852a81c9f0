//! The functions of `c-api/murder_route.h`, which documents them and their arguments. This module only
//! converts between C and [`Library`].
//!
//! A program allocates [`structs`]; [`decision`], [`reply`] and [`status`] fill them.

#![expect(unsafe_code, reason = "C calls these with bare pointers; this is the fence")]

mod decision;
mod reply;
mod status;
mod structs;

use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::ptr;
use std::time::Duration;

use self::decision::{mr_decision_clear, mr_lookup, mr_lookup_many, mr_lookup_within};
use self::reply::{mr_answer, mr_reply_clear};
use self::status::{mr_check, mr_status_clear};
use self::structs::Allocated as _;
use super::bindings::{self as c, mr_code};
use super::library::Library;
use super::options::Failure;
use super::timeout::MAX_TIMEOUT;
use super::{panics, text};

/// Compile-time check that the signatures are those of the header.
const _: () = {
    let _ = [c::mr_strerror as unsafe extern "C" fn(_) -> _, mr_strerror];
    let _ = [c::mr_version as unsafe extern "C" fn() -> _, mr_version];
    let _ = [c::mr_version_number as unsafe extern "C" fn() -> _, mr_version_number];
    let _ = [c::mr_abi as unsafe extern "C" fn() -> _, mr_abi];
    let _ = [c::mr_open as unsafe extern "C" fn(_, _, _, _) -> _, mr_open];
    let _ = [c::mr_open_options as unsafe extern "C" fn(_, _, _, _) -> _, mr_open_options];
    let _ = [c::mr_close as unsafe extern "C" fn(_), mr_close];
    let _ = [c::mr_warning as unsafe extern "C" fn(_, _) -> _, mr_warning];
    let _ = [c::mr_lookup as unsafe extern "C" fn(_, _, _) -> _, mr_lookup];
    let _ = [c::mr_lookup_within as unsafe extern "C" fn(_, _, _, _) -> _, mr_lookup_within];
    let _ = [c::mr_lookup_many as unsafe extern "C" fn(_, _, _, _) -> _, mr_lookup_many];
    let _ = [c::mr_decision_clear as unsafe extern "C" fn(_), mr_decision_clear];
    let _ = [c::mr_outcome_name as unsafe extern "C" fn(_) -> _, mr_outcome_name];
    let _ = [c::mr_answer as unsafe extern "C" fn(_, _, _, _) -> _, mr_answer];
    let _ = [c::mr_reply_clear as unsafe extern "C" fn(_), mr_reply_clear];
    let _ = [c::mr_check as unsafe extern "C" fn(_, _, _) -> _, mr_check];
    let _ = [c::mr_status_clear as unsafe extern "C" fn(_), mr_status_clear];
};

/// `MR_VERSION_NUMBER` of this release.
const VERSION_NUMBER: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 1000
    + number(env!("CARGO_PKG_VERSION_PATCH"));

const _: () = assert!(c::MR_VERSION_NUMBER == VERSION_NUMBER, "the header is of another release");

const fn number(text: &str) -> u32 {
    match u32::from_str_radix(text, 10) {
        Ok(number) if number < 1000 => number,
        _ => panic!("no part of a version"),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_strerror(code: mr_code) -> *const c_char {
    text_of(code).as_ptr()
}

fn text_of(code: mr_code) -> &'static CStr {
    match code {
        c::MR_OK => c"no error",
        c::MR_ERR_INVALID => c"an argument that cannot be used",
        c::MR_ERR_CONFIG => c"the configuration cannot be used",
        c::MR_ERR_NO_MAP => c"no map of this name",
        c::MR_ERR_INTERNAL => c"murder-route failed inside (a bug)",
        c::MR_ERR_SYSTEM => c"the system lacks descriptors, memory or a readable disk",
        c::MR_ERR_ADDRESS => c"an address of the daemon that cannot be used",
        _ => c"an error that this release does not know",
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_version_number() -> u32 {
    VERSION_NUMBER
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_abi() -> u32 {
    c::MR_ABI
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_outcome_name(outcome: c::mr_outcome) -> *const c_char {
    let name = match outcome {
        c::MR_DELIVER => c"deliver",
        c::MR_UNKNOWN => c"unknown",
        c::MR_REFUSED => c"refused",
        c::MR_FOREIGN => c"foreign",
        _ => c"deferred",
    };
    name.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_open(
    config: *const c_char,
    router: *mut *mut c::mr_router,
    error: *mut c_char,
    error_size: usize,
) -> mr_code {
    let options = c::mr_options { config, ..c::mr_options::EMPTY };
    // SAFETY: `options` is complete, and the other arguments are the caller's.
    unsafe { mr_open_options(&raw const options, router, error, error_size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_open_options(
    options: *const c::mr_options,
    router: *mut *mut c::mr_router,
    error: *mut c_char,
    error_size: usize,
) -> mr_code {
    panics::keep_quiet();
    // SAFETY: the header requires each pointer to be NULL or valid, and the options to be as large as
    // their size says.
    unsafe {
        text::copy("", error, error_size);
        if router.is_null() || !router.is_aligned() {
            text::copy("no place for the router is given", error, error_size);
            return c::MR_ERR_INVALID;
        }
        *router = ptr::null_mut();
        let opened = match panics::caught(|| match open(options) {
            Ok(library) => Ok(Box::into_raw(Box::new(library))),
            Err(why) => Err(why),
        }) {
            Ok(opened) => opened,
            Err(bug) => Err((c::MR_ERR_INTERNAL, bug)),
        };
        match opened {
            Ok(library) => {
                *router = library.cast();
                c::MR_OK
            }
            Err((code, why)) => {
                text::copy(&why, error, error_size);
                code
            }
        }
    }
}

/// # Safety
///
/// As the header requires for `options`.
unsafe fn open(options: *const c::mr_options) -> Result<Library, (mr_code, String)> {
    let invalid = |why: &str| (c::MR_ERR_INVALID, why.to_owned());
    // SAFETY: it is NULL or as large as its size says; its strings are NULL or valid.
    unsafe {
        let known = match options {
            _ if options.is_null() => c::mr_options::EMPTY,
            _ if !structs::is_usable(options) => {
                return Err(invalid("the options have a size or a place that they cannot have"));
            }
            _ => structs::read(options)
                .filter(|known| known.reserved == 0)
                .ok_or_else(|| invalid("an option that this release does not know"))?,
        };
        let utf8 = |name: &str, string: *const c_char| match text::bytes(string) {
            None => Ok(None),
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(string) => Ok(Some(string.to_owned())),
                Err(_) => Err(invalid(&format!("`{name}` is not UTF-8"))),
            },
        };
        let path = |string: *const c_char| {
            use std::os::unix::ffi::OsStrExt;
            let bytes = text::bytes(string)?;
            Some(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
        };
        super::options::open(super::options::Given {
            config: path(known.config),
            imapd_conf: path(known.imapd_conf),
            mailboxes_db: path(known.mailboxes_db),
            replica: path(known.replica),
            sources: utf8("sources", known.sources)?,
            domains: utf8("domains", known.domains)?,
            daemon: utf8("daemon", known.daemon)?,
            misses: utf8("misses", known.misses)?,
            timeout: match known.deadline {
                0 => MAX_TIMEOUT,
                milliseconds => Duration::from_millis(milliseconds.into()),
            },
        })
        .map_err(|failure| match failure {
            Failure::Config(why) => (c::MR_ERR_CONFIG, why),
            Failure::Address(why) => (c::MR_ERR_ADDRESS, why),
            Failure::System(why) => (c::MR_ERR_SYSTEM, why),
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_close(router: *mut c::mr_router) {
    if router.is_null() {
        return;
    }
    let _ = panics::caught(|| {
        // SAFETY: the header requires a router that was opened, was not closed, and is not in use.
        drop(unsafe { Box::from_raw(router.cast::<Library>()) });
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_warning(router: *mut c::mr_router, nth: usize) -> *const c_char {
    // SAFETY: the header requires a router.
    let warning = unsafe { library(router) }.and_then(|library| library.warnings().nth(nth));
    warning.map_or(ptr::null(), CStr::as_ptr)
}

/// Returns the library behind a router; `None`: NULL.
///
/// # Safety
///
/// As the header requires: a router that was opened and not closed.
unsafe fn library<'a>(router: *mut c::mr_router) -> Option<&'a Library> {
    // SAFETY: `mr_open_options` made it from a box.
    unsafe { router.cast::<Library>().as_ref() }
}

/// Converts an age to seconds for C; -1: not known.
fn seconds(age: Option<Duration>) -> i64 {
    age.map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}
