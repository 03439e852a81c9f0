//! A second source: the `mailboxes.db` of this host, kept by the slave of a frontend. It has
//! the master's list of some time before.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use murder_route::model::doubt::{Doubt, DoubtKind};
use murder_route::model::list::{Lookup, MailboxList};
use murder_route::model::name::MailboxName;
use murder_route::model::record::{AnonymousRights, Record, State};
use murder_route::replica::{ReplicaDoubt, SourceTrust};

use crate::master::Entry;
use crate::schedule::{Name, SERVERS};

/// The master's entries for a name, each with the time of the change.
type Past = Vec<(Duration, Option<Entry>)>;

#[derive(Debug)]
pub(crate) struct Slave {
    /// Time by which it lags.
    lag: Duration,
    first: bool,
    /// In milliseconds.
    now: AtomicU64,
    past: Mutex<BTreeMap<Name, Past>>,
}

impl Slave {
    pub(crate) fn new(lag: Duration, first: bool) -> Self {
        Self { lag, first, now: AtomicU64::new(0), past: Mutex::default() }
    }

    /// Whether it is asked before the replica.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    pub(crate) fn set(&self, now: Duration) {
        self.now.store(now.as_millis() as u64, Relaxed);
    }

    /// Time of the state that it has.
    pub(crate) fn as_of(&self) -> Duration {
        Duration::from_millis(self.now.load(Relaxed)).saturating_sub(self.lag)
    }

    /// Records the master's present entry for a name.
    pub(crate) fn lists(&self, now: Duration, name: Name, entry: Option<Entry>) {
        self.past.lock().unwrap().entry(name).or_default().push((now, entry));
    }
}

impl MailboxList for Slave {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lookup_dated(name).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let text = std::str::from_utf8(name.as_bytes()).unwrap();
        let number = text.strip_prefix("user.u").and_then(|number| number.parse::<Name>().ok());
        let (past, as_of) = (self.past.lock().unwrap(), self.as_of());
        let past = number.and_then(|number| past.get(&number)).into_iter().flatten();
        let last = past.enumerate().take_while(|(_, (at, _))| *at <= as_of).last();
        let changed = |nth: usize, at: Duration| nth > 0 && as_of - at < Duration::from_secs(60);
        match last {
            Some((nth, (at, Some(entry)))) => (
                Lookup::Present(Record {
                    state: if entry.active { State::Active } else { State::Reserved },
                    server: Some(SERVERS[entry.server].to_owned()),
                    partition: entry.partition.to_owned(),
                    anonymous: AnonymousRights::default(),
                }),
                changed(nth, *at),
            ),
            Some((_, (_, None))) | None => (Lookup::Absent, false),
        }
    }

    fn each(
        &self,
        _prefix: &[u8],
        _visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        Err(Doubt::new(DoubtKind::GivenUp, "nobody walks here"))
    }
}

impl SourceTrust for Slave {
    fn hits(&self) -> Result<(), ReplicaDoubt> {
        Ok(())
    }

    fn misses(&self) -> Result<(), ReplicaDoubt> {
        Ok(())
    }
}
