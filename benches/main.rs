//! Measurements, each against a peer in the same run on the same data: Cyrus' own reader of the list,
//! Cyrus' own socketmap server, its MUPDATE slave and its lmtpproxyd, Postfix' own tables, and a bare echo
//! server in C. `docs/running-benchmarks.md` describes them.
//!
//! Needs root, a C compiler, and Debian's packages from the network at the first run: `make bench`.

// No other crate can use items of this program.
#![allow(unreachable_pub)]

mod changes;
#[allow(dead_code)]
#[path = "../tests/real/clients/mod.rs"]
mod clients;
mod daemon;
mod delivery;
#[allow(dead_code)]
#[path = "../tests/real/library.rs"]
mod install;
mod library;
mod list;
mod lookups;
mod mail_server;
mod mupdate;
#[allow(dead_code)]
#[path = "../tests/real/murder.rs"]
mod murder;
mod postfix;
mod processor;
mod protocols;
mod replica;
#[allow(dead_code)]
#[path = "../tests/real/root.rs"]
mod root;
mod round_trips;
#[allow(dead_code)]
#[path = "../tests/real/sandbox.rs"]
mod sandbox;
mod socketmap;
mod syslog;
mod table;
#[allow(dead_code)]
#[path = "../tests/real/tls.rs"]
mod tls;

use std::path::Path;
use std::process::{Command, ExitCode, Output};

use crate::list::Site;
use crate::root::{MailServer, Release, Root};
use crate::table::Table;

/// Result of most functions here; the error is a text.
type Done<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Fails with a text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+).into());
        }
    };
}
use ensure;

/// The root for all measurements.
const ROOT: Root = Root::of(Release::V3_6, MailServer::Postfix);

fn main() -> ExitCode {
    if std::env::var_os("MURDER_ROUTE_REAL").is_none() {
        println!("skipped: run make bench");
        return ExitCode::SUCCESS;
    }
    let done = match sandbox::inside() {
        Some(cached_root) => measure(&cached_root).map(|()| ExitCode::SUCCESS),
        None => root::ensure_root(ROOT).and_then(|root| {
            let status = sandbox::enter(&root, |line| println!("{line}"))?;
            Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }),
    };
    done.unwrap_or_else(|error| {
        println!("FAILED: {error}");
        ExitCode::FAILURE
    })
}

fn measure(cached_root: &Path) -> Done {
    sandbox::prepare(cached_root)?;
    let site = Site::prepare(cached_root)?;
    println!("load before: {}", load()?);
    let mut table = Table::default();
    if wanted("lookups") {
        lookups::measure(&site, &mut table)?;
    }
    if wanted("socketmap") {
        socketmap::measure(&site, &mut table)?;
    }
    if wanted("protocols") {
        protocols::measure(&site, &mut table)?;
    }
    if wanted("daemon") {
        daemon::measure(&site, &mut table)?;
    }
    if wanted("postfix") {
        postfix::measure(&site, &mut table)?;
    }
    if wanted("replica") {
        replica::measure(&site, cached_root, &mut table)?;
    }
    if wanted("library") {
        library::measure(&site, &mut table)?;
    }
    if wanted("delivery") {
        delivery::measure(&mut table)?;
    }
    println!("load after: {}\n", load()?);
    print!("{table}");
    Ok(())
}

/// Words on the command line select parts: `make bench PARTS="lookups socketmap"`. Default: all.
fn wanted(part: &str) -> bool {
    // Cargo adds `--bench`.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| word == part)
}

/// The load of the machine: processes ready to run, in the last minutes.
fn load() -> Done<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{} on {cores} cores", text.trim()))
}

/// Runs a command to its end. Returns its standard output, or its complaints as an error.
fn run(command: &mut Command) -> Done<String> {
    let Output { status, stdout, stderr } =
        command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    Ok(stdout.into_owned())
}
