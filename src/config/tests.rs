//! Configurations that load, and those that are errors.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::address::Release;
use crate::model::backend::NoBackend;
use crate::mupdate::{Credentials, Mechanism, WhenTls};
use crate::routing::maps::UnknownPolicy;
use crate::routing::route::{Cause, Decision, Refusal, Route};
use crate::wire::endpoint::ListenOptions;
use crate::wire::protocol::Protocol;

/// A directory with an imapd.conf and a murder-route.toml.
struct Site(tempfile::TempDir);

const LOGIN: &str = "mupdate_authname: postman\nmupdate_password: geheim\n";

impl Site {
    fn new(imapd_conf: &str, toml: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        let imapd_conf = format!("configdirectory: /var/lib/cyrus\n{imapd_conf}");
        site.write("imapd.conf", &imapd_conf, 0o600);
        site.write("murder-route.toml", toml, 0o600);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        // One of mode 0400 is not written again by its owner.
        if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load_with(&self, more: Overrides) -> Result<Settings, String> {
        let given = Overrides { config: Some(self.path("murder-route.toml")), ..more };
        Settings::load(&given).map_err(|e| e.to_string())
    }

    fn load(&self) -> Result<Settings, String> {
        self.load_with(Overrides::default())
    }
}

fn load_error(imapd_conf: &str, toml: &str) -> String {
    Site::new(imapd_conf, &format!("imapd-conf = \"imapd.conf\"\n{toml}")).load().unwrap_err()
}

fn loaded(imapd_conf: &str, toml: &str) -> Settings {
    Site::new(imapd_conf, &format!("imapd-conf = \"imapd.conf\"\n{toml}")).load().unwrap()
}

#[test]
fn options_without_a_file_configure_a_replica() {
    let site = Site::new("", "");
    // imapd.conf is the only file of Cyrus.
    let imapd_conf = format!("mupdate_server: 127.0.0.1:13905\n{LOGIN}");
    site.write("imapd.conf", &imapd_conf, 0o600);
    let given = Overrides {
        imapd_conf: Some(site.path("imapd.conf")),
        sources: vec![SourceName::Replica],
        replica: Some("/srv/replica".into()),
        allow_plaintext: true,
        domains: vec!["example.org".into()],
        ..Overrides::default()
    };
    let settings = site.load_with(given).unwrap();
    assert_eq!(settings.sources, [SourceName::Replica]);
    assert_eq!((settings.mailboxes_db, settings.proof), (None, ConfirmVia::Master { slave: None }));
    assert_eq!(settings.replica.directory, Path::new("/srv/replica"));
    assert_eq!(settings.replica.accept_after, Duration::from_secs(600));
    assert_eq!(settings.replica.max_age, None);
    let mupdate = settings.mupdate.unwrap();
    assert_eq!(mupdate.servers, [MasterAddress { host: "127.0.0.1".into(), port: 13905 }]);
    assert_eq!(mupdate.credentials.authname, "postman");
    assert_eq!(mupdate.credentials.password.as_ref().unwrap().reveal(), b"geheim");
    assert!(mupdate.allow_plaintext);
    assert_eq!(mupdate.tls.when, WhenTls::IfOffered);
}

#[test]
fn frontend_confirms_via_master_or_else_via_its_slave() {
    let settings = loaded("", "");
    assert_eq!((settings.proof, settings.mupdate), (ConfirmVia::Complete, None));
    let settings = loaded("", "misses = \"final\"\n");
    assert_eq!((settings.proof, settings.mupdate), (ConfirmVia::List, None));
    let socket = PathBuf::from("/var/lib/cyrus/socket/mupdate.target");
    let settings = loaded(&format!("mupdate_server: mu\n{LOGIN}"), "");
    assert_eq!(settings.proof, ConfirmVia::Master { slave: Some(socket.clone()) });
    assert!(settings.mupdate.is_some() && settings.warnings.is_empty());
    // `misses` has no effect where the master can be asked.
    let told = loaded(&format!("mupdate_server: mu\n{LOGIN}"), "misses = \"final\"\n");
    assert_eq!(told.proof, settings.proof);
    // A resync of the slave can lose accounts.
    for login in ["", "mupdate_authname: postman\n", "mupdate_password: x\n"] {
        let settings = loaded(&format!("mupdate_server: mu\n{login}"), "");
        assert_eq!(settings.proof, ConfirmVia::Slave(socket.clone()), "{login}");
        assert!(settings.mupdate.is_none());
        assert!(settings.warnings[0].to_string().contains("resync"), "{:?}", settings.warnings);
    }
    // A value with which Cyrus runs is not an error.
    let settings = loaded(&format!("mupdate_server: mu:port\n{LOGIN}"), "");
    assert_eq!(settings.proof, ConfirmVia::Slave(socket));
}

#[test]
fn slave_does_not_confirm_misses_of_a_copied_list() {
    let copy = "mailboxes-db = \"/srv/copy/mailboxes.db\"\n";
    let settings = loaded(&format!("mupdate_server: mu\n{LOGIN}"), copy);
    assert_eq!(settings.proof, ConfirmVia::Master { slave: None });
    assert!(settings.mupdate.is_some() && settings.warnings.is_empty());
    let settings = loaded("mupdate_server: mu\n", copy);
    assert_eq!((settings.proof, settings.mupdate), (ConfirmVia::Master { slave: None }, None));
    assert!(settings.warnings[0].to_string().contains("not the list"), "{:?}", settings.warnings);
    // The same file by another path.
    let site = Site::new("", "");
    let lists = site.path("lists");
    std::os::unix::fs::symlink(site.path("."), &lists).unwrap();
    site.write("mailboxes.db", "", 0o600);
    let imapd_conf = format!("configdirectory: {}\nmupdate_server: mu\n", site.path("").display());
    site.write("imapd.conf", &imapd_conf, 0o600);
    let toml = "imapd-conf = \"imapd.conf\"\nmailboxes-db = \"lists/mailboxes.db\"\n";
    site.write("murder-route.toml", toml, 0o600);
    assert!(matches!(site.load().unwrap().proof, ConfirmVia::Slave(_)));
}

#[test]
fn slave_does_not_confirm_misses_of_other_sources() {
    for source in ["\"replica\"", "\"find\"", "[\"replica\", \"mailboxes-db\"]"] {
        let toml = format!("source = {source}");
        let settings = loaded(&format!("mupdate_server: mu\n{LOGIN}"), &toml);
        assert_eq!(settings.proof, ConfirmVia::Master { slave: None }, "{source}");
        let error = load_error("mupdate_server: mu\n", &toml);
        assert!(error.contains("mupdate_authname"), "{error}");
        assert!(load_error("", &toml).contains("mupdate_server"));
    }
}

#[test]
fn mupdate_server_is_read_as_cyrus_reads_it() {
    let server = |host: &str, port| Ok(MasterAddress { host: host.into(), port });
    for (text, read) in [
        ("mupdate.example.org", server("mupdate.example.org", 3905)),
        ("mu:13905", server("mu", 13905)),
        ("mu:mupdate/tls/notls", server("mu", 3905)),
        ("mu/tls", server("mu", 3905)),
        ("[2001:db8::1]", server("2001:db8::1", 3905)),
        ("[::1]:13905", server("::1", 13905)),
    ] {
        assert_eq!(text.parse(), read, "{text}");
    }
    for text in
        ["", ":3905", "/var/run/mupdate", "mu:0", "mu:65536", "mu:x", "[::1", "[::1]x", "a b"]
    {
        assert!(text.parse::<MasterAddress>().is_err(), "{text}");
    }
    assert_eq!("[::1]:1".parse::<MasterAddress>().unwrap().to_string(), "[::1]:1");
}

#[test]
fn mupdate_keys_override_imapd_conf_and_may_name_another() {
    let site = Site::new(
        &format!("mupdate_server: far\nunixhierarchysep: no\n{LOGIN}"),
        "imapd-conf = \"imapd.conf\"\nsource = \"find\"\n[mupdate]\nimapd-conf = \"lmtp.conf\"\n\
         password-file = \"password\"\nusername = \"deputy\"\n",
    );
    site.write(
        "lmtp.conf",
        "mupdate_server: localhost\nmupdate_authname: here\nmupdate_password: x\n\
         unixhierarchysep: yes\n",
        0o600,
    );
    site.write("password", "s3cret \n", 0o640);
    let settings = site.load().unwrap();
    assert!(!settings.router.rules.unixhierarchysep);
    let mupdate = settings.mupdate.unwrap();
    assert_eq!(mupdate.servers[0].to_string(), "localhost:3905");
    let Credentials { username, authname, password, .. } = mupdate.credentials;
    assert_eq!((username.as_str(), authname.as_str()), ("deputy", "here"));
    assert_eq!(password.unwrap().reveal(), b"s3cret ");
}

#[test]
fn realm_of_the_file_overrides_that_of_imapd_conf() {
    let realm = |conf: &str, own: &str| {
        let conf = format!("mupdate_server: mu\n{LOGIN}{conf}");
        loaded(&conf, &format!("[mupdate]\n{own}")).mupdate.unwrap().credentials.realm
    };
    let (theirs, ours) = ("mupdate_realm: theirs.example\n", "realm = \"ours.example\"\n");
    assert_eq!(realm("", ""), None);
    assert_eq!(realm(theirs, "").as_deref(), Some("theirs.example"));
    assert_eq!(realm("", ours).as_deref(), Some("ours.example"));
    assert_eq!(realm(theirs, ours).as_deref(), Some("ours.example"));
}

#[test]
fn password_file_readable_by_others_is_an_error_and_not_shown() {
    let toml = "imapd-conf = \"imapd.conf\"\n[mupdate]\nauthname = \"a\"\npassword-file = \"pw\"\n";
    let site = Site::new("mupdate_server: mu\n", toml);
    assert!(site.load().unwrap_err().contains("/pw: "), "missing");
    for (text, mode) in [
        ("s3cret", 0o644),
        ("s3cret", 0o660),
        ("s3cret", 0o601),
        ("", 0o600),
        ("\n", 0o600),
        ("s3cret\nmore", 0o600),
        (&"s3cret".repeat(1000), 0o600),
    ] {
        site.write("pw", text, mode);
        let error = site.load().unwrap_err();
        assert!(error.contains("/pw: ") && !error.contains("s3cret"), "{mode:o}: {error}");
    }
    for (text, mode) in [("s3cret\n", 0o640), ("s3cret\r\n", 0o400), ("s3cret", 0o600)] {
        site.write("pw", text, mode);
        let settings = site.load().unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
        assert_eq!(settings.mupdate.unwrap().credentials.password.unwrap().reveal(), b"s3cret");
    }
}

/// An attacker on the way can remove the offer of TLS from the banner.
#[test]
fn keys_that_authenticate_the_master_require_tls() {
    let of = |more: &str| {
        let imapd_conf = format!("mupdate_server: mu\n{LOGIN}");
        let settings = loaded(&imapd_conf, &format!("[mupdate]\n{more}"));
        settings.mupdate.unwrap().tls.when
    };
    assert_eq!(of(""), WhenTls::IfOffered);
    assert_eq!(of("ca-file = \"ca.pem\"\n"), WhenTls::Required);
    assert_eq!(of("tls-name = \"mu.example.org\"\n"), WhenTls::Required);
    assert_eq!(of("ca-file = \"ca.pem\"\ntls = \"if-offered\"\n"), WhenTls::IfOffered);
    // As Cyrus' own slave does for such a name.
    assert_eq!(of("servers = [\"mu:3905/tls\"]\n"), WhenTls::Required);
    for (server, when) in [
        ("mu:3905/tls", WhenTls::Required),
        ("mu/noauth/tls", WhenTls::Required),
        ("mu/noauth", WhenTls::IfOffered),
    ] {
        let mupdate = loaded(&format!("mupdate_server: {server}\n{LOGIN}"), "").mupdate.unwrap();
        assert_eq!((mupdate.tls.when, &*mupdate.servers[0].host), (when, "mu"), "{server}");
    }
}

#[test]
fn unknown_defaults_to_defer_without_imapd_conf() {
    let site = Site::new("", "");
    for (more, policy) in
        [("", UnknownPolicy::Defer), ("unknown = \"reject\"\n", UnknownPolicy::Reject)]
    {
        // A list that is named keeps /etc/imapd.conf out, which hosts with Cyrus have.
        let toml = format!(
            "{more}mailboxes-db = \"unread\"\nsource = \"replica\"\n[mupdate]\nservers = [\"mu\"]\n\
             authname = \"a\"\npassword-file = \"password\"\n"
        );
        site.write("murder-route.toml", &toml, 0o600);
        site.write("password", "geheim\n", 0o600);
        let settings = site.load().unwrap();
        assert_eq!(settings.maps.unknown, policy);
        assert!(settings.warnings.iter().any(|text| text.to_string().contains("no imapd.conf")));
        // A file that is empty, perhaps for a moment, says no more than none.
        site.write("empty.conf", "# not yet written\n", 0o644);
        site.write("murder-route.toml", &format!("imapd-conf = \"empty.conf\"\n{toml}"), 0o600);
        let settings = site.load().unwrap();
        assert_eq!(settings.maps.unknown, policy);
        assert!(settings.warnings[0].to_string().contains("empty.conf: sets nothing"));
    }
    assert_eq!(loaded("", "").maps.unknown, UnknownPolicy::Reject);
}

#[test]
fn backend_list_warning_needs_a_standard_murder() {
    let warned = |imapd_conf: &str, toml: &str, text: &str| {
        let warnings = loaded(imapd_conf, toml).warnings;
        warnings.iter().any(|warning| warning.to_string().contains(text))
    };
    let murder = format!("proxyservers: fe\nmupdate_server: mu\n{LOGIN}");
    for (imapd_conf, toml, own, local) in [
        (murder.clone(), "", true, false),
        (format!("{murder}mupdate_config: unified\n"), "", false, true),
        (format!("{murder}mupdate_config: replicated\n"), "", false, true),
        (format!("{murder}mupdate_config: unified\n"), "[backends]\nlocal = \"h\"\n", false, false),
        ("proxyservers: fe\n".into(), "", false, false),
        ("mupdate_config: unified\n".into(), "", false, false),
    ] {
        assert_eq!(warned(&imapd_conf, toml, "holds only its own"), own, "{imapd_conf}{toml}");
        assert_eq!(warned(&imapd_conf, toml, "`local` in [backends]"), local, "{imapd_conf}{toml}");
    }
}

#[test]
fn password_is_read_byte_by_byte() {
    let site = Site::new("", "imapd-conf = \"imapd.conf\"\n");
    let imapd_conf = b"configdirectory: /v\nmupdate_server: mu\nmupdate_authname: a\n\
                       mupdate_password: p\xe4ss\n";
    fs::write(site.path("imapd.conf"), imapd_conf).unwrap();
    let settings = site.load().unwrap();
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    assert_eq!(settings.mupdate.unwrap().credentials.password.unwrap().reveal(), b"p\xe4ss");
    fs::write(site.path("imapd.conf"), "configdirectory: /v\n").unwrap();
    let toml = "imapd-conf = \"imapd.conf\"\n[mupdate]\nservers = [\"mu\"]\nauthname = \"a\"\n\
                password-file = \"password\"\n";
    site.write("murder-route.toml", toml, 0o600);
    site.write("password", "", 0o600);
    fs::write(site.path("password"), b"p\xe4ss\r\n").unwrap();
    let mupdate = site.load().unwrap().mupdate.unwrap();
    assert_eq!(mupdate.credentials.password.unwrap().reveal(), b"p\xe4ss");
}

#[test]
fn release_selects_the_rules_of_its_family() {
    let conf = "lmtp_catchall_mailbox: lost\nlmtp_fuzzy_mailbox_match: yes\n";
    for (release, family, catchall) in [
        ("2.2", Release::V2_4, false),
        ("2.4.22", Release::V2_4, false),
        ("2.5", Release::V2_5, true),
        ("3.4", Release::V3_0, true),
        ("3.6.1", Release::V3_6, true),
        ("3.12", Release::V3_6, true),
        ("3.13", Release::V3_13, true),
        ("3.14", Release::V3_13, true),
    ] {
        let settings = loaded(conf, &format!("cyrus-release = \"{release}\"\n"));
        let Router { rules, older, .. } = settings.router;
        assert_eq!((rules.release, rules.catchall.is_some()), (family, catchall), "{release}");
        assert!(older.is_empty());
    }
    let router = loaded(conf, "").router;
    assert_eq!(router.rules.release, Release::V3_6);
    let older: Vec<_> = router.older.iter().map(|rules| rules.release).collect();
    assert_eq!(older, [Release::V3_0, Release::V2_5, Release::V2_4]);
}

#[test]
fn source_mupdate_follows_mode() {
    use SourceName::{Find, MailboxesDb, Replica};
    let imapd_conf = format!("mupdate_server: mu\n{LOGIN}");
    for (toml, sources) in [
        ("source = \"mupdate\"\n", &[Replica][..]),
        ("[mupdate]\nmode = \"replica\"\n", &[Replica]),
        ("[mupdate]\nmode = \"find\"\n", &[Find]),
        (
            "source = [\"mailboxes-db\", \"mupdate\"]\n[mupdate]\nmode = \"find\"\n",
            &[MailboxesDb, Find],
        ),
        ("source = \"find\"\n[mupdate]\nmode = \"find\"\n", &[Find]),
    ] {
        assert_eq!(loaded(&imapd_conf, toml).sources, sources, "{toml}");
    }
    for (toml, says) in [
        ("source = \"mailboxes-db\"\n[mupdate]\nmode = \"find\"\n", "has no effect"),
        ("source = [\"mupdate\", \"replica\"]\n", "twice"),
        ("source = [\"mupdate\", \"mupdate\"]\n", "twice"),
        ("[mupdate]\nmode = \"slave\"\n", "line 3"),
    ] {
        let why = load_error(&imapd_conf, toml);
        assert!(why.contains(says), "{toml}: {why}");
    }
}

#[test]
fn all_keys_of_mupdate_and_replica_are_read() {
    let settings = loaded(
        "",
        "source = [\"mailboxes-db\", \"replica\"]\n[replica]\ndirectory = \"kept\"\n\
         accept-after = 60\nmax-age = 86400\n[mupdate]\nservers = [\"one\", \"[::1]:13905\"]\n\
         tls = \"required\"\nca-file = \"ca.pem\"\ncertificate = \"me.pem\"\nkey = \"/etc/me.key\"\n\
         tls-name = \"mupdate.example.org\"\nmaster = \"mu.example.org\"\n\
         mechanisms = [\"EXTERNAL\", \"SCRAM-SHA-256\"]\nnegative-cache = 2\n",
    );
    assert_eq!(settings.replica.max_age, Some(Duration::from_secs(86_400)));
    assert_eq!(settings.replica.accept_after, Duration::from_secs(60));
    assert!(
        settings.replica.directory.is_absolute() && settings.replica.directory.ends_with("kept")
    );
    let mupdate = settings.mupdate.unwrap();
    assert_eq!(mupdate.servers.len(), 2);
    let TlsSettings { when, ca_file, client, name } = mupdate.tls;
    assert_eq!((when, name.as_deref()), (WhenTls::Required, Some("mupdate.example.org")));
    assert!(ca_file.unwrap().ends_with("ca.pem"));
    assert_eq!(client.unwrap().key, Path::new("/etc/me.key"));
    assert_eq!(mupdate.master.as_deref(), Some("mu.example.org"));
    assert_eq!(mupdate.negative_cache, Some(Duration::from_secs(2)));
    assert_eq!(mupdate.mechanisms.unwrap(), [Mechanism::External, Mechanism::ScramSha256]);
}

#[test]
fn invalid_value_is_an_error_with_line_and_column() {
    for (toml, place, why) in [
        (
            "source = \"master\"",
            "line 2, column 10",
            "unknown source `master`; valid: mailboxes-db",
        ),
        ("source = []", "line 2, column 10", "at least one source"),
        ("source = [\"find\", \"find\"]", "line 2, column 10", "twice"),
        ("source = 1", "line 2, column 10", "one of mailboxes-db"),
        ("[mupdate]\nservers = []", "line 3, column 11", "at least one server"),
        ("[mupdate]\nservers = [\"a:b\"]", "line 3, column 11", "the port is not a number"),
        ("[mupdate]\ntls = \"maybe\"", "line 3, column 7", "unknown variant"),
        ("[mupdate]\nmechanisms = [\"LOGIN\"]", "line 3, column 14", "valid: EXTERNAL"),
        ("[mupdate]\npassword = \"s\"", "line 3, column 1", "unknown field"),
        ("[mupdate]\nnegative-cache = 11", "line 3, column 18", "too long"),
        ("[replica]\nmax-age = 0", "line 3, column 11", "at least 1 second"),
        ("[replica]\naccept-after = \"10m\"", "line 3, column 16", "a number of seconds"),
        ("domains = \"example.org\"", "line 2, column 11", "a list of strings"),
        ("[mupdate]\nservers = \"mu\"", "line 3, column 11", "a list of strings"),
        ("[backends]\nport = 65536", "line 3, column 8", "from 1 to 65535"),
    ] {
        let error = load_error("", toml);
        assert!(error.contains(place) && error.contains(why), "{toml}: {error}");
    }
    for servers in ["be2 = {}\nBE2 = { drain = true }", "be2 = {}\n\"be2/tls\" = { port = 24 }"] {
        let error = load_error("", &format!("[backends.servers]\n{servers}"));
        assert!(
            error.contains("murder-route.toml") && error.contains("are the same server"),
            "{error}"
        );
    }
    let error = load_error("", "[mupdate]\nservers = [\"mu\"]\ncertificate = \"x\"");
    assert!(error.contains("need each other"), "{error}");
}

#[test]
fn errors_do_not_show_misplaced_passwords() {
    for toml in ["[mupdate]\npassword = \"geheim\"", "[mupdate]\npassword-file = geheim", "geheim"]
    {
        let error = load_error("", toml);
        assert!(error.contains("line ") && !error.contains("geheim"), "{toml}: {error}");
    }
}

#[test]
fn port_of_a_server_overrides_the_port_in_its_name() {
    for (name, place) in [
        ("be1.example.org", "inet:be1.example.org:24"),
        ("be1.example.org:2003", "inet:be1.example.org:24"),
        ("be1.example.org:2003/tls", "inet:be1.example.org:24"),
        ("2001:db8::1", "inet:[2001:db8::1]:24"),
        ("[2001:db8::1]:2003", "inet:[2001:db8::1]:24"),
    ] {
        let settings = loaded("", &format!("[backends.servers.\"{name}\"]\nport = 24\n"));
        let backend = settings.router.backends.resolve(Some(name)).unwrap();
        assert_eq!(backend.address.to_string(), place);
    }
}

#[test]
fn configured_address_and_transport_are_used() {
    let settings = loaded(
        "",
        "[backends]\nport = 24\ntransport = \"murder\"\nlocal = \"unix:/run/cyrus/lmtp\"\n\
         [backends.servers]\nbe1 = { address = \"10.0.0.1\" }\nbe2 = { port = 2003 }\n\
         be3 = { transport = \"slow\" }\nbe4 = { drain = true }\n\"be5:25\" = { port = 26 }\n",
    );
    let nexthop = |server| settings.router.backends.resolve(server).map(|found| found.nexthop());
    for (server, expected) in [
        (Some("be1"), "murder:inet:10.0.0.1:24"),
        (Some("be2"), "murder:inet:be2:2003"),
        (Some("be3"), "slow:inet:be3:24"),
        (Some("be5:25"), "murder:inet:be5:26"),
        (Some("be6"), "murder:inet:be6:24"),
        (None, "murder:unix:/run/cyrus/lmtp"),
    ] {
        assert_eq!(nexthop(server).as_deref(), Ok(expected), "{server:?}");
    }
    assert!(matches!(nexthop(Some("be4")), Err(NoBackend::Draining(_))));
}

#[test]
fn listener_options_are_read() {
    let settings = loaded(
        "",
        "max-connections = 7\n[[listen]]\nendpoint = \"unix:/run/a\"\nowner = \"postfix\"\n\
         group = \"mail\"\nmode = \"0600\"\nprotocols = [\"milter\", \"policy\"]\n",
    );
    let options = ListenOptions {
        owner: Some("postfix".into()),
        group: Some("mail".into()),
        mode: Some(0o600),
    };
    let protocols = [Protocol::Policy, Protocol::Milter].into_iter().collect();
    let endpoint = Endpoint::Unix("/run/a".into());
    assert_eq!(settings.listeners, [Listen { endpoint, options, protocols }]);
    assert_eq!(settings.max_connections, 7);
    let listen = "[[listen]]\nendpoint = \"unix:/run/a\"\n";
    for (toml, why) in [
        (format!("{listen}mode = \"0668\""), "is not a mode"),
        (format!("{listen}mode = \"7777\""), "is not a mode"),
        (format!("{listen}mode = 600"), "in octal and in quotes"),
        (format!("{listen}protocols = []"), "at least one protocol"),
        (format!("{listen}protocols = [\"line\", \"line\"]"), "twice"),
        ("max-connections = 0".into(), "at least 1"),
        ("[backends]\nport = 0".into(), "a port number"),
        ("[backends]\ntransport = \"lmtp:inet\"".into(), "is not a transport"),
        ("fallback = \"lmtp\"".into(), "is not a transport:nexthop"),
    ] {
        let error = load_error("", &toml);
        assert!(error.contains(why), "{toml}: {error}");
    }
}

#[test]
fn own_map_follows_unknown_unless_it_has_a_template() {
    let unknown = Route { decision: Decision::Unknown, ..Route::deferred("no such mailbox") };
    for (policy, template, reply) in [
        ("", "", "NOTFOUND"),
        ("unknown = \"defer\"\n", "", "TEMP no such mailbox"),
        ("unknown = \"defer\"\n", "unknown = \"NOTFOUND\"\n", "NOTFOUND"),
    ] {
        let toml = format!("{policy}[maps.own]\ndeliver = \"OK {{host}}\"\n{template}");
        let Settings { maps, router, .. } = loaded("", &toml);
        let said = maps.reply(maps.get("own").unwrap(), &router, "nobody@example.org", &unknown);
        assert_eq!(said.to_string().trim_end(), reply, "{toml}");
    }
}

#[test]
fn own_map_defers_with_the_reason_alone() {
    let settings = loaded("", "[maps.mine]\ndeliver = \"OK {server}\"\n");
    let map = settings.maps.get("mine").unwrap();
    let said = |decision| {
        let route = Route { decision, ..Route::deferred("because") };
        settings.maps.reply(map, &settings.router, "jane@example.org", &route).to_string()
    };
    assert_eq!(said(Decision::Deferred(Cause::Mailbox)), "TEMP because");
    assert_eq!(said(Decision::Deferred(Cause::List)), "TEMP because");
    assert_eq!(said(Decision::Unknown), "NOTFOUND ");
    assert_eq!(said(Decision::Refused(Refusal::NoPost)), "NOTFOUND ");
}

#[test]
fn configured_release_tries_no_older_rules() {
    use crate::address::Release::{V2_4, V2_5, V3_0, V3_6};
    for (text, release) in [
        ("2.2", V2_4),
        ("2.4.17", V2_4),
        ("2.5", V2_5),
        ("3.0.5", V3_0),
        ("3.5", V3_0),
        ("3.6", V3_6),
        ("3.12.4", V3_6),
    ] {
        let router = loaded("", &format!("cyrus-release = \"{text}\"\n")).router;
        assert_eq!((router.rules.release, router.older.len()), (release, 0), "{text}");
    }
    for text in ["", "3", "2.1", "2.6", "4.0", "3.x"] {
        let error = load_error("", &format!("cyrus-release = \"{text}\""));
        assert!(error.contains("not a release of Cyrus"), "{text}: {error}");
    }
}

#[test]
fn services_select_their_own_overrides() {
    let imapd_conf = "postuser: all\nlmtpmx_postuser: mx\nlmtp_postuser: usual\n";
    let postuser = |toml| loaded(imapd_conf, toml).router.rules.postuser;
    assert_eq!(postuser(""), "usual");
    assert_eq!(postuser("services = [\"lmtpmx\"]\n"), "mx");
    assert_eq!(postuser("services = []\n"), "all");
}

#[test]
fn errors_quote_a_value_as_it_was_written() {
    let odd = "O'Brien \\\\ x";
    for toml in [
        "domains = [VALUE]",
        "cyrus-release = VALUE",
        "source = [VALUE]",
        "misses = VALUE",
        "fallback = VALUE",
        "[backends]\ntransport = VALUE",
        "[backends]\nlocal = VALUE",
        "[backends]\ndomain = VALUE",
        "[backends.servers.be1]\naddress = VALUE",
        "[backends.servers.VALUE]\nusername = \"postman\"",
        "[backends.servers.VALUE]\n[backends.servers.\"o'brien \\\\ x\"]",
        "[mupdate]\nservers = [VALUE]",
        "[mupdate]\nmechanisms = [VALUE]",
        "[[listen]]\nendpoint = \"unix:/s\"\nmode = VALUE",
        "[[listen]]\nendpoint = \"unix:/s\"\nprotocols = [VALUE]",
        "[maps.VALUE]\ndeliver = \"OK x\"",
        "[maps.x]\ndeliver = VALUE",
    ] {
        let toml = toml.replace("VALUE", &format!("\"{odd}\""));
        let site = Site::new("", &format!("imapd-conf = \"imapd.conf\"\n{toml}"));
        let Err(error) = site.load() else { panic!("{toml} is taken") };
        // The TOML reader may quote the line as written.
        let said = error.replace(odd, "");
        assert!(error.contains("'"), "{toml}: {error}");
        assert!(!said.contains("\\'") && !said.contains("\\\\"), "{toml}: {error}");
    }
}
