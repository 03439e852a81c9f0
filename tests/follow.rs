//! The daemon and the commands with a MUPDATE master, on a host without Cyrus and on a frontend.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::master::Master;
use common::{Daemon, Site, TIMEOUT};
use nix::sys::signal::Signal;
use serde_json::Value;

const LIST: &[(&str, &str)] =
    &[("user.jane", "be1.example.org!default"), ("user.bob", "be2.example.org!default")];

/// A host without Cyrus whose replica follows this master.
fn site(master: &Master, source: &str) -> Site {
    let site = Site::new();
    fs::remove_file(site.path("mailboxes.db")).unwrap();
    fs::write(site.path("imapd.conf"), master.imapd_conf()).unwrap();
    site.config(&format!(
        "domains = [\"example.org\"]\nsource = {source}\n[replica]\ndirectory = \"r\"\n\
         [mupdate]\nallow-plaintext = true\n"
    ));
    site
}

fn status(site: &Site, daemon: &Daemon) -> (Option<i32>, Value) {
    let listen = format!("unix:{}", daemon.socket.display());
    let output = site.run("status", &["--json", "--listen", &listen]);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Waits until the condition holds.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < TIMEOUT, "{what}: never");
        sleep(Duration::from_millis(20));
    }
}

const JANE: &str = "OK lmtp:inet:be1.example.org:2003";
const UNKNOWN: &str = "OK error:5.1.1 User unknown";

fn fresh(site: &Site, daemon: &Daemon) {
    until("fresh", || status(site, daemon).1["state"] == "fresh");
}

#[test]
fn host_without_cyrus_follows_the_master() {
    let master = Master::start(LIST);
    let site = site(&master, "\"replica\"");
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    assert_eq!(daemon.ask("lmtp", "jane@example.org"), JANE);
    until("unknown", || daemon.ask("lmtp", "nobody@example.org") == UNKNOWN);
    assert!(master.asked().contains(&"user.nobody".to_owned()));
    assert!(!master.asked().contains(&"user.jane".to_owned()), "the known are not asked for");
    let (exit, said) = status(&site, &daemon);
    assert_eq!((exit, &said["names"]), (Some(0), &2.into()), "{said}");
    assert_eq!(said["master"], "mu.example.org");
    assert!(said["counters"]["confirmations"].as_u64() > Some(0), "{said}");
    // Created, moved, deleted.
    master.set("user.nobody", "be1.example.org!default");
    until("created", || daemon.ask("lmtp", "nobody@example.org") == JANE);
    master.set("user.nobody", "be2.example.org!default");
    until("moved", || daemon.ask("lmtp", "nobody@example.org").contains("be2"));
    master.delete("user.nobody");
    until("deleted", || daemon.ask("lmtp", "nobody@example.org") == UNKNOWN);
    // Commands answer from the same replica while the daemon runs.
    assert_eq!(site.lookup("jane@example.org")["answer"], JANE);
    assert_eq!(site.lookup("nobody@example.org")["outcome"], "unknown");
    let check = site.run("check", &[]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("the server announces itself as mu.example.org"), "{check}");
}

#[test]
fn recently_moved_mailbox_is_found_before_the_stream_has_it() {
    let master = Master::start(LIST);
    let site = site(&master, "\"replica\"");
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    let moves_to = |server: &str| {
        master.set("user.jane", &format!("{server}.example.org!default"));
        format!("OK lmtp:inet:{server}.example.org:2003")
    };
    let now_at = moves_to("be2");
    until("moved", || daemon.ask("lmtp", "jane@example.org") == now_at);
    // The stream sends changes every 2 s or so: none of these has arrived when the recipient is looked up.
    for server in ["be3", "be1", "be2", "be3", "be1"] {
        let now_at = moves_to(server);
        assert_eq!(daemon.ask("lmtp", "jane@example.org"), now_at);
    }
    // Also by another protocol.
    for server in ["be2", "be3"] {
        let now_at = moves_to(server).replacen("OK", "200", 1);
        let mut line = UnixStream::connect(&daemon.socket).unwrap();
        line.write_all(b"get jane@example.org\n").unwrap();
        let mut answer = String::new();
        BufReader::new(line).read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), now_at);
    }
    // Also by a command, and by a daemon that was just started.
    let now_at = moves_to("be1");
    assert_eq!(site.lookup("jane@example.org")["answer"], now_at);
    until("streamed", || daemon.ask("lmtp", "jane@example.org") == now_at);
    drop(daemon);
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    for server in ["be2", "be3", "be1", "be2", "be3"] {
        let now_at = moves_to(server);
        assert_eq!(daemon.ask("lmtp", "jane@example.org"), now_at);
    }
    assert!(!master.asked().contains(&"user.bob".to_owned()), "who stays is not asked for");
    let (_, said) = status(&site, &daemon);
    assert!(said["counters"]["asked_again"].as_u64() >= Some(5), "{said}");
    // Without the master the list's record is used, at once.
    drop(master);
    let began = Instant::now();
    assert!(daemon.ask("lmtp", "jane@example.org").starts_with("OK lmtp:inet:be"));
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn long_list_does_not_reconfirm_known_names() {
    const MANY: usize = 30_000;
    let names: Vec<String> = (0..MANY).map(|n| format!("user.u{n}")).collect();
    let list: Vec<(&str, &str)> =
        names.iter().map(|name| (name.as_str(), "be1.example.org!default")).collect();
    let master = Master::start(&list[..100]);
    let site = site(&master, "\"replica\"");
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    let port = master.port;
    drop(master);
    let master = Master::start_at(port, &list);
    until("the list", || {
        assert_eq!(daemon.ask("lmtp", "u99@example.org"), JANE);
        status(&site, &daemon).1["names"] == MANY
    });
    until("connected", || daemon.ask("lmtp", "nobody@example.org") == UNKNOWN);
    for n in 0..100 {
        assert_eq!(daemon.ask("lmtp", &format!("u{n}@example.org")), JANE);
    }
    assert!(master.asked().iter().all(|name| name == "user.nobody"), "{:?}", master.asked());
}

#[test]
fn sendmail_now_gets_the_present_backend() {
    let master = Master::start(LIST);
    let site = site(&master, "\"replica\"");
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    let asked_for_bob = || master.asked().contains(&"user.bob".to_owned());
    assert!(daemon.ask("sendmail", "bob@example.org").contains("be2") && !asked_for_bob());
    assert!(daemon.ask("sendmail_now", "bob@example.org").contains("be2") && asked_for_bob());
    // Before the stream has it.
    let jane = |host: &str| format!("OK lmtp:{host}.example.org:2003!jane@example.org");
    master.set("user.jane", "be3.example.org!default");
    assert_eq!(daemon.ask("sendmail_now", "jane@example.org"), jane("be3"));
    until("streamed", || daemon.ask("sendmail", "jane@example.org") == jane("be3"));
    drop(master);
    assert_eq!(daemon.ask("sendmail_now", "jane@example.org"), jane("be3"));
}

#[test]
fn dead_master_leaves_known_answered_and_none_unknown() {
    let master = Master::start(LIST);
    let site = site(&master, "\"replica\"");
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    let port = master.port;
    drop(master);
    until("stale", || status(&site, &daemon).0 == Some(75));
    let deferred = |daemon: &Daemon| {
        let nobody = daemon.ask("lmtp", "nobody@example.org");
        assert!(nobody.starts_with("OK retry:4.3.0") || nobody.starts_with("TEMP "), "{nobody}");
        assert_eq!(daemon.ask("lmtp", "jane@example.org"), JANE);
    };
    deferred(&daemon);
    // Also after a crash of the daemon, before it has contacted the master.
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let daemon = Daemon::start(&site);
    deferred(&daemon);
    assert!(status(&site, &daemon).1["trouble"].is_string());
    // It recovers without help.
    let _master = Master::start_at(port, LIST);
    until("unknown again", || daemon.ask("lmtp", "nobody@example.org") == UNKNOWN);
}

#[test]
fn source_find_asks_about_every_recipient() {
    let master = Master::start(LIST);
    let site = site(&master, "\"find\"");
    assert_eq!(site.lookup("jane@example.org")["answer"], JANE);
    assert_eq!(site.lookup("nobody@example.org")["outcome"], "unknown");
    let daemon = Daemon::start(&site);
    assert_eq!(daemon.ask("lmtp", "jane@example.org"), JANE);
    assert_eq!(daemon.ask("lmtp", "nobody@example.org"), UNKNOWN);
    assert_eq!(status(&site, &daemon).1["state"], "connected");
    drop(master);
    let jane = daemon.ask("lmtp", "jane@example.org");
    assert!(jane.starts_with("OK retry:4.3.0") || jane.starts_with("TEMP "), "{jane}");
}

#[test]
fn account_lost_by_the_slave_is_still_routed() {
    let master = Master::start(&[("user.lost", "be1.example.org!default")]);
    let site = Site::new();
    site.imapd_conf(&master.imapd_conf());
    site.config("domains = [\"example.org\"]\n[mupdate]\nallow-plaintext = true\n");
    let daemon = Daemon::start(&site);
    assert_eq!(daemon.ask("lmtp", "lost@example.org"), JANE);
    assert_eq!(daemon.ask("lmtp", "nobody@example.org"), UNKNOWN);
    assert_eq!(site.lookup("lost@example.org")["answer"], JANE);
}

/// `ctl_cyrusdb -r` of a master that restarts in the middle of an XFER removes the user's name.
#[test]
fn name_last_seen_reserved_is_deferred_when_it_vanishes() {
    let later = |answer: &str| answer.starts_with("OK retry:4.3.0") || answer.starts_with("TEMP ");
    for source in ["\"mailboxes-db\"", "\"find\""] {
        let master = Master::start(&[("user.moves", "be1.example.org!default")]);
        let site = Site::new();
        site.imapd_conf(&master.imapd_conf());
        site.config(&format!(
            "domains = [\"example.org\"]\nsource = {source}\n[mupdate]\nallow-plaintext = true\n"
        ));
        let daemon = Daemon::start(&site);
        assert_eq!(daemon.ask("lmtp", "moves@example.org"), JANE);
        master.reserve("user.moves");
        let reserved = daemon.ask("lmtp", "moves@example.org");
        assert!(later(&reserved), "{source}: {reserved}");
        master.delete("user.moves");
        let vanished = daemon.ask("lmtp", "moves@example.org");
        assert!(later(&vanished), "{source}: {vanished}");
        daemon.wait_for("was reserved or moving");
        assert_eq!(daemon.ask("lmtp", "nobody@example.org"), UNKNOWN);
        // A backend pushed it again; its next deletion is final.
        master.set("user.moves", "be1.example.org!default");
        assert_eq!(daemon.ask("lmtp", "moves@example.org"), JANE);
        master.delete("user.moves");
        assert_eq!(daemon.ask("lmtp", "moves@example.org"), UNKNOWN, "{source}");
    }
}

#[test]
fn password_is_not_sent_in_the_clear() {
    let master = Master::start(LIST);
    let site = site(&master, "\"find\"");
    site.config("domains = [\"example.org\"]\nsource = \"find\"\n");
    let answer = site.lookup("nobody@example.org");
    assert_eq!(answer["outcome"], "deferred");
    assert!(answer["reason"].as_str().unwrap().contains("allow-plaintext"), "{answer}");
    assert!(master.asked().is_empty());
    let output = site.run("lookup", &["--allow-plaintext", "nobody@example.org"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// Monitoring must not report an error for ever on a frontend that can ask only its slave.
#[test]
fn status_is_good_with_the_slave_in_place_of_the_master() {
    let master = Master::start(LIST);
    let site = Site::new();
    site.imapd_conf(&master.imapd_conf());
    site.config("domains = [\"example.org\"]\n");
    let daemon = Daemon::start(&site);
    daemon.wait_for("cannot ask the MUPDATE server");
    // The slave is asked, and does not exist here.
    let (exit, said) = status(&site, &daemon);
    let trouble = said["trouble"].as_str().unwrap_or_default();
    assert!(exit == Some(75) && trouble.contains("mupdate.target"), "{said}");
    let nobody = daemon.ask("lmtp", "nobody@example.org");
    assert!(nobody.starts_with("OK retry:4.3.0") || nobody.starts_with("TEMP "), "{nobody}");
    site.slave("ok");
    let (exit, said) = status(&site, &daemon);
    assert_eq!((exit, &said["source"]), (Some(0), &"mailboxes-db".into()), "{said}");
    assert_eq!(daemon.ask("lmtp", "nobody@example.org"), UNKNOWN);
}

#[test]
fn half_list_makes_none_unknown_until_accepted() {
    let names: Vec<String> = (0..300).map(|n| format!("user.u{n}")).collect();
    let list: Vec<(&str, &str)> =
        names.iter().map(|name| (name.as_str(), "be1.example.org!default")).collect();
    let master = Master::start(&list);
    let site = site(&master, "\"replica\"");
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    until("unknown", || daemon.ask("lmtp", "nobody@example.org") == UNKNOWN);
    let port = master.port;
    drop(master);
    let _master = Master::start_at(port, &list[..150]);
    until("held back", || {
        // Also on the way there.
        assert_eq!(daemon.ask("lmtp", "u299@example.org"), JANE);
        status(&site, &daemon).1["state"] == "held-back"
    });
    let nobody = daemon.ask("lmtp", "nobody@example.org");
    assert!(nobody.starts_with("OK retry:4.3.0") || nobody.starts_with("TEMP "), "{nobody}");
    let (exit, said) = status(&site, &daemon);
    let doubt = said["sources"][0]["doubt"].as_str().unwrap_or_default();
    assert!(exit == Some(75) && doubt.contains("replica accept"), "{said}");
    let config = site.path("murder-route.toml");
    let output = common::run(&["replica", "accept", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    until("accepted", || daemon.ask("lmtp", "u299@example.org") == UNKNOWN);
    assert_eq!(daemon.ask("lmtp", "u1@example.org"), JANE);
    fresh(&site, &daemon);
}

#[test]
fn reload_keeps_the_replica_and_its_connection() {
    let master = Master::start(LIST);
    let site = site(&master, "\"replica\"");
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("answering at");
    assert_eq!(status(&site, &daemon).0, Some(0));
    // Settings that would need a second writer of the replica apply at the next start.
    let config = fs::read_to_string(site.path("murder-route.toml")).unwrap();
    fs::write(site.path("murder-route.toml"), format!("{config}tls = \"off\"\n")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("take effect at the next start");
    assert_eq!(daemon.ask("lmtp", "jane@example.org"), JANE);
    assert_eq!(status(&site, &daemon).0, Some(0));
}

#[test]
fn mailbox_that_two_backends_claim_is_named() {
    let master = Master::start(LIST);
    let site = site(&master, "\"replica\"");
    let daemon = Daemon::start(&site);
    fresh(&site, &daemon);
    for server in ["be2", "be1", "be2"] {
        master.set("user.jane", &format!("{server}.example.org!default"));
        let place = format!("OK lmtp:inet:{server}.example.org:2003");
        let moved = || stored(&site).contains(&format!("user.jane\tactive\t{server}."));
        until(&place, moved);
    }
    let (_, said) = status(&site, &daemon);
    assert_eq!(said["flipping"][0]["mailbox"], "user.jane", "{said}");
    assert_eq!(said["flipping"][0]["times"], 2, "{said}");
    assert_eq!((&said["missing"], &said["reserved"]), (&0.into(), &0.into()), "{said}");
    let listen = format!("unix:{}", daemon.socket.display());
    let text = site.run("status", &["--listen", &listen]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("user.jane by be"), "{text}");
}

/// Output of `dump`.
fn stored(site: &Site) -> String {
    String::from_utf8(site.run("dump", &[]).stdout).unwrap()
}
