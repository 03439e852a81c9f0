//! Socketmap round trips against a bare echo server in C (`echo.c`) that does the same reads and
//! writes, with 1, 16 and 64 connections.
//!
//! Each connection is a thread that asks and waits, as each process of Postfix does. The servers
//! take turns in short slices, and the ratio of each slice to its neighbour counts: whatever else
//! the machine does meets all alike. The table shows the medians.
//!
//! `cargo bench --bench socketmap [SECONDS]`: how long to measure each cell, by default 3 s.

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use murder_route::endpoint::{Endpoint, Listen, ListenOptions};
use murder_route::server::{Answer, Limits, Server};
use murder_route::wire::socketmap::{Reply, Request};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Knows one answer: what is measured is everything around it.
struct Constant;

impl Answer for Constant {
    fn at_once(&self, _map: &str, _key: &[u8]) -> Option<Reply> {
        Some(Reply::Ok("lmtp:inet:127.0.0.1:2003".to_owned()))
    }

    async fn in_time(&self, _map: &str, _key: &[u8]) -> Reply {
        Reply::NotFound
    }
}

/// The length of a slice.
const SLICE: Duration = Duration::from_millis(300);

const CONNECTIONS: [usize; 3] = [1, 16, 64];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--serve", path, _] => serve(path.as_ref()),
        // Cargo adds --bench.
        [seconds, "--bench"] => compare(seconds.parse()?),
        _ => compare(3.0),
    }
}

/// The server, in a process of its own.
fn serve(path: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut server = Server::new(Arc::new(Constant), Limits::default())?;
        let endpoint = Endpoint::Unix(path.to_owned());
        server.reconcile(&[Listen { endpoint, options: ListenOptions::default() }]).await?;
        std::future::pending().await
    })
}

/// A server process; ended when dropped.
struct Peer {
    name: &'static str,
    child: Child,
    path: PathBuf,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn compare(seconds: f64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let echo = dir.path().join("echo");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/echo.c");
    let built =
        Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&echo).arg(source).status()?;
    if !built.success() {
        return Err("cc failed".into());
    }
    let this = std::env::current_exe()?;
    let mut peers = Vec::new();
    for (at, (name, program, kind)) in
        [("C, threads", &echo, "thread"), ("C, epoll", &echo, "epoll"), ("murder-route", &this, "")]
            .into_iter()
            .enumerate()
    {
        let path = dir.path().join(format!("s{at}"));
        let mut command = Command::new(program);
        if program == &this {
            command.arg("--serve");
        }
        let child = command.arg(&path).arg(kind).spawn()?;
        let peer = Peer { name, child, path };
        let began = Instant::now();
        while UnixStream::connect(&peer.path).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(format!("{name} does not start").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        peers.push(peer);
    }

    println!(
        "{:>11}  {:<14} {:>12}  {:>12} {:>12}",
        "connections", "", "round trips", "of C,", "of C,"
    );
    println!("{:>11}  {:<14} {:>12}  {:>12} {:>12}", "", "", "a second", "threads", "epoll");
    for connections in CONNECTIONS {
        let rounds = (seconds / SLICE.as_secs_f64()).ceil().max(3.0) as usize;
        let mut rates = vec![Vec::new(); peers.len()];
        for _ in 0..rounds {
            for (peer, rates) in peers.iter().zip(&mut rates) {
                rates.push(load(&peer.path, connections, SLICE)?);
            }
        }
        for (peer, own) in peers.iter().zip(&rates) {
            let of = |other: &[f64]| median(own.iter().zip(other).map(|(a, b)| a / b));
            println!(
                "{connections:>11}  {:<14} {:>12.0}  {:>12.2} {:>12.2}",
                peer.name,
                median(own.iter().copied()),
                of(&rates[0]),
                of(&rates[1])
            );
        }
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Round trips a second over so many connections.
fn load(path: &Path, connections: usize, time: Duration) -> Result<f64> {
    let mut request = Vec::new();
    Request { map: b"lmtp", key: b"jane.doe@example.org" }.encode_into(&mut request);
    let streams: Vec<UnixStream> =
        (0..connections).map(|_| UnixStream::connect(path)).collect::<std::io::Result<_>>()?;
    let began = Instant::now();
    let end = began + time;
    let clients = streams.into_iter().map(|mut stream| {
        let request = request.clone();
        std::thread::Builder::new().stack_size(64 * 1024).spawn(move || -> Result<u64> {
            let mut buf = [0; 1024];
            let mut count = 0;
            // The clock is not read for each: it is not what is measured.
            while Instant::now() < end {
                for _ in 0..16 {
                    stream.write_all(&request)?;
                    let n = stream.read(&mut buf)?;
                    if buf[..n].last() != Some(&b',') {
                        return Err("not one whole reply".into());
                    }
                    count += 1;
                }
            }
            Ok(count)
        })
    });
    let clients: Vec<_> = clients.collect::<std::io::Result<_>>()?;
    let mut count = 0;
    for client in clients {
        count += client.join().map_err(|_| "a client panicked")??;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
