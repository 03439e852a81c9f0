//! A frontend that was down loses an existing account when it resynchronises: Cyrus compares names in
//! another order than it reads them (3.6 on, `imap/mupdate.c:mupdate_synchronize`). Its lmtpd then refuses
//! the account's mail until the next change of the account. murder-route delivers it.

use super::beside::{becomes_well, switch};
use crate::root::Release;
use crate::router::Setup;
use crate::world::World;
use crate::{Done, ensure, sandbox};

const LOST: &str = "a-b@example.org";

/// With the replica, and on the frontend with its own list and the master to confirm.
pub fn lost_account_is_routed(world: &mut World) -> Done {
    let be1 = &world.murder.backends[0];
    let mut admin = be1.admin()?;
    for name in ["a", "a/-x", "a/b", "a-b", "c"] {
        admin.command(&format!("CREATE user/{name}"))?;
    }
    world.moves_to(LOST, be1)?;
    sandbox::poll("the frontend to have the account", 30, || {
        Ok((world.frontend_lmtpd(LOST)?.code == 250).then_some(()))
    })?;
    world.murder.frontend.stop()?;
    for name in ["a/b", "a/-x"] {
        admin.command(&format!("SETACL user/{name} cyrus lrswipkxtecda"))?;
        admin.command(&format!("DELETE user/{name}"))?;
    }
    let since = world.logs.mark();
    world.murder.frontend.start()?;
    world.logs.wait("the frontend to be synchronised", since, 30, |lines| {
        let done = "synchronization complete";
        lines
            .iter()
            .any(|line| line.program == "fe1/mupdate" && line.text.contains(done))
            .then_some(())
    })?;
    let lmtpd = world.frontend_lmtpd(LOST)?;
    ensure!(lmtpd.code == 550, "lmtpd should show the defect: {lmtpd}");

    let be1 = &world.murder.backends[0];
    world.arrives(LOST, be1, "a-b", "INBOX").map_err(|e| format!("by the replica: {e}"))?;
    let before = world.setup.clone();
    let frontend = world.murder.frontend.imapd_conf();
    let beside = Setup::by_options(&frontend, world.release, world.murder.cyrus)?;
    switch(world, beside)?;
    let seen = becomes_well(world)
        .and_then(|()| world.arrives(LOST, &world.murder.backends[0], "a-b", "INBOX"))
        .and_then(|()| world.recovers());
    switch(world, before)?;
    seen.map_err(|e| format!("by the frontend's list and the master: {e}"))?;
    becomes_well(world)
}

/// Whether a release has the defect with its default settings.
pub fn has_it(release: Release) -> bool {
    release >= Release::V3_6
}
