//! Questions for one name to the MUPDATE master, as the resolver asks them.

use std::future::Future;
use std::pin::Pin;

use crate::model::doubt::Doubt;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::mupdate::Finding;
pub use crate::routing::confirm::question::{Impossible, MasterView};

/// Result of [`Master::find`].
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection to the master, shared by tasks. Dropping a future abandons the question.
pub trait Master: MasterView + Send + Sync {
    /// Asks for one name (FIND). Returns within a few seconds, whatever the network does: if the master
    /// does not answer in time, the result is [`Finding::Unsure`].
    ///
    /// [`Finding::Absent`] must come from an answer that was requested after this call began, unless
    /// `negative-cache` allows one that is a few seconds old.
    fn find<'a>(&'a self, name: &'a MailboxName) -> Asking<'a, Result<Finding, Impossible>>;

    /// Waits until the replica holds everything that the master had at the time of the call, for a few
    /// seconds at most. Needed where a miss rests on a walk over the list and not on one name.
    fn caught_up(&self) -> Asking<'_, Result<(), Doubt>> {
        Box::pin(async { Ok(()) })
    }

    /// Name of the master by its banner; `None` before the first.
    fn servername(&self) -> Option<String> {
        None
    }

    /// Kind of names that the master keeps, by the release in its banner; `None` before the first.
    fn key_generation(&self) -> Option<KeyGeneration> {
        None
    }
}
