//! Warnings of the configuration: settings that work, and probably not as meant.

use std::fmt;
use std::path::PathBuf;

use super::mupdate::MasterUnusable;
use crate::imapd_conf;

/// Warning about a configuration that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigWarning {
    /// A line of imapd.conf.
    ImapdConf(imapd_conf::Warning),
    /// An imapd.conf without any option, as one that is being written.
    EmptyImapdConf(PathBuf),
    /// No imapd.conf sets the rules for mailbox names.
    NoImapdConf {
        /// The list of this host is not used either.
        without_cyrus: bool,
    },
    /// This host is a backend of a standard murder.
    BackendList {
        /// The master confirms misses.
        asks_master: bool,
    },
    /// This host has mailboxes of its own, and no address for their delivery is set.
    LocalMailboxes,
    /// `lmtp_fuzzy_mailbox_match` is set, and the source `find` has no list to search.
    FuzzyWithoutList,
    /// `autocreate_post` is set, and no backend for new users.
    NewUsersDeferred,
    /// The master cannot be asked, and the list that is read is not that of the slave of this host.
    SlaveKeepsOtherList(MasterUnusable),
    /// The master cannot be asked, so the slave of this host confirms misses.
    SlaveConfirms(MasterUnusable),
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigWarning::ImapdConf(warning) => warning.fmt(f),
            ConfigWarning::EmptyImapdConf(path) => {
                write!(f, "{}: sets nothing and is ignored", path.display())
            }
            ConfigWarning::NoImapdConf { without_cyrus: true } => f.write_str(
                "no imapd.conf: mailbox names follow the defaults of Cyrus; unless `unknown` is set, \
                 recipients that do not exist are deferred; set `imapd-conf` to a copy of a frontend's",
            ),
            ConfigWarning::NoImapdConf { without_cyrus: false } => f.write_str(
                "no imapd.conf: mailbox names follow the defaults of Cyrus; on a host of a murder set \
                 `imapd-conf`",
            ),
            ConfigWarning::BackendList { asks_master } => {
                f.write_str(
                    "imapd.conf sets `proxyservers`, as backends do: the list of a backend holds only \
                     its own mailboxes; ",
                )?;
                f.write_str(match asks_master {
                    true => "the master is asked for each other recipient",
                    false => "misses cannot be confirmed and are deferred",
                })
            }
            ConfigWarning::LocalMailboxes => f.write_str(
                "imapd.conf sets `mupdate_config`: this host has mailboxes of its own; their mail is \
                 deferred; set `local` in [backends]",
            ),
            ConfigWarning::FuzzyWithoutList => f.write_str(
                "lmtp_fuzzy_mailbox_match needs a list to search: with the source `find` mail to a \
                 shared folder that does not exist under its exact name is deferred",
            ),
            ConfigWarning::NewUsersDeferred => f.write_str(
                "imapd.conf sets `autocreate_post`: lmtpd creates the mailboxes of new users; mail to \
                 users without a mailbox is deferred; set `autocreate` in [backends] to the server on \
                 which new mailboxes are created",
            ),
            ConfigWarning::SlaveKeepsOtherList(why) => write!(
                f,
                "`mailboxes-db` is not the list that the MUPDATE slave of this host keeps, and the \
                 master cannot be asked; recipients that do not exist are deferred: {why}"
            ),
            ConfigWarning::SlaveConfirms(why) => write!(
                f,
                "the MUPDATE master cannot be asked; misses are confirmed by the MUPDATE slave of this \
                 host, whose resync can lose accounts: {why}"
            ),
        }
    }
}
