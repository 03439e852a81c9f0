//! Behaviour of Postfix' transport for a backend.

use super::lmtp::{Facts, TlsOutcome};
use super::postfix::tls::{TlsPolicy, unreadable};
use super::postfix::{PostfixQueries, PostfixSettings, Service, words};
use super::{Finding, one_line};
use crate::model::backend::LmtpAddress;
use crate::model::secret::Secret;
use crate::mupdate::Credentials;

/// Plugins of Cyrus SASL whose name differs from that of their mechanism.
const PLUGINS: [(&str, &str); 5] = [
    ("SCRAM", "scram"),
    ("CRAM-MD5", "crammd5"),
    ("DIGEST-MD5", "digestmd5"),
    ("GSSAPI", "gssapiv2"),
    ("GS2", "gs2"),
];

/// Behaviour of Postfix' transport for a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The transport.
    pub transport: String,
    /// `lmtp_sasl_auth_enable`
    pub logs_in: bool,
    /// Whether it has a password for this backend. `None`: unknown.
    pub password: Option<bool>,
    /// The credentials of the login.
    pub credentials: Option<Credentials>,
    /// `lmtp_sasl_security_options`, in the clear and under TLS.
    options: String,
    tls_options: String,
    /// `lmtp_sasl_mechanism_filter`
    filter: String,
    /// The installed SASL plugins.
    plugins: Option<Vec<String>>,
    /// Its TLS policy.
    pub tls: TlsPolicy,
    /// Findings about the settings themselves.
    pub findings: Vec<Finding>,
}

impl Client {
    /// From Postfix' settings.
    pub fn of(
        settings: &PostfixSettings,
        service: &Service,
        place: &LmtpAddress,
        ask: &dyn PostfixQueries,
    ) -> Self {
        let text = |name| settings.of(service, name).to_owned();
        let logs_in = text("lmtp_sasl_auth_enable") == "yes";
        let mut tls = TlsPolicy::of(settings, service, place, ask);
        let mut client = Self {
            transport: service.name.clone(),
            logs_in,
            password: None,
            credentials: None,
            options: text("lmtp_sasl_security_options"),
            tls_options: text("lmtp_sasl_tls_security_options"),
            filter: text("lmtp_sasl_mechanism_filter"),
            plugins: (text("lmtp_sasl_type") == "cyrus").then(|| ask.sasl_plugins()).flatten(),
            findings: std::mem::take(&mut tls.findings),
            tls,
        };
        if logs_in {
            client.find_password(&text("lmtp_sasl_password_maps"), place, ask);
            if text("lmtp_sasl_auth_soft_bounce") == "no" {
                let place = format!("lmtp_sasl_auth_soft_bounce (transport {})", service.name);
                let what = "no: a refused login bounces messages";
                client.findings.push(
                    Finding::error("backend/login", place, what)
                        .mend("set lmtp_sasl_auth_soft_bounce = yes, which is the default"),
                );
            }
        }
        client
    }

    /// Looks up the host first, then the destination (lmtp(8)).
    fn find_password(&mut self, tables: &str, place: &LmtpAddress, ask: &dyn PostfixQueries) {
        let parameter = format!("lmtp_sasl_password_maps (transport {})", self.transport);
        if tables.is_empty() {
            self.password = Some(false);
            let what =
                "empty, and lmtp_sasl_auth_enable is on: lmtp exits at once, and messages wait";
            let mend = "name the table with the password, or set lmtp_sasl_auth_enable = no";
            self.findings.push(Finding::error("backend/login", parameter, what).mend(mend));
            return;
        }
        let LmtpAddress::Inet { host, port } = place else { return };
        let keys = [host.to_string(), format!("{host}:{port}"), format!("[{host}]:{port}")];
        for key in &keys {
            for table in words(tables) {
                match ask.table(table, key) {
                    Ok(Some(login)) => {
                        self.password = Some(true);
                        return self.take(&login, table, key);
                    }
                    Ok(None) => {}
                    Err(why) => {
                        let so = "lmtp exits when it opens its tables, and messages wait";
                        self.findings.push(unreadable(
                            "backend/login",
                            &parameter,
                            table,
                            &why,
                            so,
                        ));
                        return;
                    }
                }
            }
        }
        self.password = Some(false);
    }

    /// Parses `user:password` as Postfix does (smtp_sasl_glue.c:smtp_sasl_passwd_lookup).
    fn take(&mut self, login: &str, table: &str, key: &str) {
        let (name, password) = login.split_once(':').unwrap_or((login, ""));
        if name.is_empty() || password.is_empty() {
            let place = format!("lmtp_sasl_password_maps (transport {})", self.transport);
            let what = format!("{table} has no `user:password` for {}", one_line(key));
            let mend = "write it as user:password";
            self.findings.push(Finding::error("backend/login", place, what).mend(mend));
            return;
        }
        self.credentials = Some(Credentials {
            authname: name.to_owned(),
            password: Some(Secret::new(password)),
            ..Credentials::default()
        });
    }

    /// Whether it will use TLS with this backend.
    pub fn uses_tls(&self, facts: &Facts) -> bool {
        self.tls.level != super::postfix::tls::Level::None
            && matches!(facts.tls, Some(TlsOutcome::Up(_)))
    }

    /// The mechanisms that it may use, of those that the backend offers to it.
    pub fn allowed<'a>(&self, facts: &'a Facts) -> Vec<&'a str> {
        let (offered, options) = match &facts.tls {
            Some(TlsOutcome::Up(offered)) if self.uses_tls(facts) => (offered, &self.tls_options),
            _ => (&facts.auth, &self.options),
        };
        let bars = |option: &str| words(options).any(|word| word == option);
        // Tables and exceptions in the list are not evaluated here.
        let filtered = !self.filter.is_empty() && !self.filter.contains([':', '/', '!']);
        let allowed = |mechanism: &&str| match *mechanism {
            _ if filtered
                && !words(&self.filter).any(|word| word.eq_ignore_ascii_case(mechanism)) =>
            {
                false
            }
            "PLAIN" | "LOGIN" => !bars("noplaintext"),
            "ANONYMOUS" => !bars("noanonymous"),
            // It uses the identity of the connection; Postfix has no credentials for it.
            "EXTERNAL" => false,
            _ => true,
        };
        offered.iter().map(String::as_str).filter(allowed).collect()
    }

    /// The allowed mechanisms that have a SASL plugin.
    pub fn usable<'a>(&self, facts: &'a Facts) -> Vec<&'a str> {
        let installed = |mechanism: &&str| {
            let Some(plugins) = &self.plugins else { return true };
            let known = PLUGINS.iter().find(|(prefix, _)| mechanism.starts_with(prefix));
            let plugin =
                known.map_or(mechanism.to_ascii_lowercase(), |(_, name)| (*name).to_owned());
            plugins.contains(&plugin)
        };
        self.allowed(facts).into_iter().filter(installed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::postfix::settings::tests::sites;
    use super::*;
    use crate::doctor::judge::Severity;

    /// One table with this key, and the installed plugins.
    struct Host {
        key: &'static str,
        login: Result<&'static str, &'static str>,
        plugins: Option<&'static [&'static str]>,
    }

    const HOST: Host = Host { key: "be1.example.org", login: Ok("postman:se:cret"), plugins: None };

    impl PostfixQueries for Host {
        fn table(&self, table: &str, key: &str) -> Result<Option<String>, String> {
            assert!(table.starts_with("hash:"), "{table}");
            let login = self.login.map_err(str::to_owned)?;
            Ok((key == self.key && table == "hash:/b").then(|| login.to_owned()))
        }

        fn file(&self, path: &str) -> Result<String, String> {
            Err(path.into())
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            None
        }

        fn sasl_plugins(&self) -> Option<Vec<String>> {
            Some(self.plugins?.iter().map(|name| (*name).to_owned()).collect())
        }
    }

    fn client(host: &Host, place: &str, set: &[(&str, &str)]) -> Client {
        let [_, mut settings, _] = sites();
        let usual =
            [("lmtp_sasl_auth_enable", "yes"), ("lmtp_sasl_password_maps", "hash:/a, hash:/b")];
        for (name, value) in usual.iter().chain(set) {
            settings = settings.with(name, value);
        }
        let service = settings.transport("murder").unwrap();
        Client::of(&settings, service, &LmtpAddress::parse(place, 24).unwrap(), host)
    }

    const BE1: &str = "be1.example.org:2003";

    #[test]
    fn password_is_looked_up_as_by_postfix() {
        for key in ["be1.example.org", "be1.example.org:2003", "[be1.example.org]:2003"] {
            let client = client(&Host { key, ..HOST }, BE1, &[]);
            assert_eq!(client.password, Some(true), "{key}");
            let credentials = client.credentials.unwrap();
            assert_eq!(credentials.name(), "postman");
            assert_eq!(credentials.password().unwrap().reveal(), b"se:cret");
            assert_eq!(client.findings, []);
        }
        assert_eq!(client(&Host { key: "be2", ..HOST }, BE1, &[]).password, Some(false));
        assert_eq!(client(&HOST, "unix:/lmtp", &[]).password, None);
        let off = client(&HOST, BE1, &[("lmtp_sasl_auth_enable", "no")]);
        assert_eq!((off.password, off.credentials), (None, None));
    }

    #[test]
    fn tables_that_lmtp_cannot_open_or_use_are_errors() {
        let found = |host: &Host, set: &[(&str, &str)]| {
            let findings = client(host, BE1, set).findings;
            findings.iter().map(|f| (f.severity, f.what.clone())).collect::<Vec<_>>()
        };
        for (host, set, severity, says) in [
            (
                Host { login: Err("open database /b.db: No such file"), ..HOST },
                &[][..],
                Severity::Error,
                "No such file",
            ),
            (
                Host { login: Err("open /b.db: Permission denied"), ..HOST },
                &[],
                Severity::Skipped,
                "as root",
            ),
            (Host { login: Ok("postman"), ..HOST }, &[], Severity::Error, "user:password"),
            (HOST, &[("lmtp_sasl_password_maps", "")], Severity::Error, "empty"),
            (HOST, &[("lmtp_sasl_auth_soft_bounce", "no")], Severity::Error, "bounces"),
        ] {
            let found = found(&host, set);
            let [(this, what)] = &found[..] else { panic!("{says}: {found:?}") };
            assert!(*this == severity && what.contains(says), "{found:?}");
        }
    }

    #[test]
    fn mechanism_without_a_plugin_is_unusable() {
        let offers = |mechanisms: &[&str]| Facts {
            auth: mechanisms.iter().map(|name| (*name).to_owned()).collect(),
            ..Facts::default()
        };
        let facts = offers(&["SCRAM-SHA-256", "DIGEST-MD5", "CRAM-MD5"]);
        let usable = |plugins| client(&Host { plugins, ..HOST }, BE1, &[]).usable(&facts).join(" ");
        assert_eq!(usable(None), "SCRAM-SHA-256 DIGEST-MD5 CRAM-MD5");
        assert_eq!(usable(Some(&["sasldb"])), "");
        assert_eq!(usable(Some(&["sasldb", "digestmd5"])), "DIGEST-MD5");
        assert_eq!(usable(Some(&["scram", "crammd5"])), "SCRAM-SHA-256 CRAM-MD5");
        let filtered = [("lmtp_sasl_mechanism_filter", "scram-sha-256")];
        assert_eq!(client(&HOST, BE1, &filtered).usable(&facts), ["SCRAM-SHA-256"]);
        let unread = [("lmtp_sasl_mechanism_filter", "!digest-md5, static:all")];
        assert_eq!(client(&HOST, BE1, &unread).usable(&facts).len(), 3);
    }
}
