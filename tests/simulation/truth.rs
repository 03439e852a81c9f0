//! What the people of the murder see of their mailboxes, and what the master had of them, with all
//! of the past: what answers are judged by.
//!
//! A mailbox *exists* from the moment the master hears of it (RESERVE) to the moment he hears that it
//! is deleted or has another name now (DELETE), whatever he says meanwhile: reserved, moving. It goes
//! on existing
//!
//! * while it is gone for no more than [`GAP`], if it was there for [`SETTLED`] before: renamed away
//!   and back, taken out and put in again by `ctl_mboxlist -m`;
//! * when a master loses it, if the replica had it, until that loss is accepted or has lasted for as
//!   long as confirms it; if another master lacks it, until that is accepted. See `World::lose`.
//! * when a master loses it with so much of its list at once that this cannot be meant, likewise, if
//!   the replica had heard of it or not.

use std::time::Duration;

use crate::master::Entry;

/// So short a gap is not seen. Who misses a name asks twice, a second apart.
pub(crate) const GAP: Duration = Duration::from_millis(900);

/// A mailbox that was there for so long is in every replica that is fresh.
pub(crate) const SETTLED: Duration = Duration::from_secs(13);

type Past = Vec<(Duration, Option<Entry>)>;

/// Of one name.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// What the master's list had.
    listed: Past,
    /// What its owner had.
    there: Past,
}

fn note(past: &mut Past, now: Duration, entry: Option<Entry>) {
    if past.last().map_or(entry.is_some(), |(_, last)| *last != entry) {
        past.push((now, entry));
    }
}

/// The stretches of a past: from, to, what.
fn stretches(past: &Past) -> impl Iterator<Item = (Duration, Duration, Option<Entry>)> {
    let first = past.first().map_or(Duration::MAX, |(from, _)| *from);
    let ends = past.iter().skip(1).map(|(from, _)| *from).chain([Duration::MAX]);
    let known = past.iter().zip(ends).map(|((from, entry), to)| (*from, to, *entry));
    std::iter::once((Duration::ZERO, first, None)).chain(known)
}

impl Truth {
    /// The master's list says this of it now.
    pub(crate) fn lists(&mut self, now: Duration, entry: Option<Entry>) {
        note(&mut self.listed, now, entry);
    }

    /// Its owner has this now.
    pub(crate) fn is(&mut self, now: Duration, entry: Option<Entry>) {
        note(&mut self.there, now, entry);
    }

    /// Whether there was a moment, from one time to another, at which it did not exist.
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

    /// The record that its owner had without any change from one time to another, if it is an active
    /// one.
    pub(crate) fn unchanged(&self, from: Duration, to: Duration) -> Option<Entry> {
        let (_, _, entry) =
            stretches(&self.there).find(|(began, ended, _)| *began < from && to < *ended)?;
        entry.filter(|entry| entry.active)
    }

    /// The record that the master's list had without any change from one time to another.
    pub(crate) fn listed_unchanged(&self, from: Duration, to: Duration) -> Option<Entry> {
        let stretch = |(began, ended, _): &(Duration, Duration, _)| *began < from && to <= *ended;
        stretches(&self.listed).find(stretch)?.2
    }

    /// Whether the master's list had it on this server at some moment from one time to another.
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
