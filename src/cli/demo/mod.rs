//! `murder-route demo`: the whole way of a letter, with nothing but this program.
//!
//! The daemon answers on a temporary socket from a small mailbox list that Cyrus 3.6.1 wrote; two
//! LMTP servers in this process stand for the backends. The demo then does what Postfix does: it
//! asks over the socketmap, and hands the letter over where the answer says.

mod backend;
mod postfix;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use self::backend::DemoBackend;
use self::postfix::{Delivered, deliver, query};
use super::Exit;
use crate::config::{Overrides, Settings};
use crate::resolver::Resolver;
use crate::server::answerer::Answerer;
use crate::server::{Limits, Server};
use crate::wire::socketmap::Reply;

/// Ten mailboxes on `be1.example.org` and `be2.example.org`, written by `cyr_dbtool` of Cyrus 3.6.1.
const MAILBOXES_DB: &[u8] = include_bytes!("mailboxes.db");

/// Who gets a letter, and what there is to see in it.
const LETTERS: [(&str, &str); 9] = [
    ("jane@example.org", "a mailbox on the first backend"),
    ("Max.Muster@Example.ORG", "dots and case, on the second"),
    ("jane+Work@example.org", "a +detail: the INBOX decides, the folder is the backend's matter"),
    ("eve@example.net", "another virtual domain"),
    ("+info/press@example.org", "a shared folder that anyone may post to"),
    ("+board@example.org", "a shared folder that takes no mail from outside"),
    ("carol@example.org", "a mailbox being moved (reserved): the letter waits"),
    ("nobody@example.org", "no such mailbox: refused at RCPT, nothing to bounce"),
    ("someone@elsewhere.example", "none of our domains"),
];

/// Show the whole way of a letter, with nothing but this program.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Stop after the table instead of staying up to be asked by hand
    #[arg(long)]
    once: bool,
}

impl Demo {
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
        let place = Place::make(&backends)?;
        let settings = Settings::load(&Overrides {
            config: Some(place.config.clone()),
            ..Overrides::default()
        })
        .map_err(io::Error::other)?;
        let listen = settings.listeners.clone();
        let answerer = Arc::new(Answerer::new(Resolver::new(settings, None), None));
        let mut server = Server::new(answerer, Limits::default())?;
        server.reconcile(&listen).await.map_err(io::Error::other)?;

        let mut out = io::stdout();
        writeln!(
            out,
            "The daemon answers at {}, from the list of two backends:",
            place.socket.display()
        )?;
        for backend in &backends {
            writeln!(out, "  {}.example.org is {} here", backend.name, backend.address)?;
        }
        writeln!(
            out,
            "\n{:<26} {:<56} WHAT BECAME OF THE LETTER",
            "RECIPIENT", "THE MAP'S ANSWER"
        )?;
        let mut astray = 0;
        for (recipient, what) in LETTERS {
            let reply = query(&place.socket, "lmtp", recipient).await?;
            let canonical = match query(&place.socket, "canonical", recipient).await? {
                Reply::Ok(canonical) => canonical,
                Reply::NotFound | Reply::Temp(_) => recipient.to_owned(),
            };
            let delivered = deliver(&reply, &canonical).await?;
            if let Delivered::Taken(_) = delivered {
                let arrived =
                    |b: &&DemoBackend| b.has(&canonical) && reply.to_string().contains(&b.address);
                astray += usize::from(backends.iter().filter(arrived).count() != 1);
            }
            writeln!(out, "{recipient:<26} {:<56} {delivered}", reply.to_string().trim_end())?;
            writeln!(out, "  {what}")?;
        }
        for backend in &backends {
            let letters = backend.letters();
            writeln!(
                out,
                "\n{}.example.org holds {} letters: {}",
                backend.name,
                letters.len(),
                letters.join(", ")
            )?;
        }
        if astray > 0 {
            return Err(io::Error::other(format!(
                "{astray} letters did not arrive where they should"
            )));
        }
        if !self.once {
            place.tell_what_to_try(&mut out)?;
            tokio::signal::ctrl_c().await?;
        }
        server.shutdown().await;
        Ok(())
    }
}

/// The temporary directory of the demo; gone when it ends.
struct Place {
    _dir: tempfile::TempDir,
    config: PathBuf,
    socket: PathBuf,
}

impl Place {
    fn make(backends: &[DemoBackend]) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("murder-route-demo-").tempdir()?;
        let path = |name: &str| dir.path().join(name);
        fs::write(path("mailboxes.db"), MAILBOXES_DB)?;
        fs::write(path("imapd.conf"), imapd_conf(dir.path()))?;
        let mut config = String::from(
            "imapd-conf = \"imapd.conf\"\n\
             misses = \"final\"\n\
             domains = [\"example.org\", \"example.net\"]\n\n\
             [[listen]]\n\
             endpoint = \"unix:murder-route\"\n",
        );
        for DemoBackend { name, address, .. } in backends {
            config +=
                &format!("\n[backends.servers.\"{name}.example.org\"]\naddress = \"{address}\"\n");
        }
        fs::write(path("murder-route.toml"), config)?;
        Ok(Self { config: path("murder-route.toml"), socket: path("murder-route"), _dir: dir })
    }

    fn tell_what_to_try(&self, out: &mut impl Write) -> io::Result<()> {
        let (config, socket) = (self.config.display(), self.socket.display());
        writeln!(
            out,
            "\nThe daemon stays up. From another terminal try\n\n  \
             murder-route lookup --config {config} --explain jane+Work@Example.org\n  \
             murder-route dump --config {config}\n  \
             murder-route check --config {config}\n  \
             murder-route status --config {config}\n  \
             postmap -q jane@example.org socketmap:unix:{socket}:lmtp\n\n\
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
