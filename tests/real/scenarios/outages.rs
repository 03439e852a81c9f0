//! The master is down, or has changed. On a host without Cyrus the replica answers for known recipients at
//! once, and none is called unknown.

use std::fs;

use super::beside::{becomes_unwell, becomes_well, cannot_read, is_the_masters, switch};
use super::master;
use crate::exchanger::{Exchanger, replica};
use crate::mishaps::{self, PROMOTED};
use crate::murder::MASTER;
use crate::watch::known_are_answered_during;
use crate::world::World;
use crate::{Done, ensure, run, sandbox};

/// Number of additional mailboxes: the loss guard acts on the loss of more than a hundred.
const MORE: usize = 130;

/// The daemon cannot read any file of the frontend, and the replica equals the master's list.
pub fn host_without_cyrus(world: &mut World) -> Done {
    let exchanger = Exchanger::make(&world.murder)?;
    switch(world, exchanger.by_options("replica"))?;
    becomes_well(world)?;
    cannot_read(world, &world.murder.frontend.mailboxes_db())?;
    is_the_masters(world)?;
    let (_, status) = world.setup.status()?;
    ensure!(status["state"] == "fresh" && status["master"] == MASTER, "{status}");
    Ok(())
}

/// As on a frontend, with answers observed meanwhile.
pub fn killed(world: &mut World) -> Done {
    known_are_answered_during(|| master::killed(world))?;
    becomes_well(world)
}

/// The master keeps its connections and does not answer.
pub fn hung(world: &mut World) -> Done {
    known_are_answered_during(|| master::hung(world))?;
    becomes_well(world)
}

/// The daemon starts while the master is down: it serves its replica from the start.
pub fn begun_without_a_master(world: &mut World) -> Done {
    world.murder.master.kill()?;
    let seen = (|| {
        world.daemon.kill()?;
        world.daemon.resume()?;
        known_are_answered_during(|| {
            becomes_unwell(world, "stale")?;
            master::known_arrive_and_misses_wait(world)
        })
    })();
    world.murder.master.start()?;
    seen?;
    world.recovers()
}

fn fill(world: &World) -> Done {
    let backends = &world.murder.backends;
    for (first, backend) in backends.iter().enumerate() {
        let mut admin = backend.admin()?;
        for number in (first..MORE).step_by(backends.len()) {
            admin.command(&format!("CREATE user/more{number}"))?;
        }
    }
    is_the_masters(world).map(drop)
}

/// A master restored from an old backup, and then one with an empty list.
pub fn list_lost(world: &mut World) -> Done {
    let (cyrus, [be1, _]) = (world.murder.cyrus, &world.murder.backends);
    let backup = format!("{}/backup", be1.dir());
    world.murder.master.stop()?;
    fs::copy(world.murder.master.mailboxes_db(), &backup)?;
    world.murder.master.start()?;
    becomes_well(world)?;
    fill(world)?;

    // Accepted by the postmaster.
    world.murder.master.restart_with_list(&backup, cyrus)?;
    let accepted = known_are_answered_during(|| {
        held_back(world)?;
        let [be1, _] = &world.murder.backends;
        world.arrives("more0@example.org", be1, "more0", "INBOX")?;
        let accept = ["replica", "accept", "--replica", &replica()];
        let said = run(&mut world.setup.program(&accept))?;
        ensure!(said.contains("lacks 130 of"), "{said}");
        world.recovers()?;
        world.refused("more0@example.org")
    });
    push(world)?;
    accepted.map_err(|e| format!("restored from a backup: {e}"))?;
    is_the_masters(world)?;
    world.moves_to("more0@example.org", &world.murder.backends[0])?;

    // Back without any action.
    world.murder.restart_master_empty()?;
    let emptied = known_are_answered_during(|| {
        held_back(world)?;
        push(world)?;
        world.recovers()?;
        becomes_well(world)
    });
    emptied.map_err(|e| format!("emptied: {e}"))?;
    is_the_masters(world).map(drop)
}

fn held_back(world: &World) -> Done {
    becomes_unwell(world, "held-back")?;
    master::known_arrive_and_misses_wait(world)
}

fn push(world: &World) -> Done {
    world.murder.backends.iter().try_for_each(|backend| backend.push())
}

/// A frontend's mupdate is started with -m in place of the master: an old list under the name of a master.
/// A daemon that pinned the master's name does not trust it.
pub fn replaced_by_a_slave(world: &mut World) -> Done {
    let exchanger = Exchanger::make(&world.murder)?;
    let before = world.setup.clone();
    let servers = format!("servers = [{MASTER:?}, {PROMOTED:?}]\n");
    world.murder.master.kill()?;
    let mut promoted = mishaps::promote_a_slave(&world.murder)?;
    let seen = (|| {
        switch(world, exchanger.by_file("pinned", &format!("{servers}master = {MASTER:?}\n"))?)?;
        known_are_answered_during(|| {
            let says = format!("calls itself `{PROMOTED}`, expected is `{MASTER}`");
            becomes_unwell(world, &says)?;
            master::known_arrive_and_misses_wait(world)
        })
        .map_err(|e| format!("pinned: {e}"))?;
        switch(world, exchanger.by_file("unpinned", &servers)?)?;
        becomes_well(world)?;
        let (_, status) = world.setup.status()?;
        ensure!(status["master"] == PROMOTED, "{status}");
        world.recovers()
    })();
    let back = known_are_answered_during(|| {
        promoted.stop()?;
        world.murder.master.start()?;
        seen?;
        // The former one is still tried first for some seconds.
        becomes_well(world)
    });
    back?;
    let (_, status) = world.setup.status()?;
    ensure!(status["master"] == MASTER, "{status}");
    switch(world, before)?;
    becomes_well(world)
}

/// Another client holds all connections that the master permits.
pub fn connections_taken(world: &mut World) -> Done {
    world.daemon.stop()?;
    // Including the daemon's.
    let taken = sandbox::poll("the master to have none left", 30, || {
        let taken = world.murder.hold_connections(200)?;
        Ok((taken.len() > 100).then_some(taken))
    });
    world.daemon.resume()?;
    let taken = taken?;
    known_are_answered_during(|| {
        becomes_unwell(world, "stale")?;
        master::known_arrive_and_misses_wait(world)?;
        drop(taken);
        world.recovers()
    })
}
