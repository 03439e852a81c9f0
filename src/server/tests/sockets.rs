//! Opening, replacing and removing listening sockets.

use super::*;

#[tokio::test]
async fn stale_socket_is_replaced_and_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = fs::symlink_metadata(&path).unwrap().ino();
    let server = server(&[&path]).await;
    assert_ne!(fs::symlink_metadata(&path).unwrap().ino(), stale);
    assert!(asks(&path).await);
    assert_eq!(names(dir.path()), std::slice::from_ref(&path));
    server.shutdown().await;
    assert_eq!(names(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn live_socket_of_another_daemon_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = server(&[&path]).await;
    let mut second = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let error = second.reconcile(&[unix(&path)]).await.unwrap_err().to_string();
    let endpoint = format!("unix:{}", path.display());
    assert_eq!(
        error,
        format!("cannot listen at {endpoint}: another program answers there; stop it first")
    );
    drop(second);
    assert!(asks(&path).await);
    assert_eq!(names(dir.path()), [path]);
    drop(first);
}

#[tokio::test]
async fn file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mailboxes.db");
    fs::write(&path, "precious").unwrap();
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let error = server.reconcile(&[unix(&path)]).await.unwrap_err().to_string();
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn socket_of_another_program_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server(&[&path]).await;
    fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    server.shutdown().await;
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(other);
}

#[tokio::test]
async fn listen_errors_name_their_cause() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let no_user = ListenOptions { owner: Some("no-such-user".into()), ..Default::default() };
    let no_group = ListenOptions { group: Some("no-such-group".into()), ..Default::default() };
    for (path, options, why) in [
        (dir.path().join("none/s"), ListenOptions::default(), "cannot write in the directory"),
        (dir.path().join("x".repeat(120)), ListenOptions::default(), "longer than 107 bytes"),
        (dir.path().join("s"), no_user, "there is no user `no-such-user`"),
        (dir.path().join("s"), no_group, "there is no group `no-such-group`"),
    ] {
        let listen = Listen { options, ..unix(&path) };
        let error = server.reconcile(&[listen]).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(names(dir.path()), Vec::<PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_never_appears_with_wrong_permissions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    // Root may give the socket to another user; other users can only name themselves.
    let root = nix::unistd::geteuid().is_root();
    let owner = if root { 12_345 } else { nix::unistd::geteuid().as_raw() };
    let group = if root { 54_321 } else { nix::unistd::getegid().as_raw() };
    let options = ListenOptions {
        owner: Some(owner.to_string()),
        group: Some(group.to_string()),
        mode: Some(0o666),
    };
    let watched = path.clone();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let watcher = std::thread::spawn(move || {
        let mut seen = HashSet::new();
        while finished.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            for entry in fs::read_dir(watched.parent().unwrap()).unwrap().flatten() {
                // No other user can enter the directory where the socket is prepared.
                if let Ok(meta) = entry.metadata()
                    && meta.is_dir()
                {
                    assert_eq!(meta.permissions().mode() & 0o777, 0o700);
                }
            }
            if let Ok(meta) = fs::symlink_metadata(&watched) {
                seen.insert((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()));
            }
        }
        seen
    });
    // No common umask leaves 0666.
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    let listen = Listen { options, ..unix(&path) };
    for _ in 0..100 {
        server.reconcile(std::slice::from_ref(&listen)).await.unwrap();
        assert!(fs::symlink_metadata(&path).is_ok());
        server.reconcile(&[]).await.unwrap();
    }
    server.reconcile(&[listen]).await.unwrap();
    let meta = fs::symlink_metadata(&path).unwrap();
    drop(done);
    let right = (0o666, owner, group);
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()), right);
    let seen = watcher.join().unwrap();
    assert!(seen.iter().all(|seen| *seen == right), "{seen:?}");
}

#[tokio::test]
async fn reload_opens_closes_and_keeps_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let [kept, gone, new] = ["kept", "gone", "new"].map(|name| dir.path().join(name));
    let inode = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
    let mut server = server(&[&kept, &gone]).await;
    let before = inode(&kept);
    let mut living = UnixStream::connect(&gone).await.unwrap();
    assert_eq!(ask(&mut living, "echo", "1").await, ok("1"));

    server.reconcile(&[unix(&new), unix(&kept), unix(&kept)]).await.unwrap();
    assert!(asks(&new).await && asks(&kept).await && !asks(&gone).await);
    assert_eq!(inode(&kept), before);
    assert!(!gone.exists());
    assert_eq!(ask(&mut living, "echo", "2").await, ok("2"));

    // With other permissions: replaced although it answers, since it is our own.
    server.reconcile(&[unix(&new), with_mode(&kept, 0o600)]).await.unwrap();
    assert_ne!(inode(&kept), before);
    assert_eq!(fs::symlink_metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(asks(&kept).await);

    // Removed by another program, as cleaners of temporary directories do.
    fs::remove_file(&new).unwrap();
    server.reconcile(&[unix(&new), with_mode(&kept, 0o600)]).await.unwrap();
    assert!(asks(&new).await);
    assert_eq!(server.endpoints().len(), 2);
}

#[tokio::test]
async fn failed_reload_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, bad] = ["old", "new", "none/bad"].map(|name| dir.path().join(name));
    let mut server = server(&[&old]).await;
    let wanted = [unix(&new), with_mode(&old, 0o600), unix(&bad)];
    server.reconcile(&wanted).await.unwrap_err();
    assert!(asks(&old).await && !new.exists());
    assert_eq!(server.endpoints(), [unix(&old).endpoint]);
    server.shutdown().await;
    assert_eq!(names(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn reload_failing_halfway_restores_replaced_sockets() {
    // These happen to root as well: a directory has taken the name, or the socket's directory is
    // gone.
    let becomes_a_directory = |path: &Path| {
        let _ = fs::remove_file(path);
        fs::create_dir(path).unwrap();
    };
    let goes_away = |path: &Path| {
        let directory = path.parent().unwrap();
        fs::rename(directory, directory.with_extension("away")).unwrap();
    };
    type Mishap<'a> = &'a dyn Fn(&Path);
    let mishaps: [(&str, Mishap<'_>); 3] =
        [("old", &becomes_a_directory), ("new", &becomes_a_directory), ("new", &goes_away)];
    for (which, mishap) in mishaps {
        let dir = tempfile::tempdir().unwrap();
        let [old, first, last, own] = ["old", "first", "last", "own"].map(|n| dir.path().join(n));
        fs::create_dir(&own).unwrap();
        let bad = if which == "old" { old.clone() } else { own.join("new") };
        let mut server = server(&[&old, &first, &last]).await;
        let there = |path: &Path| fs::symlink_metadata(path).map(|m| (m.ino(), m.mode())).ok();
        let before = [&first, &last].map(|path| there(path));
        let added = dir.path().join("added");
        let wanted = [
            with_mode(&first, 0o600),
            unix(&added),
            with_mode(&bad, 0o600),
            with_mode(&last, 0o600),
            Listen::at("inet:127.0.0.1:0".parse().unwrap()),
        ];
        let listens = without_duplicates(&wanted);
        let opened = server.open_missing(&listens).await.unwrap();
        mishap(&bad);
        let error = server.take_over(&listens, opened).await.unwrap_err();
        assert_eq!(error.endpoint, Endpoint::Unix(bad.clone()));
        assert!(error.why.starts_with("cannot "), "{error}");

        assert_eq!([&first, &last].map(|path| there(path)), before, "{error}");
        assert!(asks(&first).await && asks(&last).await, "{error}");
        assert!(!added.exists(), "{error}");
        assert_eq!(server.endpoints(), [&old, &first, &last].map(|path| unix(path).endpoint));
        let left = names(dir.path());
        assert!(!left.iter().any(|name| name.to_str().unwrap().contains("/.mr")), "{left:?}");

        let _ = fs::remove_dir(&bad);
        fs::create_dir_all(&own).unwrap();
        server.reconcile(&wanted).await.unwrap();
        for path in [&first, &added, &bad, &last] {
            assert!(asks(path).await, "{error}, afterwards: {}", path.display());
        }
        assert_eq!(there(&first).unwrap().1 & 0o777, 0o600);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn directory_alias_of_our_socket_is_not_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let [run, var_run] = ["run", "var-run"].map(|name| dir.path().join(name));
    fs::create_dir(&run).unwrap();
    std::os::unix::fs::symlink(&run, &var_run).unwrap();
    let mut server = server(&[&run.join("s")]).await;
    server.reconcile(&[unix(&var_run.join("s"))]).await.unwrap();
    assert!(asks(&run.join("s")).await);
    // Both at once: neither replaces the other, which would leave a socket that no client can
    // reach.
    for _ in 0..2 {
        server.reconcile(&[unix(&run.join("s")), unix(&var_run.join("s"))]).await.unwrap();
        assert!(asks(&run.join("s")).await);
        assert_eq!(server.endpoints(), [unix(&run.join("s")).endpoint]);
    }
    server.shutdown().await;
    assert_eq!(names(&run), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn own_port_is_not_taken_for_another_programs() {
    let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
    server.reconcile(&[Listen::at("inet:127.0.0.1:0".parse().unwrap())]).await.unwrap();
    let [Endpoint::Inet { host, port }] = &server.endpoints()[..] else { panic!() };
    let wanted = Listen::at(format!("inet:0.0.0.0:{port}").parse().unwrap());
    let error = server.reconcile(&[wanted]).await.unwrap_err().to_string();
    assert!(
        error.contains("this daemon already has the port") && error.contains("restart"),
        "{error}"
    );
    let mut stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
    assert_eq!(ask(&mut stream, "echo", "x").await, ok("x"));
}

#[test]
fn blocking_socket_from_systemd_is_served_by_name() {
    let name = "sockets::blocking_socket_from_systemd_is_served_by_name";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let script = "exec 3<&0 </dev/null; \
        export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=mail; exec \"$0\" \"$@\"";
    if let Some(child) = in_child(name, script, Stdio::from(OwnedFd::from(listener))) {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(&request("gate", "x")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        read.unwrap();
        assert_eq!(text, "9:OK gate x,");
        assert!(path.exists(), "the socket is systemd's");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let name = nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(3).unwrap();
        let path = name.path().unwrap().to_owned();
        let mut server = Server::new(Arc::new(Toy::default()), Limits::default()).unwrap();
        let systemd = |name: &str| Listen::at(Endpoint::Systemd(name.to_owned()));
        let error = server.reconcile(&[systemd("web")]).await.unwrap_err().to_string();
        assert!(error.contains("no socket named") && error.ends_with("mail"), "{error}");
        let error = server.reconcile(&[unix(&path)]).await.unwrap_err().to_string();
        assert!(error.contains("systemd opened it for this daemon; use systemd:mail"), "{error}");
        // Closed and opened again, as by two reloads.
        for wanted in [&[systemd("mail")][..], &[], &[systemd("mail")]] {
            server.reconcile(wanted).await.unwrap();
        }
        server.shared.responder.go.notify_one();
        server.shared.responder.waiting.notified().await;
        server.shutdown().await;
    });
}
