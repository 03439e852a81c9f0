//! Access to the operating system.

#[cfg(feature = "daemon")]
pub(crate) mod accounts;
pub(crate) mod file_id;
pub mod kick;
pub mod map;
pub(crate) mod pinned_path;
pub(crate) mod regular_file;
pub(crate) mod unix_connect;
