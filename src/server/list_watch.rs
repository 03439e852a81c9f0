//! Looks over the lists now and then: keeps how many names those of this host have, for the next
//! daemon, and finds the mailboxes that stay reserved or moving.

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

/// How often the lists are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// How often all names are walked over, unless that takes more than a two-hundredth of it.
const WALK_INTERVAL: Duration = Duration::from_secs(30);

/// How often it is logged what stays reserved.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// Maximum number of reserved or moving names that one walk keeps: those that are missing after a great
/// loss look like them.
const MAX_FOUND: usize = 100_000;

/// Maximum number of mailboxes in one line of the log.
const MAX_LOGGED: usize = 10;

/// Looks until the task is aborted, on threads that may block, one at a time.
pub async fn keep(answerer: Arc<Answerer>) {
    let mut before = Ok(());
    let (mut walk_at, mut logged) = (Instant::now(), None::<Instant>);
    loop {
        let resolver = answerer.resolver();
        let keep = move || resolver.lists.files().try_for_each(|list| list.keep_mark());
        // A panic has been reported by its hook.
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
            if is_due && tell(&answerer, &answerer.resolver().lists) {
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
    // A walk shows missing names as reserved ones.
    found.retain(|(name, ..)| !matches!(lists.lookup(name), Lookup::Unsure(_)));
    // Half a walk says nothing of what is over.
    if walked.is_ok() {
        answerer.found_waiting(found);
    }
}

/// Logs which mailboxes stay reserved or moving, or are claimed by two backends. Whether there are any.
fn tell(answerer: &Answerer, lists: &Lists) -> bool {
    let long = answerer.waiting(LONG);
    if !long.is_empty() {
        let named = long.iter().take(MAX_LOGGED).map(|(waiting, age)| {
            let server = Shown(waiting.server.as_deref().unwrap_or("an unknown server"));
            let minutes = age.as_secs() / 60;
            format!("{} ({} on {server} for {minutes} min)", waiting.name, waiting.state.as_str())
        });
        warn!(
            "{} mailboxes stay reserved or moving, and their mail is deferred: {}; if a mailbox is whole on \
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
            "two backends claim the same mailbox in turn: {}; mail goes now to one and now to the other, and \
             ctl_mboxlist -m deletes one of them with its mail: compare both before it runs",
            named.collect::<Vec<_>>().join(", ")
        );
    }
    !(long.is_empty() && flipping.is_empty())
}
