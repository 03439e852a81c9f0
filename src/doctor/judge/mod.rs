//! Judges of a deployment: observations in, findings out. Pure, without I/O.
//!
//! * [`postfix`] parses Postfix' settings and checks them for known mistakes.
//! * [`socket`] has the requests for a socket and judges the outcome; [`recipients`] compares the answers
//!   for recipients with the configuration; [`waiting`] judges mailboxes that the daemon reports as long
//!   reserved or claimed twice.
//! * [`lmtp`] is the LMTP dialogue with a backend; [`backend`] judges its result, also against the
//!   [`client`] of Postfix: [`certificate`] and [`login`].
//! * [`comparison`] finds differences between two mailbox lists.
//!
//! The result is a list of [`Finding`]s; [`report`] formats them.

pub mod backend;
pub mod certificate;
pub mod client;
pub mod comparison;
pub mod lmtp;
pub mod login;
pub mod postfix;
pub mod recipients;
pub mod report;
pub mod socket;
pub mod waiting;

use crate::model::shown::Shown;

/// Severity of a finding, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No problem.
    Ok,
    /// Not checked: not requested, or not applicable.
    Skipped,
    /// It works, but can fail later.
    Warning,
    /// Could not be checked, for a temporary reason.
    Untested,
    /// Must be corrected: messages wait, bounce or are misdelivered.
    Error,
}

impl Severity {
    /// The name in the report.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Skipped => "skipped",
            Severity::Warning => "warning",
            Severity::Untested => "not-tested",
            Severity::Error => "error",
        }
    }
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The severity.
    pub severity: Severity,
    /// Name of the check, `area/thing`: stable, for scripts.
    pub check: &'static str,
    /// The parameter, file, socket or backend.
    pub place: String,
    /// Description of the result.
    pub what: String,
    /// The correction.
    pub mend: Option<String>,
}

impl Finding {
    fn new(severity: Severity, check: &'static str, place: String, what: String) -> Self {
        Self { severity, check, place, what, mend: None }
    }

    /// A check without problems.
    pub fn ok(check: &'static str, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, place.into(), what.into())
    }

    /// A check that was skipped.
    pub fn skipped(check: &'static str, place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Severity::Skipped, check, place.into(), why.into())
    }

    /// A check that could not be made for a temporary reason.
    pub fn untested(check: &'static str, place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Severity::Untested, check, place.into(), why.into())
    }

    /// A problem that can cause failures later.
    pub fn warning(check: &'static str, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, place.into(), what.into())
    }

    /// A problem that must be corrected.
    pub fn error(check: &'static str, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, place.into(), what.into())
    }

    /// Adds the correction.
    pub fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }
}

/// Formats text from outside: in one line and of limited length.
pub fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 2000;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", Shown(text.get(..end).unwrap_or_default())),
        None => Shown(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_becomes_one_line() {
        assert_eq!(one_line("o'brien says\n\"no\""), r#"o'brien says\n"no""#);
        let sentence = "a reason of some length, ".repeat(40);
        assert_eq!(one_line(&sentence), sentence);
        assert!(one_line(&"x".repeat(5000)).ends_with("x…"));
    }
}
