//! The library on lists and a daemon that the tests create. Tests that need only a fixed list are
//! written in C and run by tests/capi.rs.

#[path = "../../../tests/capi/build.rs"]
mod build;
mod cut;
mod daemon;
mod threads;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Library, Origin, Outcome, State as Health};
use crate::address::Recipient;
use crate::config::Overrides;
use crate::cyrusdb::order::Order;
use crate::cyrusdb::skip::node::Layout;
use crate::lists::FileListOptions;
use crate::lists::mailboxes_db::lock;
use crate::model::mod_time::ModTime;
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::{AnonymousRights, Record, State};
use crate::mupdate::Event;
use crate::replica::store::ReplicaWriter;
use crate::replica::{ChangeApplier, FullSync, ReplicaMeta, SyncContext, Transaction as _};
use crate::routing::route::{Cause, Decision};
use crate::testing::cyrus_writer::{Write, Writer};
use crate::testing::random::Random;
use crate::wire::endpoint::Endpoint;
use crate::wire::socketmap::Reply;

/// Time limit of calls that should return much earlier.
const LONG: Duration = Duration::from_secs(4);

fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::new();
    MailboxName::new(name).unwrap().push_key(KeyGeneration::Separated, &mut key);
    key
}

fn value(server: &str) -> Vec<u8> {
    value_in("default", server)
}

fn value_in(partition: &str, server: &str) -> Vec<u8> {
    format!("%(T er P {partition} S {server} M 1700000000 A %(anyone p))").into_bytes()
}

/// A library over a list in which jane's record has this age in seconds, in a murder whose daemon has
/// this socket.
fn library_with_jane(origin: Origin, directory: &Path, ago: u64, socket: &Path) -> Library {
    let source = match origin {
        Origin::Replica => {
            replica_with_jane(&directory.join("r"), ago);
            "source = \"replica\"\n[replica]\ndirectory = \"r\"\n"
        }
        _ => {
            mailboxes_db_with_jane(&directory.join("mailboxes.db"), ago);
            "mailboxes-db = \"mailboxes.db\"\n"
        }
    };
    let config = directory.join("murder-route.toml");
    let text = format!(
        "domains = [\"example.org\"]\n{source}\
         [mupdate]\nservers = [\"127.0.0.1:1\"]\npassword-file = \"/nonexistent\"\n"
    );
    fs::write(&config, text).unwrap();
    let given = Overrides { config: Some(config), ..Overrides::default() };
    let daemon = Some(vec![Endpoint::Unix(socket.to_owned())]);
    Library::open(given, daemon, Duration::from_secs(60)).unwrap()
}

fn replica_with_jane(directory: &Path, ago: u64) {
    let mut place = ReplicaWriter::open(directory).unwrap();
    let mut change = place.begin().unwrap();
    let (now, wait) = (SystemTime::now(), Duration::ZERO);
    let listing = FullSync::begin(&change).unwrap();
    let (master, release, passed) = ("mupdate.example.org", "3.6.1", Duration::ZERO);
    listing.finish(&mut change, &SyncContext { master, release, now, passed }, wait).unwrap();
    let record = Record {
        state: State::Active,
        server: Some("be1.example.org".into()),
        partition: "default".into(),
        anonymous: AnonymousRights::default(),
    };
    let event = Event::Record(MailboxName::new("user.jane").unwrap(), record);
    let then = now - Duration::from_secs(ago);
    ChangeApplier::default().apply(&mut change, &event, then).unwrap();
    change.commit().unwrap();
}

fn mailboxes_db_with_jane(path: &Path, ago: u64) {
    let order = |a: &[u8], b: &[u8]| Order::Raw.compare(a, b);
    let mut writer = Writer::new(Layout::Twoskip, Random(7), 1, order);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let record = format!("%(T er P default S be1.example.org M {} A %(anyone p))", now - ago);
    writer.put(&key("user.jane"), record.as_bytes());
    writer.commit();
    fs::write(path, &writer.file).unwrap();
}

fn server(told: &Outcome) -> Option<&str> {
    told.route.server.as_deref()
}

/// Number of look-ups after which a list has its sparse index.
const MANY: u32 = 3000;

#[test]
fn cached_recipient_that_moves_is_not_delivered_to_old_place() {
    let directory = tempfile::tempdir().unwrap();
    let r = directory.path().join("r");
    for origin in [Origin::MailboxesDb, Origin::Replica] {
        let socket = directory.path().join("socket");
        let library = library_with_jane(origin, directory.path(), 3600, &socket);
        for _ in 0..MANY {
            let told = library.look_up(b"jane@example.org");
            assert_eq!((server(&told), told.origin), (Some("be1.example.org"), origin));
        }
        match origin {
            Origin::Replica => {
                let mut place = ReplicaWriter::open(&r).unwrap();
                let mut change = place.begin().unwrap();
                let record = Record {
                    state: State::Active,
                    server: Some("be2.example.org".into()),
                    partition: "default".into(),
                    anonymous: AnonymousRights::default(),
                };
                let jane = MailboxName::new("user.jane").unwrap();
                change.put(&jane, &record, ModTime::NOT_LATELY).unwrap();
                change.commit().unwrap();
            }
            _ => {
                let list = directory.path().join("mailboxes.db");
                write_list(&list, &[("user.jane", "be2.example.org")]);
            }
        }
        // A hit may have this age.
        let (moved, max_hit_age) = (Instant::now(), FileListOptions::default().max_hit_age);
        while moved.elapsed() <= max_hit_age {}
        for _ in 0..10 {
            assert_eq!(server(&library.look_up(b"jane@example.org")), Some("be2.example.org"));
        }
    }
}

#[test]
fn library_without_mupdate_server_defers_misses_of_a_murder() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("mailboxes.db");
    let config = directory.path().join("murder-route.toml");
    write_list(&list, &[("user.jane", "be1.example.org")]);
    let outcome = |misses: &str| {
        let text =
            format!("domains = [\"example.org\"]\nmailboxes-db = \"mailboxes.db\"\n{misses}");
        fs::write(&config, text).unwrap();
        let given = Overrides { config: Some(config.clone()), ..Overrides::default() };
        let library = Library::open(given, None, Duration::from_secs(60)).unwrap();
        library.look_up(b"nobody@example.org").route.decision
    };
    assert_eq!(outcome(""), Decision::Deferred(Cause::Mailbox));
    assert_eq!(outcome("misses = \"final\"\n"), Decision::Unknown);
    // The list of a single server.
    fs::write(&list, "user.jane\t0 default jane\tlrswipkxtecda\t\n").unwrap();
    assert_eq!(outcome(""), Decision::Unknown);
}

#[test]
fn user_blocked_after_many_lookups_is_deferred() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write_list(&path("mailboxes.db"), &[("user.jane", "be1.example.org")]);
    let text = format!("configdirectory: {}\n", directory.path().display());
    fs::write(path("imapd.conf"), text).unwrap();
    let text = "domains = [\"example.org\"]\nimapd-conf = \"imapd.conf\"\n";
    fs::write(path("murder-route.toml"), text).unwrap();
    let config = Some(path("murder-route.toml"));
    let given = Overrides { config, ..Overrides::default() };
    let library = Library::open(given, None, Duration::from_secs(60)).unwrap();
    for _ in 0..MANY {
        assert_eq!(server(&library.look_up(b"jane@example.org")), Some("be1.example.org"));
    }
    fs::write(path("user_deny.db"), "jane\t2\t*\t\n").unwrap();
    let began = std::time::Instant::now();
    loop {
        let told = library.look_up(b"jane@example.org");
        if told.route.decision == Decision::Deferred(Cause::Mailbox) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", told.route);
    }
}

#[test]
fn new_recipient_is_no_longer_caught_by_the_catch_all() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("mailboxes.db");
    let imapd_conf = directory.path().join("imapd.conf");
    let text = "configdirectory: /nonexistent\nlmtp_catchall_mailbox: catch\n";
    fs::write(&imapd_conf, text).unwrap();
    let config = directory.path().join("murder-route.toml");
    let text = "domains = [\"example.org\"]\nimapd-conf = \"imapd.conf\"\n\
                mailboxes-db = \"mailboxes.db\"\nmisses = \"final\"\n";
    fs::write(&config, text).unwrap();
    write_list(&list, &[("user.catch", "be1.example.org")]);
    let given = Overrides { config: Some(config), ..Overrides::default() };
    let library = Library::open(given, None, Duration::from_secs(60)).unwrap();
    for _ in 0..MANY {
        assert_eq!(server(&library.look_up(b"jane@example.org")), Some("be1.example.org"));
    }
    write_list(&list, &[("user.catch", "be1.example.org"), ("user.jane", "be2.example.org")]);
    assert_eq!(server(&library.look_up(b"jane@example.org")), Some("be2.example.org"));
}

#[test]
fn list_copied_over_a_cached_one_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let library = library_with_jane(Origin::MailboxesDb, directory.path(), 3600, &socket);
    let list = directory.path().join("mailboxes.db");
    write_list(&list, &[("user.jane", "be1.example.org")]);
    for _ in 0..MANY {
        assert_eq!(server(&library.look_up(b"jane@example.org")), Some("be1.example.org"));
    }
    let written = || {
        let metadata = fs::metadata(&list).unwrap();
        (metadata.len(), metadata.ctime(), metadata.ctime_nsec())
    };
    let before = written();
    let other = directory.path().join("other");
    write_list(&other, &[("user.jane", "be2.example.org")]);
    // The kernel's clock advances by ticks.
    while written() == before {
        fs::copy(&other, &list).unwrap();
    }
    assert_eq!(written().0, before.0);
    let (copied, max_hit_age) = (Instant::now(), FileListOptions::default().max_hit_age);
    while copied.elapsed() <= max_hit_age {}
    assert_eq!(server(&library.look_up(b"jane@example.org")), Some("be2.example.org"));
}

/// Replaces the list by another one.
fn write_list(path: &Path, names: &[(&str, &str)]) {
    let order = |a: &[u8], b: &[u8]| Order::Raw.compare(a, b);
    let mut writer = Writer::new(Layout::Twoskip, Random(7), 1, order);
    for (name, server) in names {
        writer.put(&key(name), &value(server));
    }
    writer.commit();
    let new = path.with_extension("NEW");
    fs::write(&new, &writer.file).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn deferral_by_configuration_is_the_same_for_rust_c_and_maps() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("mailboxes.db");
    write_list(&list, &[("user.jane", "be1.example.org")]);
    let config = directory.path().join("murder-route.toml");
    let open = |unknown: &str| {
        let text = format!(
            "domains = [\"example.org\"]\nmailboxes-db = \"mailboxes.db\"\nmisses = \"final\"\n\
             unknown = \"{unknown}\"\n"
        );
        fs::write(&config, text).unwrap();
        let given = Overrides { config: Some(config.clone()), ..Overrides::default() };
        Library::open(given, None, LONG).unwrap()
    };
    let nobody = b"nobody@example.org".as_slice();
    for (unknown, decision, answer) in [
        ("reject", Decision::Unknown, Reply::Ok("error:5.1.1 User unknown".into())),
        ("notfound", Decision::Unknown, Reply::NotFound),
        (
            "defer",
            Decision::Deferred(Cause::Mailbox),
            Reply::Ok("retry:4.3.0 User unknown, try again later".into()),
        ),
    ] {
        let library = open(unknown);
        let told = library.look_up_all(&[nobody, b"jane@example.org", b" a@example.org"]);
        assert_eq!(told[0].route.decision, decision, "{unknown}");
        assert_eq!(told[1].route.decision.as_str(), "deliver");
        assert_eq!(told[2].route.decision, Decision::Foreign);
        assert_eq!(library.look_up(nobody), told[0]);
        assert!(told[0].route.reason.contains("no such mailbox"));
        assert_eq!(library.answer("lmtp", nobody), Some(answer));
    }
}

#[test]
fn recipient_for_a_backend_is_in_canonical_form() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let library = library_with_jane(Origin::MailboxesDb, directory.path(), 3600, &socket);
    for (recipient, rcpt_to) in [
        ("jane@example.org", "jane@example.org"),
        ("Jane+Work@EXAMPLE.org", "jane+Work@example.org"),
        ("\"jane\"@example.org", "jane@example.org"),
        ("jane+a.b-c_d@example.org", "jane+a.b-c_d@example.org"),
        ("jane+x..y@example.org", "jane@example.org"),
    ] {
        let told = library.look_up(recipient.as_bytes());
        let given = library.rcpt_to(recipient.as_bytes(), &told.route);
        assert_eq!(given.as_deref(), Some(rcpt_to));
    }
    let told = library.look_up(b"nobody@example.org");
    assert_eq!(library.rcpt_to(b"nobody@example.org", &told.route), None);
    // A decision of the daemon without a mailbox name.
    let jane = library.look_up(b"jane@example.org").route;
    let route = crate::routing::route::Route { mailbox: None, ..jane };
    let given = library.rcpt_to(b"\"jane\"@EXAMPLE.org", &route);
    assert_eq!(given.as_deref(), Some("jane@example.org"));
    // A form that needs no rules equals the form by the rules.
    for recipient in ["a@b", "a.b+c@d.e", "a+b@example.org", "a_b-c@example.org", "a..b@c", "a.@b"]
    {
        let (parsed, found) = (
            Recipient::parse(recipient.as_bytes()).unwrap(),
            MailboxName::new("user.jane").unwrap(),
        );
        let rules = crate::address::Rules::defaults(crate::address::Release::V3_6);
        let canonical = String::from_utf8(rules.canonical(&parsed, &found)).unwrap();
        assert_eq!(
            super::recipient::is_canonical_already(recipient.as_bytes()),
            canonical == recipient
        );
    }
    for recipient in ["A@b", "a@B", "\"a\"@b", "a b@c", "a@b@c", "a", "@b", "a@", "\u{fc}@b"] {
        assert!(!super::recipient::is_canonical_already(recipient.as_bytes()), "{recipient}");
    }
    // If imapd.conf writes the domain in another way, backends use that form.
    let imapd_conf =
        "configdirectory: /nonexistent\nvirtdomains: userid\ndefaultdomain: Example.ORG\n";
    fs::write(directory.path().join("imapd.conf"), imapd_conf).unwrap();
    let config = directory.path().join("respelled.toml");
    let text = "domains = [\"example.org\"]\nimapd-conf = \"imapd.conf\"\n\
                mailboxes-db = \"mailboxes.db\"\nmisses = \"final\"\n";
    fs::write(&config, text).unwrap();
    let given = Overrides { config: Some(config), ..Overrides::default() };
    let library = Library::open(given, None, LONG).unwrap();
    let told = library.look_up(b"jane@example.org");
    let given = library.rcpt_to(b"jane@example.org", &told.route);
    assert_eq!(given.as_deref(), Some("jane@Example.ORG"));
}

#[test]
fn warnings_cover_the_configuration_and_unusable_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let text = "configdirectory: /nonexistent\nmupdate_server: 127.0.0.1:1\n\
                lmtp_fuzzy_mailbox_match: yes\nautocreate_post: yes\nautocreate_quota: 0\n";
    fs::write(path("imapd.conf"), text).unwrap();
    // No name has a label that long, so no name server is asked.
    let host = format!("{}.invalid:10026", "x".repeat(64));
    let text = format!(
        "domains = [\"example.org\"]\nimapd-conf = \"imapd.conf\"\nsource = \"find\"\n\
         [[listen]]\nendpoint = \"inet:{host}\"\n"
    );
    fs::write(path("c.toml"), text).unwrap();
    let given = Overrides { config: Some(path("c.toml")), ..Overrides::default() };
    let library = Library::open(given, None, LONG).unwrap();
    let warnings: Vec<_> = library.warnings().map(|warning| warning.to_str().unwrap()).collect();
    for wanted in ["needs a list to search", "autocreate_post", &host] {
        assert!(warnings.iter().any(|warning| warning.contains(wanted)), "{wanted}: {warnings:?}");
    }
    // The reason of a miss says so too.
    let told = library.look_up(b"jane@example.org");
    assert!(told.route.reason.contains(&host), "{told:?}");
}
