//! Clients of a server at a unix socket. Each connection is a thread that sends a request, waits in poll(2)
//! and then reads, like each process of Postfix (`read_wait`, `src/util/read_wait.c`).

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::list::{self, Random};
use crate::{Done, ensure, sandbox};

/// The length of a slice.
const SLICE: Duration = Duration::from_millis(300);

/// Number of users looked up. More would only slow the clients down.
const ASKED: usize = 50_000;

/// Requests of the clients, for one user after another.
pub struct Questions {
    /// Bytes sent once at the beginning, which are answered as well; may be empty.
    greeting: &'static [u8],
    /// A request, with the position of the user's name, which is filled in for each: prepared requests
    /// would push the server's data out of the caches.
    request: Vec<u8>,
    names_at: Vec<usize>,
    users: Vec<String>,
    is_answer: fn(&[u8]) -> bool,
}

/// Results of one slice.
pub struct Slice {
    pub requests: u64,
    pub seconds: f64,
}

/// Waits until a server accepts connections.
pub fn connect(socket: &str) -> Done<UnixStream> {
    sandbox::poll(&format!("{socket} to be served"), 30, || Ok(Some(UnixStream::connect(socket)?)))
}

impl Questions {
    /// `request` makes the bytes of a request for a user; all names have the same length. `is_answer`
    /// recognises the complete right answer to any of them.
    pub fn new(
        greeting: &'static [u8],
        request: impl FnOnce(&str) -> Vec<u8>,
        is_answer: fn(&[u8]) -> bool,
    ) -> Arc<Self> {
        let mut random = Random(3);
        let users: Vec<_> = (0..ASKED).map(|_| list::name(random.user())).collect();
        let name = &users[0];
        let request = request(name);
        let is_name = |at: &usize| request[*at..].starts_with(name.as_bytes());
        let names_at = (0..request.len()).filter(is_name).collect();
        Arc::new(Self { greeting, request, names_at, users, is_answer })
    }

    fn begin(&self, socket: &str) -> Done<UnixStream> {
        let mut stream = UnixStream::connect(socket)?;
        if !self.greeting.is_empty() {
            stream.write_all(self.greeting)?;
            let answered = stream.read(&mut [0; 1024])?;
            ensure!(answered > 0, "{socket}: closed at the greeting");
        }
        Ok(stream)
    }

    /// Sends `count` random requests over one connection.
    fn ask(&self, stream: &mut UnixStream, random: &mut Random, count: usize) -> Done {
        let mut request = self.request.clone();
        let mut buf = [0; 1024];
        for _ in 0..count {
            let name = self.users[random.below(ASKED)].as_bytes();
            for at in &self.names_at {
                request[*at..*at + name.len()].copy_from_slice(name);
            }
            stream.write_all(&request)?;
            let mut waiting = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
            poll(&mut waiting, PollTimeout::NONE)?;
            let n = stream.read(&mut buf)?;
            let answer = buf.get(..n).unwrap_or_default();
            ensure!((self.is_answer)(answer), "not the answer: {}", answer.escape_ascii());
        }
        Ok(())
    }
}

/// Round trips over this number of connections.
pub fn slice(socket: &str, connections: usize, questions: &Arc<Questions>) -> Done<Slice> {
    let ready = Arc::new(Barrier::new(connections + 1));
    let mut clients = Vec::new();
    for number in 0..connections {
        let mut stream = questions.begin(socket)?;
        let (ready, questions) = (ready.clone(), questions.clone());
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        clients.push(thread.spawn(move || -> Done<u64> {
            let mut random = Random(number as u64 + 1);
            // The first answer arrives when the server has accepted the connection.
            let first = questions.ask(&mut stream, &mut random, 1);
            ready.wait();
            first?;
            let end = Instant::now() + SLICE;
            let mut count = 0;
            // The clock is not read for each request, since reading it is not measured.
            while Instant::now() < end {
                questions.ask(&mut stream, &mut random, 16)?;
                count += 16;
            }
            Ok(count)
        })?);
    }
    ready.wait();
    let began = Instant::now();
    let mut count = 0;
    for client in clients {
        count += client.join().map_err(|_| "a client panicked")??;
    }
    Ok(Slice { requests: count, seconds: began.elapsed().as_secs_f64() })
}

/// Connections that stay open after one request each.
pub fn busy(
    socket: &str,
    connections: usize,
    each: usize,
    questions: &Arc<Questions>,
) -> Done<Vec<UnixStream>> {
    let mut clients = Vec::new();
    for number in 0..connections {
        let mut stream = questions.begin(socket)?;
        let questions = questions.clone();
        clients.push(std::thread::spawn(move || -> Done<UnixStream> {
            questions.ask(&mut stream, &mut Random(number as u64 + 1), each)?;
            Ok(stream)
        }));
    }
    clients.into_iter().map(|client| client.join().map_err(|_| "a client panicked")?).collect()
}
