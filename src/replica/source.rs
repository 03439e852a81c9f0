//! The replica as a source of the mailbox list.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::{ReplicaDoubt, ReplicaStatus};
use crate::model::doubt::Doubt;
use crate::model::list::{Lookup, MailboxList};
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// Whether a replica may be believed now. The records on disk do not tell.
pub trait SourceTrust: Send + Sync {
    /// Whether a hit is believed.
    ///
    /// # Errors
    ///
    /// Why not: the replica is older than the site allows.
    fn hits(&self) -> Result<(), ReplicaDoubt>;

    /// Whether a miss is believed.
    ///
    /// # Errors
    ///
    /// Why not: the replica is stale, was never synchronised, or a full sync is held back.
    fn misses(&self) -> Result<(), ReplicaDoubt>;

    /// Time since the replica was equal to the master's list; `None`: unknown.
    fn age(&self) -> Option<Duration> {
        None
    }

    /// Snapshot for the `status` command.
    fn status(&self) -> Option<ReplicaStatus> {
        None
    }
}

/// A replica and its trust, as one source of the mailbox list.
#[derive(Clone)]
pub struct ReplicaSource {
    /// The records. A lookup does not block.
    pub list: Arc<dyn MailboxList>,
    /// Whether they may be believed.
    pub trust: Arc<dyn SourceTrust>,
}

/// Stands for a replica that is not open: every name is unsure.
struct NoReplica;

impl MailboxList for NoReplica {
    fn lookup(&self, _name: &MailboxName) -> Lookup {
        Lookup::Unsure(ReplicaDoubt::NotOpen.into())
    }

    fn each(
        &self,
        _prefix: &[u8],
        _visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        Err(ReplicaDoubt::NotOpen.into())
    }
}

impl SourceTrust for NoReplica {
    fn hits(&self) -> Result<(), ReplicaDoubt> {
        Err(ReplicaDoubt::NotOpen)
    }

    fn misses(&self) -> Result<(), ReplicaDoubt> {
        Err(ReplicaDoubt::NotOpen)
    }
}

impl Default for ReplicaSource {
    fn default() -> Self {
        Self { list: Arc::new(NoReplica), trust: Arc::new(NoReplica) }
    }
}
