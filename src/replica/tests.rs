use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    ChangeApplier, Freshness, FullSync, HeldBack, ReplicaMeta, ReplicaState, SyncContext,
    SyncReport, Transaction as _,
};
use crate::model::mod_time::ModTime;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::{AnonymousRights, Record, State};
use crate::mupdate::Event;
use crate::testing::memory_replica::Table;

const WAIT: Duration = super::ACCEPT_AFTER;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_536_000 + seconds)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
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

/// A complete list of this master at `now`; the replica has been followed since 0.
fn heard<'m>(table: &Table, master: &'m str, now: u64) -> SyncContext<'m> {
    let passed = seconds(now).saturating_sub(table.about.followed);
    SyncContext { master, release: "3.6.1-Debian", now: at(now), passed }
}

/// Reads a list of these names into the table, complete at `now`.
fn list(table: &mut Table, names: impl IntoIterator<Item = u64>, now: u64) -> SyncReport {
    let mut listing = FullSync::begin(table).unwrap();
    for n in names {
        listing.record(table, &name(n), &record("be1"), at(now)).unwrap();
    }
    listing.finish(table, &heard(table, "master", now), WAIT).unwrap()
}

/// Whether the list is to be requested again at `now`.
fn wants_list(table: &Table, now: u64) -> bool {
    ReplicaMeta { followed: seconds(now), ..table.about.clone() }.wants_list(WAIT)
}

#[test]
fn full_sync_accepts_any_order_and_drops_what_it_lacks() {
    let mut table = Table::default();
    let outcome = list(&mut table, (0..1000).rev(), 0);
    assert_eq!(outcome, SyncReport { listed: 1000, new: 1000, ..SyncReport::default() });
    table.put(&name(7), &record("be2"), ModTime::NOT_LATELY).unwrap();
    // A name that comes twice is listed once.
    let outcome = list(&mut table, (50..1010).chain(5..60).chain(0..5).chain(0..9), 1);
    assert_eq!(outcome, SyncReport { listed: 1010, new: 10, changed: 1, ..SyncReport::default() });
    let outcome = list(&mut table, 1..1010, 2);
    let examples = vec![name(0)];
    assert_eq!(outcome, SyncReport { listed: 1009, missed: 1, examples, ..SyncReport::default() });
    assert_eq!(table.names().unwrap(), 1009);
    assert_eq!(table.about.synchronised, Some(at(2)));
    assert_eq!(table.about.master, "master");
    assert_eq!(super::generation(&table.about.release), Some(KeyGeneration::Separated));
}

/// The names among these that changed at this time, by the table.
fn changed_at(table: &Table, names: impl IntoIterator<Item = u64>, moment: u64) -> Vec<u64> {
    let changed = |n: &u64| table.records[name(*n).as_bytes()].1 == ModTime::at(at(moment));
    names.into_iter().filter(changed).collect()
}

#[test]
fn full_sync_dates_only_the_names_it_changes() {
    let mut table = Table::default();
    list(&mut table, 0..10, 0);
    let not_lately =
        |table: &Table| table.records.values().filter(|row| row.1 == ModTime::NOT_LATELY).count();
    assert_eq!(not_lately(&table), 10, "nothing is known of those that fill it");
    let mut follower = ChangeApplier::default();
    for (n, server) in [(3, "be2"), (4, "be1"), (5, "be2"), (20, "be1")] {
        let event = Event::Record(name(n), record(server));
        follower.apply(&mut table, &event, at(100)).unwrap();
    }
    assert_eq!(changed_at(&table, [3, 4, 5, 20], 100), [3, 5, 20]);
    let event = Event::Record(name(5), record("be1"));
    follower.apply(&mut table, &event, at(110)).unwrap();
    // The list has 3 back at its old place, and 30 is new.
    list(&mut table, (0..10).chain([20, 30]), 120);
    assert_eq!(changed_at(&table, [20], 100), [20]);
    assert_eq!(changed_at(&table, [5], 110), [5]);
    assert_eq!(changed_at(&table, [3, 30], 120), [3, 30]);
    assert_eq!(not_lately(&table), 8);
    // Deleted and created again; then the last one too, so that the replica was empty meanwhile.
    for again in [1, 2] {
        let gone: Vec<u64> = if again == 1 { vec![20] } else { (0..10).chain([20, 30]).collect() };
        for n in &gone {
            let clock = at(200 * again);
            follower.apply(&mut table, &Event::Deleted(name(*n)), clock).unwrap();
        }
        list(&mut table, (0..10).chain([20, 30]), 200 * again);
        assert_eq!(changed_at(&table, gone.clone(), 200 * again), gone);
    }
}

#[test]
fn bulk_import_does_not_reconfirm_every_name() {
    let mut table = Table::default();
    list(&mut table, 0..10, 0);
    list(&mut table, 0..50_000, 100);
    assert_eq!(changed_at(&table, 0..50_000, 100).len(), 10_000);
}

#[test]
fn empty_first_list_makes_no_recipient_unknown() {
    let mut table = Table::default();
    let outcome = list(&mut table, [], 0);
    assert_eq!(outcome, SyncReport::default());
    assert_eq!(table.about.synchronised, Some(at(0)));
    let mut standing = ReplicaState::new(table.about.clone(), 0, at(0));
    standing.current(seconds(1));
    assert_eq!(standing.freshness(seconds(1)), Freshness::Fresh { as_of: seconds(1) });
    assert!(standing.misses(seconds(1)).unwrap_err().to_string().contains("empty"));
    standing.stored(table.about, 1);
    assert_eq!(standing.misses(seconds(1)), Ok(()));
}

#[test]
fn great_loss_is_held_back_and_an_ordinary_one_is_not() {
    for (had, listed, held) in [
        (1000, 900, false),
        (1000, 899, true),
        (10_000, 9_000, false),
        (10_000, 8_999, true),
        (130, 65, true),
        (100, 75, false),
        (100, 74, true),
        (100, 1, true),
        (5, 3, false),
        (5, 2, true),
        (5, 0, true),
        (1, 0, true),
        (0, 0, false),
        (0, 10, false),
    ] {
        let mut table = Table::default();
        list(&mut table, 0..had, 0);
        let outcome = list(&mut table, 0..listed, 5);
        assert_eq!(outcome.held_back.is_some(), held, "{had} to {listed}");
        let left = if held { had } else { listed };
        assert_eq!(table.names().unwrap(), left, "{had} to {listed}");
        let synchronised = if held { 0 } else { 5 };
        assert_eq!(table.about.synchronised, Some(at(synchronised)), "{had} to {listed}");
        if held {
            let (since, began, last) = (at(5), seconds(5), seconds(5));
            let lost = had - listed;
            let lacked = table.about.held_back.as_ref().and_then(|held| held.lacked);
            assert!(lacked.is_some());
            let held = HeldBack { since, began, last, had, lost, lacked, accepted: false };
            assert_eq!(table.about.held_back, Some(held));
        }
    }
}

#[test]
fn changes_of_a_held_back_list_are_kept() {
    let mut table = Table::default();
    list(&mut table, 0..1000, 0);
    table.put(&name(3), &record("be2"), ModTime::NOT_LATELY).unwrap();
    let outcome = list(&mut table, (0..500).chain(2000..2010), 1);
    assert_eq!((outcome.new, outcome.changed, outcome.removed), (10, 1, 0));
    assert_eq!(outcome.held_back.unwrap().lost, 500);
    assert_eq!(table.get(&name(3)).unwrap(), Some(record("be1")));
    assert!(table.get(&name(2005)).unwrap().is_some());
    assert!(table.get(&name(999)).unwrap().is_some());
    assert!(table.about.misses(1010).is_err());
}

/// The fate of a loss of 500 of 1000 names at 0, after these lists: time of the list (None: the
/// held-back loss has been accepted), number of its names, and number of names left.
#[test]
fn loss_is_applied_only_if_accepted_or_confirmed() {
    type WalkStep = (Option<u64>, u64, Option<u64>);
    const HELD: Option<u64> = None;
    let accepted: WalkStep = (None, 0, None);
    let table: &[&[WalkStep]] = &[
        // Confirmed by a list after the wait, and not by one before.
        &[(Some(599), 500, HELD), (Some(600), 500, Some(500))],
        &[(Some(600), 450, Some(450))],
        // The loss grew: the wait begins anew.
        &[(Some(600), 449, HELD), (Some(1199), 449, HELD), (Some(1200), 449, Some(449))],
        // All names are back.
        &[(Some(10), 1000, Some(1000)), (Some(600), 500, HELD)],
        // Nearly all are back: the rest is waited for.
        &[(Some(10), 900, HELD), (Some(609), 900, HELD), (Some(610), 900, Some(900))],
        &[(Some(10), 999, HELD), (Some(20), 1000, Some(1000))],
        // The loss is smaller, but still too great: the wait begins anew.
        &[(Some(10), 800, HELD), (Some(609), 800, HELD), (Some(610), 800, Some(800))],
        &[(Some(10), 540, HELD), (Some(600), 540, Some(540))],
        &[(Some(10), 800, HELD), (Some(600), 500, HELD), (Some(1200), 500, Some(500))],
        // Accepted: applied at once, but not beyond the accepted loss.
        &[accepted, (Some(10), 500, Some(500))],
        &[accepted, (Some(10), 449, HELD), (Some(20), 449, HELD)],
        // An empty list is never confirmed, and accepted only if it was an empty list that was held back.
        &[(Some(600), 0, HELD), (Some(5000), 0, HELD), (Some(100_000), 0, HELD)],
        &[accepted, (Some(10), 0, HELD), accepted, (Some(20), 0, Some(0))],
        &[(Some(10), 0, HELD), accepted, (Some(20), 500, Some(500))],
    ];
    for steps in table {
        let mut table = Table::default();
        list(&mut table, 0..1000, 0);
        assert!(list(&mut table, 0..500, 0).held_back.is_some());
        for (now, listed, left) in *steps {
            let Some(now) = now else {
                table.about.held_back.as_mut().unwrap().accepted = true;
                assert!(wants_list(&table, 1));
                continue;
            };
            let before = table.about.held_back.is_some();
            let outcome = list(&mut table, 0..*listed, *now);
            assert_eq!(outcome.held_back.is_some(), left.is_none(), "{steps:?} at {now}");
            assert_eq!(outcome.released, before && left.is_some(), "{steps:?} at {now}");
            assert_eq!(table.names().unwrap(), left.unwrap_or(1000), "{steps:?} at {now}");
            assert_eq!(table.about.misses(1000).is_ok(), left.is_some(), "{steps:?} at {now}");
        }
    }
}

#[test]
fn first_names_back_at_an_emptied_master_make_no_other_unknown() {
    let mut table = Table::default();
    list(&mut table, 0..1000, 0);
    list(&mut table, [], 10);
    // One backend at a time, and the first brings only one name; each list comes when it is requested.
    for (now, back) in [(610, 1), (1210, 300), (1810, 600)] {
        assert!(wants_list(&table, now));
        assert!(list(&mut table, 0..back, now).held_back.is_some(), "{back} are back");
        assert_eq!(table.names().unwrap(), 1000);
        assert!(table.about.misses(1000).is_err());
    }
    // No further name has come back during a whole wait.
    assert!(list(&mut table, 0..600, 2410).released);
    assert_eq!(table.names().unwrap(), 600);
}

#[test]
fn held_back_list_is_requested_again_but_not_all_the_time() {
    let mut table = Table::default();
    assert!(!wants_list(&table, 0));
    list(&mut table, 0..10, 0);
    for round in 1..5 {
        list(&mut table, [], 600 * round);
        assert!(!wants_list(&table, 600 * round + 599));
        assert!(wants_list(&table, 600 * round + 600));
    }
}

/// One batch of deletions of these names, at `now`.
fn deletions(
    follower: &mut ChangeApplier,
    table: &mut Table,
    names: impl IntoIterator<Item = u64>,
    now: u64,
) -> ReplicaMeta {
    for n in names {
        follower.apply(table, &Event::Deleted(name(n)), at(now)).unwrap();
    }
    follower.finish(table, None, seconds(now), at(now)).unwrap().0
}

#[test]
fn many_deletions_are_held_back_until_a_later_list_confirms() {
    let mut table = Table::default();
    let mut follower = ChangeApplier::default();
    let outcome = list(&mut table, 0..1000, 0);
    follower.listed(&outcome, 1000, seconds(0));
    assert_eq!(deletions(&mut follower, &mut table, 0..100, 10).held_back, None);
    let held_back = deletions(&mut follower, &mut table, 100..101, 20).held_back.unwrap();
    assert_eq!((held_back.had, held_back.lost, held_back.since), (1000, 101, at(20)));
    // A reconnection brings the same list; that the replica has no more names proves nothing.
    let outcome = list(&mut table, 101..1000, 30);
    assert!(outcome.held_back.is_some());
    follower.listed(&outcome, 899, seconds(30));
    assert!(wants_list(&table, 630));
    let outcome = list(&mut table, 101..1000, 630);
    assert!(outcome.released);
    follower.listed(&outcome, 899, seconds(630));
    assert_eq!(deletions(&mut follower, &mut table, 101..120, 640).held_back, None);
}

#[test]
fn held_back_list_is_requested_early_once_names_come_back() {
    let mut table = Table::default();
    let mut follower = ChangeApplier::default();
    let outcome = list(&mut table, 0..1000, 0);
    follower.listed(&outcome, 1000, seconds(0));
    let outcome = list(&mut table, 0..10, 10);
    follower.listed(&outcome, 1000, seconds(10));
    for n in 10..505 {
        let event = Event::Record(name(n), record("be1"));
        follower.apply(&mut table, &event, at(15)).unwrap();
        assert!(!follower.wants_list(&table.about, seconds(15)), "after {n}");
    }
    let event = Event::Record(name(505), record("be1"));
    follower.apply(&mut table, &event, at(15)).unwrap();
    assert!(follower.wants_list(&table.about, seconds(15)));
    // Some names were not back.
    let outcome = list(&mut table, 0..506, 20);
    assert_eq!(outcome.held_back.as_ref().map(|held_back| held_back.lost), Some(494));
    follower.listed(&outcome, 1000, seconds(20));
    assert!(!follower.wants_list(&table.about, seconds(15)));
    for n in 506..1000 {
        let event = Event::Record(name(n), record("be1"));
        follower.apply(&mut table, &event, at(15)).unwrap();
    }
    assert!(follower.wants_list(&table.about, seconds(15)));
    let outcome = list(&mut table, 0..1000, 30);
    assert!(outcome.released);
    follower.listed(&outcome, 1000, seconds(30));
    assert!(!follower.wants_list(&table.about, seconds(15)));
}

#[test]
fn small_losses_add_up_over_connections() {
    let mut table = Table::default();
    let mut follower = ChangeApplier::default();
    let held = (0..10).find(|round| {
        let outcome = list(&mut table, 50 * round..1000, *round);
        follower.listed(&outcome, table.names().unwrap(), seconds(*round));
        // At the latest with the first barrier after it, even if the last one was just stored.
        let (now, clock) = (seconds(*round), at(*round));
        follower.wants_stamp(&table.about, now)
            && follower.finish(&mut table, Some(clock), now, clock).unwrap().0.held_back.is_some()
    });
    assert_eq!(held, Some(3));
}

#[test]
fn deletion_of_the_last_name_makes_no_recipient_unknown() {
    let mut table = Table::default();
    let mut follower = ChangeApplier::default();
    let outcome = list(&mut table, 0..3, 0);
    follower.listed(&outcome, 3, seconds(0));
    assert_eq!(deletions(&mut follower, &mut table, 0..2, 1).held_back, None);
    let about = deletions(&mut follower, &mut table, 2..3, 2);
    assert!(about.held_back.is_some() && about.misses(0).is_err());
}

#[test]
fn repeated_changes_and_unknown_deletions_are_accepted() {
    let mut table = Table::default();
    let mut follower = ChangeApplier::default();
    let moved = Event::Record(name(1), record("be2"));
    for event in [&moved, &moved, &Event::Deleted(name(9)), &Event::Listed] {
        follower.apply(&mut table, event, at(1)).unwrap();
    }
    assert_eq!(table.get(&name(1)).unwrap(), Some(record("be2")));
    for _ in 0..2 {
        follower.apply(&mut table, &Event::Deleted(name(1)), at(1)).unwrap();
        assert_eq!(table.names().unwrap(), 0);
    }
}

#[test]
fn barrier_time_is_stored_with_changes_and_once_a_minute() {
    let mut table = Table::default();
    let mut follower = ChangeApplier::default();
    assert!(follower.wants_stamp(&table.about, seconds(0)));
    follower.finish(&mut table, None, seconds(1), at(1)).unwrap();
    assert_eq!(table.about.as_of, None);
    follower.finish(&mut table, Some(at(0)), seconds(1), at(1)).unwrap();
    assert_eq!(table.about.as_of, Some(at(0)));
    assert!(!follower.wants_stamp(&table.about, seconds(60)));
    assert!(follower.wants_stamp(&table.about, seconds(61)));
}

#[test]
fn miss_is_believed_only_while_barriers_are_answered() {
    let standing = ReplicaState::new(ReplicaMeta::default(), 0, at(0));
    assert_eq!(standing.freshness(seconds(0)), Freshness::Never);
    assert!(
        standing.misses(seconds(0)).unwrap_err().to_string().contains("never been synchronised")
    );
    assert_eq!(standing.status(seconds(0)).state, "never");

    // State in a process that has just started.
    let (synchronised, as_of) = (Some(at(0)), Some(at(50)));
    let (master, release) = ("master".into(), "3.6.1".into());
    let about = ReplicaMeta { synchronised, as_of, master, release, ..ReplicaMeta::default() };
    let mut standing = ReplicaState::new(about, 10, at(100));
    assert_eq!(standing.freshness(seconds(0)), Freshness::Stale { since: None });
    let why = "the replica is stale since 2026-11-24T16:00:50Z (55 s); \
               there is no connection to the master";
    assert_eq!(standing.misses(seconds(5)).unwrap_err().to_string(), why);
    assert_eq!(standing.positives(seconds(5), None), Ok(()));
    assert_eq!(standing.positives(seconds(5), Some(seconds(55))), Ok(()));
    assert!(standing.positives(seconds(6), Some(seconds(55))).is_err());

    standing.current(seconds(10));
    for (now, fresh) in [(10, true), (20, true), (21, false)] {
        assert_eq!(standing.misses(seconds(now)).is_ok(), fresh, "{now}");
        assert_eq!(standing.status(seconds(now)).state, if fresh { "fresh" } else { "stale" });
    }
    let why = "the replica is stale since 2026-11-24T16:01:50Z (11 s)";
    assert_eq!(standing.misses(seconds(21)).unwrap_err().to_string(), why);
    standing.current(seconds(25));
    assert_eq!(standing.misses(seconds(25)), Ok(()));
    standing.lost(seconds(25));
    // Events of the lost connection may be committed only now.
    standing.current(seconds(25));
    assert!(
        standing
            .misses(seconds(25))
            .unwrap_err()
            .to_string()
            .ends_with("no connection to the master")
    );
    assert_eq!(standing.freshness(seconds(26)), Freshness::Stale { since: Some(seconds(25)) });
    assert_eq!(standing.status(seconds(30)).age, Some(seconds(5)));

    standing.current(seconds(31));
    let (since, began, last) = (at(0), seconds(0), seconds(0));
    let held_back =
        HeldBack { since, began, last, had: 10, lost: 9, lacked: None, accepted: false };
    standing.stored(ReplicaMeta { held_back: Some(held_back), ..standing.about().clone() }, 10);
    let why = "the master's list has lost 9 of 10 names, held back since 2026-11-24T16:00:00Z; \
               if that is meant: murder-route replica accept";
    assert_eq!(standing.misses(seconds(31)).unwrap_err().to_string(), why);
    let status = standing.status(seconds(31));
    assert_eq!(status.state, "held-back");
    assert_eq!(status.doubt.map(|doubt| doubt.to_string()).as_deref(), Some(why));
    assert_eq!(standing.positives(seconds(31), Some(seconds(1))), Ok(()));
}

#[test]
fn recently_deleted_name_is_to_be_confirmed_twice() {
    let mut standing = ReplicaState::new(ReplicaMeta::default(), 0, at(0));
    standing.deleted(&name(1), seconds(5));
    assert!(standing.lately_deleted(&name(1), seconds(15)));
    assert!(!standing.lately_deleted(&name(2), seconds(6)));
    assert!(!standing.lately_deleted(&name(1), seconds(25)));
}

#[test]
fn key_generation_follows_from_the_release_of_the_master() {
    use KeyGeneration::{Internal, Separated};
    for (release, generation) in [
        ("3.6.1-Debian-3.6.1-4+deb12u5", Some(Separated)),
        ("3.12.4", Some(Separated)),
        ("3.13.0-alpha0", Some(Separated)),
        ("3.6", Some(Separated)),
        ("4.0.0", Some(Separated)),
        ("3.4.8", Some(Internal)),
        ("3.2.6-Debian-3.2.6-2+deb11u3", Some(Internal)),
        ("v2.4.17", Some(Internal)),
        ("2.5.10-Debian", Some(Internal)),
        ("git2.5.10-Debian-2.5.10-3", Some(Internal)),
        ("git", None),
        ("3", None),
        ("", None),
        ("99999999999.1", None),
    ] {
        assert_eq!(super::generation(release), generation, "{release}");
    }
}

#[test]
fn murder_without_mailboxes_has_no_loss_to_accept() {
    let mut table = Table::default();
    let mut follower = ChangeApplier::default();
    let outcome = list(&mut table, [], 0);
    follower.listed(&outcome, 0, seconds(0));
    let (about, _) = follower.finish(&mut table, Some(at(1)), seconds(1), at(1)).unwrap();
    assert_eq!(about.held_back, None);
}

#[test]
fn acceptance_of_a_great_loss_does_not_cover_an_empty_list() {
    let mut table = Table::default();
    list(&mut table, 0..1000, 0);
    assert_eq!(list(&mut table, 0..50, 1).held_back.unwrap().lost, 950);
    table.about.held_back.as_mut().unwrap().accepted = true;
    assert!(list(&mut table, [], 2).held_back.is_some());
    assert_eq!(table.names().unwrap(), 1000);
}

#[test]
fn batch_makes_no_recipient_unknown_before_its_commit_is_known() {
    let about = ReplicaMeta { synchronised: Some(at(0)), ..ReplicaMeta::default() };
    let mut standing = ReplicaState::new(about, 10, at(0));
    standing.current(seconds(1));
    assert_eq!(standing.misses(seconds(1)), Ok(()));
    assert!(!standing.lately_deleted(&name(1), seconds(1)));
    // A list without a name that is being renamed.
    standing.listed(seconds(1));
    assert!(standing.lately_deleted(&name(1), seconds(1)));
    // And one without most names.
    let (since, began, last) = (at(1), seconds(1), seconds(1));
    standing.held_back(&HeldBack {
        since,
        began,
        last,
        had: 1000,
        lost: 900,
        lacked: None,
        accepted: false,
    });
    assert!(standing.misses(seconds(1)).unwrap_err().to_string().contains("lost 900 of 1000"));
}
