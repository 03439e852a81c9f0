//! A router with the list it asks: what the command and the daemon both answer from.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::mailbox::{KeyGeneration, Lookup, MailboxList, MailboxName, Record};
use crate::mailbox_list::{FileList, Options, kick::kick};
use crate::maps::Maps;
use crate::router::{Explain, Misses, Route, Router, Verdict};

/// How long a kick may take. The mail server's own patience is far longer, but Postfix' queue
/// manager resolves one recipient at a time and waits for each.
pub const KICK_PATIENCE: Duration = Duration::from_secs(4);

/// A router, the forms of its answers and its list. Shared by threads.
#[derive(Debug)]
pub struct Resolver {
    /// What decides.
    pub router: Router,
    /// What answers look like.
    pub maps: Maps,
    /// What is asked.
    pub list: Arc<FileList>,
    /// Where the local MUPDATE slave confirms misses; without one the list speaks for itself.
    pub kick_socket: Option<PathBuf>,
}

impl Resolver {
    /// Puts a resolver together. The list is opened when it is first asked, and need not be there.
    pub fn new(settings: Settings) -> Self {
        let list = Arc::new(FileList::open(&settings.mailboxes_db, Options::default()));
        Self::with_list(settings, list)
    }

    /// The resolver of new settings. It keeps the list of this one if that is still the same file,
    /// and with it the memory of how long the list has been.
    pub fn renewed(&self, settings: Settings) -> Self {
        if self.list.path() == settings.mailboxes_db {
            Self::with_list(settings, Arc::clone(&self.list))
        } else {
            Self::new(settings)
        }
    }

    fn with_list(settings: Settings, list: Arc<FileList>) -> Self {
        Self {
            list,
            router: settings.router,
            maps: settings.maps,
            kick_socket: settings.kick_socket,
        }
    }

    /// How far a miss of the list as it stands may be believed.
    fn misses(&self) -> Misses<'static> {
        match self.kick_socket {
            Some(_) => Misses::Unconfirmed,
            None => Misses::Believed,
        }
    }

    /// Decides without waiting for a lock or for the MUPDATE slave, and without walking the list.
    pub fn route_now(&self, recipient: &[u8]) -> Verdict {
        let misses = match self.router.rules.fuzzy {
            true => Misses::Unconfirmed,
            false => self.misses(),
        };
        self.router.route(recipient, &WithoutWaiting(&self.list), misses, None)
    }

    /// Decides on the list as it stands, and waits for a lock if it must.
    pub fn first_look(&self, recipient: &[u8]) -> Verdict {
        self.router.route(recipient, &*self.list, self.misses(), None)
    }

    /// Decides on a list that has been brought up to date, or could not be. Waits for a lock if it
    /// must.
    pub fn second_look(&self, recipient: &[u8], misses: Misses<'_>, explain: Explain<'_>) -> Route {
        settled(self.router.route(recipient, &*self.list, misses, explain))
    }

    /// Decides, and waits for a lock or for the MUPDATE slave if that is what it takes: some
    /// seconds at worst.
    pub fn route(&self, recipient: &[u8], mut explain: Explain<'_>) -> Route {
        let misses = self.misses();
        let first = self.router.route(recipient, &*self.list, misses, explain.as_deref_mut());
        let (Verdict::Confirm, Some(socket)) = (&first, &self.kick_socket) else {
            return settled(first);
        };
        let kicked = kick(socket, KICK_PATIENCE);
        if let Some(steps) = explain.as_deref_mut() {
            steps.push(match &kicked {
                Ok(()) => format!("freshness: the MUPDATE slave at {} says ok", socket.display()),
                Err(why) => format!("freshness: {why}"),
            });
            steps.push("second look, now that the list has had the chance to catch up:".into());
        }
        match &kicked {
            Ok(()) => self.second_look(recipient, Misses::Believed, explain),
            Err(why) => self.second_look(recipient, Misses::Doubted(why), explain),
        }
    }
}

/// A list that may wait, asked with misses that need no confirmation, leaves nothing open.
fn settled(verdict: Verdict) -> Route {
    match verdict {
        Verdict::Final(route) => route,
        Verdict::Confirm => Route::deferred("a miss could not be confirmed"),
        Verdict::Wait => Route::deferred("the mailbox list is busy"),
    }
}

/// The list, asked without waiting.
struct WithoutWaiting<'a>(&'a FileList);

impl MailboxList for WithoutWaiting<'_> {
    fn lookup(&self, name: &MailboxName) -> Lookup {
        self.0.lookup_now(name)
    }

    fn key_generation(&self) -> Option<KeyGeneration> {
        self.0.key_generation()
    }

    fn each(
        &self,
        _prefix: &[u8],
        _visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), String> {
        Err("walking the mailbox list takes too long here".into())
    }
}
