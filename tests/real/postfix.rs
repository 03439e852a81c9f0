//! Postfix: accepts mail by SMTP, asks the router for the backend of each recipient, delivers there by
//! LMTP.

use std::fs;
use std::path::Path;

use crate::clients::mail::Session;
use crate::logs::{Line, Logs, Mark};
use crate::murder::Host;
use crate::sandbox::{self, Process, STATE};
use crate::world::Mta;
pub use crate::world::{DOMAINS, Delivery, SMTP};
use crate::{Done, ensure, run};

/// Settings unrelated to a Murder. The times are short, so that a deferred message is tried again within
/// seconds. The rest is what a site would write.
const SITE: &str = "compatibility_level = 3.6
myhostname = mx.murder.test
mydestination =
alias_maps =
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_tls_security_level = none
smtp_tls_security_level = none
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_client_connection_count_limit = 0
relayhost = [127.0.1.41]
queue_run_delay = 1s
minimal_backoff_time = 2s
maximal_backoff_time = 4s
transport_retry_time = 2s
";

fn main_cf(chroot: Chroot) -> String {
    format!(
        "{SITE}relay_domains = {domains}
relay_recipient_maps =
transport_maps = {proxy}socketmap:unix:/run/murder-route:lmtp
recipient_canonical_maps = {proxy}socketmap:unix:/run/murder-route:canonical
recipient_canonical_classes = envelope_recipient
smtputf8_enable = no
lmtp_connect_timeout = 10s
lmtp_destination_concurrency_failed_cohort_limit = 100
",
        domains = DOMAINS.join(", "),
        proxy = match chroot {
            Chroot::No => "",
            Chroot::AsDebian => "proxy:",
        },
    )
}

/// Whether services run in a chroot. On Debian these do and cannot see /run/murder-route; proxymap never
/// does, and asks for them.
#[derive(Clone, Copy)]
pub enum Chroot {
    No,
    AsDebian,
}

fn master_cf(chroot: Chroot) -> String {
    let service = |line: &str| match (chroot, line.rsplit(' ').next()) {
        (Chroot::AsDebian, Some("smtpd" | "cleanup" | "trivial-rewrite" | "lmtp")) => {
            line.replacen(" n - - ", " y - - ", 1).replacen(" n - 0 ", " y - 0 ", 1)
        }
        _ => line.to_owned(),
    };
    MASTER_CF.lines().map(|line| service(line) + "\n").collect()
}

const MASTER_CF: &str = "\
127.0.1.31:25 inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
    -o lmtp_delivery_status_filter=regexp:/etc/postfix/backend_status
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
";

/// After an XFER the old backend replies 550 5.1.1 for good; at the next attempt the router names the new
/// one. Unknown recipients never reach a backend.
const BACKEND_STATUS: &str = include_str!("../../postfix/murder-route-status");

/// The running server.
pub struct Postfix {
    process: Option<Process>,
}

impl Postfix {
    /// Writes the configuration and starts Postfix.
    pub fn start() -> Done<Self> {
        let mut postfix = Self { process: None };
        postfix.restart(Chroot::No)?;
        Ok(postfix)
    }

    /// Rewrites the configuration and restarts Postfix. After a mere reload an old smtpd may still accept
    /// the next connection, which it cannot serve.
    pub fn restart(&mut self, chroot: Chroot) -> Done {
        self.stop()?;
        write(chroot)?;
        self.begin()
    }

    /// Stops Postfix, and restores the configuration of a host that does not know a Murder, with the
    /// services that Debian ships.
    pub fn forget_the_murder(&mut self) -> Done {
        self.stop()?;
        let shipped = fs::read_to_string(shipped_master_cf()?)?;
        let ours = shipped.replace("\nsmtp      inet ", "\n127.0.1.31:25 inet ");
        ensure!(ours != shipped, "no smtpd in Debian's master.cf: {shipped}");
        fs::write(sandbox::in_root("/etc/postfix/main.cf"), SITE)?;
        Ok(fs::write(sandbox::in_root("/etc/postfix/master.cf"), ours)?)
    }

    /// Restarts Postfix with the present configuration, and with the files that Debian's scripts copy into
    /// the chroot.
    pub fn restart_as_it_is(&mut self) -> Done {
        self.stop()?;
        for file in ["services", "hosts", "resolv.conf", "nsswitch.conf"] {
            let copy = sandbox::in_root(&format!("/var/spool/postfix/etc/{file}"));
            fs::copy(sandbox::in_root(&format!("/etc/{file}")), copy)?;
        }
        self.begin()
    }

    fn stop(&mut self) -> Done {
        if let Some(process) = self.process.take() {
            // A signal would end only the start script.
            run(sandbox::command("postfix").arg("stop"))?;
            process.stop()?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Done {
        let output = format!("{STATE}/postfix.output");
        let process = Process::start(
            "postfix",
            sandbox::command("postfix").arg("start-fg"),
            Path::new(&output),
        )?;
        self.process = Some(process);
        sandbox::poll("Postfix to accept connections", 60, || Ok(Session::smtp(SMTP).ok()))?;
        Ok(())
    }
}

/// A copy of Debian's own file, from which all others are made.
fn shipped_master_cf() -> Done<String> {
    let copy = sandbox::in_root("/etc/postfix/master.cf.shipped");
    if !fs::exists(&copy)? {
        fs::copy(sandbox::in_root("/etc/postfix/master.cf"), &copy)?;
    }
    Ok(copy)
}

fn write(chroot: Chroot) -> Done {
    shipped_master_cf()?;
    fs::write(sandbox::in_root("/etc/postfix/main.cf"), main_cf(chroot))?;
    fs::write(sandbox::in_root("/etc/postfix/master.cf"), master_cf(chroot))?;
    Ok(fs::write(sandbox::in_root("/etc/postfix/backend_status"), BACKEND_STATUS)?)
}

impl Mta for Postfix {
    /// In `250 2.0.0 Ok: queued as 4ABC`.
    fn queue_id(reply: &str) -> Option<&str> {
        Some(reply.split_once("queued as ")?.1.trim())
    }

    fn attempts(line: &Line, queue_id: &str) -> Vec<Delivery> {
        delivery(&line.text, queue_id).into_iter().collect()
    }

    fn is_removal(line: &Line, queue_id: &str) -> bool {
        line.text.strip_prefix(queue_id) == Some(": removed")
    }

    fn relay(backend: &Host) -> String {
        format!("{0}[{0}]:2003", backend.address)
    }
}

/// Waits for the next attempt to deliver the message, and returns its result.
pub fn next_attempt(logs: &Logs, since: Mark, queue_id: &str) -> Done<Delivery> {
    logs.wait(&format!("an attempt to deliver {queue_id}"), since, 60, |lines| {
        lines.iter().find_map(|line| delivery(&line.text, queue_id))
    })
}

/// `4ABC: to=<a@b>, relay=…, delay=…, dsn=2.1.5, status=sent (…)`.
fn delivery(text: &str, queue_id: &str) -> Option<Delivery> {
    let fields = text.strip_prefix(queue_id)?.strip_prefix(": to=<")?;
    let (recipient, rest) = fields.split_once('>')?;
    let field = |name: &str| {
        let (_, value) = rest.split_once(name)?;
        Some(value.split([',', ' ']).next().unwrap_or(value).to_owned())
    };
    Some(Delivery {
        recipient: recipient.to_owned(),
        relay: field("relay=")?,
        status: field("status=")?,
    })
}
