//! A mail exchanger that has nothing of Cyrus: `murder-route` runs there as a user of its own, with
//! a copy of an imapd.conf, and keeps a replica of the master's list.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use crate::murder::{ADMIN, MASTER, MasterClient, PASSWORD};
use crate::root::Release;
use crate::router::{Setup, cyrus_release};
use crate::sandbox::{self, STATE, User};
use crate::{Done, imapd_conf, world};

/// Nobody else's: it owns no file of Cyrus', and is in no group of its.
pub const USER: User = User { uid: 2000, gid: 2000 };

/// How it is told whom to ask.
const PORT: u16 = 3905;

/// The host.
pub struct Exchanger {
    release: Release,
}

/// The path of one of its files.
pub fn path(name: &str) -> String {
    format!("{STATE}/mx/{name}")
}

/// Where the replica is.
pub fn replica() -> String {
    path("replica")
}

impl Exchanger {
    /// Makes its files.
    pub fn make(murder: &MasterClient) -> Done<Self> {
        sandbox::make_dir(&format!("{STATE}/mx"), USER)?;
        sandbox::make_dir(&replica(), USER)?;
        let exchanger = Self { release: murder.frontend.release };
        let original = fs::read_to_string(murder.frontend.imapd_conf())?;
        for (name, server) in
            [("imapd.conf", MASTER), ("imapd-slave.conf", murder.frontend.address)]
        {
            // As the file of a host with Cyrus, but nothing that it names is here.
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

    /// Removes the replica: a mailbox of an earlier scenario that was deleted while no daemon followed
    /// would be deferred, since nobody told of its deletion.
    pub fn forget_replica(&self) -> Done {
        fs::remove_dir_all(replica())?;
        sandbox::make_dir(&replica(), USER)
    }

    /// Writes a file that only its user may read; its path.
    pub fn write(&self, name: &str, text: &str) -> Done<String> {
        let path = path(name);
        fs::write(&path, text)?;
        chown(&path, Some(USER.uid), Some(USER.gid))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// Everything by options.
    pub fn by_options(&self, source: &str) -> Setup {
        self.asking(source, "imapd.conf", &[])
    }

    /// The same, but it is the frontend's slave that is asked, which wants the password itself.
    pub fn asking_the_slave(&self, source: &str) -> Setup {
        self.asking(source, "imapd-slave.conf", &["--allow-plaintext"])
    }

    fn asking(&self, source: &str, imapd_conf: &str, more: &[&str]) -> Setup {
        let (imapd_conf, replica) = (path(imapd_conf), replica());
        // A file of ours, so that none of the host's is read.
        let file = path("release.toml");
        let mut options = vec!["--config", &file, "--imapd-conf", &imapd_conf];
        options.extend(["--source", source, "--replica", &replica]);
        options.extend(more);
        for domain in world::DOMAINS {
            options.extend(["--domain", domain]);
        }
        Setup::new(&options, USER)
    }

    /// With a configuration file in which `[mupdate]` has these lines. The replica is the same.
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
