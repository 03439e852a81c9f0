//! Names of the maps, which a mail server puts into its requests.

/// Name under which the daemon answers with its state, in JSON, whatever the key. No map can have it.
pub const STATUS_MAP: &str = "status";

/// The map that Postfix' smtpd asks at RCPT, by a recipient that it has folded to lower case.
pub const RCPT_MAP: &str = "rcpt";

/// The map that Sendmail asks right before it delivers. Its name is that of a map in sendmail.cf,
/// which has no hyphens.
pub const SENDMAIL_NOW: &str = "sendmail_now";

/// The map with the whole decision, for programs.
pub const DECISION_MAP: &str = "decision";

/// Names of the maps that always exist.
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

/// Whether a map has this name, or the state of the daemon.
pub fn is_built_in(name: &str) -> bool {
    name == STATUS_MAP || BUILT_IN.contains(&name)
}
