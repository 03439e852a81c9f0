//! Sendmail: accepts mail by SMTP, asks the router in rule set 0 and again before each RCPT that it sends,
//! delivers by LMTP. It is set up by `sendmail/README.md`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::clients::mail::Session;
use crate::logs::Line;
use crate::murder::{BACKENDS, Host};
use crate::readme::Readme;
use crate::sandbox::{self, Process, STATE, User};
use crate::world::{Delivery, Mta, SMTP};
use crate::{Done, ensure};

/// The example in the README's directory, and its line for settings of the site.
pub const EXAMPLE: &str = "/run/root/usr/local/share/doc/murder-route/sendmail/example.mc";
pub const YOURS: &str = "dnl --- other settings of your site ---\n";

/// Settings of this site in sendmail.mc: no DNS, one host as the outside, and short times.
pub const SITE: &str = "\
define(`confLOG_LEVEL', `14')dnl
define(`confMIN_QUEUE_AGE', `0')dnl
define(`confTO_IDENT', `0')dnl
define(`confTO_ICONNECT', `5s')dnl
define(`confQUEUE_LA', `1000')dnl
define(`confREFUSE_LA', `1000')dnl
define(`SMART_HOST', `esmtp:[127.0.1.41]')dnl
define(`confDOMAIN_NAME', `mx.murder.test')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`nocanonify')dnl
DAEMON_OPTIONS(`Family=inet, Name=MTA, Port=smtp, Addr=127.0.1.31')dnl
";

/// The running server.
pub struct Sendmail {
    process: Option<Process>,
}

impl Sendmail {
    /// Follows the README and starts Sendmail.
    pub fn start() -> Done<Self> {
        own_the_way_to_the_socket(sandbox::user("cyrus")?)?;
        fs::copy(mail("service.switch-nodns"), mail("service.switch"))?;
        let readme = Readme::of("sendmail")?;
        let text = fs::read_to_string(EXAMPLE)?;
        ensure!(text.contains(YOURS), "example.mc has no line for settings of the site");
        fs::write(EXAMPLE, text.replace(YOURS, SITE))?;
        let readme = readme.below("Routing")?;
        let readme = readme.instead_of("be1.example.org", BACKENDS[0])?;
        let asked = readme.instead_of("be2.example.org", BACKENDS[1])?.follow()?;
        ensure!(asked.iter().any(|call| call == "restart sendmail"), "README.md: {asked:?}");
        let mut sendmail = Self { process: None };
        sendmail.resume()?;
        Ok(sendmail)
    }

    /// Starts it with the present configuration.
    pub fn resume(&mut self) -> Done {
        fs::create_dir_all("/run/sendmail/mta")?;
        let output = format!("{STATE}/sendmail.output");
        let mut command = sandbox::command("/usr/sbin/sendmail");
        // It runs the queue each second.
        let process = Process::start("sendmail", command.args(["-bD", "-q1s"]), Path::new(&output));
        self.process = Some(process?);
        sandbox::poll("Sendmail to accept connections", 60, || Ok(Session::smtp(SMTP).ok()))?;
        Ok(())
    }

    /// Restarts it with the present configuration.
    pub fn restart(&mut self) -> Done {
        // It may not be running after a scenario that failed.
        let _ = self.stop();
        self.resume()
    }

    /// Stops it.
    pub fn stop(&mut self) -> Done {
        self.process.take().ok_or("Sendmail is not running")?.stop()
    }
}

/// Sendmail trusts only a socket that no other user could have created: only its user may write to the
/// directory. The other users of this run need no access.
pub fn own_the_way_to_the_socket(user: User) -> Done {
    chown("/run", Some(user.uid), Some(user.gid))?;
    Ok(fs::set_permissions("/run", Permissions::from_mode(0o755))?)
}

/// A file of its configuration.
pub fn mail(name: &str) -> String {
    sandbox::in_root(&format!("/etc/mail/{name}"))
}

impl Mta for Sendmail {
    /// In `250 2.0.0 6AOKIkJm000153 Message accepted for delivery`.
    fn queue_id(reply: &str) -> Option<&str> {
        reply.strip_suffix(" Message accepted for delivery")?.rsplit(' ').next()
    }

    /// `ID: to=<a@b>,<c@b>, delay=…, mailer=murderlmtp, relay=[h] [h], dsn=2.1.5, stat=Sent`.
    fn attempts(line: &Line, queue_id: &str) -> Vec<Delivery> {
        parse(&line.text, queue_id).unwrap_or_default()
    }

    fn is_removal(line: &Line, queue_id: &str) -> bool {
        let rest = line.text.strip_prefix(queue_id);
        rest.is_some_and(|rest| rest.starts_with(": done; "))
    }

    /// The mailer of the backend, by the order in which backends are listed.
    fn relay(backend: &Host) -> String {
        backend.name.replace("be", "murderlmtp")
    }
}

fn parse(text: &str, queue_id: &str) -> Option<Vec<Delivery>> {
    let (recipients, rest) =
        text.strip_prefix(queue_id)?.strip_prefix(": to=")?.split_once(", delay=")?;
    let field = |name: &str| {
        let (_, value) = rest.split_once(name)?;
        Some(value.split(',').next().unwrap_or(value).trim())
    };
    let status = match (field("stat=")?, field("dsn=")?) {
        (stat, _) if stat.starts_with("queued") => return None,
        (_, dsn) if dsn.starts_with('2') => "sent",
        (_, dsn) if dsn.starts_with('4') => "deferred",
        _ => "bounced",
    };
    let relay = field("relay=").unwrap_or("none");
    let recipients = recipients.trim_start_matches('<').trim_end_matches('>').split(">,<");
    let delivery = |recipient: &str| Delivery {
        recipient: recipient.to_owned(),
        relay: relay.to_owned(),
        status: status.to_owned(),
    };
    Some(recipients.map(delivery).collect())
}
