//! The replica for a process that can have no part in LMDB's locks: no place in its table of readers.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwapOption, Guard};

use super::pages::{self, Commit, Snapshot};
use crate::cyrusdb::error::{Error, Result};
use crate::lists::mailboxes_db::view::{Identity, ListFile, open_regular};
use crate::model::list::behind_all;
use crate::model::list::{Lookup, MailboxList, WalkStep};
use crate::model::name::{KeyGeneration, MailboxName};
use crate::model::record::Record;
use crate::os::pinned_path::PinnedPath;
use crate::replica::store::value::{self, BadValue, Row};
use crate::replica::{ReplicaMeta, generation};

/// So often a look is begun anew because something was committed meanwhile. One takes microseconds,
/// and the fastest writer some hundred of them for a commit.
const ATTEMPTS: usize = 1000;

/// So often it may be begun anew because the meta pages could not be read.
const TORN: usize = 20;

/// So old may be what is known of the replica as a whole, where it only tells how old the rest is.
const LATELY: Duration = Duration::from_millis(100);

/// A walk reads so many records at once.
const PIECE: usize = 256;

/// A replica, read while the daemon writes it. Any number of threads look up at once.
///
/// What it says is what [`ReplicaList`](crate::replica::store::ReplicaList) says. Needs to read `data.mdb`, and nothing
/// else; is made anew in a child after fork, which may catch another thread halfway through a change.
#[derive(Debug)]
pub(crate) struct LocklessReplica {
    at: Arc<PinnedPath>,
    started: Instant,
    /// So long it is not looked whether the file is still the one at its path, and how long it is; for
    /// what is not found it always is.
    hit_age: Duration,
    opened: ArcSwapOption<Opened>,
    /// Nanoseconds since `started` until which the file is taken for the one at its path, and no shorter.
    good_until: AtomicU64,
    /// With the time since `started` at which it was read, in nanoseconds.
    about: ArcSwapOption<(u64, ReplicaMeta)>,
}

/// The file as it was opened.
#[derive(Debug)]
struct Opened {
    file: ListFile,
    identity: Identity,
    page_size: u64,
    /// The last commit, when somebody looked last.
    last: ArcSwapOption<Commit>,
}

thread_local! {
    /// Room for a page.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl LocklessReplica {
    /// The replica whose `data.mdb` this is. Who is found may have been found in a file that has been
    /// replaced since, but not longer than this.
    pub(crate) fn at(at: Arc<PinnedPath>, hit_age: Duration) -> Self {
        Self {
            at,
            hit_age,
            started: Instant::now(),
            opened: ArcSwapOption::empty(),
            good_until: AtomicU64::new(0),
            about: ArcSwapOption::empty(),
        }
    }

    fn dir(&self) -> &Path {
        self.at.path().parent().unwrap_or(Path::new(""))
    }

    fn say(&self, what: impl std::fmt::Display) -> String {
        format!("{}: {what}", self.at.path().display())
    }

    /// What an error of the file means for a replica, and what to do.
    fn fault(&self, error: &Error) -> String {
        let deferred = "recipients that only the replica knows are deferred";
        let anew = "start or restart murder-route serve";
        match error {
            Error::Empty => self.say(format_args!(
                "the file is empty; {deferred}; {anew}, which fetches the list from the master"
            )),
            Error::Corrupt { .. } | Error::Unknown | Error::Unsupported(_) => {
                let what = match error {
                    Error::Unsupported(_) => "a directory",
                    _ => &error.to_string(),
                };
                self.say(format_args!(
                    "not a replica, or damaged: {what}; {deferred}; {anew}, which sets it aside and \
                     begins anew"
                ))
            }
            Error::Io(error) => self.say(error),
        }
    }

    /// In nanoseconds since it was made.
    fn now(&self) -> u64 {
        nanoseconds(self.started.elapsed())
    }

    /// The file that stood at the path when somebody looked, if that was a moment ago.
    fn just_opened(&self) -> Option<Guard<Option<Arc<Opened>>>> {
        let lately = self.now() < self.good_until.load(Relaxed);
        lately.then(|| self.opened.load()).filter(|opened| opened.is_some())
    }

    /// The file that stands at the path; `must_look`: now.
    fn opened(&self, must_look: bool) -> Result<Arc<Opened>> {
        if !must_look && let Some(Some(known)) = self.just_opened().as_deref() {
            return Ok(Arc::clone(known));
        }
        let known = self.opened.load_full();
        let now = self.now();
        if self
            .about
            .load()
            .as_ref()
            .is_some_and(|about| now - about.0.min(now) > nanoseconds(LATELY))
        {
            self.about.store(None);
        }
        let (file, metadata) = open_regular(&self.at)?;
        let identity = Identity::of(&metadata);
        let opened = match known {
            Some(known) if known.identity == identity => known,
            _ => {
                let file = ListFile::new(file);
                let page_size = pages::page_size(&file)?;
                let last = ArcSwapOption::empty();
                let opened = Arc::new(Opened { file, identity, page_size, last });
                self.opened.store(Some(Arc::clone(&opened)));
                opened
            }
        };
        self.good_until.store(now.saturating_add(nanoseconds(self.hit_age)), Relaxed);
        Ok(opened)
    }

    /// Calls `look` with the last commit, again and again until nothing was committed meanwhile.
    fn read<T>(
        &self,
        opened: &Opened,
        mut look: impl FnMut(&Snapshot<'_, ListFile>, &mut Vec<u8>) -> Result<T>,
    ) -> Result<T> {
        // Taken out, so that nothing is borrowed while others' code runs.
        let mut page = ROOM.with(RefCell::take);
        let mut known = opened.last.load_full();
        for attempt in 0..ATTEMPTS {
            let looked = match known.take() {
                Some(last) => Ok(last),
                None => Commit::last(&opened.file, opened.page_size).map(|commit| {
                    let last = Arc::new(commit);
                    opened.last.store(Some(Arc::clone(&last)));
                    last
                }),
            }
            .and_then(|commit| {
                let looked = look(&Snapshot::of(&opened.file, &commit), &mut page);
                let is_last = commit.is_last(&opened.file)?;
                Ok(is_last.then_some(looked))
            });
            match looked {
                Ok(Some(looked)) => {
                    ROOM.set(page);
                    return looked;
                }
                Ok(None) => {}
                // A meta page caught while it was written, which is over in a moment.
                Err(Error::Corrupt { .. }) if attempt < TORN => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        // The first look at it may tell what is wrong.
        Commit::last(&opened.file, opened.page_size)?;
        Err(io::Error::other("changed all the time").into())
    }

    /// One look for a name.
    fn look_up(&self, opened: &Opened, name: &MailboxName) -> Result<(Lookup, bool)> {
        let never = || {
            let dir = self.dir().display();
            format!("{dir}: the replica has never been synchronised with the master")
        };
        self.read(opened, |snapshot, page| {
            if let Some(found) = snapshot.get(name.as_bytes(), page)? {
                let bad = match value::row(found) {
                    Ok(Row::Record(record, changed)) => {
                        let lately = changed.is_lately(SystemTime::now);
                        return Ok((Lookup::Present(record), lately));
                    }
                    Ok(Row::Missing(missing)) => {
                        return Ok((Lookup::Unsure(missing.doubt(name)), false));
                    }
                    Err(bad) => bad,
                };
                // Of another version every record is damaged, as it seems.
                let about = snapshot.get(value::ABOUT_KEY, page)?.map(value::synchronised_release);
                let why = match about {
                    Some(Err(bad @ BadValue::Version(_))) => self.say(bad),
                    _ => self.say(format_args!("record of {name}: {bad}")),
                };
                return Ok((Lookup::Unsure(why), false));
            }
            let found = match snapshot.get(value::ABOUT_KEY, page)?.map(value::synchronised_release)
            {
                None | Some(Ok((false, _))) => Lookup::Unsure(never()),
                Some(Ok((true, _))) => Lookup::Absent,
                Some(Err(bad)) => Lookup::Unsure(self.say(bad)),
            };
            Ok((found, false))
        })
    }

    /// What is known of it as a whole, and how many names it has.
    pub(crate) fn about(&self) -> std::result::Result<(ReplicaMeta, u64), String> {
        let read = || {
            let opened = self.opened(false)?;
            self.read(&opened, |snapshot, page| {
                let about = snapshot.get(value::ABOUT_KEY, page)?.map(value::about);
                Ok((about, snapshot.commit.entries.saturating_sub(1)))
            })
        };
        let (about, names) = read().map_err(|error: Error| self.fault(&error))?;
        let about = match about {
            Some(about) => about.map_err(|bad| self.say(bad))?,
            None => ReplicaMeta::default(),
        };
        let names = names.saturating_sub(about.missing);
        Ok((about, names))
    }

    /// Of that, something that is worth knowing as it was a moment ago.
    pub(crate) fn about_lately<T>(
        &self,
        take: impl FnOnce(&ReplicaMeta) -> T,
    ) -> std::result::Result<T, String> {
        // Forgotten when somebody looks at the file and finds it old.
        if let Some((_, about)) = self.about.load().as_deref() {
            return Ok(take(about));
        }
        let known = (self.now(), self.about()?.0);
        let told = take(&known.1);
        self.about.store(Some(Arc::new(known)));
        Ok(told)
    }

    /// A piece of the names that begin with `prefix` and come after the key `last`.
    fn piece(&self, prefix: &[u8], last: Option<&[u8]>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let opened = self.opened(false)?;
        self.read(&opened, |snapshot, _page| {
            let mut rows = Vec::new();
            let from = last.unwrap_or(prefix);
            snapshot.walk(from, &mut |key, value| {
                if !key.starts_with(prefix) || rows.len() == PIECE {
                    return ControlFlow::Break(());
                }
                if key != value::ABOUT_KEY && last.is_none_or(|last| last != key) {
                    rows.push((key.to_vec(), value.to_vec()));
                }
                ControlFlow::Continue(())
            })?;
            Ok(rows)
        })
    }
}

impl MailboxList for LocklessReplica {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.lookup_dated(name).0
    }

    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        let look = || {
            let opened = self.opened(false)?;
            let found = self.look_up(&opened, name);
            if matches!(found, Ok((Lookup::Present(_), _))) {
                return found;
            }
            // What may refuse somebody, or a failure, is never of a file that has been replaced.
            let now = self.opened(true)?;
            match now.identity == opened.identity {
                true => found,
                false => self.look_up(&now, name),
            }
        };
        look().unwrap_or_else(|error: Error| (Lookup::Unsure(self.fault(&error)), false))
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.about_lately(|about| generation(&about.release)).ok()?
    }

    /// In pieces: what the writer commits meanwhile may be seen or not.
    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> std::result::Result<(), String> {
        self.each_past(prefix, &mut |name, record| visit(name, record).into())
    }

    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> WalkStep,
    ) -> std::result::Result<(), String> {
        if self.about()?.0.synchronised.is_none() {
            return Err(self.say("the replica has never been synchronised with the master"));
        }
        let mut last: Option<Vec<u8>> = None;
        loop {
            let rows = self.piece(prefix, last.as_deref()).map_err(|error| self.fault(&error))?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, record) in rows {
                let name = MailboxName::new(key).map_err(|bad| self.say(bad))?;
                let record = value::row(&record)
                    .map_err(|bad| self.say(format_args!("record of {name}: {bad}")))?
                    .walked();
                match visit(&name, &record) {
                    WalkStep::Stop => return Ok(()),
                    WalkStep::On => last = Some(name.as_bytes().to_vec()),
                    WalkStep::Past(length) => {
                        last = Some(behind_all(name.as_bytes(), length));
                        break;
                    }
                }
            }
        }
    }
}
