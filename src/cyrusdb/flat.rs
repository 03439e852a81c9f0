//! The flat engine: a text file, `key TAB value LF` for each record.
//!
//! From Cyrus 2.5 on, the bytes 00, 09, 0A and 0D in keys and values are written as FF and the
//! byte with its high bit set, FF itself as FF FF (`lib/cyrusdb_flat.c`, `encode`). Up to 2.4
//! nothing is escaped and the TABs of an ACL stand bare in the value, so only the first TAB of a
//! line divides. No old value has an FF, hence one reader does for both.
//!
//! A writer makes a new file and renames it over the old one. An opened file never changes, is
//! complete, and needs no lock.

use std::ops::Range;

use memchr::{memchr, memrchr};

use super::error::{Error, Result};
use super::order::Order;
use super::problem::ProblemList;
use super::{Problem, RawRecord, value};

/// Escape byte: the next byte is escaped.
const ESCAPE: u8 = 0xff;

/// A whole flat file in memory, with its records in order.
///
/// Takes the size of the file and 24 bytes for each record.
#[derive(Debug)]
pub struct FlatTable {
    bytes: Vec<u8>,
    lines: Vec<FlatLine>,
    problems: Vec<Problem>,
}

/// A record: the key, one unused byte, the value.
#[derive(Debug, Clone, Copy)]
struct FlatLine {
    start: usize,
    key: u32,
    value: u32,
    /// Line number in the file, from 1.
    number: u32,
}

impl FlatLine {
    fn key(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start..][..self.key as usize]
    }

    fn value(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start + self.key as usize + 1..][..self.value as usize]
    }
}

impl FlatTable {
    /// Reads a file. A bad line is left out, and all others are in the table, since Cyrus finds them by a
    /// binary search (`lib/bsearch.c`, `bsearch_mem_mbox`). See [`Self::problems`].
    ///
    /// # Errors
    ///
    /// If the file is empty, or none of its lines is a record.
    pub fn read(bytes: Vec<u8>) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        let table = scan(bytes);
        match table.problems.first() {
            Some(problem) if table.lines.is_empty() => Err(problem.clone().into()),
            _ => Ok(table),
        }
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let at = self.lines.binary_search_by(|line| line.key(&self.bytes).cmp(key)).ok()?;
        self.lines.get(at).map(|line| line.value(&self.bytes))
    }

    /// Returns all keys and values, in order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (line.key(&self.bytes), line.value(&self.bytes)))
    }

    /// Returns keys and values from this key on.
    pub fn iter_from(&self, from: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let start = self.lines.partition_point(|line| line.key(&self.bytes) < from);
        let lines = self.lines.get(start..).unwrap_or_default();
        lines.iter().map(|line| (line.key(&self.bytes), line.value(&self.bytes)))
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are no records.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns the first thousand problems, by offset. If there are any, a name that is not in the table may
    /// have been in one of these lines.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// Reads a whole file and returns its problems. Calls `visit` for every readable record.
pub fn verify(bytes: Vec<u8>, visit: &mut dyn FnMut(RawRecord<'_>)) -> Vec<Problem> {
    if bytes.is_empty() {
        return vec![Problem { offset: 0, what: Error::Empty.to_string() }];
    }
    let disorder = out_of_order(&bytes);
    let table = scan(bytes);
    for line in &table.lines {
        let (key, value) = (line.key(&table.bytes), line.value(&table.bytes));
        visit(RawRecord { offset: line.start as u64, key, value });
    }
    let mut problems = table.problems;
    problems.extend(disorder);
    problems.sort_by_key(|problem| problem.offset);
    problems
}

/// Returns the first line whose key is less than the key before, in the one of the two orders that has
/// fewer such lines. Cyrus may not find its record, nor those around it.
fn out_of_order(bytes: &[u8]) -> Option<Problem> {
    let whole = &bytes[..memrchr(b'\n', bytes)?];
    let lines = whole.split(|byte| *byte == b'\n').enumerate().filter_map(|(at, line)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Some((at + 1, &line[..divide(line).ok()?]))
    });
    let lines: Vec<(usize, &[u8])> = lines.collect();
    let wrong = |order: Order| {
        let pairs = lines.windows(2);
        let mut pairs = pairs.filter(move |pair| order.compare(pair[0].1, pair[1].1).is_gt());
        let first = pairs.next().map(|pair| pair[1]);
        (usize::from(first.is_some()) + pairs.count(), first)
    };
    let (_, first) =
        std::cmp::min_by_key(wrong(Order::Raw), wrong(Order::Mbox), |(count, _)| *count);
    let (number, key) = first?;
    let offset = key.as_ptr() as usize - bytes.as_ptr() as usize;
    Some(problem(number, offset, "a key that should stand before the one in the line above"))
}

/// Whether these first bytes of a file may be of the flat engine: all lines have its form, and the last one
/// may be incomplete; or one line is a record of a mailbox. A file too short to have one whole key is
/// refused.
pub(super) fn begins_like_lines(head: &[u8]) -> bool {
    let mut rest = head;
    let mut all = true;
    while let Some(end) = memchr(b'\n', rest) {
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        match divide(line) {
            Ok(tab) if is_value_of_a_mailbox(&line[tab + 1..]) => return true,
            Ok(_) => {}
            Err(_) => all = false,
        }
        rest = &rest[end + 1..];
    }
    all && match memchr(b'\t', rest) {
        Some(_) => divide(rest).is_ok(),
        None => rest.is_empty() || head.len() >= super::HEAD && is_key(rest),
    }
}

/// Whether a value begins like one that [`value`] parses.
fn is_value_of_a_mailbox(value: &[u8]) -> bool {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    value.starts_with(b"%(")
        || value.starts_with(b"(")
        || digits > 0 && value.get(digits) == Some(&b' ')
}

/// Returns the offset of the first TAB of a line, behind which the value begins.
fn divide(line: &[u8]) -> std::result::Result<usize, &'static str> {
    if line.is_empty() {
        return Err("blank");
    }
    let tab = memchr(b'\t', line).ok_or("no TAB between key and value")?;
    let (key, value) = line.split_at(tab);
    if !is_key(key) {
        return Err("does not begin with a key");
    }
    if value.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        return Err("a NUL or CR in the value");
    }
    Ok(tab)
}

/// Whether these bytes can be a key: without control characters, except the separators of Cyrus 3.6 and
/// later.
fn is_key(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| matches!(byte, 0x1d..=0x1f | 0x20..=0x7e | 0x80..))
}

/// Finds the records and the bad lines.
fn scan(mut bytes: Vec<u8>) -> FlatTable {
    let mut lines: Vec<FlatLine> = Vec::new();
    let mut problems = ProblemList::default();
    let (mut start, mut number) = (0, 0);
    while start < bytes.len() {
        number += 1;
        let Some(length) = memchr(b'\n', &bytes[start..]) else {
            let what = "the last line has no end: the file was truncated; the line is ignored";
            problems.push(problem(number, start, what));
            break;
        };
        let next = start + length + 1;
        let mut end = start + length;
        if bytes[start..end].ends_with(b"\r") {
            problems.push(problem(
                number,
                start,
                "ends with CR LF: Cyrus takes the CR for a part of the value",
            ));
            end -= 1;
        }
        match divide(&bytes[start..end]) {
            Ok(tab) => match decode(&mut bytes, start, tab, end - start, number) {
                Some(line) => lines.push(line),
                None => problems.push(problem(number, start, "longer than 4 GiB")),
            },
            Err(what) => problems.push(problem(number, start, what)),
        }
        start = next;
    }
    // Cyrus may sort by the other order; its files are almost sorted by ours.
    lines.sort_by(|a, b| a.key(&bytes).cmp(b.key(&bytes)));
    if lines.windows(2).any(|pair| pair[0].key(&bytes) == pair[1].key(&bytes)) {
        lines = unambiguous(&lines, &bytes, &mut problems);
    }
    problems.0.sort_by_key(|problem| problem.offset);
    FlatTable { bytes, lines, problems: problems.0 }
}

/// Resolves lines with a common key, of which Cyrus finds any. One of them is kept if all have the same
/// record, else none.
fn unambiguous(lines: &[FlatLine], bytes: &[u8], problems: &mut ProblemList) -> Vec<FlatLine> {
    let mut kept = Vec::new();
    for group in lines.chunk_by(|a, b| a.key(bytes) == b.key(bytes)) {
        let [first, others @ ..] = group else { continue };
        let says = |line: &FlatLine| value::parse(line.value(bytes)).ok();
        let same = |other: &FlatLine| {
            other.value(bytes) == first.value(bytes)
                || says(other).is_some() && says(other) == says(first)
        };
        if others.iter().all(same) {
            kept.push(*first);
        }
        for other in others {
            let what = format!("repeats the key of line {}", first.number);
            problems.push(problem(other.number as usize, other.start, &what));
        }
    }
    kept
}

fn problem(number: usize, offset: usize, what: &str) -> Problem {
    Problem { offset: offset as u64, what: format!("line {number}: {what}") }
}

/// Decodes one line in place: it can only get shorter.
fn decode(
    bytes: &mut [u8],
    start: usize,
    tab: usize,
    length: usize,
    number: usize,
) -> Option<FlatLine> {
    let key = unescape(bytes, start..start + tab, start);
    let value_at = start + key + 1;
    let value = unescape(bytes, start + tab + 1..start + length, value_at);
    let number = number.try_into().unwrap_or(u32::MAX);
    Some(FlatLine { start, key: key.try_into().ok()?, value: value.try_into().ok()?, number })
}

/// Decodes `from` to `to`, which is its beginning or further left. Returns the decoded length.
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
    use super::*;
    use crate::testing::cyrus_lists;

    fn table(text: &[u8]) -> FlatTable {
        FlatTable::read(text.to_vec()).unwrap()
    }

    #[test]
    fn escaped_and_bare_tabs_are_equal() {
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
    fn records_are_found_in_any_order_of_the_file() {
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
    fn unterminated_last_line_is_ignored_and_reported() {
        let table = table(b"user.a\t1\nuser.b\t2");
        assert_eq!(table.get(b"user.a"), Some(&b"1"[..]));
        assert_eq!(table.get(b"user.b"), None);
        assert_eq!(table.problems()[0].offset, 9);
    }

    #[test]
    fn bad_line_is_left_out_and_reported() {
        for (bad, what) in [
            (&b"no tab"[..], "line 2: no TAB between key and value"),
            (b"", "line 2: blank"),
            (b"\r", "line 2: blank"),
            (b"\tx", "line 2: does not begin with a key"),
            (b"user\x01b\tx", "line 2: does not begin with a key"),
            (b"user.b\tx\0", "line 2: a NUL or CR in the value"),
            (b"\0\0\0\0\0\0", "line 2: no TAB between key and value"),
            (b"kxtecdan) I 5e3c", "line 2: no TAB between key and value"),
            (b"user.a\t2", "line 2: repeats the key of line 1"),
        ] {
            let text = [b"user.a\t1\n", bad, b"\nuser.c\t3\n"].concat();
            let table = table(&text);
            let last = table.problems().last().unwrap();
            assert!(last.what.starts_with(what) && last.offset == 9, "{last:?}");
            assert_eq!(table.get(b"user.c"), Some(&b"3"[..]), "{what}");
            let is_ambiguous = bad.starts_with(b"user.a");
            assert_eq!(table.get(b"user.a"), (!is_ambiguous).then_some(&b"1"[..]), "{what}");
            assert_eq!(table.get(b"user.b"), None, "{what}");
            let listed = verify(text, &mut |_| ());
            assert!(listed.iter().any(|problem| problem.what.starts_with(what)), "{listed:?}");
        }
        for text in [&b"no tab\n"[..], b"\n\n", b"\tx\n", b"user.a\t1"] {
            let error = FlatTable::read(text.to_vec()).map(drop).unwrap_err();
            assert!(error.to_string().contains("line 1: "), "{error}");
        }
        assert!(matches!(FlatTable::read(Vec::new()), Err(Error::Empty)));
    }

    #[test]
    fn repeated_key_with_the_same_record_is_kept() {
        let one = "user.a\t%(T er P default S be1 M 1 A %(a lrs))\n";
        let again = "user.a\t%(T er P default S be1 M 2 A %(a l))\n";
        let moved = "user.a\t%(T er P default S be2 M 3)\n";
        let value = |text: &str| {
            let text = format!("{text}user.z\t1\n");
            table(text.as_bytes()).get(b"user.a").map(<[u8]>::to_vec)
        };
        assert!(value(&[one, one].concat()).is_some());
        assert!(value(&[one, again, one].concat()).is_some());
        for text in [[one, moved].concat(), [moved, one].concat(), [one, again, moved].concat()] {
            assert_eq!(value(&text), None);
        }
    }

    #[test]
    fn cr_before_lf_is_ignored() {
        let table = table(b"user.a\t1\r\nuser.b\t2\r\n");
        assert_eq!(table.get(b"user.a"), Some(&b"1"[..]));
        assert_eq!(table.problems().len(), 2);
        assert!(table.problems()[1].what.starts_with("line 2: ends with CR LF"));
    }

    #[test]
    fn verify_names_the_first_key_out_of_order() {
        let verify = |text: &[u8]| {
            let problems = verify(text.to_vec(), &mut |_| ());
            problems.into_iter().map(|problem| (problem.offset, problem.what)).collect::<Vec<_>>()
        };
        for good in [
            &b"user.a\t1\nuser.a-b\t2\nuser.a.c\t3\n"[..],
            b"user.a\t1\nuser.a.c\t3\nuser.a-b\t2\n",
        ] {
            assert_eq!(verify(good), []);
        }
        let found = verify(b"user.c\t1\nuser.d\t1\nuser.a\t1\nuser.e\t1\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].0 == 18 && found[0].1.starts_with("line 3: a key that should"),
            "{found:?}"
        );
    }

    #[test]
    fn problems_are_limited_and_later_records_are_read() {
        let mut seen = Vec::new();
        let text = b"bad\nuser.a\t1\nbad\nuser.b\t2\ncut\toff";
        let problems = verify(text.to_vec(), &mut |row| seen.push((row.offset, row.key.to_vec())));
        assert_eq!(seen, [(4, b"user.a".to_vec()), (17, b"user.b".to_vec())]);
        let offsets: Vec<u64> = problems.iter().map(|problem| problem.offset).collect();
        assert_eq!(offsets, [0, 13, 26]);

        let mut text = b"bad\n".repeat(100_000);
        text.extend_from_slice(b"user.z\t1\n");
        let table = table(&text);
        assert_eq!(table.problems().len(), crate::cyrusdb::problem::MAX_PROBLEMS);
        assert_eq!(table.get(b"user.z"), Some(&b"1"[..]));
    }

    #[test]
    fn files_of_cyrus_have_the_expected_records() {
        for list in cyrus_lists::lists() {
            let table = FlatTable::read(list.file("flat.db")).unwrap();
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
    fn truncated_file_is_never_complete() {
        for list in cyrus_lists::lists() {
            let whole = list.file("flat.db");
            let records = FlatTable::read(whole.clone()).unwrap().len();
            for length in (0..whole.len()).step_by(7) {
                match FlatTable::read(whole[..length].to_vec()) {
                    // Cut between two lines: nothing in the file can tell.
                    Ok(table) if table.problems().is_empty() => {
                        assert_eq!(whole[length - 1], b'\n');
                        assert!(table.len() < records);
                    }
                    Ok(table) => assert!(table.problems()[0].offset < length as u64),
                    // Not one whole line.
                    Err(error) => assert!(!whole[..length].contains(&b'\n'), "{length}: {error}"),
                }
            }
        }
    }

    #[test]
    fn no_flipped_byte_is_a_panic() {
        let small =
            b"user.a\t1 be!x a\xff\x89l\xff\x89\nuser.b\t\xff\xff\n\xff\x8a\x1f\t\n".to_vec();
        for (whole, step) in [(small, 1), (cyrus_lists::lists()[0].file("flat.db"), 97)] {
            for at in (0..whole.len()).step_by(step) {
                for flip in [0x01, 0x02, 0x80, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= flip;
                    if let Ok(table) = FlatTable::read(bytes.clone()) {
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
