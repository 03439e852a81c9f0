//! A mail exchanger without Cyrus: `murder-route` runs as its own user, with a copy of an imapd.conf, and
//! keeps a replica of the master's list.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use crate::murder::{ADMIN, MASTER, Murder, PASSWORD};
use crate::root::Release;
use crate::router::{Setup, cyrus_release};
use crate::sandbox::{self, STATE, User};
use crate::{Done, imapd_conf, world};

/// A separate user that owns no file of Cyrus and is in none of its groups.
pub const USER: User = User { uid: 2000, gid: 2000 };

/// Port in `mupdate_server`.
const PORT: u16 = 3905;

/// The host.
pub struct Exchanger {
    release: Release,
}

/// Path of one of the host's files.
pub fn path(name: &str) -> String {
    format!("{STATE}/mx/{name}")
}

/// Directory of the replica.
pub fn replica() -> String {
    path("replica")
}

impl Exchanger {
    /// Creates the host's files.
    pub fn make(murder: &Murder) -> Done<Self> {
        sandbox::make_dir(&format!("{STATE}/mx"), USER)?;
        sandbox::make_dir(&replica(), USER)?;
        let exchanger = Self { release: murder.frontend.release };
        let original = fs::read_to_string(murder.frontend.imapd_conf())?;
        for (name, server) in
            [("imapd.conf", MASTER), ("imapd-slave.conf", murder.frontend.address)]
        {
            // Like the file of a host with Cyrus, but the paths in it do not exist here.
            let copy = imapd_conf::changed(
                &original,
                &[
                    ("configdirectory", "/nowhere"),
                    ("partition-default", "/nowhere/spool"),
                    ("mupdate_server", &format!("{server}:{PORT}")),
                ],
            );
            exchanger.write(name, &copy)?;
        }
        exchanger.write("password", PASSWORD)?;
        exchanger.write("wrong-password", "somebody else's")?;
        exchanger.write("release.toml", &cyrus_release(exchanger.release))?;
        Ok(exchanger)
    }

    /// Removes the replica. Otherwise a mailbox of an earlier scenario that was deleted while no daemon was
    /// running would be deferred, since no DELETE for it arrived.
    pub fn forget_replica(&self) -> Done {
        fs::remove_dir_all(replica())?;
        sandbox::make_dir(&replica(), USER)
    }

    /// Writes a file that only the host's user may read. Returns its path.
    pub fn write(&self, name: &str, text: &str) -> Done<String> {
        let path = path(name);
        fs::write(&path, text)?;
        chown(&path, Some(USER.uid), Some(USER.gid))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// Configured by options only.
    pub fn by_options(&self, source: &str) -> Setup {
        self.asking(source, "imapd.conf", &[])
    }

    /// Configured by options only, with the frontend's slave as the server, which demands PLAIN.
    pub fn asking_the_slave(&self, source: &str) -> Setup {
        self.asking(source, "imapd-slave.conf", &["--allow-plaintext"])
    }

    fn asking(&self, source: &str, imapd_conf: &str, more: &[&str]) -> Setup {
        let (imapd_conf, replica) = (path(imapd_conf), replica());
        // An own file, so that no file of the host is read.
        let file = path("release.toml");
        let mut options = vec!["--config", &file, "--imapd-conf", &imapd_conf];
        options.extend(["--source", source, "--replica", &replica]);
        options.extend(more);
        for domain in world::DOMAINS {
            options.extend(["--domain", domain]);
        }
        Setup::new(&options, USER)
    }

    /// Configured by a file with these lines in `[mupdate]`, and the same replica.
    pub fn by_file(&self, name: &str, mupdate: &str) -> Done<Setup> {
        let text = format!(
            "{}source = \"replica\"\n\
             imapd-conf = {:?}\n\
             domains = {:?}\n\
             [replica]\n\
             directory = {:?}\n\
             [mupdate]\n\
             authname = {ADMIN:?}\n\
             {mupdate}",
            cyrus_release(self.release),
            path("imapd.conf"),
            world::DOMAINS,
            replica(),
        );
        let file = self.write(&format!("{name}.toml"), &text)?;
        Ok(Setup::new(&["--config", &file], USER))
    }
}
