//! Reasons why a replica is not believed.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::{HeldBack, utc};
use crate::model::doubt::{Doubt, DoubtKind, Doubtful};

/// Reason why a hit or a miss in the replica is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaDoubt {
    /// The replica is not open.
    NotOpen,
    /// No full sync was ever applied.
    NeverSynchronised,
    /// The list has no name. An empty list makes no recipient unknown.
    Empty,
    /// A full sync that lost too many names is held back.
    HeldBack(HeldBack),
    /// Later changes of the master may be missing.
    Stale {
        /// Time of the last barrier that was answered.
        since: SystemTime,
        /// Time since then, if it is counted.
        age: Option<Duration>,
        /// There is no connection to the master.
        disconnected: bool,
    },
    /// No barrier was answered since the connection for questions was made.
    StreamBehind,
    /// The replica cannot be read.
    Unreadable(Doubt),
    /// A doubt, and what keeps the replica from being synchronised.
    Because(Box<ReplicaDoubt>, String),
}

impl fmt::Display for ReplicaDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpen => f.write_str("the replica is not open"),
            Self::NeverSynchronised => {
                f.write_str("the replica has never been synchronised with the master")
            }
            Self::Empty => f.write_str(
                "the master's list is empty, and an empty list makes no recipient unknown",
            ),
            Self::HeldBack(loss) => loss.fmt(f),
            Self::Stale { since, age, disconnected } => {
                write!(f, "the replica is stale since {}", utc(*since))?;
                if let Some(age) = age {
                    write!(f, " ({} s)", age.as_secs())?;
                }
                let link =
                    if *disconnected { "; there is no connection to the master" } else { "" };
                f.write_str(link)
            }
            Self::StreamBehind => {
                f.write_str("the stream of the MUPDATE master has not caught up yet")
            }
            Self::Unreadable(doubt) => doubt.fmt(f),
            Self::Because(doubt, why) => write!(f, "{doubt}: {why}"),
        }
    }
}

impl Doubtful for ReplicaDoubt {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Self::NotOpen => DoubtKind::Unreadable,
            Self::Unreadable(doubt) => doubt.kind(),
            Self::NeverSynchronised => DoubtKind::NeverSynchronised,
            Self::Empty => DoubtKind::Empty,
            Self::HeldBack(_) => DoubtKind::HeldBack,
            Self::Stale { .. } | Self::StreamBehind => DoubtKind::Stale,
            Self::Because(doubt, _) => doubt.doubt_kind(),
        }
    }
}

impl From<ReplicaDoubt> for Doubt {
    fn from(doubt: ReplicaDoubt) -> Self {
        Doubt::new(doubt.doubt_kind(), doubt)
    }
}
