//! How processes read the replica that do not follow the master.

pub mod offline;
#[cfg(feature = "capi")]
pub(crate) mod pages;
#[cfg(feature = "capi")]
pub(crate) mod reader;
#[cfg(all(test, feature = "capi"))]
pub(crate) mod reader_tests;
