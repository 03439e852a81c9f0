//! What stands behind the sources: who follows the master, and who is asked for names.

use std::sync::Arc;

use tracing::warn;

use super::Exit;
use crate::config::{Mupdate, ReplicaSettings, Settings, SourceName};
use crate::master::client::Master;
use crate::master::{MasterClient, Upstream};
use crate::mupdate::Need;
use crate::replica::ReplicaSource;
use crate::replica::read::offline::OfflineReplica;

/// What a resolver leans on, by the settings it was made for.
#[derive(Clone)]
pub(super) struct Services {
    mupdate: Option<Mupdate>,
    need: Need,
    /// Set if the replica is one of the sources.
    kept: Option<ReplicaSettings>,
    pub(super) replica: Option<ReplicaSource>,
    pub(super) master: Option<Arc<dyn Master>>,
}

impl Services {
    /// What the daemon needs for these settings: it follows the master. Called within its runtime.
    ///
    /// What is there stays if nothing of it has changed, so that a reload costs no connection and no
    /// full list. It also stays if the replica stays where it is: only one can follow into it.
    ///
    /// An error is the configuration's, if a file for TLS cannot be used, else the system's.
    pub(super) fn of_daemon(
        settings: &Settings,
        before: Option<&Self>,
    ) -> Result<Self, (Exit, String)> {
        let (mupdate, need, kept) = wanted(settings);
        if let Some(before) = before {
            if (&before.mupdate, before.need, &before.kept) == (&mupdate, need, &kept) {
                return Ok(before.clone());
            }
            if let (Some(old), Some(new)) = (&before.kept, &kept)
                && old.directory == new.directory
            {
                warn!("changes in [mupdate] and [replica] count from the next start on");
                return Ok(before.clone());
            }
        }
        let mut behind = Self { mupdate, need, kept, replica: None, master: None };
        let Some(mupdate) = &behind.mupdate else { return Ok(behind) };
        let upstream = Upstream::new(mupdate).map_err(|why| (Exit::Config, why))?;
        behind.master = Some(match &behind.kept {
            Some(kept) => {
                let murder = MasterClient::to_follow(upstream, kept);
                let murder = murder
                    .map_err(|e| (Exit::System, format!("the replica cannot be kept: {e}")))?;
                behind.replica = murder.replica().map(|replica| ReplicaSource {
                    list: Arc::new(replica.list().clone()),
                    trust: replica.trust(),
                });
                Arc::new(murder)
            }
            None => Arc::new(MasterClient::to_ask(upstream, need)),
        });
        Ok(behind)
    }

    /// What a command needs that is over in a moment: it follows nobody, but asks as the daemon does.
    /// Called within a runtime, which need run only while an answer is waited for.
    pub(super) fn of_command(settings: &Settings) -> Result<Self, (Exit, String)> {
        let (mupdate, need, kept) = wanted(settings);
        let upstream = mupdate.as_ref().map(Upstream::new).transpose();
        let upstream = upstream.map_err(|why| (Exit::Config, why))?;
        let master = upstream.map(|upstream| Arc::new(MasterClient::to_ask(upstream, need)) as _);
        let replica = stored(settings).map_err(|why| (Exit::System, why))?;
        Ok(Self { mupdate, need, replica, kept, master })
    }
}

/// The replica, as far as it can be believed by who does not follow the master.
pub(super) fn stored(settings: &Settings) -> Result<Option<ReplicaSource>, String> {
    let (_, _, Some(ReplicaSettings { directory, max_age, .. })) = wanted(settings) else {
        return Ok(None);
    };
    let opened = OfflineReplica::open(&directory, max_age);
    opened.map(Some).map_err(|e| format!("{}: {e}", directory.display()))
}

fn wanted(settings: &Settings) -> (Option<Mupdate>, Need, Option<ReplicaSettings>) {
    let replica = settings.sources.contains(&SourceName::Replica);
    let kept = replica.then(|| settings.replica.clone());
    (settings.mupdate.clone(), need(settings), kept)
}

/// A slave tells of a mailbox as the master does, which is enough where there is no list. Its
/// "absent" proves nothing.
pub(super) fn need(settings: &Settings) -> Need {
    let has = |source| settings.sources.contains(&source);
    match has(SourceName::Find) && !has(SourceName::Replica) {
        true => Need::Any,
        false => Need::Master,
    }
}
