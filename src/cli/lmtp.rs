//! `murder-route lmtp`: the way to a backend for mail servers that run a program and speak LMTP with
//! it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::Exit;
use crate::backend::{LMTP_PORT, Place};
use crate::wire::softener::Softener;

/// How long a backend may take to accept the connection, for each of its addresses.
const CONNECT: Duration = Duration::from_secs(10);

/// Connect standard input and output with the LMTP server of a backend, whose refusal of an unknown
/// user comes out as temporary: the mailbox may have moved a moment ago.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 the conversation came to its end, 64 usage, 75 the backend \
                        cannot be reached or the connection was lost."
)]
pub(super) struct Lmtp {
    /// HOST, HOST:PORT, [IPV6]:PORT or unix:/PATH; the port is 2003 by default
    #[arg(value_name = "BACKEND")]
    backend: String,
}

impl Lmtp {
    pub(super) fn run(self) -> Result<(), Exit> {
        let place = Place::parse(&self.backend, LMTP_PORT).map_err(|e| {
            failed("4.3.5", &e);
            Exit::Usage
        })?;
        let name = place.host_and_port();
        let done = match &place {
            Place::Unix(path) => UnixStream::connect(&**path).map(converse),
            Place::Inet { host, port } => connect(host, *port).map(converse),
        };
        let lost = done.map_err(|e| {
            failed("4.4.1", &format_args!("cannot reach {name}: {e}"));
            Exit::Temporary
        })?;
        lost.map_err(|e| {
            failed("4.4.2", &format_args!("the connection with {name} is lost: {e}"));
            Exit::Temporary
        })
    }
}

/// Says why there is no (further) reply, in the form of one: so the mail server has it in its log.
/// Exim takes what is on standard error for a part of the conversation.
fn failed(status: &str, why: &dyn fmt::Display) {
    // A mail server that is gone need not be told.
    let _ = write!(io::stdout(), "421 {status} murder-route: {why}\r\n");
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A connection that two threads share.
trait Connection: Send + Sync + 'static {
    /// Tells the other end that nothing more comes.
    fn end(&self) -> io::Result<()>;
}

impl Connection for TcpStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Connection for UnixStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Ends when the backend has nothing more to say, or nobody listens to it. How long to wait for a
/// reply is the mail server's decision: it ends us.
fn converse<C: Connection>(backend: C) -> io::Result<()>
where
    for<'a> &'a C: Read + Write,
{
    let backend = Arc::new(backend);
    let to_backend = Arc::clone(&backend);
    // Not waited for: it may hang in a read of standard input, and goes with the process.
    thread::Builder::new().spawn(move || {
        // Whatever goes wrong here the backend's end of the conversation will show.
        let _ = io::copy(&mut io::stdin().lock(), &mut &*to_backend);
        let _ = to_backend.end();
    })?;
    let (mut softener, mut out, mut piece) = (Softener::default(), Vec::new(), [0; 4096]);
    let mut output = io::stdout().lock();
    loop {
        let length = match (&*backend).read(&mut piece) {
            Ok(0) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let said = softener.hear(piece.get(..length).unwrap_or_default(), &mut out);
        output.write_all(&out)?;
        output.flush()?;
        out.clear();
        said.map_err(io::Error::other)?;
    }
}
