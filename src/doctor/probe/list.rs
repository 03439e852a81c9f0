//! Reads the mailbox list, and what the master has instead.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::doctor::judge::Finding;
use crate::doctor::judge::comparison::{Comparison, Difference, Differing, difference, findings};
use crate::lists::combined::Lists;
use crate::master::Visit;
use crate::master::client::Master;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::mupdate::{FailureKind, Finding as Found};

const CHECK: &str = "list/comparison";

/// A change is told to a slave with the master's next tick, 5 s later at most.
const TICK: Duration = Duration::from_secs(6);

/// Our list, as far as it can be read.
pub(super) fn read(lists: &Lists) -> Result<Comparison, String> {
    let mut here = Comparison::default();
    lists.each(b"", &mut |name, record| {
        here.here(name, record);
        ControlFlow::Continue(())
    })?;
    Ok(here)
}

/// Compares; what differs is asked for once more, and after a tick of the master again.
pub(super) async fn compare(lists: &Lists, mut here: Comparison, visit: &Visit) -> Vec<Finding> {
    let place = lists.to_string();
    let (names, only_own) = (here.names(), here.is_a_backends());
    let read = visit
        .list(&mut |name: MailboxName, record: Record| {
            // On a backend the others' mailboxes are not expected.
            if !only_own || here.has(&name) {
                here.there(name, &record);
            }
        })
        .await;
    if let Err(failure) = read {
        let why = format!("the master does not tell its list: {failure}");
        return vec![match failure.kind() {
            // That has been told of, as what it is.
            FailureKind::Login | FailureKind::Config => Finding::skipped(CHECK, place, why),
            FailureKind::Tls | FailureKind::Network | FailureKind::Protocol => {
                Finding::untested(CHECK, place, why)
            }
        }];
    }
    let Differing { names: mut differ, more } = here.differing();
    let mut differences = Vec::new();
    for pause in [Duration::ZERO, TICK] {
        if differ.is_empty() {
            break;
        }
        tokio::time::sleep(pause).await;
        differences = match again(lists, &differ, visit).await {
            Ok(differences) => differences,
            Err(why) => {
                let what = format!("names differ, and the master cannot be asked for them: {why}");
                return vec![Finding::untested(CHECK, place, what)];
            }
        };
        differ = differences.iter().map(|(name, _)| name.clone()).collect();
    }
    findings(&place, &differences, more, names)
}

/// Those of the names that differ now.
async fn again(
    lists: &Lists,
    names: &[MailboxName],
    master: &dyn Master,
) -> Result<Vec<(MailboxName, Difference)>, String> {
    let mut differences = Vec::new();
    for name in names {
        let there = match master.find(name).await {
            Ok(Found::Found(record)) => Some(record),
            Ok(Found::Absent) => None,
            Ok(Found::Unsure(why)) => return Err(why),
            Err(impossible) => return Err(impossible.to_string()),
        };
        let here = match lists.lookup(name) {
            Lookup::Present(record) => Some(record),
            // A list in doubt said when it was walked what it has.
            Lookup::Absent | Lookup::Unsure(_) | Lookup::Busy => None,
        };
        if let Some(kind) = difference(here.as_ref(), there.as_ref()) {
            differences.push((name.clone(), kind));
        }
    }
    Ok(differences)
}
