//! Errors of the configuration.

use std::fmt;
use std::path::PathBuf;

use super::mupdate::MasterUnusable;
use super::source::{SourceName, SourcesError};
use super::{DEFAULT_FILE, DEFAULT_IMAPD_CONF};
use crate::imapd_conf::ConfError;
use crate::model::domains::BadDomain;

/// Error of the configuration. Exit status 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: cannot read: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file is not valid.
    #[error("{path}: {text}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line and column if known, and what is wrong there.
        text: String,
    },
    /// imapd.conf is not valid.
    #[error(transparent)]
    ImapdConf(#[from] ConfError),
    /// An option of the command line or of the library is not valid.
    #[error("{0}")]
    Option(String),
    /// No mailbox list is configured.
    #[error(
        "no mailbox list is configured; set `imapd-conf` or `mailboxes-db` in {DEFAULT_FILE}, or use \
         --imapd-conf or --mailboxes-db ({DEFAULT_IMAPD_CONF} does not exist); on a host without Cyrus \
         set `source`"
    )]
    NoList,
    /// A source needs the MUPDATE master, which cannot be used.
    #[error("source `{}` needs the MUPDATE server: {why}", source_name.as_str())]
    NoMaster {
        /// The source.
        source_name: SourceName,
        /// Why the master cannot be used.
        why: NoMaster,
    },
}

/// Why the MUPDATE master cannot be used, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoMaster {
    /// No server is named.
    NotConfigured,
    /// The server is named, and no login to it is possible.
    Unusable(MasterUnusable),
}

impl fmt::Display for NoMaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoMaster::NotConfigured => f.write_str(
                "no server is configured; set `mupdate_server` in imapd.conf or `servers` in [mupdate]",
            ),
            NoMaster::Unusable(why) => why.fmt(f),
        }
    }
}

impl ConfigError {
    pub(super) fn source_option(error: SourcesError) -> Self {
        Self::Option(format!("--source: {error}"))
    }

    pub(super) fn domain_option(error: BadDomain) -> Self {
        Self::Option(format!("--domain: {error}"))
    }
}
