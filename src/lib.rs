//! Routes mail into a Cyrus IMAP Murder without a proxy hop.
//!
//! A mail server asks for the backend of each recipient and delivers there itself over LMTP. The answer
//! comes from local data: Cyrus' own `mailboxes.db` on a frontend, or a replica of the MUPDATE master's
//! mailbox list on any host.
//!
//! Most sites run the program `murder-route` and need no code. This crate is for programs in Rust that
//! decide by themselves. Programs in other languages use the C interface in `c-api/murder_route.h`.
//!
//! # The promise
//!
//! A recipient that exists is never refused. [`Decision::Unknown`] is certain. Every doubt is
//! [`Decision::Deferred`], and the mail server tries again: a torn file, a lock held too long, a record
//! that cannot be parsed, a panic in this crate.
//!
//! # Examples
//!
//! Open a configuration and resolve recipients. The file is usually `/etc/murder-route.toml`.
//!
//! ```
//! use murder_route::{Decision, Overrides, Resolver, Settings};
//!
//! let given = Overrides {
//!     config: Some("tests/data/example/murder-route.toml".into()),
//!     ..Overrides::default()
//! };
//! let resolver = Resolver::open(Settings::load(&given)?)?;
//!
//! let route = resolver.resolve(b"a.b103@example.net");
//! let Decision::Deliver(backend) = &route.decision else { panic!("{}", route.why()) };
//! assert_eq!(backend.nexthop(), "lmtp:inet:be5.example.org:2003");
//!
//! // Only the MUPDATE master could confirm this miss, so the recipient is not unknown.
//! let route = resolver.resolve(b"nobody@example.net");
//! assert!(matches!(route.decision, Decision::Deferred(_)));
//!
//! assert_eq!(resolver.resolve(b"jane@elsewhere.test").decision, Decision::Foreign);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Look up a mailbox name in a `mailboxes.db` that Cyrus may be writing at the same time:
//!
//! ```
//! use murder_route::{FileList, Lookup, MailboxList, MailboxName};
//!
//! let list = FileList::at("tests/data/mailboxes/current-keys/twoskip.db");
//! let name = MailboxName::new("example.net!user.a^b103")?;
//! let Lookup::Present(record) = list.lookup(&name) else { panic!("{name} is not in the list") };
//! assert_eq!(record.server.as_deref(), Some("be5.example.org"));
//! # Ok::<(), murder_route::BadName>(())
//! ```
//!
//! # Features
//!
//! * `daemon` (default): the program `murder-route`. Without it the crate needs no tokio, TLS, logger or
//!   command-line parser.
//! * `capi`: `Library`, and the exported functions of the C interface.
//! * `testing`: makes all modules public, for this crate's own tests. It has no stable interface.
//!
//! `ARCHITECTURE.md` in the repository describes the modules.

// `eprintln!` panics where standard error cannot be written.
#![cfg_attr(not(test), warn(clippy::print_stderr))]
// In a module, `pub` marks what other modules may use. Only the names at the end of this file are public,
// unless `testing` is on.
#![cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
// The lints find dead code in a build with all that could use it.
#![cfg_attr(not(all(feature = "daemon", feature = "capi")), allow(dead_code, unused_imports))]

#[cfg(not(feature = "testing"))]
mod address;
#[cfg(feature = "testing")]
pub mod address;
#[cfg(all(feature = "capi", not(feature = "testing")))]
mod capi;
#[cfg(all(feature = "capi", feature = "testing"))]
pub mod capi;
#[cfg(all(feature = "daemon", not(feature = "testing")))]
mod cli;
#[cfg(all(feature = "daemon", feature = "testing"))]
pub mod cli;
#[cfg(not(feature = "testing"))]
mod config;
#[cfg(feature = "testing")]
pub mod config;
#[cfg(not(feature = "testing"))]
mod cyrusdb;
#[cfg(feature = "testing")]
pub mod cyrusdb;
#[cfg(all(feature = "daemon", not(feature = "testing")))]
mod doctor;
#[cfg(all(feature = "daemon", feature = "testing"))]
pub mod doctor;
#[cfg(not(feature = "testing"))]
mod imapd_conf;
#[cfg(feature = "testing")]
pub mod imapd_conf;
#[cfg(not(feature = "testing"))]
mod lists;
#[cfg(feature = "testing")]
pub mod lists;
#[cfg(all(feature = "daemon", not(feature = "testing")))]
mod lmtp;
#[cfg(all(feature = "daemon", feature = "testing"))]
pub mod lmtp;
#[cfg(all(feature = "daemon", not(feature = "testing")))]
mod master;
#[cfg(all(feature = "daemon", feature = "testing"))]
pub mod master;
#[cfg(not(feature = "testing"))]
mod model;
#[cfg(feature = "testing")]
pub mod model;
#[cfg(not(feature = "testing"))]
mod mupdate;
#[cfg(feature = "testing")]
pub mod mupdate;
#[cfg(not(feature = "testing"))]
mod os;
#[cfg(feature = "testing")]
pub mod os;
#[cfg(feature = "daemon")]
mod relay;
#[cfg(not(feature = "testing"))]
mod replica;
#[cfg(feature = "testing")]
pub mod replica;
#[cfg(not(feature = "testing"))]
mod resolver;
#[cfg(feature = "testing")]
pub mod resolver;
#[cfg(not(feature = "testing"))]
mod routing;
#[cfg(feature = "testing")]
pub mod routing;
#[cfg(all(feature = "daemon", not(feature = "testing")))]
mod server;
#[cfg(all(feature = "daemon", feature = "testing"))]
pub mod server;
#[cfg(not(feature = "testing"))]
mod wire;
#[cfg(feature = "testing")]
pub mod wire;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
#[path = "../tests/common/left_out.rs"]
mod left_out;

pub use config::{ConfigError, MissPolicy, Overrides, Settings, SourceName};
pub use lists::FileList;
pub use model::backend::{Backend, LmtpAddress};
pub use model::doubt::{Doubt, DoubtKind};
pub use model::list::{Lookup, MailboxList, WalkStep};
pub use model::name::{BadName, KeyGeneration, MailboxName};
pub use model::record::{AnonymousRights, Record, State};
pub use resolver::Resolver;
pub use routing::route::{Cause, Decision, Refusal, Route};
pub use wire::endpoint::Endpoint;

#[cfg(feature = "capi")]
pub use capi::{Health, Library, Origin, Outcome, Part, State as PartState};

/// Runs the command line; not part of the library's interface.
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub use cli::main as run_command;
