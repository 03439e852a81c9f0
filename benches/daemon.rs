//! The daemon itself: its start time and its memory.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use murder_route::wire::socketmap::Request;

use crate::list::{self, Random, Site};
use crate::sandbox::STATE;
use crate::table::{Goal, Table, median};
use crate::{Done, ensure, round_trips, socketmap};

/// Number of starts.
const ROUNDS: usize = 11;

/// Connections and lookups before memory is measured, with all connections still open.
const CONNECTIONS: usize = 64;
const LOOKUPS: usize = 200_000;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_murder-route");

/// `murder-route serve` at this socket.
pub fn command(site: &Site, socket: &str) -> Command {
    command_of(PROGRAM, site, socket)
}

/// The daemon of another built `murder-route`, to compare with; `None`: MURDER_ROUTE_BASE names none.
pub fn base_command(site: &Site, socket: &str) -> Option<Command> {
    let program = std::env::var("MURDER_ROUTE_BASE").ok().filter(|path| !path.is_empty())?;
    Some(command_of(&program, site, socket))
}

fn command_of(program: &str, site: &Site, socket: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().args(["serve", "--imapd-conf", &site.imapd_conf()]);
    command.args(["--domain", "example.org", "--listen", &format!("unix:{socket}")]);
    command
}

pub fn measure(site: &Site, table: &mut Table) -> Done {
    let mut random = Random(5);
    let (mut first_answers, mut versions) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        first_answers.push(first_answer(site, random.user())?.as_secs_f64() * 1e3);
        let began = Instant::now();
        let status = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status()?;
        versions.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(status.success(), "murder-route --version: {status}");
    }
    table.against(
        "start to first answer",
        "ms",
        median(first_answers.iter().copied()),
        ("murder-route --version", median(versions.iter().copied())),
        crate::table::ratio(&first_answers, &versions),
        Goal::Below(20.0),
    );
    memory(site, table)
}

/// A daemon, ended on drop.
struct Daemon(Child);

impl Daemon {
    fn start(site: &Site, socket: &str) -> Done<Self> {
        let _ = fs::remove_file(socket);
        let mut command = command(site, socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn first_answer(site: &Site, user: u32) -> Done<Duration> {
    let socket = format!("{STATE}/start");
    let (mut request, recipient) = (Vec::new(), list::recipient(user));
    Request { map: b"lmtp", key: recipient.as_bytes() }.encode_into(&mut request);

    let began = Instant::now();
    let _daemon = Daemon::start(site, &socket)?;
    let mut stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(e) => ensure!(began.elapsed() < Duration::from_secs(30), "{socket}: {e}"),
        }
        std::thread::sleep(Duration::from_micros(50));
    };
    stream.write_all(&request)?;
    let mut buf = [0; 1024];
    let n = stream.read(&mut buf)?;
    let time = began.elapsed();
    let answer = buf.get(..n).unwrap_or_default();
    ensure!(answer.ends_with(b":2003,"), "{recipient}: {}", answer.escape_ascii());
    Ok(time)
}

fn memory(site: &Site, table: &mut Table) -> Done {
    let socket = format!("{STATE}/memory");
    let daemon = Daemon::start(site, &socket)?;
    drop(round_trips::connect(&socket)?);
    let questions = socketmap::questions();
    let _open = round_trips::busy(&socket, CONNECTIONS, LOOKUPS / CONNECTIONS, &questions)?;
    // Not RssShmem: the list is in a tmpfs, whose mapped pages are counted there.
    let own = memory_of(daemon.0.id(), "RssAnon")?;
    table.alone("memory, file pages aside", "MB", own, Goal::Below(16.0));
    table.alone(
        "memory, the program's own pages too",
        "MB",
        memory_of(daemon.0.id(), "VmRSS")?,
        Goal::None,
    );
    Ok(())
}

/// A field of `/proc/PID/status`, in MB.
pub fn memory_of(pid: u32, field: &str) -> Done<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: f64 = kilobytes.ok_or_else(|| format!("no {field}: {status}"))?.parse()?;
    Ok(kilobytes / 1024.0)
}
