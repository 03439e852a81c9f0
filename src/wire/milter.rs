//! The part of the milter protocol that is needed to judge recipients.
//!
//! ```text
//! packet = LENGTH (4 bytes, big-endian) COMMAND (1 byte) DATA (LENGTH - 1 bytes)
//!
//! MTA  O version actions steps          we answer which steps it may leave out
//! MTA  D R name NUL value NUL …         macros for the next command: no answer
//! MTA  R <Joe+Ext@example.org> NUL …    we answer c, or y 550 5.1.1 User unknown NUL
//! ```
//!
//! All steps except the connection and RCPT are negotiated away. The connection identifies Postfix'
//! `non_smtpd_milters` (a message of sendmail(1), a bounce, a forward), where no client is left to
//! refuse a recipient to: a refusal would discard the whole message. An older MTA that lacks some of
//! these options still sends the steps: they are answered with "continue", and their data are
//! dropped as they arrive. Sources: mfdef.h of libmilter; recorded traffic of Postfix 3.7.

use super::rcpt::RcptVerdict;

/// Maximum length of a packet, in bytes without its length field: a command and the 65,535 bytes of
/// data that an MTA sends to a filter that has not asked for more (`MILTER_MAX_DATA_SIZE`).
pub const PACKET_LIMIT: usize = 65_536;

/// Maximum length of a packet that is parsed and not skipped, in bytes without its length field. The
/// SMTP lines in it are bounded (2,048 in Postfix and Sendmail), so a longer recipient is none of
/// ours.
pub const REQUEST_LIMIT: usize = 10_000;

/// Supported protocol versions. Sendmail since 8.14 has version 6.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 2..=6;

/// Steps that the MTA is asked to leave out: `SMFIP_NOHELO`, `NOMAIL`, `NOBODY`, `NOHDRS`, `NOEOH`,
/// `NOUNKNOWN` and `NODATA`. `NORCPT` is not among them, and neither are the `SMFIP_NR_` bits, which
/// would promise no answer to a step.
const LEFT_OUT: u32 = 0x376;

/// Violation of the milter protocol. No answer is sent: the MTA applies its setting for a missing
/// filter (`milter_default_action`, `F=T`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPacket {
    /// A packet without a command.
    #[error("packet without a command")]
    Empty,
    /// A packet longer than [`PACKET_LIMIT`], or than [`REQUEST_LIMIT`] where that applies.
    #[error("packet of {0} bytes")]
    TooLong(u32),
    /// An unknown command, for which it is unclear whether an answer is expected.
    #[error("unknown command {0:#04x}")]
    Unknown(u8),
    /// A command before the negotiation.
    #[error("command {0:#04x} before the negotiation")]
    TooEarly(u8),
    /// A negotiation without its three numbers.
    #[error("negotiation of {0} bytes")]
    Negotiation(usize),
    /// A version below [`VERSIONS`].
    #[error("version {0} of the protocol")]
    Version(u32),
    /// A recipient without its final NUL.
    #[error("recipient without its end")]
    Unterminated,
}

/// Command of the MTA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// The MTA's offer. Answer with [`Offer::encode_into`].
    Negotiate(Offer),
    /// A recipient, without angle brackets and ESMTP arguments. Answer with [`encode_into`].
    Recipient(&'a [u8]),
    /// A client has connected. Answer with [`RcptVerdict::Pass`].
    Connection {
        /// Whether the client is Postfix itself, with a message that was not received by SMTP. Its
        /// recipients must pass.
        submitted: bool,
    },
    /// Another step. Answer with [`RcptVerdict::Pass`].
    Other,
    /// A packet without an answer.
    Silent,
    /// End of the connection.
    Quit,
}

/// Offer of the MTA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Protocol version of the MTA.
    pub version: u32,
    /// Steps that the MTA can leave out, and other `SMFIP_` bits.
    pub steps: u32,
}

impl Offer {
    fn read(data: &[u8]) -> Result<Self, BadPacket> {
        let short = BadPacket::Negotiation(data.len());
        // Version, actions, steps. Further data are ignored.
        let (version, rest) = number(data).ok_or(short)?;
        let (_, rest) = number(rest).ok_or(short)?;
        let (steps, _) = number(rest).ok_or(short)?;
        if version < *VERSIONS.start() {
            return Err(BadPacket::Version(version));
        }
        Ok(Offer { version, steps })
    }

    /// Appends the answer: the older of the two versions, no changes to the message, and the offered
    /// ones of the steps to leave out.
    pub fn encode_into(self, out: &mut Vec<u8>) {
        let version = self.version.min(*VERSIONS.end());
        let numbers = [version, 0, self.steps & LEFT_OUT].map(u32::to_be_bytes);
        packet(out, b'O', numbers.as_flattened());
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// Appends the answer to a recipient or to another step.
pub fn encode_into(out: &mut Vec<u8>, answer: RcptVerdict) {
    let (code, text) = match answer {
        RcptVerdict::Pass => return packet(out, b'c', &[]),
        RcptVerdict::Defer(text) => ("451 ", text),
        RcptVerdict::Reject(text) => ("550 ", text),
    };
    // The MTA uses the text as a format of printf(3).
    let text = text.replace('%', "%%");
    packet(out, b'y', &[code.as_bytes(), text.as_bytes(), b"\0"].concat());
}

fn packet(out: &mut Vec<u8>, command: u8, data: &[u8]) {
    // Answers are short; the length always fits.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX).saturating_add(1);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(command);
    out.extend_from_slice(data);
}

/// Treatment of a packet, by its command.
#[derive(Debug, Clone, Copy)]
enum PacketKind {
    Negotiate,
    Recipient,
    Connection,
    Skip(Command<'static>),
}

impl PacketKind {
    fn of(command: u8) -> Option<Self> {
        Some(match command {
            b'O' => PacketKind::Negotiate,
            b'R' => PacketKind::Recipient,
            b'C' => PacketKind::Connection,
            // Helo, mail, data, header, end of headers, body, end of body, unknown.
            b'H' | b'M' | b'T' | b'L' | b'N' | b'B' | b'E' | b'U' => {
                PacketKind::Skip(Command::Other)
            }
            // Macros, abort, and the end of a client whose connection is reused.
            b'D' | b'A' | b'K' => PacketKind::Skip(Command::Silent),
            b'Q' => PacketKind::Skip(Command::Quit),
            _ => return None,
        })
    }
}

/// Number of bytes of a packet before its data.
const HEAD: usize = 5;

/// Capacity above which a drained decoder frees its buffer, in bytes.
const KEEP: usize = 512;

/// Splits a stream into commands. Pieces may have any size. The first error is permanent. Take all
/// complete commands before the next push; then memory is bounded by [`REQUEST_LIMIT`] and one
/// piece.
#[derive(Debug, Default)]
pub struct Decoder {
    buf: Vec<u8>,
    /// Offset of the first byte not yet returned.
    start: usize,
    /// Command of a packet whose data are skipped, and the number of bytes still missing.
    skipping: Option<(Command<'static>, usize)>,
    negotiated: bool,
    broken: Option<BadPacket>,
}

impl Decoder {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        let mut bytes = bytes;
        if let Some((_, left)) = &mut self.skipping {
            let skipped = bytes.len().min(*left);
            *left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
        }
        self.buf.drain(..self.start);
        self.start = 0;
        self.buf.extend_from_slice(bytes);
    }

    /// Returns the next complete command. `None`: more bytes are needed.
    pub fn next_command(&mut self) -> Option<Result<Command<'_>, BadPacket>> {
        if let Some(error) = self.broken {
            return Some(Err(error));
        }
        match self.skipping {
            Some((command, 0)) => {
                self.skipping = None;
                return Some(Ok(command));
            }
            Some(_) => return None,
            None => {}
        }
        let rest = self.buf.get(self.start..).unwrap_or_default();
        if rest.is_empty() {
            self.start = 0;
            self.buf.clear();
            if self.buf.capacity() > KEEP {
                self.buf = Vec::new();
            }
            return None;
        }
        let (kind, length) = match head(rest, self.negotiated) {
            Ok(head) => head?,
            Err(error) => {
                self.buf = Vec::new();
                self.start = 0;
                self.broken = Some(error);
                return Some(Err(error));
            }
        };
        let data = self.start + HEAD;
        let end = data.saturating_add(length);
        if let PacketKind::Skip(command) = kind {
            self.start = end.min(self.buf.len());
            if end > self.buf.len() {
                self.skipping = Some((command, end - self.buf.len()));
                return None;
            }
            return Some(Ok(command));
        }
        let data = self.buf.get(data..end)?;
        self.start = end;
        let command = match kind {
            PacketKind::Negotiate => Offer::read(data).map(Command::Negotiate),
            PacketKind::Connection => Ok(connection(data)),
            _ => recipient(data).map(Command::Recipient),
        };
        self.negotiated = true;
        Some(command.inspect_err(|error| self.broken = Some(*error)))
    }

    /// Whether the stream ends between two packets.
    pub fn is_empty(&self) -> bool {
        self.skipping.is_none() && self.start >= self.buf.len()
    }
}

/// Returns the kind of the packet that begins here, and the length of its data. `None`: more bytes
/// are needed.
fn head(bytes: &[u8], negotiated: bool) -> Result<Option<(PacketKind, usize)>, BadPacket> {
    let Some((length, rest)) = number(bytes) else { return Ok(None) };
    let within = |limit: usize| usize::try_from(length).ok().filter(|length| *length <= limit);
    let too_long = BadPacket::TooLong(length);
    within(PACKET_LIMIT).ok_or(too_long)?;
    if length == 0 {
        return Err(BadPacket::Empty);
    }
    let Some(command) = rest.first() else { return Ok(None) };
    let kind = match PacketKind::of(*command).ok_or(BadPacket::Unknown(*command))? {
        // A connection of this length has no information that is needed, and no address of ours is
        // this long.
        PacketKind::Connection | PacketKind::Recipient if within(REQUEST_LIMIT).is_none() => {
            PacketKind::Skip(Command::Other)
        }
        kind => kind,
    };
    let limit = match kind {
        PacketKind::Negotiate => REQUEST_LIMIT,
        _ if !negotiated => return Err(BadPacket::TooEarly(*command)),
        PacketKind::Recipient | PacketKind::Connection | PacketKind::Skip(_) => PACKET_LIMIT,
    };
    let length = within(limit).ok_or(too_long)?;
    Ok(Some((kind, length.saturating_sub(1))))
}

/// Parses `localhost` NUL `4` PORT `127.0.0.1` NUL. For a message that was not received by SMTP,
/// Postfix reports a connection from this host with port 0
/// (`cleanup_milter.c:cleanup_milter_client_init`).
fn connection(data: &[u8]) -> Command<'static> {
    let end = memchr::memchr(0, data).unwrap_or(data.len());
    let submitted = match data.get(end..).unwrap_or_default() {
        [0, b'4', 0, 0, address @ ..] => address == b"127.0.0.1\0",
        [0, b'6', 0, 0, address @ ..] => matches!(address, b"::1\0" | b"IPv6:::1\0"),
        _ => false,
    };
    Command::Connection { submitted }
}

/// Parses `<Joe+Ext@example.org>` NUL, as typed; Sendmail also omits the brackets.
fn recipient(data: &[u8]) -> Result<&[u8], BadPacket> {
    let end = memchr::memchr(0, data).ok_or(BadPacket::Unterminated)?;
    let argument = data.get(..end).unwrap_or_default().trim_ascii();
    let bare = argument.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">"));
    Ok(bare.unwrap_or(argument))
}

#[cfg(test)]
mod tests;
