//! The router with its lists: the common basis of the command and the daemon.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::config::{ReplicaSettings, Settings, SourceName, Vital};
use crate::lists::combined::{Lists, Source};
use crate::lists::mailboxes_db::mark_file::MarkFile;
use crate::lists::user_deny::UserDeny;
use crate::lists::{FileList, FileListOptions};
use crate::model::doubt::{Doubt, DoubtKind};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::replica::ReplicaSource;
use crate::replica::read::offline::OfflineReplica;
use crate::routing::confirm::ConfirmVia;
use crate::routing::evidence::{Confirmation, Evidence};
use crate::routing::inquiry::{Ask, Inquiry, Step, busy};
use crate::routing::maps::Maps;
use crate::routing::route::Route;
use crate::routing::router::{Explain, Router};

/// The rules of a site with its mailbox lists: decides about recipients. Shared by threads.
#[derive(Debug)]
pub struct Resolver {
    /// Rules of the decision.
    #[doc(hidden)]
    pub router: Router,
    /// Forms of the answers.
    #[doc(hidden)]
    pub maps: Maps,
    /// Sources of the mailbox list.
    #[doc(hidden)]
    pub lists: Lists,
    /// Way to confirm a miss.
    #[doc(hidden)]
    pub proof: ConfirmVia,
    /// State that a reload must keep.
    #[doc(hidden)]
    pub vital: Vital,
    /// Time for which a known name that vanished without a DELETE is deferred (`accept-after`).
    #[doc(hidden)]
    pub accept_after: Duration,
}

impl Resolver {
    /// Creates a resolver for a program that does not follow the master. Lists are opened at the
    /// first lookup and may be created later.
    ///
    /// # Errors
    ///
    /// If the replica is a source and its path cannot be used.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let replica = match settings.sources.contains(&SourceName::Replica) {
            true => {
                let ReplicaSettings { directory, max_age, .. } = &settings.replica;
                Some(OfflineReplica::open(directory, *max_age)?)
            }
            false => None,
        };
        Ok(Self::new(settings, replica))
    }

    /// Creates a resolver with this replica as the source `replica`. Without one, all recipients that
    /// depend on that source are deferred.
    #[doc(hidden)]
    pub fn new(settings: Settings, replica: Option<ReplicaSource>) -> Self {
        Self::with_lists(settings, replica, &Lists::default())
    }

    /// Creates a resolver with new settings. Keeps the list of this host if its path is unchanged,
    /// together with the number of names that the loss guard compares with.
    pub(crate) fn renewed(&self, settings: Settings, replica: Option<ReplicaSource>) -> Self {
        Self::with_lists(settings, replica, &self.lists)
    }

    fn with_lists(settings: Settings, replica: Option<ReplicaSource>, old: &Lists) -> Self {
        let file = |path: &PathBuf| match old.file(path) {
            Some(list) => Arc::clone(list),
            None => {
                let mark = Some(MarkFile::new(&settings.state, path));
                Arc::new(FileList::open(
                    path,
                    FileListOptions { mark, ..FileListOptions::default() },
                ))
            }
        };
        let source = |name: &SourceName| match name {
            SourceName::MailboxesDb => settings.mailboxes_db.as_ref().map(file).map(Source::File),
            SourceName::Replica => Some(Source::Replica(replica.clone().unwrap_or_default())),
            SourceName::Find => None,
        };
        let deny = settings.user_deny.as_ref();
        let deny = deny.map(|(path, service)| UserDeny::open(path, service));
        Self {
            lists: Lists::new(settings.sources.iter().filter_map(source).collect()).with_deny(deny),
            router: settings.router,
            maps: settings.maps,
            proof: settings.proof,
            vital: settings.vital,
            accept_after: settings.replica.accept_after,
        }
    }

    /// Decides about one recipient by the lists alone.
    ///
    /// Neither the master nor the local slave is asked. Where a miss has to be confirmed, the recipient
    /// is [deferred](crate::Decision::Deferred). Blocks for files and their locks.
    pub fn resolve(&self, recipient: &[u8]) -> Route {
        let evidence = self.evidence(None);
        self.route(Inquiry::new(recipient, &evidence), None, &mut |_| {
            let text = "misses are not confirmed here";
            (Confirmation::Lists(Err(Doubt::new(DoubtKind::Unreachable, text))), None)
        })
    }

    /// Evidence before any confirmation. `generation`: that of the master's names, if known.
    #[doc(hidden)]
    pub fn evidence(&self, generation: Option<KeyGeneration>) -> Evidence {
        let mut evidence = self.proof.evidence();
        evidence.learn_generation(generation);
        evidence
    }

    /// One step on the present lists, without waiting for a lock and without walking a list.
    #[doc(hidden)]
    pub fn step_now(&self, inquiry: &Inquiry<'_>) -> Step {
        let now = self.lists.now();
        let step = inquiry.step(&self.router, &now, None);
        if now.was_to_walk() { Step::WouldBlock } else { step }
    }

    /// One step on the present lists. Waits for locks.
    #[doc(hidden)]
    pub fn step(&self, inquiry: &Inquiry<'_>, explain: Explain<'_>) -> Step {
        inquiry.step_waiting(&self.router, &self.lists, explain)
    }

    /// As [`step`](Self::step), for a request that may be cancelled: that ends a walk along a list.
    pub(crate) fn step_until(&self, inquiry: &Inquiry<'_>, given_up: &AtomicBool) -> Step {
        let list = Abandonable { list: &self.lists, given_up };
        inquiry.step_waiting(&self.router, &list, None)
    }

    /// Decides, with `confirm` to confirm names. `confirm` also returns the kind of names that the
    /// master keeps, if known. Waits for locks, and for `confirm`.
    pub(crate) fn route(
        &self,
        mut inquiry: Inquiry<'_>,
        mut explain: Explain<'_>,
        confirm: &mut dyn FnMut(&Ask) -> (Confirmation, Option<KeyGeneration>),
    ) -> Route {
        if let Some(steps) = explain.as_deref_mut() {
            steps.push(format!("sources: {}", self.lists));
        }
        loop {
            let ask = match self.step(&inquiry, explain.as_deref_mut()) {
                Step::Done(route) => return route,
                Step::WouldBlock => return busy(),
                Step::Ask(ask) => ask,
            };
            let (said, generation) = confirm(&ask);
            inquiry.learn(ask, said, explain.as_deref_mut());
            inquiry.learn_generation(generation);
        }
    }
}

/// A list whose walks end when the request is cancelled.
struct Abandonable<'a> {
    list: &'a dyn MailboxList,
    given_up: &'a AtomicBool,
}

impl Abandonable<'_> {
    fn outcome(&self, walked: Result<(), Doubt>) -> Result<(), Doubt> {
        match self.given_up.load(Relaxed) {
            true => {
                Err(Doubt::new(DoubtKind::GivenUp, "the client has gone, so the walk was ended"))
            }
            false => walked,
        }
    }
}

impl MailboxList for Abandonable<'_> {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.list.lookup(name)
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        self.list.lookup_dated(name)
    }

    fn lookup_without_record(&self, name: &MailboxName) -> Lookup {
        self.list.lookup_without_record(name)
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.list.key_generation()
    }

    fn denies(&self, inbox: &MailboxName) -> bool {
        self.list.denies(inbox)
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), Doubt> {
        self.outcome(self.list.each(
            prefix,
            &mut |name, record| match self.given_up.load(Relaxed) {
                true => ControlFlow::Break(()),
                false => visit(name, record),
            },
        ))
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> Result<(), Doubt> {
        self.outcome(self.list.each_past(prefix, &mut |name, record| {
            match self.given_up.load(Relaxed) {
                true => WalkStep::Stop,
                false => visit(name, record),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::config::Overrides;
    use crate::cyrusdb::order::Order;
    use crate::cyrusdb::skip::node::Layout;
    use crate::routing::evidence::MissTrust;
    use crate::routing::route::{Cause, Decision};
    use crate::routing::router::Verdict;
    use crate::testing::cyrus_writer::Writer;
    use crate::testing::random::Random;

    const FINAL: &str =
        "mailboxes-db = \"list\"\nmisses = \"final\"\ndomains = [\"example.org\"]\n";

    /// A list whose walk never ends.
    struct Endless;

    impl MailboxList for Endless {
        fn lookup(&self, _name: &MailboxName) -> Lookup {
            Lookup::Absent
        }

        fn each(
            &self,
            _prefix: &[u8],
            visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
        ) -> Result<(), Doubt> {
            let name = MailboxName::new("news").unwrap();
            let record = Record {
                state: crate::model::record::State::Active,
                server: None,
                partition: String::new(),
                anonymous: crate::model::record::AnonymousRights::default(),
            };
            while visit(&name, &record).is_continue() {}
            Ok(())
        }
    }

    #[test]
    fn walk_ends_when_the_request_is_cancelled() {
        let given_up = AtomicBool::new(false);
        let list = Abandonable { list: &Endless, given_up: &given_up };
        let mut left = 3;
        let mut count = || {
            left -= 1;
            given_up.store(left == 0, Relaxed);
        };
        let walked = list.each_past(b"", &mut |_, _| {
            count();
            WalkStep::On
        });
        assert!(walked.unwrap_err().contains("the client has gone"));
        given_up.store(false, Relaxed);
        assert_eq!(list.each(b"", &mut |_, _| ControlFlow::Break(())), Ok(()));
        given_up.store(true, Relaxed);
        assert!(list.each(b"", &mut |_, _| panic!("it is not walked")).is_err());
    }

    /// A list that counts the records it has shown.
    struct Counting(FileList, AtomicUsize);

    impl MailboxList for Counting {
        fn lookup(&self, name: &MailboxName) -> Lookup {
            self.0.lookup(name)
        }

        fn each(
            &self,
            _prefix: &[u8],
            _visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
        ) -> Result<(), Doubt> {
            panic!("a walk that passes nothing by");
        }

        fn each_past(
            &self,
            prefix: &[u8],
            visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
        ) -> Result<(), Doubt> {
            self.0.each_past(prefix, &mut |name, record| {
                self.1.fetch_add(1, Relaxed);
                visit(name, record)
            })
        }
    }

    #[test]
    fn fuzzy_miss_reads_shared_folders_only() {
        const SHARED: usize = 50;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("imapd.conf"), "lmtp_fuzzy_mailbox_match: 1\nconfigdirectory: /v\n")
            .unwrap();
        // Each possible order of keys is walked, until the actual one is known.
        let most = 2 * (SHARED + 1);
        for (generation, order) in [
            (KeyGeneration::Separated, Order::Raw),
            (KeyGeneration::Internal, Order::Raw),
            (KeyGeneration::Internal, Order::Mbox),
        ] {
            let compare = match order {
                Order::Raw => |a: &[u8], b: &[u8]| Order::Raw.compare(a, b),
                Order::Mbox => |a: &[u8], b: &[u8]| Order::Mbox.compare(a, b),
            };
            for users in [10, 3000] {
                let mut writer = Writer::new(Layout::Twoskip, Random(7), 1, compare);
                let shared = (0..SHARED).map(|n| format!("{}.f{n}", ["News", "Zoo"][n % 2]));
                let users = (0..users).map(|n| format!("user.u{n}"));
                for name in shared.chain(users) {
                    let mut key = Vec::new();
                    MailboxName::new(name).unwrap().push_key(generation, &mut key);
                    writer.put(&key, b"%(T er P default S be1.example.org)");
                }
                writer.commit();
                fs::write(path("list"), &writer.file).unwrap();
                for release in ["2.5", "3.6", "3.13"] {
                    let imapd_conf = "imapd-conf = \"imapd.conf\"\n";
                    let release = format!("cyrus-release = \"{release}\"\n");
                    fs::write(path("c"), [imapd_conf, &release, FINAL].concat()).unwrap();
                    let given = Overrides { config: Some(path("c")), ..Overrides::default() };
                    let router = Settings::load(&given).unwrap().router;
                    let list = FileList::open(path("list"), FileListOptions::default());
                    let list = Counting(list, AtomicUsize::new(0));
                    let route = |recipient: &[u8]| {
                        list.1.store(0, Relaxed);
                        let verdict = router.route(recipient, &list, &MissTrust::Believed, None);
                        let Verdict::Final(route) = verdict else { panic!("{verdict:?}") };
                        (route.decision, list.1.load(Relaxed))
                    };
                    let (decision, shown) = route(b"+stranger@example.org");
                    assert_eq!(decision, Decision::Unknown, "{release} {generation:?} {order:?}");
                    let all = SHARED..=most;
                    assert!(all.contains(&shown), "{release} {generation:?} {order:?}: {shown}");
                }
            }
        }
    }

    #[test]
    fn reload_keeps_the_number_of_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("c"), FINAL).unwrap();
        let given = Overrides { config: Some(path("c")), ..Overrides::default() };
        let has = |names: u32| {
            let order = |a: &[u8], b: &[u8]| Order::Raw.compare(a, b);
            let mut writer = Writer::new(Layout::Twoskip, Random(7), 1, order);
            for n in 0..names {
                let mut key = Vec::new();
                let name = MailboxName::new(format!("user.u{n}")).unwrap();
                name.push_key(KeyGeneration::Separated, &mut key);
                writer.put(&key, b"%(T er P default S be1.example.org)");
            }
            writer.commit();
            fs::write(path("new"), &writer.file).unwrap();
            fs::rename(path("new"), path("list")).unwrap();
        };
        let nobody = |resolver: &Resolver| {
            let evidence = resolver.evidence(None);
            let inquiry = Inquiry::new(b"nobody@example.org", &evidence);
            resolver.route(inquiry, None, &mut |_| panic!("no confirmation is needed")).decision
        };
        let settings = || Settings::load(&given).unwrap();
        has(300);
        let resolver = Resolver::new(settings(), None);
        assert_eq!(nobody(&resolver), Decision::Unknown);
        has(150);
        let renewed = resolver.renewed(settings(), None);
        assert_eq!(nobody(&renewed), Decision::Deferred(Cause::List));
    }
}
