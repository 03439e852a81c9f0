//! Scenarios of a host without Cyrus, in the order in which they run: in the same Murder, after those of a
//! frontend, as far as they apply there.

use super::{
    asked, beside, churn, doctor, kills, logins, losses, outages, paths, race, resync, threads,
    whoever_asks,
};
use crate::Done;
use crate::exchanger::{Exchanger, USER};
use crate::releases::is_wanted;
use crate::report::Report;
use crate::root::Release;
use crate::world::World;

/// The release with which all scenarios run, including those that would take too long with every release.
pub const THOROUGH: Release = Release::V3_6;

/// Runs them.
pub fn run_in(world: &mut World, report: &mut Report) {
    let (logs, release) = (world.logs.clone(), world.release);
    let mut scenario = |name: &str, run: fn(&mut World) -> Done| {
        let name = format!("replica: {name}");
        if is_wanted(&name) {
            report.scenario(&name, &logs, || {
                on_this_host(world)?;
                run(world)
            });
        }
    };
    scenario("the replica equals the master's list", outages::host_without_cyrus);
    scenario("every recipient on its own backend", |w| paths::each_on_its_backend(w));
    scenario("one message for both backends", |w| paths::one_message_for_both(w));
    scenario("postmap reads every map", |_| paths::postmap_reads_every_map());
    scenario("the doctor finds no error", |w| doctor::finds_a_replica_sound(w));
    whoever_asks(&mut scenario);
    scenario("a message is on its way when its mailbox moves", race::messages_on_their_way);
    scenario("a mailbox that has moved on is asked about", race::moved_on);
    scenario("the master is killed", outages::killed);
    scenario("the master hangs", outages::hung);
    scenario("the daemon starts without a master", outages::begun_without_a_master);
    if resync::has_it(release) {
        scenario("an account that the frontend lost", resync::lost_account_is_routed);
    }
    if release == THOROUGH || release == Release::V3_12 {
        // 3.12 differs in TLS: it is off by default, and the process ends when a handshake fails.
        scenario("every permitted login and every refused one", logins::every_login);
    }
    if release == THOROUGH {
        scenario("a slave is promoted", outages::replaced_by_a_slave);
        scenario("other clients have all connections", outages::connections_taken);
        scenario("the master loses its list", outages::list_lost);
        scenario("backends push to an emptied master one by one", losses::backends_push_one_by_one);
        scenario("the master restarts in an XFER", losses::master_restarts_in_an_xfer);
        scenario("the master is asked about every recipient", asked::of_the_master);
        scenario("a slave is asked about every recipient", asked::of_a_slave);
        scenario("the daemon is killed every second", kills::every_second);
        scenario("mailboxes move while messages flow", churn::moved_to_and_fro);
        scenario("eight threads look up while the master changes", threads::beside_the_daemon);
    }
}

/// Switches the daemon over, once.
fn on_this_host(world: &mut World) -> Done {
    if !world.setup.runs_as(USER) {
        let exchanger = Exchanger::make(&world.murder)?;
        exchanger.forget_replica()?;
        beside::switch(world, exchanger.by_options("replica"))?;
        beside::becomes_well(world)?;
    }
    Ok(())
}
