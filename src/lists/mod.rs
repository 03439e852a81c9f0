//! The sources of mailbox names on this host.
//!
//! * [`mailboxes_db`]: Cyrus' own `mailboxes.db`, read while Cyrus writes it.
//! * [`combined`]: several lists as one, in the order of the configuration.
//! * [`user_deny`]: users blocked by `cyr_deny`.
//!
//! Any number of threads may look up at once.

pub mod combined;
pub mod mailboxes_db;
pub mod user_deny;

use crate::model::list::WalkStep;
use crate::model::name::MailboxName;
use crate::model::record::Record;

pub(crate) use mailboxes_db::WaitPolicy;
pub use mailboxes_db::{Completeness, FileList, FileListOptions, FileListStatus, Inspection};

/// Visitor of names and records that a walk may leave out.
pub(crate) type RecordVisitor<'v> = dyn FnMut(&MailboxName, &Record) -> WalkStep + 'v;
