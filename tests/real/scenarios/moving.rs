//! Mailboxes are created, renamed, moved and deleted while mail flows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::clients::mail::Session;
use crate::world::{self, Mta, SMTP, World, message};
use crate::{Done, ensure, sandbox};

/// Deletes the mailboxes of these scenarios, so that they can run again.
fn forget<M: Mta>(world: &World<M>) -> Done {
    for backend in &world.murder.backends {
        let mut admin = backend.admin()?;
        for name in ["newcomer", "settled", "mover"] {
            // Not every name exists, and none on both backends.
            let _ = admin.command(&format!("SETACL user/{name} cyrus lrswipkxtecda"));
            let _ = admin.command(&format!("DELETE user/{name}"));
        }
    }
    // Cyrus renames deleted mailboxes by the second (`DELETED.user.settled.6B0608B4`), and the master
    // accepts no such name from two backends.
    let deleted = seconds()?;
    sandbox::poll("the next second", 5, || Ok((seconds()? > deleted).then_some(())))?;
    ["newcomer", "settled", "mover"]
        .iter()
        .try_for_each(|name| world.becomes_unknown(&format!("{name}@example.org")))
}

fn seconds() -> Done<u64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}

/// A new mailbox is never unknown: the frontend's list has it a tick later, and the barrier bridges that
/// time.
pub fn created_is_known_at_once<M: Mta>(world: &World<M>) -> Done {
    forget(world)?;
    let be2 = &world.murder.backends[1];
    be2.admin()?.command("CREATE user/newcomer")?;
    let reply = world.rcpt("newcomer@example.org")?;
    ensure!(reply.code == 250 || reply.is_temporary(), "right after CREATE: {reply}");
    world.moves_to("newcomer@example.org", be2)?;
    world.arrives("newcomer@example.org", be2, "newcomer", "INBOX")
}

/// Waits until the router considers the user unknown and no list has the mailbox any more: `lookup` asks
/// the master about names that the list still has, and Postfix' own process may read the list.
fn is_gone<M: Mta>(world: &World<M>, user: &str) -> Done {
    world.becomes_unknown(&format!("{user}@example.org"))?;
    let mailbox = format!("user.{user}");
    sandbox::poll(&format!("{mailbox} to be gone"), 30, || {
        let records = world.setup.dump()?;
        Ok(records.iter().all(|record| record["mailbox"] != mailbox.as_str()).then_some(()))
    })
}

/// The new name gets the mail, the old one is refused.
pub fn renamed_follows_its_name<M: Mta>(world: &World<M>) -> Done {
    let be2 = &world.murder.backends[1];
    be2.admin()?.command("RENAME user/newcomer user/settled")?;
    world.moves_to("settled@example.org", be2)?;
    world.arrives("settled@example.org", be2, "settled", "INBOX")?;
    is_gone(world, "newcomer")?;
    world.refused("newcomer@example.org")
}

/// A deleted mailbox is refused, and is known again when it is recreated.
pub fn deleted_is_refused<M: Mta>(world: &World<M>) -> Done {
    let [be1, be2] = &world.murder.backends;
    let mut admin = be2.admin()?;
    admin.command("SETACL user/settled cyrus lrswipkxtecda")?;
    admin.command("DELETE user/settled")?;
    is_gone(world, "settled")?;
    world.refused("settled@example.org")?;
    be1.admin()?.command("CREATE user/settled")?;
    world.moves_to("settled@example.org", be1)?;
    world.arrives("settled@example.org", be1, "settled", "INBOX")
}

/// XFER. The list may still name the old backend when the next message comes. That backend replies 550
/// 5.1.1, and the message must still reach the new one.
pub fn moved_mailbox_gets_the_next_mail<M: Mta>(world: &World<M>) -> Done {
    let [be1, be2] = &world.murder.backends;
    be1.admin()?.command("CREATE user/mover")?;
    world.moves_to("mover@example.org", be1)?;
    world.arrives("mover@example.org", be1, "mover", "INBOX")?;
    be1.xfer("user/mover", be2)?;
    let next = world.send(&["mover@example.org"])?;
    world.moves_to("mover@example.org", be2)?;
    // From now on directly to the new backend. This also makes the queue manager drop its answer for the
    // message above, which it keeps for 30 s.
    world.arrives("mover@example.org", be2, "mover", "INBOX")?;
    world.delivered(&next)?;
    world.holds_once(be2, "mover", "INBOX", &next.id)
}

/// Messages keep coming during the whole move back: each is accepted and arrives once, none bounces.
pub fn nothing_is_lost_during_a_move<M: Mta>(world: &mut World<M>) -> Done {
    nothing_is_lost_while(world, "move", |world| {
        let [be1, be2] = &world.murder.backends;
        be2.xfer("user/mover", be1)
    })
}

/// For a move to the first backend in several steps. The messages are named after it.
pub fn nothing_is_lost_while<M: Mta>(
    world: &mut World<M>,
    name: &str,
    transfer: impl FnOnce(&mut World<M>) -> Done,
) -> Done {
    let since = world.logs.mark();
    let (begun, moved) = (AtomicBool::new(false), AtomicBool::new(false));
    let sent = thread::scope(|scope| -> Done<Vec<(String, String)>> {
        let sender = scope.spawn(|| -> Done<Vec<(String, String)>> {
            let mut sent = Vec::new();
            let (mut after, mut asked) = (0, 0);
            let deadline = Instant::now() + Duration::from_secs(60);
            while after < 5 {
                ensure!(Instant::now() < deadline, "after 60 s only {after} came after the move");
                let moved = usize::from(moved.load(Ordering::Relaxed));
                // A new sender each time: smtpd keeps the answer for a pair of sender and recipient for its
                // whole lifetime.
                let message = message(&format!("during-{name}-{asked}"));
                asked += 1;
                let mut session = Session::smtp(SMTP)?;
                let to = ["mover@example.org"];
                let outcome = session.send(&message.sender, &to, &message.text)?;
                let reply = outcome.message.first().unwrap_or(&outcome.recipients[0]);
                if reply.code == 250 && !outcome.message.is_empty() {
                    after += moved;
                    sent.push((message.id, world::queue_id::<M>(&reply.text)?));
                    begun.store(true, Ordering::Relaxed);
                } else {
                    ensure!(reply.is_temporary(), "refused during the move: {reply}");
                    thread::sleep(Duration::from_millis(50));
                }
            }
            Ok(sent)
        });
        let before = sandbox::poll("a message before the move", 30, || {
            Ok(begun.load(Ordering::Relaxed).then_some(()))
        });
        let transfer = before.and_then(|()| transfer(world));
        moved.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| "the sender panicked")?;
        transfer.and(sent)
    })?;
    let [be1, be2] = &world.murder.backends;
    ensure!(sent.len() > 5, "only {} messages were sent", sent.len());
    for (_, queue_id) in &sent {
        let attempts = world::wait_removed::<M>(&world.logs, since, queue_id)?;
        let bounced = attempts.iter().any(|attempt| attempt.status == "bounced");
        ensure!(!bounced, "bounced: {attempts:?}");
    }
    world.moves_to("mover@example.org", be1)?;
    let ids = be1.imap("mover")?.message_ids("INBOX")?;
    for (id, _) in &sent {
        let copies = ids.iter().filter(|got| format!("<{got}>") == *id).count();
        ensure!(copies == 1, "{copies} copies of {id} among {ids:?}");
    }
    sandbox::poll("the mailbox to be gone from the old backend", 30, || {
        Ok(be2.imap("mover")?.command("EXAMINE INBOX").is_err().then_some(()))
    })
}
