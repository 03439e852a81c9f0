//! Processor time of processes, from `/proc` (proc_pid_stat(5)). A run has its own PID namespace, so all
//! processes there belong to it.

use std::fs;

use crate::Done;

/// A process, and all children that it has waited for.
struct Process {
    id: u32,
    group: u32,
    own: f64,
    of_children: f64,
}

impl Process {
    fn read(id: u32) -> Done<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name in brackets may contain spaces; field 3 follows it.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
        let fields: Vec<&str> = fields.into_iter().flatten().collect();
        let field = |number: usize| fields.get(number - 3).ok_or("a short /proc/PID/stat");
        // USER_HZ is 100 on all platforms of the bench.
        let seconds =
            |at| Done::Ok((field(at)?.parse::<f64>()? + field(at + 1)?.parse::<f64>()?) / 100.0);
        Ok(Self { id, group: field(5)?.parse()?, own: seconds(14)?, of_children: seconds(16)? })
    }
}

/// Seconds of a process' threads so far, including ended ones.
pub fn of_process(id: u32) -> Done<f64> {
    Ok(Process::read(id)?.own)
}

/// Seconds of a process group so far, including ended processes that another one of the group waited for.
pub fn of_group(group: u32) -> Done<f64> {
    sum(|process| process.group == group)
}

/// Seconds of all processes of the run except this one, the client.
pub fn of_all_servers() -> Done<f64> {
    sum(|process| process.id != std::process::id())
}

fn sum(wanted: impl Fn(&Process) -> bool) -> Done<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse() else { continue };
        // An unreadable one has just ended.
        if let Ok(process) = Process::read(id)
            && wanted(&process)
        {
            sum += process.own + process.of_children;
        }
    }
    Ok(sum)
}
