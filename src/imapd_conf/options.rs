//! Typed options used by this program.

use std::path::{Path, PathBuf};

use super::{ConfError, ImapdConf};
use crate::address::{Autocreate, Release, Rules};
use crate::model::secret::Secret;

/// `virtdomains`. `lmtpd` does not distinguish `userid` and `on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Virtdomains {
    /// Domains are ignored.
    Off,
    /// The domain is that of the user's name.
    Userid,
    /// Like `userid`; a missing domain is guessed from the address of the interface.
    On,
}

/// `mupdate_config`: roles of the servers of a murder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MupdateConfig {
    /// Frontends and backends.
    Standard,
    /// Every server is frontend and backend.
    Unified,
    /// All servers have the same mailboxes.
    Replicated,
}

/// Options of `imapd.conf` about the mailbox list, names and the murder.
///
/// An `Option` is `None` if the option is not set and its default depends on the release of Cyrus or
/// does not exist. Paths and names are as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImapdOptions {
    /// `configdirectory`.
    pub configdirectory: PathBuf,
    /// `mboxlist_db_path`, or else `mailboxes.db` in the configuration directory.
    pub mboxlist_db_path: PathBuf,
    /// `userdeny_db_path`, or else `user_deny.db` in the configuration directory.
    pub userdeny_db_path: PathBuf,
    /// `mboxlist_db`: engine with which Cyrus would create a new list. Only a hint.
    pub mboxlist_db: Option<String>,
    /// `improved_mboxlist_sort`: order of keys in a list of Cyrus up to 3.4.
    pub improved_mboxlist_sort: bool,
    /// `umask` of all Cyrus programs; it determines the read permissions of a new list.
    pub umask: u32,
    /// `servername`; default: the host name.
    pub servername: Option<String>,

    /// `virtdomains`; default: off.
    pub virtdomains: Virtdomains,
    /// `defaultdomain`; default: `internal` from Cyrus 3.0 on.
    pub defaultdomain: Option<String>,
    /// `unixhierarchysep`; default: on from Cyrus 3.0 on.
    pub unixhierarchysep: Option<bool>,
    /// `postuser`; default: empty.
    pub postuser: String,
    /// `lmtp_downcase_rcpt`; default: on from Cyrus 2.5 on.
    pub lmtp_downcase_rcpt: Option<bool>,
    /// `lmtp_strict_rfc2821`; default: on.
    pub lmtp_strict_rfc2821: bool,
    /// `lmtp_catchall_mailbox`.
    pub lmtp_catchall_mailbox: Option<String>,
    /// `lmtp_fuzzy_mailbox_match`; default: off.
    pub lmtp_fuzzy_mailbox_match: bool,

    /// Users that get a mailbox from `lmtpd`, if `autocreate_post` is on and `autocreate_quota` is
    /// not negative.
    pub autocreate: Option<Autocreate>,

    /// `mupdate_server`: the master, `host` or `host:port`. Set on all servers of a murder and only
    /// there.
    pub mupdate_server: Option<String>,
    /// `mupdate_config`; Cyrus ignores it without a `mupdate_server`.
    pub mupdate_config: MupdateConfig,
    /// Whether `proxyservers` is set, which identifies a backend of a standard murder to Cyrus.
    pub proxyservers: bool,
    /// `mupdate_username`.
    pub mupdate_username: Option<String>,
    /// `mupdate_authname`.
    pub mupdate_authname: Option<String>,
    /// `mupdate_realm`.
    pub mupdate_realm: Option<String>,
    /// `mupdate_password`.
    pub mupdate_password: Option<Secret>,
}

impl ImapdOptions {
    /// Returns the path of the kick socket, on which the local MUPDATE slave reports whether it has
    /// caught up with the master.
    pub fn kick_socket(&self) -> PathBuf {
        self.configdirectory.join("socket/mupdate.target")
    }

    /// Returns the rules for mailbox names: these options, with the defaults of this release of
    /// Cyrus.
    pub fn rules(&self, release: Release) -> Rules {
        let defaults = Rules::defaults(release);
        Rules {
            release,
            virtdomains: self.virtdomains != Virtdomains::Off,
            defaultdomain: self.defaultdomain.clone().or(defaults.defaultdomain),
            unixhierarchysep: self.unixhierarchysep.unwrap_or(defaults.unixhierarchysep),
            postuser: self.postuser.clone(),
            downcase: self.lmtp_downcase_rcpt.unwrap_or(defaults.downcase),
            strict: self.lmtp_strict_rfc2821,
            // Releases before 2.5 ignore the option.
            catchall: self.lmtp_catchall_mailbox.clone().filter(|_| release >= Release::V2_5),
            fuzzy: self.lmtp_fuzzy_mailbox_match,
            autocreate: self.autocreate.clone(),
        }
    }
}

impl ImapdConf {
    /// Returns the typed options. An error is a value with which Cyrus would not start either.
    pub fn options(&self) -> Result<ImapdOptions, ConfError> {
        let string = |option| self.get(option).map(str::to_owned);
        let switch = |option, default| Ok(self.switch(option)?.unwrap_or(default));
        let configdirectory = Path::new(self.get("configdirectory").unwrap_or_default());
        let virtdomains =
            [("off", Virtdomains::Off), ("userid", Virtdomains::Userid), ("on", Virtdomains::On)];
        let mupdate_config = [
            ("standard", MupdateConfig::Standard),
            ("unified", MupdateConfig::Unified),
            ("replicated", MupdateConfig::Replicated),
        ];
        Ok(ImapdOptions {
            configdirectory: configdirectory.to_owned(),
            mboxlist_db_path: match self.get("mboxlist_db_path") {
                Some(path) => PathBuf::from(path),
                None => configdirectory.join("mailboxes.db"),
            },
            userdeny_db_path: match self.get("userdeny_db_path") {
                Some(path) => PathBuf::from(path),
                None => configdirectory.join("user_deny.db"),
            },
            mboxlist_db: string("mboxlist_db"),
            improved_mboxlist_sort: switch("improved_mboxlist_sort", false)?,
            umask: octal(self.get("umask").unwrap_or("077")),
            servername: string("servername"),

            virtdomains: self.choice("virtdomains", &virtdomains)?.unwrap_or(Virtdomains::Off),
            defaultdomain: string("defaultdomain"),
            unixhierarchysep: self.switch("unixhierarchysep")?,
            postuser: string("postuser").unwrap_or_default(),
            lmtp_downcase_rcpt: self.switch("lmtp_downcase_rcpt")?,
            lmtp_strict_rfc2821: switch("lmtp_strict_rfc2821", true)?,
            lmtp_catchall_mailbox: string("lmtp_catchall_mailbox"),
            lmtp_fuzzy_mailbox_match: switch("lmtp_fuzzy_mailbox_match", false)?,

            autocreate: self.autocreate()?,

            mupdate_server: string("mupdate_server"),
            mupdate_config: self
                .choice("mupdate_config", &mupdate_config)?
                .unwrap_or(MupdateConfig::Standard),
            proxyservers: self.get("proxyservers").is_some(),
            mupdate_username: string("mupdate_username"),
            mupdate_authname: string("mupdate_authname"),
            mupdate_realm: string("mupdate_realm"),
            mupdate_password: self.bytes("mupdate_password").map(Secret::new),
        })
    }
}

impl ImapdConf {
    /// Returns the autocreation options. The old names apply where the new ones are not set (2.5:
    /// `lib/libconfig.c`, `config_option_deprecated`).
    fn autocreate(&self) -> Result<Option<Autocreate>, ConfError> {
        let post = match self.switch("autocreate_post")? {
            None => self.switch("createonpost")?,
            set => set,
        };
        let quota = self.get("autocreate_quota").or_else(|| self.get("autocreatequota"));
        // The default is -1; a size such as `2G` is valid from 3.8 on.
        if post != Some(true) || quota.is_none_or(|quota| quota.starts_with('-')) {
            return Ok(None);
        }
        let words = |option| self.get(option).unwrap_or_default().split_whitespace();
        let users = self.get("autocreate_users").unwrap_or("anyone").split_whitespace();
        Ok(Some(Autocreate {
            users: users.map(str::to_owned).collect(),
            except: words("admins").chain(words("proxyservers")).map(str::to_owned).collect(),
        }))
    }
}

/// Parses octal as Cyrus parses the `umask`: other characters are skipped (`imap/global.c`,
/// `cyrus_init`).
fn octal(value: &str) -> u32 {
    value.chars().filter_map(|digit| digit.to_digit(8)).fold(0, |sum, digit| sum << 3 | digit)
        & 0o777
}

#[cfg(test)]
mod tests {
    use super::super::tests::one;
    use super::*;

    #[test]
    fn unset_options_have_the_defaults_of_cyrus() {
        let options = one("").options().unwrap();
        assert_eq!(options.mboxlist_db_path, Path::new("/var/lib/cyrus/mailboxes.db"));
        assert_eq!(options.kick_socket(), Path::new("/var/lib/cyrus/socket/mupdate.target"));
        assert_eq!((options.umask, options.postuser.as_str()), (0o077, ""));
        assert_eq!(options.virtdomains, Virtdomains::Off);
        assert_eq!(options.mupdate_config, MupdateConfig::Standard);
        assert_eq!((options.unixhierarchysep, options.lmtp_downcase_rcpt), (None, None));
        assert!(options.lmtp_strict_rfc2821 && !options.lmtp_fuzzy_mailbox_match);
        assert!(!options.proxyservers && !options.improved_mboxlist_sort);
        assert_eq!((options.mupdate_server, options.defaultdomain), (None, None));
    }

    #[test]
    fn frontend_of_debian_is_parsed() {
        let options = one("\
# Debian Cyrus imapd.conf
configdirectory_x: unused
proc_path: /run/cyrus/proc
mboxlist_db: twoskip
mboxlist_db_path:\t{configdirectory}/lists/mailboxes.db \t
defaultpartition: default
partition-default: /var/spool/cyrus/mail
partition-news: /var/spool/cyrus/news
altnamespace: no
unixhierarchysep: yes
lmtp_downcase_rcpt: yes
admins: cyrus
umask: 027
virtdomains: userid
defaultdomain: Example.org
sasl_pwcheck_method: auxprop saslauthd
sasl_mech_list: PLAIN
lmtpsocket: /run/cyrus/socket/lmtp
mupdate_server: mupdate.example.org:3905
mupdate_username: slave
mupdate_authname: slave@example.org
mupdate_password: p#ss \"word\"
be1_password: x
")
        .options()
        .unwrap();
        assert_eq!(options.mboxlist_db_path, Path::new("/var/lib/cyrus/lists/mailboxes.db"));
        assert_eq!(options.mboxlist_db.as_deref(), Some("twoskip"));
        assert_eq!(options.unixhierarchysep, Some(true));
        assert_eq!(options.lmtp_downcase_rcpt, Some(true));
        assert_eq!(options.umask, 0o027);
        assert_eq!(options.virtdomains, Virtdomains::Userid);
        assert_eq!(options.defaultdomain.as_deref(), Some("Example.org"));
        assert_eq!(options.mupdate_server.as_deref(), Some("mupdate.example.org:3905"));
        assert_eq!(options.mupdate_authname.as_deref(), Some("slave@example.org"));
        // A value contains no comments, and quotes are part of it.
        assert_eq!(options.mupdate_password.unwrap().reveal(), b"p#ss \"word\"");
        assert!(!options.proxyservers);
    }

    #[test]
    fn backend_unified_server_and_frontend_are_distinguished() {
        let options = one("proxyservers: fe1 fe2\nmupdate_server: mu\n").options().unwrap();
        assert!(options.proxyservers);
        let options = one("mupdate_config: unified\nmupdate_server: mu\n").options().unwrap();
        assert_eq!(options.mupdate_config, MupdateConfig::Unified);
    }

    #[test]
    fn virtdomains_accepts_switch_values() {
        for (value, meaning) in [
            ("yes", Virtdomains::On),
            ("1", Virtdomains::On),
            ("on", Virtdomains::On),
            ("no", Virtdomains::Off),
            ("f", Virtdomains::Off),
            ("userid", Virtdomains::Userid),
        ] {
            let options = one(&format!("virtdomains: {value}\n")).options().unwrap();
            assert_eq!(options.virtdomains, meaning, "{value}");
        }
        for value in ["userids", "On", "y", "user id"] {
            let error = one(&format!("virtdomains: {value}\n")).options().unwrap_err().to_string();
            let expected =
                format!("imapd.conf:2: `virtdomains: {value}` is none of off, userid, on");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn autocreation_needs_both_options_by_any_name() {
        for (text, on) in [
            ("autocreate_post: yes\nautocreate_quota: 0\n", true),
            ("autocreate_post: yes\nautocreate_quota: 5G\n", true),
            ("autocreate_post: yes\n", false),
            ("autocreate_post: yes\nautocreate_quota: -1\n", false),
            ("autocreate_quota: 0\n", false),
            ("autocreate_post: no\nautocreate_quota: 0\ncreateonpost: yes\n", false),
            ("createonpost: yes\nautocreatequota: 10000\n", true),
            ("createonpost: yes\nautocreate_quota: 0\n", true),
            ("lmtp_autocreate_post: yes\nlmtp_autocreate_quota: 0\n", true),
            ("autocreate_post: yes\nautocreate_quota: 0\nlmtp_autocreate_post: no\n", false),
            ("imap_autocreate_post: yes\nautocreate_quota: 0\n", false),
        ] {
            assert_eq!(one(text).options().unwrap().autocreate.is_some(), on, "{text}");
        }
        let text = "autocreate_post: 1\nautocreate_quota: 0\nadmins: cyrus root\n\
                    proxyservers: fe\nautocreate_users: a b\n";
        let autocreate = one(text).options().unwrap().autocreate.unwrap();
        assert_eq!(autocreate.users, ["a", "b"]);
        assert_eq!(autocreate.except, ["cyrus", "root", "fe"]);
    }

    #[test]
    fn invalid_value_is_an_error_with_its_line() {
        for (text, error) in [
            ("\nunixhierarchysep: maybe\n", "imapd.conf:3: `unixhierarchysep: maybe` is neither"),
            ("mupdate_config: x\n", "imapd.conf:2: `mupdate_config: x` is none of standard,"),
            ("lmtp_lmtp_downcase_rcpt: X\n", "imapd.conf:2: `lmtp_downcase_rcpt: X` is neither"),
        ] {
            let found = one(text).options().unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
        }
    }
}
