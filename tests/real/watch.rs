//! A client that keeps asking the daemon about existing recipients, and records the response times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::clients::socketmap::Socketmap;
use crate::router::SOCKET;
use crate::{Done, ensure};

/// Maximum response time for a known recipient, whatever happens to the master.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Recipients, with the backend of each.
const KNOWN: [(&str, &str); 4] = [
    ("jane@example.org", "127.0.1.11"),
    ("carol@example.net", "127.0.1.11"),
    ("max@example.org", "127.0.1.12"),
    ("bob@example.net", "127.0.1.12"),
];

#[derive(Default)]
struct Seen {
    asked: usize,
    slowest: Duration,
}

/// Demands that known recipients are answered in time while `run` runs.
pub fn known_are_answered_during<T>(run: impl FnOnce() -> Done<T>) -> Done<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| keep_asking(&over));
        let done = run();
        over.store(true, Ordering::Relaxed);
        let seen = watch.join().map_err(|_| "the watch panicked")?;
        let done = done?;
        let Seen { asked, slowest } = seen?;
        ensure!(asked > 0, "no recipient was asked about");
        println!(
            "    {asked} known recipients asked about, the slowest answer after {slowest:.1?}"
        );
        Ok(done)
    })
}

fn keep_asking(over: &AtomicBool) -> Done<Seen> {
    let mut seen = Seen::default();
    let mut daemon = Socketmap::open(SOCKET)?;
    while !over.load(Ordering::Relaxed) {
        for (recipient, server) in KNOWN {
            let start = Instant::now();
            let answer = daemon.ask("lmtp", recipient)?;
            let took = start.elapsed();
            ensure!(answer == format!("OK lmtp:inet:{server}:2003"), "{recipient}: {answer}");
            ensure!(took < AT_ONCE, "{recipient}: answered after {took:.1?}");
            seen.asked += 1;
            seen.slowest = seen.slowest.max(took);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(seen)
}
