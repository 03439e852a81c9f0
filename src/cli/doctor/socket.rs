//! Asks at a socket as somebody else: in a process of its own, which gives up being root first.

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use nix::unistd::{User, chdir, chroot, geteuid, getgrouplist, setgid, setgroups, setuid};

use super::super::{Exit, status};
use crate::doctor::recipients;
use crate::doctor::socket::{Outcome, answer, question};
use crate::wire::endpoint::Endpoint;
use crate::wire::protocol::Protocol;

/// A connection that is not made, or a question that is not answered, for so long never will be.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks at a socket and prints what came of each question, as a list in JSON.
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
    /// The map to ask for the recipients
    #[arg(long)]
    map: Option<String>,
    /// Ask for this recipient instead of how the daemon is; may be given again
    #[arg(long = "recipient")]
    recipients: Vec<String>,
    endpoint: Endpoint,
}

/// A question at a socket.
#[derive(Clone)]
enum Question {
    Status,
    /// For a recipient, by this map.
    Recipient(Option<String>, String),
}

impl AskAs {
    pub(crate) fn run(self) -> Result<(), Exit> {
        let outcomes = match self.become_him() {
            Ok(()) => self.ask_all(),
            Err(why) => vec![Outcome::NotTried { why }],
        };
        super::super::say(&serde_json::to_string(&outcomes).unwrap_or_default())
    }

    /// Up to the first question that has no answer.
    fn ask_all(&self) -> Vec<Outcome> {
        let of = |recipient: &String| Question::Recipient(self.map.clone(), recipient.clone());
        let questions: Vec<Question> = match &*self.recipients {
            [] => vec![Question::Status],
            recipients => recipients.iter().map(of).collect(),
        };
        let mut outcomes = Vec::new();
        for question in questions {
            let outcome = self.ask(question);
            let answered =
                matches!(outcome, Outcome::Answered { .. } | Outcome::Confirmation { .. });
            outcomes.push(outcome);
            if !answered {
                break;
            }
        }
        outcomes
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

    fn ask(&self, question: Question) -> Outcome {
        let (told, heard) = std::sync::mpsc::channel();
        let (endpoint, protocol) = (self.endpoint.clone(), self.protocol);
        // A full queue of a unix socket makes connect(2) wait without end.
        std::thread::spawn(move || told.send(ask_here(&endpoint, protocol, &question)));
        heard.recv_timeout(PATIENCE).unwrap_or(Outcome::Silent)
    }
}

/// Asks as who we are.
fn ask_here(endpoint: &Endpoint, protocol: Protocol, question: &Question) -> Outcome {
    match converse(endpoint, protocol, question) {
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

fn converse(endpoint: &Endpoint, protocol: Protocol, asked: &Question) -> io::Result<Outcome> {
    let mut stream = status::connect(endpoint)?;
    stream.write_all(&match asked {
        Question::Status => question(protocol),
        Question::Recipient(map, who) => recipients::question(protocol, map.as_deref(), who),
    })?;
    let answer = |came: &[u8]| match asked {
        Question::Status => answer(protocol, came),
        Question::Recipient(..) => recipients::answer(protocol, came),
    };
    let mut came = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(outcome) = answer(&came) {
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

/// Where, as whom and in which protocol is asked.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    /// The user and the chroot; both only if we are root.
    pub(super) user: Option<&'a str>,
    pub(super) chroot: Option<&'a Path>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) protocol: Protocol,
}

impl Way<'_> {
    /// Has it asked how it is.
    pub(super) fn ask(self) -> Outcome {
        let none = || Outcome::NotTried { why: "it was not tried".into() };
        self.run(|_| {}).into_iter().next().unwrap_or_else(none)
    }

    /// Has it asked for recipients by a map. One outcome for each, up to the first that is none.
    pub(super) fn ask_for(self, map: Option<&str>, recipients: &[&str]) -> Vec<Outcome> {
        self.run(|command| {
            if let Some(map) = map {
                command.args(["--map", map]);
            }
            for recipient in recipients {
                command.arg(format!("--recipient={recipient}"));
            }
        })
    }

    fn run(self, more: impl FnOnce(&mut Command)) -> Vec<Outcome> {
        // The file of this very program, also where its path leads to another one by now.
        let mut command = Command::new("/proc/self/exe");
        command.args(["doctor-socket", "--protocol", self.protocol.as_str()]);
        if let Some(user) = self.user.filter(|_| geteuid().is_root()) {
            command.args(["--user", user]);
        }
        if let Some(chroot) = self.chroot.filter(|_| geteuid().is_root()) {
            command.arg("--chroot").arg(chroot);
        }
        more(&mut command);
        command.arg(self.endpoint.to_string()).stdin(Stdio::null()).stderr(Stdio::piped());
        let not_tried = |why: String| vec![Outcome::NotTried { why }];
        match command.output() {
            Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
                let said = String::from_utf8_lossy(&output.stderr);
                not_tried(format!("it could not be tried: {}", crate::doctor::shown(&said)))
            }),
            Err(e) => not_tried(format!("a process to try it could not be started: {e}")),
        }
    }
}
