//! The limit of open files of this process.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Maximum limit asked for: "infinity" is a billion in containers.
const MAX_FILES: u64 = 1 << 20;

/// Descriptors kept for lists, the replica, the MUPDATE server and waiting lookups.
const RESERVE: usize = 256;

/// Raises the soft limit of open files to the hard limit, and returns it. The default of 1,024 is meant
/// for programs that use select(2).
///
/// # Errors
///
/// If getrlimit(2) or setrlimit(2) fails.
pub fn raise() -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(MAX_FILES).max(soft);
    if wanted > soft {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(usize::try_from(wanted).unwrap_or(usize::MAX))
}

/// Number of descriptors for connections, of this total.
pub(super) fn for_connections(all: usize) -> usize {
    all.saturating_sub(RESERVE.min(all / 4))
}
