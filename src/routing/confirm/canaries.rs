//! Canary names: names that the server had recently. A master that lost its list answers "no
//! such mailbox" for every name; the canary names detect that.

use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::name::MailboxName;
use crate::mupdate::Finding;

/// Maximum number of canary names kept.
const MAX_CANARIES: usize = 16;

/// Found names that are asked for again on the next connection, and later if too few of them
/// were found there.
#[derive(Debug)]
pub struct Canaries {
    most: usize,
    names: Vec<MailboxName>,
    /// The names not answered since.
    open: Vec<MailboxName>,
    missing: usize,
    next: usize,
}

impl Default for Canaries {
    fn default() -> Self {
        Self { most: MAX_CANARIES, ..Self::none() }
    }
}

impl Canaries {
    /// Keeps no names and never doubts.
    pub fn none() -> Self {
        Self { most: 0, names: Vec::new(), open: Vec::new(), missing: 0, next: 0 }
    }

    /// Marks all names as unconfirmed.
    pub fn begin(&mut self) {
        self.open.clone_from(&self.names);
        self.missing = 0;
    }

    /// Returns the names to ask for.
    pub fn names(&self) -> Vec<MailboxName> {
        self.open.clone()
    }

    /// Records the answer for a name.
    pub fn heard(&mut self, name: &MailboxName, finding: &Finding) {
        let was_open = self.open.iter().position(|open| open == name);
        match finding {
            Finding::Found(_) => {
                if let Some(at) = was_open {
                    self.open.swap_remove(at);
                } else if !self.names.contains(name) {
                    self.keep(name);
                }
            }
            Finding::Absent => match was_open {
                Some(at) => {
                    self.open.swap_remove(at);
                    self.missing += 1;
                }
                // Deleted while the connection was up: an ordinary deletion.
                None if self.missing == 0 => self.names.retain(|known| known != name),
                None => {}
            },
            Finding::Unsure(_) => {}
        }
    }

    fn keep(&mut self, name: &MailboxName) {
        if self.names.len() < self.most {
            self.names.push(name.clone());
        } else if self.missing == 0
            && let Some(place) = self.names.get_mut(self.next)
        {
            // Not while names are missing: names that a master still has would displace those it
            // has lost.
            place.clone_from(name);
            self.next = (self.next + 1) % self.most;
        }
    }

    /// Returns why "absent" is not believed, if so.
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
        let mut canaries = Canaries::default();
        for n in 0..names {
            canaries.heard(&name(n), &found());
        }
        canaries
    }

    #[test]
    fn empty_master_makes_no_recipient_unknown() {
        let mut canaries = known(100);
        assert_eq!(canaries.doubt(), None);
        canaries.begin();
        let asked = canaries.names();
        assert_eq!(asked.len(), MAX_CANARIES);
        assert!(canaries.doubt().is_some(), "before anything was heard");
        for name in &asked {
            canaries.heard(name, &Finding::Absent);
        }
        assert!(canaries.doubt().unwrap().contains("16 of 16"));
        // Unknown names and restored names change nothing until the next check.
        canaries.heard(&name(500), &Finding::Absent);
        canaries.heard(&asked[0], &found());
        assert!(canaries.doubt().is_some());
        canaries.begin();
        for name in &asked {
            canaries.heard(name, &found());
        }
        assert_eq!(canaries.doubt(), None);
    }

    #[test]
    fn present_names_do_not_hide_lost_ones() {
        let mut canaries = known(16);
        for _ in 0..3 {
            canaries.begin();
            for (at, name) in canaries.names().iter().enumerate() {
                let finding = if at < 8 { Finding::Absent } else { found() };
                canaries.heard(name, &finding);
            }
            for n in 100..200 {
                canaries.heard(&name(n), &found());
            }
            assert!(canaries.doubt().unwrap().contains("8 of 16"));
        }
    }

    #[test]
    fn single_canary_counts_until_there_is_another() {
        let mut canaries = known(1);
        canaries.begin();
        canaries.heard(&name(0), &Finding::Absent);
        assert!(canaries.doubt().is_some());
        canaries.heard(&name(1), &found());
        assert_eq!(canaries.doubt(), None);
    }

    #[test]
    fn one_missing_canary_of_many_causes_no_doubt() {
        let mut canaries = known(16);
        canaries.begin();
        for (at, name) in canaries.names().iter().enumerate() {
            let finding = if at == 0 { Finding::Absent } else { found() };
            canaries.heard(name, &finding);
        }
        assert_eq!(canaries.doubt(), None);
    }

    #[test]
    fn name_deleted_during_a_connection_is_no_canary() {
        let mut canaries = known(2);
        canaries.heard(&name(0), &Finding::Absent);
        canaries.heard(&name(1), &Finding::Absent);
        canaries.begin();
        assert_eq!((canaries.names().len(), canaries.doubt()), (0, None));
    }
}
