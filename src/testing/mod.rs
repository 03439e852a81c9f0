//! Helpers of tests: files as Cyrus writes them, and random numbers.

pub(crate) mod cyrus_lists;
pub(crate) mod cyrus_writer;
pub(crate) mod random;
