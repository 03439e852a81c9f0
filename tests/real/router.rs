//! `murder-route` itself, run as the Cyrus user beside the frontend.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::sandbox::{self, Process, STATE, User};
use crate::{Done, ensure, run};

/// Where Postfix asks.
pub const SOCKET: &str = "/run/murder-route";

/// The program, at a path that the Cyrus user may reach wherever the project lies.
const PROGRAM: &str = "/run/murder-route-program";

/// The configuration that must suffice: which imapd.conf, and whose domains.
#[derive(Clone)]
pub struct Setup {
    pub imapd_conf: String,
    /// Another list than the one imapd.conf names.
    pub mailboxes_db: Option<String>,
    pub domains: &'static [&'static str],
    pub cyrus: User,
}

/// What `lookup --json` says of one recipient.
#[derive(Debug)]
pub struct Lookup {
    pub recipient: String,
    pub outcome: String,
    pub server: String,
    pub answer: String,
    pub reason: String,
}

/// Makes the built program reachable, and lets it make its socket in /run, as an administrator
/// must one way or the other.
pub fn install(cyrus: User) -> Done {
    chown("/run", None, Some(cyrus.gid))?;
    fs::set_permissions("/run", Permissions::from_mode(0o775))?;
    fs::write(PROGRAM, "")?;
    run(Command::new("mount").args(["--bind", env!("CARGO_BIN_EXE_murder-route"), PROGRAM]))?;
    Ok(())
}

impl Setup {
    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.uid(self.cyrus.uid).gid(self.cyrus.gid).env_clear().current_dir("/");
        command.args([subcommand, "--imapd-conf", &self.imapd_conf]);
        if let Some(list) = &self.mailboxes_db {
            command.args(["--mailboxes-db", list]);
        }
        for domain in self.domains {
            command.args(["--domain", domain]);
        }
        command
    }

    /// `lookup --json` for each of the recipients, in one go.
    pub fn lookup(&self, recipients: &[&str]) -> Done<Vec<Lookup>> {
        let mut command = self.command("lookup");
        command.args(["--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let lines = recipients.join("\n") + "\n";
        let writer = std::thread::spawn(move || {
            let _ = std::io::Write::write_all(&mut stdin, lines.as_bytes());
        });
        let output = child.wait_with_output()?;
        let _ = writer.join();
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        // 0, 1 and 75 tell of the recipients; anything else is about the call itself.
        let code = output.status.code();
        ensure!(matches!(code, Some(0 | 1 | 75)), "lookup: {}: {complaint}", output.status);
        let lookups = text.lines().map(parse).collect::<Done<Vec<_>>>()?;
        let answered: Vec<&str> = lookups.iter().map(|lookup| lookup.recipient.as_str()).collect();
        ensure!(answered == recipients, "answered: {answered:?}: {complaint}");
        Ok(lookups)
    }

    /// One recipient.
    pub fn lookup_one(&self, recipient: &str) -> Done<Lookup> {
        Ok(self.lookup(&[recipient])?.remove(0))
    }
}

fn parse(line: &str) -> Done<Lookup> {
    let json: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
    let field = |name: &str| match &json[name] {
        Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let (recipient, outcome) = (field("recipient"), field("outcome"));
    let (server, answer, reason) = (field("server"), field("answer"), field("reason"));
    Ok(Lookup { recipient, outcome, server, answer, reason })
}

/// The running daemon.
pub struct Daemon {
    setup: Setup,
    socket: String,
    process: Option<Process>,
}

impl Daemon {
    /// Starts `serve` on a socket and waits until it takes connections.
    pub fn start(setup: Setup, socket: &str) -> Done<Self> {
        let mut daemon = Self { setup, socket: socket.to_owned(), process: None };
        daemon.resume()?;
        Ok(daemon)
    }

    /// Starts it again after [`Daemon::stop`] or [`Daemon::kill`].
    pub fn resume(&mut self) -> Done {
        let mut command = self.setup.command("serve");
        command.args(["--listen", &format!("unix:{}", self.socket)]);
        let output = format!("{STATE}/murder-route.output");
        let mut process = Process::start("murder-route", &mut command, Path::new(&output))?;
        sandbox::poll("murder-route to listen", 20, || {
            ensure!(!process.ended()?, "it ended: {}", fs::read_to_string(&output)?);
            Ok(Some(UnixStream::connect(&self.socket).map(drop)?))
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn process(&mut self) -> Done<Process> {
        self.process.take().ok_or_else(|| "murder-route is not running".into())
    }

    /// SIGTERM, and wait.
    pub fn stop(&mut self) -> Done {
        self.process()?.stop()
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Done {
        self.process()?.kill()
    }
}
