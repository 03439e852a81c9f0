//! A program in C looks up names in many threads, with the library, while real Cyrus writes the list: every
//! answer is correct.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::beside::{becomes_well, is_the_masters, switch};
use crate::clients::mupdate::Mupdate;
use crate::exchanger::{self, Exchanger, USER};
use crate::library;
use crate::murder::BACKENDS;
use crate::root::Release;
use crate::sandbox::{self, User};
use crate::world::World;
use crate::{Done, ensure};

const THREADS: &str = "8";

/// Minimum number of look-ups per thread, unless MURDER_ROUTE_LOOKUPS says otherwise, as in .ci/run.
const LOOKUPS: &str = "100000";

/// Numbers of names that always exist, that move, and that come and go: see `c-api/tests/threads.c`.
const KEPT: usize = 2000;
const MOVING: usize = 51;
const COMING: usize = 40;

/// Names that are never looked up.
const OTHER: usize = 300;

/// Number of transactions per writing process.
const TRANSACTIONS: usize = 100;

/// No committed record names it, so no answer may.
const NEVER: &str = "127.0.1.99";

/// Writes once more. Returns what the program must know from now on, and whether that was enough.
type Writer<'w> = &'w mut (dyn FnMut() -> Done<(String, bool)> + Send);

/// Numbers counted by the program.
struct Counts {
    by_list: u64,
    by_daemon: u64,
    moves: u64,
    unknown: u64,
}

/// Looks up names in all threads of a program of this user, while each writer writes again and again.
/// Continues until all have written enough.
fn look_up_while<const N: usize>(
    (release, user, config): (Release, User, &str),
    one_in: usize,
    writers: [Writer<'_>; N],
) -> Done<Counts> {
    let program = library::program(release, "threads")?;
    let lookups = std::env::var("MURDER_ROUTE_LOOKUPS").unwrap_or(LOOKUPS.to_owned());
    let mut child = Command::new(program)
        .args([config, THREADS, &lookups])
        .args([KEPT, MOVING, COMING, one_in].map(|count| count.to_string()))
        .args(BACKENDS)
        .arg("daemon")
        .uid(user.uid)
        .gid(user.gid)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = Mutex::new(child.stdin.take().ok_or("no standard input")?);
    // If it has ended, its output says more than the failed write.
    let tell = |line: &str| {
        let mut stdin = stdin.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stdin.write_all(line.as_bytes());
    };
    let mut said = BufReader::new(child.stdout.take().ok_or("no standard output")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    let (over, unfinished) = (AtomicBool::new(false), AtomicUsize::new(N));
    let until_over = |write: Writer<'_>| -> Done {
        let mut enough = false;
        while !over.load(Ordering::Relaxed) {
            let (known, now_enough) = write()?;
            tell(&known);
            if now_enough && !enough && unfinished.fetch_sub(1, Ordering::Relaxed) == 1 {
                tell("-1 0\n");
            }
            enough |= now_enough;
        }
        Ok(())
    };
    let write = |writer: Writer<'_>| {
        let done = until_over(writer);
        // The other writers need not have finished then.
        tell("-1 0\n");
        done
    };
    let written = thread::scope(|scope| {
        let threads = writers.map(|writer| scope.spawn(|| write(writer)));
        line.clear();
        let read = said.read_line(&mut line);
        over.store(true, Ordering::Relaxed);
        let done = threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err("a writer panicked".into()))
        });
        read.map(|_| done)
    })?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "threads: {}: {complaint}", output.status);
    written?;
    println!("    {}", line.trim_end());
    Counts::parse(&line)
}

impl Counts {
    fn parse(line: &str) -> Done<Self> {
        let words = line.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let [by_list, by_daemon, moves, unknown, _] = numbers[..] else {
            return Err(format!("it said {line:?}").into());
        };
        Ok(Self { by_list, by_daemon, moves, unknown })
    }
}

/// The frontend's own list.
struct List {
    file: String,
    imapd_conf: String,
}

impl List {
    fn of(world: &World) -> Self {
        let frontend = &world.murder.frontend;
        Self { file: frontend.mailboxes_db(), imapd_conf: frontend.imapd_conf() }
    }

    fn dbtool(&self, action: &str) -> Done<Child> {
        let mut dbtool = sandbox::command("cyr_dbtool");
        dbtool.args(["-C", &self.imapd_conf, &self.file, "twoskip", action]);
        dbtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(dbtool.spawn()?)
    }

    /// While others write, it now and then reports the list as "inconsistent pre-checkpoint", which is
    /// wrong, and leaves it unchanged (3.6.1): the generation tells.
    fn repack(&self) -> Done {
        let output = self.dbtool("repack")?.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let refused = said.contains("Failed to repack");
        ensure!(output.status.success() && (said.is_empty() || refused), "repack: {output:?}");
        Ok(())
    }

    /// One process that runs all these commands.
    fn batch(&self, commands: &str) -> Done {
        let mut child = self.dbtool("batch")?;
        child.stdin.take().ok_or("no standard input")?.write_all(commands.as_bytes())?;
        ends_well(child)
    }

    /// A process that dies in the middle of a transaction. Its data lies behind the end of the list until
    /// the next transaction.
    fn killed(&self, commands: &str) -> Done {
        let mut child = self.dbtool("batch")?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        write!(stdin, "BEGIN\n{commands}GET {}\n", literal(&key("k0")))?;
        stdin.flush()?;
        let mut output = child.stdout.take().ok_or("no standard output")?;
        let answered = output.read(&mut [0; 100])?;
        child.kill()?;
        child.wait()?;
        ensure!(answered > 0, "no answer from cyr_dbtool");
        Ok(())
    }

    /// Number of repacks, from the header (Cyrus `lib/cyrusdb_twoskip.c`).
    fn generation(&self) -> Done<u64> {
        let list = fs::read(&self.file)?;
        let generation = list.get(24..32).ok_or("a list without a header")?;
        Ok(u64::from_be_bytes(generation.try_into()?))
    }
}

fn ends_well(child: Child) -> Done {
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.is_empty(), "cyr_dbtool: {}: {said}", output.status);
    Ok(())
}

/// In the form of 3.6 and later.
fn key(user: &str) -> String {
    format!("Nuser\u{1f}{user}")
}

fn literal(text: &str) -> String {
    format!("{{{}+}}\r\n{text}", text.len())
}

/// An old date: the daemon is asked about recently changed records.
fn set(user: &str, partition: &str, server: &str) -> String {
    let record = format!("%(T er P {partition} S {server} M 1700000000 A %(anyone p))");
    format!("SET {} {}\n", literal(&key(user)), literal(&record))
}

fn delete(user: &str) -> String {
    format!("DELETE {}\n", literal(&key(user)))
}

/// Location of a name after this number of moves.
fn moved(times: usize) -> (String, &'static str) {
    (format!("v{times}"), BACKENDS[times % 2])
}

fn names(name: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{name}{n}"))
}

/// Changes made to the list.
struct Written {
    commits: usize,
    aborts: usize,
    kills: usize,
    /// Number of moves of each moving name.
    moves: [usize; MOVING],
}

impl Written {
    const NOTHING: Self = Self { commits: 0, aborts: 0, kills: 0, moves: [0; MOVING] };

    /// A hundred transactions and one that is not committed.
    fn write(&mut self, list: &List) -> Done<(String, bool)> {
        let mut batch = String::new();
        // A reader that has seen a deletion starts much anew, and so takes other code paths than without
        // one.
        let deletes = self.kills.is_multiple_of(2);
        for _ in 0..TRANSACTIONS {
            let number = self.commits + self.aborts + 1;
            let kept = format!("k{}", number * 7919 % KEPT);
            let mover = format!("m{}", number % MOVING);
            let other = format!("x{}", number * 31 % OTHER);
            batch += "BEGIN\n";
            if deletes && number.is_multiple_of(3) {
                batch += &(delete(&kept) + &delete(&mover));
            }
            if number.is_multiple_of(10) {
                batch += &(set(&kept, "p", NEVER) + &set(&other, "p", NEVER) + "ABORT\n");
                self.aborts += 1;
                continue;
            }
            let (partition, server) = moved(number);
            self.moves[number % MOVING] = number;
            batch += &(set(&kept, &partition, BACKENDS[0]) + &set(&mover, &partition, server));
            batch += &match deletes && number.is_multiple_of(2) {
                true => delete(&other),
                false => set(&other, "p", BACKENDS[1]),
            };
            batch += "COMMIT\n";
            self.commits += 1;
        }
        list.batch(&batch)?;
        let moves = self.moves.iter().enumerate();
        let known = moves.map(|(number, times)| format!("{number} {times}\n")).collect();
        list.killed(&(set("k1", "p", NEVER) + &delete("k2") + &set("m1", "p", NEVER)))?;
        self.kills += 1;
        Ok((known, self.commits > 1000))
    }
}

/// Names that come and go at the master, which tells its slave.
struct Coming {
    master: Mupdate,
    there: [bool; COMING],
    changes: usize,
}

impl Coming {
    fn at_the_master(world: &World) -> Done<Self> {
        Ok(Self { master: world.murder.mupdate()?, there: [false; COMING], changes: 0 })
    }

    fn change(&mut self) -> Done {
        let number = self.changes * 7 % COMING;
        let mailbox = format!("user.o{number}");
        match self.there[number] {
            true => self.master.delete(&mailbox)?,
            false => self.master.activate(&mailbox, &format!("{}!default", BACKENDS[1]))?,
        }
        self.there[number] = !self.there[number];
        self.changes += 1;
        Ok(())
    }

    fn all_go(&mut self) -> Done {
        while self.there.contains(&true) {
            let number = self.changes * 7 % COMING;
            match self.there[number] {
                true => self.change()?,
                false => self.changes += 1,
            }
        }
        Ok(())
    }
}

/// Eight threads look up names in the frontend's list while Cyrus' own program commits, aborts, dies and
/// repacks, and Cyrus' slave writes the master's changes.
pub fn beside_cyrus(world: &mut World) -> Done {
    let list = List::of(world);
    let mut all = String::from("BEGIN\n");
    names("k", KEPT).for_each(|user| all += &set(&user, "p", BACKENDS[0]));
    names("m", MOVING).for_each(|user| all += &set(&user, "v0", BACKENDS[0]));
    list.batch(&(all + "COMMIT\n"))?;
    let first = list.generation()?;
    let mut written = Written::NOTHING;
    let mut coming = Coming::at_the_master(world)?;
    let config = world.setup.options().get(1).ok_or("no configuration")?;
    let seen = look_up_while(
        (world.release, world.murder.cyrus, config),
        4,
        [
            &mut || written.write(&list),
            &mut || {
                list.repack()?;
                Ok((String::new(), list.generation()? > first + 20))
            },
            &mut || {
                coming.change()?;
                // Limited, since the slave writes changes one by one.
                thread::sleep(Duration::from_millis(10));
                Ok((String::new(), coming.changes > 100))
            },
        ],
    );
    let repacks = list.generation()? - first;
    let mut gone = String::from("BEGIN\n");
    names("k", KEPT).chain(names("m", MOVING)).for_each(|user| gone += &delete(&user));
    names("x", OTHER).for_each(|user| gone += &delete(&user));
    list.batch(&(gone + "COMMIT\n"))?;
    coming.all_go()?;
    // The slave receives it a tick later.
    (0..COMING).try_for_each(|number| world.becomes_unknown(&format!("o{number}@example.org")))?;
    // This daemon has seen all names, and would distrust a list that lost so many.
    world.daemon.stop()?;
    world.daemon.resume()?;
    let Written { commits, aborts, kills, .. } = written;
    let changes = coming.changes;
    println!(
        "    {commits} commits, {aborts} aborts, {kills} writers killed, {repacks} repacks, {changes} \
         changes at the master"
    );
    let Counts { by_list, by_daemon, moves, unknown } = seen?;
    ensure!(moves > 100 && unknown > 0, "the program saw too few changes");
    ensure!(by_daemon < by_list / 100, "the daemon was asked too often");
    world.recovers()
}

/// Eight threads look up names in the replica while the daemon follows a master that changes.
pub fn beside_the_daemon(world: &mut World) -> Done {
    let exchanger = Exchanger::make(&world.murder)?;
    let login = "password-file = \"password\"\nallow-plaintext = true\n";
    let setup = exchanger.by_file("threads", login)?;
    let config = exchanger::path("threads.toml");
    let mut master = world.murder.mupdate()?;
    for user in names("k", KEPT).chain(names("m", MOVING)) {
        master.activate(&format!("user.{user}"), &format!("{}!v0", BACKENDS[0]))?;
    }
    let before = world.setup.clone();
    switch(world, setup)?;
    becomes_well(world)?;
    is_the_masters(world)?;
    let mut coming = Coming::at_the_master(world)?;
    let (mut moves, mut commits, mut last) = (0, 0, None);
    let seen = look_up_while(
        (world.release, USER, &config),
        200,
        [&mut || {
            moves += 1;
            let (partition, server) = moved(moves);
            let mailbox = format!("user.m{}", moves % MOVING);
            master.activate(&mailbox, &format!("{server}!{partition}"))?;
            coming.change()?;
            thread::sleep(Duration::from_millis(10));
            let written = fs::metadata(format!("{}/data.mdb", exchanger::replica()))?.modified()?;
            if last.replace(written) != Some(written) {
                commits += 1;
            }
            Ok((String::new(), commits > 5))
        }],
    );
    coming.all_go()?;
    println!(
        "    {} changes at the master, {commits} commits of the daemon",
        moves + coming.changes
    );
    switch(world, before)?;
    let Counts { moves, unknown, .. } = seen?;
    ensure!(moves > 10 && unknown > 0, "the program saw too few changes");
    becomes_well(world)?;
    is_the_masters(world).map(drop)
}
