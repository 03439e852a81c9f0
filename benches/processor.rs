//! How long processes have run, from `/proc` (proc_pid_stat(5)).

use std::fs;

use crate::Done;

/// Seconds that a process' threads have run so far, those that have ended too.
pub fn of_process(id: u32) -> Done<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in brackets may hold spaces; what follows it is field 3.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let ticks = fields.into_iter().flatten().skip(14 - 3).take(2).map(str::parse::<u64>);
    // USER_HZ is 100 wherever this runs.
    Ok(ticks.sum::<Result<u64, _>>()? as f64 / 100.0)
}
