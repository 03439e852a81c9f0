//! The mailbox lists of this host.
//!
//! * [`mailboxes_db`]: Cyrus' own `mailboxes.db`, read while Cyrus writes it.
//! * [`combined`]: several lists as one, in the order of the configuration.
//! * [`user_deny`]: Cyrus' list of users whose access is blocked.
//!
//! Any number of threads may look up at once.

pub mod combined;
pub mod mailboxes_db;
pub mod user_deny;
mod walk_past;

pub use mailboxes_db::file::{FileList, Options, Status};
pub use mailboxes_db::inspection::Inspection;
