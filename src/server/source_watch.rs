//! Looks at the sources every few seconds, so that a list that cannot be read is told of before a mail
//! server asks for a recipient in it.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::answerer::Answerer;
use super::notify;
use crate::lists::Inspection;
use crate::lists::combined::{Lists, Source};

/// How often the sources are looked at.
const INTERVAL: Duration = Duration::from_secs(3);

/// A look that takes longer is told of: the disk does not answer.
const SLOW: Duration = Duration::from_secs(30);

/// What systemd shows of the daemon while its sources are well.
#[derive(Debug, Default)]
pub struct SourceReport(Mutex<String>);

impl SourceReport {
    /// Takes this text for it.
    pub fn is(&self, text: &str) {
        text.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is wrong with a source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    source: String,
    /// Nothing can be read of it.
    is_unreadable: bool,
    why: String,
}

/// Looks at the sources until the task is aborted. The looks run on threads that may block, one at a
/// time. A change is logged once, and shown by systemd.
pub async fn watch(answerer: Arc<Answerer>, standing: Arc<SourceReport>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Vec::new();
    loop {
        ticks.tick().await;
        let resolver = answerer.resolver();
        let before = known.clone();
        let mut look = tokio::task::spawn_blocking(move || look_at(&resolver.lists, &before));
        let looked = match tokio::time::timeout(SLOW, &mut look).await {
            Ok(looked) => looked,
            Err(_) => {
                let text = format!(
                    "the mailbox list has not been read within {SLOW:?}: the disk does not answer; \
                     recipients are deferred"
                );
                warn!("{text}");
                notify::status(&text);
                look.await
            }
        };
        // A panic in it is logged by the hook.
        let Ok(now) = looked else { continue };
        tell(&known, &now);
        match now.first() {
            // Also what a reload has just written over.
            Some(first) => notify::status(&first.why),
            None if !known.is_empty() => notify::status(&standing.text()),
            None => {}
        }
        known = now;
    }
}

/// What is wrong with them now. Where nothing can be told, what was wrong before.
fn look_at(lists: &Lists, before: &[Trouble]) -> Vec<Trouble> {
    let look = |source: &Source| {
        let (name, is_unreadable, why) = match source {
            Source::File(list) => {
                let name = list.path().display().to_string();
                match list.inspect() {
                    Inspection::Well => return None,
                    Inspection::Locked => {
                        return before.iter().find(|trouble| trouble.source == name).cloned();
                    }
                    Inspection::Doubted(why) => (name, false, why),
                    Inspection::Unreadable(why) => (name, true, why),
                }
            }
            Source::Replica(replica) => {
                // One that was never synchronised, or is stale, is told of by who follows the master.
                replica.trust.hits().ok()?;
                let stop = &mut |_: &_, _: &_| ControlFlow::Break(());
                ("the replica".to_owned(), true, replica.list.each(b"", stop).err()?)
            }
        };
        Some(Trouble { source: name, is_unreadable, why })
    };
    lists.sources().iter().filter_map(look).collect()
}

/// Logs what has changed.
fn tell(known: &[Trouble], now: &[Trouble]) {
    let is_known = |trouble: &&Trouble| {
        let same = |known: &Trouble| {
            (&known.source, known.is_unreadable) == (&trouble.source, trouble.is_unreadable)
        };
        !known.iter().any(same)
    };
    for Trouble { why, is_unreadable, .. } in now.iter().filter(is_known) {
        match is_unreadable {
            true => warn!(
                "{why}; recipients are deferred until it can be read: check that it is there, its \
                 owner and its mode"
            ),
            false => warn!("{why}; recipients that are not found in it are deferred"),
        }
    }
    for Trouble { source, .. } in known {
        if !now.iter().any(|trouble| trouble.source == *source) {
            info!("{source}: can be read again");
        }
    }
}
