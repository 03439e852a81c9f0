use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::table::Table;
use super::{Batch as _, Listing, Outcome};
use crate::mailbox::{AnonymousRights, KeyGeneration, MailboxName, Record, State};

const WAIT: Duration = super::ACCEPT_AFTER;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_536_000 + seconds)
}

fn name(n: u64) -> MailboxName {
    MailboxName::new(format!("user.u{n}")).unwrap()
}

fn record(server: &str) -> Record {
    Record {
        state: State::Active,
        server: Some(server.into()),
        partition: "default".into(),
        anonymous: AnonymousRights::default(),
    }
}

/// Reads a list of these names into the table, complete at `now`.
fn list(table: &mut Table, names: impl IntoIterator<Item = u64>, now: u64) -> Outcome {
    let mut listing = Listing::begin(table).unwrap();
    for n in names {
        listing.record(table, &name(n), &record("be1")).unwrap();
    }
    listing.finish(table, "master", "3.6.1-Debian", at(now), WAIT).unwrap()
}

#[test]
fn a_list_is_taken_over_whatever_its_order_and_what_did_not_come_goes() {
    let mut table = Table::default();
    let outcome = list(&mut table, (0..1000).rev(), 0);
    assert_eq!(outcome, Outcome { listed: 1000, new: 1000, ..Outcome::default() });
    table.put(&name(7), &record("be2")).unwrap();
    // Twice told is once listed.
    let outcome = list(&mut table, (50..1010).chain(5..60).chain(0..5).chain(0..9), 1);
    assert_eq!(outcome, Outcome { listed: 1010, new: 10, changed: 1, ..Outcome::default() });
    let outcome = list(&mut table, 1..1010, 2);
    assert_eq!(outcome, Outcome { listed: 1009, removed: 1, ..Outcome::default() });
    assert_eq!(table.names().unwrap(), 1009);
    assert_eq!(table.about.synchronised, Some(at(2)));
    assert_eq!(table.about.master, "master");
    assert_eq!(table.about.key_generation(), Some(KeyGeneration::Separated));
}
