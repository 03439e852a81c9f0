//! Connects to a backend and logs in as `[backends]` of the configuration says, for `murder-route lmtp`
//! and the doctor.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config::BackendAccess;
use crate::lmtp::{LmtpFailure, LmtpLogin, LmtpPolicy, LmtpStep, Ready};
use crate::master::connection::Connection;
use crate::master::tls::{self, TlsClient};
use crate::model::backend::LmtpAddress;
use crate::mupdate;

/// Timeout for the name service, and for the connection to each address of a backend.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout from the greeting to the end of the login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Connects to the first address of a backend that accepts.
pub(crate) async fn connect(place: &LmtpAddress) -> io::Result<Connection> {
    let (host, port) = match place {
        LmtpAddress::Unix(path) => {
            return Ok(Connection::plain(UnixStream::connect(&**path).await?));
        }
        LmtpAddress::Inet { host, port } => (&**host, *port),
    };
    let late = || {
        let text = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    let found = timeout(CONNECT_TIMEOUT, lookup_host((host, port))).await;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in found.map_err(|_| late())?? {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.unwrap_or(Err(late())) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(Connection::plain(stream));
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Reason for a failed login.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// Part of the configuration is unusable, usually a file.
    #[error("{0}")]
    Config(String),
    /// The connection broke.
    #[error("the connection is lost: {0}")]
    Lost(io::Error),
    /// The backend was too slow.
    #[error("no login within {secs} s, at {0}", secs = LOGIN_TIMEOUT.as_secs())]
    Late(&'static str),
    /// The backend, or what it said.
    #[error(transparent)]
    Failed(#[from] LmtpFailure),
}

impl LoginError {
    /// Whether a later try may succeed.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            LoginError::Config(_) => false,
            LoginError::Lost(_) | LoginError::Late(_) => true,
            LoginError::Failed(failure) => failure.is_temporary(),
        }
    }
}

/// Starts TLS and logs in, as configured for the backend. `us`: the name of this host.
pub(crate) async fn log_in(
    connection: Connection,
    place: &LmtpAddress,
    access: &BackendAccess,
    us: &str,
) -> Result<(Connection, Ready), LoginError> {
    let config = |e: &dyn std::fmt::Display| LoginError::Config(e.to_string());
    let policy = LmtpPolicy {
        tls: access.tls.when,
        allow_plaintext: access.allow_plaintext,
        credentials: access.credentials().map_err(|e| config(&e))?,
        mechanisms: None,
    };
    let mut at = "the greeting";
    let done = timeout(
        LOGIN_TIMEOUT,
        drive(connection, place, access, LmtpLogin::new(us, policy), &mut at),
    );
    done.await.unwrap_or(Err(LoginError::Late(at)))
}

async fn drive(
    mut connection: Connection,
    place: &LmtpAddress,
    access: &BackendAccess,
    mut login: LmtpLogin,
    at: &mut &'static str,
) -> Result<(Connection, Ready), LoginError> {
    let mut piece = vec![0; 4096];
    loop {
        *at = login.waits_for();
        let output = std::mem::take(login.output());
        if !output.is_empty() {
            connection.send(&output).await.map_err(LoginError::Lost)?;
        }
        match login.step() {
            LmtpStep::Wait => match connection.read(&mut piece).await.map_err(LoginError::Lost)? {
                0 => login.closed(),
                read => {
                    // Not on the runtime's thread: the server sets the number of hash iterations.
                    let said = piece.get(..read).unwrap_or_default().to_vec();
                    let heard = spawn_blocking(move || {
                        login.receive(&said);
                        login
                    });
                    login = heard.await.map_err(|e| LoginError::Lost(io::Error::other(e)))?;
                }
            },
            LmtpStep::StartTls => {
                let files = access.tls.clone();
                let read = spawn_blocking(move || TlsClient::new(&files)).await;
                let read = read.map_err(|e| LoginError::Lost(io::Error::other(e)))?;
                let tls = read.map_err(LoginError::Config)?;
                let name = tls_name(place, access);
                tls::server_name(&name).map_err(LoginError::Config)?;
                let begun = connection.under_tls(&tls, &name).await;
                connection = begun.map_err(|e| of_tls(&e, &name, access))?;
                login.tls_is_up();
            }
            LmtpStep::Ready(ready) => return Ok((connection, ready)),
            LmtpStep::Failed(failure) => return Err(failure.into()),
        }
    }
}

/// The name that the certificate must have.
fn tls_name(place: &LmtpAddress, access: &BackendAccess) -> String {
    match (&access.tls.name, place) {
        (Some(name), _) => name.clone(),
        (None, LmtpAddress::Inet { host, .. }) => host.trim_end_matches('.').to_owned(),
        (None, LmtpAddress::Unix(path)) => path.to_string(),
    }
}

fn of_tls(error: &io::Error, name: &str, access: &BackendAccess) -> LmtpFailure {
    match tls::failure(error, name, access.tls.ca_file.as_deref()) {
        mupdate::Failure::Untrusted(text) => LmtpFailure::Untrusted(text),
        mupdate::Failure::Tls(text) => LmtpFailure::Tls(text),
        other => LmtpFailure::Tls(other.to_string()),
    }
}
