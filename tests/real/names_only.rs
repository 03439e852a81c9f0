//! A frontend with an artificial list: the mailboxes of tests/data/recipients in every state, with one
//! lmtpd for each variant of imapd.conf. The backends only accept mail.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use murder_route::model::name::{KeyGeneration, MailboxName};

use crate::clients::mail::Session;
use crate::clients::sink::{Received, Sink};
use crate::murder::MASTER;
use crate::root::Release;
use crate::sandbox::{self, Process, STATE, User};
use crate::{Done, ensure};

/// Lines of a file of the data set, without comments.
pub fn data(file: &str) -> Done<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recipients").join(file);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let comment = |line: &str| line.is_empty() || line == "#" || line.starts_with("# ");
    Ok(text.lines().filter(|line| !comment(line)).map(str::to_owned).collect())
}

/// A backend of the list: its name there, its address here, and its port.
const BACKENDS: [(&str, &str, &str); 3] = [
    ("be1.example.org", "127.0.2.1", "2004"),
    ("be2.example.org", "127.0.2.2", "2004"),
    ("be3.example.org:2004", "127.0.2.3", "2004"),
];

/// One variant of imapd.conf.
pub struct Variant {
    pub name: String,
    pub options: String,
}

impl Variant {
    /// All variants of the data set: a name in brackets, followed by lines of imapd.conf.
    pub fn all() -> Done<Vec<Self>> {
        let mut variants: Vec<Self> = Vec::new();
        for line in data("variants.txt")? {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                variants.push(Self { name: name.to_owned(), options: String::new() });
            } else if let Some(variant) = variants.last_mut() {
                variant.options += &line;
                variant.options.push('\n');
            }
        }
        Ok(variants)
    }

    /// Its imapd.conf.
    pub fn imapd_conf(&self) -> String {
        format!("{}/{}.conf", dir(), self.name)
    }

    fn lmtp_socket(&self) -> String {
        format!("{}/{}.lmtp", dir(), self.name)
    }

    /// A session with its lmtpd.
    pub fn lmtpd(&self) -> Done<Session> {
        Session::lmtp(&self.lmtp_socket())
    }
}

fn dir() -> String {
    format!("{STATE}/names")
}

/// The frontend and its backends.
pub struct NamesOnly {
    process: Process,
    sinks: Vec<(&'static str, Sink)>,
}

impl NamesOnly {
    /// Writes the list and starts all servers.
    pub fn start(variants: &[Variant], release: Release, cyrus: User) -> Done<Self> {
        let dir = dir();
        for sub in ["", "/conf", "/conf/db", "/conf/socket", "/conf/proc", "/conf/lock", "/spool"] {
            sandbox::make_dir(&format!("{dir}{sub}"), cyrus)?;
        }
        let mut services = String::new();
        for variant in variants {
            let (conf, socket) = (variant.imapd_conf(), variant.lmtp_socket());
            let base = format!(
                "configdirectory: {dir}/conf\n\
                 defaultpartition: default\n\
                 partition-default: {dir}/spool\n\
                 servername: 127.0.1.22\n\
                 syslog_prefix: names\n\
                 mupdate_server: {MASTER}\n\
                 proxy_authname: cyrus\n\
                 proxy_password: cyrus\n\
                 allowplaintext: yes\n"
            );
            fs::write(&conf, base + &variant.options)?;
            let name = variant.name.replace('-', "");
            services += &format!("{name} cmd=\"lmtpd -C {conf}\" listen=\"{socket}\"\n");
        }
        let cyrus_conf = format!("{dir}/cyrus.conf");
        fs::write(
            &cyrus_conf,
            format!("START {{\n}}\nSERVICES {{\n{services}}}\nEVENTS {{\n}}\n"),
        )?;

        let first = variants.first().ok_or("no variants")?;
        fill(&first.imapd_conf(), release, cyrus)?;
        answer_kicks(cyrus)?;

        let mut hosts = OpenOptions::new().append(true).open(sandbox::in_root("/etc/hosts"))?;
        let mut sinks = Vec::new();
        for (name, address, port) in BACKENDS {
            writeln!(hosts, "{address} {}", name.split(':').next().unwrap_or(name))?;
            sinks.push((name, Sink::listen(&format!("{address}:{port}"))?));
        }
        let mut command = sandbox::command("/usr/lib/cyrus/bin/master");
        command.args(["-C", &first.imapd_conf(), "-M", &cyrus_conf]);
        command.args(["-p", &format!("{dir}/master.pid")]);
        let process = Process::start("names", &mut command, Path::new(&format!("{dir}/output")))?;
        for variant in variants {
            let what = format!("the lmtpd of variant {}", variant.name);
            sandbox::poll(&what, 30, || Ok(Some(variant.lmtpd()?)))?;
        }
        Ok(Self { process, sinks })
    }

    /// Messages that arrived at the backends since the last call, each with the backend's name.
    pub fn received(&self) -> Vec<(&'static str, Received)> {
        let each = self.sinks.iter();
        each.flat_map(|(name, sink)| sink.take().into_iter().map(move |got| (*name, got))).collect()
    }

    /// Stops all servers.
    pub fn stop(self) -> Done {
        self.process.stop()
    }
}

/// Writes the list with Cyrus' own tool, in the keys and values of the release.
fn fill(imapd_conf: &str, release: Release, cyrus: User) -> Done {
    let generation = match release {
        Release::V3_2 => KeyGeneration::Internal,
        Release::V3_6 | Release::V3_10 | Release::V3_12 => KeyGeneration::Separated,
    };
    let mut batch = Vec::new();
    for line in data("mailboxes.txt")? {
        let [name, server, partition, kind, acl] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err(format!("mailboxes.txt: {line:?} does not have five columns").into());
        };
        let mut key = Vec::new();
        MailboxName::new(name)?.push_key(generation, &mut key);
        // Before 3.6 there was no code for mail.
        let kind = match generation {
            KeyGeneration::Internal => kind.trim_start_matches('e'),
            KeyGeneration::Separated => kind,
        };
        let mut value = format!("%(T {kind}");
        for (field, text) in [("P", partition), ("S", server)] {
            if text != "-" {
                value += &format!(" {field} {text}");
            }
        }
        value += " M 1700000000";
        if acl != "-" {
            value += &format!(" A %({acl})");
        }
        value.push(')');
        // Literals, since the separators inside a key are control characters.
        write!(batch, "SET {{{}+}}\r\n", key.len())?;
        batch.extend_from_slice(&key);
        write!(batch, " {{{}+}}\r\n{value}\n", value.len())?;
    }
    let list = format!("{}/conf/mailboxes.db", dir());
    let mut dbtool = sandbox::command("cyr_dbtool");
    dbtool.args(["-n", "-C", imapd_conf, &list, "twoskip", "batch"]);
    let mut child = dbtool.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no standard input")?.write_all(&batch)?;
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && complaint.is_empty(), "cyr_dbtool: {complaint}");
    chown(&list, Some(cyrus.uid), Some(cyrus.gid))?;
    Ok(())
}

/// Replaces the MUPDATE slave: every kick is answered that the list is up to date. A real slave would
/// replace the list by the master's, which cannot have every state.
fn answer_kicks(cyrus: User) -> Done {
    let path = format!("{}/conf/socket/mupdate.target", dir());
    let listener = UnixListener::bind(&path)?;
    chown(&path, Some(cyrus.uid), Some(cyrus.gid))?;
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(b"ok");
        }
    });
    Ok(())
}
