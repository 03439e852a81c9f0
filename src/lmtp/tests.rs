//! The login against scripted servers; SCRAM against the server side of the SASL library.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::model::secret::Secret;

fn policy(tls: WhenTls, login: bool) -> LmtpPolicy {
    let credentials = login.then(|| Credentials {
        authname: "postman".into(),
        password: Some(Secret::new("secret")),
        ..Credentials::default()
    });
    LmtpPolicy { tls, credentials, ..LmtpPolicy::default() }
}

/// Bytes sent to a server with these replies, and the outcome.
fn run(policy: LmtpPolicy, replies: &[&str]) -> (String, Result<Ready, LmtpFailure>) {
    let mut login = LmtpLogin::new("mx.example.org", policy);
    let mut said = String::new();
    let mut replies = replies.iter();
    loop {
        said += std::str::from_utf8(&std::mem::take(login.output())).unwrap();
        let done = match login.step() {
            LmtpStep::Wait => match replies.next() {
                Some(reply) => {
                    // Byte by byte.
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
            LmtpStep::StartTls => {
                login.tls_is_up();
                continue;
            }
            LmtpStep::Ready(ready) => Ok(ready),
            LmtpStep::Failed(failure) => Err(failure),
        };
        return (said.replace("\r\n", "|"), done);
    }
}

const GREETING: &str = "220 be1.example.org Cyrus LMTP 3.6.1 server ready";
const CLEAR: &str = "250-be1.example.org\n250-SIZE\n250-STARTTLS\n250-AUTH SCRAM-SHA-256\n250 Ok";
const UNDER_TLS: &str = "250-be1.example.org\n250-SIZE\n250-AUTH PLAIN LOGIN\n250 Ok";
const PRE_AUTHORISED: &str = "250-be1.example.org\n250-AUTH EXTERNAL\n250 Ok";

#[test]
fn plain_password_needs_tls() {
    let replies = [GREETING, CLEAR, "220 go ahead", UNDER_TLS, "235 Authenticated!"];
    let (said, ready) = run(policy(WhenTls::Required, true), &replies);
    let plain = STANDARD.encode("\0postman\0secret");
    let lhlo = "LHLO mx.example.org|";
    assert_eq!(said, format!("{lhlo}STARTTLS|{lhlo}AUTH PLAIN {plain}|"));
    let ready = ready.unwrap();
    assert_eq!((ready.tls, ready.mechanism), (true, Some(Mechanism::Plain)));
    assert_eq!(ready.greeting, format!("{GREETING}\r\n").as_bytes());

    let (said, failure) = run(policy(WhenTls::Off, true), &[GREETING, UNDER_TLS]);
    assert_eq!(said, lhlo);
    assert!(matches!(failure, Err(LmtpFailure::NoMechanism(_))), "{failure:?}");
    let mut allowed = policy(WhenTls::Off, true);
    allowed.allow_plaintext = true;
    let (said, ready) = run(allowed, &[GREETING, UNDER_TLS, "235 ok"]);
    assert!(ready.is_ok() && said.contains("AUTH PLAIN "), "{said} {ready:?}");
}

#[test]
fn required_tls_is_never_skipped() {
    let (said, failure) = run(policy(WhenTls::Required, false), &[GREETING, PRE_AUTHORISED]);
    assert_eq!((said.as_str(), failure), ("LHLO mx.example.org|", Err(LmtpFailure::NoTls)));
    let (_, ready) = run(policy(WhenTls::IfOffered, false), &[GREETING, PRE_AUTHORISED]);
    assert!(!ready.unwrap().tls);
    // Offered and refused: an attacker on the way could send that.
    for tls in [WhenTls::Required, WhenTls::IfOffered] {
        let (_, failure) = run(policy(tls, false), &[GREETING, CLEAR, "454 4.3.3 not now"]);
        assert!(matches!(failure, Err(LmtpFailure::StartTlsRefused(_))), "{failure:?}");
    }
}

#[test]
fn server_without_auth_is_used_without_a_login() {
    for lhlo in [PRE_AUTHORISED, "250 be1.example.org"] {
        let (said, ready) = run(policy(WhenTls::IfOffered, true), &[GREETING, lhlo]);
        assert_eq!(said, "LHLO mx.example.org|");
        assert_eq!(ready.unwrap().mechanism, None);
    }
    // Without a name no login is tried.
    let (_, ready) = run(policy(WhenTls::Off, false), &[GREETING, CLEAR]);
    assert_eq!(ready.unwrap().mechanism, None);
}

#[test]
fn refused_login_names_user_and_mechanism() {
    let replies = [GREETING, CLEAR, "220 go", UNDER_TLS, "501 5.5.4 undefined error!"];
    let (_, failure) = run(policy(WhenTls::Required, true), &replies);
    let failure = failure.unwrap_err();
    let text = failure.to_string();
    assert!(
        !failure.is_temporary() && text.contains("`postman`") && text.contains("501"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    let replies = [GREETING, CLEAR, "220 go", UNDER_TLS, "454 4.7.0 later"];
    assert!(run(policy(WhenTls::Required, true), &replies).1.unwrap_err().is_temporary());
}

#[test]
fn long_response_follows_a_challenge() {
    let mut long = policy(WhenTls::Required, true);
    let password = "x".repeat(1000);
    if let Some(credentials) = &mut long.credentials {
        credentials.password = Some(Secret::new(password.as_str()));
    }
    let replies = [GREETING, CLEAR, "220 go", UNDER_TLS, "334 ", "235 ok"];
    let (said, ready) = run(long, &replies);
    let plain = STANDARD.encode(format!("\0postman\0{password}"));
    assert!(said.ends_with(&format!("|AUTH PLAIN|{plain}|")), "{said}");
    assert!(ready.is_ok());
}

#[test]
fn server_without_proof_of_the_password_is_refused() {
    let replies = [GREETING, CLEAR, "235 welcome"];
    let (said, failure) = run(policy(WhenTls::Off, true), &replies);
    assert!(said.contains("AUTH SCRAM-SHA-256 "), "{said}");
    assert!(matches!(failure, Err(LmtpFailure::FalseServer(_))), "{failure:?}");
    for challenge in ["334 !", "334 eA==", "334"] {
        let (_, failure) = run(policy(WhenTls::Off, true), &[GREETING, CLEAR, challenge]);
        assert!(matches!(failure, Err(LmtpFailure::Protocol(_))), "{challenge}: {failure:?}");
    }
}

#[test]
fn failure_names_the_step() {
    let end = |replies: &[&str]| run(policy(WhenTls::Required, true), replies).1.unwrap_err();
    assert_eq!(end(&[]), LmtpFailure::Closed("the greeting"));
    assert_eq!(end(&[GREETING]), LmtpFailure::Closed("LHLO"));
    assert_eq!(end(&[GREETING, CLEAR]), LmtpFailure::Closed("STARTTLS"));
    assert_eq!(end(&[GREETING, CLEAR, "220 go", UNDER_TLS]), LmtpFailure::Closed("AUTH"));
    assert!(matches!(end(&["421 4.3.2 going down"]), LmtpFailure::Refused("the greeting", _)));
    assert!(matches!(end(&[GREETING, "550 no"]), LmtpFailure::Refused("LHLO", _)));
    assert!(matches!(end(&[GREETING, "502 5.5.1 what"]), LmtpFailure::NotLmtp(_)));
    assert!(matches!(end(&["SSH-2.0-OpenSSH"]), LmtpFailure::NotLmtp(_)));
    assert!(matches!(end(&[&"x".repeat(LINE_LIMIT)]), LmtpFailure::NotLmtp(_)));
}

#[test]
fn clear_text_after_starttls_is_an_error() {
    let mut login = LmtpLogin::new("mx", policy(WhenTls::Required, false));
    login.receive(format!("{GREETING}\r\n").as_bytes());
    login.receive(b"250-be1\r\n250 STARTTLS\r\n");
    login.receive(b"220 go\r\n250-be1\r\n250 AUTH PLAIN\r\n");
    assert!(matches!(login.step(), LmtpStep::Failed(LmtpFailure::Protocol(_))));
    let mut login = LmtpLogin::new("mx", policy(WhenTls::Off, false));
    login.receive(format!("{GREETING}\r\n250 be1\r\n250 more\r\n").as_bytes());
    assert!(matches!(login.step(), LmtpStep::Failed(LmtpFailure::Protocol(_))));
}

#[test]
fn host_name_cannot_inject_commands() {
    for us in ["mx\r\nQUIT", "", "a b"] {
        let mut login = LmtpLogin::new(us, LmtpPolicy::default());
        login.receive(b"220 x\r\n");
        assert_eq!(login.output(), b"LHLO localhost\r\n");
    }
}
