//! How the MUPDATE server is reached: `[mupdate]`, and what imapd.conf says of it.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::ConfigError;
use super::file::{list, meant};
use crate::imapd_conf;
use crate::model::secret::Secret;
use crate::model::shown::Shown;
use crate::mupdate::{Credentials, Mechanism, WhenTls};
use crate::os::regular_file;

/// The port of MUPDATE (RFC 3656 §7).
pub(super) const MUPDATE_PORT: u16 = 3905;

/// A password file is no longer than this, in bytes.
const PASSWORD_LIMIT: u64 = 4096;

/// How the MUPDATE server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mupdate {
    /// The addresses, in the order in which they are tried; at least one.
    pub servers: Vec<Server>,
    /// As whom we log in: an admin of the server (`admins`, `mupdate_admins`).
    pub credentials: Credentials,
    /// Encryption.
    pub tls: Tls,
    /// A password may go in the clear.
    pub allow_plaintext: bool,
    /// The name the master must call itself in its banner (`servername`).
    pub master: Option<String>,
    /// The mechanisms that may be used, the best one first; `None`: [`Mechanism::ALL`].
    pub mechanisms: Option<Vec<Mechanism>>,
    /// How long the master's word that he does not have a name is passed on without asking again;
    /// `None`: he is asked each time. Whoever is created meanwhile is refused.
    pub negative_cache: Option<Duration>,
}

/// The address of a MUPDATE server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// A host name or an address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Whether STARTTLS is used, and how the server proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Whether.
    pub when: WhenTls,
    /// The certificates of the authorities that are believed, PEM; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, PEM, and its key.
    pub client: Option<ClientCertificate>,
    /// The name in the server's certificate; `None`: that of the address.
    pub name: Option<String>,
}

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl Mupdate {
    /// Why nobody can log in with this, whatever the server offers.
    pub fn impossible(&self) -> Option<&'static str> {
        let named = !self.credentials.name().is_empty();
        if self.tls.client.is_some() || (named && self.credentials.password().is_some()) {
            return None;
        }
        Some(match named {
            true => "no password for the MUPDATE server is given",
            false => "no name to log in to the MUPDATE server is given",
        })
    }
}

impl Server {
    /// Reads an address as imapd.conf's `mupdate_server` has it: `host`, `host:port`, and after a
    /// `/` options, which are passed over here (Cyrus `imap/backend.c:backend_connect`); besides
    /// `[address]:port` for IPv6, which Cyrus cannot write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("`{}` is no MUPDATE server: {why}", Shown(text)));
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
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '%');
        if host.is_empty() || !host.chars().all(plain) {
            return bad("write host or host:port");
        }
        let port = match port {
            None | Some("mupdate") => MUPDATE_PORT,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => return bad("its port is no port"),
            },
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What the source `mupdate` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// The source `replica`.
    #[default]
    Replica,
    /// The source `find`.
    Find,
}

/// A server, and whether its name asks for TLS: `host/tls` (Cyrus `imap/backend.c:backend_connect`).
#[derive(Debug, Clone)]
struct Named {
    server: Server,
    tls: bool,
}

impl Named {
    fn parse(text: &str) -> Result<Self, String> {
        let tls = text.split('/').skip(1).any(|option| option == "tls");
        Ok(Self { server: Server::parse(text)?, tls })
    }
}

/// `[mupdate]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct FileMupdate {
    pub(super) mode: Option<Mode>,
    #[serde(deserialize_with = "servers")]
    servers: Vec<Named>,
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
    #[serde(deserialize_with = "a_few_seconds")]
    negative_cache: Option<Duration>,
}

impl FileMupdate {
    /// Whoever says how the server proves itself wants it to: an offer of TLS can be taken away by
    /// somebody on the way.
    fn speaks_of_tls(&self) -> bool {
        self.ca_file.is_some() || self.tls_name.is_some() || self.certificate.is_some()
    }

    /// Whether a server is named here or in this imapd.conf.
    pub(super) fn names_server(&self, conf: Option<&imapd_conf::Options>) -> bool {
        !self.servers.is_empty() || conf.is_some_and(|conf| conf.mupdate_server.is_some())
    }

    /// What this comes to together with an imapd.conf. `None`: nobody names a server. `Err` in text
    /// is about imapd.conf's `mupdate_server`, which Cyrus may understand all the same.
    pub(super) fn build(
        &self,
        base: &Path,
        conf: Option<&imapd_conf::Options>,
    ) -> Result<Option<Result<Mupdate, String>>, ConfigError> {
        let servers = match (&*self.servers, conf.and_then(|conf| conf.mupdate_server.as_ref())) {
            ([], None) => return Ok(None),
            ([], Some(named)) => match Named::parse(named) {
                Ok(server) => vec![server],
                Err(why) => return Ok(Some(Err(format!("imapd.conf: mupdate_server: {why}")))),
            },
            (servers, _) => servers.to_vec(),
        };
        let named_tls = servers.iter().any(|named| named.tls);
        let or = |own: &Option<String>, theirs: fn(&imapd_conf::Options) -> &Option<String>| {
            own.clone().or_else(|| conf.and_then(|conf| theirs(conf).clone()))
        };
        let password = match &self.password_file {
            Some(path) => Some(read_password(&base.join(path))?),
            None => conf.and_then(|conf| conf.mupdate_password.clone()),
        };
        let credentials = Credentials {
            username: or(&self.username, |conf| &conf.mupdate_username).unwrap_or_default(),
            authname: or(&self.authname, |conf| &conf.mupdate_authname).unwrap_or_default(),
            realm: or(&self.realm, |conf| &conf.mupdate_realm),
            password,
        };
        let client = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                Some(ClientCertificate { certificate: base.join(certificate), key: base.join(key) })
            }
            (None, None) => None,
            _ => {
                let text = "[mupdate]: `certificate` and `key` go together".to_owned();
                return Err(ConfigError::Option(text));
            }
        };
        let tls = Tls {
            when: self.tls.unwrap_or(match self.speaks_of_tls() || named_tls {
                true => WhenTls::Required,
                false => WhenTls::IfOffered,
            }),
            ca_file: self.ca_file.as_ref().map(|path| base.join(path)),
            client,
            name: self.tls_name.clone(),
        };
        Ok(Some(Ok(Mupdate {
            servers: servers.into_iter().map(|named| named.server).collect(),
            credentials,
            tls,
            allow_plaintext: self.allow_plaintext,
            master: self.master.clone(),
            mechanisms: self.mechanisms.clone(),
            negative_cache: self.negative_cache,
        })))
    }
}

/// The first line end at the end does not count: editors put it there.
pub(super) fn read_password(path: &Path) -> Result<Secret, ConfigError> {
    let io = |source| ConfigError::Io { path: path.into(), source };
    let wrong = |text: String| ConfigError::File { path: path.into(), text };
    let file = regular_file::open(path).map_err(io)?;
    // Of the file that was opened, so that nobody can exchange it in between.
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o027 != 0 {
        return Err(wrong(format!(
            "a password with mode {mode:04o}: others must not read it, and only its owner may \
             write it (chmod 0640)"
        )));
    }
    let mut bytes = Vec::new();
    let read = file.take(PASSWORD_LIMIT + 1).read_to_end(&mut bytes).map_err(io)?;
    let password = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let password = password.strip_suffix(b"\r").unwrap_or(password);
    if read as u64 > PASSWORD_LIMIT {
        return Err(wrong(format!("longer than {PASSWORD_LIMIT} bytes")));
    }
    if password.is_empty() || password.iter().any(|b| b"\n\r\0".contains(b)) {
        return Err(wrong("it must hold the password in one line, and nothing else".into()));
    }
    Ok(Secret::new(password))
}

fn servers<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Named>, D::Error> {
    let words = list(input)?;
    if words.is_empty() {
        return Err(de::Error::custom("without a server there is nobody to ask"));
    }
    words.iter().map(|word| Named::parse(word).map_err(de::Error::custom)).collect()
}

/// Longest `negative-cache`, in seconds: by then a new user has told somebody his address.
const NEGATIVE_CACHE_LIMIT: u32 = 10;

fn a_few_seconds<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    match meant::<u32, _>(input, "a number of seconds")? {
        0 => Ok(None),
        seconds @ 1..=NEGATIVE_CACHE_LIMIT => Ok(Some(Duration::from_secs(seconds.into()))),
        seconds => Err(de::Error::custom(format!(
            "{seconds} seconds are too long: whoever is created meanwhile is refused; at most \
             {NEGATIVE_CACHE_LIMIT}"
        ))),
    }
}

fn mechanisms<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<Mechanism>>, D::Error> {
    let words = list(input)?;
    if words.is_empty() {
        return Err(de::Error::custom("without a mechanism nobody can log in"));
    }
    let read = words.iter().map(|word| word.parse().map_err(de::Error::custom));
    read.collect::<Result<_, _>>().map(Some)
}
