//! Executes the [`Policy`] of confirmations: sends FINDs, waits, kicks the slave. Makes no decisions.

use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use tokio::time::{sleep_until, timeout_at};
use tracing::warn;

use super::barrier::Barrier;
use crate::lists::combined::Lists;
use crate::master::barrier::Kicked;
use crate::master::client::{Impossible, Master, MasterView};
use crate::model::name::KeyGeneration;
use crate::os::kick::kick;
use crate::resolver::Resolver;
use crate::routing::confirm::question::nobody_to_ask;
use crate::routing::confirm::question::{Action, Event, Policy};
use crate::routing::confirm::{ConfirmVia, KICK_INTERVAL, KICK_TIMEOUT};
use crate::routing::evidence::Confirmation;
use crate::routing::inquiry::Ask;

/// Confirms names for one resolver. Shared by tasks.
pub struct Confirmer {
    master: Option<Arc<dyn Master>>,
    policy: Mutex<Policy>,
    started: tokio::time::Instant,
    via: ConfirmVia,
    /// The slave, or the check of the lists where these need no confirmation.
    slave: Option<Barrier>,
    /// The lists, where these need no confirmation.
    lists: Option<Lists>,
    impossible: Once,
}

impl Confirmer {
    /// A confirmer for a resolver. `master`: the client for FINDs. Without one, no recipient is unknown where
    /// the master would have to be asked. Must be called within a tokio runtime.
    pub fn new(resolver: &Resolver, master: Option<Arc<dyn Master>>) -> Self {
        Self::with_interval(resolver, master, KICK_INTERVAL)
    }

    /// A confirmer without an interval between kicks and without a budget of FINDs, for a command, which asks
    /// for one name after the other and delays no mail server.
    pub fn without_pause(resolver: &Resolver, master: Option<Arc<dyn Master>>) -> Self {
        Self::with_interval(resolver, master, Duration::ZERO)
    }

    fn with_interval(
        resolver: &Resolver,
        master: Option<Arc<dyn Master>>,
        interval: Duration,
    ) -> Self {
        let via = resolver.proof.clone();
        let lists = (via == ConfirmVia::Complete).then(|| resolver.lists.clone());
        let slave = match (&via, lists.clone()) {
            (ConfirmVia::Slave(at) | ConfirmVia::Master { slave: Some(at) }, _) => {
                let at = at.clone();
                Some(Barrier::new(interval, move || kick(&at, KICK_TIMEOUT)))
            }
            (_, Some(lists)) => Some(Barrier::new(interval, move || lists.are_complete())),
            (_, None) => None,
        };
        let policy = Mutex::new(Policy::new(&via, !interval.is_zero()));
        let (started, impossible) = (tokio::time::Instant::now(), Once::new());
        Self { master, policy, started, via, slave, lists, impossible }
    }

    /// The client for FINDs.
    pub(crate) fn master(&self) -> Option<&dyn Master> {
        self.master.as_deref()
    }

    /// Kind of names that the master keeps, if known.
    pub fn key_generation(&self) -> Option<KeyGeneration> {
        self.master.as_ref().and_then(|master| master.key_generation())
    }

    fn policy(&self) -> MutexGuard<'_, Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Confirms a name.
    pub async fn confirm(&self, ask: &Ask) -> Confirmation {
        let view = || self.master.as_deref().map(|master| master as &dyn MasterView);
        let begun = self.policy().begin(ask.clone(), view(), self.started.elapsed());
        let (mut question, mut action) = begun;
        loop {
            let event = match action {
                Action::Done(said) => return said,
                Action::WaitUntil(time) => {
                    sleep_until(self.started + time).await;
                    Event::Reached
                }
                Action::Find { by } => self.find(ask, by).await,
                Action::CatchUp => Event::CaughtUp(match &self.master {
                    Some(master) => master.caught_up().await,
                    None => Ok(()),
                }),
                Action::Kick => Event::Kicked(self.kick().await),
            };
            let why = match &event {
                Event::Found(Err(Impossible(why))) => Some(why.clone()),
                _ => None,
            };
            let now = self.started.elapsed();
            action = self.policy().event(&mut question, event, view(), now);
            if let (Some(why), Action::Kick) = (why, &action) {
                self.impossible.call_once(|| {
                    warn!(
                        "the MUPDATE master cannot confirm misses, so the MUPDATE slave of this host \
                         confirms them: {why}"
                    );
                });
            }
        }
    }

    async fn find(&self, ask: &Ask, by: Option<Duration>) -> Event {
        let Some(master) = &self.master else { return Event::Reached };
        let finding = master.find(&ask.name);
        match by {
            None => Event::Found(finding.await),
            Some(by) => match timeout_at(self.started + by, finding).await {
                Ok(found) => Event::Found(found),
                Err(_) => Event::Reached,
            },
        }
    }

    /// Waits for the slave, or checks the lists.
    async fn kick(&self) -> Kicked {
        if let Some(known) = self.lists.as_ref().and_then(Lists::known_complete) {
            if let Err(why) = &known {
                self.impossible.call_once(|| warn!("unknown recipients are deferred: {why}"));
            }
            return known;
        }
        match &self.slave {
            Some(slave) => slave.wait().await,
            None => Err(nobody_to_ask()),
        }
    }

    /// Reason why the slave of this host, where it replaces the master, does not confirm that the lists
    /// have caught up. `None`: it does, or it is not used.
    pub(crate) async fn slave_trouble(&self) -> Option<String> {
        let by_master = || !self.master.as_ref().is_some_and(|master| master.is_impossible());
        if matches!(self.via, ConfirmVia::Master { .. }) && by_master() {
            return None;
        }
        self.slave.as_ref()?.wait().await.err().map(|why| why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::master::client::Asking;
    use crate::model::doubt::{Doubt, DoubtKind};
    use crate::model::name::MailboxName;
    use crate::mupdate::Finding;
    use crate::routing::confirm::{BREAKER_TIME, KNOWN_NAME_TIMEOUT};
    use crate::routing::inquiry::Why;

    /// Gives these answers in order, then repeats the last one; without any, never answers.
    struct Fake {
        answers: Mutex<Vec<Result<Finding, Impossible>>>,
        asked: AtomicUsize,
        deleted: bool,
        behind: bool,
        trouble: bool,
        connecting: bool,
    }

    impl MasterView for Fake {
        fn deleted_lately(&self, _name: &MailboxName) -> bool {
            self.deleted
        }

        fn trouble(&self) -> Option<String> {
            self.trouble.then(|| "down".to_owned())
        }

        fn is_connecting(&self) -> bool {
            self.connecting
        }
    }

    impl Master for Fake {
        fn find<'a>(&'a self, _: &'a MailboxName) -> Asking<'a, Result<Finding, Impossible>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let mut answers = self.answers.lock().unwrap();
            if answers.is_empty() {
                return Box::pin(std::future::pending());
            }
            let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            Box::pin(async { answer })
        }

        fn caught_up(&self) -> Asking<'_, Kicked> {
            let caught_up = if self.behind { Err("behind".into()) } else { Ok(()) };
            Box::pin(async { caught_up })
        }
    }

    fn fake(answers: Vec<Result<Finding, Impossible>>) -> Fake {
        let (answers, asked) = (Mutex::new(answers), AtomicUsize::new(0));
        Fake { answers, asked, deleted: false, behind: false, trouble: false, connecting: false }
    }

    fn confirmer(proof: ConfirmVia, master: Option<Arc<dyn Master>>) -> Confirmer {
        let rules = crate::address::Rules::defaults(crate::address::Release::V3_6);
        let router = crate::routing::router::Router {
            domains: Default::default(),
            rules,
            older: Vec::new(),
            backends: Default::default(),
        };
        let maps = Default::default();
        let (lists, vital) = (Lists::default(), Default::default());
        let accept_after = Duration::from_secs(600);
        let resolver = Resolver { router, maps, lists, proof, vital, accept_after };
        Confirmer::new(&resolver, master)
    }

    fn name() -> MailboxName {
        MailboxName::new("user.jane").unwrap()
    }

    fn miss(name: MailboxName) -> Ask {
        Ask { name, why: Why::Miss, within: None, searches: false, unsettled: false }
    }

    fn changed(name: MailboxName) -> Ask {
        Ask { why: Why::Changed, within: Some(KNOWN_NAME_TIMEOUT), ..miss(name) }
    }

    fn impossible() -> Result<Finding, Impossible> {
        Err(Impossible("no credentials".into()))
    }

    /// A slave that never answers ok.
    fn no_slave() -> Option<std::path::PathBuf> {
        Some("/nonexistent/mupdate.target".into())
    }

    #[tokio::test(start_paused = true)]
    async fn mailbox_in_the_middle_of_a_rename_is_not_unknown() {
        let record = crate::model::record::Record {
            state: crate::model::record::State::Active,
            server: Some("be1".into()),
            partition: String::new(),
            anonymous: Default::default(),
        };
        let found = Finding::Found(record);
        let mut master = fake(vec![Ok(Finding::Absent), Ok(found.clone())]);
        master.deleted = true;
        let confirmer = confirmer(ConfirmVia::Master { slave: None }, Some(Arc::new(master)));
        assert_eq!(confirmer.confirm(&miss(name())).await, Confirmation::Master(found));
    }

    /// 500 unknown names a second, for ten seconds.
    #[tokio::test(start_paused = true)]
    async fn flood_of_misses_has_a_budget_and_delays_no_new_account() {
        let master = Arc::new(fake(vec![Ok(Finding::Absent)]));
        let asked: Arc<dyn Master> = master.clone();
        let confirmer = Arc::new(confirmer(ConfirmVia::Master { slave: None }, Some(asked)));
        let began = Instant::now();
        let mut strangers = Vec::new();
        for n in 0..5000u64 {
            sleep_until(began + Duration::from_millis(2) * u32::try_from(n).unwrap()).await;
            let confirmer = Arc::clone(&confirmer);
            let stranger = MailboxName::new(format!("user.u{n}")).unwrap();
            strangers.push(tokio::spawn(async move { confirmer.confirm(&miss(stranger)).await }));
        }
        let at = Instant::now();
        // In the list, and created recently.
        assert_eq!(
            confirmer.confirm(&changed(name())).await,
            Confirmation::Master(Finding::Absent)
        );
        assert!(at.elapsed() <= Duration::from_secs(1));
        let (mut absent, mut unsure) = (0, 0);
        for stranger in strangers {
            match stranger.await.unwrap() {
                Confirmation::Master(Finding::Absent) => absent += 1,
                Confirmation::Master(Finding::Unsure(_)) => unsure += 1,
                said => panic!("{said:?}"),
            }
        }
        let asked = master.asked.load(Ordering::SeqCst);
        assert!((2000..=2500).contains(&asked), "{asked}");
        assert!(absent >= 2000 && unsure >= 2000, "{absent} {unsure}");
        // A second later no client has to wait.
        sleep(Duration::from_secs(2)).await;
        let at = Instant::now();
        assert_eq!(confirmer.confirm(&miss(name())).await, Confirmation::Master(Finding::Absent));
        assert_eq!(at.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn silent_master_is_not_replaced_by_the_slave() {
        let master = Arc::new(fake(vec![Ok(Finding::Unsure("hung".into()))]));
        let asked: Arc<dyn Master> = master.clone();
        let confirmer = confirmer(ConfirmVia::Master { slave: no_slave() }, Some(asked));
        assert_eq!(
            confirmer.confirm(&miss(name())).await,
            Confirmation::Master(Finding::Unsure("hung".into()))
        );
        assert_eq!(master.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn slave_is_asked_if_the_master_cannot_be() {
        for (slave, by_slave) in [(no_slave(), true), (None, false)] {
            let master = fake(vec![impossible()]);
            let confirmer = confirmer(ConfirmVia::Master { slave }, Some(Arc::new(master)));
            match confirmer.confirm(&miss(name())).await {
                Confirmation::Lists(Err(why)) if by_slave => {
                    assert!(why.contains("mupdate.target"))
                }
                Confirmation::Master(Finding::Unsure(why)) if !by_slave => {
                    assert_eq!(why.as_str(), "no credentials");
                }
                said => panic!("{said:?}"),
            }
        }
    }

    #[tokio::test]
    async fn miss_that_rests_on_a_walk_needs_lists_that_caught_up() {
        for (fuzzy, behind, slave) in
            [(true, true, None), (true, false, no_slave()), (false, true, no_slave())]
        {
            let mut master = fake(vec![Ok(Finding::Absent)]);
            master.behind = behind;
            let confirmer = confirmer(ConfirmVia::Master { slave }, Some(Arc::new(master)));
            let said = confirmer.confirm(&Ask { searches: fuzzy, ..miss(name()) }).await;
            match fuzzy {
                true => {
                    assert!(matches!(said, Confirmation::Master(Finding::Unsure(_))), "{said:?}")
                }
                false => assert_eq!(said, Confirmation::Master(Finding::Absent)),
            }
        }
    }

    #[tokio::test]
    async fn no_absence_is_confirmed_without_a_connection() {
        let confirmer = confirmer(ConfirmVia::Master { slave: no_slave() }, None);
        let said = confirmer.confirm(&miss(name())).await;
        assert!(matches!(said, Confirmation::Master(Finding::Unsure(_))), "{said:?}");
    }

    fn found() -> Finding {
        Finding::Found(crate::model::record::Record {
            state: crate::model::record::State::Active,
            server: Some("be1".into()),
            partition: String::new(),
            anonymous: Default::default(),
        })
    }

    fn at_master(master: &Arc<Fake>) -> Confirmer {
        let asked: Arc<dyn Master> = master.clone();
        confirmer(ConfirmVia::Master { slave: no_slave() }, Some(asked))
    }

    #[tokio::test(start_paused = true)]
    async fn hung_master_hardly_delays_a_known_recipient() {
        let master = Arc::new(fake(Vec::new()));
        let confirmer = at_master(&master);
        for (waits, asked) in [(250, 1), (0, 1), (0, 1)] {
            let began = Instant::now();
            let said = confirmer.confirm(&changed(name())).await;
            assert!(matches!(said, Confirmation::Master(Finding::Unsure(_))), "{said:?}");
            assert_eq!(began.elapsed().as_millis(), waits);
            assert_eq!(master.asked.load(Ordering::SeqCst), asked);
        }
        master.answers.lock().unwrap().push(Ok(found()));
        sleep(BREAKER_TIME).await;
        assert_eq!(confirmer.confirm(&changed(name())).await, Confirmation::Master(found()));
    }

    #[tokio::test(start_paused = true)]
    async fn master_known_to_be_down_is_not_asked_for_a_known_name() {
        let mut master = fake(Vec::new());
        master.trouble = true;
        let master = Arc::new(master);
        let began = Instant::now();
        let said = at_master(&master).confirm(&changed(name())).await;
        let doubt = Doubt::new(DoubtKind::Unreachable, "down");
        assert_eq!(said, Confirmation::Master(Finding::Unsure(doubt)));
        assert!(began.elapsed().is_zero());
        assert_eq!(master.asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn known_but_absent_name_is_confirmed_like_any_miss() {
        let mut master = fake(vec![Ok(Finding::Absent), Ok(Finding::Absent), Ok(found())]);
        master.deleted = true;
        let master = Arc::new(master);
        assert_eq!(
            at_master(&master).confirm(&changed(name())).await,
            Confirmation::Master(found())
        );
        assert_eq!(master.asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn first_connection_is_waited_for_without_opening_the_breaker() {
        let starting = |answers| Fake { trouble: true, connecting: true, ..fake(answers) };
        let master = Arc::new(starting(vec![Ok(found())]));
        assert_eq!(
            at_master(&master).confirm(&changed(name())).await,
            Confirmation::Master(found())
        );
        let master = Arc::new(starting(Vec::new()));
        let confirmer = at_master(&master);
        for _ in 0..2 {
            let said = confirmer.confirm(&changed(name())).await;
            assert!(matches!(said, Confirmation::Master(Finding::Unsure(_))), "{said:?}");
        }
        assert_eq!(master.asked.load(Ordering::SeqCst), 2);
    }
}
