//! The table of Postfix and the function of Exim, loaded by C programs that are as strict as these mail
//! servers.

#[path = "capi/build.rs"]
mod build;
mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{LazyLock, Mutex};
use std::thread;

use build::{ROOT, is_there, library, library_that_panics, well};
use common::left_out;
use common::{Daemon, LIST, Site, TIMEOUT};

/// The program that loads the library as this mail server does; compiled once.
fn loader(name: &'static str) -> PathBuf {
    static MADE: LazyLock<Mutex<Vec<&'static str>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(|e| e.into_inner());
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("load-as-{name}"));
    if !made.contains(&name) {
        let mut compile = Command::new("cc");
        compile.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-rdynamic"]);
        well(
            compile
                .arg("-o")
                .arg(&output)
                .arg(format!("{ROOT}/c-api/tests/{name}.c"))
                .args(["-ldl"]),
        );
        made.push(name);
    }
    output
}

fn shared(directory: &Path) -> PathBuf {
    directory.join("libmurder_route.so")
}

/// A program that answers each line.
struct Loaded {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Loaded {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, lines) = mpsc::channel();
        thread::spawn(move || out.map_while(Result::ok).try_for_each(|line| said.send(line)));
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// Opens `murder:NAME` as Postfix does.
    fn postfix(library: &Path, name: &str) -> Self {
        Self::start(Command::new(loader("postfix")).arg(shared(library)).arg(name))
    }

    fn exim(library: &Path) -> Self {
        Self::start(Command::new(loader("exim")).arg(shared(library)))
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(TIMEOUT).expect("another line")
    }

    fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.line()
    }

    /// The logged line and the answer after it.
    fn ask_twice(&mut self, line: &str) -> (String, String) {
        (self.ask(line), self.line())
    }

    fn ends_well(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        let rest: Vec<String> = self.lines.iter().collect();
        assert!(status.success() && rest.is_empty(), "{status}: {rest:?}");
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn table(site: &Site) -> String {
    site.path("murder-route.toml").to_str().unwrap().to_owned()
}

const KEYS: [&str; 22] = [
    "jane@example.org",
    "Jane+Work@Example.ORG",
    "max.muster@example.org",
    "Max.Muster+x@EXAMPLE.org",
    "\"jane\"@example.org",
    "\"quoted user\"@example.org",
    "nobody@example.org",
    "nobody+x@example.net",
    "+shared/news@example.org",
    "+@example.org",
    "a@b@example.org",
    "jane@elsewhere.test",
    "mailer-daemon@mx.example.org",
    "üser@example.org",
    "jane@bücher.example",
    "jane",
    "@example.org",
    "example.org",
    "*",
    "",
    "%s%n%1$s@example.org",
    "%s",
];

#[test]
fn table_gives_the_answers_of_the_daemons_map() {
    let site = Site::new();
    site.config(
        "domains = [\"example.org\", \"example.net\", \"bücher.example\"]\n\
         [maps.own]\ndeliver = \"OK {mailbox} 100%\"\nunknown = \"TEMP %s {recipient}\"\n",
    );
    let daemon = Daemon::start(&site);
    for map in ["lmtp", "recipient", "host", "canonical", "own"] {
        let mut postfix = Loaded::postfix(&library(), &format!("{}:{map}", table(&site)));
        assert_eq!(postfix.line(), "open");
        for key in KEYS {
            let expected = daemon.ask(map, key);
            let (kind, text) = expected.split_once(' ').unwrap();
            match kind {
                "OK" => {
                    let mut said = postfix.ask(key);
                    // The sender must wait, and the postmaster gets the reason.
                    if text.starts_with("retry:") && said.starts_with("warning: ") {
                        said = postfix.line();
                    }
                    assert_eq!(said, format!("found: {text}"), "{map}: {key}");
                }
                "NOTFOUND" => assert_eq!(postfix.ask(key), "not found", "{map}: {key}"),
                _ => {
                    let (warning, answer) = postfix.ask_twice(key);
                    // The daemon's text is ASCII only.
                    let warning = warning.replace(|c: char| !c.is_ascii(), "?");
                    assert_eq!(warning, format!("warning: murder:{}:{map}: {text}", table(&site)));
                    assert_eq!(answer, "temporary");
                }
            }
        }
        postfix.ends_well();
    }
    let mut usual = Loaded::postfix(&library(), &table(&site));
    assert_eq!(usual.line(), "open");
    assert_eq!(usual.ask("jane@example.org"), "found: lmtp:inet:be1.example.org:2003");
    usual.ends_well();
}

#[test]
fn unknown_recipient_is_refused_only_by_the_daemon() {
    let murder = Site::new();
    murder.imapd_conf("mupdate_server: 127.0.0.1:1\n");
    let socket = murder.path("socket");
    let listen = format!("[[listen]]\nendpoint = \"unix:{}\"\n", socket.display());
    murder.config(&format!("domains = [\"example.org\"]\n{listen}"));
    // A daemon without a server to ask, which is therefore certain.
    let sure = Site::new();
    sure.config(&format!("domains = [\"example.org\"]\n{listen}"));

    let mut postfix = Loaded::postfix(&library(), &table(&murder));
    assert_eq!(postfix.line(), "open");
    let mut exim = Loaded::exim(&library());
    let stranger = format!("nobody@example.org\t{}", table(&murder));
    let jane = format!("jane@example.org\t{}", table(&murder));
    for _ in 0..2 {
        let (warning, answer) = postfix.ask_twice("nobody@example.org");
        assert_eq!(answer, "found: retry:4.3.0 Mailbox is temporarily unavailable");
        let where_ = format!("the daemon at {}: ", socket.display());
        assert!(warning.starts_with("warning: murder:/") && warning.contains(&where_), "{warning}");
        let failed = exim.ask(&stranger);
        assert!(failed.starts_with("FAIL: ") && failed.contains(&where_), "{failed}");
        assert_eq!(postfix.ask("jane@example.org"), "found: lmtp:inet:be1.example.org:2003");
        assert_eq!(exim.ask(&jane), "OK: <;be1.example.org:2003");

        // The same process asks it as soon as it exists.
        let daemon = Daemon::start_as_configured(&sure, socket.clone());
        assert_eq!(postfix.ask("nobody@example.org"), "found: error:5.1.1 User unknown");
        assert_eq!(exim.ask(&stranger), "FAIL_FORCED: murder-route: no such mailbox");
        drop(daemon);
    }
    postfix.ends_well();
    exim.ends_well();
}

#[test]
fn replaced_list_restarts_postfix_and_a_written_one_does_not() {
    let site = Site::new();
    let list = site.path("mailboxes.db");
    let mut postfix = Loaded::postfix(&library(), &table(&site));
    assert_eq!(postfix.line(), "open");
    assert_eq!(postfix.ask("!changed"), "unchanged");
    let content = fs::read(LIST).unwrap();
    fs::write(&list, &content).unwrap();
    let file = fs::File::options().write(true).open(&list).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(postfix.ask("!changed"), "unchanged");

    fs::write(site.path("new"), &content).unwrap();
    fs::rename(site.path("new"), &list).unwrap();
    assert_eq!(postfix.ask("!changed"), "changed");
    assert_eq!(postfix.ask("jane@example.org"), "found: lmtp:inet:be1.example.org:2003");
    assert_eq!(postfix.ask("nobody@example.org"), "found: error:5.1.1 User unknown");
    postfix.ends_well();
}

#[test]
fn table_that_cannot_be_opened_is_a_temporary_error() {
    let site = Site::new();
    let wrong = site.path("wrong.toml");
    fs::write(&wrong, "domains = []\n\"%s%n\" = 2\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    let nowhere = site.path("nowhere.toml");
    let nowhere = nowhere.to_str().unwrap();
    let without = site.path("without.toml");
    fs::write(&without, "imapd-conf = \"imapd.conf\"\n").unwrap();
    let without = without.to_str().unwrap();
    for (name, flags, why) in [
        (wrong, 0, "wrong.toml: line 2, column 1: unknown field `%s%n`"),
        (nowhere, 0, "nowhere.toml: cannot read: No such file or directory"),
        (without, 0, "without.toml: no domains are configured"),
        ("", 0, "with its whole path"),
        ("murder-route.toml", 0, "with its whole path"),
        (&format!("{}:nix", table(&site)), 0, "there is no map `nix`"),
        (&format!("{}:", table(&site)), 0, "there is no map ``"),
        (&table(&site), 2, "can only be read"),
        (&format!("/{}", "x".repeat(4096)), 0, "File name too long"),
    ] {
        let mut command = Command::new(loader("postfix"));
        let opened = command.arg(shared(&library())).args([name, &flags.to_string()]);
        let mut postfix = Loaded::start(opened);
        let said = postfix.line();
        let named = format!("error: murder:{name}: ");
        assert!(said.starts_with(&named) && said.contains(why), "{said}");
        assert_eq!(postfix.line(), "surrogate");
        assert_eq!(postfix.ask("jane@example.org"), "temporary");
        postfix.ends_well();
    }
}

#[test]
fn exim_gets_a_host_or_declines_or_defers() {
    let site = Site::new();
    site.config(
        "domains = [\"example.org\"]\n\
         [backends.servers.\"be2.example.org\"]\naddress = \"[2001:db8::1]:24\"\n",
    );
    let configuration = table(&site);
    let mut exim = Loaded::exim(&library());
    for (call, answer) in [
        ("jane@example.org\t{}", "OK: <;be1.example.org:2003"),
        ("Max.Muster+x@Example.ORG\t{}", "OK: <;[2001:db8::1]:24"),
        ("nobody@example.org\t{}", "FAIL_FORCED: murder-route: no such mailbox"),
        ("jane@elsewhere.test\t{}", "FAIL: murder-route: its domain is none of ours"),
        ("jane@elsewhere.test\t{}\tcanonical", "FAIL_FORCED: murder-route: not found"),
        ("jane@elsewhere.test\t{}\tlmtp", "FAIL_FORCED: murder-route: not found"),
        ("Jane+Work@Example.Org\t{}\tcanonical", "OK: jane+Work@example.org"),
        ("jane@example.org\t{}\tcanonical", "FAIL_FORCED: murder-route: not found"),
        ("nobody@example.org\t{}\tlmtp", "OK: error:5.1.1 User unknown"),
        ("jane@example.org\t{}\tnix", "FAIL: murder-route: no map `nix`"),
        ("jane@example.org\t{}\tlmtp\tmore", "FAIL: murder_route_exim wants a recipient"),
        ("jane@example.org\t{}-not", "FAIL: murder-route: "),
    ] {
        let said = exim.ask(&call.replace("{}", &configuration));
        let begins = answer.starts_with("FAIL: ") && said.starts_with(answer);
        assert!(said == answer || begins, "{call}: {said}");
    }
    // A configuration without domains.
    let without = site.path("without-domains.toml");
    fs::write(&without, "imapd-conf = \"imapd.conf\"\n").unwrap();
    for more in ["", "\tcanonical", "\tlmtp"] {
        let said = exim.ask(&format!("jane@example.org\t{}{more}", without.display()));
        assert!(said.starts_with("FAIL: ") && said.contains("no domains"), "{said}");
    }
    // A corrected configuration is read; one that has been read is kept.
    let late = format!("jane@example.org\t{configuration}-not");
    fs::copy(&configuration, format!("{configuration}-not")).unwrap();
    assert_eq!(exim.ask(&late), "OK: <;be1.example.org:2003");
    fs::write(format!("{configuration}-not"), "nonsense").unwrap();
    assert_eq!(exim.ask(&late), "OK: <;be1.example.org:2003");
    exim.ends_well();
}

#[test]
fn exims_children_use_the_files_of_their_parent() {
    let site = Site::new();
    let mut exim = Loaded::exim(&library());
    let call = |name: &str| format!("{name}@example.org\t{}", table(&site));
    assert_eq!(exim.ask(&call("jane")), "OK: <;be1.example.org:2003");
    for _ in 0..3 {
        exim.send("!fork");
        assert_eq!(exim.ask(&call("jane")), "OK: <;be1.example.org:2003");
        assert_eq!(exim.ask(&call("nobody")), "FAIL_FORCED: murder-route: no such mailbox");
        fs::copy(site.path("mailboxes.db"), site.path("new")).unwrap();
        fs::rename(site.path("new"), site.path("mailboxes.db")).unwrap();
        assert_eq!(exim.ask(&call("max.muster")), "OK: <;be2.example.org:2003");
    }
    exim.ends_well();
}

#[test]
fn panic_defers_one_recipient_and_kills_no_mail_server() {
    let site = Site::new();
    let mut postfix = Loaded::postfix(&library_that_panics(), &table(&site));
    let mut exim = Loaded::exim(&library_that_panics());
    assert_eq!(postfix.line(), "open");
    for _ in 0..2 {
        let (warning, answer) = postfix.ask_twice("panic@example.org");
        assert_eq!(answer, "temporary");
        assert!(warning.contains("a bug"), "{warning}");
        assert_eq!(postfix.ask("jane@example.org"), "found: lmtp:inet:be1.example.org:2003");
        let failed = exim.ask(&format!("panic@example.org\t{}", table(&site)));
        assert!(failed.starts_with("FAIL: ") && failed.contains("a bug"), "{failed}");
        let found = exim.ask(&format!("jane@example.org\t{}", table(&site)));
        assert_eq!(found, "OK: <;be1.example.org:2003");
    }
    postfix.ends_well();
    exim.ends_well();
}

#[test]
fn plugins_have_no_memory_errors() {
    if !is_there("valgrind") {
        return;
    }
    let site = Site::new();
    let valgrind = || {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["-q", "--error-exitcode=9", "--leak-check=full", "--trace-children=yes"]);
        valgrind
    };
    let mut command = valgrind();
    let opened = command.arg(loader("postfix")).arg(shared(&library())).arg(table(&site));
    let mut postfix = Loaded::start(opened);
    assert_eq!(postfix.line(), "open");
    for key in KEYS {
        postfix.ask(key);
    }
    postfix.ends_well();

    // A child leaves half-changed state of its parent unused, and loses its memory.
    for (forks, leaks) in [(false, "--leak-check=full"), (true, "--leak-check=no")] {
        let mut command = valgrind();
        command.arg(leaks);
        let mut exim = Loaded::start(command.arg(loader("exim")).arg(shared(&library())));
        exim.ask(&format!("jane@example.org\t{}", table(&site)));
        if forks {
            exim.send("!fork");
        }
        for key in KEYS {
            exim.ask(&format!("{key}\t{}", table(&site)));
            exim.ask(&format!("{key}\t{}\tlmtp", table(&site)));
        }
        exim.ends_well();
    }
}
