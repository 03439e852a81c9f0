//! Postfix' settings, and the mistakes people make in them.
//!
//! [`PostfixSettings`] is what `postconf` prints. [`uses`] finds who asks whom; the rules are [`tables`]
//! for that, [`kept`] for what smtpd makes of it, [`lookups`] for whether Postfix can ask its tables and
//! ends with us, [`fallback`] for that of the site, [`domains`] for what Postfix takes messages for, and [`transports`] for how it delivers
//! them.

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

/// Asks Postfix' tables.
pub trait PostfixQueries {
    /// What the table, `type:name`, has for a key. `Err`: it cannot be asked, and why.
    fn table(&self, table: &str, key: &str) -> Result<Option<String>, String>;

    /// The text of a file that a list of Postfix names instead of its words.
    fn file(&self, path: &str) -> Result<String, String>;

    /// Whether the DNS, and not only a file of this host, has an address of a host. `None`: it cannot
    /// be told.
    fn in_dns(&self, host: &str) -> Option<bool>;

    /// Whether there is anything at a path.
    fn exists(&self, _path: &str) -> bool {
        false
    }

    /// The plugins of Cyrus SASL that are installed, as in `plain` for `libplain.so`. `None`: where they
    /// are is not known.
    fn sasl_plugins(&self) -> Option<Vec<String>> {
        None
    }
}

/// The words of a list in a parameter (postconf(1): commas and white space separate). Braces, which
/// put options to a word, come off.
pub(crate) fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(|c: char| c.is_whitespace() || matches!(c, ',' | '{' | '}'))
        .filter(|word| !word.is_empty())
}
