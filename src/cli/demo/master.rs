//! A MUPDATE master in this process: the part of RFC 3656 that the daemon uses.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::model::name::MailboxName;
use crate::model::record::{Record, State};

/// Maximum number of bytes read on one connection.
const MAX_SESSION: u64 = 1 << 20;

const BANNER: &str = "* AUTH \"PLAIN\"\r\n* OK MUPDATE \"mupdate.example.org\" \"Cyrus IMAP\" \
                      \"3.6.1\" \"(master)\"\r\n";

/// The list, by name, and every name that changed, in order.
#[derive(Default)]
struct Mailboxes {
    records: BTreeMap<String, Record>,
    changed: Vec<String>,
}

/// The demonstration master, with its list. It can be stopped and started again.
pub(super) struct DemoMaster {
    mailboxes: Arc<Mutex<Mailboxes>>,
    /// Notified of each change.
    ticks: watch::Sender<()>,
    pub(super) address: SocketAddr,
    running: Option<JoinSet<()>>,
}

impl DemoMaster {
    /// Starts with this list, at a port chosen by the system.
    pub(super) async fn start(list: Vec<(MailboxName, Record)>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let records = list.into_iter().map(|(name, record)| (name.to_string(), record)).collect();
        let mailboxes = Arc::new(Mutex::new(Mailboxes { records, changed: Vec::new() }));
        let (ticks, _) = watch::channel(());
        let mut master = Self { mailboxes, ticks, address, running: None };
        master.accept(listener);
        Ok(master)
    }

    /// Dies: the connections break, and the port is closed.
    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    /// Listens again, at the same port.
    pub(super) async fn start_again(&mut self) -> io::Result<()> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        let listener = socket.listen(64)?;
        self.accept(listener);
        Ok(())
    }

    /// Sets the state and server of a mailbox.
    pub(super) fn set(&self, name: &str, state: State, server: &str) {
        let mut mailboxes = lock(&self.mailboxes);
        if let Some(record) = mailboxes.records.get_mut(name) {
            record.state = state;
            record.server = Some(server.to_owned());
            mailboxes.changed.push(name.to_owned());
        }
        drop(mailboxes);
        // There may be no connection.
        let _ = self.ticks.send(());
    }

    fn accept(&mut self, listener: TcpListener) {
        let (mailboxes, ticks) = (Arc::clone(&self.mailboxes), self.ticks.clone());
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (mailboxes, ticks) = (Arc::clone(&mailboxes), ticks.subscribe());
                sessions.spawn(async move {
                    // A client may close at any time.
                    let _ = serve(stream, &mailboxes, ticks).await;
                });
            }
        });
        self.running = Some(running);
    }
}

fn lock(mailboxes: &Mutex<Mailboxes>) -> MutexGuard<'_, Mailboxes> {
    mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    stream: TcpStream,
    mailboxes: &Mutex<Mailboxes>,
    mut ticks: watch::Receiver<()>,
) -> io::Result<()> {
    let (input, mut output) = stream.into_split();
    output.write_all(BANNER.as_bytes()).await?;
    let (heard, mut lines) = mpsc::channel(16);
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        let mut input = BufReader::new(input.take(MAX_SESSION)).lines();
        while let Ok(Some(line)) = input.next_line().await {
            if heard.send(line).await.is_err() {
                return;
            }
        }
    });
    // The tag of UPDATE, and the number of reported changes.
    let mut following: Option<(String, usize)> = None;
    loop {
        let said = tokio::select! {
            line = lines.recv() => match line {
                Some(line) => answer(&line, mailboxes, &mut following),
                None => return Ok(()),
            },
            Ok(()) = ticks.changed() => String::new(),
        };
        let mut out = told(mailboxes, &mut following);
        out.push_str(&said);
        output.write_all(out.as_bytes()).await?;
    }
}

/// The changes not reported to a client yet.
fn told(mailboxes: &Mutex<Mailboxes>, following: &mut Option<(String, usize)>) -> String {
    let Some((tag, seen)) = following else { return String::new() };
    let mailboxes = lock(mailboxes);
    let new = mailboxes.changed.get(*seen..).unwrap_or_default();
    let records =
        new.iter().filter_map(|name| Some(record(tag, name, mailboxes.records.get(name)?)));
    let out = records.collect();
    *seen = mailboxes.changed.len();
    out
}

fn answer(
    line: &str,
    mailboxes: &Mutex<Mailboxes>,
    following: &mut Option<(String, usize)>,
) -> String {
    let (tag, command) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
    let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
    let mailboxes = lock(mailboxes);
    match word {
        // Any login succeeds: there is only the demonstration's list.
        "AUTHENTICATE" => format!("{tag} OK \"Authenticated\"\r\n"),
        "UPDATE" => {
            *following = Some((tag.to_owned(), mailboxes.changed.len()));
            let all = mailboxes.records.iter().map(|(name, of)| record(tag, name, of));
            all.chain([format!("{tag} OK \"streaming starts\"\r\n")]).collect()
        }
        "LIST" => {
            let all = mailboxes.records.iter().map(|(name, of)| record(tag, name, of));
            all.chain([format!("{tag} OK \"list complete\"\r\n")]).collect()
        }
        "FIND" => {
            let name = rest.trim_matches('"');
            let found = mailboxes.records.get(name).map(|of| record(tag, name, of));
            format!("{}{tag} OK \"Search completed\"\r\n", found.unwrap_or_default())
        }
        "NOOP" => format!("{tag} OK \"Noop done\"\r\n"),
        "LOGOUT" => format!("{tag} OK \"bye-bye\"\r\n"),
        _ => format!("{tag} BAD \"not known here\"\r\n"),
    }
}

/// A record as Cyrus sends it.
fn record(tag: &str, name: &str, record: &Record) -> String {
    let literal = |text: &str| format!("{{{}+}}\r\n{text}", text.len());
    let server = record.server.as_deref().unwrap_or_default();
    let location = literal(&format!("{server}!{}", record.partition));
    if record.state != State::Active {
        return format!("{tag} RESERVE {} {location}\r\n", literal(name));
    }
    let mut rights = String::new();
    for (right, has) in [('l', record.anonymous.lookup), ('p', record.anonymous.post)] {
        if has {
            rights.push(right);
        }
    }
    let acl = if rights.is_empty() { String::new() } else { format!("anyone\t{rights}\t") };
    format!("{tag} MAILBOX {} {location} {}\r\n", literal(name), literal(&acl))
}
