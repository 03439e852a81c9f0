//! Commands sent to a server. All of them only read.

use std::io::Write;

use super::wire::push_string;
use crate::model::name::MailboxName;

/// A command. No command writes: Cyrus has no reading role, so a login that may read the list of a
/// master may also change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// `STARTTLS`
    StartTls,
    /// `AUTHENTICATE`, with the initial response in base64 if the mechanism has one.
    Authenticate {
        /// Name of the mechanism.
        mechanism: &'a str,
        /// Initial response in base64; an empty one is sent as `=`.
        initial: Option<&'a str>,
    },
    /// `UPDATE`: requests the whole list, then every change. It occupies the connection.
    Update,
    /// `FIND`: requests the record of one name.
    Find(&'a MailboxName),
    /// `LIST`: requests the records whose *location* begins with this prefix; all records, if it is
    /// empty. `be1!` matches one server; `be1` also matches `be10!`.
    List(&'a [u8]),
    /// `NOOP`: a barrier; its answer follows the answers to all earlier commands.
    Noop,
    /// `LOGOUT`
    Logout,
}

impl Command<'_> {
    /// Appends the command as a line.
    pub fn encode(&self, tag: Tag, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{}{} ", tag.letter, tag.number);
        let word = match self {
            Command::StartTls => "STARTTLS",
            Command::Authenticate { .. } => "AUTHENTICATE ",
            Command::Update => "UPDATE",
            Command::Find(_) => "FIND ",
            Command::List(_) => "LIST ",
            Command::Noop => "NOOP",
            Command::Logout => "LOGOUT",
        };
        out.extend_from_slice(word.as_bytes());
        match self {
            // Cyrus accepts the mechanism name only as a string (imap/mupdate.c:docmd); RFC 3656 has
            // an atom.
            Command::Authenticate { mechanism, initial } => {
                push_string(mechanism.as_bytes(), out);
                if let Some(initial) = initial {
                    out.push(b' ');
                    push_string(if initial.is_empty() { b"=" } else { initial.as_bytes() }, out);
                }
            }
            Command::Find(name) => push_string(name.as_bytes(), out),
            Command::List(prefix) => push_string(prefix, out),
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Tag of a command, which its answer repeats: a letter for the kind of command and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    letter: char,
    number: u64,
}

impl Tag {
    /// Creates a tag. `letter` is an ASCII letter.
    pub(super) const fn new(letter: char, number: u64) -> Self {
        Self { letter, number }
    }

    /// Whether a line has this tag.
    pub(super) fn is(self, tag: &[u8]) -> bool {
        let Some((letter, digits)) = tag.split_first() else { return false };
        let number: Option<u64> =
            std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        char::from(*letter) == self.letter && number == Some(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_encoded_as_cyrus_parses_them() {
        let name = MailboxName::new("user.bob.Entw&APw-rfe").unwrap();
        let plain = |initial| Command::Authenticate { mechanism: "PLAIN", initial };
        for (command, line) in [
            (Command::StartTls, "T1 STARTTLS\r\n"),
            (plain(None), "T1 AUTHENTICATE \"PLAIN\"\r\n"),
            (plain(Some("")), "T1 AUTHENTICATE \"PLAIN\" \"=\"\r\n"),
            (plain(Some("AGE=")), "T1 AUTHENTICATE \"PLAIN\" \"AGE=\"\r\n"),
            (Command::Update, "T1 UPDATE\r\n"),
            (Command::Find(&name), "T1 FIND \"user.bob.Entw&APw-rfe\"\r\n"),
            (Command::List(b""), "T1 LIST \"\"\r\n"),
            (Command::List(b"be1!"), "T1 LIST \"be1!\"\r\n"),
            (Command::List(b"a\r\nb"), "T1 LIST {4+}\r\na\r\nb\r\n"),
            (Command::Noop, "T1 NOOP\r\n"),
            (Command::Logout, "T1 LOGOUT\r\n"),
        ] {
            let mut out = Vec::new();
            command.encode(Tag::new('T', 1), &mut out);
            assert_eq!(out, line.as_bytes());
        }
    }

    #[test]
    fn tag_matches_by_letter_and_number() {
        let tag = Tag::new('N', 17);
        assert!(tag.is(b"N17"));
        for other in
            [&b""[..], b"N", b"N1", b"N170", b"n17", b"U17", b"17", b"N17 ", b"N\xff", b"*"]
        {
            assert!(!tag.is(other));
        }
    }
}
