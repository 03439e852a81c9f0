//! What a command that is over in a moment answers from: the same sources as the daemon's.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::Exit;
use crate::config::{Mupdate, ReplicaSettings, Settings, SourceName};
use crate::confirm::{Findings, Said};
use crate::mailbox::MailboxName;
use crate::mailbox_list::lists::Replicated;
use crate::mailbox_list::stored::Stored;
use crate::master::Master;
use crate::resolver::Resolver;
use crate::router::{Explain, Route};
use crate::server::confirmer::Confirmer;

/// A resolver, and who is asked for a name, with a runtime to ask in.
pub(super) struct Sources {
    pub(super) resolver: Resolver,
    confirmer: Confirmer,
    runtime: Runtime,
}

impl Sources {
    pub(super) fn open(settings: Settings) -> Result<Self, Exit> {
        let cannot = |e: &dyn std::fmt::Display| {
            eprintln!("murder-route: {e}");
            Exit::System
        };
        let mut building = tokio::runtime::Builder::new_current_thread();
        let runtime = building.enable_all().build().map_err(|e| cannot(&e))?;
        let _inside = runtime.enter();
        let master = settings.mupdate.clone().and_then(master);
        let replica = replica(&settings)?;
        let resolver = Resolver::new(settings, replica);
        let confirmer = Confirmer::new(&resolver, master);
        drop(_inside);
        Ok(Self { resolver, confirmer, runtime })
    }

    /// Decides, and waits as long as it takes: some seconds at worst.
    pub(super) fn route(&self, recipient: &[u8], explain: Explain<'_>) -> Route {
        let findings = self.resolver.nothing_found(self.confirmer.key_generation());
        self.resolver
            .route(recipient, explain, findings, &mut |name, findings| self.ask(name, findings))
    }

    fn ask(&self, name: &MailboxName, findings: &mut Findings) -> Said {
        let said = self.runtime.block_on(self.confirmer.ask(name));
        findings.learn_generation(self.confirmer.key_generation());
        said
    }
}

/// Who is asked for a name. Called within a runtime that runs only while an answer is waited for.
fn master(_mupdate: Mupdate) -> Option<Arc<dyn Master>> {
    None
}

/// The replica, as far as it can be believed by who does not follow the master.
pub(super) fn replica(settings: &Settings) -> Result<Option<Replicated>, Exit> {
    if !settings.sources.contains(&SourceName::Replica) {
        return Ok(None);
    }
    let ReplicaSettings { directory, max_age, .. } = &settings.replica;
    Stored::open(directory, *max_age).map(Some).map_err(|e| {
        eprintln!("murder-route: {}: {e}", directory.display());
        Exit::System
    })
}
