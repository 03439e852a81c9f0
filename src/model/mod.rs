//! Values that all other modules use: mailbox names, records, backends, domains, endpoints.

pub mod backend;
#[cfg(feature = "daemon")]
pub(crate) mod daemon_state;
pub mod domains;
pub mod doubt;
pub mod list;
pub(crate) mod loss_guard;
pub mod mod_time;
pub mod name;
pub mod record;
pub mod secret;
pub(crate) mod shown;
pub mod unsettled;
