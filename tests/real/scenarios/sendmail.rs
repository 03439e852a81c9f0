//! Scenarios with Sendmail, in the order in which they run: those of every mail server, and Sendmail's own.

use std::fs;
use std::net::Ipv4Addr;

use super::beside::switch;
use super::{faults, master, milter, moving, newcomer, paths, race, stand, whoever_asks};
use crate::clients::dns::{Dns, Zone};
use crate::clients::mail::Session;
use crate::clients::sink::Sink;
use crate::logs::Logs;
use crate::murder::{ADMIN, Host, PASSWORD};
use crate::readme::Readme;
use crate::releases::is_wanted;
use crate::report::Report;
use crate::root::Root;
use crate::router::Setup;
use crate::sandbox::STATE;
use crate::sendmail::{Sendmail, mail};
use crate::tls::{self, Tls};
use crate::world::{self, Mta, SMTP};
use crate::{Done, ensure, run, sandbox};

/// With Sendmail.
pub type World = world::World<Sendmail>;

/// Builds the world and runs all scenarios in it.
pub fn run_all(root: Root, logs: &Logs, report: &mut Report) {
    let Some(mut world) = stand(root, logs, report, Sendmail::start) else { return };
    let mut scenario = |name: &str, run: fn(&mut World) -> Done| {
        if is_wanted(name) {
            report.scenario(name, logs, || run(&mut world));
        }
    };
    scenario("Sendmail has the required features", |_| has_what_is_asked());
    scenario("every recipient on its own backend", |w| paths::each_on_its_backend(w));
    scenario("one message for both backends", |w| paths::one_message_for_both(w));
    scenario("the backend sees quotes, case and detail", |w| backend_sees_what_was_written(w));
    scenario("an unknown sender may send", |w| unknown_sender_may_write(w));
    whoever_asks(&mut scenario);
    scenario("a new user is accepted at once", |w| newcomer::accepted_at_once(w, "newcomer-s"));
    scenario("the master is killed", master::killed);
    scenario("the master hangs", |w| master::hung(w));
    scenario("a new frontend starts without a master", master::frontend_begins_anew);
    scenario("the daemon is restarted under load", faults::daemon_restarts_under_load);
    scenario("a message follows its mailbox", messages_on_their_way);
    scenario("a mailbox moves on before the list has the change", race::moved_on);
    scenario("the fallback gets the remaining recipients", fallback_takes_the_rest);
    scenario("our domains do not depend on DNS", whatever_dns_says);
    scenario("the mailer without the feature is an m4 error", |_| mailer_without_the_feature());
    scenario("backends that demand TLS and a login", with_tls_and_login);
    scenario("Sendmail itself logs in to the backends", logs_in_by_itself);
    scenario("Sendmail itself delivers while mailboxes move", moves_without_the_program);
    scenario("miltertest checks every reply of the milter", milter::conversation);
    scenario("the milter alone refuses unknown recipients", milter::only_the_refusals);
}

/// Maps and protocols in this build.
fn has_what_is_asked() -> Done {
    let about = run(sandbox::command("sendmail").args(["-d0.4", "-bv", "root"]))?;
    for feature in ["SOCKETMAP", "MILTER", "SASLv2"] {
        ensure!(about.contains(feature), "{feature} is missing: {about}");
    }
    Ok(())
}

/// On the wire: a backend that records what it receives. Unnecessary quotes are removed, since 3.x has no
/// mailbox with quotes in its name; addresses that need quotes are unknown there.
fn backend_sees_what_was_written(world: &World) -> Done {
    const BACKEND: &str = "127.0.1.42";
    let sink = Sink::listen(&format!("{BACKEND}:2003"))?;
    let mut master = world.murder.mupdate()?;
    master.activate("user.sinker", &format!("{BACKEND}!default"))?;
    sandbox::poll("the mailbox to be seen", 30, || {
        let lookup = world.setup.lookup_one("sinker@example.org")?;
        Ok((lookup.server == BACKEND).then_some(()))
    })?;
    let written = [
        ("sinker@example.org", "sinker@example.org"),
        ("Sinker+MiXed.Case@Example.ORG", "sinker+MiXed.Case@example.org"),
        ("\"SINKER+a@b\"@example.org", ""),
        ("\"sinker\"@example.org", "sinker@example.org"),
        ("\"Sinker+Work\"@EXAMPLE.org", "sinker+Work@example.org"),
        ("sinker+o'b=c!d%e#f@example.org", "sinker+o'b=c!d%e#f@example.org"),
    ];
    for (recipient, seen) in written {
        if seen.is_empty() {
            let lmtpd = world.frontend_lmtpd(recipient)?;
            ensure!(lmtpd.code == 550, "lmtpd accepts {recipient}: {lmtpd}");
            world.refused(recipient)?;
            continue;
        }
        let queued = world.send(&[recipient])?;
        world.delivered(&queued)?;
        let received = sink.take();
        let [one] = &received[..] else { return Err(format!("{recipient}: {received:?}").into()) };
        ensure!(one.to == [seen], "{recipient} came as {:?}", one.to);
        ensure!(one.message.contains(&queued.id), "{recipient}: {}", one.message);
    }
    master.delete("user.sinker")?;
    world.becomes_unknown("sinker@example.org")
}

/// Sendmail applies the same rules to senders.
fn unknown_sender_may_write(world: &World) -> Done {
    let message = world.message();
    for sender in ["nobody@example.org", "Nobody+x@Example.Net"] {
        let outcome = Session::smtp(SMTP)?.send(sender, &["max@example.org"], &message.text)?;
        let taken = matches!(&outcome.message[..], [reply] if reply.code == 250);
        ensure!(taken, "from {sender}: {outcome:?}");
    }
    Ok(())
}

/// Waits until there is no connection to the backend's LMTP port.
fn no_delivery_to(backend: &Host) -> Done {
    // proc(5), net/tcp: addresses as 32-bit numbers in host byte order; state 01 is established.
    let address: Ipv4Addr = backend.address.parse()?;
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.octets()), 2003);
    sandbox::poll(&format!("the deliveries to {} to end", backend.name), 30, || {
        let table = fs::read_to_string("/proc/net/tcp")?;
        let delivers = table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next() == Some(&remote) && fields.next() == Some("01")
        });
        Ok((!delivers).then_some(()))
    })
}

/// The message is accepted and looked up before its mailbox moves. The old backend answers again afterwards
/// and refuses the recipient for good. The message arrives at the new one, once.
fn messages_on_their_way(world: &mut World) -> Done {
    with_sendmail(world, |world| {
        let named = race::TO_BACKENDS.map(|gate| format!("MURDER_BACKEND(`{gate}')dnl\n"));
        fs::write(mail("murder-backends.m4"), named.concat())?;
        build_cf()?;
        world.mail_server.restart()?;
        race::with_gates(world, follow)
    })
}

fn follow(world: &World, gates: &race::Gates, _: &str) -> Done {
    world.murder.backends[0].admin()?.command("CREATE user/rover")?;
    let obstacles = [None, Some("LHLO"), Some("RCPT To:"), Some("A message.")];
    for (nth, silent) in obstacles.into_iter().enumerate() {
        one_on_its_way(world, gates, "rover", nth % 2, silent)
            .map_err(|e| format!("{silent:?}: {e}"))?;
    }
    Ok(())
}

/// `silent` is the word from which on the backend does not answer; without it, the backend is not
/// reachable.
fn one_on_its_way(
    world: &World,
    gates: &race::Gates,
    user: &str,
    from: usize,
    silent: Option<&'static str>,
) -> Done {
    let (old, new) = (&world.murder.backends[from], &world.murder.backends[1 - from]);
    let gate = &gates.backends[from];
    race::is_listed(world, user, old.address)?;
    match silent {
        Some(word) => gate.hold(word),
        None => gate.shut(),
    }
    let sent = world.send(&[&format!("{user}@example.org")])?;
    match silent {
        Some(_) => gate.holds()?,
        None => world.logs.wait("an attempt", sent.since, 60, |lines| {
            let mut attempts =
                lines.iter().flat_map(|line| Sendmail::attempts(line, &sent.queue_id));
            attempts.any(|attempt| attempt.status == "deferred").then_some(())
        })?,
    }
    old.xfer(&format!("user/{user}"), new)?;
    gate.release();
    let attempts = world.delivered(&sent)?;
    ensure!(attempts.len() > 1, "it arrived before the move: {attempts:?}");
    world.holds_once(new, user, "INBOX", &sent.id)
}

/// `murder-route lmtp` logs in at a port where a backend refuses mail for good without a login under TLS. A
/// message waits while the login fails.
fn with_tls_and_login(world: &mut World) -> Done {
    const CONFIGURATION: &str = "/etc/murder-route.toml";
    const MISTAKES: [(&str, &str, &str); 2] = [
        ("ca-file = ", "#", "is not signed"),
        ("username = ", "username = \"nobody\"\n#", "refused the login of `nobody`"),
    ];
    let tls = Tls::make(world.murder.cyrus)?;
    let file = sandbox::in_root(CONFIGURATION);
    fs::write(&file, "")?;
    Readme::of("sendmail")?
        .below("Backends that want TLS or a login")?
        .without("Sendmail's own login")?
        .instead_of("postman", ADMIN)?
        .instead_of("secret", PASSWORD)?
        .instead_of("tls = \"required\"", &format!("tls-name = {:?}", tls::NAME))?
        .instead_of("/etc/ssl/certs/ca-certificates.crt", &tls.authority)?
        .follow()?;
    let right = fs::read_to_string(&file)?;
    for backend in &mut world.murder.backends {
        backend.restart_with(&[
            ("tls_server_cert", &tls.good.certificate),
            ("tls_server_key", &tls.good.key),
            ("lmtplogin_allowplaintext", "no"),
            ("sasl_mech_list", "PLAIN SCRAM-SHA-256"),
            ("soft_noauth", "no"),
        ])?;
    }
    let seen = with_daemon(world, "[backends]\nport = 2004\n", |world| {
        with_sendmail(world, |world| {
            edit_mc("`MURDERLMTP_PORT', `2003'", "`MURDERLMTP_PORT', `2004'")?;
            world.mail_server.restart()?;
            for (line, instead, why) in MISTAKES {
                ensure!(right.contains(line), "{CONFIGURATION} has no {line}: {right}");
                fs::write(&file, right.replace(line, instead))?;
                let sent = world.send(&["Jane+Work@Example.org"])?;
                world.logs.wait(why, sent.since, 60, |lines| {
                    lines.iter().any(|line| line.text.contains(why)).then_some(())
                })?;
                fs::write(&file, &right)?;
                world.delivered(&sent)?;
                world.holds_once(&world.murder.backends[0], "jane", "INBOX/Work", &sent.id)?;
            }
            let sent = world.send(&["jane@example.org", "bob@example.net"])?;
            world.delivered(&sent)?;
            let [be1, be2] = &world.murder.backends;
            world.holds_once(be1, "jane", "INBOX", &sent.id)?;
            world.holds_once(be2, "bob@example.net", "INBOX", &sent.id)?;
            world.refused("nobody@example.org")
        })
    });
    fs::remove_file(&file)?;
    world.murder.backends.iter_mut().try_for_each(|backend| backend.restart_with(&[]))?;
    seen
}

/// Sendmail connects to the backends directly, at a port where they refuse mail without a login.
fn logs_in_by_itself(world: &mut World) -> Done {
    with_daemon(world, "[backends]\nport = 2004\n", |world| {
        with_sendmail(world, |world| {
            let [be1, be2] = &world.murder.backends;
            Readme::of("sendmail")?
                .below("Sendmail's own login")?
                .instead_of("be1.example.org", be1.address)?
                .instead_of("be2.example.org", be2.address)?
                .instead_of("postman", ADMIN)?
                .instead_of("secret", PASSWORD)?
                .follow()?;
            edit_mc("`MURDERLMTP_PORT', `2003'", "`MURDERLMTP_PORT', `2004'")?;
            world.mail_server.restart()?;
            let since = world.logs.mark();
            let [be1, be2] = &world.murder.backends;
            for (recipient, backend, user, folder) in [
                ("Jane+Work@Example.org", be1, "jane", "INBOX/Work"),
                ("bob@example.net", be2, "bob@example.net", "INBOX"),
            ] {
                let sent = world.send(&[recipient])?;
                world.delivered(&sent)?;
                world.holds_once(backend, user, folder, &sent.id)?;
                let wanted = format!("AUTH=client, relay=[{}], mech=PLAIN", backend.address);
                let lines = world.logs.since(since, "sendmail");
                let logged_in = lines.iter().any(|line| line.text.contains(&wanted));
                ensure!(logged_in, "it did not log in to {}", backend.name);
            }
            world.refused("nobody@example.org")
        })
    })
}

/// A backend's refusals stay final. A message whose recipient was not yet sent is looked up again; and none
/// is refused if the backend was drained before.
fn moves_without_the_program(world: &mut World) -> Done {
    with_sendmail(world, |world| {
        fs::remove_file(mail("murder-backends.m4"))?;
        build_cf()?;
        world.mail_server.restart()?;
        race::with_gates(world, |world, gates, _| {
            world.murder.backends[0].admin()?.command("CREATE user/rambler")?;
            let since = world.logs.mark();
            one_on_its_way(world, gates, "rambler", 0, Some("LHLO"))?;
            let lines = world.logs.since(since, "sendmail");
            let asked_again = lines.iter().any(|line| {
                line.text.contains("ruleset=tls_rcpt, arg1=rambler@example.org")
                    && line.text.contains("reject=451 4.4.5")
            });
            ensure!(asked_again, "the daemon was not asked before RCPT");
            Ok(())
        })?;
        moves_while_drained(world)
    })
}

/// All mail for a backend is deferred while mailboxes leave it, and no message is being delivered to it
/// when the move begins. So nothing can be refused there meanwhile, not even a message whose recipient was
/// accepted before.
fn moves_while_drained(world: &mut World) -> Done {
    let [be1, be2] = &world.murder.backends;
    be1.xfer("user/mover", be2)?;
    world.moves_to("mover@example.org", be2)?;
    moving::nothing_is_lost_while(world, "drained-move", |world| {
        let address = world.murder.backends[1].address;
        let drained = format!("[backends.servers.{address:?}]\ndrain = true\n");
        with_daemon(world, &drained, |world| {
            let [be1, be2] = &world.murder.backends;
            no_delivery_to(be2).and_then(|()| be2.xfer("user/mover", be1))
        })
    })
}

/// The old route during a migration: it gets the mail that murder-route would not route itself, and nothing
/// else.
fn fallback_takes_the_rest(world: &mut World) -> Done {
    with_daemon(world, "fallback = \"lmtp:inet:old-way-in.test:24\"\n", |world| {
        with_sendmail(world, |world| {
            let feature = "FEATURE(`murder_route', `unix:/run/murder-route'";
            edit_mc(feature, &format!("{feature}, `esmtp:[127.0.1.41]'"))?;
            world.mail_server.restart()?;
            world.outside.take();
            let sent = world.send(&["Nobody+x@example.org", "jane@example.org"])?;
            let attempts = world.delivered(&sent)?;
            ensure!(attempts.len() == 2, "{attempts:?}");
            let received = world.outside.take();
            let [one] = &received[..] else { return Err(format!("received {received:?}").into()) };
            ensure!(one.to == ["Nobody+x@example.org"], "for {:?}", one.to);
            world.holds_once(&world.murder.backends[0], "jane", "INBOX", &sent.id)
        })
    })
}

/// Address of the name server.
const NAME_SERVER: &str = "127.0.1.53";

/// The shipped example, except for its listening address and the outside. DNS knows our domains, has no
/// such names, or fails: existing recipients get mail, and unknown ones are refused.
fn whatever_dns_says(world: &mut World) -> Done {
    let dns = Dns::listen(NAME_SERVER, &world::DOMAINS, Ipv4Addr::new(127, 0, 1, 99))?;
    let files = ["/etc/resolv.conf", "/etc/mail/service.switch"].map(sandbox::in_root);
    let before = files.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;
    let seen = with_sendmail(world, |world| {
        fs::write(&files[0], format!("nameserver {NAME_SERVER}\noptions timeout:2 attempts:1\n"))?;
        fs::write(&files[1], "hosts files dns\naliases files\n")?;
        for feature in ["accept_unresolvable_domains", "nocanonify"] {
            edit_mc(&format!("FEATURE(`{feature}')dnl\n"), "")?;
        }
        for zone in [Zone::Known, Zone::NxDomain, Zone::ServFail] {
            dns.set(zone);
            // A resolver that received a failure may not ask again at once.
            world.mail_server.restart()?;
            dns.take();
            as_if_there_were_no_dns(world).map_err(|e| format!("{zone:?}: {e}"))?;
            let asked = dns.take();
            let elsewhere = asked.iter().any(|name| name.ends_with("sender.test"));
            ensure!(elsewhere, "{zone:?}: Sendmail does not look up senders: {asked:?}");
        }
        Ok(())
    });
    for (file, text) in files.iter().zip(before) {
        fs::write(file, text)?;
    }
    world.mail_server.restart()?;
    seen
}

fn as_if_there_were_no_dns(world: &World) -> Done {
    let [be1, be2] = &world.murder.backends;
    world.refused("nobody@example.org")?;
    world.refused("Nobody+x@Example.Net")?;
    world.arrives("jane+Work@Example.ORG", be1, "jane", "INBOX/Work")?;
    world.arrives("bob@example.net", be2, "bob@example.net", "INBOX")?;
    unknown_sender_may_write(world)?;
    // For a message that does not come by SMTP.
    let said = sandbox::command("sendmail").args(["-bv", "max@example.org"]).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("mailer murderlmtp2"), "sendmail -bv: {said}");
    Ok(())
}

/// m4 would loop until its stack is full.
fn mailer_without_the_feature() -> Done {
    let mc = "divert(-1)\ndivert(0)dnl\ninclude(`/usr/share/sendmail/cf/m4/cf.m4')dnl\n\
              OSTYPE(`debian')dnl\nMAILER(`local')dnl\nMAILER(`smtp')dnl\nMAILER(`murderlmtp')dnl\n";
    fs::write(mail("without.mc"), mc)?;
    let output = sandbox::command("timeout").args(["10", "m4", "/etc/mail/without.mc"]).output()?;
    fs::remove_file(mail("without.mc"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "m4 succeeds");
    let clear = said.contains("FEATURE(`murder_route') must precede MAILER(`murderlmtp')");
    ensure!(clear && said.lines().count() < 5, "m4 says: {said}");
    Ok(())
}

/// Replaces words in sendmail.mc, which must contain them, and builds sendmail.cf.
fn edit_mc(words: &str, others: &str) -> Done {
    let mc = fs::read_to_string(mail("sendmail.mc"))?;
    ensure!(mc.contains(words), "sendmail.mc has no {words}: {mc}");
    fs::write(mail("sendmail.mc"), mc.replace(words, others))?;
    build_cf()
}

fn build_cf() -> Done {
    let build = "cd /etc/mail && m4 sendmail.mc > sendmail.cf";
    run(sandbox::command("sh").args(["-e", "-c", build])).map(drop)
}

/// Runs the daemon with additional settings, and restores it afterwards.
fn with_daemon(world: &mut World, settings: &str, run: impl FnOnce(&mut World) -> Done) -> Done {
    let before = world.setup.clone();
    let file = format!("{STATE}/more.toml");
    let imapd_conf = world.murder.frontend.imapd_conf();
    let usual = format!("imapd-conf = {imapd_conf:?}\ndomains = {:?}\n", world::DOMAINS);
    fs::write(&file, usual + settings)?;
    let setup = Setup::new(&["--config", &file], world.murder.cyrus);
    let seen = switch(world, setup).and_then(|()| run(world));
    switch(world, before)?;
    seen
}

/// Runs a scenario that changes Sendmail's configuration, and restores it afterwards.
pub fn with_sendmail(world: &mut World, run: impl FnOnce(&mut World) -> Done) -> Done {
    let files = ["sendmail.mc", "sendmail.cf", "murder-backends.m4"].map(mail);
    let texts = files.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;
    let seen = run(world);
    for (file, text) in files.iter().zip(texts) {
        fs::write(file, text)?;
    }
    world.mail_server.restart()?;
    seen
}
