//! Whether a list has records of other servers.
//!
//! The list of a host of a murder has them: `lmtpd` calls a mailbox remote exactly if its record has a
//! server. Such a list comes from the MUPDATE master and may lag behind it or have lost names, so
//! its misses need a confirmation. The list of a single server has none and is complete by itself.

use std::ops::ControlFlow;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::model::doubt::Doubt;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// Time for which a list is taken to have no records of other servers, once it was read to its end.
/// A single server becomes a member of a murder once in its life.
const LOCAL_AGE: Duration = Duration::from_secs(60);

/// What is known of one list. Shared by threads.
#[derive(Debug, Default)]
pub(super) struct RemoteRecords {
    /// The first server met. Kept for the life of the process: a list that has lost all its remote
    /// records is that of an emptied murder sooner than that of a single server.
    server: OnceLock<String>,
    /// When the list was last read to its end without any.
    local: Mutex<Option<Instant>>,
}

/// Calls its argument for every record until that breaks, as `MailboxList::each` does.
pub(super) type Walk<'a> =
    &'a dyn Fn(&mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>) -> Result<(), Doubt>;

impl RemoteRecords {
    /// What is known without reading the list: a server that has records in it, or `None` in it if
    /// there was none within the last [`LOCAL_AGE`]. `None`: the list has to be read.
    pub(super) fn known(&self) -> Option<Option<&str>> {
        if let Some(server) = self.server.get() {
            return Some(Some(server));
        }
        let local = *self.local.lock().unwrap_or_else(PoisonError::into_inner);
        local.is_some_and(|when| when.elapsed() < LOCAL_AGE).then_some(None)
    }

    /// The same, and reads the list if need be. `Err` says why it could not be read to its end.
    pub(super) fn find(&self, walk: Walk<'_>) -> Result<Option<&str>, Doubt> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let began = Instant::now();
        walk(&mut |_, record| match &record.server {
            Some(server) => {
                let _ = self.server.set(server.clone());
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        })?;
        if self.server.get().is_none() {
            *self.local.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        }
        Ok(self.server.get().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::model::record::{AnonymousRights, State};

    fn record(server: Option<&str>) -> (MailboxName, Record) {
        let record = Record {
            state: State::Active,
            server: server.map(str::to_owned),
            partition: "default".into(),
            anonymous: AnonymousRights::default(),
        };
        (MailboxName::new("user.jane").unwrap(), record)
    }

    #[test]
    fn a_server_once_met_is_known_for_good_and_a_local_list_for_a_while() {
        let remote = RemoteRecords::default();
        let walks = Cell::new(0);
        let find = |servers: &[Option<&str>]| {
            let walk: Walk<'_> = &|visit| {
                walks.set(walks.get() + 1);
                for server in servers {
                    let (name, record) = record(*server);
                    if visit(&name, &record).is_break() {
                        break;
                    }
                }
                Ok(())
            };
            remote.find(walk).map(|server| server.map(str::to_owned))
        };
        assert_eq!(remote.known(), None);
        assert_eq!((find(&[None, None]), walks.get()), (Ok(None), 1));
        assert_eq!((find(&[Some("be1")]), walks.get()), (Ok(None), 1), "read a moment ago");
        *remote.local.lock().unwrap() = Instant::now().checked_sub(LOCAL_AGE);
        assert_eq!(
            (find(&[None, Some("be1"), Some("be2")]), walks.get()),
            (Ok(Some("be1".into())), 2)
        );
        assert_eq!((find(&[]), walks.get()), (Ok(Some("be1".into())), 2), "never forgotten");
    }

    #[test]
    fn a_list_that_cannot_be_read_to_its_end_is_not_taken_for_local() {
        let remote = RemoteRecords::default();
        let failed = remote.find(&|_| Err("torn".into()));
        assert_eq!(failed, Err("torn".into()));
        assert_eq!(remote.known(), None);
    }
}
