//! The milter, used by `miltertest` and by Sendmail.

use std::fs;

use super::sendmail::{World, with_sendmail};
use crate::clients::mail::Session;
use crate::readme::Readme;
use crate::sendmail::{EXAMPLE, SITE, YOURS, mail};
use crate::world::SMTP;
use crate::{Done, ensure, run, sandbox};

/// A session in which every reply is checked. In doubt, recipients in the list continue and none is
/// refused.
pub fn conversation(world: &mut World) -> Done {
    converse()?;
    world.murder.master.kill()?;
    let in_doubt = converse();
    world.murder.master.start()?;
    in_doubt.map_err(|e| format!("in doubt: {e}"))?;
    world.recovers()
}

fn converse() -> Done {
    fs::write(sandbox::in_root("/milter.lua"), include_str!("milter.lua"))?;
    let said = run(sandbox::command("miltertest").args(["-s", "/milter.lua"]))?;
    ensure!(said.contains("every reply was right"), "miltertest did not finish: {said}");
    Ok(())
}

/// A Sendmail that relays everything to another host, and uses the milter only for refusals.
pub fn only_the_refusals(world: &mut World) -> Done {
    with_sendmail(world, with_the_milter)
}

fn with_the_milter(world: &mut World) -> Done {
    // The example without its routing.
    let example = fs::read_to_string(EXAMPLE)?.replace(YOURS, SITE);
    let ours = |line: &&str| line.to_ascii_lowercase().contains("murder");
    let mc: String = example.lines().filter(|line| !ours(line)).map(|l| format!("{l}\n")).collect();
    fs::write(mail("sendmail.mc"), mc)?;
    let asked = Readme::of("sendmail")?.below("Only the refusals, by milter")?.follow()?;
    ensure!(asked == ["restart sendmail"], "README.md: {asked:?}");
    let cf = fs::read_to_string(mail("sendmail.cf"))?;
    ensure!(!cf.contains("Ksendmail"), "sendmail.mc still has the map");
    world.mail_server.restart()?;

    refuses_as_rule_set_0(world)?;
    world.outside.take();
    let sent = world.send(&["Jane+Work@Example.org", "friend@elsewhere.test"])?;
    world.delivered(&sent)?;
    let received = world.outside.take();
    let [one] = &received[..] else { return Err(format!("received {received:?}").into()) };
    ensure!(one.to.iter().any(|to| to == "Jane+Work@Example.org"), "for {:?}", one.to);

    world.murder.master.kill()?;
    let without_master = known_are_accepted_and_misses_deferred(world);
    world.murder.master.start()?;
    without_master.map_err(|e| format!("without the master: {e}"))?;
    world.recovers()?;

    world.daemon.stop()?;
    // F=T: Sendmail defers before it gets to a recipient.
    let without_daemon = Session::smtp(SMTP)?.command("MAIL FROM:<somebody@sender.test>");
    world.daemon.resume()?;
    let reply = without_daemon?;
    ensure!(reply.is_temporary(), "without the daemon: {reply}");
    world.recovers()
}

fn refuses_as_rule_set_0(world: &World) -> Done {
    for recipient in
        ["jane@example.org", "JANE+x@Example.ORG", "bob@example.net", "x@elsewhere.test"]
    {
        let reply = world.rcpt(recipient)?;
        ensure!(reply.code == 250, "{recipient}: {reply}");
    }
    for recipient in ["nobody@example.org", "nobody+Work@example.org", "jane@example.net"] {
        world.refused(recipient)?;
    }
    super::refusals::reserved_is_put_off(world)
}

fn known_are_accepted_and_misses_deferred(world: &World) -> Done {
    let known = world.rcpt("jane@example.org")?;
    ensure!(known.code == 250, "jane: {known}");
    world.put_off("nobody@example.org")
}
