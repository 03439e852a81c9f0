//! The decision about one recipient, step by step: the single loop that the command, the
//! daemon, the library and the simulation drive. No I/O, no clock.
//!
//! ```text
//!          ┌────────────────────── learn ◀──────────────────┐
//!          ▼                                                │
//! new ──▶ step ──▶ Done(route)                              │
//!          ├─────▶ Ask { name, … } ──▶ the driver confirms the name
//!          └─────▶ WouldBlock ──▶ the driver calls step again where waiting is allowed
//! ```
//!
//! A driver executes each step and decides nothing. It answers each [`Ask`] with
//! [`Inquiry::learn`], also without a result. The number of rounds is limited here.

use std::borrow::Cow;
use std::time::Duration;

use crate::model::list::{Lookup, MailboxList};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::routing::confirm::KNOWN_NAME_TIMEOUT;
use crate::routing::evidence::{Confirmation, Evidence, NameTrust as _};
use crate::routing::route::Route;
use crate::routing::router::{Explain, Router, Verdict};

/// Maximum number of names confirmed for one recipient; beyond it the recipient is deferred.
/// Today's rules and those of 3.0 give at most four names together, those of 2.x four more.
/// Each of these may have another name by the fuzzy match; the catch-all is one.
pub const MAX_ROUNDS: usize = 18;

/// The state of the decision about one recipient.
#[derive(Debug, Clone)]
pub struct Inquiry<'a> {
    recipient: Cow<'a, [u8]>,
    evidence: Cow<'a, Evidence>,
    rounds: usize,
    has_no_limit: bool,
}

/// Next action of a driver.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// No further action: the decision.
    Done(Route),
    /// Have a name confirmed, then call [`Inquiry::learn`] and [`Inquiry::step`].
    Ask(Ask),
    /// Call [`Inquiry::step`] with lists that may wait for a lock or be walked (see [`Lookup::Busy`]).
    WouldBlock,
}

/// A name to confirm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The name.
    pub name: MailboxName,
    /// Reason for the confirmation.
    pub why: Why,
    /// Maximum wait for the answer. Without a timely answer the list's record is used. `None`: as
    /// long as a confirmation takes.
    pub within: Option<Duration>,
    /// Whether the decision also rests on a search for similar names, so the lists must have caught
    /// up with the master.
    pub searches: bool,
    /// Whether the list has the name as reserved or moving.
    pub unsettled: bool,
}

/// Reason for a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The list does not have the mailbox, has it in a transient state, or refuses it.
    Miss,
    /// The list has the mailbox in a record that changed recently: it may have moved on.
    Changed,
}

impl<'a> Inquiry<'a> {
    /// Starts the decision about a recipient, as the mail server wrote it, from the evidence before
    /// any confirmation.
    pub fn new(recipient: &'a [u8], evidence: &'a Evidence) -> Self {
        let (recipient, evidence) = (Cow::Borrowed(recipient), Cow::Borrowed(evidence));
        Self { recipient, evidence, rounds: 0, has_no_limit: false }
    }

    /// Waits for each confirmation as long as it takes ([`Ask::within`] is `None`), for a command that
    /// holds up no mail server.
    pub fn without_time_limit(mut self) -> Self {
        self.has_no_limit = true;
        self
    }

    /// Returns the inquiry for use on another thread.
    pub fn into_owned(self) -> Inquiry<'static> {
        let Self { recipient, evidence, rounds, has_no_limit } = self;
        let recipient = Cow::Owned(recipient.into_owned());
        Inquiry { recipient, evidence: Cow::Owned(evidence.into_owned()), rounds, has_no_limit }
    }

    /// The recipient.
    pub fn recipient(&self) -> &[u8] {
        &self.recipient
    }

    /// Decides on the present lists and the evidence. May be called again at any time.
    pub fn step(&self, router: &Router, list: &dyn MailboxList, explain: Explain<'_>) -> Step {
        if self.rounds > MAX_ROUNDS {
            return Step::Done(never_settled());
        }
        let evidence = &*self.evidence;
        let overlaid = evidence.over(list);
        let (name, why) = match router.route(&self.recipient, &overlaid, evidence, explain) {
            Verdict::Final(route) => return Step::Done(route),
            Verdict::Wait => return Step::WouldBlock,
            Verdict::Confirm(name) => (name, Why::Miss),
            Verdict::AskAgain(name) => (name, Why::Changed),
        };
        let unsettled = match list.lookup(&name) {
            Lookup::Present(record) => record.state.is_transient(),
            Lookup::Absent | Lookup::Unsure(_) | Lookup::Busy => false,
        };
        let folded = || {
            evidence.in_any_case()
                && router.case_matters(&self.recipient, overlaid.key_generation())
        };
        let searches = router.rules.fuzzy || folded();
        let within = (why == Why::Changed && !self.has_no_limit).then_some(KNOWN_NAME_TIMEOUT);
        Step::Ask(Ask { name, why, within, searches, unsettled })
    }

    /// As [`step`](Self::step), with waiting for the lists. If they are still busy, the recipient
    /// is deferred.
    pub fn step_waiting(
        &self,
        router: &Router,
        list: &dyn MailboxList,
        explain: Explain<'_>,
    ) -> Step {
        match self.step(router, list, explain) {
            Step::WouldBlock => Step::Done(busy()),
            step => step,
        }
    }

    /// Adds the answer to an [`Ask`] to the evidence.
    pub fn learn(&mut self, ask: Ask, said: Confirmation, explain: Explain<'_>) {
        if let Some(steps) = explain {
            steps.push(format!("freshness: {}", said.describe(&ask.name)));
            steps.push("another look, now that this is known:".into());
        }
        self.rounds += 1;
        let evidence = self.evidence.to_mut();
        match ask.within {
            Some(_) => evidence.learn_again(ask.name, said),
            None => evidence.learn(ask.name, said),
        }
    }

    /// Adds the kind of names that the master keeps, which tells the release of the murder.
    pub fn learn_generation(&mut self, generation: Option<KeyGeneration>) {
        if generation.is_some() {
            self.evidence.to_mut().learn_generation(generation);
        }
    }
}

/// The decision where a list is busy even with waiting.
pub fn busy() -> Route {
    Route::deferred("the mailbox list is busy")
}

/// The decision after [`MAX_ROUNDS`].
fn never_settled() -> Route {
    Route::deferred("too many names would have to be confirmed")
}
