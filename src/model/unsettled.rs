//! Mailboxes whose mail is deferred without an end in sight, or is in danger: reserved or moving for
//! long, or claimed by two backends in turn. Pure: names, records and time come in.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::name::MailboxName;
use crate::model::record::State;

/// Maximum number of names kept of each kind.
const MAX_KEPT: usize = 10_000;

/// A mailbox is reserved or moving for minutes at most: XFER of the largest takes that long.
pub const LONG: Duration = Duration::from_secs(600);

/// A mailbox that is back where it was within this time was claimed in turn, not moved.
const FLIP: Duration = Duration::from_secs(86_400);

/// A mailbox that is reserved or moving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Its name.
    pub name: MailboxName,
    /// [`State::Reserved`] or [`State::Moving`].
    pub state: State,
    /// The server of its record.
    pub server: Option<String>,
    /// When it was first seen so.
    pub since: Duration,
}

/// The mailboxes that one look after the other has found reserved or moving.
#[derive(Debug, Default)]
pub struct Lingering {
    waiting: HashMap<MailboxName, Stuck>,
}

impl Lingering {
    /// What a whole look has found, at `now`. What it has not found is over.
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

    /// Those that have been so for `at_least`, the longest first.
    pub fn longer_than(&self, at_least: Duration, now: Duration) -> Vec<Stuck> {
        let long = |waiting: &&Stuck| now.saturating_sub(waiting.since) >= at_least;
        let mut all: Vec<Stuck> = self.waiting.values().filter(long).cloned().collect();
        all.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
        all
    }
}

/// Names last seen reserved or moving, of a list that does not tell how a name goes.
///
/// A master that restarts removes what is reserved (`ctl_cyrusdb -r`, "removed reserved mailbox"), also
/// the mailbox of a user whose XFER is under way. A frontend's `mailboxes.db` and a FIND then say the
/// same as of a mailbox that was deleted.
#[derive(Debug, Default)]
pub struct Unsettled {
    seen: HashMap<MailboxName, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Duration,
    /// Whether it has been reported that the name vanished.
    reported: bool,
}

/// A name that was reserved or moving and is in no list now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vanished {
    /// How long ago it was last seen.
    pub age: Duration,
    /// Whether this is the first report of it.
    pub is_new: bool,
}

impl Unsettled {
    /// The name is reserved or moving at `now`. Of names seen longer ago than `keep` nothing is kept.
    pub fn saw(&mut self, name: &MailboxName, now: Duration, keep: Duration) {
        if self.seen.len() >= MAX_KEPT {
            self.seen.retain(|_, seen| now.saturating_sub(seen.at) < keep);
        }
        if self.seen.len() < MAX_KEPT || self.seen.contains_key(name) {
            self.seen.insert(name.clone(), Seen { at: now, reported: false });
        }
    }

    /// The name is that of a whole mailbox.
    pub fn settled(&mut self, name: &MailboxName) {
        self.seen.remove(name);
    }

    /// What became of a name that is absent at `now`: `Some` if it was reserved or moving when it was
    /// last seen, within the time `keep`.
    pub fn vanished(
        &mut self,
        name: &MailboxName,
        now: Duration,
        keep: Duration,
    ) -> Option<Vanished> {
        let seen = self.seen.get_mut(name)?;
        let age = now.saturating_sub(seen.at);
        if age >= keep {
            self.seen.remove(name);
            return None;
        }
        let is_new = !std::mem::replace(&mut seen.reported, true);
        Some(Vanished { age, is_new })
    }
}

/// A mailbox that two backends claim in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// Its name.
    pub name: MailboxName,
    /// The backends.
    pub servers: [String; 2],
    /// How often its location went back to where it was.
    pub times: u32,
    /// When it did last.
    pub last: Duration,
}

/// Watches the locations that a stream tells.
#[derive(Debug, Default)]
pub struct Flips {
    /// Where each mailbox was before its last change of place, when that was, and what came of it.
    changes: HashMap<MailboxName, (String, Duration)>,
    flips: HashMap<MailboxName, Flip>,
}

impl Flips {
    /// A mailbox was active on `before`, and is now on `server`. A move passes through RESERVE, and is
    /// none of these.
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

    /// The mailbox is deleted, reserved or moving: what was before does not count.
    pub fn forget(&mut self, name: &MailboxName) {
        self.changes.remove(name);
        self.flips.remove(name);
    }

    /// Those of the last day, by name.
    pub fn all(&self, now: Duration) -> Vec<Flip> {
        let lately = |flip: &&Flip| now.saturating_sub(flip.last) < FLIP;
        let mut all: Vec<Flip> = self.flips.values().filter(lately).cloned().collect();
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
    fn reserved_name_that_vanishes_is_remembered_for_a_while() {
        let (mut unsettled, keep) = (Unsettled::default(), minutes(10));
        let name = |name: &str| MailboxName::new(name).unwrap();
        unsettled.saw(&name("user.a"), minutes(0), keep);
        assert_eq!(unsettled.vanished(&name("user.b"), minutes(1), keep), None);
        let new = Vanished { age: minutes(1), is_new: true };
        assert_eq!(unsettled.vanished(&name("user.a"), minutes(1), keep), Some(new));
        let again = Vanished { age: minutes(9), is_new: false };
        assert_eq!(unsettled.vanished(&name("user.a"), minutes(9), keep), Some(again));
        assert_eq!(unsettled.vanished(&name("user.a"), minutes(10), keep), None);

        unsettled.saw(&name("user.a"), minutes(20), keep);
        unsettled.settled(&name("user.a"));
        assert_eq!(unsettled.vanished(&name("user.a"), minutes(21), keep), None);
    }

    #[test]
    fn names_last_seen_reserved_are_bounded_and_make_room() {
        let (mut unsettled, keep) = (Unsettled::default(), minutes(10));
        for n in 0..=MAX_KEPT {
            unsettled.saw(&MailboxName::new(format!("user.u{n}")).unwrap(), minutes(0), keep);
        }
        assert_eq!(unsettled.seen.len(), MAX_KEPT);
        let late = MailboxName::new("user.late").unwrap();
        unsettled.saw(&late, minutes(10), keep);
        assert!(unsettled.vanished(&late, minutes(11), keep).is_some());
    }

    #[test]
    fn mailbox_that_stays_reserved_is_told_with_its_age() {
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
        // To a third, and a day later.
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
