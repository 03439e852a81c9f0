//! A list of this host that loses names, and a daemon that is restarted.

mod common;

use std::fs;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use common::{Daemon, Site};
use nix::sys::signal::Signal;

const DELIVER: &str = "OK lmtp:inet:be1.example.org:2003";
const UNKNOWN: &str = "OK error:5.1.1 User unknown";

/// A frontend whose list has these users, as Cyrus 2.5 writes it.
fn site(users: std::ops::Range<usize>) -> Site {
    let site = Site::new();
    site.config("domains = [\"example.org\"]\n");
    site.imapd_conf("mboxlist_db: flat\n");
    lists(&site, users);
    site
}

fn lists(site: &Site, users: std::ops::Range<usize>) {
    let row = |n| format!("user.u{n:04}\t1 be1.example.org!default u{n:04}\tlrswipkxtecda\t\n");
    let text: String = users.map(row).collect();
    fs::write(site.path("new"), text).unwrap();
    fs::rename(site.path("new"), site.path("mailboxes.db")).unwrap();
}

/// Waits until the daemon has written this word to the file with the number of names.
fn kept(site: &Site, word: &str) {
    let text = || {
        let mut entries = fs::read_dir(site.path("state")).ok()?.flatten();
        let written = |entry: &fs::DirEntry| entry.path().extension().is_none();
        fs::read_to_string(entries.find(written)?.path()).ok()
    };
    let until = Instant::now() + common::TIMEOUT;
    while !text().is_some_and(|text| text.contains(word)) {
        assert!(Instant::now() < until, "{word:?} was never kept: {:?}", text());
        thread::sleep(Duration::from_millis(50));
    }
}

fn is_deferred(answer: &str) -> bool {
    answer.starts_with("OK retry:4.3.0") || answer.starts_with("TEMP")
}

fn accept(site: &Site) -> Output {
    Command::new(env!("CARGO_BIN_EXE_murder-route"))
        .args(["replica", "accept", "--config"])
        .arg(site.path("murder-route.toml"))
        .env("STATE_DIRECTORY", site.path("state"))
        .output()
        .unwrap()
}

#[test]
fn emptied_list_is_distrusted_after_a_restart() {
    let site = site(0..130);
    let daemon = Daemon::start(&site);
    assert_eq!(daemon.ask("lmtp", "u0007@example.org"), DELIVER);
    assert_eq!(daemon.ask("lmtp", "stranger@example.org"), UNKNOWN);
    kept(&site, " 130 trusted ");
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    // The master was emptied, and one backend has pushed its names.
    lists(&site, 0..65);
    assert_eq!(site.lookup("u0100@example.org")["outcome"], "deferred");
    let daemon = Daemon::start(&site);
    assert_eq!(daemon.ask("lmtp", "u0007@example.org"), DELIVER);
    assert!(is_deferred(&daemon.ask("lmtp", "u0100@example.org")));
    kept(&site, " 130 distrusted ");
    drop(daemon);
    // All but a few are back: the daemon waits for them, also across a restart.
    lists(&site, 0..120);
    let daemon = Daemon::start(&site);
    assert!(is_deferred(&daemon.ask("lmtp", "u0125@example.org")));
    lists(&site, 0..130);
    assert_eq!(daemon.ask("lmtp", "u0125@example.org"), DELIVER);
    assert_eq!(daemon.ask("lmtp", "stranger@example.org"), UNKNOWN);
}

#[test]
fn loss_of_the_list_is_accepted_by_command() {
    let site = site(0..130);
    let daemon = Daemon::start(&site);
    assert_eq!(accept(&site).status.code(), Some(75), "there is no replica");
    kept(&site, " 130 trusted ");
    lists(&site, 0..65);
    // A positive look-up may use a state of the file that is slightly older.
    let until = Instant::now() + common::TIMEOUT;
    loop {
        let answer = daemon.ask("lmtp", "u0100@example.org");
        if is_deferred(&answer) {
            break;
        }
        assert!(answer == DELIVER && Instant::now() < until, "{answer}");
        thread::sleep(Duration::from_millis(1));
    }
    let status: serde_json::Value =
        serde_json::from_str(daemon.ask("status", "").strip_prefix("OK ").unwrap()).unwrap();
    let doubt = status["sources"][0]["doubt"].as_str().unwrap();
    assert!(doubt.contains("murder-route replica accept"), "{doubt}");
    kept(&site, " 130 distrusted ");
    let output = accept(&site);
    assert!(output.status.success(), "{output:?}");
    kept(&site, " 65 trusted ");
    assert_eq!(daemon.ask("lmtp", "u0100@example.org"), UNKNOWN);
}

#[test]
fn daemon_that_cannot_write_the_mark_logs_it_and_serves() {
    let site = site(0..130);
    fs::write(site.path("state"), "in the way").unwrap();
    let daemon = Daemon::start(&site);
    daemon.wait_for("cannot store the number of names in the list");
    assert_eq!(daemon.ask("lmtp", "u0007@example.org"), DELIVER);
    assert_eq!(daemon.ask("lmtp", "stranger@example.org"), UNKNOWN);
}

#[test]
fn mailbox_that_is_reserved_is_named_with_its_age() {
    // carol is reserved in it.
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let until = Instant::now() + common::TIMEOUT;
    let status = loop {
        let answer = daemon.ask("status", "");
        let status: serde_json::Value =
            serde_json::from_str(answer.strip_prefix("OK ").unwrap()).unwrap();
        if status["reserved"] != 0 {
            break status;
        }
        assert!(Instant::now() < until, "{status}");
        thread::sleep(Duration::from_millis(50));
    };
    let waiting = &status["waiting"][0];
    assert_eq!(
        (&waiting["mailbox"], &waiting["state"]),
        (&"user.carol".into(), &"reserved".into())
    );
    assert!(waiting["seconds"].is_u64(), "{waiting}");
}
