//! Parser of Cyrus' `imapd.conf`, by Cyrus' own rules.
//!
//! [`ImapdConf`] has all options of a file and its includes, by name; [`ImapdOptions`] has the
//! options used here, typed. Files are read through a function of the caller.
//!
//! Where Cyrus refuses to start although the meaning is clear (an option set twice), there is a
//! [`Warning`] and the last value counts. A file that is not an imapd.conf is a [`ConfError`]. Both
//! name the file and the line.

mod grammar;
mod options;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use grammar::ConfLine;
pub(crate) use grammar::MAX_SIZE;
pub use options::{ImapdOptions, MupdateConfig, Virtdomains};

/// Default services whose overrides apply: the usual names in `cyrus.conf` for `lmtpd` and
/// `lmtpproxyd`. The name of a service there is the prefix of its options here.
pub const LMTP_SERVICES: [&str; 4] = ["lmtp", "lmtpunix", "lmtpproxy", "lmtpproxyd"];

/// Placeholder for the configuration directory at the beginning of a value.
const CONFIGDIRECTORY: &str = "{configdirectory}";

/// Options that affect recipients, and whether only `lmtpd` reads them.
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

/// Prefixes of the names of other services, whose overrides do not apply to `lmtpd`.
const OTHER_SERVICES: [&str; 7] =
    ["imap", "pop", "nntp", "http", "sieve", "managesieve", "mupdate"];

/// Position in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// File, as named on the command line or in the `@include`.
    pub file: PathBuf,
    /// Line number from 1; the first line of an option that spans several. `None`: the whole file.
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

/// Error in a configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfError {
    /// Position.
    pub place: Position,
    /// Description of the error and its correction.
    pub what: String,
}

/// Warning about a probable mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Position.
    pub place: Position,
    /// Description.
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// The options of a configuration.
///
/// `Debug` shows only the names, because some values are passwords.
pub struct ImapdConf {
    file: PathBuf,
    services: Vec<String>,
    set: HashMap<String, Setting>,
}

struct Setting {
    value: String,
    /// Raw value, if it is not UTF-8.
    bytes: Option<Vec<u8>>,
    place: Position,
}

impl ImapdConf {
    /// Parses `path` and its includes, with the overrides for [`LMTP_SERVICES`].
    ///
    /// `read` returns the bytes of a file. It gets the path of an `@include` as written: Cyrus
    /// resolves it relative to its working directory, and first tries it with the prefix in the
    /// environment variable `CYRUS_PREFIX`, if there is one.
    #[cfg(any(test, feature = "testing"))]
    pub fn parse(
        path: &Path,
        read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<(Self, Vec<Warning>), ConfError> {
        Self::parse_for(path, &LMTP_SERVICES, read)
    }

    /// Like `parse`, for services with these names in `cyrus.conf`. An option `SERVICE_name`
    /// overrides `name`, regardless of their order; of several services the first one counts.
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

    /// Like [`parse_for`](ImapdConf::parse_for), for callers that do not need Cyrus' files. Cyrus
    /// does not start without a `configdirectory`, but the other options can be read. The paths of
    /// the [`ImapdOptions`] are then meaningless.
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

    /// Whether no option is set.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Returns the value of an option, with the overrides for the services. `None`: not set; the
    /// default depends on the release of Cyrus.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.setting(option).map(|setting| setting.value.as_str())
    }

    /// Returns the raw value of an option, in bytes.
    pub fn bytes(&self, option: &str) -> Option<&[u8]> {
        let setting = self.setting(option)?;
        Some(setting.bytes.as_deref().unwrap_or(setting.value.as_bytes()))
    }

    /// Returns the position of the value that [`get`](ImapdConf::get) returns.
    #[cfg(test)]
    fn place(&self, option: &str) -> Option<&Position> {
        self.setting(option).map(|setting| &setting.place)
    }

    /// Returns an option of type SWITCH. As in Cyrus, the first letters decide, in lower case: `0`,
    /// `n`, `of`, `f` and `1`, `y`, `on`, `t` (`lib/libconfig.c`, `config_parse_switch`).
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

    /// Returns an option of type ENUM: one of these words. `on` and `off` have the spellings that
    /// Cyrus accepts.
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

    /// Returns the setting of an option. `lmtp_downcase_rcpt` is an option and no override of a
    /// `downcase_rcpt`; the same applies to the other options that begin with `lmtp_`. A lookup by
    /// the whole name distinguishes them.
    fn setting(&self, option: &str) -> Option<&Setting> {
        self.services
            .iter()
            .find_map(|service| self.set.get(&format!("{service}_{option}")))
            .or_else(|| self.set.get(option))
    }

    /// Warns of services with different values: here all services share one value, in Cyrus each has
    /// its own.
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

    /// Warns of an override that applies to all mail here but only to some services in Cyrus, and of
    /// one for a service of `lmtpd` that is not among the configured services.
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
        // The usual names stand for those of the site. Mail exchangers connect to the first service.
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

    /// Returns possible overrides: number of the service, option and setting.
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

    /// Parses files in memory; the first one is the main file.
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

    /// Parses one file, after its `configdirectory`.
    pub(super) fn one(text: &str) -> ImapdConf {
        let (conf, warnings) =
            conf(&[("imapd.conf", &format!("configdirectory: /var/lib/cyrus\n{text}"))]).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        conf
    }

    #[test]
    fn service_overrides_the_generic_option_in_any_order() {
        let conf = one("lmtp_postuser: bb\npostuser: shared\nimap_postuser: no\n");
        assert_eq!(conf.get("postuser"), Some("bb"));
        let text = "configdirectory: /v\npostuser: shared\nLMTPproxyd_PostUser: bb\n";
        assert_eq!(super::tests::conf(&[("i", text)]).unwrap().0.get("postuser"), Some("bb"));
        assert_eq!(one("imap_postuser: no\n").get("postuser"), None);
    }

    #[test]
    fn option_named_like_a_service_is_no_override() {
        let conf = one("lmtp_downcase_rcpt: no\n");
        assert_eq!(conf.switch("lmtp_downcase_rcpt"), Ok(Some(false)));
        let conf = one("lmtp_downcase_rcpt: no\nlmtp_lmtp_downcase_rcpt: yes\n");
        assert_eq!(conf.switch("lmtp_downcase_rcpt"), Ok(Some(true)));
    }

    #[test]
    fn services_can_be_configured() {
        let mut read = |_: &Path| Ok(b"configdirectory: /v\nlmtp_x: 1\nmx2_x: 2\nx: 3\n".to_vec());
        let path = Path::new("imapd.conf");
        let (conf, _) = ImapdConf::parse_for(path, &["MX2"], &mut read).unwrap();
        assert_eq!(conf.get("x"), Some("2"));
        let (conf, _) = ImapdConf::parse_for(path, &[], &mut read).unwrap();
        assert_eq!(conf.get("x"), Some("3"));
    }

    #[test]
    fn services_that_disagree_cause_a_warning() {
        let text = "configdirectory: /v\nlmtpunix_postuser: b\nlmtp_postuser: a\nlmtp_umask: 022\n\
                    lmtpunix_umask: 022\n";
        let (conf, warnings) = conf(&[("i", text)]).unwrap();
        assert_eq!(conf.get("postuser"), Some("a"));
        assert_eq!(warnings, ["i:2: `lmtpunix_postuser` is not heeded: `lmtp_postuser` counts"]);
    }

    #[test]
    fn override_of_some_services_only_causes_a_warning() {
        let warned = |services: &[&str], text: &str| {
            let text = format!("configdirectory: /v\n{text}");
            let mut read = |_: &Path| Ok(text.clone().into_bytes());
            let (_, warnings) = ImapdConf::parse_for(Path::new("i"), services, &mut read).unwrap();
            warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (services, text, says) in [
            // The services that mail exchangers connect to have the plain option.
            (&LMTP_SERVICES[..], "lmtpunix_postuser: bb\n", "`lmtpunix_postuser` does not hold"),
            (&LMTP_SERVICES, "unixhierarchysep: no\nlmtpunix_unixhierarchysep: yes\n", "i:3: "),
            (&["lmtp", "lmtpunix"], "lmtp_postuser: bb\n", "the services lmtpunix, and"),
            // Prefixes that are none of the services.
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
    fn last_of_two_settings_counts_with_a_warning() {
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
    fn switches_are_parsed_as_by_cyrus() {
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
    fn configdirectory_is_expanded_at_the_beginning_only() {
        let conf = one("a: {ConfigDirectory}/x\nb: x{configdirectory}\nc: {config\nd: \u{e9}\n");
        let values = ["a", "b", "c", "d"].map(|key| conf.get(key).unwrap());
        assert_eq!(values, ["/var/lib/cyrus/x", "x{configdirectory}", "{config", "\u{e9}"]);
    }

    #[test]
    fn missing_configdirectory_is_an_error() {
        assert_eq!(conf(&[("i", "a: b\n")]).unwrap_err(), "i: `configdirectory` is not set");
        assert!(conf(&[("i", "lmtp_configdirectory: /v\n")]).is_ok());
    }

    #[test]
    fn debug_hides_all_values() {
        let conf = one("mupdate_password: geheim\nsasl_sql_passwd: geheim\n");
        let shown = format!("{conf:?} {:?}", conf.options().unwrap());
        assert!(shown.contains("mupdate_password") && !shown.contains("geheim"), "{shown}");
    }
}
