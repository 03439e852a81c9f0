//! Mail that is not delivered: unknown recipients are refused, recipients in doubt are deferred, and other
//! domains are unaffected.

use crate::clients::mail::Session;
use crate::world::{self, Mta, SMTP, World, message};
use crate::{Done, ensure, run, sandbox};

/// An unknown recipient is refused at RCPT, and the other recipients of the message get theirs.
pub fn unknown_is_refused_at_rcpt<M: Mta>(world: &World<M>) -> Done {
    let strangers =
        ["nobody@example.org", "nobody+Work@example.org", "jane@example.net", "Bob@example.org"];
    for stranger in strangers {
        world.refused(stranger)?;
    }
    let message = world.message();
    let to = ["nobody@example.org", "max@example.org"];
    let since = world.logs.mark();
    let outcome = Session::smtp(SMTP)?.send(&message.sender, &to, &message.text)?;
    let [stranger, max] = &outcome.recipients[..] else { return Err("two answers".into()) };
    ensure!(stranger.code == 550 && stranger.status() == "5.1.1", "nobody: {stranger}");
    ensure!(max.code == 250, "max beside an unknown recipient: {max}");
    let reply = outcome.message.first().ok_or("no answer")?;
    world::wait_removed::<M>(&world.logs, since, &world::queue_id::<M>(&reply.text)?)?;
    world.holds_once(&world.murder.backends[1], "max", "INBOX", &message.id)
}

/// A reserved name is not unknown: it will soon be a mailbox.
pub fn reserved_is_put_off<M: Mta>(world: &World<M>) -> Done {
    const NAME: &str = "user.reserved";
    let mut master = world.murder.mupdate()?;
    master.reserve(NAME, "127.0.1.11!default")?;
    sandbox::poll("the reservation to be seen", 20, || {
        let reason = world.setup.lookup_one("reserved@example.org")?.reason;
        Ok(reason.contains("reserved").then_some(()))
    })?;
    world.put_off("reserved@example.org")?;
    world.put_off("reserved+Work@example.org")?;

    master.delete(NAME)?;
    world.becomes_unknown("reserved@example.org")?;
    // The replica got the DELETE from the stream. A frontend's list does not tell whether the name was
    // deleted, or was lost by a master that restarted in the middle of an XFER. The daemon has seen it
    // reserved; the command, which says unknown, has not.
    let (_, status) = world.setup.status()?;
    let sources = status["sources"].as_array().ok_or("no sources")?;
    match sources.iter().any(|source| source["source"] == "replica") {
        true => world.refused("reserved@example.org"),
        false => world.put_off("reserved@example.org"),
    }
}

/// A user that `cyr_deny` blocks from lmtp on the frontend is deferred, as by `lmtpd` there, and accepted
/// again after the block is removed.
pub fn blocked_user_is_put_off<M: Mta>(world: &World<M>) -> Done {
    const MAX: &str = "max@example.org";
    let imapd_conf = world.murder.frontend.imapd_conf();
    let cyr_deny = |arguments: &[&str]| {
        run(sandbox::command("cyr_deny").args(["-C", &imapd_conf]).args(arguments)).map(drop)
    };
    let becomes = |outcome: &str| {
        sandbox::poll(&format!("{MAX} to be {outcome}"), 20, || {
            let lookup = world.setup.lookup_one(MAX)?;
            ensure!(lookup.outcome == outcome, "{lookup:?}");
            Ok(Some(()))
        })
    };
    cyr_deny(&["-s", "lmtp", "max"])?;
    becomes("deferred")?;
    // The daemon checks the file once per second.
    sandbox::poll("the daemon to see the block", 20, || {
        world.put_off(MAX).and_then(|()| world.put_off("max+Work@example.org")).map(Some)
    })?;
    world.refused("nobody@example.org")?;
    cyr_deny(&["-a", "max"])?;
    becomes("deliver")?;
    sandbox::poll("the daemon to see that the block is gone", 20, || {
        let reply = world.rcpt(MAX)?;
        ensure!(reply.code == 250, "{MAX}: {reply}");
        Ok(Some(()))
    })
}

/// Addresses of foreign senders and recipients are passed on without change of case, and are not looked up
/// in the list.
pub fn foreign_addresses_pass_untouched<M: Mta>(world: &World<M>) -> Done {
    world.outside.take();
    let since = world.logs.mark();
    let (from, to) = ("Some.One+Tag@Elsewhere.Test", "Friend+Tag@Sub.Elsewhere.Test");
    let message = message("foreign");
    let outcome = Session::smtp(SMTP)?.send(from, &[to], &message.text)?;
    let reply = outcome.message.first().ok_or_else(|| format!("{outcome:?}"))?;
    world::wait_removed::<M>(&world.logs, since, &world::queue_id::<M>(&reply.text)?)?;
    let received = world.outside.take();
    let [one] = &received[..] else { return Err(format!("received {received:?}").into()) };
    ensure!(one.from == from && one.to == [to], "from {} to {:?}", one.from, one.to);
    ensure!(one.message.contains(&message.id), "another message came: {}", one.message);

    // A foreign sender writes to a local recipient.
    let queued = Session::smtp(SMTP)?.send(from, &["max@example.org"], &message.text)?;
    let reply = queued.message.first().ok_or_else(|| format!("{queued:?}"))?;
    world::wait_removed::<M>(&world.logs, since, &world::queue_id::<M>(&reply.text)?)?;
    world.holds_once(&world.murder.backends[1], "max", "INBOX", &message.id)
}
