//! Splits a stream at a terminator, with a limit.

use memchr::memmem;

/// Capacity above which an empty splitter frees its buffer, in bytes.
const KEEP: usize = 2048;

/// Maximum length of an oversized frame that is skipped, in bytes.
pub(super) const SKIP_LIMIT: usize = 1_000_000;

/// Number of bytes of a skipped frame that are reported.
pub(super) const HEAD: usize = 4;

/// Splitter of a stream. It holds at most `limit` bytes and one piece, if all complete frames are
/// taken before the next push. Longer frames are dropped as they arrive. The first error is
/// permanent.
#[derive(Debug)]
pub(super) struct FrameSplitter<E> {
    end: &'static [u8],
    limit: usize,
    /// Error for a frame longer than [`SKIP_LIMIT`].
    too_long: E,
    buf: Vec<u8>,
    /// Offset of the first byte not yet returned.
    start: usize,
    /// Offset before which no terminator begins.
    searched: usize,
    /// First bytes of the frame being skipped, and the number of its bytes dropped.
    skipping: Option<([u8; HEAD], usize)>,
    broken: Option<E>,
}

impl<E: Copy> FrameSplitter<E> {
    /// Creates a splitter with the terminator `end`, which is not empty. `limit` is the maximum
    /// length of a frame with its terminator, in bytes. A frame longer than [`SKIP_LIMIT`] is the
    /// error `too_long`.
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

    /// Returns the next frame, parsed by `read`, or by `long` from its first bytes if it exceeds the
    /// limit. `None`: more bytes are needed.
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
            // Part of the terminator may be present.
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
            // Part of the terminator may be present.
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

    /// Whether the stream ends after a terminator.
    pub(super) fn is_empty(&self) -> bool {
        self.skipping.is_none() && self.start >= self.buf.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool, bool) {
        let mut splitter = FrameSplitter::new(b"\n\n", 10, ());
        let mut whole = Vec::new();
        for piece in pieces {
            splitter.push(piece);
            while let Some(next) =
                splitter.next(|bytes| Ok(bytes.to_vec()), |head| [b"long ", &head[..]].concat())
            {
                match next {
                    Ok(bytes) => whole.push(bytes),
                    Err(()) => return (whole, true, splitter.is_empty()),
                }
            }
        }
        (whole, false, splitter.is_empty())
    }

    #[test]
    fn limit_includes_the_terminator() {
        assert_eq!(cut([&b"12345678\n\n"[..]]), (vec![b"12345678".to_vec()], false, true));
        let long = || vec![b"long 1234".to_vec()];
        assert_eq!(cut([&b"123456789\n\n"[..]]), (long(), false, true));
        assert_eq!(cut([&b"123456789\n"[..]]), (vec![], false, false));
        assert_eq!(cut([&b"123456789\n"[..], b"\n"]), (long(), false, true));
        assert_eq!(cut([&b"12345678\n"[..]]), (vec![], false, false));
    }

    #[test]
    fn drained_splitter_frees_a_large_buffer() {
        let mut splitter = FrameSplitter::new(b"\n", 10_000, ());
        splitter.push(&[&[b'x'; 9_000][..], b"\n"].concat());
        assert_eq!(splitter.next(|line| Ok(line.len()), |_| 0), Some(Ok(9_000)));
        assert_eq!(splitter.next(|line| Ok(line.len()), |_| 0), None);
        assert_eq!(splitter.buf.capacity(), 0);
    }

    #[test]
    fn error_is_permanent() {
        let mut splitter = FrameSplitter::new(b"\n", 10, "too long");
        splitter.push(b"a\nb\nc\n");
        let long = |_| Vec::new();
        assert_eq!(splitter.next(|line| Ok(line.to_vec()), long), Some(Ok(b"a".to_vec())));
        assert_eq!(splitter.next(|_| Err("bad"), long), Some(Err("bad")));
        splitter.push(b"d\n");
        assert_eq!(splitter.next(|line| Ok(line.to_vec()), long), Some(Err("bad")));
    }

    #[test]
    fn oversized_frame_is_dropped_and_limited() {
        let mut splitter = FrameSplitter::new(b"\n", 10, "too long");
        let piece = [b'x'; 1000];
        for _ in 0..SKIP_LIMIT / piece.len() {
            splitter.push(&piece);
            assert_eq!(splitter.next(|_| Ok(()), |_| ()), None);
            assert!(splitter.buf.len() <= piece.len() && !splitter.is_empty());
        }
        splitter.push(b"y\nnext\n");
        assert_eq!(splitter.next(|_| Ok(false), |head| head == *b"xxxx"), Some(Ok(true)));
        assert_eq!(splitter.next(|line| Ok(line == b"next"), |_| false), Some(Ok(true)));
        for _ in 0..=SKIP_LIMIT / piece.len() {
            splitter.push(&piece);
            if let Some(end) = splitter.next(|_| Ok(()), |_| ()) {
                assert_eq!(end, Err("too long"));
                return;
            }
        }
        panic!("it never ends");
    }

    proptest! {
        #[test]
        fn frames_are_the_same_at_every_split(
            stream in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..60),
            piece in 1usize..12,
        ) {
            let whole = cut([stream.as_slice()]);
            prop_assert_eq!(cut(stream.chunks(piece)), whole);
        }
    }
}
