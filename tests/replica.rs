//! The replica of a host without Cyrus, from the postmaster's view: the real program, and no master.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use common::{Daemon, Site, run};
use murder_route::model::mod_time::ModTime;
use murder_route::model::name::MailboxName;
use murder_route::model::record::{AnonymousRights, Record, State};
use murder_route::replica::store::ReplicaWriter;
use murder_route::replica::{HeldBack, ReplicaMeta, Transaction};
use serde_json::Value;

/// A port without a listener.
const DEAD: &str = "mupdate_server: 127.0.0.1:1\nmupdate_authname: a\nmupdate_password: geheim\n";

/// A replica with jane, left by an earlier daemon.
fn fill(directory: &Path, held_back: Option<HeldBack>) {
    let mut place = ReplicaWriter::open(directory).unwrap();
    let mut change = place.begin().unwrap();
    let record = Record {
        state: State::Active,
        server: Some("be1.example.org".into()),
        partition: "default".into(),
        anonymous: AnonymousRights::default(),
    };
    change.put(&MailboxName::new("user.jane").unwrap(), &record, ModTime::NOT_LATELY).unwrap();
    let about = ReplicaMeta {
        synchronised: Some(SystemTime::now()),
        as_of: Some(SystemTime::now()),
        master: "mupdate.example.org".into(),
        release: "3.6.1".into(),
        held_back,
        ..ReplicaMeta::default()
    };
    change.set_about(&about).unwrap();
    change.commit().unwrap();
}

fn held_back() -> HeldBack {
    let now = SystemTime::now();
    let (began, last) = (Duration::ZERO, Duration::ZERO);
    HeldBack { since: now, began, last, had: 1000, lost: 400, lacked: None, accepted: false }
}

/// A host that has only a copy of the relevant options of Cyrus.
fn site() -> Site {
    let site = Site::new();
    fs::remove_file(site.path("mailboxes.db")).unwrap();
    fs::write(site.path("imapd.conf"), DEAD).unwrap();
    site.config(
        "domains = [\"example.org\"]\nsource = \"replica\"\n[replica]\ndirectory = \"r\"\n",
    );
    site
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn options_alone_answer_from_a_replica() {
    let site = site();
    fill(&site.path("elsewhere"), None);
    let (conf, directory) = (site.path("imapd.conf"), site.path("elsewhere"));
    let options = [
        "--config",
        "/dev/null",
        "--imapd-conf",
        conf.to_str().unwrap(),
        "--source",
        "replica",
        "--replica",
        directory.to_str().unwrap(),
        "--allow-plaintext",
        "--domain",
        "example.org",
    ];
    let with = |command: &str, more: &[&str]| run(&[&[command], &options[..], more].concat());
    let output = with("lookup", &["--json", "jane@example.org"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["answer"], "OK lmtp:inet:be1.example.org:2003");
    let output = with("dump", &[]);
    assert_eq!(stdout(&output), "user.jane\tactive\tbe1.example.org\tdefault\n");
    let output = with("check", &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for text in
        ["1 names, of mupdate.example.org", "127.0.0.1:1", "SCRAM-SHA-256", "allow-plaintext"]
    {
        assert!(stdout(&output).contains(text), "{text}: {}", stdout(&output));
    }
    assert!(!stdout(&output).contains("geheim"));
}

#[test]
fn unreachable_master_makes_none_unknown() {
    let site = site();
    for held_back in [None, Some(held_back())] {
        fill(&site.path("r"), held_back);
        assert_eq!(site.lookup("jane@example.org")["outcome"], "deliver");
        assert_eq!(site.lookup("nobody@example.org")["outcome"], "deferred");
        let daemon = Daemon::start(&site);
        assert_eq!(daemon.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:2003");
        let nobody = daemon.ask("lmtp", "nobody@example.org");
        assert!(nobody.starts_with("OK retry:4.3.0") || nobody.starts_with("TEMP"), "{nobody}");
    }
}

#[test]
fn missing_replica_defers_with_a_reason() {
    let site = site();
    let output = site.run("lookup", &["--explain", "jane@example.org"]);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let output = site.run("check", &[]);
    assert!(stdout(&output).contains("unknown recipients are deferred"), "{}", stdout(&output));
}

#[test]
fn held_back_loss_is_accepted_by_command_only() {
    let site = site();
    let accept = || site_accept(&site);
    assert_eq!(accept().status.code(), Some(75), "nothing there");
    fill(&site.path("r"), None);
    assert_eq!(accept().status.code(), Some(1), "nothing held back");
    fill(&site.path("r"), Some(held_back()));
    let output = accept();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains("400 of 1000"), "{}", stdout(&output));
    // Until the next full list no recipient is unknown, accepted or not.
    assert_eq!(site.lookup("nobody@example.org")["outcome"], "deferred");
    let (about, _) = ReplicaWriter::open(&site.path("r")).unwrap().about().unwrap();
    assert!(about.held_back.unwrap().accepted);
}

fn site_accept(site: &Site) -> Output {
    let config = site.path("murder-route.toml");
    run(&["replica", "accept", "--config", config.to_str().unwrap()])
}

#[test]
fn status_reports_a_stale_replica_and_counts_answers() {
    let site = site();
    fill(&site.path("r"), None);
    let daemon = Daemon::start(&site);
    for _ in 0..3 {
        daemon.ask("lmtp", "jane@example.org");
    }
    daemon.ask("lmtp", "jane@elsewhere.example");
    let listen = format!("unix:{}", daemon.socket.display());
    let output = site.run("status", &["--json", "--listen", &listen]);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["state"], "stale");
    assert_eq!(status["sources"][0]["source"], "replica");
    assert_eq!((&status["names"], &status["master"]), (&1.into(), &"mupdate.example.org".into()));
    assert_eq!(status["counters"]["deliver"], 3);
    assert_eq!(status["counters"]["foreign"], 1);
    assert_eq!(status["counters"]["requests"], 4);
    for time in ["synchronised", "stale_since"] {
        let time = status[time].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == 20, "{time}");
    }
    assert!(status["barrier_age"].as_f64().unwrap() >= 0.0);
    let output = site.run("status", &["--listen", &listen]);
    assert!(stdout(&output).starts_with("state           stale\n"), "{}", stdout(&output));
    drop(daemon);
    assert_eq!(site.run("status", &["--listen", &listen]).status.code(), Some(1), "no daemon");
}

#[test]
fn status_of_a_frontend_is_good_until_its_list_is_gone() {
    let site = Site::new();
    let socket = site.path("murder-route.sock");
    site.config(&format!(
        "domains = [\"example.org\"]\n[[listen]]\nendpoint = \"unix:{}\"\n",
        socket.display()
    ));
    let _daemon = Daemon::start(&site);
    // The first endpoint of the configuration is asked.
    let ask = || {
        let output = site.run("status", &["--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), status["state"].clone())
    };
    assert_eq!(ask(), (Some(0), "file".into()));
    fs::remove_file(site.path("mailboxes.db")).unwrap();
    assert_eq!(ask(), (Some(75), "unreadable".into()));
}

#[test]
fn own_map_cannot_replace_status() {
    let site = Site::new();
    site.config("[maps.status]\ndeliver = \"OK {host}\"\n");
    let output = site.run("check", &[]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[test]
fn find_without_a_master_defers_only_our_domains() {
    let site = site();
    site.config("domains = [\"example.org\"]\nsource = \"find\"\n");
    assert_eq!(site.lookup("jane@example.org")["outcome"], "deferred");
    assert_eq!(site.lookup("jane@elsewhere.example")["outcome"], "foreign");
    assert_eq!(site.run("dump", &[]).status.code(), Some(75));
    fs::write(site.path("imapd.conf"), "configdirectory: /c\n").unwrap();
    let output = site.run("lookup", &["jane@example.org"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("mupdate_server"));
}

#[test]
fn missing_certificate_is_a_configuration_error() {
    let site = site();
    site.config(
        "domains = [\"example.org\"]\nsource = \"find\"\n[mupdate]\nca-file = \"none.pem\"\n",
    );
    let socket = format!("unix:{}", site.path("socket").display());
    for arguments in [&["serve", "--listen", &socket][..], &["lookup", "jane@example.org"]] {
        let output = site.run(arguments[0], &arguments[1..]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("none.pem"), "{output:?}");
    }
}

/// A daemon that is too busy to answer is not reported as dead.
#[test]
fn busy_daemon_is_not_reported_dead() {
    let site = Site::new();
    let path = site.path("busy");
    let socket = UnixListener::bind(&path).unwrap();
    let daemon = std::thread::spawn(move || {
        let mut client = socket.accept().unwrap().0;
        let mut asked = [0; 64];
        let read = client.read(&mut asked).unwrap();
        client.write_all(b"9:TEMP busy,").unwrap();
        asked[..read].to_vec()
    });
    let output = site.run("status", &["--listen", &format!("unix:{}", path.display())]);
    assert_eq!(daemon.join().unwrap(), b"7:status ,");
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("busy"), "{output:?}");
}
