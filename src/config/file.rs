//! The configuration file: its keys, read strictly.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::backend_keys::BackendsTable;
use super::mupdate::MupdateTable;
use super::source::{self, FileSource, MissPolicy, SourceName};
use super::values::{
    count, domains, endpoint, fallback, mode, optional_template, protocols, release, seconds,
    template,
};
use super::{ConfigError, DEFAULT_FILE, DEFAULT_REPLICA, Overrides};
use crate::address::Release;
use crate::model::domains::Domains;
use crate::model::shown::Shown;
use crate::os::regular_file;
use crate::routing::maps::{Maps, Template, Templates, UnknownPolicy};
use crate::wire::endpoint::{Endpoint, Listen, ListenOptions};
use crate::wire::protocol::Protocols;

/// Maximum size of the file, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// The configuration file with its path.
#[derive(Debug)]
pub(super) struct ConfigFile {
    /// `None`: there is no file, and every key has its default.
    pub(super) path: Option<PathBuf>,
    pub(super) keys: FileKeys,
}

/// Keys at the top level.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct FileKeys {
    #[serde(deserialize_with = "source::sources")]
    source: Option<Vec<FileSource>>,
    pub(super) imapd_conf: Option<PathBuf>,
    pub(super) mailboxes_db: Option<PathBuf>,
    pub(super) mupdate: MupdateTable,
    pub(super) replica: ReplicaTable,
    #[serde(deserialize_with = "domains")]
    domains: Option<Domains>,
    #[serde(deserialize_with = "release")]
    pub(super) cyrus_release: Option<Release>,
    pub(super) services: Option<Vec<String>>,
    pub(super) misses: Option<MissPolicy>,
    pub(super) unknown: Option<UnknownPolicy>,
    #[serde(deserialize_with = "fallback")]
    pub(super) fallback: Option<String>,
    pub(super) backends: BackendsTable,
    listen: Vec<ListenTable>,
    maps: BTreeMap<String, MapTable>,
    #[serde(deserialize_with = "count")]
    pub(super) max_connections: Option<usize>,
}

/// Keys of `[replica]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct ReplicaTable {
    directory: Option<PathBuf>,
    #[serde(deserialize_with = "seconds")]
    pub(super) accept_after: Option<Duration>,
    #[serde(deserialize_with = "seconds")]
    pub(super) max_age: Option<Duration>,
    #[serde(deserialize_with = "count")]
    pub(super) max_names: Option<u64>,
}

/// Keys of one `[[listen]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ListenTable {
    #[serde(deserialize_with = "endpoint")]
    endpoint: Endpoint,
    owner: Option<String>,
    group: Option<String>,
    #[serde(default, deserialize_with = "mode")]
    mode: Option<u32>,
    #[serde(default, deserialize_with = "protocols")]
    protocols: Protocols,
}

/// Keys of one `[maps.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MapTable {
    #[serde(deserialize_with = "template")]
    deliver: Template,
    #[serde(default, deserialize_with = "optional_template")]
    unknown: Option<Template>,
    #[serde(default, deserialize_with = "optional_template")]
    deferred: Option<Template>,
    #[serde(default, deserialize_with = "optional_template")]
    refused: Option<Template>,
}

impl ConfigFile {
    /// Reads the file `named`, or else [`DEFAULT_FILE`] if it exists.
    pub(super) fn read(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let invalid = |text| ConfigError::File { path: path.into(), text };
        let bytes = match regular_file::read(path, FILE_LIMIT) {
            Ok(bytes) => bytes,
            Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path: None, keys: FileKeys::default() });
            }
            Err(source) => return Err(ConfigError::Io { path: path.into(), source }),
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| invalid("not UTF-8, which TOML requires".to_owned()))?;
        let keys = toml::from_str(&text).map_err(|e| invalid(locate(&text, &e)))?;
        Ok(Self { path: Some(path.to_owned()), keys })
    }

    /// The directory that paths in the file are relative to.
    pub(super) fn base(&self) -> &Path {
        self.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""))
    }

    /// A path in the file, relative to its directory.
    pub(super) fn join(&self, path: &PathBuf) -> PathBuf {
        self.base().join(path)
    }

    /// An error about keys of the file whose line is not known.
    pub(super) fn error(&self, error: impl ToString) -> ConfigError {
        let path = self.path.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        ConfigError::File { path, text: error.to_string() }
    }

    /// The sources in their order.
    pub(super) fn sources(&self, given: &Overrides) -> Result<Vec<SourceName>, ConfigError> {
        if given.sources.is_empty() {
            return source::resolve(self.keys.source.as_deref(), self.keys.mupdate.mode)
                .map_err(|e| self.error(e));
        }
        source::check_order(&given.sources).map_err(ConfigError::source_option)?;
        Ok(given.sources.clone())
    }

    pub(super) fn domains(&self, given: &Overrides) -> Result<Domains, ConfigError> {
        match &*given.domains {
            [] => Ok(self.keys.domains.clone().unwrap_or_default()),
            named => Domains::new(named).map_err(ConfigError::domain_option),
        }
    }

    pub(super) fn replica_directory(&self, given: &Overrides) -> PathBuf {
        let named = self.keys.replica.directory.as_ref().map(|path| self.join(path));
        given.replica.clone().or(named).unwrap_or_else(|| DEFAULT_REPLICA.into())
    }

    /// The directory of files that outlive the daemon: that of the replica, also where there is no
    /// replica. Unless it is named, the one that systemd created (`StateDirectory=`) goes before the
    /// default.
    pub(super) fn state_directory(&self, given: &Overrides) -> PathBuf {
        let named = given.replica.is_some() || self.keys.replica.directory.is_some();
        let created = std::env::var_os("STATE_DIRECTORY").filter(|dir| !named && !dir.is_empty());
        let first = created.and_then(|created| std::env::split_paths(&created).next());
        first.unwrap_or_else(|| self.replica_directory(given))
    }

    pub(super) fn listeners(&self) -> Vec<Listen> {
        let listen = |listen: &ListenTable| Listen {
            endpoint: match &listen.endpoint {
                Endpoint::Unix(path) => Endpoint::Unix(self.join(path)),
                other => other.clone(),
            },
            options: ListenOptions {
                owner: listen.owner.clone(),
                group: listen.group.clone(),
                mode: listen.mode,
            },
            protocols: listen.protocols,
        };
        self.keys.listen.iter().map(listen).collect()
    }

    pub(super) fn maps(&self, unknown: UnknownPolicy) -> Result<Maps, ConfigError> {
        const LATER: &str = "TEMP {reason}";
        let mut maps = Maps::new(unknown, self.keys.fallback.clone());
        let of_unknown = if unknown == UnknownPolicy::Defer { LATER } else { "NOTFOUND" };
        for (name, map) in &self.keys.maps {
            let or = |template: &Option<Template>, default| match template {
                Some(template) => Ok(template.clone()),
                None => Template::parse(default).map_err(|e| self.error(e)),
            };
            let templates = Templates {
                deliver: map.deliver.clone(),
                unknown: or(&map.unknown, of_unknown)?,
                deferred: or(&map.deferred, LATER)?,
                refused: or(&map.refused, "NOTFOUND")?,
            };
            let added = maps.add(name, templates);
            added.map_err(|e| self.error(format_args!("[maps.{name}]: {e}")))?;
        }
        Ok(maps)
    }
}

/// Line, column and text of an error of the TOML reader. The line itself is left out: the text goes to
/// the log, and the line may hold a password.
fn locate(text: &str, error: &toml::de::Error) -> String {
    // TOML reads it as a list of the table's values, and the error of that says nothing.
    if let Some((line, name)) = doubled_table(text) {
        return format!(
            "line {line}, column 1: [[{name}]] is a single table; write it as [{name}]"
        );
    }
    let message = plain(error.message());
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message.to_owned();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    format!("line {line}, column {column}: {message}")
}

/// The first table in double brackets that is not a list of tables, with its line.
fn doubled_table(text: &str) -> Option<(usize, String)> {
    text.lines().zip(1..).find_map(|(line, number)| {
        let (name, _) = line.trim().strip_prefix("[[")?.split_once("]]")?;
        let name = name.trim();
        (name != "listen").then(|| (number, Shown(name).to_string()))
    })
}

/// The message of the TOML reader, replaced by a plainer one for the usual mistakes.
fn plain(message: &str) -> &str {
    const PLAINER: [(&str, &str); 4] = [
        (
            "invalid type: map, expected a sequence",
            "this is a list of tables; write its name in double brackets, as [[listen]]",
        ),
        (
            "leading zero",
            "a number must not begin with 0; write a mode in quotes, as in mode = \"0666\"",
        ),
        ("expected a string", "must be text in quotes"),
        ("expected path string", "must be text in quotes"),
    ];
    let known = PLAINER.iter().find(|(begin, _)| message.contains(begin));
    known.map_or(message, |(_, plain)| plain)
}
