//! The daemon is killed again and again at any point while the Murder keeps working.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::beside::{becomes_well, is_the_masters};
use super::faults::LOAD;
use super::posted::{all_delivered, count_copies, send_until_taken};
use crate::postfix::Postfix;
use crate::world::{World, message};
use crate::{Done, ensure};

/// One per second, for a minute.
const KILLS: usize = 60;

/// Pause between two messages of one sender, so that the mail server keeps up.
const PAUSE: Duration = Duration::from_millis(100);

/// A message that was accepted: its Message-ID and its queue id.
type Taken = (String, String);

/// SIGKILL each second. Messages go to known users and to mailboxes that were just created.
pub fn every_second(world: &mut World) -> Done {
    let since = world.logs.mark();
    let over = AtomicBool::new(false);
    let World { murder, daemon, .. } = &mut *world;
    let backends = &murder.backends;
    let taken = thread::scope(|scope| -> Done<Vec<Taken>> {
        let over = &over;
        let mut threads: Vec<_> =
            (0..2).map(|sender| scope.spawn(move || send(sender, over))).collect();
        threads.push(scope.spawn(|| {
            let mut taken = Vec::new();
            let mut admins = [backends[0].admin()?, backends[1].admin()?];
            while !over.load(Ordering::Relaxed) {
                let number = taken.len();
                let admin = &mut admins[number % 2];
                admin.command(&format!("CREATE user/born{number}"))?;
                let recipient = format!("born{number}@example.org");
                taken.push(send_one(&format!("born{number}"), &recipient)?);
            }
            Ok(taken)
        }));
        let killed = (0..KILLS).try_for_each(|_| {
            thread::sleep(Duration::from_secs(1));
            daemon.kill()?;
            daemon.resume()
        });
        over.store(true, Ordering::Relaxed);
        let mut taken = Vec::new();
        for thread in threads {
            taken.extend(thread.join().map_err(|_| "a sender panicked")??);
        }
        killed?;
        Ok(taken)
    })?;
    let queue_ids: Vec<String> = taken.iter().map(|(_, queue_id)| queue_id.clone()).collect();
    let put_off = all_delivered(world, since, &queue_ids)?;
    let mut copies = BTreeMap::new();
    for (_, backend, user) in LOAD {
        count_copies(&world.murder.backends[backend], user, &mut copies)?;
    }
    let born = taken.iter().filter(|(id, _)| id.starts_with("<born")).count();
    for number in 0..born {
        let backend = &world.murder.backends[number % 2];
        count_copies(backend, &format!("born{number}"), &mut copies)?;
    }
    for (id, _) in &taken {
        let count = copies.get(id).copied().unwrap_or(0);
        ensure!(count == 1, "{count} copies of {id}");
    }
    becomes_well(world)?;
    let names = is_the_masters(world)?;
    let messages = taken.len();
    println!(
        "    {KILLS} kills, {messages} messages, {born} of them to new mailboxes, {put_off} attempts \
         deferred, {names} names in the replica"
    );
    ensure!(born > 0 && messages > born, "too few messages were sent");
    Ok(())
}

fn send(sender: usize, over: &AtomicBool) -> Done<Vec<Taken>> {
    let mut taken = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let number = taken.len();
        let (recipient, ..) = LOAD[number % LOAD.len()];
        taken.push(send_one(&format!("kill{sender}-{number}"), recipient)?);
        thread::sleep(PAUSE);
    }
    Ok(taken)
}

fn send_one(name: &str, recipient: &str) -> Done<Taken> {
    let message = message(name);
    let queue_id = send_until_taken::<Postfix>(recipient, &message)?;
    Ok((message.id, queue_id))
}
