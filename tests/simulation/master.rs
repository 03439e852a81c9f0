//! A MUPDATE master like that of Cyrus (`imap/mupdate.c`): a list, and connections that get a
//! banner, answers, and changes. It queues changed names and looks them up when it reports
//! them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::network::Line;
use crate::schedule::{Name, SERVERS, text};

/// Interval at which changes are reported on a stream, unless the client asks (`update_wait`).
const TICK: Duration = Duration::from_secs(5);

/// One record of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// MAILBOX, not RESERVE.
    pub(crate) active: bool,
    /// Index into [`SERVERS`].
    pub(crate) server: usize,
    pub(crate) partition: &'static str,
}

pub(crate) type List = BTreeMap<Name, Entry>;

/// Output of the master.
pub(crate) enum Sent {
    Bytes(Line, Vec<u8>),
    Close(Line),
}

#[derive(Default)]
pub(crate) struct Master {
    pub(crate) list: List,
    pub(crate) up: bool,
    /// Stopped (SIGSTOP): the kernel accepts connections and bytes, which are not read.
    pub(crate) hung: bool,
    /// All connections are taken.
    pub(crate) full: bool,
    /// Number of promotions: part of the servername.
    pub(crate) host: u32,
    lines: BTreeMap<Line, Serving>,
    sent: Vec<Sent>,
}

#[derive(Default)]
struct Serving {
    greeted: bool,
    input: Vec<u8>,
    stream: Option<Streaming>,
}

struct Streaming {
    tag: String,
    changed: Vec<Name>,
    tick: Duration,
}

impl Master {
    /// Creates a process without connections or mailboxes.
    pub(crate) fn start() -> Self {
        Self { up: true, ..Self::default() }
    }

    /// Returns the output since the last call.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// A backend has changed a record.
    pub(crate) fn change(&mut self, name: Name, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.list.insert(name, entry),
            None => self.list.remove(&name),
        };
        for stream in self.lines.values_mut().filter_map(|line| line.stream.as_mut()) {
            stream.changed.push(name);
        }
    }

    /// Ends the process. Returns the connections it had.
    pub(crate) fn die(&mut self) -> Vec<Line> {
        (self.up, self.hung, self.full) = (false, false, false);
        std::mem::take(&mut self.lines).into_keys().collect()
    }

    /// Returns its connections.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        self.lines.keys().copied()
    }

    pub(crate) fn opened(&mut self, line: Line, now: Duration) {
        if self.up {
            self.lines.insert(line, Serving::default());
            self.run(now);
        } else {
            self.sent.push(Sent::Close(line));
        }
    }

    pub(crate) fn received(&mut self, line: Line, bytes: &[u8], now: Duration) {
        if let Some(serving) = self.lines.get_mut(&line) {
            serving.input.extend_from_slice(bytes);
            self.run(now);
        }
    }

    pub(crate) fn closed(&mut self, line: Line) {
        self.lines.remove(&line);
    }

    /// Sends BYE to all clients, as after their idle timeout.
    pub(crate) fn bye(&mut self) {
        for line in std::mem::take(&mut self.lines).into_keys() {
            self.sent.push(Sent::Bytes(line, b"* BYE \"idle for too long\"\r\n".to_vec()));
            self.sent.push(Sent::Close(line));
        }
    }

    /// Time of its next own action.
    pub(crate) fn next(&self) -> Option<Duration> {
        if self.hung {
            return None;
        }
        self.lines.values().filter_map(|line| Some(line.stream.as_ref()?.tick)).min()
    }

    /// Performs the actions that are due.
    pub(crate) fn run(&mut self, now: Duration) {
        if self.hung || !self.up {
            return;
        }
        let mut gone = Vec::new();
        for (line, serving) in &mut self.lines {
            let mut out = Vec::new();
            let mut stays = true;
            if !serving.greeted {
                serving.greeted = true;
                if self.full {
                    out.extend_from_slice(b"* BYE \"Server Unable\"\r\n\0");
                    stays = false;
                } else {
                    banner(self.host, &mut out);
                }
            }
            if let Some(stream) = &mut serving.stream
                && stream.tick <= now
            {
                stream.tick = now + TICK;
                flush(&self.list, stream, &mut out);
            }
            while stays && let Some(end) = serving.input.windows(2).position(|two| two == b"\r\n") {
                let command: Vec<u8> = serving.input.drain(..end + 2).collect();
                let command = String::from_utf8(command).unwrap();
                stays = obey(&self.list, serving, command.trim_end(), now, &mut out);
            }
            if !out.is_empty() {
                self.sent.push(Sent::Bytes(*line, out));
            }
            if !stays {
                self.sent.push(Sent::Close(*line));
                gone.push(*line);
            }
        }
        for line in gone {
            self.lines.remove(&line);
        }
    }
}

fn banner(host: u32, out: &mut Vec<u8>) {
    let lines = format!(
        "* AUTH \"PLAIN\"\r\n* COMPRESS \"DEFLATE\"\r\n* PARTIAL-UPDATE\r\n\
         * OK MUPDATE \"mu{host}.example.org\" \"Cyrus IMAP\" \"3.6.1-Debian\" \"(master)\"\r\n"
    );
    out.extend_from_slice(lines.as_bytes());
}

/// Executes a command. Returns whether the connection stays.
fn obey(
    list: &List,
    serving: &mut Serving,
    command: &str,
    now: Duration,
    out: &mut Vec<u8>,
) -> bool {
    let (tag, rest) = command.split_once(' ').unwrap();
    let (verb, argument) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut say = |text: &str| out.extend_from_slice(format!("{tag} {text}\r\n").as_bytes());
    match verb {
        "AUTHENTICATE" => say("OK \"Authenticated\""),
        "LOGOUT" => {
            say("OK \"bye-bye\"");
            return false;
        }
        "NOOP" => {
            if let Some(stream) = &mut serving.stream {
                flush(list, stream, out);
            }
            out.extend_from_slice(format!("{tag} OK \"Noop done\"\r\n").as_bytes());
        }
        "UPDATE" => {
            for (name, entry) in list {
                record(tag, *name, entry, out);
            }
            out.extend_from_slice(format!("{tag} OK \"streaming starts\"\r\n").as_bytes());
            let (tag, changed, tick) = (tag.to_owned(), Vec::new(), now + TICK);
            serving.stream = Some(Streaming { tag, changed, tick });
        }
        "FIND" => {
            let asked = argument.trim_matches('"');
            let asked = asked.strip_prefix("user.u").and_then(|number| number.parse().ok());
            if let Some((name, entry)) = asked.and_then(|name| list.get_key_value(&name)) {
                record(tag, *name, entry, out);
            }
            out.extend_from_slice(format!("{tag} OK \"Search completed\"\r\n").as_bytes());
        }
        other => panic!("a client that says {other}"),
    }
    true
}

/// Reports the present state of every changed name.
fn flush(list: &List, stream: &mut Streaming, out: &mut Vec<u8>) {
    for name in stream.changed.drain(..) {
        match list.get(&name) {
            Some(entry) => record(&stream.tag, name, entry, out),
            None => {
                let text = text(name);
                let line = format!("{} DELETE {{{}+}}\r\n{text}\r\n", stream.tag, text.len());
                out.extend_from_slice(line.as_bytes());
            }
        }
    }
}

fn record(tag: &str, name: Name, entry: &Entry, out: &mut Vec<u8>) {
    let name = text(name);
    let place = format!("{}!{}", SERVERS[entry.server], entry.partition);
    let word = if entry.active { "MAILBOX" } else { "RESERVE" };
    let mut line =
        format!("{tag} {word} {{{}+}}\r\n{name} {{{}+}}\r\n{place}", name.len(), place.len());
    if entry.active {
        line += " {10+}\r\nowner\tlrs\t";
    }
    line += "\r\n";
    out.extend_from_slice(line.as_bytes());
}
