//! Names last seen reserved or moving, where no stream reports deletions.
//!
//! A master that restarts removes reserved names (`ctl_cyrusdb -r`, "removed reserved
//! mailbox"), including that of a user with an XFER in progress. A frontend's `mailboxes.db`
//! and a FIND then answer as for a deleted mailbox. Mail for such a name is deferred for
//! `accept-after`.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::name::MailboxName;
use crate::model::record::State;
use crate::mupdate::Finding;
use crate::routing::evidence::Confirmation;

/// Maximum number of names kept.
const MAX_KEPT: usize = 10_000;

/// The names, each with the last time it was seen reserved or moving.
#[derive(Debug, Default)]
pub struct UnsettledNames {
    seen: HashMap<MailboxName, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Duration,
    /// Whether the disappearance of the name has been reported.
    reported: bool,
}

/// A weighed confirmation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighed {
    /// The resulting confirmation.
    pub said: Confirmation,
    /// Text for the log when a name has vanished, reported once.
    pub warning: Option<String>,
}

impl UnsettledNames {
    /// Records that the name is reserved or moving. Names seen longer ago than `keep` are dropped.
    pub fn saw(&mut self, name: &MailboxName, now: Duration, keep: Duration) {
        if self.seen.len() >= MAX_KEPT {
            self.seen.retain(|_, seen| now.saturating_sub(seen.at) < keep);
        }
        if self.seen.len() < MAX_KEPT || self.seen.contains_key(name) {
            self.seen.insert(name.clone(), Seen { at: now, reported: false });
        }
    }

    /// Weighs the confirmation of a name: an absent name that was reserved or moving within `keep`
    /// is doubted. `is_listed`: whether the lists have the name now. `watches`: whether names must
    /// be kept here because no stream reports deletions.
    pub fn weigh(
        &mut self,
        name: &MailboxName,
        said: Confirmation,
        is_listed: impl FnOnce() -> bool,
        watches: bool,
        now: Duration,
        keep: Duration,
    ) -> Weighed {
        match &said {
            Confirmation::Master(Finding::Found(record)) => {
                match record.state {
                    State::Reserved | State::Moving if watches => self.saw(name, now, keep),
                    State::Active => drop(self.seen.remove(name)),
                    _ => {}
                }
                return Weighed { said, warning: None };
            }
            // The slave says that the lists are complete, so their record counts.
            Confirmation::Lists(Ok(())) if is_listed() => return Weighed { said, warning: None },
            Confirmation::Master(Finding::Absent) | Confirmation::Lists(Ok(())) => {}
            Confirmation::Master(Finding::Unsure(_)) | Confirmation::Lists(Err(_)) => {
                return Weighed { said, warning: None };
            }
        }
        let Some((age, is_new)) = self.vanished(name, now, keep) else {
            return Weighed { said, warning: None };
        };
        let why = format!(
            "{name} was reserved or moving {} s ago and vanished; its mail is deferred for {} s, since a \
             master that restarts removes the names of mailboxes that are being moved; if the mailbox is \
             whole on its backend, run there: ctl_mboxlist -m",
            age.as_secs(),
            keep.as_secs()
        );
        let warning = is_new.then(|| why.clone());
        let doubt = Doubt::new(DoubtKind::Unsettled, why);
        let said = match said {
            Confirmation::Lists(_) => Confirmation::Lists(Err(doubt)),
            Confirmation::Master(_) => Confirmation::Master(Finding::Unsure(doubt)),
        };
        Weighed { said, warning }
    }

    /// Returns the time since an absent name was last seen, if that was within `keep`, and whether
    /// this is the first question about it.
    fn vanished(
        &mut self,
        name: &MailboxName,
        now: Duration,
        keep: Duration,
    ) -> Option<(Duration, bool)> {
        let seen = self.seen.get_mut(name)?;
        let age = now.saturating_sub(seen.at);
        if age >= keep {
            self.seen.remove(name);
            return None;
        }
        Some((age, !std::mem::replace(&mut seen.reported, true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::{AnonymousRights, Record};

    const KEEP: Duration = minutes(10);

    const fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    fn name(text: &str) -> MailboxName {
        MailboxName::new(text).unwrap()
    }

    fn found(state: State) -> Confirmation {
        let (server, anonymous) = (Some("be1".to_owned()), AnonymousRights::default());
        let record = Record { state, server, partition: String::new(), anonymous };
        Confirmation::Master(Finding::Found(record))
    }

    #[test]
    fn reserved_name_that_vanishes_is_doubted_for_a_while() {
        let mut unsettled = UnsettledNames::default();
        unsettled.saw(&name("user.a"), minutes(0), KEEP);
        assert_eq!(unsettled.vanished(&name("user.b"), minutes(1), KEEP), None);
        assert_eq!(unsettled.vanished(&name("user.a"), minutes(1), KEEP), Some((minutes(1), true)));
        assert_eq!(
            unsettled.vanished(&name("user.a"), minutes(9), KEEP),
            Some((minutes(9), false))
        );
        assert_eq!(unsettled.vanished(&name("user.a"), minutes(10), KEEP), None);
    }

    #[test]
    fn absent_name_is_doubted_only_after_it_was_reserved() {
        let (mut unsettled, a) = (UnsettledNames::default(), name("user.a"));
        let absent = Confirmation::Master(Finding::Absent);
        let mut weigh = |said: Confirmation, listed: bool| {
            unsettled.weigh(&a, said, || listed, true, minutes(1), KEEP)
        };
        assert_eq!(weigh(absent.clone(), false).said, absent);
        assert_eq!(weigh(found(State::Reserved), false).said, found(State::Reserved));
        let weighed = weigh(absent.clone(), false);
        assert!(matches!(weighed.said, Confirmation::Master(Finding::Unsure(_))));
        assert!(weighed.warning.is_some());
        assert_eq!(weigh(absent.clone(), false).warning, None);
        assert_eq!(weigh(Confirmation::Lists(Ok(())), true).said, Confirmation::Lists(Ok(())));
        assert!(matches!(
            weigh(Confirmation::Lists(Ok(())), false).said,
            Confirmation::Lists(Err(_))
        ));
        assert_eq!(weigh(found(State::Active), false).said, found(State::Active));
        assert_eq!(weigh(absent.clone(), false).said, absent);
    }

    #[test]
    fn names_last_seen_reserved_are_bounded_and_make_room() {
        let mut unsettled = UnsettledNames::default();
        for n in 0..=MAX_KEPT {
            unsettled.saw(&name(&format!("user.u{n}")), minutes(0), KEEP);
        }
        assert_eq!(unsettled.seen.len(), MAX_KEPT);
        let late = name("user.late");
        unsettled.saw(&late, minutes(10), KEEP);
        assert!(unsettled.vanished(&late, minutes(11), KEEP).is_some());
    }
}
