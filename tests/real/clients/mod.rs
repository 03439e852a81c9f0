//! Minimal clients for the protocols of a Murder.

pub mod dns;
pub mod gate;
pub mod imap;
pub mod mail;
pub mod mupdate;
pub mod sink;
pub mod socketmap;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::{Done, ensure};

/// Longer than any intended pause of a server; a hang must end as a failure.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A line-based connection.
pub struct Connection {
    peer: String,
    reader: BufReader<Box<dyn Read + Send>>,
    writer: Box<dyn Write + Send>,
}

impl Connection {
    /// Connects to `host:port`, or to a unix socket if `peer` begins with `/`.
    pub fn open(peer: &str) -> Done<Self> {
        let failed = |e: std::io::Error| format!("{peer}: {e}");
        if peer.starts_with('/') {
            let stream = UnixStream::connect(peer).map_err(failed)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            let reader = BufReader::new(Box::new(stream.try_clone()?) as _);
            Ok(Self { peer: peer.to_owned(), reader, writer: Box::new(stream) })
        } else {
            Self::over(TcpStream::connect(peer).map_err(failed)?)
        }
    }

    /// Wraps an accepted connection.
    pub fn over(stream: TcpStream) -> Done<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?.to_string();
        let reader = BufReader::new(Box::new(stream.try_clone()?) as _);
        Ok(Self { peer, reader, writer: Box::new(stream) })
    }

    /// The next line without its end.
    pub fn line(&mut self) -> Done<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).map_err(|e| format!("{}: {e}", self.peer))?;
        ensure!(line.ends_with(b"\n"), "{}: connection closed", self.peer);
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Done<String> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).map_err(|e| format!("{}: {e}", self.peer))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a line.
    pub fn send(&mut self, line: &str) -> Done {
        self.writer
            .write_all(format!("{line}\r\n").as_bytes())
            .map_err(|e| format!("{}: {e}", self.peer).into())
    }
}

/// The only message of `AUTHENTICATE PLAIN` (RFC 4616), in base64.
pub fn sasl_plain(authorize_as: &str, user: &str, password: &str) -> String {
    base64(format!("{authorize_as}\0{user}\0{password}").as_bytes())
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0_usize, |g, i| g << 8 | usize::from(*chunk.get(i).unwrap_or(&0)));
        for i in 0..4 {
            let digit = ALPHABET[group >> (18 - 6 * i) & 63];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
