//! Records of the mailbox list.

use crate::model::name::MailboxName;

/// State of a mailbox in its record.
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
    /// Whether the name belongs to a mailbox, reserved and moving ones included.
    pub const fn exists(self) -> bool {
        match self {
            State::Active | State::Reserved | State::Moving => true,
            State::Deleted | State::Intermediate => false,
        }
    }

    /// Whether the mailbox is reserved or moving, so that its state changes again within minutes.
    pub const fn is_transient(self) -> bool {
        matches!(self, State::Reserved | State::Moving)
    }

    /// Returns the name in `dump --json`.
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

/// Rights of unauthenticated users on a mailbox: those of `anyone` and `anonymous`, less the
/// negative ones (Cyrus `lib/acl_afs.c`, `cyrus_acl_myrights`). They matter for shared folders only;
/// mail to an INBOX needs no right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnonymousRights {
    /// Right `l`: the existence of the mailbox is visible.
    pub lookup: bool,
    /// Right `p`: mail may be posted.
    pub post: bool,
}

/// One record of the mailbox list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// State of the mailbox.
    pub state: State,
    /// Backend with the mailbox, by its own name (`servername`), sometimes with a `:port`; `None`
    /// for a mailbox of this host. `lmtpd` treats a mailbox as remote exactly if its record has a
    /// server.
    pub server: Option<String>,
    /// Partition on that backend; may be empty (observed shortly after a RENAME).
    pub partition: String,
    /// Rights of unauthenticated users.
    pub anonymous: AnonymousRights,
}

impl Record {
    /// Whether the record gives no permanent reason to refuse mail to `name`: the mailbox exists,
    /// and unauthenticated users may post to it if it is a shared folder.
    pub fn accepts_mail(&self, name: &MailboxName) -> bool {
        self.state.exists() && (self.anonymous.post || !name.is_shared())
    }
}
