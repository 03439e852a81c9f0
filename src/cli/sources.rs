//! Sources of a short command: equal to the daemon's.

use tokio::runtime::{Builder, Runtime};

use super::Exit;
use super::services::Services;
use crate::config::Settings;
use crate::master::confirmer::Confirmer;
use crate::resolver::Resolver;
use crate::routing::inquiry::{Ask, Inquiry};
use crate::routing::maps::is_in_any_case;
use crate::routing::route::Route;
use crate::routing::router::Explain;

/// A resolver and the authority that confirms names, with a runtime.
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

    /// Decides for this map, without limiting confirmations: takes some seconds at most.
    pub(super) fn route(&self, map: &str, recipient: &[u8], explain: Explain<'_>) -> Route {
        let evidence = self.resolver.evidence(self.confirmer.key_generation()).ask_again();
        let evidence = if is_in_any_case(map) { evidence.folded() } else { evidence };
        let mut confirm = |ask: &Ask| {
            let said = self.runtime.block_on(self.confirmer.confirm(ask));
            (said, self.confirmer.key_generation())
        };
        self.resolver.route(
            Inquiry::new(recipient, &evidence).without_time_limit(),
            explain,
            &mut confirm,
        )
    }
}
