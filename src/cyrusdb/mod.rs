//! The file formats of `mailboxes.db`, read-only, over any [`source::ByteSource`].
//!
//! [`detect`] tells the engine by the first bytes of the file and never by `mboxlist_db` in imapd.conf:
//! Cyrus too opens a file with the engine it finds, whatever is configured (`lib/cyrusdb.c`, `_myopen`).
//!
//! Each engine maps keys to values, both bytes. [`value`] parses a value into a
//! [`Record`](crate::model::record::Record); [`MailboxName`](crate::model::name::MailboxName) parses keys.

#[cfg(test)]
mod damage_tests;
pub mod dlist;
pub mod error;
pub mod flat;
#[cfg(test)]
mod model_tests;
pub mod order;
mod problem;
pub mod skip;
pub mod skiplist;
pub mod source;
pub mod value;

use std::fmt;

use error::{Error, Result};
pub use problem::Problem;

/// Number of bytes at the beginning of a file that [`detect`] needs, if the file has that many. A text file
/// whose first page was lost shows its lines behind that page.
pub const HEAD: usize = 16 << 10;

/// Error of an opener that finds a directory in the place of the file; [`detect`] sees bytes only.
/// zeroskip (3.1.6 to 3.12) and lmdb (3.0) keep a database in a directory.
pub const DIRECTORY: Error = Error::Unsupported("a directory (engine zeroskip or lmdb)");

/// A storage engine of Cyrus that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// The default of Cyrus 2.5 and later.
    Twoskip,
    /// By choice from the development series 3.13 on.
    Twom,
    /// The default of Cyrus up to 2.4.
    Skiplist,
    /// A sorted text file.
    Flat,
}

impl Engine {
    /// Returns the name that `mboxlist_db` in imapd.conf uses.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Twoskip => "twoskip",
            Engine::Twom => "twom",
            Engine::Skiplist => "skiplist",
            Engine::Flat => "flat",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A record as it stands in the file, for readers of the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Offset of the record in the file, in bytes.
    pub offset: u64,
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

const TWOSKIP_MAGIC: &[u8; 20] = b"\xa1\x02\x8b\x0dtwoskip file\0\0\0\0";
const TWOM_MAGIC: &[u8; 16] = b"\xa1\x02\x8b\x0dtwomfile\0\0\0\0";
const SKIPLIST_MAGIC: &[u8; 20] = b"\xa1\x02\x8b\x0dskiplist file\0\0\0";
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Offset of the magic number of Berkeley DB, in the byte order of the host that wrote it.
const BERKELEY_AT: usize = 12;
const BERKELEY_MAGICS: [u32; 2] = [0x0005_3162, 0x0006_1561];

/// Detects the engine from the first bytes of a file: all of it, or at least [`HEAD`].
///
/// The flat engine has no magic: bytes that begin like its lines are taken for it. Its reader checks
/// every line again.
pub fn detect(head: &[u8]) -> Result<Engine> {
    if head.is_empty() {
        return Err(Error::Empty);
    }
    for (magic, engine) in [
        (&TWOSKIP_MAGIC[..], Engine::Twoskip),
        (&TWOM_MAGIC[..], Engine::Twom),
        (&SKIPLIST_MAGIC[..], Engine::Skiplist),
    ] {
        if head.starts_with(magic) {
            return Ok(engine);
        }
    }
    if head.starts_with(SQLITE_MAGIC) {
        return Err(Error::Unsupported("a SQLite file (engine sql)"));
    }
    if let Some(word) = head.get(BERKELEY_AT..).and_then(|rest| rest.first_chunk::<4>())
        && BERKELEY_MAGICS.iter().any(|m| [m.to_be_bytes(), m.to_le_bytes()].contains(word))
    {
        return Err(Error::Unsupported("a Berkeley DB file (engine berkeley)"));
    }
    let head = &head[..head.len().min(HEAD)];
    if flat::begins_like_lines(head) { Ok(Engine::Flat) } else { Err(Error::Unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(magic: &[u8]) -> Vec<u8> {
        let mut head = magic.to_vec();
        head.resize(HEAD, 0);
        head
    }

    #[test]
    fn magic_tells_the_engine() {
        for (magic, engine) in [
            (&TWOSKIP_MAGIC[..], "twoskip"),
            (&TWOM_MAGIC[..], "twom"),
            (&SKIPLIST_MAGIC[..], "skiplist"),
        ] {
            assert_eq!(detect(&padded(magic)).unwrap().to_string(), engine);
            let cut = &magic[..magic.len() - 1];
            assert!(matches!(detect(cut), Err(Error::Unknown)), "{engine} cut short");
        }
        assert_eq!(detect(b"user.jane\t0 default \n").unwrap(), Engine::Flat);
    }

    #[test]
    fn unsupported_engine_is_named() {
        let named = |head: &[u8]| detect(head).unwrap_err().to_string();
        assert!(named(&padded(SQLITE_MAGIC)).contains("SQLite"));
        for word in [b"\x62\x31\x05\x00", b"\x00\x05\x31\x62", b"\x61\x15\x06\x00"] {
            let mut head = vec![0; 12];
            head.extend_from_slice(word);
            assert!(named(&head).contains("Berkeley"), "{word:x?}");
        }
        assert!(DIRECTORY.to_string().contains("zeroskip"));
    }

    #[test]
    fn text_file_with_a_bad_line_is_flat() {
        for text in [
            &b"user.jane 0 default\nuser.bob\t0 default \n"[..],
            b"\nuser.bob\t0 default \n",
            b"user.jane\t0 default \nno tab here\n",
            b"\0\0\0\0)\nNuser\x1fbob\t%(T er P default S be1)\r\n",
        ] {
            assert_eq!(detect(text).unwrap(), Engine::Flat, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn garbage_is_not_flat() {
        for garbage in [
            &b"garbage\n"[..],
            b"\n",
            b"\tvalue without a key\n",
            b"user.jane 0 default\nuser.bob\tmary\n",
            b"\x7fELF\x02\x01\x01\0",
            b"\x1f\x8b\x08\x00\tx\n",
            b"user.jane\t0 default\0 \n",
            b"\0",
        ] {
            assert!(matches!(detect(garbage), Err(Error::Unknown)), "{}", garbage.escape_ascii());
        }
        assert!(matches!(detect(b""), Err(Error::Empty)));
    }
}
