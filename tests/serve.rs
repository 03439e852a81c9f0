//! The daemon as mail servers and postmasters see it: the real program, over its socket.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Client, Daemon, LIST, Site};
use murder_route::lists::{FileList, FileListOptions};
use murder_route::model::list::MailboxList;
use murder_route::model::record::State;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

#[test]
fn every_map_answers_in_its_exact_form() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let mut client = daemon.connect();
    for (map, key, expected) in [
        ("lmtp", "jane@example.org", "OK lmtp:inet:be1.example.org:2003"),
        ("lmtp", "Max.Muster+x@EXAMPLE.org", "OK lmtp:inet:be2.example.org:2003"),
        ("lmtp", "eve@example.net", "OK lmtp:inet:be2.example.org:2003"),
        ("lmtp", "+info/press@example.org", "OK lmtp:inet:be2.example.org:2003"),
        ("lmtp", "\"jane\"@example.org", "OK lmtp:inet:be1.example.org:2003"),
        ("lmtp", "nobody@example.org", "OK error:5.1.1 User unknown"),
        ("lmtp", "carol@example.org", "OK retry:4.3.0 Mailbox is temporarily unavailable"),
        ("lmtp", "jane@elsewhere.example", "NOTFOUND "),
        ("lmtp", "*", "NOTFOUND "),
        ("lmtp", "", "NOTFOUND "),
        ("lmtp", "MAILER-DAEMON", "NOTFOUND "),
        ("recipient", "jane+x@example.org", "OK jane+x@example.org"),
        ("recipient", "nobody@example.org", "NOTFOUND "),
        ("host", "jane@example.org", "OK be1.example.org"),
        ("canonical", "Jane+Work@Example.org", "OK jane+Work@example.org"),
        ("canonical", "jane+Work@example.org", "NOTFOUND "),
        ("canonical", "Nobody@Example.org", "NOTFOUND "),
        ("nosuchmap", "jane@elsewhere.example", "NOTFOUND "),
        ("nosuchmap", "jane@example.org", "TEMP murder-route has no map named nosuchmap"),
    ] {
        assert_eq!(client.ask(map, key), expected, "{map} {key}");
    }
}

#[test]
fn user_is_found_with_a_detail_of_any_length() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let mut client = daemon.connect();
    for length in [900, 1000, 1001, 2048, 4000, 9000] {
        let detail = "x".repeat(length);
        let answer = client.ask("lmtp", &format!("jane+{detail}@example.org"));
        assert_eq!(answer, "OK lmtp:inet:be1.example.org:2003", "{length}");
        let answer = client.ask("lmtp", &format!("{detail}@example.org"));
        assert_eq!(answer, "OK error:5.1.1 User unknown", "{length}");
        assert_eq!(client.ask("lmtp", &format!("jane+{detail}@elsewhere.example")), "NOTFOUND ");
    }
    assert_eq!(client.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:2003");
}

#[test]
fn torn_emptied_or_missing_list_defers_and_recovers() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let list = site.path("mailboxes.db");
    let mut client = daemon.connect();
    let mut deferred = |what: &str| {
        // A recently found record may stay cached for a short time; a miss is never believed.
        for recipient in ["nobody@example.org", "dave@example.org"] {
            let answer = client.ask("lmtp", recipient);
            let kept = recipient.starts_with("dave") && answer.starts_with("OK lmtp:");
            assert!(answer.starts_with("TEMP ") || kept, "{what}: {recipient}: {answer}");
        }
    };
    fs::remove_file(&list).unwrap();
    deferred("removed");
    fs::write(&list, "").unwrap();
    deferred("emptied");
    fs::write(&list, [0x5a; 5000]).unwrap();
    deferred("garbage");
    fs::copy(LIST, &list).unwrap();
    assert_eq!(client.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:2003");
    assert_eq!(client.ask("lmtp", "nobody@example.org"), "OK error:5.1.1 User unknown");
    let whole = fs::read(LIST).unwrap();
    fs::write(&list, &whole[..whole.len() - 400]).unwrap();
    let answer = client.ask("lmtp", "nobody@example.org");
    assert!(answer.starts_with("TEMP "), "cut short: {answer}");
    fs::remove_file(&list).unwrap();
    fs::create_dir(&list).unwrap();
    let answer = client.ask("lmtp", "nobody@example.org");
    assert!(answer.starts_with("TEMP "), "a directory: {answer}");
}

#[test]
fn without_mupdate_server_misses_in_a_murder_are_deferred() {
    let site = Site::new();
    fs::write(
        site.path("murder-route.toml"),
        "imapd-conf = \"imapd.conf\"\ndomains = [\"example.org\"]\n",
    )
    .unwrap();
    let daemon = Daemon::start(&site);
    let deferred = "OK retry:4.3.0 Mailbox is temporarily unavailable";
    for _ in 0..2 {
        assert_eq!(daemon.ask("lmtp", "nobody@example.org"), deferred);
        assert_eq!(daemon.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:2003");
    }
    daemon.wait_for("no MUPDATE server is configured");
    let status = daemon.ask("status", "");
    assert!(status.contains("no MUPDATE server is configured"), "{status}");
}

/// Known recipients are answered at once whenever the list is complete. A truncated list makes
/// no recipient unknown.
#[test]
fn list_cut_and_restored_in_place_is_used_when_complete() {
    for engine in ["twoskip", "twom", "skiplist", "flat"] {
        let site = Site::new();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mailboxes/current-keys");
        let whole = fs::read(format!("{folder}/{engine}.db")).unwrap();
        let path = site.path("mailboxes.db");
        fs::write(&path, &whole).unwrap();
        let known = some_users(&path);
        let daemon = Daemon::start(&site);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                let (mut client, known, stop) = (daemon.connect(), &known, &stop);
                scope.spawn(move || {
                    for name in known.iter().cycle().take_while(|_| !stop.load(Ordering::SeqCst)) {
                        let answer = client.ask("lmtp", name);
                        let known = answer.starts_with("OK lmtp:") || answer.starts_with("TEMP ");
                        assert!(known, "{engine} {name}: {answer}");
                    }
                });
            }
            // Ends the other threads if this one fails.
            let _ended = Ended(&stop);
            let mut client = daemon.connect();
            for round in 0..30 {
                // As cp does: truncated, then written from the beginning.
                let mut file = fs::File::create(&path).unwrap();
                let cut = whole.len() / 2 * (round % 7) / 7;
                file.write_all(&whole[..cut]).unwrap();
                let answer = client.ask("lmtp", "nobody@example.org");
                assert!(answer.starts_with("TEMP "), "{engine} {cut}: {answer}");
                for name in known.iter().take(5) {
                    client.ask("lmtp", name);
                }
                file.write_all(&whole[cut..]).unwrap();
                for name in &known {
                    let answer = client.ask("lmtp", name);
                    assert!(answer.starts_with("OK lmtp:"), "{engine} {round} {name}: {answer}");
                }
            }
        });
    }
}

/// Sets a flag on drop.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Addresses of users in a list.
fn some_users(list: &Path) -> Vec<String> {
    let list = FileList::open(list, FileListOptions::default());
    let mut users = Vec::new();
    list.each(b"user.", &mut |name, record| {
        let local = std::str::from_utf8(&name.as_bytes()["user.".len()..]).unwrap();
        if local.bytes().all(|b| b.is_ascii_alphanumeric())
            && record.state == State::Active
            && record.server.is_some()
        {
            users.push(format!("{local}@example.org"));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(users.len() >= 10, "{users:?}");
    users
}

/// A site with a MUPDATE server, and its daemon beside the kick socket.
fn murder_site() -> Site {
    let site = Site::new();
    site.imapd_conf("mupdate_server: mupdate.example.org\n");
    site
}

#[test]
fn miss_is_unknown_only_after_the_slave_confirms_the_list() {
    let site = murder_site();
    let daemon = Daemon::start(&site);
    let mut client = daemon.connect();
    let unsure = "OK retry:4.3.0 Mailbox is temporarily unavailable";
    assert_eq!(client.ask("lmtp", "nobody@example.org"), unsure, "no slave at all");
    assert_eq!(client.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:2003");
    site.slave("");
    assert_eq!(client.ask("lmtp", "nobody@example.org"), unsure, "a slave without its master");
    let kicks = site.slave("ok");
    assert_eq!(client.ask("lmtp", "nobody@example.org"), "OK error:5.1.1 User unknown");
    assert_eq!(kicks.load(Ordering::SeqCst), 1);
    assert_eq!(client.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:2003");
    assert_eq!(kicks.load(Ordering::SeqCst), 1, "what is there needs no kick");
}

#[test]
fn silent_slave_delays_no_known_recipient() {
    let site = murder_site();
    fs::create_dir(site.path("socket")).unwrap();
    let _silent = UnixListener::bind(site.path("socket/mupdate.target")).unwrap();
    let daemon = Daemon::start(&site);
    let mut stranger = daemon.connect();
    stranger.send("lmtp", "nobody@example.org");
    for _ in 0..100 {
        assert_eq!(daemon.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:2003");
    }
    let answer = stranger.answer();
    assert!(answer.starts_with("OK retry:4.3.0 ") || answer.starts_with("TEMP "), "{answer}");
}

#[test]
fn many_misses_cost_the_slave_few_kicks() {
    let site = murder_site();
    let kicks = site.slave("ok");
    let daemon = Daemon::start(&site);
    let mut clients: Vec<Client> = (0..200).map(|_| daemon.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send("lmtp", &format!("stranger{n}@example.org"));
    }
    for client in &mut clients {
        assert_eq!(client.answer(), "OK error:5.1.1 User unknown");
    }
    let kicks = kicks.load(Ordering::SeqCst);
    assert!(kicks < 50, "{kicks} kicks for 200 unknown recipients at once");
}

#[test]
fn invalid_configuration_is_logged_and_the_old_one_kept() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let mut client = daemon.connect();
    site.config("domains = [\"example.org\"]\nbackend = 1\n");
    daemon.signal(Signal::SIGHUP);
    let told = daemon.wait_for("configuration not reloaded");
    assert!(told.contains("murder-route.toml") && told.contains("backend"), "{told}");
    assert_eq!(client.ask("lmtp", "eve@example.net"), "OK lmtp:inet:be2.example.org:2003");
    site.config("domains = [\"example.org\"]\n[backends]\nport = 24\n");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("answering at");
    assert_eq!(client.ask("lmtp", "eve@example.net"), "NOTFOUND ");
    assert_eq!(client.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:24");
}

/// Opens one idle connection for each descriptor.
#[test]
fn idle_connections_leave_descriptors_for_lookups() {
    let site = Site::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_murder-route")]);
    let socket = site.path("s");
    let endpoint = format!("unix:{}", socket.display());
    let daemon = Daemon::run(command, &site, &["--listen", &endpoint], socket);
    let mut early = daemon.connect();
    assert_eq!(early.ask("host", "jane@example.org"), "OK be1.example.org");
    let mut idle = Vec::new();
    for n in 0..300 {
        idle.push(daemon.connect());
        if n % 50 == 0 {
            assert_eq!(daemon.ask("host", "jane@example.org"), "OK be1.example.org");
        }
    }
    // The list is checked again.
    fs::copy(LIST, site.path("new.db")).unwrap();
    fs::rename(site.path("new.db"), site.path("mailboxes.db")).unwrap();
    for client in [&mut early, &mut daemon.connect()] {
        assert_eq!(client.ask("host", "jane@example.org"), "OK be1.example.org");
        assert_eq!(client.ask("lmtp", "nobody@example.org"), "OK error:5.1.1 User unknown");
    }
    daemon.wait_for("oldest connection without a request closed");
}

#[test]
fn connection_limit_above_the_system_limit_is_logged() {
    let site = Site::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128; exec \"$@\" 3>&2", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_murder-route"));
    command.args(["serve", "--config"]).arg(site.path("murder-route.toml"));
    let endpoint = format!("unix:{}", site.path("s").display());
    let mut daemon = command.args(["--listen", &endpoint]).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(daemon.stderr.take().unwrap()).lines().map_while(Result::ok);
    let told: Vec<String> = lines.take_while(|line| !line.contains("answering at")).collect();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let says = "open files limit of 128 is too low for `max-connections` = 2000";
    assert!(told.iter().any(|line| line.contains(says)), "{told:?}");
}

/// With a plain open, a FIFO waits for a writer forever, and `/dev/zero` has no end.
#[test]
fn reload_with_a_fifo_or_device_keeps_the_old_configuration() {
    let site = Site::new();
    let mupdate = "domains = [\"example.org\"]\nmailboxes-db = \"mailboxes.db\"\n[mupdate]\n\
        servers = [\"127.0.0.1:1\"]\nauthname = \"router\"\npassword-file = \"password\"\n\
        ca-file = \"ca.pem\"\n";
    let whole = || {
        site.config(mupdate);
        site.password();
        site.imapd_conf(&format!("@include: {}\n", site.path("more.conf").display()));
        fs::write(site.path("more.conf"), "# nothing\n").unwrap();
        let certificate = rcgen::generate_simple_self_signed(["mupdate".to_owned()]).unwrap();
        fs::write(site.path("ca.pem"), certificate.cert.pem()).unwrap();
    };
    whole();
    let daemon = Daemon::start(&site);
    for name in ["murder-route.toml", "imapd.conf", "more.conf", "password", "ca.pem"] {
        for zero in [false, true] {
            let path = site.path(name);
            fs::remove_file(&path).unwrap();
            match zero {
                true => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                false => mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap(),
            }
            if name == "ca.pem" {
                // It is read only where TLS is set up again.
                site.config(&format!("{mupdate}tls-name = \"x\"\n"));
            }
            daemon.signal(Signal::SIGHUP);
            let told = daemon.wait_for("configuration not reloaded");
            // Nor are the permissions of /dev/zero those of a password file.
            let what = if zero { "a device" } else { "a FIFO" };
            let named =
                told.contains(name) && told.contains(&format!("is {what}, not a regular file"));
            assert!(named, "{told}");
            assert_eq!(daemon.ask("host", "jane@example.org"), "OK be1.example.org");
            // Nor does a command hang.
            let check = site.run("check", &[]);
            assert_eq!(check.status.code(), Some(78), "{name}: {check:?}");
            fs::remove_file(&path).unwrap();
            whole();
            daemon.signal(Signal::SIGHUP);
            daemon.wait_for("answering at");
        }
    }
}

#[test]
fn reload_without_vital_settings_keeps_the_old_ones() {
    let site = Site::new();
    let server = "mupdate_server: 127.0.0.1:1\nmupdate_authname: a\nmupdate_password: b\n";
    site.imapd_conf(server);
    let whole = fs::read_to_string(site.path("imapd.conf")).unwrap();
    let toml = fs::read_to_string(site.path("murder-route.toml")).unwrap();
    let daemon = Daemon::start(&site);
    let without = |option: &str| -> String {
        let kept = whole.lines().filter(|line| !line.starts_with(option));
        kept.map(|line| format!("{line}\n")).collect()
    };
    let imapd_confs = [
        (String::new(), "configdirectory"),
        (without("configdirectory"), "configdirectory"),
        (without("virtdomains"), "`virtdomains`"),
        (without("defaultdomain"), "`defaultdomain`"),
        (without("mupdate_server"), "`mupdate_server`"),
        (whole.lines().next().unwrap().to_owned(), "`mupdate_server`"),
    ];
    for (imapd_conf, lost) in imapd_confs {
        fs::write(site.path("imapd.conf"), &imapd_conf).unwrap();
        daemon.signal(Signal::SIGHUP);
        let told = daemon.wait_for("configuration not reloaded");
        assert!(told.contains(lost), "{imapd_conf:?}: {told}");
        assert_eq!(daemon.ask("lmtp", "eve@example.net"), "OK lmtp:inet:be2.example.org:2003");
    }
    fs::write(site.path("imapd.conf"), &whole).unwrap();
    for config in ["imapd-conf = \"imapd.conf\"\n", "mailboxes-db = \"mailboxes.db\"\n"] {
        fs::write(site.path("murder-route.toml"), config).unwrap();
        daemon.signal(Signal::SIGHUP);
        let told = daemon.wait_for("configuration not reloaded");
        assert!(told.contains("`domains`"), "{config:?}: {told}");
    }
    fs::write(site.path("murder-route.toml"), toml + "[backends]\nport = 24\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("answering at");
    assert_eq!(daemon.ask("lmtp", "eve@example.net"), "OK lmtp:inet:be2.example.org:24");
}

#[test]
fn reload_with_an_unusable_listener_changes_nothing() {
    let site = Site::new();
    let [socket, other, policy] = ["murder-route.sock", "other", "policy"].map(|n| site.path(n));
    let listen = |mode: &str, more: &str| {
        let one = |path: &Path| {
            format!("[[listen]]\nendpoint = \"unix:{}\"\nmode = \"{mode}\"\n", path.display())
        };
        let sockets = [one(&socket), one(&policy), one(&other)].concat();
        site.config(&format!("domains = [\"example.org\"]\n{more}\n{sockets}"));
    };
    let mode = || fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    listen("0666", "");
    let daemon = Daemon::start_as_configured(&site, socket.clone());
    fs::remove_file(&other).unwrap();
    fs::create_dir(&other).unwrap();
    listen("0600", "[backends]\nport = 24");
    daemon.signal(Signal::SIGHUP);
    let told = daemon.wait_for("configuration not reloaded");
    assert!(told.contains(&format!("cannot listen at unix:{}", other.display())), "{told}");
    for socket in [&socket, &policy] {
        let answer = Client::connect(socket).ask("lmtp", "jane@example.org");
        assert_eq!(answer, "OK lmtp:inet:be1.example.org:2003");
    }
    assert_eq!(mode(), 0o666);
    fs::remove_dir(&other).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("answering at");
    for socket in [&socket, &policy, &other] {
        let answer = Client::connect(socket).ask("lmtp", "jane@example.org");
        assert_eq!(answer, "OK lmtp:inet:be1.example.org:24");
    }
    assert_eq!(mode(), 0o600);
}

/// A mail server's request to it would wait until the mail server's timeout.
#[test]
fn unused_socket_of_systemd_is_logged() {
    let site = Site::new();
    let listener = UnixListener::bind(site.path("systemd")).unwrap();
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 \
        LISTEN_FDNAMES=murder-route.socket; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).stdin(Stdio::from(OwnedFd::from(listener)));
    let own = format!("unix:{}", site.path("own").display());
    command.arg(env!("CARGO_BIN_EXE_murder-route"));
    let daemon = Daemon::run(command, &site, &["--listen", &own], site.path("own"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("listen at systemd:murder-route.socket");
    assert_eq!(daemon.ask("host", "jane@example.org"), "OK be1.example.org");
}

#[test]
fn stop_answers_requests_in_flight_and_removes_sockets() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let socket = daemon.socket.clone();
    let mut idle = daemon.connect();
    assert_eq!(idle.ask("host", "jane@example.org"), "OK be1.example.org");
    daemon.signal(Signal::SIGTERM);
    // An idle connection is closed, so the client does not hang.
    let mut rest = Vec::new();
    idle.0.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(daemon.wait(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn invalid_netstring_gets_one_answer_and_disturbs_no_other() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let mut good = daemon.connect();
    for garbage in ["\x16\x03\x01\r\n\r\n", "05:lmtp ,", "99999999999:", "3:lmtp,", "-1:,"] {
        let mut bad = daemon.connect();
        bad.0.write_all(garbage.as_bytes()).unwrap();
        let answer = bad.answer();
        assert!(answer.starts_with("TEMP "), "{garbage:?}: {answer}");
        assert_eq!(bad.rest(), "", "{garbage:?}");
        assert_eq!(good.ask("host", "jane@example.org"), "OK be1.example.org");
    }
}

#[test]
fn unreadable_and_recovered_lists_are_logged() {
    let site = Site::new();
    let manager = UnixDatagram::bind(site.path("notify")).unwrap();
    manager.set_read_timeout(Some(common::TIMEOUT)).unwrap();
    let shown = |wanted: &str| {
        let mut message = [0; 4096];
        loop {
            let length = manager.recv(&mut message).unwrap();
            let said = String::from_utf8_lossy(&message[..length]);
            if said.contains("STATUS=") && said.contains(wanted) {
                return;
            }
        }
    };
    let state = |daemon: &Daemon| {
        let said = daemon.ask("status", "");
        let said: serde_json::Value = serde_json::from_str(&said["OK ".len()..]).unwrap();
        said["state"].as_str().unwrap().to_owned()
    };
    let socket = site.path("murder-route.sock");
    let endpoint = format!("unix:{}", socket.display());
    let mut program = Command::new(env!("CARGO_BIN_EXE_murder-route"));
    program.env("NOTIFY_SOCKET", site.path("notify"));
    let daemon = Daemon::run(program, &site, &["--listen", &endpoint], socket);
    shown("answering at ");

    let list = site.path("mailboxes.db");
    let aside = site.path("aside");
    let whole = fs::read(&list).unwrap();
    let spoilt: [(&str, &dyn Fn()); 4] = [
        ("No such file", &|| ()),
        ("directory", &|| fs::create_dir(&list).unwrap()),
        ("not a regular file", &|| {
            nix::unistd::mkfifo(&list, Mode::from_bits_truncate(0o600)).unwrap()
        }),
        ("empty", &|| fs::write(&list, "").unwrap()),
    ];
    for (why, spoil) in spoilt {
        fs::rename(&list, &aside).unwrap();
        spoil();
        let line = daemon.wait_for("recipients are deferred until it can be read");
        assert!(line.contains(why), "{line}");
        shown(why);
        assert_eq!(state(&daemon), "unreadable");
        let _ = fs::remove_file(&list).or_else(|_| fs::remove_dir(&list));
        fs::rename(&aside, &list).unwrap();
        daemon.wait_for("mailboxes.db: readable again");
        shown("answering at ");
        assert_eq!(state(&daemon), "file");
    }

    // Within the records: the header stays intact.
    let mut torn = whole.clone();
    let at = whole.len() - 300;
    torn[at..].fill(0);
    fs::write(&list, &torn).unwrap();
    let line = daemon.wait_for("not found in it are deferred");
    assert!(line.contains("mailboxes.db: offset "), "{line}");
    assert_eq!(state(&daemon), "doubted");
    fs::write(&list, &whole).unwrap();
    daemon.wait_for("mailboxes.db: readable again");
    assert_eq!(state(&daemon), "file");
}
