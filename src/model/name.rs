//! Mailbox names in Cyrus' internal form, and the keys under which lists hold them.

use std::borrow::Cow;
use std::fmt;

/// Maximum length of a mailbox name in bytes (`MAX_MAILBOX_NAME`, Cyrus 3.12; 490 in 2.4).
pub const MAX_NAME: usize = 510;

/// Separator of the components of a name in the keys of Cyrus 3.6 and later.
const US: u8 = 0x1f;
/// Separator after the domain in the keys of Cyrus 3.6 and later.
const GS: u8 = 0x1d;

/// A mailbox name in Cyrus' internal form, in every release also the form on a MUPDATE connection.
///
/// `[domain "!"] component *("." component)`: components are separated by `.`, a dot inside a
/// component is written `^`, folders are modified UTF-7, case is significant. Examples:
/// `user.jane`, `user.jane^doe.Sent`, `example.org!user.bob`, `news.comp`.
/// (Cyrus `imap/mboxname.c`, `mbname_intname`.)
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MailboxName(Vec<u8>);

/// Reason why bytes are not a mailbox name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Empty, or empty after the domain.
    #[error("empty mailbox name")]
    Empty,
    /// Longer than 510 bytes.
    #[error("mailbox name longer than {MAX_NAME} bytes")]
    TooLong,
    /// A control character; `US`, `GS` and `RS` could forge a key.
    #[error("control character in mailbox name")]
    Control,
    /// More than one `!`; only one is allowed, after the domain.
    #[error("`!` inside a mailbox name")]
    Bang,
}

impl MailboxName {
    /// Checks and wraps a name in internal form.
    pub fn new(internal: impl Into<Vec<u8>>) -> Result<Self, BadName> {
        let name = internal.into();
        if name.len() > MAX_NAME {
            return Err(BadName::TooLong);
        }
        // No early exit, so that the loop is vectorised.
        if name.iter().fold(false, |met, b| met | (*b < 0x20 || *b == 0x7f)) {
            return Err(BadName::Control);
        }
        let (_, local) = split(&name);
        if local.is_empty() {
            return Err(BadName::Empty);
        }
        if local.len() < name.len() && local.contains(&b'!') {
            return Err(BadName::Bang);
        }
        Ok(Self(name))
    }

    /// Returns the name in internal form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the name for display, in ASCII; other bytes are escaped.
    pub(crate) fn escaped(&self) -> Cow<'_, [u8]> {
        // Bytes that `escape_ascii` leaves unchanged, as in nearly every name.
        let plain = |b: &u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\'' | b'\\');
        // Vectorised, as above.
        match self.0.iter().fold(true, |all, b| all & plain(b)) {
            true => Cow::Borrowed(&self.0),
            false => self.0.escape_ascii().collect::<Vec<u8>>().into(),
        }
    }

    /// Returns the domain before the `!`, if the name has one.
    pub fn domain(&self) -> Option<&[u8]> {
        split(&self.0).0
    }

    /// Returns the name without its domain: `user.jane` of `example.org!user.jane`.
    pub fn without_domain(&self) -> &[u8] {
        split(&self.0).1
    }

    /// Whether the name is that of a shared folder and not of a user's mailbox.
    pub fn is_shared(&self) -> bool {
        !self.without_domain().starts_with(b"user.")
    }

    /// Returns the owner of an INBOX as Cyrus' user ID: with dots, and with the domain of the name.
    /// `None`: the name is not an INBOX.
    pub fn user(&self) -> Option<Vec<u8>> {
        let local = self.without_domain().strip_prefix(b"user.")?;
        let mut user: Vec<u8> = local.iter().map(|b| if *b == b'^' { b'.' } else { *b }).collect();
        if let Some(domain) = self.domain() {
            user.push(b'@');
            user.extend_from_slice(domain);
        }
        Some(user)
    }

    /// Appends the key of the name in a list of this generation.
    pub fn push_key(&self, generation: KeyGeneration, key: &mut Vec<u8>) {
        match generation {
            KeyGeneration::Internal => key.extend_from_slice(&self.0),
            KeyGeneration::Separated => {
                let (domain, local) = split(&self.0);
                key.push(b'N');
                if let Some(domain) = domain {
                    key.extend_from_slice(domain);
                    key.push(GS);
                }
                key.extend(local.iter().map(|b| match b {
                    b'.' => US,
                    b'^' => b'.',
                    b => *b,
                }));
            }
        }
    }

    /// Returns the name of a key; `None` for the other rows of the file (ACL indexes `$RACL…`, `A…`,
    /// unique ids `I…`, run queues `$RUNQ…`) and for invalid names.
    pub fn from_key(generation: KeyGeneration, key: &[u8]) -> Option<Self> {
        match generation {
            KeyGeneration::Internal if key.starts_with(b"$R") => None,
            KeyGeneration::Internal => Self::new(key).ok(),
            KeyGeneration::Separated => {
                let dbname = key.strip_prefix(b"N")?;
                let mut name = Vec::with_capacity(dbname.len());
                let local = match memchr::memchr(GS, dbname) {
                    Some(at) => {
                        name.extend_from_slice(&dbname[..at]);
                        name.push(b'!');
                        &dbname[at + 1..]
                    }
                    None => dbname,
                };
                name.extend(local.iter().map(|b| match *b {
                    US => b'.',
                    b'.' => b'^',
                    b => b,
                }));
                Self::new(name).ok()
            }
        }
    }
}

/// Splits at the first `!`. For text as short as names, a vectorised search is slower.
fn split(name: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match name.iter().position(|b| *b == b'!') {
        Some(at) => (Some(&name[..at]), &name[at + 1..]),
        None => (None, name),
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.escaped()))
    }
}

impl fmt::Debug for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Form of the keys of a list, common to all its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyGeneration {
    /// Up to Cyrus 3.4: the key is the internal name.
    Internal,
    /// From Cyrus 3.6: `N`, then `[domain GS]` and the components separated by `US`, with real
    /// dots inside them.
    Separated,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, generation: KeyGeneration) -> Vec<u8> {
        let mut key = Vec::new();
        MailboxName::new(name).unwrap().push_key(generation, &mut key);
        key
    }

    #[test]
    fn keys_of_both_generations_match_those_of_cyrus() {
        // Keys in files of 3.2.6, 3.6.1 and 3.12.4.
        let table: &[(&str, &[u8])] = &[
            ("user.jane", b"Nuser\x1fjane"),
            ("user.jane^doe.Sent Items", b"Nuser\x1fjane.doe\x1fSent Items"),
            ("example.org!user.bob", b"Nexample.org\x1duser\x1fbob"),
            ("news.comp", b"Nnews\x1fcomp"),
            ("DELETED.user.old.5F000000", b"NDELETED\x1fuser\x1fold\x1f5F000000"),
        ];
        for (name, separated) in table {
            assert_eq!(key(name, KeyGeneration::Separated), *separated);
            assert_eq!(key(name, KeyGeneration::Internal), name.as_bytes());
            for (generation, key) in
                [(KeyGeneration::Separated, *separated), (KeyGeneration::Internal, name.as_bytes())]
            {
                let read = MailboxName::from_key(generation, key).unwrap();
                assert_eq!(read.as_bytes(), name.as_bytes());
            }
        }
    }

    #[test]
    fn rows_of_other_kinds_have_no_name() {
        for key in [&b"$RACL"[..], b"$RACL$U$jane$user.bob", b"$RUNQ$1"] {
            assert_eq!(MailboxName::from_key(KeyGeneration::Internal, key), None);
        }
        for key in [&b"AS\x1e"[..], b"I5e3c1a", b"Jjane.x", b"N"] {
            assert_eq!(MailboxName::from_key(KeyGeneration::Separated, key), None);
        }
    }

    #[test]
    fn only_unprintable_bytes_of_a_name_are_escaped() {
        let shown = |name: &[u8]| MailboxName::new(name).unwrap().to_string();
        assert_eq!(shown(b"user.jane^doe.Sent Items"), "user.jane^doe.Sent Items");
        let all: Vec<u8> = (0..=u8::MAX).filter(|b| !matches!(b, b'!' | ..=0x1f | 0x7f)).collect();
        for b in &all {
            assert_eq!(shown(&[b'a', *b]), [b'a', *b].escape_ascii().to_string());
        }
        assert_eq!(shown(&all), all.escape_ascii().to_string());
    }

    #[test]
    fn name_that_would_forge_a_key_is_refused() {
        assert_eq!(MailboxName::new("user.a\x1fb"), Err(BadName::Control));
        assert_eq!(MailboxName::new("a!user.b!c"), Err(BadName::Bang));
        assert_eq!(MailboxName::new("example.org!"), Err(BadName::Empty));
        assert_eq!(MailboxName::new(vec![b'a'; 511]), Err(BadName::TooLong));
    }
}
