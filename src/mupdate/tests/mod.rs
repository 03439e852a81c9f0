//! MUPDATE as servers really speak it, and as they should not.

mod find;
mod login;
pub(crate) mod master;
mod stream;

use std::time::Duration;

use super::wire::{Input, MAX_LINE};
use super::*;

/// A moment, in seconds.
fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn name(name: &str) -> MailboxName {
    MailboxName::new(name).unwrap()
}

fn banner(role: Role) -> Banner {
    Banner {
        server: "mu.example.org".into(),
        implementation: "Cyrus IMAP".into(),
        release: "3.6.1".into(),
        role,
        mechanisms: Vec::new(),
        starttls: false,
        compress: false,
    }
}

/// A session that is logged in.
fn session(role: Role) -> Session {
    Session::new(banner(role), "PLAIN", false, Input::new(MAX_LINE))
}

/// How Cyrus sends a string.
fn literal(string: &str) -> String {
    format!("{{{}+}}\r\n{string}", string.len())
}

/// How Cyrus sends a record of an active mailbox.
fn mailbox(tag: &str, name: &str, location: &str, acl: &str) -> String {
    format!("{tag} MAILBOX {} {} {}\r\n", literal(name), literal(location), literal(acl))
}

/// How Cyrus sends a record of a reserved one.
fn reserve(tag: &str, name: &str, location: &str) -> String {
    format!("{tag} RESERVE {} {}\r\n", literal(name), literal(location))
}

/// All ways to cut `bytes` in two, and each byte by itself.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    (0..=bytes.len())
        .map(|cut| vec![&bytes[..cut], &bytes[cut..]])
        .chain([bytes.chunks(1).collect()])
}
