//! Reads the remaining records of a damaged skiplist file.
//!
//! A lost record hides its contents. Before the log that is one key. In the log it may have been the
//! DELETE of an earlier record, or its successor, so that the position of a record no longer tells whether
//! it is the current one of its key. The pointers tell: those of each list lead along live records. So
//! behind a loss in the log a record counts only if it is live by the log, and if pointers of other whole
//! records, from the DUMMY on, lead to it.

use super::*;
use crate::cyrusdb::problem::MAX_PROBLEMS;

/// Maximum length of a key, in bytes, where a record may begin.
const KEY_LIMIT: u32 = 4096;

impl Replay {
    /// Reads the readable records of a file that [`follow`](Self::follow) refuses for the reason `refused`,
    /// and lists the [damage](Self::damage). The caller holds the shared lock.
    ///
    /// # Errors
    ///
    /// If the header cannot be used, or no record is left.
    pub fn of_damaged<S: ByteSource + ?Sized>(
        source: &S,
        size: u64,
        refused: Problem,
    ) -> Result<Self> {
        if u32::try_from(size).is_err() {
            return Err(Error::corrupt(size, "larger than a skiplist file can be (4 GiB)"));
        }
        let mut replay = Self::new();
        let header = read_header(source, size)?;
        replay.header = Some(header);
        let mut start = 0;
        while start < size {
            let want = CHUNK.min(size - start) as usize;
            replay.bytes.resize(start as usize + want, 0);
            let got = read_full(source, start, &mut replay.bytes[start as usize..])?;
            if got < want {
                replay.bytes.truncate(start as usize + got);
                break;
            }
            start += want as u64;
        }
        let whole = replay.read_past_damage(header, refused);
        let in_log = replay.damage.iter().any(|problem| problem.offset >= header.logstart);
        if in_log || whole.is_log_in_doubt {
            let reached = replay.reached(&whole.records);
            replay.live.retain(|at| reached.contains(at));
            replay.others.retain(|at| reached.contains(at));
        }
        if replay.is_empty() {
            return Err(match replay.damage.into_iter().next() {
                Some(problem) => problem.into(),
                None => Error::Empty,
            });
        }
        Ok(replay)
    }

    /// Returns the problems, by offset. If there are any, a missing key may have been in the damaged part.
    pub fn damage(&self) -> &[Problem] {
        &self.damage
    }

    /// Returns a problem if a pointer leads behind the end of the file: whole transactions were cut off.
    pub fn leads_past(&self, size: u64) -> Option<Problem> {
        let past = |at: &u32| self.pointers(*at).any(|pointer| u64::from(pointer) >= size);
        let from = self.live.iter().copied().filter(past).min()?;
        let what = "a pointer leads behind the end of the file: it was truncated".into();
        Some(Problem { offset: from.into(), what })
    }

    /// Whether the file still begins with the bytes that were read: the header, and the keys and values of
    /// the last records. This is no proof, but Cyrus changes none of them.
    pub fn continues<S: ByteSource + ?Sized>(&self, source: &S, size: u64) -> bool {
        if size < self.committed() || read_header(source, size).ok() != self.header {
            return false;
        }
        self.last.iter().all(|at| {
            let from = *at as usize;
            let known = self.pointers_at(*at).and_then(|to| self.bytes.get(from..to));
            let Some(known) = known else { return false };
            let mut now = vec![0; known.len()];
            read_full(source, from as u64, &mut now).ok() == Some(now.len()) && now == known
        })
    }

    /// Reads transactions up to the end of the bytes in memory, past damaged parts.
    fn read_past_damage(&mut self, header: SkiplistHeader, refused: Problem) -> Salvage {
        let size = self.bytes.len() as u64;
        let mut whole = Salvage::default();
        let mut problems = Vec::new();
        let mut changes: Vec<LogChange> = Vec::new();
        let mut committed = 0;
        let mut at = match self.dummy_end(header) {
            Some(end) => end,
            None => {
                problems.push(problem(HEADER as u64, "the first record is not the DUMMY"));
                self.next_record(HEADER as u64 + 4, header)
            }
        };
        // Committed changes.
        let mut logs = Vec::new();
        while at < size {
            if at >= header.logstart && committed == 0 {
                committed = header.logstart;
                logs.append(&mut changes);
            }
            let in_log = at >= header.logstart;
            let here = at as u32;
            let kind = word_at(&self.bytes, at as usize);
            match kind {
                Some(INORDER) if !in_log => {}
                Some(ADD) if in_log => {}
                Some(DELETE) if in_log && at + 8 <= size => {
                    let record = word_at(&self.bytes, at as usize + 4).unwrap_or(0);
                    changes.push(LogChange::Remove { at: here, record });
                    at += 8;
                    continue;
                }
                Some(COMMIT) if in_log => {
                    logs.append(&mut changes);
                    at += 4;
                    committed = at;
                    continue;
                }
                _ => {
                    whole.lost(&mut problems, at, header);
                    at = self.next_record(at + 4, header);
                    whole.ends(at, header);
                    continue;
                }
            }
            match self.end_of_whole(at, header) {
                Some(end) => {
                    changes.push(LogChange::Put(here));
                    whole.records.insert(here);
                    at = end;
                }
                None => {
                    whole.lost(&mut problems, at, header);
                    at = self.next_record(at + 4, header);
                    whole.ends(at, header);
                }
            }
        }
        if committed == 0 {
            // Records before the log were committed when the file was made.
            logs.append(&mut changes);
            committed = header.logstart.min(size);
            if size < header.logstart {
                problems.push(problem(size, "the file ends before its log: it was truncated"));
                whole.is_log_in_doubt = true;
            }
        }
        if problems.is_empty() {
            problems.push(refused);
            whole.is_log_in_doubt = true;
        }
        self.damage = problems;
        for change in logs {
            // Does not fail while damage is noted.
            let _ = self.change(change);
        }
        self.bytes.truncate(usize::try_from(committed).unwrap_or(usize::MAX));
        // A live record is wholly in memory.
        let end = self.bytes.len();
        let bytes = &self.bytes;
        let is_whole = |at: &u32| (*at as usize) < end && key_at(bytes, *at).is_some();
        self.live.retain(|at| is_whole(at));
        self.others.retain(is_whole);
        whole
    }

    fn dummy_end(&self, header: SkiplistHeader) -> Option<u64> {
        let word = |at: usize| word_at(&self.bytes, at);
        let end = HEADER + 12 + 4 * header.maxlevel as usize;
        let begins = [word(HEADER)?, word(HEADER + 4)?, word(HEADER + 8)?];
        (begins == [DUMMY, 0, 0] && word(end)? == NO_MORE_POINTERS).then_some(end as u64 + 4)
    }

    /// Returns the offset behind the record at `at`, if it is whole and of the type for that place.
    fn end_of_whole(&self, at: u64, header: SkiplistHeader) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let word = |at: usize| word_at(&self.bytes, at);
        let kind = if at as u64 >= header.logstart { ADD } else { INORDER };
        if word(at)? != kind {
            return None;
        }
        let key_length = word(at + 4).filter(|length| (1..=KEY_LIMIT).contains(length))?;
        let key = self.bytes.get(at + 8..)?.get(..key_length as usize)?;
        // Cyrus writes no key with a NUL.
        if key.contains(&0) {
            return None;
        }
        let value_length_at = at + 8 + padded(key_length) as usize;
        let value_length = word(value_length_at)?;
        let value = self.bytes.get(value_length_at + 4..)?.get(..value_length as usize)?;
        // Nor a value; zeros at its end are lost bytes.
        if value.contains(&0) {
            return None;
        }
        let pointers = value_length_at + 4 + padded(value_length) as usize;
        for level in 0..=header.maxlevel as usize {
            let pointer = word(pointers + 4 * level)?;
            if pointer == NO_MORE_POINTERS {
                return (level > 0).then_some((pointers + 4 * level + 4) as u64);
            }
            // This is text, where a length before it was lost. In a truncated file pointers may lead behind
            // the end.
            let is_text = pointer.to_be_bytes().iter().all(|byte| *byte >= b' ');
            if is_text && pointer as usize >= self.bytes.len() {
                return None;
            }
        }
        None
    }

    /// Returns the offset of the next whole record from here on, or of the log; the end, if there is none.
    fn next_record(&self, from: u64, header: SkiplistHeader) -> u64 {
        let size = self.bytes.len() as u64;
        let mut at = from;
        while at < size {
            // The log begins with a record.
            if at == header.logstart || self.end_of_whole(at, header).is_some() {
                return at;
            }
            at += 4;
        }
        size
    }

    fn pointers_at(&self, record: u32) -> Option<usize> {
        let record = record as usize;
        let key_length = word_at(&self.bytes, record + 4)?;
        let value_length_at = record + 8 + padded(key_length) as usize;
        let value_length = word_at(&self.bytes, value_length_at)?;
        Some(value_length_at + 4 + padded(value_length) as usize)
    }

    /// Returns the pointers of a record, in all its lists.
    fn pointers(&self, record: u32) -> impl Iterator<Item = u32> {
        let from = match record {
            // The DUMMY has no key and no value.
            0 => Some(HEADER + 12),
            record => self.pointers_at(record),
        };
        let words =
            from.into_iter().flat_map(|from| (0..MAX_LEVEL as usize).map(move |n| from + 4 * n));
        words.map_while(|at| word_at(&self.bytes, at).filter(|word| *word != NO_MORE_POINTERS))
    }

    /// Returns the whole records to which pointers of whole records lead.
    fn reached(&self, whole: &HashSet<u32>) -> HashSet<u32> {
        let mut reached = HashSet::new();
        let mut from = vec![0];
        while let Some(record) = from.pop() {
            for to in self.pointers(record) {
                if whole.contains(&to) && reached.insert(to) {
                    from.push(to);
                }
            }
        }
        reached
    }
}

/// Records read from a damaged file.
#[derive(Default)]
struct Salvage {
    records: HashSet<u32>,
    /// A loss before the log reaches into it, or the log contradicts itself.
    is_log_in_doubt: bool,
    lost_before: bool,
}

impl Salvage {
    fn lost(&mut self, problems: &mut Vec<Problem>, at: u64, header: SkiplistHeader) {
        self.lost_before = at < header.logstart;
        if problems.len() < MAX_PROBLEMS {
            problems.push(problem(at, "no whole record where one should begin"));
        }
    }

    /// Notes the end of a loss.
    fn ends(&mut self, at: u64, header: SkiplistHeader) {
        self.is_log_in_doubt |= self.lost_before && at > header.logstart;
    }
}

fn problem(offset: u64, what: &str) -> Problem {
    Problem { offset, what: what.into() }
}
