//! Netstrings: `LEN ":" bytes ","`, the frame of the socketmap protocol.
//!
//! `LEN` is the decimal count of the bytes between the colon and the comma. This reader is strict,
//! because a frame that is misread once puts every later answer beside its question: digits only,
//! no leading zero except in `0`, and the comma must stand where the length says. A length above
//! the limit is refused while its digits come in, before anything is stored for it; with leading
//! zeros gone, that also bounds the number of digits.

use std::ops::Range;

/// Why a stream of bytes is not a stream of netstrings. There is no way to find the next frame
/// after one of these, so the connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The frame does not begin with a digit, or a byte other than a digit or the colon follows.
    #[error("byte {0:#04x} in the length of a netstring")]
    NotALength(u8),
    /// The length is written with a leading zero.
    #[error("leading zero in the length of a netstring")]
    LeadingZero,
    /// The length is above what this reader takes, in bytes.
    #[error("netstring of more than {0} bytes")]
    TooLong(usize),
    /// Another byte stands where the closing comma has to be.
    #[error("byte {0:#04x} where a netstring has to end with a comma")]
    NoComma(u8),
}

/// Above this a drained decoder gives its memory back, in bytes. A request of a mail server has
/// some 40 bytes, and hundreds of connections sit idle.
const KEEP: usize = 512;

/// Cuts netstrings out of a stream that comes in pieces of any size.
///
/// After the first [`FramingError`] the decoder says nothing but that error.
///
/// It stores what it is given and not yet asked for. Take every whole frame out before pushing
/// more: then it never holds more than one unfinished frame and one piece.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buf: Vec<u8>,
    /// What was before this offset has been given out.
    start: usize,
    broken: Option<FramingError>,
    /// Bytes still to come of a frame that is only skipped.
    skipping: Option<usize>,
}

/// What [`Decoder::next_or_skipped`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The bytes between colon and comma.
    Whole(&'a [u8]),
    /// More of them than the limit allows; they were dropped as they came.
    Skipped,
}

impl Decoder {
    /// A decoder of frames of at most `limit` bytes between colon and comma.
    pub fn new(limit: usize) -> Self {
        Decoder { limit, buf: Vec::new(), start: 0, broken: None, skipping: None }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buf.drain(..self.start);
            self.start = 0;
            self.buf.extend_from_slice(bytes);
        }
    }

    /// The next whole frame, without its length and comma. `None`: more bytes are needed.
    pub fn next_frame(&mut self) -> Option<Result<&[u8], FramingError>> {
        match self.next_of_at_most(self.limit)? {
            Ok(Frame::Whole(payload)) => Some(Ok(payload)),
            // None is longer than the limit.
            Ok(Frame::Skipped) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// As [`Self::next_frame`], but a frame longer than the limit and of at most `most` bytes is
    /// skipped and told of once it is over: the stream goes on behind it.
    pub fn next_or_skipped(&mut self, most: usize) -> Option<Result<Frame<'_>, FramingError>> {
        self.next_of_at_most(most.max(self.limit))
    }

    fn next_of_at_most(&mut self, most: usize) -> Option<Result<Frame<'_>, FramingError>> {
        if let Some(error) = self.broken {
            return Some(Err(error));
        }
        if self.skipping.is_none() {
            let rest = self.buf.get(self.start..).unwrap_or_default();
            if let Ok(Some((colon, length))) = length(rest, most)
                && length > self.limit
            {
                self.start = self.start.saturating_add(colon + 1);
                self.skipping = Some(length);
            }
        }
        if let Some(left) = self.skipping {
            return self.skip(left).map(|skipped| skipped.map(|()| Frame::Skipped));
        }
        let rest = self.buf.get(self.start..).unwrap_or_default();
        match first_frame(rest, most) {
            Ok(Some(payload)) => {
                let whole = self.start..self.start + payload.end + 1;
                self.start = whole.end;
                self.buf.get(whole)?.get(payload).map(|payload| Ok(Frame::Whole(payload)))
            }
            Ok(None) => {
                if rest.is_empty() {
                    self.start = 0;
                    self.buf.clear();
                    if self.buf.capacity() > KEEP {
                        self.buf = Vec::new();
                    }
                }
                None
            }
            Err(error) => Some(Err(self.broken(error))),
        }
    }

    /// Drops what has come of a frame of which so many bytes are left, and its comma.
    fn skip(&mut self, left: usize) -> Option<Result<(), FramingError>> {
        let come = self.buf.len().saturating_sub(self.start);
        let dropped = come.min(left);
        self.start = self.start.saturating_add(dropped);
        match (left - dropped, self.buf.get(self.start)) {
            (0, Some(b',')) => {
                self.start += 1;
                self.skipping = None;
                Some(Ok(()))
            }
            (0, Some(&other)) => Some(Err(self.broken(FramingError::NoComma(other)))),
            (left, _) => {
                self.skipping = Some(left);
                None
            }
        }
    }

    fn broken(&mut self, error: FramingError) -> FramingError {
        self.buf = Vec::new();
        self.start = 0;
        self.broken = Some(error);
        error
    }

    /// Whether the stream stands between two frames: the right place for it to end.
    pub fn is_empty(&self) -> bool {
        self.skipping.is_none() && self.start >= self.buf.len()
    }
}

/// Where the colon of the first frame in `bytes` is, and the length before it. `None`: it is not
/// there yet.
fn length(bytes: &[u8], limit: usize) -> Result<Option<(usize, usize)>, FramingError> {
    let mut length = 0usize;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' if at == 1 && length == 0 => return Err(FramingError::LeadingZero),
            b'0'..=b'9' => {
                length = length
                    .checked_mul(10)
                    .and_then(|n| n.checked_add(usize::from(byte - b'0')))
                    .filter(|&n| n <= limit)
                    .ok_or(FramingError::TooLong(limit))?;
            }
            b':' if at > 0 => return Ok(Some((at, length))),
            other => return Err(FramingError::NotALength(other)),
        }
    }
    Ok(None)
}

/// Where the payload of the first frame in `bytes` is; the comma follows it. `None`: the frame is
/// not whole yet.
fn first_frame(bytes: &[u8], limit: usize) -> Result<Option<Range<usize>>, FramingError> {
    let Some((colon, length)) = length(bytes, limit)? else { return Ok(None) };
    let payload = colon + 1..(colon + 1).saturating_add(length);
    match bytes.get(payload.end) {
        None => Ok(None),
        Some(b',') => Ok(Some(payload)),
        Some(&other) => Err(FramingError::NoComma(other)),
    }
}

/// Appends one frame whose payload is `parts`, one after the other.
pub fn encode_into(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.push(b':');
    for part in parts {
        out.extend_from_slice(part);
    }
    out.push(b',');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything the decoder says about `stream` pushed in these pieces.
    fn decode<'a>(
        limit: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Vec<u8>>, Option<FramingError>, bool) {
        let mut decoder = Decoder::new(limit);
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(next) = decoder.next_frame() {
                match next {
                    Ok(frame) => frames.push(frame.to_vec()),
                    Err(error) => return (frames, Some(error), false),
                }
            }
        }
        let empty = decoder.is_empty();
        (frames, None, empty)
    }

    #[test]
    fn pipelined_frames_split_at_every_byte_are_the_same_frames() {
        let stream = b"25:lmtp User+Ext@Example.ORG,0:,1:,,12:recipient a,,";
        let whole = decode(100, [&stream[..]]);
        assert_eq!(
            whole.0,
            [&b"lmtp User+Ext@Example.ORG"[..], b"", b",", b"recipient a,"].map(<[u8]>::to_vec)
        );
        assert_eq!((whole.1, whole.2), (None, true));
        for at in 0..stream.len() {
            assert_eq!(decode(100, [&stream[..at], &stream[at..]]), whole, "split at {at}");
        }
        assert_eq!(decode(100, stream.chunks(1)), whole, "byte by byte");
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_seen() {
        for cut in 1..9 {
            let (frames, error, empty) = decode(100, [&b"6:lmtp a,"[..cut]]);
            assert_eq!((frames.len(), error, empty), (0, None, false), "cut at {cut}");
        }
    }

    #[test]
    fn garbage_is_refused_at_its_first_byte() {
        use FramingError::*;
        for (stream, error) in [
            (&b":a,"[..], NotALength(b':')),
            (b" 1:a,", NotALength(b' ')),
            (b"+1:a,", NotALength(b'+')),
            (b"-1:a,", NotALength(b'-')),
            (b"1 :a,", NotALength(b' ')),
            (b"1\n", NotALength(b'\n')),
            (b"GET / HTTP/1.1", NotALength(b'G')),
            (b"\x16\x03\x01", NotALength(0x16)),
            (b"request=smtpd_access_policy", NotALength(b'r')),
            (b"00", LeadingZero),
            (b"01:a,", LeadingZero),
            (b"1:ab", NoComma(b'b')),
            (b"1:a\n", NoComma(b'\n')),
            (b"0:\n", NoComma(b'\n')),
        ] {
            for piece in [stream.len(), 1] {
                let said = decode(100, stream.chunks(piece));
                assert_eq!(said, (vec![], Some(error), false), "{}", stream.escape_ascii());
            }
        }
    }

    #[test]
    fn too_long_a_frame_is_refused_before_it_is_stored() {
        let mut decoder = Decoder::new(10_000);
        decoder.push(b"10000:");
        assert_eq!(decoder.next_frame(), None);
        let mut decoder = Decoder::new(10_000);
        // Without the colon: no digit that may follow makes it smaller.
        decoder.push(b"10001");
        assert_eq!(decoder.next_frame(), Some(Err(FramingError::TooLong(10_000))));
        decoder.push(&[b'9'; 100_000]);
        assert_eq!(decoder.buf.capacity(), 0);
        for huge in [&b"99999999999999999999999999999999:"[..], b"18446744073709551617:"] {
            let mut decoder = Decoder::new(usize::MAX);
            decoder.push(huge);
            assert_eq!(decoder.next_frame(), Some(Err(FramingError::TooLong(usize::MAX))));
        }
    }

    #[test]
    fn nothing_is_believed_after_a_framing_error() {
        let mut decoder = Decoder::new(100);
        decoder.push(b"1:ab1:c,");
        assert_eq!(decoder.next_frame(), Some(Err(FramingError::NoComma(b'b'))));
        decoder.push(b"1:c,");
        assert_eq!(decoder.next_frame(), Some(Err(FramingError::NoComma(b'b'))));
    }

    #[test]
    fn a_drained_decoder_gives_a_large_buffer_back() {
        let mut stream = Vec::new();
        encode_into(&mut stream, &[&[b'x'; 9_000]]);
        let mut decoder = Decoder::new(10_000);
        decoder.push(&stream);
        assert!(matches!(decoder.next_frame(), Some(Ok(frame)) if frame.len() == 9_000));
        assert_eq!(decoder.next_frame(), None);
        assert_eq!(decoder.buf.capacity(), 0);
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back_however_it_is_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            piece in 1usize..700,
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                let (head, tail) = frame.split_at(frame.len() / 2);
                encode_into(&mut stream, &[head, tail]);
            }
            prop_assert_eq!(decode(300, stream.chunks(piece)), (frames, None, true));
        }

        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_a_frame(
            stream in prop::collection::vec(prop_oneof![Just(b'0'), Just(b'1'), Just(b':'), Just(b','), any::<u8>()], 0..400),
            piece in 1usize..50,
        ) {
            let (frames, _, _) = decode(30, stream.chunks(piece));
            prop_assert!(frames.iter().all(|frame| frame.len() <= 30));
        }
    }

    #[test]
    fn frame_above_the_limit_is_skipped_and_the_stream_goes_on() {
        let stream = b"3:one,20:01234567890123456789,3:two,11:01234567890,10:0123456789,";
        for size in 1..=stream.len() {
            let mut decoder = Decoder::new(10);
            let mut seen = Vec::new();
            for piece in stream.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_or_skipped(20) {
                    seen.push(match frame.unwrap() {
                        Frame::Whole(payload) => String::from_utf8_lossy(payload).into_owned(),
                        Frame::Skipped => "skipped".to_owned(),
                    });
                }
                assert!(decoder.buf.len() <= 10 + 3 + size, "what is skipped is not kept");
            }
            assert_eq!(seen, ["one", "skipped", "two", "skipped", "0123456789"], "{size}");
            assert!(decoder.is_empty());
        }
        for (stream, error) in [
            (&b"21:"[..], FramingError::TooLong(20)),
            (b"20:01234567890123456789;", FramingError::NoComma(b';')),
        ] {
            let mut decoder = Decoder::new(10);
            decoder.push(stream);
            assert_eq!(decoder.next_or_skipped(20), Some(Err(error)));
            assert_eq!(decoder.next_or_skipped(20), Some(Err(error)));
        }
    }
}
