//! Verdict at RCPT, for mail servers that check recipients.

use std::borrow::Cow;

/// Action of the mail server for a recipient. [`policy`](super::policy) and [`milter`](super::milter)
/// encode it.
///
/// The texts are sent to the client. Each begins with an enhanced status code (RFC 3463) of the
/// class of its variant and is one line of printable ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RcptVerdict {
    /// No objection: the other rules of the mail server decide.
    Pass,
    /// Temporary refusal: `4.x.y text`.
    Defer(&'static str),
    /// Permanent refusal: `5.x.y text`.
    Reject(&'static str),
}

impl RcptVerdict {
    /// Verdict without an answer. The mail server logs the text, so it is the one that Postfix has
    /// for this case.
    pub const FAILED: Self = RcptVerdict::Defer("4.3.0 Temporary lookup failure");
}

/// Rewrites a typed recipient as Postfix does (`trivial-rewrite/rewrite.c:rewrite_tree`; Sendmail's
/// rule set 3 is similar): `site!user` and `user%site` without an `@` become `user@site`
/// (`swap_bangpath`, `allow_percent_hack`), and a final dot of the domain is dropped.
pub fn rewritten(typed: &[u8]) -> Cow<'_, [u8]> {
    let mut recipient = Cow::Borrowed(typed);
    if last_unquoted(typed, b'@').is_none() {
        if let Some((site, user)) = split_at(typed, first_unquoted(typed, b'!')) {
            recipient = Cow::Owned([user, b"@", site].concat());
        } else if let Some((user, site)) = split_at(typed, last_unquoted(typed, b'%')) {
            recipient = Cow::Owned([user, b"@", site].concat());
        }
    }
    if let [head @ .., before, b'.'] = &*recipient
        && !matches!(before, b'.' | b'@')
        && last_unquoted(&recipient, b'@').is_some()
    {
        let length = head.len() + 1;
        match &mut recipient {
            Cow::Borrowed(bytes) => *bytes = bytes.get(..length).unwrap_or_default(),
            Cow::Owned(bytes) => bytes.truncate(length),
        }
    }
    recipient
}

fn split_at(text: &[u8], at: Option<usize>) -> Option<(&[u8], &[u8])> {
    let (before, rest) = text.split_at_checked(at?)?;
    Some((before, rest.get(1..)?))
}

fn first_unquoted(text: &[u8], wanted: u8) -> Option<usize> {
    unquoted(text).find(|(_, b)| *b == wanted).map(|(at, _)| at)
}

fn last_unquoted(text: &[u8], wanted: u8) -> Option<usize> {
    unquoted(text).filter(|(_, b)| *b == wanted).last().map(|(at, _)| at)
}

/// Returns the bytes that are neither in quotes nor after a backslash, with their positions.
fn unquoted(text: &[u8]) -> impl Iterator<Item = (usize, u8)> + '_ {
    let (mut quoted, mut escaped) = (false, false);
    text.iter().enumerate().filter_map(move |(at, b)| {
        if std::mem::take(&mut escaped) {
            return None;
        }
        match b {
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if !quoted => return Some((at, *b)),
            _ => {}
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_rewritten_as_by_postfix() {
        for (typed, meant) in [
            ("jane@example.org", "jane@example.org"),
            ("jane@example.org.", "jane@example.org"),
            ("jane@example.org..", "jane@example.org.."),
            ("jane@.", "jane@."),
            ("jane.", "jane."),
            ("example.org!jane", "jane@example.org"),
            ("example.org.!jane+x", "jane+x@example.org"),
            ("a.example!b.example!jane", "b.example!jane@a.example"),
            ("example.org!jane@example.net", "example.org!jane@example.net"),
            ("jane%example.org", "jane@example.org"),
            ("jane%x%example.org.", "jane%x@example.org"),
            ("jane%x@example.org", "jane%x@example.org"),
            ("example.org!jane%x", "jane%x@example.org"),
            ("\"a!b\"@example.org.", "\"a!b\"@example.org"),
            ("\"a@b\"%example.org", "\"a@b\"@example.org"),
            ("a\\@b!example.org", "example.org@a\\@b"),
            ("!jane", "jane@"),
            ("", ""),
            (".", "."),
            ("@", "@"),
        ] {
            let seen = rewritten(typed.as_bytes());
            assert_eq!(String::from_utf8_lossy(&seen), meant, "{typed}");
        }
    }
}
