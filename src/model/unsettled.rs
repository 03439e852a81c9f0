//! Mailboxes whose mail is deferred for long or is in danger: reserved or moving for too long, or
//! claimed by two backends in turn. No I/O: names, records and time are passed in.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::name::MailboxName;
use crate::model::record::State;

/// Maximum number of names kept of each kind.
const MAX_KEPT: usize = 10_000;

/// Time after which a reserved or moving mailbox is stuck. XFER of the largest mailboxes takes
/// minutes.
pub const LONG: Duration = Duration::from_secs(600);

/// Time within which a return to the previous location is a claim in turn and not a move.
const FLIP: Duration = Duration::from_secs(86_400);

/// A mailbox that is reserved or moving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Mailbox name.
    pub name: MailboxName,
    /// [`State::Reserved`] or [`State::Moving`].
    pub state: State,
    /// Server of the record.
    pub server: Option<String>,
    /// Time at which it was first seen in this state.
    pub since: Duration,
}

/// Mailboxes that successive walks have found reserved or moving.
#[derive(Debug, Default)]
pub struct Lingering {
    waiting: HashMap<MailboxName, Stuck>,
}

impl Lingering {
    /// Replaces the mailboxes by those that a complete walk found at `now`. The others have left the
    /// state.
    pub fn look(
        &mut self,
        found: impl IntoIterator<Item = (MailboxName, State, Option<String>)>,
        now: Duration,
    ) {
        let before = std::mem::take(&mut self.waiting);
        for (name, state, server) in found.into_iter().take(MAX_KEPT) {
            let since = before.get(&name).map_or(now, |before| before.since);
            self.waiting.insert(name.clone(), Stuck { name, state, server, since });
        }
    }

    /// Returns the mailboxes that have been reserved or moving for `at_least`, the longest first.
    pub fn longer_than(&self, at_least: Duration, now: Duration) -> Vec<Stuck> {
        let long = |waiting: &&Stuck| now.saturating_sub(waiting.since) >= at_least;
        let mut all: Vec<Stuck> = self.waiting.values().filter(long).cloned().collect();
        all.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
        all
    }
}

/// A mailbox that two backends claim in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// Mailbox name.
    pub name: MailboxName,
    /// Both backends.
    pub servers: [String; 2],
    /// Number of returns to the previous location.
    pub times: u32,
    /// Time of the last return.
    pub last: Duration,
}

/// Watches the locations in a stream.
#[derive(Debug, Default)]
pub struct Flips {
    /// Previous location of each mailbox and the time of its last change.
    changes: HashMap<MailboxName, (String, Duration)>,
    flips: HashMap<MailboxName, Flip>,
}

impl Flips {
    /// Records that a mailbox was active on `before` and is now on `server`. A move passes through
    /// RESERVE and is not recorded here.
    pub fn changed(&mut self, name: &MailboxName, before: &str, server: &str, now: Duration) {
        if before == server {
            return;
        }
        if self.changes.len() >= MAX_KEPT {
            self.changes.retain(|_, (_, at)| now.saturating_sub(*at) < FLIP);
        }
        if self.changes.len() >= MAX_KEPT {
            return;
        }
        let earlier = self.changes.insert(name.clone(), (before.to_owned(), now));
        let Some((earlier, at)) = earlier else { return };
        if earlier != server || now.saturating_sub(at) >= FLIP {
            return;
        }
        let new = || Flip {
            name: name.clone(),
            servers: [before.to_owned(), server.to_owned()],
            times: 0,
            last: now,
        };
        let flip = self.flips.entry(name.clone()).or_insert_with(new);
        flip.times += 1;
        flip.last = now;
    }

    /// Discards the history of a mailbox that is deleted, reserved or moving.
    pub fn forget(&mut self, name: &MailboxName) {
        self.changes.remove(name);
        self.flips.remove(name);
    }

    /// Returns the flips of the last day, by name.
    pub fn all(&self, now: Duration) -> Vec<Flip> {
        let recent = |flip: &&Flip| now.saturating_sub(flip.last) < FLIP;
        let mut all: Vec<Flip> = self.flips.values().filter(recent).cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> MailboxName {
        MailboxName::new(text).unwrap()
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[test]
    fn mailbox_that_stays_reserved_is_reported_with_its_age() {
        let mut lingering = Lingering::default();
        let one = |user: &str| (name(user), State::Reserved, Some("be1".to_owned()));
        lingering.look([one("user.a"), one("user.b")], minutes(0));
        lingering.look([one("user.a"), one("user.c")], minutes(8));
        assert_eq!(lingering.longer_than(LONG, minutes(9)), []);
        lingering.look([one("user.a"), one("user.b"), one("user.c")], minutes(12));
        let long = lingering.longer_than(LONG, minutes(12));
        assert_eq!(long.len(), 1);
        assert_eq!((&long[0].name, long[0].since), (&name("user.a"), minutes(0)));
        lingering.look([], minutes(13));
        assert_eq!(lingering.longer_than(Duration::ZERO, minutes(14)), []);
    }

    #[test]
    fn location_that_goes_back_without_a_move_is_a_flip() {
        let (mut flips, a) = (Flips::default(), name("user.a"));
        flips.changed(&a, "be1", "be2", minutes(0));
        assert_eq!(flips.all(minutes(0)), []);
        flips.changed(&a, "be2", "be1", minutes(5));
        flips.changed(&a, "be1", "be2", minutes(6));
        let all = flips.all(minutes(6));
        assert_eq!((all.len(), all[0].times, &all[0].name), (1, 2, &a));
        assert_eq!(all[0].servers, ["be2".to_owned(), "be1".to_owned()]);
        assert_eq!(flips.all(minutes(6) + FLIP), []);
        // To a third backend, and back a day later.
        let b = name("user.b");
        flips.changed(&b, "be1", "be2", minutes(0));
        flips.changed(&b, "be2", "be3", minutes(1));
        flips.changed(&b, "be3", "be2", minutes(1) + FLIP);
        // Moved there and back.
        let c = name("user.c");
        flips.changed(&c, "be1", "be2", minutes(0));
        flips.forget(&c);
        flips.changed(&c, "be2", "be1", minutes(1));
        assert_eq!(flips.all(minutes(7)).len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut flips, mut lingering) = (Flips::default(), Lingering::default());
        for n in 0..2 * MAX_KEPT {
            flips.changed(&name(&format!("user.u{n}")), "be1", "be2", minutes(0));
        }
        let all = (0..2 * MAX_KEPT).map(|n| (name(&format!("user.u{n}")), State::Moving, None));
        lingering.look(all, minutes(0));
        assert_eq!((flips.changes.len(), lingering.waiting.len()), (MAX_KEPT, MAX_KEPT));
    }
}
