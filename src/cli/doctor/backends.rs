//! Talks LMTP to backends, several at a time.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backend::Place;
use crate::doctor::lmtp::{Conversation, Facts, Failure, LINE_LIMIT, Step};

/// For the name service, for each address to take the connection, for each reply and for TLS.
const PATIENCE: Duration = Duration::from_secs(10);

/// For a whole backend, however many addresses its name has.
const ALL_OF_IT: Duration = Duration::from_secs(60);

/// So many backends are talked to at once.
const AT_ONCE: usize = 16;

/// A conversation to be had.
pub(super) struct Wanted {
    /// The server as the list calls it; `None`: this host.
    pub(super) server: Option<String>,
    pub(super) place: Place,
    /// Whom to ask for.
    pub(super) recipient: Option<String>,
}

/// Has all the conversations; what came of each, in their order.
pub(super) async fn talk(us: &str, wanted: &[Wanted]) -> Vec<Facts> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut talks = JoinSet::new();
    for (nth, Wanted { place, recipient, .. }) in wanted.iter().enumerate() {
        let turns = Arc::clone(&turns);
        let (us, place, recipient) = (us.to_owned(), place.clone(), recipient.clone());
        talks.spawn(async move {
            let _turn = turns.acquire().await;
            (nth, talk_to(&us, &place, recipient.as_deref()).await)
        });
    }
    let nothing =
        |why: &str| Facts { failure: Some(Failure::Connect(why.into())), ..Facts::default() };
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

async fn talk_to(us: &str, place: &Place, recipient: Option<&str>) -> Facts {
    let mut conversation = Conversation::new(us, recipient);
    let end = Instant::now() + ALL_OF_IT;
    let connected = timeout_at(end, connect(place)).await;
    let stream = match connected.unwrap_or_else(|_| Err(late(ALL_OF_IT))) {
        Ok(stream) => stream,
        Err(why) => {
            return Facts { failure: Some(Failure::Connect(why)), ..Facts::default() };
        }
    };
    if timeout_at(end, hold(stream, &mut conversation)).await.is_err() {
        conversation.lost("it takes its time over everything");
    }
    conversation.facts()
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

fn late(patience: Duration) -> String {
    format!("no connection within {} s", patience.as_secs())
}

async fn connect(place: &Place) -> Result<Box<dyn Stream>, String> {
    match place {
        Place::Unix(path) => {
            let connected = timeout(PATIENCE, UnixStream::connect(&**path)).await;
            let stream = connected.map_err(|_| late(PATIENCE))?.map_err(|e| e.to_string())?;
            Ok(Box::new(stream))
        }
        Place::Inet { host, port } => {
            let found = timeout(PATIENCE, lookup_host((&**host, *port))).await;
            let found = found.map_err(|_| "the name service does not answer".to_owned())?;
            let mut last = "the host has no address".to_owned();
            for address in found.map_err(|e| e.to_string())? {
                match timeout(PATIENCE, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => return Ok(Box::new(stream)),
                    Ok(Err(e)) => last = e.to_string(),
                    Err(_) => last = late(PATIENCE),
                }
            }
            Err(last)
        }
    }
}

async fn hold(mut stream: Box<dyn Stream>, conversation: &mut Conversation) {
    let mut came = Vec::new();
    loop {
        let output = std::mem::take(conversation.output());
        if !output.is_empty() {
            let sent = async {
                stream.write_all(&output).await?;
                stream.flush().await
            };
            match timeout(PATIENCE, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return conversation.lost(&e.to_string()),
                Err(_) => return conversation.lost("it does not read what is sent to it"),
            }
        }
        match conversation.step() {
            Step::Over => return,
            Step::Line => match timeout(PATIENCE, line(&mut stream, &mut came)).await {
                Ok(Ok(line)) => conversation.line(&line),
                Ok(Err(why)) => conversation.lost(&why),
                Err(_) => conversation.lost(&format!("no reply within {} s", PATIENCE.as_secs())),
            },
            Step::StartTls => {
                // What came in the clear counts for nothing under TLS.
                came.clear();
                let begun = timeout(PATIENCE, under_tls(stream)).await;
                match begun.unwrap_or_else(|_| Err("no answer to the handshake".into())) {
                    Ok(encrypted) => {
                        stream = encrypted;
                        conversation.tls(Ok(()));
                    }
                    Err(why) => return conversation.tls(Err(why)),
                }
            }
        }
    }
}

/// The next line, without its end; `came` has what came and was not taken yet.
async fn line(stream: &mut Box<dyn Stream>, came: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    loop {
        if let Some(end) = memchr::memchr(b'\n', came) {
            let mut line: Vec<u8> = came.drain(..=end).collect();
            line.pop();
            return Ok(line);
        }
        if came.len() > LINE_LIMIT {
            return Err("a line without end".into());
        }
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await {
            Ok(0) => return Err("it closed the connection".into()),
            Ok(read) => came.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Err(e) => return Err(e.to_string()),
        }
    }
}

async fn under_tls(stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    // Of no meaning where any certificate will do.
    let name = ServerName::try_from("backend").map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(e) => Err(e.to_string()),
    }
}

/// Takes any certificate: it is only tried whether TLS comes about, and nothing is told that not
/// everybody may hear. What Postfix demands of a certificate is Postfix' to say.
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
