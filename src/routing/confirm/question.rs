//! The confirmation of one name, as a state machine.
//!
//! | asked about | action |
//! |---|---|
//! | a record that changed recently | FIND for at most [`Ask::within`]; without an answer the list's record stands |
//! | a miss | FIND, within the budget for unknown names; again after [`RENAME_GAP`] if the name was deleted recently |
//! | a miss that rests on a search | then also a barrier of the replica, and a kick of the slave |
//! | a miss that the master cannot be asked about | a kick of the slave |

use std::fmt;
use std::time::Duration;

use super::find_budget::FindBudget;
use super::{BREAKER_TIME, ConfirmVia, RENAME_GAP};
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::name::MailboxName;
use crate::mupdate::Finding;
use crate::routing::evidence::Confirmation;
use crate::routing::inquiry::Ask;

/// The configuration does not allow to ask the master, and waiting does not help: no
/// credentials, no mechanism that both sides have and the policy allows, or TLS that is
/// required and not offered. The text says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(pub String);

/// State of the connection to the master, as far as confirmations need it.
pub trait MasterView {
    /// Records that a list has this name: a cached absence (`negative-cache`) ends.
    fn is_listed(&self, _name: &MailboxName) {}

    /// Whether a FIND for this name would be answered from the negative cache.
    fn needs_no_question(&self, _name: &MailboxName) -> bool {
        false
    }

    /// Whether a name that the master does not have was deleted recently, by the stream. The second
    /// half of a rename may follow, so the master must be asked twice.
    fn deleted_lately(&self, _name: &MailboxName) -> bool {
        false
    }

    /// Reason why the master cannot be asked now; `None` if it can.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Whether the first connection is being made, so that a question waits for it.
    fn is_connecting(&self) -> bool {
        false
    }

    /// Whether the configuration does not allow to ask the master: [`Impossible`].
    fn is_impossible(&self) -> bool {
        false
    }
}

/// State shared by all confirmations.
#[derive(Debug)]
pub struct Policy {
    asks_master: bool,
    has_slave: bool,
    /// Limit of FINDs for unknown names; `None`: no limit.
    budget: Option<FindBudget>,
    /// The circuit breaker: no known name is confirmed before this time.
    open_until: Option<Duration>,
}

/// The confirmation of a name in progress.
#[derive(Debug)]
pub struct Question {
    ask: Ask,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// A FIND for a known name is in flight.
    Known { connecting: bool },
    /// Waits for a turn in the budget.
    Turn,
    /// The first FIND of a miss is in flight.
    First,
    /// Waits between the two FINDs.
    Gap,
    /// The second FIND is in flight.
    Second,
    /// The budget is spent: the lists catch up instead.
    OverBudget,
    /// The name is absent; the lists must catch up, by a barrier of the replica.
    Replica,
    /// The name is absent; the lists must catch up, by a kick of the slave.
    Slave,
    /// The slave is asked, since the master cannot be asked.
    SlaveInstead,
}

/// Next action of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Report [`Event::Reached`] at this time.
    WaitUntil(Duration),
    /// Send a FIND and report [`Event::Found`]; without an answer by this time report
    /// [`Event::Reached`].
    Find {
        /// The time limit.
        by: Option<Duration>,
    },
    /// Wait for a barrier of the replica that is sent from now on and report [`Event::CaughtUp`].
    CatchUp,
    /// Wait for a kick of the slave (or a check of the lists) that begins from now on and report
    /// [`Event::Kicked`].
    Kick,
    /// No further action: the result.
    Done(Confirmation),
}

/// Input of the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The time of the last action has come.
    Reached,
    /// The master answered, or cannot be asked.
    Found(Result<Finding, Impossible>),
    /// The replica has caught up, or the reason why not.
    CaughtUp(Result<(), Doubt>),
    /// The slave says that the lists have caught up, or the reason why not.
    Kicked(Result<(), Doubt>),
}

/// Doubt of a miss without a connection.
const NO_CONNECTION: &str = "there is no connection to the MUPDATE master";

fn unsure(doubt: Doubt) -> Action {
    Action::Done(Confirmation::Master(Finding::Unsure(doubt)))
}

fn unreachable(why: impl fmt::Display) -> Action {
    unsure(Doubt::new(DoubtKind::Unreachable, why))
}

fn refused(why: impl fmt::Display) -> Action {
    unsure(Doubt::new(DoubtKind::Refused, why))
}

/// Doubt of a miss without any authority that could confirm it.
pub(crate) fn nobody_to_ask() -> Doubt {
    Doubt::new(DoubtKind::Unreachable, "no server can confirm the miss")
}

fn timed_out(why: impl fmt::Display) -> Action {
    unsure(Doubt::new(DoubtKind::TimedOut, why))
}

impl Policy {
    /// Creates a policy with this authority. `has_budget`: FINDs for unknown names are limited,
    /// since remote clients choose their number.
    pub fn new(via: &ConfirmVia, has_budget: bool) -> Self {
        let (asks_master, has_slave) = match via {
            ConfirmVia::List => (false, false),
            ConfirmVia::Complete | ConfirmVia::Slave(_) => (false, true),
            ConfirmVia::Master { slave } => (true, slave.is_some()),
        };
        let budget = has_budget.then(FindBudget::default);
        Self { asks_master, has_slave, budget, open_until: None }
    }

    /// Starts the confirmation of a name. `master`: `None` if there is no client for the master.
    pub fn begin(
        &mut self,
        ask: Ask,
        master: Option<&dyn MasterView>,
        now: Duration,
    ) -> (Question, Action) {
        let mut question = Question { ask, state: State::First };
        let action = match question.ask.within {
            Some(within) => self.begin_known(&mut question, within, master, now),
            None => self.begin_miss(&mut question, master, now),
        };
        (question, action)
    }

    /// Confirms a record that changed recently. Never delays an existing recipient for long.
    fn begin_known(
        &mut self,
        question: &mut Question,
        within: Duration,
        master: Option<&dyn MasterView>,
        now: Duration,
    ) -> Action {
        let Some(master) = master.filter(|_| self.asks_master) else {
            return unreachable(NO_CONNECTION);
        };
        // A daemon that has just started waits for its first connection: its list may be some
        // seconds behind the master, as before the restart.
        let connecting = master.is_connecting();
        if let Some(trouble) = master.trouble().filter(|_| !connecting) {
            return unreachable(trouble);
        }
        if self.open_until.is_some_and(|until| now < until) {
            return timed_out("the MUPDATE master did not answer recently");
        }
        master.is_listed(&question.ask.name);
        question.state = State::Known { connecting };
        Action::Find { by: Some(now + within) }
    }

    /// Confirms a miss. Beyond the budget the lists catch up instead, once for all waiters: that
    /// finds a new account, and no recipient becomes unknown without an answer of the master.
    fn begin_miss(
        &mut self,
        question: &mut Question,
        master: Option<&dyn MasterView>,
        now: Duration,
    ) -> Action {
        if !self.asks_master {
            return self.ask_slave(question);
        }
        let Some(master) = master else { return unreachable(NO_CONNECTION) };
        let Some(budget) = &mut self.budget else { return Action::Find { by: None } };
        // Then the slave is asked, once for all waiters, or no authority.
        if master.is_impossible() || master.needs_no_question(&question.ask.name) {
            return Action::Find { by: None };
        }
        match budget.turn(now) {
            Some(turn) if turn <= now => Action::Find { by: None },
            Some(turn) => {
                question.state = State::Turn;
                Action::WaitUntil(turn)
            }
            None => {
                question.state = State::OverBudget;
                if self.has_slave { Action::Kick } else { Action::CatchUp }
            }
        }
    }

    /// Continues after an event.
    pub fn event(
        &mut self,
        question: &mut Question,
        event: Event,
        master: Option<&dyn MasterView>,
        now: Duration,
    ) -> Action {
        match (&question.state, event) {
            (State::Known { .. }, Event::Found(Ok(Finding::Absent))) => {
                // The lists have it, so it is a known recipient: no budget.
                question.state = State::First;
                Action::Find { by: None }
            }
            (State::Known { .. }, Event::Found(Ok(finding))) => {
                Action::Done(Confirmation::Master(finding))
            }
            (State::Known { .. }, Event::Found(Err(Impossible(why)))) => refused(why),
            (State::Known { connecting }, Event::Reached) => {
                if !connecting {
                    // Lookups of a mail server queue behind each other.
                    self.open_until = Some(now + BREAKER_TIME);
                }
                let within = question.ask.within.unwrap_or_default().as_secs_f32();
                timed_out(format_args!("the MUPDATE master did not answer within {within} s"))
            }
            (State::Turn, Event::Reached) => {
                question.state = State::First;
                Action::Find { by: None }
            }
            (State::First, Event::Found(Ok(Finding::Absent)))
                if master.is_some_and(|master| master.deleted_lately(&question.ask.name)) =>
            {
                question.state = State::Gap;
                Action::WaitUntil(now + RENAME_GAP)
            }
            (State::Gap, Event::Reached) => {
                question.state = State::Second;
                Action::Find { by: None }
            }
            (State::First | State::Second, Event::Found(Ok(Finding::Absent)))
                if question.ask.searches =>
            {
                // The master can confirm the name, but not a search for similar names.
                question.state = State::Replica;
                Action::CatchUp
            }
            (State::First | State::Second, Event::Found(Ok(finding))) => {
                Action::Done(Confirmation::Master(finding))
            }
            (State::First | State::Second, Event::Found(Err(Impossible(why)))) => {
                if self.has_slave { self.ask_slave(question) } else { refused(why) }
            }
            // Whether the lists have the name now is seen in the next step.
            (State::OverBudget, Event::CaughtUp(_) | Event::Kicked(_)) => {
                let text = "more unknown names a second than the MUPDATE master is asked for";
                unsure(Doubt::new(DoubtKind::GivenUp, text))
            }
            (State::Replica, Event::CaughtUp(Err(doubt))) => unsure(doubt),
            (State::Replica, Event::CaughtUp(Ok(()))) if self.has_slave => {
                question.state = State::Slave;
                Action::Kick
            }
            (State::Slave, Event::Kicked(Err(doubt))) => unsure(doubt),
            (State::Replica, Event::CaughtUp(Ok(()))) | (State::Slave, Event::Kicked(Ok(()))) => {
                Action::Done(Confirmation::Master(Finding::Absent))
            }
            (State::SlaveInstead, Event::Kicked(kicked)) => {
                Action::Done(Confirmation::Lists(kicked))
            }
            (_, Event::Reached) => timed_out("the MUPDATE master did not answer in time"),
            (state, event) => {
                let text = format_args!("murder-route failed inside: {event:?} in {state:?}");
                unsure(Doubt::new(DoubtKind::GivenUp, text))
            }
        }
    }

    fn ask_slave(&self, question: &mut Question) -> Action {
        if !self.has_slave {
            return Action::Done(Confirmation::Lists(Err(nobody_to_ask())));
        }
        question.state = State::SlaveInstead;
        Action::Kick
    }
}

impl Question {
    /// The name.
    #[cfg(any(test, feature = "testing"))]
    pub fn name(&self) -> &MailboxName {
        &self.ask.name
    }

    /// The question.
    #[cfg(any(test, feature = "testing"))]
    pub fn into_ask(self) -> Ask {
        self.ask
    }
}
