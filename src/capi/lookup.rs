//! Look-ups of the library: drives [`Inquiry`] on the lists of this process, and forwards to the daemon
//! the recipients that only the daemon can settle.

use std::time::Duration;

use super::library::{Library, ProcessState};
use super::outcome::{Origin, Outcome};
use super::panics;
use super::recipient::has_misplaced_space;
use super::timeout::CallTimeout;
use crate::lists::combined::{Lists, Source};
use crate::lists::mailboxes_db::lock;
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::name::MailboxName;
use crate::routing::evidence::Confirmation;
use crate::routing::inquiry::{Ask, Inquiry, Step, Why, busy};
use crate::routing::route::{Cause, Decision, Route};

/// Longest wait for the daemon where the list has the recipient, in a record that changed recently. The
/// daemon itself waits [250 ms](crate::routing::confirm::KNOWN_NAME_TIMEOUT) for the master.
const KNOWN_NAME_TIMEOUT: Duration = Duration::from_millis(500);

/// Result of a look-up in the lists.
enum Local<'a> {
    /// The lists settle it.
    Settled(Outcome),
    /// The daemon is to be asked.
    Forward(Unsettled<'a>),
}

/// Why the lists do not settle a recipient, with what the answer without the daemon needs.
enum Unsettled<'a> {
    /// A miss has to be confirmed. Without the daemon the recipient is deferred.
    Miss(Inquiry<'a>, Ask),
    /// No list can be relied on. Without the daemon the recipient is deferred by this.
    ListFailed(Route),
    /// The record changed recently, so the mailbox may have moved. Without the daemon the record counts.
    Changed(Outcome),
}

/// A recipient for the daemon, with its place among the outcomes.
struct Forwarded<'a> {
    at: usize,
    recipient: &'a [u8],
    unsettled: Unsettled<'a>,
}

impl Library {
    /// Decides for one recipient, without regard to `unknown = "defer"`.
    pub(super) fn decide(&self, recipient: &[u8], limit: Duration) -> Outcome {
        let (state, timeout) = (self.process_state(), CallTimeout::new(limit));
        match self.look_up_locally(&state.lists, recipient, &timeout) {
            Local::Settled(outcome) => outcome,
            Local::Forward(unsettled) => {
                let mut outcomes = [Outcome::of(busy(), Origin::Nothing)];
                let forwarded = vec![Forwarded { at: 0, recipient, unsettled }];
                self.forward_all(&state, forwarded, &timeout, &mut outcomes);
                let [outcome] = outcomes;
                outcome
            }
        }
    }

    /// Decides for many recipients, in their order, without regard to `unknown = "defer"`. The daemon is
    /// asked about all of them together, and the time limit counts once.
    pub(super) fn decide_all(&self, recipients: &[&[u8]], limit: Duration) -> Vec<Outcome> {
        let (state, timeout) = (self.process_state(), CallTimeout::new(limit));
        let mut outcomes = Vec::with_capacity(recipients.len());
        let mut forwarded = Vec::new();
        for (at, recipient) in recipients.iter().enumerate() {
            if has_misplaced_space(recipient) {
                outcomes.push(Outcome::no_address());
                continue;
            }
            outcomes.push(match self.look_up_locally(&state.lists, recipient, &timeout) {
                Local::Settled(outcome) => outcome,
                Local::Forward(unsettled) => {
                    forwarded.push(Forwarded { at, recipient, unsettled });
                    Outcome::of(busy(), Origin::Nothing)
                }
            });
        }
        self.forward_all(&state, forwarded, &timeout, &mut outcomes);
        outcomes
    }

    /// Looks up in the lists. Waits for locks; a panic becomes a deferral.
    fn look_up_locally<'a>(
        &'a self,
        lists: &Lists,
        recipient: &'a [u8],
        timeout: &CallTimeout,
    ) -> Local<'a> {
        panics::caught(|| lock::until(timeout.locks_until(), || self.inquire(lists, recipient)))
            .unwrap_or_else(|bug| {
                Local::Settled(Outcome::of(Route::deferred(bug), Origin::Nothing))
            })
    }

    /// Steps an inquiry as far as the lists lead.
    fn inquire<'a>(&'a self, lists: &Lists, recipient: &'a [u8]) -> Local<'a> {
        #[cfg(feature = "capi-panic")]
        assert_ne!(recipient, b"panic@example.org", "a panic for a test");
        let mut inquiry = Inquiry::new(recipient, &self.evidence);
        let mut changed = false;
        loop {
            let ask = match inquiry.step(&self.router, lists, None) {
                Step::Done(route) if route.decision == Decision::Deferred(Cause::List) => {
                    return Local::Forward(Unsettled::ListFailed(route));
                }
                Step::Done(route) => {
                    let outcome = by_lists(lists, route);
                    return match changed {
                        true => Local::Forward(Unsettled::Changed(outcome)),
                        false => Local::Settled(outcome),
                    };
                }
                Step::WouldBlock => return Local::Forward(Unsettled::ListFailed(busy())),
                Step::Ask(ask) => ask,
            };
            let confirmation = match ask.why {
                // Finds the answer for the case that the daemon gives none.
                Why::Changed => {
                    changed = true;
                    Confirmation::no_answer("the daemon has not been asked yet")
                }
                Why::Miss if self.lists_confirm => Confirmation::Lists(lists.are_complete()),
                Why::Miss => return Local::Forward(Unsettled::Miss(inquiry, ask)),
            };
            inquiry.learn(ask, confirmation, None);
        }
    }

    /// Asks the daemon about these recipients, and puts each outcome into its place.
    fn forward_all(
        &self,
        state: &ProcessState,
        forwarded: Vec<Forwarded<'_>>,
        timeout: &CallTimeout,
        outcomes: &mut [Outcome],
    ) {
        // Known recipients are never held up, so the daemon is asked about them first, and not for long.
        let (changed, others): (Vec<_>, Vec<_>) = forwarded
            .into_iter()
            .partition(|forwarded| matches!(forwarded.unsettled, Unsettled::Changed(_)));
        for (forwarded, limit) in [(changed, KNOWN_NAME_TIMEOUT), (others, Duration::MAX)] {
            self.forward(state, forwarded, limit, timeout, outcomes);
        }
    }

    fn forward(
        &self,
        state: &ProcessState,
        forwarded: Vec<Forwarded<'_>>,
        limit: Duration,
        timeout: &CallTimeout,
        outcomes: &mut [Outcome],
    ) {
        if forwarded.is_empty() {
            return;
        }
        let limit = limit.min(timeout.remaining());
        let recipients: Vec<&[u8]> = forwarded.iter().map(|of| of.recipient).collect();
        let answers = panics::caught(|| self.daemon.ask(&state.connections, &recipients, limit));
        let answers = answers.unwrap_or_else(|bug| vec![Err(bug); recipients.len()]);
        for (Forwarded { at, unsettled, .. }, answer) in forwarded.into_iter().zip(answers) {
            let answer = answer.and_then(|route| match route.decision {
                // Otherwise another system would refuse a recipient of our domains.
                Decision::Foreign => Err("the daemon answers for other domains".to_owned()),
                Decision::Deferred(Cause::List) if matches!(unsettled, Unsettled::Changed(_)) => {
                    Err("the daemon cannot tell".to_owned())
                }
                _ => Ok(route),
            });
            let outcome = match answer {
                Ok(route) => Outcome::of(route, Origin::Daemon),
                Err(why) => {
                    let fallback = || self.without_daemon(&state.lists, unsettled, &why);
                    panics::caught(|| lock::until(timeout.locks_until(), fallback))
                        .unwrap_or_else(|bug| Outcome::of(Route::deferred(bug), Origin::Nothing))
                }
            };
            if let Some(place) = outcomes.get_mut(at) {
                *place = outcome;
            }
        }
    }

    /// The outcome where the daemon gave no answer, for this reason.
    fn without_daemon(&self, lists: &Lists, unsettled: Unsettled<'_>, why: &str) -> Outcome {
        let route = match unsettled {
            Unsettled::Changed(outcome) => return outcome,
            Unsettled::ListFailed(route) => route,
            Unsettled::Miss(mut inquiry, ask) => {
                inquiry.learn(
                    ask,
                    Confirmation::Lists(Err(Doubt::new(DoubtKind::Unreachable, why))),
                    None,
                );
                match inquiry.step(&self.router, lists, None) {
                    Step::Done(route) => route,
                    Step::Ask(_) | Step::WouldBlock => busy(),
                }
            }
        };
        // Where a list cannot be read, the route says only that; the failure of the daemon is the other half.
        let route = match route.reason.contains(why) {
            true => route,
            false => Route { reason: format!("{}; {why}", route.reason).into(), ..route },
        };
        Outcome::of(route, Origin::Nothing)
    }
}

/// The outcome of a decision by the lists, with the source that has the mailbox.
fn by_lists(lists: &Lists, route: Route) -> Outcome {
    let (origin, age) = match &route.mailbox {
        Some(name) => origin(lists, name),
        None => return Outcome::without_list(route),
    };
    Outcome { route, origin, age }
}

fn origin(lists: &Lists, name: &MailboxName) -> (Origin, Option<Duration>) {
    let source = match lists.sources() {
        [source] => Some(source),
        sources => sources.iter().find(|source| source.has(name)),
    };
    match source {
        Some(Source::File(_)) => (Origin::MailboxesDb, Some(Duration::ZERO)),
        Some(Source::Replica(replica)) => (Origin::Replica, replica.trust.age()),
        None => (Origin::Nothing, None),
    }
}
