//! The server as mail servers meet it: bytes in, bytes out, over real sockets.

mod protocols;

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

use super::*;
use crate::wire::endpoint::ListenOptions;
use crate::wire::netstring::Decoder;
use crate::wire::socketmap::{REPLY_LIMIT, Request};

/// Answers by map: what the tests need of a router.
#[derive(Default)]
struct Toy {
    asked: AtomicUsize,
    finished: AtomicUsize,
    waiting: Notify,
    go: Notify,
}

impl Answer for Toy {
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

    /// By the domain of the recipient: `no`, or one of the maps above.
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

/// The next reply; `None` at the end of the stream.
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

/// Asks as Postfix does: one request, one reply.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), map: &str, key: &str) -> Reply {
    stream.write_all(&request(map, key)).await.unwrap();
    let mut frames = Decoder::new(REPLY_LIMIT);
    let reply = reply(stream, &mut frames).await.expect("a reply");
    assert!(frames.is_empty(), "more than one reply");
    reply
}

/// Everything the server sends until it closes.
async fn replies(stream: &mut (impl AsyncRead + Unpin)) -> Vec<Reply> {
    let mut frames = Decoder::new(REPLY_LIMIT);
    let mut all = Vec::new();
    while let Some(reply) = reply(stream, &mut frames).await {
        all.push(reply);
    }
    all
}

/// One connection without a listener.
struct Line {
    client: UnixStream,
    toy: Arc<Toy>,
    stop: watch::Sender<bool>,
    shared: Arc<Shared<Toy>>,
}

fn line(limits: Limits) -> Line {
    line_for(limits, Protocols::ALL)
}

fn line_for(limits: Limits, protocols: Protocols) -> Line {
    let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    client.set_nonblocking(true).unwrap();
    let client = UnixStream::from_std(client).unwrap();
    let toy = Arc::new(Toy::default());
    let shared = Shared { answer: toy.clone(), limits, connections: Arc::default() };
    let (shared, stop) = (Arc::new(shared), watch::Sender::new(false));
    let open = Open::new(Stream::Unix(server));
    connection::spawn(&shared, open, protocols, None, stop.subscribe()).unwrap();
    Line { client, toy, stop, shared }
}

impl Line {
    /// Until the connection's thread is done.
    async fn end(&self) {
        self.stop.closed().await;
    }

    /// As the server does it.
    fn stop(&self) {
        self.stop.send_replace(true);
        self.shared.connections.end_input();
    }
}

/// A limit that a test means to reach.
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_slow_answer_becomes_temp_and_is_never_sent_twice() {
    let mut line = line(Limits { request: SHORT, ..Limits::default() });
    // Its permission to answer waits here, and is taken by the next who asks.
    let slow = ask(&mut line.client, "gate", "1").await;
    assert_eq!(slow, Reply::Temp("no answer within 0.05 s".into()));
    line.toy.go.notify_one();
    assert_eq!(ask(&mut line.client, "echo", "next").await, ok("next"));
    assert_eq!(ask(&mut line.client, "gate", "2").await, ok("gate 2"));
    let never = ask(&mut line.client, "never", "").await;
    assert_eq!(never, Reply::Temp("no answer within 0.05 s".into()));
    assert_eq!(line.toy.finished.load(Ordering::SeqCst), 1);
    line.client.shutdown().await.unwrap();
    assert_eq!(replies(&mut line.client).await, []);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_none_waits_for_a_later_one() {
    let mut line = line(Limits::default());
    let questions =
        [request("echo", "1"), request("gate", "2"), request("none", "3"), request("echo", "4")];
    line.client.write_all(&questions.concat()).await.unwrap();
    let mut frames = Decoder::new(REPLY_LIMIT);
    assert_eq!(reply(&mut line.client, &mut frames).await, Some(ok("1")));
    line.toy.waiting.notified().await;
    line.toy.go.notify_one();
    assert_eq!(reply(&mut line.client, &mut frames).await, Some(ok("gate 2")));
    assert_eq!(reply(&mut line.client, &mut frames).await, Some(Reply::NotFound));
    assert_eq!(reply(&mut line.client, &mut frames).await, Some(ok("4")));
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_answered_once() {
    let mut line = line(Limits::default());
    for byte in request("echo", "a b") {
        line.client.write_all(&[byte]).await.unwrap();
        yield_now().await;
    }
    assert_eq!(reply(&mut line.client, &mut Decoder::new(100)).await, Some(ok("a b")));
    assert_eq!(line.toy.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_panicking_answer_is_temporary_and_the_connection_lives() {
    let mut line = line(Limits::default());
    let bug = Reply::Temp("a bug in murder-route, see its log".into());
    assert_eq!(ask(&mut line.client, "panic", "at once").await, bug);
    assert_eq!(ask(&mut line.client, "late-panic", "").await, bug);
    assert_eq!(ask(&mut line.client, "no-such-map", "").await, bug);
    assert_eq!(ask(&mut line.client, "late", "alive").await, ok("late alive"));
}

#[tokio::test]
async fn a_framing_error_gets_one_answer_and_a_close() {
    for (garbage, why) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "byte 0x47 in the length"),
        (b"6:echo abc1:a,", "byte 0x62 where"),
        (b"010:", "leading zero"),
        (b"1000001:", "more than 1000000 bytes"),
    ] {
        let mut line = line(Limits { write: SHORT, ..Limits::default() });
        let all = [&request("echo", "before"), garbage, &request("echo", "after")].concat();
        line.client.write_all(&all).await.unwrap();
        let replies = replies(&mut line.client).await;
        let [first, Reply::Temp(text)] = replies.as_slice() else { panic!("{replies:?}") };
        assert_eq!(first, &ok("before"));
        assert!(text.starts_with("protocol error: ") && text.contains(why), "{text}");
        assert_eq!(line.toy.asked.load(Ordering::SeqCst), 1);
        // The client keeps its side open: the server must not wait for it for ever.
        line.end().await;
    }
}

#[tokio::test]
async fn a_map_that_is_not_text_is_temporary() {
    let mut line = line(Limits::default());
    line.client.write_all(b"3:\xff a,").await.unwrap();
    let reply = reply(&mut line.client, &mut Decoder::new(100)).await;
    assert_eq!(reply, Some(Reply::Temp("the name of the map is not UTF-8".into())));
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_answers() {
    let mut line = line(Limits::default());
    line.client.write_all(&[request("gate", "1"), request("echo", "2")].concat()).await.unwrap();
    line.client.shutdown().await.unwrap();
    line.toy.waiting.notified().await;
    line.toy.go.notify_one();
    assert_eq!(replies(&mut line.client).await, [ok("gate 1"), ok("2")]);
    line.end().await;
}

#[tokio::test]
async fn half_a_request_at_the_end_is_not_answered() {
    let mut line = line(Limits::default());
    line.client.write_all(b"6:echo ").await.unwrap();
    line.client.shutdown().await.unwrap();
    assert_eq!(replies(&mut line.client).await, []);
    assert_eq!(line.toy.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let mut line = line(Limits { write: SHORT, ..Limits::default() });
    // More answers than a socket takes; the client holds its end all the time.
    line.client.write_all(&request("large", "").repeat(100)).await.unwrap();
    line.end().await;
    // Nor are answers piled up for it.
    assert!(line.toy.asked.load(Ordering::SeqCst) < 50);
}

#[tokio::test]
async fn stopping_lets_an_answer_in_flight_out_and_closes_idle_connections() {
    let mut idle = line(Limits::default());
    assert_eq!(ask(&mut idle.client, "echo", "idle").await, ok("idle"));
    idle.stop();
    assert_eq!(replies(&mut idle.client).await, []);

    let mut busy = line(Limits::default());
    busy.client.write_all(&request("gate", "busy")).await.unwrap();
    busy.toy.waiting.notified().await;
    busy.stop();
    busy.toy.go.notify_one();
    assert_eq!(replies(&mut busy.client).await, [ok("gate busy")]);
}

#[tokio::test]
async fn a_client_that_always_has_a_next_request_does_not_hold_up_the_end() {
    let mut line = line(Limits::default());
    let requests = [request("gate", ""), request("echo", "x").repeat(2_000)].concat();
    line.client.write_all(&requests).await.unwrap();
    line.toy.waiting.notified().await;
    line.stop();
    line.toy.go.notify_one();
    line.end().await;
    let asked = line.toy.asked.load(Ordering::SeqCst);
    // What had been read is answered, and no more is read.
    let mut bytes = Vec::new();
    let _ = line.client.read_to_end(&mut bytes).await;
    assert_eq!(bytes.iter().filter(|&&b| b == b',').count(), asked);
    assert!((1..1_000).contains(&asked), "{asked}");
}

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

#[tokio::test]
async fn an_idle_connection_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { request: SHORT, write: SHORT, drain: SHORT, ..Limits::default() };
    let mut server = Server::new(Arc::new(Toy::default()), limits).unwrap();
    server.reconcile(&[unix(&path)]).await.unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut stream, "echo", "1").await, ok("1"));
    // Idle for much longer than any limit there is.
    sleep(SHORT * 6).await;
    assert_eq!(ask(&mut stream, "echo", "2").await, ok("2"));
}

#[tokio::test]
async fn the_connection_limit_makes_others_wait_and_not_fail() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { connections: 2, ..Limits::default() };
    let mut server = Server::new(Arc::new(Toy::default()), limits).unwrap();
    server.reconcile(&[unix(&path)]).await.unwrap();
    let mut first = UnixStream::connect(&path).await.unwrap();
    let mut second = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut first, "echo", "1").await, ok("1"));
    assert_eq!(ask(&mut second, "echo", "2").await, ok("2"));
    let mut third = UnixStream::connect(&path).await.unwrap();
    third.write_all(&request("echo", "3")).await.unwrap();
    // The server had every chance to answer: it served another client after the third had asked.
    assert_eq!(ask(&mut first, "echo", "1").await, ok("1"));
    let mut byte = [0];
    let pending = std::future::poll_fn(|context| {
        let mut buf = tokio::io::ReadBuf::new(&mut byte);
        Poll::Ready(std::pin::Pin::new(&mut third).poll_read(context, &mut buf).is_pending())
    });
    assert!(pending.await);
    drop(first);
    assert_eq!(reply(&mut third, &mut Decoder::new(100)).await, Some(ok("3")));
}

#[tokio::test]
async fn connections_that_never_ask_give_way_when_the_socket_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { connections: 4, ..Limits::default() };
    let server = server_with(limits, &[&path]).await;
    let mut asked = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut asked, "echo", "1").await, ok("1"));
    let mut idle = Vec::new();
    for n in 0..20 {
        idle.push(UnixStream::connect(&path).await.unwrap());
        // A byte is no request.
        idle[n].write_all(b"1").await.unwrap();
        assert!(asks(&path).await, "{n}");
    }
    assert_eq!(ask(&mut asked, "echo", "2").await, ok("2"), "who asked keeps the connection");
    // The oldest were closed, without a word.
    assert_eq!(replies(&mut idle[0]).await, []);
    while server.connections().count() > 4 {
        yield_now().await;
    }
}

/// In the queues of sockets that a reload replaces and removes, and of a server that ends.
#[tokio::test]
async fn who_is_in_the_queue_of_a_socket_that_is_closed_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let [kept, gone] = ["kept", "gone"].map(|name| dir.path().join(name));
    let mut server = server(&[&kept, &gone]).await;
    // Nobody accepts before this task waits for something.
    let queue = |path: &Path| -> Vec<_> {
        let connect = |n: usize| {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            std::io::Write::write_all(&mut stream, &request("echo", &n.to_string())).unwrap();
            stream.set_nonblocking(true).unwrap();
            UnixStream::from_std(stream).unwrap()
        };
        (0..50).map(connect).collect()
    };
    async fn all_are_answered(queue: Vec<UnixStream>) {
        for (n, mut stream) in queue.into_iter().enumerate() {
            assert_eq!(reply(&mut stream, &mut Decoder::new(100)).await, Some(ok(&n.to_string())));
        }
    }
    let (replaced, removed) = (queue(&kept), queue(&gone));
    server.reconcile(&[with_mode(&kept, 0o600)]).await.unwrap();
    all_are_answered(replaced).await;
    all_are_answered(removed).await;
    let last = queue(&kept);
    let mut ended = JoinSet::new();
    ended.spawn(server.shutdown());
    all_are_answered(last).await;
    ended.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn limit_of_connections_fits_the_descriptors_and_the_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    let limits = Limits { descriptors: Some(1024), ..Limits::default() };
    let mut server = server_with(limits, &[&one]).await;
    let limit = |server: &Server<Toy>| server.open[0].1[0].room.limit();
    assert_eq!(limit(&server), 506);
    server.reconcile(&[unix(&one), unix(&two)]).await.unwrap();
    assert_eq!(limit(&server), 250);
    // A socket that is replaced goes on counting its connections.
    let mut living = UnixStream::connect(&one).await.unwrap();
    assert_eq!(ask(&mut living, "echo", "1").await, ok("1"));
    let room = Arc::clone(&server.open[0].1[0].room);
    server.reconcile(&[with_mode(&one, 0o600)]).await.unwrap();
    assert!(Arc::ptr_eq(&room, &server.open[0].1[0].room));
    assert_eq!(limit(&server), 506);
}

#[tokio::test]
async fn a_tcp_client_that_sends_a_flood_of_garbage_still_reads_why() {
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let listen = Listen::at("inet:127.0.0.1:0".parse().unwrap());
    server.reconcile(std::slice::from_ref(&listen)).await.unwrap();
    let [Endpoint::Inet { host, port }] = &server.endpoints()[..] else { panic!() };
    let address = (host.as_str(), *port);
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut stream, "echo", "tcp").await, ok("tcp"));
    stream.write_all(&[b'x'; 200_000]).await.unwrap();
    let replies = replies(&mut stream).await;
    assert!(matches!(&replies[..], [Reply::Temp(why)] if why.contains("0x78")), "{replies:?}");
    // Rights mean nothing here: a reload that changes them must not bind the port again.
    let listen =
        Listen { options: ListenOptions { mode: Some(0), ..Default::default() }, ..listen };
    let before = server.endpoints();
    server.reconcile(&[listen]).await.unwrap();
    assert_eq!(server.endpoints(), before);
    server.shutdown().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_the_new_one_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = fs::symlink_metadata(&path).unwrap().ino();
    let server = server(&[&path]).await;
    assert_ne!(fs::symlink_metadata(&path).unwrap().ino(), stale);
    assert!(asks(&path).await);
    assert_eq!(names(dir.path()), std::slice::from_ref(&path));
    server.shutdown().await;
    assert_eq!(names(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_live_socket_is_not_taken_from_its_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = server(&[&path]).await;
    let mut second = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let error = second.reconcile(&[unix(&path)]).await.unwrap_err().to_string();
    let endpoint = format!("unix:{}", path.display());
    assert_eq!(
        error,
        format!("cannot listen at {endpoint}: another program answers there: stop it first")
    );
    drop(second);
    assert!(asks(&path).await);
    assert_eq!(names(dir.path()), [path]);
    drop(first);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mailboxes.db");
    fs::write(&path, "precious").unwrap();
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let error = server.reconcile(&[unix(&path)]).await.unwrap_err().to_string();
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_socket_that_is_no_longer_ours_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server(&[&path]).await;
    fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    server.shutdown().await;
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(other);
}

#[tokio::test]
async fn what_is_wrong_with_a_socket_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let no_user = ListenOptions { owner: Some("no-such-user".into()), ..Default::default() };
    let no_group = ListenOptions { group: Some("no-such-group".into()), ..Default::default() };
    for (path, options, why) in [
        (dir.path().join("none/s"), ListenOptions::default(), "cannot write in the directory"),
        (dir.path().join("x".repeat(120)), ListenOptions::default(), "longer than 107 bytes"),
        (dir.path().join("s"), no_user, "there is no user `no-such-user`"),
        (dir.path().join("s"), no_group, "there is no group `no-such-group`"),
    ] {
        let listen = Listen { options, ..unix(&path) };
        let error = server.reconcile(&[listen]).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(names(dir.path()), Vec::<PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_never_meets_a_socket_with_the_wrong_rights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    // Root may give it away; others can only name themselves.
    let root = nix::unistd::geteuid().is_root();
    let owner = if root { 12_345 } else { nix::unistd::geteuid().as_raw() };
    let group = if root { 54_321 } else { nix::unistd::getegid().as_raw() };
    let options = ListenOptions {
        owner: Some(owner.to_string()),
        group: Some(group.to_string()),
        mode: Some(0o666),
    };
    let watched = path.clone();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let watcher = std::thread::spawn(move || {
        let mut seen = HashSet::new();
        while finished.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            for entry in fs::read_dir(watched.parent().unwrap()).unwrap().flatten() {
                // Where it is made ready, nobody else gets in.
                if let Ok(meta) = entry.metadata()
                    && meta.is_dir()
                {
                    assert_eq!(meta.permissions().mode() & 0o777, 0o700);
                }
            }
            if let Ok(meta) = fs::symlink_metadata(&watched) {
                seen.insert((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()));
            }
        }
        seen
    });
    // No umask that a shell would set leaves 0666.
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let listen = Listen { options, ..unix(&path) };
    for _ in 0..100 {
        server.reconcile(std::slice::from_ref(&listen)).await.unwrap();
        assert!(fs::symlink_metadata(&path).is_ok());
        server.reconcile(&[]).await.unwrap();
    }
    server.reconcile(&[listen]).await.unwrap();
    let meta = fs::symlink_metadata(&path).unwrap();
    drop(done);
    let right = (0o666, owner, group);
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()), right);
    let seen = watcher.join().unwrap();
    assert!(seen.iter().all(|seen| *seen == right), "{seen:?}");
}

#[tokio::test]
async fn a_reload_opens_closes_and_keeps_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let [kept, gone, new] = ["kept", "gone", "new"].map(|name| dir.path().join(name));
    let inode = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
    let mut server = server(&[&kept, &gone]).await;
    let before = inode(&kept);
    let mut living = UnixStream::connect(&gone).await.unwrap();
    assert_eq!(ask(&mut living, "echo", "1").await, ok("1"));

    server.reconcile(&[unix(&new), unix(&kept), unix(&kept)]).await.unwrap();
    assert!(asks(&new).await && asks(&kept).await && !asks(&gone).await);
    assert_eq!(inode(&kept), before);
    assert!(!gone.exists());
    assert_eq!(ask(&mut living, "echo", "2").await, ok("2"));

    // Other rights: replaced although it answers, for it is our own.
    server.reconcile(&[unix(&new), with_mode(&kept, 0o600)]).await.unwrap();
    assert_ne!(inode(&kept), before);
    assert_eq!(fs::symlink_metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(asks(&kept).await);

    // Removed behind our back, as cleaners of temporary directories do.
    fs::remove_file(&new).unwrap();
    server.reconcile(&[unix(&new), with_mode(&kept, 0o600)]).await.unwrap();
    assert!(asks(&new).await);
    assert_eq!(server.endpoints().len(), 2);
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, bad] = ["old", "new", "none/bad"].map(|name| dir.path().join(name));
    let mut server = server(&[&old]).await;
    let wanted = [unix(&new), with_mode(&old, 0o600), unix(&bad)];
    server.reconcile(&wanted).await.unwrap_err();
    assert!(asks(&old).await && !new.exists());
    assert_eq!(server.endpoints(), [unix(&old).endpoint]);
    server.shutdown().await;
    assert_eq!(names(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_reload_that_fails_when_some_sockets_have_changed_places_loses_none() {
    // Also root meets these: the name has become a directory's, or its directory went away.
    let becomes_a_directory = |path: &Path| {
        let _ = fs::remove_file(path);
        fs::create_dir(path).unwrap();
    };
    let goes_away = |path: &Path| {
        let directory = path.parent().unwrap();
        fs::rename(directory, directory.with_extension("away")).unwrap();
    };
    type Mishap<'a> = &'a dyn Fn(&Path);
    let mishaps: [(&str, Mishap<'_>); 3] =
        [("old", &becomes_a_directory), ("new", &becomes_a_directory), ("new", &goes_away)];
    for (which, mishap) in mishaps {
        let dir = tempfile::tempdir().unwrap();
        let [old, first, last, own] = ["old", "first", "last", "own"].map(|n| dir.path().join(n));
        fs::create_dir(&own).unwrap();
        let bad = if which == "old" { old.clone() } else { own.join("new") };
        let mut server = server(&[&old, &first, &last]).await;
        let there = |path: &Path| fs::symlink_metadata(path).map(|m| (m.ino(), m.mode())).ok();
        let before = [&first, &last].map(|path| there(path));
        let added = dir.path().join("added");
        let wanted = [
            with_mode(&first, 0o600),
            unix(&added),
            with_mode(&bad, 0o600),
            with_mode(&last, 0o600),
            Listen::at("inet:127.0.0.1:0".parse().unwrap()),
        ];
        let listens = one_for_each_place(&wanted);
        let opened = server.open_missing(&listens).await.unwrap();
        mishap(&bad);
        let error = server.take_over(&listens, opened).await.unwrap_err();
        assert_eq!(error.endpoint, Endpoint::Unix(bad.clone()));
        assert!(error.why.starts_with("cannot "), "{error}");

        assert_eq!([&first, &last].map(|path| there(path)), before, "{error}");
        assert!(asks(&first).await && asks(&last).await, "{error}");
        assert!(!added.exists(), "{error}");
        assert_eq!(server.endpoints(), [&old, &first, &last].map(|path| unix(path).endpoint));
        let left = names(dir.path());
        assert!(!left.iter().any(|name| name.to_str().unwrap().contains("/.mr")), "{left:?}");

        let _ = fs::remove_dir(&bad);
        fs::create_dir_all(&own).unwrap();
        server.reconcile(&wanted).await.unwrap();
        for path in [&first, &added, &bad, &last] {
            assert!(asks(path).await, "{error}, afterwards: {}", path.display());
        }
        assert_eq!(there(&first).unwrap().1 & 0o777, 0o600);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_socket_that_is_named_by_another_name_of_its_directory_is_not_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let [run, var_run] = ["run", "var-run"].map(|name| dir.path().join(name));
    fs::create_dir(&run).unwrap();
    std::os::unix::fs::symlink(&run, &var_run).unwrap();
    let mut server = server(&[&run.join("s")]).await;
    server.reconcile(&[unix(&var_run.join("s"))]).await.unwrap();
    assert!(asks(&run.join("s")).await);
    // Both at once: not one in the other's place, with the other waiting for nobody.
    for _ in 0..2 {
        server.reconcile(&[unix(&run.join("s")), unix(&var_run.join("s"))]).await.unwrap();
        assert!(asks(&run.join("s")).await);
        assert_eq!(server.endpoints(), [unix(&run.join("s")).endpoint]);
    }
    server.shutdown().await;
    assert_eq!(names(&run), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_port_that_we_have_ourselves_is_not_taken_for_another_programs() {
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    server.reconcile(&[Listen::at("inet:127.0.0.1:0".parse().unwrap())]).await.unwrap();
    let [Endpoint::Inet { host, port }] = &server.endpoints()[..] else { panic!() };
    let wanted = Listen::at(format!("inet:0.0.0.0:{port}").parse().unwrap());
    let error = server.reconcile(&[wanted]).await.unwrap_err().to_string();
    assert!(
        error.contains("this daemon itself has the port") && error.contains("restart"),
        "{error}"
    );
    let mut stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
    assert_eq!(ask(&mut stream, "echo", "x").await, ok("x"));
}

#[tokio::test]
async fn shutdown_waits_for_answers_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server(&[&path]).await;
    let toy = server.shared.answer.clone();
    let mut busy = UnixStream::connect(&path).await.unwrap();
    busy.write_all(&request("gate", "busy")).await.unwrap();
    toy.waiting.notified().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(server.shutdown());
    while path.exists() {
        yield_now().await;
    }
    assert!(tasks.try_join_next().is_none());
    toy.go.notify_one();
    assert_eq!(replies(&mut busy).await, [ok("gate busy")]);
    tasks.join_next().await.unwrap().unwrap();
}

/// A client whose connection was accepted, that has asked nothing yet.
async fn accepted(server: &Server<Toy>, path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).await.unwrap();
    while server.connections().count() == 0 {
        yield_now().await;
    }
    client
}

#[tokio::test]
async fn who_was_accepted_just_before_the_end_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { first_question: Duration::from_secs(60), ..Limits::default() };
    let server = server_with(limits, &[&path]).await;
    let mut late = accepted(&server, &path).await;
    let mut stopped = JoinSet::new();
    stopped.spawn(server.shutdown());
    while path.exists() {
        yield_now().await;
    }
    assert_eq!(ask(&mut late, "echo", "late").await, ok("late"));
    // It is not waited for a second question, nor for the time to be over.
    assert_eq!(replies(&mut late).await, []);
    stopped.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn who_connects_and_never_asks_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server_with(Limits { first_question: SHORT, ..Limits::default() }, &[&path]).await;
    let mut silent = accepted(&server, &path).await;
    server.shutdown().await;
    assert_eq!(replies(&mut silent).await, []);
}

#[tokio::test]
async fn a_server_that_is_dropped_leaves_no_connection_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server(&[&path]).await;
    let mut idle = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut idle, "echo", "1").await, ok("1"));
    drop(server);
    assert_eq!(replies(&mut idle).await, []);
    assert!(!path.exists());
}

/// Runs one test of this file again in a child, under `sh -c script`, with `$0` as the program and
/// `$@` as its arguments. Tells whether we are that child.
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

#[test]
fn running_out_of_file_descriptors_does_not_end_the_listener() {
    let name = "running_out_of_file_descriptors_does_not_end_the_listener";
    // The limit is the process's: other tests must not run into it.
    if let Some(child) = in_child(name, "ulimit -n 64; exec \"$0\" \"$@\"", Stdio::null()) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = server(&[&path]).await;
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let mut hoard = Vec::new();
        let error = loop {
            match fs::File::open("/dev/null") {
                Ok(file) => hoard.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        // Only now does the listener's task run: this client is in the queue and none can be
        // accepted.
        sleep(Duration::from_millis(250)).await;
        hoard.clear();
        std::io::Write::write_all(&mut stream, &request("echo", "at last")).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = UnixStream::from_std(stream).unwrap();
        assert_eq!(reply(&mut stream, &mut Decoder::new(100)).await, Some(ok("at last")));
    });
}

#[test]
fn a_blocking_socket_from_systemd_is_served_under_its_name() {
    let name = "a_blocking_socket_from_systemd_is_served_under_its_name";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let script = "exec 3<&0 </dev/null; \
        export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=mail; exec \"$0\" \"$@\"";
    if let Some(child) = in_child(name, script, Stdio::from(OwnedFd::from(listener))) {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(&request("gate", "x")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        read.unwrap();
        assert_eq!(text, "9:OK gate x,");
        assert!(path.exists(), "the socket is systemd's");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let name = nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(3).unwrap();
        let path = name.path().unwrap().to_owned();
        let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
        let systemd = |name: &str| Listen::at(Endpoint::Systemd(name.to_owned()));
        let error = server.reconcile(&[systemd("web")]).await.unwrap_err().to_string();
        assert!(error.contains("no socket of the name") && error.ends_with("mail"), "{error}");
        let error = server.reconcile(&[unix(&path)]).await.unwrap_err().to_string();
        assert!(error.contains("systemd opened it for us: write systemd:mail"), "{error}");
        // Closed and opened again, as by two reloads.
        for wanted in [&[systemd("mail")][..], &[], &[systemd("mail")]] {
            server.reconcile(wanted).await.unwrap();
        }
        server.shared.answer.go.notify_one();
        server.shared.answer.waiting.notified().await;
        server.shutdown().await;
    });
}
