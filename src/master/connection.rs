//! A connection to a server, with or without TLS; to a MUPDATE server by TCP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::tls::{self, TlsClient};
use crate::config::MasterAddress;

/// Timeout for the name service, and for each address to accept the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Timeout for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time without an acknowledgement after which the connection is dead, in milliseconds: only this
/// detects a host that has vanished.
const USER_TIMEOUT: u32 = 15_000;

/// Idle time after which the kernel sends keepalive probes, in seconds.
const KEEP_IDLE: u32 = 30;

/// Bytes to and from a server.
pub(crate) struct Connection {
    stream: Box<dyn ByteStream>,
}

/// Transport of a connection.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

impl Connection {
    /// Connects to the first address of the host that accepts.
    pub(crate) async fn open(address: &MasterAddress) -> Result<TcpStream, String> {
        let host = (address.host.as_str(), address.port);
        let found = timeout(CONNECT, lookup_host(host)).await;
        let found = found.map_err(|_| "the name service does not answer".to_owned())?;
        let found: Vec<SocketAddr> = found.map_err(|e| e.to_string())?.collect();
        let mut last = "the host has no address".to_owned();
        for socket in found {
            match timeout(CONNECT, TcpStream::connect(socket)).await {
                Ok(Ok(stream)) => match prepare(&stream) {
                    Ok(()) => return Ok(stream),
                    Err(e) => last = e.to_string(),
                },
                Ok(Err(e)) => last = e.to_string(),
                Err(_) => last = format!("no connection within {} s", CONNECT.as_secs()),
            }
        }
        Err(last)
    }

    /// A connection without TLS.
    pub(crate) fn plain(stream: impl ByteStream + 'static) -> Self {
        Self { stream: Box::new(stream) }
    }

    /// Returns the transport, for a reader and a writer at the same time.
    pub(crate) fn into_stream(self) -> Box<dyn ByteStream> {
        self.stream
    }

    /// Starts TLS, and checks that the server is `name`.
    pub(crate) async fn under_tls(self, tls: &TlsClient, name: &str) -> Result<Self, io::Error> {
        let name = tls::server_name(name).map_err(io::Error::other)?;
        let begun = tls.connector().connect(name, self.stream);
        let stream = timeout(HANDSHAKE, begun).await.map_err(|_| {
            let text = format!("no answer to the handshake within {} s", HANDSHAKE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        })??;
        Ok(Self { stream: Box::new(stream) })
    }

    /// Reads at least one byte; 0: the end. Safe to cancel: no byte is lost.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buffer).await {
            // A killed server does not end TLS properly. That counts as an end as well: MUPDATE does
            // not take an incomplete response for a complete one.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }

    /// Sends all bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_IDLE)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &USER_TIMEOUT)?;
    Ok(())
}
