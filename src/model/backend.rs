//! Conversion of the server of a record to the LMTP address of a backend.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::model::shown::Shown;

/// Port of `lmtpd` on Debian (`lmtp` in its `/etc/services`). Postfix' own default is 24.
pub const LMTP_PORT: u16 = 2003;

/// Backend that gets a message by LMTP.
///
/// Only values that are safe for a mail server can be built: Postfix' lmtp(8) dies of an invalid
/// port, and the text becomes a queue name there, so each backend must have exactly one spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Transport of the mail server (Postfix: first column of `master.cf`).
    pub transport: Box<str>,
    /// LMTP address.
    pub address: LmtpAddress,
}

/// Address of an LMTP server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LmtpAddress {
    /// Host by name or address.
    Inet {
        /// Host name in lower case, or an address; IPv6 without brackets.
        host: Box<str>,
        /// TCP port, never 0.
        port: u16,
    },
    /// Absolute path of a unix socket on this host.
    Unix(Box<str>),
}

/// Text that is not an LMTP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a backend: write `HOST`, `HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH`")]
pub struct BadLmtpAddress(String);

impl LmtpAddress {
    /// Parses `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT`, a bare IPv6 address or `unix:/PATH`.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, BadLmtpAddress> {
        let bad = || BadLmtpAddress(Shown(text).to_string());
        if let Some(path) = text.strip_prefix("unix:") {
            let fine = path.starts_with('/')
                && path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'%'));
            return if fine { Ok(LmtpAddress::Unix(path.into())) } else { Err(bad()) };
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            host.parse::<Ipv6Addr>().map_err(|_| bad())?;
            (
                host,
                if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(bad)?) },
            )
        } else {
            match split_at(text, b':') {
                Some(_) if text.parse::<Ipv6Addr>().is_ok() => (text, None),
                Some((host, port)) if is_host(host) => (host, Some(port)),
                None if is_host(text) => (text, None),
                _ => return Err(bad()),
            }
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                u16::from_str(digits).map_err(|_| bad())?
            }
            Some(_) => return Err(bad()),
            None => default_port,
        };
        if port == 0 {
            return Err(bad());
        }
        Ok(LmtpAddress::Inet { host: host.to_ascii_lowercase().into(), port })
    }

    /// Returns `host:port`, `[v6]:port` or `unix:/path`, in the form that [`LmtpAddress::parse`]
    /// reads.
    pub fn host_and_port(&self) -> String {
        let nexthop = self.to_string();
        nexthop.strip_prefix("inet:").map(str::to_owned).unwrap_or(nexthop)
    }
}

/// Splits text at the first occurrence of an ASCII byte. For text as short as server names,
/// [`str::split_once`] is slower.
fn split_at(text: &str, at: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|b| b == at)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Whether the text is a DNS name or an IPv4 address. Underscores are not valid in DNS host names,
/// but some sites use them.
fn is_host(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    host.len() <= 253
        && host.split(|b| *b == b'.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with(b"-")
                && !label.ends_with(b"-")
                && label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        })
}

impl Backend {
    /// Returns `transport:nexthop`, the result of a Postfix transport map. Built without `format!`,
    /// because nearly every answer needs it.
    pub fn nexthop(&self) -> String {
        match &self.address {
            LmtpAddress::Inet { host, port } if !host.contains(':') => {
                [&*self.transport, ":inet:", host, ":", itoa::Buffer::new().format(*port)].concat()
            }
            address => format!("{}:{address}", self.transport),
        }
    }
}

/// Writes `inet:host:port`, `inet:[v6]:port` or `unix:/path`, a nexthop of Postfix' lmtp(8).
impl fmt::Display for LmtpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LmtpAddress::Inet { host, port } if host.contains(':') => {
                write!(f, "inet:[{host}]:{port}")
            }
            LmtpAddress::Inet { host, port } => write!(f, "inet:{host}:{port}"),
            LmtpAddress::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Settings for one server of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerOverride {
    /// Address. Default: that of the server's name.
    pub address: Option<LmtpAddress>,
    /// Transport. Default: the common one.
    pub transport: Option<Box<str>>,
    /// Whether the server is drained: its messages are deferred.
    pub drain: bool,
}

/// Addresses and transports of the servers of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends {
    /// Port of a server whose record has none.
    pub port: u16,
    /// Default transport of a server.
    pub transport: Box<str>,
    /// Address for the mailboxes of this host.
    pub local: Option<LmtpAddress>,
    /// Server on which mailboxes of new users are created (`autocreate_post`).
    pub autocreate: Option<Box<str>>,
    /// Domain appended to short server names, which have no dot.
    pub domain: Option<Box<str>>,
    servers: HashMap<Box<str>, ServerOverride>,
}

impl Default for Backends {
    fn default() -> Self {
        Self {
            port: LMTP_PORT,
            transport: "lmtp".into(),
            local: None,
            autocreate: None,
            domain: None,
            servers: HashMap::new(),
        }
    }
}

/// Reason why the server of a record has no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBackend {
    /// The record has no server, and no local backend is configured.
    #[error("the mailbox is local to this host, and `backends.local` is not configured")]
    Local,
    /// The server is drained.
    #[error("the backend {0} is being drained")]
    Draining(String),
    /// The server of the record is not a valid host.
    #[error("the record's server: {0}")]
    Odd(#[from] BadLmtpAddress),
}

impl Backends {
    /// Configures one server under its name in the list (its `servername`, with the `:port` that the
    /// list has).
    pub fn set(&mut self, server: &str, settings: ServerOverride) {
        self.servers.insert(folded(server).into(), settings);
    }

    /// Returns configured servers that are not among these servers of a list, sorted. Their settings
    /// have no effect.
    pub fn unlisted<'a>(&self, listed: impl IntoIterator<Item = &'a str>) -> Vec<&str> {
        let met: HashSet<&str> =
            listed.into_iter().filter_map(|server| Some(self.find(server)?.0)).collect();
        let mut unlisted: Vec<&str> =
            self.servers.keys().map(|name| &**name).filter(|name| !met.contains(name)).collect();
        unlisted.sort_unstable();
        unlisted
    }

    /// Returns the configured servers, sorted.
    pub fn overrides(&self) -> Vec<(&str, &ServerOverride)> {
        let mut all: Vec<_> = self.servers.iter().map(|(name, what)| (&**name, what)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }

    /// Returns the backend of a record with this server; `None` is this host.
    pub fn resolve(&self, server: Option<&str>) -> Result<Backend, NoBackend> {
        let Some(server) = server else {
            let address = self.local.clone().ok_or(NoBackend::Local)?;
            return Ok(Backend { transport: self.transport.clone(), address });
        };
        let named = if self.servers.is_empty() { None } else { self.find(server) };
        let named = named.map(|(_, named)| named);
        if named.is_some_and(|named| named.drain) {
            return Err(NoBackend::Draining(Shown(server).to_string()));
        }
        let transport = named.and_then(|named| named.transport.as_ref()).unwrap_or(&self.transport);
        let address = match named.and_then(|named| named.address.as_ref()) {
            Some(address) => address.clone(),
            None => self.own_address(server)?,
        };
        Ok(Backend { transport: transport.clone(), address })
    }

    /// Returns the address that follows from the server's name.
    pub(crate) fn own_address(&self, server: &str) -> Result<LmtpAddress, BadLmtpAddress> {
        let address = LmtpAddress::parse(connect_string(server), self.port)?;
        match (address, &self.domain) {
            (LmtpAddress::Inet { host, port }, Some(domain)) if !host.contains(['.', ':']) => {
                // The whole name must be valid for a mail server.
                LmtpAddress::parse(&format!("{host}.{domain}"), port)
            }
            (address, _) => Ok(address),
        }
    }

    /// Searches for the whole server text first, then for the text without its port.
    fn find(&self, server: &str) -> Option<(&str, &ServerOverride)> {
        let server = folded(server);
        let get = |name: &str| self.servers.get_key_value(name);
        let found = get(&server).or_else(|| get(server.rsplit_once(':')?.0));
        found.map(|(name, what)| (&**name, what))
    }
}

/// Returns a server in the form in which servers are compared: in lower case, without the options
/// for Cyrus' proxies.
pub(crate) fn folded(server: &str) -> String {
    connect_string(server).to_ascii_lowercase()
}

/// Returns a server without its options. Cyrus' proxies use the server as
/// `host[:port[/tls][/noauth]]` (`imap/backend.c`): the words after a slash are options.
pub(crate) fn connect_string(server: &str) -> &str {
    split_at(server, b'/').map_or(server, |(address, _options)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nexthop(server: &str) -> Result<String, NoBackend> {
        Backends::default().resolve(Some(server)).map(|backend| backend.address.to_string())
    }

    #[test]
    fn server_becomes_a_nexthop_with_a_port() {
        assert_eq!(nexthop("127.0.1.11").unwrap(), "inet:127.0.1.11:2003");
        assert_eq!(nexthop("BE1.Example.org").unwrap(), "inet:be1.example.org:2003");
        assert_eq!(nexthop("be1.example.org:24").unwrap(), "inet:be1.example.org:24");
        assert_eq!(nexthop("be1:2003/tls/noauth").unwrap(), "inet:be1:2003");
        assert_eq!(nexthop("2001:db8::1").unwrap(), "inet:[2001:db8::1]:2003");
        assert_eq!(nexthop("[2001:DB8::1]:24").unwrap(), "inet:[2001:db8::1]:24");
    }

    #[test]
    fn invalid_server_is_never_a_nexthop() {
        for odd in [
            "",
            ":24",
            "be1:",
            "be1:0",
            "be1:65536",
            "be1:lmtp",
            "be1:+24",
            "a b",
            "be1\n",
            "be1,be2",
            "-be1",
            "be1..org",
            "[2001:db8::1",
            "[be1]:24",
            "bé1",
            "be1;x",
            "%s",
        ] {
            assert!(matches!(nexthop(odd), Err(NoBackend::Odd(_))), "{odd:?}: {:?}", nexthop(odd));
        }
    }

    #[test]
    fn socket_path_ambiguous_to_the_mail_server_is_refused() {
        for odd in ["unix:", "unix:run/lmtp", "unix:/run/a b", "unix:/run/a,b", "unix:/run/%s"] {
            assert!(LmtpAddress::parse(odd, 0).is_err(), "{odd}");
        }
        let socket = LmtpAddress::parse("unix:/run/cyrus/socket/lmtp", 0).unwrap();
        assert_eq!(socket.host_and_port(), "unix:/run/cyrus/socket/lmtp");
    }

    #[test]
    fn colons_of_an_ipv6_address_are_not_a_port() {
        for server in ["be1", "127.0.1.11:24", "2001:db8::1", "[2001:db8::1]:24"] {
            let backend = Backends::default().resolve(Some(server)).unwrap();
            assert_eq!(backend.nexthop(), format!("lmtp:{}", backend.address), "{server}");
        }
        let backend = Backends::default().resolve(Some("2001:db8::1")).unwrap();
        assert_eq!(backend.nexthop(), "lmtp:inet:[2001:db8::1]:2003");
    }

    #[test]
    fn only_short_names_get_the_domain() {
        let mut backends = Backends { domain: Some("example.org".into()), ..Backends::default() };
        let address = LmtpAddress::parse("be9", 24).unwrap();
        backends.set("be4", ServerOverride { address: Some(address), ..ServerOverride::default() });
        let address = |server| backends.resolve(Some(server)).unwrap().address.to_string();
        for (server, expected) in [
            ("be1", "inet:be1.example.org:2003"),
            ("BE1:24", "inet:be1.example.org:24"),
            ("be1/tls", "inet:be1.example.org:2003"),
            ("be2.example.net", "inet:be2.example.net:2003"),
            ("192.0.2.1", "inet:192.0.2.1:2003"),
            ("2001:db8::1", "inet:[2001:db8::1]:2003"),
            ("[2001:db8::1]:24", "inet:[2001:db8::1]:24"),
            ("be4", "inet:be9:24"),
        ] {
            assert_eq!(address(server), expected, "{server}");
        }
    }

    #[test]
    fn settings_of_a_server_override_its_name() {
        let mut backends = Backends { port: 24, ..Backends::default() };
        backends.set(
            "BE1.example.org",
            ServerOverride {
                address: Some(LmtpAddress::parse("10.0.0.1", 24).unwrap()),
                ..ServerOverride::default()
            },
        );
        backends
            .set("be2.example.org", ServerOverride { drain: true, ..ServerOverride::default() });
        // The name as in the list, with the options for Cyrus' proxies.
        backends.set("be4:2003/tls", ServerOverride { drain: true, ..ServerOverride::default() });
        let address = |server| backends.resolve(server).map(|backend| backend.address.to_string());
        assert_eq!(address(Some("be1.example.org")).unwrap(), "inet:10.0.0.1:24");
        assert_eq!(address(Some("be1.example.org:2003")).unwrap(), "inet:10.0.0.1:24");
        assert!(matches!(address(Some("be2.example.org")), Err(NoBackend::Draining(_))));
        assert!(matches!(address(Some("be4:2003/tls")), Err(NoBackend::Draining(_))));
        assert_eq!(address(Some("be3.example.org")).unwrap(), "inet:be3.example.org:24");
        assert_eq!(address(None), Err(NoBackend::Local));
    }

    #[test]
    fn settings_for_unlisted_servers_are_reported() {
        let mut backends = Backends::default();
        for name in ["BE1.example.org", "be2", "be3:2003", "be4", "be5:24"] {
            backends.set(name, ServerOverride::default());
        }
        let listed = ["be1.example.org", "be2.example.org", "be3:2003/tls", "be4:2003", "be5:2003"];
        assert_eq!(backends.unlisted(listed), ["be2", "be5:24"]);
    }
}
