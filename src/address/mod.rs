//! Recipient to mailbox name, as Cyrus' `lmtpd` decides it.
//!
//! [`Recipient::parse`] takes an address apart, [`Rules`] (the options of `imapd.conf` that matter)
//! make a mailbox name of it. Nothing here looks at a mailbox list, with one exception that is fed
//! by the caller: [`Fuzzy`], the search for a shared folder of nearly the wanted name.
//!
//! Where this differs from `lmtpd`, `docs/lmtpd.md` lists it with the reason. The facts are in
//! `imap/lmtpengine.c` (`parseaddr`, `process_recipient`), `imap/lmtpd.c` (`verify_user`,
//! `fuzzy_match`) and `imap/mboxname.c` (`mbname_from_recipient`, `mbname_intname`) of Cyrus 2.2 to
//! 3.13.

mod autocreate;
mod explain;
mod fuzzy;
mod recipient;
mod rules;

pub use autocreate::Autocreate;
pub use fuzzy::Fuzzy;
pub use recipient::Recipient;
pub use rules::{Kind, NoTarget, Release, Rules, Target};
