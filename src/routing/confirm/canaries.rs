//! Names that the server had a moment ago. A master that was begun anew without its list says of
//! everybody that there is no such mailbox; these tell. Pure.

use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::name::MailboxName;
use crate::mupdate::Finding;

/// So many names are remembered.
const MOST: usize = 16;

/// Some names that were found, asked for again on the next connection, and later if too few of them
/// were found there.
#[derive(Debug)]
pub struct Canaries {
    most: usize,
    names: Vec<MailboxName>,
    /// Those of them of which nothing was heard since.
    open: Vec<MailboxName>,
    missing: usize,
    next: usize,
}

impl Default for Canaries {
    fn default() -> Self {
        Self { most: MOST, ..Self::none() }
    }
}

impl Canaries {
    /// Remembers nothing, and doubts nothing.
    pub fn none() -> Self {
        Self { most: 0, names: Vec::new(), open: Vec::new(), missing: 0, next: 0 }
    }

    /// All have to be heard again.
    pub fn begin(&mut self) {
        self.open.clone_from(&self.names);
        self.missing = 0;
    }

    /// The names to ask for.
    pub fn names(&self) -> Vec<MailboxName> {
        self.open.clone()
    }

    /// What was answered for a name.
    pub fn heard(&mut self, name: &MailboxName, finding: &Finding) {
        let was_open = self.open.iter().position(|open| open == name);
        match finding {
            Finding::Found(_) => {
                if let Some(at) = was_open {
                    self.open.swap_remove(at);
                } else if !self.names.contains(name) {
                    self.remember(name);
                }
            }
            Finding::Absent => match was_open {
                Some(at) => {
                    self.open.swap_remove(at);
                    self.missing += 1;
                }
                // Gone while we were there to see it: an ordinary deletion.
                None if self.missing == 0 => self.names.retain(|known| known != name),
                None => {}
            },
            Finding::Unsure(_) => {}
        }
    }

    fn remember(&mut self, name: &MailboxName) {
        if self.names.len() < self.most {
            self.names.push(name.clone());
        } else if self.missing == 0
            && let Some(place) = self.names.get_mut(self.next)
        {
            // Else those that a master still has would drive out those that it has lost.
            place.clone_from(name);
            self.next = (self.next + 1) % self.most;
        }
    }

    /// Why "absent" is not believed, if it is not.
    pub fn doubt(&self) -> Option<Doubt> {
        let (missing, open, all) = (self.missing, self.open.len(), self.names.len());
        if open > 0 {
            let text = "it is still open whether the MUPDATE master has kept its list";
            return Some(Doubt::new(DoubtKind::LostNames, text));
        }
        (missing > 0 && (missing > 1 || all == 1) && missing * 10 > all).then(|| {
            let text = format_args!(
                "the MUPDATE master has lost {missing} of {all} mailboxes that it had before it was \
                 connected to anew; if that is meant, restart murder-route"
            );
            Doubt::new(DoubtKind::LostNames, text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::{AnonymousRights, Record, State};

    fn name(n: usize) -> MailboxName {
        MailboxName::new(format!("user.u{n}")).unwrap()
    }

    fn found() -> Finding {
        let (state, anonymous) = (State::Active, AnonymousRights::default());
        let server = Some("be1".to_owned());
        Finding::Found(Record { state, server, partition: "default".into(), anonymous })
    }

    fn known(names: usize) -> Canaries {
        let mut witnesses = Canaries::default();
        for n in 0..names {
            witnesses.heard(&name(n), &found());
        }
        witnesses
    }

    #[test]
    fn a_master_that_comes_back_empty_makes_nobody_unknown() {
        let mut witnesses = known(100);
        assert_eq!(witnesses.doubt(), None);
        witnesses.begin();
        let asked = witnesses.names();
        assert_eq!(asked.len(), MOST);
        assert!(witnesses.doubt().is_some(), "before anything was heard");
        for name in &asked {
            witnesses.heard(name, &Finding::Absent);
        }
        assert!(witnesses.doubt().unwrap().contains("16 of 16"));
        // Strangers, and what is there again, change nothing until the next look.
        witnesses.heard(&name(500), &Finding::Absent);
        witnesses.heard(&asked[0], &found());
        assert!(witnesses.doubt().is_some());
        witnesses.begin();
        for name in &asked {
            witnesses.heard(name, &found());
        }
        assert_eq!(witnesses.doubt(), None);
    }

    #[test]
    fn the_half_that_a_master_still_has_does_not_vouch_for_the_lost_one() {
        let mut witnesses = known(16);
        for _ in 0..3 {
            witnesses.begin();
            for (at, name) in witnesses.names().iter().enumerate() {
                let finding = if at < 8 { Finding::Absent } else { found() };
                witnesses.heard(name, &finding);
            }
            for n in 100..200 {
                witnesses.heard(&name(n), &found());
            }
            assert!(witnesses.doubt().unwrap().contains("8 of 16"));
        }
    }

    #[test]
    fn the_only_one_that_is_known_counts_until_there_is_another() {
        let mut witnesses = known(1);
        witnesses.begin();
        witnesses.heard(&name(0), &Finding::Absent);
        assert!(witnesses.doubt().is_some());
        witnesses.heard(&name(1), &found());
        assert_eq!(witnesses.doubt(), None);
    }

    #[test]
    fn one_account_that_was_deleted_meanwhile_is_ordinary() {
        let mut witnesses = known(16);
        witnesses.begin();
        for (at, name) in witnesses.names().iter().enumerate() {
            let finding = if at == 0 { Finding::Absent } else { found() };
            witnesses.heard(name, &finding);
        }
        assert_eq!(witnesses.doubt(), None);
    }

    #[test]
    fn what_was_deleted_before_our_eyes_is_no_witness() {
        let mut witnesses = known(2);
        witnesses.heard(&name(0), &Finding::Absent);
        witnesses.heard(&name(1), &Finding::Absent);
        witnesses.begin();
        assert_eq!((witnesses.names().len(), witnesses.doubt()), (0, None));
    }
}
