//! A table of Postfix, `murder:/etc/murder-route.toml`. Postfix finds `dict_murder_open` by
//! `dynamicmaps.cf`.
//!
//! Postfix opens its tables as root, then enters its chroot and changes its user. A list that only root
//! may read stays open. When Cyrus replaces the file, Postfix notices (`stat_fd`) and restarts the
//! process as root: within 10 s in trivial-rewrite, with the next client in smtpd and proxymap. Until
//! then the daemon is asked.
//!
//! [`table`] has the answers, [`host`] Postfix' interface.

#![expect(unsafe_code, reason = "Postfix calls these with bare pointers; this is the fence")]

mod host;
mod table;

use std::ffi::{CString, c_char, c_int};
use std::os::fd::AsRawFd;
use std::ptr;

use self::host::{DICT_SIZE, Dict, Error, Flags, Host};
use self::table::{Answer, Table};
use super::{panics, text};

/// The name of this type of table.
const TYPE: &std::ffi::CStr = c"murder";

/// The library's part of an open table. Postfix' part grows with its releases, so this one lies well
/// behind it.
struct Opened {
    host: Host,
    table: Table,
    /// Result of the last look-up, which Postfix may use until the next one.
    found: CString,
}

/// Opens the table `murder:NAME` for `dict_open` of Postfix. On failure it logs the reason and returns a table
/// whose look-ups are temporary errors, so the rest of the mail system keeps working.
///
/// # Safety
///
/// Only Postfix calls it, with a string, before it has any threads.
#[unsafe(no_mangle)]
unsafe extern "C" fn dict_murder_open(
    name: *const c_char,
    open_flags: c_int,
    dict_flags: c_int,
) -> *mut Dict {
    panics::keep_quiet();
    let open = || {
        // The loading program is not Postfix, or a release with another interface.
        let host = Host::find()?;
        // SAFETY: Postfix passes a string that is valid during this call.
        let bytes = unsafe { text::bytes(name) }.unwrap_or_default();
        let table = match open_flags {
            nix::libc::O_RDONLY => panics::caught(|| Table::open(bytes)).and_then(|table| table),
            _ => Err("this table can only be read".into()),
        };
        Some(match table {
            Ok(table) => {
                let opened = Box::new(Opened { host, table, found: CString::default() });
                // SAFETY: as for `name`.
                unsafe { register(opened, name, dict_flags) }
            }
            Err(why) => {
                let named = String::from_utf8_lossy(bytes);
                let why = text::line(&format!("murder:{named}: {why}"));
                // SAFETY: as for `name`.
                unsafe { host.surrogate(TYPE, name, open_flags, dict_flags, &why) }
            }
        })
    };
    // Postfix treats NULL as a table that cannot be opened, with the effect above.
    panics::caught(open).ok().flatten().unwrap_or(ptr::null_mut())
}

/// # Safety
///
/// `name` is a string, and nothing else uses Postfix meanwhile.
unsafe fn register(opened: Box<Opened>, name: *const c_char, dict_flags: c_int) -> *mut Dict {
    let host = opened.host;
    let list = opened.table.list().map(|list| list.as_raw_fd());
    // SAFETY: `dict_alloc` returns as many bytes as requested, aligned as by malloc, sets its own part of
    // them, and ends the process if it cannot. `DICT_SIZE` has room for both.
    unsafe {
        let dict = host.alloc(TYPE, name, DICT_SIZE + size_of::<*mut Opened>());
        ours(dict).write(Box::into_raw(opened));
        (*dict).lookup = look_up;
        (*dict).close = close;
        (*dict).flags = dict_flags | Flags::PATTERN;
        if let Some(list) = list {
            // A file that is replaced ends the process. One that is written to does not: it is read
            // while Cyrus writes it.
            (*dict).flags |= Flags::MULTI_WRITER;
            (*dict).stat_fd = list;
            (*dict).mtime = 1;
        }
        dict
    }
}

/// Address of the library's part of a table.
///
/// # Safety
///
/// `dict` was made by [`register`].
unsafe fn ours(dict: *mut Dict) -> *mut *mut Opened {
    // SAFETY: `register` has allocated it.
    unsafe { dict.byte_add(DICT_SIZE).cast() }
}

/// # Safety
///
/// Only Postfix calls it, with a table that [`register`] made and a string.
unsafe extern "C" fn look_up(dict: *mut Dict, key: *const c_char) -> *const c_char {
    // SAFETY: Postfix has one thread, and does not use a table after closing it.
    let (opened, key) = unsafe {
        (*dict).error = Error::NONE;
        (&mut **ours(dict), text::bytes(key).unwrap_or_default())
    };
    let answer = panics::caught(|| opened.table.look_up(key));
    let answer = answer.unwrap_or_else(|bug| Answer::Temporary(text::line(&bug)));
    match answer {
        Answer::Found(text, why) => {
            if let Some(why) = why {
                opened.host.warn(&why);
            }
            opened.found = text;
            opened.found.as_ptr()
        }
        Answer::NotFound => ptr::null(),
        Answer::Temporary(why) => {
            opened.host.warn(&why);
            // SAFETY: as above.
            unsafe { (*dict).error = Error::RETRY };
            ptr::null()
        }
    }
}

/// # Safety
///
/// As [`look_up`]; Postfix does not use the table any more.
unsafe extern "C" fn close(dict: *mut Dict) {
    // SAFETY: the pointer is from `Box::into_raw`, and is not used after this.
    let opened = unsafe { Box::from_raw(ours(dict).read()) };
    let host = opened.host;
    let _ = panics::caught(|| drop(opened));
    // SAFETY: `register` got it from `dict_alloc`.
    unsafe { host.free(dict) };
}
