//! How misses are confirmed.

use std::path::PathBuf;
use std::time::Duration;

use crate::routing::evidence::Evidence;

/// Longest wait for a record that changed recently to be confirmed: an existing recipient is not held up.
pub const KNOWN_NAME_TIMEOUT: Duration = Duration::from_millis(250);

/// Longest wait for the answer to a kick. The mail server's own timeout is far longer, but Postfix' queue
/// manager resolves one recipient at a time and waits for each.
pub const KICK_TIMEOUT: Duration = Duration::from_secs(4);

/// Who confirms that there is no such mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfirmVia {
    /// Nobody: the site says that the list is complete by itself (`misses = "final"`).
    List,
    /// The lists themselves: there is no MUPDATE server. A list that has mailboxes of this host only
    /// is believed; misses of one that has records of other servers are deferred.
    Complete,
    /// The MUPDATE slave of this host, which says at this socket that the list has caught up with the
    /// master. The master itself cannot be asked.
    Slave(PathBuf),
    /// The master, by FIND.
    Master {
        /// Socket of the MUPDATE slave of this host. The slave is asked instead where the master cannot be asked
        /// as things are configured; never where the master only does not answer.
        slave: Option<PathBuf>,
    },
}

impl ConfirmVia {
    /// Evidence before anything was confirmed.
    pub fn evidence(&self) -> Evidence {
        match self {
            ConfirmVia::List => Evidence::NOBODY_TO_ASK,
            ConfirmVia::Complete => Evidence::LISTS_ALONE,
            ConfirmVia::Slave(_) => Evidence::ASK_THE_SLAVE,
            ConfirmVia::Master { .. } => Evidence::ASK_THE_MASTER,
        }
    }
}
