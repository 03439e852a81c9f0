//! How misses are confirmed, and whether the MUPDATE server answers.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::{CheckFailure, CheckReport};
use crate::config::{Mupdate, Settings};
use crate::doctor::judge::one_line;
use crate::lists::{FileList, FileListOptions};
use crate::master::Visit;
use crate::master::client::{Impossible, Master};
use crate::model::name::MailboxName;
use crate::mupdate::{FailureKind, Finding, Mechanism, WhenTls};
use crate::os::kick::kick;
use crate::os::regular_file;
use crate::routing::confirm::ConfirmVia;

/// Asks the MUPDATE server once. `None`: there is none, or it cannot be asked. `Err`: the daemon does not
/// start with this configuration.
pub(crate) type AskMaster<'a> = &'a dyn Fn() -> Option<Result<MasterAnswer, String>>;

/// Result of a FIND at the MUPDATE server.
pub(crate) struct MasterAnswer {
    finding: Result<Finding, Impossible>,
    /// The name that it announces, if the login succeeded.
    server: Option<String>,
    failure: Option<FailureKind>,
    /// Its release, if the end of a connection can crash it.
    harmed: Option<String>,
}

impl MasterAnswer {
    /// Looks up a name, which need not exist, as the daemon does for a miss.
    pub(crate) async fn by(visit: &Visit) -> Option<Self> {
        let name = MailboxName::new("user.root").ok()?;
        Some(Self {
            finding: visit.find(&name).await,
            server: visit.servername(),
            failure: visit.failure().map(|failure| failure.kind()),
            harmed: visit.is_harmed(),
        })
    }
}

impl CheckReport {
    pub(super) fn unknown(&mut self, settings: &Settings, ask: AskMaster<'_>) {
        if let Some(mupdate) = &settings.mupdate {
            self.mupdate(mupdate);
        }
        match &settings.proof {
            ConfirmVia::Master { slave } => {
                self.line("unknown is", "confirmed by the MUPDATE master, name by name");
                self.master(ask, slave.as_deref());
            }
            ConfirmVia::Slave(socket) => {
                self.line(
                    "unknown is",
                    format!(
                        "confirmed by the MUPDATE slave of this host, at {}",
                        socket.display()
                    ),
                );
                if let Err(why) = kick(socket, Duration::from_secs(4)) {
                    self.warn(format!("{why}; the list may be stale; unknown recipients are deferred"));
                }
            }
            ConfirmVia::Complete => {
                self.line("unknown is", "not in the list (there is no MUPDATE server)");
                let path = settings.mailboxes_db.as_deref().unwrap_or(Path::new(""));
                let list = FileList::open(path, FileListOptions::default());
                if let (Ok(()), Err(why)) = (list.trust(), list.is_complete()) {
                    self.warn(format!("{why}; unknown recipients are deferred"));
                }
            }
            ConfirmVia::List => self.line(
                "unknown is",
                "not in the list, unconfirmed (misses = \"final\"): a lagging list can reject valid \
                 recipients",
            ),
        }
    }

    fn master(&mut self, ask: AskMaster<'_>, slave: Option<&Path>) {
        let MasterAnswer { finding, server, failure, harmed } = match ask() {
            Some(Ok(asked)) => asked,
            Some(Err(why)) => return self.fail(&why),
            None => return,
        };
        if let Some(release) = harmed {
            self.warn(format!(
                "the MUPDATE server is Cyrus {}: its mupdate process can crash when a TLS connection \
                 ends, as after each check, doctor, lookup and restart of the daemon; upgrade it, or \
                 turn TLS off (`tls = \"off\"`, with SCRAM) on a trusted network",
                one_line(&release)
            ));
        }
        if matches!(failure, Some(FailureKind::Login | FailureKind::Config)) {
            self.failure.get_or_insert(CheckFailure::Login);
        }
        match (finding, slave) {
            (Ok(Finding::Found(_) | Finding::Absent), _) => {
                let server = server.unwrap_or_default();
                self.line(
                    "login",
                    format!("succeeded; the server announces itself as {}", one_line(&server)),
                );
            }
            (Ok(Finding::Unsure(why)), _) => {
                self.warn(format!("{why}; unknown recipients are deferred"));
            }
            (Err(why), Some(socket)) => {
                self.warn(format!(
                    "the master cannot be asked: {why}; misses are confirmed by the MUPDATE slave of \
                     this host, at {}",
                    socket.display()
                ));
            }
            (Err(why), None) => self.warn(format!("{why}; unknown recipients are deferred")),
        }
    }

    fn mupdate(&mut self, mupdate: &Mupdate) {
        let servers: Vec<String> = mupdate.servers.iter().map(ToString::to_string).collect();
        self.line("MUPDATE server", servers.join(", then "));
        let mut text = match mupdate.tls.when {
            WhenTls::Off => "off",
            WhenTls::IfOffered => "if the server offers it",
            WhenTls::Required => "required",
        }
        .to_owned();
        if mupdate.tls.when != WhenTls::Off {
            match &mupdate.tls.ca_file {
                Some(path) => {
                    let _ = write!(text, ", verified by {}", path.display());
                }
                None => text += ", verified by the CA certificates of the system",
            }
            if let Some(name) = &mupdate.tls.name {
                let _ = write!(text, " as {name}");
            }
        }
        self.line("TLS", text);
        for path in
            mupdate.tls.ca_file.iter().chain(
                mupdate.tls.client.iter().flat_map(|client| [&client.certificate, &client.key]),
            )
        {
            if let Err(e) = regular_file::open(path) {
                self.warn(format!("{}: {e}", path.display()));
            }
        }
        let name = mupdate.credentials.name();
        self.line(
            "login as",
            format!(
                "{} ({})",
                if name.is_empty() { "the name in the certificate" } else { name },
                mechanisms(mupdate)
            ),
        );
        if mupdate.allow_plaintext {
            self.warn(
                "allow-plaintext: the password of a murder admin can be read on the network between \
                 this host and the MUPDATE server; require TLS or SCRAM",
            );
        }
    }
}

/// Usable SASL mechanisms, best first. The server's choice is not known here.
fn mechanisms(mupdate: &Mupdate) -> String {
    let usable = |mechanism: &Mechanism| match mechanism {
        Mechanism::External => mupdate.tls.client.is_some(),
        _ => mupdate.credentials.password().is_some(),
    };
    let describe = |mechanism: Mechanism| match mechanism {
        Mechanism::Plain if !mupdate.allow_plaintext => "PLAIN under TLS",
        mechanism => mechanism.as_str(),
    };
    let wanted = mupdate.mechanisms.as_deref().unwrap_or(&Mechanism::ALL);
    wanted.iter().copied().filter(usable).map(describe).collect::<Vec<_>>().join(", ")
}
