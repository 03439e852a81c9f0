//! Common parts of the scenarios of a host without Cyrus.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::router::{Daemon, Setup};
use crate::world::World;
use crate::{Done, ensure, sandbox};

/// Runs the daemon with another setup from now on.
pub fn switch<M>(world: &mut World<M>, setup: Setup) -> Done {
    // It may not be running after a scenario that failed.
    let _ = world.daemon.stop();
    world.daemon = Daemon::start(setup.clone())?;
    world.setup = setup;
    Ok(())
}

/// Waits until the daemon's status is good.
pub fn becomes_well<M>(world: &World<M>) -> Done {
    let logged = Daemon::log()?.len();
    let seen = sandbox::poll("the daemon's status to be good", 60, || {
        let (code, status) = world.setup.status()?;
        ensure!(code == 0, "status: {status}");
        Ok(Some(()))
    });
    let log = Daemon::log()?.split_off(logged);
    seen.map_err(|e| format!("{e}; it logged:\n{log}").into())
}

/// Waits until the daemon's status is not good and shows this state or trouble.
pub fn becomes_unwell(world: &World, says: &str) -> Done {
    sandbox::poll(&format!("the daemon to report {says:?}"), 30, || {
        let (code, status) = world.setup.status()?;
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        let said = text("state") == says || text("trouble").contains(says);
        ensure!(said && code == 75, "exit status {code}, status: {status}");
        Ok(Some(()))
    })
}

/// Waits until the replica equals the master's list in every record.
pub fn is_the_masters(world: &World) -> Done<usize> {
    sandbox::poll("the replica to equal the master's list", 60, || {
        let replica = world.setup.dump()?;
        let replica: BTreeSet<_> = replica.iter().map(record).collect();
        let master = world.murder.mupdate()?.list()?;
        let master: BTreeSet<_> = master.into_iter().map(of_master).collect();
        let difference: Vec<_> = master.symmetric_difference(&replica).take(5).collect();
        ensure!(difference.is_empty(), "they differ by {difference:?}");
        Ok(Some(master.len()))
    })
}

/// Name, state, server and partition.
type Row = [String; 4];

fn record(line: &Value) -> Row {
    ["mailbox", "state", "server", "partition"]
        .map(|field| line[field].as_str().unwrap_or_default().to_owned())
}

fn of_master([name, state, location]: [String; 3]) -> Row {
    let state = if state == "MAILBOX" { "active" } else { "reserved" };
    let (server, partition) = location.split_once('!').unwrap_or(("", &location));
    [name, state.into(), server.into(), partition.into()]
}

/// Demands that the daemon's user cannot read this file.
pub fn cannot_read(world: &World, file: &str) -> Done {
    ensure!(Path::new(file).exists(), "there is no {file}");
    let verify = world.setup.program(&["verify", "--mailboxes-db", file]).output()?;
    let said = [verify.stdout, verify.stderr]
        .map(|said| String::from_utf8_lossy(&said).into_owned())
        .concat();
    ensure!(said.contains("Permission denied"), "{file}: {said}");
    Ok(())
}
