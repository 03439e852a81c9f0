//! The library in safe Rust: what the exported functions, Postfix' table and Exim's function build on.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use super::daemon_client::{ConnectionPool, DaemonClient};
use super::outcome::Outcome;
use super::recipient::{has_misplaced_space, is_canonical_already};
use super::{process, text};
use crate::address::Recipient;
use crate::config::{ConfigError, Overrides, Settings, SourceName};
use crate::lists::combined::{Lists, Source};
use crate::lists::user_deny::UserDeny;
use crate::lists::{FileList, FileListOptions};
use crate::model::doubt::Doubt;
use crate::os::pinned_path::PinnedPath;
use crate::replica::read::offline::OfflineReplica;
use crate::routing::confirm::ConfirmVia;
use crate::routing::evidence::Evidence;
use crate::routing::maps::{Maps, UnknownPolicy, is_in_any_case};
use crate::routing::route::{Cause, Decision, Route};
use crate::routing::router::Router;
use crate::wire::endpoint::Endpoint;
use crate::wire::socketmap::Reply;

/// Number of look-ups before a process builds the whole sparse index of `mailboxes.db`. Most processes
/// of a mail server end earlier: smtpd and cleanup of Postfix serve 100 clients (`max_use`).
const FEW_LOOKUPS: u32 = 2000;

/// The rules and lists of a configuration, ready to answer. Shared by threads.
///
/// # After a fork
///
/// A fork may happen while another thread holds a lock or has changed something halfway, and the child
/// would keep that state for ever. So the lists and connections, which could be caught like that, are
/// `ProcessState` and belong to one process. A child builds its own at its first look-up from what never
/// changes: the rules, and descriptors to read from. It never touches the parent's state again, not even
/// to free it.
#[derive(Debug)]
pub struct Library {
    pub(super) router: Router,
    maps: Maps,
    /// Evidence before anything was confirmed.
    pub(super) evidence: Evidence,
    /// Whether misses are confirmed by a master, which the daemon asks.
    murder: bool,
    /// Whether misses are confirmed by the lists being complete.
    pub(super) lists_confirm: bool,
    sources: Vec<SourceFile>,
    /// The database of blocked users, and the service that they are blocked from.
    deny: Option<(Arc<PinnedPath>, String)>,
    pub(super) daemon: DaemonClient,
    /// Time limit of calls that name none.
    timeout: Duration,
    warnings: Vec<CString>,
    /// Whether a domain in lower case may have another form at a backend.
    respells_domains: bool,
    state: ArcSwap<ProcessState>,
}

/// The part of a source that a process and its children share.
#[derive(Debug)]
enum SourceFile {
    MailboxesDb(Arc<PinnedPath>),
    Replica(Arc<PinnedPath>, Option<Duration>),
}

/// The part of a library that belongs to one process.
#[derive(Debug)]
pub(super) struct ProcessState {
    process: u32,
    pub(super) lists: Lists,
    pub(super) connections: ConnectionPool,
}

impl Library {
    /// Reads the configuration and opens the files that it names. `daemon`: endpoints of the daemon, instead
    /// of those at which the configuration has it listen. `timeout`: longest wait of a call, at most 5 s.
    ///
    /// # Errors
    ///
    /// If the configuration cannot be used or has no domains, or if the process has no free descriptors. A
    /// missing list or daemon is no error.
    pub fn open(
        given: Overrides,
        daemon: Option<Vec<Endpoint>>,
        timeout: Duration,
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
                    sources.push(SourceFile::MailboxesDb(keep(path)?));
                }
                (SourceName::Replica, _) => {
                    let at = keep(&settings.replica.directory.join("data.mdb"))?;
                    sources.push(SourceFile::Replica(at, settings.replica.max_age));
                }
                (SourceName::MailboxesDb, None) | (SourceName::Find, _) => {}
            }
        }
        process::keep();
        let endpoints = daemon.unwrap_or_else(|| DaemonClient::endpoints(settings.listeners));
        let daemon = DaemonClient::at(endpoints);
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
        let state = ArcSwap::from_pointee(ProcessState::of(&sources, deny.as_ref()));
        let murder = !matches!(settings.proof, ConfirmVia::List | ConfirmVia::Complete);
        Ok(Self {
            respells_domains: settings.router.respelled_domain().is_some(),
            router: settings.router,
            maps: settings.maps,
            evidence: match murder {
                // The daemon confirms for the library, whether by the master or by the slave.
                true => Evidence::ASK_THE_MASTER.ask_again(),
                false => settings.proof.evidence(),
            },
            murder,
            lists_confirm: settings.proof == ConfirmVia::Complete,
            sources,
            deny,
            daemon,
            timeout,
            warnings,
            state,
        })
    }

    /// The warnings of `murder-route check` about the configuration, each in one line.
    pub fn warnings(&self) -> impl ExactSizeIterator<Item = &CStr> {
        self.warnings.iter().map(CString::as_c_str)
    }

    /// Whether misses have to be confirmed by a master.
    pub(super) fn is_murder(&self) -> bool {
        self.murder
    }

    /// Whether misses of these lists are believed without a master; `Err` says why not.
    pub(super) fn believes_misses(&self, lists: &Lists) -> Result<(), Doubt> {
        if self.lists_confirm { lists.are_complete() } else { Ok(()) }
    }

    /// The lists and connections of this process.
    pub(super) fn process_state(&self) -> Guard<Arc<ProcessState>> {
        let state = self.state.load();
        if state.process == process::id() {
            return state;
        }
        // The parent's, which is never freed here.
        std::mem::forget(Arc::clone(&state));
        let own = Arc::new(ProcessState::of(&self.sources, self.deny.as_ref()));
        self.state.compare_and_swap(&state, own);
        self.state.load()
    }

    /// Decides for one recipient. Takes up to some seconds if the daemon has to be asked.
    pub fn look_up(&self, recipient: &[u8]) -> Outcome {
        self.look_up_within(recipient, self.timeout)
    }

    /// Decides for one recipient within this time, at most 5 s. With zero it waits neither for a lock nor
    /// for the daemon.
    pub fn look_up_within(&self, recipient: &[u8], timeout: Duration) -> Outcome {
        match has_misplaced_space(recipient) {
            true => Outcome::no_address(),
            false => self.by_policy(self.decide(recipient, timeout)),
        }
    }

    /// Decides for many recipients, in their order. The daemon is asked about all of them together, and the
    /// time limit counts once.
    pub fn look_up_all(&self, recipients: &[&[u8]]) -> Vec<Outcome> {
        let outcomes = self.decide_all(recipients, self.timeout);
        outcomes.into_iter().map(|outcome| self.by_policy(outcome)).collect()
    }

    /// Applies `unknown = "defer"`.
    fn by_policy(&self, mut outcome: Outcome) -> Outcome {
        let route = &mut outcome.route;
        if route.decision == Decision::Unknown && self.defers_unknown() {
            route.decision = Decision::Deferred(Cause::Mailbox);
            route.reason =
                format!("{}; deferred, since `unknown` is \"defer\"", route.reason).into();
        }
        outcome
    }

    /// The address for RCPT TO of a recipient that is delivered to: in the form that `lmtpd` knows, quoted
    /// where RFC 5321 requires it.
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

    /// The answer of a map for a recipient; `None`: there is no such map.
    pub fn answer(&self, map: &str, recipient: &[u8]) -> Option<Reply> {
        if has_misplaced_space(recipient) {
            return self.has_map(map).then_some(Reply::NotFound);
        }
        self.answer_and_why(map, recipient).map(|(reply, _)| reply)
    }

    /// As [`answer`](Self::answer), with the reason if neither a list nor the daemon could decide. The maps
    /// apply `unknown = "defer"` themselves.
    pub(super) fn answer_and_why(
        &self,
        map: &str,
        recipient: &[u8],
    ) -> Option<(Reply, Option<Cow<'static, str>>)> {
        let map = self.maps.get(map).filter(|_| !is_in_any_case(map))?;
        // A recipient that is not UTF-8 is foreign, so no answer contains it.
        let name = String::from_utf8_lossy(recipient);
        let outcome = self.decide(recipient, self.timeout);
        let why = outcome.is_undecided().then(|| outcome.route.reason.clone());
        Some((self.maps.reply(map, &self.router, &name, &outcome.route), why))
    }

    /// Cyrus' list as it was opened with the library. Once it has no name (`st_nlink` is 0), it has been
    /// replaced, and a process that cannot open the new file has to be restarted.
    pub fn list_file(&self) -> Option<BorrowedFd<'_>> {
        self.sources.iter().find_map(|source| match source {
            SourceFile::MailboxesDb(at) => Some(at.kept_file()?.as_fd()),
            SourceFile::Replica(..) => None,
        })
    }

    /// Whether unknown recipients are deferred (`unknown = "defer"`).
    pub fn defers_unknown(&self) -> bool {
        self.maps.unknown == UnknownPolicy::Defer
    }

    /// Whether there is a map of this name. Maps for folded recipients are not offered: the daemon is asked
    /// for one decision, on the recipient as it was written.
    pub(super) fn has_map(&self, name: &str) -> bool {
        self.maps.get(name).is_some() && !is_in_any_case(name)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let state = self.state.load_full();
        if state.process != process::id() {
            std::mem::forget(state);
        }
    }
}

impl ProcessState {
    fn of(sources: &[SourceFile], deny: Option<&(Arc<PinnedPath>, String)>) -> Self {
        let source = |source: &SourceFile| match source {
            SourceFile::MailboxesDb(at) => {
                let options =
                    FileListOptions { index_after: FEW_LOOKUPS, ..FileListOptions::default() };
                Source::File(Arc::new(FileList::open_at(Arc::clone(at), options)))
            }
            SourceFile::Replica(at, max_age) => {
                Source::Replica(OfflineReplica::lockless(Arc::clone(at), *max_age))
            }
        };
        let deny = deny.map(|(at, service)| UserDeny::open_at(Arc::clone(at), service));
        Self {
            process: process::id(),
            lists: Lists::new(sources.iter().map(source).collect()).with_deny(deny),
            connections: ConnectionPool::default(),
        }
    }
}

/// Error for a configuration without domains, by which every recipient would be foreign.
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
