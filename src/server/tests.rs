//! The server as mail servers see it: bytes in, bytes out, over real sockets.

mod connections;
mod protocols;
mod sessions;
mod shutdown;
mod sockets;

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use super::stream::{ClientStream, OpenConnection};
use super::*;
use crate::wire::endpoint::ListenOptions;
use crate::wire::netstring::Decoder;
use crate::wire::protocol::Protocols;
use crate::wire::socketmap::{REPLY_LIMIT, Request};

/// A responder that selects its answer by the map.
#[derive(Default)]
struct Toy {
    asked: AtomicUsize,
    finished: AtomicUsize,
    waiting: Notify,
    go: Notify,
}

impl Responder for Toy {
    fn at_once(&self, map: &str, key: &[u8]) -> Option<Reply> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match map {
            "echo" | "lmtp" => Some(Reply::Ok(String::from_utf8_lossy(key).into_owned())),
            "none" => Some(Reply::NotFound),
            "large" => Some(Reply::Ok("x".repeat(90_000))),
            "panic" => panic!("{}", String::from_utf8_lossy(key)),
            _ => None,
        }
    }

    async fn in_time(&self, map: &str, key: &[u8]) -> Reply {
        match map {
            "late" => yield_now().await,
            "never" => std::future::pending().await,
            "gate" => {
                self.waiting.notify_one();
                self.go.notified().await;
            }
            "late-panic" => {
                yield_now().await;
                panic!("late");
            }
            other => panic!("no map {other}"),
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        Reply::Ok(format!("{map} {}", String::from_utf8_lossy(key)))
    }

    /// Selects by the domain of the recipient: `no`, or one of the maps above.
    fn rcpt_at_once(&self, recipient: &[u8]) -> Option<RcptVerdict> {
        match domain(recipient) {
            "no" => Some(RcptVerdict::Reject("5.1.1 100% unknown")),
            map => self.at_once(map, recipient).map(|_| RcptVerdict::Pass),
        }
    }

    async fn rcpt_in_time(&self, recipient: &[u8]) -> RcptVerdict {
        self.in_time(domain(recipient), recipient).await;
        RcptVerdict::Defer("4.3.0 Later")
    }
}

fn domain(recipient: &[u8]) -> &str {
    let at = recipient.iter().rposition(|b| *b == b'@').map_or(0, |at| at + 1);
    std::str::from_utf8(&recipient[at..]).unwrap_or("none")
}

fn request(map: &str, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    Request { map: map.as_bytes(), key: key.as_bytes() }.encode_into(&mut bytes);
    bytes
}

fn ok(data: &str) -> Reply {
    Reply::Ok(data.to_owned())
}

/// Reads the next reply; `None` at the end of the stream.
async fn reply(stream: &mut (impl AsyncRead + Unpin), frames: &mut Decoder) -> Option<Reply> {
    loop {
        if let Some(frame) = frames.next_frame() {
            return Some(Reply::parse(frame.unwrap()));
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await.unwrap() {
            0 => {
                assert!(frames.is_empty(), "the stream ends inside a reply");
                return None;
            }
            n => frames.push(&piece[..n]),
        }
    }
}

/// Sends requests as Postfix does: one request, one reply.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), map: &str, key: &str) -> Reply {
    stream.write_all(&request(map, key)).await.unwrap();
    let mut frames = Decoder::new(REPLY_LIMIT);
    let reply = reply(stream, &mut frames).await.expect("a reply");
    assert!(frames.is_empty(), "more than one reply");
    reply
}

/// Reads everything until the server closes.
async fn replies(stream: &mut (impl AsyncRead + Unpin)) -> Vec<Reply> {
    let mut frames = Decoder::new(REPLY_LIMIT);
    let mut all = Vec::new();
    while let Some(reply) = reply(stream, &mut frames).await {
        all.push(reply);
    }
    all
}

/// One connection without a listener.
struct TestSession {
    client: UnixStream,
    toy: Arc<Toy>,
    stop: watch::Sender<bool>,
    shared: Arc<Shared<Toy>>,
}

fn session(limits: Limits) -> TestSession {
    session_for(limits, Protocols::ALL)
}

fn session_for(limits: Limits, protocols: Protocols) -> TestSession {
    let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    client.set_nonblocking(true).unwrap();
    let client = UnixStream::from_std(client).unwrap();
    let toy = Arc::new(Toy::default());
    let shared = Shared { responder: toy.clone(), limits, connections: Arc::default() };
    let (shared, stop) = (Arc::new(shared), watch::Sender::new(false));
    let open = OpenConnection::new(ClientStream::Unix(server));
    connection::spawn(&shared, open, protocols, None, stop.subscribe()).unwrap();
    TestSession { client, toy, stop, shared }
}

impl TestSession {
    /// Waits for the end of the connection's thread.
    async fn end(&self) {
        self.stop.closed().await;
    }

    /// As the server does.
    fn stop(&self) {
        self.stop.send_replace(true);
        self.shared.connections.end_input();
    }
}

/// A limit that a test is meant to reach.
const SHORT: Duration = Duration::from_millis(50);

/// A server on these unix sockets.
async fn server(paths: &[&Path]) -> Server<Toy> {
    server_with(Limits::default(), paths).await
}

async fn server_with(limits: Limits, paths: &[&Path]) -> Server<Toy> {
    let mut server = Server::new(Arc::new(Toy::default()), limits).unwrap();
    let listens: Vec<_> = paths.iter().map(|path| unix(path)).collect();
    server.reconcile(&listens).await.unwrap();
    server
}

fn unix(path: &Path) -> Listen {
    Listen::at(Endpoint::Unix(path.to_owned()))
}

fn with_mode(path: &Path, mode: u32) -> Listen {
    let options = ListenOptions { mode: Some(mode), ..Default::default() };
    Listen { options, ..unix(path) }
}

async fn asks(path: &Path) -> bool {
    match UnixStream::connect(path).await {
        Ok(mut stream) => ask(&mut stream, "echo", "x").await == ok("x"),
        Err(_) => false,
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Runs one test of this file again in a child, under `sh -c script`, with `$0` as the program
/// and `$@` as its arguments. Returns whether this process is that child.
fn in_child(name: &str, script: &str, stdin: Stdio) -> Option<std::process::Child> {
    const CHILD: &str = "MURDER_ROUTE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("server::tests::{name}"), "--nocapture"])
        .env(CHILD, "1")
        .stdin(stdin)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    Some(command.spawn().unwrap())
}
