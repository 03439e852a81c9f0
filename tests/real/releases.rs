//! One run for each release of Cyrus and each mail server, each in its own namespaces, and the total.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::report::{Sum, is_of_a_failure};
use crate::root::{self, Root};
use crate::{Done, sandbox};

/// Number of simultaneous runs: a scenario mostly waits, for a tick of the master or a retry.
const AT_A_TIME: usize = 2;

/// Builds missing roots and runs the scenarios of all roots, or of those named in the arguments (`3.12` or
/// `sid`, `sendmail`).
pub fn run_all() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = |root: &Root| words.iter().any(|word| root.is_called(word));
    let mut wanted: Vec<Root> = Root::ALL.into_iter().filter(named).collect();
    if wanted.is_empty() {
        wanted = Root::ALL.to_vec();
    }
    let paths = root::ensure_roots(&wanted);
    let next = Mutex::new(wanted.iter().zip(paths));
    let sums = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(|| run_each(&next))).collect();
        let lost = |_| Sum::failure("a worker panicked".to_owned());
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(lost)).collect::<Vec<_>>()
    });
    let mut sum = Sum::default();
    sums.into_iter().for_each(|one| sum += one);
    // Printed again at the end, since a reader of a long run may see only that.
    sum.failures.iter().for_each(|line| println!("{line}"));
    println!("{sum}");
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs roots one after the other until none is left.
fn run_each<'r>(roots: &Mutex<impl Iterator<Item = (&'r Root, Done<PathBuf>)>>) -> Sum {
    let mut sum = Sum::default();
    loop {
        // Not held while the root runs.
        let next = roots.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((root, path)) = next else { return sum };
        let done = path.and_then(|path| run(root, &path, &mut sum.failures));
        sum += done.unwrap_or_else(|error| {
            let line = format!("{root}: FAILED: {error}");
            println!("{line}");
            Sum::failure(line)
        });
    }
}

/// Arguments that select scenarios: all except those that name roots.
pub fn scenario_words() -> Vec<String> {
    let a_root = |word: &String| Root::ALL.iter().any(|root| root.is_called(word));
    std::env::args().skip(1).filter(|word| !a_root(word)).collect()
}

/// Whether a scenario is selected: its name contains one of the words, or there are none.
pub fn is_wanted(scenario: &str) -> bool {
    let words = scenario_words();
    words.is_empty() || words.iter().any(|word| scenario.contains(word.as_str()))
}

/// Runs the scenarios of one root. Prints the output of the inner run except its total. Keeps the output
/// about failures even if the inner run does not finish.
fn run(root: &Root, path: &Path, failures: &mut Vec<String>) -> Done<Sum> {
    let mut sum = None;
    let status = sandbox::enter(path, |line| {
        if let Some(old) = sum.take() {
            println!("{old}");
        }
        sum = Sum::parse(line);
        if sum.is_none() {
            println!("{line}");
        }
        if is_of_a_failure(*root, line) {
            failures.push(line.to_owned());
        }
    })?;
    let sum: Sum = sum.ok_or_else(|| format!("the run ended before its end: {status}"))?;
    crate::ensure!(status.success() == (sum.failed == 0), "{sum}, and yet {status}");
    Ok(sum)
}
