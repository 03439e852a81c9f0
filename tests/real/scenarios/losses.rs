//! The master loses names, all or one, and its backends push them again: no known recipient becomes unknown
//! meanwhile.

use std::time::{Duration, Instant};

use super::beside::{becomes_unwell, becomes_well, is_the_masters};
use crate::watch::known_are_answered_during;
use crate::world::World;
use crate::{Done, ensure, sandbox};

/// Long enough to see a list that is accepted too early: that was seen after five seconds.
const WATCHED: Duration = Duration::from_secs(8);

/// The master is emptied, and one backend after the other pushes its names. Once most are back, a list that
/// lacks the last backend's names looks complete.
pub fn backends_push_one_by_one(world: &mut World) -> Done {
    becomes_well(world)?;
    world.murder.restart_master_empty()?;
    let seen = (|| {
        becomes_unwell(world, "held-back")?;
        world.murder.backends[0].push()?;
        // The daemon requests the whole list again as soon as half is back.
        no_known_recipient_is_unknown(world, &["bob@example.net", "max@example.org"])
    })();
    let pushed = world.murder.backends[1].push();
    seen?;
    pushed?;
    becomes_well(world)?;
    world.recovers()
}

/// A frontend's list loses names in this way, and the slave confirms what is left.
pub fn frontends_list_after_an_emptied_master(world: &mut World) -> Done {
    world.murder.restart_master_empty()?;
    let seen = (|| {
        sandbox::poll("the frontend's list to be empty", 30, || {
            let lookup = world.setup.lookup_one("jane@example.org")?;
            Ok((lookup.outcome != "deliver").then_some(()))
        })?;
        becomes_unwell(world, "doubted")?;
        world.murder.backends[0].push()?;
        no_known_recipient_is_refused(world, &["bob@example.net", "max@example.org"])
    })();
    let pushed = world.murder.backends[1].push();
    seen?;
    pushed?;
    world.recovers()
}

/// The master restarts in the middle of an XFER and removes the reserved name (`ctl_cyrusdb -r`).
pub fn master_restarts_in_an_xfer(world: &mut World) -> Done {
    let be1 = &world.murder.backends[0];
    be1.admin()?.command("CREATE user/traveller")?;
    world.moves_to("traveller@example.org", be1)?;
    world.murder.mupdate()?.deactivate("user.traveller", "127.0.1.11!default")?;
    sandbox::poll("the mailbox to be reserved", 20, || {
        let reason = world.setup.lookup_one("traveller@example.org")?.reason;
        Ok(reason.contains("reserved").then_some(()))
    })?;
    is_the_masters(world)?;
    let seen = known_are_answered_during(|| {
        world.murder.master.stop()?;
        world.murder.master.start()?;
        becomes_well(world)?;
        let known = world.murder.mupdate()?.list()?;
        let is_there = known.iter().any(|record| record[0] == "user.traveller");
        ensure!(!is_there, "the master should have removed the reserved name");
        no_known_recipient_is_unknown(world, &["traveller@example.org"])
    });
    let pushed = world.murder.backends[0].push();
    seen?;
    pushed?;
    let be1 = &world.murder.backends[0];
    world.moves_to("traveller@example.org", be1)?;
    world.arrives("traveller@example.org", be1, "traveller", "INBOX")?;
    let mut admin = be1.admin()?;
    admin.command("SETACL user/traveller cyrus lrswipkxtecda")?;
    admin.command("DELETE user/traveller")?;
    world.becomes_unknown("traveller@example.org")
}

/// By the daemon and by `lookup`, which reads the replica.
fn no_known_recipient_is_unknown(world: &World, recipients: &[&str]) -> Done {
    for answer in world.setup.lookup(recipients)? {
        let is_kept = matches!(&*answer.outcome, "deliver" | "deferred");
        ensure!(is_kept, "{answer:?}");
    }
    no_known_recipient_is_refused(world, recipients)
}

/// By the daemon, which has seen the list before.
fn no_known_recipient_is_refused(world: &World, recipients: &[&str]) -> Done {
    let began = Instant::now();
    while began.elapsed() < WATCHED {
        for recipient in recipients {
            let reply = world.rcpt(recipient)?;
            ensure!(reply.code == 250 || reply.is_temporary(), "{recipient}: {reply}");
        }
    }
    Ok(())
}
