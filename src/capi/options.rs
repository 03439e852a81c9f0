//! Options of `mr_open_options` as Rust values.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use super::library::Library;
use crate::config::{ConfigError, Overrides};
use crate::os::pinned_path::lacks_resources;
use crate::wire::endpoint::Endpoint;

/// The members of `mr_options`; `None`: not set.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) config: Option<PathBuf>,
    pub(super) imapd_conf: Option<PathBuf>,
    pub(super) mailboxes_db: Option<PathBuf>,
    pub(super) replica: Option<PathBuf>,
    pub(super) sources: Option<String>,
    pub(super) domains: Option<String>,
    pub(super) daemon: Option<String>,
    pub(super) misses: Option<String>,
    pub(super) timeout: Duration,
}

/// Reason why the library cannot be opened, for the postmaster.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The configuration or an option cannot be used.
    Config(String),
    /// An address of the daemon cannot be used.
    Address(String),
    /// The system lacks a resource at present.
    System(String),
}

/// Opens a library.
pub(super) fn open(given: Given) -> Result<Library, Failure> {
    let sources = words(given.sources.as_deref()).map(str::parse).collect::<Result<_, _>>();
    let daemon = match &given.daemon {
        None => None,
        named => {
            let endpoints = words(named.as_deref()).map(askable).collect::<Result<Vec<_>, _>>();
            Some(endpoints.map_err(|why| Failure::Address(format!("daemon: {why}")))?)
        }
    };
    let misses = given.misses.as_deref().map(str::parse).transpose();
    let overrides = Overrides {
        // An empty path means no configuration file; /dev/null is an empty one.
        config: given.config.map(|path| match path.as_os_str().is_empty() {
            true => "/dev/null".into(),
            false => path,
        }),
        imapd_conf: given.imapd_conf,
        mailboxes_db: given.mailboxes_db,
        replica: given.replica,
        sources: sources.map_err(|why: String| Failure::Config(format!("sources: {why}")))?,
        misses: misses.map_err(|why: String| Failure::Config(format!("misses: {why}")))?,
        domains: words(given.domains.as_deref()).map(str::to_owned).collect(),
        ..Overrides::default()
    };
    Library::open(overrides, daemon, given.timeout).map_err(|why| match is_of_the_system(&why) {
        true => Failure::System(why.to_string()),
        false => Failure::Config(why.to_string()),
    })
}

/// Parses an endpoint of the daemon that can be connected to.
fn askable(word: &str) -> Result<Endpoint, String> {
    match word.parse() {
        Ok(Endpoint::Systemd(_)) => Err(format!("`{word}`: only systemd knows where this is")),
        Ok(Endpoint::Inet { port: 0, .. }) => Err(format!("`{word}`: no port")),
        Ok(endpoint) => Ok(endpoint),
        Err(why) => Err(why.to_string()),
    }
}

/// Whether the system lacks a resource and the configuration is not at fault.
fn is_of_the_system(error: &ConfigError) -> bool {
    match error {
        ConfigError::Io { source, .. } if lacks_resources(source) => true,
        ConfigError::Io { source, .. } => source.raw_os_error() == Some(nix::libc::EIO),
        // Errors of imapd.conf have no errno: test whether a file can be opened at present.
        _ => File::open("/").is_err_and(|error| lacks_resources(&error)),
    }
}

fn words(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty())
}
