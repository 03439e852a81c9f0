//! Parts of the configuration for which our own file alone is read.

use std::path::{Path, PathBuf};

use super::access::BackendsAccess;
use super::file::ConfigFile;
use super::{ConfigError, Overrides};
use crate::model::domains::Domains;
use crate::routing::maps::UnknownPolicy;
use crate::wire::endpoint::Listen;

/// Settings for finding a running daemon and its replica, and for configuring Postfix.
#[derive(Debug)]
pub struct Glance {
    /// Endpoints of the daemon; empty: [`DEFAULT_SOCKET`](super::DEFAULT_SOCKET).
    pub listeners: Vec<Listen>,
    /// The directory of the replica.
    pub replica: PathBuf,
    /// The directory of files that outlive the daemon.
    pub state: PathBuf,
    /// The domains served.
    pub domains: Domains,
    /// The transports of the answers, each once.
    pub transports: Vec<Box<str>>,
    /// Action for recipients that do not exist, if it is set.
    pub unknown: Option<UnknownPolicy>,
    /// `fallback`: a transport and its next hop.
    pub fallback: Option<String>,
}

/// Reads a [`Glance`].
///
/// # Errors
///
/// The file cannot be read, or is not valid.
pub fn glance(given: &Overrides) -> Result<Glance, ConfigError> {
    let file = ConfigFile::read(given.config.as_deref())?;
    Ok(Glance {
        listeners: file.listeners(),
        replica: file.replica_directory(given),
        state: file.state_directory(given),
        domains: file.domains(given)?,
        transports: file.keys.backends.transports(),
        unknown: file.keys.unknown,
        fallback: file.keys.fallback,
    })
}

/// Reads TLS and login at the backends, for `murder-route lmtp`: a mail server runs that program, which
/// may not read all that the daemon may.
///
/// # Errors
///
/// The file cannot be read, or is not valid.
pub fn backends_access(config: Option<&Path>) -> Result<BackendsAccess, ConfigError> {
    let file = ConfigFile::read(config)?;
    file.keys.backends.access(file.base()).map_err(|e| file.error(e))
}
