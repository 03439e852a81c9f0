//! Conversion of a recipient to a mailbox name, as in Cyrus' `lmtpd`.
//!
//! [`Recipient::parse`] parses an address; [`Rules`], the options of `imapd.conf`, convert it to a
//! mailbox name. Nothing here reads a mailbox list. [`Fuzzy`], the search for a shared folder with a
//! similar name, gets the names from its caller.
//!
//! `docs/lmtpd.md` lists the differences from `lmtpd` with their reasons. The sources are
//! `imap/lmtpengine.c` (`parseaddr`, `process_recipient`), `imap/lmtpd.c` (`verify_user`,
//! `fuzzy_match`) and `imap/mboxname.c` (`mbname_from_recipient`, `mbname_intname`) of Cyrus 2.2 to
//! 3.13.

mod autocreate;
mod canonical;
mod explain;
mod fuzzy;
mod recipient;
mod release;
mod rules;
mod target;

pub use autocreate::Autocreate;
pub use fuzzy::Fuzzy;
pub use recipient::Recipient;
pub use release::Release;
pub use rules::Rules;
pub use target::{NoTarget, Target, TargetKind};
