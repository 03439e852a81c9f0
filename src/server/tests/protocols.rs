//! All protocols at one endpoint: the answers of each, and that no connection disturbs another.

use std::time::SystemTime;

use super::*;
use crate::wire::protocol::Protocol;

/// A request at RCPT in Postfix' policy delegation protocol.
fn policy(recipient: &str) -> Vec<u8> {
    let text = format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a=b@c\nrecipient={recipient}\n\n"
    );
    text.into_bytes()
}

/// The packets of a milter.
fn milter(packets: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (command, data) in packets {
        let length = u32::try_from(data.len() + 1).unwrap();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(*command);
        bytes.extend_from_slice(data);
    }
    bytes
}

/// The options that Postfix 3.7 offers, and the answer.
const OFFER: (u8, &[u8]) = (b'O', b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff");
const OFFERED: (u8, &[u8]) = (b'O', b"\0\0\0\x06\0\0\0\0\0\0\x03\x76");

/// An exchange in each protocol, with the complete expected answer.
fn exchanges() -> [(Protocol, Vec<u8>, Vec<u8>); 4] {
    let policy_said = "action=550 5.1.1 100% unknown\n\naction=DEFER_IF_PERMIT 4.3.0 Later\n\n\
                       action=DUNNO\n\naction=DUNNO\n\n";
    let data = "protocol_state=DATA\nrecipient=a@no\nrequest=smtpd_access_policy\n\n";
    let asked_policy =
        [policy("a@no"), policy("a@late"), policy("a@echo"), data.as_bytes().to_vec()].concat();
    let asked_milter = milter(&[
        OFFER,
        (b'C', b"localhost\x004\0\x19127.0.0.1\0"),
        (b'D', b"R{rcpt_addr}\0a@no\0"),
        (b'R', b"<a@no>\0"),
        (b'R', b"<a@late>\0NOTIFY=NEVER\0"),
        (b'A', b""),
        (b'R', b"<a@echo>\0"),
        (b'E', b""),
        (b'K', b""),
        OFFER,
    ]);
    let milter_said = milter(&[
        OFFERED,
        (b'c', b""),
        (b'y', b"550 5.1.1 100%% unknown\0"),
        (b'y', b"451 4.3.0 Later\0"),
        (b'c', b""),
        (b'c', b""),
        OFFERED,
    ]);
    [
        (
            Protocol::Socketmap,
            [request("echo", "a b"), request("late", "x"), request("none", "")].concat(),
            b"6:OK a b,9:OK late x,9:NOTFOUND ,".to_vec(),
        ),
        (Protocol::Policy, asked_policy, policy_said.as_bytes().to_vec()),
        (
            Protocol::Line,
            b"echo a b\nlate x\nnone x\nget 1%25%20\nput a b\nget a b\n".to_vec(),
            b"OK a b\nOK late x\nNOTFOUND \n200 1%25%20\n500 read%20only\n\
              400 the%20key%20is%20not%20encoded%20as%20in%20tcp_table(5)\n"
                .to_vec(),
        ),
        (Protocol::Milter, asked_milter, milter_said),
    ]
}

/// Reads the expected number of bytes.
async fn expect(stream: &mut (impl AsyncRead + Unpin), expected: &[u8], what: &str) {
    let mut said = vec![0; expected.len()];
    stream.read_exact(&mut said).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(said.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{what}");
}

/// Reads until the close.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // With unread input the close may arrive as a reset.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes.escape_ascii().to_string()
}

#[tokio::test]
async fn every_protocol_is_answered_also_byte_by_byte() {
    for (protocol, asked, said) in exchanges() {
        let name = protocol.as_str();
        let mut whole = session(Limits::default());
        whole.client.write_all(&asked).await.unwrap();
        expect(&mut whole.client, &said, name).await;
        // The connection stays usable.
        whole.client.write_all(&asked).await.unwrap();
        whole.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut whole.client).await, said.escape_ascii().to_string(), "{name}");
        whole.end().await;

        let mut bytes = session(Limits::default());
        for byte in &asked {
            bytes.client.write_all(&[*byte]).await.unwrap();
            yield_now().await;
        }
        expect(&mut bytes.client, &said, name).await;
        assert_eq!(bytes.toy.asked.load(Ordering::SeqCst) * 2, asked_count(&whole), "{name}");
    }
}

fn asked_count(session: &TestSession) -> usize {
    session.toy.asked.load(Ordering::SeqCst)
}

#[tokio::test]
async fn slow_or_panicking_decision_defers_the_recipient() {
    let mut policy_session = session(Limits { request: SHORT, ..Limits::default() });
    let mut milter_session = session(Limits { request: SHORT, ..Limits::default() });
    milter_session.client.write_all(&milter(&[OFFER])).await.unwrap();
    expect(&mut milter_session.client, &milter(&[OFFERED]), "offer").await;
    for domain in ["never", "panic", "late-panic", "no-such-map"] {
        let recipient = format!("a@{domain}");
        policy_session.client.write_all(&policy(&recipient)).await.unwrap();
        let deferred = b"action=DEFER_IF_PERMIT 4.3.0 Temporary lookup failure\n\n";
        expect(&mut policy_session.client, deferred, domain).await;
        let asked = milter(&[(b'R', format!("<{recipient}>\0").as_bytes())]);
        milter_session.client.write_all(&asked).await.unwrap();
        let deferred = milter(&[(b'y', b"451 4.3.0 Temporary lookup failure\0")]);
        expect(&mut milter_session.client, &deferred, domain).await;
    }
    policy_session.client.write_all(&policy("a@echo")).await.unwrap();
    expect(&mut policy_session.client, b"action=DUNNO\n\n", "alive").await;
    milter_session.client.write_all(&milter(&[(b'R', b"<a@echo>\0")])).await.unwrap();
    expect(&mut milter_session.client, &milter(&[(b'c', b"")]), "alive").await;
}

#[tokio::test]
async fn milter_quit_closes_the_connection() {
    let mut session = session(Limits::default());
    session.client.write_all(&milter(&[OFFER, (b'Q', b"")])).await.unwrap();
    let offered = milter(&[OFFERED]).escape_ascii().to_string();
    assert_eq!(rest(&mut session.client).await, offered);
    session.end().await;
}

#[tokio::test]
async fn garbage_ends_the_session_in_every_protocol() {
    for (name, garbage, said) in [
        ("policy", &b"recipient=x\n\n"[..], ""),
        ("policy", b"a=b\nGET / HTTP/1.1\n\n", ""),
        ("milter", b"\0\xff\xff\xff", ""),
        ("milter", b"\0\0\0\x06R<a@no>\0", ""),
        ("line", b"GET / HTTP/1.1\r\n", "TEMP protocol error: byte 0x0d in a line\n"),
        ("line", b"get a\n\0\n", "200 a\n400 protocol%20error:%20byte%200x00%20in%20a%20line\n"),
        (
            "tls",
            b"\x16\x03\x01\x02\0",
            "59:TEMP protocol error: byte 0x16 in the length of a netstring,",
        ),
    ] {
        let mut session = session(Limits { write: SHORT, ..Limits::default() });
        session.client.write_all(garbage).await.unwrap();
        assert_eq!(
            rest(&mut session.client).await,
            said.as_bytes().escape_ascii().to_string(),
            "{name}"
        );
        // The client keeps its side open: the server must not wait for it forever.
        session.end().await;
    }
}

#[tokio::test]
async fn socket_for_one_protocol_refuses_the_others() {
    for only in Protocol::ALL {
        for (protocol, asked, said) in exchanges() {
            let limits = Limits { write: SHORT, ..Limits::default() };
            let mut session = session_for(limits, [only].into_iter().collect());
            session.client.write_all(&asked).await.unwrap();
            if protocol == only {
                expect(&mut session.client, &said, only.as_str()).await;
                continue;
            }
            let refused = match protocol {
                Protocol::Socketmap => "41:TEMP this socket does not speak socketmap,",
                Protocol::Line => "TEMP this socket does not speak line\\n",
                Protocol::Policy | Protocol::Milter => "",
            };
            assert_eq!(rest(&mut session.client).await, refused);
            assert_eq!(asked_count(&session), 0);
            session.end().await;
        }
    }
}

#[tokio::test]
async fn reload_changes_protocols_of_an_open_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let inode = || fs::symlink_metadata(&path).unwrap().ino();
    let tcp = Listen::at("inet:127.0.0.1:0".parse().unwrap());
    let wanted = |protocols: &[Protocol]| {
        let protocols: Protocols = protocols.iter().copied().collect();
        [Listen { protocols, ..unix(&path) }, Listen { protocols, ..tcp.clone() }]
    };
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    server.reconcile(&wanted(&[Protocol::Policy])).await.unwrap();
    let (before, endpoints) = (inode(), server.endpoints());
    let mut early = UnixStream::connect(&path).await.unwrap();
    early.write_all(&policy("a@no")).await.unwrap();
    expect(&mut early, b"action=550 5.1.1 100% unknown\n\n", "early").await;
    let socketmap = |stream: UnixStream| async move {
        let mut stream = stream;
        ask(&mut stream, "echo", "x").await
    };
    let refused = Reply::Temp("this socket does not speak socketmap".into());
    assert_eq!(socketmap(UnixStream::connect(&path).await.unwrap()).await, refused);

    server.reconcile(&wanted(&[Protocol::Socketmap])).await.unwrap();
    assert_eq!((inode(), server.endpoints()), (before, endpoints));
    assert_eq!(socketmap(UnixStream::connect(&path).await.unwrap()).await, ok("x"));
    let [_, Endpoint::Inet { host, port }] = &server.endpoints()[..] else { panic!() };
    let mut stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
    assert_eq!(ask(&mut stream, "echo", "x").await, ok("x"));
    // Existing connections continue.
    early.write_all(&policy("a@no")).await.unwrap();
    expect(&mut early, b"action=550 5.1.1 100% unknown\n\n", "early").await;
    let mut late = UnixStream::connect(&path).await.unwrap();
    late.write_all(&policy("a@no")).await.unwrap();
    assert_eq!(rest(&mut late).await, "");
}

#[tokio::test]
async fn random_bytes_never_disturb_another_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { write: SHORT, request: SHORT, ..Limits::default() };
    let mut server = Server::new(Arc::new(Toy::default()), limits).unwrap();
    server.reconcile(&[unix(&path)]).await.unwrap();
    let mut good = Vec::new();
    for exchange in exchanges() {
        good.push((UnixStream::connect(&path).await.unwrap(), exchange));
    }
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut state = seed | 1;
    // xorshift64
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap()
    };
    for round in 0..100 {
        // The beginning of a valid exchange, broken at some point, or only noise.
        let (_, asked, _) = &exchanges()[round % 4];
        let mut bytes = asked[..random() % asked.len()].to_vec();
        if round % 3 == 0 {
            bytes.truncate(1);
        }
        bytes.extend((0..random() % 600).map(|_| random() as u8));
        let mut bad = UnixStream::connect(&path).await.unwrap();
        // The server may close before it has read everything.
        let _ = bad.write_all(&bytes).await;
        let _ = bad.shutdown().await;
        for (stream, (protocol, asked, said)) in &mut good {
            stream.write_all(asked).await.unwrap();
            expect(stream, said, protocol.as_str()).await;
        }
        rest(&mut bad).await;
    }
}

#[tokio::test]
async fn incomplete_requests_disturb_no_other_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server(&[&path]).await;
    let toy = server.shared.responder.clone();
    let mut slow = Vec::new();
    for n in 0..100 {
        let (protocol, asked, said) = &exchanges()[n % 4];
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let first = match protocol {
            Protocol::Milter => milter(&[OFFER]).len(),
            _ => 0,
        };
        stream.write_all(&asked[..first + 1 + n / 4 % 5]).await.unwrap();
        slow.push((stream, asked.clone(), said.clone(), first + 1 + n / 4 % 5));
    }
    for _ in 0..100 {
        assert!(asks(&path).await);
    }
    // The responder was not called for incomplete requests.
    assert_eq!(toy.asked.load(Ordering::SeqCst), 100);
    assert!(server.connections().count() >= 100);
    // No connection was closed.
    for (stream, asked, said, sent) in &mut slow {
        stream.write_all(&asked[*sent..]).await.unwrap();
        expect(stream, said, "at last").await;
        stream.write_all(&asked[..1]).await.unwrap();
    }
    server.shutdown().await;
    for (mut stream, ..) in slow {
        assert_eq!(rest(&mut stream).await, "");
    }
}

#[test]
fn thousand_idle_connections_do_not_disturb_the_next() {
    let name = "protocols::thousand_idle_connections_do_not_disturb_the_next";
    // Both ends are in this process, and the usual limit is 1024.
    if let Some(child) = in_child(name, "ulimit -n 4096; exec \"$0\" \"$@\"", Stdio::null()) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = server(&[&path]).await;
        let mut idle = Vec::new();
        for n in 0..1000 {
            let [_, policy, line, milter] = &exchanges();
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let (_, asked, said) = match n % 4 {
                0 => &(Protocol::Socketmap, request("echo", "a b"), b"6:OK a b,".to_vec()),
                1 => policy,
                2 => line,
                _ => milter,
            };
            stream.write_all(asked).await.unwrap();
            expect(&mut stream, said, "first").await;
            idle.push((stream, asked.clone(), said.clone()));
        }
        assert_eq!(server.connections().count(), 1000);
        assert!(asks(&path).await);
        for (stream, asked, said) in &mut idle {
            stream.write_all(asked).await.unwrap();
            expect(stream, said, "still here").await;
        }
        server.shutdown().await;
        for (mut stream, ..) in idle {
            assert_eq!(rest(&mut stream).await, "");
        }
    });
}
