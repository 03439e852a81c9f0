//! The login against servers of a few lines; SCRAM against the server side of the SASL library.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::model::secret::Secret;

fn policy(tls: WhenTls, login: bool) -> Policy {
    let credentials = login.then(|| Credentials {
        authname: "postman".into(),
        password: Some(Secret::new("secret")),
        ..Credentials::default()
    });
    Policy { tls, credentials, ..Policy::default() }
}

/// What was said to a server of these replies, and what came of it.
fn talk(policy: Policy, replies: &[&str]) -> (String, Result<Ready, Failure>) {
    let mut login = Login::new("mx.example.org", policy);
    let mut said = String::new();
    let mut replies = replies.iter();
    loop {
        said += std::str::from_utf8(&std::mem::take(login.output())).unwrap();
        let done = match login.step() {
            Step::Wait => match replies.next() {
                Some(reply) => {
                    // Byte by byte, as it may come.
                    for byte in format!("{}\r\n", reply.replace('\n', "\r\n")).bytes() {
                        login.receive(&[byte]);
                    }
                    continue;
                }
                None => {
                    login.closed();
                    continue;
                }
            },
            Step::StartTls => {
                login.tls_is_up();
                continue;
            }
            Step::Ready(ready) => Ok(ready),
            Step::Failed(failure) => Err(failure),
        };
        return (said.replace("\r\n", "|"), done);
    }
}

const GREETING: &str = "220 be1.example.org Cyrus LMTP 3.6.1 server ready";
const CLEAR: &str = "250-be1.example.org\n250-SIZE\n250-STARTTLS\n250-AUTH SCRAM-SHA-256\n250 Ok";
const UNDER_TLS: &str = "250-be1.example.org\n250-SIZE\n250-AUTH PLAIN LOGIN\n250 Ok";
const PRE_AUTHORISED: &str = "250-be1.example.org\n250-AUTH EXTERNAL\n250 Ok";

#[test]
fn plain_password_goes_under_tls_only() {
    let replies = [GREETING, CLEAR, "220 go ahead", UNDER_TLS, "235 Authenticated!"];
    let (said, ready) = talk(policy(WhenTls::Required, true), &replies);
    let plain = STANDARD.encode("\0postman\0secret");
    let lhlo = "LHLO mx.example.org|";
    assert_eq!(said, format!("{lhlo}STARTTLS|{lhlo}AUTH PLAIN {plain}|"));
    let ready = ready.unwrap();
    assert_eq!((ready.tls, ready.mechanism), (true, Some(Mechanism::Plain)));
    assert_eq!(ready.greeting, format!("{GREETING}\r\n").as_bytes());

    let (said, failure) = talk(policy(WhenTls::Off, true), &[GREETING, UNDER_TLS]);
    assert_eq!(said, lhlo);
    assert!(matches!(failure, Err(Failure::NoMechanism(_))), "{failure:?}");
    let mut allowed = policy(WhenTls::Off, true);
    allowed.allow_plaintext = true;
    let (said, ready) = talk(allowed, &[GREETING, UNDER_TLS, "235 ok"]);
    assert!(ready.is_ok() && said.contains("AUTH PLAIN "), "{said} {ready:?}");
}

#[test]
fn tls_that_is_required_is_never_done_without() {
    let (said, failure) = talk(policy(WhenTls::Required, false), &[GREETING, PRE_AUTHORISED]);
    assert_eq!((said.as_str(), failure), ("LHLO mx.example.org|", Err(Failure::NoTls)));
    let (_, ready) = talk(policy(WhenTls::IfOffered, false), &[GREETING, PRE_AUTHORISED]);
    assert!(!ready.unwrap().tls);
    // Offered and refused: somebody on the way could say so.
    for tls in [WhenTls::Required, WhenTls::IfOffered] {
        let (_, failure) = talk(policy(tls, false), &[GREETING, CLEAR, "454 4.3.3 not now"]);
        assert!(matches!(failure, Err(Failure::StartTlsRefused(_))), "{failure:?}");
    }
}

#[test]
fn server_without_a_login_is_left_to_decide_by_itself() {
    for lhlo in [PRE_AUTHORISED, "250 be1.example.org"] {
        let (said, ready) = talk(policy(WhenTls::IfOffered, true), &[GREETING, lhlo]);
        assert_eq!(said, "LHLO mx.example.org|");
        assert_eq!(ready.unwrap().mechanism, None);
    }
    // Without a name, none is tried.
    let (_, ready) = talk(policy(WhenTls::Off, false), &[GREETING, CLEAR]);
    assert_eq!(ready.unwrap().mechanism, None);
}

#[test]
fn refused_login_says_who_and_by_what() {
    let replies = [GREETING, CLEAR, "220 go", UNDER_TLS, "501 5.5.4 undefined error!"];
    let (_, failure) = talk(policy(WhenTls::Required, true), &replies);
    let failure = failure.unwrap_err();
    let text = failure.to_string();
    assert!(
        !failure.is_temporary() && text.contains("`postman`") && text.contains("501"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    let replies = [GREETING, CLEAR, "220 go", UNDER_TLS, "454 4.7.0 later"];
    assert!(talk(policy(WhenTls::Required, true), &replies).1.unwrap_err().is_temporary());
}

#[test]
fn long_response_follows_a_challenge() {
    let mut long = policy(WhenTls::Required, true);
    let password = "x".repeat(1000);
    if let Some(credentials) = &mut long.credentials {
        credentials.password = Some(Secret::new(password.as_str()));
    }
    let replies = [GREETING, CLEAR, "220 go", UNDER_TLS, "334 ", "235 ok"];
    let (said, ready) = talk(long, &replies);
    let plain = STANDARD.encode(format!("\0postman\0{password}"));
    assert!(said.ends_with(&format!("|AUTH PLAIN|{plain}|")), "{said}");
    assert!(ready.is_ok());
}

#[test]
fn server_that_does_not_prove_that_it_knows_the_password_is_not_believed() {
    let replies = [GREETING, CLEAR, "235 welcome"];
    let (said, failure) = talk(policy(WhenTls::Off, true), &replies);
    assert!(said.contains("AUTH SCRAM-SHA-256 "), "{said}");
    assert!(matches!(failure, Err(Failure::FalseServer(_))), "{failure:?}");
    for challenge in ["334 !", "334 eA==", "334"] {
        let (_, failure) = talk(policy(WhenTls::Off, true), &[GREETING, CLEAR, challenge]);
        assert!(matches!(failure, Err(Failure::Protocol(_))), "{challenge}: {failure:?}");
    }
}

#[test]
fn every_place_where_it_ends_is_named() {
    let end = |replies: &[&str]| talk(policy(WhenTls::Required, true), replies).1.unwrap_err();
    assert_eq!(end(&[]), Failure::Closed("the greeting"));
    assert_eq!(end(&[GREETING]), Failure::Closed("LHLO"));
    assert_eq!(end(&[GREETING, CLEAR]), Failure::Closed("STARTTLS"));
    assert_eq!(end(&[GREETING, CLEAR, "220 go", UNDER_TLS]), Failure::Closed("AUTH"));
    assert!(matches!(end(&["421 4.3.2 going down"]), Failure::Refused("the greeting", _)));
    assert!(matches!(end(&[GREETING, "550 no"]), Failure::Refused("LHLO", _)));
    assert!(matches!(end(&[GREETING, "502 5.5.1 what"]), Failure::NotLmtp(_)));
    assert!(matches!(end(&["SSH-2.0-OpenSSH"]), Failure::NotLmtp(_)));
    assert!(matches!(end(&[&"x".repeat(LINE_LIMIT)]), Failure::NotLmtp(_)));
}

#[test]
fn bytes_in_the_clear_after_starttls_are_not_taken_for_tls() {
    let mut login = Login::new("mx", policy(WhenTls::Required, false));
    login.receive(format!("{GREETING}\r\n").as_bytes());
    login.receive(b"250-be1\r\n250 STARTTLS\r\n");
    login.receive(b"220 go\r\n250-be1\r\n250 AUTH PLAIN\r\n");
    assert!(matches!(login.step(), Step::Failed(Failure::Protocol(_))));
    let mut login = Login::new("mx", policy(WhenTls::Off, false));
    login.receive(format!("{GREETING}\r\n250 be1\r\n250 more\r\n").as_bytes());
    assert!(matches!(login.step(), Step::Failed(Failure::Protocol(_))));
}

#[test]
fn name_of_this_host_puts_no_command_into_the_conversation() {
    for us in ["mx\r\nQUIT", "", "a b"] {
        let mut login = Login::new(us, Policy::default());
        login.receive(b"220 x\r\n");
        assert_eq!(login.output(), b"LHLO localhost\r\n");
    }
}
