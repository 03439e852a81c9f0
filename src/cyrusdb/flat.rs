//! The flat engine: a text file, `key TAB value LF` for each record.
//!
//! From Cyrus 2.5 on, the bytes 00, 09, 0A and 0D in keys and values are written as FF and the
//! byte with its high bit set, FF itself as FF FF (`lib/cyrusdb_flat.c`, `encode`). Up to 2.4
//! nothing is escaped and the TABs of an ACL stand bare in the value, so only the first TAB of a
//! line divides. No old value has an FF, hence one reader does for both.
//!
//! A writer makes a new file and renames it over the old one. What was opened never changes, is
//! complete, and needs no lock.

use std::ops::Range;

use memchr::memchr;

use super::error::{Error, Result};
use super::{Problem, Row};

/// Announces an escaped byte.
const ESCAPE: u8 = 0xff;

/// How many problems [`verify`] lists before it stops reading.
const MAX_PROBLEMS: usize = 1000;

/// A whole flat file in memory, with its records in order.
///
/// Takes the size of the file and 16 bytes a record.
#[derive(Debug)]
pub struct Table {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    problems: Vec<Problem>,
}

/// A record: the key, one byte that is no part of anything, the value.
#[derive(Debug, Clone, Copy)]
struct Line {
    start: usize,
    key: u32,
    value: u32,
}

impl Line {
    fn key(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start..][..self.key as usize]
    }

    fn value(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start + self.key as usize + 1..][..self.value as usize]
    }
}

impl Table {
    /// Reads a file. One line that is none of this engine's, or a key that stands twice, makes all
    /// of it unreadable: it was not Cyrus that wrote it.
    pub fn read(bytes: Vec<u8>) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        let (table, broken) = scan(bytes, 1);
        match broken.into_iter().next() {
            Some(problem) => Err(Error::corrupt(problem.offset, problem.what)),
            None => Ok(table),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let at = self.lines.binary_search_by(|line| line.key(&self.bytes).cmp(key)).ok()?;
        self.lines.get(at).map(|line| line.value(&self.bytes))
    }

    /// All keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (line.key(&self.bytes), line.value(&self.bytes)))
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What is wrong without making the rest unreadable: a last line without its LF, which is
    /// left out. Then the file was cut off, and that a name is not in it proves nothing.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// Reads a whole file and says what is wrong in it; calls `visit` for every record that can
/// be read.
pub fn verify(bytes: Vec<u8>, visit: &mut dyn FnMut(Row<'_>)) -> Vec<Problem> {
    if bytes.is_empty() {
        return vec![Problem { offset: 0, what: Error::Empty.to_string() }];
    }
    let (table, mut problems) = scan(bytes, MAX_PROBLEMS);
    for line in &table.lines {
        let (key, value) = (line.key(&table.bytes), line.value(&table.bytes));
        visit(Row { offset: line.start as u64, key, value });
    }
    problems.extend(table.problems);
    problems.sort_by_key(|problem| problem.offset);
    problems
}

/// Whether these first bytes of a file could be the flat engine's. All lines must be its own, the
/// last one may be cut off anywhere; but a file so short that its one line is not even a key is
/// not believed.
pub(super) fn begins_like_lines(head: &[u8]) -> bool {
    let mut rest = head;
    while let Some(end) = memchr(b'\n', rest) {
        if divide(&rest[..end]).is_err() {
            return false;
        }
        rest = &rest[end + 1..];
    }
    match memchr(b'\t', rest) {
        Some(_) => divide(rest).is_ok(),
        None => rest.is_empty() || head.len() >= super::HEAD && is_key(rest),
    }
}

/// Where in a line the value begins, less one: the place of its first TAB.
fn divide(line: &[u8]) -> std::result::Result<usize, &'static str> {
    let tab = memchr(b'\t', line).ok_or("a line without a TAB between key and value")?;
    let (key, value) = line.split_at(tab);
    if !is_key(key) {
        return Err("a line that does not begin with a key");
    }
    if value.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        return Err("a value with a NUL or CR in it");
    }
    Ok(tab)
}

/// Keys have no control characters, but for the separators of Cyrus 3.6 and later.
fn is_key(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| matches!(byte, 0x1d..=0x1f | 0x20..=0x7e | 0x80..))
}

/// Finds the records and up to `limit` lines that are none.
fn scan(mut bytes: Vec<u8>, limit: usize) -> (Table, Vec<Problem>) {
    let mut lines: Vec<Line> = Vec::new();
    let mut problems = Vec::new();
    let mut broken = Vec::new();
    let mut start = 0;
    while start < bytes.len() && broken.len() < limit {
        let Some(length) = memchr(b'\n', &bytes[start..]) else {
            let what = "the last line has no end, so the file was cut off; it is left out".into();
            problems.push(Problem { offset: start as u64, what });
            break;
        };
        match divide(&bytes[start..start + length]) {
            Ok(tab) => match decode(&mut bytes, start, tab, length) {
                Some(line) => lines.push(line),
                None => broken.push(problem(start, "a line longer than 4 GiB")),
            },
            Err(what) => broken.push(problem(start, what)),
        }
        start += length + 1;
    }
    // Cyrus sorts by an order of its own; files come almost sorted by ours.
    lines.sort_by(|a, b| a.key(&bytes).cmp(b.key(&bytes)));
    for pair in lines.windows(2) {
        if pair[0].key(&bytes) == pair[1].key(&bytes) && broken.len() < limit {
            broken.push(problem(pair[1].start, "a key that stood in an earlier line already"));
        }
    }
    (Table { bytes, lines, problems }, broken)
}

fn problem(offset: usize, what: &str) -> Problem {
    Problem { offset: offset as u64, what: what.into() }
}

/// Decodes one line where it stands: it can only get shorter.
fn decode(bytes: &mut [u8], start: usize, tab: usize, length: usize) -> Option<Line> {
    let key = unescape(bytes, start..start + tab, start);
    let value_at = start + key + 1;
    let value = unescape(bytes, start + tab + 1..start + length, value_at);
    Some(Line { start, key: key.try_into().ok()?, value: value.try_into().ok()? })
}

/// Decodes `from` to where it begins or further left; returns the decoded length.
fn unescape(bytes: &mut [u8], from: Range<usize>, to: usize) -> usize {
    if memchr(ESCAPE, &bytes[from.clone()]).is_none() {
        let length = from.len();
        bytes.copy_within(from, to);
        return length;
    }
    let mut end = to;
    let mut at = from.start;
    while at < from.end {
        let mut byte = bytes[at];
        at += 1;
        if byte == ESCAPE {
            if at == from.end {
                break;
            }
            byte = match bytes[at] {
                ESCAPE => ESCAPE,
                escaped => escaped & 0x7f,
            };
            at += 1;
        }
        bytes[end] = byte;
        end += 1;
    }
    end - to
}

#[cfg(test)]
mod tests {
    use super::super::expected;
    use super::*;

    fn table(text: &[u8]) -> Table {
        Table::read(text.to_vec()).unwrap()
    }

    #[test]
    fn escapes_and_bare_tabs_mean_the_same() {
        let old = table(b"user.jane\t0 default jane\tlrs\t\n");
        let new = table(b"user.jane\t0 default jane\xff\x89lrs\xff\x89\n");
        for table in [old, new] {
            assert_eq!(table.get(b"user.jane"), Some(&b"0 default jane\tlrs\t"[..]));
        }
        let odd = table(b"a\xff\xff\xff\x8ab\t\xff\x80\xff\x8d\xff\xff x\xff\nb\tc\n");
        assert_eq!(odd.get(b"a\xff\nb"), Some(&b"\0\r\xff x"[..]));
        assert_eq!(odd.get(b"b"), Some(&b"c"[..]));
    }

    #[test]
    fn records_are_found_whatever_the_order_of_the_file() {
        let table = table(b"user.b\t2\nuser.a\t1\nuser.a-b\t4\nuser.a.Sent\t3\n\x80\t\n");
        for (key, value) in
            [("user.a", "1"), ("user.b", "2"), ("user.a.Sent", "3"), ("user.a-b", "4")]
        {
            assert_eq!(table.get(key.as_bytes()), Some(value.as_bytes()));
        }
        assert_eq!(table.get(b"user"), None);
        assert_eq!(table.get(b""), None);
        assert_eq!(table.get(b"\x80"), Some(&b""[..]));
        assert_eq!(table.len(), 5);
        assert_eq!(table.iter().count(), 5);
        assert!(table.problems().is_empty() && !table.is_empty());
    }

    #[test]
    fn a_last_line_without_its_end_is_left_out_and_reported() {
        let table = table(b"user.a\t1\nuser.b\t2");
        assert_eq!(table.get(b"user.a"), Some(&b"1"[..]));
        assert_eq!(table.get(b"user.b"), None);
        assert_eq!(table.problems()[0].offset, 9);
    }

    #[test]
    fn a_foreign_line_makes_the_file_unreadable() {
        for (text, offset) in [
            (&b"user.a\t1\nno tab\n"[..], 9),
            (b"user.a\t1\n\n", 9),
            (b"user.a\t1\n\tx\n", 9),
            (b"user.a\t1\nuser\x01b\tx\n", 9),
            (b"user.a\t1\nuser.b\tx\0\n", 9),
            (b"user.a\t1\r\n", 0),
            (b"user.a\t1\nuser.b\t2\nuser.a\t3\n", 18),
        ] {
            match Table::read(text.to_vec()) {
                Err(Error::Corrupt { offset: at, .. }) => {
                    assert_eq!(at, offset, "{}", text.escape_ascii());
                }
                other => panic!("{}: {other:?}", text.escape_ascii()),
            }
        }
        assert!(matches!(Table::read(Vec::new()), Err(Error::Empty)));
    }

    #[test]
    fn verify_goes_on_after_a_problem_but_not_for_ever() {
        let mut seen = Vec::new();
        let text = b"bad\nuser.a\t1\nbad\nuser.b\t2\ncut\toff";
        let problems = verify(text.to_vec(), &mut |row| seen.push((row.offset, row.key.to_vec())));
        assert_eq!(seen, [(4, b"user.a".to_vec()), (17, b"user.b".to_vec())]);
        let offsets: Vec<u64> = problems.iter().map(|problem| problem.offset).collect();
        assert_eq!(offsets, [0, 13, 26]);

        let problems = verify(b"bad\n".repeat(100_000), &mut |_| ());
        assert_eq!(problems.len(), MAX_PROBLEMS);
    }

    #[test]
    fn files_of_real_cyrus_say_what_they_must() {
        for list in expected::lists() {
            let table = Table::read(list.file("flat.db")).unwrap();
            list.check(table.iter());
            for (key, value) in table.iter() {
                assert_eq!(table.get(key), Some(value));
            }
            for key in list.absent() {
                assert_eq!(table.get(key), None);
            }
            assert!(verify(list.file("flat.db"), &mut |_| ()).is_empty());
        }
    }

    #[test]
    fn a_file_cut_off_anywhere_is_never_taken_for_whole() {
        for list in expected::lists() {
            let whole = list.file("flat.db");
            let records = Table::read(whole.clone()).unwrap().len();
            for length in (0..whole.len()).step_by(7) {
                match Table::read(whole[..length].to_vec()) {
                    // Cut between two lines: nothing in the file can tell.
                    Ok(table) if table.problems().is_empty() => {
                        assert_eq!(whole[length - 1], b'\n');
                        assert!(table.len() < records);
                    }
                    Ok(table) => assert!(table.problems()[0].offset < length as u64),
                    Err(error) => assert!(length == 0, "{length}: {error}"),
                }
            }
        }
    }

    #[test]
    fn no_flipped_byte_is_a_panic() {
        let small =
            b"user.a\t1 be!x a\xff\x89l\xff\x89\nuser.b\t\xff\xff\n\xff\x8a\x1f\t\n".to_vec();
        for (whole, step) in [(small, 1), (expected::lists()[0].file("flat.db"), 97)] {
            for at in (0..whole.len()).step_by(step) {
                for flip in [0x01, 0x02, 0x80, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= flip;
                    if let Ok(table) = Table::read(bytes.clone()) {
                        assert!(table.iter().all(|(key, value)| table.get(key) == Some(value)));
                    }
                    let mut end = 0;
                    let problems = verify(bytes, &mut |row| end = end.max(row.offset));
                    assert!(end < whole.len() as u64);
                    assert!(problems.iter().all(|problem| problem.offset < whole.len() as u64));
                }
            }
        }
    }
}
