//! Mailbox names that older releases of Cyrus make of a recipient.

use super::{Found, NO_SUCH, Open, Search};
use crate::address::{Fuzzy, Recipient, Target};
use crate::routing::route::Route;

impl Search<'_> {
    /// Returns the target of an older release that exists, if today's does not.
    pub(super) fn by_older_rules(&mut self, recipient: &Recipient<'_>) -> Option<Target> {
        let router = self.router;
        let present = |target: Target| target.names().find(|name| self.is_there(name)).cloned();
        if router.rules.target(recipient).ok().and_then(present).is_some() {
            return None;
        }
        let older = router.older.iter().find_map(|rules| {
            let target = rules.target(recipient).ok()?;
            let kind = target.kind;
            Some((rules.release, Target::by_name(kind, present(target)?)))
        });
        let (release, target) = older?;
        explain!(self.explain, "rule: there is {}, a name as of Cyrus {release}", target.name);
        Some(target)
    }

    /// Decides by older rules about a recipient that today's rules do not find. `None`: older rules
    /// do not find it either.
    pub(super) fn older_rules(&mut self, recipient: &Recipient<'_>) -> Result<Option<Route>, Open> {
        if let doubted @ Some(_) = self.doubt_older_rules(recipient)? {
            return Ok(doubted);
        }
        Ok(match self.fuzzy_by_older_rules(recipient)? {
            Some(Found::Decided(route)) => Some(route),
            // As it was typed it may be meant for the catch-all.
            Some(Found::Barred(_)) if self.belief.in_any_case() => None,
            Some(Found::Barred(route)) => Some(route),
            Some(Found::Missed(_)) | None => None,
        })
    }

    /// Weighs the misses of the older releases' names of a recipient that today's rules do not
    /// find. `None`: they are all believed to be absent.
    pub(super) fn doubt_older_rules(
        &mut self,
        recipient: &Recipient<'_>,
    ) -> Result<Option<Route>, Open> {
        let router = self.router;
        for target in router.older.iter().filter_map(|rules| rules.target(recipient).ok()) {
            for name in target.names() {
                if let doubted @ Some(_) = self.doubt(name, None, NO_SUCH)? {
                    return Ok(doubted);
                }
            }
        }
        Ok(None)
    }

    /// `lmtp_fuzzy_mailbox_match` under older rules, for a recipient that is found neither by
    /// today's rules nor by exact names of older ones.
    pub(super) fn fuzzy_by_older_rules(
        &mut self,
        recipient: &Recipient<'_>,
    ) -> Result<Option<Found>, Open> {
        let router = self.router;
        let older = router.older.iter();
        let targets: Vec<_> =
            older.filter_map(|rules| Some((rules, rules.target(recipient).ok()?))).collect();
        self.fuzzy(targets.iter().flat_map(|(rules, target)| Fuzzy::all(rules, target)).collect())
    }
}
