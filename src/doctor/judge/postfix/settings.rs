//! Parser of the output of `postconf`.

use std::collections::{BTreeMap, BTreeSet};

/// The settings of a Postfix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PostfixSettings {
    main: BTreeMap<String, String>,
    services: Vec<Service>,
    types: BTreeSet<String>,
    twice: BTreeSet<String>,
}

/// A line of master.cf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its first column: the name of a transport, or an endpoint.
    pub name: String,
    /// Its second column.
    pub kind: String,
    /// Whether it is chrooted into the queue directory.
    pub chroot: bool,
    /// The program.
    pub program: String,
    /// Parameters set by its `-o` options.
    pub overrides: BTreeMap<String, String>,
}

/// Error in the output of `postconf`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPostconf {
    /// Not `name = value`.
    #[error("`{0}` is no parameter")]
    Parameter(String),
    /// Not a service with its eight columns.
    #[error("`{0}` is no service")]
    Service(String),
}

impl PostfixSettings {
    /// Parses the output of `postconf -x`, `postconf -M`, `postconf -Px` and `postconf -m`. Lines of -P
    /// for services that are not in -M are skipped.
    pub fn parse(
        main: &str,
        master: &str,
        overrides: &str,
        types: &str,
    ) -> Result<Self, NotPostconf> {
        let mut settings = Self {
            main: main.lines().map(parameter).collect::<Result<_, _>>()?,
            services: Vec::new(),
            types: types.split_whitespace().map(str::to_owned).collect(),
            twice: BTreeSet::new(),
        };
        let by_default = settings.chroot_by_default();
        let services = master.lines().filter(|line| !line.trim().is_empty());
        let services = services.map(|line| service(line, by_default)).collect::<Result<_, _>>()?;
        settings.services = services;
        for line in overrides.lines() {
            let (name, value) = parameter(line)?;
            let mut path = name.rsplitn(3, '/');
            let (Some(name), Some(kind), Some(service)) = (path.next(), path.next(), path.next())
            else {
                return Err(NotPostconf::Parameter(line.into()));
            };
            let of = settings.services.iter_mut().find(|s| s.name == service && s.kind == kind);
            if let Some(service) = of {
                service.overrides.insert(name.to_owned(), value);
            }
        }
        Ok(settings)
    }

    /// Parses warnings of postconf: a parameter that is set again in main.cf (util/dict.c).
    pub fn note(&mut self, warnings: &str) {
        let again = warnings.lines().filter_map(|line| {
            let (_, entry) = line.split_once(": overriding earlier entry: ")?;
            Some(super::super::one_line(entry.split('=').next()?.trim()))
        });
        self.twice.extend(again);
    }

    /// The parameters that are set more than once in main.cf.
    pub fn set_twice(&self) -> impl Iterator<Item = &str> {
        self.twice.iter().map(String::as_str)
    }

    /// Every parameter with its value, and the service of master.cf if it is set for this service only.
    pub fn everything(&self) -> impl Iterator<Item = (&str, Option<&str>, &str)> {
        let main = self.main.iter().map(|(name, value)| (name.as_str(), None, value.as_str()));
        let overrides = self.services.iter().flat_map(|service| {
            let of = Some(service.name.as_str());
            service.overrides.iter().map(move |(name, value)| (name.as_str(), of, value.as_str()))
        });
        main.chain(overrides)
    }

    /// A parameter of main.cf, or its default. Empty if there is none of this name.
    pub fn main(&self, name: &str) -> &str {
        self.main.get(name).map_or("", String::as_str)
    }

    /// The value of a parameter for a service.
    pub fn of<'a>(&'a self, service: &'a Service, name: &str) -> &'a str {
        service.overrides.get(name).map_or_else(|| self.main(name), String::as_str)
    }

    /// The services that run a program.
    pub fn running<'a>(&'a self, program: &'a str) -> impl Iterator<Item = &'a Service> {
        self.services.iter().filter(move |service| service.program == program)
    }

    /// The transport of this name: a service at a unix socket.
    pub fn transport(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name && service.kind == "unix")
    }

    /// Whether there are tables of this type.
    pub fn has_type(&self, name: &str) -> bool {
        self.types.contains(name)
    }

    /// Whether a `-` in the chroot column means yes: up to compatibility level 0 it does
    /// (COMPATIBILITY_README).
    fn chroot_by_default(&self) -> bool {
        let level = self.main("compatibility_level").split('.').next().unwrap_or_default();
        level.trim().parse::<u32>().unwrap_or(0) == 0
    }

    /// Replaces a parameter in main.cf.
    #[cfg(test)]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.main.insert(name.into(), value.into());
        self
    }

    /// Adds a service: a line of `postconf -M`.
    #[cfg(test)]
    pub(crate) fn with_new_service(mut self, line: &str) -> Self {
        self.services.push(service(line, false).unwrap());
        self
    }

    /// Changes a service.
    #[cfg(test)]
    pub(crate) fn with_service(mut self, name: &str, change: impl FnOnce(&mut Service)) -> Self {
        change(self.services.iter_mut().find(|service| service.name == name).unwrap());
        self
    }
}

fn parameter(line: &str) -> Result<(String, String), NotPostconf> {
    let (name, value) =
        line.split_once('=').ok_or_else(|| NotPostconf::Parameter(super::super::one_line(line)))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn service(line: &str, chroot_by_default: bool) -> Result<Service, NotPostconf> {
    let mut columns = line.split_whitespace();
    let mut column = || columns.next().unwrap_or_default().to_owned();
    let [name, kind, _private, _unprivileged, chroot, _wake_up, _most, program] =
        std::array::from_fn(|_| column());
    if program.is_empty() {
        return Err(NotPostconf::Service(super::super::one_line(line)));
    }
    let chroot = match &*chroot {
        "y" => true,
        "n" => false,
        _ => chroot_by_default,
    };
    Ok(Service { name, kind, chroot, program, overrides: BTreeMap::new() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    macro_rules! recorded {
        ($release:literal) => {
            PostfixSettings::parse(
                include_str!(concat!("../../../../tests/data/postconf/", $release, "/main")),
                include_str!(concat!("../../../../tests/data/postconf/", $release, "/master")),
                include_str!(concat!("../../../../tests/data/postconf/", $release, "/overrides")),
                include_str!(concat!("../../../../tests/data/postconf/", $release, "/types")),
            )
            .unwrap()
        };
    }

    /// One sound site as Debian's Postfix 3.5.25, 3.7.11 and 3.11.7 print it: Debian's master.cf
    /// with its chroots, a transport `murder`, and our maps through `proxy:`.
    pub(crate) fn sites() -> [PostfixSettings; 3] {
        [recorded!("3.5"), recorded!("3.7"), recorded!("3.11")]
    }

    #[test]
    fn output_of_each_release_is_parsed_alike() {
        for settings in sites() {
            assert_eq!(settings.main("relay_domains"), "example.org, example.net");
            assert_eq!(settings.main("relay_recipient_maps"), "");
            assert_eq!(settings.main("no_such_parameter"), "");
            assert!(settings.has_type("socketmap") && !settings.has_type("pcre"));
            let murder = settings.transport("murder").unwrap();
            assert_eq!((murder.program.as_str(), murder.chroot), ("lmtp", true));
            assert_eq!(settings.of(murder, "lmtp_host_lookup"), "dns, native");
            assert_eq!(settings.main("lmtp_host_lookup"), "dns");
            let filter = settings.of(murder, "lmtp_delivery_status_filter");
            assert_eq!(filter, "regexp:/etc/postfix/backend_status");
            let smtpd: Vec<&str> = settings.running("smtpd").map(|s| s.name.as_str()).collect();
            assert_eq!(smtpd, ["smtp", "submission"]);
            assert!(settings.running("proxymap").all(|service| !service.chroot));
            assert!(settings.running("trivial-rewrite").all(|service| service.chroot));
        }
    }

    #[test]
    fn dash_means_no_chroot_from_compatibility_level_1_on() {
        for (level, chroot) in [("", true), ("0", true), ("1", false), ("3.6", false)] {
            let main = format!("compatibility_level = {level}\n");
            for (column, chroot) in [("-", chroot), ("y", true), ("n", false)] {
                let master = format!("lmtp unix - - {column} - - lmtp");
                let settings = PostfixSettings::parse(&main, &master, "", "").unwrap();
                assert_eq!(settings.transport("lmtp").unwrap().chroot, chroot, "{level} {column}");
            }
        }
    }

    #[test]
    fn output_of_another_program_is_refused() {
        assert!(PostfixSettings::parse("postconf: fatal\n", "", "", "").is_err());
        assert!(PostfixSettings::parse("", "lmtp unix - -", "", "").is_err());
        assert!(PostfixSettings::parse("", "", "a/b = c\n", "").is_err());
    }
}
