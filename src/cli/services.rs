//! The services behind the sources: the replica, and the client of the master.

use std::sync::Arc;

use tracing::warn;

use super::Exit;
use crate::config::{Mupdate, ReplicaSettings, Settings, SourceName};
use crate::master::client::Master;
use crate::master::{MasterClient, Upstream};
use crate::mupdate::Need;
use crate::replica::ReplicaSource;
use crate::replica::read::offline::OfflineReplica;

/// Services of a resolver, with the settings that they were made for.
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
    /// Services of the daemon, which follows the master. Must be called within its runtime.
    ///
    /// Services whose settings have not changed are kept, so that a reload costs no connection and no
    /// full sync. They are also kept if the directory of the replica stays: only one can follow into it.
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
                warn!("changes in [mupdate] and [replica] take effect at the next start");
                return Ok(before.clone());
            }
        }
        let mut services = Self { mupdate, need, kept, replica: None, master: None };
        let Some(mupdate) = &services.mupdate else { return Ok(services) };
        let upstream = Upstream::new(mupdate).map_err(|why| (Exit::Config, why))?;
        services.master = Some(match &services.kept {
            Some(kept) => {
                let murder = MasterClient::to_follow(upstream, kept);
                let murder = murder
                    .map_err(|e| (Exit::System, format!("the replica cannot be kept: {e}")))?;
                services.replica = murder.replica().map(|replica| ReplicaSource {
                    list: Arc::new(replica.list().clone()),
                    trust: replica.trust(),
                });
                Arc::new(murder)
            }
            None => Arc::new(MasterClient::to_ask(upstream, need)),
        });
        Ok(services)
    }

    /// Services of a short command, which does not follow the master, but asks as the daemon does. Must be
    /// called within a runtime, which need run only while an answer is waited for.
    pub(super) fn of_command(settings: &Settings) -> Result<Self, (Exit, String)> {
        let (mupdate, need, kept) = wanted(settings);
        let upstream = mupdate.as_ref().map(Upstream::new).transpose();
        let upstream = upstream.map_err(|why| (Exit::Config, why))?;
        let master = upstream.map(|upstream| Arc::new(MasterClient::to_ask(upstream, need)) as _);
        let replica = stored(settings).map_err(|why| (Exit::System, why))?;
        Ok(Self { mupdate, need, replica, kept, master })
    }
}

/// The replica, for a process that does not follow the master.
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

/// Kind of server to ask. A slave has the same records as the master, which is enough where there is no
/// list. Its "absent" proves nothing.
pub(super) fn need(settings: &Settings) -> Need {
    let has = |source| settings.sources.contains(&source);
    match has(SourceName::Find) && !has(SourceName::Replica) {
        true => Need::Any,
        false => Need::Master,
    }
}
