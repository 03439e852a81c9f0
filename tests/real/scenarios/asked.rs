//! Without any list: a MUPDATE server is asked about every recipient.

use super::beside::{becomes_well, switch};
use super::paths;
use crate::exchanger::Exchanger;
use crate::world::World;
use crate::{Done, ensure};

/// With the master: it confirms that recipients are unknown, and while it is down all recipients are
/// deferred.
pub fn of_the_master(world: &mut World) -> Done {
    let exchanger = Exchanger::make(&world.murder)?;
    let before = world.setup.clone();
    switch(world, exchanger.by_options("find"))?;
    let seen = becomes_well(world)
        .and_then(|()| paths::each_on_its_backend(world))
        .and_then(|()| world.recovers())
        .and_then(|()| {
            world.murder.master.kill()?;
            let seen = all_are_deferred(world);
            world.murder.master.start()?;
            seen?;
            world.recovers()
        });
    switch(world, before)?;
    seen
}

fn all_are_deferred(world: &World) -> Done {
    // Another recipient than before, since the master's recent answer still counts.
    world.put_off("no-one@example.org")?;
    world.put_off("jane@example.org")
}

/// With the frontend's slave: a recipient that is not in its list may still exist.
pub fn of_a_slave(world: &mut World) -> Done {
    let exchanger = Exchanger::make(&world.murder)?;
    let before = world.setup.clone();
    switch(world, exchanger.asking_the_slave("find"))?;
    let seen = becomes_well(world)
        .and_then(|()| paths::each_on_its_backend(world))
        .and_then(|()| world.put_off("nobody@example.org"))
        .and_then(|()| {
            let reason = world.setup.lookup_one("nobody@example.org")?.reason;
            ensure!(reason.contains("slave"), "why: {reason}");
            Ok(())
        });
    switch(world, before)?;
    seen
}
