//! What was decided for whom, as long as the list is in the state that it was decided by.
//!
//! A look-up reads an address, makes a name of it, finds the record and reads that. For who comes up again
//! before anything has been committed to the list, all of it would come to the same. Only what is
//! certain to is remembered: that he is delivered to, by a list of which nothing was missing, and for
//! whom the daemon need not be asked. So whatever might refuse somebody, or send his letter elsewhere, is
//! looked up each time.

use std::hash::{BuildHasher as _, RandomState};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::library::{Origin, Told};
use super::prefetch::prefetch;
use crate::lists::mailboxes_db::view::FEW_LOOKUPS;
use crate::model::list::{Lookup, MailboxList, Revision, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::routing::router::Decision;

/// Each is a part of its own, so that threads seldom meet; who does meet another looks up as ever.
const PARTS: usize = 64;

/// A part that has so many recipients, or bytes, is emptied. So some 18 MB are the most, for 200,000
/// recipients and more. A table of hashbrown is full when 7 of 8 places are taken.
const RECIPIENTS: usize = 4096 / 8 * 7;
const BYTES: usize = 256 << 10;

/// What is remembered of a recipient begins at a multiple of this, so that a place takes two bytes: the
/// less there is to look in, the more of it is near the processor.
const UNIT: usize = 4;
const _: () = assert!(BYTES / UNIT <= 1 << u16::BITS);

/// And so is one in which so many servers and partitions have come up.
const ENDS: usize = 1024;

/// Remembers decisions. Any number of threads ask and tell it.
#[derive(Debug)]
pub(super) struct Decided {
    seed: u64,
    /// The first are not remembered: most processes make few, and need no memory for it.
    lookups: AtomicU32,
    parts: OnceLock<Box<[Mutex<Part>]>>,
}

/// The recipients whose hashes begin alike, all of one moment.
#[derive(Debug, Default)]
struct Part {
    moment: Option<Revision>,
    /// Where in `bytes` each of them stands, in [units](UNIT).
    places: HashTable<u16>,
    /// One after the other: lengths of the recipient and of the mailbox's name, a byte each; number in
    /// `ends`, of two bytes; the recipient; the name; what is missing to a whole unit.
    bytes: Vec<u8>,
    /// All else that was told. The mailbox is that of who was told of last.
    ends: Vec<Told>,
    /// Where in `ends` each of them is.
    known_ends: HashTable<u16>,
}

/// From the beginning of what is remembered of a recipient to himself.
const HEAD: usize = 4;

impl Default for Decided {
    fn default() -> Self {
        Self {
            // The standard library's source of chance: strangers choose the recipients.
            seed: RandomState::new().hash_one(()),
            lookups: AtomicU32::new(0),
            parts: OnceLock::new(),
        }
    }
}

impl Decided {
    /// Looks for what may be remembered of a recipient, who is looked up; `None`: nothing is, nor need
    /// be. Nobody else comes to his part before that is told or dropped.
    pub(super) fn ask<'a>(&'a self, recipient: &'a [u8]) -> Option<Asked<'a>> {
        let lookups = self.lookups.load(Relaxed);
        if lookups < FEW_LOOKUPS {
            self.lookups.store(lookups + 1, Relaxed);
            return None;
        }
        let hash = xxh3_64_with_seed(recipient, self.seed);
        let part = self.part(hash)?;
        // What he has lies anywhere in megabytes, and is first needed after a look at the list.
        if let Some(place) = part.places.iter_hash(hash).next() {
            prefetch(part.bytes.get(usize::from(*place) * UNIT..).unwrap_or_default());
        }
        Some(Asked { part, hash, recipient })
    }

    /// The part of who has this hash, unless somebody else is there.
    fn part(&self, hash: u64) -> Option<MutexGuard<'_, Part>> {
        let parts = self.parts.get_or_init(|| (0..PARTS).map(|_| Mutex::default()).collect());
        // The table has the other bits.
        parts.get((hash >> 32) as usize & (PARTS - 1))?.try_lock().ok()
    }

    /// This was told of him when the list was in this state, or a later one.
    pub(super) fn put(&self, recipient: &[u8], moment: Revision, told: &Told) {
        let Told { route, origin: Origin::MailboxesDb | Origin::Replica, .. } = told else {
            return;
        };
        let (Decision::Deliver(_), Some(mailbox)) = (&route.decision, &route.mailbox) else {
            return;
        };
        let hash = xxh3_64_with_seed(recipient, self.seed);
        let Some(mut part) = self.part(hash) else { return };
        if part.moment != Some(moment)
            || part.places.len() >= RECIPIENTS
            || part.bytes.len() >= BYTES
            || part.ends.len() >= ENDS
        {
            part.begin(moment);
        }
        part.put(self.seed, hash, recipient, mailbox, told);
    }
}

/// A recipient of whom something may be remembered.
pub(super) struct Asked<'a> {
    part: MutexGuard<'a, Part>,
    hash: u64,
    recipient: &'a [u8],
}

impl Asked<'_> {
    /// Tells what was told of him when the list was as it is; `false`: nothing was.
    pub(super) fn tell(
        mut self,
        moment: Revision,
        age: Option<Duration>,
        then: &mut dyn FnMut(&Told),
    ) -> bool {
        self.part.told(self.hash, self.recipient, moment, age).map(then).is_some()
    }
}

/// What stands at a place: the recipient, the name of his mailbox, and the number of the rest.
fn at(bytes: &[u8], place: u16) -> Option<(&[u8], &[u8], usize)> {
    let own = bytes.get(usize::from(place) * UNIT..)?;
    let (&[long, name_long, end @ ..], own) = own.split_first_chunk::<HEAD>()?;
    let (recipient, own) = own.split_at_checked(long.into())?;
    let name = own.get(..name_long.into())?;
    Some((recipient, name, u16::from_ne_bytes(end).into()))
}

impl Part {
    /// What is remembered of a recipient, put together in the place of its end.
    fn told(
        &mut self,
        hash: u64,
        recipient: &[u8],
        moment: Revision,
        age: Option<Duration>,
    ) -> Option<&Told> {
        if self.moment != Some(moment) {
            return None;
        }
        let is_his = |place: &u16| at(&self.bytes, *place).is_some_and(|his| his.0 == recipient);
        let (_, mailbox, end) = at(&self.bytes, *self.places.find(hash, is_his)?)?;
        let told = self.ends.get_mut(end)?;
        told.route.mailbox.as_mut()?.set_to(mailbox);
        told.age = age;
        Some(told)
    }

    /// Forgets all that is not of this moment.
    fn begin(&mut self, moment: Revision) {
        self.moment = Some(moment);
        self.places.clear();
        self.bytes.clear();
        self.ends.clear();
        self.known_ends.clear();
    }

    fn put(&mut self, seed: u64, hash: u64, recipient: &[u8], mailbox: &MailboxName, told: &Told) {
        let mailbox = mailbox.as_bytes();
        // The longest are looked up each time.
        let [Ok(long), Ok(name_long)] = [recipient.len(), mailbox.len()].map(u8::try_from) else {
            return;
        };
        let is_his = |place: &u16| at(&self.bytes, *place).is_some_and(|his| his.0 == recipient);
        if self.places.find(hash, is_his).is_some() {
            return;
        }
        let Some(end) = self.end(seed, told) else { return };
        let Ok(place) = u16::try_from(self.bytes.len() / UNIT) else { return };
        let hash_at =
            |place: &u16| at(&self.bytes, *place).map_or(0, |his| xxh3_64_with_seed(his.0, seed));
        // At once for all that there can be: to grow means to look at each of them again.
        self.places.reserve(RECIPIENTS.saturating_sub(self.places.len()), hash_at);
        self.places.insert_unique(hash, place, hash_at);
        self.bytes.extend([long, name_long]);
        self.bytes.extend(end.to_ne_bytes());
        self.bytes.extend_from_slice(recipient);
        self.bytes.extend_from_slice(mailbox);
        self.bytes.resize(self.bytes.len().next_multiple_of(UNIT), 0);
    }

    /// The number of the end that is like this one.
    fn end(&mut self, seed: u64, told: &Told) -> Option<u16> {
        let is_alike = |end: &Told| {
            let (his, known) = (&told.route, &end.route);
            (&his.decision, &his.server, &his.partition, &his.reason, told.origin)
                == (&known.decision, &known.server, &known.partition, &known.reason, end.origin)
        };
        // As good as all: the backend follows from the server.
        let hash_of = |end: &Told| {
            let [server, partition] = [&end.route.server, &end.route.partition]
                .map(|text| text.as_deref().unwrap_or_default().as_bytes());
            xxh3_64_with_seed(server, xxh3_64_with_seed(partition, seed))
        };
        let end_at = |number: &u16| self.ends.get(usize::from(*number));
        let hash = hash_of(told);
        let known = self.known_ends.find(hash, |number| end_at(number).is_some_and(is_alike));
        if let Some(number) = known {
            return Some(*number);
        }
        let number = u16::try_from(self.ends.len()).ok()?;
        let hash_at = |number: &u16| end_at(number).map_or(0, hash_of);
        self.known_ends.insert_unique(hash, number, hash_at);
        self.ends.push(told.clone());
        Some(number)
    }
}

/// A list, and whether all that was asked of it was found there.
pub(super) struct Watched<'a> {
    list: &'a dyn MailboxList,
    only_hits: AtomicBool,
}

impl<'a> Watched<'a> {
    pub(super) fn new(list: &'a dyn MailboxList) -> Self {
        Self { list, only_hits: AtomicBool::new(true) }
    }

    pub(super) fn had_only_hits(&self) -> bool {
        self.only_hits.load(Relaxed)
    }
}

impl MailboxList for Watched<'_> {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lookup_dated(name).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let found = self.list.lookup_dated(name);
        if !matches!(found.0, Lookup::Present(_)) {
            self.only_hits.store(false, Relaxed);
        }
        found
    }

    fn denies(&self, inbox: &MailboxName) -> bool {
        self.list.denies(inbox)
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.list.key_generation()
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), String> {
        self.only_hits.store(false, Relaxed);
        self.list.each(prefix, visit)
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), String> {
        self.only_hits.store(false, Relaxed);
        self.list.each_past(prefix, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::{Backend, Place};
    use crate::routing::router::Route;

    const THEN: Revision = Revision::new(7, 100);

    fn told(mailbox: &str, host: &str) -> Told {
        let place = Place::Inet { host: host.into(), port: 2003 };
        let route = Route {
            decision: Decision::Deliver(Backend { transport: "lmtp".into(), place }),
            mailbox: Some(MailboxName::new(mailbox).unwrap()),
            server: Some(host.into()),
            partition: Some("default".into()),
            reason: "".into(),
        };
        Told { route, origin: Origin::MailboxesDb, age: Some(Duration::ZERO) }
    }

    fn get(decided: &Decided, recipient: &[u8]) -> Option<Told> {
        get_at(decided, recipient, THEN)
    }

    fn get_at(decided: &Decided, recipient: &[u8], moment: Revision) -> Option<Told> {
        let mut told = None;
        let age = Some(Duration::ZERO);
        decided.lookups.store(FEW_LOOKUPS, Relaxed);
        let asked = decided.ask(recipient).unwrap();
        let is_told = asked.tell(moment, age, &mut |his| told = Some(his.clone()));
        assert_eq!(is_told, told.is_some());
        told
    }

    #[test]
    fn nobody_is_told_what_was_told_of_another_or_in_another_state_of_the_list() {
        let decided = Decided::default();
        let number = |user: u32| format!("u{user}@example.org").into_bytes();
        let of = |user: u32| told(&format!("user.u{user}"), &format!("be{}", user % 7));
        (0..20_000).for_each(|user| decided.put(&number(user), THEN, &of(user)));
        for user in 0..20_000 {
            assert_eq!(get(&decided, &number(user)), Some(of(user)));
        }
        assert_eq!(get(&decided, b"u20000@example.org"), None);
        for other in [Revision::new(7, 101), Revision::new(8, 100)] {
            assert_eq!(get_at(&decided, &number(1), other), None);
        }
        // What comes of a later state takes the place of all that was told before.
        decided.put(&number(1), Revision::new(7, 101), &told("user.u1", "elsewhere"));
        assert_eq!(get(&decided, &number(1)), None);
    }

    #[test]
    fn only_what_a_list_of_ours_has_delivered_is_remembered() {
        let decided = Decided::default();
        let good = told("user.jane", "be1");
        let route = |decision| Route { decision, ..good.route.clone() };
        for bad in [
            Told { origin: Origin::Daemon, ..good.clone() },
            Told { origin: Origin::Nothing, ..good.clone() },
            Told { route: route(Decision::Unknown), ..good.clone() },
            Told { route: route(Decision::Foreign), ..good.clone() },
        ] {
            decided.put(b"jane@example.org", THEN, &bad);
            assert_eq!(get(&decided, b"jane@example.org"), None);
        }
        decided.put(b"jane@example.org", THEN, &good);
        assert_eq!(get(&decided, b"jane@example.org"), Some(good));
    }

    #[test]
    fn recipients_of_any_number_and_length_take_no_more_memory_than_was_said() {
        let decided = Decided::default();
        let good = told("user.jane", "be1");
        for n in 0..400_000_u32 {
            decided.put(&n.to_ne_bytes(), THEN, &good);
        }
        for n in 0..2000_u32 {
            decided.put(&n.to_ne_bytes().repeat(1 + n as usize * 20), THEN, &good);
        }
        let mut known = 0;
        for part in decided.parts.get().unwrap() {
            let part = part.lock().unwrap();
            assert!(part.places.len() <= RECIPIENTS && part.bytes.len() < BYTES + (1 << 17));
            known += part.places.len();
        }
        assert!(known > 1000, "{known}");
    }
}
