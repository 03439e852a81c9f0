//! The shared library as C programs use it: built as it ships, loaded, and called.

#[path = "capi/build.rs"]
mod build;
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::SystemTime;

use build::{ROOT, is_there, library, library_that_has_grown, library_that_panics};
use build::{program, target, well};
use common::left_out::{self, left_out};
use common::master::Master;
use common::{Daemon, Site};
use murder_route::model::mod_time::ModTime;
use murder_route::model::name::MailboxName;
use murder_route::model::record::{AnonymousRights, Record, State};
use murder_route::replica::store::ReplicaWriter;
use murder_route::replica::{ReplicaMeta, Transaction};

const DIALECTS: [(&str, &str); 4] =
    [("cc", "-std=c99"), ("cc", "-std=c11"), ("c++", "-std=c++98"), ("c++", "-std=c++17")];

/// Runs a program with an invalid configuration and with that of the site.
fn contract(program: &mut Command, site: &Site) {
    let wrong = site.path("wrong.toml");
    fs::write(&wrong, "domains = 1\n").unwrap();
    let without_domains = site.path("without-domains.toml");
    fs::write(&without_domains, "imapd-conf = \"imapd.conf\"\n").unwrap();
    let program = program.arg(site.path("murder-route.toml")).arg(&wrong);
    let said = well(program.arg(site.path("imapd.conf")).arg(&without_domains));
    assert!(said.contains("contract: well"), "{said}");
}

fn path_of(site: &Site) -> PathBuf {
    site.path("murder-route.toml")
}

/// A site whose daemon listens where its configuration says, and whose misses are confirmed by this
/// master.
fn site_of(master: &Master) -> (Site, PathBuf) {
    let site = Site::new();
    site.imapd_conf(&master.imapd_conf());
    let socket = site.path("socket");
    site.config(&format!(
        "domains = [\"example.org\"]\n[[listen]]\nendpoint = \"unix:{}\"\n\
         [mupdate]\nallow-plaintext = true\n",
        socket.display()
    ));
    (site, socket)
}

/// A replica in the site's directory `r`, with jane, as a daemon left it; no process follows the master.
fn replica(site: &Site) -> ReplicaWriter {
    let mut place = ReplicaWriter::open(&site.path("r")).unwrap();
    put(&mut place, &[("user.jane", "be1.example.org")]);
    fs::remove_file(site.path("mailboxes.db")).unwrap();
    fs::write(site.path("imapd.conf"), "mupdate_server: 127.0.0.1:1\n").unwrap();
    site.config(
        "domains = [\"example.org\"]\nsource = \"replica\"\n[replica]\ndirectory = \"r\"\n\
         [[listen]]\nendpoint = \"unix:nowhere\"\n",
    );
    place
}

fn put(place: &mut ReplicaWriter, names: &[(&str, &str)]) {
    let mut change = place.begin().unwrap();
    for (name, server) in names {
        let record = Record {
            state: State::Active,
            server: Some((*server).to_owned()),
            partition: "default".into(),
            anonymous: AnonymousRights::default(),
        };
        change.put(&MailboxName::new(*name).unwrap(), &record, ModTime::NOT_LATELY).unwrap();
    }
    let about = ReplicaMeta {
        synchronised: Some(SystemTime::now()),
        as_of: Some(SystemTime::now()),
        master: "mupdate.example.org".into(),
        release: "3.6.1".into(),
        ..ReplicaMeta::default()
    };
    change.set_about(&about).unwrap();
    change.commit().unwrap();
}

#[test]
fn library_exports_exactly_the_symbols_of_list_and_header() {
    let library = library().join("libmurder_route.so");
    let names = well(Command::new("nm").args(["-D", "--defined-only"]).arg(&library));
    let exported: BTreeSet<&str> =
        names.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let list = fs::read_to_string(Path::new(ROOT).join("c-api/symbols")).unwrap();
    let listed: BTreeSet<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(exported, listed, "c-api/symbols");
    let header = fs::read_to_string(Path::new(ROOT).join("c-api/murder_route.h")).unwrap();
    let declared = |line: &str| {
        let (before, _) = line.split_once('(')?;
        let name = before.rsplit([' ', '*']).next()?;
        let declares = !line.starts_with([' ', '#', '/']) && name.starts_with("mr_");
        declares.then(|| name.to_owned())
    };
    let declared: BTreeSet<String> = header.lines().filter_map(declared).collect();
    let ours: BTreeSet<String> =
        listed.iter().filter(|name| name.starts_with("mr_")).map(|name| name.to_string()).collect();
    assert_eq!(declared, ours, "c-api/murder_route.h");
}

/// Report of abidiff 2.2 on a struct with an additional member.
const GROWN: &str = "\
Functions changes summary: 0 Removed, 1 Changed (1 filtered out), 0 Added functions
Variables changes summary: 0 Removed, 0 Changed, 0 Added variable

1 function with some indirect sub-type change:

  [C] 'function i32 murder_route::capi::abi::mr_answer(i8*, murder_route::capi::bindings::mr_reply*)' at abi.rs:415:1 has some indirect sub-type changes:
    parameter 4 of type 'murder_route::capi::bindings::mr_reply*' has sub-type changes:
      in pointed to type 'struct murder_route::capi::bindings::mr_reply':
        type size changed from 256 to 320 (in bits)
        1 data member insertion:
          'i64 extra', at offset 256 (in bits)

";

#[test]
fn abidiff_report_passes_only_for_a_struct_grown_at_its_end() {
    let passes = |report: &str| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("report");
        fs::write(&file, report).unwrap();
        let mut awk = Command::new("awk");
        let output = awk.args(["-f", "c-api/grown.awk"]).arg(file).current_dir(ROOT).output();
        output.unwrap().status.success()
    };
    assert!(passes(GROWN));
    let summary = "0 Removed, 1 Changed (1 filtered out)";
    for report in [
        GROWN.replace(summary, "1 Removed, 0 Changed"),
        GROWN.replace("at offset 256", "at offset 128"),
        GROWN.replace("mr_reply':", "mr_other':"),
        GROWN.replace("data member insertion", "data member deletion"),
        format!("{GROWN}        1 data member change:\n"),
        GROWN.replace("has sub-type changes:\n", "changed:\n"),
    ] {
        assert!(!passes(&report), "{report}");
    }
}

#[test]
fn library_does_not_depend_on_the_daemon_and_keeps_its_soname() {
    let library = library().join("libmurder_route.so");
    let dynamic = well(Command::new("readelf").arg("-dW").arg(&library));
    assert!(dynamic.contains("Library soname: [libmurder_route.so.0]"), "{dynamic}");
    assert!(dynamic.contains("Flags: NOW NODELETE"), "{dynamic}");
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        let system = ["libc.so", "libgcc_s.so", "ld-linux", "libm.so"];
        assert!(system.iter().any(|name| line.contains(name)), "{line}");
    }
    let tree = well(
        Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none"])
            .args(["--no-default-features", "--features", "capi"])
            .current_dir(ROOT),
    );
    for package in ["tokio ", "rustls ", "clap ", "tracing-subscriber ", "rsasl "] {
        assert!(!tree.lines().any(|line| line.starts_with(package)), "{package}in\n{tree}");
    }
}

#[test]
fn library_can_install_no_signal_handler() {
    let library = library().join("libmurder_route.so");
    let imported = well(Command::new("nm").args(["-D", "--undefined-only"]).arg(&library));
    assert!(imported.contains("pread"), "{imported}");
    for function in ["sigaction", "signal@", "sigaltstack", "sigprocmask"] {
        assert!(!imported.contains(function), "{imported}");
    }
}

#[test]
fn header_contract_holds_in_every_dialect() {
    for (compiler, dialect) in DIALECTS {
        if !is_there(compiler) {
            continue;
        }
        let program = program("contract", compiler, &[dialect], &library());
        contract(&mut Command::new(program), &Site::new());
    }
}

/// The program of release 0.1, compiled with the header of that release, which runs with the present library.
fn frozen(library: &Path) -> PathBuf {
    program("frozen/program-0.1", "cc", &["-std=c99", "-Ic-api/tests/frozen"], library)
}

#[test]
fn program_of_the_first_release_runs_with_grown_structs() {
    let site = Site::new();
    for library in [library(), library_that_has_grown()] {
        let said = well(Command::new(frozen(&library)).arg(path_of(&site)));
        assert!(said.contains("0.1: well"), "{said}");
    }
    // Its structs are larger than those of the program; otherwise the run above would prove nothing.
    let grown = program("grown", "cc", &["-std=c99"], &library_that_has_grown());
    well(Command::new(grown).arg(path_of(&site)));
}

/// Equals the header until the release, and must not be changed after it.
#[test]
fn frozen_header_equals_the_header_until_a_later_release() {
    let read = |path: &str| fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    let frozen = read("c-api/tests/frozen/murder_route-0.1.h");
    if env!("CARGO_PKG_VERSION") == "0.1.0" {
        assert_eq!(code_of(&frozen), code_of(&read("c-api/murder_route.h")));
    } else {
        assert!(frozen.contains("#define MR_VERSION_NUMBER 1000\n"));
    }
}

/// A header without comments and blanks.
fn code_of(header: &str) -> String {
    let mut code = String::new();
    let mut rest = header;
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    code.push_str(rest);
    code.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn valgrind_finds_no_leak_and_no_overrun() {
    if !is_there("valgrind") {
        return;
    }
    let valgrind = |leaks: &str| {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["-q", "--error-exitcode=9", leaks]);
        valgrind.arg("--errors-for-leak-kinds=definite,indirect");
        valgrind
    };
    let library = library();
    let program = |name| build::program(name, "cc", &["-std=c99"], &library);
    contract(valgrind("--leak-check=full").arg(program("contract")), &Site::new());
    let (old, site) = (frozen(&library_that_has_grown()), Site::new());
    well(valgrind("--leak-check=full").arg(&old).arg(path_of(&site)));
    // A child inherits allocations that were in use by threads of its parent, and no thread frees them.
    let leaks = "--leak-check=no";
    let (fork, site) = (program("fork"), Site::new());
    well(valgrind(leaks).arg(&fork).arg(path_of(&site)).args(["20", "unknown"]));
    let place = replica(&site);
    well(valgrind(leaks).arg(&fork).arg(path_of(&site)).args(["20", "deferred"]));
    drop(place);
}

#[test]
fn address_sanitizer_finds_no_leak_and_no_overrun() {
    let options = ["-std=c99", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let probe = target().join("capi-tests");
    fs::create_dir_all(&probe).unwrap();
    fs::write(probe.join("probe.c"), "int main(void) { return 0; }\n").unwrap();
    let compiled = Command::new("cc")
        .args(options)
        .args(["probe.c", "-o", "probe"])
        .current_dir(&probe)
        .output()
        .unwrap();
    if !compiled.status.success() {
        left_out("the compiler has no address sanitizer");
        return;
    }
    let library = library();
    contract(&mut Command::new(program("contract", "cc", &options, &library)), &Site::new());
    let panic = program("panic", "cc", &options, &library_that_panics());
    well(Command::new(panic).arg(path_of(&Site::new())));
    // Without the parts that fork beside threads: up to GCC 14 the sanitizer's own locks then hang the child
    // (`StackDepotNode::store`). Valgrind covers those.
}

#[test]
fn panic_inside_is_temporary_and_silent_on_standard_error() {
    let panic = program("panic", "cc", &["-std=c99"], &library_that_panics());
    let said = well(Command::new(panic).arg(path_of(&Site::new())));
    assert!(said.contains("panic: well"), "{said}");
}

#[test]
fn lack_of_descriptors_is_no_fault_of_the_configuration() {
    let scarce = program("scarce", "cc", &["-std=c99"], &library());
    let said = well(Command::new(scarce).arg(path_of(&Site::new())));
    assert!(said.contains("scarce: well"), "{said}");
}

#[test]
fn status_distinguishes_an_answering_daemon_from_a_silent_one() {
    let status = program("status", "cc", &["-std=c99"], &library());
    let master = Master::start(&[("user.jane", "be1.example.org!default")]);
    let (site, socket) = site_of(&master);
    let ask = || well(Command::new(&status).arg(path_of(&site)));
    // From the lists alone only known recipients can be answered.
    let said = ask();
    assert!(said.starts_with("503 502 501 504\n"), "{said}");
    assert!(said.contains(socket.to_str().unwrap()), "{said}");
    let daemon = Daemon::start_as_configured(&site, socket);
    let said = ask();
    assert!(said.starts_with("502 502 501 502\n"), "{said}");
    drop(daemon);
    let site = Site::new();
    let place = replica(&site);
    let said = well(Command::new(&status).arg(path_of(&site)));
    assert!(said.starts_with("503 501 502 504\n") && said.contains("\n1 names"), "{said}");
    drop(place);
}

#[test]
fn child_of_a_threaded_process_looks_up_and_never_hangs() {
    let fork = program("fork", "cc", &["-std=c99"], &library());
    let master = Master::start(&[("user.jane", "be1.example.org!default")]);
    let (site, socket) = site_of(&master);
    let said = well(Command::new(&fork).arg(path_of(&site)).args(["100", "deferred"]));
    assert!(said.contains("fork: well"), "{said}");
    let daemon = Daemon::start_as_configured(&site, socket);
    well(Command::new(&fork).arg(path_of(&site)).args(["100", "unknown"]));
    drop(daemon);
    let site = Site::new();
    let _place = replica(&site);
    well(Command::new(&fork).arg(path_of(&site)).args(["100", "deferred"]));
}

#[test]
fn two_copies_of_the_library_in_one_process_work() {
    let directory = tempfile::tempdir().unwrap();
    let library = library();
    let copies = ["a.so", "b.so"].map(|name| {
        let copy = directory.path().join(name);
        fs::copy(library.join("libmurder_route.so.0"), &copy).unwrap();
        copy
    });
    let beside = program("beside", "cc", &["-std=c99"], &library);
    well(Command::new(&beside).arg(path_of(&Site::new())).args(&copies));
    // Also for the replica, while it is written to.
    let site = Site::new();
    let mut place = replica(&site);
    let mut child = Command::new(&beside).arg(path_of(&site)).args(&copies).spawn().unwrap();
    let mut round = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        round += 1;
        let name = format!("user.other{}", round % 100);
        put(&mut place, &[(&name, "be2"), ("user.jane", "be1.example.org")]);
    };
    assert!(status.success(), "{status}");
}

/// A process in a jail, as user nobody.
struct Jailed {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Jailed {
    fn start(program: &Path, config: &Path, jail: &Path) -> Self {
        let mut child = Command::new(program)
            .args([config, jail])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut jailed = Self { child, input, output: BufReader::new(output) };
        assert_eq!(jailed.line(), "ready");
        jailed
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, recipient: &str) -> String {
        writeln!(self.input, "{recipient}").unwrap();
        self.line()
    }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prefixes of the lines of `jail.c` about jane, by source.
const BY_LIST: &str = "deliver 302 be1.example.org";
const BY_REPLICA: &str = "deliver 303 be1.example.org";
const BY_DAEMON: &str = "deliver 304 be1.example.org";

#[test]
fn jailed_process_reads_a_root_only_list_until_it_is_replaced() {
    if !nix::unistd::Uid::effective().is_root() {
        left_out("only root can make a jail");
        return;
    }
    let program = program("jail", "cc", &["-std=c99"], &library());
    let master = Master::start(&[
        ("user.jane", "be1.example.org!default"),
        ("user.new", "be2.example.org!default"),
    ]);
    let (site, _) = site_of(&master);
    let jail = site.path("jail");
    fs::create_dir_all(jail.join("run")).unwrap();
    let socket = jail.join("run/socket");
    site.config(&format!(
        "domains = [\"example.org\"]\n[[listen]]\nendpoint = \"unix:{}\"\n\
         [mupdate]\nallow-plaintext = true\n",
        socket.display()
    ));
    for (path, mode) in [("", 0o755), ("jail", 0o755), ("jail/run", 0o755)] {
        fs::set_permissions(site.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let list = site.path("mailboxes.db");
    fs::set_permissions(&list, fs::Permissions::from_mode(0o600)).unwrap();

    let mut jailed = Jailed::start(&program, &path_of(&site), &jail);
    assert!(jailed.ask("jane@example.org").starts_with(BY_LIST));
    let nobody = jailed.ask("nobody@example.org");
    assert!(nobody.starts_with("deferred") && nobody.contains("/run/socket"), "{nobody}");
    {
        // The socket's path is that from outside; it is found in the jail.
        let daemon = Daemon::start_as_configured(&site, socket.clone());
        assert!(jailed.ask("nobody@example.org").starts_with("unknown 304"));
        assert!(jailed.ask("new@example.org").starts_with("deliver 304 be2.example.org"));
        assert!(jailed.ask("jane@example.org").starts_with(BY_LIST));
        drop(daemon);
    }
    let nobody = jailed.ask("nobody@example.org");
    assert!(nobody.starts_with("deferred"), "{nobody}");

    // Replaced, as by a repack: the old list is not believed any more.
    fs::copy(&list, site.path("new")).unwrap();
    fs::rename(site.path("new"), &list).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let jane = jailed.ask("jane@example.org");
    assert!(jane.starts_with("deferred") && jane.contains("replaced"), "{jane}");
    let daemon = Daemon::start_as_configured(&site, socket);
    assert!(jailed.ask("jane@example.org").starts_with(BY_DAEMON));
    drop(daemon);
    // A process that may read the new list follows it; with mode 0644 every process may.
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(jailed.ask("jane@example.org").starts_with(BY_LIST));
}

#[test]
fn jailed_process_reads_the_replica_as_it_changes() {
    if !nix::unistd::Uid::effective().is_root() {
        left_out("only root can make a jail");
        return;
    }
    let program = program("jail", "cc", &["-std=c99"], &library());
    let site = Site::new();
    let mut place = replica(&site);
    let jail = site.path("jail");
    fs::create_dir_all(&jail).unwrap();
    let mut jailed = Jailed::start(&program, &path_of(&site), &jail);
    assert!(jailed.ask("jane@example.org").starts_with(BY_REPLICA));
    put(&mut place, &[("user.jane", "be7.example.org"), ("user.bob", "be2.example.org")]);
    assert!(jailed.ask("jane@example.org").starts_with("deliver 303 be7.example.org"));
    assert!(jailed.ask("bob@example.org").starts_with("deliver 303 be2.example.org"));
    assert!(jailed.ask("nobody@example.org").starts_with("deferred"));
}

#[test]
fn forwarded_recipient_gets_the_decision_of_the_daemon() {
    let master = Master::start(&[
        ("user.jane", "be1.example.org!default"),
        ("user.new", "be2.example.org!default"),
    ]);
    let (site, socket) = site_of(&master);
    let _daemon = Daemon::start_as_configured(&site, socket);
    let lookup = example();
    let config = path_of(&site);
    let ask = |recipients: &[&str]| {
        let output = Command::new(&lookup)
            .env("LD_LIBRARY_PATH", library())
            .arg("-c")
            .arg(&config)
            .args(recipients)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, said) = ask(&["jane@example.org", "new@example.org"]);
    assert_eq!(
        said,
        "jane@example.org: be1.example.org port 2003, RCPT TO:<jane@example.org>\n\
         new@example.org: be2.example.org port 2003, RCPT TO:<new@example.org>\n"
    );
    assert_eq!(status, Some(0));
    assert_eq!(
        ask(&["nobody@example.org", "x@elsewhere.example"]),
        (
            Some(1),
            "nobody@example.org: unknown: no such mailbox\n\
             x@elsewhere.example: foreign: its domain is none of ours\n"
                .to_owned()
        )
    );
}

/// The files that `make install-lib` installs, in a directory of its own.
fn installed() -> tempfile::TempDir {
    library();
    installed_by("install-lib", &[])
}

fn installed_by(what: &str, more: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let destdir = format!("DESTDIR={}", root.path().display());
    let mut make = Command::new("make");
    well(make.args(["-s", what, "prefix=/usr", &destdir]).args(more).current_dir(ROOT));
    root
}

/// All files below a directory, by their paths in it.
fn files_in(root: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => directories.push(entry.path()),
                false => drop(files.insert(entry.path().strip_prefix(root).unwrap().to_owned())),
            }
        }
    }
    files
}

#[test]
fn library_and_daemon_have_no_installed_file_in_common() {
    let library = installed();
    let program = format!("PROGRAM={}", env!("CARGO_BIN_EXE_murder-route"));
    let daemon = installed_by("install-daemon", &[&program]);
    let (library, daemon) = (files_in(library.path()), files_in(daemon.path()));
    assert!(library.contains(Path::new("usr/include/murder_route.h")), "{library:?}");
    assert!(daemon.contains(Path::new("usr/share/man/man8/murder-route.8")), "{daemon:?}");
    let both: Vec<_> = library.intersection(&daemon).collect();
    assert!(both.is_empty(), "{both:?}");
    let pages = fs::read_dir(Path::new(ROOT).join("man")).unwrap();
    for page in pages.map(|page| page.unwrap().file_name().into_string().unwrap()) {
        let at = format!("usr/share/man/man{}/{page}", page.rsplit('.').next().unwrap());
        assert!(library.union(&daemon).any(|file| *file == Path::new(&at)), "{at}");
    }
}

#[test]
fn installed_files_name_the_directory_of_the_library() {
    library();
    let libdir = "/usr/lib/some-linux-gnu";
    let root = installed_by("install-lib", &[&format!("libdir={libdir}"), "docdir=/usr/doc/mr"]);
    let mut named = 0;
    for file in files_in(root.path()) {
        let Ok(text) = fs::read_to_string(root.path().join(&file)) else { continue };
        for line in text.lines().filter(|line| line.contains("/libmurder_route.so")) {
            assert!(line.contains(&format!("{libdir}/libmurder_route.so")), "{file:?}: {line}");
            named += 1;
        }
        assert!(!text.contains("/usr/share/doc/murder-route"), "{file:?}");
    }
    assert!(named >= 4, "{named}");
}

#[test]
fn pkg_config_finds_the_library_where_it_was_moved_to() {
    if !is_there("pkg-config") {
        return;
    }
    let root = installed();
    let ask = |arguments: &[&str]| {
        let mut pkg_config = Command::new("pkg-config");
        let pkg_config = pkg_config
            .env("PKG_CONFIG_PATH", root.path().join("usr/lib/pkgconfig"))
            .args(arguments)
            .args(["--cflags", "--libs", "murder_route"]);
        well(pkg_config)
    };
    let said = ask(&["--define-variable=prefix=/elsewhere"]);
    assert!(said.contains("-I/elsewhere/include") && said.contains("-L/elsewhere/lib"), "{said}");
    let said = ask(&["--define-prefix"]);
    let moved = format!("-L{}/usr/lib", root.path().display());
    assert!(said.contains(&moved), "{said}");
}

#[test]
fn make_builds_below_the_target_directory_of_cargo() {
    let said = |target: Option<&str>, what: &str| {
        let mut make = Command::new("make");
        make.env_remove("CARGO_TARGET_DIR").args(["-n", "-B", what, "BASE=x"]).current_dir(ROOT);
        make.envs(target.map(|target| ("CARGO_TARGET_DIR", target)));
        well(&mut make)
    };
    for what in ["lib", "install", "bindings", "check-bindings", "abi-lib", "check-abi"] {
        let words = |target| {
            let said = said(target, what);
            let words =
                said.split([' ', '=', '>', '\n']).map(|word| word.trim_matches('"').to_owned());
            words.filter(|word| word.contains("target")).collect::<Vec<_>>()
        };
        assert!(words(None).iter().any(|word| word.starts_with("target")), "{what}");
        let elsewhere = words(Some("/elsewhere/target"));
        let stray: Vec<_> = elsewhere
            .iter()
            .filter(|word| !word.starts_with("/elsewhere/target") && !word.starts_with("--"))
            .collect();
        assert!(stray.is_empty(), "{what}: {stray:?}");
    }
}

/// mdoc(7) interprets a word that is the name of a macro as that macro, also in a heading.
#[test]
fn headings_of_the_manuals_are_rendered_whole() {
    if !is_there("man") {
        return;
    }
    for page in fs::read_dir(Path::new(ROOT).join("man")).unwrap() {
        let page = page.unwrap().path();
        let mut man = Command::new("man");
        let man =
            man.env("MANWIDTH", "200").env("LC_ALL", "C.UTF-8").env("MAN_KEEP_FORMATTING", "");
        let shown = well(man.args(["-P", "cat", "-E", "ascii", "-l"]).arg(&page));
        let shown: Vec<&str> = shown.lines().map(str::trim).collect();
        for line in fs::read_to_string(&page).unwrap().lines() {
            let Some(heading) = line.strip_prefix(".Ss ").or(line.strip_prefix(".Sh ")) else {
                continue;
            };
            let heading = heading.replace("\\&", "").replace('"', "");
            let is_whole = |line: &&&str| line.replace('"', "") == heading;
            assert!(shown.iter().any(|line| is_whole(&line)), "{page:?}: {heading}");
        }
    }
}

fn with_pkg_config(root: &Path) -> Command {
    let mut command = Command::new("make");
    command
        .env("PKG_CONFIG_PATH", root.join("usr/lib/pkgconfig"))
        .env("PKG_CONFIG_SYSROOT_DIR", root);
    command
}

/// The example in C, compiled without pkg-config.
fn example() -> PathBuf {
    let library = library();
    let output = target().join("capi-tests").join("example");
    fs::create_dir_all(output.parent().unwrap()).unwrap();
    well(
        Command::new("cc")
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Ic-api"])
            .args(["c-api/examples/lookup.c", "-lmurder_route", "-o"])
            .arg(&output)
            .arg(format!("-L{}", library.display()))
            .current_dir(ROOT),
    );
    output
}

#[test]
fn installed_files_suffice_to_build_a_program() {
    let root = installed();
    let lib = root.path().join("usr/lib");
    let version = env!("CARGO_PKG_VERSION");
    let link = |name: &str| fs::read_link(lib.join(name)).unwrap();
    let real = format!("libmurder_route.so.{version}");
    assert_eq!(link("libmurder_route.so"), Path::new("libmurder_route.so.0"));
    assert_eq!(link("libmurder_route.so.0"), Path::new(&real));
    assert!(lib.join(&real).is_file());
    assert!(root.path().join("usr/share/man/man3/murder_route.3").is_file());
    if !is_there("pkg-config") {
        return;
    }
    let built = tempfile::tempdir().unwrap();
    let examples = Path::new(ROOT).join("c-api/examples");
    let output = format!("OUTPUT={}", built.path().display());
    well(with_pkg_config(root.path()).args(["-s", &output]).current_dir(&examples));
    let site = Site::new();
    let said = well(
        Command::new(built.path().join("lookup"))
            .env("LD_LIBRARY_PATH", &lib)
            .arg("-c")
            .arg(path_of(&site))
            .arg("jane@example.org"),
    );
    let right = "jane@example.org: be1.example.org port 2003, RCPT TO:<jane@example.org>\n";
    assert_eq!(said, right);
}

#[test]
fn python_example_prints_the_same_as_the_c_example() {
    if !is_there("python3") {
        return;
    }
    let site = Site::new();
    let run = |command: &mut Command| {
        let command = command
            .env("LD_LIBRARY_PATH", library())
            .arg("-c")
            .arg(path_of(&site))
            .args(["jane@example.org", "nobody@example.org", "x@elsewhere.example"]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", build::said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let python = run(Command::new("python3").arg(Path::new(ROOT).join("c-api/examples/lookup.py")));
    assert_eq!(python, run(&mut Command::new(example())));
}
