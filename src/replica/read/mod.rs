//! Reading the replica in processes that do not follow the master.

pub(crate) mod data_file;
pub mod offline;
#[cfg(feature = "capi")]
pub(crate) mod pages;
#[cfg(feature = "capi")]
pub(crate) mod reader;
#[cfg(all(test, feature = "capi"))]
pub(crate) mod reader_tests;
pub(crate) mod walk;
