//! The answer at RCPT, for mail servers that ask whether to take a recipient and not where it goes.

/// What the mail server is to do with a recipient. [`policy`](super::policy) and
/// [`milter`](super::milter) put it into their words.
///
/// The texts go to the sender: each begins with an enhanced status code (RFC 3463) of the class of
/// its variant and is one line of printable ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtRcpt {
    /// Nothing speaks against it: the mail server's other rules decide.
    Pass,
    /// Not now: `4.x.y text`.
    Defer(&'static str),
    /// Never: `5.x.y text`.
    Reject(&'static str),
}

impl AtRcpt {
    /// When no answer can be had: the mail server logs the text as well, so it is the one that
    /// Postfix itself has for this.
    pub const FAILED: Self = AtRcpt::Defer("4.3.0 Temporary lookup failure");
}
