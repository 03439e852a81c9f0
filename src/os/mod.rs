//! What the operating system is asked for.

#[cfg(feature = "daemon")]
pub(crate) mod accounts;
pub mod kick;
pub mod map;
pub(crate) mod pinned_path;
pub(crate) mod regular_file;
