//! Problems found by reading a whole file.

use super::error::Error;

/// Maximum number of problems listed for one file. The file is still read to its end.
pub(super) const MAX_PROBLEMS: usize = 1000;

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Description of the problem.
    pub what: String,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Corrupt { offset, what } => Self { offset, what },
            other => Self { offset: 0, what: other.to_string() },
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Error::corrupt(problem.offset, problem.what)
    }
}

/// The first [`MAX_PROBLEMS`] problems of a file.
#[derive(Debug, Default)]
pub(super) struct ProblemList(pub(super) Vec<Problem>);

impl ProblemList {
    pub(super) fn add(&mut self, offset: u64, what: impl Into<String>) {
        self.push(Problem { offset, what: what.into() });
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if !self.is_full() {
            self.0.push(problem);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_PROBLEMS
    }
}
