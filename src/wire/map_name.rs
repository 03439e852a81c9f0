//! Names of the maps in the requests of mail servers.

/// Map that answers any key with the daemon's state, in JSON. No other map can have this name.
pub const STATUS_MAP: &str = "status";

/// Map that Postfix' smtpd asks at RCPT. The recipient has been folded to lower case.
pub const RCPT_MAP: &str = "rcpt";

/// Map that Sendmail asks right before delivery. Its name is that of a map in sendmail.cf, which
/// cannot have hyphens.
pub const SENDMAIL_NOW: &str = "sendmail_now";

/// Map with the whole decision, for programs.
pub const DECISION_MAP: &str = "decision";

/// Names of the built-in maps.
pub const BUILT_IN: [&str; 9] = [
    "lmtp",
    "recipient",
    "host",
    RCPT_MAP,
    "canonical",
    "exim",
    "sendmail",
    SENDMAIL_NOW,
    DECISION_MAP,
];

/// Whether the name is that of a built-in map or of [`STATUS_MAP`].
pub fn is_built_in(name: &str) -> bool {
    name == STATUS_MAP || BUILT_IN.contains(&name)
}
