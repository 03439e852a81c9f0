//! `/etc/murder-route.toml`, together with imapd.conf and the command line.
//!
//! The file is read strictly: an unknown key or an invalid value is an error with its line and column.
//! Paths in it are relative to its directory. Options of imapd.conf need not be repeated: `imapd-conf`
//! and `domains` suffice.

mod access;
mod backend_keys;
mod error;
mod file;
mod glance;
mod load;
mod mupdate;
mod password_file;
mod source;
#[cfg(test)]
mod tests;
mod values;
mod vital;
mod warning;

use std::path::PathBuf;
use std::time::Duration;

pub use self::access::BackendAccess;
pub use self::error::{ConfigError, NoMaster};
pub use self::glance::{backends_access, glance};
pub use self::mupdate::{ClientCertificate, MasterAddress, Mupdate, TlsSettings};
pub use self::source::{MissPolicy, SourceName};
pub use self::vital::Vital;
pub use self::warning::ConfigWarning;
use crate::routing::confirm::ConfirmVia;
use crate::routing::maps::Maps;
use crate::routing::router::Router;
use crate::wire::endpoint::{Endpoint, Listen};

/// Default of `--config`.
pub const DEFAULT_FILE: &str = "/etc/murder-route.toml";
/// The imapd.conf that is read if neither it nor a mailbox list is named.
pub const DEFAULT_IMAPD_CONF: &str = "/etc/imapd.conf";
/// The socket of a daemon without any configured endpoint.
pub const DEFAULT_SOCKET: &str = "/run/murder-route";
/// Default directory of the replica.
pub const DEFAULT_REPLICA: &str = "/var/lib/murder-route";
/// Default maximum number of connections at a time on one socket.
const DEFAULT_MAX_CONNECTIONS: usize = 2000;

/// Settings of the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// Its directory.
    pub directory: PathBuf,
    /// Time after which a full sync that lost much is applied, if a second one agrees with it.
    pub accept_after: Duration,
    /// Maximum age of a stale replica; the recipients in an older one are deferred. `None`: no limit.
    pub max_age: Option<Duration>,
    /// Maximum number of names in the master's list; `None`: ten times the present list, and
    /// 10,000,000 at least.
    pub max_names: Option<u64>,
}

/// Options of the command line. They go before the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config FILE`
    pub config: Option<PathBuf>,
    /// `--imapd-conf FILE`
    pub imapd_conf: Option<PathBuf>,
    /// `--mailboxes-db FILE`
    pub mailboxes_db: Option<PathBuf>,
    /// `--source S`; if given, `source` of the file is ignored.
    pub sources: Vec<SourceName>,
    /// `--replica DIR`
    pub replica: Option<PathBuf>,
    /// `--allow-plaintext`
    pub allow_plaintext: bool,
    /// `--misses confirm|final`
    pub misses: Option<MissPolicy>,
    /// `--domain D`; if given, `domains` of the file is ignored.
    pub domains: Vec<String>,
    /// `--listen ENDPOINT`; if given, the listeners of the file are ignored.
    pub listen: Vec<Endpoint>,
    /// The caller never asks the MUPDATE server itself: the credentials are not read, for the caller may
    /// lack the right, and [`Settings::mupdate`] is `None`.
    pub without_login: bool,
}

/// The whole configuration.
#[derive(Debug)]
pub struct Settings {
    /// The configuration file that was read, if any.
    pub file: Option<PathBuf>,
    /// The imapd.conf that was read, if any.
    pub imapd_conf: Option<PathBuf>,
    /// The rules of the decision.
    pub router: Router,
    /// The forms of the answers.
    pub maps: Maps,
    /// The sources of mailbox lists, in the order in which they are asked; at least one.
    pub sources: Vec<SourceName>,
    /// Cyrus' own list, if it is one of the sources.
    pub mailboxes_db: Option<PathBuf>,
    /// The database of blocked users, and the service of `cyrus.conf` that they are blocked from.
    pub user_deny: Option<(PathBuf, String)>,
    /// The replica; ignored unless it is one of the sources.
    pub replica: ReplicaSettings,
    /// The directory of files that outlive the daemon.
    pub state: PathBuf,
    /// The MUPDATE server, if it is configured and can be asked.
    pub mupdate: Option<Mupdate>,
    /// How misses are confirmed.
    pub proof: ConfirmVia,
    /// Endpoints to listen at; empty: `/run/murder-route`, or the socket that systemd opened.
    pub listeners: Vec<Listen>,
    /// Maximum number of connections at a time on one socket. A reload does not change it.
    pub max_connections: usize,
    /// Settings that a reload must not lose.
    pub vital: Vital,
    /// Settings that work, and probably not as meant.
    pub warnings: Vec<ConfigWarning>,
}
