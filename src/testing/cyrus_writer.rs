//! Writer of twoskip and twom files for tests, made from the description of the formats, not
//! from the readers. It writes as Cyrus does, down to the order of the single writes, and keeps
//! them in a journal, so that a test can read the file between any two of them.

use super::random::Random;
use crate::cyrusdb::skip::node::Layout;

/// One write to the file.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    At(u64, Vec<u8>),
    Truncate(u64),
}

/// Applies a write to `file`.
pub(crate) fn apply(write: &Write, file: &mut Vec<u8>) {
    match write {
        Write::At(offset, bytes) => {
            let at = *offset as usize;
            if file.len() < at + bytes.len() {
                file.resize(at + bytes.len(), 0);
            }
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Write::Truncate(size) => file.truncate(*size as usize),
    }
}

const LEVELS: usize = 31;

#[derive(Debug, Clone, Default)]
struct Rec {
    at: u64,
    kind: u8,
    level: usize,
    next: Vec<u64>,
    target: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

const DUMMY: u8 = b'=';
const RECORD: u8 = b'+';
const DELETE: u8 = b'-';
const COMMIT: u8 = b'$';

#[derive(Debug)]
pub(crate) struct Writer {
    layout: Layout,
    pub(crate) file: Vec<u8>,
    pub(crate) journal: Vec<Write>,
    pub(crate) random: Random,
    generation: u64,
    records: u64,
    repack_size: u64,
    /// End of the last commit, and of what has been written.
    pub(crate) committed: u64,
    written: u64,
    dirty: bool,
    order: fn(&[u8], &[u8]) -> std::cmp::Ordering,
}

impl Writer {
    pub(crate) fn new(
        layout: Layout,
        random: Random,
        generation: u64,
        order: fn(&[u8], &[u8]) -> std::cmp::Ordering,
    ) -> Self {
        let mut writer = Self {
            layout,
            file: Vec::new(),
            journal: Vec::new(),
            random,
            generation,
            records: 0,
            repack_size: 0,
            committed: 0,
            written: layout.dummy(),
            dirty: false,
            order,
        };
        let next = vec![0; LEVELS + 1];
        writer.append(Rec { kind: DUMMY, level: LEVELS, next, ..Rec::default() });
        writer.committed = writer.written;
        writer.repack_size = writer.written;
        writer.header();
        writer
    }

    fn twom(&self) -> bool {
        self.layout != Layout::Twoskip
    }

    fn write(&mut self, at: u64, bytes: Vec<u8>) {
        let write = Write::At(at, bytes);
        apply(&write, &mut self.file);
        self.journal.push(write);
    }

    fn header(&mut self) {
        let mut h = Vec::new();
        if self.twom() {
            h.extend(b"\xa1\x02\x8b\x0dtwomfile\0\0\0\0");
            h.extend([7; 16]);
            h.extend(1u32.to_le_bytes());
            h.extend((1u32 << 28 | u32::from(self.dirty)).to_le_bytes());
            for word in [self.generation, self.records, 0, 0, self.repack_size, self.committed] {
                h.extend(word.to_le_bytes());
            }
            h.extend(31u32.to_le_bytes());
            h.extend((xxhash_rust::xxh3::xxh3_64(&h) as u32).to_le_bytes());
        } else {
            h.extend(b"\xa1\x02\x8b\x0dtwoskip file\0\0\0\0");
            h.extend(1u32.to_be_bytes());
            for word in [self.generation, self.records, self.repack_size, self.committed] {
                h.extend(word.to_be_bytes());
            }
            h.extend(u32::from(self.dirty).to_be_bytes());
            h.extend(crc32fast::hash(&h).to_be_bytes());
        }
        self.write(0, h);
    }

    /// Returns the bytes of a record: its head and its tail.
    fn bytes(&self, rec: &Rec) -> (Vec<u8>, Vec<u8>) {
        let mut head = Vec::new();
        let mut tail = rec.key.clone();
        if self.twom() {
            if rec.kind == DELETE || rec.kind == COMMIT {
                head.extend([if rec.kind == DELETE { 6 } else { 7 }, 0, 0, 0, 0, 0, 0, 0]);
                head.extend(rec.target.to_le_bytes());
                head.extend((xxhash_rust::xxh3::xxh3_64(&head) as u32).to_le_bytes());
                head.extend([0; 4]);
                return (head, Vec::new());
            }
            let (long, old) = (rec.key.len() > 0xffff, rec.target != 0);
            let kind = match (rec.kind == DUMMY, long, old) {
                (true, ..) => 1,
                (_, false, false) => 2,
                (_, true, false) => 3,
                (_, false, true) => 4,
                (_, true, true) => 5,
            };
            head.extend([kind, rec.level as u8]);
            let (key, value) = (rec.key.len() as u64, rec.value.len() as u64);
            if long {
                head.extend([0; 6]);
                head.extend(key.to_le_bytes());
                head.extend(value.to_le_bytes());
            } else {
                head.extend((key as u16).to_le_bytes());
                head.extend((value as u32).to_le_bytes());
            }
            if old {
                head.extend(rec.target.to_le_bytes());
            }
            head.extend(rec.next.iter().flat_map(|next| next.to_le_bytes()));
            head.extend((xxhash_rust::xxh3::xxh3_64(&head) as u32).to_le_bytes());
            if rec.kind == RECORD {
                tail.push(0);
                tail.extend(&rec.value);
                tail.push(0);
                tail.resize(tail.len().next_multiple_of(8), 0);
                head.extend((xxhash_rust::xxh3::xxh3_64(&tail) as u32).to_le_bytes());
            } else {
                head.extend([0; 4]);
            }
        } else {
            head.extend([rec.kind, rec.level as u8]);
            let long = rec.key.len() >= 0xffff;
            head.extend(if long { [0xff; 2] } else { (rec.key.len() as u16).to_be_bytes() });
            head.extend((rec.value.len() as u32).to_be_bytes());
            if long {
                head.extend((rec.key.len() as u64).to_be_bytes());
            }
            head.extend(rec.next.iter().flat_map(|next| next.to_be_bytes()));
            head.extend(crc32fast::hash(&head).to_be_bytes());
            tail.extend(&rec.value);
            tail.resize(tail.len().next_multiple_of(8), 0);
            head.extend(crc32fast::hash(&tail).to_be_bytes());
        }
        (head, tail)
    }

    fn append(&mut self, mut rec: Rec) -> u64 {
        let (head, tail) = self.bytes(&rec);
        if !self.twom() {
            // No head crosses a block, as since 3.2.0.
            while self.written / 512 != (self.written + head.len() as u64 - 1) / 512
                && head.len() <= 512
            {
                self.write(self.written, b" BLANK\x07\xa0".to_vec());
                self.written += 8;
            }
        }
        rec.at = self.written;
        self.written += (head.len() + tail.len()) as u64;
        self.write(rec.at, [head, tail].concat());
        rec.at
    }

    fn rewrite(&mut self, rec: &Rec) {
        let (head, _) = self.bytes(rec);
        self.write(rec.at, head);
    }

    fn u64_at(&self, at: u64) -> u64 {
        let word = self.file[at as usize..at as usize + 8].try_into().unwrap();
        if self.twom() { u64::from_le_bytes(word) } else { u64::from_be_bytes(word) }
    }

    fn read(&self, at: u64) -> Rec {
        let byte = |i: u64| self.file[(at + i) as usize];
        let slice = |from: u64, len: u64| self.file[from as usize..(from + len) as usize].to_vec();
        let mut rec = Rec { at, level: byte(1).into(), ..Rec::default() };
        let (mut p, key, value) = if self.twom() {
            rec.kind = [0, DUMMY, RECORD, RECORD, RECORD, RECORD, DELETE, COMMIT][byte(0) as usize];
            if byte(0) >= 6 {
                rec.target = self.u64_at(at + 8);
                return rec;
            }
            let long = byte(0) == 3 || byte(0) == 5;
            let mut p = if long { 24 } else { 8 };
            if byte(0) >= 4 {
                rec.target = self.u64_at(at + p);
                p += 8;
            }
            let word = self.u64_at(at);
            match (rec.kind, long) {
                (DUMMY, _) => (p, 0, 0),
                (_, true) => (p, self.u64_at(at + 8), self.u64_at(at + 16)),
                _ => (p, word >> 16 & 0xffff, word >> 32),
            }
        } else {
            rec.kind = byte(0);
            let word = self.u64_at(at);
            match word >> 32 & 0xffff {
                0xffff => (16, self.u64_at(at + 8), word & 0xffff_ffff),
                key => (8, key, word & 0xffff_ffff),
            }
        };
        for _ in 0..=rec.level {
            rec.next.push(self.u64_at(at + p));
            p += 8;
        }
        if rec.kind == RECORD {
            let gap = u64::from(self.twom());
            rec.key = slice(at + p + 8, key);
            rec.value = slice(at + p + 8 + key + gap, value);
        }
        rec
    }

    fn get(&self, rec: &Rec, list: usize) -> u64 {
        match list {
            0 if rec.next[0] >= self.written => rec.next[1],
            0 if rec.next[1] >= self.written => rec.next[0],
            0 => rec.next[0].max(rec.next[1]),
            _ => rec.next[list + 1],
        }
    }

    fn set(&self, rec: &mut Rec, list: usize, to: u64) {
        let slot = match list {
            0 if rec.next[0] >= self.committed => 0,
            0 if rec.next[1] >= self.committed => 1,
            0 => usize::from(rec.next[0] >= rec.next[1]),
            _ => list + 1,
        };
        rec.next[slot] = to;
    }

    /// Returns the record to which list 0 leads, and whether it is deleted (twom).
    fn resolve(&self, next: u64) -> Option<(Rec, bool)> {
        if next == 0 {
            return None;
        }
        let rec = self.read(next);
        match (rec.kind, self.twom()) {
            (DELETE, false) if rec.next[0] == 0 => None,
            (DELETE, false) => Some((self.read(rec.next[0]), false)),
            (DELETE, true) => Some((self.read(rec.target), true)),
            _ => Some((rec, false)),
        }
    }

    /// Returns for each list the last record before the key; then the record of the key, and whether it is
    /// deleted.
    fn locate(&self, key: &[u8]) -> (Vec<u64>, Option<(Rec, bool)>) {
        let mut back = vec![0; LEVELS];
        let mut cur = self.read(self.layout.dummy());
        for list in (0..LEVELS).rev() {
            loop {
                let next = self.get(&cur, list);
                let Some((rec, _)) = self.resolve(next) else { break };
                if (self.order)(&rec.key, key).is_lt() {
                    cur = rec;
                } else {
                    break;
                }
            }
            back[list] = cur.at;
        }
        let found = self.resolve(self.get(&cur, 0)).filter(|(rec, _)| rec.key == key);
        (back, found)
    }

    fn begin(&mut self) {
        if !self.dirty {
            self.dirty = true;
            self.header();
        }
    }

    /// Sets list `i` of `back[i]` to `to(i)`, one rewrite for each record.
    fn stitch(&mut self, back: &[u64], to: &[u64]) {
        let mut list = 0;
        while list < to.len() {
            let mut rec = self.read(back[list]);
            while list < to.len() && list < rec.level && back[list] == rec.at {
                self.set(&mut rec, list, to[list]);
                list += 1;
            }
            self.rewrite(&rec);
        }
    }

    fn random_level(&mut self) -> usize {
        let mut level = 1;
        while level < LEVELS && self.random.below(2) == 0 {
            level += 1;
        }
        level
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let (back, old) = self.locate(key);
        // Cyrus subtracts the old record before it writes the header for the first time.
        if matches!(old, Some((_, false))) {
            self.records -= 1;
        }
        self.begin();
        self.records += 1;
        let random = self.random_level();
        let level = match &old {
            Some((old, _)) if self.twom() => old.level,
            _ => random,
        };
        let mut next = vec![0; level + 1];
        let lists = level.max(old.as_ref().map_or(0, |(old, _)| old.level));
        let mut to = Vec::new();
        for list in 0..lists {
            // Past the old record, if it is on this list.
            let after = match &old {
                Some((old, _)) if list < old.level => self.get(old, list),
                _ => self.get(&self.read(back[list]), list),
            };
            if list < level {
                next[list + 1] = after;
            }
            to.push(after);
        }
        let target = match &old {
            Some((_, true)) => self.get(&self.read(back[0]), 0),
            Some((old, false)) if self.twom() => old.at,
            _ => 0,
        };
        let (key, value) = (key.to_vec(), value.to_vec());
        let at =
            self.append(Rec { kind: RECORD, level, next, target, key, value, ..Rec::default() });
        to[..level].fill(at);
        self.stitch(&back, &to);
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        let (back, Some((old, false))) = self.locate(key) else { return };
        self.records -= 1;
        self.begin();
        if self.twom() {
            let at = self.append(Rec { kind: DELETE, target: old.at, ..Rec::default() });
            self.stitch(&back, &[at]);
            return;
        }
        let next = self.resolve(self.get(&old, 0)).map_or(0, |(rec, _)| rec.at);
        let mut to: Vec<u64> = (0..old.level).map(|list| self.get(&old, list)).collect();
        to[0] = self.append(Rec { kind: DELETE, next: vec![next], ..Rec::default() });
        self.stitch(&back, &to);
    }

    pub(crate) fn commit(&mut self) {
        if self.dirty {
            let (target, next) = (self.committed, vec![self.committed]);
            self.append(Rec { kind: COMMIT, target, next, ..Rec::default() });
            self.committed = self.written;
            self.dirty = false;
            self.header();
        }
    }

    /// Rolls back, or repairs the file after a dead writer.
    pub(crate) fn abort(&mut self) {
        self.written = self.committed;
        let mut cur = self.read(self.layout.dummy());
        let mut back = vec![cur.at; LEVELS];
        self.records = 0;
        loop {
            let mut broken = false;
            for slot in 0..2 {
                if cur.next[slot] >= self.committed {
                    cur.next[slot] = 0;
                    broken = true;
                }
            }
            if broken {
                self.rewrite(&cur);
            }
            let Some((rec, deleted)) = self.resolve(self.get(&cur, 0)) else { break };
            for (list, before) in back.iter_mut().enumerate().take(rec.level).skip(1) {
                let mut fix = self.read(*before);
                if fix.next[list + 1] != rec.at {
                    fix.next[list + 1] = rec.at;
                    self.rewrite(&fix);
                }
                *before = rec.at;
            }
            back[0] = rec.at;
            self.records += u64::from(!deleted);
            cur = self.read(rec.at);
        }
        for (list, last) in back.iter().enumerate().skip(1) {
            let mut fix = self.read(*last);
            if fix.next[list + 1] != 0 {
                fix.next[list + 1] = 0;
                self.rewrite(&fix);
            }
        }
        if !self.twom() {
            self.file.truncate(self.committed as usize);
            self.journal.push(Write::Truncate(self.committed));
        }
        self.dirty = false;
        self.header();
    }

    /// Returns a writer of a new file with the same keys, in order.
    pub(crate) fn repack(&mut self) -> Self {
        let seed = Random(self.random.below(u64::MAX));
        let mut new = Self::new(self.layout, seed, self.generation + 1, self.order);
        let mut cur = self.read(self.layout.dummy());
        while let Some((rec, deleted)) = self.resolve(self.get(&cur, 0)) {
            if !deleted {
                new.put(&rec.key, &rec.value);
            }
            cur = rec;
        }
        new.commit();
        new.repack_size = new.committed;
        new.header();
        new.journal.clear();
        new
    }
}
