//! Certificates for the backends and the master: a valid one, and one for each fault.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

use crate::Done;
use crate::murder::ADMIN;
use crate::sandbox::{self, STATE, User};

/// Name in the valid certificate.
pub const NAME: &str = "mupdate.murder.test";

/// Names in those of the backends.
pub const BACKENDS: [&str; 2] = ["be1.murder.test", "be2.murder.test"];

/// Paths of a certificate and its key; Cyrus may read both.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

/// All certificates.
pub struct Tls {
    /// Path of the certificate of the trusted authority.
    pub authority: String,
    /// By the authority, for [`NAME`].
    pub good: Certificate,
    /// By the authority, for [`NAME`], expired.
    pub expired: Certificate,
    /// For [`NAME`], by an untrusted authority.
    pub foreign: Certificate,
    /// By the authority, for another name.
    pub misnamed: Certificate,
    /// By the authority, for the admin to log in with.
    pub admin: Certificate,
    /// By the authority, for the backends.
    pub backends: [Certificate; 2],
}

impl Tls {
    /// Creates them below the state of the run.
    pub fn make(cyrus: User) -> Done<Self> {
        let dir = format!("{STATE}/tls");
        sandbox::make_dir(&dir, cyrus)?;
        let (trusted, stranger) = (authority("Murder")?, authority("Stranger")?);
        let path = format!("{dir}/authority.pem");
        fs::write(&path, trusted.pem())?;
        let make = |file: &str, issuer: &Issuer, name: &str, last_year: i32| {
            let key = KeyPair::generate()?;
            let mut params = params(name, last_year)?;
            params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into()?)];
            let signed = params.signed_by(&key, issuer)?;
            let certificate = Certificate {
                certificate: format!("{dir}/{file}.pem"),
                key: format!("{dir}/{file}.key"),
            };
            fs::write(&certificate.certificate, signed.pem())?;
            fs::write(&certificate.key, key.serialize_pem())?;
            chown(&certificate.key, Some(cyrus.uid), Some(cyrus.gid))?;
            fs::set_permissions(&certificate.key, Permissions::from_mode(0o600))?;
            Done::Ok(certificate)
        };
        Ok(Self {
            authority: path,
            good: make("good", &trusted, NAME, FAR_YEAR)?,
            expired: make("expired", &trusted, NAME, 2021)?,
            foreign: make("foreign", &stranger, NAME, FAR_YEAR)?,
            misnamed: make("misnamed", &trusted, "elsewhere.test", FAR_YEAR)?,
            admin: make("admin", &trusted, ADMIN, FAR_YEAR)?,
            backends: [
                make("be1", &trusted, BACKENDS[0], FAR_YEAR)?,
                make("be2", &trusted, BACKENDS[1], FAR_YEAR)?,
            ],
        })
    }
}

const FAR_YEAR: i32 = 2100;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Done<Issuer> {
    let mut params = params(name, FAR_YEAR)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn params(name: &str, last_year: i32) -> Done<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    Ok(params)
}
