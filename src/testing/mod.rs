//! Helpers of unit tests: files as Cyrus writes them, a replica in memory, and random numbers.

pub(crate) mod cyrus_lists;
pub(crate) mod cyrus_writer;
pub(crate) mod memory_replica;
pub(crate) mod random;
