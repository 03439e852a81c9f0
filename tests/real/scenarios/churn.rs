//! Mailboxes are moved and renamed without pause while thousands of messages are delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::beside::is_the_masters;
use super::posted::{all_delivered, count_copies, send_until_taken};
use crate::exchanger::USER;
use crate::murder::Host;
use crate::postfix::Postfix;
use crate::world::{World, message};
use crate::{Done, ensure, sandbox};

/// Number of mailboxes that move to and fro.
const MOVING: usize = 24;

/// Minimum number of messages to them, and of moves.
const MESSAGES: usize = 3000;
const MOVES: usize = 2 * MOVING;

const SENDERS: usize = 4;

/// A message that was accepted.
#[derive(Debug)]
struct Accepted {
    id: String,
    queue_id: String,
    user: String,
}

/// XFER of dozens of mailboxes in both directions, and RENAME.
pub fn moved_to_and_fro(world: &mut World) -> Done {
    let since = world.logs.mark();
    let backends = &world.murder.backends;
    // Once for each source, each with its own mailboxes.
    let name = if world.setup.runs_as(USER) { "churn" } else { "swirl" };
    for (number, backend) in (0..MOVING).zip(backends.iter().cycle()) {
        backend.admin()?.command(&format!("CREATE user/{name}{number}"))?;
    }
    is_the_masters(world)?;
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (moves, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let renames = AtomicUsize::new(0);
    let taken = thread::scope(|scope| -> Done<Vec<Accepted>> {
        let senders: Vec<_> =
            (0..SENDERS).map(|_| scope.spawn(|| send(name, &next, &moves))).collect();
        let movers: Vec<_> = (0..backends.len())
            .map(|first| {
                let (over, counters) = (&over, (&moves, &refused));
                scope.spawn(move || move_until(name, over, backends, first, counters))
            })
            .collect();
        let renamer = scope.spawn(|| rename_until(name, &over, world, &renames));
        let mut taken = Vec::new();
        let sent: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
        over.store(true, Ordering::Relaxed);
        let moved: Vec<_> = movers.into_iter().map(|mover| mover.join()).collect();
        let renamed = renamer.join().map_err(|_| "the renamer panicked")?;
        for sender in sent {
            taken.extend(sender.map_err(|_| "a sender panicked")??);
        }
        for mover in moved {
            mover.map_err(|_| "a mover panicked")??;
        }
        taken.extend(renamed?);
        Ok(taken)
    })?;
    let queue_ids: Vec<String> = taken.iter().map(|one| one.queue_id.clone()).collect();
    let put_off = all_delivered(world, since, &queue_ids)?;
    let (moves, refused) = (moves.into_inner(), refused.into_inner());
    let renames = renames.into_inner();
    let messages = taken.len();
    println!(
        "    {messages} messages, {moves} moves, {renames} renames, {put_off} deferred attempts"
    );
    ensure!(refused < moves / 10, "{refused} moves were refused");
    ensure!(moves >= MOVES && renames > 0, "too few messages, moves or renames");

    let (mut copies, mut split) = (BTreeMap::new(), BTreeSet::new());
    for number in 0..MOVING {
        let user = format!("{name}{number}");
        let mut places = 0;
        for host in &world.murder.backends {
            places += usize::from(count_copies(host, &user, &mut copies)?);
        }
        // A move that Cyrus aborts, or whose final deletion fails, leaves the mailbox on both backends,
        // each with its messages so far: copies that Cyrus made.
        if places > 1 {
            split.insert(user);
        }
    }
    count_copies(&world.murder.backends[0], &wanderer(name, renames), &mut copies)?;
    println!("    {refused} moves were refused, {} mailboxes are on both backends", split.len());
    let wrong = |Accepted { id, user, .. }: &&Accepted| match copies.get(id) {
        Some(1) => false,
        Some(2) => !split.contains(user),
        _ => true,
    };
    let wrong: Vec<&Accepted> = taken.iter().filter(wrong).collect();
    ensure!(wrong.is_empty(), "{} messages are lost or duplicated: {wrong:?}", wrong.len());
    is_the_masters(world).map(drop)
}

fn send(name: &str, next: &AtomicUsize, moves: &AtomicUsize) -> Done<Vec<Accepted>> {
    let mut taken = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let moved = moves.load(Ordering::Relaxed) >= MOVES;
        if number >= MESSAGES && (moved || number >= 4 * MESSAGES) {
            return Ok(taken);
        }
        let message = message(&format!("{name}{number}"));
        let user = format!("{name}{}", number % MOVING);
        let queue_id = send_until_taken::<Postfix>(&format!("{user}@example.org"), &message)?;
        taken.push(Accepted { id: message.id, queue_id, user });
    }
}

/// Moves every other mailbox to the other backend. A backend may refuse a move now and then; the mailbox
/// stays.
fn move_until(
    name: &str,
    over: &AtomicBool,
    backends: &[Host; 2],
    first: usize,
    (moves, refused): (&AtomicUsize, &AtomicUsize),
) -> Done {
    let mut places = [first; MOVING];
    loop {
        for number in (first..MOVING).step_by(backends.len()) {
            if over.load(Ordering::Relaxed) {
                return Ok(());
            }
            let place = places[number];
            let mailbox = format!("user/{name}{number}");
            match backends[place].xfer(&mailbox, &backends[1 - place]) {
                Ok(()) => {
                    moves.fetch_add(1, Ordering::Relaxed);
                    places[number] = 1 - place;
                }
                Err(why) => {
                    println!("    {why}");
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

fn wanderer(name: &str, renames: usize) -> String {
    format!("{name}-wanderer{renames}")
}

/// Renames a mailbox again and again. Sends a message to the old name and, when it has arrived, one to the
/// new name as soon as that exists.
fn rename_until(
    name: &str,
    over: &AtomicBool,
    world: &World,
    renames: &AtomicUsize,
) -> Done<Vec<Accepted>> {
    let be1 = &world.murder.backends[0];
    let mut admin = be1.admin()?;
    admin.command(&format!("CREATE user/{}", wanderer(name, 0)))?;
    let mut taken = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let number = renames.load(Ordering::Relaxed);
        let since = world.logs.mark();
        let message = message(&format!("{name}-wanderer{number}"));
        let user = wanderer(name, number);
        let queue_id = send_until_taken::<Postfix>(&format!("{user}@example.org"), &message)?;
        // A message in the queue for a name that no longer exists would rightly bounce.
        all_delivered(world, since, std::slice::from_ref(&queue_id))?;
        taken.push(Accepted { id: message.id, queue_id, user });
        let (old, new) = (wanderer(name, number), wanderer(name, number + 1));
        admin.command(&format!("RENAME user/{old} user/{new}"))?;
        renames.fetch_add(1, Ordering::Relaxed);
    }
    let last = wanderer(name, renames.load(Ordering::Relaxed));
    sandbox::poll("the last name to be known", 30, || {
        let reply = world.rcpt(&format!("{last}@example.org"))?;
        ensure!(reply.code == 250 || reply.is_temporary(), "after RENAME: {reply}");
        Ok((reply.code == 250).then_some(()))
    })?;
    Ok(taken)
}
