//! Splits a stream at a terminator, with a limit.

use memchr::memmem;

/// Capacity above which an empty splitter frees its buffer, in bytes.
const KEEP: usize = 2048;

/// Maximum number of bytes of a frame above the limit that is skipped.
pub(super) const SKIP_LIMIT: usize = 1_000_000;

/// Bytes of what is skipped that are told.
pub(super) const HEAD: usize = 4;

/// The splitter. It holds no more than `limit` bytes and one piece, if everything whole is taken out
/// before more is pushed. What is longer is dropped as it comes. After the first error it says nothing
/// but that error.
#[derive(Debug)]
pub(super) struct FrameSplitter<E> {
    end: &'static [u8],
    limit: usize,
    /// What comes is longer than [`SKIP_LIMIT`].
    too_long: E,
    buf: Vec<u8>,
    /// What was before this offset has been given out.
    start: usize,
    /// Before this offset no terminator begins.
    searched: usize,
    /// How what is being skipped began, and how many bytes of it are gone.
    skipping: Option<([u8; HEAD], usize)>,
    broken: Option<E>,
}

impl<E: Copy> FrameSplitter<E> {
    /// Cuts at `end`, which is not empty, what is at most `limit` bytes with it; what is longer than
    /// [`SKIP_LIMIT`] is the error `too_long`.
    pub(super) fn new(end: &'static [u8], limit: usize, too_long: E) -> Self {
        let (buf, skipping, broken) = (Vec::new(), None, None);
        FrameSplitter { end, limit, too_long, buf, start: 0, searched: 0, skipping, broken }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buf.drain(..self.start);
            self.searched = self.searched.saturating_sub(self.start);
            self.start = 0;
            self.buf.extend_from_slice(bytes);
        }
    }

    /// What comes before the next terminator, as it is read; of what is longer than the limit, what
    /// `long` makes of its first bytes. `None`: more bytes are needed.
    pub(super) fn next<'a, T>(
        &'a mut self,
        read: impl FnOnce(&'a [u8]) -> Result<T, E>,
        long: impl FnOnce([u8; HEAD]) -> T,
    ) -> Option<Result<T, E>> {
        if let Some(error) = self.broken {
            return Some(Err(error));
        }
        let unseen = self.buf.get(self.searched..).unwrap_or_default();
        let end = memmem::find(unseen, self.end).map(|at| self.searched + at);
        let next = end.map_or(self.buf.len(), |end| end + self.end.len());
        let length = next - self.start;
        if length > self.limit || (end.is_none() && length == self.limit) || self.skipping.is_some()
        {
            let (head, gone) = self.skipping.unwrap_or_else(|| (self.head(), 0));
            if end.is_some() {
                (self.start, self.searched, self.skipping) = (next, next, None);
                return Some(Ok(long(head)));
            }
            // A part of the terminator may be there.
            let kept = (next + 1).saturating_sub(self.end.len()).max(self.start);
            let gone = gone.saturating_add(kept - self.start);
            if gone > SKIP_LIMIT {
                let error = self.too_long;
                *self = FrameSplitter {
                    broken: Some(error),
                    ..FrameSplitter::new(self.end, self.limit, error)
                };
                return Some(Err(error));
            }
            (self.start, self.searched, self.skipping) = (kept, kept, Some((head, gone)));
            return None;
        }
        let Some(end) = end else {
            // A part of the terminator may be there.
            self.searched = (next + 1).saturating_sub(self.end.len()).max(self.start);
            if length == 0 {
                self.buf.clear();
                (self.start, self.searched) = (0, 0);
                if self.buf.capacity() > KEEP {
                    self.buf = Vec::new();
                }
            }
            return None;
        };
        let whole = self.start..end;
        (self.start, self.searched) = (next, next);
        let read = read(self.buf.get(whole).unwrap_or_default());
        Some(read.inspect_err(|error| self.broken = Some(*error)))
    }

    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        for (to, from) in head.iter_mut().zip(self.buf.iter().skip(self.start)) {
            *to = *from;
        }
        head
    }

    /// Whether the stream stands behind a terminator.
    pub(super) fn is_empty(&self) -> bool {
        self.skipping.is_none() && self.start >= self.buf.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool, bool) {
        let mut cutter = FrameSplitter::new(b"\n\n", 10, ());
        let mut whole = Vec::new();
        for piece in pieces {
            cutter.push(piece);
            while let Some(next) =
                cutter.next(|bytes| Ok(bytes.to_vec()), |head| [b"long ", &head[..]].concat())
            {
                match next {
                    Ok(bytes) => whole.push(bytes),
                    Err(()) => return (whole, true, cutter.is_empty()),
                }
            }
        }
        (whole, false, cutter.is_empty())
    }

    #[test]
    fn the_limit_counts_the_terminator() {
        assert_eq!(cut([&b"12345678\n\n"[..]]), (vec![b"12345678".to_vec()], false, true));
        let long = || vec![b"long 1234".to_vec()];
        assert_eq!(cut([&b"123456789\n\n"[..]]), (long(), false, true));
        assert_eq!(cut([&b"123456789\n"[..]]), (vec![], false, false));
        assert_eq!(cut([&b"123456789\n"[..], b"\n"]), (long(), false, true));
        assert_eq!(cut([&b"12345678\n"[..]]), (vec![], false, false));
    }

    #[test]
    fn a_drained_cutter_gives_a_large_buffer_back() {
        let mut cutter = FrameSplitter::new(b"\n", 10_000, ());
        cutter.push(&[&[b'x'; 9_000][..], b"\n"].concat());
        assert_eq!(cutter.next(|line| Ok(line.len()), |_| 0), Some(Ok(9_000)));
        assert_eq!(cutter.next(|line| Ok(line.len()), |_| 0), None);
        assert_eq!(cutter.buf.capacity(), 0);
    }

    #[test]
    fn nothing_is_read_after_what_could_not_be() {
        let mut cutter = FrameSplitter::new(b"\n", 10, "too long");
        cutter.push(b"a\nb\nc\n");
        let long = |_| Vec::new();
        assert_eq!(cutter.next(|line| Ok(line.to_vec()), long), Some(Ok(b"a".to_vec())));
        assert_eq!(cutter.next(|_| Err("bad"), long), Some(Err("bad")));
        cutter.push(b"d\n");
        assert_eq!(cutter.next(|line| Ok(line.to_vec()), long), Some(Err("bad")));
    }

    #[test]
    fn what_is_too_long_is_not_kept_and_has_an_end() {
        let mut cutter = FrameSplitter::new(b"\n", 10, "too long");
        let piece = [b'x'; 1000];
        for _ in 0..SKIP_LIMIT / piece.len() {
            cutter.push(&piece);
            assert_eq!(cutter.next(|_| Ok(()), |_| ()), None);
            assert!(cutter.buf.len() <= piece.len() && !cutter.is_empty());
        }
        cutter.push(b"y\nnext\n");
        assert_eq!(cutter.next(|_| Ok(false), |head| head == *b"xxxx"), Some(Ok(true)));
        assert_eq!(cutter.next(|line| Ok(line == b"next"), |_| false), Some(Ok(true)));
        for _ in 0..=SKIP_LIMIT / piece.len() {
            cutter.push(&piece);
            if let Some(end) = cutter.next(|_| Ok(()), |_| ()) {
                assert_eq!(end, Err("too long"));
                return;
            }
        }
        panic!("it never ends");
    }

    proptest! {
        #[test]
        fn however_it_comes_the_same_is_cut(
            stream in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..60),
            piece in 1usize..12,
        ) {
            let whole = cut([stream.as_slice()]);
            prop_assert_eq!(cut(stream.chunks(piece)), whole);
        }
    }
}
