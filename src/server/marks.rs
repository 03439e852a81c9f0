//! Keeps how many names the lists of this host have, for the next daemon.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

use super::answerer::Answerer;

/// How often the lists are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Keeps them until the task is aborted, on threads that may block, one at a time.
pub async fn keep(answerer: Arc<Answerer>) {
    let mut before = Ok(());
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
        sleep(INTERVAL).await;
    }
}
