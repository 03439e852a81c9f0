//! `murder-route lmtp`: the way to a backend for mail servers that run a program and speak LMTP with
//! it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
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
#[command(after_help = "Exit status: 0 the conversation came to its end, 64 usage, 75 the backend \
                        cannot be reached or the connection was lost.")]
pub(super) struct Lmtp {
    /// HOST, HOST:PORT, [IPV6]:PORT or unix:/PATH; the port is 2003 by default
    #[arg(value_name = "BACKEND")]
    backend: String,
}

impl Lmtp {
    pub(super) fn run(self) -> Result<(), Exit> {
        let Ok(place) = Place::parse(&self.backend, LMTP_PORT).map_err(|e| {
            failed("4.3.5", &e);
        }) else {
            return Err(Exit::Usage);
        };
        let name = place.host_and_port();
        let streams = connect(&place).map_err(|e| {
            failed("4.4.1", &format_args!("cannot reach {name}: {e}"));
            Exit::Temporary
        })?;
        converse(streams).map_err(|e| {
            failed("4.4.2", &format_args!("the connection with {name} is lost: {e}"));
            Exit::Temporary
        })
    }
}

/// Says why there is no (other) reply, as one: so the mail server has it in its log. What is on
/// standard error Exim takes for part of the conversation.
fn failed(status: &str, why: &dyn std::fmt::Display) {
    let _ = write!(io::stdout(), "421 {status} murder-route: {why}\r\n");
}

/// One connection, for two threads.
struct Streams<T> {
    from_backend: T,
    to_backend: T,
}

/// A connection of either kind.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

fn connect(place: &Place) -> io::Result<Streams<Stream>> {
    match place {
        Place::Unix(path) => {
            let stream = UnixStream::connect(&**path)?;
            let to_backend = Stream::Unix(stream.try_clone()?);
            Ok(Streams { from_backend: Stream::Unix(stream), to_backend })
        }
        Place::Inet { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
            for address in (&**host, *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, CONNECT) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        let to_backend = Stream::Tcp(stream.try_clone()?);
                        return Ok(Streams { from_backend: Stream::Tcp(stream), to_backend });
                    }
                    Err(e) => last = e,
                }
            }
            Err(last)
        }
    }
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn no_more(&self) {
        // It may be closed from the other end already.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

/// Ends when the backend has nothing more to say, or nobody listens to it.
fn converse(streams: Streams<Stream>) -> io::Result<()> {
    let Streams { mut from_backend, mut to_backend } = streams;
    // Not waited for: it may hang in a read of standard input, and goes with the process.
    thread::Builder::new().spawn(move || {
        let mut piece = [0; 64 * 1024];
        let mut input = io::stdin().lock();
        while let Ok(length) = input.read(&mut piece) {
            let bytes = piece.get(..length).unwrap_or_default();
            if bytes.is_empty() || to_backend.write_all(bytes).is_err() {
                break;
            }
        }
        to_backend.no_more();
    })?;
    let (mut softener, mut out, mut piece) = (Softener::default(), Vec::new(), [0; 4096]);
    let mut output = io::stdout().lock();
    loop {
        let length = match from_backend.read(&mut piece) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if length == 0 {
            return Ok(());
        }
        let said = softener.hear(piece.get(..length).unwrap_or_default(), &mut out);
        output.write_all(&out)?;
        output.flush()?;
        out.clear();
        said.map_err(io::Error::other)?;
    }
}
