//! The MUPDATE master is down: known recipients are delivered, and none is called unknown.

use std::fs;
use std::time::{Duration, Instant};

use crate::world::{Mta, World};
use crate::{Done, ensure};

/// Postfix gives up after 100 s, and then gets no answer for the rest of the session.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

pub fn known_arrive_and_misses_wait<M: Mta>(world: &World<M>) -> Done {
    let [be1, be2] = &world.murder.backends;
    world.arrives("jane@example.org", be1, "jane", "INBOX")?;
    world.arrives("Jane+Work@Example.Org", be1, "jane", "INBOX/Work")?;
    world.arrives("bob@example.net", be2, "bob@example.net", "INBOX")?;
    world.arrives("+shared/news@example.org", be2, "", "shared/news")?;
    for stranger in ["nobody@example.org", "nobody@example.net", "ghost+x@example.org"] {
        let start = Instant::now();
        world.put_off(stranger)?;
        ensure!(start.elapsed() < ANSWER_LIMIT, "{stranger}: answered after {:?}", start.elapsed());
    }
    // The wait for an unknown recipient must not delay a known one.
    world.arrives("max@example.org", be2, "max", "INBOX")
}

/// The master is killed and restarted.
pub fn killed<M: Mta>(world: &mut World<M>) -> Done {
    world.murder.master.kill()?;
    let seen = known_arrive_and_misses_wait(world);
    world.murder.master.start()?;
    seen?;
    world.recovers()
}

/// The master keeps its connections and does not answer.
pub fn hung<M: Mta>(world: &World<M>) -> Done {
    world.murder.master.process()?.freeze()?;
    let seen = known_arrive_and_misses_wait(world);
    world.murder.master.process()?.thaw()?;
    seen?;
    world.recovers()
}

/// A new frontend has no list until its mupdate has read the master's. Meanwhile lmtpproxyd refuses every
/// recipient.
pub fn frontend_begins_anew<M: Mta>(world: &mut World<M>) -> Done {
    world.murder.master.kill()?;
    world.murder.frontend.stop()?;
    let without_cyrus = known_arrive_and_misses_wait(world);
    fs::remove_file(world.murder.frontend.mailboxes_db())?;
    world.murder.frontend.start()?;
    let without_list = no_recipient_is_refused(world);
    world.murder.master.start()?;
    without_cyrus.map_err(|e| format!("frontend stopped: {e}"))?;
    without_list.map_err(|e| format!("frontend without a list: {e}"))?;
    world.recovers()
}

fn no_recipient_is_refused<M: Mta>(world: &World<M>) -> Done {
    let lmtpd = world.frontend_lmtpd("jane@example.org")?;
    ensure!(lmtpd.code == 550, "lmtpd should refuse jane at this point: {lmtpd}");
    world.existing_are_not_refused()?;
    world.put_off("nobody@example.org")
}
