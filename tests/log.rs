//! Logs that cannot be written: the real program with a standard error that fails or blocks.

mod common;

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use common::{Client, Site, TIMEOUT};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A standard error of this kind, and the object that keeps it in that state.
fn bad_log(kind: &str) -> (Stdio, Option<PipeReader>) {
    if kind == "/dev/full" {
        let full = File::options().write(true).open("/dev/full").unwrap();
        return (full.into(), None);
    }
    let (reader, mut writer) = std::io::pipe().unwrap();
    if kind == "closed pipe" {
        return (writer.into(), None);
    }
    let flags = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
    fcntl(&writer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    (writer.into(), Some(reader))
}

const KINDS: [&str; 3] = ["/dev/full", "closed pipe", "full pipe whose reader hangs"];

/// A daemon whose log is unreadable; its messages to the service manager replace it.
struct Daemon {
    child: Child,
    manager: UnixDatagram,
}

impl Daemon {
    fn start(site: &Site, log: Stdio, verbose: bool) -> Self {
        let notify = site.path("notify");
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_murder-route"));
        command.args(["serve", "--config"]).arg(site.path("murder-route.toml"));
        command.args(["--listen", &format!("unix:{}", site.path("s").display())]);
        if verbose {
            command.arg("-v");
        }
        command.env("STATE_DIRECTORY", site.path("state")).env("NOTIFY_SOCKET", &notify);
        let child = command.stderr(log).spawn().unwrap();
        Self { child, manager }
    }

    fn wait_for(&self, said: &str) {
        let mut message = [0; 4096];
        loop {
            let read = self.manager.recv(&mut message).expect(said);
            if String::from_utf8_lossy(&message[..read]).contains(said) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn daemon_works_without_a_writable_log() {
    for kind in KINDS {
        for verbose in [false, true] {
            let what = format!("{kind}, verbose: {verbose}");
            let site = Site::new();
            let (log, hung) = bad_log(kind);
            let mut daemon = Daemon::start(&site, log, verbose);
            daemon.wait_for("READY=1");
            // Each of these is worth a warning.
            for _ in 0..3 {
                let mut junk = UnixStream::connect(site.path("s")).unwrap();
                junk.set_read_timeout(Some(TIMEOUT)).unwrap();
                junk.write_all(b"\x01junk").unwrap();
                let mut answer = Vec::new();
                junk.read_to_end(&mut answer).unwrap();
            }
            let load: Vec<_> = (0..4)
                .map(|_| {
                    let mut client = Client::connect(&site.path("s"));
                    let long = format!("{}@example.org", "x".repeat(200));
                    thread::spawn(move || {
                        for _ in 0..2000 {
                            let known = client.ask("lmtp", "jane@example.org");
                            assert_eq!(known, "OK lmtp:inet:be1.example.org:2003");
                            client.ask("lmtp", &long);
                        }
                    })
                })
                .collect();
            daemon.signal(Signal::SIGHUP);
            daemon.wait_for("RELOADING=1");
            daemon.wait_for("READY=1");
            // An invalid configuration is logged as an error.
            site.config("domains = 7\n");
            daemon.signal(Signal::SIGHUP);
            daemon.wait_for("RELOADING=1");
            daemon.wait_for("READY=1");
            for client in load {
                client.join().unwrap_or_else(|_| panic!("{what}"));
            }
            let mut client = Client::connect(&site.path("s"));
            let known = client.ask("lmtp", "jane@example.org");
            assert_eq!(known, "OK lmtp:inet:be1.example.org:2003", "{what}");
            let status = client.ask("status", "");
            let json = status.strip_prefix("OK ").unwrap();
            let status: serde_json::Value = serde_json::from_str(json).unwrap();
            let lost = status["log_lines_lost"].as_u64().unwrap();
            assert!(lost > 0 || (hung.is_some() && !verbose), "{what}: {status}");
            daemon.signal(Signal::SIGTERM);
            assert_eq!(daemon.child.wait().unwrap().code(), Some(0), "{what}");
        }
    }
}

#[test]
fn daemon_that_cannot_start_sets_its_exit_status() {
    for kind in KINDS {
        let site = Site::new();
        site.config("domains = 7\n");
        let (log, _hung) = bad_log(kind);
        let mut daemon = Daemon::start(&site, log, false);
        assert_eq!(daemon.child.wait().unwrap().code(), Some(78), "{kind}");
    }
}

/// A file of limited size kills its writer by SIGXFSZ unless that is caught: setrlimit(2).
#[test]
fn full_log_file_does_not_end_the_daemon() {
    let site = Site::new();
    let log = site.path("log");
    let program = env!("CARGO_BIN_EXE_murder-route");
    let notify = site.path("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut command = Command::new("sh");
    // In blocks of 512 or 1024 bytes.
    command.args(["-c", "ulimit -f 1; exec \"$0\" \"$@\"", program, "serve", "-v", "--config"]);
    command.arg(site.path("murder-route.toml"));
    command.args(["--listen", &format!("unix:{}", site.path("s").display())]);
    command.env("STATE_DIRECTORY", site.path("state")).env("NOTIFY_SOCKET", &notify);
    command.stderr(File::create(&log).unwrap());
    let mut daemon = Daemon { child: command.spawn().unwrap(), manager };
    daemon.wait_for("READY=1");
    let mut client = Client::connect(&site.path("s"));
    for _ in 0..200 {
        let known = client.ask("lmtp", "jane@example.org");
        assert_eq!(known, "OK lmtp:inet:be1.example.org:2003");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
}

fn output(arguments: &[&str], stderr: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_murder-route"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn commands_work_without_a_writable_standard_error() {
    let site = Site::new();
    let own = site.path("murder-route.toml");
    let (own, none) = (own.to_str().unwrap(), "/nonexistent/murder-route.toml");
    let socket = format!("unix:{}", site.path("none").display());
    for arguments in [
        &["lookup", "--config", none, "jane@example.org"][..],
        &["lookup", "--config", own, "jane@example.org", "nobody@example.org"],
        &["lookup", "--config", own, "--map", "none", "jane@example.org"],
        &["check", "--config", none],
        &["doctor", "--config", none],
        &["status", "--config", none],
        &["status", "--config", own, "--listen", &socket],
        &["replica", "accept", "--config", none],
        &["postfix-config", "--config", none],
        &["dump", "--config", none],
        &["verify", "/nonexistent/mailboxes.db"],
        &["lmtp"],
        &["no-such-command"],
    ] {
        let whole = output(arguments, Stdio::piped());
        for kind in ["/dev/full", "closed pipe"] {
            let lost = output(arguments, bad_log(kind).0);
            assert_eq!(lost.status, whole.status, "{arguments:?}, {kind}");
            assert_eq!(
                String::from_utf8_lossy(&lost.stdout),
                String::from_utf8_lossy(&whole.stdout),
                "{arguments:?}, {kind}"
            );
        }
    }
}
