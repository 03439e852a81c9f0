//! The format of keys and values in the store. Any other bytes are an error, never an absence.
//!
//! Keys are mailbox names in internal form (at most 510 bytes; LMDB takes 511). One key is no name,
//! because no name has a control character: [`ABOUT_KEY`].
//!
//! The value of a name:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | when it changed, in seconds since 1970, big endian; 0: not recently, as far as is known |
//! | 1 | state: `A` active, `R` reserved, `M` moving, `D` deleted, `I` intermediate |
//! | 1 | bits: 1 lookup, 2 post, 4 it has a server |
//! | 2 | length of the server, big endian |
//! | … | server, UTF-8, no control characters |
//! | rest | partition, UTF-8, no control characters |
//!
//! The value of a [`Missing`] name is that of its last record, with the time when it went missing as
//! the time when it changed, and with this before it:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the constant `MISSING`, which no time is |
//! | 8 | milliseconds for which the replica had been followed, big endian |
//! | 2 | length of the name of the master that had it, big endian |
//! | … | name of that master |
//!
//! The value of [`ABOUT_KEY`]; times are milliseconds since 1970, numbers 8 bytes big endian:
//!
//! | bytes | what |
//! |---|---|
//! | 14 | `murder-replica` |
//! | 1 | [`VERSION`] of all that is in the store |
//! | 1 | bits: 1 synchronised, 2 as of, 4 held back, 8 accepted, 16 oldest missing, 32 lacked |
//! | 11 × 8 | synchronised, as of, held back since, began, last, had, lost, lacked, followed, missing, oldest missing; 0 where there is none |
//! | 2 | length of the master's name, big endian |
//! | … | the master's name |
//! | rest | its release |

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::doubt::{DoubtKind, Doubtful};
use crate::model::mod_time::ModTime;
use crate::model::record::{AnonymousRights, Record, State};
use crate::replica::{HeldBack, Mark, Missing, ReplicaMeta};

/// The key of the metadata.
pub const ABOUT_KEY: &[u8] = b"\0about";
/// Version of the format that is written and read.
pub const VERSION: u8 = 3;

const MAGIC: &[u8] = b"murder-replica";

/// Length of the time when a record changed.
const CHANGED: usize = 4;

/// Beginning of the value of a missing name: a time in the year 2106.
const MISSING: &[u8] = &[0xff; CHANGED];

/// Count of the numbers in the value of [`ABOUT_KEY`].
const NUMBERS: usize = 11;

/// Why bytes are not a value, or a record has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// Not in this format.
    #[error("damaged value")]
    Damaged,
    /// Too long for its length field.
    #[error("a server's name of more than 65,535 bytes")]
    TooLong,
    /// The store is of another version of this program.
    #[error("written as version {0}, and this murder-route reads version {VERSION}")]
    Version(u8),
}

impl Doubtful for BadValue {
    fn doubt_kind(&self) -> DoubtKind {
        match self {
            Self::Damaged | Self::TooLong => DoubtKind::Damaged,
            Self::Version(_) => DoubtKind::Unreadable,
        }
    }
}

/// Appends a record's value.
pub fn push_record(record: &Record, changed: ModTime, value: &mut Vec<u8>) -> Result<(), BadValue> {
    let Record { state, server, partition, anonymous } = record;
    let changed = changed.since_1970().min(u32::MAX - 1);
    value.extend_from_slice(&changed.to_be_bytes());
    value.push(match state {
        State::Active => b'A',
        State::Reserved => b'R',
        State::Moving => b'M',
        State::Deleted => b'D',
        State::Intermediate => b'I',
    });
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    value.push(bit(anonymous.lookup, 1) | bit(anonymous.post, 2) | bit(server.is_some(), 4));
    push_text(server.as_deref().unwrap_or_default(), value)?;
    value.extend_from_slice(partition.as_bytes());
    Ok(())
}

/// Appends the value of a missing name, of whose last record `last` is the value.
pub fn push_missing(mark: &Mark, last: &[u8], value: &mut Vec<u8>) -> Result<(), BadValue> {
    value.extend_from_slice(MISSING);
    value.extend_from_slice(&millis(mark.at).to_be_bytes());
    push_text(&mark.master, value)?;
    let since = mark.since.since_1970().min(u32::MAX - 1);
    value.extend_from_slice(&since.to_be_bytes());
    value.extend_from_slice(last.get(CHANGED..).ok_or(BadValue::Damaged)?);
    Ok(())
}

/// Decoded value of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A record, and when it changed.
    Record(Record, ModTime),
    /// The name is missing.
    Missing(Missing),
}

impl Row {
    /// The record for a walk: a missing name is shown as one that exists but takes no mail now.
    pub fn walked(self) -> Record {
        match self {
            Row::Record(record, _) => record,
            Row::Missing(missing) => Record { state: State::Reserved, ..missing.record },
        }
    }
}

/// Reads the value of a name.
pub fn row(value: &[u8]) -> Result<Row, BadValue> {
    let Some((mark, last)) = mark_of(value)? else {
        let (record, changed) = dated_record(value)?;
        return Ok(Row::Record(record, changed));
    };
    let (record, since) = dated_record(last)?;
    Ok(Row::Missing(Missing { record, mark: Mark { since, ..mark } }))
}

/// Returns how a name went missing, by its value; `None`: it is not missing.
pub fn mark(value: &[u8]) -> Result<Option<Mark>, BadValue> {
    let Some((mark, last)) = mark_of(value)? else { return Ok(None) };
    let since = last.first_chunk().ok_or(BadValue::Damaged)?;
    Ok(Some(Mark { since: ModTime::seconds(u32::from_be_bytes(*since)), ..mark }))
}

/// Whether the value of a name says that it is missing.
pub fn is_missing(value: &[u8]) -> bool {
    value.starts_with(MISSING)
}

/// How a name went missing, but not since when, and the value of its last record.
fn mark_of(value: &[u8]) -> Result<Option<(Mark, &[u8])>, BadValue> {
    let Some(value) = value.strip_prefix(MISSING) else { return Ok(None) };
    let (at, rest) = value.split_first_chunk().ok_or(BadValue::Damaged)?;
    let at = Duration::from_millis(u64::from_be_bytes(*at));
    let (len, rest) = rest.split_first_chunk().ok_or(BadValue::Damaged)?;
    let len = usize::from(u16::from_be_bytes(*len));
    let (master, last) = rest.split_at_checked(len).ok_or(BadValue::Damaged)?;
    let master = std::str::from_utf8(master).map_err(|_| BadValue::Damaged)?.to_owned();
    Ok(Some((Mark { since: ModTime::NOT_LATELY, at, master }, last)))
}

/// Whether two values hold the same record, whenever it changed.
pub fn is_same_record(one: &[u8], other: &[u8]) -> bool {
    one.get(CHANGED..).is_some_and(|record| other.get(CHANGED..) == Some(record))
}

/// Reads a record's value.
pub fn record(value: &[u8]) -> Result<Record, BadValue> {
    dated_record(value).map(|(record, _)| record)
}

/// Reads a record's value, and when it changed.
pub fn dated_record(value: &[u8]) -> Result<(Record, ModTime), BadValue> {
    let (changed, value) = value.split_first_chunk::<CHANGED>().ok_or(BadValue::Damaged)?;
    let [state, bits, rest @ ..] = value else { return Err(BadValue::Damaged) };
    let state = match state {
        b'A' => State::Active,
        b'R' => State::Reserved,
        b'M' => State::Moving,
        b'D' => State::Deleted,
        b'I' => State::Intermediate,
        _ => return Err(BadValue::Damaged),
    };
    let (server, partition) = split_text(rest)?;
    // The part of a file that was cut off reads as zeros.
    let control = |text: &str| text.bytes().any(|byte| byte < b' ' || byte == 0x7f);
    let server_without_bit = bits & 4 == 0 && !server.is_empty();
    if bits & !7 != 0 || server_without_bit || control(server) || control(partition) {
        return Err(BadValue::Damaged);
    }
    let record = Record {
        state,
        server: (bits & 4 != 0).then(|| server.to_owned()),
        partition: partition.to_owned(),
        anonymous: AnonymousRights { lookup: bits & 1 != 0, post: bits & 2 != 0 },
    };
    Ok((record, ModTime::seconds(u32::from_be_bytes(*changed))))
}

/// The value of [`ABOUT_KEY`].
pub fn of_about(about: &ReplicaMeta) -> Result<Vec<u8>, BadValue> {
    let ReplicaMeta { synchronised, as_of, master, release, held_back, followed, missing, oldest } =
        about;
    let mut value = MAGIC.to_vec();
    value.push(VERSION);
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    value.push(
        bit(synchronised.is_some(), 1)
            | bit(as_of.is_some(), 2)
            | bit(held_back.is_some(), 4)
            | bit(held_back.as_ref().is_some_and(|held| held.accepted), 8)
            | bit(oldest.is_some(), 16)
            | bit(held_back.as_ref().is_some_and(|held| held.lacked.is_some()), 32),
    );
    let held = held_back.as_ref();
    let clock = |time: Option<SystemTime>| {
        let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        millis(since)
    };
    let numbers: [u64; NUMBERS] = [
        clock(*synchronised),
        clock(*as_of),
        clock(held.map(|held| held.since)),
        held.map_or(0, |held| millis(held.began)),
        held.map_or(0, |held| millis(held.last)),
        held.map_or(0, |held| held.had),
        held.map_or(0, |held| held.lost),
        held.and_then(|held| held.lacked).unwrap_or(0),
        millis(*followed),
        *missing,
        oldest.map_or(0, millis),
    ];
    for number in numbers {
        value.extend_from_slice(&number.to_be_bytes());
    }
    push_text(master, &mut value)?;
    value.extend_from_slice(release.as_bytes());
    Ok(value)
}

/// Reads the value of [`ABOUT_KEY`].
pub fn about(value: &[u8]) -> Result<ReplicaMeta, BadValue> {
    let fields = AboutFields::read(value)?;
    let [synchronised, as_of, since, began, last, had, lost, lacked, followed, missing, oldest] =
        fields.numbers;
    let time = |bit: u8, millis| match fields.bits & bit != 0 {
        true => {
            let time = UNIX_EPOCH.checked_add(Duration::from_millis(millis));
            time.map(Some).ok_or(BadValue::Damaged)
        }
        false => Ok(None),
    };
    let accepted = fields.bits & 8 != 0;
    let [began, last] = [began, last].map(Duration::from_millis);
    let lacked = (fields.bits & 32 != 0).then_some(lacked);
    let held_back =
        time(4, since)?.map(|since| HeldBack { since, began, last, had, lost, lacked, accepted });
    let (master, release) = split_text(fields.texts)?;
    Ok(ReplicaMeta {
        synchronised: time(1, synchronised)?,
        as_of: time(2, as_of)?,
        master: master.to_owned(),
        release: release.to_owned(),
        held_back,
        followed: Duration::from_millis(followed),
        missing,
        oldest: (fields.bits & 16 != 0).then(|| Duration::from_millis(oldest)),
    })
}

/// Reads the part of the value of [`ABOUT_KEY`] that a lookup needs: whether the replica was ever
/// synchronised, and the master's release.
pub fn synchronised_release(value: &[u8]) -> Result<(bool, &str), BadValue> {
    let fields = AboutFields::read(value)?;
    Ok((fields.bits & 1 != 0, split_text(fields.texts)?.1))
}

struct AboutFields<'a> {
    bits: u8,
    numbers: [u64; NUMBERS],
    texts: &'a [u8],
}

impl<'a> AboutFields<'a> {
    fn read(value: &'a [u8]) -> Result<Self, BadValue> {
        let (bits, mut texts) = match value.strip_prefix(MAGIC) {
            Some([VERSION, bits, rest @ ..]) => (*bits, rest),
            Some([version, ..]) if *version != VERSION => return Err(BadValue::Version(*version)),
            _ => return Err(BadValue::Damaged),
        };
        let mut numbers = [0; NUMBERS];
        for number in &mut numbers {
            let (bytes, rest) = texts.split_first_chunk().ok_or(BadValue::Damaged)?;
            *number = u64::from_be_bytes(*bytes);
            texts = rest;
        }
        Ok(Self { bits, numbers, texts })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn push_text(text: &str, value: &mut Vec<u8>) -> Result<(), BadValue> {
    let len = u16::try_from(text.len()).map_err(|_| BadValue::TooLong)?;
    value.extend_from_slice(&len.to_be_bytes());
    value.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Splits a text with its length in front from the text that follows it.
fn split_text(bytes: &[u8]) -> Result<(&str, &str), BadValue> {
    let (len, rest) = bytes.split_first_chunk().ok_or(BadValue::Damaged)?;
    let len = usize::from(u16::from_be_bytes(*len));
    let (text, rest) = rest.split_at_checked(len).ok_or(BadValue::Damaged)?;
    let utf8 = |bytes| std::str::from_utf8(bytes).map_err(|_| BadValue::Damaged);
    Ok((utf8(text)?, utf8(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn times() -> impl Strategy<Value = Option<SystemTime>> {
        let time = (0..1u64 << 45).prop_map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
        proptest::option::of(time)
    }

    proptest! {
        #[test]
        fn written_record_is_read_back(
            state in 0..5usize,
            server in proptest::option::of("\\PC{0,40}"),
            partition in "\\PC{0,40}",
            lookup: bool,
            post: bool,
            seconds: u32,
            later: u32,
        ) {
            let states =
                [State::Active, State::Reserved, State::Moving, State::Deleted, State::Intermediate];
            let anonymous = AnonymousRights { lookup, post };
            let written =
                Record { state: states[state], server, partition: partition.clone(), anonymous };
            let (mut value, mut same, mut other) = (Vec::new(), Vec::new(), Vec::new());
            push_record(&written, ModTime::seconds(seconds), &mut value).unwrap();
            push_record(&written, ModTime::seconds(later), &mut same).unwrap();
            let moved = Record { partition: written.partition.clone() + "2", ..written.clone() };
            push_record(&moved, ModTime::seconds(seconds), &mut other).unwrap();
            prop_assert!(is_same_record(&value, &same) && !is_same_record(&value, &other));
            let (read, changed) = dated_record(&value).unwrap();
            prop_assert_eq!(&read, &written);
            prop_assert_eq!(changed.since_1970(), seconds.min(u32::MAX - 1));
            prop_assert_eq!(record(&value), Ok(written.clone()));
            prop_assert_eq!(row(&value), Ok(Row::Record(written.clone(), changed)));
            prop_assert_eq!((is_missing(&value), mark(&value)), (false, Ok(None)));
            let at = Duration::from_millis(u64::from(later) << 9);
            let (since, master) = (ModTime::seconds(later.min(u32::MAX - 1)), partition.clone());
            let went = Mark { since, at, master };
            let mut missing = Vec::new();
            push_missing(&went, &value, &mut missing).unwrap();
            prop_assert!(is_missing(&missing) && record(&missing).is_err());
            prop_assert_eq!(mark(&missing), Ok(Some(went.clone())));
            prop_assert_eq!(row(&missing), Ok(Row::Missing(Missing { record: written, mark: went })));
        }

        #[test]
        fn metadata_is_read_as_it_was_written(
            synchronised in times(),
            as_of in times(),
            since in times(),
            waits in [0..1u64 << 45, 0..1u64 << 45, 0..1u64 << 45, 0..1u64 << 45],
            counts: [u64; 4],
            accepted: bool,
            lasting: bool,
            master in "\\PC{0,40}",
            release in "\\PC{0,40}",
        ) {
            let [began, last, followed, oldest] = waits.map(Duration::from_millis);
            let [had, lost, lacked, missing] = counts;
            let lacked = accepted.then_some(lacked);
            let held_back =
                since.map(|since| HeldBack { since, began, last, had, lost, lacked, accepted });
            let oldest = (!lasting).then_some(oldest);
            let written = ReplicaMeta {
                synchronised, as_of, master, release, held_back, followed, missing, oldest,
            };
            let value = of_about(&written).unwrap();
            let short = synchronised_release(&value);
            prop_assert_eq!(short, Ok((synchronised.is_some(), &*written.release)));
            for len in 0..MAGIC.len() + 2 + NUMBERS * 8 + 2 {
                prop_assert_eq!(about(&value[..len]), Err(BadValue::Damaged));
            }
            prop_assert_eq!(about(&value), Ok(written));
        }

        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes: Vec<u8>) {
            let _ = record(&bytes);
            let missing = [MISSING, &bytes].concat();
            let _ = (row(&bytes), row(&missing), mark(&missing));
            let _ = synchronised_release(&bytes);
            let with_magic = [MAGIC, &[VERSION], &bytes].concat();
            let _ = about(&with_magic);
            let _ = synchronised_release(&with_magic);
        }
    }

    #[test]
    fn invalid_value_is_an_error_and_no_record() {
        for value in [
            &b""[..],
            b"A",
            b"A\0",
            b"A\0\0",
            b"X\0\0\0",
            b"A\x08\0\0",
            b"A\0\0\x01a",
            b"A\x04\0\x05be1",
            b"A\x04\0\x01\xff",
            b"A\x04\0\x03be\0",
            b"A\x04\0\x03be1d\0",
        ] {
            let dated = [&b"iabc"[..], value].concat();
            assert_eq!(record(&dated), Err(BadValue::Damaged), "{}", value.escape_ascii());
        }
        for len in 0..4 {
            assert_eq!(record(&b"iabc"[..len]), Err(BadValue::Damaged));
            assert!(!is_same_record(&b"iabc"[..len], &b"iabc"[..len]));
        }
        let long = Record {
            state: State::Active,
            server: Some("a".repeat(65_536)),
            partition: String::new(),
            anonymous: AnonymousRights::default(),
        };
        assert_eq!(
            push_record(&long, ModTime::NOT_LATELY, &mut Vec::new()),
            Err(BadValue::TooLong)
        );
        let mut value = of_about(&ReplicaMeta::default()).unwrap();
        value[MAGIC.len()] = 2;
        assert_eq!(about(&value), Err(BadValue::Version(2)));
        assert_eq!(synchronised_release(&value), Err(BadValue::Version(2)));
    }
}
