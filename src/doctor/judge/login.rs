//! Plan for a trial of the login that Postfix would make at a backend.

use super::certificate::CertificateVerdict;
use super::client::Client;
use super::lmtp::{Facts, TlsOutcome};
use super::postfix::tls::Level;
use crate::lmtp::LmtpPolicy;
use crate::mupdate::{Mechanism, WhenTls};

/// Whether to try the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginPlan {
    /// There is no login, or the obstacle is reported elsewhere.
    Nothing,
    /// It cannot be tried here, for this reason.
    Skip(String),
    /// Try it.
    Try(Attempt),
}

/// A login to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// LmtpPolicy of the login. PLAIN is used wherever Postfix uses it.
    pub policy: LmtpPolicy,
    /// The certificate that was judged. The password is sent to its holder only.
    pub certificate: Option<Vec<u8>>,
}

/// Plans the login. A backend gets nothing that Postfix would not send it.
pub fn plan(facts: &Facts, client: &Client) -> LoginPlan {
    let Some(credentials) = client.credentials.as_ref().filter(|_| facts.wants_login()) else {
        return LoginPlan::Nothing;
    };
    let level = client.tls.level;
    if level != Level::None && matches!(facts.tls, Some(TlsOutcome::Untestable(_))) {
        return LoginPlan::Skip("its TLS is not supported here".into());
    }
    let tls = client.uses_tls(facts);
    if level.demands_tls() && !tls {
        return LoginPlan::Nothing;
    }
    match level {
        Level::Fingerprint | Level::DaneOnly | Level::Unknown => {
            return LoginPlan::Skip(
                "it is not known whether Postfix trusts the certificate".into(),
            );
        }
        level if level.verifies() => match client.tls.verdict(&facts.chain, facts.at) {
            CertificateVerdict::Good => {}
            CertificateVerdict::Unknown(_) => {
                return LoginPlan::Skip(
                    "it is not known whether Postfix trusts the certificate".into(),
                );
            }
            CertificateVerdict::Untrusted(_) | CertificateVerdict::Bad(_) => {
                return LoginPlan::Nothing;
            }
        },
        _ => {}
    }
    let usable = client.usable(facts);
    if usable.is_empty() {
        return LoginPlan::Nothing;
    }
    let known = |mechanism: &Mechanism| usable.contains(&mechanism.as_str());
    let mechanisms: Vec<Mechanism> = Mechanism::ALL.into_iter().filter(known).collect();
    if mechanisms.is_empty() {
        return LoginPlan::Skip(format!("{} is not supported here", usable.join(" ")));
    }
    let policy = LmtpPolicy {
        tls: if tls { WhenTls::Required } else { WhenTls::Off },
        allow_plaintext: true,
        credentials: Some(credentials.clone()),
        mechanisms: Some(mechanisms),
    };
    LoginPlan::Try(Attempt { policy, certificate: facts.chain.first().filter(|_| tls).cloned() })
}

#[cfg(test)]
mod tests {
    use super::super::lmtp::LmtpReply;
    use super::super::postfix::settings::tests::sites;
    use super::super::postfix::{PostfixQueries, PostfixSettings};
    use super::*;
    use crate::model::backend::LmtpAddress;

    struct Passwords;

    impl PostfixQueries for Passwords {
        fn table(&self, _table: &str, _key: &str) -> Result<Option<String>, String> {
            Ok(Some("postman:secret".into()))
        }

        fn file(&self, path: &str) -> Result<String, String> {
            Err(format!("{path}: No such file"))
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            None
        }
    }

    fn client(set: &[(&str, &str)]) -> Client {
        let [_, settings, _] = sites();
        let usual = [
            ("lmtp_sasl_auth_enable", "yes"),
            ("lmtp_sasl_password_maps", "hash:/a"),
            ("lmtp_sasl_security_options", "noplaintext"),
            ("lmtp_sasl_tls_security_options", ""),
        ];
        let all = usual.iter().chain(set);
        let settings: PostfixSettings =
            all.fold(settings, |all, (name, value)| all.with(name, value));
        let place = LmtpAddress::parse("be1.example.org:2003", 24).unwrap();
        Client::of(&settings, settings.transport("murder").unwrap(), &place, &Passwords)
    }

    fn facts(auth: &[&str], tls: Option<TlsOutcome>) -> Facts {
        Facts {
            auth: auth.iter().map(|name| (*name).to_owned()).collect(),
            starttls: tls.is_some(),
            tls,
            chain: vec![b"a certificate".to_vec()],
            mail: Some(LmtpReply { code: 430, lines: vec!["Authentication required".into()] }),
            ..Facts::default()
        }
    }

    fn up(auth: &[&str]) -> Option<TlsOutcome> {
        Some(TlsOutcome::Up(auth.iter().map(|name| (*name).to_owned()).collect()))
    }

    #[test]
    fn password_goes_only_where_postfix_would_send_it() {
        let tried = |plan: LoginPlan| match plan {
            LoginPlan::Try(attempt) => attempt,
            other => panic!("{other:?}"),
        };
        // In the clear, by SCRAM.
        let attempt = tried(plan(&facts(&["SCRAM-SHA-256", "PLAIN"], None), &client(&[])));
        assert_eq!(attempt.policy.mechanisms, Some(vec![Mechanism::ScramSha256]));
        assert_eq!((attempt.policy.tls, attempt.certificate), (WhenTls::Off, None));
        // Under TLS, with the certificate that was seen.
        let encrypt = client(&[("lmtp_tls_security_level", "encrypt")]);
        let attempt = tried(plan(&facts(&[], up(&["PLAIN", "LOGIN"])), &encrypt));
        assert_eq!(attempt.policy.mechanisms, Some(vec![Mechanism::Plain]));
        assert_eq!(attempt.policy.tls, WhenTls::Required);
        assert_eq!(attempt.certificate, Some(b"a certificate".to_vec()));
        // Postfix would not log in, so no login is tried.
        assert_eq!(plan(&facts(&["PLAIN"], None), &client(&[])), LoginPlan::Nothing);
        assert_eq!(plan(&facts(&["SCRAM-SHA-1"], None), &encrypt), LoginPlan::Nothing);
        let open = Facts {
            mail: Some(LmtpReply { code: 250, lines: Vec::new() }),
            ..facts(&["SCRAM-SHA-1"], None)
        };
        assert_eq!(plan(&open, &client(&[])), LoginPlan::Nothing);
    }

    #[test]
    fn login_that_cannot_be_tried_says_why() {
        let why = |facts: &Facts, client: &Client| match plan(facts, client) {
            LoginPlan::Skip(why) => why,
            other => panic!("{other:?}"),
        };
        let scram = facts(&["SCRAM-SHA-1"], up(&["SCRAM-SHA-1"]));
        // The CA file cannot be read, so the trust is unknown.
        let secure =
            client(&[("lmtp_tls_security_level", "secure"), ("lmtp_tls_CAfile", "/nothing")]);
        assert!(why(&scram, &secure).contains("trusts the certificate"));
        let fingerprint = client(&[("lmtp_tls_security_level", "fingerprint")]);
        assert!(why(&scram, &fingerprint).contains("trusts the certificate"));
        let odd = facts(&["SCRAM-SHA-1"], Some(TlsOutcome::Untestable("DHE".into())));
        let may = client(&[("lmtp_tls_security_level", "may")]);
        assert!(why(&odd, &may).contains("TLS"));
        assert!(why(&facts(&["DIGEST-MD5"], None), &client(&[])).contains("DIGEST-MD5"));
    }
}
