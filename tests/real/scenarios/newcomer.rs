//! A user is refused, created and tried again: accepted at once, over an old connection and a new one, with
//! every way of refusing unknown recipients that has no warning.

use std::time::{Duration, Instant};

use crate::clients::mail::{Reply, Session};
use crate::world::{Mta, SMTP, World};
use crate::{Done, ensure, sandbox};

/// Maximum time from the router's first positive answer to acceptance at RCPT.
const AT_ONCE: Duration = Duration::from_secs(1);

/// One sender for all: smtpd keeps its answers for a pair of sender and recipient.
const SENDER: &str = "somebody@sender.test";

fn rcpt(session: &mut Session, recipient: &str) -> Done<Reply> {
    session.command(&format!("MAIL FROM:<{SENDER}>"))?;
    let reply = session.command(&format!("RCPT TO:<{recipient}>"))?;
    session.command("RSET")?;
    Ok(reply)
}

/// Refused, then accepted. `Err` has the error; the mailbox is deleted in any case.
pub fn accepted_at_once<M: Mta>(world: &World<M>, user: &str) -> Done {
    let recipient = format!("{user}@example.org");
    let be1 = &world.murder.backends[0];
    world.becomes_unknown(&recipient)?;
    let mut old: Vec<Session> = (0..3).map(|_| Session::smtp(SMTP)).collect::<Done<_>>()?;
    for session in &mut old {
        for _ in 0..3 {
            let reply = rcpt(session, &recipient)?;
            ensure!(reply.code == 550 && reply.status() == "5.1.1", "before: {reply}");
        }
    }
    // Processes of closed sessions wait for the next connection.
    for _ in 0..3 {
        let reply = rcpt(&mut Session::smtp(SMTP)?, &recipient)?;
        ensure!(reply.code == 550, "before, over a new connection: {reply}");
    }
    be1.admin()?.command(&format!("CREATE user/{user}"))?;
    let known = sandbox::poll(&format!("{recipient} to be known"), 30, || {
        let lookup = world.setup.lookup_one(&recipient)?;
        Ok((lookup.server == be1.address && lookup.outcome == "deliver").then_some(()))
    });
    let seen = known.and_then(|()| {
        let known = Instant::now();
        for (nth, session) in old.iter_mut().enumerate() {
            let reply = rcpt(session, &recipient)?;
            ensure!(reply.code == 250, "created, over the old connection {nth}: {reply}");
        }
        for nth in 0..6 {
            let reply = rcpt(&mut Session::smtp(SMTP)?, &recipient)?;
            ensure!(reply.code == 250, "created, over the new connection {nth}: {reply}");
        }
        ensure!(known.elapsed() < AT_ONCE, "accepted after {:?}", known.elapsed());
        world.arrives(&recipient, be1, user, "INBOX")
    });
    let mut admin = be1.admin()?;
    admin.command(&format!("SETACL user/{user} cyrus lrswipkxtecda"))?;
    admin.command(&format!("DELETE user/{user}"))?;
    seen?;
    // The reverse, with the same processes.
    sandbox::poll(&format!("{recipient} to be refused"), 30, || {
        let reply = rcpt(&mut old[0], &recipient)?;
        ensure!(reply.code == 550, "deleted: {reply}");
        Ok(Some(()))
    })
}
