//! Look-ups: `mr_lookup`, `mr_lookup_within` and `mr_lookup_many` fill `mr_decision`.

use std::ffi::{CStr, c_char};
use std::time::Duration;

use super::super::bindings::{self as c, mr_code};
use super::super::library::Library;
use super::super::outcome::{Origin, Outcome};
use super::super::{panics, text};
use super::structs::{self, Allocated as _};
use super::{library, seconds, text_of};
use crate::model::backend::LmtpAddress;
use crate::routing::route::{Cause, Decision, Refusal};

/// Reason of a decision that was not reached.
const NOT_MADE: &CStr = c"no decision was reached (a bug)";

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mr_lookup(
    router: *mut c::mr_router,
    recipient: *const c_char,
    decision: *mut c::mr_decision,
) -> mr_code {
    // SAFETY: the header requires a router, a string, and a decision as large as its size says.
    unsafe { look_up(router, recipient, None, decision) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mr_lookup_within(
    router: *mut c::mr_router,
    recipient: *const c_char,
    milliseconds: u32,
    decision: *mut c::mr_decision,
) -> mr_code {
    let limit = Duration::from_millis(milliseconds.into());
    // SAFETY: the header requires a router, a string, and a decision as large as its size says.
    unsafe { look_up(router, recipient, Some(limit), decision) }
}

/// # Safety
///
/// As [`mr_lookup`].
unsafe fn look_up(
    router: *mut c::mr_router,
    recipient: *const c_char,
    limit: Option<Duration>,
    decision: *mut c::mr_decision,
) -> mr_code {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if !structs::is_usable(decision) {
            return c::MR_ERR_INVALID;
        }
        let (Some(library), Some(recipient)) = (library(router), text::bytes(recipient)) else {
            structs::reset(decision, text_of(c::MR_ERR_INVALID));
            return c::MR_ERR_INVALID;
        };
        structs::reset(decision, NOT_MADE);
        let _ = panics::caught(|| {
            let told = match limit {
                Some(limit) => library.look_up_within(recipient, limit),
                None => library.look_up(recipient),
            };
            fill(decision, library, recipient, &told);
        });
        c::MR_OK
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mr_lookup_many(
    router: *mut c::mr_router,
    recipients: *const *const c_char,
    count: usize,
    decisions: *mut c::mr_decision,
) -> mr_code {
    // SAFETY: the header requires `count` strings and as many structs as large as the size in the first one
    // says; none is touched beyond that size.
    unsafe {
        if count == 0 {
            return if router.is_null() { c::MR_ERR_INVALID } else { c::MR_OK };
        }
        if !structs::is_usable(decisions) {
            return c::MR_ERR_INVALID;
        }
        let step = (*decisions).size;
        let decision = |at: usize| decisions.byte_add(at * step);
        let mut keys = Vec::new();
        let mut good = !router.is_null() && !recipients.is_null() && recipients.is_aligned();
        for at in 0..count {
            if (*decision(at)).size != step {
                return c::MR_ERR_INVALID;
            }
            structs::reset(decision(at), text_of(c::MR_ERR_INVALID));
            let key = if good { text::bytes(*recipients.add(at)) } else { None };
            match key {
                Some(key) => keys.push(key),
                None => good = false,
            }
        }
        let Some(library) = library(router).filter(|_| good) else { return c::MR_ERR_INVALID };
        for at in 0..count {
            structs::reset(decision(at), NOT_MADE);
        }
        let _ = panics::caught(|| {
            let told = library.look_up_all(&keys);
            for (at, (told, key)) in told.iter().zip(&keys).enumerate() {
                fill(decision(at), library, key, told);
            }
        });
        c::MR_OK
    }
}

/// # Safety
///
/// `decision` is usable and as large as its size says; its memory is NULL or was set by this function.
unsafe fn fill(decision: *mut c::mr_decision, library: &Library, recipient: &[u8], told: &Outcome) {
    let route = &told.route;
    let (outcome, detail) = match &route.decision {
        Decision::Deliver(_) => (c::MR_DELIVER, c::MR_DETAIL_NONE),
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
    let (host, port, socket) = match backend.map(|backend| &backend.address) {
        Some(LmtpAddress::Inet { host, port }) => (Some(host.as_bytes()), u32::from(*port), None),
        Some(LmtpAddress::Unix(path)) => (None, 0, Some(path.as_bytes())),
        None => (None, 0, None),
    };
    let rcpt_to = library.rcpt_to(recipient, route);
    let rcpt_to = rcpt_to.as_deref().map(str::as_bytes);
    let transport = backend.map(|backend| backend.transport.as_bytes());
    let mailbox = route.mailbox.as_ref().map(|mailbox| mailbox.as_bytes());
    let server = route.server.as_ref().map(|server| server.as_bytes());
    let partition = route.partition.as_ref().map(|name| name.as_bytes());
    let reason = route.why_in_pieces();
    let reason = reason.each_ref().map(|piece| &**piece);
    let [first, ..] = reason;
    // A daemon of another release may send none.
    let reason: &[&[u8]] = match (first, outcome) {
        ([], c::MR_DELIVER) => &[b"the mailbox is there"],
        ([], c::MR_UNKNOWN) => &[b"no such mailbox"],
        ([], _) => &[b"the daemon gives no reason"],
        _ => &reason,
    };
    // SAFETY: guaranteed by the caller.
    unsafe {
        let [recipient, host, socket, transport, mailbox, server, partition, reason] =
            structs::memory_of(decision).keep([
                rcpt_to.as_slice(),
                host.as_slice(),
                socket.as_slice(),
                transport.as_slice(),
                mailbox.as_slice(),
                server.as_slice(),
                partition.as_slice(),
                reason,
            ]);
        let filled = c::mr_decision {
            outcome,
            detail,
            source,
            port,
            age: seconds(told.age),
            recipient,
            host,
            socket,
            transport,
            mailbox,
            server,
            partition,
            reason,
            ..c::mr_decision::EMPTY
        };
        structs::write(decision, &filled);
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mr_decision_clear(decision: *mut c::mr_decision) {
    // SAFETY: the header requires a decision that is initialised, used or cleared.
    unsafe { structs::clear(decision) }
}
