//! `murder-route` as a program.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::root::Release;
use crate::sandbox::{self, Process, ROOT, STATE, User};
use crate::{Done, ensure, readme, run};

/// Socket that Postfix connects to, and the daemon's default.
pub const SOCKET: &str = "/run/murder-route";

/// The program, at a path that the Cyrus user can reach wherever the project is.
const PROGRAM: &str = "/run/murder-route-program";

/// Options and user of the program.
#[derive(Clone)]
pub struct Setup {
    options: Vec<String>,
    user: User,
    /// Whether it runs in the root, where paths are those of Postfix.
    in_root: bool,
}

/// Output of `lookup --json` for one recipient.
#[derive(Debug)]
pub struct Lookup {
    pub recipient: String,
    pub outcome: String,
    pub server: String,
    pub answer: String,
    pub reason: String,
}

/// Makes the built program reachable, and /run writable so that it can create its socket there: for every
/// user, since it runs as various users.
pub fn install() -> Done {
    fs::set_permissions("/run", Permissions::from_mode(0o777))?;
    fs::write(PROGRAM, "")?;
    run(Command::new("mount").args(["--bind", env!("CARGO_BIN_EXE_murder-route"), PROGRAM]))?;
    Ok(())
}

impl Setup {
    /// Configured by a file with the minimal settings: two from 3.6 on; before that also the release, which
    /// the list does not tell.
    pub fn by_file(
        imapd_conf: &str,
        domains: &[&str],
        release: Release,
        cyrus: User,
    ) -> Done<Self> {
        let file = format!("{STATE}/murder-route.toml");
        let settings = format!("imapd-conf = {imapd_conf:?}\ndomains = {domains:?}\n");
        fs::write(&file, settings + &cyrus_release(release))?;
        Ok(Self::new(&["--config", &file], cyrus))
    }

    /// Configured by options only, for every domain.
    pub fn by_options(imapd_conf: &str, release: Release, cyrus: User) -> Done<Self> {
        // So that no file of the host is read.
        let file = format!("{STATE}/murder-route-options.toml");
        fs::write(&file, cyrus_release(release))?;
        let options = ["--config", &file, "--imapd-conf", imapd_conf, "--domain", "*"];
        Ok(Self::new(&options, cyrus))
    }

    /// With these options, as this user.
    pub fn new(options: &[&str], user: User) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { options, user, in_root: false }
    }

    /// In the root, with the configuration in its default place.
    pub fn in_root(user: User) -> Done<Self> {
        readme::install_program()?;
        Ok(Self { options: Vec::new(), user, in_root: true })
    }

    /// With another list than that of imapd.conf.
    pub fn with_list(&self, list: &str) -> Self {
        let mut setup = self.clone();
        setup.options.extend(["--mailboxes-db".to_owned(), list.to_owned()]);
        setup
    }

    /// The options.
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// Whether it runs as this user.
    pub fn runs_as(&self, user: User) -> bool {
        self.user == user
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = self.program(&[subcommand]);
        command.args(&self.options);
        command
    }

    /// The program as the same user, without the options.
    pub fn program(&self, args: &[&str]) -> Command {
        let User { uid, gid } = self.user;
        let mut command = match self.in_root {
            false => {
                let mut command = Command::new(PROGRAM);
                command.uid(uid).gid(gid).current_dir("/");
                command
            }
            true => {
                let mut command = Command::new("chroot");
                command.arg(format!("--userspec={uid}:{gid}")).args(["--groups=", ROOT]);
                command.arg(readme::PROGRAM);
                command
            }
        };
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(args);
        command
    }

    /// `status --json` of the running daemon, and the exit status.
    pub fn status(&self) -> Done<(i32, Value)> {
        let output = self.command("status").arg("--json").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        let status = serde_json::from_str(&text).map_err(|e| format!("status: {e}: {said}"))?;
        Ok((output.status.code().unwrap_or(-1), status))
    }

    /// `dump --json`: the records, one per line.
    pub fn dump(&self) -> Done<Vec<Value>> {
        let text = run(self.command("dump").arg("--json"))?;
        let records = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        records.map_err(|e| format!("dump: {e}").into())
    }

    /// `lookup --json` for all recipients at once.
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
        // 0, 1 and 75 depend on the recipients; any other status is an error of the call.
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

/// Line of a configuration file for the release.
pub fn cyrus_release(release: Release) -> String {
    match release {
        Release::V3_2 => format!("cyrus-release = {:?}\n", release.number()),
        Release::V3_6 | Release::V3_10 | Release::V3_12 => String::new(),
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

fn output() -> String {
    format!("{STATE}/murder-route.output")
}

/// The running daemon.
pub struct Daemon {
    setup: Setup,
    process: Option<Process>,
}

impl Daemon {
    /// Starts `serve` and waits until it accepts connections.
    pub fn start(setup: Setup) -> Done<Self> {
        let mut daemon = Self { setup, process: None };
        daemon.resume()?;
        Ok(daemon)
    }

    /// Starts it again after [`Daemon::stop`] or [`Daemon::kill`].
    pub fn resume(&mut self) -> Done {
        let output = output();
        let mut command = self.setup.command("serve");
        let mut process = Process::start("murder-route", &mut command, Path::new(&output))?;
        sandbox::poll("murder-route to listen", 20, || {
            ensure!(!process.ended()?, "it ended: {}", fs::read_to_string(&output)?);
            Ok(Some(UnixStream::connect(SOCKET).map(drop)?))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Log of this daemon and its predecessors.
    pub fn log() -> Done<String> {
        Ok(fs::read_to_string(output())?)
    }

    fn process(&mut self) -> Done<Process> {
        self.process.take().ok_or_else(|| "murder-route is not running".into())
    }

    /// Its process id.
    pub fn id(&self) -> Done<u32> {
        let process = self.process.as_ref().ok_or("murder-route is not running")?;
        Ok(process.id())
    }

    /// Sends SIGTERM and waits.
    pub fn stop(&mut self) -> Done {
        self.process()?.stop()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) -> Done {
        self.process()?.kill()
    }
}
