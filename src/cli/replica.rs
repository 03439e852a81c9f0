//! `murder-route replica`: what a postmaster decides about the replica.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Exit;
use crate::config::{self, Overrides};
use crate::lists::mailboxes_db::mark_file;
use crate::replica::store::{Accepted, accept};
use crate::replica::utc;

/// Decide about the replica of the master's list.
#[derive(Debug, Args)]
pub(super) struct ReplicaCommand {
    #[command(subcommand)]
    action: ReplicaAction,
}

#[derive(Debug, Subcommand)]
enum ReplicaAction {
    /// Say that the master really has lost the names that are held back or missing
    #[command(
        after_help = "Exit status: 0, 1 nothing is held back or missing, 75 the replica cannot be \
                            read or written, 64 usage, 78 configuration."
    )]
    Accept(Accept),
}

#[derive(Debug, Args)]
struct Accept {
    /// The configuration file [default: /etc/murder-route.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory of the replica [default: that of the configuration, else
    /// /var/lib/murder-route]
    #[arg(long, value_name = "DIR")]
    replica: Option<PathBuf>,
}

impl ReplicaCommand {
    pub(super) fn run(self) -> Result<(), Exit> {
        let ReplicaAction::Accept(Accept { config, replica }) = self.action;
        let given = Overrides { config, replica, ..Overrides::default() };
        let glance = config::glance(&given).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Config
        })?;
        let lists = mark_file::accept(&glance.state).map_err(|e| {
            complain!("murder-route: {}: {e}", glance.state.display());
            Exit::Temporary
        })?;
        if lists > 0 {
            super::print(&format_args!(
                "accepted: what the mailbox list of this host has lost. The daemon believes the list \
                 within some seconds.\n"
            ))?;
        }
        let Accepted { held_back, missing } = match accept(&glance.replica) {
            // A host with a list of its own need not have a replica.
            Err(_) if lists > 0 && !glance.replica.join("data.mdb").exists() => return Ok(()),
            accepted => accepted.map_err(|e| {
                complain!("murder-route: {e}");
                Exit::Temporary
            })?,
        };
        if held_back.is_none() && missing == 0 {
            if lists > 0 {
                return Ok(());
            }
            let directory = glance.replica.display();
            complain!("murder-route: {directory}: nothing is held back, and no name is missing");
            return Err(Exit::No);
        }
        if missing > 0 {
            super::print(&format_args!(
                "accepted: {missing} names that vanished from the master's list are unknown from now on\n"
            ))?;
        }
        let Some(held_back) = held_back else { return Ok(()) };
        super::print(&format_args!(
            "accepted: since {} the master's list lacks {} of {} names. The daemon takes its next \
             full list over, and asks for it at once if it is connected; from then on those names \
             are unknown.\n",
            utc(held_back.since),
            held_back.lost,
            held_back.had
        ))
    }
}
