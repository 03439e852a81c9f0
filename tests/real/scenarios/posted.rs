//! Sends many messages, and follows each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::clients::mail::Session;
use crate::logs::Mark;
use crate::murder::Host;
use crate::world::{self, Message, Mta, SMTP, World};
use crate::{Done, ensure, run, sandbox};

/// Maximum time without any progress of the queue.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a message again and again until the mail server accepts it, as any mail server would; a refusal is
/// a failure. Returns the queue id.
pub fn send_until_taken<M: Mta>(recipient: &str, message: &Message) -> Done<String> {
    try_until_taken::<M>(recipient, message, Err).map(|(queue_id, _)| queue_id)
}

/// For a mail server whose processes may die. Counts the connections lost because of that, and how often
/// the message was not accepted.
pub fn send_over_losses<M: Mta>(
    recipient: &str,
    message: &Message,
    (lost, not_taken): (&AtomicUsize, &AtomicUsize),
) -> Done<String> {
    let (queue_id, before) = try_until_taken::<M>(recipient, message, |why| {
        // The error of a command that fails only if something is wrong, such as DATA.
        ensure!(!why.to_string().contains(": 5"), "{recipient}: {why}");
        lost.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })?;
    not_taken.fetch_add(before, Ordering::Relaxed);
    Ok(queue_id)
}

/// The queue id, and how often the message was not accepted before.
fn try_until_taken<M: Mta>(
    recipient: &str,
    message: &Message,
    failed: impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Done,
) -> Done<(String, usize)> {
    for attempt in 0..1200 {
        // A new envelope sender each time: smtpd keeps a failure for a pair of sender and recipient for its
        // whole lifetime.
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
    Err(format!("{recipient}: deferred too often").into())
}

/// Waits until all these messages have left the queue, and demands that none bounced. Returns the number of
/// deferred attempts.
pub fn all_delivered(world: &World, since: Mark, queue_ids: &[String]) -> Done<usize> {
    let mut waiting: BTreeSet<&str> = queue_ids.iter().map(String::as_str).collect();
    let (mut since, mut put_off) = (since, 0);
    let (mut progress, mut reloaded) = (Instant::now(), false);
    loop {
        // The next search starts here; lines that arrive meanwhile may be seen twice.
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
            progress.elapsed() < STALL_TIMEOUT,
            "{left} messages stay in the queue: {waiting:?}"
        );
        // If the queue manager comes to a message before the delivery agent has released it, it logs
        // `skipped, still being delivered` and drops the message until it is restarted. With queue runs
        // each second that happens.
        if progress.elapsed() > STALL_TIMEOUT / 3 && !reloaded {
            run(sandbox::command("postfix").arg("reload"))?;
            reloaded = true;
        }
        since = next;
        thread::sleep(Duration::from_millis(200));
    }
}

/// Adds the messages in a user's INBOX on this host to the copies of each message. Returns whether there is
/// an INBOX.
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
