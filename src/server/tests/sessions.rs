//! One connection without a listener.

use super::*;

#[tokio::test]
async fn slow_answer_becomes_temp_and_is_never_sent_twice() {
    let mut session = session(Limits { request: SHORT, ..Limits::default() });
    // A permit to answer waits here, and the next request takes it.
    let slow = ask(&mut session.client, "gate", "1").await;
    assert_eq!(slow, Reply::Temp("no answer within 0.05 s".into()));
    session.toy.go.notify_one();
    assert_eq!(ask(&mut session.client, "echo", "next").await, ok("next"));
    assert_eq!(ask(&mut session.client, "gate", "2").await, ok("gate 2"));
    let never = ask(&mut session.client, "never", "").await;
    assert_eq!(never, Reply::Temp("no answer within 0.05 s".into()));
    assert_eq!(session.toy.finished.load(Ordering::SeqCst), 1);
    session.client.shutdown().await.unwrap();
    assert_eq!(replies(&mut session.client).await, []);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut session = session(Limits::default());
    let questions =
        [request("echo", "1"), request("gate", "2"), request("none", "3"), request("echo", "4")];
    session.client.write_all(&questions.concat()).await.unwrap();
    let mut frames = Decoder::new(REPLY_LIMIT);
    assert_eq!(reply(&mut session.client, &mut frames).await, Some(ok("1")));
    session.toy.waiting.notified().await;
    session.toy.go.notify_one();
    assert_eq!(reply(&mut session.client, &mut frames).await, Some(ok("gate 2")));
    assert_eq!(reply(&mut session.client, &mut frames).await, Some(Reply::NotFound));
    assert_eq!(reply(&mut session.client, &mut frames).await, Some(ok("4")));
}

#[tokio::test]
async fn request_sent_byte_by_byte_is_answered_once() {
    let mut session = session(Limits::default());
    for byte in request("echo", "a b") {
        session.client.write_all(&[byte]).await.unwrap();
        yield_now().await;
    }
    assert_eq!(reply(&mut session.client, &mut Decoder::new(100)).await, Some(ok("a b")));
    assert_eq!(session.toy.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn panic_gives_a_temporary_answer_and_keeps_the_connection() {
    let mut session = session(Limits::default());
    let bug = Reply::Temp("a bug in murder-route, see its log".into());
    assert_eq!(ask(&mut session.client, "panic", "at once").await, bug);
    assert_eq!(ask(&mut session.client, "late-panic", "").await, bug);
    assert_eq!(ask(&mut session.client, "no-such-map", "").await, bug);
    assert_eq!(ask(&mut session.client, "late", "alive").await, ok("late alive"));
}

#[tokio::test]
async fn framing_error_gets_one_answer_and_a_close() {
    for (garbage, why) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "byte 0x47 in the length"),
        (b"6:echo abc1:a,", "byte 0x62 where"),
        (b"010:", "leading zero"),
        (b"1000001:", "more than 1000000 bytes"),
    ] {
        let mut session = session(Limits { write: SHORT, ..Limits::default() });
        let all = [&request("echo", "before"), garbage, &request("echo", "after")].concat();
        session.client.write_all(&all).await.unwrap();
        let replies = replies(&mut session.client).await;
        let [first, Reply::Temp(text)] = replies.as_slice() else { panic!("{replies:?}") };
        assert_eq!(first, &ok("before"));
        assert!(text.starts_with("protocol error: ") && text.contains(why), "{text}");
        assert_eq!(session.toy.asked.load(Ordering::SeqCst), 1);
        // The client keeps its side open: the server must not wait for it forever.
        session.end().await;
    }
}

#[tokio::test]
async fn map_name_that_is_not_utf8_is_temporary() {
    let mut session = session(Limits::default());
    session.client.write_all(b"3:\xff a,").await.unwrap();
    let reply = reply(&mut session.client, &mut Decoder::new(100)).await;
    assert_eq!(reply, Some(Reply::Temp("the name of the map is not UTF-8".into())));
}

#[tokio::test]
async fn half_closed_client_still_gets_its_answers() {
    let mut session = session(Limits::default());
    session.client.write_all(&[request("gate", "1"), request("echo", "2")].concat()).await.unwrap();
    session.client.shutdown().await.unwrap();
    session.toy.waiting.notified().await;
    session.toy.go.notify_one();
    assert_eq!(replies(&mut session.client).await, [ok("gate 1"), ok("2")]);
    session.end().await;
}

#[tokio::test]
async fn incomplete_request_at_the_end_is_not_answered() {
    let mut session = session(Limits::default());
    session.client.write_all(b"6:echo ").await.unwrap();
    session.client.shutdown().await.unwrap();
    assert_eq!(replies(&mut session.client).await, []);
    assert_eq!(session.toy.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn client_that_never_reads_is_cut_off() {
    let mut session = session(Limits { write: SHORT, ..Limits::default() });
    // More answers than a socket takes; the client keeps its end open all the time.
    session.client.write_all(&request("large", "").repeat(100)).await.unwrap();
    session.end().await;
    // Nor do answers accumulate for it.
    assert!(session.toy.asked.load(Ordering::SeqCst) < 50);
}

#[tokio::test]
async fn stop_sends_answers_in_flight_and_closes_idle_connections() {
    let mut idle = session(Limits::default());
    assert_eq!(ask(&mut idle.client, "echo", "idle").await, ok("idle"));
    idle.stop();
    assert_eq!(replies(&mut idle.client).await, []);

    let mut busy = session(Limits::default());
    busy.client.write_all(&request("gate", "busy")).await.unwrap();
    busy.toy.waiting.notified().await;
    busy.stop();
    busy.toy.go.notify_one();
    assert_eq!(replies(&mut busy.client).await, [ok("gate busy")]);
}

#[tokio::test]
async fn endless_pipelining_does_not_delay_the_end() {
    let mut session = session(Limits::default());
    let requests = [request("gate", ""), request("echo", "x").repeat(2_000)].concat();
    session.client.write_all(&requests).await.unwrap();
    session.toy.waiting.notified().await;
    session.stop();
    session.toy.go.notify_one();
    session.end().await;
    let asked = session.toy.asked.load(Ordering::SeqCst);
    // Requests that were read are answered, and no more are read.
    let mut bytes = Vec::new();
    let _ = session.client.read_to_end(&mut bytes).await;
    assert_eq!(bytes.iter().filter(|&&b| b == b',').count(), asked);
    assert!((1..1_000).contains(&asked), "{asked}");
}
