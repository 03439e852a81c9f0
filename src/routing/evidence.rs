//! What was found out, while one recipient was being decided, to confirm what the lists say of him.
//!
//! The lists answer; where the router says [`Verdict::Confirm`](crate::routing::router::Verdict::Confirm),
//! somebody outside is asked, the [`Evidence`] learn what came of it, and the router decides anew on
//! the lists as they are then, [overlaid](Evidence::over) with the findings. No I/O, no clock.

use std::fmt;
use std::ops::ControlFlow;

use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::mupdate::Finding;

/// How far a miss may be believed, and likewise what will pass by itself (reserved, moving).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissTrust<'a> {
    /// The list speaks for itself, or has been brought up to date since the question came.
    Believed,
    /// The list may lag behind the MUPDATE master: a miss asks for confirmation.
    Unconfirmed,
    /// Confirmation was sought and not had, for this reason: a miss is deferred.
    Doubted(&'a Doubt),
}

/// How far what a list says of a name may be believed, name by name.
pub trait NameTrust {
    /// What a miss of this name is worth.
    fn of(&self, name: &MailboxName) -> MissTrust<'_>;

    /// Whether nobody knows more than the list, so that no name can be there that it has not heard of
    /// yet.
    fn is_lists_alone(&self) -> bool {
        false
    }

    /// Whether somebody can be asked for this name, and has not been yet, so that a record that
    /// changed a moment ago need not be believed ([`MailboxList::lookup_dated`]).
    fn can_ask_again(&self, _name: &MailboxName) -> bool {
        false
    }

    /// Whether the recipient may have been folded to lower case on its way here, so that mailboxes
    /// whose names differ in case only count as its own.
    fn in_any_case(&self) -> bool {
        false
    }
}

/// The same for every name.
impl NameTrust for MissTrust<'_> {
    fn of(&self, _name: &MailboxName) -> MissTrust<'_> {
        *self
    }
}

/// What came of asking for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// The master was asked for this very name.
    Master(Finding),
    /// Whether the lists are complete: the local slave was asked whether they hold everything the
    /// master knew when it was asked (the kick socket), or they are of a single server. `Err` says
    /// why that is not certain.
    Lists(Result<(), Doubt>),
}

impl Confirmation {
    /// The master gave no answer about the name, for this reason.
    pub fn no_answer(why: impl fmt::Display) -> Self {
        Confirmation::Master(Finding::Unsure(Doubt::new(DoubtKind::Unreachable, why)))
    }

    /// The same for `lookup --explain`.
    pub fn in_words(&self, name: &MailboxName) -> String {
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

/// What is to be thought of names nobody was asked for yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rest {
    /// The lists speak for themselves, or have caught up.
    Believed,
    Unconfirmed,
    Doubted(Doubt),
}

/// For which names that the lists have the master is asked all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    None,
    ChangedLately,
    All,
}

/// Everything found out for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    master: Vec<(MailboxName, Finding)>,
    /// Names for which the master was asked again and gave no answer in time.
    unanswered: Vec<MailboxName>,
    rest: Rest,
    generation: Option<KeyGeneration>,
    masters_word: bool,
    again: Again,
    any_case: bool,
    list_alone: bool,
}

impl Evidence {
    /// Nothing yet, and there is nobody to ask: what the lists do not have is not there.
    pub const NOBODY_TO_ASK: Self = Self::nothing(Rest::Believed, false);

    /// Nothing yet, and the local slave can be asked whether the lists have caught up.
    pub const ASK_THE_SLAVE: Self = Self::nothing(Rest::Unconfirmed, false);

    /// Nothing yet, and nobody knows more than the lists; it can be found out whether they are complete.
    pub const LISTS_ALONE: Self = {
        let mut findings = Self::nothing(Rest::Unconfirmed, false);
        findings.list_alone = true;
        findings
    };

    /// Nothing yet, and the master can be asked for each name.
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

    /// Takes note of what came of asking for a name.
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

    /// Takes note of what came of asking again for a name that the lists have
    /// ([`Verdict::AskAgain`](crate::routing::router::Verdict::AskAgain)). Without an answer what the lists say
    /// stands, and a refusal has yet to be confirmed: where the master cannot be asked at all, by the
    /// slave.
    pub fn learn_again(&mut self, name: MailboxName, said: Confirmation) {
        match said {
            Confirmation::Master(Finding::Unsure(_)) => self.unanswered.push(name),
            said => self.learn(name, said),
        }
    }

    /// Takes note of the kind of names the master keeps, which tells the release of the murder.
    pub fn learn_generation(&mut self, generation: Option<KeyGeneration>) {
        self.generation = generation.or(self.generation);
    }

    /// The master can also be asked for what the lists have, if it changed a moment ago: the caller
    /// sees to it that this does not hold the answer up.
    pub fn ask_again(mut self) -> Self {
        self.again = Again::ChangedLately;
        self
    }

    /// As [`ask_again`](Self::ask_again), and for whatever the lists have: they are some seconds behind
    /// the master, and the caller is to deliver now.
    pub fn ask_for_all(mut self) -> Self {
        self.again = Again::All;
        self
    }

    /// The recipient may have been folded to lower case ([`NameTrust::in_any_case`]). The caller sees to
    /// it that the lists have caught up where names are sought by likeness.
    pub fn folded(mut self) -> Self {
        self.any_case = true;
        self
    }

    /// Whether a name nobody was asked for yet would be confirmed by the master.
    fn may_ask_the_master(&self) -> bool {
        self.masters_word && self.rest == Rest::Unconfirmed
    }

    /// What the master said of a name.
    pub fn of_master(&self, name: &MailboxName) -> Option<&Finding> {
        self.master.iter().find(|(known, _)| known == name).map(|(_, finding)| finding)
    }

    /// The list as it is now, corrected by what the master said.
    pub fn over<'a>(&'a self, list: &'a dyn MailboxList) -> Overlaid<'a> {
        Overlaid { findings: self, list }
    }
}

/// * What the master said of a name is believed; where he could not be asked, a miss is doubted.
/// * Of other names, what the local slave said counts.
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

/// A list with the master's word over it.
///
/// | the master says | a name of the list |
/// |---|---|
/// | this record | has it, whatever the list says: the list may lag, or have lost it (a slave's resync loses live accounts, Cyrus `imap/mupdate.c:mupdate_synchronize`) |
/// | absent | is absent; but [`Lookup::Unsure`], if the list, or one of several, is unsure of it: one that cannot be read, or that has lost too much, cannot tell whether the master still has its own list |
/// | nothing, he could not be asked | is what the list says |
/// | nothing, he has not been asked | is what the list says; but absent, so that he is asked, if the list is unsure of it and he can be |
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
        let (found, lately) = self.list.lookup_dated(name);
        let found = match (found, finding) {
            (Lookup::Present(_), Some(Finding::Absent)) => self.list.lookup_without_record(name),
            (Lookup::Unsure(_), None) if self.findings.may_ask_the_master() => Lookup::Absent,
            (found, _) => found,
        };
        (found, lately || self.findings.again == Again::All)
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
