//! A router with the lists it asks: what the command and the daemon both answer from.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::config::{Settings, SourceName, Vital};
use crate::lists::combined::{Lists, Replicated, Source};
use crate::lists::mailboxes_db::mark_file::MarkFile;
use crate::lists::user_deny::UserDeny;
use crate::lists::{FileList, Options};
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::os::kick::kick;
use crate::routing::confirm::{Confirmation, Evidence, MOST_ROUNDS};
use crate::routing::maps::Maps;
use crate::routing::router::{Explain, Route, Router, Verdict};

/// How long a kick may take. The mail server's own patience is far longer, but Postfix' queue
/// manager resolves one recipient at a time and waits for each.
pub const KICK_PATIENCE: Duration = Duration::from_secs(4);

/// A router, the forms of its answers and its lists. Shared by threads.
#[derive(Debug)]
pub struct Resolver {
    /// What decides.
    pub router: Router,
    /// What answers look like.
    pub maps: Maps,
    /// What is asked.
    pub lists: Lists,
    /// How what the lists do not have is confirmed.
    pub proof: ConfirmVia,
    /// What a reload must not lose.
    pub vital: Vital,
    /// How long a known name that vanished without a DELETE is deferred (`accept-after`).
    pub accept_after: Duration,
}

/// How it is confirmed that there is no such mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfirmVia {
    /// Not at all: the site says that the list is complete by itself (`misses = "final"`).
    List,
    /// There is no MUPDATE server. A list that has mailboxes of this host only is believed; the
    /// misses of one that has records of other servers are deferred.
    Complete,
    /// The MUPDATE slave of this host says at this socket that the list has caught up with the
    /// master, who himself cannot be asked.
    Slave(PathBuf),
    /// The master is asked for the name.
    Master {
        /// Where the MUPDATE slave of this host can be asked as well. It stands in for the master
        /// where it turns out that he cannot be asked as things are configured; never where he only
        /// does not answer.
        slave: Option<PathBuf>,
    },
}

impl Resolver {
    /// Puts a resolver together. Lists are opened when they are first asked, and need not be there.
    /// `replica` stands for the source `replica`; without it that source knows nobody, and nobody is
    /// unknown.
    pub fn new(settings: Settings, replica: Option<Replicated>) -> Self {
        Self::with_lists(settings, replica, &Lists::default())
    }

    /// The resolver of new settings. It keeps the list of this host if that is still the same file,
    /// and with it the memory of how long the list has been.
    pub fn renewed(&self, settings: Settings, replica: Option<Replicated>) -> Self {
        Self::with_lists(settings, replica, &self.lists)
    }

    fn with_lists(settings: Settings, replica: Option<Replicated>, old: &Lists) -> Self {
        let file = |path: &PathBuf| match old.file(path) {
            Some(list) => Arc::clone(list),
            None => {
                let mark = Some(MarkFile::new(&settings.state, path));
                Arc::new(FileList::open(path, Options { mark, ..Options::default() }))
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

    /// Decides for one recipient by the lists alone.
    ///
    /// Neither the master nor the local slave is asked. Where a miss has to be confirmed, the recipient
    /// is [deferred](crate::Decision::Deferred). Blocks for files and their locks.
    pub fn resolve(&self, recipient: &[u8]) -> Route {
        let alone = self.nothing_found(None);
        self.route(recipient, None, alone, &mut |_, _| {
            Confirmation::Lists(Err("misses are not confirmed here".into()))
        })
    }

    /// What is known of a recipient before anybody was asked. `generation` is that of the master's
    /// names, if he was heard before.
    pub fn nothing_found(&self, generation: Option<KeyGeneration>) -> Evidence {
        let mut findings = match self.proof {
            ConfirmVia::List => Evidence::NOBODY_TO_ASK,
            ConfirmVia::Complete => Evidence::LISTS_ALONE,
            ConfirmVia::Slave(_) => Evidence::ASK_THE_SLAVE,
            ConfirmVia::Master { .. } => Evidence::ASK_THE_MASTER,
        };
        findings.learn_generation(generation);
        findings
    }

    /// Decides without waiting for a lock or for anybody, and without walking the list.
    pub fn route_now(&self, recipient: &[u8]) -> Verdict {
        self.look_now(recipient, &self.nothing_found(None))
    }

    /// Decides on the lists as they stand and what was found out, without waiting for a lock and
    /// without walking the list.
    pub fn look_now(&self, recipient: &[u8], findings: &Evidence) -> Verdict {
        let now = self.lists.now();
        let verdict = self.router.route(recipient, &findings.over(&now), findings, None);
        if now.was_to_walk() { Verdict::Wait } else { verdict }
    }

    /// Decides on the lists as they stand and what was found out. Waits for a lock if it must.
    pub fn look(&self, recipient: &[u8], findings: &Evidence, explain: Explain<'_>) -> Verdict {
        self.router.route(recipient, &findings.over(&self.lists), findings, explain)
    }

    /// The same for a question that may be given up: a walk along a list ends then.
    pub fn look_until(
        &self,
        recipient: &[u8],
        findings: &Evidence,
        given_up: &AtomicBool,
    ) -> Verdict {
        let list = Abandonable { list: &findings.over(&self.lists), given_up };
        self.router.route(recipient, &list, findings, None)
    }

    /// Decides, and has names confirmed by `ask` as often as it takes, `MOST_ROUNDS` at most.
    /// `ask` may add to the findings what it learnt beside. Waits for locks, and as long as `ask` does.
    pub fn route(
        &self,
        recipient: &[u8],
        mut explain: Explain<'_>,
        mut findings: Evidence,
        ask: &mut dyn FnMut(&MailboxName, &mut Evidence) -> Confirmation,
    ) -> Route {
        if let Some(steps) = explain.as_deref_mut() {
            steps.push(format!("sources: {}", self.lists));
        }
        for _ in 0..=MOST_ROUNDS {
            let name = match self.look(recipient, &findings, explain.as_deref_mut()) {
                Verdict::Final(route) => return route,
                Verdict::Wait => return busy(),
                Verdict::Confirm(name) | Verdict::AskAgain(name) => name,
            };
            let said = ask(&name, &mut findings);
            if let Some(steps) = explain.as_deref_mut() {
                steps.push(format!("freshness: {}", said.in_words(&name)));
                steps.push("another look, now that this is known:".into());
            }
            findings.learn(name, said);
        }
        never_settled()
    }

    /// Asks the MUPDATE slave of this host, or reads the list, if that is how misses are confirmed.
    /// Blocks for up to `KICK_PATIENCE`.
    pub fn ask_slave(&self, _name: &MailboxName) -> Confirmation {
        match &self.proof {
            ConfirmVia::Slave(socket) | ConfirmVia::Master { slave: Some(socket) } => {
                Confirmation::Lists(kick(socket, KICK_PATIENCE).map_err(Into::into))
            }
            ConfirmVia::Complete => {
                Confirmation::Lists(self.lists.are_complete().map_err(Into::into))
            }
            ConfirmVia::List | ConfirmVia::Master { slave: None } => {
                Confirmation::Lists(Err("nobody can be asked".into()))
            }
        }
    }
}

/// A list that is not walked any more when nobody waits for the answer.
struct Abandonable<'a> {
    list: &'a dyn MailboxList,
    given_up: &'a AtomicBool,
}

impl Abandonable<'_> {
    fn outcome(&self, walked: Result<(), String>) -> Result<(), String> {
        match self.given_up.load(Relaxed) {
            true => Err("nobody waits for the answer any more".into()),
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

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.list.key_generation()
    }

    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), String> {
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
    ) -> Result<(), String> {
        self.outcome(self.list.each_past(prefix, &mut |name, record| {
            match self.given_up.load(Relaxed) {
                true => WalkStep::Stop,
                false => visit(name, record),
            }
        }))
    }
}

/// What is said where a list that may be waited for is busy all the same.
pub fn busy() -> Route {
    Route::deferred("the mailbox list is busy")
}

/// What is said after [`MOST_ROUNDS`].
pub fn never_settled() -> Route {
    Route::deferred("too many names would have to be confirmed")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::config::Overrides;
    use crate::cyrusdb::order::Order;
    use crate::cyrusdb::skip::node::Layout;
    use crate::routing::router::{Cause, Decision, MissTrust};
    use crate::testing::cyrus_writer::Writer;
    use crate::testing::random::Random;

    const FINAL: &str =
        "mailboxes-db = \"list\"\nmisses = \"final\"\ndomains = [\"example.org\"]\n";

    /// A list that takes for ever to walk.
    struct Endless;

    impl MailboxList for Endless {
        fn lookup(&self, _name: &MailboxName) -> Lookup {
            Lookup::Absent
        }

        fn each(
            &self,
            _prefix: &[u8],
            visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
        ) -> Result<(), String> {
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
    fn a_walk_ends_when_nobody_waits_for_it() {
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
        assert!(walked.unwrap_err().contains("nobody waits"));
        given_up.store(false, Relaxed);
        assert_eq!(list.each(b"", &mut |_, _| ControlFlow::Break(())), Ok(()));
        given_up.store(true, Relaxed);
        assert!(list.each(b"", &mut |_, _| panic!("it is not walked")).is_err());
    }

    /// A list, and how many records it has shown.
    struct Counting(FileList, AtomicUsize);

    impl MailboxList for Counting {
        fn lookup(&self, name: &MailboxName) -> Lookup {
            self.0.lookup(name)
        }

        fn each(
            &self,
            _prefix: &[u8],
            _visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
        ) -> Result<(), String> {
            panic!("a walk that passes nothing by");
        }

        fn each_past(
            &self,
            prefix: &[u8],
            visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
        ) -> Result<(), String> {
            self.0.each_past(prefix, &mut |name, record| {
                self.1.fetch_add(1, Relaxed);
                visit(name, record)
            })
        }
    }

    #[test]
    fn a_fuzzy_miss_reads_shared_folders_however_many_users_there_are() {
        const SHARED: usize = 50;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("imapd.conf"), "lmtp_fuzzy_mailbox_match: 1\nconfigdirectory: /v\n")
            .unwrap();
        // Each order of the keys is walked, until one is known to be it.
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
                    let list = FileList::open(path("list"), Options::default());
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
    fn a_reload_does_not_forget_how_long_the_list_has_been() {
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
            let nothing = resolver.nothing_found(None);
            let mut ask = |_: &MailboxName, _: &mut Evidence| panic!("there is nobody to ask");
            resolver.route(b"nobody@example.org", None, nothing, &mut ask).decision
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
