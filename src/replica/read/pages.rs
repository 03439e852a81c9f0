//! The pages of an LMDB file, read without LMDB.
//!
//! LMDB trusts the file that it has mapped, so that truncating the file kills the process; each reader
//! must be able to write to its table of readers; it must not be opened twice in a process, as two
//! copies of the library would, nor be used after a fork. A process that only looks names up can do
//! without all of that, because of how LMDB writes (0.9, `mdb.c`):
//!
//! * Two meta pages take turns; the one with the greater number is the last commit. A page that a
//!   commit refers to is never written to, only replaced.
//! * A transaction takes pages that were free before the last commit (`mdb_find_oldest` without
//!   readers). So while the transaction after commit N is under way, all pages of N stay as they are.
//!   The one after that may write to them, but not before N + 1 stands in a meta page.
//!
//! A reader takes a commit from the meta pages, searches its pages, and reads the meta pages again. If
//! they still name the same commits, it has seen commit N and nothing else. If they do not, the result
//! is discarded, even an error. So a [`Commit`] can be kept together with the branches that were read of
//! it, and be searched again: afterwards only the meta pages have to be read again. Bytes are copied
//! before they are interpreted, because the writer may be changing them.
//!
//! Bounds: pages lie before the end that the meta page names, all offsets within their page, and a
//! tree is no deeper than [`MAX_DEPTH`].

use std::ops::ControlFlow;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{Ordering::Acquire, fence};

use super::data_file::{DataFile, FileError};

type Result<T> = std::result::Result<T, FileError>;

/// `CURSOR_STACK` of LMDB.
const MAX_DEPTH: usize = 32;
/// Maximum length of a value, in bytes.
const MAX_VALUE: u64 = 1 << 20;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// `PAGEHDRSZ`
const HEAD: usize = 16;
/// `NODESIZE`
const NODE: usize = 8;
/// Length of a meta page's contents, with the page header.
const META: usize = HEAD + 136;
/// Offset in a meta page of the fields that identify a commit: number of keys, root, last page, and
/// transaction number, which grows. LMDB writes them in this order, in one go.
const COMMIT_ID: usize = HEAD + 104;
/// No page: the root of an empty tree.
const NONE: u64 = u64::MAX;

const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const OVERFLOW: u16 = 4;
const BIG: u16 = 1;

/// Callback for a key and its value.
type VisitRow<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// Number of branch pages of a commit kept in memory. A million names have some hundred.
const BRANCHES: usize = 256;

/// The fields of a meta page that identify a commit.
type CommitId = [u8; META - COMMIT_ID];

/// A branch page in memory, with its number.
type CachedPage = OnceLock<(u64, Box<[u8]>)>;

/// A commit, as its meta page describes it.
#[derive(Debug)]
pub(super) struct Commit {
    page_size: u64,
    ids: [CommitId; 2],
    root: u64,
    /// Number of keys.
    pub(super) entries: u64,
    pages: u64,
    /// Branch pages, at their number modulo [`BRANCHES`]; the first one read stays.
    branches: Box<[CachedPage]>,
}

/// A commit and the file that it is read from.
pub(super) struct CommitReader<'s> {
    source: &'s DataFile,
    pub(super) commit: &'s Commit,
}

/// Returns the page size of a file.
pub(super) fn page_size(source: &DataFile) -> Result<u64> {
    let mut meta = [0; META];
    match source.read_at(0, &mut meta)? {
        0 => return Err(FileError::Empty),
        META => {}
        _ => return Err(damaged(0, "too short for a database")),
    }
    if (u32_at(&meta, HEAD), u32_at(&meta, HEAD + 4)) != (Some(MAGIC), Some(VERSION)) {
        return Err(damaged(HEAD as u64, "not a database of LMDB 0.9"));
    }
    match u32_at(&meta, HEAD + 24) {
        Some(size @ 512..=65536) if size.is_power_of_two() => Ok(size.into()),
        _ => Err(damaged(HEAD as u64, "no size of a page")),
    }
}

impl Commit {
    /// Returns the last commit of a file with this page size.
    pub(super) fn last(source: &DataFile, page_size: u64) -> Result<Self> {
        let bad = |what| damaged(0, what);
        let read = |at| -> Result<[u8; META]> {
            let mut meta = [0; META];
            match source.read_at(at, &mut meta)? {
                META => Ok(meta),
                _ => Err(bad("the file ends before its second page")),
            }
        };
        let metas = [read(0)?, read(page_size)?];
        // Not one that is being written.
        fence(Acquire);
        if metas != [read(0)?, read(page_size)?] {
            return Err(bad("a meta page that changes"));
        }
        let ids = metas.map(|meta| bytes_at(&meta, COMMIT_ID).unwrap_or([0; META - COMMIT_ID]));
        let number = |meta: &&[u8; META]| u64_at(*meta, HEAD + 128).unwrap_or_default();
        let Some(meta) = metas.iter().max_by_key(number) else { return Err(bad("no meta page")) };
        if u32_at(meta, HEAD) != Some(MAGIC) || u16_at(meta, HEAD + 76) != Some(0) {
            return Err(bad("not a database of murder-route"));
        }
        let (Some(entries), Some(root), Some(last)) =
            (u64_at(meta, HEAD + 104), u64_at(meta, HEAD + 112), u64_at(meta, HEAD + 120))
        else {
            return Err(bad("no meta page"));
        };
        let branches = (0..BRANCHES).map(|_| OnceLock::new()).collect();
        Ok(Self { page_size, ids, root, entries, pages: last.saturating_add(1), branches })
    }

    /// Whether nothing was committed since, so that results of this commit are valid.
    pub(super) fn is_last(&self, source: &DataFile) -> Result<bool> {
        // Not before the pages.
        fence(Acquire);
        for (begin, known) in [0, self.page_size].into_iter().zip(&self.ids) {
            let mut id = [0; META - COMMIT_ID];
            if source.read_at(begin + COMMIT_ID as u64, &mut id)? != id.len() {
                return Err(damaged(0, "the file ends before its second page"));
            }
            if id != *known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The slot of a branch page.
    fn slot(&self, number: u64) -> Option<&CachedPage> {
        self.branches.get(usize::try_from(number % BRANCHES as u64).ok()?)
    }

    fn cached(&self, number: u64) -> Option<&[u8]> {
        let (cached, page) = self.slot(number)?.get()?;
        (*cached == number).then_some(page)
    }

    /// Caches a branch page. If it is not one of this commit, there was another commit, and
    /// [`Self::is_last`] discards every result of this one.
    fn cache(&self, number: u64, page: &[u8]) {
        if let Some(slot) = self.slot(number).filter(|slot| slot.get().is_none()) {
            let _ = slot.set((number, page.into()));
        }
    }
}

impl<'s> CommitReader<'s> {
    /// Reads a commit of this file.
    pub(super) fn of(source: &'s DataFile, commit: &'s Commit) -> Self {
        Self { source, commit }
    }

    /// Returns the value of a key, in `page`.
    pub(super) fn get<'p>(&self, key: &[u8], page: &'p mut Vec<u8>) -> Result<Option<&'p [u8]>> {
        if self.commit.root == NONE {
            return Ok(None);
        }
        let mut number = self.commit.root;
        for _ in 0..MAX_DEPTH {
            if let Some(branch) = self.commit.cached(number) {
                number = self.child(branch, number, self.child_of(branch, number, key)?)?;
                continue;
            }
            match self.read(number, page)? {
                BRANCH => {
                    self.commit.cache(number, page);
                    number = self.child(page, number, self.child_of(page, number, key)?)?;
                }
                _ => {
                    let Some(value) = self.search_leaf(page, number, key)? else { return Ok(None) };
                    return Ok(Some(self.value(page, number, value)?));
                }
            }
        }
        Err(self.damaged(number, "a tree that is too deep"))
    }

    /// Visits keys and values in the order of the keys, beginning at `from`.
    pub(super) fn walk(&self, from: &[u8], visit: &mut VisitRow<'_>) -> Result<()> {
        match self.commit.root {
            NONE => Ok(()),
            root => self.walk_page(root, from, MAX_DEPTH, visit).map(drop),
        }
    }

    fn walk_page(
        &self,
        number: u64,
        from: &[u8],
        depth: usize,
        visit: &mut VisitRow<'_>,
    ) -> Result<ControlFlow<()>> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(self.damaged(number, "a tree that is too deep"));
        };
        let mut page = Vec::new();
        if self.read(number, &mut page)? == BRANCH {
            for at in self.child_of(&page, number, from)?..self.count(&page, number)? {
                let child = self.child(&page, number, at)?;
                if self.walk_page(child, from, depth, visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        let mut big = Vec::new();
        for at in 0..self.count(&page, number)? {
            let node = self.node(&page, number, at)?;
            let key = page.get(node.key.clone()).unwrap_or_default();
            if key < from {
                continue;
            }
            let value = match node.flags {
                0 => page.get(node.value.clone()).unwrap_or_default(),
                _ => {
                    big.clone_from(&page);
                    self.value(&mut big, number, node.clone())?
                }
            };
            if visit(key, value).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn damaged(&self, number: u64, what: &'static str) -> FileError {
        damaged(number.saturating_mul(self.commit.page_size), what)
    }

    /// Reads a branch or a leaf, and returns which of them it is.
    fn read(&self, number: u64, page: &mut Vec<u8>) -> Result<u16> {
        self.read_bytes(number, 0, self.commit.page_size, page)?;
        match (u64_at(page, 0), u16_at(page, 10)) {
            (Some(own), Some(kind @ (BRANCH | LEAF))) if own == number => Ok(kind),
            _ => Err(self.damaged(number, "neither a branch nor a leaf")),
        }
    }

    fn read_bytes(&self, number: u64, skip: usize, len: u64, into: &mut Vec<u8>) -> Result<()> {
        if number >= self.commit.pages {
            return Err(self.damaged(number, "a page behind the end"));
        }
        let len = usize::try_from(len).map_err(|_| self.damaged(number, "a page too long"))?;
        into.resize(len, 0);
        let offset = number.saturating_mul(self.commit.page_size).saturating_add(skip as u64);
        match self.source.read_at(offset, into)? == len {
            true => Ok(()),
            false => Err(self.damaged(number, "the file ends before its last page")),
        }
    }

    fn count(&self, page: &[u8], number: u64) -> Result<usize> {
        match u16_at(page, 12).map(usize::from) {
            Some(lower) if lower >= HEAD && lower <= page.len() => Ok((lower - HEAD) / 2),
            _ => Err(self.damaged(number, "a page without an index")),
        }
    }

    fn node(&self, page: &[u8], number: u64, at: usize) -> Result<PageEntry> {
        let read = || {
            let start = usize::from(u16_at(page, HEAD + 2 * at)?);
            let key = start + NODE..start + NODE + usize::from(u16_at(page, start + 6)?);
            let (low, high) = (u16_at(page, start)?, u16_at(page, start + 2)?);
            let flags = u16_at(page, start + 4)?;
            let len = u32::from(low) | u32::from(high) << 16;
            let inside = if flags == BIG { 8 } else { usize::try_from(len).ok()? };
            let value = key.end..key.end.checked_add(inside)?;
            Some(PageEntry { key, flags, len, value })
        };
        let node = read().filter(|node| node.key.end <= page.len());
        node.ok_or_else(|| self.damaged(number, "a node that is not in its page"))
    }

    /// Index of the child of a branch whose range has the key.
    fn child_of(&self, page: &[u8], number: u64, key: &[u8]) -> Result<usize> {
        let (mut low, mut high) = (1, self.count(page, number)?);
        if high == 0 {
            return Err(self.damaged(number, "a branch without children"));
        }
        // The key of the first child has no meaning.
        while low < high {
            let middle = low + (high - low) / 2;
            let node = self.node(page, number, middle)?;
            match page.get(node.key).unwrap_or_default() <= key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low - 1)
    }

    fn child(&self, page: &[u8], number: u64, at: usize) -> Result<u64> {
        let node = self.node(page, number, at)?;
        Ok(u64::from(node.len) | u64::from(node.flags) << 32)
    }

    fn search_leaf(&self, page: &[u8], number: u64, key: &[u8]) -> Result<Option<PageEntry>> {
        let (mut low, mut high) = (0, self.count(page, number)?);
        while low < high {
            let middle = low + (high - low) / 2;
            let node = self.node(page, number, middle)?;
            match page.get(node.key.clone()).unwrap_or_default().cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(node)),
            }
        }
        Ok(None)
    }

    /// Returns the value of a node, which may be on overflow pages.
    fn value<'p>(&self, page: &'p mut Vec<u8>, number: u64, node: PageEntry) -> Result<&'p [u8]> {
        let bad = |what| Err(self.damaged(number, what));
        match node.flags {
            0 => match page.get(node.value) {
                Some(value) => Ok(value),
                None => bad("a value that is not in its page"),
            },
            BIG => {
                let Some(first) = u64_at(page, node.value.start) else {
                    return bad("a value that is nowhere");
                };
                if u64::from(node.len) > MAX_VALUE {
                    return bad("a value that is too long");
                }
                self.read_bytes(first, 0, HEAD as u64, page)?;
                if u64_at(page, 0) != Some(first) || u16_at(page, 10) != Some(OVERFLOW) {
                    return bad("a value that is not where it should be");
                }
                self.read_bytes(first, HEAD, node.len.into(), page)?;
                Ok(page)
            }
            _ => bad("a value of a kind that murder-route does not write"),
        }
    }
}

/// An entry of a page (`MDB_node`).
#[derive(Clone)]
struct PageEntry {
    key: Range<usize>,
    flags: u16,
    /// Length of the value.
    len: u32,
    value: Range<usize>,
}

fn damaged(offset: u64, what: &'static str) -> FileError {
    FileError::Damaged { offset, what }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

// Native byte order, as LMDB writes.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_ne_bytes)
}
