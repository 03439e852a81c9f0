//! Settings that a reload must not remove.
//!
//! An empty or truncated file, which is being written or whose disk is full, is a valid file without
//! some options. Without these options, existing recipients are unknown or foreign.

use crate::imapd_conf::{ImapdOptions, Virtdomains};

/// Vital settings of a configuration, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vital(Vec<&'static str>);

impl Vital {
    /// Returns the vital settings of a configuration: those of its imapd.conf, whether it names a
    /// MUPDATE server, and whether it serves a domain.
    pub(super) fn of(imapd: Option<&ImapdOptions>, murder: bool, domains: bool) -> Self {
        let of_imapd = |has: fn(&ImapdOptions) -> bool| imapd.is_some_and(has);
        let all = [
            ("`domains`", domains),
            ("the MUPDATE server (`mupdate_server`)", murder),
            (
                "`configdirectory` in imapd.conf",
                of_imapd(|imapd| !imapd.configdirectory.as_os_str().is_empty()),
            ),
            (
                "`virtdomains` in imapd.conf",
                of_imapd(|imapd| imapd.virtdomains != Virtdomains::Off),
            ),
            ("`defaultdomain` in imapd.conf", of_imapd(|imapd| imapd.defaultdomain.is_some())),
        ];
        Self(all.into_iter().filter_map(|(name, has)| has.then_some(name)).collect())
    }

    /// Checks that a running daemon may replace a configuration by one with the vital settings
    /// `new`.
    ///
    /// # Errors
    ///
    /// Names the settings that would be lost.
    pub fn may_become(&self, new: &Self) -> Result<(), String> {
        let lost: Vec<&str> = self.0.iter().filter(|name| !new.0.contains(name)).copied().collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} is no longer set, so that recipients that exist could be refused; if that is meant, \
             restart murder-route",
            lost.join(" and ")
        ))
    }
}
