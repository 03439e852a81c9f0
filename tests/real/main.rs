//! Tests with real programs: a Cyrus Murder (MUPDATE master, two backends, a frontend), Postfix, and
//! `murder-route` beside the frontend. Mail is sent by SMTP and read back by IMAP. They run once for each
//! release of Cyrus that Debian has; with one release also with Sendmail and Exim. The units of systemd run
//! on hosts that two releases of systemd boot.
//!
//! Needs root, and Debian's packages from the network at the first run: `make check-real`. Words as
//! arguments select scenarios by parts of their names, and releases or mail servers: `cargo test --test
//! real -- sid moved`, `… -- sendmail`, `… -- systemd`.

// No other crate can use items of this program.
#![allow(unreachable_pub)]

mod booted;
mod clients;
mod exchanger;
mod exim;
mod imapd_conf;
#[path = "../common/left_out.rs"]
mod left_out;
mod library;
mod logs;
mod mishaps;
mod murder;
mod names_only;
mod postfix;
mod readme;
mod releases;
mod report;
mod root;
mod router;
mod sandbox;
mod scenarios;
mod sendmail;
mod tls;
mod watch;
mod world;

use std::process::{Command, ExitCode, Output};

/// Result of most functions here. The error is the text that the report prints.
type Done<T = ()> = Result<T, Error>;

/// Any error.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Fails with a text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+).into());
        }
    };
}
use ensure;

fn main() -> ExitCode {
    if std::env::var_os("MURDER_ROUTE_REAL").is_none() {
        println!("skipped: run make check-real");
        return ExitCode::SUCCESS;
    }
    let Some(cached_root) = sandbox::inside() else { return releases::run_all() };
    scenarios::run_all(&cached_root).unwrap_or_else(|error| {
        println!("FAILED: {error}\n0 passed, 1 failed");
        ExitCode::FAILURE
    })
}

/// Runs a command to its end. Returns its standard output, or its complaints as an error.
fn run(command: &mut Command) -> Done<String> {
    let Output { status, stdout, stderr } =
        command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    Ok(stdout.into_owned())
}
