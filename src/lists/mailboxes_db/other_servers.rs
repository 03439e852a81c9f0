//! Tells whether a list has records of other servers.
//!
//! The list of a host of a Murder has them: `lmtpd` calls a mailbox remote exactly if its record has a
//! server. Such a list comes from the MUPDATE master and may lag behind it or have lost names, so
//! its misses are confirmed. The list of a single server has none and is complete by itself.

use std::ops::ControlFlow;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::model::doubt::Doubt;
use crate::model::name::MailboxName;
use crate::model::record::Record;

/// Time for which a list without records of other servers is not read again. A single server becomes a
/// member of a Murder once in its life.
const LOCAL_AGE: Duration = Duration::from_secs(60);

/// Cached answer for one list. Shared by threads.
#[derive(Debug, Default)]
pub(super) struct RemoteRecords {
    /// First server met. Kept for the life of the process: a list that has lost all its remote records is
    /// more likely of an emptied Murder than of a single server.
    server: OnceLock<String>,
    /// Time at which the list was last read to its end without any.
    local: Mutex<Option<Instant>>,
}

/// Calls its argument for every record until that breaks, as `MailboxList::each` does.
pub(super) type Walk<'a> =
    &'a dyn Fn(&mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>) -> Result<(), Doubt>;

impl RemoteRecords {
    /// Returns the cached answer: a server that has records in the list, or an inner `None` if there was
    /// none within the last [`LOCAL_AGE`]. `None`: the list has to be read.
    pub(super) fn known(&self) -> Option<Option<&str>> {
        if let Some(server) = self.server.get() {
            return Some(Some(server));
        }
        let local = *self.local.lock().unwrap_or_else(PoisonError::into_inner);
        local.is_some_and(|when| when.elapsed() < LOCAL_AGE).then_some(None)
    }

    /// Returns a server that has records in the list. Reads the list if the answer is not cached.
    ///
    /// # Errors
    ///
    /// If the list cannot be read to its end.
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
    fn remote_server_is_kept_and_local_list_expires() {
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
        assert_eq!((find(&[Some("be1")]), walks.get()), (Ok(None), 1), "read recently");
        *remote.local.lock().unwrap() = Instant::now().checked_sub(LOCAL_AGE);
        assert_eq!(
            (find(&[None, Some("be1"), Some("be2")]), walks.get()),
            (Ok(Some("be1".into())), 2)
        );
        assert_eq!((find(&[]), walks.get()), (Ok(Some("be1".into())), 2), "never forgotten");
    }

    #[test]
    fn list_that_cannot_be_read_is_not_local() {
        let remote = RemoteRecords::default();
        let failed = remote.find(&|_| Err("torn".into()));
        assert_eq!(failed, Err("torn".into()));
        assert_eq!(remote.known(), None);
    }
}
