//! Routing decisions: takes a recipient and returns the destination of its message. No other
//! code decides this.
//!
//! The router asks a [`MailboxList`] and applies the site's rules. It does no I/O and reads no
//! clock, so it cannot confirm a miss itself. For an unconfirmed miss it returns
//! [`Verdict::Confirm`] with the name; the caller has the name confirmed and asks again. A
//! decision may rest on several absent names; each is confirmed. For a hit whose record changed
//! recently it returns [`Verdict::AskAgain`].
//!
//! | the list says | decision |
//! |---|---|
//! | an active record with a server | deliver to that backend, after asking the master if it changed recently |
//! | an active record without a server | deliver to the local backend, if one is configured |
//! | reserved, moving | deferred, once the state is confirmed or doubted |
//! | deleted, intermediate, nothing | unknown, once the miss is believed |
//! | unreadable or unsure | deferred |
//! | a shared folder without the right to post for anonymous clients | refused (unknown, if it is hidden too), once that is believed |
//!
//! Recipients outside the configured domains are *foreign* and never reach the list.

macro_rules! explain {
    ($explain:expr, $($text:tt)*) => {
        if let Some(steps) = $explain.as_deref_mut() {
            steps.push(format!($($text)*));
        }
    };
}

mod any_case;
mod candidates;
mod folded;

use std::borrow::Cow;

use crate::address::{Fuzzy, NoTarget, Recipient, Release, Rules, Target, TargetKind};
use crate::model::backend::{Backends, NoBackend};
use crate::model::domains::Domains;
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::{Record, State};
use crate::model::shown::Shown;
use crate::routing::evidence::{MissTrust, NameTrust};
use crate::routing::route::{Cause, Decision, Refusal, Route};

/// Result of [`Router::route`].
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The final decision.
    Final(Route),
    /// The list does not have this mailbox, or has it in a transient state. The caller has that
    /// confirmed, then asks again with a [`NameTrust`] that has the result; never
    /// [`MissTrust::Unconfirmed`] for this name again. The next verdict may name another one.
    Confirm(MailboxName),
    /// The list has this mailbox in a record that changed recently. The caller asks for its present
    /// location, then asks the router again; never with [`NameTrust::can_ask_again`] for this name.
    /// Never delays an existing recipient: without a timely answer the list's record is used.
    /// Returned only if [`NameTrust`] allows it.
    AskAgain(MailboxName),
    /// The list cannot answer without waiting (see [`Lookup::Busy`]). The caller asks again where
    /// waiting is allowed.
    Wait,
}

/// The site's rules. Immutable, shared by threads.
#[derive(Debug)]
pub struct Router {
    /// The domains served.
    pub domains: Domains,
    /// Rules that turn a recipient into a mailbox name.
    pub rules: Rules,
    /// The rules of older releases of Cyrus, if the site's release is not configured. They apply
    /// only to a list with keys of up to 3.4, and only to names that it has.
    pub older: Vec<Rules>,
    /// Addresses at which the mail server reaches the servers of the list.
    pub backends: Backends,
}

/// Steps of a decision as text, for `lookup --explain`. Costs nothing when unused.
pub type Explain<'a> = Option<&'a mut Vec<String>>;

impl Router {
    /// Decides about a recipient as the mail server wrote it: `local[+detail]@domain`, in internal
    /// or in RFC 5321 quoted form.
    pub fn route(
        &self,
        recipient: &[u8],
        list: &dyn MailboxList,
        belief: &dyn NameTrust,
        mut explain: Explain<'_>,
    ) -> Verdict {
        let recipient = match self.ours(recipient) {
            Ok(recipient) => recipient,
            Err(why) => {
                explain!(explain, "address: {why}");
                return Verdict::Final(Route::without_mailbox(Decision::Foreign, why));
            }
        };
        explain!(explain, "address: {recipient}; its domain is one of ours");
        if let Some(steps) = explain.as_deref_mut() {
            steps.extend(
                self.rules.explain(&recipient).into_iter().map(|step| format!("rule: {step}")),
            );
        }
        let mut search = Search { router: self, list, belief, explain };
        match search.target(&recipient) {
            Ok(route) => Verdict::Final(route),
            Err(Open::Confirm(name)) => Verdict::Confirm(name),
            Err(Open::AskAgain(name)) => Verdict::AskAgain(name),
            Err(Open::Wait) => Verdict::Wait,
        }
    }

    /// Returns the rules that turn the recipient into this mailbox name.
    pub fn rules_of(&self, recipient: &Recipient<'_>, found: &MailboxName) -> &Rules {
        let made = |rules: &&Rules| {
            rules.target(recipient).is_ok_and(|target| target.names().any(|name| name == found))
        };
        std::iter::once(&self.rules).chain(&self.older).find(made).unwrap_or(&self.rules)
    }

    /// Returns a domain that canonical recipients have in capitals although they were given in
    /// lower case ([`Rules::respelled_domain`]).
    pub fn respelled_domain(&self) -> Option<String> {
        std::iter::once(&self.rules).chain(&self.older).find_map(Rules::respelled_domain)
    }

    /// Whether this recipient, given in lower case, may stand for a mailbox name with capitals.
    /// `generation`: that of the list's keys, if known.
    pub fn case_matters(&self, recipient: &[u8], generation: Option<KeyGeneration>) -> bool {
        let Ok(recipient) = self.ours(recipient) else { return false };
        let older = match generation {
            Some(KeyGeneration::Separated) => &[][..],
            Some(KeyGeneration::Internal) | None => &self.older,
        };
        std::iter::once(&self.rules).chain(older).any(|rules| rules.case_matters_for(&recipient))
    }

    /// Parses the recipient and checks that its domain is served.
    pub fn ours<'r>(&self, recipient: &'r [u8]) -> Result<Recipient<'r>, Cow<'static, str>> {
        // Postfix never sends a key that is not UTF-8, and rejects such an answer.
        if !recipient.is_ascii() && std::str::from_utf8(recipient).is_err() {
            return Err("an address that is not UTF-8".into());
        }
        let recipient = Recipient::parse(recipient).map_err(|bad| bad.to_string())?;
        match recipient.domain() {
            Some(domain) if self.domains.contains(domain) => Ok(recipient),
            Some(_) => Err("its domain is none of ours".into()),
            None => Err("an address without a domain".into()),
        }
    }
}

/// Reason for an unknown recipient without a record in the list.
const NO_SUCH: &str = "no such mailbox";

/// Reason for deferring a user in `user_deny.db`.
const BLOCKED: &str = "access of this user is blocked (cyr_deny, user_deny.db)";

/// Reason for deferring a user whose mailbox lmtpd would create.
const UNMADE: &str = "no such mailbox, but lmtpd would make it (autocreate_post); set `autocreate` in \
                      [backends] to the server for new users";

/// One search through the list.
struct Search<'a> {
    router: &'a Router,
    list: &'a dyn MailboxList,
    belief: &'a dyn NameTrust,
    explain: Explain<'a>,
}

/// Result of looking one mailbox name up.
enum Found {
    /// A decision.
    Decided(Route),
    /// A believed miss, with the decision if no other name is found.
    Missed(Route),
    /// A folder that takes no mail from outside, with the decision if there is no catch-all.
    Barred(Route),
}

/// Reason for a search without a decision.
enum Open {
    Confirm(MailboxName),
    AskAgain(MailboxName),
    Wait,
}

impl Search<'_> {
    /// Searches for the recipient's own mailbox, then for a fuzzy match, then uses the catch-all.
    fn target(&mut self, recipient: &Recipient<'_>) -> Result<Route, Open> {
        let rules = &self.router.rules;
        // Asked first: a list that cannot be read yet must not be asked only for today's names and
        // then believed.
        let generation = match self.router.older.is_empty() {
            true => None,
            false => Some(self.list.key_generation()),
        };
        let any_release = generation == Some(None);
        let may_be_older = generation == Some(Some(KeyGeneration::Internal));
        let older = match may_be_older {
            true => self.by_older_rules(recipient),
            false => None,
        };
        let target = match older {
            Some(older) => Ok(older),
            None => rules.target(recipient),
        };
        let lost = match target {
            Ok(target) => match self.by_name(&target, rules)? {
                Found::Decided(route) => return Ok(route),
                Found::Missed(route) => {
                    if let Some(route) = self.before_folding(recipient, may_be_older)? {
                        return Ok(route);
                    }
                    if may_be_older && let Some(route) = self.older_rules(recipient)? {
                        return Ok(route);
                    }
                    route
                }
                Found::Barred(route) => {
                    if let Some(route) = self.before_folding(recipient, may_be_older)? {
                        return Ok(route);
                    }
                    if may_be_older && let Some(doubted) = self.doubt_older_rules(recipient)? {
                        return Ok(doubted);
                    }
                    route
                }
            },
            Err(no_target) => {
                // The list is not asked: it cannot hold such a name.
                let decision = match no_target {
                    NoTarget::Nobody(_) => Decision::Unknown,
                    NoTarget::Refused(_) => Decision::Refused(Refusal::Syntax),
                    NoTarget::Doubtful(_) => Decision::Deferred(Cause::Mailbox),
                };
                let route = Route::without_mailbox(decision, no_target.to_string().into());
                if matches!(route.decision, Decision::Deferred(_)) && !any_release {
                    explain!(self.explain, "decision: {}", route.reason);
                    return Ok(route);
                }
                if let Some(route) = self.before_folding(recipient, may_be_older)? {
                    return Ok(route);
                }
                if may_be_older && let Some(route) = self.older_rules(recipient)? {
                    return Ok(route);
                }
                if route.decision != Decision::Unknown && !any_release {
                    explain!(self.explain, "decision: {}", route.reason);
                    return Ok(route);
                }
                route
            }
        };
        if any_release {
            let why = "the list did not show in time of which release of Cyrus its names are";
            explain!(self.explain, "decision: deferred: {why}");
            let decision = Decision::Deferred(Cause::List);
            return Ok(Route { decision, reason: why.into(), ..lost });
        }
        if let Some(route) = self.made_by_lmtpd(recipient, &lost) {
            explain!(self.explain, "decision: {}: {}", route.decision.as_str(), route.why());
            return Ok(route);
        }
        if let Some(target) = rules.catchall_target().filter(|_| self.is_caught(&lost)) {
            explain!(self.explain, "rule: lmtp_catchall_mailbox sends it to {}", target.name);
            if let Found::Decided(route) = self.look_up(&target)? {
                return Ok(route);
            }
        }
        explain!(self.explain, "decision: {}: {}", lost.decision.as_str(), lost.reason);
        Ok(lost)
    }

    /// Decides about a user without a mailbox where `lmtpd` would create one (`autocreate_post`).
    /// lmtpd does so before it looks for a catch-all.
    fn made_by_lmtpd(&mut self, recipient: &Recipient<'_>, lost: &Route) -> Option<Route> {
        let Router { rules, backends, .. } = self.router;
        let autocreate = rules.autocreate.as_ref()?;
        // If one spelling is refused, another may be unknown.
        if lost.decision != Decision::Unknown && !self.belief.in_any_case() {
            return None;
        }
        let target = rules.target(recipient).ok();
        let target = target.filter(|target| autocreate.makes(target)).or_else(|| {
            if !self.belief.in_any_case() {
                return None;
            }
            let targets =
                rules.target(recipient).into_iter().chain(rules.folded_targets(recipient));
            let mut each = targets.flat_map(|Target { kind, name, others }| {
                let names = std::iter::once(name).chain(others);
                names.map(move |name| Target::by_name(kind, name))
            });
            each.find(|target| match rules.case_matters(target.kind) {
                true => autocreate.makes_in_some_case(target),
                false => autocreate.makes(target),
            })
        })?;
        explain!(self.explain, "rule: autocreate_post: lmtpd would make {}", target.name);
        if self.list.denies(&target.name) {
            let decision = Decision::Deferred(Cause::Mailbox);
            return Some(Route::about(&target.name, None, decision, BLOCKED.into()));
        }
        let resolved = backends.autocreate.as_deref().map(|host| backends.resolve(Some(host)));
        let (decision, reason) = match resolved {
            Some(Ok(backend)) => (Decision::Deliver(backend), Cow::Borrowed("")),
            Some(Err(why)) => (Decision::Deferred(Cause::Mailbox), why.to_string().into()),
            None => (Decision::Deferred(Cause::Mailbox), UNMADE.into()),
        };
        let route = Route::about(&target.name, None, decision, reason);
        Some(Route { server: backends.autocreate.as_deref().map(str::to_owned), ..route })
    }

    /// Whether the catch-all, if any, gets a message with this result. Cyrus 2.5 gives it only
    /// unknown recipients. Cyrus 3 gives it everything that cannot be delivered now, including
    /// messages to a mailbox that is reserved or moving. Those never reach this function: they
    /// would end in the mailbox of another user.
    fn is_caught(&self, lost: &Route) -> bool {
        // A folded recipient may have been typed in an unknown spelling.
        lost.decision == Decision::Unknown
            || self.router.rules.release >= Release::V3_0
            || self.belief.in_any_case()
    }

    /// Looks up a target of these rules under the first of its names that exists.
    fn by_name(&mut self, target: &Target, rules: &Rules) -> Result<Found, Open> {
        // Before a miss is weighed: an existing mailbox under another name needs no confirmation.
        let other = match target.others.is_empty() || self.is_there(&target.name) {
            true => None,
            false => target.others.iter().find(|name| self.is_there(name)),
        };
        // Another spelling may be accepted where this one is not.
        let may_be_folded = self.belief.in_any_case() && rules.case_matters(target.kind);
        // lmtpd without a MUPDATE server makes the fuzzy match at once. A folder found like that
        // counts as known, whether or not misses of this list are believed.
        if self.belief.is_lists_alone() && !target.names().any(|name| self.is_there(name)) {
            match self.fuzzy(Fuzzy::all(rules, target))? {
                Some(Found::Decided(route)) => return Ok(Found::Decided(route)),
                Some(found) if !may_be_folded => return Ok(found),
                Some(_) | None => {}
            }
        }
        let found = match other {
            Some(name) => self.look_up(&Target::by_name(target.kind, name.clone()))?,
            None => self.look_up(target)?,
        };
        if let Found::Decided(_) = found {
            return Ok(found);
        }
        for name in target.names() {
            if let Some(doubted) = self.doubt(name, None, NO_SUCH)? {
                return Ok(Found::Decided(doubted));
            }
        }
        if let Some(found) = self.in_another_case(target, rules)? {
            return Ok(found);
        }
        // lmtpd, too, makes the fuzzy match only if the exact name does not exist.
        if let (Found::Barred(_), false) = (&found, may_be_folded) {
            return Ok(found);
        }
        Ok(match (self.fuzzy_in_any_case(target, rules)?, found) {
            (Some(other @ Found::Decided(_)), _) => other,
            (_, barred @ Found::Barred(_)) => barred,
            (other, missed) => other.unwrap_or(missed),
        })
    }

    /// Whether the list has the mailbox, or cannot exclude it.
    fn is_there(&self, name: &MailboxName) -> bool {
        self.list.lookup(name).may_exist()
    }

    fn look_up(&mut self, target: &Target) -> Result<Found, Open> {
        let name = &target.name;
        let (found, recent) = self.list.lookup_dated(name);
        match found {
            Lookup::Present(record) => {
                explain!(self.explain, "record: {name}: {}", describe(&record));
                self.record(target, record, recent)
            }
            Lookup::Absent => {
                explain!(self.explain, "record: the list has no {name}");
                self.miss(name, None, NO_SUCH)
            }
            Lookup::Unsure(why) => {
                explain!(self.explain, "decision: deferred: the list cannot be relied on: {why}");
                Ok(Found::Decided(Route::about(
                    name,
                    None,
                    Decision::Deferred(Cause::List),
                    why.to_string().into(),
                )))
            }
            Lookup::Busy => Err(Open::Wait),
        }
    }

    fn record(&mut self, target: &Target, record: Record, recent: bool) -> Result<Found, Open> {
        let name = &target.name;
        let (decision, reason): (_, Cow<'static, str>) = match record.state {
            State::Deleted => return self.miss(name, Some(record), "the mailbox is deleted"),
            State::Intermediate => {
                return self.miss(name, Some(record), "only a name with mailboxes below it");
            }
            // Usually transient, and the list may lag.
            State::Reserved | State::Moving if self.belief.of(name) == MissTrust::Unconfirmed => {
                return Err(Open::Confirm(name.clone()));
            }
            State::Reserved => {
                (Decision::Deferred(Cause::Mailbox), "the mailbox is reserved".into())
            }
            State::Moving => {
                (Decision::Deferred(Cause::Mailbox), "the mailbox is being moved".into())
            }
            // It may have moved on since, or have come back. A backend that no longer has it
            // rejects it permanently.
            State::Active if recent && self.belief.can_ask_again(name) => {
                explain!(self.explain, "freshness: {name} changed within the last minute");
                return Err(Open::AskAgain(name.clone()));
            }
            // Postfix never names an authenticated sender to a backend (MAIL FROM … AUTH=<>), so
            // the rights of anonymous clients count there too.
            State::Active if target.kind == TargetKind::Shared && !record.anonymous.post => {
                let (decision, why) = if record.anonymous.lookup {
                    let why = "posting to this folder needs a login";
                    (Decision::Refused(Refusal::NoPost), why)
                } else {
                    (Decision::Unknown, "a shared folder without the right to see it or post to it")
                };
                // The right may have been granted since: a miss in a lagging list never causes a
                // refusal.
                if let Some(doubted) = self.doubt(name, Some(&record), why)? {
                    return Ok(Found::Decided(doubted));
                }
                return Ok(Found::Barred(Route::about(name, Some(record), decision, why.into())));
            }
            // After lmtpd's other checks, and like lmtpd only for users.
            State::Active if target.kind == TargetKind::Inbox && self.list.denies(name) => {
                (Decision::Deferred(Cause::Mailbox), BLOCKED.into())
            }
            State::Active => match self.router.backends.resolve(record.server.as_deref()) {
                Ok(backend) => (Decision::Deliver(backend), "".into()),
                Err(why @ NoBackend::Draining(_)) => {
                    (Decision::Deferred(Cause::Mailbox), why.to_string().into())
                }
                Err(why) => (Decision::Deferred(Cause::List), why.to_string().into()),
            },
        };
        let route = Route::about(name, Some(record), decision, reason);
        explain!(self.explain, "decision: {}: {}", route.decision.as_str(), route.why());
        Ok(Found::Decided(route))
    }

    /// Weighs a miss.
    fn miss(
        &mut self,
        name: &MailboxName,
        record: Option<Record>,
        why: &'static str,
    ) -> Result<Found, Open> {
        // A decision, so that the catch-all gets no message of a mailbox that may exist.
        Ok(match self.doubt(name, record.as_ref(), why)? {
            Some(doubted) => Found::Decided(doubted),
            None => Found::Missed(Route::about(name, record, Decision::Unknown, why.into())),
        })
    }

    /// Returns the deferral of a recipient that the present list would have refused. `None`: the
    /// list is believed.
    fn doubt(
        &mut self,
        name: &MailboxName,
        record: Option<&Record>,
        why: &str,
    ) -> Result<Option<Route>, Open> {
        match self.belief.of(name) {
            MissTrust::Believed => Ok(None),
            MissTrust::Unconfirmed => Err(Open::Confirm(name.clone())),
            MissTrust::Doubted(doubt) => {
                explain!(self.explain, "freshness: {doubt}");
                let reason = format!("{why}, but this could not be confirmed: {doubt}");
                let decision = Decision::Deferred(Cause::Mailbox);
                Ok(Some(Route::about(name, record.cloned(), decision, reason.into())))
            }
        }
    }

    /// `lmtp_fuzzy_mailbox_match` for a shared folder that does not exist under its exact name: one
    /// walk for all searches; the first search that finds a mailbox counts.
    fn fuzzy(&mut self, mut searches: Vec<Fuzzy<'_>>) -> Result<Option<Found>, Open> {
        let Some(first) = searches.first() else { return Ok(None) };
        let (prefix, wanted) = (first.prefix(), first.wanted());
        let prefix = match searches.iter().all(|search| search.prefix() == prefix) {
            true => prefix,
            false => b"",
        };
        let read = self.list.each_past(prefix, &mut |name, record| {
            if record.state.exists() {
                searches.iter_mut().for_each(|search| search.offer(name));
            }
            let passed = searches.iter().map(|search| search.passes(name));
            // Skips only names that all searches skip.
            match passed.reduce(|a, b| Some(a?.max(b?))).flatten() {
                Some(length) => WalkStep::Past(length),
                None => WalkStep::On,
            }
        });
        if let Err(why) = read {
            let decision = Decision::Deferred(Cause::List);
            let route = Route::about(wanted, None, decision, why.to_string().into());
            return Ok(Some(Found::Decided(route)));
        }
        let mut barred = None;
        for name in searches.into_iter().filter_map(Fuzzy::best) {
            explain!(self.explain, "rule: lmtp_fuzzy_mailbox_match takes {name}");
            match self.look_up(&Target::by_name(TargetKind::Shared, name))? {
                Found::Missed(_) => {}
                // Another spelling may be that of another folder.
                found @ Found::Barred(_) if self.belief.in_any_case() => {
                    barred.get_or_insert(found);
                }
                found => return Ok(Some(found)),
            }
        }
        Ok(barred)
    }
}

fn describe(record: &Record) -> String {
    let server = Shown(record.server.as_deref().unwrap_or("this host"));
    format!("{} on {server}, partition `{}`", record.state.as_str(), record.partition)
}

#[cfg(test)]
mod tests;
