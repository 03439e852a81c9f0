//! Measures lookups in a real list: `lookups FILE NAMES [COUNT [THREADS]]`. `NAMES` holds one
//! mailbox name in internal form a line; they are asked for in random order.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use murder_route::mailbox::{Lookup, MailboxList, MailboxName};
use murder_route::mailbox_list::{FileList, Options};

/// Lookups measured at once.
const BATCH: u64 = 500;

/// Anonymous resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// Time this thread has had a processor, in nanoseconds; on a busy machine it tells more than the
/// clock.
fn on_cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, names, rest @ ..] = &args[..] else {
        eprintln!("usage: lookups FILE NAMES [COUNT [THREADS]]");
        return ExitCode::from(64);
    };
    let number = |i: usize, default| rest.get(i).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (count, threads) = (number(0, 1_000_000u64), number(1, 1u64));
    let names: Vec<MailboxName> = std::fs::read_to_string(names)
        .expect("names")
        .lines()
        .filter_map(|line| MailboxName::new(line).ok())
        .collect();
    murder_route::mailbox_list::map::guard();
    let before = resident();

    let opened = Instant::now();
    let list = FileList::open(file, Options::default());
    let first = list.lookup(&names[0]);
    let to_first = opened.elapsed();
    println!("open to first answer  {to_first:?}  ({})", word(&first));
    let mut slowest = Duration::ZERO;
    for name in names.iter().take(200) {
        let asked = Instant::now();
        list.lookup(name);
        slowest = slowest.max(asked.elapsed());
    }
    println!("slowest of the next 200 {slowest:?}");

    let odd = [AtomicU64::new(0), AtomicU64::new(0)];
    let (spent, cpu) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (list, names, odd, spent, cpu) = (&list, &names, &odd, &spent, &cpu);
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_7f4a_7c15 ^ (thread << 32);
                // A mail server's recipient has just been read from a socket: copies of the names
                // are warm, as they would be there.
                for _ in 0..count / BATCH {
                    let batch: Vec<MailboxName> = (0..BATCH)
                        .map(|_| {
                            random ^= random << 13;
                            random ^= random >> 7;
                            random ^= random << 17;
                            names[(random % names.len() as u64) as usize].clone()
                        })
                        .collect();
                    let (begun, before) = (Instant::now(), on_cpu());
                    for name in &batch {
                        match list.lookup(name) {
                            Lookup::Present(_) => {}
                            Lookup::Absent => _ = odd[0].fetch_add(1, Ordering::Relaxed),
                            _ => _ = odd[1].fetch_add(1, Ordering::Relaxed),
                        }
                    }
                    spent.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
                    cpu.fetch_add(on_cpu() - before, Ordering::Relaxed);
                }
            });
        }
    });
    let all = count / BATCH * BATCH * threads;
    let (each, cpu) = (spent.into_inner() / all, cpu.into_inner() / all);
    println!("{count} lookups in each of {threads} threads: {each} ns each, {cpu} ns of processor");
    println!("absent {odd:?} (absent, unsure)");
    println!("resident {} KiB more than before, {} KiB in all", resident() - before, resident());
    ExitCode::SUCCESS
}

fn word(lookup: &Lookup) -> &'static str {
    match lookup {
        Lookup::Present(_) => "present",
        Lookup::Absent => "absent",
        Lookup::Unsure(_) => "unsure",
        Lookup::Busy => "busy",
    }
}
