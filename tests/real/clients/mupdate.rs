//! MUPDATE (RFC 3656), the writing half, as a backend speaks it to the master.
//!
//! A master of any release dies when asked to DELETE a name it does not have, one up to 3.12.3
//! also at the second DEACTIVATE: say neither.

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

    /// The mailbox is being made, or moved away from `location`.
    pub fn reserve(&mut self, mailbox: &str, location: &str) -> Done {
        self.command(&format!("RESERVE \"{mailbox}\" \"{location}\""))
    }

    /// The mailbox, which the master must have, is gone.
    pub fn delete(&mut self, mailbox: &str) -> Done {
        self.command(&format!("DELETE \"{mailbox}\""))
    }
}
