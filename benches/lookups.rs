//! Look-ups of existing users, in one thread: against `cyr_dbtool … batch` with a GET for each.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use murder_route::model::list::{Lookup, MailboxList};
use murder_route::model::name::MailboxName;
use murder_route::os::map;
use murder_route::resolver::Resolver;
use murder_route::routing::inquiry::{Inquiry, Step};
use murder_route::routing::route::Decision;

use crate::list::{self, DIR, Random, Site};
use crate::sandbox::STATE;
use crate::table::{Goal, Table, median, ratio};
use crate::{Done, ensure};

/// Slices of each kind.
const ROUNDS: usize = 15;

/// Lookups of a slice.
const QUIET: usize = 30_000;
/// While another process writes, Cyrus' reader waits for its lock at each of them.
const WRITING: usize = 5_000;

pub fn measure(site: &Site, table: &mut Table) -> Done {
    map::guard();
    compare(site, table, &site.mailboxes_db(), QUIET, "")?;

    let copy = format!("{DIR}/written.db");
    site.copy(site.mailboxes_db(), &copy)?;
    let writer = Writer::start(site, &copy)?;
    let while_written = ", while Cyrus writes";
    compare(site, table, &copy, WRITING, while_written)?;
    let commits = writer.stop()?;
    table.alone("Cyrus' commits meanwhile", "/s", commits, Goal::None);
    fs::remove_file(&copy)?;
    Ok(())
}

fn compare(site: &Site, table: &mut Table, path: &str, count: usize, when: &str) -> Done {
    let resolver = Resolver::new(site.settings(path)?, None);
    let file = &**resolver.lists.file(Path::new(path)).ok_or("no list")?;
    let (gets, nothing) = (format!("{STATE}/gets"), format!("{STATE}/nothing"));
    File::create(&nothing)?;
    let mut random = Random(7);
    // The list builds its sparse index in the course of the first look-ups, and its position cache fills.
    for _ in 0..300_000 {
        let user = random.user();
        look_up(file, &name(user)?)?;
        route(&resolver, &list::recipient(user))?;
    }
    let mut looked_up = Vec::new();
    let mut routed = Vec::new();
    let mut cyrus = Vec::new();
    for _ in 0..ROUNDS {
        let users: Vec<u32> = (0..count).map(|_| random.user()).collect();
        let mut script = BufWriter::new(File::create(&gets)?);
        for user in &users {
            list::get(&mut script, *user)?;
        }
        script.flush()?;

        looked_up.push(each(&users, name, |name| look_up(file, name))?);
        routed.push(each(&users, |user| Ok(list::recipient(user)), |user| route(&resolver, user))?);
        let whole = time(|| list::quiet(&mut site.dbtool(path), &gets))?;
        let around = time(|| list::quiet(&mut site.dbtool(path), &nothing))?;
        cyrus.push(rate(count, whole.saturating_sub(around)));
    }
    let peer = median(cyrus.iter().copied());
    let goal = Goal::AtLeast(8.0);
    for (what, ours, goal) in [("lookup", &looked_up, goal), ("route", &routed, Goal::None)] {
        let median = median(ours.iter().copied());
        let ratio = ratio(ours, &cyrus);
        let what = format!("{what}{when}");
        table.against(what, "/s", median, ("cyr_dbtool", peer), ratio, goal);
    }
    Ok(())
}

pub fn name(user: u32) -> Done<MailboxName> {
    Ok(MailboxName::new(format!("user.{}", list::name(user)))?)
}

/// A look-up by mailbox name.
pub fn look_up(list: &impl MailboxList, name: &MailboxName) -> Done {
    let found = list.lookup(name);
    ensure!(matches!(found, Lookup::Present(_)), "{name}: {found:?}");
    Ok(())
}

/// A decision for a recipient.
pub fn route(resolver: &Resolver, recipient: &str) -> Done {
    let evidence = resolver.evidence(None);
    let inquiry = Inquiry::new(recipient.as_bytes(), &evidence);
    // A slice that stumbles over a repack goes the slower way the daemon goes then.
    let step = match resolver.step_now(&inquiry) {
        Step::WouldBlock => resolver.step(&inquiry, None),
        step => step,
    };
    let Step::Done(route) = step else { return Err(format!("{recipient}: {step:?}").into()) };
    ensure!(matches!(route.decision, Decision::Deliver(_)), "{recipient}: {route:?}");
    Ok(())
}

/// Asks for each user. Keys are prepared a few hundred at a time, outside of the measured time: a mail
/// server's request has just arrived, so it is in the cache.
pub fn each<T>(
    users: &[u32],
    mut make: impl FnMut(u32) -> Done<T>,
    mut ask: impl FnMut(&T) -> Done,
) -> Done<f64> {
    let mut taken = Duration::ZERO;
    for some in users.chunks(500) {
        let made: Vec<T> = some.iter().map(|user| make(*user)).collect::<Done<_>>()?;
        taken += time(|| made.iter().try_for_each(&mut ask))?;
    }
    Ok(rate(users.len(), taken))
}

pub fn time(work: impl FnOnce() -> Done) -> Done<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// A `cyr_dbtool` that commits changes without pause.
struct Writer {
    child: std::process::Child,
    stop: Arc<AtomicBool>,
    fed: Arc<AtomicU64>,
    feeder: std::thread::JoinHandle<std::io::Result<()>>,
    began: Instant,
}

impl Writer {
    fn start(site: &Site, path: &str) -> Done<Self> {
        let mut child = site.dbtool(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let (stop, fed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), fed.clone());
        let feeder = std::thread::spawn(move || {
            let mut random = Random(11);
            let mut some = Vec::new();
            for version in 3.. {
                // Outside of BEGIN and COMMIT each SET is a transaction.
                some.clear();
                for _ in 0..20 {
                    let user = random.user();
                    list::set(&mut some, user, random.below(5), version)?;
                }
                stdin.write_all(&some)?;
                count.fetch_add(20, Relaxed);
                if told.load(Relaxed) {
                    break;
                }
            }
            Ok(())
        });
        Ok(Self { child, stop, fed, feeder, began: Instant::now() })
    }

    /// Stops it. Returns its commits per second.
    fn stop(mut self) -> Done<f64> {
        self.stop.store(true, Relaxed);
        self.feeder.join().map_err(|_| "the writer's feeder panicked")??;
        let status = self.child.wait()?;
        ensure!(status.success(), "the writing cyr_dbtool: {status}");
        Ok(self.fed.load(Relaxed) as f64 / self.began.elapsed().as_secs_f64())
    }
}
