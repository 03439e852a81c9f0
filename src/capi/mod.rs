//! The shared library `libmurder_route.so`: what C programs, Python and mail servers load.
//!
//! `c-api/murder_route.h` is the contract, written by hand for those who read C. `bindings` is made
//! of it by bindgen; `abi` implements it and is compared with it by the compiler. Behind that is
//! [`Library`], in safe Rust, which whatever else is exported from the library builds on: the table
//! of `postfix`, and the function of `exim`.
//!
//! # Inside a mail server
//!
//! Nothing here starts a thread, installs a handler, logs, or touches what belongs to the process.
//! Postfix opens its tables as root, then goes into a jail and becomes somebody else; Exim and
//! Sendmail fork for each connection. So:
//!
//! * what a chroot or a change of user takes away is opened when the library is
//!   (`os::pinned_path`), or reached through the daemon;
//! * what a fork may catch halfway belongs to one process, and a child begins with its own (see
//!   [`Library`]);
//! * lists are read by `pread`, never through a map: a truncated file would raise SIGBUS and kill the
//!   host;
//! * the replica is read without LMDB, which must not be opened twice in a process, nor be used after a
//!   fork.
//!
//! # Who decides
//!
//! Whom a list has is answered here. Whom it has not is asked of the daemon, which alone can have a
//! miss confirmed, shares the confirmations among all who ask, and tells its whole decision
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
