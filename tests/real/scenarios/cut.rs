//! The list is truncated and rewritten in place, again and again, under a mail server that has loaded the
//! library: the effect of `: > mailboxes.db` and `cp`, which Cyrus never has. Messages wait, and arrive.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::faults::LOAD;
use super::posted::{count_copies, send_over_losses};
use crate::sandbox::{self, STATE};
use crate::world::{self, Mta, World, message};
use crate::{Done, ensure};

/// Minimum number of cuts, and of messages meanwhile.
const CUTS: usize = 100;
const MESSAGES: usize = 100;

const SENDERS: usize = 4;

/// A copy of the frontend's list, since Cyrus itself would not survive the cuts.
pub struct Copy {
    pub file: String,
    content: Vec<u8>,
}

impl Copy {
    /// Makes a copy that every user may read.
    pub fn make<M>(world: &World<M>) -> Done<Self> {
        let (dir, cyrus) = (format!("{STATE}/cut"), world.murder.cyrus);
        sandbox::make_dir(&dir, cyrus)?;
        let file = format!("{dir}/mailboxes.db");
        let content = fs::read(world.murder.frontend.mailboxes_db())?;
        fs::write(&file, &content)?;
        chown(&file, Some(cyrus.uid), Some(cyrus.gid))?;
        fs::set_permissions(&file, Permissions::from_mode(0o644))?;
        Ok(Self { file, content })
    }

    fn cut(&self, round: usize) -> Done {
        match round % 4 {
            3 => {
                let half = u64::try_from(self.content.len() / 2)?;
                OpenOptions::new().write(true).open(&self.file)?.set_len(half)?;
            }
            _ => drop(OpenOptions::new().write(true).truncate(true).open(&self.file)?),
        }
        thread::sleep(Duration::from_millis([1, 5, 30][round % 3]));
        let mut file = OpenOptions::new().write(true).truncate(true).open(&self.file)?;
        for piece in self.content.chunks(4096) {
            file.write_all(piece)?;
        }
        Ok(())
    }
}

/// With a mail server and a daemon that read the copy, and then without the daemon, which can ask the
/// master.
pub fn while_messages_flow<M: Mta>(world: &mut World<M>, copy: &Copy) -> Done {
    while_these_flow(world, copy, "cut")?;
    world.daemon.stop()?;
    let seen = while_these_flow(world, copy, "forlorn");
    world.daemon.resume()?;
    ensure!(seen? > 0, "no message was deferred");
    world.recovers()
}

/// Returns how many times a message was deferred.
fn while_these_flow<M: Mta>(world: &World<M>, copy: &Copy, name: &str) -> Done<usize> {
    let inode = fs::metadata(&copy.file)?.ino();
    let since = world.logs.mark();
    let [next, cuts, lost, not_taken] = [0; 4].map(AtomicUsize::new);
    let taken = thread::scope(|scope| {
        let send = || -> Done<Vec<(String, String)>> {
            let mut taken = Vec::new();
            while cuts.load(Ordering::Relaxed) < CUTS || next.load(Ordering::Relaxed) < MESSAGES {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let message = message(&format!("{name}{number}"));
                let (recipient, ..) = LOAD[number % LOAD.len()];
                let queue_id = send_over_losses::<M>(recipient, &message, (&lost, &not_taken))?;
                taken.push((message.id, queue_id));
            }
            Ok(taken)
        };
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
        let mut cut = Ok(());
        while cut.is_ok() && senders.iter().any(|sender| !sender.is_finished()) {
            cut = copy.cut(cuts.fetch_add(1, Ordering::Relaxed));
            // Complete for a while, so that some messages are delivered.
            thread::sleep(Duration::from_millis(40));
        }
        let taken = senders
            .into_iter()
            .map(|sender| sender.join().unwrap_or_else(|_| Err("a sender panicked".into())));
        let taken = taken.collect::<Done<Vec<_>>>();
        cut.and(taken)
    })?
    .concat();
    let mut put_off = 0;
    for (_, queue_id) in &taken {
        let attempts = world::wait_removed::<M>(&world.logs, since, queue_id)?;
        let bounced = attempts.iter().any(|attempt| attempt.status == "bounced");
        ensure!(!bounced, "bounced: {attempts:?}");
        put_off += attempts.iter().filter(|attempt| attempt.status == "deferred").count();
    }
    let mut copies = BTreeMap::new();
    for (_, backend, user) in LOAD {
        count_copies(&world.murder.backends[backend], user, &mut copies)?;
    }
    let wrong: Vec<_> =
        taken.iter().filter(|(id, _)| copies.get(id).is_none_or(|count| *count != 1)).collect();
    let mut killed = world.logs.since(since, "");
    // Postfix: "process /usr/lib/postfix/… pid 1234 killed by signal 7" (src/master/master_spawn.c).
    killed.retain(|line| {
        ["killed by signal", "signal 7"].iter().any(|text| line.text.contains(text))
    });
    let (not_taken, lost) = (not_taken.into_inner(), lost.into_inner());
    println!(
        "    {} messages, {} cuts, {not_taken} times not accepted, {lost} connections lost, {put_off} deferred attempts, {} \
         processes killed",
        taken.len(),
        cuts.into_inner(),
        killed.len(),
    );
    killed.iter().take(5).for_each(|line| println!("    {}: {}", line.program, line.text));
    ensure!(wrong.is_empty(), "{} messages are lost or duplicated: {wrong:?}", wrong.len());
    ensure!(killed.is_empty(), "{} processes were killed by a signal", killed.len());
    ensure!(fs::metadata(&copy.file)?.ino() == inode, "the list was replaced, not cut in place");
    Ok(not_taken + put_off)
}
