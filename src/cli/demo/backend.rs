//! An LMTP server (RFC 2033) that accepts every message and records its recipient.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Maximum length of a line in bytes: no mail server sends more.
const MAX_LINE: usize = 4096;

/// One demonstration backend on loopback, at a port of the system's choice.
pub(super) struct DemoBackend {
    pub(super) name: &'static str,
    pub(super) address: String,
    messages: Arc<Mutex<Vec<String>>>,
}

impl DemoBackend {
    pub(super) async fn start(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&messages);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&taken);
                tokio::spawn(async move {
                    let _ = serve(stream, name, &taken).await;
                });
            }
        });
        Ok(Self { name, address, messages })
    }

    /// The recipients of its messages, in order of arrival.
    pub(super) fn messages(&self) -> Vec<String> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(stream: TcpStream, name: &str, taken: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut recipients: Vec<String> = Vec::new();
    say(&mut stream, &format!("220 {name}.example.org LMTP murder-route demo")).await?;
    while read_line(&mut stream, &mut line).await? {
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "LHLO" => say(&mut stream, &format!("250 {name}.example.org")).await?,
            "MAIL" => {
                recipients.clear();
                say(&mut stream, "250 2.1.0 ok").await?;
            }
            "RCPT" => match line.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>')) {
                Some((recipient, _)) => {
                    recipients.push(recipient.to_owned());
                    say(&mut stream, "250 2.1.5 ok").await?;
                }
                None => say(&mut stream, "501 5.5.4 no <address>").await?,
            },
            "DATA" => {
                say(&mut stream, "354 go ahead").await?;
                while read_line(&mut stream, &mut line).await? && line != "." {}
                for recipient in recipients.drain(..) {
                    taken.lock().unwrap_or_else(PoisonError::into_inner).push(recipient);
                    say(&mut stream, "250 2.1.5 ok").await?;
                }
            }
            "QUIT" => return say(&mut stream, "221 2.0.0 bye").await,
            _ => say(&mut stream, "502 5.5.2 not known here").await?,
        }
    }
    Ok(())
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await
}

/// Reads a line without its end. False at the end of the stream.
async fn read_line(stream: &mut BufReader<TcpStream>, line: &mut String) -> io::Result<bool> {
    use tokio::io::AsyncReadExt;
    line.clear();
    let mut limited = stream.take(MAX_LINE as u64);
    let read = limited.read_line(line).await?;
    if read == MAX_LINE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(read > 0)
}
