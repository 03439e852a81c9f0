//! Questions, without a replica.

use std::sync::atomic::Ordering::SeqCst;

use tokio::task::JoinSet;

use super::master::Greeting;
use super::*;

/// Asks for all of these at once.
async fn ask_all(
    murder: &Arc<MasterClient>,
    names: Vec<String>,
) -> Vec<Result<Finding, Impossible>> {
    let mut asking = JoinSet::new();
    for user in names {
        let murder = Arc::clone(murder);
        asking.spawn(async move { murder.find(&name(&user)).await });
    }
    asking.join_all().await
}

async fn fails_with(murder: &MasterClient, says: &str) {
    let mut last = None;
    until(says, async || {
        last = murder.asker().status().failure.or(last.take());
        last.as_ref().is_some_and(|why| why.contains(says))
    })
    .await;
    is_later(&answer(murder, "user.u1").await, says);
}

#[tokio::test]
async fn master_decides_which_names_exist() {
    let master = Server::start(users(3)).await;
    let murder = to_ask(&mupdate(&[&master]));
    assert_eq!(answer(&murder, "user.u1").await, Answer::At("be1".into()));
    assert_eq!(answer(&murder, "user.stranger").await, Answer::Unknown);
    master.put("user.stranger", "be2");
    assert_eq!(answer(&murder, "user.stranger").await, Answer::At("be2".into()));
    murder.caught_up().await.unwrap();
}

#[tokio::test]
async fn name_that_a_slave_lacks_is_not_absent() {
    let ways = Ways { role: "mupdate://mu.example.org", ..Ways::default() };
    let slave = Server::start_with(users(3), ways).await;
    let murder = MasterClient::to_ask(upstream(&mupdate(&[&slave])), Need::Any);
    assert_eq!(answer(&murder, "user.u1").await, Answer::At("be1".into()));
    is_later(&answer(&murder, "user.stranger").await, "slave");
}

#[tokio::test]
async fn flood_of_questions_for_few_names_sends_few_finds() {
    let master = Server::start(users(3)).await;
    let murder = Arc::new(to_ask(&mupdate(&[&master])));
    let names = (0..1000).map(|n| format!("user.u{}", n % 5)).collect();
    let found = ask_all(&murder, names).await;
    let there = found.iter().filter(|found| matches!(found, Ok(Finding::Found(_)))).count();
    let absent = found.iter().filter(|found| **found == Ok(Finding::Absent)).count();
    assert_eq!((there, absent), (600, 400));
    let finds = master.seen().finds.load(SeqCst);
    // Four batches, and at most two questions for each name in each batch.
    assert!(finds <= 40, "{finds} FINDs");
    assert_eq!(murder.asker().status().asked, 1000);
}

#[tokio::test]
async fn answer_requested_before_the_question_does_not_count() {
    let master = Server::start(users(3)).await;
    let murder = Arc::new(to_ask(&mupdate(&[&master])));
    assert_eq!(answer(&murder, "user.u1").await, Answer::At("be1".into()));
    let ask = |user: &str| {
        let (murder, user) = (Arc::clone(&murder), name(user));
        tokio::spawn(async move { murder.find(&user).await })
    };
    for n in 0..20 {
        let user = format!("user.new{n}");
        let finds = master.seen().finds.load(SeqCst);
        master.hold_answers(true);
        let first = ask(&user);
        until("it was looked up", async || master.seen().finds.load(SeqCst) > finds).await;
        master.put(&user, "be1");
        let later = [ask(&user), ask(&user), ask(&user)];
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        master.hold_answers(false);
        assert_eq!(first.await.unwrap(), Ok(Finding::Absent));
        for later in later {
            let found = later.await.unwrap();
            assert!(matches!(found, Ok(Finding::Found(_))), "{found:?}");
        }
        // One more for all of them.
        assert_eq!(master.seen().finds.load(SeqCst), finds + 2);
    }
}

#[tokio::test]
async fn questions_beyond_the_queue_are_deferred_and_later_ones_work() {
    let master = Server::start(users(3)).await;
    let murder = Arc::new(to_ask(&mupdate(&[&master])));
    settled(&murder).await;
    master.hang(true);
    let began = Instant::now();
    for finding in ask_all(&murder, users(10_000).collect()).await {
        assert!(matches!(finding, Ok(Finding::Unsure(_))), "{finding:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    master.hang(false);
    settled(&murder).await;
}

#[tokio::test]
async fn abandoned_questions_are_not_sent() {
    let mut master = Server::start(users(3)).await;
    master.kill().await;
    master.ways().greeting = Greeting::Silent;
    master.restart().await;
    let murder = to_ask(&mupdate(&[&master]));
    until("it is connected to", async || master.seen().connections.load(SeqCst) == 1).await;
    for n in 0..100 {
        let user = name(&format!("user.gone{n}"));
        let asked = murder.find(&user);
        assert!(tokio::time::timeout(Duration::ZERO, asked).await.is_err());
    }
    master.ways().greeting = Greeting::Banner;
    until("it answers", async || answer(&murder, "user.u1").await == Answer::At("be1".into()))
        .await;
    assert!(master.seen().finds.load(SeqCst) < 20);
}

#[tokio::test]
async fn master_that_comes_back_empty_makes_none_unknown_when_asked() {
    let mut master = Server::start(users(20)).await;
    let murder = to_ask(&mupdate(&[&master]));
    for user in users(20) {
        assert_eq!(answer(&murder, &user).await, Answer::At("be1".into()));
    }
    settled(&murder).await;
    master.kill().await;
    master.lose(|_| false);
    master.restart().await;
    until("it is connected to anew", async || {
        let answer = answer(&murder, "user.u1").await;
        assert_ne!(answer, Answer::Unknown);
        matches!(&answer, Answer::Later(why) if why.contains("16 of 16"))
    })
    .await;
    is_later(&answer(&murder, "user.stranger").await, "16 of 16");
    for user in users(20) {
        master.put(&user, "be1");
    }
    settled(&murder).await;
}

#[tokio::test]
async fn lost_master_is_reported_and_asked_again() {
    let mut master = Server::start(users(3)).await;
    let murder = to_ask(&mupdate(&[&master]));
    settled(&murder).await;
    master.kill().await;
    until("it is noticed", async || murder.asker().status().server.is_none()).await;
    let began = Instant::now();
    let connections = master.seen().connections.load(SeqCst);
    for _ in 0..1000 {
        assert!(matches!(answer(&murder, "user.u1").await, Answer::Later(_)));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "at once, not after a timeout each");
    assert_eq!(master.seen().connections.load(SeqCst), connections);
    master.restart().await;
    settled(&murder).await;
}

#[tokio::test]
async fn master_with_too_many_connections_names_the_setting() {
    let ways = Ways { greeting: Greeting::Bye, ..Ways::default() };
    let master = Server::start_with(users(3), ways).await;
    fails_with(&to_ask(&mupdate(&[&master])), "mupdate_connections_max").await;
}

#[tokio::test]
async fn master_with_busy_workers_names_the_setting() {
    let ways = Ways { greeting: Greeting::Silent, ..Ways::default() };
    let master = Server::start_with(users(3), ways).await;
    fails_with(&to_ask(&mupdate(&[&master])), "mupdate_workers_max").await;
}

#[tokio::test]
async fn dripping_banner_is_not_waited_for() {
    let ways = Ways { greeting: Greeting::Endless, ..Ways::default() };
    let master = Server::start_with(users(3), ways).await;
    fails_with(&to_ask(&mupdate(&[&master])), "banner in time").await;
}

#[tokio::test]
async fn endless_line_does_not_fill_the_memory() {
    let ways = Ways { greeting: Greeting::GiantLine, ..Ways::default() };
    let master = Server::start_with(users(3), ways).await;
    fails_with(&to_ask(&mupdate(&[&master])), "does not keep to the protocol").await;
}

#[tokio::test]
async fn absent_name_is_asked_for_again_unless_configured_otherwise() {
    let mut master = Server::start(users(3)).await;
    for (keep, least) in [(None, 10), (Some(Duration::from_secs(10)), 0)] {
        let murder = to_ask(&Mupdate { negative_cache: keep, ..mupdate(&[&master]) });
        settled(&murder).await;
        // A question from before the connection does not count.
        assert_eq!(answer(&murder, "user.stranger").await, Answer::Unknown);
        let finds = master.seen().finds.load(SeqCst);
        for _ in 0..10 {
            assert_eq!(answer(&murder, "user.stranger").await, Answer::Unknown);
        }
        assert_eq!(master.seen().finds.load(SeqCst), finds + least, "{keep:?}");
    }
    // A list of this host has the name.
    let settings = Mupdate { negative_cache: Some(Duration::from_secs(10)), ..mupdate(&[&master]) };
    let murder = to_ask(&settings);
    settled(&murder).await;
    assert_eq!(answer(&murder, "user.listed").await, Answer::Unknown);
    master.put("user.listed", "be1");
    murder.is_listed(&name("user.listed"));
    assert_eq!(answer(&murder, "user.listed").await, Answer::At("be1".into()));
    // Beside a replica, the stream's state of a name takes precedence, and so does a new connection.
    let dir = tempdir();
    let murder = MasterClient::to_follow(upstream(&settings), &replica_in(dir.path())).unwrap();
    settled(&murder).await;
    assert_eq!(answer(&murder, "user.new").await, Answer::Unknown);
    master.put("user.new", "be1");
    until("the stream tells of it", async || look(&murder, "user.new") != Lookup::Absent).await;
    assert!(matches!(murder.find(&name("user.new")).await, Ok(Finding::Found(_))));

    assert_eq!(answer(&murder, "user.later").await, Answer::Unknown);
    master.kill().await;
    until("it is noticed", async || murder.asker().status().server.is_none()).await;
    assert!(matches!(answer(&murder, "user.later").await, Answer::Later(_)));
    master.put("user.later", "be1");
    master.restart().await;
    until("it is there", async || {
        let answer = answer(&murder, "user.later").await;
        assert_ne!(answer, Answer::Unknown);
        answer == Answer::At("be1".into())
    })
    .await;
}
