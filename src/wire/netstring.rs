//! Netstrings: `LEN ":" bytes ","`, the frame of the socketmap protocol.
//!
//! `LEN` is the decimal count of the bytes between the colon and the comma. This decoder is strict,
//! because one misread frame would assign every later answer to the wrong request: digits only, no
//! leading zero except in `0`, and the comma must stand where the length says. A length above the
//! limit is refused as soon as its digits arrive, before anything is stored. Because leading zeros
//! are refused, this also bounds the number of digits.

use std::ops::Range;

/// Violation of the netstring syntax. The beginning of the next frame is unknown after it, so the
/// connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The frame does not begin with a digit, or another byte than a digit or the colon follows.
    #[error("byte {0:#04x} in the length of a netstring")]
    NotALength(u8),
    /// The length has a leading zero.
    #[error("leading zero in the length of a netstring")]
    LeadingZero,
    /// The length exceeds this limit, in bytes.
    #[error("netstring of more than {0} bytes")]
    TooLong(usize),
    /// Another byte stands in place of the closing comma.
    #[error("byte {0:#04x} where a netstring has to end with a comma")]
    NoComma(u8),
}

/// Capacity above which a drained decoder frees its buffer, in bytes. A request of a mail server has
/// some 40 bytes, and hundreds of connections are idle.
const KEEP: usize = 512;

/// Splits a stream into netstrings. Pieces may have any size.
///
/// The first [`FramingError`] is permanent.
///
/// Take all complete frames before the next push; then memory is bounded by one incomplete frame and
/// one piece.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buf: Vec<u8>,
    /// Offset of the first byte not yet returned.
    start: usize,
    broken: Option<FramingError>,
    /// Number of missing bytes of a frame that is skipped.
    skipping: Option<usize>,
}

/// Result of [`Decoder::next_or_skipped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Payload of a frame.
    Whole(&'a [u8]),
    /// A frame longer than the limit. Its bytes were dropped as they arrived.
    Skipped,
}

impl Decoder {
    /// Creates a decoder for frames of at most `limit` payload bytes.
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

    /// Returns the payload of the next complete frame. `None`: more bytes are needed.
    pub fn next_frame(&mut self) -> Option<Result<&[u8], FramingError>> {
        match self.next_of_at_most(self.limit)? {
            Ok(Frame::Whole(payload)) => Some(Ok(payload)),
            // No frame is longer than the limit.
            Ok(Frame::Skipped) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Like [`Self::next_frame`], but skips a frame longer than the limit and of at most `most`
    /// bytes. The skipped frame is reported at its end, and the stream continues after it.
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

    /// Drops the available bytes of a skipped frame, of which `left` are missing, and its comma.
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

    /// Whether the stream ends between two frames, which is a clean end.
    pub fn is_empty(&self) -> bool {
        self.skipping.is_none() && self.start >= self.buf.len()
    }
}

/// Returns the position of the colon of the first frame in `bytes`, and the length before it.
/// `None`: more bytes are needed.
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

/// Returns the range of the payload of the first frame in `bytes`; the comma follows it. `None`:
/// more bytes are needed.
fn first_frame(bytes: &[u8], limit: usize) -> Result<Option<Range<usize>>, FramingError> {
    let Some((colon, length)) = length(bytes, limit)? else { return Ok(None) };
    let payload = colon + 1..(colon + 1).saturating_add(length);
    match bytes.get(payload.end) {
        None => Ok(None),
        Some(b',') => Ok(Some(payload)),
        Some(&other) => Err(FramingError::NoComma(other)),
    }
}

/// Appends one frame whose payload is the concatenation of `parts`.
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

    /// Returns all results of the decoder for a stream in these pieces.
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
    fn pipelined_frames_are_the_same_at_every_split() {
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
    fn end_within_a_frame_is_detected() {
        for cut in 1..9 {
            let (frames, error, empty) = decode(100, [&b"6:lmtp a,"[..cut]]);
            assert_eq!((frames.len(), error, empty), (0, None, false), "cut at {cut}");
        }
    }

    #[test]
    fn invalid_byte_is_refused_at_once() {
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
    fn oversized_frame_is_refused_before_it_is_stored() {
        let mut decoder = Decoder::new(10_000);
        decoder.push(b"10000:");
        assert_eq!(decoder.next_frame(), None);
        let mut decoder = Decoder::new(10_000);
        // Without the colon: further digits cannot make the length smaller.
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
    fn framing_error_is_permanent() {
        let mut decoder = Decoder::new(100);
        decoder.push(b"1:ab1:c,");
        assert_eq!(decoder.next_frame(), Some(Err(FramingError::NoComma(b'b'))));
        decoder.push(b"1:c,");
        assert_eq!(decoder.next_frame(), Some(Err(FramingError::NoComma(b'b'))));
    }

    #[test]
    fn drained_decoder_frees_a_large_buffer() {
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
        fn encoded_frames_read_back_at_every_split(
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
        fn any_bytes_are_survived_in_bounded_memory(
            stream in prop::collection::vec(prop_oneof![Just(b'0'), Just(b'1'), Just(b':'), Just(b','), any::<u8>()], 0..400),
            piece in 1usize..50,
        ) {
            let (frames, _, _) = decode(30, stream.chunks(piece));
            prop_assert!(frames.iter().all(|frame| frame.len() <= 30));
        }
    }

    #[test]
    fn oversized_frame_is_skipped_and_the_stream_continues() {
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
