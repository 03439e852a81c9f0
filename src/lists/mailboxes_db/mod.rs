//! Cyrus' own `mailboxes.db`, read while Cyrus writes it.

#[cfg(all(test, feature = "capi"))]
pub(crate) mod cut_tests;
pub(crate) mod file;
pub(crate) mod index_view;
pub(crate) mod inspection;
pub(crate) mod keys;
pub(crate) mod lock;
pub mod mark_file;
#[cfg(test)]
pub(crate) mod mended_tests;
pub(crate) mod other_servers;
pub(crate) mod skip_view;
#[cfg(test)]
pub(crate) mod tests;
pub mod verify;
pub(crate) mod view;
