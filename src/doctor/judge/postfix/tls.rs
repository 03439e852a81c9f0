//! The TLS policy of Postfix for a backend: level, names and CAs.

use super::{PostfixQueries, PostfixSettings, Service, words};
use crate::doctor::judge::certificate::{self, CertificateVerdict};
use crate::doctor::judge::{Finding, one_line};
use crate::model::backend::LmtpAddress;

/// Name of the check.
const CHECK: &str = "backend/tls";

/// A security level (postconf(5), `smtp_tls_security_level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// No TLS.
    None,
    /// TLS if offered.
    May,
    /// TLS with any certificate.
    Encrypt,
    /// TLS with a certificate of a known fingerprint.
    Fingerprint,
    /// TLS with a certificate for the matched name.
    Verify,
    /// As `verify`, with another name match.
    Secure,
    /// As `may` if DNSSEC has no TLSA record of the backend.
    Dane,
    /// TLS with a certificate confirmed by DNSSEC.
    DaneOnly,
    /// Set in a way that is not parsed here.
    Unknown,
}

impl Level {
    fn parse(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "none" => Level::None,
            "may" => Level::May,
            "encrypt" => Level::Encrypt,
            "fingerprint" => Level::Fingerprint,
            "verify" => Level::Verify,
            "secure" => Level::Secure,
            "dane" | "half-dane" => Level::Dane,
            "dane-only" => Level::DaneOnly,
            _ => return None,
        })
    }

    /// Whether messages wait without TLS.
    pub fn demands_tls(self) -> bool {
        matches!(
            self,
            Level::Encrypt | Level::Fingerprint | Level::Verify | Level::Secure | Level::DaneOnly
        )
    }

    /// Whether a certificate is verified by CA and name.
    pub fn verifies(self) -> bool {
        matches!(self, Level::Verify | Level::Secure)
    }
}

/// The TLS policy of a transport for a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPolicy {
    /// The level.
    pub level: Level,
    /// The source of the level with its value, as `lmtp_tls_security_level = may (transport murder)`.
    pub place: String,
    /// The matched names, or `.domain`.
    names: Vec<String>,
    /// The CA certificates, in DER.
    authorities: Vec<Vec<u8>>,
    /// Why there may be further CAs.
    more: Option<String>,
    /// Findings about the settings themselves.
    pub findings: Vec<Finding>,
}

impl TlsPolicy {
    /// From Postfix' settings.
    pub fn of(
        settings: &PostfixSettings,
        service: &Service,
        place: &LmtpAddress,
        ask: &dyn PostfixQueries,
    ) -> Self {
        let mut policy = Self::global(settings, service, place);
        let LmtpAddress::Inet { host, .. } = place else { return policy };
        let mut attributes = String::new();
        let tables = settings.of(service, "lmtp_tls_policy_maps");
        if !tables.is_empty() {
            attributes = policy.by_table(tables, host, &place.host_and_port(), service, ask);
        } else if !settings.of(service, "lmtp_tls_per_site").is_empty() {
            policy.level = Level::Unknown;
        }
        if policy.level == Level::None {
            return policy;
        }
        policy.names(settings, service, host, &attributes);
        policy.read_authorities(settings, service, &attributes, ask);
        policy.proxied(settings, service, &attributes, ask);
        policy
    }

    fn global(settings: &PostfixSettings, service: &Service, place: &LmtpAddress) -> Self {
        let param = |name| settings.of(service, name);
        let text = match param("lmtp_tls_security_level") {
            // The parameters before security levels (smtp_tls_policy.c:global_tls_level).
            "" if param("lmtp_enforce_tls") == "yes" => {
                if param("lmtp_tls_enforce_peername") == "no" { "encrypt" } else { "verify" }
            }
            "" if param("lmtp_use_tls") == "yes" => "may",
            "" => "none",
            text => text,
        };
        // lmtpd offers no TLS at a unix socket.
        let level = match place {
            LmtpAddress::Unix(_) => Level::None,
            LmtpAddress::Inet { .. } => Level::parse(text).unwrap_or(Level::Unknown),
        };
        Self {
            level,
            place: format!("lmtp_tls_security_level = {text} (transport {})", service.name),
            names: Vec::new(),
            authorities: Vec::new(),
            more: None,
            findings: Vec::new(),
        }
    }

    /// Reads the policy of a table, by the destination as in the map lmtp. Returns its attributes.
    fn by_table(
        &mut self,
        tables: &str,
        host: &str,
        destination: &str,
        service: &Service,
        ask: &dyn PostfixQueries,
    ) -> String {
        let place = format!("lmtp_tls_policy_maps (transport {})", service.name);
        let mut by_host = None;
        for table in words(tables) {
            match ask.table(table, destination) {
                Ok(Some(text)) => {
                    let mut parts = words(&text);
                    let level = parts.next().and_then(Level::parse);
                    self.place = format!("{table} for {destination}: {}", one_line(&text));
                    self.level = level.unwrap_or(Level::Unknown);
                    if level.is_none() {
                        let what = format!(
                            "{table} has `{}` for {destination}, which is no TLS policy; its messages wait",
                            one_line(&text)
                        );
                        let mend = "use a level, such as `secure`, followed by attributes";
                        self.findings.push(Finding::error(CHECK, place, what).mend(mend));
                    }
                    return parts.collect::<Vec<_>>().join(" ");
                }
                Ok(None) => {
                    // A table with regular expressions may also match the host.
                    let found = ask.table(table, host).ok().flatten();
                    by_host = by_host.or_else(|| found.map(|_| table));
                }
                Err(why) => {
                    self.level = Level::Unknown;
                    self.findings.push(unreadable(CHECK, &place, table, &why, "all messages wait"));
                    return String::new();
                }
            }
        }
        if let Some(table) = by_host {
            let what = format!(
                "{table} has a policy for `{host}`, but Postfix looks up `{destination}`; it has no effect"
            );
            let mend = "use HOST:PORT as the key";
            self.findings.push(Finding::warning(CHECK, place, what).mend(mend));
        }
        String::new()
    }

    fn names(
        &mut self,
        settings: &PostfixSettings,
        service: &Service,
        host: &str,
        attributes: &str,
    ) {
        let by_attribute = attribute(attributes, "match").flat_map(|value| value.split(':'));
        let mut matched: Vec<&str> = by_attribute.filter(|name| !name.is_empty()).collect();
        if matched.is_empty() {
            let parameter = match self.level {
                Level::Verify => "lmtp_tls_verify_cert_match",
                _ => "lmtp_tls_secure_cert_match",
            };
            let names = words(settings.of(service, parameter));
            matched = names.flat_map(|word| word.split(':')).collect();
        }
        self.names = matched
            .into_iter()
            .map(|name| match name {
                "nexthop" | "hostname" => host.to_owned(),
                "dot-nexthop" => format!(".{host}"),
                name => name.to_owned(),
            })
            .collect();
    }

    fn read_authorities(
        &mut self,
        settings: &PostfixSettings,
        service: &Service,
        attributes: &str,
        ask: &dyn PostfixQueries,
    ) {
        let param = |name| settings.of(service, name);
        let others = [
            (param("lmtp_tls_CApath"), "lmtp_tls_CApath"),
            (param("lmtp_tls_trust_anchor_file"), "lmtp_tls_trust_anchor_file"),
            (attribute(attributes, "tafile").next().unwrap_or_default(), "tafile"),
        ];
        let other = others.into_iter().find(|(value, _)| !value.is_empty());
        self.more = other.map(|(value, name)| format!("{name} ({value}) is not read here"));
        if param("tls_append_default_CA") == "yes" {
            self.more = Some("tls_append_default_CA adds the CAs of the system".into());
        }
        let file = param("lmtp_tls_CAfile");
        let place = format!("lmtp_tls_CAfile = {file} (transport {})", service.name);
        if file.is_empty() {
            if self.level.verifies() && self.more.is_none() {
                let what = format!(
                    "no CA is set, so that no certificate is trusted, with {}; messages wait",
                    self.place
                );
                let mend = "set lmtp_tls_CAfile to the file with the CA certificate";
                self.findings.push(Finding::error(CHECK, place, what).mend(mend));
            }
            return;
        }
        let read = ask.file(file).and_then(|text| {
            certificate::authorities(&text).map_err(|why| format!("{file}: {why}"))
        });
        match read {
            Ok(authorities) => self.authorities = authorities,
            Err(why) => {
                self.more = Some(why.clone());
                self.findings.push(match self.level.demands_tls() {
                    true => unreadable(CHECK, &place, file, &why, "messages to backends wait"),
                    false if denied(&why) => Finding::skipped(CHECK, place, why),
                    false => Finding::warning(CHECK, place, format!("cannot be used: {why}"))
                        .mend("put the CA certificates there, in PEM"),
                });
            }
        }
    }

    /// For reused connections tlsproxy(8) reads the files, with its own root directory and user. If its
    /// settings differ, it reads them in its chroot.
    fn proxied(
        &mut self,
        settings: &PostfixSettings,
        service: &Service,
        attributes: &str,
        ask: &dyn PostfixQueries,
    ) {
        let own = attribute(attributes, "connection_reuse").last();
        let reuses = own.unwrap_or(settings.of(service, "lmtp_tls_connection_reuse")) == "yes";
        let file = settings.of(service, "lmtp_tls_CAfile");
        if !reuses {
            return;
        }
        let inside = format!("{}{file}", settings.main("queue_directory"));
        let what = match settings.running("tlsproxy").next() {
            None => "master.cf has no tlsproxy, which reuses connections".to_owned(),
            Some(proxy) if !proxy.chroot || file.is_empty() => return,
            Some(proxy) if settings.of(proxy, "tlsproxy_client_CAfile") == file => return,
            Some(_) if ask.file(&inside).is_ok() => return,
            Some(_) => {
                format!("tlsproxy is chrooted, and {inside} is missing or unreadable")
            }
        };
        let what = format!("{what}; with {} messages wait", self.place);
        let place = format!("lmtp_tls_connection_reuse (transport {})", service.name);
        let mend = "run tlsproxy without a chroot (`n` in master.cf), copy the file there, or set \
                    lmtp_tls_connection_reuse = no";
        self.findings.push(match self.level.demands_tls() {
            true => Finding::error(CHECK, place, what).mend(mend),
            false => Finding::warning(CHECK, place, what).mend(mend),
        });
    }

    /// The verdict on this chain. `now`: since 1970.
    pub fn verdict(&self, chain: &[Vec<u8>], now: std::time::Duration) -> CertificateVerdict {
        match (certificate::judge(chain, &self.authorities, &self.names, now), &self.more) {
            (CertificateVerdict::Untrusted(_), Some(why)) => {
                CertificateVerdict::Unknown(why.clone())
            }
            (verdict, _) => verdict,
        }
    }
}

/// The values of a policy attribute.
fn attribute<'a>(attributes: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    attributes.split(' ').filter_map(move |word| {
        let (this, value) = word.split_once('=')?;
        this.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Whether only root can read it.
pub(crate) fn denied(why: &str) -> bool {
    why.contains("Permission denied")
}

/// Reports an unusable file or table: skipped if this user may not read it, untested if it is on
/// another server.
pub(crate) fn unreadable(
    check: &'static str,
    place: &str,
    name: &str,
    why: &str,
    so: &str,
) -> Finding {
    const SERVERS: [&str; 7] =
        ["ldap", "memcache", "mongodb", "mysql", "pgsql", "socketmap", "tcp"];
    let kind = name.strip_prefix("proxy:").unwrap_or(name).split(':').next().unwrap_or_default();
    match denied(why) {
        true => Finding::skipped(check, place, format!("{why}: run it as root")),
        false if SERVERS.contains(&kind) => {
            Finding::untested(check, place, format!("{name} cannot be asked now: {why}"))
        }
        false => Finding::error(check, place, format!("cannot be used: {why}; {so}"))
            .mend(format!("create {name}, or set another one")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::super::settings::tests::sites;
    use super::*;
    use crate::doctor::judge::Severity;

    /// 2025-06-15.
    const NOW: Duration = Duration::from_secs(1_749_945_600);

    #[derive(Default)]
    struct Host {
        files: HashMap<String, String>,
        policies: HashMap<&'static str, &'static str>,
    }

    impl PostfixQueries for Host {
        fn table(&self, table: &str, key: &str) -> Result<Option<String>, String> {
            match table {
                "hash:/denied" => Err("open /denied.db: Permission denied".into()),
                "hash:/missing" | "proxy:ldap:/missing" => {
                    Err("open /missing.db: No such file or directory".into())
                }
                _ => Ok(self.policies.get(key).map(|policy| (*policy).to_owned())),
            }
        }

        fn file(&self, path: &str) -> Result<String, String> {
            let found = self.files.get(path).cloned();
            found.ok_or_else(|| format!("{path}: No such file or directory (os error 2)"))
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            None
        }
    }

    /// A certificate for this name, and the CA in PEM.
    fn certificate(name: &str) -> (Vec<u8>, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let signed = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        (signed.der().to_vec(), issuer.pem())
    }

    fn policy(host: &Host, set: &[(&str, &str)]) -> TlsPolicy {
        let [_, _, settings] = sites();
        let usual = [
            ("lmtp_tls_security_level", "secure"),
            ("lmtp_tls_CAfile", "/ca.pem"),
            ("lmtp_tls_secure_cert_match", "nexthop"),
            ("lmtp_tls_verify_cert_match", "hostname"),
        ];
        let all = usual.iter().chain(set);
        let settings = all.fold(settings, |all, (name, value)| all.with(name, value));
        let place = LmtpAddress::parse("be1.example.org:2003", 24).unwrap();
        TlsPolicy::of(&settings, settings.transport("murder").unwrap(), &place, host)
    }

    fn with_authority(pem: &str) -> Host {
        Host { files: HashMap::from([("/ca.pem".into(), pem.into())]), ..Host::default() }
    }

    fn found(policy: &TlsPolicy) -> Vec<(Severity, &str)> {
        policy.findings.iter().map(|finding| (finding.severity, &*finding.what)).collect()
    }

    #[test]
    fn authorities_and_names_of_the_transport_count() {
        let (own, authority) = certificate("be1.example.org");
        let (host, chain) = (with_authority(&authority), [own]);
        let verdict = |set: &[(&str, &str)]| policy(&host, set).verdict(&chain, NOW);
        assert_eq!(verdict(&[]), CertificateVerdict::Good);
        assert_eq!(verdict(&[("lmtp_tls_security_level", "verify")]), CertificateVerdict::Good);
        let match_ = |names| verdict(&[("lmtp_tls_secure_cert_match", names)]);
        assert!(matches!(match_("dot-nexthop"), CertificateVerdict::Bad(_)));
        assert_eq!(match_("dot-nexthop, hostname"), CertificateVerdict::Good);
        assert_eq!(match_("other:.example.org"), CertificateVerdict::Good);
        let other = with_authority(&certificate("x").1);
        assert!(matches!(
            policy(&other, &[]).verdict(&chain, NOW),
            CertificateVerdict::Untrusted(_)
        ));
        // There are other CAs, which are not checked.
        for more in ["lmtp_tls_CApath", "lmtp_tls_trust_anchor_file"] {
            let policy = policy(&other, &[(more, "/some")]);
            assert!(
                matches!(policy.verdict(&chain, NOW), CertificateVerdict::Unknown(_)),
                "{more}"
            );
        }
    }

    #[test]
    fn unusable_ca_file_is_an_error_where_tls_is_required() {
        let none = Host::default();
        for (level, severity) in [
            ("secure", Severity::Error),
            ("encrypt", Severity::Error),
            ("may", Severity::Warning),
            ("dane", Severity::Warning),
        ] {
            let policy = policy(&none, &[("lmtp_tls_security_level", level)]);
            let found = found(&policy);
            assert!(
                matches!(found[..], [(this, what)] if this == severity && what.contains("No such file")),
                "{level}: {found:?}"
            );
        }
        assert_eq!(found(&policy(&none, &[("lmtp_tls_security_level", "none")])), []);
        let empty = policy(&with_authority("nothing"), &[]);
        assert!(
            matches!(found(&empty)[..], [(Severity::Error, what)] if what.contains("no certificate"))
        );
        let unnamed = [("lmtp_tls_CAfile", "")];
        assert!(matches!(found(&policy(&none, &unnamed))[..], [(Severity::Error, _)]));
        let system = [unnamed[0], ("tls_append_default_CA", "yes")];
        assert_eq!(found(&policy(&none, &system)), []);
    }

    #[test]
    fn policy_table_is_asked_for_host_and_port() {
        let (_, authority) = certificate("x");
        let of = |key, text| {
            let host =
                Host { policies: HashMap::from([(key, text)]), ..with_authority(&authority) };
            policy(&host, &[("lmtp_tls_policy_maps", "hash:/policy")])
        };
        let by_port = of("be1.example.org:2003", "encrypt");
        assert_eq!((by_port.level, found(&by_port)), (Level::Encrypt, vec![]));
        let matched = of("be1.example.org:2003", "secure match=a:b match=.c");
        assert_eq!(matched.names, ["a", "b", ".c"]);
        // A plausible key that is never looked up.
        let by_host = of("be1.example.org", "none");
        assert_eq!(by_host.level, Level::Secure);
        assert!(
            matches!(found(&by_host)[..], [(Severity::Warning, what)] if what.contains("be1.example.org:2003"))
        );
        let odd = of("be1.example.org:2003", "yes");
        assert!(matches!(found(&odd)[..], [(Severity::Error, _)]));
        let host = with_authority(&authority);
        for (table, severity) in [
            ("hash:/missing", Severity::Error),
            ("hash:/denied", Severity::Skipped),
            ("proxy:ldap:/missing", Severity::Untested),
        ] {
            let policy = policy(&host, &[("lmtp_tls_policy_maps", table)]);
            assert_eq!(policy.level, Level::Unknown);
            assert!(matches!(found(&policy)[..], [(this, _)] if this == severity), "{table}");
        }
    }

    #[test]
    fn chrooted_tlsproxy_needs_the_file_in_its_chroot() {
        let (_, authority) = certificate("x");
        let host = with_authority(&authority);
        let mut copied = with_authority(&authority);
        copied.files.insert("/queue/ca.pem".into(), authority.clone());
        let errors = |proxy: &str, host: &Host, more: &str| {
            let main = format!(
                "compatibility_level = 3.6\nqueue_directory = /queue\nlmtp_tls_CAfile = /ca.pem\n\
                 lmtp_tls_security_level = secure\nlmtp_tls_secure_cert_match = nexthop\n{more}"
            );
            let master = format!("murder unix - - n - - lmtp\n{proxy}");
            let settings = PostfixSettings::parse(&main, &master, "", "").unwrap();
            let place = LmtpAddress::parse("be1:2003", 24).unwrap();
            let service = settings.transport("murder").unwrap();
            found(&TlsPolicy::of(&settings, service, &place, host)).len()
        };
        let chrooted = "tlsproxy unix - - y - 0 tlsproxy";
        let reuse = "lmtp_tls_connection_reuse = yes\n";
        assert_eq!(errors(chrooted, &host, reuse), 1);
        assert_eq!(errors("", &host, reuse), 1);
        assert_eq!(errors("tlsproxy unix - - n - 0 tlsproxy", &host, reuse), 0);
        let own = format!("{reuse}tlsproxy_client_CAfile = /ca.pem\n");
        assert_eq!(errors(chrooted, &host, &own), 0);
        assert_eq!(errors(chrooted, &copied, reuse), 0);
        assert_eq!(errors(chrooted, &host, ""), 0);
    }

    #[test]
    fn settings_from_before_levels_are_read() {
        let (_, authority) = certificate("x");
        let host = with_authority(&authority);
        let level = |set: &[(&str, &str)]| {
            policy(&host, &[&[("lmtp_tls_security_level", "")], set].concat()).level
        };
        assert_eq!(level(&[]), Level::None);
        assert_eq!(level(&[("lmtp_use_tls", "yes")]), Level::May);
        assert_eq!(level(&[("lmtp_enforce_tls", "yes")]), Level::Verify);
        let loose = [("lmtp_enforce_tls", "yes"), ("lmtp_tls_enforce_peername", "no")];
        assert_eq!(level(&loose), Level::Encrypt);
        assert_eq!(level(&[("lmtp_tls_per_site", "hash:/x")]), Level::Unknown);
    }
}
