use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::master::Master;
use super::*;
use crate::model::secret::Secret;

const PASSWORD: &str = "geheim";
/// `\0router\0geheim`
const PLAIN: &str = "AHJvdXRlcgBnZWhlaW0=";
const LAST: &str = "* OK MUPDATE \"mu.example.org\" \"Cyrus IMAP\" \"3.6.1\" \"(master)\"\r\n";

fn credentials() -> Credentials {
    Credentials {
        authname: "router".into(),
        password: Some(Secret::new(PASSWORD)),
        ..Credentials::default()
    }
}

/// Policy that allows PLAIN without TLS.
fn loose() -> Policy {
    Policy { allow_plaintext: true, ..Policy::default() }
}

fn login(policy: Policy) -> Login {
    Login::new(policy, credentials(), at(0.))
}

fn take(login: &mut Login) -> String {
    String::from_utf8(std::mem::take(login.output())).unwrap()
}

fn logged_in(login: &mut Login) -> Session {
    match login.step() {
        Step::In(session) => session,
        other => panic!("{other:?}"),
    }
}

fn failure(login: &mut Login) -> Failure {
    let Step::Failed(failure) = login.step() else { panic!("{login:?}") };
    let Step::Failed(again) = login.step() else { panic!("a failure stays") };
    assert_eq!(failure, again);
    assert_eq!((login.deadline(), take(login).as_str()), (None, ""));
    not_told(&failure);
    failure
}

/// Checks that the password does not appear in this value.
fn not_told(shown: &(impl std::fmt::Debug + ?Sized)) {
    let shown = format!("{shown:?}");
    assert!(!shown.contains(PASSWORD) && !shown.contains(PLAIN), "{shown}");
}

/// Returns the failure of a login after these bytes from the server.
fn said(policy: Policy, said: &str) -> Failure {
    let mut login = login(policy);
    login.receive(said.as_bytes(), at(0.));
    failure(&mut login)
}

#[test]
fn login_is_the_same_at_every_split_of_the_answers() {
    let banner = format!(
        "* AUTH \"PLAIN\" \"LOGIN\"\r\n* COMPRESS \"DEFLATE\"\r\n* PARTIAL-UPDATE\r\n{LAST}"
    );
    let told = format!("A1 AUTHENTICATE \"PLAIN\" \"{PLAIN}\"\r\n");
    let end = "A1 OK \"Authenticated\"\r\n";
    let whole = banner.len();
    for cut in 0..=whole + end.len() {
        let mut login = login(loose());
        let stream = format!("{banner}{end}");
        let (first, second) = stream.as_bytes().split_at(cut);
        login.receive(first, at(1.));
        assert_eq!(take(&mut login), if cut < whole { "" } else { told.as_str() });
        not_told(&login);
        login.receive(second, at(1.));
        assert_eq!(take(&mut login), if cut < whole { told.as_str() } else { "" });
        not_told(&login);
        let session = logged_in(&mut login);
        assert_eq!(session.banner.server, "mu.example.org");
        assert_eq!(session.banner.release, "3.6.1");
        assert_eq!(session.banner.mechanisms, ["PLAIN", "LOGIN"]);
        assert!(session.banner.compress && !session.banner.starttls && !session.tls);
        assert_eq!((session.banner.role, session.mechanism), (Role::Master, "PLAIN".into()));
    }
}

/// Runs a login against a master, in pieces of this size, until it ends or asks for TLS.
fn talk(login: &mut Login, master: &mut Master, mut said: String, piece: usize) {
    loop {
        for piece in said.as_bytes().chunks(piece) {
            login.receive(piece, at(1.));
            not_told(login);
        }
        let answer = std::mem::take(login.output());
        said = master.receive(&answer);
        if said.is_empty() {
            return;
        }
    }
}

#[test]
fn starttls_and_each_scram_log_in_at_every_split() {
    for (mechanisms, chosen) in [
        ("\"PLAIN\" \"SCRAM-SHA-1\" \"SCRAM-SHA-512-PLUS\" \"SCRAM-SHA-512\"", "SCRAM-SHA-512"),
        ("\"SCRAM-SHA-1\" \"SCRAM-SHA-256\" \"DIGEST-MD5\" \"LOGIN\"", "SCRAM-SHA-256"),
        ("scram-sha-1 cram-md5 plain", "SCRAM-SHA-1"),
    ] {
        for piece in 1..40 {
            let mut master = Master::new(mechanisms, "router", PASSWORD);
            master.starttls = true;
            let mut login = login(Policy { tls: WhenTls::Required, ..Policy::default() });
            let banner = master.banner();
            talk(&mut login, &mut master, banner, piece);
            assert!(matches!(login.step(), Step::StartTls), "{login:?}");
            login.tls_is_up(at(1.), true);
            master.tls = true;
            let banner = master.banner();
            talk(&mut login, &mut master, banner, piece);
            let session = logged_in(&mut login);
            assert_eq!((session.mechanism.as_str(), session.tls), (chosen, true));
        }
    }
}

#[test]
fn refusal_names_both_wrong_password_and_missing_admin() {
    for (user, password) in [("router", "other"), ("somebody", PASSWORD)] {
        let mut master = Master::new("\"SCRAM-SHA-256\"", user, password);
        let mut login = login(Policy::default());
        let banner = master.banner();
        talk(&mut login, &mut master, banner, 1000);
        let failure = failure(&mut login);
        let text = failure.to_string();
        assert_eq!(failure.kind(), FailureKind::Login, "{text}");
        assert!(text.contains("password is wrong") && text.contains("`mupdate_admins`"), "{text}");
        assert!(text.contains("`router`"), "{text}");
    }
}

#[test]
fn bare_refusal_text_is_read_and_the_realm_explained() {
    for (authname, realm, told) in [
        ("router", Some("r.example"), Some("the name is `router@r.example`")),
        // No advice that leads to another refusal.
        ("router", None, None),
        ("router@r.example", Some("r.example"), None),
        ("router", Some(""), None),
    ] {
        let realm = realm.map(str::to_owned);
        let credentials = Credentials { authname: authname.into(), realm, ..credentials() };
        let mut login = Login::new(loose(), credentials, at(0.));
        let said = format!("* AUTH \"PLAIN\"\r\n{LAST}A1 BAD Please login first\r\n");
        login.receive(said.as_bytes(), at(0.));
        let text = failure(&mut login).to_string();
        assert!(text.contains("`Please login first`"), "{text}");
        assert_eq!(text.contains("realm"), told.is_some(), "{text}");
        assert!(told.is_none_or(|told| text.contains(told)), "{text}");
    }
}

/// The name is sent without the realm, which only DIGEST-MD5 would send.
#[test]
fn configured_realm_does_not_prevent_the_login() {
    for mechanism in ["\"SCRAM-SHA-512\"", "\"SCRAM-SHA-256\"", "\"SCRAM-SHA-1\""] {
        let mut master = Master::new(mechanism, "router", PASSWORD);
        let credentials = Credentials { realm: Some("r.example".into()), ..credentials() };
        let mut login = Login::new(loose(), credentials, at(0.));
        let banner = master.banner();
        talk(&mut login, &mut master, banner, 1000);
        assert_eq!(format!("\"{}\"", logged_in(&mut login).mechanism), mechanism);
    }
}

/// Returns a login that has sent its first SCRAM message, and the nonce in it.
fn scram() -> (Login, String) {
    let mut login = login(Policy::default());
    login.receive(format!("* AUTH \"SCRAM-SHA-256\"\r\n{LAST}").as_bytes(), at(0.));
    let told = take(&mut login);
    let initial = told.trim_end().rsplit(' ').next().unwrap().trim_matches('"');
    let first = String::from_utf8(STANDARD.decode(initial).unwrap()).unwrap();
    let nonce = first.strip_prefix("n,,n=router,r=").unwrap().to_owned();
    (login, nonce)
}

#[test]
fn server_without_the_password_is_detected() {
    let last = |message: &str| STANDARD.encode(message) + "\r\n";
    for (finals, ok) in [
        (String::new(), "A1 OK \"Authenticated\"\r\n"),
        (last("v=AAAA"), "A1 OK \"Authenticated\"\r\n"),
        (last("e=other-error"), "A1 OK \"Authenticated\"\r\n"),
    ] {
        let (mut login, nonce) = scram();
        let first = last(&format!("r={nonce}server,s=QSXCR+Q6sek8bf92,i=4096"));
        login.receive(first.as_bytes(), at(0.));
        assert_ne!(take(&mut login), "");
        login.receive(format!("{finals}{ok}").as_bytes(), at(0.));
        let failure = failure(&mut login);
        assert!(matches!(failure, Failure::FalseServer(_)), "{finals}: {failure}");
    }
    let (mut login, _) = scram();
    login.receive(b"A1 OK \"Authenticated\"\r\n", at(0.));
    assert!(matches!(failure(&mut login), Failure::FalseServer(_)));
    let (mut login, _) = scram();
    login.receive(last("r=other,s=QSXCR+Q6sek8bf92,i=4096").as_bytes(), at(0.));
    assert!(matches!(failure(&mut login), Failure::FalseServer(_)));
}

#[test]
fn scram_survives_any_message_in_bounded_time() {
    let try_first = |message: &[u8]| {
        let (mut login, _) = scram();
        login.receive((STANDARD.encode(message) + "\r\n").as_bytes(), at(0.));
        failure(&mut login)
    };
    for message in [
        &b""[..],
        b"r",
        b"r=",
        b"r=x",
        b"r=x,",
        b"r=x,s",
        b"r=x,s=QQ==",
        b"r=x,s=QQ==,",
        b"r=x,s=QQ==,i",
        b"r=x,s=QQ==,i=",
        b"r=x,s=QQ==,i=0",
        b"r=x,s=QQ==,i=4294967295",
        b"r=x,s=QQ==,i=600001",
        b"r=x,s=?,i=1",
        b"m=x,r=x,s=QQ==,i=1",
        b"\xff\xfe,\xff,\xff",
        b",,",
        b"e=other-error",
    ] {
        try_first(message);
    }
    for message in [&b""[..], b"v", b"v=", b"e", b"v=\xff", b"v=?", b",v=", b"x=y"] {
        let (mut login, nonce) = scram();
        let first = STANDARD.encode(format!("r={nonce}x,s=QQ==,i=4096"));
        login.receive(format!("{first}\r\n").as_bytes(), at(0.));
        assert_ne!(take(&mut login), "");
        login.receive((STANDARD.encode(message) + "\r\n").as_bytes(), at(0.));
        failure(&mut login);
    }
    for line in ["?", "====", "QQ", "Q"] {
        let (mut login, _) = scram();
        login.receive(format!("{line}\r\n").as_bytes(), at(0.));
        assert_eq!(failure(&mut login).kind(), FailureKind::Protocol);
    }
}

#[test]
fn scram_with_refused_iteration_count_sends_no_proof() {
    for (rounds, what) in [(0, "few"), (1, "few"), (4095, "few"), (600_001, "many")] {
        let (mut login, nonce) = scram();
        let first = STANDARD.encode(format!("r={nonce}x,s=QQ==,i={rounds}"));
        login.receive(format!("{first}\r\n").as_bytes(), at(0.));
        assert_eq!(take(&mut login), "");
        let failure = failure(&mut login);
        assert!(matches!(failure, Failure::FalseServer(_)), "{failure}");
        let says = format!("it asks for {rounds} rounds of SCRAM-SHA-256, too {what}");
        assert!(failure.to_string().contains(&says), "{failure}");
    }
}

#[test]
fn surplus_challenge_ends_the_login() {
    let mut login = login(loose());
    login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}\r\n").as_bytes(), at(0.));
    assert_eq!(failure(&mut login).kind(), FailureKind::Protocol);
}

#[test]
fn unrelated_answer_does_not_complete_the_login() {
    for answer in ["* OK still here", "S1 OK done", "X9 OK done", "A0 OK done"] {
        let mut login = login(loose());
        login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}").as_bytes(), at(0.));
        take(&mut login);
        login.receive(format!("{answer}\r\n").as_bytes(), at(0.));
        assert_eq!(failure(&mut login).kind(), FailureKind::Protocol, "{answer}");
    }
}

#[test]
fn required_tls_that_is_not_offered_ends_the_login() {
    let required = Policy { tls: WhenTls::Required, ..loose() };
    let failure = said(required, &format!("* AUTH \"PLAIN\"\r\n{LAST}"));
    assert_eq!(failure.kind(), FailureKind::Config);
    let text = failure.to_string();
    assert!(text.contains("allowstarttls") && text.contains("mu.example.org"), "{text}");
}

#[test]
fn tls_is_used_if_offered_unless_off() {
    let offer = format!("* AUTH \"PLAIN\"\r\n* STARTTLS\r\n{LAST}");
    for (tls, told) in [
        (WhenTls::Required, "S1 STARTTLS\r\n".to_owned()),
        (WhenTls::IfOffered, "S1 STARTTLS\r\n".to_owned()),
        (WhenTls::Off, format!("A1 AUTHENTICATE \"PLAIN\" \"{PLAIN}\"\r\n")),
    ] {
        let mut login = login(Policy { tls, ..loose() });
        login.receive(offer.as_bytes(), at(0.));
        assert_eq!(take(&mut login), told);
    }
}

/// Cyrus up to 3.6 frees the TLS of its whole process with each connection that ends.
#[test]
fn tls_that_kills_the_master_is_avoided_under_scram() {
    for (release, offered, tls, spared) in [
        ("3.6.1", "\"SCRAM-SHA-256\"", WhenTls::IfOffered, true),
        ("3.2.6-Debian-3.2.6-2", "\"SCRAM-SHA-1\"", WhenTls::IfOffered, true),
        ("3.6.1", "\"SCRAM-SHA-256\"", WhenTls::Required, false),
        ("3.6.1", "\"PLAIN\"", WhenTls::IfOffered, false),
        ("3.10.2", "\"SCRAM-SHA-256\"", WhenTls::IfOffered, false),
        ("3.12.4", "\"SCRAM-SHA-256\"", WhenTls::IfOffered, false),
        ("of our own", "\"SCRAM-SHA-256\"", WhenTls::IfOffered, false),
    ] {
        let last = LAST.replace("3.6.1", release);
        let mut login = login(Policy { tls, ..loose() });
        login.receive(format!("* AUTH {offered}\r\n* STARTTLS\r\n{last}").as_bytes(), at(0.));
        let told = take(&mut login);
        let began = if spared { "A1 AUTHENTICATE \"SCRAM" } else { "S1 STARTTLS" };
        assert!(told.starts_with(began), "{release} {offered} {tls:?}: {told}");
    }
}

/// Returns a login that is waiting for its TLS handshake.
fn handshake(credentials: Credentials) -> Login {
    let mut login = Login::new(Policy::default(), credentials, at(0.));
    login.receive(format!("* AUTH\r\n* STARTTLS\r\n{LAST}").as_bytes(), at(0.));
    assert_eq!(take(&mut login), "S1 STARTTLS\r\n");
    login.receive(b"S1 OK Begin TLS negotiation now\r\n", at(0.));
    login
}

#[test]
fn unencrypted_bytes_after_starttls_are_a_failure() {
    for (first, second) in [("* OK injected\r\n", ""), ("", "x"), ("\0", "")] {
        let mut login = login(Policy::default());
        login.receive(format!("* STARTTLS\r\n{LAST}").as_bytes(), at(0.));
        login.receive(format!("S1 OK Begin TLS negotiation now\r\n{first}").as_bytes(), at(0.));
        // In one piece or in two; an empty second piece is left out.
        if !second.is_empty() {
            login.receive(second.as_bytes(), at(0.));
        }
        assert_eq!(failure(&mut login), Failure::Injected);
    }
}

#[test]
fn offers_before_tls_are_discarded() {
    let mut login = handshake(credentials());
    login.tls_is_up(at(1.), false);
    // The server must send its banner again. PLAIN is possible under TLS.
    assert!(matches!(login.step(), Step::Wait));
    login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}").as_bytes(), at(1.));
    assert_eq!(take(&mut login), format!("A1 AUTHENTICATE \"PLAIN\" \"{PLAIN}\"\r\n"));
}

#[test]
fn refused_starttls_is_a_tls_failure() {
    for (said, kind) in [
        ("S1 NO Error initializing TLS\r\n", FailureKind::Tls),
        ("S1 BAD \"Unrecognized command\"\r\n", FailureKind::Tls),
        ("A1 OK done\r\n", FailureKind::Protocol),
    ] {
        let mut login = login(Policy::default());
        login.receive(format!("* STARTTLS\r\n{LAST}{said}").as_bytes(), at(0.));
        assert_eq!(failure(&mut login).kind(), kind, "{said}");
    }
}

#[test]
fn external_is_used_only_with_a_client_certificate() {
    let offer = format!("* AUTH \"PLAIN\" \"SCRAM-SHA-1\" \"EXTERNAL\"\r\n{LAST}");
    let none = Credentials::default();
    let acting = Credentials { username: "admin".into(), ..credentials() };
    for (credentials, certificate, told) in [
        (&none, true, "A1 AUTHENTICATE \"EXTERNAL\" \"=\"\r\n"),
        (&acting, true, "A1 AUTHENTICATE \"EXTERNAL\" \"YWRtaW4=\"\r\n"),
        (&acting, false, "A1 AUTHENTICATE \"SCRAM-SHA-1\" "),
    ] {
        let mut login = handshake(credentials.clone());
        login.tls_is_up(at(1.), certificate);
        login.receive(offer.as_bytes(), at(1.));
        let sent = take(&mut login);
        assert!(sent.starts_with(told), "{sent}");
    }
}

#[test]
fn authorization_identity_is_sent_only_if_it_differs() {
    for (username, authname, message) in [
        ("", "router", "\0router\0geheim"),
        ("router", "", "\0router\0geheim"),
        ("router", "router", "\0router\0geheim"),
        ("admin", "router", "admin\0router\0geheim"),
    ] {
        let credentials =
            Credentials { username: username.into(), authname: authname.into(), ..credentials() };
        let mut login = Login::new(loose(), credentials, at(0.));
        login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}").as_bytes(), at(0.));
        let told = format!("A1 AUTHENTICATE \"PLAIN\" \"{}\"\r\n", STANDARD.encode(message));
        assert_eq!(take(&mut login), told);
    }
}

#[test]
fn password_that_is_not_utf8_is_used_unchanged() {
    let password = b"p\xe4ss";
    let credentials =
        || Credentials { password: Some(Secret::new(&password[..])), ..credentials() };
    let mut login = Login::new(loose(), credentials(), at(0.));
    login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}").as_bytes(), at(0.));
    let told = STANDARD.encode([b"\0router\0", &password[..]].concat());
    assert_eq!(take(&mut login), format!("A1 AUTHENTICATE \"PLAIN\" \"{told}\"\r\n"));

    for mechanism in ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let mut master = Master::new(mechanism, "router", "");
        master.password = password;
        let mut login = Login::new(Policy::default(), credentials(), at(0.));
        let banner = master.banner();
        talk(&mut login, &mut master, banner, 1000);
        assert_eq!(logged_in(&mut login).mechanism, mechanism);
    }
}

#[test]
fn no_common_mechanism_lists_those_of_both_sides() {
    let only = |mechanism| Policy { mechanisms: Some(vec![mechanism]), ..Policy::default() };
    for (policy, offered, parts) in [
        (
            Policy::default(),
            " \"PLAIN\" \"LOGIN\"",
            &["PLAIN LOGIN", "`allow-plaintext = true`"][..],
        ),
        (Policy::default(), " \"DIGEST-MD5\"", &["DIGEST-MD5", "SCRAM-SHA-512 SCRAM-SHA-256"]),
        (Policy::default(), "", &["none", "allowplaintext: yes"]),
        (only(Mechanism::ScramSha512), " \"SCRAM-SHA-1\"", &["SCRAM-SHA-1", "SCRAM-SHA-512"]),
        (only(Mechanism::External), " \"EXTERNAL\"", &["possible here: none"]),
    ] {
        let failure = said(policy, &format!("* AUTH{offered}\r\n{LAST}"));
        assert_eq!(failure.kind(), FailureKind::Config);
        let text = failure.to_string();
        for part in parts {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn missing_password_is_a_configuration_failure() {
    for credentials in [
        Credentials::default(),
        Credentials { authname: "router".into(), ..Credentials::default() },
        Credentials { password: Some(Secret::new(PASSWORD)), ..Credentials::default() },
        Credentials { password: Some(Secret::new("")), ..credentials() },
    ] {
        let mut login = Login::new(loose(), credentials, at(0.));
        login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}").as_bytes(), at(0.));
        assert_eq!(failure(&mut login), Failure::NoCredentials);
    }
}

#[test]
fn slave_or_other_server_is_not_accepted_as_master() {
    let slave = LAST.replace("(master)", "mupdate://real.example.org");
    let failure = said(loose(), &format!("* AUTH \"PLAIN\"\r\n{slave}"));
    assert!(failure.to_string().contains("slave of `mupdate://real.example.org`"), "{failure}");
    assert_eq!(failure.kind(), FailureKind::Login);

    let unknown = LAST.replace(" \"(master)\"", "");
    let failure = said(loose(), &format!("* AUTH \"PLAIN\"\r\n{unknown}"));
    assert!(matches!(failure, Failure::NotMaster { .. }));

    let mut login = login(Policy { need: Need::Any, ..loose() });
    login.receive(format!("* AUTH \"PLAIN\"\r\n{slave}").as_bytes(), at(0.));
    login.receive(b"A1 OK done\r\n", at(0.));
    let role = logged_in(&mut login).banner.role;
    assert_eq!(role, Role::Slave("mupdate://real.example.org".into()));

    let pinned = |master: &str| Policy { master: Some(master.into()), ..loose() };
    let failure = said(pinned("other.example.org"), &format!("* AUTH \"PLAIN\"\r\n{LAST}"));
    let text = failure.to_string();
    assert!(text.contains("`mu.example.org`") && text.contains("`other.example.org`"), "{text}");
    let mut login = super::login::login(pinned("MU.example.org"));
    login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}").as_bytes(), at(0.));
    assert_ne!(take(&mut login), "");
}

#[test]
fn bye_of_a_full_server_is_read_with_its_nul() {
    for cut in 0..25 {
        let mut login = login(loose());
        let said = b"* BYE \"Server Unable\"\r\n\0";
        let (first, second) = said.split_at(cut.min(said.len()));
        login.receive(first, at(0.));
        login.receive(second, at(0.));
        login.closed();
        let failure = failure(&mut login);
        assert!(failure.to_string().contains("mupdate_connections_max"), "{failure}");
        assert_eq!(failure.kind(), FailureKind::Network);
    }
}

#[test]
fn missing_banner_times_out_after_10_s() {
    let mut login = login(loose());
    assert_eq!(login.deadline(), Some(at(10.)));
    login.tick(at(9.9));
    assert!(matches!(login.step(), Step::Wait));
    login.tick(at(10.));
    let failure = failure(&mut login);
    assert!(failure.to_string().contains("mupdate_workers_max"), "{failure}");
    assert_eq!(failure.kind(), FailureKind::Network);
}

#[test]
fn slow_trickle_does_not_extend_the_timeout() {
    // One byte every 9 s, without a call of tick.
    let mut login = login(loose());
    login.receive(b"*", at(9.));
    assert!(matches!(login.step(), Step::Wait));
    login.receive(b" ", at(18.));
    assert!(matches!(failure(&mut login), Failure::Timeout(_)));

    let mut login = super::login::login(loose());
    login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}").as_bytes(), at(9.));
    for second in [18., 27.] {
        login.receive(b"x", at(second));
        assert!(matches!(login.step(), Step::Wait));
    }
    assert_eq!(login.deadline(), Some(at(30.)));
    login.receive(b"x", at(36.));
    assert!(matches!(failure(&mut login), Failure::Timeout(_)));

    // The handshake, and the banner after it.
    let mut login = handshake(credentials());
    assert_eq!(login.deadline(), Some(at(30.)));
    login.tls_is_up(at(5.), false);
    assert_eq!(login.deadline(), Some(at(15.)));
    let mut login = handshake(credentials());
    login.tick(at(30.));
    assert!(failure(&mut login).to_string().contains("TLS handshake"));
}

#[test]
fn endless_banner_or_line_is_not_stored() {
    let failure = said(loose(), &"* AUTH \"PLAIN\"\r\n".repeat(65));
    assert_eq!(failure.kind(), FailureKind::Protocol);
    let failure = said(loose(), &"x".repeat(9000));
    assert_eq!(failure.kind(), FailureKind::Protocol);
    let failure = said(loose(), "* MAILBOX {999999999999+}\r\n");
    assert_eq!(failure.kind(), FailureKind::Protocol);
    let mut login = login(loose());
    let many = "* AUTH".to_owned() + &" \"X\"".repeat(1000) + " \"PLAIN\"\r\n";
    login.receive(format!("* AUTH \"PLAIN\"\r\n{many}{LAST}A1 OK x\r\n").as_bytes(), at(0.));
    assert_eq!(logged_in(&mut login).banner.mechanisms.len(), 64);
}

#[test]
fn unknown_lines_of_a_banner_are_skipped() {
    let mut login = login(loose());
    let said = "\0\r\nhello\r\n* OK \"not yet\"\r\n* OK MUPDATED\r\n* NO x\r\n* NEWS {5\r\n\
        * auth\r\n* Auth plain \"login\r\n* starttlsx\r\n*\r\n\
        * ok mupdate mu.example.org \"a \\\"b\\\"\" 3.2.6 (master)\n";
    login.receive(said.as_bytes(), at(0.));
    assert_ne!(take(&mut login), "");
    login.receive(b"A1 ok\r\n", at(0.));
    let banner = logged_in(&mut login).banner;
    assert_eq!((banner.implementation.as_str(), banner.role), ("a \"b\"", Role::Master));
    assert!(!banner.starttls);
}

#[test]
fn closed_connection_reports_the_phase() {
    let mut login = login(loose());
    login.receive(b"* AUTH \"PL", at(0.));
    login.closed();
    assert!(failure(&mut login).to_string().contains("banner"));
    let mut login = handshake(credentials());
    login.closed();
    assert!(failure(&mut login).to_string().contains("STARTTLS"));
    let (mut login, _) = scram();
    login.closed();
    assert!(failure(&mut login).to_string().contains("login"));
}

#[test]
fn bytes_after_the_login_belong_to_the_session() {
    let mut login = login(loose());
    login.receive(format!("* AUTH \"PLAIN\"\r\n{LAST}A1 OK x\r\n* BYE \"so").as_bytes(), at(0.));
    let mut stream = Stream::new(logged_in(&mut login), Timings::default(), at(0.));
    assert_eq!(stream.next(), Ok(None));
    stream.receive(b"on\"\r\n", at(0.));
    assert_eq!(stream.next(), Err(Failure::Bye("soon".into())));
    assert!(matches!(login.step(), Step::Wait));
}

#[test]
fn debug_of_credentials_hides_the_password() {
    not_told(&credentials());
    not_told(&Policy::default());
}

#[test]
fn all_types_are_send() {
    fn sent(_: impl Send + 'static) {}
    sent(login(loose()));
    sent(session(Role::Master));
}
