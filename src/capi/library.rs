//! What the exported functions do, in safe Rust.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use super::daemon::{Daemon, Pool};
use super::waiting::Waiting;
use super::{panics, process, text};
use crate::address::Recipient;
use crate::config::{ConfigError, Overrides, Settings, SourceName};
use crate::lists::combined::{Lists, Source};
use crate::lists::mailboxes_db::lock;
use crate::lists::user_deny::UserDeny;
use crate::lists::{FileList, FileListOptions};
use crate::model::list::MailboxList;
use crate::model::name::MailboxName;
use crate::os::pinned_path::PinnedPath;
use crate::replica::read::offline::OfflineReplica;
use crate::routing::confirm::ConfirmVia;
use crate::routing::evidence::{Confirmation, Evidence};
use crate::routing::inquiry::busy;
use crate::routing::maps::{Maps, UnknownPolicy, is_in_any_case};
use crate::routing::router::{Cause, Decision, Route, Router, Verdict};
use crate::wire::endpoint::Endpoint;
use crate::wire::socketmap::Reply;

/// Longest wait for the daemon where the list has the recipient: the daemon gives the master a quarter
/// of a second.
const SOON: Duration = Duration::from_millis(500);

/// Number of look-ups before a process collects the whole sparse index of `mailboxes.db`. Most processes
/// of a mail server end earlier: smtpd and cleanup of Postfix serve 100 clients (`max_use`).
const FEW_LOOKUPS: u32 = 2000;

/// The rules and lists of a configuration, ready to answer. Shared by threads.
///
/// # After a fork
///
/// A fork may catch other threads with a lock held and something half changed, in the child for ever.
/// What can be caught like that, the lists and connections, is `Inner`, and belongs to the
/// process that made it. Another process makes its own when it first asks, of what does not change: rules, and
/// descriptors to read from. The old one is never touched again, not even to free it.
#[derive(Debug)]
pub struct Library {
    router: Router,
    maps: Maps,
    /// Whether misses have to be confirmed: there is a MUPDATE server.
    murder: bool,
    /// Whether misses are believed of lists only that are complete by themselves.
    complete: bool,
    sources: Vec<KeptSource>,
    /// The database of blocked users, and the service they are blocked from.
    deny: Option<(Arc<PinnedPath>, String)>,
    pub(super) daemon: Daemon,
    /// How long a call may wait that says nothing else.
    patience: Duration,
    warnings: Vec<CString>,
    /// Whether a domain in lower case may have another form at a backend.
    respells_domains: bool,
    inner: ArcSwap<Inner>,
}

/// A source, as far as it is the same for a process and its children.
#[derive(Debug)]
enum KeptSource {
    MailboxesDb(Arc<PinnedPath>),
    Replica(Arc<PinnedPath>, Option<Duration>),
}

/// What belongs to one process.
#[derive(Debug)]
pub(super) struct Inner {
    process: u32,
    pub(super) lists: Lists,
    pub(super) connections: Pool,
}

/// What a decision rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// No list was asked.
    Nothing,
    /// Cyrus' own list.
    MailboxesDb,
    /// The daemon's replica, read by this process.
    Replica,
    /// The daemon.
    Daemon,
}

/// A decision, and what is known of how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The decision.
    pub route: Route,
    /// What it rests on.
    pub origin: Origin,
    /// How long ago that was as the master's list; `None`: not known.
    pub age: Option<Duration>,
}

/// What a local look leads to.
enum Looked {
    Decided(Told),
    /// The daemon is to be asked.
    Open(Open),
}

/// Why the daemon is to be asked.
enum Open {
    /// What the list says of this name has to be confirmed.
    Confirm(MailboxName),
    /// No list can be relied on; this is what to say of it.
    Deferred(Route),
    /// This is what the list says, but it changed a moment ago: the mailbox may have moved on.
    Changed(Told),
}

impl Library {
    /// Reads the configuration and opens what it names. `daemon`: where the daemon is asked, if not
    /// where the configuration has it listen. `patience`: how long a call may wait, 5 s at most.
    ///
    /// # Errors
    ///
    /// If the configuration cannot be used or has no domains, or if there are no descriptors. A list or
    /// a daemon that is not there is no error.
    pub fn open(
        given: Overrides,
        daemon: Option<Vec<Endpoint>>,
        patience: Duration,
    ) -> Result<Self, ConfigError> {
        let settings = Settings::load(&Overrides { without_login: true, ..given })?;
        if settings.router.domains.is_empty() {
            return Err(without_domains(settings.file.as_deref()));
        }
        let keep = |path: &Path| match PinnedPath::keep(path.to_owned()) {
            Ok(at) => Ok(Arc::new(at)),
            Err(source) => Err(ConfigError::Io { path: path.to_owned(), source }),
        };
        let mut sources = Vec::new();
        for name in &settings.sources {
            match (name, &settings.mailboxes_db) {
                (SourceName::MailboxesDb, Some(path)) => {
                    sources.push(KeptSource::MailboxesDb(keep(path)?));
                }
                (SourceName::Replica, _) => {
                    let at = keep(&settings.replica.directory.join("data.mdb"))?;
                    sources.push(KeptSource::Replica(at, settings.replica.max_age));
                }
                (SourceName::MailboxesDb, None) | (SourceName::Find, _) => {}
            }
        }
        process::keep();
        let endpoints = daemon.unwrap_or_else(|| Daemon::endpoints(settings.listeners));
        let daemon = Daemon::at(endpoints);
        let warnings = settings
            .warnings
            .iter()
            .map(ToString::to_string)
            .chain(daemon.unusable().iter().cloned());
        let warnings = warnings.map(|warning| text::line(&warning)).collect();
        let deny = match settings.user_deny {
            Some((path, service)) => Some((keep(&path)?, service)),
            None => None,
        };
        let inner = ArcSwap::from_pointee(Inner::of(&sources, deny.as_ref()));
        Ok(Self {
            respells_domains: settings.router.respelled_domain().is_some(),
            router: settings.router,
            maps: settings.maps,
            murder: !matches!(settings.proof, ConfirmVia::List | ConfirmVia::Complete),
            complete: settings.proof == ConfirmVia::Complete,
            sources,
            deny,
            daemon,
            patience,
            warnings,
            inner,
        })
    }

    /// What is odd in the configuration, as `murder-route check` says it, each in one line.
    pub fn warnings(&self) -> impl ExactSizeIterator<Item = &CStr> {
        self.warnings.iter().map(CString::as_c_str)
    }

    /// Whether misses have to be confirmed.
    pub(super) fn is_murder(&self) -> bool {
        self.murder
    }

    /// Whether a miss is believed of these lists without a murder's master; `Err` says why not.
    pub(super) fn believes_misses(&self, lists: &Lists) -> Result<(), String> {
        if self.complete { lists.are_complete() } else { Ok(()) }
    }

    /// What this process looks and asks with.
    pub(super) fn inner(&self) -> Guard<Arc<Inner>> {
        let inner = self.inner.load();
        if inner.process == process::id() {
            return inner;
        }
        // A parent's: see above.
        std::mem::forget(Arc::clone(&inner));
        self.inner.compare_and_swap(&inner, Arc::new(Inner::of(&self.sources, self.deny.as_ref())));
        self.inner.load()
    }

    /// Decides for one recipient. Takes up to some seconds if the daemon has to be asked.
    pub fn look_up(&self, recipient: &[u8]) -> Told {
        self.look_up_within(recipient, self.patience)
    }

    /// Decides for one recipient, and waits no longer than this, 5 s at most; with no time at all,
    /// neither for a lock nor for the daemon.
    pub fn look_up_within(&self, recipient: &[u8], patience: Duration) -> Told {
        match begins_or_ends_with_space(recipient) {
            true => no_address(),
            false => self.by_policy(self.look_up_as_found(recipient, patience)),
        }
    }

    /// As [`Self::look_up_within`], but a recipient that does not exist is unknown whatever the
    /// configuration has said of such ones: the maps know that.
    fn look_up_as_found(&self, recipient: &[u8], patience: Duration) -> Told {
        let (inner, waiting) = (self.inner(), Waiting::new(patience));
        match self.look(&inner, recipient, &waiting) {
            Looked::Decided(told) => told,
            Looked::Open(open) => {
                let mut told = [Told::of(busy(), Origin::Nothing)];
                self.ask_all(&inner, vec![(0, recipient, open)], &waiting, &mut told);
                let [told] = told;
                told
            }
        }
    }

    /// Decides for many recipients, in their order. The daemon is asked for them together, and the time
    /// for which a call may wait counts once.
    pub fn look_up_all(&self, recipients: &[&[u8]]) -> Vec<Told> {
        let (inner, waiting) = (self.inner(), Waiting::new(self.patience));
        let mut told = Vec::with_capacity(recipients.len());
        let mut asked = Vec::new();
        for (at, recipient) in recipients.iter().enumerate() {
            if begins_or_ends_with_space(recipient) {
                told.push(no_address());
                continue;
            }
            match self.look(&inner, recipient, &waiting) {
                Looked::Decided(decided) => told.push(decided),
                Looked::Open(open) => {
                    asked.push((at, *recipient, open));
                    told.push(Told::of(busy(), Origin::Nothing));
                }
            }
        }
        self.ask_all(&inner, asked, &waiting, &mut told);
        told.into_iter().map(|told| self.by_policy(told)).collect()
    }

    /// What the configuration makes of a decision: `unknown = "defer"` defers.
    fn by_policy(&self, mut told: Told) -> Told {
        if told.route.decision != Decision::Unknown || !self.defers_unknown() {
            return told;
        }
        told.route.decision = Decision::Deferred(Cause::Mailbox);
        told.route.reason =
            format!("{}; deferred, since `unknown` is \"defer\"", told.route.reason).into();
        told
    }

    /// The address to give in RCPT TO for a recipient that is delivered to: in the form that `lmtpd`
    /// knows it by, quoted where RFC 5321 wants it.
    pub fn rcpt_to<'r>(&self, recipient: &'r [u8], route: &Route) -> Option<Cow<'r, str>> {
        let Decision::Deliver(_) = route.decision else { return None };
        if !self.respells_domains && is_canonical_already(recipient) {
            return std::str::from_utf8(recipient).ok().map(Cow::Borrowed);
        }
        let parsed = Recipient::parse(recipient).ok()?;
        let canonical = route.mailbox.as_ref().and_then(|found| {
            let rules = self.router.rules_of(&parsed, found);
            String::from_utf8(rules.canonical(&parsed, found)).ok()
        });
        Some(canonical.unwrap_or_else(|| parsed.to_string()).into())
    }

    fn ask_all(
        &self,
        inner: &Inner,
        asked: Vec<(usize, &[u8], Open)>,
        waiting: &Waiting,
        told: &mut [Told],
    ) {
        // Who exists is answered at once, so of him the daemon is asked first, and not for long.
        let (changed, others): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|(_, _, open)| matches!(open, Open::Changed(_)));
        for (asked, patience) in [(changed, SOON), (others, Duration::MAX)] {
            self.ask(inner, asked, patience, waiting, told);
        }
    }

    /// Asks the daemon for these recipients, each with his place in `told`.
    fn ask(
        &self,
        inner: &Inner,
        asked: Vec<(usize, &[u8], Open)>,
        patience: Duration,
        waiting: &Waiting,
        told: &mut [Told],
    ) {
        if asked.is_empty() {
            return;
        }
        let patience = patience.min(waiting.left());
        let questions: Vec<&[u8]> = asked.iter().map(|(_, recipient, _)| *recipient).collect();
        let answers = panics::caught(|| self.daemon.ask(&inner.connections, &questions, patience));
        let answers = answers.unwrap_or_else(|bug| vec![Err(bug); questions.len()]);
        for ((at, recipient, open), answer) in asked.into_iter().zip(answers) {
            let answer = answer.and_then(|route| match route.decision {
                // It would have somebody else refuse whom we take for ours.
                Decision::Foreign => Err("the daemon answers for other domains".to_owned()),
                Decision::Deferred(Cause::List) if matches!(open, Open::Changed(_)) => {
                    Err("the daemon cannot tell".to_owned())
                }
                _ => Ok(route),
            });
            let now = match answer {
                Ok(route) => Told::of(route, Origin::Daemon),
                Err(why) => {
                    let unanswered = || self.unanswered(&inner.lists, recipient, open, &why);
                    panics::caught(|| lock::until(waiting.locks_until(), unanswered))
                        .unwrap_or_else(|bug| Told::of(Route::deferred(bug), Origin::Nothing))
                }
            };
            if let Some(told) = told.get_mut(at) {
                *told = now;
            }
        }
    }

    /// What a map answers of a recipient; `None`: there is no such map.
    pub fn answer(&self, map: &str, recipient: &[u8]) -> Option<Reply> {
        if begins_or_ends_with_space(recipient) {
            return self.has_map(map).then_some(Reply::NotFound);
        }
        self.answer_and_why(map, recipient).map(|(reply, _)| reply)
    }

    /// The same, and, if neither a list nor the daemon could tell, why.
    pub(super) fn answer_and_why(
        &self,
        map: &str,
        recipient: &[u8],
    ) -> Option<(Reply, Option<Cow<'static, str>>)> {
        let map = self.maps.get(map).filter(|_| !is_in_any_case(map))?;
        // One that is not UTF-8 is foreign, so nothing of it comes back.
        let name = String::from_utf8_lossy(recipient);
        let told = self.look_up_as_found(recipient, self.patience);
        let why = told.is_by_nobody().then(|| told.route.reason.clone());
        Some((self.maps.reply(map, &self.router, &name, &told.route), why))
    }

    /// Cyrus' list as it was opened with the library, for who wants to see that it is replaced: it has
    /// no name (`st_nlink`) then. A process that cannot open the new one has to be started anew.
    pub fn list_file(&self) -> Option<BorrowedFd<'_>> {
        self.sources.iter().find_map(|source| match source {
            KeptSource::MailboxesDb(at) => Some(at.kept_file()?.as_fd()),
            KeptSource::Replica(..) => None,
        })
    }

    /// Whether who is unknown is to be deferred all the same.
    pub fn defers_unknown(&self) -> bool {
        self.maps.unknown == UnknownPolicy::Defer
    }

    /// Whether there is a map of this name.
    pub(super) fn has_map(&self, name: &str) -> bool {
        // What the daemon is asked is one decision for a recipient as it was typed.
        self.maps.get(name).is_some() && !is_in_any_case(name)
    }

    /// Looks here.
    fn look(&self, inner: &Inner, recipient: &[u8], waiting: &Waiting) -> Looked {
        let looked = panics::caught(|| {
            #[cfg(feature = "capi-panic")]
            assert_ne!(recipient, b"panic@example.org", "a panic for a test");
            let findings = self.nothing_found();
            let findings = if self.murder { findings.ask_again() } else { findings };
            lock::until(waiting.locks_until(), || {
                self.look_with(&inner.lists, recipient, &findings)
            })
        });
        looked
            .unwrap_or_else(|bug| Looked::Decided(Told::of(Route::deferred(bug), Origin::Nothing)))
    }

    fn look_with(&self, lists: &Lists, recipient: &[u8], findings: &Evidence) -> Looked {
        match self.decide(lists, recipient, findings) {
            Verdict::Final(route) if route.decision == Decision::Deferred(Cause::List) => {
                Looked::Open(Open::Deferred(route))
            }
            Verdict::Final(route) => {
                let (origin, age) = match &route.mailbox {
                    Some(name) => self.origin(lists, name),
                    None => (Origin::Nothing, Some(Duration::ZERO)),
                };
                Looked::Decided(Told { route, origin, age })
            }
            Verdict::Confirm(name) if self.complete => {
                let mut findings = findings.clone();
                findings.learn(name, Confirmation::Lists(lists.are_complete().map_err(Into::into)));
                self.look_with(lists, recipient, &findings)
            }
            Verdict::Confirm(name) => Looked::Open(Open::Confirm(name)),
            Verdict::AskAgain(_) => match self.look_with(lists, recipient, &self.nothing_found()) {
                Looked::Decided(told) => Looked::Open(Open::Changed(told)),
                open => open,
            },
            Verdict::Wait => Looked::Open(Open::Deferred(busy())),
        }
    }

    fn nothing_found(&self) -> Evidence {
        match (self.murder, self.complete) {
            (true, _) => Evidence::ASK_THE_MASTER,
            (false, true) => Evidence::LISTS_ALONE,
            (false, false) => Evidence::NOBODY_TO_ASK,
        }
    }

    fn decide(&self, list: &dyn MailboxList, recipient: &[u8], findings: &Evidence) -> Verdict {
        self.router.route(recipient, &findings.over(list), findings, None)
    }

    /// What is said where the daemon should have been asked, and was not for this reason.
    fn unanswered(&self, lists: &Lists, recipient: &[u8], open: Open, why: &str) -> Told {
        let name = match open {
            Open::Confirm(name) => name,
            Open::Deferred(route) => {
                let reason = format!("{}; {why}", route.reason).into();
                return Told::of(Route { reason, ..route }, Origin::Nothing);
            }
            Open::Changed(told) => return told,
        };
        let mut findings = self.nothing_found();
        findings.learn(name, Confirmation::Lists(Err(why.into())));
        let route = match self.decide(lists, recipient, &findings) {
            // Of a list that cannot be read, only that is said: the other half is that nobody else was asked.
            Verdict::Final(route) if !route.reason.contains(why) => {
                Route { reason: format!("{}; {why}", route.reason).into(), ..route }
            }
            Verdict::Final(route) => route,
            Verdict::Confirm(_) | Verdict::AskAgain(_) | Verdict::Wait => busy(),
        };
        Told::of(route, Origin::Nothing)
    }

    /// Which list has told of a mailbox.
    fn origin(&self, lists: &Lists, name: &MailboxName) -> (Origin, Option<Duration>) {
        let source = match lists.sources() {
            [source] => Some(source),
            sources => sources.iter().find(|source| source.has(name)),
        };
        match source {
            Some(Source::File(_)) => (Origin::MailboxesDb, Some(Duration::ZERO)),
            Some(Source::Replica(replica)) => (Origin::Replica, replica.trust.age()),
            None => (Origin::Nothing, None),
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let inner = self.inner.load_full();
        if inner.process != process::id() {
            std::mem::forget(inner);
        }
    }
}

impl Inner {
    fn of(sources: &[KeptSource], deny: Option<&(Arc<PinnedPath>, String)>) -> Self {
        let source = |source: &KeptSource| match source {
            KeptSource::MailboxesDb(at) => {
                let options =
                    FileListOptions { index_after: FEW_LOOKUPS, ..FileListOptions::default() };
                Source::File(Arc::new(FileList::open_at(Arc::clone(at), options)))
            }
            KeptSource::Replica(at, max_age) => {
                Source::Replica(OfflineReplica::lockless(Arc::clone(at), *max_age))
            }
        };
        let deny = deny.map(|(at, service)| UserDeny::open_at(Arc::clone(at), service));
        Self {
            process: process::id(),
            lists: Lists::new(sources.iter().map(source).collect()).with_deny(deny),
            connections: Pool::default(),
        }
    }
}

impl Told {
    /// Whether neither a list nor the daemon could tell.
    pub(super) fn is_by_nobody(&self) -> bool {
        self.origin == Origin::Nothing && matches!(self.route.decision, Decision::Deferred(_))
    }

    fn of(route: Route, origin: Origin) -> Self {
        Self { route, origin, age: None }
    }
}

/// Why a configuration without domains is refused: every recipient would be somebody else's.
fn without_domains(file: Option<&Path>) -> ConfigError {
    let whose = match file {
        Some(file) if file != Path::new("/dev/null") => format!("{}: ", file.display()),
        _ => String::new(),
    };
    ConfigError::Option(format!(
        "{whose}no domains are configured: no recipient would be routed; set `domains` to those of the \
         murder"
    ))
}

/// Whether an address that is not quoted has a space where none can be: at its beginning, or before its
/// domain. A mail server's internal form has spaces only within a local part.
fn begins_or_ends_with_space(recipient: &[u8]) -> bool {
    if !recipient.contains(&b' ') {
        return false;
    }
    let local = match recipient.iter().rposition(|byte| *byte == b'@') {
        Some(at) => recipient.get(..at).unwrap_or_default(),
        None => recipient,
    };
    local.first() == Some(&b' ') || local.last() == Some(&b' ')
}

/// Whether an address has nothing that its canonical form could have otherwise, the case of its domain
/// left aside: most have not, and need no look at the rules.
pub(super) fn is_canonical_already(recipient: &[u8]) -> bool {
    let (mut ats, mut begins, mut plain) = (0, true, true);
    for byte in recipient {
        let ends = matches!(byte, b'.' | b'@');
        ats += u32::from(*byte == b'@');
        plain &= match ends {
            true => !begins,
            false => matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'+'),
        };
        begins = ends;
    }
    plain && !begins && ats == 1
}

fn no_address() -> Told {
    let reason = "no address: a space stands where none can be".into();
    let route =
        Route { decision: Decision::Foreign, mailbox: None, server: None, partition: None, reason };
    Told { route, origin: Origin::Nothing, age: Some(Duration::ZERO) }
}
