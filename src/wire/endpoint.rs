//! Endpoints of the daemon in the notation of the configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::wire::map_name::is_built_in;
use crate::wire::protocol::Protocols;

/// Default mode of a unix socket: every local user may connect, because Postfix' processes run as
/// user `postfix`, which shares no group with Cyrus.
pub const DEFAULT_MODE: u32 = 0o666;

/// Endpoint to listen on, in the notation of Postfix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `unix:PATH`
    Unix(PathBuf),
    /// `inet:HOST:PORT` or `inet:[ADDRESS]:PORT`. A host name stands for all its addresses.
    Inet {
        /// Host name, or address without brackets.
        host: String,
        /// TCP port; 0 takes any free one.
        port: u16,
    },
    /// `systemd:NAME`: the sockets that systemd opened under this name (`FileDescriptorName=` of the
    /// socket unit, by default the name of the unit).
    Systemd(String),
}

/// Owner and mode of a unix socket. Other endpoints ignore them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Owner, a name or a number. Default: the user of the daemon.
    pub owner: Option<String>,
    /// Group, a name or a number. Default: the group of the daemon.
    pub group: Option<String>,
    /// Permission bits. Default: [`DEFAULT_MODE`]. The umask has no effect.
    pub mode: Option<u32>,
}

/// Endpoint to listen on, with the owner and mode of its socket and its protocols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Endpoint.
    pub endpoint: Endpoint,
    /// Owner and mode.
    pub options: ListenOptions,
    /// Protocols that the socket speaks.
    pub protocols: Protocols,
}

impl Listen {
    /// Returns a socket with every protocol and the default owner and mode.
    pub fn at(endpoint: Endpoint) -> Self {
        Self { endpoint, options: ListenOptions::default(), protocols: Protocols::ALL }
    }
}

#[cfg(feature = "daemon")]
impl Listen {
    /// Whether both have the same endpoint, owner and mode. A change of the protocols does not need
    /// a new socket.
    pub(crate) fn is_as(&self, other: &Listen) -> bool {
        let rights = matches!(self.endpoint, Endpoint::Unix(_));
        self.endpoint == other.endpoint && (!rights || self.options == other.options)
    }
}

/// Text that is not an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an endpoint: {why}; write unix:PATH, inet:HOST:PORT or systemd:NAME")]
pub struct EndpointError {
    text: String,
    why: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let wrong = |why| EndpointError { text: text.to_owned(), why };
        match text.split_once(':').ok_or_else(|| wrong("the kind is missing"))? {
            ("unix", "") => Err(wrong("no path")),
            ("unix", path) if path.ends_with('/') => Err(wrong("the path is that of a directory")),
            // In Postfix' main.cf the map follows the socket.
            ("unix", path) if path.rsplit_once(':').is_some_and(|(_, map)| is_built_in(map)) => {
                Err(wrong("the map does not belong here, only the path"))
            }
            ("unix", path) => Ok(Endpoint::Unix(path.into())),
            ("inet", place) => {
                let (host, port) = place.rsplit_once(':').ok_or_else(|| wrong("no port"))?;
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                let host = match bare {
                    Some(host) if host.parse::<std::net::Ipv6Addr>().is_ok() => host,
                    Some(_) => return Err(wrong("no IPv6 address in the brackets")),
                    None if host.contains([':', '[', ']']) => {
                        return Err(wrong("an IPv6 address needs brackets"));
                    }
                    None if host.is_empty() => return Err(wrong("no host")),
                    None => host,
                };
                // The parser of u16 accepts a leading `+`.
                let digits = port.bytes().all(|b| b.is_ascii_digit());
                match port.parse() {
                    Ok(port) if digits => Ok(Endpoint::Inet { host: host.to_owned(), port }),
                    _ => Err(wrong("the port is not a number up to 65535")),
                }
            }
            ("socketmap", _) => Err(wrong("this is a table of Postfix; write the socket alone")),
            ("systemd", "") => Err(wrong("no name")),
            ("systemd", name) => Ok(Endpoint::Systemd(name.to_owned())),
            _ => Err(wrong("unknown kind")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Inet { host, port } if host.contains(':') => {
                write!(f, "inet:[{host}]:{port}")
            }
            Endpoint::Inet { host, port } => write!(f, "inet:{host}:{port}"),
            Endpoint::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_reads_back_as_written() {
        let inet = |host: &str, port| Endpoint::Inet { host: host.into(), port };
        for (text, endpoint) in [
            ("unix:/run/murder-route", Endpoint::Unix("/run/murder-route".into())),
            ("unix:/run/a:b", Endpoint::Unix("/run/a:b".into())),
            ("inet:127.0.0.1:10028", inet("127.0.0.1", 10028)),
            ("inet:localhost:0", inet("localhost", 0)),
            ("inet:[::1]:10028", inet("::1", 10028)),
            ("systemd:murder-route.socket", Endpoint::Systemd("murder-route.socket".into())),
        ] {
            assert_eq!(text.parse(), Ok(endpoint.clone()), "{text}");
            assert_eq!(endpoint.to_string(), text);
        }
    }

    /// With a stale mode, the mail server is locked out or other users are let in.
    #[cfg(feature = "daemon")]
    #[test]
    fn socket_with_changed_mode_is_not_kept() {
        let listen = |endpoint: &str, mode| Listen {
            options: ListenOptions { mode: Some(mode), ..ListenOptions::default() },
            ..Listen::at(endpoint.parse().unwrap())
        };
        let socket = listen("unix:/run/a", 0o666);
        assert!(!socket.is_as(&listen("unix:/run/a", 0o660)));
        assert!(!socket.is_as(&listen("unix:/run/b", 0o666)));
        let other = Listen { protocols: [].into_iter().collect(), ..socket.clone() };
        assert!(socket.is_as(&other), "the socket and its queue are kept");
        // A port has no mode.
        assert!(listen("inet:[::1]:1", 0o666).is_as(&listen("inet:[::1]:1", 0o660)));
    }

    #[test]
    fn invalid_endpoint_is_refused_with_its_reason() {
        for (text, why) in [
            ("", "the kind is missing"),
            ("/run/murder-route", "the kind is missing"),
            ("tcp:127.0.0.1:1", "unknown kind"),
            ("unix:", "no path"),
            ("unix:/run/", "directory"),
            ("unix:/run/murder-route:lmtp", "the map does not belong here"),
            ("unix:murder-route/socket:canonical", "the map does not belong here"),
            ("socketmap:unix:/run/murder-route:lmtp", "a table of Postfix"),
            ("inet:10028", "no port"),
            ("inet::10028", "no host"),
            ("inet:::1:10028", "needs brackets"),
            ("inet:[::1]", "needs brackets"),
            ("inet:[localhost]:1", "no IPv6 address"),
            ("inet:a:", "not a number"),
            ("inet:a:+1", "not a number"),
            ("inet:a:65536", "not a number"),
            ("systemd:", "no name"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
