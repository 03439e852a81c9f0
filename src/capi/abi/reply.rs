//! Answers of the maps: `mr_answer` fills `mr_reply`.

use std::ffi::c_char;

use super::super::bindings::{self as c, mr_code};
use super::super::{panics, text};
use super::structs::{self, Allocated as _};
use super::{library, text_of};
use crate::wire::socketmap::Reply;

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mr_answer(
    router: *mut c::mr_router,
    map: *const c_char,
    recipient: *const c_char,
    reply: *mut c::mr_reply,
) -> mr_code {
    // SAFETY: the header requires strings, and a reply that is initialised, used or cleared.
    unsafe {
        if !structs::is_usable(reply) {
            return c::MR_ERR_INVALID;
        }
        let failed = |code| {
            structs::reset(reply, text_of(code));
            code
        };
        let library = library(router);
        let (Some(library), Some(map), Some(recipient)) =
            (library, text::bytes(map), text::bytes(recipient))
        else {
            return failed(c::MR_ERR_INVALID);
        };
        let answered = panics::caught(|| library.answer(std::str::from_utf8(map).ok()?, recipient));
        let answer = match answered {
            Ok(Some(answer)) => answer,
            Ok(None) => return failed(c::MR_ERR_NO_MAP),
            Err(bug) => Reply::Temp(bug),
        };
        let (kind, text) = match answer.fit() {
            Reply::Ok(text) => (c::MR_REPLY_OK, text),
            Reply::NotFound => (c::MR_REPLY_NOT_FOUND, String::new()),
            Reply::Temp(why) if why.is_empty() => {
                (c::MR_REPLY_TEMPORARY, "the map gives no reason".to_owned())
            }
            Reply::Temp(why) => (c::MR_REPLY_TEMPORARY, why),
        };
        let [text] = structs::memory_of(reply).keep([&[text.as_bytes()]]);
        structs::write(reply, &c::mr_reply { kind, text, ..c::mr_reply::EMPTY });
        c::MR_OK
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mr_reply_clear(reply: *mut c::mr_reply) {
    // SAFETY: the header requires a reply that is initialised, used or cleared.
    unsafe { structs::clear(reply) }
}
