//! What the run prints: a line for each scenario, and of a failed one what was seen.

use std::time::Instant;

use crate::Done;
use crate::logs::Logs;

/// Counts, and prints as it goes.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    /// Runs one scenario.
    pub fn scenario(&mut self, name: &str, logs: &Logs, scenario: impl FnOnce() -> Done) {
        let (start, mark) = (Instant::now(), logs.mark());
        let done = scenario();
        let seconds = start.elapsed().as_secs_f32();
        match done {
            Ok(()) => {
                self.passed += 1;
                println!("{name}  {seconds:.1} s  ok");
            }
            Err(error) => {
                self.failed += 1;
                println!("{name}  {seconds:.1} s  FAILED");
                println!("    {}", error.to_string().replace('\n', "\n    "));
                let lines = logs.since(mark, "");
                let tail = lines.len().saturating_sub(40);
                for line in lines.iter().skip(tail) {
                    println!("      log: {}: {}", line.program, line.text);
                }
            }
        }
    }

    /// Prints the sum. True if all passed.
    pub fn close(&self) -> bool {
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}
