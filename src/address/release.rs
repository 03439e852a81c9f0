//! Families of Cyrus releases.

use std::fmt;

/// Family of Cyrus releases with common mailbox names and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// 2.2 to 2.4.
    V2_4,
    /// 2.5: `lmtp_downcase_rcpt` is on by default, and `lmtp_catchall_mailbox` exists.
    V2_5,
    /// 3.0 to 3.4: `unixhierarchysep` is on by default, the hierarchy separator does not matter in a
    /// user, and quotes around a local part are kept.
    V3_0,
    /// 3.6 to 3.12: the keys of `mailboxes.db` changed; the names are those of 3.0.
    V3_6,
    /// From 3.13: the fuzzy match does not select siblings (3.13.1, `41b5144dc4`).
    V3_13,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Release::V2_4 => "2.2 to 2.4",
            Release::V2_5 => "2.5",
            Release::V3_0 => "3.0 to 3.4",
            Release::V3_6 => "3.6 to 3.12",
            Release::V3_13 => "3.13 and later",
        })
    }
}
