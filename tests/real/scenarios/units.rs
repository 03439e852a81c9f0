//! The systemd units as shipped, on a frontend that systemd boots. Cyrus and Postfix run there by Debian's
//! own units; the master and the backends are elsewhere.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use serde_json::Value;

use super::paths;
use crate::booted::{Booted, Cgroup, RUN};
use crate::clients::socketmap::Socketmap;
use crate::left_out::left_out;
use crate::logs::Logs;
use crate::murder::{ADMIN, MASTER, Murder, PASSWORD};
use crate::readme::{self, Readme};
use crate::releases::is_wanted;
use crate::report::Report;
use crate::root::Root;
use crate::sandbox::{self, ROOT, STATE, in_root};
use crate::{Done, Error, ensure, imapd_conf, run};

const SERVICE: &str = "murder-route.service";
const SOCKET: &str = "murder-route.socket";

/// The postmaster's configuration.
const CONFIGURATION: &str = "imapd-conf = \"/etc/imapd.conf\"\ndomains = [\"example.org\"]\n";

/// Directory of drop-ins for the service.
const DROP_INS: &str = "/etc/systemd/system/murder-route.service.d";

/// A recipient on each backend, with the answer.
const JANE: (&str, &str) = ("jane@example.org", "OK lmtp:inet:127.0.1.11:2003");
const MAX: (&str, &str) = ("max@example.org", "OK lmtp:inet:127.0.1.12:2003");

/// The host, and the Murder around it.
struct World {
    murder: Murder,
    host: Booted,
    /// Whether the program was installed without a wrapper, so that it can start itself, as the doctor
    /// does.
    as_it_is: bool,
}

impl World {
    /// The sockets that answer the doctor as user postfix. Everything else must be good too.
    fn tried_by_doctor(&self) -> Done<Vec<String>> {
        if !self.as_it_is {
            println!("    no doctor: the program needs a newer C library than this root has");
            return Ok(Vec::new());
        }
        // Postfix is not configured for murder-route: a warning.
        let doctor = ["murder-route", "doctor", "--json", "--recipient", JANE.0];
        let report: Value = serde_json::from_str(&self.host.run(&doctor)?)?;
        let well = report["errors"] == 0 && report["not_tested"] == 0;
        let found = report["findings"].as_array().filter(|_| well).ok_or(report.to_string())?;
        let tried = found.iter().filter(|f| f["check"] == "socket/answer");
        Ok(tried.filter_map(|f| f["where"].as_str().map(str::to_owned)).collect())
    }
}

/// Boots the host and runs all scenarios on it.
pub fn run_all(root: Root, logs: &Logs, report: &mut Report) {
    let cgroup = match Cgroup::make() {
        Ok(cgroup) => cgroup,
        Err(why) => {
            let why = why.to_string();
            let why = format!("no host can be booted on this machine: {}", why.trim_end());
            println!("{root}: skipped: {why}");
            left_out(&format!("{root}: {why}"));
            return;
        }
    };
    let mut built = None;
    report.scenario("a frontend boots, and our units start", logs, || {
        let world = build(root, cgroup)?;
        is_answered(&world).map_err(|e| with_journal(&world.host, &e))?;
        built = Some(world);
        Ok(())
    });
    let Some(mut world) = built else { return };
    let mut scenario = |name: &str, run: fn(&mut World) -> Done| {
        if is_wanted(name) {
            report.scenario(name, logs, || {
                run(&mut world).map_err(|e| {
                    let e = with_journal(&world.host, &e);
                    // The next scenario starts as if there had been none.
                    let _ = back_to_the_list(&world.host);
                    e
                })
            });
        }
    };
    scenario("a reload applies a changed domain, and rejects a broken file", |w| reloads(&w.host));
    scenario("without a login at the master, the slave is asked", |w| asks_the_slave(&w.host));
    scenario("restarts under load lose no request", |w| loses_none(&w.host));
    scenario("only the socket's unit is restarted and stopped", |w| follows_its_socket(&w.host));
    scenario("a killed daemon comes back", |w| comes_back(&w.host));
    scenario("a daemon that hangs is killed by systemd and comes back", |w| is_watched(&w.host));
    scenario("a user who takes all connections takes none of Postfix", |w| is_crowded(&w.host));
    scenario("requests wait while the configuration is broken", |w| questions_wait(&w.host));
    scenario("a socket in Postfix' chroot, by the README", |w| is_in_the_chroot(w));
    scenario("a replica, as another user", |w| keeps_a_replica(&w.host));
    scenario("after a reboot everything starts by itself", starts_by_itself);
}

/// Adds the journal of the units to an error.
fn with_journal(host: &Booted, error: &Error) -> Error {
    let journal = ["journalctl", "--no-pager", "-n", "30", "-u", SERVICE, "-u", SOCKET];
    let said = host.output(&journal).unwrap_or_else(|e| e.to_string());
    format!("{error}\n{said}").into()
}

/// Turns the frontend of the Murder into a separate host.
fn build(root: Root, cgroup: Cgroup) -> Done<World> {
    let mut murder = Murder::start(root.release)?;
    paths::populate(&murder)?;
    murder.frontend.stop()?;
    let (dir, old) = (murder.frontend.dir(), murder.frontend.imapd_conf());
    let imapd = imapd_conf::changed(
        &fs::read_to_string(&old)?,
        &[("configdirectory", "/var/lib/cyrus"), ("partition-default", "/var/spool/cyrus/mail")],
    );
    fs::write(in_root("/etc/imapd.conf"), imapd)?;
    let cyrus = fs::read_to_string(format!("{dir}/cyrus.conf"))?.replace(&old, "/etc/imapd.conf");
    fs::write(in_root("/etc/cyrus.conf"), cyrus)?;
    let as_it_is = install()?;
    configure(CONFIGURATION)?;
    Ok(World { murder, host: Booted::boot(cgroup)?, as_it_is })
}

/// `make install` of the program built for the tests. Returns false if its C library had to be copied too.
fn install() -> Done<bool> {
    let program = format!("PROGRAM={}", env!("CARGO_BIN_EXE_murder-route"));
    let mut make = Command::new("make");
    make.args(["-s", "install-daemon", &format!("DESTDIR={ROOT}"), &program]);
    run(make.current_dir(env!("CARGO_MANIFEST_DIR")))?;
    let Err(e) = run(sandbox::command(readme::PROGRAM).arg("--version")) else { return Ok(true) };
    ensure!(e.to_string().contains("GLIBC_"), "the program does not run in the root: {e}");
    fs::remove_file(in_root(readme::PROGRAM))?;
    readme::install_program()?;
    Ok(false)
}

/// The socket of the unit, as seen from outside of the host.
fn socket() -> String {
    format!("{RUN}/murder-route")
}

fn ask(recipient: &str) -> Done<String> {
    Socketmap::open(&socket())?.ask("lmtp", recipient)
}

/// Demands this answer at once, without a limit on its delay.
fn is((recipient, wanted): (&str, &str)) -> Done {
    let answer = ask(recipient)?;
    ensure!(answer == wanted, "{recipient}: {answer}");
    Ok(())
}

/// Waits for this answer: there is no notification when the list or the configuration has been read.
fn becomes((recipient, wanted): (&str, &str)) -> Done {
    sandbox::poll(&format!("{recipient} to be answered {wanted}"), 30, || {
        is((recipient, wanted)).map(Some)
    })
}

/// Confirmed by the master.
fn unknown_is_refused() -> Done {
    becomes(("nobody@example.org", "OK error:5.1.1 User unknown"))
}

fn is_running(host: &Booted) -> Done {
    for unit in [SERVICE, SOCKET] {
        let state = host.property(unit, "SubState")?;
        ensure!(state == "running", "{unit} is {state}");
    }
    Ok(())
}

/// Owner, group and mode of a file, by its path on the host.
fn rights(host: &Booted, path: &str) -> Done<String> {
    Ok(host.run(&["stat", "--format", "%U:%G %a", path])?.trim_end().to_owned())
}

fn is_answered(world: &World) -> Done {
    let host = &world.host;
    // It exits with success even when it prints warnings.
    let verify = format!("systemd-analyze verify --man=no {SERVICE} {SOCKET} 2>&1");
    let said = host.run(&["sh", "-c", &verify])?;
    ensure!(said.is_empty(), "systemd-analyze verify: {said}");
    // Maximum exposure, times ten.
    host.run(&["systemd-analyze", "security", "--no-pager", "--threshold=16", SERVICE])?;
    host.run(&["systemctl", "enable", "--now", SOCKET, SERVICE])?;
    is_running(host)?;
    let status = host.property(SERVICE, "StatusText")?;
    let wanted = "answering at systemd:murder-route.socket from /var/lib/cyrus/mailboxes.db";
    ensure!(status == wanted, "{status}");
    // Cyrus' slave may not have run yet.
    becomes(JANE)?;
    becomes(MAX)?;
    unknown_is_refused()?;
    for (path, wanted) in [
        ("/run/murder-route", "root:root 666"),
        ("/var/lib/murder-route", "cyrus:mail 755"),
        ("/var/lib/cyrus/mailboxes.db", "cyrus:mail 600"),
    ] {
        let rights = rights(host, path)?;
        ensure!(rights == wanted, "{path}: {rights}");
    }
    let postmap = ["runuser", "-u", "postfix", "--", "postmap", "-q", JANE.0];
    let map = "socketmap:unix:/run/murder-route:lmtp";
    let answer = host.run(&[&postmap[..], &[map]].concat())?;
    ensure!(JANE.1.strip_prefix("OK ") == Some(answer.trim_end()), "postmap: {answer}");
    host.run(&["murder-route", "status"])?;
    for path in world.tried_by_doctor()? {
        ensure!(path == "unix:/run/murder-route", "tried: {path}");
    }
    // A mailbox that is created meanwhile: Cyrus writes, unaffected by the sandbox of the unit.
    world.murder.backends[1].admin()?.command("CREATE user/newcomer")?;
    becomes(("newcomer@example.org", MAX.1))
}

fn configure(text: &str) -> Done {
    Ok(fs::write(in_root("/etc/murder-route.toml"), text)?)
}

fn reloads(host: &Booted) -> Done {
    let bob = "bob@example.net";
    is((bob, "NOTFOUND "))?;
    configure(&CONFIGURATION.replace("example.org", "example.net"))?;
    host.run(&["systemctl", "reload", SERVICE])?;
    becomes((bob, MAX.1))?;
    is(("jane@example.org", "NOTFOUND "))?;
    let pid = host.property(SERVICE, "MainPID")?;

    configure("domains = 7\n")?;
    host.run(&["systemctl", "reload", SERVICE])?;
    sandbox::poll("the unit's status to show the error", 20, || {
        let status = host.property(SERVICE, "StatusText")?;
        let told = status.starts_with("configuration not reloaded: /etc/murder-route.toml: line 1");
        ensure!(told, "{status}");
        Ok(Some(()))
    })?;
    is((bob, MAX.1))?;

    configure(CONFIGURATION)?;
    host.run(&["systemctl", "reload", SERVICE])?;
    becomes(JANE)?;
    ensure!(host.property(SERVICE, "MainPID")? == pid, "it is another process");
    is_running(host)
}

/// At a socket in a directory that is read-only for the daemon and belongs to Cyrus.
fn asks_the_slave(host: &Booted) -> Done {
    let imapd = fs::read_to_string(in_root("/etc/imapd.conf"))?;
    let without = |line: &&str| !line.starts_with("mupdate_auth") && !line.contains("_password");
    let imapd: Vec<&str> = imapd.lines().filter(without).collect();
    fs::write(in_root("/etc/imapd-no-login.conf"), imapd.join("\n") + "\n")?;
    configure(&CONFIGURATION.replace("imapd.conf", "imapd-no-login.conf"))?;
    host.run(&["systemctl", "restart", SERVICE])?;
    unknown_is_refused()?;
    back_to_the_list(host)
}

/// Asks without pause with Postfix' own client, one process per request, without retries.
const ASK_ON: &str = r#"
while ! [ -e "$0.over" ]; do
    answer=$(postmap -q "$1" socketmap:unix:/run/murder-route:lmtp) || exit
    [ "OK $answer" = "$2" ] || { echo "$1: $answer" >&2; exit 1; }
    printf . >> "$0"
done
"#;

fn loses_none(host: &Booted) -> Done {
    const RESTARTS: u64 = 15;
    // One dot per answer.
    let answered = format!("{STATE}/answered");
    fs::write(&answered, "")?;
    fs::set_permissions(&answered, Permissions::from_mode(0o666))?;
    let ask_on = |(recipient, wanted)| -> Done {
        let as_postfix = ["runuser", "-u", "postfix", "--", "sh", "-c", ASK_ON];
        host.run(&[&as_postfix[..], &[&answered, recipient, wanted]].concat()).map(drop)
    };
    let pid = host.property(SERVICE, "MainPID")?;
    thread::scope(|scope| -> Done {
        let clients = [JANE, MAX, JANE].map(|case| scope.spawn(move || ask_on(case)));
        let restarts = (1..=RESTARTS).try_for_each(|round| {
            sandbox::poll("answers", 20, || {
                Ok((fs::metadata(&answered)?.len() >= round * 60).then_some(()))
            })?;
            host.run(&["systemctl", "restart", SERVICE]).map(drop)
        });
        fs::write(format!("{answered}.over"), "")?;
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        restarts
    })?;
    let answered = fs::metadata(&answered)?.len();
    println!("    {answered} requests answered, during {RESTARTS} restarts");
    ensure!(host.property(SERVICE, "MainPID")? != pid, "it is the same process");
    is_running(host)
}

fn follows_its_socket(host: &Booted) -> Done {
    // As after the installation of a drop-in.
    host.run(&["systemctl", "restart", SOCKET])?;
    is(JANE)?;
    is_running(host)?;
    host.run(&["systemctl", "stop", SOCKET])?;
    for unit in [SERVICE, SOCKET] {
        let state = host.property(unit, "ActiveState")?;
        ensure!(state == "inactive", "{unit} is {state}");
    }
    ensure!(UnixStream::connect(socket()).is_err(), "somebody answers");
    host.run(&["systemctl", "start", SERVICE])?;
    is(JANE)?;
    // A service that was stopped alone is started again by the next client.
    host.run(&["systemctl", "stop", SERVICE])?;
    is(JANE)?;
    is_running(host)
}

/// A daemon that runs is never killed, also during reloads; one that hangs is.
fn is_watched(host: &Booted) -> Done {
    let every = host.property(SERVICE, "WatchdogUSec")?;
    ensure!(every == "1min", "WatchdogSec as shipped: {every}");
    let drop_in = in_root(&format!("{DROP_INS}/watchdog.conf"));
    fs::create_dir_all(in_root(DROP_INS))?;
    fs::write(&drop_in, "[Service]\nWatchdogSec=2\n")?;
    let watched = || -> Done {
        host.run(&["systemctl", "daemon-reload"])?;
        host.run(&["systemctl", "restart", SERVICE])?;
        is(JANE)?;
        let pid = host.property(SERVICE, "MainPID")?;
        // Each watchdog message changes this value.
        let sign = || host.property(SERVICE, "WatchdogTimestampMonotonic");
        for _ in 0..5 {
            let before = sign()?;
            host.run(&["systemctl", "reload", SERVICE])?;
            sandbox::poll("a watchdog message", 20, || Ok((sign()? != before).then_some(())))?;
        }
        ensure!(host.property(SERVICE, "MainPID")? == pid, "it was killed while it was running");
        host.run(&["systemctl", "kill", "--signal=STOP", SERVICE])?;
        sandbox::poll("systemd to kill it", 30, || {
            let now = host.property(SERVICE, "MainPID")?;
            Ok((now != pid && now != "0").then_some(()))
        })?;
        becomes(JANE)
    };
    let done = watched();
    fs::remove_file(&drop_in)?;
    host.run(&["systemctl", "daemon-reload"])?;
    host.run(&["systemctl", "restart", SERVICE])?;
    done?;
    is(JANE)?;
    is_running(host)
}

/// Opens this number of connections and keeps them. With a third argument each connection sends one
/// request.
const HOARD: &str = r#"
use IO::Socket::UNIX;
my ($path, $count, $asks) = @ARGV;
my @held;
$SIG{PIPE} = 'IGNORE';
for (1 .. $count) {
    my $s = IO::Socket::UNIX->new(Peer => $path) or last;
    push @held, $s;
    syswrite $s, "21:lmtp jane\@example.org," if $asks;
}
$| = 1;
print "held ", scalar @held, "\n";
sleep 600;
"#;

/// As user nobody, at the socket that every user may use; then only Postfix may.
fn is_crowded(host: &Booted) -> Done {
    let script = format!("{STATE}/hoard.pl");
    fs::write(&script, HOARD)?;
    fs::set_permissions(&script, Permissions::from_mode(0o644))?;
    let postmap = ["runuser", "-u", "postfix", "--", "postmap", "-q", JANE.0];
    let postmap = [&postmap[..], &["socketmap:unix:/run/murder-route:lmtp"]].concat();
    let answered = || -> Done {
        let answer = host.run(&postmap)?;
        ensure!(JANE.1.strip_prefix("OK ") == Some(answer.trim_end()), "postmap: {answer}");
        Ok(())
    };
    for asks in ["", "asks"] {
        let hoard = format!(
            "runuser -u nobody -- sh -c 'ulimit -n 4000; exec perl {script} /run/murder-route 2600 \
             {asks}' > {STATE}/held 2>&1 </dev/null & echo $!"
        );
        let pid = host.run(&["sh", "-c", &hoard])?;
        sandbox::poll("the connections", 30, || {
            let held = fs::read_to_string(format!("{STATE}/held")).unwrap_or_default();
            Ok(held.starts_with("held ").then_some(held))
        })
        .and_then(|held| {
            // Connections beyond the waiting ones are closed, which the client does not notice at once.
            ensure!(held.trim_end() == "held 2600", "{held}");
            Ok(())
        })?;
        let tried = (0..20).try_for_each(|_| answered());
        host.run(&["sh", "-c", &format!("kill {}", pid.trim())])?;
        fs::remove_file(format!("{STATE}/held"))?;
        tried?;
    }
    follow(host, "postfix", "Access to the socket")?;
    let rights = rights(host, "/run/murder-route")?;
    ensure!(rights == "root:postfix 660", "{rights}");
    answered()?;
    let nobody = host.run(&[&["runuser", "-u", "nobody"], &postmap[3..]].concat());
    ensure!(nobody.is_err(), "no client is answered");
    host.run(&["murder-route", "status"])?;
    fs::remove_dir_all(in_root("/etc/systemd/system/murder-route.socket.d"))?;
    host.run(&["systemctl", "daemon-reload"])?;
    host.run(&["systemctl", "restart", SOCKET])?;
    is(JANE)?;
    is_running(host)
}

/// Kills the daemon and waits until it is gone: a new client cannot reach it.
fn kill(host: &Booted) -> Done {
    let pid = host.property(SERVICE, "MainPID")?;
    host.run(&["systemctl", "kill", "--signal=KILL", SERVICE])?;
    sandbox::poll("systemd to notice", 20, || {
        Ok((host.property(SERVICE, "MainPID")? != pid).then_some(()))
    })
}

fn comes_back(host: &Booted) -> Done {
    kill(host)?;
    is(JANE)?;
    is_running(host)?;
    // Also without any client.
    kill(host)?;
    sandbox::poll("the daemon to be back", 20, || is_running(host).map(Some))
}

fn questions_wait(host: &Booted) -> Done {
    configure("domains = 7\n")?;
    let said = host.fails(&["systemctl", "restart", SERVICE])?;
    ensure!(said.contains("journalctl"), "{said}");
    let seen = thread::scope(|scope| {
        let waiting = [JANE, MAX].map(|case| scope.spawn(move || is(case)));
        let seen = sandbox::poll("a restart", 20, || {
            let restarts = host.property(SERVICE, "NRestarts")?;
            ensure!(restarts.parse::<u32>()? >= 3, "{restarts} times");
            Ok(Some(host.property(SERVICE, "ActiveState")?))
        });
        let early = waiting.iter().any(thread::ScopedJoinHandle::is_finished);
        configure(CONFIGURATION)?;
        for client in waiting {
            client.join().map_err(|_| "a client panicked")??;
        }
        ensure!(!early, "a request was answered before the error was fixed");
        seen
    })?;
    ensure!(seen == "activating", "it is {seen}");
    let journal = host.run(&["journalctl", "--no-pager", "-u", SERVICE])?;
    for said in ["/etc/murder-route.toml: line 1, column 11: ", "status=78/CONFIG"] {
        ensure!(journal.contains(said), "the journal does not have {said:?}");
    }
    is_running(host)
}

/// Follows a section of the README and performs its `systemctl` calls.
fn follow(host: &Booted, directory: &str, section: &str) -> Done {
    for call in Readme::of(directory)?.below(section)?.follow()? {
        let words: Vec<&str> = ["systemctl"].into_iter().chain(call.split(' ')).collect();
        host.run(&words)?;
    }
    Ok(())
}

fn is_in_the_chroot(world: &World) -> Done {
    let host = &world.host;
    let path = "/var/spool/postfix/murder-route/socket";
    follow(host, "postfix", "A socket in the chroot")?;
    is(JANE)?;
    for (path, wanted) in [("/run/murder-route", "root:root 666"), (path, "cyrus:mail 666")] {
        let rights = rights(host, path)?;
        ensure!(rights == wanted, "{path}: {rights}");
    }
    let answer = Socketmap::open(&in_root(path))?.ask("lmtp", MAX.0)?;
    ensure!(answer == MAX.1, "{answer}");
    for socket in world.tried_by_doctor()? {
        let known = ["/run/murder-route", path].map(|path| format!("unix:{path}"));
        ensure!(known.contains(&socket), "tried: {socket}");
    }
    // Files left by a killed daemon do not matter.
    kill(host)?;
    is(JANE)?;
    let answer = Socketmap::open(&in_root(path))?.ask("lmtp", MAX.0)?;
    ensure!(answer == MAX.1, "{answer}");
    // For Postfix only: the daemon may give its socket to a group that it belongs to.
    let mut settings = fs::read_to_string(in_root("/etc/murder-route.toml"))?;
    settings += "group = \"postfix\"\nmode = \"0660\"\n";
    configure(&settings)?;
    let group = "[Service]\nSupplementaryGroups=postfix\n";
    fs::write(in_root(&format!("{DROP_INS}/group.conf")), group)?;
    host.run(&["systemctl", "daemon-reload"])?;
    host.run(&["systemctl", "restart", SERVICE])?;
    let rights = rights(host, path)?;
    ensure!(rights == "cyrus:postfix 660", "{path}: {rights}");
    back_to_the_list(host)?;
    ensure!(!fs::exists(in_root(path))?, "{path} is still there");
    Ok(())
}

/// Removes the drop-ins and the configuration of a scenario.
fn back_to_the_list(host: &Booted) -> Done {
    if fs::exists(in_root(DROP_INS))? {
        fs::remove_dir_all(in_root(DROP_INS))?;
    }
    configure(CONFIGURATION)?;
    host.run(&["systemctl", "daemon-reload"])?;
    host.run(&["systemctl", "restart", SERVICE])?;
    is(JANE)?;
    is_running(host)
}

fn keeps_a_replica(host: &Booted) -> Done {
    host.run(&["useradd", "--system", "--user-group", "murder-route"])?;
    fs::create_dir_all(in_root(DROP_INS))?;
    fs::write(in_root(&format!("{DROP_INS}/user.conf")), "[Service]\nUser=murder-route\n")?;
    fs::create_dir_all(in_root("/etc/murder-route"))?;
    for (name, text) in [
        ("imapd.conf", fs::read_to_string(in_root("/etc/imapd.conf"))?),
        ("password", PASSWORD.to_owned()),
    ] {
        let path = format!("/etc/murder-route/{name}");
        host.run(&["install", "-m", "0640", "-g", "murder-route", "/dev/null", &path])?;
        fs::write(in_root(&path), text)?;
    }
    // By its name, which the sandbox of the unit must permit to be resolved.
    let mut hosts = fs::read_to_string(in_root("/etc/hosts"))?;
    hosts += &format!("{MASTER} mupdate.murder.test\n");
    fs::write(in_root("/etc/hosts"), hosts)?;
    configure(&format!(
        "source = \"replica\"\n\
         imapd-conf = \"/etc/murder-route/imapd.conf\"\n\
         domains = [\"example.org\"]\n\
         [mupdate]\n\
         servers = [\"mupdate.murder.test\"]\n\
         authname = {ADMIN:?}\n\
         password-file = \"/etc/murder-route/password\"\n"
    ))?;
    host.run(&["systemctl", "daemon-reload"])?;
    host.run(&["systemctl", "restart", SERVICE])?;
    becomes(JANE)?;
    unknown_is_refused()?;
    for (name, wanted) in [("", "755"), ("/data.mdb", "640"), ("/lock.mdb", "660")] {
        let rights = rights(host, &format!("/var/lib/murder-route{name}"))?;
        ensure!(rights == format!("murder-route:murder-route {wanted}"), "{name}: {rights}");
    }
    // It serves its replica, and files of one user become those of the other.
    host.run(&["systemctl", "restart", SERVICE])?;
    is(MAX)?;
    sandbox::poll("the replica to be fresh again", 30, || {
        host.run(&["murder-route", "status"]).map(Some)
    })?;
    back_to_the_list(host)?;
    let rights = rights(host, "/var/lib/murder-route/data.mdb")?;
    ensure!(rights == "cyrus:mail 640", "{rights}");
    Ok(())
}

fn starts_by_itself(world: &mut World) -> Done {
    world.host.reboot()?;
    is_running(&world.host)?;
    becomes(JANE)?;
    unknown_is_refused()
}
