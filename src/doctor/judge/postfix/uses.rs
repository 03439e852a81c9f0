//! Finds the sockets that Postfix uses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{PostfixSettings, Service, words};
use crate::wire::endpoint::Endpoint;
use crate::wire::line::TABLE;
use crate::wire::protocol::Protocol;

/// Parameters that can have murder-route's tables, and the programs that look them up (`postconf(5)`;
/// smtpd consults canonical and alias tables too, before it calls a recipient unknown).
const TABLES: [(&str, &[&str]); 7] = [
    ("transport_maps", &["trivial-rewrite"]),
    ("relay_recipient_maps", &["smtpd"]),
    ("virtual_mailbox_maps", &["smtpd"]),
    ("local_recipient_maps", &["smtpd"]),
    ("recipient_canonical_maps", &["cleanup", "smtpd"]),
    ("canonical_maps", &["cleanup", "smtpd"]),
    ("virtual_alias_maps", &["cleanup", "smtpd"]),
];

/// Restriction lists that can have a policy service or a table.
const RESTRICTIONS: [&str; 8] = [
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
    "smtpd_data_restrictions",
    "smtpd_end_of_data_restrictions",
    "smtpd_etrn_restrictions",
];

/// A use of a socket in Postfix' settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The parameter.
    pub parameter: &'static str,
    /// The service that asks: the first of several equal ones.
    pub service: String,
    /// Whether the parameter is set for the service only, by `-o` in master.cf.
    pub by_override: bool,
    /// Whether proxymap asks for it.
    pub proxied: bool,
    /// Whether the asking process is chrooted.
    pub chroot: bool,
    /// The protocol.
    pub protocol: Protocol,
    /// The endpoint. A unix path is as written in the parameter.
    pub endpoint: Endpoint,
    /// The map, if it is a table.
    pub map: Option<String>,
    /// The table or the service, as written in the parameter.
    pub text: String,
}

impl Use {
    /// The socket's path outside of the chroot. A relative path starts at the queue directory, the
    /// working directory of every Postfix service.
    pub fn socket(&self, queue: &Path) -> Endpoint {
        match &self.endpoint {
            Endpoint::Unix(path) if self.chroot => {
                Endpoint::Unix(queue.join(path.strip_prefix("/").unwrap_or(path)))
            }
            Endpoint::Unix(path) => Endpoint::Unix(queue.join(path)),
            other => other.clone(),
        }
    }

    /// Whether it can be this socket of the daemon: by its real path, or by its name if the chroot was
    /// forgotten.
    pub fn means(&self, socket: &Endpoint, queue: &Path) -> bool {
        self.endpoint == *socket || self.socket(queue) == *socket
    }

    /// Its place in the configuration.
    pub fn place(&self) -> String {
        match self.by_override {
            true => format!("{} (master.cf, {})", self.parameter, self.service),
            false => self.parameter.to_owned(),
        }
    }
}

/// Types of tables whose source is a text file at the path in their name.
const FILES: [&str; 9] =
    ["hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash", "regexp", "pcre"];

/// Maximum number of classes and tables followed from one restriction list.
const MAX_LISTS: usize = 200;

/// All uses of sockets in the parameters, each once.
#[cfg(test)]
pub fn uses(settings: &PostfixSettings) -> Vec<Use> {
    uses_with(settings, &|_| None)
}

/// All uses of sockets, including those in access tables. `read`: the text of a file.
pub fn uses_with(settings: &PostfixSettings, read: &dyn Fn(&str) -> Option<String>) -> Vec<Use> {
    let mut all: Vec<Use> = Vec::new();
    let mut add = |parameter: &'static str, programs: &[&str], find: &Find| {
        for service in programs.iter().flat_map(|program| settings.running(program)) {
            let list = match RESTRICTIONS.contains(&parameter) {
                true => restrictions(settings, service, parameter, read),
                false => settings.of(service, parameter).to_owned(),
            };
            let found = find(&list);
            for mut found in found.into_iter().map(|found| found.of(settings, service, parameter)) {
                let same = all.iter().any(|known| {
                    found.service.clone_from(&known.service);
                    *known == found
                });
                found.service.clone_from(&service.name);
                if !same {
                    all.push(found);
                }
            }
        }
    };
    for (parameter, programs) in TABLES {
        add(parameter, programs, &socketmaps);
    }
    for parameter in RESTRICTIONS {
        add(parameter, &["smtpd"], &socketmaps);
        add(parameter, &["smtpd"], &policies);
    }
    add("smtpd_milters", &["smtpd"], &milters);
    add("non_smtpd_milters", &["cleanup"], &milters);
    all
}

/// A restriction list with everything it refers to: its restriction classes, and the right-hand sides
/// of its access tables (access(5), RESTRICTION_CLASS_README).
pub(super) fn restrictions(
    settings: &PostfixSettings,
    service: &Service,
    parameter: &str,
    read: &dyn Fn(&str) -> Option<String>,
) -> String {
    let list = settings.of(service, parameter).to_owned();
    let classes: Vec<&str> = words(settings.of(service, "smtpd_restriction_classes")).collect();
    let mut seen = BTreeSet::new();
    let mut rest = vec![list];
    let mut whole = String::new();
    while let Some(list) = rest.pop() {
        let mut before = "";
        for word in words(&list) {
            // In `inline:{key=value}` a class or a restriction follows the key directly.
            let value = word.rsplit('=').next().unwrap_or(word);
            let is_new = |seen: &mut BTreeSet<String>, name: &str| {
                seen.len() < MAX_LISTS && seen.insert(name.to_owned())
            };
            if classes.contains(&value) && is_new(&mut seen, value) {
                rest.push(settings.of(service, value).to_owned());
            }
            if before.starts_with("check_")
                && before.ends_with("_access")
                && let Some(path) = file_of(word)
                && is_new(&mut seen, word)
                && let Some(text) = read(path)
            {
                rest.push(right_hand_sides(&text));
            }
            before = value;
        }
        whole.push_str(&list);
        whole.push('\n');
    }
    whole
}

/// The path of a table that is a text file or made of one.
fn file_of(table: &str) -> Option<&str> {
    let (kind, path) = unproxied(table).0.split_once(':')?;
    (path.starts_with('/') && (FILES.contains(&kind) || kind == "cidr")).then_some(path)
}

/// The lines of a table without their keys.
fn right_hand_sides(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let right = lines.map(|line| match line.starts_with(char::is_whitespace) {
        true => line,
        false => line.split_once(char::is_whitespace).map_or("", |(_, right)| right),
    });
    right.collect::<Vec<_>>().join("\n")
}

type Find = dyn Fn(&str) -> Vec<FoundUse>;

/// A use that a word of a parameter describes.
struct FoundUse {
    proxied: bool,
    protocol: Protocol,
    endpoint: Endpoint,
    map: Option<String>,
    text: String,
}

impl FoundUse {
    fn of(self, settings: &PostfixSettings, service: &Service, parameter: &'static str) -> Use {
        let Self { proxied, protocol, endpoint, map, text } = self;
        let chroot = match proxied {
            true => settings.running("proxymap").any(|proxymap| proxymap.chroot),
            false => service.chroot,
        };
        Use {
            parameter,
            service: service.name.clone(),
            by_override: service.overrides.contains_key(parameter),
            proxied,
            chroot,
            protocol,
            endpoint,
            map,
            text,
        }
    }
}

/// `[proxy:]socketmap:unix:PATH:MAP`, `[proxy:]socketmap:inet:HOST:PORT:MAP` and `tcp:HOST:PORT`.
fn socketmaps(list: &str) -> Vec<FoundUse> {
    words(list).filter_map(socketmap).collect()
}

fn socketmap(text: &str) -> Option<FoundUse> {
    let (table, proxied) = unproxied(text);
    if let Some(place) = table.strip_prefix("tcp:") {
        // tcp_table(5) has no map names.
        return Some(FoundUse {
            proxied,
            protocol: Protocol::Line,
            endpoint: endpoint(&format!("inet:{place}"))?,
            map: Some(TABLE.to_owned()),
            text: text.to_owned(),
        });
    }
    let (place, map) = table.strip_prefix("socketmap:")?.rsplit_once(':')?;
    Some(FoundUse {
        proxied,
        protocol: Protocol::Socketmap,
        endpoint: endpoint(place)?,
        map: Some(map.to_owned()),
        text: text.to_owned(),
    })
}

/// The table without `proxy:`, and whether it had it.
pub(super) fn unproxied(mut table: &str) -> (&str, bool) {
    let mut proxied = false;
    while let Some(rest) = table.strip_prefix("proxy:") {
        (table, proxied) = (rest, true);
    }
    (table, proxied)
}

/// The words after `check_policy_service`.
fn policies(list: &str) -> Vec<FoundUse> {
    let named = words(list).zip(words(list).skip(1));
    let is_policy = |word: &str| word.rsplit('=').next() == Some("check_policy_service");
    let named = named.filter(|(word, _)| is_policy(word));
    let found = named.filter_map(|(_, text)| {
        let (place, proxied) = unproxied(text);
        let endpoint = endpoint(place)?;
        let protocol = Protocol::Policy;
        Some(FoundUse { proxied, protocol, endpoint, map: None, text: text.to_owned() })
    });
    found.collect()
}

fn milters(list: &str) -> Vec<FoundUse> {
    let found = words(list).filter_map(|text| {
        let endpoint = endpoint(text)?;
        let protocol = Protocol::Milter;
        Some(FoundUse { proxied: false, protocol, endpoint, map: None, text: text.to_owned() })
    });
    found.collect()
}

/// `unix:PATH`, for milters also `local:PATH`, and `inet:HOST:PORT`.
fn endpoint(place: &str) -> Option<Endpoint> {
    if let Some(path) = place.strip_prefix("unix:").or_else(|| place.strip_prefix("local:")) {
        return (!path.is_empty()).then(|| Endpoint::Unix(PathBuf::from(path)));
    }
    place.starts_with("inet:").then(|| place.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::sites;
    use super::*;

    fn unix(path: &str) -> Endpoint {
        Endpoint::Unix(path.into())
    }

    fn queue() -> &'static Path {
        Path::new("/var/spool/postfix")
    }

    #[test]
    fn sound_site_asks_through_proxymap_outside_the_chroot() {
        for settings in sites() {
            let found = uses(&settings);
            let seen: Vec<_> = found
                .iter()
                .map(|u| (u.parameter, u.map.as_deref().unwrap(), u.proxied, u.chroot))
                .collect();
            assert_eq!(
                seen,
                [
                    ("transport_maps", "lmtp", true, false),
                    ("recipient_canonical_maps", "canonical", true, false)
                ]
            );
            assert!(found.iter().all(|u| u.socket(queue()) == unix("/run/murder-route")));
        }
    }

    #[test]
    fn chrooted_service_uses_a_socket_in_the_queue_directory() {
        for settings in sites() {
            let table = "hash:/etc/x, socketmap:unix:/run/murder-route:lmtp";
            let found = uses(&settings.with("transport_maps", table));
            let u = found.iter().find(|u| u.parameter == "transport_maps").unwrap();
            assert!(u.chroot && !u.proxied);
            assert_eq!(u.socket(queue()), unix("/var/spool/postfix/run/murder-route"));
            assert!(u.means(&unix("/run/murder-route"), queue()));
            assert!(u.means(&unix("/var/spool/postfix/run/murder-route"), queue()));
            assert!(!u.means(&unix("/run/other"), queue()));
        }
    }

    #[test]
    fn classes_and_access_tables_lead_to_policy_services() {
        let read = |path: &str| match path {
            "/etc/access" => Some(
                "# check_policy_service unix:/commented\nexample.org\n\tcheck_policy_service \
                 unix:/by-table\nexample.net ours\n",
            ),
            "/etc/pattern" => Some("/@example/ again, check_policy_service unix:/by-pattern\n"),
            _ => None,
        };
        let read = |path: &str| read(path).map(str::to_owned);
        for settings in sites() {
            let settings = settings
                .with("smtpd_restriction_classes", "ours, again unused")
                .with("ours", "check_policy_service unix:/by-class, again")
                .with("again", "check_recipient_access regexp:/etc/pattern, ours")
                .with("unused", "check_policy_service unix:/nobody")
                .with(
                    "smtpd_recipient_restrictions",
                    "reject_unauth_destination, check_recipient_access proxy:hash:/etc/access, \
                     check_recipient_access inline:{example.org=check_policy_service \
                     unix:/by-inline}, check_recipient_access inline:{{a=ours}}, \
                     check_recipient_access hash:/etc/none",
                )
                .with_service("submission", |service| service.overrides.clear());
            let found = uses_with(&settings, &read);
            let mut policies: Vec<&str> = found
                .iter()
                .filter(|u| u.protocol == Protocol::Policy)
                .map(|u| u.text.as_str())
                .collect();
            policies.sort_unstable();
            let expected =
                ["unix:/by-class", "unix:/by-inline", "unix:/by-pattern", "unix:/by-table"];
            assert_eq!(policies, expected);
        }
    }

    #[test]
    fn every_way_to_name_a_socket_is_found() {
        let [_, settings, _] = sites();
        let settings = settings
            .with(
                "smtpd_recipient_restrictions",
                "reject_unauth_destination, check_policy_service { unix:m/s, timeout=10s }, \
                 check_recipient_access socketmap:inet:localhost:10028:recipient",
            )
            .with("smtpd_milters", "unix:/run/a, inet:127.0.0.1:9900 local:/run/b")
            .with_service("submission", |service| {
                service.overrides.insert(
                    "relay_recipient_maps".into(),
                    "proxy:socketmap:unix:/s:recipient".into(),
                );
            });
        let found = uses(&settings);
        let text = |parameter: &str| -> Vec<String> {
            let of = found.iter().filter(|u| u.parameter == parameter);
            of.map(|u| format!("{} {} {:?}", u.place(), u.endpoint, u.protocol)).collect()
        };
        assert_eq!(
            text("smtpd_recipient_restrictions"),
            [
                "smtpd_recipient_restrictions inet:localhost:10028 Socketmap",
                "smtpd_recipient_restrictions unix:m/s Policy"
            ]
        );
        assert_eq!(text("smtpd_milters").len(), 3);
        assert_eq!(
            text("relay_recipient_maps"),
            ["relay_recipient_maps (master.cf, submission) unix:/s Socketmap"]
        );
        let relative = found.iter().find(|u| u.protocol == Protocol::Policy).unwrap();
        assert_eq!(relative.socket(queue()), unix("/var/spool/postfix/m/s"));
    }
}
