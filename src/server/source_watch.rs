//! Checks the sources every few seconds, so that an unreadable list is logged before a mail server asks for
//! a recipient in it.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::answerer::Answerer;
use super::notify;
use crate::lists::Inspection;
use crate::lists::combined::{Lists, Source};

/// Interval of the checks.
const INTERVAL: Duration = Duration::from_secs(3);

/// Duration of a check after which the disk counts as unresponsive.
const SLOW_CHECK: Duration = Duration::from_secs(30);

/// Status text for systemd while all sources are readable.
#[derive(Debug, Default)]
pub struct HealthyText(Mutex<String>);

impl HealthyText {
    /// Sets the text.
    pub fn set(&self, text: &str) {
        text.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A problem of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SourceProblem {
    source: String,
    /// Whether nothing can be read from it.
    is_unreadable: bool,
    why: String,
}

/// Checks the sources until the task is aborted, on threads that may block, one at a time. Each change is
/// logged once, and shown by systemd.
pub async fn watch(answerer: Arc<Answerer>, healthy: Arc<HealthyText>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Vec::new();
    loop {
        ticks.tick().await;
        let resolver = answerer.resolver();
        let before = known.clone();
        let mut check = tokio::task::spawn_blocking(move || problems(&resolver.lists, &before));
        let checked = match tokio::time::timeout(SLOW_CHECK, &mut check).await {
            Ok(checked) => checked,
            Err(_) => {
                let text = format!(
                    "mailbox list not read within {SLOW_CHECK:?}: the disk does not respond; recipients \
                     are deferred"
                );
                warn!("{text}");
                notify::status(&text);
                check.await
            }
        };
        // The panic hook logs a panic.
        let Ok(now) = checked else { continue };
        log_changes(&known, &now);
        match now.first() {
            // Again each time: a reload may have overwritten it.
            Some(first) => notify::status(&first.why),
            None if !known.is_empty() => notify::status(&healthy.get()),
            None => {}
        }
        known = now;
    }
}

/// Current problems of the sources. A locked list keeps its former problem.
fn problems(lists: &Lists, before: &[SourceProblem]) -> Vec<SourceProblem> {
    let check = |source: &Source| {
        let (name, is_unreadable, why) = match source {
            Source::File(list) => {
                let name = list.path().display().to_string();
                match list.inspect() {
                    Inspection::Well => return None,
                    Inspection::Locked => {
                        return before.iter().find(|problem| problem.source == name).cloned();
                    }
                    Inspection::Doubted(why) => (name, false, why),
                    Inspection::Unreadable(why) => (name, true, why),
                }
            }
            Source::Replica(replica) => {
                // The MUPDATE client logs a replica that was never synchronised or is stale.
                replica.trust.hits().ok()?;
                let stop = &mut |_: &_, _: &_| ControlFlow::Break(());
                ("the replica".to_owned(), true, replica.list.each(b"", stop).err()?)
            }
        };
        Some(SourceProblem { source: name, is_unreadable, why: why.to_string() })
    };
    lists.sources().iter().filter_map(check).collect()
}

/// Logs new and solved problems.
fn log_changes(known: &[SourceProblem], now: &[SourceProblem]) {
    let is_known = |problem: &&SourceProblem| {
        let same = |known: &SourceProblem| {
            (&known.source, known.is_unreadable) == (&problem.source, problem.is_unreadable)
        };
        !known.iter().any(same)
    };
    for SourceProblem { why, is_unreadable, .. } in now.iter().filter(is_known) {
        match is_unreadable {
            true => warn!(
                "{why}; recipients are deferred until it can be read; check that it exists, its owner \
                 and its mode"
            ),
            false => warn!("{why}; recipients not found in it are deferred"),
        }
    }
    for SourceProblem { source, .. } in known {
        if !now.iter().any(|problem| problem.source == *source) {
            info!("{source}: readable again");
        }
    }
}
