//! One run for each release of Cyrus and each mail server, each in namespaces of its own, and the sum of
//! them all.

use std::process::ExitCode;

use crate::report::Sum;
use crate::root::{self, Root};
use crate::{Done, sandbox};

/// Builds the roots that are missing and runs the scenarios of every one, or of those that are named
/// among the arguments (`3.12` or `sid`, `sendmail`).
pub fn run_all() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = |root: &Root| words.iter().any(|word| root.is_called(word));
    let mut wanted: Vec<Root> = Root::ALL.into_iter().filter(named).collect();
    if wanted.is_empty() {
        wanted = Root::ALL.to_vec();
    }
    let mut sum = Sum::default();
    for (root, path) in wanted.iter().zip(root::ensure_roots(&wanted)) {
        sum += path.and_then(|path| run(&path)).unwrap_or_else(|error| {
            println!("{root}: FAILED: {error}");
            Sum { passed: 0, failed: 1 }
        });
    }
    println!("{sum}");
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Without the words that name roots, what a scenario may be chosen by.
pub fn scenario_words() -> Vec<String> {
    let a_root = |word: &String| Root::ALL.iter().any(|root| root.is_called(word));
    std::env::args().skip(1).filter(|word| !a_root(word)).collect()
}

/// Whether a scenario is to run: it has one of the words in its name, or there are none.
pub fn is_wanted(scenario: &str) -> bool {
    let words = scenario_words();
    words.is_empty() || words.iter().any(|word| scenario.contains(word.as_str()))
}

/// The scenarios of one root. What the run inside prints is printed, but for its sum.
fn run(root: &std::path::Path) -> Done<Sum> {
    let mut sum = None;
    let status = sandbox::enter(root, |line| {
        if let Some(old) = sum.take() {
            println!("{old}");
        }
        sum = Sum::parse(line);
        if sum.is_none() {
            println!("{line}");
        }
    })?;
    let sum: Sum = sum.ok_or_else(|| format!("the run ended before its end: {status}"))?;
    crate::ensure!(status.success() == (sum.failed == 0), "{sum}, and yet {status}");
    Ok(sum)
}
