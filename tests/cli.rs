//! The command line, a contract with scripts: options, output and exit status.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{LIST, Site, run};
use serde_json::{Value, json};

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/mailboxes").join(name)
}

#[test]
fn lookup_prints_json_members_that_scripts_rely_on() {
    let site = Site::new();
    let output = site.run("lookup", &["--json", "Jane+Work@example.org", "nobody@example.org"]);
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0],
        json!({
            "recipient": "Jane+Work@example.org",
            "outcome": "deliver",
            "mailbox": "user.jane",
            "server": "be1.example.org",
            "partition": "default",
            "answer": "OK lmtp:inet:be1.example.org:2003",
            "reason": "user.jane is on be1.example.org",
        })
    );
    assert_eq!(
        lines[1],
        json!({
            "recipient": "nobody@example.org",
            "outcome": "unknown",
            "mailbox": "user.nobody",
            "server": null,
            "partition": null,
            "answer": "OK error:5.1.1 User unknown",
            "reason": "no such mailbox",
        })
    );
    assert_eq!(lines.len(), 2);
}

#[test]
fn outcomes_and_exit_status_suit_scripts() {
    let site = Site::new();
    for (recipients, outcome, status) in [
        (&["jane@example.org"][..], "deliver", 0),
        (&["nobody@example.org"], "unknown", 1),
        (&["+board@example.org"], "refused", 1),
        (&["jane@elsewhere.example"], "foreign", 1),
        (&["*"], "foreign", 1),
        (&["carol@example.org"], "deferred", 75),
        (&["carol@example.org", "nobody@example.org"], "deferred", 75),
    ] {
        let mut arguments = vec!["--json"];
        arguments.extend(recipients);
        let output = site.run("lookup", &arguments);
        assert_eq!(output.status.code(), Some(status), "{recipients:?}");
        let first: Value = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
        assert_eq!(first["outcome"], outcome, "{recipients:?}");
    }
}

#[test]
fn options_suffice_and_override_the_file() {
    let site = Site::new();
    let imapd_conf = site.path("imapd.conf");
    let output = run(&[
        "lookup",
        "--imapd-conf",
        imapd_conf.to_str().unwrap(),
        "--domain",
        "example.org",
        "--map",
        "host",
        "--json",
        "jane@example.org",
    ]);
    assert!(stdout(&output).contains("\"answer\":\"OK be1.example.org\""), "{output:?}");
    let output = run(&["lookup", "--mailboxes-db", LIST, "--domain", "*", "jane@wherever.example"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = site.run("lookup", &["--domain", "example.net", "jane@example.org"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("foreign"), "{output:?}");
}

#[test]
fn recipients_are_read_from_standard_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_murder-route"))
        .args(["lookup", "--mailboxes-db", LIST, "--domain", "*", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"jane@example.org\r\ndave@example.org").unwrap();
    let output = child.wait_with_output().unwrap();
    let outcomes: Vec<String> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["mailbox"].to_string())
        .collect();
    assert_eq!(outcomes, ["\"user.jane\"", "\"user.dave\""]);
}

#[test]
fn explain_shows_each_step() {
    let site = Site::new();
    let text = stdout(&site.run("lookup", &["--explain", "jane+Work@Example.org"]));
    for step in ["address:", "rule:", "record: user.jane: active on be1.example.org", "decision:"] {
        assert!(text.contains(step), "{step}: {text}");
    }
}

#[test]
fn usage_and_configuration_errors_have_own_exit_status() {
    let site = Site::new();
    assert_eq!(run(&["lookup"]).status.code(), Some(64));
    assert_eq!(run(&["nonsense"]).status.code(), Some(64));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(
        site.run("lookup", &["--map", "nosuch", "jane@example.org"]).status.code(),
        Some(64)
    );
    let missing = run(&["lookup", "--config", "/nonexistent.toml", "jane@example.org"]);
    assert_eq!(missing.status.code(), Some(78));
    for (config, told) in [
        ("domain = [\"example.org\"]\n", &["line 3", "unknown field `domain`"][..]),
        ("domains = [\"exa mple\"]\n", &["line 3", "not a mail domain"]),
        ("domains = []\n[backends]\nport = 0\n", &["line 5", "a port number from 1 to 65535"]),
        ("domains = []\n[maps.own]\ndeliver = \"OK {hots}\"\n", &["line 5", "{hots}", "{host}"]),
        (
            "domains = []\n[[listen]]\nendpoint = \"unix:s\"\nmode = \"0888\"\n",
            &["line 6", "octal"],
        ),
    ] {
        site.config(config);
        for subcommand in ["lookup", "check", "serve", "dump"] {
            let recipient: &[&str] =
                if subcommand == "lookup" { &["jane@example.org"] } else { &[] };
            let output = site.run(subcommand, recipient);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{subcommand} {config:?}: {said}");
            assert!(told.iter().all(|text| said.contains(text)), "{config:?}: {said}");
            assert!(said.contains("column"), "{said}");
        }
    }
}

#[test]
fn dump_prints_lists_of_every_engine_and_generation() {
    for generation in ["legacy-keys", "current-keys"] {
        let expected = fs::read(data(&format!("{generation}/expected.json"))).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let mut wanted: Vec<(String, String, Value)> = Vec::new();
        for record in expected["records"].as_array().unwrap() {
            let text = |name: &str| record[name].as_str().unwrap();
            let folders = record["folders"].as_array().unwrap().iter();
            let component = |text: &str| text.replace('.', "^");
            let mut name = match text("domain") {
                "" => "user.".to_owned(),
                domain => format!("{domain}!user."),
            };
            name += &component(text("user"));
            for folder in folders {
                name = format!("{name}.{}", component(folder.as_str().unwrap()));
            }
            wanted.push((name, text("state").to_owned(), record["server"].clone()));
        }
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        for file in [
            "twoskip.db",
            "twoskip-killed.db",
            "twom.db",
            "twom-killed.db",
            "skiplist.db",
            "skiplist-killed.db",
            "flat.db",
        ] {
            let path = data(&format!("{generation}/{file}"));
            let output = run(&["dump", "--json", "--mailboxes-db", path.to_str().unwrap()]);
            let mut found: Vec<(String, String, Value)> = stdout(&output)
                .lines()
                .map(|line| {
                    let object: Value = serde_json::from_str(line).unwrap();
                    assert_eq!(object.as_object().unwrap().len(), 4, "{object}");
                    assert_eq!(object["partition"], "default");
                    let text = |name: &str| object[name].as_str().unwrap().to_owned();
                    (text("mailbox"), text("state"), object["server"].clone())
                })
                .collect();
            found.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(found, wanted, "{generation}/{file}");
            assert_eq!(output.status.code(), Some(0));
        }
    }
}

#[test]
fn verify_accepts_sound_files_and_locates_damage() {
    for file in ["twoskip.db", "twom.db", "skiplist.db", "flat.db"] {
        let path = data(&format!("current-keys/{file}"));
        let output = run(&["verify", "--mailboxes-db", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{file}: {}", stdout(&output));
        let text = stdout(&output);
        assert!(text.contains(file.strip_suffix(".db").unwrap()) && text.contains("120"), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("mailboxes.db");
    let mut bytes = fs::read(data("current-keys/twoskip.db")).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x40;
    fs::write(&broken, bytes).unwrap();
    let output = run(&["verify", "--mailboxes-db", broken.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(65));
    assert!(stdout(&output).contains("offset"), "{}", stdout(&output));
    // Also with the file as an argument; the default is the list of the configuration.
    let output = run(&["verify", broken.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(65));
    let site = Site::new();
    let output = site.run("verify", &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains("mailboxes.db"));
    for missing in [&["verify", "/nonexistent"][..], &["verify", "--mailboxes-db", "/nonexistent"]]
    {
        let output = run(missing);
        assert_eq!(output.status.code(), Some(65));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("/nonexistent: cannot be read: No such file"), "{said}");
        assert!(!stdout(&output).contains("offset"));
    }
    site.config(
        "source = \"find\"\n[mupdate]\nservers = [\"mu\"]\nauthname = \"a\"\n\
                 password-file = \"password\"\n",
    );
    site.password();
    assert_eq!(site.run("verify", &[]).status.code(), Some(64));
}

#[test]
fn check_explains_configuration_and_warns_of_dangers() {
    let site = Site::new();
    let text = stdout(&site.run("check", &[]));
    for said in ["twoskip", "10 records", "example.net, example.org", "lmtp, recipient, host"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("warning:"), "{text}");

    site.config("[[listen]]\nendpoint = \"unix:open/socket\"\n");
    fs::create_dir(site.path("open")).unwrap();
    let chmod = Command::new("chmod").arg("0777").arg(site.path("open")).status().unwrap();
    assert!(chmod.success());
    fs::write(site.path("mailboxes.db"), "").unwrap();
    site.imapd_conf("mupdate_server: mupdate.example.org\n");
    let text = stdout(&site.run("check", &[]));
    for warned in [
        "warning: no `domains`",
        "; all recipients are deferred",
        "; unknown recipients are deferred",
        "world-writable",
    ] {
        assert!(text.contains(warned), "{warned}: {text}");
    }
}

#[test]
fn unconfirmed_miss_is_deferred_unless_list_is_complete() {
    let site = Site::new();
    let lookup = |list: &str, more: &[&str]| {
        let mut arguments = vec!["lookup", "--config", "/dev/null", "--mailboxes-db", list];
        arguments.extend(["--domain", "*", "--json"].iter().chain(more));
        arguments.push("nobody@example.org");
        let output = run(&arguments);
        let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
        (answer["outcome"].as_str().unwrap().to_owned(), answer["reason"].to_string())
    };
    let check = |list: &str, more: &[&str]| {
        let arguments = ["check", "--config", "/dev/null", "--mailboxes-db", list, "--domain", "*"];
        stdout(&run(&[&arguments[..], more].concat()))
    };
    let (outcome, reason) = lookup(LIST, &[]);
    assert_eq!(outcome, "deferred", "{reason}");
    for told in [LIST, "be1.example.org", "mupdate_server", "misses"] {
        assert!(reason.contains(told), "{told}: {reason}");
    }
    let text = check(LIST, &[]);
    assert!(text.contains("; unknown recipients are deferred"), "{text}");

    assert_eq!(lookup(LIST, &["--misses", "final"]).0, "unknown");
    let text = check(LIST, &["--misses", "final"]);
    assert!(!text.contains("; unknown recipients are deferred"), "{text}");

    // A single server, whose records name no server.
    let single = site.path("single.db");
    fs::write(&single, "user.jane\t0 default jane\tlrswipkxtecda\t\n").unwrap();
    let single = single.to_str().unwrap();
    assert_eq!(lookup(single, &[]).0, "unknown");
    let text = check(single, &[]);
    assert!(!text.contains("; unknown recipients are deferred"), "{text}");
    assert_eq!(run(&["lookup", "--misses", "never", "a@b"]).status.code(), Some(64));
}

#[test]
fn autocreated_user_goes_to_backend_or_fallback_or_waits() {
    let site = Site::new();
    site.imapd_conf("autocreate_post: yes\nautocreate_quota: 0\nadmins: cyrus\n");
    let domains = "domains = [\"example.org\", \"example.net\"]\n";
    let warning = "warning: imapd.conf sets `autocreate_post`";
    let deferred = "OK retry:4.3.0 Mailbox is temporarily unavailable";
    for (more, answer, warned) in [
        ("", deferred, true),
        ("fallback = \"lmtp:unix:/run/old\"\n", "OK lmtp:unix:/run/old", false),
        ("[backends]\nautocreate = \"be2:24\"\n", "OK lmtp:inet:be2:24", false),
    ] {
        site.config(&format!("{domains}{more}"));
        for recipient in ["newone@example.org", "berta+Work@example.org", "carl.x@example.net"] {
            assert_eq!(site.lookup(recipient)["answer"], answer, "{more}: {recipient}");
        }
        assert_eq!(site.lookup("jane@example.org")["server"], "be1.example.org");
        assert_eq!(stdout(&site.run("check", &[])).contains(warning), warned, "{more}");
        for recipient in ["+nothing@example.org", "anonymous@example.org", "cyrus@example.org"] {
            assert_eq!(site.lookup(recipient)["outcome"], "unknown", "{more}: {recipient}");
        }
    }
    // Its default quota of -1 turns it off.
    site.config(domains);
    site.imapd_conf("autocreate_post: yes\n");
    assert_eq!(site.lookup("newone@example.org")["outcome"], "unknown");
    assert!(!stdout(&site.run("check", &[])).contains(warning));
    site.config("domains = []\n[backends]\nautocreate = \"unix:/run/lmtp\"\n");
    let output = site.run("check", &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 5"), "{output:?}");
}

#[test]
fn blocked_user_is_deferred() {
    let site = Site::new();
    fs::write(site.path("user_deny.db"), "eve@example.net\t2\timap\t\njane\t2\t*\t\n").unwrap();
    for (recipient, outcome) in [
        ("jane+Work@example.org", "deferred"),
        ("eve@example.net", "deliver"),
        ("nobody@example.org", "unknown"),
    ] {
        let answer = site.lookup(recipient);
        assert_eq!(answer["outcome"], outcome, "{answer}");
        assert_eq!(answer["reason"].to_string().contains("cyr_deny"), outcome == "deferred");
    }
    let text = stdout(&site.run("check", &[]));
    assert!(text.contains("user_deny.db: 2 users blocked from some service"), "{text}");
    // Another service than the default.
    site.config("domains = [\"example.net\"]\nservices = [\"imap\"]\n");
    assert_eq!(site.lookup("eve@example.net")["outcome"], "deferred");
    fs::remove_file(site.path("user_deny.db")).unwrap();
    assert_eq!(site.lookup("eve@example.net")["outcome"], "deliver");
    assert!(!stdout(&site.run("check", &[])).contains("user_deny.db"));
    // A file that cannot be read blocks no user, as in lmtpd, and a warning reports it.
    fs::create_dir(site.path("user_deny.db")).unwrap();
    assert_eq!(site.lookup("eve@example.net")["outcome"], "deliver");
    let text = stdout(&site.run("check", &[]));
    assert!(text.contains("warning: ") && text.contains("user_deny.db: "), "{text}");
}

#[test]
fn missing_imapd_conf_is_warned_of_by_every_command() {
    let site = Site::new();
    let config = site.path("bare.toml");
    fs::write(&config, format!("mailboxes-db = {LIST:?}\ndomains = [\"example.org\"]\n")).unwrap();
    let text = stdout(&run(&["check", "--config", config.to_str().unwrap()]));
    assert!(text.contains("warning: no imapd.conf"), "{text}");
    let output = run(&["lookup", "--config", config.to_str().unwrap(), "jane@example.org"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no imapd.conf") && output.status.code() == Some(0), "{output:?}");
}

#[test]
fn check_warns_of_a_socket_that_cannot_be_created() {
    let site = Site::new();
    let file = site.path("socket");
    for (more, says) in [
        ("group = \"no such group\"\n", "there is no group"),
        ("owner = \"no such user\"\n", "there is no user"),
    ] {
        let socket = format!("[[listen]]\nendpoint = \"unix:{}\"\n{more}", file.display());
        site.config(&socket);
        let output = site.run("check", &[]);
        assert!(stdout(&output).contains(says), "{output:?}");
        assert_eq!(output.status.code(), Some(78), "{output:?}");
    }
}

#[test]
fn check_fails_without_domains_or_login() {
    let site = Site::new();
    site.config("domains = []\n");
    let output = site.run("check", &[]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(stdout(&output).contains("warning: no `domains`"));
    let master = common::master::Master::start(&[]);
    for (password, code) in [("geheim", 0), ("wrong", 77)] {
        site.config("domains = [\"example.org\"]\n[mupdate]\nallow-plaintext = true\n");
        let conf = master.imapd_conf().replace("geheim", password);
        site.imapd_conf(&conf);
        let output = site.run("check", &[]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
    assert_eq!(master.sessions(), 2, "one for each check");
    // A master that is down is not an error of the configuration.
    let conf = master.imapd_conf();
    drop(master);
    site.imapd_conf(&conf);
    assert_eq!(site.run("check", &[]).status.code(), Some(0));
}

#[test]
fn frequent_mistakes_get_a_hint() {
    let site = Site::new();
    for (config, says) in [
        ("[listen]\nendpoint = \"unix:/run/x\"\n", "double brackets, as [[listen]]"),
        ("[[backends]]\nport = 24\n", "a single table; write it as [backends]"),
        ("[[listen]]\nendpoint = \"unix:x\"\nmode = 0666\n", "in quotes, as in mode = \"0666\""),
        ("[[listen]]\nendpoint = \"unix:x\"\nmode = 666\n", "in octal and in quotes"),
        ("[[listen]]\nendpoint = \"unix:/run/x:lmtp\"\n", "the map does not belong here"),
        ("imapd-conf = 1\n", "text in quotes"),
    ] {
        // Before the tables: a key after a table would belong to it.
        let text = format!("{config}domains = [\"example.org\"]\n");
        let text = if config.starts_with('[') { config } else { &text };
        fs::write(site.path("murder-route.toml"), text).unwrap();
        let output = site.run("check", &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(says) && said.contains("line "), "{config}: {said}");
        assert_eq!(output.status.code(), Some(78));
    }
    let output = site.run("lookup", &["o'brien@elsewhere.example"]);
    site.config("domains = [\"example.org\"]\n");
    assert_eq!(output.status.code(), Some(78));
    let said = stdout(&site.run("lookup", &["o'brien@elsewhere.example"]));
    assert!(said.starts_with("o'brien@elsewhere.example: foreign"), "{said}");
    let said = stdout(&site.run("lookup", &["jane"]));
    assert!(said.contains("asks for the whole address, as jane@example.org"), "{said}");
    site.config("domains = [\"example.org\"]\n[[listen]]\nendpoint = \"inet:0.0.0.0:10028\"\n");
    let said = stdout(&site.run("check", &[]));
    assert!(said.contains("any host that reaches this port can ask"), "{said}");
    site.config("domains = [\"example.org\"]\n[[listen]]\nendpoint = \"inet:127.0.0.1:10028\"\n");
    assert!(!stdout(&site.run("check", &[])).contains("any host that reaches"));
}

#[test]
fn status_detects_another_program_at_the_port() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("inet:{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"220 mx.example.org ESMTP\r\n");
        }
    });
    let output = run(&["status", "--config", "/dev/null", "--listen", &endpoint]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("does not speak socketmap"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn check_warns_of_servers_in_no_list() {
    let site = Site::new();
    for (servers, warned) in [
        ("\"BE1.example.org\" = { drain = true }\n", None),
        (
            "\"be77.example.org\" = { drain = true }\n",
            Some("[backends.servers] be77.example.org: no mailbox"),
        ),
        ("be2 = { address = \"127.0.0.2\" }\n", Some("use the name `be2.example.org`")),
        ("\"be1.example.org:2004\" = { drain = true }\n", Some("use the name `be1.example.org`")),
    ] {
        site.config(&format!("domains = [\"example.org\"]\n[backends.servers]\n{servers}"));
        let text = stdout(&site.run("check", &[]));
        match warned {
            Some(warned) => assert!(text.contains(warned), "{servers}: {text}"),
            None => assert!(!text.contains("warning:"), "{servers}: {text}"),
        }
    }
    // The contents of an unreadable list are unknown.
    fs::remove_file(site.path("mailboxes.db")).unwrap();
    let text = stdout(&site.run("check", &[]));
    assert!(!text.contains("warning: [backends.servers]"), "{text}");
}

#[test]
fn check_warns_of_names_by_rules_of_another_release() {
    for (list, release, warns) in [
        ("legacy-keys/twoskip.db", "", true),
        ("legacy-keys/twoskip.db", "cyrus-release = \"2.4\"\n", false),
        ("current-keys/twoskip.db", "", false),
    ] {
        let site = Site::new();
        let config = site.path("release.toml");
        fs::write(&config, format!("mailboxes-db = {:?}\n{release}", data(list))).unwrap();
        let text = stdout(&run(&["check", "--config", config.to_str().unwrap()]));
        assert_eq!(text.contains("set `cyrus-release`"), warns, "{list} {release}: {text}");
    }
}

#[test]
fn reader_that_closes_early_is_not_an_error() {
    let file = data("current-keys/twoskip.db");
    let check = ["check", "--domain", "example.org", "--mailboxes-db"];
    for arguments in [&["verify", "--mailboxes-db"][..], &check] {
        let (ours, theirs) = std::io::pipe().unwrap();
        drop(ours);
        let output = Command::new(env!("CARGO_BIN_EXE_murder-route"))
            .args(arguments)
            .arg(&file)
            .stdout(theirs)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

/// Without a `postconf` on the path.
fn postfix_config(site: &Site, arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_murder-route"))
        .args(["postfix-config", "--config"])
        .arg(site.path("murder-route.toml"))
        .args(arguments)
        .env("PATH", site.path("bin"))
        .output()
        .unwrap()
}

#[test]
fn postfix_config_prints_the_pieces_for_this_configuration() {
    let site = Site::new();
    site.config("domains = [\"example.net\", \"example.org\"]\n[backends]\ntransport = \"far\"\n");
    // Our own file suffices: the administrator of Postfix may be unable to read Cyrus'.
    fs::remove_file(site.path("imapd.conf")).unwrap();
    let output = postfix_config(&site, &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for line in [
        "relay_domains = example.net, example.org\n",
        "transport_maps = socketmap:unix:/run/murder-route:lmtp\n",
        "far_destination_concurrency_limit = 20\n",
        "relay_recipient_maps = socketmap:unix:/run/murder-route:rcpt\n",
        "smtputf8_enable = no\n",
        "far       unix  -       -       n       -       -       lmtp\n",
        "/^5\\.1\\.1 (.*)/   4.1.1 ${1}\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("warning: ") && said.contains("--chroot"), "{said}");
    // imapd.conf might have capital letters.
    assert!(said.contains("canonical form of all recipients"), "{said}");
    assert!(text.contains("recipient_canonical_maps = socketmap:unix:"), "{text}");

    // The pieces together are the complete output, and each can be printed alone.
    let pieces: Vec<String> = ["main.cf", "master.cf", "murder-route-status"]
        .map(|piece| stdout(&postfix_config(&site, &["--chroot", "none", piece])))
        .into();
    assert_eq!(pieces.join("\n"), text);
    let smtpd = postfix_config(&site, &["--chroot", "none", "smtpd"]);
    assert_eq!(stdout(&smtpd), "smtp/inet/rewrite_service_name=smtpd-rewrite\n");
    let toml = postfix_config(&site, &["--chroot", "none", "murder-route.toml"]);
    assert_eq!((stdout(&toml).as_str(), toml.status.code()), ("", Some(0)));
    assert!(toml.stderr.is_empty(), "{toml:?}");
}

#[test]
fn postfix_config_omits_canonical_filter_with_capitals() {
    let site = Site::new();
    site.config("domains = [\"example.org\"]\n");
    let piece = |name| postfix_config(&site, &["--chroot", "none", name]);
    let own = fs::read_to_string(site.path("imapd.conf")).unwrap();
    for (conf, held_back) in [
        ("", true),
        ("virtdomains: userid\ndefaultdomain: example.org\n", true),
        ("virtdomains: userid\ndefaultdomain: Example.org\n", false),
        ("lmtp_catchall_mailbox: jane@Example.org\n", false),
    ] {
        fs::write(site.path("imapd.conf"), format!("{own}{conf}")).unwrap();
        let (main_cf, filter) = (piece("main.cf"), piece("murder-route-canonical"));
        assert!(main_cf.stderr.is_empty() && filter.stderr.is_empty(), "{main_cf:?} {filter:?}");
        let (main_cf, filter) = (stdout(&main_cf), stdout(&filter));
        let case = format!("{conf}: {main_cf}{filter}");
        assert_eq!(main_cf.contains("= pipemap:{regexp:"), held_back, "{case}");
        assert_eq!(filter.contains("\nif !/^["), held_back, "{case}");
    }
}

#[test]
fn postfix_config_asks_postconf_whether_postfix_is_chrooted() {
    let site = Site::new();
    fs::create_dir(site.path("bin")).unwrap();
    let postconf = site.path("bin/postconf");
    let services = "cleanup unix n - y - 0 cleanup";
    let script = format!(
        "#!/bin/sh\ncase $1 in\n-M) echo '{services}' ;;\n*) echo queue_directory = /queue ;;\nesac\n"
    );
    fs::write(&postconf, script).unwrap();
    fs::set_permissions(&postconf, fs::Permissions::from_mode(0o755)).unwrap();
    let text = stdout(&postfix_config(&site, &[]));
    assert!(text.contains("= proxy:socketmap:unix:/run/murder-route:lmtp\n"), "{text}");
    let text = stdout(&postfix_config(&site, &["--verify", "policy"]));
    assert!(text.contains("= check_policy_service unix:murder-route/socket\n"), "{text}");
    assert!(text.contains("endpoint = \"unix:/queue/murder-route/socket\"\n"), "{text}");
}

/// Settings that Postfix would read from the output.
fn settings(output: &std::process::Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(output);
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Confusing two options would delay messages or reveal passwords.
#[test]
fn postfix_config_options_act_independently() {
    let site = Site::new();
    site.config("domains = [\"example.org\"]\n[backends]\ntransport = \"far\"\n");
    let ways = [
        (&["--sasl"][..], "-o lmtp_sasl_auth_enable=yes\n"),
        (&["--tls"], "-o lmtp_tls_security_level=secure\n"),
        (&["--verify", "recipients"], "\nrelay_recipient_maps = "),
        (&["--verify", "policy"], "\nsmtpd_recipient_restrictions = check_policy_service "),
        (&["--verify", "milter"], "\nsmtpd_milters = "),
        (
            &["--chroot", "proxy"],
            "\ntransport_maps = proxy:socketmap:unix:/run/murder-route:lmtp\n",
        ),
        (&["--chroot", "socket"], "\ntransport_maps = socketmap:unix:murder-route/socket:lmtp\n"),
        (&["--domain", "example.net", "--domain", "a.example"], "= a.example, example.net\n"),
    ];
    let plain = settings(&postfix_config(&site, &["--verify", "transport", "--chroot", "none"]));
    let usual = settings(&postfix_config(&site, &["--chroot", "none"]));
    assert_eq!(usual, settings(&postfix_config(&site, &["--verify", "recipients"])));
    assert!(plain.contains("relay_domains = example.org\n"), "{plain}");
    assert!(
        plain.contains("\ntransport_maps = socketmap:unix:/run/murder-route:lmtp\n"),
        "{plain}"
    );
    for (arguments, does) in ways {
        // Recipients are verified by default.
        let verify = if arguments[0] == "--verify" { &[][..] } else { &["--verify", "transport"] };
        let text = settings(&postfix_config(&site, &[arguments, verify].concat()));
        assert!(text.contains(does) && !plain.contains(does), "{arguments:?}: {text}");
        for (other, does) in ways.iter().filter(|(other, _)| *other != arguments) {
            assert!(!text.contains(does), "{arguments:?} does what {other:?} is for: {text}");
        }
    }
    // A given domain replaces those of the configuration.
    assert!(!settings(&postfix_config(&site, &["--domain", "a.example"])).contains("example.org"));
}

/// Debian's own `lmtp` is chrooted, and the Murder's transport makes refusals of lmtpproxyd temporary.
#[test]
fn postfix_config_warns_of_a_fallback_that_shares_its_transport() {
    let site = Site::new();
    for (fallback, arguments, warned) in [
        ("fallback:unix:/run/s", &[][..], false),
        ("lmtp:unix:/run/s", &[], true),
        ("far:unix:/run/s", &[], true),
        ("fallback:unix:/run/s", &["--verify", "transport"], true),
    ] {
        site.config(&format!(
            "domains = [\"example.org\"]\nfallback = \"{fallback}\"\n[backends]\ntransport = \"far\"\n"
        ));
        let output = postfix_config(&site, &[&["--chroot", "none"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("`fallback`"), warned, "{fallback}, {arguments:?}: {said}");
        assert!(settings(&output).contains("reject_unverified_recipient"), "{fallback}");
    }
}

#[test]
fn postfix_config_assumes_defaults_where_postconf_fails() {
    let site = Site::new();
    site.config("domains = [\"example.org\"]\n");
    fs::create_dir(site.path("bin")).unwrap();
    fs::write(site.path("bin/postconf"), "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(site.path("bin/postconf"), fs::Permissions::from_mode(0o755)).unwrap();
    for (arguments, warns) in [(&[][..], true), (&["--chroot", "none"], false)] {
        let output = postfix_config(&site, arguments);
        let text = settings(&output);
        assert!(
            text.contains("\ntransport_maps = socketmap:unix:/run/murder-route:lmtp\n"),
            "{text}"
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("without a chroot") && said.contains(": 3"), warns, "{said}");
    }
}

#[test]
fn postfix_config_warns_if_unknown_recipients_are_accepted() {
    let site = Site::new();
    site.config("domains = [\"example.org\"]\nunknown = \"notfound\"\n");
    for (verify, warns) in [("transport", true), ("policy", true), ("recipients", false)] {
        let output = postfix_config(&site, &["--chroot", "none", "--verify", verify]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.contains("--verify recipients"), warns, "{verify}: {said}");
        assert_eq!(output.status.code(), Some(0), "{verify}: {said}");
    }
}

#[test]
fn postfix_config_prints_nothing_on_error() {
    let site = Site::new();
    for (configuration, arguments, status, told) in [
        ("domains = []\n", &[][..], 78, "--domain"),
        ("domains = [\"*\"]\n", &[], 78, "--domain"),
        ("domain = []\n", &[], 78, "domain"),
        ("", &["--domain", "a b"], 78, "--domain"),
        ("", &["--domain", "example.org", "--verify", "vrfy"], 64, "vrfy"),
        ("", &["--domain", "example.org", "virtual"], 64, "virtual"),
        (
            "domains = [\"example.org\"]\n",
            &["--chroot", "proxy", "--verify", "milter"],
            64,
            "--chroot socket",
        ),
        (
            "domains = [\"example.org\"]\n[[listen]]\nendpoint = \"unix:/run/x\"\nprotocols = [\"line\"]\n",
            &["--chroot", "none"],
            78,
            "speaks socketmap",
        ),
    ] {
        site.config(configuration);
        let output = postfix_config(&site, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{configuration} {arguments:?}: {said}");
        assert!(said.contains(told), "{configuration} {arguments:?}: {said}");
        assert_eq!(stdout(&output), "", "{configuration} {arguments:?}");
    }
}

#[test]
fn demo_fits_80_columns_and_loses_no_message() {
    let output = run(&["demo", "--once"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let columns = |line: &str| line.chars().count();
    assert!(text.lines().all(|line| columns(line) <= 80), "{text}");
    let parts: Vec<&str> = text.split("\n\n").collect();
    let rows = |title: &str| {
        let part = parts.iter().find(|part| part.starts_with(title)).unwrap_or_else(|| {
            panic!("{title}: {text}");
        });
        let rows = part.lines().skip(1).filter(|line| !line.starts_with(' '));
        rows.map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let is = |row: &str, begins: &str, ends: &str| {
        assert!(row.starts_with(begins) && row.ends_with(ends), "{row}: {begins} {ends}");
    };
    let table = rows("RECIPIENT");
    assert_eq!(table.len(), 9, "{text}");
    is(&table[1], "Max.Muster@Example.ORG lmtp:inet:127.0.0.1:", "delivered to be2");
    is(&table[2], "jane+Work@example.org lmtp:inet:127.0.0.1:", "delivered to be1");
    is(&table[5], "+board@example.org error:5.7.1", "refused: 550 at RCPT");
    is(&table[6], "carol@example.org retry:4.3.0", "deferred: 450 at RCPT");
    is(&table[7], "nobody@example.org error:5.1.1 User unknown", "refused: 550 at RCPT");
    is(&table[8], "someone@elsewhere.example NOTFOUND", "not ours");
    let moved = rows("A mailbox moves");
    is(&moved[0], "Max.Muster@Example.ORG retry:4.3.0", "deferred: 450 at RCPT");
    is(&moved[1], "Max.Muster@Example.ORG lmtp:inet:", "delivered to be1");
    for title in ["The MUPDATE master dies", "The daemon is restarted"] {
        let rows = rows(title);
        is(&rows[0], "jane@example.org lmtp:inet:", "delivered to be1");
        is(&rows[1], "Max.Muster@Example.ORG lmtp:inet:", "delivered to be1");
        is(&rows[2], "nobody@example.org ", "deferred: 450 at RCPT");
    }
    is(&rows("The master is back")[0], "nobody@example.org error:5.1.1", "refused: 550 at RCPT");
}

#[test]
fn recipients_cannot_send_terminal_control_codes() {
    let site = Site::new();
    let output = site.run("lookup", &["\u{1b}[2J@example.org", "a\"\u{7}b@example.org"]);
    assert!(!output.stdout.contains(&0x1b) && !output.stdout.contains(&7), "{output:?}");
}

#[test]
fn shipped_configuration_is_valid() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/etc/murder-route.toml");
    let shipped = fs::read_to_string(shipped).unwrap();
    let shipped = shipped.replace("/etc/murder-route/password", "password");
    let site = Site::new();
    site.password();
    // It lacks only the domains of the site.
    let shipped = shipped.replace("domains = []", "domains = [\"example.org\"]");
    let everything: String = shipped
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| {
            line.strip_prefix('#').unwrap_or(line).replace("/etc/imapd.conf", "imapd.conf") + "\n"
        })
        .collect();
    for text in [shipped.replace("/etc/imapd.conf", "imapd.conf"), everything] {
        fs::write(site.path("murder-route.toml"), &text).unwrap();
        let output = site.run("check", &[]);
        assert_eq!(output.status.code(), Some(0), "{text}\n{output:?}");
    }
}

#[test]
fn list_of_cyrus_2_refuses_none_with_an_assumed_release() {
    let site = Site::new();
    let rows = [
        ("user.Jane", "1 be1.example.org!default Jane\u{ff}\u{89}lrs\u{ff}\u{89}"),
        ("user.jane doe", "1 be1.example.org!default jane doe\u{ff}\u{89}lrs\u{ff}\u{89}"),
        ("user.max.muster", "1 be2.example.org!default max\u{ff}\u{89}lrs\u{ff}\u{89}"),
    ];
    let list: Vec<u8> = rows
        .iter()
        .flat_map(|(key, value)| {
            let latin1 = value.chars().map(|c| c as u8);
            key.bytes().chain([b'\t']).chain(latin1).chain([b'\n']).collect::<Vec<u8>>()
        })
        .collect();
    fs::write(site.path("mailboxes.db"), list).unwrap();
    fs::write(site.path("imapd.conf"), format!("configdirectory: {}\n", site.dir.path().display()))
        .unwrap();
    for (recipient, mailbox) in [
        ("Jane@example.org", "user.Jane"),
        ("\"jane doe\"@example.org", "user.jane doe"),
        ("max.muster@example.org", "user.max.muster"),
    ] {
        let found = site.lookup(recipient);
        assert_eq!(found["outcome"], "deliver", "{found}");
        assert_eq!(found["mailbox"], mailbox);
    }
    assert_eq!(site.lookup("nobody@example.org")["outcome"], "unknown");
}

/// The configurations of the manual and of the README for a host without Cyrus.
#[test]
fn examples_for_a_host_without_cyrus_are_valid() {
    let read = |name: &str| {
        fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    };
    let manual = read("man/murder-route.toml.5");
    let (_, manual) = manual.split_once("On a host without Cyrus:\n").unwrap();
    let (_, manual) = manual.split_once(".Bd -literal -offset indent\n").unwrap();
    let (manual, _) = manual.split_once(".Ed").unwrap();
    let readme = read("README.md");
    let (_, readme) = readme.split_once("## On a host without Cyrus").unwrap();
    let (_, readme) = readme.split_once("```toml\n").unwrap();
    let (readme, _) = readme.split_once("```").unwrap();
    for example in [manual, readme] {
        let site = Site::new();
        fs::remove_file(site.path("mailboxes.db")).unwrap();
        site.password();
        let example = example.replace("/etc/murder-route/", "");
        fs::write(site.path("murder-route.toml"), example).unwrap();
        let replica = site.path("replica");
        let output = site.run("check", &["--replica", replica.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        for said in
            ["mupdate.example.org:3905", "TLS             required", "not there yet", "EXTERNAL"]
        {
            let there = stdout(&output).contains(said);
            assert_eq!(there, said != "EXTERNAL", "{said}: {}", stdout(&output));
        }
    }
}

#[test]
fn example_in_the_manual_is_valid() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/man/murder-route.toml.5");
    let manual = fs::read_to_string(manual).unwrap();
    let (_, examples) = manual.split_once(".Sh EXAMPLES").unwrap();
    let (_, example) = examples.split_once(".Bd -literal -offset indent\n").unwrap();
    let (example, _) = example.split_once(".Ed").unwrap();
    let site = Site::new();
    let example = example.replace("/etc/imapd.conf", "imapd.conf");
    fs::write(site.path("murder-route.toml"), example).unwrap();
    let output = site.run("check", &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    for said in ["be3.example.org: at inet:192.0.2.13:24 drained", "place", "fallback"] {
        assert!(text.contains(said), "{said}: {text}");
    }
}
