//! Limits of connections, queues and descriptors.

use super::*;

#[tokio::test]
async fn idle_connection_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { request: SHORT, write: SHORT, drain: SHORT, ..Limits::default() };
    let mut server = Server::new(Arc::new(Toy::default()), limits).unwrap();
    server.reconcile(&[unix(&path)]).await.unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut stream, "echo", "1").await, ok("1"));
    // Idle for much longer than any limit.
    sleep(SHORT * 6).await;
    assert_eq!(ask(&mut stream, "echo", "2").await, ok("2"));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_do_not_fail() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { connections: 2, ..Limits::default() };
    let mut server = Server::new(Arc::new(Toy::default()), limits).unwrap();
    server.reconcile(&[unix(&path)]).await.unwrap();
    let mut first = UnixStream::connect(&path).await.unwrap();
    let mut second = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut first, "echo", "1").await, ok("1"));
    assert_eq!(ask(&mut second, "echo", "2").await, ok("2"));
    let mut third = UnixStream::connect(&path).await.unwrap();
    third.write_all(&request("echo", "3")).await.unwrap();
    // The server had time to answer: it served another client after the third had asked.
    assert_eq!(ask(&mut first, "echo", "1").await, ok("1"));
    let mut byte = [0];
    let pending = std::future::poll_fn(|context| {
        let mut buf = tokio::io::ReadBuf::new(&mut byte);
        Poll::Ready(std::pin::Pin::new(&mut third).poll_read(context, &mut buf).is_pending())
    });
    assert!(pending.await);
    drop(first);
    assert_eq!(reply(&mut third, &mut Decoder::new(100)).await, Some(ok("3")));
}

#[tokio::test]
async fn connections_without_request_are_evicted_when_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { connections: 4, ..Limits::default() };
    let server = server_with(limits, &[&path]).await;
    let mut asked = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut asked, "echo", "1").await, ok("1"));
    let mut idle = Vec::new();
    for n in 0..20 {
        idle.push(UnixStream::connect(&path).await.unwrap());
        // A byte is not a request.
        idle[n].write_all(b"1").await.unwrap();
        assert!(asks(&path).await, "{n}");
    }
    assert_eq!(ask(&mut asked, "echo", "2").await, ok("2"), "who asked keeps the connection");
    // The oldest connections were closed without an answer.
    assert_eq!(replies(&mut idle[0]).await, []);
    while server.connections().count() > 4 {
        yield_now().await;
    }
}

/// Covers the queues of sockets that a reload replaces or removes, and of a server that ends.
#[tokio::test]
async fn clients_in_the_queue_of_a_closed_socket_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let [kept, gone] = ["kept", "gone"].map(|name| dir.path().join(name));
    let mut server = server(&[&kept, &gone]).await;
    // No connection is accepted before this task waits.
    let queue = |path: &Path| -> Vec<_> {
        let connect = |n: usize| {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            std::io::Write::write_all(&mut stream, &request("echo", &n.to_string())).unwrap();
            stream.set_nonblocking(true).unwrap();
            UnixStream::from_std(stream).unwrap()
        };
        (0..50).map(connect).collect()
    };
    async fn all_are_answered(queue: Vec<UnixStream>) {
        for (n, mut stream) in queue.into_iter().enumerate() {
            assert_eq!(reply(&mut stream, &mut Decoder::new(100)).await, Some(ok(&n.to_string())));
        }
    }
    let (replaced, removed) = (queue(&kept), queue(&gone));
    server.reconcile(&[with_mode(&kept, 0o600)]).await.unwrap();
    all_are_answered(replaced).await;
    all_are_answered(removed).await;
    let last = queue(&kept);
    let mut ended = JoinSet::new();
    ended.spawn(server.shutdown());
    all_are_answered(last).await;
    ended.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn connection_limit_fits_descriptors_and_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    let limits = Limits { descriptors: Some(1024), ..Limits::default() };
    let mut server = server_with(limits, &[&one]).await;
    let limit = |server: &Server<Toy>| server.open[0].1[0].limit.limit();
    assert_eq!(limit(&server), 506);
    server.reconcile(&[unix(&one), unix(&two)]).await.unwrap();
    assert_eq!(limit(&server), 250);
    // A replaced socket continues to count its connections.
    let mut living = UnixStream::connect(&one).await.unwrap();
    assert_eq!(ask(&mut living, "echo", "1").await, ok("1"));
    let slots = Arc::clone(&server.open[0].1[0].limit);
    server.reconcile(&[with_mode(&one, 0o600)]).await.unwrap();
    assert!(Arc::ptr_eq(&slots, &server.open[0].1[0].limit));
    assert_eq!(limit(&server), 506);
}

#[tokio::test]
async fn tcp_client_sending_garbage_still_reads_the_error() {
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let listen = Listen::at("inet:127.0.0.1:0".parse().unwrap());
    server.reconcile(std::slice::from_ref(&listen)).await.unwrap();
    let [Endpoint::Inet { host, port }] = &server.endpoints()[..] else { panic!() };
    let address = (host.as_str(), *port);
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut stream, "echo", "tcp").await, ok("tcp"));
    stream.write_all(&[b'x'; 200_000]).await.unwrap();
    let replies = replies(&mut stream).await;
    assert!(matches!(&replies[..], [Reply::Temp(why)] if why.contains("0x78")), "{replies:?}");
    // Permissions have no meaning here: a reload that changes them must not bind the port again.
    let listen =
        Listen { options: ListenOptions { mode: Some(0), ..Default::default() }, ..listen };
    let before = server.endpoints();
    server.reconcile(&[listen]).await.unwrap();
    assert_eq!(server.endpoints(), before);
    server.shutdown().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[test]
fn listener_survives_running_out_of_descriptors() {
    let name = "connections::listener_survives_running_out_of_descriptors";
    // The limit applies to the whole process: other tests must not reach it.
    if let Some(child) = in_child(name, "ulimit -n 64; exec \"$0\" \"$@\"", Stdio::null()) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = server(&[&path]).await;
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let mut hoard = Vec::new();
        let error = loop {
            match fs::File::open("/dev/null") {
                Ok(file) => hoard.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        // The listener's task runs only now: this client is in the queue, and no connection can be
        // accepted.
        sleep(Duration::from_millis(250)).await;
        hoard.clear();
        std::io::Write::write_all(&mut stream, &request("echo", "at last")).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = UnixStream::from_std(stream).unwrap();
        assert_eq!(reply(&mut stream, &mut Decoder::new(100)).await, Some(ok("at last")));
    });
}
