//! TLS and passwords: which servers are trusted, and what each of them is sent.

use std::sync::atomic::Ordering::SeqCst;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;

const NAME: &str = "mu.example.org";

/// An authority, and its certificate in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let dir = tempdir();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(dir.path().join("ca.pem"), pem).unwrap();
        Self { issuer: Issuer::new(params, key), dir }
    }

    /// A server with a certificate of this authority.
    fn certify(&self, name: &str, expired: bool) -> TlsAcceptor {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config).into()
    }

    fn tls(&self) -> TlsSettings {
        TlsSettings {
            when: WhenTls::Required,
            ca_file: Some(self.dir.path().join("ca.pem")),
            client: None,
            name: Some(NAME.into()),
        }
    }
}

/// A master with this certificate that offers these mechanisms.
async fn a_master(tls: Option<TlsAcceptor>, mechanisms: &'static str) -> Server {
    Server::start_with(users(3), Ways { tls, mechanisms, ..Ways::default() }).await
}

async fn failure(murder: &MasterClient) -> String {
    let mut failure = None;
    until("it fails", async || {
        failure = murder.asker().status().failure;
        failure.is_some()
    })
    .await;
    failure.unwrap()
}

#[tokio::test]
async fn password_is_sent_under_tls_to_an_authenticated_master() {
    let authority = Authority::new("ours");
    let master = a_master(Some(authority.certify(NAME, false)), "\"PLAIN\"").await;
    let murder = to_ask(&Mupdate { tls: authority.tls(), ..mupdate(&[&master]) });
    settled(&murder).await;
    assert_eq!(*master.seen().clear.lock().unwrap(), ["S1 STARTTLS"]);
}

#[tokio::test]
async fn wrong_server_gets_no_password_and_the_reason_is_reported() {
    let [authority, namesake, other] = ["ours", "ours", "others"].map(Authority::new);
    for (certificate, says) in [
        (authority.certify(NAME, true), "has expired"),
        (other.certify(NAME, false), "is not signed by an authority in"),
        (namesake.certify(NAME, false), "is not signed by an authority in"),
        (authority.certify("evil.example.org", false), "is not for `mu.example.org`"),
    ] {
        for when in [WhenTls::Required, WhenTls::IfOffered] {
            let master = a_master(Some(certificate.clone()), "\"PLAIN\"").await;
            let tls = TlsSettings { when, ..authority.tls() };
            let allow_plaintext = true;
            let murder = to_ask(&Mupdate { tls, allow_plaintext, ..mupdate(&[&master]) });
            let why = failure(&murder).await;
            assert!(why.contains(says), "{why}");
            assert_eq!(why.matches("TLS").count(), 1, "{why}");
            is_later(&answer(&murder, "user.u1").await, says);
            assert_eq!(*master.seen().clear.lock().unwrap(), ["S1 STARTTLS"]);
            // Each attempt may end a master of 3.12.
            assert_eq!(master.seen().connections.load(SeqCst), 1);
        }
    }
}

#[tokio::test]
async fn renewed_authority_is_trusted_without_a_restart() {
    let (old, new) = (Authority::new("Old"), Authority::new("New"));
    let mut master = a_master(Some(old.certify(NAME, false)), "\"PLAIN\"").await;
    let murder = to_ask(&Mupdate { tls: old.tls(), ..mupdate(&[&master]) });
    assert_eq!(answer(&murder, "user.u1").await, Answer::At("be1".into()));
    let ca_file = old.dir.path().join("ca.pem");
    std::fs::copy(new.dir.path().join("ca.pem"), &ca_file).unwrap();
    master.ways().tls = Some(new.certify(NAME, false));
    master.kill().await;
    master.restart().await;
    let found = Answer::At("be1".into());
    until("it is believed", async || answer(&murder, "user.u1").await == found).await;
    // A file that is being written: the previous authority stays trusted.
    std::fs::write(&ca_file, "").unwrap();
    master.kill().await;
    master.restart().await;
    until("it is believed again", async || answer(&murder, "user.u1").await == found).await;
}

#[tokio::test]
async fn master_that_dies_under_tls_is_handled_like_any_other() {
    let authority = Authority::new("ours");
    let mut master = a_master(Some(authority.certify(NAME, false)), "\"PLAIN\"").await;
    let murder = to_ask(&Mupdate { tls: authority.tls(), ..mupdate(&[&master]) });
    settled(&murder).await;
    master.kill().await;
    let why = failure(&murder).await;
    assert!(why.contains("the MUPDATE server closed the connection"), "{why}");
    master.restart().await;
    settled(&murder).await;
}

#[tokio::test]
async fn forbidden_configuration_is_impossible_and_sends_no_password() {
    let authority = Authority::new("ours");
    let required = authority.tls();
    let off = TlsSettings { when: WhenTls::Off, ..TlsSettings::default() };
    for (tls, login, says) in [
        (required, credentials(PASSWORD), "does not offer STARTTLS"),
        (off.clone(), credentials(PASSWORD), "no common SASL mechanism"),
        (off, Credentials::default(), "no name and password"),
    ] {
        let master = a_master(None, "\"PLAIN\"").await;
        let murder = to_ask(&Mupdate { tls, credentials: login, ..mupdate(&[&master]) });
        failure(&murder).await;
        match murder.find(&name("user.u1")).await {
            Err(Impossible(why)) => assert!(why.contains(says), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(master.seen().clear.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn expired_certificate_does_not_let_a_slave_confirm() {
    let authority = Authority::new("ours");
    for (later, says) in
        [(Some(authority.certify(NAME, true)), "has expired"), (None, "does not offer STARTTLS")]
    {
        let mut master = a_master(Some(authority.certify(NAME, false)), "\"PLAIN\"").await;
        let murder = to_ask(&Mupdate { tls: authority.tls(), ..mupdate(&[&master]) });
        settled(&murder).await;
        master.kill().await;
        master.ways().tls = later;
        master.restart().await;
        until(says, async || murder.asker().status().failure.is_some_and(|why| why.contains(says)))
            .await;
        assert!(!murder.is_impossible(), "{says}");
        match murder.find(&name("user.stranger")).await {
            Ok(Finding::Unsure(why)) => assert!(why.contains(says), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn dead_server_may_be_the_one_that_can_be_asked() {
    let (good, bad) = (Server::start(users(3)).await, a_master(None, "\"PLAIN\"").await);
    let mut good = good;
    good.kill().await;
    let murder = to_ask(&mupdate(&[&good, &bad]));
    until("both were tried", async || {
        murder.asker().status().failure.is_some_and(|why| why.contains("SASL"))
    })
    .await;
    assert!(matches!(answer(&murder, "user.u1").await, Answer::Later(_)));
    assert!(murder.find(&name("user.u1")).await.is_ok(), "not impossible");
    good.restart().await;
    settled(&murder).await;
}

#[tokio::test]
async fn wrong_password_is_reported_and_not_retried_in_a_loop() {
    for mechanisms in ["\"PLAIN\"", "\"SCRAM-SHA-256\""] {
        let master = a_master(None, mechanisms).await;
        let mut wrong = mupdate(&[&master]);
        (wrong.credentials, wrong.allow_plaintext) = (credentials("another secret"), true);
        let murder = to_ask(&wrong);
        let why = failure(&murder).await;
        assert!(why.contains("the password is wrong") && why.contains("mupdate_admins"), "{why}");
        assert!(!why.contains("another secret"), "{why}");
        for _ in 0..1000 {
            is_later(&answer(&murder, "user.u1").await, "the password is wrong");
        }
        assert_eq!(master.seen().connections.load(SeqCst), 1);
    }
}

#[tokio::test]
async fn replica_reports_why_it_cannot_be_made() {
    let master = a_master(None, "\"PLAIN\"").await;
    let dir = tempdir();
    let murder = to_follow(&[&master], dir.path());
    until("it fails", async || {
        let doubt = replica(&murder).status().doubt;
        doubt.is_some_and(|why| why.to_string().contains("no common SASL mechanism"))
    })
    .await;
    assert_eq!(replica(&murder).link().server, None);
}

/// The master chooses the number of rounds of the hash, and mail servers need answers meanwhile.
#[tokio::test]
async fn hashing_a_password_does_not_block_the_runtime() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let master = crate::config::MasterAddress {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
    };
    let upstream = upstream(&Mupdate { servers: vec![master], ..mupdate(&[]) });
    let login = tokio::spawn(async move { upstream.log_in(0, Need::Master).await.map(drop) });
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    let banner = "* AUTH \"SCRAM-SHA-256\"\r\n\
                  * OK MUPDATE \"m.example.org\" \"Cyrus IMAP\" \"3.6.1\" \"(master)\"\r\n";
    stream.write_all(banner.as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let first = line.trim_end().rsplit(' ').next().unwrap().trim_matches('"');
    let first = String::from_utf8(STANDARD.decode(first).unwrap()).unwrap();
    let (_, nonce) = first.split_once("r=").unwrap();
    let challenge = STANDARD.encode(format!("r={nonce}x,s=QQ==,i=20000"));
    stream.write_all(format!("{challenge}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let answered = stream.read_until(b'\n', &mut answer);
    let mut answered = std::pin::pin!(answered);
    let mut turns = 0;
    loop {
        tokio::select! {
            biased;
            read = &mut answered => {
                read.unwrap();
                break;
            }
            () = tokio::time::sleep(std::time::Duration::from_millis(1)) => turns += 1,
        }
    }
    assert!(answer.len() > 20, "it was hashed: {answer:?}");
    // On this thread it would have had one turn or two.
    assert!(turns > 5, "{turns}");
    login.abort();
}
