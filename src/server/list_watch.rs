//! Periodic work on the lists: saves the number of names in the lists of this host for the loss guard of
//! the next daemon, and finds mailboxes that stay reserved or moving.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

use super::answerer::Answerer;
use crate::lists::combined::{Lists, Source};
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::shown::Shown;
use crate::model::unsettled::LONG;

/// Interval of saving the number of names.
const INTERVAL: Duration = Duration::from_secs(5);

/// Minimum interval between two walks over all names. A walk takes at most one two-hundredth of the time.
const WALK_INTERVAL: Duration = Duration::from_secs(30);

/// Interval of log messages about lingering mailboxes.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// Maximum number of reserved or moving names that one walk keeps: names missing after a great loss look
/// like them.
const MAX_FOUND: usize = 100_000;

/// Maximum number of mailboxes in one log line.
const MAX_LOGGED: usize = 10;

/// Runs until the task is aborted, on threads that may block, one at a time.
pub async fn run(answerer: Arc<Answerer>) {
    let mut before = Ok(());
    let (mut walk_at, mut logged) = (Instant::now(), None::<Instant>);
    loop {
        let resolver = answerer.resolver();
        let keep = move || resolver.lists.files().try_for_each(|list| list.keep_mark());
        // The panic hook has logged a panic.
        if let Ok(kept) = spawn_blocking(keep).await {
            if let Err(why) = &kept
                && kept != before
            {
                warn!("{why}");
            }
            before = kept;
        }
        if Instant::now() >= walk_at {
            let (began, walker) = (Instant::now(), Arc::clone(&answerer));
            let _ = spawn_blocking(move || walk(&walker)).await;
            walk_at = Instant::now() + WALK_INTERVAL.max(began.elapsed() * 200);
            let is_due = logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
            if is_due && log_lingering(&answerer, &answerer.resolver().lists) {
                logged = Some(Instant::now());
            }
        }
        sleep(INTERVAL).await;
    }
}

fn walk(answerer: &Answerer) {
    let lists = &answerer.resolver().lists;
    if lists.sources().is_empty() {
        return;
    }
    let mut found = Vec::new();
    let walked = lists.each(b"", &mut |name, record| {
        if record.state.is_transient() && found.len() < MAX_FOUND {
            found.push((name.clone(), record.state, record.server.clone()));
        }
        ControlFlow::Continue(())
    });
    // A walk reports missing names as reserved.
    found.retain(|(name, ..)| !matches!(lists.lookup(name), Lookup::Unsure(_)));
    // An incomplete walk does not tell which mailboxes are settled.
    if walked.is_ok() {
        answerer.found_waiting(found);
    }
}

/// Logs the mailboxes that stay reserved or moving, or that two backends claim. Returns whether there are
/// any.
fn log_lingering(answerer: &Answerer, lists: &Lists) -> bool {
    let long = answerer.waiting(LONG);
    if !long.is_empty() {
        let named = long.iter().take(MAX_LOGGED).map(|(waiting, age)| {
            let server = Shown(waiting.server.as_deref().unwrap_or("an unknown server"));
            let minutes = age.as_secs() / 60;
            format!("{} ({} on {server} for {minutes} min)", waiting.name, waiting.state.as_str())
        });
        warn!(
            "{} mailboxes stay reserved or moving: {}; their mail is deferred; if a mailbox is complete on \
             its backend, run there: ctl_mboxlist -m",
            long.len(),
            named.collect::<Vec<_>>().join(", ")
        );
    }
    let mut flipping = Vec::new();
    for source in lists.sources() {
        if let Source::Replica(replica) = source {
            flipping
                .extend(replica.trust.status().map(|status| status.flipping).unwrap_or_default());
        }
    }
    if !flipping.is_empty() {
        let named = flipping.iter().take(MAX_LOGGED).map(|flip| {
            let [one, other] = flip.servers.each_ref().map(|server| Shown(server));
            format!("{} ({one} and {other})", flip.name)
        });
        warn!(
            "two backends claim the same mailbox in turn: {}; mail alternates between them, and \
             ctl_mboxlist -m deletes one of the two with its mail; compare both before you run it",
            named.collect::<Vec<_>>().join(", ")
        );
    }
    !(long.is_empty() && flipping.is_empty())
}
