//! The report of findings, as text and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::{Finding, Severity};

/// All findings, in the order of the checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoctorReport {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl DoctorReport {
    /// Number of findings of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// The highest severity.
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    /// One object, as described in the manual.
    pub fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "severity": finding.severity.as_str(),
                "check": finding.check,
                "where": finding.place,
                "what": finding.what,
                "mend": finding.mend,
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "worst": self.worst().as_str(),
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "not_tested": self.count(Severity::Untested),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for DoctorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { severity, place, what, mend, .. } in &self.findings {
            writeln!(f, "{:<11}{place}: {what}", severity.as_str())?;
            if let Some(mend) = mend {
                writeln!(f, "{:<11}-> {mend}", "")?;
            }
        }
        let [errors, warnings, untested] =
            [Severity::Error, Severity::Warning, Severity::Untested].map(|s| self.count(s));
        writeln!(f, "{errors} errors, {warnings} warnings, {untested} not tested")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_for_scripts_are_present() {
        let report = DoctorReport {
            findings: vec![
                Finding::ok("socket/answer", "unix:/s", "answers"),
                Finding::error("postfix/domains", "relay_domains", "lacks example.org")
                    .mend("add it"),
            ],
        };
        let expected = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "worst": "error",
            "errors": 1,
            "warnings": 0,
            "not_tested": 0,
            "findings": [
                {"severity": "ok", "check": "socket/answer", "where": "unix:/s", "what": "answers",
                 "mend": null},
                {"severity": "error", "check": "postfix/domains", "where": "relay_domains",
                 "what": "lacks example.org", "mend": "add it"},
            ],
        });
        assert_eq!(report.to_json(), expected);
        let text = report.to_string();
        assert!(text.contains("error      relay_domains: lacks example.org\n"), "{text}");
        assert!(text.contains("           -> add it\n1 errors, 0"), "{text}");
    }

    #[test]
    fn error_outweighs_an_untested_check() {
        let untested = Finding::untested("backend/lmtp", "be1", "421");
        let error = Finding::error("backend/lmtp", "be2", "refused");
        let warning = Finding::warning("postfix/canonical", "main.cf", "none");
        let worst = |findings: &[&Finding]| {
            DoctorReport { findings: findings.iter().copied().cloned().collect() }.worst()
        };
        assert_eq!(worst(&[]), Severity::Ok);
        assert_eq!(worst(&[&warning, &untested]), Severity::Untested);
        assert_eq!(worst(&[&error, &untested, &warning]), Severity::Error);
    }
}
