use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::mailbox::{
    AnonymousRights, KeyGeneration, Lookup, MailboxList as _, MailboxName, Record, State,
};
use crate::replica::{ACCEPT_AFTER, Batch as _, Listing, Outcome};

fn name(n: u64) -> MailboxName {
    MailboxName::new(format!("user.u{n:07}")).unwrap()
}

fn record(server: &str) -> Record {
    Record {
        state: State::Active,
        server: Some(server.into()),
        partition: "default".into(),
        anonymous: AnonymousRights { lookup: true, post: false },
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_536_000 + seconds)
}

fn list_of(place: &mut Place, names: impl IntoIterator<Item = u64>, now: u64) -> Outcome {
    let mut change = place.begin().unwrap();
    let mut listing = Listing::begin(&change).unwrap();
    for n in names {
        listing.record(&mut change, &name(n), &record("be1.example.net")).unwrap();
    }
    let outcome = listing.finish(&mut change, "master", "3.6.1", at(now), ACCEPT_AFTER).unwrap();
    change.commit_to_disk().unwrap();
    outcome
}

#[test]
fn nobody_is_absent_before_the_first_list_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("replica");
    let list = ReplicaList::open(&dir).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    let mut place = Place::open(&dir).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    let mut change = place.begin().unwrap();
    change.put(&name(1), &record("be1")).unwrap();
    assert!(matches!(list.lookup(&name(1)), Lookup::Unsure(_)));
    change.commit().unwrap();
    assert_eq!(list.lookup(&name(1)), Lookup::Present(record("be1")));
    assert!(matches!(list.lookup(&name(2)), Lookup::Unsure(_)));
    assert_eq!(list.key_generation(), None);
    assert!(list.each(b"", &mut |_, _| ControlFlow::Continue(())).is_err());
    list_of(&mut place, [1], 0);
    assert_eq!(list.lookup(&name(2)), Lookup::Absent);
    assert_eq!(list.key_generation(), Some(KeyGeneration::Separated));
    let (about, names) = list.about().unwrap();
    assert_eq!((about.synchronised, names), (Some(at(0)), 1));
}
