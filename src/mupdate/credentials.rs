//! As whom, and by what means, a login may be tried: what a site configures.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::model::secret::Secret;
use crate::model::shown::Shown;

/// Who logs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Whose rights are wanted (the authorisation identity); empty: those of `authname`.
    /// `mupdate_username` in imapd.conf.
    pub username: String,
    /// Who it is whose password this is; empty: the one in `username`. `mupdate_authname`.
    pub authname: String,
    /// `mupdate_realm`. Only DIGEST-MD5 would send it, which is not spoken here; a refused login is
    /// explained with it.
    pub realm: Option<String>,
    /// The password. Without one there is only EXTERNAL.
    pub password: Option<Secret>,
}

impl Credentials {
    /// The name that the password belongs to.
    pub fn name(&self) -> &str {
        if self.authname.is_empty() { &self.username } else { &self.authname }
    }

    /// The password, if there is one that is not empty.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref().filter(|password| !password.reveal().is_empty())
    }
}

/// A way to log in, the best one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// By the TLS client certificate.
    External,
    /// SCRAM-SHA-512
    ScramSha512,
    /// SCRAM-SHA-256 (RFC 7677)
    ScramSha256,
    /// SCRAM-SHA-1 (RFC 5802)
    ScramSha1,
    /// The password itself (RFC 4616).
    Plain,
}

impl Mechanism {
    /// All of them, the best one first.
    pub const ALL: [Mechanism; 5] = [
        Mechanism::External,
        Mechanism::ScramSha512,
        Mechanism::ScramSha256,
        Mechanism::ScramSha1,
        Mechanism::Plain,
    ];

    /// Its name in SASL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mechanism::External => "EXTERNAL",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::Plain => "PLAIN",
        }
    }

    /// Whether whoever listens learns no password from it, and the server proves that it knows it.
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

/// When to use STARTTLS. Wherever it is, the server's certificate must be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenTls {
    /// Never.
    Off,
    /// If the server offers it, and does not die of it. Somebody on the way can take the offer away.
    #[default]
    IfOffered,
    /// Always, or else do not log in.
    Required,
}
