//! Parser of recipient addresses.

use std::borrow::Cow;
use std::fmt;

use crate::model::domains::a_labels;

/// Maximum length of a recipient, in bytes, which is that of a socketmap request. RFC 5321 §4.5.3.1
/// allows 64 + 1 + 255, but mail servers accept more (Postfix: `line_length_limit`, 2,048), and
/// `lmtpd` drops a detail of any length if there is no folder of its name.
pub(super) const MAX_KEY: usize = 10_000;

/// A recipient, as named in a lookup of a mail server.
///
/// Borrows from the key; only unquoting and upper case in the domain cause a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient<'a> {
    local: Cow<'a, [u8]>,
    domain: Option<Cow<'a, [u8]>>,
    typed_domain: Option<&'a [u8]>,
    /// Position of the first `+` in the local part.
    plus: Option<usize>,
    quotes: bool,
}

/// Reason why a key is not a recipient. No mail server delivers to such a key, so the answer is "not
/// found" and never "unknown user".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecipient {
    /// The empty key.
    #[error("empty recipient")]
    Empty,
    /// The bare `*`, with which Postfix looks up a default route (`transport(5)`).
    #[error("`*` is the mail server's question for a default route, no recipient")]
    Wildcard,
    /// Longer than [`MAX_KEY`].
    #[error("recipient longer than {MAX_KEY} bytes")]
    TooLong,
    /// A control character, NUL included.
    #[error("control character in the recipient")]
    Control,
    /// `@domain`: a lookup of a whole domain.
    #[error("nothing before the `@`")]
    NoLocalPart,
}

impl<'a> Recipient<'a> {
    /// Parses a key.
    ///
    /// The key is in external form (`"jane doe"@example.org`, RFC 5321 quoting) or in the mail
    /// server's internal form (`jane doe@example.org`). Postfix tries the external form first and
    /// the internal one if the first is not found; here both have the same result. The domain begins
    /// after the last `@`; it may be missing. A source route (`@relay:jane@example.org`) is dropped,
    /// as in `lmtpd`.
    pub fn parse(key: &'a [u8]) -> Result<Self, BadRecipient> {
        match key {
            b"" => return Err(BadRecipient::Empty),
            b"*" => return Err(BadRecipient::Wildcard),
            _ if key.len() > MAX_KEY => return Err(BadRecipient::TooLong),
            // No early exit, so that the loop is vectorised.
            _ if key.iter().fold(false, |met, b| met | b.is_ascii_control()) => {
                return Err(BadRecipient::Control);
            }
            _ => {}
        }
        let key = match key.first() {
            Some(b'@') => memchr::memchr(b':', key).map_or(key, |colon| &key[colon + 1..]),
            _ => key,
        };
        let (local, domain) = match quoted_end(key) {
            Some(end) => (Cow::Owned(unescape(&key[1..end])), key.get(end + 2..)),
            None => {
                // For text as short as addresses, a vectorised search is slower.
                let (local, domain) = match key.iter().rposition(|b| *b == b'@') {
                    Some(at) => (&key[..at], Some(&key[at + 1..])),
                    None => (key, None),
                };
                if local.is_empty() {
                    return Err(BadRecipient::NoLocalPart);
                }
                match local.contains(&b'\\') {
                    true => (Cow::Owned(unescape(local)), domain),
                    false => (Cow::Borrowed(local), domain),
                }
            }
        };
        let quotes = local.is_empty() || local.iter().any(|b| !stands_unquoted(*b));
        let plus = local.iter().position(|b| *b == b'+');
        let folded = domain.map(|domain| match a_labels(domain) {
            Some(folded) => folded,
            None => Cow::Borrowed(domain),
        });
        // lmtpd does not accept U-labels, so they are never returned.
        let typed_domain = domain.filter(|domain| domain.is_ascii());
        Ok(Self { local, domain: folded, typed_domain, plus, quotes })
    }

    /// Returns the local part with its detail, without quotes and backslashes, in its original case.
    pub fn local(&self) -> &[u8] {
        &self.local
    }

    /// Returns the local part before the first `+`.
    pub fn user(&self) -> &[u8] {
        self.split().0
    }

    /// Returns the part of the local part after the first `+`.
    pub fn detail(&self) -> Option<&[u8]> {
        self.split().1
    }

    /// Returns the domain in lower case, an IDN as A-label; unchanged if it is not a domain. `None`:
    /// there is no `@`.
    pub fn domain(&self) -> Option<&[u8]> {
        self.domain.as_deref()
    }

    /// Returns the domain in its original case, an IDN as A-label.
    pub fn typed_domain(&self) -> Option<&[u8]> {
        self.typed_domain.or(self.domain())
    }

    /// Whether `lmtpd` accepts the local part only in quotes. Unnecessary quotes do not count:
    /// `"jane"` and `jane` are equivalent (RFC 5321 §4.1.2).
    pub fn needs_quotes(&self) -> bool {
        self.quotes
    }

    fn split(&self) -> (&[u8], Option<&[u8]>) {
        match self.plus {
            Some(plus) => (&self.local[..plus], Some(&self.local[plus + 1..])),
            None => (&self.local, None),
        }
    }
}

/// Writes the external form, quoted where RFC 5321 requires it.
impl fmt::Display for Recipient<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(self.local.len() + 2);
        push_quoted(&self.local, self.domain.is_none(), &mut text);
        if let Some(domain) = &self.domain {
            text.push(b'@');
            text.extend_from_slice(domain);
        }
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Appends a local part, in quotes if it is no `Dot-string` (RFC 5321 §4.1.2), or if it is `*`
/// without a domain, because Postfix uses that key to test whether a table matches everything.
pub(super) fn push_quoted(local: &[u8], is_alone: bool, to: &mut Vec<u8>) {
    if is_dot_string(local) && !(is_alone && local == b"*") {
        to.extend_from_slice(local);
        return;
    }
    to.push(b'"');
    for b in local {
        if matches!(b, b'"' | b'\\') {
            to.push(b'\\');
        }
        to.push(*b);
    }
    to.push(b'"');
}

/// Whether a local part is a `Dot-string` (RFC 5321 §4.1.2), which needs no quotes.
pub(super) fn is_dot_string(local: &[u8]) -> bool {
    local.split(|b| *b == b'.').all(|atom| !atom.is_empty() && atom.iter().all(|b| atext(*b)))
}

/// Whether the byte is `atext` of RFC 5321 or an 8-bit character of RFC 6531.
fn atext(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b) || b >= 0x80
}

/// Whether `parseaddr` accepts the byte in an unquoted local part. It is more lenient than RFC 5321:
/// dots may stand anywhere. (The rules judge 8-bit characters, not this function.)
fn stands_unquoted(b: u8) -> bool {
    let special = matches!(
        b,
        b'<' | b'>' | b'(' | b')' | b'[' | b']' | b'\\' | b',' | b';' | b':' | b'"' | b'@'
    );
    b > b' ' && !special
}

/// Returns the position of the closing quote of a well-formed quoted local part.
fn quoted_end(key: &[u8]) -> Option<usize> {
    if key.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        match key.get(at)? {
            b'"' => break,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    match key.get(at + 1) {
        None | Some(b'@') => Some(at),
        Some(_) => None,
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&b) = bytes.next() {
        match b {
            b'\\' => out.extend(bytes.next()),
            b => out.push(b),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed_in_both_forms() {
        // (key, user, detail, domain, needs quotes, why)
        type Row = (
            &'static str,
            &'static str,
            Option<&'static str>,
            Option<&'static str>,
            bool,
            &'static str,
        );
        let table: &[Row] = &[
            ("jane@example.org", "jane", None, Some("example.org"), false, "plain"),
            ("Jane@Example.ORG", "Jane", None, Some("example.org"), false, "only the domain folds"),
            ("jane+Work@x.org", "jane", Some("Work"), Some("x.org"), false, "detail"),
            ("jane+a+b@x.org", "jane", Some("a+b"), Some("x.org"), false, "the first + splits"),
            ("jane+@x.org", "jane", Some(""), Some("x.org"), false, "empty detail"),
            ("+shared/info@x.org", "", Some("shared/info"), Some("x.org"), false, "shared folder"),
            ("jane", "jane", None, None, false, "no domain"),
            ("jane@", "jane", None, Some(""), false, "empty domain"),
            ("jane..doe.@x.org", "jane..doe.", None, Some("x.org"), false, "lmtpd takes any dots"),
            (
                "\"jane..doe\"@x.org",
                "jane..doe",
                None,
                Some("x.org"),
                false,
                "so they need no quotes",
            ),
            ("\"jane\"@x.org", "jane", None, Some("x.org"), false, "needless quotes"),
            ("\"ja\\ne\"@x.org", "jane", None, Some("x.org"), false, "needless backslash"),
            ("\"jane+x\"@x.org", "jane", Some("x"), Some("x.org"), false, "detail in quotes"),
            ("\"jane doe\"@x.org", "jane doe", None, Some("x.org"), true, "external form"),
            ("jane doe@x.org", "jane doe", None, Some("x.org"), true, "the same, internal form"),
            ("\"a\\\"b\\\\c\"@x.org", "a\"b\\c", None, Some("x.org"), true, "escapes"),
            ("\"a@b\"@x.org", "a@b", None, Some("x.org"), true, "an @ in quotes"),
            ("a@b@x.org", "a@b", None, Some("x.org"), true, "the last @ splits"),
            ("\"jane", "\"jane", None, None, true, "no closing quote: internal form"),
            ("\"jane\\\"", "\"jane\"", None, None, true, "the closing quote is escaped"),
            ("\"a\"b@x.org", "\"a\"b", None, Some("x.org"), true, "more after the quote"),
            ("\"\"@x.org", "", None, Some("x.org"), true, "empty, in quotes"),
            ("\"jane doe\"", "jane doe", None, None, true, "quoted, no domain"),
            ("@a.org,@b.org:jane@x.org", "jane", None, Some("x.org"), false, "source route"),
            ("jane@[127.0.0.1]", "jane", None, Some("[127.0.0.1]"), false, "address literal"),
            (
                "jane@M\u{dc}nchen.example",
                "jane",
                None,
                Some("xn--mnchen-3ya.example"),
                false,
                "a U-label is its A-label",
            ),
            ("*@x.org", "*", None, Some("x.org"), false, "only the bare * is the wildcard"),
        ];
        for (key, user, detail, domain, quotes, why) in table {
            let parsed = Recipient::parse(key.as_bytes()).unwrap();
            assert_eq!(parsed.user(), user.as_bytes(), "{key}: {why}");
            assert_eq!(parsed.detail(), detail.map(str::as_bytes), "{key}: {why}");
            assert_eq!(parsed.domain(), domain.map(str::as_bytes), "{key}: {why}");
            assert_eq!(parsed.needs_quotes(), *quotes, "{key}: {why}");
        }
    }

    #[test]
    fn invalid_recipients_are_distinguished() {
        let long = vec![b'a'; MAX_KEY + 1];
        let table: &[(&[u8], BadRecipient)] = &[
            (b"", BadRecipient::Empty),
            (b"*", BadRecipient::Wildcard),
            (&long, BadRecipient::TooLong),
            (b"ja\0ne@x.org", BadRecipient::Control),
            (b"\"ja\x1fne\"@x.org", BadRecipient::Control),
            (b"jane@x.org\n", BadRecipient::Control),
            (b"@x.org", BadRecipient::NoLocalPart),
            (b"@", BadRecipient::NoLocalPart),
        ];
        for (key, error) in table {
            assert_eq!(Recipient::parse(key), Err(*error), "{}", key.escape_ascii());
        }
        assert!(Recipient::parse(&long[..MAX_KEY]).is_ok());
    }

    #[test]
    fn recipient_is_quoted_where_rfc_5321_requires_it() {
        let table = [
            ("Jane+Work@Example.org", "Jane+Work@example.org"),
            ("\"jane\"@x.org", "jane@x.org"),
            ("jane..doe@x.org", "\"jane..doe\"@x.org"),
            (".jane@x.org", "\".jane\"@x.org"),
            ("jane doe@x.org", "\"jane doe\"@x.org"),
            ("\"a\\\"b\\\\c\"@x.org", "\"a\\\"b\\\\c\"@x.org"),
            ("jane", "jane"),
        ];
        for (key, written) in table {
            assert_eq!(Recipient::parse(key.as_bytes()).unwrap().to_string(), written);
        }
    }

    proptest::proptest! {
        // A backend gets the written form: parsed again, it must be the same recipient.
        #[test]
        fn written_recipient_reads_back_unchanged(key in "[ -~]{1,40}") {
            if let Ok(parsed) = Recipient::parse(key.as_bytes())
                && parsed.domain().is_none_or(|domain| !domain.contains(&b'@'))
                && let written = parsed.to_string()
                // A bare `*` is a recipient only in quotes, which are needed only without a domain.
                && written != "*"
            {
                let again = Recipient::parse(written.as_bytes()).unwrap();
                proptest::prop_assert_eq!(again.local(), parsed.local());
                proptest::prop_assert_eq!(again.domain(), parsed.domain());
            }
        }

        #[test]
        fn no_key_panics(key in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            let _ = Recipient::parse(&key);
        }
    }
}
