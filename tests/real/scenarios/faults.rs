//! The daemon and its list are disturbed while mail flows: mail waits, and never bounces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::posted::send_until_taken;
use crate::postfix;
use crate::router::Daemon;
use crate::sandbox::{self, STATE, User};
use crate::world::{self, Mta, Queued, World, message};
use crate::{Done, ensure, run};

const SENDERS: usize = 4;
const MESSAGES: usize = 300;

/// Target of the load: recipient, backend, user.
pub type Target = (&'static str, usize, &'static str);

pub const LOAD: [Target; 6] = [
    ("jane@example.org", 0, "jane"),
    ("O.Brien@Example.Org", 0, "o.brien"),
    ("carol@example.net", 0, "carol@example.net"),
    ("max@example.org", 1, "max"),
    ("anna-lena+x@example.org", 1, "anna-lena"),
    ("bob@example.net", 1, "bob@example.net"),
];

/// The daemon is stopped, killed and restarted a few times while several connections send without pause.
pub fn daemon_restarts_under_load<M: Mta>(world: &mut World<M>) -> Done {
    restarts_under_load(world, "load", &LOAD, MESSAGES)
}

/// With this number of messages for each recipient, in this world.
pub fn restarts_under_load<M: Mta>(
    world: &mut World<M>,
    name: &str,
    load: &[Target],
    messages: usize,
) -> Done {
    let since = world.logs.mark();
    let started = AtomicUsize::new(0);
    let daemon = &mut world.daemon;
    let queue_ids = thread::scope(|scope| -> Done<Vec<String>> {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| scope.spawn(|| send_until_done::<M>(&started, name, load, messages)))
            .collect();
        for round in 0..6 {
            let wanted = (round + 1) * messages / 8;
            sandbox::poll("the load to continue", 120, || {
                Ok((started.load(Ordering::Relaxed) >= wanted).then_some(()))
            })?;
            if round % 2 == 0 {
                daemon.stop()?
            } else {
                daemon.kill()?
            }
            // No daemon listens for a short time.
            thread::sleep(Duration::from_millis(200));
            daemon.resume()?;
        }
        let mut queue_ids = Vec::new();
        for sender in senders {
            queue_ids.extend(sender.join().map_err(|_| "a sender panicked")??);
        }
        Ok(queue_ids)
    })?;
    ensure!(queue_ids.len() == messages, "{} messages were accepted", queue_ids.len());
    for queue_id in &queue_ids {
        let attempts = world::wait_removed::<M>(&world.logs, since, queue_id)?;
        let bounced = attempts.iter().any(|attempt| attempt.status == "bounced");
        ensure!(!bounced, "bounced: {attempts:?}");
    }
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    let users: BTreeSet<_> = load.iter().map(|&(_, backend, user)| (backend, user)).collect();
    for (backend, user) in users {
        for id in world.murder.backends[backend].imap(user)?.message_ids("INBOX")? {
            *copies.entry(id).or_default() += 1;
        }
    }
    for number in 0..messages {
        let count = copies.get(&format!("{name}{number}@sender.test")).copied().unwrap_or(0);
        ensure!(count == 1, "{count} copies of message {number}");
    }
    Ok(())
}

/// Sends message after message; deferred ones are sent again, as by any mail server.
fn send_until_done<M: Mta>(
    started: &AtomicUsize,
    name: &str,
    load: &[Target],
    messages: usize,
) -> Done<Vec<String>> {
    let mut queue_ids = Vec::new();
    loop {
        let number = started.fetch_add(1, Ordering::Relaxed);
        if number >= messages {
            return Ok(queue_ids);
        }
        let (recipient, ..) = load[number % load.len()];
        let message = message(&format!("{name}{number}"));
        queue_ids.push(send_until_taken::<M>(recipient, &message)?);
    }
}

/// Cyrus rewrites its list under the running daemon: another inode, another generation.
pub fn list_repacked(world: &World) -> Done {
    let list = world.murder.frontend.mailboxes_db();
    for _ in 0..3 {
        let before = fs::read(&list)?;
        run(sandbox::command("cyr_dbtool").args([
            "-C",
            &world.murder.frontend.imapd_conf(),
            &list,
            "twoskip",
            "repack",
        ]))?;
        ensure!(fs::read(&list)? != before, "repack changed nothing");
        let [be1, be2] = &world.murder.backends;
        world.arrives("jane+Work@example.org", be1, "jane", "INBOX/Work")?;
        world.arrives("bob@example.net", be2, "bob@example.net", "INBOX")?;
        world.refused("nobody@example.org")?;
    }
    Ok(())
}

/// A way to damage the list at a path.
type Damage = fn(&str) -> Done;

const DAMAGES: [(&str, Damage); 8] = [
    ("emptied", |list| Ok(fs::write(list, "")?)),
    ("cut in half", |list| {
        let file = OpenOptions::new().write(true).open(list)?;
        Ok(file.set_len(file.metadata()?.len() / 2)?)
    }),
    ("overwritten with garbage", |list| {
        let length = usize::try_from(fs::metadata(list)?.len())?;
        Ok(fs::write(list, b"garbage!".repeat(length / 8 + 1))?)
    }),
    ("replaced by garbage", |list| {
        fs::write(format!("{list}.new"), b"\x7fgarbage".repeat(1000))?;
        Ok(fs::rename(format!("{list}.new"), list)?)
    }),
    ("replaced by an empty list", |list| {
        let new = format!("{list}.new");
        for action in
            [&["-n", &new, "twoskip", "set", "x", "y"][..], &[&new, "twoskip", "delete", "x"]]
        {
            let mut dbtool = sandbox::command("cyr_dbtool");
            run(dbtool.args(["-C", &format!("{STATE}/fe1/imapd.conf")]).args(action))?;
        }
        Ok(fs::rename(new, list)?)
    }),
    ("without any permission", |list| {
        Ok(fs::set_permissions(list, Permissions::from_mode(0o000))?)
    }),
    ("taken over by root", |list| {
        chown(list, Some(0), Some(0))?;
        Ok(fs::set_permissions(list, Permissions::from_mode(0o600))?)
    }),
    ("gone", |list| Ok(fs::remove_file(list)?)),
];

/// A copy of the frontend's list, so that Cyrus itself is not affected.
struct Copy {
    list: String,
    good: String,
    cyrus: User,
}

impl Copy {
    fn make(world: &World) -> Done<Self> {
        let dir = format!("{STATE}/spoilt");
        let cyrus = world.murder.cyrus;
        sandbox::make_dir(&dir, cyrus)?;
        let copy = Self { list: format!("{dir}/mailboxes.db"), good: format!("{dir}/good"), cyrus };
        fs::copy(world.murder.frontend.mailboxes_db(), &copy.good)?;
        copy.heal()?;
        Ok(copy)
    }

    /// Renames a complete list into its place, as a restore or Cyrus' repack does.
    fn heal(&self) -> Done {
        let new = format!("{}.healed", self.list);
        fs::copy(&self.good, &new)?;
        chown(&new, Some(self.cyrus.uid), Some(self.cyrus.gid))?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        Ok(fs::rename(new, &self.list)?)
    }
}

/// Damages the list in every way, restores it each time, and checks new mail and mail in the queue.
pub fn list_spoilt(world: &mut World) -> Done {
    let copy = Copy::make(world)?;
    world.daemon.stop()?;
    let mut daemon = Daemon::start(world.setup.with_list(&copy.list))?;
    // A message that cannot be delivered yet: each attempt asks the router again.
    world.murder.backends[1].stop()?;
    let waiting = world.send(&["max@example.org"])?;
    let seen = DAMAGES.iter().try_for_each(|(name, damage)| -> Done {
        damage(&copy.list)?;
        let seen = nothing_bounces(world, &mut daemon, &waiting);
        copy.heal()?;
        seen.and_then(|()| world.recovers()).map_err(|e| format!("list {name}: {e}").into())
    });
    world.murder.backends[1].start()?;
    daemon.stop()?;
    world.daemon.resume()?;
    seen?;
    // Another message first: the queue manager keeps its last answer for 30 s.
    world.arrives("max@example.org", &world.murder.backends[1], "max", "INBOX")?;
    let attempts = world.delivered(&waiting)?;
    ensure!(attempts.len() > DAMAGES.len(), "too few attempts: {attempts:?}");
    world.holds_once(&world.murder.backends[1], "max", "INBOX", &waiting.id)
}

fn nothing_bounces(world: &World, daemon: &mut Daemon, waiting: &Queued) -> Done {
    world.existing_are_not_refused()?;
    world.put_off("nobody@example.org")?;
    daemon.stop()?;
    daemon.resume()?;
    world.existing_are_not_refused().map_err(|e| format!("daemon restarted: {e}"))?;
    world.put_off("nobody@example.org").map_err(|e| format!("daemon restarted: {e}"))?;

    let since = world.logs.mark();
    run(sandbox::command("postqueue").args(["-i", &waiting.queue_id]))?;
    let attempt = postfix::next_attempt(&world.logs, since, &waiting.queue_id)?;
    ensure!(attempt.status == "deferred", "the waiting message: {attempt:?}");
    Ok(())
}
