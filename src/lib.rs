//! The way mail gets into a Cyrus IMAP Murder without a proxy hop.
//!
//! A mail server asks for each recipient's backend, up front, and delivers there itself over LMTP.
//! The answer comes from local knowledge: Cyrus' own `mailboxes.db` on a frontend, or a replica of the
//! MUPDATE master's list that is kept on any host.
//!
//! # The promise
//!
//! A recipient that exists is never refused. *Unknown* is said only when it is certain; a torn
//! file, a lock that does not come, a record that does not parse, a bug of ours: all of that is
//! *temporary*, and the mail server tries again.
//!
//! # The rooms
//!
//! Imports point inwards only; `tests/layers.rs` has the table and enforces it.
//!
//! * **Pure**: bytes and values in, values out. No sockets, no files, no clock.
//!   * [`model`]: mailbox names, records, backends, domains, and the trait
//!     [`MailboxList`](model::list::MailboxList).
//!   * [`address`]: from a recipient to a mailbox name, as Cyrus' `lmtpd` does it, by the rules that
//!     [`imapd_conf`] reads.
//!   * [`routing`]: the decision for one recipient, and the form of its answers.
//!   * [`cyrusdb`]: the four file formats of `mailboxes.db` over a byte source. [`mupdate`]: the
//!     protocol of the master. [`wire`]: the protocols of mail servers. `lmtp`: the protocol of backends.
//! * **System**: [`os`] has files, paths and sockets; [`replica`] our copy of the master's list;
//!   [`lists`] Cyrus' own list and several lists as one.
//! * **Surface**: [`config`] reads the configuration; [`resolver`] is a router with its lists.
//!   With the feature `daemon` there are `master`, which connects to the MUPDATE master, `server`,
//!   `doctor` and `cli`; with the feature `capi` there is `capi`, the library for programs in C.
//!
//! # Where to start
//!
//! With [`routing::router`]: it decides, over the trait `MailboxList`. From there to
//! [`Resolver::route`](resolver::Resolver::route), which is all that happens to one recipient. How a
//! list is kept current begins at [`mupdate`] and [`replica`], and at the `master` that drives them;
//! what a mail server sees, at the `server`.

// `eprintln!` panics where standard error cannot be written.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod address;
#[cfg(feature = "capi")]
pub mod capi;
pub mod config;
pub mod cyrusdb;
pub mod imapd_conf;
#[cfg(test)]
#[path = "../tests/common/left_out.rs"]
mod left_out;
pub mod mupdate;
pub mod replica;
pub mod resolver;
#[cfg(test)]
mod testing;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod doctor;
pub mod lists;
#[cfg(feature = "daemon")]
pub mod lmtp;
#[cfg(feature = "daemon")]
pub mod master;
pub mod model;
pub mod os;
pub mod routing;
#[cfg(feature = "daemon")]
pub mod server;
