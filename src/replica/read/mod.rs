//! Reading the replica in processes that do not follow the master.

pub(crate) mod data_file;
pub mod offline;
pub(crate) mod pages;
pub(crate) mod reader;
#[cfg(test)]
pub(crate) mod reader_tests;
pub(crate) mod walk;
