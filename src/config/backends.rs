//! How `murder-route lmtp` speaks with the backends: the keys of TLS and login in `[backends]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::mupdate::read_password;
use super::{ConfigError, Tls};
use crate::model::backend::Place;
use crate::model::shown::Shown;
use crate::mupdate::{Credentials, WhenTls};

/// TLS and login at one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendAccess {
    /// Encryption. No certificate of our own is shown.
    pub tls: Tls,
    /// PLAIN may go over an unencrypted connection.
    pub allow_plaintext: bool,
    /// As whom to log in; empty: nowhere.
    pub username: String,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
}

impl Default for BackendAccess {
    /// A plain connection, and no login.
    fn default() -> Self {
        let tls = Tls { when: WhenTls::Off, ..Tls::default() };
        Self { tls, allow_plaintext: false, username: String::new(), password_file: None }
    }
}

impl BackendAccess {
    /// Whether the connection is handed on as it is.
    pub fn is_plain(&self) -> bool {
        self.tls.when == WhenTls::Off && self.username.is_empty()
    }

    /// Reads the password.
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
    /// Of servers that are configured by name, by where they are.
    places: Vec<(Place, BackendAccess)>,
    /// The same, whichever port the list has for them.
    hosts: Vec<(Box<str>, BackendAccess)>,
}

impl BackendsAccess {
    /// What is configured for a backend. Unix sockets of Cyrus take everybody who may connect, and offer
    /// neither TLS nor a login (`imap/lmtpd.c`).
    pub fn of(&self, place: &Place) -> BackendAccess {
        let Place::Inet { host, .. } = place else { return BackendAccess::default() };
        let by_place = self.places.iter().find(|(known, _)| known == place);
        let by_host =
            || self.hosts.iter().find(|(known, _)| known == host).map(|(_, access)| access);
        by_place.map(|(_, access)| access).or_else(by_host).unwrap_or(&self.common).clone()
    }

    /// Whether there is TLS or a login anywhere.
    #[cfg(test)]
    fn is_plain(&self) -> bool {
        let own = self.places.iter().map(|(_, own)| own);
        let own = own.chain(self.hosts.iter().map(|(_, own)| own));
        own.chain([&self.common]).all(BackendAccess::is_plain)
    }

    pub(super) fn new(common: BackendAccess) -> Self {
        Self { common, ..Self::default() }
    }

    /// Adds a server. `any_port`: the list says which port it has.
    pub(super) fn add(
        &mut self,
        server: &str,
        place: Place,
        any_port: bool,
        access: BackendAccess,
    ) -> Result<(), String> {
        let other = match (&place, any_port) {
            (Place::Inet { host, .. }, true) => self.hosts.iter().find(|(known, _)| known == host),
            _ => None,
        };
        let other = other.map(|(_, other)| other);
        let same = self.places.iter().find(|(known, _)| *known == place).map(|(_, other)| other);
        if other.or(same).is_some_and(|other| *other != access) {
            return Err(format!(
                "[backends.servers]: `{}` is at {}, as is another server with another login or TLS: \
                 write the same for both",
                Shown(server),
                place.host_and_port()
            ));
        }
        if let (Place::Inet { host, .. }, true) = (&place, any_port) {
            self.hosts.push((host.clone(), access.clone()));
        }
        self.places.push((place, access));
        Ok(())
    }
}

/// The keys, for all backends or for one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Keys<'a> {
    pub(super) tls: Option<WhenTls>,
    pub(super) ca_file: Option<&'a PathBuf>,
    pub(super) tls_name: Option<&'a str>,
    pub(super) allow_plaintext: Option<bool>,
    pub(super) username: Option<&'a str>,
    pub(super) password_file: Option<&'a PathBuf>,
}

impl<'a> Keys<'a> {
    /// With those of all backends where this one has none of its own.
    pub(super) fn or(self, common: Keys<'a>) -> Self {
        Self {
            tls: self.tls.or(common.tls),
            ca_file: self.ca_file.or(common.ca_file),
            tls_name: self.tls_name.or(common.tls_name),
            allow_plaintext: self.allow_plaintext.or(common.allow_plaintext),
            username: self.username.or(common.username),
            password_file: self.password_file.or(common.password_file),
        }
    }

    /// What they come to. Paths count from `base`.
    pub(super) fn build(self, base: &Path) -> Result<BackendAccess, String> {
        let username = self.username.unwrap_or_default().to_owned();
        let own_name = self.username.is_some();
        match (&*username, self.password_file) {
            ("", Some(_)) if !own_name => return Err("`password-file` without `username`".into()),
            (name, None) if !name.is_empty() => {
                return Err("`username` without `password-file`".into());
            }
            _ => {}
        }
        let when = self.tls.unwrap_or(match self.ca_file.is_some() || self.tls_name.is_some() {
            // Whoever says how the server proves itself wants it to.
            true => WhenTls::Required,
            false if username.is_empty() => WhenTls::Off,
            false => WhenTls::IfOffered,
        });
        Ok(BackendAccess {
            tls: Tls {
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

/// A name that SASL and a log line take.
pub(super) fn username<'de, D: serde::Deserializer<'de>>(
    input: D,
) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(input)?;
    if name.len() > 255 || name.chars().any(char::is_control) {
        let odd = Shown(&name);
        return Err(serde::de::Error::custom(format!("`{odd}` cannot be a user's name")));
    }
    Ok(Some(name))
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
        all.of(&Place::parse(place, 2003).unwrap())
    }

    #[test]
    fn server_of_its_own_settings_has_the_rest_from_all() {
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
    fn tls_is_used_where_something_is_said_of_it() {
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
    fn half_a_login_and_settings_that_contradict_each_other_are_errors() {
        let two = "[backends.servers.be1]\naddress = \"x\"\ntls = \"required\"\n\
                   [backends.servers.be2]\naddress = \"X\"\n";
        for (text, says) in [
            ("[backends]\nusername = \"a\"\n", "`username` without `password-file`"),
            ("[backends]\npassword-file = \"a\"\n", "`password-file` without `username`"),
            ("[backends.servers.be1]\nusername = \"a\"\n", "[backends.servers.\"be1\"]"),
            ("[backends]\ntls = \"yes\"\n", "line 2"),
            ("[backends]\nusername = \"a\\u0000b\"\n", "cannot be a user's name"),
            ("[backends]\ndomain = \"example..org\"\n", "is no domain"),
            ("[backends]\ndomain = \"example.org:24\"\n", "is no domain"),
            (two, "another login or TLS"),
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
    fn password_that_others_may_read_is_refused() {
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
