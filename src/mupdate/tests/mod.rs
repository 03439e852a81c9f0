//! MUPDATE as real servers speak it, and violations of it.

mod find;
mod login;
pub(crate) mod master;
mod stream;

use std::time::Duration;

use super::wire::{Input, MAX_LINE};
use super::*;

/// Returns a time in seconds.
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

/// Returns a logged-in session.
fn session(role: Role) -> Session {
    Session::new(banner(role), "PLAIN", false, Input::new(MAX_LINE))
}

/// Encodes a string as Cyrus does.
fn literal(string: &str) -> String {
    format!("{{{}+}}\r\n{string}", string.len())
}

/// Encodes the record of an active mailbox as Cyrus does.
fn mailbox(tag: &str, name: &str, location: &str, acl: &str) -> String {
    format!("{tag} MAILBOX {} {} {}\r\n", literal(name), literal(location), literal(acl))
}

/// Encodes the record of a reserved mailbox as Cyrus does.
fn reserve(tag: &str, name: &str, location: &str) -> String {
    format!("{tag} RESERVE {} {}\r\n", literal(name), literal(location))
}

/// Returns all splits of `bytes` in two, and the split into single bytes.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    (0..=bytes.len())
        .map(|cut| vec![&bytes[..cut], &bytes[cut..]])
        .chain([bytes.chunks(1).collect()])
}
