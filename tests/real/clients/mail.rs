//! SMTP and LMTP (RFC 5321, RFC 2033). They differ in the greeting, and in LMTP's reply for each recipient
//! after the message.

use super::Connection;
use crate::{Done, ensure};

/// A reply; `text` has all its lines.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

impl Reply {
    /// The digits of the enhanced status code (RFC 3463), as in `5.1.1`; empty if there is none.
    pub fn status(&self) -> &str {
        let last = self.text.lines().last().unwrap_or_default();
        let word = last.split_whitespace().next().unwrap_or_default();
        let digits = word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if digits && word.contains('.') { word } else { "" }
    }

    /// Whether the client tries again.
    pub fn is_temporary(&self) -> bool {
        (400..500).contains(&self.code)
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.text.replace('\n', " | "))
    }
}

/// A session.
pub struct Session {
    connection: Connection,
    lmtp: bool,
}

/// Replies to one message.
#[derive(Debug)]
pub struct Outcome {
    /// Replies to each RCPT, in order.
    pub recipients: Vec<Reply>,
    /// Replies after the message: one with SMTP, one for each accepted recipient with LMTP; none if no
    /// recipient was accepted.
    pub message: Vec<Reply>,
}

impl Session {
    /// Connects and sends EHLO.
    pub fn smtp(peer: &str) -> Done<Self> {
        Self::open(peer, false)
    }

    /// Connects and sends LHLO.
    pub fn lmtp(peer: &str) -> Done<Self> {
        Self::open(peer, true)
    }

    fn open(peer: &str, lmtp: bool) -> Done<Self> {
        let mut session = Self { connection: Connection::open(peer)?, lmtp };
        let banner = session.reply()?;
        ensure!(banner.code == 220, "{peer} greets with {banner}");
        session.expect(if lmtp { "LHLO client.test" } else { "EHLO client.test" }, 250)?;
        Ok(session)
    }

    fn reply(&mut self) -> Done<Reply> {
        let mut text = Vec::new();
        loop {
            let line = self.connection.line()?;
            ensure!(line.is_char_boundary(3) && line.len() >= 3, "no reply: {line:?}");
            let (code, rest) = line.split_at(3);
            text.push(rest.get(1..).unwrap_or_default().to_owned());
            if !rest.starts_with('-') {
                return Ok(Reply { code: code.parse()?, text: text.join("\n") });
            }
        }
    }

    /// Sends a command and reads the reply.
    pub fn command(&mut self, command: &str) -> Done<Reply> {
        self.connection.send(command)?;
        self.reply()
    }

    fn expect(&mut self, command: &str, code: u16) -> Done {
        let reply = self.command(command)?;
        ensure!(reply.code == code, "{command}: {reply}");
        Ok(())
    }

    /// Sends a message to all recipients that the server accepts.
    pub fn send(&mut self, from: &str, to: &[&str], message: &str) -> Done<Outcome> {
        self.expect(&format!("MAIL FROM:<{from}>"), 250)?;
        let mut recipients = Vec::new();
        for recipient in to {
            recipients.push(self.command(&format!("RCPT TO:<{recipient}>"))?);
        }
        let accepted = recipients.iter().filter(|reply| reply.code == 250).count();
        let mut replies = Vec::new();
        if accepted == 0 {
            self.expect("RSET", 250)?;
        } else {
            self.expect("DATA", 354)?;
            self.connection.send(message)?;
            self.connection.send(".")?;
            for _ in 0..if self.lmtp { accepted } else { 1 } {
                replies.push(self.reply()?);
            }
        }
        Ok(Outcome { recipients, message: replies })
    }
}
