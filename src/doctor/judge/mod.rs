//! `murder-route doctor`: what is wrong with a deployment, from what was seen of it.
//!
//! Nothing here does I/O; what was seen comes in as values.
//!
//! * [`postfix`] reads Postfix' settings and knows the mistakes people make in them.
//! * [`socket`] knows what to ask at a socket, and what it means if nobody answers; [`recipients`],
//!   whether what is said there of recipients is what the configuration says; [`waiting`], the mailboxes
//!   that a daemon names as reserved for long or claimed twice.
//! * [`lmtp`] is the conversation with a backend; [`backend`] judges what it brought, also against
//!   what Postfix will do there, which is the [`client`]: the [`certificate`], and the [`login`].
//! * [`comparison`] finds where two mailbox lists differ.
//!
//! All of it comes down to [`Finding`]s; [`report`] gives them their form.

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

/// How bad a finding is. The order is that of weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Not looked at: it was not asked for, or there is nothing of the kind.
    Skipped,
    /// It works, and will hurt one day.
    Warning,
    /// Something was in the way that may be gone the next time.
    Untested,
    /// To be mended: letters wait, bounce or go astray.
    Error,
}

impl Severity {
    /// The word for it in the report.
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

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at, `area/thing`: a word for scripts, which stays the same.
    pub check: &'static str,
    /// The parameter, file, socket or backend.
    pub place: String,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub mend: Option<String>,
}

impl Finding {
    fn new(severity: Severity, check: &'static str, place: String, what: String) -> Self {
        Self { severity, check, place, what, mend: None }
    }

    /// All is well with this.
    pub fn ok(check: &'static str, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, place.into(), what.into())
    }

    /// This was not looked at, and that is no fault.
    pub fn skipped(check: &'static str, place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Severity::Skipped, check, place.into(), why.into())
    }

    /// This could not be looked at just now.
    pub fn untested(check: &'static str, place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Severity::Untested, check, place.into(), why.into())
    }

    /// This will hurt one day.
    pub fn warning(check: &'static str, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, place.into(), what.into())
    }

    /// This must be mended.
    pub fn error(check: &'static str, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, place.into(), what.into())
    }

    /// The same with what to do about it.
    pub fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }
}

/// Text from outside as it may be one_line: in one line, and not without end.
pub fn one_line(text: &str) -> String {
    const MOST: usize = 2000;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", Shown(text.get(..end).unwrap_or_default())),
        None => Shown(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_shown_in_one_line_and_as_it_is() {
        assert_eq!(one_line("o'brien says\n\"no\""), r#"o'brien says\n"no""#);
        let sentence = "a reason of some length, ".repeat(40);
        assert_eq!(one_line(&sentence), sentence);
        assert!(one_line(&"x".repeat(5000)).ends_with("x…"));
    }
}
