//! Several Postfix instances that differ only in how they find the destination of a recipient.

use std::fs;

use crate::clients::mail::Session;
use crate::sandbox::{self, Process, STATE};
use crate::{Done, run};

/// The domain of all recipients.
pub const DOMAIN: &str = "example.org";

/// Common settings. A destination has at most 20 connections, as by default, but there are never more than
/// 20 deliveries at once (`lmtp` in master.cf), so that two destinations get no more than one. Mail is
/// accepted as fast as it arrives: with `in_flow_delay` a client would wait a second for each message that
/// arrives before another has left.
fn main_cf(dir: &str, routing: &str) -> String {
    format!(
        "compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
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
in_flow_delay = 0
relay_domains = {DOMAIN}
lmtp_destination_concurrency_limit = 20
lmtp_connection_cache_time_limit = 5s
connection_cache_ttl_limit = 5s
{routing}"
    )
}

fn master_cf(address: &str) -> String {
    format!(
        "{address}:25 inet n - n - - smtpd
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
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - 20 lmtp -o max_use=1000
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"
    )
}

/// A running instance.
pub struct MailServer {
    dir: String,
    /// Its SMTP address.
    pub smtp: String,
    process: Process,
}

impl MailServer {
    /// Starts an instance with these lines of main.cf.
    pub fn start(name: &str, address: &str, routing: &str) -> Done<Self> {
        let dir = format!("{STATE}/postfix-{name}");
        for sub in ["", "/queue"] {
            fs::create_dir_all(format!("{dir}{sub}"))?;
        }
        sandbox::make_dir(&format!("{dir}/data"), sandbox::user("postfix")?)?;
        fs::write(format!("{dir}/main.cf"), main_cf(&dir, routing))?;
        fs::write(format!("{dir}/master.cf"), master_cf(address))?;
        let output = format!("{dir}/output");
        let mut command = sandbox::command("postfix");
        command.args(["-c", &dir, "start-fg"]);
        let process = Process::start(name, &mut command, output.as_ref())?;
        let smtp = format!("{address}:25");
        sandbox::poll(&format!("{smtp} to be served"), 60, || Ok(Session::smtp(&smtp).ok()))?;
        Ok(Self { dir, smtp, process })
    }

    /// Stops it.
    pub fn stop(self) -> Done {
        // A signal would end only the start script.
        run(sandbox::command("postfix").args(["-c", &self.dir, "stop"]))?;
        self.process.stop()
    }
}
