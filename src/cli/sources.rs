//! What a command that is over in a moment answers from: the same sources as the daemon's.

use tokio::runtime::{Builder, Runtime};

use super::Exit;
use super::services::Services;
use crate::config::Settings;
use crate::master::confirmer::Confirmer;
use crate::model::name::MailboxName;
use crate::resolver::Resolver;
use crate::routing::confirm::Evidence;
use crate::routing::maps::is_in_any_case;
use crate::routing::router::{Explain, Route};

/// A resolver, and who is asked for a name, with a runtime to ask in.
pub(super) struct Sources {
    pub(super) resolver: Resolver,
    confirmer: Confirmer,
    runtime: Runtime,
}

impl Sources {
    pub(super) fn open(settings: Settings) -> Result<Self, Exit> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| {
            complain!("murder-route: {e}");
            Exit::System
        })?;
        let (resolver, confirmer) = {
            let _inside = runtime.enter();
            let behind = Services::of_command(&settings).map_err(|(exit, why)| {
                complain!("murder-route: {why}");
                exit
            })?;
            let resolver = Resolver::new(settings, behind.replica);
            let confirmer = Confirmer::without_pause(&resolver, behind.master);
            (resolver, confirmer)
        };
        Ok(Self { resolver, confirmer, runtime })
    }

    /// Decides for this map, and waits as long as it takes: some seconds at worst.
    pub(super) fn route(&self, map: &str, recipient: &[u8], explain: Explain<'_>) -> Route {
        let folded = is_in_any_case(map);
        let findings = self.resolver.nothing_found(self.confirmer.key_generation()).ask_again();
        let findings = if folded { findings.folded() } else { findings };
        let mut ask = |name: &MailboxName, findings: &mut Evidence| {
            let said = self.runtime.block_on(self.confirmer.ask_or_walk(name, folded));
            findings.learn_generation(self.confirmer.key_generation());
            said
        };
        self.resolver.route(recipient, explain, findings, &mut ask)
    }
}
