//! `source` and `misses`: where mailbox lists come from, and how a miss without a master counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use crate::model::shown::Shown;

/// Source of a mailbox list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceName {
    /// Cyrus' own list on this host.
    MailboxesDb,
    /// A replica of the master's list, kept by the daemon.
    Replica,
    /// No list: the master is asked for each name.
    Find,
}

impl SourceName {
    /// All sources.
    pub const ALL: [Self; 3] = [Self::MailboxesDb, Self::Replica, Self::Find];

    /// Name in the configuration and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            SourceName::MailboxesDb => "mailboxes-db",
            SourceName::Replica => "replica",
            SourceName::Find => "find",
        }
    }
}

impl FromStr for SourceName {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|source| source.as_str() == word).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("unknown source `{}`; valid: {known}", Shown(word))
        })
    }
}

/// Decision about a recipient that the list lacks, where no MUPDATE server is configured that could
/// confirm the miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissPolicy {
    /// Deferred if the list has records of other servers, else unknown.
    #[default]
    Confirm,
    /// Unknown: the list is complete by itself.
    Final,
}

impl FromStr for MissPolicy {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "confirm" => Ok(Self::Confirm),
            "final" => Ok(Self::Final),
            word => Err(format!("`{}` is not valid; valid: confirm, final", Shown(word))),
        }
    }
}

/// Why a list of sources cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SourcesError {
    /// No source at all.
    #[error("at least one source is needed")]
    Empty,
    /// Sources are asked in their order, each once.
    #[error("`{0}` is listed twice")]
    Twice(&'static str),
    /// `mode` names a source that `source` lacks.
    #[error(
        "[mupdate]: `mode = \"{0}\"` has no effect: `source` lists neither `mupdate` nor `{0}`"
    )]
    ModeWithoutSource(&'static str),
}

/// Checks that there is a source, and none twice.
pub(super) fn check_order(sources: &[SourceName]) -> Result<(), SourcesError> {
    if sources.is_empty() {
        return Err(SourcesError::Empty);
    }
    for (at, source) in sources.iter().enumerate() {
        if sources.iter().take(at).any(|before| before == source) {
            return Err(SourcesError::Twice(source.as_str()));
        }
    }
    Ok(())
}

/// `mode` in `[mupdate]`: the source that `mupdate` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MupdateMode {
    /// The source `replica`.
    #[default]
    Replica,
    /// The source `find`.
    Find,
}

/// A source as the file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileSource {
    Named(SourceName),
    /// The MUPDATE server, by `mode` in `[mupdate]`.
    Mupdate,
}

impl FileSource {
    fn named(&self) -> Option<SourceName> {
        match self {
            FileSource::Named(source) => Some(*source),
            FileSource::Mupdate => None,
        }
    }
}

impl FromStr for FileSource {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "mupdate" => Ok(Self::Mupdate),
            word => word.parse().map(Self::Named),
        }
    }
}

/// The sources in their order, from `source` and `mode` together.
pub(super) fn resolve(
    source: Option<&[FileSource]>,
    mode: Option<MupdateMode>,
) -> Result<Vec<SourceName>, SourcesError> {
    let by_mode = match mode.unwrap_or_default() {
        MupdateMode::Replica => SourceName::Replica,
        MupdateMode::Find => SourceName::Find,
    };
    let named = match (source, mode) {
        (Some(named), _) => named,
        (None, Some(_)) => &[FileSource::Mupdate],
        (None, None) => &[FileSource::Named(SourceName::MailboxesDb)],
    };
    if mode.is_some()
        && !named.contains(&FileSource::Mupdate)
        && !named.contains(&FileSource::Named(by_mode))
    {
        return Err(SourcesError::ModeWithoutSource(by_mode.as_str()));
    }
    let sources: Vec<SourceName> =
        named.iter().map(|source| source.named().unwrap_or(by_mode)).collect();
    check_order(&sources)?;
    Ok(sources)
}

/// Reads `source`: one source, or a list of sources.
pub(super) fn sources<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<Vec<FileSource>>, D::Error> {
    struct Names;

    impl<'de> de::Visitor<'de> for Names {
        type Value = Vec<FileSource>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let known = SourceName::ALL.map(SourceName::as_str).join(", ");
            write!(f, "mupdate, one of {known}, or a list of them")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
            word.parse().map(|source| vec![source]).map_err(E::custom)
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut words: A) -> Result<Self::Value, A::Error> {
            let mut sources = Vec::new();
            while let Some(word) = words.next_element::<String>()? {
                sources.push(word.parse().map_err(de::Error::custom)?);
            }
            Ok(sources)
        }
    }

    let sources = input.deserialize_any(Names)?;
    let named: Vec<SourceName> = sources.iter().filter_map(FileSource::named).collect();
    let mupdate = sources.len() - named.len();
    if mupdate > 1 {
        return Err(de::Error::custom(SourcesError::Twice("mupdate")));
    }
    if mupdate == 0 {
        check_order(&named).map_err(de::Error::custom)?;
    }
    Ok(Some(sources))
}
