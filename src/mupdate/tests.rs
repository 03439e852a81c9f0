use std::time::Duration;

use super::*;
use crate::secret::Secret;

const BANNER: &str = "* AUTH \"PLAIN\"\r\n* COMPRESS \"DEFLATE\"\r\n* PARTIAL-UPDATE\r\n\
    * OK MUPDATE \"mu.example.org\" \"Cyrus IMAP\" \"3.6.1-Debian\" \"(master)\"\r\n";

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn smoke() {
    let credentials = Credentials {
        authname: "router".into(),
        password: Some(Secret::new("geheim")),
        ..Credentials::default()
    };
    let policy = Policy { allow_plaintext: true, ..Policy::default() };
    let mut login = Login::new(policy, credentials, s(0));
    login.receive(BANNER.as_bytes(), s(0));
    assert_eq!(
        login.output().split_off(0).escape_ascii().to_string(),
        "A1 AUTHENTICATE \\\"PLAIN\\\" \\\"AHJvdXRlcgBnZWhlaW0=\\\"\\r\\n"
    );
    login.receive(b"A1 OK \"Authenticated\"\r\n", s(0));
    let Step::In(session) = login.step() else { panic!("{login:?}") };
    let mut stream = Stream::new(session, Timings::default(), s(0));
    assert_eq!(stream.output().split_off(0), b"U1 UPDATE\r\n");
    stream.receive(b"U1 MAILBOX {8+}\r\nuser.bob {11+}\r\nbe1!default {18+}\r\nbob\tlrswipkxtecda\t\r\nU1 OK \"streaming starts\"\r\n", s(1));
    assert!(matches!(stream.next(), Ok(Some(Event::Record(..)))));
    assert_eq!(stream.next(), Ok(Some(Event::Listed)));
    assert_eq!(stream.next(), Ok(None));
    assert_eq!(stream.output().split_off(0), b"N1 NOOP\r\n");
    stream.receive(b"N1 OK \"Noop done\"\r\n", s(2));
    assert_eq!(stream.next(), Ok(Some(Event::Current { asked: s(1) })));
}
