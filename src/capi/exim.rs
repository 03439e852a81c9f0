//! A function for Exim's `${dlfunc{…}{murder_route_exim}{…}}`.
//!
//! Exim forks for each connection and each delivery, loads a library once per process, and copies the
//! returned text at once. Of Exim's interface only five numbers are needed.

#![expect(unsafe_code, reason = "Exim calls this with bare pointers; this is the fence")]

use std::cell::RefCell;
use std::ffi::{CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::library::Library;
use super::timeout::MAX_TIMEOUT;
use super::{panics, text};
use crate::config::Overrides;
use crate::model::backend::LmtpAddress;
use crate::model::shown::ShownBytes;
use crate::routing::route::{Decision, Route};
use crate::wire::socketmap::Reply;

/// Return code of the function, by Exim's `local_scan.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Code {
    /// The text is the value of the expansion.
    Ok = 0,
    /// The expansion fails: the address is put off, and the text is in the main log. (`DEFER` and
    /// `ERROR` do the same, and write to the panic log, or hang up where that cannot be written.)
    Fail = 2,
    /// As `fail` in an expansion: a router declines.
    FailForced = 4,
}

/// Maximum number of open configurations; no Exim has as many.
const KEPT: usize = 8;

thread_local! {
    /// The configurations of this process, and of the one that forked it.
    static OPEN: RefCell<Vec<(PathBuf, Library)>> = const { RefCell::new(Vec::new()) };
    static TEXT: RefCell<CString> = RefCell::default();
}

/// `${dlfunc{…/libmurder_route.so}{murder_route_exim}{RECIPIENT}{CONFIGURATION}{MAP}}`.
///
/// The recipient is `local[+detail]@domain`, quoted or not. The configuration is the path of
/// murder-route.toml; without it, or if it is empty, the usual one. Without a map, or if it is empty,
/// the value is the backend, in the form of a router's `route_data`: `<;be1.example.org:2003` or
/// `<;[2001:db8::1]:2003`. With a map, it is the answer of that map.
///
/// An unknown recipient is a forced failure, as `fail` in an expansion. A recipient that cannot be decided at
/// present fails the expansion, so that it is deferred. So does a recipient in a domain that the configuration
/// does not have, unless a map was named: Exim's routers have accepted the domain, and nothing is known of it.
///
/// # Safety
///
/// Only Exim calls it: `yield_` receives the text, `argv` has `argc` strings.
#[unsafe(no_mangle)]
unsafe extern "C" fn murder_route_exim(
    yield_: *mut *mut c_char,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    panics::keep_quiet();
    let answered = panics::caught(|| {
        let argument = |nth: c_int| match (0..argc).contains(&nth) && !argv.is_null() {
            // SAFETY: there are `argc` of them, each of them a string.
            true => unsafe { text::bytes(*argv.add(nth.unsigned_abs() as usize)) },
            false => None,
        };
        let empty_is_none = |text: &&[u8]| !text.is_empty();
        match argument(0) {
            Some(recipient) if argc <= 3 => {
                let configuration = argument(1).filter(empty_is_none);
                answer(recipient, configuration, argument(2).filter(empty_is_none))
            }
            _ => (
                Code::Fail,
                "murder_route_exim wants a recipient, and perhaps a \
                  configuration file and a map"
                    .into(),
            ),
        }
    });
    let (code, text) = answered.unwrap_or_else(|bug| (Code::Fail, bug));
    let kept = TEXT.try_with(|kept| {
        *kept.borrow_mut() = text::line(&text);
        kept.borrow().as_ptr().cast_mut()
    });
    // Fails only in a thread that is ending.
    let (code, text) = kept.map_or((Code::Fail, c"".as_ptr().cast_mut()), |text| (code, text));
    if !yield_.is_null() {
        // SAFETY: Exim has a place for a pointer there, and copies the text before anything else.
        unsafe { *yield_ = text };
    }
    code as c_int
}

/// The value of the expansion, or the reason why there is none.
fn answer(recipient: &[u8], configuration: Option<&[u8]>, map: Option<&[u8]>) -> (Code, String) {
    let path = PathBuf::from(OsStr::from_bytes(configuration.unwrap_or_default()));
    OPEN.with_borrow_mut(|open| {
        let at = match open.iter().position(|(known, _)| *known == path) {
            Some(at) => at,
            None => {
                let config = configuration.is_some().then(|| path.clone());
                let overrides = Overrides { config, ..Overrides::default() };
                match Library::open(overrides, None, MAX_TIMEOUT) {
                    Ok(library) => {
                        if open.len() >= KEPT {
                            open.clear();
                        }
                        open.push((path, library));
                        open.len() - 1
                    }
                    // Not kept: the next call may find the configuration repaired.
                    Err(why) => return (Code::Fail, format!("murder-route: {why}")),
                }
            }
        };
        match (open.get(at), map) {
            (Some((_, library)), None) => hosts(&library.look_up(recipient).route),
            (Some((_, library)), Some(map)) => by_map(library, map, recipient),
            (None, _) => (Code::Fail, String::new()),
        }
    })
}

/// The route as a list of one host. It begins with the list separator, since the host contains a colon.
fn hosts(route: &Route) -> (Code, String) {
    let why = || format!("murder-route: {}", route.why());
    match &route.decision {
        Decision::Deliver(backend) => match &backend.address {
            LmtpAddress::Inet { host, port } if host.contains(':') => {
                (Code::Ok, format!("<;[{host}]:{port}"))
            }
            LmtpAddress::Inet { host, port } => (Code::Ok, format!("<;{host}:{port}")),
            LmtpAddress::Unix(path) => {
                (Code::Fail, format!("murder-route: the backend is the unix socket {path}"))
            }
        },
        Decision::Deferred(_) => (Code::Fail, why()),
        Decision::Foreign => (Code::Fail, format!("{}: is it missing in `domains`?", why())),
        Decision::Unknown | Decision::Refused(_) => (Code::FailForced, why()),
    }
}

fn by_map(library: &Library, map: &[u8], recipient: &[u8]) -> (Code, String) {
    let reply = std::str::from_utf8(map).ok().and_then(|map| library.answer(map, recipient));
    match reply.map(Reply::fit) {
        Some(Reply::Ok(text)) => (Code::Ok, text),
        Some(Reply::NotFound) => (Code::FailForced, "murder-route: not found".into()),
        Some(Reply::Temp(why)) => (Code::Fail, format!("murder-route: {why}")),
        None => (Code::Fail, format!("murder-route: no map `{}`", ShownBytes(map))),
    }
}
