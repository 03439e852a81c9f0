//! Connections of the daemon to a master that is killed, hangs, gives wrong answers, and comes back.

mod asking;
mod following;
mod logging_in;
mod master;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::master::{Master as Server, PASSWORD, USER, Ways};
use super::*;
use crate::config::{Mupdate, ReplicaSettings, TlsSettings};
use crate::lists::combined::{Lists, Source};
use crate::model::list::{Lookup, MailboxList};
use crate::model::secret::Secret;
use crate::mupdate::{Credentials, Timings, WhenTls};
use crate::replica::ReplicaSource;

/// Time limit of every wait, also on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(40);

/// The answer a mail server would get.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    At(String),
    Unknown,
    Later(String),
}

fn name(name: &str) -> MailboxName {
    MailboxName::new(name).unwrap()
}

/// `user.u0` and so on.
fn users(number: usize) -> impl Iterator<Item = String> {
    (0..number).map(|n| format!("user.u{n}"))
}

fn timings() -> Timings {
    Timings {
        banner: Duration::from_secs(1),
        login: Duration::from_secs(5),
        list_silence: Duration::from_secs(5),
        noop_every: Duration::from_millis(50),
        noop_answer: Duration::from_millis(1500),
        find_answer: Duration::from_millis(1500),
        keep_alive: Duration::from_millis(100),
        ..Timings::default()
    }
}

fn credentials(password: &str) -> Credentials {
    Credentials {
        authname: USER.into(),
        password: Some(Secret::new(password)),
        ..Credentials::default()
    }
}

/// Login to these servers: in the clear, by SCRAM.
fn mupdate(servers: &[&Server]) -> Mupdate {
    Mupdate {
        servers: servers.iter().map(|server| server.address()).collect(),
        credentials: credentials(PASSWORD),
        tls: TlsSettings { when: WhenTls::Off, ..TlsSettings::default() },
        allow_plaintext: false,
        master: None,
        mechanisms: None,
        negative_cache: None,
    }
}

fn upstream(mupdate: &Mupdate) -> Upstream {
    Upstream::new(mupdate).unwrap().with_timings(timings())
}

fn to_ask(mupdate: &Mupdate) -> MasterClient {
    MasterClient::to_ask(upstream(mupdate), Need::Master)
}

fn replica_in(dir: &Path) -> ReplicaSettings {
    let accept_after = Duration::from_secs(600);
    let (max_age, max_names) = (None, None);
    ReplicaSettings { directory: dir.join("replica"), accept_after, max_age, max_names }
}

/// Follows the servers into a directory.
fn to_follow(servers: &[&Server], dir: &Path) -> MasterClient {
    MasterClient::to_follow(upstream(&mupdate(servers)), &replica_in(dir)).unwrap()
}

fn replica(murder: &MasterClient) -> &ReplicaFollower {
    murder.replica().unwrap()
}

/// The answer of the lists, as the resolver asks them.
fn look(murder: &MasterClient, user: &str) -> Lookup {
    let sources = murder.replica().map(|replica| {
        let list = Arc::new(replica.list().clone());
        Source::Replica(ReplicaSource { list, trust: replica.trust() })
    });
    Lists::new(sources.into_iter().collect()).lookup(&name(user))
}

/// The answer a mail server gets: that of the list, and on a miss that of the master as well.
async fn answer(murder: &MasterClient, user: &str) -> Answer {
    let server = |record: crate::model::record::Record| Answer::At(record.server.unwrap());
    let looked = look(murder, user);
    if let Lookup::Present(record) = looked {
        return server(record);
    }
    let found = murder.find(&name(user)).await;
    match (looked, found) {
        (_, Ok(Finding::Found(record))) => server(record),
        (Lookup::Unsure(doubt), _) | (_, Ok(Finding::Unsure(doubt))) => {
            Answer::Later(doubt.to_string())
        }
        (_, Err(Impossible(why))) => Answer::Later(why),
        (_, Ok(Finding::Absent)) => Answer::Unknown,
    }
}

/// Waits until a condition holds.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < TEST_TIMEOUT, "{what}: not within {TEST_TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until misses become unknown: the list is complete and fresh, and the master is asked.
async fn settled(murder: &MasterClient) {
    let began = Instant::now();
    loop {
        let last = answer(murder, "user.stranger").await;
        if last == Answer::Unknown {
            return;
        }
        assert!(began.elapsed() < TEST_TIMEOUT, "not settled: {last:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All of these names are at their servers, without a question to the master.
fn all_are_found(murder: &MasterClient, number: usize) {
    let asked = murder.asker().status().asked;
    for user in users(number) {
        match look(murder, &user) {
            Lookup::Present(record) => assert_eq!(record.server.as_deref(), Some("be1")),
            other => panic!("{user}: {other:?}"),
        }
    }
    assert_eq!(murder.asker().status().asked, asked);
}

fn is_later(answer: &Answer, says: &str) {
    match answer {
        Answer::Later(why) => assert!(why.contains(says), "`{why}` does not say `{says}`"),
        other => panic!("{other:?}"),
    }
}

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}
