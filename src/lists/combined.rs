//! Several mailbox lists as one.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::user_deny::UserDeny;
use super::{Completeness, FileList, RecordVisitor, WaitPolicy};
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::replica::ReplicaSource;

/// One source of names.
#[derive(Clone)]
pub enum Source {
    /// Cyrus' own list, on this host.
    File(Arc<FileList>),
    /// A replica of the master's list.
    Replica(ReplicaSource),
}

/// The lists of a site, in the order of the configuration. An empty set (the source `find`) has no names
/// and cannot be walked.
///
/// Their common answer for a name:
///
/// 1. The first record of a mailbox that takes mail, or will again (active, reserved, moving),
///    counts. No list keeps another from this: neither one that cannot be read, nor one that has to be
///    waited for.
/// 2. Else, if one of them has to be waited for: [`Lookup::Busy`].
/// 3. Else, if one of them is unsure: [`Lookup::Unsure`]. A list that cannot be read, is stale, has
///    shrunk or is held back is a sign that the master itself may have lost its list, and such a
///    master reports every mailbox as missing. So the master's answer alone makes no recipient unknown
///    while one of our lists is in doubt.
/// 4. Else a tombstone or a name without a mailbox, if one of them has that; else
///    [`Lookup::Absent`].
#[derive(Debug, Clone, Default)]
pub struct Lists(Vec<Source>, Option<Arc<UserDeny>>);

impl fmt::Display for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the MUPDATE master, name by name");
        }
        for (at, source) in self.0.iter().enumerate() {
            let then = if at > 0 { ", then " } else { "" };
            match source {
                Source::File(list) => write!(f, "{then}{}", list.path().display())?,
                Source::Replica(_) => write!(f, "{then}the replica")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(list) => write!(f, "mailboxes-db {}", list.path().display()),
            Source::Replica(_) => f.write_str("replica"),
        }
    }
}

impl Source {
    fn lookup(&self, name: &MailboxName, wait: WaitPolicy) -> (Lookup, bool) {
        match self {
            Source::File(list) => list.look_up(name, wait),
            Source::Replica(ReplicaSource { list, trust }) => {
                let (found, recent) = list.lookup_dated(name);
                let trusted = match &found {
                    Lookup::Present(record) if record.state.exists() => trust.hits(),
                    Lookup::Present(_) | Lookup::Absent => trust.misses(),
                    Lookup::Unsure(_) | Lookup::Busy => Ok(()),
                };
                (trusted.map_or_else(|doubt| Lookup::Unsure(doubt.into()), |()| found), recent)
            }
        }
    }

    /// Whether the list has a record of a mailbox that takes mail, or will again.
    pub(crate) fn has(&self, name: &MailboxName) -> bool {
        matches!(self.lookup(name, WaitPolicy::Allowed).0, Lookup::Present(record) if record.state.exists())
    }

    fn list(&self) -> &dyn MailboxList {
        match self {
            Source::File(list) => &**list,
            Source::Replica(replica) => &*replica.list,
        }
    }
}

impl Lists {
    /// Returns these lists, in this order.
    pub fn new(sources: Vec<Source>) -> Self {
        Self(sources, None)
    }

    /// Adds the users who take no mail, whatever their records are.
    pub fn with_deny(self, deny: Option<UserDeny>) -> Self {
        Self(self.0, deny.map(Arc::new))
    }

    /// Returns the lists, in their order.
    pub fn sources(&self) -> &[Source] {
        &self.0
    }

    /// Returns the list of this host at this path, if there is one.
    pub fn file(&self, path: &Path) -> Option<&Arc<FileList>> {
        self.files().find(|list| list.path() == path)
    }

    /// Returns the lists of this host.
    pub fn files(&self) -> impl Iterator<Item = &Arc<FileList>> {
        self.0.iter().filter_map(|source| match source {
            Source::File(list) => Some(list),
            Source::Replica(_) => None,
        })
    }

    /// Whether the lists of this host are complete by themselves; `None`: one has to be read for that.
    pub fn known_complete(&self) -> Option<Result<(), Doubt>> {
        let known = self.files().map(|list| match list.known_completeness() {
            Completeness::Complete => Some(Ok(())),
            Completeness::Incomplete(why) => Some(Err(why)),
            Completeness::Unread => None,
        });
        known.collect()
    }

    /// Checks that the lists of this host are complete by themselves. Reads them if need be.
    ///
    /// # Errors
    ///
    /// If one of them is not, or cannot be read.
    pub fn are_complete(&self) -> Result<(), Doubt> {
        self.files().try_for_each(|list| list.is_complete())
    }

    /// Returns a view of these lists that never waits: [`Lookup::Busy`] where a lookup would wait for a
    /// lock or read a whole file.
    pub fn now(&self) -> WithoutWaiting<'_> {
        WithoutWaiting { lists: self, was_to_walk: AtomicBool::new(false) }
    }

    /// Looks a name up. The flag: the name changed recently in any of the lists, since one list may have
    /// a change that another has not yet.
    fn look_up(&self, name: &MailboxName, wait: WaitPolicy) -> (Lookup, bool) {
        let (mut rest, mut recent) = (Lookup::Absent, false);
        let mut sources = self.0.iter();
        while let Some(source) = sources.next() {
            let (found, changed) = source.lookup(name, wait);
            recent |= changed;
            match &found {
                Lookup::Present(record) if record.state.exists() => {
                    // A list that has to be waited for does not delay the hit of another.
                    return (
                        found,
                        recent || sources.any(|source| source.lookup(name, WaitPolicy::Never).1),
                    );
                }
                _ if weight(&found) > weight(&rest) => rest = found,
                _ => {}
            }
        }
        (rest, recent)
    }

    /// The doubt of any of them, whatever record another has: rule 3 holds also where one list lags and
    /// still has a name that the master has lost.
    fn without_record(&self, name: &MailboxName, wait: WaitPolicy) -> Lookup {
        let mut rest = Lookup::Absent;
        for source in self.0.iter() {
            let (found, _) = source.lookup(name, wait);
            if !matches!(found, Lookup::Present(_)) && weight(&found) > weight(&rest) {
                rest = found;
            }
        }
        rest
    }
}

/// Returns the weight of an answer where no list has the mailbox.
fn weight(lookup: &Lookup) -> u8 {
    match lookup {
        Lookup::Absent => 0,
        Lookup::Present(_) => 1,
        Lookup::Unsure(_) => 2,
        Lookup::Busy => 3,
    }
}

impl MailboxList for Lists {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.look_up(name, WaitPolicy::Allowed).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        self.look_up(name, WaitPolicy::Allowed)
    }

    fn lookup_without_record(&self, name: &MailboxName) -> Lookup {
        self.without_record(name, WaitPolicy::Allowed)
    }

    fn denies(&self, inbox: &MailboxName) -> bool {
        self.1.as_ref().is_some_and(|deny| deny.denies(inbox))
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.0.iter().find_map(|source| source.list().key_generation())
    }

    /// Walks one list after the other. If several lists have a name, the record of the first counts.
    ///
    /// # Errors
    ///
    /// If a list cannot be walked. All others are walked all the same.
    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        // Each list is walked name by name, so that no name is visited twice.
        self.walk(
            &mut |list, visit| {
                list.each(prefix, &mut |name, record| match visit(name, record) {
                    WalkStep::Stop => ControlFlow::Break(()),
                    WalkStep::On | WalkStep::Past(_) => ControlFlow::Continue(()),
                })
            },
            &mut |name, record| visit(name, record).into(),
        )
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), Doubt> {
        self.walk(&mut |list, visit| list.each_past(prefix, visit), visit)
    }
}

impl Lists {
    fn walk(
        &self,
        walk: &mut dyn FnMut(&dyn MailboxList, &mut RecordVisitor<'_>) -> Result<(), Doubt>,
        visit: &mut RecordVisitor<'_>,
    ) -> Result<(), Doubt> {
        if self.0.is_empty() {
            return Err(Doubt::new(
                DoubtKind::Unreadable,
                "there is no list to walk: a MUPDATE server is asked name by name",
            ));
        }
        let mut outcome = Ok(());
        for (at, source) in self.0.iter().enumerate() {
            let before = self.0.get(..at).unwrap_or_default();
            let mut ended = false;
            let walked = walk(source.list(), &mut |name, record| {
                let told = |list: &Source| matches!(list.list().lookup(name), Lookup::Present(_));
                if before.iter().any(told) {
                    return WalkStep::On;
                }
                let step = visit(name, record);
                ended = step == WalkStep::Stop;
                step
            });
            if ended {
                return Ok(());
            }
            outcome = outcome.and(walked);
        }
        outcome
    }
}

/// [`Lists`] whose lookups never wait.
#[derive(Debug)]
pub struct WithoutWaiting<'a> {
    lists: &'a Lists,
    was_to_walk: AtomicBool,
}

impl WithoutWaiting<'_> {
    /// Whether a walk was refused, so that the decision does not count.
    pub fn was_to_walk(&self) -> bool {
        self.was_to_walk.load(Relaxed)
    }
}

impl MailboxList for WithoutWaiting<'_> {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lists.look_up(name, WaitPolicy::Never).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        self.lists.look_up(name, WaitPolicy::Never)
    }

    fn lookup_without_record(&self, name: &MailboxName) -> Lookup {
        self.lists.without_record(name, WaitPolicy::Never)
    }

    fn denies(&self, inbox: &MailboxName) -> bool {
        self.lists.denies(inbox)
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.lists.key_generation()
    }

    fn each(
        &self,
        _prefix: &[u8],
        _visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        self.was_to_walk.store(true, Relaxed);
        Err(Doubt::new(DoubtKind::GivenUp, "walking the mailbox list takes too long here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::{AnonymousRights, State};
    use crate::replica::{ReplicaDoubt, SourceTrust};

    /// The answer for every name, and whether it changed recently.
    struct Fake(Lookup, bool);

    impl MailboxList for Fake {
        fn lookup(&self, _name: &MailboxName) -> Lookup {
            self.0.clone()
        }

        fn lookup_dated(&self, _name: &MailboxName) -> (Lookup, bool) {
            (self.0.clone(), self.1)
        }

        fn each(
            &self,
            _prefix: &[u8],
            visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
        ) -> Result<(), Doubt> {
            match &self.0 {
                Lookup::Present(record) => {
                    let _ = visit(&name(), record);
                    Ok(())
                }
                Lookup::Absent => Ok(()),
                Lookup::Unsure(why) => Err(why.clone()),
                Lookup::Busy => Err(Doubt::new(DoubtKind::GivenUp, "busy")),
            }
        }
    }

    struct Trusted(Result<(), &'static str>, Result<(), &'static str>);

    fn doubted(trusted: Result<(), &str>) -> Result<(), ReplicaDoubt> {
        trusted.map_err(|why| ReplicaDoubt::Unreadable(why.into()))
    }

    impl SourceTrust for Trusted {
        fn hits(&self) -> Result<(), ReplicaDoubt> {
            doubted(self.0)
        }

        fn misses(&self) -> Result<(), ReplicaDoubt> {
            doubted(self.1)
        }
    }

    fn name() -> MailboxName {
        MailboxName::new("user.jane").unwrap()
    }

    fn present(state: State, server: &str) -> Lookup {
        Lookup::Present(Record {
            state,
            server: Some(server.into()),
            partition: String::new(),
            anonymous: AnonymousRights::default(),
        })
    }

    fn unsure(why: &str) -> Lookup {
        Lookup::Unsure(why.into())
    }

    fn source(found: Lookup, trust: Trusted) -> Source {
        Source::Replica(ReplicaSource {
            list: Arc::new(Fake(found, false)),
            trust: Arc::new(trust),
        })
    }

    fn answer(lists: &[Lookup]) -> Lookup {
        let trusted = |found: &Lookup| source(found.clone(), Trusted(Ok(()), Ok(())));
        Lists::new(lists.iter().map(trusted).collect()).lookup(&name())
    }

    #[test]
    fn record_that_the_master_lost_hides_no_doubt_of_another_list() {
        let trusted = |found: &Lookup| source(found.clone(), Trusted(Ok(()), Ok(())));
        let jane = present(State::Active, "be1");
        for (other, says) in [
            (Lookup::Absent, Lookup::Absent),
            (jane.clone(), Lookup::Absent),
            (unsure("missing"), unsure("missing")),
            (Lookup::Busy, Lookup::Busy),
        ] {
            for both in [[&jane, &other], [&other, &jane]] {
                let lists = Lists::new(both.into_iter().map(trusted).collect());
                assert_eq!(lists.lookup_without_record(&name()), says, "{both:?}");
            }
        }
    }

    #[test]
    fn hit_of_any_list_is_answered_whatever_the_others_answer() {
        let jane = present(State::Active, "be1");
        let gone = present(State::Deleted, "be2");
        for other in [Lookup::Absent, unsure("torn"), Lookup::Busy, gone] {
            assert_eq!(answer(&[jane.clone(), other.clone()]), jane);
            assert_eq!(answer(&[other, jane.clone()]), jane);
        }
        let moving = present(State::Moving, "be2");
        assert_eq!(answer(&[moving.clone(), jane]), moving);
    }

    #[test]
    fn recent_change_in_any_list_counts() {
        let jane = present(State::Active, "be1");
        let recent = |lists: &[(&Lookup, bool)]| {
            let source = |(found, recent): &(&Lookup, bool)| {
                let list = Arc::new(Fake((*found).clone(), *recent));
                Source::Replica(ReplicaSource { list, trust: Arc::new(Trusted(Ok(()), Ok(()))) })
            };
            let lists = Lists::new(lists.iter().map(source).collect());
            let (found, recent) = lists.lookup_dated(&name());
            assert_eq!(found, jane);
            assert_eq!(lists.now().lookup_dated(&name()), (found, recent));
            recent
        };
        assert!(!recent(&[(&jane, false)]) && recent(&[(&jane, true)]));
        let gone = present(State::Deleted, "be2");
        for other in [&jane, &gone, &Lookup::Absent, &Lookup::Busy] {
            for changed in [false, true] {
                assert_eq!(recent(&[(&jane, false), (other, changed)]), changed);
            }
        }
        for other in [&gone, &Lookup::Absent] {
            assert!(recent(&[(other, true), (&jane, false)]));
        }
    }

    #[test]
    fn no_name_is_absent_while_one_list_is_unsure() {
        let gone = present(State::Deleted, "be1");
        for other in [Lookup::Absent, gone.clone()] {
            assert_eq!(answer(&[other.clone(), unsure("torn")]), unsure("torn"));
            assert_eq!(answer(&[unsure("torn"), other]), unsure("torn"));
        }
        assert_eq!(answer(&[unsure("torn"), Lookup::Busy]), Lookup::Busy);
        assert_eq!(answer(&[Lookup::Absent, gone.clone()]), gone);
        assert_eq!(answer(&[Lookup::Absent, Lookup::Absent]), Lookup::Absent);
    }

    #[test]
    fn miss_of_a_stale_replica_is_not_absent() {
        let stale = || Trusted(Ok(()), Err("stale"));
        let answer = |found, trust| Lists::new(vec![source(found, trust)]).lookup(&name());
        assert_eq!(answer(Lookup::Absent, stale()), unsure("stale"));
        assert_eq!(answer(present(State::Deleted, "be1"), stale()), unsure("stale"));
        let jane = present(State::Active, "be1");
        assert_eq!(answer(jane.clone(), stale()), jane);
        let too_old = Trusted(Err("too old"), Err("stale"));
        assert_eq!(answer(jane, too_old), unsure("too old"));
    }

    #[test]
    fn walk_visits_each_name_once_and_reports_unreadable_lists() {
        let trusted = |found: Lookup| source(found, Trusted(Ok(()), Ok(())));
        let walk = |lists: Vec<Source>| {
            let mut servers = Vec::new();
            let walked = Lists::new(lists).each(b"", &mut |_, record| {
                servers.extend(record.server.clone());
                ControlFlow::Continue(())
            });
            (walked, servers)
        };
        let (jane, twin) = (present(State::Active, "be1"), present(State::Active, "be2"));
        assert_eq!(
            walk(vec![trusted(unsure("torn")), trusted(jane), trusted(twin)]),
            (Err("torn".into()), vec!["be1".to_owned()])
        );
        assert!(walk(Vec::new()).0.is_err());
    }
}
