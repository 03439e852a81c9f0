//! A MUPDATE server in this process: one table, over real connections, that imitates on demand
//! servers in trouble.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::config::MasterAddress;
use crate::mupdate::tests::master::Master as Sasl;

pub(super) const USER: &str = "route";
pub(super) const PASSWORD: &str = "a secret";

/// Kinds of greeting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    Banner,
    /// As a master whose workers are all busy.
    Silent,
    /// As a master with too many connections: a goodbye, followed by a NUL.
    Bye,
    /// An endless banner, line by line.
    Endless,
    /// An endless line.
    GiantLine,
}

/// Settings of its behaviour. May be changed at any time.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) servername: &'static str,
    /// `(master)`, or the address of its master.
    pub(super) role: &'static str,
    pub(super) greeting: Greeting,
    pub(super) mechanisms: &'static str,
    pub(super) tls: Option<TlsAcceptor>,
    /// Number of bytes after which the list is cut off.
    pub(super) cut_list_at: Option<usize>,
    /// Refuses FIND, and only streams.
    pub(super) only_streams: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            servername: "mu.example.org",
            role: "(master)",
            greeting: Greeting::Banner,
            mechanisms: "\"SCRAM-SHA-256\" \"PLAIN\"",
            tls: None,
            cut_list_at: None,
            only_streams: false,
        }
    }
}

/// Records of what it received.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) connections: AtomicU64,
    pub(super) finds: AtomicU64,
    /// Times of UPDATE.
    pub(super) updates: Mutex<Vec<Instant>>,
    /// Lines that came unencrypted.
    pub(super) clear: Mutex<Vec<String>>,
}

struct State {
    ways: Mutex<Ways>,
    table: Mutex<BTreeMap<String, String>>,
    changes: broadcast::Sender<String>,
    /// While it is set, nothing is read or answered.
    hung: watch::Sender<bool>,
    /// While it is set, the result of a FIND is held back.
    late: watch::Sender<bool>,
    /// While it is set, the list stops in the middle.
    paused: watch::Sender<bool>,
    seen: Seen,
}

pub(super) struct Master {
    state: Arc<State>,
    port: u16,
    task: Option<JoinHandle<()>>,
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Location of a name.
pub(super) fn location(server: &str) -> String {
    format!("{server}!default")
}

impl Master {
    /// A master with these names on `be1`.
    pub(super) async fn start(names: impl IntoIterator<Item = String>) -> Self {
        Self::start_with(names, Ways::default()).await
    }

    pub(super) async fn start_with(names: impl IntoIterator<Item = String>, ways: Ways) -> Self {
        let table = names.into_iter().map(|name| (name, location("be1"))).collect();
        let state = Arc::new(State {
            ways: Mutex::new(ways),
            table: Mutex::new(table),
            changes: broadcast::Sender::new(1 << 16),
            hung: watch::Sender::new(false),
            late: watch::Sender::new(false),
            paused: watch::Sender::new(false),
            seen: Seen::default(),
        });
        let mut master = Self { state, port: 0, task: None };
        master.restart().await;
        master
    }

    /// Listens again, at the same port, with the present table.
    pub(super) async fn restart(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        self.task = Some(tokio::spawn(accept(listener, Arc::clone(&self.state))));
    }

    /// Closes all connections and refuses new ones.
    pub(super) async fn kill(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    pub(super) fn address(&self) -> MasterAddress {
        MasterAddress { host: "127.0.0.1".into(), port: self.port }
    }

    pub(super) fn ways(&self) -> MutexGuard<'_, Ways> {
        self.state.ways.lock().unwrap()
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.state.seen
    }

    pub(super) fn updates(&self) -> usize {
        self.state.seen.updates.lock().unwrap().len()
    }

    pub(super) fn hang(&self, hung: bool) {
        self.state.hung.send_replace(hung);
    }

    pub(super) fn hold_answers(&self, held: bool) {
        self.state.late.send_replace(held);
    }

    pub(super) fn pause_lists(&self, paused: bool) {
        self.state.paused.send_replace(paused);
    }

    /// Gives a name a server, and tells the followers.
    pub(super) fn put(&self, name: &str, server: &str) {
        let mut table = self.state.table.lock().unwrap();
        table.insert(name.into(), location(server));
        // There may be no receiver.
        let _ = self.state.changes.send(record("U1", name, &location(server)));
    }

    pub(super) fn delete(&self, name: &str) {
        let mut table = self.state.table.lock().unwrap();
        table.remove(name);
        let _ = self.state.changes.send(format!("U1 DELETE {}\r\n", literal(name)));
    }

    /// Loses all names for which `keep` is false, without telling the followers.
    pub(super) fn lose(&self, keep: impl Fn(&str) -> bool) {
        self.state.table.lock().unwrap().retain(|name, _| keep(name));
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // All connections end with the server.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        state.seen.connections.fetch_add(1, SeqCst);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // The end of a connection is no error here.
            let _ = serve(stream, state).await;
        });
    }
}

/// A string as Cyrus sends it.
fn literal(string: &str) -> String {
    format!("{{{}+}}\r\n{string}", string.len())
}

fn record(tag: &str, name: &str, location: &str) -> String {
    let acl = "anyone\tp\t";
    format!("{tag} MAILBOX {} {} {}\r\n", literal(name), literal(location), literal(acl))
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

struct Peer {
    wire: Box<dyn Wire>,
    input: Vec<u8>,
    state: Arc<State>,
    encrypted: bool,
}

type Ended = std::io::Result<()>;

impl Peer {
    async fn say(&mut self, text: &str) -> Ended {
        self.wire.write_all(text.as_bytes()).await?;
        self.wire.flush().await
    }

    /// The next line, once it is complete. Cancelling the wait loses no data.
    async fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                if !self.encrypted {
                    self.state.seen.clear.lock().unwrap().push(line.clone());
                }
                return Ok(line);
            }
            let mut piece = [0; 4096];
            match self.wire.read(&mut piece).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => self.input.extend_from_slice(&piece[..read]),
            }
        }
    }

    async fn awake(&mut self) {
        let _ = self.state.hung.subscribe().wait_for(|hung| !hung).await;
    }

    async fn banner(&mut self, ways: &Ways) -> Ended {
        let starttls = if ways.tls.is_some() && !self.encrypted { "* STARTTLS\r\n" } else { "" };
        let text = format!(
            "* AUTH {}\r\n{starttls}* PARTIAL-UPDATE\r\n\
             * OK MUPDATE \"{}\" \"Cyrus IMAP\" \"3.6.1\" \"{}\"\r\n",
            ways.mechanisms, ways.servername, ways.role
        );
        self.say(&text).await
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) -> Ended {
    let ways = state.ways.lock().unwrap().clone();
    let mut peer = Peer { wire: Box::new(stream), input: Vec::new(), state, encrypted: false };
    peer.awake().await;
    match ways.greeting {
        Greeting::Banner => peer.banner(&ways).await?,
        Greeting::Silent => return std::future::pending().await,
        Greeting::Bye => return peer.say("* BYE \"Server Unable\"\r\n\0").await,
        Greeting::Endless => loop {
            peer.say("* PARTIAL").await?;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        },
        Greeting::GiantLine => loop {
            peer.say(&"x".repeat(1 << 16)).await?;
        },
    }
    loop {
        let line = peer.line().await?;
        peer.awake().await;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [tag, "STARTTLS"] => {
                let acceptor = ways.tls.clone().unwrap();
                peer.say(&format!("{tag} OK \"Begin TLS negotiation now\"\r\n")).await?;
                assert!(peer.input.is_empty(), "more in the clear than STARTTLS");
                let Peer { wire, input, state, .. } = peer;
                let wire = Box::new(acceptor.accept(wire).await?);
                peer = Peer { wire, input, state, encrypted: true };
                peer.banner(&ways).await?;
            }
            [tag, "AUTHENTICATE", "\"PLAIN\"", initial] => {
                let said = STANDARD.decode(initial.trim_matches('"')).unwrap();
                let right = format!("\0{USER}\0{PASSWORD}").into_bytes();
                let answer = if said == right { "OK" } else { "NO" };
                peer.say(&format!("{tag} {answer} \"so it is\"\r\n")).await?;
            }
            [_, "AUTHENTICATE", ..] => {
                let mut sasl = Sasl::new("", USER, PASSWORD);
                let mut said = sasl.receive(format!("{line}\r\n").as_bytes());
                while !said.starts_with("A1 ") {
                    peer.say(&said).await?;
                    let answer = peer.line().await?;
                    said = sasl.receive(format!("{answer}\r\n").as_bytes());
                }
                peer.say(&said).await?;
            }
            [_, "FIND", _] if ways.only_streams => return Ok(()),
            [tag, "FIND", name] => {
                let name = name.trim_matches('"');
                let found = peer.state.table.lock().unwrap().get(name).cloned();
                peer.state.seen.finds.fetch_add(1, SeqCst);
                let found = found.map(|at| record(tag, name, &at)).unwrap_or_default();
                let mut late = peer.state.late.subscribe();
                let _ = late.wait_for(|late| !late).await;
                peer.say(&format!("{found}{tag} OK \"Search completed\"\r\n")).await?;
            }
            [tag, "NOOP"] => peer.say(&format!("{tag} OK \"Noop done\"\r\n")).await?,
            ["U1", "UPDATE"] => {
                peer.state.seen.updates.lock().unwrap().push(Instant::now());
                return stream_to(peer).await;
            }
            [_, "LOGOUT"] => return peer.say("* BYE \"bye\"\r\n").await,
            _ => panic!("{line}"),
        }
    }
}

async fn stream_to(mut peer: Peer) -> Ended {
    let (mut changes, mut list) = {
        let table = peer.state.table.lock().unwrap();
        let list: Vec<_> = table.iter().map(|(name, at)| record("U1", name, at)).collect();
        (peer.state.changes.subscribe(), list)
    };
    // In an arbitrary order, as that of a master's twoskip with rows of its log.
    let order = RandomState::new();
    list.sort_by_cached_key(|record| order.hash_one(record));
    let list = list.concat();
    let cut = peer.state.ways.lock().unwrap().cut_list_at;
    if let Some(cut) = cut {
        return peer.say(&list[..cut.min(list.len())]).await;
    }
    let (first, rest) = list.split_at(list.len() / 2);
    peer.say(first).await?;
    let mut paused = peer.state.paused.subscribe();
    let _ = paused.wait_for(|paused| !paused).await;
    peer.say(rest).await?;
    peer.say("U1 OK \"streaming starts\"\r\n").await?;
    loop {
        let said = tokio::select! {
            line = peer.line() => {
                let line = line?;
                let Some(tag) = line.strip_suffix(" NOOP") else { return Ok(()) };
                let mut said = String::new();
                while let Ok(change) = changes.try_recv() {
                    said += &change;
                }
                said + &format!("{tag} OK \"Noop done\"\r\n")
            }
            change = changes.recv() => change.unwrap(),
        };
        peer.awake().await;
        peer.say(&said).await?;
    }
}
