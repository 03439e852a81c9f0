//! Exim as Debian's packages configure it, changed by our README.

use std::fs;
use std::path::Path;

use crate::clients::mail::Session;
use crate::logs::Line;
use crate::murder::Host;
use crate::readme::Readme;
use crate::sandbox::{self, Process, STATE};
use crate::world::{Delivery, Mta, SMTP};
use crate::{Done, ensure};

/// Settings of the site: answers to Debian's questions at installation.
const SITE: &str = "dc_eximconfig_configtype='smarthost'
dc_other_hostnames='mx.murder.test'
dc_local_interfaces='127.0.1.31'
dc_readhost=''
dc_relay_domains=''
dc_minimaldns='true'
dc_relay_nets=''
dc_smarthost='127.0.1.41'
CFILEMODE='644'
dc_use_split_config='false'
dc_hide_mailname='false'
dc_mailname_in_oh='true'
dc_localdelivery='mail_spool'
";

/// Settings of this run: the log, and the file that holds messages in the queue.
const MAIN: &str = "log_file_path = syslog
syslog_timestamp = no
syslog_duplication = no
queue_only_file = /run/murder/exim.hold
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
";

/// Deferred messages are tried again within seconds. Exim applies the first matching rule.
const RETRY: &str = "* * F,1h,1s; F,4d,1m\n";

/// File whose existence holds new messages in the queue.
const HOLD: &str = "/run/murder/exim.hold";

/// The running server and its queue runner.
pub struct Exim {
    daemon: Option<Process>,
    queue_runner: Process,
}

impl Exim {
    /// Follows the README and starts it.
    pub fn start() -> Done<Self> {
        fs::write(sandbox::in_root("/etc/exim4/update-exim4.conf.conf"), SITE)?;
        fs::write(sandbox::in_root("/etc/mailname"), "mx.murder.test\n")?;
        for (piece, text) in [("main/01_a_run", MAIN), ("retry/10_run", RETRY)] {
            fs::write(sandbox::in_root(&format!("/etc/exim4/conf.d/{piece}")), text)?;
        }
        let asked = Readme::of("exim")?.below("Set it up")?.follow()?;
        ensure!(asked == ["restart exim4"], "systemctl was called with {asked:?}");
        let mut exim = Self { daemon: None, queue_runner: run_queue()? };
        exim.restart()?;
        Ok(exim)
    }

    /// Starts or restarts it.
    pub fn restart(&mut self) -> Done {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop()?;
        }
        let output = format!("{STATE}/exim.output");
        let mut daemon = sandbox::command("exim4");
        daemon.arg("-bdf");
        self.daemon = Some(Process::start("exim", &mut daemon, Path::new(&output))?);
        sandbox::poll("Exim to accept connections", 30, || Ok(Session::smtp(SMTP).ok()))?;
        Ok(())
    }

    /// Holds new messages in the queue.
    pub fn hold(&self) -> Done {
        self.queue_runner.freeze()?;
        Ok(fs::write(HOLD, "")?)
    }

    /// Delivers held and new messages.
    pub fn release(&self) -> Done {
        fs::remove_file(HOLD)?;
        self.queue_runner.thaw()
    }
}

fn run_queue() -> Done<Process> {
    let mut runner = sandbox::command("sh");
    runner.args(["-c", "while :; do exim4 -q; sleep 0.5; done"]);
    Process::start("Exim's queue", &mut runner, Path::new(&format!("{STATE}/exim-queue.output")))
}

impl Mta for Exim {
    /// In `250 OK id=1xVwvf-000085-2B`.
    fn queue_id(reply: &str) -> Option<&str> {
        Some(reply.split_once("OK id=")?.1.trim())
    }

    fn attempts(line: &Line, queue_id: &str) -> Vec<Delivery> {
        attempt(&line.text, queue_id).into_iter().collect()
    }

    fn is_removal(line: &Line, queue_id: &str) -> bool {
        line.text.strip_prefix(queue_id) == Some(" Completed")
    }

    /// Exim's lmtp transport logs no host. The backend's reply names it: it ends with `SESSIONID=<be1-…>`.
    fn relay(backend: &Host) -> String {
        backend.name.to_owned()
    }
}

/// `1xVwvf-000085-2B => jane+Work <Jane+Work@Example.ORG> R=… T=… C="250 …"`; `->` is a further recipient
/// of a transaction, `==` was deferred, `**` bounced.
fn attempt(text: &str, queue_id: &str) -> Option<Delivery> {
    let (sign, rest) = text.strip_prefix(queue_id)?.strip_prefix(' ')?.split_once(' ')?;
    let status = match sign {
        "=>" | "->" => "sent",
        "==" => "deferred",
        "**" => "bounced",
        _ => return None,
    };
    let (name, after) = rest.split_once(' ')?;
    let given = after.strip_prefix('<').and_then(|after| after.split_once('>'));
    let recipient = given.map_or(name, |(given, _)| given);
    let session = rest.split_once("SESSIONID=<").map_or("none", |(_, session)| session);
    let relay = session.split('-').next().unwrap_or(session);
    Some(Delivery { recipient: recipient.into(), relay: relay.into(), status: status.into() })
}
