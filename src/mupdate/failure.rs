//! Why a connection to a MUPDATE server is of no use any more, for the one who must act.

use super::wire::WireError;
use crate::model::doubt::{Doubt, DoubtKind, Doubtful};

/// What ended a connection, or kept it from being used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It could not be made, or it broke; the text is the caller's.
    #[error("{0}")]
    Network(String),
    /// TLS could not be agreed upon; the text is the caller's.
    #[error("TLS with the MUPDATE server failed: {0}")]
    Tls(String),
    /// The server's certificate cannot be believed; the text is the caller's.
    #[error("TLS with the MUPDATE server failed: {0}")]
    Untrusted(String),
    /// The server closed it.
    #[error("the MUPDATE server closed the connection {0}")]
    Closed(&'static str),
    /// Nothing came in time.
    #[error("{0}")]
    Timeout(&'static str),
    /// The server said goodbye.
    #[error("the MUPDATE server closed the connection: `{0}`{hint}", hint = bye_hint(.0))]
    Bye(String),
    /// It does not offer what the configuration insists on.
    #[error(
        "TLS is required, but the MUPDATE server `{server}` does not offer STARTTLS: set \
         `allowstarttls: yes` (off by default from Cyrus 3.8.6, 3.10.2 and 3.12.1 on) and a \
         certificate (tls_server_cert, tls_server_key) in its imapd.conf, or do without (`tls`)"
    )]
    TlsRequired {
        /// The server, as it calls itself.
        server: String,
    },
    /// It offers STARTTLS and refuses it.
    #[error("the MUPDATE server refused STARTTLS: `{0}`")]
    StartTlsRefused(String),
    /// Something came between the OK of STARTTLS and TLS itself: somebody on the way put it there.
    #[error(
        "unencrypted bytes after STARTTLS: somebody may be tampering with the connection to the \
         MUPDATE server"
    )]
    Injected,
    /// There is nothing to log in with.
    #[error(
        "no name and password for the MUPDATE server: set mupdate_authname (or mupdate_username) \
         and mupdate_password in imapd.conf, or `authname` and `password-file`"
    )]
    NoCredentials,
    /// No mechanism that both sides take.
    #[error("no common SASL mechanism: {0}")]
    NoMechanism(String),
    /// The login was refused.
    #[error("{0}")]
    Refused(String),
    /// The server does not know the password itself, so it is not the one it seems to be.
    #[error(
        "the MUPDATE server did not prove that it knows the password ({0}): is it the right one?"
    )]
    FalseServer(String),
    /// A replica, where the master is needed.
    #[error(
        "the MUPDATE server `{server}` is a slave of `{master}`, and a slave's list may lack \
         changes for ever: name the master instead"
    )]
    NotMaster {
        /// The server, as it calls itself.
        server: String,
        /// Whose slave it says it is.
        master: String,
    },
    /// Another server than the configured one.
    #[error("the MUPDATE server calls itself `{found}`, expected is `{expected}`")]
    OtherServer {
        /// The `servername` that is configured.
        expected: String,
        /// The one in the banner.
        found: String,
    },
    /// Its list has no end, or is longer than it may be.
    #[error(
        "the list of the MUPDATE server has more than {limit} {what}: if it is that long, raise \
         `max-names` in [replica]"
    )]
    TooLong {
        /// `names` or `bytes`.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// It did not speak MUPDATE as it should.
    #[error("the MUPDATE server does not keep to the protocol: {0}")]
    Protocol(String),
}

/// What kind of failure it is: it decides when another try makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// TLS. Some servers do not live through many of these (Cyrus 3.12,
    /// `imap/mupdate.c:cmd_starttls`): wait long.
    Tls,
    /// The login, or the wrong server. Another try will hardly do better soon.
    Login,
    /// It can not work until a configuration changes: asking this server is impossible.
    Config,
    /// The network, the server's load or its end.
    Network,
    /// The server spoke nonsense.
    Protocol,
}

impl Failure {
    /// What kind of failure it is.
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

/// Cyrus says so with 128 connections open, and says no more (`imap/mupdate.c:service_main_fd`).
fn bye_hint(text: &str) -> &'static str {
    if text == "Server Unable" {
        " (it has no room for another connection, see mupdate_connections_max in its imapd.conf)"
    } else {
        ""
    }
}
