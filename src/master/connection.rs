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

/// For the name service, and for each address to accept the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// For the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A peer that has acknowledged nothing for so long is gone, in milliseconds: its host may have
/// vanished without a word, and then only this tells.
const USER_TIMEOUT: u32 = 15_000;

/// After so many idle seconds the kernel asks whether the other host is still there.
const KEEP_IDLE: u32 = 30;

/// Bytes to and from a server.
pub(crate) struct Connection {
    stream: Box<dyn ByteStream>,
}

/// What a connection consists of.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

impl Connection {
    /// Connects to the first address of the host that takes it.
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

    /// The connection as it is.
    pub(crate) fn plain(stream: impl ByteStream + 'static) -> Self {
        Self { stream: Box::new(stream) }
    }

    /// What is below it, for a reader and a writer at the same time.
    pub(crate) fn into_stream(self) -> Box<dyn ByteStream> {
        self.stream
    }

    /// The connection under TLS, once the server has proved to be `name`.
    pub(crate) async fn under_tls(self, tls: &TlsClient, name: &str) -> Result<Self, io::Error> {
        let name = tls::server_name(name).map_err(io::Error::other)?;
        let begun = tls.connector().connect(name, self.stream);
        let stream = timeout(HANDSHAKE, begun).await.map_err(|_| {
            let text = format!("no answer to the handshake within {} s", HANDSHAKE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        })??;
        Ok(Self { stream: Box::new(stream) })
    }

    /// Reads what has come, at least a byte. 0 is the end. Nothing is lost if it is given up.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buffer).await {
            // A server that was killed does not end TLS properly. It is the end all the same:
            // nothing that was cut off is taken for whole in MUPDATE.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }

    /// Sends all of it.
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
