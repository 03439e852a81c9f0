//! `murder-route doctor` from outside: a site with a daemon, backends and a master. Postfix is only the
//! output of its `postconf`.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use common::master::Master;
use common::{Daemon, Site};
use serde_json::Value;

/// Behaviour of a backend.
#[derive(Clone, Copy)]
enum Lmtpd {
    /// As `lmtpd -a`.
    PreAuthorised,
    WantsLogin,
    /// Has no such mailbox.
    Refuses,
    /// `421` as its greeting.
    GoingDown,
    /// A greeting that never ends.
    Endless,
    /// Another protocol.
    Ssh,
    /// Closes the connection after LHLO.
    Closes,
}

/// A backend in a thread, and the lines it received.
struct Backend {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    fn start(name: &'static str, kind: Lmtpd) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // An error means that the doctor closed the connection.
                let _ = serve(name, kind, stream, &hears);
            }
        });
        Self { port, heard }
    }
}

fn serve(
    name: &str,
    kind: Lmtpd,
    stream: TcpStream,
    heard: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    match kind {
        Lmtpd::GoingDown => return write!(out, "421 4.3.2 going down\r\n"),
        Lmtpd::Ssh => return write!(out, "SSH-2.0-OpenSSH_9.2\r\n"),
        Lmtpd::Endless => loop {
            out.write_all(&[b'2'; 4096])?;
        },
        _ => write!(out, "220 {name} Cyrus LMTP 3.6.1-Debian server ready\r\n")?,
    }
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let word = line.split(' ').next().unwrap_or_default();
        heard.lock().unwrap().push(word.to_owned());
        match (word, kind) {
            ("LHLO", Lmtpd::Closes) => return Ok(()),
            ("LHLO", Lmtpd::WantsLogin) => {
                write!(out, "250-{name}\r\n250-SIZE\r\n250-AUTH SCRAM-SHA-1\r\n250 Ok\r\n")?;
            }
            ("LHLO", _) => write!(out, "250-{name}\r\n250-AUTH EXTERNAL\r\n250 Ok\r\n")?,
            ("MAIL", Lmtpd::WantsLogin) => write!(out, "430 Authentication required\r\n")?,
            ("RCPT", Lmtpd::Refuses) => {
                write!(out, "550-Mailbox unknown.\r\n550 5.1.1 User unknown\r\n")?;
            }
            ("QUIT", _) => return write!(out, "221 2.0.0 bye\r\n"),
            _ => write!(out, "250 2.1.0 ok\r\n")?,
        }
    }
    Ok(())
}

/// A complete deployment.
struct Deployment {
    site: Site,
    _daemon: Daemon,
}

impl Deployment {
    /// A deployment with the mailboxes on these two backends, and additional lines for imapd.conf.
    fn new(backends: [&Backend; 2], imapd_conf: &str) -> Self {
        let site = Site::new();
        site.imapd_conf(imapd_conf);
        let socket = site.path("murder-route.sock");
        let [be1, be2] = backends.map(|backend| backend.port);
        site.config(&format!(
            "domains = [\"example.org\", \"example.net\"]\n\
             [[listen]]\nendpoint = \"unix:{}\"\n\
             [backends]\ntransport = \"murder\"\n\
             [backends.servers]\n\
             \"be1.example.org\" = {{ address = \"127.0.0.1\", port = {be1} }}\n\
             \"be2.example.org\" = {{ address = \"127.0.0.1\", port = {be2} }}\n",
            socket.display()
        ));
        let daemon = Daemon::start_as_configured(&site, socket);
        let deployment = Self { site, _daemon: daemon };
        deployment.postfix(&[]);
        deployment
    }

    /// A Postfix with the recorded settings of a sound site, with some of them replaced.
    fn postfix(&self, exchange: &[(&str, &str)]) {
        let bin = self.site.path("bin");
        fs::create_dir_all(&bin).unwrap();
        let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/postconf/3.7");
        let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let socket = self.site.path("murder-route.sock").display().to_string();
        let here = self.site.dir.path().display().to_string();
        for name in ["main", "master", "overrides", "types"] {
            let mut text = fs::read_to_string(recorded.join(name)).unwrap();
            text = text.replace("/run/murder-route", &socket);
            text = text.replace("smtputf8_enable = yes", "smtputf8_enable = no");
            text = text.replace("mail_owner = postfix", &format!("mail_owner = {own}"));
            text = text.replace(
                "\nqueue_directory = /var/spool/postfix",
                &format!("\nqueue_directory = {here}"),
            );
            for (from, to) in exchange.iter().filter(|_| name == "main" || name == "overrides") {
                text = text.replace(from, to);
            }
            fs::write(self.site.path(name), text).unwrap();
        }
        let postconf = format!(
            "case \"$1\" in -x) f=main;; -M) f=master;; -Px) f=overrides;; -m) f=types;; \
             *) exit 64;; esac\ncat '{here}'/$f\n"
        );
        // Output of a filter like that of the manual page for a refusal.
        let postmap = "case \"$2\" in 5.*) echo 4.1.1 said;; *) exit 1;; esac\n";
        for (name, script) in [("postconf", postconf.as_str()), ("postmap", postmap)] {
            let path = bin.join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn doctor(&self, options: &[&str]) -> Examined {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new(env!("CARGO_BIN_EXE_murder-route"))
            .args(["doctor", "--json", "--config"])
            .arg(self.site.path("murder-route.toml"))
            .args(options)
            .env("PATH", format!("{}:{path}", self.site.path("bin").display()))
            .output()
            .unwrap();
        Examined::new(output)
    }
}

struct Examined {
    code: Option<i32>,
    report: Value,
}

impl Examined {
    fn new(output: Output) -> Self {
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        Self { code: output.status.code(), report }
    }

    /// Findings of this severity: check and text.
    fn of(&self, severity: &str) -> Vec<(String, String)> {
        let all = self.report["findings"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let of = all.filter(|finding| finding["severity"] == severity);
        of.map(|finding| (text(&finding["check"]), text(&finding["what"]))).collect()
    }

    fn checks(&self, severity: &str) -> Vec<String> {
        self.of(severity).into_iter().map(|(check, _)| check).collect()
    }
}

fn sound() -> [Backend; 2] {
    ["be1.example.org", "be2.example.org"].map(|name| Backend::start(name, Lmtpd::PreAuthorised))
}

#[test]
fn sound_deployment_has_no_errors_and_gets_no_message() {
    let [be1, be2] = sound();
    let deployment = Deployment::new([&be1, &be2], "");
    let examined = deployment.doctor(&["--recipient", "Jane+Work@Example.org"]);
    assert_eq!(examined.checks("error"), [""; 0], "{}", examined.report);
    assert_eq!(examined.code, Some(0));
    let ok = examined.checks("ok");
    for check in
        ["socket/answer", "socket/daemon", "list/reserved", "postfix/domains", "postfix/softening"]
    {
        assert!(ok.iter().any(|ok| ok == check), "{check}: {}", examined.report);
    }
    assert_eq!(ok.iter().filter(|check| *check == "backend/lmtp").count(), 2);
    assert_eq!(*be1.heard.lock().unwrap(), ["LHLO", "MAIL", "RCPT", "RSET", "QUIT"]);
    assert_eq!(*be2.heard.lock().unwrap(), ["LHLO", "MAIL", "RSET", "QUIT"]);

    // Only the named one.
    deployment.doctor(&["--backend", "be2.example.org"]);
    assert_eq!(be1.heard.lock().unwrap().len(), 5);
    assert_eq!(be2.heard.lock().unwrap().len(), 8);
}

#[test]
fn each_backend_is_judged_by_itself() {
    let fine = Backend::start("be2.example.org", Lmtpd::PreAuthorised);
    for (kind, severity, check, code) in [
        (Lmtpd::WantsLogin, "error", "backend/login", 1),
        (Lmtpd::Refuses, "error", "backend/recipient", 1),
        (Lmtpd::GoingDown, "not-tested", "backend/lmtp", 75),
        (Lmtpd::Endless, "error", "backend/lmtp", 1),
        (Lmtpd::Ssh, "error", "backend/lmtp", 1),
        (Lmtpd::Closes, "error", "backend/lmtp", 1),
    ] {
        let bad = Backend::start("be1.example.org", kind);
        let deployment = Deployment::new([&bad, &fine], "");
        let examined = deployment.doctor(&["--recipient", "jane@example.org"]);
        assert_eq!(examined.checks(severity), [check], "{}", examined.report);
        assert_eq!(examined.code, Some(code), "{}", examined.report);
        assert!(examined.checks("ok").iter().any(|ok| ok == "backend/lmtp"));
    }
    let other = Backend::start("be7.example.org", Lmtpd::PreAuthorised);
    let examined = Deployment::new([&other, &fine], "").doctor(&[]);
    assert_eq!(examined.checks("error"), ["backend/name"], "{}", examined.report);
}

#[test]
fn errors_in_postfix_do_not_stop_other_checks() {
    let [be1, be2] = sound();
    let deployment = Deployment::new([&be1, &be2], "");
    for (from, to, check) in [
        ("recipient_delimiter = +", "recipient_delimiter = -", "postfix/delimiter"),
        ("\nrelay_domains = example.org, example.net", "\nrelay_domains = a", "postfix/domains"),
        ("regexp:/etc/postfix/backend_status", "", "postfix/softening"),
        ("murder-route.sock:lmtp", "murder-route.sock:lmpt", "postfix/map"),
        ("lmtp_sasl_auth_enable = no", "lmtp_sasl_auth_enable = yes", "backend/login"),
    ] {
        deployment.postfix(&[(from, to)]);
        let examined = deployment.doctor(&[]);
        let errors = examined.checks("error");
        let as_expected = errors.iter().all(|error| error == check);
        assert!(as_expected && errors.is_empty() == check.is_empty(), "{}", examined.report);
        assert!(examined.checks("ok").iter().any(|ok| ok == "backend/lmtp"));
    }
    // Without a password for the host, Postfix does not log in.
    deployment.postfix(&[
        ("lmtp_sasl_auth_enable = no", "lmtp_sasl_auth_enable = yes"),
        ("lmtp_sasl_password_maps =", "lmtp_sasl_password_maps = hash:/none"),
    ]);
    let examined = deployment.doctor(&[]);
    assert_eq!(examined.checks("error"), [""; 0], "{}", examined.report);
    // Chrooted, without proxy: the queue directory is the site's, so it contains the socket, but not under
    // this path.
    deployment.postfix(&[("transport_maps = proxy:", "transport_maps = ")]);
    let examined = deployment.doctor(&[]);
    assert_eq!(examined.checks("error"), ["socket/answer"], "{}", examined.report);
    let [(_, what)] = &examined.of("error")[..] else { panic!() };
    assert!(what.contains("rewrite is chrooted"), "{what}");
    // A relative path is found there.
    let socket = deployment.site.path("murder-route.sock").display().to_string();
    let map = format!("proxy:socketmap:unix:{socket}:lmtp");
    deployment.postfix(&[(&map, "socketmap:unix:murder-route.sock:lmtp")]);
    let examined = deployment.doctor(&[]);
    assert_eq!(examined.checks("error"), [""; 0], "{}", examined.report);
    // A failing postconf does not stop the test.
    fs::write(deployment.site.path("bin/postconf"), "#!/bin/sh\necho bad main.cf >&2; exit 1\n")
        .unwrap();
    let examined = deployment.doctor(&[]);
    assert_eq!(examined.checks("error"), ["postfix/settings"], "{}", examined.report);
    assert!(examined.checks("ok").iter().any(|ok| ok == "backend/lmtp"));
}

#[test]
fn daemon_with_another_configuration_is_detected() {
    let [be1, be2] = sound();
    let deployment = Deployment::new([&be1, &be2], "");
    let config = deployment.site.path("murder-route.toml");
    let sound = fs::read_to_string(&config).unwrap();
    for (from, to, said, expected) in [
        ("\"example.net\"", "\"example.com\"", "`NOTFOUND `", "error:5.1.1"),
        ("address = \"127.0.0.1\", port", "port", "inet:127.0.0.1:", "inet:be1.example.org:"),
        ("transport = \"murder\"", "transport = \"lmtp\"", "`OK murder:", "`OK lmtp:"),
    ] {
        fs::write(&config, sound.replace(from, to)).unwrap();
        let examined = deployment.doctor(&["--backend", "none.invalid"]);
        let errors = examined.of("error");
        let (_, what) = errors.iter().find(|(check, _)| check == "socket/recipient").unwrap();
        assert!(what.contains(said) && what.contains(expected), "{what}");
        assert_eq!(examined.code, Some(1));
    }
    fs::write(&config, &sound).unwrap();
    let examined = deployment.doctor(&["--recipient", "jane@example.org"]);
    // The socket, and both maps of Postfix.
    let fine = examined.checks("ok");
    assert_eq!(fine.iter().filter(|check| *check == "socket/recipient").count(), 3);
    assert_eq!(examined.code, Some(0), "{}", examined.report);
}

#[test]
fn policy_services_and_milters_are_asked_too() {
    let [be1, be2] = sound();
    let deployment = Deployment::new([&be1, &be2], "");
    let socket = deployment.site.path("murder-route.sock").display().to_string();
    let policy = format!("smtpd_relay_restrictions = check_policy_service unix:{socket},");
    let milter = format!("\nsmtpd_milters = unix:{socket}");
    deployment.postfix(&[
        ("smtpd_relay_restrictions =", &policy),
        ("\nsmtpd_milters =", &milter),
        // Otherwise it is looked for in the chroot.
        (
            &format!("queue_directory = {}", deployment.site.dir.path().display()),
            "queue_directory = /",
        ),
    ]);
    let fine = |examined: &Examined| {
        let found = examined.report["findings"].as_array().unwrap().clone();
        let of = |finding: &&Value| finding["check"] == "socket/recipient";
        let place = |finding: &Value| {
            let place = finding["where"].as_str().unwrap().split(' ').next().unwrap().to_owned();
            (place, finding["severity"].as_str().unwrap().to_owned())
        };
        found.iter().filter(of).map(place).collect::<Vec<_>>()
    };
    let examined = deployment.doctor(&["--recipient", "jane@example.org"]);
    let found = fine(&examined);
    for place in ["smtpd_relay_restrictions", "smtpd_milters"] {
        assert!(found.contains(&(place.into(), "ok".into())), "{}", examined.report);
    }
    let config = deployment.site.path("murder-route.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("example.net", "example.com")).unwrap();
    let found = fine(&deployment.doctor(&[]));
    assert!(found.contains(&("smtpd_relay_restrictions".into(), "error".into())), "{found:?}");
}

#[test]
fn another_program_at_our_socket_is_detected() {
    let [be1, be2] = sound();
    let Deployment { site, _daemon: daemon } = Deployment::new([&be1, &be2], "");
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.wait();
    let socket = site.path("murder-route.sock");
    let _ = fs::remove_file(&socket);
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // An unknown map gets an error.
            let _ = std::io::Read::read(&mut stream, &mut [0; 512]);
            let _ = stream.write_all(b"9:NOTFOUND ,");
        }
    });
    let examined = Examined::new(site.run("doctor", &["--json"]));
    let errors = examined.of("error");
    let (_, what) = errors.iter().find(|(check, _)| check == "socket/answer").unwrap();
    assert!(what.contains("another program answers there"), "{what}");
    assert_eq!(examined.code, Some(1));
}

#[test]
fn list_that_differs_from_the_masters_is_detected() {
    let [be1, be2] = sound();
    // Recipients of the site's list, as a script would read them.
    let site = Site::new();
    let dump = site.run("dump", &["--json"]);
    let list: Vec<(String, String)> = String::from_utf8(dump.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["state"] == "active")
        .map(|record| {
            let text = |member: &str| record[member].as_str().unwrap().to_owned();
            (text("mailbox"), format!("{}!{}", text("server"), text("partition")))
        })
        .collect();
    let all: Vec<(&str, &str)> = list.iter().map(|(name, at)| (&**name, &**at)).collect();
    let master = Master::start(&all);
    let plain = format!("{}allowplaintext: yes\n", master.imapd_conf());
    let deployment = Deployment::new([&be1, &be2], &plain);
    // The daemon may not send the password, and asks the slave.
    deployment.site.slave("ok");
    master.set("user.late", "be1.example.org!default");
    master.set("user.jane", "be2.example.org!default");
    let examined = deployment.doctor(&["--allow-plaintext"]);
    let told = examined.of("error").into_iter().map(|(_, what)| what).collect::<Vec<_>>().join("|");
    assert!(told.contains("1 name the master has, our list does not: user.late"), "{told}");
    assert!(told.contains("on another backend by the master: user.jane"), "{told}");
    // It is reserved in our list.
    assert!(told.contains("our list has, the master does not: user.carol"), "{told}");
    assert_eq!(examined.checks("error"), ["list/comparison"; 3]);
    assert_eq!(examined.code, Some(1));
    // One connection for all questions; the other one is the daemon's.
    assert!(master.sessions() <= 2, "{}", master.sessions());
    // A differing name is asked about by itself before it is reported.
    assert!(master.asked().iter().any(|name| name == "user.late"));
    let examined = deployment.doctor(&["--allow-plaintext", "--no-master"]);
    assert_eq!(examined.checks("error"), [""; 0], "{}", examined.report);
}

#[test]
fn refused_login_is_an_error_while_the_daemon_is_connected() {
    let [be1, be2] = sound();
    let master = Master::start(&[]);
    let refused =
        format!("{}allowplaintext: yes\n", master.imapd_conf().replace("geheim", "wrong"));
    let deployment = Deployment::new([&be1, &be2], "");
    deployment.site.imapd_conf(&refused);
    fs::remove_file(deployment.site.path("mailboxes.db")).unwrap();
    let config = fs::read_to_string(deployment.site.path("murder-route.toml")).unwrap();
    let config = format!("source = \"find\"\n{config}");
    fs::write(deployment.site.path("murder-route.toml"), config).unwrap();
    let examined = deployment.doctor(&["--allow-plaintext", "--recipient", "jane@example.org"]);
    let errors = examined.of("error");
    let (_, what) = errors.iter().find(|(check, _)| check == "list/master").unwrap();
    assert!(what.contains("authentication failed"), "{what}");
    assert_eq!(examined.code, Some(1), "{}", examined.report);
    assert_eq!(master.sessions(), 1, "a login that is refused is not tried again");
}

#[test]
fn missing_daemon_is_reported_at_its_socket() {
    let [be1, be2] = sound();
    let deployment = Deployment::new([&be1, &be2], "");
    let Deployment { site, _daemon: daemon } = deployment;
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.wait();
    let output = site.run("doctor", &["--json"]);
    let examined = Examined::new(output);
    assert!(examined.checks("error").contains(&"socket/answer".to_owned()), "{}", examined.report);
    assert_eq!(examined.code, Some(1));
    let output = site.run("doctor", &["--user", "no-such-user-here"]);
    assert_eq!(output.status.code(), Some(64));
    site.config("nonsense = 1\n");
    assert_eq!(site.run("doctor", &[]).status.code(), Some(78));
}
