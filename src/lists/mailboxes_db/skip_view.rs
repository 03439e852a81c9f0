//! View of a twoskip or twom file: its header, its sparse index and its map.

use std::fs::File;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};

use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::order::Order;
use crate::cyrusdb::skip::find::KeySearch;
use crate::cyrusdb::skip::header::SkipHeader;
use crate::cyrusdb::skip::position::Walked;
use crate::cyrusdb::skip::reader::SnapshotReader;
use crate::cyrusdb::skip::sparse_index::{
    BuildProgress, IndexSize, SparseIndex, SparseIndexBuilder,
};
use crate::cyrusdb::skip::window::Scratch;
use crate::model::name::KeyGeneration;
use crate::os::file_id::FileId;

use super::keys;
use super::open_file::{ListFile, MappedFile};

/// A twoskip or twom file at its last known committed end.
#[derive(Debug)]
pub(super) struct SkipView {
    file: Arc<MappedFile>,
    pub(super) file_id: FileId,
    keys: OnceLock<KeyGeneration>,
    /// Header at the time of opening.
    first: SkipHeader,
    /// Committed end to which the index has been followed. Read it before the index.
    end: AtomicU64,
    records: AtomicU64,
    dirty: AtomicBool,
    order: OrderCell,
    index: Option<SparseIndex>,
}

/// Order of the keys, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum KnownOrder {
    /// Nothing has shown the order yet. [`Order::Raw`] is tried first.
    RawPresumed,
    Raw,
    Mbox,
}

/// A [`KnownOrder`] that threads share.
#[derive(Debug)]
struct OrderCell(AtomicU8);

impl OrderCell {
    fn new(order: KnownOrder) -> Self {
        Self(AtomicU8::new(order as u8))
    }

    fn get(&self) -> KnownOrder {
        match self.0.load(Relaxed) {
            order if order == KnownOrder::Raw as u8 => KnownOrder::Raw,
            order if order == KnownOrder::Mbox as u8 => KnownOrder::Mbox,
            _ => KnownOrder::RawPresumed,
        }
    }

    fn set(&self, order: KnownOrder) {
        self.0.store(order as u8, Relaxed);
    }
}

/// Result of one lookup in a view.
pub(super) enum KeyInView<T> {
    Found(T),
    Absent,
    /// The file is no longer the one that is cached: forget the view.
    Overwritten,
}

/// Maximum length of the log, in bytes, that is followed at a time. After more the index is collected anew.
const MOST_LOG: u64 = 4 << 20;

impl SkipView {
    /// Opens a view without an index at the committed end that the header names.
    pub(super) fn open(file: File, scratch: &mut Scratch) -> Result<Self> {
        let metadata = file.metadata()?;
        let file = ListFile::new(file);
        let header = SkipHeader::read(&file)?;
        header.check_size(metadata.len())?;
        let file = Arc::new(file.mapping());
        let view = Self {
            file,
            file_id: FileId::of(&metadata),
            keys: OnceLock::new(),
            first: header,
            end: AtomicU64::new(header.end),
            records: AtomicU64::new(header.records),
            dirty: AtomicBool::new(header.dirty),
            order: OrderCell::new(match header.engine() {
                "twom" => KnownOrder::Raw,
                _ => KnownOrder::RawPresumed,
            }),
            index: None,
        };
        view.decide_keys(scratch);
        Ok(view)
    }

    /// Returns the generation of Cyrus that wrote the keys, if one of the first keys shows it.
    pub(super) fn keys(&self) -> Option<KeyGeneration> {
        self.keys.get().copied()
    }

    /// Reads a few keys, if none has shown the generation yet.
    fn decide_keys(&self, scratch: &mut Scratch) {
        if self.keys.get().is_none()
            && let Some(keys) = key_generation(&self.file.file, self.header(), scratch)
        {
            // From 3.6 on there is one order only.
            if keys == KeyGeneration::Separated {
                self.order.set(KnownOrder::Raw);
            }
            let _ = self.keys.set(keys);
        }
    }

    /// Returns the header, as far as it has been followed.
    pub(super) fn header(&self) -> SkipHeader {
        SkipHeader {
            end: self.end.load(Acquire),
            records: self.records.load(Relaxed),
            dirty: self.dirty.load(Relaxed),
            ..self.first
        }
    }

    /// Whether the keys are known to be in the plain order of their bytes, so that keys with a common
    /// prefix are neighbours.
    pub(super) fn surely_raw(&self) -> bool {
        self.order.get() == KnownOrder::Raw
    }

    fn order(&self) -> Order {
        if self.order.get() == KnownOrder::Mbox { Order::Mbox } else { Order::Raw }
    }

    /// Reads the present header of the file.
    pub(super) fn header_now(&self) -> Result<SkipHeader> {
        SkipHeader::read(&self.file.file)
    }

    /// Notes that the file has `len` bytes now.
    pub(super) fn reaches(&self, len: u64) {
        self.file.reaches(len);
    }

    /// Whether the map has lost pages, so that the file is read by `pread`.
    pub(super) fn is_torn(&self) -> bool {
        self.file.is_torn()
    }

    /// Whether a header names the state of this view.
    pub(super) fn is_at(&self, header: SkipHeader) -> bool {
        let known = self.header();
        (header.generation, header.end) == (known.generation, known.end)
    }

    /// Follows the log to the state of `now`; one thread at a time. Returns `false` if that is no later state
    /// of this list, or if there is too much log.
    pub(super) fn follow(
        &self,
        now: SkipHeader,
        builder: Option<&SparseIndexBuilder>,
        scratch: &mut Scratch,
    ) -> bool {
        let from = self.end.load(Relaxed);
        if now.generation != self.first.generation || now.end < from {
            return false;
        }
        if now.end > from {
            let mut logged = now.end - from <= MOST_LOG;
            if let Some(builder) = builder {
                let reader = SnapshotReader::new(&self.file.file, now, builder.order(), scratch);
                logged = logged && builder.follow(reader, from).is_ok();
            }
            if let Some(index) = &self.index {
                let reader = SnapshotReader::new(&self.file.file, now, index.order(), scratch);
                logged = logged && index.follow(reader, from).is_ok();
            }
            if !logged {
                return false;
            }
        }
        self.records.store(now.records, Relaxed);
        self.dirty.store(now.dirty, Relaxed);
        // Publishes the index with it.
        self.end.store(now.end, Release);
        self.decide_keys(scratch);
        true
    }

    /// Returns a builder of an index of this size.
    pub(super) fn builder(&self, size: IndexSize) -> SparseIndexBuilder {
        SparseIndexBuilder::new(self.order(), size, self.records.load(Relaxed))
    }

    /// Whether an index of this size should be collected: there is a smaller one, or a worn-out one.
    pub(super) fn wants_index(&self, size: IndexSize) -> bool {
        self.index.as_ref().is_none_or(|index| {
            let fewer = (index.size(), size) == (IndexSize::Small, IndexSize::Large);
            fewer || index.is_worn_out() || index.order() != self.order()
        })
    }

    /// Collects up to `count` fingers; one thread at a time, the one that follows, and right after it has
    /// followed. A large index is for many searches, so the file is mapped for it.
    pub(super) fn collect(
        &self,
        builder: &mut SparseIndexBuilder,
        count: usize,
        scratch: &mut Scratch,
    ) -> Result<BuildProgress> {
        if builder.size() == IndexSize::Large {
            self.file.map();
        }
        let reader = SnapshotReader::new(&*self.file, self.header(), builder.order(), scratch);
        let progress = builder.collect(reader, count)?;
        if progress == BuildProgress::OtherOrder {
            self.order.set(if builder.order() == Order::Mbox {
                KnownOrder::Mbox
            } else {
                KnownOrder::Raw
            });
        }
        Ok(progress)
    }

    /// Returns a view of the same file with this index, which has been followed to its end.
    pub(super) fn with_index(&self, index: SparseIndex) -> Self {
        Self {
            file: Arc::clone(&self.file),
            file_id: self.file_id,
            keys: self.keys.clone(),
            first: self.first,
            end: AtomicU64::new(self.end.load(Relaxed)),
            records: AtomicU64::new(self.records.load(Relaxed)),
            dirty: AtomicBool::new(self.dirty.load(Relaxed)),
            order: OrderCell::new(self.order.get()),
            index: Some(index),
        }
    }

    /// Searches for a key and hands its value to `take`.
    ///
    /// Nothing in the file says whether it was written with `improved_mboxlist_sort`. It is in one
    /// of two orders. So a key is absent if searches in both orders miss; or if one misses and the other
    /// meets two neighbours that are in the first order only, which decides it for this file.
    pub(super) fn find<T>(
        &self,
        key: &[u8],
        scratch: &mut Scratch,
        take: impl Fn(&[u8]) -> T,
    ) -> Result<KeyInView<T>> {
        // Before the index: it may be followed further at any time, but never less far.
        let header = self.header();
        let quickly = SnapshotReader::new(&*self.file, header, self.order(), scratch)
            .find(key, self.index.as_ref())?
            .map(&take);
        // A miss never rests on the index, on cached positions or on keys without a checksum: the search
        // is repeated without them.
        let mut carefully = |order| -> Result<KeySearch<T>> {
            let mut reader =
                SnapshotReader::new(&*self.file, header, order, scratch).checking_keys();
            Ok(reader.find(key, None)?.map(&take))
        };
        let first = match quickly {
            KeySearch::Value(value) => return Ok(KeyInView::Found(value)),
            KeySearch::Moved => return Ok(KeyInView::Overwritten),
            KeySearch::OtherOrder => KeySearch::OtherOrder,
            KeySearch::Absent => carefully(self.order())?,
        };
        let known = self.order.get();
        let contradiction =
            || Error::corrupt(0, "the keys are in no order that this list can have");
        let second = match first {
            // The index misled the search: begin anew without it.
            KeySearch::Value(_) | KeySearch::Moved => return Ok(KeyInView::Overwritten),
            KeySearch::Absent if known != KnownOrder::RawPresumed => return Ok(KeyInView::Absent),
            KeySearch::OtherOrder if known != KnownOrder::RawPresumed => {
                return Err(contradiction());
            }
            KeySearch::Absent => carefully(Order::Mbox)?,
            KeySearch::OtherOrder => {
                self.order.set(KnownOrder::Mbox);
                match carefully(Order::Mbox)? {
                    KeySearch::OtherOrder => return Err(contradiction()),
                    found => found,
                }
            }
        };
        match second {
            KeySearch::Value(value) => {
                self.order.set(KnownOrder::Mbox);
                Ok(KeyInView::Found(value))
            }
            KeySearch::OtherOrder => {
                self.order.set(KnownOrder::Raw);
                Ok(KeyInView::Absent)
            }
            KeySearch::Absent => Ok(KeyInView::Absent),
            KeySearch::Moved => Ok(KeyInView::Overwritten),
        }
    }

    /// Caches the offset of the record of this key at the present end. The caller follows the log, or keeps
    /// other threads from following it.
    pub(super) fn cache_position(&self, key: &[u8], at: u64) {
        if let Some(index) = &self.index {
            index.put_position(key, at);
        }
    }

    /// Calls `visit` with every key not less than `from` in the order of this file, and its value, until it
    /// returns `false`.
    pub(super) fn walk(
        &self,
        from: &[u8],
        scratch: &mut Scratch,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Walked> {
        self.walk_in(self.order(), from, scratch, visit)
    }

    /// Returns the orders in which the keys may be.
    pub(super) fn orders(&self) -> &'static [Order] {
        match self.order.get() {
            KnownOrder::Raw => &[Order::Raw],
            KnownOrder::Mbox => &[Order::Mbox],
            KnownOrder::RawPresumed => &[Order::Raw, Order::Mbox],
        }
    }

    /// Walks as [`Self::walk`] does, in this order.
    pub(super) fn walk_in(
        &self,
        order: Order,
        from: &[u8],
        scratch: &mut Scratch,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Walked> {
        let walked = SnapshotReader::new(&self.file.file, self.header(), order, scratch)
            .along_lists()
            .walk(from, visit)?;
        if walked == Walked::OtherOrder {
            if self.order.get() != KnownOrder::RawPresumed {
                return Err(Error::corrupt(0, "the keys are in no order that this list can have"));
            }
            self.order.set(if order == Order::Raw { KnownOrder::Mbox } else { KnownOrder::Raw });
        }
        Ok(walked)
    }
}

/// Returns the generation of the keys of a twoskip or twom file, if a few of them show it.
fn key_generation(
    file: &ListFile,
    header: SkipHeader,
    scratch: &mut Scratch,
) -> Option<KeyGeneration> {
    let mut decided = None;
    // The first keys in either order; then keys of users without a domain; then keys of Cyrus 3.6 and later.
    for (from, count) in [(&b""[..], 32), (b"user.", 1), (b"N", 32)] {
        let mut left = count;
        // After an error it stays undecided: a lookup tries both generations, and meets the error again.
        let _ = SnapshotReader::new(file, header, Order::Raw, scratch).walk(from, &mut |key, _| {
            decided = keys::generation_shown_by(key);
            left -= 1;
            decided.is_none() && left > 0
        });
        if decided.is_some() {
            break;
        }
    }
    decided
}
