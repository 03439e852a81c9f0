//! `murder-route lmtp`, as a mail server runs it.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

fn start(backend: &str) -> Child {
    start_with(Path::new("/dev/null"), backend)
}

/// Starts it with this configuration.
fn start_with(config: &Path, backend: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_murder-route"))
        .args(["lmtp", "--config"])
        .arg(config)
        .arg(backend)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its output and exit status. Exim treats standard error as a reply.
fn said(output: &Output) -> (String, Option<i32>) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "on standard error");
    (String::from_utf8(output.stdout.clone()).unwrap(), output.status.code())
}

/// Greets, then sends each of these replies when a line has arrived. Returns the lines.
fn backend(mut stream: impl Read + Write, replies: &[&str]) -> Vec<String> {
    stream.write_all(b"220 backend LMTP\r\n").unwrap();
    answer(&mut stream, replies)
}

/// Sends each of these replies when a line has arrived. Returns the lines.
fn answer(stream: &mut (impl Read + Write), replies: &[&str]) -> Vec<String> {
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

/// The mail server's side: alternates lines and replies.
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

/// A session with a backend passes unchanged, except for one reply.
fn only_the_unknown_user_becomes_temporary(child: Child, served: thread::JoinHandle<Vec<String>>) {
    let (replies, status) = converse(child, &LINES);
    assert_eq!(served.join().unwrap(), LINES);
    assert_eq!(replies[0], "220 backend LMTP\r\n");
    assert_eq!(replies[1], REPLIES[0]);
    assert_eq!(replies[2], "450-Mailbox unknown.\r\n450 4.1.1 User unknown\r\n");
    assert_eq!(replies[3..], REPLIES[2..]);
    assert_eq!(status, Some(0));
}

#[test]
fn unknown_user_at_a_backend_becomes_temporary() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = start(&listener.local_addr().unwrap().to_string());
    let served = thread::spawn(move || backend(listener.accept().unwrap().0, &REPLIES));
    only_the_unknown_user_becomes_temporary(child, served);
}

#[test]
fn unknown_user_at_a_unix_socket_becomes_temporary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lmtp");
    let listener = UnixListener::bind(&path).unwrap();
    let child = start(&format!("unix:{}", path.display()));
    let served = thread::spawn(move || backend(listener.accept().unwrap().0, &REPLIES));
    only_the_unknown_user_becomes_temporary(child, served);
}

#[test]
fn unreachable_backend_is_a_temporary_reply() {
    // No program listens at a port that was free just before.
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
fn endless_reply_is_not_waited_for() {
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
fn half_a_reply_is_not_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = start(&listener.local_addr().unwrap().to_string());
    let mut stream = listener.accept().unwrap().0;
    stream.write_all(b"220 backend LMTP\r\n550 5.7.1 No").unwrap();
    drop(stream);
    let (reply, _) = said(&child.wait_with_output().unwrap());
    assert_eq!(reply, "220 backend LMTP\r\n");
}

/// A certificate for this name, its key, and the certificate of the authority, in PEM.
fn certificate(name: &str) -> (ServerConfig, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (config, authority.pem())
}

/// A backend that demands TLS and a login, at its own port. Returns its address, and the lines that it
/// received without and with TLS.
fn demanding(
    config: ServerConfig,
    login: &'static str,
) -> (String, thread::JoinHandle<[Vec<String>; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let lhlo = "250-be1\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 Ok\r\n";
        stream.write_all(b"220 backend LMTP\r\n").unwrap();
        let clear = answer(&mut stream, &[lhlo, "220 go ahead\r\n"]);
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let mut lines = Vec::new();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // A client that does not trust the certificate closes here.
        while let Ok(1) = stream.read(&mut byte) {
            line.push(byte[0]);
            if byte[0] != b'\n' {
                continue;
            }
            let said = String::from_utf8(std::mem::take(&mut line)).unwrap();
            let reply = match said.get(..4).unwrap_or_default() {
                "LHLO" => "250-be1\r\n250-SIZE\r\n250 AUTH PLAIN\r\n",
                "AUTH" => login,
                "RCPT" => "550 5.1.1 User unknown\r\n",
                "QUIT" => "221 bye\r\n",
                _ => "250 2.1.0 ok\r\n",
            };
            lines.push(said);
            stream.write_all(reply.as_bytes()).unwrap();
        }
        [clear, lines]
    });
    (address, served)
}

/// A configuration with a login at every backend.
fn login(dir: &Path, authority: &str, more: &str) -> std::path::PathBuf {
    fs::write(dir.join("ca.pem"), authority).unwrap();
    fs::write(dir.join("password"), "secret\n").unwrap();
    fs::set_permissions(dir.join("password"), Permissions::from_mode(0o600)).unwrap();
    let path = dir.join("murder-route.toml");
    let text = format!(
        "[backends]\nca-file = \"ca.pem\"\nusername = \"postman\"\npassword-file = \"password\"\n{more}"
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn tls_and_login_are_invisible_to_the_mail_server() {
    let dir = tempfile::tempdir().unwrap();
    let (config, authority) = certificate("be1.example.org");
    let (address, served) = demanding(config, "235 Authenticated!\r\n");
    let config = login(dir.path(), &authority, "tls-name = \"be1.example.org\"\n");
    let lines = ["LHLO mx.example.org\r\n", LINES[0], LINES[1], "QUIT\r\n"];
    let (replies, status) = converse(start_with(&config, &address), &lines);
    assert_eq!(
        replies,
        [
            "220 backend LMTP\r\n",
            "250-be1\r\n250 SIZE\r\n",
            "250 2.1.0 ok\r\n",
            "450 4.1.1 User unknown\r\n",
            "221 bye\r\n",
        ]
    );
    assert_eq!(status, Some(0));
    let [clear, hidden] = served.join().unwrap();
    assert!(clear[0].starts_with("LHLO ") && clear[1] == "STARTTLS\r\n", "{clear:?}");
    let plain = STANDARD.encode("\0postman\0secret");
    assert!(hidden[0].starts_with("LHLO "), "{hidden:?}");
    assert_eq!(hidden[1], format!("AUTH PLAIN {plain}\r\n"));
    assert_eq!(hidden[2..], lines);
}

#[test]
fn every_failed_login_is_a_temporary_reply() {
    let named = "tls-name = \"be1.example.org\"\n";
    let cases = [
        ("501 5.5.4 undefined error!\r\n", named, "", "4.7.0", "refused the login of `postman`"),
        ("235 ok\r\n", "tls-name = \"other\"\n", "", "4.7.0", "is not for `other`"),
        ("235 ok\r\n", named, "ca.pem", "4.7.0", "is not signed by an authority in"),
        ("235 ok\r\n", named, "password", "4.3.5", "password"),
        ("235 ok\r\n", "tls = \"maybe\"\n", "", "4.3.5", "line 5"),
    ];
    for (said, more, without, status, says) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (config, authority) = certificate("be1.example.org");
        let (address, _served) = demanding(config, said);
        let config = login(dir.path(), &authority, more);
        match without {
            "" => {}
            "ca.pem" => fs::write(dir.path().join(without), certificate("x").1).unwrap(),
            file => fs::remove_file(dir.path().join(file)).unwrap(),
        }
        let output = start_with(&config, &address).wait_with_output().unwrap();
        let (reply, code) = self::said(&output);
        let begins = format!("421 {status} murder-route: ");
        assert!(reply.starts_with(&begins) && reply.contains(says), "{reply}");
        assert_eq!((reply.lines().count(), code), (1, Some(75)), "{reply}");
        assert!(!reply.contains("secret"), "{reply}");
    }
    // A backend that offers no TLS.
    let dir = tempfile::tempdir().unwrap();
    let config = login(dir.path(), &certificate("x").1, "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = start_with(&config, &listener.local_addr().unwrap().to_string());
    thread::spawn(move || backend(listener.accept().unwrap().0, &["250 be1\r\n", ""]));
    let (reply, code) = said(&child.wait_with_output().unwrap());
    assert!(
        reply.starts_with("421 4.7.0 ") && reply.contains("does not offer STARTTLS"),
        "{reply}"
    );
    assert_eq!(code, Some(75));
}
