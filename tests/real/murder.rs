//! The Murder: a MUPDATE master, two backends and a frontend, each a separate Cyrus with its own
//! directories, on one machine.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::Path;

use crate::clients::Connection;
use crate::clients::imap::Imap;
use crate::clients::mupdate::Mupdate;
use crate::root::Release;
use crate::sandbox::{self, Process, STATE, User};
use crate::tls::Certificate;
use crate::{Done, ensure, run};

/// The admin of every host, by which the hosts also log in to each other.
pub const ADMIN: &str = "cyrus";
pub const PASSWORD: &str = "cyrus";

/// Role of a host in the Murder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master,
    Backend,
    Frontend,
}

/// One Cyrus.
pub struct Host {
    pub name: &'static str,
    /// Its address, which is also its `servername`: no name needs to be resolved.
    pub address: &'static str,
    pub role: Role,
    pub release: Release,
    process: Option<Process>,
}

/// All hosts of the Murder.
pub struct Murder {
    pub master: Host,
    pub backends: [Host; 2],
    pub frontend: Host,
    pub cyrus: User,
}

/// Addresses of the backends.
pub const BACKENDS: [&str; 2] = ["127.0.1.11", "127.0.1.12"];

/// Address of the master.
pub const MASTER: &str = "127.0.1.10";

/// Port of an imapd without `unixhierarchysep` on a backend.
const DOTS: u16 = 144;

/// Options that decide how a recipient becomes a mailbox, and the admin's login: equal on every host.
const COMMON: &str = "\
defaultpartition: default
admins: cyrus
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
virtdomains: userid
defaultdomain: example.org
unixhierarchysep: yes
altnamespace: no
hashimapspool: no
";

/// Login settings of a host.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// `sasl_mech_list`.
    pub mechanisms: &'a str,
    /// `allowplaintext`: whether a password may be sent in the clear without TLS.
    pub plaintext: bool,
    /// Certificate shown after STARTTLS, which is offered only with one.
    pub certificate: Option<&'a Certificate>,
}

impl Access<'static> {
    /// Settings of a host by default. SCRAM is for clients that do not send a password in the clear; Cyrus'
    /// own slave uses it where it is offered.
    pub fn usual(role: Role) -> Self {
        let mechanisms = match role {
            Role::Master => "PLAIN SCRAM-SHA-1 SCRAM-SHA-256",
            Role::Backend | Role::Frontend => "PLAIN",
        };
        Self { mechanisms, plaintext: true, certificate: None }
    }
}

impl Access<'_> {
    fn imapd_conf(&self) -> String {
        let plaintext = if self.plaintext { "yes" } else { "no" };
        let mut options =
            format!("sasl_mech_list: {}\nallowplaintext: {plaintext}\n", self.mechanisms);
        if let Some(Certificate { certificate, key }) = self.certificate {
            // Without `allowstarttls` 3.10.2 and 3.12 do not offer it; the other releases do not have the
            // option.
            options += &format!(
                "tls_server_cert: {certificate}\ntls_server_key: {key}\nallowstarttls: yes\n"
            );
        }
        options
    }
}

impl Host {
    pub fn new(name: &'static str, address: &'static str, role: Role, release: Release) -> Self {
        Self { name, address, role, release, process: None }
    }

    /// Its directory, with the same path inside and outside of the root.
    pub fn dir(&self) -> String {
        format!("{STATE}/{}", self.name)
    }

    pub fn imapd_conf(&self) -> String {
        format!("{}/imapd.conf", self.dir())
    }

    /// Path of this host's list.
    pub fn mailboxes_db(&self) -> String {
        format!("{}/conf/mailboxes.db", self.dir())
    }

    /// Socket of a frontend's own lmtpd.
    pub fn lmtp_socket(&self) -> String {
        format!("{}/lmtp", self.dir())
    }

    /// Writes its configuration and creates its directories.
    pub fn configure(&self, cyrus: User, master: &str, access: &Access<'_>) -> Done {
        let (dir, address) = (self.dir(), self.address);
        for sub in ["", "/conf", "/conf/db", "/conf/socket", "/conf/proc", "/conf/lock", "/spool"] {
            sandbox::make_dir(&format!("{dir}{sub}"), cyrus)?;
        }
        let mut imapd = format!(
            "{COMMON}configdirectory: {dir}/conf\n\
             partition-default: {dir}/spool\n\
             servername: {address}\n\
             syslog_prefix: {}\n\
             sasl_sasldb_path: {STATE}/sasldb2\n\
             {}",
            self.name,
            access.imapd_conf(),
        );
        if self.role != Role::Master {
            imapd += &format!(
                "mupdate_server: {master}\n\
                 mupdate_username: {ADMIN}\n\
                 mupdate_authname: {ADMIN}\n\
                 mupdate_password: {PASSWORD}\n\
                 mupdate_retry_delay: 2\n\
                 proxy_authname: {ADMIN}\n\
                 proxy_password: {PASSWORD}\n"
            );
        }
        if self.role == Role::Backend {
            // `proxyservers` distinguishes a backend from a frontend. Without `allowusermoves` XFER replies
            // OK and moves nothing (3.6.1).
            imapd +=
                &format!("proxyservers: {ADMIN}\nallowusermoves: yes\ndots_unixhierarchysep: no\n");
        }
        fs::write(self.imapd_conf(), imapd)?;

        // Every program needs the option -C: none inherits it from the master process.
        let conf = format!("-C {}", self.imapd_conf());
        let (start, services) = match self.role {
            Role::Master => (
                String::new(),
                format!("mupdate cmd=\"mupdate {conf} -m\" listen=\"{address}:3905\" prefork=1\n"),
            ),
            Role::Backend => (
                format!("push cmd=\"ctl_mboxlist {conf} -m\"\n"),
                // With -a a client may send at once, as Postfix does, but can no longer log in, as a
                // frontend's lmtpd does: hence two services.
                format!(
                    "imap cmd=\"imapd {conf}\" listen=\"{address}:143\"\n\
                     dots cmd=\"imapd {conf}\" listen=\"{address}:{DOTS}\"\n\
                     lmtp cmd=\"lmtpd {conf} -a\" listen=\"{address}:2003\"\n\
                     lmtplogin cmd=\"lmtpd {conf}\" listen=\"{address}:2004\"\n"
                ),
            ),
            Role::Frontend => (
                String::new(),
                format!(
                    "mupdate cmd=\"mupdate {conf}\" listen=\"{address}:3905\" prefork=1\n\
                     imap cmd=\"imapd {conf}\" listen=\"{address}:143\"\n\
                     lmtp cmd=\"lmtpd {conf}\" listen=\"{}\"\n\
                     lmtptcp cmd=\"lmtpd {conf} -a\" listen=\"{address}:2003\"\n",
                    self.lmtp_socket(),
                ),
            ),
        };
        let cyrus_conf = format!(
            "START {{\nrecover cmd=\"ctl_cyrusdb {conf} -r\"\n{start}}}\n\
             SERVICES {{\n{services}}}\nEVENTS {{\n}}\n"
        );
        fs::write(format!("{dir}/cyrus.conf"), cyrus_conf)?;
        Ok(())
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(&mut self) -> Done {
        let dir = self.dir();
        let mut command = sandbox::command("/usr/lib/cyrus/bin/master");
        command.args(["-C", &self.imapd_conf(), "-M", &format!("{dir}/cyrus.conf")]);
        command.args(["-p", &format!("{dir}/master.pid")]);
        let output = format!("{dir}/output");
        self.process = Some(Process::start(self.name, &mut command, Path::new(&output))?);
        // A frontend's mupdate accepts connections only once it has the master's list, which may be later.
        let port = if self.role == Role::Master { 3905 } else { 143 };
        let serving = format!("{} to accept connections at port {port}", self.name);
        sandbox::poll(&serving, 60, || Ok(TcpStream::connect((self.address, port)).ok()))?;
        Ok(())
    }

    fn take(&mut self) -> Done<Process> {
        self.process.take().ok_or_else(|| format!("{} is not running", self.name).into())
    }

    /// Stops it cleanly.
    pub fn stop(&mut self) -> Done {
        self.take()?.stop()
    }

    /// Kills all of its processes.
    pub fn kill(&mut self) -> Done {
        self.take()?.kill()
    }

    /// Its processes.
    pub fn process(&self) -> Done<&Process> {
        self.process.as_ref().ok_or_else(|| format!("{} is not running", self.name).into())
    }

    /// Logs in by IMAP as the admin.
    pub fn admin(&self) -> Done<Imap> {
        self.imap("")
    }

    /// Logs in by IMAP as a user of the host.
    pub fn imap(&self, user: &str) -> Done<Imap> {
        Imap::login(&format!("{}:143", self.address), user, ADMIN, PASSWORD)
    }

    /// Moves a mailbox from this backend to another.
    pub fn xfer(&self, mailbox: &str, to: &Host) -> Done {
        // 3.2.6 looks for the internal name among external ones (imap/imapd.c:cmd_xfer). Unless the two are
        // equal, it moves nothing and replies OK. The same applies at the other backend.
        let (port, name, to_port) = match self.release {
            Release::V3_2 => (DOTS, mailbox.replace('.', "^").replace('/', "."), ":144"),
            Release::V3_6 | Release::V3_10 | Release::V3_12 => (143, mailbox.to_owned(), ""),
        };
        let mut admin = Imap::login(&format!("{}:{port}", self.address), "", ADMIN, PASSWORD)?;
        let said = admin.command(&format!("XFER {name} {}{to_port}", to.address))?;
        let moved = said.iter().any(|line| line.starts_with("* OK"));
        ensure!(moved, "XFER {name} to {} moved nothing: {said:?}", to.address);
        Ok(())
    }

    /// Creates `user/NAME0`, `user/NAME1` and so on.
    pub fn create_many(&self, name: &str, count: usize) -> Done {
        let mut admin = self.admin()?;
        for nth in 0..count {
            admin.command(&format!("CREATE user/{name}{nth}"))?;
        }
        Ok(())
    }

    /// Renames the mailboxes of [`Host::create_many`].
    pub fn rename_many(&self, name: &str, new_name: &str, count: usize) -> Done {
        let mut admin = self.admin()?;
        for nth in 0..count {
            admin.command(&format!("RENAME user/{name}{nth} user/{new_name}{nth}"))?;
        }
        Ok(())
    }

    /// Moves the mailboxes of [`Host::create_many`] to another backend.
    pub fn xfer_many(&self, name: &str, count: usize, to: &Host) -> Done {
        (0..count).try_for_each(|nth| self.xfer(&format!("user/{name}{nth}"), to))
    }
}

impl Murder {
    /// Configures and starts all hosts, the master first.
    pub fn start(release: Release) -> Done<Self> {
        let cyrus = sandbox::user("cyrus")?;
        let mut murder = Self {
            master: Host::new("master", MASTER, Role::Master, release),
            backends: [
                Host::new("be1", BACKENDS[0], Role::Backend, release),
                Host::new("be2", BACKENDS[1], Role::Backend, release),
            ],
            frontend: Host::new("fe1", "127.0.1.21", Role::Frontend, release),
            cyrus,
        };
        for host in murder.hosts() {
            host.configure(cyrus, MASTER, &Access::usual(host.role))?;
            make_login(host.address, cyrus)?;
        }
        for host in murder.hosts() {
            host.start()?;
        }
        Ok(murder)
    }

    fn hosts(&mut self) -> [&mut Host; 4] {
        let [be1, be2] = &mut self.backends;
        [&mut self.master, be1, be2, &mut self.frontend]
    }

    /// Restarts the master with other login settings.
    pub fn restart_master(&mut self, access: &Access<'_>) -> Done {
        self.master.stop()?;
        self.master.configure(self.cyrus, MASTER, access)?;
        self.master.start()
    }

    /// Restarts the master with an empty list. A backend pushes its mailboxes only when it is started
    /// itself.
    pub fn restart_master_empty(&mut self) -> Done {
        self.master.kill()?;
        fs::remove_file(self.master.mailboxes_db())?;
        self.master.start()
    }

    /// Replaces the master by another host at its address, with the list of the frontend's slave, as an
    /// administrator does after the loss of the master.
    pub fn promote_slave(&mut self) -> Done {
        self.master.kill()?;
        let promoted = Host::new("promoted", MASTER, Role::Master, self.master.release);
        promoted.configure(self.cyrus, MASTER, &Access::usual(Role::Master))?;
        fs::copy(self.frontend.mailboxes_db(), promoted.mailboxes_db())?;
        chown(promoted.mailboxes_db(), Some(self.cyrus.uid), Some(self.cyrus.gid))?;
        self.master = promoted;
        self.master.start()
    }

    /// Holds this many connections with the master, or as many as are free, until dropped. The master
    /// accepts 128 (`mupdate_connections_max`), including those of the slaves.
    pub fn hold_connections(&self, count: usize) -> Done<Vec<Connection>> {
        let mut held = Vec::new();
        while held.len() < count {
            let mut connection = Connection::open(&format!("{MASTER}:3905"))?;
            if connection.line()?.starts_with("* BYE") {
                break;
            }
            held.push(connection);
        }
        Ok(held)
    }

    /// A session with the master, as a backend has one.
    pub fn mupdate(&self) -> Done<Mupdate> {
        Mupdate::login(self.master.address, ADMIN, PASSWORD)
    }
}

/// Sets the admin's password on a host. Cyrus' realm is the host's `servername`.
pub fn make_login(servername: &str, cyrus: User) -> Done {
    let database = format!("{STATE}/sasldb2");
    run(sandbox::command("sh").args([
        "-c",
        r#"printf %s "$3" | saslpasswd2 -p -c -f "$0" -u "$1" "$2""#,
        &database,
        servername,
        ADMIN,
        PASSWORD,
    ]))?;
    chown(&database, Some(cyrus.uid), Some(cyrus.gid))?;
    Ok(())
}
