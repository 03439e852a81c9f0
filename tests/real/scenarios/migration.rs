//! From lmtpproxyd to murder-route and back, by the README: everything through lmtpproxyd; known recipients
//! directly to their backends, with lmtpproxyd as the fallback; everything through murder-route.

use std::fs::OpenOptions;
use std::io::Write;

use super::ready_postfix::{DAEMON, PIECES, add_to_main_cf, change, follow, on_a_host, systemctl};
use super::{doctor, newcomer, paths};
use crate::postfix::next_attempt;
use crate::readme::Readme;
use crate::sandbox::{self, in_root};
use crate::world::{DOMAINS, World};
use crate::{Done, ensure, run};

/// Section of the README.
const MOVING: &str = "Moving over from lmtpproxyd";

/// The complete way, and back from its end.
pub fn there_and_back(world: &mut World) -> Done {
    let socket = world.murder.frontend.lmtp_socket();
    let fallback = format!("fallback = \"fallback:unix:{socket}\"\n");
    on_a_host(world, &fallback, |world| {
        only_lmtpproxyd(&socket)?;
        world.mail_server.restart_as_it_is()?;
        by_lmtpproxyd(world, &socket)?;

        step(world, "cp -a")?;
        // The printed settings have them.
        run(sandbox::command("postconf").args(["-X", "transport_maps", "relay_domains"]))?;
        follow(world, &[DAEMON, PIECES], "")?;
        world.mail_server.restart_as_it_is()?;
        with_fallback(world)?;

        change(world, &fallback, "", ("nobody@example.org", "OK error:5.1.1"))?;
        step(world, "reload murder-route")?;
        for left in [&["-n"][..], &["-M"]] {
            let settings = run(sandbox::command("postconf").args(left))?;
            let there = settings.contains("reject_unverified") || settings.contains("fallback ");
            ensure!(!there, "postconf {left:?} still has the fallback: {settings}");
        }
        world.mail_server.restart_as_it_is()?;
        paths::each_on_its_backend(world)?;
        newcomer::accepted_at_once(world, "newcomer-d")?;
        doctor::agrees()?;

        // Queued messages go through lmtpproxyd again.
        world.murder.backends[0].stop()?;
        let queued = world.send(&["jane@example.org"])?;
        let attempt = next_attempt(&world.logs, queued.since, &queued.queue_id)?;
        ensure!(attempt.status == "deferred", "without its backend: {attempt:?}");
        let back = "rm -r /etc/postfix && mv /etc/postfix.before-murder-route /etc/postfix";
        run(sandbox::command("sh").args(["-ec", back]))?;
        world.mail_server.restart_as_it_is()?;
        world.murder.backends[0].start()?;
        let attempts = world.delivered(&queued)?;
        let by_proxy = attempts.last().is_some_and(|last| last.relay.contains(&socket));
        ensure!(by_proxy, "should have gone to {socket}: {attempts:?}");
        world.holds_once(&world.murder.backends[0], "jane", "INBOX", &queued.id)?;
        by_lmtpproxyd(world, &socket)
    })
}

/// Performs the step of the README that has this command.
fn step(world: &World, command: &str) -> Done {
    let readme = Readme::of("postfix")?.below(MOVING)?.with(command)?;
    readme.shim("systemctl", &systemctl(world.daemon.id()?))?.follow().map(drop)
}

/// Configuration of the host before: every recipient goes to lmtpproxyd.
fn only_lmtpproxyd(socket: &str) -> Done {
    add_to_main_cf(&format!("relay_domains = {}", DOMAINS.join(", ")))?;
    let way = |domain| format!("{{{domain} = proxyd:unix:{socket}}}");
    let ways = DOMAINS.map(way).join(", ");
    add_to_main_cf(&format!("transport_maps = inline:{{{ways}}}"))?;
    let mut master_cf = OpenOptions::new().append(true).open(in_root("/etc/postfix/master.cf"))?;
    Ok(writeln!(master_cf, "proxyd unix - - n - - lmtp")?)
}

fn by_lmtpproxyd(world: &World, socket: &str) -> Done {
    let [be1, be2] = &world.murder.backends;
    for (to, host, user) in [("jane@example.org", be1, "jane"), ("max@example.org", be2, "max")] {
        let queued = world.send(&[to])?;
        let attempts = world.delivered(&queued)?;
        let by_proxy = matches!(&attempts[..], [one] if one.relay.contains(socket));
        ensure!(by_proxy, "{to} should go to {socket}: {attempts:?}");
        world.holds_once(host, user, "INBOX", &queued.id)?;
    }
    Ok(())
}

fn with_fallback(world: &World) -> Done {
    paths::each_on_its_backend(world)?;
    for stranger in ["nobody@example.org", "Nobody+x@Example.Net"] {
        // The first probe may take longer than smtpd waits for it.
        sandbox::poll(&format!("{stranger} to be refused"), 30, || {
            let reply = world.rcpt(stranger)?;
            ensure!(reply.code == 550 || reply.is_temporary(), "{stranger}: {reply}");
            Ok((reply.code == 550).then_some(()))
        })?;
    }
    let be1 = &world.murder.backends[0];
    world.becomes_unknown("settler@example.org")?;
    let refused = sandbox::poll("the unknown recipient to be refused", 30, || {
        Ok((world.rcpt("settler@example.org")?.code == 550).then_some(()))
    });
    refused?;
    be1.admin()?.command("CREATE user/settler")?;
    let seen = sandbox::poll("the new user to be accepted", 30, || {
        Ok((world.rcpt("settler@example.org")?.code == 250).then_some(()))
    });
    let seen = seen.and_then(|()| world.arrives("settler@example.org", be1, "settler", "INBOX"));
    let mut admin = be1.admin()?;
    admin.command("SETACL user/settler cyrus lrswipkxtecda")?;
    admin.command("DELETE user/settler")?;
    seen
}
