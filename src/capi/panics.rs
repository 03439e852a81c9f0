//! A panic becomes an error, and says nothing on its own.
//!
//! The standard hook writes to standard error, which in a mail server may be anything, a connection
//! to a client among others. The library has a copy of the standard library to itself, so its hook is
//! no other's.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics from writing anything, from now on.
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

/// Runs what must not unwind into C. After a panic what was changed halfway is left so: whatever can
/// be seen by the next call has to bear that. `Err` says where, for a report.
pub(super) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        // What is not the text of a panic may panic again when it is dropped.
        if !payload.is::<String>() && !payload.is::<&'static str>() {
            std::mem::forget(payload);
        }
        let last = LAST.try_with(|last| last.try_borrow().map(|last| last.clone()));
        let place = last.ok().and_then(Result::ok).unwrap_or_default().replace('\n', " ");
        format!("murder-route failed inside (a bug), please report it: {place}")
    })
}
