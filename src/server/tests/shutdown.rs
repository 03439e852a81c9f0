//! The end of a server.

use super::*;

#[tokio::test]
async fn shutdown_waits_for_answers_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server(&[&path]).await;
    let toy = server.shared.responder.clone();
    let mut busy = UnixStream::connect(&path).await.unwrap();
    busy.write_all(&request("gate", "busy")).await.unwrap();
    toy.waiting.notified().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(server.shutdown());
    while path.exists() {
        yield_now().await;
    }
    assert!(tasks.try_join_next().is_none());
    toy.go.notify_one();
    assert_eq!(replies(&mut busy).await, [ok("gate busy")]);
    tasks.join_next().await.unwrap().unwrap();
}

/// A client whose connection was accepted, and that has sent no request yet.
async fn accepted(server: &Server<Toy>, path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).await.unwrap();
    while server.connections().count() == 0 {
        yield_now().await;
    }
    client
}

#[tokio::test]
async fn client_accepted_just_before_the_end_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let limits = Limits { first_question: Duration::from_secs(60), ..Limits::default() };
    let server = server_with(limits, &[&path]).await;
    let mut late = accepted(&server, &path).await;
    let mut stopped = JoinSet::new();
    stopped.spawn(server.shutdown());
    while path.exists() {
        yield_now().await;
    }
    assert_eq!(ask(&mut late, "echo", "late").await, ok("late"));
    // The server waits neither for a second request nor for the end of the timeout.
    assert_eq!(replies(&mut late).await, []);
    stopped.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn silent_client_does_not_delay_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server_with(Limits { first_question: SHORT, ..Limits::default() }, &[&path]).await;
    let mut silent = accepted(&server, &path).await;
    server.shutdown().await;
    assert_eq!(replies(&mut silent).await, []);
}

#[tokio::test]
async fn dropped_server_leaves_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = server(&[&path]).await;
    let mut idle = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut idle, "echo", "1").await, ok("1"));
    drop(server);
    assert_eq!(replies(&mut idle).await, []);
    assert!(!path.exists());
}
