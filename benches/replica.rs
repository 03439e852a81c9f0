//! A full list of 1,000,000 records from a real MUPDATE master: the time until the daemon has applied it,
//! against a reader that only counts its bytes and against Cyrus' own slave; its cost; and the answers
//! meanwhile.
//!
//! All three alternate, and each begins with a process to start or a connection to open. The slave has no
//! list yet; ours has the replica of a small site, whose users are looked up meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use murder_route::model::name::MailboxName;
use murder_route::model::record::{AnonymousRights, Record, State};
use murder_route::replica::store::ReplicaWriter;
use murder_route::replica::{FullSync, SyncContext};
use murder_route::routing::maps::STATUS_MAP;
use murder_route::wire::netstring::Decoder;
use murder_route::wire::socketmap::{REPLY_LIMIT, Request};

use crate::list::{self, FOLDERS, Random, Site, USERS};
use crate::mupdate::{self, LIST_TIMEOUT, MASTER};
use crate::sandbox::{self, Process, STATE};
use crate::table::{Goal, Table, median, ratio};
use crate::{Done, changes, daemon, ensure, processor, run};

/// Full lists of each.
const ROUNDS: usize = 5;

/// Number of users in the earlier replica.
const KNOWN: u32 = 1000;

/// Pause between two look-ups of the client, and between two looks at the process.
const PAUSE: Duration = Duration::from_millis(3);
const LOOK: Duration = Duration::from_millis(20);

pub fn measure(site: &Site, cached_root: &Path, table: &mut Table) -> Done {
    fs::write(CONF, fs::read_to_string(site.imapd_conf())? + &mupdate::client())?;
    let master = mupdate::master(site)?;
    let (mut frontend, _) = mupdate::frontend(site)?;
    let (mut ours, mut readers, mut slaves) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // In rotating order.
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => readers.push(count_bytes()?),
                1 => ours.push(whole_list()?),
                _ => {
                    frontend.stop()?;
                    let seconds;
                    (frontend, seconds) = mupdate::frontend(site)?;
                    slaves.push(seconds);
                }
            }
        }
        let Whole { seconds, processor, .. } = &ours[round];
        println!(
            "full list: {seconds:.2} s, of the processor {processor:.2} s; bare reader {:.2} s; \
             slave {:.1} s",
            readers[round], slaves[round]
        );
    }
    report(&ours, &readers, &slaves, table);
    let serve = again(table)?;
    changes::measure(site, &frontend.mailboxes_db(), table)?;
    serve.stop()?;
    frontend.stop()?;
    on_disk(site, cached_root.parent().ok_or("the cached root has no parent")?, table)?;
    master.stop()
}

/// Again, with the replica and the slave's configdirectory on the disk of the cache, as on a host without
/// special settings: the slave's lock files are below its configdirectory (`mboxname_lockpath`). Not
/// alternating, since a slave may take minutes for it.
fn on_disk(site: &Site, cache: &Path, table: &mut Table) -> Done {
    let disk = tempfile::tempdir_in(cache)?;
    let frontend = mupdate::frontend_dir();
    let mut mounted = Vec::new();
    let done = (|| {
        for (name, dir, owner) in [
            ("replica", REPLICA, sandbox::User { uid: 0, gid: 0 }),
            ("frontend", &frontend, site.cyrus),
        ] {
            let there = disk.path().join(name);
            sandbox::make_dir(&there.to_string_lossy(), owner)?;
            // Inside of the root as well, whose /run is a separate mount.
            for at in [dir.to_owned(), sandbox::in_root(dir)] {
                fs::create_dir_all(&at)?;
                run(Command::new("mount").arg("--bind").arg(&there).arg(&at))?;
                mounted.push(at);
            }
        }
        let ours = whole_list()?.seconds;
        let (host, slave) = mupdate::frontend(site)?;
        host.stop()?;
        let peer = ("slave of Cyrus", slave);
        table.against("full list, on a disk", "s", ours, peer, ours / slave, Goal::AtMost(0.25));
        Ok(())
    })();
    mounted.iter().try_for_each(|at| run(Command::new("umount").arg(at)).map(drop)).and(done)
}

/// Cost of one full list.
struct Whole {
    seconds: f64,
    processor: f64,
    memory: f64,
    lookups: usize,
    longest: f64,
}

fn report(ours: &[Whole], readers: &[f64], slaves: &[f64], table: &mut Table) {
    let all = |of: fn(&Whole) -> f64| ours.iter().map(of).collect::<Vec<_>>();
    let most = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
    let seconds = all(|whole| whole.seconds);
    let own = median(seconds.iter().copied());
    for (name, theirs, goal) in [("bare reader", readers, 1.1), ("slave of Cyrus", slaves, 0.25)] {
        let peer = (name, median(theirs.iter().copied()));
        table.against("full list", "s", own, peer, ratio(&seconds, theirs), Goal::AtMost(goal));
    }
    // The lower limit: the time of the master itself.
    let (floor, slave) = (median(readers.iter().copied()), median(slaves.iter().copied()));
    let peer = ("slave of Cyrus", slave);
    table.against("bare reader", "s", floor, peer, ratio(readers, slaves), Goal::None);
    let processor = median(all(|whole| whole.processor));
    table.alone("full list, processor time", "s", processor, Goal::Below(2.0));
    let memory = most(all(|whole| whole.memory));
    table.alone("full list, memory at most, file pages aside", "MB", memory, Goal::Below(64.0));
    let lookups = ours.iter().map(|whole| whole.lookups).sum::<usize>() as f64;
    table.alone("full list, right answers meanwhile", "", lookups, Goal::None);
    let longest = most(all(|whole| whole.longest)) * 1e3;
    table.alone("full list, longest wait for an answer meanwhile", "ms", longest, Goal::None);
}

/// Directory of the replica, and socket of its daemon.
const REPLICA: &str = "/run/murder/replica";
pub const SOCKET: &str = "/run/murder/replica-serve";

/// imapd.conf of the daemon's host.
const CONF: &str = "/run/murder/replica-imapd.conf";

/// The peer that only reads the list and discards it. Returns seconds.
fn count_bytes() -> Done<f64> {
    let began = Instant::now();
    let mut connection = mupdate::Connection::log_in()?;
    connection.send("U UPDATE")?;
    let bytes = connection.read_to("U OK \"streaming starts\"\r\n")?;
    ensure!(bytes > 50_000_000, "a list of {bytes} bytes");
    Ok(began.elapsed().as_secs_f64())
}

/// `murder-route serve` with a replica.
fn command() -> Command {
    let mut command = Command::new(daemon::PROGRAM);
    command.env_clear().args(["serve", "--source", "replica", "--replica", REPLICA]);
    command.args(["--allow-plaintext", "--imapd-conf", CONF]);
    command.args(["--domain", "example.org", "--listen", &format!("unix:{SOCKET}")]);
    command
}

fn start() -> Done<Process> {
    let _ = fs::remove_file(SOCKET);
    let output = format!("{STATE}/replica-serve.output");
    Process::start("serve", &mut command(), output.as_ref())
}

/// Measures from the start of the daemon, which has a small earlier replica, until it has the whole list.
fn whole_list() -> Done<Whole> {
    let _ = fs::remove_dir_all(REPLICA);
    fill(REPLICA, KNOWN, 1)?;
    let began = Instant::now();
    let serve = start()?;
    let done = AtomicBool::new(false);
    let (memory, asked) = std::thread::scope(|scope| -> Done<_> {
        let client = scope.spawn(|| ask_meanwhile(&done));
        let memory = peak_until(&serve, |status| status["names"] == NAMES);
        done.store(true, Relaxed);
        let asked = client.join().map_err(|_| "the client panicked")?;
        Ok((memory?, asked?))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let processor = processor::of_process(serve.id())?;
    serve.stop()?;
    let (lookups, longest) = asked;
    Ok(Whole { seconds, processor, memory, lookups, longest })
}

/// Number of names in the list.
const NAMES: u32 = USERS * FOLDERS.len() as u32;

/// Restarts the same daemon with its replica: nothing has changed. Returns it.
fn again(table: &mut Table) -> Done<Process> {
    let began = Instant::now();
    let serve = start()?;
    let memory = peak_until(&serve, |status| status["state"] == "fresh")?;
    let seconds = began.elapsed().as_secs_f64();
    let processor = processor::of_process(serve.id())?;
    let io = fs::read_to_string(format!("/proc/{}/io", serve.id()))?;
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")).ok_or("no wchar")?;
    table.alone("same list again", "s", seconds, Goal::None);
    table.alone("same list again, processor time", "s", processor, Goal::None);
    table.alone("same list again, memory at most, file pages aside", "MB", memory, Goal::None);
    let kilobytes = written.parse::<f64>()? / 1024.0;
    table.alone("same list again, written (files, log and answers)", "kB", kilobytes, Goal::None);
    Ok(serve)
}

/// Watches the daemon until its status is as wanted. Returns the peak of its own memory until then, in MB.
fn peak_until(serve: &Process, wanted: impl Fn(&serde_json::Value) -> bool) -> Done<f64> {
    let began = Instant::now();
    let mut stream = sandbox::poll("the daemon", 20, || Ok(Some(UnixStream::connect(SOCKET)?)))?;
    let mut peak = 0.0;
    loop {
        peak = daemon::memory_of(serve.id(), "RssAnon")?.max(peak);
        let answer = ask(&mut stream, STATUS_MAP, "")?;
        let json = answer.strip_prefix("OK ").ok_or_else(|| format!("status: {answer}"))?;
        let status = serde_json::from_str(json)?;
        if wanted(&status) {
            return Ok(peak);
        }
        ensure!(began.elapsed() < LIST_TIMEOUT, "still not there: {status}");
        std::thread::sleep(LOOK);
    }
}

/// Looks up users of the small replica. Returns the number of look-ups and the longest response time.
fn ask_meanwhile(done: &AtomicBool) -> Done<(usize, f64)> {
    let mut stream = sandbox::poll("the daemon", 20, || Ok(Some(UnixStream::connect(SOCKET)?)))?;
    let mut random = Random(13);
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !done.load(Relaxed) {
        let recipient = list::recipient(random.below(KNOWN as usize) as u32);
        let began = Instant::now();
        let answer = ask(&mut stream, "lmtp", &recipient)?;
        longest = longest.max(began.elapsed());
        count += 1;
        ensure!(answer.ends_with(":2003"), "{recipient}: {answer}");
        std::thread::sleep(PAUSE);
    }
    Ok((count, longest.as_secs_f64()))
}

/// One round trip. Returns the answer.
pub fn ask(stream: &mut UnixStream, map: &str, key: &str) -> Done<String> {
    let mut request = Vec::new();
    Request { map: map.as_bytes(), key: key.as_bytes() }.encode_into(&mut request);
    stream.write_all(&request)?;
    let mut replies = Decoder::new(REPLY_LIMIT);
    let mut piece = [0; 4096];
    loop {
        if let Some(reply) = replies.next_frame() {
            return Ok(String::from_utf8_lossy(reply?).into_owned());
        }
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the daemon closed the connection");
        replies.push(piece.get(..read).unwrap_or_default());
    }
}

/// Creates a replica with these users, as left by a master of 3.6 with `folders` of each.
pub fn fill(dir: &str, users: u32, folders: usize) -> Done {
    // An earlier day.
    let now = SystemTime::now() - Duration::from_secs(86_400);
    let mut place = ReplicaWriter::open(Path::new(dir))?;
    let mut change = place.begin()?;
    let mut listing = FullSync::begin(&change)?;
    for user in 0..users {
        for folder in 0..folders {
            let record = Record {
                state: State::Active,
                server: Some(list::server(user)),
                partition: "default".into(),
                anonymous: AnonymousRights::default(),
            };
            listing.record(&mut change, &name(user, folder)?, &record, now)?;
        }
    }
    let heard = SyncContext { master: MASTER, release: "3.6.1", now, passed: Duration::ZERO };
    listing.finish(&mut change, &heard, Duration::from_secs(600))?;
    change.commit_to_disk()?;
    Ok(())
}

/// A mailbox name in MUPDATE's form.
pub fn name(user: u32, folder: usize) -> Done<MailboxName> {
    let name = list::name(user);
    Ok(MailboxName::new(match FOLDERS[folder] {
        "" => format!("user.{name}"),
        folder => format!("user.{name}.{folder}"),
    })?)
}
