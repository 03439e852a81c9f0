//! TLS to a master, with its certificate checked.
//!
//! Cyrus' own clients check no certificate at all (`imap/tls.c:tls_init_clientengine`). We check the
//! chain and the name: an attacker between us and the master could have all mail sent elsewhere.

use std::error::Error as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};

use crate::config::{self, ClientCertificate};
use crate::model::shown::Shown;
use crate::mupdate::Failure;
use crate::os::regular_file;

/// Maximum size of a file of certificates or keys, in bytes. All authorities of a system take 250 kB.
const PEM_LIMIT: u64 = 16 << 20;

/// Client side of TLS, for any server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct TlsClient {
    config: Arc<ClientConfig>,
    /// Whether it has a client certificate.
    pub(crate) shows_certificate: bool,
}

impl TlsClient {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// Which file cannot be used, and why.
    pub(crate) fn new(files: &config::TlsSettings) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots(files.ca_file.as_deref())?);
        let mut config = match &files.client {
            None => builder.with_no_client_auth(),
            Some(ClientCertificate { certificate, key }) => {
                let chain = certificates(certificate)?;
                let said = |e: &dyn std::fmt::Display| format!("{}: {e}", key.display());
                private(key).map_err(|e| said(&e))?;
                let pem = regular_file::read(key, PEM_LIMIT).map_err(|e| said(&e))?;
                let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| said(&e))?;
                builder.with_client_auth_cert(chain, private).map_err(|e| said(&e))?
            }
        };
        // Cyrus refuses to resume a session where it stores none (`tls_session_timeout: 0`), and a
        // connection of ours lives for days.
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), shows_certificate: files.client.is_some() })
    }

    /// The connector.
    pub(crate) fn connector(&self) -> tokio_rustls::TlsConnector {
        Arc::clone(&self.config).into()
    }
}

/// Parses the name that a server's certificate must have.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    let named = ServerName::try_from(name.to_owned());
    named.map_err(|_| format!("`{}` can stand in no certificate", Shown(name)))
}

/// Checks the mode of a key, as of a password file: a user that reads it may log in to the master,
/// which has admins only.
fn private(key: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(key).map_err(|e| e.to_string())?;
    let mode = metadata.permissions().mode() & 0o777;
    match mode & 0o027 {
        0 => Ok(()),
        _ => Err(format!(
            "a private key with mode {mode:04o}: others must not read it, and only its owner may \
             write it (chmod 0640)"
        )),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let pem = regular_file::read(path, PEM_LIMIT).map_err(|e| said(&e))?;
    let read = CertificateDer::pem_slice_iter(&pem);
    let read = read.collect::<Result<Vec<_>, _>>().map_err(|e| said(&e))?;
    if read.is_empty() {
        return Err(said(&"there is no certificate in it"));
    }
    Ok(read)
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    Ok(roots)
}

/// The failure of a handshake.
pub(crate) fn failure(error: &io::Error, name: &str, ca_file: Option<&Path>) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let tls = tls.or_else(|| error.source().and_then(|s| s.downcast_ref::<rustls::Error>()));
    match tls {
        Some(rustls::Error::InvalidCertificate(wrong)) => {
            Failure::Untrusted(explain_certificate(wrong, name, ca_file))
        }
        Some(other) => Failure::Tls(other.to_string()),
        None => Failure::Tls(error.to_string()),
    }
}

/// Explains what is wrong with a certificate, and what to do.
fn explain_certificate(wrong: &CertificateError, name: &str, ca_file: Option<&Path>) -> String {
    let believed = match ca_file {
        Some(path) => format!("by an authority in {}", path.display()),
        None => "by an authority of this system; set `ca-file` for a private one".to_owned(),
    };
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: renew it".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: are the clocks right?".to_owned()
        }
        // The second is the error for an authority that was created anew under its old name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("the server's certificate is not signed {believed}")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the server's certificate is not for `{name}`; if it is the right server, set \
                 `tls-name` to a name in it"
            )
        }
        other => format!("the server's certificate cannot be believed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let files =
            config::TlsSettings { ca_file: Some(path.clone()), ..config::TlsSettings::default() };
        for (text, says) in [
            (None, "No such file"),
            (Some("nothing"), "no certificate in it"),
            (Some("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"), "ca.pem"),
        ] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let why = TlsClient::new(&files).unwrap_err();
            assert!(why.contains("ca.pem") && why.contains(says), "{why}");
        }
    }

    #[test]
    fn key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] =
            ["one", "other"].map(|n| rcgen::generate_simple_self_signed([n.to_owned()]).unwrap());
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&certificate, one.cert.pem()).unwrap();
        let ca_file = Some(certificate.clone());
        let client = Some(ClientCertificate { certificate, key: key.clone() });
        let files = config::TlsSettings { ca_file, client, ..config::TlsSettings::default() };
        std::fs::write(&key, one.signing_key.serialize_pem()).unwrap();
        for mode in [0o644, 0o660, 0o604] {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            let why = TlsClient::new(&files).unwrap_err();
            assert!(why.contains("key.pem: a private key with mode 06"), "{why}");
        }
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
        assert!(TlsClient::new(&files).unwrap_err().contains("key.pem"));
        std::fs::write(&key, one.signing_key.serialize_pem()).unwrap();
        assert!(TlsClient::new(&files).unwrap().shows_certificate);
    }
}
