//! `murder-route lmtp`: the way to a backend for mail servers that run a program and speak LMTP with
//! it.

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

/// Pieces of standard input that wait for the backend, of [`PIECE`] bytes each.
const PIECES: usize = 8;

/// Bytes read at once.
const PIECE: usize = 16 * 1024;

/// Connect standard input and output with the LMTP server of a backend, whose refusal of an unknown
/// user comes out as temporary: the mailbox may have moved a moment ago.
///
/// TLS and a login are begun as `[backends]` of the configuration has it for the backend.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 the conversation came to its end, 64 usage, 75 the backend \
                        cannot be reached or logged in to, the connection was lost, or the \
                        configuration cannot be read."
)]
pub(super) struct LmtpArgs {
    /// The configuration file [default: /etc/murder-route.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(
        value_name = "BACKEND",
        help = "HOST, HOST:PORT, [IPV6]:PORT or unix:/PATH; the port is 2003 by default"
    )]
    backend: String,
}

/// Why there is no (further) conversation: the status of the reply that says so, and the reason.
struct Ended(&'static str, String);

impl LmtpArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let place = LmtpAddress::parse(&self.backend, LMTP_PORT).map_err(|e| {
            failed("4.3.5", &e);
            Exit::Usage
        })?;
        let done = config::backends_access(self.config.as_deref())
            .map_err(|e| Ended("4.3.5", e.to_string()))
            .and_then(|all| carry(&place, &all.of(&place)));
        done.map_err(|Ended(status, why)| {
            failed(status, &why);
            Exit::Temporary
        })
    }
}

/// Says why there is no (further) reply, in the form of one: so the mail server has it in its log.
/// Exim takes what is on standard error for a part of the conversation.
fn failed(status: &str, why: &dyn fmt::Display) {
    // What a server or a file says may have line ends, and this is one reply.
    let why: String =
        why.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // A mail server that is gone need not be told.
    let _ = write!(io::stdout(), "421 {status} murder-route: {why}\r\n");
}

/// Carries the conversation between the mail server and a backend.
fn carry(place: &LmtpAddress, access: &BackendAccess) -> Result<(), Ended> {
    // One thread for what goes to the backend; what comes from it is written by this one, which a mail
    // server that does not read may hold up.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| Ended("4.3.0", e.to_string()))?;
    let done = runtime.block_on(async {
        let name = place.host_and_port();
        let connected = backend::connect(place).await;
        let connection =
            connected.map_err(|e| Ended("4.4.1", format!("cannot reach {name}: {e}")))?;
        let (connection, filter) = match access.is_plain() {
            true => (connection, ReplyFilter::default()),
            false => {
                let us = super::host_name();
                let logged_in = backend::log_in(connection, place, access, &us).await;
                let (connection, lmtp::Ready { greeting, .. }) =
                    logged_in.map_err(|e| Ended(status(&e), format!("{name}: {e}")))?;
                let said = io::stdout().write_all(&greeting).and_then(|()| io::stdout().flush());
                said.map_err(|e| Ended("4.4.2", e.to_string()))?;
                (connection, ReplyFilter::after_login())
            }
        };
        let lost = |e| Ended("4.4.2", format!("the connection with {name} is lost: {e}"));
        converse(connection, filter).await.map_err(lost)
    });
    // The thread that reads standard input may hang there, and goes with the process.
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

/// Ends when the backend has nothing more to say, or nobody listens to it. How long to wait for a
/// reply is the mail server's decision: it ends us.
async fn converse(connection: Connection, mut filter: ReplyFilter) -> io::Result<()> {
    let (mut from_backend, to_backend) = split(connection.into_stream());
    tokio::spawn(pass_on(standard_input()?, to_backend));
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
        // A server that does not end TLS properly. Half a reply is never handed on.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

/// What the mail server says, read in a thread of its own: a read of standard input cannot be given up.
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

/// Whatever goes wrong here the backend's end of the conversation will show.
async fn pass_on(mut said: Receiver<Vec<u8>>, mut backend: WriteHalf<Box<dyn ByteStream>>) {
    while let Some(piece) = said.recv().await {
        if backend.write_all(&piece).await.is_err() || backend.flush().await.is_err() {
            return;
        }
    }
    // Nothing more comes.
    let _ = backend.shutdown().await;
}
