//! The root of a run, booted by its own systemd: a host beside the others of the Murder, with its own
//! processes, mounts and cgroup. It shares the network of the run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sandbox::{self, Process, ROOT, STATE, in_root};
use crate::{Done, ensure, run};

/// The host's /run, as seen from outside.
pub const RUN: &str = "/run/booted";

/// Mount point of the machine's cgroups.
const CGROUPS: &str = "/run/cgroups";

/// Time limit of each command on the host, in seconds.
const TIME: &str = "60";

/// Script by which the host's first process becomes systemd. /proc/sys, /sys and the dropped capabilities
/// affect the whole machine, so they are not available to a disposable host. $0 is the root, $1 its /run,
/// $2 the state of the run.
const BOOT: &str = r#"
mount --bind "$1" "$0/run"
mkdir -p "$0$2"
mount --bind "$2" "$0$2"
mount -t proc proc "$0/proc"
for part in sys sysrq-trigger irq bus; do
    [ -e "$0/proc/$part" ] || continue
    mount --bind "$0/proc/$part" "$0/proc/$part"
    mount -o remount,bind,ro "$0/proc/$part"
done
mount -t sysfs -o ro sysfs "$0/sys"
mount -t cgroup2 cgroup2 "$0/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$0/dev"
for device in null zero full random urandom tty; do
    touch "$0/dev/$device"
    mount --bind "/dev/$device" "$0/dev/$device"
done
mkdir "$0/dev/shm" "$0/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$0/dev/pts"
ln -s pts/ptmx "$0/dev/ptmx"
ln -s /proc/self/fd "$0/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do
    ln -s "fd/${number%%:*}" "$0/dev/${number#*:}"
done
drop=-sys_module,-sys_time,-sys_rawio,-sys_boot,-syslog,-audit_control,-mac_admin,-mac_override
exec env -i container=murder-route PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set="$drop" chroot "$0" /usr/lib/systemd/systemd --system
"#;

/// A running host.
pub struct Booted {
    process: Option<Process>,
    /// Process id of its first process in this PID namespace.
    first: u32,
    cgroup: Cgroup,
}

impl Booted {
    /// Boots the host and waits until it is up.
    pub fn boot(cgroup: Cgroup) -> Done<Self> {
        fs::create_dir_all(RUN)?;
        fs::write(in_root("/etc/hostname"), "mx.murder.test\n")?;
        let mut host = Self { process: None, first: 0, cgroup };
        host.begin()?;
        Ok(host)
    }

    fn begin(&mut self) -> Done {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs", RUN]))?;
        let mut command = Command::new("sh");
        command
            .args(["-e", "-c", r#"echo $$ > "$0/cgroup.procs" && exec unshare "$@""#])
            .arg(&self.cgroup.0)
            .args(["--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-e", "-c", BOOT, ROOT, RUN, STATE]);
        let output = format!("{STATE}/booted.output");
        let mut process = Process::start("the host", &mut command, Path::new(&output))?;
        // systemd moves itself there, alone. The ids are those of the reader's PID namespace.
        let members = self.cgroup.0.join("init.scope/cgroup.procs");
        let first = sandbox::poll("the host to start", 20, || {
            ensure!(!process.ended()?, "it ended: {}", fs::read_to_string(&output)?);
            ensure!(fs::exists(format!("{RUN}/systemd/private"))?, "systemd does not listen");
            Ok(Some(fs::read_to_string(&members)?.trim_end().parse()?))
        });
        self.process = Some(process);
        self.first = first?;
        let state = self.output(&["systemctl", "is-system-running", "--wait"])?;
        let failed = self.output(&["systemctl", "--failed", "--no-legend"])?;
        match state.trim() {
            "running" => {}
            // Not every unit of Debian works on every machine.
            "degraded" => println!("    the host runs, except: {}", failed.trim()),
            state => return Err(format!("the host is {state}: {failed}").into()),
        }
        Ok(())
    }

    /// A command on the host, as root.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.first.to_string(), "--mount", "--uts", "--ipc", "--pid"])
            .args(["--cgroup", "--root", "--wd", "timeout", "--kill-after=5", TIME])
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs a command on the host. Fails unless the command succeeds.
    pub fn run(&self, args: &[&str]) -> Done<String> {
        run(&mut self.command(args))
    }

    /// Runs a command on the host that must fail. Returns its standard error.
    pub fn fails(&self, args: &[&str]) -> Done<String> {
        let output = self.command(args).output()?;
        ensure!(!output.status.success(), "{args:?} succeeded");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Standard output of a command on the host, whatever its exit status.
    pub fn output(&self, args: &[&str]) -> Done<String> {
        Ok(String::from_utf8_lossy(&self.command(args).output()?.stdout).into_owned())
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Done<String> {
        let value = self.run(&["systemctl", "show", "--value", "--property", name, unit])?;
        Ok(value.trim_end().to_owned())
    }

    /// Shuts the host down as an administrator does, and boots it again.
    pub fn reboot(&mut self) -> Done {
        self.run(&["systemctl", "--no-block", "poweroff"])?;
        let process = self.process.take().ok_or("the host does not run")?;
        process.gone()?;
        self.unmount()?;
        self.begin()
    }

    fn unmount(&self) -> Done {
        run(Command::new("umount").arg(RUN)).map(drop)
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // The kernel ends all other processes with the first one, and then `unshare`.
        if let Some(process) = self.process.take() {
            let ended = process.kill().and_then(|()| self.unmount());
            if let Err(error) = ended {
                println!("    the host did not end: {error}");
            }
        }
    }
}

/// Cgroup of a host, removed on drop.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates the cgroup below that of this process. Not every machine permits that even to root.
    pub fn make() -> Done<Self> {
        fs::create_dir_all(CGROUPS)?;
        run(Command::new("mount").args(["-t", "cgroup2", "cgroup2", CGROUPS]))?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no cgroup2")?;
        // The id of this PID namespace is unique now, but a killed run may have had it.
        let namespace = fs::read_link("/proc/self/ns/pid")?;
        let namespace = namespace.to_string_lossy();
        let number: String = namespace.chars().filter(char::is_ascii_digit).collect();
        let path = Path::new(CGROUPS).join(own).join(format!("murder-route-real-{number}"));
        if path.exists() {
            remove(&path)?;
        }
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let cgroup = Self(path);
        let enter = r#"echo $$ > "$0/cgroup.procs""#;
        run(Command::new("sh").args(["-e", "-c", enter]).arg(&cgroup.0))?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process stays in it for a short time.
        let removed = sandbox::poll("the cgroup to be empty", 10, || Ok(Some(remove(&self.0)?)));
        if let Err(error) = removed {
            println!("    {} is left: {error}", self.0.display());
        }
    }
}

/// The files of a cgroup directory disappear with it.
fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
