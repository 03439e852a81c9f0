//! Recipients that were folded to lower case before they reached the router.

use super::{Found, Open, Search, any_case};
use crate::address::{Fuzzy, Recipient, Rules, Target, TargetKind};
use crate::routing::route::{Cause, Decision, Route};

impl Search<'_> {
    /// Decides about a recipient that is not found as it was received, and may have been folded
    /// from another spelling ([`Rules::folded_targets`]). `None`: no other spelling is found
    /// either.
    pub(super) fn before_folding(
        &mut self,
        recipient: &Recipient<'_>,
        may_be_older: bool,
    ) -> Result<Option<Route>, Open> {
        if !self.belief.in_any_case() {
            return Ok(None);
        }
        let router = self.router;
        let older = if may_be_older { &router.older[..] } else { &[] };
        for rules in std::iter::once(&router.rules).chain(older) {
            // With several rules it is unknown by which of them it was searched so far.
            let as_it_came = may_be_older.then(|| rules.target(recipient).ok()).flatten();
            for target in as_it_came.into_iter().chain(rules.folded_targets(recipient)) {
                explain!(self.explain, "rule: the recipient may have been folded: {}", target.name);
                if let Found::Decided(route) = self.by_name(&target, rules)? {
                    return Ok(Some(route));
                }
            }
        }
        Ok(None)
    }

    /// `lmtp_fuzzy_mailbox_match` that ignores the case of the prefix, which otherwise must match
    /// exactly.
    pub(super) fn fuzzy_in_any_case(
        &mut self,
        target: &Target,
        rules: &Rules,
    ) -> Result<Option<Found>, Open> {
        let mut spelled = target.clone();
        if self.belief.in_any_case() && rules.fuzzy && target.kind == TargetKind::Shared {
            // A name with this prefix is no user's, and may be similar to almost any other.
            spelled.others.extend(target.names().filter_map(any_case::not_a_users));
            for search in Fuzzy::all(rules, &spelled.clone()) {
                let (wanted, length) = (search.wanted(), search.prefix().len());
                match any_case::other_beginnings(self.list, wanted, length) {
                    Ok(others) => spelled.others.extend(others),
                    Err(why) => {
                        let decision = Decision::Deferred(Cause::List);
                        let route = Route::about(wanted, None, decision, why.to_string().into());
                        return Ok(Some(Found::Decided(route)));
                    }
                }
            }
        }
        self.fuzzy(Fuzzy::all(rules, &spelled))
    }

    /// Searches for the mailbox whose name differs from the target's in case only, for a recipient that
    /// may have been folded. Misses of the target itself are believed already, and the lists have
    /// caught up.
    pub(super) fn in_another_case(
        &mut self,
        target: &Target,
        rules: &Rules,
    ) -> Result<Option<Found>, Open> {
        if !self.belief.in_any_case() || !rules.case_matters(target.kind) {
            return Ok(None);
        }
        for wanted in target.names() {
            let names = match any_case::other_cases(self.list, wanted, target.kind) {
                Ok(names) => names,
                Err(why) => {
                    let decision = Decision::Deferred(Cause::List);
                    let route = Route::about(wanted, None, decision, why.to_string().into());
                    return Ok(Some(Found::Decided(route)));
                }
            };
            for name in names {
                explain!(self.explain, "rule: the recipient may have been folded: {name}");
                let found = self.look_up(&Target::by_name(target.kind, name))?;
                if let Found::Decided(_) = found {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}
