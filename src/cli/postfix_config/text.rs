//! The fragments of Postfix' configuration files, for a host and a configuration.
//!
//! The files in `postfix/` are the templates. They have the values of an example, for postmasters to
//! read; a [`Fragments`] inserts those of the host. In them `# --option:` begins a part for this option
//! only; its settings are commented out, without a space after the `#`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::config::DEFAULT_SOCKET;
use crate::model::domains::Domains;
use crate::wire::endpoint::{Endpoint, Listen};
use crate::wire::protocol::{Protocol, Protocols};

const MAIN_CF: &str = include_str!("../../../postfix/main.cf");
const MASTER_CF: &str = include_str!("../../../postfix/master.cf");
const STATUS: &str = include_str!("../../../postfix/murder-route-status");
const CANONICAL: &str = include_str!("../../../postfix/murder-route-canonical");
const TOML: &str = include_str!("../../../postfix/murder-route.toml");

/// The values of the example in the templates.
const DOMAIN: &str = "example.org";
const SOCKET: &str = "unix:/run/murder-route";
const TRANSPORT: &str = "murder";
const CONFIG_DIRECTORY: &str = "/etc/postfix/";
const QUEUE_DIRECTORY: &str = "/var/spool/postfix/";
const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The wrapper around the map `canonical` that avoids lookups.
const ASKED_LESS: [&str; 2] =
    ["pipemap:{regexp:/etc/postfix/murder-route-canonical,\n    ", ":canonical}"];

/// Postfix' own service of lmtp(8), which other mail may use too. Every other transport gets a service
/// of its own.
const LMTP: &str = "lmtp";

/// The service in the template for the site's `fallback`.
const FALLBACK: &str = "fallback";

/// The trivial-rewrite(8) for smtpd. smtpd caches its answers without a time limit (`smtpd_resolve.c`),
/// refusals included, so it must not use our maps.
const SMTPD_REWRITE: &str = "smtpd-rewrite";

/// A restriction of the template, repeated for each domain.
const PROBED: &str = "{example.org = reject_unverified_recipient}";

/// Path of the socket below the queue directory, if the configuration has none there.
const IN_QUEUE_DIRECTORY: &str = "murder-route/socket";

/// How Postfix refuses unknown recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum VerifyMethod {
    /// By relay_recipient_maps; new users are accepted at once
    Recipients,
    /// By the answers of transport_maps only, which smtpd caches
    Transport,
    /// By a policy service of smtpd
    Policy,
    /// By a milter
    Milter,
}

impl VerifyMethod {
    const fn as_str(self) -> &'static str {
        match self {
            VerifyMethod::Transport => "transport",
            VerifyMethod::Recipients => "recipients",
            VerifyMethod::Policy => "policy",
            VerifyMethod::Milter => "milter",
        }
    }

    /// proxymap serves tables only.
    const fn is_asked_by_smtpd(self) -> bool {
        matches!(self, VerifyMethod::Policy | VerifyMethod::Milter)
    }

    fn needs(self) -> &'static [Protocol] {
        match self {
            VerifyMethod::Transport | VerifyMethod::Recipients => &[Protocol::Socketmap],
            VerifyMethod::Policy => &[Protocol::Socketmap, Protocol::Policy],
            VerifyMethod::Milter => &[Protocol::Socketmap, Protocol::Milter],
        }
    }
}

/// How a chrooted Postfix reaches murder-route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Chroot {
    /// By a socket below its queue directory
    Socket,
    /// By its proxymap, which is not chrooted
    Proxy,
    /// It is not chrooted
    None,
}

/// The options of the command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PostfixOptions {
    /// How unknown recipients are refused.
    pub(crate) verify: VerifyMethod,
    /// The way out of the chroot. `None`: as the host needs.
    pub(crate) chroot: Option<Chroot>,
    /// Whether Postfix logs in at the backends.
    pub(crate) sasl: bool,
    /// Whether it requires TLS of them.
    pub(crate) tls: bool,
}

/// The relevant settings of murder-route.
#[derive(Debug)]
pub(crate) struct Site {
    /// The served domains.
    pub(crate) domains: Domains,
    /// The transports of the answers.
    pub(crate) transports: Vec<Box<str>>,
    /// The listeners. Empty: the default one.
    pub(crate) listeners: Vec<Listen>,
    /// The transport of `fallback`.
    pub(crate) fallback: Option<String>,
    /// Whether it is certain that plain addresses in lower case are canonical
    /// ([`crate::routing::router::Router::respelled_domain`]).
    pub(crate) lower_case_stays: bool,
}

/// The relevant settings of Postfix on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PostfixHost {
    /// Whether a process that uses our maps is chrooted.
    pub(crate) chroot: bool,
    /// `queue_directory`, the root directory of chrooted processes.
    pub(crate) queue_directory: PathBuf,
    /// `config_directory`
    pub(crate) config_directory: PathBuf,
    /// The services that run smtpd(8), each as in `smtp/inet`.
    pub(crate) smtpds: Vec<String>,
}

impl Default for PostfixHost {
    /// The defaults of Postfix.
    fn default() -> Self {
        Self {
            chroot: false,
            queue_directory: QUEUE_DIRECTORY.into(),
            config_directory: CONFIG_DIRECTORY.into(),
            smtpds: vec!["smtp/inet".into()],
        }
    }
}

impl PostfixHost {
    /// Parses the output of `postconf -M`, the services, and of `postconf queue_directory
    /// config_directory compatibility_level`.
    pub(crate) fn read(services: &str, settings: &str) -> Self {
        let setting = |name: &str| {
            settings.lines().find_map(|line| {
                let (this, value) = line.split_once('=')?;
                (this.trim() == name).then(|| value.trim())
            })
        };
        let path = |name, default: &str| {
            setting(name).filter(|path| path.starts_with('/')).unwrap_or(default).into()
        };
        // COMPATIBILITY_README: below level 1 a service is chrooted by default.
        let level = setting("compatibility_level").unwrap_or_default();
        let by_default = matches!(level.split('.').next(), Some("0"));
        let mut host = Self {
            chroot: false,
            queue_directory: path("queue_directory", QUEUE_DIRECTORY),
            config_directory: path("config_directory", CONFIG_DIRECTORY),
            smtpds: Vec::new(),
        };
        for line in services.lines().filter(|line| !line.starts_with(char::is_whitespace)) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [name, kind, _, _, chroot, _, _, program, ..] = fields[..] else { continue };
            if program == "smtpd" {
                host.smtpds.push(format!("{name}/{kind}"));
            }
            let chrooted = chroot == "y" || (chroot == "-" && by_default);
            host.chroot |= chrooted && matches!(program, "smtpd" | "cleanup" | "trivial-rewrite");
        }
        if host.smtpds.is_empty() {
            host.smtpds = Self::default().smtpds;
        }
        host
    }
}

/// Reason for missing fragments.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    /// There are no domains.
    #[error("no domains; set `domains` in murder-route.toml, or use --domain")]
    NoDomains,
    /// Postfix has no wildcard for domains.
    #[error("`domains` is `*`, but relay_domains needs names; give them with --domain")]
    EveryDomain,
    /// No listener has the required protocols.
    #[error("no [[listen]] of murder-route.toml {where_}speaks {protocols}, required by --verify {verify}", verify = .verify.as_str())]
    NoListener {
        /// ` below DIRECTORY`, or nothing.
        where_: String,
        /// The required protocols.
        protocols: Protocols,
        /// The method.
        verify: VerifyMethod,
    },
    /// proxymap serves tables only.
    #[error(
        "--verify {verify} cannot use proxymap, which serves tables only; use --chroot socket",
        verify = .0.as_str()
    )]
    NotByProxy(VerifyMethod),
    /// It is invalid in main.cf.
    #[error("{path}: invalid path for Postfix; use an absolute path without spaces, commas or `$`", path = .0.display())]
    OddPath(PathBuf),
}

/// The fragments for a host.
#[derive(Debug)]
pub(crate) struct Fragments {
    domains: String,
    transports: Vec<Box<str>>,
    fallback: Option<String>,
    /// As in `unix:murder-route/socket`.
    socket: String,
    /// Whether tables are queried through proxymap.
    proxied: bool,
    wanted: PostfixOptions,
    host: PostfixHost,
    lower_case_stays: bool,
    /// The CA certificates for `--tls`, if not those of the system.
    ca_file: Option<String>,
    /// Set if the daemon does not listen there yet: whether it has other listeners.
    missing: Option<bool>,
}

/// The listeners with the required protocols, by the chroot.
struct Reach<'a> {
    /// The first below the queue directory.
    inside: Option<&'a Path>,
    /// Whether there is one with other protocols.
    inside_is_deaf: bool,
    /// The first elsewhere.
    outside: Option<&'a Endpoint>,
}

impl<'a> Reach<'a> {
    fn new(listeners: &'a [Listen], host: &PostfixHost, verify: VerifyMethod) -> Self {
        let mut reach = Self { inside: None, inside_is_deaf: false, outside: None };
        for listen in listeners {
            let speaks = verify.needs().iter().all(|protocol| listen.protocols.contains(*protocol));
            match &listen.endpoint {
                Endpoint::Unix(path) if path.starts_with(&host.queue_directory) => {
                    reach.inside_is_deaf |= !speaks;
                    if speaks && reach.inside.is_none() {
                        reach.inside = Some(path);
                    }
                }
                endpoint if speaks && reach.outside.is_none() => reach.outside = Some(endpoint),
                _ => {}
            }
        }
        reach
    }

    /// A chroot does not affect TCP.
    fn by_inet(&self) -> bool {
        matches!(self.outside, Some(Endpoint::Inet { .. }))
    }

    fn suits(&self, host: &PostfixHost, verify: VerifyMethod) -> Chroot {
        match host.chroot {
            false => Chroot::None,
            true if self.inside.is_some() => Chroot::Socket,
            true if self.by_inet() => Chroot::None,
            true if verify.is_asked_by_smtpd() => Chroot::Socket,
            true => Chroot::Proxy,
        }
    }
}

impl Fragments {
    /// Chooses an endpoint that all processes can use.
    pub(crate) fn new(
        site: &Site,
        host: PostfixHost,
        wanted: PostfixOptions,
    ) -> Result<Self, Misfit> {
        if site.domains.is_every() {
            return Err(Misfit::EveryDomain);
        }
        if site.domains.is_empty() {
            return Err(Misfit::NoDomains);
        }
        plain(&host.config_directory)?;
        let verify = wanted.verify;
        let usual = [Listen::at(Endpoint::Unix(DEFAULT_SOCKET.into()))];
        let listeners = if site.listeners.is_empty() { &usual[..] } else { &site.listeners };
        let reach = Reach::new(listeners, &host, verify);
        let chroot = wanted.chroot.unwrap_or_else(|| reach.suits(&host, verify));
        let no_listener = |where_| Misfit::NoListener {
            where_,
            protocols: verify.needs().iter().copied().collect(),
            verify,
        };
        let (socket, missing) = match (chroot, reach.inside) {
            (Chroot::Socket, None) if reach.inside_is_deaf => {
                return Err(no_listener(format!("below {} ", host.queue_directory.display())));
            }
            (Chroot::Socket, Some(path)) => {
                let inner = path.strip_prefix(&host.queue_directory).unwrap_or(path);
                (format!("unix:{}", plain(inner)?), None)
            }
            (Chroot::Socket, None) => {
                (format!("unix:{IN_QUEUE_DIRECTORY}"), Some(!site.listeners.is_empty()))
            }
            (Chroot::Proxy, _) if verify.is_asked_by_smtpd() && !reach.by_inet() => {
                return Err(Misfit::NotByProxy(verify));
            }
            (Chroot::Proxy | Chroot::None, inside) => {
                let socket = match (reach.outside, inside) {
                    (Some(Endpoint::Unix(path)), _) => format!("unix:{}", plain(path)?),
                    (Some(inet @ Endpoint::Inet { .. }), _) => inet.to_string(),
                    // Only systemd knows its path; the shipped unit has this one.
                    (Some(Endpoint::Systemd(_)), _) => format!("unix:{DEFAULT_SOCKET}"),
                    (None, Some(path)) => format!("unix:{}", plain(path)?),
                    (None, None) => return Err(no_listener(String::new())),
                };
                (socket, None)
            }
        };
        let proxied = chroot == Chroot::Proxy && !reach.by_inet();
        Ok(Self {
            domains: site.domains.names().join(", "),
            transports: site.transports.clone(),
            fallback: site.fallback.clone(),
            socket,
            proxied,
            wanted,
            host,
            lower_case_stays: site.lower_case_stays,
            ca_file: None,
            missing,
        })
    }

    /// Uses the CA certificates of this file.
    pub(crate) fn with_ca_file(self, file: &Path) -> Result<Self, Misfit> {
        // lmtp(8) works in the queue directory.
        if !file.is_absolute() {
            return Err(Misfit::OddPath(file.to_owned()));
        }
        Ok(Self { ca_file: Some(plain(file)?.to_owned()), ..self })
    }

    /// For `main.cf`.
    pub(crate) fn main_cf(&self) -> String {
        let mut text = String::new();
        for line in self.chosen(MAIN_CF).lines() {
            match line.strip_prefix(TRANSPORT) {
                Some(limit) if limit.starts_with("_destination_") => {
                    for transport in &self.transports {
                        let _ = writeln!(text, "{transport}{limit}");
                    }
                }
                _ => {
                    let _ = writeln!(text, "{line}");
                }
            }
        }
        if self.transports.iter().any(|transport| &**transport == LMTP) {
            let _ = write!(text, "\n{}", self.for_every_lmtp());
        }
        if !self.lower_case_stays {
            let [before, after] = ASKED_LESS;
            text = text.replace(before, "").replace(after, ":canonical");
        }
        self.filled_in(text.trim_end())
    }

    /// For `master.cf`; empty if nothing is needed there.
    pub(crate) fn master_cf(&self) -> String {
        let [murder, others] = self.services();
        let mut text = String::new();
        if let Some((before, after)) = murder.split_once(&service_line()) {
            for transport in self.transports.iter().filter(|transport| &***transport != LMTP) {
                if text.is_empty() {
                    text.push_str(before);
                }
                let _ = write!(text, "\n{transport:<9} {after}");
            }
        }
        let (others, fallback) = match others.find("\n# --fallback") {
            Some(at) => others.split_at(at),
            None => (&*others, ""),
        };
        text += others;
        if let Some(own) = self.own_fallback() {
            text += &fallback.replace(&format!("\n{FALLBACK} "), &format!("\n{own} "));
        }
        self.filled_in(text.trim_matches('\n'))
    }

    /// The paragraph of `master.cf` with the transport of the answers, and the others.
    fn services(&self) -> [String; 2] {
        let mut chosen = self.chosen(MASTER_CF);
        // After the options of the service, which end at an empty line.
        let service = chosen.find(&service_line()).unwrap_or_default();
        let end = chosen.get(service..).and_then(|rest| rest.find("\n\n"));
        let others = chosen.split_off(end.map_or(chosen.len(), |end| service + end + 1));
        [chosen, others]
    }

    /// The fallback's transport, if it needs a service: neither Postfix' own nor one with a status
    /// filter.
    fn own_fallback(&self) -> Option<&str> {
        let own = |name: &&str| *name != LMTP && self.transports.iter().all(|of| **of != **name);
        self.fallback.as_deref().filter(own)
    }

    /// The settings for `postconf -P` that give each smtpd its own trivial-rewrite. Empty if not
    /// needed.
    pub(crate) fn smtpd(&self) -> String {
        if self.wanted.verify == VerifyMethod::Transport {
            return String::new();
        }
        let setting = |of: &String| format!("{of}/rewrite_service_name={SMTPD_REWRITE}\n");
        self.host.smtpds.iter().map(setting).collect()
    }

    /// The file that makes a backend's 5.1.1 temporary.
    pub(crate) fn status_filter(&self) -> String {
        self.filled_in(STATUS.trim_end())
    }

    /// The file that selects the recipients whose canonical form is looked up. `None`: all.
    pub(crate) fn canonical_filter(&self) -> Option<String> {
        self.lower_case_stays.then(|| self.filled_in(CANONICAL.trim_end()))
    }

    /// For `murder-route.toml`, if a further listener is needed.
    pub(crate) fn toml(&self) -> Option<String> {
        let named = self.missing?;
        let queue_directory = format!("{}/", self.host.queue_directory.display());
        let mut text = TOML.replace(QUEUE_DIRECTORY, &queue_directory.replace("//", "/"));
        if named {
            // The other listeners exist already.
            let last = text.rfind("[[listen]]").unwrap_or_default();
            text = format!("# For /etc/murder-route.toml.\n\n{}", text.split_off(last));
        }
        Some(text)
    }

    /// The template without the parts for other options.
    fn chosen(&self, template: &str) -> String {
        let mut text = String::new();
        let mut condition = None;
        for line in template.lines() {
            let option = line.strip_prefix("# --").and_then(|line| line.split_once(':'));
            if let Some((option, _)) = option {
                condition = Some(self.is_wanted(option));
            } else if line.is_empty() {
                condition = None;
            }
            let setting = line.strip_prefix('#').filter(|rest| {
                rest.starts_with(|c: char| !c.is_whitespace()) || rest.starts_with("  ")
            });
            match (condition, setting) {
                (Some(false), _) => continue,
                (Some(true), Some(setting)) => text += setting,
                _ => text += line,
            }
            text.push('\n');
        }
        // A removed paragraph leaves two empty lines; one is enough.
        while text.contains("\n\n\n") {
            text = text.replace("\n\n\n", "\n\n");
        }
        text
    }

    fn is_wanted(&self, option: &str) -> bool {
        match option {
            "sasl" => self.wanted.sasl,
            "tls" => self.wanted.tls,
            "fallback" => self.fallback.is_some(),
            verify => {
                let mut options = verify.strip_prefix("verify ").unwrap_or_default().split(", ");
                options.any(|option| option == self.verify().as_str())
            }
        }
    }

    /// How unknown recipients are refused. With a fallback Postfix asks the fallback: all recipients
    /// are accepted.
    fn verify(&self) -> VerifyMethod {
        match self.wanted.verify {
            VerifyMethod::Policy | VerifyMethod::Milter if self.fallback.is_some() => {
                VerifyMethod::Recipients
            }
            verify => verify,
        }
    }

    /// The options of the service in `master.cf`, as settings for all lmtp(8).
    fn for_every_lmtp(&self) -> String {
        let [murder, _] = self.services();
        let options = murder.split_once(&service_line()).map(|(_, options)| options);
        let mut text = String::new();
        for line in options.unwrap_or_default().lines().skip(1) {
            match line.trim_start().strip_prefix("-o ").and_then(|option| option.split_once('=')) {
                Some((name, value)) if name.starts_with("lmtp_") => {
                    let _ = writeln!(text, "{name} = {value}");
                }
                // It would apply to every service: smtpd caches answers while it runs.
                Some(_) => {}
                None => {
                    let _ = writeln!(text, "{line}");
                }
            }
        }
        text
    }

    /// The table entries of the domains whose recipients are probed.
    fn probed(&self) -> String {
        let entry = |domain| PROBED.replace(DOMAIN, domain);
        self.domains.split(", ").map(entry).collect::<Vec<_>>().join(", ")
    }

    /// Replaces the values of the example by those of the host.
    fn filled_in(&self, text: &str) -> String {
        let proxy = if self.proxied { "proxy:" } else { "" };
        let config_directory = format!("{}/", self.host.config_directory.display());
        let mut filled = String::new();
        for line in text.lines() {
            let line = line.replace(CONFIG_DIRECTORY, &config_directory.replace("//", "/"));
            let line = match line.starts_with('#') {
                true => line,
                false => line
                    .replace(SOCKET, &self.socket)
                    .replace(" socketmap:", &format!(" {proxy}socketmap:"))
                    .replace(&format!("= {DOMAIN}"), &format!("= {}", self.domains))
                    .replace(PROBED, &self.probed())
                    .replace(CA_FILE, self.ca_file.as_deref().unwrap_or(CA_FILE)),
            };
            filled += &line;
            filled.push('\n');
        }
        filled
    }
}

/// The line of the service in the template, up to its name's column.
fn service_line() -> String {
    format!("\n{TRANSPORT:<9} ")
}

/// Checks that a path is valid in main.cf.
fn plain(path: &Path) -> Result<&str, Misfit> {
    let fine = |text: &&str| text.bytes().all(|b| b.is_ascii_graphic() && !b"$,{}\"".contains(&b));
    path.to_str().filter(fine).ok_or_else(|| Misfit::OddPath(path.to_owned()))
}

#[cfg(test)]
mod tests;
