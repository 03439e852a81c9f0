//! Asks at a socket as another user, in a process of its own that drops root first.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{User, chdir, chroot, geteuid, getgrouplist, setgid, setgroups, setuid};

use crate::doctor::judge::recipients;
use crate::doctor::judge::socket::{SocketOutcome, answer, request};
use crate::os::unix_connect::connect_to;
use crate::wire::endpoint::Endpoint;
use crate::wire::protocol::Protocol;

/// Timeout of a connection, and of each answer. A healthy daemon answers within milliseconds, one whose
/// list is locked within seconds.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a whole request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Requests to send at a socket as another user, in this process.
///
/// Does what a service of Postfix does before it opens a table: look the user up, change the root, then
/// the groups and the user (Postfix `util/chroot_uid.c`).
pub(crate) struct SocketQuery {
    pub(crate) user: Option<String>,
    pub(crate) chroot: Option<PathBuf>,
    pub(crate) protocol: Protocol,
    /// The map to ask for the recipients.
    pub(crate) map: Option<String>,
    /// Empty: asks for the status.
    pub(crate) recipients: Vec<String>,
    pub(crate) endpoint: Endpoint,
}

/// A request at a socket.
#[derive(Clone)]
enum SocketRequest {
    Status,
    /// A recipient, in this map.
    Recipient(Option<String>, String),
}

impl SocketQuery {
    /// Changes the root and the user of this process, and asks.
    pub(crate) fn run(&self) -> Vec<SocketOutcome> {
        match self.become_user() {
            Ok(()) => self.ask_all(),
            Err(why) => vec![SocketOutcome::NotTried { why }],
        }
    }

    /// Sends the requests, up to the first without an answer.
    fn ask_all(&self) -> Vec<SocketOutcome> {
        let of = |recipient: &String| SocketRequest::Recipient(self.map.clone(), recipient.clone());
        let questions: Vec<SocketRequest> = match &*self.recipients {
            [] => vec![SocketRequest::Status],
            recipients => recipients.iter().map(of).collect(),
        };
        let mut outcomes = Vec::new();
        for question in questions {
            let outcome = self.ask(question);
            let answered = matches!(
                outcome,
                SocketOutcome::Answered { .. } | SocketOutcome::RecipientReply { .. }
            );
            outcomes.push(outcome);
            if !answered {
                break;
            }
        }
        outcomes
    }

    fn become_user(&self) -> Result<(), String> {
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

    fn ask(&self, question: SocketRequest) -> SocketOutcome {
        let (told, heard) = std::sync::mpsc::channel();
        let (endpoint, protocol) = (self.endpoint.clone(), self.protocol);
        // connect(2) waits without end if the queue of a unix socket is full.
        std::thread::spawn(move || told.send(ask_here(&endpoint, protocol, &question)));
        heard.recv_timeout(ANSWER_TIMEOUT).unwrap_or(SocketOutcome::Silent)
    }
}

/// Asks as the user of this process.
fn ask_here(endpoint: &Endpoint, protocol: Protocol, question: &SocketRequest) -> SocketOutcome {
    match converse(endpoint, protocol, question) {
        Ok(outcome) => outcome,
        Err(e) => match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SocketOutcome::Missing,
            io::ErrorKind::ConnectionRefused => SocketOutcome::Refused,
            io::ErrorKind::PermissionDenied => SocketOutcome::Closed { at: closed_at(endpoint) },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => SocketOutcome::Silent,
            _ => SocketOutcome::Odd { why: e.to_string() },
        },
    }
}

/// Connects to a socket, with [`CONNECT_TIMEOUT`] for the connection, each read and each write.
pub(crate) fn connect(endpoint: &Endpoint) -> io::Result<Box<dyn BlockingStream>> {
    match endpoint {
        Endpoint::Unix(path) => {
            let stream = connect_to(path, CONNECT_TIMEOUT)?;
            stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
            Ok(Box::new(stream))
        }
        Endpoint::Inet { host, port } => {
            let mut last = io::Error::other("the host name has no address");
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                    Ok(stream) => {
                        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
                        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
                        return Ok(Box::new(stream));
                    }
                    Err(e) => last = e,
                }
            }
            Err(last)
        }
        Endpoint::Systemd(_) => Err(io::Error::other("only systemd knows its address")),
    }
}

/// A blocking stream, unix or TCP.
pub(crate) trait BlockingStream: Read + Write {}

impl<S: Read + Write> BlockingStream for S {}

fn converse(
    endpoint: &Endpoint,
    protocol: Protocol,
    asked: &SocketRequest,
) -> io::Result<SocketOutcome> {
    let mut stream = connect(endpoint)?;
    stream.write_all(&match asked {
        SocketRequest::Status => request(protocol),
        SocketRequest::Recipient(map, recipient) => {
            recipients::request(protocol, map.as_deref(), recipient)
        }
    })?;
    let answer = |came: &[u8]| match asked {
        SocketRequest::Status => answer(protocol, came),
        SocketRequest::Recipient(..) => recipients::answer(protocol, came),
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
                return Ok(SocketOutcome::Odd { why });
            }
            read => came.extend_from_slice(piece.get(..read).unwrap_or_default()),
        }
    }
}

/// The part of a socket's path without permission: a directory that may not be searched, or else the
/// socket.
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

/// Endpoint, protocol and user of a request, sent by a child process.
#[derive(Clone, Copy)]
pub(super) struct SocketProbe<'a> {
    /// The user and the chroot, if this process is root.
    pub(super) user: Option<&'a str>,
    pub(super) chroot: Option<&'a Path>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) protocol: Protocol,
}

impl SocketProbe<'_> {
    /// Asks for the status.
    pub(super) fn ask(self) -> SocketOutcome {
        let none = || SocketOutcome::NotTried { why: "it was not tried".into() };
        self.run(|_| {}).into_iter().next().unwrap_or_else(none)
    }

    /// Asks for recipients in a map. Returns one outcome for each, up to the first failure.
    pub(super) fn ask_for(self, map: Option<&str>, recipients: &[&str]) -> Vec<SocketOutcome> {
        self.run(|command| {
            if let Some(map) = map {
                command.args(["--map", map]);
            }
            for recipient in recipients {
                command.arg(format!("--recipient={recipient}"));
            }
        })
    }

    fn run(self, more: impl FnOnce(&mut Command)) -> Vec<SocketOutcome> {
        // The file of this program, even if its path leads to another file by now.
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
        let not_tried = |why: String| vec![SocketOutcome::NotTried { why }];
        match command.output() {
            Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
                let said = String::from_utf8_lossy(&output.stderr);
                not_tried(format!(
                    "it could not be tried: {}",
                    crate::doctor::judge::one_line(&said)
                ))
            }),
            Err(e) => not_tried(format!("cannot start a process to try it: {e}")),
        }
    }
}
