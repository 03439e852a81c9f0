//! The scenarios before Exim, in the order they run.

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
    scenario("Exim has what is asked of it", has_what_is_asked);
}

/// Debian's light daemon would lack the functions of a library of ours.
fn has_what_is_asked() -> Done {
    let about = run(sandbox::command("exim4").arg("-bV"))?;
    ensure!(about.contains("Expand_dlfunc"), "{about}");
    Ok(())
}
