//! Asks at a socket as somebody else: in a process of its own, which gives up being root first.

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use nix::unistd::{User, chdir, chroot, geteuid, getgrouplist, setgid, setgroups, setuid};

use super::super::{Exit, status};
use crate::doctor::socket::{Outcome, answer, question};
use crate::endpoint::Endpoint;
use crate::wire::protocol::Protocol;

/// A connection that is not made, or a question that is not answered, for so long never will be.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks a question at a socket and prints what came of it, as one JSON object.
///
/// What a service of Postfix does before it opens a table: look the user up, change the root, then
/// the groups and the user (Postfix `util/chroot_uid.c`).
#[derive(Debug, Args)]
pub(crate) struct AskAs {
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    chroot: Option<PathBuf>,
    #[arg(long)]
    protocol: Protocol,
    endpoint: Endpoint,
}

impl AskAs {
    pub(crate) fn run(self) -> Result<(), Exit> {
        let outcome = match self.become_him() {
            Ok(()) => self.ask(),
            Err(why) => Outcome::NotTried { why },
        };
        super::super::say(&serde_json::to_string(&outcome).unwrap_or_default())
    }

    fn become_him(&self) -> Result<(), String> {
        let user = match &self.user {
            None => None,
            Some(name) => {
                let found = User::from_name(name).map_err(|e| format!("user {name}: {e}"))?;
                Some(found.ok_or_else(|| format!("there is no user {name}"))?)
            }
        };
        let groups = match &user {
            None => None,
            Some(user) => {
                let name = CString::new(user.name.as_str()).map_err(|e| e.to_string())?;
                Some(getgrouplist(&name, user.gid).map_err(|e| format!("groups: {e}"))?)
            }
        };
        if let Some(directory) = &self.chroot {
            let to = |e: nix::Error| format!("chroot to {}: {e}", directory.display());
            chroot(directory).map_err(to)?;
            chdir("/").map_err(to)?;
        }
        if let (Some(user), Some(groups)) = (user, groups) {
            let to = |e: nix::Error| format!("becoming {}: {e}", user.name);
            setgroups(&groups).map_err(to)?;
            setgid(user.gid).map_err(to)?;
            setuid(user.uid).map_err(to)?;
        }
        Ok(())
    }

    fn ask(&self) -> Outcome {
        let (told, heard) = std::sync::mpsc::channel();
        let (endpoint, protocol) = (self.endpoint.clone(), self.protocol);
        // A full queue of a unix socket makes connect(2) wait without end.
        std::thread::spawn(move || told.send(ask_here(&endpoint, protocol)));
        heard.recv_timeout(PATIENCE).unwrap_or(Outcome::Silent)
    }
}

/// Asks as who we are.
fn ask_here(endpoint: &Endpoint, protocol: Protocol) -> Outcome {
    match converse(endpoint, protocol) {
        Ok(outcome) => outcome,
        Err(e) => match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Outcome::Missing,
            io::ErrorKind::ConnectionRefused => Outcome::Nobody,
            io::ErrorKind::PermissionDenied => Outcome::Closed { at: closed_at(endpoint) },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Outcome::Silent,
            _ => Outcome::Odd { why: e.to_string() },
        },
    }
}

fn converse(endpoint: &Endpoint, protocol: Protocol) -> io::Result<Outcome> {
    let mut stream = status::connect(endpoint)?;
    stream.write_all(&question(protocol))?;
    let mut came = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(outcome) = answer(protocol, &came) {
            return Ok(outcome);
        }
        match stream.read(&mut piece)? {
            0 => {
                let why = "it closes the connection without an answer".to_owned();
                return Ok(Outcome::Odd { why });
            }
            read => came.extend_from_slice(piece.get(..read).unwrap_or_default()),
        }
    }
}

/// What on the way to a socket is closed to us: the directory that may not be searched, or, if all
/// may, the socket.
fn closed_at(endpoint: &Endpoint) -> String {
    let Endpoint::Unix(path) = endpoint else { return endpoint.to_string() };
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    for step in way {
        let looked = step.metadata();
        if looked.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
            return step.parent().unwrap_or(step).display().to_string();
        }
    }
    path.display().to_string()
}

/// Has a question asked as this user and in this chroot; both only if we are root.
pub(super) fn ask_as(
    user: Option<&str>,
    chroot: Option<&Path>,
    endpoint: &Endpoint,
    protocol: Protocol,
) -> Outcome {
    // The file of this very program, also where its path leads to another one by now.
    let mut command = Command::new("/proc/self/exe");
    command.args(["doctor-socket", "--protocol", protocol.as_str()]);
    if let Some(user) = user.filter(|_| geteuid().is_root()) {
        command.args(["--user", user]);
    }
    if let Some(chroot) = chroot.filter(|_| geteuid().is_root()) {
        command.arg("--chroot").arg(chroot);
    }
    command.arg(endpoint.to_string()).stdin(Stdio::null()).stderr(Stdio::piped());
    let not_tried = |why: String| Outcome::NotTried { why };
    match command.output() {
        Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            not_tried(format!("it could not be tried: {}", crate::doctor::shown(&said)))
        }),
        Err(e) => not_tried(format!("a process to try it could not be started: {e}")),
    }
}
