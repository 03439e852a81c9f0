//! `murder-route replica`: what a postmaster decides about the replica.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Exit;
use crate::config::{self, Overrides};
use crate::mailbox_list::replica::{Accepted, accept};
use crate::replica::utc;

/// Decide about the replica of the master's list.
#[derive(Debug, Args)]
pub(super) struct Replica {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
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

impl Replica {
    pub(super) fn run(self) -> Result<(), Exit> {
        let What::Accept(Accept { config, replica }) = self.what;
        let given = Overrides { config, replica, ..Overrides::default() };
        let glance = config::glance(&given).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Config
        })?;
        let accepted = accept(&glance.replica).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Temporary
        })?;
        let Accepted { held_back, missing } = accepted;
        if held_back.is_none() && missing == 0 {
            let directory = glance.replica.display();
            complain!("murder-route: {directory}: nothing is held back, and no name is missing");
            return Err(Exit::No);
        }
        if missing > 0 {
            super::say(&format_args!(
                "accepted: {missing} names that vanished from the master's list are unknown from now on\n"
            ))?;
        }
        let Some(held_back) = held_back else { return Ok(()) };
        super::say(&format_args!(
            "accepted: since {} the master's list lacks {} of {} names. The daemon takes its next \
             full list over, and asks for it at once if it is connected; from then on those names \
             are unknown.\n",
            utc(held_back.since),
            held_back.lost,
            held_back.had
        ))
    }
}
