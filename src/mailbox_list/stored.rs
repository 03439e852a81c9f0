//! A replica as those see it who do not follow the master.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::lists::{Replicated, Trust};
use super::replica::ReplicaList;
use crate::replica::{About, Status, utc};

/// How far a replica may be believed by what is stored with it: for a command that is over in a
/// moment, beside the daemon or without one. It cannot tell how fresh the replica is, so a miss is
/// worth what the master says of it now; but a loss that is held back still makes nobody unknown.
#[derive(Debug, Clone)]
pub struct Stored {
    list: ReplicaList,
    max_age: Option<Duration>,
}

impl Stored {
    /// The replica in a directory, which need not be there. What is found is believed until it is
    /// this old; `None`: for ever.
    ///
    /// # Errors
    ///
    /// If the directory cannot be one: the path is empty, or relative to one that is gone.
    pub fn open(dir: &Path, max_age: Option<Duration>) -> std::io::Result<Replicated> {
        let list = ReplicaList::open(dir)?;
        let trust = Self { list: list.clone(), max_age };
        Ok(Replicated { list: Arc::new(list), trust: Arc::new(trust) })
    }

    fn about(&self) -> Result<(About, u64), String> {
        self.list.about().map_err(|e| e.to_string())
    }
}

/// How long ago the replica was as the master's list, if it ever was.
fn age(about: &About) -> Option<Duration> {
    // A clock that was put back makes nothing older.
    Some(SystemTime::now().duration_since(about.as_of?).unwrap_or_default())
}

impl Trust for Stored {
    fn hits(&self) -> Result<(), String> {
        let Some(max_age) = self.max_age else { return Ok(()) };
        let (about, _) = self.about()?;
        match (age(&about), about.as_of) {
            (Some(age), Some(as_of)) if age > max_age => {
                Err(format!("the replica is stale since {}", utc(as_of)))
            }
            (None, _) => Err("the replica has never been synchronised with the master".into()),
            _ => Ok(()),
        }
    }

    fn misses(&self) -> Result<(), String> {
        let (about, names) = self.about()?;
        about.misses(names)
    }

    fn age(&self) -> Option<Duration> {
        age(&self.about().ok()?.0)
    }

    fn status(&self) -> Option<Status> {
        let (about, names) = self.about().ok()?;
        let state = match (&about.held_back, about.synchronised) {
            (Some(_), _) => "held-back",
            (None, None) => "never",
            (None, Some(_)) => "stale",
        };
        Some(Status {
            state,
            doubt: about.misses(names).err(),
            age: age(&about),
            names,
            synchronised: about.synchronised,
            master: about.master,
            release: about.release,
            held_back: about.held_back,
        })
    }
}
