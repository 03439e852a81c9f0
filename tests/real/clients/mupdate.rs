//! The writing commands of MUPDATE (RFC 3656), as a backend sends them to the master.
//!
//! A master of any release crashes on DELETE of a name that it does not have. Up to 3.12.3 it also crashes
//! at the second DEACTIVATE. Avoid both.

use super::{Connection, sasl_plain};
use crate::{Done, ensure};

/// A session with the master.
pub struct Mupdate {
    connection: Connection,
    tags: u32,
}

impl Mupdate {
    /// Connects and authenticates.
    pub fn login(host: &str, user: &str, password: &str) -> Done<Self> {
        let mut mupdate = Self { connection: Connection::open(&format!("{host}:3905"))?, tags: 0 };
        while !mupdate.connection.line()?.starts_with("* OK MUPDATE") {}
        mupdate
            .command(&format!("AUTHENTICATE \"PLAIN\" \"{}\"", sasl_plain("", user, password)))?;
        Ok(mupdate)
    }

    fn command(&mut self, command: &str) -> Done {
        self.tags += 1;
        let tag = format!("m{} ", self.tags);
        self.connection.send(&format!("{tag}{command}"))?;
        let line = self.connection.line()?;
        let done = line.strip_prefix(&tag).is_some_and(|status| status.starts_with("OK"));
        ensure!(done, "{command}: {line}");
        Ok(())
    }

    /// All records, each as its name, its state (`MAILBOX` or `RESERVE`) and its location.
    pub fn list(&mut self) -> Done<Vec<[String; 3]>> {
        self.tags += 1;
        let tag = format!("m{} ", self.tags);
        self.connection.send(&format!("{tag}LIST"))?;
        let mut records = Vec::new();
        loop {
            let line = self.connection.line()?;
            let rest = line.strip_prefix(&tag).ok_or_else(|| format!("LIST: {line}"))?;
            let (state, mut rest) = rest.split_once(' ').ok_or("LIST: a short line")?;
            if state == "OK" {
                return Ok(records);
            }
            // The server sends each string as a literal: the name, the location, the ACL.
            let mut strings = Vec::new();
            let mut line;
            while let Some(length) = literal(rest) {
                strings.push(self.connection.bytes(length)?);
                line = self.connection.line()?;
                rest = &line;
            }
            let mut strings = strings.into_iter();
            let (Some(name), Some(location)) = (strings.next(), strings.next()) else {
                return Err(format!("LIST: {state} without strings").into());
            };
            records.push([name, state.to_owned(), location]);
        }
    }

    /// The mailbox is being created, or moved away from `location`.
    pub fn reserve(&mut self, mailbox: &str, location: &str) -> Done {
        self.command(&format!("RESERVE \"{mailbox}\" \"{location}\""))
    }

    /// The active mailbox is about to move away from `location`: the first step of an XFER.
    pub fn deactivate(&mut self, mailbox: &str, location: &str) -> Done {
        self.command(&format!("DEACTIVATE \"{mailbox}\" \"{location}\""))
    }

    /// The mailbox is at `location`.
    pub fn activate(&mut self, mailbox: &str, location: &str) -> Done {
        self.command(&format!("ACTIVATE \"{mailbox}\" \"{location}\" \"\""))
    }

    /// The mailbox, which the master must have, is deleted.
    pub fn delete(&mut self, mailbox: &str) -> Done {
        self.command(&format!("DELETE \"{mailbox}\""))
    }
}

/// The length announced by `{n+}` at the end of a line.
fn literal(line: &str) -> Option<usize> {
    line.strip_suffix("+}")?.rsplit_once('{')?.1.parse().ok()
}
