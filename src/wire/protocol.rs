//! Detection of a client's protocol. The client speaks first in every protocol, and every protocol
//! begins differently.

use std::fmt;
use std::str::FromStr;

use crate::model::shown::Shown;

/// Protocol of the lookups of mail servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// [`socketmap`](super::socketmap) in [netstrings](super::netstring).
    Socketmap,
    /// [`policy`](super::policy), Postfix' policy delegation.
    Policy,
    /// [`line`](super::line), Postfix' `tcp:` tables and the lines of OpenSMTPD.
    Line,
    /// [`milter`](super::milter).
    Milter,
}

/// Maximum number of bytes needed to detect the protocol.
pub const BEGINNING: usize = 256;

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 4] = [Self::Socketmap, Self::Policy, Self::Line, Self::Milter];

    /// Returns the name in the configuration and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Socketmap => "socketmap",
            Protocol::Policy => "policy",
            Protocol::Line => "line",
            Protocol::Milter => "milter",
        }
    }

    /// Detects the protocol by the first bytes of a connection. `None`: more bytes are needed.
    ///
    /// A digit begins a netstring. NUL begins the length of a milter packet, which is below 2^24
    /// bytes. An ASCII letter begins the name of an attribute or a word; the byte after it decides.
    /// A later `=` does not count, because an address may contain one. Any other byte is a broken
    /// socketmap.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        let name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        match beginning.first()? {
            0 => Some(Protocol::Milter),
            b'a'..=b'z' | b'A'..=b'Z' => {
                match beginning.iter().take(BEGINNING).find(|b| !name(b)) {
                    Some(b'=') => Some(Protocol::Policy),
                    Some(_) => Some(Protocol::Line),
                    None if beginning.len() >= BEGINNING => Some(Protocol::Line),
                    None => None,
                }
            }
            _ => Some(Protocol::Socketmap),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == word).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("unknown protocol `{}`; valid: {known}", Shown(word))
        })
    }
}

/// Set of the protocols of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols(u8);

impl Protocols {
    /// Every protocol.
    pub const ALL: Self = Protocols(0b1111);

    /// Whether the set contains this protocol.
    pub const fn contains(self, protocol: Protocol) -> bool {
        self.0 & Self::bit(protocol) != 0
    }

    const fn bit(protocol: Protocol) -> u8 {
        1 << protocol as u8
    }
}

impl Default for Protocols {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<Protocol> for Protocols {
    fn from_iter<I: IntoIterator<Item = Protocol>>(protocols: I) -> Self {
        Protocols(protocols.into_iter().fold(0, |set, protocol| set | Self::bit(protocol)))
    }
}

/// Writes the names as in the configuration, separated by commas.
impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for protocol in Protocol::ALL.into_iter().filter(|protocol| self.contains(*protocol)) {
            write!(f, "{between}{}", protocol.as_str())?;
            between = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_is_detected_by_its_first_bytes() {
        for (beginning, protocol) in [
            (&b"25:lmtp User+Ext@Example.ORG,"[..], Protocol::Socketmap),
            (b"0", Protocol::Socketmap),
            (b"\0\0\0\x0dO", Protocol::Milter),
            (b"\0", Protocol::Milter),
            (b"request=smtpd_access_policy\n", Protocol::Policy),
            (b"protocol_state=RCPT\n", Protocol::Policy),
            (b"get jane@example.org\n", Protocol::Line),
            (b"lmtp jane@example.org\n", Protocol::Line),
            // A bounce address (VERP) in a line is not an attribute.
            (b"lmtp list+jane=example.net@example.org\n", Protocol::Line),
            (b"x\n", Protocol::Line),
            (b"GET / HTTP/1.1\r\n", Protocol::Line),
            (b"-1:", Protocol::Socketmap),
            (b"\x16\x03\x01", Protocol::Socketmap),
            (b"\n", Protocol::Socketmap),
            (b"=", Protocol::Socketmap),
            (b"\xff", Protocol::Socketmap),
        ] {
            assert_eq!(Protocol::of(beginning), Some(protocol), "{}", beginning.escape_ascii());
            for cut in 0..beginning.len() {
                let told = Protocol::of(&beginning[..cut]);
                assert!(told.is_none() || told == Some(protocol), "{}", beginning.escape_ascii());
            }
        }
    }

    #[test]
    fn endless_word_is_a_line() {
        assert_eq!(Protocol::of(&[b'x'; BEGINNING - 1]), None);
        assert_eq!(Protocol::of(&[b'x'; BEGINNING]), Some(Protocol::Line));
        assert_eq!(Protocol::of(b""), None);
    }

    #[test]
    fn set_of_protocols_contains_its_members_only() {
        let some: Protocols = [Protocol::Milter, Protocol::Socketmap].into_iter().collect();
        assert_eq!(some.to_string(), "socketmap, milter");
        assert!(!some.contains(Protocol::Policy) && !some.contains(Protocol::Line));
        assert_eq!(Protocol::ALL.into_iter().collect::<Protocols>(), Protocols::ALL);
        for protocol in Protocol::ALL {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
        }
        assert!(
            "smtp".parse::<Protocol>().unwrap_err().contains("socketmap, policy, line, milter")
        );
    }
}
