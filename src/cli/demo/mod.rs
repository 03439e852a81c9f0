//! `murder-route demo`: demonstrates the routing of messages, including failures, with this program
//! only.
//!
//! A MUPDATE master in this process serves a small list written by Cyrus 3.6.1; the daemon keeps a
//! replica of it and answers at a temporary socket; two LMTP servers represent the backends. Like
//! Postfix, the demo asks over the socketmap and delivers by the answer. Meanwhile a mailbox moves, the
//! master dies, and the daemon restarts.

mod backend;
mod daemon;
mod master;
mod postfix;

use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use self::backend::DemoBackend;
use self::daemon::{DemoDaemon, until};
use self::master::DemoMaster;
use self::postfix::{Delivered, deliver, query};
use super::Exit;
use crate::lists::{FileList, FileListOptions};
use crate::model::list::MailboxList as _;
use crate::model::name::MailboxName;
use crate::model::record::{Record, State};
use crate::wire::socketmap::Reply;

/// Ten mailboxes on `be1.example.org` and `be2.example.org`, written by `cyr_dbtool` of Cyrus 3.6.1.
const MAILBOXES_DB: &[u8] = include_bytes!("mailboxes.db");

/// The recipients, with an explanation of each.
const MESSAGES: [(&str, &str); 9] = [
    (JANE, "a mailbox on the first backend"),
    (MAX, "dots and case, on the second"),
    ("jane+Work@example.org", "a +detail: the INBOX decides, the backend finds the folder"),
    ("eve@example.net", "another virtual domain"),
    ("+info/press@example.org", "a shared folder that anyone may post to"),
    ("+board@example.org", "a shared folder that takes no mail from outside"),
    ("carol@example.org", "a mailbox being created or moved (reserved): the message waits"),
    (NOBODY, "no such mailbox: refused at RCPT, nothing to bounce"),
    ("someone@elsewhere.example", "none of our domains"),
];

const JANE: &str = "jane@example.org";
const MAX: &str = "Max.Muster@Example.ORG";
const NOBODY: &str = "nobody@example.org";

/// Demonstrate the routing of messages with this program only.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Stop after the table instead of staying up for manual queries
    #[arg(long)]
    once: bool,
}

impl DemoArgs {
    pub(super) fn run(self) -> Result<(), Exit> {
        let runtime = tokio::runtime::Runtime::new();
        let shown = runtime.and_then(|runtime| runtime.block_on(self.show()));
        shown.map_err(|e| {
            complain!("murder-route: demo: {e}");
            Exit::No
        })
    }

    async fn show(&self) -> io::Result<()> {
        let backends = [DemoBackend::start("be1").await?, DemoBackend::start("be2").await?];
        let place = DemoDirectory::make()?;
        let mut master = DemoMaster::start(place.list()?).await?;
        place.configure(&backends, &master)?;
        let daemon = DemoDaemon::start(&place.config).await?;
        let mut stage = Stage { place: &place, backends: &backends, out: io::stdout(), astray: 0 };
        stage.open().await?;
        for (recipient, what) in MESSAGES {
            let reply = query(&place.socket, "lmtp", recipient).await?;
            stage.row(recipient, &reply).await?;
            stage.line(&format!("  {what}"))?;
        }

        stage.line("\nA mailbox moves from be2 to be1:")?;
        master.set("user.max^muster", State::Reserved, "be1.example.org");
        let reply = until(&place.socket, MAX, |reply| !is_delivered(reply)).await?;
        stage.row(MAX, &reply).await?;
        stage.line("  while it moves, its messages wait")?;
        master.set("user.max^muster", State::Active, "be1.example.org");
        let reply = until(&place.socket, MAX, is_delivered).await?;
        stage.row(MAX, &reply).await?;
        stage.line("  a moment later they go to its new backend")?;

        stage.line("\nThe MUPDATE master dies:")?;
        master.stop();
        stage.without_master().await?;

        stage.line("\nThe daemon is restarted, and the master is still dead:")?;
        daemon.stop().await?;
        let daemon = DemoDaemon::start(&place.config).await?;
        stage.without_master().await?;

        stage.line("\nThe master is back:")?;
        master.start_again().await?;
        let reply = until(&place.socket, NOBODY, is_refused).await?;
        stage.row(NOBODY, &reply).await?;
        stage.line("  now it is certain again that there is no such mailbox")?;

        stage.count()?;
        if stage.astray > 0 {
            let astray = stage.astray;
            return Err(io::Error::other(format!("{astray} messages went astray")));
        }
        if !self.once {
            place.tell_what_to_try(&mut stage.out)?;
            tokio::signal::ctrl_c().await?;
        }
        daemon.stop().await
    }
}

fn is_delivered(reply: &Reply) -> bool {
    matches!(reply, Reply::Ok(way) if way.starts_with("lmtp:"))
}

fn is_refused(reply: &Reply) -> bool {
    matches!(reply, Reply::Ok(way) if way.starts_with("error:"))
}

/// The output, and the number of misdelivered messages.
struct Stage<'a> {
    place: &'a DemoDirectory,
    backends: &'a [DemoBackend],
    out: io::Stdout,
    astray: usize,
}

impl Stage<'_> {
    fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Prints the participants, once the replica is filled.
    async fn open(&mut self) -> io::Result<()> {
        self.line("A MUPDATE master, a daemon with a replica of its list, and two backends:")?;
        for DemoBackend { name, address, .. } in self.backends {
            self.line(&format!("  {name}.example.org is {address} here"))?;
        }
        until(&self.place.socket, JANE, is_delivered).await?;
        until(&self.place.socket, NOBODY, is_refused).await?;
        self.line(&format!("\n{:<26}{:<30}{}", "RECIPIENT", "ANSWER OF THE MAP", "THE MESSAGE IS"))
    }

    /// Prints a recipient, the answer, and the delivery.
    async fn row(&mut self, recipient: &str, reply: &Reply) -> io::Result<()> {
        let canonical = match query(&self.place.socket, "canonical", recipient).await? {
            Reply::Ok(canonical) => canonical,
            Reply::NotFound | Reply::Temp(_) => recipient.to_owned(),
        };
        let before: Vec<usize> = self.backends.iter().map(|b| b.messages().len()).collect();
        let fate = match deliver(reply, &canonical).await? {
            Delivered::Taken(_) => {
                let mut with = self.backends.iter().zip(before);
                let arrived = |(backend, before): &(&DemoBackend, usize)| {
                    let new = backend.messages().split_off(*before);
                    new == [canonical.clone()] && reply.to_string().contains(&backend.address)
                };
                match with.find(arrived) {
                    Some((backend, _)) => format!("delivered to {}", backend.name),
                    None => {
                        self.astray += 1;
                        "ASTRAY".to_owned()
                    }
                }
            }
            other => other.to_string(),
        };
        let answer = reply.to_string();
        let answer = answer.strip_prefix("OK ").unwrap_or(&answer).trim_end();
        self.line(&format!("{recipient:<26}{:<30}{fate}", cut(answer, 28)))
    }

    /// Shows that known recipients are delivered and unknown ones deferred.
    async fn without_master(&mut self) -> io::Result<()> {
        for recipient in [JANE, MAX] {
            let reply = query(&self.place.socket, "lmtp", recipient).await?;
            self.row(recipient, &reply).await?;
            if !is_delivered(&reply) {
                return Err(io::Error::other(format!("{recipient} is answered `{reply}`")));
            }
        }
        self.line("  known recipients are delivered as before")?;
        let doubtful = |reply: &Reply| !is_refused(reply) && *reply != Reply::NotFound;
        let reply = until(&self.place.socket, NOBODY, doubtful).await?;
        self.row(NOBODY, &reply).await?;
        self.line("  the miss cannot be confirmed: the message waits")
    }

    fn count(&mut self) -> io::Result<()> {
        self.line("")?;
        for backend in self.backends {
            let count = backend.messages().len();
            self.line(&format!("{}.example.org holds {count} messages", backend.name))?;
        }
        Ok(())
    }
}

/// Shortens a text to a width.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The temporary directory of the demo, removed at its end.
struct DemoDirectory {
    dir: tempfile::TempDir,
    config: PathBuf,
    socket: PathBuf,
}

impl DemoDirectory {
    fn make() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("murder-route-demo-").tempdir()?;
        let path = |name: &str| dir.path().join(name);
        fs::write(path("mailboxes.db"), MAILBOXES_DB)?;
        fs::write(path("imapd.conf"), imapd_conf(dir.path()))?;
        let mut password = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path("password"))?;
        password.write_all(b"demo\n")?;
        Ok(Self { config: path("murder-route.toml"), socket: path("murder-route"), dir })
    }

    /// The list of the master.
    fn list(&self) -> io::Result<Vec<(MailboxName, Record)>> {
        let list = FileList::open(self.dir.path().join("mailboxes.db"), FileListOptions::default());
        let mut records = Vec::new();
        list.each(b"", &mut |name, record| {
            if record.state.exists() {
                records.push((name.clone(), record.clone()));
            }
            ControlFlow::Continue(())
        })
        .map_err(io::Error::other)?;
        Ok(records)
    }

    fn configure(&self, backends: &[DemoBackend], master: &DemoMaster) -> io::Result<()> {
        let mut config = format!(
            "source = \"replica\"\n\
             imapd-conf = \"imapd.conf\"\n\
             domains = [\"example.org\", \"example.net\"]\n\n\
             [replica]\n\
             directory = \"replica\"\n\n\
             [mupdate]\n\
             servers = [\"{}\"]\n\
             authname = \"demo\"\n\
             password-file = \"password\"\n\
             allow-plaintext = true\n\n\
             [[listen]]\n\
             endpoint = \"unix:murder-route\"\n",
            master.address
        );
        for DemoBackend { name, address, .. } in backends {
            config +=
                &format!("\n[backends.servers.\"{name}.example.org\"]\naddress = \"{address}\"\n");
        }
        fs::write(&self.config, config)
    }

    fn tell_what_to_try(&self, out: &mut impl Write) -> io::Result<()> {
        let (config, socket) = (self.config.display(), self.socket.display());
        writeln!(
            out,
            "\nThe daemon stays up. From another terminal try\n\n  \
             C={config}\n  \
             murder-route lookup --config $C --explain jane+Work@Example.org\n  \
             murder-route dump --config $C\n  \
             murder-route check --config $C\n  \
             murder-route status --config $C\n  \
             S={socket}\n  \
             postmap -q jane@example.org socketmap:unix:$S:lmtp\n\n\
             (without an installed murder-route: cargo run --release -- lookup …)\n\
             Ctrl-C ends it."
        )
    }
}

fn imapd_conf(dir: &Path) -> String {
    format!(
        "configdirectory: {}\nvirtdomains: userid\ndefaultdomain: example.org\n\
         unixhierarchysep: yes\n",
        dir.display()
    )
}
