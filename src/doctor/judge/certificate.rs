//! Judges a backend's certificate as Postfix does: its chain by the CAs of the transport, and its
//! names.
//!
//! Postfix uses OpenSSL, which supports more than the library here. Cases for OpenSSL only are
//! [`CertificateVerdict::Unknown`], never errors.

use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

/// Verdict of Postfix on a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateVerdict {
    /// Trusted, and for the right name.
    Good,
    /// Not signed by a CA in the file.
    Untrusted(String),
    /// Refused for another reason.
    Bad(String),
    /// Cannot be judged here.
    Unknown(String),
}

/// The certificates in a PEM file, in DER.
///
/// # Errors
///
/// If there is no certificate, or it is damaged.
pub fn authorities(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let read = CertificateDer::pem_slice_iter(text.as_bytes());
    let read: Result<Vec<_>, _> = read.map(|der| der.map(|der| der.to_vec())).collect();
    match read {
        Ok(read) if read.is_empty() => Err("there is no certificate in it".into()),
        read => read.map_err(|e| e.to_string()),
    }
}

/// Judges a chain, the server's own certificate first. `names`: the names that Postfix matches, `name`
/// or `.domain` for everything below it; `now`: since 1970.
pub fn judge(
    chain: &[Vec<u8>],
    authorities: &[Vec<u8>],
    names: &[String],
    now: Duration,
) -> CertificateVerdict {
    let Some((own, intermediates)) = chain.split_first() else {
        return CertificateVerdict::Unknown("it sent no certificate".into());
    };
    let own_der = CertificateDer::from(own.as_slice());
    let certificate = match EndEntityCert::try_from(&own_der) {
        Ok(certificate) => certificate,
        Err(e) => {
            return CertificateVerdict::Unknown(format!("its certificate is unusual ({e})"));
        }
    };
    match chained(&certificate, own, intermediates, authorities, now) {
        CertificateVerdict::Good => named(&certificate, names),
        other => other,
    }
}

fn chained(
    certificate: &EndEntityCert<'_>,
    own: &[u8],
    intermediates: &[Vec<u8>],
    authorities: &[Vec<u8>],
    now: Duration,
) -> CertificateVerdict {
    let roots: Vec<CertificateDer<'_>> =
        authorities.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors: Vec<TrustAnchor<'_>> =
        roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    let between: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let verified = certificate.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &between,
        UnixTime::since_unix_epoch(now),
        KeyUsage::server_auth(),
        None,
        None,
    );
    let Err(error) = verified else { return CertificateVerdict::Good };
    // OpenSSL accepts a certificate that is itself in the CA file.
    let is_listed = authorities.iter().any(|der| der == own);
    match error {
        Error::CertExpired { .. } => CertificateVerdict::Bad("its certificate has expired".into()),
        Error::CertNotValidYet { .. } => {
            CertificateVerdict::Bad("its certificate is not valid yet".into())
        }
        Error::UnknownIssuer | Error::CaUsedAsEndEntity if is_listed => CertificateVerdict::Good,
        Error::UnknownIssuer if anchors.len() == authorities.len() => {
            CertificateVerdict::Untrusted(
                "its certificate is not signed by a CA in the file".into(),
            )
        }
        // A CA with a new key under its old name.
        Error::InvalidSignatureForPublicKey => CertificateVerdict::Untrusted(
            "its certificate is signed with another key than that of the CA in the file".into(),
        ),
        other => {
            CertificateVerdict::Unknown(format!("its certificate cannot be judged here ({other})"))
        }
    }
}

fn named(certificate: &EndEntityCert<'_>, names: &[String]) -> CertificateVerdict {
    let presented: Vec<&str> = certificate.valid_dns_names().collect();
    if presented.is_empty() {
        let why = "its certificate has no DNS name, so that its common name or address counts";
        return CertificateVerdict::Unknown(why.into());
    }
    if names.iter().any(|name| presented.iter().any(|pattern| fits(pattern, name))) {
        return CertificateVerdict::Good;
    }
    let presented: Vec<String> = presented.iter().map(|name| super::one_line(name)).collect();
    let (presented, names) = (presented.join(", "), names.join(", "));
    // Newer Postfix releases let OpenSSL compare addresses, older ones compare text only.
    if names.split(", ").any(|name| name.parse::<std::net::IpAddr>().is_ok()) {
        let why =
            format!("its certificate is for {presented}, and perhaps for the address {names}");
        return CertificateVerdict::Unknown(why);
    }
    CertificateVerdict::Bad(format!("its certificate is for {presented}, not for {names}"))
}

/// Whether a name in a certificate, possibly with `*` as its first label, matches.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
    let (pattern, name) = (pattern.trim_end_matches('.'), name.trim_end_matches('.'));
    if name.starts_with('.') {
        return pattern.len() > name.len() && pattern.ends_with(name);
    }
    match pattern.strip_prefix("*.") {
        Some(domain) => name.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd,
    };

    use super::*;

    /// 2025-06-15.
    const NOW: Duration = Duration::from_secs(1_749_945_600);

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new(name: &str) -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn der(&self) -> Vec<u8> {
            self.0.der().to_vec()
        }

        /// Valid from one year to another.
        fn signs(&self, names: &[&str], from: i32, to: i32) -> Vec<u8> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
            params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().to_vec()
        }
    }

    fn of(chain: &[Vec<u8>], authorities: &[Vec<u8>], name: &str) -> CertificateVerdict {
        judge(chain, authorities, &[name.to_owned()], NOW)
    }

    fn bad(verdict: CertificateVerdict) -> String {
        match verdict {
            CertificateVerdict::Bad(why) | CertificateVerdict::Untrusted(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn chain_and_name_decide() {
        let (ours, other) = (Authority::new("ours"), Authority::new("other"));
        let good = [ours.signs(&["be1.example.org"], 2020, 2030)];
        let trusted = [other.der(), ours.der()];
        assert_eq!(of(&good, &trusted, "BE1.example.org"), CertificateVerdict::Good);
        assert_eq!(of(&good, &trusted, ".example.org"), CertificateVerdict::Good);
        let why = bad(of(&good, &trusted, "be2.example.org"));
        assert!(why.contains("for be1.example.org, not for be2.example.org"), "{why}");
        let why = bad(of(&good, &[other.der()], "be1.example.org"));
        assert!(why.contains("not signed by a CA"), "{why}");
        bad(of(&good, &[], "be1.example.org"));
        let again = Authority::new("ours");
        let good = again.signs(&["be1.example.org"], 2020, 2030);
        assert!(bad(of(&[good], &trusted, "be1.example.org")).contains("sign"));
        for (from, to, says) in [(2010, 2020, "expired"), (2029, 2030, "not valid yet")] {
            let stale = ours.signs(&["be1.example.org"], from, to);
            assert!(bad(of(&[stale], &trusted, "be1.example.org")).contains(says));
        }
    }

    #[test]
    fn certificate_that_is_in_the_file_itself_is_trusted() {
        for is_ca in [true, false] {
            let mut params = CertificateParams::new(["be1.example.org".to_owned()]).unwrap();
            if is_ca {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }
            let key = KeyPair::generate().unwrap();
            let own = params.self_signed(&key).unwrap().der().to_vec();
            let chain = [own.clone()];
            assert_eq!(of(&chain, &[own], "be1.example.org"), CertificateVerdict::Good, "{is_ca}");
        }
    }

    #[test]
    fn certificate_that_only_openssl_can_judge_is_no_error() {
        let ours = Authority::new("ours");
        let nameless = ours.signs(&[], 2020, 2030);
        assert!(matches!(of(&[nameless], &[ours.der()], "be1"), CertificateVerdict::Unknown(_)));
        let by_address = ours.signs(&["be1.example.org"], 2020, 2030);
        assert!(matches!(
            of(&[by_address], &[ours.der()], "192.0.2.1"),
            CertificateVerdict::Unknown(_)
        ));
        assert!(matches!(of(&[], &[ours.der()], "be1"), CertificateVerdict::Unknown(_)));
        assert!(matches!(
            of(&[b"x".to_vec()], &[ours.der()], "be1"),
            CertificateVerdict::Unknown(_)
        ));
    }

    #[test]
    fn names_are_compared_as_postfix_does() {
        for (presented, name, expected) in [
            ("*.example.org", "be1.example.org", true),
            ("*.example.org", "a.be1.example.org", false),
            ("*.example.org", "example.org", false),
            ("example.org", ".example.org", false),
            ("be1.example.org.", "be1.example.org", true),
        ] {
            assert_eq!(fits(presented, name), expected, "{presented} {name}");
        }
    }

    #[test]
    fn file_without_a_certificate_is_an_error() {
        assert!(authorities("").unwrap_err().contains("no certificate"));
        assert!(
            authorities("-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n").is_err()
        );
        let ours = Authority::new("ours");
        assert_eq!(authorities(&ours.0.pem()).unwrap(), [ours.der()]);
    }
}
