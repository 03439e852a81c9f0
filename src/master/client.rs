//! Who can be asked for one name: the MUPDATE master, as the resolver sees him.

use std::future::Future;
use std::pin::Pin;

use crate::model::doubt::Doubt;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::mupdate::Finding;
pub use crate::routing::confirm::question::{Impossible, MasterView};

/// What [`Master::find`] comes to.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection to the master, shared by tasks. Dropping a future gives the question up.
pub trait Master: MasterView + Send + Sync {
    /// Asks for one name (FIND). Comes to an end within a few seconds, whatever the network does: a
    /// master that does not answer in time is [`Finding::Unsure`].
    ///
    /// [`Finding::Absent`] must come from an answer that was asked for after this call began, unless
    /// the site has said by `negative-cache` that one of a few seconds ago will do.
    fn find<'a>(&'a self, name: &'a MailboxName) -> Asking<'a, Result<Finding, Impossible>>;

    /// Waits until the replica holds everything that the master knew when this was called, for a few
    /// seconds at most. Needed where a miss rests on a walk over the list and not on one name.
    fn caught_up(&self) -> Asking<'_, Result<(), Doubt>> {
        Box::pin(async { Ok(()) })
    }

    /// The master as its banner names it; `None` before the first.
    fn servername(&self) -> Option<String> {
        None
    }

    /// What names the master keeps, from the release in its banner; `None` before the first.
    fn key_generation(&self) -> Option<KeyGeneration> {
        None
    }
}
