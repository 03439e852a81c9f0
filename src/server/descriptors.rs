//! How many files this process may open.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// No more than this is asked for: a limit of "infinity" is a billion in containers.
const ENOUGH: u64 = 1 << 20;

/// Descriptors that are not for connections: lists, the replica, the MUPDATE server, looks that wait.
const RESERVE: usize = 256;

/// Raises the soft limit of open files to the hard one, and returns it. The default of 1,024 is for
/// programs that use select(2).
///
/// # Errors
///
/// That of the system.
pub fn raise() -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(ENOUGH).max(soft);
    if wanted > soft {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(usize::try_from(wanted).unwrap_or(usize::MAX))
}

/// How many of these descriptors connections may have.
pub(super) fn for_connections(all: usize) -> usize {
    all.saturating_sub(RESERVE.min(all / 4))
}
