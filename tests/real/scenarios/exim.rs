//! Scenarios with Exim, in the order in which they run.

use std::fs;
use std::io::Write;

use serde_json::Value;

use super::{faults, function, master, newcomer, paths, stand, whoever_asks};
use crate::clients::gate::Gate;
use crate::clients::sink::Sink;
use crate::exim::Exim;
use crate::logs::{Line, Logs};
use crate::murder::{ADMIN, PASSWORD};
use crate::readme::{PROGRAM, Readme};
use crate::releases::is_wanted;
use crate::report::Report;
use crate::root::Root;
use crate::router::{Daemon, Setup};
use crate::sandbox::{self, STATE};
use crate::tls::{self, Tls};
use crate::world::{DOMAINS, Queued, World};
use crate::{Done, ensure, run};

/// Runs them.
pub fn run_all(root: Root, logs: &Logs, report: &mut Report) {
    let Some(mut world) = stand(root, logs, report, Exim::start) else { return };
    let mut scenario = |name: &str, run: fn(&mut World<Exim>) -> Done| {
        if is_wanted(name) {
            report.scenario(name, logs, || run(&mut world));
        }
    };
    scenario("Exim has the required features", |_| has_what_is_asked());
    scenario("every recipient on its own backend, without the frontend's lmtpd", |w| {
        paths::each_on_its_backend(w)
    });
    scenario("unnecessary quotes do not reach a backend", |w| quoted(w));
    scenario("one message for both backends", |w| one_transaction_a_backend(w));
    whoever_asks(&mut scenario);
    scenario("a new user is accepted at once", |w| newcomer::accepted_at_once(w, "newcomer-e"));
    scenario("a mailbox moves while its mail is queued", |w| moved_in_the_queue(w));
    scenario("a mailbox moves during a delivery", moved_during_delivery);
    scenario("without the daemon messages wait and none bounces", without_the_daemon);
    scenario("the master is killed", master::killed);
    scenario("the master hangs", |w| master::hung(w));
    scenario("the daemon is restarted under load", faults::daemon_restarts_under_load);
    scenario("a backend by IPv6 gets recipients in the right form", by_ipv6);
    scenario("messages for an unreachable backend are deferred", unreachable);
    scenario("backends that demand TLS and a login", with_tls_and_login);
    scenario("backends that demand both, by Exim's smtp transport", by_smtp_transport);
    function::run_in(&mut world, report);
}

/// The configuration needs Exim's lmtp transport; the library's function needs `dlfunc`, which Debian's
/// light daemon lacks.
fn has_what_is_asked() -> Done {
    let about = run(sandbox::command("exim4").arg("-bV"))?;
    for wanted in ["Expand_dlfunc", "Transports: appendfile", " lmtp "] {
        ensure!(about.contains(wanted), "{wanted} is missing: {about}");
    }
    Ok(())
}

/// lmtpd treats quotes as part of the name and would refuse the recipient.
fn quoted(world: &World<Exim>) -> Done {
    let [be1, be2] = &world.murder.backends;
    world.arrives("\"jane\"@example.org", be1, "jane", "INBOX")?;
    world.arrives("\"Jane+Work\"@Example.Org", be1, "jane", "INBOX/Work")?;
    world.arrives("\"o.bri\\en\"@example.org", be1, "o.brien", "INBOX")?;
    world.arrives("\"bob\"@example.net", be2, "bob@example.net", "INBOX")?;
    // Not treated as a list of addresses, a file or a command.
    for odd in ["\":include:/etc/hosts\"", "\"/etc/hosts\"", "\"|/bin/true\"", "|/bin/true"] {
        let reply = world.rcpt(&format!("{odd}@example.org"))?;
        ensure!((500..600).contains(&reply.code), "{odd}: {reply}");
    }
    let service = fs::read_to_string(sandbox::in_root("/etc/default/exim4"))?;
    ensure!(service.contains("\nEXIMSERVICE='-bdf -q1m'\n"), "/etc/default/exim4: {service}");
    // No mailbox can have a name that needs quotes.
    world.refused("\"jane doe\"@example.org")?;
    world.refused("\"jane\\\"\"@example.org")
}

/// The recipients on a backend share one transaction, and so the session in one reply.
fn one_transaction_a_backend(world: &World<Exim>) -> Done {
    let since = world.logs.mark();
    paths::one_message_for_both(world)?;
    let lines = world.logs.since(since, "exim");
    let first = lines.iter().filter(|line| line.text.contains(" => ")).count();
    let further = lines.iter().filter(|line| line.text.contains(" -> ")).count();
    ensure!((first, further) == (2, 2), "transactions: {first}, more recipients: {further}");
    Ok(())
}

/// Accepted while the mailbox is on one backend, delivered when it is on the other.
fn moved_in_the_queue(world: &World<Exim>) -> Done {
    let [be1, be2] = &world.murder.backends;
    be1.admin()?.command("CREATE user/nomad")?;
    world.moves_to("nomad@example.org", be1)?;
    world.mail_server.hold()?;
    let moved: Done<Queued> = (|| {
        let queued = world.send(&["nomad+x@example.org", "max@example.org"])?;
        be1.xfer("user/nomad", be2)?;
        Ok(queued)
    })();
    world.mail_server.release()?;
    let queued = moved?;
    world.delivered(&queued)?;
    world.holds_once(be2, "nomad", "INBOX", &queued.id)?;
    world.holds_once(be2, "max", "INBOX", &queued.id)
}

/// Exim is in a session with a backend when the mailbox moves away from it. That backend then replies `550
/// 5.1.1` for this recipient and not for the others of the message.
fn moved_during_delivery(world: &mut World<Exim>) -> Done {
    let gate = Gate::open("127.0.1.51:2003", "127.0.1.11:2003")?;
    with_backend(world, "address = \"127.0.1.51\"\n", |world| {
        for (user, word) in [("runner", "LHLO"), ("sprinter", "RCPT TO:")] {
            let seen = moved_while_held(world, &gate, user, word);
            gate.release();
            seen.map_err(|e| format!("held at {word}: {e}"))?;
        }
        Ok(())
    })
}

fn moved_while_held(world: &World<Exim>, gate: &Gate, user: &str, word: &'static str) -> Done {
    let [be1, be2] = &world.murder.backends;
    be1.admin()?.command(&format!("CREATE user/{user}"))?;
    let address = format!("{user}+x@example.org");
    world.moves_to(&address, be1)?;
    gate.hold(word);
    let queued = world.send(&[&address, "jane@example.org", "max@example.org"])?;
    gate.holds()?;
    be1.xfer(&format!("user/{user}"), be2)?;
    gate.release();
    let attempts = world.delivered(&queued)?;
    let softened = format!("{} == {address} ", queued.queue_id);
    let refused = world.logs.since(queued.since, "exim").iter().any(|line| {
        line.text.starts_with(&softened) && line.text.contains("450 4.1.1 User unknown")
    });
    ensure!(refused, "the old backend should have refused it: {attempts:?}");
    world.holds_once(be2, user, "INBOX", &queued.id)?;
    world.holds_once(be1, "jane", "INBOX", &queued.id)?;
    world.holds_once(be2, "max", "INBOX", &queued.id)
}

/// No daemon answers at the socket: new messages are deferred, and queued messages stay.
fn without_the_daemon(world: &mut World<Exim>) -> Done {
    world.mail_server.hold()?;
    let queued = world.send(&["jane@example.org"]);
    world.daemon.stop()?;
    world.mail_server.release()?;
    let seen = queued.and_then(|queued| {
        for recipient in ["jane@example.org", "nobody@example.org"] {
            world.put_off(recipient)?;
        }
        let put_off = format!("{} == jane@example.org R=murder_verdict", queued.queue_id);
        world.logs.wait("the message to be deferred", queued.since, 30, |lines| {
            lines.iter().any(|line| line.text.starts_with(&put_off)).then_some(())
        })?;
        Ok(queued)
    });
    world.daemon.resume()?;
    let queued = seen?;
    world.delivered(&queued)?;
    world.holds_once(&world.murder.backends[0], "jane", "INBOX", &queued.id)
}

/// Configuration file of a daemon with other settings.
fn another_way() -> String {
    format!("{STATE}/another-way.toml")
}

/// Runs the daemon with another address for jane's backend during `run`.
fn with_backend<T>(
    world: &mut World<Exim>,
    settings: &str,
    what: impl FnOnce(&mut World<Exim>) -> Done<T>,
) -> Done<T> {
    let file = another_way();
    let imapd_conf = world.murder.frontend.imapd_conf();
    let server = world.murder.backends[0].address;
    let text = format!(
        "imapd-conf = {imapd_conf:?}\ndomains = {DOMAINS:?}\n\
         [backends.servers.{server:?}]\n{settings}"
    );
    fs::write(&file, text)?;
    world.daemon.stop()?;
    let mut daemon = Daemon::start(Setup::new(&["--config", &file], world.murder.cyrus))?;
    let done = what(world);
    daemon.stop()?;
    world.daemon.resume()?;
    done
}

/// A program that records what it receives replaces the backend.
fn by_ipv6(world: &mut World<Exim>) -> Done {
    let backend = Sink::listen("[::1]:2003")?;
    with_backend(world, "address = \"[::1]\"\n", |world| {
        let to = ["JANE+Work@Example.ORG", "\"o.brien\"@example.org", "carol+X.y@Example.net"];
        let queued = world.send(&to)?;
        world.delivered(&queued)?;
        let received = backend.take();
        let [one] = &received[..] else { return Err(format!("received {received:?}").into()) };
        let expected = ["jane+Work@example.org", "o.brien@example.org", "carol+X.y@example.net"];
        let mut told = one.to.clone();
        told.sort_by_key(|told| expected.iter().position(|expected| expected == told));
        ensure!(told == expected, "the backend received {told:?}");
        ensure!(one.message.contains(&queued.id), "another message came: {}", one.message);
        Ok(())
    })
}

/// The reason is in Exim's log, and the recipient on the other backend gets the message.
fn unreachable(world: &mut World<Exim>) -> Done {
    let queued = with_backend(world, "port = 2999\n", |world| {
        let queued = world.send(&["jane@example.org", "max@example.org"])?;
        let put_off = format!("{} == jane@example.org ", queued.queue_id);
        let sent = format!("{} => max ", queued.queue_id);
        let why = "cannot reach 127.0.1.11:2999: Connection refused";
        world.logs.wait(
            "one message to be deferred and the other sent",
            queued.since,
            30,
            |lines| {
                let told = |line: &Line| line.text.starts_with(&put_off) && line.text.contains(why);
                let both =
                    lines.iter().any(told) && lines.iter().any(|line| line.text.starts_with(&sent));
                both.then_some(())
            },
        )?;
        world.holds_once(&world.murder.backends[1], "max", "INBOX", &queued.id)?;
        Ok(queued)
    })?;
    world.delivered(&queued)?;
    world.holds_once(&world.murder.backends[0], "jane", "INBOX", &queued.id)
}

/// Gives the first backend the certificate for [`tls::NAME`]; it then has that name and demands a login
/// under TLS at the second port.
fn demand_tls_and_login(world: &mut World<Exim>) -> Done<Tls> {
    let tls = Tls::make(world.murder.cyrus)?;
    let [be1, _] = &mut world.murder.backends;
    be1.restart_with(&[
        ("tls_server_cert", &tls.good.certificate),
        ("tls_server_key", &tls.good.key),
        ("lmtplogin_allowplaintext", "no"),
        // Final refusals, which the program could do without.
        ("soft_noauth", "no"),
    ])?;
    let hosts = sandbox::in_root("/etc/hosts");
    if !fs::read_to_string(&hosts)?.contains(tls::NAME) {
        let mut hosts = fs::OpenOptions::new().append(true).open(&hosts)?;
        writeln!(hosts, "{} {}", be1.address, tls::NAME)?;
    }
    Ok(tls)
}

/// Port where a backend demands a login.
const LOGIN_PORT: u16 = 2004;

/// By the README's section on such backends. Each kind of failure leaves the message in the queue.
fn with_tls_and_login(world: &mut World<Exim>) -> Done {
    const CONFIGURATION: &str = "/etc/murder-route.toml";
    const MISTAKES: [(&str, &str, &str); 4] = [
        ("tls-name = ", "tls-name = \"other.test\"\n#", "is not for `other.test`"),
        ("tls-name = ", "tls = \"off\"\n#", ": 430 Authentication required"),
        ("username = ", "username = \"nobody\"\n#", "refused the login of `nobody`"),
        (
            "password-file = ",
            "password-file = \"/nothing\"\n#",
            "/nothing: cannot read: No such file",
        ),
    ];
    let tls = demand_tls_and_login(world)?;
    let address = format!("address = \"{}:{LOGIN_PORT}\"\n", tls::NAME);
    let file = sandbox::in_root(CONFIGURATION);
    fs::write(&file, "")?;
    let readme = Readme::of("exim")?.below("Backends that want TLS or a login")?;
    readme
        .without("By Exim's own smtp transport")?
        .instead_of("mailer", ADMIN)?
        .instead_of("secret", PASSWORD)?
        .instead_of("tls = \"required\"", &format!("tls-name = {:?}", tls::NAME))?
        .instead_of("/etc/ssl/certs/ca-certificates.crt", &tls.authority)?
        .follow()?;
    let right = fs::read_to_string(&file)?;
    let seen = with_backend(world, &address, |world| {
        for (line, instead, why) in MISTAKES {
            ensure!(right.contains(line), "{CONFIGURATION} has no {line}: {right}");
            fs::write(&file, right.replace(line, instead))?;
            let queued = world.send(&["Jane+Work@Example.Org"])?;
            world.logs.wait(why, queued.since, 30, |lines| {
                let told = |line: &Line| line.text.contains(" == ") && line.text.contains(why);
                lines.iter().any(told).then_some(())
            })?;
            fs::write(&file, &right)?;
            world.delivered(&queued)?;
            world.holds_once(&world.murder.backends[0], "jane", "INBOX/Work", &queued.id)?;
        }
        doctor_tries_the_login(&right)?;
        let queued = world.send(&["jane@example.org", "\"o.brien\"@example.org"])?;
        let attempts = world.delivered(&queued)?;
        ensure!(attempts.len() == 2, "{attempts:?}");
        world.holds_once(&world.murder.backends[0], "o.brien", "INBOX", &queued.id)?;
        world.refused("nobody@example.org")
    });
    fs::remove_file(&file)?;
    world.murder.backends[0].restart_with(&[])?;
    seen
}

/// Runs the doctor on a host without Postfix: it finds the failures that Exim's transport would have at the
/// first backend. `access`: correct settings for the login.
fn doctor_tries_the_login(access: &str) -> Done {
    let file = format!("{STATE}/doctor.toml");
    let daemon = fs::read_to_string(another_way())?;
    let findings = |access: &str| -> Done<Vec<Value>> {
        fs::write(&file, format!("{daemon}{access}"))?;
        let mut doctor = sandbox::command(PROGRAM);
        doctor.args(["doctor", "--json", "--no-master", "--config", &file]);
        let output = doctor.args(["--recipient", "jane+Work@Example.Org"]).output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(report["findings"].as_array().ok_or("no findings")?.clone())
    };
    let all = findings(access)?;
    for check in ["backend/login", "backend/recipient"] {
        let fine = all.iter().any(|f| f["check"] == check && f["severity"] == "ok");
        ensure!(fine, "no finding of {check}: {all:?}");
    }
    for (access, says) in [
        (String::new(), "has none for it"),
        (
            access.replace("username = ", "username = \"nobody\"\n#"),
            "refused the login of `nobody`",
        ),
        (access.replace("tls-name = ", "tls-name = \"other.test\"\n#"), "is not for `other.test`"),
        (access.replace("ca-file = ", "ca-file = \"/nothing\"\n#"), "/nothing: No such file"),
    ] {
        let all = findings(&access)?;
        let told = all.iter().any(|finding| {
            finding["check"] == "backend/login"
                && finding["severity"] == "error"
                && finding["what"].as_str().is_some_and(|what| what.contains(says))
        });
        ensure!(told, "no error with {says:?}: {all:?}");
    }
    Ok(())
}

/// With Exim's own smtp transport.
fn by_smtp_transport(world: &mut World<Exim>) -> Done {
    let tls = demand_tls_and_login(world)?;
    // As Debian ships the file: the additions of the run are for Cyrus.
    let services = sandbox::in_root("/etc/services");
    let without = fs::read_to_string(&services)?.replace("lmtp 2004/tcp\n", "");
    fs::write(&services, without)?;
    let readme = Readme::of("exim")?.below("By Exim's own smtp transport")?;
    readme.instead_of("mailer", ADMIN)?.instead_of("secret", PASSWORD)?.follow()?;
    let piece = sandbox::in_root("/etc/exim4/conf.d/main/00_murder-route");
    let before = fs::read_to_string(&piece)?;
    let more = format!("MURDER_REQUIRE_TLS = {}\n", tls.authority);
    fs::write(&piece, before + &more)?;
    run(&mut sandbox::command("update-exim4.conf"))?;
    world.mail_server.restart()?;
    with_backend(world, "address = \"[2001:db8::1]:24\"\n", |_| {
        let routed = run(sandbox::command("exim4").args(["-bt", "jane@example.org"]))?;
        let expected = "transport = murder_smtp\n  host 2001:db8::1 [2001:db8::1] port=24";
        ensure!(routed.contains(expected), "{routed}");
        Ok(())
    })?;
    let (name, port) = (tls::NAME, LOGIN_PORT);
    with_backend(world, &format!("address = \"{name}:{port}\"\n"), |world| {
        let queued = world.send(&["Jane+Work@Example.Org", "\"o.brien\"@example.org"])?;
        world.delivered(&queued)?;
        let be1 = &world.murder.backends[0];
        world.holds_once(be1, "jane", "INBOX/Work", &queued.id)?;
        world.holds_once(be1, "o.brien", "INBOX", &queued.id)?;
        let lines = world.logs.since(queued.since, "exim");
        let sent = lines.iter().find(|line| line.text.contains(" => ")).ok_or("no delivery")?;
        for wanted in [&format!("H={name} [127.0.1.11]"), "X=TLS1", "CV=yes", " A="] {
            ensure!(sent.text.contains(wanted), "{wanted} is missing: {}", sent.text);
        }
        world.refused("nobody@example.org")
    })
}
