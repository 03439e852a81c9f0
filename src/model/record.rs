//! Records of the mailbox list.

use crate::model::name::MailboxName;

/// State of a mailbox, as its record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The mailbox exists and accepts mail.
    Active,
    /// Being created, renamed or moved; the master has only its name (MUPDATE RESERVE).
    Reserved,
    /// Being moved away from the server of the record.
    Moving,
    /// A tombstone.
    Deleted,
    /// Not a mailbox, only a name with mailboxes below it (Cyrus 3.2 and later).
    Intermediate,
}

impl State {
    /// Whether the name belongs to a mailbox, also to one that is reserved or moving.
    pub const fn exists(self) -> bool {
        match self {
            State::Active | State::Reserved | State::Moving => true,
            State::Deleted | State::Intermediate => false,
        }
    }

    /// Whether the mailbox is reserved or moving: its state changes again within minutes.
    pub const fn is_transient(self) -> bool {
        matches!(self, State::Reserved | State::Moving)
    }

    /// Name in `dump --json`.
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

/// Rights of unauthenticated users on a mailbox: those of `anyone` and `anonymous`,
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
    /// State of the mailbox.
    pub state: State,
    /// The backend that holds it, by its own name (`servername`), sometimes with a
    /// `:port`; `None` for a mailbox of this host. `lmtpd` calls a mailbox remote exactly if its
    /// record has a server.
    pub server: Option<String>,
    /// The partition on that backend; may be empty (seen shortly after a RENAME).
    pub partition: String,
    /// Rights of unauthenticated users.
    pub anonymous: AnonymousRights,
}

impl Record {
    /// Whether nothing in the record is a reason to refuse mail to `name` for good: the mailbox exists,
    /// and the unauthenticated may post to it if it is a shared folder.
    pub fn accepts_mail(&self, name: &MailboxName) -> bool {
        self.state.exists() && (self.anonymous.post || !name.is_shared())
    }
}
