//! A MUPDATE master in a thread: PLAIN without TLS, UPDATE, FIND, NOOP. Its responses are those of Cyrus 3.6.1.
//! It ends on drop.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The master's list, and its clients.
#[derive(Default)]
struct State {
    /// Name and location; `None`: reserved.
    list: BTreeMap<String, Option<String>>,
    /// Every name that changed, in order.
    changed: Vec<String>,
    asked: Vec<String>,
    sessions: Vec<TcpStream>,
    dead: bool,
}

pub struct Master {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

const BANNER: &str = "* AUTH \"PLAIN\"\r\n* COMPRESS \"DEFLATE\"\r\n* PARTIAL-UPDATE\r\n\
                      * OK MUPDATE \"mu.example.org\" \"Cyrus IMAP\" \"3.6.1-Debian\" \"(master)\"\r\n";

impl Master {
    /// Starts a master with these mailboxes.
    pub fn start(list: &[(&str, &str)]) -> Self {
        Self::start_at(0, list)
    }

    /// Starts a master with these mailboxes at this port.
    pub fn start_at(port: u16, list: &[(&str, &str)]) -> Self {
        // The previous one may not have closed the port yet.
        let began = Instant::now();
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => break listener,
                Err(e) => assert!(began.elapsed() < super::TIMEOUT, "{port}: {e}"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        let port = listener.local_addr().unwrap().port();
        let list = list.iter().map(|(name, at)| ((*name).to_owned(), Some((*at).to_owned())));
        let state = State { list: list.collect(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = shared.lock().unwrap();
                if state.dead {
                    return;
                }
                state.sessions.push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, state }
    }

    /// Creates or moves a mailbox.
    pub fn set(&self, name: &str, location: &str) {
        let mut state = self.state.lock().unwrap();
        state.list.insert(name.to_owned(), Some(location.to_owned()));
        state.changed.push(name.to_owned());
    }

    /// Reserves a name: its mailbox is being created or moved.
    pub fn reserve(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.list.insert(name.to_owned(), None);
        state.changed.push(name.to_owned());
    }

    /// Deletes a mailbox.
    pub fn delete(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.list.remove(name);
        state.changed.push(name.to_owned());
    }

    /// Names that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Number of connections so far.
    pub fn sessions(&self) -> usize {
        self.state.lock().unwrap().sessions.len()
    }

    /// Lines of an imapd.conf for this master.
    pub fn imapd_conf(&self) -> String {
        format!(
            "mupdate_server: 127.0.0.1:{}\nmupdate_authname: a\nmupdate_password: geheim\n",
            self.port
        )
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        state.dead = true;
        for session in &state.sessions {
            let _ = session.shutdown(Shutdown::Both);
        }
        drop(state);
        // Wakes the thread, so that the port is free when this returns or soon after.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn literal(text: &str) -> String {
    format!("{{{}+}}\r\n{text}", text.len())
}

fn record(tag: &str, name: &str, location: Option<&String>) -> String {
    let name = literal(name);
    match location {
        Some(location) => {
            let acl = literal("anyone\tlrsp\t");
            format!("{tag} MAILBOX {name} {} {acl}\r\n", literal(location))
        }
        None => format!("{tag} RESERVE {name} {}\r\n", literal("be1!default")),
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut out = stream.try_clone().unwrap();
    let mut input = BufReader::new(stream);
    let mut streaming: Option<(String, usize)> = None;
    let _ = out.write_all(BANNER.as_bytes());
    let mut line = String::new();
    loop {
        // Without a request, changes are sent within milliseconds.
        let timeout = streaming.as_ref().map(|_| Duration::from_millis(20));
        input.get_ref().set_read_timeout(timeout).unwrap();
        let read = input.read_line(&mut line);
        let mut say = String::new();
        if let Some((tag, seen)) = &mut streaming {
            let state = state.lock().unwrap();
            for name in &state.changed[*seen..] {
                say += &match state.list.get(name) {
                    Some(location) => record(tag, name, location.as_ref()),
                    None => format!("{tag} DELETE {}\r\n", literal(name)),
                };
            }
            *seen = state.changed.len();
        }
        match read {
            Ok(0) => return,
            Ok(_) => {
                let (tag, command) = line.trim_end().split_once(' ').unwrap();
                let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
                let mut state = state.lock().unwrap();
                match word {
                    // NUL a NUL geheim
                    "AUTHENTICATE" if rest.contains("AGEAZ2VoZWlt") => {
                        say += &format!("{tag} OK \"Authenticated\"\r\n");
                    }
                    "AUTHENTICATE" => say += &format!("{tag} NO \"authentication failed\"\r\n"),
                    "UPDATE" => {
                        for (name, location) in &state.list {
                            say += &record(tag, name, location.as_ref());
                        }
                        say += &format!("{tag} OK \"streaming starts\"\r\n");
                        streaming = Some((tag.to_owned(), state.changed.len()));
                    }
                    "LIST" => {
                        for (name, location) in &state.list {
                            say += &record(tag, name, location.as_ref());
                        }
                        say += &format!("{tag} OK \"list complete\"\r\n");
                    }
                    "FIND" => {
                        let name = rest.trim_matches('"').to_owned();
                        if let Some(location) = state.list.get(&name) {
                            say += &record(tag, &name, location.as_ref());
                        }
                        say += &format!("{tag} OK \"Search completed\"\r\n");
                        state.asked.push(name);
                    }
                    "NOOP" => say += &format!("{tag} OK \"Noop done\"\r\n"),
                    "LOGOUT" => {
                        let _ = out.write_all(format!("{tag} OK \"bye-bye\"\r\n").as_bytes());
                        return;
                    }
                    other => panic!("a reader said {other}"),
                }
                line.clear();
            }
            Err(e) if matches!(e.raw_os_error(), Some(11)) => {}
            Err(_) => return,
        }
        if out.write_all(say.as_bytes()).is_err() {
            return;
        }
    }
}
