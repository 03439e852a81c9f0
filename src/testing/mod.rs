//! Test helpers: files as Cyrus writes them, a replica in memory, and random numbers.

#[cfg(test)]
pub(crate) mod cyrus_lists;
#[cfg(test)]
pub(crate) mod cyrus_writer;
pub mod memory_replica;
#[cfg(test)]
pub(crate) mod random;
