//! Confirmation of misses.

pub mod canaries;
pub mod find_budget;
pub mod find_session;
pub mod kick_queue;
pub mod master_answers;
pub mod negative_cache;
pub mod question;
pub mod unsettled;

use std::path::PathBuf;
use std::time::Duration;

use crate::routing::evidence::Evidence;

/// Timeout for confirming a record that changed recently: an existing recipient is not delayed.
pub const KNOWN_NAME_TIMEOUT: Duration = Duration::from_millis(250);

/// Time between the two FINDs for a name that was deleted recently. A rename is two messages of
/// the master, which usually follow each other within milliseconds.
pub const RENAME_GAP: Duration = Duration::from_secs(1);

/// Time for which the circuit breaker stays open: no known name is confirmed after the master
/// did not answer within [`KNOWN_NAME_TIMEOUT`], since a mail server's lookups queue behind
/// each other.
pub const BREAKER_TIME: Duration = Duration::from_secs(5);

/// Timeout for the answer to a FIND, including the time to connect. The mail server's own
/// timeout is far longer, but each of its lookups has a deadline of 5 s here.
pub const FIND_TIMEOUT: Duration = Duration::from_secs(4);

/// Timeout for the answer to a FIND after one without a timely answer, until one is answered in
/// time.
pub const SHORT_FIND_TIMEOUT: Duration = Duration::from_millis(500);

/// Interval between checks of a master that seems to have lost its list.
pub const DOUBT_INTERVAL: Duration = Duration::from_secs(10);

/// Minimum interval between the starts of two kicks, where remote clients choose the number of
/// misses.
pub const KICK_INTERVAL: Duration = Duration::from_millis(250);

/// Timeout for the answer to a kick. The mail server's own timeout is far longer, but Postfix'
/// queue manager resolves one recipient at a time and waits for each.
pub const KICK_TIMEOUT: Duration = Duration::from_secs(4);

/// Authority that confirms a miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfirmVia {
    /// None: the site declares the list complete (`misses = "final"`).
    List,
    /// The lists themselves: there is no MUPDATE server. A list that has mailboxes of this host
    /// only is believed; misses of one that has records of other servers are deferred.
    Complete,
    /// The MUPDATE slave of this host, which tells over this socket that the list has caught up
    /// with the master. The master itself cannot be asked.
    Slave(PathBuf),
    /// The master, by FIND.
    Master {
        /// Socket of the MUPDATE slave of this host. The slave is asked instead if the
        /// configuration does not allow to ask the master; never because the master does not
        /// answer.
        slave: Option<PathBuf>,
    },
}

impl ConfirmVia {
    /// Evidence before any confirmation.
    pub fn evidence(&self) -> Evidence {
        match self {
            ConfirmVia::List => Evidence::NOBODY_TO_ASK,
            ConfirmVia::Complete => Evidence::LISTS_ALONE,
            ConfirmVia::Slave(_) => Evidence::ASK_THE_SLAVE,
            ConfirmVia::Master { .. } => Evidence::ASK_THE_MASTER,
        }
    }
}
