//! The functions of `c-api/murder_route.h`. What each of them does, and what it may be given, is said
//! there; here is only what lies between C and [`Library`].

#![expect(unsafe_code, reason = "C calls these with bare pointers; this is the fence")]

use std::ffi::{c_char, c_void};
use std::path::PathBuf;
use std::ptr;
use std::time::Duration;

use super::bindings as c;
use super::library::{Library, Origin, PATIENCE, Told};
use super::memory::Memory;
use super::{panics, text};
use crate::backend::Place;
use crate::router::{Cause, Decision, Refusal};
use crate::wire::socketmap::Reply;

/// A struct that is said to be larger cannot be meant.
const LARGEST: usize = 4096;

/// The signatures are those of the header.
const _: () = {
    let _ = [c::mr_strerror as unsafe extern "C" fn(_) -> _, mr_strerror];
    let _ = [c::mr_version as unsafe extern "C" fn() -> _, mr_version];
    let _ = [c::mr_abi as unsafe extern "C" fn() -> _, mr_abi];
    let _ = [c::mr_open as unsafe extern "C" fn(_, _, _, _) -> _, mr_open];
    let _ = [c::mr_open_options as unsafe extern "C" fn(_, _, _, _) -> _, mr_open_options];
    let _ = [c::mr_close as unsafe extern "C" fn(_), mr_close];
    let _ = [c::mr_lookup as unsafe extern "C" fn(_, _, _) -> _, mr_lookup];
    let _ = [c::mr_lookup_many as unsafe extern "C" fn(_, _, _, _) -> _, mr_lookup_many];
    let _ = [c::mr_decision_clear as unsafe extern "C" fn(_), mr_decision_clear];
    let _ = [c::mr_outcome_name as unsafe extern "C" fn(_) -> _, mr_outcome_name];
    let _ = [c::mr_answer as unsafe extern "C" fn(_, _, _, _) -> _, mr_answer];
    let _ = [c::mr_reply_clear as unsafe extern "C" fn(_), mr_reply_clear];
};

const OK: i32 = c::MR_OK as i32;
const INVALID: i32 = c::MR_INVALID as i32;
const CONFIG: i32 = c::MR_CONFIG as i32;
const NO_MAP: i32 = c::MR_NO_MAP as i32;
const FAILED: i32 = c::MR_FAILED as i32;

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_strerror(code: i32) -> *const c_char {
    let text = match code {
        OK => c"no error",
        INVALID => c"an argument that cannot be used",
        CONFIG => c"the configuration cannot be used",
        NO_MAP => c"no map of this name",
        FAILED => c"murder-route has failed inside (a bug)",
        _ => c"an error that this program does not know",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_abi() -> u32 {
    c::MR_ABI
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_outcome_name(outcome: i32) -> *const c_char {
    let name = match u32::try_from(outcome) {
        Ok(c::MR_DELIVER) => c"deliver",
        Ok(c::MR_UNKNOWN) => c"unknown",
        Ok(c::MR_REFUSED) => c"refused",
        Ok(c::MR_FOREIGN) => c"foreign",
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
) -> i32 {
    let options = c::mr_options { size: size_of::<c::mr_options>(), config, ..NO_OPTIONS };
    // SAFETY: `options` is whole, and the rest is as the caller has it.
    unsafe { mr_open_options(&raw const options, router, error, error_size) }
}

const NO_OPTIONS: c::mr_options = c::mr_options {
    size: 0,
    config: ptr::null(),
    imapd_conf: ptr::null(),
    mailboxes_db: ptr::null(),
    replica: ptr::null(),
    sources: ptr::null(),
    domains: ptr::null(),
    daemon: ptr::null(),
    deadline: 0,
    reserved: 0,
};

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_open_options(
    options: *const c::mr_options,
    router: *mut *mut c::mr_router,
    error: *mut c_char,
    error_size: usize,
) -> i32 {
    panics::keep_quiet();
    // SAFETY: the header wants each pointer to be NULL or good, and the options to be as large as
    // they say.
    unsafe {
        text::copy("", error, error_size);
        if router.is_null() || !router.is_aligned() {
            text::copy("no place for the router is given", error, error_size);
            return INVALID;
        }
        *router = ptr::null_mut();
        let opened = match panics::caught(|| match open(options) {
            Ok(library) => Ok(Box::into_raw(Box::new(library))),
            Err(why) => Err(why),
        }) {
            Ok(opened) => opened,
            Err(bug) => Err((FAILED, bug)),
        };
        match opened {
            Ok(library) => {
                *router = library.cast();
                OK
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
/// As the header says of `options`.
unsafe fn open(options: *const c::mr_options) -> Result<Library, (i32, String)> {
    let invalid = |why: &str| (INVALID, why.to_owned());
    // SAFETY: it is NULL or as large as it says, and `c::mr_options` is all numbers and pointers,
    // for which any bytes are a value; its strings are NULL or good.
    unsafe {
        let mut known = NO_OPTIONS;
        if !options.is_null() {
            if !options.is_aligned() {
                return Err(invalid("the options are not where options can be"));
            }
            let size = (*options).size;
            if !(size_of::<c::mr_options>()..=LARGEST).contains(&size) {
                return Err(invalid("the options have a size that cannot be meant"));
            }
            let bytes = std::slice::from_raw_parts(options.cast::<u8>(), size);
            let beyond = bytes.get(size_of::<c::mr_options>()..).unwrap_or_default();
            if beyond.iter().any(|byte| *byte != 0) || (*options).reserved != 0 {
                return Err(invalid("an option that this release does not know"));
            }
            known = *options;
        }
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
            patience: match known.deadline {
                0 => PATIENCE,
                milliseconds => Duration::from_millis(milliseconds.into()),
            },
        })
        .map_err(|why| (CONFIG, why))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_close(router: *mut c::mr_router) {
    if router.is_null() {
        return;
    }
    let _ = panics::caught(|| {
        // SAFETY: the header wants a router that was opened, was not closed, and that nobody uses.
        drop(unsafe { Box::from_raw(router.cast::<Library>()) });
    });
}

/// The library behind a router; `None`: NULL.
///
/// # Safety
///
/// As the header says: a router that was opened and not closed.
unsafe fn library<'a>(router: *mut c::mr_router) -> Option<&'a Library> {
    // SAFETY: it was made of a box by `mr_open_options`.
    unsafe { router.cast::<Library>().as_ref() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_lookup(
    router: *mut c::mr_router,
    recipient: *const c_char,
    decision: *mut c::mr_decision,
) -> i32 {
    // SAFETY: the header wants a router, a string, and a decision of the size that it says.
    unsafe {
        if decision.is_null() || !decision.is_aligned() || !is_size_of_a_decision(decision) {
            return INVALID;
        }
        reset(decision);
        let (Some(library), Some(recipient)) = (library(router), text::bytes(recipient)) else {
            return INVALID;
        };
        let _ = panics::caught(|| {
            let defers_unknown = library.defers_unknown();
            library.tell(recipient, &mut |told| fill(decision, told, defers_unknown));
        });
        OK
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_lookup_many(
    router: *mut c::mr_router,
    recipients: *const *const c_char,
    count: usize,
    decisions: *mut c::mr_decision,
) -> i32 {
    // SAFETY: the header wants `count` strings and as many structs of the size that the first one
    // says; none is touched beyond that size.
    unsafe {
        if count == 0 {
            return if router.is_null() { INVALID } else { OK };
        }
        if decisions.is_null() || !decisions.is_aligned() || !is_size_of_a_decision(decisions) {
            return INVALID;
        }
        let step = (*decisions).size;
        let decision = |at: usize| decisions.byte_add(at * step);
        let mut keys = Vec::new();
        let mut good = !router.is_null() && !recipients.is_null() && recipients.is_aligned();
        for at in 0..count {
            if (*decision(at)).size != step {
                return INVALID;
            }
            reset(decision(at));
            let key = if good { text::bytes(*recipients.add(at)) } else { None };
            match key {
                Some(key) => keys.push(key),
                None => good = false,
            }
        }
        let Some(library) = library(router).filter(|_| good) else { return INVALID };
        let _ = panics::caught(|| {
            let told = library.look_up_all(&keys);
            for (at, told) in told.iter().enumerate() {
                fill(decision(at), told, library.defers_unknown());
            }
        });
        OK
    }
}

/// # Safety
///
/// `decision` points to a size at least.
unsafe fn is_size_of_a_decision(decision: *const c::mr_decision) -> bool {
    // SAFETY: the caller says so.
    let size = unsafe { (*decision).size };
    (size_of::<c::mr_decision>()..=LARGEST).contains(&size)
        && size.is_multiple_of(align_of::<c::mr_decision>())
}

/// Empties a decision, but for its memory.
///
/// # Safety
///
/// `decision` points to one whose size is right.
unsafe fn reset(decision: *mut c::mr_decision) {
    // SAFETY: the caller says so.
    unsafe {
        let (size, memory) = ((*decision).size, (*decision).memory);
        *decision = c::mr_decision { size, memory, ..NO_DECISION };
    }
}

const NO_DECISION: c::mr_decision = c::mr_decision {
    size: 0,
    outcome: c::MR_DEFERRED as i32,
    detail: c::MR_DETAIL_NONE as i32,
    source: c::MR_SOURCE_NONE as i32,
    port: 0,
    age: -1,
    host: ptr::null(),
    socket: ptr::null(),
    transport: ptr::null(),
    mailbox: ptr::null(),
    server: ptr::null(),
    partition: ptr::null(),
    reason: c"".as_ptr(),
    memory: ptr::null_mut(),
};

/// # Safety
///
/// `decision` points to one that was [`reset`].
unsafe fn fill(decision: *mut c::mr_decision, told: &Told, defers_unknown: bool) {
    let route = &told.route;
    let (outcome, detail) = match &route.decision {
        Decision::Deliver(_) => (c::MR_DELIVER, c::MR_DETAIL_NONE),
        Decision::Unknown if defers_unknown => (c::MR_DEFERRED, c::MR_DETAIL_MAILBOX),
        Decision::Unknown => (c::MR_UNKNOWN, c::MR_DETAIL_NONE),
        Decision::Deferred(Cause::Mailbox) => (c::MR_DEFERRED, c::MR_DETAIL_MAILBOX),
        Decision::Deferred(Cause::List) => (c::MR_DEFERRED, c::MR_DETAIL_LIST),
        Decision::Refused(Refusal::NoPost) => (c::MR_REFUSED, c::MR_DETAIL_NO_POST),
        Decision::Refused(Refusal::Syntax) => (c::MR_REFUSED, c::MR_DETAIL_SYNTAX),
        Decision::Foreign => (c::MR_FOREIGN, c::MR_DETAIL_NONE),
    };
    let source = match told.origin {
        Origin::Nothing => c::MR_SOURCE_NONE,
        Origin::MailboxesDb => c::MR_SOURCE_MAILBOXES_DB,
        Origin::Replica => c::MR_SOURCE_REPLICA,
        Origin::Daemon => c::MR_SOURCE_DAEMON,
    };
    let backend = match &route.decision {
        Decision::Deliver(backend) => Some(backend),
        _ => None,
    };
    let (host, port, socket) = match backend.map(|backend| &backend.place) {
        Some(Place::Inet { host, port }) => (Some(host.as_bytes()), u32::from(*port), None),
        Some(Place::Unix(path)) => (None, 0, Some(path.as_bytes())),
        None => (None, 0, None),
    };
    let transport = backend.map(|backend| backend.transport.as_bytes());
    let mailbox = route.mailbox.as_ref().map(|mailbox| mailbox.as_bytes());
    let server = route.server.as_ref().map(|server| server.as_bytes());
    let partition = route.partition.as_ref().map(|name| name.as_bytes());
    let reason = route.why_in_pieces();
    // SAFETY: the caller says that it is a decision, whose memory is NULL or of this function.
    unsafe {
        let memory = memory_of(&raw mut (*decision).memory);
        let [host, socket, transport, mailbox, server, partition, reason] = memory.keep([
            host.as_slice(),
            socket.as_slice(),
            transport.as_slice(),
            mailbox.as_slice(),
            server.as_slice(),
            partition.as_slice(),
            &reason.each_ref().map(|piece| &**piece),
        ]);
        *decision = c::mr_decision {
            size: (*decision).size,
            outcome: outcome as i32,
            detail: detail as i32,
            source: source as i32,
            port,
            age: told.age.map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)),
            host,
            socket,
            transport,
            mailbox,
            server,
            partition,
            reason,
            memory: (*decision).memory,
        };
    }
}

/// The memory of a struct, made if it has none.
///
/// # Safety
///
/// `memory` points to the member of a struct of the caller's that is NULL or was set by this.
unsafe fn memory_of<'a>(memory: *mut *mut c_void) -> &'a mut Memory {
    // SAFETY: the caller says so, and nobody else has the struct meanwhile.
    unsafe {
        if (*memory).is_null() {
            *memory = Box::<Memory>::default().into_raw();
        }
        &mut *(*memory).cast::<Memory>()
    }
}

/// # Safety
///
/// As [`memory_of`].
unsafe fn free(memory: *mut *mut c_void) {
    // SAFETY: the caller says so; it was made by `Memory::into_raw`.
    unsafe {
        if !(*memory).is_null() {
            drop(Box::from_raw((*memory).cast::<Memory>()));
            *memory = ptr::null_mut();
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_decision_clear(decision: *mut c::mr_decision) {
    // SAFETY: the header wants a decision that was used, was not, or was cleared.
    unsafe {
        if decision.is_null() || !decision.is_aligned() || !is_size_of_a_decision(decision) {
            return;
        }
        let size = (*decision).size;
        free(&raw mut (*decision).memory);
        *decision = c::mr_decision { size, reason: ptr::null(), ..NO_DECISION };
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_answer(
    router: *mut c::mr_router,
    map: *const c_char,
    recipient: *const c_char,
    reply: *mut c::mr_reply,
) -> i32 {
    // SAFETY: the header wants strings, and a reply that was used, was not, or was cleared.
    unsafe {
        if reply.is_null() || !reply.is_aligned() || !is_size_of_a_reply(reply) {
            return INVALID;
        }
        let (size, memory) = ((*reply).size, (*reply).memory);
        *reply = c::mr_reply { size, memory, ..NO_REPLY };
        let library = library(router);
        let (Some(library), Some(map), Some(recipient)) =
            (library, text::bytes(map), text::bytes(recipient))
        else {
            return INVALID;
        };
        let answered = panics::caught(|| library.answer(std::str::from_utf8(map).ok()?, recipient));
        let answer = match answered {
            Ok(Some(answer)) => answer,
            Ok(None) => return NO_MAP,
            Err(bug) => Reply::Temp(bug),
        };
        let (kind, text) = match answer.fit() {
            Reply::Ok(text) => (c::MR_REPLY_OK, text),
            Reply::NotFound => (c::MR_REPLY_NOT_FOUND, String::new()),
            Reply::Temp(why) => (c::MR_REPLY_TEMPORARY, why),
        };
        let [text] = memory_of(&raw mut (*reply).memory).keep([&[text.as_bytes()]]);
        (*reply).kind = kind as i32;
        (*reply).text = text;
        OK
    }
}

const NO_REPLY: c::mr_reply = c::mr_reply {
    size: 0,
    kind: c::MR_REPLY_TEMPORARY as i32,
    reserved: 0,
    text: c"".as_ptr(),
    memory: ptr::null_mut(),
};

/// # Safety
///
/// `reply` points to a size at least.
unsafe fn is_size_of_a_reply(reply: *const c::mr_reply) -> bool {
    // SAFETY: the caller says so.
    let size = unsafe { (*reply).size };
    (size_of::<c::mr_reply>()..=LARGEST).contains(&size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mr_reply_clear(reply: *mut c::mr_reply) {
    // SAFETY: the header wants a reply that was used, was not, or was cleared.
    unsafe {
        if reply.is_null() || !reply.is_aligned() || !is_size_of_a_reply(reply) {
            return;
        }
        let size = (*reply).size;
        free(&raw mut (*reply).memory);
        *reply = c::mr_reply { size, text: ptr::null(), ..NO_REPLY };
    }
}
