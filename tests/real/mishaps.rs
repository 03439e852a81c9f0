//! Faults of a master: it is reconfigured, it loses its list, a promoted slave replaces it.

use std::fs;
use std::os::unix::fs::chown;

use crate::murder::{Access, Host, MASTER, Murder, Role, make_login};
use crate::sandbox::User;
use crate::{Done, imapd_conf, run, sandbox};

/// Address of the promoted slave.
pub const PROMOTED: &str = "127.0.1.13";

impl Host {
    /// Restarts the host with these options beside its first ones.
    pub fn restart_with(&mut self, options: &[(&str, &str)]) -> Done {
        let (file, first) = (self.imapd_conf(), format!("{}.first", self.imapd_conf()));
        if !fs::exists(&first)? {
            fs::copy(&file, &first)?;
        }
        // It may have been killed.
        let _ = self.stop();
        fs::write(&file, imapd_conf::changed(&fs::read_to_string(&first)?, options))?;
        self.start()
    }

    /// Restarts the host with a copy of another list.
    pub fn restart_with_list(&mut self, list: &str, cyrus: User) -> Done {
        self.stop()?;
        fs::copy(list, self.mailboxes_db())?;
        chown(self.mailboxes_db(), Some(cyrus.uid), Some(cyrus.gid))?;
        self.start()
    }

    /// Pushes all mailboxes of this backend to the master, and removes there those that it no longer has.
    pub fn push(&self) -> Done {
        run(sandbox::command("ctl_mboxlist").args(["-C", &self.imapd_conf(), "-m"])).map(drop)
    }
}

/// Starts a frontend as the master in an emergency, with the last list of its slave.
pub fn promote_a_slave(murder: &Murder) -> Done<Host> {
    let mut host = Host::new("deputy", PROMOTED, Role::Master, murder.master.release);
    host.configure(murder.cyrus, MASTER, &Access::usual(Role::Master))?;
    make_login(PROMOTED, murder.cyrus)?;
    fs::copy(murder.frontend.mailboxes_db(), host.mailboxes_db())?;
    chown(host.mailboxes_db(), Some(murder.cyrus.uid), Some(murder.cyrus.gid))?;
    host.start()?;
    Ok(host)
}
