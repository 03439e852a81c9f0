//! One run for each release of Cyrus, each in namespaces of its own, and the sum of them all.

use std::process::ExitCode;

use crate::report::Sum;
use crate::root::{self, Release};
use crate::{Done, sandbox};

/// Builds the roots that are missing and runs the scenarios of every release, or of those that are
/// named among the arguments (`3.12` or `sid`).
pub fn run_all() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = |release: &Release| words.iter().any(|word| release.is_called(word));
    let mut wanted: Vec<Release> = Release::ALL.into_iter().filter(named).collect();
    if wanted.is_empty() {
        wanted = Release::ALL.to_vec();
    }
    let mut sum = Sum::default();
    for (release, root) in wanted.iter().zip(root::ensure_roots(&wanted)) {
        sum += root.and_then(|root| run(&root)).unwrap_or_else(|error| {
            println!("{release}: FAILED: {error}");
            Sum { passed: 0, failed: 1 }
        });
    }
    println!("{sum}");
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Without the words that name releases, what a scenario may be chosen by.
pub fn scenario_words() -> Vec<String> {
    let a_release = |word: &String| Release::ALL.iter().any(|release| release.is_called(word));
    std::env::args().skip(1).filter(|word| !a_release(word)).collect()
}

/// The scenarios of one release. What the run inside prints is printed, but for its sum.
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
