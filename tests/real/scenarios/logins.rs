//! The daemon's login at the master: by every method of Cyrus, and by none that is forbidden. A daemon that
//! is not admitted logs the reason and answers from its replica.

use std::fs;

use super::beside::{becomes_unwell, becomes_well, switch};
use super::master;
use crate::exchanger::Exchanger;
use crate::root::Release;
use crate::router::Daemon;
use crate::tls::{Certificate, NAME, Tls};
use crate::world::World;
use crate::{Done, ensure};

/// One way to log in.
struct Case<'a> {
    name: &'static str,
    /// Certificate of the master.
    certificate: Option<&'a Certificate>,
    /// Lines in `[mupdate]`, without the name to log in with.
    settings: String,
    /// The login in the log, or the reason for its absence.
    says: &'static str,
    let_in: bool,
}

/// All permitted logins, followed by all refused ones.
pub fn every_login(world: &mut World) -> Done {
    let exchanger = Exchanger::make(&world.murder)?;
    let files = Tls::make(world.murder.cyrus)?;
    let before = world.setup.clone();
    // The key belongs to the daemon, not to Cyrus.
    let key = exchanger.write("admin.key", &fs::read_to_string(&files.admin.key)?)?;
    let cases = cases(&files, &key);
    let seen = cases.iter().try_for_each(|case| -> Done {
        // Restarted for each: in 3.2 and 3.6 the master's mupdate crashes whenever a connection under TLS
        // ends, since that frees the TLS of the whole process (imap/mupdate.c:conn_free); in 3.12 it ends
        // when a handshake fails. After some crashes in a row it is not started again.
        world.murder.master.restart_with(&options(world.release, &files, case))?;
        let seen = one(world, &exchanger, case);
        seen.map_err(|e| format!("{}: {e}", case.name).into())
    });
    world.murder.master.restart_with(&[])?;
    switch(world, before)?;
    seen?;
    becomes_well(world)
}

fn cases<'a>(files: &'a Tls, key: &str) -> Vec<Case<'a>> {
    let verified = format!(
        "tls = \"required\"\n\
         tls-name = {NAME:?}\n\
         ca-file = {:?}\n",
        files.authority
    );
    let password = "password-file = \"password\"\n";
    let under_tls = format!("{verified}{password}");
    let in_clear = format!("tls = \"off\"\n{password}");
    let client = format!("certificate = {:?}\nkey = {key:?}\n", files.admin.certificate);
    let plain = "mechanisms = [\"PLAIN\"]\n";
    let case = |name, certificate, settings: &[&str], says, let_in| Case {
        name,
        certificate,
        settings: settings.concat(),
        says,
        let_in,
    };
    let good = Some(&files.good);
    vec![
        case("SCRAM under TLS", good, &[&under_tls], "(SCRAM-SHA-256, TLS)", true),
        case("PLAIN under TLS", good, &[&under_tls, plain], "(PLAIN, TLS)", true),
        case("with a certificate", good, &[&verified, &client], "(EXTERNAL, TLS)", true),
        case("SCRAM without TLS", good, &[&in_clear], "(SCRAM-SHA-256)", true),
        case(
            "PLAIN without TLS, as allowed",
            None,
            &[&in_clear, plain, "allow-plaintext = true\n"],
            "(PLAIN)",
            true,
        ),
        case(
            "wrong password",
            good,
            &[&verified, "password-file = \"wrong-password\"\n"],
            "the password is wrong",
            false,
        ),
        case(
            "certificate by an untrusted authority",
            Some(&files.foreign),
            &[&under_tls],
            "is not signed by an authority in",
            false,
        ),
        case("expired certificate", Some(&files.expired), &[&under_tls], "has expired", false),
        case(
            "certificate for another name",
            Some(&files.misnamed),
            &[&under_tls],
            "is not for `mupdate.murder.test`",
            false,
        ),
        case("PLAIN without TLS", None, &[&in_clear, plain], "no common SASL mechanism", false),
        case("no TLS", None, &[&under_tls], "does not offer STARTTLS", false),
    ]
}

/// Lines of the master's imapd.conf for this case.
fn options<'a>(
    release: Release,
    files: &'a Tls,
    case: &'a Case<'_>,
) -> Vec<(&'static str, &'a str)> {
    let Some(certificate) = case.certificate else { return Vec::new() };
    let mut options = vec![
        ("sasl_mech_list", "EXTERNAL SCRAM-SHA-256 SCRAM-SHA-1 PLAIN"),
        ("allowplaintext", "no"),
        ("tls_client_ca_file", &*files.authority),
        ("tls_server_cert", &*certificate.certificate),
        ("tls_server_key", &*certificate.key),
    ];
    // Later releases offer no STARTTLS without it; the others do not have the option.
    if release >= Release::V3_10 {
        options.push(("allowstarttls", "yes"));
    }
    options
}

fn one(world: &mut World, exchanger: &Exchanger, case: &Case<'_>) -> Done {
    let logged = Daemon::log()?.len();
    switch(world, exchanger.by_file("login", &case.settings)?)?;
    let said = match case.let_in {
        true => becomes_well(world).and_then(|()| world.recovers()),
        false => becomes_unwell(world, case.says)
            .and_then(|()| master::known_arrive_and_misses_wait(world)),
    };
    let log = Daemon::log()?.split_off(logged);
    said.map_err(|e| format!("{e}\n{log}"))?;
    ensure!(log.contains(case.says), "{:?} is not in the log: {log}", case.says);
    ensure!(!log.contains("somebody else's"), "the password is in the log: {log}");
    Ok(())
}
