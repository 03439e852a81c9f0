//! Reports everything wrong in a twoskip or twom file.

use super::header::SkipHeader;
use super::node::{Layout, MAX_LEVEL, NodeKind};
use super::reader::{ListStep, SnapshotReader};
use super::window::Scratch;
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::order::Order;
use crate::cyrusdb::problem::ProblemList;
use crate::cyrusdb::source::ByteSource;
use crate::cyrusdb::{Problem, RawRecord};

/// Reads a whole file and returns its problems. Calls `visit` for every committed record, in the order of
/// the list, as far as the list leads.
///
/// Checks as a log: every record up to the committed end, its checksums, the targets of its pointers, and
/// that each transaction is closed by a commit that knows where it began. Checks as a list: that the keys
/// ascend, that each upper list has exactly the members it should have, and that there are as many records
/// as the header says; the last two only if no transaction is under way. A file that is being written may
/// show problems that are only writes in progress.
///
/// Takes 16 bytes of memory for each record.
pub fn verify<S: ByteSource + ?Sized>(
    source: &S,
    visit: &mut dyn FnMut(RawRecord<'_>),
) -> Vec<Problem> {
    let mut problems = ProblemList::default();
    let header = match SkipHeader::read(source) {
        Ok(header) => header,
        Err(error) => {
            problems.push(error.into());
            return problems.0;
        }
    };
    match source.size() {
        Err(error) => problems.push(Error::from(error).into()),
        Ok(size) => match header.check_size(size) {
            Err(error) => problems.push(error.into()),
            Ok(()) if header.dirty || (header.layout == Layout::Twoskip && size > header.end) => {
                let what = "a transaction is under way behind this, or its writer died";
                problems.add(header.end, what);
            }
            Ok(()) => {}
        },
    }
    let mut scratch = Scratch::default();
    let log =
        read_log(SnapshotReader::new(source, header, Order::Raw, &mut scratch), &mut problems);
    let reader = SnapshotReader::new(source, header, Order::Raw, &mut scratch);
    read_list(reader, &log, &mut problems, visit);
    problems.0
}

/// A record of the log.
struct LogEntry {
    offset: u64,
    kind: NodeKind,
    level: usize,
}

/// Reads every record from the beginning to the committed end.
fn read_log<S: ByteSource + ?Sized>(
    reader: SnapshotReader<'_, S>,
    problems: &mut ProblemList,
) -> Vec<LogEntry> {
    let mut reader = reader.along_file();
    let (layout, end) = (reader.header().layout, reader.header().end);
    let mut log: Vec<LogEntry> = Vec::new();
    let mut at = layout.dummy();
    let mut transaction = layout.first();
    let mut lost = false;
    while at < end && !problems.is_full() {
        match reader.load_log(at) {
            Ok(true) => {}
            Ok(false) => {
                at += 8;
                continue;
            }
            Err(error) => {
                // Searches for the next record. The bytes between are one problem.
                if !lost {
                    problems.push(error.into());
                }
                lost = true;
                at += 8;
                continue;
            }
        }
        lost = false;
        let node = reader.cur();
        let (kind, level, target) = (node.kind, node.level, node.target);
        at = node.end();
        let offset = node.offset;
        if (kind == NodeKind::Dummy) != log.is_empty() {
            problems.add(offset, "the beginning of the list stands in another place");
        }
        if kind == NodeKind::Commit {
            if target != transaction {
                problems.add(
                    offset,
                    format!("ends a transaction that began at {target}, not at {transaction}"),
                );
            }
            transaction = at;
        }
        if let Err(error) = reader.check_tail() {
            problems.push(error.into());
        }
        check_pointers(&reader, &log, problems);
        log.push(LogEntry { offset, kind, level });
    }
    if transaction != end && !problems.is_full() {
        problems.add(transaction, "committed by the header, but no commit follows");
    }
    check_later_pointers(reader, &log, problems);
    log
}

fn entry(log: &[LogEntry], offset: u64) -> Option<&LogEntry> {
    log.binary_search_by_key(&offset, |entry| entry.offset).ok().and_then(|at| log.get(at))
}

/// Checks the offset to which the current record points back: the record that it supersedes, or the one
/// behind a deleted record.
fn check_pointers<S: ByteSource + ?Sized>(
    reader: &SnapshotReader<'_, S>,
    log: &[LogEntry],
    problems: &mut ProblemList,
) {
    let node = reader.cur();
    let ok = match (reader.header().layout, node.kind) {
        (_, NodeKind::Dummy | NodeKind::Commit) => true,
        (Layout::Twoskip, NodeKind::Record) => true,
        (_, _) if node.target == 0 => {
            node.kind == NodeKind::Record || reader.header().layout == Layout::Twoskip
        }
        (Layout::Twom { .. }, NodeKind::Record) => {
            let kind = entry(log, node.target).map(|entry| entry.kind);
            matches!(kind, Some(NodeKind::Record | NodeKind::Delete))
        }
        (_, NodeKind::Delete) => {
            entry(log, node.target).is_some_and(|entry| entry.kind == NodeKind::Record)
        }
    };
    if !ok {
        let what = format!("names {}, where no earlier record stands", node.target);
        problems.add(node.offset, what);
    }
}

/// Checks where the lists lead from each record. Superseded records are included: their pointers stay.
fn check_later_pointers<S: ByteSource + ?Sized>(
    mut reader: SnapshotReader<'_, S>,
    log: &[LogEntry],
    problems: &mut ProblemList,
) {
    let header = *reader.header();
    for from in log.iter().filter(|entry| entry.level > 0) {
        if problems.is_full() || reader.load_log(from.offset).is_err() {
            continue;
        }
        for (slot, to) in reader.cur().next.iter().copied().enumerate().take(from.level + 1) {
            let list = slot.saturating_sub(1);
            let ok = match entry(log, to) {
                _ if to == 0 => true,
                _ if to >= header.end => header.dirty,
                Some(entry) if list == 0 => {
                    matches!(entry.kind, NodeKind::Record | NodeKind::Delete)
                }
                Some(entry) => entry.kind == NodeKind::Record && entry.level > list,
                None => false,
            };
            if !ok {
                let what = format!("list {list} leads to {to}, which is no member of it");
                problems.add(from.offset, what);
            }
        }
    }
}

/// Walks along the list.
fn read_list<S: ByteSource + ?Sized>(
    reader: SnapshotReader<'_, S>,
    log: &[LogEntry],
    problems: &mut ProblemList,
    visit: &mut dyn FnMut(RawRecord<'_>),
) {
    let mut reader = reader.along_lists();
    let header = *reader.header();
    let mut count = 0;
    let mut orders = vec![Order::Raw, Order::Mbox];
    // For each upper list, the last member so far and its successor.
    let mut upper = [(header.layout.dummy(), 0); MAX_LEVEL];
    let walked: Result<()> = (|| {
        reader.load(header.layout.dummy())?;
        for (list, (_, leads_to)) in upper.iter_mut().enumerate() {
            *leads_to = reader.cur().successor(list);
        }
        // A loop comes by more records than there are.
        for _ in 0..=log.len() {
            let before = (reader.cur().kind, reader.cur_key().to_vec());
            let ListStep::To { deleted } = reader.step_anyhow()? else { return Ok(()) };
            let node = reader.cur();
            let offset = node.offset;
            for (list, (last, leads_to)) in upper.iter_mut().enumerate().take(node.level).skip(1) {
                if *leads_to != offset && !header.dirty {
                    let what = format!("list {list} leads to {leads_to} and passes {offset}");
                    problems.add(*last, what);
                }
                (*last, *leads_to) = (offset, node.successor(list));
            }
            if before.0 != NodeKind::Dummy && !orders.is_empty() {
                orders.retain(|order| order.compare(&before.1, reader.cur_key()).is_lt());
                if orders.is_empty() {
                    problems.add(offset, "its key is not greater than the one before");
                }
            }
            if !deleted {
                count += 1;
                // A bad tail has been reported already.
                if reader.check_tail().is_ok() {
                    let (key, value) = reader.cur_row();
                    visit(RawRecord { offset, key, value });
                }
            }
        }
        Err(Error::corrupt(reader.cur().offset, "the list runs in a circle"))
    })();
    match walked {
        Err(error) => problems.push(error.into()),
        Ok(()) if header.dirty => {}
        Ok(()) => {
            for (list, (last, leads_to)) in upper.iter().enumerate().skip(1) {
                if *leads_to != 0 {
                    let what = format!("list {list} leads to {leads_to} behind its end");
                    problems.add(*last, what);
                }
            }
            if count != header.records {
                let what = format!("{count} records, but the header counts {}", header.records);
                problems.add(0, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cyrus_lists::lists;
    use crate::testing::cyrus_writer::Writer;
    use crate::testing::random::Random;

    fn list(layout: Layout, changes: u32) -> Vec<u8> {
        let mut writer = Writer::new(layout, Random(1), 1, |a, b| a.cmp(b));
        for i in 0..changes {
            writer.put(format!("user.{:02}", i % 60).as_bytes(), &i.to_be_bytes());
            if i % 3 == 0 {
                writer.delete(format!("user.{:02}", i % 50).as_bytes());
            }
            if i % 5 == 0 {
                writer.commit();
            }
        }
        writer.commit();
        writer.file
    }

    const LAYOUTS: [Layout; 2] = [Layout::Twoskip, Layout::Twom { checksums: true }];

    #[test]
    fn files_of_cyrus_have_no_problems() {
        for list in lists() {
            for engine in ["twoskip", "twom"] {
                let mut rows = Vec::new();
                let file = list.file(&format!("{engine}.db"));
                let problems = verify(&file, &mut |row| {
                    rows.push((row.key.to_vec(), row.value.to_vec()));
                });
                assert_eq!(problems, [], "{engine}");
                list.check(rows.iter().map(|(key, value)| (&key[..], &value[..])));

                // A writer that was killed is a problem, but the only one.
                let mut seen = 0;
                let file = list.file(&format!("{engine}-killed.db"));
                let problems = verify(&file, &mut |_| seen += 1);
                assert_eq!((problems.len(), seen), (1, rows.len()), "{engine}: {problems:?}");
            }
        }
        for layout in LAYOUTS {
            assert_eq!(verify(&list(layout, 200), &mut |_| ()), []);
        }
    }

    #[test]
    fn every_flipped_byte_is_a_problem() {
        for layout in LAYOUTS {
            let mut file = list(layout, 18);
            for at in 0..file.len() {
                file[at] ^= 0x41;
                assert!(!verify(&file, &mut |_| ()).is_empty(), "{layout:?}: byte {at}");
                file[at] ^= 0x41;
            }
        }
    }

    #[test]
    fn all_problems_are_listed() {
        let file = list(Layout::Twoskip, 200);
        let mut broken = file.clone();
        let records: Vec<usize> = {
            let mut at = Vec::new();
            verify(&file, &mut |row| at.push(row.offset as usize));
            at.into_iter().step_by(7).collect()
        };
        for at in &records {
            let level = usize::from(file[at + 1]);
            // The first byte of the key.
            broken[at + 8 + 8 * (level + 1) + 8] ^= 1;
        }
        let problems = verify(&broken, &mut |_| ());
        for at in records {
            let offset = at as u64;
            assert!(problems.iter().any(|p| p.offset == offset), "{offset}: {problems:?}");
        }
    }

    #[test]
    fn truncated_file_has_a_problem() {
        for layout in LAYOUTS {
            let file = list(layout, 40);
            let end = SkipHeader::read(&file).unwrap().end as usize;
            for len in (0..end).step_by(5) {
                assert!(!verify(&file[..len].to_vec(), &mut |_| ()).is_empty(), "{len}");
            }
        }
    }
}
