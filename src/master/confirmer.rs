//! Asks whoever can confirm that there is no such mailbox.

use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::warn;

use super::barrier::{Barrier, PAUSE};
use super::find_budget::Budget;
use crate::lists::combined::Lists;
use crate::master::client::{Impossible, Master};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::mupdate::Finding;
use crate::os::kick::kick;
use crate::resolver::Resolver;
use crate::routing::confirm::{ConfirmVia, KICK_TIMEOUT};
use crate::routing::evidence::Confirmation;
use crate::routing::inquiry::Ask;

/// Between the two questions for a name that was deleted a moment ago. A rename is two messages of
/// the master, which follow each other within milliseconds as a rule.
const RENAME_GAP: Duration = Duration::from_secs(1);

/// For so long the master is not asked for anybody whom the lists have, once he did not answer soon:
/// a mail server's lookups queue behind each other.
const SILENCE: Duration = Duration::from_secs(5);

/// Confirms names for one resolver. Shared by tasks.
pub struct Confirmer {
    master: Option<Arc<dyn Master>>,
    ask_master: bool,
    slave: Option<Barrier>,
    /// The lists, where a miss is believed if they are complete by themselves.
    lists: Option<Lists>,
    /// How often the master is asked for what strangers choose; `None`: as often as it takes.
    budget: Option<Budget>,
    impossible: Once,
    /// Until when the master is not asked for whom the lists have.
    silent: Mutex<Option<Instant>>,
}

impl Confirmer {
    /// Confirms what this resolver wants confirmed. `master` is who is asked for names; without one
    /// nobody is unknown where the master would have to be asked. Must be called within a tokio
    /// runtime.
    pub fn new(resolver: &Resolver, master: Option<Arc<dyn Master>>) -> Self {
        Self::with_pause(resolver, master, PAUSE)
    }

    /// The same for a command, which asks for one name after the other and holds up nobody.
    pub fn without_pause(resolver: &Resolver, master: Option<Arc<dyn Master>>) -> Self {
        Self::with_pause(resolver, master, Duration::ZERO)
    }

    fn with_pause(resolver: &Resolver, master: Option<Arc<dyn Master>>, pause: Duration) -> Self {
        let (ask_master, socket) = match &resolver.proof {
            ConfirmVia::List | ConfirmVia::Complete => (false, None),
            ConfirmVia::Slave(socket) => (false, Some(socket)),
            ConfirmVia::Master { slave } => (true, slave.as_ref()),
        };
        let lists = (resolver.proof == ConfirmVia::Complete).then(|| resolver.lists.clone());
        let slave = match (socket.cloned(), lists.clone()) {
            (Some(at), _) => Some(Barrier::new(pause, move || kick(&at, KICK_TIMEOUT))),
            (None, Some(lists)) => Some(Barrier::new(pause, move || lists.are_complete())),
            (None, None) => None,
        };
        let budget = (!pause.is_zero()).then(Budget::default);
        let (impossible, silent) = (Once::new(), Mutex::new(None));
        Self { master, ask_master, slave, lists, budget, impossible, silent }
    }

    /// Who is asked for names.
    pub(crate) fn master(&self) -> Option<&dyn Master> {
        self.master.as_deref()
    }

    /// What names the master keeps, if he was heard.
    pub fn key_generation(&self) -> Option<KeyGeneration> {
        self.master.as_ref().and_then(|master| master.key_generation())
    }

    /// Confirms a name: by the master, or by the local slave where the master cannot be asked.
    pub async fn confirm(&self, ask: &Ask) -> Confirmation {
        if let Some(within) = ask.within {
            return self.confirm_soon(ask, within).await;
        }
        if self.ask_master
            && let Some(said) = self.waits_for_turn(&ask.name).await
        {
            return said;
        }
        self.confirm_miss(ask).await
    }

    async fn confirm_miss(&self, ask: &Ask) -> Confirmation {
        if self.ask_master {
            match self.find(&ask.name, ask.searches).await {
                Ok(finding) => return Confirmation::Master(finding),
                Err(Impossible(why)) if self.slave.is_none() => {
                    return Confirmation::Master(Finding::Unsure(why));
                }
                Err(why) => self.impossible.call_once(|| {
                    warn!(
                        "the MUPDATE master cannot be asked who is unknown, so it is what the \
                         MUPDATE slave of this host says: {why}"
                    );
                }),
            }
        }
        self.caught_up().await
    }

    /// Waits until the master may be asked for another name that the lists do not have. Where too many
    /// are asked for, the lists catch up instead, which all who wait share: an account that was made a
    /// moment ago is found by that, and a stranger is not refused without the master's word.
    async fn waits_for_turn(&self, name: &MailboxName) -> Option<Confirmation> {
        let (budget, master) = (self.budget.as_ref()?, self.master.as_ref()?);
        // Then it is the slave who is asked, once for all who wait; or nobody.
        if master.is_impossible() || master.needs_no_question(name) {
            return None;
        }
        let now = Instant::now();
        match budget.turn(now) {
            Some(turn) if turn <= now => None,
            Some(turn) => {
                sleep_until(turn).await;
                None
            }
            None => {
                // Whether they have is seen by another look at them.
                match &self.slave {
                    Some(slave) => drop(slave.wait().await),
                    None => drop(master.caught_up().await),
                }
                let why = "more unknown names a second than the MUPDATE master is asked for";
                Some(Confirmation::Master(Finding::Unsure(why.into())))
            }
        }
    }

    /// Asks the master for a name that the lists have, if he can be asked just now. Takes up to a
    /// quarter of a second; unless he says that he does not have it, which is confirmed as any miss.
    async fn confirm_soon(&self, ask: &Ask, within: Duration) -> Confirmation {
        let name = &ask.name;
        let unsure = |why: String| Confirmation::Master(Finding::Unsure(why));
        let Some(master) = self.master.as_ref().filter(|_| self.ask_master) else {
            return unsure("there is no connection to the MUPDATE master".into());
        };
        // A daemon that has just started waits for its first connection: its list may be some seconds
        // behind the master, as before the restart.
        let connecting = master.is_connecting();
        if let Some(trouble) = master.trouble().filter(|_| !connecting) {
            return unsure(trouble);
        }
        if self.silent().is_some_and(|until| Instant::now() < until) {
            return unsure("the MUPDATE master did not answer a moment ago".into());
        }
        master.is_listed(name);
        match timeout(within, master.find(name)).await {
            // The lists have it, so it is no stranger.
            Ok(Ok(Finding::Absent)) => self.confirm_miss(ask).await,
            Ok(Ok(finding)) => Confirmation::Master(finding),
            Ok(Err(Impossible(why))) => unsure(why),
            Err(_) => {
                if !connecting {
                    *self.silent() = Some(Instant::now() + SILENCE);
                }
                unsure(format!(
                    "the MUPDATE master did not answer within {} s",
                    within.as_secs_f32()
                ))
            }
        }
    }

    fn silent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find(&self, name: &MailboxName, walks: bool) -> Result<Finding, Impossible> {
        let Some(master) = &self.master else {
            return Ok(Finding::Unsure("there is no connection to the MUPDATE master".into()));
        };
        let mut finding = master.find(name).await?;
        if finding == Finding::Absent && master.deleted_lately(name) {
            sleep(RENAME_GAP).await;
            finding = master.find(name).await?;
        }
        if finding == Finding::Absent && walks {
            // The master can tell of the name, but of no other one that is like it.
            if let Err(why) = master.caught_up().await {
                finding = Finding::Unsure(why);
            } else if let Some(slave) = &self.slave
                && let Err(why) = slave.wait().await
            {
                finding = Finding::Unsure(why.to_string());
            }
        }
        Ok(finding)
    }

    /// Why the slave of this host, where it is asked in the master's place, does not say that the lists
    /// have caught up, if it does not.
    pub(crate) async fn slave_trouble(&self) -> Option<String> {
        let by_master = || !self.master.as_ref().is_some_and(|master| master.is_impossible());
        if self.ask_master && by_master() {
            return None;
        }
        self.slave.as_ref()?.wait().await.err().map(|why| why.to_string())
    }

    async fn caught_up(&self) -> Confirmation {
        if let Some(known) = self.lists.as_ref().and_then(Lists::known_complete) {
            if let Err(why) = &known {
                self.impossible.call_once(|| warn!("unknown recipients are deferred: {why}"));
            }
            return Confirmation::Lists(known.map_err(Into::into));
        }
        Confirmation::Lists(match &self.slave {
            Some(slave) => slave.wait().await,
            None => Err("there is nobody to ask".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::master::client::Asking;
    use crate::routing::confirm::KNOWN_NAME_TIMEOUT;
    use crate::routing::inquiry::Why;

    /// Answers one after the other, the last again and again; never, if there is none.
    struct Fake {
        answers: Mutex<Vec<Result<Finding, Impossible>>>,
        asked: AtomicUsize,
        deleted: bool,
        behind: bool,
        trouble: bool,
        connecting: bool,
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

        fn deleted_lately(&self, _name: &MailboxName) -> bool {
            self.deleted
        }

        fn caught_up(&self) -> Asking<'_, Result<(), String>> {
            let caught_up = if self.behind { Err("behind".into()) } else { Ok(()) };
            Box::pin(async { caught_up })
        }

        fn trouble(&self) -> Option<String> {
            self.trouble.then(|| "down".to_owned())
        }

        fn is_connecting(&self) -> bool {
            self.connecting
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

    /// A slave that never says ok.
    fn no_slave() -> Option<std::path::PathBuf> {
        Some("/nonexistent/mupdate.target".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_mailbox_between_the_halves_of_a_rename_is_not_unknown() {
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

    /// 500 strangers a second, for ten seconds.
    #[tokio::test(start_paused = true)]
    async fn flood_of_strangers_has_a_budget_and_holds_up_no_new_account() {
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
        // In the list, and made a moment ago.
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
        // A moment later nobody has to wait.
        sleep(Duration::from_secs(2)).await;
        let at = Instant::now();
        assert_eq!(confirmer.confirm(&miss(name())).await, Confirmation::Master(Finding::Absent));
        assert_eq!(at.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_master_who_does_not_answer_is_not_replaced_by_the_slave() {
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
    async fn where_there_is_no_asking_the_master_the_slave_is_asked_if_there_is_one() {
        for (slave, by_slave) in [(no_slave(), true), (None, false)] {
            let master = fake(vec![impossible()]);
            let confirmer = confirmer(ConfirmVia::Master { slave }, Some(Arc::new(master)));
            match confirmer.confirm(&miss(name())).await {
                Confirmation::Lists(Err(why)) if by_slave => {
                    assert!(why.contains("mupdate.target"))
                }
                Confirmation::Master(Finding::Unsure(why)) if !by_slave => {
                    assert_eq!(why, "no credentials");
                }
                said => panic!("{said:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_miss_that_rests_on_a_walk_needs_lists_that_have_caught_up() {
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
    async fn without_a_connection_nobody_is_confirmed_absent() {
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
    async fn a_hung_master_holds_up_nobody_who_is_known_for_more_than_a_moment() {
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
        sleep(SILENCE).await;
        assert_eq!(confirmer.confirm(&changed(name())).await, Confirmation::Master(found()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_who_is_known_to_be_down_is_not_asked_for_who_is_known() {
        let mut master = fake(Vec::new());
        master.trouble = true;
        let master = Arc::new(master);
        let began = Instant::now();
        let said = at_master(&master).confirm(&changed(name())).await;
        assert_eq!(said, Confirmation::Master(Finding::Unsure("down".into())));
        assert!(began.elapsed().is_zero());
        assert_eq!(master.asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_and_not_there_is_asked_for_as_anybody_whom_nobody_knows() {
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
    async fn first_connection_is_waited_for_and_its_silence_is_no_silence() {
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
