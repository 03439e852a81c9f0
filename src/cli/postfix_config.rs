//! `murder-route postfix-config`: prints the fragments of Postfix' configuration files.

#[cfg(feature = "daemon")]
pub(crate) mod text;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};

use super::Exit;
use crate::cli::postfix_config::text::{
    Chroot, Fragments, Misfit, PostfixHost, PostfixOptions, Site, VerifyMethod,
};
use crate::config::{self, Overrides, Settings};
use crate::routing::maps::UnknownPolicy;

/// Print the settings with which Postfix uses murder-route, for this host and configuration.
///
/// Nothing is changed. It runs `postconf`, if installed.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 printed, 64 usage or options that exclude each other, 78 configuration."
)]
pub(super) struct PostfixConfigArgs {
    /// The configuration file [default: /etc/murder-route.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A domain to accept mail for; may be given again [default: those of the configuration]
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<String>,
    /// How unknown recipients are refused
    #[arg(long, value_enum, default_value = "recipients")]
    verify: VerifyMethod,
    /// How a chrooted Postfix reaches murder-route [default: as needed, from postconf]
    #[arg(long, value_enum)]
    chroot: Option<Chroot>,
    /// Log in at the backends, for lmtpd without -a
    #[arg(long)]
    sasl: bool,
    /// Require TLS of the backends, with a certificate for their name
    #[arg(long)]
    tls: bool,
    /// The trusted CA certificates for --tls, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca_file: Option<PathBuf>,
    /// Print the fragment for this file only [default: all]
    #[arg(value_enum, value_name = "FILE")]
    piece: Option<Piece>,
}

/// The transport of `transport:nexthop`.
fn transport_of(fallback: &str) -> String {
    fallback.split(':').next().unwrap_or_default().to_owned()
}

/// A file with a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Piece {
    /// For main.cf
    #[value(name = "main.cf")]
    MainCf,
    /// For master.cf
    #[value(name = "master.cf")]
    MasterCf,
    /// The file murder-route-status
    #[value(name = "murder-route-status")]
    Status,
    /// The file murder-route-canonical
    #[value(name = "murder-route-canonical")]
    Canonical,
    /// Arguments of `postconf -P`, for every smtpd
    #[value(name = "smtpd")]
    Smtpd,
    /// For murder-route.toml
    #[value(name = "murder-route.toml")]
    Toml,
}

impl PostfixConfigArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let given = Overrides {
            config: self.config.clone(),
            domains: self.domains.clone(),
            ..Overrides::default()
        };
        let glance = config::glance(&given).map_err(|e| {
            complain!("murder-route: {e}");
            Exit::Config
        })?;
        if glance.unknown == Some(UnknownPolicy::NotFound)
            && self.verify != VerifyMethod::Recipients
        {
            complain!(
                "murder-route: warning: with `unknown = \"notfound\"` no recipient is refused, and messages for unknown recipients go \
                 where Postfix sends relay_domains; use --verify recipients"
            );
        }
        let site = Site {
            domains: glance.domains,
            transports: glance.transports,
            fallback: glance.fallback.as_deref().map(transport_of),
            listeners: glance.listeners,
            lower_case_stays: self.lower_case_stays(given),
        };
        self.warn_of_fallback(&site);
        let wanted = PostfixOptions {
            verify: self.verify,
            chroot: self.chroot,
            sasl: self.sasl,
            tls: self.tls,
        };
        let plan = Fragments::new(&site, self.host(), wanted);
        let plan = plan.and_then(|plan| match &self.ca_file {
            Some(file) => plan.with_ca_file(file),
            None => Ok(plan),
        });
        let plan = plan.map_err(|e| {
            complain!("murder-route: {e}");
            match e {
                Misfit::NotByProxy(_) => Exit::Usage,
                _ => Exit::Config,
            }
        })?;
        let pieces = [
            (Piece::Toml, plan.toml().unwrap_or_default()),
            (Piece::MainCf, plan.main_cf()),
            (Piece::MasterCf, plan.master_cf()),
            (Piece::Status, plan.status_filter()),
            (Piece::Canonical, plan.canonical_filter().unwrap_or_default()),
            (Piece::Smtpd, plan.smtpd()),
        ];
        // Not a file; the fragment of master.cf explains its use.
        let is_meant = |piece| match self.piece {
            Some(one) => one == piece,
            None => piece != Piece::Smtpd,
        };
        let pieces: Vec<String> = pieces
            .into_iter()
            .filter(|(piece, text)| is_meant(*piece) && !text.is_empty())
            .map(|(_, text)| text)
            .collect();
        super::print(&pieces.join("\n"))
    }

    /// Warns of a fallback that shares its transport with other mail: it cannot refuse recipients, or
    /// is not reached.
    fn warn_of_fallback(&self, site: &Site) {
        let Some(transport) = &site.fallback else { return };
        if transport == "lmtp" || site.transports.iter().any(|of| **of == **transport) {
            complain!(
                "murder-route: warning: `fallback` uses the transport `{transport}`, which is \
                 chrooted, or whose refusals are made temporary: unknown recipients are accepted, \
                 wait and bounce; write fallback = \"fallback:…\""
            );
        }
        if self.verify == VerifyMethod::Transport {
            complain!(
                "murder-route: warning: with `fallback` transport_maps refuses no recipient; do not use --verify transport"
            );
        }
    }

    /// Whether plain addresses in lower case are canonical by imapd.conf. If it cannot be read, Postfix
    /// asks more often than necessary.
    fn lower_case_stays(&self, given: Overrides) -> bool {
        match Settings::load(&Overrides { without_login: true, ..given }) {
            Ok(settings) => settings.router.respelled_domain().is_none(),
            Err(why) => {
                if matches!(self.piece, None | Some(Piece::MainCf | Piece::Canonical)) {
                    complain!(
                        "murder-route: warning: {why}; Postfix will ask for the canonical form of all recipients"
                    );
                }
                false
            }
        }
    }

    /// The Postfix of this host.
    fn host(&self) -> PostfixHost {
        let services = postconf(&["-M"]);
        let settings = postconf(&["queue_directory", "config_directory", "compatibility_level"]);
        match services.and_then(|services| Ok(PostfixHost::read(&services, &settings?))) {
            Ok(host) => host,
            Err(why) => {
                if self.chroot.is_none() {
                    complain!(
                        "murder-route: warning: {why}; assuming a Postfix without a chroot; use --chroot to override"
                    );
                }
                PostfixHost::default()
            }
        }
    }
}

fn postconf(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("postconf")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run postconf: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("postconf failed: {}", output.status)),
    }
}
