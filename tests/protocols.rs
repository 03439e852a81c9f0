//! Every protocol but socketmap as mail servers speak it: the real program, over one socket.

mod common;

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixListener;

use common::{Client, Daemon, Site};
use nix::sys::signal::Signal;

/// Request of Postfix 3.7.11 at RCPT.
fn policy(recipient: &str) -> Vec<u8> {
    let request = format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n\
         client_address=127.0.0.1\nclient_name=localhost\nclient_port=40288\n\
         reverse_client_name=localhost\nserver_address=127.0.0.1\nserver_port=25\n\
         helo_name=mx.example.net\nsender=a=b@example.net\nrecipient={recipient}\n\
         recipient_count=0\nqueue_id=\ninstance=1f3a.6a1e\nsize=120\netrn_domain=\nstress=\n\
         policy_context=\n\n"
    );
    request.into_bytes()
}

fn packet(command: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 1).unwrap().to_be_bytes();
    [&length[..], &[command], data].concat()
}

/// Options that Postfix 3.7.11 offers.
fn offer() -> Vec<u8> {
    packet(b'O', b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff")
}

fn offered() -> Vec<u8> {
    packet(b'O', b"\0\0\0\x06\0\0\0\0\0\0\x03\x76")
}

/// The macros before a recipient, and the recipient as it was typed.
fn rcpt(typed: &str) -> Vec<u8> {
    let macros = b"R{rcpt_addr}\0x@example.org\0{rcpt_host}\0be1\0{rcpt_mailer}\0lmtp\0";
    [packet(b'D', macros), packet(b'R', format!("{typed}\0").as_bytes())].concat()
}

const UNKNOWN: &str = "5.1.1 User unknown";
const MOVING: &str = "4.3.0 Mailbox is temporarily unavailable";

/// Postfix asks a canonical map for every address in a header, whatever its length.
#[test]
fn long_key_is_no_error_in_any_protocol() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let mut client = daemon.connect();
    for length in [9_950, 10_100, 24_000, 102_400, 900_000] {
        let long = format!("{}@example.org", "x".repeat(length));
        for map in ["canonical", "lmtp", "recipient"] {
            let answer = client.ask(map, &long);
            assert!(answer == "NOTFOUND " || length < 10_000, "{map} {length}: {answer}");
        }
        assert_eq!(client.ask("host", "jane@example.org"), "OK be1.example.org");
    }
    let mut line = daemon.connect();
    let long = "x".repeat(24_000);
    line.exchange(format!("canonical {long}@example.org\n").as_bytes(), b"NOTFOUND \n");
    line.exchange(format!("get {long}@example.org\n").as_bytes(), b"500 not%20found\n");
    line.exchange(b"host jane@example.org\n", b"OK be1.example.org\n");
    let mut policy = daemon.connect();
    let request = |helo: &str, recipient: &str| {
        format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nhelo_name={helo}\n\
             recipient={recipient}\n\n"
        )
    };
    let later = b"action=DEFER_IF_PERMIT ";
    policy.exchange(request(&"x".repeat(50_000), "jane@example.org").as_bytes(), later);
}

#[test]
fn policy_milter_and_line_agree_on_one_socket() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let mut by_policy = daemon.connect();
    let mut by_milter = daemon.connect();
    let mut by_line = daemon.connect();
    by_milter.exchange(&offer(), &offered());
    for (recipient, judged, line) in [
        ("jane@example.org", None, "200 lmtp:inet:be1.example.org:2003"),
        ("Max.Muster+x@EXAMPLE.org", None, "200 lmtp:inet:be2.example.org:2003"),
        ("nobody@example.org", Some(UNKNOWN), "200 error:5.1.1%20User%20unknown"),
        (
            "carol@example.org",
            Some(MOVING),
            "200 retry:4.3.0%20Mailbox%20is%20temporarily%20unavailable",
        ),
        ("jane@elsewhere.example", None, "500 not%20found"),
        ("postmaster", None, "500 not%20found"),
        ("@relay.example:jane@example.org", None, "200 lmtp:inet:be1.example.org:2003"),
        ("", None, "500 not%20found"),
    ] {
        let (action, packet) = match judged {
            None => ("DUNNO".to_owned(), packet(b'c', b"")),
            Some(text) if text.starts_with('5') => {
                (format!("550 {text}"), packet(b'y', format!("550 {text}\0").as_bytes()))
            }
            Some(text) => (
                format!("DEFER_IF_PERMIT {text}"),
                packet(b'y', format!("451 {text}\0").as_bytes()),
            ),
        };
        by_policy.exchange(&policy(recipient), format!("action={action}\n\n").as_bytes());
        by_milter.exchange(&rcpt(&format!("<{recipient}>")), &packet);
        by_line.exchange(format!("get {recipient}\n").as_bytes(), format!("{line}\n").as_bytes());
    }
    by_milter.exchange(&rcpt("<\"jane\"@example.org> NOTIFY=NEVER"), &packet(b'c', b""));
    assert_eq!(daemon.ask("lmtp", "jane@example.org"), "OK lmtp:inet:be1.example.org:2003");
}

#[test]
fn lines_of_opensmtpd_and_exim_reach_every_map() {
    let site = Site::new();
    site.config("domains = [\"example.org\"]\n[maps.own]\ndeliver = \"OK {host} {port}\"\n");
    let daemon = Daemon::start(&site);
    let mut client = daemon.connect();
    for (asked, said) in [
        ("exim jane@example.org\n", "OK be1.example.org:2003\n"),
        ("exim nobody@example.org\n", "OK :fail:550 5.1.1 User unknown\n"),
        ("own jane@example.org\n", "OK be1.example.org 2003\n"),
        ("host jane+x@example.org\n", "OK be1.example.org\n"),
        ("recipient nobody@example.org\n", "NOTFOUND \n"),
        ("lmtp nobody@example.org\n", "OK error:5.1.1 User unknown\n"),
        ("lmtp list+jane=example.net@elsewhere.example\n", "NOTFOUND \n"),
        ("nosuchmap jane@example.org\n", "TEMP murder-route has no map named nosuchmap\n"),
        ("get \"jane\"@example.org\n", "200 lmtp:inet:be1.example.org:2003\n"),
        ("put jane@example.org elsewhere\n", "500 read%20only\n"),
    ] {
        client.exchange(asked.as_bytes(), said.as_bytes());
        // As `${readsocket}`: ask, shut down the write side, read to the end.
        let mut once = daemon.connect();
        once.0.write_all(asked.as_bytes()).unwrap();
        once.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(once.rest(), said.as_bytes().escape_ascii().to_string());
    }
}

#[test]
fn policy_and_milter_decide_at_rcpt_only() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let mut client = daemon.connect();
    for state in ["CONNECT", "EHLO", "HELO", "MAIL", "DATA", "END-OF-MESSAGE", "VRFY", "ETRN"] {
        let request = format!(
            "request=smtpd_access_policy\nprotocol_state={state}\nrecipient=nobody@example.org\n\n"
        );
        client.exchange(request.as_bytes(), b"action=DUNNO\n\n");
    }
    // An old MTA that sends every step.
    let mut client = daemon.connect();
    client.exchange(&packet(b'O', b"\0\0\0\x02\0\0\0\x0f\0\0\0\0"), &{
        packet(b'O', b"\0\0\0\x02\0\0\0\0\0\0\0\0")
    });
    for (command, data) in [
        (b'C', &b"localhost\x004\x9d\x60127.0.0.1\0"[..]),
        (b'H', b"mx.example.net\0"),
        (b'M', b"<nobody@example.org>\0SIZE=100\0"),
        (b'T', b""),
        (b'L', b"Subject\0hello\0"),
        (b'N', b""),
        (b'B', &[b'x'; 65_535]),
        (b'E', b""),
        (b'U', b"XYZZY\0"),
    ] {
        client.exchange(&packet(command, data), &packet(b'c', b""));
    }
    for silent in [b'A', b'K'] {
        client.0.write_all(&packet(silent, b"")).unwrap();
    }
    client.exchange(&offer(), &offered());
    let unknown = packet(b'y', format!("550 {UNKNOWN}\0").as_bytes());
    client.exchange(&rcpt("<nobody@example.org>"), &unknown);
    client.0.write_all(&packet(b'Q', b"")).unwrap();
    assert_eq!(client.rest(), "");
}

#[test]
fn policy_and_milter_follow_the_unknown_setting() {
    let site = Site::new();
    for (settings, action, code) in [
        ("unknown = \"defer\"", "DEFER_IF_PERMIT 4.3.0 User unknown, try again later", "451"),
        ("unknown = \"notfound\"", "DUNNO", ""),
        ("fallback = \"lmtp:inet:old.example.org:24\"", "DUNNO", ""),
    ] {
        site.config(&format!("domains = [\"example.org\"]\n{settings}\n"));
        let daemon = Daemon::start(&site);
        let asked = policy("nobody@example.org");
        daemon.connect().exchange(&asked, format!("action={action}\n\n").as_bytes());
        let packet = match code {
            "" => packet(b'c', b""),
            code => {
                packet(b'y', format!("{code} 4.3.0 User unknown, try again later\0").as_bytes())
            }
        };
        let asked = [offer(), rcpt("<nobody@example.org>")].concat();
        daemon.connect().exchange(&asked, &[offered(), packet].concat());
    }
}

#[test]
fn missing_or_doubtful_list_makes_no_recipient_unknown() {
    let failed = "4.3.0 Temporary lookup failure";
    for murder in [false, true] {
        let site = Site::new();
        if murder {
            // Without a slave that could confirm a miss.
            site.imapd_conf("mupdate_server: mupdate.example.org\n");
        }
        let daemon = Daemon::start(&site);
        let text = match murder {
            true => MOVING,
            false => {
                fs::remove_file(site.path("mailboxes.db")).unwrap();
                failed
            }
        };
        let action = format!("action=DEFER_IF_PERMIT {text}\n\n");
        daemon.connect().exchange(&policy("nobody@example.org"), action.as_bytes());
        let packet = packet(b'y', format!("451 {text}\0").as_bytes());
        let asked = [offer(), rcpt("<nobody@example.org>")].concat();
        daemon.connect().exchange(&asked, &[offered(), packet].concat());
        let mut line = daemon.connect();
        line.0.write_all(b"get nobody@example.org\n").unwrap();
        line.0.shutdown(Shutdown::Write).unwrap();
        let said = line.rest();
        assert!(said.starts_with("400 ") || said.starts_with("200 retry:4.3.0"), "{said}");
    }
}

#[test]
fn unconfirmed_miss_does_not_delay_known_recipients() {
    let site = Site::new();
    site.imapd_conf("mupdate_server: mupdate.example.org\n");
    fs::create_dir(site.path("socket")).unwrap();
    let _silent = UnixListener::bind(site.path("socket/mupdate.target")).unwrap();
    let daemon = Daemon::start(&site);
    let mut stranger = daemon.connect();
    stranger.0.write_all(&policy("nobody@example.org")).unwrap();
    for _ in 0..50 {
        daemon.connect().exchange(&policy("jane@example.org"), b"action=DUNNO\n\n");
    }
    stranger.exchange(b"", b"action=DEFER_IF_PERMIT 4.3.0 ");
}

#[test]
fn garbage_ends_its_session_only() {
    let site = Site::new();
    let daemon = Daemon::start(&site);
    let mut good = daemon.connect();
    for (garbage, said) in [
        (&b"GET / HTTP/1.0\r\n\r\n"[..], "TEMP protocol error: byte 0x0d in a line\n"),
        (b"request=junk\n\n", ""),
        (b"recipient=nobody@example.org\n\n", ""),
        (b"\0\0\0\x15R<nobody@example.org>\0", ""),
        (b"\0\xff\xff\xffO", ""),
    ] {
        let mut bad = daemon.connect();
        bad.0.write_all(garbage).unwrap();
        assert_eq!(bad.rest(), said.as_bytes().escape_ascii().to_string());
        good.exchange(&policy("nobody@example.org"), b"action=550 5.1.1 User unknown\n\n");
    }
}

#[test]
fn reload_changes_the_protocols_of_a_listener() {
    let site = Site::new();
    let limited = |protocols: &str| {
        let socket = site.path("limited");
        site.config(&format!(
            "domains = [\"example.org\"]\n[[listen]]\nendpoint = \"unix:{}\"\nprotocols = {protocols}\n",
            socket.display()
        ));
    };
    limited("[\"policy\", \"milter\"]");
    let daemon = Daemon::start_as_configured(&site, site.path("limited"));
    daemon.connect().exchange(&policy("nobody@example.org"), b"action=550 5.1.1 User unknown\n\n");
    daemon.connect().exchange(&offer(), &offered());
    let refused = "TEMP this socket does not speak socketmap";
    assert_eq!(daemon.ask("lmtp", "jane@example.org"), refused);
    let mut line = daemon.connect();
    line.exchange(b"host jane@example.org\n", b"TEMP this socket does not speak line\n");
    let mut early: Client = daemon.connect();
    early.exchange(&policy("jane@example.org"), b"action=DUNNO\n\n");

    limited("[\"socketmap\"]");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("answering at");
    assert_eq!(daemon.ask("host", "jane@example.org"), "OK be1.example.org");
    early.exchange(&policy("jane@example.org"), b"action=DUNNO\n\n");
    let mut late = daemon.connect();
    late.0.write_all(&policy("nobody@example.org")).unwrap();
    assert_eq!(late.rest(), "");

    // An invalid value changes nothing.
    for (wrong, why) in [
        ("[]", "at least one"),
        ("[\"smtp\"]", "unknown protocol"),
        ("[\"line\", \"line\"]", "twice"),
    ] {
        limited(wrong);
        daemon.signal(Signal::SIGHUP);
        let told = daemon.wait_for("configuration not reloaded");
        assert!(told.contains(why), "{told}");
        assert_eq!(daemon.ask("host", "jane@example.org"), "OK be1.example.org");
    }
}

#[test]
fn commands_use_the_socket_of_their_protocol() {
    let site = Site::new();
    let [first, second] = ["first", "second"].map(|name| site.path(name));
    site.config(&format!(
        "domains = [\"example.org\"]\n\
         [[listen]]\nendpoint = \"unix:{}\"\nprotocols = [\"milter\", \"policy\"]\n\
         [[listen]]\nendpoint = \"unix:{}\"\nprotocols = [\"socketmap\"]\n",
        first.display(),
        second.display()
    ));
    let output = site.run("check", &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("first mode 0666 for policy, milter only\n"), "{told}");
    assert!(told.contains("second mode 0666 for socketmap only\n"), "{told}");
    let daemon = Daemon::start_as_configured(&site, first);
    daemon.connect().exchange(&policy("jane@example.org"), b"action=DUNNO\n\n");
    let output = site.run("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["counters"]["deliver"], 1, "{status}");
}

#[test]
fn internationalised_domain_is_served_in_both_forms() {
    let site = Site::new();
    let list = "xn--mnchen-3ya.example!user.uwe\t1 be1.example.org!default uwe\tlrswipkxtecda\t\n";
    fs::write(site.path("mailboxes.db"), list).unwrap();
    let release = "cyrus-release = \"3.4\"\n";
    let [u_labels, a_labels] = ["m\u{fc}nchen.example", "xn--mnchen-3ya.example"];
    for configured in [u_labels, a_labels] {
        site.config(&format!("domains = [{configured:?}]\n{release}"));
        let daemon = Daemon::start(&site);
        let mut by_policy = daemon.connect();
        let mut by_milter = daemon.connect();
        let mut by_line = daemon.connect();
        by_milter.exchange(&offer(), &offered());
        for domain in [u_labels, a_labels, "M\u{dc}NCHEN.Example"] {
            let [known, unknown] = ["uwe", "nobody"].map(|local| format!("{local}@{domain}"));
            let backend = "lmtp:inet:be1.example.org:2003";
            assert_eq!(daemon.ask("lmtp", &known), format!("OK {backend}"), "{known}");
            assert_eq!(daemon.ask("lmtp", &unknown), format!("OK error:{UNKNOWN}"), "{unknown}");
            let sendmail = format!("OK lmtp:be1.example.org:2003!uwe@{a_labels}");
            assert_eq!(daemon.ask("sendmail", &known), sendmail);
            let canonical = match domain == a_labels {
                true => "NOTFOUND ".to_owned(),
                false => format!("OK uwe@{a_labels}"),
            };
            assert_eq!(daemon.ask("canonical", &known), canonical);
            by_policy.exchange(&policy(&known), b"action=DUNNO\n\n");
            by_policy.exchange(&policy(&unknown), format!("action=550 {UNKNOWN}\n\n").as_bytes());
            by_milter.exchange(&rcpt(&format!("<{known}>")), &packet(b'c', b""));
            let refused = packet(b'y', format!("550 {UNKNOWN}\0").as_bytes());
            by_milter.exchange(&rcpt(&format!("<{unknown}>")), &refused);
            by_line.exchange(
                format!("get {known}\n").as_bytes(),
                format!("200 {backend}\n").as_bytes(),
            );
        }
        assert_eq!(daemon.ask("lmtp", "uwe@munchen.example"), "NOTFOUND ");
    }
}
