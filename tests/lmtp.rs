//! `murder-route lmtp`, as a mail server runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

fn start(backend: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_murder-route"))
        .args(["lmtp", backend])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What it said and its exit status. Exim takes what is on standard error for a reply.
fn said(output: &Output) -> (String, Option<i32>) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "on standard error");
    (String::from_utf8(output.stdout.clone()).unwrap(), output.status.code())
}

/// Greets, then says each of these when a line has come; the lines.
fn backend(mut stream: impl Read + Write, replies: &[&str]) -> Vec<String> {
    stream.write_all(b"220 backend LMTP\r\n").unwrap();
    let mut lines = Vec::new();
    for reply in replies {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while line.last() != Some(&b'\n') {
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        lines.push(String::from_utf8(line).unwrap());
        stream.write_all(reply.as_bytes()).unwrap();
    }
    lines
}

/// The mail server's side: a line, and the reply to it, in turn.
fn converse(mut child: Child, lines: &[&str]) -> (Vec<String>, Option<i32>) {
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut reply = || {
        let mut whole = String::new();
        loop {
            let from = whole.len();
            stdout.read_line(&mut whole).unwrap();
            if whole.as_bytes().get(from + 3) != Some(&b'-') {
                return whole;
            }
        }
    };
    let mut replies = vec![reply()];
    for line in lines {
        stdin.write_all(line.as_bytes()).unwrap();
        replies.push(reply());
    }
    drop(stdin);
    (replies, child.wait().unwrap().code())
}

const REPLIES: [&str; 4] = [
    "250 2.1.0 ok\r\n",
    "550-Mailbox unknown.\r\n550 5.1.1 User unknown\r\n",
    "550 5.7.1 Permission denied\r\n",
    "221 bye\r\n",
];

const LINES: [&str; 4] =
    ["MAIL FROM:<a@b>\r\n", "RCPT TO:<gone@example.org>\r\n", "RCPT TO:<c@d>\r\n", "QUIT\r\n"];

/// A conversation with a backend is carried on as it is, but for the one reply.
fn only_the_unknown_user_is_softened(child: Child, served: thread::JoinHandle<Vec<String>>) {
    let (replies, status) = converse(child, &LINES);
    assert_eq!(served.join().unwrap(), LINES);
    assert_eq!(replies[0], "220 backend LMTP\r\n");
    assert_eq!(replies[1], REPLIES[0]);
    assert_eq!(replies[2], "450-Mailbox unknown.\r\n450 4.1.1 User unknown\r\n");
    assert_eq!(replies[3..], REPLIES[2..]);
    assert_eq!(status, Some(0));
}

#[test]
fn a_backend_that_knows_the_user_no_more_bounces_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = start(&listener.local_addr().unwrap().to_string());
    let served = thread::spawn(move || backend(listener.accept().unwrap().0, &REPLIES));
    only_the_unknown_user_is_softened(child, served);
}

#[test]
fn the_same_by_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lmtp");
    let listener = UnixListener::bind(&path).unwrap();
    let child = start(&format!("unix:{}", path.display()));
    let served = thread::spawn(move || backend(listener.accept().unwrap().0, &REPLIES));
    only_the_unknown_user_is_softened(child, served);
}

#[test]
fn the_reason_why_nothing_can_be_said_is_a_temporary_reply() {
    // Nobody listens at a port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (reply, status) = said(&start(&free).wait_with_output().unwrap());
    let expected = format!("421 4.4.1 murder-route: cannot reach {free}: Connection refused");
    assert!(reply.starts_with(&expected) && reply.ends_with("\r\n"), "{reply}");
    assert_eq!(status, Some(75));

    let (reply, status) = said(&start("be1;be2").wait_with_output().unwrap());
    assert!(reply.starts_with("421 4.3.5 murder-route: `be1;be2` is not a backend"), "{reply}");
    assert_eq!(status, Some(64));
}

#[test]
fn a_reply_that_never_ends_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = start(&listener.local_addr().unwrap().to_string());
    let mut stream: TcpStream = listener.accept().unwrap().0;
    let endless = thread::spawn(move || while stream.write_all(b"250-more\r\n").is_ok() {});
    let (reply, status) = said(&child.wait_with_output().unwrap());
    endless.join().unwrap();
    assert!(reply.starts_with("421 4.4.2 ") && reply.contains("16384 bytes"), "{reply}");
    assert_eq!((reply.lines().count(), status), (1, Some(75)));
}

#[test]
fn half_a_reply_is_not_said_when_the_backend_goes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = start(&listener.local_addr().unwrap().to_string());
    let mut stream = listener.accept().unwrap().0;
    stream.write_all(b"220 backend LMTP\r\n550 5.7.1 No").unwrap();
    drop(stream);
    let (reply, _) = said(&child.wait_with_output().unwrap());
    assert_eq!(reply, "220 backend LMTP\r\n");
}
