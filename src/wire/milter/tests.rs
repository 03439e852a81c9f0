//! Packets as MTAs send them, and invalid ones.

use super::*;
use proptest::prelude::*;

fn packets(packets: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (command, data) in packets {
        packet(&mut out, *command, data);
    }
    out
}

/// Offer of Postfix 3.7.11: version 6, actions 0x1ff, steps 0x1fffff.
const OFFER: &[u8] = b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";

/// Returns the commands as text, and the error that ended the stream.
fn decode<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<String>, Option<BadPacket>, bool) {
    let mut decoder = Decoder::default();
    let mut commands = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(next) = decoder.next_command() {
            match next {
                Ok(Command::Recipient(address)) => {
                    commands.push(format!("R {}", address.escape_ascii()));
                }
                Ok(command) => commands.push(format!("{command:?}")),
                Err(error) => {
                    assert_eq!(decoder.next_command(), Some(Err(error)));
                    return (commands, Some(error), false);
                }
            }
        }
        assert!(decoder.buf.len() <= REQUEST_LIMIT + 4 + piece.len());
    }
    (commands, None, decoder.is_empty())
}

#[test]
fn postfix_session_is_the_same_at_every_split() {
    let stream = packets(&[
        (b'O', OFFER),
        (b'D', b"Ri\x004B1\0{rcpt_addr}\0joe+ext@example.org\0"),
        (b'R', b"<Joe+Ext@example.org>\0NOTIFY=NEVER\0"),
        (b'R', b"<\"quoted user\"@example.org>\0"),
        (b'A', b""),
        (b'K', b""),
        (b'O', OFFER),
        (b'R', b"jane@example.org\0"),
        (b'R', b"<>\0"),
        (b'Q', b""),
    ]);
    assert_eq!(&stream[..5], b"\0\0\0\x0dO");
    let offer = "Negotiate(Offer { version: 6, steps: 2097151 })";
    let whole = decode([stream.as_slice()]);
    assert_eq!(
        whole.0,
        [
            offer,
            "Silent",
            "R Joe+Ext@example.org",
            "R \\\"quoted user\\\"@example.org",
            "Silent",
            "Silent",
            offer,
            "R jane@example.org",
            "R ",
            "Quit",
        ]
    );
    assert_eq!((whole.1, whole.2), (None, true));
    for at in 0..stream.len() {
        assert_eq!(decode([&stream[..at], &stream[at..]]), whole, "split at {at}");
    }
    assert_eq!(decode(stream.chunks(1)), whole, "byte by byte");
    for cut in 1..stream.len() {
        assert_eq!(decode([&stream[..cut]]).1, None, "cut at {cut}");
    }
}

#[test]
fn other_commands_pass_with_maximum_data() {
    let large = vec![b'x'; PACKET_LIMIT - 1];
    for (command, answered) in [
        (b'C', true),
        (b'H', true),
        (b'M', true),
        (b'T', true),
        (b'L', true),
        (b'N', true),
        (b'B', true),
        (b'E', true),
        (b'U', true),
        (b'D', false),
        (b'A', false),
        (b'K', false),
    ] {
        let stream =
            packets(&[(b'O', OFFER), (command, &large), (command, b""), (b'R', b"<a@b>\0")]);
        let word = if answered { "Other" } else { "Silent" };
        let short = if command == b'C' { "Connection { submitted: false }" } else { word };
        for piece in [1, 511, stream.len()] {
            let (commands, error, between) = decode(stream.chunks(piece));
            assert_eq!(commands[1..], [word, short, "R a@b"], "{}", char::from(command));
            assert_eq!((error, between), (None, true));
        }
    }
}

#[test]
fn end_within_a_packet_is_not_a_clean_end() {
    let before = packets(&[(b'O', OFFER)]);
    for packet in [(b'R', &b"<a@b>\0"[..]), (b'B', &b"Dear Jane"[..]), (b'D', &b"R"[..])] {
        let stream = packets(&[(b'O', OFFER), packet]);
        for cut in before.len() + 1..stream.len() {
            assert!(!decode([&stream[..cut]]).2, "{} cut at {cut}", char::from(packet.0));
        }
        assert!(decode([stream.as_slice()]).2);
    }
}

#[test]
fn oldest_supported_version_is_accepted() {
    // Sendmail 8.12.
    let stream = packets(&[(b'O', b"\0\0\0\x02\0\0\0\0\0\0\0\x7f"), (b'R', b"<a@b>\0")]);
    let (commands, error, _) = decode([stream.as_slice()]);
    assert_eq!(error, None);
    assert_eq!(commands.last().map(String::as_str), Some("R a@b"));
}

#[test]
fn only_offered_steps_are_left_out() {
    for (version, offered, answer) in [
        (6, 0x001f_ffff, b"\0\0\0\x0dO\0\0\0\x06\0\0\0\0\0\0\x03\x76"),
        // A newer version.
        (9, u32::MAX, b"\0\0\0\x0dO\0\0\0\x06\0\0\0\0\0\0\x03\x76"),
        // Sendmail 8.12: no NOUNKNOWN, no NODATA.
        (2, 0x7f, b"\0\0\0\x0dO\0\0\0\x02\0\0\0\0\0\0\x00\x76"),
        (3, 0, b"\0\0\0\x0dO\0\0\0\x03\0\0\0\0\0\0\0\0"),
    ] {
        let mut out = Vec::new();
        Offer { version, steps: offered }.encode_into(&mut out);
        assert_eq!(out, answer, "version {version}");
    }
}

#[test]
fn answers_have_every_percent_sign_doubled() {
    for (answer, bytes) in [
        (RcptVerdict::Pass, &b"\0\0\0\x01c"[..]),
        (RcptVerdict::Reject("5.1.1 User unknown"), b"\0\0\0\x18y550 5.1.1 User unknown\0"),
        (RcptVerdict::Defer("4.3.0 100% busy"), b"\0\0\0\x16y451 4.3.0 100%% busy\0"),
    ] {
        let mut out = Vec::new();
        encode_into(&mut out, answer);
        assert_eq!(out, bytes, "{answer:?}");
    }
}

#[test]
fn invalid_packet_ends_the_stream_before_it_is_stored() {
    let offer = packets(&[(b'O', OFFER)]);
    let after = |bytes: &[u8]| [&offer, bytes].concat();
    for (stream, error) in [
        (b"\0\0\0\0".to_vec(), BadPacket::Empty),
        (b"\0\x01\0\x01".to_vec(), BadPacket::TooLong(65_537)),
        (b"\0\0\x27\x11O".to_vec(), BadPacket::TooLong(10_001)),
        (b"\0\0\0\x06R".to_vec(), BadPacket::TooEarly(b'R')),
        (b"\0\0\0\x01Q".to_vec(), BadPacket::TooEarly(b'Q')),
        (b"\0\0\0\x01!".to_vec(), BadPacket::Unknown(b'!')),
        (packets(&[(b'O', &OFFER[..11])]), BadPacket::Negotiation(11)),
        (packets(&[(b'O', b"\0\0\0\x01\0\0\0\0\0\0\0\0")]), BadPacket::Version(1)),
        (after(b"\xff\xff\xff\xff"), BadPacket::TooLong(u32::MAX)),
        (after(b"\0\0\0\x06R<a@b>"), BadPacket::Unterminated),
        (after(b"\0\0\0\x01R"), BadPacket::Unterminated),
        (after(b"\0\0\0\x01r"), BadPacket::Unknown(b'r')),
    ] {
        for piece in [stream.len(), 1] {
            let said = decode(stream.chunks(piece));
            assert_eq!(said.1, Some(error), "{}", stream.escape_ascii());
        }
    }
}

#[test]
fn oversized_recipient_passes_and_the_stream_continues() {
    let long = [b"<", &vec![b'x'; 24_000][..], b"@example.org>\0"].concat();
    let stream = packets(&[(b'O', OFFER), (b'R', &long), (b'R', b"<a@b>\0")]);
    for piece in [stream.len(), 4096, 1] {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for bytes in stream.chunks(piece) {
            decoder.push(bytes);
            while let Some(command) = decoder.next_command() {
                seen.push(match command.unwrap() {
                    Command::Recipient(recipient) => recipient.to_vec(),
                    Command::Other => b"other".to_vec(),
                    _ => b"offer".to_vec(),
                });
            }
        }
        assert_eq!(seen, [&b"offer"[..], b"other", b"a@b"], "{piece}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_alike_at_every_split(
        parts in prop::collection::vec(
            prop_oneof![
                3 => (0u8..20, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, data)| {
                    let command = *b"ORRRCHMTLNBEUDAKQ!\0x".get(usize::from(at)).unwrap_or(&b'R');
                    packets(&[(command, &data)])
                }),
                1 => prop::collection::vec(any::<u8>(), 0..9),
            ],
            0..12,
        ),
        piece in 1usize..30,
    ) {
        let stream = [packets(&[(b'O', OFFER)]), parts.concat()].concat();
        prop_assert_eq!(decode(stream.chunks(piece)), decode([stream.as_slice()]));
    }
}

/// Recorded from Postfix 3.7.11: sendmail(1), and clients of smtpd.
#[test]
fn connection_of_postfix_itself_differs_from_a_client() {
    for (data, submitted) in [
        (&b"localhost\x004\0\x00127.0.0.1\0"[..], true),
        (b"localhost\x006\0\0IPv6:::1\0", true),
        (b"localhost\x006\0\0::1\0", true),
        (b"localhost\x004\x30\x39127.0.0.1\0", false),
        (b"mx.example.com\x004\0\x00192.0.2.1\0", false),
        (b"mx.example.com\x004\0", false),
        (b"unknown\0U", false),
        (b"localhost", false),
        (b"", false),
    ] {
        let stream = packets(&[(b'O', OFFER), (b'C', data), (b'R', b"<a@b>\0")]);
        let connection = format!("Connection {{ submitted: {submitted} }}");
        for piece in [1, stream.len()] {
            let (commands, error, _) = decode(stream.chunks(piece));
            assert_eq!(commands[1..], [&*connection, "R a@b"], "{}", data.escape_ascii());
            assert_eq!(error, None);
        }
    }
}
