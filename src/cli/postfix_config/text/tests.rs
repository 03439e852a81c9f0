//! The fragments, and the endpoint that is chosen.

use std::collections::BTreeSet;

use super::*;

/// As `postconf -M` of Debian 12 prints it.
const CHROOTED: &str = "\
smtp       inet  n       -       y       -       -       smtpd
cleanup    unix  n       -       y       -       0       cleanup
rewrite    unix  -       -       y       -       -       trivial-rewrite
proxymap   unix  -       -       n       -       -       proxymap
relay      unix  -       -       y       -       -       smtp
    -o syslog_name=postfix/$service_name
";

fn wanted(verify: VerifyMethod) -> PostfixOptions {
    PostfixOptions { verify, chroot: None, sasl: false, tls: false }
}

fn listen(endpoint: &str) -> Listen {
    Listen::at(endpoint.parse().unwrap())
}

fn site(transports: &[&str], listeners: &[&str]) -> Site {
    Site {
        domains: Domains::new(["example.org", "example.net"]).unwrap(),
        transports: transports.iter().map(|transport| (*transport).into()).collect(),
        listeners: listeners.iter().map(|endpoint| listen(endpoint)).collect(),
        fallback: None,
        lower_case_stays: true,
    }
}

fn plan(listeners: &[&str], chroot: bool, wanted: PostfixOptions) -> Result<Fragments, Misfit> {
    Fragments::new(
        &site(&["murder"], listeners),
        PostfixHost { chroot, ..PostfixHost::default() },
        wanted,
    )
}

/// Parses as Postfix does: removes comments and joins continued lines.
fn settings(text: &str) -> Vec<String> {
    let mut settings: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match settings.last_mut() {
            Some(last) if line.starts_with(' ') => *last += line,
            _ => settings.push(line.to_owned()),
        }
    }
    settings
}

fn has(text: &str, line: &str) -> bool {
    settings(text).iter().any(|setting| setting == line)
}

#[test]
fn shipped_files_equal_the_output_for_the_example() {
    let site = Site { domains: Domains::new(["example.org"]).unwrap(), ..site(&["murder"], &[]) };
    let plan =
        Fragments::new(&site, PostfixHost::default(), wanted(VerifyMethod::Recipients)).unwrap();
    assert_eq!(settings(&plan.main_cf()), settings(MAIN_CF));
    assert_eq!(settings(&plan.master_cf()), settings(MASTER_CF));
    assert_eq!(plan.status_filter(), STATUS);
    assert_eq!(plan.canonical_filter().as_deref(), Some(CANONICAL));
    assert_eq!(plan.toml(), None);
}

#[test]
fn commented_parts_are_printed_with_their_option_only() {
    let mut optional = BTreeSet::new();
    for line in MAIN_CF.lines().chain(MASTER_CF.lines()) {
        match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') || setting.starts_with("  ") => {
                optional.insert(setting.replace(SOCKET, "unix:murder-route/socket"));
            }
            _ => {}
        }
    }
    let mut printed = Vec::new();
    for verify in [
        VerifyMethod::Transport,
        VerifyMethod::Recipients,
        VerifyMethod::Policy,
        VerifyMethod::Milter,
    ] {
        for (more, fallback) in [(false, false), (true, false), (true, true)] {
            let wanted =
                PostfixOptions { verify, chroot: Some(Chroot::Socket), sasl: more, tls: more };
            let mut site = site(&["murder"], &[]);
            site.fallback = fallback.then(|| FALLBACK.to_owned());
            let host = PostfixHost { chroot: true, ..PostfixHost::default() };
            let plan = Fragments::new(&site, host, wanted).unwrap();
            let text =
                plan.main_cf().replace("{{example.net = reject_unverified_recipient}, ", "{")
                    + &plan.master_cf();
            let found: BTreeSet<String> =
                text.lines().filter(|line| optional.contains(*line)).map(str::to_owned).collect();
            let by_files = matches!(verify, VerifyMethod::Transport | VerifyMethod::Recipients);
            assert_eq!(found.is_empty(), by_files && !more, "{verify:?}");
            for line in text.lines().filter(|line| line.starts_with("# --")) {
                let (option, _) = line[4..].split_once(':').unwrap();
                let ours = match option.strip_prefix("verify ") {
                    Some(words) => {
                        let verify =
                            if fallback && !by_files { VerifyMethod::Recipients } else { verify };
                        words.split(", ").any(|word| word == verify.as_str())
                    }
                    None if option == "fallback" => fallback,
                    None => more,
                };
                assert!(ours, "{verify:?}, {more}, {fallback}: {line}");
            }
            printed.extend(found);
        }
    }
    assert_eq!(printed.into_iter().collect::<BTreeSet<_>>(), optional);
}

#[test]
fn chrooted_postfix_gets_one_way_out() {
    let inside = "unix:/var/spool/postfix/mr/s";
    let run = "unix:/run/murder-route";
    for (listeners, chroot, verify, socket, proxy) in [
        (&[][..], false, VerifyMethod::Policy, run, ""),
        (&[], true, VerifyMethod::Transport, run, "proxy:"),
        (&["systemd:murder-route.socket"], true, VerifyMethod::Recipients, run, "proxy:"),
        (&[run, inside], true, VerifyMethod::Transport, "unix:mr/s", ""),
        (&[run, inside], true, VerifyMethod::Milter, "unix:mr/s", ""),
        (&[run, inside], false, VerifyMethod::Milter, run, ""),
        (&[inside], false, VerifyMethod::Transport, "unix:/var/spool/postfix/mr/s", ""),
        (&["inet:127.0.0.1:10090"], true, VerifyMethod::Policy, "inet:127.0.0.1:10090", ""),
        (&[], true, VerifyMethod::Policy, "unix:murder-route/socket", ""),
    ] {
        let plan = plan(listeners, chroot, wanted(verify)).unwrap();
        let text = plan.main_cf();
        let case = format!("{listeners:?}, {chroot}, {verify:?}: {text}");
        assert!(has(&text, &format!("transport_maps = {proxy}socketmap:{socket}:lmtp")), "{case}");
        let canonical = format!(
            "recipient_canonical_maps = pipemap:{{regexp:/etc/postfix/murder-route-canonical,    \
             {proxy}socketmap:{socket}:canonical}}"
        );
        assert!(has(&text, &canonical), "{case}");
        let more = match verify {
            VerifyMethod::Transport => continue,
            VerifyMethod::Recipients => {
                format!("relay_recipient_maps = {proxy}socketmap:{socket}:rcpt")
            }
            VerifyMethod::Policy => {
                format!("smtpd_recipient_restrictions = check_policy_service {socket}")
            }
            VerifyMethod::Milter => format!("smtpd_milters = {socket}"),
        };
        assert!(has(&text, &more), "{case}");
    }
}

/// smtpd caches the answers of its trivial-rewrite for its lifetime.
#[test]
fn every_smtpd_gets_a_rewrite_service_without_our_maps() {
    let services = "smtp inet n - y - - smtpd\nsmtpd pass - - y - - smtpd\n\
                    127.0.0.1:10025 inet n - - - - smtpd\n    -o smtpd_milters=\n\
                    smtp unix - - y - - smtp\n";
    let host = PostfixHost::read(services, "");
    for (verify, is_own) in [
        (VerifyMethod::Recipients, true),
        (VerifyMethod::Policy, true),
        (VerifyMethod::Milter, true),
        (VerifyMethod::Transport, false),
    ] {
        let wanted = PostfixOptions { chroot: Some(Chroot::None), ..wanted(verify) };
        for transport in ["murder", "lmtp"] {
            let plan = Fragments::new(&site(&[transport], &[]), host.clone(), wanted).unwrap();
            let services = settings(&plan.master_cf());
            let own = "smtpd-rewrite unix -    -       n       -       -       trivial-rewrite    -o \
                       transport_maps=";
            let has_own = services.iter().any(|service| service == own);
            assert_eq!(has_own, is_own, "{verify:?}: {services:?}");
            assert!(!plan.main_cf().contains("trivial-rewrite"), "{verify:?}");
            let set = ["smtp/inet", "smtpd/pass", "127.0.0.1:10025/inet"]
                .map(|of| format!("{of}/rewrite_service_name=smtpd-rewrite\n"));
            assert_eq!(plan.smtpd(), if is_own { set.concat() } else { String::new() });
        }
    }
    assert_eq!(PostfixHost::read("", "").smtpds, ["smtp/inet"]);
}

/// The status filter of the murder's transport would make temporary refusals of lmtpproxyd
/// permanent, and Debian's `lmtp` is chrooted, while lmtpproxyd's socket is outside.
#[test]
fn fallback_has_a_transport_of_its_own_and_is_asked_at_rcpt() {
    for (fallback, service) in [
        (Some("proxyd"), Some("proxyd ")),
        (Some("lmtp"), None),
        (Some("murder"), None),
        (None, None),
    ] {
        let mut site = site(&["murder"], &[]);
        site.fallback = fallback.map(str::to_owned);
        for verify in [VerifyMethod::Recipients, VerifyMethod::Policy] {
            let plan = Fragments::new(&site, PostfixHost::default(), wanted(verify)).unwrap();
            let services = settings(&plan.master_cf());
            let named: Vec<&String> =
                services.iter().filter(|one| one.ends_with(" lmtp")).collect();
            assert_eq!(named.len(), usize::from(service.is_some()), "{services:?}");
            assert!(named.iter().all(|one| one.starts_with(service.unwrap())), "{services:?}");
            let restricted: Vec<String> = settings(&plan.main_cf())
                .into_iter()
                .filter(|line| line.starts_with("smtpd_recipient_restrictions"))
                .collect();
            let probed = "smtpd_recipient_restrictions =    check_recipient_access \
                          inline:{{example.net = reject_unverified_recipient}, \
                          {example.org = reject_unverified_recipient}}";
            let expected = match (fallback, verify) {
                (Some(_), _) => vec![probed],
                (None, VerifyMethod::Policy) => vec![
                    "smtpd_recipient_restrictions = check_policy_service unix:/run/murder-route",
                ],
                (None, _) => vec![],
            };
            assert_eq!(restricted, expected, "{fallback:?}");
        }
    }
}

#[test]
fn no_address_skips_the_lookup_if_capitals_are_canonical() {
    let site = Site { lower_case_stays: false, ..site(&["murder"], &[]) };
    for (chroot, proxy) in [(false, ""), (true, "proxy:")] {
        let host = PostfixHost { chroot, ..PostfixHost::default() };
        let plan = Fragments::new(&site, host, wanted(VerifyMethod::Transport)).unwrap();
        let text = plan.main_cf();
        let canonical =
            format!("recipient_canonical_maps = {proxy}socketmap:unix:/run/murder-route:canonical");
        assert!(has(&text, &canonical), "{text}");
        assert_eq!(plan.canonical_filter(), None);
    }
}

#[test]
fn missing_socket_is_added_to_the_existing_ones() {
    let socket = PostfixOptions { chroot: Some(Chroot::Socket), ..wanted(VerifyMethod::Transport) };
    let tables = |listeners: &[&str]| plan(listeners, true, socket).unwrap().toml();
    let there = "[[listen]]\nendpoint = \"systemd:murder-route.socket\"\n";
    let missing = "[[listen]]\nendpoint = \"unix:/var/spool/postfix/murder-route/socket\"\n";
    let text = tables(&[]).unwrap();
    assert!(text.contains(there) && text.ends_with(missing), "{text}");
    let text = tables(&["unix:/run/murder-route"]).unwrap();
    assert!(!text.contains(there) && text.ends_with(missing), "{text}");
    assert_eq!(tables(&["unix:/var/spool/postfix/murder-route/socket"]), None);
}

#[test]
fn unusual_directories_of_the_host_are_used() {
    let settings = "queue_directory = /queue\nconfig_directory = /etc/postfix-in\n";
    let host = PostfixHost::read(CHROOTED, settings);
    let socket = PostfixOptions { chroot: Some(Chroot::Socket), ..wanted(VerifyMethod::Transport) };
    let plan =
        Fragments::new(&site(&["murder"], &["unix:/queue/a/s"]), host.clone(), socket).unwrap();
    assert!(plan.main_cf().contains("socketmap:unix:a/s:lmtp"), "{}", plan.main_cf());
    assert!(plan.main_cf().contains("{regexp:/etc/postfix-in/murder-route-canonical,"));
    let filter = "lmtp_delivery_status_filter=regexp:/etc/postfix-in/murder-route-status";
    assert!(plan.master_cf().contains(filter), "{}", plan.master_cf());
    let plan = Fragments::new(&site(&["murder"], &[]), host, socket).unwrap();
    assert!(plan.toml().unwrap().contains("\"unix:/queue/murder-route/socket\""));
}

#[test]
fn each_transport_gets_a_service_and_limits() {
    let own = PostfixOptions { sasl: true, ..wanted(VerifyMethod::Transport) };
    let plan = |transports: &[&str]| {
        Fragments::new(&site(transports, &[]), PostfixHost::default(), own).unwrap()
    };
    let filter = "lmtp_delivery_status_filter = regexp:/etc/postfix/murder-route-status";
    let lmtp = plan(&["lmtp"]);
    assert_eq!(lmtp.master_cf(), "");
    for setting in [
        filter,
        "lmtp_sasl_auth_enable = yes",
        "lmtp_destination_concurrency_limit = 20",
        "lmtp_destination_recipient_limit = 50",
    ] {
        assert!(has(&lmtp.main_cf(), setting), "{setting}: {}", lmtp.main_cf());
    }
    assert!(!lmtp.main_cf().contains("murder_") && !lmtp.main_cf().contains(" -o "));
    // Otherwise it would keep every smtpd with its cached unknown recipients.
    assert!(MASTER_CF.contains("-o max_use=") && !lmtp.main_cf().contains("max_use"));

    let both = plan(&["near", "far"]);
    let services = settings(&both.master_cf());
    let starts = |nth: usize, name: &str| services[nth].starts_with(&format!("{name} "));
    assert!(starts(0, "near") && starts(1, "far") && services.len() == 2, "{services:?}");
    let filtered = |service: &String| service.contains("-o lmtp_delivery_status_filter=regexp:");
    assert!(services.iter().all(filtered), "{services:?}");
    for name in ["near", "far"] {
        let limit = format!("{name}_destination_concurrency_failed_cohort_limit = 10");
        assert!(has(&both.main_cf(), &limit), "{}", both.main_cf());
    }
    assert!(!has(&both.main_cf(), filter));
}

/// Otherwise messages wait at a backend that has no certificate, or one that accepts no login.
#[test]
fn login_and_certificate_are_independent() {
    // Without TLS no password is sent in the clear.
    let login = [
        "lmtp_sasl_auth_enable=yes",
        "lmtp_sasl_password_maps=regexp:/etc/postfix-in/murder-route-password",
        "lmtp_sasl_security_options=noplaintext,noanonymous",
        "lmtp_sasl_tls_security_options=noanonymous",
    ];
    let certificate =
        ["lmtp_tls_security_level=secure", "lmtp_tls_CAfile=/etc/ssl/certs/ca-certificates.crt"];
    let host = PostfixHost { config_directory: "/etc/postfix-in".into(), ..PostfixHost::default() };
    for (sasl, tls) in [(false, false), (true, false), (false, true), (true, true)] {
        let wanted = PostfixOptions { sasl, tls, ..wanted(VerifyMethod::Transport) };
        let plan =
            |transport| Fragments::new(&site(&[transport], &[]), host.clone(), wanted).unwrap();
        let services = settings(&plan("murder").master_cf());
        let [service] = &services[..] else { panic!("{services:?}") };
        let main_cf = plan("lmtp").main_cf();
        for (names, is_wanted) in [(&login[..], sasl), (&certificate, tls)] {
            for name in names {
                let case = format!("{name}: --sasl {sasl}, --tls {tls}");
                let is_there = service.split("    -o ").any(|option| option == *name);
                assert_eq!(is_there, is_wanted, "{case}: {service}");
                assert_eq!(
                    has(&main_cf, &name.replacen('=', " = ", 1)),
                    is_wanted,
                    "{case}: {main_cf}"
                );
            }
        }
        for (word, is_wanted) in [("_sasl_", sasl), ("_tls_", tls || sasl)] {
            let case = format!("{word}: --sasl {sasl}, --tls {tls}");
            assert_eq!(service.contains(word), is_wanted, "{case}: {service}");
            let words = settings(&main_cf).concat();
            assert_eq!(words.contains(word), is_wanted, "{case}: {words}");
        }
    }
}

#[test]
fn ca_of_the_site_replaces_those_of_the_system() {
    let wanted = PostfixOptions { tls: true, ..wanted(VerifyMethod::Transport) };
    let plan = |transport| {
        Fragments::new(&site(&[transport], &[]), PostfixHost::default(), wanted).unwrap()
    };
    let with = |transport| plan(transport).with_ca_file(Path::new("/etc/ssl/ours.pem")).unwrap();
    let master_cf = with("murder").master_cf();
    assert!(master_cf.contains("    -o lmtp_tls_CAfile=/etc/ssl/ours.pem\n"), "{master_cf}");
    assert!(!master_cf.contains("ca-certificates"), "{master_cf}");
    let main_cf = with("lmtp").main_cf();
    assert!(has(&main_cf, "lmtp_tls_CAfile = /etc/ssl/ours.pem"), "{main_cf}");
    for odd in ["ours.pem", "/etc/ssl/o urs.pem", "/etc/$x"] {
        let error = plan("murder").with_ca_file(Path::new(odd)).unwrap_err();
        assert!(matches!(error, Misfit::OddPath(_)), "{odd}");
    }
}

#[test]
fn impossible_options_are_errors() {
    let asked = |listeners: &[&str], chroot: Option<Chroot>, verify| {
        plan(listeners, true, PostfixOptions { chroot, ..wanted(verify) }).unwrap_err().to_string()
    };
    let proxied = asked(&[], Some(Chroot::Proxy), VerifyMethod::Policy);
    assert!(proxied.contains("--chroot socket"), "{proxied}");
    for path in ["unix:/var/spool/postfix/a b", "unix:/var/spool/postfix/$x"] {
        let odd = asked(&[path], None, VerifyMethod::Transport);
        assert!(odd.contains("invalid path"), "{odd}");
    }
    let mut deaf = site(&["murder"], &["unix:/run/murder-route"]);
    deaf.listeners[0].protocols = [Protocol::Socketmap].into_iter().collect();
    let error =
        Fragments::new(&deaf, PostfixHost::default(), wanted(VerifyMethod::Milter)).unwrap_err();
    assert!(error.to_string().contains("speaks socketmap, milter"), "{error}");

    let with = |domains: &[&str]| {
        let site = Site { domains: Domains::new(domains).unwrap(), ..site(&["lmtp"], &[]) };
        Fragments::new(&site, PostfixHost::default(), wanted(VerifyMethod::Transport)).unwrap_err()
    };
    assert_eq!(with(&[]), Misfit::NoDomains);
    assert_eq!(with(&["*"]), Misfit::EveryDomain);
}

#[test]
fn chroot_column_is_parsed_as_by_postfix() {
    let chroot = |services: &str, level: &str| {
        PostfixHost::read(services, &format!("compatibility_level = {level}\n")).chroot
    };
    assert!(chroot(CHROOTED, "3.6"));
    let free = CHROOTED.replace(" y ", " n ");
    assert!(!chroot(&free, "3.6"));
    let one = "smtpd pass - - y - - smtpd -o x=y\n";
    assert!(chroot(&format!("{free}{one}"), "2"));
    let silent = CHROOTED.replace(" y ", " - ");
    assert!(chroot(&silent, "0") && !chroot(&silent, "1") && !chroot(&silent, "3.6"));
    // The chroot of a service that does not query us has no effect.
    assert!(!chroot("smtp unix - - y - - smtp\n", "3.6"));
    assert_eq!(PostfixHost::read("", ""), PostfixHost::default());
}
