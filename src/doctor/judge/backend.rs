//! Judges the answers of a backend: by themselves, by the mailbox list, and by the settings of Postfix.

use super::certificate::CertificateVerdict;
pub use super::client::Client;
use super::lmtp::{Facts, LmtpReply, Own, ProbeFailure, TlsOutcome, Tried};
use super::postfix::tls::Level;
use super::{Finding, one_line};

/// Judges a backend. `server`: its name in the mailbox list, `None` for the mailboxes of this host.
/// `recipient`: the recipient that it was asked for.
pub fn judge(
    server: Option<&str>,
    place: &str,
    facts: &Facts,
    client: Option<&Client>,
    recipient: Option<&str>,
) -> Vec<Finding> {
    let named = server.map_or_else(|| place.to_owned(), |server| format!("{server} ({place})"));
    let named = one_line(&named);
    if let Some(failure) = &facts.failure {
        return vec![failed(&named, failure)];
    }
    let mut findings = Vec::new();
    findings.extend(server.and_then(|server| name(&named, server, facts)));
    findings.extend(client.and_then(|client| tls(&named, facts, client)));
    findings.extend(login(&named, facts, client));
    if let Some(recipient) = recipient {
        findings.push(asked(&named, recipient, facts));
    }
    let bad = findings.iter().any(|finding| finding.severity > super::Severity::Skipped);
    if !bad {
        findings.insert(0, Finding::ok("backend/lmtp", named, describe(facts)));
    }
    findings
}

fn failed(named: &str, failure: &ProbeFailure) -> Finding {
    const CHECK: &str = "backend/lmtp";
    match failure {
        ProbeFailure::Connect(why) => {
            Finding::error(CHECK, named, format!("cannot be reached: {why}")).mend(
                "check that lmtpd listens there (cyrus.conf) and that no firewall blocks the connection",
            )
        }
        ProbeFailure::Lost(at, why) => {
            Finding::error(CHECK, named, format!("it accepts the connection, but at {at}: {why}"))
                .mend("read its log; all its lmtpd processes may be busy (maxchild in cyrus.conf)")
        }
        ProbeFailure::Refused(at, reply) if reply.is_temporary() => {
            Finding::untested(CHECK, named, format!("at {at} it answered `{}`", reply))
        }
        ProbeFailure::Refused(at, reply) => {
            Finding::error(CHECK, named, format!("at {at} it answered `{}`", reply))
                .mend("read its log")
        }
        ProbeFailure::NotLmtp(said) => {
            Finding::error(CHECK, named, format!("it does not speak LMTP: `{said}`"))
                .mend("set `port`, or `address` of the server, in [backends] to the address of its lmtpd")
        }
    }
}

/// Compares names: lmtpd announces its `servername`, and the list has mailboxes under the `servername` of
/// their backend.
fn name(named: &str, server: &str, facts: &Facts) -> Option<Finding> {
    let listed = server.split('/').next().unwrap_or(server);
    let said = facts.name.as_deref().or(facts.greeting.as_deref())?;
    let bare = |name: &str| match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.contains(':') => {
            host.to_ascii_lowercase()
        }
        _ => name.to_ascii_lowercase(),
    };
    if bare(listed) == bare(said) {
        return None;
    }
    let what = format!("it announces itself as {said}; it may not be the server in the list");
    Some(
        Finding::error("backend/name", named, what)
            .mend("correct `address` of the server in [backends.servers], or the DNS"),
    )
}

fn tls(named: &str, facts: &Facts, client: &Client) -> Option<Finding> {
    const CHECK: &str = "backend/tls";
    let level = client.tls.level;
    let parameter = &client.tls.place;
    if level.demands_tls() && !facts.starttls {
        let what = format!("it offers no STARTTLS, and Postfix has {parameter}; its messages wait");
        return Some(Finding::error(CHECK, named, what).mend(
            "give the backend a certificate (tls_server_cert; allowstarttls), or set the level to \
             may; a listener with `lmtpd -a` never offers it",
        ));
    }
    let mend = "read its log; set allowstarttls: no if it should not have TLS";
    match (facts.tls.as_ref()?, level) {
        (_, Level::None) => None,
        (TlsOutcome::Up(_), level) if level.verifies() => certificate(named, facts, client),
        (TlsOutcome::Up(_), Level::Fingerprint | Level::DaneOnly | Level::Unknown) => {
            let what = format!("its certificate is not tested: {parameter}");
            Some(Finding::skipped(CHECK, named, what))
        }
        (TlsOutcome::Up(_), _) => None,
        (TlsOutcome::Untestable(why), _) => {
            let what = format!(
                "it offers STARTTLS in a way that this program does not support and Postfix' OpenSSL may \
                 ({why}); try `posttls-finger -S -c -l {}` with its host and port",
                if level.verifies() { "secure -F CAFILE" } else { "encrypt" }
            );
            Some(Finding::skipped(CHECK, named, what))
        }
        (TlsOutcome::Failed(why), level) => {
            let what = format!("it offers STARTTLS, which fails: {why}");
            Some(match level.demands_tls() {
                true => Finding::error(CHECK, named, what).mend(mend),
                false => Finding::warning(CHECK, named, what).mend(mend),
            })
        }
    }
}

/// Judges the certificate as Postfix does, if Postfix verifies it.
fn certificate(named: &str, facts: &Facts, client: &Client) -> Option<Finding> {
    const CHECK: &str = "backend/tls";
    let parameter = &client.tls.place;
    match client.tls.verdict(&facts.chain, facts.at) {
        CertificateVerdict::Good => None,
        CertificateVerdict::Unknown(why) => {
            Some(Finding::skipped(CHECK, named, format!("the certificate is not tested: {why}")))
        }
        CertificateVerdict::Untrusted(why) | CertificateVerdict::Bad(why) => {
            let what = format!("{why}, and Postfix has {parameter}; its messages wait");
            let mend = "give it a certificate for that name by that CA, or correct \
                        lmtp_tls_CAfile, `match=` in lmtp_tls_policy_maps, or `address` in \
                        [backends.servers]";
            Some(Finding::error(CHECK, named, what).mend(mend))
        }
    }
}

/// Judges whether Postfix logs in where the backend requires it, and only there.
fn login(named: &str, facts: &Facts, client: Option<&Client>) -> Vec<Finding> {
    const CHECK: &str = "backend/login";
    let Some(mail) = &facts.mail else { return Vec::new() };
    let wants = facts.wants_login();
    if !wants && !mail.is_ok() {
        let what = format!("it answered MAIL FROM with `{}`", mail);
        return vec![match mail.is_temporary() {
            true => Finding::untested("backend/lmtp", named, what),
            false => Finding::error("backend/lmtp", named, what).mend("read its log"),
        }];
    }
    let mut findings = Vec::new();
    findings.extend(client.and_then(|client| by_postfix(named, facts, client)));
    match &facts.own {
        None => {}
        Some(Own::Plain) if wants => {
            let what = "it wants a login, and `murder-route lmtp`, which Exim and Sendmail run, has none \
                        for it; its messages wait";
            let mend = "set `username` and `password-file` in [backends] (murder-route.toml(5)), or run \
                        `lmtpd -a` on the backend where only mail servers can connect";
            findings.push(Finding::error(CHECK, named, what).mend(mend));
        }
        Some(Own::Plain) => {}
        Some(Own::Ready(how)) => {
            let what = format!("`murder-route lmtp` can deliver there: {how}");
            findings.push(Finding::ok(CHECK, named, what));
        }
        Some(Own::Failed { why, temporary }) => {
            let what = format!("`murder-route lmtp` cannot deliver there: {}", one_line(why));
            findings.push(match temporary {
                true => Finding::untested(CHECK, named, what),
                false => Finding::error(CHECK, named, what)
                    .mend("correct [backends] of murder-route.toml, or the backend"),
            });
        }
    }
    findings
}

fn by_postfix(named: &str, facts: &Facts, client: &Client) -> Option<Finding> {
    const CHECK: &str = "backend/login";
    let wants = facts.wants_login();
    let Client { transport, logs_in, password, .. } = client;
    let offered = match &facts.tls {
        Some(TlsOutcome::Up(offered)) if client.uses_tls(facts) => offered,
        _ => &facts.auth,
    };
    let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(" ") };
    let tries = *logs_in && *password != Some(false);
    // Its offer under TLS is unknown then.
    let unseen =
        matches!(facts.tls, Some(TlsOutcome::Untestable(_))) && client.tls.level != Level::None;
    if tries && !unseen && (wants || !facts.auth.is_empty()) && client.usable(facts).is_empty() {
        let what = match (wants, client.allowed(facts).is_empty()) {
            (true, false) => format!(
                "it wants a login by one of {offered}, and SASL on this host has no plugin for any of \
                 them; its messages wait"
            ),
            (true, true) => format!(
                "it wants a login, and Postfix uses none of the offered mechanisms: {offered}"
            ),
            (false, _) => format!(
                "it is pre-authorised (lmtpd -a, AUTH {offered}), and Postfix still tries to log in; its \
                 messages wait"
            ),
        };
        let mend = match (wants, client.allowed(facts).is_empty()) {
            (true, false) => {
                "install the plugins of Cyrus SASL (libsasl2-modules on Debian), then \
                              restart Postfix"
                    .to_owned()
            }
            (true, true) => {
                "use TLS and lmtp_sasl_tls_security_options = noanonymous, or let the backend \
                             offer SCRAM (sasl_mech_list)"
                    .to_owned()
            }
            (false, _) => format!(
                "set lmtp_sasl_auth_enable=no for the transport {transport} in master.cf, or deliver to \
                 a listener without -a"
            ),
        };
        return Some(Finding::error(CHECK, named, what).mend(mend));
    }
    if !wants {
        return None;
    }
    let (what, mend) = match (logs_in, password) {
        (false, _) => (
            format!("it wants a login, and Postfix does not (transport {transport})"),
            "set lmtp_sasl_auth_enable=yes and lmtp_sasl_password_maps, or run `lmtpd -a` on the \
             backend where only mail servers can connect",
        ),
        (true, Some(false)) => (
            format!("it wants a login, and Postfix has no password for it (transport {transport})"),
            "add the host to lmtp_sasl_password_maps",
        ),
        (true, _) => return tried(named, facts),
    };
    Some(Finding::error(CHECK, named, what).mend(mend))
}

/// Judges the trial of the login that Postfix would make.
fn tried(named: &str, facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "backend/login";
    match facts.tried.as_ref()? {
        Tried::Skipped(why) => {
            Some(Finding::skipped(CHECK, named, format!("the login was not tried: {why}")))
        }
        Tried::In(how) => Some(Finding::ok(CHECK, named, format!("Postfix can log in: {how}"))),
        Tried::Lost(why) => {
            Some(Finding::untested(CHECK, named, format!("login as Postfix: {}", one_line(why))))
        }
        Tried::Refused(failure) => {
            let what = format!("login as Postfix: {}", one_line(&failure.to_string()));
            Some(match failure.is_temporary() {
                true => Finding::untested(CHECK, named, what),
                false => Finding::error(CHECK, named, what).mend(
                    "correct it in lmtp_sasl_password_maps (after postmap, reload Postfix, which keeps tables \
                     open), or on the backend",
                ),
            })
        }
    }
}

fn asked(named: &str, recipient: &str, facts: &Facts) -> Finding {
    const CHECK: &str = "backend/recipient";
    let recipient = one_line(recipient);
    let Some(reply) = &facts.rcpt else {
        let why = format!("{recipient}: it wants a login first, and none was made");
        return Finding::skipped(CHECK, named, why);
    };
    let said = reply.to_string();
    match reply {
        LmtpReply { .. } if reply.is_ok() => Finding::ok(CHECK, named, format!("it accepts {recipient}")),
        LmtpReply { .. } if reply.is_temporary() => {
            Finding::untested(CHECK, named, format!("it answered {recipient} with `{said}`"))
        }
        _ => Finding::error(
            CHECK,
            named,
            format!("it refuses {recipient}, which the list has there: `{said}`"),
        )
        .mend(
            "check whether the mailbox is on this backend (ctl_mboxlist -d there): the list may lag, \
             or the backend forms the name differently (`cyrus-release`, imapd.conf)",
        ),
    }
}

fn describe(facts: &Facts) -> String {
    let release = facts.release.map_or_else(String::new, |(a, b)| format!(" {a}.{b}"));
    let name = facts.name.as_deref().unwrap_or("?");
    let login = match &facts.mail {
        Some(mail) if mail.is_ok() => "pre-authorised".to_owned(),
        _ if facts.auth.is_empty() => "wants a login".to_owned(),
        _ => format!("wants a login ({})", facts.auth.join(" ")),
    };
    let tls = match &facts.tls {
        None => "no TLS".to_owned(),
        Some(TlsOutcome::Up(_)) => "TLS works".to_owned(),
        Some(TlsOutcome::Untestable(_)) => "TLS not tested".to_owned(),
        Some(TlsOutcome::Failed(why)) => format!("TLS fails ({why})"),
    };
    format!("lmtpd{release} answers as {name}: {login}, {tls}")
}

#[cfg(test)]
mod tests {
    use super::super::postfix::PostfixQueries;
    use super::super::postfix::settings::tests::sites;
    use super::*;
    use crate::doctor::judge::Severity;
    use crate::lmtp;
    use crate::model::backend::LmtpAddress;
    use crate::mupdate::Mechanism;

    struct Passwords(&'static str);

    impl PostfixQueries for Passwords {
        fn table(&self, _table: &str, key: &str) -> Result<Option<String>, String> {
            Ok((key == self.0).then(|| "somebody:secret".to_owned()))
        }

        fn file(&self, _path: &str) -> Result<String, String> {
            Err("not there".into())
        }

        fn in_dns(&self, _host: &str) -> Option<bool> {
            None
        }
    }

    fn reply(code: u16) -> Option<LmtpReply> {
        Some(LmtpReply { code, lines: vec!["said".into()] })
    }

    fn pre_authorised() -> Facts {
        Facts {
            greeting: Some("be1.example.org".into()),
            name: Some("be1.example.org".into()),
            release: Some((3, 6)),
            auth: vec!["EXTERNAL".into()],
            mail: reply(250),
            ..Facts::default()
        }
    }

    fn wants_login(mechanisms: &[&str]) -> Facts {
        let auth = mechanisms.iter().map(|name| (*name).to_owned()).collect();
        Facts { auth, mail: reply(430), ..pre_authorised() }
    }

    fn client(set: &[(&str, &str)]) -> Client {
        let [_, mut settings, _] = sites();
        for (name, value) in set {
            settings = settings.with(name, value);
        }
        let place = LmtpAddress::parse("be1.example.org:2003", 24).unwrap();
        let service = settings.transport("murder").unwrap();
        Client::of(&settings, service, &place, &Passwords("be1.example.org"))
    }

    const LOGS_IN: [(&str, &str); 2] =
        [("lmtp_sasl_auth_enable", "yes"), ("lmtp_sasl_password_maps", "hash:/etc/passwords")];

    fn found(facts: &Facts, client: &Client) -> Vec<(&'static str, Severity)> {
        let found = judge(Some("be1.example.org"), "inet:x:2003", facts, Some(client), None);
        found.iter().map(|finding| (finding.check, finding.severity)).collect()
    }

    const OK: [(&str, Severity); 1] = [("backend/lmtp", Severity::Ok)];
    const LOGIN: [(&str, Severity); 1] = [("backend/login", Severity::Error)];
    const TLS: [(&str, Severity); 1] = [("backend/tls", Severity::Error)];

    #[test]
    fn login_at_a_pre_authorised_listener_is_an_error() {
        assert_eq!(found(&pre_authorised(), &client(&[])), OK);
        assert_eq!(found(&pre_authorised(), &client(&LOGS_IN)), LOGIN);
        // Without a password for this host Postfix does not try.
        let mut other = client(&LOGS_IN);
        other.password = Some(false);
        assert_eq!(found(&pre_authorised(), &other), OK);
    }

    #[test]
    fn backend_wanting_a_login_needs_a_usable_one() {
        let scram = wants_login(&["SCRAM-SHA-1"]);
        assert_eq!(found(&scram, &client(&[])), LOGIN);
        assert_eq!(found(&scram, &client(&LOGS_IN)), OK);
        let mut without = client(&LOGS_IN);
        without.password = Some(false);
        assert_eq!(found(&scram, &without), LOGIN);
        // Postfix' default forbids cleartext passwords.
        let plain = wants_login(&["PLAIN", "LOGIN"]);
        assert_eq!(found(&plain, &client(&LOGS_IN)), LOGIN);
        let allowed = [&LOGS_IN[..], &[("lmtp_sasl_security_options", "noanonymous")]].concat();
        assert_eq!(found(&plain, &client(&allowed)), OK);
        let under_tls = Facts {
            auth: Vec::new(),
            starttls: true,
            tls: Some(TlsOutcome::Up(vec!["PLAIN".into()])),
            ..plain
        };
        assert_eq!(found(&under_tls, &client(&allowed)), LOGIN);
        let tls = [
            &LOGS_IN[..],
            &[
                ("lmtp_tls_security_level", "may"),
                ("lmtp_sasl_tls_security_options", "noanonymous"),
            ],
        ]
        .concat();
        assert_eq!(found(&under_tls, &client(&tls)), OK);
        // An offer under TLS does not help a Postfix that never uses TLS.
        let no_tls = [&allowed[..], &[("lmtp_sasl_tls_security_options", "noanonymous")]].concat();
        assert_eq!(found(&under_tls, &client(&no_tls)), LOGIN);
        let anonymous = wants_login(&["ANONYMOUS"]);
        assert_eq!(found(&anonymous, &client(&LOGS_IN)), LOGIN);
        let any_login = [&LOGS_IN[..], &[("lmtp_sasl_security_options", "noplaintext")]].concat();
        assert_eq!(found(&anonymous, &client(&any_login)), OK);
    }

    #[test]
    fn login_is_not_tried_without_a_password_for_the_host() {
        let place = LmtpAddress::parse("be1.example.org:2003", 24).unwrap();
        let [_, settings, _] = sites();
        let settings = LOGS_IN.iter().fold(settings, |all, (name, value)| all.with(name, value));
        let murder = settings.transport("murder").unwrap();
        let client = Client::of(&settings, murder, &place, &Passwords("be2.example.org"));
        assert_eq!(found(&wants_login(&["SCRAM-SHA-1"]), &client), LOGIN);
        assert_eq!(found(&pre_authorised(), &client), OK);
    }

    #[test]
    fn tls_required_by_postfix_must_be_offered() {
        let demands = client(&[("lmtp_tls_security_level", "encrypt")]);
        assert_eq!(found(&pre_authorised(), &demands), TLS);
        let broken = Facts {
            starttls: true,
            tls: Some(TlsOutcome::Failed("no certificate".into())),
            ..pre_authorised()
        };
        assert_eq!(found(&broken, &demands), TLS);
        let may = client(&[("lmtp_tls_security_level", "may")]);
        assert_eq!(found(&broken, &may), [("backend/tls", Severity::Warning)]);
        assert_eq!(found(&broken, &client(&[])), OK);
        let by_table = client(&[("lmtp_tls_policy_maps", "hash:/etc/tls")]);
        assert_eq!(found(&pre_authorised(), &by_table), OK);
        // Without DNSSEC `dane` is no more than `may`.
        let dane = client(&[("lmtp_tls_security_level", "dane")]);
        assert_eq!(found(&pre_authorised(), &dane), OK);
        // A handshake of OpenSSL only, such as DHE with TLS 1.2.
        let dhe = Facts {
            starttls: true,
            tls: Some(TlsOutcome::Untestable("received fatal alert: HandshakeFailure".into())),
            ..pre_authorised()
        };
        let skipped = [("backend/lmtp", Severity::Ok), ("backend/tls", Severity::Skipped)];
        for client in [&demands, &may, &dane] {
            assert_eq!(found(&dhe, client), skipped);
        }
        assert_eq!(found(&dhe, &client(&[])), OK);
    }

    #[test]
    fn certificate_that_postfix_refuses_is_an_error() {
        let shows = Facts {
            starttls: true,
            tls: Some(TlsOutcome::Up(Vec::new())),
            chain: vec![b"no certificate".to_vec()],
            ..pre_authorised()
        };
        // Without any CA: reported with the transport.
        let secure = client(&[("lmtp_tls_security_level", "secure"), ("lmtp_tls_CAfile", "")]);
        assert_eq!(secure.findings.len(), 1, "{:?}", secure.findings);
        let skipped = [("backend/lmtp", Severity::Ok), ("backend/tls", Severity::Skipped)];
        assert_eq!(found(&shows, &secure), skipped);
        let encrypt = client(&[("lmtp_tls_security_level", "encrypt")]);
        assert_eq!(found(&shows, &encrypt), OK);
        for level in ["fingerprint", "dane-only", "nonsense"] {
            let client = client(&[("lmtp_tls_security_level", level)]);
            assert_eq!(found(&shows, &client), skipped, "{level}");
        }
    }

    #[test]
    fn tried_login_is_judged_by_its_result() {
        let scram = wants_login(&["SCRAM-SHA-1"]);
        let said = |code| LmtpReply { code, lines: vec!["said".into()] };
        let refused = |code| {
            Tried::Refused(lmtp::LmtpFailure::LoginRefused {
                name: "postman".into(),
                mechanism: Mechanism::Plain,
                said: said(code),
            })
        };
        for (tried, severity) in [
            (Tried::In("as `postman`".into()), Severity::Ok),
            (Tried::Skipped("why".into()), Severity::Skipped),
            (Tried::Lost("gone".into()), Severity::Untested),
            (refused(501), Severity::Error),
            (refused(454), Severity::Untested),
        ] {
            let facts = Facts { tried: Some(tried), ..scram.clone() };
            let all = found(&facts, &client(&LOGS_IN));
            assert!(all.contains(&("backend/login", severity)), "{all:?}");
            assert_eq!(all.len() == 2, severity <= Severity::Skipped, "{all:?}");
        }
    }

    #[test]
    fn login_is_needed_for_the_relay_without_postfix() {
        let of = |own: Option<Own>, facts: Facts| {
            let found = judge(Some("be1.example.org"), "x", &Facts { own, ..facts }, None, None);
            found.iter().map(|finding| (finding.check, finding.severity)).collect::<Vec<_>>()
        };
        let wants = || wants_login(&["PLAIN"]);
        assert_eq!(of(Some(Own::Plain), wants()), LOGIN);
        assert_eq!(of(Some(Own::Plain), pre_authorised()), OK);
        assert_eq!(of(None, wants()), OK);
        let both = [("backend/lmtp", Severity::Ok), ("backend/login", Severity::Ok)];
        assert_eq!(of(Some(Own::Ready("as x".into())), wants()), both);
        let failed = |temporary| Some(Own::Failed { why: "TLS".into(), temporary });
        assert_eq!(of(failed(false), wants()), LOGIN);
        assert_eq!(of(failed(true), wants()), [("backend/login", Severity::Untested)]);
    }

    #[test]
    fn wrong_server_name_is_noticed() {
        let of = |server: &str| {
            let found = judge(Some(server), "inet:x:2003", &pre_authorised(), None, None);
            found.iter().map(|finding| finding.check).collect::<Vec<_>>()
        };
        for same in ["be1.example.org", "BE1.example.org:2003", "be1.example.org:2003/noauth"] {
            assert_eq!(of(same), ["backend/lmtp"], "{same}");
        }
        assert_eq!(of("be2.example.org"), ["backend/name"]);
        // The end of an IPv6 address is no port.
        for (listed, same) in [("2001:db8::1", true), ("2001:db8::2", false), ("be1:x", false)] {
            let facts = Facts { name: Some("2001:DB8::1".into()), ..pre_authorised() };
            assert_eq!(name("be1", listed, &facts).is_none(), same, "{listed}");
        }
        let facts = Facts { name: Some("be1:y".into()), ..pre_authorised() };
        assert!(name("be1", "be1:x", &facts).is_some());
    }

    #[test]
    fn reply_to_a_recipient_is_judged() {
        let of = |rcpt: Option<LmtpReply>| {
            let facts = Facts { rcpt, ..pre_authorised() };
            let found = judge(None, "unix:/lmtp", &facts, None, Some("jane@example.org"));
            let of = |check| found.iter().find(|finding| finding.check == check);
            let asked = of("backend/recipient").unwrap().severity;
            // An error excludes `ok`, and a question not asked is no error.
            let well = of("backend/lmtp").map(|finding| finding.severity);
            assert_eq!(well.is_some(), asked <= Severity::Skipped, "{found:?}");
            asked
        };
        assert_eq!(of(reply(250)), Severity::Ok);
        assert_eq!(of(reply(451)), Severity::Untested);
        assert_eq!(of(reply(550)), Severity::Error);
        assert_eq!(of(None), Severity::Skipped);
    }

    #[test]
    fn unreachable_backend_is_an_error_temporary_refusal_is_not() {
        let of = |failure: ProbeFailure| {
            let facts = Facts { failure: Some(failure), ..Facts::default() };
            judge(Some("be1"), "inet:x:2003", &facts, None, None)[0].severity
        };
        assert_eq!(of(ProbeFailure::Connect("refused".into())), Severity::Error);
        assert_eq!(of(ProbeFailure::Lost("the greeting", "silence".into())), Severity::Error);
        assert_eq!(of(ProbeFailure::NotLmtp("SSH".into())), Severity::Error);
        let said = |code| ProbeFailure::Refused("the greeting", reply(code).unwrap());
        assert_eq!(of(said(421)), Severity::Untested);
        assert_eq!(of(said(554)), Severity::Error);
    }
}
