//! Cuts a stream that comes in pieces of any size at a terminator, with a limit.

use memchr::memmem;

/// Above this a drained cutter gives its memory back, in bytes.
const KEEP: usize = 2048;

/// The cutter. It holds no more than `limit` bytes and one piece, if everything whole is taken out
/// before more is pushed. After the first error it says nothing but that error.
#[derive(Debug)]
pub(super) struct Cutter<E> {
    end: &'static [u8],
    limit: usize,
    /// What comes is longer than the limit, its terminator included.
    too_long: E,
    buf: Vec<u8>,
    /// What was before this offset has been given out.
    start: usize,
    /// Before this offset no terminator begins.
    searched: usize,
    broken: Option<E>,
}

impl<E: Copy> Cutter<E> {
    /// Cuts at `end`, which is not empty, what is at most `limit` bytes with it; what is longer is
    /// the error `too_long`.
    pub(super) fn new(end: &'static [u8], limit: usize, too_long: E) -> Self {
        Cutter { end, limit, too_long, buf: Vec::new(), start: 0, searched: 0, broken: None }
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

    /// What comes before the next terminator, as it is read. `None`: more bytes are needed.
    pub(super) fn next<'a, T>(
        &'a mut self,
        read: impl FnOnce(&'a [u8]) -> Result<T, E>,
    ) -> Option<Result<T, E>> {
        if let Some(error) = self.broken {
            return Some(Err(error));
        }
        let unseen = self.buf.get(self.searched..).unwrap_or_default();
        let end = memmem::find(unseen, self.end).map(|at| self.searched + at);
        let next = end.map_or(self.buf.len(), |end| end + self.end.len());
        let length = next - self.start;
        if length > self.limit || (end.is_none() && length == self.limit) {
            let error = self.too_long;
            *self = Cutter { broken: Some(error), ..Cutter::new(self.end, self.limit, error) };
            return Some(Err(error));
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

    /// Whether the stream stands behind a terminator.
    pub(super) fn is_empty(&self) -> bool {
        self.start >= self.buf.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool, bool) {
        let mut cutter = Cutter::new(b"\n\n", 10, ());
        let mut whole = Vec::new();
        for piece in pieces {
            cutter.push(piece);
            while let Some(next) = cutter.next(|bytes| Ok(bytes.to_vec())) {
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
        assert_eq!(cut([&b"123456789\n\n"[..]]), (vec![], true, true));
        assert_eq!(cut([&b"123456789\n"[..]]), (vec![], true, true));
        assert_eq!(cut([&b"12345678\n"[..]]), (vec![], false, false));
    }

    #[test]
    fn a_drained_cutter_gives_a_large_buffer_back() {
        let mut cutter = Cutter::new(b"\n", 10_000, ());
        cutter.push(&[&[b'x'; 9_000][..], b"\n"].concat());
        assert_eq!(cutter.next(|line| Ok(line.len())), Some(Ok(9_000)));
        assert_eq!(cutter.next(|line| Ok(line.len())), None);
        assert_eq!(cutter.buf.capacity(), 0);
    }

    #[test]
    fn nothing_is_read_after_what_could_not_be() {
        let mut cutter = Cutter::new(b"\n", 10, "too long");
        cutter.push(b"a\nb\nc\n");
        assert_eq!(cutter.next(|line| Ok(line.to_vec())), Some(Ok(b"a".to_vec())));
        assert_eq!(cutter.next(|_| Err::<(), _>("bad")), Some(Err("bad")));
        cutter.push(b"d\n");
        assert_eq!(cutter.next(|line| Ok(line.to_vec())), Some(Err("bad")));
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
