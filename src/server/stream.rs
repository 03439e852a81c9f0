//! The stream of a client connection, and the client at its other end.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// Idle seconds after which the kernel checks that the host of a TCP client is still there.
const KEEP_IDLE: u32 = 300;

/// A client, whatever the number of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// A user of this host: SO_PEERCRED of unix(7).
    User(u32),
    /// A host. An IPv6 host is its network of 64 bits, since one host may use all addresses of it.
    Host(IpAddr),
    /// The kernel does not say.
    Unknown,
}

impl Peer {
    /// The host with this address.
    pub(super) fn host(address: IpAddr) -> Self {
        Peer::Host(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address => address,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::User(uid) => write!(f, "user {uid}"),
            Peer::Host(address) => write!(f, "{address}"),
            Peer::Unknown => f.write_str("an unknown client"),
        }
    }
}

/// A blocking stream, unix or TCP.
pub(super) enum ClientStream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl ClientStream {
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                ClientStream::Unix(stream) => (&*stream).read(buf),
                ClientStream::Tcp(stream) => (&*stream).read(buf),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientStream::Unix(stream) => (&*stream).write(bytes),
            ClientStream::Tcp(stream) => (&*stream).write(bytes),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            ClientStream::Unix(stream) => stream.shutdown(how),
            ClientStream::Tcp(stream) => stream.shutdown(how),
        }
    }

    /// Prepares the stream for blocking use: tokio accepts it as non-blocking.
    pub(super) fn prepare(&self, write_timeout: Duration) -> io::Result<()> {
        match self {
            ClientStream::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_write_timeout(Some(write_timeout))
            }
            ClientStream::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                // The client waits for every answer; none may be delayed until there is more to send.
                stream.set_nodelay(true)?;
                // Idle connections are never closed. Without keepalive the connection of a vanished
                // host would keep its slot forever.
                setsockopt(stream, sockopt::KeepAlive, &true)?;
                setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_IDLE)?;
                stream.set_write_timeout(Some(write_timeout))
            }
        }
    }

    pub(super) fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            ClientStream::Unix(stream) => stream.set_read_timeout(Some(time)),
            ClientStream::Tcp(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    /// The client that this connection counts for.
    pub(super) fn client(&self) -> Peer {
        match self {
            ClientStream::Unix(stream) => getsockopt(stream, sockopt::PeerCredentials)
                .map_or(Peer::Unknown, |peer| Peer::User(peer.uid())),
            ClientStream::Tcp(stream) => {
                stream.peer_addr().map_or(Peer::Unknown, |address| Peer::host(address.ip()))
            }
        }
    }

    /// The other end, for the log.
    pub(super) fn peer(&self) -> String {
        match self {
            ClientStream::Unix(stream) => match getsockopt(stream, sockopt::PeerCredentials) {
                Ok(peer) => format!("process {} of user {}", peer.pid(), peer.uid()),
                Err(_) => "a local process".to_owned(),
            },
            ClientStream::Tcp(stream) => match stream.peer_addr() {
                Ok(address) => address.to_string(),
                Err(_) => "a client".to_owned(),
            },
        }
    }
}

/// A connection with the flag that tells whether its client has sent a request.
#[derive(Clone)]
pub(super) struct OpenConnection {
    pub(super) stream: Arc<ClientStream>,
    /// Set with the first complete request.
    pub(super) asked: Arc<AtomicBool>,
}

impl OpenConnection {
    pub(super) fn new(stream: ClientStream) -> Self {
        Self { stream: Arc::new(stream), asked: Arc::default() }
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConnection").field("asked", &self.asked).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let host = |address: &str| Peer::host(address.parse().unwrap());
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:1:2"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:192.0.2.1"), host("192.0.2.1"));
        assert_ne!(host("192.0.2.1"), host("192.0.2.2"));
    }
}
