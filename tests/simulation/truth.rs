//! The history of each mailbox, as its owner and as the master's list have it. Answers are
//! checked against it.
//!
//! A mailbox *exists* from the time when the master receives its RESERVE to the time when the
//! master receives its DELETE (deletion or rename), in any state between: reserved, moving. It
//! continues to exist
//!
//! * during a gap of at most [`GAP`], if it existed for [`SETTLED`] before: renamed away and
//!   back, deleted and created again by `ctl_mboxlist -m`;
//! * after a master loses it, if the replica had it, until that loss is accepted or has lasted
//!   for the time that confirms it; if another master lacks it, until that is accepted. See
//!   `World::lose`.
//! * after a master loses it together with so much of its list that the loss cannot be
//!   intended, until the same time, whether or not it had reached the replica.

use std::time::Duration;

use crate::master::Entry;

/// Maximum length of a gap that is not noticed. A miss is confirmed by two FINDs, a second
/// apart.
pub(crate) const GAP: Duration = Duration::from_millis(900);

/// Time after which a mailbox is in every fresh replica.
pub(crate) const SETTLED: Duration = Duration::from_secs(13);

type Past = Vec<(Duration, Option<Entry>)>;

/// History of one name.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// Entries of the master's list.
    listed: Past,
    /// Entries as its owner sees them.
    there: Past,
}

fn note(past: &mut Past, now: Duration, entry: Option<Entry>) {
    if past.last().map_or(entry.is_some(), |(_, last)| *last != entry) {
        past.push((now, entry));
    }
}

/// The intervals of a history: start, end, entry.
fn stretches(past: &Past) -> impl Iterator<Item = (Duration, Duration, Option<Entry>)> {
    let first = past.first().map_or(Duration::MAX, |(from, _)| *from);
    let ends = past.iter().skip(1).map(|(from, _)| *from).chain([Duration::MAX]);
    let known = past.iter().zip(ends).map(|((from, entry), to)| (*from, to, *entry));
    std::iter::once((Duration::ZERO, first, None)).chain(known)
}

impl Truth {
    /// Records the entry of the master's list.
    pub(crate) fn lists(&mut self, now: Duration, entry: Option<Entry>) {
        note(&mut self.listed, now, entry);
    }

    /// Records the owner's entry.
    pub(crate) fn is(&mut self, now: Duration, entry: Option<Entry>) {
        note(&mut self.there, now, entry);
    }

    /// Whether the mailbox was absent at any time in this interval.
    pub(crate) fn was_absent(&self, from: Duration, to: Duration) -> bool {
        let mut settled = Duration::ZERO;
        for (began, ended, entry) in stretches(&self.there) {
            let lasted = ended - began;
            if entry.is_some() {
                settled += lasted.min(SETTLED);
                continue;
            }
            let unseen = settled >= SETTLED && lasted <= GAP;
            if began <= to && from <= ended && !unseen {
                return true;
            }
            settled = Duration::ZERO;
        }
        false
    }

    /// The owner's record, if it was active and unchanged in this interval.
    pub(crate) fn unchanged(&self, from: Duration, to: Duration) -> Option<Entry> {
        let (_, _, entry) =
            stretches(&self.there).find(|(began, ended, _)| *began < from && to < *ended)?;
        entry.filter(|entry| entry.active)
    }

    /// The record of the master's list, if it was unchanged in this interval.
    pub(crate) fn listed_unchanged(&self, from: Duration, to: Duration) -> Option<Entry> {
        let stretch = |(began, ended, _): &(Duration, Duration, _)| *began < from && to <= *ended;
        stretches(&self.listed).find(stretch)?.2
    }

    /// Whether the master's list had the mailbox on this server at any time in this interval.
    pub(crate) fn was_on(&self, server: &str, from: Duration, to: Duration) -> bool {
        stretches(&self.listed).any(|(began, ended, entry)| {
            began <= to
                && from <= ended
                && entry.is_some_and(|entry| {
                    entry.active && crate::schedule::SERVERS[entry.server] == server
                })
        })
    }
}
