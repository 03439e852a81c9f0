//! Output of a run: a line for each scenario, and the error of a failed one.

use std::fmt;
use std::ops::AddAssign;
use std::time::Instant;

use crate::Done;
use crate::logs::Logs;
use crate::root::Root;

/// Numbers of scenarios by result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub passed: usize,
    pub failed: usize,
    /// Output of the failed scenarios, without the log.
    pub failures: Vec<String>,
}

impl Sum {
    /// Parses the last line of a report.
    pub fn parse(line: &str) -> Option<Self> {
        let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
        let (passed, failed) = (passed.parse().ok()?, failed.parse().ok()?);
        Some(Self { passed, failed, failures: Vec::new() })
    }

    /// One failure with this text.
    pub fn failure(line: String) -> Self {
        Self { passed: 0, failed: 1, failures: vec![line] }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
    }
}

/// Whether such a line belongs to a failure in this root; lines of the log do not.
pub fn is_of_a_failure(root: Root, line: &str) -> bool {
    let Some(text) = line.strip_prefix(&format!("{root}: ")) else {
        return line.starts_with("FAILED: ");
    };
    let said = text.starts_with("    ") && !text.starts_with("      log: ");
    said || text.ends_with("  FAILED")
}

/// Counts the scenarios of one root, and prints results.
pub struct Report {
    root: Root,
    sum: Sum,
}

impl Report {
    pub fn new(root: Root) -> Self {
        Self { root, sum: Sum::default() }
    }

    /// Runs one scenario.
    pub fn scenario(&mut self, name: &str, logs: &Logs, scenario: impl FnOnce() -> Done) {
        let (start, mark) = (Instant::now(), logs.mark());
        let done = scenario();
        let line = format!("{}: {name}  {:.1} s", self.root, start.elapsed().as_secs_f32());
        match done {
            Ok(()) => {
                self.sum.passed += 1;
                println!("{line}  ok");
            }
            Err(error) => {
                self.sum.failed += 1;
                println!("{line}  FAILED");
                // Roots run in parallel, so each line names its root.
                let root = self.root;
                for line in error.to_string().lines() {
                    println!("{root}:     {line}");
                }
                let lines = logs.since(mark, "");
                let tail = lines.len().saturating_sub(40);
                for line in lines.iter().skip(tail) {
                    println!("{root}:       log: {}: {}", line.program, line.text);
                }
            }
        }
    }

    /// Prints the total. Returns true if all passed.
    pub fn close(&self) -> bool {
        println!("{}", self.sum);
        self.sum.failed == 0
    }
}
