//! Turns a panic into an error, silently.
//!
//! The standard hook writes to standard error, which in a mail server may be anything, even a connection
//! to a client. The library has its own copy of the standard library, so this hook affects no other code.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Stops panics from writing anything.
pub(super) fn keep_quiet() {
    static QUIET: AtomicBool = AtomicBool::new(false);
    if QUIET.swap(true, Relaxed) {
        return;
    }
    set_hook(Box::new(|info| {
        let text = info.to_string();
        let _ = LAST.try_with(|last| last.try_borrow_mut().map(|mut last| *last = text));
    }));
}

/// Runs code that must not unwind into C. After a panic, state changed halfway is left so; state that the next
/// call can see must tolerate that. `Err` names the place, for a report.
pub(super) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        // A payload that is no text may panic again when it is dropped.
        if !payload.is::<String>() && !payload.is::<&'static str>() {
            std::mem::forget(payload);
        }
        let last = LAST.try_with(|last| last.try_borrow().map(|last| last.clone()));
        let place = last.ok().and_then(Result::ok).unwrap_or_default().replace('\n', " ");
        format!("murder-route failed inside (a bug), please report it: {place}")
    })
}
