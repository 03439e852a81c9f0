//! A mailbox moves between the look-up and the delivery of a message: the message follows it.

use std::fs;
use std::sync::OnceLock;

use super::beside::{becomes_well, switch};
use crate::clients::gate::Gate;
use crate::exchanger::{Exchanger, USER};
use crate::murder::MASTER;
use crate::postfix;
use crate::router::{Setup, cyrus_release};
use crate::sandbox::STATE;
use crate::world::{DOMAINS, Mta, World};
use crate::{Done, ensure, sandbox};

/// Gates before the backends and the master, which exist for the rest of the run.
pub struct Gates {
    pub backends: [Gate; 2],
    pub master: Gate,
}

pub const TO_BACKENDS: [&str; 2] = ["127.0.1.51", "127.0.1.52"];
const TO_MASTER: &str = "127.0.1.50";

fn gates<M>(world: &World<M>) -> Done<&'static Gates> {
    static GATES: OnceLock<Gates> = OnceLock::new();
    if GATES.get().is_none() {
        let to_backend = |nth: usize| {
            let backend = world.murder.backends[nth].address;
            Gate::open(&format!("{}:2003", TO_BACKENDS[nth]), &format!("{backend}:2003"))
        };
        let backends = [to_backend(0)?, to_backend(1)?];
        let master = Gate::open(&format!("{TO_MASTER}:3905"), &format!("{MASTER}:3905"))?;
        let _ = GATES.set(Gates { backends, master });
    }
    GATES.get().ok_or_else(|| "no gates".into())
}

/// The present source with the gates on all connections; Cyrus itself connects directly.
fn through_gates<M>(world: &World<M>) -> Done<Setup> {
    let mut backends = String::new();
    for (backend, gate) in world.murder.backends.iter().zip(TO_BACKENDS) {
        backends += &format!("[backends.servers.{:?}]\naddress = \"{gate}\"\n", backend.address);
    }
    if world.setup.runs_as(USER) {
        let mupdate = format!(
            "servers = [\"{TO_MASTER}\"]\ntls = \"off\"\npassword-file = \"password\"\n{backends}"
        );
        return Exchanger::make(&world.murder)?.by_file("race", &mupdate);
    }
    let file = format!("{STATE}/race.toml");
    let imapd_conf = world.murder.frontend.imapd_conf();
    let settings = format!("imapd-conf = {imapd_conf:?}\ndomains = {DOMAINS:?}\n");
    fs::write(&file, settings + &cyrus_release(world.release) + &backends)?;
    Ok(Setup::new(&["--config", &file], world.murder.cyrus))
}

/// Runs a scenario with the gates on all connections.
pub fn with_gates<M>(world: &mut World<M>, run: fn(&World<M>, &Gates, &str) -> Done) -> Done {
    let gates = gates(world)?;
    let before = world.setup.clone();
    // The scenarios run once for each source, and releases differ in the deletion of a moved mailbox.
    let source = if before.runs_as(USER) { "replica" } else { "file" };
    let seen = through_gates(world)
        .and_then(|setup| switch(world, setup))
        .and_then(|()| becomes_well(world))
        .and_then(|()| run(world, gates, source));
    gates.backends.iter().chain([&gates.master]).for_each(Gate::release);
    switch(world, before)?;
    seen?;
    becomes_well(world)
}

/// How a message is kept from its backend until its mailbox has moved.
#[derive(Clone, Copy, Debug)]
enum Obstacle {
    /// The backend does not answer: the message waits in the queue.
    Down,
    /// The backend accepts the connection and does not answer from this word on.
    Silent(&'static str),
}

/// The message is accepted and looked up before its mailbox moves. The old backend answers again afterwards
/// and refuses the recipient for good. The message arrives at the new one, once.
pub fn messages_on_their_way(world: &mut World) -> Done {
    with_gates(world, |world, gates, source| {
        let user = format!("runner-{source}");
        world.murder.backends[0].admin()?.command(&format!("CREATE user/{user}"))?;
        let obstacles = [Obstacle::Down, Obstacle::Silent("LHLO"), Obstacle::Silent("RCPT TO:")];
        for (nth, obstacle) in obstacles.into_iter().enumerate() {
            let seen = one_on_its_way(world, gates, &user, obstacle, nth % 2);
            seen.map_err(|e| format!("{obstacle:?}: {e}"))?;
        }
        Ok(())
    })
}

fn one_on_its_way(
    world: &World,
    gates: &Gates,
    user: &str,
    obstacle: Obstacle,
    from: usize,
) -> Done {
    let (old, new) = (&world.murder.backends[from], &world.murder.backends[1 - from]);
    let address = format!("{user}@example.org");
    is_listed(world, user, old.address)?;
    let gate = &gates.backends[from];
    match obstacle {
        Obstacle::Down => gate.shut(),
        Obstacle::Silent(word) => gate.hold(word),
    }
    let sent = world.send(&[&address])?;
    match obstacle {
        Obstacle::Down => {
            let tried = postfix::next_attempt(&world.logs, sent.since, &sent.queue_id)?;
            ensure!(tried.status == "deferred", "{tried:?}");
        }
        Obstacle::Silent(_) => gate.holds()?,
    }
    old.xfer(&format!("user/{user}"), new)?;
    gate.release();
    // The queue manager keeps its last answer for 30 s, unless it asks about another recipient.
    world.send(&["jane@example.org"])?;
    let attempts = world.delivered(&sent)?;
    ensure!(attempts.len() > 1, "it arrived before the move: {attempts:?}");
    if let Obstacle::Silent(_) = obstacle {
        let softened = world.logs.since(sent.since, "postfix/lmtp").iter().any(|line| {
            let of_it = line.text.starts_with(&sent.queue_id);
            of_it && line.text.contains("dsn=4.1.1") && line.text.contains("said: 550")
        });
        ensure!(softened, "the old backend should have refused it: {attempts:?}");
    }
    world.holds_once(new, user, "INBOX", &sent.id)
}

/// Waits until the list itself has the user on this server.
pub fn is_listed<M>(world: &World<M>, user: &str, server: &str) -> Done {
    sandbox::poll(&format!("{user} to be listed on {server}"), 30, || {
        let listed = listed_on(world, user)?;
        ensure!(listed.as_deref() == Some(server), "listed on {listed:?}");
        Ok(Some(()))
    })
}

fn listed_on<M>(world: &World<M>, user: &str) -> Done<Option<String>> {
    let mailbox = format!("user.{user}");
    let records = world.setup.dump()?;
    let record = records.iter().find(|record| record["mailbox"] == *mailbox);
    Ok(record.and_then(|record| Some(record["server"].as_str()?.to_owned())))
}

/// The list receives one move and then no further changes when the mailbox moves on. Messages go to its
/// present backend at the first attempt.
pub fn moved_on<M: Mta>(world: &mut World<M>) -> Done {
    with_gates(world, |world, gates, source| {
        let [be1, be2] = &world.murder.backends;
        let user = format!("wayfarer-{source}");
        be1.admin()?.command(&format!("CREATE user/{user}"))?;
        is_listed(world, &user, be1.address)?;
        be1.xfer(&format!("user/{user}"), be2)?;
        is_listed(world, &user, be2.address)?;
        let slave = match world.setup.runs_as(USER) {
            true => None,
            false => Some(world.murder.frontend.process()?),
        };
        match slave {
            None => gates.master.hold(" UPDATE"),
            Some(slave) => slave.freeze()?,
        }
        let seen = be2.xfer(&format!("user/{user}"), be1).and_then(|()| {
            let (_, before) = world.setup.status()?;
            let sent = world.send(&[&format!("{user}@example.org")])?;
            let attempts = world.delivered(&sent)?;
            let listed = listed_on(world, &user)?;
            ensure!(listed.as_deref() == Some(be2.address), "it is listed on {listed:?}");
            ensure!(
                matches!(&attempts[..], [one] if one.relay.contains(TO_BACKENDS[0])),
                "it should go straight to the first backend: {attempts:?}"
            );
            world.holds_once(be1, &user, "INBOX", &sent.id)?;
            let (_, after) = world.setup.status()?;
            let asked = |status: &serde_json::Value| status["counters"]["asked_again"].as_u64();
            ensure!(asked(&after) > asked(&before), "the master was not asked: {after}");
            Ok(())
        });
        if let Some(slave) = slave {
            slave.thaw()?;
        }
        gates.master.release();
        seen?;
        is_listed(world, &user, be1.address)
    })
}
