//! What `mr_open_options` is told, in words.

use std::path::PathBuf;
use std::time::Duration;

use super::library::Library;
use crate::config::Overrides;

/// The members of `mr_options`; `None`: nothing was said.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) config: Option<PathBuf>,
    pub(super) imapd_conf: Option<PathBuf>,
    pub(super) mailboxes_db: Option<PathBuf>,
    pub(super) replica: Option<PathBuf>,
    pub(super) sources: Option<String>,
    pub(super) domains: Option<String>,
    pub(super) daemon: Option<String>,
    pub(super) patience: Duration,
}

/// Opens a library; `Err` says why not, for the one who configures it.
pub(super) fn open(given: Given) -> Result<Library, String> {
    let sources = words(given.sources.as_deref()).map(str::parse).collect::<Result<_, _>>();
    let daemon = match &given.daemon {
        None => None,
        named => {
            let endpoints = words(named.as_deref()).map(str::parse).collect::<Result<Vec<_>, _>>();
            Some(endpoints.map_err(|why| format!("daemon: {why}"))?)
        }
    };
    let overrides = Overrides {
        // Empty: none. An empty file says nothing.
        config: given.config.map(|path| match path.as_os_str().is_empty() {
            true => "/dev/null".into(),
            false => path,
        }),
        imapd_conf: given.imapd_conf,
        mailboxes_db: given.mailboxes_db,
        replica: given.replica,
        sources: sources.map_err(|why: String| format!("sources: {why}"))?,
        domains: words(given.domains.as_deref()).map(str::to_owned).collect(),
        ..Overrides::default()
    };
    Library::open(overrides, daemon, given.patience).map_err(|why| why.to_string())
}

fn words(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty())
}
