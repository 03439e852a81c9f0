//! Failures of a connection to a MUPDATE server, with text for the postmaster.

use super::wire::WireError;
use crate::model::doubt::{Doubt, DoubtKind, Doubtful};

/// Failure that ended a connection or prevented its use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The connection could not be established, or it broke. The caller supplies the text.
    #[error("{0}")]
    Network(String),
    /// The TLS handshake failed. The caller supplies the text.
    #[error("TLS with the MUPDATE server failed: {0}")]
    Tls(String),
    /// The server's certificate is not trusted. The caller supplies the text.
    #[error("TLS with the MUPDATE server failed: {0}")]
    Untrusted(String),
    /// The server closed the connection.
    #[error("the MUPDATE server closed the connection {0}")]
    Closed(&'static str),
    /// A timeout expired.
    #[error("{0}")]
    Timeout(&'static str),
    /// The server sent BYE.
    #[error("the MUPDATE server closed the connection: `{0}`{hint}", hint = bye_hint(.0))]
    Bye(String),
    /// The server does not offer TLS, and the configuration requires it.
    #[error(
        "TLS is required, but the MUPDATE server `{server}` does not offer STARTTLS: set \
         `allowstarttls: yes` (off by default from Cyrus 3.8.6, 3.10.2 and 3.12.1 on) and a \
         certificate (tls_server_cert, tls_server_key) in its imapd.conf, or do without (`tls`)"
    )]
    TlsRequired {
        /// The server's own name.
        server: String,
    },
    /// The server offers STARTTLS and refuses it.
    #[error("the MUPDATE server refused STARTTLS: `{0}`")]
    StartTlsRefused(String),
    /// Bytes arrived between the OK of STARTTLS and the TLS handshake: an attacker on the path can
    /// inject them.
    #[error(
        "unencrypted bytes after STARTTLS: an attacker may be tampering with the connection to the \
         MUPDATE server"
    )]
    Injected,
    /// No credentials are configured.
    #[error(
        "no name and password for the MUPDATE server: set mupdate_authname (or mupdate_username) \
         and mupdate_password in imapd.conf, or `authname` and `password-file`"
    )]
    NoCredentials,
    /// Client and server have no mechanism in common.
    #[error("no common SASL mechanism: {0}")]
    NoMechanism(String),
    /// The server refused the login.
    #[error("{0}")]
    Refused(String),
    /// The server does not know the password, so it may be an impostor.
    #[error(
        "the MUPDATE server did not prove that it knows the password ({0}): is it the right one?"
    )]
    FalseServer(String),
    /// The server is a slave, and the master is required.
    #[error(
        "the MUPDATE server `{server}` is a slave of `{master}`, and a slave's list may lack \
         changes for ever: name the master instead"
    )]
    NotMaster {
        /// The server's own name.
        server: String,
        /// URL of its master, as the banner has it.
        master: String,
    },
    /// The server is not the configured one.
    #[error("the MUPDATE server calls itself `{found}`, expected is `{expected}`")]
    OtherServer {
        /// The configured `servername`.
        expected: String,
        /// The `servername` in the banner.
        found: String,
    },
    /// The list exceeds its limit, or is endless.
    #[error(
        "the list of the MUPDATE server has more than {limit} {what}: if it is that long, raise \
         `max-names` in [replica]"
    )]
    TooLong {
        /// `names` or `bytes`.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The server violated the MUPDATE protocol.
    #[error("the MUPDATE server does not keep to the protocol: {0}")]
    Protocol(String),
}

/// Kind of a failure. It determines the backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// TLS. Some servers die of repeated TLS failures (Cyrus 3.12, `imap/mupdate.c:cmd_starttls`),
    /// so the backoff is long.
    Tls,
    /// The login failed, or the server is the wrong one. An early retry is unlikely to succeed.
    Login,
    /// The configuration makes it impossible to ask this server. Retries fail until it changes.
    Config,
    /// A network error, an overloaded server or one that shuts down.
    Network,
    /// A protocol violation by the server.
    Protocol,
}

impl Failure {
    /// Returns the kind of failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Failure::Network(_) | Failure::Closed(_) | Failure::Timeout(_) | Failure::Bye(_) => {
                FailureKind::Network
            }
            Failure::Tls(_) | Failure::StartTlsRefused(_) | Failure::Injected => FailureKind::Tls,
            Failure::Untrusted(_)
            | Failure::TlsRequired { .. }
            | Failure::NoCredentials
            | Failure::NoMechanism(_) => FailureKind::Config,
            Failure::Refused(_)
            | Failure::FalseServer(_)
            | Failure::NotMaster { .. }
            | Failure::OtherServer { .. }
            | Failure::TooLong { .. } => FailureKind::Login,
            Failure::Protocol(_) => FailureKind::Protocol,
        }
    }

    pub(super) fn protocol(what: impl Into<String>) -> Self {
        Failure::Protocol(what.into())
    }
}

impl Doubtful for Failure {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Failure::Timeout(_) => DoubtKind::TimedOut,
            _ if self.kind() == FailureKind::Network => DoubtKind::Unreachable,
            _ => DoubtKind::Refused,
        }
    }
}

impl From<&Failure> for Doubt {
    fn from(failure: &Failure) -> Self {
        Self::new(failure.doubt_kind(), failure)
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Failure::Protocol(error.to_string())
    }
}

/// Explains a BYE. Cyrus sends it, without a reason, when 128 connections are open
/// (`imap/mupdate.c:service_main_fd`).
fn bye_hint(text: &str) -> &'static str {
    if text == "Server Unable" {
        " (it has no room for another connection, see mupdate_connections_max in its imapd.conf)"
    } else {
        ""
    }
}
