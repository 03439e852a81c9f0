//! Many letters, and what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::clients::mail::Session;
use crate::logs::Mark;
use crate::murder::Host;
use crate::world::{self, Message, Mta, SMTP, World};
use crate::{Done, ensure, run, sandbox};

/// How long the queue may stand still.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a letter again and again until the mail server takes it, as any mail server would: but a refusal is
/// a failure. The queue id.
pub fn send_until_taken<M: Mta>(recipient: &str, message: &Message) -> Done<String> {
    try_until_taken::<M>(recipient, message, Err).map(|(queue_id, _)| queue_id)
}

/// The same with a mail server whose processes may die. Counts the connections that are lost with them,
/// and how often the letter was not taken.
pub fn send_over_losses<M: Mta>(
    recipient: &str,
    message: &Message,
    (lost, not_taken): (&AtomicUsize, &AtomicUsize),
) -> Done<String> {
    let (queue_id, before) = try_until_taken::<M>(recipient, message, |why| {
        // What is said to a command that only goes wrong when something is wrong, such as DATA.
        ensure!(!why.to_string().contains(": 5"), "{recipient}: {why}");
        lost.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })?;
    not_taken.fetch_add(before, Ordering::Relaxed);
    Ok(queue_id)
}

/// The queue id, and how often it was not taken before.
fn try_until_taken<M: Mta>(
    recipient: &str,
    message: &Message,
    failed: impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Done,
) -> Done<(String, usize)> {
    for attempt in 0..1200 {
        // A new envelope sender each time: smtpd remembers a failure for a pair of sender and
        // recipient as long as it lives.
        let sender = format!("try{attempt}-{}", message.sender);
        let outcome = Session::smtp(SMTP)
            .and_then(|mut session| session.send(&sender, &[recipient], &message.text));
        match outcome {
            Err(why) => failed(why)?,
            Ok(outcome) => match (&outcome.recipients[..], &outcome.message[..]) {
                (_, [reply]) if reply.code == 250 => {
                    return Ok((world::queue_id::<M>(&reply.text)?, attempt));
                }
                ([reply], []) | (_, [reply]) if reply.is_temporary() => {}
                _ => return Err(format!("{recipient}: {outcome:?}").into()),
            },
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(format!("{recipient}: put off too often").into())
}

/// Waits until all these are out of the queue, and demands that none bounced. How many attempts were
/// put off on the way.
pub fn all_delivered(world: &World, since: Mark, queue_ids: &[String]) -> Done<usize> {
    let mut waiting: BTreeSet<&str> = queue_ids.iter().map(String::as_str).collect();
    let (mut since, mut put_off) = (since, 0);
    let (mut progress, mut reloaded) = (Instant::now(), false);
    loop {
        // Looked at from here again next time; what comes meanwhile may be seen twice.
        let next = world.logs.mark();
        let before = waiting.len();
        for line in world.logs.since(since, "postfix/") {
            ensure!(!line.text.contains("status=bounced"), "bounced: {}", line.text);
            put_off += usize::from(line.text.contains("status=deferred"));
            if let Some(id) = line.text.strip_suffix(": removed") {
                waiting.remove(id);
            }
        }
        if waiting.is_empty() {
            return Ok(put_off);
        }
        if waiting.len() < before {
            progress = Instant::now();
        }
        let left = waiting.len();
        ensure!(
            progress.elapsed() < PATIENCE,
            "{left} letters are in the queue and stay there: {waiting:?}"
        );
        // A queue manager that comes for a letter before the delivery agent has let go of it says
        // `skipped, still being delivered` and forgets it until it is started anew. With queue runs
        // each second that happens.
        if progress.elapsed() > PATIENCE / 3 && !reloaded {
            run(sandbox::command("postfix").arg("reload"))?;
            reloaded = true;
        }
        since = next;
        thread::sleep(Duration::from_millis(200));
    }
}

/// Adds what lies in a user's INBOX on this host to the copies of each letter. Whether there is one.
pub fn count_copies(host: &Host, user: &str, copies: &mut BTreeMap<String, usize>) -> Done<bool> {
    let mut imap = host.imap(user)?;
    if imap.command("EXAMINE INBOX").is_err() {
        return Ok(false);
    }
    for id in imap.message_ids("INBOX")? {
        *copies.entry(format!("<{id}>")).or_default() += 1;
    }
    Ok(true)
}
