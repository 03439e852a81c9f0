//! `/etc/murder-route.toml`, and what it comes to together with imapd.conf and the command line.
//!
//! The file is strict: an unknown key or a value that cannot be meant is an error with its line and
//! column. Paths in it are relative to it. What imapd.conf already says need not be said again:
//! `imapd-conf` and `domains` suffice.

use crate::model::shown::Shown;

mod backends;
mod file;
mod mupdate;
#[cfg(test)]
mod tests;
mod vital;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use self::backends::{BackendAccess, BackendsAccess};
use self::file::File;
pub use self::mupdate::{ClientCertificate, Mupdate, Server, Tls};
pub use self::vital::Vital;
use serde::Deserialize;

use crate::address::{Release, Rules};
use crate::imapd_conf::{self, ImapdConf, LMTP_SERVICES, MupdateConfig, Virtdomains};
use crate::model::domains::Domains;
use crate::os::regular_file;
use crate::replica::ACCEPT_AFTER;
use crate::routing::confirm::ConfirmVia;
use crate::routing::maps::{Maps, UnknownPolicy};
use crate::routing::router::Router;
use crate::wire::endpoint::{Endpoint, Listen};

/// The configuration file that is read if none is named.
pub const DEFAULT_FILE: &str = "/etc/murder-route.toml";
/// The imapd.conf that is read if neither it nor a mailbox list is named.
pub const DEFAULT_IMAPD_CONF: &str = "/etc/imapd.conf";
/// The socket that is listened on if none is named.
pub const DEFAULT_SOCKET: &str = "/run/murder-route";

/// Where the replica is kept if nothing else is said.
pub const DEFAULT_REPLICA: &str = "/var/lib/murder-route";

/// Where a mailbox list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceName {
    /// Cyrus' own list on this host.
    MailboxesDb,
    /// A replica of the master's, kept by the daemon.
    Replica,
    /// No list: the master is asked for each name.
    Find,
}

impl SourceName {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::MailboxesDb, Self::Replica, Self::Find];

    /// The word for it in the configuration and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            SourceName::MailboxesDb => "mailboxes-db",
            SourceName::Replica => "replica",
            SourceName::Find => "find",
        }
    }
}

impl FromStr for SourceName {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|source| source.as_str() == word).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("`{}` is none of {known}", Shown(word))
        })
    }
}

/// What a recipient that the list lacks is, where no MUPDATE server is configured that could confirm it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissPolicy {
    /// Deferred if the list has records of other servers, else unknown.
    #[default]
    Confirm,
    /// Unknown: the list is complete by itself.
    Final,
}

impl FromStr for MissPolicy {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "confirm" => Ok(Self::Confirm),
            "final" => Ok(Self::Final),
            word => Err(format!("`{}` is neither confirm nor final", Shown(word))),
        }
    }
}

/// Sources are asked in their order, each once.
fn in_order(sources: &[SourceName]) -> Result<(), String> {
    if sources.is_empty() {
        return Err("without a source nobody is known".into());
    }
    for (at, source) in sources.iter().enumerate() {
        if sources.iter().take(at).any(|before| before == source) {
            return Err(format!("`{}` is there twice", source.as_str()));
        }
    }
    Ok(())
}

/// Where the replica is kept, and how far it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// Its directory.
    pub directory: PathBuf,
    /// A list that lost much is taken over after this time, if a second one then says the same.
    pub accept_after: Duration,
    /// Who is in a replica that has been stale for longer is deferred; `None`: is answered for ever.
    pub max_age: Option<Duration>,
    /// Maximum number of names of the master's list; `None`: ten times the present list, and
    /// 10,000,000 at least.
    pub max_names: Option<u64>,
}

/// What the command line says. It wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config FILE`
    pub config: Option<PathBuf>,
    /// `--imapd-conf FILE`
    pub imapd_conf: Option<PathBuf>,
    /// `--mailboxes-db FILE`
    pub mailboxes_db: Option<PathBuf>,
    /// `--source S`; if there is one, the file's `source` does not count.
    pub sources: Vec<SourceName>,
    /// `--replica DIR`
    pub replica: Option<PathBuf>,
    /// `--allow-plaintext`
    pub allow_plaintext: bool,
    /// `--misses confirm|final`
    pub misses: Option<MissPolicy>,
    /// `--domain D`; if there is one, the file's `domains` do not count.
    pub domains: Vec<String>,
    /// `--listen ENDPOINT`; if there is one, the file's listeners do not count.
    pub listen: Vec<Endpoint>,
    /// Whoever reads this never asks the MUPDATE server himself: how to log in there is not read, for
    /// he may not be allowed to, and [`Settings::mupdate`] is `None`.
    pub without_login: bool,
}

impl ConfigError {
    /// What is wrong with our own file, as told by who does not know its path.
    fn in_file(self, path: &Option<PathBuf>) -> Self {
        match self {
            ConfigError::Option(text) => file_error(path, text),
            other => other,
        }
    }
}

/// Everything the configuration comes to.
#[derive(Debug)]
pub struct Settings {
    /// The configuration file that was read, if any.
    pub file: Option<PathBuf>,
    /// The imapd.conf that was read, if any.
    pub imapd_conf: Option<PathBuf>,
    /// The rules of the decision.
    pub router: Router,
    /// The forms of the answers.
    pub maps: Maps,
    /// Where mailbox lists come from, in the order in which they are asked; at least one.
    pub sources: Vec<SourceName>,
    /// Cyrus' own list, if it is one of the sources.
    pub mailboxes_db: Option<PathBuf>,
    /// The database of blocked users, and the service of `cyrus.conf` they are blocked from.
    pub user_deny: Option<(PathBuf, String)>,
    /// The replica; of no meaning unless it is one of the sources.
    pub replica: ReplicaSettings,
    /// Where what outlives the daemon is kept.
    pub state: PathBuf,
    /// The MUPDATE server, if there is one and it can be asked as things are configured.
    pub mupdate: Option<Mupdate>,
    /// How misses are confirmed.
    pub proof: ConfirmVia,
    /// Where to listen; empty: at `/run/murder-route`, or at the socket that systemd opened.
    pub listeners: Vec<Listen>,
    /// Most connections at a time on one socket. A running daemon keeps those it began with.
    pub max_connections: usize,
    /// What a reload must not lose.
    pub vital: Vital,
    /// What is odd, but not wrong enough to stop for.
    pub warnings: Vec<String>,
}

/// Why there is no configuration. Exit status 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong; the text says where.
    #[error("{path}: {text}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        text: String,
    },
    /// imapd.conf is wrong.
    #[error(transparent)]
    ImapdConf(#[from] imapd_conf::ConfError),
    /// An option of the command line is wrong.
    #[error("{0}")]
    Option(String),
    /// Nothing says where the mailbox list is.
    #[error(
        "nothing says where the mailbox list is: give `imapd-conf` or `mailboxes-db` in \
         {DEFAULT_FILE}, or --imapd-conf or --mailboxes-db (there is no {DEFAULT_IMAPD_CONF}); on a \
         host without Cyrus set `source`"
    )]
    NoList,
    /// A source needs the MUPDATE server, and nothing says how to ask it.
    #[error("the source `{source_name}` needs the MUPDATE server: {why}", source_name = .source_name.as_str())]
    NoMaster {
        /// The source.
        source_name: SourceName,
        /// What is missing, and where it can be given.
        why: String,
    },
}

impl Settings {
    /// Reads everything the configuration consists of.
    pub fn load(given: &Overrides) -> Result<Self, ConfigError> {
        let (file_path, file) = File::find(given.config.as_deref())?;
        let base = file_path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let from_file = |path: &PathBuf| base.join(path);

        let sources = match &*given.sources {
            [] => file.sources().map_err(|text| file_error(&file_path, text))?,
            named => {
                in_order(named).map_err(|e| ConfigError::Option(format!("--source: {e}")))?;
                named.to_vec()
            }
        };
        let imapd_conf_path = given
            .imapd_conf
            .clone()
            .or_else(|| file.imapd_conf.as_ref().map(from_file))
            .or_else(|| default_imapd_conf(given, &file));
        let mut warnings = Vec::new();
        let services = file.services.clone();
        let imapd = match &imapd_conf_path {
            Some(path) => {
                let files = sources.contains(&SourceName::MailboxesDb);
                read_imapd_conf(path, services.as_deref(), files, &mut warnings)?
            }
            None => None,
        };
        let mailboxes_db = match sources.contains(&SourceName::MailboxesDb) {
            true => Some(
                given
                    .mailboxes_db
                    .clone()
                    .or_else(|| file.mailboxes_db.as_ref().map(from_file))
                    .or_else(|| imapd.as_ref().map(|imapd| imapd.mboxlist_db_path.clone()))
                    .ok_or(ConfigError::NoList)?,
            ),
            false => None,
        };
        let of_mupdate = match &file.mupdate.imapd_conf {
            Some(path) => {
                let services = services.as_deref();
                read_imapd_conf(&base.join(path), services, false, &mut warnings)?
            }
            None => None,
        };
        let conf = of_mupdate.as_ref().or(imapd.as_ref());
        let murder = file.mupdate.names_server(conf);
        let mupdate = match given.without_login {
            true => None,
            false => file.mupdate.build(base, conf).map_err(|e| e.in_file(&file_path))?,
        };
        let slave = imapd
            .as_ref()
            .filter(|imapd| imapd.mupdate_server.is_some())
            .map(|imapd| Slave::of(imapd, mailboxes_db.as_deref()));
        let misses = given.misses.or(file.misses).unwrap_or_default();
        let (mupdate, proof) = match given.without_login && murder {
            true => (None, ConfirmVia::Master { slave: None }),
            false => proof(&sources, mupdate, slave, misses, &mut warnings)?,
        };
        let mupdate = mupdate.map(|mupdate| Mupdate {
            allow_plaintext: mupdate.allow_plaintext || given.allow_plaintext,
            ..mupdate
        });
        let by_guess = imapd.is_none() && !sources.contains(&SourceName::MailboxesDb);
        if imapd.is_none() {
            let so = match by_guess {
                true => {
                    "give `imapd-conf`, a copy of that of a frontend. Unless `unknown` is set, nobody \
                     is refused until then"
                }
                false => "give `imapd-conf` on a host of a murder",
            };
            warnings.push(format!("no imapd.conf: names are made as if it set nothing; {so}"));
        }
        // The master knows nobody by a name that was made wrongly, and would say so of everybody.
        let unknown = file.unknown.unwrap_or(match by_guess {
            true => UnknownPolicy::Defer,
            false => UnknownPolicy::default(),
        });

        let domains = domains(given, &file)?;
        // lmtpd goes by both (`lib/libconfig.c`, `config_mupdate_config`): without a MUPDATE server there is
        // no murder, and in a unified or replicated one every server has the whole list.
        let server = imapd.as_ref().filter(|imapd| murder && imapd.proxyservers);
        let server = server.filter(|_| mailboxes_db.is_some());
        let standard =
            |imapd: &imapd_conf::Options| imapd.mupdate_config == MupdateConfig::Standard;
        if server.is_some_and(standard) {
            let murder = match proof {
                ConfirmVia::Slave(_) => "misses cannot be confirmed here and are deferred",
                ConfirmVia::Master { .. } | ConfirmVia::Complete | ConfirmVia::List => {
                    "all others are asked of the master, one by one"
                }
            };
            warnings.push(format!(
                "imapd.conf sets proxyservers, as backends do, and a backend's list holds only its \
                 own mailboxes: {murder}"
            ));
        }
        let (release, older) = match file.cyrus_release {
            Some(release) => (release, &[][..]),
            None => (Release::V3_6, &[Release::V3_0, Release::V2_5, Release::V2_4][..]),
        };
        let rules_of = |release: &Release| rules(imapd.as_ref(), *release);
        let backends = file.backends.build().map_err(|text| file_error(&file_path, text))?;
        if server.is_some_and(|imapd| !standard(imapd)) && backends.local.is_none() {
            warnings.push(
                "imapd.conf sets mupdate_config, so that this host has mailboxes of its own; mail for \
                 them is deferred; set `local` in [backends]"
                    .into(),
            );
        }
        let maps = file.maps(unknown).map_err(|text| file_error(&file_path, text))?;
        let listeners = match &*given.listen {
            [] => file.listeners(base),
            named => named.iter().cloned().map(Listen::at).collect(),
        };
        let user_deny = imapd.as_ref().filter(|imapd| imapd.configdirectory.is_absolute());
        let service = services.as_ref().and_then(|services| services.first());
        let service = service.map_or(LMTP_SERVICES[0], String::as_str).to_owned();
        let user_deny = user_deny.map(|imapd| (imapd.userdeny_db_path.clone(), service));
        let vital = Vital::of(imapd.as_ref(), murder, !domains.is_empty());
        let rules = rules_of(&release);
        if rules.fuzzy && sources == [SourceName::Find] {
            warnings.push(FUZZY_WITHOUT_LIST.into());
        }
        let new_users_go_somewhere = backends.autocreate.is_some() || maps.fallback.is_some();
        if rules.autocreate.is_some() && !new_users_go_somewhere {
            warnings.push(NEW_USERS_ARE_DEFERRED.into());
        }
        let older = older.iter().map(rules_of).collect();
        Ok(Self {
            router: Router { domains, rules, older, backends },
            maps,
            mailboxes_db,
            user_deny,
            sources,
            replica: ReplicaSettings {
                directory: replica_directory(given, &file, base),
                accept_after: file.replica.accept_after.unwrap_or(ACCEPT_AFTER),
                max_age: file.replica.max_age,
                max_names: file.replica.max_names,
            },
            state: state_directory(given, &file, base),
            mupdate,
            proof,
            listeners,
            max_connections: file.max_connections.unwrap_or(2000),
            vital,
            warnings,
            file: file_path,
            imapd_conf: imapd_conf_path,
        })
    }
}

const FUZZY_WITHOUT_LIST: &str = "lmtp_fuzzy_mailbox_match needs a list to search: with the source \
    `find` a shared folder that is not there under its exact name is deferred";

const NEW_USERS_ARE_DEFERRED: &str = "autocreate_post in imapd.conf has lmtpd make the mailboxes of new \
    users; mail to users without a mailbox is deferred; set `autocreate` in [backends] to the server on \
    which they are made";

/// What of the configuration is needed to find a running daemon and its replica, and to tell Postfix
/// of it. Nothing but our own file is read for it.
#[derive(Debug)]
pub struct Glance {
    /// Where the daemon listens; empty: at [`DEFAULT_SOCKET`].
    pub listeners: Vec<Listen>,
    /// The directory of the replica.
    pub replica: PathBuf,
    /// Where what outlives the daemon is kept.
    pub state: PathBuf,
    /// The domains we answer for.
    pub domains: Domains,
    /// The transports of our answers, each once.
    pub transports: Vec<Box<str>>,
    /// What becomes of the unknown, if that is said.
    pub unknown: Option<UnknownPolicy>,
    /// `fallback`: a transport and its next hop.
    pub fallback: Option<String>,
}

/// Reads no more of the configuration than a [`Glance`].
pub fn glance(given: &Overrides) -> Result<Glance, ConfigError> {
    let (file_path, file) = File::find(given.config.as_deref())?;
    let base = file_path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    Ok(Glance {
        listeners: file.listeners(base),
        replica: replica_directory(given, &file, base),
        state: state_directory(given, &file, base),
        domains: domains(given, &file)?,
        transports: file.backends.transports(),
        unknown: file.unknown,
        fallback: file.fallback,
    })
}

/// Reads how `murder-route lmtp` speaks with the backends. Nothing but our own file is read for it: a
/// mail server runs that program, and may not read what the daemon may.
pub fn backends_access(config: Option<&Path>) -> Result<BackendsAccess, ConfigError> {
    let (file_path, file) = File::find(config)?;
    let base = file_path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    file.backends.access(base).map_err(|text| file_error(&file_path, text))
}

fn domains(given: &Overrides, file: &File) -> Result<Domains, ConfigError> {
    match &*given.domains {
        [] => Ok(file.domains.clone().unwrap_or_default()),
        named => Domains::new(named).map_err(|e| ConfigError::Option(format!("--domain: {e}"))),
    }
}

/// The directory of the replica, also where there is none: what has to outlive the daemon is kept
/// there. Unless it is named, the one that systemd made (`StateDirectory=`) goes before the usual one.
fn state_directory(given: &Overrides, file: &File, base: &Path) -> PathBuf {
    let named = given.replica.is_some() || file.replica.directory.is_some();
    let made = std::env::var_os("STATE_DIRECTORY").filter(|made| !named && !made.is_empty());
    let first = made.and_then(|made| std::env::split_paths(&made).next());
    first.unwrap_or_else(|| replica_directory(given, file, base))
}

fn replica_directory(given: &Overrides, file: &File, base: &Path) -> PathBuf {
    let named = file.replica.directory.as_ref().map(|path| base.join(path));
    given.replica.clone().or(named).unwrap_or_else(|| DEFAULT_REPLICA.into())
}

/// The MUPDATE slave of this host.
enum Slave {
    /// It keeps the list that is read, and says at this socket when that has caught up.
    Keeps(PathBuf),
    /// It keeps another list, so what it says of that proves nothing.
    KeepsAnother,
}

impl Slave {
    fn of(imapd: &imapd_conf::Options, read: Option<&Path>) -> Self {
        let kept = &*imapd.mboxlist_db_path;
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match read.is_none_or(|read| read == kept || real(read) == real(kept)) {
            true => Slave::Keeps(imapd.kick_socket()),
            false => Slave::KeepsAnother,
        }
    }
}

/// Who confirms what the sources do not have; the server stays only if he is asked or followed.
fn proof(
    sources: &[SourceName],
    mupdate: Option<Result<Mupdate, String>>,
    slave: Option<Slave>,
    misses: MissPolicy,
    warnings: &mut Vec<String>,
) -> Result<(Option<Mupdate>, ConfirmVia), ConfigError> {
    let needed = sources.iter().find(|source| **source != SourceName::MailboxesDb);
    let Some(mupdate) = mupdate else {
        return match needed {
            Some(source_name) => Err(ConfigError::NoMaster {
                source_name: *source_name,
                why: "set `mupdate_server` in imapd.conf, or `servers` in [mupdate]".into(),
            }),
            None => Ok((
                None,
                match misses {
                    MissPolicy::Confirm => ConfirmVia::Complete,
                    MissPolicy::Final => ConfirmVia::List,
                },
            )),
        };
    };
    let askable = mupdate.and_then(|mupdate| match mupdate.impossible() {
        Some(why) => Err(format!(
            "{why}: set `mupdate_authname` and `mupdate_password` in imapd.conf, or `authname` and \
             `password-file` in [mupdate]"
        )),
        None => Ok(mupdate),
    });
    match (askable, needed, slave) {
        (Ok(mupdate), None, Some(Slave::Keeps(socket))) => {
            Ok((Some(mupdate), ConfirmVia::Master { slave: Some(socket) }))
        }
        // What the slave says of the file is no word on the other sources.
        (Ok(mupdate), ..) => Ok((Some(mupdate), ConfirmVia::Master { slave: None })),
        (Err(why), None, Some(Slave::KeepsAnother)) => {
            warnings.push(format!(
                "nobody is called unknown: `mailboxes-db` is not the list that the MUPDATE slave of \
                 this host keeps, and the master cannot be asked: {why}"
            ));
            Ok((None, ConfirmVia::Master { slave: None }))
        }
        (Err(why), None, Some(Slave::Keeps(slave))) => {
            warnings.push(format!(
                "the MUPDATE master cannot be asked who is unknown, so it is whom the MUPDATE slave \
                 of this host does not have, and a slave's resync can lose accounts: {why}"
            ));
            Ok((None, ConfirmVia::Slave(slave)))
        }
        (Err(why), _, _) => Err(ConfigError::NoMaster {
            source_name: needed.copied().unwrap_or(SourceName::MailboxesDb),
            why,
        }),
    }
}

/// The rules for names: what imapd.conf sets, and for the rest what this release of Cyrus does.
pub fn rules(imapd: Option<&imapd_conf::Options>, release: Release) -> Rules {
    let defaults = Rules::defaults(release);
    let Some(imapd) = imapd else { return defaults };
    Rules {
        release,
        virtdomains: imapd.virtdomains != Virtdomains::Off,
        defaultdomain: imapd.defaultdomain.clone().or(defaults.defaultdomain),
        unixhierarchysep: imapd.unixhierarchysep.unwrap_or(defaults.unixhierarchysep),
        postuser: imapd.postuser.clone(),
        downcase: imapd.lmtp_downcase_rcpt.unwrap_or(defaults.downcase),
        strict: imapd.lmtp_strict_rfc2821,
        // There is none before 2.5, which ignores the option.
        catchall: imapd.lmtp_catchall_mailbox.clone().filter(|_| release >= Release::V2_5),
        fuzzy: imapd.lmtp_fuzzy_mailbox_match,
        autocreate: imapd.autocreate.clone(),
    }
}

/// `/etc/imapd.conf`, where nothing else leads to a mailbox list.
fn default_imapd_conf(given: &Overrides, file: &File) -> Option<PathBuf> {
    let default = PathBuf::from(DEFAULT_IMAPD_CONF);
    let named = given.mailboxes_db.is_some() || file.mailboxes_db.is_some();
    (!named && default.exists()).then_some(default)
}

/// `None`: it sets nothing, as a file that is being written.
fn read_imapd_conf(
    path: &Path,
    services: Option<&[String]>,
    files: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<imapd_conf::Options>, ConfigError> {
    let services = match services {
        Some(named) => named.iter().map(String::as_str).collect(),
        None => LMTP_SERVICES.to_vec(),
    };
    let mut read = |path: &Path| regular_file::read(path, imapd_conf::MAX_SIZE as u64);
    let (conf, odd) = match files {
        true => ImapdConf::parse_for(path, &services, &mut read)?,
        false => ImapdConf::parse_without_files(path, &services, &mut read)?,
    };
    warnings.extend(odd.iter().map(ToString::to_string));
    if conf.is_empty() {
        warnings.push(format!("{}: sets nothing", path.display()));
        return Ok(None);
    }
    Ok(Some(conf.options()?))
}

fn file_error(path: &Option<PathBuf>, text: String) -> ConfigError {
    ConfigError::File { path: path.clone().unwrap_or_else(|| DEFAULT_FILE.into()), text }
}
