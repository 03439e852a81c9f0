//! The master changes: its login settings, its list, its host, its free connections. Dozens of mailboxes
//! change at once. Recipients known to the frontend are delivered all the while.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error, RootCertStore};

use crate::clients::Connection;
use crate::murder::{Access, MASTER, Role};
use crate::sandbox;
use crate::tls::{self, Certificate, Tls};
use crate::world::World;
use crate::{Done, ensure, run};

/// Number of mailboxes that are created, changed and moved together.
const MANY: usize = 24;

/// PLAIN or SCRAM, with or without TLS: Cyrus' own client, a backend and the frontend's slave find each
/// login that the master permits, and a wrong password is refused. The daemon does not trust the private
/// authority: without the master it answers for known recipients.
pub fn every_way_in(world: &mut World) -> Done {
    let tls = Tls::make(world.murder.cyrus)?;
    for mechanism in ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256"] {
        logs_in(mechanism, false)?;
    }
    let ways = [
        Access { mechanisms: "SCRAM-SHA-1", plaintext: false, certificate: None },
        Access { mechanisms: "PLAIN", plaintext: false, certificate: Some(&tls.good) },
        Access { mechanisms: "SCRAM-SHA-256", plaintext: false, certificate: Some(&tls.good) },
    ];
    for (nth, access) in ways.iter().enumerate() {
        world.murder.restart_master(access)?;
        logs_in(access.mechanisms, access.certificate.is_some())?;
        hosts_find_the_way(world, &format!("user/entrant{nth}"))?;
        world.existing_are_not_refused()?;
    }
    for (mechanism, password) in [("SCRAM-SHA-256", "wrong"), ("PLAIN", "cyrus")] {
        // It may exit with an error or not.
        let said = mupdatetest(mechanism, false, password).unwrap_or_else(|e| e.to_string());
        let begun = said.contains("* OK MUPDATE") && !said.contains("Authenticated.");
        ensure!(begun, "{mechanism} in the clear, password {password}: {said}");
    }
    usual_again(world)
}

/// Restores the master. After a refused login the daemon waits longer than this test can.
fn usual_again(world: &mut World) -> Done {
    world.murder.restart_master(&Access::usual(Role::Master))?;
    world.daemon.stop()?;
    world.daemon.resume()?;
    world.recovers()
}

/// A backend tells the master of a new mailbox, and the master tells the frontend.
fn hosts_find_the_way(world: &World, mailbox: &str) -> Done {
    world.murder.backends[0].admin()?.command(&format!("CREATE {mailbox}"))?;
    let mut frontend = world.murder.frontend.admin()?;
    sandbox::poll(&format!("the frontend to know {mailbox}"), 30, || {
        let listed = frontend.command(&format!("LIST \"\" {mailbox}"))?;
        Ok((!listed.is_empty()).then_some(()))
    })
}

fn logs_in(mechanism: &str, starttls: bool) -> Done {
    let said = let_in(mechanism, starttls)?;
    let strength = if starttls { "Security strength factor: 256" } else { "" };
    for wanted in ["Authenticated.", strength, &format!("AUTHENTICATE \"{mechanism}\"")] {
        ensure!(said.contains(wanted), "{mechanism}: no {wanted:?} in {said}");
    }
    Ok(())
}

/// Output of Cyrus' own client for a successful login. While the slave and the daemon reconnect to a master
/// that was just started, a correct handshake with 3.12 may fail. Only that is tried again.
fn let_in(mechanism: &str, starttls: bool) -> Done<String> {
    sandbox::poll("a TLS handshake with the master", 10, || {
        match mupdatetest(mechanism, starttls, "cyrus") {
            Err(e) if e.to_string().contains("TLS negotiation failed!") => Err(e),
            said => Ok(Some(said)),
        }
    })?
}

/// Output of Cyrus' own client for a login at the master.
fn mupdatetest(mechanism: &str, starttls: bool, password: &str) -> Done<String> {
    let mut client = sandbox::command("mupdatetest");
    if starttls {
        client.args(["-t", ""]);
    }
    run(client.args(["-m", mechanism, "-a", "cyrus", "-u", "cyrus", "-w", password, MASTER]))
}

/// Each certificate has its intended property, and the master shows each of them.
pub fn every_certificate(world: &mut World) -> Done {
    let tls = Tls::make(world.murder.cyrus)?;
    let wrong = |certificate: &Certificate| match verify(&tls, certificate)? {
        Err(Error::InvalidCertificate(why)) => Done::Ok(why),
        other => Err(format!("{}: {other:?}", certificate.certificate).into()),
    };
    let good = verify(&tls, &tls.good)?;
    let (expired, foreign) = (wrong(&tls.expired)?, wrong(&tls.foreign)?);
    let misnamed = wrong(&tls.misnamed)?;
    ensure!(good.is_ok(), "the valid certificate: {good:?}");
    ensure!(matches!(expired, CertificateError::ExpiredContext { .. }), "{expired:?}");
    ensure!(matches!(foreign, CertificateError::UnknownIssuer), "{foreign:?}");
    ensure!(matches!(misnamed, CertificateError::NotValidForNameContext { .. }), "{misnamed:?}");

    for certificate in [&tls.expired, &tls.foreign, &tls.misnamed] {
        let access = Access { certificate: Some(certificate), ..Access::usual(Role::Master) };
        world.murder.restart_master(&access)?;
        let said = let_in("PLAIN", true)?;
        let shown = said.contains("TLS connection established");
        ensure!(shown, "{}: {said}", certificate.certificate);
    }
    usual_again(world)
}

/// As a client that trusts only the authority.
fn verify(tls: &Tls, certificate: &Certificate) -> Done<Result<(), Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&tls.authority)?)?;
    let provider = Arc::new(default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build()?;
    let shown = CertificateDer::from_pem_file(&certificate.certificate)?;
    let name = ServerName::try_from(tls::NAME)?;
    Ok(verifier.verify_server_cert(&shown, &[], &name, &[], UnixTime::now()).map(drop))
}

/// The slave empties the frontend's list as soon as the master has an empty one. No recipient is refused
/// because of that, and the state ends when the backends have pushed their mailboxes.
pub fn master_forgets(world: &mut World) -> Done {
    world.murder.restart_master_empty()?;
    sandbox::poll("the frontend's list to be empty", 30, || {
        let lookup = world.setup.lookup_one("jane@example.org")?;
        Ok((lookup.outcome != "deliver").then_some(()))
    })?;
    let seen = world.existing_are_not_refused();
    for backend in &mut world.murder.backends {
        backend.stop()?;
        backend.start()?;
    }
    seen?;
    world.recovers()
}

/// The master is lost, and another host with the list of a slave replaces it.
pub fn slave_is_promoted(world: &mut World) -> Done {
    world.murder.promote_slave()?;
    world.recovers()?;
    let [be1, _] = &world.murder.backends;
    be1.admin()?.command("CREATE user/successor")?;
    world.moves_to("successor@example.org", be1)?;
    world.arrives("successor@example.org", be1, "successor", "INBOX")
}

/// Another client holds all connections of the master.
pub fn connections_are_taken(world: &World) -> Done {
    let held = world.murder.hold_connections(200)?;
    ensure!((100..=128).contains(&held.len()), "{} connections could be opened", held.len());
    let told = Connection::open(&format!("{MASTER}:3905"))?.line()?;
    ensure!(told.starts_with("* BYE"), "one more connection received {told}");
    let [be1, be2] = &world.murder.backends;
    world.arrives("jane@example.org", be1, "jane", "INBOX")?;
    world.arrives("max@example.org", be2, "max", "INBOX")?;
    world.existing_are_not_refused()?;
    drop(held);
    sandbox::poll("the master to have free connections", 30, || world.murder.mupdate().map(Some))?;
    world.recovers()
}

/// Dozens of mailboxes are created, renamed and moved; each gets its mail at its present backend.
pub fn many_come_and_move(world: &World) -> Done {
    let [be1, be2] = &world.murder.backends;
    let numbered = |name: &'static str| (0..MANY).map(move |nth| format!("{name}{nth}"));
    be1.create_many("crowd", MANY)?;
    be1.rename_many("crowd", "throng", MANY)?;
    for user in numbered("throng") {
        world.moves_to(&format!("{user}@example.org"), be1)?;
    }
    be1.xfer_many("throng", MANY, be2)?;
    for user in numbered("throng") {
        let recipient = format!("{user}@example.org");
        world.moves_to(&recipient, be2)?;
        world.arrives(&recipient, be2, &user, "INBOX")?;
    }
    numbered("crowd").try_for_each(|user| world.becomes_unknown(&format!("{user}@example.org")))
}
