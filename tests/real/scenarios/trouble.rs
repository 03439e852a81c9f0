//! The problems in `postfix/README.md`: the daemon is stopped, or a backend hangs. The texts in Postfix'
//! log, and the remedies.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::doctor;
use super::ready_postfix::{DAEMON, JANE, PIECES, STOPPED, change, follow, on_a_host, setting};
use crate::clients::mail::Session;
use crate::logs::Mark;
use crate::postfix::next_attempt;
use crate::sandbox;
use crate::world::{self, SMTP, World, message};
use crate::{Done, ensure, run};

/// Greets and does not answer any more.
const HUNG: &str = "127.0.1.43:2003";

/// Other domains wait for a stopped daemon, unless Postfix asks only about ours.
pub fn stopped_daemon(world: &mut World) -> Done {
    on_a_host(world, "", |world| {
        follow(world, &[DAEMON, PIECES], "")?;
        world.mail_server.restart_as_it_is()?;
        says_why_it_waits(world)?;

        follow(world, &[STOPPED], "")?;
        let others = "regexp:/etc/postfix/murder-route-others";
        let maps = setting("transport_maps")?;
        run(sandbox::command("postconf").arg(format!("transport_maps={others}, {maps}")))?;
        let maps = setting("recipient_canonical_maps")?;
        let ours = "pipemap:{regexp:/etc/postfix/murder-route-domains, ";
        let maps = maps.replace("pipemap:{", ours);
        run(sandbox::command("postconf").arg(format!("recipient_canonical_maps={maps}")))?;
        world.mail_server.restart_as_it_is()?;
        world.arrives("Jane+Work@Example.org", &world.murder.backends[0], "jane", "INBOX/Work")?;
        world.refused("nobody@example.org")?;
        doctor::agrees()?;
        world.daemon.stop()?;
        let seen = others_go_their_way(world);
        world.daemon.resume()?;
        seen?;
        world.recovers()
    })
}

/// The queue id of a message to another domain.
fn to_elsewhere(to: &str) -> Done<String> {
    let message = message("elsewhere");
    let outcome = Session::smtp(SMTP)?.send(&message.sender, &[to], &message.text)?;
    let reply = outcome.message.first().ok_or_else(|| format!("{to}: {outcome:?}"))?;
    world::queue_id::<crate::postfix::Postfix>(&reply.text)
}

fn says_why_it_waits(world: &mut World) -> Done {
    // Accepted while there was an answer.
    let mut session = Session::smtp(SMTP)?;
    session.command("MAIL FROM:<somebody@sender.test>")?;
    let reply = session.command("RCPT TO:<Jane@example.org>")?;
    ensure!(reply.code == 250, "Jane: {reply}");
    let since = world.logs.mark();
    world.daemon.stop()?;
    let seen = (|| -> Done<String> {
        session.command("DATA")?;
        let reply = session.command("Subject: x\r\n\r\nx\r\n.")?;
        ensure!(reply.text.contains("queue file write error"), "the message: {reply}");
        let reply = world.rcpt("jane@example.org")?;
        ensure!(reply.text.contains("Temporary lookup failure"), "jane: {reply}");
        let queue_id = to_elsewhere("friend@elsewhere.test")?;
        says(world, since, &queue_id, "status=deferred (address resolver failure)")?;
        Ok(queue_id)
    })();
    world.daemon.resume()?;
    // The queue manager keeps its last answer for 30 s.
    world.arrives("max@example.org", &world.murder.backends[1], "max", "INBOX")?;
    world::wait_removed::<crate::postfix::Postfix>(&world.logs, since, &seen?).map(drop)
}

fn says(world: &World, since: Mark, queue_id: &str, text: &str) -> Done {
    world.logs.wait(&format!("{queue_id}: {text}"), since, 30, |lines| {
        let said = |line: &str| line.starts_with(queue_id) && line.contains(text);
        lines.iter().any(|line| said(&line.text)).then_some(())
    })
}

fn others_go_their_way(world: &World) -> Done {
    for to in ["friend@elsewhere.test", "Friend+Tag@Sub.Elsewhere.Test"] {
        let since = world.logs.mark();
        let queue_id = to_elsewhere(to)?;
        says(world, since, &queue_id, "status=sent")?;
    }
    world.put_off("jane@example.org")
}

/// A backend that greets and then does not answer delays no other backend.
pub fn hung_backend(world: &mut World) -> Done {
    let listener = TcpListener::bind(HUNG)?;
    thread::spawn(move || {
        let mut held: Vec<TcpStream> = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"220 hung.test LMTP\r\n");
            held.push(stream);
        }
    });
    on_a_host(world, "", |world| {
        follow(world, &[DAEMON, PIECES], "")?;
        let timeout = "murder/unix/lmtp_lhlo_timeout=6s";
        run(sandbox::command("postconf").args(["-P", timeout]))?;
        world.mail_server.restart_as_it_is()?;
        let [be1, be2] = &world.murder.backends;
        let astray =
            format!("[backends.servers.{:?}]\naddress = {HUNG:?}\n\n[backends]\n", be1.address);
        change(world, "[backends]\n", &astray, (JANE, &format!("OK murder:inet:{HUNG}")))?;
        let queued = world.send(&["jane@example.org"])?;
        for _ in 0..3 {
            world.arrives("max@example.org", be2, "max", "INBOX")?;
        }
        let attempt = next_attempt(&world.logs, queued.since, &queued.queue_id)?;
        ensure!(attempt.status == "deferred", "jane at a hung backend: {attempt:?}");
        let text = "timed out while performing the LHLO handshake";
        says(world, queued.since, &queued.queue_id, text)?;

        change(
            world,
            &astray,
            "[backends]\n",
            (JANE, &format!("OK murder:inet:{}:", be1.address)),
        )?;
        world.delivered(&queued)?;
        world.holds_once(be1, "jane", "INBOX", &queued.id)
    })
}
