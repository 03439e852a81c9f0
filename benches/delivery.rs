//! Mail through Postfix into the mailboxes of the two backends of a real Murder: directly, by our map, by
//! our table or by a static one, and through the frontend's lmtpproxyd. Measures messages per second and
//! processor time per message, for small messages and larger ones.
//!
//! The ways alternate. A slice begins with the first message to Postfix and ends when the last one has been
//! delivered.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use murder_route::routing::maps::STATUS_MAP;

use crate::clients::mail::Session;
use crate::list::Random;
use crate::mail_server::{DOMAIN, MailServer};
use crate::murder::{Host, Murder};
use crate::root::Release;
use crate::sandbox::{self, Process, STATE};
use crate::syslog::Syslog;
use crate::table::{Goal, Table, median, ratio};
use crate::{Done, daemon, ensure, install, processor, replica, run};

/// Slices of each way, after a warm-up.
const ROUNDS: usize = 7;

/// Messages of a slice, each from another sender and for one random recipient.
const MESSAGES: usize = 800;

/// Clients that send at once, with one connection per message.
const CLIENTS: usize = 20;

/// Mailboxes on each backend, `a0` and so on, and `b0` and so on.
const USERS: usize = 500;
const NAMES: [&str; 2] = ["a", "b"];

/// Sizes of messages, and their numbers of lines.
const SIZES: [(&str, usize); 2] = [("2 kB", 25), ("30 kB", 390)];
const LINE: &str =
    "The quick brown fox jumps over the lazy dog, and the dog does not even look.\r\n";

/// Our map, our table, lmtpproxyd by TCP and at its socket, and a static table.
const WAYS: usize = 5;

/// Socket of our daemon.
const SOCKET: &str = "/run/murder-route";

/// One of the ways.
struct Way {
    server: MailServer,
    /// Process groups of the programs between Postfix and the backends.
    between: Vec<u32>,
}

/// Results of the slices of a way.
struct Slices {
    rates: Vec<f64>,
    /// Milliseconds of processor time per message, of all processes except the client.
    whole: Vec<f64>,
    /// Microseconds of processor time per message, of the programs in between.
    part: Vec<f64>,
}

pub fn measure(table: &mut Table) -> Done {
    // Another part of the bench may have had hosts with these names.
    for host in ["master", "fe1", "be1", "be2"] {
        let _ = fs::remove_dir_all(format!("{STATE}/{host}"));
    }
    // As between hosts. With the 64 kB of the loopback interface, a frontend's lmtpd waits for delayed
    // acknowledgements, and Postfix clears 128 kB of buffers per session (vstream_tweak_tcp).
    run(sandbox::command("busybox").args(["ip", "link", "set", "lo", "mtu", "1500"]))?;
    let syslog = Syslog::listen()?;
    let mut murder = Murder::start(Release::V3_6)?;
    for (backend, name) in murder.backends.iter().zip(NAMES) {
        backend.create_many(name, USERS)?;
    }
    let serve = start_daemon(&murder.frontend)?;
    let ways = start_ways(&murder, &serve)?;
    let mut sent = 0;
    for (size, lines) in SIZES {
        let slices = compare(&ways, size, lines, &syslog, &mut sent)?;
        report(&slices, size, table);
    }
    arrived(&murder, sent)?;
    ways.into_iter().try_for_each(|way| way.server.stop())?;
    serve.stop()?;
    murder.frontend.stop()?;
    murder.backends.iter_mut().try_for_each(Host::stop)?;
    murder.master.stop()
}

/// Measures the slices of all ways, with messages of one size.
fn compare(
    ways: &[Way; WAYS],
    size: &str,
    lines: usize,
    syslog: &Syslog,
    sent: &mut usize,
) -> Done<[Slices; WAYS]> {
    let mut slices = [const { Slices::new() }; WAYS];
    for round in 0..=ROUNDS {
        // In rotating order, so that no way always follows the same one.
        for turn in 0..ways.len() {
            let nth = (round + turn) % ways.len();
            let (way, slices) = (&ways[nth], &mut slices[nth]);
            let before = way.processor_time()?;
            let began = Instant::now();
            send(&way.server.smtp, &format!("{lines}.{round}.{nth}"), lines)?;
            *sent += MESSAGES;
            syslog.wait_sent(*sent)?;
            let seconds = began.elapsed().as_secs_f64();
            let after = way.processor_time()?;
            // The first round is a warm-up.
            if round > 0 {
                slices.rates.push(MESSAGES as f64 / seconds);
                slices.whole.push((after.0 - before.0) * 1e3 / MESSAGES as f64);
                slices.part.push((after.1 - before.1) * 1e6 / MESSAGES as f64);
            }
        }
        let rates = slices.each_ref().map(|slices| slices.rates.last().copied());
        if let [Some(ours), Some(murder), Some(proxy), Some(socket), Some(hash)] = rates {
            println!(
                "{size}: {ours:.0} /s, by the table murder: {murder:.0} /s; lmtpproxyd {proxy:.0} /s, \
                 at its socket {socket:.0} /s; hash: {hash:.0} /s"
            );
        }
    }
    Ok(slices)
}

fn report([map, murder, proxy, socket, hash]: &[Slices; WAYS], size: &str, table: &mut Table) {
    for (ours, way) in [(map, "delivery"), (murder, "delivery by murder:")] {
        against(ours, [proxy, socket, hash], &format!("{way}, {size}"), table);
    }
}

fn against(ours: &Slices, [proxy, socket, hash]: [&Slices; 3], what: &str, table: &mut Table) {
    let middle = |values: &[f64]| median(values.iter().copied());
    for (peer, name, goal) in [
        (proxy, "lmtpproxyd", 1.15),
        (socket, "lmtpproxyd at its socket", 1.15),
        (hash, "a hash: table", 0.97),
    ] {
        let goal = Goal::AtLeast(goal);
        let rates = (middle(&ours.rates), middle(&peer.rates));
        let faster = ratio(&ours.rates, &peer.rates);
        table.against(what, "/s", rates.0, (name, rates.1), faster, goal);
        let times = (middle(&ours.whole), middle(&peer.whole));
        let less = ratio(&ours.whole, &peer.whole);
        let what = format!("{what}, processor time of all");
        table.against(what, "ms", times.0, (name, times.1), less, Goal::None);
    }
    // Our share is too small for the clock of one slice.
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (own, theirs) = (mean(&ours.part), mean(&proxy.part));
    let what = format!("{what}, processor time of the daemon");
    let peer = ("frontend and master", theirs);
    // A thirtieth.
    table.against(what, "µs", own, peer, own / theirs, Goal::AtMost(0.033));
}

impl Slices {
    const fn new() -> Self {
        Self { rates: Vec::new(), whole: Vec::new(), part: Vec::new() }
    }
}

impl Way {
    /// Seconds so far: of all servers, and of the programs in between.
    fn processor_time(&self) -> Done<(f64, f64)> {
        let between = self.between.iter().map(|group| processor::of_group(*group));
        Ok((processor::of_all_servers()?, between.sum::<Done<f64>>()?))
    }
}

/// Starts `murder-route serve` beside the frontend, once it has all mailboxes and none of them is new.
fn start_daemon(frontend: &Host) -> Done<Process> {
    let _ = fs::remove_file(SOCKET);
    let mut command = Command::new(daemon::PROGRAM);
    command.env_clear().args(["serve", "--imapd-conf", &frontend.imapd_conf()]);
    command.args(["--domain", DOMAIN, "--listen", &format!("unix:{SOCKET}")]);
    let output = format!("{STATE}/delivery-serve.output");
    let serve = Process::start("serve", &mut command, output.as_ref())?;
    for name in NAMES {
        let last = format!("{name}{}@{DOMAIN}", USERS - 1);
        let is_old = || {
            let mut stream = UnixStream::connect(SOCKET)?;
            let before = asked_again(&mut stream)?;
            let answer = replica::ask(&mut stream, "lmtp", &last)?;
            // The frontend gets a new mailbox up to 5 s late.
            ensure!(answer.starts_with("OK lmtp:inet:"), "{last}: {answer}");
            // For a minute the daemon also asks the master about it, which is not the normal case.
            Ok((asked_again(&mut stream)? == before).then_some(()))
        };
        sandbox::poll("the mailboxes to be known and no longer new", 150, is_old)?;
    }
    Ok(serve)
}

/// Number of names that the daemon has asked the master about because they changed recently.
fn asked_again(stream: &mut UnixStream) -> Done<u64> {
    let answer = replica::ask(stream, STATUS_MAP, "")?;
    let json = answer.strip_prefix("OK ").ok_or_else(|| format!("status: {answer}"))?;
    let status: serde_json::Value = serde_json::from_str(json)?;
    let count = status["counters"]["asked_again"].as_u64();
    Ok(count.ok_or_else(|| format!("no counter: {status}"))?)
}

/// As a site has each of them: our map and the static one refuse unknown recipients at RCPT; with
/// lmtpproxyd, Postfix accepts them all.
fn start_ways(murder: &Murder, serve: &Process) -> Done<[Way; WAYS]> {
    let softened = format!("{STATE}/delivery-status");
    fs::write(&softened, "/^5\\.1\\.1 (.*)/ 4.1.1 ${1}\n")?;
    let by_maps = |lmtp: &str, canonical: &str| {
        format!(
            "transport_maps = {lmtp}\n\
             recipient_canonical_maps = {canonical}\n\
             recipient_canonical_classes = envelope_recipient\n\
             relay_recipient_maps =\n\
             lmtp_delivery_status_filter = regexp:{softened}\n"
        )
    };
    let socketmap = |map| format!("socketmap:unix:{SOCKET}:{map}");
    let filter = format!("{STATE}/delivery-canonical");
    fs::write(&filter, include_str!("../postfix/murder-route-canonical"))?;
    let canonical = format!("pipemap:{{regexp:{filter}, {}}}", socketmap("canonical"));
    let ours = by_maps(&socketmap("lmtp"), &canonical);
    let configuration = format!("{STATE}/delivery.toml");
    let imapd_conf = murder.frontend.imapd_conf();
    let text = format!("imapd-conf = {imapd_conf:?}\ndomains = [{DOMAIN:?}]\n");
    fs::write(&configuration, text)?;
    install::install_for_postfix(Release::V3_6)?;
    let in_process =
        by_maps(&format!("murder:{configuration}"), &format!("murder:{configuration}:canonical"));
    let (frontend, master) = (&murder.frontend, &murder.master);
    let proxy = |nexthop| format!("relay_transport = lmtp:{nexthop}\nrelay_recipient_maps =\n");
    let by_tcp = proxy(format!("inet:{}:2003", frontend.address));
    let by_socket = proxy(format!("unix:{}", frontend.lmtp_socket()));
    let table = static_table(murder)?;
    let hash = format!("transport_maps = hash:{table}\nrelay_recipient_maps = hash:{table}\n");
    let way = |name, address, routing: &str, between: &[u32]| {
        let server = MailServer::start(name, address, routing)?;
        Done::Ok(Way { server, between: between.to_vec() })
    };
    let carriers = [frontend.process()?.id(), master.process()?.id()];
    Ok([
        way("ours", "127.0.1.31", &ours, &[serve.id()])?,
        way("murder", "127.0.1.35", &in_process, &[serve.id()])?,
        way("proxy", "127.0.1.32", &by_tcp, &carriers)?,
        way("proxy-socket", "127.0.1.33", &by_socket, &carriers)?,
        way("hash", "127.0.1.34", &hash, &[])?,
    ])
}

/// The backend of each recipient, for Postfix' own table.
fn static_table(murder: &Murder) -> Done<String> {
    let path = format!("{STATE}/delivery-transport");
    let lines = murder.backends.iter().zip(NAMES).flat_map(|(backend, name)| {
        let address = backend.address;
        (0..USERS).map(move |nth| format!("{name}{nth}@{DOMAIN} lmtp:inet:{address}:2003\n"))
    });
    fs::write(&path, lines.collect::<String>())?;
    run(sandbox::command("postmap").arg(format!("hash:{path}")))?;
    Ok(path)
}

/// Sends the messages of a slice to Postfix.
fn send(smtp: &str, slice: &str, lines: usize) -> Done {
    let next = AtomicUsize::new(0);
    let client = |number: usize| -> Done {
        let mut random = Random(number as u64 + 1);
        loop {
            let nth = next.fetch_add(1, Relaxed);
            if nth >= MESSAGES {
                return Ok(());
            }
            let name = NAMES[random.below(NAMES.len())];
            let recipient = format!("{name}{}@{DOMAIN}", random.below(USERS));
            let mut session = Session::smtp(smtp)?;
            let sender = format!("{slice}.{nth}@sender.test");
            let outcome = session.send(&sender, &[&recipient], &letter(&sender, lines))?;
            let taken = outcome.message.first().is_some_and(|reply| reply.code == 250);
            ensure!(taken, "{recipient}: {outcome:?}");
            session.command("QUIT")?;
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().try_for_each(|one| one.join().map_err(|_| "a client panicked")?)
    })
}

/// A message. Cyrus stores a message with a given id only once.
fn letter(id: &str, lines: usize) -> String {
    let head = format!(
        "From: {id}\r\nTo: everybody@{DOMAIN}\r\nSubject: {id}\r\n\
         Date: Mon, 1 Jan 2024 12:00:00 +0000\r\nMessage-ID: <{id}>\r\n\r\n"
    );
    head + LINE.repeat(lines).trim_end()
}

/// Demands that all messages are in the mailboxes.
fn arrived(murder: &Murder, sent: usize) -> Done {
    let mut stored = 0;
    for backend in &murder.backends {
        let spool = format!("{}/spool", backend.dir());
        // A message is a file named `1.`.
        stored += run(Command::new("find").args([&spool, "-name", "[0-9]*."]))?.lines().count();
    }
    ensure!(stored == sent, "of {sent} messages {stored} lie in the mailboxes");
    Ok(())
}
