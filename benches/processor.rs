//! How long processes have run, from `/proc` (proc_pid_stat(5)). A run has a PID namespace of its
//! own, so what is there belongs to it.

use std::fs;

use crate::Done;

/// A process, and all whose end it has waited for.
struct Process {
    id: u32,
    group: u32,
    own: f64,
    of_children: f64,
}

impl Process {
    fn read(id: u32) -> Done<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name in brackets may hold spaces; what follows it is field 3.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
        let fields: Vec<&str> = fields.into_iter().flatten().collect();
        let field = |number: usize| fields.get(number - 3).ok_or("a short /proc/PID/stat");
        // USER_HZ is 100 wherever this runs.
        let seconds =
            |at| Done::Ok((field(at)?.parse::<f64>()? + field(at + 1)?.parse::<f64>()?) / 100.0);
        Ok(Self { id, group: field(5)?.parse()?, own: seconds(14)?, of_children: seconds(16)? })
    }
}

/// Seconds that a process' threads have run so far, those that have ended too.
pub fn of_process(id: u32) -> Done<f64> {
    Ok(Process::read(id)?.own)
}

/// The same of a process group, those that have ended too if another one of the group waited for
/// them.
pub fn of_group(group: u32) -> Done<f64> {
    sum(|process| process.group == group)
}

/// The same of everything in the run but this process, the client, itself.
pub fn of_all_servers() -> Done<f64> {
    sum(|process| process.id != std::process::id())
}

fn sum(wanted: impl Fn(&Process) -> bool) -> Done<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse() else { continue };
        // One that cannot be read has just ended.
        if let Ok(process) = Process::read(id)
            && wanted(&process)
        {
            sum += process.own + process.of_children;
        }
    }
    Ok(sum)
}
