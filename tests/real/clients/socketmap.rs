//! Postfix' socketmap protocol, to ask the daemon directly and to measure its response time.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::{Done, ensure};

/// A connection to the daemon.
pub struct Socketmap {
    stream: BufReader<UnixStream>,
}

impl Socketmap {
    /// Connects to a daemon's socket.
    pub fn open(socket: &str) -> Done<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The answer of a map.
    pub fn ask(&mut self, map: &str, key: &str) -> Done<String> {
        let request = format!("{map} {key}");
        write!(self.stream.get_mut(), "{}:{request},", request.len())?;
        let mut length = Vec::new();
        self.stream.read_until(b':', &mut length)?;
        let length: usize = String::from_utf8_lossy(&length).trim_end_matches(':').parse()?;
        ensure!(length < 100_000, "an answer of {length} bytes");
        let mut answer = vec![0; length + 1];
        self.stream.read_exact(&mut answer)?;
        ensure!(answer.pop() == Some(b','), "no netstring: {answer:?}");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
