//! The replica, and the answers from it.

use std::fs;
use std::sync::atomic::Ordering::SeqCst;

use tokio::sync::mpsc;

use super::*;
use crate::master::state::FollowerState;
use crate::mupdate::Event;
use crate::replica::store::{Error, accept};
use crate::replica::writer_logic::StreamInput;
use crate::replica::{ReplicaMeta, ReplicaState};
use crate::routing::confirm::master_answers::weigh_absent;

const NAMES: usize = 300;

async fn a_murder() -> (Server, TempDir, MasterClient) {
    let (master, dir) = (Server::start(users(NAMES)).await, tempdir());
    let murder = to_follow(&[&master], dir.path());
    settled(&murder).await;
    (master, dir, murder)
}

async fn is_disconnected(murder: &MasterClient) {
    until("the connection is gone", async || replica(murder).link().server.is_none()).await;
}

#[tokio::test]
async fn no_recipient_is_unknown_before_the_first_list_is_complete() {
    let (master, dir) = (Server::start(users(NAMES)).await, tempdir());
    master.pause_lists(true);
    let murder = to_follow(&[&master], dir.path());
    until("half the list came", async || master.updates() == 1).await;
    until("questions are answered", async || murder.asker().status().server.is_some()).await;
    for _ in 0..20 {
        is_later(&answer(&murder, "user.stranger").await, "never been synchronised");
        // The master itself is asked meanwhile.
        assert_eq!(answer(&murder, "user.u1").await, Answer::At("be1".into()));
    }
    assert_eq!(replica(&murder).status().state, "never");
    master.pause_lists(false);
    settled(&murder).await;
    all_are_found(&murder, NAMES);
    let status = replica(&murder).status();
    assert_eq!((status.state, status.names, status.doubt), ("fresh", NAMES as u64, None));
    assert_eq!(replica(&murder).link().server.as_deref(), Some("mu.example.org"));
    assert_eq!(murder.key_generation(), Some(KeyGeneration::Separated));
}

#[tokio::test]
async fn old_list_is_served_until_the_new_one_is_complete() {
    let (mut master, _dir, murder) = a_murder().await;
    master.kill().await;
    is_disconnected(&murder).await;
    master.lose(|name| name != "user.u7");
    master.put("user.u8", "be2");
    master.put("user.late", "be2");
    master.ways().cut_list_at = Some(10_000);
    master.restart().await;
    // Cut off twice, then paused in the middle.
    until("two lists are cut off", async || master.updates() == 3).await;
    is_disconnected(&murder).await;
    all_are_found(&murder, NAMES);
    is_later(&answer(&murder, "user.stranger").await, "while it sent its list");
    master.pause_lists(true);
    master.ways().cut_list_at = None;
    until("a list has begun", async || replica(&murder).link().server.is_some()).await;
    all_are_found(&murder, NAMES);
    is_later(&answer(&murder, "user.stranger").await, "stale");
    master.pause_lists(false);
    settled(&murder).await;
    is_later(&answer(&murder, "user.u7").await, "vanished from the master's list");
    assert_eq!(answer(&murder, "user.u8").await, Answer::At("be2".into()));
    assert!(matches!(look(&murder, "user.late"), Lookup::Present(_)));
}

#[tokio::test]
async fn change_is_seen_at_once_and_no_absence_outlives_it() {
    let (master, _dir, murder) = a_murder().await;
    for n in 0..50 {
        let user = format!("user.new{n}");
        assert_eq!(answer(&murder, &user).await, Answer::Unknown);
        master.put(&user, "be3");
        assert_eq!(answer(&murder, &user).await, Answer::At("be3".into()));
    }
    until("it is streamed", async || matches!(look(&murder, "user.new49"), Lookup::Present(_)))
        .await;
    master.put("user.u1", "be2");
    until("the move is streamed", async || {
        answer(&murder, "user.u1").await == Answer::At("be2".into())
    })
    .await;
    murder.caught_up().await.unwrap();
    assert!(replica(&murder).link().changes >= 51);
}

#[tokio::test]
async fn repeated_list_marks_only_its_changes_as_changed() {
    let (mut master, _dir, murder) = a_murder().await;
    let list = replica(&murder).list();
    let changed = || {
        let names = users(NAMES).chain(["user.new".to_owned()]);
        names.filter(|user| list.lookup_dated(&name(user)).1).collect::<Vec<_>>()
    };
    assert_eq!(changed(), [""; 0], "in a replica that was empty");
    master.kill().await;
    is_disconnected(&murder).await;
    master.put("user.u8", "be2");
    master.put("user.new", "be2");
    master.restart().await;
    settled(&murder).await;
    assert_eq!(changed(), ["user.u8", "user.new"]);
    // This stays so if nothing has changed.
    master.kill().await;
    is_disconnected(&murder).await;
    master.restart().await;
    settled(&murder).await;
    assert_eq!(changed(), ["user.u8", "user.new"]);
}

#[tokio::test]
async fn name_missing_since_a_deletion_may_be_renamed_just_now() {
    let (master, _dir, murder) = a_murder().await;
    // After a list every name counts as deleted recently for ten seconds.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    settled(&murder).await;
    for n in 0..20 {
        let user = format!("user.u{n}");
        // The list has the name and the master has not: it was deleted just now.
        assert!(murder.deleted_lately(&name(&user)));
        assert!(!murder.deleted_lately(&name(&format!("user.nobody{n}"))));
        master.delete(&user);
        while matches!(look(&murder, &user), Lookup::Present(_)) {
            tokio::task::yield_now().await;
        }
        assert!(murder.deleted_lately(&name(&user)));
    }
    assert_eq!(answer(&murder, "user.u0").await, Answer::Unknown);
}

#[tokio::test]
async fn lost_master_makes_no_recipient_unknown_and_is_reported() {
    let (mut master, _dir, murder) = a_murder().await;
    master.kill().await;
    is_disconnected(&murder).await;
    for _ in 0..50 {
        all_are_found(&murder, NAMES);
        is_later(&answer(&murder, "user.stranger").await, "there is no connection to the master");
    }
    until("it is refused", async || {
        let why = replica(&murder).status().doubt.unwrap();
        why.to_string().contains("Connection refused")
    })
    .await;
    master.restart().await;
    settled(&murder).await;
    assert_eq!(replica(&murder).link().connections, 2);
}

#[tokio::test]
async fn hung_master_makes_no_recipient_unknown_and_is_given_up() {
    let (master, _dir, murder) = a_murder().await;
    master.hang(true);
    let began = Instant::now();
    let finding = murder.find(&name("user.stranger")).await.unwrap();
    assert!(matches!(&finding, Finding::Unsure(_)), "{finding:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(murder.caught_up().await.is_err());
    is_disconnected(&murder).await;
    all_are_found(&murder, NAMES);
    is_later(&answer(&murder, "user.stranger").await, "no connection to the master");
    master.hang(false);
    settled(&murder).await;
}

#[tokio::test]
async fn master_that_comes_back_empty_makes_no_recipient_unknown() {
    let (mut master, _dir, murder) = a_murder().await;
    master.kill().await;
    master.lose(|_| false);
    master.restart().await;
    until("it is held back", async || {
        for user in ["user.stranger", "user.u1", "user.u2"] {
            let finding = murder.find(&name(user)).await;
            assert!(!matches!(finding, Ok(Finding::Absent)), "{user}: {finding:?}");
        }
        replica(&murder).status().state == "held-back"
    })
    .await;
    until("a barrier later", async || replica(&murder).caught_up().await.is_ok()).await;
    all_are_found(&murder, NAMES);
    for user in ["user.stranger", "user.u1"] {
        until("he is asked", async || {
            let finding = murder.find(&name(user)).await.unwrap();
            assert!(matches!(finding, Finding::Unsure(_)), "{finding:?}");
            matches!(finding, Finding::Unsure(why) if why.contains("300 of 300"))
        })
        .await;
    }
    // The master has its table again.
    master.kill().await;
    for user in users(NAMES) {
        master.put(&user, "be1");
    }
    master.restart().await;
    settled(&murder).await;
    all_are_found(&murder, NAMES);
}

#[tokio::test]
async fn absence_needs_a_stream_that_has_caught_up_since_connecting() {
    let (_master, _dir, murder) = a_murder().await;
    let (replica, (up, _)) = (replica(&murder), murder.asker().up().unwrap());
    let weigh = |up: Option<Duration>| weigh_absent(Some("mu.example.org"), replica.followed(up));
    assert_eq!(weigh(Some(up)), Ok(()));
    for up in [None, Some(up + TEST_TIMEOUT)] {
        assert!(weigh(up).unwrap_err().to_string().contains("has not caught up"));
    }
}

/// A murder whose master has come back with a third of its names.
async fn with_a_loss(accept_after: Duration) -> (Server, TempDir, MasterClient) {
    let (mut master, dir) = (Server::start(users(NAMES)).await, tempdir());
    let settings = ReplicaSettings { accept_after, ..replica_in(dir.path()) };
    let murder = MasterClient::to_follow(upstream(&mupdate(&[&master])), &settings).unwrap();
    settled(&murder).await;
    master.kill().await;
    master.lose(|name| name.len() < "user.u100".len());
    master.restart().await;
    until("it is held back", async || replica(&murder).status().state == "held-back").await;
    (master, dir, murder)
}

async fn is_taken_over(murder: &MasterClient) {
    settled(murder).await;
    all_are_found(murder, 100);
    assert_eq!(answer(murder, "user.u100").await, Answer::Unknown);
    assert_eq!(replica(murder).status().held_back, None);
}

#[tokio::test]
async fn accepted_loss_is_applied_and_not_before() {
    let (master, dir, murder) = with_a_loss(Duration::from_secs(600)).await;
    until("barriers later", async || replica(&murder).caught_up().await.is_ok()).await;
    all_are_found(&murder, NAMES);
    is_later(&answer(&murder, "user.stranger").await, "200 of 300");
    assert_eq!(master.updates(), 2);
    accept(&dir.path().join("replica")).unwrap().held_back.unwrap();
    is_taken_over(&murder).await;
}

#[tokio::test]
async fn loss_that_a_later_list_confirms_is_applied() {
    let (master, _dir, murder) = with_a_loss(Duration::from_secs(1)).await;
    is_taken_over(&murder).await;
    assert!(master.updates() >= 3);
}

#[tokio::test]
async fn zero_accept_after_does_not_request_lists_in_a_hot_loop() {
    let (mut master, dir) = (Server::start(users(NAMES)).await, tempdir());
    let settings = ReplicaSettings { accept_after: Duration::ZERO, ..replica_in(dir.path()) };
    let murder = MasterClient::to_follow(upstream(&mupdate(&[&master])), &settings).unwrap();
    settled(&murder).await;
    master.kill().await;
    master.lose(|_| false);
    master.restart().await;
    until("two more lists", async || master.updates() >= 4).await;
    let updates = master.seen().updates.lock().unwrap().clone();
    assert!(updates[3] - updates[2] >= Duration::from_millis(450));
    all_are_found(&murder, NAMES);
}

#[tokio::test]
async fn slave_is_not_followed() {
    let ways = Ways { role: "mupdate://mu.example.org", ..Ways::default() };
    let (slave, dir) = (Server::start_with(users(NAMES), ways).await, tempdir());
    let murder = to_follow(&[&slave], dir.path());
    until("it is refused", async || {
        replica(&murder).link().failure.is_some_and(|why| why.contains("slave"))
    })
    .await;
    assert_eq!(slave.updates(), 0);
    assert!(matches!(answer(&murder, "user.u1").await, Answer::Later(_)));
}

#[tokio::test]
async fn second_server_is_followed_if_the_first_is_dead() {
    let (mut dead, master) = (Server::start([]).await, Server::start(users(NAMES)).await);
    dead.kill().await;
    let dir = tempdir();
    let murder = to_follow(&[&dead, &master], dir.path());
    settled(&murder).await;
    all_are_found(&murder, NAMES);
}

#[tokio::test]
async fn another_master_than_the_followed_one_makes_none_unknown() {
    let other = Ways { servername: "other.example.org", ..Ways::default() };
    let (master, other) = (Server::start(users(NAMES)).await, Server::start_with([], other).await);
    let dir = tempdir();
    let followed = Arc::new(upstream(&mupdate(&[&master])));
    let replica = ReplicaFollower::follow(&followed, &replica_in(dir.path())).unwrap();
    let asker = Asker::beside_a_replica(Arc::new(upstream(&mupdate(&[&other, &master]))));
    let murder = MasterClient::new(&followed, asker, Some(replica));
    until("the other one is asked", async || {
        murder.asker().status().server.as_deref() == Some("other.example.org")
    })
    .await;
    until("the one is followed", async || murder.replica().unwrap().caught_up().await.is_ok())
        .await;
    is_later(&answer(&murder, "user.stranger").await, "other.example.org");
    settled(&murder).await;
    assert_eq!(murder.asker().status().server.as_deref(), Some("mu.example.org"));
}

#[tokio::test]
async fn restart_without_a_master_still_finds_every_name() {
    let (mut master, dir, murder) = a_murder().await;
    murder.stop().await;
    master.kill().await;
    let murder = to_follow(&[&master], dir.path());
    all_are_found(&murder, NAMES);
    is_later(&answer(&murder, "user.stranger").await, "stale");
    master.restart().await;
    settled(&murder).await;
}

#[tokio::test]
async fn list_older_than_the_limit_routes_no_recipient() {
    let (mut master, dir) = (Server::start(users(3)).await, tempdir());
    let max_age = Some(Duration::from_secs(2));
    let settings = ReplicaSettings { max_age, ..replica_in(dir.path()) };
    let murder = MasterClient::to_follow(upstream(&mupdate(&[&master])), &settings).unwrap();
    settled(&murder).await;
    all_are_found(&murder, 3);
    master.kill().await;
    until("it is too old", async || match look(&murder, "user.u1") {
        Lookup::Unsure(why) => why.contains("stale"),
        found => matches!(found, Lookup::Absent),
    })
    .await;
    is_later(&answer(&murder, "user.u1").await, "stale");
    master.restart().await;
    settled(&murder).await;
    all_are_found(&murder, 3);
}

#[tokio::test]
async fn two_daemons_do_not_follow_into_one_directory() {
    let (master, dir, murder) = a_murder().await;
    let second = MasterClient::to_follow(upstream(&mupdate(&[&master])), &replica_in(dir.path()));
    assert!(matches!(second, Err(Error::InUse(_))));
    all_are_found(&murder, NAMES);
    // Neither a failed attempt nor a stopped daemon leaves anything behind.
    murder.stop().await;
    to_follow(&[&master], dir.path()).stop().await;
}

#[tokio::test]
async fn replica_not_writable_at_start_is_served_without_unknowns() {
    let (master, dir, murder) = a_murder().await;
    murder.stop().await;
    // Not even root can open a directory to write.
    let lock = dir.path().join("replica/lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let murder = to_follow(&[&master], dir.path());
    for _ in 0..2 {
        all_are_found(&murder, NAMES);
        is_later(&answer(&murder, "user.stranger").await, "cannot be written");
        let status = replica(&murder).status();
        assert!(status.doubt.is_some_and(|why| why.to_string().contains("cannot be written")));
        until("it is connected", async || replica(&murder).link().connections > 0).await;
    }
    fs::remove_dir(&lock).unwrap();
    settled(&murder).await;
    assert_eq!(answer(&murder, "user.stranger").await, Answer::Unknown);
    murder.stop().await;
    // Without a list to serve it is an error.
    fs::remove_dir_all(dir.path().join("replica")).unwrap();
    fs::write(dir.path().join("replica"), "").unwrap();
    let none = MasterClient::to_follow(upstream(&mupdate(&[&master])), &replica_in(dir.path()));
    assert!(matches!(none, Err(Error::Io { .. })));
}

/// With one thread for all tasks, a blocking wait for the writer would never end.
#[tokio::test(flavor = "current_thread")]
async fn stopping_ends_in_the_middle_of_a_list_as_well() {
    let (master, dir) = (Server::start(users(NAMES)).await, tempdir());
    master.pause_lists(true);
    for _ in 0..3 {
        let before = master.updates();
        let murder = to_follow(&[&master], dir.path());
        until("a list has begun", async || master.updates() > before).await;
        tokio::time::timeout(TEST_TIMEOUT, murder.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn removed_replica_is_built_anew_and_makes_none_unknown() {
    let (master, dir, murder) = a_murder().await;
    let data = dir.path().join("replica/data.mdb");
    fs::remove_file(&data).unwrap();
    // No file can be created there until this is removed.
    std::os::unix::fs::symlink(dir.path().join("missing/data.mdb"), &data).unwrap();
    master.put("user.new", "be1");
    until("it is noticed", async || {
        assert_ne!(answer(&murder, "user.u1").await, Answer::Unknown);
        let doubt =
            replica(&murder).status().doubt.map_or_else(String::new, |doubt| doubt.to_string());
        doubt.contains("the replica cannot be written") && doubt.contains("data.mdb")
    })
    .await;
    assert!(matches!(answer(&murder, "user.stranger").await, Answer::Later(_)));
    until("it is tried again", async || master.updates() >= 3).await;
    let updates = master.seen().updates.lock().unwrap().clone();
    assert!(updates[1] - updates[0] >= Duration::from_secs(2), "a hot loop of lists");
    assert!(updates[2] - updates[1] >= Duration::from_secs(2), "a hot loop of lists");
    fs::remove_file(&data).unwrap();
    settled(&murder).await;
    all_are_found(&murder, NAMES);
    assert!(matches!(look(&murder, "user.new"), Lookup::Present(_)));
}

#[tokio::test]
async fn slow_writer_holds_up_the_stream_and_loses_nothing() {
    const MANY: usize = 150_000;
    let master = Server::start(users(MANY)).await;
    let upstream = Arc::new(upstream(&mupdate(&[&master])));
    let standing = ReplicaState::new(ReplicaMeta::default(), 0, std::time::SystemTime::now());
    let state = Arc::new(FollowerState::new(upstream.clock(), standing));
    let (tell, mut told) = mpsc::channel(8);
    let stream = tokio::spawn(stream::run(upstream, state, tell));
    until("nothing goes in any more", async || told.len() == 8).await;
    // Longer than the longest silence allowed after the list.
    tokio::time::sleep(timings().noop_answer * 2).await;
    assert_eq!(told.len(), 8);
    let (mut came, mut listed, mut barriers) = (std::collections::HashSet::new(), false, 0);
    while barriers < 2 {
        match told.recv().await.unwrap() {
            StreamInput::Connected { .. } => assert!(came.is_empty()),
            StreamInput::Disconnected => panic!("it was given up"),
            StreamInput::Events(events) => {
                assert!(events.len() <= 1024, "{}", events.len());
                for event in events {
                    match event {
                        Event::Record(name, _) => assert!(came.insert(name) && !listed),
                        Event::Listed => listed = true,
                        Event::Current { .. } => barriers += 1,
                        Event::Deleted(name) => panic!("{name}"),
                    }
                }
            }
        }
    }
    assert_eq!(came.len(), MANY);
    assert_eq!(master.seen().connections.load(SeqCst), 1);
    // The stream ends with its writer.
    drop(told);
    tokio::time::timeout(TEST_TIMEOUT, stream).await.unwrap().unwrap();
}
