//! The configuration in `postfix/`, by its README and the output of `murder-route postfix-config`, on a
//! Postfix with the services that Debian ships: each way to refuse unknown recipients, with and without the
//! chroot.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::beside::{becomes_well, switch};
use super::faults::{Target, restarts_under_load};
use super::without_cyrus::THOROUGH;
use super::{doctor, migration, newcomer, paths, postfix_logins, refusals, trouble};
use crate::clients::sink::Sink;
use crate::clients::socketmap::Socketmap;
use crate::exchanger::{self, Exchanger};
use crate::murder::{ADMIN, PASSWORD};
use crate::postfix::{self, Chroot, next_attempt};
use crate::readme::Readme;
use crate::releases::is_wanted;
use crate::report::Report;
use crate::root::Release;
use crate::router::{self, Setup, cyrus_release};
use crate::sandbox::{self, in_root};
use crate::world::World;
use crate::{Done, ensure, run};

/// The program's default path, in the root.
const CONFIGURATION: &str = "/etc/murder-route.toml";

/// Path of the README's socket for the chroot.
const IN_CHROOT: &str = "/var/spool/postfix/murder-route/socket";

/// Replaces the second backend where a scenario checks what a backend receives.
const STAND_IN: &str = "127.0.1.42";

/// Sections of the README.
pub const DAEMON: &str = "The daemon";
const SOCKET: &str = "A socket in the chroot";
pub const PIECES: &str = "The pieces";
pub const STOPPED: &str = "While murder-route is stopped";
pub const LOGIN: &str = "Backends that want a login, or TLS";

/// Runs them.
pub fn run_in(world: &mut World, report: &mut Report) {
    let (logs, release) = (world.logs.clone(), world.release);
    let mut scenario = |name: &str, run: fn(&mut World) -> Done| {
        let name = format!("ready Postfix: {name}");
        if is_wanted(&name) {
            report.scenario(&name, &logs, || run(world));
        }
    };
    scenario("by its README, as Debian ships it", by_its_readme);
    scenario("without a dedicated transport", without_own_transport);
    scenario("a new user is accepted at once", new_user);
    scenario("relay_recipient_maps refuse after another table", by_recipients);
    scenario("policy in the chroot, restarted under load", by_policy);
    scenario("milter in the chroot", by_milter);
    if release == THOROUGH {
        scenario("while the daemon is stopped", trouble::stopped_daemon);
        scenario("a backend hangs beside the others", trouble::hung_backend);
        scenario("from lmtpproxyd to murder-route, and back", migration::there_and_back);
        scenario(
            "backends demand a login, and the password stays secret",
            postfix_logins::by_login,
        );
        scenario(
            "a backend that refuses Postfix itself bounces nothing",
            postfix_logins::refuses_us,
        );
        scenario("on an exchanger with a replica", on_an_exchanger);
    }
    if release == THOROUGH || release == Release::V3_12 {
        scenario("backends demand a login and have certificates", postfix_logins::by_login_and_tls);
    }
}

/// Runs a scenario with this configuration of ours beside the required settings, and a Postfix that does
/// not know a Murder. Restores everything afterwards.
pub fn on_a_host(
    world: &mut World,
    configuration: &str,
    scenario: impl FnOnce(&mut World) -> Done,
) -> Done {
    let before = world.setup.clone();
    let seen = begin(world, configuration).and_then(|()| scenario(world));
    switch(world, before)?;
    world.mail_server.restart(Chroot::No)?;
    seen
}

fn begin(world: &mut World, configuration: &str) -> Done {
    let needed = format!(
        "{}imapd-conf = {:?}\ndomains = {:?}\n",
        cyrus_release(world.release),
        world.murder.frontend.imapd_conf(),
        postfix::DOMAINS,
    );
    fs::write(in_root(CONFIGURATION), needed + configuration)?;
    switch(world, Setup::in_root(world.murder.cyrus)?)?;
    world.mail_server.forget_the_murder()
}

/// Lists the default socket; the README then adds the other one.
const LISTEN: &str = "\n[[listen]]\nendpoint = \"unix:/run/murder-route\"\n";

/// Follows sections of the README, with these options for `postfix-config`.
pub fn follow(world: &mut World, sections: &[&str], options: &str) -> Done {
    for section in sections {
        let command = "murder-route postfix-config";
        let mut readme = Readme::of("postfix")?
            .below(section)?
            .shim("systemctl", &systemctl(world.daemon.id()?))?;
        if *section == LOGIN {
            readme = readme
                .instead_of("be[0-9]+\\.example\\.org", "be[12]\\.murder\\.test")?
                .instead_of("murder-route:secret", &format!("{ADMIN}:{PASSWORD}"))?;
        }
        if *section == PIECES && !options.is_empty() {
            readme = readme.instead_of(command, &format!("{command} {options}"))?;
        }
        readme.follow()?;
    }
    if sections.contains(&DAEMON) {
        answers(router::SOCKET, JANE, "OK murder:inet:")?;
    }
    if sections.contains(&SOCKET) {
        answers(&in_root(IN_CHROOT), JANE, "OK murder:inet:")?;
    }
    // Postfix prints warnings only for settings that are unused or given twice.
    let output = sandbox::command("postconf").arg("-n").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let odd = said.contains("unused parameter") || said.contains("overriding earlier");
    ensure!(!odd, "postconf: {said}");
    Ok(())
}

/// Script in place of systemctl that acts on the daemon with this process id. It does not reload Postfix:
/// an old smtpd may still accept the next connection after a reload.
pub fn systemctl(daemon: u32) -> String {
    format!(
        "case $* in\n\
         'reload murder-route' | 'restart murder-route') kill -HUP {daemon} ;;\n\
         daemon-reload | 'reload postfix') ;;\n\
         *) echo \"systemctl $*: not in this root\" >&2; exit 64 ;;\n\
         esac\n"
    )
}

pub const JANE: &str = "jane@example.org";
pub const MAX: &str = "max@example.org";

/// Waits for this answer of the daemon about the recipient at this socket: it may still be reading its
/// configuration.
fn answers(socket: &str, recipient: &str, beginning: &str) -> Done {
    sandbox::poll(&format!("{recipient}: {beginning} at {socket}"), 20, || {
        let answer = Socketmap::open(socket)?.ask("lmtp", recipient)?;
        ensure!(answer.starts_with(beginning), "{answer}");
        Ok(Some(()))
    })
}

/// Adds a line of the site to main.cf.
pub fn add_to_main_cf(line: &str) -> Done {
    let mut main_cf = OpenOptions::new().append(true).open(in_root("/etc/postfix/main.cf"))?;
    Ok(writeln!(main_cf, "{line}")?)
}

/// Restores Debian's chroot where a release no longer ships it: upgraded hosts still have it.
fn chrooted() -> Done {
    let chroot = ["127.0.1.31:25/inet", "cleanup/unix", "rewrite/unix"]
        .map(|service| format!("{service}/chroot=y"));
    run(sandbox::command("postconf").arg("-F").args(chroot)).map(drop)
}

/// Value of a setting in Postfix.
pub fn setting(name: &str) -> Done<String> {
    let value = run(sandbox::command("postconf").args(["-h", name]))?;
    Ok(value.trim_end().to_owned())
}

/// Only the README, on a newly installed host.
fn by_its_readme(world: &mut World) -> Done {
    on_a_host(world, "", |world| {
        follow(world, &[DAEMON, PIECES], "")?;
        world.mail_server.restart_as_it_is()?;
        let maps = setting("transport_maps")?;
        let proxy = match world.release {
            Release::V3_12 => "",
            Release::V3_2 | Release::V3_6 | Release::V3_10 => "proxy:",
        };
        ensure!(maps == format!("{proxy}socketmap:unix:/run/murder-route:lmtp"), "{maps}");
        let limits = [
            ("concurrency_limit", "20"),
            ("recipient_limit", "50"),
            ("concurrency_failed_cohort_limit", "10"),
        ];
        for (limit, value) in limits {
            let got = setting(&format!("murder_destination_{limit}"))?;
            ensure!(got == value, "{limit}: {got}");
        }
        doctor::agrees()?;
        paths::each_on_its_backend(world)?;
        paths::one_message_for_both(world)?;
        refusals::unknown_is_refused_at_rcpt(world)?;
        refusals::reserved_is_put_off(world)?;
        refusals::foreign_addresses_pass_untouched(world)?;
        for quoted in ["\"o.brien\"@example.org", "\"o.brien+Some.Thing\"@example.org"] {
            world.arrives(quoted, &world.murder.backends[0], "o.brien", "INBOX")?;
        }
        // Cyrus has no mailbox whose name needs quotes.
        world.refused("\"max muster\"@example.org")?;
        refused_by_a_backend_waits(world)?;
        told_the_backend(world)
    })
}

/// Changes our configuration, and waits for this answer of the daemon about the recipient. The old
/// configuration must have another answer.
pub fn change(world: &World, from: &str, to: &str, (recipient, answer): (&str, &str)) -> Done {
    let text = fs::read_to_string(in_root(CONFIGURATION))?;
    ensure!(text.contains(from), "{CONFIGURATION} has no {from:?}: {text}");
    fs::write(in_root(CONFIGURATION), text.replacen(from, to, 1))?;
    run(Command::new("kill").args(["-HUP", &world.daemon.id()?.to_string()]))?;
    answers(router::SOCKET, recipient, answer)
}

/// A backend replies that the user is unknown, as after a move: the message waits, and goes to the backend
/// that the router names then.
fn refused_by_a_backend_waits(world: &World) -> Done {
    let [be1, be2] = &world.murder.backends;
    let astray = format!(
        "[backends.servers.{:?}]\naddress = {:?}\n\n[backends]\n",
        be1.address, be2.address
    );
    change(world, "[backends]\n", &astray, (JANE, &format!("OK murder:inet:{}:", be2.address)))?;
    let queued = world.send(&["jane@example.org"])?;
    let attempt = next_attempt(&world.logs, queued.since, &queued.queue_id)?;
    let relay = format!("{0}[{0}]:2003", be2.address);
    ensure!(attempt.relay == relay && attempt.status == "deferred", "{attempt:?}");
    let lines = world.logs.since(queued.since, "postfix/");
    let said = lines.iter().any(|line| line.text.contains("dsn=4.1.1"));
    ensure!(said, "no dsn=4.1.1: {lines:?}");

    change(world, &astray, "[backends]\n", (JANE, &format!("OK murder:inet:{}:", be1.address)))?;
    // Another message first: the queue manager keeps its last answer for 30 s.
    world.arrives("max@example.org", be2, "max", "INBOX")?;
    world.delivered(&queued)?;
    world.holds_once(be1, "jane", "INBOX", &queued.id)
}

/// The recipient as the backend gets it: details and quotes unchanged, names in the case of the mailbox.
fn told_the_backend(world: &World) -> Done {
    let stand_in = Sink::listen(&format!("{STAND_IN}:2003"))?;
    let be2 = world.murder.backends[1].address;
    let instead = format!("[backends.servers.{be2:?}]\naddress = {STAND_IN:?}\n\n[backends]\n");
    change(world, "[backends]\n", &instead, (MAX, &format!("OK murder:inet:{STAND_IN}:")))?;
    for (recipient, told) in [
        ("max@example.org", "max@example.org"),
        ("anna-lena+Some.Thing-x@example.org", "anna-lena+Some.Thing-x@example.org"),
        ("Bob+Work.Later@Example.Net", "bob+Work.Later@example.net"),
        ("\"max\"@example.org", "max@example.org"),
        ("\"anna-lena+Some.Thing\"@example.org", "anna-lena+Some.Thing@example.org"),
    ] {
        let queued = world.send(&[recipient])?;
        world.delivered(&queued)?;
        let received = stand_in.take();
        let [one] = &received[..] else { return Err(format!("{recipient}: {received:?}").into()) };
        ensure!(one.to == [told], "{recipient}: the backend received {:?}", one.to);
    }
    Ok(())
}

/// All settings in main.cf; the status filter is the only other file.
fn without_own_transport(world: &mut World) -> Done {
    on_a_host(world, "", |world| {
        let transports = || -> Done<String> {
            let services = run(sandbox::command("postconf").arg("-M"))?;
            let transports = services.lines().filter(|line| line.ends_with(" lmtp"));
            Ok(transports.collect::<Vec<_>>().join("\n"))
        };
        let before = transports()?;
        follow(world, &[PIECES], "")?;
        world.mail_server.restart_as_it_is()?;
        let after = transports()?;
        ensure!(before == after, "there is another transport: {after}");
        let filter = setting("lmtp_delivery_status_filter")?;
        ensure!(filter == "regexp:/etc/postfix/murder-route-status", "filter: {filter}");
        doctor::agrees()?;
        paths::each_on_its_backend(world)?;
        world.refused("nobody@example.org")
    })
}

/// The printed configuration, with local recipients, aliases and other services.
fn new_user(world: &mut World) -> Done {
    on_a_host(world, "", |world| {
        follow(world, &[DAEMON, PIECES], "")?;
        run(sandbox::command("postconf").arg("mydestination=localhost.murder.test"))?;
        add_to_main_cf("virtual_alias_maps = inline:{{sales@example.org = jane@example.org}}")?;
        world.mail_server.restart_as_it_is()?;
        newcomer::accepted_at_once(world, "newcomer-a")?;
        // Unknown recipients in every address class.
        for stranger in ["nobody@example.org", "no-such-user@localhost.murder.test"] {
            world.refused(stranger)?;
        }
        for known in ["root@localhost.murder.test", "sales@example.org", "SALES@example.org"] {
            let reply = world.rcpt(known)?;
            ensure!(reply.code == 250, "{known}: {reply}");
        }
        for known in ["jane@example.org.", "example.org!jane"] {
            let reply = world.rcpt(known)?;
            ensure!(reply.code == 250, "{known}: {reply}");
        }
        world.arrives("jane+Work@example.org", &world.murder.backends[0], "jane", "INBOX/Work")?;
        folded(world)?;
        posted_by_hand(world)
    })
}

/// Postfix folds the key of a recipient table; the name of a shared folder is case-sensitive.
fn folded(world: &World) -> Done {
    let be1 = &world.murder.backends[0];
    let mut admin = be1.admin()?;
    admin.command("CREATE Bulletin")?;
    admin.command("SETACL Bulletin anyone lrsp")?;
    let seen = sandbox::poll("the folder to be known", 30, || {
        let known = world.setup.lookup_one("+Bulletin@example.org")?.outcome == "deliver";
        Ok(known.then_some(()))
    });
    let seen = seen.and_then(|()| {
        world.arrives("+Bulletin@example.org", be1, "", "Bulletin")?;
        world.refused("+Bulletins@example.org")?;
        world.refused("+bullet@example.org")
    });
    admin.command("SETACL Bulletin cyrus lrswipkxtecda")?;
    admin.command("DELETE Bulletin")?;
    seen
}

/// Of a message that does not come by SMTP, the copy for an unknown recipient bounces and does not loop;
/// the other recipients get theirs.
fn posted_by_hand(world: &World) -> Done {
    let since = world.logs.mark();
    let script = "printf 'Subject: x\\n\\nx\\n' | \
                  sendmail -f root@localhost.murder.test nobody@example.org max@example.org";
    run(sandbox::command("sh").args(["-c", script]))?;
    world.logs.wait("the bounce and the delivery", since, 30, |lines| {
        let says = |to: &str, status: &str| {
            let of = |text: &str| text.contains(&format!("to=<{to}@example.org>"));
            lines.iter().any(|line| of(&line.text) && line.text.contains(status))
        };
        let bounced = says("nobody", "status=bounced (User unknown)");
        (bounced && says("max", "status=sent")).then_some(())
    })
}

/// Another table routes everything elsewhere first.
fn by_recipients(world: &mut World) -> Done {
    on_a_host(world, "", |world| {
        follow(world, &[DAEMON, PIECES], "--verify recipients")?;
        world.mail_server.restart_as_it_is()?;
        world.arrives("jane+Work@example.org", &world.murder.backends[0], "jane", "INBOX/Work")?;
        doctor::agrees()?;
        // The last setting counts.
        add_to_main_cf("transport_maps = static:discard:")?;
        world.mail_server.restart_as_it_is()?;
        let reply = world.rcpt("nobody@example.org")?;
        let by_table = reply.text.contains("relay recipient table");
        ensure!(by_table && reply.status() == "5.1.1" && reply.code == 550, "nobody: {reply}");
        unknown_only_when_certain(world)
    })
}

/// Known recipients are accepted; none is refused while the master is down.
fn unknown_only_when_certain(world: &mut World) -> Done {
    for known in ["jane+Work@example.org", "Bob@Example.Net", "\"o.brien\"@example.org"] {
        let reply = world.rcpt(known)?;
        ensure!(reply.code == 250, "{known}: {reply}");
    }
    world.refused("nobody+x@example.org")?;
    refusals::reserved_is_put_off(world)?;
    world.murder.master.kill()?;
    let seen = world.put_off("stranger-of-the-night@example.org").and_then(|()| {
        let known = world.rcpt("max@example.org")?;
        ensure!(known.code == 250, "max without the master: {known}");
        Ok(())
    });
    world.murder.master.start()?;
    seen?;
    world.recovers()
}

/// With the socket below the queue directory, which the tables also use. Only the named mechanism refuses
/// recipients.
fn in_the_chroot(world: &mut World, options: &str) -> Done {
    chrooted()?;
    follow(world, &[DAEMON, SOCKET, PIECES], options)?;
    let maps = setting("transport_maps")?;
    ensure!(maps == "socketmap:unix:murder-route/socket:lmtp", "transport_maps: {maps}");
    world.mail_server.restart_as_it_is()
}

const POLICY_LOAD: [Target; 6] = [
    ("jane+Some.Thing@example.org", 0, "jane"),
    ("O.Brien+x@Example.Org", 0, "o.brien"),
    ("\"o.brien\"@example.org", 0, "o.brien"),
    ("\"anna-lena+Some.Thing\"@example.org", 1, "anna-lena"),
    ("MAX@EXAMPLE.ORG", 1, "max"),
    ("Bob@Example.Net", 1, "bob@example.net"),
];

fn by_policy(world: &mut World) -> Done {
    on_a_host(world, LISTEN, |world| {
        in_the_chroot(world, "--verify policy")?;
        doctor::agrees()?;
        unknown_only_when_certain(world)?;
        refusals::unknown_is_refused_at_rcpt(world)?;
        refusals::foreign_addresses_pass_untouched(world)?;
        paths::each_on_its_backend(world)?;
        newcomer::accepted_at_once(world, "newcomer-b")?;
        for known in ["jane@example.org.", "example.org!jane", "jane%example.org"] {
            let reply = world.rcpt(known)?;
            ensure!(reply.code == 250, "{known}: {reply}");
        }
        for stranger in ["nobody@example.org.", "example.org!nobody", "nobody%example.org"] {
            world.refused(stranger)?;
        }
        restarts_under_load(world, "policy", &POLICY_LOAD, 120)
    })
}

fn by_milter(world: &mut World) -> Done {
    on_a_host(world, LISTEN, |world| {
        in_the_chroot(world, "--verify milter")?;
        doctor::agrees()?;
        unknown_only_when_certain(world)?;
        refusals::unknown_is_refused_at_rcpt(world)?;
        refusals::foreign_addresses_pass_untouched(world)?;
        newcomer::accepted_at_once(world, "newcomer-c")?;
        paths::each_on_its_backend(world)?;
        add_to_main_cf("non_smtpd_milters = unix:murder-route/socket")?;
        world.mail_server.restart_as_it_is()?;
        posted_by_hand(world)
    })
}

/// The same host with only a copy of an imapd.conf of Cyrus.
fn on_an_exchanger(world: &mut World) -> Done {
    let exchanger = Exchanger::make(&world.murder)?;
    exchanger.forget_replica()?;
    let before = world.setup.clone();
    let seen = begin_on_an_exchanger(world, &exchanger).and_then(|()| {
        follow(world, &[DAEMON, PIECES], "")?;
        world.mail_server.restart_as_it_is()?;
        doctor::agrees()?;
        paths::each_on_its_backend(world)?;
        refusals::unknown_is_refused_at_rcpt(world)?;
        refusals::reserved_is_put_off(world)?;
        refusals::foreign_addresses_pass_untouched(world)
    });
    switch(world, before)?;
    world.mail_server.restart(Chroot::No)?;
    seen
}

fn begin_on_an_exchanger(world: &mut World, exchanger: &Exchanger) -> Done {
    let password_file = format!("password-file = {:?}\n", exchanger::path("password"));
    exchanger.by_file("ready", &password_file)?;
    fs::copy(exchanger::path("ready.toml"), in_root(CONFIGURATION))?;
    fs::set_permissions(in_root(CONFIGURATION), Permissions::from_mode(0o644))?;
    switch(world, Setup::in_root(exchanger::USER)?)?;
    becomes_well(world)?;
    world.mail_server.forget_the_murder()
}
