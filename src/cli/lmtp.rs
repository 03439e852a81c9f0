//! `murder-route lmtp`: relays LMTP to a backend, for mail servers that run a program for delivery.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::thread;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, channel};

use super::Exit;
use crate::config::{self, BackendAccess};
use crate::lmtp;
use crate::lmtp::reply_filter::ReplyFilter;
use crate::master::connection::{ByteStream, Connection};
use crate::model::backend::{LMTP_PORT, LmtpAddress};
use crate::relay as backend;

/// Maximum number of pieces of standard input that wait for the backend, of [`PIECE`] bytes each.
const PIECES: usize = 8;

/// Size of a read in bytes.
const PIECE: usize = 16 * 1024;

/// Relay standard input and output to the LMTP server of a backend. Its refusal of an unknown user is
/// made temporary: the mailbox may have moved recently.
///
/// TLS and login follow `[backends]` of the configuration.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 the dialogue is complete, 64 usage, 75 the backend \
                        cannot be reached or logged in to, the connection was lost, or the \
                        configuration cannot be read.")]
pub(super) struct LmtpArgs {
    /// The configuration file [default: /etc/murder-route.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(
        value_name = "BACKEND",
        help = "HOST, HOST:PORT, [IPV6]:PORT or unix:/PATH; the port is 2003 by default"
    )]
    backend: String,
}

/// Reason for the end of the relay, with the enhanced status code of the reply.
struct RelayFailure(&'static str, String);

impl LmtpArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let place = LmtpAddress::parse(&self.backend, LMTP_PORT).map_err(|e| {
            failed("4.3.5", &e);
            Exit::Usage
        })?;
        let done = config::backends_access(self.config.as_deref())
            .map_err(|e| RelayFailure("4.3.5", e.to_string()))
            .and_then(|all| relay(&place, &all.of(&place)));
        done.map_err(|RelayFailure(status, why)| {
            failed(status, &why);
            Exit::Temporary
        })
    }
}

/// Prints the failure as an LMTP reply, for the log of the mail server. Not on standard error, which
/// Exim takes for a part of the dialogue.
fn failed(status: &str, why: &dyn fmt::Display) {
    // The reason may have line ends; the reply is one line.
    let why: String =
        why.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // The mail server may have closed the pipe.
    let _ = write!(io::stdout(), "421 {status} murder-route: {why}\r\n");
}

/// Relays between the mail server and a backend.
fn relay(place: &LmtpAddress, access: &BackendAccess) -> Result<(), RelayFailure> {
    // One thread sends to the backend. This thread writes its replies, and may block on a mail server
    // that does not read.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| RelayFailure("4.3.0", e.to_string()))?;
    let done = runtime.block_on(async {
        let name = place.host_and_port();
        let connected = backend::connect(place).await;
        let connection =
            connected.map_err(|e| RelayFailure("4.4.1", format!("cannot reach {name}: {e}")))?;
        let (connection, filter) = match access.is_plain() {
            true => (connection, ReplyFilter::default()),
            false => {
                let us = super::host_name();
                let logged_in = backend::log_in(connection, place, access, &us).await;
                let (connection, lmtp::Ready { greeting, .. }) =
                    logged_in.map_err(|e| RelayFailure(status(&e), format!("{name}: {e}")))?;
                let said = io::stdout().write_all(&greeting).and_then(|()| io::stdout().flush());
                said.map_err(|e| RelayFailure("4.4.2", e.to_string()))?;
                (connection, ReplyFilter::after_login())
            }
        };
        let lost = |e| RelayFailure("4.4.2", format!("the connection with {name} is lost: {e}"));
        relay_session(connection, filter).await.map_err(lost)
    });
    // The thread that reads standard input may hang; it ends with the process.
    runtime.shutdown_background();
    done
}

/// The enhanced status code (RFC 3463) of a login that failed.
fn status(why: &backend::LoginError) -> &'static str {
    use backend::LoginError;
    match why {
        LoginError::Config(_) => "4.3.5",
        LoginError::Lost(_) | LoginError::Late(_) => "4.4.2",
        LoginError::Failed(failure) => match failure {
            lmtp::LmtpFailure::Closed(_) => "4.4.2",
            lmtp::LmtpFailure::Refused(..) | lmtp::LmtpFailure::NotLmtp(_) => "4.3.0",
            lmtp::LmtpFailure::Protocol(_) => "4.5.0",
            _ => "4.7.0",
        },
    }
}

/// Ends when the backend or the mail server closes. Timeouts are up to the mail server, which ends this
/// program.
async fn relay_session(connection: Connection, mut filter: ReplyFilter) -> io::Result<()> {
    let (mut from_backend, to_backend) = split(connection.into_stream());
    tokio::spawn(send_input(standard_input()?, to_backend));
    let (mut out, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let length = match read(&mut from_backend, &mut piece).await? {
            0 => return Ok(()),
            length => length,
        };
        let said = filter.feed(piece.get(..length).unwrap_or_default(), &mut out);
        let mut output = io::stdout().lock();
        output.write_all(&out)?;
        output.flush()?;
        out.clear();
        said.map_err(io::Error::other)?;
    }
}

async fn read(stream: &mut ReadHalf<Box<dyn ByteStream>>, piece: &mut [u8]) -> io::Result<usize> {
    match stream.read(piece).await {
        // A server that does not close TLS properly. An incomplete reply is never passed on.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

/// Reads standard input in a thread of its own: such a read cannot be cancelled.
fn standard_input() -> io::Result<Receiver<Vec<u8>>> {
    let (sender, receiver) = channel(PIECES);
    thread::Builder::new().spawn(move || {
        let mut piece = vec![0; PIECE];
        loop {
            match io::stdin().read(&mut piece) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    let said = piece.get(..read).unwrap_or_default().to_vec();
                    if sender.blocking_send(said).is_err() {
                        return;
                    }
                }
            }
        }
    })?;
    Ok(receiver)
}

/// Failures here show at the backend's end of the connection.
async fn send_input(mut said: Receiver<Vec<u8>>, mut backend: WriteHalf<Box<dyn ByteStream>>) {
    while let Some(piece) = said.recv().await {
        if backend.write_all(&piece).await.is_err() || backend.flush().await.is_err() {
            return;
        }
    }
    // End of input.
    let _ = backend.shutdown().await;
}
