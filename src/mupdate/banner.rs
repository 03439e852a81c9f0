//! The banner of a server, sent when a connection begins and again under TLS.
//!
//! ```text
//! * AUTH "SCRAM-SHA-256" "PLAIN"
//! * STARTTLS
//! * COMPRESS "DEFLATE"
//! * PARTIAL-UPDATE
//! * OK MUPDATE "servername" "Cyrus IMAP" "version" "(master)"
//! ```
//!
//! The last line ends the banner; a slave sends the URL of its master instead of `(master)`. Unknown
//! lines before it are skipped (RFC 3656 section 4.1).

use std::borrow::Cow;

use super::failure::Failure;
use super::response::{Response, Status, printable};
use super::wire::unquote;

/// Maximum number of lines of a banner.
const MAX_LINES: u32 = 64;
/// Maximum number of mechanisms kept; further ones are skipped.
const MAX_MECHANISMS: usize = 64;

/// Banner of a server, sent before the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banner {
    /// Its `servername`, which can differ from its DNS name.
    pub server: String,
    /// `Cyrus IMAP`.
    pub implementation: String,
    /// Its release, such as `3.6.1-Debian-3.6.1-4+deb12u5`.
    pub release: String,
    /// Its role: master or slave.
    pub role: Role,
    /// SASL mechanisms offered, in capitals, in the server's order.
    pub mechanisms: Vec<String>,
    /// Whether it offers STARTTLS.
    pub starttls: bool,
    /// Whether it offers COMPRESS, which is never used.
    pub compress: bool,
}

/// Returns the family of a release, its first two numbers. Examples of releases:
/// `3.6.1-Debian-3.6.1-4`, `v2.4.17`, `git2.5.10-Debian-2.5.10-3`, `3.13.0-alpha0`.
pub fn family(release: &str) -> Option<(u32, u32)> {
    let numbers = release.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let mut numbers = numbers.split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Role of a server in its murder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The master, which has the authoritative list.
    Master,
    /// A slave of the master with this URL (`mupdate://host`).
    Slave(String),
}

/// Reads a banner line by line.
#[derive(Debug, Default)]
pub struct BannerReader {
    lines: u32,
    mechanisms: Vec<String>,
    starttls: bool,
    compress: bool,
}

impl BannerReader {
    /// Takes the next line. Returns the banner once it is complete.
    pub fn take(&mut self, response: &Response<'_>) -> Result<Option<Banner>, Failure> {
        self.lines += 1;
        if self.lines > MAX_LINES {
            return Err(Failure::protocol("a banner without an end"));
        }
        match response {
            Response::Status { tag: b"*", status: Status::Bye, text } => {
                return Err(Failure::Bye(printable(text)));
            }
            Response::Status { tag: b"*", status: Status::Ok, text } => {
                return Ok(self.finish(text));
            }
            Response::Other(line) => self.line(line),
            _ => {}
        }
        Ok(None)
    }

    fn line(&mut self, line: &[u8]) {
        let Some(rest) = line.strip_prefix(b"* ") else { return };
        let mut words = Words(rest);
        let capability = words.next().unwrap_or_default().to_ascii_uppercase();
        match capability.as_slice() {
            b"AUTH" => {
                let room = MAX_MECHANISMS.saturating_sub(self.mechanisms.len());
                self.mechanisms
                    .extend(words.map(|word| printable(&word).to_uppercase()).take(room));
            }
            b"STARTTLS" => self.starttls = true,
            b"COMPRESS" => self.compress = true,
            _ => {}
        }
    }

    fn finish(&mut self, text: &[u8]) -> Option<Banner> {
        let mut words = Words(text);
        if !words.next()?.eq_ignore_ascii_case(b"MUPDATE") {
            return None;
        }
        let mut next = || words.next().map(|word| printable(&word)).unwrap_or_default();
        let (server, implementation, release, role) = (next(), next(), next(), next());
        let role = match role.as_str() {
            "(master)" => Role::Master,
            _ => Role::Slave(role),
        };
        let Self { mechanisms, starttls, compress, .. } = std::mem::take(self);
        Some(Banner { server, implementation, release, role, mechanisms, starttls, compress })
    }
}

/// Iterator over the quoted and bare words of a line.
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = Cow<'a, [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.0.trim_ascii_start();
        if line.is_empty() {
            return None;
        }
        let (word, used) = match unquote(line) {
            Some(quoted) => quoted,
            None => {
                let end = memchr::memchr(b' ', line).unwrap_or(line.len());
                (Cow::Borrowed(&line[..end]), end)
            }
        };
        self.0 = line.get(used..).unwrap_or_default();
        Some(word)
    }
}
