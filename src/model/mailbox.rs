//! Mailbox names, records and the list that holds them: the words of Cyrus' `mboxlist`.

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Longest mailbox name in bytes (`MAX_MAILBOX_NAME`, Cyrus 3.12; 490 in 2.4).
pub const MAX_NAME: usize = 510;

/// Separates the components of a name in the keys of Cyrus 3.6 and later.
const US: u8 = 0x1f;
/// Separates the domain from the rest in the keys of Cyrus 3.6 and later.
const GS: u8 = 0x1d;

/// A mailbox name in Cyrus' internal form, in every release also the form on a MUPDATE connection.
///
/// `[domain "!"] component *("." component)`: components are separated by `.`, a dot inside a
/// component is written `^`, folders are modified UTF-7, case is significant. Examples:
/// `user.jane`, `user.jane^doe.Sent`, `example.org!user.bob`, `news.comp`.
/// (Cyrus `imap/mboxname.c`, `mbname_intname`.)
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MailboxName(Vec<u8>);

/// Why bytes cannot be a mailbox name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No bytes at all, or nothing after the domain.
    #[error("empty mailbox name")]
    Empty,
    /// Longer than [`MAX_NAME`].
    #[error("mailbox name longer than {MAX_NAME} bytes")]
    TooLong,
    /// A control character; `US`, `GS` and `RS` among them would forge a key.
    #[error("control character in mailbox name")]
    Control,
    /// More than one `!`: only one may stand, after the domain.
    #[error("`!` inside a mailbox name")]
    Bang,
}

impl MailboxName {
    /// Checks and wraps a name in internal form.
    pub fn new(internal: impl Into<Vec<u8>>) -> Result<Self, BadName> {
        let name = internal.into();
        if name.len() > MAX_NAME {
            return Err(BadName::TooLong);
        }
        // To the end, whatever is met: a loop without a way out takes many bytes at a time.
        if name.iter().fold(false, |met, b| met | (*b < 0x20 || *b == 0x7f)) {
            return Err(BadName::Control);
        }
        let (_, local) = split(&name);
        if local.is_empty() {
            return Err(BadName::Empty);
        }
        if local.len() < name.len() && local.contains(&b'!') {
            return Err(BadName::Bang);
        }
        Ok(Self(name))
    }

    /// The name in internal form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Puts another name into the same memory: the bytes of one that there was.
    #[cfg(feature = "capi")]
    pub(crate) fn set_to(&mut self, known: &[u8]) {
        debug_assert!(Self::new(known).is_ok());
        self.0.clear();
        self.0.extend_from_slice(known);
    }

    /// The name to be shown, in ASCII: what is no visible character is escaped.
    pub(crate) fn shown(&self) -> Cow<'_, [u8]> {
        // What `escape_ascii` leaves as it is, which is nearly every name.
        let plain = |b: &u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\'' | b'\\');
        // To the end, as above.
        match self.0.iter().fold(true, |all, b| all & plain(b)) {
            true => Cow::Borrowed(&self.0),
            false => self.0.escape_ascii().collect::<Vec<u8>>().into(),
        }
    }

    /// The domain before the `!`, if the name has one.
    pub fn domain(&self) -> Option<&[u8]> {
        split(&self.0).0
    }

    /// The name without its domain: `user.jane` of `example.org!user.jane`.
    pub fn without_domain(&self) -> &[u8] {
        split(&self.0).1
    }

    /// The owner of a user's INBOX, as Cyrus' user ID has it: with dots, and with the domain that stands
    /// in the name. `None`: the name is no user's.
    pub fn user(&self) -> Option<Vec<u8>> {
        let local = self.without_domain().strip_prefix(b"user.")?;
        let mut user: Vec<u8> = local.iter().map(|b| if *b == b'^' { b'.' } else { *b }).collect();
        if let Some(domain) = self.domain() {
            user.push(b'@');
            user.extend_from_slice(domain);
        }
        Some(user)
    }

    /// Appends the key under which a list of this generation holds the name.
    pub fn push_key(&self, generation: KeyGeneration, key: &mut Vec<u8>) {
        match generation {
            KeyGeneration::Internal => key.extend_from_slice(&self.0),
            KeyGeneration::Separated => {
                let (domain, local) = split(&self.0);
                key.push(b'N');
                if let Some(domain) = domain {
                    key.extend_from_slice(domain);
                    key.push(GS);
                }
                key.extend(local.iter().map(|b| match b {
                    b'.' => US,
                    b'^' => b'.',
                    b => *b,
                }));
            }
        }
    }

    /// The name a key stands for; `None` for the other rows of the file (ACL indexes `$RACL…`,
    /// `A…`, unique ids `I…`, run queues `$RUNQ…`) and for what cannot be a name.
    pub fn from_key(generation: KeyGeneration, key: &[u8]) -> Option<Self> {
        match generation {
            KeyGeneration::Internal if key.starts_with(b"$R") => None,
            KeyGeneration::Internal => Self::new(key).ok(),
            KeyGeneration::Separated => {
                let dbname = key.strip_prefix(b"N")?;
                let mut name = Vec::with_capacity(dbname.len());
                let local = match memchr::memchr(GS, dbname) {
                    Some(at) => {
                        name.extend_from_slice(&dbname[..at]);
                        name.push(b'!');
                        &dbname[at + 1..]
                    }
                    None => dbname,
                };
                name.extend(local.iter().map(|b| match *b {
                    US => b'.',
                    b'.' => b'^',
                    b => b,
                }));
                Self::new(name).ok()
            }
        }
    }
}

/// The domain before the first `!`, and what follows. Names are so short that a search by many bytes at a
/// time takes longer.
fn split(name: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match name.iter().position(|b| *b == b'!') {
        Some(at) => (Some(&name[..at]), &name[at + 1..]),
        None => (None, name),
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.shown()))
    }
}

impl fmt::Debug for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// How the keys of a list are written. A list is wholly of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyGeneration {
    /// Up to Cyrus 3.4: the key is the internal name.
    Internal,
    /// From Cyrus 3.6: `N`, then `[domain GS]` and the components separated by `US`, with real
    /// dots inside them.
    Separated,
}

/// What a record says of its mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It is there and takes mail.
    Active,
    /// Being created, renamed or moved; the master has only its name (MUPDATE RESERVE).
    Reserved,
    /// Being moved away from the server that says so.
    Moving,
    /// A tombstone.
    Deleted,
    /// No mailbox, only a name with others below it (Cyrus 3.2 and later).
    Intermediate,
}

impl State {
    /// The word for it in `dump --json`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Reserved => "reserved",
            State::Moving => "moving",
            State::Deleted => "deleted",
            State::Intermediate => "intermediate",
        }
    }
}

/// What somebody unauthenticated may do with a mailbox: the rights of `anyone` and `anonymous`,
/// less the negative ones (Cyrus `lib/acl_afs.c`, `cyrus_acl_myrights`). They matter for shared
/// folders only; mail to an INBOX needs no right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnonymousRights {
    /// Right `l`: the mailbox may be seen to exist.
    pub lookup: bool,
    /// Right `p`: mail may be posted to it.
    pub post: bool,
}

/// One record of the mailbox list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What is up with the mailbox.
    pub state: State,
    /// The backend that holds it, as that backend calls itself (`servername`), sometimes with a
    /// `:port`; `None` for a mailbox of this host. `lmtpd` calls a mailbox remote exactly if its
    /// record has a server.
    pub server: Option<String>,
    /// The partition on that backend; may be empty (seen shortly after a RENAME).
    pub partition: String,
    /// What the unauthenticated may do.
    pub anonymous: AnonymousRights,
}

/// What a list says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The record that stands under the name.
    Present(Record),
    /// The list can be read, and no record has this name.
    Absent,
    /// The list could not be asked; the text says why, for the one who must act.
    Unsure(String),
    /// No answer without waiting for a lock or reading a whole file anew. Only a list that was
    /// told not to wait says so; ask one that may.
    Busy,
}

/// A state of a list: as long as the list is in it, it says the same of every name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    opening: u64,
    state: u64,
    written: i64,
}

impl Revision {
    /// A state that comes up once in the time of an [`opening`](Self::opening).
    pub(crate) const fn new(opening: u64, state: u64) -> Self {
        Self { opening, state, written: 0 }
    }

    /// The same of a file that was written to, by whomever, at this time of any clock.
    pub(crate) const fn written(self, written: i64) -> Self {
        Self { written, ..self }
    }

    /// A number for what has just been opened, which nothing else has in this process.
    pub(crate) fn opening() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Relaxed)
    }
}

/// A mailbox list: Cyrus' `mailboxes.db` or a replica of it.
///
/// Shared by threads; an implementation looks up concurrently.
pub trait MailboxList: Send + Sync {
    /// Looks one mailbox up.
    fn lookup(&self, name: &MailboxName) -> Lookup;

    /// The same, and whether the name changed a moment ago, as far as the list knows: what it says of
    /// it may then be about to change again.
    fn lookup_dated(&self, name: &MailboxName) -> (Lookup, bool) {
        (self.lookup(name), false)
    }

    /// The state in which a lookup that finds something would find it now, or an older one than
    /// that; `None`: not to be told without more ado.
    fn moment(&self) -> Option<Revision> {
        None
    }

    /// The generation of its keys, as far as that is known without reading the list.
    fn key_generation(&self) -> Option<KeyGeneration> {
        None
    }

    /// Whether the owner of this INBOX takes no mail now, whatever the record says (`cyr_deny`).
    fn denies(&self, _inbox: &MailboxName) -> bool {
        false
    }

    /// Calls `visit` for every mailbox whose internal name begins with `prefix` (all, if empty), in
    /// no particular order, until it breaks. `Err` says why the list could not be read to its end.
    fn each(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> ControlFlow<()>,
    ) -> Result<(), String>;

    /// The same, past names that do not matter: a list in order does not read them. `visit` may be shown
    /// a name twice, or one that it wanted to pass, and must not ask this list.
    fn each_past(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&MailboxName, &Record) -> Step,
    ) -> Result<(), String> {
        self.each(prefix, &mut |name, record| match visit(name, record) {
            Step::Stop => ControlFlow::Break(()),
            Step::On | Step::Past(_) => ControlFlow::Continue(()),
        })
    }
}

/// Where a walk goes from a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// To the next one.
    On,
    /// Past all that begin with that many bytes of the name.
    Past(usize),
    /// Nowhere.
    Stop,
}

impl From<ControlFlow<()>> for Step {
    fn from(flow: ControlFlow<()>) -> Self {
        match flow {
            ControlFlow::Continue(()) => Step::On,
            ControlFlow::Break(()) => Step::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, generation: KeyGeneration) -> Vec<u8> {
        let mut key = Vec::new();
        MailboxName::new(name).unwrap().push_key(generation, &mut key);
        key
    }

    #[test]
    fn keys_of_both_generations_are_what_cyrus_writes() {
        // Seen in files of 3.2.6, 3.6.1 and 3.12.4.
        let table: &[(&str, &[u8])] = &[
            ("user.jane", b"Nuser\x1fjane"),
            ("user.jane^doe.Sent Items", b"Nuser\x1fjane.doe\x1fSent Items"),
            ("example.org!user.bob", b"Nexample.org\x1duser\x1fbob"),
            ("news.comp", b"Nnews\x1fcomp"),
            ("DELETED.user.old.5F000000", b"NDELETED\x1fuser\x1fold\x1f5F000000"),
        ];
        for (name, separated) in table {
            assert_eq!(key(name, KeyGeneration::Separated), *separated);
            assert_eq!(key(name, KeyGeneration::Internal), name.as_bytes());
            for (generation, key) in
                [(KeyGeneration::Separated, *separated), (KeyGeneration::Internal, name.as_bytes())]
            {
                let read = MailboxName::from_key(generation, key).unwrap();
                assert_eq!(read.as_bytes(), name.as_bytes());
            }
        }
    }

    #[test]
    fn rows_that_are_no_mailboxes_have_no_name() {
        for key in [&b"$RACL"[..], b"$RACL$U$jane$user.bob", b"$RUNQ$1"] {
            assert_eq!(MailboxName::from_key(KeyGeneration::Internal, key), None);
        }
        for key in [&b"AS\x1e"[..], b"I5e3c1a", b"Jjane.x", b"N"] {
            assert_eq!(MailboxName::from_key(KeyGeneration::Separated, key), None);
        }
    }

    #[test]
    fn a_name_is_shown_as_it_is_unless_it_could_fool_who_reads_it() {
        let shown = |name: &[u8]| MailboxName::new(name).unwrap().to_string();
        assert_eq!(shown(b"user.jane^doe.Sent Items"), "user.jane^doe.Sent Items");
        let all: Vec<u8> = (0..=u8::MAX).filter(|b| !matches!(b, b'!' | ..=0x1f | 0x7f)).collect();
        for b in &all {
            assert_eq!(shown(&[b'a', *b]), [b'a', *b].escape_ascii().to_string());
        }
        assert_eq!(shown(&all), all.escape_ascii().to_string());
    }

    #[test]
    fn a_name_that_would_forge_a_key_is_refused() {
        assert_eq!(MailboxName::new("user.a\x1fb"), Err(BadName::Control));
        assert_eq!(MailboxName::new("a!user.b!c"), Err(BadName::Bang));
        assert_eq!(MailboxName::new("example.org!"), Err(BadName::Empty));
        assert_eq!(MailboxName::new(vec![b'a'; 511]), Err(BadName::TooLong));
    }
}
