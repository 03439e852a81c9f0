//! Answers of the table, in safe Rust.

use std::ffi::{CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use crate::capi::library::Library;
use crate::capi::text;
use crate::capi::timeout::MAX_TIMEOUT;
use crate::config::Overrides;
use crate::model::shown::Shown;
use crate::wire::socketmap::Reply;

/// Map that `transport_maps` needs; the default.
const USUAL_MAP: &str = "lmtp";

/// An open table.
#[derive(Debug)]
pub(super) struct Table {
    /// The name as in main.cf, for the log.
    name: String,
    library: Library,
    map: String,
}

/// Answer for a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An answer; may be a temporary error, with a reason for the mail log.
    Found(CString, Option<CString>),
    /// No entry; Postfix asks its next table.
    NotFound,
    /// A temporary error, with the reason for the mail log.
    Temporary(CString),
}

/// `/etc/murder-route.toml`, or `/etc/murder-route.toml:recipient`: the configuration, and the map, unless it
/// is the default. As in a socketmap's name, the map follows the last colon.
fn parse(name: &[u8]) -> Result<(&OsStr, &str), String> {
    let colon = name.iter().rposition(|byte| *byte == b':');
    let halves = colon.and_then(|at| Some((name.get(..at)?, name.get(at + 1..)?)));
    let (path, map) = match halves {
        Some((path, map)) if !map.contains(&b'/') => (path, Some(map)),
        _ => (name, None),
    };
    // Postfix' processes have the queue as their working directory, and postmap that of its user.
    if !path.starts_with(b"/") {
        return Err(
            "the table's name is that of the configuration file, with its whole path, as in \
             murder:/etc/murder-route.toml, and of a map, as in murder:/etc/murder-route.toml:recipient"
                .into(),
        );
    }
    let map = match map {
        Some(map) => std::str::from_utf8(map).map_err(|_| "the map's name is not UTF-8")?,
        None => USUAL_MAP,
    };
    Ok((OsStr::from_bytes(path), map))
}

impl Table {
    /// Opens the table of this name.
    pub(super) fn open(name: &[u8]) -> Result<Self, String> {
        let (path, map) = parse(name)?;
        let overrides = Overrides { config: Some(path.into()), ..Overrides::default() };
        let library = Library::open(overrides, None, MAX_TIMEOUT).map_err(|why| why.to_string())?;
        if !library.has_map(map) {
            return Err(format!("there is no map `{}`", Shown(map)));
        }
        let name = String::from_utf8_lossy(name).into_owned();
        Ok(Self { name, library, map: map.to_owned() })
    }

    /// The list that the table reads, if it is a file of Cyrus' that could be opened.
    pub(super) fn list(&self) -> Option<BorrowedFd<'_>> {
        self.library.list_file()
    }

    /// The answer for a key of Postfix: a complete address, or a key of another form, which has no entry.
    pub(super) fn look_up(&self, key: &[u8]) -> Answer {
        let Some((reply, why)) = self.library.answer_and_why(&self.map, key) else {
            return Answer::Temporary(self.log("there is no such map any more"));
        };
        match reply.fit() {
            Reply::Ok(text) => match CString::new(text) {
                // If the daemon was asked, it has logged the cause.
                Ok(text) => Answer::Found(text, why.map(|why| self.log(&why))),
                Err(_) => Answer::Temporary(self.log("the answer has a NUL in it")),
            },
            Reply::NotFound => Answer::NotFound,
            Reply::Temp(why) => Answer::Temporary(self.log(&why)),
        }
    }

    fn log(&self, why: &str) -> CString {
        text::line(&format!("murder:{}: {why}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_a_file_and_an_optional_map() {
        for (name, path, map) in [
            ("/etc/murder-route.toml", "/etc/murder-route.toml", "lmtp"),
            ("/etc/murder-route.toml:recipient", "/etc/murder-route.toml", "recipient"),
            ("/etc/a:b/murder-route.toml", "/etc/a:b/murder-route.toml", "lmtp"),
            ("/etc/a:b/c.toml:canonical", "/etc/a:b/c.toml", "canonical"),
            ("/etc/c.toml:", "/etc/c.toml", ""),
        ] {
            assert_eq!(parse(name.as_bytes()), Ok((OsStr::new(path), map)), "{name}");
        }
        for name in ["", ":", "murder-route.toml", "lmtp", ":lmtp", "etc/c.toml:lmtp"] {
            assert!(parse(name.as_bytes()).is_err(), "{name}");
        }
        assert!(parse(b"/etc/c.toml:\xff").is_err());
    }
}
