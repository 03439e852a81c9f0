//! Shared by the black-box tests: a directory of files, and the real program in it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

pub mod left_out;
pub mod master;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ten mailboxes on two backends, written by Cyrus 3.6.1 (the list of `murder-route demo`).
pub const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/demo/mailboxes.db");

/// Maximum wait of a test for an expected event. It is long, since machines are slow and no test measures time.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// A frontend's files in a temporary directory.
pub struct Site {
    pub dir: tempfile::TempDir,
}

impl Site {
    /// A site with a copy of [`LIST`] and an imapd.conf without a MUPDATE server.
    pub fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        fs::copy(LIST, site.path("mailboxes.db")).unwrap();
        site.imapd_conf("");
        site.config("domains = [\"example.org\", \"example.net\"]\n");
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes imapd.conf with these additional lines.
    pub fn imapd_conf(&self, more: &str) {
        let text = format!(
            "configdirectory: {}\nvirtdomains: userid\ndefaultdomain: example.org\n\
             unixhierarchysep: yes\n{more}",
            self.dir.path().display()
        );
        fs::write(self.path("imapd.conf"), text).unwrap();
    }

    /// A MUPDATE slave's kick socket that answers each client with these words, and the number of its
    /// clients.
    pub fn slave(&self, says: &'static str) -> Arc<AtomicUsize> {
        let directory = self.path("socket");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("mupdate.target")).unwrap();
        let kicks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&kicks);
        thread::spawn(move || {
            for waiter in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = waiter.unwrap().write_all(says.as_bytes());
            }
        });
        kicks
    }

    /// Writes murder-route.toml: our files, a list that is complete by itself, and these additional lines.
    pub fn config(&self, more: &str) {
        let text = format!("imapd-conf = \"imapd.conf\"\nmisses = \"final\"\n{more}");
        fs::write(self.path("murder-route.toml"), text).unwrap();
    }

    /// Writes a file `password` that only its owner can read.
    pub fn password(&self) {
        fs::write(self.path("password"), "geheim\n").unwrap();
        fs::set_permissions(self.path("password"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Runs a subcommand with this site's configuration.
    pub fn run(&self, subcommand: &str, arguments: &[&str]) -> Output {
        let config = self.path("murder-route.toml");
        let mut all = vec![subcommand, "--config", config.to_str().unwrap()];
        all.extend(arguments);
        program().args(&all).env("STATE_DIRECTORY", self.path("state")).output().unwrap()
    }

    /// `lookup --json` of one recipient.
    pub fn lookup(&self, recipient: &str) -> serde_json::Value {
        let output = self.run("lookup", &["--json", recipient]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_murder-route"))
}

/// A running daemon, killed on drop.
pub struct Daemon {
    child: Child,
    pub socket: PathBuf,
    log: Receiver<String>,
}

impl Daemon {
    /// Starts the daemon of a site and waits until it answers.
    pub fn start(site: &Site) -> Self {
        let socket = site.path("murder-route.sock");
        let endpoint = format!("unix:{}", socket.display());
        Self::run(program(), site, &["--listen", &endpoint], socket)
    }

    /// Starts the daemon with the listeners of the configuration, of which this is one.
    pub fn start_as_configured(site: &Site, socket: PathBuf) -> Self {
        Self::run(program(), site, &[], socket)
    }

    /// Starts the daemon by a command that becomes the program, which listens at this socket too.
    pub fn run(mut program: Command, site: &Site, arguments: &[&str], socket: PathBuf) -> Self {
        let mut child = program
            .args(["serve", "-v", "--config"])
            .arg(site.path("murder-route.toml"))
            .args(arguments)
            .env("STATE_DIRECTORY", site.path("state"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (said, log) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| said.send(line)));
        let daemon = Self { child, socket, log };
        daemon.wait_for("answering at");
        daemon
    }

    /// Waits until the daemon logs a line with this text in it.
    pub fn wait_for(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(TIMEOUT);
            let line = line.unwrap_or_else(|e| panic!("the daemon never said {text:?}: {e}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the daemon to end by itself. Returns its exit status.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// One request on its own connection.
    pub fn ask(&self, map: &str, key: &str) -> String {
        self.connect().ask(map, key)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socketmap client on bytes, without any code of the crate.
pub struct Client(pub UnixStream);

impl Client {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, map: &str, key: &str) {
        let payload = format!("{map} {key}");
        write!(self.0, "{}:{payload},", payload.len()).unwrap();
    }

    pub fn ask(&mut self, map: &str, key: &str) -> String {
        self.send(map, key);
        self.answer()
    }

    /// Sends these bytes unchanged and expects exactly this answer.
    pub fn exchange(&mut self, asked: &[u8], expected: &[u8]) {
        self.0.write_all(asked).unwrap();
        let mut said = vec![0; expected.len()];
        let what = asked.escape_ascii();
        self.0.read_exact(&mut said).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(said.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{what}");
    }

    /// All data until the close.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // If input was left unread, the close may arrive as a reset.
        let _ = self.0.read_to_end(&mut rest);
        rest.escape_ascii().to_string()
    }

    pub fn answer(&mut self) -> String {
        let mut length = 0;
        loop {
            match self.byte() {
                b':' => break,
                digit @ b'0'..=b'9' => length = length * 10 + usize::from(digit - b'0'),
                other => panic!("{:?} in a length", other as char),
            }
        }
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).unwrap();
        assert_eq!(self.byte(), b',');
        String::from_utf8(payload).unwrap()
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        byte[0]
    }
}
