//! A mailbox moves: the time until the daemon's answer changes, against the list that Cyrus' own slave
//! writes on a frontend.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use murder_route::model::list::{Lookup, MailboxList};
use murder_route::model::name::MailboxName;
use murder_route::model::record::Record;
use murder_route::resolver::Resolver;

use crate::list::{self, Random, Site};
use crate::mupdate::Connection;
use crate::table::{Goal, Table};
use crate::{Done, ensure, replica};

/// Number of mailboxes that move, and the mean pause between two moves. Both sides have periods of some
/// seconds, so the pauses are random.
const MOVES: usize = 100;
const PAUSE: Duration = Duration::from_millis(400);

/// Interval between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Longest time for a change to be seen.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Server that they move to.
const SERVER: &str = "127.0.1.99";

/// A mailbox that has moved.
struct Move {
    recipient: String,
    name: MailboxName,
    at: Instant,
    daemon: Option<f64>,
    slave: Option<f64>,
}

pub fn measure(site: &Site, written: &str, table: &mut Table) -> Done {
    let mut backend = Connection::log_in()?;
    let mut stream = UnixStream::connect(replica::SOCKET)?;
    let resolver = Resolver::new(site.settings(written)?, None);
    let list = resolver.lists.file(Path::new(written)).ok_or("no list")?;
    let mut random = Random(17);
    let mut moves: Vec<Move> = Vec::new();
    let mut next = Instant::now();
    loop {
        if moves.len() < MOVES && Instant::now() >= next {
            let user = random.user();
            let name = replica::name(user, 0)?;
            if moves.iter().all(|one| one.name != name) {
                let acl = format!("{}\tlrswipkxtecdan\t", list::name(user));
                backend.send(&format!("M ACTIVATE \"{name}\" \"{SERVER}!default\" \"{acl}\""))?;
                backend.read_to("M OK \"done\"\r\n")?;
                let recipient = list::recipient(user);
                let at = Instant::now();
                moves.push(Move { recipient, name, at, daemon: None, slave: None });
            }
            next += PAUSE * 2 * random.below(1000) as u32 / 1000;
        }
        for one in &mut moves {
            let waited = one.at.elapsed();
            if one.daemon.is_none() {
                let answer = replica::ask(&mut stream, "lmtp", &one.recipient)?;
                one.daemon = answer.contains(SERVER).then(|| one.at.elapsed().as_secs_f64());
            }
            if one.slave.is_none() {
                let found = list.lookup(&one.name);
                let is_moved = |record: &Record| record.server.as_deref() == Some(SERVER);
                let moved = matches!(&found, Lookup::Present(record) if is_moved(record));
                one.slave = moved.then(|| one.at.elapsed().as_secs_f64());
            }
            let seen = one.daemon.is_some() && one.slave.is_some();
            ensure!(seen || waited < EVENT_TIMEOUT, "{}: not seen to move", one.name);
        }
        let all_seen = moves.iter().all(|one| one.daemon.is_some() && one.slave.is_some());
        if moves.len() == MOVES && all_seen {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let mut ours: Vec<f64> = moves.iter().filter_map(|one| one.daemon).collect();
    let mut theirs: Vec<f64> = moves.iter().filter_map(|one| one.slave).collect();
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    for (part, what) in [(50, "half of them"), (99, "99 of 100")] {
        let [ours, theirs] = [&ours, &theirs].map(|all| all[(all.len() * part).div_ceil(100) - 1]);
        let what = format!("a move is seen, {what}");
        let peer = ("slave of Cyrus", theirs);
        let goal = if part == 99 { Goal::AtMost(1.0) } else { Goal::None };
        table.against(what.clone(), "s", ours, peer, ours / theirs, goal);
        if part == 99 {
            table.alone(what, "s", ours, Goal::Below(3.0));
        }
    }
    Ok(())
}
