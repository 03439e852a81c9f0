//! The file itself: its keys and its values, strictly read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::backends::{BackendsAccess, Keys, username};
use super::mupdate::{FileMupdate, Mode};
use super::{ConfigError, DEFAULT_FILE, MissPolicy, SourceName};
use crate::address::Release;
use crate::model::backend::{Backends, LMTP_PORT, Override, Place, connect_string, folded};
use crate::model::domains::Domains;
use crate::model::shown::Shown;
use crate::mupdate::WhenTls;
use crate::os::regular_file;
use crate::routing::maps::{Maps, Template, Templates, UnknownPolicy};
use crate::wire::endpoint::{Endpoint, Listen, ListenOptions};
use crate::wire::protocol::{Protocol, Protocols};

/// Maximum size of the file, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct File {
    #[serde(deserialize_with = "sources")]
    source: Option<Vec<FileSource>>,
    pub(super) imapd_conf: Option<PathBuf>,
    pub(super) mailboxes_db: Option<PathBuf>,
    pub(super) mupdate: FileMupdate,
    pub(super) replica: FileReplica,
    #[serde(deserialize_with = "domains")]
    pub(super) domains: Option<Domains>,
    #[serde(deserialize_with = "release")]
    pub(super) cyrus_release: Option<Release>,
    pub(super) services: Option<Vec<String>>,
    pub(super) misses: Option<MissPolicy>,
    pub(super) unknown: Option<UnknownPolicy>,
    #[serde(deserialize_with = "answer")]
    pub(super) fallback: Option<String>,
    pub(super) backends: FileBackends,
    pub(super) listen: Vec<FileListener>,
    pub(super) maps: BTreeMap<String, FileMap>,
    #[serde(deserialize_with = "connections")]
    pub(super) max_connections: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct FileReplica {
    pub(super) directory: Option<PathBuf>,
    #[serde(deserialize_with = "seconds")]
    pub(super) accept_after: Option<Duration>,
    #[serde(deserialize_with = "seconds")]
    pub(super) max_age: Option<Duration>,
    #[serde(deserialize_with = "names")]
    pub(super) max_names: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct FileBackends {
    #[serde(deserialize_with = "port")]
    port: Option<u16>,
    #[serde(deserialize_with = "transport")]
    transport: Option<Box<str>>,
    #[serde(deserialize_with = "place")]
    local: Option<String>,
    #[serde(deserialize_with = "host")]
    autocreate: Option<String>,
    #[serde(deserialize_with = "suffix")]
    domain: Option<Box<str>>,
    tls: Option<WhenTls>,
    ca_file: Option<PathBuf>,
    tls_name: Option<String>,
    allow_plaintext: Option<bool>,
    #[serde(deserialize_with = "username")]
    username: Option<String>,
    password_file: Option<PathBuf>,
    servers: BTreeMap<String, FileServer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct FileServer {
    #[serde(deserialize_with = "place")]
    address: Option<String>,
    #[serde(deserialize_with = "port")]
    port: Option<u16>,
    #[serde(deserialize_with = "transport")]
    transport: Option<Box<str>>,
    drain: bool,
    tls: Option<WhenTls>,
    ca_file: Option<PathBuf>,
    tls_name: Option<String>,
    allow_plaintext: Option<bool>,
    #[serde(deserialize_with = "username")]
    username: Option<String>,
    password_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FileListener {
    #[serde(deserialize_with = "endpoint")]
    endpoint: Endpoint,
    owner: Option<String>,
    group: Option<String>,
    #[serde(default, deserialize_with = "mode")]
    mode: Option<u32>,
    #[serde(default, deserialize_with = "protocols")]
    protocols: Protocols,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FileMap {
    #[serde(deserialize_with = "template")]
    deliver: Template,
    #[serde(default, deserialize_with = "some_template")]
    unknown: Option<Template>,
    #[serde(default, deserialize_with = "some_template")]
    deferred: Option<Template>,
    #[serde(default, deserialize_with = "some_template")]
    refused: Option<Template>,
}

impl File {
    pub(super) fn find(named: Option<&Path>) -> Result<(Option<PathBuf>, Self), ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match regular_file::read(path, FILE_LIMIT) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(_) => {
                    let text = "it is not UTF-8, as TOML has to be".to_owned();
                    return Err(ConfigError::File { path: path.into(), text });
                }
            },
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                return Ok((None, Self::default()));
            }
            Err(source) => return Err(ConfigError::Io { path: path.into(), source }),
        };
        let file = toml::from_str(&text)
            .map_err(|e| ConfigError::File { path: path.into(), text: in_words(&text, &e) })?;
        Ok((Some(path.to_owned()), file))
    }

    pub(super) fn listeners(&self, base: &Path) -> Vec<Listen> {
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
            protocols: listen.protocols,
        };
        self.listen.iter().map(listen).collect()
    }

    pub(super) fn maps(&self, unknown: UnknownPolicy) -> Result<Maps, String> {
        let mut maps = Maps::new(unknown, self.fallback.clone());
        const LATER: &str = "TEMP {reason}";
        let of_unknown = if unknown == UnknownPolicy::Defer { LATER } else { "NOTFOUND" };
        for (name, map) in &self.maps {
            let or = |template: &Option<Template>, default| match template {
                Some(template) => Ok(template.clone()),
                None => Template::parse(default).map_err(|e| e.to_string()),
            };
            let templates = Templates {
                deliver: map.deliver.clone(),
                unknown: or(&map.unknown, of_unknown)?,
                deferred: or(&map.deferred, LATER)?,
                refused: or(&map.refused, "NOTFOUND")?,
            };
            maps.add(name, templates).map_err(|e| format!("[maps.{name}]: {e}"))?;
        }
        Ok(maps)
    }
}

/// Where it is wrong, and why. Not the line itself: this goes to the log, and a password that somebody
/// wrote into this file must not.
fn in_words(text: &str, error: &toml::de::Error) -> String {
    // It is read as a list of the table's values, and then the error says nothing.
    if let Some((line, name)) = once(text) {
        return format!(
            "line {line}, column 1: [[{name}]] is one table: write it in single brackets, as [{name}]"
        );
    }
    let message = &plain(error.message());
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message.clone();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    format!("line {line}, column {column}: {message}")
}

/// A table in double brackets that there is one of.
fn once(text: &str) -> Option<(usize, String)> {
    text.lines().zip(1..).find_map(|(line, number)| {
        let (name, _) = line.trim().strip_prefix("[[")?.split_once("]]")?;
        let name = name.trim();
        (name != "listen").then(|| (number, Shown(name).to_string()))
    })
}

/// The words of the TOML reader, with what to write instead where people write it otherwise.
fn plain(message: &str) -> String {
    const OTHERWISE: [(&str, &str); 4] = [
        (
            "invalid type: map, expected a sequence",
            "this is a list of tables: write its name in double brackets, as [[listen]]",
        ),
        (
            "leading zero",
            "a number does not begin with 0; a mode is written in quotes, as in mode = \"0666\"",
        ),
        ("expected a string", "this must be text in quotes"),
        ("expected path string", "this must be text in quotes"),
    ];
    let known = OTHERWISE.iter().find(|(begin, _)| message.contains(begin));
    known.map_or_else(|| message.to_owned(), |(_, plain)| (*plain).to_owned())
}

impl FileBackends {
    pub(super) fn build(&self) -> Result<Backends, String> {
        let port = self.port.unwrap_or(LMTP_PORT);
        let place = |text: &Option<String>, port| match text {
            Some(text) => Place::parse(text, port).map(Some).map_err(|e| e.to_string()),
            None => Ok(None),
        };
        let mut backends = Backends::default();
        backends.port = port;
        backends.local = place(&self.local, port)?;
        backends.autocreate = self.autocreate.clone().map(Into::into);
        backends.domain = self.domain.clone();
        if let Some(transport) = &self.transport {
            backends.transport = transport.clone();
        }
        let mut named: BTreeMap<String, &str> = BTreeMap::new();
        for (name, server) in &self.servers {
            if let Some(other) = named.insert(folded(name), name) {
                let [name, other] = [name, other].map(Shown);
                return Err(format!(
                    "[backends.servers]: `{other}` and `{name}` are one server (case and what follows \
                     a slash do not count), so the settings of one would be lost: put all into one \
                     table"
                ));
            }
            let own_port = server.port.unwrap_or(port);
            let place = match (&server.address, server.port) {
                (None, Some(port)) => Some(own_place(&backends, name, port)?),
                (address, _) => place(address, own_port)?,
            };
            let what = Override { place, transport: server.transport.clone(), drain: server.drain };
            backends.set(name, what);
        }
        self.access(Path::new("")).map(|_| backends)
    }

    /// TLS and login at the backends. Paths count from `base`.
    pub(super) fn access(&self, base: &Path) -> Result<BackendsAccess, String> {
        let in_table = |table: &str, e: String| format!("[{table}]: {e}");
        let common = self.keys();
        let mut all = BackendsAccess::new(common.build(base).map_err(|e| in_table("backends", e))?);
        let port = self.port.unwrap_or(LMTP_PORT);
        let mut plain = Backends::default();
        plain.port = port;
        plain.domain = self.domain.clone();
        for (name, server) in &self.servers {
            let table = || format!("backends.servers.\"{}\"", Shown(name));
            let access = server.keys().or(common).build(base).map_err(|e| in_table(&table(), e))?;
            let own_port = server.port.unwrap_or(port);
            let place = match (&server.address, server.port) {
                (Some(address), _) => Place::parse(address, own_port).map_err(|e| e.to_string()),
                (None, Some(port)) => own_place(&plain, name, port),
                // A name that cannot be a host is not reached, whatever is set for it.
                (None, None) => match plain.resolve(Some(name)) {
                    Ok(backend) => Ok(backend.place),
                    Err(_) => continue,
                },
            };
            // A name without a port stands for the server at whichever port the list has for it.
            let has_port = Place::parse(connect_string(name), 0).is_ok();
            let any_port = server.address.is_none() && server.port.is_none() && !has_port;
            all.add(name, place?, any_port, access)?;
        }
        Ok(all)
    }

    fn keys(&self) -> Keys<'_> {
        Keys {
            tls: self.tls,
            ca_file: self.ca_file.as_ref(),
            tls_name: self.tls_name.as_deref(),
            allow_plaintext: self.allow_plaintext,
            username: self.username.as_deref(),
            password_file: self.password_file.as_ref(),
        }
    }

    /// The transports of the answers, each once, the common one first.
    pub(super) fn transports(&self) -> Vec<Box<str>> {
        let common = self.transport.clone().unwrap_or_else(|| Backends::default().transport);
        let mut transports = vec![common];
        for transport in self.servers.values().filter_map(|server| server.transport.as_ref()) {
            if !transports.contains(transport) {
                transports.push(transport.clone());
            }
        }
        transports
    }
}

impl FileServer {
    fn keys(&self) -> Keys<'_> {
        Keys {
            tls: self.tls,
            ca_file: self.ca_file.as_ref(),
            tls_name: self.tls_name.as_deref(),
            allow_plaintext: self.allow_plaintext,
            username: self.username.as_deref(),
            password_file: self.password_file.as_ref(),
        }
    }
}

/// Where a server is of which only the port is its own: its name, less a port it may have.
fn own_place(backends: &Backends, name: &str, port: u16) -> Result<Place, String> {
    match backends.own_place(name).map_err(|e| e.to_string())? {
        Place::Inet { host, .. } => Ok(Place::Inet { host, port }),
        unix => Ok(unix),
    }
}

/// A source as the file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileSource {
    Named(SourceName),
    /// The MUPDATE server, as `mode` in `[mupdate]` says.
    Mupdate,
}

impl FileSource {
    fn named(&self) -> Option<SourceName> {
        match self {
            FileSource::Named(source) => Some(*source),
            FileSource::Mupdate => None,
        }
    }
}

impl FromStr for FileSource {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "mupdate" => Ok(Self::Mupdate),
            word => word.parse().map(Self::Named),
        }
    }
}

impl File {
    /// The sources, in their order; an error is about `source` and `mode` together.
    pub(super) fn sources(&self) -> Result<Vec<SourceName>, String> {
        let by_mode = match self.mupdate.mode.unwrap_or_default() {
            Mode::Replica => SourceName::Replica,
            Mode::Find => SourceName::Find,
        };
        let named = match (&self.source, self.mupdate.mode) {
            (Some(named), _) => named.clone(),
            (None, Some(_)) => vec![FileSource::Mupdate],
            (None, None) => vec![FileSource::Named(SourceName::MailboxesDb)],
        };
        if self.mupdate.mode.is_some()
            && !named.contains(&FileSource::Mupdate)
            && !named.contains(&FileSource::Named(by_mode))
        {
            return Err(format!(
                "[mupdate] has `mode = \"{}\"`, and `source` names neither `mupdate` nor that",
                by_mode.as_str()
            ));
        }
        let sources: Vec<SourceName> =
            named.iter().map(|source| source.named().unwrap_or(by_mode)).collect();
        super::in_order(&sources)?;
        Ok(sources)
    }
}

/// One source, or a list of them.
fn sources<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<FileSource>>, D::Error> {
    struct Names;

    impl<'de> de::Visitor<'de> for Names {
        type Value = Vec<FileSource>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(
                f,
                "mupdate, one of {}, or a list of them",
                SourceName::ALL.map(SourceName::as_str).join(", ")
            )
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
            word.parse().map(|source| vec![source]).map_err(E::custom)
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut words: A) -> Result<Self::Value, A::Error> {
            let mut sources = Vec::new();
            while let Some(word) = words.next_element::<String>()? {
                sources.push(word.parse().map_err(de::Error::custom)?);
            }
            Ok(sources)
        }
    }

    let sources = input.deserialize_any(Names)?;
    let named: Vec<SourceName> = sources.iter().filter_map(FileSource::named).collect();
    let mupdate = sources.len() - named.len();
    if mupdate > 1 {
        return Err(de::Error::custom("`mupdate` is there twice"));
    }
    if mupdate == 0 {
        super::in_order(&named).map_err(de::Error::custom)?;
    }
    Ok(Some(sources))
}

/// A list of words, and no single word.
pub(super) fn list<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    meant(input, "a list of words in quotes, as in [\"one\", \"two\"]")
}

/// A value of this kind, said in words if it is of another.
pub(super) fn meant<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    input: D,
    kind: &str,
) -> Result<T, D::Error> {
    T::deserialize(input).map_err(|_| de::Error::custom(format!("this must be {kind}")))
}

fn seconds<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    match meant::<u32, _>(input, "a number of seconds")? {
        0 => Err(de::Error::custom("0 seconds is no time")),
        seconds => Ok(Some(Duration::from_secs(seconds.into()))),
    }
}

fn names<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    match meant::<u64, _>(input, "a number")? {
        0 => Err(de::Error::custom("with 0 names no list would do")),
        names => Ok(Some(names)),
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
        (Some(3), Some(6..=12)) => Ok(Some(Release::V3_6)),
        (Some(3), Some(_)) => Ok(Some(Release::V3_13)),
        _ => Err(de::Error::custom(format!(
            "`{}` is no release of Cyrus: write it as in \"3.6\", from 2.2 on",
            Shown(&text)
        ))),
    }
}

fn endpoint<'de, D: Deserializer<'de>>(input: D) -> Result<Endpoint, D::Error> {
    String::deserialize(input)?.parse().map_err(de::Error::custom)
}

fn domains<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Domains>, D::Error> {
    Domains::new(list(input)?).map(Some).map_err(de::Error::custom)
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
        return Err(de::Error::custom(format!("`{}` cannot name a transport", Shown(&name))));
    }
    Ok(Some(name.into()))
}

fn place<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    Place::parse(&text, LMTP_PORT).map_err(de::Error::custom)?;
    Ok(Some(text))
}

/// A server as a list names it: no socket of this host.
fn host<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    match Place::parse(&text, LMTP_PORT).map_err(de::Error::custom)? {
        Place::Inet { .. } => Ok(Some(text)),
        Place::Unix(_) => Err(de::Error::custom("this must be HOST or HOST:PORT")),
    }
}

/// A domain to put behind short names of servers.
fn suffix<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Box<str>>, D::Error> {
    let name = String::deserialize(input)?;
    let domain = name.strip_prefix('.').unwrap_or(&name).to_ascii_lowercase();
    match Place::parse(&format!("x.{domain}"), LMTP_PORT) {
        Ok(Place::Inet { host, .. }) if host.strip_prefix("x.") == Some(&domain) => {
            Ok(Some(domain.into()))
        }
        _ => {
            let odd = Shown(&name);
            Err(de::Error::custom(format!("`{odd}` is no domain: write it as in \"example.org\"")))
        }
    }
}

fn port<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u16>, D::Error> {
    match meant::<u16, _>(input, "a port, a number up to 65535")? {
        0 => Err(de::Error::custom("port 0 is no port")),
        port => Ok(Some(port)),
    }
}

fn connections<'de, D: Deserializer<'de>>(input: D) -> Result<Option<usize>, D::Error> {
    match meant::<usize, _>(input, "a number")? {
        0 => Err(de::Error::custom("with no connection nobody could ask")),
        n => Ok(Some(n)),
    }
}

fn protocols<'de, D: Deserializer<'de>>(input: D) -> Result<Protocols, D::Error> {
    let mut protocols = Vec::new();
    for word in list(input)? {
        let protocol = word.parse::<Protocol>().map_err(de::Error::custom)?;
        if protocols.contains(&protocol) {
            return Err(de::Error::custom(format!("`{word}` is there twice")));
        }
        protocols.push(protocol);
    }
    match protocols.is_empty() {
        true => Err(de::Error::custom("without a protocol nobody could ask")),
        false => Ok(protocols.into_iter().collect()),
    }
}

/// Octal in quotes: a bare number would be read as decimal, and 0660 is no TOML number at all.
fn mode<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let text: String = meant(input, "a mode in octal and in quotes, as in \"0660\"")?;
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(Some(mode)),
        _ => Err(de::Error::custom(format!(
            "`{}` is no mode: write it in octal, as in \"0660\"",
            Shown(&text)
        ))),
    }
}

/// A fallback stands in Postfix' `transport_maps`: `transport:nexthop`.
fn answer<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    let printable = text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if !printable || text.len() > 1000 || !text.contains(':') {
        return Err(de::Error::custom(format!("`{}` is no transport:nexthop", Shown(&text))));
    }
    Ok(Some(text))
}
