//! `/etc/murder-route.toml`, and what it comes to together with imapd.conf and the command line.
//!
//! The file is strict: an unknown key or a value that cannot be meant is an error with its line and
//! column. Paths in it are relative to it. What imapd.conf already says need not be said again:
//! `imapd-conf` and `domains` suffice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use crate::address::{Release, Rules};
use crate::backend::{Backends, LMTP_PORT, Override, Place};
use crate::domains::Domains;
use crate::endpoint::{Endpoint, Listen, ListenOptions};
use crate::imapd_conf::{self, ImapdConf, LMTP_SERVICES, Virtdomains};
use crate::maps::{Maps, Template, Templates, UnknownPolicy};
use crate::router::Router;

/// The configuration file that is read if none is named.
pub const DEFAULT_FILE: &str = "/etc/murder-route.toml";
/// The imapd.conf that is read if neither it nor a mailbox list is named.
pub const DEFAULT_IMAPD_CONF: &str = "/etc/imapd.conf";
/// The socket that is listened on if none is named.
pub const DEFAULT_SOCKET: &str = "/run/murder-route";

/// What the command line says. It wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config FILE`
    pub config: Option<PathBuf>,
    /// `--imapd-conf FILE`
    pub imapd_conf: Option<PathBuf>,
    /// `--mailboxes-db FILE`
    pub mailboxes_db: Option<PathBuf>,
    /// `--domain D`; if there is one, the file's `domains` do not count.
    pub domains: Vec<String>,
    /// `--listen ENDPOINT`; if there is one, the file's listeners do not count.
    pub listen: Vec<Endpoint>,
}

/// Everything the configuration comes to.
#[derive(Debug)]
pub struct Settings {
    /// The configuration file that was read, if any.
    pub file: Option<PathBuf>,
    /// The imapd.conf that was read, if any.
    pub imapd_conf: Option<PathBuf>,
    /// The rules of the decision.
    pub router: Router,
    /// The forms of the answers.
    pub maps: Maps,
    /// The mailbox list.
    pub mailboxes_db: PathBuf,
    /// The MUPDATE server that imapd.conf names: with one, a miss needs confirmation.
    pub mupdate_server: Option<String>,
    /// Where the local MUPDATE slave says whether it is up to date; set if `mupdate_server` is.
    pub kick_socket: Option<PathBuf>,
    /// Where to listen; empty: at [`DEFAULT_SOCKET`], or at the socket that systemd opened.
    pub listeners: Vec<Listen>,
    /// Most connections at a time on one socket. A running daemon keeps those it began with.
    pub max_connections: usize,
    /// What is odd, but not wrong enough to stop for.
    pub warnings: Vec<String>,
}

/// Why there is no configuration. Exit status 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong; the text says where.
    #[error("{path}: {text}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        text: String,
    },
    /// imapd.conf is wrong.
    #[error(transparent)]
    ImapdConf(#[from] imapd_conf::ConfError),
    /// An option of the command line is wrong.
    #[error("{0}")]
    Option(String),
    /// Nothing says where the mailbox list is.
    #[error(
        "nothing says where the mailbox list is: give `imapd-conf` or `mailboxes-db` in \
         {DEFAULT_FILE}, or --imapd-conf or --mailboxes-db (there is no {DEFAULT_IMAPD_CONF})"
    )]
    NoList,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    imapd_conf: Option<PathBuf>,
    mailboxes_db: Option<PathBuf>,
    #[serde(deserialize_with = "domains")]
    domains: Option<Domains>,
    #[serde(deserialize_with = "release")]
    cyrus_release: Option<Release>,
    services: Option<Vec<String>>,
    unknown: UnknownPolicy,
    #[serde(deserialize_with = "answer")]
    fallback: Option<String>,
    backends: FileBackends,
    listen: Vec<FileListener>,
    maps: BTreeMap<String, FileMap>,
    #[serde(deserialize_with = "connections")]
    max_connections: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct FileBackends {
    #[serde(deserialize_with = "port")]
    port: Option<u16>,
    #[serde(deserialize_with = "transport")]
    transport: Option<Box<str>>,
    #[serde(deserialize_with = "place")]
    local: Option<String>,
    servers: BTreeMap<String, FileServer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct FileServer {
    #[serde(deserialize_with = "place")]
    address: Option<String>,
    #[serde(deserialize_with = "port")]
    port: Option<u16>,
    #[serde(deserialize_with = "transport")]
    transport: Option<Box<str>>,
    drain: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileListener {
    #[serde(deserialize_with = "endpoint")]
    endpoint: Endpoint,
    owner: Option<String>,
    group: Option<String>,
    #[serde(default, deserialize_with = "mode")]
    mode: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileMap {
    #[serde(deserialize_with = "template")]
    deliver: Template,
    #[serde(default, deserialize_with = "some_template")]
    unknown: Option<Template>,
    #[serde(default, deserialize_with = "some_template")]
    deferred: Option<Template>,
    #[serde(default, deserialize_with = "some_template")]
    refused: Option<Template>,
}

impl Settings {
    /// Reads everything the configuration consists of.
    pub fn load(given: &Overrides) -> Result<Self, ConfigError> {
        let (file_path, file) = File::find(given.config.as_deref())?;
        let base = file_path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let from_file = |path: &PathBuf| base.join(path);

        let imapd_conf_path = given
            .imapd_conf
            .clone()
            .or_else(|| file.imapd_conf.as_ref().map(from_file))
            .or_else(|| default_imapd_conf(given, &file));
        let mut warnings = Vec::new();
        let services = file.services.clone();
        let imapd = match &imapd_conf_path {
            Some(path) => Some(read_imapd_conf(path, services.as_deref(), &mut warnings)?),
            None => None,
        };
        let mailboxes_db = given
            .mailboxes_db
            .clone()
            .or_else(|| file.mailboxes_db.as_ref().map(from_file))
            .or_else(|| imapd.as_ref().map(|imapd| imapd.mboxlist_db_path.clone()))
            .ok_or(ConfigError::NoList)?;

        let domains = match &*given.domains {
            [] => file.domains.clone().unwrap_or_default(),
            named => {
                Domains::new(named).map_err(|e| ConfigError::Option(format!("--domain: {e}")))?
            }
        };
        if let Some(imapd) = imapd.as_ref().filter(|imapd| imapd.proxyservers) {
            let murder = match imapd.mupdate_server {
                Some(_) => "misses cannot be confirmed here and are deferred",
                None => "whoever has his mailbox on another server is unknown here",
            };
            warnings.push(format!(
                "imapd.conf sets proxyservers, as backends do, and a backend's list holds only its \
                 own mailboxes: {murder}"
            ));
        }
        let (release, older) = match file.cyrus_release {
            Some(release) => (release, &[][..]),
            None => (Release::V3_6, &[Release::V2_5, Release::V2_4][..]),
        };
        let rules_of = |release: &Release| rules(imapd.as_ref(), *release);
        let backends = file.backends.build().map_err(|text| file_error(&file_path, text))?;
        let maps = file.maps().map_err(|text| file_error(&file_path, text))?;
        let listeners = match &*given.listen {
            [] => file.listeners(base),
            named => named.iter().cloned().map(listen_as_usual).collect(),
        };
        Ok(Self {
            router: Router {
                domains,
                rules: rules_of(&release),
                older: older.iter().map(rules_of).collect(),
                backends,
            },
            maps,
            mailboxes_db,
            mupdate_server: imapd.as_ref().and_then(|imapd| imapd.mupdate_server.clone()),
            kick_socket: imapd
                .as_ref()
                .filter(|imapd| imapd.mupdate_server.is_some())
                .map(imapd_conf::Options::kick_socket),
            listeners,
            max_connections: file.max_connections.unwrap_or(2000),
            warnings,
            file: file_path,
            imapd_conf: imapd_conf_path,
        })
    }
}

/// The rules for names: what imapd.conf sets, and for the rest what this release of Cyrus does.
pub fn rules(imapd: Option<&imapd_conf::Options>, release: Release) -> Rules {
    let defaults = Rules::defaults(release);
    let Some(imapd) = imapd else { return defaults };
    Rules {
        release,
        virtdomains: imapd.virtdomains != Virtdomains::Off,
        defaultdomain: imapd.defaultdomain.clone().or(defaults.defaultdomain),
        unixhierarchysep: imapd.unixhierarchysep.unwrap_or(defaults.unixhierarchysep),
        postuser: imapd.postuser.clone(),
        downcase: imapd.lmtp_downcase_rcpt.unwrap_or(defaults.downcase),
        strict: imapd.lmtp_strict_rfc2821,
        catchall: imapd.lmtp_catchall_mailbox.clone(),
        fuzzy: imapd.lmtp_fuzzy_mailbox_match,
    }
}

/// `/etc/imapd.conf`, where nothing else leads to a mailbox list.
fn default_imapd_conf(given: &Overrides, file: &File) -> Option<PathBuf> {
    let default = PathBuf::from(DEFAULT_IMAPD_CONF);
    let named = given.mailboxes_db.is_some() || file.mailboxes_db.is_some();
    (!named && default.exists()).then_some(default)
}

fn read_imapd_conf(
    path: &Path,
    services: Option<&[String]>,
    warnings: &mut Vec<String>,
) -> Result<imapd_conf::Options, ConfigError> {
    let services = match services {
        Some(named) => named.iter().map(String::as_str).collect(),
        None => LMTP_SERVICES.to_vec(),
    };
    let mut read = |path: &Path| std::fs::read(path);
    let (conf, odd) = ImapdConf::parse_for(path, &services, &mut read)?;
    warnings.extend(odd.iter().map(ToString::to_string));
    Ok(conf.options()?)
}

fn file_error(path: &Option<PathBuf>, text: String) -> ConfigError {
    ConfigError::File { path: path.clone().unwrap_or_else(|| DEFAULT_FILE.into()), text }
}

impl File {
    fn find(named: Option<&Path>) -> Result<(Option<PathBuf>, Self), ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                return Ok((None, Self::default()));
            }
            Err(source) => return Err(ConfigError::Io { path: path.into(), source }),
        };
        let file = toml::from_str(&text).map_err(|e| ConfigError::File {
            path: path.into(),
            text: e.to_string().trim_end().to_owned(),
        })?;
        Ok((Some(path.to_owned()), file))
    }

    fn listeners(&self, base: &Path) -> Vec<Listen> {
        let listen = |listen: &FileListener| Listen {
            endpoint: match &listen.endpoint {
                Endpoint::Unix(path) => Endpoint::Unix(base.join(path)),
                other => other.clone(),
            },
            options: ListenOptions {
                owner: listen.owner.clone(),
                group: listen.group.clone(),
                mode: listen.mode,
            },
        };
        self.listen.iter().map(listen).collect()
    }

    fn maps(&self) -> Result<Maps, String> {
        let mut maps = Maps::new(self.unknown, self.fallback.clone());
        for (name, map) in &self.maps {
            let or = |template: &Option<Template>, default| match template {
                Some(template) => Ok(template.clone()),
                None => Template::parse(default).map_err(|e| e.to_string()),
            };
            let templates = Templates {
                deliver: map.deliver.clone(),
                unknown: or(&map.unknown, "NOTFOUND")?,
                deferred: or(&map.deferred, "TEMP {reason}")?,
                refused: or(&map.refused, "NOTFOUND")?,
            };
            maps.add(name, templates).map_err(|e| format!("[maps.{name}]: {e}"))?;
        }
        Ok(maps)
    }
}

fn listen_as_usual(endpoint: Endpoint) -> Listen {
    Listen { endpoint, options: ListenOptions::default() }
}

impl FileBackends {
    fn build(&self) -> Result<Backends, String> {
        let port = self.port.unwrap_or(LMTP_PORT);
        let place = |text: &Option<String>, port| match text {
            Some(text) => Place::parse(text, port).map(Some).map_err(|e| e.to_string()),
            None => Ok(None),
        };
        let mut backends = Backends::default();
        backends.port = port;
        backends.local = place(&self.local, port)?;
        if let Some(transport) = &self.transport {
            backends.transport = transport.clone();
        }
        for (name, server) in &self.servers {
            let own_port = server.port.unwrap_or(port);
            let place = match (&server.address, server.port) {
                (None, Some(port)) => {
                    // Only the port is its own: the host is the name, less a port it may have.
                    let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
                    Some(Place::parse(host, port).map_err(|e| e.to_string())?)
                }
                (address, _) => place(address, own_port)?,
            };
            let what = Override { place, transport: server.transport.clone(), drain: server.drain };
            backends.set(name, what);
        }
        Ok(backends)
    }
}

/// `2.4`, `3.10`: what matters is the family.
fn release<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Release>, D::Error> {
    let text = String::deserialize(input)?;
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok());
    let mut parts = text.splitn(3, '.');
    match (number(parts.next()), number(parts.next())) {
        (Some(2), Some(2..=4)) => Ok(Some(Release::V2_4)),
        (Some(2), Some(5)) => Ok(Some(Release::V2_5)),
        (Some(3), Some(0..=5)) => Ok(Some(Release::V3_0)),
        (Some(3), Some(_)) => Ok(Some(Release::V3_6)),
        _ => Err(de::Error::custom(format!(
            "`{}` is no release of Cyrus: write it as in \"3.6\", from 2.2 on",
            text.escape_default()
        ))),
    }
}

fn endpoint<'de, D: Deserializer<'de>>(input: D) -> Result<Endpoint, D::Error> {
    String::deserialize(input)?.parse().map_err(de::Error::custom)
}

fn domains<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Domains>, D::Error> {
    let words = Vec::<String>::deserialize(input)?;
    Domains::new(words).map(Some).map_err(de::Error::custom)
}

fn template<'de, D: Deserializer<'de>>(input: D) -> Result<Template, D::Error> {
    Template::parse(&String::deserialize(input)?).map_err(de::Error::custom)
}

fn some_template<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Template>, D::Error> {
    template(input).map(Some)
}

/// A transport is a name in Postfix' `master.cf`; a `:` would end it early.
fn transport<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Box<str>>, D::Error> {
    let name = String::deserialize(input)?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(fine) {
        return Err(de::Error::custom(format!(
            "`{}` cannot name a transport",
            name.escape_default()
        )));
    }
    Ok(Some(name.into()))
}

fn place<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    Place::parse(&text, LMTP_PORT).map_err(de::Error::custom)?;
    Ok(Some(text))
}

fn port<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(input)? {
        0 => Err(de::Error::custom("port 0 is no port")),
        port => Ok(Some(port)),
    }
}

fn connections<'de, D: Deserializer<'de>>(input: D) -> Result<Option<usize>, D::Error> {
    match usize::deserialize(input)? {
        0 => Err(de::Error::custom("with no connection nobody could ask")),
        n => Ok(Some(n)),
    }
}

/// Octal in quotes: a bare number would be read as decimal, and 0660 is no TOML number at all.
fn mode<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(input)?;
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(Some(mode)),
        _ => Err(de::Error::custom(format!(
            "`{}` is no mode: write it in octal, as in \"0660\"",
            text.escape_default()
        ))),
    }
}

/// A fallback stands in Postfix' `transport_maps`: `transport:nexthop`.
fn answer<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    let printable = text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if !printable || text.len() > 1000 || !text.contains(':') {
        return Err(de::Error::custom(format!(
            "`{}` is no transport:nexthop",
            text.escape_default()
        )));
    }
    Ok(Some(text))
}
