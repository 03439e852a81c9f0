//! What a backend said, judged: by itself, by the mailbox list, and by what Postfix will do there.

use super::lmtp::{Facts, Failure, Reply, Tls};
use super::postfix::{Ask, Service, Settings, words};
use super::{Finding, shown};
use crate::backend::Place;

/// What Postfix' transport for a backend will do there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    transport: String,
    /// `lmtp_sasl_auth_enable`
    logs_in: bool,
    /// Whether it has a password for this backend; `None`: that cannot be seen.
    password: Option<bool>,
    /// `lmtp_sasl_security_options`, and those under TLS.
    options: String,
    tls_options: String,
    /// `lmtp_tls_security_level`; `None`: it is chosen by a table.
    tls: Option<String>,
}

impl Client {
    /// By Postfix' settings.
    pub fn of(settings: &Settings, service: &Service, place: &Place, ask: &dyn Ask) -> Self {
        let text = |name| settings.of(service, name).to_owned();
        let logs_in = settings.of(service, "lmtp_sasl_auth_enable") == "yes";
        let passwords = settings.of(service, "lmtp_sasl_password_maps");
        let tls = settings.of(service, "lmtp_tls_policy_maps").is_empty();
        Self {
            transport: service.name.clone(),
            logs_in,
            password: if logs_in { has_password(passwords, place, ask) } else { None },
            options: text("lmtp_sasl_security_options"),
            tls_options: text("lmtp_sasl_tls_security_options"),
            tls: tls.then(|| text("lmtp_tls_security_level")),
        }
    }

    fn demands_tls(&self) -> bool {
        !matches!(self.tls.as_deref(), None | Some("" | "none" | "may"))
    }

    fn never_uses_tls(&self) -> bool {
        matches!(self.tls.as_deref(), Some("" | "none"))
    }

    /// The mechanisms it may choose from, of those that the backend will offer to it.
    fn usable<'a>(&self, facts: &'a Facts) -> Vec<&'a str> {
        let (offered, options) = match &facts.tls {
            Some(Tls::Up(offered)) if !self.never_uses_tls() => (offered, &self.tls_options),
            _ => (&facts.auth, &self.options),
        };
        let bars = |option: &str| words(options).any(|word| word == option);
        let usable = |mechanism: &&str| match *mechanism {
            "PLAIN" | "LOGIN" => !bars("noplaintext"),
            "ANONYMOUS" => !bars("noanonymous"),
            // It stands for who one is already; Postfix has no credentials for it.
            "EXTERNAL" => false,
            _ => true,
        };
        offered.iter().map(String::as_str).filter(usable).collect()
    }
}

/// By the host first, then by the destination (lmtp(8)); what the password is does not matter.
fn has_password(tables: &str, place: &Place, ask: &dyn Ask) -> Option<bool> {
    let Place::Inet { host, port } = place else { return None };
    let keys = [host.to_string(), format!("{host}:{port}"), format!("[{host}]:{port}")];
    for table in words(tables) {
        for key in &keys {
            if ask.table(table, key).ok()?.is_some() {
                return Some(true);
            }
        }
    }
    Some(false)
}

/// All that can be said of a backend. `server`: as the mailbox list calls it, `None` for the mailboxes
/// of this host. `recipient`: whom it was asked for.
pub fn judge(
    server: Option<&str>,
    place: &str,
    facts: &Facts,
    client: Option<&Client>,
    recipient: Option<&str>,
) -> Vec<Finding> {
    let named = server.map_or_else(|| place.to_owned(), |server| format!("{server} ({place})"));
    let named = shown(&named);
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
        findings.insert(0, Finding::ok("backend/lmtp", named, in_words(facts)));
    }
    findings
}

fn failed(named: &str, failure: &Failure) -> Finding {
    const CHECK: &str = "backend/lmtp";
    match failure {
        Failure::Connect(why) => Finding::error(CHECK, named, format!("cannot be reached: {why}"))
            .mend("see that lmtpd listens there (cyrus.conf) and that no firewall is in the way"),
        Failure::Lost(at, why) => {
            Finding::error(CHECK, named, format!("it takes the connection, but at {at}: {why}"))
                .mend("see its log; all its lmtpd may be busy (maxchild in cyrus.conf)")
        }
        Failure::Refused(at, reply) if reply.is_temporary() => {
            Finding::untested(CHECK, named, format!("at {at} it said `{}`", reply.shown()))
        }
        Failure::Refused(at, reply) => {
            Finding::error(CHECK, named, format!("at {at} it said `{}`", reply.shown()))
                .mend("see its log")
        }
        Failure::NotLmtp(said) => {
            Finding::error(CHECK, named, format!("no LMTP is spoken there: `{said}`"))
                .mend("set `port`, or `address` of the server, in [backends] to that of its lmtpd")
        }
    }
}

/// lmtpd says its `servername`, and the list has mailboxes under the `servername` of their backend.
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
    let what = format!("it calls itself {said}: is it the server the list means?");
    Some(
        Finding::error("backend/name", named, what)
            .mend("correct `address` of the server in [backends.servers], or the DNS"),
    )
}

fn tls(named: &str, facts: &Facts, client: &Client) -> Option<Finding> {
    const CHECK: &str = "backend/tls";
    let parameter = format!(
        "lmtp_tls_security_level = {} (transport {})",
        client.tls.as_deref().unwrap_or_default(),
        client.transport
    );
    if client.demands_tls() && !facts.starttls {
        let what = format!("it offers no STARTTLS, and Postfix has {parameter}: its letters wait");
        return Some(Finding::error(CHECK, named, what).mend(
            "give the backend a certificate (tls_server_cert; allowstarttls), or set the level to \
             may; a listener with `lmtpd -a` never offers it",
        ));
    }
    let Some(Tls::Failed(why)) = &facts.tls else { return None };
    let what = format!("it offers STARTTLS, which fails: {why}");
    let mend = "see its log; set allowstarttls: no if it is not meant to have TLS";
    match (client.demands_tls(), client.never_uses_tls()) {
        (true, _) => Some(Finding::error(CHECK, named, what).mend(mend)),
        (false, false) => Some(Finding::warning(CHECK, named, what).mend(mend)),
        (false, true) => None,
    }
}

/// Whether Postfix logs in where that is wanted, and only there.
fn login(named: &str, facts: &Facts, client: Option<&Client>) -> Option<Finding> {
    const CHECK: &str = "backend/login";
    let mail = facts.mail.as_ref()?;
    // 430 unless `soft_noauth: off` (imap/lmtpengine.c).
    let wants = matches!(mail.code, 430 | 530);
    if !wants && !mail.is_ok() {
        let what = format!("to MAIL FROM it said `{}`", mail.shown());
        return Some(match mail.is_temporary() {
            true => Finding::untested("backend/lmtp", named, what),
            false => Finding::error("backend/lmtp", named, what).mend("see its log"),
        });
    }
    let client = client?;
    let Client { transport, logs_in, password, .. } = client;
    let offered = match facts.auth.is_empty() {
        true => "none".to_owned(),
        false => facts.auth.join(" "),
    };
    let tries = *logs_in && *password != Some(false);
    if tries && (wants || !facts.auth.is_empty()) && client.usable(facts).is_empty() {
        let what = match wants {
            true => format!(
                "it wants a login, and Postfix uses none of the mechanisms it offers: {offered}"
            ),
            false => format!(
                "it is pre-authorised (lmtpd -a, AUTH {offered}), and Postfix still wants to log \
                 in: its letters wait"
            ),
        };
        let mend = match wants {
            true => "use TLS and lmtp_sasl_tls_security_options = noanonymous, or let the backend \
                     offer SCRAM (sasl_mech_list)"
                .to_owned(),
            false => format!(
                "set lmtp_sasl_auth_enable=no for the transport {transport} in master.cf, or have \
                 it deliver to a listener without -a"
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
            "set lmtp_sasl_auth_enable=yes and lmtp_sasl_password_maps, or have the backend listen \
             with `lmtpd -a` where only mail servers can connect",
        ),
        (true, Some(false)) => (
            format!("it wants a login, and Postfix has no password for it (transport {transport})"),
            "add the host to lmtp_sasl_password_maps",
        ),
        (true, _) => return None,
    };
    Some(Finding::error(CHECK, named, what).mend(mend))
}

fn asked(named: &str, recipient: &str, facts: &Facts) -> Finding {
    const CHECK: &str = "backend/recipient";
    let recipient = shown(recipient);
    let Some(reply) = &facts.rcpt else {
        let why = format!("{recipient}: it wants a login first, and we do not log in");
        return Finding::skipped(CHECK, named, why);
    };
    let said = reply.shown();
    match reply {
        Reply { .. } if reply.is_ok() => Finding::ok(CHECK, named, format!("it takes {recipient}")),
        Reply { .. } if reply.is_temporary() => {
            Finding::untested(CHECK, named, format!("to {recipient} it said `{said}`"))
        }
        _ => Finding::error(
            CHECK,
            named,
            format!("it refuses {recipient}, whom the list has there: `{said}`"),
        )
        .mend(
            "see whether the mailbox is on this backend (ctl_mboxlist -d there): the list may be \
             behind, or the name be made otherwise there (`cyrus-release`, imapd.conf)",
        ),
    }
}

fn in_words(facts: &Facts) -> String {
    let release = facts.release.map_or_else(String::new, |(a, b)| format!(" {a}.{b}"));
    let name = facts.name.as_deref().unwrap_or("?");
    let login = match &facts.mail {
        Some(mail) if mail.is_ok() => "pre-authorised".to_owned(),
        _ if facts.auth.is_empty() => "wants a login".to_owned(),
        _ => format!("wants a login ({})", facts.auth.join(" ")),
    };
    let tls = match &facts.tls {
        None => "no TLS".to_owned(),
        Some(Tls::Up(_)) => "TLS works".to_owned(),
        Some(Tls::Failed(why)) => format!("TLS fails ({why})"),
    };
    format!("lmtpd{release} answers as {name}: {login}, {tls}")
}

#[cfg(test)]
mod tests {
    use super::super::postfix::settings::tests::sites;
    use super::*;
    use crate::doctor::Severity;

    struct Passwords(&'static str);

    impl Ask for Passwords {
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

    fn reply(code: u16) -> Option<Reply> {
        Some(Reply { code, lines: vec!["said".into()] })
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
        let place = Place::parse("be1.example.org:2003", 24).unwrap();
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
    fn a_login_at_a_pre_authorised_listener_defers_everything() {
        assert_eq!(found(&pre_authorised(), &client(&[])), OK);
        assert_eq!(found(&pre_authorised(), &client(&LOGS_IN)), LOGIN);
        // Without a password for this host Postfix does not try.
        let mut other = client(&LOGS_IN);
        other.password = Some(false);
        assert_eq!(found(&pre_authorised(), &other), OK);
    }

    #[test]
    fn a_backend_that_wants_a_login_must_get_one_that_can_work() {
        let scram = wants_login(&["SCRAM-SHA-1"]);
        assert_eq!(found(&scram, &client(&[])), LOGIN);
        assert_eq!(found(&scram, &client(&LOGS_IN)), OK);
        let mut without = client(&LOGS_IN);
        without.password = Some(false);
        assert_eq!(found(&scram, &without), LOGIN);
        // Postfix' default bars passwords in the clear.
        let plain = wants_login(&["PLAIN", "LOGIN"]);
        assert_eq!(found(&plain, &client(&LOGS_IN)), LOGIN);
        let allowed = [&LOGS_IN[..], &[("lmtp_sasl_security_options", "noanonymous")]].concat();
        assert_eq!(found(&plain, &client(&allowed)), OK);
        let under_tls = Facts {
            auth: Vec::new(),
            starttls: true,
            tls: Some(Tls::Up(vec!["PLAIN".into()])),
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
        // What is offered under TLS is of no use to a Postfix that never uses it.
        let no_tls = [&allowed[..], &[("lmtp_sasl_tls_security_options", "noanonymous")]].concat();
        assert_eq!(found(&under_tls, &client(&no_tls)), LOGIN);
        let anonymous = wants_login(&["ANONYMOUS"]);
        assert_eq!(found(&anonymous, &client(&LOGS_IN)), LOGIN);
        let anybody = [&LOGS_IN[..], &[("lmtp_sasl_security_options", "noplaintext")]].concat();
        assert_eq!(found(&anonymous, &client(&anybody)), OK);
    }

    #[test]
    fn a_password_is_looked_for_as_postfix_looks_for_it() {
        let place = Place::parse("be1.example.org:2003", 24).unwrap();
        for key in ["be1.example.org", "be1.example.org:2003", "[be1.example.org]:2003"] {
            let found = has_password("hash:/a, hash:/b", &place, &Passwords(key));
            assert_eq!(found, Some(true), "{key}");
        }
        for (tables, key) in [("hash:/a", "be2.example.org"), ("", "be1.example.org")] {
            assert_eq!(has_password(tables, &place, &Passwords(key)), Some(false), "{key}");
        }
        let unix = Place::parse("unix:/lmtp", 24).unwrap();
        assert_eq!(has_password("hash:/a", &unix, &Passwords("/lmtp")), None);
        let [_, settings, _] = sites();
        let settings = LOGS_IN.iter().fold(settings, |all, (name, value)| all.with(name, value));
        let murder = settings.transport("murder").unwrap();
        let client = Client::of(&settings, murder, &place, &Passwords("be2.example.org"));
        assert_eq!(found(&wants_login(&["SCRAM-SHA-1"]), &client), LOGIN);
        assert_eq!(found(&pre_authorised(), &client), OK);
    }

    #[test]
    fn tls_that_postfix_demands_must_be_there() {
        let demands = client(&[("lmtp_tls_security_level", "encrypt")]);
        assert_eq!(found(&pre_authorised(), &demands), TLS);
        let broken = Facts {
            starttls: true,
            tls: Some(Tls::Failed("no certificate".into())),
            ..pre_authorised()
        };
        assert_eq!(found(&broken, &demands), TLS);
        let may = client(&[("lmtp_tls_security_level", "may")]);
        assert_eq!(found(&broken, &may), [("backend/tls", Severity::Warning)]);
        assert_eq!(found(&broken, &client(&[])), OK);
        let by_table = client(&[("lmtp_tls_policy_maps", "hash:/etc/tls")]);
        assert_eq!(found(&pre_authorised(), &by_table), OK);
    }

    #[test]
    fn a_server_that_is_another_one_than_the_list_means_is_noticed() {
        let of = |server: &str| {
            let found = judge(Some(server), "inet:x:2003", &pre_authorised(), None, None);
            found.iter().map(|finding| finding.check).collect::<Vec<_>>()
        };
        for same in ["be1.example.org", "BE1.example.org:2003", "be1.example.org:2003/noauth"] {
            assert_eq!(of(same), ["backend/lmtp"], "{same}");
        }
        assert_eq!(of("be2.example.org"), ["backend/name"]);
        // No port is the end of an address.
        for (listed, same) in [("2001:db8::1", true), ("2001:db8::2", false), ("be1:x", false)] {
            let facts = Facts { name: Some("2001:DB8::1".into()), ..pre_authorised() };
            assert_eq!(name("be1", listed, &facts).is_none(), same, "{listed}");
        }
        let facts = Facts { name: Some("be1:y".into()), ..pre_authorised() };
        assert!(name("be1", "be1:x", &facts).is_some());
    }

    #[test]
    fn what_it_says_of_a_recipient_is_judged() {
        let of = |rcpt: Option<Reply>| {
            let facts = Facts { rcpt, ..pre_authorised() };
            let found = judge(None, "unix:/lmtp", &facts, None, Some("jane@example.org"));
            let of = |check| found.iter().find(|finding| finding.check == check);
            let asked = of("backend/recipient").unwrap().severity;
            // What is found bad is not found well as well, and what was not asked is not bad.
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
    fn a_backend_that_is_away_is_an_error_and_one_that_says_later_is_not() {
        let of = |failure: Failure| {
            let facts = Facts { failure: Some(failure), ..Facts::default() };
            judge(Some("be1"), "inet:x:2003", &facts, None, None)[0].severity
        };
        assert_eq!(of(Failure::Connect("refused".into())), Severity::Error);
        assert_eq!(of(Failure::Lost("the greeting", "silence".into())), Severity::Error);
        assert_eq!(of(Failure::NotLmtp("SSH".into())), Severity::Error);
        let said = |code| Failure::Refused("the greeting", reply(code).unwrap());
        assert_eq!(of(said(421)), Severity::Untested);
        assert_eq!(of(said(554)), Severity::Error);
    }
}
