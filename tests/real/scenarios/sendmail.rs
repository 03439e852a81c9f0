//! The scenarios before Sendmail, in the order they run.

use crate::logs::Logs;
use crate::releases::is_wanted;
use crate::report::Report;
use crate::root::Root;
use crate::{Done, ensure, run, sandbox};

/// Runs them.
pub fn run_all(_root: Root, logs: &Logs, report: &mut Report) {
    let mut scenario = |name: &str, run: fn() -> Done| {
        if is_wanted(name) {
            report.scenario(name, logs, run);
        }
    };
    scenario("Sendmail has what is asked of it", has_what_is_asked);
}

/// Which maps and protocols it was built with.
fn has_what_is_asked() -> Done {
    let about = run(sandbox::command("sendmail").args(["-d0.4", "-bv", "root"]))?;
    for feature in ["SOCKETMAP", "MILTER", "SASLv2"] {
        ensure!(about.contains(feature), "{feature} is missing: {about}");
    }
    Ok(())
}
