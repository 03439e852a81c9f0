//! Cyrus' `imapd.conf`, read by Cyrus' own rules.
//!
//! [`ImapdConf`] is all that a file and what it includes say, by name; [`ImapdOptions`] is what matters
//! here, by type. Reading goes through a function of the caller's, so nothing here opens a file.
//!
//! Where Cyrus refuses to start although the meaning is plain (an option set twice) there is a
//! [`Warning`] and the last value counts; what is no imapd.conf is a [`ConfError`]. Both name the
//! file and the line.

mod grammar;
mod options;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use grammar::ConfLine;
pub(crate) use grammar::MAX_SIZE;
pub use options::{ImapdOptions, MupdateConfig, Virtdomains};

/// The services an override is heeded for, if nothing else is said: the usual names in
/// `cyrus.conf` for what runs `lmtpd` or `lmtpproxyd`. A service's name there is the prefix here.
pub const LMTP_SERVICES: [&str; 4] = ["lmtp", "lmtpunix", "lmtpproxy", "lmtpproxyd"];

/// What stands for the configuration directory at the beginning of a value.
const CONFIGDIRECTORY: &str = "{configdirectory}";

/// The options that decide about recipients, and whether only `lmtpd` reads them.
const DECISIVE: [(&str, bool); 13] = [
    ("virtdomains", false),
    ("defaultdomain", false),
    ("unixhierarchysep", false),
    ("postuser", true),
    ("lmtp_downcase_rcpt", true),
    ("lmtp_strict_rfc2821", true),
    ("lmtp_catchall_mailbox", true),
    ("lmtp_fuzzy_mailbox_match", true),
    ("autocreate_post", true),
    ("autocreate_quota", false),
    ("autocreate_users", false),
    ("createonpost", true),
    ("autocreatequota", false),
];

/// What the names of other services begin with: an override for these is none for `lmtpd`.
const OTHER_SERVICES: [&str; 7] =
    ["imap", "pop", "nntp", "http", "sieve", "managesieve", "mupdate"];

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file, as it was named on the command line or in the `@include`.
    pub file: PathBuf,
    /// The line, from 1; the first one if the option goes over several. `None`: the whole file.
    pub line: Option<u32>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfError {
    /// Where.
    pub place: Position,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// What is likely not what the administrator meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Position,
    /// What about it.
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// What a configuration says.
///
/// `Debug` shows the names only: there are passwords among the values.
pub struct ImapdConf {
    file: PathBuf,
    services: Vec<String>,
    set: HashMap<String, Setting>,
}

struct Setting {
    value: String,
    /// The value as it stands, if it is not UTF-8.
    bytes: Option<Vec<u8>>,
    place: Position,
}

impl ImapdConf {
    /// Reads `path` and all it includes, heeding the overrides for [`LMTP_SERVICES`].
    ///
    /// `read` gives the bytes of a file. An `@include` is passed to it as it is written: Cyrus
    /// takes it relative to the directory it runs in, and first tries it behind the environment's
    /// `CYRUS_PREFIX` if there is one.
    #[cfg(any(test, feature = "testing"))]
    pub fn parse(
        path: &Path,
        read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<(Self, Vec<Warning>), ConfError> {
        Self::parse_for(path, &LMTP_SERVICES, read)
    }

    /// As `parse`, for services of these names in `cyrus.conf`. An option
    /// `SERVICE_name` beats `name`, wherever it stands; of several services the first one counts.
    pub fn parse_for(
        path: &Path,
        services: &[&str],
        read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<(Self, Vec<Warning>), ConfError> {
        let (conf, warnings) = Self::parse_without_files(path, services, read)?;
        if conf.get("configdirectory").is_none() {
            let place = Position { file: conf.file, line: None };
            return Err(ConfError { place, what: "`configdirectory` is not set".into() });
        }
        Ok((conf, warnings))
    }

    /// As [`parse_for`](ImapdConf::parse_for), for who needs none of Cyrus' files: without a
    /// `configdirectory` Cyrus does not start, but the rest can be read. The paths of the
    /// [`ImapdOptions`] mean nothing then.
    pub fn parse_without_files(
        path: &Path,
        services: &[&str],
        read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<(Self, Vec<Warning>), ConfError> {
        let (lines, mut warnings) = grammar::parse(path, read)?;
        let mut conf = Self {
            file: path.to_owned(),
            services: services.iter().map(|service| service.to_ascii_lowercase()).collect(),
            set: HashMap::new(),
        };
        for line in lines {
            let ConfLine { key, value, bytes, place } = line;
            let setting = Setting { value, bytes, place: place.clone() };
            if let Some(before) = conf.set.insert(key.clone(), setting) {
                let what = format!(
                    "`{}` is set already at {}: Cyrus does not start like that; the last one counts",
                    key, before.place
                );
                warnings.push(Warning { place, what });
            }
        }
        conf.warn_of_rival_services(&mut warnings);
        conf.warn_of_services_left_out(&mut warnings);
        conf.fill_in_configdirectory();
        Ok((conf, warnings))
    }

    /// Whether no option is set at all.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// The value of an option, with the overrides for the services heeded. `None` if it is not
    /// set; the defaults depend on Cyrus' release.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.setting(option).map(|setting| setting.value.as_str())
    }

    /// The value of an option as it stands, byte by byte.
    pub fn bytes(&self, option: &str) -> Option<&[u8]> {
        let setting = self.setting(option)?;
        Some(setting.bytes.as_deref().unwrap_or(setting.value.as_bytes()))
    }

    /// Where the value that [`get`](ImapdConf::get) gives stands.
    #[cfg(test)]
    fn place(&self, option: &str) -> Option<&Position> {
        self.setting(option).map(|setting| &setting.place)
    }

    /// An option of type SWITCH. Like Cyrus it goes by the first letters, in lower case: `0`, `n`,
    /// `of`, `f` and `1`, `y`, `on`, `t` (`lib/libconfig.c`, `config_parse_switch`).
    pub fn switch(&self, option: &str) -> Result<Option<bool>, ConfError> {
        let Some(setting) = self.setting(option) else { return Ok(None) };
        let begins = |words: [&str; 4]| words.iter().any(|word| setting.value.starts_with(word));
        if begins(["0", "n", "of", "f"]) {
            Ok(Some(false))
        } else if begins(["1", "y", "on", "t"]) {
            Ok(Some(true))
        } else {
            Err(setting.error(format!("`{option}: {}` is neither yes nor no", setting.value)))
        }
    }

    /// An option of type ENUM: one of these words. `on` and `off` may be written in the ways that
    /// Cyrus knows for them.
    fn choice<T: Copy>(&self, option: &str, words: &[(&str, T)]) -> Result<Option<T>, ConfError> {
        let Some(setting) = self.setting(option) else { return Ok(None) };
        let word = match setting.value.as_str() {
            "1" | "yes" | "t" | "true" => "on",
            "0" | "no" | "f" | "false" => "off",
            word => word,
        };
        match words.iter().find(|(known, _)| *known == word) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
                Err(setting.error(format!(
                    "`{option}: {}` is none of {}",
                    setting.value,
                    known.join(", ")
                )))
            }
        }
    }

    /// `lmtp_downcase_rcpt` is no override of a `downcase_rcpt` but an option, and so are the
    /// others that begin with `lmtp_`. Asking by the whole name keeps them apart.
    fn setting(&self, option: &str) -> Option<&Setting> {
        self.services
            .iter()
            .find_map(|service| self.set.get(&format!("{service}_{option}")))
            .or_else(|| self.set.get(option))
    }

    /// There is one value for all services here, and Cyrus has one for each.
    fn warn_of_rival_services(&self, warnings: &mut Vec<Warning>) {
        let mut rivals: Vec<Warning> = Vec::new();
        for (service, key, setting) in self.overrides() {
            let rival = self.overrides().find(|(other, other_key, other_setting)| {
                other_key == &key && other < &service && other_setting.value != setting.value
            });
            if let Some((other, ..)) = rival {
                let (other, service) = (&self.services[other], &self.services[service]);
                let what = format!("`{service}_{key}` is not heeded: `{other}_{key}` counts");
                rivals.push(Warning { place: setting.place.clone(), what });
            }
        }
        rivals.sort_by_key(|warning| (warning.place.file.clone(), warning.place.line));
        warnings.append(&mut rivals);
    }

    /// An override that counts for all mail here and for some services only in Cyrus, or that counts for
    /// a service of `lmtpd` which is not known here.
    fn warn_of_services_left_out(&self, warnings: &mut Vec<Warning>) {
        let mut found: Vec<Warning> = DECISIVE
            .iter()
            .filter_map(|(option, _)| self.service_left_out(option))
            .chain(self.set.iter().filter_map(|(key, setting)| self.unknown_service(key, setting)))
            .collect();
        found.sort_by_key(|warning| (warning.place.file.clone(), warning.place.line));
        warnings.append(&mut found);
    }

    fn service_left_out(&self, option: &str) -> Option<Warning> {
        let own = |service: &String| self.set.get(&format!("{service}_{option}"));
        let (chosen, setting) =
            self.services.iter().find_map(|service| Some((service, own(service)?)))?;
        let plain = self.set.get(option).map(|setting| &setting.value);
        // The usual names stand for those that a site has: mail exchangers come to the first.
        let usual = self.services == LMTP_SERVICES;
        let agree = plain == Some(&setting.value) || usual && self.services.first() == Some(chosen);
        let without = self.services.iter().filter(|service| own(service).is_none());
        let without: Vec<&str> = without.map(String::as_str).collect();
        let what = format!(
            "`{chosen}_{option}` does not hold for the services {}, and here for all mail; name the \
             service of your mail exchangers in `services`",
            without.join(", ")
        );
        (!agree && !without.is_empty()).then(|| Warning { place: setting.place.clone(), what })
    }

    fn unknown_service(&self, key: &str, setting: &Setting) -> Option<Warning> {
        // `lmtp_downcase_rcpt` is an option of its own.
        if DECISIVE.iter().any(|(known, _)| *known == key) {
            return None;
        }
        let (service, option) = DECISIVE.iter().find_map(|(option, only_lmtpd)| {
            let service = key.strip_suffix(option)?.strip_suffix('_')?;
            let of_lmtpd = service.starts_with("lmtp")
                || *only_lmtpd && !OTHER_SERVICES.iter().any(|other| service.starts_with(other));
            (of_lmtpd && !service.is_empty()).then_some((service, *option))
        })?;
        let known = self.services.iter().any(|own| own == service);
        let differs = self.get(option) != Some(&setting.value);
        let what = format!(
            "`{key}` is not heeded: `{service}` is none of the services of lmtpd known here; name the \
             service of your mail exchangers in `services`"
        );
        (!known && differs).then(|| Warning { place: setting.place.clone(), what })
    }

    /// What could be an override: the service's number, the option and what it is set to.
    fn overrides(&self) -> impl Iterator<Item = (usize, &str, &Setting)> {
        self.services.iter().enumerate().flat_map(|(number, service)| {
            self.set.iter().filter_map(move |(key, setting)| {
                let option = key.strip_prefix(service.as_str())?.strip_prefix('_')?;
                Some((number, option, setting))
            })
        })
    }

    fn fill_in_configdirectory(&mut self) {
        let Some(directory) = self.get("configdirectory").map(str::to_owned) else { return };
        for (key, setting) in &mut self.set {
            let begins = setting.value.get(..CONFIGDIRECTORY.len());
            if key != "configdirectory"
                && begins.is_some_and(|begins| begins.eq_ignore_ascii_case(CONFIGDIRECTORY))
            {
                setting.value.replace_range(..CONFIGDIRECTORY.len(), &directory);
            }
        }
    }
}

impl fmt::Debug for ImapdConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&String> = self.set.keys().collect();
        names.sort();
        f.debug_struct("ImapdConf").field("file", &self.file).field("set", &names).finish()
    }
}

impl Setting {
    fn error(&self, what: String) -> ConfError {
        ConfError { place: self.place.clone(), what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files in memory; the first one is read.
    pub(super) fn conf(files: &[(&str, &str)]) -> Result<(ImapdConf, Vec<String>), String> {
        let mut read = |path: &Path| {
            files
                .iter()
                .find(|(name, _)| Path::new(name) == path)
                .map(|(_, text)| text.as_bytes().to_vec())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        match ImapdConf::parse(Path::new(files[0].0), &mut read) {
            Ok((conf, warnings)) => Ok((conf, warnings.iter().map(Warning::to_string).collect())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// One file, after its `configdirectory`.
    pub(super) fn one(text: &str) -> ImapdConf {
        let (conf, warnings) =
            conf(&[("imapd.conf", &format!("configdirectory: /var/lib/cyrus\n{text}"))]).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        conf
    }

    #[test]
    fn a_service_beats_the_generic_option_wherever_it_stands() {
        let conf = one("lmtp_postuser: bb\npostuser: shared\nimap_postuser: no\n");
        assert_eq!(conf.get("postuser"), Some("bb"));
        let text = "configdirectory: /v\npostuser: shared\nLMTPproxyd_PostUser: bb\n";
        assert_eq!(super::tests::conf(&[("i", text)]).unwrap().0.get("postuser"), Some("bb"));
        assert_eq!(one("imap_postuser: no\n").get("postuser"), None);
    }

    #[test]
    fn options_whose_own_name_begins_with_a_service_are_no_overrides() {
        let conf = one("lmtp_downcase_rcpt: no\n");
        assert_eq!(conf.switch("lmtp_downcase_rcpt"), Ok(Some(false)));
        let conf = one("lmtp_downcase_rcpt: no\nlmtp_lmtp_downcase_rcpt: yes\n");
        assert_eq!(conf.switch("lmtp_downcase_rcpt"), Ok(Some(true)));
    }

    #[test]
    fn the_services_can_be_others() {
        let mut read = |_: &Path| Ok(b"configdirectory: /v\nlmtp_x: 1\nmx2_x: 2\nx: 3\n".to_vec());
        let path = Path::new("imapd.conf");
        let (conf, _) = ImapdConf::parse_for(path, &["MX2"], &mut read).unwrap();
        assert_eq!(conf.get("x"), Some("2"));
        let (conf, _) = ImapdConf::parse_for(path, &[], &mut read).unwrap();
        assert_eq!(conf.get("x"), Some("3"));
    }

    #[test]
    fn services_that_disagree_are_warned_of() {
        let text = "configdirectory: /v\nlmtpunix_postuser: b\nlmtp_postuser: a\nlmtp_umask: 022\n\
                    lmtpunix_umask: 022\n";
        let (conf, warnings) = conf(&[("i", text)]).unwrap();
        assert_eq!(conf.get("postuser"), Some("a"));
        assert_eq!(warnings, ["i:2: `lmtpunix_postuser` is not heeded: `lmtp_postuser` counts"]);
    }

    #[test]
    fn an_override_that_not_all_services_have_is_warned_of() {
        let warned = |services: &[&str], text: &str| {
            let text = format!("configdirectory: /v\n{text}");
            let mut read = |_: &Path| Ok(text.clone().into_bytes());
            let (_, warnings) = ImapdConf::parse_for(Path::new("i"), services, &mut read).unwrap();
            warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (services, text, says) in [
            // The services that mail exchangers come to have the plain option.
            (&LMTP_SERVICES[..], "lmtpunix_postuser: bb\n", "`lmtpunix_postuser` does not hold"),
            (&LMTP_SERVICES, "unixhierarchysep: no\nlmtpunix_unixhierarchysep: yes\n", "i:3: "),
            (&["lmtp", "lmtpunix"], "lmtp_postuser: bb\n", "the services lmtpunix, and"),
            // Prefixes that are no service of ours.
            (&["mx"], "lmtp_postuser: bb\n", "`lmtp` is none of the services"),
            (&LMTP_SERVICES, "mx2_postuser: bb\n", "`mx2` is none of the services"),
            (&LMTP_SERVICES, "lmtptcp_virtdomains: on\n", "`lmtptcp` is none of the services"),
            (&LMTP_SERVICES, "lmtptcp_lmtp_downcase_rcpt: no\n", "`lmtptcp` is none of"),
        ] {
            let warnings = warned(services, text);
            assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
            assert!(warnings[0].contains(says), "{text}: {warnings:?}");
        }
        for (services, text) in [
            (&LMTP_SERVICES[..], "lmtp_postuser: bb\n"),
            (&["lmtpunix"], "lmtpunix_postuser: bb\n"),
            (&LMTP_SERVICES, "postuser: bb\nlmtpunix_postuser: bb\nlmtptcp_postuser: bb\n"),
            (&LMTP_SERVICES, "imap_postuser: bb\nimaps_virtdomains: on\nmx_virtdomains: on\n"),
            (&LMTP_SERVICES, "lmtp_downcase_rcpt: no\nlmtpunix_umask: 022\n"),
        ] {
            assert_eq!(warned(services, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn an_option_set_twice_is_warned_of_and_the_last_one_counts() {
        let (conf, warnings) = conf(&[
            ("i", "configdirectory: /v\npostuser: a\n@include: /j\nPOSTUSER: c\n"),
            ("/j", "\npostuser: b\n"),
        ])
        .unwrap();
        assert_eq!(conf.get("postuser"), Some("c"));
        assert_eq!(conf.place("postuser").unwrap().to_string(), "i:4");
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("/j:2: `postuser` is set already at i:2"), "{warnings:?}");
        assert!(warnings[1].starts_with("i:4: `postuser` is set already at /j:2"), "{warnings:?}");
    }

    #[test]
    fn switches_are_read_as_cyrus_reads_them() {
        for (value, meaning) in [
            ("0", Some(false)),
            ("no", Some(false)),
            ("nevermind", Some(false)),
            ("off", Some(false)),
            ("f", Some(false)),
            ("false", Some(false)),
            ("1", Some(true)),
            ("10", Some(true)),
            ("yes", Some(true)),
            ("on", Some(true)),
            ("t", Some(true)),
            ("No", None),
            ("Yes", None),
            ("TRUE", None),
            ("o", None),
            ("2", None),
        ] {
            let conf = one(&format!("unixhierarchysep: {value}\n"));
            match meaning {
                Some(_) => assert_eq!(conf.switch("unixhierarchysep"), Ok(meaning), "{value}"),
                None => {
                    let error = conf.switch("unixhierarchysep").unwrap_err().to_string();
                    assert!(error.starts_with("imapd.conf:2: "), "{error}");
                }
            }
        }
        assert_eq!(one("").switch("unixhierarchysep"), Ok(None));
    }

    #[test]
    fn configdirectory_is_filled_in_at_the_beginning_of_values_only() {
        let conf = one("a: {ConfigDirectory}/x\nb: x{configdirectory}\nc: {config\nd: \u{e9}\n");
        let values = ["a", "b", "c", "d"].map(|key| conf.get(key).unwrap());
        assert_eq!(values, ["/var/lib/cyrus/x", "x{configdirectory}", "{config", "\u{e9}"]);
    }

    #[test]
    fn without_a_configdirectory_there_is_no_configuration() {
        assert_eq!(conf(&[("i", "a: b\n")]).unwrap_err(), "i: `configdirectory` is not set");
        assert!(conf(&[("i", "lmtp_configdirectory: /v\n")]).is_ok());
    }

    #[test]
    fn no_value_is_shown_by_debug() {
        let conf = one("mupdate_password: geheim\nsasl_sql_passwd: geheim\n");
        let shown = format!("{conf:?} {:?}", conf.options().unwrap());
        assert!(shown.contains("mupdate_password") && !shown.contains("geheim"), "{shown}");
    }
}
