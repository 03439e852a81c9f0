//! Runs Postfix' read-only commands, each with a timeout.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::doctor::judge::one_line;
use crate::doctor::judge::postfix::{PostfixQueries, PostfixSettings};
use crate::os::regular_file;

/// Timeout of a command. postconf takes milliseconds; postmap may query a table on another server.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum output of a command in bytes. `postconf -x` prints some 40 kB.
const MAX_OUTPUT: u64 = 16 << 20;

/// Maximum size of a domain file in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Directories of Postfix' commands, which the user's PATH may lack.
const MORE_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// A Postfix of this host.
pub(super) struct Postfix {
    pub(super) settings: PostfixSettings,
    config: Option<PathBuf>,
}

/// Reason for missing settings.
pub(super) enum NoPostfix {
    /// Postfix is not installed.
    Missing,
    /// postconf failed or timed out.
    Failed(String),
}

impl Postfix {
    /// Reads the settings, from a given or the default directory.
    pub(super) fn read(config: Option<&Path>) -> Result<Self, NoPostfix> {
        let config = config.map(Path::to_owned);
        let print = |what: &str| {
            let mut command = command("postconf", config.as_deref());
            match finish(command.arg(what)) {
                Ok(Finished { code: Some(0), stdout, stderr }) => Ok((stdout, stderr)),
                Ok(Finished { stderr, .. }) => {
                    let said = stderr.lines().last().unwrap_or("it failed").to_owned();
                    Err(NoPostfix::Failed(format!("postconf {what}: {}", one_line(&said))))
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(NoPostfix::Missing),
                Err(e) => Err(NoPostfix::Failed(format!("postconf {what}: {e}"))),
            }
        };
        let ((main, warnings), (master, _)) = (print("-x")?, print("-M")?);
        let ((overrides, _), (types, _)) = (print("-Px")?, print("-m")?);
        let settings = PostfixSettings::parse(&main, &master, &overrides, &types);
        let mut settings = settings.map_err(|e| NoPostfix::Failed(format!("postconf: {e}")))?;
        settings.note(&warnings);
        Ok(Self { settings, config })
    }
}

impl PostfixQueries for Postfix {
    fn table(&self, table: &str, key: &str) -> Result<Option<String>, String> {
        let mut postmap = command("postmap", self.config.as_deref());
        match finish(postmap.args(["-q", key, table])).map_err(|e| format!("postmap: {e}"))? {
            Finished { code: Some(0), stdout, .. } => Ok(Some(stdout.trim_end().to_owned())),
            Finished { code: Some(1), stderr, .. } if stderr.is_empty() => Ok(None),
            Finished { stderr, .. } => {
                Err(one_line(stderr.lines().last().unwrap_or("postmap failed")))
            }
        }
    }

    fn file(&self, path: &str) -> Result<String, String> {
        let read = |path| {
            let mut text = String::new();
            let file = regular_file::open(Path::new(path))?;
            file.take(MAX_FILE).read_to_string(&mut text).map(|_| text)
        };
        read(path).map_err(|e: io::Error| format!("{path}: {e}"))
    }

    /// The plugins in all usual directories. Cyrus SASL has one of them built in: the one with a plugin
    /// of the library itself, as `sasldb` on Debian.
    fn sasl_plugins(&self) -> Option<Vec<String>> {
        let mut directories: Vec<PathBuf> =
            ["/usr/lib/sasl2", "/usr/lib64/sasl2", "/usr/local/lib/sasl2"].map(Into::into).into();
        for entry in std::fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
            directories.push(entry.path().join("sasl2"));
        }
        let mut plugins = Vec::new();
        for entry in directories.iter().flat_map(std::fs::read_dir).flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix("lib"));
            if let Some((plugin, _)) = name.and_then(|name| name.split_once(".so")) {
                plugins.push(plugin.to_owned());
            }
        }
        (!plugins.is_empty()).then_some(plugins)
    }

    fn exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }

    /// getent(1) of glibc can skip /etc/hosts.
    fn in_dns(&self, host: &str) -> Option<bool> {
        let mut getent = Command::new("getent");
        match finish(getent.args(["-s", "dns", "ahosts", host])).ok()?.code? {
            0 => Some(true),
            2 => Some(false),
            _ => None,
        }
    }
}

fn command(program: &str, config: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:{MORE_PATH}"));
    if let Some(directory) = config {
        command.arg("-c").arg(directory);
    }
    command
}

struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a command to its end, or kills it.
fn finish(command: &mut Command) -> io::Result<Finished> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    let outputs = [stdout, stderr]
        .map(|output| output.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok());
    let [Some(stdout), Some(stderr)] = outputs else {
        end(&mut child);
        return Err(io::ErrorKind::TimedOut.into());
    };
    // The command has closed both outputs and is about to exit.
    let code = child.wait()?.code();
    Ok(Finished { code, stdout, stderr })
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (told, heard) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // Output before an error is kept.
            let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes);
        }
        let _ = told.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    heard
}
