//! Tests that this machine or this user cannot run are left out, but never silently: `make check` lists
//! them at its end.

use std::fs::OpenOptions;
use std::io::Write;

/// Reports that the present test, or a part of it, is left out, and why: on standard error, and in the file
/// that the variable `MURDER_ROUTE_LEFT_OUT` names.
pub(crate) fn left_out(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    eprint!("LEFT OUT: {line}");
    let Some(path) = std::env::var_os("MURDER_ROUTE_LEFT_OUT") else { return };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    // One write per line: several programs append at once.
    if let Err(e) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        panic!("{}: {e}", path.display());
    }
}
