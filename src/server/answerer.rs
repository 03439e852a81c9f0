//! Turns requests into replies: the daemon's side of the [`Resolver`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::counters::Counters;
use super::log::{Escaped, RateLimit};
use super::status::DaemonStatus;
use super::{Connections, Responder};
use crate::lists::combined::Source;
use crate::master::client::Master;
use crate::master::confirmer::Confirmer;
use crate::model::list::{Lookup, MailboxList};
use crate::model::name::MailboxName;
use crate::model::record::State;
use crate::model::unsettled::{Lingering, Stuck};
use crate::resolver::Resolver;
use crate::routing::confirm::unsettled::UnsettledNames;
use crate::routing::evidence::{Confirmation, Evidence};
use crate::routing::inquiry::{Inquiry, Step, Why, busy};
use crate::routing::maps::{STATUS_MAP, is_about_now, is_in_any_case};
use crate::routing::route::{Cause, Decision, Route};
use crate::wire::rcpt::RcptVerdict;
use crate::wire::socketmap::Reply;

/// Answers requests from a resolver that can be replaced at any time.
pub struct Answerer {
    serving: ArcSwap<Serving>,
    trouble: RateLimit,
    counters: Counters,
    connections: OnceLock<Arc<Connections>>,
    started: Instant,
    lingering: Mutex<Lingering>,
    unsettled: Mutex<UnsettledNames>,
}

struct Serving {
    resolver: Arc<Resolver>,
    confirmer: Confirmer,
    /// Evidence before any confirmation.
    evidence: Evidence,
    /// Evidence for a recipient whose message is about to be delivered.
    evidence_now: Evidence,
    /// Evidence for a recipient that may have been folded to lower case.
    evidence_folded: Evidence,
    /// Limit of concurrent lookups that may wait for locks or walk the list. Remote clients choose
    /// the number of such lookups, and each takes a thread of the pool that kicks need as well.
    looks: Arc<Semaphore>,
}

/// Marks that a request waits for its answer. Dropped when the request is cancelled.
#[derive(Default)]
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Maximum number of concurrent lookups that may take long. Others queue; those that reach
/// their deadline in the queue cost nothing.
const LOOKS: usize = 8;

impl Serving {
    fn new(resolver: Resolver, master: Option<Arc<dyn Master>>) -> Self {
        let confirmer = Confirmer::new(&resolver, master);
        let evidence = resolver.evidence(None).ask_again();
        let evidence_now = evidence.clone().ask_for_all();
        let evidence_folded = evidence.clone().folded();
        let looks = Arc::new(Semaphore::new(LOOKS));
        Self {
            resolver: Arc::new(resolver),
            confirmer,
            evidence,
            evidence_now,
            evidence_folded,
            looks,
        }
    }
}

impl Answerer {
    /// Creates an answerer with this resolver, and with this master if it confirms misses. Must be
    /// called within a tokio runtime.
    pub fn new(resolver: Resolver, master: Option<Arc<dyn Master>>) -> Self {
        let serving = Serving::new(resolver, master);
        Self {
            serving: ArcSwap::from_pointee(serving),
            trouble: RateLimit::new(),
            counters: Counters::default(),
            connections: OnceLock::new(),
            started: Instant::now(),
            lingering: Mutex::default(),
            unsettled: Mutex::default(),
        }
    }

    /// Records the names that a walk over the lists found reserved or moving.
    pub(super) fn found_waiting(&self, found: Vec<(MailboxName, State, Option<String>)>) {
        let now = self.started.elapsed();
        let serving = self.serving.load();
        for (name, ..) in &found {
            self.saw_unsettled(&serving.resolver, name);
        }
        self.lingering.lock().unwrap_or_else(PoisonError::into_inner).look(found, now);
    }

    fn unsettled(&self) -> MutexGuard<'_, UnsettledNames> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a name is reserved or moving. Not with a replica: its stream reports deletions.
    fn saw_unsettled(&self, resolver: &Resolver, name: &MailboxName) {
        if without_stream(resolver) {
            self.unsettled().saw(name, self.started.elapsed(), resolver.accept_after);
        }
    }

    /// Weighs a confirmation against the earlier states of the name.
    fn weigh(&self, resolver: &Resolver, name: &MailboxName, said: Confirmation) -> Confirmation {
        let is_listed = || !matches!(resolver.lists.now().lookup(name), Lookup::Absent);
        let (now, keep) = (self.started.elapsed(), resolver.accept_after);
        let watches = without_stream(resolver);
        let weighed = self.unsettled().weigh(name, said, is_listed, watches, now, keep);
        if let Some(warning) = weighed.warning {
            warn!("{warning}");
        }
        weighed.said
    }

    /// Returns the mailboxes that have been reserved or moving for at least this time, with the
    /// actual times.
    pub(super) fn waiting(&self, at_least: Duration) -> Vec<(Stuck, Duration)> {
        let now = self.started.elapsed();
        let lingering = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        let longer = lingering.longer_than(at_least, now).into_iter();
        longer.map(|waiting| (waiting.clone(), now.saturating_sub(waiting.since))).collect()
    }

    /// Includes these connections in the status. Only the first call has an effect.
    pub fn count_connections(&self, connections: Arc<Connections>) {
        let _ = self.connections.set(connections);
    }

    /// Returns the daemon's status in JSON.
    async fn status(&self, serving: &Arc<Serving>) -> Reply {
        let (serving, counted) = (Arc::clone(serving), self.counters.counted());
        let connections = self.connections.get().map_or(0, |connections| connections.count());
        let slave_trouble = serving.confirmer.slave_trouble().await;
        let waiting = self.waiting(Duration::ZERO);
        let look = move || {
            let master = serving.confirmer.master();
            let mut status =
                DaemonStatus::of(&serving.resolver, master, slave_trouble, connections, counted);
            status.set_waiting(&waiting);
            serde_json::to_string(&status).map_err(|e| e.to_string())
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(json)) => Reply::Ok(json),
            Ok(Err(why)) => Reply::Temp(why),
            Err(_) => Reply::Temp("murder-route failed inside (a bug)".into()),
        }
    }

    /// Replaces the resolver. Requests in progress end with the old one.
    pub fn exchange(&self, resolver: Resolver, master: Option<Arc<dyn Master>>) {
        self.serving.store(Arc::new(Serving::new(resolver, master)));
    }

    /// Returns the current resolver.
    pub fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(&self.serving.load().resolver)
    }

    fn reply(&self, resolver: &Resolver, map: &str, key: &[u8], route: &Route) -> Reply {
        // A key that is not UTF-8 is foreign, so no part of it is in the answer.
        let key = String::from_utf8_lossy(key);
        self.decided(map, &key, route);
        match resolver.maps.get(map) {
            Some(map) => resolver.maps.reply(map, &resolver.router, &key, route),
            None if route.decision == Decision::Foreign => Reply::NotFound,
            None => Reply::Temp(format!("murder-route has no map named {map}")),
        }
    }

    fn at_rcpt(&self, resolver: &Resolver, recipient: &[u8], route: &Route) -> RcptVerdict {
        self.decided("rcpt", &String::from_utf8_lossy(recipient), route);
        resolver.maps.at_rcpt(&route.decision)
    }

    /// Counts and logs a decision.
    fn decided(&self, map: &str, key: &str, route: &Route) {
        self.counters.decided(&route.decision);
        if let Decision::Deferred(Cause::List) = route.decision
            && let Some(more) = self.trouble.admit(Instant::now())
        {
            warn!("{}: deferred: {}{more}", Escaped(key), Escaped(&route.reason));
        }
        debug!("{map} {}: {}: {}", Escaped(key), route.decision.as_str(), Escaped(&route.why()));
    }
}

impl Responder for Answerer {
    fn at_once(&self, map: &str, key: &[u8]) -> Option<Reply> {
        let serving = self.serving.load();
        match serving.resolver.step_now(&Inquiry::new(key, serving.evidence(map))) {
            // Asked here, where it does not delay the answers to mail servers.
            Step::Done(Route { decision: Decision::Foreign, .. }) if map == STATUS_MAP => None,
            Step::Done(route) => Some(self.reply(&serving.resolver, map, key, &route)),
            Step::Ask(_) | Step::WouldBlock => None,
        }
    }

    async fn in_time(&self, map: &str, key: &[u8]) -> Reply {
        let serving = self.serving.load_full();
        if map == STATUS_MAP {
            return self.status(&serving).await;
        }
        let route = serving.route(key, serving.evidence(map), self).await;
        self.reply(&serving.resolver, map, key, &route)
    }

    fn rcpt_at_once(&self, recipient: &[u8]) -> Option<RcptVerdict> {
        let serving = self.serving.load();
        match serving.resolver.step_now(&Inquiry::new(recipient, &serving.evidence)) {
            Step::Done(route) => Some(self.at_rcpt(&serving.resolver, recipient, &route)),
            Step::Ask(_) | Step::WouldBlock => None,
        }
    }

    async fn rcpt_in_time(&self, recipient: &[u8]) -> RcptVerdict {
        let serving = self.serving.load_full();
        let route = serving.route(recipient, &serving.evidence, self).await;
        self.at_rcpt(&serving.resolver, recipient, &route)
    }
}

impl Serving {
    fn evidence(&self, map: &str) -> &Evidence {
        match map {
            _ if is_about_now(map) => &self.evidence_now,
            _ if is_in_any_case(map) => &self.evidence_folded,
            _ => &self.evidence,
        }
    }

    /// Decides, and has names confirmed.
    async fn route(&self, key: &[u8], evidence: &Evidence, answerer: &Answerer) -> Route {
        let mut inquiry = Inquiry::new(key, evidence).into_owned();
        inquiry.learn_generation(self.confirmer.key_generation());
        loop {
            let mut step = self.resolver.step_now(&inquiry);
            if step == Step::WouldBlock {
                let Some(stepped) = self.step_blocking(inquiry).await else {
                    return failed_inside();
                };
                (inquiry, step) = stepped;
            }
            let ask = match step {
                Step::Done(route) => return route,
                Step::WouldBlock => return busy(),
                Step::Ask(ask) => ask,
            };
            match ask.why {
                Why::Miss => answerer.counters.confirming(),
                Why::Changed => answerer.counters.asking_again(),
            }
            if ask.unsettled {
                answerer.saw_unsettled(&self.resolver, &ask.name);
            }
            let said = self.confirmer.confirm(&ask).await;
            let said = answerer.weigh(&self.resolver, &ask.name, said);
            inquiry.learn(ask, said, None);
            inquiry.learn_generation(self.confirmer.key_generation());
        }
    }

    /// Takes a step where waiting for a lock blocks no worker of the runtime. `None` after a panic
    /// in it.
    async fn step_blocking(&self, inquiry: Inquiry<'static>) -> Option<(Inquiry<'static>, Step)> {
        let waiting = Waiting::default();
        let given_up = Arc::clone(&waiting.0);
        let resolver = Arc::clone(&self.resolver);
        let place = Arc::clone(&self.looks).acquire_owned().await.ok()?;
        let look = move || {
            // Kept until the lookup ends, even if the request is cancelled.
            let _place = place;
            let step = resolver.step_until(&inquiry, &given_up);
            (inquiry, step)
        };
        tokio::task::spawn_blocking(look).await.ok()
    }
}

/// Whether no list has a stream that reports deletions.
fn without_stream(resolver: &Resolver) -> bool {
    !resolver.lists.sources().iter().any(|source| matches!(source, Source::Replica(_)))
}

fn failed_inside() -> Route {
    Route::deferred("murder-route failed inside (a bug): please report it")
}
