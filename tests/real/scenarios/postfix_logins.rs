//! Backends that demand a login or TLS, with the configuration in `postfix/`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::doctor;
use super::ready_postfix::{DAEMON, LOGIN, MAX, PIECES, add_to_main_cf, change, follow, on_a_host};
use crate::murder::{Host, PASSWORD};
use crate::postfix::next_attempt;
use crate::sandbox::{self, in_root};
use crate::tls::{self, Certificate, Tls};
use crate::world::{Queued, World};
use crate::{Done, ensure, run};

/// Port of a backend's lmtpd without `-a`.
const LOGIN_PORT: u16 = 2004;

/// Authority of the backends' certificates.
const CA_FILE: &str = "/etc/ssl/murder-ca.pem";

/// The backends by name, at the port that demands a login.
fn by_name(world: &World) -> String {
    let servers = world.murder.backends.iter().zip(tls::BACKENDS);
    let server = |(host, name): (&Host, &str)| {
        format!("[backends.servers.{:?}]\naddress = \"{name}:{LOGIN_PORT}\"\n", host.address)
    };
    servers.map(server).collect()
}

/// Names that are not in DNS.
fn add_names(world: &World) -> Done {
    let mut hosts = OpenOptions::new().append(true).open(in_root("/etc/hosts"))?;
    for (host, name) in world.murder.backends.iter().zip(tls::BACKENDS) {
        writeln!(hosts, "{} {name}", host.address)?;
    }
    // There is no DNS here.
    add_to_main_cf("lmtp_host_lookup = native")
}

/// The next attempt to deliver to the second backend fails. Then the cause is removed, and the message
/// arrives.
fn waits_for(world: &mut World, mend: impl FnOnce(&mut World) -> Done) -> Done {
    let queued = world.send(&["max@example.org"])?;
    let attempt = next_attempt(&world.logs, queued.since, &queued.queue_id)?;
    ensure!(attempt.status == "deferred", "max: {attempt:?}");
    mend(world)?;
    world.delivered(&queued)?;
    world.holds_once(&world.murder.backends[1], "max", "INBOX", &queued.id)
}

/// At once, at the port that demands a login.
fn arrives_by_login(world: &World, to: &str, backend: usize, user: &str) -> Done {
    let host = &world.murder.backends[backend];
    let queued = world.send(&[to])?;
    let attempts = world.delivered(&queued)?;
    let relay = format!("{}[{}]:{LOGIN_PORT}", tls::BACKENDS[backend], host.address);
    let straight = matches!(&attempts[..], [one] if one.relay == relay && one.status == "sent");
    ensure!(straight, "{to} should go to {relay}: {attempts:?}");
    world.holds_once(host, user, "INBOX", &queued.id)
}

/// SCRAM, which does not reveal the password. A backend that demands it in the clear gets no messages, and
/// messages for one that rejects it wait.
pub fn by_login(world: &mut World) -> Done {
    let seen = on_a_host(world, &by_name(world), |world| {
        let scram = [("sasl_mech_list", "PLAIN SCRAM-SHA-256")];
        world.murder.backends[0].restart_with(&scram)?;
        follow(world, &[DAEMON, LOGIN, PIECES], "--sasl")?;
        add_names(world)?;
        world.mail_server.restart_as_it_is()?;
        let file = in_root("/etc/postfix/murder-route-password");
        let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{file} has mode {mode:o}");
        arrives_by_login(world, "jane@example.org", 0, "jane")?;
        doctor::finds("backend/login", "uses none of the offered mechanisms: PLAIN")?;
        waits_for(world, |world| world.murder.backends[1].restart_with(&scram))?;
        doctor::agrees()?;
        let right = fs::read_to_string(&file)?;
        fs::write(&file, right.replace(&format!(":{PASSWORD}"), ":wrong"))?;
        add_to_main_cf("lmtp_sasl_auth_soft_bounce = no")?;
        world.mail_server.restart_as_it_is()?;
        waits_for(world, |world| {
            fs::write(&file, &right)?;
            world.mail_server.restart_as_it_is()
        })
    });
    as_before(world)?;
    seen
}

/// `530 Authentication required`, and an SMTP server at the port of a backend. Without the filter, both
/// would bounce.
pub fn refuses_us(world: &mut World) -> Done {
    let server = world.murder.backends[1].address;
    let second =
        |address: &str| format!("[backends.servers.{server:?}]\naddress = \"{address}\"\n");
    let hard = second(&format!("{server}:{LOGIN_PORT}"));
    let seen = on_a_host(world, &hard, |world| {
        world.murder.backends[1].restart_with(&[("soft_noauth", "no")])?;
        follow(world, &[DAEMON, PIECES], "")?;
        world.mail_server.restart_as_it_is()?;
        let queued = world.send(&["max@example.org"])?;
        waits_since(world, &queued, "said: 530 Authentication required (in reply to MAIL FROM")?;
        let smtp = second("127.0.1.31:25");
        change(world, &hard, &smtp, (MAX, "OK murder:inet:127.0.1.31:25"))?;
        waits_since(world, &queued, "refused to talk to me: 50")?;
        change(world, &smtp, "", (MAX, &format!("OK murder:inet:{server}:2003")))?;
        world.delivered(&queued)?;
        world.holds_once(&world.murder.backends[1], "max", "INBOX", &queued.id)
    });
    as_before(world)?;
    seen
}

/// Waits until an attempt to deliver the message was deferred for this reason.
fn waits_since(world: &World, queued: &Queued, why: &'static str) -> Done {
    world.logs.wait(why, queued.since, 60, |lines| {
        let put_off = |text: &str| text.contains("status=deferred") && text.contains(why);
        lines.iter().any(|line| put_off(&line.text)).then_some(())
    })
}

/// The password in the clear, but under TLS. A backend with another host's certificate gets no messages.
pub fn by_login_and_tls(world: &mut World) -> Done {
    let tls = Tls::make(world.murder.cyrus)?;
    fs::create_dir_all(in_root("/etc/ssl"))?;
    fs::copy(&tls.authority, in_root(CA_FILE))?;
    let seen = on_a_host(world, &by_name(world), |world| {
        let [be1, be2] = &mut world.murder.backends;
        be1.restart_with(&showing(&tls.backends[0]))?;
        be2.restart_with(&showing(&tls.misnamed))?;
        let options = format!("--sasl --tls --ca-file {CA_FILE}");
        follow(world, &[DAEMON, LOGIN, PIECES], &options)?;
        add_names(world)?;
        world.mail_server.restart_as_it_is()?;
        arrives_by_login(world, "jane@example.org", 0, "jane")?;
        doctor::finds("backend/tls", "not for be2.murder.test")?;
        waits_for(world, |world| {
            world.murder.backends[1].restart_with(&showing(&tls.backends[1]))
        })?;
        doctor::agrees()?;
        doctor::is_content("backend/login")?;
        arrives_by_login(world, "max@example.org", 1, "max")?;
        doctor_sees_what_postfix_will_refuse(world, &tls)
    });
    as_before(world)?;
    seen
}

/// One fault at a time, on a host that is sound again afterwards.
fn doctor_sees_what_postfix_will_refuse(world: &mut World, tls: &Tls) -> Done {
    let authorities = in_root(CA_FILE);
    let password = in_root("/etc/postfix/murder-route-password");
    let foreign = fs::read(&tls.foreign.certificate)?;
    for (file, instead, check, says) in [
        (&authorities, Some(&foreign[..]), "backend/tls", "is not signed by a CA"),
        (&authorities, None, "backend/tls", "No such file"),
        (&password, Some(&b"/^be/   cyrus:wrong\n"[..]), "backend/login", "refused the login"),
        (&password, Some(&b"/^other/   cyrus:cyrus\n"[..]), "backend/login", "no password for it"),
        (&password, Some(&b"/^be/   cyrus\n"[..]), "backend/login", "user:password"),
        (&password, None, "backend/login", "lmtp exits when it opens its tables"),
    ] {
        let right = fs::read(file)?;
        match instead {
            Some(text) => fs::write(file, text)?,
            None => fs::remove_file(file)?,
        }
        let found = doctor::finds(check, says);
        fs::write(file, right)?;
        found.map_err(|e| format!("{file}: {e}"))?;
    }
    let plugins = "cd /usr/lib/*/sasl2 && mkdir -p away && mv lib[!s]*.so* libscram.so* away";
    run(sandbox::command("sh").args(["-c", plugins]))?;
    let found = doctor::finds("backend/login", "SASL on this host has no plugin");
    run(sandbox::command("sh").args(["-c", "cd /usr/lib/*/sasl2 && mv away/* ."]))?;
    found?;
    world.murder.backends[1].restart_with(&showing(&tls.expired))?;
    doctor::finds("backend/tls", "has expired")?;
    world.murder.backends[1].restart_with(&showing(&tls.backends[1]))?;
    doctor::agrees()
}

/// Offers TLS with this certificate, and PLAIN only under TLS.
fn showing(certificate: &Certificate) -> [(&str, &str); 5] {
    [
        ("tls_server_cert", certificate.certificate.as_str()),
        ("tls_server_key", certificate.key.as_str()),
        ("allowstarttls", "yes"),
        ("sasl_mech_list", "PLAIN"),
        ("lmtplogin_allowplaintext", "no"),
    ]
}

/// Restores both backends.
fn as_before(world: &mut World) -> Done {
    world.murder.backends.iter_mut().try_for_each(|backend| backend.restart_with(&[]))
}
