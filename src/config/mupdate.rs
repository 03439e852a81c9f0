//! How the MUPDATE server is reached: `[mupdate]`, and the options of imapd.conf.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::ConfigError;
use super::password_file::read_password;
use super::source::MupdateMode;
use super::values::{list, typed};
use crate::imapd_conf::ImapdOptions;
use crate::model::shown::Shown;
use crate::mupdate::{Credentials, Mechanism, WhenTls};

/// The port of MUPDATE (RFC 3656 §7).
pub(super) const MUPDATE_PORT: u16 = 3905;

/// Maximum of `negative-cache`, in seconds: by then a new user may have told the address to others.
const NEGATIVE_CACHE_LIMIT: u32 = 10;

/// How the MUPDATE server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mupdate {
    /// The addresses, in the order in which they are tried; at least one.
    pub servers: Vec<MasterAddress>,
    /// Credentials of an admin of the server (`admins`, `mupdate_admins`).
    pub credentials: Credentials,
    /// TLS.
    pub tls: TlsSettings,
    /// A password may go in the clear.
    pub allow_plaintext: bool,
    /// The name that the banner of the master must have (`servername`).
    pub master: Option<String>,
    /// The mechanisms that may be used, the best one first; `None`: [`Mechanism::ALL`].
    pub mechanisms: Option<Vec<Mechanism>>,
    /// Time for which a "no such mailbox" of the master answers for the name without another question;
    /// `None`: each miss is confirmed. A mailbox that is created meanwhile is refused.
    pub negative_cache: Option<Duration>,
}

/// The address of a MUPDATE server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MasterAddress {
    /// A host name or an address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// When TLS is used, and how the server is authenticated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// When STARTTLS is used.
    pub when: WhenTls,
    /// The certificates of trusted authorities, PEM; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key.
    pub client: Option<ClientCertificate>,
    /// The name in the server's certificate; `None`: that of the address.
    pub name: Option<String>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// Why text is not the address of a MUPDATE server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a MUPDATE server: {why}")]
pub struct BadMasterAddress {
    text: String,
    why: &'static str,
}

/// Why the MUPDATE master cannot be asked as things are configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MasterUnusable {
    /// The address in imapd.conf, which Cyrus may understand all the same.
    #[error("imapd.conf: mupdate_server: {0}")]
    Address(#[from] BadMasterAddress),
    /// Neither a name nor a client certificate.
    #[error(
        "no name for the login to the MUPDATE server; set `mupdate_authname` and `mupdate_password` in \
         imapd.conf, or `authname` and `password-file` in [mupdate]"
    )]
    NoName,
    /// Neither a password nor a client certificate.
    #[error(
        "no password for the login to the MUPDATE server; set `mupdate_authname` and \
         `mupdate_password` in imapd.conf, or `authname` and `password-file` in [mupdate]"
    )]
    NoPassword,
}

/// Reads an address as imapd.conf's `mupdate_server` has it: `host`, `host:port`, and after a
/// `/` options, which are ignored here (Cyrus `imap/backend.c:backend_connect`); besides
/// `[address]:port` for IPv6, which Cyrus cannot write.
impl FromStr for MasterAddress {
    type Err = BadMasterAddress;

    fn from_str(text: &str) -> Result<Self, BadMasterAddress> {
        let bad = |why| Err(BadMasterAddress { text: Shown(text).to_string(), why });
        let address = text.split('/').next().unwrap_or_default();
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) if port.starts_with(':') => (host, port.get(1..)),
                _ => return bad("write an IPv6 address as in [2001:db8::1]:3905"),
            },
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let allowed =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '%');
        if host.is_empty() || !host.chars().all(allowed) {
            return bad("write HOST or HOST:PORT");
        }
        let port = match port {
            None | Some("mupdate") => MUPDATE_PORT,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => return bad("the port is not a number from 1 to 65535"),
            },
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for MasterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// An address, and whether it asks for TLS: `host/tls` (Cyrus `imap/backend.c:backend_connect`).
#[derive(Debug, Clone)]
struct FileAddress {
    address: MasterAddress,
    tls: bool,
}

impl FromStr for FileAddress {
    type Err = BadMasterAddress;

    fn from_str(text: &str) -> Result<Self, BadMasterAddress> {
        let tls = text.split('/').skip(1).any(|option| option == "tls");
        Ok(Self { address: text.parse()?, tls })
    }
}

/// Keys of `[mupdate]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct MupdateTable {
    pub(super) mode: Option<MupdateMode>,
    #[serde(deserialize_with = "servers")]
    servers: Vec<FileAddress>,
    pub(super) imapd_conf: Option<PathBuf>,
    username: Option<String>,
    authname: Option<String>,
    realm: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<WhenTls>,
    ca_file: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    tls_name: Option<String>,
    allow_plaintext: bool,
    master: Option<String>,
    #[serde(deserialize_with = "mechanisms")]
    mechanisms: Option<Vec<Mechanism>>,
    #[serde(deserialize_with = "negative_cache")]
    negative_cache: Option<Duration>,
}

/// Why `[mupdate]` cannot be used.
#[derive(Debug)]
pub(super) enum MupdateError {
    /// `certificate` without `key`, or the reverse.
    HalfCertificate,
    /// The password file.
    Password(ConfigError),
}

/// The MUPDATE master as it is configured.
#[derive(Debug)]
pub(super) enum MasterAccess {
    /// No server is named.
    NotConfigured,
    /// A server is named, and no login to it is possible.
    Unusable(MasterUnusable),
    /// The master can be asked.
    Usable(Box<Mupdate>),
}

impl MupdateTable {
    /// Whether a server is named here or in this imapd.conf.
    pub(super) fn names_server(&self, conf: Option<&ImapdOptions>) -> bool {
        !self.servers.is_empty() || conf.is_some_and(|conf| conf.mupdate_server.is_some())
    }

    /// Builds the settings from the keys and, for those that are not set, from imapd.conf. Paths are
    /// relative to `base`.
    pub(super) fn build(
        &self,
        base: &Path,
        conf: Option<&ImapdOptions>,
    ) -> Result<MasterAccess, MupdateError> {
        let servers = match (&*self.servers, conf.and_then(|conf| conf.mupdate_server.as_ref())) {
            ([], None) => return Ok(MasterAccess::NotConfigured),
            ([], Some(named)) => match named.parse() {
                Ok(server) => vec![server],
                Err(why) => return Ok(MasterAccess::Unusable(MasterUnusable::Address(why))),
            },
            (servers, _) => servers.to_vec(),
        };
        let credentials = self.credentials(base, conf).map_err(MupdateError::Password)?;
        let tls = self.tls(base, servers.iter().any(|server| server.tls))?;
        if tls.client.is_none() {
            if credentials.name().is_empty() {
                return Ok(MasterAccess::Unusable(MasterUnusable::NoName));
            }
            if credentials.password().is_none() {
                return Ok(MasterAccess::Unusable(MasterUnusable::NoPassword));
            }
        }
        Ok(MasterAccess::Usable(Box::new(Mupdate {
            servers: servers.into_iter().map(|server| server.address).collect(),
            credentials,
            tls,
            allow_plaintext: self.allow_plaintext,
            master: self.master.clone(),
            mechanisms: self.mechanisms.clone(),
            negative_cache: self.negative_cache,
        })))
    }

    fn credentials(
        &self,
        base: &Path,
        conf: Option<&ImapdOptions>,
    ) -> Result<Credentials, ConfigError> {
        let or = |own: &Option<String>, theirs: fn(&ImapdOptions) -> &Option<String>| {
            own.clone().or_else(|| conf.and_then(|conf| theirs(conf).clone()))
        };
        Ok(Credentials {
            password: match &self.password_file {
                Some(path) => Some(read_password(&base.join(path))?),
                None => conf.and_then(|conf| conf.mupdate_password.clone()),
            },
            username: or(&self.username, |conf| &conf.mupdate_username).unwrap_or_default(),
            authname: or(&self.authname, |conf| &conf.mupdate_authname).unwrap_or_default(),
            realm: or(&self.realm, |conf| &conf.mupdate_realm),
        })
    }

    /// Requires TLS if a key says how the server is authenticated: an attacker on the way can remove an
    /// offer of TLS.
    fn tls(&self, base: &Path, in_address: bool) -> Result<TlsSettings, MupdateError> {
        let authenticates =
            self.ca_file.is_some() || self.tls_name.is_some() || self.certificate.is_some();
        Ok(TlsSettings {
            when: self.tls.unwrap_or(match authenticates || in_address {
                true => WhenTls::Required,
                false => WhenTls::IfOffered,
            }),
            ca_file: self.ca_file.as_ref().map(|path| base.join(path)),
            client: match (&self.certificate, &self.key) {
                (Some(certificate), Some(key)) => Some(ClientCertificate {
                    certificate: base.join(certificate),
                    key: base.join(key),
                }),
                (None, None) => None,
                _ => return Err(MupdateError::HalfCertificate),
            },
            name: self.tls_name.clone(),
        })
    }
}

fn servers<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<FileAddress>, D::Error> {
    let words = list(input)?;
    if words.is_empty() {
        return Err(de::Error::custom("at least one server is needed"));
    }
    words.iter().map(|word| word.parse().map_err(de::Error::custom)).collect()
}

fn negative_cache<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    match typed::<u32, _>(input, "a number of seconds")? {
        0 => Ok(None),
        seconds @ 1..=NEGATIVE_CACHE_LIMIT => Ok(Some(Duration::from_secs(seconds.into()))),
        seconds => Err(de::Error::custom(format!(
            "{seconds} seconds are too long: mail to mailboxes created meanwhile is refused; use at \
             most {NEGATIVE_CACHE_LIMIT}"
        ))),
    }
}

fn mechanisms<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<Mechanism>>, D::Error> {
    let words = list(input)?;
    if words.is_empty() {
        return Err(de::Error::custom("at least one mechanism is needed"));
    }
    let read = words.iter().map(|word| word.parse().map_err(de::Error::custom));
    read.collect::<Result<_, _>>().map(Some)
}
