//! Credentials of a login and the mechanisms allowed, as configured by the site.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::model::secret::Secret;
use crate::model::shown::Shown;

/// Credentials of a login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Authorization identity (`mupdate_username` in imapd.conf). Empty: `authname` is used.
    pub username: String,
    /// Authentication identity, to which the password belongs (`mupdate_authname`). Empty:
    /// `username` is used.
    pub authname: String,
    /// `mupdate_realm`. Only DIGEST-MD5, which is not supported, sends a realm. It is named in the
    /// message about a refused login.
    pub realm: Option<String>,
    /// Password. Without it, only EXTERNAL is possible.
    pub password: Option<Secret>,
}

impl Credentials {
    /// Returns the name that the password belongs to.
    pub fn name(&self) -> &str {
        if self.authname.is_empty() { &self.username } else { &self.authname }
    }

    /// Returns the password, unless it is empty.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref().filter(|password| !password.reveal().is_empty())
    }
}

/// SASL mechanism, in descending order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// Authentication by TLS client certificate.
    External,
    /// SCRAM-SHA-512
    ScramSha512,
    /// SCRAM-SHA-256 (RFC 7677)
    ScramSha256,
    /// SCRAM-SHA-1 (RFC 5802)
    ScramSha1,
    /// PLAIN: sends the password itself (RFC 4616).
    Plain,
}

impl Mechanism {
    /// All mechanisms, in descending order of preference.
    pub const ALL: [Mechanism; 5] = [
        Mechanism::External,
        Mechanism::ScramSha512,
        Mechanism::ScramSha256,
        Mechanism::ScramSha1,
        Mechanism::Plain,
    ];

    /// Returns the SASL name of the mechanism.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mechanism::External => "EXTERNAL",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::Plain => "PLAIN",
        }
    }

    /// Whether the mechanism hides the password from eavesdroppers and makes the server prove that
    /// it knows it.
    pub const fn is_scram(self) -> bool {
        matches!(self, Mechanism::ScramSha512 | Mechanism::ScramSha256 | Mechanism::ScramSha1)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(name)).ok_or_else(
            || {
                let known = Self::ALL.map(Self::as_str).join(", ");
                format!("unknown mechanism `{}`; valid: {known}", Shown(name))
            },
        )
    }
}

/// When to use STARTTLS. Under TLS, the server's certificate is always verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenTls {
    /// Never.
    Off,
    /// If the server offers it and survives it. An attacker on the path can remove the offer.
    #[default]
    IfOffered,
    /// Always; without it, the login fails.
    Required,
}
