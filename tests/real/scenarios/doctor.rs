//! `murder-route doctor` on a sound deployment, and on that deployment with one fault at a time.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::left_out::left_out;
use crate::murder::MASTER;
use crate::router::{SOCKET, cyrus_release};
use crate::sandbox::{self, STATE};
use crate::world::World;
use crate::{Done, ensure, run};

/// The program in the root, since it runs postconf there.
const PROGRAM: &str = "/usr/sbin/murder-route";

/// Directory of the Postfix settings that the doctor reads; those of the running Postfix stay unchanged.
const POSTFIX: &str = "/etc/postfix-doctor";

/// Name of the fault, the settings to change, the expected check, and a text in its message.
type Broken = (&'static str, &'static str, &'static str, &'static [Edit]);

/// A change in main.cf or master.cf: a line to add, or a text to replace.
enum Edit {
    Main(&'static str),
    Master(&'static str, &'static str),
}

const BROKEN: [Broken; 17] = [
    (
        "a chroot without proxy",
        "socket/answer",
        "rewrite is chrooted",
        &[Edit::Master("rewrite unix - - n", "rewrite unix - - y")],
    ),
    (
        "a policy service outside of the chroot",
        "socket/answer",
        "is chrooted",
        &[
            Edit::Master("127.0.1.31:25 inet n - n", "127.0.1.31:25 inet n - y"),
            Edit::Main("transport_maps = proxy:socketmap:unix:/run/murder-route:lmtp"),
            Edit::Main(
                "recipient_canonical_maps = proxy:socketmap:unix:/run/murder-route:canonical",
            ),
            Edit::Main(
                "smtpd_recipient_restrictions = check_policy_service unix:/run/murder-route",
            ),
        ],
    ),
    (
        "no softening",
        "postfix/softening",
        "bounce",
        &[Edit::Master(
            "    -o lmtp_delivery_status_filter=regexp:/etc/postfix/backend_status\n",
            "",
        )],
    ),
    ("another delimiter", "postfix/delimiter", "`+`", &[Edit::Main("recipient_delimiter = -")]),
    (
        "a domain that is not relayed",
        "postfix/domains",
        "example.net",
        &[Edit::Main("relay_domains = example.org")],
    ),
    (
        "a domain of this host",
        "postfix/recipients",
        "static:no",
        &[
            Edit::Main("mydestination = example.net"),
            Edit::Main("local_recipient_maps = static:no"),
        ],
    ),
    (
        "a login at lmtpd -a",
        "backend/login",
        "pre-authorised",
        &[
            Edit::Main("lmtp_sasl_auth_enable = yes"),
            Edit::Main("lmtp_sasl_password_maps = static:cyrus:cyrus"),
        ],
    ),
    (
        "TLS at lmtpd -a",
        "backend/tls",
        "STARTTLS",
        &[Edit::Main("lmtp_tls_security_level = encrypt")],
    ),
    (
        "proxy in an override",
        "postfix/proxy",
        "not in proxy_read_maps",
        &[Edit::Master(
            " smtpd\n",
            " smtpd\n    -o relay_recipient_maps=proxy:socketmap:unix:/run/murder-route:recipient\n",
        )],
    ),
    (
        "a map that does not exist",
        "postfix/map",
        "no map `lmpt`",
        &[Edit::Main("transport_maps = socketmap:unix:/run/murder-route:lmpt")],
    ),
    (
        "a socketmap without its map",
        "postfix/table",
        "no message of this host moves",
        &[Edit::Main("transport_maps = socketmap:unix:/run/murder-route")],
    ),
    (
        "transport_maps not set",
        "postfix/route",
        "not to the backends",
        &[Edit::Main("transport_maps =")],
    ),
    (
        "a table that does not exist",
        "postfix/table",
        "cannot be asked",
        &[Edit::Main("transport_maps = hash:/etc/none, socketmap:unix:/run/murder-route:lmtp")],
    ),
    (
        "a status filter that does not exist",
        "postfix/softening",
        "cannot be asked",
        &[Edit::Master("=regexp:/etc/postfix/backend_status", "=pcre:/etc/none")],
    ),
    (
        "a milter in non_smtpd_milters",
        "postfix/milter",
        "bounces for all",
        &[Edit::Main("non_smtpd_milters = unix:/run/murder-route")],
    ),
    (
        "a socket without a listener",
        "socket/answer",
        "no such socket",
        &[Edit::Main("transport_maps = socketmap:unix:/run/murder-rout:lmtp")],
    ),
    (
        "unknown recipients accepted",
        "postfix/unlisted",
        "bounces",
        &[Edit::Main("smtpd_reject_unlisted_recipient = no")],
    ),
];

/// Makes each fault, one after the other.
pub fn finds_what_is_wrong(world: &mut World) -> Done {
    if !can_run()? {
        return Ok(());
    }
    settings(&[])?;
    let config = format!("{STATE}/murder-route.toml");
    let as_configured = ["--config", config.as_str()];
    sound(&as_configured)?;
    for (name, check, says, edits) in BROKEN {
        settings(edits)?;
        Findings::of(&["--no-master"])?.error(check, says).map_err(|e| format!("{name}: {e}"))?;
    }
    settings(&[])?;
    let config = by_config(world)?;
    let closed = closed_socket();
    let stopped = stopped_backend(world);
    let list = old_list(world);
    config.and(closed).and(stopped).and(list)?;
    // No fault is left.
    sound(&as_configured)
}

/// Installs the program in the root. Returns whether it runs there: it was built for this host, and an
/// older root has an older C library.
fn can_run() -> Done<bool> {
    install()?;
    let Err(e) = run(sandbox::command(PROGRAM).arg("--version")) else { return Ok(true) };
    ensure!(e.to_string().contains("GLIBC_"), "the program does not run in the root: {e}");
    let why = "the program needs a newer C library than this root has";
    println!("    not tested: {why}");
    left_out(&format!("the doctor in a root: {why}"));
    Ok(false)
}

fn install() -> Done {
    if !fs::exists(sandbox::in_root(POSTFIX))? {
        fs::create_dir(sandbox::in_root(POSTFIX))?;
        fs::write(sandbox::in_root(PROGRAM), "")?;
        let mut mount = Command::new("mount");
        let built = env!("CARGO_BIN_EXE_murder-route");
        run(mount.args(["--bind", built, &sandbox::in_root(PROGRAM)]))?;
    }
    Ok(())
}

/// Writes the Postfix settings of the run with these changes.
fn settings(edits: &[Edit]) -> Done {
    let read = |name: &str| fs::read_to_string(sandbox::in_root(&format!("/etc/postfix/{name}")));
    let (mut main, mut master) = (read("main.cf")?, read("master.cf")?);
    for edit in edits {
        match edit {
            // Of two lines for a parameter the last one counts.
            Edit::Main(line) => main += &format!("{line}\n"),
            Edit::Master(from, to) => {
                ensure!(master.contains(from), "master.cf has no {from:?}");
                master = master.replacen(from, to, 1);
            }
        }
    }
    for (name, text) in [("main.cf", main), ("master.cf", master)] {
        fs::write(sandbox::in_root(&format!("{POSTFIX}/{name}")), text)?;
    }
    Ok(())
}

/// Output of the doctor.
struct Findings {
    code: Option<i32>,
    all: Vec<Value>,
}

impl Findings {
    /// Runs the doctor with the configuration of the run and these options.
    fn of(options: &[&str]) -> Done<Self> {
        Self::with(&format!("{STATE}/murder-route.toml"), options)
    }

    fn with(config: &str, options: &[&str]) -> Done<Self> {
        Self::by(&[&["--config", config], options].concat())
    }

    fn by(options: &[&str]) -> Done<Self> {
        Self::as_installed(&[&["--postfix-config", POSTFIX], options].concat())
    }

    /// Runs the doctor with the files in their default places.
    fn as_installed(options: &[&str]) -> Done<Self> {
        let mut doctor = sandbox::command(PROGRAM);
        let output = doctor.args(["doctor", "--json"]).args(options).output()?;
        let (said, text) = (String::from_utf8_lossy(&output.stderr), output.stdout);
        let report: Value = serde_json::from_slice(&text).map_err(|e| format!("{e}: {said}"))?;
        let all = report["findings"].as_array().ok_or("no findings")?.clone();
        Ok(Self { code: output.status.code(), all })
    }

    fn of_severity(&self, severity: &str) -> BTreeSet<String> {
        let of = self.all.iter().filter(|finding| finding["severity"] == severity);
        of.map(|finding| format!("{}: {}", finding["where"], finding["what"])).collect()
    }

    /// Demands this error, with an action to take, and the exit status for errors.
    fn error(&self, check: &str, says: &str) -> Done {
        let found = self.all.iter().any(|finding| {
            let what = finding["what"].as_str().unwrap_or_default();
            finding["check"] == check
                && finding["severity"] == "error"
                && what.contains(says)
                && finding["mend"].is_string()
        });
        let errors = self.of_severity("error");
        ensure!(found, "no error {check} with {says:?}: {errors:?}");
        ensure!(self.code == Some(1), "exit status {:?}", self.code);
        Ok(())
    }

    fn says(&self, severity: &str, check: &str) -> bool {
        self.all.iter().any(|f| f["check"] == check && f["severity"] == severity)
    }
}

/// On a host set up by the README: the doctor finds no error and tested everything.
pub fn agrees() -> Done {
    if !can_run()? {
        return Ok(());
    }
    let found = Findings::as_installed(&["--no-master"])?;
    let errors = found.of_severity("error");
    ensure!(errors.is_empty() && found.code == Some(0), "{:?}: {errors:?}", found.all);
    for check in ["postfix/domains", "postfix/softening", "socket/answer", "backend/lmtp"] {
        ensure!(found.says("ok", check), "no finding of {check}: {:?}", found.all);
    }
    Ok(())
}

/// On a host set up by the README: the doctor tested this and found no error.
pub fn is_content(check: &str) -> Done {
    if can_run()? {
        let found = Findings::as_installed(&["--no-master"])?;
        ensure!(found.says("ok", check), "no finding of {check}: {:?}", found.all);
    }
    Ok(())
}

/// On a host set up by the README: the doctor finds this error.
pub fn finds(check: &str, says: &str) -> Done {
    match can_run()? {
        true => Findings::as_installed(&["--no-master"])?.error(check, says),
        false => Ok(()),
    }
}

/// On a host without Cyrus, in its present state.
pub fn finds_a_replica_sound(world: &World) -> Done {
    if !can_run()? {
        return Ok(());
    }
    settings(&[])?;
    let options: Vec<&str> = world.setup.options().iter().map(String::as_str).collect();
    sound(&options)
}

/// Demands that no error is found and that everything was tested.
fn sound(options: &[&str]) -> Done {
    let found = Findings::by(&[options, &["--recipient", "jane+Work@Example.Org"]].concat())?;
    let mut bad = found.of_severity("error");
    bad.extend(found.of_severity("not-tested"));
    ensure!(bad.is_empty() && found.code == Some(0), "{:?}: {bad:?}", found.code);
    for check in [
        "socket/answer",
        "socket/daemon",
        "postfix/domains",
        "postfix/softening",
        "backend/lmtp",
        "backend/recipient",
        "list/comparison",
    ] {
        ensure!(found.says("ok", check), "no finding of {check}: {:?}", found.all);
    }
    Ok(())
}

/// Errors in murder-route's own configuration.
fn by_config(world: &World) -> Done<Done> {
    let own = format!("{STATE}/murder-route-doctor.toml");
    let imapd_conf = world.murder.frontend.imapd_conf();
    let write = |more: &str| {
        let release = cyrus_release(world.release);
        let domains = "domains = [\"example.org\", \"example.net\"]";
        fs::write(&own, format!("imapd-conf = {imapd_conf:?}\n{domains}\n{release}{more}"))
    };
    let closed = format!("{STATE}/closed");
    fs::create_dir_all(&closed)?;
    fs::set_permissions(&closed, Permissions::from_mode(0o700))?;
    let broken = [
        ("[backends]\nport = 2004\n", "backend/login", "wants a login"),
        ("[backends]\nport = 143\n", "backend/lmtp", "does not speak LMTP"),
        ("fallback = \"lmtp:inet:127.0.1.11\"\n", "postfix/port", "24"),
        ("fallback = \"lmtp:inet:127.0.1.11:24\"\n", "postfix/fallback", "status filter"),
        ("[backends]\nport = 2005\n", "socket/recipient", "127.0.1.11:2005"),
        ("[backends]\ntransport = \"murder\"\n", "postfix/transport", "murder"),
        (
            "[backends.servers]\n\"127.0.1.11\" = { address = \"127.0.1.12\" }\n",
            "backend/name",
            "127.0.1.12",
        ),
        (
            "[[listen]]\nendpoint = \"unix:/run/murder/closed/s\"\n",
            "socket/answer",
            "postfix may not search /run/murder/closed",
        ),
        (
            "[[listen]]\nendpoint = \"unix:/var/spool/postfix/s\"\n",
            "socket/answer",
            "no such socket (as postfix in the chroot /var/spool/postfix)",
        ),
    ];
    for (more, check, says) in broken {
        write(more)?;
        if let Err(e) = Findings::with(&own, &["--no-master"])?.error(check, says) {
            return Ok(Err(format!("{more}: {e}").into()));
        }
    }
    Ok(Ok(()))
}

fn closed_socket() -> Done {
    fs::set_permissions(SOCKET, Permissions::from_mode(0o600))?;
    let found = Findings::of(&["--no-master"]);
    fs::set_permissions(SOCKET, Permissions::from_mode(0o666))?;
    found?.error("socket/answer", "postfix may not write to it")
}

fn stopped_backend(world: &mut World) -> Done {
    world.murder.backends[1].stop()?;
    let found = Findings::of(&["--no-master"]);
    world.murder.backends[1].start()?;
    let found = found?;
    found.error("backend/lmtp", "cannot be reached")?;
    ensure!(found.says("ok", "backend/lmtp"), "the other socket is good: {:?}", found.all);
    Ok(())
}

/// A list that lacks a name of the master, and has a name that the master lacks.
fn old_list(world: &mut World) -> Done {
    let be1 = &world.murder.backends[0];
    let old = format!("{STATE}/old.db");
    be1.admin()?.command("CREATE user/former")?;
    world.moves_to("former@example.org", be1)?;
    fs::copy(world.murder.frontend.mailboxes_db(), &old)?;
    let mut admin = be1.admin()?;
    admin.command("SETACL user/former cyrus lrsx")?;
    admin.command("DELETE user/former")?;
    admin.command("CREATE user/latter")?;
    world.moves_to("latter@example.org", be1)?;
    let found = Findings::of(&["--mailboxes-db", &old])?;
    found.error("list/comparison", "user.latter")?;
    found.error("list/comparison", "user.former")?;
    // A master that is down is not an error of the list.
    admin.command("SETACL user/latter cyrus lrsx")?;
    admin.command("DELETE user/latter")?;
    world.becomes_unknown("latter@example.org")?;
    world.murder.master.kill()?;
    let found = Findings::of(&[]);
    world.murder.master.start()?;
    ensure!(found?.says("not-tested", "list/comparison"), "{MASTER} was away");
    world.recovers()
}
