//! [`Settings::load`]: one function for each part of the configuration.

use std::path::{Path, PathBuf};

use super::file::ConfigFile;
use super::mupdate::{MasterAccess, MupdateError};
use super::{
    ConfigError, ConfigWarning, DEFAULT_IMAPD_CONF, DEFAULT_MAX_CONNECTIONS, MissPolicy, Mupdate,
    NoMaster, Overrides, ReplicaSettings, Settings, SourceName, Vital,
};
use crate::address::{Release, Rules};
use crate::imapd_conf::{self, ImapdConf, ImapdOptions, LMTP_SERVICES, MupdateConfig};
use crate::model::loss_guard::ACCEPT_AFTER;
use crate::os::regular_file;
use crate::routing::confirm::ConfirmVia;
use crate::routing::maps::{Maps, UnknownPolicy};
use crate::routing::router::Router;
use crate::wire::endpoint::Listen;

impl Settings {
    /// Reads the whole configuration.
    ///
    /// # Errors
    ///
    /// A file cannot be read, a value is not valid, or a source lacks what it needs.
    pub fn load(given: &Overrides) -> Result<Self, ConfigError> {
        let file = ConfigFile::read(given.config.as_deref())?;
        let sources = file.sources(given)?;
        let mut load = Load { given, file, sources, warnings: Vec::new() };
        let imapd_conf = load.imapd_conf_path();
        let imapd = match &imapd_conf {
            Some(path) => load.read_imapd_conf(path, load.uses(SourceName::MailboxesDb))?,
            None => None,
        };
        let mailboxes_db = load.mailboxes_db(imapd.as_ref())?;
        let confirming = load.confirming(imapd.as_ref(), mailboxes_db.as_deref())?;
        let unknown = load.unknown_policy(imapd.is_some());
        let router = load.router(imapd.as_ref(), mailboxes_db.is_some(), &confirming)?;
        let maps = load.file.maps(unknown)?;
        load.warn_of_names(&router, &maps);
        Ok(Self {
            user_deny: load.user_deny(imapd.as_ref()),
            replica: load.replica(),
            state: load.file.state_directory(given),
            listeners: load.listeners(),
            max_connections: load.file.keys.max_connections.unwrap_or(DEFAULT_MAX_CONNECTIONS),
            vital: Vital::of(imapd.as_ref(), confirming.in_murder, !router.domains.is_empty()),
            router,
            maps,
            mailboxes_db,
            mupdate: confirming.mupdate,
            proof: confirming.via,
            imapd_conf,
            sources: load.sources,
            warnings: load.warnings,
            file: load.file.path,
        })
    }
}

/// The inputs of one load, and the warnings so far.
struct Load<'a> {
    given: &'a Overrides,
    file: ConfigFile,
    sources: Vec<SourceName>,
    warnings: Vec<ConfigWarning>,
}

/// How misses are confirmed.
struct Confirming {
    via: ConfirmVia,
    /// The master, if it can be asked.
    mupdate: Option<Mupdate>,
    /// A MUPDATE server is named, whether or not it can be asked.
    in_murder: bool,
}

/// The MUPDATE slave of this host.
enum Slave {
    /// It keeps the list that is read, and says at this socket when that has caught up.
    Keeps(PathBuf),
    /// It keeps another list, and its answer proves nothing about the list that is read.
    KeepsAnother,
}

impl Load<'_> {
    fn uses(&self, source: SourceName) -> bool {
        self.sources.contains(&source)
    }

    /// The imapd.conf to read. [`DEFAULT_IMAPD_CONF`] counts where nothing else leads to a mailbox list.
    fn imapd_conf_path(&self) -> Option<PathBuf> {
        let named = self.file.keys.imapd_conf.as_ref().map(|path| self.file.join(path));
        self.given.imapd_conf.clone().or(named).or_else(|| {
            let default = PathBuf::from(DEFAULT_IMAPD_CONF);
            let has_list =
                self.given.mailboxes_db.is_some() || self.file.keys.mailboxes_db.is_some();
            (!has_list && default.exists()).then_some(default)
        })
    }

    /// Reads an imapd.conf. `None`: it sets nothing, as a file that is being written.
    fn read_imapd_conf(
        &mut self,
        path: &Path,
        needs_files: bool,
    ) -> Result<Option<ImapdOptions>, ConfigError> {
        let services = match &self.file.keys.services {
            Some(named) => named.iter().map(String::as_str).collect(),
            None => LMTP_SERVICES.to_vec(),
        };
        let mut read = |path: &Path| regular_file::read(path, imapd_conf::MAX_SIZE as u64);
        let (conf, odd) = match needs_files {
            true => ImapdConf::parse_for(path, &services, &mut read)?,
            false => ImapdConf::parse_without_files(path, &services, &mut read)?,
        };
        self.warnings.extend(odd.into_iter().map(ConfigWarning::ImapdConf));
        if conf.is_empty() {
            self.warnings.push(ConfigWarning::EmptyImapdConf(path.to_owned()));
            return Ok(None);
        }
        Ok(Some(conf.options()?))
    }

    /// Cyrus' own list, if it is a source.
    fn mailboxes_db(&self, imapd: Option<&ImapdOptions>) -> Result<Option<PathBuf>, ConfigError> {
        if !self.uses(SourceName::MailboxesDb) {
            return Ok(None);
        }
        let named = self.file.keys.mailboxes_db.as_ref().map(|path| self.file.join(path));
        let path = self.given.mailboxes_db.clone().or(named);
        let path = path.or_else(|| imapd.map(|imapd| imapd.mboxlist_db_path.clone()));
        path.map(Some).ok_or(ConfigError::NoList)
    }

    /// Returns how misses are confirmed: by the master, by the slave of this host, or not at all.
    fn confirming(
        &mut self,
        imapd: Option<&ImapdOptions>,
        mailboxes_db: Option<&Path>,
    ) -> Result<Confirming, ConfigError> {
        let of_mupdate = match self.file.keys.mupdate.imapd_conf.clone() {
            Some(path) => self.read_imapd_conf(&self.file.join(&path), false)?,
            None => None,
        };
        let conf = of_mupdate.as_ref().or(imapd);
        let in_murder = self.file.keys.mupdate.names_server(conf);
        let (mupdate, via) = match (self.given.without_login, in_murder) {
            (true, true) => (None, ConfirmVia::Master { slave: None }),
            (true, false) => self.confirm_via(MasterAccess::NotConfigured, None)?,
            (false, _) => {
                let master = self.file.keys.mupdate.build(self.file.base(), conf);
                let master = master.map_err(|error| match error {
                    MupdateError::HalfCertificate => {
                        self.file.error("[mupdate]: `certificate` and `key` need each other")
                    }
                    MupdateError::Password(error) => error,
                })?;
                let slave = imapd.filter(|imapd| imapd.mupdate_server.is_some());
                let slave = slave.map(|imapd| Slave::of(imapd, mailboxes_db));
                self.confirm_via(master, slave)?
            }
        };
        let mupdate = mupdate.map(|mupdate| Mupdate {
            allow_plaintext: mupdate.allow_plaintext || self.given.allow_plaintext,
            ..mupdate
        });
        Ok(Confirming { via, mupdate, in_murder })
    }

    /// Chooses between master and slave. The master is returned only if it is asked or followed.
    fn confirm_via(
        &mut self,
        master: MasterAccess,
        slave: Option<Slave>,
    ) -> Result<(Option<Mupdate>, ConfirmVia), ConfigError> {
        let needed = self.sources.iter().copied().find(|source| *source != SourceName::MailboxesDb);
        let misses = self.given.misses.or(self.file.keys.misses).unwrap_or_default();
        match (master, needed, slave) {
            (MasterAccess::NotConfigured, Some(source_name), _) => {
                Err(ConfigError::NoMaster { source_name, why: NoMaster::NotConfigured })
            }
            (MasterAccess::NotConfigured, None, _) => Ok((
                None,
                match misses {
                    MissPolicy::Confirm => ConfirmVia::Complete,
                    MissPolicy::Final => ConfirmVia::List,
                },
            )),
            (MasterAccess::Usable(mupdate), None, Some(Slave::Keeps(socket))) => {
                Ok((Some(*mupdate), ConfirmVia::Master { slave: Some(socket) }))
            }
            // The slave speaks for the file only, not for other sources.
            (MasterAccess::Usable(mupdate), ..) => {
                Ok((Some(*mupdate), ConfirmVia::Master { slave: None }))
            }
            (MasterAccess::Unusable(why), None, Some(Slave::KeepsAnother)) => {
                self.warnings.push(ConfigWarning::SlaveKeepsOtherList(why));
                Ok((None, ConfirmVia::Master { slave: None }))
            }
            (MasterAccess::Unusable(why), None, Some(Slave::Keeps(socket))) => {
                self.warnings.push(ConfigWarning::SlaveConfirms(why));
                Ok((None, ConfirmVia::Slave(socket)))
            }
            (MasterAccess::Unusable(why), needed, _) => Err(ConfigError::NoMaster {
                source_name: needed.unwrap_or(SourceName::MailboxesDb),
                why: NoMaster::Unusable(why),
            }),
        }
    }

    /// The action for recipients that do not exist. It defers by default where the rules for names are
    /// guessed: the master does not have a name that was formed wrongly, and would refuse every recipient.
    fn unknown_policy(&mut self, has_imapd_conf: bool) -> UnknownPolicy {
        let without_cyrus = !self.uses(SourceName::MailboxesDb);
        if !has_imapd_conf {
            self.warnings.push(ConfigWarning::NoImapdConf { without_cyrus });
        }
        self.file.keys.unknown.unwrap_or(match without_cyrus && !has_imapd_conf {
            true => UnknownPolicy::Defer,
            false => UnknownPolicy::default(),
        })
    }

    /// The rules of the decision.
    fn router(
        &mut self,
        imapd: Option<&ImapdOptions>,
        has_file: bool,
        confirming: &Confirming,
    ) -> Result<Router, ConfigError> {
        let domains = self.file.domains(self.given)?;
        let backends = self.file.keys.backends.build().map_err(|e| self.file.error(e))?;
        // lmtpd goes by both (`lib/libconfig.c`, `config_mupdate_config`): without a MUPDATE server there is
        // no murder, and in a unified or replicated one every server has the whole list.
        let server = imapd.filter(|imapd| confirming.in_murder && imapd.proxyservers && has_file);
        match server.map(|imapd| imapd.mupdate_config) {
            Some(MupdateConfig::Standard) => {
                let asks_master = !matches!(confirming.via, ConfirmVia::Slave(_));
                self.warnings.push(ConfigWarning::BackendList { asks_master });
            }
            Some(_) if backends.local.is_none() => {
                self.warnings.push(ConfigWarning::LocalMailboxes);
            }
            _ => {}
        }
        let (release, older) = match self.file.keys.cyrus_release {
            Some(release) => (release, &[][..]),
            None => (Release::V3_6, &[Release::V3_0, Release::V2_5, Release::V2_4][..]),
        };
        let rules_of = |release: &Release| match imapd {
            Some(imapd) => imapd.rules(*release),
            None => Rules::defaults(*release),
        };
        let older = older.iter().map(rules_of).collect();
        Ok(Router { domains, rules: rules_of(&release), older, backends })
    }

    fn warn_of_names(&mut self, router: &Router, maps: &Maps) {
        if router.rules.fuzzy && self.sources == [SourceName::Find] {
            self.warnings.push(ConfigWarning::FuzzyWithoutList);
        }
        let has_place = router.backends.autocreate.is_some() || maps.fallback.is_some();
        if router.rules.autocreate.is_some() && !has_place {
            self.warnings.push(ConfigWarning::NewUsersDeferred);
        }
    }

    /// The database of blocked users, with the service that lmtpd looks up there.
    fn user_deny(&self, imapd: Option<&ImapdOptions>) -> Option<(PathBuf, String)> {
        let imapd = imapd.filter(|imapd| imapd.configdirectory.is_absolute())?;
        let service = self.file.keys.services.as_ref().and_then(|services| services.first());
        let service = service.map_or(LMTP_SERVICES[0], String::as_str);
        Some((imapd.userdeny_db_path.clone(), service.to_owned()))
    }

    fn replica(&self) -> ReplicaSettings {
        let keys = &self.file.keys.replica;
        ReplicaSettings {
            directory: self.file.replica_directory(self.given),
            accept_after: keys.accept_after.unwrap_or(ACCEPT_AFTER),
            max_age: keys.max_age,
            max_names: keys.max_names,
        }
    }

    fn listeners(&self) -> Vec<Listen> {
        match &*self.given.listen {
            [] => self.file.listeners(),
            named => named.iter().cloned().map(Listen::at).collect(),
        }
    }
}

impl Slave {
    fn of(imapd: &ImapdOptions, read: Option<&Path>) -> Self {
        let kept = &*imapd.mboxlist_db_path;
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match read.is_none_or(|read| read == kept || real(read) == real(kept)) {
            true => Slave::Keeps(imapd.kick_socket()),
            false => Slave::KeepsAnother,
        }
    }
}
