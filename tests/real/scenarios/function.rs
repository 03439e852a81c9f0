//! The library as a function of Exim, `${dlfunc{…}{murder_route_exim}{…}}`: Exim delivers directly, to the
//! returned host and port.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use super::beside::switch;
use super::{cut, paths, refusals};
use crate::exim::Exim;
use crate::library::{self, LIBRARY};
use crate::releases::is_wanted;
use crate::report::Report;
use crate::router::SOCKET;
use crate::sandbox::{self, in_root};
use crate::world::{DOMAINS, World};
use crate::{Done, ensure, run};

/// The default path, in the root.
const CONFIGURATION: &str = "/etc/murder-route.toml";

/// If it exists, Exim reads this file instead of that of Debian's scripts.
const EXIM_CONF: &str = "/etc/exim4/exim4.conf";

/// The canonical form first: an lmtpd of 3.6 crashes on another one. Exim passes the domain in lower case,
/// and sends it as received unless the address is redirected.
fn exim_conf() -> String {
    format!(
        r#"primary_hostname = mx.murder.test
domainlist murder_domains = {domains}
local_interfaces = 127.0.1.31
log_file_path = syslog
syslog_timestamp = no
syslog_duplication = no
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = acl_rcpt
MURDER = ${{quote_local_part:$local_part}}@$domain

begin acl
acl_rcpt:
  deny
    domains = +murder_domains
    !verify = recipient
  accept

begin routers
murder_canonical:
  driver = redirect
  domains = +murder_domains
  caseful_local_part
  retry_use_local_part
  data = ${{dlfunc{{{LIBRARY}}}{{murder_route_exim}}{{MURDER}}{{}}{{canonical}}}}

murder_lower:
  driver = redirect
  domains = +murder_domains
  caseful_local_part
  retry_use_local_part
  data = MURDER

murder:
  driver = manualroute
  domains = +murder_domains
  caseful_local_part
  retry_use_local_part
  route_data = ${{dlfunc{{{LIBRARY}}}{{murder_route_exim}}{{MURDER}}}} byname
  transport = murder_lmtp
  self = send
  no_more
  cannot_route_message = 5.1.1 User unknown

outside:
  driver = manualroute
  route_list = * 127.0.1.41
  self = send
  transport = remote_smtp

begin transports
murder_lmtp:
  driver = smtp
  protocol = lmtp
  port = 2003

remote_smtp:
  driver = smtp

begin retry
* * F,1h,1s; F,4d,1m
"#,
        domains = DOMAINS.join(" : "),
    )
}

/// Runs them.
pub fn run_in(world: &mut World<Exim>, report: &mut Report) {
    let logs = world.logs.clone();
    let mut scenario = |name: &str, run: fn(&mut World<Exim>) -> Done| {
        let name = format!("the function: {name}");
        if is_wanted(&name) {
            report.scenario(&name, &logs, || with_the_function(world, run));
        }
    };
    scenario("every recipient on its own backend", each_on_its_backend);
    scenario("known recipients are answered without the daemon", without_the_daemon);
    scenario("the list is repacked", list_repacked);
    scenario("the list is cut off in place", list_cut_off);
    scenario("a bad configuration defers", bad_configuration);
}

/// Runs a scenario with an Exim that has only this configuration, and restores everything afterwards.
fn with_the_function(world: &mut World<Exim>, scenario: fn(&mut World<Exim>) -> Done) -> Done {
    let seen = begin(world).and_then(|()| scenario(world));
    fs::remove_file(in_root(EXIM_CONF))?;
    world.mail_server.restart()?;
    seen
}

fn begin(world: &mut World<Exim>) -> Done {
    library::install(world.release)?;
    configure(world)?;
    fs::write(in_root(EXIM_CONF), exim_conf())?;
    world.mail_server.restart()
}

fn configure(world: &World<Exim>) -> Done {
    let imapd_conf = world.murder.frontend.imapd_conf();
    let settings = format!("imapd-conf = {imapd_conf:?}\ndomains = {DOMAINS:?}\n");
    Ok(fs::write(in_root(CONFIGURATION), settings)?)
}

/// Exim's expansion of a string.
fn expand(string: &str) -> Done<String> {
    run(sandbox::command("exim4").args(["-be", string])).map(|said| said.trim_end().to_owned())
}

fn each_on_its_backend(world: &mut World<Exim>) -> Done {
    // Exim may not read the list: the daemon is asked.
    let list = world.murder.frontend.mailboxes_db();
    fs::set_permissions(list, Permissions::from_mode(0o600))?;
    let jane =
        expand(&format!("${{dlfunc{{{LIBRARY}}}{{murder_route_exim}}{{jane@example.org}}}}"))?;
    ensure!(jane == "<;127.0.1.11:2003", "jane: {jane}");
    let by_map = format!(
        "${{dlfunc{{{LIBRARY}}}{{murder_route_exim}}{{bob@example.net}}{{{CONFIGURATION}}}{{lmtp}}}}"
    );
    let bob = expand(&by_map)?;
    ensure!(bob == "lmtp:inet:127.0.1.12:2003", "bob: {bob}");
    paths::each_on_its_backend(world)?;
    paths::one_message_for_both(world)?;
    refusals::unknown_is_refused_at_rcpt(world)?;
    refusals::reserved_is_put_off(world)?;
    refusals::foreign_addresses_pass_untouched(world)
}

/// If Exim's user may read the list, known recipients need no daemon.
fn without_the_daemon(world: &mut World<Exim>) -> Done {
    let list = world.murder.frontend.mailboxes_db();
    let exim = sandbox::user("Debian-exim")?;
    chown(&list, None, Some(exim.gid))?;
    fs::set_permissions(&list, Permissions::from_mode(0o640))?;
    world.daemon.stop()?;
    let seen = paths::each_on_its_backend(world)
        .and_then(|()| world.put_off("nobody@example.org"))
        .and_then(|()| refusals::foreign_addresses_pass_untouched(world));
    world.daemon.resume()?;
    chown(&list, None, Some(world.murder.cyrus.gid))?;
    fs::set_permissions(&list, Permissions::from_mode(0o600))?;
    seen?;
    refusals::unknown_is_refused_at_rcpt(world)
}

fn list_repacked(world: &mut World<Exim>) -> Done {
    let [be1, be2] = &world.murder.backends;
    let list = world.murder.frontend.mailboxes_db();
    for _ in 0..2 {
        let mut dbtool = sandbox::command("cyr_dbtool");
        dbtool.args(["-C", &world.murder.frontend.imapd_conf(), &list, "twoskip", "repack"]);
        run(&mut dbtool)?;
        world.arrives("bob@example.net", be2, "bob@example.net", "INBOX")?;
        world.arrives("Jane+Work@Example.org", be1, "jane", "INBOX/Work")?;
        refusals::unknown_is_refused_at_rcpt(world)?;
    }
    Ok(())
}

/// Truncated by an administrator, not by Cyrus: see `cut`.
fn list_cut_off(world: &mut World<Exim>) -> Done {
    let copy = cut::Copy::make(world)?;
    let before = world.setup.clone();
    let settings = fs::read_to_string(in_root(CONFIGURATION))?;
    fs::write(in_root(CONFIGURATION), format!("mailboxes-db = {:?}\n{settings}", copy.file))?;
    switch(world, before.with_list(&copy.file))?;
    let seen = cut::while_messages_flow(world, &copy);
    switch(world, before)?;
    seen
}

/// No recipient is refused, and the log has the error.
fn bad_configuration(world: &mut World<Exim>) -> Done {
    let socket_gone = format!("unix:{SOCKET}-that-is-not-there");
    let no_daemon = format!("\n[[listen]]\nendpoint = {socket_gone:?}\n");
    let imapd_conf = format!("imapd-conf = {:?}\n", world.murder.frontend.imapd_conf());
    for (settings, says) in [
        ("domain = \"example.org\"\n".to_owned(), "unknown field `domain`"),
        ("imapd-conf = \"/nowhere\"\n".to_owned(), "/nowhere: No such file"),
        (fs::read_to_string(in_root(CONFIGURATION))? + &no_daemon, "that-is-not-there"),
        // Exim considers the domain ours, so none of its recipients is refused.
        (imapd_conf.clone(), "no domains are configured"),
        (format!("{imapd_conf}domains = [\"elsewhere.test\"]\n"), "is it missing in `domains`?"),
    ] {
        let since = world.logs.mark();
        fs::write(in_root(CONFIGURATION), settings)?;
        for recipient in ["jane@example.org", "nobody@example.org"] {
            world.put_off(recipient).map_err(|e| format!("{says}: {e}"))?;
        }
        world.logs.wait(&format!("{says:?} in the log"), since, 10, |lines| {
            lines.iter().any(|line| line.text.contains(says)).then_some(())
        })?;
    }
    fs::remove_file(in_root(CONFIGURATION))?;
    world.put_off("jane@example.org").map_err(|e| format!("no configuration: {e}"))?;
    fs::remove_file(in_root(LIBRARY))?;
    world.put_off("jane@example.org").map_err(|e| format!("no library: {e}"))?;
    library::install(world.release)?;
    configure(world)?;
    world.recovers()
}
