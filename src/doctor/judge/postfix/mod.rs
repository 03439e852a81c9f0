//! Rules for Postfix' settings: known mistakes and their corrections.
//!
//! [`PostfixSettings`] is the parsed output of `postconf`. [`uses`] finds the sockets that Postfix
//! uses. The rules: [`tables`] for their maps, [`kept`] for the cache of smtpd, [`lookups`] for queries
//! and routes, [`fallback`], [`domains`] for the domains that Postfix accepts, and [`transports`] for
//! delivery.

pub mod domains;
pub mod fallback;
pub mod kept;
pub mod lookups;
pub mod settings;
pub mod tables;
pub mod tls;
pub mod transports;
pub mod uses;

pub use settings::{PostfixSettings, Service};

/// Queries of a Postfix host that the rules need.
pub trait PostfixQueries {
    /// The entry of a table, `type:name`, for a key. `Err`: the table cannot be queried, and why.
    fn table(&self, table: &str, key: &str) -> Result<Option<String>, String>;

    /// The text of a file that a Postfix list names.
    fn file(&self, path: &str) -> Result<String, String>;

    /// Whether the DNS has an address of a host, apart from files of this host. `None`: unknown.
    fn in_dns(&self, host: &str) -> Option<bool>;

    /// Whether a path exists.
    fn exists(&self, _path: &str) -> bool {
        false
    }

    /// The installed plugins of Cyrus SASL, as `plain` for `libplain.so`. `None`: their directory is
    /// unknown.
    fn sasl_plugins(&self) -> Option<Vec<String>> {
        None
    }
}

/// The words of a list in a parameter (postconf(1): commas and white space separate). Braces, which add
/// options to a word, are removed.
pub(crate) fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(|c: char| c.is_whitespace() || matches!(c, ',' | '{' | '}'))
        .filter(|word| !word.is_empty())
}
