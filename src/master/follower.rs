//! A replica that follows the master: the stream, the writer and their shared state.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle as Task, spawn_blocking};

use super::state::{FollowerState, LinkStatus};
use super::upstream::Upstream;
use super::{stream, writer};
use crate::config::ReplicaSettings;
use crate::model::doubt::Doubt;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::name::MailboxName;
use crate::replica::store::{Error, ReplicaList, ReplicaWriter};
use crate::replica::{ReplicaDoubt, ReplicaState, SourceTrust};
use crate::routing::confirm::master_answers::Followed;

/// Maximum number of inputs that wait for the writer; each has at most a thousand events.
const MAX_QUEUED: usize = 64;

/// A replica that follows the master until it is dropped.
#[derive(Debug)]
pub struct ReplicaFollower {
    list: ReplicaList,
    state: Arc<FollowerState>,
    stream: Task<()>,
    writer: Option<JoinHandle<()>>,
}

impl ReplicaFollower {
    /// Opens the replica, or creates it, and follows the master. An existing replica is served at
    /// once, also if it cannot be written now: each full sync of the master tries that again.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If another process follows the master into it, or the directory cannot be written to and
    /// has no synchronised replica.
    pub fn follow(upstream: &Arc<Upstream>, options: &ReplicaSettings) -> Result<Self, Error> {
        let (writer, list, unwritten) = match ReplicaWriter::open_or_begin_anew(&options.directory)
        {
            Ok((writer, anew)) => {
                if let Some(why) = anew {
                    tracing::warn!("the replica begins anew: {why}");
                }
                let list = writer.list();
                (Some(writer), list, None)
            }
            // Two daemons by mistake: one has to end, or the mistake would stay hidden.
            Err(why @ Error::InUse(_)) => return Err(why),
            Err(why) => match ReplicaList::open(&options.directory) {
                Ok(list) if list.about().is_ok_and(|(about, _)| about.synchronised.is_some()) => {
                    let why = writer::cannot_write(&why);
                    tracing::error!("{why}; serving the existing replica read-only");
                    (None, list, Some(why))
                }
                _ => return Err(why),
            },
        };
        let (about, names) = list.about()?;
        let clock = upstream.clock();
        // Wall clock time at which the monotonic clock began.
        let epoch = SystemTime::now().checked_sub(clock.now()).unwrap_or(SystemTime::UNIX_EPOCH);
        let state = FollowerState::new(clock, ReplicaState::new(about, names, epoch));
        let state = Arc::new(state.limited(options.max_age, options.max_names));
        if let Some(why) = unwritten {
            state.set_disk_failure(why);
        }
        let (inputs, received) = mpsc::channel(MAX_QUEUED);
        let writer = writer::WriterThread {
            state: Arc::clone(&state),
            dir: options.directory.clone(),
            writer,
            accept_after: options.accept_after,
            inputs: received,
        };
        let thread = std::thread::Builder::new().name("replica".to_owned());
        let writer = thread.spawn(move || writer.run()).map_err(|source| {
            let path = options.directory.clone();
            Error::Io { path, source }
        })?;
        let stream = stream::run(Arc::clone(upstream), Arc::clone(&state), inputs);
        let stream = tokio::spawn(stream);
        Ok(Self { list, state, stream, writer: Some(writer) })
    }

    /// The records, for lookups.
    pub fn list(&self) -> &ReplicaList {
        &self.list
    }

    /// Whether they may be believed, for lookups.
    pub fn trust(&self) -> Arc<dyn SourceTrust> {
        Arc::clone(&self.state) as Arc<dyn SourceTrust>
    }

    /// Whether a name that the master does not have may be in the middle of a rename: the stream
    /// has reported its deletion recently, or not yet.
    pub fn deleted_lately(&self, name: &MailboxName) -> bool {
        !matches!(self.list.lookup(name), Lookup::Absent) || self.state.recently_deleted(name)
    }

    /// State of the stream beside a connection for FINDs that was made at `asker_up`.
    pub(super) fn followed(&self, asker_up: Option<Duration>) -> Followed<ReplicaDoubt> {
        Followed { server: self.link().server, doubt: self.state.doubts_absent(asker_up) }
    }

    /// Waits for a barrier that is requested after this call.
    ///
    /// # Errors
    ///
    /// If none was answered in time.
    pub async fn caught_up(&self) -> Result<(), Doubt> {
        self.state.caught_up().await
    }

    /// State of the replica.
    #[cfg(test)]
    pub fn status(&self) -> crate::replica::ReplicaStatus {
        self.state.status()
    }

    /// State of the connection.
    pub fn link(&self) -> LinkStatus {
        self.state.link_status()
    }

    /// Stops following and closes the replica, so that it can be opened again. Waits for a commit
    /// that is under way.
    pub async fn stop(mut self) {
        self.stream.abort();
        // The writer ends when the stream's end of the channel is dropped, which happens with the task.
        // A panic of either has been reported by its hook.
        let _ = (&mut self.stream).await;
        if let Some(writer) = self.writer.take() {
            let _ = spawn_blocking(|| writer.join()).await;
        }
    }
}

impl Drop for ReplicaFollower {
    fn drop(&mut self) {
        self.stream.abort();
    }
}
