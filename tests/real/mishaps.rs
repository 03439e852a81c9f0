//! What befalls a master: it is configured anew, it loses its list, a promoted slave stands in for it.

use std::fs;
use std::os::unix::fs::chown;

use crate::murder::{Access, Host, MASTER, MasterClient, Role, make_login};
use crate::sandbox::User;
use crate::{Done, imapd_conf, run, sandbox};

/// The address of the slave that is promoted.
pub const PROMOTED: &str = "127.0.1.13";

impl Host {
    /// Starts it anew with these options beside what it had at first.
    pub fn restart_with(&mut self, options: &[(&str, &str)]) -> Done {
        let (file, first) = (self.imapd_conf(), format!("{}.first", self.imapd_conf()));
        if !fs::exists(&first)? {
            fs::copy(&file, &first)?;
        }
        // It may have been killed before.
        let _ = self.stop();
        fs::write(&file, imapd_conf::changed(&fs::read_to_string(&first)?, options))?;
        self.start()
    }

    /// Starts it anew with another list, which is copied.
    pub fn restart_with_list(&mut self, list: &str, cyrus: User) -> Done {
        self.stop()?;
        fs::copy(list, self.mailboxes_db())?;
        chown(self.mailboxes_db(), Some(cyrus.uid), Some(cyrus.gid))?;
        self.start()
    }

    /// Tells the master of all mailboxes of this backend, and of those that it has no more.
    pub fn push(&self) -> Done {
        run(sandbox::command("ctl_mboxlist").args(["-C", &self.imapd_conf(), "-m"])).map(drop)
    }
}

/// A frontend made master in the emergency: it has the list as its slave had it last.
pub fn promote_a_slave(murder: &MasterClient) -> Done<Host> {
    let mut host = Host::new("deputy", PROMOTED, Role::Master, murder.master.release);
    host.configure(murder.cyrus, MASTER, &Access::usual(Role::Master))?;
    make_login(PROMOTED, murder.cyrus)?;
    fs::copy(murder.frontend.mailboxes_db(), host.mailboxes_db())?;
    chown(host.mailboxes_db(), Some(murder.cyrus.uid), Some(murder.cyrus.gid))?;
    host.start()?;
    Ok(host)
}
