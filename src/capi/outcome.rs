//! The result of a look-up in the library.

use std::time::Duration;

use crate::routing::route::{Decision, Route};

/// Source of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// No list was used.
    Nothing,
    /// Cyrus' own list.
    MailboxesDb,
    /// The daemon's replica, read by this process.
    Replica,
    /// The daemon.
    Daemon,
}

/// A decision with its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The decision.
    pub route: Route,
    /// Its source.
    pub origin: Origin,
    /// Time since the source last agreed with the master's list; `None`: not known.
    pub age: Option<Duration>,
}

impl Outcome {
    /// An outcome of unknown age.
    pub(super) fn of(route: Route, origin: Origin) -> Self {
        Self { route, origin, age: None }
    }

    /// An outcome that no list is needed for.
    pub(super) fn without_list(route: Route) -> Self {
        Self { route, origin: Origin::Nothing, age: Some(Duration::ZERO) }
    }

    /// The outcome for an address with a [misplaced space](super::recipient::has_misplaced_space).
    pub(super) fn no_address() -> Self {
        let reason = "no address: a space stands where none can be".into();
        Self::without_list(Route {
            decision: Decision::Foreign,
            mailbox: None,
            server: None,
            partition: None,
            reason,
        })
    }

    /// Whether the recipient is deferred because neither a list nor the daemon could decide.
    pub(super) fn is_undecided(&self) -> bool {
        self.origin == Origin::Nothing && matches!(self.route.decision, Decision::Deferred(_))
    }
}
