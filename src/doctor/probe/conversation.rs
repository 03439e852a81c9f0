//! LMTP dialogues with backends, several at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::doctor::judge::lmtp::{
    Facts, LINE_LIMIT, LmtpProbe, ProbeFailure, ProbeStep, TlsOutcome,
};
use crate::master::connection::ByteStream;
use crate::model::backend::LmtpAddress;

/// Timeout of each step: name service, connection to one address, reply, TLS handshake.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for one backend, with all its addresses.
pub(super) const BACKEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of concurrent dialogues.
pub(super) const MAX_CONCURRENT: usize = 16;

/// A backend to connect to.
pub(super) struct BackendTarget {
    /// Name of the server in the list. `None`: this host.
    pub(super) server: Option<String>,
    pub(super) place: LmtpAddress,
    /// The recipient to ask for.
    pub(super) recipient: Option<String>,
}

/// Runs all dialogues. Returns the observations in the order of the backends.
pub(super) async fn run_all(us: &str, wanted: &[BackendTarget]) -> Vec<Facts> {
    let turns = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let mut talks = JoinSet::new();
    for (nth, BackendTarget { place, recipient, .. }) in wanted.iter().enumerate() {
        let turns = Arc::clone(&turns);
        let (us, place, recipient) = (us.to_owned(), place.clone(), recipient.clone());
        talks.spawn(async move {
            let _turn = turns.acquire().await;
            (nth, probe_backend(&us, &place, recipient.as_deref()).await)
        });
    }
    let nothing =
        |why: &str| Facts { failure: Some(ProbeFailure::Connect(why.into())), ..Facts::default() };
    let mut all: Vec<Facts> = wanted.iter().map(|_| nothing("it was not tried")).collect();
    while let Some(done) = talks.join_next().await {
        if let Ok((nth, facts)) = done
            && let Some(place) = all.get_mut(nth)
        {
            *place = facts;
        }
    }
    all
}

async fn probe_backend(us: &str, place: &LmtpAddress, recipient: Option<&str>) -> Facts {
    let mut probe = LmtpProbe::new(us, recipient);
    let end = Instant::now() + BACKEND_TIMEOUT;
    let connected = timeout_at(end, connect(place)).await;
    let stream = match connected.unwrap_or_else(|_| Err(late(BACKEND_TIMEOUT))) {
        Ok(stream) => stream,
        Err(why) => {
            return Facts { failure: Some(ProbeFailure::Connect(why)), ..Facts::default() };
        }
    };
    if timeout_at(end, run(stream, &mut probe)).await.is_err() {
        probe.lost("it is too slow");
    }
    // With a clock before 1970 no certificate is valid.
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Facts { at, ..probe.facts() }
}

fn late(limit: Duration) -> String {
    format!("no connection within {} s", limit.as_secs())
}

pub(super) async fn connect(place: &LmtpAddress) -> Result<Box<dyn ByteStream>, String> {
    match place {
        LmtpAddress::Unix(path) => {
            let connected = timeout(STEP_TIMEOUT, UnixStream::connect(&**path)).await;
            let stream = connected.map_err(|_| late(STEP_TIMEOUT))?.map_err(|e| e.to_string())?;
            Ok(Box::new(stream))
        }
        LmtpAddress::Inet { host, port } => {
            let found = timeout(STEP_TIMEOUT, lookup_host((&**host, *port))).await;
            let found = found.map_err(|_| "no answer of the name service".to_owned())?;
            let mut last = "the host has no address".to_owned();
            for address in found.map_err(|e| e.to_string())? {
                match timeout(STEP_TIMEOUT, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => return Ok(Box::new(stream)),
                    Ok(Err(e)) => last = e.to_string(),
                    Err(_) => last = late(STEP_TIMEOUT),
                }
            }
            Err(last)
        }
    }
}

async fn run(mut stream: Box<dyn ByteStream>, probe: &mut LmtpProbe) {
    let mut came = Vec::new();
    loop {
        let output = std::mem::take(probe.output());
        if !output.is_empty() {
            let sent = async {
                stream.write_all(&output).await?;
                stream.flush().await
            };
            match timeout(STEP_TIMEOUT, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return probe.lost(&e.to_string()),
                Err(_) => return probe.lost("it does not read its input"),
            }
        }
        match probe.step() {
            ProbeStep::Over => return,
            ProbeStep::Line => match timeout(STEP_TIMEOUT, line(&mut stream, &mut came)).await {
                Ok(Ok(line)) => probe.line(&line),
                Ok(Err(why)) => probe.lost(&why),
                Err(_) => probe.lost(&format!("no reply within {} s", STEP_TIMEOUT.as_secs())),
            },
            ProbeStep::StartTls => {
                // Cleartext input is discarded before TLS.
                came.clear();
                let begun = timeout(STEP_TIMEOUT, under_tls(stream)).await;
                let late = || Err(TlsOutcome::Failed("no answer to the handshake".into()));
                match begun.unwrap_or_else(|_| late()) {
                    Ok((encrypted, chain)) => {
                        stream = encrypted;
                        probe.tls(Ok(chain));
                    }
                    Err(outcome) => return probe.tls(Err(outcome)),
                }
            }
        }
    }
}

/// Reads the next line, without its end. `came`: input that was read and not used yet.
pub(super) async fn line(
    stream: &mut Box<dyn ByteStream>,
    came: &mut Vec<u8>,
) -> Result<Vec<u8>, String> {
    loop {
        if let Some(end) = memchr::memchr(b'\n', came) {
            let mut line: Vec<u8> = came.drain(..=end).collect();
            line.pop();
            return Ok(line);
        }
        if came.len() > LINE_LIMIT {
            return Err("its line is too long".into());
        }
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await {
            Ok(0) => return Err("it closed the connection".into()),
            Ok(read) => came.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// Starts TLS. Returns the connection and the certificates of the backend.
pub(super) async fn under_tls(
    stream: Box<dyn ByteStream>,
) -> Result<(Box<dyn ByteStream>, Vec<Vec<u8>>), TlsOutcome> {
    let failed = |e: &dyn std::fmt::Display| TlsOutcome::Failed(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    // As Postfix, which sends no server name by default (lmtp_tls_servername).
    config.enable_sni = false;
    // Unused: any certificate is accepted.
    let name = ServerName::try_from("backend").map_err(|e| failed(&e))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match connector.connect(name, stream).await {
        Ok(stream) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
            Ok((Box::new(stream), chain))
        }
        Err(e) => Err(outcome(&e)),
    }
}

/// Classifies a failed handshake. This TLS lacks features of OpenSSL: DHE, versions before 1.2, SHA-1,
/// certificates of version 1.
fn outcome(error: &std::io::Error) -> TlsOutcome {
    use rustls::AlertDescription as Alert;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let lacking = matches!(
        inner,
        Some(
            rustls::Error::PeerIncompatible(_)
                | rustls::Error::InvalidCertificate(_)
                | rustls::Error::AlertReceived(
                    Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity
                )
        )
    );
    match lacking {
        true => TlsOutcome::Untestable(error.to_string()),
        false => TlsOutcome::Failed(error.to_string()),
    }
}

/// Accepts any certificate. It is judged by the demands of Postfix afterwards, before anything
/// confidential is sent.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

    use super::*;

    #[test]
    fn handshake_that_openssl_may_know_is_no_failure() {
        for error in [
            // The alert of a server with DHE only.
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            Error::AlertReceived(AlertDescription::ProtocolVersion),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            Error::InvalidCertificate(CertificateError::BadEncoding),
        ] {
            let outcome = outcome(&io::Error::new(io::ErrorKind::InvalidData, error));
            assert!(matches!(outcome, TlsOutcome::Untestable(_)), "{outcome:?}");
        }
        for error in [
            io::Error::new(io::ErrorKind::InvalidData, Error::DecryptError),
            io::Error::from(io::ErrorKind::UnexpectedEof),
        ] {
            assert!(matches!(outcome(&error), TlsOutcome::Failed(_)), "{error}");
        }
    }
}
