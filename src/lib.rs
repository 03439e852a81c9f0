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
//! # The rings
//!
//! Imports point inwards only.
//!
//! * **Pure**: bytes and values in, values out. No sockets, no files, no clock.
//!   * Names and records: [`mailbox`], which everything else speaks of; [`address`] makes a mailbox
//!     name of a recipient as Cyrus' `lmtpd` does, by the rules that [`imapd_conf`] reads.
//!   * The decision: [`router`], for our [`domains`], with the [`backend`] of each server; [`confirm`]
//!     has what was found out to confirm a miss, [`changes`] what
//!     counts as changed a moment ago; [`maps`] give the answer its form.
//!   * What Cyrus writes and says: [`cyrusdb`] reads the four file formats of `mailboxes.db` over a
//!     byte source; [`mupdate`] is the protocol of the master, [`replica`] what follows from it.
//!   * What mail servers say: [`wire`]; how a backend is logged in to: `lmtp`; and what Postfix must be told to ask us: `postfix_config`.
//! * **System**: [`mailbox_list`] opens, follows and locks the real file, keeps the replica
//!   ([`mailbox_list::replica`]), makes one list of several, and asks the local MUPDATE slave whether
//!   it is up to date.
//! * **Surface**: what people run. [`config`] reads what they want; [`resolver`] is the router with
//!   its lists that comes of it. With the feature `daemon` there are `follow`, which connects to the
//!   [`master`] and is asked through it, the `server`, the `doctor`, who judges what was seen of a
//!   deployment, and the `cli`; with the feature `capi` there is the `capi`, the library for programs
//!   in C.
//!
//! # Where to start
//!
//! With [`router`]: it decides, over the trait [`MailboxList`](mailbox::MailboxList). From there to
//! [`Resolver::route`](resolver::Resolver::route), which is all that happens to one recipient. How a
//! list is kept current begins at [`mupdate`] and [`replica`], and at the `follow` that drives them;
//! what a mail server sees, at the `server`.

// `eprintln!` panics where standard error cannot be written.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod address;
pub mod backend;
#[cfg(feature = "capi")]
pub mod capi;
pub mod changes;
pub mod config;
pub mod confirm;
pub mod cyrusdb;
pub mod domains;
pub mod endpoint;
pub mod imapd_conf;
#[cfg(test)]
#[path = "../tests/common/left_out.rs"]
mod left_out;
pub mod lingering;
pub mod mailbox;
pub mod mailbox_list;
pub mod maps;
pub mod master;
pub mod mupdate;
mod regular_file;
pub mod replica;
pub mod resolver;
pub mod router;
pub mod secret;
mod shown;
mod shrink;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod doctor;
#[cfg(feature = "daemon")]
pub mod follow;
#[cfg(feature = "daemon")]
pub mod lmtp;
#[cfg(feature = "daemon")]
pub mod postfix_config;
#[cfg(feature = "daemon")]
pub mod server;
