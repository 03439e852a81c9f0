//! Evidence about names beyond the lists, collected while one recipient is decided. No I/O, no clock.
//!
//! The lists answer first. If the router returns
//! [`Verdict::Confirm`](crate::routing::router::Verdict::Confirm), the driver has the name
//! confirmed and adds the [`Confirmation`] to the [`Evidence`]. The router then decides again
//! on the present lists, [overlaid](Evidence::over) with the evidence.

use std::fmt;
use std::ops::ControlFlow;

use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::mupdate::Finding;

/// Trust in a miss, and in a transient state (reserved, moving).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissTrust<'a> {
    /// The miss is believed: the list needs no confirmation, or has caught up since the request
    /// arrived.
    Believed,
    /// The list may lag behind the MUPDATE master: the miss has to be confirmed.
    Unconfirmed,
    /// Confirmation failed for this reason: the recipient is deferred.
    Doubted(&'a Doubt),
}

/// Trust in what a list says, name by name.
pub trait NameTrust {
    /// Trust in a miss of this name.
    fn of(&self, name: &MailboxName) -> MissTrust<'_>;

    /// Whether the list is the only authority, so that no name can exist that it does not have yet.
    fn is_lists_alone(&self) -> bool {
        false
    }

    /// Whether a record of this name that changed recently ([`MailboxList::lookup_dated`]) can be confirmed
    /// and has not been yet.
    fn can_ask_again(&self, _name: &MailboxName) -> bool {
        false
    }

    /// Whether the recipient may have been folded to lower case on its way here, so that mailboxes
    /// whose names differ in case only count as its own.
    fn in_any_case(&self) -> bool {
        false
    }
}

/// Equal trust in all names.
impl NameTrust for MissTrust<'_> {
    fn of(&self, _name: &MailboxName) -> MissTrust<'_> {
        *self
    }
}

/// Result of a confirmation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// The master's answer for the name.
    Master(Finding),
    /// Whether the lists are complete: the local slave says at the kick socket that they have
    /// everything that the master had when the slave was asked, or they are of a single server.
    /// `Err`: the reason for the doubt.
    Lists(Result<(), Doubt>),
}

impl Confirmation {
    /// The master gave no answer about the name, for this reason.
    pub fn no_answer(why: impl fmt::Display) -> Self {
        Confirmation::Master(Finding::Unsure(Doubt::new(DoubtKind::Unreachable, why)))
    }

    /// Text for `lookup --explain`.
    pub fn describe(&self, name: &MailboxName) -> String {
        match self {
            Confirmation::Master(Finding::Found(record)) => {
                format!("the MUPDATE master has {name}, {}", record.state.as_str())
            }
            Confirmation::Master(Finding::Absent) => format!("the MUPDATE master has no {name}"),
            Confirmation::Master(Finding::Unsure(why)) => why.to_string(),
            Confirmation::Lists(Ok(())) => "the list is complete".into(),
            Confirmation::Lists(Err(why)) => why.to_string(),
        }
    }
}

/// Default trust for names that have not been confirmed individually.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rest {
    /// The lists need no confirmation, or have caught up.
    Believed,
    Unconfirmed,
    Doubted(Doubt),
}

/// Hits that are confirmed by the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    None,
    ChangedLately,
    All,
}

/// All evidence for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    master: Vec<(MailboxName, Finding)>,
    /// Names whose hit the master did not confirm in time.
    unanswered: Vec<MailboxName>,
    rest: Rest,
    generation: Option<KeyGeneration>,
    masters_word: bool,
    again: Again,
    any_case: bool,
    list_alone: bool,
}

impl Evidence {
    /// No evidence, and no authority beyond the lists: misses are believed.
    pub const NOBODY_TO_ASK: Self = Self::nothing(Rest::Believed, false);

    /// No evidence; the local slave can tell whether the lists have caught up.
    pub const ASK_THE_SLAVE: Self = Self::nothing(Rest::Unconfirmed, false);

    /// No evidence, and no authority beyond the lists; whether they are complete can be checked.
    pub const LISTS_ALONE: Self = {
        let mut findings = Self::nothing(Rest::Unconfirmed, false);
        findings.list_alone = true;
        findings
    };

    /// No evidence; the master can be asked for each name.
    pub const ASK_THE_MASTER: Self = Self::nothing(Rest::Unconfirmed, true);

    const fn nothing(rest: Rest, masters_word: bool) -> Self {
        Self {
            master: Vec::new(),
            unanswered: Vec::new(),
            rest,
            generation: None,
            masters_word,
            again: Again::None,
            any_case: false,
            list_alone: false,
        }
    }

    /// Adds the confirmation of a miss.
    pub fn learn(&mut self, name: MailboxName, said: Confirmation) {
        match said {
            Confirmation::Master(finding) => {
                self.master.retain(|(known, _)| *known != name);
                self.master.push((name, finding));
            }
            Confirmation::Lists(Ok(())) => self.rest = Rest::Believed,
            Confirmation::Lists(Err(why)) => self.rest = Rest::Doubted(why),
        }
    }

    /// Adds the confirmation of a hit
    /// ([`Verdict::AskAgain`](crate::routing::router::Verdict::AskAgain)). Without an answer the
    /// list's record is used. A refusal still needs a confirmation: by the slave, if the master
    /// cannot be asked at all.
    pub fn learn_again(&mut self, name: MailboxName, said: Confirmation) {
        match said {
            Confirmation::Master(Finding::Unsure(_)) => self.unanswered.push(name),
            said => self.learn(name, said),
        }
    }

    /// Adds the kind of names that the master keeps, which tells the release of the murder.
    pub fn learn_generation(&mut self, generation: Option<KeyGeneration>) {
        self.generation = generation.or(self.generation);
    }

    /// Also confirms hits whose record changed recently. The caller limits the time for that.
    pub fn ask_again(mut self) -> Self {
        self.again = Again::ChangedLately;
        self
    }

    /// Also confirms all other hits: the lists are some seconds behind the master, and the caller
    /// delivers the message now.
    pub fn ask_for_all(mut self) -> Self {
        self.again = Again::All;
        self
    }

    /// Marks that the recipient may have been folded to lower case ([`NameTrust::in_any_case`]).
    /// The caller makes sure that the lists have caught up where similar names are searched.
    pub fn folded(mut self) -> Self {
        self.any_case = true;
        self
    }

    /// Whether a name that has not been confirmed yet would be confirmed by the master.
    fn may_ask_the_master(&self) -> bool {
        self.masters_word && self.rest == Rest::Unconfirmed
    }

    /// Returns the master's answer for a name.
    pub fn of_master(&self, name: &MailboxName) -> Option<&Finding> {
        self.master.iter().find(|(known, _)| known == name).map(|(_, finding)| finding)
    }

    /// Returns the present list, corrected by the master's answers.
    pub fn over<'a>(&'a self, list: &'a dyn MailboxList) -> Overlaid<'a> {
        Overlaid { findings: self, list }
    }
}

/// * The master's answer for a name is believed; where the master could not be asked, a miss is doubted.
/// * For other names the local slave's answer counts.
impl NameTrust for Evidence {
    fn of(&self, name: &MailboxName) -> MissTrust<'_> {
        match (self.of_master(name), &self.rest) {
            (Some(Finding::Found(_) | Finding::Absent), _) | (None, Rest::Believed) => {
                MissTrust::Believed
            }
            (Some(Finding::Unsure(why)), _) => MissTrust::Doubted(why),
            (None, Rest::Unconfirmed) => MissTrust::Unconfirmed,
            (None, Rest::Doubted(why)) => MissTrust::Doubted(why),
        }
    }

    fn is_lists_alone(&self) -> bool {
        self.list_alone
    }

    fn can_ask_again(&self, name: &MailboxName) -> bool {
        self.again != Again::None
            && self.may_ask_the_master()
            && self.of_master(name).is_none()
            && !self.unanswered.contains(name)
    }

    fn in_any_case(&self) -> bool {
        self.any_case
    }
}

/// A list corrected by the master's answers.
///
/// | the master says | a name of the list |
/// |---|---|
/// | this record | has it, whatever the list says: the list may lag, or have lost it (a slave's resync loses live accounts, Cyrus `imap/mupdate.c:mupdate_synchronize`) |
/// | absent | is absent; but [`Lookup::Unsure`], if the list, or one of several, is unsure of it: one that cannot be read, or that has lost too much, cannot tell whether the master still has its own list |
/// | nothing, it could not be asked | is what the list says |
/// | nothing, it has not been asked | is what the list says; but absent, so that the master is asked, if the list is unsure of it and the master can be asked |
#[derive(Clone, Copy)]
pub struct Overlaid<'a> {
    findings: &'a Evidence,
    list: &'a dyn MailboxList,
}

impl MailboxList for Overlaid<'_> {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lookup_dated(name).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let finding = self.findings.of_master(name);
        if let Some(Finding::Found(record)) = finding {
            return (Lookup::Present(record.clone()), false);
        }
        let (found, recent) = self.list.lookup_dated(name);
        let found = match (found, finding) {
            (Lookup::Present(_), Some(Finding::Absent)) => self.list.lookup_without_record(name),
            (Lookup::Unsure(_), None) if self.findings.may_ask_the_master() => Lookup::Absent,
            (found, _) => found,
        };
        (found, recent || self.findings.again == Again::All)
    }

    fn denies(&self, inbox: &MailboxName) -> bool {
        self.list.denies(inbox)
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.list.key_generation().or(self.findings.generation)
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        for (name, finding) in &self.findings.master {
            if let Finding::Found(record) = finding
                && name.as_bytes().starts_with(prefix)
                && visit(name, record).is_break()
            {
                return Ok(());
            }
        }
        self.list.each(prefix, &mut |name, record| match self.findings.of_master(name) {
            Some(Finding::Found(_) | Finding::Absent) => ControlFlow::Continue(()),
            Some(Finding::Unsure(_)) | None => visit(name, record),
        })
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), Doubt> {
        for (name, finding) in &self.findings.master {
            if let Finding::Found(record) = finding
                && name.as_bytes().starts_with(prefix)
                && visit(name, record) == WalkStep::Stop
            {
                return Ok(());
            }
        }
        self.list.each_past(prefix, &mut |name, record| match self.findings.of_master(name) {
            Some(Finding::Found(_) | Finding::Absent) => WalkStep::On,
            Some(Finding::Unsure(_)) | None => visit(name, record),
        })
    }
}

#[cfg(test)]
mod tests;
