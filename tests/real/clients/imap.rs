//! IMAP (RFC 3501): creates and moves mailboxes and reads mail back.

use super::{Connection, sasl_plain};
use crate::{Done, ensure};

/// A session after login.
pub struct Imap {
    connection: Connection,
    tags: u32,
}

impl Imap {
    /// Logs in at `host:port` as `user` with the rights of `user`, by `admin`'s password: Cyrus lets an
    /// admin act as any user.
    pub fn login(peer: &str, user: &str, admin: &str, password: &str) -> Done<Self> {
        let mut imap = Self { connection: Connection::open(peer)?, tags: 0 };
        let banner = imap.connection.line()?;
        ensure!(banner.starts_with("* OK"), "{peer} greets with {banner}");
        imap.command(&format!("AUTHENTICATE PLAIN {}", sasl_plain(user, admin, password)))?;
        Ok(imap)
    }

    /// Sends a command. Returns the untagged lines of the response, or the refusal as an error.
    pub fn command(&mut self, command: &str) -> Done<Vec<String>> {
        self.tags += 1;
        let tag = format!("a{} ", self.tags);
        self.connection.send(&format!("{tag}{command}"))?;
        let mut lines = Vec::new();
        loop {
            let mut line = self.connection.line()?;
            while let Some(length) = literal(&line) {
                line.push_str("\r\n");
                line.push_str(&self.connection.bytes(length)?);
                line.push_str(&self.connection.line()?);
            }
            match line.strip_prefix(&tag) {
                Some(status) if status.starts_with("OK") => return Ok(lines),
                Some(status) => return Err(format!("{command}: {status}").into()),
                None => lines.push(line),
            }
        }
    }

    /// Number of messages in a folder with this Message-ID.
    pub fn count(&mut self, folder: &str, message_id: &str) -> Done<usize> {
        self.command(&format!("EXAMINE \"{folder}\""))?;
        let found = self.command(&format!("SEARCH HEADER Message-ID \"{message_id}\""))?;
        let line = found.iter().find_map(|line| line.strip_prefix("* SEARCH"));
        Ok(line.unwrap_or_default().split_whitespace().count())
    }

    /// All Message-IDs of a folder.
    pub fn message_ids(&mut self, folder: &str) -> Done<Vec<String>> {
        self.command(&format!("EXAMINE \"{folder}\""))?;
        let lines = self.command("FETCH 1:* (BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")?;
        let id = |line: &String| {
            let (_, from) = line.split_once('<')?;
            Some(from.split_once('>')?.0.to_owned())
        };
        Ok(lines.iter().filter_map(id).collect())
    }
}

/// The length announced by `{n}` at the end of a line.
fn literal(line: &str) -> Option<usize> {
    line.strip_suffix('}')?.rsplit_once('{')?.1.parse().ok()
}
