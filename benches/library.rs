//! The shared library: look-ups by a program in C (`library.c`), against `cyr_dbtool` and against round
//! trips to the daemon by the same program; and as a table of Postfix, against its own `lmdb:` and against
//! a `socketmap:` to the daemon.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::list::{self, FOLDERS, Random, Site, USERS};
use crate::lookups::time;
use crate::postfix::Postfix;
use crate::root::Release;
use crate::sandbox::{Process, STATE};
use crate::table::{Goal, Table, median, ratio};
use crate::{Done, daemon, install, mupdate, replica, round_trips, run};

/// Slices of each kind.
const ROUNDS: usize = 15;
/// Look-ups of a Postfix process before it is replaced (`max_use`), and number of such processes.
const POSTMAP: usize = 100;
const POSTMAP_ROUNDS: usize = 50;

/// Lookups of a slice; fewer where each takes a round trip.
const ROUND_TRIPS: usize = 5_000;
/// Number of recipients without an earlier look-up, and number of look-ups before them.
const NEW: usize = 12_000;
const NEW_WARM: usize = 10_000;

/// First answers.
const STARTS: usize = 11;

/// Sources of the library: the word in the configuration, and the name in the table of figures.
const SOURCES: [(&str, &str); 2] = [("mailboxes-db", "mailboxes.db"), ("replica", "the replica")];

pub fn measure(site: &Site, table: &mut Table) -> Done {
    install::install_for_postfix(Release::V3_6)?;
    configure(site)?;
    let program = build()?;
    let socket = format!("{STATE}/library-serve");
    let output = format!("{socket}.output");
    let serve = Process::start("serve", &mut daemon::command(site, &socket), output.as_ref())?;
    round_trips::connect(&socket)?;
    from_c(site, &program, &socket, table)?;
    first_answers(&program, table)?;
    in_postfix(&socket, table)?;
    serve.stop()
}

fn config(source: &str) -> String {
    format!("{STATE}/library-{source}.toml")
}

/// A frontend's configuration for each source. Its MUPDATE server is never asked: there are no misses.
fn configure(site: &Site) -> Done {
    let dir = format!("{STATE}/library-replica");
    replica::fill(&dir, USERS, FOLDERS.len())?;
    let imapd_conf = format!("{STATE}/library-imapd.conf");
    fs::write(&imapd_conf, fs::read_to_string(site.imapd_conf())? + &mupdate::client())?;
    for (source, _) in SOURCES {
        let text = format!(
            "domains = [\"example.org\"]\nimapd-conf = \"{imapd_conf}\"\nsource = \"{source}\"\n\
             [replica]\ndirectory = \"{dir}\"\n"
        );
        fs::write(config(source), text)?;
    }
    Ok(())
}

/// The program in C, linked against the shipped library.
fn build() -> Done<String> {
    let program = format!("{STATE}/library");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = install::built(Release::V3_6);
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o", &program]).arg(project.join("benches/library.c"));
    cc.arg("-I").arg(project.join("c-api")).arg("-L").arg(&built);
    cc.args(["-lmurder_route", &format!("-Wl,-rpath,{}", built.display())]);
    run(&mut cc)?;
    Ok(program)
}

/// A program in C that reads names of files with recipients.
struct Client {
    child: Child,
    files: ChildStdin,
    seconds: BufReader<ChildStdout>,
}

impl Client {
    fn start(program: &str, args: [&str; 2]) -> Done<Self> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let files = child.stdin.take().ok_or("no standard input")?;
        let seconds = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, files, seconds })
    }

    /// Lookups per second among these recipients.
    fn slice(&mut self, keys: &Keys) -> Done<f64> {
        writeln!(self.files, "{}", keys.path)?;
        let mut line = String::new();
        self.seconds.read_line(&mut line)?;
        let seconds: f64 = line.trim().parse().map_err(|_| "the program in C has ended")?;
        Ok(keys.count as f64 / seconds)
    }

    fn stop(self) -> Done {
        let Self { mut child, files, .. } = self;
        drop(files);
        child.wait()?;
        Ok(())
    }
}

/// A file of recipients.
struct Keys {
    path: String,
    count: usize,
}

impl Keys {
    fn of(name: &str, users: &[u32]) -> Done<Self> {
        let path = format!("{STATE}/{name}");
        let mut out = BufWriter::new(File::create(&path)?);
        for user in users {
            writeln!(out, "{}", list::recipient(*user))?;
        }
        out.flush()?;
        Ok(Self { path, count: users.len() })
    }
}

fn from_c(site: &Site, program: &str, socket: &str, table: &mut Table) -> Done {
    let start = || -> Done<Vec<Client>> {
        SOURCES
            .iter()
            .map(|(source, _)| Client::start(program, ["look", &config(source)]))
            .collect()
    };
    let mut asks = Client::start(program, ["ask", socket])?;
    let mut random = Random(23);
    let warm: Vec<u32> = (0..30_000).map(|_| random.user()).collect();
    asks.slice(&Keys::of("library-warm", &warm)?)?;
    // An odd number that is not a multiple of 5 leads to each of them once.
    let mut unseen = (0..USERS).map(|number| number.wrapping_mul(7919) % USERS);
    let warm: Vec<u32> = unseen.by_ref().take(NEW_WARM).collect();
    let peers = Peers { site, asks: &mut asks };
    compare(start()?, &warm, || unseen.by_ref().take(NEW).collect(), peers, table)?;
    asks.stop()
}

/// Peers of the library, and their data.
struct Peers<'a> {
    site: &'a Site,
    asks: &'a mut Client,
}

/// Compares a client for each source, after these look-ups, with the peers.
fn compare(
    mut ours: Vec<Client>,
    warm: &[u32],
    mut some: impl FnMut() -> Vec<u32>,
    Peers { site, asks }: Peers<'_>,
    table: &mut Table,
) -> Done {
    let warm = Keys::of("library-warm", warm)?;
    for client in &mut ours {
        client.slice(&warm)?;
    }
    let (gets, nothing) = (format!("{STATE}/library-gets"), format!("{STATE}/library-nothing"));
    File::create(&nothing)?;
    let mut rates = [Vec::new(), Vec::new()];
    let (mut cyrus, mut round_trips) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let users = some();
        let mut script = BufWriter::new(File::create(&gets)?);
        users.iter().try_for_each(|user| list::get(&mut script, *user))?;
        script.flush()?;
        let keys = Keys::of("library-keys", &users)?;
        let few = Keys::of("library-few", &users[..ROUND_TRIPS])?;

        for (client, rates) in ours.iter_mut().zip(&mut rates) {
            rates.push(client.slice(&keys)?);
        }
        round_trips.push(asks.slice(&few)?);
        let db = site.mailboxes_db();
        let whole = time(|| list::quiet(&mut site.dbtool(&db), &gets))?;
        let around = time(|| list::quiet(&mut site.dbtool(&db), &nothing))?;
        cyrus.push(users.len() as f64 / whole.saturating_sub(around).as_secs_f64());
    }
    let goals = [Goal::AtLeast(2.0), Goal::AtLeast(2.5)];
    for (((_, name), own), goal) in SOURCES.iter().zip(&rates).zip(goals) {
        let rate = median(own.iter().copied());
        let cyrus = ("cyr_dbtool", &cyrus, goal);
        for (peer, theirs, goal) in [cyrus, ("the daemon's socket", &round_trips, Goal::None)] {
            let what = format!("lookup from C in {name}, each recipient for the first time");
            let peer = (peer, median(theirs.iter().copied()));
            table.against(what, "/s", rate, peer, ratio(own, theirs), goal);
        }
    }
    ours.into_iter().try_for_each(Client::stop)
}

/// Each in its own process.
fn first_answers(program: &str, table: &mut Table) -> Done {
    let mut random = Random(29);
    for (source, name) in SOURCES {
        let mut milliseconds = Vec::new();
        for _ in 0..STARTS {
            let recipient = list::recipient(random.user());
            let said = run(Command::new(program).args(["open", &config(source), &recipient]))?;
            milliseconds.push(said.trim().parse()?);
        }
        let what = format!("open to first answer from {name}");
        table.alone(what, "ms", median(milliseconds), Goal::Below(5.0));
    }
    Ok(())
}

fn in_postfix(socket: &str, table: &mut Table) -> Done {
    let postfix = Postfix::prepare("library-postmap")?;
    let lmdb = format!("lmdb:{}", postfix.table);
    let ours = SOURCES.map(|(source, _)| format!("murder:{}", config(source)));
    let socketmap = format!("socketmap:unix:{socket}:lmtp");
    let mut random = Random(31);
    let (mut own, mut theirs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=POSTMAP_ROUNDS {
        let users: Vec<u32> = (0..POSTMAP).map(|_| random.user()).collect();
        let tables = [ours[0].as_str(), &ours[1], &lmdb, &socketmap];
        let seconds = postfix.slices(&users, tables)?;
        // The first round is a warm-up.
        if round > 0 {
            let [first, second, lmdb, socketmap] =
                seconds.map(|seconds| seconds * 1e6 / POSTMAP as f64);
            own[0].push(first);
            own[1].push(second);
            theirs[0].push(lmdb);
            theirs[1].push(socketmap);
        }
    }
    // By source: against `lmdb:`, against `socketmap:`.
    let goals = [[Goal::None, Goal::AtMost(0.5)], [Goal::AtMost(1.0), Goal::None]];
    for (((_, name), own), goals) in SOURCES.iter().zip(&own).zip(goals) {
        let each = median(own.iter().copied());
        for ((peer, theirs), goal) in ["lmdb:", "socketmap:"].iter().zip(&theirs).zip(goals) {
            let what = format!("murder: in a postmap of {POSTMAP} recipients, {name}");
            let peer = (*peer, median(theirs.iter().copied()));
            table.against(what, "µs", each, peer, ratio(own, theirs), goal);
        }
    }
    Ok(())
}
