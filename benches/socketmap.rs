//! Socketmap round trips with 1, 16 and 64 connections: against an echo server in C (`echo.c`) that reads a
//! kilobyte of the list for each answer; against `smmapd` of a frontend with the same list; and against the
//! daemon of another build of `murder-route`, if MURDER_ROUTE_BASE names one.
//!
//! The servers alternate in short slices, and the ratio of each slice to its neighbour counts: other load
//! of the machine affects all alike. The table shows the medians, and the processor time of each server per
//! request.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use murder_route::wire::socketmap::Request;

use crate::list::{DIR, Site};
use crate::round_trips::{Questions, connect, slice};
use crate::sandbox::{self, Process, STATE};
use crate::table::{Goal, Table, median, ratio};
use crate::{Done, daemon, processor, run};

/// Slices of each server and number of connections.
const ROUNDS: usize = 15;

/// Numbers of connections.
const CONNECTIONS: [usize; 3] = [1, 16, 64];

/// A server.
struct Peer<'a> {
    name: &'a str,
    socket: &'a str,
    /// Its only process; `None` if it has several.
    pid: Option<u32>,
}

pub fn measure(site: &Site, table: &mut Table) -> Done {
    let echo = format!("{STATE}/echo");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/echo.c");
    run(Command::new("cc").args(["-O2", "-pthread", "-o", &echo]).arg(source))?;

    let ours = format!("{STATE}/serve");
    let serve = start("serve", &mut daemon::command(site, &ours))?;
    let own = Peer { name: "murder-route", socket: &ours, pid: Some(serve.id()) };
    let list = site.mailboxes_db();
    let mut others = Vec::new();
    let socket = format!("{STATE}/echo-socket");
    let mut command = Command::new(&echo);
    command.args([&socket, &list]);
    others.push((start("echo", &mut command)?, "C echo, a read of the list each", socket));
    let socket = format!("{STATE}/base");
    if let Some(mut command) = daemon::base_command(site, &socket) {
        others.push((start("base", &mut command)?, "the other build", socket));
    }
    let peers: Vec<_> = others
        .iter()
        .map(|(server, name, socket)| Peer { name, socket, pid: Some(server.id()) })
        .collect();
    compare(table, &own, &peers)?;
    others.into_iter().try_for_each(|(server, ..)| server.stop())?;

    // Not beside the others: its processes keep working after their clients have ended.
    let socket = format!("{STATE}/smmapd");
    let master = start("smmapd", &mut master(site, &socket)?)?;
    compare(table, &own, &[Peer { name: "smmapd", socket: &socket, pid: None }])?;
    master.stop()?;
    serve.stop()
}

/// Compares our server with these.
fn compare(table: &mut Table, own: &Peer<'_>, peers: &[Peer<'_>]) -> Done {
    let questions = questions();
    let servers: Vec<&Peer<'_>> = std::iter::once(own).chain(peers).collect();
    // Warms everything up, and makes Cyrus' master fork as many smmapd as will be needed.
    for server in &servers {
        connect(server.socket)?;
        slice(server.socket, 64, &questions)?;
    }
    for connections in CONNECTIONS {
        let mut rates = vec![Vec::new(); servers.len()];
        let mut busy = vec![(0, 0.0); servers.len()];
        for round in 0..ROUNDS {
            // In rotating order, so that no server always follows the same one.
            for turn in 0..servers.len() {
                let at = (round + turn) % servers.len();
                let before = servers[at].processor_time()?;
                let slice = slice(servers[at].socket, connections, &questions)?;
                rates[at].push(slice.requests as f64 / slice.seconds);
                busy[at].0 += slice.requests;
                busy[at].1 += servers[at].processor_time()? - before;
            }
        }
        let what = format!("socketmap, connections: {connections}");
        let rate = median(rates[0].iter().copied());
        let each = |at: usize| busy[at].1 * 1e6 / busy[at].0 as f64;
        for (at, peer) in peers.iter().enumerate().map(|(at, peer)| (at + 1, peer)) {
            let theirs = median(rates[at].iter().copied());
            let ratio = ratio(&rates[0], &rates[at]);
            table.against(what.clone(), "/s", rate, (peer.name, theirs), ratio, Goal::None);
            if peer.pid.is_some() {
                let what = format!("{what}, processor time each");
                let (own, theirs) = (each(0), each(at));
                table.against(what, "µs", own, (peer.name, theirs), own / theirs, Goal::None);
            }
        }
    }
    Ok(())
}

impl Peer<'_> {
    fn processor_time(&self) -> Done<f64> {
        self.pid.map_or(Ok(0.0), processor::of_process)
    }
}

fn start(name: &str, command: &mut Command) -> Done<Process> {
    Process::start(name, command, format!("{STATE}/{name}.output").as_ref())
}

/// The Cyrus of a frontend with only smmapd.
fn master(site: &Site, socket: &str) -> Done<Command> {
    let (conf, services) = (site.imapd_conf(), format!("{DIR}/cyrus.conf"));
    fs::write(
        &services,
        format!(
            "START {{\n}}\nSERVICES {{\n\
             smmap cmd=\"smmapd -C {conf}\" listen=\"{socket}\" prefork=64\n}}\nEVENTS {{\n}}\n"
        ),
    )?;
    let mut command = sandbox::command("/usr/lib/cyrus/bin/master");
    command.args(["-C", &conf, "-M", &services, "-p", &format!("{DIR}/master.pid")]);
    Ok(command)
}

/// Requests of the map `lmtp`.
pub fn questions() -> Arc<Questions> {
    let request = |name: &str| {
        let (mut request, recipient) = (Vec::new(), format!("{name}@example.org"));
        Request { map: b"lmtp", key: recipient.as_bytes() }.encode_into(&mut request);
        request
    };
    // The echo server answers `lmtp …`; smmapd and murder-route answer `OK …`. No other answer ends so.
    Questions::new(b"", request, |answer| {
        let known = answer.windows(4).any(|four| four == b":OK " || four == b":lmt");
        known && answer.ends_with(b",")
    })
}
