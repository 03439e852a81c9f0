//! Health: `mr_check` fills `mr_status`.

use std::time::Duration;

use super::super::bindings::{self as c, mr_code};
use super::super::health::State;
use super::super::panics;
use super::structs::{self, Allocated as _};
use super::{library, seconds, text_of};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mr_check(
    router: *mut c::mr_router,
    milliseconds: u32,
    status: *mut c::mr_status,
) -> mr_code {
    // SAFETY: the header requires a router, and a status that is initialised, used or cleared.
    unsafe {
        if !structs::is_usable(status) {
            return c::MR_ERR_INVALID;
        }
        let failed = |code| {
            structs::reset(status, text_of(code));
            code
        };
        let Some(library) = library(router) else { return failed(c::MR_ERR_INVALID) };
        let limit = Duration::from_millis(milliseconds.into());
        let Ok(health) = panics::caught(|| library.check(limit)) else {
            return failed(c::MR_ERR_INTERNAL);
        };
        let reasons = [&health.mailboxes_db, &health.replica, &health.daemon]
            .map(|part| part.reason.as_bytes());
        let [mailboxes_db_reason, replica_reason, daemon_reason] =
            structs::memory_of(status).keep([&[reasons[0]], &[reasons[1]], &[reasons[2]]]);
        let filled = c::mr_status {
            overall: state(health.overall),
            mailboxes_db: state(health.mailboxes_db.state),
            replica: state(health.replica.state),
            daemon: state(health.daemon.state),
            mailboxes_db_records: count(health.records),
            replica_names: count(health.names),
            replica_age: seconds(health.age),
            mailboxes_db_reason,
            replica_reason,
            daemon_reason,
            ..c::mr_status::EMPTY
        };
        structs::write(status, &filled);
        c::MR_OK
    }
}

fn state(state: State) -> c::mr_state {
    match state {
        State::None => c::MR_STATE_NONE,
        State::Good => c::MR_STATE_GOOD,
        State::HitsOnly => c::MR_STATE_HITS_ONLY,
        State::Bad => c::MR_STATE_BAD,
        State::Unchecked => c::MR_STATE_UNCHECKED,
    }
}

fn count(known: Option<u64>) -> i64 {
    known.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mr_status_clear(status: *mut c::mr_status) {
    // SAFETY: the header requires a status that is initialised, used or cleared.
    unsafe { structs::clear(status) }
}
