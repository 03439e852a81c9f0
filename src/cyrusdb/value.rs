//! Parses the values of `mailboxes.db`.
//!
//! There are two notations, and a list may have both:
//!
//! ```text
//! 1 be1.example.com!default jane<TAB>lrs<TAB>                    text, Cyrus 2.2 to 2.4
//! %(T er P default S be1.example.com M 1795434610 A %(jane lrs))  dlist, Cyrus 2.5 and later
//! ```
//!
//! The number of a text record is always in the old numbering of the type bits. Cyrus 3.6
//! renumbered them and reads an old record by the new meaning, which makes a remote mailbox
//! (1) a netnews one (`imap/mboxlist.h`, `imap/mboxlist.c:mboxlist_parse_entry`).

use std::borrow::Cow;

use memchr::memchr;

use super::dlist::{DlistReader, ItemKind, Malformed};
use crate::model::mod_time::ModTime;
use crate::model::record::{AnonymousRights, Record, State};
use crate::model::shown::ShownBytes;

/// Reason why a value cannot be used. The lookup becomes temporary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No bytes.
    #[error("empty record")]
    Empty,
    /// A malformed dlist.
    #[error("malformed record: {0}")]
    Malformed(#[from] Malformed),
    /// A list where the type, server, partition or a right should be.
    #[error("malformed record: a list where a string belongs")]
    NotAString,
    /// The ACL is a string or a plain list.
    #[error("malformed record: the ACL is not a `%(…)` list")]
    BadAcl,
    /// A text record that is not a number, a partition and an ACL.
    #[error("malformed record: not `NUMBER PARTITION ACL`")]
    BadText,
    /// The type says that the mailbox is on another server, and no server is named.
    #[error("a remote mailbox without a server")]
    NoServer,
    /// An empty server, or one with bytes that no host name has.
    #[error("`{0}` cannot be a server")]
    BadServer(String),
    /// A partition with bytes that no partition name has.
    #[error("`{0}` cannot be a partition")]
    BadPartition(String),
}

/// Reads the value of a mailbox's row.
pub fn parse(value: &[u8]) -> Result<Record, RecordError> {
    parse_dated(value).map(|(record, _)| record)
}

/// Reads the value of a mailbox's row with the time at which this host wrote it: `M`, which a slave, too,
/// sets by its own clock (Cyrus `imap/mboxlist.c:mboxlist_entry_cstring`). A text record has no time.
pub fn parse_dated(value: &[u8]) -> Result<(Record, ModTime), RecordError> {
    match value.first() {
        None => Err(RecordError::Empty),
        Some(b'%') => parse_dlist(value),
        Some(_) => Ok((parse_text(value)?, ModTime::NOT_LATELY)),
    }
}

/// The flags among the type bits, as far as they matter for mail.
#[derive(Debug, Clone, Copy, Default)]
struct TypeFlags {
    remote: bool,
    reserved: bool,
    moving: bool,
    deleted: bool,
    intermediate: bool,
}

impl TypeFlags {
    /// Reads the bits as Cyrus 2.2 to 3.4 number them.
    fn from_number(bits: u32) -> Self {
        Self {
            remote: bits & 1 != 0,
            reserved: bits & 2 != 0,
            moving: bits & 8 != 0,
            deleted: bits & 16 != 0,
            intermediate: bits & 256 != 0,
        }
    }

    /// Reads the letters of `T`. Letters of the kind of mailbox (`e`, `c`, `a`, …) do not matter.
    fn from_letters(letters: &[u8]) -> Self {
        let mut flags = Self::default();
        for letter in letters {
            match letter {
                b'r' => flags.remote = true,
                b'z' => flags.reserved = true,
                b'm' => flags.moving = true,
                b'd' => flags.deleted = true,
                b'i' => flags.intermediate = true,
                _ => {}
            }
        }
        flags
    }

    /// Returns the state, in the order in which Cyrus tests the flags (`mboxlist_lookup`, then
    /// `proxy_mlookup`).
    fn state(self) -> State {
        match self {
            TypeFlags { reserved: true, .. } => State::Reserved,
            TypeFlags { deleted: true, .. } => State::Deleted,
            TypeFlags { intermediate: true, .. } => State::Intermediate,
            TypeFlags { moving: true, .. } => State::Moving,
            _ => State::Active,
        }
    }
}

/// Sum of an ACL for an unauthenticated user, as `cyrus_acl_myrights` computes it: the rights of all
/// entries for that user, less those of all negative ones, whatever their order.
#[derive(Debug, Clone, Copy, Default)]
struct Acl {
    given: AnonymousRights,
    taken: AnonymousRights,
}

impl Acl {
    fn entry(&mut self, identifier: &[u8], rights: &[u8]) {
        let (sum, identifier) = match identifier.strip_prefix(b"-") {
            Some(identifier) => (&mut self.taken, identifier),
            None => (&mut self.given, identifier),
        };
        if matches!(identifier, b"anyone" | b"anonymous") {
            sum.lookup |= memchr(b'l', rights).is_some();
            sum.post |= memchr(b'p', rights).is_some();
        }
    }

    fn rights(self) -> AnonymousRights {
        AnonymousRights {
            lookup: self.given.lookup && !self.taken.lookup,
            post: self.given.post && !self.taken.post,
        }
    }
}

fn parse_dlist(value: &[u8]) -> Result<(Record, ModTime), RecordError> {
    let mut reader = DlistReader::new(value);
    reader.enter_map()?;
    let mut flags = TypeFlags::default();
    let mut server = None;
    let mut partition = Cow::default();
    let mut acl = Acl::default();
    let mut date = ModTime::NOT_LATELY;
    // The last one wins where a key stands twice, as in Cyrus.
    while let Some(key) = reader.key()? {
        match &*key.bytes() {
            b"T" => flags = TypeFlags::from_letters(&string(&mut reader)?.unwrap_or_default()),
            b"S" => server = string(&mut reader)?,
            b"P" => partition = string(&mut reader)?.unwrap_or_default(),
            b"A" => acl = read_acl(&mut reader)?,
            // Only the number of confirmations depends on it.
            b"M" if reader.kind() == ItemKind::Text => date = seconds(&reader.text()?.bytes()),
            _ => reader.skip()?,
        }
    }
    reader.finish()?;
    // `ctl_mboxlist -u` of 2.5 does not split `server!partition` of a text dump: the server is part of the
    // partition.
    let (server, partition) = match (&server, split(&partition, b'!')) {
        (None, Some((server, partition))) if flags.remote || flags.moving => {
            (Some(server), partition)
        }
        _ => (server.as_deref(), &*partition),
    };
    if flags.remote && server.is_none() {
        return Err(RecordError::NoServer);
    }
    Ok((record(flags.state(), server, partition, acl)?, date))
}

fn seconds(digits: &[u8]) -> ModTime {
    let seconds = digits.iter().try_fold(0u32, |seconds, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        seconds.checked_mul(10)?.checked_add(digit)
    });
    seconds.map_or(ModTime::NOT_LATELY, ModTime::seconds)
}

/// Returns the string that is due; `None` for `NIL`.
#[inline]
fn string<'a>(reader: &mut DlistReader<'a>) -> Result<Option<Cow<'a, [u8]>>, RecordError> {
    if reader.kind() != ItemKind::Text {
        return Err(RecordError::NotAString);
    }
    let text = reader.text()?;
    Ok(if text.is_nil() { None } else { Some(text.bytes()) })
}

fn read_acl(reader: &mut DlistReader<'_>) -> Result<Acl, RecordError> {
    let mut acl = Acl::default();
    match reader.kind() {
        ItemKind::Map => reader.enter_map()?,
        ItemKind::Text if reader.text()?.is_nil() => return Ok(acl),
        _ => return Err(RecordError::BadAcl),
    }
    while let Some(identifier) = reader.key()? {
        let rights = string(reader)?.unwrap_or_default();
        acl.entry(&identifier.bytes(), &rights);
    }
    Ok(acl)
}

fn parse_text(value: &[u8]) -> Result<Record, RecordError> {
    let value = match value.strip_prefix(b"(") {
        // The development releases before 2.5 put names and values of their own in front.
        Some(extended) => {
            let end = memchr(b')', extended).ok_or(RecordError::BadText)?;
            extended[end + 1..].strip_prefix(b" ").ok_or(RecordError::BadText)?
        }
        None => value,
    };
    let (number, rest) = split(value, b' ').ok_or(RecordError::BadText)?;
    // Cyrus reads a record that ends here as one with an empty ACL (`mboxlist_parse_entry`).
    let (partition, acl_text) = split(rest, b' ').unwrap_or((rest, b""));
    if !number.iter().all(u8::is_ascii_digit) {
        return Err(RecordError::BadText);
    }
    let number: Option<u32> = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok());
    let flags = TypeFlags::from_number(number.ok_or(RecordError::BadText)?);
    if flags.remote && memchr(b'!', partition).is_none() {
        return Err(RecordError::NoServer);
    }
    of_location(flags.state(), partition, acl_text)
}

/// Makes a record from a `server!partition` (a mailbox of this host has only a partition) and an ACL in
/// text: `identifier TAB rights TAB`, repeated. MUPDATE sends the same two.
pub(crate) fn of_location(
    state: State,
    location: &[u8],
    acl_text: &[u8],
) -> Result<Record, RecordError> {
    let (server, partition) = match split(location, b'!') {
        Some((server, partition)) => (Some(server), partition),
        None => (None, location),
    };
    // An entry without its tabs does not count, and neither do the entries after it.
    let mut acl = Acl::default();
    let mut rest = acl_text;
    while let Some((identifier, tail)) = split(rest, b'\t')
        && let Some((rights, tail)) = split(tail, b'\t')
    {
        acl.entry(identifier, rights);
        rest = tail;
    }
    record(state, server, partition, acl)
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    memchr(at, bytes).map(|found| (&bytes[..found], &bytes[found + 1..]))
}

fn record(
    state: State,
    server: Option<&[u8]>,
    partition: &[u8],
    acl: Acl,
) -> Result<Record, RecordError> {
    let server = match server {
        None => None,
        Some(server) => Some(
            printable(server)
                .filter(|server| !server.is_empty())
                .ok_or_else(|| RecordError::BadServer(ShownBytes(server).to_string()))?,
        ),
    };
    let partition = printable(partition)
        .ok_or_else(|| RecordError::BadPartition(ShownBytes(partition).to_string()))?;
    Ok(Record { state, server, partition, anonymous: acl.rights() })
}

/// Returns the bytes as text, if all of them are visible ASCII.
fn printable(bytes: &[u8]) -> Option<String> {
    let visible = bytes.iter().all(u8::is_ascii_graphic);
    if visible { std::str::from_utf8(bytes).ok().map(str::to_owned) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(state: State) -> Record {
        Record {
            state,
            server: None,
            partition: "default".into(),
            anonymous: AnonymousRights::default(),
        }
    }

    fn remote(state: State, server: &str, partition: &str) -> Record {
        Record { server: Some(server.into()), partition: partition.into(), ..local(state) }
    }

    #[test]
    fn records_of_every_release_are_read() {
        let be1 = |state| remote(state, "be1.example.com", "default");
        let table: &[(&[u8], Record)] = &[
            // 2.2 to 2.4
            (b"0 default jane\tlrs\t", local(State::Active)),
            (b"0 default ", local(State::Active)),
            (b"0 default", local(State::Active)),
            (b"1 be1.example.com!default", be1(State::Active)),
            (b"3 be1.example.com!default", be1(State::Reserved)),
            (b"1 be1.example.com!default jane\tlrs\t", be1(State::Active)),
            (b"3 be1.example.com!default ", be1(State::Reserved)),
            (b"8 be1.example.com!default jane\tlrs\t", be1(State::Moving)),
            (b"17 be1.example.com!default ", be1(State::Deleted)),
            (b"1 be1.example.com!default user with\tspaces\t", be1(State::Active)),
            (b"(uniqueid 4a2b specialuse x) 1 be1.example.com!default j\tl\t", be1(State::Active)),
            // 3.2
            (
                b"%(A %(jane.doe lrs) P default S be1.example.com T r M 1795434324)",
                be1(State::Active),
            ),
            (b"%(A %() P part2 S be2 T rz M 1795434324)", remote(State::Reserved, "be2", "part2")),
            (b"%(A %(jane lrs) I 5e3c1a V 1 F 1 P default M 1700000000)", local(State::Active)),
            // 3.6
            (
                b"%(T e I 1-2 P default V 17 C 5 F 7 M 17 A %(jane lrs) H (%(P old T d)))",
                local(State::Active),
            ),
            (b"%(T er P default S be1.example.com M 1795434610)", be1(State::Active)),
            (b"%(T i P default)", local(State::Intermediate)),
            (b"%(T d P default)", local(State::Deleted)),
            (b"%(T em P default S be1.example.com)", be1(State::Moving)),
            // Quoted and literal, a field not known yet, the last of two
            (b"%(P \"default\" S {3+}\r\nbe2 Q (a (b)))", remote(State::Active, "be2", "default")),
            (b"%(S be0 P default S be1.example.com)", be1(State::Active)),
            (b"%(P \"\" S be2)", remote(State::Active, "be2", "")),
            (b"%(P default S NIL)", local(State::Active)),
            (b"%(P default A NIL)", local(State::Active)),
            // A mailbox of this host has no server, whatever the name of its partition.
            (b"%(T e P odd!name)", Record { partition: "odd!name".into(), ..local(State::Active) }),
            // A user named S is not a server.
            (b"%(P default A %(S lrs P lrs T z))", local(State::Active)),
            // 2.5, after ctl_mboxlist -u
            (b"%(A %() P be1.example.com!default T r)", be1(State::Active)),
            (b"1 127.0.1.11:2004!default ", remote(State::Active, "127.0.1.11:2004", "default")),
        ];
        for (value, expected) in table {
            assert_eq!(parse(value).as_ref(), Ok(expected), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn date_is_read_and_never_invalidates_a_record() {
        let table: &[(&[u8], u32)] = &[
            (b"%(T er P default S be1.example.com M 1795434610)", 1_795_434_610),
            (b"%(M 17 T er P default S be1.example.com M 1795434610)", 1_795_434_610),
            (b"%(T er P default S be1.example.com)", 0),
            (b"%(T er P default S be1.example.com M NIL)", 0),
            (b"%(T er P default S be1.example.com M -1)", 0),
            (b"%(T er P default S be1.example.com M 99999999999999999999)", 0),
            (b"%(T er P default S be1.example.com M (1 2))", 0),
            (b"1 be1.example.com!default jane\tlrs\t", 0),
        ];
        for (value, date) in table {
            let (record, read) = parse_dated(value).unwrap();
            assert_eq!(record, remote(State::Active, "be1.example.com", "default"));
            assert_eq!(read.since_1970(), *date, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn first_state_that_cyrus_tests_counts() {
        let states = |letters: &str| parse(format!("%(T {letters} P x)").as_bytes()).unwrap().state;
        assert_eq!(states("emidz"), State::Reserved);
        assert_eq!(states("emid"), State::Deleted);
        assert_eq!(states("emi"), State::Intermediate);
        assert_eq!(states("em"), State::Moving);
        assert_eq!(parse(b"282 default ").unwrap().state, State::Reserved);
        assert_eq!(parse(b"280 default ").unwrap().state, State::Deleted);
        assert_eq!(parse(b"264 default ").unwrap().state, State::Intermediate);
    }

    #[test]
    fn text_number_never_has_the_meaning_of_3_6() {
        // 16 is `remote` since 3.6, `deleted` before; 1 was `remote` and is `netnews`.
        assert_eq!(parse(b"16 default ").unwrap().state, State::Deleted);
        assert_eq!(parse(b"1 default "), Err(RecordError::NoServer));
    }

    #[test]
    fn anonymous_rights_are_positive_less_negative_entries() {
        let table = [
            ("", "", false, false),
            ("anyone", "lrsp", true, true),
            ("anonymous", "p", false, true),
            ("anyone l anonymous", "p", true, true),
            ("anyone lrsp -anyone", "p", true, false),
            ("-anonymous p anyone", "lp", true, false),
            ("jane", "lrsp", false, false),
            ("group:staff", "lrsp", false, false),
            ("group:anyone", "lrsp", false, false),
            ("Anyone", "lrsp", false, false),
        ];
        for (ids, last, lookup, post) in table {
            let acl = format!("{ids} {last}");
            let dlist = format!("%(P default A %({}))", acl.trim());
            let text = match acl.trim() {
                "" => "0 default ".to_owned(),
                acl => format!("0 default {}\t", acl.replace(' ', "\t")),
            };
            for value in [dlist, text] {
                let rights = parse(value.as_bytes()).unwrap().anonymous;
                assert_eq!(rights, AnonymousRights { lookup, post }, "{value}");
            }
        }
    }

    #[test]
    fn truncated_acl_entry_does_not_count() {
        let rights = |value: &[u8]| parse(value).unwrap().anonymous;
        assert_eq!(rights(b"0 default anyone\tlp"), AnonymousRights::default());
        assert_eq!(rights(b"0 default anyone"), AnonymousRights::default());
    }

    #[test]
    fn doubtful_record_is_an_error() {
        let bad = |value: &[u8]| parse(value).expect_err(&value.escape_ascii().to_string());
        assert_eq!(bad(b""), RecordError::Empty);
        for text in [
            &b"default"[..],
            b"0",
            b"x default ",
            b"-1 default ",
            b"+1 default ",
            b" default ",
            b"99999999999 default ",
            b"(uniqueid 4a2b 0 default ",
            b"(uniqueid 4a2b)0 default ",
        ] {
            assert_eq!(bad(text), RecordError::BadText, "{}", text.escape_ascii());
        }
        assert_eq!(bad(b"%(T er P default)"), RecordError::NoServer);
        assert_eq!(bad(b"%(A lrs P default)"), RecordError::BadAcl);
        for value in [&b"%(T (e) P default)"[..], b"%(S %(a b))", b"%(A %(a (b)))"] {
            assert_eq!(bad(value), RecordError::NotAString, "{}", value.escape_ascii());
        }
        for value in [&b"%(P x) "[..], b"%(P x", b"%", b"%x (P x)"] {
            assert!(matches!(bad(value), RecordError::Malformed(_)), "{}", value.escape_ascii());
        }
        for value in
            [&b"%(S \"\")"[..], b"%(S \"be 1\")", b"%(S b\xc3\xa9)", b"1 !default ", b"1 b\x7f!d "]
        {
            assert!(matches!(bad(value), RecordError::BadServer(_)), "{}", value.escape_ascii());
        }
        assert!(matches!(bad(b"%(P {2}\r\na\n)"), RecordError::BadPartition(_)));
    }

    const REAL: [&[u8]; 4] = [
        b"%(T er P default S be1.example.com M 1795434610 A %(jane lrs \"group:a b\" p))",
        b"%(T e N \"user\x1fjane\" P {7+}\r\ndefault A %(-anyone lrs) H (%(N x M 1)))",
        b"%(A %(jane lrs) I 5e3c1a V 1 F 1 P default M 1700000000)",
        b"(uniqueid 4a2b) 1 be1.example.com!default jane\tlrs\tanyone\tp\t",
    ];

    #[test]
    fn truncated_dlist_record_is_an_error() {
        for value in &REAL[..3] {
            assert!(parse(value).is_ok());
            for length in 0..value.len() {
                assert!(parse(&value[..length]).is_err(), "{}", value[..length].escape_ascii());
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_usable_record_or_an_error(
            which in 0..REAL.len(),
            changes in proptest::collection::vec((0usize..90, proptest::num::u8::ANY), 0..6),
        ) {
            let mut value = REAL[which].to_vec();
            for (at, byte) in changes {
                if let Some(place) = value.get_mut(at) {
                    *place = byte;
                }
            }
            if let Ok(record) = parse(&value) {
                let texts = [record.server.as_deref().unwrap_or("x"), record.partition.as_str()];
                assert!(texts.iter().all(|text| text.bytes().all(|byte| byte.is_ascii_graphic())));
                assert_ne!(record.server.as_deref(), Some(""));
            }
        }
    }
}
