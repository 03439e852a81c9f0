//! Known names, however they vanished, become unknown only when that is certain.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{ACCEPT_AFTER, ChangeApplier, FullSync, SyncContext, SyncReport, Transaction as _};
use crate::model::name::MailboxName;
use crate::model::record::{AnonymousRights, Record, State};
use crate::mupdate::Event;
use crate::testing::memory_replica::Table;

const WAIT: u64 = ACCEPT_AFTER.as_secs();

/// A replica and its follower, by two clocks: a monotonic one, which starts with each process, and the
/// wall clock.
struct Site {
    table: Table,
    follower: ChangeApplier,
    /// Seconds by the monotonic clock.
    now: u64,
    /// Seconds by the wall clock.
    clock: u64,
}

fn name(n: u64) -> MailboxName {
    MailboxName::new(format!("user.u{n}")).unwrap()
}

fn record(state: State) -> Record {
    Record {
        state,
        server: Some("be1".into()),
        partition: "default".into(),
        anonymous: AnonymousRights::default(),
    }
}

fn told(n: u64) -> Event {
    Event::Record(name(n), record(State::Active))
}

impl Site {
    fn new(names: std::ops::Range<u64>) -> Self {
        let follower = ChangeApplier::new(ACCEPT_AFTER, Duration::ZERO);
        let mut site = Self { table: Table::default(), follower, now: 0, clock: 1_795_536_000 };
        site.list("mu1", names);
        site
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.clock)
    }

    /// Lets time pass, with a barrier every 5 s.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 1;
            self.clock += 1;
            if self.now.is_multiple_of(5)
                && self.follower.wants_stamp(&self.table.about, Duration::from_secs(self.now))
            {
                self.changes([]);
            }
        }
    }

    /// The process is killed and started again, which takes an hour.
    fn restart(&mut self) {
        self.now = 0;
        self.clock += 3600;
        self.follower = ChangeApplier::new(ACCEPT_AFTER, Duration::ZERO);
    }

    fn list(&mut self, master: &str, names: impl IntoIterator<Item = u64>) -> SyncReport {
        let (now, wall) = (Duration::from_secs(self.now), self.wall());
        let mut listing = FullSync::begin(&self.table).unwrap();
        for n in names {
            listing.record(&mut self.table, &name(n), &record(State::Active), wall).unwrap();
        }
        let passed = self.follower.passed(now);
        let heard = SyncContext { master, release: "3.6.1", now: wall, passed };
        let outcome = listing.finish(&mut self.table, &heard, ACCEPT_AFTER).unwrap();
        self.follower.listed(&outcome, self.table.names().unwrap(), now);
        outcome
    }

    /// Applies these changes and a barrier.
    fn changes(&mut self, events: impl IntoIterator<Item = Event>) {
        let (now, wall) = (Duration::from_secs(self.now), self.wall());
        for event in events {
            self.follower.apply(&mut self.table, &event, wall).unwrap();
        }
        self.follower.finish(&mut self.table, Some(wall), now, wall).unwrap();
    }

    fn held(&self) -> bool {
        self.table.about.held_back.is_some()
    }

    fn wants_list(&self) -> bool {
        self.follower.wants_list(&self.table.about, Duration::from_secs(self.now))
    }

    /// Whether a fresh reader whose master lacks the name as well would call it unknown.
    fn unknown(&self, n: u64) -> bool {
        !self.held() && self.state(n) == "absent"
    }

    fn state(&self, n: u64) -> &'static str {
        let key = name(n).as_bytes().to_vec();
        match (self.table.records.contains_key(&key), self.table.missing.contains_key(&key)) {
            (true, false) => "there",
            (false, true) => "missing",
            (false, false) => "absent",
            (true, true) => panic!("{n} is there and missing"),
        }
    }
}

#[test]
fn few_names_that_a_list_lacks_are_missing_for_a_while() {
    let mut site = Site::new(0..1000);
    let outcome = site.list("mu1", 50..1000);
    assert_eq!((outcome.missed, outcome.removed, outcome.examples.len()), (50, 0, 5));
    assert!(!site.held() && site.unknown(5000), "strangers cost nothing");
    assert_eq!((site.state(0), site.state(50)), ("missing", "there"));
    assert_eq!((site.table.names().unwrap(), site.table.about.missing), (950, 50));
    site.pass(WAIT - 1);
    // A list, a change and a DELETE each end it for a name.
    site.changes([told(0), Event::Deleted(name(1))]);
    assert_eq!((site.state(0), site.state(1), site.state(2)), ("there", "absent", "missing"));
    assert_eq!(site.list("mu1", (0..3).chain(50..1000)).back, 1);
    assert_eq!((site.state(2), site.state(3)), ("there", "missing"));
    site.pass(6);
    assert_eq!((site.state(2), site.state(3)), ("there", "absent"));
    assert_eq!((site.table.about.missing, site.table.about.oldest), (0, None));
}

#[test]
fn name_missing_at_another_master_waits_for_its_own_master() {
    let mut site = Site::new(0..1000);
    site.list("mu2", 50..1000);
    site.pass(10 * WAIT);
    assert_eq!(site.state(0), "missing", "the second never had it");
    // Back at the first master, which still lacks the first of the names.
    site.list("mu1", 1..1000);
    assert_eq!((site.state(0), site.state(1)), ("absent", "there"));
}

#[test]
fn wait_is_not_cut_short_by_a_clock_step_nor_lost_by_a_restart() {
    for held in [false, true] {
        let kept = if held { 500..1000 } else { 50..1000 };
        let mut site = Site::new(0..1000);
        site.list("mu1", kept.clone());
        site.pass(4);
        site.clock += 3600;
        site.pass(WAIT / 2 - 4);
        assert!(!site.wants_list() && !site.unknown(0), "held {held}");
        site.restart();
        assert!(!site.wants_list() && !site.unknown(0), "an hour without a process, {held}");
        site.list("mu1", kept.clone());
        assert!(!site.unknown(0), "held {held}");
        site.clock -= 100_000;
        site.pass(WAIT / 2 - 10);
        site.list("mu1", kept.clone());
        assert!(!site.unknown(0), "held {held}");
        site.pass(20);
        site.list("mu1", kept);
        assert!(site.unknown(0), "held {held}");
    }
}

#[test]
fn emptied_master_that_regains_backends_one_by_one_loses_none() {
    let mut site = Site::new(0..1200);
    site.list("mu1", []);
    for backend in 0..12 {
        assert!(site.held(), "before backend {backend}");
        site.pass(5);
        site.changes((100 * backend..100 * (backend + 1)).map(told));
        if site.wants_list() {
            site.list("mu1", 0..100 * (backend + 1));
        }
        assert!((0..1200).all(|n| !site.unknown(n)), "after backend {backend}");
    }
    site.list("mu1", 0..1200);
    assert!(!site.held() && site.unknown(5000));
    assert!((0..1200).all(|n| site.state(n) == "there"));
}

#[test]
fn last_backend_that_stays_away_is_waited_for() {
    let mut site = Site::new(0..1200);
    site.list("mu1", []);
    site.pass(5);
    site.list("mu1", 0..1100);
    assert!(site.held() && site.table.names().unwrap() == 1200);
    site.pass(WAIT);
    assert!(site.wants_list() && site.held());
    let outcome = site.list("mu1", 0..1100);
    assert!(outcome.released && site.unknown(1150));
}

#[test]
fn name_that_was_back_during_the_wait_is_not_confirmed_as_lost() {
    let mut site = Site::new(0..1000);
    site.list("mu1", 0..500);
    site.pass(WAIT / 2);
    site.changes([told(700)]);
    site.pass(WAIT / 2);
    let outcome = site.list("mu1", 0..500);
    assert!(outcome.released && site.unknown(5000));
    assert_eq!((site.state(700), site.state(701)), ("missing", "missing"));
    site.pass(WAIT + 5);
    assert!(site.unknown(700));
}

#[test]
fn accepted_loss_is_over_with_the_next_list() {
    let mut site = Site::new(0..1000);
    site.list("mu1", 0..500);
    site.table.about.held_back.as_mut().unwrap().accepted = true;
    assert!(site.wants_list());
    let outcome = site.list("mu1", 0..500);
    assert_eq!((outcome.released, outcome.removed, outcome.missed), (true, 500, 0));
    assert!(site.unknown(700));
}

#[test]
fn loss_taken_over_from_another_master_makes_no_name_unknown() {
    let mut site = Site::new(0..1000);
    site.list("mu2", 0..500);
    assert!(site.held());
    site.pass(WAIT);
    let outcome = site.list("mu2", 0..500);
    assert!(outcome.released && site.unknown(5000));
    assert_eq!((outcome.missed, site.state(700)), (500, "missing"));
    site.pass(2 * WAIT);
    assert_eq!(site.state(700), "missing");
}

#[test]
fn other_names_lacked_by_a_confirming_list_wait_on_their_own() {
    let mut site = Site::new(0..1000);
    site.list("mu1", 0..500);
    site.pass(WAIT);
    let outcome = site.list("mu1", 20..520);
    assert!(outcome.released);
    assert_eq!((site.state(10), site.state(510), site.state(700)), ("missing", "there", "missing"));
}

#[test]
fn changes_during_a_held_back_list_are_applied() {
    let mut site = Site::new(0..1000);
    site.list("mu1", 0..500);
    let moved = Record { server: Some("be2".into()), ..record(State::Active) };
    site.changes([
        Event::Record(name(700), moved.clone()),
        Event::Record(name(2000), moved.clone()),
        Event::Deleted(name(10)),
    ]);
    assert_eq!(site.table.get(&name(700)).unwrap(), Some(moved.clone()));
    assert_eq!(site.table.get(&name(2000)).unwrap(), Some(moved));
    assert_eq!(site.state(10), "absent");
    assert!(site.held());
}

#[test]
fn name_deleted_in_the_stream_is_absent_whatever_its_state() {
    for state in [State::Reserved, State::Moving, State::Active] {
        let mut site = Site::new(0..1000);
        site.changes([Event::Record(name(7), record(state)), Event::Deleted(name(7))]);
        assert_eq!(site.state(7), "absent", "{state:?}");
    }
}

#[test]
fn master_restart_during_an_xfer_makes_no_name_unknown() {
    let mut site = Site::new(0..10);
    site.changes([Event::Record(name(3), record(State::Reserved))]);
    // `ctl_cyrusdb -r`: removed reserved mailbox.
    let outcome = site.list("mu1", (0..3).chain(4..10));
    assert_eq!((outcome.missed, outcome.examples), (1, vec![name(3)]));
    assert_eq!(site.state(3), "missing");
    // The backend pushes.
    site.changes([told(3)]);
    assert_eq!(site.state(3), "there");
}

#[test]
fn small_murder_whose_master_returns_with_one_name_loses_none() {
    for (had, left) in [(100, 1), (130, 65), (20, 10), (9, 6), (3, 1), (2, 1)] {
        let mut site = Site::new(0..had);
        site.list("mu1", 0..left);
        assert!((0..had).all(|n| !site.unknown(n)), "{had} to {left}");
    }
}
