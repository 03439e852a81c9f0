//! The shared library `libmurder_route.so`: what C programs, Python and mail servers load.
//!
//! `c-api/murder_route.h` is the contract, written by hand. bindgen generates `bindings` from it; `abi`
//! implements it, and the compiler compares the two. Behind that is [`Library`], in safe Rust. The table
//! of `postfix` and the function of `exim` build on it as well.
//!
//! # Inside a mail server
//!
//! The library starts no thread, installs no signal handler, logs nothing, and changes no state of the
//! process. Postfix opens its tables as root, then enters a chroot and changes its user; Exim and
//! Sendmail fork for each connection. So:
//!
//! * files that a chroot or a change of user would take away are opened with the library
//!   (`os::pinned_path`), or reached through the daemon;
//! * state that a fork may catch halfway belongs to one process, and a child builds its own (see
//!   [`Library`]);
//! * lists are read by `pread`, never through a map: a truncated file would raise SIGBUS and kill the
//!   host;
//! * the replica is read without LMDB, which must not be opened twice in a process, nor be used after a
//!   fork.
//!
//! # Decisions
//!
//! Known recipients are resolved in-process; misses are forwarded to the daemon. Only the daemon can have a
//! miss confirmed. It shares confirmations among all its clients, and returns its whole decision
//! ([`decision`](crate::routing::decision_line)). If it does not, the recipient is deferred.

mod abi;
#[rustfmt::skip]
#[allow(
    dead_code, missing_docs, non_camel_case_types, unreachable_pub, unsafe_code,
    reason = "bindgen generates it from the header"
)]
#[cfg_attr(feature = "bindgen", path = "generated.rs")]
mod bindings;
mod daemon_client;
mod exim;
mod health;
mod library;
mod lookup;
mod memory;
mod options;
mod outcome;
mod panics;
mod postfix;
mod process;
mod recipient;
#[cfg(test)]
mod tests;
mod text;
mod timeout;

pub use health::{Health, Part, State};
pub use library::Library;
pub use outcome::{Origin, Outcome};
