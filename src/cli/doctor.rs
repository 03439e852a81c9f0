//! `murder-route doctor`: tests a deployment from end to end, and changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use nix::unistd::User;
use tokio::runtime::Builder;

use super::services::{need, stored};
use super::{Common, Exit};
use crate::config::Settings;
use crate::doctor::judge::{Severity, one_line};
use crate::doctor::probe::socket::SocketQuery;
use crate::doctor::probe::{ExaminationOptions, examine};
use crate::master::{Upstream, Visit};
use crate::wire::endpoint::Endpoint;
use crate::wire::protocol::Protocol;

/// Test a deployment from end to end and report what to correct.
///
/// Checks the configuration, the sockets, Postfix' settings, every backend (up to RCPT TO, without a
/// message) and the master's list. It changes nothing. Run it as root on the mail server: only root
/// can try a socket as user postfix and in Postfix' chroot.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 no errors, with or without warnings; 1 errors; 75 no errors, but \
                        something could not be tested just now; 64 usage, 78 configuration."
)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    common: Common,
    /// The user as which the sockets are tried [default: mail_owner of Postfix]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The directory of Postfix' main.cf, if not the usual one
    #[arg(long, value_name = "DIR")]
    postfix_config: Option<PathBuf>,
    /// Ask the backend of this recipient whether it accepts messages for it
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Option<String>,
    /// Connect to this server of the list only; may be given again
    #[arg(long = "backend", value_name = "SERVER")]
    backends: Vec<String>,
    /// Do not compare the list with the master's
    #[arg(long)]
    no_master: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let settings = Settings::load(&self.common.overrides(&[])).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Config
        })?;
        if let Some(name) = &self.user
            && !User::from_name(name).is_ok_and(|user| user.is_some())
        {
            complain!("murder-route: there is no user {}", one_line(name));
            return Err(Exit::Usage);
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| {
            complain!("murder-route: {e}");
            Exit::System
        })?;
        let upstream = settings.mupdate.as_ref().map(Upstream::new).transpose();
        let visit =
            upstream.map(|upstream| upstream.map(|up| Arc::new(Visit::new(up, need(&settings)))));
        let replica = stored(&settings);
        let options = ExaminationOptions {
            config: self.common.config,
            user: self.user,
            postfix_config: self.postfix_config,
            recipient: self.recipient,
            backends: self.backends,
            no_master: self.no_master,
        };
        let report = examine(&options, &runtime, settings, visit, replica);
        match self.json {
            true => super::print(&format_args!("{}\n", report.to_json()))?,
            false => super::print(&report)?,
        }
        match report.worst() {
            Severity::Error => Err(Exit::No),
            Severity::Untested => Err(Exit::Temporary),
            Severity::Ok | Severity::Skipped | Severity::Warning => Ok(()),
        }
    }
}

/// Asks at a socket and prints the outcome of each request, as a list in JSON.
#[derive(Debug, Args)]
pub(super) struct DoctorSocketArgs {
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    chroot: Option<PathBuf>,
    #[arg(long)]
    protocol: Protocol,
    /// The map to ask for the recipients
    #[arg(long)]
    map: Option<String>,
    /// Ask for this recipient instead of the status; may be given again
    #[arg(long = "recipient")]
    recipients: Vec<String>,
    endpoint: Endpoint,
}

impl DoctorSocketArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let Self { user, chroot, protocol, map, recipients, endpoint } = self;
        let query = SocketQuery { user, chroot, protocol, map, recipients, endpoint };
        super::print(&serde_json::to_string(&query.run()).unwrap_or_default())
    }
}
