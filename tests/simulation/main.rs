//! Master, network, clock and our side in one simulation. Protocol, replica logic and router do
//! no I/O, so a seed drives all of it. Every answer is checked against the guarantees:
//!
//! 1. No existing recipient is unknown. [`truth`] defines which recipients exist.
//! 2. No answer names a server that the mailbox never had, nor one that it had left before the
//!    replica was known to be complete.
//! 3. A recipient that the replica knows, and that does not move, is answered in every case,
//!    and within 250 ms.
//! 4. A quiet network leads back to fresh within a minute: names that do not exist are unknown,
//!    all others are on the master's server.
//! 5. A list that is held back makes no recipient unknown. It is applied when it is accepted or
//!    confirmed.
//! 6. For a name that changed within a minute, and for which the master can be asked, no answer
//!    names a server that the mailbox had left before the request.
//!
//! A failing schedule prints its seed, and its remaining steps after all unnecessary ones are
//! removed. `MURDER_ROUTE_SIMULATION_SEED=<seed> cargo test --test simulation` runs one again
//! and prints all events; `MURDER_ROUTE_SIMULATION=<count>[,<first seed>]` runs others (`make
//! soak`).
//!
//! The master behaves as `imap/mupdate.c` of Cyrus 3.6: it queues changed names and looks them
//! up when it reports them, every 5 s or on a NOOP; see [`master`]. The network splits, delays
//! and cuts at any byte; see [`network`]. Our side is a loop that mirrors the daemon's tasks;
//! see [`daemon`].

mod daemon;
mod link;
mod master;
mod network;
mod random;
mod schedule;
mod slave;
mod store;
mod truth;
mod world;
mod writer;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use schedule::Schedule;
use world::{Seen, World};

/// Default number of schedules.
const COUNT: u64 = 20_000;

/// Maximum number of log lines printed with a failure.
const LOG: usize = 60;

/// Events that must occur in some schedules, or the run proves nothing.
const WANTED: [&str; 33] = [
    "XFER",
    "backend told the master again",
    "clock set while a list was held back",
    "deferred because the master has lost the name",
    "delivered during an outage",
    "delivered although the master did not answer",
    "delivered although the master has lost the name",
    "delivered after the master was asked again",
    "delivered although the replica did not have the name",
    "known recipient not delayed again by a silent master",
    "list held back",
    "list taken over after its confirmation",
    "list taken over after it was accepted",
    "loss accepted",
    "mailbox made or moved during an outage",
    "master began anew with a part of its list",
    "master began anew with an empty list",
    "master killed",
    "master removed reserved names",
    "master's host gone without a close",
    "our host lost power",
    "our process was killed",
    "our process was killed in the middle of a batch",
    "rename during an outage",
    "questions shared a FIND",
    "slave promoted",
    "recipient deferred",
    "recipient deferred after the stream removed many names",
    "recipient unknown",
    "recipient unknown after two questions",
    "recipient unknown by the negative cache",
    "two sources",
    "unknown recipient not delayed again by a silent master",
];

/// Runs a schedule. `Err`: the failure.
fn play(schedule: &Schedule) -> Result<Seen, String> {
    let played = catch_unwind(AssertUnwindSafe(|| World::new(schedule, false).run()));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// The kind of a failure: its text up to the first colon.
fn kind(failure: &str) -> &str {
    failure.split(':').next().unwrap_or_default()
}

/// Removes steps as long as the schedule fails in the same way.
fn shrink(schedule: &Schedule, failure: &str) -> Schedule {
    let fails = |schedule: &Schedule| match play(schedule) {
        Err(again) => kind(&again) == kind(failure),
        Ok(_) => false,
    };
    let mut small = schedule.clone();
    let mut size = small.steps.len().div_ceil(2);
    let mut tries = 3000;
    while size > 0 && tries > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < small.steps.len() && tries > 0 {
            tries -= 1;
            let end = (at + size).min(small.steps.len());
            let mut less = small.clone();
            let time: u64 = less.steps.drain(at..end).map(|step| step.after).sum();
            // The next step follows without the removed time, or at its original time.
            let mut as_before = less.clone();
            if let Some(next) = as_before.steps.get_mut(at) {
                next.after += time;
            }
            if let Some(less) = [less, as_before].into_iter().find(fails) {
                (small, shorter) = (less, true);
            } else {
                at += size;
            }
        }
        if !shorter || size > 1 {
            size /= 2;
        }
    }
    for without in [
        Schedule { fillers: 0, ..small.clone() },
        Schedule { login: false, ..small.clone() },
        Schedule { login: false, fillers: 0, ..small.clone() },
        Schedule { slave: None, ..small.clone() },
        Schedule { negative_cache: 0, ..small.clone() },
    ] {
        if fails(&without) {
            small = without;
        }
    }
    small
}

/// Describes a failure.
fn report(schedule: &Schedule, failure: &str) -> String {
    let small = shrink(schedule, failure);
    let Schedule { seed, fillers, accounts, login, negative_cache, slave, steps } = &small;
    let mut world = World::new(&small, true);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let outcome = outcome.ok().and_then(Result::err).unwrap_or_else(|| failure.to_owned());
    let mut text = format!(
        "{failure}\n\nAll of it: MURDER_ROUTE_SIMULATION_SEED={seed} cargo test --test simulation\n\n\
         What is left of it ({accounts} accounts, {fillers} fillers, login {login}, negative cache \
         {negative_cache} ms, slave {slave:?}):\n"
    );
    for step in steps {
        text += &format!("  {step}\n");
    }
    text += "\nand so it goes:\n";
    let log = world.log.unwrap_or_default();
    if log.len() > LOG {
        text += &format!("({} lines before these)\n", log.len() - LOG);
    }
    for line in &log[log.len().saturating_sub(LOG)..] {
        text += &format!("{line}\n");
    }
    text + &outcome
}

/// Runs many schedules on all processors. Returns the number of schedules with each event.
fn play_many(first: u64, count: u64) -> BTreeMap<&'static str, u64> {
    let (next, done, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let seen: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let failed: Mutex<Option<(Schedule, String)>> = Mutex::default();
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine: BTreeMap<&'static str, u64> = BTreeMap::new();
                while !stop.load(Relaxed) {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= count {
                        break;
                    }
                    let schedule = Schedule::new(first.wrapping_add(n));
                    match play(&schedule) {
                        Ok(seen) => {
                            seen.iter().for_each(|what| *mine.entry(what).or_default() += 1)
                        }
                        Err(failure) => {
                            failed.lock().unwrap().get_or_insert((schedule, failure));
                            stop.store(true, Relaxed);
                        }
                    }
                    let done = done.fetch_add(1, Relaxed) + 1;
                    if done % 50_000 == 0 {
                        let seconds = began.elapsed().as_secs();
                        // Not captured, unlike the output of a test.
                        let _ = writeln!(std::io::stderr(), "{done} of {count} in {seconds} s");
                    }
                }
                let mut seen = seen.lock().unwrap();
                mine.iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
            });
        }
    });
    if let Some((schedule, failure)) = failed.into_inner().unwrap() {
        let played = done.load(Relaxed);
        panic!("the {played}th schedule failed: {}", report(&schedule, &failure));
    }
    seen.into_inner().unwrap()
}

fn number(variable: &str) -> Option<Vec<u64>> {
    let text = std::env::var(variable).ok()?;
    let numbers = text.split(',').map(|number| number.trim().parse());
    Some(numbers.collect::<Result<_, _>>().unwrap_or_else(|_| panic!("{variable}={text}")))
}

#[test]
fn every_answer_keeps_the_guarantees() {
    if let Some(seed) = number("MURDER_ROUTE_SIMULATION_SEED") {
        let schedule = Schedule::new(seed[0]);
        let mut world = World::new(&schedule, true);
        let outcome = world.run();
        for line in world.log.unwrap_or_default() {
            println!("{line}");
        }
        if let Err(failure) = outcome {
            panic!("{}", report(&schedule, &failure));
        }
        return;
    }
    let asked = number("MURDER_ROUTE_SIMULATION").unwrap_or_default();
    let count = asked.first().copied().unwrap_or(COUNT);
    let seen = play_many(asked.get(1).copied().unwrap_or(1), count);
    println!("of {count} schedules:");
    for (what, times) in &seen {
        println!("{times:>8}  {what}");
    }
    if count >= 1000 {
        for what in WANTED {
            assert!(seen.contains_key(what), "in none of {count} schedules: {what}");
        }
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in [3, 77, 1234] {
        let log = || {
            let mut world = World::new(&Schedule::new(seed), true);
            let _ = world.run();
            world.log.unwrap_or_default()
        };
        assert_eq!(log(), log());
    }
}
