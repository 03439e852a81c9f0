//! Searching the committed state of a twoskip or twom file while others write it.
//!
//! The header names the end of the last committed transaction. Everything before that offset is
//! the list as it was committed, if pointers are read by this rule: of the two alternatives of
//! list 0 the larger one below the end counts, since a writer overwrites the one that the last
//! commit does not need; in the lists above, a pointer at or past the end counts as "nothing more
//! here", and the search goes on one list below. That holds while a transaction is under way,
//! after its writer was killed, and after it was rolled back: those lists then still lead along
//! committed records only, in order of their keys.
//!
//! A reader may also be late: its end is then an older one. What it finds was in the list at that
//! end, since a record that is linked now and stands before the end was linked then. But it may
//! miss: two transactions on, a record may have lost the alternative that counted, which shows as
//! an error, or, if the second one was rolled back, as the end of the list. So that a key is *not*
//! found, or that a walk has come to the end, is an answer only if the header is still the same
//! afterwards, and the path still leads to this file. Both are the caller's to check.
//!
//! Bounds: offsets and lengths stay below the end, levels below 32, every step leads to a strictly
//! greater key, and a search makes at most [`MAX_STEPS`] of them.

use std::cmp::Ordering;

use super::node::{Kind, Layout, MAX_HEAD, MAX_LEVEL, Node};
use super::sparse_index::Fingers;
use super::{twom, twoskip};
use crate::cyrusdb::error::{Error, Result};
use crate::cyrusdb::order::Order;
use crate::cyrusdb::source::ByteSource;

/// A search that has not ended after so many records is given up. One through a million records
/// makes some fifty; it can be longer only while a transaction of a great many changes hides the
/// upper lists.
pub const MAX_STEPS: usize = 20_000;

/// Read at once where nothing is known of what is needed; the usual record with room to spare.
const SIDE: u64 = 512;

/// Read at once by a walk through that part of the file that is in order.
const AHEAD: u64 = 64 << 10;

/// What the header of a twoskip or twom file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub(crate) layout: Layout,
    /// Grows by one with each repack, which always makes a new file.
    pub generation: u64,
    /// Keys in the list. While [`Self::dirty`], one change may be counted in already.
    pub records: u64,
    /// Up to this offset the records stand in the order of their keys.
    pub repack_size: u64,
    /// The end of the last committed transaction.
    pub end: u64,
    /// A transaction is under way, or a writer died in one.
    pub dirty: bool,
}

impl Header {
    /// Reads and checks the header, one read. A checksum that does not match may be a header that
    /// is just being written.
    pub fn read<S: ByteSource + ?Sized>(source: &S) -> Result<Self> {
        let mut bytes = [0; twom::HEADER];
        let len = source.read_at(0, &mut bytes)?;
        let bytes = &bytes[..len];
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        let header = if bytes.starts_with(twoskip::MAGIC) {
            twoskip::header(bytes)?
        } else if bytes.starts_with(twom::MAGIC) {
            twom::header(bytes)?
        } else {
            return Err(Error::Unknown);
        };
        if header.end < header.layout.first() || !header.end.is_multiple_of(8) {
            return Err(Error::corrupt(
                0,
                format!("the header puts the end of the list at {}", header.end),
            ));
        }
        Ok(header)
    }

    /// Whether a file of so many bytes can hold what the header says was committed. Cyrus never cuts
    /// that off, so somebody else did.
    pub fn check_size(&self, size: u64) -> Result<()> {
        if size < self.end {
            let what = "the file ends here, but the header puts the end of the list at";
            return Err(Error::corrupt(size, format!("{what} {}", self.end)));
        }
        Ok(())
    }

    /// `twoskip` or `twom`.
    pub fn engine(&self) -> &'static str {
        match self.layout {
            Layout::Twoskip => "twoskip",
            Layout::Twom { .. } => "twom",
        }
    }
}

/// A run of bytes of the file.
#[derive(Default)]
struct Window {
    start: u64,
    len: usize,
    buf: Vec<u8>,
}

impl Window {
    fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.run(offset).get(..len)
    }

    /// All that it has from `offset` on.
    fn run(&self, offset: u64) -> &[u8] {
        let at = offset.wrapping_sub(self.start) as usize;
        self.buf.get(at..self.len).unwrap_or_default()
    }

    fn load<S: ByteSource + ?Sized>(&mut self, source: &S, start: u64, want: usize) -> Result<()> {
        self.len = 0;
        if self.buf.len() < want {
            self.buf.resize(want, 0);
        }
        self.start = start;
        self.len = source.read_at(start, &mut self.buf[..want])?.min(want);
        Ok(())
    }
}

/// What a search keeps in memory; worth using again, it saves the allocations.
#[derive(Default)]
pub struct Scratch {
    /// The neighbourhood of the start of a search, or the part a walk is in.
    main: Window,
    /// The last bytes read outside `main`.
    side: Window,
    /// Where the search stands.
    pub(crate) cur: Box<Node>,
    /// Where it looks.
    pub(crate) ahead: Box<Node>,
    /// The key of `cur`.
    key: Vec<u8>,
    /// The key that should stand where a search begins.
    start_key: Vec<u8>,
    /// Where the last search found its record; 0 if that was known before, or nothing was found.
    found_at: u64,
}

impl Scratch {
    /// Where the last search found its record, if that is worth remembering.
    pub(crate) fn found_at(&self) -> Option<u64> {
        Some(self.found_at).filter(|at| *at != 0)
    }

    /// Makes sure that one of the windows has these bytes.
    fn bytes<S: ByteSource + ?Sized>(
        main: &mut Window,
        side: &mut Window,
        view: &View<'_, S>,
        offset: u64,
        len: usize,
    ) -> Result<()> {
        if main.get(offset, len).is_some() || side.get(offset, len).is_some() {
            return Ok(());
        }
        let rest = view.header.end.saturating_sub(offset);
        let sequential = offset >= main.start && offset < view.ahead;
        let (window, want) = if sequential { (main, AHEAD) } else { (side, SIDE) };
        let want = want.max(len as u64).min(rest);
        window.load(view.source, offset, usize::try_from(want).unwrap_or(0))?;
        if window.len < len {
            return Err(Error::corrupt(offset, "the file ends within the list"));
        }
        Ok(())
    }

    /// The key of a node.
    fn key<'w, S: ByteSource + ?Sized>(
        main: &'w mut Window,
        side: &'w mut Window,
        view: &View<'_, S>,
        node: &Node,
    ) -> Result<&'w [u8]> {
        let (at, len) = (node.key_at, node.key_len);
        Scratch::bytes(main, side, view, at, len)?;
        Ok(main.get(at, len).or_else(|| side.get(at, len)).unwrap_or_default())
    }
}

/// Whether the key of a record is greater than that of the one before it. `false`: it is not, and
/// would be in the other order.
fn ascends(order: Order, from: &Node, key: &[u8], next: &[u8]) -> Result<bool> {
    if from.kind == Kind::Dummy || order.compare(key, next) == Ordering::Less {
        Ok(true)
    } else if order.other().compare(key, next) == Ordering::Less {
        Ok(false)
    } else {
        let what = "leads to a key that is not greater: a loop, or a broken list";
        Err(Error::corrupt(from.offset, what))
    }
}

/// See [`Reader::pass`].
enum Pass {
    Less,
    NotLess(Ordering),
    OtherOrder,
}

/// What is read, and how.
struct View<'a, S: ?Sized> {
    source: &'a S,
    header: Header,
    /// Up to this offset bytes are read in long runs.
    ahead: u64,
    /// Keys are believed only by their checksum.
    keys_checked: bool,
}

/// A committed record to begin a search at, instead of at the beginning of the list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// Where it stands; its key is less than the wanted one.
    pub(crate) offset: u64,
    /// Where a record with a key not less than the wanted one stands; 0 if none is known.
    pub(crate) bound: u64,
    /// The lists above this one lead from the start past the bound.
    pub(crate) list: usize,
    /// Its key is the wanted one, not a lesser one.
    pub(crate) is_wanted: bool,
}

/// Where a search ended: all records before have lesser keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// No record follows.
    End,
    /// `ahead` is the first record whose key is not less than the wanted one.
    At { equal: bool, deleted: bool },
    /// Two neighbours stand in the other order: that is the order of this file.
    OtherOrder,
    /// At the start stands another record than it was: the file has been overwritten.
    Moved,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next record; in twom its key may be deleted.
    To {
        deleted: bool,
    },
    End,
    /// See [`Edge::OtherOrder`].
    OtherOrder,
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walked {
    /// The last record has been visited.
    ToEnd,
    /// The visitor wanted no more.
    Stopped,
    /// Two neighbours stand in the other order: that is the order of this file.
    OtherOrder,
}

/// What is under a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<V> {
    /// The value.
    Value(V),
    /// Nothing, at this header's end.
    Absent,
    /// The search has met two neighbours that prove that the file is in the other order.
    OtherOrder,
    /// The finger the search began at names another record than it did: the file has been
    /// overwritten, and all that is remembered of it is worthless.
    Moved,
}

impl<V> Found<V> {
    /// The same with another value.
    pub fn map<T>(self, take: impl FnOnce(V) -> T) -> Found<T> {
        match self {
            Found::Value(value) => Found::Value(take(value)),
            Found::Absent => Found::Absent,
            Found::OtherOrder => Found::OtherOrder,
            Found::Moved => Found::Moved,
        }
    }
}

/// A reader of one committed state.
pub struct Reader<'a, S: ?Sized> {
    view: View<'a, S>,
    order: Order,
    scratch: &'a mut Scratch,
}

impl<'a, S: ByteSource + ?Sized> Reader<'a, S> {
    /// Reads the state that `header` names.
    pub fn new(source: &'a S, header: Header, order: Order, scratch: &'a mut Scratch) -> Self {
        // What an earlier search has read may have changed since.
        scratch.main.len = 0;
        scratch.main.start = 0;
        scratch.side.len = 0;
        Self { view: View { source, header, ahead: 0, keys_checked: false }, order, scratch }
    }

    /// Believes no key without its checksum, so that a damaged one leads no search astray. Cyrus
    /// checks a key only together with a value that it hands out.
    pub(crate) fn checking_keys(mut self) -> Self {
        self.view.keys_checked = true;
        self
    }

    /// For walks along a list: reads ahead where the records stand in order.
    pub(crate) fn along_lists(mut self) -> Self {
        self.view.ahead = self.view.header.repack_size;
        self
    }

    /// For reading the file as a log.
    pub(crate) fn along_file(mut self) -> Self {
        self.view.ahead = self.view.header.end;
        self
    }

    pub(crate) fn header(&self) -> &Header {
        &self.view.header
    }

    /// The node that [`Self::load`], [`Self::step`] and [`Self::step_in_list`] have come to.
    pub(crate) fn cur(&self) -> &Node {
        &self.scratch.cur
    }

    /// Its key.
    pub(crate) fn cur_key(&self) -> &[u8] {
        &self.scratch.key
    }

    /// Reads the node at `offset` into `ahead`.
    fn look(&mut self, offset: u64) -> Result<()> {
        self.look_at_head(offset)?;
        if self.view.keys_checked && self.scratch.ahead.kind == Kind::Record {
            self.ahead_value()?;
        }
        Ok(())
    }

    fn look_at_head(&mut self, offset: u64) -> Result<()> {
        let header = &self.view.header;
        let layout = header.layout;
        if offset < layout.dummy()
            || !offset.is_multiple_of(8)
            || header.end.saturating_sub(offset) < Layout::MIN_HEAD as u64
        {
            return Err(Error::corrupt(
                self.scratch.cur.offset,
                format!("pointer to {offset}, where no record can be"),
            ));
        }
        let end = header.end;
        let Scratch { main, side, ahead, .. } = &mut *self.scratch;
        // Most records are in the run that the search has begun with.
        if layout.decode(main.run(offset), offset, end, ahead)?
            || layout.decode(side.run(offset), offset, end, ahead)?
        {
            return Ok(());
        }
        let len = MAX_HEAD.min(usize::try_from(end - offset).unwrap_or(MAX_HEAD));
        Scratch::bytes(main, side, &self.view, offset, len)?;
        let bytes = main.get(offset, len).or_else(|| side.get(offset, len)).unwrap_or_default();
        if !layout.decode(bytes, offset, end, ahead)? {
            return Err(Error::corrupt(offset, "record passes the end of the list"));
        }
        Ok(())
    }

    /// Makes `ahead` the current node.
    fn advance(&mut self) -> Result<()> {
        let Scratch { main, side, cur, ahead, key, .. } = &mut *self.scratch;
        key.clear();
        key.extend_from_slice(Scratch::key(main, side, &self.view, ahead)?);
        std::mem::swap(cur, ahead);
        Ok(())
    }

    /// The same, if its key is greater than that of the current node. `false`: it is not, and would
    /// be in the other order.
    fn ascend(&mut self) -> Result<bool> {
        let Scratch { main, side, cur, ahead, key, .. } = &mut *self.scratch;
        let next = Scratch::key(main, side, &self.view, ahead)?;
        Ok(ascends(self.order, cur, key, next)? && {
            self.advance()?;
            true
        })
    }

    /// Goes to the node at `offset`, which is the dummy or a record.
    pub(crate) fn load(&mut self, offset: u64) -> Result<()> {
        self.look(offset)?;
        let expected =
            if offset == self.view.header.layout.dummy() { Kind::Dummy } else { Kind::Record };
        if self.scratch.ahead.kind != expected {
            return Err(Error::corrupt(offset, "a record of another type is expected here"));
        }
        self.advance()
    }

    /// The successor of the current node in list 0 by the rule of the snapshot; 0 at the end.
    fn successor0(&self) -> Result<u64> {
        let (cur, end) = (&self.scratch.cur, self.view.header.end);
        let [a, b] = cur.alternatives();
        match (a < end, b < end) {
            (true, true) => Ok(a.max(b)),
            (true, false) => Ok(a),
            (false, true) => Ok(b),
            (false, false) => Err(Error::corrupt(
                cur.offset,
                "both pointers of the lowest list pass the end of the list",
            )),
        }
    }

    /// Looks at the successor in list 0. `None` at the end, else whether its key is deleted.
    fn look0(&mut self) -> Result<Option<bool>> {
        let next = self.successor0()?;
        if next == 0 {
            return Ok(None);
        }
        self.look(next)?;
        let mut deleted = false;
        if self.scratch.ahead.kind == Kind::Delete {
            let target = self.scratch.ahead.target;
            match self.view.header.layout {
                // The next live record, which is the end of the list if there is none.
                Layout::Twoskip if target == 0 => return Ok(None),
                Layout::Twoskip => {}
                // The record whose key is gone; the list goes on behind it.
                Layout::Twom { .. } => deleted = true,
            }
            if target >= next {
                return Err(Error::corrupt(next, "a deletion names a record that came later"));
            }
            self.look(target)?;
        }
        if self.scratch.ahead.kind != Kind::Record {
            let at = self.scratch.ahead.offset;
            return Err(Error::corrupt(at, "a record of another type is linked into the list"));
        }
        Ok(Some(deleted))
    }

    /// Looks at the successor in a list above 0; `false` if there is nothing more in this state.
    fn look_above(&mut self, list: usize) -> Result<bool> {
        let next = self.scratch.cur.successor(list);
        if next == 0 || next >= self.view.header.end {
            return Ok(false);
        }
        self.look(next)?;
        let ahead = &self.scratch.ahead;
        if ahead.kind != Kind::Record || ahead.level <= list {
            return Err(Error::corrupt(
                self.scratch.cur.offset,
                format!("list {list} leads to {next}, which is no member of it"),
            ));
        }
        Ok(true)
    }

    /// Searches for the first record whose key is not less than `wanted`.
    pub(crate) fn position(&mut self, wanted: &[u8], start: Option<Start>) -> Result<Edge> {
        // A record known to be not less than the wanted one, so that no list needs to look at it
        // again; only the lowest one must, to tell what it is.
        let mut bound = 0;
        let mut highest = MAX_LEVEL;
        match start {
            None => self.load(self.view.header.layout.dummy())?,
            Some(start) => {
                self.neighbourhood(&start)?;
                self.load(start.offset)?;
                if self.scratch.key != self.scratch.start_key {
                    return Ok(Edge::Moved);
                }
                bound = start.bound;
                highest = start.list;
            }
        }
        let mut list = self.scratch.cur.level.saturating_sub(1).min(highest);
        // Whether `ahead` is the record at the bound, and how it compares.
        let mut seen = None;
        for _ in 0..MAX_STEPS {
            let mut deleted = false;
            if list > 0 {
                if self.scratch.cur.successor(list) == bound || !self.look_above(list)? {
                    list -= 1;
                    continue;
                }
            } else {
                if let Some(compared) = seen
                    && self.successor0()? == bound
                {
                    return Ok(Edge::At { equal: compared == Ordering::Equal, deleted });
                }
                match self.look0()? {
                    None => return Ok(Edge::End),
                    Some(gone) => deleted = gone,
                }
            }
            match self.pass(wanted)? {
                Pass::Less => {
                    list = self.scratch.cur.level.saturating_sub(1);
                    seen = None;
                }
                Pass::OtherOrder => return Ok(Edge::OtherOrder),
                Pass::NotLess(compared) if list == 0 => {
                    return Ok(Edge::At { equal: compared == Ordering::Equal, deleted });
                }
                Pass::NotLess(compared) => {
                    bound = self.scratch.ahead.offset;
                    seen = Some(compared);
                    list -= 1;
                }
            }
        }
        Err(Error::corrupt(
            self.scratch.cur.offset,
            format!("the search did not end within {MAX_STEPS} records"),
        ))
    }

    /// Makes `ahead` the current node if its key is less than `wanted`.
    fn pass(&mut self, wanted: &[u8]) -> Result<Pass> {
        let order = self.order;
        let Scratch { main, side, cur, ahead, key, .. } = &mut *self.scratch;
        let next = Scratch::key(main, side, &self.view, ahead)?;
        let compared = order.compare(next, wanted);
        if compared != Ordering::Less {
            return Ok(Pass::NotLess(compared));
        }
        match ascends(order, cur, key, next)? {
            true => {
                key.clear();
                key.extend_from_slice(next);
                std::mem::swap(cur, ahead);
                Ok(Pass::Less)
            }
            false => Ok(Pass::OtherOrder),
        }
    }

    /// Reads in one go what a search from `start` is likely to need: after a repack the records
    /// stand in the order of their keys, up to the one that is known to be too far.
    fn neighbourhood(&mut self, start: &Start) -> Result<()> {
        const MOST: u64 = 4096;
        let end = self.view.header.end;
        let want = match start.bound.checked_sub(start.offset) {
            Some(gap) if gap <= MOST => gap,
            _ => MOST / 2,
        };
        let want = want.min(end.saturating_sub(start.offset));
        self.scratch.main.load(self.view.source, start.offset, usize::try_from(want).unwrap_or(0))
    }

    /// What is under `key`. The fingers, if any, must have been followed to the end of this
    /// reader's header or further, and are of use only in the same order.
    pub fn find(&mut self, key: &[u8], fingers: Option<&Fingers>) -> Result<Found<&[u8]>> {
        self.scratch.found_at = 0;
        let end = self.view.header.end;
        if let Some(offset) = fingers.and_then(|fingers| fingers.found_last(key, end))
            && self.is_at(offset, key)?
        {
            return Ok(Found::Value(self.ahead_value()?));
        }
        let start = fingers.filter(|fingers| fingers.order() == self.order).and_then(|fingers| {
            let Header { layout, end, .. } = self.view.header;
            fingers.before(key, end, layout == Layout::Twoskip, &mut self.scratch.start_key)
        });
        if let Some(start) = start.filter(|start| start.is_wanted) {
            if !self.is_at(start.offset, key)? {
                return Ok(Found::Moved);
            }
            self.scratch.found_at = start.offset;
            return Ok(Found::Value(self.ahead_value()?));
        }
        match self.position(key, start)? {
            Edge::At { equal: true, deleted: false } => {
                self.scratch.found_at = self.scratch.ahead.offset;
                Ok(Found::Value(self.ahead_value()?))
            }
            Edge::OtherOrder => Ok(Found::OtherOrder),
            Edge::Moved => Ok(Found::Moved),
            // The keys on the way were compared without their checksums. If one of them was
            // damaged it has sent the search astray, and is now one of the two around the gap.
            edge => {
                self.check_tail()?;
                if edge != Edge::End {
                    self.ahead_value()?;
                }
                Ok(Found::Absent)
            }
        }
    }

    /// Whether the record at `offset` has this key; it is then `ahead`.
    fn is_at(&mut self, offset: u64, key: &[u8]) -> Result<bool> {
        // Most records are shorter.
        const MOST: usize = 256;
        let len = MOST.min(usize::try_from(self.view.header.end - offset).unwrap_or(0));
        self.scratch.main.load(self.view.source, offset, len)?;
        self.look(offset)?;
        let Scratch { main, side, ahead, .. } = &mut *self.scratch;
        Ok(ahead.kind == Kind::Record && Scratch::key(main, side, &self.view, ahead)? == key)
    }

    /// The value of `ahead`, after its checksum.
    fn ahead_value(&mut self) -> Result<&[u8]> {
        std::mem::swap(&mut self.scratch.cur, &mut self.scratch.ahead);
        let result = self.check_tail();
        std::mem::swap(&mut self.scratch.cur, &mut self.scratch.ahead);
        result?;
        let Scratch { main, side, ahead, .. } = &*self.scratch;
        let (at, len) = (ahead.value_at, ahead.value_len);
        Ok(main.get(at, len).or_else(|| side.get(at, len)).unwrap_or_default())
    }

    /// Checks key and value of the current node by their checksum; its bytes are then at hand.
    pub(crate) fn check_tail(&mut self) -> Result<()> {
        let Scratch { main, side, cur, .. } = &mut *self.scratch;
        let (at, len) = (cur.key_at, cur.tail_len);
        Scratch::bytes(main, side, &self.view, at, len)?;
        let tail = main.get(at, len).or_else(|| side.get(at, len)).unwrap_or_default();
        // twom stores 0 for a tail of no bytes, twoskip the CRC of none, which is 0 too.
        let sum = if tail.is_empty() { 0 } else { self.view.header.layout.checksum(tail) };
        if sum != cur.tail_checksum {
            return Err(Error::corrupt(cur.offset, "checksum of key and value does not match"));
        }
        Ok(())
    }

    /// Goes to the next record in list 0.
    pub(crate) fn step(&mut self) -> Result<Step> {
        match self.look0()? {
            None => Ok(Step::End),
            Some(deleted) if self.ascend()? => Ok(Step::To { deleted }),
            Some(_) => Ok(Step::OtherOrder),
        }
    }

    /// The same, whatever the order of the keys: of those who watch for loops themselves.
    pub(crate) fn step_anyhow(&mut self) -> Result<Step> {
        match self.look0()? {
            None => Ok(Step::End),
            Some(deleted) => {
                self.advance()?;
                Ok(Step::To { deleted })
            }
        }
    }

    /// Key and value of the current record, after [`Self::check_tail`].
    pub(crate) fn cur_row(&self) -> (&[u8], &[u8]) {
        let Scratch { main, side, cur, key, .. } = &*self.scratch;
        let (at, len) = (cur.value_at, cur.value_len);
        (key, main.get(at, len).or_else(|| side.get(at, len)).unwrap_or_default())
    }

    /// Goes to the next record in this list, or in one below where a transaction under way hides
    /// this one.
    pub(crate) fn step_in_list(&mut self, list: usize) -> Result<Step> {
        let end = self.view.header.end;
        let mut list = list.min(self.scratch.cur.level.saturating_sub(1));
        while list > 0 && self.scratch.cur.successor(list) >= end {
            list -= 1;
        }
        if list == 0 {
            return self.step();
        }
        if !self.look_above(list)? {
            return Ok(Step::End);
        }
        Ok(if self.ascend()? { Step::To { deleted: false } } else { Step::OtherOrder })
    }

    /// Calls `visit` with every key that is in the list and not less than `from`, and its value,
    /// in order, until it says `false`.
    pub fn walk(
        &mut self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Walked> {
        let mut deleted = match self.position(from, None)? {
            Edge::End => return Ok(Walked::ToEnd),
            Edge::OtherOrder | Edge::Moved => return Ok(Walked::OtherOrder),
            Edge::At { deleted, .. } => {
                self.advance()?;
                deleted
            }
        };
        loop {
            if !deleted {
                self.check_tail()?;
                let (key, value) = self.cur_row();
                if !visit(key, value) {
                    return Ok(Walked::Stopped);
                }
            }
            match self.step()? {
                Step::To { deleted: gone } => deleted = gone,
                Step::End => return Ok(Walked::ToEnd),
                Step::OtherOrder => return Ok(Walked::OtherOrder),
            }
        }
    }

    /// Goes to the record at `offset`, of whatever type, for those who read the file as a log.
    /// `false`: there are eight bytes of filler.
    pub(crate) fn load_log(&mut self, offset: u64) -> Result<bool> {
        let header = self.view.header;
        {
            let Scratch { main, side, .. } = &mut *self.scratch;
            if header.end.saturating_sub(offset) < 8 {
                return Err(Error::corrupt(offset, "no record fits before the end of the list"));
            }
            Scratch::bytes(main, side, &self.view, offset, 8)?;
            let word = main.get(offset, 8).or_else(|| side.get(offset, 8)).unwrap_or_default();
            if header.layout.is_blank(word) {
                return Ok(false);
            }
        }
        self.look(offset)?;
        self.advance()?;
        Ok(true)
    }
}
