//! Acts like Postfix: asks a socketmap, then delivers by LMTP.

use std::fmt;
use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use crate::wire::netstring::Decoder;
use crate::wire::socketmap::{REPLY_LIMIT, Reply, Request};

/// Sends one request at the daemon's socket.
pub(super) async fn query(socket: &Path, map: &str, key: &str) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut bytes = Vec::new();
    Request { map: map.as_bytes(), key: key.as_bytes() }.encode_into(&mut bytes);
    stream.write_all(&bytes).await?;
    let mut decoder = Decoder::new(REPLY_LIMIT);
    loop {
        if let Some(frame) = decoder.next_frame() {
            return frame.map(Reply::parse).map_err(io::Error::other);
        }
        let mut piece = [0; 512];
        match stream.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => decoder.push(&piece[..n]),
        }
    }
}

/// Result of a delivery.
pub(super) enum Delivered {
    /// Accepted by a backend, for this recipient.
    Taken(String),
    /// Deferred: the sending server retries.
    Waits,
    /// Rejected at once.
    Refused,
    /// The map has no answer: the mail server uses its other rules.
    Elsewhere,
}

impl fmt::Display for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delivered::Taken(recipient) => write!(f, "delivered, to {recipient}"),
            Delivered::Waits => f.write_str("deferred: 450 at RCPT"),
            Delivered::Refused => f.write_str("refused: 550 at RCPT"),
            Delivered::Elsewhere => f.write_str("not ours"),
        }
    }
}

/// Acts on the answer of the map `lmtp` as Postfix would.
pub(super) async fn deliver(reply: &Reply, recipient: &str) -> io::Result<Delivered> {
    let answer = match reply {
        Reply::Ok(answer) => answer,
        Reply::NotFound => return Ok(Delivered::Elsewhere),
        Reply::Temp(_) => return Ok(Delivered::Waits),
    };
    match answer.split_once(':') {
        Some(("lmtp", nexthop)) => {
            let address = nexthop.strip_prefix("inet:").unwrap_or(nexthop);
            lmtp(address, recipient).await?;
            Ok(Delivered::Taken(recipient.to_owned()))
        }
        Some(("retry", _)) => Ok(Delivered::Waits),
        Some(("error", _)) => Ok(Delivered::Refused),
        _ => Err(io::Error::other(format!("an answer nobody expects: {answer}"))),
    }
}

async fn lmtp(address: &str, recipient: &str) -> io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    expect(&mut stream, '2').await?;
    for (command, class) in [
        ("LHLO localhost".to_owned(), '2'),
        ("MAIL FROM:<sender@example.com>".to_owned(), '2'),
        (format!("RCPT TO:<{recipient}>"), '2'),
        ("DATA".to_owned(), '3'),
        ("Subject: demo\r\n\r\nA message.\r\n.".to_owned(), '2'),
        ("QUIT".to_owned(), '2'),
    ] {
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        expect(&mut stream, class).await?;
    }
    Ok(())
}

async fn expect(stream: &mut BufReader<TcpStream>, class: char) -> io::Result<()> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    if line.starts_with(class) {
        return Ok(());
    }
    Err(io::Error::other(format!("the backend said {line:?}")))
}
