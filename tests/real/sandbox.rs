//! The namespaces of a run: a network of loopback addresses, mounts over the cached root, and processes.
//! All of them end with the run.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::{Done, run};

/// Set to the cached root for the process inside the namespaces.
const INSIDE: &str = "MURDER_ROUTE_REAL_ROOT";

/// The root of the run: the Debian root, seen through an overlay.
pub const ROOT: &str = "/run/root";

/// Everything that a run writes, with the same path inside and outside of the root.
pub const STATE: &str = "/run/murder";

/// The cached root, if this process is already inside.
pub fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Runs this program again in new namespaces, and passes on each line that it prints.
pub fn enter(cached_root: &Path, mut line: impl FnMut(&str)) -> Done<ExitStatus> {
    // When this process ends in any way, the kernel kills `unshare`, then the first process of the PID
    // namespace, and with it all others in it. The shell is that first process: it reaps orphans, as pid 1
    // must.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--ipc", "--uts"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", r#""$0" "$@"; exit $?"#])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, cached_root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no standard output")?;
    for printed in BufReader::new(output).lines() {
        line(&printed?);
    }
    Ok(child.wait()?)
}

/// A user of the Debian root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// Sets up mounts and network at the start of the run.
pub fn prepare(cached_root: &Path) -> Done {
    // All files of the run are in one tmpfs. It replaces the host's /run in this mount namespace, so
    // programs inside and outside of the root use the same socket paths.
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    for dir in [ROOT, STATE, "/run/upper", "/run/work"] {
        fs::create_dir_all(dir)?;
    }
    let lower = cached_root.to_str().ok_or("the cache directory's path is not UTF-8")?;
    mount(&[
        "-t",
        "overlay",
        "overlay",
        "-o",
        &format!("lowerdir={lower},upperdir=/run/upper,workdir=/run/work"),
        ROOT,
    ])?;
    mount(&["--bind", "/run", &in_root("/run")])?;
    mount(&["-t", "proc", "proc", &in_root("/proc")])?;

    run(command("busybox").args(["ip", "link", "set", "lo", "up"]))?;
    run(Command::new("hostname").arg("mx.murder.test"))?;
    fs::write(in_root("/etc/hosts"), "127.0.0.1 localhost\n127.0.1.31 mx.murder.test mx\n")?;
    fs::write(in_root("/etc/resolv.conf"), "")?;

    // Cyrus finds the ports of its peers by these names, which the default file lacks. A frontend's lmtpd
    // logs in to a backend's at `lmtp`; Postfix delivers to 2003.
    let mut services = fs::OpenOptions::new().append(true).open(in_root("/etc/services"))?;
    services.write_all(b"mupdate 3905/tcp\nlmtp 2004/tcp\n")?;
    Ok(())
}

fn mount(args: &[&str]) -> Done {
    run(Command::new("mount").args(args)).map(drop)
}

/// A path of the root as seen from outside.
pub fn in_root(path: &str) -> String {
    format!("{ROOT}{path}")
}

/// Looks a user up in the root.
pub fn user(name: &str) -> Done<User> {
    let passwd = fs::read_to_string(in_root("/etc/passwd"))?;
    for line in passwd.lines() {
        let field: Vec<&str> = line.split(':').collect();
        if let [n, _, uid, gid, ..] = field[..]
            && n == name
        {
            return Ok(User { uid: uid.parse()?, gid: gid.parse()? });
        }
    }
    Err(format!("no user {name} in the root").into())
}

/// Runs a program of the root, in the root, as root.
pub fn command(program: &str) -> Command {
    let mut command = Command::new("chroot");
    command
        .args([ROOT, program])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/cyrus/bin")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    command
}

/// Creates a directory below [`STATE`] that belongs to a user.
pub fn make_dir(path: &str, owner: User) -> Done {
    fs::create_dir_all(path).map_err(|e| format!("{path}: {e}"))?;
    chown(path, Some(owner.uid), Some(owner.gid))?;
    Ok(())
}

/// A process started by the run, with its children.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a process as the leader of its own process group, with its output in `output`.
    pub fn start(name: &str, command: &mut Command, output: &Path) -> Done<Self> {
        let output = fs::OpenOptions::new().create(true).append(true).open(output)?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|e| format!("{name}: {e}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Done<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.id())?))
    }

    /// Stops it as its own stop script would, and waits until the whole group has ended.
    pub fn stop(self) -> Done {
        kill(self.pid()?, Signal::SIGTERM)?;
        self.gone()
    }

    /// Kills it and all its children, like a power failure.
    pub fn kill(self) -> Done {
        killpg(self.pid()?, Signal::SIGKILL)?;
        self.gone()
    }

    /// Freezes it and all its children: its sockets stay open but do not answer.
    pub fn freeze(&self) -> Done {
        Ok(killpg(self.pid()?, Signal::SIGSTOP)?)
    }

    /// Reverses [`Process::freeze`].
    pub fn thaw(&self) -> Done {
        Ok(killpg(self.pid()?, Signal::SIGCONT)?)
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> Done<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits until the whole group has ended, and kills it after a timeout.
    pub fn gone(mut self) -> Done {
        let pid = self.pid()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut leader_gone = false;
        loop {
            leader_gone = leader_gone || self.child.try_wait()?.is_some();
            if leader_gone && killpg(pid, None).is_err() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let _ = killpg(pid, Signal::SIGKILL);
                return Err(format!("{} did not end within 30 s; killed", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Calls `ask` every few milliseconds until it returns a value, for conditions that send no notification.
/// `what` completes "waited 30 s for …".
pub fn poll<T>(what: &str, seconds: u64, mut ask: impl FnMut() -> Done<Option<T>>) -> Done<T> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut last = String::from("nothing");
    while Instant::now() < deadline {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(e) => last = e.to_string(),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("waited {seconds} s for {what}; last seen: {last}").into())
}
