//! Follows a README line by line in the root, as a postmaster does.
//!
//! The root has the program on its path, and the README's directory where `make install` puts it. Commands
//! that a private root lacks are replaced: `sudo` runs its command (every user is root there), `apt-get`
//! verifies that the packages are present, and `systemctl` records its arguments for the scenario to act
//! on, unless the scenario provides a script for it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::sandbox::{self, STATE};
use crate::{Done, ensure, run};

#[path = "../common/readme.rs"]
mod steps;

use steps::{Action, Step};

/// Directory into which `make install` puts the files of a README.
const DOCDIR: &str = "/usr/local/share/doc/murder-route";

/// Path of the program in the root.
pub const PROGRAM: &str = "/usr/local/sbin/murder-route";

/// First directory in the path of every script.
const SHIMS: &str = "/usr/local/lib/murder-route-test";

const SUDO: &str = r#"user=root
while [ "$#" -gt 0 ]; do
    case $1 in
        -u) user=$2; shift 2 ;;
        -*) echo "sudo $1: not in this root" >&2; exit 64 ;;
        *) break ;;
    esac
done
exec setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --init-groups -- "$@"
"#;

const APT_GET: &str = r#"for word; do
    case $word in
        install | update | -*) ;;
        *) dpkg-query -L "$word" > /dev/null || exit 100 ;;
    esac
done
"#;

/// A README that is being followed.
pub struct Readme {
    directory: String,
    steps: Vec<Step>,
}

impl Readme {
    /// Reads the README in a directory of the project, and installs the directory.
    pub fn of(directory: &str) -> Done<Self> {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let text = fs::read_to_string(ours.join("README.md"))
            .map_err(|e| format!("{directory}/README.md: {e}"))?;
        let steps = steps::steps(&text).map_err(|e| format!("{directory}/README.md: {e}"))?;
        fs::create_dir_all(sandbox::in_root(DOCDIR))?;
        run(Command::new("cp").arg("-r").arg(ours).arg(sandbox::in_root(DOCDIR)))?;
        install_program()?;
        let readme = Self { directory: directory.to_owned(), steps };
        let calls = calls();
        let systemctl = format!("echo \"$*\" >> {calls}\n");
        readme.shim("sudo", SUDO)?.shim("apt-get", APT_GET)?.shim("systemctl", &systemctl)
    }

    /// Installs a shell script in place of a command that the root lacks.
    pub fn shim(self, command: &str, script: &str) -> Done<Self> {
        fs::create_dir_all(sandbox::in_root(SHIMS))?;
        executable(&sandbox::in_root(&format!("{SHIMS}/{command}")), script)?;
        Ok(self)
    }

    /// Keeps only the steps below this heading.
    pub fn below(mut self, heading: &str) -> Done<Self> {
        self.steps.retain(|step| step.headings.iter().any(|above| above == heading));
        let directory = &self.directory;
        ensure!(!self.steps.is_empty(), "{directory}/README.md: no step below {heading:?}");
        Ok(self)
    }

    /// Removes the steps below this heading.
    pub fn without(mut self, heading: &str) -> Done<Self> {
        let before = self.steps.len();
        self.steps.retain(|step| !step.headings.iter().any(|above| above == heading));
        let directory = &self.directory;
        ensure!(self.steps.len() < before, "{directory}/README.md: no step below {heading:?}");
        Ok(self)
    }

    /// Keeps only the steps that run this command.
    pub fn with(mut self, command: &str) -> Done<Self> {
        let runs =
            |step: &Step| matches!(&step.action, Action::Run(text) if text.contains(command));
        self.steps.retain(runs);
        let directory = &self.directory;
        ensure!(!self.steps.is_empty(), "{directory}/README.md: no step runs {command:?}");
        Ok(self)
    }

    /// Replaces a word in all files and commands, such as a host name of this run. The README must contain
    /// the word.
    pub fn instead_of(mut self, word: &str, other: &str) -> Done<Self> {
        let mut found = false;
        let mut replace = |text: &mut String| {
            found |= text.contains(word);
            *text = text.replace(word, other);
        };
        for step in &mut self.steps {
            match &mut step.action {
                Action::Run(script) => replace(script),
                Action::Write { path, text } | Action::Add { path, text } => {
                    replace(path);
                    replace(text);
                }
            }
        }
        ensure!(found, "{}/README.md: no step has {word:?}", self.directory);
        Ok(self)
    }

    /// Performs all steps. Returns the arguments of each `systemctl`, one call per line.
    pub fn follow(&self) -> Done<Vec<String>> {
        let calls = calls();
        fs::write(&calls, "")?;
        for step in &self.steps {
            self.take(step)
                .map_err(|e| format!("{}/README.md, line {}: {e}", self.directory, step.line))?;
        }
        Ok(fs::read_to_string(&calls)?.lines().map(str::to_owned).collect())
    }

    fn take(&self, step: &Step) -> Done {
        match &step.action {
            Action::Run(script) => {
                let path = format!("{SHIMS}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
                let script = format!("cd {DOCDIR}/{}\n{script}", self.directory);
                run(sandbox::command("sh").env("PATH", path).args(["-e", "-c", &script]))?;
            }
            Action::Write { path, text } => {
                fs::write(sandbox::in_root(path), text).map_err(|e| format!("{path}: {e}"))?;
            }
            Action::Add { path, text } => {
                let mut file = fs::OpenOptions::new()
                    .append(true)
                    .open(sandbox::in_root(path))
                    .map_err(|e| format!("{path}: {e}"))?;
                file.write_all(text.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// File with the recorded `systemctl` calls.
fn calls() -> String {
    format!("{STATE}/systemctl")
}

fn executable(path: &str, script: &str) -> Done {
    fs::write(path, format!("#!/bin/sh\n{script}"))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

/// Installs the built program on the path of the root, with the libraries and the loader of this host: the
/// C library of an old Debian is too old for a program built on a newer one.
pub fn install_program() -> Done {
    let lib = format!("{SHIMS}/host");
    if fs::exists(sandbox::in_root(PROGRAM))? {
        return Ok(());
    }
    fs::create_dir_all(sandbox::in_root(&lib))?;
    let built = env!("CARGO_BIN_EXE_murder-route");
    let mut loader = None;
    for line in run(Command::new("ldd").arg(built))?.lines() {
        // `libc.so.6 => /lib/libc.so.6 (0x7f…)`, or `/lib64/ld-linux.so.2 (0x7f…)`.
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else {
            continue;
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        fs::copy(path, sandbox::in_root(&format!("{lib}/{name}")))?;
        if !line.contains("=>") {
            loader = Some(format!("{lib}/{name}"));
        }
    }
    let loader = loader.ok_or_else(|| format!("{built} has no loader"))?;
    let bound = sandbox::in_root(&format!("{lib}/murder-route"));
    fs::write(&bound, "")?;
    run(Command::new("mount").args(["--bind", built, &bound]))?;
    let script = format!("exec {loader} --library-path {lib} {lib}/murder-route \"$@\"\n");
    executable(&sandbox::in_root(PROGRAM), &script)
}
