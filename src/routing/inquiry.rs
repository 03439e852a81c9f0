//! The decision about one recipient, step by step: the one loop that the command, the daemon, the
//! library and the simulation drive. No I/O, no clock.
//!
//! ```text
//!          ┌────────────────────── learn ◀──────────────────┐
//!          ▼                                                │
//! new ──▶ step ──▶ Done(route)                              │
//!          ├─────▶ Ask { name, … } ──▶ the driver confirms the name
//!          └─────▶ WouldBlock ──▶ the driver calls step again where waiting is allowed
//! ```
//!
//! A driver does as it is told and decides nothing. It answers each [`Ask`] with [`Inquiry::learn`], also
//! if it found out nothing; the number of rounds is limited here.

use std::borrow::Cow;
use std::time::Duration;

use crate::model::list::{Lookup, MailboxList};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::routing::confirm::KNOWN_NAME_TIMEOUT;
use crate::routing::evidence::{Confirmation, Evidence, NameTrust as _};
use crate::routing::route::Route;
use crate::routing::router::{Explain, Router, Verdict};

/// Maximum number of names confirmed for one recipient; beyond it the recipient is deferred. Today's rules
/// and those of 3.0 give at most four names between them, those of 2.x four more, and the nearest name of
/// each of these may be another; the catch-all is one.
pub const MAX_ROUNDS: usize = 18;

/// The state of the decision about one recipient.
#[derive(Debug, Clone)]
pub struct Inquiry<'a> {
    recipient: Cow<'a, [u8]>,
    evidence: Cow<'a, Evidence>,
    rounds: usize,
    patient: bool,
}

/// What a driver has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more: this is the decision.
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
    /// Why it has to be confirmed.
    pub why: Why,
    /// Longest wait for the answer. Without an answer in time the list's record is used. `None`: as long
    /// as a confirmation takes.
    pub within: Option<Duration>,
    /// The decision also rests on a search for similar names, so the lists must have caught up with the
    /// master.
    pub searches: bool,
    /// The list has the name reserved or moving.
    pub unsettled: bool,
}

/// Why a name has to be confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The list does not have the mailbox, or has it in a state that will pass, or refuses it.
    Miss,
    /// The list has the mailbox in a record that changed recently: it may have moved on.
    Changed,
}

impl<'a> Inquiry<'a> {
    /// Starts the decision about a recipient, as the mail server wrote it, from what is known before
    /// anything was confirmed.
    pub fn new(recipient: &'a [u8], evidence: &'a Evidence) -> Self {
        let (recipient, evidence) = (Cow::Borrowed(recipient), Cow::Borrowed(evidence));
        Self { recipient, evidence, rounds: 0, patient: false }
    }

    /// Waits for each confirmation as long as it takes ([`Ask::within`] is `None`), for a command that
    /// holds up no mail server.
    pub fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    /// The same inquiry for another thread.
    pub fn into_owned(self) -> Inquiry<'static> {
        let Self { recipient, evidence, rounds, patient } = self;
        let recipient = Cow::Owned(recipient.into_owned());
        Inquiry { recipient, evidence: Cow::Owned(evidence.into_owned()), rounds, patient }
    }

    /// The recipient.
    pub fn recipient(&self) -> &[u8] {
        &self.recipient
    }

    /// Decides on the lists as they are now, and what was learnt. May be called again at any time.
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
        let within = (why == Why::Changed && !self.patient).then_some(KNOWN_NAME_TIMEOUT);
        Step::Ask(Ask { name, why, within, searches, unsettled })
    }

    /// As [`step`](Self::step), on lists that may wait. If they cannot answer all the same, the recipient
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

    /// Takes note of the answer to an [`Ask`].
    pub fn learn(&mut self, ask: Ask, said: Confirmation, explain: Explain<'_>) {
        if let Some(steps) = explain {
            steps.push(format!("freshness: {}", said.in_words(&ask.name)));
            steps.push("another look, now that this is known:".into());
        }
        self.rounds += 1;
        let evidence = self.evidence.to_mut();
        match ask.within {
            Some(_) => evidence.learn_again(ask.name, said),
            None => evidence.learn(ask.name, said),
        }
    }

    /// Takes note of the kind of names that the master keeps, which tells the release of the murder.
    pub fn learn_generation(&mut self, generation: Option<KeyGeneration>) {
        if generation.is_some() {
            self.evidence.to_mut().learn_generation(generation);
        }
    }
}

/// The decision where a list that may be waited for is busy all the same.
pub fn busy() -> Route {
    Route::deferred("the mailbox list is busy")
}

/// The decision after [`MAX_ROUNDS`].
fn never_settled() -> Route {
    Route::deferred("too many names would have to be confirmed")
}
