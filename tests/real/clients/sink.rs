//! A mail server that accepts and stores everything: the outside world by SMTP, or a backend of which only
//! the address matters, by LMTP with any password.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use super::Connection;
use crate::Done;

/// One message as received.
#[derive(Clone, Debug)]
pub struct Received {
    pub from: String,
    pub to: Vec<String>,
    pub message: String,
}

/// Accepts mail until the run ends.
pub struct Sink {
    messages: Arc<Mutex<Vec<Received>>>,
}

impl Sink {
    /// Listens at `address`.
    pub fn listen(address: &str) -> Done<Self> {
        let listener = TcpListener::bind(address).map_err(|e| format!("{address}: {e}"))?;
        let messages: Arc<Mutex<Vec<Received>>> = Arc::default();
        let store = Arc::clone(&messages);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let store = Arc::clone(&store);
                std::thread::spawn(move || Connection::over(stream).map(|c| serve(c, &store)));
            }
        });
        Ok(Self { messages })
    }

    /// Returns and clears the messages received so far.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(mut client: Connection, store: &Mutex<Vec<Received>>) -> Done {
    client.send("220 sink.test")?;
    let (mut lmtp, mut from, mut to) = (false, String::new(), Vec::new());
    loop {
        let line = client.line()?;
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let address = || {
            let (_, rest) = line.split_once('<')?;
            Some(rest.rsplit_once('>')?.0.to_owned())
        };
        match verb.as_str() {
            "EHLO" | "LHLO" => {
                lmtp = verb == "LHLO";
                client.send("250-sink.test")?;
                client.send("250-AUTH PLAIN")?;
                client.send("250 8BITMIME")?;
            }
            "AUTH" if line.split_whitespace().count() == 2 => {
                client.send("334 ")?;
                client.line()?;
                client.send("235 welcome")?;
            }
            "AUTH" => client.send("235 welcome")?,
            "MAIL" => {
                from = address().unwrap_or_default();
                to.clear();
                client.send("250 2.1.0 ok")?;
            }
            "RCPT" => {
                to.push(address().unwrap_or_default());
                client.send("250 2.1.5 ok")?;
            }
            "DATA" => {
                client.send("354 go on")?;
                let mut message = String::new();
                loop {
                    let line = client.line()?;
                    if line == "." {
                        break;
                    }
                    message.push_str(&line);
                    message.push('\n');
                }
                let answers = if lmtp { to.len() } else { 1 };
                let received = Received { from: from.clone(), to: to.clone(), message };
                store.lock().unwrap_or_else(PoisonError::into_inner).push(received);
                for _ in 0..answers {
                    client.send("250 2.0.0 accepted")?;
                }
            }
            "QUIT" => return client.send("221 bye"),
            _ => client.send("250 2.0.0 ok")?,
        }
    }
}
