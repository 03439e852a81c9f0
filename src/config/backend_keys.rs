//! `[backends]` as the file has it: addresses, transports, TLS and logins of the backends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::TlsSettings;
use super::access::{AccessConflict, BackendAccess, BackendsAccess};
use super::values::{address, host, port, suffix, transport, username};
use crate::model::backend::{
    Backends, BadLmtpAddress, LMTP_PORT, LmtpAddress, ServerOverride, connect_string, folded,
};
use crate::model::shown::Shown;
use crate::mupdate::WhenTls;

/// Keys of `[backends]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct BackendsTable {
    #[serde(deserialize_with = "port")]
    port: Option<u16>,
    #[serde(deserialize_with = "transport")]
    transport: Option<Box<str>>,
    #[serde(deserialize_with = "address")]
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
    servers: BTreeMap<String, ServerTable>,
}

/// Keys of one table in `[backends.servers]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct ServerTable {
    #[serde(deserialize_with = "address")]
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

/// Why `[backends]` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BackendsError {
    /// An address is not one.
    #[error(transparent)]
    Address(#[from] BadLmtpAddress),
    /// The keys of TLS and login of this table do not fit together.
    #[error("[{table}]: {error}")]
    Access { table: String, error: AccessKeysError },
    /// Two tables are for the same server.
    #[error(
        "[backends.servers]: `{0}` and `{1}` are the same server (case and options after a slash do not \
         count), and the settings of one would be lost; put all into one table"
    )]
    SameServer(String, String),
    /// Two servers at one address have other logins.
    #[error(transparent)]
    Conflict(#[from] AccessConflict),
}

/// Why the keys of TLS and login of one table cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AccessKeysError {
    /// A password without a name.
    #[error("`password-file` needs `username`")]
    PasswordAlone,
    /// A name without a password.
    #[error("`username` needs `password-file`")]
    NameAlone,
}

/// The keys of TLS and login, of all backends or of one.
#[derive(Debug, Clone, Copy, Default)]
struct AccessKeys<'a> {
    tls: Option<WhenTls>,
    ca_file: Option<&'a PathBuf>,
    tls_name: Option<&'a str>,
    allow_plaintext: Option<bool>,
    username: Option<&'a str>,
    password_file: Option<&'a PathBuf>,
}

impl<'a> AccessKeys<'a> {
    /// Fills the keys that are not set from those of all backends.
    fn or(self, common: AccessKeys<'a>) -> Self {
        Self {
            tls: self.tls.or(common.tls),
            ca_file: self.ca_file.or(common.ca_file),
            tls_name: self.tls_name.or(common.tls_name),
            allow_plaintext: self.allow_plaintext.or(common.allow_plaintext),
            username: self.username.or(common.username),
            password_file: self.password_file.or(common.password_file),
        }
    }

    /// Builds the settings. Paths are relative to `base`.
    fn build(self, base: &Path) -> Result<BackendAccess, AccessKeysError> {
        let username = self.username.unwrap_or_default().to_owned();
        let own_name = self.username.is_some();
        match (&*username, self.password_file) {
            ("", Some(_)) if !own_name => return Err(AccessKeysError::PasswordAlone),
            (name, None) if !name.is_empty() => return Err(AccessKeysError::NameAlone),
            _ => {}
        }
        let when = self.tls.unwrap_or(match self.ca_file.is_some() || self.tls_name.is_some() {
            // A site that says how the server is authenticated wants TLS.
            true => WhenTls::Required,
            false if username.is_empty() => WhenTls::Off,
            false => WhenTls::IfOffered,
        });
        Ok(BackendAccess {
            tls: TlsSettings {
                when,
                ca_file: self.ca_file.map(|path| base.join(path)),
                client: None,
                name: self.tls_name.map(str::to_owned),
            },
            allow_plaintext: self.allow_plaintext.unwrap_or_default(),
            username,
            password_file: self.password_file.map(|path| base.join(path)),
        })
    }
}

impl BackendsTable {
    /// Builds the addresses and transports, and checks the keys of TLS and login.
    pub(super) fn build(&self) -> Result<Backends, BackendsError> {
        let mut backends = self.plain();
        backends.local = match &self.local {
            Some(local) => Some(LmtpAddress::parse(local, backends.port)?),
            None => None,
        };
        backends.autocreate = self.autocreate.clone().map(Into::into);
        if let Some(transport) = &self.transport {
            backends.transport = transport.clone();
        }
        let mut named: BTreeMap<String, &str> = BTreeMap::new();
        for (name, server) in &self.servers {
            if let Some(other) = named.insert(folded(name), name) {
                let [other, name] = [other, name].map(|name| Shown(name).to_string());
                return Err(BackendsError::SameServer(other, name));
            }
            let address = server.address(name, &backends).transpose()?;
            let transport = server.transport.clone();
            backends.set(name, ServerOverride { address, transport, drain: server.drain });
        }
        self.access(Path::new("")).map(|_| backends)
    }

    /// Builds the settings of TLS and login. Paths are relative to `base`.
    pub(super) fn access(&self, base: &Path) -> Result<BackendsAccess, BackendsError> {
        let in_table = |table: String| |error| BackendsError::Access { table, error };
        let common = self.keys();
        let mut all =
            BackendsAccess::new(common.build(base).map_err(in_table("backends".to_owned()))?);
        let plain = self.plain();
        for (name, server) in &self.servers {
            let table = format!("backends.servers.\"{}\"", Shown(name));
            let access = server.keys().or(common).build(base).map_err(in_table(table))?;
            let address = match server.address(name, &plain) {
                Some(address) => address?,
                // A name that cannot be a host is not reached, whatever is set for it.
                None => match plain.resolve(Some(name)) {
                    Ok(backend) => backend.address,
                    Err(_) => continue,
                },
            };
            // A name without a port stands for the server at whichever port the list has for it.
            let has_port = LmtpAddress::parse(connect_string(name), 0).is_ok();
            let any_port = server.address.is_none() && server.port.is_none() && !has_port;
            all.add(name, address, any_port, access)?;
        }
        Ok(all)
    }

    /// The keys that decide about the address of a server without one of its own.
    fn plain(&self) -> Backends {
        let mut backends = Backends::default();
        backends.port = self.port.unwrap_or(LMTP_PORT);
        backends.domain = self.domain.clone();
        backends
    }

    fn keys(&self) -> AccessKeys<'_> {
        AccessKeys {
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

impl ServerTable {
    fn keys(&self) -> AccessKeys<'_> {
        AccessKeys {
            tls: self.tls,
            ca_file: self.ca_file.as_ref(),
            tls_name: self.tls_name.as_deref(),
            allow_plaintext: self.allow_plaintext,
            username: self.username.as_deref(),
            password_file: self.password_file.as_ref(),
        }
    }

    /// The address that `address` and `port` set for the server `name`; `None`: that of its name.
    fn address(
        &self,
        name: &str,
        backends: &Backends,
    ) -> Option<Result<LmtpAddress, BadLmtpAddress>> {
        match (&self.address, self.port) {
            (Some(address), port) => {
                Some(LmtpAddress::parse(address, port.unwrap_or(backends.port)))
            }
            (None, Some(port)) => Some(backends.own_address(name).map(|address| match address {
                // The port of the table goes before one in the name.
                LmtpAddress::Inet { host, .. } => LmtpAddress::Inet { host, port },
                unix => unix,
            })),
            (None, None) => None,
        }
    }
}
