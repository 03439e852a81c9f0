//! Reads the mailbox list, and compares it with the master's.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::doctor::judge::Finding;
use crate::doctor::judge::comparison::{Comparison, Difference, Differing, difference, findings};
use crate::lists::combined::Lists;
use crate::master::Visit;
use crate::master::client::Master;
use crate::model::doubt::Doubt;
use crate::model::list::{Lookup, MailboxList as _};
use crate::model::name::MailboxName;
use crate::model::record::Record;
use crate::mupdate::{FailureKind, Finding as Found};

const CHECK: &str = "list/comparison";

/// Time until a change reaches slaves: the master reports it with its next tick, at most 5 s later.
const TICK: Duration = Duration::from_secs(6);

/// Reads the list of this host.
pub(super) fn read(lists: &Lists) -> Result<Comparison, Doubt> {
    let mut here = Comparison::default();
    lists.each(b"", &mut |name, record| {
        here.here(name, record);
        ControlFlow::Continue(())
    })?;
    Ok(here)
}

/// Compares the lists. Differing names are checked again at once, and after a tick of the master.
pub(super) async fn compare(lists: &Lists, mut here: Comparison, visit: &Visit) -> Vec<Finding> {
    let place = lists.to_string();
    let (names, only_own) = (here.names(), here.is_a_backends());
    let read = visit
        .list(&mut |name: MailboxName, record: Record| {
            // On a backend the mailboxes of other backends are not expected.
            if !only_own || here.has(&name) {
                here.there(name, &record);
            }
        })
        .await;
    if let Err(failure) = read {
        let why = format!("cannot read the master's list: {failure}");
        return vec![match failure.kind() {
            // Reported elsewhere, with its cause.
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
                let what = format!("names differ, and the master cannot be asked again: {why}");
                return vec![Finding::untested(CHECK, place, what)];
            }
        };
        differ = differences.iter().map(|(name, _)| name.clone()).collect();
    }
    findings(&place, &differences, more, names)
}

/// The names that still differ.
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
            Ok(Found::Unsure(doubt)) => return Err(doubt.to_string()),
            Err(impossible) => return Err(impossible.to_string()),
        };
        let here = match lists.lookup(name) {
            Lookup::Present(record) => Some(record),
            // A doubtful list was reported when it was read.
            Lookup::Absent | Lookup::Unsure(_) | Lookup::Busy => None,
        };
        if let Some(kind) = difference(here.as_ref(), there.as_ref()) {
            differences.push((name.clone(), kind));
        }
    }
    Ok(differences)
}
