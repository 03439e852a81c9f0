//! Who can be asked for one name: the MUPDATE master, as the resolver sees him.

use std::future::Future;
use std::pin::Pin;

use crate::model::name::{KeyGeneration, MailboxName};
use crate::mupdate::Finding;

/// The master cannot be asked as things are configured, and will not be by waiting: no credentials,
/// no mechanism that both sides have and the policy allows, TLS that is required and not offered.
/// The text says which, for the one who must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(pub String);

/// What [`Master::find`] comes to.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection to the master, shared by tasks. Dropping a future gives the question up.
pub trait Master: Send + Sync {
    /// Asks for one name (FIND). Comes to an end within a few seconds, whatever the network does: a
    /// master that does not answer in time is [`Finding::Unsure`].
    ///
    /// [`Finding::Absent`] must come from an answer that was asked for after this call began, unless
    /// the site has said by `negative-cache` that one of a few seconds ago will do.
    fn find<'a>(&'a self, name: &'a MailboxName) -> Asking<'a, Result<Finding, Impossible>>;

    /// A list has this name: what was kept of its absence (`negative-cache`) is over.
    fn is_listed(&self, _name: &MailboxName) {}

    /// Whether [`Master::find`] would answer for this name without asking anybody.
    fn needs_no_question(&self, _name: &MailboxName) -> bool {
        false
    }

    /// Whether a name that the master does not have was deleted a moment ago, as far as the stream
    /// tells. The second half of a rename may follow then, and the master must be asked twice.
    fn deleted_lately(&self, _name: &MailboxName) -> bool {
        false
    }

    /// Waits until the replica holds everything that the master knew when this was called, for a few
    /// seconds at most. Needed where a miss rests on a walk over the list and not on one name.
    fn caught_up(&self) -> Asking<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// The master as its banner names it; `None` before the first.
    fn servername(&self) -> Option<String> {
        None
    }

    /// Why it cannot be asked just now, for who watches over the daemon; `None` if it can.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Whether the first connection is being made, so that a question waits for it.
    fn is_connecting(&self) -> bool {
        false
    }

    /// Whether that would be the same later, as things are configured: [`Impossible`].
    fn is_impossible(&self) -> bool {
        false
    }

    /// What names the master keeps, from the release in its banner; `None` before the first.
    fn key_generation(&self) -> Option<KeyGeneration> {
        None
    }
}
