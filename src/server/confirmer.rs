//! Asks whoever can confirm that there is no such mailbox.

use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::barrier::Barrier;
use crate::confirm::Said;
use crate::mailbox::{KeyGeneration, MailboxName};
use crate::mailbox_list::kick::kick;
use crate::master::{Impossible, Master};
use crate::mupdate::Finding;
use crate::resolver::{KICK_PATIENCE, Proof, Resolver};

/// Between the two questions for a name that was deleted a moment ago. A rename is two messages of
/// the master, which follow each other within milliseconds as a rule.
const RENAME_GAP: Duration = Duration::from_secs(1);

/// Confirms names for one resolver. Shared by tasks.
pub struct Confirmer {
    master: Option<Arc<dyn Master>>,
    ask_master: bool,
    slave: Option<Barrier>,
    /// Names are also sought by likeness, on a walk over the lists.
    walks: bool,
    impossible: Once,
}

impl Confirmer {
    /// Confirms what this resolver wants confirmed. `master` is who is asked for names; without one
    /// nobody is unknown where the master would have to be asked. Must be called within a tokio
    /// runtime.
    pub fn new(resolver: &Resolver, master: Option<Arc<dyn Master>>) -> Self {
        let (ask_master, socket) = match &resolver.proof {
            Proof::List => (false, None),
            Proof::Slave(socket) => (false, Some(socket)),
            Proof::Master { slave } => (true, slave.as_ref()),
        };
        let slave = socket.cloned().map(|at| Barrier::new(move || kick(&at, KICK_PATIENCE)));
        let walks = resolver.router.rules.fuzzy;
        Self { master, ask_master, slave, walks, impossible: Once::new() }
    }

    /// What names the master keeps, if he was heard.
    pub fn key_generation(&self) -> Option<KeyGeneration> {
        self.master.as_ref().and_then(|master| master.key_generation())
    }

    /// Asks for a name: the master, or the local slave where there is no asking the master.
    pub async fn ask(&self, name: &MailboxName) -> Said {
        if self.ask_master {
            match self.find(name).await {
                Ok(finding) => return Said::Master(finding),
                Err(Impossible(why)) if self.slave.is_none() => {
                    return Said::Master(Finding::Unsure(why));
                }
                Err(why) => self.impossible.call_once(|| {
                    warn!(
                        "the MUPDATE master cannot be asked who is unknown, so it is what the \
                         MUPDATE slave of this host says: {why}"
                    );
                }),
            }
        }
        self.caught_up().await
    }

    async fn find(&self, name: &MailboxName) -> Result<Finding, Impossible> {
        let Some(master) = &self.master else {
            return Ok(Finding::Unsure("there is no connection to the MUPDATE master".into()));
        };
        let mut finding = master.find(name).await?;
        if finding == Finding::Absent && master.deleted_lately(name) {
            sleep(RENAME_GAP).await;
            finding = master.find(name).await?;
        }
        if finding == Finding::Absent && self.walks {
            // The master can tell of the name, but of no other one that is like it.
            if let Err(why) = master.caught_up().await {
                finding = Finding::Unsure(why);
            } else if let Some(slave) = &self.slave
                && let Err(why) = slave.wait().await
            {
                finding = Finding::Unsure(why.to_string());
            }
        }
        Ok(finding)
    }

    async fn caught_up(&self) -> Said {
        Said::Lists(match &self.slave {
            Some(slave) => slave.wait().await,
            None => Err("there is nobody to ask".into()),
        })
    }
}
