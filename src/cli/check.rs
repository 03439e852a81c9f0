//! `murder-route check`: explains the configuration and warns of its consequences.

use clap::Args;

use super::services::need;
use super::{Common, Exit};
use crate::config::Settings;
use crate::doctor::probe::configuration::{CheckFailure, CheckReport, MasterAnswer};
use crate::master::{Upstream, Visit};

/// Explain the configuration and warn of its consequences.
///
/// Run it as the user of the daemon, which may have fewer rights than you.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 the configuration can be used, with or without warnings; \
                        64 usage, 77 the MUPDATE server refuses the login, 78 configuration, or no \
                        domains.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    common: Common,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let settings = Settings::load(&self.common.overrides(&[])).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Config
        })?;
        let report = CheckReport::new(&settings, &|| ask_master(&settings));
        super::print(&report)?;
        match report.failure {
            None => Ok(()),
            Some(CheckFailure::Configuration) => Err(Exit::Config),
            Some(CheckFailure::Login) => Err(Exit::NoPermission),
        }
    }
}

/// Asks the MUPDATE server once, over a connection of its own.
fn ask_master(settings: &Settings) -> Option<Result<MasterAnswer, String>> {
    let upstream = match Upstream::new(settings.mupdate.as_ref()?) {
        Ok(upstream) => upstream,
        Err(why) => return Some(Err(why)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let visit = Visit::new(upstream, need(settings));
        let answer = MasterAnswer::by(&visit).await;
        visit.end().await;
        answer.map(Ok)
    })
}
