//! TLS and login at the backends, as `murder-route lmtp` and the doctor need them.

use std::path::PathBuf;

use super::password_file::read_password;
use super::{ConfigError, TlsSettings};
use crate::model::backend::LmtpAddress;
use crate::model::shown::Shown;
use crate::mupdate::{Credentials, WhenTls};

/// TLS and login at one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendAccess {
    /// TLS, without a client certificate.
    pub tls: TlsSettings,
    /// PLAIN may go over an unencrypted connection.
    pub allow_plaintext: bool,
    /// Name to log in with; empty: no login.
    pub username: String,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
}

impl Default for BackendAccess {
    /// A plain connection without a login.
    fn default() -> Self {
        let tls = TlsSettings { when: WhenTls::Off, ..TlsSettings::default() };
        Self { tls, allow_plaintext: false, username: String::new(), password_file: None }
    }
}

impl BackendAccess {
    /// Whether the connection needs neither TLS nor a login.
    pub fn is_plain(&self) -> bool {
        self.tls.when == WhenTls::Off && self.username.is_empty()
    }

    /// Reads the password. `None`: no login is configured.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or others may read it.
    pub fn credentials(&self) -> Result<Option<Credentials>, ConfigError> {
        let Some(path) = self.password_file.as_ref().filter(|_| !self.username.is_empty()) else {
            return Ok(None);
        };
        let password = Some(read_password(path)?);
        Ok(Some(Credentials {
            authname: self.username.clone(),
            password,
            ..Credentials::default()
        }))
    }
}

/// TLS and login at every backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendsAccess {
    common: BackendAccess,
    /// Servers that are configured by name, by their addresses.
    addresses: Vec<(LmtpAddress, BackendAccess)>,
    /// Servers that are configured by a name without a port, by their hosts.
    hosts: Vec<(Box<str>, BackendAccess)>,
}

/// Two servers at one address have different settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "[backends.servers]: `{server}` is at {address}, as is another server with another login or other \
     TLS settings; set the same for both"
)]
pub(super) struct AccessConflict {
    server: String,
    address: String,
}

impl BackendsAccess {
    /// The settings of one backend. Cyrus' unix sockets take every client that may connect, and offer
    /// neither TLS nor a login (`imap/lmtpd.c`).
    pub fn of(&self, address: &LmtpAddress) -> BackendAccess {
        let LmtpAddress::Inet { host, .. } = address else { return BackendAccess::default() };
        let by_address = self.addresses.iter().find(|(known, _)| known == address);
        let by_host =
            || self.hosts.iter().find(|(known, _)| known == host).map(|(_, access)| access);
        by_address.map(|(_, access)| access).or_else(by_host).unwrap_or(&self.common).clone()
    }

    /// Whether no backend needs TLS or a login.
    #[cfg(test)]
    fn is_plain(&self) -> bool {
        let own = self.addresses.iter().map(|(_, own)| own);
        let own = own.chain(self.hosts.iter().map(|(_, own)| own));
        own.chain([&self.common]).all(BackendAccess::is_plain)
    }

    pub(super) fn new(common: BackendAccess) -> Self {
        Self { common, ..Self::default() }
    }

    /// Adds a server. `any_port`: the settings hold for every port of its host.
    pub(super) fn add(
        &mut self,
        server: &str,
        address: LmtpAddress,
        any_port: bool,
        access: BackendAccess,
    ) -> Result<(), AccessConflict> {
        let by_host = match (&address, any_port) {
            (LmtpAddress::Inet { host, .. }, true) => {
                self.hosts.iter().find(|(known, _)| known == host)
            }
            _ => None,
        };
        let by_host = by_host.map(|(_, other)| other);
        let by_address = self.addresses.iter().find(|(known, _)| *known == address);
        let by_address = by_address.map(|(_, other)| other);
        if by_host.or(by_address).is_some_and(|other| *other != access) {
            let server = Shown(server).to_string();
            return Err(AccessConflict { server, address: address.host_and_port() });
        }
        if let (LmtpAddress::Inet { host, .. }, true) = (&address, any_port) {
            self.hosts.push((host.clone(), access.clone()));
        }
        self.addresses.push((address, access));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::backends_access;

    /// The access to backends that a file configures, and the directory of the file.
    fn read(text: &str) -> (Result<BackendsAccess, String>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("murder-route.toml");
        fs::write(&path, text).unwrap();
        (backends_access(Some(&path)).map_err(|e| e.to_string()), dir)
    }

    fn of(all: &BackendsAccess, place: &str) -> BackendAccess {
        all.of(&LmtpAddress::parse(place, 2003).unwrap())
    }

    #[test]
    fn server_inherits_unset_keys_from_backends() {
        let (all, dir) = read(
            "[backends]\nport = 24\nca-file = \"ca.pem\"\nusername = \"postman\"\n\
             password-file = \"/etc/password\"\n\
             [backends.servers.\"be1.example.org\"]\ntls-name = \"one\"\n\
             [backends.servers.be2]\naddress = \"192.0.2.2:2004\"\nusername = \"\"\n\
             [backends.servers.be3]\nport = 25\ntls = \"off\"\n\
             [backends.servers.be4]\ndrain = true\n",
        );
        let all = all.unwrap();
        let common = of(&all, "be9:24");
        assert_eq!(common.tls.when, WhenTls::Required, "by the CA file");
        assert_eq!(common.tls.ca_file, Some(dir.path().join("ca.pem")));
        assert_eq!(common.username, "postman");
        // Whichever port the list has for it.
        for place in ["be1.example.org:24", "BE1.example.org:2003"] {
            assert_eq!(of(&all, place).tls.name.as_deref(), Some("one"), "{place}");
            assert_eq!(of(&all, place).username, "postman");
        }
        let be2 = of(&all, "192.0.2.2:2004");
        assert_eq!((&*be2.username, be2.credentials().unwrap()), ("", None));
        assert_eq!(of(&all, "192.0.2.2:24"), common);
        assert_eq!(of(&all, "be3:25").tls.when, WhenTls::Off);
        assert_eq!(of(&all, "be3:24"), common);
        assert_eq!(of(&all, "be4:24"), common);
        assert!(of(&all, "unix:/run/lmtp").is_plain());
        assert!(!all.is_plain());
    }

    #[test]
    fn tls_is_used_where_a_key_asks_for_it() {
        let login = "username = \"a\"\npassword-file = \"p\"\n";
        for (keys, when) in [
            ("", WhenTls::Off),
            (login, WhenTls::IfOffered),
            ("tls-name = \"x\"\n", WhenTls::Required),
            ("tls = \"if-offered\"\nca-file = \"x\"\n", WhenTls::IfOffered),
            ("tls = \"required\"\n", WhenTls::Required),
        ] {
            let all = read(&format!("[backends]\n{keys}")).0.unwrap();
            assert_eq!(of(&all, "be1").tls.when, when, "{keys}");
            assert_eq!(all.is_plain(), keys.is_empty(), "{keys}");
        }
        let short =
            "[backends]\ndomain = \"example.org\"\n[backends.servers.be1]\ntls = \"required\"";
        let all = read(short).0.unwrap();
        assert_eq!(of(&all, "be1.example.org").tls.when, WhenTls::Required);
        assert_eq!(of(&all, "be1").tls.when, WhenTls::Off);
    }

    #[test]
    fn half_a_login_or_contradicting_settings_are_errors() {
        let two = "[backends.servers.be1]\naddress = \"x\"\ntls = \"required\"\n\
                   [backends.servers.be2]\naddress = \"X\"\n";
        for (text, says) in [
            ("[backends]\nusername = \"a\"\n", "`username` needs `password-file`"),
            ("[backends]\npassword-file = \"a\"\n", "`password-file` needs `username`"),
            ("[backends.servers.be1]\nusername = \"a\"\n", "[backends.servers.\"be1\"]"),
            ("[backends]\ntls = \"yes\"\n", "line 2"),
            ("[backends]\nusername = \"a\\u0000b\"\n", "is not a user name"),
            ("[backends]\ndomain = \"example..org\"\n", "is not a domain"),
            ("[backends]\ndomain = \"example.org:24\"\n", "is not a domain"),
            (two, "another login or other TLS"),
        ] {
            let why = read(text).0.unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
        assert!(
            read(
                &two.replace(
                    "[backends.servers.be2]",
                    "[backends.servers.be2]\ntls = \"required\""
                )
            )
            .0
            .is_ok()
        );
    }

    #[test]
    fn password_file_that_others_may_read_is_an_error() {
        let (all, dir) = read("[backends]\nusername = \"postman\"\npassword-file = \"password\"\n");
        let access = of(&all.unwrap(), "be1");
        assert!(access.credentials().unwrap_err().to_string().contains("password"));
        let path = dir.path().join("password");
        fs::write(&path, "secret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(access.credentials().unwrap_err().to_string().contains("0644"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let credentials = access.credentials().unwrap().unwrap();
        assert_eq!(credentials.name(), "postman");
        assert_eq!(credentials.password().unwrap().reveal(), b"secret");
    }
}
