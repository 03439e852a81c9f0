//! MUPDATE without mail: a master with the whole list, and a frontend with a slave.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clients::sasl_plain;
use crate::list::Site;
use crate::sandbox::{self, Process, STATE};
use crate::{Done, ensure, run};

/// Address of the master. An address is also a host's `servername`, so no name needs to be resolved.
pub const MASTER: &str = "127.0.1.10";
const FRONTEND: &str = "127.0.1.21";

/// The name that all hosts use to log in to the master.
const ADMIN: &str = "cyrus";
const PASSWORD: &str = "cyrus";

/// Longest time for a full list.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(300);

/// A host with only the service `mupdate`.
pub struct Host {
    name: &'static str,
    address: &'static str,
    process: Process,
}

/// A master that has the list and accepts connections.
pub fn master(site: &Site) -> Done<Host> {
    let options = configure(site, "master", MASTER, "")?;
    run(sandbox::command("sh").args([
        "-c",
        r#"printf %s "$3" | saslpasswd2 -p -c -f "$0" -u "$1" "$2" && chmod 644 "$0""#,
        &format!("{STATE}/sasldb2"),
        MASTER,
        ADMIN,
        PASSWORD,
    ]))?;
    site.copy(site.mailboxes_db(), &mailboxes_db("master"))?;
    let master = start("master", MASTER, &format!("{options} -m"))?;
    master.greets()?;
    Ok(master)
}

/// A frontend with only its slave, which has no list yet. Returns it with the seconds from the slave's
/// start until it accepted connections, which it does once it has the master's list.
pub fn frontend(site: &Site) -> Done<(Host, f64)> {
    let _ = fs::remove_dir_all(dir("frontend"));
    let options = configure(site, "frontend", FRONTEND, &client())?;
    let began = Instant::now();
    let frontend = start("frontend", FRONTEND, &options)?;
    frontend.greets()?;
    Ok((frontend, began.elapsed().as_secs_f64()))
}

/// Lines of an imapd.conf for the master. A slave asks for changes as often as by default.
pub fn client() -> String {
    format!(
        "mupdate_server: {MASTER}\nmupdate_username: {ADMIN}\nmupdate_authname: {ADMIN}\n\
         mupdate_password: {PASSWORD}\n"
    )
}

/// Directory of the frontend.
pub fn frontend_dir() -> String {
    dir("frontend")
}

fn dir(name: &str) -> String {
    format!("{STATE}/{name}")
}

fn mailboxes_db(name: &str) -> String {
    format!("{}/conf/mailboxes.db", dir(name))
}

/// Creates the directories and an imapd.conf. Returns the options that name it.
fn configure(site: &Site, name: &str, address: &str, more: &str) -> Done<String> {
    let dir = dir(name);
    for sub in ["", "/conf", "/conf/db", "/conf/socket", "/conf/proc", "/conf/lock", "/spool"] {
        sandbox::make_dir(&format!("{dir}{sub}"), site.cyrus)?;
    }
    let conf = format!(
        "configdirectory: {dir}/conf\npartition-default: {dir}/spool\n\
         defaultpartition: default\nadmins: {ADMIN}\nservername: {address}\n\
         virtdomains: userid\ndefaultdomain: example.org\nunixhierarchysep: yes\n\
         sasl_pwcheck_method: auxprop\nsasl_auxprop_plugin: sasldb\nsasl_mech_list: PLAIN\n\
         sasl_sasldb_path: {STATE}/sasldb2\nallowplaintext: yes\n{more}"
    );
    fs::write(format!("{dir}/imapd.conf"), conf)?;
    Ok(format!("-C {dir}/imapd.conf"))
}

fn start(name: &'static str, address: &'static str, options: &str) -> Done<Host> {
    let dir = dir(name);
    let services = format!("{dir}/cyrus.conf");
    fs::write(
        &services,
        format!(
            "START {{\n}}\nSERVICES {{\n\
             mupdate cmd=\"mupdate {options}\" listen=\"{address}:3905\" prefork=1\n}}\nEVENTS {{\n}}\n"
        ),
    )?;
    let mut command = sandbox::command("/usr/lib/cyrus/bin/master");
    command.args(["-C", &format!("{dir}/imapd.conf"), "-M", &services]);
    command.args(["-p", &format!("{dir}/master.pid")]);
    let output = format!("{dir}/output");
    let process = Process::start(name, &mut command, Path::new(&output))?;
    Ok(Host { name, address, process })
}

impl Host {
    /// Path of its list.
    pub fn mailboxes_db(&self) -> String {
        mailboxes_db(self.name)
    }

    /// Waits until it accepts connections.
    fn greets(&self) -> Done {
        let connected = || Ok(Some(TcpStream::connect((self.address, 3905))?));
        let mut stream = sandbox::poll(&format!("{} to listen", self.name), 30, connected)?;
        stream.set_read_timeout(Some(LIST_TIMEOUT))?;
        ensure!(stream.read(&mut [0; 1024])? > 0, "{}: the connection is closed", self.name);
        Ok(())
    }

    pub fn stop(self) -> Done {
        self.process.stop()
    }
}

/// A connection to the master, logged in as a backend is.
pub struct Connection(TcpStream);

impl Connection {
    pub fn log_in() -> Done<Self> {
        let mut connection = Self(TcpStream::connect((MASTER, 3905))?);
        connection.0.set_read_timeout(Some(LIST_TIMEOUT))?;
        connection.read_to("(master)\"\r\n")?;
        // Data that arrives before the login is complete is discarded, so nothing is sent ahead.
        let login = sasl_plain("", ADMIN, PASSWORD);
        connection.send(&format!("A AUTHENTICATE \"PLAIN\" \"{login}\""))?;
        connection.read_to("A OK \"Authenticated\"\r\n")?;
        Ok(connection)
    }

    /// Sends a line.
    pub fn send(&mut self, line: &str) -> Done {
        Ok(self.0.write_all(format!("{line}\r\n").as_bytes())?)
    }

    /// Reads until the data ends with this text. Returns the number of bytes.
    pub fn read_to(&mut self, end: &str) -> Done<usize> {
        let mut piece = vec![0; 64 * 1024];
        let mut tail = Vec::new();
        let mut bytes = 0;
        while !tail.ends_with(end.as_bytes()) {
            let read = self.0.read(&mut piece)?;
            let said = tail.escape_ascii();
            ensure!(read > 0, "the master closed the connection after `{said}`");
            bytes += read;
            // The end may arrive in two pieces.
            tail.extend_from_slice(&piece[read.saturating_sub(end.len())..read]);
            tail.drain(..tail.len().saturating_sub(end.len()));
        }
        Ok(bytes)
    }
}
